/* A sweep as it is told: read from its folder, in words, and into its file. */
#include "report_impl.h"

#include <math.h>
#include <string.h>

static rf_status start_coders(rf_sweep_report *r)
{
    rf_status status = RF_OK;
    r->n = r->settings->n_coders;
    RF_ALLOC(r->coders, r->n);
    for (int64_t i = 0; i < r->n; i++) {
        rf_sweep_coder *c = &r->coders[i];
        c->spec = &r->settings->coders[i];
        c->latents = c->spec->coder.latents;
        c->tokens = NAN;
        for (int f = 0; f < RF_N_CURVES; f++) {
            c->last[f] = NAN;
        }
        for (int s = 0; s < RF_N_MEASURED; s++) {
            c->measured[s] = (rf_measured){.l0 = NAN,
                                           .l0_cls = NAN,
                                           .ev = NAN,
                                           .mse = NAN,
                                           .cosine = NAN,
                                           .alive_percent = NAN,
                                           .cosine_spliced = NAN,
                                           .ce = NAN,
                                           .ce_spliced = NAN,
                                           .ce_zero = NAN,
                                           .ce_recovered = NAN};
        }
    }
fail:
    return status;
}

rf_status rf_sweep_report_open(const char *dir, rf_sweep_report **out)
{
    rf_status status = RF_OK;
    rf_sweep_report *r = NULL;
    char path[RF_PATH_LEN];

    *out = NULL;
    RF_ALLOC(r, 1);
    r->n_pictures[0] = r->n_pictures[1] = -1;
    r->eval_step = r->eval_pictures[0] = r->eval_pictures[1] = -1;
    RF_TRY(rf_format(r->dir, sizeof r->dir, "%s", dir));
    RF_TRY(rf_path_join(path, dir, "config.yaml"));
    if (!rf_file_exists(path)) {
        RF_FAIL(RF_ERR_NOT_FOUND, "'%s' is no run folder: it has no config.yaml", dir);
    }
    RF_TRY(rf_run_settings_load(path, NULL, 0, &r->settings));
    RF_TRY(start_coders(r));
    RF_TRY(rf_sweep_read_summary(r));
    RF_TRY(rf_sweep_read_progress(r));
    RF_TRY(rf_sweep_read_metrics(r));
    RF_TRY(rf_sweep_read_eval(r));
    RF_TRY(rf_sweep_read_origin(r));
    RF_TRY(rf_sweep_find_columns(r));
    RF_TRY(rf_sweep_find_groups(r));
    for (int where = 0; where < 1 + RF_N_MEASURED; where++) {
        RF_TRY(rf_sweep_find_front(r, where));
    }
    *out = r;
    return RF_OK;
fail:
    rf_sweep_report_close(r);
    return status;
}

void rf_sweep_report_close(rf_sweep_report *r)
{
    if (r == NULL) {
        return;
    }
    for (int64_t i = 0; i < r->n_columns; i++) {
        for (int64_t c = 0; c < r->n; c++) {
            rf_str_fini(&r->columns[i].values[c]);
        }
        rf_free(r->columns[i].values);
    }
    for (int64_t i = 0; r->coders != NULL && i < r->n; i++) {
        rf_free(r->coders[i].curve.points);
    }
    rf_groups_fini(&r->sites);
    rf_groups_fini(&r->architectures);
    rf_groups_fini(&r->series);
    rf_str_fini(&r->model);
    rf_str_fini(&r->model_hash);
    rf_str_fini(&r->picture_hash);
    rf_str_fini(&r->processing);
    rf_str_fini(&r->version);
    rf_str_fini(&r->settings_hash);
    rf_free(r->columns);
    rf_free(r->coders);
    rf_published_free(r->published);
    rf_run_settings_free(r->settings);
    rf_free(r);
}

int64_t rf_sweep_report_n_coders(const rf_sweep_report *r)
{
    return r->n;
}

rf_sweep_coder *rf_sweep_find(rf_sweep_report *r, const char *name, int64_t *hint)
{
    for (int64_t i = 0; i < r->n; i++) {
        const int64_t at = (*hint + i) % r->n;
        if (strcmp(r->coders[at].spec->coder.name, name) == 0) {
            *hint = at + 1;
            return &r->coders[at];
        }
    }
    return NULL;
}

/* ---- in words ----------------------------------------------------------------------------------
 */

rf_coder_end rf_sweep_end(const rf_sweep_report *r, const rf_sweep_coder *c)
{
    if (c->failed) {
        return RF_END_FAILED;
    }
    if (strcmp(c->stopped, "stop_metric") == 0) {
        return RF_END_STOPPED;
    }
    if (c->step == 0 && c->n_done == 0 && c->curve.n == 0) {
        return c->waits_for > 0 ? RF_END_WAITING : RF_END_NEVER;
    }
    if (c->n_batches > 0 && c->n_done > 0) {
        return c->n_done < c->n_batches ? RF_END_UNFINISHED : RF_END_DONE;
    }
    /* The last batch may be a ragged one, which an older summary does not tell of. */
    return !r->has_summary || c->step < c->n_batches - 1 ? RF_END_UNFINISHED : RF_END_DONE;
}

