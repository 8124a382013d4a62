/* Settings whose value is a list of names, or a number for each of several cases. */
#include "scratch.h"

typedef struct options {
    char sites[64];
    int64_t k[4];
    char one[8];
} options;

static const char *const classes[] = {"cls", "register", "patch|spatial", NULL};
static const rf_setting rows[] = {
    {"sites", RF_SETTING_NAMES, offsetof(options, sites), 64, "", 0, 3, NULL, "", "Where."},
    {"k", RF_SETTING_I64_BY, offsetof(options, k), 0, "32", 1, 1000, classes, "latents", "Many."},
    {"one", RF_SETTING_NAMES, offsetof(options, one), 8, "", 0, 0, NULL, "", "Short."},
};
static const rf_settings_table table = {"coder", "A coder.", rows, 3};

static rf_status read_text(const char *text, options *o)
{
    rf_yaml *root = NULL;
    assert_ok(rf_yaml_parse(text, (int64_t)strlen(text), "run.yaml", &root));
    memset(o, 0xff, sizeof *o);
    assert_ok(rf_settings_defaults(&table, o));
    rf_status status =
        rf_settings_read(&table, rf_yaml_find(root, "coder"), "coder", NULL, o, NULL);
    rf_yaml_free(root);
    return status;
}

static void assert_k(const options *o, int64_t any, int64_t cls, int64_t reg, int64_t patch)
{
    assert_int_equal(o->k[0], any);
    assert_int_equal(o->k[1], cls);
    assert_int_equal(o->k[2], reg);
    assert_int_equal(o->k[3], patch);
}

static void a_text_or_a_list_of_texts_is_joined(void **state)
{
    options o;
    (void)state;
    assert_ok(read_text("other: 1\n", &o));
    assert_string_equal(o.sites, "");
    assert_ok(read_text("coder: {sites: blocks.8.hook_resid_post}\n", &o));
    assert_string_equal(o.sites, "blocks.8.hook_resid_post");
    assert_ok(read_text("coder: {sites: [a, 'base:b', c]}\n", &o));
    assert_string_equal(o.sites, "a, base:b, c");
    assert_ok(read_text("coder:\n  sites:\n  - a\n  - b\n", &o));
    assert_string_equal(o.sites, "a, b");
    assert_ok(read_text("coder: {sites: [only]}\n", &o));
    assert_string_equal(o.sites, "only");
    assert_ok(read_text("coder: {sites: ''}\n", &o));
    assert_string_equal(o.sites, "");
}

static void a_number_or_a_map_of_numbers_is_read(void **state)
{
    options o;
    (void)state;
    assert_ok(read_text("other: 1\n", &o));
    assert_k(&o, 32, 0, 0, 0);
    assert_ok(read_text("coder: {k: 1e2}\n", &o));
    assert_k(&o, 100, 0, 0, 0);
    assert_ok(read_text("coder: {k: {cls: 256, patch: 64}}\n", &o));
    assert_k(&o, 0, 256, 0, 64);
    assert_ok(read_text("coder: {k: {spatial: 64, any: 7, register: 1}}\n", &o));
    assert_k(&o, 7, 0, 1, 64);
}

static void the_command_line_takes_maps_and_lists(void **state)
{
    options o;
    rf_yaml *root = NULL;
    (void)state;
    assert_ok(rf_yaml_parse("coder: {k: 5}\n", 14, "run.yaml", &root));
    assert_ok(rf_yaml_override(root, "coder.k={cls: 256, patch: 64}"));
    assert_ok(rf_yaml_override(root, "coder.sites=[a, b]"));
    assert_ok(rf_settings_defaults(&table, &o));
    assert_ok(rf_settings_read(&table, rf_yaml_find(root, "coder"), "coder", NULL, &o, NULL));
    assert_k(&o, 0, 256, 0, 64);
    assert_string_equal(o.sites, "a, b");
    assert_ok(rf_yaml_override(root, "coder.k={cls: 0}"));
    assert_refused(rf_settings_read(&table, rf_yaml_find(root, "coder"), "coder", NULL, &o, NULL),
                   RF_ERR_SETTING, "command line");
    rf_yaml_free(root);
}

