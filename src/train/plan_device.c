/* What the device of a rank holds while a pass trains, and what stays on the host beside it.
 *
 * Arrays are counted as they are made: a step's for the coder that needs most of each
 * (step_space.c), pictures and rows as the stream has them (live_source.c, pool.c, reader.c). What
 * a device's operations take besides, scratch that a stream keeps at the most that one of them
 * asked for, follows from shapes:
 *
 *   products        PRODUCT_BYTES of each stream that multiplies, for the library that does it
 *   attention       scores of all heads of a group of pictures; with bf16 the rounded rows
 *   encode          a tile of products (a third of the second-level cache); with bf16 the rounded
 *                   operands; bounds by latent; of each list what may still be selected
 *   sort by latent  two keys, two places and a row of each entry, and counts by tile of entries
 *   sums            of thresholds by block of rows on the dense path, squares by latent
 */
#include "plan_impl.h"

#include <math.h>

enum {
    PRODUCT_BYTES = 32 << 20,
    EXCHANGE_BYTES = 256 << 20, /* a library that exchanges between devices, about */
    CACHE_BYTES = 128 << 20,    /* second level; no device has more today */
    CACHE_PARTS = 3,            /* of which one is for a tile of products */
    TILE_ROWS = 128,            /* its sides are multiples of these */
    TILE_LATENTS = 256,
    TILES_A_PRUNE = 4, /* of candidates that a batch's selection has room for */
    CLASS_SPARE = 4096,
    CHUNK = 128, /* entries of lists whose length nobody knows before */
    BINS = 65536,
    GROUPS_AHEAD = 4,  /* that are read while one is in work */
    IMAGE_BUFFERS = 2, /* one is filled while one is read */
};

static double up(double n, double unit)
{
    return ceil(n / unit) * unit;
}

/* ---- a step ------------------------------------------------------------------------------------
 */

void rf_plan_step_add(rf_plan_step *s, const rf_planned_coder *c, const rf_coder_cost *cost)
{
    const rf_coder_settings *set = &c->spec->coder;
    const rf_architecture *a = c->architecture;
    const bool is_archetypal = set->decoder == RF_DECODER_ARCHETYPAL;
    const double f = (double)cost->n_latents, e = (double)cost->out_width;

    s->rows = fmax(s->rows, (double)c->spec->train.batch_tokens);
    s->in = fmax(s->in, (double)cost->width);
    s->out = fmax(s->out, e);
    s->latents = fmax(s->latents, f);
    s->sites = fmax(s->sites, c->shape.n_in);
    s->gradients =
        fmax(s->gradients, cost->parameter_bytes + (is_archetypal ? sizeof(float) * f * e : 0));
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        s->entries[l] = fmax(s->entries[l], cost->entries[l]);
        s->columns[l] = fmax(s->columns[l], cost->columns[l]);
    }
    s->own_target = s->own_target || !cost->subtracts;
    s->may_be_dense = s->may_be_dense || a->may_be_dense;
    s->is_gated = s->is_gated || a->act == RF_CODER_GATED;
    s->is_batch = s->is_batch || a->rule(set) == RF_SELECT_BATCH_TOPK;
    s->has_entries = s->has_entries || a->act != RF_CODER_RELU || set->penalty_by_norm;
}

/* Rows of one of `n_ranks`: whole tiles of tokens. */
static double own_rows(double rows, int n_ranks)
{
    return fmin(rows, RF_TOKEN_TILE * ceil(ceil(rows / RF_TOKEN_TILE) / n_ranks));
}

/* rf_step_rows, with the main list of `n_main` rows. */
static double row_bytes(const rf_plan_step *s, double n, double n_main)
{
    enum { ENTRY_BYTES = 12, ROW_BYTES = 29 };
    double bytes = n * (sizeof(float) * (s->in + (s->own_target ? s->out : 0)) + ROW_BYTES);
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        bytes += n * sizeof(float) * s->columns[l];
        bytes += s->entries[l] > 0
                     ? ENTRY_BYTES * (l == RF_STEP_MAIN ? n_main : n) * s->entries[l] +
                           sizeof(int64_t) * (n + 1)
                     : 0;
    }
    return bytes;
}

double rf_plan_step_work(const rf_plan_step *s, int n_ranks)
{
    enum { LATENT_BYTES = 26 };
    const double n = s->rows, own = own_rows(n, n_ranks), n_main = s->is_batch ? n : own;
    double bytes = row_bytes(s, own, n_main) + (n_ranks > 1 ? row_bytes(s, n, n) : 0);

    bytes += own * (sizeof(float) * (s->out + 2 * s->sites) + 1);
    bytes += sizeof(float) * fmax(s->in, s->out) + LATENT_BYTES * s->latents;
    bytes += s->is_batch ? sizeof(int64_t) * BINS : 0;
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        bytes += s->entries[l] > 0
                     ? 2 * sizeof(int32_t) * n * s->entries[l] + sizeof(int64_t) * (s->latents + 1)
                     : 0;
    }
    bytes += s->has_entries ? 4 * sizeof(float) * n_main * s->entries[RF_STEP_MAIN] : 0;
    if (s->may_be_dense) {
        const double tiles = s->is_gated ? 3 : 2, tile = fmin(RF_STEP_DENSE_TILE, s->latents) + 16;
        bytes += sizeof(float) * RF_STEP_MICRO_BATCH * (2 * (s->latents + 32) + tiles * tile);
    }
    return bytes;
}

