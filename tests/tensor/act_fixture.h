/* What tests of acts and penalties share: a problem of any act and penalty with its definition in
 * double, and the results of the operations on matrices and on entries. */
#ifndef REFRACT_TESTS_ACT_FIXTURE_H
#define REFRACT_TESTS_ACT_FIXTURE_H

#include "finite_difference.h"

#include <string.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)

#define REFUSED(call) assert_int_equal((call), RF_ERR_INVALID_ARG)

enum { N_THREADS = 3, N_ACTS = 3, N_PENALTIES = 6 };

static fixture threads[N_THREADS];

static inline float p_of(rf_penalty_kind kind)
{
    return kind == RF_PENALTY_TANH ? 4.0f : 0.5f;
}

/* ---- a problem, and its definition in double ----------------------------------------------- */

typedef struct problem {
    int64_t n, f;
    rf_act_params params;
    float *h, *theta, *b, *r, *m, *w, *d_z, *d_gate; /* [n, f], [f] and the upstream gradients */
    uint8_t *valid;
    double *dh, *db, *dr, *dm; /* h, b, r and m as doubles */
    double scale;
    int64_t row; /* the row that row_loss is of */
} problem;

static inline double value_of(const problem *p, double h, int64_t i)
{
    const double magnitude = exp(p->dr[i]) * (h - p->db[i]) + p->dm[i];
    switch (p->params.act) {
    case RF_CODER_RELU:
        return h > 0 ? h : 0;
    case RF_CODER_JUMP:
        return h > (double)p->theta[i] ? h : 0;
    case RF_CODER_GATED:
        break;
    }
    return h > 0 && magnitude > 0 ? magnitude : 0;
}

/* The penalty of values by pre-activations h [f]. */
static inline double penalty_of(const problem *p, const double *h)
{
    const double power = (double)p->params.p;
    double sum = 0;
    for (int64_t i = 0; i < p->f; i++) {
        const double z = p->params.act == RF_CODER_GATED ? h[i] : value_of(p, h[i], i);
        const double u = p->params.weight.data != NULL ? (double)p->w[i] * z : z;
        if (!(z > 0)) {
            continue;
        }
        switch (p->params.penalty) {
        case RF_PENALTY_NONE:
            break;
        case RF_PENALTY_L1:
            sum += u;
            break;
        case RF_PENALTY_POWER:
        case RF_PENALTY_NORM:
            sum += pow(u, power);
            break;
        case RF_PENALTY_TANH:
            sum += tanh(power * u);
            break;
        case RF_PENALTY_L0:
            sum += 1;
            break;
        }
    }
    return p->params.penalty == RF_PENALTY_NORM ? pow(sum, 1 / power) : sum;
}

/* <d_z, z> + <d_gate, relu(h)> (GATED) + scale * penalty, of one row. */
static inline double loss_of_row(const problem *p, const double *h, int64_t b)
{
    double loss = p->params.penalty == RF_PENALTY_L0 ? 0 : p->scale * penalty_of(p, h);
    for (int64_t i = 0; i < p->f; i++) {
        loss += (double)p->d_z[b * p->f + i] * value_of(p, h[i], i);
        if (p->params.act == RF_CODER_GATED && h[i] > 0) {
            loss += (double)p->d_gate[b * p->f + i] * h[i];
        }
    }
    return loss;
}

static inline double row_loss(const void *at)
{
    const problem *p = at;
    return loss_of_row(p, p->dh + p->row * p->f, p->row);
}

/* Of valid rows, with h - b kept: the products do not change when the gate's bias does. */
static inline double whole_loss(const void *at)
{
    const problem *p = at;
    double loss = 0, *h = rf_calloc(p->f, sizeof *h);
    assert_non_null(h);
    for (int64_t b = 0; b < p->n; b++) {
        for (int64_t i = 0; i < p->f; i++) {
            h[i] = p->dh[b * p->f + i] + (p->db[i] - (double)p->b[i]);
        }
        loss += p->valid[b] ? loss_of_row(p, h, b) : 0;
    }
    rf_free(h);
    return loss;
}

/* Away from where values bend, so that differences and rounding mean something. */
static inline bool is_near_a_bend(const problem *p, float h, int64_t i)
{
    const float mag = expf(p->r[i]) * (h - p->b[i]) + p->m[i];
    switch (p->params.act) {
    case RF_CODER_RELU:
        return fabsf(h) < 0.01f;
    case RF_CODER_JUMP:
        return fabsf(h - p->theta[i]) < 0.01f;
    case RF_CODER_GATED:
        break;
    }
    return fabsf(h) < 0.01f || fabsf(mag) < 0.01f;
}

