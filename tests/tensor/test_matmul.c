/* Matrix products against double sums, and the bits that they promise. */
#include "dense_fixture.h"

#include <math.h>
#include <string.h>

/* c of `args` equals the sum in double; each term rounds once, so 4e-7 of sum |a b| is ample up to
 * K of a few thousand. */
static void check_product(const rf_matmul_args *args, const float *c_before)
{
    const int64_t m = args->c.shape[0], n = args->c.shape[1];
    const int64_t k = args->a.shape[args->trans_a == RF_TRANS ? 0 : 1];
    const float *a = args->a.data, *b = args->b.data, *c = args->c.data, *bias = args->bias.data;
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = 0.0, size = 1.0;
            for (int64_t l = 0; l < k; l++) {
                double x = (double)(args->trans_a == RF_TRANS ? a[l * args->a.stride[0] + i]
                                                              : a[i * args->a.stride[0] + l]);
                double y = (double)(args->trans_b == RF_TRANS ? b[j * args->b.stride[0] + l]
                                                              : b[l * args->b.stride[0] + j]);
                sum += x * y;
                size += fabs(x * y);
            }
            sum *= (double)args->alpha;
            sum += args->beta != 0.0f ? (double)c_before[i * args->c.stride[0] + j] : 0.0;
            sum += bias != NULL ? (double)bias[j] : 0.0;
            sum = args->act == RF_ACT_RELU && sum < 0.0 ? 0.0 : sum;
            if (!(fabs((double)c[i * args->c.stride[0] + j] - sum) <= 4e-7 * size)) {
                fail_msg("[%d %d %d] at %d,%d: %g, expected %g", (int)m, (int)n, (int)k, (int)i,
                         (int)j, (double)c[i * args->c.stride[0] + j], sum);
            }
        }
    }
}

static void try_shape(fixture f, int64_t m, int64_t n, int64_t k, unsigned variant)
{
    const bool ta = (variant & 1U) != 0, tb = (variant & 2U) != 0, extra = (variant & 4U) != 0;
    const int64_t pad = extra ? 3 : 0; /* rows further apart than they are long */
    const int64_t a_rows = ta ? k : m, a_cols = ta ? m : k, b_rows = tb ? n : k;
    const int64_t b_cols = tb ? k : n;
    float *a = random_floats(a_rows * (a_cols + pad), 1);
    float *b = random_floats(b_rows * (b_cols + pad), 2);
    float *c = random_floats(m * (n + pad), 3), *before = random_floats(m * (n + pad), 3);
    float *bias = random_floats(n, 4);
    for (int64_t i = 0; i < m * (n + pad) && !extra; i++) {
        c[i] = NAN; /* beta = 0 must not read it */
    }
    rf_matmul_args args = {.a = rf_view_2d(a, a_rows, a_cols),
                           .b = rf_view_2d(b, b_rows, b_cols),
                           .c = rf_view_2d(c, m, n),
                           .bias = rf_view_1d(extra ? bias : NULL, n),
                           .trans_a = ta ? RF_TRANS : RF_NO_TRANS,
                           .trans_b = tb ? RF_TRANS : RF_NO_TRANS,
                           .alpha = extra ? -0.5f : 1.0f,
                           .beta = extra ? 1.0f : 0.0f,
                           .act = extra ? RF_ACT_RELU : RF_ACT_NONE};
    args.a.stride[0] += pad;
    args.b.stride[0] += pad;
    args.c.stride[0] += pad;
    assert_int_equal(rf_matmul(f.s, &args), RF_OK);
    check_product(&args, before);
    for (int64_t i = 0; i < m && extra; i++) { /* what lies between rows is left alone */
        assert_memory_equal(c + i * (n + pad) + n, before + i * (n + pad) + n, 3 * sizeof *c);
    }
    rf_free(a);
    rf_free(b);
    rf_free(c);
    rf_free(before);
    rf_free(bias);
}

static void test_ragged_products_equal_double_sums(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{1, 1, 1},    {1, 5, 3},    {3, 1, 7},     {17, 33, 5},
                                        {16, 16, 16}, {15, 15, 15}, {257, 48, 19}, {50, 400, 32},
                                        {31, 385, 9}, {7, 768, 12}, {33, 10, 2000}};
    fixture f = open_threads(2);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (unsigned variant = 0; variant < 8; variant++) {
            try_shape(f, shapes[i][0], shapes[i][1], shapes[i][2], variant);
        }
    }
    close_threads(f);
}

