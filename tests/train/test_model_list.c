/* The models of a run: one or several by name, the sites that name them, and text that reads back.
 */
#include "../../src/train/run_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define TAIL "data: {path: d}\noutput: {dir: o}\n"
#define ONE "model: {path: m, image_size: 98}\n" TAIL
#define TWO "model: {base: {path: a}, tuned: {path: b, fold_ln: true}}\n" TAIL
#define CODER "coder: {input: x}\n"

static rf_run_settings *parse_with(const char *yaml, const char *const *overrides, int64_t n)
{
    rf_run_settings *s = NULL;
    if (rf_run_settings_parse(yaml, "run.yaml", overrides, n, &s) != RF_OK) {
        fail_msg("%s", rf_error_text());
    }
    return s;
}

static rf_run_settings *parse_ok(const char *yaml)
{
    return parse_with(yaml, NULL, 0);
}

static void assert_error(rf_status status, const char *const *words)
{
    assert_int_equal(status, RF_ERR_SETTING);
    for (int i = 0; words[i] != NULL; i++) {
        if (strstr(rf_error_text(), words[i]) == NULL) {
            fail_msg("'%s' is not in: %s", words[i], rf_error_text());
        }
    }
}

static void assert_refused(const char *yaml, const char *const *words)
{
    rf_run_settings *s = NULL;
    int64_t live = rf_alloc_live();
    assert_error(rf_run_settings_parse(yaml, "run.yaml", NULL, 0, &s), words);
    assert_null(s);
    assert_int_equal(rf_alloc_live(), live);
}
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define REFUSED(yaml, ...) assert_refused(yaml, WORDS(__VA_ARGS__))

static void test_settings_of_one_model_have_no_name(void **state)
{
    (void)state;
    rf_run_settings *s = parse_ok(ONE CODER);
    char key[RF_NAME_LEN];
    assert_int_equal(s->n_models, 1);
    assert_string_equal(s->models[0].name, "");
    assert_string_equal(s->models[0].settings.path, "m");
    assert_int_equal(s->models[0].settings.image_size, 98);
    assert_int_equal(rf_model_list_key(s, 0, key, sizeof key), RF_OK);
    assert_string_equal(key, "model");
    rf_run_settings_free(s);
}

static void test_a_map_of_maps_is_models_by_name(void **state)
{
    (void)state;
    rf_run_settings *s = parse_ok(TWO CODER);
    char key[RF_NAME_LEN];
    assert_int_equal(s->n_models, 2);
    assert_string_equal(s->models[0].name, "base");
    assert_string_equal(s->models[0].settings.path, "a");
    assert_false(s->models[0].settings.fold_ln);
    assert_string_equal(s->models[1].name, "tuned");
    assert_string_equal(s->models[1].settings.path, "b");
    assert_true(s->models[1].settings.fold_ln);
    assert_int_equal(rf_model_list_key(s, 1, key, sizeof key), RF_OK);
    assert_string_equal(key, "model.tuned");
    rf_run_settings_free(s);
    /* also where a name is a setting's, and where there is one */
    s = parse_ok("model: {path: {path: a}}\n" TAIL CODER);
    assert_int_equal(s->n_models, 1);
    assert_string_equal(s->models[0].name, "path");
    assert_string_equal(s->models[0].settings.path, "a");
    rf_run_settings_free(s);
}

static void test_overrides_reach_one_model_or_a_named_one(void **state)
{
    (void)state;
    static const char *const one[] = {"model.path=elsewhere"};
    static const char *const named[] = {"model.base.path=elsewhere", "model.third.path=c"};
    rf_run_settings *s = parse_with(ONE CODER, one, 1);
    assert_string_equal(s->models[0].settings.path, "elsewhere");
    assert_int_equal(s->models[0].settings.image_size, 98);
    rf_run_settings_free(s);
    s = parse_with(TWO CODER, named, 2);
    assert_int_equal(s->n_models, 3);
    assert_string_equal(s->models[0].settings.path, "elsewhere");
    assert_string_equal(s->models[1].settings.path, "b");
    assert_string_equal(s->models[2].settings.path, "c");
    rf_run_settings_free(s);
    s = NULL;
    assert_error(
        rf_run_settings_parse(TWO CODER, "run.yaml", one, 1, &s),
        WORDS("command line", "model.path stands beside the map model.base", "model.base.path"));
    assert_error(rf_run_settings_parse(ONE CODER, "run.yaml", named, 1, &s),
                 WORDS("stands beside the map model.base"));
}

