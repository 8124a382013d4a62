/* What tells the coders of a sweep apart: settings that vary, colours, and who is on the front. */
#include "report_impl.h"

#include <math.h>
#include <string.h>

enum { MOST_SERIES = 12, COLOUR_EACH_UP_TO = 8 };

/* ---- columns -----------------------------------------------------------------------------------
 */

/* Whether the coder's architecture looks at that setting. */
static bool means_something(const char *key, const rf_coder_settings *s)
{
    const rf_architecture *a = rf_architecture_at(s->architecture);
    const bool is_jump = a->act == RF_CODER_JUMP;
    const bool is_auto = s->penalty == RF_PENALTY_CHOICE_AUTO;
    const bool aims = s->penalty == RF_PENALTY_CHOICE_TARGET_L0;
    const bool counts = is_jump && (is_auto || aims || s->penalty == RF_PENALTY_CHOICE_L0);
    if (strcmp(key, "k") == 0 || strncmp(key, "k_", 2) == 0) {
        return !a->may_be_dense;
    }
    if (strcmp(key, "l1") == 0) {
        return a->may_be_dense && !counts;
    }
    if (strcmp(key, "l0") == 0) {
        return counts;
    }
    return strcmp(key, "target_l0") != 0 || aims;
}

/* A setting as a person would write it, without the quotes of YAML. */
static rf_status append_value(const rf_setting *row, const void *settings, rf_str *out)
{
    if (row->type == RF_SETTING_TEXT || row->type == RF_SETTING_NAMES) {
        return rf_str_append(out, "%s", (const char *)settings + row->offset);
    }
    if (row->type == RF_SETTING_F64) { /* 0.02, not 0.02000000000000000042 */
        double value = 0;
        memcpy(&value, (const char *)settings + row->offset, sizeof value);
        return rf_str_append(out, "%.6g", value);
    }
    return rf_settings_format(row, settings, out);
}

static rf_status fill_values(const rf_sweep_report *r, const rf_setting *row, bool is_of_coder,
                             rf_str *values, bool *varies)
{
    rf_status status = RF_OK;
    const char *first = ""; /* that means something */
    *varies = false;
    for (int64_t i = 0; i < r->n; i++) {
        const rf_coder_spec *spec = r->coders[i].spec;
        const void *settings =
            is_of_coder ? (const void *)&spec->coder : (const void *)&spec->train;
        RF_TRY(rf_str_append(&values[i], "%s", ""));
        if (strcmp(row->key, "latents") == 0 && r->coders[i].latents > 0) {
            RF_TRY(rf_str_append(&values[i], "%" PRId64, r->coders[i].latents));
        } else if (!is_of_coder || means_something(row->key, &spec->coder)) {
            RF_TRY(append_value(row, settings, &values[i]));
        }
        first = first[0] == '\0' ? values[i].data : first;
        *varies = *varies || (values[i].len > 0 && strcmp(values[i].data, first) != 0);
    }
fail:
    return status;
}

static void free_values(rf_str *values, int64_t n)
{
    for (int64_t i = 0; values != NULL && i < n; i++) {
        rf_str_fini(&values[i]);
    }
    rf_free(values);
}

static rf_status find_columns_of(rf_sweep_report *r, const rf_settings_table *table)
{
    rf_status status = RF_OK;
    rf_str *values = NULL;
    bool varies = false;
    for (int64_t i = 0; i < table->n_rows; i++) {
        const bool is_of_coder = table == &rf_coder_settings_table;
        if (is_of_coder && strcmp(table->rows[i].key, "name") == 0) {
            continue; /* stands first anyway */
        }
        RF_ALLOC(values, r->n);
        RF_TRY(fill_values(r, &table->rows[i], is_of_coder, values, &varies));
        if (varies) {
            r->columns[r->n_columns++] =
                (rf_sweep_column){.row = &table->rows[i], .values = values};
        } else {
            free_values(values, r->n);
        }
        values = NULL;
    }
fail:
    free_values(values, r->n);
    return status;
}

rf_status rf_sweep_find_columns(rf_sweep_report *r)
{
    rf_status status = RF_OK;
    RF_ALLOC(r->columns, rf_coder_settings_table.n_rows + rf_train_settings_table.n_rows);
    RF_TRY(find_columns_of(r, &rf_coder_settings_table));
    RF_TRY(find_columns_of(r, &rf_train_settings_table));
fail:
    return status;
}

/* ---- groups ------------------------------------------------------------------------------------
 */

void rf_groups_fini(rf_groups *groups)
{
    free_values(groups->names, groups->n);
    rf_free(groups->of);
    memset(groups, 0, sizeof *groups);
}

/* Put coder `idx` to those of the same text. */
static rf_status join_group(rf_groups *groups, int64_t idx, const char *text)
{
    rf_status status = RF_OK;
    int64_t g = 0;
    while (g < groups->n && strcmp(groups->names[g].data, text) != 0) {
        g++;
    }
    groups->of[idx] = g;
    if (g == groups->n) {
        RF_TRY(rf_str_append(&groups->names[groups->n++], "%s", text));
    }
fail:
    return status;
}

