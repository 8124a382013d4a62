/* Gradients of layer norm, activations, gated maps and column sums: against differences of their
 * formulas in double. */
#include "finite_difference.h"

#include <float.h>
#include <string.h>

/* ---- layer norm ---------------------------------------------------------------------------- */

typedef struct norm_problem {
    int64_t n, d;
    double *x, *w, *b, *scale; /* scale is part of the formula, or NULL: sqrt(var + EPS) */
    const float *d_y;
} norm_problem;

#define EPS 1e-3

static double norm_loss(const void *problem)
{
    const norm_problem *p = problem;
    double loss = 0.0;
    for (int64_t i = 0; i < p->n; i++) {
        const double *x = p->x + i * p->d;
        double mean = 0.0, var = 0.0;
        for (int64_t j = 0; j < p->d; j++) {
            mean += x[j] / (double)p->d;
        }
        for (int64_t j = 0; j < p->d; j++) {
            var += (x[j] - mean) * (x[j] - mean) / (double)p->d;
        }
        const double scale = p->scale != NULL ? p->scale[i] : sqrt(var + EPS);
        for (int64_t j = 0; j < p->d; j++) {
            const double y = (x[j] - mean) / scale * p->w[j] + p->b[j];
            loss += y * (double)p->d_y[i * p->d + j];
        }
    }
    return loss;
}

typedef struct norm_case {
    int64_t n, d;
    float *x, *w, *b, *y, *scale, *d_y, *d_x, *d_w, *d_b, *d_scale;
    rf_layer_norm_grad_args args;
} norm_case;

/* A forward pass, and arguments for the whole chain. */
static norm_case make_norm(rf_stream *s, int64_t n, int64_t d)
{
    norm_case c = {.n = n,
                   .d = d,
                   .x = random_floats(n * d, 1),
                   .w = random_floats(d, 2),
                   .b = random_floats(d, 3),
                   .y = random_floats(n * d, 4),
                   .scale = random_floats(n, 5),
                   .d_y = random_floats(n * d, 6),
                   .d_x = random_floats(n * d, 7),
                   .d_w = rf_calloc(d, sizeof(float)),
                   .d_b = rf_calloc(d, sizeof(float)),
                   .d_scale = random_floats(n, 8)};
    const rf_layer_norm_args forward = {.x = rf_view_2d(c.x, n, d),
                                        .weight = rf_view_1d(c.w, d),
                                        .bias = rf_view_1d(c.b, d),
                                        .y = rf_view_2d(c.y, n, d),
                                        .scale = rf_view_1d(c.scale, n),
                                        .eps = (float)EPS};
    assert_int_equal(rf_layer_norm(s, &forward), RF_OK);
    c.args = (rf_layer_norm_grad_args){.x = forward.x,
                                       .weight = forward.weight,
                                       .scale = forward.scale,
                                       .d_y = rf_view_2d(c.d_y, n, d),
                                       .d_x = rf_view_2d(c.d_x, n, d),
                                       .d_weight = rf_view_1d(c.d_w, d),
                                       .d_bias = rf_view_1d(c.d_b, d)};
    return c;
}

static void free_norm(norm_case *c)
{
    float *const all[] = {c->x,   c->w,   c->b,   c->y,   c->scale,
                          c->d_y, c->d_x, c->d_w, c->d_b, c->d_scale};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        rf_free(all[i]);
    }
}

static norm_problem problem_of(const norm_case *c, bool scale_is_given)
{
    norm_problem p = {.n = c->n, .d = c->d, .d_y = c->d_y};
    p.x = as_doubles(c->x, c->n * c->d);
    p.w = as_doubles(c->w, c->d);
    p.b = as_doubles(c->b, c->d);
    p.scale = scale_is_given ? as_doubles(c->scale, c->n) : NULL;
    return p;
}

static void free_problem(norm_problem *p)
{
    rf_free(p->x);
    rf_free(p->w);
    rf_free(p->b);
    rf_free(p->scale);
}

/* rows of 2 may nearly be constant: their scale is small, their gradient large, and the rounding of
 * (x - mean) is magnified by 1 / scale <= 32 */
