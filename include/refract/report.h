/* report: what people read. Aligned text tables, the table of an evaluation, and a sweep as a table
 * and as a page. All functions are local. */
#ifndef REFRACT_REPORT_H
#define REFRACT_REPORT_H

#include "refract/base.h"
#include "refract/eval.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- table: aligned text ----------------------------------------------------------------------
 */

enum { RF_TABLE_MAX_COLUMNS = 24 };

typedef struct rf_table rf_table;

/* A table with these column headings; `alignment` has one letter for each, 'l' or 'r'. Both are
 * copied. */
rf_status rf_table_create(const char *const *headings, int64_t n_columns, const char *alignment,
                          rf_table **out);
void rf_table_destroy(rf_table *table); /* NULL is fine */
/* One cell of the row under construction, left to right; the row ends with its last column. */
rf_status rf_table_add(rf_table *table, const char *fmt, ...) RF_PRINTF(2, 3);
/* A number with `n_digits` behind the point; NaN is "n/a". */
rf_status rf_table_add_number(rf_table *table, double value, int n_digits);
/* Append heading, rule and rows to `out`, columns two spaces apart, widths counted in characters
 * (UTF-8), no spaces at the end of a line. INVALID_ARG when a row is not full. */
rf_status rf_table_write(const rf_table *table, rf_str *out);

/* ---- evaluation -------------------------------------------------------------------------------
 */

/* Append the tables of `report`: per token, then the model with the reconstruction in place, each
 * coder held out and trained on, and below them what the columns mean. */
rf_status rf_report_eval(const rf_eval_report *report, rf_str *out);

/* ---- sweep -------------------------------------------------------------------------------------
 */

/* The coders of a run beside each other, as its folder tells of them. */
typedef struct rf_sweep_report rf_sweep_report;
/* Read `dir`: config.yaml, and, where they are there, summary.csv (without it the run has not
 * ended, and figures are those of the last logged batches), metrics.jsonl (a torn last line is left
 * out), eval.json and a coder's file; the pictures are counted where they still are. Errors:
 * NOT_FOUND (no run folder); FORMAT, SETTING of a file name it and the place. */
rf_status rf_sweep_report_open(const char *dir, rf_sweep_report **out);
void rf_sweep_report_close(rf_sweep_report *report); /* NULL is fine */
int64_t rf_sweep_report_n_coders(const rf_sweep_report *report);
/* Append a table for a terminal, one line a coder, the best by output.select marked; of many coders
 * the front alone. */
rf_status rf_sweep_report_table(const rf_sweep_report *report, rf_str *out);
/* Append the page: HTML that needs no network, and no script to be complete. The same bytes for the
 * same folder. */
rf_status rf_sweep_report_page(const rf_sweep_report *report, rf_str *out);
/* Write it to `dir`/sweep.html, whose path comes back. */
rf_status rf_sweep_report_write(const rf_sweep_report *report, char path[RF_PATH_LEN]);

/* ---- published ---------------------------------------------------------------------------------
 */

/* Take figures that others published into the report: the CSV file `path` (NULL: the run's
 * output.published; where that is empty nothing happens) has a column `name`, any of
 * explained_variance, l0, l0_cls, cosine, cosine_spliced, ce, ce_spliced, ce_zero,
 * ce_recovered_percent and alive_percent (an empty cell: not published), and may have `table`, what
 * they are from; other columns are left alone. A coder is the row of its name, or of its name
 * without the suffixes of a sweep. The page has them as a section then. Errors: NOT_FOUND (no file,
 * or no coder of the run in it), FORMAT. */
rf_status rf_published_read(rf_sweep_report *report, const char *path);
/* Append them for a terminal: ours (of eval.json, held out where pictures were, else of the last
 * whole batch), theirs, the difference. Nothing where none were taken in. */
rf_status rf_published_table(const rf_sweep_report *report, rf_str *out);
/* Write all of them to `dir`/published.csv, whose path comes back ("": none were taken in). */
rf_status rf_published_write(const rf_sweep_report *report, char path[RF_PATH_LEN]);

#ifdef __cplusplus
}
#endif

#endif
