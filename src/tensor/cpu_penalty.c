/* Penalties of a row's values. A row's sum goes in chunks: each in lanes (rf_cpu_sum_lanes), the
 * chunks in order as doubles. */
#include "act_impl.h"
#include "coder_ops_impl.h"

#include <float.h>
#include <string.h>

/* Where p < 1 the derivative grows without bound: it is taken at this value or above. */
static const float least_value = 1e-6f;

/* ln x of a normal x > 0 (anything else: unspecified), within 2e-7 (1 + |ln x|): x = 2^e m with m
 * within [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m - 1) / (m + 1)) by its series. */
RF_LOOP float log_one(float x)
{
    int32_t bits;
    float m;
    memcpy(&bits, &x, sizeof bits);
    const int32_t e = (int32_t)((uint32_t)bits - 0x3f3504f3U) >> 23; /* less those of sqrt(1/2) */
    bits = (int32_t)((uint32_t)bits - ((uint32_t)e << 23));
    memcpy(&m, &bits, sizeof m);
    const float s = (m - 1.0f) / (m + 1.0f), q = s * s;
    float p = 2.0f / 9.0f;
    p = fmaf(p, q, 2.0f / 7.0f);
    p = fmaf(p, q, 2.0f / 5.0f);
    p = fmaf(p, q, 2.0f / 3.0f);
    const float log_m = fmaf(s * q, p, 2.0f * s);
    const float y = fmaf((float)e, 0.693147181f, log_m);
    return x > FLT_MAX ? x : y;
}

/* v where u is a normal positive number, 0 where it is less. */
RF_LOOP float where_positive(float u, float v)
{
    return u >= FLT_MIN ? v : u < FLT_MIN ? 0.0f : u;
}

/* tanh u of u >= 0 with e = exp(-2 u); near 0, where 1 - e cancels, by its series. */
RF_LOOP float tanh_one(float u, float e)
{
    const float q = u * u;
    float p = 62.0f / 2835.0f;
    p = fmaf(p, q, -17.0f / 315.0f);
    p = fmaf(p, q, 2.0f / 15.0f);
    p = fmaf(p, q, -1.0f / 3.0f);
    const float near = fmaf(u * q, p, u), far = (1.0f - e) / (1.0f + e);
    return u < 0.25f ? near : far;
}

rf_penalty_rule rf_cpu_penalty_rule(const rf_act_params *params)
{
    rf_penalty_rule rule = {params->penalty, params->p};
    if ((rule.kind == RF_PENALTY_POWER || rule.kind == RF_PENALTY_NORM) && rule.p == 1.0f) {
        rule.kind = RF_PENALTY_L1;
    }
    return rule;
}

bool rf_cpu_penalty_has_slope(rf_penalty_rule rule)
{
    return rule.kind != RF_PENALTY_NONE && rule.kind != RF_PENALTY_L0;
}

/* out = w max(z, least), z > 0; w NULL: 1. */
static void weigh(const float *z, const float *w, int64_t n, float least, float *out)
{
    if (w == NULL) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            out[i] = rf_act_above(z[i], 0.0f, z[i] < least ? least : z[i]);
        }
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        out[i] = rf_act_above(z[i], 0.0f, w[i] * (z[i] < least ? least : z[i]));
    }
}

/* out = (w max(z, least))^power, z > 0. */
static void power_of(const float *z, const float *w, int64_t n, float least, float power,
                     float *out)
{
    float u[RF_ACT_CHUNK];
    weigh(z, w, n, least, u);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        out[i] = power * log_one(u[i]);
    }
    rf_cpu_exp(out, out, n);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        out[i] = where_positive(u[i], out[i]);
    }
}

/* u becomes p u, out = exp(-2 p u). */
static void tanh_exponentials(float p, float *u, int64_t n, float *out)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        u[i] *= p;
        out[i] = -2.0f * u[i];
    }
    rf_cpu_exp(out, out, n);
}

