/* Encode and select by tiles of tokens x latents: cuBLAS multiplies, and while a tile's products
 * are in the second-level cache the lists take from it what may be selected. The products of a
 * whole batch never exist. A second buffer, whose product would run beside the selection from the
 * first, was weighed and left out: either kernel fills the device, so that they would share its
 * units and not add them, and two buffers in the same cache are tiles of half the size, whose
 * operands are read twice as often. See k_encode.cu for bounds, k_select.cu, k_encode_pool.cu and
 * k_batch_topk.cu for the rules. */
#include "cuda_encode_impl.h"

#include <math.h>

enum {
    CACHE_PARTS = 3,   /* of the cache a third is for products; the rest for operands and lists */
    ROW_UNIT = 128,    /* blocks of rows are whole tiles of cuBLAS's kernels, */
    LEAST_ROWS = 1024, /* and not fewer than these, */
    WIDTH = 512,       /* nor more than leave room for so many latents */
    COPY_ALIGN = 8,    /* elements of bf16: rows of 16 bytes, as tensor cores want them */
};

static int64_t test_rows, test_latents;

void rf_cuda_encode_set_tile(int64_t n_rows, int64_t n_latents)
{
    test_rows = n_rows;
    test_latents = n_latents;
}

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* `n` in equal parts of at most `most`, each in whole units. */
static int64_t part_of(int64_t n, int64_t most, int64_t unit)
{
    const int64_t n_parts = ceil_div(n, max_of(unit, most / unit * unit));
    return ceil_div(ceil_div(n, n_parts), unit) * unit;
}

static void plan_tiles(rf_cuda_encode_plan *plan, int64_t l2_bytes)
{
    const int64_t n_floats = l2_bytes / CACHE_PARTS / (int64_t)sizeof(float);
    int64_t rows = test_rows, tile = test_latents;
    if (rows == 0) {
        rows = part_of(plan->n_rows, max_of(LEAST_ROWS, n_floats / WIDTH), ROW_UNIT);
    }
    plan->block_rows = min_of(rows, plan->n_rows);
    if (tile == 0) {
        tile = n_floats / plan->block_rows;
    }
    plan->tile = part_of(plan->n_latents, tile, RF_ENCODE_STEP);
    plan->n_steps = ceil_div(plan->n_latents, RF_ENCODE_STEP);
}

static rf_k_operand operand_of(const rf_view *v, rf_products products)
{
    return (rf_k_operand){.data = v->data,
                          .stride = v->stride[0],
                          .n = v->shape[0],
                          .width = v->shape[1],
                          .products = products};
}

static void carve_copy(rf_carver *c, rf_k_operand *o)
{
    if (o->products == RF_PRODUCTS_BF16) {
        o->copy_stride = ceil_div(o->width, COPY_ALIGN) * COPY_ALIGN;
        o->copy = rf_carve(c, o->n * o->copy_stride, sizeof(uint16_t));
    }
}

static void carve_plan(rf_carver *c, rf_cuda_encode_plan *plan)
{
    plan->products = rf_carve(c, plan->block_rows * plan->tile, sizeof(float));
    carve_copy(c, &plan->x);
    carve_copy(c, &plan->w);
    plan->extremes = rf_carve(c, 1, sizeof *plan->extremes);
    plan->norm = rf_carve(c, plan->n_latents, sizeof(float));
    plan->row_scale = rf_carve(c, plan->n_rows, sizeof(float));
    plan->row_on = rf_carve(c, plan->n_rows, 1);
    for (int l = 0; l < plan->args->n_lists; l++) {
        plan->lists[l].list = &plan->args->lists[l];
        rf_cuda_list_carve(c, plan, &plan->lists[l]);
    }
}

static rf_status carve_all(rf_stream *s, rf_cuda_encode_plan *plan)
{
    rf_status status = RF_OK;
    rf_carver size = {0}, memory = {0};
    void *scratch;
    carve_plan(&size, plan);
    RF_TRY(rf_cuda_scratch(s, size.used, &scratch));
    memory.base = scratch;
    carve_plan(&memory, plan);
fail:
    return status;
}

/* How far a sum of n terms may err, relative to the sum of their sizes; `of_term` a term. */
static double sum_error(int64_t n, double of_term)
{
    const double t = (double)(n + 8) * of_term;
    return t < 0.5 ? t / (1.0 - t) : (double)INFINITY;
}

