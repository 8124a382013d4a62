/* Dense operations and their gradients at the shapes that matter to devices; the shadow compares.
 */
#include "conformance_fixture.h"

#include <math.h>

/* ---- products ------------------------------------------------------------------------------ */

static rf_view operand(rf_trans trans, int64_t n, int64_t d)
{
    return trans == RF_TRANS ? apart(d, n, 1) : apart(n, d, 2);
}

static rf_view as_bf16(rf_view from)
{
    rf_view to = rf_view_nd(block(rf_view_n_elems(&from), 2), RF_BF16, 2, from.shape);
    OK(rf_convert(s, &from, &to));
    return to;
}

static void products_of_any_shape(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1},      {3, 5, 7},    {33, 31, 65},
                                       {129, 257, 33}, {1, 1536, 7}, {5, 4100, 31},
                                       {2, 3, 0},      {0, 3, 2},    {64, 64, 1536}};
    for (int i = 0; i < (int)(sizeof sizes / sizeof sizes[0]) * 4; i++) {
        const int64_t *size = sizes[i / 4], m = size[0], n = size[1], k = size[2];
        const rf_trans ta = i % 2 == 1 ? RF_TRANS : RF_NO_TRANS;
        const rf_trans tb = i % 4 > 1 ? RF_TRANS : RF_NO_TRANS;
        rf_matmul_args args = {.a = operand(ta, m, k),
                               .b = operand(tb, k, n),
                               .c = apart(m, n, i % 3),
                               .trans_a = ta,
                               .trans_b = tb,
                               .alpha = 0.7f};
        OK(rf_matmul(s, &args));
        args.beta = 1.0f;
        args.products = RF_PRODUCTS_TF32;
        OK(rf_matmul(s, &args));
        args.products = RF_PRODUCTS_F32;
        args.bias = vector(n);
        args.act = (rf_act)(i % 6);
        OK(rf_matmul(s, &args));
        args.beta = 0.0f;
        OK(rf_matmul(s, &args));
        if (tb == RF_NO_TRANS) {
            args.b = as_bf16(matrix(k, n));
            OK(rf_matmul(s, &args));
        }
    }
}

/* ---- norms --------------------------------------------------------------------------------- */

static void norms_and_their_gradients(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        const int64_t n = shapes[i][0], d = shapes[i][1];
        rf_view x = apart(n, d, i % 3), y = apart(n, d, i % 2), scale = vector(n);
        rf_layer_norm_args args = {.x = x, .y = y, .scale = scale, .eps = 1e-5f};
        OK(rf_layer_norm(s, &args));
        args.weight = vector(d);
        OK(rf_layer_norm(s, &args));
        args.bias = vector(d);
        args.divisor = positive(vector(n));
        OK(rf_layer_norm(s, &args));
        args.divisor = args.scale = none;
        args.y = args.x = apart(n, d, 1);
        OK(rf_layer_norm(s, &args)); /* in place */
        rf_layer_norm_grad_args grad = {.x = x,
                                        .weight = args.weight,
                                        .scale = positive(scale),
                                        .d_y = apart(n, d, 2),
                                        .d_x = apart(n, d, 0),
                                        .d_weight = vector(d),
                                        .d_bias = vector(d)};
        OK(rf_layer_norm_grad(s, &grad));
        grad.weight = none;
        grad.d_scale = vector(n);
        OK(rf_layer_norm_grad(s, &grad));
        OK(rf_layer_norm_scale_grad(s, &grad));
        grad.d_scale = grad.d_weight = grad.d_bias = none;
        grad.d_x = grad.d_y;
        OK(rf_layer_norm_grad(s, &grad));
        rf_view rows = apart(n, d, 1);
        OK(rf_softmax_rows(s, &rows));
    }
}

/* ---- element by element -------------------------------------------------------------------- */

static void acts_of(rf_act act, int64_t n, int64_t d)
{
    rf_view x = matrix(n, d), y = matrix(n, d), gate = apart(n, d, 1), to = apart(n, d, 2);
    rf_view d_y = apart(n, d, 1);
    OK(rf_activation(s, act, &x, &y));
    OK(rf_gated(s, act, &gate, &x, &to));
    OK(rf_gated(s, act, &gate, &x, &gate));
    OK(rf_activation_grad(s, act, &x, &d_y, &to));
    OK(rf_activation_grad(s, act, &x, &d_y, &d_y));
    rf_gated_grad_args grad = {
        .gate = gate, .x = x, .d_y = d_y, .d_gate = to, .d_x = y, .act = act};
    OK(rf_gated_grad(s, &grad));
    grad.d_gate = none;
    grad.d_x = d_y;
    OK(rf_gated_grad(s, &grad));
    OK(rf_activation(s, act, &x, &x));
}

