/* Device functions that several kernels share: number formats by bits, activations and their
 * slopes, sums over a warp. Included by k_*.cu alone. */
#ifndef REFRACT_DEVICE_MATH_H
#define REFRACT_DEVICE_MATH_H

#include "gpu_port.h"
#include "refract/tensor.h"

#include <math.h>

/* ---- bf16 and fp16, to the nearest with ties to even; NaN stays one ----------------------------
 */

static __device__ inline uint16_t gpu_to_bf16(float x)
{
    const uint32_t bits = __float_as_uint(x);
    const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    const uint32_t quiet = bits | 0x00400000u;
    return (uint16_t)(((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded) >> 16);
}

static __device__ inline float gpu_from_bf16(uint16_t h)
{
    return __uint_as_float((uint32_t)h << 16);
}

/* Below 2^-14 adding 0.5 rounds to the subnormals' step of 2^-24; 65520 is the first that becomes
 * infinite. */
static __device__ inline uint16_t gpu_to_f16(float x)
{
    const uint32_t sign = (__float_as_uint(x) >> 16) & 0x8000u;
    const uint32_t size = __float_as_uint(x) & 0x7fffffffu;
    uint32_t half = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
    if (size > 0x7f800000u) {
        half = 0x7e00u | ((size >> 13) & 0x1ffu);
    } else if (size >= 0x477ff000u) {
        half = 0x7c00u;
    } else if (size < 0x38800000u) {
        half = __float_as_uint(__uint_as_float(size) + 0.5f) - __float_as_uint(0.5f);
    }
    return (uint16_t)(sign | half);
}

static __device__ inline float gpu_from_f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, size = h & 0x7fffu;
    const uint32_t finite = __float_as_uint(__uint_as_float(size << 13) * 0x1p112f);
    return __uint_as_float(sign | (size >= 0x7c00u ? 0x7f800000u | (size << 13) : finite));
}

/* ---- activations ----------------------------------------------------------------------------- */

static __device__ inline float gpu_act(rf_act act, float x)
{
    float y = x;
    switch (act) {
    case RF_ACT_RELU:
        y = x < 0.0f ? 0.0f : x; /* NaN stays, as in torch */
        break;
    case RF_ACT_GELU:
        y = 0.5f * x * (1.0f + erff(x * 0.707106781f));
        break;
    case RF_ACT_QUICK_GELU:
        y = x / (1.0f + expf(-1.702f * x));
        break;
    case RF_ACT_GELU_TANH:
        y = 0.5f * x * (1.0f + tanhf(0.797884561f * fmaf(0.044715f * x * x, x, x)));
        break;
    case RF_ACT_SILU:
        y = x / (1.0f + expf(-x));
        break;
    case RF_ACT_NONE:
        break;
    }
    return y;
}

/* Of x s, s = 1 / (1 + exp(-steep x)): s (1 + steep x (1 - s)). */
static __device__ inline float gpu_sigmoid_slope(float steep, float x)
{
    const float s = 1.0f / (1.0f + expf(-steep * x));
    return s * (1.0f + steep * x * (1.0f - s));
}

/* act'(x). Beyond 64 every activation is flat or the identity in fp32; inside it squares and cubes
 * are finite. */
static __device__ inline float gpu_act_slope(rf_act act, float x)
{
    const float b = x > 64.0f ? 64.0f : x < -64.0f ? -64.0f : x; /* NaN stays */
    const float c = 0.797884561f, cube = 0.044715f;
    float slope = 1.0f;
    switch (act) {
    case RF_ACT_RELU:
        slope = x <= 0.0f ? 0.0f : 1.0f;
        break;
    case RF_ACT_GELU:
        slope = 0.5f * (1.0f + erff(b * 0.707106781f)) + b * expf(-0.5f * b * b) * 0.398942280f;
        break;
    case RF_ACT_QUICK_GELU:
        slope = gpu_sigmoid_slope(1.702f, b);
        break;
    case RF_ACT_GELU_TANH: {
        const float q = 1.0f / (expf(2.0f * c * (b + cube * b * b * b)) + 1.0f), rest = 1.0f - q;
        slope = rest + 2.0f * b * q * rest * c * (1.0f + 3.0f * cube * b * b);
        break;
    }
    case RF_ACT_SILU:
        slope = gpu_sigmoid_slope(1.0f, b);
        break;
    case RF_ACT_NONE:
        break;
    }
    return slope;
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* The sum of a warp's lanes, added in halves: 16, 8, 4, 2, 1. A sum of two does not depend on which
 * comes first, so that every lane has the bits of lane 0. */
static __device__ inline float gpu_halve_lanes(float v)
{
    for (int half = GPU_WARP / 2; half >= 1; half /= 2) {
        v += __shfl_xor_sync(GPU_ALL_LANES, v, half);
    }
    return v;
}

static __device__ inline double gpu_halve_lanes_f64(double v)
{
    for (int half = GPU_WARP / 2; half >= 1; half /= 2) {
        v += __shfl_xor_sync(GPU_ALL_LANES, v, half);
    }
    return v;
}

/* rf_dot by a whole warp: lane l sums elements l, l + 32, ... by FMA from +0. Every lane has it. */
static __device__ inline float gpu_dot(const float *a, const float *b, int64_t n, int lane)
{
    float sum = 0.0f;
    for (int64_t i = lane; i < n; i += GPU_WARP) {
        sum = fmaf(a[i], b[i], sum);
    }
    return gpu_halve_lanes(sum);
}

#endif