static void test_sites_name_a_model_or_mean_the_first(void **state)
{
    (void)state;
    rf_run_settings *s = parse_ok(
        TWO "coder: {input: [x, \"tuned:y\"], target: \"base:blocks.1.hook_resid_post\"}\n");
    int model = -1;
    const char *hook = NULL;
    assert_int_equal(rf_run_settings_site(s, "x", &model, &hook), RF_OK);
    assert_true(model == 0 && strcmp(hook, "x") == 0);
    assert_int_equal(rf_run_settings_site(s, "base:x", &model, &hook), RF_OK);
    assert_true(model == 0 && strcmp(hook, "x") == 0);
    assert_int_equal(rf_run_settings_site(s, "tuned:blocks.2.hook_z", &model, &hook), RF_OK);
    assert_true(model == 1 && strcmp(hook, "blocks.2.hook_z") == 0);
    assert_error(rf_run_settings_site(s, "tune:x", &model, &hook),
                 WORDS("no model 'tune'", "base, tuned"));
    assert_error(rf_run_settings_site(s, ":x", &model, &hook), WORDS("no model ''"));
    rf_run_settings_free(s);
    s = parse_ok(ONE CODER);
    assert_int_equal(rf_run_settings_site(s, "x", &model, &hook), RF_OK);
    assert_int_equal(model, 0);
    assert_error(rf_run_settings_site(s, "base:x", &model, &hook),
                 WORDS("one model without a name", "model: {base: {path: ...}}"));
    assert_error(rf_run_settings_site(s, ":x", &model, &hook), WORDS("without a name"));
    rf_run_settings_free(s);
}

static void test_a_site_of_no_model_is_refused_with_its_coder(void **state)
{
    (void)state;
    REFUSED(TWO "coder: {name: c1, input: \"tunned:x\"}\n", "coder 'c1': input", "tunned",
            "base, tuned");
    REFUSED(TWO "coder: {name: c1, input: x, target: [y, \"z:y\"]}\n", "coder 'c1': target", "'z'");
    REFUSED(ONE "coder: {name: c1, input: \"base:x\"}\n", "coder 'c1': input", "without a name");
    REFUSED(TWO "coder: {name: \"c{m}\", input: \"{m}:x\", each: {m: [base, other]}}\n",
            "coder 'cother'", "other");
}

static void test_wrong_models_are_refused(void **state)
{
    (void)state;
    REFUSED(TAIL CODER, "model.path", "missing");
    REFUSED("model: {}\n" TAIL CODER, "model.path", "missing");
    REFUSED("model: [a, b]\n" TAIL CODER, "model");
    REFUSED("model: a\n" TAIL CODER, "model");
    REFUSED("model: {base: {}}\n" TAIL CODER, "model.base.path", "missing");
    REFUSED("model: {base: {path: a}, tuned: {}}\n" TAIL CODER, "model.tuned.path", "missing");
    REFUSED("model: {base: {path: a}, tuned: {pth: b}}\n" TAIL CODER, "model.tuned.pth",
            "model.tuned.path");
    REFUSED("model: {base: {path: a}, image_size: 3}\n" TAIL CODER,
            "run.yaml:1:", "model.image_size stands beside the map model.base");
    REFUSED("model: {base: {path: a}, tuned: b}\n" TAIL CODER, "model.tuned stands beside");
    REFUSED("model: {base: {path: {x: 1}}}\n" TAIL CODER, "model.base.path");
    REFUSED("model: {\"a:b\": {path: a}}\n" TAIL CODER, "'a:b'", "model's name");
    REFUSED("model: {a.b: {path: a}}\n" TAIL CODER, "'a.b'", "model's name");
    REFUSED("model: {\"\": {path: a}}\n" TAIL CODER, "model's name");
    REFUSED("model: {\"-a\": {path: a}}\n" TAIL CODER, "'-a'");
    REFUSED("model: {\"a{l}\": {path: a}}\n" TAIL CODER, "'a{l}'");
    REFUSED("model: {a: {path: a}, b: {path: a}, c: {path: a}, d: {path: a}, e: {path: a}, "
            "f: {path: a}, g: {path: a}, h: {path: a}, i: {path: a}}\n" TAIL CODER,
            "9 models", "at most 8");
}

static void test_a_name_that_is_too_long_is_refused(void **state)
{
    (void)state;
    char yaml[512], name[RF_NAME_LEN + 1];
    memset(name, 'm', RF_NAME_LEN);
    name[RF_NAME_LEN] = '\0';
    assert_int_equal(rf_format(yaml, sizeof yaml, "model: {%s: {path: a}}\n" TAIL CODER, name),
                     RF_OK);
    REFUSED(yaml, "model's name");
}

