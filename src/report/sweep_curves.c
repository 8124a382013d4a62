/* Curves side by side: one figure a panel, one line a coder, against tokens. */
#include "report_impl.h"

#include <math.h>
#include <stdlib.h>

enum { WIDTH = 390, HEIGHT = 236, LEFT = 46, RIGHT = 20, TOP = 8, BOTTOM = 38 };

typedef struct panel {
    const char *title, *unit;
    bool wants_log;
    double share; /* of the points that the axis holds, from above or from both sides */
    bool cuts_below;
} panel;

static const panel panels[RF_N_CURVES] = {
    [RF_CURVE_LOSS] = {"Loss", "with its penalties", true, 0.99, false},
    [RF_CURVE_MSE] = {"Reconstruction error", "|y \xe2\x88\x92 \xc5\xb7|\xc2\xb2 / V", true, 0.99,
                      false},
    [RF_CURVE_EV] = {"Explained variance", "1 is perfect", false, 0.97, true},
    [RF_CURVE_L0] = {"L0", "active latents per token", true, 0.99, false},
    [RF_CURVE_DEAD] = {"Dead latents", "% of the dictionary", false, 1, false},
    [RF_CURVE_GRAD_NORM] = {"Gradient norm", "before clipping", true, 0.99, false},
};

static int compare_f64(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The finite values of figure `f` (positive ones where `is_log`), sorted; *last is the most tokens.
 */
static int64_t gather(const rf_sweep_report *r, int f, bool is_log, double *values, double *last)
{
    int64_t n = 0;
    for (int64_t i = 0; i < r->n; i++) {
        const rf_curve *curve = &r->coders[i].curve;
        for (int64_t p = 0; p < curve->n; p++) {
            const double v = curve->points[p].y[f];
            *last = fmax(*last, curve->points[p].tokens);
            if (isfinite(v) && (!is_log || v > 0)) {
                values[n++] = v;
            }
        }
    }
    qsort(values, (size_t)n, sizeof *values, compare_f64);
    return n;
}

/* Whether there is anything to draw. */
static rf_status fit_axes(const rf_sweep_report *r, int f, rf_axis *x, rf_axis *y, bool *has)
{
    rf_status status = RF_OK;
    double *values = NULL, last = 0;
    int64_t n_points = 0;
    for (int64_t i = 0; i < r->n; i++) {
        n_points += r->coders[i].curve.n;
    }
    RF_ALLOC(values, n_points);
    const panel *p = &panels[f];
    const int64_t n = gather(r, f, p->wants_log, values, &last);
    *has = n > 0;
    if (*has) {
        const int64_t n_cut = (int64_t)((1 - p->share) * (double)n);
        const double lo = values[p->cuts_below ? n_cut : 0];
        const double hi = values[p->cuts_below ? n - 1 : n - 1 - n_cut];
        *y = rf_axis_fit(f == RF_CURVE_DEAD ? 0 : lo, f == RF_CURVE_DEAD ? fmax(hi, 1) : hi,
                         p->wants_log, HEIGHT - BOTTOM, TOP);
        *x = rf_axis_fit(0, last, false, LEFT, WIDTH - RIGHT);
        x->hi = fmax(last, 1); /* the lines end where the figure ends */
    }
fail:
    rf_free(values);
    return status;
}

/* The axis with room on both sides: a line leaves the frame, which cuts it, where it does; and far
 * out is as good as out. */
static rf_axis widen(const rf_axis *y)
{
    rf_axis wide = *y;
    const double times = 3, span = y->hi - y->lo, ratio = pow(y->hi / y->lo, times);
    wide.lo = y->is_log ? y->lo / ratio : y->lo - times * span;
    wide.hi = y->is_log ? y->hi * ratio : y->hi + times * span;
    wide.from = y->from - times * (y->to - y->from);
    wide.to = y->to + times * (y->to - y->from);
    return wide;
}

static rf_status draw_line(const rf_sweep_report *r, int64_t i, int f, const rf_axis *x,
                           const rf_axis *y, rf_str *out)
{
    rf_status status = RF_OK;
    const rf_sweep_coder *c = &r->coders[i];
    const rf_axis wide = widen(y);
    bool is_down = false;
    RF_TRY(
        rf_str_append(out, "<path class=\"ln%s%s\" data-c=\"%" PRId64 "\" data-s=\"%" PRId64 "\" ",
                      c->selected ? " best" : "", c->failed ? " failed" : "", i, r->series.of[i]));
    RF_TRY(rf_series_style(r, r->series.of[i], out));
    RF_TRY(rf_str_append(out, " d=\""));
    for (int64_t p = 0; p < c->curve.n; p++) {
        const double v = c->curve.points[p].y[f];
        if (!isfinite(v) || (y->is_log && v <= 0)) {
            is_down = false; /* a gap */
            continue;
        }
        RF_TRY(rf_str_append(out, "%c%.1f %.1f", is_down ? 'L' : 'M',
                             rf_axis_place(x, c->curve.points[p].tokens, NULL),
                             rf_axis_place(&wide, v, NULL)));
        is_down = true;
    }
    RF_TRY(rf_str_append(out, "\"/>"));
fail:
    return status;
}

static rf_status draw_lines(const rf_sweep_report *r, int f, const rf_axis *x, const rf_axis *y,
                            rf_str *out)
{
    rf_status status = RF_OK;
    /* What is outside of a nested picture is cut; the best lies above the others. */
    RF_TRY(rf_str_append(
        out, "<svg x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" viewBox=\"%d %d %d %d\">", LEFT,
        TOP - 3, WIDTH - LEFT - RIGHT + 3, HEIGHT - TOP - BOTTOM + 6, LEFT, TOP - 3,
        WIDTH - LEFT - RIGHT + 3, HEIGHT - TOP - BOTTOM + 6));
    for (int turn = 0; turn < 2; turn++) {
        for (int64_t i = 0; i < r->n; i++) {
            if (r->coders[i].curve.n > 0 && r->coders[i].selected == (turn == 1)) {
                RF_TRY(draw_line(r, i, f, x, y, out));
            }
        }
    }
    RF_TRY(rf_str_append(out, "</svg>"));
fail:
    return status;
}

static rf_status draw_panel(const rf_sweep_report *r, int f, rf_str *out)
{
    rf_status status = RF_OK;
    rf_axis x, y;
    bool has = false;
    RF_TRY(rf_str_append(out, "<figure><figcaption>%s <small>%s</small></figcaption>\n",
                         panels[f].title, panels[f].unit));
    RF_TRY(fit_axes(r, f, &x, &y, &has));
    if (has) {
        RF_TRY(rf_str_append(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">",
                             WIDTH, HEIGHT, panels[f].title));
        RF_TRY(rf_axes_draw(&x, &y, out));
        RF_TRY(rf_str_append(out, "<text class=\"mid name\" x=\"%d\" y=\"%d\">tokens</text>",
                             (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5));
        RF_TRY(draw_lines(r, f, &x, &y, out));
        RF_TRY(rf_str_append(out, "</svg>"));
    } else {
        RF_TRY(rf_str_append(out, "<p class=\"note\">Not known%s.</p>",
                             f == RF_CURVE_DEAD && !r->has_summary ? " before the run ends" : ""));
    }
    RF_TRY(rf_str_append(out, "</figure>\n"));
fail:
    return status;
}

rf_status rf_sweep_draw_curves(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    bool is_thinned = false;
    RF_TRY(rf_str_append(out, "<div class=\"figures f3%s\">\n", r->n > 24 ? " many" : ""));
    for (int f = 0; f < RF_N_CURVES; f++) {
        RF_TRY(draw_panel(r, f, out));
    }
    RF_TRY(rf_str_append(out, "</div>\n"));
    for (int64_t i = 0; i < r->n; i++) {
        is_thinned = is_thinned || r->coders[i].curve.stride > 1;
    }
    RF_TRY(
        rf_str_append(out,
                      "<p class=\"note\">Single batches, as metrics.jsonl has them%s. Axes hold at "
                      "least 97 %% of the values; what lies beyond is cut.</p>\n",
                      is_thinned ? ", thinned to some 240 points a line" : ""));
fail:
    return status;
}
