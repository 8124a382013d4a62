/* Settings whose value may be a list of names, or a number for each of several cases. */
#include "settings_impl.h"

#include <string.h>

/* ---- names ------------------------------------------------------------------------------------
 */

/* Append one name to the text `field`, which has `row->size` bytes. */
static rf_status append_name(const rf_setting *row, const rf_yaml *item, const char *path,
                             const char *dot, bool is_first, char *field)
{
    if (item->kind != RF_YAML_SCALAR) {
        return rf_yaml_fail(item, "%s%s%s holds a %s: expected a list of texts", path, dot,
                            row->key, item->kind == RF_YAML_MAP ? "map" : "list");
    }
    if (item->text[0] == '\0') {
        return rf_yaml_fail(item, "%s%s%s holds an empty text", path, dot, row->key);
    }
    if (strchr(item->text, ',') != NULL) {
        return rf_yaml_fail(item, "%s%s%s = %.100s: several are written as a list, [a, b]", path,
                            dot, row->key, item->text);
    }
    size_t used = strlen(field), n = strlen(item->text), gap = is_first ? 0 : 2;
    if (n >= RF_NAME_LEN) {
        return rf_yaml_fail(item, "%s%s%s holds a text of %zu bytes: expected at most %d", path,
                            dot, row->key, n, RF_NAME_LEN - 1);
    }
    if (used + gap + n >= row->size) {
        return rf_yaml_fail(item, "%s%s%s: the list has more than %zu bytes", path, dot, row->key,
                            row->size - 1);
    }
    memcpy(field + used, ", ", gap);
    memcpy(field + used + gap, item->text, n + 1);
    return RF_OK;
}

rf_status rf_setting_read_names(const rf_setting *row, const rf_yaml *item, const char *path,
                                const char *dot, void *field)
{
    rf_status status = RF_OK;
    char *names = field;
    names[0] = '\0';
    if (item->kind == RF_YAML_SCALAR && item->quoted && item->text[0] == '\0') {
        return RF_OK; /* "" is none */
    }
    if (item->kind != RF_YAML_LIST) {
        return append_name(row, item, path, dot, true, names);
    }
    if (item->n_items == 0) {
        return rf_yaml_fail(item, "%s%s%s is an empty list: expected a text or a list of texts",
                            path, dot, row->key);
    }
    if (row->max > 0 && (double)item->n_items > row->max) {
        return rf_yaml_fail(item, "%s%s%s is a list of %" PRId64 " texts: expected at most %.10g",
                            path, dot, row->key, item->n_items, row->max);
    }
    for (int64_t i = 0; i < item->n_items; i++) {
        RF_TRY(append_name(row, item->items[i], path, dot, i == 0, names));
    }
fail:
    return status;
}

rf_status rf_setting_format_names(const char *names, rf_str *out)
{
    rf_status status = RF_OK;
    rf_str name = {0};
    if (strchr(names, ',') == NULL) {
        return rf_setting_append_text(names, out);
    }
    RF_TRY(rf_str_append(out, "["));
    for (const char *at = names; *at != '\0';) {
        size_t n = strcspn(at, ",");
        name.len = 0;
        RF_TRY(rf_str_append_bytes(&name, at, (int64_t)n));
        RF_TRY(rf_str_append(out, "%s", at == names ? "" : ", "));
        RF_TRY(rf_setting_append_text(name.data, out));
        at += at[n] == '\0' ? n : n + 2;
    }
    RF_TRY(rf_str_append(out, "]"));
fail:
    rf_str_fini(&name);
    return status;
}

/* ---- a number for each of several cases -------------------------------------------------------
 */

int rf_setting_n_choices(const rf_setting *row)
{
    int n = 0;
    while (row->choices[n] != NULL) {
        n++;
    }
    return n;
}

rf_status rf_setting_append_choice(const rf_setting *row, int idx, rf_str *out)
{
    return rf_str_append_bytes(out, row->choices[idx], (int64_t)strcspn(row->choices[idx], "|"));
}

rf_status rf_setting_append_choices(const rf_setting *row, rf_str *out)
{
    rf_status status = RF_OK;
    for (int i = 0; i < rf_setting_n_choices(row); i++) {
        RF_TRY(rf_str_append(out, "%s", i == 0 ? "" : ", "));
        RF_TRY(rf_setting_append_choice(row, i, out));
    }
    RF_TRY(rf_str_append(out, " or any"));
fail:
    return status;
}

