/* The dense path's elementwise steps: values of pre-activations and their penalties, and the way
 * back. A row's penalty is summed as cpu_penalty.c says; sums by latent add rows in order and then
 * to what is there, whichever thread does it. */
#include "act_impl.h"
#include "coder_ops_impl.h"

#include <string.h>

/* Parameters of latents from some first one on; NULL where the act has none. */
typedef struct latents {
    const float *theta, *b_gate, *exp_gain, *b_mag, *weight;
} latents;

static const float *from(const rf_view *v, int64_t first)
{
    return v->data != NULL ? (const float *)v->data + first : NULL;
}

/* Those from `first` on, without exp_gain. */
static latents latents_from(const rf_act_params *params, int64_t first)
{
    return (latents){.theta = from(&params->threshold, first),
                     .b_gate = from(&params->b_gate, first),
                     .b_mag = from(&params->b_mag, first),
                     .weight = from(&params->weight, first)};
}

/* z of h, n of them; the parameters' first is theirs. z may be h but for GATED. */
static void values(rf_coder_act act, const latents *p, const float *h, int64_t n, float *z)
{
    switch (act) {
    case RF_CODER_RELU:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            z[i] = rf_act_above(h[i], 0.0f, h[i]);
        }
        break;
    case RF_CODER_JUMP:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            z[i] = rf_act_above(h[i], p->theta[i], h[i]);
        }
        break;
    case RF_CODER_GATED:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            const float m = rf_act_magnitude(h[i], p->exp_gain[i], p->b_gate[i], p->b_mag[i]);
            z[i] = rf_act_above(h[i], 0.0f, rf_act_above(m, 0.0f, m));
        }
        break;
    }
}

static latents advance(latents p, int64_t n)
{
    return (latents){.theta = p.theta != NULL ? p.theta + n : NULL,
                     .b_gate = p.b_gate != NULL ? p.b_gate + n : NULL,
                     .exp_gain = p.exp_gain != NULL ? p.exp_gain + n : NULL,
                     .b_mag = p.b_mag != NULL ? p.b_mag + n : NULL,
                     .weight = p.weight != NULL ? p.weight + n : NULL};
}

/* ---- values -------------------------------------------------------------------------------- */

/* Returns how many of z [n] are > 0; counts [n] (NULL: none) += which. */
static int64_t count_active(const float *z, int64_t n, int32_t *counts)
{
    int32_t n_active = 0;
    for (int64_t i = 0; i < n; i++) {
        n_active += z[i] > 0.0f;
    }
    for (int64_t i = 0; counts != NULL && i < n; i++) {
        counts[i] += z[i] > 0.0f;
    }
    return n_active;
}

typedef struct row_result {
    int64_t n_active;
    double sum; /* of the penalty's terms */
} row_result;

static row_result values_row(const rf_act_params *params, const rf_dense_values_args *args,
                             latents p, int64_t b, int32_t *counts)
{
    const rf_penalty_rule rule = rf_cpu_penalty_rule(params);
    const float *h = rf_row(&args->h, b);
    float *z = rf_row_mut(&args->z, b), terms[RF_ACT_CHUNK];
    const int64_t n_latents = args->z.shape[1];
    row_result result = {0};
    for (int64_t i = 0; i < n_latents; i += RF_ACT_CHUNK) {
        const int64_t n = rf_min_i64(RF_ACT_CHUNK, n_latents - i);
        values(params->act, &p, h + i, n, z + i);
        result.n_active += count_active(z + i, n, counts != NULL ? counts + i : NULL);
        if (rule.kind != RF_PENALTY_NONE) {
            const float *penalised = params->act == RF_CODER_GATED ? h + i : z + i;
            rf_cpu_penalty_terms(rule, penalised, p.weight, n, terms);
            result.sum += (double)rf_act_sum(terms, n);
        }
        p = advance(p, n);
    }
    return result;
}

