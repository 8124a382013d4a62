/* The training run: open, begin, pass after pass, and the files at the end. */
#include "run_impl.h"

#include <string.h>

/* ---- what is said at the start -----------------------------------------------------------------
 */

/* Each line of `text` through the log. */
static void log_lines(char *text)
{
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        rf_log(RF_LOG_INFO, "%s", line);
    }
}

static rf_status append_section(const rf_settings_table *table, const void *settings, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "%s\n", table->section));
    for (int64_t i = 0; i < table->n_rows; i++) {
        RF_TRY(rf_str_append(out, "  %-18s ", table->rows[i].key));
        RF_TRY(rf_settings_format(&table->rows[i], settings, out));
        RF_TRY(rf_str_append(out, "%s%s\n", table->rows[i].unit[0] != '\0' ? " " : "",
                             table->rows[i].unit));
    }
fail:
    return status;
}

/* As rf_coder_k, of a coder that is not made yet. */
static int64_t largest_k(const rf_trained *c)
{
    const rf_coder_settings *s = &c->spec->coder;
    return rf_architecture_at(s->architecture)->may_be_dense
               ? c->cost.n_latents
               : rf_min_i64(rf_k_of(&s->k, rf_coder_token_class(s)), c->cost.n_latents);
}

static rf_status append_coders(const rf_training *t, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "coders\n  %-24s %-32s %-9s %-12s %8s %6s %10s %8s %9s\n", "name",
                         "input", "tokens", "rule", "latents", "k", "lr", "batch", "steps"));
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        const rf_trained *c = &t->coders[i];
        RF_TRY(rf_str_append(out,
                             "  %-24s %-32s %-9s %-12s %8" PRId64 " %6" PRId64 " %10.4g %8" PRId64
                             " %9" PRId64 "%s%s\n",
                             c->spec->coder.name, c->spec->coder.input,
                             rf_token_class_names[rf_coder_token_class(&c->spec->coder)],
                             rf_architecture_at(c->spec->coder.architecture)->name,
                             c->cost.n_latents, largest_k(c), c->spec->train.lr,
                             c->spec->train.batch_tokens, c->n_batches, c->n_out > 0 ? "  to " : "",
                             c->spec->coder.target));
    }
fail:
    return status;
}

static rf_status log_start(const rf_training *t)
{
    rf_status status = RF_OK;
    const rf_run_settings *s = t->settings;
    rf_str text = {0};

    for (int i = 0; i < s->n_models; i++) {
        RF_TRY(rf_str_append(&text, "%s%s", s->models[i].name, s->n_models > 1 ? ": " : ""));
        RF_TRY(append_section(&rf_model_settings_table, &s->models[i].settings, &text));
    }
    RF_TRY(append_section(&rf_data_settings_table, &s->data, &text));
    RF_TRY(append_section(&rf_activations_settings_table, &s->activations, &text));
    RF_TRY(append_section(&rf_train_settings_table, &s->train, &text));
    RF_TRY(append_section(&rf_output_settings_table, &s->output, &text));
    RF_TRY(append_coders(t, &text));
    RF_TRY(rf_str_append(&text, "%d ranks, %" PRId64 " threads each, %s; ", rf_comm_size(t->comm),
                         t->n_threads, rf_backend_describe(t->be)));
    RF_TRY(t->pictures != NULL
               ? rf_str_append(&text, "%" PRId64 " pictures to train on, %" PRId64 " held out\n",
                               rf_picture_list_n(t->pictures, RF_SPLIT_TRAIN),
                               rf_picture_list_n(t->pictures, RF_SPLIT_HELD_OUT))
               : rf_str_append(&text, "%" PRId64 " pictures to train on, in '%s'\n",
                               rf_store_get_head(t->store)->n_pictures, rf_store_path(t->store)));
    log_lines(text.data);
    for (int64_t i = 0; i < s->n_coders; i++) {
        const rf_trained *c = &t->coders[i];
        if (c->spec->train.warmup_steps >= c->n_batches && c->n_batches > 0) {
            rf_log(RF_LOG_WARN,
                   "coder '%s' has %" PRId64 " steps and train.warmup_steps is %" PRId64
                   ": its learning rate never reaches lr",
                   c->spec->coder.name, c->n_batches, c->spec->train.warmup_steps);
        }
    }
fail:
    rf_str_fini(&text);
    return status;
}

/* ---- what is left at the end -------------------------------------------------------------------
 */

