/* Explained variance against L0: every coder a mark, those that none beats joined. */
#include "report_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEIGHT = 430,
    LEFT = 52,
    RIGHT = 18,
    TOP = 14,
    BOTTOM = 46,
    N_SHAPES = 5,
    LABEL_ALL_UP_TO = 40,
    LABEL_HEIGHT = 13
};

static const double LEAST_SPAN = 0.04; /* of explained variance */

/* A figure at work: the last batches, or a split of eval.json. */
typedef struct front {
    const rf_sweep_report *r;
    int where;
    rf_axis x, y;
    double (*places)[2];    /* [n] NaN: not drawn */
    double (*boxes)[4];     /* left, top, right, bottom of what labels must not cover */
    int64_t n_boxes, n_off; /* n_off: marks that had to be kept on the axes */
} front;

rf_status rf_series_style(const rf_sweep_report *r, int64_t series, rf_str *out)
{
    if (r->series.n <= 8) {
        return rf_str_append(out, "style=\"--c:var(--s%" PRId64 ")\"", series);
    }
    /* In order: layers, or values of a setting. */
    const double share = (double)series / (double)(r->series.n - 1);
    return rf_str_append(out, "style=\"--c:hsl(%.0f 62%% var(--ramp))\"", 262 - 250 * share);
}

rf_status rf_mark_draw(int64_t architecture, bool has_failed, double x, double y, rf_str *out)
{
    static const char *const shapes[N_SHAPES] = {
        "m-5.2 0a5.2 5.2 0 1 0 10.4 0a5.2 5.2 0 1 0-10.4 0z", /* circle, square, triangle ... */
        "m-4.6-4.6h9.2v9.2h-9.2z", "m0-6 5.8 10.2h-11.6z", "m0-6.4 6.4 6.4-6.4 6.4-6.4-6.4z",
        "m0 6 5.8-10.2h-11.6z"};
    const char *shape = has_failed ? "m-4.5-4.5 9 9m0-9-9 9" : shapes[architecture % N_SHAPES];
    return rf_str_append(out, "<path class=\"%s\" d=\"M%.1f %.1f%s\"/>",
                         has_failed ? "cross" : "mk", x, y, shape);
}

