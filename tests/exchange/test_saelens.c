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

enum { D = 24, F = 100, N = 40, K = 5 };

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

static rf_coder *load_coder(const rf_tensor_file *f, const char *name)
{
    static const char *const keys[] = {"W_enc", "b_enc", "W_dec", "b_dec"};
    rf_coder_settings settings;
    rf_coder *coder = NULL;
    ok(rf_settings_defaults(&rf_coder_settings_table, &settings));
    for (int i = 0; i < rf_architecture_count(); i++) {
        if (strcmp(rf_architecture_at(i)->name, name) == 0) {
            settings.architecture = i;
        }
    }
    ok(rf_format(settings.name, sizeof settings.name, "a \"quoted\" coder"));
    settings.latents = F;
    settings.k = strcmp(name, "topk") == 0 ? K : 0;
    ok(rf_coder_create(be, &settings, D, &coder));
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        const rf_view view = rf_coder_view(coder, i);
        const int64_t n = rf_view_n_elems(&view);
        float *x = golden(f, name, keys[i], n);
        ok(rf_copy_in(stream, view.data, x, (size_t)n * sizeof *x));
        ok(rf_stream_synchronise(stream));
        rf_free(x);
    }
    return coder;
}

static const rf_exchange_origin origin = {.model_name = "facebook/dinov2-small",
                                          .hook_name = "blocks.8.hook_resid_post",
                                          .pictures_path = "a \\ path",
                                          .n_positions = 257,
                                          .image_size = 224,
                                          .step = 12,
                                          .model_hash = UINT64_C(0x0123456789abcdef)};

