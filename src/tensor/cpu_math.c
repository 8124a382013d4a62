/* exp, erf, softmax and the activations as loops that a compiler turns into vectors without
 * fast-math: no branches, no calls, one order. Polynomials are our own minimax fits. */
#include "tensor_impl.h"

#include <math.h>
#include <string.h>

static inline float bits_to_float(int32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* 2^n of an integer -126 <= n <= 127. */
static inline float power_of_two(int32_t n)
{
    return bits_to_float((int32_t)((uint32_t)(n + 127) << 23));
}

/* e^x = 2^n e^r, |r| <= ln 2 / 2. n comes from adding 1.5 * 2^23, which leaves it in the low bits;
 * 2^n is applied in two halves, so that results may be subnormal or infinite. NaN stays NaN. */
static inline float exp_one(float x)
{
    const float magic = 12582912.0f;
    float c = x > 89.0f ? 89.0f : x;
    c = c < -104.0f ? -104.0f : c;
    float t = fmaf(c, 1.44269504f, magic);
    float n = t - magic;
    float r = fmaf(n, -0.693359375f, c);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 0.0013951698f;
    p = fmaf(p, r, 0.00836959f);
    p = fmaf(p, r, 0.041666187f);
    p = fmaf(p, r, 0.16666514f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r * r, r) + 1.0f;
    int32_t bits;
    memcpy(&bits, &t, sizeof bits);
    int32_t whole = bits - 0x4b400000; /* the bits of magic */
    int32_t half = whole >> 1;
    half = half < -126 ? -126 : half > 127 ? 127 : half; /* only NaN gets here */
    int32_t rest = whole - half;
    rest = rest < -126 ? -126 : rest > 127 ? 127 : rest;
    return p * power_of_two(half) * power_of_two(rest);
}

/* erf: x P(x^2) near 0, 1 - e^Q(|x|) beyond 0.95; both are computed, one is taken. */
static inline float erf_one(float x)
{
    float s = x * x;
    float p = 7.987767e-05f;
    p = fmaf(p, s, -0.00080393173f);
    p = fmaf(p, s, 0.0051902956f);
    p = fmaf(p, s, -0.026854053f);
    p = fmaf(p, s, 0.11283566f);
    p = fmaf(p, s, -0.3761262f);
    p = fmaf(p, s, 1.1283791f);
    float a = fabsf(x);
    float u = a > 4.0f ? 4.0f : a; /* beyond it 1 - erf is below half an ulp of 1 */
    float q = 0.00019150476f;
    q = fmaf(q, u, -0.0029995467f);
    q = fmaf(q, u, 0.02205202f);
    q = fmaf(q, u, -0.10356694f);
    q = fmaf(q, u, -0.6376f);
    q = fmaf(q, u, -1.1274261f);
    q = fmaf(q, u, -0.00025643856f);
    float far = copysignf(1.0f - exp_one(q), x);
    return a < 0.95f ? x * p : far;
}

void rf_cpu_exp(const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = exp_one(x[i]);
    }
}

void rf_cpu_erf(const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = erf_one(x[i]);
    }
}

static inline float gelu_one(float x)
{
    return 0.5f * x * (1.0f + erf_one(x * 0.707106781f));
}

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), with tanh(u) = 1 - 2 / (e^2u + 1). */
static inline float gelu_tanh_one(float x)
{
    float u = 0.797884561f * fmaf(0.044715f * x * x, x, x);
    return x - x / (exp_one(2.0f * u) + 1.0f);
}

static inline float sigmoid_times(float x, float slope)
{
    return x / (1.0f + exp_one(-slope * x));
}

void rf_cpu_act(rf_act act, const float *x, float *y, int64_t n)
{
    switch (act) {
    case RF_ACT_NONE:
        if (x != y) {
            memmove(y, x, (size_t)n * sizeof *y);
        }
        break;
    case RF_ACT_RELU:
        for (int64_t i = 0; i < n; i++) {
            y[i] = x[i] < 0.0f ? 0.0f : x[i]; /* NaN stays, as in torch */
        }
        break;
    case RF_ACT_GELU:
        for (int64_t i = 0; i < n; i++) {
            y[i] = gelu_one(x[i]);
        }
        break;
    case RF_ACT_QUICK_GELU:
        for (int64_t i = 0; i < n; i++) {
            y[i] = sigmoid_times(x[i], 1.702f);
        }
        break;
    case RF_ACT_GELU_TANH:
        for (int64_t i = 0; i < n; i++) {
            y[i] = gelu_tanh_one(x[i]);
        }
        break;
    case RF_ACT_SILU:
        for (int64_t i = 0; i < n; i++) {
            y[i] = sigmoid_times(x[i], 1.0f);
        }
        break;
    }
}

enum { LANES = 16 };

static float row_max(const float *x, int64_t n)
{
    float lane[LANES];
    for (int j = 0; j < LANES; j++) {
        lane[j] = x[0];
    }
    int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
        }
    }
    float m = x[0];
    for (int j = 0; j < LANES; j++) {
        m = lane[j] > m ? lane[j] : m;
    }
    for (int64_t i = whole; i < n; i++) {
        m = x[i] > m ? x[i] : m;
    }
    return m;
}

float rf_cpu_sum_lanes(const float *x, int64_t n)
{
    float lane[LANES] = {0};
    int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            lane[j] += x[i + j];
        }
    }
    for (int64_t i = whole; i < n; i++) {
        lane[i - whole] += x[i];
    }
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int j = 0; j < width; j++) {
            lane[j] += lane[j + width];
        }
    }
    return lane[0];
}

void rf_cpu_softmax_row(float *x, int64_t n)
{
    if (n <= 0) {
        return;
    }
    float max = row_max(x, n);
    for (int64_t i = 0; i < n; i++) {
        x[i] = exp_one(x[i] - max);
    }
    float inverse = 1.0f / rf_cpu_sum_lanes(x, n);
    for (int64_t i = 0; i < n; i++) {
        x[i] *= inverse;
    }
}
