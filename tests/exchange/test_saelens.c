/* SAELens folders: what is written is what sae_lens was given, and the codes are those that it gave
 * (tests/golden/make_saelens.py). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "refract/exchange.h"

#define GOLDEN RF_GOLDEN_DIR "/saelens.safetensors"

enum { D = 12, F = 40, N = 16, K = 5 };

/* The golden file's cases. */
typedef struct saelens_case {
    const char *name, *ours, *theirs;
    rf_token_norm norm;
    rf_subtract subtract;
    int64_t out_width; /* of a transcoder; 0: an autoencoder */
    bool skip;
} saelens_case;

static const saelens_case cases[] = {
    {"topk", "topk", "topk", RF_NORM_NONE, RF_SUBTRACT_AUTO, 0, false},
    {"topk", "multi_topk", "topk", RF_NORM_NONE, RF_SUBTRACT_YES, 0, false},
    {"relu", "relu", "standard", RF_NORM_NONE, RF_SUBTRACT_AUTO, 0, false},
    {"relu", "p_anneal", "standard", RF_NORM_NONE, RF_SUBTRACT_AUTO, 0, false},
    {"jumprelu", "jumprelu", "jumprelu", RF_NORM_NONE, RF_SUBTRACT_AUTO, 0, false},
    {"gated", "gated", "gated", RF_NORM_NONE, RF_SUBTRACT_AUTO, 0, false},
    {"batch_topk", "batch_topk", "jumprelu", RF_NORM_NONE, RF_SUBTRACT_AUTO, 0, false},
    {"batch_topk", "matryoshka", "jumprelu", RF_NORM_NONE, RF_SUBTRACT_AUTO, 0, false},
    {"no_subtract", "topk", "topk", RF_NORM_NONE, RF_SUBTRACT_NO, 0, false},
    {"average", "topk", "topk", RF_NORM_AVERAGE, RF_SUBTRACT_AUTO, 0, false},
    {"average_no_subtract", "jumprelu", "jumprelu", RF_NORM_AVERAGE, RF_SUBTRACT_NO, 0, false},
    {"per_dimension", "relu", "standard", RF_NORM_PER_DIMENSION, RF_SUBTRACT_AUTO, 0, false},
    {"per_dimension_no_subtract", "gated", "gated", RF_NORM_PER_DIMENSION, RF_SUBTRACT_NO, 0,
     false},
    {"layer", "topk", "topk", RF_NORM_LAYER, RF_SUBTRACT_AUTO, 0, false},
    {"constant", "jumprelu", "jumprelu", RF_NORM_CONSTANT, RF_SUBTRACT_AUTO, 0, false},
    {"transcoder", "relu", "transcoder", RF_NORM_NONE, RF_SUBTRACT_AUTO, 8, false},
    {"transcoder_jump", "jumprelu", "jumprelu_transcoder", RF_NORM_NONE, RF_SUBTRACT_AUTO, 8,
     false},
    {"transcoder_average", "batch_topk", "jumprelu_transcoder", RF_NORM_AVERAGE, RF_SUBTRACT_AUTO,
     8, false},
    {"transcoder_layer", "relu", "transcoder", RF_NORM_LAYER, RF_SUBTRACT_AUTO, 8, false},
    {"skip", "relu", "skip_transcoder", RF_NORM_NONE, RF_SUBTRACT_AUTO, D, true},
    {"skip_per_dimension", "jumprelu", "jumprelu_skip_transcoder", RF_NORM_PER_DIMENSION,
     RF_SUBTRACT_AUTO, D, true},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static rf_backend *be;
static rf_stream *stream;
static char folder[RF_PATH_LEN];

static void ok(rf_status status)
{
    if (status != RF_OK) {
        fail_msg("%s (%s)", rf_error_text(), rf_error_place());
    }
}

static int set_up(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    ok(rf_format(folder, sizeof folder, "%s/refract-saelens-XXXXXX", base != NULL ? base : "/tmp"));
    assert_non_null(mkdtemp(folder));
    ok(rf_backend_cpu_create(1, &be));
    ok(rf_stream_create(be, &stream));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[RF_PATH_LEN + 16];
    rf_stream_destroy(stream);
    rf_backend_destroy(be);
    ok(rf_format(command, sizeof command, "rm -rf '%s'", folder));
    return system(command);
}

/* Tensor `name`."key" of the golden file. To be freed. */
static float *golden(const rf_tensor_file *f, const char *name, const char *key, int64_t n)
{
    char full[RF_NAME_LEN];
    float *out = rf_calloc(n, sizeof *out);
    ok(rf_format(full, sizeof full, "%s.%s", name, key));
    const rf_named_tensor *t = rf_tensor_file_find(f, full);
    assert_non_null(t);
    assert_int_equal(t->n_elems, n);
    ok(rf_named_tensor_read_f32(t, out));
    return out;
}

static int find_architecture(const char *name)
{
    for (int i = 0; i < rf_architecture_count(); i++) {
        if (strcmp(rf_architecture_at(i)->name, name) == 0) {
            return i;
        }
    }
    fail_msg("no architecture %s", name);
    return -1;
}

static rf_coder_settings settings_of(const char *architecture, int64_t k)
{
    rf_coder_settings settings;
    ok(rf_settings_defaults(&rf_coder_settings_table, &settings));
    ok(rf_format(settings.name, sizeof settings.name, "a \"quoted\" coder"));
    settings.architecture = find_architecture(architecture);
    settings.latents = F;
    settings.w_enc = RF_W_ENC_INDEPENDENT;
    settings.k = (rf_k_by_class){.any = k};
    return settings;
}

static rf_coder_shape shape_of(const saelens_case *c)
{
    rf_coder_shape shape = rf_coder_shape_of(D);
    shape.n_out = c->out_width > 0;
    shape.out[0] = c->out_width;
    return shape;
}

/* What the golden file says of a BatchTopK coder's threshold, as a running mean. */
static void load_bound(const rf_tensor_file *f, const char *name, rf_coder *coder)
{
    rf_coder_state state;
    float *bound = golden(f, name, "bound", 1);
    ok(rf_coder_get_state(coder, stream, &state));
    state.scalars[RF_SCALAR_THRESHOLD] = bound[0] / 2;
    state.scalars[RF_SCALAR_THRESHOLD_MASS] = 0.5F;
    ok(rf_coder_set_state(coder, stream, &state));
    rf_free(bound);
}

static rf_coder *load_coder(const rf_tensor_file *f, const saelens_case *c)
{
    rf_coder_settings settings = settings_of(c->ours, K);
    const rf_coder_shape shape = shape_of(c);
    rf_coder *coder = NULL;
    settings.normalise = (int)c->norm;
    settings.subtract = (int)c->subtract;
    settings.skip = c->skip;
    ok(rf_coder_create(be, &settings, &shape, &coder));
    for (int i = 0; i < rf_coder_n_tensors(coder); i++) {
        const rf_coder_tensor t = rf_coder_tensor_at(coder, i);
        const bool is_ours = i >= RF_CODER_TOKENS_SINCE_FIRED && i <= RF_CODER_COUNTERS;
        if (t.view.data == NULL || is_ours) {
            continue;
        }
        const int64_t n = rf_view_n_elems(&t.view);
        float *x = golden(f, c->name, t.name, n);
        ok(rf_copy_in(stream, t.view.data, x, (size_t)n * sizeof *x));
        ok(rf_stream_synchronise(stream));
        rf_free(x);
    }
    if (strcmp(c->name, "batch_topk") == 0 || strcmp(c->name, "transcoder_average") == 0) {
        load_bound(f, c->name, coder);
    }
    return coder;
}

static const rf_exchange_origin origin = {.model_name = "facebook/dinov2-small",
                                          .hook_name = "blocks.8.hook_resid_post",
                                          .target_name = "blocks.9.hook_mlp_out",
                                          .pictures_path = "a \\ path",
                                          .n_positions = 257,
                                          .image_size = 224,
                                          .step = 12,
                                          .model_hash = UINT64_C(0x0123456789abcdef)};

/* The file has SAELens's tensors and no other. Where no constants are folded in, they are copies;
 * else both sides are rounded once from double, of sums in another order: 1e-6 of the largest. */
static void check_weights(const rf_tensor_file *f, const saelens_case *c, const char *out_dir)
{
    char path[RF_PATH_LEN], key[RF_NAME_LEN], prefix[RF_NAME_LEN];
    rf_tensor_file *written = NULL;
    int64_t n_expected = 0;

    ok(rf_path_join(path, out_dir, "sae_weights.safetensors"));
    ok(rf_tensor_file_open(path, &written));
    ok(rf_format(prefix, sizeof prefix, "%s.sae.", c->name));
    for (int64_t i = 0; i < rf_tensor_file_count(f); i++) {
        n_expected += strncmp(rf_tensor_file_at(f, i)->name, prefix, strlen(prefix)) == 0;
    }
    assert_int_equal(rf_tensor_file_count(written), n_expected);
    for (int64_t i = 0; i < n_expected; i++) {
        const rf_named_tensor *t = rf_tensor_file_at(written, i);
        ok(rf_format(key, sizeof key, "sae.%s", t->name));
        float *expected = golden(f, c->name, key, t->n_elems);
        float *got = rf_calloc(t->n_elems, sizeof *got);
        double largest = 0;
        ok(rf_format(path, sizeof path, "%s.%s", c->name, key));
        const rf_named_tensor *of = rf_tensor_file_find(f, path);
        assert_int_equal(t->dtype, RF_FILE_F32);
        assert_int_equal(t->n_dims, of->n_dims);
        assert_memory_equal(t->shape, of->shape, (size_t)t->n_dims * sizeof t->shape[0]);
        ok(rf_named_tensor_read_f32(t, got));
        for (int64_t e = 0; e < t->n_elems; e++) {
            largest = fmax(largest, fabs((double)expected[e]));
        }
        const bool is_folded = c->norm == RF_NORM_AVERAGE || c->norm == RF_NORM_PER_DIMENSION ||
                               strcmp(t->name, "threshold") == 0; /* an expf of one's own */
        for (int64_t e = 0; e < t->n_elems; e++) {
            assert_true(fabs((double)got[e] - (double)expected[e]) <=
                        (is_folded ? 1e-6 * largest : 0));
        }
        rf_free(expected);
        rf_free(got);
    }
    rf_tensor_file_close(written);
}

static void check_text(const rf_json *cfg, const char *key, const char *expected)
{
    const char *got = NULL;
    ok(rf_json_get_str(cfg, key, NULL, &got));
    assert_string_equal(got, expected);
}

static void check_cfg(const rf_coder *coder, const saelens_case *c, const char *out_dir)
{
    char path[RF_PATH_LEN];
    rf_json *cfg = NULL;
    int64_t d_in = 0, d_sae = 0, d_out = 0, k = 0;
    const int64_t none = -1;
    bool subtracts = false;

    ok(rf_path_join(path, out_dir, "cfg.json"));
    ok(rf_json_load(path, &cfg));
    check_text(cfg, "architecture", c->theirs);
    check_text(cfg, "dtype", "float32");
    check_text(cfg, "normalize_activations",
               c->norm == RF_NORM_LAYER      ? "layer_norm"
               : c->norm == RF_NORM_CONSTANT ? "constant_norm_rescale"
                                             : "none");
    check_text(cfg, "reshape_activations", "none");
    check_text(cfg, "metadata.model_name", origin.model_name);
    check_text(cfg, "metadata.hook_name", origin.hook_name);
    check_text(cfg, "metadata.hook_name_out", origin.target_name);
    check_text(cfg, "metadata.dataset_path", origin.pictures_path);
    check_text(cfg, "metadata.refract_coder", "a \"quoted\" coder");
    check_text(cfg, "metadata.refract_architecture", c->ours);
    check_text(cfg, "metadata.refract_tokens", "all");
    check_text(cfg, "metadata.refract_model_hash", "0123456789abcdef");
    assert_null(rf_json_find(cfg, "metadata.refract_pictures_hash"));
    assert_true((rf_json_find(cfg, "metadata.refract_note") != NULL) ==
                (c->norm == RF_NORM_LAYER && c->out_width == 0));
    ok(rf_json_get_i64(cfg, "d_in", NULL, &d_in));
    ok(rf_json_get_i64(cfg, "d_sae", NULL, &d_sae));
    ok(rf_json_get_i64(cfg, "d_out", &none, &d_out));
    ok(rf_json_get_i64(cfg, "k", &none, &k));
    ok(rf_json_get_bool(cfg, "apply_b_dec_to_input", NULL, &subtracts));
    assert_int_equal(d_in, D);
    assert_int_equal(d_sae, F);
    assert_int_equal(d_out, c->out_width > 0 ? c->out_width : none);
    assert_int_equal(k, strcmp(c->theirs, "topk") == 0 ? K : none);
    assert_true(subtracts == rf_coder_subtracts(coder));
    rf_json_free(cfg);
}

static void a_folder_holds_what_sae_lens_was_given(void **state)
{
    (void)state;
    rf_tensor_file *f = NULL;
    ok(rf_tensor_file_open(GOLDEN, &f));
    for (int i = 0; i < N_CASES; i++) {
        char out_dir[RF_PATH_LEN], name[RF_NAME_LEN];
        rf_coder *coder = load_coder(f, &cases[i]);
        ok(rf_format(name, sizeof name, "case-%d", i));
        ok(rf_path_join(out_dir, folder, name));
        ok(rf_saelens_write(coder, stream, &origin, out_dir));
        check_weights(f, &cases[i], out_dir);
        check_cfg(coder, &cases[i], out_dir);
        rf_coder_destroy(coder);
    }
    rf_tensor_file_close(f);
}

/* What a coder makes of activations, in host memory. */
typedef struct made {
    float *x, *codes, *y_hat; /* [N, D], [N, F] dense, [N, E] */
} made;

static made run_coder(const rf_tensor_file *f, const char *name, const rf_coder *coder)
{
    const int64_t e = rf_coder_out_width(coder);
    void *device = NULL;
    rf_codes codes;
    made out = {.x = golden(f, name, "x", N * D),
                .codes = rf_calloc(N * F, sizeof(float)),
                .y_hat = rf_calloc(N * e, sizeof(float))};

    ok(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)(N * (2 * D + 2 + e)) * sizeof(float),
                       &device));
    float *at = device; /* the CPU's device memory can be read */
    const rf_coder_rows rows = {.x = rf_view_2d(at, N, D),
                                .seen = rf_view_2d(at + N * D, N, D),
                                .row_shift = rf_view_2d(at + 2 * N * D, N, 1),
                                .row_scale = rf_view_2d(at + 2 * N * D + N, N, 1)};
    const rf_view y_hat = rf_view_2d(at + 2 * N * D + 2 * N, N, e);
    ok(rf_copy_in(stream, device, out.x, N * D * sizeof(float)));
    ok(rf_codes_create(be, N, N * F, &codes));
    ok(rf_coder_see(coder, stream, &rows));
    ok(rf_coder_encode(coder, stream, &rows, &codes));
    ok(rf_coder_decode(coder, stream, &rows, &codes, &y_hat));
    ok(rf_copy_out(stream, out.y_hat, y_hat.data, (size_t)(N * e) * sizeof(float)));
    ok(rf_stream_synchronise(stream));
    for (int64_t b = 0; b < N; b++) {
        for (int64_t i = codes.row_start[b]; i < codes.row_start[b + 1]; i++) {
            out.codes[b * F + codes.latent[i]] = codes.value[i];
        }
    }
    rf_codes_destroy(be, &codes);
    rf_memory_free(be, RF_MEMORY_DEVICE, device);
    return out;
}

