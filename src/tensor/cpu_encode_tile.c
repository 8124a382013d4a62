/* One tile of products: candidates of TOPK and BATCH_TOPK lists, entries of the others. */
#include "encode_impl.h"

#include <math.h>
#include <string.h>

/* The k of a row of a TOPK list. */
static int64_t k_of(const rf_encode_list *list, int64_t row)
{
    return list->classes[rf_class_of(list->list->row_class, row)].k;
}

static void begin_topk(const rf_encode_list_work *own, int64_t room, int64_t n_rows)
{
    for (int64_t r = 0; r < n_rows; r++) {
        own->candidates[r] = (rf_candidates){.lo = own->lo + r * room,
                                             .hi = own->hi + r * room,
                                             .latent = own->latent + r * room,
                                             .threshold = rf_least_positive};
    }
}

void rf_encode_begin_block(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                           int64_t n_rows)
{
    for (int l = 0; l < plan->args->n_lists; l++) {
        const rf_encode_list *list = &plan->lists[l];
        memset(list->count + first_row, 0, sizeof(int64_t) * (size_t)n_rows);
        if (list->list->rule == RF_SELECT_TOPK) {
            begin_topk(&work->lists[l], list->room, n_rows);
        }
    }
}

static rf_tile_latents all_latents(const rf_encode_plan *plan, const rf_encode_list *list,
                                   int64_t first, int64_t n)
{
    return (rf_tile_latents){.norm = plan->norm + first,
                             .offset_hi = plan->offset_hi + first,
                             .offset_lo = plan->offset_lo + first,
                             .gate = list->gate == NULL ? NULL : list->gate + first,
                             .n = n,
                             .first = first};
}

static rf_tile_latents eligible_latents(const rf_encode_plan *plan, const rf_encode_list *list,
                                        const rf_encode_work *work, int64_t first, int64_t n)
{
    const uint8_t *eligible = list->list->eligible;
    int64_t count = 0;
    for (int64_t j = 0; j < n; j++) {
        if (eligible[first + j] != 0) {
            work->norm[count] = plan->norm[first + j];
            work->offset_hi[count] = plan->offset_hi[first + j];
            work->offset_lo[count] = plan->offset_lo[first + j];
            work->gate[count] = list->gate == NULL ? 0.0f : list->gate[first + j];
            work->chosen[count++] = (int32_t)j;
        }
    }
    return (rf_tile_latents){.norm = work->norm,
                             .offset_hi = work->offset_hi,
                             .offset_lo = work->offset_lo,
                             .gate = work->gate,
                             .chosen = work->chosen,
                             .n = count,
                             .first = first};
}

/* The products of one row with the latents of `t`. */
static const float *products_of(const rf_tile_latents *t, const float *row, float *gathered)
{
    if (t->chosen == NULL) {
        return row;
    }
    for (int64_t j = 0; j < t->n; j++) {
        gathered[j] = row[t->chosen[j]];
    }
    return gathered;
}

rf_exact rf_encode_exact(const rf_encode_plan *plan, const rf_encode_work *work, int64_t row)
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
        rf_exact exact = rf_encode_exact(plan, work, row);
        rf_candidates_measure(c, c->n, &exact);
        rf_candidates_keep(c, k);
    }
}

static void add_candidates(const rf_encode_plan *plan, rf_encode_work *work,
                           const rf_tile_latents *t, const float *p, int64_t row, int64_t k,
                           rf_candidates *c)
{
    if (k == 0) {
        return;
    }
    make_room(plan, work, row, k, c);
    float scale = plan->row_scale[row];
    int64_t n =
        rf_cpu_nominate(p, t->norm, t->offset_hi, t->n, scale, c->threshold, work->nominated);
    for (int64_t i = 0; i < n; i++) {
        int32_t j = work->nominated[i];
        c->lo[c->n] = fmaf(-scale, t->norm[j], p[j]) + t->offset_lo[j];
        c->hi[c->n] = fmaf(scale, t->norm[j], p[j]) + t->offset_hi[j];
        c->latent[c->n++] = rf_tile_latent(t, j);
    }
}

/* Canonical values at once, while the tile's rows of W are in cache. */
static void add_above(const rf_encode_plan *plan, rf_encode_work *work, const rf_tile_latents *t,
                      const float *p, int64_t row, rf_encode_list *list)
{
    rf_exact exact = rf_encode_exact(plan, work, row);
    int32_t *latent = work->nominated;
    const float least = list->classes[rf_class_of(list->list->row_class, row)].least;
    int64_t n = rf_cpu_nominate(p, t->norm, t->offset_hi, t->n, plan->row_scale[row], least,
                                work->nominated);
    for (int64_t i = 0; i < n; i++) {
        latent[i] = rf_tile_latent(t, work->nominated[i]);
    }
    rf_dot_rows(exact.x, exact.w, exact.w_stride, latent, n, exact.width, exact.work);
    for (int64_t i = 0; i < n; i++) {
        float v = exact.work[i] + exact.bias[latent[i]];
        if (v >= least && !rf_encode_append(list, row, latent[i], v)) {
            return;
        }
    }
}

