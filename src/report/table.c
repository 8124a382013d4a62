/* Aligned text tables. */
#include "refract/report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct rf_table {
    int64_t n_columns, n_cells, capacity; /* cells, the headings first, row by row */
    char **cells;
    char alignment[RF_TABLE_MAX_COLUMNS];
};

/* Characters of `text`: bytes that do not continue one. */
static int64_t count_characters(const char *text)
{
    int64_t n = 0;
    for (const char *p = text; *p != '\0'; p++) {
        n += ((unsigned char)*p & 0xC0) != 0x80;
    }
    return n;
}

/* Takes `text`, also when it fails. */
static rf_status push_cell(rf_table *table, char *text)
{
    rf_status status = RF_OK;

    if (table->n_cells == table->capacity) {
        const int64_t capacity = rf_max_i64(64, 2 * table->capacity);
        char **cells = rf_realloc(table->cells, table->capacity, capacity, sizeof *cells);
        if (cells == NULL) {
            status = RF_ERR_NO_MEMORY;
            goto fail;
        }
        table->cells = cells;
        table->capacity = capacity;
    }
    table->cells[table->n_cells++] = text;
    text = NULL;
fail:
    rf_free(text);
    return status;
}

rf_status rf_table_create(const char *const *headings, int64_t n_columns, const char *alignment,
                          rf_table **out)
{
    rf_status status = RF_OK;
    rf_table *table = NULL;

    *out = NULL;
    RF_REQUIRE(n_columns >= 1 && n_columns <= RF_TABLE_MAX_COLUMNS,
               "a table of %" PRId64 " columns, expected 1 to %d", n_columns, RF_TABLE_MAX_COLUMNS);
    RF_REQUIRE((int64_t)strlen(alignment) == n_columns &&
                   strspn(alignment, "lr") == strlen(alignment),
               "alignment '%s', expected %" PRId64 " letters l or r", alignment, n_columns);
    RF_ALLOC(table, 1);
    table->n_columns = n_columns;
    memcpy(table->alignment, alignment, (size_t)n_columns);
    for (int64_t i = 0; i < n_columns; i++) {
        RF_TRY(rf_table_add(table, "%s", headings[i]));
    }
    *out = table;
    table = NULL;
fail:
    rf_table_destroy(table);
    return status;
}

void rf_table_destroy(rf_table *table)
{
    if (table == NULL) {
        return;
    }
    for (int64_t i = 0; i < table->n_cells; i++) {
        rf_free(table->cells[i]);
    }
    rf_free(table->cells);
    rf_free(table);
}

rf_status rf_table_add(rf_table *table, const char *fmt, ...)
{
    rf_status status = RF_OK;
    char text[RF_PATH_LEN];
    va_list args;

    va_start(args, fmt);
    const int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    RF_REQUIRE(n >= 0 && (size_t)n < sizeof text, "a cell of %d bytes, expected fewer than %d", n,
               RF_PATH_LEN);
    char *copy = rf_strdup(text);
    if (copy == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    RF_TRY(push_cell(table, copy));
fail:
    return status;
}

rf_status rf_table_add_number(rf_table *table, double value, int n_digits)
{
    return isnan(value) ? rf_table_add(table, "n/a") : rf_table_add(table, "%.*f", n_digits, value);
}

static rf_status write_spaces(rf_str *out, int64_t n)
{
    return n > 0 ? rf_str_append(out, "%*s", (int)n, "") : RF_OK;
}

/* Spaces are owed until something follows them, so that no line ends in one. */
static rf_status write_row(const rf_table *table, int64_t row, const int64_t *widths, rf_str *out)
{
    rf_status status = RF_OK;
    int64_t owed = 0;

    for (int64_t i = 0; i < table->n_columns; i++) {
        const char *cell = table->cells[row * table->n_columns + i];
        const int64_t room = widths[i] - count_characters(cell);
        const bool is_right = table->alignment[i] == 'r';
        if (cell[0] != '\0') {
            RF_TRY(write_spaces(out, owed + (is_right ? room : 0)));
            RF_TRY(rf_str_append_bytes(out, cell, (int64_t)strlen(cell)));
            owed = 2 + (is_right ? 0 : room);
        } else {
            owed += widths[i] + 2;
        }
    }
    RF_TRY(rf_str_append(out, "\n"));
fail:
    return status;
}

rf_status rf_table_write(const rf_table *table, rf_str *out)
{
    rf_status status = RF_OK;
    int64_t widths[RF_TABLE_MAX_COLUMNS] = {0}, total = -2;
    const int64_t n_rows = table->n_cells / table->n_columns;

    RF_REQUIRE(table->n_cells % table->n_columns == 0,
               "the last row has %" PRId64 " cells, expected %" PRId64,
               table->n_cells % table->n_columns, table->n_columns);
    for (int64_t i = 0; i < table->n_cells; i++) {
        int64_t *width = &widths[i % table->n_columns];
        *width = rf_max_i64(*width, count_characters(table->cells[i]));
    }
    for (int64_t i = 0; i < table->n_columns; i++) {
        total += widths[i] + 2;
    }
    RF_TRY(write_row(table, 0, widths, out));
    for (int64_t i = 0; i < total; i++) {
        RF_TRY(rf_str_append(out, "-"));
    }
    RF_TRY(rf_str_append(out, "\n"));
    for (int64_t row = 1; row < n_rows; row++) {
        RF_TRY(write_row(table, row, widths, out));
    }
fail:
    return status;
}
