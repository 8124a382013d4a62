/* Gradient of layer norm: rows in blocks; what is summed over rows is summed within a block, rows
 * in order, and blocks are added in order. */
#include "tensor_impl.h"

#include <string.h>

enum { BLOCK_ROWS = 64 };

/* What one thread works on: a row's normalised x and its gradient times weight [d] each. */
typedef struct row_work {
    float *normalised, *g;
} row_work;

/* The gradient by one row of x; `d_scale` gets the gradient by the scale where it is asked for. */
static void row_grad(const row_work *w, int64_t d, float scale, float *d_x, float *d_scale)
{
    const float mean_g = rf_cpu_sum_lanes(w->g, d) / (float)d;
    const float dot = rf_dot(w->g, w->normalised, d), inverse = 1.0f / scale;
    const float along = d_scale == NULL ? dot / (float)d : 0.0f;
    if (d_scale != NULL) {
        *d_scale = -dot * inverse;
    }
    for (int64_t j = 0; d_x != NULL && j < d; j++) {
        d_x[j] = (w->g[j] - mean_g - w->normalised[j] * along) * inverse;
    }
}

static void normalise(const float *x, int64_t d, float scale, float *out)
{
    const float mean = rf_cpu_sum_lanes(x, d) / (float)d, inverse = 1.0f / scale;
    for (int64_t j = 0; j < d; j++) {
        out[j] = (x[j] - mean) * inverse;
    }
}

/* g = d_y * weight. */
static void weigh(const float *d_y, const float *weight, int64_t d, float *g)
{
    for (int64_t j = 0; j < d; j++) {
        g[j] = weight == NULL ? d_y[j] : d_y[j] * weight[j];
    }
}

/* The block's sums for d_weight and d_bias [d] each, added to. */
static void add_to_sums(const float *d_y, const float *normalised, int64_t d, float *sums)
{
    float *of_weight = sums, *of_bias = sums + d;
    for (int64_t j = 0; j < d; j++) {
        of_weight[j] += d_y[j] * normalised[j];
        of_bias[j] += d_y[j];
    }
}

/* `sums` [2, d] may be NULL. A row is read whole before its d_x is written: d_x may be d_y. */
static void block_grad(const rf_layer_norm_grad_args *args, int64_t first, int64_t last,
                       const row_work *w, float *sums)
{
    const int64_t d = args->x.shape[1];
    const float *scale = args->scale.data;
    float *d_scale = args->d_scale.data;
    if (sums != NULL) {
        memset(sums, 0, sizeof *sums * (size_t)(2 * d));
    }
    for (int64_t i = first; i < last; i++) {
        const float *d_y = (const float *)args->d_y.data + i * args->d_y.stride[0];
        float *d_x = args->d_x.data;
        normalise((const float *)args->x.data + i * args->x.stride[0], d, scale[i], w->normalised);
        if (sums != NULL) {
            add_to_sums(d_y, w->normalised, d, sums);
        }
        weigh(d_y, args->weight.data, d, w->g);
        row_grad(w, d, scale[i], d_x == NULL ? NULL : d_x + i * args->d_x.stride[0],
                 d_scale == NULL ? NULL : d_scale + i);
    }
}

rf_status rf_cpu_layer_norm_grad(rf_stream *s, const rf_layer_norm_grad_args *args)
{
    rf_status status = RF_OK;
    const int64_t n = args->x.shape[0], d = args->x.shape[1];
    const int64_t n_blocks = rf_ceil_div(n, BLOCK_ROWS), padded = rf_ceil_div(d, 16) * 16;
    const bool has_sums = args->d_weight.data != NULL || args->d_bias.data != NULL;
    const int n_threads = rf_cpu_n_threads(s);
    const int64_t n_work = 2 * padded * n_threads, n_sums = has_sums ? 2 * d * n_blocks : 0;
    void *scratch;

    RF_TRY(rf_cpu_scratch(s, sizeof(float) * (size_t)(n_work + n_sums), &scratch));
    float *work = scratch, *sums = work + n_work;
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t k = 0; k < n_blocks; k++) {
        float *mine = work + 2 * padded * rf_cpu_thread();
        const row_work w = {.normalised = mine, .g = mine + padded};
        block_grad(args, k * BLOCK_ROWS, rf_min_i64((k + 1) * BLOCK_ROWS, n), &w,
                   has_sums ? sums + 2 * d * k : NULL);
    }
    if (args->d_weight.data != NULL) {
        rf_cpu_add_blocks(sums, n_blocks, 2 * d, d, args->d_weight.data);
    }
    if (args->d_bias.data != NULL) {
        rf_cpu_add_blocks(sums + d, n_blocks, 2 * d, d, args->d_bias.data);
    }
fail:
    return status;
}

rf_status rf_cpu_layer_norm_scale_grad(rf_stream *s, const rf_layer_norm_grad_args *args)
{
    const int64_t n = args->x.shape[0], d = args->x.shape[1];
    const float *scale = args->scale.data, *d_scale = args->d_scale.data;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n; i++) {
        const float *x = (const float *)args->x.data + i * args->x.stride[0];
        float *d_x = (float *)args->d_x.data + i * args->d_x.stride[0];
        const float mean = rf_cpu_sum_lanes(x, d) / (float)d;
        const float along = d_scale[i] / ((float)d * scale[i]);
        for (int64_t j = 0; j < d; j++) {
            d_x[j] += along * (x[j] - mean);
        }
    }
    return RF_OK;
}
