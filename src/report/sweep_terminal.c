/* A sweep in a terminal: one line a coder, the best marked. */
#include "report_impl.h"

#include <math.h>
#include <string.h>

enum { MAX_ROWS = 60, MAX_SETTINGS = 5 };

/* The settings that are shown: those that vary, the first few. */
static int64_t count_settings(const rf_sweep_report *r)
{
    return rf_min_i64(r->n_columns, MAX_SETTINGS);
}

static rf_status create_table(const rf_sweep_report *r, rf_table **out)
{
    rf_status status = RF_OK;
    const char *headings[RF_TABLE_MAX_COLUMNS] = {"", "coder"};
    char alignment[RF_TABLE_MAX_COLUMNS + 1] = "ll";
    static const char *const figures[] = {"EV", "L0", "error", "dead %", "ended"};
    int64_t n = 2;
    for (int64_t i = 0; i < count_settings(r); i++) {
        const rf_setting *row = r->columns[i].row;
        headings[n] = row->key;
        alignment[n++] = row->type == RF_SETTING_I64 || row->type == RF_SETTING_F64 ? 'r' : 'l';
    }
    for (int i = 0; i < 5; i++) {
        headings[n] = figures[i];
        alignment[n++] = i < 4 ? 'r' : 'l';
    }
    alignment[n] = '\0';
    RF_TRY(rf_table_create(headings, n, alignment, out));
fail:
    return status;
}

static rf_status add_row(const rf_sweep_report *r, int64_t idx, rf_table *table)
{
    rf_status status = RF_OK;
    const rf_sweep_coder *c = &r->coders[idx];
    RF_TRY(rf_table_add(table, "%s", c->selected ? "*" : c->on_front[0] ? "+" : ""));
    RF_TRY(rf_table_add(table, "%s", c->spec->coder.name));
    for (int64_t i = 0; i < count_settings(r); i++) {
        const char *value = r->columns[i].values[idx].data;
        RF_TRY(rf_table_add(table, "%s", value[0] != '\0' ? value : "-"));
    }
    RF_TRY(rf_table_add_number(table, c->last[RF_CURVE_EV], 4));
    RF_TRY(rf_table_add_number(table, c->last[RF_CURVE_L0], 1));
    RF_TRY(rf_table_add_number(table, c->last[RF_CURVE_MSE], 4));
    RF_TRY(rf_table_add_number(table, c->last[RF_CURVE_DEAD], 1));
    RF_TRY(rf_table_add(table, "%s", rf_sweep_end_word(rf_sweep_end(r, c))));
fail:
    return status;
}

/* What the marks mean, and where the rest is. */
static rf_status write_words(const rf_sweep_report *r, int64_t n_shown, rf_str *out)
{
    rf_status status = RF_OK;
    const char *rule = r->settings->output.select;
    const int64_t best = rf_sweep_best(r);
    if (n_shown < r->n) {
        RF_TRY(rf_str_append(out, "and %" PRId64 " more: %s has all\n", r->n - n_shown,
                             r->has_summary ? "summary.csv" : "sweep.html"));
    }
    RF_TRY(rf_str_append(out,
                         "figures of the last whole batch%s; + no other coder of its site beats it "
                         "in both EV and L0",
                         r->has_summary ? "" : " that was logged"));
    if (best >= 0) {
        RF_TRY(rf_str_append(out, "; * best by %s: %s", rule, r->coders[best].spec->coder.name));
    } else if (rule[0] != '\0' && r->has_summary) {
        RF_TRY(rf_str_append(out, "; no coder fits %s", rule));
    }
    RF_TRY(rf_str_append(out, "\n"));
fail:
    return status;
}

rf_status rf_sweep_report_table(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    rf_table *table = NULL;
    int64_t n_shown = 0;
    const int64_t best = rf_sweep_best(r);
    RF_TRY(create_table(r, &table));
    for (int64_t i = 0; i < r->n; i++) {
        /* The best and those on the front stand there however many there are. */
        if (r->n <= MAX_ROWS || i == best || (r->coders[i].on_front[0] && n_shown < MAX_ROWS)) {
            RF_TRY(add_row(r, i, table));
            n_shown++;
        }
    }
    RF_TRY(rf_table_write(table, out));
    RF_TRY(write_words(r, n_shown, out));
fail:
    rf_table_destroy(table);
    return status;
}
