/* The dense path's elementwise steps: values of pre-activations and their penalties, and the way
 * back. Each is done in blocks, as the product makes them that comes before it: so a row's penalty
 * is summed in chunks of RF_BLOCK_COLS (as cpu_penalty.c says), sums over rows in blocks of
 * RF_BLOCK_ROWS, in order whichever thread does it. */
#include "act_impl.h"
#include "coder_ops_impl.h"
#include "matmul_impl.h"

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
            z[i] = rf_act_relu(h[i]);
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
static int32_t count_active(const float *z, int64_t n, int32_t *counts)
{
    int32_t n_active = 0;
    if (counts == NULL) {
#pragma omp simd reduction(+ : n_active)
        for (int64_t i = 0; i < n; i++) {
            n_active += z[i] > 0.0f;
        }
        return n_active;
    }
#pragma omp simd reduction(+ : n_active)
    for (int64_t i = 0; i < n; i++) {
        const int32_t is_active = z[i] > 0.0f;
        n_active += is_active;
        counts[i] += is_active;
    }
    return n_active;
}

/* Of RF_BLOCK_COLS values of a row. */
typedef struct chunk_result {
    float penalty; /* the sum of its terms */
    int32_t n_active;
} chunk_result;

typedef struct values_job {
    const rf_act_params *params;
    const rf_dense_values_args *args;
    latents all;
    chunk_result *chunks; /* [rows, n_chunks] */
    int64_t n_chunks;
    int32_t *counts; /* [threads, stride] or NULL */
    int64_t stride;
} values_job;

static bool is_valid(const uint8_t *row_valid, int64_t b)
{
    return row_valid == NULL || row_valid[b] != 0;
}

static void values_row(const values_job *job, int64_t b, int64_t n0, int64_t n, int32_t *counts)
{
    const rf_act_params *params = job->params;
    const rf_penalty_rule rule = rf_cpu_penalty_rule(params);
    const float *h = rf_row(&job->args->h, b) + n0;
    float *z = rf_row_mut(&job->args->z, b) + n0;
    chunk_result *out = job->chunks + b * job->n_chunks + n0 / RF_BLOCK_COLS;
    latents p = advance(job->all, n0);
    for (int64_t i = 0; i < n; i += RF_BLOCK_COLS, out++) {
        const int64_t n_now = rf_min_i64(RF_BLOCK_COLS, n - i);
        values(params->act, &p, h + i, n_now, z + i);
        out->n_active = count_active(z + i, n_now, counts != NULL ? counts + n0 + i : NULL);
        if (rule.kind != RF_PENALTY_NONE) {
            const float *penalised = params->act == RF_CODER_GATED ? h + i : z + i;
            out->penalty = rf_cpu_penalty_sum(rule, penalised, p.weight, n_now);
        }
        p = advance(p, n_now);
    }
}

/* Rows m0 .. m0 + m - 1, latents n0 .. n0 + n - 1. */
static void values_block(void *state, int64_t m0, int64_t m, int64_t n0, int64_t n)
{
    const values_job *job = state;
    int32_t *counts = job->counts != NULL ? job->counts + rf_cpu_thread() * job->stride : NULL;
    for (int64_t b = m0; b < m0 + m; b++) {
        if (is_valid(job->args->row_valid, b)) {
            values_row(job, b, n0, n, counts);
        } else {
            memset(rf_row_mut(&job->args->z, b) + n0, 0, sizeof(float) * (size_t)n);
        }
    }
}

/* A row's figures from those of its chunks. */
static void finish_row(const values_job *job, int64_t b)
{
    const rf_dense_values_args *args = job->args;
    const rf_penalty_rule rule = rf_cpu_penalty_rule(job->params);
    const bool counts_it = is_valid(args->row_valid, b);
    const chunk_result *chunk = job->chunks + b * job->n_chunks;
    int64_t n_active = 0;
    double sum = 0.0;
    for (int64_t i = 0; counts_it && i < job->n_chunks; i++) {
        n_active += chunk[i].n_active;
        sum += rule.kind != RF_PENALTY_NONE ? (double)chunk[i].penalty : 0.0;
    }
    if (args->row_active.data != NULL) {
        ((int64_t *)args->row_active.data)[b] = n_active;
    }
    if (args->row_penalty.data != NULL) {
        ((float *)args->row_penalty.data)[b] = rf_cpu_penalty_of_sum(rule, sum);
    }
    if (args->row_norm.data != NULL) {
        ((float *)args->row_norm.data)[b] = counts_it ? rf_cpu_penalty_factor(rule, sum) : 0.0f;
    }
}

/* n_active += the counts of every thread: integers, in any order. */
static void add_counts(const values_job *job, int n_threads)
{
    int64_t *n_active = job->args->n_active.data;
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < job->args->z.shape[1]; i++) {
        for (int t = 0; t < n_threads; t++) {
            n_active[i] += job->counts[t * job->stride + i];
        }
    }
}