static rf_status begin_groups(rf_groups *groups, int64_t n)
{
    rf_status status = RF_OK;
    rf_groups_fini(groups);
    RF_ALLOC(groups->names, n);
    RF_ALLOC(groups->of, n);
fail:
    return status;
}

/* What a coder reconstructs: figures of two sites are not of one front. */
static rf_status append_site(const rf_coder_settings *s, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "%s", s->input));
    if (s->target[0] != '\0') {
        RF_TRY(rf_str_append(out, " \xe2\x86\x92 %s", s->target));
    }
    if (rf_coder_token_class(s) != RF_TOKENS_ALL) {
        RF_TRY(rf_str_append(out, ", %s", rf_token_class_names[rf_coder_token_class(s)]));
    }
fail:
    return status;
}

static rf_status find_sites(rf_sweep_report *r)
{
    rf_status status = RF_OK;
    rf_str text = {0};
    RF_TRY(begin_groups(&r->sites, r->n));
    RF_TRY(begin_groups(&r->architectures, r->n));
    for (int64_t i = 0; i < r->n; i++) {
        const rf_coder_settings *s = &r->coders[i].spec->coder;
        text.len = 0;
        RF_TRY(append_site(s, &text));
        RF_TRY(join_group(&r->sites, i, text.data));
        RF_TRY(join_group(&r->architectures, i, rf_architecture_at(s->architecture)->name));
    }
fail:
    rf_str_fini(&text);
    return status;
}

static rf_status copy_groups(const rf_groups *from, int64_t n, rf_groups *to)
{
    rf_status status = RF_OK;
    RF_TRY(begin_groups(to, n));
    for (int64_t i = 0; i < n; i++) {
        RF_TRY(join_group(to, i, from->names[from->of[i]].data));
    }
fail:
    return status;
}

static rf_status group_by_column(rf_sweep_report *r, const rf_sweep_column *column)
{
    rf_status status = RF_OK;
    r->series_title = column->row->key;
    RF_TRY(begin_groups(&r->series, r->n));
    for (int64_t i = 0; i < r->n; i++) {
        const char *value = column->values[i].data;
        RF_TRY(join_group(&r->series, i, value[0] != '\0' ? value : "\xe2\x80\x93"));
    }
fail:
    return status;
}

/* A colour for each coder where they are few; else for each site, architecture, or value of the
 * first setting that varies and has few enough. */
rf_status rf_sweep_find_groups(rf_sweep_report *r)
{
    rf_status status = RF_OK;
    RF_TRY(find_sites(r));
    if (r->n <= COLOUR_EACH_UP_TO) {
        r->series_title = "coder";
        RF_TRY(begin_groups(&r->series, r->n));
        for (int64_t i = 0; i < r->n; i++) {
            RF_TRY(join_group(&r->series, i, r->coders[i].spec->coder.name));
        }
        return RF_OK;
    }
    if (r->sites.n > 1 && r->sites.n <= MOST_SERIES) {
        r->series_title = "site";
        return copy_groups(&r->sites, r->n, &r->series);
    }
    r->series_title = "architecture";
    RF_TRY(copy_groups(&r->architectures, r->n, &r->series));
    for (int64_t i = 0; i < r->n_columns && r->series.n == 1; i++) {
        RF_TRY(group_by_column(r, &r->columns[i]));
        if (r->series.n > MOST_SERIES) {
            r->series_title = "architecture";
            RF_TRY(copy_groups(&r->architectures, r->n, &r->series));
        }
    }
fail:
    return status;
}

/* ---- front -------------------------------------------------------------------------------------
 */

/* The mean alone explains 0 with no latent: what explains less is on no front. */
static bool is_candidate(const rf_sweep_coder *c, int where, double *l0, double *ev)
{
    rf_sweep_place(c, where, l0, ev);
    return !c->failed && isfinite(*l0) && isfinite(*ev) && *ev > 0;
}

/* Whether (l0, ev) is as good in both and better in one; of equals the first stays. */
static bool beats(double l0, double ev, int64_t idx, double l0_b, double ev_b, int64_t idx_b)
{
    const bool as_good = l0 <= l0_b && ev >= ev_b;
    return as_good && (l0 < l0_b || ev > ev_b || idx < idx_b);
}

rf_status rf_sweep_find_front(rf_sweep_report *r, int where)
{
    for (int64_t i = 0; i < r->n; i++) {
        double l0, ev, other_l0, other_ev;
        bool is_on = is_candidate(&r->coders[i], where, &l0, &ev);
        for (int64_t j = 0; j < r->n && is_on; j++) {
            is_on = r->sites.of[j] != r->sites.of[i] ||
                    !is_candidate(&r->coders[j], where, &other_l0, &other_ev) ||
                    !beats(other_l0, other_ev, j, l0, ev, i);
        }
        r->coders[i].on_front[where] = is_on;
    }
    return RF_OK;
}