static void what_is_wrong_is_named_with_its_path(void **state)
{
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"coder: {sites: }", "coder.sites has no value: expected a text or a list of texts"},
        {"coder: {sites: {a: 1}}", "coder.sites is a map: expected a text or a list of texts"},
        {"coder: {sites: []}", "coder.sites is an empty list"},
        {"coder: {sites: [a, '']}", "coder.sites holds an empty text"},
        {"coder: {sites: [a, [b]]}", "coder.sites holds a list: expected a list of texts"},
        {"coder: {sites: [a, {b: 1}]}", "coder.sites holds a map: expected a list of texts"},
        {"coder: {sites: [a, b, c, d]}", "coder.sites is a list of 4 texts: expected at most 3"},
        {"coder: {sites: 'a, b'}", "coder.sites = a, b: several are written as a list, [a, b]"},
        {"coder: {sites: [a, 'b,c']}", "coder.sites = b,c: several are written as a list"},
        {"coder: {one: [abc, de, f]}", "run.yaml:1:24: coder.one: the list has more than 7 bytes"},
        {"coder: {one: abcdefgh}", "coder.one: the list has more than 7 bytes"},
        {"coder: {k: }", "coder.k has no value: expected a whole number in [1, 1000], or a map of "
                         "such by cls, register, patch or any"},
        {"coder: {k: 0}", "run.yaml:1:12: coder.k = 0: expected a whole number in [1, 1000]"},
        {"coder: {k: '5'}", "coder.k = \"5\": expected a whole number"},
        {"coder: {k: many}", "coder.k = many: expected a whole number"},
        {"coder: {k: [1, 2]}", "coder.k is a list: expected a whole number in [1, 1000], or a map"},
        {"coder: {k: {}}", "coder.k is an empty map"},
        {"coder: {k: {cls: 1001}}", "run.yaml:1:18: coder.k.cls = 1001: expected a whole number"},
        {"coder: {k: {cls: x}}", "coder.k.cls = x: expected a whole number in [1, 1000]"},
        {"coder: {k: {cls: }}", "coder.k.cls = : expected a whole number in [1, 1000]"},
        {"coder: {k: {cls: [1]}}", "coder.k.cls is a list: expected a whole number"},
        {"coder: {k: {cls: {a: 1}}}", "coder.k.cls is a map: expected a whole number"},
        {"coder: {k: {patches: 1}}", "coder.k.patches: expected cls, register, patch or any"},
        {"coder: {k: {'patch|spatial': 1}}", "expected cls, register, patch or any"},
        {"coder: {k: {'': 1}}", "expected cls, register, patch or any"},
        {"coder: {k: {patch: 1, spatial: 2}}", "coder.k.spatial is said twice"},
    };
    options o;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_refused(read_text(cases[i].text, &o), RF_ERR_SETTING, cases[i].expected);
    }
}

static void a_name_may_not_be_longer_than_names_are(void **state)
{
    static const rf_setting wide[] = {
        {"n", RF_SETTING_NAMES, 0, 1000, "", 0, 0, NULL, "", "Names."}};
    static const rf_settings_table wide_table = {"s", "S.", wide, 1};
    char text[200] = "n: ", out[1000];
    (void)state;
    memset(text + 3, 'x', RF_NAME_LEN);
    for (int extra = 0; extra < 2; extra++) {
        rf_yaml *root = NULL;
        text[3 + RF_NAME_LEN - 1 + extra] = '\0';
        assert_ok(rf_yaml_parse(text, (int64_t)strlen(text), "f", &root));
        assert_ok(rf_settings_defaults(&wide_table, out));
        rf_status status = rf_settings_read(&wide_table, root, "", NULL, out, NULL);
        if (extra == 0) {
            assert_ok(status);
            assert_int_equal(strlen(out), RF_NAME_LEN - 1);
        } else {
            assert_refused(status, RF_ERR_SETTING, "n holds a text of 128 bytes: expected at most");
        }
        rf_yaml_free(root);
        text[3 + RF_NAME_LEN - 1] = 'x';
    }
}

static void what_is_printed_reads_back_the_same(void **state)
{
    static const char *const texts[] = {
        "coder: {sites: a, k: 7}",
        "coder: {sites: [a, b.c], k: {cls: 1}}",
        "coder: {sites: ['m:a', 'true', ' x '], k: {any: 3, patch: 9, cls: 2}}",
        "coder: {sites: '1', k: {register: 1000, spatial: 1}}",
        "coder: {sites: ''}",
        "coder: {sites: ['{x}', '#', '[']}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        options o, back;
        rf_str s = {0};
        assert_ok(read_text(texts[i], &o));
        assert_ok(rf_str_append(&s, "coder:\n"));
        assert_ok(rf_settings_write_yaml(&table, &o, 2, &s));
        assert_ok(read_text(s.data, &back));
        assert_string_equal(back.sites, o.sites);
        assert_memory_equal(back.k, o.k, sizeof o.k);
        rf_str_fini(&s);
    }
}

static void printed_values_are_short(void **state)
{
    options o;
    rf_str s = {0};
    (void)state;
    assert_ok(read_text("coder: {sites: [a, 'm:b'], k: {spatial: 64, cls: 256}, one: x}", &o));
    assert_ok(rf_settings_write_yaml(&table, &o, 0, &s));
    assert_string_equal(s.data, "sites: [a, \"m:b\"]\nk: {cls: 256, patch: 64}\none: x\n");
    s.len = 0;
    assert_ok(read_text("coder: {k: {any: 8, register: 4}}", &o));
    assert_ok(rf_settings_format(&rows[1], &o, &s));
    assert_string_equal(s.data, "{any: 8, register: 4}");
    rf_str_fini(&s);
}

static void help_says_both_forms(void **state)
{
    rf_str s = {0};
    (void)state;
    assert_ok(rf_settings_write_help(&table, false, &s));
    assert_non_null(strstr(s.data, "[text or list of texts; default empty]"));
    assert_non_null(strstr(s.data, "[whole number, or map by cls, register, patch or any, 1 to "
                                   "1000, in latents; default 32]"));
    rf_str_fini(&s);
    assert_ok(rf_settings_write_help(&table, true, &s));
    assert_non_null(strstr(s.data, "| `sites` | text or list of texts | empty |  | Where. |\n"));
    rf_str_fini(&s);
    assert_int_equal(rf_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_or_a_list_of_texts_is_joined),
        cmocka_unit_test(a_number_or_a_map_of_numbers_is_read),
        cmocka_unit_test(the_command_line_takes_maps_and_lists),
        cmocka_unit_test(what_is_wrong_is_named_with_its_path),
        cmocka_unit_test(a_name_may_not_be_longer_than_names_are),
        cmocka_unit_test(what_is_printed_reads_back_the_same),
        cmocka_unit_test(printed_values_are_short),
        cmocka_unit_test(help_says_both_forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
