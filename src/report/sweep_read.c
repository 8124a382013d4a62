/* What a run folder says of its coders: summary.csv, metrics.jsonl, eval.json, coder.safetensors.
 */
#include "report_impl.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

enum { MAX_SUMMARY_BYTES = 1 << 26 };

const char *const rf_curve_keys[RF_N_CURVES] = {"loss", "mse",  "explained_variance",
                                                "l0",   "dead", "grad_norm"};

/* ---- summary.csv -------------------------------------------------------------------------------
 */

/* The number in column `heading` of `row`; NaN where the cell is empty or there is no column. */
static rf_status get_number(const rf_csv *csv, int64_t row, const char *heading, double *out)
{
    rf_status status = RF_OK;
    const int64_t column = rf_csv_column(csv, heading);
    const char *cell = column >= 0 ? csv->cells[row * csv->n_columns + column] : "";
    *out = NAN;
    if (cell[0] != '\0' && rf_parse_f64(cell, out) != RF_OK) {
        RF_FAIL(RF_ERR_FORMAT, "row %" PRId64 ", column %s is '%.40s', expected a number", row,
                heading, cell);
    }
fail:
    return status;
}

static rf_status get_count(const rf_csv *csv, int64_t row, const char *heading, int64_t *out)
{
    rf_status status = RF_OK;
    double value = 0;
    *out = 0;
    RF_TRY(get_number(csv, row, heading, &value));
    if (!isnan(value)) {
        if (!(value >= 0 && value <= 0x1p53 && value == floor(value))) {
            RF_FAIL(RF_ERR_FORMAT, "row %" PRId64 ", column %s is %g, expected a count", row,
                    heading, value);
        }
        *out = (int64_t)value;
    }
fail:
    return status;
}

static rf_status read_summary_row(const rf_csv *csv, int64_t row, rf_sweep_coder *c)
{
    rf_status status = RF_OK;
    int64_t failed = 0, selected = 0;
    char heading[64];
    const int64_t stopped = rf_csv_column(csv, "stopped");
    RF_TRY(get_count(csv, row, "latents", &c->latents));
    RF_TRY(get_count(csv, row, "n_batches", &c->n_batches));
    RF_TRY(get_count(csv, row, "last_step", &c->step));
    RF_TRY(get_count(csv, row, "failed", &failed));
    RF_TRY(get_count(csv, row, "selected", &selected));
    c->failed = failed != 0;
    c->selected = selected != 0;
    if (stopped >= 0) {
        RF_TRY(rf_format(c->stopped, sizeof c->stopped, "%s",
                         csv->cells[row * csv->n_columns + stopped]));
    }
    for (int i = 0; i < RF_N_CURVES; i++) {
        RF_TRY(rf_format(heading, sizeof heading, "last_%s", rf_curve_keys[i]));
        RF_TRY(get_number(csv, row, heading, &c->last[i]));
    }
    RF_TRY(get_number(csv, row, "last_tokens", &c->tokens));
    RF_TRY(get_count(csv, row, "n_done", &c->n_done));
    RF_TRY(get_count(csv, row, "n_tried", &c->n_tried));
    /* Those of the last line where the table is of a program that had no others. */
    const bool counts = rf_csv_column(csv, "n_skipped") >= 0;
    RF_TRY(get_count(csv, row, counts ? "n_skipped" : "last_skipped", &c->n_skipped));
    RF_TRY(get_count(csv, row, counts ? "n_outliers" : "last_outliers", &c->n_outliers));
fail:
    return status;
}

rf_status rf_sweep_read_summary(rf_sweep_report *r)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN], *text = NULL;
    int64_t n_bytes = 0, name = -1, hint = 0;
    rf_csv csv = {0};

    RF_TRY(rf_path_join(path, r->dir, "summary.csv"));
    if (!rf_file_exists(path)) {
        return RF_OK; /* the run has not ended */
    }
    RF_TRY(rf_file_read(path, MAX_SUMMARY_BYTES, &text, &n_bytes));
    RF_TRY(rf_csv_parse(text, n_bytes, path, &csv));
    name = rf_csv_column(&csv, "name");
    if (name < 0) {
        RF_FAIL(RF_ERR_FORMAT, "%s: no column 'name'", path);
    }
    for (int64_t row = 1; row < csv.n_rows; row++) {
        rf_sweep_coder *c = rf_sweep_find(r, csv.cells[row * csv.n_columns + name], &hint);
        if (c != NULL) {
            RF_TRY_DOING(read_summary_row(&csv, row, c), "%s", path);
        }
    }
    r->has_summary = true;
