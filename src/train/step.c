/* One update of one coder: the order of things. */
#include "step_impl.h"

#include <math.h>

const char *rf_step_part_name(rf_step_part part)
{
    static const char *const names[RF_STEP_N_PARTS] = {
        [RF_PART_PRODUCT] = "encoder product",
        [RF_PART_SELECT] = "select",
        [RF_PART_DECODE] = "decode",
        [RF_PART_D_VALUE] = "d_value",
        [RF_PART_AUX] = "aux",
        [RF_PART_EXCHANGE] = "exchange",
        [RF_PART_INDEX] = "index",
        [RF_PART_BY_LATENT] = "backward by latent",
        [RF_PART_CLIP] = "clip",
        [RF_PART_UPDATE] = "update",
        [RF_PART_OTHER] = "other",
    };
    return (unsigned)part < RF_STEP_N_PARTS ? names[part] : "unknown";
}

rf_step_rates rf_step_rates_default(void)
{
    return (rf_step_rates){
        .lr = 1e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .clip_norm = 1.0, .l1_scale = 1.0};
}

void rf_step_lap(rf_step *step, rf_step_part part)
{
    if (step->opts.part_seconds != NULL) {
        double now = rf_now();
        step->opts.part_seconds[part] += now - step->lap;
        step->lap = now;
    }
}

rf_status rf_step_sum(rf_step *step, const float *values, int64_t n, double *out)
{
    rf_status status = RF_OK;
    *out = 0.0;
    RF_TRY(rf_copy_out(step->s, step->host_rows, values, sizeof(float) * (size_t)n));
    RF_TRY(rf_stream_synchronise(step->s));
    for (int64_t i = 0; i < n; i++) {
        *out += (double)step->host_rows[i];
    }
fail:
    return status;
}

static rf_status check(const rf_step_job *job)
{
    rf_status status = RF_OK;
    const rf_step *step = job->step;
    const rf_token_batch *b = job->batch;
    const char *name = rf_coder_get_settings(job->coder)->name;
    int64_t first, count;
    rf_comm_share(b->n_rows, RF_TOKEN_TILE, rf_comm_rank(step->comm), rf_comm_size(step->comm),
                  &first, &count);
    RF_REQUIRE(b->n_rows >= 0 && b->n_rows <= step->opts.max_rows,
               "coder '%s': a batch of %" PRId64 " tokens, the step was made for %" PRId64, name,
               b->n_rows, step->opts.max_rows);
    RF_REQUIRE(job->n_local == count && (count == 0 || b->first_row == first),
               "coder '%s': rows %" PRId64 " to %" PRId64 " of a batch of %" PRId64
               ", this rank's are %" PRId64 " to %" PRId64,
               name, b->first_row, b->first_row + job->n_local - 1, b->n_rows, first,
               first + count - 1);
    RF_REQUIRE(b->x.n_dims == 2 && b->x.shape[1] == job->width,
               "coder '%s': tokens of width %" PRId64 ", the coder has %" PRId64, name,
               b->x.shape[1], job->width);
    RF_REQUIRE(job->width <= step->max_width && job->n_latents <= step->max_latents,
               "coder '%s' is larger than those that the step was made for", name);
    RF_REQUIRE(job->rates->lr >= 0.0 && job->rates->clip_norm >= 0.0 && job->rates->eps > 0.0,
               "coder '%s': lr %g, clip_norm %g, eps %g, expected >= 0, >= 0, > 0", name,
               job->rates->lr, job->rates->clip_norm, job->rates->eps);
fail:
    return status;
}