static double norm_of(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return sqrt(sum);
}

/* Codes and reconstructions of both within `tolerance` of the norms of theirs, row by row. */
static void check_made(const rf_tensor_file *f, const saelens_case *c, const made *got, int64_t e)
{
    float *codes = golden(f, c->name, "codes", N * F), *y_hat = golden(f, c->name, "x_hat", N * e);
    for (int64_t b = 0; b < N; b++) {
        const double code_norm = norm_of(codes + b * F, F), y_norm = norm_of(y_hat + b * e, e);
        for (int64_t i = 0; i < F; i++) {
            /* nothing is nearer than 1e-4 to its threshold: the same latents, not one swapped */
            assert_int_equal(got->codes[b * F + i] > 0, codes[b * F + i] > 0);
            assert_true(fabs((double)got->codes[b * F + i] - (double)codes[b * F + i]) <=
                        2e-6 * code_norm);
        }
        /* sums of up to F products of values within that bound; with `layer` SAELens's way back
         * lacks the 1e-5 of its way in, of tokens whose deviation is near 1 */
        const double tolerance = c->norm == RF_NORM_LAYER && c->out_width == 0 ? 3e-5 : 3e-6;
        for (int64_t j = 0; j < e; j++) {
            assert_true(fabs((double)got->y_hat[b * e + j] - (double)y_hat[b * e + j]) <=
                        tolerance * fmax(y_norm, code_norm));
        }
    }
    rf_free(codes);
    rf_free(y_hat);
}

