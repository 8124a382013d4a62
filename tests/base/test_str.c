#include "refract/base.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void text_grows_and_always_ends(void **state)
{
    rf_str s = {0};
    (void)state;
    rf_str_fini(&s);
    assert_int_equal(rf_str_append(&s, "%s", ""), RF_OK);
    assert_string_equal(s.data, "");
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(rf_str_append(&s, "%d,", i % 10), RF_OK);
        assert_int_equal(s.len, 2 * (i + 1));
        assert_int_equal(strlen(s.data), s.len);
    }
    assert_int_equal(rf_str_append_bytes(&s, "a\0b", 3), RF_OK);
    assert_int_equal(s.len, 2003);
    assert_memory_equal(s.data + 1996, "8,9,a\0b", 8);
    assert_int_equal(rf_str_append_bytes(&s, NULL, 0), RF_OK);
    rf_str_fini(&s);
    assert_null(s.data);
    assert_int_equal(rf_alloc_live(), 0);
}

static void format_never_cuts(void **state)
{
    char out[4];
    (void)state;
    assert_int_equal(rf_format(out, sizeof out, "%d", 123), RF_OK);
    assert_string_equal(out, "123");
    assert_int_equal(rf_format(out, sizeof out, "%d", 1234), RF_ERR_INVALID_ARG);
    assert_string_equal(rf_error_text(), "'123...' does not fit into 4 bytes");
}

static void a_copy_is_a_copy(void **state)
{
    char text[] = "abc";
    char *copy = rf_strdup(text);
    (void)state;
    text[0] = 'x';
    assert_string_equal(copy, "abc");
    rf_free(copy);
}

static void distance_is_the_number_of_edits(void **state)
{
    static const struct {
        const char *a, *b;
        int64_t distance;
    } cases[] = {
        {"", "", 0},         {"", "abc", 3},      {"lr", "lrr", 1}, {"kitten", "sitting", 3},
        {"flaw", "lawn", 2}, {"same", "same", 0}, {"ab", "ba", 2}};
    char longer[300];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(rf_str_distance(cases[i].a, cases[i].b), cases[i].distance);
        assert_int_equal(rf_str_distance(cases[i].b, cases[i].a), cases[i].distance);
    }
    memset(longer, 'x', sizeof longer);
    longer[299] = '\0';
    assert_int_equal(rf_str_distance(longer, ""), 128); /* the first 128 bytes count */
}

static void whole_numbers_are_read_exactly_or_refused(void **state)
{
    static const struct {
        const char *text;
        int64_t value;
    } good[] = {{"0", 0},
                {"-7", -7},
                {"+7", 7},
                {"1.2e6", 1200000},
                {"1e0", 1},
                {"4.0", 4},
                {"-0", 0},
                {"007", 7},
                {"9223372036854775807", INT64_MAX},
                {"-9223372036854775808", INT64_MIN},
                {"9007199254740993", 9007199254740993}};
    static const char *const bad[] = {
        "",
        " 1",
        "1 ",
        "\t1",
        "\v1",
        "\f1",
        "1\r",
        "1.5",
        "1e-1",
        "x",
        "1x",
        "0x10",
        "0x1p4",
        "inf",
        "nan",
        "-inf",
        "1e300",
        "1e17",
        "--1",
        "+",
        "1,000",
        "1_000",
        "9223372036854775808",
        "1e",
        ".",
        "e5",
        "infinity",
        "NAN(1)",
    };
    int64_t v = 99;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(rf_parse_i64(good[i].text, &v), RF_OK);
        assert_true(v == good[i].value);
    }
    v = 99;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (rf_parse_i64(bad[i], &v) != RF_ERR_INVALID_ARG) {
            fail_msg("'%s' was read as %" PRId64, bad[i], v);
        }
        assert_non_null(strstr(rf_error_text(), bad[i]));
    }
    assert_true(v == 99);
}

static void numbers_are_read_or_refused(void **state)
{
    static const struct {
        const char *text;
        double value;
    } good[] = {{"0", 0},    {"4e-4", 4e-4}, {"-1.5E+3", -1500},
                {".5", 0.5}, {"5.", 5},      {"1e308", 1e308}};
    static const char *const bad[] = {"",    " 1",    "1 ",  "\v1",  "\r1", "1.2.3", "inf", "-inf",
                                      "nan", "1e999", "0x1", "1e5x", "1,5", "e",     "-"};
    double v = 99;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(rf_parse_f64(good[i].text, &v), RF_OK);
        assert_true(v == good[i].value);
    }
    v = 99;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (rf_parse_f64(bad[i], &v) != RF_ERR_INVALID_ARG) {
            fail_msg("'%s' was read as %g", bad[i], v);
        }
    }
    assert_true(v == 99);
}

static void casts_and_products_refuse_what_does_not_fit(void **state)
{
    int narrow = 0;
    int64_t product = 0;
    (void)state;
    assert_int_equal(rf_cast_int(INT_MIN, "n", &narrow), RF_OK);
    assert_int_equal(narrow, INT_MIN);
    assert_int_equal(rf_cast_int((int64_t)INT_MAX + 1, "rows", &narrow), RF_ERR_INVALID_ARG);
    assert_string_equal(rf_error_text(), "rows = 2147483648 does not fit 32 bits");
    assert_int_equal(rf_mul_i64(INT64_C(1) << 31, INT64_C(1) << 31, "n", &product), RF_OK);
    assert_true(product == INT64_C(1) << 62);
    assert_int_equal(rf_mul_i64(INT64_C(1) << 32, INT64_C(1) << 31, "bytes", &product),
                     RF_ERR_INVALID_ARG);
    assert_string_equal(rf_error_text(), "bytes: 4294967296 x 2147483648 overflows");
    assert_int_equal(rf_ceil_div(0, 3), 0);
    assert_int_equal(rf_ceil_div(7, 3), 3);
    assert_int_equal(rf_ceil_div(6, 3), 2);
}

static void durations_and_bytes_are_for_people(void **state)
{
    static const struct {
        double value;
        const char *text;
    } seconds[] = {{0, "0s"},          {59.4, "59s"},    {59.6, "1m 00s"}, {125, "2m 05s"},
                   {3599.6, "1h 00m"}, {7384, "2h 03m"}, {-5, "0s"},       {1e300, "0s"}},
      bytes[] = {{0, "0 B"},          {999, "999 B"},        {999.6, "1.00 kB"},
                 {1000, "1.00 kB"},   {999994, "999.99 kB"}, {999999, "1.00 MB"},
                 {1.21e9, "1.21 GB"}, {1e19, "10000.00 PB"}};
    char out[32];
    (void)state;
    for (size_t i = 0; i < 8; i++) {
        rf_format_duration(seconds[i].value, out);
        assert_string_equal(out, seconds[i].text);
        rf_format_bytes(bytes[i].value, out);
        assert_string_equal(out, bytes[i].text);
    }
    rf_format_bytes(1e300, out); /* cut, but within its 32 bytes */
    assert_true(strlen(out) < 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_grows_and_always_ends),
        cmocka_unit_test(format_never_cuts),
        cmocka_unit_test(a_copy_is_a_copy),
        cmocka_unit_test(distance_is_the_number_of_edits),
        cmocka_unit_test(whole_numbers_are_read_exactly_or_refused),
        cmocka_unit_test(numbers_are_read_or_refused),
        cmocka_unit_test(casts_and_products_refuse_what_does_not_fit),
        cmocka_unit_test(durations_and_bytes_are_for_people),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