fail:
    rf_csv_fini(&csv);
    rf_free(text);
    return status;
}

/* ---- checkpoints -------------------------------------------------------------------------------
 */

static rf_status take_progress(rf_sweep_coder *c, const rf_coder_progress *p)
{
    c->waits_for = p->waits_for;
    c->n_passes = p->n_passes;
    if (!p->is_known || p->batches_done < c->n_done) {
        return RF_OK;
    }
    c->n_batches = p->n_batches > 0 ? p->n_batches : c->n_batches;
    c->n_done = p->batches_done;
    c->n_tried = p->n_tried;
    c->n_skipped = rf_max_i64(c->n_skipped, p->n_skipped);
    c->n_outliers = rf_max_i64(c->n_outliers, p->n_outliers);
    c->failed = c->failed || p->failed;
    return rf_format(c->stopped, sizeof c->stopped, "%s",
                     p->stopped[0] != '\0' ? p->stopped : c->stopped);
}

rf_status rf_sweep_read_progress(rf_sweep_report *r)
{
    rf_status status = RF_OK;
    rf_coder_progress *progress = NULL;
    RF_ALLOC(progress, r->n);
    RF_TRY(rf_run_read_progress(r->dir, r->settings, progress));
    for (int64_t i = 0; i < r->n; i++) {
        RF_TRY(take_progress(&r->coders[i], &progress[i]));
    }
fail:
    rf_free(progress);
    return status;
}

/* ---- metrics.jsonl -----------------------------------------------------------------------------
 */

static rf_status push_point(rf_curve *curve, const rf_curve_point *point)
{
    rf_status status = RF_OK;
    if (curve->points == NULL) {
        RF_ALLOC(curve->points, RF_CURVE_MAX_POINTS + 1);
        curve->stride = 1;
    }
    if (curve->n_seen % curve->stride == 0) {
        if (curve->n == RF_CURVE_MAX_POINTS) { /* every second one goes */
            for (int64_t i = 0; 2 * i < curve->n; i++) {
                curve->points[i] = curve->points[2 * i];
            }
            curve->n = (curve->n + 1) / 2;
            curve->stride *= 2;
        }
        if (curve->n_seen % curve->stride == 0) {
            curve->points[curve->n++] = *point;
        }
    }
    curve->n_seen++;
    curve->last = *point;
fail:
    return status;
}

/* The last point, if thinning left it out. */
static void end_curve(rf_curve *curve)
{
    if (curve->n > 0 && (curve->n_seen - 1) % curve->stride != 0) {
        curve->points[curve->n++] = curve->last;
    }
}

/* A short batch at the end is too small to judge by; the line of the whole one before it is there.
 */
static bool is_short(const rf_sweep_coder *c, int64_t step, double tokens)
{
    return c->n_batches > 0 && step == c->n_batches && c->step == step - 1 &&
           tokens - c->tokens < (double)c->spec->train.batch_tokens;
}

/* What is known so far: the checkpoint may be older or newer. */
static rf_status take_line(const rf_json *root, const rf_curve_point *point, rf_sweep_coder *c)
{
    rf_status status = RF_OK;
    const int64_t none = 0;
    int64_t step = 0, n_skipped = 0, n_outliers = 0;
    RF_TRY(rf_json_get_i64(root, "step", NULL, &step));
    RF_TRY(rf_json_get_i64(root, "skipped", &none, &n_skipped));
    RF_TRY(rf_json_get_i64(root, "outliers", &none, &n_outliers));
    if (step > c->n_done) { /* until then it learned */
        c->n_done = c->n_tried = step;
    }
    c->n_skipped = rf_max_i64(c->n_skipped, n_skipped);
    c->n_outliers = rf_max_i64(c->n_outliers, n_outliers);
    if (!is_short(c, step, point->tokens)) {
        c->step = step;
        c->tokens = point->tokens;
        memcpy(c->last, point->y, sizeof c->last);
    }
fail:
    return status;
}