static void dense_row(const rf_act_params *params, const rf_dense_values_args *args, latents p,
                      int64_t b, int32_t *counts)
{
    const rf_penalty_rule rule = rf_cpu_penalty_rule(params);
    row_result result = {0};
    float factor = 0.0f;
    if (args->row_valid == NULL || args->row_valid[b] != 0) {
        result = values_row(params, args, p, b, counts);
        factor = rf_cpu_penalty_factor(rule, result.sum);
    } else {
        memset(rf_row_mut(&args->z, b), 0, sizeof(float) * (size_t)args->z.shape[1]);
    }
    if (args->row_active.data != NULL) {
        ((int64_t *)args->row_active.data)[b] = result.n_active;
    }
    if (args->row_penalty.data != NULL) {
        ((float *)args->row_penalty.data)[b] = rf_cpu_penalty_of_sum(rule, result.sum);
    }
    if (args->row_norm.data != NULL) {
        ((float *)args->row_norm.data)[b] = factor;
    }
}

/* n_active += the counts of every thread [n_threads, stride]: integers, in any order. */
static void add_counts(const int32_t *counts, int n_threads, int64_t stride, int64_t n,
                       int64_t *n_active)
{
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < n; i++) {
        for (int t = 0; t < n_threads; t++) {
            n_active[i] += counts[t * stride + i];
        }
    }
}

rf_status rf_cpu_dense_values(rf_stream *s, const rf_act_params *params,
                              const rf_dense_values_args *args)
{
    rf_status status = RF_OK;
    const int n_threads = rf_cpu_n_threads(s);
    const int64_t n = args->z.shape[1], stride = rf_ceil_div(n, 16) * 16;
    int32_t *counts = NULL;
    latents p = latents_from(params, 0);
    void *scratch;

    RF_TRY(rf_cpu_scratch(s, sizeof(float) * (size_t)(stride * (1 + n_threads)), &scratch));
    if (params->act == RF_CODER_GATED) {
        rf_cpu_exp(params->gain.data, scratch, n);
        p.exp_gain = scratch;
    }
    if (args->n_active.data != NULL) {
        counts = (int32_t *)scratch + stride;
        memset(counts, 0, sizeof(int32_t) * (size_t)(stride * n_threads));
    }
#pragma omp parallel for schedule(dynamic, 16) num_threads(n_threads)
    for (int64_t b = 0; b < args->z.shape[0]; b++) {
        dense_row(params, args, p, b, counts != NULL ? counts + rf_cpu_thread() * stride : NULL);
    }
    if (counts != NULL) {
        add_counts(counts, n_threads, stride, n, args->n_active.data);
    }
fail:
    return status;
}

rf_status rf_cpu_dense_relu(rf_stream *s, const rf_view *h, const rf_view *z,
                            const uint8_t *row_valid)
{
    const latents none = {0};
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t b = 0; b < h->shape[0]; b++) {
        if (row_valid == NULL || row_valid[b] != 0) {
            values(RF_CODER_RELU, &none, rf_row(h, b), h->shape[1], rf_row_mut(z, b));
        } else {
            memset(rf_row_mut(z, b), 0, sizeof(float) * (size_t)h->shape[1]);
        }
    }
    return RF_OK;
}

/* ---- gradients ----------------------------------------------------------------------------- */

/* Latents of a thread at once: runs of memory so long that it comes in time, sums that stay in L1.
 */
enum { GRAD_SPAN = 4 * RF_ACT_CHUNK };

/* Latents first .. first + n - 1 of the tile: sums over rows, and what all rows share. */
typedef struct grad_span {
    latents p;
    int64_t first, n;
    float slope[GRAD_SPAN];
    float at_zero[GRAD_SPAN];
    float threshold[GRAD_SPAN], b_gate[GRAD_SPAN], gain[GRAD_SPAN], b_mag[GRAD_SPAN];
} grad_span;

/* Latents at .. at + n - 1 of a span, in one row. */
typedef struct grad_chunk {
    const rf_dense_grad_args *args;
    latents p;
    int64_t at, n;
    const float *h, *d_gate; /* d_gate of GATED */
    const float *slope;      /* the penalty's derivative; times factor */
    const float *at_zero;    /* that at 0, which counts below the threshold within the window */
    float factor;
    float *d; /* d_z becomes d_h */
} grad_chunk;

