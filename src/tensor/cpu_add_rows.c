/* Weighted sums of rows: the inner loop of decode and of gradients by latent. Each element's chain
 * of FMAs is the same whatever the grouping or the width of the registers. */
#include "coder_ops_impl.h"

#include <math.h>

typedef struct row_group {
    const float *r0, *r1, *r2, *r3;
    float w0, w1, w2, w3;
} row_group;

static void add_four(float *restrict acc, int64_t n, const row_group *g)
{
    const float *restrict r0 = g->r0, *restrict r1 = g->r1, *restrict r2 = g->r2,
                          *restrict r3 = g->r3;
    float w0 = g->w0, w1 = g->w1, w2 = g->w2, w3 = g->w3;
    for (int64_t d = 0; d < n; d++) {
        acc[d] = fmaf(w3, r3[d], fmaf(w2, r2[d], fmaf(w1, r1[d], fmaf(w0, r0[d], acc[d]))));
    }
}

static void add_one(float *restrict acc, int64_t n, const float *restrict row, float weight)
{
    for (int64_t d = 0; d < n; d++) {
        acc[d] = fmaf(weight, row[d], acc[d]);
    }
}

void rf_cpu_add_rows(float *acc, int64_t n, const float *base, int64_t stride, const int32_t *row,
                     const float *weight, int64_t count)
{
    int64_t j = 0;
    for (; j + 4 <= count; j += 4) {
        row_group g = {.r0 = base + (int64_t)row[j] * stride,
                       .r1 = base + (int64_t)row[j + 1] * stride,
                       .r2 = base + (int64_t)row[j + 2] * stride,
                       .r3 = base + (int64_t)row[j + 3] * stride,
                       .w0 = weight[j],
                       .w1 = weight[j + 1],
                       .w2 = weight[j + 2],
                       .w3 = weight[j + 3]};
        add_four(acc, n, &g);
    }
    for (; j < count; j++) {
        add_one(acc, n, base + (int64_t)row[j] * stride, weight[j]);
    }
}