/* ---- scratch of a step -------------------------------------------------------------------------
 */

/* Chunks for n entries of `own` rows, and their chains. */
static double chunk_bytes(double n, double own)
{
    const double n_chunks = n / CHUNK + own + 1;
    return n_chunks * (8.0 * CHUNK + 8) + 24 * own;
}

static double list_bytes(rf_select_rule rule, double entries, double n, double own, double f,
                         double tile)
{
    const double exact = rf_select_is_exact(rule) ? 9 * f : 0, starts = sizeof(int64_t) * (own + 1);
    double room = entries * own;

    if (entries == 0) {
        return 0;
    }
    if (rule == RF_SELECT_TOPK) {
        room = up(fmin(f, fmax(2 * entries, entries + TILE_LATENTS)), 32);
        return exact + starts + own * (12 * room + 12);
    }
    if (rule == RF_SELECT_BATCH_TOPK) {
        room = TILES_A_PRUNE * tile + 1.5 * entries * n + RF_MAX_ROW_CLASSES * CLASS_SPARE;
        room = fmin(room, own * f);
        return exact + starts + chunk_bytes(room, own) +
               (double)RF_MAX_ROW_CLASSES * BINS * sizeof(int32_t);
    }
    return exact + starts + chunk_bytes(room, own);
}

static double encode_bytes(const rf_planned_coder *c, const rf_coder_cost *cost, double n,
                           double own)
{
    const double f = (double)cost->n_latents, d = (double)cost->width;
    const bool is_bf16 = c->spec->coder.products == RF_PRODUCTS_BF16;
    const double tile = fmin((double)CACHE_BYTES / CACHE_PARTS / sizeof(float),
                             up(own, TILE_ROWS) * up(f, TILE_LATENTS));
    const rf_select_rule rules[RF_STEP_N_LISTS] = {
        c->architecture->rule(&c->spec->coder), RF_SELECT_TOPK, RF_SELECT_TOPK, RF_SELECT_WINDOW};
    double bytes = sizeof(float) * (tile + f) + 5 * own;

    bytes += is_bf16 ? sizeof(uint16_t) * (own + f) * up(d, 8) : 0;
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        bytes += list_bytes(rules[l], cost->entries[l], n, own, f, tile);
    }
    return bytes;
}

double rf_plan_step_scratch(const rf_planned_coder *c, const rf_coder_cost *cost, int n_ranks)
{
    enum { SUM_ROWS = 64, N_SUMS = 4 };
    const double n = (double)c->spec->train.batch_tokens, own = own_rows(n, n_ranks);
    const double f = (double)cost->n_latents;
    double most = encode_bytes(c, cost, n, own);

    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        most = fmax(most, 20.25 * n * cost->entries[l] + (2 << 10));
    }
    if (c->architecture->may_be_dense) {
        most = fmax(most, sizeof(float) * N_SUMS * (RF_STEP_MICRO_BATCH / SUM_ROWS) * f);
    }
    return fmax(most, 9 * f);
}

/* Rows that start values are found from, in the pass's beginning, when the step has no scratch. */
double rf_plan_start_bytes(const rf_planned_coder *c, const rf_coder_cost *cost)
{
    const double width = (double)(cost->width + (cost->is_transcoder ? cost->out_width : 0));
    return sizeof(float) * (double)c->spec->train.sample_tokens * (2 * width + 2 * RF_MAX_SITES);
}

/* Ghost gradients of all latents: more cannot be dead. */
double rf_plan_ghost_bytes(const rf_planned_coder *c, const rf_coder_cost *cost)
{
    const double f = (double)cost->n_latents, d = (double)cost->width, e = (double)cost->out_width;
    if (c->spec->coder.ghost == RF_GHOST_NONE) {
        return 0;
    }
    return sizeof(float) * (2 * f * (d + e + 1) + RF_STEP_MICRO_BATCH * (2 * f + e)) +
           sizeof(int64_t) * f;
}

/* ---- pictures and models -----------------------------------------------------------------------
 */

static bool is_read(const rf_plan *p, const rf_plan_reading *r, int model)
{
    return p->store == NULL && r->layers[model] > -2;
}

/* A group of pictures, as the model takes them. */
static double image_bytes(const rf_plan *p, int model)
{
    const rf_vit_config *c = &p->models[model];
    return sizeof(float) * (double)p->settings->activations.group_pictures *
           (double)(c->n_channels * c->image_height * c->image_width);
}

