/* Aligned text tables. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "refract/report.h"

static const char *const headings[] = {"name", "n", "value"};

static rf_table *make(void)
{
    rf_table *table = NULL;
    assert_int_equal(rf_table_create(headings, 3, "lrr", &table), RF_OK);
    return table;
}

static void columns_are_as_wide_as_their_widest_cell(void **state)
{
    (void)state;
    rf_str out = {0};
    rf_table *table = make();
    assert_int_equal(rf_table_add(table, "%s", "a"), RF_OK);
    assert_int_equal(rf_table_add(table, "%d", 12345), RF_OK);
    assert_int_equal(rf_table_add_number(table, 0.12345, 3), RF_OK);
    assert_int_equal(rf_table_add(table, "longer"), RF_OK);
    assert_int_equal(rf_table_add(table, "7"), RF_OK);
    assert_int_equal(rf_table_add_number(table, (double)NAN, 3), RF_OK);
    assert_int_equal(rf_table_write(table, &out), RF_OK);
    assert_string_equal(out.data, "name        n  value\n"
                                  "--------------------\n"
                                  "a       12345  0.123\n"
                                  "longer      7    n/a\n");
    rf_str_fini(&out);
    rf_table_destroy(table);
}

static void width_counts_characters_not_bytes(void **state)
{
    (void)state;
    rf_str out = {0};
    rf_table *table = make();
    assert_int_equal(rf_table_add(table, "\xce\xbb\xce\xbb"),
                     RF_OK); /* two characters, four bytes */
    assert_int_equal(rf_table_add(table, "1"), RF_OK);
    assert_int_equal(rf_table_add(table, "2"), RF_OK);
    assert_int_equal(rf_table_write(table, &out), RF_OK);
    assert_non_null(strstr(out.data, "\n\xce\xbb\xce\xbb    1      2\n"));
    rf_str_fini(&out);
    rf_table_destroy(table);
}

static void no_line_ends_in_spaces(void **state)
{
    (void)state;
    rf_str out = {0};
    rf_table *table = make();
    assert_int_equal(rf_table_add(table, "a long name"), RF_OK);
    assert_int_equal(rf_table_add(table, "%s", ""), RF_OK);
    assert_int_equal(rf_table_add(table, "%s", ""), RF_OK);
    assert_int_equal(rf_table_write(table, &out), RF_OK);
    assert_null(strstr(out.data, " \n"));
    rf_str_fini(&out);
    rf_table_destroy(table);
}

static void an_empty_table_is_its_heading(void **state)
{
    (void)state;
    rf_str out = {0};
    rf_table *table = make();
    assert_int_equal(rf_table_write(table, &out), RF_OK);
    assert_string_equal(out.data, "name  n  value\n--------------\n");
    rf_str_fini(&out);
    rf_table_destroy(table);
}

static void a_row_that_is_not_full_is_refused(void **state)
{
    (void)state;
    rf_str out = {0};
    rf_table *table = make();
    assert_int_equal(rf_table_add(table, "a"), RF_OK);
    assert_int_equal(rf_table_write(table, &out), RF_ERR_INVALID_ARG);
    rf_str_fini(&out);
    rf_table_destroy(table);
    assert_int_equal(rf_table_create(headings, 3, "lx", &table), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_table_create(headings, 0, "", &table), RF_ERR_INVALID_ARG);
}

static void many_rows_fit(void **state)
{
    (void)state;
    rf_str out = {0};
    rf_table *table = make();
    int64_t n_lines = 0;
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(rf_table_add(table, "r%d", i), RF_OK);
        assert_int_equal(rf_table_add(table, "%d", i), RF_OK);
        assert_int_equal(rf_table_add_number(table, i, 1), RF_OK);
    }
    assert_int_equal(rf_table_write(table, &out), RF_OK);
    for (int64_t i = 0; i < out.len; i++) {
        n_lines += out.data[i] == '\n';
    }
    assert_int_equal(n_lines, 1002);
    rf_str_fini(&out);
    rf_table_destroy(table);
    assert_int_equal(rf_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_as_wide_as_their_widest_cell),
        cmocka_unit_test(width_counts_characters_not_bytes),
        cmocka_unit_test(no_line_ends_in_spaces),
        cmocka_unit_test(an_empty_table_is_its_heading),
        cmocka_unit_test(a_row_that_is_not_full_is_refused),
        cmocka_unit_test(many_rows_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
