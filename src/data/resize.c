/* Pillow's two-pass resize of 8-bit pictures, with its fixed-point arithmetic: weights are computed
 * in double and rounded to 22 bits behind the point, each pass rounds to 8 bits. Sums are integers,
 * so that their order is free and the two passes are laid out for vectors: the horizontal one works
 * on eight rows at a time (a vector lane is a row), the vertical one along a row. */
#include "refract/data.h"

#include <math.h>
#include <string.h>

enum { PRECISION_BITS = 22, LANES = 8 };

typedef int32_t lanes32 __attribute__((vector_size(32), may_alias)); /* lies over int32_t[8] */

/* For each result: the first input and the number of inputs it is made of, and their weights. */
typedef struct weights {
    int64_t n, max_taps;
    int64_t *first, *n_taps; /* [n] */
    int32_t *taps;           /* [n, max_taps] */
} weights;

static double value_bilinear(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double value_bicubic(double x)
{
    const double a = -0.5; /* Keys 1981 */
    x = fabs(x);
    if (x < 1.0) {
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    }
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

static double sinc(double x)
{
    const double pi = 3.14159265358979323846;
    return x == 0.0 ? 1.0 : sin(x * pi) / (x * pi);
}

static double value_lanczos(double x)
{
    return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
}

typedef struct filter_row {
    double (*value)(double x);
    double support; /* zero beyond */
} filter_row;

static filter_row filter_of(rf_resize_filter filter)
{
    switch (filter) {
    case RF_RESIZE_LANCZOS:
        return (filter_row){value_lanczos, 3.0};
    case RF_RESIZE_BILINEAR:
        return (filter_row){value_bilinear, 1.0};
    case RF_RESIZE_BICUBIC:
        return (filter_row){value_bicubic, 2.0};
    }
    return (filter_row){NULL, 0.0};
}

static void weights_fini(weights *w)
{
    rf_free(w->first);
    rf_free(w->n_taps);
    rf_free(w->taps);
}

/* Inputs from the first to the last that is used. */
static int64_t weights_span(const weights *w)
{
    return w->first[w->n - 1] + w->n_taps[w->n - 1] - w->first[0];
}

/* The weights of result `idx` of an axis; `real` [max_taps] is scratch. */
static void fill_taps(weights *w, int64_t idx, double center, double scale, double support,
                      filter_row filter, int64_t n_in, double *real)
{
    int64_t first = rf_max_i64((int64_t)(center - support + 0.5), 0);
    int64_t last = rf_min_i64((int64_t)(center + support + 0.5), n_in);
    double sum = 0.0;
    for (int64_t t = 0; t < last - first; t++) {
        real[t] = filter.value(((double)(t + first) - center + 0.5) * (1.0 / scale));
        sum += real[t];
    }
    for (int64_t t = 0; t < last - first; t++) {
        double v = (sum != 0.0 ? real[t] / sum : real[t]) * (1 << PRECISION_BITS);
        w->taps[idx * w->max_taps + t] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
    }
    w->first[idx] = first;
    w->n_taps[idx] = last - first;
}

/* For results [begin, begin + n) of an axis that goes from n_in to n_out. */
static rf_status weights_init(weights *w, int64_t n_in, int64_t n_out, int64_t begin, int64_t n,
                              filter_row filter)
{
    rf_status status = RF_OK;
    double *real = NULL;
    int64_t n_all = 0;
    double ratio = (double)n_in / (double)n_out;
    double scale = ratio < 1.0 ? 1.0 : ratio; /* wider when it shrinks: antialias */
    double support = filter.support * scale;
    *w = (weights){.n = n, .max_taps = 2 * (int64_t)ceil(support) + 1};
    RF_TRY(rf_mul_i64(n, w->max_taps, "resize weights", &n_all));
    RF_ALLOC(w->first, n);
    RF_ALLOC(w->n_taps, n);
    RF_ALLOC(w->taps, n_all);
    RF_ALLOC(real, w->max_taps);
    for (int64_t i = 0; i < n; i++) {
        double center = ((double)(begin + i) + 0.5) * ratio;
        fill_taps(w, i, center, scale, support, filter, n_in, real);
    }
fail:
    rf_free(real);
    return status;
}

static uint8_t clip(int32_t v)
{
    v >>= PRECISION_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* dst[j] byte i = src[i] byte j: three rounds of swapping ever smaller blocks. */
static void transpose8(const uint64_t src[8], uint64_t dst[8])
{
    static const uint64_t masks[3] = {UINT64_C(0x00000000ffffffff), UINT64_C(0x0000ffff0000ffff),
                                      UINT64_C(0x00ff00ff00ff00ff)};
    memcpy(dst, src, 64);
    for (int round = 0; round < 3; round++) {
        int block = 4 >> round, shift = 32 >> round;
        for (int i = 0; i < 8; i++) {
            if ((i & block) == 0) {
                uint64_t swap = (dst[i] >> shift ^ dst[i + block]) & masks[round];
                dst[i + block] ^= swap;
                dst[i] ^= swap << shift;
            }
        }
    }
}

/* dst [n_bytes, LANES] from `n_rows` rows of `n_bytes`; lanes without a row are copies of the last.
 * Widened here once, and not at each of the several taps that a byte takes part in. */
static void rows_to_lanes(const uint8_t *src, int64_t stride, int64_t n_rows, int64_t n_bytes,
                          int32_t *dst)
{
    uint64_t in[8], out[8];
    uint8_t bytes[64];
    int64_t i = 0;
    for (; i + 8 <= n_bytes; i += 8) {
        for (int64_t r = 0; r < LANES; r++) {
            memcpy(&in[r], src + rf_min_i64(r, n_rows - 1) * stride + i, 8);
        }
        transpose8(in, out);
        memcpy(bytes, out, 64);
        for (int64_t k = 0; k < 64; k++) {
            dst[i * LANES + k] = bytes[k];
        }
    }
    for (; i < n_bytes; i++) {
        for (int64_t r = 0; r < LANES; r++) {
            dst[i * LANES + r] = src[rf_min_i64(r, n_rows - 1) * stride + i];
        }
    }
}

/* From sums [n_bytes, LANES] to `n_rows` rows of `n_bytes`. */
static void lanes_to_rows(const int32_t *src, int64_t n_bytes, uint8_t *dst, int64_t stride,
                          int64_t n_rows)
{
    uint64_t in[8], out[8];
    uint8_t bytes[64];
    int64_t i = 0;
    for (; i + 8 <= n_bytes; i += 8) {
        for (int64_t k = 0; k < 64; k++) {
            bytes[k] = clip(src[i * LANES + k]);
        }
        memcpy(in, bytes, 64);
        transpose8(in, out);
        for (int64_t r = 0; r < n_rows; r++) {
            memcpy(dst + r * stride + i, &out[r], 8);
        }
    }
    for (; i < n_bytes; i++) {
        for (int64_t r = 0; r < n_rows; r++) {
            dst[r * stride + i] = clip(src[i * LANES + r]);
        }
    }
}

/* src [x, 3, LANES], from the first input that `w` uses on, to sums [w->n, 3, LANES]. */
static void sum_lanes(const weights *w, const int32_t *src, int32_t *sums)
{
    for (int64_t x = 0; x < w->n; x++) {
        const int32_t *taps = w->taps + x * w->max_taps;
        const lanes32 *p = (const lanes32 *)(src + 3 * LANES * (w->first[x] - w->first[0]));
        lanes32 *sum = (lanes32 *)(sums + 3 * LANES * x);
        lanes32 r = {0}, g = {0}, b = {0};
        for (int64_t t = 0; t < w->n_taps[x]; t++) {
            r += taps[t] * p[3 * t];
            g += taps[t] * p[3 * t + 1];
            b += taps[t] * p[3 * t + 2];
        }
        sum[0] = r + (1 << (PRECISION_BITS - 1));
        sum[1] = g + (1 << (PRECISION_BITS - 1));
        sum[2] = b + (1 << (PRECISION_BITS - 1));
    }
}

/* `n_rows` rows of `stride` bytes, from the first column that `w` uses on, to dst [n_rows, w->n,
 * 3]. */
static rf_status pass_across(const weights *w, const uint8_t *src, int64_t stride, int64_t n_rows,
                             uint8_t *dst)
{
    rf_status status = RF_OK;
    int32_t *wide = NULL, *sums = NULL;
    int64_t in_bytes = 3 * weights_span(w), out_bytes = 3 * w->n;
    RF_ALLOC(wide, in_bytes * LANES);
    RF_ALLOC(sums, out_bytes * LANES);
    for (int64_t y = 0; y < n_rows; y += LANES) {
        int64_t n = rf_min_i64(LANES, n_rows - y);
        rows_to_lanes(src + y * stride, stride, n, in_bytes, wide);
        sum_lanes(w, wide, sums);
        lanes_to_rows(sums, out_bytes, dst + y * out_bytes, out_bytes, n);
    }
fail:
    rf_free(sums);
    rf_free(wide);
    return status;
}

/* Rows of `stride` bytes, from the first row that `w` uses on, of which `n` bytes are taken, to
 * dst [w->n, n]. */
static rf_status pass_down(const weights *w, const uint8_t *src, int64_t stride, int64_t n,
                           uint8_t *dst)
{
    rf_status status = RF_OK;
    int32_t *sum = NULL;
    RF_ALLOC(sum, n);
    for (int64_t y = 0; y < w->n; y++) {
        for (int64_t i = 0; i < n; i++) {
            sum[i] = 1 << (PRECISION_BITS - 1);
        }
        for (int64_t t = 0; t < w->n_taps[y]; t++) {
            const uint8_t *row = src + (w->first[y] - w->first[0] + t) * stride;
            int32_t tap = w->taps[y * w->max_taps + t];
            for (int64_t i = 0; i < n; i++) {
                sum[i] += tap * row[i];
            }
        }
        for (int64_t i = 0; i < n; i++) {
            dst[y * n + i] = clip(sum[i]);
        }
    }
fail:
    rf_free(sum);
    return status;
}

/* `src` is the first pixel that any pass uses. A side that keeps its length has no pass (weights
 * with n = 0), as in Pillow; so has the order of the passes its rule, which is of version 13:
 * earlier ones always go across first, and differ by a level here and there in tall pictures. */
static rf_status resize_passes(const weights *across, const weights *down, bool is_down_first,
                               const uint8_t *src, int64_t stride, rf_picture *out)
{
    rf_status status = RF_OK;
    uint8_t *between = NULL;
    if (across->n > 0 && down->n > 0 && is_down_first) {
        int64_t n_bytes = 3 * weights_span(across);
        RF_ALLOC(between, out->height * n_bytes);
        RF_TRY(pass_down(down, src, stride, n_bytes, between));
        RF_TRY(pass_across(across, between, n_bytes, out->height, out->rgb));
    } else if (across->n > 0 && down->n > 0) {
        int64_t n_bytes = 3 * out->width;
        RF_ALLOC(between, weights_span(down) * n_bytes);
        RF_TRY(pass_across(across, src, stride, weights_span(down), between));
        RF_TRY(pass_down(down, between, n_bytes, n_bytes, out->rgb));
    } else if (across->n > 0) {
        RF_TRY(pass_across(across, src, stride, out->height, out->rgb));
    } else if (down->n > 0) {
        RF_TRY(pass_down(down, src, stride, 3 * out->width, out->rgb));
    } else {
        for (int64_t y = 0; y < out->height; y++) {
            memcpy(out->rgb + 3 * out->width * y, src + y * stride, (size_t)(3 * out->width));
        }
    }
fail:
    rf_free(between);
    return status;
}

static rf_status resize(const rf_picture *in, int64_t height, int64_t width, filter_row filter,
                        const rf_region *region, rf_picture *out)
{
    rf_status status = RF_OK;
    weights across = {0}, down = {0};
    int64_t left = region->left, top = region->top;
    if (width != in->width) {
        RF_TRY(weights_init(&across, in->width, width, region->left, region->width, filter));
        left = across.first[0];
    }
    if (height != in->height) {
        RF_TRY(weights_init(&down, in->height, height, region->top, region->height, filter));
        top = down.first[0];
    }
    bool is_down_first = in->height > height && in->height - height > 2 * (in->width - width);
    RF_TRY(resize_passes(&across, &down, is_down_first, in->rgb + 3 * (in->width * top + left),
                         3 * in->width, out));
fail:
    weights_fini(&across);
    weights_fini(&down);
    return status;
}

rf_status rf_resize_picture(const rf_picture *in, int64_t height, int64_t width,
                            rf_resize_filter filter, const rf_region *region, rf_picture *out)
{
    rf_status status = RF_OK;
    filter_row row = filter_of(filter);
    *out = (rf_picture){0};
    RF_REQUIRE(row.value != NULL, "resize filter %d, expected lanczos, bilinear or bicubic",
               (int)filter);
    RF_REQUIRE(in->height >= 1 && in->width >= 1 && height >= 1 && width >= 1 &&
                   height <= INT32_MAX && width <= INT32_MAX,
               "resize of %" PRId64 " x %" PRId64 " to %" PRId64 " x %" PRId64, in->height,
               in->width, height, width);
    RF_REQUIRE(region->height >= 1 && region->width >= 1 && region->top >= 0 && region->left >= 0 &&
                   region->height <= height - region->top && region->width <= width - region->left,
               "the region %" PRId64 " x %" PRId64 " at (%" PRId64 ", %" PRId64
               ") is not inside %" PRId64 " x %" PRId64,
               region->height, region->width, region->top, region->left, height, width);
    RF_ALLOC(out->rgb, 3 * region->height * region->width);
    out->height = region->height;
    out->width = region->width;
    RF_TRY(resize(in, height, width, row, region, out));
fail:
    if (status != RF_OK) {
        rf_picture_fini(out);
    }
    return status;
}
