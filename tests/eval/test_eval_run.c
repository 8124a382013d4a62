/* A run in its folder, evaluated: eval.json. */
#include <math.h>

#include "eval/tiny.h"

enum { N_CODERS = 4 };

static rf_comm *world;
static tiny model;
static char run_dir[RF_PATH_LEN];

/* A few steps of an autoencoder with and without k, a transcoder and a crosscoder. */
static void train(void)
{
    char yaml[4 * RF_PATH_LEN];
    rf_run_settings *settings = NULL;
    rf_train_report report;

    TINY_OK(rf_path_join(run_dir, model.folder, "run"));
    TINY_OK(rf_format(yaml, sizeof yaml,
                      "model: {path: %s}\n"
                      "data: {path: %s, holdout: 0.3, max_bad_share: 0.2}\n"
                      "coders:\n"
                      "  - {name: top, input: blocks.0.hook_resid_post, architecture: topk,\n"
                      "     latents: 48, k: 5}\n"
                      "  - {name: dense, input: blocks.1.hook_resid_post, architecture: relu,\n"
                      "     tokens: patch, latents: 32, l1: 0.01}\n"
                      "  - {name: mlp, input: blocks.0.hook_resid_mid,\n"
                      "     target: blocks.0.hook_mlp_out, skip: true, latents: 48, k: 5}\n"
                      "  - {name: cross, input: [blocks.0.hook_resid_post,\n"
                      "     blocks.1.hook_resid_post], architecture: batch_topk, latents: 48,\n"
                      "     k: 5, normalise: average}\n"
                      "train: {batch_tokens: 16, epochs: 2, lr: 1e-3, warmup_steps: 1,\n"
                      "        device: cpu, threads: 1}\n"
                      "output: {dir: %s}\n",
                      model.model, model.data, run_dir));
    TINY_OK(rf_run_settings_parse(yaml, "test", NULL, 0, &settings));
    TINY_OK(rf_train_run(world, settings, &report));
    rf_run_settings_free(settings);
}

static int set_up(void **state)
{
    (void)state;
    tiny_write(&model, tiny_labels, true);
    TINY_OK(rf_backend_cpu_create(1, &model.be));
    train();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rf_backend_destroy(model.be);
    tiny_remove(&model);
    return 0;
}

static rf_status evaluate_with(const rf_eval_settings *settings, rf_eval_report *report)
{
    rf_run *run = NULL;
    TINY_OK(rf_run_open(run_dir, NULL, 0, &run));
    const rf_status status = rf_eval_run(world, model.be, run, settings, report);
    rf_run_close(run);
    return status;
}

static void evaluate(rf_eval_report *report)
{
    rf_eval_settings settings;
    TINY_OK(rf_settings_defaults(&rf_eval_settings_table, &settings));
    TINY_OK(evaluate_with(&settings, report));
}

static double number_at(const rf_json *object, const char *key)
{
    const double none = (double)NAN;
    double value = 0;
    TINY_OK(rf_json_get_f64(object, key, &none, &value));
    return value;
}

/* The text from `from` on up to its matching bracket; the reader has no access to list items. */
static rf_json *parse_item(const char *from)
{
    rf_json *out = NULL;
    int64_t n = 0, depth = 0;
    do {
        depth += from[n] == '{';
        depth -= from[n] == '}';
        n++;
    } while (depth > 0);
    TINY_OK(rf_json_parse(from, n, "item", &out));
    return out;
}

/* Behind the coder that `at` lies in. */
static const char *end_of(const char *at)
{
    return strstr(at, "\"embedding\"");
}

static void check_coder(const char *text, const rf_coder_figures *figures)
{
    char key[RF_NAME_LEN + 16];
    TINY_OK(rf_format(key, sizeof key, "\"name\": \"%s\"", figures->name));
    const char *at = strstr(text, key);
    assert_non_null(at);
    while (*at != '{') {
        at--;
    }
    rf_json *coder = parse_item(at);
    assert_true(number_at(coder, "tokens.all.l0") == figures->by_class[RF_EVAL_ALL].l0);
    assert_true(number_at(coder, "tokens.patch.explained_variance") ==
                figures->by_class[RF_EVAL_PATCH].explained_variance);
    assert_true(number_at(coder, "tokens.patch.n_tokens") ==
                (double)figures->by_class[RF_EVAL_PATCH].n_tokens);
    assert_true(isnan(number_at(coder, "tokens.register.l0")));
    assert_true(number_at(coder, "embedding.cosine_spliced") ==
                figures->substitution.cosine_spliced);
    assert_true(number_at(coder, "classification.ce_zero") == figures->substitution.ce_zero);
    assert_true((strstr(at, "\"sites\": [") != NULL && strstr(at, "\"sites\": [") < end_of(at)) ==
                (figures->n_sites > 0));
    assert_true(number_at(coder, "alive_percent") ==
                100 * (double)figures->n_alive / (double)figures->n_latents);
    rf_json_free(coder);
}

