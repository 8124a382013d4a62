/* Sweeps: axes multiply, several grids, values, names. */
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

static void assert_names(const rf_run_settings *s, const char *const *names, int64_t n)
{
    assert_int_equal(s->n_coders, n);
    for (int64_t i = 0; i < n; i++) {
        assert_string_equal(s->coders[i].coder.name, names[i]);
    }
}

static void test_axes_multiply_and_names_say_the_point(void **state)
{
    (void)state;
    static const char *const names[] = {"a-k32-lr0.0001", "a-k32-lr0.0002", "a-k32-lr0.0004",
                                        "a-k64-lr0.0001", "a-k64-lr0.0002", "a-k64-lr0.0004"};
    rf_run_settings *s =
        parse_ok(HEAD "coder: {name: a, input: x, k: 5, lr: 7}\n"
                      "sweep: {coder.k: [32, 64], train.lr: {log: [1e-4, 4e-4, 3]}}\n");
    assert_names(s, names, 6);
    assert_int_equal(s->coders[2].coder.k.any, 32);
    assert_int_equal(s->coders[3].coder.k.any, 64);
    assert_true(s->coders[4].train.lr == 0.0002); /* six digits between the ends */
    assert_true(s->coders[5].train.lr == 4e-4);   /* the ends are as written */
    rf_run_settings_free(s);
}

static void test_an_axis_applies_to_every_coder(void **state)
{
    (void)state;
    static const char *const names[] = {"l0-k8", "l0-k16", "l1-k8", "l1-k16", "b-k8", "b-k16"};
    rf_run_settings *s = parse_ok(
        HEAD "coders:\n"
             "  - {name: \"l{l}\", input: \"blocks.{l}.hook_resid_post\", each: {l: 0..1}}\n"
             "  - {name: b, input: y}\n"
             "sweep: {coder.k: [8, 16]}\n");
    assert_names(s, names, 6);
    assert_string_equal(s->coders[3].coder.input, "blocks.1.hook_resid_post");
    rf_run_settings_free(s);
}

static void test_a_list_of_maps_is_several_grids(void **state)
{
    (void)state;
    static const char *const names[] = {"a-k8", "a-k16", "a-architecture_relu-l1_0.5",
                                        "a-architecture_relu-l1_1"};
    rf_run_settings *s =
        parse_ok(HEAD "coder: {name: a, input: x}\n"
                      "sweep:\n"
                      "  - {coder.k: [8, 16]}\n"
                      "  - {coder.architecture: [relu], coder.l1: {linear: [0.5, 1, 2]}}\n");
    assert_names(s, names, 4);
    assert_string_equal(rf_architecture_at(s->coders[3].coder.architecture)->name, "relu");
    rf_run_settings_free(s);
}

static void test_ranges_and_odd_values_make_safe_names(void **state)
{
    (void)state;
    static const char *const names[] = {"a-seed1-l1_0.001", "a-seed2-l1_0.001", "a-seed3-l1_0.001"};
    rf_run_settings *s = parse_ok(HEAD "coder: {name: a, input: x}\n"
                                       "sweep: {coder.seed: 1..3, coder.l1: 1e-3}\n");
    assert_names(s, names, 3);
    rf_run_settings_free(s);
    s = parse_ok(HEAD "coder: {name: a, input: x}\nsweep: {coder.input: [a/b, \"c d\"]}\n");
    assert_string_equal(s->coders[0].coder.name, "a-input_a_b");
    assert_string_equal(s->coders[1].coder.name, "a-input_c_d");
    assert_string_equal(s->coders[1].coder.input, "c d");
    rf_run_settings_free(s);
}

static void test_the_command_line_sweeps_with_dots(void **state)
{
    (void)state;
    static const char *const overrides[] = {"sweep.coder.k=[8,16]",
                                            "sweep.train.lr={log: [1, 4, 3]}"};
    static const char *const names[] = {"a-k8-lr1",  "a-k8-lr2",  "a-k8-lr4",
                                        "a-k16-lr1", "a-k16-lr2", "a-k16-lr4"};
    rf_run_settings *s = parse_with(HEAD "coder: {name: a, input: x}\n", overrides, 2);
    assert_names(s, names, 6);
    rf_run_settings_free(s);
    /* an axis of the file is replaced, another one comes to it */
    s = parse_with(HEAD "coder: {name: a, input: x}\nsweep: {coder.k: [1, 2, 3]}\n", overrides, 2);
    assert_names(s, names, 6);
    rf_run_settings_free(s);
    static const char *const in_list[] = {"sweep.1.coder.k=[4]"};
    static const char *const list_names[] = {"a-k8", "a-k4"};
    s = parse_with(HEAD "coder: {name: a, input: x}\nsweep: [{coder.k: [8]}, {coder.k: [16]}]\n",
                   in_list, 1);
    assert_names(s, list_names, 2);
    rf_run_settings_free(s);
    /* written that way in a file */
    s = parse_ok(HEAD "coder: {name: a, input: x}\n"
                      "sweep: {coder: {k: [8, 16]}, train: {lr: [1, 2, 4]}}\n");
    assert_names(s, names, 6);
    rf_run_settings_free(s);
}

