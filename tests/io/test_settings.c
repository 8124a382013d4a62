#include "scratch.h"

#include <math.h>

typedef struct options {
    bool resume;
    int64_t steps;
    double lr, momentum;
    char dir[16];
    int schedule;
} options;

static const char *const schedules[] = {"constant", "cosine", "linear", NULL};
static const rf_setting rows[] = {
    {"resume", RF_SETTING_BOOL, offsetof(options, resume), 0, "false", 0, 0, NULL, "",
     "Go on from the last checkpoint."},
    {"steps", RF_SETTING_I64, offsetof(options, steps), 0, NULL, 1, 1e6, NULL, "steps",
     "How many steps."},
    {"lr", RF_SETTING_F64, offsetof(options, lr), 0, "4e-4", 0, 10, NULL, "", "Learning rate."},
    {"momentum", RF_SETTING_F64, offsetof(options, momentum), 0, "0.9", 0, 0, NULL, "",
     "Any number."},
    {"dir", RF_SETTING_TEXT, offsetof(options, dir), 16, "", 0, 0, NULL, "", "Folder."},
    {"schedule", RF_SETTING_CHOICE, offsetof(options, schedule), 0, "cosine", 0, 0, schedules, "",
     "How the rate falls."},
};
enum { N_ROWS = sizeof rows / sizeof *rows };
static const rf_settings_table table = {"train", "How coders are trained.", rows, N_ROWS};

static rf_status read_text(const char *text, const char *const *extra, options *o, bool *given)
{
    rf_yaml *root = NULL;
    assert_ok(rf_yaml_parse(text, (int64_t)strlen(text), "run.yaml", &root));
    assert_ok(rf_settings_defaults(&table, o));
    rf_status status =
        rf_settings_read(&table, rf_yaml_find(root, "train"), "train", extra, o, given);
    rf_yaml_free(root);
    return status;
}

static void what_is_not_given_has_its_fallback(void **state)
{
    options o;
    bool given[N_ROWS];
    (void)state;
    memset(&o, 0xff, sizeof o);
    assert_ok(read_text("train: {lr: 1e-3}\n", NULL, &o, given));
    assert_false(o.resume);
    assert_int_equal(o.steps, 0);
    assert_true(o.lr == 1e-3);
    assert_true(o.momentum == 0.9);
    assert_string_equal(o.dir, "");
    assert_int_equal(o.schedule, 1);
    for (int i = 0; i < N_ROWS; i++) {
        assert_int_equal(given[i], i == 2);
    }
    assert_ok(read_text("other: 1\n", NULL, &o, given));
    assert_false(given[2]);
    assert_ok(read_text("train:\n", NULL, &o, NULL)); /* a section without a line */
    assert_ok(read_text("train: {}\n", NULL, &o, NULL));
}

static void every_type_is_read(void **state)
{
    options o;
    (void)state;
    assert_ok(read_text("train: {resume: Yes, steps: 1.2e3, lr: 0, momentum: -1e300,"
                        " dir: a b, schedule: linear}\n",
                        NULL, &o, NULL));
    assert_true(o.resume);
    assert_int_equal(o.steps, 1200);
    assert_true(o.lr == 0);
    assert_true(o.momentum == -1e300);
    assert_string_equal(o.dir, "a b");
    assert_int_equal(o.schedule, 2);
    assert_ok(read_text("train: {dir: '123456789012345', resume: no, lr: 10}\n", NULL, &o, NULL));
    assert_string_equal(o.dir, "123456789012345");
    assert_false(o.resume);
}

static void an_unknown_key_names_its_place_and_the_nearest(void **state)
{
    static const char *const extra[] = {"optimizer", NULL};
    options o;
    (void)state;
    assert_refused(read_text("train:\n  lr: 1\n  lrr: 1\n", NULL, &o, NULL), RF_ERR_SETTING,
                   "run.yaml:3:3: train.lrr: unknown setting; did you mean 'train.lr'?");
    assert_refused(read_text("train:\n  sched: 1\n", NULL, &o, NULL), RF_ERR_SETTING,
                   "did you mean 'train.schedule'?");
    assert_refused(read_text("train:\n  zzz: 1\n", extra, &o, NULL), RF_ERR_SETTING,
                   "train.zzz: unknown setting; the settings here are resume, steps, lr, momentum, "
                   "dir, schedule, optimizer");
    assert_refused(read_text("train:\n  optimiser: 1\n", extra, &o, NULL), RF_ERR_SETTING,
                   "did you mean 'train.optimizer'?");
    assert_ok(read_text("train:\n  optimizer: {any: thing}\n", extra, &o, NULL));
}

