/* The loop of a run. A tick is one pass over the coders, in which each whose next batch is there
 * takes one step; when none has one, the stream makes its next pool. */
#include "run_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { MIN_STEPS_TO_FAIL = 20 };

/* ---- one step ----------------------------------------------------------------------------------
 */

/* Too many of its steps were skipped: its parameters are those of the last good one. */
static void check_skipped(rf_training *t, rf_trained *c)
{
    const double share = (double)c->n_skipped / (double)c->batches_done;
    if (!c->failed && c->batches_done >= MIN_STEPS_TO_FAIL &&
        share > c->spec->train.max_skipped_share) {
        c->failed = true;
        if (rf_comm_rank(t->comm) == 0 && t->settings->n_coders > 1) {
            rf_log(RF_LOG_ERROR,
                   "coder '%s' failed: %" PRId64 " of its %" PRId64
                   " steps were skipped for NaN or infinity; it learns no more",
                   c->spec->coder.name, c->n_skipped, c->batches_done);
        }
    }
}

/* A failed coder takes its batches and learns nothing: readers must keep up with the stream. */
static rf_status step(rf_training *t, rf_trained *c, const rf_token_batch *batch)
{
    rf_status status = RF_OK;
    const rf_train_settings *train = &c->spec->train;
    rf_step_rates rates = rf_step_rates_default();

    if (!c->failed) {
        rates.lr = rf_schedule_lr(&c->schedule, c->batches_done);
        rates.beta1 = train->beta1;
        rates.beta2 = train->beta2;
        rates.eps = train->eps;
        rates.clip_norm = train->clip_norm;
        RF_TRY_DOING(rf_step_run(t->step, c->coder, c->opt, batch, &rates, &c->last.m),
                     "coder '%s', step %" PRId64, c->spec->coder.name, c->batches_done + 1);
        c->n_skipped += c->last.m.skipped;
        c->last.lr = rates.lr;
        RF_TRY(rf_format(c->last.coder, sizeof c->last.coder, "%s", c->spec->coder.name));
    }
    c->batches_done++;
    c->window_tokens += batch->n_rows;
    check_skipped(t, c);
fail:
    return status;
}

/* ---- what is written of it ----------------------------------------------------------------------
 */

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
    c->last.n_skipped = c->n_skipped;
    c->last.tokens_per_s = (double)c->window_tokens / fmax(now - c->window_start, 1e-9);
    c->window_tokens = 0;
    c->window_start = now;
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
        RF_TRY(rf_format(name, sizeof name, "train/%s", figure));
        RF_TRY(rf_tfevents_scalar(c->events, c->last.step, wall_time, name, value));
    }
    RF_TRY(rf_tfevents_flush(c->events));
fail:
    return status;
}

/* A line for `c`, and rank 0 writes it. The caller agrees. */
static rf_status log_coder(rf_training *t, rf_trained *c)
{
    rf_status status = RF_OK;
    RF_TRY(fill_line(t, c));
    if (c->batches_done <= c->n_whole) {
        c->whole = c->last;
    }
    if (rf_comm_rank(t->comm) == 0) {
        RF_TRY(rf_metrics_log_write(t->metrics, &c->last));
        RF_TRY(write_events(c, (double)time(NULL)));
    }
fail:
    return status;
}

static bool is_time_to_log(const rf_training *t, const rf_trained *c)
{
    return t->tick % t->settings->train.log_every == 0 || c->batches_done == c->n_batches ||
           c->batches_done == c->n_whole;
}

/* The line that a person watches: the first coder that goes on, and the time that is left. */
static void show_progress(const rf_training *t, double start, int64_t first_done)
{
    const rf_trained *shown = &t->coders[0];
    int64_t done = 0, total = 0;
    double tokens = 0;
    char detail[256], left[32] = "?";

    for (int64_t i = t->settings->n_coders; i-- > 0;) {
        const rf_trained *c = &t->coders[i];
        done += c->batches_done;
        total += c->n_batches;
        tokens += (double)(c->batches_done - c->first_batch) * (double)c->spec->train.batch_tokens;
        if (!c->failed && c->batches_done < c->n_batches) {
            shown = c;
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

/* ---- ticks -------------------------------------------------------------------------------------
 */

/* One pass over the coders. `stepped` [n_coders] tells who took a batch. Collective. */
static rf_status pass(rf_training *t, bool *stepped, bool *any)
{
    rf_status status = RF_OK;
    rf_token_batch batch;

    *any = false;
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        RF_TRY(rf_activation_stream_next(t->acts, i, &batch, &stepped[i]));
        if (stepped[i]) {
            RF_TRY(step(t, &t->coders[i], &batch));
            *any = true;
        }
    }
fail:
    return status;
}

static rf_status log_tick(rf_training *t, const bool *stepped)
{
    rf_status status = RF_OK, local = RF_OK;
    bool any = false;
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        rf_trained *c = &t->coders[i];
        if (stepped[i] && !c->failed && is_time_to_log(t, c)) {
            any = true;
            local = local == RF_OK ? log_coder(t, c) : local;
        }
    }
    if (any) {
        RF_TRY(rf_comm_agree(t->comm, local));
    }
fail:
    return status;
}

static rf_status check_any_left(const rf_training *t)
{
    rf_status status = RF_OK;
    int64_t n_failed = 0;
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        n_failed += t->coders[i].failed;
    }
    if (n_failed == t->settings->n_coders) {
        const rf_trained *c = &t->coders[0];
        RF_FAIL(RF_ERR_NUMERIC,
                "%s: %" PRId64 " of %" PRId64
                " steps of coder '%s' were skipped for NaN or infinity, more than "
                "train.max_skipped_share; nothing was saved since step %" PRId64
                ". A lower train.lr, or pictures that are whole, may help",
                n_failed == 1 ? "the coder failed" : "all coders failed", c->n_skipped,
                c->batches_done, c->spec->coder.name, rf_max_i64(t->saved_tick, 0));
    }
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

static rf_status end_tick(rf_training *t, const bool *stepped)
{
    rf_status status = RF_OK;
    t->tick++;
    RF_TRY(log_tick(t, stepped));
    RF_TRY(check_any_left(t)); /* the same on all ranks: metrics are */
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

rf_status rf_training_loop(rf_training *t, rf_train_report *report)
{
    rf_status status = RF_OK;
    const double start = rf_now();
    const int64_t first_done = count_done(t);
    bool any = false, more = true, *stepped = NULL;

    stepped = rf_calloc(t->settings->n_coders, sizeof *stepped);
    RF_TRY(rf_comm_agree(t->comm, stepped == NULL ? RF_ERR_NO_MEMORY : RF_OK));
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        t->coders[i].window_start = start;
        t->coders[i].first_batch = t->coders[i].batches_done;
    }
    while (more) {
        RF_TRY(agree_on_signal(t, &report->signal));
        if (report->signal != 0) {
            report->interrupted = true;
            break;
        }
        RF_TRY(pass(t, stepped, &any));
        if (any) {
            RF_TRY(end_tick(t, stepped));
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
    rf_free(stepped);
    return status;
}
