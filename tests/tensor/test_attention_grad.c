/* Gradients of attention by its parts: against differences of the whole formula in double. */
#include "finite_difference.h"

#include <string.h>

typedef enum bias_kind { NO_BIAS, BIAS_BY_HEAD, BIAS_SHARED, BIAS_CAUSAL } bias_kind;

typedef struct sizes {
    int64_t n_pictures, n_queries, n_keys, n_heads, width;
    bias_kind bias;
    bool is_one_q; /* the same for all pictures: stride[0] == 0 */
} sizes;

#define SCALE 0.4

/* The formula: arrays of doubles, contiguous, [B, T, H, dh] each; q [Tq, H, dh] where it is one. */
typedef struct attention_problem {
    sizes z;
    double *q, *k, *v, *bias;
    const float *d_z;
} attention_problem;

static int64_t n_bias_heads(const sizes *z)
{
    return z->bias == BIAS_BY_HEAD ? z->n_heads : z->bias == NO_BIAS ? 0 : 1;
}

static double bias_at(const attention_problem *p, int64_t head, int64_t query, int64_t key)
{
    const int64_t h = n_bias_heads(&p->z) == 1 ? 0 : head;
    return p->bias == NULL ? 0.0 : p->bias[(h * p->z.n_queries + query) * p->z.n_keys + key];
}

/* Element 0 of token t's head. */
static int64_t at(const sizes *z, int64_t b, int64_t n_tokens, int64_t t, int64_t head)
{
    return ((b * n_tokens + t) * z->n_heads + head) * z->width;
}

/* pattern [T] of one query; all finite. */
static void pattern_row(const attention_problem *p, int64_t b, int64_t head, int64_t query,
                        double *pattern)
{
    const sizes *z = &p->z;
    const double *q = p->q + at(z, z->is_one_q ? 0 : b, z->n_queries, query, head);
    double total = 0.0;
    for (int64_t key = 0; key < z->n_keys; key++) {
        const double *k = p->k + at(z, b, z->n_keys, key, head);
        double dot = 0.0;
        for (int64_t j = 0; j < z->width; j++) {
            dot += q[j] * k[j];
        }
        pattern[key] = exp(SCALE * dot + bias_at(p, head, query, key));
        total += pattern[key];
    }
    for (int64_t key = 0; key < z->n_keys; key++) {
        pattern[key] /= total;
    }
}

enum { MOST_KEYS = 64 };

static double attention_loss(const void *problem)
{
    const attention_problem *p = problem;
    const sizes *z = &p->z;
    double loss = 0.0, pattern[MOST_KEYS];
    for (int64_t i = 0; i < z->n_pictures * z->n_heads * z->n_queries; i++) {
        const int64_t query = i % z->n_queries, head = i / z->n_queries % z->n_heads;
        const int64_t b = i / z->n_queries / z->n_heads;
        const float *d_z = p->d_z + at(z, b, z->n_queries, query, head);
        pattern_row(p, b, head, query, pattern);
        for (int64_t key = 0; key < z->n_keys; key++) {
            const double *v = p->v + at(z, b, z->n_keys, key, head);
            for (int64_t j = 0; j < z->width; j++) {
                loss += pattern[key] * v[j] * (double)d_z[j];
            }
        }
    }
    return loss;
}

/* Arrays of the operation. k and v lie side by side in rows of 2 H dh, and so do their gradients:
 * views with strides, as of a fused projection. */
typedef struct attention_case {
    sizes z;
    int64_t n_q, n_z, n_kv, n_pattern, n_bias;
    float *q, *kv, *bias, *d_z, *pattern, *d_pattern, *d_q, *d_kv, *d_bias;
    rf_attention_grad_args args;
} attention_case;

static rf_view half_of(const sizes *z, float *kv, int half)
{
    const int64_t shape[4] = {z->n_pictures, z->n_keys, z->n_heads, z->width};
    const int64_t d = z->n_heads * z->width;
    rf_view v = rf_view_nd(kv + half * d, RF_F32, 4, shape);
    v.stride[1] = 2 * d;
    v.stride[0] = z->n_keys * 2 * d;
    return v;
}