/* Scratch of a group's forward pass. */
static double forward_scratch(const rf_plan *p, int model)
{
    const rf_vit_config *c = &p->models[model];
    const double b = (double)p->settings->activations.group_pictures, t = (double)c->n_tokens;
    const double scores = b * (double)c->n_heads * (sizeof(float) * t * t + 3 * sizeof(void *));
    const double widest = (double)rf_max_i64(c->d_mlp, rf_max_i64(c->d_model, 1));
    const double heads = (double)(c->n_heads * c->d_head);
    const bool is_bf16 = p->settings->models[model].settings.products == RF_PRODUCTS_BF16;
    const double patches =
        (double)(c->n_patches * c->n_channels * c->tubelet * c->patch_size * c->patch_size);
    const double rounded = sizeof(uint16_t) * b * fmax(t * (fmax(widest, heads) + 8), patches);
    return is_bf16 ? fmax(scores, rounded) : scores;
}

/* Buffers that a pass makes for the points that are read and not for others. */
static double on_request_bytes(const rf_plan *p, int model)
{
    const rf_vit_config *c = &p->models[model];
    const double b = (double)p->settings->activations.group_pictures;
    double bytes = 0;
    for (int64_t s = 0; s < p->n_sites; s++) {
        const rf_planned_site *site = &p->sites[s];
        if (site->model == model && site->end_row > site->first_row &&
            site->point.shape == RF_HOOK_HEAD_RESID) { /* the stream of each head, and a copy */
            bytes = 2 * sizeof(float) * b * (double)(c->n_tokens * c->n_heads * c->d_model);
        }
    }
    return bytes;
}

/* The largest block of a site, in a type that is not fp32. */
static double rounded_bytes(const rf_plan *p)
{
    const rf_dtype dtype = p->store != NULL ? rf_store_get_head(p->store)->dtype
                                            : rf_activations_dtype(&p->settings->activations);
    double most = 0;
    for (int64_t s = 0; s < p->n_sites && dtype != RF_F32; s++) {
        const rf_planned_site *site = &p->sites[s];
        most =
            fmax(most, (double)rf_dtype_bytes(dtype) * (double)(site->end_row - site->first_row) *
                           (double)site->point.width);
    }
    return most * (double)p->settings->activations.group_pictures;
}

/* Groups of a pool on the rank that has most: one more than its share; where later epochs find a
 * group where the first put it, chance deals them. */
static double pool_groups(const rf_plan *p, const rf_plan_reading *r)
{
    const rf_activations_settings *s = &p->settings->activations;
    const int64_t all = rf_min_i64(s->pool_groups, rf_ceil_div(p->n_pictures, s->group_pictures));
    const double share = ceil((double)all / p->n_ranks);
    const bool is_kept = r->epochs > 1 && (s->keep_bytes > 0 || s->source == RF_ACTIVATIONS_BOTH);
    return p->n_ranks > 1 && is_kept ? fmin((double)all, share + ceil(3 * sqrt(share))) : share;
}

/* Groups that are read ahead, in memory that copies to a device start from. */
static double ahead_bytes(const rf_plan *p, const rf_plan_reading *r)
{
    const double groups = 1 + GROUPS_AHEAD;
    double bytes = 0;
    for (int m = 0; m < p->settings->n_models; m++) {
        bytes += is_read(p, r, m) ? groups * image_bytes(p, m) / sizeof(float) : 0;
    }
    if (p->settings->activations.source != RF_ACTIVATIONS_LIVE) {
        bytes += (groups + 1) * r->site_bytes * (double)p->settings->activations.group_pictures;
    }
    return bytes;
}

void rf_plan_device_common(const rf_plan *p, const rf_plan_reading *r, rf_plan_memory *m)
{
    const rf_activations_settings *s = &p->settings->activations;
    const bool is_both = s->source == RF_ACTIVATIONS_BOTH;
    double forward = 0;

    m->pool += r->site_bytes * pool_groups(p, r) * (double)s->group_pictures;
    m->model = m->images = 0;
    for (int i = 0; i < p->settings->n_models; i++) {
        if (p->store == NULL) {
            const bool is_bf16 = p->settings->models[i].settings.products == RF_PRODUCTS_BF16;
            m->model += (is_bf16 ? 1.5 : 1) * (double)rf_vit_weight_bytes(&p->models[i]);
        }
        if (is_read(p, r, i)) {
            m->model += (double)rf_vit_workspace_bytes(&p->models[i], s->group_pictures) +
                        on_request_bytes(p, i);
            m->images += image_bytes(p, i) * (1 + IMAGE_BUFFERS / (double)sizeof(float));
            forward = fmax(forward, forward_scratch(p, i));
        }
    }
    m->images += (is_both ? 5 : 2) * rounded_bytes(p); /* twice what is copied in or out */
    m->scratch += forward;
    m->libraries = PRODUCT_BYTES * 2; /* the model's stream, and the step's */
    m->libraries += p->n_ranks > 1 ? EXCHANGE_BYTES : 0;
    m->host = m->kept + ahead_bytes(p, r);
    m->all = m->parameters + m->moments + m->gradients + m->work + m->pool + m->model + m->images +
             m->scratch + m->libraries;
}
