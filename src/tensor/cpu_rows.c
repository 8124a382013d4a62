/* Operations on rows of the coder's tensors: residual, sums. */
#include "coder_ops_impl.h"

#include <math.h>
#include <string.h>

/* g = scale * (x_hat - x); g may be either. */
static void scaled_difference(const float *x, const float *x_hat, float *g, int64_t n, float scale)
{
#pragma omp simd
    for (int64_t d = 0; d < n; d++) {
        g[d] = scale * (x_hat[d] - x[d]);
    }
}

static void residual_row(const rf_residual_args *args, int64_t b, float *difference)
{
    int64_t d = args->x.shape[1];
    bool is_valid = args->row_valid == NULL || args->row_valid[b] != 0;
    const float *x = rf_row(&args->x, b);
    const float *x_hat = rf_row(&args->x_hat, args->x_hat.shape[0] == 1 ? 0 : b);
    float loss = 0.0f;
    if (is_valid && args->row_loss.data != NULL) {
        scaled_difference(x, x_hat, difference, d, 1.0f);
        loss = rf_dot(difference, difference, d);
    }
    if (args->row_loss.data != NULL) {
        ((float *)args->row_loss.data)[b] = loss;
    }
    if (args->g.data != NULL && is_valid) {
        scaled_difference(x, x_hat, rf_row_mut(&args->g, b), d, args->scale);
    } else if (args->g.data != NULL) {
        memset(rf_row_mut(&args->g, b), 0, sizeof(float) * (size_t)d);
    }
}

rf_status rf_cpu_residual(rf_stream *s, const rf_residual_args *args)
{
    rf_status status = RF_OK;
    int n_threads = rf_cpu_n_threads(s);
    int64_t stride = rf_ceil_div(args->x.shape[1], 16) * 16;
    void *scratch;

    RF_TRY(rf_cpu_scratch(s, sizeof(float) * (size_t)(stride * n_threads), &scratch));
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t b = 0; b < args->x.shape[0]; b++) {
        residual_row(args, b, (float *)scratch + rf_cpu_thread() * stride);
    }
fail:
    return status;
}

/* Blocks of rows are summed apart, rows in order, then added in order as doubles. */
enum { SUM_BLOCK = 256 };

static void sum_block(const rf_row_sum_args *args, int64_t first, int64_t last, float *acc)
{
    int64_t d = args->x.shape[1];
    const float *weight = args->weight.data;
    memset(acc, 0, sizeof(float) * (size_t)d);
    for (int64_t b = first; b < last; b++) {
        const float *x = rf_row(&args->x, b);
        float w = weight == NULL ? 1.0f : weight[b];
        for (int64_t j = 0; w != 0.0f && j < d; j++) { /* a weight of 0 adds nothing */
            acc[j] = fmaf(w, x[j], acc[j]);
        }
    }
}

rf_status rf_cpu_row_sum(rf_stream *s, const rf_row_sum_args *args)
{
    rf_status status = RF_OK;
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    int64_t n_blocks = rf_ceil_div(n, SUM_BLOCK);
    float *out = args->out.data;
    void *scratch;

    RF_TRY(rf_cpu_scratch(s, sizeof(float) * (size_t)(n_blocks * d), &scratch));
    float *partial = scratch;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t k = 0; k < n_blocks; k++) {
        sum_block(args, k * SUM_BLOCK, rf_min_i64((k + 1) * SUM_BLOCK, n), partial + k * d);
    }
    for (int64_t j = 0; j < d; j++) {
        double sum = 0.0;
        for (int64_t k = 0; k < n_blocks; k++) {
            sum += (double)partial[k * d + j];
        }
        sum *= (double)args->alpha;
        out[j] = (float)(args->beta == 0.0f ? sum : (double)out[j] + sum);
    }
fail:
    return status;
}

double rf_cpu_sum_doubles(const double *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t first = 0; first < n; first += SUM_BLOCK) {
        double block = 0.0;
        for (int64_t i = first; i < rf_min_i64(first + SUM_BLOCK, n); i++) {
            block += x[i];
        }
        sum += block;
    }
    return sum;
}

rf_status rf_cpu_sum_squares(rf_stream *s, const rf_view *x, double *out, double beta)
{
    rf_status status = RF_OK;
    int64_t n = x->shape[0];
    void *scratch;

    RF_TRY(rf_cpu_scratch(s, sizeof(double) * (size_t)n, &scratch));
    double *squares = scratch;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n; i++) {
        squares[i] = (double)rf_dot(rf_row(x, i), rf_row(x, i), x->shape[1]);
    }
    const double sum = rf_cpu_sum_doubles(squares, n);
    *out = beta == 0.0 ? sum : *out + sum;
fail:
    return status;
}
