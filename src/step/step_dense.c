/* Gradients while codes are not sparse: those of each rank's rows (step_dense_rows.c), summed over
 * ranks, and what is added to these. */
#include "step_dense.h"

#include <math.h>

/* Entries of all rows of all ranks. */
static rf_status count_active(const rf_step_job *job, int64_t *total)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    *total = 0;
    RF_TRY(rf_copy_out(step->s, step->host_starts, step->global.active,
                       sizeof(int64_t) * (size_t)job->n_rows));
    RF_TRY(rf_stream_synchronise(step->s));
    for (int64_t b = 0; b < job->n_rows; b++) {
        *total += step->host_starts[b];
    }
fail:
    return status;
}

static rf_dense_pass pass_of(rf_step_job *job)
{
    float scale = (float)(job->sparsity / job->n_valid);
    return (rf_dense_pass){.job = job,
                           .scale = scale,
                           .l0 = job->act.penalty == RF_PENALTY_L0 ? scale : 0.0f,
                           .bandwidth = (float)rf_coder_bandwidth(job->coder, &job->state),
                           .is_gated = job->architecture->act == RF_CODER_GATED,
                           .is_by_norm = job->settings->penalty_by_norm};
}

/* What gradients hang on is known before them: a pass over the rows for their counts and penalties
 * alone. */
static rf_status survey(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step_rows *l = &job->step->local, *g = &job->step->global;
    rf_dense_pass d = pass_of(job);
    RF_TRY(rf_comm_agree(job->step->comm, rf_dense_survey(&d)));
    RF_TRY(rf_exchange_rows(job, l->active, g->active, sizeof(int64_t)));
    RF_TRY(rf_exchange_rows(job, l->sparsity, g->sparsity, sizeof(float)));
fail:
    return status;
}

/* The sum of the penalty over the batch. */
static rf_status survey_penalty(rf_step_job *job, double *out)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(survey(job));
    RF_TRY(rf_comm_agree(step->comm, rf_step_sum(step, step->global.sparsity, job->n_rows, out)));
fail:
    return status;
}

/* The weight of the penalty in this batch: by its mean number of entries where that has a target,
 * by its penalty where p changes. */
static rf_status set_sparsity(rf_step_job *job)
{
    rf_status status = RF_OK;
    int64_t total;
    if (job->settings->penalty == RF_PENALTY_CHOICE_TARGET_L0) {
        RF_TRY(survey(job));
        RF_TRY(rf_comm_agree(job->step->comm, count_active(job, &total)));
        job->metrics->l0 = (double)total / job->n_valid;
    }
    if (job->act.penalty == RF_PENALTY_L0) {
        rf_step_set_l0_weight(job);
    }
    RF_TRY(rf_step_keep_penalty(job, survey_penalty));
fail:
    return status;
}

/* ---- all ranks
 * ----------------------------------------------------------------------------------- */

/* Gradients of this rank's rows, on their way to all. */
static rf_status gradients_local(const rf_dense_pass *d)
{
    rf_status status = RF_OK;
    RF_TRY(rf_dense_gradients(d));
    RF_TRY(rf_exchange_begin(d->job->step));
fail:
    return status;
}

/* Gradients, sums by latent and counts, summed in the order of ranks. */
static rf_status queue_sums(const rf_dense_pass *d)
{
    rf_status status = RF_OK;
    const rf_step_job *job = d->job;
    rf_step *step = job->step;
    for (int i = 0; i < RF_CODER_ARCHETYPES; i++) { /* archetypes follow from W_dec's */
        rf_view g = rf_step_gradient(job, i);
        if (g.data != NULL) {
            RF_TRY(rf_all_sum_f32(step->exchange, step->comm, g.data, rf_view_n_elems(&g)));
        }
    }
    if (d->is_gated) {
        RF_TRY(rf_all_sum_f32(step->exchange, step->comm, step->by_latent, job->n_latents));
    }
    if (d->is_by_norm) {
        RF_TRY(rf_all_sum_f32(step->exchange, step->comm, step->by_latent2, job->n_latents));
    }
    RF_TRY(rf_all_sum_i64(step->exchange, step->comm, step->n_active, job->n_latents));
fail:
    return status;
}

/* |y - mean|^2 of this rank's rows, from the mean target of all. */
static rf_status spread_local(const rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_exchange_end(step));
    RF_TRY(rf_residual(step->s,
                       &(rf_residual_args){.x = rf_step_target(job, false),
                                           .x_hat = rf_view_2d(step->mean, 1, job->out_width),
                                           .row_loss = rf_view_1d(step->local.spread, job->n_local),
                                           .row_valid = step->local.valid}));
    RF_TRY(rf_exchange_begin(step));
fail:
    return status;
}