static rf_status read_line(rf_sweep_report *r, const char *text, int64_t n_bytes, int64_t *hint)
{
    rf_status status = RF_OK;
    rf_json *root = NULL;
    const char *name = NULL;
    rf_curve_point point;
    rf_sweep_coder *c = NULL;
    const double none = NAN;

    RF_TRY(rf_json_parse(text, n_bytes, "a line of metrics", &root));
    RF_TRY(rf_json_get_str(root, "coder", NULL, &name));
    c = rf_sweep_find(r, name, hint);
    if (c == NULL) {
        goto fail; /* of no coder of this run: nothing to show */
    }
    RF_TRY(rf_json_get_f64(root, "tokens", &none, &point.tokens));
    for (int i = 0; i < RF_N_CURVES; i++) {
        RF_TRY(rf_json_get_f64(root, rf_curve_keys[i], &none, &point.y[i]));
    }
    if (!r->has_summary) {
        RF_TRY(take_line(root, &point, c));
    }
    if (isfinite(point.tokens)) {
        RF_TRY(push_point(&c->curve, &point));
    }
fail:
    rf_json_free(root);
    return status;
}

/* Dead latents as a share. */
static void finish_coder(rf_sweep_coder *c)
{
    const double percent = c->latents > 0 ? 100 / (double)c->latents : NAN;
    end_curve(&c->curve);
    c->last[RF_CURVE_DEAD] *= percent;
    for (int64_t i = 0; i < c->curve.n; i++) {
        c->curve.points[i].y[RF_CURVE_DEAD] *= percent;
    }
}

rf_status rf_sweep_read_metrics(rf_sweep_report *r)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    rf_file_map map = {0};
    int64_t hint = 0, line = 1;

    RF_TRY(rf_path_join(path, r->dir, "metrics.jsonl"));
    if (rf_file_exists(path)) {
        RF_TRY(rf_file_map_open(path, &map));
    }
    for (int64_t at = 0, n = 0; at < map.n_bytes; at += n + 1, line++) {
        const unsigned char *end = memchr(map.bytes + at, '\n', (size_t)(map.n_bytes - at));
        if (end == NULL) {
            break; /* torn: the run was killed, or writes it now */
        }
        n = (int64_t)(end - (map.bytes + at));
        RF_TRY_DOING(read_line(r, (const char *)map.bytes + at, n, &hint), "%s:%" PRId64, path,
                     line);
    }
    for (int64_t i = 0; i < r->n; i++) {
        finish_coder(&r->coders[i]);
    }
fail:
    rf_file_map_close(&map);
    return status;
}

/* ---- eval.json ---------------------------------------------------------------------------------
 */

static rf_status read_measured(const rf_json *coder, rf_measured *m)
{
    rf_status status = RF_OK;
    const double none = NAN;
    const struct {
        const char *key;
        double *value;
    } figures[] = {{"tokens.all.l0", &m->l0},
                   {"tokens.cls.l0", &m->l0_cls},
                   {"tokens.all.explained_variance", &m->ev},
                   {"tokens.all.mse", &m->mse},
                   {"tokens.all.cosine", &m->cosine},
                   {"alive_percent", &m->alive_percent},
                   {"embedding.cosine_spliced", &m->cosine_spliced},
                   {"classification.ce", &m->ce},
                   {"classification.ce_spliced", &m->ce_spliced},
                   {"classification.ce_zero", &m->ce_zero},
                   {"classification.ce_recovered_percent", &m->ce_recovered}};
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
        RF_TRY(rf_json_get_f64(coder, figures[i].key, &none, figures[i].value));
    }
    m->has = true;
fail:
    return status;
}

static rf_status read_split(rf_sweep_report *r, const rf_json *split)
{
    rf_status status = RF_OK;
    const char *which = NULL, *name = NULL;
    int64_t hint = 0;
    const int64_t none = -1;
    RF_TRY(rf_json_get_str(split, "pictures", NULL, &which));
    const int idx = strcmp(which, "held out") == 0 ? RF_HELD_OUT : RF_TRAINED_ON;
    RF_TRY(rf_json_get_i64(split, "n_pictures", &none, &r->eval_pictures[idx]));
    const rf_json *coders = rf_json_find(split, "coders");
    for (size_t i = 0; i < json_array_size(coders); i++) {
        const rf_json *coder = json_array_get(coders, i);
        RF_TRY(rf_json_get_str(coder, "name", NULL, &name));
        rf_sweep_coder *c = rf_sweep_find(r, name, &hint);
        if (c != NULL) {
            RF_TRY_DOING(read_measured(coder, &c->measured[idx]), "coder '%s'",
                         c->spec->coder.name);
        }
    }
fail:
    return status;
}

