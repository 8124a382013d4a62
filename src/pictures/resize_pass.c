/* One axis of a resize applied to 8-bit samples, with results of 8 bits: sums are integers of 32
 * bits, so that their order is free and no bit depends on which of the two ways below computes
 * them.
 *
 * With AVX2 the pass across works on eight rows at a time: a lane is a row, two neighbouring
 * samples of each are multiplied by two weights and added in one instruction (once for the upper
 * and once for the lower 16 bits of the weights). The pass down does the same with pairs of rows.
 */
#include "image_impl.h"

#include <string.h>

enum { LANES = 8, BLOCK_PIXELS = 16, DOWN_BYTES = 32 };

/* Bytes that are whole pairs of pixels, of the 16 that are loaded. */
#define STEP_BYTES(n_channels) ((n_channels) == 3 ? 12 : 16)

#define ALWAYS static inline __attribute__((always_inline))

ALWAYS int bits_of(bool is_rough)
{
    return is_rough ? 14 : 22;
}

static uint8_t clip(uint32_t sum, int bits)
{
    const int32_t v = (int32_t)(sum + (1U << (bits - 1))) >> bits;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Weight `t` of result `idx`. */
static uint32_t weight_at(const rf_resize_axis *axis, int64_t idx, int64_t t)
{
    const int64_t at = idx * axis->n_pairs + t / 2;
    const int shift = t % 2 == 0 ? 0 : 16;
    const int32_t low = (int16_t)((uint32_t)axis->low[at] >> shift & 0xffffU);
    const int32_t high = (int16_t)((uint32_t)axis->high[at] >> shift & 0xffffU);
    return ((uint32_t)high << 16) + (uint32_t)low;
}

/* Sample `i` of result `idx`: `step` bytes from one input to the next. */
static uint8_t sum_plain(const rf_resize_axis *axis, int64_t idx, const uint8_t *src, int64_t step)
{
    const int64_t first = axis->first[idx];
    const int64_t n = rf_min_i64(2 * axis->n_pairs, axis->span - first);
    uint32_t sum = 0;
    for (int64_t t = 0; t < n; t++) {
        sum += weight_at(axis, idx, t) * src[(first + t) * step];
    }
    return clip(sum, bits_of(axis->key.is_rough));
}

static void across_plain(const rf_resize_axis *axis, int n_channels, const uint8_t *src,
                         int64_t stride, int64_t n_rows, uint8_t *dst)
{
    for (int64_t y = 0; y < n_rows; y++) {
        for (int64_t x = 0; x < axis->key.n; x++) {
            for (int c = 0; c < n_channels; c++) {
                *dst++ = sum_plain(axis, x, src + y * stride + c, n_channels);
            }
        }
    }
}

static void down_plain(const rf_resize_axis *axis, const uint8_t *src, int64_t stride,
                       int64_t n_bytes, uint8_t *dst)
{
    for (int64_t y = 0; y < axis->key.n; y++) {
        for (int64_t i = 0; i < n_bytes; i++) {
            *dst++ = sum_plain(axis, y, src + i, stride);
        }
    }
}

#if defined(__AVX2__)
#include <immintrin.h>

/* 16 bytes at `src`, of which `n` may be read. */
ALWAYS __m128i load_bytes(const uint8_t *src, int64_t n)
{
    uint8_t bytes[16] = {0};
    if (n >= 16) {
        return _mm_loadu_si128((const __m128i *)(const void *)src);
    }
    memcpy(bytes, src, (size_t)rf_max_i64(n, 0));
    return _mm_loadu_si128((const __m128i *)(const void *)bytes);
}

ALWAYS void shuffle_words(const __m128i from[LANES], __m128i to[LANES])
{
    for (int i = 0; i < LANES / 2; i++) {
        to[2 * i] = _mm_unpacklo_epi16(from[i], from[i + LANES / 2]);
        to[2 * i + 1] = _mm_unpackhi_epi16(from[i], from[i + LANES / 2]);
    }
}

/* Word i of vector j goes to word j of vector i: a perfect shuffle, three times. */
ALWAYS void transpose_words(__m128i v[LANES])
{
    __m128i once[LANES], twice[LANES];
    shuffle_words(v, once);
    shuffle_words(once, twice);
    shuffle_words(twice, v);
}

/* `n` bytes of each of LANES rows from byte `at` on, 16 or fewer, to lanes [n / 2, LANES, 2]. */
ALWAYS __m256i *spread_step(const uint8_t *const rows[LANES], int64_t at, int64_t n, int n_channels,
                            __m256i *lanes)
{
    const __m128i pairs_of_rgb =
        _mm_setr_epi8(0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, -1, -1, -1, -1);
    __m128i v[LANES];
    for (int r = 0; r < LANES; r++) {
        v[r] = load_bytes(rows[r] + at, n);
        v[r] = n_channels == 3 ? _mm_shuffle_epi8(v[r], pairs_of_rgb) : v[r];
    }
    transpose_words(v);
    for (int k = 0; k < STEP_BYTES(n_channels) / 2; k++) {
        _mm256_store_si256(lanes++, _mm256_cvtepu8_epi16(v[k]));
    }
    return lanes;
}

/* To lanes [n_bytes / 2 pairs of neighbours of a channel, LANES, 2] of 16 bits; lanes without a row
 * are copies of the last. Widened here once, and not for each of the results that it is part of. */
ALWAYS void spread_rows(const uint8_t *src, int64_t stride, int64_t n_rows, int64_t n_bytes,
                        int n_channels, __m256i *lanes)
{
    const uint8_t *rows[LANES];
    int64_t at = 0;
    for (int64_t r = 0; r < LANES; r++) {
        rows[r] = src + rf_min_i64(r, n_rows - 1) * stride;
    }
    for (; at + 16 <= n_bytes; at += STEP_BYTES(n_channels)) {
        lanes = spread_step(rows, at, 16, n_channels, lanes);
    }
    for (; at < n_bytes; at += STEP_BYTES(n_channels)) {
        lanes = spread_step(rows, at, n_bytes - at, n_channels, lanes);
    }
}

/* Two sums, of the lower and the upper halves of weights; the latter stays 0 where they are rough.
 */
typedef struct halves {
    __m256i low, high;
} halves;

ALWAYS halves begin_sum(bool is_rough)
{
    return (halves){_mm256_set1_epi32(1 << (bits_of(is_rough) - 1)), _mm256_setzero_si256()};
}

ALWAYS void add_pairs(halves *sum, __m256i v, int32_t low, int32_t high, bool is_rough)
{
    sum->low = _mm256_add_epi32(sum->low, _mm256_madd_epi16(v, _mm256_set1_epi32(low)));
    if (!is_rough) {
        sum->high = _mm256_add_epi32(sum->high, _mm256_madd_epi16(v, _mm256_set1_epi32(high)));
    }
}

ALWAYS __m256i end_sum(const halves *sum, bool is_rough)
{
    const __m256i both = _mm256_add_epi32(_mm256_slli_epi32(sum->high, 16), sum->low);
    return _mm256_srai_epi32(both, bits_of(is_rough));
}

/* Pixel `idx` of LANES rows to sums [n_channels]. */
ALWAYS void sum_pixel(const rf_resize_axis *axis, int64_t idx, int64_t n_pairs, int n_channels,
                      bool is_rough, const __m256i *lanes, __m256i *sums)
{
    const int32_t *low = axis->low + idx * n_pairs;
    const int32_t *high = axis->high + idx * n_pairs;
    halves sum[3];
    lanes += (uint32_t)axis->first[idx] / 2 * (uint32_t)n_channels; /* unsigned: one shift */
    for (int c = 0; c < n_channels; c++) {
        sum[c] = begin_sum(is_rough);
    }
    for (int64_t p = 0; p < n_pairs; p++) {
        for (int c = 0; c < n_channels; c++) {
            add_pairs(&sum[c], lanes[p * n_channels + c], low[p], high[p], is_rough);
        }
    }
    for (int c = 0; c < n_channels; c++) {
        sums[c] = end_sum(&sum[c], is_rough);
    }
}

/* sums [16 bytes, LANES] clipped, to 16 bytes of each of LANES rows. */
ALWAYS void store_rows(const __m256i *sums, uint8_t *dst, int64_t stride)
{
    const __m256i by_row = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    __m256i four[4], half[4], rows[4];
    for (int k = 0; k < 4; k++) {
        const __m256i a = _mm256_packs_epi32(sums[4 * k], sums[4 * k + 1]);
        const __m256i b = _mm256_packs_epi32(sums[4 * k + 2], sums[4 * k + 3]);
        four[k] = _mm256_shuffle_epi8(_mm256_packus_epi16(a, b), by_row);
    }
    half[0] = _mm256_unpacklo_epi32(four[0], four[1]);
    half[1] = _mm256_unpackhi_epi32(four[0], four[1]);
    half[2] = _mm256_unpacklo_epi32(four[2], four[3]);
    half[3] = _mm256_unpackhi_epi32(four[2], four[3]);
    rows[0] = _mm256_unpacklo_epi64(half[0], half[2]);
    rows[1] = _mm256_unpackhi_epi64(half[0], half[2]);
    rows[2] = _mm256_unpacklo_epi64(half[1], half[3]);
    rows[3] = _mm256_unpackhi_epi64(half[1], half[3]);
    for (int r = 0; r < 4; r++) {
        const __m128i low = _mm256_castsi256_si128(rows[r]);
        const __m128i high = _mm256_extracti128_si256(rows[r], 1);
        _mm_storeu_si128((__m128i *)(void *)(dst + r * stride), low);
        _mm_storeu_si128((__m128i *)(void *)(dst + (r + 4) * stride), high);
    }
}

/* Pixels x .. x + BLOCK_PIXELS - 1 of LANES rows; those behind the last are the last again. */
ALWAYS void sum_block(const rf_resize_axis *axis, int64_t x, int64_t n_pairs, int n_channels,
                      bool is_rough, const __m256i *lanes, uint8_t *dst, int64_t stride)
{
    const int64_t n_left = axis->key.n - x;
    __m256i sums[3 * BLOCK_PIXELS];
    if (n_left >= BLOCK_PIXELS) {
        for (int64_t i = 0; i < BLOCK_PIXELS; i++) {
            sum_pixel(axis, x + i, n_pairs, n_channels, is_rough, lanes, sums + n_channels * i);
        }
    } else {
        for (int64_t i = 0; i < BLOCK_PIXELS; i++) {
            sum_pixel(axis, x + rf_min_i64(i, n_left - 1), n_pairs, n_channels, is_rough, lanes,
                      sums + n_channels * i);
        }
    }
    for (int c = 0; c < n_channels; c++) {
        store_rows(sums + 16 * c, dst + 16 * c, stride);
    }
}

/* From lanes to `n_rows` rows of dst [n, n_channels]. */
ALWAYS void sum_rows(const rf_resize_axis *axis, int64_t n_pairs, int n_channels, bool is_rough,
                     const __m256i *lanes, int64_t n_rows, uint8_t *dst)
{
    const int64_t n = axis->key.n, stride = n * n_channels;
    uint8_t tile[LANES][3 * BLOCK_PIXELS];
    int64_t x = 0;
    for (; n_rows == LANES && x + BLOCK_PIXELS <= n; x += BLOCK_PIXELS) {
        sum_block(axis, x, n_pairs, n_channels, is_rough, lanes, dst + x * n_channels, stride);
    }
    for (; x < n; x += BLOCK_PIXELS) {
        const int64_t n_bytes = rf_min_i64(BLOCK_PIXELS, n - x) * n_channels;
        sum_block(axis, x, n_pairs, n_channels, is_rough, lanes, tile[0], (int64_t)sizeof tile[0]);
        for (int64_t r = 0; r < n_rows; r++) {
            memcpy(dst + r * stride + x * n_channels, tile[r], (size_t)n_bytes);
        }
    }
}

/* The usual counts of pairs are constants, so that their loops unroll. */
ALWAYS void sum_rows_of(const rf_resize_axis *axis, int n_channels, bool is_rough,
                        const __m256i *lanes, int64_t n_rows, uint8_t *dst)
{
    switch (axis->n_pairs) {
    case 2:
        sum_rows(axis, 2, n_channels, is_rough, lanes, n_rows, dst);
        break;
    case 3:
        sum_rows(axis, 3, n_channels, is_rough, lanes, n_rows, dst);
        break;
    case 4:
        sum_rows(axis, 4, n_channels, is_rough, lanes, n_rows, dst);
        break;
    case 5:
        sum_rows(axis, 5, n_channels, is_rough, lanes, n_rows, dst);
        break;
    default:
        sum_rows(axis, axis->n_pairs, n_channels, is_rough, lanes, n_rows, dst);
        break;
    }
}

ALWAYS void across(const rf_resize_axis *axis, int n_channels, bool is_rough, const uint8_t *src,
                   int64_t stride, int64_t n_rows, __m256i *lanes, uint8_t *dst)
{
    while (n_rows > 2) { /* one or two rows are not worth it */
        const int64_t n = rf_min_i64(LANES, n_rows);
        spread_rows(src, stride, n, axis->span * n_channels, n_channels, lanes);
        sum_rows_of(axis, n_channels, is_rough, lanes, n, dst);
        src += n * stride;
        dst += n * axis->key.n * n_channels;
        n_rows -= n;
    }
    across_plain(axis, n_channels, src, stride, n_rows, dst);
}

/* DOWN_BYTES of result `idx` to dst; `src` is at the first of them in the origin's row. `is_inside`
 * is whether all rows are in the span, even those whose weight is 0. */
ALWAYS void sum_down(const rf_resize_axis *axis, int64_t idx, bool is_rough, bool is_inside,
                     const uint8_t *src, int64_t stride, uint8_t *dst)
{
    const int32_t *low = axis->low + idx * axis->n_pairs;
    const int32_t *high = axis->high + idx * axis->n_pairs;
    const __m256i zero = _mm256_setzero_si256();
    halves sum[4];
    for (int k = 0; k < 4; k++) {
        sum[k] = begin_sum(is_rough);
    }
    for (int64_t p = 0; p < axis->n_pairs; p++) {
        const int64_t row = axis->first[idx] + 2 * p;
        const int64_t y = is_inside ? row : rf_min_i64(row, axis->span - 1);
        const int64_t below = is_inside ? row + 1 : rf_min_i64(row + 1, axis->span - 1);
        const __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(src + y * stride));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(src + below * stride));
        const __m256i front = _mm256_unpacklo_epi8(a, b), back = _mm256_unpackhi_epi8(a, b);
        add_pairs(&sum[0], _mm256_unpacklo_epi8(front, zero), low[p], high[p], is_rough);
        add_pairs(&sum[1], _mm256_unpackhi_epi8(front, zero), low[p], high[p], is_rough);
        add_pairs(&sum[2], _mm256_unpacklo_epi8(back, zero), low[p], high[p], is_rough);
        add_pairs(&sum[3], _mm256_unpackhi_epi8(back, zero), low[p], high[p], is_rough);
    }
    /* unpacking and packing both work within halves of 128 bits: the order is the rows' again */
    const __m256i v = _mm256_packus_epi16(
        _mm256_packs_epi32(end_sum(&sum[0], is_rough), end_sum(&sum[1], is_rough)),
        _mm256_packs_epi32(end_sum(&sum[2], is_rough), end_sum(&sum[3], is_rough)));
    _mm256_storeu_si256((__m256i *)(void *)dst, v);
}

