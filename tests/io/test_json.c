#include "scratch.h"

#include <math.h>

static rf_json *parse(const char *text)
{
    rf_json *root = NULL;
    assert_ok(rf_json_parse(text, (int64_t)strlen(text), "c.json", &root));
    return root;
}

static void reads_values_and_descends_by_dots(void **state)
{
    rf_json *root = parse("{\"a\": {\"b\": {\"c\": 7}}, \"x.y\": 8, \"r\": 2.5, \"w\": 12.0,"
                          " \"t\": true, \"s\": \"text\"}");
    int64_t i = 0;
    double d = 0;
    bool b = false;
    const char *s = NULL;
    (void)state;
    assert_ok(rf_json_get_i64(root, "a.b.c", NULL, &i));
    assert_int_equal(i, 7);
    assert_ok(rf_json_get_i64(root, "x.y", NULL, &i)); /* a key that has a dot itself */
    assert_int_equal(i, 8);
    assert_ok(rf_json_get_i64(root, "w", NULL, &i)); /* a real that is whole */
    assert_int_equal(i, 12);
    assert_ok(rf_json_get_f64(root, "r", NULL, &d));
    assert_true(d == 2.5);
    assert_ok(rf_json_get_f64(root, "x.y", NULL, &d));
    assert_true(d == 8);
    assert_ok(rf_json_get_bool(root, "t", NULL, &b));
    assert_true(b);
    assert_ok(rf_json_get_str(root, "s", NULL, &s));
    assert_string_equal(s, "text");
    assert_null(rf_json_find(root, "a.b.d"));
    assert_null(rf_json_find(root, "s.b"));
    assert_null(rf_json_find(root, ""));
    rf_json_free(root);
}

static void absent_and_null_take_the_fallback_or_are_not_found(void **state)
{
    rf_json *root = parse("{\"n\": null}");
    int64_t i = 0;
    double d = 0;
    bool b = false;
    const char *s = NULL;
    (void)state;
    assert_ok(rf_json_get_i64(root, "n", &(int64_t){5}, &i));
    assert_int_equal(i, 5);
    assert_ok(rf_json_get_f64(root, "no", &(double){0.5}, &d));
    assert_true(d == 0.5);
    assert_ok(rf_json_get_bool(root, "no", &(bool){true}, &b));
    assert_true(b);
    assert_ok(rf_json_get_str(root, "no", "f", &s));
    assert_string_equal(s, "f");
    assert_refused(rf_json_get_i64(root, "n", NULL, &i), RF_ERR_NOT_FOUND,
                   "key 'n' is missing, expected a whole number");
    assert_refused(rf_json_get_str(root, "a.b", NULL, &s), RF_ERR_NOT_FOUND,
                   "key 'a.b' is missing");
    rf_json_free(root);
}

static void a_wrong_type_names_key_value_and_expectation(void **state)
{
    rf_json *root =
        parse("{\"a\": \"8\", \"b\": 2.5, \"c\": 1e300, \"d\": [1, 2],"
              "\"e\": \"01234567890123456789012345678901234567890123456789012345678901234567\"}");
    int64_t i = 0;
    double d = 0;
    bool b = false;
    const char *s = NULL;
    (void)state;
    assert_refused(rf_json_get_i64(root, "a", &i, &i), RF_ERR_FORMAT,
                   "key 'a' is \"8\", expected a whole number");
    assert_refused(rf_json_get_i64(root, "b", &i, &i), RF_ERR_FORMAT, "key 'b' is 2.5,");
    assert_refused(rf_json_get_i64(root, "c", &i, &i), RF_ERR_FORMAT, "expected a whole number");
    assert_refused(rf_json_get_f64(root, "d", &d, &d), RF_ERR_FORMAT,
                   "key 'd' is [1,2], expected a number");
    assert_refused(rf_json_get_bool(root, "b", &b, &b), RF_ERR_FORMAT, "expected true or false");
    assert_refused(rf_json_get_str(root, "b", "", &s), RF_ERR_FORMAT, "expected a text");
    assert_refused(rf_json_get_i64(root, "e", &i, &i), RF_ERR_FORMAT, "012345678..., expected");
    rf_json_free(root);
}

