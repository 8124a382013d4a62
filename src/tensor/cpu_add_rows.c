/* Weighted sums of rows: the inner loop of decode and of gradients by latent. Each element's chain
 * of FMAs is the same whatever the grouping or the width of the registers. */
#include "coder_ops_impl.h"

#include <math.h>

enum { MOST = 8 }; /* rows that go into the sum in one pass over it */

/* Rows that are taken together, and their weights. */
typedef struct row_group {
    const float *row[MOST];
    float weight[MOST];
} row_group;

static void add_four(float *restrict acc, int64_t n, const row_group *g)
{
    const float *restrict r0 = g->row[0], *restrict r1 = g->row[1], *restrict r2 = g->row[2],
                          *restrict r3 = g->row[3];
    float w0 = g->weight[0], w1 = g->weight[1], w2 = g->weight[2], w3 = g->weight[3];
    for (int64_t d = 0; d < n; d++) {
        acc[d] = fmaf(w3, r3[d], fmaf(w2, r2[d], fmaf(w1, r1[d], fmaf(w0, r0[d], acc[d]))));
    }
}

static void add_one(float *restrict acc, int64_t n, const row_group *g)
{
    const float *restrict row = g->row[0];
    float weight = g->weight[0];
    for (int64_t d = 0; d < n; d++) {
        acc[d] = fmaf(weight, row[d], acc[d]);
    }
}

static void take(row_group *g, const float *base, int64_t stride, const int32_t *row,
                 const float *weight, int count)
{
    for (int r = 0; r < count; r++) {
        g->row[r] = base + (int64_t)row[r] * stride;
        g->weight[r] = weight[r];
    }
}

void rf_cpu_add_rows_plain(float *acc, int64_t n, const float *base, int64_t stride,
                           const int32_t *row, const float *weight, int64_t count)
{
    row_group g;
    int64_t j = 0;
    for (; j + 4 <= count; j += 4) {
        take(&g, base, stride, row + j, weight + j, 4);
        add_four(acc, n, &g);
    }
    for (; j < count; j++) {
        take(&g, base, stride, row + j, weight + j, 1);
        add_one(acc, n, &g);
    }
}

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f")))

/* `count` is a constant where this is called, so that weights stay in registers. */
AVX512 static inline __attribute__((always_inline)) void add_avx512(float *acc, int64_t n,
                                                                    const row_group *g, int count)
{
    __m512 w[MOST];
    for (int r = 0; r < count; r++) {
        w[r] = _mm512_set1_ps(g->weight[r]);
    }
    int64_t d = 0;
    for (; d + 16 <= n; d += 16) {
        __m512 sum = _mm512_loadu_ps(acc + d);
        for (int r = 0; r < count; r++) {
            sum = _mm512_fmadd_ps(w[r], _mm512_loadu_ps(g->row[r] + d), sum);
        }
        _mm512_storeu_ps(acc + d, sum);
    }
    if (d < n) {
        __mmask16 m = (__mmask16)((1u << (n - d)) - 1);
        __m512 sum = _mm512_maskz_loadu_ps(m, acc + d);
        for (int r = 0; r < count; r++) {
            sum = _mm512_fmadd_ps(w[r], _mm512_maskz_loadu_ps(m, g->row[r] + d), sum);
        }
        _mm512_mask_storeu_ps(acc + d, m, sum);
    }
}

AVX512 static void add_rows_avx512(float *acc, int64_t n, const float *base, int64_t stride,
                                   const int32_t *row, const float *weight, int64_t count)
{
    row_group g;
    int64_t j = 0;
    for (; j + 8 <= count; j += 8) {
        take(&g, base, stride, row + j, weight + j, 8);
        add_avx512(acc, n, &g, 8);
    }
    if (j + 4 <= count) {
        take(&g, base, stride, row + j, weight + j, 4);
        add_avx512(acc, n, &g, 4);
        j += 4;
    }
    if (j + 2 <= count) {
        take(&g, base, stride, row + j, weight + j, 2);
        add_avx512(acc, n, &g, 2);
        j += 2;
    }
    if (j < count) {
        take(&g, base, stride, row + j, weight + j, 1);
        add_avx512(acc, n, &g, 1);
    }
}
#endif

void rf_cpu_add_rows(float *acc, int64_t n, const float *base, int64_t stride, const int32_t *row,
                     const float *weight, int64_t count)
{
#if defined(__AVX2__) && defined(__FMA__)
    if (__builtin_cpu_supports("avx512f")) {
        add_rows_avx512(acc, n, base, stride, row, weight, count);
        return;
    }
#endif
    rf_cpu_add_rows_plain(acc, n, base, stride, row, weight, count);
}