static void set_views(attention_case *c)
{
    const sizes *z = &c->z;
    const int64_t query[4] = {z->n_pictures, z->n_queries, z->n_heads, z->width};
    const int64_t pattern[4] = {z->n_pictures, z->n_heads, z->n_queries, z->n_keys};
    const int64_t bias[3] = {n_bias_heads(z), z->n_queries, z->n_keys};
    c->args = (rf_attention_grad_args){.q = rf_view_nd(c->q, RF_F32, 4, query),
                                       .k = half_of(z, c->kv, 0),
                                       .v = half_of(z, c->kv, 1),
                                       .pattern = rf_view_nd(c->pattern, RF_F32, 4, pattern),
                                       .d_z = rf_view_nd(c->d_z, RF_F32, 4, query),
                                       .d_pattern = rf_view_nd(c->d_pattern, RF_F32, 4, pattern),
                                       .d_q = rf_view_nd(c->d_q, RF_F32, 4, query),
                                       .d_k = half_of(z, c->d_kv, 0),
                                       .d_v = half_of(z, c->d_kv, 1),
                                       .scale = (float)SCALE};
    if (z->is_one_q) {
        c->args.q.stride[0] = 0;
    }
    if (z->bias != NO_BIAS) {
        c->args.d_bias = rf_view_nd(c->d_bias, RF_F32, 3, bias);
    }
}

static attention_case make_case(sizes z)
{
    attention_case c = {.z = z};
    const int64_t d = z.n_heads * z.width;
    c.n_q = (z.is_one_q ? 1 : z.n_pictures) * z.n_queries * d;
    c.n_z = z.n_pictures * z.n_queries * d;
    c.n_kv = z.n_pictures * z.n_keys * d;
    c.n_pattern = z.n_pictures * z.n_heads * z.n_queries * z.n_keys;
    c.n_bias = n_bias_heads(&z) * z.n_queries * z.n_keys;
    c.q = random_floats(c.n_q, 1);
    c.kv = random_floats(2 * c.n_kv, 2);
    c.bias = random_floats(c.n_bias, 3);
    c.d_z = random_floats(c.n_z, 4);
    c.pattern = random_floats(c.n_pattern, 5);
    c.d_pattern = random_floats(c.n_pattern, 6);
    c.d_q = random_floats(c.n_z, 7);
    c.d_kv = random_floats(2 * c.n_kv, 8);
    c.d_bias = rf_calloc(c.n_bias, sizeof *c.d_bias);
    for (int64_t i = 0; i < c.n_bias && z.bias == BIAS_CAUSAL; i++) {
        c.bias[i] = i % z.n_keys > i / z.n_keys % z.n_queries ? -INFINITY : 0.0f;
    }
    set_views(&c);
    return c;
}

static void free_case(attention_case *c)
{
    float *const all[] = {c->q,         c->kv,  c->bias, c->d_z,   c->pattern,
                          c->d_pattern, c->d_q, c->d_kv, c->d_bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        rf_free(all[i]);
    }
}

static attention_problem problem_of(const attention_case *c)
{
    attention_problem p = {.z = c->z, .d_z = c->d_z, .q = as_doubles(c->q, c->n_q)};
    const int64_t d = c->z.n_heads * c->z.width;
    p.k = rf_calloc(c->n_kv, sizeof *p.k);
    p.v = rf_calloc(c->n_kv, sizeof *p.v);
    for (int64_t i = 0; i < c->n_kv; i++) {
        p.k[i] = (double)c->kv[i / d * 2 * d + i % d];
        p.v[i] = (double)c->kv[i / d * 2 * d + d + i % d];
    }
    p.bias = c->z.bias == NO_BIAS ? NULL : as_doubles(c->bias, c->n_bias);
    return p;
}

static void free_problem(attention_problem *p)
{
    rf_free(p->q);
    rf_free(p->k);
    rf_free(p->v);
    rf_free(p->bias);
}

/* The pattern comes from the formula, so that only gradients are under test. */
static void run(rf_stream *s, attention_case *c, const attention_problem *p)
{
    const sizes *z = &c->z;
    double row[MOST_KEYS];
    for (int64_t i = 0; i < z->n_pictures * z->n_heads * z->n_queries; i++) {
        pattern_row(p, i / z->n_queries / z->n_heads, i / z->n_queries % z->n_heads,
                    i % z->n_queries, row);
        for (int64_t key = 0; key < z->n_keys; key++) {
            c->pattern[i * z->n_keys + key] = (float)row[key];
        }
    }
    assert_int_equal(rf_attention_mix_grad(s, &c->args), RF_OK);
    assert_int_equal(rf_attention_softmax_grad(s, &c->args), RF_OK);
    assert_int_equal(rf_attention_scores_grad(s, &c->args), RF_OK);
}

/* out [n] = a half's elements without what lies between. */
static float *half_floats(const attention_case *c, const float *kv, int half)
{
    const int64_t d = c->z.n_heads * c->z.width;
    float *out = random_floats(c->n_kv, 9);
    for (int64_t i = 0; i < c->n_kv; i++) {
        out[i] = kv[i / d * 2 * d + half * d + i % d];
    }
    return out;
}