static const double norm_tol = 3e-5;
static const int64_t norm_widths[] = {1, 2, 5, 16, 17, 100};

static void test_layer_norm_gradient_equals_differences(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    for (size_t i = 0; i < sizeof norm_widths / sizeof *norm_widths; i++) {
        norm_case c = make_norm(f.s, 5, norm_widths[i]);
        norm_problem p = problem_of(&c, false);
        assert_int_equal(rf_layer_norm_grad(f.s, &c.args), RF_OK);
        check_gradient("d_x", norm_loss, &p, p.x, c.n * c.d, c.d_x, norm_tol);
        check_gradient("d_weight", norm_loss, &p, p.w, c.d, c.d_w, norm_tol);
        check_gradient("d_bias", norm_loss, &p, p.b, c.d, c.d_b, norm_tol);
        for (int64_t j = 0; j < c.d; j++) { /* an absent weight is 1 */
            p.w[j] = 1.0;
        }
        c.args.weight.data = c.args.d_weight.data = c.args.d_bias.data = NULL;
        assert_int_equal(rf_layer_norm_grad(f.s, &c.args), RF_OK);
        check_gradient("d_x without weight", norm_loss, &p, p.x, c.n * c.d, c.d_x, norm_tol);
        free_problem(&p);
        free_norm(&c);
    }
    close_threads(f);
}

static void test_layer_norm_gradient_may_stop_at_the_scale(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    for (size_t i = 0; i < sizeof norm_widths / sizeof *norm_widths; i++) {
        norm_case c = make_norm(f.s, 5, norm_widths[i]);
        norm_problem given = problem_of(&c, true), chain = problem_of(&c, false);
        c.args.d_scale = rf_view_1d(c.d_scale, c.n);
        assert_int_equal(rf_layer_norm_grad(f.s, &c.args), RF_OK);
        check_gradient("d_x", norm_loss, &given, given.x, c.n * c.d, c.d_x, norm_tol);
        check_gradient("d_scale", norm_loss, &given, given.scale, c.n, c.d_scale, norm_tol);
        assert_int_equal(rf_layer_norm_scale_grad(f.s, &c.args), RF_OK); /* the rest of the way */
        check_gradient("both", norm_loss, &chain, chain.x, c.n * c.d, c.d_x, norm_tol);
        free_problem(&given);
        free_problem(&chain);
        free_norm(&c);
    }
    close_threads(f);
}

static void test_layer_norm_gradient_by_a_replaced_scale(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    norm_case c = make_norm(f.s, 4, 9);
    for (int64_t i = 0; i < c.n; i++) {
        c.scale[i] = 0.5f + (float)i;
    }
    norm_problem p = problem_of(&c, true);
    c.args.d_scale = rf_view_1d(c.d_scale, c.n);
    assert_int_equal(rf_layer_norm_grad(f.s, &c.args), RF_OK);
    check_gradient("d_x", norm_loss, &p, p.x, c.n * c.d, c.d_x, norm_tol);
    check_gradient("d_scale", norm_loss, &p, p.scale, c.n, c.d_scale, norm_tol);
    check_gradient("d_weight", norm_loss, &p, p.w, c.d, c.d_w, norm_tol);
    free_problem(&p);
    free_norm(&c);
    close_threads(f);
}

static void test_layer_norm_gradient_in_place_adds_and_leaves_out(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    norm_case c = make_norm(f.s, 130, 17); /* three blocks of rows */
    float first_w[17];
    assert_int_equal(rf_layer_norm_grad(f.s, &c.args), RF_OK);
    memcpy(first_w, c.d_w, sizeof first_w);
    float *alone = random_floats(17, 10);
    memset(alone, 0, sizeof first_w);
    rf_layer_norm_grad_args only = c.args; /* no d_x, no d_bias */
    only.d_x.data = only.d_bias.data = NULL;
    only.d_weight = rf_view_1d(alone, 17);
    assert_int_equal(rf_layer_norm_grad(f.s, &only), RF_OK);
    assert_memory_equal(alone, first_w, sizeof first_w);
    c.args.d_x = c.args.d_y;
    float *kept = random_floats(130 * 17, 11);
    memcpy(kept, c.d_x, sizeof(float) * 130 * 17);
    assert_int_equal(rf_layer_norm_grad(f.s, &c.args), RF_OK);
    assert_memory_equal(kept, c.d_y, sizeof(float) * 130 * 17);
    for (int j = 0; j < 17; j++) {
        assert_true(c.d_w[j] == 2.0f * first_w[j]); /* the same sum again: exact */
    }
    rf_free(kept);
    rf_free(alone);
    free_norm(&c);
    close_threads(f);
}

