/* Settings to text: the resolved values as YAML, and the tables for --help and the docs. */
#include "settings_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Whether YAML, here or elsewhere, would read the bare text as this same text. */
static bool is_bare(const char *text)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-";
    static const char *const words[] = {"true", "false", "yes", "no",   "on",  "off",
                                        "null", "y",     "n",   ".inf", ".nan"};
    double number = 0;
    if (text[0] == '\0' || strchr("+-", text[0]) != NULL || text[strspn(text, allowed)] != '\0') {
        return false;
    }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcasecmp(text, words[i]) == 0) {
            return false;
        }
    }
    return text[strspn(text, "0123456789_.")] != '\0' && rf_parse_f64(text, &number) != RF_OK &&
           !(text[0] == '0' && strchr("xXoObB", text[1]) != NULL);
}

/* The shortest decimal text that reads back as the same number. */
static rf_status append_number(rf_str *out, double v)
{
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) {
            break;
        }
    }
    return rf_str_append(out, "%s", text);
}

rf_status rf_setting_append_text(const char *text, rf_str *out)
{
    return is_bare(text) ? rf_str_append(out, "%s", text) : rf_json_append_str(out, text);
}

rf_status rf_settings_format(const rf_setting *row, const void *settings, rf_str *out)
{
    rf_status status = RF_OK;
    const char *field = (const char *)settings + row->offset;
    int64_t whole = 0;
    double number = 0;
    bool flag = false;
    int choice = 0, n_choices = 0;

    switch (row->type) {
    case RF_SETTING_BOOL:
        memcpy(&flag, field, sizeof flag);
        return rf_str_append(out, flag ? "true" : "false");
    case RF_SETTING_I64:
        memcpy(&whole, field, sizeof whole);
        return rf_str_append(out, "%" PRId64, whole);
    case RF_SETTING_F64:
        memcpy(&number, field, sizeof number);
        RF_BUG(isfinite(number), "%s is not a finite number", row->key);
        return append_number(out, number);
    case RF_SETTING_TEXT:
        return rf_setting_append_text(field, out);
    case RF_SETTING_NAMES:
        return rf_setting_format_names(field, out);
    case RF_SETTING_I64_BY:
        return rf_setting_format_i64_by(row, field, out);
    case RF_SETTING_CHOICE:
        memcpy(&choice, field, sizeof choice);
        while (row->choices[n_choices] != NULL) {
            n_choices++;
        }
        RF_BUG(choice >= 0 && choice < n_choices, "%s is choice %d of %d", row->key, choice,
               n_choices);
        return rf_str_append(out, "%s", row->choices[choice]);
    }
fail:
    return status;
}

rf_status rf_settings_write_yaml(const rf_settings_table *table, const void *settings, int indent,
                                 rf_str *out)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < table->n_rows; i++) {
        RF_TRY(rf_str_append(out, "%*s%s: ", indent, "", table->rows[i].key));
        RF_TRY(rf_settings_format(&table->rows[i], settings, out));
        RF_TRY(rf_str_append(out, "\n"));
    }
fail:
    return status;
}

/* "whole number", "topk \| relu". `bar` stands between choices. */
static rf_status append_type(const rf_setting *row, const char *bar, rf_str *out)
{
    rf_status status = RF_OK;
    switch (row->type) {
    case RF_SETTING_BOOL:
        return rf_str_append(out, "true or false");
    case RF_SETTING_I64:
        return rf_str_append(out, "whole number");
    case RF_SETTING_F64:
        return rf_str_append(out, "number");
    case RF_SETTING_TEXT:
        return rf_str_append(out, "text");
    case RF_SETTING_NAMES:
        return rf_str_append(out, "text or list of texts");
    case RF_SETTING_I64_BY:
        RF_TRY(rf_str_append(out, "whole number, or map by "));
        return rf_setting_append_choices(row, out);
    case RF_SETTING_CHOICE:
        for (int i = 0; row->choices[i] != NULL; i++) {
            RF_TRY(rf_str_append(out, "%s%s", i == 0 ? "" : bar, row->choices[i]));
        }
        break;
    }
fail:
    return status;
}

/* ", 0 to 10", ", at least 1", or nothing. */
static rf_status append_range(const rf_setting *row, rf_str *out)
{
    bool is_number = row->type == RF_SETTING_I64 || row->type == RF_SETTING_F64 ||
                     row->type == RF_SETTING_I64_BY;
    if (!is_number || (row->min == 0 && row->max == 0) || (isinf(row->min) && isinf(row->max))) {
        return RF_OK;
    }
    if (isinf(row->max)) {
        return rf_str_append(out, ", at least %.10g", row->min);
    }
    if (isinf(row->min)) {
        return rf_str_append(out, ", at most %.10g", row->max);
    }
    return rf_str_append(out, ", %.10g to %.10g", row->min, row->max);
}

static const char *fallback_word(const rf_setting *row)
{
    return row->fallback == NULL ? "required" : row->fallback[0] == '\0' ? "empty" : row->fallback;
}

static rf_status write_markdown(const rf_settings_table *table, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out,
                         "## %s\n\n%s\n\n| key | type | default | unit | meaning |\n"
                         "|---|---|---|---|---|\n",
                         table->section, table->help));
    for (int64_t i = 0; i < table->n_rows; i++) {
        const rf_setting *row = &table->rows[i];
        RF_TRY(rf_str_append(out, "| `%s` | ", row->key));
        RF_TRY(append_type(row, " \\| ", out));
        RF_TRY(append_range(row, out));
        RF_TRY(rf_str_append(out, " | %s | %s | %s |\n", fallback_word(row), row->unit, row->help));
    }
fail:
    return status;
}

static rf_status write_plain(const rf_settings_table *table, rf_str *out)
{
    rf_status status = RF_OK;
    int width = 0;
    for (int64_t i = 0; i < table->n_rows; i++) {
        width = (int)rf_max_i64(width, (int64_t)strlen(table->rows[i].key));
    }
    RF_TRY(rf_str_append(out, "%s: %s\n", table->section, table->help));
    for (int64_t i = 0; i < table->n_rows; i++) {
        const rf_setting *row = &table->rows[i];
        RF_TRY(rf_str_append(out, "  %-*s  %s\n  %*s  [", width, row->key, row->help, width, ""));
        RF_TRY(append_type(row, " | ", out));
        RF_TRY(append_range(row, out));
        RF_TRY(rf_str_append(out, "%s%s; %s%s]\n", row->unit[0] != '\0' ? ", in " : "", row->unit,
                             row->fallback != NULL ? "default " : "", fallback_word(row)));
    }
fail:
    return status;
}

rf_status rf_settings_write_help(const rf_settings_table *table, bool markdown, rf_str *out)
{
    return markdown ? write_markdown(table, out) : write_plain(table, out);
}
