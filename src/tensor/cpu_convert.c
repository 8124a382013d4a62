/* Numbers from one type to another: fp32 to and from fp16 and bf16, to the nearest, ties to even.
 */
#include "tensor_impl.h"

#include <string.h>

#ifdef __F16C__
#include <immintrin.h>
#endif

enum { BLOCK_ELEMS = 1 << 14 }; /* what a thread takes at a time */

#ifdef __F16C__
static void to_f16(const float *x, uint16_t *y, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(y + i), h);
    }
    for (; i < n; i++) {
        y[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
    }
}

static void from_f16(const uint16_t *x, float *y, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(x + i));
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(h));
    }
    for (; i < n; i++) {
        y[i] = _cvtsh_ss(x[i]);
    }
}
#else
static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Adding 2^(e + 13) and taking it away again rounds to the ten bits that fp16 keeps; a subnormal's
 * last bit is 2^-24. */
static uint16_t to_f16_one(float x)
{
    const uint32_t sign = bits_of(x) >> 16 & 0x8000u, magnitude = bits_of(x) & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu)); /* NaN stays one */
    }
    if (magnitude >= 0x477ff000u) { /* 65520 and above, the first that round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) { /* below 2^-14 */
        return (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)));
    }
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
}

static float from_f16_one(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
    const float x = float_of(magnitude << 13) * 0x1p112f;
    return float_of(sign | (magnitude >= 0x7c00u ? 0x7f800000u | magnitude << 13 : bits_of(x)));
}

static void to_f16(const float *x, uint16_t *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = to_f16_one(x[i]);
    }
}

static void from_f16(const uint16_t *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = from_f16_one(x[i]);
    }
}
#endif

/* Elements first .. first + n - 1. */
static void convert(const rf_view *x, const rf_view *y, int64_t first, int64_t n)
{
    const char *from = (const char *)x->data + (size_t)first * rf_dtype_bytes(x->dtype);
    char *to = (char *)y->data + (size_t)first * rf_dtype_bytes(y->dtype);
    if (x->dtype == y->dtype) {
        memmove(to, from, (size_t)n * rf_dtype_bytes(x->dtype));
    } else if (y->dtype == RF_F16) {
        to_f16((const float *)(const void *)from, (uint16_t *)(void *)to, n);
    } else if (y->dtype == RF_BF16) {
        rf_cpu_to_bf16((const float *)(const void *)from, (uint16_t *)(void *)to, n);
    } else if (x->dtype == RF_F16) {
        from_f16((const uint16_t *)(const void *)from, (float *)(void *)to, n);
    } else {
        rf_cpu_from_bf16((const uint16_t *)(const void *)from, (float *)(void *)to, n);
    }
}

rf_status rf_cpu_convert(rf_stream *s, const rf_view *x, const rf_view *y)
{
    const int64_t n = rf_view_n_elems(x);
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t first = 0; first < n; first += BLOCK_ELEMS) {
        convert(x, y, first, rf_min_i64(BLOCK_ELEMS, n - first));
    }
    return RF_OK;
}