/* d_q of one q for all: the sum over pictures, as the caller takes it. */
static void sum_pictures(attention_case *c)
{
    for (int64_t i = c->n_q; i < c->n_z; i++) {
        c->d_q[i % c->n_q] += c->d_q[i];
    }
}

/* fp32 sums of up to 33 terms of order 1, three products deep */
static const double tol = 1e-5;

static void check_case(rf_stream *s, sizes z)
{
    attention_case c = make_case(z);
    attention_problem p = problem_of(&c);
    run(s, &c, &p);
    sum_pictures(&c);
    float *d_k = half_floats(&c, c.d_kv, 0), *d_v = half_floats(&c, c.d_kv, 1);
    check_gradient("d_q", attention_loss, &p, p.q, c.n_q, c.d_q, tol);
    check_gradient("d_k", attention_loss, &p, p.k, c.n_kv, d_k, tol);
    check_gradient("d_v", attention_loss, &p, p.v, c.n_kv, d_v, tol);
    for (int64_t i = 0; i < c.n_bias; i++) {
        if (isfinite(c.bias[i])) {
            check_gradient("d_bias", attention_loss, &p, p.bias + i, 1, c.d_bias + i, tol);
        } else {
            assert_true(c.d_bias[i] == 0.0f);
        }
    }
    rf_free(d_k);
    rf_free(d_v);
    free_problem(&p);
    free_case(&c);
}

static void test_gradients_equal_differences_of_the_formula(void **state)
{
    (void)state;
    static const sizes cases[] = {
        {1, 1, 1, 1, 1, NO_BIAS, false},      {1, 1, 1, 2, 3, BIAS_BY_HEAD, false},
        {2, 5, 5, 3, 7, BIAS_BY_HEAD, false}, {2, 5, 5, 3, 7, BIAS_SHARED, false},
        {3, 17, 17, 1, 16, NO_BIAS, false},   {1, 33, 33, 2, 5, BIAS_SHARED, false},
        {2, 3, 9, 2, 5, BIAS_BY_HEAD, false}, {2, 9, 3, 2, 4, BIAS_SHARED, false},
        {1, 1, 12, 2, 6, NO_BIAS, false},
    };
    fixture f = open_threads(2);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_case(f.s, cases[i]);
    }
    close_threads(f);
}

static void test_one_query_for_all_pictures_has_a_gradient_by_picture(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    check_case(f.s, (sizes){3, 1, 6, 2, 4, NO_BIAS, true});
    check_case(f.s, (sizes){2, 2, 5, 1, 3, BIAS_SHARED, true});
    close_threads(f);
}

static void test_what_is_masked_gets_no_gradient_and_no_nan(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    check_case(f.s, (sizes){2, 7, 7, 2, 4, BIAS_CAUSAL, false});
    attention_case c = make_case((sizes){2, 7, 7, 2, 4, BIAS_CAUSAL, false});
    attention_problem p = problem_of(&c);
    run(f.s, &c, &p);
    for (int64_t i = 0; i < c.n_pattern; i++) {
        const bool is_masked = i % 7 > i / 7 % 7;
        assert_true(isfinite(c.d_pattern[i]) && (!is_masked || c.d_pattern[i] == 0.0f));
    }
    free_problem(&p);
    free_case(&c);
    close_threads(f);
}

static void test_bias_gradient_is_added_and_outputs_may_be_absent(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    attention_case c = make_case((sizes){2, 5, 5, 3, 7, BIAS_BY_HEAD, false});
    attention_problem p = problem_of(&c);
    run(f.s, &c, &p);
    float *first = random_floats(c.n_bias, 10);
    memcpy(first, c.d_bias, sizeof *first * (size_t)c.n_bias);
    c.args.d_q.data = c.args.d_k.data = NULL;
    assert_int_equal(rf_attention_scores_grad(f.s, &c.args), RF_OK);
    for (int64_t i = 0; i < c.n_bias; i++) {
        assert_true(c.d_bias[i] == 2.0f * first[i]);
    }
    c.args.d_v.data = NULL;
    assert_int_equal(rf_attention_mix_grad(f.s, &c.args), RF_OK);
    c.args.d_bias.data = c.args.d_pattern.data = NULL;
    assert_int_equal(rf_attention_mix_grad(f.s, &c.args), RF_OK);
    rf_free(first);
    free_problem(&p);
    free_case(&c);
    close_threads(f);
}

