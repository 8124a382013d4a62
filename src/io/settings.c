/* Settings from YAML by a table: every value is checked where it is read. */
#include "settings_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

size_t rf_setting_bytes(const rf_setting *row)
{
    switch (row->type) {
    case RF_SETTING_BOOL:
        return sizeof(bool);
    case RF_SETTING_I64:
        return sizeof(int64_t);
    case RF_SETTING_F64:
        return sizeof(double);
    case RF_SETTING_TEXT:
    case RF_SETTING_NAMES:
        return row->size;
    case RF_SETTING_CHOICE:
        return sizeof(int);
    case RF_SETTING_I64_BY:
        return sizeof(int64_t) * (size_t)(1 + rf_setting_n_choices(row));
    }
    return 0;
}

void rf_setting_describe_number(const rf_setting *row, const char *what, char *out,
                                size_t out_bytes)
{
    bool has_range = row->min != 0 || row->max != 0;
    if (!has_range || (isinf(row->min) && isinf(row->max))) {
        snprintf(out, out_bytes, "%s", what);
    } else if (isinf(row->max)) {
        snprintf(out, out_bytes, "%s >= %.10g", what, row->min);
    } else if (isinf(row->min)) {
        snprintf(out, out_bytes, "%s <= %.10g", what, row->max);
    } else {
        snprintf(out, out_bytes, "%s in [%.10g, %.10g]", what, row->min, row->max);
    }
}

/* What the row takes, for messages: "a number in [0, 10]". */
static void describe_expected(const rf_setting *row, char *out, size_t out_bytes)
{
    char number[128];
    rf_str list = {0};
    switch (row->type) {
    case RF_SETTING_BOOL:
        snprintf(out, out_bytes, "true or false");
        break;
    case RF_SETTING_I64:
        rf_setting_describe_number(row, "a whole number", out, out_bytes);
        break;
    case RF_SETTING_F64:
        rf_setting_describe_number(row, "a number", out, out_bytes);
        break;
    case RF_SETTING_TEXT:
        snprintf(out, out_bytes, "a text");
        break;
    case RF_SETTING_NAMES:
        snprintf(out, out_bytes, "a text or a list of texts");
        break;
    case RF_SETTING_CHOICE:
        for (int i = 0; row->choices[i] != NULL; i++) {
            rf_str_append(&list, "%s%s", i == 0 ? "" : ", ", row->choices[i]);
        }
        snprintf(out, out_bytes, "one of %s", list.data != NULL ? list.data : "nothing");
        break;
    case RF_SETTING_I64_BY:
        rf_setting_describe_number(row, "a whole number", number, sizeof number);
        rf_setting_append_choices(row, &list);
        snprintf(out, out_bytes, "%s, or a map of such by %s", number,
                 list.data != NULL ? list.data : "nothing");
        break;
    }
    rf_str_fini(&list);
}

bool rf_setting_is_in_range(const rf_setting *row, double v)
{
    return (row->min == 0 && row->max == 0) || (v >= row->min && v <= row->max);
}

static bool parse_bool(const char *text, bool *out)
{
    static const char *const words[] = {"false", "true", "no", "yes"};
    for (int i = 0; i < 4; i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *out = (i & 1) != 0;
            return true;
        }
    }
    return false;
}

static bool parse_choice(const rf_setting *row, const char *text, int *out)
{
    for (int i = 0; row->choices[i] != NULL; i++) {
        if (strcmp(text, row->choices[i]) == 0) {
            *out = i;
            return true;
        }
    }
    return false;
}

/* Store `text`, a scalar or a fallback, as the value of `row`; false when it is not what the row
 * takes. */