static bool is_wanted(const rf_select_list *list, float v, int32_t latent)
{
    const float *threshold = list->threshold.data;
    if (list->rule == RF_SELECT_WINDOW) {
        return fabsf(v - threshold[latent]) < 0.5f * list->window;
    }
    return v > 0.0f && (threshold == NULL || v > threshold[latent]);
}

/* POSITIVE and WINDOW: values of the product. */
static void add_values(const rf_encode_plan *plan, rf_encode_work *work, const rf_tile_latents *t,
                       const float *p, int64_t row, rf_encode_list *list)
{
    const float *bias = plan->args->b_enc.data;
    int64_t n = rf_cpu_nominate(p, t->norm, t->gate, t->n, 0.0f, 0.0f, work->nominated);
    for (int64_t i = 0; i < n; i++) {
        int32_t j = work->nominated[i], latent = rf_tile_latent(t, j);
        float v = p[j] + bias[latent];
        if (is_wanted(list->list, v, latent) && !rf_encode_append(list, row, latent, v)) {
            return; /* the list does not fit: nobody will read it */
        }
    }
}

static void use_row(const rf_encode_plan *plan, rf_encode_work *work, int l,
                    const rf_tile_latents *t, const float *p, int64_t row, int64_t row_in_block)
{
    rf_encode_list *list = &plan->lists[l];
    switch (list->list->rule) {
    case RF_SELECT_TOPK:
        add_candidates(plan, work, t, p, row, k_of(list, row),
                       &work->lists[l].candidates[row_in_block]);
        break;
    case RF_SELECT_BATCH_TOPK:
        rf_batch_add(plan, work, l, t, p, row);
        break;
    case RF_SELECT_ABOVE:
        add_above(plan, work, t, p, row, list);
        break;
    case RF_SELECT_POSITIVE:
    case RF_SELECT_WINDOW:
        add_values(plan, work, t, p, row, list);
        break;
    }
}

void rf_encode_use_tile(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                        int64_t n_rows, int64_t first_latent, int64_t n_latents)
{
    for (int l = 0; l < plan->args->n_lists; l++) {
        const rf_encode_list *list = &plan->lists[l];
        rf_tile_latents t = list->list->eligible == NULL
                                ? all_latents(plan, list, first_latent, n_latents)
                                : eligible_latents(plan, list, work, first_latent, n_latents);
        for (int64_t r = 0; r < n_rows && t.n > 0; r++) {
            if (plan->row_on[first_row + r] != 0) {
                const float *p = products_of(&t, work->products + r * n_latents, work->gathered);
                use_row(plan, work, l, &t, p, first_row + r, r);
            }
        }
    }
}

static void settle_rows(const rf_encode_plan *plan, const rf_encode_work *work,
                        const rf_encode_list *list, int64_t first_row, int64_t n_rows,
                        rf_candidates *c)
{
    bool is_done = false;
    for (int64_t r = 0; r < n_rows; r++) {
        rf_candidates_prune(&c[r], k_of(list, first_row + r), 0);
    }
    while (!is_done) {
        is_done = true;
        for (int64_t r = 0; r < n_rows; r++) {
            if (c[r].n_known < c[r].n) {
                rf_exact exact = rf_encode_exact(plan, work, first_row + r);
                rf_candidates_measure(&c[r], SETTLE_CANDIDATES, &exact);
                is_done = false;
            }
        }
    }
    for (int64_t r = 0; r < n_rows; r++) {
        rf_candidates_keep(&c[r], k_of(list, first_row + r));
    }
}

void rf_encode_end_block(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                         int64_t n_rows)
{
    for (int l = 0; l < plan->args->n_lists; l++) {
        const rf_encode_list *list = &plan->lists[l];
        if (list->list->rule != RF_SELECT_TOPK) {
            continue;
        }
        rf_codes *codes = list->list->codes;
        rf_candidates *c = work->lists[l].candidates;
        for (int64_t r = 0; r < n_rows; r += SETTLE_ROWS) {
            settle_rows(plan, work, list, first_row + r, rf_min_i64(SETTLE_ROWS, n_rows - r),
                        c + r);
        }
        for (int64_t r = 0; r < n_rows; r++) {
            int64_t at = (first_row + r) * list->slot;
            if (c[r].n > 0) {
                memcpy(codes->latent + at, c[r].latent, sizeof(int32_t) * (size_t)c[r].n);
                memcpy(codes->value + at, c[r].lo, sizeof(float) * (size_t)c[r].n);
            }
            list->count[first_row + r] = c[r].n;
        }
    }
}