static void eval_json_holds_every_figure_and_what_it_was_taken_on(void **state)
{
    (void)state;
    rf_eval_report report;
    rf_json *json = NULL;
    char *text = NULL;
    int64_t n_bytes = 0;
    const char *hash = NULL;
    char expected[64];

    evaluate(&report);
    assert_int_equal(report.splits[0].n_coders, N_CODERS);
    assert_int_equal(report.splits[0].n_pictures + report.splits[1].n_pictures, TINY_PICTURES);
    assert_true(report.splits[0].n_pictures > 0 && report.splits[1].n_pictures > 0);
    assert_int_equal(report.n_models, 1);
    assert_null(report.models[0].ce_reason);
    TINY_OK(rf_file_read(report.json_path, 1 << 20, &text, &n_bytes));
    TINY_OK(rf_json_parse(text, n_bytes, report.json_path, &json)); /* strict JSON */
    assert_true(number_at(json, "step") == (double)report.step);
    assert_non_null(rf_json_find(json, "formulas.explained_variance"));
    TINY_OK(rf_json_get_str(json, "settings_hash", NULL, &hash));
    assert_int_equal(strlen(hash), 16);
    TINY_OK(rf_format(expected, sizeof expected, "\"hash\": \"%016" PRIx64 "\"",
                      report.models[0].hash));
    assert_non_null(strstr(text, expected));
    assert_non_null(strstr(text, "\"substitution\": \"the target's tokens, made of the untouched"));
    for (int64_t c = 0; c < N_CODERS; c++) {
        const char *trained_on = strstr(text, "\"trained on\"");
        check_coder(text, &report.splits[0].coders[c]); /* held out comes first */
        check_coder(trained_on, &report.splits[1].coders[c]);
    }
    rf_json_free(json);
    rf_free(text);
    rf_eval_report_fini(&report);
}

static void evaluating_again_gives_the_same_file(void **state)
{
    (void)state;
    rf_eval_report report;
    char *first = NULL, *second = NULL;
    int64_t n_first = 0, n_second = 0;

    evaluate(&report);
    TINY_OK(rf_file_read(report.json_path, 1 << 20, &first, &n_first));
    rf_eval_report_fini(&report);
    evaluate(&report);
    TINY_OK(rf_file_read(report.json_path, 1 << 20, &second, &n_second));
    rf_eval_report_fini(&report);
    assert_int_equal(n_first, n_second);
    assert_memory_equal(first, second, (size_t)n_first);
    rf_free(first);
    rf_free(second);
}

/* Pictures gone since: an error that names their folder, and the old eval.json stays. */
static void a_failure_leaves_what_was_written_before(void **state)
{
    (void)state;
    char moved[RF_PATH_LEN], *text = NULL;
    int64_t n_bytes = 0;
    rf_eval_report report;
    rf_run *run = NULL;
    rf_eval_settings settings;

    evaluate(&report);
    TINY_OK(rf_settings_defaults(&rf_eval_settings_table, &settings));
    TINY_OK(rf_path_join(moved, model.folder, "elsewhere"));
    TINY_OK(rf_run_open(run_dir, NULL, 0, &run));
    assert_int_equal(rename(model.data, moved), 0);
    rf_eval_report other;
    const rf_status status = rf_eval_run(world, model.be, run, &settings, &other);
    assert_int_equal(rename(moved, model.data), 0);
    assert_int_equal(status, RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), model.data));
    TINY_OK(rf_file_read(report.json_path, 1 << 20, &text, &n_bytes));
    assert_true(n_bytes > 0);
    rf_free(text);
    rf_run_close(run);
    rf_eval_report_fini(&report);
}

/* Settings that name the pictures in folder `name` beside the run's. */
static rf_eval_settings other_pictures(const char *name)
{
    rf_eval_settings settings;
    TINY_OK(rf_settings_defaults(&rf_eval_settings_table, &settings));
    TINY_OK(rf_path_join(settings.pictures, model.folder, name));
    return settings;
}