static inline problem make_problem(int64_t n, int64_t f, rf_coder_act act, rf_penalty_kind penalty,
                                   bool is_weighted)
{
    const uint64_t seed = (uint64_t)(n * 1000 + f);
    problem p = {.n = n, .f = f, .scale = 0.37};
    p.h = random_floats(n * f, seed);
    p.theta = random_floats(f, seed + 1);
    p.b = random_floats(f, seed + 2);
    p.r = random_floats(f, seed + 3);
    p.m = random_floats(f, seed + 4);
    p.w = random_floats(f, seed + 5);
    p.d_z = random_floats(n * f, seed + 6);
    p.d_gate = random_floats(n * f, seed + 7);
    p.valid = rf_calloc(n, 1);
    p.params = (rf_act_params){.act = act, .penalty = penalty, .p = p_of(penalty)};
    for (int64_t i = 0; i < f; i++) {
        p.theta[i] = 0.05f + 0.3f * fabsf(p.theta[i]);
        p.r[i] *= 0.3f;
        p.w[i] = 0.2f + fabsf(p.w[i]);
    }
    for (int64_t b = 0; b < n; b++) {
        p.valid[b] = b % 4 != 2;
    }
    for (int64_t e = 0; e < n * f; e++) {
        while (is_near_a_bend(&p, p.h[e], e % f)) {
            p.h[e] += 0.017f;
        }
    }
    if (act == RF_CODER_JUMP) {
        p.params.threshold = rf_view_1d(p.theta, f);
    } else if (act == RF_CODER_GATED) {
        p.params.b_gate = rf_view_1d(p.b, f);
        p.params.gain = rf_view_1d(p.r, f);
        p.params.b_mag = rf_view_1d(p.m, f);
    }
    if (is_weighted) {
        p.params.weight = rf_view_1d(p.w, f);
    }
    p.dh = as_doubles(p.h, n * f);
    p.db = as_doubles(p.b, f);
    p.dr = as_doubles(p.r, f);
    p.dm = as_doubles(p.m, f);
    return p;
}

static inline void free_problem(problem *p)
{
    void *blocks[] = {p->h,      p->theta, p->b,  p->r,  p->m,  p->w, p->d_z,
                      p->d_gate, p->valid, p->dh, p->db, p->dr, p->dm};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        rf_free(blocks[i]);
    }
}

static inline void same_bits(const void *got, const void *want, int64_t n, const char *what)
{
    const float *a = got, *b = want;
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(a + i, b + i, sizeof *a) != 0) {
            fail_msg("%s: element %" PRId64 " is %.9g, expected %.9g", what, i, (double)a[i],
                     (double)b[i]);
        }
    }
}

static inline void near(double got, double want, double tol, const char *what)
{
    if (!(fabs(got - want) <= tol * (1 + fabs(want)))) {
        fail_msg("%s: %.9g, expected %.9g", what, got, want);
    }
}

/* ---- the operations' results --------------------------------------------------------------- */

typedef struct dense_result {
    float *z, *row_penalty, *row_norm, *d_h, *d_theta, *d_b, *d_r, *d_m;
    int64_t *n_active, *row_active;
} dense_result;

static inline dense_result make_result(const problem *p)
{
    return (dense_result){.z = rf_calloc(p->n * p->f, sizeof(float)),
                          .row_penalty = rf_calloc(p->n, sizeof(float)),
                          .row_norm = rf_calloc(p->n, sizeof(float)),
                          .d_h = rf_calloc(p->n * p->f, sizeof(float)),
                          .d_theta = rf_calloc(p->f, sizeof(float)),
                          .d_b = rf_calloc(p->f, sizeof(float)),
                          .d_r = rf_calloc(p->f, sizeof(float)),
                          .d_m = rf_calloc(p->f, sizeof(float)),
                          .n_active = rf_calloc(p->f, sizeof(int64_t)),
                          .row_active = rf_calloc(p->n, sizeof(int64_t))};
}

static inline void free_result(dense_result *r)
{
    void *blocks[] = {r->z,   r->row_penalty, r->row_norm, r->d_h,      r->d_theta,
                      r->d_b, r->d_r,         r->d_m,      r->n_active, r->row_active};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        rf_free(blocks[i]);
    }
}

static inline void dense_values(const problem *p, rf_stream *s, const dense_result *r)
{
    OK(rf_dense_values(
        s, &p->params,
        &(rf_dense_values_args){.h = rf_view_2d(p->h, p->n, p->f),
                                .z = rf_view_2d(r->z, p->n, p->f),
                                .n_active = rf_view_nd(r->n_active, RF_I64, 1, &p->f),
                                .row_active = rf_view_nd(r->row_active, RF_I64, 1, &p->n),
                                .row_penalty = rf_view_1d(r->row_penalty, p->n),
                                .row_norm = rf_view_1d(r->row_norm, p->n),
                                .row_valid = p->valid}));
}

