/* One dot product with the same bits everywhere. 32 lanes: lane l sums a[i] * b[i] for i = l, l +
 * 32,
 * ... by FMA from +0, i rising; then lanes are added in halves: l + (l + 16), then + 8, 4, 2, 1.
 * Two AVX-512 registers hold the lanes, or four of AVX2, or an array; a device may give each lane
 * to a thread. */
#include "coder_ops_impl.h"

#include <math.h>
#include <string.h>

enum { LANES = 32 };

static float dot_plain(const float *a, const float *b, int64_t n)
{
    float lane[LANES] = {0};
    for (int64_t i = 0; i < n; i++) {
        lane[i % LANES] = fmaf(a[i], b[i], lane[i % LANES]);
    }
    for (int half = LANES / 2; half >= 1; half /= 2) {
        for (int l = 0; l < half; l++) {
            lane[l] += lane[l + half];
        }
    }
    return lane[0];
}

static void rows_plain(const float *x, const float *base, int64_t stride, const int32_t *idx,
                       int64_t n_idx, int64_t n, float *out)
{
    for (int64_t j = 0; j < n_idx; j++) {
        out[j] = dot_plain(x, base + (int64_t)idx[j] * stride, n);
    }
}

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

static inline float halve_4(__m128 h)
{
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    h = _mm_add_ss(h, _mm_shuffle_ps(h, h, 1));
    return _mm_cvtss_f32(h);
}

static inline float halve_avx2(const __m256 s[4])
{
    __m256 q = _mm256_add_ps(_mm256_add_ps(s[0], s[2]), _mm256_add_ps(s[1], s[3]));
    return halve_4(_mm_add_ps(_mm256_castps256_ps128(q), _mm256_extractf128_ps(q, 1)));
}

static float dot_avx2(const float *a, const float *b, int64_t n)
{
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                   _mm256_setzero_ps()};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < 4; j++) {
            s[j] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8 * j), _mm256_loadu_ps(b + i + 8 * j),
                                   s[j]);
        }
    }
    if (i < n) { /* an added zero product keeps a lane's bits: lanes start at +0, so none is -0 */
        float ta[LANES] = {0}, tb[LANES] = {0};
        memcpy(ta, a + i, sizeof(float) * (size_t)(n - i));
        memcpy(tb, b + i, sizeof(float) * (size_t)(n - i));
        for (int j = 0; j < 4; j++) {
            s[j] = _mm256_fmadd_ps(_mm256_loadu_ps(ta + 8 * j), _mm256_loadu_ps(tb + 8 * j), s[j]);
        }
    }
    return halve_avx2(s);
}

static void rows_avx2(const float *x, const float *base, int64_t stride, const int32_t *idx,
                      int64_t n_idx, int64_t n, float *out)
{
    for (int64_t j = 0; j < n_idx; j++) {
        out[j] = dot_avx2(x, base + (int64_t)idx[j] * stride, n);
    }
}

#define AVX512 __attribute__((target("avx512f")))

AVX512 static inline float halve_avx512(__m512 lo, __m512 hi)
{
    __m512 s = _mm512_add_ps(lo, hi);
    __m256 top = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(s), 1));
    __m256 q = _mm256_add_ps(_mm512_castps512_ps256(s), top);
    return halve_4(_mm_add_ps(_mm256_castps256_ps128(q), _mm256_extractf128_ps(q, 1)));
}

/* Lanes that are left at the end of a row of n. */
AVX512 static inline void tail_masks(int64_t n, __mmask16 *lo, __mmask16 *hi)
{
    uint32_t m = (UINT32_C(1) << (n % LANES)) - 1;
    *lo = (__mmask16)(m & 0xffff);
    *hi = (__mmask16)(m >> 16);
}

