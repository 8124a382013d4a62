/* A run beside figures that others published: a CSV file of theirs, ours for the coders of the same
 * name, and the difference. */
#include "report_impl.h"

#include <math.h>
#include <string.h>

enum { MAX_FILE_BYTES = 1 << 24, MAX_ROWS = 200, MAX_NAME = 256 };

typedef struct figure {
    const char *key, *heading, *title;
    size_t offset;    /* of a double in rf_measured */
    int curve;        /* of the last batch; -1: a batch does not have it */
    bool in_terminal; /* a terminal is not wide enough for all */
    int n_digits;
} figure;

#define MEASURED(field) offsetof(rf_measured, field)

static const figure figures[] = {
    {"explained_variance", "EV", "explained variance", MEASURED(ev), RF_CURVE_EV, true, 4},
    {"l0", "L0", "active latents per token that the coder sees", MEASURED(l0), RF_CURVE_L0, true,
     1},
    {"l0_cls", "L0 CLS", "active latents of the CLS token", MEASURED(l0_cls), -1, true, 1},
    {"cosine", "cos", "of the activation and its reconstruction", MEASURED(cosine), -1, true, 4},
    {"cosine_spliced", "cos end", "of the model's final embedding with and without the coder",
     MEASURED(cosine_spliced), -1, true, 4},
    {"ce", "CE", "cross entropy of the untouched model", MEASURED(ce), -1, false, 4},
    {"ce_spliced", "CE spliced", "with the reconstruction in place", MEASURED(ce_spliced), -1,
     false, 4},
    {"ce_zero", "CE zero", "with zeros in its place", MEASURED(ce_zero), -1, false, 4},
    {"ce_recovered_percent", "CE rec. %", "cross entropy recovered", MEASURED(ce_recovered), -1,
     true, 2},
    {"alive_percent", "alive %", "latents that fired", MEASURED(alive_percent), -1, true, 1},
};
enum { N_FIGURES = sizeof figures / sizeof figures[0] };

struct rf_published {
    char path[RF_PATH_LEN];
    rf_csv csv;
    int64_t name, table;         /* columns; table -1: none */
    double (*values)[N_FIGURES]; /* [csv.n_rows]; NaN: not published */
    int64_t *row_of;             /* [coders]; 0, the headings: not in the file */
};

void rf_published_free(rf_published *p)
{
    if (p != NULL) {
        rf_csv_fini(&p->csv);
        rf_free(p->values);
        rf_free(p->row_of);
        rf_free(p);
    }
}

static const char *cell(const rf_published *p, int64_t row, int64_t column)
{
    return column >= 0 ? p->csv.cells[row * p->csv.n_columns + column] : "";
}

/* ---- the file ----------------------------------------------------------------------------------
 */

static rf_status read_values(rf_published *p, int64_t row, const int64_t columns[N_FIGURES])
{
    rf_status status = RF_OK;
    for (int f = 0; f < N_FIGURES; f++) {
        const char *text = cell(p, row, columns[f]);
        double *value = &p->values[row][f];
        *value = NAN;
        if (text[0] != '\0' && (rf_parse_f64(text, value) != RF_OK || !isfinite(*value))) {
            RF_FAIL(RF_ERR_FORMAT, "%s: row %" PRId64 ", column %s is '%.40s', expected a number",
                    p->path, row, figures[f].key, text);
        }
    }
fail:
    return status;
}

/* Names are unique, and what a terminal will show holds no controls. */
static rf_status check_words(const rf_published *p, int64_t row)
{
    rf_status status = RF_OK;
    const char *name = cell(p, row, p->name);
    if (name[0] == '\0' || strlen(name) >= MAX_NAME) {
        RF_FAIL(RF_ERR_FORMAT, "%s: row %" PRId64 " has a name of %zu bytes, expected 1 to %d",
                p->path, row, strlen(name), MAX_NAME - 1);
    }
    for (int64_t other = 1; other < row; other++) {
        if (strcmp(cell(p, other, p->name), name) == 0) {
            RF_FAIL(RF_ERR_FORMAT, "%s: rows %" PRId64 " and %" PRId64 " are both of '%.100s'",
                    p->path, other, row, name);
        }
    }
    for (const char *c = cell(p, row, p->table); *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            RF_FAIL(RF_ERR_FORMAT, "%s: row %" PRId64 ", column table holds a control character",
                    p->path, row);
        }
    }
fail:
    return status;
}

