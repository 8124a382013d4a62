/* Encode and select by tiles of tokens x latents. A thread owns a block of tokens and walks the
 * latents, so that a tile's products are used while they are in its cache; the products of a whole
 * batch never exist. */
#include "encode_impl.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Rounded up: a float not below v. */
static float float_above(double v)
{
    float f = (float)v;
    return (double)f < v ? nextafterf(f, INFINITY) : f;
}

/* |row|, rounded up. In double squares of floats neither underflow nor overflow; where they are far
 * from both the float sum will do, which errs by less than 1 in 2^12 up to 2^11 additions of a
 * lane. */
static double row_norm(const float *row, int64_t n)
{
    double sum = (double)rf_dot(row, row, n);
    if (sum > 1e-20 && sum < 1e30 && n <= 32 * 2048) {
        return sqrt(sum * (1.0 + 0x1p-12));
    }
    sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)row[i] * (double)row[i];
    }
    return sqrt(sum * (1.0 + 1e-9));
}

/* Shares one block of memory out; with base NULL it only adds up. */
typedef struct carver {
    char *base;
    size_t used;
} carver;

static void *carve(carver *c, int64_t n, size_t elem_bytes)
{
    void *p = c->base == NULL ? NULL : c->base + c->used;
    c->used += ((size_t)n * elem_bytes + 63) / 64 * 64;
    return p;
}

/* Chunks for all that may fit: each row wastes less than one. */
static void carve_pool(carver *c, const rf_encode_plan *plan, const rf_codes *codes,
                       rf_encode_pool *pool)
{
    int64_t n = codes->capacity / ENCODE_CHUNK + plan->n_rows + 1;
    pool->n_chunks = n;
    pool->n_used = 0;
    pool->latent = carve(c, n * ENCODE_CHUNK, sizeof(int32_t));
    pool->value = carve(c, n * ENCODE_CHUNK, sizeof(float));
    pool->next = carve(c, n, sizeof(int32_t));
    pool->first = carve(c, plan->n_rows, sizeof(int32_t));
    pool->last = carve(c, plan->n_rows, sizeof(int32_t));
}

static void carve_plan(carver *c, rf_encode_plan *plan)
{
    plan->norm = carve(c, plan->n_latents, sizeof(float));
    plan->offset_hi = carve(c, plan->n_latents, sizeof(float));
    plan->offset_lo = carve(c, plan->n_latents, sizeof(float));
    plan->row_scale = carve(c, plan->n_rows, sizeof(float));
    plan->row_on = carve(c, plan->n_rows, 1);
    for (int l = 0; l < plan->args->n_lists; l++) {
        plan->count[l] = carve(c, plan->n_rows, sizeof(int64_t));
        if (plan->args->lists[l].rule == RF_SELECT_POSITIVE) {
            carve_pool(c, plan, plan->args->lists[l].codes, &plan->pool[l]);
        }
    }
}

static void carve_work(carver *c, const rf_encode_plan *plan, rf_encode_work *work)
{
    int64_t rows = plan->block_rows, most = 1;
    work->products = carve(c, rows * plan->tile, sizeof(float));
    work->x_padded = carve(c, rows * plan->width, sizeof(float));
    work->nominated = carve(c, plan->tile, sizeof(int32_t));
    work->chosen = carve(c, plan->tile, sizeof(int32_t));
    work->gathered = carve(c, plan->tile, sizeof(float));
    work->norm = carve(c, plan->tile, sizeof(float));
    work->offset_hi = carve(c, plan->tile, sizeof(float));
    work->offset_lo = carve(c, plan->tile, sizeof(float));
    for (int l = 0; l < plan->args->n_lists; l++) {
        if (plan->args->lists[l].rule == RF_SELECT_TOPK) {
            int64_t room = plan->room[l];
            most = rf_max_i64(most, room);
            work->candidates[l] = carve(c, rows, sizeof(rf_candidates));
            work->lo[l] = carve(c, rows * room, sizeof(float));
            work->hi[l] = carve(c, rows * room, sizeof(float));
            work->latent[l] = carve(c, rows * room, sizeof(int32_t));
        }
    }
    work->exact_work = carve(c, most, sizeof(float));
}

/* Blocks of equal size, as many as a whole number of rounds of all threads. */
static void plan_blocks(rf_encode_plan *plan, int n_threads)
{
    int64_t rounds = rf_ceil_div(plan->n_rows, (int64_t)ENCODE_TILE_ROWS * n_threads);
    int64_t rows = rf_ceil_div(plan->n_rows, rounds * n_threads);
    plan->block_rows = rf_ceil_div(rows, ENCODE_ROW_STEP) * ENCODE_ROW_STEP;
    plan->n_blocks = rf_ceil_div(plan->n_rows, plan->block_rows);
    plan->tile = rf_min_i64(ENCODE_TILE_LATENTS, plan->n_latents);
    for (int l = 0; l < plan->args->n_lists; l++) {
        const rf_select_list *list = &plan->args->lists[l];
        plan->k[l] = rf_min_i64(list->k, plan->n_latents);
        plan->room[l] = rf_candidates_room(plan->k[l], plan->tile);
        plan->slot[l] = list->codes->capacity / plan->n_rows;
    }
}