static void test_resolved_text_reads_back_as_the_same_models(void **state)
{
    (void)state;
    static const char *const texts[] = {
        ONE CODER,
        TWO "coders:\n"
            "  - {name: a, input: [\"base:x\", \"tuned:x\"], k: {cls: 256, patch: 64}}\n"
            "  - {name: b, input: x, target: \"tuned:y\", k: 7}\n",
        "model: {path: {path: a, row: \"odd: name\"}, \"007\": {path: b}, \"null\": {path: "
        "c}}\n" TAIL CODER};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        rf_str first = {0}, second = {0};
        rf_run_settings *s = parse_ok(texts[i]);
        assert_int_equal(rf_run_settings_write_yaml(s, &first), RF_OK);
        rf_run_settings *again = parse_ok(first.data);
        assert_int_equal(rf_run_settings_write_yaml(again, &second), RF_OK);
        assert_string_equal(first.data, second.data);
        assert_int_equal(again->n_models, s->n_models);
        for (int m = 0; m < s->n_models; m++) {
            assert_string_equal(again->models[m].name, s->models[m].name);
            assert_string_equal(again->models[m].settings.path, s->models[m].settings.path);
            assert_string_equal(again->models[m].settings.row, s->models[m].settings.row);
        }
        for (int64_t c = 0; c < s->n_coders; c++) {
            const rf_coder_settings *x = &s->coders[c].coder, *y = &again->coders[c].coder;
            assert_string_equal(x->input, y->input);
            assert_string_equal(x->target, y->target);
            assert_memory_equal(&x->k, &y->k, sizeof x->k);
        }
        assert_int_equal(rf_run_settings_compare(s, again), RF_OK);
        rf_str_fini(&first);
        rf_str_fini(&second);
        rf_run_settings_free(s);
        rf_run_settings_free(again);
    }
}

static void assert_compare(const char *then, const char *now, const char *const *words)
{
    rf_run_settings *a = parse_ok(then), *b = parse_ok(now);
    if (words[0] == NULL) {
        assert_int_equal(rf_run_settings_compare(a, b), RF_OK);
    } else {
        assert_error(rf_run_settings_compare(a, b), words);
    }
    rf_run_settings_free(a);
    rf_run_settings_free(b);
}
#define COMPARED(then, now, ...) assert_compare(then, now, WORDS(__VA_ARGS__))

static void test_a_resume_names_the_model_that_differs(void **state)
{
    (void)state;
    assert_compare(TWO CODER,
                   "model: {base: {path: moved}, tuned: {path: b, fold_ln: true}}\n" TAIL CODER,
                   WORDS(NULL)); /* the hash tells whether it is the same */
    COMPARED(TWO CODER, "model: {base: {path: a}, tuned: {path: b}}\n" TAIL CODER,
             "model.tuned.fold_ln is false and was true");
    COMPARED(TWO CODER, "model: {base: {path: a}}\n" TAIL CODER, "1 models", "checkpoint has 2");
    COMPARED(TWO CODER, "model: {base: {path: a}, other: {path: b, fold_ln: true}}\n" TAIL CODER,
             "model 1 is called 'other' and was 'tuned'");
    COMPARED(ONE CODER, "model: {path: m}\n" TAIL CODER, "model.image_size is 0 and was 98");
    COMPARED(ONE CODER, "model: {m: {path: m, image_size: 98}}\n" TAIL CODER, "called 'm'");
    COMPARED(ONE "coder: {input: x, k: {cls: 8, patch: 4}}\n",
             ONE "coder: {input: x, k: {cls: 8, patch: 5}}\n", "coders.0.k");
    COMPARED(ONE "coder: {input: [x, y]}\n", ONE "coder: {input: [y, x]}\n", "coders.0.input");
    COMPARED(ONE CODER, ONE "coder: {input: x, target: y}\n", "coders.0.target");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settings_of_one_model_have_no_name),
        cmocka_unit_test(test_a_map_of_maps_is_models_by_name),
        cmocka_unit_test(test_overrides_reach_one_model_or_a_named_one),
        cmocka_unit_test(test_sites_name_a_model_or_mean_the_first),
        cmocka_unit_test(test_a_site_of_no_model_is_refused_with_its_coder),
        cmocka_unit_test(test_wrong_models_are_refused),
        cmocka_unit_test(test_a_name_that_is_too_long_is_refused),
        cmocka_unit_test(test_resolved_text_reads_back_as_the_same_models),
        cmocka_unit_test(test_a_resume_names_the_model_that_differs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