static int compare_f64(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* L0 and explained variance of those that explain something, else of all: `l0` and `ev` sorted. One
 * that collapsed must not press the others together. */
static int64_t gather(const front *f, int n_figures, double *l0, double *ev)
{
    const rf_sweep_report *r = f->r;
    double a, b;
    int64_t n = 0;
    for (int takes_all = 0; takes_all < 2 && n == 0; takes_all++) {
        for (int64_t i = 0; i < n_figures * r->n; i++) {
            const rf_sweep_coder *c = &r->coders[i % r->n];
            rf_sweep_place(c, (int)(i / r->n), &a, &b);
            if (isfinite(a) && isfinite(b) && (takes_all || (!c->failed && b > 0))) {
                l0[n] = a;
                ev[n++] = b;
            }
        }
    }
    qsort(l0, (size_t)n, sizeof *l0, compare_f64);
    qsort(ev, (size_t)n, sizeof *ev, compare_f64);
    return n;
}

/* The same axes for both figures. */
static rf_status fit_axes(front *f, int n_figures, double width)
{
    rf_status status = RF_OK;
    double *l0 = NULL, *ev = NULL, fewest = 0, largest = 1, least = 0, most = 1;
    RF_ALLOC(l0, 2 * f->r->n);
    RF_ALLOC(ev, 2 * f->r->n);
    const int64_t n = gather(f, n_figures, l0, ev);
    if (n > 0) {
        const double quarter = ev[n / 4];
        fewest = l0[0];
        largest = l0[n - 1];
        most = ev[n - 1];
        least = fmax(ev[0], quarter - 3 * (most - quarter) - 0.05); /* far astray: on the edge */
    }
    const double room = fmax(0, LEAST_SPAN - (most - least)) / 2; /* noise must not fill it */
    f->x = rf_axis_fit(fewest, largest, true, LEFT, width - RIGHT);
    f->y = rf_axis_fit(least - room, most + room, false, HEIGHT - BOTTOM, TOP);
fail:
    rf_free(ev);
    rf_free(l0);
    return status;
}

static void add_box(front *f, double left, double top, double right, double bottom)
{
    double *box = f->boxes[f->n_boxes++];
    box[0] = left;
    box[1] = top;
    box[2] = right;
    box[3] = bottom;
}

static void find_places(front *f)
{
    f->n_boxes = f->n_off = 0;
    for (int64_t i = 0; i < f->r->n; i++) {
        double l0, ev;
        bool is_on_x, is_on_y;
        rf_sweep_place(&f->r->coders[i], f->where, &l0, &ev);
        const bool is_drawn = isfinite(l0) && isfinite(ev);
        f->places[i][0] = is_drawn ? rf_axis_place(&f->x, l0, &is_on_x) : NAN;
        f->places[i][1] = is_drawn ? rf_axis_place(&f->y, ev, &is_on_y) : NAN;
        if (is_drawn) {
            const double x = f->places[i][0], y = f->places[i][1];
            f->n_off += !(is_on_x && is_on_y);
            const double size = f->r->coders[i].selected ? 12 : 6;
            add_box(f, x - size, y - size, x + size, y + size);
        }
    }
}

/* The coder of this site's front that comes next behind `l0`; -1: none. */
static int64_t next_on_front(const front *f, int64_t site, double behind)
{
    int64_t next = -1;
    double l0, ev, best = INFINITY;
    for (int64_t i = 0; i < f->r->n; i++) {
        rf_sweep_place(&f->r->coders[i], f->where, &l0, &ev);
        if (f->r->coders[i].on_front[f->where] && f->r->sites.of[i] == site && l0 > behind &&
            l0 < best) {
            best = l0;
            next = i;
        }
    }
    return next;
}

/* The front of each site: figures of different sites are not comparable. */
static rf_status draw_lines(const front *f, rf_str *out)
{
    rf_status status = RF_OK;
    double l0, ev;
    for (int64_t site = 0; site < f->r->sites.n; site++) {
        int64_t at = next_on_front(f, site, -INFINITY);
        if (at < 0) {
            continue;
        }
        RF_TRY(rf_str_append(out, "<path class=\"front\" "));
        if (strcmp(f->r->series_title, "site") == 0) {
            RF_TRY(rf_series_style(f->r, site, out));
            RF_TRY(rf_str_append(out, " data-s=\"%" PRId64 "\"", site));
        }
        RF_TRY(rf_str_append(out, " d=\""));
        for (bool is_first = true; at >= 0; is_first = false) {
            RF_TRY(rf_str_append(out, "%c%.1f %.1f", is_first ? 'M' : 'L', f->places[at][0],
                                 f->places[at][1]));
            rf_sweep_place(&f->r->coders[at], f->where, &l0, &ev);
            at = next_on_front(f, site, l0);
        }
        RF_TRY(rf_str_append(out, "\"/>\n"));
    }
fail:
    return status;
}

static rf_status draw_mark(const front *f, int64_t i, rf_str *out)
{
    rf_status status = RF_OK;
    const rf_sweep_coder *c = &f->r->coders[i];
    const double x = f->places[i][0], y = f->places[i][1];
    double l0, ev;
    rf_sweep_place(c, f->where, &l0, &ev);
    RF_TRY(rf_str_append(out, "<g class=\"pt%s\" data-c=\"%" PRId64 "\" data-s=\"%" PRId64 "\" ",
                         c->on_front[f->where] ? " on" : "", i, f->r->series.of[i]));
    RF_TRY(rf_series_style(f->r, f->r->series.of[i], out));
    RF_TRY(rf_str_append(out, "><title>"));
    RF_TRY(rf_html_append(out, c->spec->coder.name));
    RF_TRY(rf_str_append(out, ": explained variance %.4f at L0 %.1f</title>", ev, l0));
    if (c->selected) {
        RF_TRY(
            rf_str_append(out, "<circle class=\"ring\" cx=\"%.1f\" cy=\"%.1f\" r=\"11\"/>", x, y));
    }
    RF_TRY(rf_mark_draw(f->r->architectures.of[i], c->failed, x, y, out));
    RF_TRY(rf_str_append(out, "</g>\n"));
fail:
    return status;
}

static bool is_free(const front *f, const double box[4])
{
    bool is = box[0] >= f->x.from && box[2] <= f->x.to + RIGHT && box[1] >= f->y.to - TOP &&
              box[3] <= f->y.from;
    for (int64_t i = 0; i < f->n_boxes && is; i++) {
        const double *b = f->boxes[i];
        is = box[0] >= b[2] || box[2] <= b[0] || box[1] >= b[3] || box[3] <= b[1];
    }
    return is;
}

/* Beside the mark where there is room; no label where there is none, as every figure is in the
 * table. */
static rf_status draw_label(front *f, int64_t i, rf_str *out)
{
    rf_status status = RF_OK;
    rf_str text = {0};
    const bool is_best = f->r->coders[i].selected;
    const double x = f->places[i][0], y = f->places[i][1];
    RF_TRY(rf_sweep_label(f->r, i, &text));
    const double w = (is_best ? 6.9 : 6.3) * (double)text.len, h = LABEL_HEIGHT,
                 gap = is_best ? 14 : 9;
    /* Clear of a line that rises: above it left, below it right. */
    const bool is_over = f->r->coders[i].on_front[f->where];
    const double off = is_best ? 9 : 3;
    const double over[2] = {x - w - off, y - h - off - 3}, under[2] = {x + off + 4, y + off + 3};
    const double corners[6][2] = {{is_over ? over[0] : under[0], is_over ? over[1] : under[1]},
                                  {is_over ? under[0] : over[0], is_over ? under[1] : over[1]},
                                  {x + gap, y - h / 2},
                                  {x - gap - w, y - h / 2},
                                  {x - w / 2, y - gap - h},
                                  {x - w / 2, y + gap}};
    for (int k = 0; k < 6; k++) {
        const double box[4] = {corners[k][0], corners[k][1], corners[k][0] + w, corners[k][1] + h};
        if (is_free(f, box)) {
            add_box(f, box[0], box[1], box[2], box[3]);
            RF_TRY(rf_str_append(out,
                                 "<text class=\"lb%s\" data-c=\"%" PRId64 "\" data-s=\"%" PRId64
                                 "\" x=\"%.1f\" y=\"%.1f\">",
                                 is_best ? " best" : "", i, f->r->series.of[i], box[0],
                                 box[1] + h - 3));
            RF_TRY(rf_html_append(out, text.data));
            RF_TRY(rf_str_append(out, "</text>\n"));
            break;
        }
    }
fail:
    rf_str_fini(&text);
    return status;
}

/* The best first, then those on the front, then the others: of many sites the best alone, as their
 * fronts lie on each other. */
static rf_status draw_labels(front *f, rf_str *out)
{
    rf_status status = RF_OK;
    for (int turn = 0; turn < 3; turn++) {
        for (int64_t i = 0; i < f->r->n; i++) {
            const rf_sweep_coder *c = &f->r->coders[i];
            const int mine = c->selected ? 0 : c->on_front[f->where] ? 1 : 2;
            const bool has_room = f->r->n <= LABEL_ALL_UP_TO || (turn == 1 && f->r->sites.n == 1);
            if (mine == turn && isfinite(f->places[i][0]) && (turn == 0 || has_room)) {
                RF_TRY(draw_label(f, i, out));
            }
        }
    }
fail:
    return status;
}

static rf_status draw_figure(front *f, double width, rf_str *out)
{
    rf_status status = RF_OK;
    const double middle = (f->x.from + f->x.to) / 2;
    find_places(f);
    RF_TRY(
        rf_str_append(out,
                      "<svg viewBox=\"0 0 %.0f %d\" role=\"img\" aria-label=\"explained variance "
                      "against L0\">",
                      width, HEIGHT));
    RF_TRY(rf_axes_draw(&f->x, &f->y, out));
    RF_TRY(rf_str_append(out,
                         "<text class=\"mid name\" x=\"%.1f\" y=\"%d\">L0, active latents per "
                         "token%s</text>\n",
                         middle, HEIGHT - 8, f->x.is_log ? " (logarithmic)" : ""));
    RF_TRY(draw_lines(f, out));
    for (int64_t i = 0; i < f->r->n; i++) {
        if (isfinite(f->places[i][0])) {
            RF_TRY(draw_mark(f, i, out));
        }
    }
    RF_TRY(draw_labels(f, out));
    RF_TRY(rf_str_append(out, "</svg>"));
    if (f->n_off > 0) {
        RF_TRY(rf_str_append(out,
                             "<p class=\"note\">%" PRId64
                             " of the marks lie%s outside and %s drawn "
                             "on the edge; the table has the figures.</p>",
                             f->n_off, f->n_off == 1 ? "s" : "", f->n_off == 1 ? "is" : "are"));
    }
fail:
    return status;
}

/* The figure's heading: what its points were taken on. */
static rf_status write_caption(const front *f, rf_str *out)
{
    static const char *const words[] = {"Last whole batch of training", "Held-out pictures",
                                        "Trained-on pictures"};
    rf_status status = rf_str_append(out, "<figcaption>%s", words[f->where]);
    if (status == RF_OK && f->where > 0 && f->r->eval_pictures[f->where - 1] >= 0) {
        status = rf_str_append(out, " <small>%" PRId64 " pictures, eval.json</small>",
                               f->r->eval_pictures[f->where - 1]);
    }
    return status == RF_OK ? rf_str_append(out, "</figcaption>\n") : status;
}

rf_status rf_sweep_draw_front(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    front f = {.r = r};
    const int n_figures = r->has_eval ? 2 : 1;
    const double width = r->has_eval ? 590 : 1200;

    RF_ALLOC(f.places, r->n);
    RF_ALLOC(f.boxes, 2 * r->n);
    RF_TRY(fit_axes(&f, n_figures, width));
    RF_TRY(rf_str_append(out, "<div class=\"figures f%d\">\n", n_figures));
    for (f.where = 0; f.where < n_figures; f.where++) {
        RF_TRY(rf_str_append(out, "<figure>"));
        RF_TRY(write_caption(&f, out));
        RF_TRY(draw_figure(&f, width, out));
        RF_TRY(rf_str_append(out, "</figure>\n"));
    }
    RF_TRY(rf_str_append(out, "</div>\n"));
fail:
    rf_free(f.boxes);
    rf_free(f.places);
    return status;
}
