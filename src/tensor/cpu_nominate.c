/* A row of products against a threshold: the hot loop of selection. */
#include "coder_ops_impl.h"

#include <math.h>

enum { CHUNK = 32 }; /* most chunks hold nothing: one test answers for all of it */

int64_t rf_cpu_nominate_plain(const float *p, const float *norm, const float *offset, int64_t n,
                              float scale, float threshold, int32_t *out)
{
    int64_t count = 0;
    for (int64_t j0 = 0; j0 < n; j0 += CHUNK) {
        int64_t j1 = rf_min_i64(j0 + CHUNK, n);
        int any = 0;
        for (int64_t j = j0; j < j1; j++) {
            any |= fmaf(scale, norm[j], p[j]) + offset[j] >= threshold;
        }
        for (int64_t j = j0; any != 0 && j < j1; j++) {
            out[count] = (int32_t)j;
            count += fmaf(scale, norm[j], p[j]) + offset[j] >= threshold;
        }
    }
    return count;
}

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

__attribute__((target("avx512f"))) static int64_t nominate_avx512(const float *p, const float *norm,
                                                                  const float *offset, int64_t n,
                                                                  float scale, float threshold,
                                                                  int32_t *out)
{
    __m512 vs = _mm512_set1_ps(scale), vt = _mm512_set1_ps(threshold);
    __m512i step = _mm512_set1_epi32(16);
    __m512i idx = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int64_t count = 0, j = 0;
    for (; j + 16 <= n; j += 16) {
        __m512 v = _mm512_fmadd_ps(vs, _mm512_loadu_ps(norm + j), _mm512_loadu_ps(p + j));
        v = _mm512_add_ps(v, _mm512_loadu_ps(offset + j));
        __mmask16 m = _mm512_cmp_ps_mask(v, vt, _CMP_GE_OQ);
        if (m != 0) {
            _mm512_mask_compressstoreu_epi32(out + count, m, idx);
            count += __builtin_popcount(m);
        }
        idx = _mm512_add_epi32(idx, step);
    }
    for (; j < n; j++) {
        if (fmaf(scale, norm[j], p[j]) + offset[j] >= threshold) {
            out[count++] = (int32_t)j;
        }
    }
    return count;
}
#endif

int64_t rf_cpu_nominate(const float *p, const float *norm, const float *offset, int64_t n,
                        float scale, float threshold, int32_t *out)
{
#if defined(__AVX2__) && defined(__FMA__)
    if (__builtin_cpu_supports("avx512f")) {
        return nominate_avx512(p, norm, offset, n, scale, threshold, out);
    }
#endif
    return rf_cpu_nominate_plain(p, norm, offset, n, scale, threshold, out);
}
