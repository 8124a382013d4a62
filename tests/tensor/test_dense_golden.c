/* Dense operations and their gradients against torch autograd in double: the files that
 * tests/golden/make_dense_grad.py makes. */
#include "dense_fixture.h"
#include "refract/io.h"

#include <math.h>
#include <string.h>

typedef struct golden {
    fixture f;
    rf_tensor_file *file;
    const char *name; /* of the case */
} golden;

static golden open_golden(void)
{
    golden g = {.f = open_threads(2)};
    assert_int_equal(rf_tensor_file_open(RF_GOLDEN_DIR "/dense_grad.safetensors", &g.file), RF_OK);
    return g;
}

static void close_golden(golden g)
{
    rf_tensor_file_close(g.file);
    close_threads(g.f);
}

static const rf_named_tensor *find(const golden *g, const char *name)
{
    char path[64];
    assert_int_equal(rf_format(path, sizeof path, "%s/%s", g->name, name), RF_OK);
    const rf_named_tensor *t = rf_tensor_file_find(g->file, path);
    if (t == NULL) {
        fail_msg("the file has no %s", path);
    }
    return t;
}

/* A contiguous view that owns its floats (free_view). */
static rf_view read(const golden *g, const char *name)
{
    const rf_named_tensor *t = find(g, name);
    float *x = rf_calloc(t->n_elems, sizeof *x);
    assert_non_null(x);
    assert_int_equal(rf_named_tensor_read_f32(t, x), RF_OK);
    return rf_view_nd(x, RF_F32, t->n_dims, t->shape);
}

/* Room for what the file calls `name`, zeros. */
static rf_view room(const golden *g, const char *name)
{
    const rf_named_tensor *t = find(g, name);
    return rf_view_nd(rf_calloc(t->n_elems, sizeof(float)), RF_F32, t->n_dims, t->shape);
}

static rf_view flat(rf_view v, int64_t n_cols)
{
    return rf_view_2d(v.data, rf_view_n_elems(&v) / n_cols, n_cols);
}

/* fp32 against double, sums of at most 70 terms: 2e-6 of the whole array's length */
static void compare(const golden *g, const char *name, rf_view got)
{
    rf_view want = read(g, name);
    double err = 0.0, all = 0.0;
    assert_int_equal(rf_view_n_elems(&want), rf_view_n_elems(&got));
    for (int64_t i = 0; i < rf_view_n_elems(&want); i++) {
        const double w = (double)((const float *)want.data)[i];
        const double d = (double)((const float *)got.data)[i] - w;
        err += d * d;
        all += w * w;
    }
    if (!(sqrt(err) <= 2e-6 * sqrt(all)) || !(all > 0.0)) {
        fail_msg("%s/%s differs by %g of %g", g->name, name, sqrt(err), sqrt(all));
    }
    rf_free(want.data);
}

static void compare_and_free(const golden *g, const char *name, rf_view got)
{
    compare(g, name, got);
    rf_free(got.data);
}

static void test_layer_norm_gradients_are_torchs(void **state)
{
    (void)state;
    golden g = open_golden();
    g.name = "layer_norm";
    rf_view scale = rf_view_1d(rf_calloc(70, sizeof(float)), 70);
    rf_layer_norm_args forward = {.x = read(&g, "x"),
                                  .weight = read(&g, "weight"),
                                  .bias = read(&g, "bias"),
                                  .y = room(&g, "y"),
                                  .scale = scale,
                                  .eps = 1e-6f};
    assert_int_equal(rf_layer_norm(g.f.s, &forward), RF_OK);
    compare(&g, "y", forward.y);
    rf_layer_norm_grad_args args = {.x = forward.x,
                                    .weight = forward.weight,
                                    .scale = scale,
                                    .d_y = read(&g, "d_y"),
                                    .d_x = room(&g, "d_x"),
                                    .d_weight = room(&g, "d_weight"),
                                    .d_bias = room(&g, "d_bias")};
    assert_int_equal(rf_layer_norm_grad(g.f.s, &args), RF_OK);
    compare_and_free(&g, "d_x", args.d_x);
    compare_and_free(&g, "d_weight", args.d_weight);
    compare_and_free(&g, "d_bias", args.d_bias);
    rf_free(args.d_y.data);
    rf_free(forward.x.data);
    rf_free(forward.weight.data);
    rf_free(forward.bias.data);
    rf_free(forward.y.data);
    rf_free(scale.data);
    close_golden(g);
}

