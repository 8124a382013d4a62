/* Encode and select by tiles of tokens x latents. A thread owns a block of tokens and walks the
 * latents, so that a tile's products are used while they are in its cache; the products of a whole
 * batch never exist. */
#include "encode_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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
static void carve_pool(carver *c, const rf_encode_plan *plan, rf_encode_list *list)
{
    rf_encode_pool *pool = &list->pool;
    int64_t n = list->list->codes->capacity / ENCODE_CHUNK + plan->n_rows + 1;
    pool->n_chunks = n;
    pool->n_used = 0;
    pool->latent = carve(c, n * ENCODE_CHUNK, sizeof(int32_t));
    pool->value = carve(c, n * ENCODE_CHUNK, sizeof(float));
    pool->next = carve(c, n, sizeof(int32_t));
    pool->first = carve(c, plan->n_rows, sizeof(int32_t));
    pool->last = carve(c, plan->n_rows, sizeof(int32_t));
}

static bool has_gate(const rf_encode_list *list)
{
    return list->list->rule == RF_SELECT_POSITIVE || list->list->rule == RF_SELECT_WINDOW;
}

static void carve_plan(carver *c, rf_encode_plan *plan)
{
    plan->norm = carve(c, plan->n_latents, sizeof(float));
    plan->offset_hi = carve(c, plan->n_latents, sizeof(float));
    plan->offset_lo = carve(c, plan->n_latents, sizeof(float));
    plan->row_scale = carve(c, plan->n_rows, sizeof(float));
    plan->row_on = carve(c, plan->n_rows, 1);
    for (int l = 0; l < plan->args->n_lists; l++) {
        rf_encode_list *list = &plan->lists[l];
        list->count = carve(c, plan->n_rows, sizeof(int64_t));
        if (has_gate(list)) {
            list->gate = carve(c, plan->n_latents, sizeof(float));
        }
        if (has_gate(list) || list->list->rule == RF_SELECT_ABOVE) {
            carve_pool(c, plan, list);
        }
    }
}

static void carve_topk(carver *c, const rf_encode_plan *plan, const rf_encode_list *list,
                       rf_encode_list_work *own)
{
    int64_t rows = plan->block_rows;
    own->candidates = carve(c, rows, sizeof(rf_candidates));
    own->lo = carve(c, rows * list->room, sizeof(float));
    own->hi = carve(c, rows * list->room, sizeof(float));
    own->latent = carve(c, rows * list->room, sizeof(int32_t));
}

static void carve_batch(carver *c, const rf_encode_list *list, rf_encode_list_work *own)
{
    own->batch = carve(c, list->n_classes, sizeof *own->batch);
    for (int i = 0; i < list->n_classes; i++) {
        rf_batch_candidates batch = {.threshold = rf_least_positive};
        int64_t room = list->classes[i].room;
        batch.lo = carve(c, room, sizeof(float));
        batch.hi = carve(c, room, sizeof(float));
        batch.row = carve(c, room, sizeof(int32_t));
        batch.latent = carve(c, room, sizeof(int32_t));
        if (own->batch != NULL) {
            own->batch[i] = batch;
        }
    }
}

/* Products of fp32 need staged rows for a ragged end only, those of bf16 for all. */
static void carve_staged(carver *c, const rf_encode_plan *plan, rf_encode_work *work)
{
    work->x_staged = carve(c, plan->block_rows * plan->width, sizeof(float));
    if (plan->kind != RF_PRODUCT_F32) {
        work->w_staged = carve(c, plan->tile * plan->width, sizeof(float));
        work->row_staged = carve(c, ENCODE_PACK_ROWS * plan->width, sizeof(float));
    }
}

static void carve_work(carver *c, const rf_encode_plan *plan, rf_encode_work *work)
{
    int64_t most = plan->tile;
    work->products = carve(c, plan->block_rows * plan->tile, sizeof(float));
    carve_staged(c, plan, work);
    work->nominated = carve(c, plan->tile, sizeof(int32_t));
    work->chosen = carve(c, plan->tile, sizeof(int32_t));
    work->gathered = carve(c, plan->tile, sizeof(float));
    work->norm = carve(c, plan->tile, sizeof(float));
    work->offset_hi = carve(c, plan->tile, sizeof(float));
    work->offset_lo = carve(c, plan->tile, sizeof(float));
    work->gate = carve(c, plan->tile, sizeof(float));
    for (int l = 0; l < plan->args->n_lists; l++) {
        const rf_encode_list *list = &plan->lists[l];
        if (list->list->rule == RF_SELECT_TOPK) {
            most = rf_max_i64(most, list->room);
            carve_topk(c, plan, list, &work->lists[l]);
        } else if (list->list->rule == RF_SELECT_BATCH_TOPK) {
            carve_batch(c, list, &work->lists[l]);
        }
    }
    work->exact_work = carve(c, most, sizeof(float));
}