static void relu_grad(const grad_chunk *c)
{
#pragma omp simd
    for (int64_t i = 0; i < c->n; i++) {
        c->d[i] = rf_act_above(c->h[i], 0.0f, c->d[i] + c->factor * c->slope[i]);
    }
}

/* Without the window. */
static void jump_grad(const grad_chunk *c)
{
#pragma omp simd
    for (int64_t i = 0; i < c->n; i++) {
        c->d[i] = rf_act_above(c->h[i], c->p.theta[i], c->d[i] + c->factor * c->slope[i]);
    }
}

/* While d is still <w_dec, g>: what the window lets through into `reach`, and minus it to
 * d_threshold's sum. */
static void window_grad(const grad_chunk *c, float *sum, float *reach)
{
    const float eps = c->args->eps, half = 0.5f * eps, l0_by_eps = c->args->l0 / eps;
    const float *theta = c->p.theta;
#pragma omp simd
    for (int64_t i = 0; i < c->n; i++) {
        const float d_z = c->d[i] + c->factor * (c->h[i] > theta[i] ? c->slope[i] : c->at_zero[i]);
        const float slope = rf_act_jump_slope(theta[i], d_z, eps, l0_by_eps);
        reach[i] = rf_act_near(c->h[i], theta[i], half, slope);
        sum[i] -= reach[i];
    }
}

static void jump_grad_with_window(const grad_chunk *c, float *sum)
{
    float reach[RF_ACT_CHUNK];
    window_grad(c, sum, reach);
    jump_grad(c);
    for (int64_t i = 0; c->args->ste_to_input && i < c->n; i++) {
        c->d[i] += reach[i];
    }
}

static void gated_grad(const grad_chunk *c, grad_span *sums)
{
    const latents *p = &c->p;
    float *b_gate = sums->b_gate + c->at, *b_mag = sums->b_mag + c->at, *gain = sums->gain + c->at;
#pragma omp simd
    for (int64_t i = 0; i < c->n; i++) {
        const float h = c->h[i], e = p->exp_gain[i];
        const float m = rf_act_magnitude(h, e, p->b_gate[i], p->b_mag[i]);
        const float gate = rf_act_above(h, 0.0f, c->d_gate[i] + c->factor * c->slope[i]);
        const float mag = rf_act_above(h, 0.0f, rf_act_above(m, 0.0f, c->d[i]));
        c->d[i] = gate + e * mag;
        b_gate[i] += gate;
        b_mag[i] += mag;
        gain[i] += mag * e * (h - p->b_gate[i]);
    }
}

static bool has_window(const rf_act_params *params, const rf_dense_grad_args *args)
{
    return params->act == RF_CODER_JUMP && (args->d_threshold.data != NULL || args->ste_to_input);
}

static void grad_row(const rf_act_params *params, const grad_chunk *c, grad_span *sums)
{
    switch (params->act) {
    case RF_CODER_RELU:
        relu_grad(c);
        break;
    case RF_CODER_JUMP:
        if (has_window(params, c->args)) {
            jump_grad_with_window(c, sums->threshold + c->at);
        } else {
            jump_grad(c);
        }
        break;
    case RF_CODER_GATED:
        gated_grad(c, sums);
        break;
    }
}

/* The penalty's derivatives of a chunk by what it penalises: relu(h) of GATED, else z. */
static void chunk_slopes(const rf_act_params *params, const grad_chunk *c, float *slope)
{
    float z[RF_ACT_CHUNK];
    const float *penalised = c->h;
    if (params->act == RF_CODER_JUMP) {
        values(params->act, &c->p, c->h, c->n, z);
        penalised = z;
    }
    rf_cpu_penalty_slopes(rf_cpu_penalty_rule(params), penalised, c->p.weight, c->n, slope);
}

/* L1's derivative is the same wherever there is one; where a pre-activation is not above 0 the
 * derivative through RELU and GATED does not ask for it. */
static bool has_one_slope(const rf_act_params *params)
{
    return rf_cpu_penalty_rule(params).kind == RF_PENALTY_L1 && params->act != RF_CODER_JUMP;
}

