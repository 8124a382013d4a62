/* Means of tokens and tubelets against plain loops; and the gradients of all that moves tokens, as
 * the transposed of their operations: with small whole numbers every sum is exact. */
#include "dense_fixture.h"

#include <math.h>
#include <string.h>

static float *whole_numbers(int64_t n, uint64_t seed)
{
    float *x = random_floats(n, seed);
    for (int64_t i = 0; i < n; i++) {
        x[i] = roundf(3.0f * x[i]);
    }
    return x;
}

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

/* ---- pixels -------------------------------------------------------------------------------- */

static void test_bytes_become_their_channels_values(void **state)
{
    (void)state;
    enum { B = 2, C = 3, H = 5, W = 21, N = B * C * H * W };
    fixture f = open_threads(2);
    uint8_t pixels[N];
    float levels[C * 256], images[N];
    for (int i = 0; i < N; i++) {
        pixels[i] = (uint8_t)(i * 53 % 256);
    }
    for (int i = 0; i < C * 256; i++) {
        levels[i] = (float)i - 0.5f;
    }
    rf_pixel_values_args args = {.pixels = rf_view_nd(pixels, RF_U8, 4, (int64_t[]){B, H, W, C}),
                                 .levels = rf_view_2d(levels, C, 256),
                                 .images = rf_view_nd(images, RF_F32, 4, (int64_t[]){B, C, H, W})};
    assert_int_equal(rf_pixel_values(f.s, &args), RF_OK);
    for (int i = 0; i < N; i++) {
        const int x = i % W, y = i / W % H, c = i / W / H % C, b = i / W / H / C;
        assert_true(images[i] == levels[256 * c + pixels[((b * H + y) * W + x) * C + c]]);
    }
    args.levels.shape[1] = 255;
    assert_int_equal(rf_pixel_values(f.s, &args), RF_ERR_INVALID_ARG);
    args.levels.shape[1] = 256;
    args.pixels.shape[3] = 4;
    assert_int_equal(rf_pixel_values(f.s, &args), RF_ERR_INVALID_ARG);
    args.pixels.shape[3] = 3;
    args.pixels.stride[1]++;
    assert_int_equal(rf_pixel_values(f.s, &args), RF_ERR_INVALID_ARG);
    close_threads(f);
}

/* ---- means --------------------------------------------------------------------------------- */

static void test_mean_of_tokens_equals_plain_loops(void **state)
{
    (void)state;
    static const int64_t shapes[][5] = {/* B, T, d, first, n */
                                        {1, 1, 1, 0, 1},
                                        {2, 5, 3, 1, 4},
                                        {3, 197, 257, 1, 196},
                                        {2, 4, 600, 0, 4},
                                        {0, 4, 5, 0, 4}};
    fixture f = open_threads(2);
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        const int64_t b = shapes[k][0], t = shapes[k][1], d = shapes[k][2];
        const int64_t first = shapes[k][3], n = shapes[k][4];
        float *x = random_floats(b * t * d, 1), *y = random_floats(b * d, 2);
        const rf_view from = rf_view_nd(x, RF_F32, 3, shapes[k]), to = rf_view_2d(y, b, d);
        assert_int_equal(rf_mean_tokens(f.s, &from, first, n, &to), RF_OK);
        for (int64_t i = 0; i < b * d; i++) {
            double want = 0.0;
            for (int64_t j = first; j < first + n; j++) {
                want += (double)x[(i / d * t + j) * d + i % d] / (double)n;
            }
            assert_true(fabs((double)y[i] - want) <= 1e-7 * (1.0 + fabs(want))); /* one rounding */
        }
        rf_free(x);
        rf_free(y);
    }
    close_threads(f);
}