/* Forward by its parts and back. `bias` [H, Tq, T] is borrowed. */
static void check_attention(const golden *g, const rf_view *bias)
{
    const rf_view q = read(g, "q"), k = read(g, "k"), v = read(g, "v"), z = room(g, "y");
    const int64_t shape[4] = {q.shape[0], q.shape[2], q.shape[1], k.shape[1]};
    const int64_t n = shape[0] * shape[1] * shape[2] * shape[3];
    const rf_view pattern = rf_view_nd(rf_calloc(n, sizeof(float)), RF_F32, 4, shape);
    const rf_attention_args forward = {
        .q = q, .k = k, .v = v, .z = z, .pattern = pattern, .bias = *bias, .scale = 0.4f};
    assert_int_equal(rf_attention(g->f.s, &forward), RF_OK);
    compare_and_free(g, "y", z);
    rf_attention_grad_args args = {.q = q,
                                   .k = k,
                                   .v = v,
                                   .pattern = pattern,
                                   .d_z = read(g, "d_y"),
                                   .d_pattern = pattern,
                                   .d_q = room(g, "d_q"),
                                   .d_k = room(g, "d_k"),
                                   .d_v = room(g, "d_v"),
                                   .scale = 0.4f};
    args.d_pattern.data = rf_calloc(n, sizeof(float));
    const bool is_learned = strcmp(g->name, "causal") != 0;
    if (is_learned) {
        args.d_bias = room(g, "d_bias");
    }
    assert_int_equal(rf_attention_mix_grad(g->f.s, &args), RF_OK);
    assert_int_equal(rf_attention_softmax_grad(g->f.s, &args), RF_OK);
    assert_int_equal(rf_attention_scores_grad(g->f.s, &args), RF_OK);
    compare_and_free(g, "d_q", args.d_q);
    compare_and_free(g, "d_k", args.d_k);
    compare_and_free(g, "d_v", args.d_v);
    if (is_learned) {
        compare_and_free(g, "d_bias", args.d_bias);
    }
    rf_free(q.data);
    rf_free(k.data);
    rf_free(v.data);
    rf_free(pattern.data);
    rf_free(args.d_z.data);
    rf_free(args.d_pattern.data);
}

static void test_attention_gradients_are_torchs(void **state)
{
    (void)state;
    enum { T = 9 };
    golden g = open_golden();
    g.name = "attention";
    rf_view bias = read(&g, "bias");
    check_attention(&g, &bias);
    rf_free(bias.data);
    float mask[T * T];
    for (int i = 0; i < T * T; i++) {
        mask[i] = i % T > i / T ? -INFINITY : 0.0f;
    }
    bias = rf_view_nd(mask, RF_F32, 3, (int64_t[]){1, T, T});
    g.name = "causal";
    check_attention(&g, &bias);
    close_golden(g);
}

static const struct {
    const char *name;
    rf_act act;
} acts[] = {{"relu", RF_ACT_RELU},
            {"gelu", RF_ACT_GELU},
            {"quick_gelu", RF_ACT_QUICK_GELU},
            {"gelu_tanh", RF_ACT_GELU_TANH},
            {"silu", RF_ACT_SILU}};

static void check_act(golden *g, rf_act act)
{
    const rf_view x = read(g, "x"), y = room(g, "y"), d_y = read(g, "d_y"), d_x = room(g, "d_x");
    assert_int_equal(rf_activation(g->f.s, act, &x, &y), RF_OK);
    assert_int_equal(rf_activation_grad(g->f.s, act, &x, &d_y, &d_x), RF_OK);
    compare_and_free(g, "y", y);
    compare_and_free(g, "d_x", d_x);
    rf_free(x.data);
    rf_free(d_y.data);
}

static void check_gated(golden *g, rf_act act)
{
    const rf_view y = room(g, "y");
    rf_gated_grad_args args = {.gate = read(g, "gate"),
                               .x = read(g, "x"),
                               .d_y = read(g, "d_y"),
                               .d_gate = room(g, "d_gate"),
                               .d_x = room(g, "d_x"),
                               .act = act};
    assert_int_equal(rf_gated(g->f.s, act, &args.gate, &args.x, &y), RF_OK);
    assert_int_equal(rf_gated_grad(g->f.s, &args), RF_OK);
    compare_and_free(g, "y", y);
    compare_and_free(g, "d_gate", args.d_gate);
    compare_and_free(g, "d_x", args.d_x);
    rf_free(args.gate.data);
    rf_free(args.x.data);
    rf_free(args.d_y.data);
}

static void test_activations_and_gated_maps_are_torchs(void **state)
{
    (void)state;
    golden g = open_golden();
    char name[32];
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
        g.name = name;
        assert_int_equal(rf_format(name, sizeof name, "act_%s", acts[i].name), RF_OK);
        check_act(&g, acts[i].act);
        assert_int_equal(rf_format(name, sizeof name, "gated_%s", acts[i].name), RF_OK);
        check_gated(&g, acts[i].act);
    }
    close_golden(g);
}

