/* Layer norm, sums, and the rows of pictures and tokens, against plain loops. */
#include "dense_fixture.h"

#include <math.h>
#include <string.h>

static void check_norm_row(const float *x, const float *w, const float *b, const float *y,
                           float scale, int64_t d)
{
    double mean = 0.0, var = 0.0;
    for (int64_t j = 0; j < d; j++) {
        mean += (double)x[j] / (double)d;
    }
    for (int64_t j = 0; j < d; j++) {
        var += ((double)x[j] - mean) * ((double)x[j] - mean) / (double)d;
    }
    double root = sqrt(var + 1e-6);
    /* fp32 sums of d terms and a few roundings; values are of order 1 to 10 */
    assert_true(fabs((double)scale - root) <= 2e-6 * root);
    for (int64_t j = 0; j < d; j++) {
        double want = ((double)x[j] - mean) / root * (double)w[j] + (double)b[j];
        assert_true(fabs((double)y[j] - want) <= 5e-6 * (1.0 + fabs(want)));
    }
}

static void test_layer_norm_equals_its_formula(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    static const int64_t widths[] = {1, 5, 16, 17, 384, 1000};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        const int64_t n = 7, d = widths[i];
        float *x = random_floats(n * d, 1), *w = random_floats(d, 2), *b = random_floats(d, 3);
        float *y = random_floats(n * d, 4), scale[7], *again = random_floats(n * d, 4);
        rf_layer_norm_args args = {.x = rf_view_2d(x, n, d),
                                   .weight = rf_view_1d(w, d),
                                   .bias = rf_view_1d(b, d),
                                   .y = rf_view_2d(y, n, d),
                                   .scale = rf_view_1d(scale, n),
                                   .eps = 1e-6f};
        assert_int_equal(rf_layer_norm(f.s, &args), RF_OK);
        for (int64_t r = 0; r < n && d > 1; r++) {
            check_norm_row(x + r * d, w, b, y + r * d, scale[r], d);
        }
        args.y = rf_view_2d(again, n, d); /* in two steps: the same bits */
        args.divisor = args.scale;
        args.scale.data = NULL;
        assert_int_equal(rf_layer_norm(f.s, &args), RF_OK);
        assert_memory_equal(y, again, (size_t)(n * d) * sizeof *y);
        args.divisor.data = NULL;
        args.x = args.y = rf_view_2d(x, n, d); /* in place */
        assert_int_equal(rf_layer_norm(f.s, &args), RF_OK);
        assert_memory_equal(y, x, (size_t)(n * d) * sizeof *y);
        rf_free(x);
        rf_free(w);
        rf_free(b);
        rf_free(y);
        rf_free(again);
    }
    close_threads(f);
}

static void test_add_scales_and_may_be_in_place(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    float x[6] = {1, 2, 3, 4, 5, 6}, r[6] = {10, 20, 30, 40, 50, 60}, scale[3] = {0.5f, 0, 2};
    float y[6];
    rf_add_args args = {.x = rf_view_2d(x, 2, 3),
                        .r = rf_view_2d(r, 2, 3),
                        .scale = rf_view_1d(scale, 3),
                        .y = rf_view_2d(y, 2, 3)};
    const float want[6] = {6, 2, 63, 24, 5, 126}, alone[6] = {5, 0, 60, 20, 0, 120};
    assert_int_equal(rf_add(f.s, &args), RF_OK);
    assert_memory_equal(y, want, sizeof want);
    args.x.data = NULL;
    assert_int_equal(rf_add(f.s, &args), RF_OK);
    assert_memory_equal(y, alone, sizeof alone);
    args = (rf_add_args){.x = rf_view_2d(x, 2, 3), .r = rf_view_2d(y, 2, 3)};
    args.y = args.x;
    assert_int_equal(rf_add(f.s, &args), RF_OK); /* in place: x + scale * r in two steps */
    assert_memory_equal(x, want, sizeof want);
    args.r.shape[1] = 2;
    assert_int_equal(rf_add(f.s, &args), RF_ERR_INVALID_ARG);
    close_threads(f);
}

static void test_activation_walks_every_element_of_a_large_view(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    const int64_t n = 3 * 8192 + 5;
    float *x = random_floats(n, 21), *y = random_floats(n, 22);
    rf_view from = rf_view_1d(x, n), to = rf_view_1d(y, n);
    assert_int_equal(rf_activation(f.s, RF_ACT_RELU, &from, &to), RF_OK);
    for (int64_t i = 0; i < n; i++) {
        assert_true(y[i] == (x[i] > 0.0f ? x[i] : 0.0f));
    }
    assert_int_equal(rf_activation(f.s, (rf_act)99, &from, &to), RF_ERR_INVALID_ARG);
    rf_free(x);
    rf_free(y);
    close_threads(f);
}