static void test_mean_gradient_adds_a_share_to_each_token(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    float d_y[4] = {4, 8, 12, 16}, d_x[12] = {1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2};
    const float want[12] = {1, 1, 3, 5, 3, 5, 2, 2, 8, 10, 8, 10};
    rf_view g = rf_view_2d(d_y, 2, 2), to = rf_view_nd(d_x, RF_F32, 3, (int64_t[]){2, 3, 2});
    assert_int_equal(rf_mean_tokens_grad(f.s, &g, 1, 2, &to), RF_OK);
    assert_memory_equal(d_x, want, sizeof want);
    assert_int_equal(rf_mean_tokens_grad(f.s, &g, 2, 2, &to), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_mean_tokens(f.s, &to, 0, 0, &g), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_mean_tokens(f.s, &to, -1, 2, &g), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_mean_tokens(f.s, &to, 1, INT64_MAX, &g), RF_ERR_INVALID_ARG);
    g.shape[1] = 1;
    assert_int_equal(rf_mean_tokens(f.s, &to, 0, 2, &g), RF_ERR_INVALID_ARG);
    to.stride[1] = 0;
    g.shape[1] = 2;
    assert_int_equal(rf_mean_tokens_grad(f.s, &g, 1, 2, &to), RF_ERR_INVALID_ARG);
    close_threads(f);
}

/* ---- tubelets ------------------------------------------------------------------------------ */

typedef struct clips {
    int64_t shape[5]; /* B, F, C, H, W */
    int64_t patch, tubelet, n_rows, len, n_pixels;
    float *images, *rows;
    rf_patch_rows_args args;
} clips;

static clips make_clips(const int64_t *shape, int64_t patch, int64_t tubelet)
{
    clips c = {.patch = patch, .tubelet = tubelet};
    memcpy(c.shape, shape, sizeof c.shape);
    c.n_rows = shape[0] * (shape[1] / tubelet) * (shape[3] / patch) * (shape[4] / patch);
    c.len = shape[2] * tubelet * patch * patch;
    c.n_pixels = shape[0] * shape[1] * shape[2] * shape[3] * shape[4];
    c.images = whole_numbers(c.n_pixels, 3);
    c.rows = whole_numbers(c.n_rows * c.len, 4);
    c.args = (rf_patch_rows_args){.images = rf_view_nd(c.images, RF_F32, 5, shape),
                                  .rows = rf_view_2d(c.rows, c.n_rows, c.len),
                                  .patch = patch,
                                  .tubelet = tubelet};
    return c;
}

static void free_clips(clips *c)
{
    rf_free(c->images);
    rf_free(c->rows);
}

/* The pixel that element `e` of row `r` is. */
static float pixel(const clips *c, int64_t r, int64_t e)
{
    const int64_t *n = c->shape, p = c->patch, nx = n[4] / p, ny = n[3] / p, nt = n[1] / c->tubelet;
    const int64_t x = r % nx * p + e % p, y = r / nx % ny * p + e / p % p;
    const int64_t t = r / nx / ny % nt * c->tubelet + e / p / p % c->tubelet;
    const int64_t channel = e / p / p / c->tubelet, b = r / nx / ny / nt;
    return c->images[(((b * n[1] + t) * n[2] + channel) * n[3] + y) * n[4] + x];
}

static const int64_t clip_shapes[][7] = {/* B, F, C, H, W, P, t */
                                         {1, 1, 1, 1, 1, 1, 1}, {2, 4, 3, 4, 6, 2, 2},
                                         {1, 5, 2, 7, 5, 3, 2}, {2, 3, 1, 4, 4, 4, 3},
                                         {1, 1, 2, 5, 5, 2, 2}, {0, 2, 3, 4, 4, 2, 2}};
enum { N_CLIPS = sizeof clip_shapes / sizeof *clip_shapes };

static void test_tubelets_are_cut_frame_by_frame_and_borders_left_out(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    for (int k = 0; k < N_CLIPS; k++) {
        clips c = make_clips(clip_shapes[k], clip_shapes[k][5], clip_shapes[k][6]);
        assert_int_equal(rf_patch_rows(f.s, &c.args), RF_OK);
        for (int64_t i = 0; i < c.n_rows * c.len; i++) {
            assert_true(c.rows[i] == pixel(&c, i / c.len, i % c.len));
        }
        free_clips(&c);
    }
    close_threads(f);
}