static void acts_and_their_gradients(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        for (int act = RF_ACT_NONE; act <= RF_ACT_SILU; act++) {
            acts_of((rf_act)act, shapes[i][0], shapes[i][1]);
        }
        forget(NULL);
    }
}

static void sums_of_rows_and_columns(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        const int64_t n = shapes[i][0], d = shapes[i][1];
        rf_add_args args = {.r = apart(n, d, 1), .y = apart(n, d, 2)};
        OK(rf_add(s, &args));
        args.scale = vector(d);
        OK(rf_add(s, &args));
        args.x = apart(n, d, 0);
        OK(rf_add(s, &args));
        args.y = args.x;
        OK(rf_add(s, &args));
        args.scale = none;
        args.y = args.r;
        OK(rf_add(s, &args));
        rf_view x = apart(n, d, 1), y = apart(n, d, 3), out = vector(d);
        OK(rf_column_dot(s, &x, &y, &out));
    }
}

static void gathered_rows(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        const int64_t m = shapes[i][0], d = shapes[i][1], n = m / 2 + 1;
        rf_view src = apart(n, d, 1), dst = apart(m, d, 2), index = counters(m);
        for (int64_t j = 0; j < m; j++) {
            ((int64_t *)index.data)[j] = j * 7 % n; /* some twice */
        }
        OK(rf_gather_rows(s, &src, &index, &dst));
        OK(rf_gather_rows_grad(s, &dst, &index, &src));
    }
}

static void conversions_of_every_kind_of_number(void **state)
{
    (void)state;
    static const float odd[] = {0.0f,     -0.0f,   1e-8f,       -6e-8f,     5.96e-8f, 65504.0f,
                                65519.9f, 65520.f, 3.39e38f,    3.4e38f,    1e-40f,   -1e-45f,
                                INFINITY, NAN,     1.00390625f, 1.01171875f};
    enum { N_ODD = sizeof odd / sizeof odd[0] };
    for (int i = 0; i < N_SHAPES; i++) {
        rf_view x = matrix(shapes[i][0], shapes[i][1]);
        for (int64_t j = 0; j < rf_view_n_elems(&x) && j < N_ODD; j++) {
            ((float *)x.data)[j] = odd[j];
        }
        for (int half = 0; half < 2; half++) {
            const rf_dtype type = half == 0 ? RF_F16 : RF_BF16;
            rf_view y = rf_view_nd(block(rf_view_n_elems(&x), 2), type, 2, x.shape);
            rf_view z = rf_view_nd(block(rf_view_n_elems(&x), 2), type, 2, x.shape);
            rf_view back = matrix(x.shape[0], x.shape[1]);
            OK(rf_convert(s, &x, &y));
            OK(rf_convert(s, &y, &z));
            OK(rf_convert(s, &y, &back));
            OK(rf_convert(s, &x, &back));
        }
    }
}

/* ---- attention ----------------------------------------------------------------------------- */

typedef struct heads {
    int64_t n_pictures, n_queries, n_keys, n_heads, width;
} heads;

/* Of three that lie side by side in rows, number `which`. */
static rf_view interleaved(float *from, int64_t n_tokens, const heads *h, int which)
{
    const int64_t d = h->n_heads * h->width;
    rf_view v = rf_view_nd(from + which * d, RF_F32, 4,
                           (int64_t[]){h->n_pictures, n_tokens, h->n_heads, h->width});
    v.stride[0] = n_tokens * 3 * d;
    v.stride[1] = 3 * d;
    return v;
}

static rf_view bias_of(const heads *h, bool is_shared)
{
    rf_view bias = rf_view_nd(floats(h->n_heads * h->n_queries * h->n_keys), RF_F32, 3,
                              (int64_t[]){is_shared ? 1 : h->n_heads, h->n_queries, h->n_keys});
    for (int64_t i = 0; i < rf_view_n_elems(&bias); i++) {
        if (i % h->n_keys > i / h->n_keys % h->n_queries) {
            ((float *)bias.data)[i] = -INFINITY; /* a causal mask */
        }
    }
    return bias;
}

