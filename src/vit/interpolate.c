/* Resampling of grids of positions, as torch's interpolate does it. */
#include "config_impl.h"

#include <math.h>

/* Where each of `n_out` outputs reads in a line of `n_in`: n values from `first`, by `weight`
 * [n_out, max_taps]. Places outside the line are its border's. */
typedef struct taps {
    int64_t n_in, n_out, max_taps;
    int64_t *first, *n;
    float *weight;
} taps;

/* Keys' kernel at distance x. */
static float cubic(float x, float a)
{
    x = fabsf(x);
    if (x < 1.0f) {
        return ((a + 2.0f) * x - (a + 3.0f)) * x * x + 1.0f;
    }
    return x < 2.0f ? ((a * x - 5.0f * a) * x + 8.0f * a) * x - 4.0f * a : 0.0f;
}

static float kernel(rf_interpolation how, float x)
{
    if (how == RF_INTERPOLATE_BILINEAR_ANTIALIAS) {
        return fmaxf(0.0f, 1.0f - fabsf(x));
    }
    return cubic(x, how == RF_INTERPOLATE_BICUBIC ? -0.75f : -0.5f);
}

/* Four values around the place. */
static void plain_taps(taps *t, int64_t i)
{
    const float scale = (float)t->n_in / (float)t->n_out;
    const float source = scale * ((float)i + 0.5f) - 0.5f;
    const float base = floorf(source), x = source - base;
    float *w = t->weight + i * t->max_taps;
    t->first[i] = (int64_t)base - 1;
    t->n[i] = 4;
    w[0] = cubic(x + 1.0f, -0.75f);
    w[1] = cubic(x, -0.75f);
    w[2] = cubic(1.0f - x, -0.75f);
    w[3] = cubic(2.0f - x, -0.75f);
}

/* The kernel as wide as the step, inside the line, to a sum of one. */
static void wide_taps(taps *t, rf_interpolation how, int64_t i)
{
    const float reach = how == RF_INTERPOLATE_BILINEAR_ANTIALIAS ? 1.0f : 2.0f;
    const float scale = (float)t->n_in / (float)t->n_out, step = fmaxf(1.0f, scale);
    const float centre = scale * ((float)i + 0.5f), support = reach * step;
    const int64_t first = rf_max_i64(0, (int64_t)(centre - support + 0.5f));
    const int64_t last = rf_min_i64(t->n_in, (int64_t)(centre + support + 0.5f));
    float *w = t->weight + i * t->max_taps, sum = 0.0f;
    t->first[i] = first;
    t->n[i] = rf_min_i64(last - first, t->max_taps);
    for (int64_t k = 0; k < t->n[i]; k++) {
        w[k] = kernel(how, ((float)(k + first) - centre + 0.5f) / step);
        sum += w[k];
    }
    for (int64_t k = 0; k < t->n[i]; k++) {
        w[k] /= sum;
    }
}

static void taps_fini(taps *t)
{
    rf_free(t->first);
    rf_free(t->n);
    rf_free(t->weight);
}

static rf_status taps_init(taps *t, rf_interpolation how, int64_t n_in, int64_t n_out)
{
    rf_status status = RF_OK;
    *t = (taps){.n_in = n_in, .n_out = n_out, .max_taps = 6 + 4 * rf_ceil_div(n_in, n_out)};
    RF_ALLOC(t->first, n_out);
    RF_ALLOC(t->n, n_out);
    RF_ALLOC(t->weight, n_out * t->max_taps);
    for (int64_t i = 0; i < n_out; i++) {
        if (how == RF_INTERPOLATE_BICUBIC) {
            plain_taps(t, i);
        } else {
            wide_taps(t, how, i);
        }
    }
fail:
    return status;
}

/* out [outer, n_out, d] = in [outer, n_in, d] along the middle. */
static void resample(const taps *t, const float *in, int64_t outer, int64_t d, float *out)
{
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t i = 0; i < t->n_out; i++) {
            float *row = out + (o * t->n_out + i) * d;
            const float *weight = t->weight + i * t->max_taps;
            for (int64_t j = 0; j < d; j++) {
                row[j] = 0.0f;
            }
            for (int64_t k = 0; k < t->n[i]; k++) {
                const int64_t at = rf_max_i64(0, rf_min_i64(t->n_in - 1, t->first[i] + k));
                const float *from = in + (o * t->n_in + at) * d;
                for (int64_t j = 0; j < d; j++) {
                    row[j] += weight[k] * from[j];
                }
            }
        }
    }
}

rf_status rf_interpolate_positions(rf_interpolation how, const float *in, rf_grid from, int64_t d,
                                   float *out, rf_grid to)
{
    rf_status status = RF_OK;
    taps x = {0}, y = {0};
    float *rows = NULL;
    RF_TRY(taps_init(&x, how, from.width, to.width));
    RF_TRY(taps_init(&y, how, from.height, to.height));
    RF_ALLOC(rows, from.height * to.width * d);
    resample(&x, in, from.height, d, rows);
    resample(&y, rows, 1, to.width * d, out);
fail:
    rf_free(rows);
    taps_fini(&x);
    taps_fini(&y);
    return status;
}
