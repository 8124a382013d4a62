/* The loop of a pass. A tick is one round of its coders, in which each whose next batch is there
 * takes one step; when none has one, the stream makes its next pool. All ranks serve the stream; a
 * step is the business of the ranks that have the coder, and groups of ranks are at theirs at once.
 * What everybody must know of the others' coders goes round once a tick. */
#include "run_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { MIN_STEPS_TO_FAIL = 20 };

/* ---- one step ----------------------------------------------------------------------------------
 */

/* Others take their batches and learn nothing: readers must keep up with the stream. */
static bool learns(const rf_trained *c)
{
    return !c->failed && c->stopping.stop == RF_STOP_NONE;
}

static bool any_learns(const rf_training *t)
{
    bool any = false;
    for (int64_t i = t->first; i < t->end; i++) {
        const rf_trained *c = &t->coders[i];
        any = any || (learns(c) && c->batches_done < c->n_batches);
    }
    return any;
}

/* Too many of its steps were skipped: its parameters are those of the last good one. */
static void check_skipped(rf_trained *c)
{
    const double share = (double)c->n_skipped / (double)c->batches_done;
    if (learns(c) && c->batches_done >= MIN_STEPS_TO_FAIL &&
        share > c->spec->train.max_skipped_share) {
        c->failed = true;
    }
}

static bool anneals_p(const rf_trained *c)
{
    return rf_coder_architecture(c->coder)->penalty == RF_PENALTY_POWER;
}

static rf_step_rates rates_of(const rf_trained *c)
{
    const rf_train_settings *train = &c->spec->train;
    const rf_coder_settings *coder = &c->spec->coder;
    const int64_t step = c->batches_done;
    return (rf_step_rates){
        .lr = rf_schedule_lr(&c->schedule, step),
        .beta1 = train->beta1,
        .beta2 = train->beta2,
        .eps = train->eps,
        .weight_decay = train->weight_decay,
        .clip_norm = train->clip_norm,
        .sparsity_scale = rf_schedule_sparsity(coder, step),
        .k_scale = rf_schedule_k(coder, step),
        .p = anneals_p(c) ? rf_schedule_p(coder, step, c->n_batches) : 0,
        .outlier_factor = train->outlier_factor,
        .flush = step + 1 == c->n_batches,
        .resample = rf_schedule_resamples(coder, step),
    };
}

static rf_status step(rf_training *t, rf_trained *c, const rf_token_batch *batch)
{
    rf_status status = RF_OK;
    if (learns(c)) {
        const rf_step_rates rates = rates_of(c);
        RF_TRY_DOING(rf_step_run(t->step, c->coder, c->opt, batch, &rates, &c->last.m),
                     "coder '%s', step %" PRId64, c->spec->coder.name, c->batches_done + 1);
        c->n_skipped += c->last.m.skipped;
        c->n_outliers += c->last.m.outlier;
        c->last.lr = rates.lr;
        c->last.p = rates.p;
        c->last.k = (double)rf_step_k(c->coder, rates.k_scale);
        RF_TRY(rf_format(c->last.coder, sizeof c->last.coder, "%s", c->spec->coder.name));
    }
fail:
    return status;
}

/* ---- what is written of it ----------------------------------------------------------------------
 */

/* NaN where it means nothing for the architecture. */
static void fill_selection(const rf_trained *c, const rf_coder_state *state, rf_metrics_line *line)
{
    const rf_architecture *a = rf_coder_architecture(c->coder);
    const double mass = (double)state->scalars[RF_SCALAR_THRESHOLD_MASS];
    const bool by_batch = a->rule(&c->spec->coder) == RF_SELECT_BATCH_TOPK;

    line->k = a->may_be_dense ? NAN : line->k;
    line->p = anneals_p(c) ? line->p : NAN;
    line->threshold =
        by_batch && mass > 0 ? (double)state->scalars[RF_SCALAR_THRESHOLD] / mass : NAN;
}