ALWAYS void down_row(const rf_resize_axis *axis, int64_t idx, bool is_rough, bool is_inside,
                     const uint8_t *src, int64_t stride, int64_t n_bytes, uint8_t *dst)
{
    for (int64_t i = 0; i < n_bytes; i += DOWN_BYTES) {
        const int64_t at = rf_min_i64(i, n_bytes - DOWN_BYTES); /* the last may do some again */
        sum_down(axis, idx, is_rough, is_inside, src + at, stride, dst + at);
    }
}

ALWAYS void down(const rf_resize_axis *axis, bool is_rough, const uint8_t *src, int64_t stride,
                 int64_t n_bytes, uint8_t *dst)
{
    for (int64_t y = 0; y < axis->key.n; y++, dst += n_bytes) {
        if (axis->first[y] + 2 * axis->n_pairs <= axis->span) {
            down_row(axis, y, is_rough, true, src, stride, n_bytes, dst);
        } else {
            down_row(axis, y, is_rough, false, src, stride, n_bytes, dst);
        }
    }
}
#endif

int64_t rf_resize_pass_bytes(const rf_resize_axis *axis, int n_channels)
{
    /* pairs behind the span, and a step of spread_rows that is not needed to its end */
    return ((axis->span + 2 * axis->n_pairs) * n_channels + 16) * 2 * LANES;
}

