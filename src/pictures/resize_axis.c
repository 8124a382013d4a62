/* The weights of Pillow's resize along one axis: computed in double, rounded to 22 bits behind the
 * point (or 14, which fit the 16 bits that are multiplied at a time). */
#include "image_impl.h"

#include <math.h>

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

/* How much of the input a result sees: wider when it shrinks (antialias). */
typedef struct window {
    double ratio, scale, support;
} window;

static window window_of(const rf_resize_key *key, filter_row filter)
{
    const double ratio = key->cover / (double)key->n_out;
    const double scale = ratio < 1.0 ? 1.0 : ratio;
    return (window){ratio, scale, filter.support * scale};
}

static double centre_of(const rf_resize_key *key, const window *w, int64_t idx)
{
    return ((double)(key->begin + idx) + 0.5) * w->ratio;
}

static int64_t first_of(const rf_resize_key *key, const window *w, int64_t idx)
{
    return rf_max_i64((int64_t)(centre_of(key, w, idx) - w->support + 0.5), 0);
}

static int64_t last_of(const rf_resize_key *key, const window *w, int64_t idx)
{
    return rf_min_i64((int64_t)(centre_of(key, w, idx) + w->support + 0.5), key->n_in);
}

/* Weight `t` of those from which `low` and `high` begin. */
static void put_weight(int32_t *low, int32_t *high, int64_t t, int32_t weight)
{
    const int32_t low_half = (weight & 0xffff) - ((weight & 0x8000) << 1); /* with its sign */
    const int32_t high_half = (weight - low_half) / 65536;
    const int shift = t % 2 == 0 ? 0 : 16;
    low[t / 2] |= (int32_t)(((uint32_t)low_half & 0xffffU) << shift);
    high[t / 2] |= (int32_t)(((uint32_t)high_half & 0xffffU) << shift);
}

/* Zeros in front of result `idx`, so that it begins where it may. */
static int64_t zeros_before(const rf_resize_axis *axis, const window *w, int64_t idx)
{
    return axis->key.is_even ? (first_of(&axis->key, w, idx) - axis->origin) % 2 : 0;
}

/* Result `idx`; `real` [2 * n_pairs] is scratch. */
static void fill_result(rf_resize_axis *axis, int64_t idx, const window *w, filter_row filter,
                        double *real)
{
    const rf_resize_key *key = &axis->key;
    const int64_t first = first_of(key, w, idx), n = last_of(key, w, idx) - first;
    const int64_t n_before = zeros_before(axis, w, idx);
    const double centre = centre_of(key, w, idx), one = key->is_rough ? 1 << 14 : 1 << 22;
    double sum = 0.0;
    for (int64_t t = 0; t < n; t++) {
        real[t] = filter.value(((double)(t + first) - centre + 0.5) * (1.0 / w->scale));
        sum += real[t];
    }
    for (int64_t t = 0; t < n; t++) {
        const double v = (sum != 0.0 ? real[t] / sum : real[t]) * one;
        put_weight(axis->low + idx * axis->n_pairs, axis->high + idx * axis->n_pairs, n_before + t,
                   (int32_t)(v < 0 ? v - 0.5 : v + 0.5));
    }
    axis->first[idx] = (int32_t)(first - axis->origin - n_before);
}

rf_status rf_resize_axis_init(rf_resize_axis *axis, const rf_resize_key *key)
{
    rf_status status = RF_OK;
    double *real = NULL;
    int64_t n_all = 0;
    const filter_row filter = filter_of(key->filter);
    *axis = (rf_resize_axis){.key = *key};
    RF_REQUIRE(filter.value != NULL, "resize filter %d, expected lanczos, bilinear or bicubic",
               (int)key->filter);
    const window w = window_of(key, filter);
    axis->origin = first_of(key, &w, 0);
    axis->span = last_of(key, &w, key->n - 1) - axis->origin;
    for (int64_t i = 0; i < key->n; i++) {
        const int64_t n = last_of(key, &w, i) - first_of(key, &w, i) + zeros_before(axis, &w, i);
        axis->n_pairs = rf_max_i64(axis->n_pairs, (n + 1) / 2);
    }
    RF_TRY(rf_mul_i64(key->n, axis->n_pairs, "resize weights", &n_all));
    RF_ALLOC(axis->first, key->n);
    RF_ALLOC(axis->low, n_all);
    RF_ALLOC(axis->high, n_all);
    RF_ALLOC(real, 2 * axis->n_pairs);
    for (int64_t i = 0; i < key->n; i++) {
        fill_result(axis, i, &w, filter, real);
    }
fail:
    rf_free(real);
    if (status != RF_OK) {
        rf_resize_axis_fini(axis);
    }
    return status;
}

void rf_resize_axis_fini(rf_resize_axis *axis)
{
    rf_free(axis->first);
    rf_free(axis->low);
    rf_free(axis->high);
    *axis = (rf_resize_axis){0};
}