static void begin_span(const rf_act_params *params, grad_span *span)
{
    const rf_penalty_rule rule = rf_cpu_penalty_rule(params);
    const float *weight = span->p.weight;
    for (int64_t i = 0; i < span->n; i++) {
        const float w = weight != NULL ? weight[i] : 1.0f;
        span->at_zero[i] = rf_cpu_penalty_slope_at_zero(rule) * w;
        span->slope[i] = has_one_slope(params) ? w : 0.0f;
    }
}

static void grad_row_of_span(const rf_act_params *params, const rf_dense_grad_args *args,
                             float factor, int64_t b, grad_span *span)
{
    const bool has_slopes =
        rf_cpu_penalty_has_slope(rf_cpu_penalty_rule(params)) && !has_one_slope(params);
    latents p = span->p;
    for (int64_t at = 0; at < span->n; at += RF_ACT_CHUNK) {
        const int64_t i = span->first + at;
        const grad_chunk c = {
            .args = args,
            .p = p,
            .at = at,
            .n = rf_min_i64(RF_ACT_CHUNK, span->n - at),
            .h = rf_row(&args->h, b) + i,
            .d_gate = params->act == RF_CODER_GATED ? rf_row(&args->d_gate, b) + i : NULL,
            .slope = span->slope + at,
            .at_zero = span->at_zero + at,
            .factor = factor,
            .d = rf_row_mut(&args->d_z, b) + i,
        };
        if (has_slopes) {
            chunk_slopes(params, &c, span->slope + at);
        }
        grad_row(params, &c, span);
        p = advance(p, c.n);
    }
}

/* All rows in order. */
static void grad_latents(const rf_act_params *params, const rf_dense_grad_args *args,
                         grad_span *span)
{
    const rf_penalty_kind kind = rf_cpu_penalty_rule(params).kind;
    const float *row_norm = kind == RF_PENALTY_NORM ? args->row_norm.data : NULL;
    begin_span(params, span);
    for (int64_t b = 0; b < args->h.shape[0]; b++) {
        if (args->row_valid != NULL && args->row_valid[b] == 0) {
            memset(rf_row_mut(&args->d_z, b) + span->first, 0, sizeof(float) * (size_t)span->n);
            continue;
        }
        const float factor = args->scale * (row_norm != NULL ? row_norm[b] : 1.0f);
        grad_row_of_span(params, args, factor, b, span);
    }
}

static void add_sums(const rf_view *out, int64_t first, int64_t n, const float *sum)
{
    for (int64_t i = 0; out->data != NULL && i < n; i++) {
        ((float *)out->data)[first + i] += sum[i];
    }
}

/* Latents that a thread takes at once: some for every thread. Bits do not depend on it. */
static int64_t span_of(int64_t n_latents, int n_threads)
{
    const int64_t share = rf_ceil_div(rf_ceil_div(n_latents, n_threads), 16) * 16;
    return rf_min_i64(rf_max_i64(share, 64), GRAD_SPAN);
}

rf_status rf_cpu_dense_grad(rf_stream *s, const rf_act_params *params,
                            const rf_dense_grad_args *args)
{
    rf_status status = RF_OK;
    const int n_threads = rf_cpu_n_threads(s);
    const int64_t n_latents = args->h.shape[1], span = span_of(n_latents, n_threads);
    latents all = latents_from(params, args->first_latent);
    void *scratch;

    if (params->act == RF_CODER_GATED) {
        RF_TRY(rf_cpu_scratch(s, sizeof(float) * (size_t)n_latents, &scratch));
        rf_cpu_exp(from(&params->gain, args->first_latent), scratch, n_latents);
        all.exp_gain = scratch;
    }
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t i = 0; i < n_latents; i += span) {
        const int64_t n = rf_min_i64(span, n_latents - i), first = args->first_latent + i;
        grad_span sums = {.p = advance(all, i), .first = i, .n = n};
        grad_latents(params, args, &sums);
        add_sums(&args->d_threshold, first, n, sums.threshold);
        add_sums(&args->d_b_gate, first, n, sums.b_gate);
        add_sums(&args->d_gain, first, n, sums.gain);
        add_sums(&args->d_b_mag, first, n, sums.b_mag);
    }
fail:
    return status;
}
