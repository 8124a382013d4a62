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
    return (rf_step_rates){.lr = 1e-4,
                           .beta1 = 0.9,
                           .beta2 = 0.999,
                           .eps = 1e-8,
                           .clip_norm = 1.0,
                           .sparsity_scale = 1.0,
                           .k_scale = 1.0};
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

int64_t rf_step_k(const rf_coder *coder, double scale)
{
    double k = round(scale * (double)rf_coder_k(coder));
    return (int64_t)fmax(1.0, fmin(k, (double)rf_coder_n_latents(coder)));
}

static rf_status check(const rf_step_job *job)
{
    rf_status status = RF_OK;
    const rf_step *step = job->step;
    const rf_token_batch *b = job->batch;
    const char *name = job->settings->name;
    int64_t first, count,
        width = job->width + (rf_coder_is_transcoder(job->coder) ? job->out_width : 0);
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
    RF_REQUIRE(b->x.n_dims == 2 && b->x.shape[1] == width,
               "coder '%s': tokens of width %" PRId64 ", the coder has %" PRId64, name,
               b->x.shape[1], width);
    RF_REQUIRE(job->width <= step->max_in && job->out_width <= step->max_out &&
                   job->n_latents <= step->max_latents,
               "coder '%s' is larger than those that the step was made for", name);
    RF_REQUIRE(job->rates->lr >= 0.0 && job->rates->clip_norm >= 0.0 && job->rates->eps > 0.0 &&
                   job->rates->k_scale > 0.0,
               "coder '%s': lr %g, clip_norm %g, eps %g, k_scale %g, expected >= 0, >= 0, > 0, > 0",
               name, job->rates->lr, job->rates->clip_norm, job->rates->eps, job->rates->k_scale);
fail:
    return status;
}

static rf_view columns(rf_view v, int64_t first, int64_t n)
{
    v.data = (float *)v.data + first;
    v.shape[1] = n;
    return v;
}

/* What the encoder sees, and the target less b_dec. */
static rf_status see(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_coder *coder = job->coder;
    rf_view none = {0}, b_dec = rf_coder_view(coder, RF_CODER_B_DEC);
    rf_segments sites = rf_coder_in_segments(coder);
    bool subtracts = rf_coder_subtracts(coder), is_transcoder = rf_coder_is_transcoder(coder);
    RF_TRY(rf_normalise_tokens(
        step->s,
        &(rf_normalise_args){.norm = (rf_token_norm)job->settings->normalise,
                             .from = columns(job->batch->x, 0, job->width),
                             .to = rf_step_seen(job, false),
                             .shift = rf_coder_view(coder, RF_CODER_IN_SHIFT),
                             .scale = rf_coder_view(coder, RF_CODER_IN_SCALE),
                             .subtract = subtracts ? b_dec : none,
                             .row_shift = rf_view_2d(step->row_shift, job->n_local, sites.n),
                             .row_scale = rf_view_2d(step->row_scale, job->n_local, sites.n),
                             .segments = sites,
                             .row_valid = step->local.valid}));
    if (!subtracts) {
        bool has_statistics = rf_coder_has(coder, RF_CODER_OUT_SCALE);
        RF_TRY(rf_normalise_tokens(
            step->s,
            &(rf_normalise_args){
                .norm = is_transcoder && has_statistics ? (rf_token_norm)job->settings->normalise
                                                        : RF_NORM_NONE,
                .from = is_transcoder ? columns(job->batch->x, job->width, job->out_width)
                                      : rf_step_seen(job, false),
                .to = rf_step_target(job, false),
                .shift = rf_coder_view(coder, RF_CODER_OUT_SHIFT),
                .scale = rf_coder_view(coder, RF_CODER_OUT_SCALE),
                .subtract = b_dec,
                .segments = rf_coder_out_segments(coder),
                .row_valid = step->local.valid}));
    }
fail:
    return status;
}

/* Thresholds, decoder norms that weigh the penalty, and where the act finds its parameters. */
static rf_status set_act(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_coder *coder = job->coder;
    const rf_coder_settings *settings = job->settings;
    rf_act_params *act = &job->act;
    act->act = job->architecture->act;
    act->penalty = rf_coder_penalty(coder);
    act->p = (float)(act->penalty == RF_PENALTY_TANH ? settings->tanh_scale
                     : job->rates->p > 0.0           ? job->rates->p
                                                     : settings->p);
    if (act->act == RF_CODER_JUMP) {
        act->threshold = rf_step_by_latent(job, step->theta);
        RF_TRY(rf_coder_thresholds(coder, step->s, &act->threshold));
    } else if (act->act == RF_CODER_GATED) {
        act->b_gate = rf_coder_view(coder, RF_CODER_B_ENC);
        act->gain = rf_coder_view(coder, RF_CODER_GAIN);
        act->b_mag = rf_coder_view(coder, RF_CODER_B_MAG);
    }
    if (settings->penalty_by_norm) {
        rf_view w_dec = rf_coder_view(coder, RF_CODER_W_DEC);
        rf_segments segments = rf_coder_out_segments(coder);
        act->weight = rf_step_by_latent(job, step->weight);
        RF_TRY(rf_row_norms(step->s, &w_dec, &segments, &act->weight));
    }
    job->sparsity = job->rates->sparsity_scale * (act->penalty == RF_PENALTY_NONE ? 0.0
                                                  : act->penalty == RF_PENALTY_L0 ? settings->l0
                                                                                  : settings->l1);
fail:
    return status;
}