static void a_wrong_value_names_its_place_and_what_was_expected(void **state)
{
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"train:\n    lr: -1\n", "run.yaml:2:9: train.lr = -1: expected a number in [0, 10]"},
        {"train: {lr: 10.1}", "expected a number in [0, 10]"},
        {"train: {lr: nan}", "train.lr = nan: expected a number"},
        {"train: {lr: inf}", "expected a number"},
        {"train: {lr: 0x1}", "expected a number"},
        {"train: {lr: '1'}", "train.lr = \"1\": expected a number"},
        {"train: {lr: }", "train.lr has no value: expected a number"},
        {"train: {lr: [1]}", "train.lr is a list: expected a number"},
        {"train: {lr: {a: 1}}", "train.lr is a map: expected a number"},
        {"train: {momentum: x}", "train.momentum = x: expected a number"},
        {"train: {steps: 0}", "train.steps = 0: expected a whole number in [1, 1000000]"},
        {"train: {steps: 1.5}", "train.steps = 1.5: expected a whole number in"},
        {"train: {steps: 1e30}", "expected a whole number in"},
        {"train: {steps: 99999999999999999999}", "expected a whole number in"},
        {"train: {resume: 1}", "train.resume = 1: expected true or false"},
        {"train: {resume: 'true'}", "expected true or false"},
        {"train: {dir: 1234567890123456}", "train.dir is a text of 16 bytes: expected at most 15"},
        {"train: {schedule: cosin}", "train.schedule = cosin: expected one of constant, cosine, "
                                     "linear; did you mean 'cosine'?"},
        {"train: {schedule: zzzzzzzz}", "= zzzzzzzz: expected one of constant, cosine, linear"},
        {"train: 5", "run.yaml:1:8: train: expected a map of settings"},
        {"train: [lr]", "train: expected a map of settings"},
    };
    options o;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_refused(read_text(cases[i].text, NULL, &o, NULL), RF_ERR_SETTING, cases[i].expected);
    }
}

static void one_sided_ranges_say_one_side(void **state)
{
    static const rf_setting sided[] = {
        {"a", RF_SETTING_I64, 0, 0, "1", 1, INFINITY, NULL, "", "A."},
        {"b", RF_SETTING_F64, 8, 0, "-1", -INFINITY, 0, NULL, "", "B."},
    };
    static const rf_settings_table sided_table = {"s", "S.", sided, 2};
    union {
        int64_t whole[2];
        double number[2];
    } out;
    rf_yaml *root = NULL;
    (void)state;
    assert_ok(rf_settings_defaults(&sided_table, &out));
    assert_ok(rf_yaml_parse("a: 0\n", 5, "f", &root));
    assert_refused(rf_settings_read(&sided_table, root, "", NULL, &out, NULL), RF_ERR_SETTING,
                   "f:1:4: a = 0: expected a whole number >= 1");
    rf_yaml_free(root);
    assert_ok(rf_yaml_parse("b: 1\n", 5, "f", &root));
    assert_refused(rf_settings_read(&sided_table, root, NULL, NULL, &out, NULL), RF_ERR_SETTING,
                   "b = 1: expected a number <= 0");
    rf_yaml_free(root);
}

static void a_missing_required_key_is_named(void **state)
{
    bool given[N_ROWS] = {false};
    rf_yaml *root = NULL;
    (void)state;
    assert_ok(rf_yaml_parse("train:\n  lr: 1\n", 15, "run.yaml", &root));
    assert_refused(
        rf_settings_check_required(&table, given, "train", rf_yaml_find(root, "train")),
        RF_ERR_SETTING,
        "run.yaml:2:3: train.steps is missing: expected a whole number in [1, 1000000] (How many");
    assert_refused(rf_settings_check_required(&table, NULL, "", NULL), RF_ERR_SETTING,
                   "steps is missing");
    given[1] = true;
    assert_ok(rf_settings_check_required(&table, given, "train", NULL));
    rf_yaml_free(root);
}

