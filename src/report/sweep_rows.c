/* The table of a sweep's page: every coder with what tells it apart and what came out. */
#include "report_impl.h"

#include <math.h>
#include <string.h>

typedef enum group { LAST_BATCH, HELD_OUT, TRAINED_ON, N_GROUPS } group;

/* A column of figures; it is left out where no coder has one. */
typedef struct figure {
    group group;
    const char *heading, *title;
    size_t offset; /* of a double in rf_sweep_coder */
    int n_digits;
} figure;

#define LAST(which) offsetof(rf_sweep_coder, last) + (which) * sizeof(double)
#define MEASURED(split, field)                                                                     \
    offsetof(rf_sweep_coder, measured) + (split) * sizeof(rf_measured) +                           \
        offsetof(rf_measured, field)

static const figure figures[] = {
    {LAST_BATCH, "EV", "explained variance of the batch", LAST(RF_CURVE_EV), 4},
    {LAST_BATCH, "L0", "active latents per token", LAST(RF_CURVE_L0), 1},
    {LAST_BATCH, "error", "|y - y_hat|^2 / V", LAST(RF_CURVE_MSE), 4},
    {LAST_BATCH, "dead, %", "latents that have not fired for dead_after_tokens",
     LAST(RF_CURVE_DEAD), 1},
    {HELD_OUT, "EV", "explained variance", MEASURED(RF_HELD_OUT, ev), 4},
    {HELD_OUT, "L0", "active latents per token", MEASURED(RF_HELD_OUT, l0), 1},
    {HELD_OUT, "MSE", "mean over tokens and elements", MEASURED(RF_HELD_OUT, mse), 4},
    {HELD_OUT, "cosine", "of x and its reconstruction", MEASURED(RF_HELD_OUT, cosine), 4},
    {HELD_OUT, "alive, %", "latents that fired on these pictures",
     MEASURED(RF_HELD_OUT, alive_percent), 1},
    {HELD_OUT, "CE rec., %", "cross entropy recovered with the reconstruction in place",
     MEASURED(RF_HELD_OUT, ce_recovered), 1},
    {TRAINED_ON, "EV", "explained variance", MEASURED(RF_TRAINED_ON, ev), 4},
    {TRAINED_ON, "L0", "active latents per token", MEASURED(RF_TRAINED_ON, l0), 1},
    {TRAINED_ON, "MSE", "mean over tokens and elements", MEASURED(RF_TRAINED_ON, mse), 4},
};
enum { N_FIGURES = sizeof figures / sizeof figures[0] };

static double value_of(const figure *f, const rf_sweep_coder *c)
{
    double value = 0;
    memcpy(&value, (const char *)c + f->offset, sizeof value);
    return value;
}

static bool is_shown(const rf_sweep_report *r, const figure *f)
{
    for (int64_t i = 0; i < r->n; i++) {
        if (!isnan(value_of(f, &r->coders[i]))) {
            return true;
        }
    }
    return false;
}

/* ---- headings ----------------------------------------------------------------------------------
 */

static rf_status write_groups(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    static const char *const words[N_GROUPS] = {"last whole batch", "held-out pictures",
                                                "trained-on pictures"};
    RF_TRY(rf_str_append(out, "<tr><th class=\"who\"></th>"));
    if (r->n_columns > 0) {
        RF_TRY(rf_str_append(out, "<th colspan=\"%" PRId64 "\">settings that differ</th>",
                             r->n_columns));
    }
    for (int g = 0; g < N_GROUPS; g++) {
        int n = 0;
        for (int i = 0; i < N_FIGURES; i++) {
            n += (int)figures[i].group == g && is_shown(r, &figures[i]);
        }
        if (n > 0) {
            RF_TRY(rf_str_append(out, "<th colspan=\"%d\" class=\"first\">%s</th>", n, words[g]));
        }
    }
    RF_TRY(rf_str_append(out, "<th class=\"first\"></th></tr>\n"));
fail:
    return status;
}

static rf_status write_heading(rf_str *out, const char *classes, const char *text,
                               const char *title)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "<th class=\"%s\" title=\"", classes));
    RF_TRY(rf_html_append(out, title));
    RF_TRY(rf_str_append(out, "\">"));
    RF_TRY(rf_html_append(out, text));
    RF_TRY(rf_str_append(out, "</th>"));
