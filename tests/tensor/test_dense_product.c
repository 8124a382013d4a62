/* Products that dense_values and dense_grad take along: tile by tile, with the bits of a product
 * that comes before them. */
#include "act_fixture.h"

typedef struct operands {
    int64_t n, f, d;
    float *x, *w, *bias;
} operands;

static operands make_operands(int64_t n, int64_t f, int64_t d)
{
    return (operands){
        n, f, d, random_floats(n * d, 91), random_floats(f * d, 92), random_floats(f, 93)};
}

static void free_operands(operands *o)
{
    rf_free(o->x);
    rf_free(o->w);
    rf_free(o->bias);
}

/* c [n, f] = x w^T + bias. */
static rf_matmul_args product_into(const operands *o, float *c)
{
    return (rf_matmul_args){.a = rf_view_2d(o->x, o->n, o->d),
                            .b = rf_view_2d(o->w, o->f, o->d),
                            .c = rf_view_2d(c, o->n, o->f),
                            .bias = rf_view_1d(o->bias, o->f),
                            .trans_b = RF_TRANS,
                            .alpha = 0.5f};
}

static rf_dense_values_args values_of(const problem *p, const dense_result *r, float *h)
{
    return (rf_dense_values_args){.h = rf_view_2d(h, p->n, p->f),
                                  .z = rf_view_2d(r->z, p->n, p->f),
                                  .n_active = rf_view_nd(r->n_active, RF_I64, 1, &p->f),
                                  .row_active = rf_view_nd(r->row_active, RF_I64, 1, &p->n),
                                  .row_penalty = rf_view_1d(r->row_penalty, p->n),
                                  .row_norm = rf_view_1d(r->row_norm, p->n),
                                  .row_valid = p->valid};
}

static rf_dense_grad_args grad_of(const problem *p, const dense_result *r, float *d_h_sum)
{
    return (rf_dense_grad_args){.h = rf_view_2d(p->h, p->n, p->f),
                                .d_z = rf_view_2d(r->d_h, p->n, p->f),
                                .d_gate = rf_view_2d(p->d_gate, p->n, p->f),
                                .row_norm = rf_view_1d(r->row_norm, p->n),
                                .d_h = rf_view_1d(d_h_sum, p->f),
                                .d_threshold = rf_view_1d(r->d_theta, p->f),
                                .d_b_gate = rf_view_1d(r->d_b, p->f),
                                .d_gain = rf_view_1d(r->d_r, p->f),
                                .d_b_mag = rf_view_1d(r->d_m, p->f),
                                .row_valid = p->valid,
                                .scale = 0.3f,
                                .eps = 0.25f,
                                .l0 = 0.01f,
                                .ste_to_input = true};
}

static void check_values(const problem *p, const operands *o)
{
    dense_result want = make_result(p);
    rf_matmul_args product = product_into(o, p->h);
    const rf_dense_values_args after = values_of(p, &want, p->h);
    OK(rf_matmul(threads[0].s, &product));
    OK(rf_dense_values(threads[0].s, &p->params, &after));
    for (int t = 0; t < N_THREADS; t++) {
        dense_result got = make_result(p);
        float *h = rf_calloc(p->n * p->f, sizeof *h);
        product = product_into(o, h);
        rf_dense_values_args joined = values_of(p, &got, h);
        joined.product = &product;
        OK(rf_dense_values(threads[t].s, &p->params, &joined));
        same_bits(h, p->h, p->n * p->f, "h");
        same_bits(got.z, want.z, p->n * p->f, "z");
        same_bits(got.row_penalty, want.row_penalty, p->n, "penalty");
        same_bits(got.row_norm, want.row_norm, p->n, "norm");
        assert_memory_equal(got.n_active, want.n_active, sizeof(int64_t) * (size_t)p->f);
        assert_memory_equal(got.row_active, want.row_active, sizeof(int64_t) * (size_t)p->n);
        rf_free(h);
        free_result(&got);
    }
    free_result(&want);
}

