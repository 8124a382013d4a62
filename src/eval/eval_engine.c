/* What a measurement needs: hook points and ablations that coders share, places in the arena of
 * sums, the choice of pictures, buffers. */
#include "eval_impl.h"

#include <string.h>

/* Entries of dense codes that are held at once. */
enum { DENSE_CAPACITY = 1 << 22 };

/* ---- which pictures ---------------------------------------------------------------------------
 */

/* At most `most` (0: all) of the split, by a keyed permutation, in rising order. */
static rf_status choose_pictures(rf_eval_engine *e, int64_t most)
{
    rf_status status = RF_OK;
    const int64_t n = rf_picture_list_n(e->job->pictures, e->split);
    uint8_t *is_chosen = NULL;

    e->n_chosen = most == 0 ? n : rf_min_i64(n, most);
    RF_ALLOC(is_chosen, n);
    RF_ALLOC(e->chosen, e->n_chosen);
    for (int64_t i = 0; i < e->n_chosen; i++) {
        is_chosen[rf_permute(e->job->seed, RF_RANDOM_EVAL_SAMPLE, (uint64_t)e->split, 0, n, i)] = 1;
    }
    for (int64_t i = 0, at = 0; i < n; i++) {
        if (is_chosen[i] != 0) {
            e->chosen[at++] = i;
        }
    }
fail:
    rf_free(is_chosen);
    return status;
}

/* Micro-batch g goes to rank g mod size. */
static rf_status deal_pictures(rf_eval_engine *e)
{
    rf_status status = RF_OK;
    const int64_t rank = rf_comm_rank(e->job->comm), size = rf_comm_size(e->job->comm);

    e->n_groups = rf_ceil_div(e->n_chosen, e->batch);
    RF_ALLOC(e->local, e->n_chosen);
    RF_ALLOC(e->local_first, e->n_groups + 1);
    for (int64_t g = rank; g < e->n_groups; g += size) {
        const int64_t first = g * e->batch;
        const int64_t n = rf_min_i64(e->batch, e->n_chosen - first);
        memcpy(e->local + e->n_local, e->chosen + first, (size_t)n * sizeof *e->local);
        e->n_local += n;
        e->local_first[++e->n_local_groups] = e->n_local;
    }
fail:
    return status;
}

/* ---- which hook points ------------------------------------------------------------------------
 */

static rf_status read_tokens(void *user, const rf_hook_point *point, const rf_view *act,
                             rf_stream *s)
{
    rf_status status = RF_OK;
    const rf_eval_site *site = user;
    const int64_t n = rf_view_n_elems(act);

    RF_BUG(n % (site->n_positions * site->width) == 0,
           "%s holds %" PRId64 " values, expected some times %" PRId64 " x %" PRId64, point->name,
           n, site->n_positions, site->width);
    RF_TRY(rf_copy_within(s, site->act, act->data, (size_t)n * sizeof *site->act));
fail:
    return status;
}

static rf_status read_resid(void *user, const rf_hook_point *point, const rf_view *act,
                            rf_stream *s)
{
    const rf_eval_site *site = user;
    (void)point;
    return rf_copy_within(s, site->resid, act->data, (size_t)rf_view_n_elems(act) * sizeof(float));
}

/* Swapped passes begin at the block of the site: what lies before it does not change. */
static rf_status add_resid(rf_eval_engine *e, rf_eval_site *site)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = rf_vit_get_config(e->job->vit);
    char name[RF_NAME_LEN];
    rf_hook *read = &e->reads[e->n_reads];

    if (!e->job->settings.substitution || site->point.layer < 0 ||
        site->point.layer >= c->n_layers) {
        return RF_OK;
    }
    RF_TRY(rf_format(name, sizeof name, "blocks.%" PRId64 ".hook_resid_pre", site->point.layer));
    *read = (rf_hook){.fn = read_resid, .user = site};
    RF_TRY(rf_vit_hook_find(c, name, &read->point));
    RF_TRY(rf_memory_alloc(rf_stream_backend(e->job->stream), RF_MEMORY_DEVICE,
                           (size_t)(e->batch * c->n_tokens * c->d_model) * sizeof *site->resid,
                           (void **)&site->resid));
    e->n_reads++;
fail:
    return status;
}