static rf_status fill_line(rf_training *t, rf_trained *c)
{
    rf_status status = RF_OK;
    rf_coder_state state;
    const double now = rf_now();
    const int64_t rows = rf_min_i64(c->batches_done * c->spec->train.batch_tokens, c->n_tokens);

    RF_TRY(rf_coder_get_state(c->coder, t->stream, &state));
    c->last.tick = t->tick;
    c->last.step = c->batches_done;
    c->last.tokens = state.counters[RF_COUNTER_TOKENS];
    c->last.epoch = (double)rows / (double)c->tokens_per_epoch;
    fill_selection(c, &state, &c->last);
    c->last.n_resampled = state.counters[RF_COUNTER_RESAMPLED];
    c->last.n_skipped = c->n_skipped;
    c->last.n_outliers = c->n_outliers;
    c->last.tokens_per_s = (double)c->window_tokens / fmax(now - c->window_start, 1e-9);
    c->window_tokens = 0;
    c->window_start = now;
fail:
    return status;
}

/* Whether the line that was just filled is its last one. The same on every rank that has it. */
static rf_status check_stop(rf_trained *c)
{
    rf_status status = RF_OK;
    const rf_train_settings *train = &c->spec->train;
    const bool is_warm =
        c->batches_done > rf_max_i64(train->warmup_steps, c->spec->coder.sparsity_warmup_steps);

    RF_TRY(rf_stopping_update(&c->stopping, train, &c->last, is_warm));
    c->last.stopped = c->stopping.stop;
    c->failed = c->failed || c->stopping.stop == RF_STOP_BAD;
fail:
    return status;
}

static rf_status write_events(const rf_trained *c, double wall_time)
{
    rf_status status = RF_OK;
    double value = 0;
    const char *figure = NULL;
    char name[RF_NAME_LEN];

    for (int i = 0; (figure = rf_metrics_figure(&c->last, i, &value)) != NULL; i++) {
        if (isfinite(value)) {
            RF_TRY(rf_format(name, sizeof name, "train/%s", figure));
            RF_TRY(rf_tfevents_scalar(c->events, c->last.step, wall_time, name, value));
        }
    }
    RF_TRY(rf_tfevents_flush(c->events));
fail:
    return status;
}

/* By its own batches: what others do changes nothing that early stopping sees. */
static bool is_time_to_log(const rf_training *t, const rf_trained *c)
{
    return c->batches_done % t->settings->train.log_every == 0 || c->batches_done == c->n_batches ||
           c->batches_done == c->n_whole;
}

/* The line that a person watches: the first coder that goes on, and the time that is left. */
static void show_progress(const rf_training *t, double start, int64_t first_done)
{
    const rf_trained *shown = &t->coders[t->first];
    int64_t done = 0, total = 0;
    double tokens = 0;
    char detail[256], left[32] = "?";

    for (int64_t i = t->settings->n_coders; i-- > 0;) {
        const rf_trained *c = &t->coders[i];
        done += c->batches_done;
        total += c->n_batches;
        if (i >= t->first && i < t->end) {
            tokens +=
                (double)(c->batches_done - c->first_batch) * (double)c->spec->train.batch_tokens;
            shown = learns(c) && c->batches_done < c->n_batches ? c : shown;
        }
    }
    const double seconds = rf_now() - start;
    if (done > first_done) {
        rf_format_duration(seconds / (double)(done - first_done) * (double)(total - done), left);
    }
    const rf_step_metrics *m = &shown->last.m;
    const double per_s = tokens / fmax(seconds, 1e-9);
    snprintf(detail, sizeof detail,
             "%.60s: loss %.4f  L0 %.1f  EV %.3f  dead %" PRId64 "  %.0f tokens/s  %s left",
             shown->spec->coder.name, m->loss, m->l0, m->explained_variance, m->n_dead, per_s,
             left);
    rf_progress("train", done, total, detail);
}

/* ---- what a tick was ---------------------------------------------------------------------------
 */

/* What the ranks of a coder tell the others of its step. */
typedef struct report {
    int64_t failed, is_logged, n_skipped, n_outliers;
    rf_stopping stopping;
    rf_metrics_line last;
} report;

