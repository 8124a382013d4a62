/* Cross entropy by a zero-shot classifier: against transformers, and against plain loops. */
#include <math.h>

#include "eval/tiny.h"

/* The CLIP of tests/golden/zero_shot is as wide as the tiny model, and made for its pictures. */
enum { N_PICTURES = 12, N_CLASSES = 5, D_OUT = 12 };
#define GOLDEN RF_GOLDEN_DIR "/zero_shot"

static rf_comm *world;
static tiny clip;
static rf_tensor_file *golden;
static char long_name[201];
static const char *const names[N_CLASSES] = {"tench", "great_white_shark", "t-shirt", "caf\xC3\xA9",
                                             long_name}; /* as folders */
static char classifier_path[RF_PATH_LEN];

static void read_golden(const char *name, int64_t n, float *out)
{
    const rf_named_tensor *t = rf_tensor_file_find(golden, name);
    assert_non_null(t);
    assert_int_equal(t->n_elems, n);
    TINY_OK(rf_named_tensor_read_f32(t, out));
}

static double golden_number(const char *name)
{
    float x = 0;
    read_golden(name, 1, &x);
    return (double)x;
}

/* Picture p in the folder of class p mod 5, as the golden file's labels say. */
static void write_pictures(void)
{
    const rf_named_tensor *t = rf_tensor_file_find(golden, "rgb");
    const int64_t n = TINY_SIDE * TINY_SIDE * 3;
    char sub[RF_PATH_LEN], name[RF_NAME_LEN], path[RF_PATH_LEN];
    uint8_t rgb[TINY_SIDE * TINY_SIDE * 3];

    assert_int_equal(t->n_bytes, N_PICTURES * n);
    for (int i = 0; i < N_PICTURES; i++) {
        const rf_picture picture = {.height = TINY_SIDE, .width = TINY_SIDE, .rgb = rgb};
        memcpy(rgb, t->bytes + i * n, (size_t)n);
        TINY_OK(rf_path_join(sub, clip.data, names[i % N_CLASSES]));
        TINY_OK(rf_file_make_dirs(sub));
        TINY_OK(rf_format(name, sizeof name, "p%02d.png", i));
        TINY_OK(rf_path_join(path, sub, name));
        TINY_OK(rf_picture_write_png(path, &picture));
    }
}

/* What `refract zero-shot` writes, of the vectors that transformers made. */
static void write_classifier(void)
{
    rf_tensor_file *file = NULL;
    char tench[] = "tench", shark[] = "great white shark", shirt[] = "T-shirt",
         cafe[] = "caf\xC3\xA9";
    char *own[N_CLASSES] = {tench, shark, shirt, cafe, long_name};
    float weights[N_CLASSES * D_OUT];
    const rf_zero_shot z = {.n_classes = N_CLASSES, .d = D_OUT, .weights = weights, .names = own};

    TINY_OK(rf_tensor_file_open(GOLDEN "/zero_shot.safetensors", &file));
    TINY_OK(rf_named_tensor_read_f32(rf_tensor_file_find(file, "all80"), weights));
    rf_tensor_file_close(file);
    TINY_OK(rf_path_join(classifier_path, clip.folder, "classes.safetensors"));
    TINY_OK(rf_zero_shot_save(&z, classifier_path));
}

