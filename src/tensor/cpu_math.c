/* exp, erf, softmax and the activations as loops that a compiler turns into vectors without
 * fast-math: no branches, no calls, one order (`omp simd` says that y is x or apart from it).
 * Polynomials are our own minimax fits. */
#include "tensor_impl.h"
#include "wide_impl.h"

#include <math.h>
#include <string.h>

RF_LOOP float bits_to_float(int32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* 2^n of an integer -126 <= n <= 127. */
RF_LOOP float power_of_two(int32_t n)
{
    return bits_to_float((int32_t)((uint32_t)(n + 127) << 23));
}

/* e^x = 2^n e^r, |r| <= ln 2 / 2. n comes from adding 1.5 * 2^23, which leaves it in the low bits;
 * 2^n is applied in two halves, so that results may be subnormal or infinite. NaN stays NaN. */
RF_LOOP float exp_one(float x)
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

/* e^x for -87 <= x <= 87, where it is normal; anything beyond. */
RF_LOOP float exp_normal(float x)
{
    const float magic = 12582912.0f;
    float t = fmaf(x, 1.44269504f, magic);
    float n = t - magic;
    float r = fmaf(n, -0.693359375f, x);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 0.0013951698f;
    p = fmaf(p, r, 0.00836959f);
    p = fmaf(p, r, 0.041666187f);
    p = fmaf(p, r, 0.16666514f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r * r, r) + 1.0f;
    uint32_t bits;
    memcpy(&bits, &t, sizeof bits);
    return p * bits_to_float((int32_t)((bits << 23) + 0x3f800000U)); /* magic's low bits are 0 */
}

/* x between -87 and 87, in integers: without a comparison of floats, which costs a mask. NaN
 * becomes 87. */
RF_LOOP float clamp_87(float x)
{
    int32_t bits, size;
    memcpy(&bits, &x, sizeof bits);
    size = bits & 0x7fffffff;
    size = size < 0x42ae0000 ? size : 0x42ae0000;
    return bits_to_float(size | (bits & INT32_MIN));
}

/* 1 / x of a normal x whose inverse is normal: a linear guess at its logarithm, then Newton's steps
 * (the error is squared by each: 0.12, 0.015, 2e-4, 5e-8). A division takes four times as long. */
RF_LOOP float inverse(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    float r = bits_to_float(0x7ef311c7 - bits);
    r = fmaf(r, fmaf(-x, r, 1.0f), r);
    r = fmaf(r, fmaf(-x, r, 1.0f), r);
    return fmaf(r, fmaf(-x, r, 1.0f), r);
}

/* e^x <= 1, and 0 below e^-87; NaN stays NaN. */
RF_LOOP float exp_below(float x)
{
    const float e = exp_normal(x < -87.0f ? -87.0f : x);
    return x < -87.0f ? 0.0f : e;
}

/* erf: x P(x^2) near 0, 1 - e^Q(|x|) beyond 0.95; both are computed, one is taken. */
RF_LOOP float erf_one(float x)
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
    float far = copysignf(1.0f - exp_normal(q), x);
    return a < 0.95f ? x * p : far;
}

RF_LOOP void cpu_exp_loop(const float *x, float *y, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        y[i] = exp_one(x[i]);
    }
}
RF_TWICE(cpu_exp, (const float *x, float *y, int64_t n), (x, y, n))

RF_LOOP void cpu_erf_loop(const float *x, float *y, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        y[i] = erf_one(x[i]);
    }
}
RF_TWICE(cpu_erf, (const float *x, float *y, int64_t n), (x, y, n))

RF_LOOP float gelu_one(float x)
{
    return 0.5f * x * (1.0f + erf_one(x * 0.707106781f));
}

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), with tanh(u) = 1 - 2 / (e^2u + 1). */
RF_LOOP float gelu_tanh_one(float x)
{
    float u = 0.797884561f * fmaf(0.044715f * x * x, x, x);
    return x - x * inverse(exp_normal(clamp_87(2.0f * u)) + 1.0f);
}

RF_LOOP float sigmoid_times(float x, float slope)
{
    return x * inverse(1.0f + exp_normal(clamp_87(-slope * x)));
}

RF_LOOP float act_one(rf_act act, float x)
{
    switch (act) {
    case RF_ACT_RELU:
        return x < 0.0f ? 0.0f : x; /* NaN stays, as in torch */
    case RF_ACT_GELU:
        return gelu_one(x);
    case RF_ACT_QUICK_GELU:
        return sigmoid_times(x, 1.702f);
    case RF_ACT_GELU_TANH:
        return gelu_tanh_one(x);
    case RF_ACT_SILU:
        return sigmoid_times(x, 1.0f);
    case RF_ACT_NONE:
        break;
    }
    return x;
}

/* y = act(x + bias), bias NULL: 0. `act` is a constant where this is inlined. */
RF_LOOP void act_each(rf_act act, const float *x, const float *bias, float *y, int64_t n)
{
    if (bias == NULL) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            y[i] = act_one(act, x[i]);
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            y[i] = act_one(act, x[i] + bias[i]);
        }
    }
}