/* Bounds of latents. Product and canonical dot of n terms each err by at most g |x| |w|, g = n u /
 * (1 - n u) (Higham 2002, section 3.1; any order of summation); 8 more terms stand for the
 * roundings of bias and bounds, FLT_MIN for what underflows or is flushed. Returns false when a
 * latent is not finite. */
static bool bound_latents(const rf_encode_plan *plan, int n_threads, double *max_norm,
                          double *max_bias)
{
    const rf_encode_args *args = plan->args;
    const float *bias = args->b_enc.data;
    double tiny = 4.0 * (double)(plan->width + 8) * (double)FLT_MIN;
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < plan->n_latents; i++) {
        double slack = 0x1p-21 * fabs((double)bias[i]) + tiny;
        plan->norm[i] = float_above(row_norm(rf_row(&args->w_enc, i), plan->width));
        plan->offset_hi[i] = float_above((double)bias[i] + slack);
        plan->offset_lo[i] = -float_above(slack - (double)bias[i]);
    }
    bool is_finite = true;
    *max_norm = *max_bias = 0.0;
    for (int64_t i = 0; i < plan->n_latents; i++) {
        *max_norm = fmax(*max_norm, (double)plan->norm[i]);
        *max_bias = fmax(*max_bias, fabs((double)bias[i]));
        is_finite = is_finite && isfinite(plan->norm[i]) && isfinite(bias[i]);
    }
    return is_finite;
}

static int64_t bound_rows(const rf_encode_plan *plan, int n_threads)
{
    const rf_encode_args *args = plan->args;
    double max_norm, max_bias, terms = (double)(plan->width + 8) * 0x1p-24;
    bool is_finite = bound_latents(plan, n_threads, &max_norm, &max_bias);
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t b = 0; b < plan->n_rows; b++) {
        double norm = row_norm(rf_row(&args->x, b), plan->width);
        plan->row_scale[b] = float_above(2.0 * terms / (1.0 - terms) * norm);
        plan->row_on[b] = is_finite && norm * max_norm + max_bias < (double)FLT_MAX / 4;
    }
    int64_t n_refused = 0;
    for (int64_t b = 0; b < plan->n_rows; b++) {
        bool is_valid = args->row_valid == NULL || args->row_valid[b] != 0;
        n_refused += is_valid && plan->row_on[b] == 0;
        plan->row_on[b] = plan->row_on[b] != 0 && is_valid;
    }
    return n_refused;
}

/* Rows of the product come in steps of 16: a ragged end is padded with zeros. */
static const float *padded_rows(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                                int64_t n_rows, int64_t n_padded, int64_t *stride)
{
    const rf_view *x = &plan->args->x;
    if (n_rows == n_padded) {
        *stride = x->stride[0];
        return rf_row(x, first_row);
    }
    *stride = plan->width;
    memset(work->x_padded, 0, sizeof(float) * (size_t)(n_padded * plan->width));
    for (int64_t r = 0; r < n_rows; r++) {
        memcpy(work->x_padded + r * plan->width, rf_row(x, first_row + r),
               sizeof(float) * (size_t)plan->width);
    }
    return work->x_padded;
}

static rf_status encode_block(const rf_encode_plan *plan, rf_encode_work *work, int64_t block,
                              double seconds[2])
{
    rf_status status = RF_OK;
    const rf_view *w = &plan->args->w_enc;
    int64_t first = block * plan->block_rows, stride;
    int64_t n = rf_min_i64(plan->block_rows, plan->n_rows - first);
    int64_t n_padded = rf_ceil_div(n, ENCODE_ROW_STEP) * ENCODE_ROW_STEP;
    const float *x = padded_rows(plan, work, first, n, n_padded, &stride);
    double t0 = rf_now(), t1;
    rf_encode_begin_block(plan, work, first, n);
    for (int64_t i = 0; i < plan->n_latents; i += plan->tile) {
        int64_t n_latents = rf_min_i64(plan->tile, plan->n_latents - i);
        RF_TRY(rf_cpu_sgemm_tile(RF_NO_TRANS, RF_TRANS, n_padded, n_latents, plan->width, 1.0f, x,
                                 stride, rf_row(w, i), w->stride[0], 0.0f, work->products,
                                 n_latents));
        t1 = rf_now();
        seconds[0] += t1 - t0;
        rf_encode_use_tile(plan, work, first, n, i, n_latents);
        t0 = rf_now();
        seconds[1] += t0 - t1;
    }
    rf_encode_end_block(plan, work, first, n);
    seconds[1] += rf_now() - t0;
fail:
    return status;
}

