/* What the files of the sweep's page share. */
#ifndef REFRACT_REPORT_IMPL_H
#define REFRACT_REPORT_IMPL_H

#include "refract/report.h"
#include "refract/train.h"

/* ---- csv: a table as summary.csv has it --------------------------------------------------------
 */

typedef struct rf_csv {
    char *text;   /* cells are in it */
    char **cells; /* [n_rows, n_columns], the headings first */
    int64_t n_rows, n_columns;
} rf_csv;

/* FORMAT names file and line: a quote that does not end, a row of another length, a NUL. */
rf_status rf_csv_parse(const char *text, int64_t n_bytes, const char *name, rf_csv *out);
void rf_csv_fini(rf_csv *csv);
int64_t rf_csv_column(const rf_csv *csv, const char *heading); /* -1: there is none */

/* ---- html: text that is safe, numbers that are short -------------------------------------------
 */

/* `text` with & < > " ' as entities; control characters and what is no UTF-8 become U+FFFD. */
rf_status rf_html_append(rf_str *out, const char *text);
/* "1.2M", "0.05", "n/a"; for people, at most 5 characters of digits. */
void rf_html_short(double value, char out[32]);

/* ---- groups: what is equal among the coders ----------------------------------------------------
 */

typedef struct rf_groups {
    rf_str *names; /* [n] in the order of their first coder */
    int64_t n;
    int64_t *of; /* [coders] */
} rf_groups;

/* ---- sweep_report ------------------------------------------------------------------------------
 */

typedef enum rf_curve_figure {
    RF_CURVE_LOSS,
    RF_CURVE_MSE,
    RF_CURVE_EV,
    RF_CURVE_L0,
    RF_CURVE_DEAD, /* % of the latents */
    RF_CURVE_GRAD_NORM,
    RF_N_CURVES
} rf_curve_figure;

extern const char *const rf_curve_keys[RF_N_CURVES]; /* in metrics.jsonl */

typedef struct rf_curve_point {
    double tokens, y[RF_N_CURVES]; /* NaN: not known */
} rf_curve_point;

enum { RF_CURVE_MAX_POINTS = 240 };

/* Every stride-th of the lines that were seen, so that there are at most so many; and the last. */
typedef struct rf_curve {
    rf_curve_point *points; /* [n], room for RF_CURVE_MAX_POINTS + 1 once there is one */
    int64_t n, n_seen, stride;
    rf_curve_point last;
} rf_curve;

/* What eval.json says of a coder on one split; NaN: nothing. */
typedef struct rf_measured {
    bool has;
    double l0, l0_cls, ev, mse, cosine, alive_percent;
    double cosine_spliced, ce, ce_spliced, ce_zero, ce_recovered;
} rf_measured;

enum { RF_HELD_OUT, RF_TRAINED_ON, RF_N_MEASURED };

typedef enum rf_coder_end {
    RF_END_DONE,
    RF_END_STOPPED, /* by stop_metric: well */
    RF_END_UNFINISHED,
    RF_END_FAILED,
    RF_END_NEVER,   /* not one step */
    RF_END_WAITING, /* its pass has not begun */
    RF_N_ENDS
} rf_coder_end;

typedef struct rf_sweep_coder {
    const rf_coder_spec *spec; /* borrowed from the settings */
    int64_t latents;           /* 0: not known */
    int64_t n_batches, step;   /* n_batches 0: not known; step: of the figures in `last` */
    int64_t n_done, n_tried;   /* batches it took; until it failed or stopped: 0: not known */
    int64_t n_skipped, n_outliers;
    int64_t waits_for, n_passes; /* the pass it waits for, of how many; 0: none */
    double tokens;
    bool failed, selected;
    bool on_front[1 + RF_N_MEASURED]; /* of the last batch, then of each split */
    char stopped[32];
    double last[RF_N_CURVES]; /* of the last whole batch; NaN: none */
    rf_curve curve;
    rf_measured measured[RF_N_MEASURED];
} rf_sweep_coder;

/* A setting in which coders differ. */
typedef struct rf_sweep_column {
    const rf_setting *row;
    rf_str *values; /* [coders]; "": it means nothing to this one */
} rf_sweep_column;

typedef struct rf_published rf_published;