AVX512 static float dot_avx512(const float *a, const float *b, int64_t n)
{
    __m512 lo = _mm512_setzero_ps(), hi = lo;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lo = _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), lo);
        hi = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 16), _mm512_loadu_ps(b + i + 16), hi);
    }
    if (i < n) {
        __mmask16 ml, mh;
        tail_masks(n, &ml, &mh);
        lo = _mm512_mask3_fmadd_ps(_mm512_maskz_loadu_ps(ml, a + i),
                                   _mm512_maskz_loadu_ps(ml, b + i), lo, ml);
        hi = _mm512_mask3_fmadd_ps(_mm512_maskz_loadu_ps(mh, a + i + 16),
                                   _mm512_maskz_loadu_ps(mh, b + i + 16), hi, mh);
    }
    return halve_avx512(lo, hi);
}

/* Four at a time hide the latency of the FMA. */
AVX512 static void four_avx512(const float *x, const float *const w[4], int64_t n, float *out)
{
    __m512 lo[4], hi[4];
    for (int r = 0; r < 4; r++) {
        lo[r] = hi[r] = _mm512_setzero_ps();
    }
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        __m512 xl = _mm512_loadu_ps(x + i), xh = _mm512_loadu_ps(x + i + 16);
        for (int r = 0; r < 4; r++) {
            lo[r] = _mm512_fmadd_ps(xl, _mm512_loadu_ps(w[r] + i), lo[r]);
            hi[r] = _mm512_fmadd_ps(xh, _mm512_loadu_ps(w[r] + i + 16), hi[r]);
        }
    }
    if (i < n) {
        __mmask16 ml, mh;
        tail_masks(n, &ml, &mh);
        __m512 xl = _mm512_maskz_loadu_ps(ml, x + i), xh = _mm512_maskz_loadu_ps(mh, x + i + 16);
        for (int r = 0; r < 4; r++) {
            lo[r] = _mm512_mask3_fmadd_ps(xl, _mm512_maskz_loadu_ps(ml, w[r] + i), lo[r], ml);
            hi[r] = _mm512_mask3_fmadd_ps(xh, _mm512_maskz_loadu_ps(mh, w[r] + i + 16), hi[r], mh);
        }
    }
    for (int r = 0; r < 4; r++) {
        out[r] = halve_avx512(lo[r], hi[r]);
    }
}

AVX512 static void rows_avx512(const float *x, const float *base, int64_t stride,
                               const int32_t *idx, int64_t n_idx, int64_t n, float *out)
{
    int64_t j = 0;
    for (; j + 4 <= n_idx; j += 4) {
        const float *w[4];
        for (int r = 0; r < 4; r++) {
            w[r] = base + (int64_t)idx[j + r] * stride;
        }
        four_avx512(x, w, n, out + j);
    }
    for (; j < n_idx; j++) {
        out[j] = dot_avx512(x, base + (int64_t)idx[j] * stride, n);
    }
}
#endif

static const rf_dot_kernel kernels[] = {
    {"plain", dot_plain, rows_plain},
#if defined(__AVX2__) && defined(__FMA__)
    {"avx2", dot_avx2, rows_avx2},
    {"avx512", dot_avx512, rows_avx512},
#endif
};

int rf_dot_kernels(const rf_dot_kernel **out)
{
    *out = kernels;
    int n = (int)(sizeof kernels / sizeof kernels[0]);
#if defined(__AVX2__) && defined(__FMA__)
    return __builtin_cpu_supports("avx512f") ? n : n - 1;
#else
    return n;
#endif
}

float rf_dot(const float *a, const float *b, int64_t n)
{
    const rf_dot_kernel *k;
    int count = rf_dot_kernels(&k);
    return k[count - 1].dot(a, b, n);
}

void rf_dot_rows(const float *x, const float *base, int64_t stride, const int32_t *idx,
                 int64_t n_idx, int64_t n, float *out)
{
    const rf_dot_kernel *k;
    int count = rf_dot_kernels(&k);
    k[count - 1].rows(x, base, stride, idx, n_idx, n, out);
}