/* What a coder was before its step. */
typedef struct mark {
    bool failed;
    int stop; /* rf_stop */
    int64_t n_skipped;
} mark;

/* One tick; arrays are [coders of the pass] but for the last two [ranks]. */
typedef struct lap {
    rf_token_batch *batches;
    bool *stepped;         /* took a batch */
    bool *is_logged;       /* and has a line to write */
    mark *before;          /* as they were */
    report *given, *taken; /* where coders are dealt out */
    int64_t *n_bytes, *next;
} lap;

static void lap_fini(lap *r)
{
    rf_free(r->next);
    rf_free(r->n_bytes);
    rf_free(r->taken);
    rf_free(r->given);
    rf_free(r->before);
    rf_free(r->is_logged);
    rf_free(r->stepped);
    rf_free(r->batches);
}

static rf_status lap_init(const rf_training *t, lap *r)
{
    rf_status status = RF_OK;
    const int64_t n = t->end - t->first, size = rf_comm_size(t->comm);
    RF_ALLOC(r->batches, n);
    RF_ALLOC(r->stepped, n);
    RF_ALLOC(r->is_logged, n);
    RF_ALLOC(r->before, n);
    RF_ALLOC(r->given, n);
    RF_ALLOC(r->taken, n);
    RF_ALLOC(r->n_bytes, size);
    RF_ALLOC(r->next, size);
fail:
    return status;
}

/* The next batch of every coder that has one. Collective. */
static rf_status take_batches(rf_training *t, lap *r, bool *any)
{
    rf_status status = RF_OK;
    *any = false;
    for (int64_t i = 0; i < t->end - t->first; i++) {
        RF_TRY(rf_activation_stream_next(t->acts, i, &r->batches[i], &r->stepped[i]));
        *any = *any || r->stepped[i];
    }
fail:
    return status;
}

/* Steps of this rank's coders, and the lines that are due. Collective over the group, whose ranks
 * get the same status; `lines` gets what went wrong on this rank beside the steps. */
static rf_status step_coders(rf_training *t, lap *r, rf_status *lines)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < t->end - t->first; i++) {
        rf_trained *c = &t->coders[t->first + i];
        r->before[i] = (mark){c->failed, c->stopping.stop, c->n_skipped};
        r->is_logged[i] = false;
        if (!r->stepped[i]) {
            continue;
        }
        c->n_tried += learns(c);
        if (c->coder != NULL) {
            RF_TRY(step(t, c, &r->batches[i]));
        }
        c->batches_done++;
        c->window_tokens += r->batches[i].n_rows;
        if (c->coder != NULL) {
            check_skipped(c);
            r->is_logged[i] = learns(c) && is_time_to_log(t, c);
        }
        if (r->is_logged[i] && *lines == RF_OK) {
            *lines = fill_line(t, c);
            *lines = *lines == RF_OK ? check_stop(c) : *lines;
        }
    }
fail:
    return status;
}

static report report_of(const rf_trained *c, bool is_logged)
{
    return (report){.failed = c->failed,
                    .is_logged = is_logged,
                    .n_skipped = c->n_skipped,
                    .n_outliers = c->n_outliers,
                    .stopping = c->stopping,
                    .last = c->last};
}

static void take_report(rf_trained *c, const report *from)
{
    c->failed = from->failed != 0;
    c->n_skipped = from->n_skipped;
    c->n_outliers = from->n_outliers;
    c->stopping = from->stopping;
    c->last = from->last;
}