static void test_gradients_leave_what_lies_between_rows(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    attention_case c = make_case((sizes){2, 4, 5, 2, 3, NO_BIAS, false});
    attention_problem p = problem_of(&c);
    float *d_v_before = half_floats(&c, c.d_kv, 1);
    c.args.d_v.data = NULL;
    run(f.s, &c, &p);
    float *d_v_after = half_floats(&c, c.d_kv, 1);
    assert_memory_equal(d_v_before, d_v_after, sizeof(float) * (size_t)c.n_kv);
    rf_free(d_v_before);
    rf_free(d_v_after);
    free_problem(&p);
    free_case(&c);
    close_threads(f);
}

static void test_gradients_have_the_same_bits_on_one_to_three_threads(void **state)
{
    (void)state;
    attention_case c[3];
    for (int i = 0; i < 3; i++) {
        fixture f = open_threads(i + 1);
        c[i] = make_case((sizes){3, 50, 50, 3, 16, BIAS_SHARED, false});
        attention_problem p = problem_of(&c[i]);
        run(f.s, &c[i], &p);
        free_problem(&p);
        close_threads(f);
    }
    for (int i = 1; i < 3; i++) {
        assert_memory_equal(c[0].d_q, c[i].d_q, sizeof(float) * (size_t)c[0].n_z);
        assert_memory_equal(c[0].d_kv, c[i].d_kv, sizeof(float) * (size_t)(2 * c[0].n_kv));
        assert_memory_equal(c[0].d_bias, c[i].d_bias, sizeof(float) * (size_t)c[0].n_bias);
        assert_memory_equal(c[0].d_pattern, c[i].d_pattern, sizeof(float) * (size_t)c[0].n_pattern);
    }
    for (int i = 0; i < 3; i++) {
        free_case(&c[i]);
    }
}

static void test_no_pictures_and_no_queries_are_fine(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    attention_case none = make_case((sizes){0, 4, 4, 2, 3, BIAS_SHARED, false});
    assert_int_equal(rf_attention_mix_grad(f.s, &none.args), RF_OK);
    assert_int_equal(rf_attention_softmax_grad(f.s, &none.args), RF_OK);
    assert_int_equal(rf_attention_scores_grad(f.s, &none.args), RF_OK);
    for (int64_t i = 0; i < none.n_bias; i++) {
        assert_true(none.d_bias[i] == 0.0f);
    }
    free_case(&none);
    attention_case idle = make_case((sizes){2, 0, 4, 2, 3, NO_BIAS, false});
    idle.args.d_z.data = idle.args.q.data = idle.args.d_q.data = NULL;
    idle.args.pattern.data = idle.args.d_pattern.data = NULL;
    assert_int_equal(rf_attention_mix_grad(f.s, &idle.args), RF_OK);
    assert_int_equal(rf_attention_softmax_grad(f.s, &idle.args), RF_OK);
    assert_int_equal(rf_attention_scores_grad(f.s, &idle.args), RF_OK);
    for (int64_t i = 0; i < 2 * idle.n_kv; i++) {
        assert_true(idle.d_kv[i] == 0.0f); /* sums of no queries */
    }
    free_case(&idle);
    close_threads(f);
}

static void test_views_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    fixture f = open_threads(1);
    attention_case c = make_case((sizes){2, 3, 4, 2, 5, BIAS_BY_HEAD, false});
    rf_attention_grad_args bad = c.args;
    bad.v.shape[2] = 1;
    assert_int_equal(rf_attention_mix_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.pattern.shape[3] = 3;
    assert_int_equal(rf_attention_mix_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_attention_softmax_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.d_v.stride[0] = 0; /* two threads would write there */
    assert_int_equal(rf_attention_mix_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.k.stride[1] = 4; /* tokens overlap */
    assert_int_equal(rf_attention_scores_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.d_bias.shape[0] = 3;
    assert_int_equal(rf_attention_scores_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.d_pattern.data = NULL;
    assert_int_equal(rf_attention_softmax_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_attention_scores_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.d_pattern.stride[2] = 5;
    assert_int_equal(rf_attention_scores_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.k.n_dims = 3;
    assert_int_equal(rf_attention_scores_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    free_case(&c);
    close_threads(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_equal_differences_of_the_formula),
        cmocka_unit_test(test_one_query_for_all_pictures_has_a_gradient_by_picture),
        cmocka_unit_test(test_what_is_masked_gets_no_gradient_and_no_nan),
        cmocka_unit_test(test_bias_gradient_is_added_and_outputs_may_be_absent),
        cmocka_unit_test(test_gradients_leave_what_lies_between_rows),
        cmocka_unit_test(test_gradients_have_the_same_bits_on_one_to_three_threads),
        cmocka_unit_test(test_no_pictures_and_no_queries_are_fine),
        cmocka_unit_test(test_views_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
