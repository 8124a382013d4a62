/* Rotary positions and their gradient, against the formula with its matrix written out. */
#include "dense_fixture.h"

#include <math.h>
#include <string.h>

typedef struct rotary_case {
    int64_t n_pictures, n_tokens, n_heads, width;
    float *x, *y, *cos, *sin;
    rf_rotary_args args;
} rotary_case;

/* x in rows of three times its width, as q in a fused projection; y contiguous. Tables are any
 * numbers: elements of a pair need not have the same angle (V-JEPA 2). */
static rotary_case make_rotary(int64_t n_pictures, int64_t n_tokens, int64_t n_heads, int64_t width)
{
    rotary_case c = {n_pictures, n_tokens, n_heads, width,           NULL,
                     NULL,       NULL,     NULL,    {.x.data = NULL}};
    const int64_t d = n_heads * width, n_rows = n_pictures * n_tokens;
    const int64_t shape[4] = {n_pictures, n_tokens, n_heads, width};
    c.x = random_floats(3 * n_rows * d, 1);
    c.y = random_floats(n_rows * d, 2);
    c.cos = random_floats(n_tokens * width, 3);
    c.sin = random_floats(n_tokens * width, 4);
    c.args = (rf_rotary_args){.x = rf_view_nd(c.x, RF_F32, 4, shape),
                              .y = rf_view_nd(c.y, RF_F32, 4, shape),
                              .cos = rf_view_2d(c.cos, n_tokens, width),
                              .sin = rf_view_2d(c.sin, n_tokens, width)};
    c.args.x.stride[0] = n_tokens * 3 * d;
    c.args.x.stride[1] = 3 * d;
    return c;
}

static void free_rotary(rotary_case *c)
{
    rf_free(c->x);
    rf_free(c->y);
    rf_free(c->cos);
    rf_free(c->sin);
}

/* turned[i][j] of a head: what element j gives to element i. */
static double turned(rf_rotary_pairs pairs, int64_t width, int64_t i, int64_t j)
{
    const int64_t half = width / 2;
    if (pairs == RF_PAIRS_ADJACENT) {
        return i % 2 == 0 ? (j == i + 1 ? -1.0 : 0.0) : (j == i - 1 ? 1.0 : 0.0);
    }
    return i < half ? (j == i + half ? -1.0 : 0.0) : (j == i - half ? 1.0 : 0.0);
}

static void check_formula(const rotary_case *c)
{
    const int64_t d = c->n_heads * c->width, w = c->width;
    for (int64_t i = 0; i < c->n_pictures * c->n_tokens * d; i++) {
        const int64_t row = i / d, head = i % d / w, e = i % w, t = row % c->n_tokens;
        const float *x = c->x + row * 3 * d + head * w;
        double want = (double)x[e] * (double)c->cos[t * w + e];
        for (int64_t j = 0; j < w; j++) {
            want += c->args.is_transposed
                        ? turned(c->args.pairs, w, j, e) * (double)x[j] * (double)c->sin[t * w + j]
                        : turned(c->args.pairs, w, e, j) * (double)x[j] * (double)c->sin[t * w + e];
        }
        /* two products and a sum of order 1 to 10 */
        assert_true(fabs((double)c->y[i] - want) <= 1e-6 * (1.0 + fabs(want)));
    }
}

static const int64_t shapes[][4] = {{1, 1, 1, 2}, {2, 5, 3, 6}, {1, 17, 2, 32}, {3, 4, 1, 34}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void test_rotary_and_its_gradient_equal_the_formula(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    for (int i = 0; i < 4 * N_SHAPES; i++) {
        const int64_t *shape = shapes[i / 4];
        rotary_case c = make_rotary(shape[0], shape[1], shape[2], shape[3]);
        c.args.pairs = i % 2 == 0 ? RF_PAIRS_ADJACENT : RF_PAIRS_HALVES;
        c.args.is_transposed = i % 4 >= 2;
        assert_int_equal(rf_rotary(f.s, &c.args), RF_OK);
        check_formula(&c);
        rf_rotary_args in_place = c.args;
        in_place.y = c.args.x;
        assert_int_equal(rf_rotary(f.s, &in_place), RF_OK);
        const int64_t d = shape[2] * shape[3];
        for (int64_t r = 0; r < shape[0] * shape[1]; r++) {
            assert_memory_equal(c.x + r * 3 * d, c.y + r * d, sizeof(float) * (size_t)d);
        }
        free_rotary(&c);
    }
    close_threads(f);
}

static void test_rotary_leaves_tokens_of_angle_zero_as_they_are(void **state)
{
    (void)state;
    fixture f = open_threads(1);
    rotary_case c = make_rotary(2, 3, 2, 4);
    for (int i = 0; i < 3 * 4; i++) {
        c.cos[i] = 1.0f;
        c.sin[i] = 0.0f;
    }
    assert_int_equal(rf_rotary(f.s, &c.args), RF_OK);
    for (int r = 0; r < 6; r++) {
        assert_memory_equal(c.x + r * 24, c.y + r * 8, sizeof(float) * 8);
    }
    free_rotary(&c);
    close_threads(f);
}

static void test_rotary_has_the_same_bits_on_one_and_three_threads(void **state)
{
    (void)state;
    rotary_case c[2];
    for (int k = 0; k < 2; k++) {
        fixture f = open_threads(k == 0 ? 1 : 3);
        c[k] = make_rotary(3, 50, 4, 16);
        assert_int_equal(rf_rotary(f.s, &c[k].args), RF_OK);
        close_threads(f);
    }
    assert_memory_equal(c[0].y, c[1].y, sizeof(float) * 3 * 50 * 64);
    free_rotary(&c[0]);
    free_rotary(&c[1]);
}

static void test_rotary_refuses_what_does_not_fit(void **state)
{
    (void)state;
    fixture f = open_threads(1);
    rotary_case c = make_rotary(2, 3, 2, 4);
    rf_rotary_args bad = c.args;
    bad.x.shape[3] = bad.y.shape[3] = bad.cos.shape[1] = bad.sin.shape[1] = 3; /* no pairs */
    assert_int_equal(rf_rotary(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.cos.shape[0] = 2;
    assert_int_equal(rf_rotary(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.y.shape[1] = 2;
    assert_int_equal(rf_rotary(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.y.stride[0] = 0;
    assert_int_equal(rf_rotary(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.pairs = (rf_rotary_pairs)9;
    assert_int_equal(rf_rotary(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.x.shape[0] = bad.y.shape[0] = 0;
    assert_int_equal(rf_rotary(f.s, &bad), RF_OK);
    free_rotary(&c);
    close_threads(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotary_and_its_gradient_equal_the_formula),
        cmocka_unit_test(test_rotary_leaves_tokens_of_angle_zero_as_they_are),
        cmocka_unit_test(test_rotary_has_the_same_bits_on_one_and_three_threads),
        cmocka_unit_test(test_rotary_refuses_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