/* <rows(images), g> = <images, gradient(g)> for every picture, and so for each pixel alone. */
static void test_patch_gradient_is_the_transposed_operation(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    for (int k = 0; k < N_CLIPS; k++) {
        clips c = make_clips(clip_shapes[k], clip_shapes[k][5], clip_shapes[k][6]);
        float *g = whole_numbers(c.n_rows * c.len, 5);
        float *d_images = whole_numbers(c.n_pixels, 6);
        rf_patch_rows_args back = c.args;
        back.rows.data = g;
        back.images.data = d_images;
        assert_int_equal(rf_patch_rows_grad(f.s, &back), RF_OK);
        for (int64_t i = 0; i < c.n_pixels; i++) {
            memset(c.images, 0, sizeof(float) * (size_t)c.n_pixels);
            c.images[i] = 1.0f;
            assert_int_equal(rf_patch_rows(f.s, &c.args), RF_OK);
            assert_true((double)d_images[i] == dot(c.rows, g, c.n_rows * c.len));
        }
        rf_free(g);
        rf_free(d_images);
        free_clips(&c);
    }
    close_threads(f);
}

static void test_one_picture_for_all_frames_gets_the_sum_of_their_gradients(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    const int64_t shape[5] = {2, 4, 3, 4, 4};
    clips c = make_clips(shape, 2, 2);
    float *sum = whole_numbers(2 * 3 * 4 * 4, 7);
    assert_int_equal(rf_patch_rows_grad(f.s, &c.args), RF_OK);
    rf_patch_rows_args still = c.args;
    still.images.data = sum;
    still.images.stride[0] = 3 * 4 * 4;
    still.images.stride[1] = 0;
    assert_int_equal(rf_patch_rows_grad(f.s, &still), RF_OK);
    for (int i = 0; i < 2 * 48; i++) {
        const float *frame = c.images + i / 48 * 4 * 48 + i % 48;
        assert_true(sum[i] == frame[0] + frame[48] + frame[96] + frame[144]);
    }
    still.images.stride[0] = 0;
    assert_int_equal(rf_patch_rows_grad(f.s, &still), RF_ERR_INVALID_ARG);
    rf_free(sum);
    free_clips(&c);
    close_threads(f);
}