/* Figures of the rows of every rank. */
static rf_status queue_figures(const rf_dense_pass *d)
{
    rf_status status = RF_OK;
    const rf_step_job *job = d->job;
    rf_step_rows *l = &job->step->local, *g = &job->step->global;
    RF_TRY(rf_exchange_queue_rows(job, l->loss, g->loss, sizeof(float)));
    RF_TRY(rf_exchange_queue_rows(job, l->sparsity, g->sparsity, sizeof(float)));
    RF_TRY(rf_exchange_queue_rows(job, l->spread, g->spread, sizeof(float)));
    RF_TRY(rf_exchange_queue_rows(job, l->active, g->active, sizeof(int64_t)));
    if (d->is_gated) {
        RF_TRY(rf_exchange_queue_rows(job, l->extra, g->extra, sizeof(float)));
    }
fail:
    return status;
}

/* Figures first: the step waits for them, and goes on while gradients are summed. May fail on one
 * rank alone. */
static rf_status exchange_all(const rf_dense_pass *d)
{
    rf_status status = RF_OK, waits = RF_OK;
    const rf_step_job *job = d->job;
    rf_step *step = job->step;
    status = rf_all_sum_f32(step->exchange, step->comm, step->mean, job->out_width);
    RF_TRY(rf_comm_agree(step->comm, status != RF_OK ? status : spread_local(job)));
    RF_TRY(queue_figures(d));
    waits = rf_exchange_end(step); /* the others expect the sums all the same */
    RF_TRY(queue_sums(d));
    rf_step_lap(step, RF_PART_EXCHANGE);
    status = waits;
fail:
    return status;
}

/* Rows that the auxiliary term is made of: as they were when the sums began. */
static rf_status queue_rows(const rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step_rows *l = &job->step->local, *g = &job->step->global;
    RF_TRY(rf_exchange_queue_rows(job, l->seen, g->seen, sizeof(float) * (size_t)job->width));
    RF_TRY(rf_exchange_queue_rows(job, l->g[RF_STEP_MAIN], g->g[RF_STEP_MAIN],
                                  sizeof(float) * (size_t)job->out_width));
    RF_TRY(rf_exchange_queue_rows(job, l->valid, g->valid, 1));
    rf_step_lap(job->step, RF_PART_EXCHANGE);
fail:
    return status;
}

/* Is the next step a sparse one? Both ways are counted in integers, and going back takes more than
 * it took to come (step.c holds the other threshold). Lists may hold more than what is active (a
 * threshold's window, open gates): where they did not fit, some steps go by before the next try. */
static rf_status choose_path(rf_step_job *job)
{
    enum { SPARSE_BELOW = 64 }; /* one latent of so many active on average */
    rf_status status = RF_OK;
    int64_t total, *counters = job->state.counters;
    RF_TRY(count_active(job, &total));
    job->metrics->l0 = (double)total / job->n_valid;
    job->state.counters[RF_COUNTER_DENSE] =
        counters[RF_COUNTER_HOLD] > 0 ||
        (double)total * SPARSE_BELOW > job->n_valid * (double)job->n_latents;
    counters[RF_COUNTER_HOLD] = rf_max_i64(0, counters[RF_COUNTER_HOLD] - 1);
fail:
    return status;
}

static rf_status measure(const rf_dense_pass *d)
{
    rf_status status = RF_OK;
    rf_step_job *job = d->job;
    rf_step_rows *all = &job->step->global;
    rf_step_metrics *m = job->metrics;
    double error, spread, penalty, extra = 0.0;
    RF_TRY(rf_step_sum(job->step, all->loss, job->n_rows, &error));
    RF_TRY(rf_step_sum(job->step, all->spread, job->n_rows, &spread));
    RF_TRY(rf_step_sum(job->step, all->sparsity, job->n_rows, &penalty));
    if (d->is_gated) {
        RF_TRY(rf_step_sum(job->step, all->extra, job->n_rows, &extra));
    }
    RF_TRY(choose_path(job));
    m->mse = error / (job->n_valid * job->variance);
    m->extra = extra / (job->n_valid * job->variance);
    if (job->act.penalty == RF_PENALTY_L0) {
        rf_step_set_l0_weight(job);
    } else {
        m->sparsity = job->sparsity * penalty / job->n_valid;
    }
    m->explained_variance = 1.0 - error / spread;
    m->skipped = !isfinite(m->mse) || !isfinite(m->extra) || !isfinite(m->sparsity);
    rf_step_lap(job->step, RF_PART_OTHER);
fail:
    return status;
}

/* ---- what is added to the sums over all ranks: the same everywhere ------------------------------
 */