static void attend(const heads *h, rf_products products)
{
    float *qkv = floats(h->n_pictures * h->n_keys * 3 * h->n_heads * h->width);
    float *d_qkv = floats(h->n_pictures * h->n_keys * 3 * h->n_heads * h->width);
    rf_attention_args args = {.q = four(h->n_pictures, h->n_queries, h->n_heads, h->width),
                              .k = interleaved(qkv, h->n_keys, h, 1),
                              .v = interleaved(qkv, h->n_keys, h, 2),
                              .z = four(h->n_pictures, h->n_queries, h->n_heads, h->width),
                              .scale = 0.3f,
                              .products = products};
    OK(rf_attention(s, &args));
    args.bias = bias_of(h, false);
    args.pattern = four(h->n_pictures, h->n_heads, h->n_queries, h->n_keys);
    OK(rf_attention(s, &args));
    OK(rf_attention_mix(s, &args));
    args.bias = bias_of(h, true);
    args.q.stride[0] = 0; /* one for all pictures */
    OK(rf_attention_scores(s, &args));
    OK(rf_attention(s, &args));
    rf_attention_grad_args grad = {.q = args.q,
                                   .k = args.k,
                                   .v = args.v,
                                   .pattern = args.pattern,
                                   .d_z = four(h->n_pictures, h->n_queries, h->n_heads, h->width),
                                   .d_pattern =
                                       four(h->n_pictures, h->n_heads, h->n_queries, h->n_keys),
                                   .d_q = four(h->n_pictures, h->n_queries, h->n_heads, h->width),
                                   .d_k = interleaved(d_qkv, h->n_keys, h, 1),
                                   .d_v = interleaved(d_qkv, h->n_keys, h, 2),
                                   .scale = 0.3f,
                                   .products = products};
    OK(rf_attention_mix_grad(s, &grad));
    OK(rf_attention_softmax_grad(s, &grad));
    OK(rf_attention_scores_grad(s, &grad));
    for (int shared = 0; shared < 2; shared++) {
        grad.d_bias = bias_of(h, shared == 1);
        memset(grad.d_bias.data, 0, sizeof(float) * (size_t)rf_view_n_elems(&grad.d_bias));
        OK(rf_attention_scores_grad(s, &grad));
    }
    grad.d_k = grad.d_v = none;
    OK(rf_attention_scores_grad(s, &grad));
    OK(rf_attention_mix_grad(s, &grad));
    grad.d_q = none;
    grad.d_k = interleaved(d_qkv, h->n_keys, h, 0);
    OK(rf_attention_scores_grad(s, &grad));
}

static void attention_and_its_gradients(void **state)
{
    (void)state;
    static const heads all[] = {{1, 1, 1, 1, 1},      {2, 5, 5, 3, 8},   {1, 33, 257, 2, 33},
                                {1, 197, 197, 2, 64}, {3, 1, 31, 2, 80}, {2, 7, 1025, 1, 4},
                                {1, 3, 3, 1, 257},    {0, 3, 3, 2, 4}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        attend(&all[i], RF_PRODUCTS_F32);
        attend(&all[i], RF_PRODUCTS_TF32);
        forget(NULL);
    }
}

/* ---- tokens -------------------------------------------------------------------------------- */

static void rotations(void **state)
{
    (void)state;
    static const heads all[] = {{1, 1, 1, 1, 2},
                                {2, 33, 33, 3, 6},
                                {1, 5, 5, 2, 64},
                                {1, 257, 257, 1, 34},
                                {0, 3, 3, 2, 4}};
    for (size_t i = 0; i < sizeof all / sizeof all[0] * 4; i++) {
        const heads *h = &all[i / 4];
        float *qkv = floats(h->n_pictures * h->n_keys * 3 * h->n_heads * h->width);
        rf_rotary_args args = {.x = interleaved(qkv, h->n_keys, h, 1),
                               .y = four(h->n_pictures, h->n_keys, h->n_heads, h->width),
                               .cos = matrix(h->n_keys, h->width),
                               .sin = apart(h->n_keys, h->width, 1),
                               .pairs = i % 2 == 0 ? RF_PAIRS_ADJACENT : RF_PAIRS_HALVES,
                               .is_transposed = i % 4 > 1};
        OK(rf_rotary(s, &args));
        args.y = args.x;
        OK(rf_rotary(s, &args));
    }
}

