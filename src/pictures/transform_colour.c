/* Rows of planes to rows of pixels. Colours are integers with 6 bits behind the point, so that no
 * bit depends on which of the two ways below computes them. */
#include "image_impl.h"

enum {
    BITS = 6,
    /* JFIF's conversion, times 2^13: a product with chroma * 2^8, shifted by 15, has BITS. */
    RED_OF_CR = 11485,   /* 1.402 */
    GREEN_OF_CB = -2819, /* 0.344136 */
    GREEN_OF_CR = -5850, /* 0.714136 */
    BLUE_OF_CB = 14516   /* 1.772 */
};

/* As _mm256_mulhrs_epi16 rounds. */
static int32_t times(int32_t chroma, int32_t factor)
{
    return (chroma * 256 * factor + (1 << 14)) >> 15;
}

static uint8_t clip(int32_t v)
{
    v = (v + (1 << (BITS - 1))) >> BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void ycbcr_plain(const uint8_t *const planes[3], int64_t n, uint8_t *to)
{
    for (int64_t x = 0; x < n; x++) {
        const int32_t y = planes[0][x] << BITS, cb = planes[1][x] - 128, cr = planes[2][x] - 128;
        to[3 * x] = clip(y + times(cr, RED_OF_CR));
        to[3 * x + 1] = clip(y + times(cb, GREEN_OF_CB) + times(cr, GREEN_OF_CR));
        to[3 * x + 2] = clip(y + times(cb, BLUE_OF_CB));
    }
}

static void rgb_plain(const uint8_t *const planes[3], int64_t n, uint8_t *to)
{
    for (int64_t x = 0; x < n; x++) {
        to[3 * x] = planes[0][x];
        to[3 * x + 1] = planes[1][x];
        to[3 * x + 2] = planes[2][x];
    }
}

#if defined(__AVX2__)
#include <immintrin.h>

enum { STEP = 16 };

static inline __m128i load(const uint8_t *from)
{
    return _mm_loadu_si128((const __m128i *)(const void *)from);
}

/* 16 pixels of three planes, side by side. */
static inline void store_pixels(__m128i r, __m128i g, __m128i b, uint8_t *to)
{
    const __m128i red[3] = {
        _mm_setr_epi8(0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5),
        _mm_setr_epi8(-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1),
        _mm_setr_epi8(-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1)};
    const __m128i green[3] = {
        _mm_setr_epi8(-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1),
        _mm_setr_epi8(5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10),
        _mm_setr_epi8(-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1)};
    const __m128i blue[3] = {
        _mm_setr_epi8(-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1),
        _mm_setr_epi8(-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1),
        _mm_setr_epi8(10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15)};
    for (int i = 0; i < 3; i++) {
        const __m128i rg = _mm_or_si128(_mm_shuffle_epi8(r, red[i]), _mm_shuffle_epi8(g, green[i]));
        _mm_storeu_si128((__m128i *)(void *)(to + STEP * i),
                         _mm_or_si128(rg, _mm_shuffle_epi8(b, blue[i])));
    }
}

/* Chroma of 16 pixels, less 128, times 2^8. */
static inline __m256i load_chroma(const uint8_t *from)
{
    const __m256i wide = _mm256_slli_epi16(_mm256_cvtepu8_epi16(load(from)), 8);
    return _mm256_xor_si256(wide, _mm256_set1_epi16(INT16_MIN));
}

static inline __m256i scale(__m256i chroma, int factor)
{
    return _mm256_mulhrs_epi16(chroma, _mm256_set1_epi16((int16_t)factor));
}

static inline __m128i to_bytes(__m256i v)
{
    v = _mm256_srai_epi16(v, BITS);
    return _mm_packus_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

static inline void ycbcr_step(const uint8_t *const planes[3], int64_t x, uint8_t *to)
{
    const __m256i half = _mm256_set1_epi16(1 << (BITS - 1));
    const __m256i luma = _mm256_cvtepu8_epi16(load(planes[0] + x));
    const __m256i y = _mm256_add_epi16(_mm256_slli_epi16(luma, BITS), half);
    const __m256i cb = load_chroma(planes[1] + x), cr = load_chroma(planes[2] + x);
    const __m256i of_green = _mm256_add_epi16(scale(cb, GREEN_OF_CB), scale(cr, GREEN_OF_CR));
    store_pixels(to_bytes(_mm256_add_epi16(y, scale(cr, RED_OF_CR))),
                 to_bytes(_mm256_add_epi16(y, of_green)),
                 to_bytes(_mm256_add_epi16(y, scale(cb, BLUE_OF_CB))), to + 3 * x);
}

void rf_transform_ycbcr(const uint8_t *const planes[3], int64_t n, uint8_t *to)
{
    for (int64_t x = 0; n >= STEP && x < n; x += STEP) {
        ycbcr_step(planes, rf_min_i64(x, n - STEP), to); /* the last may do some again */
    }
    ycbcr_plain(planes, n < STEP ? n : 0, to);
}

void rf_transform_rgb(const uint8_t *const planes[3], int64_t n, uint8_t *to)
{
    for (int64_t x = 0; n >= STEP && x < n; x += STEP) {
        const int64_t at = rf_min_i64(x, n - STEP);
        store_pixels(load(planes[0] + at), load(planes[1] + at), load(planes[2] + at), to + 3 * at);
    }
    rgb_plain(planes, n < STEP ? n : 0, to);
}
#else
void rf_transform_ycbcr(const uint8_t *const planes[3], int64_t n, uint8_t *to)
{
    ycbcr_plain(planes, n, to);
}

void rf_transform_rgb(const uint8_t *const planes[3], int64_t n, uint8_t *to)
{
    rgb_plain(planes, n, to);
}
#endif