/* k of each row and of the batch, the second list, prefixes, the auxiliary list. */
static void set_lists(rf_step_job *job)
{
    const rf_architecture *a = job->architecture;
    job->k = rf_step_k(job->coder, job->rates->k_scale);
    if (a->second != NULL) {
        job->second_weight = a->second(job->settings, job->k, &job->second_k);
        job->second_k = rf_min_i64(job->second_k, job->n_latents);
    }
    if (a->prefixes != NULL) {
        a->prefixes(job->settings, job->n_latents, job->state.counters[RF_COUNTER_STEPS],
                    &job->groups);
    }
    job->aux_k = rf_coder_aux_k(job->coder, job->metrics->n_dead);
    job->is_dense = job->state.counters[RF_COUNTER_DENSE] != 0;
    job->fills_rows = job->settings->penalty_by_norm ||
                      (job->metrics->n_dead > 0 && (job->settings->ghost != RF_GHOST_NONE ||
                                                    job->settings->pre_activation > 0.0));
}

/* State, dead latents, and this rank's rows as the coder sees them. */
static rf_status begin(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_view since = rf_coder_view(job->coder, RF_CODER_TOKENS_SINCE_FIRED);
    RF_TRY(check(job));
    RF_TRY(rf_coder_get_state(job->coder, step->s, &job->state));
    RF_TRY(rf_mark_dead(step->s, &since, job->settings->dead_after_tokens, step->dead,
                        &step->scalars->n_dead));
    RF_TRY(rf_copy_out(step->s, &job->metrics->n_dead, &step->scalars->n_dead, sizeof(int64_t)));
    if (job->batch->row_valid != NULL) {
        RF_TRY(rf_copy_within(step->s, step->local.valid, job->batch->row_valid,
                              (size_t)job->n_local));
    } else {
        RF_TRY(rf_fill_bytes(step->s, step->local.valid, 1, (size_t)job->n_local));
    }
    RF_TRY(see(job));
    RF_TRY(rf_exchange_begin(step));
    RF_TRY(set_act(job));
    RF_TRY(rf_stream_synchronise(step->s));
    job->variance = (double)job->state.scalars[RF_SCALAR_VARIANCE];
    job->n_valid = (double)job->batch->n_valid;
    job->g_scale = (float)(2.0 / (job->n_valid * job->variance));
    set_lists(job);
    rf_step_lap(step, RF_PART_OTHER);
fail:
    return status;
}

/* p_anneal: where p changes, the penalty's weight is such that this batch's penalty does not
 * (Karvonen et al. 2024). `measure` gives the sum of the penalty over the batch for the act's p. */
rf_status rf_step_keep_penalty(rf_step_job *job,
                               rf_status (*measure)(rf_step_job *job, double *out))
{
    rf_status status = RF_OK;
    float *scalars = job->state.scalars, p = job->act.p;
    if (job->act.penalty != RF_PENALTY_POWER || job->architecture->penalty != RF_PENALTY_POWER) {
        return RF_OK;
    }
    if (!(scalars[RF_SCALAR_P_SCALE] > 0.0f)) {
        scalars[RF_SCALAR_P_SCALE] = 1.0f;
    } else if (p < scalars[RF_SCALAR_P] || p > scalars[RF_SCALAR_P]) {
        double before, after;
        job->act.p = scalars[RF_SCALAR_P];
        RF_TRY(measure(job, &before));
        job->act.p = p;
        RF_TRY(measure(job, &after));
        if (before > 0.0 && after > 0.0) {
            scalars[RF_SCALAR_P_SCALE] *= (float)(before / after);
        }
    }
    scalars[RF_SCALAR_P] = p;
    job->sparsity *= (double)scalars[RF_SCALAR_P_SCALE];
fail:
    return status;
}

void rf_step_set_l0_weight(rf_step_job *job)
{
    const rf_coder_settings *settings = job->settings;
    double l0 = job->metrics->l0, weight = settings->l0 * job->rates->sparsity_scale;
    if (settings->penalty == RF_PENALTY_CHOICE_TARGET_L0) {
        double off = l0 / settings->target_l0 - 1.0;
        job->metrics->sparsity = weight * off * off;
        job->sparsity = weight * 2.0 * off / settings->target_l0;
    } else {
        job->metrics->sparsity = weight * l0;
    }
}