static bool store(const rf_setting *row, const char *text, bool quoted, void *settings)
{
    char *field = (char *)settings + row->offset;
    int64_t whole = 0;
    double number = 0;
    bool flag = false;
    int choice = 0;

    switch (row->type) {
    case RF_SETTING_BOOL:
        if (quoted || !parse_bool(text, &flag)) {
            return false;
        }
        memcpy(field, &flag, sizeof flag);
        return true;
    case RF_SETTING_I64:
        if (quoted || rf_parse_i64(text, &whole) != RF_OK ||
            !rf_setting_is_in_range(row, (double)whole)) {
            return false;
        }
        memcpy(field, &whole, sizeof whole);
        return true;
    case RF_SETTING_F64:
        if (quoted || rf_parse_f64(text, &number) != RF_OK ||
            !rf_setting_is_in_range(row, number)) {
            return false;
        }
        memcpy(field, &number, sizeof number);
        return true;
    case RF_SETTING_TEXT:
    case RF_SETTING_NAMES:
        return rf_format(field, row->size, "%s", text) == RF_OK;
    case RF_SETTING_I64_BY:
        if (rf_parse_i64(text, &whole) != RF_OK || !rf_setting_is_in_range(row, (double)whole)) {
            return false;
        }
        memset(field, 0, rf_setting_bytes(row));
        memcpy(field, &whole, sizeof whole);
        return true;
    case RF_SETTING_CHOICE:
        if (!parse_choice(row, text, &choice)) {
            return false;
        }
        memcpy(field, &choice, sizeof choice);
        return true;
    }
    return false;
}

rf_status rf_settings_defaults(const rf_settings_table *table, void *out)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < table->n_rows; i++) {
        const rf_setting *row = &table->rows[i];
        memset((char *)out + row->offset, 0, rf_setting_bytes(row));
        RF_BUG(row->fallback == NULL || store(row, row->fallback, false, out),
               "the fallback '%s' of %s.%s is not what the setting takes", row->fallback,
               table->section, row->key);
    }
fail:
    return status;
}

/* Keeps the nearer of `best` and `key` to `word`. */
static void keep_nearer(const char *word, const char *key, const char **best, int64_t *distance)
{
    int64_t d = rf_str_distance(word, key);
    if (word[0] != '\0' && strncmp(word, key, strlen(word)) == 0) {
        d = rf_min_i64(d, 1); /* "batch" for "batch_tokens" */
    }
    if (d < *distance) {
        *best = key;
        *distance = d;
    }
}

static rf_status raise_unknown(const rf_settings_table *table, const rf_yaml *item, const char *key,
                               const char *path, const char *dot, const char *const *extra_keys)
{
    rf_yaml at = *item; /* complain at the key, not at its value */
    const char *best = NULL;
    int64_t distance = ((int64_t)strlen(key) + 2) / 3 + 1; /* farther is no likeness */
    if (item->key_line > 0) {
        at.line = item->key_line;
        at.column = item->key_column;
    }
    for (int64_t i = 0; i < table->n_rows; i++) {
        keep_nearer(key, table->rows[i].key, &best, &distance);
    }
    for (int64_t i = 0; extra_keys != NULL && extra_keys[i] != NULL; i++) {
        keep_nearer(key, extra_keys[i], &best, &distance);
    }
    if (best != NULL) {
        return rf_yaml_fail(&at, "%s%s%.100s: unknown setting; did you mean '%s%s%s'?", path, dot,
                            key, path, dot, best);
    }
    rf_str list = {0};
    rf_status status = RF_OK;
    for (int64_t i = 0; i < table->n_rows && status == RF_OK; i++) {
        status = rf_str_append(&list, "%s%s", i == 0 ? "" : ", ", table->rows[i].key);
    }
    for (int64_t i = 0; extra_keys != NULL && extra_keys[i] != NULL && status == RF_OK; i++) {
        status = rf_str_append(&list, "%s%s", list.len == 0 ? "" : ", ", extra_keys[i]);
    }
    if (status == RF_OK) {
        status = rf_yaml_fail(&at, "%s%s%.100s: unknown setting; the settings here are %s", path,
                              dot, key, list.data != NULL ? list.data : "none");
    }
    rf_str_fini(&list);
    return status;
}