/* State, dead latents, and x - b_dec of this rank's rows. */
static rf_status begin(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_coder_settings *settings = rf_coder_get_settings(job->coder);
    const rf_architecture *a = rf_coder_architecture(job->coder);
    rf_view since = rf_coder_view(job->coder, RF_CODER_TOKENS_SINCE_FIRED);
    RF_TRY(check(job));
    RF_TRY(rf_coder_get_state(job->coder, step->s, &job->state));
    RF_TRY(rf_mark_dead(step->s, &since, settings->dead_after_tokens, step->dead,
                        &step->scalars->n_dead));
    RF_TRY(rf_copy_out(step->s, &job->metrics->n_dead, &step->scalars->n_dead, sizeof(int64_t)));
    if (job->batch->row_valid != NULL) {
        RF_TRY(rf_copy_within(step->s, step->local.valid, job->batch->row_valid,
                              (size_t)job->n_local));
    } else {
        RF_TRY(rf_fill_bytes(step->s, step->local.valid, 1, (size_t)job->n_local));
    }
    RF_TRY(rf_residual(step->s, &(rf_residual_args){.x = job->batch->x,
                                                    .x_hat = rf_step_as_rows(
                                                        rf_coder_view(job->coder, RF_CODER_B_DEC)),
                                                    .g = rf_step_local(job, step->local.x),
                                                    .row_valid = step->local.valid,
                                                    .scale = -1.0f}));
    RF_TRY(rf_stream_synchronise(step->s));
    job->variance = (double)job->state.variance;
    job->n_valid = (double)job->batch->n_valid;
    job->g_scale = (float)(2.0 / (job->n_valid * job->variance));
    job->l1 = a->l1(settings) * job->rates->l1_scale;
    job->aux_k = a->aux_k(settings, job->width, job->metrics->n_dead);
    job->is_dense = job->state.counters[RF_COUNTER_DENSE] != 0;
    rf_step_lap(step, RF_PART_OTHER);
fail:
    return status;
}

static rf_status gradients(rf_step_job *job)
{
    rf_status status = RF_OK;
    if (!job->is_dense) {
        RF_TRY(rf_step_encode(job));
        if (!job->metrics->skipped && !job->is_dense) {
            RF_TRY(rf_step_sparse(job));
        }
    }
    if (!job->metrics->skipped && job->is_dense) {
        RF_TRY(rf_step_dense(job));
    }
fail:
    return status;
}

/* Counters, and whether codes have become too many for sparse steps. */
static rf_status finish(rf_step_job *job)
{
    enum { DENSE_ABOVE = 48 }; /* one latent of so many active; step_dense.c holds the way back */
    rf_step_metrics *m = job->metrics;
    int64_t *counters = job->state.counters;
    if (m->skipped) {
        rf_coder_state before;
        rf_status status = rf_coder_get_state(job->coder, job->step->s, &before);
        before.counters[RF_COUNTER_SKIPPED]++;
        m->loss = NAN;
        return status != RF_OK ? status : rf_coder_set_state(job->coder, job->step->s, &before);
    }
    m->loss = m->mse + m->l1 + m->aux;
    counters[RF_COUNTER_STEPS]++;
    counters[RF_COUNTER_TOKENS] += m->n_tokens;
    if (!job->is_dense && rf_coder_architecture(job->coder)->may_be_dense &&
        m->l0 * DENSE_ABOVE > (double)job->n_latents) {
        counters[RF_COUNTER_DENSE] = 1;
    }
    return rf_coder_set_state(job->coder, job->step->s, &job->state);
}

rf_status rf_step_run(rf_step *step, rf_coder *coder, rf_optimiser *opt,
                      const rf_token_batch *batch, const rf_step_rates *rates, rf_step_metrics *out)
{
    rf_status status = RF_OK;
    rf_step_metrics metrics = {.n_tokens = batch->n_valid};
    rf_step_job job = {.step = step,
                       .coder = coder,
                       .opt = opt,
                       .batch = batch,
                       .rates = rates,
                       .metrics = &metrics,
                       .n_local = batch->x.shape[0],
                       .n_rows = batch->n_rows,
                       .width = rf_coder_width(coder),
                       .n_latents = rf_coder_n_latents(coder)};

    step->lap = rf_now();
    RF_TRY(rf_comm_agree(step->comm, begin(&job)));
    if (batch->n_valid == 0) { /* nothing to learn from */
        metrics.skipped = true;
        goto done;
    }
    RF_TRY(gradients(&job));
    if (!metrics.skipped) {
        RF_TRY(rf_comm_agree(step->comm, rf_step_update(&job)));
    }
    RF_TRY(rf_comm_agree(step->comm, finish(&job)));
    rf_step_lap(step, RF_PART_OTHER);
done:
    if (out != NULL) {
        *out = metrics;
    }
fail:
    return status;
}
