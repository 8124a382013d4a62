/* Device functions of what a pre-activation becomes, and of its penalties. What is not a number
 * stays one: values are taken where `>` holds, 0 where `<=` does, and NaN elsewhere. Included by
 * k_act.cu and k_dense_act.cu alone. */
#ifndef REFRACT_DEVICE_ACT_H
#define REFRACT_DEVICE_ACT_H

#include "gpu_port.h"
#include "k_act.h"

#include <float.h>
#include <math.h>

/* v where h > t, 0 where h <= t. */
static __device__ inline float gpu_above(float h, float t, float v)
{
    return h > t ? v : h <= t ? 0.0f : h + t;
}

/* JumpReLU's straight-through estimators within eps / 2 of the threshold: what reaches h, and minus
 * what reaches theta. */
static __device__ inline float gpu_jump_slope(float theta, float d_z, float eps, float l0_by_eps)
{
    return theta / eps * d_z + l0_by_eps;
}

/* v where |h - t| < half, 0 where it is not less. */
static __device__ inline float gpu_near(float h, float t, float half, float v)
{
    const float distance = fabsf(h - t);
    return distance < half ? v : distance >= half ? 0.0f : distance;
}

/* The magnitude of GATED before its relu. */
static __device__ inline float gpu_magnitude(float h, float exp_gain, float b, float m)
{
    return exp_gain * (h - b) + m;
}

/* The value of a pre-activation h of latent i. */
static __device__ inline float gpu_value_of(const rf_act_arrays &act, int64_t i, float h)
{
    float z = 0.0f;
    switch (act.act) {
    case RF_CODER_RELU:
        z = gpu_above(h, 0.0f, h);
        break;
    case RF_CODER_JUMP:
        z = gpu_above(h, act.theta[i], h);
        break;
    case RF_CODER_GATED: {
        const float m = gpu_magnitude(h, expf(act.gain[i]), act.b_gate[i], act.b_mag[i]);
        z = gpu_above(h, 0.0f, gpu_above(m, 0.0f, m));
        break;
    }
    }
    return z;
}

/* ---- penalties ------------------------------------------------------------------------------- */

/* Where p < 1 the derivative grows without bound: it is taken at this value or above. */
#define GPU_LEAST_VALUE 1e-6f

static __device__ inline float gpu_weight_of(const rf_act_arrays &act, int64_t i)
{
    return act.weight != NULL ? act.weight[i] : 1.0f;
}

/* u^power where u is a normal positive number, 0 where it is less. */
static __device__ inline float gpu_power(float u, float power)
{
    return u >= FLT_MIN ? powf(u, power) : u < FLT_MIN ? 0.0f : u;
}

/* What z of weight w adds to its row's sum. */
static __device__ inline float gpu_penalty_term(const rf_act_arrays &act, float z, float w)
{
    const float u = gpu_above(z, 0.0f, w * z);
    float term = 0.0f;
    switch (act.penalty) {
    case RF_PENALTY_L1:
        term = u;
        break;
    case RF_PENALTY_POWER:
    case RF_PENALTY_NORM:
        term = gpu_power(u, act.p);
        break;
    case RF_PENALTY_TANH:
        term = tanhf(act.p * u);
        break;
    case RF_PENALTY_L0:
        term = gpu_above(z, 0.0f, 1.0f);
        break;
    case RF_PENALTY_NONE:
        break;
    }
    return term;
}

/* Its derivative by z; that of NORM lacks the row's factor. */
static __device__ inline float gpu_penalty_slope(const rf_act_arrays &act, float z, float w)
{
    const float least = act.p < 1.0f ? GPU_LEAST_VALUE : 0.0f;
    float slope = 0.0f;
    switch (act.penalty) {
    case RF_PENALTY_L1:
        slope = 1.0f;
        break;
    case RF_PENALTY_POWER:
    case RF_PENALTY_NORM:
        slope = gpu_power(w * (z < least ? least : z), act.p - 1.0f);
        slope = act.penalty == RF_PENALTY_POWER ? act.p * slope : slope;
        break;
    case RF_PENALTY_TANH: { /* 1 - tanh^2 = 4 e / (1 + e)^2 */
        const float e = expf(-2.0f * act.p * w * z);
        slope = act.p * 4.0f * e / ((1.0f + e) * (1.0f + e));
        break;
    }
    case RF_PENALTY_NONE:
    case RF_PENALTY_L0:
        break;
    }
    return gpu_above(z, 0.0f, w * slope);
}

/* The derivative by w z at 0 from above, which counts in JumpReLU's window alone. */
static __device__ inline float gpu_slope_at_zero(const rf_act_arrays &act)
{
    return act.penalty == RF_PENALTY_L1 ? 1.0f : act.penalty == RF_PENALTY_TANH ? act.p : 0.0f;
}

/* A row's penalty from its sum, and NORM's factor (1 of the others). A row of zeros has no slope
 * that the factor could multiply, and p > 1 would make it infinite. */
static __device__ inline float gpu_penalty_of_sum(const rf_act_arrays &act, double sum)
{
    return (float)(act.penalty == RF_PENALTY_NORM ? pow(sum, 1.0 / (double)act.p) : sum);
}

static __device__ inline float gpu_penalty_factor(const rf_act_arrays &act, double sum)
{
    float factor = 1.0f;
    if (act.penalty == RF_PENALTY_NORM) {
        factor = sum == 0.0 ? 0.0f : (float)pow(sum, 1.0 / (double)act.p - 1.0);
    }
    return factor;
}

#endif