static rf_status read_file(rf_published *p)
{
    rf_status status = RF_OK;
    char *text = NULL;
    int64_t n_bytes = 0, columns[N_FIGURES], n_known = 0;

    RF_TRY_DOING(rf_file_read(p->path, MAX_FILE_BYTES, &text, &n_bytes), "published figures");
    RF_TRY(rf_csv_parse(text, n_bytes, p->path, &p->csv));
    p->name = rf_csv_column(&p->csv, "name");
    p->table = rf_csv_column(&p->csv, "table");
    for (int f = 0; f < N_FIGURES; f++) {
        columns[f] = rf_csv_column(&p->csv, figures[f].key);
        n_known += columns[f] >= 0;
    }
    if (p->name < 0 || n_known == 0) {
        RF_FAIL(RF_ERR_FORMAT,
                "%s: expected a column 'name' and figures as eval.json names them "
                "(explained_variance, l0, ...)",
                p->path);
    }
    RF_ALLOC(p->values, p->csv.n_rows);
    for (int64_t row = 1; row < p->csv.n_rows; row++) {
        RF_TRY(check_words(p, row));
        RF_TRY(read_values(p, row, columns));
    }
fail:
    rf_free(text);
    return status;
}

/* The row of `name`, or of what it is called without the suffixes of a sweep; 0: none. */
static rf_status find_row(const rf_published *p, const char *name, int64_t *out)
{
    rf_status status = RF_OK;
    char base[MAX_NAME];
    *out = 0;
    RF_TRY(rf_format(base, sizeof base, "%s", name));
    for (char *end = base + strlen(base); end != NULL && *out == 0; end = strrchr(base, '-')) {
        *end = '\0';
        for (int64_t row = 1; row < p->csv.n_rows && *out == 0; row++) {
            *out = strcmp(cell(p, row, p->name), base) == 0 ? row : 0;
        }
    }
fail:
    return status;
}

rf_status rf_published_read(rf_sweep_report *r, const char *path)
{
    rf_status status = RF_OK;
    rf_published *p = NULL;
    int64_t n_found = 0;

    path = path != NULL ? path : r->settings->output.published;
    if (path[0] == '\0') {
        return RF_OK;
    }
    RF_ALLOC(p, 1);
    RF_TRY(rf_format(p->path, sizeof p->path, "%s", path));
    RF_TRY(read_file(p));
    RF_ALLOC(p->row_of, r->n);
    for (int64_t i = 0; i < r->n; i++) {
        RF_TRY(find_row(p, r->coders[i].spec->coder.name, &p->row_of[i]));
        n_found += p->row_of[i] > 0;
    }
    if (n_found == 0) {
        RF_FAIL(RF_ERR_NOT_FOUND,
                "%s has figures of no coder of this run (of '%s', for one): names must be the same",
                path, r->coders[0].spec->coder.name);
    }
    rf_published_free(r->published);
    r->published = p;
    p = NULL;
fail:
    rf_published_free(p);
    return status;
}

/* ---- ours --------------------------------------------------------------------------------------
 */

static double published_of(const rf_sweep_report *r, int64_t idx, int f)
{
    const int64_t row = r->published->row_of[idx];
    return row > 0 ? r->published->values[row][f] : NAN;
}

/* What is to be believed most: held out, else trained on (nothing was held out), else NULL: the
 * last batch. */
static const rf_measured *measured_of(const rf_sweep_coder *c)
{
    for (int split = 0; split < RF_N_MEASURED; split++) {
        if (c->measured[split].has && !isnan(c->measured[split].l0)) {
            return &c->measured[split];
        }
    }
    return NULL;
}

static double ours_of(const rf_sweep_coder *c, int f)
{
    const rf_measured *measured = measured_of(c);
    double value = NAN;
    if (measured != NULL) {
        memcpy(&value, (const char *)measured + figures[f].offset, sizeof value);
    } else if (figures[f].curve >= 0) {
        value = c->last[figures[f].curve];
    }
    return value;
}

static const char *pictures_of(const rf_sweep_coder *c)
{
    const rf_measured *measured = measured_of(c);
    return measured == NULL                        ? "trained on, last batch"
           : measured == &c->measured[RF_HELD_OUT] ? "held out"
                                                   : "trained on";
}

/* Whether a coder of the run has it published, and (is_ours) measured. */
static bool has_figure(const rf_sweep_report *r, int f, bool is_ours)
{
    for (int64_t i = 0; i < r->n; i++) {
        if (!isnan(published_of(r, i, f)) && (!is_ours || !isnan(ours_of(&r->coders[i], f)))) {
            return true;
        }
    }
    return false;
}