static rf_status raise_wrong(const rf_setting *row, const rf_yaml *item, const char *path,
                             const char *dot)
{
    char expected[512];
    describe_expected(row, expected, sizeof expected);
    if (item->kind != RF_YAML_SCALAR) {
        return rf_yaml_fail(item, "%s%s%s is a %s: expected %s", path, dot, row->key,
                            item->kind == RF_YAML_MAP ? "map" : "list", expected);
    }
    if (item->text[0] == '\0' && !item->quoted) {
        return rf_yaml_fail(item, "%s%s%s has no value: expected %s", path, dot, row->key,
                            expected);
    }
    if (row->type == RF_SETTING_TEXT) {
        return rf_yaml_fail(item, "%s%s%s is a text of %zu bytes: expected at most %zu", path, dot,
                            row->key, strlen(item->text), row->size - 1);
    }
    const char *quote = item->quoted ? "\"" : "";
    if (row->type == RF_SETTING_CHOICE) {
        const char *best = NULL;
        int64_t distance = 3; /* a slip or two of the finger */
        for (int i = 0; row->choices[i] != NULL; i++) {
            keep_nearer(item->text, row->choices[i], &best, &distance);
        }
        if (best != NULL) {
            return rf_yaml_fail(item, "%s%s%s = %.100s: expected %s; did you mean '%s'?", path, dot,
                                row->key, item->text, expected, best);
        }
    }
    return rf_yaml_fail(item, "%s%s%s = %s%.100s%s: expected %s", path, dot, row->key, quote,
                        item->text, quote, expected);
}

/* Read the value of `row`. */
static rf_status read_value(const rf_setting *row, const rf_yaml *item, const char *path,
                            const char *dot, void *settings)
{
    char *field = (char *)settings + row->offset;
    bool is_empty = item->kind == RF_YAML_SCALAR && item->text[0] == '\0' && !item->quoted;
    bool may_be_several = row->type == RF_SETTING_NAMES
                              ? item->kind != RF_YAML_MAP
                              : row->type == RF_SETTING_I64_BY && item->kind != RF_YAML_LIST;
    if (may_be_several && !is_empty) {
        return row->type == RF_SETTING_NAMES ? rf_setting_read_names(row, item, path, dot, field)
                                             : rf_setting_read_i64_by(row, item, path, dot, field);
    }
    if (item->kind != RF_YAML_SCALAR || is_empty ||
        !store(row, item->text, item->quoted, settings)) {
        return raise_wrong(row, item, path, dot);
    }
    return RF_OK;
}

static rf_status read_item(const rf_settings_table *table, const rf_yaml *item, const char *key,
                           const char *path, const char *const *extra_keys, void *inout,
                           bool *given)
{
    const char *dot = path[0] != '\0' ? "." : "";
    for (int64_t i = 0; extra_keys != NULL && extra_keys[i] != NULL; i++) {
        if (strcmp(key, extra_keys[i]) == 0) {
            return RF_OK;
        }
    }
    for (int64_t i = 0; i < table->n_rows; i++) {
        const rf_setting *row = &table->rows[i];
        if (strcmp(key, row->key) == 0) {
            rf_status status = read_value(row, item, path, dot, inout);
            if (status != RF_OK) {
                return status;
            }
            if (given != NULL) {
                given[i] = true;
            }
            return RF_OK;
        }
    }
    return raise_unknown(table, item, key, path, dot, extra_keys);
}

rf_status rf_settings_read(const rf_settings_table *table, const rf_yaml *map, const char *path,
                           const char *const *extra_keys, void *inout, bool *given)
{
    rf_status status = RF_OK;
    if (given != NULL) {
        memset(given, 0, (size_t)table->n_rows * sizeof *given);
    }
    if (map == NULL || (map->kind == RF_YAML_SCALAR && map->text[0] == '\0' && !map->quoted)) {
        return RF_OK; /* "train:" with nothing below gives nothing */
    }
    path = path != NULL ? path : "";
    if (map->kind != RF_YAML_MAP) {
        return rf_yaml_fail(map, "%s: expected a map of settings (key: value)",
                            path[0] != '\0' ? path : "file");
    }
    for (int64_t i = 0; i < map->n_items; i++) {
        RF_TRY(read_item(table, map->items[i], map->keys[i], path, extra_keys, inout, given));
    }
fail:
    return status;
}

rf_status rf_settings_check_required(const rf_settings_table *table, const bool *given,
                                     const char *path, const rf_yaml *where)
{
    for (int64_t i = 0; i < table->n_rows; i++) {
        const rf_setting *row = &table->rows[i];
        if (row->fallback == NULL && (given == NULL || !given[i])) {
            char expected[512];
            describe_expected(row, expected, sizeof expected);
            bool has_path = path != NULL && path[0] != '\0';
            return rf_yaml_fail(where, "%s%s%s is missing: expected %s (%s)", has_path ? path : "",
                                has_path ? "." : "", row->key, expected, row->help);
        }
    }
    return RF_OK;
}