static void codes_and_reconstructions_are_those_of_sae_lens(void **state)
{
    (void)state;
    rf_tensor_file *f = NULL;
    ok(rf_tensor_file_open(GOLDEN, &f));
    for (int i = 0; i < N_CASES; i++) {
        rf_coder *coder = load_coder(f, &cases[i]);
        made got = run_coder(f, cases[i].name, coder);
        check_made(f, &cases[i], &got, rf_coder_out_width(coder));
        rf_free(got.x);
        rf_free(got.codes);
        rf_free(got.y_hat);
        rf_coder_destroy(coder);
    }
    rf_tensor_file_close(f);
}

/* ---- what SAELens cannot say ------------------------------------------------------------------
 */

static void check_refused(const rf_coder_settings *settings, const rf_coder_shape *shape,
                          const char *reason)
{
    char out_dir[RF_PATH_LEN];
    rf_coder *coder = NULL;
    ok(rf_coder_create(be, settings, shape, &coder));
    ok(rf_path_join(out_dir, folder, "refused"));
    assert_int_equal(rf_saelens_write(coder, stream, &origin, out_dir), RF_ERR_UNSUPPORTED);
    if (strstr(rf_error_text(), reason) == NULL) {
        fail_msg("'%s' does not say '%s'", rf_error_text(), reason);
    }
    assert_false(rf_file_is_dir(out_dir)); /* nothing is left there */
    rf_coder_destroy(coder);
}

