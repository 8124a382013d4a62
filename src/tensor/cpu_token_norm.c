/* Tokens as a coder sees them, and the way back. Moments are sums of doubles in 16 lanes, halved at
 * the end.
 *
 * LAYER and CONSTANT are those of Prisma (sae.py), SAELens and OpenAI's sparse_autoencoder: the
 * sample deviation (torch.std, n - 1) with 1e-5 added to it, and a norm of sqrt(D). On the way back
 * Prisma multiplies by s, we by s + 1e-5, which is what was divided by: a perfect reconstruction
 * gives the token itself. */
#include "coder_ops_impl.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { LANES = 16 };

static const float deviation_eps = 1e-5f;

static double halve(double lane[LANES])
{
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int j = 0; j < width; j++) {
            lane[j] += lane[j + width];
        }
    }
    return lane[0];
}

static double sum_of(const float *x, int64_t n)
{
    double lane[LANES] = {0};
    const int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            lane[j] += (double)x[i + j];
        }
    }
    for (int64_t i = whole; i < n; i++) {
        lane[i - whole] += (double)x[i];
    }
    return halve(lane);
}

/* Sum of (x - centre)^2. */
static double squares_of(const float *x, int64_t n, double centre)
{
    double lane[LANES] = {0};
    const int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            const double d = (double)x[i + j] - centre;
            lane[j] += d * d;
        }
    }
    for (int64_t i = whole; i < n; i++) {
        const double d = (double)x[i] - centre;
        lane[i - whole] += d * d;
    }
    return halve(lane);
}

typedef struct shift_scale {
    float shift, scale;
} shift_scale;

static shift_scale layer_of(const float *x, int64_t n)
{
    const double mean = sum_of(x, n) / (double)n;
    const double squares = squares_of(x, n, mean);
    const double deviation = n > 1 ? sqrt(squares / (double)(n - 1)) : squares; /* 0, or NaN */
    return (shift_scale){(float)mean, (float)(1.0 / (deviation + (double)deviation_eps))};
}

/* A token of zeros stays, and so does one so near them that its scale is beyond a float. */
static shift_scale constant_of(const float *x, int64_t n)
{
    const double scale = sqrt((double)n) / sqrt(squares_of(x, n, 0.0));
    return (shift_scale){0.0f, scale > (double)FLT_MAX ? 1.0f : (float)scale};
}

/* to = from - subtract; NULL: 0. */
static void less(const float *x, const float *subtract, int64_t n, float *to)
{
    if (subtract == NULL) {
        memmove(to, x, sizeof(float) * (size_t)n);
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        to[i] = x[i] - subtract[i];
    }
}

/* to = (from - shift) * scale - subtract by dimension. */
static void by_dimension(const float *x, const float *shift, const float *scale,
                         const float *subtract, int64_t n, float *to)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        to[i] = (x[i] - shift[i]) * scale[i];
    }
    less(to, subtract, n, to);
}

static void by_token(const float *x, shift_scale by, const float *subtract, int64_t n, float *to)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float v = (x[i] - by.shift) * by.scale;
        to[i] = subtract != NULL ? v - subtract[i] : v;
    }
}

static int n_segments(const rf_normalise_args *args)
{
    return args->segments.n > 1 ? args->segments.n : 1;
}

static int64_t segment_end(const rf_normalise_args *args, int l)
{
    return args->segments.n > 1 ? args->segments.end[l] : args->from.shape[1];
}

static bool is_by_token(rf_token_norm norm)
{
    return norm == RF_NORM_LAYER || norm == RF_NORM_CONSTANT;
}

static void keep(const rf_normalise_args *args, int64_t b, int l, shift_scale by)
{
    if (args->row_shift.data != NULL) {
        rf_row_mut(&args->row_shift, b)[l] = by.shift;
    }
    if (args->row_scale.data != NULL) {
        rf_row_mut(&args->row_scale, b)[l] = by.scale;
    }
}

static void normalise_by_token(const rf_normalise_args *args, int64_t b)
{
    const float *subtract = args->subtract.data;
    int64_t first = 0;
    for (int l = 0; l < n_segments(args); l++) {
        const int64_t n = segment_end(args, l) - first;
        const float *x = rf_row(&args->from, b) + first;
        const shift_scale by = args->norm == RF_NORM_LAYER ? layer_of(x, n) : constant_of(x, n);
        by_token(x, by, subtract != NULL ? subtract + first : NULL, n,
                 rf_row_mut(&args->to, b) + first);
        keep(args, b, l, by);
        first += n;
    }
}

static void blank_row(const rf_normalise_args *args, int64_t b)
{
    memset(rf_row_mut(&args->to, b), 0, sizeof(float) * (size_t)args->to.shape[1]);
    for (int l = 0; is_by_token(args->norm) && l < n_segments(args); l++) {
        keep(args, b, l, (shift_scale){0.0f, 1.0f});
    }
}

static void normalise_row(const rf_normalise_args *args, int64_t b)
{
    if (args->row_valid != NULL && args->row_valid[b] == 0) {
        blank_row(args, b);
    } else if (is_by_token(args->norm)) {
        normalise_by_token(args, b);
    } else if (args->norm == RF_NORM_NONE) {
        less(rf_row(&args->from, b), args->subtract.data, args->from.shape[1],
             rf_row_mut(&args->to, b));
    } else {
        by_dimension(rf_row(&args->from, b), args->shift.data, args->scale.data,
                     args->subtract.data, args->from.shape[1], rf_row_mut(&args->to, b));
    }
}

rf_status rf_cpu_normalise_tokens(rf_stream *s, const rf_normalise_args *args)
{
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t b = 0; b < args->from.shape[0]; b++) {
        normalise_row(args, b);
    }
    return RF_OK;
}

/* ---- the way back -------------------------------------------------------------------------- */

/* to = y / scale + shift by dimension; NULL: 1, 0. A row that is not valid gets shift. */
static void back_by_dimension(const float *y, const float *shift, const float *scale, bool is_valid,
                              int64_t n, float *to)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float v = is_valid ? y[i] : 0.0f;
        v = is_valid && scale != NULL ? v / scale[i] : v;
        to[i] = shift != NULL ? v + shift[i] : v;
    }
}

static void back_by_token(const rf_normalise_args *args, int64_t b, bool is_valid)
{
    int64_t first = 0;
    for (int l = 0; l < n_segments(args); l++) {
        const int64_t end = segment_end(args, l);
        const float shift = rf_row(&args->row_shift, b)[l], scale = rf_row(&args->row_scale, b)[l];
        const float *y = rf_row(&args->from, b);
        float *to = rf_row_mut(&args->to, b);
#pragma omp simd
        for (int64_t i = first; i < end; i++) {
            to[i] = is_valid ? y[i] / scale + shift : shift;
        }
        first = end;
    }
}

rf_status rf_cpu_denormalise_tokens(rf_stream *s, const rf_normalise_args *args)
{
    const bool is_none = args->norm == RF_NORM_NONE;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t b = 0; b < args->from.shape[0]; b++) {
        const bool is_valid = args->row_valid == NULL || args->row_valid[b] != 0;
        if (is_by_token(args->norm)) {
            back_by_token(args, b, is_valid);
        } else {
            back_by_dimension(rf_row(&args->from, b), is_none ? NULL : args->shift.data,
                              is_none ? NULL : args->scale.data, is_valid, args->from.shape[1],
                              rf_row_mut(&args->to, b));
        }
    }
    return RF_OK;
}