struct rf_sweep_report {
    char dir[RF_PATH_LEN];
    rf_run_settings *settings;
    rf_sweep_coder *coders; /* [n] */
    int64_t n;
    rf_sweep_column *columns;
    int64_t n_columns;
    rf_groups sites, architectures, series; /* series: what colours tell apart */
    const char *series_title;               /* borrowed */
    bool has_summary, has_eval;
    /* of coder.safetensors; "" and -1: not known */
    rf_str model, model_hash, picture_hash, processing, version;
    int64_t n_pictures[2]; /* trained on, held out */
    /* of eval.json */
    int64_t eval_step, eval_pictures[RF_N_MEASURED];
    rf_str settings_hash;
    rf_published *published; /* NULL: none */
};

/* The coder of this name, looked for from *hint on, which follows; NULL: none. */
rf_sweep_coder *rf_sweep_find(rf_sweep_report *r, const char *name, int64_t *hint);
/* How it ended, and why where that is not plain. */
rf_coder_end rf_sweep_end(const rf_sweep_report *r, const rf_sweep_coder *c);
rf_status rf_sweep_reason(const rf_sweep_report *r, const rf_sweep_coder *c, rf_str *out);
const char *rf_sweep_end_word(rf_coder_end end);
/* L0 and explained variance of the last batch (where 0) or of a split (1 + RF_HELD_OUT ...). */
void rf_sweep_place(const rf_sweep_coder *c, int where, double *l0, double *ev);
/* "k 32, lr 0.001": what tells it apart, of settings that are no colour; its name where nothing is.
 */
rf_status rf_sweep_label(const rf_sweep_report *r, int64_t idx, rf_str *out);
/* -1: none. */
int64_t rf_sweep_best(const rf_sweep_report *r);

/* ---- sweep_read: what lies in the folder -------------------------------------------------------
 */

rf_status rf_sweep_read_summary(rf_sweep_report *r);
/* Of the checkpoints: what a run that goes on or was killed has no summary of. */
rf_status rf_sweep_read_progress(rf_sweep_report *r);
rf_status rf_sweep_read_metrics(rf_sweep_report *r);
rf_status rf_sweep_read_eval(rf_sweep_report *r);
/* Model, hashes and pictures; nothing where no coder's file is there yet. */
rf_status rf_sweep_read_origin(rf_sweep_report *r);

/* ---- sweep_groups: columns, series, fronts -----------------------------------------------------
 */

rf_status rf_sweep_find_columns(rf_sweep_report *r);
rf_status rf_sweep_find_groups(rf_sweep_report *r);
/* Mark the coders that no other of the same site beats in both L0 and explained variance. */
rf_status rf_sweep_find_front(rf_sweep_report *r, int where);
void rf_groups_fini(rf_groups *groups);

/* ---- svg_axis: from values to places -----------------------------------------------------------
 */

enum { RF_AXIS_MAX_TICKS = 12 };

typedef struct rf_axis {
    double lo, hi;   /* of the values */
    double from, to; /* places of lo and hi */
    bool is_log;
    double ticks[RF_AXIS_MAX_TICKS];
    int n_ticks;
} rf_axis;

/* lo and hi widened to round numbers where there is room for that, and ticks; `wants_log` is
 * followed where both are positive and far enough apart. */
rf_axis rf_axis_fit(double lo, double hi, bool wants_log, double from, double to);
/* The place of `value`, kept on the axis; *is_on (may be NULL) tells whether it had to be. */
double rf_axis_place(const rf_axis *axis, double value, bool *is_on);
/* Lines, ticks and numbers of a frame. */
rf_status rf_axes_draw(const rf_axis *x, const rf_axis *y, rf_str *out);

/* ---- parts of the page -------------------------------------------------------------------------
 */

/* style="--c:..." of a series. */
rf_status rf_series_style(const rf_sweep_report *r, int64_t series, rf_str *out);
/* The mark of an architecture at (x, y); of a coder that failed a cross. */
rf_status rf_mark_draw(int64_t architecture, bool has_failed, double x, double y, rf_str *out);
rf_status rf_sweep_draw_front(const rf_sweep_report *r, rf_str *out);
rf_status rf_sweep_draw_curves(const rf_sweep_report *r, rf_str *out);
rf_status rf_sweep_write_rows(const rf_sweep_report *r, rf_str *out);
rf_status rf_sweep_write_origin(const rf_sweep_report *r, rf_str *out);

/* ---- published: beside figures of others -------------------------------------------------------
 */

void rf_published_free(rf_published *published); /* NULL is fine */
/* The section of the page; nothing where there is none. */
rf_status rf_published_write_section(const rf_sweep_report *r, rf_str *out);

/* page.css and page.js, ending in NUL; cmake/Embed.cmake puts them into the library. */
extern const char rf_embedded_page_css[], rf_embedded_page_js[];

#endif
