/* report: what people read. Aligned text tables, and the table of an evaluation. All functions are
 * local. */
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

#ifdef __cplusplus
}
#endif

#endif
