/* CSV as summary.csv has it, and as nobody should. */
#include "../../src/report/report_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static rf_csv parse(const char *text)
{
    rf_csv csv;
    if (rf_csv_parse(text, (int64_t)strlen(text), "test.csv", &csv) != RF_OK) {
        fail_msg("%s", rf_error_text());
    }
    return csv;
}

static void cells_are_what_stands_between_commas(void **state)
{
    (void)state;
    rf_csv csv = parse("name,k,note\na,8,\nb,,x\n");
    assert_int_equal(csv.n_rows, 3);
    assert_int_equal(csv.n_columns, 3);
    assert_string_equal(csv.cells[3], "a");
    assert_string_equal(csv.cells[4], "8");
    assert_string_equal(csv.cells[5], "");
    assert_string_equal(csv.cells[7], "");
    assert_string_equal(csv.cells[8], "x");
    assert_int_equal(rf_csv_column(&csv, "note"), 2);
    assert_int_equal(rf_csv_column(&csv, "a"), -1);
    rf_csv_fini(&csv);
}

static void quotes_hold_commas_lines_and_quotes(void **state)
{
    (void)state;
    rf_csv csv = parse("a,b\r\n\"x, \"\"y\"\"\nz\",\"\"\r\n1,2");
    assert_int_equal(csv.n_rows, 3);
    assert_string_equal(csv.cells[1], "b");
    assert_string_equal(csv.cells[2], "x, \"y\"\nz");
    assert_string_equal(csv.cells[3], "");
    assert_string_equal(csv.cells[5], "2");
    rf_csv_fini(&csv);
}

static void an_empty_file_has_no_rows(void **state)
{
    (void)state;
    rf_csv csv = parse("");
    assert_int_equal(csv.n_rows, 0);
    assert_int_equal(rf_csv_column(&csv, "name"), -1);
    rf_csv_fini(&csv);
}

static void expect_refused(const char *text, int64_t n_bytes, const char *words)
{
    rf_csv csv;
    const int64_t live = rf_alloc_live();
    assert_int_equal(rf_csv_parse(text, n_bytes, "test.csv", &csv), RF_ERR_FORMAT);
    assert_non_null(strstr(rf_error_text(), words));
    assert_int_equal(rf_alloc_live(), live);
}

static void damage_is_refused_with_its_line(void **state)
{
    (void)state;
    expect_refused("a,b\n1,2\n3\n", 10, "test.csv:3: 1 cells, expected 2");
    expect_refused("a,b\n1,2,3\n", 10, "test.csv:2: 3 cells");
    expect_refused("a,b\n1,\"2\n3,4\n", 13, "test.csv:2: a quote that does not end");
    expect_refused("a,b\n\"1\"x,2\n", 11, "test.csv:2: 'x' behind a quote");
    expect_refused("\"", 1, "test.csv:1: a quote");
    expect_refused("\"\"\"", 3, "test.csv:1: a quote");
    expect_refused("a\0b", 3, "NUL");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_are_what_stands_between_commas),
        cmocka_unit_test(quotes_hold_commas_lines_and_quotes),
        cmocka_unit_test(an_empty_file_has_no_rows),
        cmocka_unit_test(damage_is_refused_with_its_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
