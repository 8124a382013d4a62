/* CSV as RFC 4180 has it: quotes where they must be, a quote within quotes doubled. */
#include "report_impl.h"

#include <string.h>

typedef struct reader {
    const char *name;
    char *in, *out, *end; /* what is read becomes the cells in place: never longer */
    int64_t line, n_cells, capacity;
    rf_csv *csv;
} reader;

static rf_status push_cell(reader *r)
{
    if (r->n_cells == r->capacity) {
        const int64_t capacity = rf_max_i64(256, 2 * r->capacity);
        char **cells = rf_realloc(r->csv->cells, r->capacity, capacity, sizeof *cells);
        if (cells == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        r->csv->cells = cells;
        r->capacity = capacity;
    }
    r->csv->cells[r->n_cells++] = r->out;
    return RF_OK;
}

static rf_status read_quoted(reader *r)
{
    rf_status status = RF_OK;
    const int64_t line = r->line;
    for (r->in++;; r->in++) {
        if (r->in == r->end) {
            RF_FAIL(RF_ERR_FORMAT, "%s:%" PRId64 ": a quote that does not end", r->name, line);
        }
        if (*r->in == '"' && *++r->in != '"') { /* the text ends in NUL: one further is there */
            break;
        }
        r->line += *r->in == '\n';
        *r->out++ = *r->in;
    }
    r->in += r->in < r->end && *r->in == '\r';
    if (r->in < r->end && *r->in != ',' && *r->in != '\n') {
        RF_FAIL(RF_ERR_FORMAT, "%s:%" PRId64 ": '%c' behind a quote, expected a comma", r->name,
                r->line, *r->in);
    }
fail:
    return status;
}

/* One cell and the comma or line end behind it. */
static rf_status read_cell(reader *r, bool *ends_row)
{
    rf_status status = RF_OK;
    RF_TRY(push_cell(r));
    if (r->in < r->end && *r->in == '"') {
        RF_TRY(read_quoted(r));
    } else {
        while (r->in < r->end && *r->in != ',' && *r->in != '\n') {
            *r->out++ = *r->in++;
        }
        r->out -= r->out > r->csv->cells[r->n_cells - 1] && r->out[-1] == '\r';
    }
    *ends_row = r->in == r->end || *r->in == '\n';
    r->in += r->in < r->end;
    *r->out++ = '\0'; /* where a comma, a line end or the last NUL was read */
fail:
    return status;
}

rf_status rf_csv_parse(const char *text, int64_t n_bytes, const char *name, rf_csv *out)
{
    rf_status status = RF_OK;
    reader r = {.name = name, .line = 1, .csv = out};
    bool ends_row = false;

    memset(out, 0, sizeof *out);
    if (memchr(text, '\0', (size_t)n_bytes) != NULL) {
        RF_FAIL(RF_ERR_FORMAT, "%s: holds a NUL byte, expected text", name);
    }
    RF_ALLOC(out->text, n_bytes + 1);
    memcpy(out->text, text, (size_t)n_bytes);
    r.in = r.out = out->text;
    r.end = out->text + n_bytes;
    while (r.in < r.end) {
        const int64_t first = r.n_cells, line = r.line;
        for (ends_row = false; !ends_row;) {
            RF_TRY(read_cell(&r, &ends_row));
        }
        out->n_columns = out->n_rows == 0 ? r.n_cells : out->n_columns;
        if (r.n_cells - first != out->n_columns) {
            RF_FAIL(RF_ERR_FORMAT, "%s:%" PRId64 ": %" PRId64 " cells, expected %" PRId64, name,
                    line, r.n_cells - first, out->n_columns);
        }
        out->n_rows++;
        r.line++;
    }
fail:
    if (status != RF_OK) {
        rf_csv_fini(out);
    }
    return status;
}

void rf_csv_fini(rf_csv *csv)
{
    rf_free(csv->cells);
    rf_free(csv->text);
    memset(csv, 0, sizeof *csv);
}

int64_t rf_csv_column(const rf_csv *csv, const char *heading)
{
    for (int64_t i = 0; csv->n_rows > 0 && i < csv->n_columns; i++) {
        if (strcmp(csv->cells[i], heading) == 0) {
            return i;
        }
    }
    return -1;
}
