/* A list of pictures: a path a row, and a label beside it if there is one. */
#include "picture_list_impl.h"

#include <string.h>
#include <strings.h>

/* Where things stand in a row. */
typedef struct columns {
    int64_t n, path, label; /* label -1: none */
} columns;

static const char *const path_names[] = {
    "path",      "file", "filename",   "file_name",  "filepath", "file_path", "image",
    "imagepath", "img",  "image_path", "image_file", "img_path", "picture",   NULL};
static const char *const label_names[] = {"label",      "class",    "class_name", "classname",
                                          "label_name", "category", "target",     "synset",
                                          "class_id",   "label_id", "wnid",       NULL};

static bool ends_in(const char *path, const char *ending)
{
    const size_t n = strlen(path), m = strlen(ending);
    return n > m && strcasecmp(path + n - m, ending) == 0;
}

bool rf_picture_list_is_list_name(const char *path)
{
    return ends_in(path, ".csv") || ends_in(path, ".tsv") || ends_in(path, ".txt");
}

/* A copy of `text` without the blanks around it; NULL with *status still RF_OK where nothing is
 * left. */
static const char *keep_trimmed(rf_picture_list *list, const char *text, rf_status *status)
{
    const char *first = text + strspn(text, " \t\r\n");
    size_t len = strlen(first);
    while (len > 0 && strchr(" \t\r\n", first[len - 1]) != NULL) {
        len--;
    }
    if (len == 0) {
        return NULL;
    }
    const char *copy = rf_picture_list_text(list, first, (int64_t)len);
    if (copy == NULL) {
        *status = RF_ERR_NO_MEMORY;
    }
    return copy;
}

/* The first field that has one of `names`, or -1. */
static int64_t find_column(const picture_rows *rows, const char *const *names)
{
    for (int64_t i = 0; i < rows->n_fields; i++) {
        const char *field = rows->fields[i] + strspn(rows->fields[i], " ");
        for (int64_t j = 0; names[j] != NULL; j++) {
            const size_t n = strlen(names[j]);
            if (strncasecmp(field, names[j], n) == 0 &&
                strspn(field + n, " ") == strlen(field + n)) {
                return i;
            }
        }
    }
    return -1;
}

/* Of the first row; *is_header when it names columns and is no picture. */
static rf_status find_columns(const picture_rows *rows, columns *out, bool *is_header)
{
    rf_status status = RF_OK;
    const int64_t path = find_column(rows, path_names), label = find_column(rows, label_names);
    *is_header = path >= 0;
    *out = (columns){.n = rows->n_fields, .path = path, .label = label};
    if (path >= 0) {
        return RF_OK;
    }
    if (label >= 0 && !rf_picture_is_name(rows->fields[0])) {
        RF_FAIL(RF_ERR_FORMAT,
                "%s: line %" PRId64 ": column '%s' is of labels, but none is named as one of "
                "pictures (path, file, filename, image, ...)",
                rows->name, rows->line, rows->fields[label]);
    }
    if (rows->n_fields > 2) {
        RF_FAIL(RF_ERR_FORMAT,
                "%s: line %" PRId64 ": %" PRId64 " fields, expected a path and perhaps a label, or "
                "a header that names which columns they are (path, label)",
                rows->name, rows->line, rows->n_fields);
    }
    *out = (columns){.n = rows->n_fields, .path = 0, .label = rows->n_fields == 2 ? 1 : -1};
fail:
    return status;
}

static rf_status add_row(rf_picture_list *list, const picture_rows *rows, const columns *c)
{
    rf_status status = RF_OK;
    picture_entry entry = {.label = -1, .n_bytes = -1, .shard = -1, .place = rows->line};
    if (rows->n_fields != c->n) {
        RF_FAIL(RF_ERR_FORMAT,
                "%s: line %" PRId64 ": %" PRId64 " fields, expected %" PRId64 " as in the first",
                rows->name, rows->line, rows->n_fields, c->n);
    }
    entry.name = keep_trimmed(list, rows->fields[c->path], &status);
    RF_TRY(status);
    if (entry.name == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "%s: line %" PRId64 ": no path in it", rows->name, rows->line);
    }
    if (strlen(entry.name) >= RF_PATH_LEN) {
        RF_FAIL(RF_ERR_FORMAT, "%s: line %" PRId64 ": a path of %zu bytes, expected fewer than %d",
                rows->name, rows->line, strlen(entry.name), (int)RF_PATH_LEN);
    }
    if (c->label >= 0) {
        entry.label_is = keep_trimmed(list, rows->fields[c->label], &status);
        RF_TRY(status);
    }
    if (entry.label_is != NULL && strlen(entry.label_is) >= PICTURE_LIST_MAX_LABEL) {
        RF_FAIL(RF_ERR_FORMAT, "%s: line %" PRId64 ": a label of %zu bytes, expected fewer than %d",
                rows->name, rows->line, strlen(entry.label_is), (int)PICTURE_LIST_MAX_LABEL);
    }
    RF_TRY(rf_picture_list_add(list, &entry));
fail:
    return status;
}

/* A line of a .txt: fields between tabs; else a path, or a path, blanks and a label, as Caffe has
 * them. A path may hold blanks: what is named like a picture is one. */
static rf_status cut_line(picture_rows *rows)
{
    char *line = rows->buffer;
    if (strchr(line, '\t') != NULL) {
        return rf_picture_rows_cut(rows, '\t');
    }
    for (size_t n = strlen(line); n > 0 && strchr(" \r", line[n - 1]) != NULL; n--) {
        line[n - 1] = '\0';
    }
    char *blank = strrchr(line, ' ');
    if (blank == NULL || rf_picture_is_name(line)) {
        return RF_OK;
    }
    char *end = blank; /* of the path */
    while (end > line && end[-1] == ' ') {
        end--;
    }
    *end = '\0';
    if (rf_picture_is_name(line)) {
        rows->fields[rows->n_fields++] = blank + 1;
    } else {
        *end = ' ';
    }
    return RF_OK;
}

rf_status rf_picture_list_read_rows(rf_picture_list *list, const char *text, int64_t n_bytes,
                                    const char *name)
{
    rf_status status = RF_OK;
    const bool is_lines = ends_in(name, ".txt");
    const char separator = is_lines ? '\n' : (ends_in(name, ".tsv") ? '\t' : ',');
    picture_rows rows = {0};
    columns c = {0};
    bool has = false, is_header = false;

    RF_TRY(rf_picture_rows_begin(&rows, text, n_bytes, separator, name));
    RF_TRY(rf_picture_rows_next(&rows, &has));
    for (bool is_first = true; has; is_first = false) {
        if (is_lines) {
            RF_TRY(cut_line(&rows));
        }
        if (is_first) {
            RF_TRY(find_columns(&rows, &c, &is_header));
        }
        if (!is_first || !is_header) {
            RF_TRY(add_row(list, &rows, &c));
        }
        RF_TRY(rf_picture_rows_next(&rows, &has));
    }
    if (list->n == 0) {
        RF_FAIL(RF_ERR_NOT_FOUND, "%s: no picture in the list", name);
    }
fail:
    rf_picture_rows_end(&rows);
    return status;
}