static void test_patch_rows_refuse_what_does_not_fit(void **state)
{
    (void)state;
    fixture f = open_threads(1);
    const int64_t shape[5] = {1, 4, 3, 4, 4};
    clips c = make_clips(shape, 2, 2);
    rf_patch_rows_args bad = c.args;
    bad.tubelet = 1; /* twice as many rows, half as long */
    assert_int_equal(rf_patch_rows(f.s, &bad), RF_ERR_INVALID_ARG);
    bad.tubelet = -1;
    assert_int_equal(rf_patch_rows(f.s, &bad), RF_ERR_INVALID_ARG);
    bad.tubelet = INT64_C(1) << 40;
    assert_int_equal(rf_patch_rows(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.images = rf_view_nd(c.images, RF_F32, 4, (int64_t[]){4, 3, 4, 4}); /* pictures have none */
    assert_int_equal(rf_patch_rows(f.s, &bad), RF_ERR_INVALID_ARG);
    bad.images.n_dims = 3;
    assert_int_equal(rf_patch_rows(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = c.args;
    bad.rows.shape[1]--;
    assert_int_equal(rf_patch_rows_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    free_clips(&c);
    close_threads(f);
}

/* ---- tokens -------------------------------------------------------------------------------- */

enum { B = 3, PREFIX = 2, N = 4, D = 5, TOKENS = PREFIX + N };

typedef struct embedding {
    float *patches, *position, *prefix, *out;
    rf_embed_tokens_args args;
} embedding;

static embedding make_embedding(uint64_t seed)
{
    embedding e = {.patches = whole_numbers(B * N * D, seed),
                   .position = whole_numbers(N * D, seed + 1),
                   .prefix = whole_numbers(PREFIX * D, seed + 2),
                   .out = whole_numbers(B * TOKENS * D, seed + 3)};
    e.args = (rf_embed_tokens_args){.patches = rf_view_2d(e.patches, B * N, D),
                                    .position = rf_view_2d(e.position, N, D),
                                    .prefix = rf_view_2d(e.prefix, PREFIX, D),
                                    .out = rf_view_nd(e.out, RF_F32, 3, (int64_t[]){B, TOKENS, D})};
    return e;
}

static void free_embedding(embedding *e)
{
    rf_free(e->patches);
    rf_free(e->position);
    rf_free(e->prefix);
    rf_free(e->out);
}

/* The gradient by each of x [n], an input of `forward`, all else zero, against `got` - `before`. */
static void check_transposed(rf_stream *s, embedding *forward, float *x, int64_t n, const float *g,
                             const float *got, const float *before)
{
    memset(forward->patches, 0, sizeof(float) * B * N * D);
    memset(forward->position, 0, sizeof(float) * N * D);
    memset(forward->prefix, 0, sizeof(float) * PREFIX * D);
    for (int64_t i = 0; i < n; i++) {
        x[i] = 1.0f;
        assert_int_equal(rf_embed_tokens(s, &forward->args), RF_OK);
        x[i] = 0.0f;
        const double add = before == NULL ? 0.0 : (double)before[i];
        assert_true((double)got[i] == add + dot(forward->out, g, B * TOKENS * D));
    }
}

static void test_embedding_gradient_is_the_transposed_operation(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    embedding e = make_embedding(10), grad = make_embedding(20), before = make_embedding(20);
    assert_int_equal(rf_embed_tokens_grad(f.s, &grad.args), RF_OK);
    assert_memory_equal(grad.out, before.out, sizeof(float) * B * TOKENS * D);
    check_transposed(f.s, &e, e.patches, B * N * D, grad.out, grad.patches, NULL);
    check_transposed(f.s, &e, e.position, N * D, grad.out, grad.position, before.position);
    check_transposed(f.s, &e, e.prefix, PREFIX * D, grad.out, grad.prefix, before.prefix);
    free_embedding(&e);
    free_embedding(&grad);
    free_embedding(&before);
    close_threads(f);
}

static void test_embedding_gradients_may_each_be_absent(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    for (int asked = 0; asked < 8; asked++) {
        embedding all = make_embedding(20), some = make_embedding(20);
        embedding before = make_embedding(20);
        const bool patches = (asked & 1) != 0, position = (asked & 2) != 0;
        const bool prefix = (asked & 4) != 0;
        assert_int_equal(rf_embed_tokens_grad(f.s, &all.args), RF_OK);
        rf_embed_tokens_args args = {.out = some.args.out};
        args.patches = patches ? some.args.patches : args.patches;
        args.position = position ? some.args.position : args.position;
        args.prefix = prefix ? some.args.prefix : args.prefix;
        assert_int_equal(rf_embed_tokens_grad(f.s, &args), RF_OK);
        assert_memory_equal(some.patches, patches ? all.patches : before.patches,
                            sizeof(float) * B * N * D);
        assert_memory_equal(some.position, position ? all.position : before.position,
                            sizeof(float) * N * D);
        assert_memory_equal(some.prefix, prefix ? all.prefix : before.prefix,
                            sizeof(float) * PREFIX * D);
        free_embedding(&all);
        free_embedding(&some);
        free_embedding(&before);
    }
    close_threads(f);
}

static void test_embedding_gradient_refuses_what_does_not_fit(void **state)
{
    (void)state;
    fixture f = open_threads(1);
    embedding e = make_embedding(30);
    rf_embed_tokens_args bad = e.args;
    bad.prefix.shape[0] = 1;
    assert_int_equal(rf_embed_tokens_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = e.args;
    bad.patches.shape[0]--;
    assert_int_equal(rf_embed_tokens_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = e.args;
    bad.patches.data = NULL;
    bad.position.shape[0] = TOKENS + 1;
    assert_int_equal(rf_embed_tokens_grad(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = e.args;
    bad.out.shape[0] = 0; /* no pictures add nothing */
    assert_int_equal(rf_embed_tokens_grad(f.s, &bad), RF_OK);
    free_embedding(&e);
    close_threads(f);
}

static void test_gather_gradient_adds_every_row_to_its_source(void **state)
{
    (void)state;
    fixture f = open_threads(3);
    enum { M = 7, ROWS = 4, WIDTH = 600 }; /* three pieces of columns */
    int64_t index[M] = {2, 0, 2, 3, 2, 0, 3};
    float *dst = whole_numbers(M * WIDTH, 40), *src = whole_numbers(ROWS * WIDTH, 41);
    float *want = whole_numbers(ROWS * WIDTH, 41);
    for (int i = 0; i < M * WIDTH; i++) {
        want[index[i / WIDTH] * WIDTH + i % WIDTH] += dst[i];
    }
    rf_view from = rf_view_2d(dst, M, WIDTH), to = rf_view_2d(src, ROWS, WIDTH);
    rf_view at = rf_view_nd(index, RF_I64, 1, (int64_t[]){M});
    assert_int_equal(rf_gather_rows_grad(f.s, &from, &at, &to), RF_OK);
    assert_memory_equal(src, want, sizeof(float) * ROWS * WIDTH);
    index[M - 1] = ROWS;
    assert_int_equal(rf_gather_rows_grad(f.s, &from, &at, &to), RF_ERR_INVALID_ARG);
    assert_memory_equal(src, want, sizeof(float) * ROWS * WIDTH); /* nothing was added */
    index[M - 1] = -1;
    assert_int_equal(rf_gather_rows_grad(f.s, &from, &at, &to), RF_ERR_INVALID_ARG);
    at.shape[0] = M - 1;
    assert_int_equal(rf_gather_rows_grad(f.s, &from, &at, &to), RF_ERR_INVALID_ARG);
    from.shape[0] = at.shape[0] = 0;
    assert_int_equal(rf_gather_rows_grad(f.s, &from, &at, &to), RF_OK);
    rf_free(dst);
    rf_free(src);
    rf_free(want);
    close_threads(f);
}

/* ---- order --------------------------------------------------------------------------------- */

static void test_token_gradients_have_the_same_bits_on_one_and_three_threads(void **state)
{
    (void)state;
    enum { PICTURES = 37, WIDTH = 300 };
    float *mean[2], *position[2], *rows[2];
    int64_t index[PICTURES * TOKENS];
    for (int i = 0; i < PICTURES * TOKENS; i++) {
        index[i] = i * 7 % 5;
    }
    for (int k = 0; k < 2; k++) {
        fixture f = open_threads(k == 0 ? 1 : 3);
        float *x = random_floats(PICTURES * TOKENS * WIDTH, 50);
        mean[k] = random_floats(PICTURES * WIDTH, 51);
        position[k] = random_floats(TOKENS * WIDTH, 52);
        rows[k] = random_floats(5 * WIDTH, 53);
        const rf_view from = rf_view_nd(x, RF_F32, 3, (int64_t[]){PICTURES, TOKENS, WIDTH});
        const rf_view flat = rf_view_2d(x, PICTURES * TOKENS, WIDTH);
        const rf_view to_mean = rf_view_2d(mean[k], PICTURES, WIDTH);
        const rf_view at = rf_view_nd(index, RF_I64, 1, (int64_t[]){PICTURES * TOKENS});
        const rf_view to_rows = rf_view_2d(rows[k], 5, WIDTH);
        const rf_embed_tokens_args embed = {.position = rf_view_2d(position[k], TOKENS, WIDTH),
                                            .out = from};
        assert_int_equal(rf_mean_tokens(f.s, &from, 0, TOKENS, &to_mean), RF_OK);
        assert_int_equal(rf_embed_tokens_grad(f.s, &embed), RF_OK);
        assert_int_equal(rf_gather_rows_grad(f.s, &flat, &at, &to_rows), RF_OK);
        rf_free(x);
        close_threads(f);
    }
    assert_memory_equal(mean[0], mean[1], sizeof(float) * PICTURES * WIDTH);
    assert_memory_equal(position[0], position[1], sizeof(float) * TOKENS * WIDTH);
    assert_memory_equal(rows[0], rows[1], sizeof(float) * 5 * WIDTH);
    for (int k = 0; k < 2; k++) {
        rf_free(mean[k]);
        rf_free(position[k]);
        rf_free(rows[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_become_their_channels_values),
        cmocka_unit_test(test_mean_of_tokens_equals_plain_loops),
        cmocka_unit_test(test_mean_gradient_adds_a_share_to_each_token),
        cmocka_unit_test(test_tubelets_are_cut_frame_by_frame_and_borders_left_out),
        cmocka_unit_test(test_patch_gradient_is_the_transposed_operation),
        cmocka_unit_test(test_one_picture_for_all_frames_gets_the_sum_of_their_gradients),
        cmocka_unit_test(test_patch_rows_refuse_what_does_not_fit),
        cmocka_unit_test(test_embedding_gradient_is_the_transposed_operation),
        cmocka_unit_test(test_embedding_gradients_may_each_be_absent),
        cmocka_unit_test(test_embedding_gradient_refuses_what_does_not_fit),
        cmocka_unit_test(test_gather_gradient_adds_every_row_to_its_source),
        cmocka_unit_test(test_token_gradients_have_the_same_bits_on_one_and_three_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