static void test_patches_are_cut_row_by_row_and_borders_left_out(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    enum { B = 2, C = 3, H = 7, W = 5, P = 2, NY = 3, NX = 2, LEN = C * P * P };
    float images[B * C * H * W], rows[B * NY * NX * LEN];
    for (int i = 0; i < B * C * H * W; i++) {
        images[i] = (float)i;
    }
    rf_patch_rows_args args = {.images = rf_view_nd(images, RF_F32, 4, (int64_t[]){B, C, H, W}),
                               .rows = rf_view_2d(rows, B * NY * NX, LEN),
                               .patch = P};
    assert_int_equal(rf_patch_rows(f.s, &args), RF_OK);
    for (int i = 0; i < B * NY * NX * LEN; i++) {
        int x = i % P, y = i / P % P, c = i / P / P % C, px = i / LEN % NX, py = i / LEN / NX % NY;
        int b = i / LEN / NX / NY;
        assert_true(rows[i] == (float)(((b * C + c) * H + py * P + y) * W + px * P + x));
    }
    args.rows.shape[0]--;
    assert_int_equal(rf_patch_rows(f.s, &args), RF_ERR_INVALID_ARG);
    args.patch = 0;
    assert_int_equal(rf_patch_rows(f.s, &args), RF_ERR_INVALID_ARG);
    args.patch = INT64_C(1) << 40;
    assert_int_not_equal(rf_patch_rows(f.s, &args), RF_OK);
    close_threads(f);
}

static void test_tokens_are_prefix_then_patches_with_positions(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    float patches[2 * 3 * 2] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    float position[6] = {100, 200, 300, 400, 500, 600}, prefix[4] = {-1, -2, -3, -4}, out[20];
    const float want[20] = {-1, -2, -3, -4, 101, 202, 303, 404, 505, 606,
                            -1, -2, -3, -4, 107, 208, 309, 410, 511, 612};
    rf_embed_tokens_args args = {.patches = rf_view_2d(patches, 6, 2),
                                 .position = rf_view_2d(position, 3, 2),
                                 .prefix = rf_view_2d(prefix, 2, 2),
                                 .out = rf_view_nd(out, RF_F32, 3, (int64_t[]){2, 5, 2})};
    assert_int_equal(rf_embed_tokens(f.s, &args), RF_OK);
    assert_memory_equal(out, want, sizeof want);
    args.prefix.data = args.position.data = NULL;
    args.out = rf_view_nd(out, RF_F32, 3, (int64_t[]){2, 3, 2});
    assert_int_equal(rf_embed_tokens(f.s, &args), RF_OK);
    assert_memory_equal(out, patches, sizeof patches);
    close_threads(f);
}

static void test_gather_takes_rows_and_refuses_others(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    float src[6] = {1, 2, 3, 4, 5, 6}, dst[8];
    int64_t index[4] = {2, 0, 0, 1};
    rf_view from = rf_view_2d(src, 3, 2), to = rf_view_2d(dst, 4, 2);
    rf_view at = rf_view_nd(index, RF_I64, 1, (int64_t[]){4});
    assert_int_equal(rf_gather_rows(f.s, &from, &at, &to), RF_OK);
    const float want[8] = {5, 6, 1, 2, 1, 2, 3, 4};
    assert_memory_equal(dst, want, sizeof want);
    index[3] = 3;
    assert_int_equal(rf_gather_rows(f.s, &from, &at, &to), RF_ERR_INVALID_ARG);
    index[3] = -1;
    assert_int_equal(rf_gather_rows(f.s, &from, &at, &to), RF_ERR_INVALID_ARG);
    to.shape[0] = at.shape[0] = 0;
    assert_int_equal(rf_gather_rows(f.s, &from, &at, &to), RF_OK);
    close_threads(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layer_norm_equals_its_formula),
        cmocka_unit_test(test_add_scales_and_may_be_in_place),
        cmocka_unit_test(test_activation_walks_every_element_of_a_large_view),
        cmocka_unit_test(test_patches_are_cut_row_by_row_and_borders_left_out),
        cmocka_unit_test(test_tokens_are_prefix_then_patches_with_positions),
        cmocka_unit_test(test_gather_takes_rows_and_refuses_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