fail:
    return status;
}

static bool is_number(const rf_setting *row)
{
    return row->type == RF_SETTING_I64 || row->type == RF_SETTING_F64 ||
           row->type == RF_SETTING_I64_BY;
}

static rf_status write_headings(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    int last = -1;
    RF_TRY(rf_str_append(out, "<tr class=\"sort\">"));
    RF_TRY(write_heading(out, "who", "coder", "its folder in the run's"));
    for (int64_t i = 0; i < r->n_columns; i++) {
        const rf_setting *row = r->columns[i].row;
        RF_TRY(write_heading(out, is_number(row) ? "num" : "", row->key, row->help));
    }
    for (int i = 0; i < N_FIGURES; i++) {
        if (is_shown(r, &figures[i])) {
            RF_TRY(write_heading(out, (int)figures[i].group != last ? "num first" : "num",
                                 figures[i].heading, figures[i].title));
            last = (int)figures[i].group;
        }
    }
    RF_TRY(write_heading(out, "first", "how it ended", "and why"));
    RF_TRY(rf_str_append(out, "</tr>\n"));
fail:
    return status;
}

/* ---- a row -------------------------------------------------------------------------------------
 */

static rf_status write_name(const rf_sweep_report *r, const rf_sweep_coder *c, rf_str *out)
{
    rf_status status = RF_OK;
    const int64_t idx = c - r->coders;
    RF_TRY(rf_str_append(
        out, "<th scope=\"row\" class=\"who\"><svg class=\"key\" viewBox=\"-8 -8 16 16\" "));
    RF_TRY(rf_series_style(r, r->series.of[idx], out));
    RF_TRY(rf_str_append(out, ">"));
    RF_TRY(rf_mark_draw(r->architectures.of[idx], c->failed, 0, 0, out));
    RF_TRY(rf_str_append(out, "</svg>"));
    RF_TRY(rf_html_append(out, c->spec->coder.name));
    if (c->selected) {
        RF_TRY(rf_str_append(out, "<b class=\"tag\">best</b>"));
    } else if (c->on_front[r->has_eval ? 1 + RF_HELD_OUT : 0]) {
        RF_TRY(rf_str_append(out, "<i class=\"tag\">front</i>"));
    }
    RF_TRY(rf_str_append(out, "</th>"));
fail:
    return status;
}

static rf_status write_setting(const rf_sweep_column *column, int64_t idx, rf_str *out)
{
    rf_status status = RF_OK;
    const char *value = column->values[idx].data;
    double number = 0;
    const bool counts =
        is_number(column->row) && value[0] != '\0' && rf_parse_f64(value, &number) == RF_OK;
    RF_TRY(rf_str_append(out, "<td class=\"%s\"", is_number(column->row) ? "num" : ""));
    if (counts) {
        RF_TRY(rf_str_append(out, " data-v=\"%.9g\"", number));
    }
    RF_TRY(rf_str_append(out, ">"));
    RF_TRY(rf_html_append(out, value[0] != '\0' ? value : "\xe2\x80\x93"));
    RF_TRY(rf_str_append(out, "</td>"));
fail:
    return status;
}

static rf_status write_figure(const figure *f, bool is_first, const rf_sweep_coder *c, rf_str *out)
{
    const double value = value_of(f, c);
    const char *classes = is_first ? "num first" : "num";
    if (!isfinite(value)) {
        return rf_str_append(out, "<td class=\"%s none\">%s</td>", classes,
                             isnan(value) ? "n/a" : "inf");
    }
    /* Errors may be of any size. */
    if (f->n_digits == 4 && (fabs(value) >= 1e4 || (value != 0 && fabs(value) < 1e-3))) {
        return rf_str_append(out, "<td class=\"%s\" data-v=\"%.9g\">%.3g</td>", classes, value,
                             value);
    }
    return rf_str_append(out, "<td class=\"%s\" data-v=\"%.9g\">%.*f</td>", classes, value,
                         f->n_digits, value);
}