static void test_layer_norm_gradient_refuses_what_does_not_fit(void **state)
{
    (void)state;
    fixture f = open_threads(1);
    norm_case c = make_norm(f.s, 3, 4);
    rf_layer_norm_grad_args bad = c.args;
    bad.d_y.shape[1] = 3;
    assert_int_equal(rf_layer_norm_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.scale.data = NULL;
    assert_int_equal(rf_layer_norm_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.d_weight.shape[0] = 5;
    assert_int_equal(rf_layer_norm_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.d_x.dtype = RF_F16;
    assert_int_equal(rf_layer_norm_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_layer_norm_scale_grad(f.s, &c.args), RF_ERR_INVALID_ARG); /* no d_scale */
    bad = (rf_layer_norm_grad_args){.x = rf_view_2d(NULL, 0, 4),
                                    .scale = rf_view_1d(NULL, 0),
                                    .d_y = rf_view_2d(NULL, 0, 4),
                                    .d_weight = rf_view_1d(c.d_w, 4)};
    memset(c.d_w, 0, sizeof(float) * 4);
    assert_int_equal(rf_layer_norm_grad(f.s, &bad), RF_OK); /* no rows add nothing */
    assert_int_equal(rf_layer_norm_scale_grad(f.s, &bad), RF_OK);
    assert_true(c.d_w[0] == 0.0f && c.d_w[3] == 0.0f);
    free_norm(&c);
    close_threads(f);
}

/* ---- activations and gated maps ------------------------------------------------------------ */

static const rf_act all_acts[] = {RF_ACT_NONE,       RF_ACT_RELU,      RF_ACT_GELU,
                                  RF_ACT_QUICK_GELU, RF_ACT_GELU_TANH, RF_ACT_SILU};
enum { N_ACTS = sizeof all_acts / sizeof *all_acts };

static double act_of(rf_act act, double x)
{
    switch (act) {
    case RF_ACT_NONE:
        return x;
    case RF_ACT_RELU:
        return x > 0.0 ? x : 0.0;
    case RF_ACT_GELU:
        return 0.5 * x * erfc(-x / sqrt(2.0));
    case RF_ACT_QUICK_GELU:
        return x / (1.0 + exp(-1.702 * x));
    case RF_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case RF_ACT_SILU:
        return x / (1.0 + exp(-x));
    }
    return NAN;
}

typedef struct gated_problem {
    int64_t n;
    rf_act act;
    double *gate, *x; /* x NULL: 1 */
    const float *d_y;
} gated_problem;

static double gated_loss(const void *problem)
{
    const gated_problem *p = problem;
    double loss = 0.0;
    for (int64_t i = 0; i < p->n; i++) {
        loss += act_of(p->act, p->gate[i]) * (p->x == NULL ? 1.0 : p->x[i]) * (double)p->d_y[i];
    }
    return loss;
}

/* erf is good to 2e-7, exp to 2 ulp; slopes are of order 1, gates of order 10 */
static const double act_tol = 3e-6;

static void test_activation_gradients_equal_differences(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    const int64_t n = 3, d = 67;
    for (int a = 0; a < N_ACTS; a++) {
        float *x = random_floats(n * d, 31), *d_y = random_floats(n * d, 32);
        float *d_x = random_floats(n * d, 33);
        for (int64_t i = 0; i < n * d; i++) {
            x[i] *= i % 2 == 0 ? 1.0f : 4.0f;
        }
        gated_problem p = {.n = n * d, .act = all_acts[a], .gate = as_doubles(x, n * d)};
        p.d_y = d_y;
        const rf_view from = rf_view_2d(x, n, d), g = rf_view_2d(d_y, n, d);
        const rf_view to = rf_view_2d(d_x, n, d);
        assert_int_equal(rf_activation_grad(f.s, all_acts[a], &from, &g, &to), RF_OK);
        check_gradient("d_x", gated_loss, &p, p.gate, n * d, d_x, act_tol);
        assert_int_equal(rf_activation_grad(f.s, all_acts[a], &from, &g, &g), RF_OK);
        assert_memory_equal(d_y, d_x, sizeof(float) * (size_t)(n * d)); /* in place */
        rf_free(p.gate);
        rf_free(x);
        rf_free(d_y);
        rf_free(d_x);
    }
    close_threads(f);
}

static void test_activation_gradients_are_flat_far_out_and_keep_nan(void **state)
{
    (void)state;
    fixture f = open_threads(1);
    float x[7] = {-FLT_MAX, -1e20f, -40.0f, 40.0f, 1e20f, FLT_MAX, NAN};
    float d_y[7] = {1, 1, 1, 1, 1, 1, 1}, d_x[7];
    const rf_view from = rf_view_2d(x, 1, 7), g = rf_view_2d(d_y, 1, 7), to = rf_view_2d(d_x, 1, 7);
    for (int a = 1; a < N_ACTS; a++) { /* but RF_ACT_NONE */
        assert_int_equal(rf_activation_grad(f.s, all_acts[a], &from, &g, &to), RF_OK);
        for (int i = 0; i < 6; i++) { /* 40 e^-40 is the farthest of all from its limit */
            assert_true(fabs((double)d_x[i] - (i < 3 ? 0.0 : 1.0)) <= 1e-12);
        }
        assert_true(isnan(d_x[6]) || all_acts[a] == RF_ACT_RELU);
    }
    close_threads(f);
}

typedef struct gated_case {
    float *gate, *x, *y, *d_y, *d_gate, *d_x;
    rf_gated_grad_args args;
} gated_case;

/* Rows of gate and x lie side by side, as one fused map leaves them. */
static gated_case make_gated(rf_act act, int64_t n, int64_t d)
{
    gated_case c = {.gate = random_floats(2 * n * d, 41),
                    .y = random_floats(n * d, 42),
                    .d_y = random_floats(n * d, 43),
                    .d_gate = random_floats(n * d, 44),
                    .d_x = random_floats(n * d, 45)};
    c.x = c.gate + d;
    c.args = (rf_gated_grad_args){.gate = rf_view_2d(c.gate, n, d),
                                  .x = rf_view_2d(c.x, n, d),
                                  .d_y = rf_view_2d(c.d_y, n, d),
                                  .d_gate = rf_view_2d(c.d_gate, n, d),
                                  .d_x = rf_view_2d(c.d_x, n, d),
                                  .act = act};
    c.args.gate.stride[0] = c.args.x.stride[0] = 2 * d;
    return c;
}

static void free_gated(gated_case *c)
{
    rf_free(c->gate);
    rf_free(c->y);
    rf_free(c->d_y);
    rf_free(c->d_gate);
    rf_free(c->d_x);
}

static void check_gated(rf_stream *s, rf_act act, int64_t n, int64_t d)
{
    gated_case c = make_gated(act, n, d);
    const rf_view y = rf_view_2d(c.y, n, d);
    gated_problem p = {.n = n * d, .act = act, .d_y = c.d_y};
    p.gate = rf_calloc(n * d, sizeof *p.gate);
    p.x = rf_calloc(n * d, sizeof *p.x);
    for (int64_t i = 0; i < n * d; i++) {
        p.gate[i] = (double)c.gate[i / d * 2 * d + i % d];
        p.x[i] = (double)c.x[i / d * 2 * d + i % d];
    }
    assert_int_equal(rf_gated(s, act, &c.args.gate, &c.args.x, &y), RF_OK);
    for (int64_t i = 0; i < n * d; i++) {
        const double want = act_of(act, p.gate[i]) * p.x[i];
        assert_true(fabs((double)c.y[i] - want) <= act_tol * (1.0 + fabs(want)));
    }
    assert_int_equal(rf_gated_grad(s, &c.args), RF_OK);
    for (int64_t i = 0; i < n * d; i++) { /* each term of the loss alone: differences of 1 term */
        gated_problem one = {.n = 1, .act = act, .gate = p.gate + i, .x = p.x + i};
        one.d_y = c.d_y + i;
        check_gradient("d_gate", gated_loss, &one, one.gate, 1, c.d_gate + i, act_tol);
        check_gradient("d_x", gated_loss, &one, one.x, 1, c.d_x + i, act_tol);
    }
    rf_free(p.gate);
    rf_free(p.x);
    free_gated(&c);
}

static void test_gated_and_its_gradients_equal_the_formula(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    for (int a = 0; a < N_ACTS; a++) {
        check_gated(f.s, all_acts[a], 3, 21);
        check_gated(f.s, all_acts[a], 1, 1);
        check_gated(f.s, all_acts[a], 2, 1025); /* one past a piece of a row */
    }
    close_threads(f);
}

static void test_gated_may_write_over_its_inputs(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    enum { N = 3, D = 1030 };
    for (int over = 0; over < 2; over++) {
        gated_case c = make_gated(RF_ACT_SILU, N, D);
        const rf_view y = rf_view_2d(c.y, N, D);
        const rf_view *into = over == 0 ? &c.args.gate : &c.args.x;
        assert_int_equal(rf_gated_grad(f.s, &c.args), RF_OK);
        float *want = over == 0 ? c.d_gate : c.d_x;
        *(over == 0 ? &c.args.d_gate : &c.args.d_x) = c.args.d_y;
        assert_int_equal(rf_gated_grad(f.s, &c.args), RF_OK);
        assert_memory_equal(c.d_y, want, sizeof(float) * N * D);
        assert_int_equal(rf_gated(f.s, RF_ACT_SILU, &c.args.gate, &c.args.x, &y), RF_OK);
        assert_int_equal(rf_gated(f.s, RF_ACT_SILU, &c.args.gate, &c.args.x, into), RF_OK);
        for (int i = 0; i < N; i++) {
            assert_memory_equal((float *)into->data + i * 2 * D, c.y + i * D, sizeof(float) * D);
        }
        free_gated(&c);
    }
    close_threads(f);
}

static void test_elementwise_gradients_refuse_what_does_not_fit(void **state)
{
    (void)state;
    fixture f = open_threads(1);
    gated_case c = make_gated(RF_ACT_SILU, 2, 3);
    const rf_view y = rf_view_2d(c.y, 2, 3), narrow = rf_view_2d(c.y, 2, 2);
    const rf_view empty = rf_view_2d(NULL, 0, 3);
    assert_int_equal(rf_gated(f.s, RF_ACT_SILU, &c.args.gate, &narrow, &y), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_gated(f.s, (rf_act)77, &c.args.gate, &y, &y), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_gated(f.s, RF_ACT_SILU, &empty, &empty, &empty), RF_OK);
    assert_int_equal(rf_activation_grad(f.s, RF_ACT_RELU, &y, &narrow, &y), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_activation_grad(f.s, (rf_act)-1, &y, &y, &y), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_activation_grad(f.s, RF_ACT_RELU, &empty, &empty, &empty), RF_OK);
    c.args.d_x.shape[0] = 1;
    assert_int_equal(rf_gated_grad(f.s, &c.args), RF_ERR_INVALID_ARG);
    c.args.d_x.data = c.args.d_gate.data = NULL;
    assert_int_equal(rf_gated_grad(f.s, &c.args), RF_OK); /* nothing is asked for */
    free_gated(&c);
    close_threads(f);
}

/* ---- sums by column ------------------------------------------------------------------------ */

static void test_column_dot_adds_the_sum_over_rows(void **state)
{
    (void)state;
    fixture f = open_threads(3);
    static const int64_t sizes[] = {0, 1, 255, 256, 257, 1000};
    enum { D = 9 };
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const int64_t n = sizes[k];
        float *x = random_floats(n * D, 51), *y = random_floats(n * D, 52), out[D];
        double want[D];
        for (int64_t i = 0; i < n * D; i++) { /* small whole numbers: sums are exact */
            x[i] = roundf(4.0f * x[i]);
            y[i] = roundf(4.0f * y[i]);
        }
        for (int j = 0; j < D; j++) {
            out[j] = (float)j;
            want[j] = (double)j;
            for (int64_t i = 0; i < n; i++) {
                want[j] += (double)x[i * D + j] * (double)y[i * D + j];
            }
        }
        const rf_view a = rf_view_2d(n == 0 ? NULL : x, n, D);
        const rf_view b = rf_view_2d(n == 0 ? NULL : y, n, D), to = rf_view_1d(out, D);
        assert_int_equal(rf_column_dot(f.s, &a, &b, &to), RF_OK);
        for (int j = 0; j < D; j++) {
            assert_true((double)out[j] == want[j]);
        }
        rf_view bad = to;
        bad.shape[0] = D - 1;
        assert_int_equal(rf_column_dot(f.s, &a, &b, &bad), RF_ERR_INVALID_ARG);
        rf_free(x);
        rf_free(y);
    }
    close_threads(f);
}

/* ---- order --------------------------------------------------------------------------------- */

static void test_gradients_have_the_same_bits_on_one_and_three_threads(void **state)
{
    (void)state;
    enum { N = 1000, D = 33 };
    norm_case norm[2];
    gated_case gated[2];
    float columns[2][D] = {{0}};
    for (int k = 0; k < 2; k++) {
        fixture f = open_threads(k == 0 ? 1 : 3);
        norm[k] = make_norm(f.s, N, D);
        gated[k] = make_gated(RF_ACT_GELU, N, D);
        const rf_view out = rf_view_1d(columns[k], D);
        assert_int_equal(rf_layer_norm_grad(f.s, &norm[k].args), RF_OK);
        assert_int_equal(rf_gated_grad(f.s, &gated[k].args), RF_OK);
        assert_int_equal(rf_column_dot(f.s, &norm[k].args.x, &norm[k].args.d_y, &out), RF_OK);
        close_threads(f);
    }
    assert_memory_equal(norm[0].d_x, norm[1].d_x, sizeof(float) * N * D);
    assert_memory_equal(norm[0].d_w, norm[1].d_w, sizeof(float) * D);
    assert_memory_equal(norm[0].d_b, norm[1].d_b, sizeof(float) * D);
    assert_memory_equal(gated[0].d_gate, gated[1].d_gate, sizeof(float) * N * D);
    assert_memory_equal(gated[0].d_x, gated[1].d_x, sizeof(float) * N * D);
    assert_memory_equal(columns[0], columns[1], sizeof columns[0]);
    for (int k = 0; k < 2; k++) {
        free_norm(&norm[k]);
        free_gated(&gated[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layer_norm_gradient_equals_differences),
        cmocka_unit_test(test_layer_norm_gradient_may_stop_at_the_scale),
        cmocka_unit_test(test_layer_norm_gradient_by_a_replaced_scale),
        cmocka_unit_test(test_layer_norm_gradient_in_place_adds_and_leaves_out),
        cmocka_unit_test(test_layer_norm_gradient_refuses_what_does_not_fit),
        cmocka_unit_test(test_activation_gradients_equal_differences),
        cmocka_unit_test(test_activation_gradients_are_flat_far_out_and_keep_nan),
        cmocka_unit_test(test_gated_and_its_gradients_equal_the_formula),
        cmocka_unit_test(test_gated_may_write_over_its_inputs),
        cmocka_unit_test(test_elementwise_gradients_refuse_what_does_not_fit),
        cmocka_unit_test(test_column_dot_adds_the_sum_over_rows),
        cmocka_unit_test(test_gradients_have_the_same_bits_on_one_and_three_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