typedef enum side { OURS, PUBLISHED, DIFFERENCE, N_SIDES } side;

static double side_of(const rf_sweep_report *r, int64_t idx, int f, int which)
{
    const double published = published_of(r, idx, f);
    const double ours = isnan(published) ? NAN : ours_of(&r->coders[idx], f);
    return which == OURS ? ours : which == PUBLISHED ? published : ours - published;
}

/* "" of NaN. */
static rf_status format_side(double value, int f, int which, char out[48])
{
    out[0] = '\0';
    if (isnan(value)) {
        return RF_OK;
    }
    return which == DIFFERENCE ? rf_format(out, 48, "%+.*f", figures[f].n_digits, value)
                               : rf_format(out, 48, "%.*f", figures[f].n_digits, value);
}

/* ---- in a terminal -----------------------------------------------------------------------------
 */

static rf_status create_table(const bool shown[N_FIGURES], rf_table **out)
{
    const char *headings[RF_TABLE_MAX_COLUMNS] = {"coder", "of", "ours is of"};
    char alignment[RF_TABLE_MAX_COLUMNS + 1] = "lll";
    int64_t n = 3;
    for (int f = 0; f < N_FIGURES; f++) {
        for (int which = 0; shown[f] && which < N_SIDES; which++) {
            headings[n] = which == OURS        ? figures[f].heading
                          : which == PUBLISHED ? "theirs"
                                               : "diff.";
            alignment[n++] = 'r';
        }
    }
    alignment[n] = '\0';
    return rf_table_create(headings, n, alignment, out);
}

static rf_status add_row(const rf_sweep_report *r, int64_t idx, const bool shown[N_FIGURES],
                         rf_table *table)
{
    rf_status status = RF_OK;
    const rf_sweep_coder *c = &r->coders[idx];
    char text[48];
    RF_TRY(rf_table_add(table, "%s", c->spec->coder.name));
    RF_TRY(rf_table_add(table, "%s",
                        cell(r->published, r->published->row_of[idx], r->published->table)));
    RF_TRY(rf_table_add(table, "%s", pictures_of(c)));
    for (int f = 0; f < N_FIGURES; f++) {
        for (int which = 0; shown[f] && which < N_SIDES; which++) {
            RF_TRY(format_side(side_of(r, idx, f, which), f, which, text));
            RF_TRY(rf_table_add(table, "%s", text));
        }
    }
fail:
    return status;
}

rf_status rf_published_table(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    rf_table *table = NULL;
    bool shown[N_FIGURES];
    int64_t n = 0;

    if (r->published == NULL) {
        return RF_OK;
    }
    for (int f = 0; f < N_FIGURES; f++) {
        shown[f] = figures[f].in_terminal && has_figure(r, f, true);
    }
    RF_TRY(create_table(shown, &table));
    for (int64_t i = 0; i < r->n; i++) {
        if (r->published->row_of[i] > 0 && n++ < MAX_ROWS) {
            RF_TRY(add_row(r, i, shown, table));
        }
    }
    RF_TRY(rf_str_append(out, "beside the figures of %s\n\n", r->published->path));
    RF_TRY(rf_table_write(table, out));
    if (n > MAX_ROWS) {
        RF_TRY(rf_str_append(out, "and %" PRId64 " more\n", n - MAX_ROWS));
    }
    RF_TRY(rf_str_append(out, "published.csv has all figures; others may mean other things by the "
                              "same word (docs/prisma.md)\n"));
fail:
    rf_table_destroy(table);
    return status;
}

/* ---- published.csv -----------------------------------------------------------------------------
 */

static rf_status append_quoted(rf_str *out, const char *text)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "\""));
    for (; *text != '\0'; text++) {
        RF_TRY(rf_str_append(out, "%s%c", *text == '"' ? "\"" : "", *text));
    }
    RF_TRY(rf_str_append(out, "\""));
fail:
    return status;
}

/* One line for each figure that was published. */
static rf_status append_lines(const rf_sweep_report *r, int64_t idx, rf_str *out)
{
    rf_status status = RF_OK;
    const rf_published *p = r->published;
    for (int f = 0; f < N_FIGURES; f++) {
        if (isnan(published_of(r, idx, f))) {
            continue;
        }
        RF_TRY(rf_str_append(out, "%s,", r->coders[idx].spec->coder.name));
        RF_TRY(append_quoted(out, cell(p, p->row_of[idx], p->table)));
        RF_TRY(rf_str_append(out, ",%s,\"%s\"", figures[f].key, pictures_of(&r->coders[idx])));
        for (int which = 0; which < N_SIDES; which++) {
            const double value = side_of(r, idx, f, which);
            RF_TRY(isnan(value) ? rf_str_append(out, ",") : rf_str_append(out, ",%.9g", value));
        }
        RF_TRY(rf_str_append(out, "\n"));
    }
fail:
    return status;
}