/* The site of `part`, made if it is the first to read there. */
static rf_status find_site(rf_eval_engine *e, rf_eval_part *part)
{
    rf_status status = RF_OK;
    const rf_coder *coder = part->coder->coder;
    const int64_t width = part->layout.width, n_positions = part->layout.n_positions;
    int64_t i = 0;

    while (i < e->n_sites && strcmp(e->sites[i].point.name, part->coder->point.name) != 0) {
        i++;
    }
    part->site = i;
    if (i < e->n_sites) {
        return RF_OK;
    }
    rf_eval_site *site = &e->sites[e->n_sites++];
    *site = (rf_eval_site){.point = part->coder->point, .n_positions = n_positions, .width = width};
    e->reads[e->n_reads++] = (rf_hook){.point = site->point, .fn = read_tokens, .user = site};
    RF_TRY(add_resid(e, site));
    RF_TRY(rf_memory_alloc(rf_stream_backend(e->job->stream), RF_MEMORY_DEVICE,
                           (size_t)(e->batch * n_positions * width) * sizeof *site->act,
                           (void **)&site->act));
    RF_ALLOC(site->act_host, e->batch * n_positions * width);
    RF_ALLOC(site->shift, width);
    RF_TRY(rf_copy_out(e->job->stream, site->shift, rf_coder_view(coder, RF_CODER_B_DEC).data,
                       (size_t)width * sizeof *site->shift));
    RF_TRY(rf_stream_synchronise(e->job->stream));
fail:
    return status;
}

static rf_status find_ablation(rf_eval_engine *e, rf_eval_part *part)
{
    rf_status status = RF_OK;
    const rf_token_span span = part->layout.spans[RF_EVAL_ALL];
    int64_t i = 0;

    while (i < e->n_ablations &&
           (e->ablations[i].site != part->site || e->ablations[i].span.first != span.first ||
            e->ablations[i].span.count != span.count)) {
        i++;
    }
    part->ablation = i;
    if (i == e->n_ablations) {
        rf_eval_ablation *ablation = &e->ablations[e->n_ablations++];
        *ablation = (rf_eval_ablation){.site = part->site, .span = span};
        RF_ALLOC(ablation->mean, part->layout.width);
    }
fail:
    return status;
}

static rf_status init_part(rf_eval_engine *e, int64_t idx)
{
    rf_status status = RF_OK;
    const rf_eval_coder *coder = &e->job->coders[idx];
    rf_eval_part *part = &e->parts[idx];

    part->coder = coder;
    part->n_latents = rf_coder_n_latents(coder->coder);
    RF_TRY(rf_token_layout_init(rf_vit_get_config(e->job->vit), &coder->point, coder->tokens,
                                &part->layout));
    RF_REQUIRE(rf_coder_width(coder->coder) == part->layout.width,
               "a coder of width %" PRId64 ", but %s is %" PRId64 " wide",
               rf_coder_width(coder->coder), coder->point.name, part->layout.width);
    RF_ALLOC(part->fired, part->n_latents);
    RF_TRY(find_site(e, part));
    RF_TRY(find_ablation(e, part));
    e->max_rows = rf_max_i64(e->max_rows, e->batch * part->layout.spans[RF_EVAL_ALL].count);
    e->max_width = rf_max_i64(e->max_width, part->layout.width);
fail:
    if (status != RF_OK) {
        rf_error_context("coder %s", coder->name);
    }
    return status;
}

/* ---- sums and buffers -------------------------------------------------------------------------
 */

static void place_sums(rf_eval_engine *e)
{
    int64_t at = RF_SUM_HEAD;
    for (int64_t i = 0; i < e->n_sites; i++) {
        e->sites[i].sums_at = at;
        at += rf_site_sums_len(e->sites[i].n_positions, e->sites[i].width);
    }
    for (int64_t i = 0; i < e->n_ablations; i++) {
        e->ablations[i].zero_at = at;
        at += RF_SUM_SWAP;
    }
    for (int64_t i = 0; i < e->job->n_coders; i++) {
        e->parts[i].sums_at = at;
        e->parts[i].swap_at = at + RF_CODER_SUMS_LEN;
        at += RF_CODER_SUMS_LEN + RF_SUM_SWAP;
    }
    e->n_sums = at;
}

/* Room for the codes of as many rows as a coder encodes at once. */
static int64_t codes_capacity(const rf_eval_engine *e)
{
    int64_t capacity = 1;
    for (int64_t i = 0; i < e->job->n_coders; i++) {
        const rf_coder *coder = e->job->coders[i].coder;
        const int64_t n_latents = rf_coder_n_latents(coder);
        const int64_t all = e->max_rows * rf_coder_k(coder);
        const bool may_be_dense = rf_coder_architecture(coder)->may_be_dense;
        capacity = rf_max_i64(
            capacity, may_be_dense ? rf_min_i64(all, rf_max_i64(n_latents, DENSE_CAPACITY)) : all);
    }
    return capacity;
}

