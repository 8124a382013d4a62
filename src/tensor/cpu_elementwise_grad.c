/* Gradients of activations and of gated maps. Exponentials and erf of a piece of a row come first,
 * in vectors; then the formula. */
#include "tensor_impl.h"

#include <string.h>

enum { PIECE = 1024 };

/* Beyond this every activation is flat or the identity in fp32; inside it squares and cubes are
 * finite. NaN stays NaN. */
static inline float bounded(float x)
{
    const float limit = 64.0f;
    return x > limit ? limit : x < -limit ? -limit : x;
}

/* Of 0.5 x (1 + erf(x / sqrt 2)): Phi(x) + x phi(x). */
static void gelu_slope(const float *x, float *slope, int64_t n)
{
    float density[PIECE];
    for (int64_t i = 0; i < n; i++) {
        const float b = bounded(x[i]);
        slope[i] = b * 0.707106781f;
        density[i] = -0.5f * b * b;
    }
    rf_cpu_erf(slope, slope, n);
    rf_cpu_exp(density, density, n);
    for (int64_t i = 0; i < n; i++) {
        slope[i] = 0.5f * (1.0f + slope[i]) + bounded(x[i]) * density[i] * 0.398942280f;
    }
}

/* Of x s, s = 1 / (1 + exp(-steep x)): s (1 + steep x (1 - s)). */
static void sigmoid_slope(float steep, const float *x, float *slope, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        slope[i] = -steep * bounded(x[i]);
    }
    rf_cpu_exp(slope, slope, n);
    for (int64_t i = 0; i < n; i++) {
        const float s = 1.0f / (1.0f + slope[i]);
        slope[i] = s * (1.0f + steep * bounded(x[i]) * (1.0f - s));
    }
}

/* Of x (1 - q), q = 1 / (exp(2u) + 1), u = c (x + 0.044715 x^3): 1 - q + 2 x q (1 - q) u'. */
static void gelu_tanh_slope(const float *x, float *slope, int64_t n)
{
    const float c = 0.797884561f, cube = 0.044715f;
    for (int64_t i = 0; i < n; i++) {
        const float b = bounded(x[i]);
        slope[i] = 2.0f * c * (b + cube * b * b * b);
    }
    rf_cpu_exp(slope, slope, n);
    for (int64_t i = 0; i < n; i++) {
        const float b = bounded(x[i]), q = 1.0f / (slope[i] + 1.0f), rest = 1.0f - q;
        slope[i] = rest + 2.0f * b * q * rest * c * (1.0f + 3.0f * cube * b * b);
    }
}

/* slope [n] = act'(x), n <= PIECE. */
static void act_slope(rf_act act, const float *x, float *slope, int64_t n)
{
    switch (act) {
    case RF_ACT_NONE:
        for (int64_t i = 0; i < n; i++) {
            slope[i] = 1.0f;
        }
        break;
    case RF_ACT_RELU:
        for (int64_t i = 0; i < n; i++) {
            slope[i] = x[i] <= 0.0f ? 0.0f : 1.0f;
        }
        break;
    case RF_ACT_GELU:
        gelu_slope(x, slope, n);
        break;
    case RF_ACT_QUICK_GELU:
        sigmoid_slope(1.702f, x, slope, n);
        break;
    case RF_ACT_GELU_TANH:
        gelu_tanh_slope(x, slope, n);
        break;
    case RF_ACT_SILU:
        sigmoid_slope(1.0f, x, slope, n);
        break;
    }
}

static float *at(const rf_view *v, int64_t row, int64_t col)
{
    return (float *)v->data + row * v->stride[0] + col;
}

rf_status rf_cpu_activation_grad(rf_stream *s, rf_act act, const rf_view *x, const rf_view *d_y,
                                 const rf_view *d_x)
{
    const int64_t n = x->shape[0], d = x->shape[1], n_pieces = rf_ceil_div(d, PIECE);
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n * n_pieces; i++) {
        const int64_t row = i / n_pieces, col = i % n_pieces * PIECE;
        const int64_t len = rf_min_i64(PIECE, d - col);
        const float *g = at(d_y, row, col);
        float slope[PIECE], *out = at(d_x, row, col);
        act_slope(act, at(x, row, col), slope, len);
        for (int64_t j = 0; j < len; j++) {
            out[j] = g[j] * slope[j];
        }
    }
    return RF_OK;
}

/* `len` columns of a row; all of an element is read before any of it is written. */
static void gated_piece(const rf_gated_grad_args *args, int64_t row, int64_t col, int64_t len)
{
    float slope[PIECE], value[PIECE], g[PIECE];
    const float *gate = at(&args->gate, row, col), *x = at(&args->x, row, col);
    rf_cpu_act(args->act, gate, value, len);
    act_slope(args->act, gate, slope, len);
    memcpy(g, at(&args->d_y, row, col), sizeof *g * (size_t)len);
    if (args->d_gate.data != NULL) {
        for (int64_t j = 0; j < len; j++) {
            slope[j] *= g[j] * x[j];
        }
        memcpy(at(&args->d_gate, row, col), slope, sizeof *slope * (size_t)len);
    }
    if (args->d_x.data != NULL) {
        float *d_x = at(&args->d_x, row, col);
        for (int64_t j = 0; j < len; j++) {
            d_x[j] = g[j] * value[j];
        }
    }
}

rf_status rf_cpu_gated_grad(rf_stream *s, const rf_gated_grad_args *args)
{
    const int64_t n = args->gate.shape[0], d = args->gate.shape[1];
    const int64_t n_pieces = rf_ceil_div(d, PIECE);
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n * n_pieces; i++) {
        const int64_t col = i % n_pieces * PIECE;
        gated_piece(args, i / n_pieces, col, rf_min_i64(PIECE, d - col));
    }
    return RF_OK;
}