static void embed(int64_t n_pictures, int64_t n_patches, int64_t n_prefix, int64_t d)
{
    rf_embed_tokens_args args = {
        .patches = apart(n_pictures * n_patches, d, 1),
        .position = apart(n_patches, d, 2),
        .prefix = apart(n_prefix, d, 0),
        .out = rf_view_nd(floats(n_pictures * (n_prefix + n_patches) * d), RF_F32, 3,
                          (int64_t[]){n_pictures, n_prefix + n_patches, d})};
    OK(rf_embed_tokens(s, &args));
    OK(rf_embed_tokens_grad(s, &args));
    args.prefix = none;
    OK(rf_embed_tokens_grad(s, &args));
    args.position = none;
    OK(rf_embed_tokens_grad(s, &args));
    rf_view mean = apart(n_pictures, d, 1);
    OK(rf_mean_tokens(s, &args.out, n_prefix, n_patches, &mean));
    OK(rf_mean_tokens_grad(s, &mean, n_prefix, n_patches, &args.out));
    rf_view longer = args.out;
    longer.shape[1] -= 1; /* pictures apart */
    if (n_patches > 1) {
        OK(rf_mean_tokens(s, &longer, 0, 1, &mean));
        OK(rf_mean_tokens_grad(s, &mean, 0, 1, &longer));
    }
}

static void tokens_from_patches_and_their_mean(void **state)
{
    (void)state;
    embed(1, 1, 0, 1);
    embed(2, 5, 1, 33);
    embed(3, 257, 5, 31);
    embed(1, 3, 2, 1536);
    embed(65, 2, 1, 4);
    embed(1, 1025, 1, 2);
    embed(0, 4, 1, 8);
}

static void patches_of(rf_view images, int64_t patch, int64_t tubelet)
{
    const int at = images.n_dims == 5 ? 1 : 0;
    const int64_t n_t = at == 1 ? images.shape[1] / tubelet : 1;
    const int64_t n =
        images.shape[0] * n_t * (images.shape[at + 2] / patch) * (images.shape[at + 3] / patch);
    rf_patch_rows_args args = {.images = images,
                               .rows = apart(n, images.shape[at + 1] * tubelet * patch * patch, 1),
                               .patch = patch,
                               .tubelet = tubelet};
    OK(rf_patch_rows(s, &args));
    OK(rf_patch_rows_grad(s, &args));
}

static void patches_of_pictures_and_clips(void **state)
{
    (void)state;
    patches_of(four(1, 1, 1, 1), 1, 1);
    patches_of(four(2, 3, 33, 17), 4, 1); /* with a border */
    patches_of(four(1, 3, 224, 224), 14, 1);
    patches_of(four(3, 2, 5, 5), 7, 1); /* no patch at all */
    patches_of(four(0, 3, 8, 8), 4, 1);
    rf_view wide = four(2, 3, 9, 16);
    wide.shape[3] = 15; /* lines apart */
    patches_of(wide, 4, 1);
    rf_view clip = rf_view_nd(floats(2 * 5 * 3 * 8 * 9), RF_F32, 5, (int64_t[]){2, 5, 3, 8, 9});
    patches_of(clip, 4, 2);
    rf_view still = four(2, 3, 8, 9);
    still = rf_view_nd(still.data, RF_F32, 5, (int64_t[]){2, 4, 3, 8, 9});
    still.stride[1] = 0; /* one picture for all frames */
    still.stride[0] = 3 * 8 * 9;
    patches_of(still, 4, 2);
}

static void values_of(int64_t n, int64_t n_channels, int64_t height, int64_t width)
{
    rf_view images = four(n, n_channels, height, width);
    const int64_t n_bytes = rf_view_n_elems(&images);
    uint8_t *pixels = (uint8_t *)floats(n_bytes / 4 + 1);
    for (int64_t i = 0; i < n_bytes; i++) {
        pixels[i] = (uint8_t)(i * 37 + i / 251);
    }
    OK(rf_pixel_values(
        s, &(rf_pixel_values_args){
               .pixels = rf_view_nd(pixels, RF_U8, 4, (int64_t[]){n, height, width, n_channels}),
               .levels = rf_view_2d(floats(256 * n_channels), n_channels, 256),
               .images = images}));
}

static void values_of_pixels(void **state)
{
    (void)state;
    values_of(1, 1, 1, 1);
    values_of(2, 3, 33, 17);
    values_of(3, 3, 16, 16); /* a block and more */
    values_of(1, 4, 5, 257);
    values_of(0, 3, 8, 8);
}

static void each_of_them_was_compared(void **state)
{
    (void)state;
    assert_compared(RF_SHADOW_DENSE);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_teardown(test, forget)
    const struct CMUnitTest tests[] = {
        TEST(products_of_any_shape),
        TEST(norms_and_their_gradients),
        TEST(acts_and_their_gradients),
        TEST(sums_of_rows_and_columns),
        TEST(gathered_rows),
        TEST(conversions_of_every_kind_of_number),
        TEST(attention_and_its_gradients),
        TEST(rotations),
        TEST(tokens_from_patches_and_their_mean),
        TEST(values_of_pixels),
        TEST(patches_of_pictures_and_clips),
        TEST(each_of_them_was_compared),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