rf_status rf_sweep_read_eval(rf_sweep_report *r)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    rf_json *root = NULL;
    const char *hash = NULL;
    const int64_t none = -1;

    RF_TRY(rf_path_join(path, r->dir, "eval.json"));
    if (!rf_file_exists(path)) {
        return RF_OK;
    }
    RF_TRY(rf_json_load(path, &root));
    RF_TRY_DOING(rf_json_get_i64(root, "step", &none, &r->eval_step), "%s", path);
    RF_TRY_DOING(rf_json_get_str(root, "settings_hash", "", &hash), "%s", path);
    RF_TRY(rf_str_append(&r->settings_hash, "%s", hash));
    const rf_json *splits = rf_json_find(root, "splits");
    for (size_t i = 0; i < json_array_size(splits); i++) {
        RF_TRY_DOING(read_split(r, json_array_get(splits, i)), "%s: split %zu", path, i);
    }
    for (int64_t i = 0; i < r->n; i++) {
        r->has_eval = r->has_eval || r->coders[i].measured[RF_HELD_OUT].has;
    }
fail:
    rf_json_free(root);
    return status;
}

/* ---- coder.safetensors, and the pictures -------------------------------------------------------
 */

static bool is_shard(const char *name)
{
    const size_t n = strlen(name);
    return n >= 4 && strcmp(name + n - 4, ".tar") == 0;
}

/* Shards are counted by reading them through: too much for a page. */
static bool is_of_shards(const char *path)
{
    char **names = NULL;
    int64_t n = 0;
    bool is = is_shard(path);
    if (!is && rf_file_is_dir(path) && rf_file_list(path, &names, &n) == RF_OK) {
        for (int64_t i = 0; i < n && !is; i++) {
            is = is_shard(names[i]);
        }
        rf_file_list_free(names, n);
    }
    return is;
}

/* How many pictures, where they still are what was trained on; else that is not known. */
static void count_pictures(rf_sweep_report *r)
{
    rf_picture_list *pictures = NULL;
    char hash[32];
    if (!is_of_shards(r->settings->data.path) &&
        rf_run_settings_pictures(r->settings, NULL, &pictures) == RF_OK &&
        rf_format(hash, sizeof hash, "%016" PRIx64, rf_picture_list_hash(pictures)) == RF_OK &&
        strcmp(hash, r->picture_hash.data) == 0) {
        r->n_pictures[0] = rf_picture_list_n(pictures, RF_SPLIT_TRAIN);
        r->n_pictures[1] = rf_picture_list_n(pictures, RF_SPLIT_HELD_OUT);
    }
    rf_picture_list_close(pictures);
}

rf_status rf_sweep_read_origin(rf_sweep_report *r)
{
    rf_status status = RF_OK;
    char folder[RF_PATH_LEN], path[RF_PATH_LEN];
    rf_tensor_file *file = NULL;
    const struct {
        const char *key;
        rf_str *value;
    } metadata[] = {{"model", &r->model},
                    {"model_hash", &r->model_hash},
                    {"picture_hash", &r->picture_hash},
                    {"weight_processing", &r->processing},
                    {"refract", &r->version}};

    for (int64_t i = 0; i < r->n && file == NULL; i++) {
        RF_TRY(rf_path_join(folder, r->dir, r->coders[i].spec->coder.name));
        RF_TRY(rf_path_join(path, folder, "coder.safetensors"));
        if (rf_file_exists(path)) {
            RF_TRY(rf_tensor_file_open(path, &file));
        }
    }
    for (size_t i = 0; i < sizeof metadata / sizeof metadata[0]; i++) {
        const char *value = file != NULL ? rf_tensor_file_metadata(file, metadata[i].key) : NULL;
        RF_TRY(rf_str_append(metadata[i].value, "%s", value != NULL ? value : ""));
    }
    if (r->picture_hash.data[0] != '\0') {
        count_pictures(r);
    }
fail:
    rf_tensor_file_close(file);
    return status;
}
