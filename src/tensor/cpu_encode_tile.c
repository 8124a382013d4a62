/* One tile of products: candidates of TOPK lists, entries of POSITIVE lists. */
#include "encode_impl.h"

#include <math.h>
#include <string.h>

/* The latents of a tile that a list may select, with their bounds: all of them, or a gathered few.
 */
typedef struct tile_latents {
    const float *norm, *offset_hi, *offset_lo;
    const int32_t *chosen; /* place in the tile, or NULL: all */
    int64_t n, first;
} tile_latents;

void rf_encode_begin_block(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                           int64_t n_rows)
{
    for (int l = 0; l < plan->args->n_lists; l++) {
        for (int64_t r = 0; r < n_rows; r++) {
            plan->count[l][first_row + r] = 0;
            if (plan->args->lists[l].rule == RF_SELECT_TOPK) {
                int64_t room = plan->room[l];
                work->candidates[l][r] = (rf_candidates){.lo = work->lo[l] + r * room,
                                                         .hi = work->hi[l] + r * room,
                                                         .latent = work->latent[l] + r * room,
                                                         .threshold = rf_least_positive};
            }
        }
    }
}

static tile_latents all_latents(const rf_encode_plan *plan, int64_t first, int64_t n)
{
    return (tile_latents){.norm = plan->norm + first,
                          .offset_hi = plan->offset_hi + first,
                          .offset_lo = plan->offset_lo + first,
                          .n = n,
                          .first = first};
}

static tile_latents eligible_latents(const rf_encode_plan *plan, const uint8_t *eligible,
                                     const rf_encode_work *work, int64_t first, int64_t n)
{
    int64_t count = 0;
    for (int64_t j = 0; j < n; j++) {
        if (eligible[first + j] != 0) {
            work->norm[count] = plan->norm[first + j];
            work->offset_hi[count] = plan->offset_hi[first + j];
            work->offset_lo[count] = plan->offset_lo[first + j];
            work->chosen[count++] = (int32_t)j;
        }
    }
    return (tile_latents){.norm = work->norm,
                          .offset_hi = work->offset_hi,
                          .offset_lo = work->offset_lo,
                          .chosen = work->chosen,
                          .n = count,
                          .first = first};
}

/* The products of one row with the latents of `t`. */
static const float *products_of(const tile_latents *t, const float *row, float *gathered)
{
    if (t->chosen == NULL) {
        return row;
    }
    for (int64_t j = 0; j < t->n; j++) {
        gathered[j] = row[t->chosen[j]];
    }
    return gathered;
}

static int32_t latent_of(const tile_latents *t, int64_t j)
{
    return (int32_t)(t->first + (t->chosen != NULL ? t->chosen[j] : j));
}

static rf_exact exact_of(const rf_encode_plan *plan, const rf_encode_work *work, int64_t row)
{
    const rf_encode_args *args = plan->args;
    return (rf_exact){.x = rf_row(&args->x, row),
                      .w = args->w_enc.data,
                      .bias = args->b_enc.data,
                      .w_stride = args->w_enc.stride[0],
                      .width = plan->width,
                      .work = work->exact_work};
}

/* Before a tile, a row holds so few candidates that all of the tile's could follow. */
static void make_room(const rf_encode_plan *plan, const rf_encode_work *work, int64_t row,
                      int64_t k, rf_candidates *c)
{
    if (c->n > rf_candidates_soft_limit(k)) {
        rf_candidates_prune(c, k, k / 8);
    }
    if (c->n > rf_candidates_soft_limit(k)) { /* ties, or bounds too wide to tell */
        rf_exact exact = exact_of(plan, work, row);
        rf_candidates_measure(c, c->n, &exact);
        rf_candidates_keep(c, k);
    }
}

static void add_candidates(const rf_encode_plan *plan, rf_encode_work *work, const tile_latents *t,
                           const float *p, int64_t row, int64_t k, rf_candidates *c)
{
    make_room(plan, work, row, k, c);
    float scale = plan->row_scale[row];
    int64_t n =
        rf_cpu_nominate(p, t->norm, t->offset_hi, t->n, scale, c->threshold, work->nominated);
    for (int64_t i = 0; i < n; i++) {
        int32_t j = work->nominated[i];
        c->lo[c->n] = fmaf(-scale, t->norm[j], p[j]) + t->offset_lo[j];
        c->hi[c->n] = fmaf(scale, t->norm[j], p[j]) + t->offset_hi[j];
        c->latent[c->n++] = latent_of(t, j);
    }
}