/* What each of z adds. */
static void penalty_terms(rf_penalty_rule rule, const float *z, const float *w, int64_t n,
                          float *out)
{
    float u[RF_ACT_CHUNK];
    switch (rule.kind) {
    case RF_PENALTY_NONE:
        memset(out, 0, sizeof(float) * (size_t)n);
        break;
    case RF_PENALTY_L1:
        weigh(z, w, n, 0.0f, out);
        break;
    case RF_PENALTY_POWER:
    case RF_PENALTY_NORM:
        power_of(z, w, n, 0.0f, rule.p, out);
        break;
    case RF_PENALTY_TANH:
        weigh(z, w, n, 0.0f, u);
        tanh_exponentials(rule.p, u, n, out);
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            out[i] = tanh_one(u[i], out[i]);
        }
        break;
    case RF_PENALTY_L0:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            out[i] = rf_act_above(z[i], 0.0f, 1.0f);
        }
        break;
    }
}

typedef float eight __attribute__((vector_size(32)));
typedef int32_t eight_bits __attribute__((vector_size(32)));

/* Those above 0 of 8 values. */
RF_LOOP eight positive(const float *z)
{
    eight next;
    memcpy(&next, z, sizeof next);
    return (eight)((eight_bits)next & ~(next <= 0.0f));
}

/* Where the terms are the values themselves: the bits of rf_act_sum. */
static float sum_positive(const float *z, int64_t n)
{
    eight low = {0}, high = {0};
    float lane[RF_LANES];
    const int64_t whole = n / RF_LANES * RF_LANES;
    for (int64_t i = 0; i < whole; i += RF_LANES) {
        low += positive(z + i);
        high += positive(z + i + 8);
    }
    memcpy(lane, &low, sizeof low);
    memcpy(lane + 8, &high, sizeof high);
    for (int64_t i = whole; i < n; i++) {
        lane[i - whole] += rf_act_relu(z[i]);
    }
    return rf_halve_lanes(lane);
}

float rf_cpu_penalty_sum(rf_penalty_rule rule, const float *z, const float *w, int64_t n)
{
    float terms[RF_ACT_CHUNK] = {0};
    if (rule.kind == RF_PENALTY_L1 && w == NULL) {
        return sum_positive(z, n);
    }
    penalty_terms(rule, z, w, n, terms);
    return rf_act_sum(terms, n);
}

/* out, the derivative by w z, becomes that by z. */
static void finish_slopes(const float *z, const float *w, float factor, int64_t n, float *out)
{
    if (w == NULL) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            out[i] = rf_act_above(z[i], 0.0f, factor * out[i]);
        }
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        out[i] = rf_act_above(z[i], 0.0f, factor * w[i] * out[i]);
    }
}

void rf_cpu_penalty_slopes(rf_penalty_rule rule, const float *z, const float *w, int64_t n,
                           float *out)
{
    float u[RF_ACT_CHUNK];
    switch (rule.kind) {
    case RF_PENALTY_NONE:
    case RF_PENALTY_L0:
        memset(out, 0, sizeof(float) * (size_t)n);
        break;
    case RF_PENALTY_L1:
        for (int64_t i = 0; i < n; i++) {
            out[i] = 1.0f;
        }
        finish_slopes(z, w, 1.0f, n, out);
        break;
    case RF_PENALTY_POWER:
    case RF_PENALTY_NORM:
        power_of(z, w, n, rule.p < 1.0f ? least_value : 0.0f, rule.p - 1.0f, out);
        finish_slopes(z, w, rule.kind == RF_PENALTY_POWER ? rule.p : 1.0f, n, out);
        break;
    case RF_PENALTY_TANH: /* 1 - tanh^2 = 4 e / (1 + e)^2 */
        weigh(z, w, n, 0.0f, u);
        tanh_exponentials(rule.p, u, n, out);
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            out[i] = 4.0f * out[i] / ((1.0f + out[i]) * (1.0f + out[i]));
        }
        finish_slopes(z, w, rule.p, n, out);
        break;
    }
}

