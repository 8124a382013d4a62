/* Settings of a run: defaults, coders' own keys, each, complaints, and text that reads back. */
#include "refract/train.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define HEAD                                                                                       \
    "model: {path: m}\n"                                                                           \
    "data: {path: d}\n"                                                                            \
    "output: {dir: o}\n"

static rf_run_settings *parse_ok(const char *yaml, const char *const *overrides, int64_t n)
{
    rf_run_settings *s = NULL;
    rf_status status = rf_run_settings_parse(yaml, "run.yaml", overrides, n, &s);
    if (status != RF_OK) {
        fail_msg("%s", rf_error_text());
    }
    return s;
}

/* The settings are refused as SETTING, and the text has every one of `words` (ends in NULL). */
static void assert_refused(const char *yaml, const char *const *words)
{
    rf_run_settings *s = NULL;
    int64_t live = rf_alloc_live();
    assert_int_equal(rf_run_settings_parse(yaml, "run.yaml", NULL, 0, &s), RF_ERR_SETTING);
    assert_null(s);
    for (int i = 0; words[i] != NULL; i++) {
        if (strstr(rf_error_text(), words[i]) == NULL) {
            fail_msg("'%s' is not in: %s", words[i], rf_error_text());
        }
    }
    assert_int_equal(rf_alloc_live(), live);
}
#define REFUSED(yaml, ...) assert_refused(yaml, (const char *const[]){__VA_ARGS__, NULL})

static void test_a_single_coder_has_the_defaults_of_the_tables(void **state)
{
    (void)state;
    rf_run_settings *s = parse_ok(HEAD "coder: {input: blocks.1.hook_resid_post}\n", NULL, 0);
    assert_int_equal(s->n_coders, 1);
    assert_string_equal(s->coders[0].coder.name, "coder");
    assert_string_equal(s->coders[0].coder.input, "blocks.1.hook_resid_post");
    assert_int_equal(s->coders[0].train.batch_tokens, 4096);
    assert_int_equal(s->train.schedule, RF_SCHEDULE_COSINE);
    assert_int_equal(s->train.resume, RF_RESUME_NEVER);
    assert_int_equal(s->train.keep_checkpoints, 2);
    assert_string_equal(s->models[0].settings.path, "m");
    rf_run_settings_free(s);
}

static void test_a_coder_repeats_train_keys_for_itself(void **state)
{
    (void)state;
    rf_run_settings *s =
        parse_ok(HEAD "train: {lr: 1e-3, batch_tokens: 512, seed: 5}\n"
                      "coders:\n"
                      "  - {name: a, input: x, lr: 2e-3}\n"
                      "  - {name: b, input: x, batch_tokens: 64, epochs: 3, seed: 9}\n",
                 NULL, 0);
    assert_int_equal(s->n_coders, 2);
    assert_true(s->coders[0].train.lr == 2e-3 && s->coders[1].train.lr == 1e-3);
    assert_int_equal(s->coders[0].train.batch_tokens, 512);
    assert_int_equal(s->coders[1].train.batch_tokens, 64);
    assert_int_equal(s->coders[1].train.epochs, 3);
    assert_true(s->train.lr == 1e-3);
    assert_int_equal(s->train.epochs, 1);
    assert_int_equal(s->coders[0].coder.seed, 5); /* the run's, where it has none */
    assert_int_equal(s->coders[1].coder.seed, 9);
    rf_run_settings_free(s);
}

static void test_each_walks_its_lists_together(void **state)
{
    (void)state;
    rf_run_settings *s = parse_ok(HEAD "coders:\n"
                                       "  - name: l{layer}-k{k}\n"
                                       "    input: blocks.{layer}.hook_resid_post\n"
                                       "    k: \"{k}\"\n"
                                       "    each: {layer: [0..1, 11], k: [8, 16, 32]}\n",
                                  NULL, 0);
    static const char *const names[] = {"l0-k8", "l1-k16", "l11-k32"};
    static const int64_t ks[] = {8, 16, 32};
    assert_int_equal(s->n_coders, 3);
    for (int i = 0; i < 3; i++) {
        assert_string_equal(s->coders[i].coder.name, names[i]);
        assert_int_equal(s->coders[i].coder.k.any, ks[i]);
    }
    assert_string_equal(s->coders[2].coder.input, "blocks.11.hook_resid_post");
    rf_run_settings_free(s);
}

static void test_overrides_reach_sections_and_coders(void **state)
{
    (void)state;
    static const char *const overrides[] = {"train.lr=1e-2", "coders.1.k=7", "data.holdout=0.5"};
    rf_run_settings *s =
        parse_ok(HEAD "coders:\n  - {name: a, input: x}\n  - {name: b, input: x}\n", overrides, 3);
    assert_true(s->coders[0].train.lr == 1e-2);
    assert_int_equal(s->coders[1].coder.k.any, 7);
    assert_true(s->data.holdout == 0.5);
    rf_run_settings_free(s);
}

