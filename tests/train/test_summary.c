/* coder.safetensors: what use of a coder needs, in the form it is used in, and what it is of. */
#include "../../src/train/run_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)

typedef struct bench {
    char path[RF_PATH_LEN];
    rf_backend *be;
    rf_stream *s;
    rf_coder_spec spec;
    rf_coder *coder;
    rf_tensor_file *file;
} bench;

static int setup(void **state)
{
    bench *b = rf_calloc(1, sizeof *b);
    const char *temp = getenv("TMPDIR");
    OK(rf_format(b->path, sizeof b->path, "%s/rf_summary_XXXXXX", temp != NULL ? temp : "/tmp"));
    int fd = mkstemp(b->path);
    assert_true(fd >= 0);
    close(fd);
    OK(rf_backend_cpu_create(1, &b->be));
    OK(rf_stream_create(b->be, &b->s));
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    bench *b = *state;
    rf_tensor_file_close(b->file);
    rf_coder_destroy(b->coder);
    rf_stream_destroy(b->s);
    rf_backend_destroy(b->be);
    unlink(b->path);
    rf_free(b);
    return 0;
}

/* A coder whose tensors hold 0, 1/8, 2/8, ... */
static void make(bench *b, const char *text, const rf_coder_shape *shape)
{
    rf_yaml *map = NULL;
    OK(rf_yaml_parse(text, (int64_t)strlen(text), "test", &map));
    OK(rf_settings_defaults(&rf_coder_settings_table, &b->spec.coder));
    OK(rf_settings_defaults(&rf_train_settings_table, &b->spec.train));
    OK(rf_settings_read(&rf_coder_settings_table, map, "coder", NULL, &b->spec.coder, NULL));
    rf_yaml_free(map);
    rf_coder_destroy(b->coder);
    OK(rf_coder_create(b->be, &b->spec.coder, shape, &b->coder));
    for (int t = 0; t < rf_coder_n_tensors(b->coder); t++) {
        const rf_view v = rf_coder_view(b->coder, t);
        for (int64_t i = 0; v.data != NULL && v.dtype == RF_F32 && i < rf_view_n_elems(&v); i++) {
            ((float *)v.data)[i] = (float)i / 8;
        }
    }
}

static void file_coder(bench *b)
{
    const rf_coder_origin origin = {.model_hash = 0xabc, .picture_hash = 0xdef};
    OK(rf_summary_write_coder(b->path, b->s, b->coder, &b->spec, &origin));
    rf_tensor_file_close(b->file);
    b->file = NULL;
    OK(rf_tensor_file_open(b->path, &b->file));
}

static void assert_metadata(const bench *b, const char *key, const char *expected)
{
    const char *value = rf_tensor_file_metadata(b->file, key);
    assert_non_null(value);
    assert_string_equal(value, expected);
}

static float at(const bench *b, const char *name, int64_t i)
{
    const rf_named_tensor *t = rf_tensor_file_find(b->file, name);
    float values[4096];
    assert_non_null(t);
    assert_true(i < t->n_elems && t->n_elems <= 4096);
    OK(rf_named_tensor_read_f32(t, values));
    return values[i];
}

static void test_every_tensor_that_use_needs_is_filed(void **state)
{
    bench *b = *state;
    const rf_coder_shape shape = rf_coder_shape_of(6);
    for (int a = 0; a < rf_architecture_count(); a++) {
        char text[160];
        OK(rf_format(text, sizeof text,
                     "{name: c, input: a, architecture: %s, latents: 8, k: 2, n_prefixes: 2, "
                     "normalise: average}",
                     rf_architecture_at(a)->name));
        make(b, text, &shape);
        file_coder(b);
        int64_t n = 0;
        for (int t = 0; t < rf_coder_n_tensors(b->coder); t++) {
            const rf_coder_tensor tensor = rf_coder_tensor_at(b->coder, t);
            const rf_named_tensor *filed = rf_tensor_file_find(b->file, tensor.name);
            const bool wanted = tensor.view.data != NULL && t != RF_CODER_LOG_THRESHOLD &&
                                t != RF_CODER_SCALARS && t != RF_CODER_COUNTERS &&
                                t != RF_CODER_TOKENS_SINCE_FIRED;
            assert_int_equal(wanted, filed != NULL);
            if (wanted) {
                assert_memory_equal(filed->bytes, tensor.view.data, (size_t)filed->n_bytes);
                assert_int_equal(filed->n_dims, tensor.view.n_dims);
                n++;
            }
        }
        const bool has_threshold = rf_tensor_file_find(b->file, "threshold") != NULL;
        assert_int_equal(rf_tensor_file_count(b->file), n + has_threshold);
        assert_metadata(b, "architecture", rf_architecture_at(a)->name);
        assert_metadata(b, "format_version", "2");
    }
}