rf_status rf_published_write(const rf_sweep_report *r, char path[RF_PATH_LEN])
{
    rf_status status = RF_OK;
    rf_str text = {0};
    path[0] = '\0';
    if (r->published == NULL) {
        return RF_OK;
    }
    RF_TRY(rf_str_append(&text, "coder,table,figure,pictures,ours,published,difference\n"));
    for (int64_t i = 0; i < r->n; i++) {
        RF_TRY(append_lines(r, i, &text));
    }
    RF_TRY(rf_path_join(path, r->dir, "published.csv"));
    RF_TRY(rf_file_write_atomic(path, text.data, text.len));
fail:
    rf_str_fini(&text);
    return status;
}

/* ---- on the page -------------------------------------------------------------------------------
 */

static rf_status write_headings(const bool shown[N_FIGURES], rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "<tr><th class=\"who\"></th><th></th><th></th>"));
    for (int f = 0; f < N_FIGURES; f++) {
        if (shown[f]) {
            RF_TRY(rf_str_append(out, "<th colspan=\"3\" class=\"first\" title=\"%s\">%s</th>",
                                 figures[f].title, figures[f].heading));
        }
    }
    RF_TRY(rf_str_append(
        out, "</tr>\n<tr><th class=\"who\">coder</th><th>published in</th><th>ours is of</th>"));
    for (int f = 0; f < N_FIGURES; f++) {
        if (shown[f]) {
            RF_TRY(rf_str_append(out, "<th class=\"num first\">ours</th><th "
                                      "class=\"num\">published</th><th class=\"num\">diff.</th>"));
        }
    }
    RF_TRY(rf_str_append(out, "</tr>\n"));
fail:
    return status;
}

static rf_status write_row(const rf_sweep_report *r, int64_t idx, const bool shown[N_FIGURES],
                           rf_str *out)
{
    rf_status status = RF_OK;
    const rf_published *p = r->published;
    const rf_sweep_coder *c = &r->coders[idx];
    char text[48];
    RF_TRY(rf_str_append(
        out, "<tr class=\"beside\" data-c=\"%" PRId64 "\"><th scope=\"row\" class=\"who\">", idx));
    RF_TRY(rf_html_append(out, c->spec->coder.name));
    RF_TRY(rf_str_append(out, "</th><td>"));
    RF_TRY(rf_html_append(out, cell(p, p->row_of[idx], p->table)));
    RF_TRY(rf_str_append(out, "</td><td>%s</td>", pictures_of(c)));
    for (int f = 0; f < N_FIGURES; f++) {
        for (int which = 0; shown[f] && which < N_SIDES; which++) {
            RF_TRY(format_side(side_of(r, idx, f, which), f, which, text));
            RF_TRY(rf_str_append(out, "<td class=\"num%s\">%s</td>", which == OURS ? " first" : "",
                                 text));
        }
    }
    RF_TRY(rf_str_append(out, "</tr>\n"));
fail:
    return status;
}

rf_status rf_published_write_section(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    bool shown[N_FIGURES];
    if (r->published == NULL) {
        return RF_OK;
    }
    for (int f = 0; f < N_FIGURES; f++) {
        shown[f] = has_figure(r, f, false);
    }
    RF_TRY(rf_str_append(out, "<section class=\"full\">\n<h2>Beside published figures</h2>\n<p "
                              "class=\"sub\">Of <code>"));
    RF_TRY(rf_html_append(out, r->published->path));
    RF_TRY(rf_str_append(out, "</code>, taken on pictures and by formulas of their own; an empty "
                              "cell was not measured.</p>\n<div "
                              "class=\"wide\"><table>\n<thead>\n"));
    RF_TRY(write_headings(shown, out));
    RF_TRY(rf_str_append(out, "</thead>\n<tbody>\n"));
    for (int64_t i = 0; i < r->n; i++) {
        if (r->published->row_of[i] > 0) {
            RF_TRY(write_row(r, i, shown, out));
        }
    }
    RF_TRY(rf_str_append(out, "</tbody>\n</table></div>\n</section>\n"));
fail:
    return status;
}