RF_LOOP void cpu_bias_act_loop(rf_act act, const float *x, const float *bias, float *y, int64_t n)
{
    switch (act) {
    case RF_ACT_NONE:
        act_each(RF_ACT_NONE, x, bias, y, n);
        break;
    case RF_ACT_RELU:
        act_each(RF_ACT_RELU, x, bias, y, n);
        break;
    case RF_ACT_GELU:
        act_each(RF_ACT_GELU, x, bias, y, n);
        break;
    case RF_ACT_QUICK_GELU:
        act_each(RF_ACT_QUICK_GELU, x, bias, y, n);
        break;
    case RF_ACT_GELU_TANH:
        act_each(RF_ACT_GELU_TANH, x, bias, y, n);
        break;
    case RF_ACT_SILU:
        act_each(RF_ACT_SILU, x, bias, y, n);
        break;
    }
}
RF_TWICE(cpu_bias_act, (rf_act act, const float *x, const float *bias, float *y, int64_t n),
         (act, x, bias, y, n))

void rf_cpu_act(rf_act act, const float *x, float *y, int64_t n)
{
    if (act != RF_ACT_NONE || x != y) {
        rf_cpu_bias_act(act, x, NULL, y, n);
    }
}

/* ---- sums and softmax ---------------------------------------------------------------------- */

float rf_cpu_sum_lanes(const float *x, int64_t n)
{
    return rf_sum_loop(x, n);
}

/* A row of less than 16. */
RF_LOOP void softmax_short(float *x, int64_t n)
{
    float most = x[0], sum = 0.0f;
    for (int64_t i = 1; i < n; i++) {
        most = x[i] > most ? x[i] : most;
    }
    for (int64_t i = 0; i < n; i++) {
        x[i] = exp_below(x[i] - most);
        sum += x[i];
    }
    for (int64_t i = 0; i < n; i++) {
        x[i] *= 1.0f / sum;
    }
}

/* n >= 16. What is left of the row behind whole 16s is in its last 16, some of which come twice. */
RF_LOOP float row_max(const float *x, int64_t n)
{
    rf_lanes most, next;
    memcpy(&most, x + n - RF_LANES, sizeof most);
    for (int64_t i = 0; i + RF_LANES <= n; i += RF_LANES) {
        memcpy(&next, x + i, sizeof next);
        const rf_lane_bits is_more = next > most;
        most = (rf_lanes)((is_more & (rf_lane_bits)next) | (~is_more & (rf_lane_bits)most));
    }
    float lane[RF_LANES];
    memcpy(lane, &most, sizeof lane);
    for (int width = RF_LANES / 2; width > 0; width /= 2) {
        for (int j = 0; j < width; j++) {
            lane[j] = lane[j] > lane[j + width] ? lane[j] : lane[j + width];
        }
    }
    return lane[0];
}

/* n >= 16: x becomes e^(x - max). */
RF_LOOP void exp_row(float *x, int64_t n, float max)
{
    const int64_t whole = n / RF_LANES * RF_LANES;
    float last[RF_LANES];
    memcpy(last, x + n - RF_LANES, sizeof last);
#pragma omp simd
    for (int64_t i = 0; i < whole; i++) {
        x[i] = exp_below(x[i] - max);
    }
#pragma omp simd
    for (int j = 0; j < RF_LANES; j++) {
        last[j] = exp_below(last[j] - max);
    }
    memcpy(x + n - RF_LANES, last, sizeof last);
}

RF_LOOP void cpu_softmax_row_loop(float *x, int64_t n)
{
    if (n < RF_LANES) {
        if (n > 0) {
            softmax_short(x, n);
        }
        return;
    }
    exp_row(x, n, row_max(x, n));
    const float inverse_sum = 1.0f / rf_sum_loop(x, n);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        x[i] *= inverse_sum;
    }
}
RF_TWICE(cpu_softmax_row, (float *x, int64_t n), (x, n))

/* ---- bf16 ---------------------------------------------------------------------------------- */

/* The upper half of a float, rounded to nearest, ties to even; a NaN stays one. */
RF_LOOP uint32_t round_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    const uint32_t rounded = (u + 0x7fffU + ((u >> 16) & 1U)) & 0xffff0000U;
    return (u & 0x7fffffffU) > 0x7f800000U ? (u & 0xffff0000U) | 0x00400000U : rounded;
}

RF_LOOP void cpu_to_bf16_loop(const float *x, uint16_t *y, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        y[i] = (uint16_t)(round_bits(x[i]) >> 16);
    }
}
RF_TWICE(cpu_to_bf16, (const float *x, uint16_t *y, int64_t n), (x, y, n))

RF_LOOP void cpu_round_bf16_loop(const float *x, float *y, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        y[i] = bits_to_float((int32_t)round_bits(x[i]));
    }
}
RF_TWICE(cpu_round_bf16, (const float *x, float *y, int64_t n), (x, y, n))

RF_LOOP void cpu_from_bf16_loop(const uint16_t *x, float *y, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        y[i] = bits_to_float((int32_t)((uint32_t)x[i] << 16));
    }
}
RF_TWICE(cpu_from_bf16, (const uint16_t *x, float *y, int64_t n), (x, y, n))
