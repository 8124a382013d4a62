/* Rows of a text: fields by RFC 4180, or whole lines. */
#include "picture_list_impl.h"

#include <string.h>

enum { MAX_ROW = 1 << 20, MAX_FIELDS = 1024 };

rf_status rf_picture_rows_begin(picture_rows *rows, const char *text, int64_t n_bytes,
                                char separator, const char *name)
{
    rf_status status = RF_OK;
    *rows = (picture_rows){
        .text = text, .n_bytes = n_bytes, .separator = separator, .name = name, .next_line = 1};
    RF_ALLOC(rows->buffer, MAX_ROW);
    RF_ALLOC(rows->fields, MAX_FIELDS);
    if (n_bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        rows->at = 3; /* the mark that Windows puts before UTF-8 */
    }
fail:
    return status;
}

void rf_picture_rows_end(picture_rows *rows)
{
    rf_free(rows->fields);
    rf_free(rows->buffer);
    *rows = (picture_rows){0};
}

static rf_status put(picture_rows *rows, char c)
{
    if (c == '\0') {
        return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__,
                              "%s: line %" PRId64 ": a zero byte; is it a text file?", rows->name,
                              rows->line);
    }
    if (rows->used >= MAX_ROW - 1) {
        return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__,
                              "%s: line %" PRId64 ": longer than %d bytes", rows->name, rows->line,
                              (int)MAX_ROW);
    }
    rows->buffer[rows->used++] = c;
    return RF_OK;
}

static rf_status begin_field(picture_rows *rows)
{
    if (rows->n_fields == MAX_FIELDS) {
        return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__,
                              "%s: line %" PRId64 ": more than %d fields", rows->name, rows->line,
                              (int)MAX_FIELDS);
    }
    rows->fields[rows->n_fields++] = rows->buffer + rows->used;
    return RF_OK;
}

/* The byte `ahead` of the place; '\n' at the end, and for "\r\n" at its '\r'. */
static char peek(const picture_rows *rows, int64_t ahead)
{
    const int64_t at = rows->at + ahead;
    if (at >= rows->n_bytes) {
        return '\n';
    }
    const char c = rows->text[at];
    const bool last = at + 1 >= rows->n_bytes;
    return c == '\r' && (last || rows->text[at + 1] == '\n') ? '\n' : c;
}

/* From behind the first quote to behind the last. */
static rf_status read_quoted(picture_rows *rows)
{
    rf_status status = RF_OK;
    const int64_t first_line = rows->next_line;
    for (;;) {
        if (rows->at >= rows->n_bytes) {
            RF_FAIL(RF_ERR_FORMAT, "%s: line %" PRId64 ": a quote that nothing closes", rows->name,
                    first_line);
        }
        const char c = rows->text[rows->at++];
        if (c == '"' && (rows->at >= rows->n_bytes || rows->text[rows->at] != '"')) {
            break;
        }
        rows->at += c == '"';
        rows->next_line += c == '\n';
        RF_TRY(put(rows, c));
    }
    if (peek(rows, 0) != rows->separator && peek(rows, 0) != '\n') {
        RF_FAIL(RF_ERR_FORMAT, "%s: line %" PRId64 ": text behind a quoted field", rows->name,
                rows->next_line);
    }
fail:
    return status;
}

static rf_status read_plain(picture_rows *rows)
{
    rf_status status = RF_OK;
    while (peek(rows, 0) != rows->separator && peek(rows, 0) != '\n') {
        RF_TRY(put(rows, rows->text[rows->at]));
        rows->at++;
    }
fail:
    return status;
}

static void pass_line_end(picture_rows *rows)
{
    if (rows->at < rows->n_bytes) {
        const bool two = rows->text[rows->at] == '\r' && rows->at + 1 < rows->n_bytes;
        rows->at += two ? 2 : 1;
    }
    rows->next_line++;
}

/* A row that has a character. */
static rf_status read_row(picture_rows *rows)
{
    rf_status status = RF_OK;
    const bool quotes = rows->separator != '\n';
    for (;;) {
        RF_TRY(begin_field(rows));
        if (quotes && rows->at < rows->n_bytes && rows->text[rows->at] == '"') {
            rows->at++;
            RF_TRY(read_quoted(rows));
        } else {
            RF_TRY(read_plain(rows));
        }
        rows->buffer[rows->used++] = '\0'; /* put() leaves room */
        if (peek(rows, 0) == '\n') {
            break;
        }
        rows->at++;
        if (rows->used >= MAX_ROW - 1) {
            RF_FAIL(RF_ERR_FORMAT, "%s: line %" PRId64 ": longer than %d bytes", rows->name,
                    rows->line, (int)MAX_ROW);
        }
    }
    pass_line_end(rows);
fail:
    return status;
}

rf_status rf_picture_rows_next(picture_rows *rows, bool *has)
{
    *has = false;
    rows->n_fields = rows->used = 0;
    while (rows->at < rows->n_bytes && peek(rows, 0) == '\n') {
        pass_line_end(rows);
    }
    rows->line = rows->next_line;
    if (rows->at >= rows->n_bytes) {
        return RF_OK;
    }
    *has = true;
    return read_row(rows);
}

rf_status rf_picture_rows_cut(picture_rows *rows, char separator)
{
    rf_status status = RF_OK;
    char *at = rows->buffer;
    rows->n_fields = rows->used = 0;
    for (char *found = at; found != NULL; at = found + 1) {
        found = strchr(at, separator);
        rows->used = at - rows->buffer;
        RF_TRY(begin_field(rows));
        if (found == NULL) {
            break;
        }
        *found = '\0';
    }
fail:
    return status;
}