/* In tiles of `tile` latents. eps 0: no window. */
static inline void dense_grad(const problem *p, rf_stream *s, const dense_result *r, int64_t tile,
                              float eps, float l0, bool ste_to_input)
{
    memcpy(r->d_h, p->d_z, sizeof(float) * (size_t)(p->n * p->f));
    for (int64_t i = 0; i < p->f; i += tile) {
        const int64_t f = rf_min_i64(tile, p->f - i);
        rf_view h = rf_view_2d(p->h + i, p->n, f), d_z = rf_view_2d(r->d_h + i, p->n, f);
        rf_view d_gate = rf_view_2d(p->d_gate + i, p->n, f);
        h.stride[0] = d_z.stride[0] = d_gate.stride[0] = p->f;
        rf_dense_grad_args args = {.h = h,
                                   .d_z = d_z,
                                   .d_gate = d_gate,
                                   .row_norm = rf_view_1d(r->row_norm, p->n),
                                   .d_b_gate = rf_view_1d(r->d_b, p->f),
                                   .d_gain = rf_view_1d(r->d_r, p->f),
                                   .d_b_mag = rf_view_1d(r->d_m, p->f),
                                   .row_valid = p->valid,
                                   .first_latent = i,
                                   .scale = (float)p->scale,
                                   .eps = eps,
                                   .l0 = l0,
                                   .ste_to_input = ste_to_input};
        if (eps > 0) {
            args.d_threshold = rf_view_1d(r->d_theta, p->f);
        }
        OK(rf_dense_grad(s, &p->params, &args));
    }
}

/* Codes of what a coder selects, d_z of their entries in d_value, and their places in matrices. */
typedef struct sparse {
    rf_codes codes;
    float *h, *d_gate;
    int64_t *place;
} sparse;

static inline sparse make_sparse(const problem *p, float window)
{
    const int64_t capacity = p->n * p->f;
    sparse c = {.codes = {.n_rows = p->n,
                          .capacity = capacity,
                          .row_start = rf_calloc(p->n + 1, sizeof(int64_t)),
                          .latent = rf_calloc(capacity, sizeof(int32_t)),
                          .value = rf_calloc(capacity, sizeof(float)),
                          .d_value = rf_calloc(capacity, sizeof(float))},
                .h = rf_calloc(capacity, sizeof(float)),
                .d_gate = rf_calloc(capacity, sizeof(float)),
                .place = rf_calloc(capacity, sizeof(int64_t))};
    int64_t at = 0;
    for (int64_t b = 0; b < p->n; b++) {
        c.codes.row_start[b] = at;
        for (int64_t i = 0; i < p->f; i++) {
            const int64_t e = b * p->f + i;
            const float least = p->params.act == RF_CODER_JUMP ? p->theta[i] : 0.0f;
            const bool is_in =
                window > 0 ? fabsf(p->h[e] - p->theta[i]) < window / 2 : p->h[e] > least;
            if (p->valid[b] && is_in) {
                c.place[at] = e;
                c.codes.latent[at] = (int32_t)i;
                c.h[at] = c.codes.value[at] = p->h[e];
                c.codes.d_value[at] = p->d_z[e];
                c.d_gate[at++] = p->d_gate[e];
            }
        }
    }
    c.codes.row_start[p->n] = at;
    return c;
}

static inline void free_sparse(sparse *c)
{
    rf_free(c->codes.row_start);
    rf_free(c->codes.latent);
    rf_free(c->codes.value);
    rf_free(c->codes.d_value);
    rf_free(c->h);
    rf_free(c->d_gate);
    rf_free(c->place);
}

static const int64_t shapes[][2] = {{0, 5}, {1, 1}, {3, 17}, {5, 256}, {4, 257}, {7, 600}};
enum { N_SHAPES = 6 };

typedef void (*problem_fn)(problem *p);

/* Every act with every penalty, weighted and not, at every shape of at most `most_latents`. */
static inline void for_all(problem_fn fn, int64_t most_latents)
{
    for (int c = 0; c < N_SHAPES * N_ACTS * N_PENALTIES * 2; c++) {
        const int64_t *shape = shapes[c / (N_ACTS * N_PENALTIES * 2)];
        if (shape[1] <= most_latents) {
            problem p =
                make_problem(shape[0], shape[1], (rf_coder_act)(c / (N_PENALTIES * 2) % N_ACTS),
                             (rf_penalty_kind)(c / 2 % N_PENALTIES), c % 2 == 1);
            fn(&p);
            free_problem(&p);
        }
    }
}

static inline int open_all(void **state)
{
    (void)state;
    for (int t = 0; t < N_THREADS; t++) {
        threads[t] = open_threads(t + 1);
    }
    return 0;
}

static inline int close_all(void **state)
{
    (void)state;
    for (int t = 0; t < N_THREADS; t++) {
        close_threads(threads[t]);
    }
    return 0;
}

#endif
