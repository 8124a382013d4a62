/* Matrix products against double sums, and the bits that they promise. */
#include "../../src/tensor/matmul_impl.h"

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

static void test_products_of_more_than_one_large_tile_equal_double_sums(void **state)
{
    (void)state;
    static const int64_t shapes[][4] = {
        /* m, n, k, and what is transposed: a 1, b 2 */
        {545, 785, 400, 1},  {529, 769, 385, 5},  {1073, 1041, 20, 2},
        {33, 1025, 770, 6},  {65, 800, 8200, 0},  {1057, 17, 8192, 4},
        {2129, 785, 400, 1}, {33, 12300, 385, 6}, {33, 17, 24600, 4}};
    fixture f = open_threads(2);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        try_shape(f, shapes[i][0], shapes[i][1], shapes[i][2], (unsigned)shapes[i][3]);
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

static void try_threads(int64_t m, int64_t n, int64_t k, rf_trans ta, rf_trans tb, float alpha)
{
    float *a = random_floats(m * k, 5), *b = random_floats(n * k, 6), *first = NULL;
    for (int n_threads = 1; n_threads <= 4; n_threads++) {
        fixture f = open_threads(n_threads);
        float *c = rf_calloc(m * n, sizeof *c);
        assert_non_null(c);
        rf_matmul_args args = {.a = ta == RF_TRANS ? rf_view_2d(a, k, m) : rf_view_2d(a, m, k),
                               .b = tb == RF_TRANS ? rf_view_2d(b, n, k) : rf_view_2d(b, k, n),
                               .c = rf_view_2d(c, m, n),
                               .trans_a = ta,
                               .trans_b = tb,
                               .alpha = alpha};
        assert_int_equal(rf_matmul(f.s, &args), RF_OK);
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

static void test_one_to_four_threads_give_the_same_bits(void **state)
{
    (void)state;
    const rf_trans no = RF_NO_TRANS, yes = RF_TRANS;
    try_threads(411, 1000, 1000, no, yes, 1.0f);
    try_threads(1100, 1100, 500, no, yes, 1.0f);
    try_threads(1000, 700, 616, yes, no, 1.0f);
    try_threads(300, 450, 616, yes, yes, 1.0f);
    try_threads(1100, 790, 8300, no, no, 1.0f);
    try_threads(130, 790, 25000, no, no, 1.0f);
    try_threads(2130, 790, 616, yes, no, 1.0f);
    try_threads(60, 8300, 400, no, yes, 1.0f);
    try_threads(1100, 784, 8300, no, no, 1.0f);
    try_threads(2130, 784, 616, yes, no, 1.0f);
    try_threads(624, 480, 400, yes, no, 1.0f); /* tiles of several threads are staged, with AVX2 */
    try_threads(460, 1152, 117, yes, yes, 1.0f);
    try_threads(691, 5088, 77, no, yes, 1.0f);
    try_threads(691, 5088, 77, no, yes, 0.37f);
    try_threads(460, 1152, 117, yes, yes, 0.37f);
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
    bad.b = rf_view_nd(x, RF_BF16, 2, (int64_t[]){4, 3});
    bad.trans_b = RF_TRANS;
    assert_int_equal(rf_matmul(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = good;
    bad.a.dtype = RF_F16;
    assert_int_equal(rf_matmul(f.s, &bad), RF_ERR_INVALID_ARG);
    close_threads(f);
}

/* ---- bf16 ---------------------------------------------------------------------------------- */

static void test_bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    static const uint32_t cases[][2] = {
        {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81},
        {0x3f807fff, 0x3f80}, {0x80000000, 0x8000}, {0x7f7fffff, 0x7f80}, {0xff800000, 0xff80},
        {0x7f800001, 0x7fc0}, {0xffffffff, 0xffff}, {0x00000001, 0x0000}, {0x00008001, 0x0001},
        {0xbf80c000, 0xbf81}};
    float x[40], rounded[40], widened[40];
    uint16_t half[40];
    for (size_t i = 0; i < 40; i++) {
        memcpy(&x[i], &cases[i % (sizeof cases / sizeof *cases)][0], sizeof x[i]);
    }
    rf_cpu_to_bf16(x, half, 40);
    rf_cpu_round_bf16(x, rounded, 40);
    rf_cpu_from_bf16(half, widened, 40);
    for (size_t i = 0; i < 40; i++) {
        assert_int_equal(half[i], cases[i % (sizeof cases / sizeof *cases)][1]);
    }
    assert_memory_equal(rounded, widened, sizeof rounded);
}

/* x rounded, in place, as the product does with a. */
static uint16_t *round_all(float *x, int64_t n)
{
    uint16_t *half = rf_calloc(n, sizeof *half);
    assert_non_null(half);
    rf_cpu_to_bf16(x, half, n);
    rf_cpu_from_bf16(half, x, n);
    return half;
}

/* What rf_matmul takes on this machine, and what it takes on others. */
static void multiply_as(fixture f, const rf_matmul_args *args, rf_product_kind kind)
{
    if (kind == RF_PRODUCT_F32) {
        assert_int_equal(rf_matmul(f.s, args), RF_OK);
    } else {
        assert_int_equal(rf_cpu_matmul_as(f.s, args, kind), RF_OK);
    }
}

static void try_bf16(fixture f, const int64_t size[3], rf_trans ta, float beta,
                     rf_product_kind kind)
{
    const int64_t m = size[0], n = size[1], k = size[2];
    const int64_t a_rows = ta == RF_TRANS ? k : m, a_cols = ta == RF_TRANS ? m : k;
    float *a = random_floats(m * k, 31), *b = random_floats(k * n, 32),
          *bias = random_floats(n, 34);
    float *c = random_floats(m * n, 33), *before = random_floats(m * n, 33);
    uint16_t *half = round_all(b, k * n);
    rf_matmul_args args = {.a = rf_view_2d(a, a_rows, a_cols),
                           .b = rf_view_nd(half, RF_BF16, 2, (int64_t[]){k, n}),
                           .c = rf_view_2d(c, m, n),
                           .bias = rf_view_1d(bias, n),
                           .trans_a = ta,
                           .alpha = 1.5f,
                           .beta = beta,
                           .act = RF_ACT_RELU};
    multiply_as(f, &args, kind);
    rf_free(round_all(a, m * k)); /* products of the rounded values, in double */
    args.b = rf_view_2d(b, k, n);
    check_product(&args, before);
    rf_free(half);
    rf_free(a);
    rf_free(b);
    rf_free(c);
    rf_free(before);
    rf_free(bias);
}

static void try_bf16_sizes(rf_product_kind kind)
{
    static const int64_t sizes[][3] = {{1, 1, 1},    {1, 5, 3},      {3, 1, 7},
                                       {17, 33, 5},  {257, 48, 19},  {50, 400, 32},
                                       {7, 768, 12}, {33, 10, 2000}, {200, 390, 770}};
    fixture f = open_threads(2);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        try_bf16(f, sizes[i], RF_NO_TRANS, 0.0f, kind);
        try_bf16(f, sizes[i], RF_TRANS, 1.0f, kind);
    }
    close_threads(f);
}

/* Rows alone, and all of them on other threads, have the bits of the whole. */
static void try_bf16_rows(rf_product_kind kind)
{
    static const int64_t starts[][2] = {{0, 1}, {3, 16}, {100, 17}, {255, 50}, {1, 300}, {0, 500}};
    const int64_t m = 500, n = 1000, k = 900;
    float *a = random_floats(m * k, 35), *b = random_floats(k * n, 36),
          *c = random_floats(m * n, 37);
    float *some = random_floats(m * n, 38);
    uint16_t *half = round_all(b, k * n);
    rf_matmul_args args = {.a = rf_view_2d(a, m, k),
                           .b = rf_view_nd(half, RF_BF16, 2, (int64_t[]){k, n}),
                           .c = rf_view_2d(c, m, n),
                           .alpha = 1.0f};
    fixture f = open_threads(1);
    multiply_as(f, &args, kind);
    close_threads(f);
    f = open_threads(3);
    for (size_t j = 0; j < sizeof starts / sizeof *starts; j++) {
        const int64_t row = starts[j][0], count = starts[j][1];
        args.a = rf_view_2d(a + row * k, count, k);
        args.c = rf_view_2d(some, count, n);
        multiply_as(f, &args, kind);
        assert_memory_equal(c + row * n, some, (size_t)(count * n) * sizeof(float));
    }
    close_threads(f);
    rf_free(c);
    rf_free(some);
    rf_free(half);
    rf_free(a);
    rf_free(b);
}

static void test_bf16_products_equal_double_sums_of_rounded_values(void **state)
{
    (void)state;
    try_bf16_sizes(RF_PRODUCT_F32);
    try_bf16_sizes(RF_PRODUCT_ROUNDED);
}

static void test_bf16_rows_have_the_same_bits_alone_and_on_other_threads(void **state)
{
    (void)state;
    try_bf16_rows(RF_PRODUCT_F32);
    try_bf16_rows(RF_PRODUCT_ROUNDED);
}

static void test_the_library_s_own_bf16_products_do_the_same(void **state)
{
    (void)state;
    if (!rf_cpu_has_bf16()) {
        skip();
    }
    try_bf16_sizes(RF_PRODUCT_BF16);
    try_bf16_rows(RF_PRODUCT_BF16);
}

static void test_panels_of_many_terms_come_in_chunks_with_the_same_sums(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    try_shape(f, 5, 17, 500000, 0); /* more than the panels hold at a time */
    close_threads(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ragged_products_equal_double_sums),
        cmocka_unit_test(test_products_of_more_than_one_large_tile_equal_double_sums),
        cmocka_unit_test(test_empty_products_are_zero_or_what_was_there),
        cmocka_unit_test(test_one_to_four_threads_give_the_same_bits),
        cmocka_unit_test(test_a_row_has_the_same_bits_whatever_rows_stand_beside_it),
        cmocka_unit_test(test_shapes_that_do_not_fit_are_refused_by_name),
        cmocka_unit_test(test_bf16_rounds_to_nearest_even),
        cmocka_unit_test(test_bf16_products_equal_double_sums_of_rounded_values),
        cmocka_unit_test(test_bf16_rows_have_the_same_bits_alone_and_on_other_threads),
        cmocka_unit_test(test_the_library_s_own_bf16_products_do_the_same),
        cmocka_unit_test(test_panels_of_many_terms_come_in_chunks_with_the_same_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