static float least_above(const float *floor)
{
    return nextafterf(*floor > 0.0f ? *floor : 0.0f, INFINITY);
}

static void plan_list(const rf_encode_plan *plan, const rf_select_list *list, rf_encode_list *out)
{
    const bool has_classes = list->row_class != NULL;
    const int64_t n_values = plan->n_rows * plan->n_latents;
    *out = (rf_encode_list){.list = list, .n_classes = has_classes ? RF_MAX_ROW_CLASSES : 1};
    for (int i = 0; i < out->n_classes; i++) {
        rf_encode_class *class = &out->classes[i];
        const int64_t k = has_classes ? list->class_k[i] : list->k;
        class->bound = rf_least_positive;
        if (list->rule == RF_SELECT_TOPK) {
            class->k = rf_min_i64(k, plan->n_latents);
        } else if (list->rule == RF_SELECT_BATCH_TOPK) {
            class->k = rf_min_i64(k, n_values);
            class->room = k > 0 ? rf_batch_room(class->k, n_values, plan->tile) : 0;
        } else if (list->rule == RF_SELECT_ABOVE) {
            class->least = least_above(list->floor + i);
        }
    }
    if (list->rule == RF_SELECT_TOPK) {
        out->k = rf_min_i64(list->k, plan->n_latents);
        out->room = rf_candidates_room(out->k, plan->tile);
        out->slot = list->codes->capacity / plan->n_rows;
    }
}

/* Blocks of equal size, as many as a whole number of rounds of all threads. */
static void plan_blocks(rf_encode_plan *plan, int n_threads)
{
    bool is_bf16 = plan->kind == RF_PRODUCT_BF16; /* steps and tiles as rf_matmul has them */
    int64_t rounds = rf_ceil_div(plan->n_rows, (int64_t)ENCODE_TILE_ROWS * n_threads);
    int64_t rows = rf_ceil_div(plan->n_rows, rounds * n_threads);
    plan->row_step = is_bf16 ? RF_PAD_ROWS : rf_cpu_row_step();
    plan->block_rows = rf_ceil_div(rows, plan->row_step) * plan->row_step;
    plan->n_blocks = rf_ceil_div(plan->n_rows, plan->block_rows);
    plan->tile = rf_min_i64(is_bf16 ? RF_TILE_COLS : ENCODE_TILE_LATENTS, plan->n_latents);
    for (int l = 0; l < plan->args->n_lists; l++) {
        plan_list(plan, &plan->args->lists[l], &plan->lists[l]);
    }
}

/* The first blocks have a step more than the others. */
static int64_t first_row(const rf_encode_plan *plan, int64_t block)
{
    const int64_t n_steps = rf_ceil_div(plan->n_rows, plan->row_step);
    const int64_t steps = n_steps / plan->n_blocks, more = n_steps % plan->n_blocks;
    return rf_min_i64(plan->n_rows, (block * steps + rf_min_i64(block, more)) * plan->row_step);
}