static int set_up(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    char command[2 * RF_PATH_LEN];

    memset(long_name, 'x', sizeof long_name - 1);
    TINY_OK(rf_tensor_file_open(RF_GOLDEN_DIR "/clip_ce.safetensors", &golden));
    TINY_OK(rf_format(clip.folder, sizeof clip.folder, "%s/refract-eval-XXXXXX",
                      base != NULL ? base : "/tmp"));
    assert_non_null(mkdtemp(clip.folder));
    TINY_OK(rf_path_join(clip.model, clip.folder, "model"));
    TINY_OK(rf_path_join(clip.data, clip.folder, "pictures"));
    TINY_OK(rf_format(command, sizeof command, "cp -r '%s' '%s'", GOLDEN "/model", clip.model));
    assert_int_equal(system(command), 0);
    tiny_write_text(clip.model, "preprocessor_config.json",
                    "{\"image_processor_type\": \"CLIPImageProcessor\", \"size\": 8,"
                    " \"crop_size\": 8, \"image_mean\": [0.5, 0.5, 0.5],"
                    " \"image_std\": [0.5, 0.5, 0.5]}");
    write_pictures();
    write_classifier();
    tiny_open(&clip, 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    tiny_close(&clip);
    tiny_remove(&clip);
    rf_tensor_file_close(golden);
    return 0;
}

static void put(const rf_coder *coder, int idx, const float *x)
{
    const rf_view view = rf_coder_view(coder, idx);
    TINY_OK(rf_copy_in(clip.stream, view.data, x, (size_t)rf_view_n_elems(&view) * sizeof *x));
    TINY_OK(rf_stream_synchronise(clip.stream));
}

/* x_hat is x in its first `n_kept` channels and 0 in the others, to the last bit: latents j and
 * D + j have the positive and the negative part of channel j. */
static rf_coder *keeping(int n_kept)
{
    const rf_coder_settings settings = tiny_settings("relu", 2 * TINY_D, 0);
    const rf_coder_shape shape = rf_coder_shape_of(TINY_D);
    float enc[2 * TINY_D * TINY_D] = {0}, dec[2 * TINY_D * TINY_D] = {0}, zeros[2 * TINY_D] = {0};
    rf_coder *coder = NULL;

    for (int j = 0; j < TINY_D; j++) {
        enc[j * TINY_D + j] = 1;
        enc[(TINY_D + j) * TINY_D + j] = -1;
        dec[j * TINY_D + j] = j < n_kept ? 1 : 0;
        dec[(TINY_D + j) * TINY_D + j] = j < n_kept ? -1 : 0;
    }
    TINY_OK(rf_coder_create(clip.be, &settings, &shape, &coder));
    put(coder, RF_CODER_W_ENC, enc);
    put(coder, RF_CODER_W_DEC, dec);
    put(coder, RF_CODER_B_ENC, zeros);
    put(coder, RF_CODER_B_DEC, zeros);
    return coder;
}

/* The figures of a coder that keeps all and of one that keeps half, with logits x `scale`. */
static void measure(double scale, rf_substitution_figures out[2])
{
    rf_eval_classifier classifier;
    rf_eval_coder coders[2];
    rf_eval_model model = tiny_model(&clip);
    rf_split_figures split;
    int64_t *classes = NULL;
    rf_str reason = {0};
    const char *how = NULL;

    coders[0] =
        tiny_eval_coder(&clip, "all", "blocks.0.hook_resid_post", RF_TOKENS_ALL, keeping(TINY_D));
    coders[1] = tiny_eval_coder(&clip, "front", "blocks.0.hook_resid_post", RF_TOKENS_ALL,
                                keeping(TINY_D / 2));
    TINY_OK(rf_eval_classifier_load(classifier_path, D_OUT, scale, &classifier));
    TINY_OK(rf_eval_match_classes(clip.vit, &classifier, clip.pictures, &classes, &how, &reason));
    assert_non_null(classes);
    model.classifier = &classifier;
    model.classes = classes;
    const rf_eval_job job = {.comm = world,
                             .models = &model,
                             .n_models = 1,
                             .stream = clip.stream,
                             .pictures = clip.pictures,
                             .coders = coders,
                             .n_coders = 2,
                             .settings = {.micro_batch = 5, .substitution = true}};
    TINY_OK(rf_eval_measure(&job, RF_SPLIT_ALL, &split));
    assert_int_equal(split.split, RF_SPLIT_HELD_OUT);
    assert_int_equal(split.n_pictures, N_PICTURES);
    for (int i = 0; i < 2; i++) {
        out[i] = split.coders[i].substitution;
        tiny_eval_coder_fini(&coders[i]);
    }
    rf_split_figures_fini(&split);
    rf_eval_classifier_fini(&classifier);
    rf_free(classes);
}

/* 2e-5: of embeddings in fp32 against double, as at every hook point; `scale` multiplies it. */
static void assert_near(const char *what, double got, double expected, double scale)
{
    if (!(fabs(got - expected) <= 2e-5 * scale)) {
        fail_msg("%s is %.9g, expected %.9g", what, got, expected);
    }
}

static void it_is_that_of_transformers_untouched_spliced_and_with_zeros(void **state)
{
    (void)state;
    rf_substitution_figures f[2];
    double scale = 0;

    TINY_OK(rf_zero_shot_read_scale(clip.model, NULL, &scale));
    assert_near("logit scale", scale, golden_number("logit_scale"), 1e-2);
    measure(scale, f);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(f[i].n_labelled, N_PICTURES);
        assert_near("ce", f[i].ce, golden_number("untouched_ce"), scale);
        assert_near("ce zero", f[i].ce_zero, golden_number("zero_ce"), scale);
        assert_near("accuracy", f[i].accuracy, 100 * golden_number("untouched_right") / N_PICTURES,
                    1);
        assert_near("accuracy zero", f[i].accuracy_zero,
                    100 * golden_number("zero_right") / N_PICTURES, 1);
    }
    assert_near("ce spliced", f[1].ce_spliced, golden_number("front_ce"), scale);
    assert_near("accuracy spliced", f[1].accuracy_spliced,
                100 * golden_number("front_right") / N_PICTURES, 1);
}

/* Mean cross entropy of the golden cosines times `scale`. */
static double plain_loops(const char *name, double scale)
{
    float cosines[N_PICTURES * N_CLASSES];
    double ce = 0;
    read_golden(name, N_PICTURES * N_CLASSES, cosines);
    for (int p = 0; p < N_PICTURES; p++) {
        const float *row = cosines + (int64_t)p * N_CLASSES;
        double sum = 0;
        for (int c = 0; c < N_CLASSES; c++) {
            sum += exp(scale * ((double)row[c] - (double)row[p % N_CLASSES]));
        }
        ce += log(sum) / N_PICTURES;
    }
    return ce;
}