static rf_status gradients(rf_step_job *job)
{
    rf_status status = RF_OK;
    enum { HOLD = 100 }; /* so many steps before codes are tried again that did not fit */
    if (!job->is_dense) {
        RF_TRY(rf_step_encode(job));
        job->state.counters[RF_COUNTER_HOLD] = job->is_dense ? HOLD : 0;
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

/* A batch that is far from the others is left out (after the first twenty or so). The running mean
 * is that of about a hundred batches. */
static void guard(rf_step_job *job)
{
    const float rate = 0.01f;
    rf_step_metrics *m = job->metrics;
    float *loss = &job->state.scalars[RF_SCALAR_LOSS], *mass = loss + 1;
    double limit = job->rates->outlier_factor * (double)*loss / (double)*mass;
    m->loss = m->mse + m->sparsity + m->aux + m->extra;
    m->outlier = job->rates->outlier_factor > 0.0 && *mass > 0.2f && m->loss > limit;
    m->skipped = m->outlier || !isfinite(m->loss);
    *loss += rate * ((float)m->loss - *loss);
    *mass += rate * (1.0f - *mass);
}

/* A new start for all who are dead, with the next update. */
static void ask_for_resample(const rf_step_job *job, rf_coder_state *state)
{
    if (job->rates->resample && job->settings->resample != RF_RESAMPLE_NONE) {
        state->counters[RF_COUNTER_RESAMPLES_LEFT] = job->n_latents;
    }
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
        before.counters[RF_COUNTER_OUTLIERS] += m->outlier;
        ask_for_resample(job, &before);
        m->loss = m->outlier ? m->loss : NAN;
        return status != RF_OK ? status : rf_coder_set_state(job->coder, job->step->s, &before);
    }
    counters[RF_COUNTER_STEPS]++;
    counters[RF_COUNTER_TOKENS] += m->n_tokens;
    if (!job->is_dense && job->architecture->may_be_dense &&
        m->l0 * DENSE_ABOVE > (double)job->n_latents) {
        counters[RF_COUNTER_DENSE] = 1;
    }
    return rf_coder_set_state(job->coder, job->step->s, &job->state);
}

/* Between begin and finish: an update, or nothing. */
static rf_status learn(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step_metrics *m = job->metrics;
    RF_TRY(gradients(job));
    if (!m->skipped) {
        guard(job);
    }
    if (!m->skipped) {
        RF_TRY(rf_comm_agree(job->step->comm, rf_step_update(job)));
    }
    ask_for_resample(job, &job->state);
    if (!m->skipped && m->updated && job->state.counters[RF_COUNTER_RESAMPLES_LEFT] > 0) {
        RF_TRY(rf_step_resample(job));
    }
    RF_TRY(rf_comm_agree(job->step->comm, finish(job)));
    rf_step_lap(job->step, RF_PART_OTHER);
fail:
    return status;
}

rf_status rf_step_take_turns(rf_step *step, rf_stream *from, rf_stream *to)
{
    rf_status status = RF_OK;
    if (from != NULL && to != NULL && from != to) {
        RF_TRY(rf_event_record(step->turn, from));
        RF_TRY(rf_event_wait(step->turn, to));
    }
fail:
    return status;
}

/* The batch and the coder's live parameters, as this step's stream sees them; and back. */
static rf_status enter(const rf_step_job *job)
{
    rf_status status = RF_OK;
    RF_TRY(rf_step_take_turns(job->step, job->batch->stream, job->step->s));
    RF_TRY(rf_optimiser_swap_live(job->opt, job->coder, job->step->s));
fail:
    return status;
}

static rf_status leave(const rf_step_job *job)
{
    rf_status status = RF_OK;
    RF_TRY(rf_optimiser_swap_live(job->opt, job->coder, job->step->s));
    RF_TRY(rf_exchange_end(job->step)); /* its rows and codes are written again */
    RF_TRY(rf_step_take_turns(job->step, job->step->s, job->batch->stream));
fail:
    return status;
}

/* A batch without a valid row: counters alone. */
static rf_status skip(rf_step_job *job)
{
    rf_status status = RF_OK;
    RF_TRY(check(job));
    RF_TRY(rf_step_take_turns(job->step, job->batch->stream, job->step->s));
    job->metrics->skipped = true;
    RF_TRY(finish(job));
    RF_TRY(rf_step_take_turns(job->step, job->step->s, job->batch->stream));
fail:
    return status;
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
                       .architecture = rf_coder_architecture(coder),
                       .settings = rf_coder_get_settings(coder),
                       .n_local = batch->x.shape[0],
                       .n_rows = batch->n_rows,
                       .width = rf_coder_width(coder),
                       .out_width = rf_coder_out_width(coder),
                       .n_latents = rf_coder_n_latents(coder)};

    step->lap = rf_now();
    if (batch->n_valid == 0) { /* nothing to learn from */
        RF_TRY(rf_comm_agree(step->comm, skip(&job)));
    } else {
        RF_TRY(rf_comm_agree(step->comm, enter(&job)));
        status = rf_comm_agree(step->comm, begin(&job));
        status = status != RF_OK ? status : learn(&job);
        if (status != RF_OK) { /* the parameters that the caller keeps are the averages */
            leave(&job);
            goto fail;
        }
        RF_TRY(rf_comm_agree(step->comm, leave(&job)));
    }
    if (out != NULL) {
        *out = metrics;
    }
fail:
    return status;
}