static void what_sae_lens_cannot_say_is_refused_with_the_reason(void **state)
{
    (void)state;
    const rf_coder_shape one = rf_coder_shape_of(D);
    const rf_coder_shape cross = {.n_in = 2, .in = {D, D}};
    const rf_coder_shape trans = {.n_in = 1, .in = {D}, .n_out = 1, .out = {D}};
    const rf_coder_shape to_two = {.n_in = 1, .in = {D}, .n_out = 2, .out = {D, 3}};
    rf_coder_settings s = settings_of("topk", K);
    check_refused(&s, &cross, "2 sites side by side (a crosscoder)");
    check_refused(&s, &to_two, "reconstructs 2 sites");
    check_refused(&s, &trans, "a transcoder of the kind 'topk'");
    s = settings_of("gated", 0);
    check_refused(&s, &trans, "a transcoder of the kind 'gated'");
    s = settings_of("relu", 0);
    s.skip = true;
    s.normalise = RF_NORM_LAYER;
    check_refused(&s, &trans, "normalised one by one");
    s = settings_of("topk", 0);
    s.k = (rf_k_by_class){.of = {4, 0, 2}};
    check_refused(&s, &one, "k differs by token class (cls 4, register 4, patch 2)");
    s = settings_of("batch_topk", 0);
    s.k = (rf_k_by_class){.any = 3, .of = {4, 0, 2}};
    check_refused(&s, &one, "(cls 4, register 3, patch 2), so that each has a threshold");
    s = settings_of("matryoshka", 0);
    s.k = (rf_k_by_class){.of = {4, 4, 4}}; /* each shares its own all the same */
    check_refused(&s, &one, "so that each has a threshold of its own");
}

