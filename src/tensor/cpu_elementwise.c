/* Activations, gated maps and scaled sums, element by element. */
#include "tensor_impl.h"

enum { BLOCK = 8192, PIECE = 1024 };

rf_status rf_cpu_activation(rf_stream *s, rf_act act, const rf_view *x, const rf_view *y)
{
    const int64_t n = rf_view_n_elems(x);
    const float *from = x->data;
    float *to = y->data;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n; i += BLOCK) {
        rf_cpu_act(act, from + i, to + i, rf_min_i64(BLOCK, n - i));
    }
    return RF_OK;
}

/* One row; the activation goes through a copy, since y may be gate or x. */
static void gated_row(rf_act act, const float *gate, const float *x, float *y, int64_t d)
{
    float value[PIECE];
    for (int64_t j0 = 0; j0 < d; j0 += PIECE) {
        const int64_t n = rf_min_i64(PIECE, d - j0);
        rf_cpu_act(act, gate + j0, value, n);
        for (int64_t j = 0; j < n; j++) {
            y[j0 + j] = value[j] * x[j0 + j];
        }
    }
}

rf_status rf_cpu_gated(rf_stream *s, rf_act act, const rf_view *gate, const rf_view *x,
                       const rf_view *y)
{
    const int64_t n = gate->shape[0], d = gate->shape[1];
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n; i++) {
        gated_row(act, (const float *)gate->data + i * gate->stride[0],
                  (const float *)x->data + i * x->stride[0], (float *)y->data + i * y->stride[0],
                  d);
    }
    return RF_OK;
}

/* One row of y = x + r * scale; a product and a sum, not an FMA, so that a caller who asks for the
 * product first gets the same bits. */
static void add_row(const float *x, const float *r, const float *scale, float *y, int64_t d)
{
    if (x == NULL) {
        for (int64_t j = 0; j < d; j++) {
            y[j] = scale == NULL ? r[j] : r[j] * scale[j];
        }
    } else if (scale == NULL) {
        for (int64_t j = 0; j < d; j++) {
            y[j] = x[j] + r[j];
        }
    } else {
        for (int64_t j = 0; j < d; j++) {
            y[j] = x[j] + r[j] * scale[j];
        }
    }
}

rf_status rf_cpu_add(rf_stream *s, const rf_add_args *args)
{
    const int64_t n = args->y.shape[0], d = args->y.shape[1];
    const float *x = args->x.data, *r = args->r.data;
    float *y = args->y.data;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n; i++) {
        add_row(x == NULL ? NULL : x + i * args->x.stride[0], r + i * args->r.stride[0],
                args->scale.data, y + i * args->y.stride[0], d);
    }
    return RF_OK;
}