static void test_thresholds_are_filed_as_they_are_used(void **state)
{
    bench *b = *state;
    const rf_coder_shape shape = rf_coder_shape_of(6);
    rf_coder_state scalars = {0};

    make(b, "{name: c, input: a, architecture: jumprelu, latents: 8}", &shape);
    file_coder(b);
    for (int64_t i = 0; i < 8; i++) {
        assert_true(at(b, "threshold", i) == expf((float)i / 8));
    }
    make(b, "{name: c, input: a, architecture: batch_topk, latents: 8, k: 2}", &shape);
    scalars.scalars[RF_SCALAR_THRESHOLD] = 0.3f;
    scalars.scalars[RF_SCALAR_THRESHOLD_MASS] = 0.1f; /* a young mean, that began at 0 */
    OK(rf_coder_set_state(b->coder, b->s, &scalars));
    file_coder(b);
    assert_int_equal(rf_tensor_file_find(b->file, "threshold")->n_elems, 1);
    assert_true(at(b, "threshold", 0) == 0.3f / 0.1f);
    scalars.scalars[RF_SCALAR_THRESHOLD_MASS] = 0; /* no step yet */
    OK(rf_coder_set_state(b->coder, b->s, &scalars));
    file_coder(b);
    assert_true(at(b, "threshold", 0) == 0);
    make(b,
         "{name: c, input: a, architecture: batch_topk, latents: 8, k: {cls: 3, register: 2, "
         "patch: 1}}",
         &shape);
    scalars.scalars[RF_SCALAR_THRESHOLD_MASS] = 0.1f;
    scalars.class_thresholds[0][0] = 0.25f;
    scalars.class_thresholds[0][1] = 0.5f;
    scalars.class_thresholds[2][0] = 0.75f;
    scalars.class_thresholds[2][1] = 0.25f;
    OK(rf_coder_set_state(b->coder, b->s, &scalars));
    file_coder(b);
    assert_int_equal(rf_tensor_file_find(b->file, "threshold")->n_elems, 3);
    assert_true(at(b, "threshold", 0) == 0.5f);
    assert_true(at(b, "threshold", 1) == 0.3f / 0.1f); /* no register yet: that of all */
    assert_true(at(b, "threshold", 2) == 3.0f);
    make(b, "{name: c, input: a, architecture: topk, latents: 8, k: 2}", &shape);
    file_coder(b);
    assert_null(rf_tensor_file_find(b->file, "threshold"));
}

static void test_sites_and_settings_stand_in_the_metadata(void **state)
{
    bench *b = *state;
    const rf_coder_shape transcoder = {.n_in = 1, .n_out = 1, .in = {6}, .out = {4}};
    const rf_coder_shape crosscoder = {.n_in = 2, .in = {6, 5}};

    make(b,
         "{name: t, input: blocks.0.x, target: blocks.0.y, architecture: topk, latents: 8, k: 2, "
         "w_enc: independent}",
         &transcoder);
    file_coder(b);
    assert_metadata(b, "input", "blocks.0.x");
    assert_metadata(b, "target", "blocks.0.y");
    assert_metadata(b, "input_widths", "6");
    assert_metadata(b, "target_widths", "4");
    assert_metadata(b, "subtracts_b_dec", "false");
    assert_metadata(b, "model_hash", "0000000000000abc");
    assert_non_null(strstr(rf_tensor_file_metadata(b->file, "settings"), "w_enc: independent"));
    make(b, "{name: x, input: [a, b], architecture: topk, latents: 8, k: 2}", &crosscoder);
    file_coder(b);
    assert_metadata(b, "input", "a, b");
    assert_metadata(b, "input_widths", "6, 5");
    assert_null(rf_tensor_file_metadata(b->file, "target"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_tensor_that_use_needs_is_filed),
        TEST(test_thresholds_are_filed_as_they_are_used),
        TEST(test_sites_and_settings_stand_in_the_metadata),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