static void other_pictures_all_count_as_held_out(void **state)
{
    (void)state;
    rf_eval_settings settings = other_pictures("others");
    rf_eval_report own, other;
    char *text = NULL, expected[RF_PATH_LEN + 32];
    int64_t n_bytes = 0;

    tiny_write_pictures(settings.pictures, tiny_labels, false); /* the names of the run's */
    evaluate(&own);
    TINY_OK(evaluate_with(&settings, &other));
    assert_int_equal(other.splits[0].n_pictures, TINY_PICTURES);
    assert_int_equal(other.splits[0].split, RF_SPLIT_HELD_OUT);
    assert_int_equal(other.splits[0].coders[0].substitution.n_labelled, TINY_PICTURES);
    assert_string_equal(other.split_paths[0], settings.pictures);
    assert_string_equal(other.split_paths[1], model.data);
    assert_true(other.splits[0].pictures_hash != own.splits[0].pictures_hash);
    assert_int_equal(other.splits[1].n_pictures, own.splits[1].n_pictures);
    assert_memory_equal(other.splits[1].coders[0].by_class, own.splits[1].coders[0].by_class,
                        sizeof own.splits[1].coders[0].by_class);
    rf_eval_report_fini(&other);
    settings.trained_on = false;
    TINY_OK(evaluate_with(&settings, &other));
    assert_int_equal(other.splits[1].n_coders, 0);
    TINY_OK(rf_file_read(other.json_path, 1 << 20, &text, &n_bytes));
    TINY_OK(rf_format(expected, sizeof expected, "\"path\": \"%s\"", settings.pictures));
    assert_non_null(strstr(text, expected));
    assert_null(strstr(text, "\"pictures\": \"trained on\""));
    rf_free(text);
    rf_eval_report_fini(&other);
    rf_eval_report_fini(&own);
}

static void pictures_that_were_trained_on_are_refused(void **state)
{
    (void)state;
    rf_eval_settings settings = other_pictures("link");
    rf_eval_report report;

    assert_int_equal(symlink(model.data, settings.pictures), 0);
    assert_int_equal(evaluate_with(&settings, &report), RF_ERR_SETTING); /* by another name */
    assert_non_null(strstr(rf_error_text(), "were trained on"));
    TINY_OK(rf_path_join(settings.pictures, model.data, tiny_labels[1])); /* a part of them */
    settings.trained_on = false;
    assert_int_equal(evaluate_with(&settings, &report), RF_ERR_SETTING);
    assert_non_null(strstr(rf_error_text(), "were trained on"));
}

static void a_classifier_without_the_pictures_classes_is_an_error(void **state)
{
    (void)state;
    char cat[] = "cat", dog[] = "dog", owl[] = "great_owl";
    char *names[] = {cat, dog, owl};
    float weights[3 * TINY_D] = {0};
    rf_zero_shot z = {.n_classes = 3, .d = TINY_D, .weights = weights, .names = names};
    rf_eval_settings settings;
    rf_eval_report report;

    weights[0] = weights[TINY_D + 1] = weights[2 * TINY_D + 2] = 1;
    TINY_OK(rf_settings_defaults(&rf_eval_settings_table, &settings));
    TINY_OK(rf_path_join(settings.classifier, model.folder, "classes.safetensors"));
    TINY_OK(rf_zero_shot_save(&z, settings.classifier));
    assert_int_equal(evaluate_with(&settings, &report), RF_ERR_NOT_FOUND); /* a ViT has no scale */
    assert_non_null(strstr(rf_error_text(), "logit_scale=100"));
    settings.logit_scale = 100;
    TINY_OK(evaluate_with(&settings, &report));
    assert_true(report.models[0].logit_scale == 100);
    assert_string_equal(report.models[0].class_match, "by name");
    assert_true(report.splits[0].coders[0].substitution.ce > 0);
    rf_eval_report_fini(&report);
    z.n_classes = 2;
    TINY_OK(rf_zero_shot_save(&z, settings.classifier));
    assert_int_equal(evaluate_with(&settings, &report), RF_ERR_SETTING);
    assert_non_null(strstr(rf_error_text(), "great owl"));
    settings.substitution = false;
    assert_int_equal(evaluate_with(&settings, &report), RF_ERR_SETTING);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eval_json_holds_every_figure_and_what_it_was_taken_on),
        cmocka_unit_test(evaluating_again_gives_the_same_file),
        cmocka_unit_test(a_failure_leaves_what_was_written_before),
        cmocka_unit_test(other_pictures_all_count_as_held_out),
        cmocka_unit_test(pictures_that_were_trained_on_are_refused),
        cmocka_unit_test(a_classifier_without_the_pictures_classes_is_an_error),
    };
    if (rf_comm_start(&argc, &argv, &world) != RF_OK) {
        return 1;
    }
    const int n_failed = cmocka_run_group_tests(tests, set_up, tear_down);
    rf_comm_finish(world);
    return n_failed;
}