float rf_cpu_penalty_of_sum(rf_penalty_rule rule, double sum)
{
    return (float)(rule.kind == RF_PENALTY_NORM ? pow(sum, 1.0 / (double)rule.p) : sum);
}

float rf_cpu_penalty_factor(rf_penalty_rule rule, double sum)
{
    if (rule.kind != RF_PENALTY_NORM) {
        return 1.0f;
    }
    /* A row of zeros has no slope that this could multiply, and p > 1 would make it infinite. */
    return sum == 0.0 ? 0.0f : (float)pow(sum, 1.0 / (double)rule.p - 1.0);
}

float rf_cpu_penalty_factor_of(rf_penalty_rule rule, float penalty)
{
    return rf_cpu_penalty_factor(rule, pow((double)penalty, (double)rule.p));
}

float rf_cpu_penalty_slope_at_zero(rf_penalty_rule rule)
{
    return rule.kind == RF_PENALTY_L1 ? 1.0f : rule.kind == RF_PENALTY_TANH ? rule.p : 0.0f;
}

/* ---- on entries of codes ------------------------------------------------------------------------
 */

const float *rf_cpu_penalty_weights(const float *weight, const int32_t *latent, int64_t n,
                                    float *gathered)
{
    if (weight == NULL) {
        return NULL;
    }
    for (int64_t i = 0; i < n; i++) {
        gathered[i] = weight[latent[i]];
    }
    return gathered;
}

static double sum_row(rf_penalty_rule rule, const rf_penalty_args *args, const float *weight,
                      int64_t first, int64_t last)
{
    const float *value = args->value != NULL ? args->value : args->codes->value;
    float w[RF_ACT_CHUNK];
    double sum = 0.0;
    for (int64_t e = first; e < last; e += RF_ACT_CHUNK) {
        const int64_t n = rf_min_i64(RF_ACT_CHUNK, last - e);
        const float *wn = rf_cpu_penalty_weights(weight, args->codes->latent + e, n, w);
        sum += (double)rf_cpu_penalty_sum(rule, value + e, wn, n);
    }
    return sum;
}

static void add_slopes(rf_penalty_rule rule, const rf_penalty_args *args, const float *weight,
                       int64_t first, int64_t last, float factor)
{
    const float *value = args->value != NULL ? args->value : args->codes->value;
    float w[RF_ACT_CHUNK], out[RF_ACT_CHUNK];
    for (int64_t e = first; e < last; e += RF_ACT_CHUNK) {
        const int64_t n = rf_min_i64(RF_ACT_CHUNK, last - e);
        const float *wn = rf_cpu_penalty_weights(weight, args->codes->latent + e, n, w);
        rf_cpu_penalty_slopes(rule, value + e, wn, n, out);
        for (int64_t i = 0; i < n; i++) {
            args->d_value[e + i] += factor * out[i];
        }
    }
}

rf_status rf_cpu_penalty(rf_stream *s, const rf_act_params *params, const rf_penalty_args *args)
{
    const rf_penalty_rule rule = rf_cpu_penalty_rule(params);
    const bool has_slope = args->d_value != NULL && rf_cpu_penalty_has_slope(rule);
    const int64_t *start = args->codes->row_start;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t b = 0; b < args->codes->n_rows; b++) {
        const double sum = sum_row(rule, args, params->weight.data, start[b], start[b + 1]);
        ((float *)args->row_penalty.data)[b] = rf_cpu_penalty_of_sum(rule, sum);
        if (has_slope) {
            add_slopes(rule, args, params->weight.data, start[b], start[b + 1],
                       args->scale * rf_cpu_penalty_factor(rule, sum));
        }
    }
    return RF_OK;
}