static void test_empty_products_are_zero_or_what_was_there(void **state)
{
    (void)state;
    fixture f = open_threads(1);
    float c[6] = {1, 2, 3, 4, 5, 6}, one[6] = {0};
    rf_matmul_args args = {.a = rf_view_2d(one, 2, 0), .b = rf_view_2d(one, 0, 3)};
    args.c = rf_view_2d(c, 2, 3);
    args.alpha = 1.0f;
    args.beta = 1.0f;
    assert_int_equal(rf_matmul(f.s, &args), RF_OK);
    assert_true(c[5] == 6.0f);
    args.beta = 0.0f;
    assert_int_equal(rf_matmul(f.s, &args), RF_OK);
    assert_true(c[0] == 0.0f && c[5] == 0.0f);
    args = (rf_matmul_args){.a = rf_view_2d(one, 0, 2), .b = rf_view_2d(one, 2, 3)};
    args.c = rf_view_2d(c, 0, 3);
    assert_int_equal(rf_matmul(f.s, &args), RF_OK);
    close_threads(f);
}

static float *product(fixture f, float *a, float *b, int64_t m, int64_t n, int64_t k, rf_trans tb)
{
    float *c = rf_calloc(m * n, sizeof *c);
    assert_non_null(c);
    rf_matmul_args args = {.a = rf_view_2d(a, m, k), .c = rf_view_2d(c, m, n)};
    args.b = tb == RF_TRANS ? rf_view_2d(b, n, k) : rf_view_2d(b, k, n);
    args.trans_b = tb;
    args.alpha = 1.0f;
    args.act = RF_ACT_GELU;
    assert_int_equal(rf_matmul(f.s, &args), RF_OK);
    return c;
}

static void test_one_to_four_threads_give_the_same_bits(void **state)
{
    (void)state;
    const int64_t m = 411, n = 1000, k = 1000;
    float *a = random_floats(m * k, 5), *b = random_floats(n * k, 6), *first = NULL;
    for (int n_threads = 1; n_threads <= 4; n_threads++) {
        fixture f = open_threads(n_threads);
        float *c = product(f, a, b, m, n, k, RF_TRANS);
        if (first == NULL) {
            first = c;
        } else {
            assert_memory_equal(first, c, (size_t)(m * n) * sizeof *c);
            rf_free(c);
        }
        close_threads(f);
    }
    rf_free(first);
    rf_free(a);
    rf_free(b);
}

static void test_a_row_has_the_same_bits_whatever_rows_stand_beside_it(void **state)
{
    (void)state;
    static const int64_t starts[][2] = {{0, 1}, {3, 16}, {100, 17}, {255, 50}, {1, 300}, {512, 88}};
    static const int64_t widths[][2] = {{384, 384}, {768, 1000}, {1, 64}, {10, 3072}, {1536, 24}};
    fixture f = open_threads(2);
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        for (int tb = 0; tb < 2; tb++) {
            const int64_t m = 600, n = widths[w][0], k = widths[w][1];
            const rf_trans t = tb != 0 ? RF_TRANS : RF_NO_TRANS;
            float *a = random_floats(m * k, 7), *b = random_floats(n * k, 8);
            float *all = product(f, a, b, m, n, k, t);
            for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
                int64_t row = starts[i][0], count = starts[i][1];
                float *some = product(f, a + row * k, b, count, n, k, t);
                assert_memory_equal(all + row * n, some, (size_t)(count * n) * sizeof *some);
                rf_free(some);
            }
            rf_free(all);
            rf_free(a);
            rf_free(b);
        }
    }
    close_threads(f);
}

static void test_shapes_that_do_not_fit_are_refused_by_name(void **state)
{
    (void)state;
    fixture f = open_threads(1);
    float x[64] = {0};
    rf_matmul_args good = {.a = rf_view_2d(x, 2, 3),
                           .b = rf_view_2d(x, 3, 4),
                           .c = rf_view_2d(x, 2, 4),
                           .alpha = 1.0f};
    rf_matmul_args bad = good;
    bad.b.shape[0] = 2;
    assert_int_equal(rf_matmul(f.s, &bad), RF_ERR_INVALID_ARG);
    assert_non_null(strstr(rf_error_text(), "of b"));
    bad = good;
    bad.c.shape[1] = 3;
    assert_int_equal(rf_matmul(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = good;
    bad.beta = 0.5f;
    assert_int_equal(rf_matmul(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = good;
    bad.a.stride[1] = 2;
    assert_int_equal(rf_matmul(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = good;
    bad.a.data = NULL;
    assert_int_equal(rf_matmul(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = good;
    bad.bias = rf_view_1d(x, 5);
    assert_int_equal(rf_matmul(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = good;
    bad.a.dtype = RF_F16;
    assert_int_equal(rf_matmul(f.s, &bad), RF_ERR_INVALID_ARG);
    close_threads(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ragged_products_equal_double_sums),
        cmocka_unit_test(test_empty_products_are_zero_or_what_was_there),
        cmocka_unit_test(test_one_to_four_threads_give_the_same_bits),
        cmocka_unit_test(test_a_row_has_the_same_bits_whatever_rows_stand_beside_it),
        cmocka_unit_test(test_shapes_that_do_not_fit_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