/* One more chunk for `row`, or false when none is left. */
static bool take_chunk(rf_encode_pool *pool, int64_t row, bool is_first)
{
    int64_t chunk;
#pragma omp atomic capture
    chunk = pool->n_used++;
    if (chunk >= pool->n_chunks) {
        return false;
    }
    if (is_first) {
        pool->first[row] = (int32_t)chunk;
    } else {
        pool->next[pool->last[row]] = (int32_t)chunk;
    }
    pool->last[row] = (int32_t)chunk;
    return true;
}

static void add_positive(const rf_encode_plan *plan, const tile_latents *t, const float *p,
                         int64_t row, int l)
{
    rf_encode_pool *pool = &plan->pool[l];
    const float *bias = plan->args->b_enc.data;
    int64_t n = plan->count[l][row];
    for (int64_t j = 0; j < t->n; j++) {
        int32_t latent = latent_of(t, j);
        float v = p[j] + bias[latent];
        if (!(v > 0.0f)) {
            continue;
        }
        if (n % ENCODE_CHUNK == 0 && !take_chunk(pool, row, n == 0)) {
            return; /* the list does not fit: nobody will read it */
        }
        int64_t at = (int64_t)pool->last[row] * ENCODE_CHUNK + n % ENCODE_CHUNK;
        pool->latent[at] = latent;
        pool->value[at] = v;
        n++;
        plan->count[l][row] = n;
    }
}

void rf_encode_use_tile(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                        int64_t n_rows, int64_t first_latent, int64_t n_latents)
{
    for (int l = 0; l < plan->args->n_lists; l++) {
        const rf_select_list *list = &plan->args->lists[l];
        tile_latents t = list->eligible == NULL ? all_latents(plan, first_latent, n_latents)
                                                : eligible_latents(plan, list->eligible, work,
                                                                   first_latent, n_latents);
        for (int64_t r = 0; r < n_rows && t.n > 0; r++) {
            if (plan->row_on[first_row + r] == 0) {
                continue;
            }
            const float *p = products_of(&t, work->products + r * n_latents, work->gathered);
            if (list->rule == RF_SELECT_TOPK) {
                add_candidates(plan, work, &t, p, first_row + r, plan->k[l],
                               &work->candidates[l][r]);
            } else {
                add_positive(plan, &t, p, first_row + r, l);
            }
        }
    }
}

/* Tokens are settled side by side, a few candidates each at a time: rows of W that several of them
 * ask for are then in cache. */
enum { SETTLE_ROWS = 64, SETTLE_CANDIDATES = 32 };

static void settle_rows(const rf_encode_plan *plan, const rf_encode_work *work, int l,
                        int64_t first_row, int64_t n_rows, rf_candidates *c)
{
    bool is_done = false;
    for (int64_t r = 0; r < n_rows; r++) {
        rf_candidates_prune(&c[r], plan->k[l], 0);
    }
    while (!is_done) {
        is_done = true;
        for (int64_t r = 0; r < n_rows; r++) {
            if (c[r].n_known < c[r].n) {
                rf_exact exact = exact_of(plan, work, first_row + r);
                rf_candidates_measure(&c[r], SETTLE_CANDIDATES, &exact);
                is_done = false;
            }
        }
    }
    for (int64_t r = 0; r < n_rows; r++) {
        rf_candidates_keep(&c[r], plan->k[l]);
    }
}

void rf_encode_end_block(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                         int64_t n_rows)
{
    for (int l = 0; l < plan->args->n_lists; l++) {
        if (plan->args->lists[l].rule != RF_SELECT_TOPK) {
            continue;
        }
        rf_codes *codes = plan->args->lists[l].codes;
        rf_candidates *c = work->candidates[l];
        for (int64_t r = 0; r < n_rows; r += SETTLE_ROWS) {
            settle_rows(plan, work, l, first_row + r, rf_min_i64(SETTLE_ROWS, n_rows - r), c + r);
        }
        for (int64_t r = 0; r < n_rows; r++) {
            int64_t at = (first_row + r) * plan->slot[l];
            memcpy(codes->latent + at, c[r].latent, sizeof(int32_t) * (size_t)c[r].n);
            memcpy(codes->value + at, c[r].lo, sizeof(float) * (size_t)c[r].n);
            plan->count[l][first_row + r] = c[r].n;
        }
    }
}