/* Every block of [n, f]: as the product makes them, or all at once where there is none. */
static rf_status for_blocks(rf_stream *s, const rf_matmul_args *product, const rf_finish *finish,
                            int64_t n, int64_t f, void *product_memory)
{
    if (product != NULL) {
        return rf_cpu_matmul_then(s, product, finish, product_memory);
    }
#pragma omp parallel for schedule(dynamic) num_threads(rf_cpu_n_threads(s))
    for (int64_t b = 0; b < n; b += RF_BLOCK_ROWS) {
        finish->block(finish->state, b, rf_min_i64(RF_BLOCK_ROWS, n - b), 0, f);
    }
    return RF_OK;
}

rf_status rf_cpu_dense_values(rf_stream *s, const rf_act_params *params,
                              const rf_dense_values_args *args)
{
    rf_status status = RF_OK;
    const int n_threads = rf_cpu_n_threads(s);
    const int64_t rows = args->z.shape[0], n = args->z.shape[1];
    values_job job = {.params = params,
                      .args = args,
                      .all = latents_from(params, 0),
                      .n_chunks = rf_ceil_div(n, RF_BLOCK_COLS),
                      .stride = rf_ceil_div(n, 16) * 16};
    const size_t of_product = args->product != NULL ? rf_cpu_matmul_bytes(s, args->product) : 0;
    const size_t of_latents = sizeof(float) * (size_t)job.stride;
    void *memory;

    RF_TRY(rf_cpu_scratch(s,
                          of_product + of_latents * (size_t)(1 + n_threads) +
                              sizeof(chunk_result) * (size_t)(rows * job.n_chunks),
                          &memory));
    float *exp_gain = (void *)((char *)memory + of_product);
    int32_t *counts = (void *)(exp_gain + job.stride);
    job.chunks = (void *)(counts + n_threads * job.stride);
    if (params->act == RF_CODER_GATED) {
        rf_cpu_exp(params->gain.data, exp_gain, n);
        job.all.exp_gain = exp_gain;
    }
    if (args->n_active.data != NULL) {
        job.counts = counts;
        memset(counts, 0, of_latents * (size_t)n_threads);
    }
    RF_TRY(for_blocks(s, args->product, &(rf_finish){values_block, &job}, rows, n, memory));
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t b = 0; b < rows; b++) {
        finish_row(&job, b);
    }
    if (job.counts != NULL) {
        add_counts(&job, n_threads);
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
        if (is_valid(row_valid, b)) {
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

/* Those of RELU first. */
typedef enum grad_sum {
    SUM_H,
    SUM_THRESHOLD,
    SUM_B_GATE,
    SUM_GAIN,
    SUM_B_MAG,
    N_GRAD_SUMS
} grad_sum;

/* Latents first .. first + n - 1 of the tile in a block of rows: sums over these, and what all rows
 * share. */
typedef struct grad_span {
    latents p;
    int64_t first, n;
    float slope[GRAD_SPAN];
    float at_zero[GRAD_SPAN];
    float sum[N_GRAD_SUMS][GRAD_SPAN];
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

/* d, which is d_z, becomes d_h; sum += d. */
RF_LOOP void cpu_relu_grad_loop(const float *h, const float *slope, float factor, int64_t n,
                                float *d, float *sum)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float d_h = rf_act_above(h[i], 0.0f, d[i] + factor * slope[i]);
        d[i] = d_h;
        sum[i] += d_h;
    }
}

RF_TWICE(cpu_relu_grad,
         (const float *h, const float *slope, float factor, int64_t n, float *d, float *sum),
         (h, slope, factor, n, d, sum))

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
    float *b_gate = sums->sum[SUM_B_GATE] + c->at, *b_mag = sums->sum[SUM_B_MAG] + c->at;
    float *gain = sums->sum[SUM_GAIN] + c->at;
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

/* sum += d. */
static void add_d_h(const grad_chunk *c, float *sum)
{
#pragma omp simd
    for (int64_t i = 0; i < c->n; i++) {
        sum[i] += c->d[i];
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
        rf_cpu_relu_grad(c->h, c->slope, c->factor, c->n, c->d, sums->sum[SUM_H] + c->at);
        return;
    case RF_CODER_JUMP:
        if (has_window(params, c->args)) {
            jump_grad_with_window(c, sums->sum[SUM_THRESHOLD] + c->at);
        } else {
            jump_grad(c);
        }
        break;
    case RF_CODER_GATED:
        gated_grad(c, sums);
        break;
    }
    add_d_h(c, sums->sum[SUM_H] + c->at);
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
    const int64_t chunk = params->act == RF_CODER_RELU && !has_slopes ? GRAD_SPAN : RF_ACT_CHUNK;
    latents p = span->p;
    for (int64_t at = 0; at < span->n; at += chunk) {
        const int64_t i = span->first + at;
        const grad_chunk c = {
            .args = args,
            .p = p,
            .at = at,
            .n = rf_min_i64(chunk, span->n - at),
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

typedef struct grad_job {
    const rf_act_params *params;
    const rf_dense_grad_args *args;
    latents all;
    int n_sums;              /* those that the act has, whose `out` may be wanted */
    float *out[N_GRAD_SUMS]; /* [f]; NULL: not wanted */
    float *sums;             /* [n_sums, n_blocks, f], those that are wanted */
    int64_t n_blocks;
} grad_job;

/* Of block of rows `k`. */
static float *sums_at(const grad_job *job, int sum, int64_t k)
{
    return job->sums + (sum * job->n_blocks + k) * job->args->h.shape[1];
}

/* Rows in order. */
static void grad_span_of_block(const grad_job *job, int64_t m0, int64_t m, grad_span *span)
{
    const rf_dense_grad_args *args = job->args;
    const rf_penalty_kind kind = rf_cpu_penalty_rule(job->params).kind;
    const float *row_norm = kind == RF_PENALTY_NORM ? args->row_norm.data : NULL;
    begin_span(job->params, span);
    for (int64_t b = m0; b < m0 + m; b++) {
        if (is_valid(args->row_valid, b)) {
            const float factor = args->scale * (row_norm != NULL ? row_norm[b] : 1.0f);
            grad_row_of_span(job->params, args, factor, b, span);
        } else {
            memset(rf_row_mut(&args->d_z, b) + span->first, 0, sizeof(float) * (size_t)span->n);
        }
    }
}

/* Rows m0 .. m0 + m - 1, latents n0 .. n0 + n - 1 of the tile. */
static void grad_block(void *state, int64_t m0, int64_t m, int64_t n0, int64_t n)
{
    const grad_job *job = state;
    grad_span span;
    for (int64_t i = n0; i < n0 + n; i += span.n) {
        span.p = advance(job->all, i);
        span.first = i;
        span.n = rf_min_i64(GRAD_SPAN, n0 + n - i);
        for (int k = 0; k < job->n_sums; k++) {
            memset(span.sum[k], 0, sizeof span.sum[k]);
        }
        grad_span_of_block(job, m0, m, &span);
        for (int k = 0; k < job->n_sums; k++) {
            if (job->out[k] != NULL) {
                memcpy(sums_at(job, k, m0 / RF_BLOCK_ROWS) + i, span.sum[k],
                       sizeof(float) * (size_t)span.n);
            }
        }
    }
}

/* out += the sums of all blocks, in order. */
static void add_blocks(const grad_job *job, int sum, int n_threads)
{
    float *out = job->out[sum];
    const int64_t f = job->args->h.shape[1];
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < f; i += RF_BLOCK_COLS) {
        const int64_t n = rf_min_i64(RF_BLOCK_COLS, f - i);
        double total[RF_BLOCK_COLS] = {0};
        for (int64_t k = 0; k < job->n_blocks; k++) {
            const float *more = sums_at(job, sum, k) + i;
            for (int64_t j = 0; j < n; j++) {
                total[j] += (double)more[j];
            }
        }
        for (int64_t j = 0; j < n; j++) {
            out[i + j] = (float)((double)out[i + j] + total[j]);
        }
    }
}

static float *sum_of_tile(const rf_view *whole, int64_t first)
{
    return whole->data != NULL ? (float *)whole->data + first : NULL;
}

rf_status rf_cpu_dense_grad(rf_stream *s, const rf_act_params *params,
                            const rf_dense_grad_args *args)
{
    rf_status status = RF_OK;
    const int64_t n = args->h.shape[0], f = args->h.shape[1], first = args->first_latent;
    const int64_t padded = rf_ceil_div(f, 16) * 16;
    grad_job job = {.params = params,
                    .args = args,
                    .all = latents_from(params, first),
                    .n_sums = params->act == RF_CODER_RELU ? SUM_H + 1 : N_GRAD_SUMS,
                    .out = {[SUM_H] = sum_of_tile(&args->d_h, first),
                            [SUM_THRESHOLD] = sum_of_tile(&args->d_threshold, first),
                            [SUM_B_GATE] = sum_of_tile(&args->d_b_gate, first),
                            [SUM_GAIN] = sum_of_tile(&args->d_gain, first),
                            [SUM_B_MAG] = sum_of_tile(&args->d_b_mag, first)},
                    .n_blocks = rf_ceil_div(n, RF_BLOCK_ROWS)};
    const size_t of_product = args->product != NULL ? rf_cpu_matmul_bytes(s, args->product) : 0;
    void *memory;

    RF_TRY(rf_cpu_scratch(
        s, of_product + sizeof(float) * (size_t)(padded + job.n_sums * job.n_blocks * f), &memory));
    float *exp_gain = (void *)((char *)memory + of_product);
    job.sums = exp_gain + padded;
    if (params->act == RF_CODER_GATED) {
        rf_cpu_exp(from(&params->gain, first), exp_gain, f);
        job.all.exp_gain = exp_gain;
    }
    RF_TRY(for_blocks(s, args->product, &(rf_finish){grad_block, &job}, n, f, memory));
    for (int k = 0; k < job.n_sums; k++) {
        if (job.out[k] != NULL) {
            add_blocks(&job, k, rf_cpu_n_threads(s));
        }
    }
fail:
    return status;
}