static void test_spatial_is_read_as_patch(void **state)
{
    (void)state;
    rf_run_settings *s = parse_ok(HEAD "coder: {input: x, tokens: spatial}\n", NULL, 0);
    assert_int_equal(rf_coder_token_class(&s->coders[0].coder), RF_TOKENS_PATCH);
    rf_run_settings_free(s);
}

static void test_resolved_text_reads_back_as_the_same_settings(void **state)
{
    (void)state;
    rf_str first = {0}, second = {0};
    rf_run_settings *s = parse_ok(HEAD "train: {lr: 0.1e-3, total_tokens: 1.2e6, seed: 3}\n"
                                       "coders:\n"
                                       "  - name: a{layer}\n"
                                       "    input: blocks.{layer}.hook_resid_post\n"
                                       "    warmup_steps: 17\n"
                                       "    each: {layer: 2..3}\n"
                                       "  - {name: \"007\", input: y, architecture: relu}\n"
                                       "sweep: {train.lr: {log: [1e-4, 4e-4, 3]}}\n",
                                  NULL, 0);
    assert_int_equal(s->n_coders, 9);
    assert_int_equal(rf_run_settings_write_yaml(s, &first), RF_OK);
    assert_null(strstr(first.data, "each"));
    assert_null(strstr(first.data, "sweep"));
    rf_run_settings *again = parse_ok(first.data, NULL, 0);
    assert_int_equal(again->n_coders, 9);
    assert_int_equal(rf_run_settings_write_yaml(again, &second), RF_OK);
    assert_string_equal(first.data, second.data);
    assert_int_equal(again->coders[1].train.warmup_steps, 17);
    assert_int_equal(again->coders[1].train.total_tokens, 1200000);
    assert_int_equal(again->coders[1].coder.seed, 3);
    assert_true(again->coders[1].train.lr == s->coders[1].train.lr);
    rf_str_fini(&first);
    rf_str_fini(&second);
    rf_run_settings_free(s);
    rf_run_settings_free(again);
}

static void test_unknown_keys_name_their_place_and_the_nearest(void **state)
{
    (void)state;
    REFUSED(HEAD "coder: {input: x}\ntrian: {lr: 1}\n", "run.yaml:5:", "trian", "'train'");
    REFUSED(HEAD "coder: {input: x}\ntrain:\n  lrr: 1\n", "run.yaml:6:", "train.lrr", "train.lr");
    REFUSED(HEAD "coders:\n  - input: x\n    expansoin: 3\n", "run.yaml:6:", "coders.0.expansoin",
            "expansion");
    REFUSED(HEAD "coder:\n  input: x\n  batch_token: 3\n", "run.yaml:6:", "coder.batch_token",
            "batch_tokens");
    REFUSED(HEAD "coder: {input: x}\nsweep: {coder.kk: [1]}\n", "run.yaml:5:", "coder.kk",
            "coder.k'");
    REFUSED(HEAD "coder: {input: x}\nsweep: {model.path: [a]}\n", "model.path", "no axis");
}

static void test_the_settings_that_are_listed_are_those_a_coder_may_have(void **state)
{
    (void)state;
    rf_run_settings *s = NULL;
    const char *yaml = HEAD "coder:\n  input: x\n  qqqqqqqqqqqq: 3\n";
    assert_int_equal(rf_run_settings_parse(yaml, "run.yaml", NULL, 0, &s), RF_ERR_SETTING);
    assert_non_null(strstr(rf_error_text(), "expansion"));
    assert_non_null(strstr(rf_error_text(), "warmup_steps"));
    assert_non_null(strstr(rf_error_text(), " seed,")); /* its own */
    static const char *const of_run[] = {"threads", "device", "keep_checkpoints", "resume"};
    for (size_t i = 0; i < sizeof of_run / sizeof *of_run; i++) {
        assert_null(strstr(rf_error_text(), of_run[i]));
    }
}

static void test_wrong_coder_lists_are_refused_with_their_reason(void **state)
{
    (void)state;
    REFUSED(HEAD, "no coder");
    REFUSED(HEAD "coders: []\n", "coders");
    REFUSED(HEAD "coders: 5\n", "coders");
    REFUSED(HEAD "coders: [5]\n", "coders.0", "map");
    REFUSED(HEAD "coder: {input: x}\ncoders: [{input: x}]\n", "both");
    REFUSED(HEAD "coder: {name: a}\n", "coder.input", "missing");
    REFUSED("data: {path: d}\noutput: {dir: o}\ncoder: {input: x}\n", "model.path", "missing");
    REFUSED(HEAD "coders: [{name: a, input: x}, {name: a, input: y}]\n", "two coders", "'a'");
    REFUSED(HEAD "coder: {name: ../x, input: x}\n", "../x", "folder");
    REFUSED(HEAD "coder: {name: \"\", input: x}\n", "folder");
    REFUSED(HEAD "coder: {name: checkpoints, input: x}\n", "checkpoints");
    REFUSED(HEAD "coder: {name: .hidden, input: x}\n", ".hidden");
    REFUSED(HEAD "coder: {input: x, threads: 3}\n", "coder.threads", "whole run");
    REFUSED(HEAD "coder: {input: x, lr: fast}\n", "coder.lr", "fast");
    REFUSED(HEAD "coder: {input: x}\ntrain: {epochs: 0}\n", "train.epochs", "run.yaml:5:");
    REFUSED(
        "model: {path: m}\ndata: {path: d}\noutput: {dir: o, select: best}\ncoder: {input: x}\n",
        "output.select", "best");
    REFUSED("[1, 2]\n", "map");
}