/* Every tensor of the written file holds what the golden one does; W_enc transposed. */
static void check_weights(const rf_tensor_file *f, const char *name, const char *out_dir)
{
    char path[RF_PATH_LEN];
    rf_tensor_file *written = NULL;
    static const struct {
        const char *key;
        int64_t rows, cols;
    } rows[] = {{"W_enc", D, F}, {"W_dec", F, D}, {"b_enc", 1, F}, {"b_dec", 1, D}};

    ok(rf_path_join(path, out_dir, "sae_weights.safetensors"));
    ok(rf_tensor_file_open(path, &written));
    assert_int_equal(rf_tensor_file_count(written), 4);
    for (int i = 0; i < 4; i++) {
        const int64_t n = rows[i].rows * rows[i].cols;
        float *expected = golden(f, name, rows[i].key, n), *got = rf_calloc(n, sizeof *got);
        const rf_named_tensor *t = rf_tensor_file_find(written, rows[i].key);
        assert_non_null(t);
        assert_int_equal(t->dtype, RF_FILE_F32);
        assert_int_equal(t->n_dims, rows[i].rows == 1 ? 1 : 2);
        assert_int_equal(t->shape[0], rows[i].rows == 1 ? n : rows[i].rows);
        ok(rf_named_tensor_read_f32(t, got));
        for (int64_t k = 0; k < n; k++) {
            const int64_t at = i == 0 ? k % F * D + k / F : k; /* ours: one latent a row */
            assert_true(got[k] == expected[at]);
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

static void check_cfg(const char *name, const char *out_dir)
{
    char path[RF_PATH_LEN];
    rf_json *cfg = NULL;
    int64_t d_in = 0, d_sae = 0, k = 0;
    const int64_t none = -1;
    bool subtracts = false;

    ok(rf_path_join(path, out_dir, "cfg.json"));
    ok(rf_json_load(path, &cfg));
    check_text(cfg, "architecture", strcmp(name, "topk") == 0 ? "topk" : "standard");
    check_text(cfg, "dtype", "float32");
    check_text(cfg, "normalize_activations", "none");
    check_text(cfg, "reshape_activations", "none");
    check_text(cfg, "metadata.model_name", origin.model_name);
    check_text(cfg, "metadata.hook_name", origin.hook_name);
    check_text(cfg, "metadata.dataset_path", origin.pictures_path);
    check_text(cfg, "metadata.refract_coder", "a \"quoted\" coder");
    check_text(cfg, "metadata.refract_tokens", "all");
    check_text(cfg, "metadata.refract_model_hash", "0123456789abcdef");
    assert_null(rf_json_find(cfg, "metadata.refract_pictures_hash"));
    ok(rf_json_get_i64(cfg, "d_in", NULL, &d_in));
    ok(rf_json_get_i64(cfg, "d_sae", NULL, &d_sae));
    ok(rf_json_get_i64(cfg, "k", &none, &k));
    ok(rf_json_get_bool(cfg, "apply_b_dec_to_input", NULL, &subtracts));
    assert_int_equal(d_in, D);
    assert_int_equal(d_sae, F);
    assert_int_equal(k, strcmp(name, "topk") == 0 ? K : none);
    assert_true(subtracts);
    rf_json_free(cfg);
}

static void a_folder_holds_what_sae_lens_was_given(void **state)
{
    (void)state;
    static const char *const names[] = {"topk", "relu"};
    rf_tensor_file *f = NULL;
    ok(rf_tensor_file_open(GOLDEN, &f));
    for (int i = 0; i < 2; i++) {
        char out_dir[RF_PATH_LEN];
        rf_coder *coder = load_coder(f, names[i]);
        ok(rf_path_join(out_dir, folder, names[i]));
        ok(rf_saelens_write(coder, stream, &origin, out_dir));
        check_weights(f, names[i], out_dir);
        check_cfg(names[i], out_dir);
        rf_coder_destroy(coder);
    }
    rf_tensor_file_close(f);
}

/* |x - b_dec| of a row: what the golden values were agreed to be within 1e-6 of. */
static double scale_of(const float *x, const float *b_dec)
{
    double sum = 0;
    for (int j = 0; j < D; j++) {
        sum += pow((double)x[j] - (double)b_dec[j], 2);
    }
    return sqrt(sum);
}

static void check_codes(const rf_codes *codes, const float *x, const float *b_dec,
                        const float *expected)
{
    for (int64_t b = 0; b < N; b++) {
        float dense[F] = {0};
        for (int64_t e = codes->row_start[b]; e < codes->row_start[b + 1]; e++) {
            dense[codes->latent[e]] = codes->value[e];
        }
        for (int64_t i = 0; i < F; i++) {
            /* no row has its threshold nearer than 1e-4: the same latents, not one swapped */
            assert_int_equal(dense[i] > 0, expected[b * F + i] > 0);
            assert_true(fabs((double)dense[i] - (double)expected[b * F + i]) <=
                        1e-6 * scale_of(x + b * D, b_dec));
        }
    }
}

static void codes_and_reconstructions_are_those_of_sae_lens(void **state)
{
    (void)state;
    static const char *const names[] = {"topk", "relu"};
    rf_tensor_file *f = NULL;
    ok(rf_tensor_file_open(GOLDEN, &f));
    for (int i = 0; i < 2; i++) {
        rf_coder *coder = load_coder(f, names[i]);
        float *x = golden(f, names[i], "x", N * D), *codes = golden(f, names[i], "codes", N * F);
        float *expected = golden(f, names[i], "x_hat", N * D);
        float *b_dec = golden(f, names[i], "b_dec", D);
        void *device = NULL;
        rf_codes got;
        /* the CPU's device memory can be read */
        ok(rf_memory_alloc(be, RF_MEMORY_DEVICE, 3 * N * D * sizeof(float), &device));
        const rf_view in = rf_view_2d(device, N, D);
        const rf_view work = rf_view_2d((float *)device + N * D, N, D);
        const rf_view x_hat = rf_view_2d((float *)device + 2 * N * D, N, D);
        ok(rf_copy_in(stream, device, x, N * D * sizeof *x));
        ok(rf_codes_create(be, N, N * F, &got));
        ok(rf_coder_encode(coder, stream, &in, NULL, &work, &got));
        ok(rf_coder_reconstruct(coder, stream, &in, NULL, &x_hat, NULL));
        ok(rf_stream_synchronise(stream));
        check_codes(&got, x, b_dec, codes);
        for (int64_t k = 0; k < N * D; k++) {
            /* a sum of up to F products of fp32 each within the bound of the values */
            assert_true(fabs((double)((float *)x_hat.data)[k] - (double)expected[k]) <=
                        1e-5 * scale_of(x + k / D * D, b_dec));
        }
        rf_codes_destroy(be, &got);
        rf_memory_free(be, RF_MEMORY_DEVICE, device);
        rf_free(x);
        rf_free(codes);
        rf_free(expected);
        rf_free(b_dec);
        rf_coder_destroy(coder);
    }
    rf_tensor_file_close(f);
}

static void heads_are_said_to_be_reshaped(void **state)
{
    (void)state;
    char out_dir[RF_PATH_LEN], path[RF_PATH_LEN];
    rf_exchange_origin z = {.hook_name = "blocks.3.attn.hook_z", .step = -1};
    rf_tensor_file *f = NULL;
    rf_json *cfg = NULL;
    ok(rf_tensor_file_open(GOLDEN, &f));
    rf_coder *coder = load_coder(f, "topk");
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
    rf_coder *coder = load_coder(f, "relu");
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
        cmocka_unit_test(heads_are_said_to_be_reshaped),
        cmocka_unit_test(a_folder_that_cannot_be_made_is_an_error),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