static int64_t written_k(const rf_coder_settings *settings)
{
    char out_dir[RF_PATH_LEN], path[RF_PATH_LEN];
    const rf_coder_shape one = rf_coder_shape_of(D);
    rf_coder *coder = NULL;
    rf_json *cfg = NULL;
    int64_t k = 0;
    ok(rf_coder_create(be, settings, &one, &coder));
    ok(rf_path_join(out_dir, folder, "k"));
    ok(rf_saelens_write(coder, stream, &origin, out_dir));
    ok(rf_path_join(path, out_dir, "cfg.json"));
    ok(rf_json_load(path, &cfg));
    ok(rf_json_get_i64(cfg, "k", NULL, &k));
    rf_json_free(cfg);
    rf_coder_destroy(coder);
    return k;
}

static void k_is_that_of_all_tokens_that_the_coder_sees(void **state)
{
    (void)state;
    rf_coder_settings s = settings_of("topk", 0);
    s.k = (rf_k_by_class){.of = {3, 3, 3}};
    assert_int_equal(written_k(&s), 3);
    s.k = (rf_k_by_class){.of = {9, 0, 2}};
    s.tokens = RF_TOKENS_PATCH;
    assert_int_equal(written_k(&s), 2);
    s = settings_of("matryoshka", 7);
    s.selection = RF_SELECTION_TOPK;
    assert_int_equal(written_k(&s), 7);
    s = settings_of("topk", F); /* all of them */
    assert_int_equal(written_k(&s), F);
}

