/* Private to tensor: what a pre-activation becomes, element by element, for entries of codes and
 * for matrices alike. What is not a number stays one: a comparison with it is neither true nor
 * false, so that values are taken where `>` holds, 0 where `<=` does, and NaN elsewhere. */
#ifndef REFRACT_ACT_IMPL_H
#define REFRACT_ACT_IMPL_H

#include "tensor_impl.h"
#include "wide_impl.h"

#include <math.h>

enum { RF_ACT_CHUNK = 256 }; /* elements at once: what lies between two loops stays in cache */

/* v where h > t, 0 where h <= t. */
RF_LOOP float rf_act_above(float h, float t, float v)
{
    const float neither = h + t;
    return h > t ? v : h <= t ? 0.0f : neither;
}

/* h where h > 0, 0 where h <= 0. */
RF_LOOP float rf_act_relu(float h)
{
    return h <= 0.0f ? 0.0f : h;
}

/* JumpReLU's straight-through estimators within eps / 2 of the threshold: what reaches h, and minus
 * what reaches theta. */
RF_LOOP float rf_act_jump_slope(float theta, float d_z, float eps, float l0_by_eps)
{
    return theta / eps * d_z + l0_by_eps;
}
/* v where |h - t| < half, 0 where it is not less. */
RF_LOOP float rf_act_near(float h, float t, float half, float v)
{
    const float distance = fabsf(h - t);
    return distance < half ? v : distance >= half ? 0.0f : distance;
}

/* The magnitude of GATED before its relu: the gate's bias b cancels, as it is not its own. */
RF_LOOP float rf_act_magnitude(float h, float exp_gain, float b, float m)
{
    return exp_gain * (h - b) + m;
}

/* The bits of rf_cpu_sum_lanes, in a form that stays in registers of 256 bits. */
RF_LOOP float rf_act_sum(const float *x, int64_t n)
{
    float lane[RF_LANES] = {0};
    const int64_t whole = n / RF_LANES * RF_LANES;
    for (int64_t i = 0; i < whole; i += RF_LANES) {
#pragma omp simd
        for (int j = 0; j < RF_LANES; j++) {
            lane[j] += x[i + j];
        }
    }
    for (int64_t i = whole; i < n; i++) {
        lane[i - whole] += x[i];
    }
    return rf_halve_lanes(lane);
}

/* ---- cpu_penalty.c: penalties of a chunk (at most RF_ACT_CHUNK values) --------------------------
 */

typedef struct rf_penalty_rule {
    rf_penalty_kind kind; /* POWER and NORM of p = 1 are L1 */
    float p;
} rf_penalty_rule;
rf_penalty_rule rf_cpu_penalty_rule(const rf_act_params *params);
bool rf_cpu_penalty_has_slope(rf_penalty_rule rule);

/* What z [n] add to the row's sum, by weights w [n] or NULL: 0 where z <= 0. Summed in lanes. */
float rf_cpu_penalty_sum(rf_penalty_rule rule, const float *z, const float *w, int64_t n);
/* The derivatives, 0 where z <= 0; those of NORM lack the row's factor. */
void rf_cpu_penalty_slopes(rf_penalty_rule rule, const float *z, const float *w, int64_t n,
                           float *out);
/* The derivative by w z at 0 from above, which counts in JumpReLU's window alone: values there are
 * 0 below the threshold. Roots have none that is finite: 0, as in torch. */
float rf_cpu_penalty_slope_at_zero(rf_penalty_rule rule);
/* A row's penalty from its sum, and NORM's factor (1 of the others) from the sum or the penalty. */
float rf_cpu_penalty_of_sum(rf_penalty_rule rule, double sum);
float rf_cpu_penalty_factor(rf_penalty_rule rule, double sum);
float rf_cpu_penalty_factor_of(rf_penalty_rule rule, float penalty);
/* Weights of n entries, in `gathered`; NULL where there are none. */
const float *rf_cpu_penalty_weights(const float *weight, const int32_t *latent, int64_t n,
                                    float *gathered);

#endif