static rf_status aux_by_latent(const rf_dense_pass *d)
{
    rf_status status = RF_OK;
    const rf_step_job *job = d->job;
    rf_step *step = job->step;
    rf_codes *codes = &step->global.codes[RF_STEP_AUX];
    rf_latent_index *index = &step->index[RF_STEP_AUX];
    index->n_latents = job->n_latents;
    RF_TRY(rf_exchange_end(step));
    RF_TRY(rf_index_by_latent(step->s, codes, index));
    rf_step_lap(step, RF_PART_INDEX);
    rf_by_latent_args args = {.n_lists = 1,
                              .codes = {codes},
                              .index = {index},
                              .g = {rf_step_g(job, RF_STEP_AUX, true)},
                              .x = rf_step_seen(job, true),
                              .d_w_enc = rf_step_gradient(job, RF_CODER_W_ENC),
                              .d_b_enc = rf_step_gradient(job, RF_CODER_B_ENC),
                              .d_w_dec = rf_step_gradient(job, RF_CODER_W_DEC),
                              .accumulate = true,
                              .touched = step->touched,
                              .squares = &step->scalars->squares};
    RF_TRY(rf_accumulate_by_latent(step->s, &args));
    if (d->is_gated) {
        rf_view d_h = rf_step_by_latent(job, step->by_latent);
        RF_TRY(rf_sum_by_latent(step->s, index, codes->d_value, &d_h, 1.0f));
    }
    rf_step_lap(step, RF_PART_BY_LATENT);
fail:
    return status;
}

static rf_status aux_term(const rf_dense_pass *d)
{
    static const bool lists[RF_STEP_N_LISTS] = {[RF_STEP_AUX] = true};
    rf_status status = RF_OK;
    rf_step_job *job = d->job;
    const rf_comm *comm = job->step->comm;
    RF_TRY(rf_comm_agree(comm, queue_rows(job)));
    RF_TRY(rf_step_encode_aux(job));
    RF_TRY(rf_comm_agree(comm, rf_exchange_codes(job, lists)));
    RF_TRY(rf_comm_agree(comm, rf_step_aux(job)));
    if (job->aux_k > 0) {
        status = rf_exchange_d_values(job, lists);
        RF_TRY(rf_comm_agree(comm, status != RF_OK ? status : aux_by_latent(d)));
    }
fail:
    return status;
}

/* d_b_dec is the sum of g so far: less the sum over latents of what reaches the encoder where that
 * sees x - b_dec. */
static rf_status b_dec_gradient(const rf_step_job *job)
{
    if (!rf_coder_subtracts(job->coder)) {
        return RF_OK;
    }
    return rf_row_sum(job->step->s,
                      &(rf_row_sum_args){.x = rf_coder_view(job->coder, RF_CODER_W_ENC),
                                         .weight = rf_step_d_pre_sums(job),
                                         .out = rf_step_gradient(job, RF_CODER_B_DEC),
                                         .alpha = -1.0f,
                                         .beta = 1.0f});
}

/* In the order of the sparse path: what reaches W_enc is known before b_dec's gradient is. */
static rf_status finish_gradients(const rf_dense_pass *d)
{
    rf_status status = RF_OK;
    rf_step_job *job = d->job;
    const rf_comm *comm = job->step->comm;
    rf_view d_theta = rf_step_gradient(job, RF_CODER_LOG_THRESHOLD);
    if (job->aux_k > 0) {
        RF_TRY(aux_term(d));
    }
    RF_TRY(rf_comm_agree(comm, rf_exchange_end(job->step)));
    if (d_theta.data != NULL) {
        RF_TRY(rf_comm_agree(comm, rf_step_scale_by_theta(job, d_theta.data)));
    }
    if (d->is_by_norm) {
        RF_TRY(rf_step_norm_gradient(job, job->step->by_latent2));
    }
    if (job->settings->ghost != RF_GHOST_NONE) {
        RF_TRY(rf_step_ghost(job));
    }
    if (job->settings->pre_activation > 0.0) {
        RF_TRY(rf_step_pre_activation(job));
    }
    RF_TRY(rf_comm_agree(comm, b_dec_gradient(job)));
    rf_step_lap(job->step, RF_PART_BY_LATENT);
    RF_TRY(rf_comm_agree(comm, rf_step_squares(job, 0.0)));
fail:
    return status;
}

rf_status rf_step_dense(rf_step_job *job)
{
    rf_status status = RF_OK;
    const rf_comm *comm = job->step->comm;
    job->touched = NULL;
    job->fired = NULL;
    job->metrics->dense_path = true;
    RF_TRY(set_sparsity(job));
    rf_dense_pass d = pass_of(job);
    RF_TRY(rf_comm_agree(comm, gradients_local(&d)));
    status = exchange_all(&d);
    RF_TRY(rf_comm_agree(comm, status != RF_OK ? status : measure(&d)));
    if (!job->metrics->skipped) {
        RF_TRY(finish_gradients(&d));
    }
fail:
    return status;
}