/* Everybody learns from the first rank of each coder what its step was. Collective. */
static rf_status share_reports(rf_training *t, lap *r)
{
    rf_status status = RF_OK;
    const int size = rf_comm_size(t->comm), rank = rf_comm_rank(t->comm);
    int64_t n_given = 0, n_before = 0;

    memset(r->n_bytes, 0, sizeof *r->n_bytes * (size_t)size);
    for (int64_t i = 0; i < t->end - t->first; i++) {
        const rf_trained *c = &t->coders[t->first + i];
        if (r->stepped[i]) {
            r->n_bytes[c->first_rank] += (int64_t)sizeof *r->given;
            if (c->first_rank == rank) {
                r->given[n_given++] = report_of(c, r->is_logged[i]);
            }
        }
    }
    for (int k = 0; k < size; k++) {
        r->next[k] = n_before;
        n_before += r->n_bytes[k] / (int64_t)sizeof *r->given;
    }
    RF_TRY(rf_comm_allgatherv(t->comm, r->given, r->taken, r->n_bytes));
    for (int64_t i = 0; i < t->end - t->first; i++) {
        rf_trained *c = &t->coders[t->first + i];
        if (r->stepped[i]) {
            const report *from = &r->taken[r->next[c->first_rank]++];
            r->is_logged[i] = from->is_logged != 0;
            if (c->coder == NULL) {
                take_report(c, from);
            }
        }
    }
fail:
    return status;
}

/* ---- what is said and written of it; rank 0 ----------------------------------------------------
 */

static const char *skip_reason(const rf_step_metrics *m)
{
    return m->outlier           ? "its loss is above train.outlier_factor times the running mean"
           : m->n_tokens == 0   ? "no token of it could be read"
           : !isfinite(m->loss) ? "its loss is not finite"
                                : "its gradient is not finite";
}

static void say_failed(const rf_training *t, const rf_trained *c)
{
    if (c->stopping.stop == RF_STOP_BAD) {
        rf_log(RF_LOG_ERROR,
               "coder '%s' failed at batch %" PRId64
               ": a bad run, L0 %.4g is below train.bad_l0 and explained variance %.4g below "
               "train.bad_ev; it learns no more",
               c->spec->coder.name, c->batches_done, c->last.m.l0, c->last.m.explained_variance);
    } else if (t->settings->n_coders > 1) {
        rf_log(
            RF_LOG_ERROR,
            "coder '%s' failed: %" PRId64 " of its first %" PRId64
            " batches were skipped, for NaN, infinity or train.outlier_factor; it learns no more",
            c->spec->coder.name, c->n_skipped, c->n_tried);
    }
}

/* What became of it in this tick; of skipped batches the first, and then one of a hundred. */
static void say_changes(const rf_training *t, const mark *before, const rf_trained *c)
{
    if (c->n_skipped > before->n_skipped && (c->n_skipped == 1 || c->n_skipped % 100 == 0)) {
        rf_log(RF_LOG_WARN,
               "coder '%s': batch %" PRId64 " was skipped, %s (loss %.4g); %" PRId64 " so far",
               c->spec->coder.name, c->batches_done, skip_reason(&c->last.m), c->last.m.loss,
               c->n_skipped);
    }
    if (c->failed && !before->failed) {
        say_failed(t, c);
    } else if (c->stopping.stop == RF_STOP_METRIC && before->stop == RF_STOP_NONE) {
        rf_log(RF_LOG_INFO,
               "coder '%s' stopped after %" PRId64 " of its %" PRId64 " batches: %" PRId64
               " lines without a better %s than %.6g",
               c->spec->coder.name, c->batches_done, c->n_batches, c->stopping.n_worse,
               c->spec->train.stop_metric + 4, c->stopping.best);
    }
}

/* In the order of coders, however they are dealt out. */
static rf_status write_lines(rf_training *t, const lap *r)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < t->end - t->first; i++) {
        rf_trained *c = &t->coders[t->first + i];
        say_changes(t, &r->before[i], c);
        if (r->is_logged[i]) {
            c->whole = c->batches_done <= c->n_whole ? c->last : c->whole;
            RF_TRY(rf_metrics_log_write(t->metrics, &c->last));
            RF_TRY(write_events(c, (double)time(NULL)));
        }
    }
fail:
    return status;
}

/* ---- ticks -------------------------------------------------------------------------------------
 */