static void logits_are_cosines_times_the_scale(void **state)
{
    (void)state;
    static const double scales[] = {1, 100};
    rf_substitution_figures f[2];
    for (int i = 0; i < 2; i++) {
        measure(scales[i], f);
        assert_near("ce", f[1].ce, plain_loops("untouched_cosines", scales[i]), scales[i]);
        assert_near("ce spliced", f[1].ce_spliced, plain_loops("front_cosines", scales[i]),
                    scales[i]);
        assert_near("ce zero", f[1].ce_zero, plain_loops("zero_cosines", scales[i]), scales[i]);
    }
}

static void a_perfect_reconstruction_has_the_untouched_models(void **state)
{
    (void)state;
    rf_substitution_figures f[2];
    measure(100, f);
    assert_true(f[0].ce_spliced == f[0].ce); /* the same bits were spliced in */
    assert_true(f[0].accuracy_spliced == f[0].accuracy);
    assert_true(f[0].ce_recovered == 100);
    assert_true(f[1].ce_spliced != f[1].ce);
}

/* ---- files ------------------------------------------------------------------------------------
 */

static void assert_refused(const rf_zero_shot *z, rf_status status, const char *says)
{
    char path[RF_PATH_LEN];
    rf_eval_classifier out;
    TINY_OK(rf_path_join(path, clip.folder, "bad.safetensors"));
    TINY_OK(rf_zero_shot_save(z, path));
    assert_int_equal(rf_eval_classifier_load(path, D_OUT, 1, &out), status);
    if (strstr(rf_error_text(), says) == NULL) {
        fail_msg("'%s' is not in '%s'", says, rf_error_text());
    }
    assert_null(out.classes.weights);
}

static void classifiers_that_are_none_are_refused(void **state)
{
    (void)state;
    float w[2 * (D_OUT + 1)] = {0};
    char path[RF_PATH_LEN];
    rf_eval_classifier out;

    w[3] = w[D_OUT + 4] = 1;
    rf_zero_shot z = {.n_classes = 2, .d = D_OUT, .weights = w};
    TINY_OK(rf_path_join(path, clip.folder, "good.safetensors"));
    TINY_OK(rf_zero_shot_save(&z, path));
    TINY_OK(rf_eval_classifier_load(path, D_OUT, 1, &out)); /* what follows is refused for itself */
    rf_eval_classifier_fini(&out);
    z.d = D_OUT + 1;
    assert_refused(&z, RF_ERR_SETTING, "is of width 13");
    z.d = D_OUT;
    w[D_OUT + 4] = 0;
    assert_refused(&z, RF_ERR_FORMAT, "class 1 has the norm 0");
    w[D_OUT + 4] = NAN;
    assert_refused(&z, RF_ERR_FORMAT, "class 1 has the norm");
    w[D_OUT + 4] = INFINITY;
    assert_refused(&z, RF_ERR_FORMAT, "class 1 has the norm");
    w[D_OUT + 4] = 7;
    assert_refused(&z, RF_ERR_FORMAT, "class 1 has the norm 7");
    z.n_classes = 0;
    assert_refused(&z, RF_ERR_FORMAT, "not a zero-shot classifier");
    tiny_write_text(clip.folder, "text.safetensors", "cat\ndog\n");
    TINY_OK(rf_path_join(path, clip.folder, "text.safetensors"));
    assert_true(rf_eval_classifier_load(path, D_OUT, 1, &out) != RF_OK);
    assert_int_equal(rf_eval_classifier_load("/nowhere.safetensors", D_OUT, 1, &out),
                     RF_ERR_NOT_FOUND);
}

static void a_model_without_a_logit_scale_is_told_apart(void **state)
{
    (void)state;
    char folder[RF_PATH_LEN];
    double scale = 0;
    TINY_OK(rf_path_join(folder, clip.folder, "vit"));
    tiny_write_model(folder, 0);
    assert_int_equal(rf_zero_shot_read_scale(folder, NULL, &scale), RF_ERR_NOT_FOUND);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_that_of_transformers_untouched_spliced_and_with_zeros),
        cmocka_unit_test(logits_are_cosines_times_the_scale),
        cmocka_unit_test(a_perfect_reconstruction_has_the_untouched_models),
        cmocka_unit_test(classifiers_that_are_none_are_refused),
        cmocka_unit_test(a_model_without_a_logit_scale_is_told_apart),
    };
    if (rf_comm_start(&argc, &argv, &world) != RF_OK) {
        return 1;
    }
    const int n_failed = cmocka_run_group_tests(tests, set_up, tear_down);
    rf_comm_finish(world);
    return n_failed;
}