static void test_maps_and_lists_are_values_too(void **state)
{
    (void)state;
    static const char *const names[] = {"a-k32", "a-k_cls64_patch16"};
    rf_run_settings *s = parse_ok(HEAD "coder: {name: a, input: x}\n"
                                       "sweep: {coder.k: [32, {cls: 64, patch: 16}]}\n");
    assert_names(s, names, 2);
    assert_int_equal(s->coders[0].coder.k.any, 32);
    assert_int_equal(s->coders[1].coder.k.of[0], 64);
    assert_int_equal(s->coders[1].coder.k.of[1], 0);
    assert_int_equal(s->coders[1].coder.k.of[2], 16);
    rf_run_settings_free(s);
    static const char *const sites[] = {"a-input_x_y", "a-input_z"};
    s = parse_ok(HEAD "coder: {name: a, input: w}\nsweep: {coder.input: [[x, y], z]}\n");
    assert_names(s, sites, 2);
    assert_string_equal(s->coders[0].coder.input, "x, y");
    rf_run_settings_free(s);
}

static void test_a_map_of_k_survives_each_and_sweep(void **state)
{
    (void)state;
    static const char *const names[] = {"l1-seed1", "l1-seed2", "l2-seed1", "l2-seed2"};
    rf_run_settings *s = parse_ok(HEAD "coders:\n"
                                       "  - {name: \"l{l}\", input: [\"x{l}\", \"y{l}\"],\n"
                                       "     target: \"z{l}\", k: {cls: \"{big}\", patch: 8},\n"
                                       "     each: {l: [1, 2], big: [100, 200]}}\n"
                                       "sweep: {coder.seed: 1..2}\n");
    assert_names(s, names, 4);
    for (int i = 0; i < 4; i++) {
        const rf_coder_settings *c = &s->coders[i].coder;
        assert_int_equal(c->k.of[0], i < 2 ? 100 : 200);
        assert_int_equal(c->k.of[2], 8);
        assert_string_equal(c->input, i < 2 ? "x1, y1" : "x2, y2");
        assert_string_equal(c->target, i < 2 ? "z1" : "z2");
    }
    rf_run_settings_free(s);
}

static void test_wrong_sweeps_are_refused(void **state)
{
    (void)state;
    static const char *const sweeps[][2] = {
        {"{coder.k: []}", "coder.k"},
        {"{coder.k: [1, [2]]}", "coder.k"},
        {"{coder.k: {log: [1, 2]}}", "coder.k"},
        {"{coder.k: {log: [0, 2, 3]}}", "above 0"},
        {"{coder.k: {geo: [1, 2, 3]}}", "coder.k"},
        {"{coder.k: {log: [1, 2, 1e9]}}", "4096"},
        {"{coder.k: [{cls: x}]}", "coder.k"},
        {"{coder.k: [{}]}", "coder.k"},
        {"{coder: [1, 2]}", "no axis"},
        {"{coder: {}}", "axes"},
        {"{coder: {kk: [1]}}", "coder.kk"},
        {"{coder.k: [1], coder: {k: [2]}}", "twice"},
        {"{coder.lr: [1], train.lr: [2]}", "twice"},
        {"{coder: {threads: [1, 2]}}", "whole run"},
        {"{data.path: [a]}", "no axis"},
        {"{coder.name: [a, b]}", "name"},
        {"{train.threads: [1, 2]}", "whole run"},
        {"{train.seed: [1, 2]}", "whole run"},
        {"{train.k: [1, 2]}", "train.k"},
        {"{coder.k: [0.5]}", "coder.k = 0.5"},
        {"{coder.k: [8, 8]}", "two coders"},
        {"[]", "empty"},
        {"{}", "axes"},
        {"7", "axes"},
        {"{coder.k: 1..4000, coder.seed: 1..4000}", "more than"},
    };
    for (size_t i = 0; i < sizeof sweeps / sizeof *sweeps; i++) {
        char yaml[512];
        rf_run_settings *s = NULL;
        int64_t live = rf_alloc_live();
        assert_int_equal(rf_format(yaml, sizeof yaml,
                                   HEAD "coder: {name: a, input: x}\nsweep: %s\n", sweeps[i][0]),
                         RF_OK);
        assert_int_equal(rf_run_settings_parse(yaml, "run.yaml", NULL, 0, &s), RF_ERR_SETTING);
        if (strstr(rf_error_text(), sweeps[i][1]) == NULL) {
            fail_msg("%s: '%s' is not in: %s", sweeps[i][0], sweeps[i][1], rf_error_text());
        }
        assert_int_equal(rf_alloc_live(), live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_axes_multiply_and_names_say_the_point),
        cmocka_unit_test(test_an_axis_applies_to_every_coder),
        cmocka_unit_test(test_a_list_of_maps_is_several_grids),
        cmocka_unit_test(test_ranges_and_odd_values_make_safe_names),
        cmocka_unit_test(test_the_command_line_sweeps_with_dots),
        cmocka_unit_test(test_maps_and_lists_are_values_too),
        cmocka_unit_test(test_a_map_of_k_survives_each_and_sweep),
        cmocka_unit_test(test_wrong_sweeps_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