/* NUMERIC when every coder has failed. */
static rf_status check_any_left(const rf_training *t)
{
    rf_status status = RF_OK;
    const rf_trained *c = &t->coders[0];
    int64_t n_failed = 0;
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        n_failed += t->coders[i].failed;
    }
    if (n_failed < t->settings->n_coders) {
        return RF_OK;
    }
    const char *who = n_failed == 1 ? "the coder failed" : "all coders failed";
    if (c->stopping.stop == RF_STOP_BAD) {
        RF_FAIL(RF_ERR_NUMERIC,
                "%s: coder '%s' had L0 below train.bad_l0 and explained variance below "
                "train.bad_ev at batch %" PRId64 ". Less sparsity or a lower train.lr may help",
                who, c->spec->coder.name, c->batches_done);
    }
    RF_FAIL(RF_ERR_NUMERIC,
            "%s: %" PRId64 " of %" PRId64
            " batches of coder '%s' were skipped for NaN, infinity or train.outlier_factor, more "
            "than train.max_skipped_share; nothing was saved since step %" PRId64
            ". A lower train.lr, or pictures that are whole, may help",
            who, c->n_skipped, c->n_tried, c->spec->coder.name, rf_max_i64(t->saved_tick, 0));
fail:
    return status;
}

/* The signal that any rank got, on all. Collective. */
static rf_status agree_on_signal(const rf_training *t, int *out)
{
    int64_t raised = rf_interrupt_pending();
    rf_status status = rf_comm_max_i64(t->comm, &raised, 1);
    *out = (int)raised;
    return status;
}

/* The batches are there: steps, what is known of them everywhere, lines, a checkpoint. Collective.
 */
static rf_status run_tick(rf_training *t, lap *r)
{
    rf_status status = RF_OK, lines = RF_OK;
    bool any_logged = false;

    t->tick++;
    status = step_coders(t, r, &lines);
    if (t->group != NULL) {
        RF_TRY(rf_comm_agree(t->comm, status == RF_OK ? lines : status));
        RF_TRY(share_reports(t, r));
    }
    RF_TRY(status); /* without groups the same on all ranks */
    for (int64_t i = 0; i < t->end - t->first; i++) {
        any_logged = any_logged || r->is_logged[i];
    }
    if (rf_comm_rank(t->comm) == 0 && lines == RF_OK) {
        lines = write_lines(t, r);
    }
    if (any_logged) {
        RF_TRY(rf_comm_agree(t->comm, lines));
    }
    RF_TRY(check_any_left(t)); /* the same on all ranks */
    if (t->tick % t->settings->train.checkpoint_every == 0) {
        RF_TRY(rf_training_save(t));
    }
fail:
    return status;
}

static int64_t count_done(const rf_training *t)
{
    int64_t n = 0;
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        n += t->coders[i].batches_done;
    }
    return n;
}

rf_status rf_training_loop(rf_training *t, rf_train_report *out)
{
    rf_status status = RF_OK;
    const double start = rf_now();
    const int64_t first_done = count_done(t);
    bool any = false, more = true;
    lap r = {0};

    RF_TRY(rf_comm_agree(t->comm, lap_init(t, &r)));
    for (int64_t i = t->first; i < t->end; i++) {
        t->coders[i].window_start = start;
        t->coders[i].first_batch = t->coders[i].batches_done;
    }
    while (more && any_learns(t)) { /* when all stopped early, the rest of the data is left */
        RF_TRY(agree_on_signal(t, &out->signal));
        if (out->signal != 0) {
            out->interrupted = true;
            break;
        }
        RF_TRY(take_batches(t, &r, &any));
        if (any) {
            RF_TRY(run_tick(t, &r));
            if (rf_comm_rank(t->comm) == 0) {
                show_progress(t, start, first_done);
            }
        } else {
            status = rf_activation_stream_advance(t->acts, &more);
            if (status != RF_ERR_INTERRUPTED) {
                RF_TRY(status);
                continue;
            }
            more = true; /* a signal, on some rank: the loop begins with it */
        }
    }
    RF_TRY(rf_training_save(t));
fail:
    lap_fini(&r);
    return status;
}