static void heads_are_said_to_be_reshaped(void **state)
{
    (void)state;
    char out_dir[RF_PATH_LEN], path[RF_PATH_LEN];
    rf_exchange_origin z = {.hook_name = "blocks.3.attn.hook_z", .step = -1};
    rf_tensor_file *f = NULL;
    rf_json *cfg = NULL;
    ok(rf_tensor_file_open(GOLDEN, &f));
    rf_coder *coder = load_coder(f, &cases[0]);
    ok(rf_path_join(out_dir, folder, "z/deep/er"));
    ok(rf_saelens_write(coder, stream, &z, out_dir));
    ok(rf_path_join(path, out_dir, "cfg.json"));
    ok(rf_json_load(path, &cfg));
    check_text(cfg, "reshape_activations", "hook_z");
    assert_null(rf_json_find(cfg, "metadata.model_name"));
    assert_null(rf_json_find(cfg, "metadata.refract_step"));
    rf_json_free(cfg);
    rf_coder_destroy(coder);
    rf_tensor_file_close(f);
}

static void a_folder_that_cannot_be_made_is_an_error(void **state)
{
    (void)state;
    char file[RF_PATH_LEN], below[RF_PATH_LEN];
    rf_tensor_file *f = NULL;
    ok(rf_tensor_file_open(GOLDEN, &f));
    rf_coder *coder = load_coder(f, &cases[2]);
    ok(rf_path_join(file, folder, "file"));
    ok(rf_path_join(below, file, "sub"));
    ok(rf_file_write_atomic(file, "x", 1));
    assert_int_not_equal(rf_saelens_write(coder, stream, &origin, below), RF_OK);
    rf_coder_destroy(coder);
    rf_tensor_file_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_holds_what_sae_lens_was_given),
        cmocka_unit_test(codes_and_reconstructions_are_those_of_sae_lens),
        cmocka_unit_test(what_sae_lens_cannot_say_is_refused_with_the_reason),
        cmocka_unit_test(k_is_that_of_all_tokens_that_the_coder_sees),
        cmocka_unit_test(heads_are_said_to_be_reshaped),
        cmocka_unit_test(a_folder_that_cannot_be_made_is_an_error),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
