/* Axes of a figure: round bounds, ticks, and where a value lies. */
#include "report_impl.h"

#include <math.h>

/* 1, 2 or 5 times a power of ten, at least `step`. */
static double round_step(double step)
{
    const double unit = pow(10, floor(log10(step)));
    const double times = step / unit;
    return unit * (times <= 1.0001 ? 1 : times <= 2.0001 ? 2 : times <= 5.0001 ? 5 : 10);
}

static void add_tick(rf_axis *axis, double value)
{
    const double room = 1e-9 * fabs(axis->hi - axis->lo);
    if (axis->n_ticks < RF_AXIS_MAX_TICKS && value >= axis->lo - room && value <= axis->hi + room) {
        axis->ticks[axis->n_ticks++] = value;
    }
}

static void set_linear_ticks(rf_axis *axis, int n_wanted)
{
    const double step = round_step((axis->hi - axis->lo) / n_wanted);
    axis->lo = step * floor(axis->lo / step + 1e-6);
    axis->hi = step * ceil(axis->hi / step - 1e-6);
    const int64_t n = llround((axis->hi - axis->lo) / step);
    for (int64_t i = 0; i <= n; i++) {
        const double value = axis->lo + (double)i * step;
        add_tick(axis, fabs(value) < 1e-9 * step ? 0 : value);
    }
}

/* Powers of ten; with 2 and 5 times them where the axis is short. */
static void set_log_ticks(rf_axis *axis)
{
    const double decades = log10(axis->hi / axis->lo);
    const int first = (int)floor(log10(axis->lo)), last = (int)ceil(log10(axis->hi));
    const int stride = decades > 8 ? (int)ceil(decades / 8) : 1;
    for (int e = first; e <= last; e += stride) {
        add_tick(axis, pow(10, e));
        if (decades <= 3.2) {
            add_tick(axis, 2 * pow(10, e));
            add_tick(axis, 5 * pow(10, e));
        }
    }
}

rf_axis rf_axis_fit(double lo, double hi, bool wants_log, double from, double to)
{
    rf_axis axis = {.from = from, .to = to};
    if (!(isfinite(lo) && isfinite(hi) && lo <= hi)) {
        lo = 0;
        hi = 1;
    }
    axis.is_log = wants_log && lo > 0 && hi / lo >= 4;
    if (axis.is_log) {
        axis.lo = lo / pow(hi / lo, 0.04);
        axis.hi = hi * pow(hi / lo, 0.04);
        set_log_ticks(&axis);
        return axis;
    }
    if (!(hi - lo > 1e-6 * fmax(fabs(lo), fabs(hi)))) { /* one value: room on both sides */
        const double room = fmax(fabs(lo) * 0.1, 1e-3);
        lo -= room;
        hi += room;
    }
    axis.lo = lo;
    axis.hi = hi;
    set_linear_ticks(&axis, fabs(to - from) > 250 ? 6 : 4);
    return axis;
}

double rf_axis_place(const rf_axis *axis, double value, bool *is_on)
{
    const double kept = fmin(fmax(value, axis->lo), axis->hi);
    const double share = axis->is_log ? log(kept / axis->lo) / log(axis->hi / axis->lo)
                                      : (kept - axis->lo) / (axis->hi - axis->lo);
    if (is_on != NULL) {
        *is_on = value >= axis->lo && value <= axis->hi;
    }
    return axis->from + share * (axis->to - axis->from);
}

rf_status rf_axes_draw(const rf_axis *x, const rf_axis *y, rf_str *out)
{
    rf_status status = RF_OK;
    char text[32];
    RF_TRY(rf_str_append(out, "<g class=\"axes\">"));
    for (int i = 0; i < y->n_ticks; i++) {
        const double at = rf_axis_place(y, y->ticks[i], NULL);
        rf_html_short(y->ticks[i], text);
        RF_TRY(
            rf_str_append(out, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>", x->from, at, x->to));
        RF_TRY(rf_str_append(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"end\">%s</text>",
                             x->from - 7, at + 3.5, text));
    }
    for (int i = 0; i < x->n_ticks; i++) {
        const double at = rf_axis_place(x, x->ticks[i], NULL);
        rf_html_short(x->ticks[i], text);
        RF_TRY(rf_str_append(out, "<path class=\"tick\" d=\"M%.1f %.1fv4\"/>", at, y->from));
        RF_TRY(rf_str_append(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"mid\">%s</text>", at,
                             y->from + 17, text));
    }
    RF_TRY(rf_str_append(out, "<path class=\"base\" d=\"M%.1f %.1fH%.1f\"/></g>\n", x->from,
                         y->from, x->to));
fail:
    return status;
}