/* Errors are of a thread: the first that failed leaves its text for the caller. */
static rf_status encode_blocks(const rf_encode_plan *plan, rf_encode_work *works, int n_threads,
                               double seconds[2])
{
    rf_status failed = RF_OK;
    char text[RF_ERROR_TEXT_LEN] = "";
#pragma omp parallel num_threads(n_threads)
    {
        rf_status mine = RF_OK;
        double spent[2] = {0.0, 0.0};
#pragma omp for schedule(dynamic, 1)
        for (int64_t block = 0; block < plan->n_blocks; block++) {
            if (mine == RF_OK) {
                mine = encode_block(plan, &works[rf_cpu_thread()], block, spent);
            }
        }
#pragma omp critical(rf_encode_result)
        {
            seconds[0] += spent[0] / n_threads;
            seconds[1] += spent[1] / n_threads;
            if (mine != RF_OK) {
                failed = mine;
                snprintf(text, sizeof text, "%s", rf_error_text());
            }
        }
    }
    return failed == RF_OK ? RF_OK : rf_error_restore(failed, text);
}

/* Where rows begin; returns how many entries there are. */
static int64_t start_rows(const rf_encode_plan *plan, int l)
{
    int64_t *start = plan->args->lists[l].codes->row_start;
    start[0] = 0;
    for (int64_t b = 0; b < plan->n_rows; b++) {
        start[b + 1] = start[b] + plan->count[l][b];
    }
    return start[plan->n_rows];
}

/* TOPK: rows move from their slots to where the row before them ends, in order, so that none is
 * overwritten before it has moved. */
static void pack_slots(const rf_encode_plan *plan, int l)
{
    rf_codes *codes = plan->args->lists[l].codes;
    start_rows(plan, l);
    for (int64_t b = 0; b < plan->n_rows; b++) {
        int64_t n = plan->count[l][b], from = b * plan->slot[l], to = codes->row_start[b];
        if (from != to && n > 0) {
            memmove(codes->latent + to, codes->latent + from, sizeof(int32_t) * (size_t)n);
            memmove(codes->value + to, codes->value + from, sizeof(float) * (size_t)n);
        }
    }
}

/* POSITIVE: rows are gathered from their chunks, if all of them fit. */
static void pack_chunks(const rf_encode_plan *plan, int l, int n_threads)
{
    const rf_select_list *list = &plan->args->lists[l];
    const rf_encode_pool *pool = &plan->pool[l];
    rf_codes *codes = list->codes;
    bool fits = (plan->n_rows == 0 || pool->n_used <= pool->n_chunks) &&
                start_rows(plan, l) <= codes->capacity;
    *list->overflow = !fits;
    if (!fits) {
        memset(codes->row_start, 0, sizeof(int64_t) * (size_t)(plan->n_rows + 1));
        return;
    }
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t b = 0; b < plan->n_rows; b++) {
        int64_t to = codes->row_start[b], last = codes->row_start[b + 1];
        for (int64_t chunk = pool->first[b]; to < last; chunk = pool->next[chunk]) {
            size_t n = (size_t)rf_min_i64(ENCODE_CHUNK, last - to);
            memcpy(codes->latent + to, pool->latent + chunk * ENCODE_CHUNK, sizeof(int32_t) * n);
            memcpy(codes->value + to, pool->value + chunk * ENCODE_CHUNK, sizeof(float) * n);
            to += ENCODE_CHUNK;
        }
    }
}

rf_status rf_cpu_encode(rf_stream *s, const rf_encode_args *args)
{
    rf_status status = RF_OK;
    int n_threads = rf_cpu_n_threads(s);
    rf_encode_work *works = NULL;
    double seconds[2] = {0.0, 0.0};
    int64_t n_refused = 0;
    void *scratch;
    rf_encode_pool pool[RF_MAX_LISTS] = {{0}};
    rf_encode_plan plan = {.args = args,
                           .pool = pool,
                           .n_rows = args->x.shape[0],
                           .width = args->x.shape[1],
                           .n_latents = args->w_enc.shape[0]};

    RF_ALLOC(works, n_threads);
    if (plan.n_rows > 0) {
        plan_blocks(&plan, n_threads);
        carver size = {0}, memory = {0};
        carve_plan(&size, &plan);
        for (int t = 0; t < n_threads; t++) {
            carve_work(&size, &plan, &works[t]);
        }
        RF_TRY(rf_cpu_scratch(s, size.used, &scratch));
        memory.base = scratch;
        carve_plan(&memory, &plan);
        for (int t = 0; t < n_threads; t++) {
            carve_work(&memory, &plan, &works[t]);
        }
        n_refused = bound_rows(&plan, n_threads);
        RF_TRY(encode_blocks(&plan, works, n_threads, seconds));
    }
    for (int l = 0; l < args->n_lists; l++) {
        args->lists[l].codes->n_rows = plan.n_rows;
        if (args->lists[l].rule == RF_SELECT_TOPK) {
            pack_slots(&plan, l);
        } else {
            pack_chunks(&plan, l, n_threads);
        }
    }
    if (args->n_refused != NULL) {
        *args->n_refused = n_refused;
    }
    if (args->seconds != NULL) {
        args->seconds[0] += seconds[0];
        args->seconds[1] += seconds[1];
    }
fail:
    rf_free(works);
    return status;
}