/* Place of `key` in the field: 0 of `any`, -1 of none. */
static int place_of(const rf_setting *row, const char *key)
{
    size_t n = strlen(key);
    if (strcmp(key, "any") == 0) {
        return 0;
    }
    for (int i = 0; n > 0 && row->choices[i] != NULL; i++) {
        for (const char *at = row->choices[i]; *at != '\0';) {
            size_t len = strcspn(at, "|");
            if (len == n && memcmp(at, key, n) == 0) {
                return i + 1;
            }
            at += len + (at[len] == '|');
        }
    }
    return -1;
}

static rf_status read_number(const rf_setting *row, const rf_yaml *item, const char *path,
                             const char *dot, const char *of, int64_t *out)
{
    char expected[256];
    const char *sep = of[0] != '\0' ? "." : "", *quote = item->quoted ? "\"" : "";
    rf_setting_describe_number(row, "a whole number", expected, sizeof expected);
    if (item->kind != RF_YAML_SCALAR) {
        return rf_yaml_fail(item, "%s%s%s%s%s is a %s: expected %s", path, dot, row->key, sep, of,
                            item->kind == RF_YAML_MAP ? "map" : "list", expected);
    }
    if (item->quoted || rf_parse_i64(item->text, out) != RF_OK ||
        !rf_setting_is_in_range(row, (double)*out)) {
        return rf_yaml_fail(item, "%s%s%s%s%s = %s%.100s%s: expected %s", path, dot, row->key, sep,
                            of, quote, item->text, quote, expected);
    }
    return RF_OK;
}

static rf_status raise_unknown(const rf_setting *row, const rf_yaml *item, const char *key,
                               const char *path, const char *dot)
{
    rf_status status = RF_OK;
    rf_str known = {0};
    RF_TRY(rf_setting_append_choices(row, &known));
    status = rf_yaml_fail(item, "%s%s%s.%.100s: expected %s", path, dot, row->key, key, known.data);
fail:
    rf_str_fini(&known);
    return status;
}

rf_status rf_setting_read_i64_by(const rf_setting *row, const rf_yaml *item, const char *path,
                                 const char *dot, void *field)
{
    rf_status status = RF_OK;
    int64_t *numbers = field;
    memset(numbers, 0, rf_setting_bytes(row));
    if (item->kind != RF_YAML_MAP) {
        return read_number(row, item, path, dot, "", &numbers[0]);
    }
    if (item->n_items == 0) {
        return rf_yaml_fail(item, "%s%s%s is an empty map", path, dot, row->key);
    }
    for (int64_t i = 0; i < item->n_items; i++) {
        int place = place_of(row, item->keys[i]);
        if (place < 0) {
            return raise_unknown(row, item->items[i], item->keys[i], path, dot);
        }
        if (numbers[place] != 0) {
            return rf_yaml_fail(item->items[i], "%s%s%s.%.100s is said twice", path, dot, row->key,
                                item->keys[i]);
        }
        RF_TRY(read_number(row, item->items[i], path, dot, item->keys[i], &numbers[place]));
    }
fail:
    return status;
}

rf_status rf_setting_format_i64_by(const rf_setting *row, const void *field, rf_str *out)
{
    rf_status status = RF_OK;
    const int64_t *numbers = field;
    int n = rf_setting_n_choices(row), n_said = 0;
    for (int i = 1; i <= n; i++) {
        n_said += numbers[i] != 0;
    }
    if (n_said == 0) {
        return rf_str_append(out, "%" PRId64, numbers[0]);
    }
    RF_TRY(rf_str_append(out, "{"));
    if (numbers[0] != 0) {
        RF_TRY(rf_str_append(out, "any: %" PRId64 ", ", numbers[0]));
    }
    for (int i = 1; i <= n; i++) {
        if (numbers[i] != 0) {
            RF_TRY(rf_setting_append_choice(row, i - 1, out));
            RF_TRY(rf_str_append(out, ": %" PRId64 "%s", numbers[i], --n_said > 0 ? ", " : ""));
        }
    }
    RF_TRY(rf_str_append(out, "}"));
fail:
    return status;
}
