/* Sums over rows, column by column: blocks of rows apart, rows in order; then blocks in order, as
 * doubles. */
#include "coder_ops_impl.h"

#include <math.h>
#include <string.h>

enum { BLOCK_ROWS = 256 };

void rf_cpu_add_blocks(const float *partial, int64_t n_blocks, int64_t stride, int64_t d,
                       float *out)
{
    for (int64_t j = 0; j < d; j++) {
        double sum = 0.0;
        for (int64_t k = 0; k < n_blocks; k++) {
            sum += (double)partial[k * stride + j];
        }
        out[j] = (float)((double)out[j] + sum);
    }
}

static void dot_block(const rf_view *x, const rf_view *y, int64_t first, int64_t last, float *acc)
{
    const int64_t d = x->shape[1];
    memset(acc, 0, sizeof *acc * (size_t)d);
    for (int64_t i = first; i < last; i++) {
        const float *a = rf_row(x, i), *b = rf_row(y, i);
        for (int64_t j = 0; j < d; j++) {
            acc[j] = fmaf(a[j], b[j], acc[j]);
        }
    }
}

rf_status rf_cpu_column_dot(rf_stream *s, const rf_view *x, const rf_view *y, const rf_view *out)
{
    rf_status status = RF_OK;
    const int64_t n = x->shape[0], d = x->shape[1], n_blocks = rf_ceil_div(n, BLOCK_ROWS);
    void *scratch;

    RF_TRY(rf_cpu_scratch(s, sizeof(float) * (size_t)(n_blocks * d), &scratch));
    float *partial = scratch;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t k = 0; k < n_blocks; k++) {
        dot_block(x, y, k * BLOCK_ROWS, rf_min_i64((k + 1) * BLOCK_ROWS, n), partial + k * d);
    }
    rf_cpu_add_blocks(partial, n_blocks, d, d, out->data);
fail:
    return status;
}