const char *rf_sweep_end_word(rf_coder_end end)
{
    static const char *const words[RF_N_ENDS] = {"done",   "stopped early", "unfinished",
                                                 "failed", "no step yet",   "waiting"};
    return words[end];
}

/* Batches until it failed, stopped or was interrupted: the last step of its figures where no more
 * is known. */
static int64_t count_tried(const rf_sweep_coder *c)
{
    return c->n_tried > 0 ? c->n_tried : c->step;
}

static rf_status say_failed(const rf_sweep_coder *c, rf_str *out)
{
    const rf_train_settings *t = &c->spec->train;
    if (strcmp(c->stopped, "bad run") == 0) {
        return rf_str_append(
            out, "a bad run at step %" PRId64 ": L0 below %g and explained variance below %g",
            count_tried(c), t->bad_l0, t->bad_ev);
    }
    if (c->n_tried == 0) {
        return rf_str_append(out, "too many batches were skipped, %" PRId64 " or more",
                             c->n_skipped);
    }
    return rf_str_append(out,
                         "%" PRId64 " of the first %" PRId64
                         " batches were skipped (loss or gradient NaN or infinite, an outlier, or "
                         "no token could be read); more than a share of %g fails",
                         c->n_skipped, c->n_tried, t->max_skipped_share);
}

static rf_status say_unfinished(const rf_sweep_report *r, const rf_sweep_coder *c, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "step %" PRId64, rf_max_i64(c->n_done, c->step)));
    if (c->n_batches > 0) {
        RF_TRY(rf_str_append(out, " of %" PRId64, c->n_batches));
    }
    RF_TRY(rf_str_append(out, "%s", r->has_summary ? ": interrupted" : "; the run has not ended"));
fail:
    return status;
}

rf_status rf_sweep_reason(const rf_sweep_report *r, const rf_sweep_coder *c, rf_str *out)
{
    switch (rf_sweep_end(r, c)) {
    case RF_END_FAILED:
        return say_failed(c, out);
    case RF_END_STOPPED:
        return rf_str_append(out, "'%s' did not improve any more; stopped at step %" PRId64,
                             c->spec->train.stop_metric, count_tried(c));
    case RF_END_UNFINISHED:
        return say_unfinished(r, c, out);
    case RF_END_NEVER:
        return rf_str_append(out, "no batch was trained on");
    case RF_END_WAITING:
        return rf_str_append(out, "for pass %" PRId64 " of %" PRId64, c->waits_for, c->n_passes);
    case RF_END_DONE:
    case RF_N_ENDS:
        break;
    }
    if (c->n_skipped > 0) {
        return rf_str_append(
            out, "%" PRId64 " of %" PRId64 " batches skipped, %" PRId64 " of them as outliers",
            c->n_skipped, c->n_batches, c->n_outliers);
    }
    return rf_str_append(out, "%s", "");
}

void rf_sweep_place(const rf_sweep_coder *c, int where, double *l0, double *ev)
{
    *l0 = where == 0 ? c->last[RF_CURVE_L0] : c->measured[where - 1].l0;
    *ev = where == 0 ? c->last[RF_CURVE_EV] : c->measured[where - 1].ev;
}

rf_status rf_sweep_label(const rf_sweep_report *r, int64_t idx, rf_str *out)
{
    rf_status status = RF_OK;
    /* Colours and shapes tell some; when to give up changes no coder. */
    static const char *const left_out[] = {"input",        "target",        "tokens",
                                           "architecture", "bad_l0",        "bad_ev",
                                           "stop_metric",  "stop_patience", NULL};
    int n = 0;
    for (int64_t i = 0; i < r->n_columns && n < 2; i++) {
        const rf_sweep_column *column = &r->columns[i];
        bool is_left_out =
            column->values[idx].data[0] == '\0' || strcmp(column->row->key, r->series_title) == 0;
        for (int k = 0; left_out[k] != NULL && !is_left_out; k++) {
            is_left_out = strcmp(column->row->key, left_out[k]) == 0;
        }
        if (!is_left_out) {
            RF_TRY(rf_str_append(out, "%s%s %s", n > 0 ? ", " : "", column->row->key,
                                 column->values[idx].data));
            n++;
        }
    }
    if (n == 0) {
        RF_TRY(rf_str_append(out, "%s", r->coders[idx].spec->coder.name));
    }
fail:
    return status;
}

int64_t rf_sweep_best(const rf_sweep_report *r)
{
    for (int64_t i = 0; i < r->n; i++) {
        if (r->coders[i].selected) {
            return i;
        }
    }
    return -1;
}

rf_status rf_sweep_report_write(const rf_sweep_report *r, char path[RF_PATH_LEN])
{
    rf_status status = RF_OK;
    rf_str page = {0};
    RF_TRY(rf_path_join(path, r->dir, "sweep.html"));
    RF_TRY(rf_sweep_report_page(r, &page));
    RF_TRY(rf_file_write_atomic(path, page.data, page.len));
fail:
    rf_str_fini(&page);
    return status;
}