static void malformed_text_is_refused_with_its_place(void **state)
{
    static const char *const texts[] = {
        "",
        "{",
        "[1,]",
        "{\"a\":1}}",
        "{\"a\":1,\"a\":2}",
        "{'a':1}",
        "[NaN]",
        "{\"a\":\"\\u0000\"}",
        "[9223372036854775808]",
        "[1e999]",
        "\"\xff\"",
        "[\"\xc3\x28\"]",
        "7",
    };
    rf_json *root = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_refused(rf_json_parse(texts[i], (int64_t)strlen(texts[i]), "c.json", &root),
                       RF_ERR_FORMAT, "c.json:1:");
        assert_null(root);
    }
    assert_refused(rf_json_parse("{\n \"a\": x}", 11, "c.json", &root), RF_ERR_FORMAT, "c.json:2:");
    assert_refused(rf_json_parse("[1]\0", 4, "c.json", &root), RF_ERR_FORMAT, "c.json");
}

static void nesting_without_end_is_refused(void **state)
{
    enum { N = 1 << 20 };
    char *text = rf_calloc(N, 1);
    rf_json *root = NULL;
    (void)state;
    memset(text, '[', N);
    assert_refused(rf_json_parse(text, N, "c.json", &root), RF_ERR_FORMAT, "depth");
    rf_free(text);
}

static void loads_files_and_names_missing_ones(void **state)
{
    rf_json *root = NULL;
    (void)state;
    put_text(scratch("a.json"), "{\"a\": 1}");
    assert_ok(rf_json_load(scratch("a.json"), &root));
    rf_json_free(root);
    put_text(scratch("a.json"), "{\"a\": }");
    assert_refused(rf_json_load(scratch("a.json"), &root), RF_ERR_FORMAT, "/a.json:1:7:");
    assert_refused(rf_json_load(scratch("b.json"), &root), RF_ERR_NOT_FOUND, "/b.json'");
    rf_json_free(NULL);
}

static void texts_are_written_so_that_they_read_back(void **state)
{
    static const char *const texts[] = {"",
                                        "plain",
                                        "q\"b\\n\n\t\x01\x7f",
                                        "\xc3\xa9\xe2\x82\xac",
                                        "\xf0\x9f\x98\x80",
                                        "\xef\xbb\xbf\xe2\x80\xa8"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        rf_str s = {0};
        const char *back = NULL;
        assert_ok(rf_str_append(&s, "{\"k\":"));
        assert_ok(rf_json_append_str(&s, texts[i]));
        assert_ok(rf_str_append(&s, "}"));
        rf_json *root = parse(s.data);
        assert_ok(rf_json_get_str(root, "k", NULL, &back));
        assert_string_equal(back, texts[i]);
        rf_json_free(root);
        rf_str_fini(&s);
    }
}

static void bytes_that_are_no_text_become_the_replacement(void **state)
{
    static const struct {
        const char *bytes, *expected;
    } cases[] = {
        {"a\xff"
         "b",
         "\"a\\ufffdb\""},
        {"\xc3", "\"\\ufffd\""},                                  /* cut */
        {"\xc0\xaf", "\"\\ufffd\\ufffd\""},                       /* overlong */
        {"\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\""},            /* half a surrogate */
        {"\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""}, /* above U+10FFFF */
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rf_str s = {0};
        assert_ok(rf_json_append_str(&s, cases[i].bytes));
        assert_string_equal(s.data, cases[i].expected);
        rf_str_fini(&s);
    }
}

static void numbers_keep_their_bits_and_nan_is_null(void **state)
{
    static const double values[] = {
        0, -1.5, 0.1, 1e-300, 12345678901234567.0, 0x1.fffffffffffffp1023};
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        rf_str s = {0};
        double back = 0;
        assert_ok(rf_json_append_f64(&s, values[i]));
        assert_ok(rf_parse_f64(s.data, &back));
        assert_true(back == values[i]);
        rf_str_fini(&s);
    }
    rf_str s = {0};
    assert_ok(rf_json_append_f64(&s, NAN));
    assert_ok(rf_json_append_f64(&s, -INFINITY));
    assert_string_equal(s.data, "nullnull");
    rf_str_fini(&s);
    assert_int_equal(rf_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_values_and_descends_by_dots),
        cmocka_unit_test(absent_and_null_take_the_fallback_or_are_not_found),
        cmocka_unit_test(a_wrong_type_names_key_value_and_expectation),
        cmocka_unit_test(malformed_text_is_refused_with_its_place),
        cmocka_unit_test(nesting_without_end_is_refused),
        scratch_test(loads_files_and_names_missing_ones),
        cmocka_unit_test(texts_are_written_so_that_they_read_back),
        cmocka_unit_test(bytes_that_are_no_text_become_the_replacement),
        cmocka_unit_test(numbers_keep_their_bits_and_nan_is_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