/* d_h's sums are those of its columns. */
static void check_sums(const problem *p, const float *d_h, const float *sums)
{
    for (int64_t i = 0; i < p->f; i++) {
        double sum = 0, size = 1;
        for (int64_t b = 0; b < p->n; b++) {
            sum += (double)d_h[b * p->f + i];
            size += fabs((double)d_h[b * p->f + i]);
        }
        near((double)sums[i] / size, (2 + sum) / size, 1e-6, "sum of d_h"); /* fp32 in blocks */
    }
}

static float *twos(int64_t n)
{
    float *x = rf_calloc(n, sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = 2.0f; /* is added to */
    }
    return x;
}

static void check_gradients(const problem *p, const operands *o)
{
    dense_result want = make_result(p);
    float *want_sum = twos(p->f);
    rf_matmul_args product = product_into(o, want.d_h);
    dense_values(p, threads[0].s, &want);
    const rf_dense_grad_args after = grad_of(p, &want, want_sum);
    OK(rf_matmul(threads[0].s, &product));
    OK(rf_dense_grad(threads[0].s, &p->params, &after));
    check_sums(p, want.d_h, want_sum);
    for (int t = 0; t < N_THREADS; t++) {
        dense_result got = make_result(p);
        float *sum = twos(p->f);
        product = product_into(o, got.d_h);
        memcpy(got.row_norm, want.row_norm, sizeof(float) * (size_t)p->n);
        rf_dense_grad_args joined = grad_of(p, &got, sum);
        joined.product = &product;
        OK(rf_dense_grad(threads[t].s, &p->params, &joined));
        same_bits(got.d_h, want.d_h, p->n * p->f, "d_h");
        same_bits(sum, want_sum, p->f, "sum of d_h");
        same_bits(got.d_theta, want.d_theta, p->f, "d_threshold");
        same_bits(got.d_b, want.d_b, p->f, "d_b_gate");
        same_bits(got.d_r, want.d_r, p->f, "d_gain");
        same_bits(got.d_m, want.d_m, p->f, "d_b_mag");
        rf_free(sum);
        free_result(&got);
    }
    rf_free(want_sum);
    free_result(&want);
}

/* Rows and latents within a block, beside its end, and of many tiles. */
static void products_are_joined_bit_for_bit(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {
        {1, 1, 3}, {16, 16, 8}, {17, 129, 40}, {50, 1500, 64}, {1100, 2100, 17}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int64_t *size = sizes[i];
        operands o = make_operands(size[0], size[1], size[2]);
        for (int act = 0; act < N_ACTS; act++) {
            problem p = make_problem(size[0], size[1], (rf_coder_act)act,
                                     act == RF_CODER_JUMP ? RF_PENALTY_NORM : RF_PENALTY_L1,
                                     act == RF_CODER_GATED);
            check_values(&p, &o);
            check_gradients(&p, &o);
            free_problem(&p);
        }
        free_operands(&o);
    }
}

static void a_product_of_another_matrix_is_refused(void **state)
{
    (void)state;
    problem p = make_problem(3, 17, RF_CODER_RELU, RF_PENALTY_L1, false);
    operands o = make_operands(3, 17, 4);
    dense_result r = make_result(&p);
    rf_matmul_args product = product_into(&o, r.z);
    rf_dense_values_args values = values_of(&p, &r, p.h);
    rf_dense_grad_args grad = {.product = &product,
                               .h = values.h,
                               .d_z = rf_view_2d(r.d_h, 3, 17),
                               .row_norm = values.row_norm};
    values.product = &product;
    REFUSED(rf_dense_values(threads[0].s, &p.params, &values));
    REFUSED(rf_dense_grad(threads[0].s, &p.params, &grad));
    product = product_into(&o, p.h);
    OK(rf_dense_values(threads[0].s, &p.params, &values));
    product.a.shape[1] = 3; /* of 4 */
    REFUSED(rf_dense_values(threads[0].s, &p.params, &values));
    product = product_into(&o, r.d_h);
    OK(rf_dense_grad(threads[0].s, &p.params, &grad));
    free_result(&r);
    free_operands(&o);
    free_problem(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_joined_bit_for_bit),
        cmocka_unit_test(a_product_of_another_matrix_is_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