static void test_wrong_each_is_refused_with_its_reason(void **state)
{
    (void)state;
    REFUSED(HEAD "coder: {name: \"a{l}\", input: x, each: {l: 0..2, m: [1, 2]}}\n", "each.m",
            "each.l", "together");
    REFUSED(HEAD "coder: {name: a, input: \"x{l}\", each: {l: 0..2}}\n", "two coders");
    /* values that go nowhere, or only into names, make the same coder many times */
    REFUSED(HEAD "coder: {name: a, input: x, each: {l: 0..2}}\n", "each.l", "go nowhere", "{l}");
    REFUSED(HEAD "coder: {name: \"a{l}\", input: \"x{l}\", each: {l: [1, 2], k: [4, 8]}}\n",
            "each.k", "go nowhere", "k: \"{k}\"");
    REFUSED(HEAD "coder: {name: \"a{k}\", input: x, k: 4, each: {k: [4, 8]}}\n", "'{k}'",
            "name alone", "2 coders");
    rf_run_settings_free(
        parse_ok(HEAD "coder: {name: \"{tag}\", input: \"x{l}\",\n"
                      "  each: {tag: [early, late], l: [1, 9]}}\n", /* one of them is enough */
                 NULL, 0));
    rf_run_settings_free(
        parse_ok(HEAD "coder: {name: \"{tag}\", input: x, each: {tag: [only]}}\n", NULL, 0));
    REFUSED(HEAD "coder: {name: \"a{l}\", input: \"{layer}\", each: {l: 0..2}}\n", "{layer}",
            "each");
    REFUSED(HEAD "coder: {name: \"a{l}\", input: x, each: {l: 5..2}}\n", "5..2");
    REFUSED(HEAD "coder: {name: \"a{l}\", input: x, each: {l: 0..9999999999}}\n", "0..9999999999");
    REFUSED(HEAD "coder: {name: \"a{l}\", input: x, each: {l: []}}\n", "each.l", "0 values");
    REFUSED(HEAD "coder: {name: \"a{l}\", input: x, each: 5}\n", "each");
    REFUSED(HEAD "coder: {name: \"a{l}\", input: x, each: {l: [[1]]}}\n", "each.l");
}

/* FORMAT is YAML's own complaint, SETTING ours: nothing else, and no crash. */
static void test_hostile_text_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"",        "\xff\xfe", "coders: [",   "{{{{", "coder: *a",
                                        "a: b: c", "- - -",    "coder: !x y", ":",    "model: []"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        rf_run_settings *s = NULL;
        rf_status status = rf_run_settings_parse(texts[i], "x", NULL, 0, &s);
        assert_true(status == RF_ERR_SETTING || status == RF_ERR_FORMAT);
        assert_null(s);
    }
}

static void test_help_names_every_section_and_key(void **state)
{
    (void)state;
    static const char *const words[] = {"batch_tokens", "image_size", "holdout", "keep_bytes",
                                        "expansion",    "select",     "each",    "sweep"};
    for (int markdown = 0; markdown < 2; markdown++) {
        rf_str text = {0};
        assert_int_equal(rf_run_settings_write_help(markdown != 0, &text), RF_OK);
        for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
            assert_non_null(strstr(text.data, words[i]));
        }
        rf_str_fini(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_single_coder_has_the_defaults_of_the_tables),
        cmocka_unit_test(test_a_coder_repeats_train_keys_for_itself),
        cmocka_unit_test(test_each_walks_its_lists_together),
        cmocka_unit_test(test_overrides_reach_sections_and_coders),
        cmocka_unit_test(test_spatial_is_read_as_patch),
        cmocka_unit_test(test_resolved_text_reads_back_as_the_same_settings),
        cmocka_unit_test(test_unknown_keys_name_their_place_and_the_nearest),
        cmocka_unit_test(test_the_settings_that_are_listed_are_those_a_coder_may_have),
        cmocka_unit_test(test_wrong_coder_lists_are_refused_with_their_reason),
        cmocka_unit_test(test_wrong_each_is_refused_with_its_reason),
        cmocka_unit_test(test_hostile_text_is_refused),
        cmocka_unit_test(test_help_names_every_section_and_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