static rf_status write_end(const rf_sweep_report *r, const rf_sweep_coder *c, rf_str *out)
{
    rf_status status = RF_OK;
    rf_str reason = {0};
    const rf_coder_end end = rf_sweep_end(r, c);
    RF_TRY(rf_sweep_reason(r, c, &reason));
    RF_TRY(rf_str_append(out, "<td class=\"first end%d\"><b>%s</b>", (int)end,
                         rf_sweep_end_word(end)));
    if (reason.data[0] != '\0') {
        RF_TRY(rf_str_append(out, " <span>"));
        RF_TRY(rf_html_append(out, reason.data));
        RF_TRY(rf_str_append(out, "</span>"));
    }
    RF_TRY(rf_str_append(out, "</td>"));
fail:
    rf_str_fini(&reason);
    return status;
}

/* " · held out: EV 0.9, L0 32.0" where it is known. */
static rf_status append_told(const rf_sweep_coder *c, int where, const char *words, rf_str *out)
{
    double l0, ev;
    rf_sweep_place(c, where, &l0, &ev);
    return isfinite(l0) && isfinite(ev)
               ? rf_str_append(out, " \xc2\xb7 %s: EV %.4f, L0 %.1f", words, ev, l0)
               : RF_OK;
}

/* What a pointer over its line or mark shows. */
static rf_status write_told(const rf_sweep_report *r, const rf_sweep_coder *c, rf_str *out)
{
    rf_status status = RF_OK;
    rf_str label = {0};
    RF_TRY(rf_sweep_label(r, c - r->coders, &label));
    RF_TRY(rf_str_append(out, " data-n=\""));
    RF_TRY(rf_html_append(out, c->spec->coder.name));
    RF_TRY(rf_str_append(out, "\" data-t=\""));
    if (strcmp(label.data, c->spec->coder.name) != 0) {
        RF_TRY(rf_str_append(out, " \xc2\xb7 "));
        RF_TRY(rf_html_append(out, label.data));
    }
    RF_TRY(append_told(c, 0, "last batch", out));
    RF_TRY(append_told(c, 1 + RF_HELD_OUT, "held out", out));
    RF_TRY(rf_str_append(out, "%s\"", c->failed ? " \xc2\xb7 failed" : ""));
fail:
    rf_str_fini(&label);
    return status;
}

static rf_status write_row(const rf_sweep_report *r, int64_t idx, const bool *shown, rf_str *out)
{
    rf_status status = RF_OK;
    const rf_sweep_coder *c = &r->coders[idx];
    int last = -1;
    RF_TRY(rf_str_append(
        out, "<tr class=\"coder%s%s\" tabindex=\"0\" data-c=\"%" PRId64 "\" data-s=\"%" PRId64 "\"",
        c->selected ? " best" : "", c->failed ? " failed" : "", idx, r->series.of[idx]));
    RF_TRY(write_told(r, c, out));
    RF_TRY(rf_str_append(out, ">"));
    RF_TRY(write_name(r, c, out));
    for (int64_t i = 0; i < r->n_columns; i++) {
        RF_TRY(write_setting(&r->columns[i], idx, out));
    }
    for (int i = 0; i < N_FIGURES; i++) {
        if (shown[i]) {
            RF_TRY(write_figure(&figures[i], (int)figures[i].group != last, c, out));
            last = (int)figures[i].group;
        }
    }
    RF_TRY(write_end(r, c, out));
    RF_TRY(rf_str_append(out, "</tr>\n"));
fail:
    return status;
}

rf_status rf_sweep_write_rows(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    bool shown[N_FIGURES];
    for (int i = 0; i < N_FIGURES; i++) {
        shown[i] = is_shown(r, &figures[i]);
    }
    RF_TRY(rf_str_append(out, "<div class=\"wide\"><table>\n<thead>\n"));
    RF_TRY(write_groups(r, out));
    RF_TRY(write_headings(r, out));
    RF_TRY(rf_str_append(out, "</thead>\n<tbody>\n"));
    for (int64_t i = 0; i < r->n; i++) {
        RF_TRY(write_row(r, i, shown, out));
    }
    RF_TRY(rf_str_append(out, "</tbody>\n</table></div>\n"));
fail:
    return status;
}
