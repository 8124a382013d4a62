/* Prefixes of a Matryoshka coder: each is measured, and a group's gradient is that of all prefixes
 * which hold it. */
#include "coder_ops_impl.h"

#include <math.h>
#include <string.h>

/* r = x_hat - x; sum += weight * r; x_hat = scale * sum. */
static void fold_prefix(const float *restrict x, float *restrict x_hat, float *restrict r,
                        float *restrict sum, int64_t n, float weight, float scale)
{
    for (int64_t d = 0; d < n; d++) {
        r[d] = x_hat[d] - x[d];
        sum[d] = fmaf(weight, r[d], sum[d]);
        x_hat[d] = scale * sum[d];
    }
}

static void put(const rf_view *out, int64_t b, float value)
{
    if (out->data != NULL) {
        ((float *)out->data)[b] = value;
    }
}

/* `work` [2 D]. */
static void prefix_row(const rf_prefix_residual_args *args, int64_t b, float *work)
{
    int64_t d = args->x.shape[1];
    float *r = work, *sum = work + d, *x_hat = rf_row_mut(&args->x_hat, b);
    float square[RF_MAX_GROUPS] = {0}, loss = 0.0f;
    if (args->row_valid != NULL && args->row_valid[b] == 0) {
        memset(x_hat, 0, sizeof(float) * (size_t)(d * args->n_groups));
    } else {
        memset(sum, 0, sizeof(float) * (size_t)d);
        for (int q = args->n_groups - 1; q >= 0; q--) {
            fold_prefix(rf_row(&args->x, b), x_hat + q * d, r, sum, d, args->weight[q],
                        args->scale);
            square[q] = rf_dot(r, r, d);
        }
    }
    for (int q = 0; q < args->n_groups; q++) {
        loss = fmaf(args->weight[q], square[q], loss);
    }
    put(&args->row_loss, b, loss);
    put(&args->row_last, b, square[args->n_groups - 1]);
}

rf_status rf_cpu_prefix_residual(rf_stream *s, const rf_prefix_residual_args *args)
{
    rf_status status = RF_OK;
    int n_threads = rf_cpu_n_threads(s);
    int64_t stride = rf_ceil_div(2 * args->x.shape[1], 16) * 16;
    void *scratch;

    RF_TRY(rf_cpu_scratch(s, sizeof(float) * (size_t)(stride * n_threads), &scratch));
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t b = 0; b < args->x.shape[0]; b++) {
        prefix_row(args, b, (float *)scratch + rf_cpu_thread() * stride);
    }
fail:
    return status;
}
