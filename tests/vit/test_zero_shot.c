/* Zero-shot classifiers against transformers; saved, reloaded, and read from Prisma's .npy. */
#include "refract/vit.h"
#include "vit_assert.h"

#include <stdint.h>
#include <stdlib.h>

#include <math.h>
#include <string.h>
#include <unistd.h>

#define FOLDER RF_GOLDEN_DIR "/zero_shot"

static char long_name[201];
static const char *const names[] = {"tench", "great white shark", "T-shirt", "caf\xC3\xA9",
                                    long_name};
enum { N_NAMES = sizeof names / sizeof *names, WIDTH = 12 };

static rf_backend *be;
static rf_stream *s;
static rf_vit *text;
static rf_tokenizer *tokenizer;
static rf_tensor_file *golden;

static int open_all(void **state)
{
    static const rf_vit_opts opts = {.tower = RF_TOWER_TEXT};
    (void)state;
    memset(long_name, 'x', sizeof long_name - 1);
    return rf_backend_cpu_create(2, &be) != RF_OK || rf_stream_create(be, &s) != RF_OK ||
           rf_vit_open(be, FOLDER "/model", &opts, &text) != RF_OK ||
           rf_tokenizer_open(FOLDER "/model", &tokenizer) != RF_OK ||
           rf_tensor_file_open(FOLDER "/zero_shot.safetensors", &golden) != RF_OK;
}

static int close_all(void **state)
{
    (void)state;
    rf_tensor_file_close(golden);
    rf_tokenizer_close(tokenizer);
    rf_vit_close(text);
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    return 0;
}

static float *read_golden(const char *name)
{
    const rf_named_tensor *t = rf_tensor_file_find(golden, name);
    float *out = rf_calloc(t->n_elems, sizeof *out);
    assert_ok(rf_named_tensor_read_f32(t, out));
    return out;
}

/* Unit vectors that a tower in fp32 and one in double made: 2e-5 as at every hook point. */
static void assert_classes_equal(const rf_zero_shot *z, const char *name)
{
    float *want = read_golden(name);
    assert_int_equal(z->n_classes, N_NAMES);
    assert_int_equal(z->d, WIDTH);
    for (int64_t i = 0; i < z->n_classes; i++) {
        double error = 0.0;
        for (int64_t j = 0; j < z->d; j++) {
            const double e = (double)z->weights[i * z->d + j] - (double)want[i * z->d + j];
            error += e * e;
        }
        if (!(sqrt(error) <= 2e-5)) {
            fail_msg("%s, class %d: error %g", name, (int)i, sqrt(error));
        }
    }
    rf_free(want);
}

static void test_the_80_templates_give_the_classifier_of_transformers(void **state)
{
    rf_zero_shot z;
    (void)state;
    assert_ok(rf_zero_shot_build(text, s, tokenizer, names, N_NAMES, NULL, 0, &z));
    assert_classes_equal(&z, "all80");
    rf_zero_shot_fini(&z);
}

static void test_templates_of_ones_own(void **state)
{
    static const char *const own[] = {"{}", "a very {} thing, indeed"};
    static const char *const bad[] = {"no hole"};
    rf_zero_shot z;
    (void)state;
    assert_ok(rf_zero_shot_build(text, s, tokenizer, names, N_NAMES, own, 2, &z));
    assert_classes_equal(&z, "own");
    rf_zero_shot_fini(&z);
    assert_int_equal(rf_zero_shot_build(text, s, tokenizer, names, N_NAMES, bad, 1, &z),
                     RF_ERR_INVALID_ARG);
    assert_non_null(strstr(rf_error_text(), "no hole"));
    assert_int_equal(rf_zero_shot_build(text, s, tokenizer, names, 0, own, 2, &z),
                     RF_ERR_INVALID_ARG);
}

static void test_a_saved_classifier_comes_back_bit_for_bit(void **state)
{
    char path[] = "/tmp/rf-zero-shot-XXXXXX";
    static const char *const own[] = {"{}"};
    rf_zero_shot z, back;
    (void)state;
    close(mkstemp(path));
    assert_ok(rf_zero_shot_build(text, s, tokenizer, names, N_NAMES, own, 1, &z));
    assert_ok(rf_zero_shot_save(&z, path));
    assert_ok(rf_zero_shot_load(path, &back));
    assert_int_equal(back.n_classes, z.n_classes);
    assert_memory_equal(back.weights, z.weights, (size_t)(z.n_classes * z.d) * sizeof(float));
    for (int64_t i = 0; i < z.n_classes; i++) {
        assert_string_equal(back.names[i], names[i]);
    }
    rf_zero_shot_fini(&back);
    rf_zero_shot_fini(&z);
    unlink(path);
}

static void test_prismas_file_is_read_column_by_column(void **state)
{
    rf_zero_shot z;
    (void)state;
    assert_ok(rf_zero_shot_load(FOLDER "/prisma.npy", &z));
    assert_classes_equal(&z, "all80");
    rf_zero_shot_fini(&z);
}

static void test_logits_are_scaled_cosines(void **state)
{
    rf_zero_shot z;
    float got[3 * N_NAMES], *pictures = read_golden("pictures"), *want = read_golden("logits");
    (void)state;
    assert_ok(rf_zero_shot_load(FOLDER "/prisma.npy", &z));
    assert_ok(rf_zero_shot_logits(&z, pictures, 3, 100.0F, got));
    for (int i = 0; i < 3 * N_NAMES; i++) {
        assert_true(fabsf(got[i] - want[i]) <= 1e-4F); /* of 100, both rounded to fp32 */
    }
    rf_zero_shot_fini(&z);
    rf_free(pictures);
    rf_free(want);
}

static void test_other_files_and_towers_are_refused(void **state)
{
    rf_zero_shot z;
    rf_vit *vision = NULL;
    (void)state;
    assert_int_equal(rf_zero_shot_load(FOLDER "/nothing.npy", &z), RF_ERR_NOT_FOUND);
    assert_int_equal(rf_zero_shot_load(FOLDER "/zero_shot.safetensors", &z), RF_ERR_FORMAT);
    assert_non_null(strstr(rf_error_text(), "classifier"));
    assert_int_not_equal(rf_zero_shot_load(FOLDER "/model/config.json", &z), RF_OK);
    assert_ok(rf_vit_open(be, FOLDER "/model", NULL, &vision));
    assert_int_equal(rf_zero_shot_build(vision, s, tokenizer, names, 1, NULL, 0, &z),
                     RF_ERR_INVALID_ARG);
    rf_vit_close(vision);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_80_templates_give_the_classifier_of_transformers),
        cmocka_unit_test(test_templates_of_ones_own),
        cmocka_unit_test(test_a_saved_classifier_comes_back_bit_for_bit),
        cmocka_unit_test(test_prismas_file_is_read_column_by_column),
        cmocka_unit_test(test_logits_are_scaled_cosines),
        cmocka_unit_test(test_other_files_and_towers_are_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