static rf_status encode_block(const rf_encode_plan *plan, rf_encode_work *work, int64_t block,
                              double seconds[2])
{
    rf_status status = RF_OK;
    const int64_t first = first_row(plan, block), n = first_row(plan, block + 1) - first;
    double t0 = rf_now(), t1;
    rf_encode_load_rows(plan, work, first, n);
    rf_encode_begin_block(plan, work, first, n);
    for (int64_t i = 0; i < plan->n_latents; i += plan->tile) {
        int64_t n_latents = rf_min_i64(plan->tile, plan->n_latents - i);
        RF_TRY(rf_encode_multiply(plan, work, i, n_latents));
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

/* TOPK: rows move from their slots to where the row before them ends, in order, so that none is
 * overwritten before it has moved. */
static void pack_slots(const rf_encode_plan *plan, const rf_encode_list *list)
{
    rf_codes *codes = list->list->codes;
    rf_encode_start_rows(plan, list);
    for (int64_t b = 0; b < plan->n_rows; b++) {
        int64_t n = list->count[b], from = b * list->slot, to = codes->row_start[b];
        if (from != to && n > 0) {
            memmove(codes->latent + to, codes->latent + from, sizeof(int32_t) * (size_t)n);
            memmove(codes->value + to, codes->value + from, sizeof(float) * (size_t)n);
        }
    }
}

static rf_status pack(const rf_encode_plan *plan, const rf_encode_work *works, int n_threads)
{
    rf_status status = RF_OK;
    for (int l = 0; l < plan->args->n_lists; l++) {
        const rf_encode_list *list = &plan->lists[l];
        list->list->codes->n_rows = plan->n_rows;
        if (list->list->overflow != NULL) {
            *list->list->overflow = 0;
        }
        if (list->list->rule == RF_SELECT_TOPK) {
            pack_slots(plan, list);
        } else if (list->list->rule == RF_SELECT_BATCH_TOPK) {
            RF_TRY(rf_batch_finish(plan, works, n_threads, l));
        } else {
            rf_encode_pack_chunks(plan, list, n_threads);
        }
    }
fail:
    return status;
}

/* Memory of the plan and of all threads, shared out of the stream's. */
static rf_status carve_all(rf_stream *s, rf_encode_plan *plan, rf_encode_work *works, int n_threads)
{
    rf_status status = RF_OK;
    carver size = {0}, memory = {0};
    void *scratch;
    carve_plan(&size, plan);
    for (int t = 0; t < n_threads; t++) {
        carve_work(&size, plan, &works[t]);
    }
    RF_TRY(rf_cpu_scratch(s, size.used, &scratch));
    memory.base = scratch;
    carve_plan(&memory, plan);
    for (int t = 0; t < n_threads; t++) {
        carve_work(&memory, plan, &works[t]);
    }
fail:
    return status;
}

static void no_rows(const rf_encode_args *args)
{
    for (int l = 0; l < args->n_lists; l++) {
        args->lists[l].codes->n_rows = 0;
        args->lists[l].codes->row_start[0] = 0;
        if (args->lists[l].overflow != NULL) {
            *args->lists[l].overflow = 0;
        }
    }
}

static rf_status encode_rows(rf_stream *s, rf_encode_plan *plan, rf_encode_work *works,
                             int64_t *n_refused, double seconds[2])
{
    rf_status status = RF_OK;
    int n_threads = rf_cpu_n_threads(s);
    plan_blocks(plan, n_threads);
    RF_TRY(carve_all(s, plan, works, n_threads));
    *n_refused = rf_encode_bound(plan, n_threads);
    for (int l = 0; l < plan->args->n_lists; l++) {
        if (has_gate(&plan->lists[l])) {
            rf_encode_make_gate(plan, &plan->lists[l]);
        }
    }
    RF_TRY(encode_blocks(plan, works, n_threads, seconds));
    double t0 = rf_now();
    RF_TRY(pack(plan, works, n_threads));
    seconds[1] += rf_now() - t0;
fail:
    return status;
}

rf_status rf_cpu_encode_as(rf_stream *s, const rf_encode_args *args, rf_product_kind kind)
{
    rf_status status = RF_OK;
    rf_encode_work *works = NULL;
    double seconds[2] = {0.0, 0.0};
    int64_t n_refused = 0;
    rf_encode_list lists[RF_MAX_LISTS] = {{0}};
    rf_encode_plan plan = {.args = args,
                           .kind = kind,
                           .lists = lists,
                           .n_rows = args->x.shape[0],
                           .width = args->x.shape[1],
                           .n_latents = args->w_enc.shape[0]};
    if (plan.n_rows == 0) {
        no_rows(args);
    } else {
        RF_ALLOC(works, rf_cpu_n_threads(s));
        RF_TRY(encode_rows(s, &plan, works, &n_refused, seconds));
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

rf_status rf_cpu_encode(rf_stream *s, const rf_encode_args *args)
{
    const rf_product_kind of_bf16 = rf_cpu_bf16_is_fast() ? RF_PRODUCT_BF16 : RF_PRODUCT_ROUNDED;
    return rf_cpu_encode_as(s, args, args->products == RF_PRODUCTS_BF16 ? of_bf16 : RF_PRODUCT_F32);
}