static void what_is_printed_reads_back_the_same(void **state)
{
    static const char *const texts[] = {
        "",      "plain",  "a/b-c_d.e", "true", "No",  "12",       "1e3",   "0x10", "~",
        "null",  "a: b",   "a #b",      "#a",   "- a", "-a",       " a",    "a ",   "'q'",
        "\"q\"", "tab\t!", "nl\n",      "{x}",  "[x]", "\xc3\xa9", "\x7f",  "*x",   "&x",
        "!x",    "%x",     "@x",        "`x",   "a:",  "1.2.3",    "0..11", ".inf", "a,b",
    };
    static const double numbers[] = {0, 4e-4, 0.1, 1.0 / 3, 1e-300, 123456789, 0.30000000000000004};
    options o, back;
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        rf_str s = {0};
        assert_ok(rf_settings_defaults(&table, &o));
        o.steps = 1000000;
        o.resume = true;
        o.momentum = numbers[i % (sizeof numbers / sizeof *numbers)];
        snprintf(o.dir, sizeof o.dir, "%s", texts[i]);
        assert_ok(rf_str_append(&s, "train:\n"));
        assert_ok(rf_settings_write_yaml(&table, &o, 2, &s));
        assert_ok(read_text(s.data, NULL, &back, NULL));
        assert_string_equal(back.dir, texts[i]);
        assert_true(back.momentum == o.momentum && back.lr == o.lr);
        assert_int_equal(back.steps, o.steps);
        assert_int_equal(back.resume, o.resume);
        assert_int_equal(back.schedule, o.schedule);
        rf_str_fini(&s);
    }
}

static void printed_yaml_is_short_and_bare_where_it_may_be(void **state)
{
    options o;
    rf_str s = {0};
    (void)state;
    assert_ok(rf_settings_defaults(&table, &o));
    snprintf(o.dir, sizeof o.dir, "runs/a");
    assert_ok(rf_settings_write_yaml(&table, &o, 1, &s));
    assert_string_equal(s.data, " resume: false\n steps: 0\n lr: 0.0004\n momentum: 0.9\n"
                                " dir: runs/a\n schedule: cosine\n");
    rf_str_fini(&s);
}

static void a_wrong_table_is_our_mistake(void **state)
{
    static const rf_setting wrong[] = {{"a", RF_SETTING_I64, 0, 0, "eleven", 0, 0, NULL, "", "A."}};
    static const rf_settings_table wrong_table = {"s", "S.", wrong, 1};
    int64_t out = 0;
    options o = {.schedule = 3};
    rf_str s = {0};
    (void)state;
    assert_refused(rf_settings_defaults(&wrong_table, &out), RF_ERR_BUG, "'eleven' of s.a");
    assert_refused(rf_settings_format(&rows[5], &o, &s), RF_ERR_BUG, "schedule is choice 3 of 3");
    o.lr = NAN;
    assert_refused(rf_settings_format(&rows[2], &o, &s), RF_ERR_BUG, "lr is not a finite");
    rf_str_fini(&s);
}

static void help_names_every_setting_with_its_default(void **state)
{
    rf_str s = {0};
    (void)state;
    assert_ok(rf_settings_write_help(&table, false, &s));
    assert_non_null(strstr(s.data, "train: How coders are trained.\n"));
    assert_non_null(strstr(s.data,
                           "  steps     How many steps.\n"
                           "            [whole number, 1 to 1000000, in steps; required]\n"));
    assert_non_null(strstr(s.data, "[constant | cosine | linear; default cosine]"));
    rf_str_fini(&s);
    assert_ok(rf_settings_write_help(&table, true, &s));
    assert_non_null(strstr(s.data, "## train\n\nHow coders are trained.\n\n| key | type |"));
    assert_non_null(strstr(s.data, "| `lr` | number, 0 to 10 | 4e-4 |  | Learning rate. |\n"));
    assert_non_null(strstr(
        s.data,
        "| `schedule` | constant \\| cosine \\| linear | cosine |  | How the rate falls. |\n"));
    rf_str_fini(&s);
    assert_int_equal(rf_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_given_has_its_fallback),
        cmocka_unit_test(every_type_is_read),
        cmocka_unit_test(an_unknown_key_names_its_place_and_the_nearest),
        cmocka_unit_test(a_wrong_value_names_its_place_and_what_was_expected),
        cmocka_unit_test(one_sided_ranges_say_one_side),
        cmocka_unit_test(a_missing_required_key_is_named),
        cmocka_unit_test(what_is_printed_reads_back_the_same),
        cmocka_unit_test(printed_yaml_is_short_and_bare_where_it_may_be),
        cmocka_unit_test(a_wrong_table_is_our_mistake),
        cmocka_unit_test(help_names_every_setting_with_its_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