static rf_status begin(const rf_cuda_encode_plan *plan, rf_cuda_list *lists)
{
    rf_status status = RF_OK;
    const rf_encode_args *args = plan->args;
    const double u = 0x1p-24, canonical = sum_error(plan->width, u);
    const double sums = args->products == RF_PRODUCTS_F32
                            ? 2.0 * canonical
                            : canonical + 1.01 * sum_error(plan->width, 4.0 * u);
    RF_CUDA_TRY(cudaMemsetAsync(plan->extremes, 0, sizeof *plan->extremes, plan->stream));
    if (args->n_refused != NULL) {
        RF_CUDA_TRY(cudaMemsetAsync(args->n_refused, 0, sizeof *args->n_refused, plan->stream));
    }
    rf_k_encode_latents(plan->stream, plan->w, plan->exact.bias, plan->norm, plan->extremes);
    rf_k_encode_rows(plan->stream, plan->x, args->row_valid, sums, plan->extremes, plan->row_scale,
                     plan->row_on, args->n_refused);
    for (int l = 0; l < args->n_lists; l++) {
        RF_TRY(rf_cuda_list_begin(plan, &lists[l]));
    }
fail:
    return status;
}

/* The rows of an operand from `first` on, as products take them. */
static const void *rows_from(const rf_k_operand *o, int64_t first, int64_t *stride)
{
    *stride = o->copy != NULL ? o->copy_stride : o->stride;
    return o->copy != NULL ? (const void *)(o->copy + first * o->copy_stride)
                           : (const void *)(o->data + first * o->stride);
}

static rf_status encode_tile(rf_stream *s, rf_cuda_encode_plan *plan, int64_t row, int64_t latent)
{
    rf_status status = RF_OK;
    const rf_k_tile tile = {.products = plan->products,
                            .stride = plan->tile,
                            .first_row = row,
                            .n_rows = min_of(plan->block_rows, plan->n_rows - row),
                            .first_latent = latent,
                            .n_latents = min_of(plan->tile, plan->n_latents - latent)};
    int64_t x_stride, w_stride;
    const void *x = rows_from(&plan->x, row, &x_stride);
    const void *w = rows_from(&plan->w, latent, &w_stride);
    RF_TRY(rf_cuda_gemm(s, plan->args->products, RF_NO_TRANS, RF_TRANS, tile.n_rows, tile.n_latents,
                        plan->width, 1.0f, x, x_stride, w, w_stride, 0.0f, plan->products,
                        plan->tile));
    for (int l = 0; l < plan->args->n_lists; l++) {
        rf_cuda_list_take(plan, &plan->lists[l], tile);
    }
fail:
    return status;
}

static rf_status encode_rows(rf_stream *s, const rf_encode_args *args)
{
    rf_status status = RF_OK;
    rf_cuda_encode_plan plan = {.args = args,
                                .stream = rf_cuda_stream_of(s),
                                .n_rows = args->x.shape[0],
                                .width = args->x.shape[1],
                                .n_latents = args->w_enc.shape[0],
                                .x = operand_of(&args->x, args->products),
                                .w = operand_of(&args->w_enc, args->products),
                                .exact = {.x = args->x.data,
                                          .w = args->w_enc.data,
                                          .bias = args->b_enc.data,
                                          .x_stride = args->x.stride[0],
                                          .w_stride = args->w_enc.stride[0],
                                          .width = args->x.shape[1]}};
    plan_tiles(&plan, rf_cuda_backend_of(s)->l2_bytes);
    RF_TRY(carve_all(s, &plan));
    RF_TRY(begin(&plan, plan.lists));
    for (int64_t row = 0; row < plan.n_rows; row += plan.block_rows) {
        for (int64_t latent = 0; latent < plan.n_latents; latent += plan.tile) {
            RF_TRY(encode_tile(s, &plan, row, latent));
        }
    }
    for (int l = 0; l < args->n_lists; l++) {
        rf_cuda_list_finish(&plan, &plan.lists[l]);
    }
fail:
    return status;
}

static rf_status no_rows(rf_stream *s, const rf_encode_args *args)
{
    rf_status status = RF_OK;
    const cudaStream_t stream = rf_cuda_stream_of(s);
    for (int l = 0; l < args->n_lists; l++) {
        const rf_select_list *list = &args->lists[l];
        list->codes->n_rows = 0;
        RF_CUDA_TRY(cudaMemsetAsync(list->codes->row_start, 0, sizeof(int64_t), stream));
        if (list->overflow != NULL) {
            RF_CUDA_TRY(cudaMemsetAsync(list->overflow, 0, sizeof(int64_t), stream));
        }
    }
    if (args->n_refused != NULL) {
        RF_CUDA_TRY(cudaMemsetAsync(args->n_refused, 0, sizeof(int64_t), stream));
    }
fail:
    return status;
}

rf_status rf_cuda_encode(rf_stream *s, const rf_encode_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(args->x.shape[0] == 0 ? no_rows(s, args) : encode_rows(s, args));
    RF_TRY(rf_cuda_launched(s, "encode"));
fail:
    return status;
}