static rf_status device_floats(const rf_eval_engine *e, int64_t n, float **out)
{
    return rf_memory_alloc(rf_stream_backend(e->job->stream), RF_MEMORY_DEVICE,
                           (size_t)n * sizeof **out, (void **)out);
}

static rf_status init_buffers(rf_eval_engine *e)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = rf_vit_get_config(e->job->vit);
    const rf_transform *t = e->job->transform;
    const int64_t n_cells = e->max_rows * e->max_width;

    RF_TRY(device_floats(
        e, e->batch * c->n_channels * rf_transform_height(t) * rf_transform_width(t), &e->images));
    RF_TRY(device_floats(e, n_cells, &e->rows));
    RF_TRY(device_floats(e, n_cells, &e->swap));
    RF_TRY(rf_memory_alloc(rf_stream_backend(e->job->stream), RF_MEMORY_DEVICE, (size_t)e->max_rows,
                           (void **)&e->row_valid));
    RF_TRY(rf_codes_create(rf_stream_backend(e->job->stream), e->max_rows, codes_capacity(e),
                           &e->codes));
    RF_ALLOC(e->row_start, e->max_rows + 1);
    RF_ALLOC(e->latent, e->codes.capacity);
    RF_ALLOC(e->n_active, e->max_rows);
    RF_ALLOC(e->swap_host, n_cells);
    RF_ALLOC(e->row_valid_host, e->max_rows);
    RF_ALLOC(e->embedding, e->batch * c->d_out);
    RF_ALLOC(e->logits, e->batch * c->n_classes);
    if (e->job->settings.substitution) {
        RF_ALLOC(e->clean, e->n_local * c->d_out);
    }
    RF_ALLOC(e->group, e->n_sums);
    RF_ALLOC(e->total, e->n_sums);
fail:
    return status;
}

rf_status rf_eval_engine_init(rf_eval_engine *e)
{
    rf_status status = RF_OK;
    const rf_eval_settings *settings = &e->job->settings;
    const int64_t n_coders = e->job->n_coders;

    RF_REQUIRE(n_coders >= 1, "n_coders = %" PRId64 ", expected >= 1", n_coders);
    RF_REQUIRE(settings->micro_batch >= 1, "micro_batch = %" PRId64 ", expected >= 1",
               settings->micro_batch);
    e->batch = settings->micro_batch;
    RF_TRY(choose_pictures(e, e->split == RF_SPLIT_HELD_OUT ? settings->max_held_out
                                                            : settings->max_trained_on));
    RF_TRY(deal_pictures(e));
    RF_ALLOC(e->parts, n_coders);
    RF_ALLOC(e->sites, n_coders);
    RF_ALLOC(e->reads, 2 * n_coders);
    RF_ALLOC(e->ablations, n_coders);
    for (int64_t i = 0; i < n_coders; i++) {
        RF_TRY(init_part(e, i));
    }
    place_sums(e);
    RF_TRY(init_buffers(e));
fail:
    return status;
}

static void free_parts(rf_eval_engine *e, rf_backend *be)
{
    for (int64_t i = 0; i < e->n_sites; i++) {
        rf_memory_free(be, RF_MEMORY_DEVICE, e->sites[i].act);
        rf_memory_free(be, RF_MEMORY_DEVICE, e->sites[i].resid);
        rf_free(e->sites[i].act_host);
        rf_free(e->sites[i].shift);
    }
    for (int64_t i = 0; i < e->n_ablations; i++) {
        rf_free(e->ablations[i].mean);
    }
    for (int64_t i = 0; e->parts != NULL && i < e->job->n_coders; i++) {
        rf_free(e->parts[i].fired);
    }
    rf_free(e->sites);
    rf_free(e->reads);
    rf_free(e->ablations);
    rf_free(e->parts);
}

void rf_eval_engine_fini(rf_eval_engine *e)
{
    rf_backend *be = rf_stream_backend(e->job->stream);

    rf_free(e->total);
    rf_free(e->group);
    rf_free(e->clean);
    rf_free(e->logits);
    rf_free(e->embedding);
    rf_free(e->row_valid_host);
    rf_free(e->swap_host);
    rf_free(e->n_active);
    rf_free(e->latent);
    rf_free(e->row_start);
    rf_codes_destroy(be, &e->codes);
    rf_memory_free(be, RF_MEMORY_DEVICE, e->row_valid);
    rf_memory_free(be, RF_MEMORY_DEVICE, e->swap);
    rf_memory_free(be, RF_MEMORY_DEVICE, e->rows);
    rf_memory_free(be, RF_MEMORY_DEVICE, e->images);
    free_parts(e, be);
    rf_free(e->local_first);
    rf_free(e->local);
    rf_free(e->chosen);
    *e = (rf_eval_engine){.job = NULL};
}