static void test_rotary_is_a_product_of_complex_numbers(void **state)
{
    (void)state;
    golden g = open_golden();
    for (int i = 0; i < 2; i++) {
        g.name = i == 0 ? "rotary_adjacent" : "rotary_halves";
        rf_rotary_args args = {.x = read(&g, "x"),
                               .y = room(&g, "y"),
                               .cos = read(&g, "cos"),
                               .sin = read(&g, "sin"),
                               .pairs = i == 0 ? RF_PAIRS_ADJACENT : RF_PAIRS_HALVES};
        assert_int_equal(rf_rotary(g.f.s, &args), RF_OK);
        compare_and_free(&g, "y", args.y);
        rf_rotary_args back = args;
        back.x = back.y = read(&g, "d_y");
        back.is_transposed = true;
        assert_int_equal(rf_rotary(g.f.s, &back), RF_OK);
        compare_and_free(&g, "d_x", back.y);
        rf_free(args.x.data);
        rf_free(args.cos.data);
        rf_free(args.sin.data);
    }
    close_golden(g);
}

/* to [.., n, m] = from [.., m, n] for each picture: torch has channels before patches. */
static rf_view swap_inner(rf_view from, int64_t n_pictures, int64_t m, int64_t n)
{
    float *to = rf_calloc(n_pictures * m * n, sizeof *to);
    for (int64_t i = 0; i < n_pictures * m * n; i++) {
        to[i] = ((const float *)from.data)[i / (m * n) * m * n + i % m * n + i / m % n];
    }
    rf_free(from.data);
    return rf_view_2d(to, n_pictures * n, m);
}

/* rows . weight^T, and back: the weight's gradient tells the order inside a row as well. */
static void test_tubelet_rows_are_those_of_a_convolution(void **state)
{
    (void)state;
    golden g = open_golden();
    g.name = "tubelets";
    enum { PICTURES = 2, PATCHES = 2 * 2 * 3, OUT = 6, LEN = 3 * 2 * 3 * 3 };
    const rf_view weight = read(&g, "weight"), d_weight = room(&g, "d_weight");
    const rf_view y =
        rf_view_2d(rf_calloc(PICTURES * PATCHES * OUT, sizeof(float)), PICTURES * PATCHES, OUT);
    const rf_view rows =
        rf_view_2d(rf_calloc(PICTURES * PATCHES * LEN, sizeof(float)), PICTURES * PATCHES, LEN);
    const rf_view d_y = swap_inner(read(&g, "d_y"), PICTURES, OUT, PATCHES);
    rf_patch_rows_args cut = {.images = read(&g, "images"), .rows = rows, .patch = 3, .tubelet = 2};
    assert_int_equal(rf_patch_rows(g.f.s, &cut), RF_OK);
    rf_matmul_args multiply = {
        .a = rows, .b = flat(weight, LEN), .c = y, .trans_b = RF_TRANS, .alpha = 1.0f};
    assert_int_equal(rf_matmul(g.f.s, &multiply), RF_OK);
    compare_and_free(&g, "y", swap_inner(y, PICTURES, PATCHES, OUT));
    multiply = (rf_matmul_args){
        .a = d_y, .b = rows, .c = flat(d_weight, LEN), .trans_a = RF_TRANS, .alpha = 1.0f};
    assert_int_equal(rf_matmul(g.f.s, &multiply), RF_OK);
    compare_and_free(&g, "d_weight", d_weight);
    multiply = (rf_matmul_args){.a = d_y, .b = flat(weight, LEN), .c = rows, .alpha = 1.0f};
    assert_int_equal(rf_matmul(g.f.s, &multiply), RF_OK);
    rf_patch_rows_args back = cut;
    back.images = room(&g, "d_images");
    assert_int_equal(rf_patch_rows_grad(g.f.s, &back), RF_OK);
    compare_and_free(&g, "d_images", back.images);
    rf_free(weight.data);
    rf_free(rows.data);
    rf_free(d_y.data);
    rf_free(cut.images.data);
    close_golden(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layer_norm_gradients_are_torchs),
        cmocka_unit_test(test_attention_gradients_are_torchs),
        cmocka_unit_test(test_activations_and_gated_maps_are_torchs),
        cmocka_unit_test(test_rotary_is_a_product_of_complex_numbers),
        cmocka_unit_test(test_tubelet_rows_are_those_of_a_convolution),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