#if defined(__AVX2__)
void rf_resize_pass_across(const rf_resize_axis *axis, int n_channels, const uint8_t *src,
                           int64_t stride, int64_t n_rows, uint8_t *lanes, uint8_t *dst)
{
    __m256i *wide = (__m256i *)(void *)lanes;
    if (n_channels == 3 && !axis->key.is_rough) {
        across(axis, 3, false, src, stride, n_rows, wide, dst);
    } else if (n_channels == 1 && axis->key.is_rough) {
        across(axis, 1, true, src, stride, n_rows, wide, dst);
    } else {
        across_plain(axis, n_channels, src, stride, n_rows, dst);
    }
}

void rf_resize_pass_down(const rf_resize_axis *axis, const uint8_t *src, int64_t stride,
                         int64_t n_bytes, uint8_t *dst)
{
    if (n_bytes < DOWN_BYTES) {
        down_plain(axis, src, stride, n_bytes, dst);
    } else if (axis->key.is_rough) {
        down(axis, true, src, stride, n_bytes, dst);
    } else {
        down(axis, false, src, stride, n_bytes, dst);
    }
}
#else
void rf_resize_pass_across(const rf_resize_axis *axis, int n_channels, const uint8_t *src,
                           int64_t stride, int64_t n_rows, uint8_t *lanes, uint8_t *dst)
{
    (void)lanes;
    across_plain(axis, n_channels, src, stride, n_rows, dst);
}

void rf_resize_pass_down(const rf_resize_axis *axis, const uint8_t *src, int64_t stride,
                         int64_t n_bytes, uint8_t *dst)
{
    down_plain(axis, src, stride, n_bytes, dst);
}
#endif