static rf_status write_summary(const rf_training *t)
{
    rf_status status = RF_OK;
    const int64_t n = t->settings->n_coders;
    rf_summary_row *rows = NULL;
    rf_coder_spec *specs = NULL;
    rf_metrics_line *lines = NULL;
    int64_t best = -1;
    char path[RF_PATH_LEN];

    RF_ALLOC(rows, n);
    RF_ALLOC(lines, n);
    RF_ALLOC(specs, n);
    for (int64_t i = 0; i < n; i++) {
        const rf_trained *c = &t->coders[i];
        specs[i] = *c->spec;
        specs[i].coder.latents = c->cost.n_latents; /* what expansion came to */
        rows[i] = (rf_summary_row){.spec = &specs[i],
                                   .last = &c->whole,
                                   .n_batches = c->n_batches,
                                   .batches_done = c->batches_done,
                                   .n_tried = c->n_tried,
                                   .n_skipped = c->n_skipped,
                                   .n_outliers = c->n_outliers,
                                   .failed = c->failed,
                                   .stop = c->stopping.stop};
        lines[i] = c->whole;
        if (c->failed) {
            lines[i].coder[0] = '\0'; /* never the best */
        }
    }
    RF_TRY(rf_select_best(t->settings->output.select, lines, n, &best));
    RF_TRY(rf_path_join(path, t->settings->output.dir, "summary.csv"));
    RF_TRY(rf_summary_write(path, rows, n, best));
    if (best >= 0) {
        rf_log(RF_LOG_INFO, "best by %s: coder '%s'", t->settings->output.select,
               t->coders[best].spec->coder.name);
    } else if (t->settings->output.select[0] != '\0') {
        rf_log(RF_LOG_WARN, "output.select '%s': no coder fits", t->settings->output.select);
    }
fail:
    rf_free(specs);
    rf_free(lines);
    rf_free(rows);
    return status;
}

/* Each pass counts its own; those of the one that saw most are reported. */
static rf_status report_bad(const rf_training *t, rf_train_report *report)
{
    rf_status status = RF_OK;
    rf_str text = {0};
    int64_t n_bad = 0;
    RF_TRY(rf_activation_stream_bad(t->acts, &n_bad, &text));
    if (n_bad > report->n_bad_pictures && rf_comm_rank(t->comm) == 0) {
        rf_log(RF_LOG_WARN, "%" PRId64 " pictures could not be read and were passed over:", n_bad);
        if (text.data != NULL) {
            log_lines(text.data);
        }
    }
    report->n_bad_pictures = rf_max_i64(report->n_bad_pictures, n_bad);
fail:
    rf_str_fini(&text);
    return status;
}

/* Totals of the coders, and a word on each that left batches out. */
static void report_coders(const rf_training *t, rf_train_report *report)
{
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        const rf_trained *c = &t->coders[i];
        report->n_failed += c->failed;
        report->n_stopped += c->stopping.stop == RF_STOP_METRIC;
        report->n_skipped += c->n_skipped;
        report->n_outliers += c->n_outliers;
        if (c->n_skipped > 0 && rf_comm_rank(t->comm) == 0) {
            rf_log(RF_LOG_WARN,
                   "coder '%s' skipped %" PRId64 " of its %" PRId64 " batches: %" PRId64
                   " as outliers, %" PRId64 " for NaN, infinity or no readable token",
                   c->spec->coder.name, c->n_skipped, c->n_tried, c->n_outliers,
                   c->n_skipped - c->n_outliers);
        }
    }
}

/* The pass that is open and those behind it, until a signal. Collective. */
static rf_status run_passes(rf_training *t, rf_train_report *out)
{
    rf_status status = RF_OK;
    for (;;) {
        RF_TRY(rf_training_loop(t, out));
        RF_TRY(report_bad(t, out));
        if (out->interrupted) {
            break;
        }
        RF_TRY(rf_training_write_coders(t));
        RF_TRY(rf_training_end_pass(t));
        if (t->end == t->settings->n_coders) {
            break;
        }
        RF_TRY(rf_training_begin_next(t));
    }
fail:
    return status;
}

/* Rank 0 writes; the status is the same on all. */
static rf_status finish(rf_training *t)
{
    rf_status status = RF_OK;
    if (rf_comm_rank(t->comm) == 0) {
        RF_TRY(rf_metrics_log_close(t->metrics));
        t->metrics = NULL;
        RF_TRY(write_summary(t));
    }
fail:
    return rf_comm_agree(t->comm, status);
}

rf_status rf_train_run(const rf_comm *comm, const rf_run_settings *settings, rf_train_report *out)
{
    rf_status status = RF_OK;
    rf_training t = {.comm = comm, .settings = settings};
    const double start = rf_now();

    memset(out, 0, sizeof *out);
    if (settings->n_coders == 0) {
        RF_FAIL(RF_ERR_SETTING, "there is no coder to train: name one under `coders`");
    }
    RF_TRY(rf_training_enter_folder(&t));
    RF_TRY(rf_training_open(&t));
    if (rf_comm_rank(comm) == 0) {
        status = log_start(&t);
    }
    RF_TRY(rf_comm_agree(comm, status));
    RF_TRY(rf_training_begin(&t));
    out->first_step = t.tick;
    RF_TRY(run_passes(&t, out));
    report_coders(&t, out);
    RF_TRY(finish(&t));
fail:
    out->steps = t.tick;
    out->seconds = rf_now() - start;
    if (rf_metrics_log_close(t.metrics) != RF_OK && status == RF_OK) {
        status = RF_ERR_IO;
    }
    rf_training_close(&t);
    return status;
}
