/* The end of a step: gradients of what W_dec is made of, clip, add to the sums or update, and who
 * fired. */
#include "step_impl.h"

#include <math.h>

/* ---- an archetypal decoder: W_dec = exp(m) (archetypes . points + offsets) ------------------- */

static rf_status clear(rf_stream *s, const rf_view *v)
{
    return rf_fill_bytes(s, v->data, 0, sizeof(float) * (size_t)rf_view_n_elems(v));
}

/* Rows of gradient `idx` that are not touched become 0. `touched` is on the host. */
static rf_status clear_untouched(const rf_step_job *job, int idx, const uint8_t *touched)
{
    rf_status status = RF_OK;
    const rf_view g = rf_step_gradient(job, idx);
    for (int64_t i = 0, end; i < job->n_latents; i = end) {
        for (end = i + 1; end < job->n_latents && touched[end] == touched[i]; end++) {
        }
        const rf_view rows = rf_view_rows(g, i, end - i);
        if (touched[i] == 0) {
            RF_TRY(clear(job->step->s, &rows));
        }
    }
fail:
    return status;
}

static rf_status fill_untouched(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    uint8_t *touched = (uint8_t *)step->host_rows;
    if (job->touched != NULL) {
        RF_TRY(rf_copy_out(step->s, touched, job->touched, (size_t)job->n_latents));
        RF_TRY(rf_stream_synchronise(step->s));
        RF_TRY(clear_untouched(job, RF_CODER_W_ENC, touched));
        RF_TRY(clear_untouched(job, RF_CODER_W_DEC, touched));
        job->touched = NULL;
    }
fail:
    return status;
}

/* d_m = sum of d_W_dec * W_dec; `d_scaled` is exp(m) d_W_dec. */
static rf_status scale_gradient(rf_step_job *job, const rf_view *d_scaled, double scale)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_view w_dec = rf_coder_view(job->coder, RF_CODER_W_DEC);
    const rf_view by_column = rf_view_1d(step->mean, job->out_width);
    RF_TRY(clear(step->s, &by_column));
    RF_TRY(rf_column_dot(step->s, d_scaled, &w_dec, &by_column));
    RF_TRY(rf_row_sum(step->s,
                      &(rf_row_sum_args){.x = rf_view_2d(step->mean, job->out_width, 1),
                                         .out = rf_step_gradient(job, RF_CODER_ARCHETYPE_SCALE),
                                         .alpha = (float)(1.0 / scale)}));
fail:
    return status;
}

static rf_status archetype_gradients(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_view d_offsets = rf_step_gradient(job, RF_CODER_ARCHETYPE_OFFSETS);
    const rf_view m = rf_coder_view(job->coder, RF_CODER_ARCHETYPE_SCALE);
    float log_scale;
    RF_TRY(rf_copy_out(step->s, &log_scale, m.data, sizeof log_scale));
    RF_TRY(rf_stream_synchronise(step->s));
    const double scale = exp((double)log_scale);
    RF_TRY(fill_untouched(job));
    RF_TRY(clear(step->s, &d_offsets));
    RF_TRY(
        rf_rows_blend(step->s, &(rf_rows_blend_args){.to = d_offsets,
                                                     .from = rf_step_gradient(job, RF_CODER_W_DEC),
                                                     .keep = 1.0,
                                                     .weight = scale}));
    RF_TRY(rf_matmul(step->s, &(rf_matmul_args){.a = d_offsets,
                                                .b = rf_coder_view(job->coder, RF_CODER_POINTS),
                                                .c = rf_step_gradient(job, RF_CODER_ARCHETYPES),
                                                .trans_b = RF_TRANS,
                                                .alpha = 1.0f}));
    RF_TRY(scale_gradient(job, &d_offsets, scale));
fail:
    return status;
}

/* ---- gradients ----------------------------------------------------------------------------- */

static bool accumulates(const rf_step_job *job)
{
    return rf_optimiser_get_opts(job->opt)->accumulate > 1;
}

/* What an update reads: the sums where there are any. */
static rf_view update_gradient(const rf_step_job *job, int idx)
{
    return accumulates(job) ? rf_optimiser_part_view(job->opt, RF_OPTIMISER_SUM, idx)
                            : rf_step_gradient(job, idx);
}

static const uint8_t *touched_rows(const rf_step_job *job, int idx)
{
    const rf_coder_tensor t = rf_coder_tensor_at(job->coder, idx);
    return (idx == RF_CODER_W_ENC || idx == RF_CODER_W_DEC) && t.shard == RF_SHARD_LATENT
               ? job->touched
               : NULL;
}

/* Over all parameters, all rows of which are set. */
static rf_status sum_squares(rf_step_job *job, rf_view (*gradient)(const rf_step_job *job, int idx))
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    double beta = 0.0;
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        if (rf_optimiser_trains(job->coder, i)) {
            const rf_view rows = rf_step_as_rows(gradient(job, i));
            RF_TRY(rf_sum_squares(step->s, &rows, &step->scalars->squares, beta));
            beta = 1.0;
        }
    }
fail:
    return status;
}

/* Their norm; not finite: nothing is learnt. */
static rf_status measure_norm(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    double squares;
    RF_TRY(rf_copy_out(step->s, &squares, &step->scalars->squares, sizeof squares));
    RF_TRY(rf_stream_synchronise(step->s));
    job->metrics->grad_norm = sqrt(squares);
    job->metrics->skipped = !isfinite(job->metrics->grad_norm);
fail:
    return status;
}

/* The factor that clips goes to the device. */
static rf_status clip(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    double limit = job->rates->clip_norm, whole = job->sum_scale > 0.0 ? job->sum_scale : 1.0;
    double norm = job->metrics->grad_norm *= whole;
    float scale = (float)(limit > 0.0 && norm > limit ? whole * limit / norm : whole);
    RF_TRY(rf_copy_in(step->s, &step->scalars->grad_scale, &scale, sizeof scale));
    RF_TRY(rf_stream_synchronise(step->s)); /* `scale` goes */
    rf_step_lap(step, RF_PART_CLIP);
fail:
    return status;
}

/* ---- sums over batches --------------------------------------------------------------------- */

static rf_status clear_sums(rf_step_job *job)
{
    rf_status status = RF_OK;
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        const rf_view sum = rf_optimiser_part_view(job->opt, RF_OPTIMISER_SUM, i);
        if (sum.data != NULL) {
            RF_TRY(clear(job->step->s, &sum));
        }
    }
    job->state.counters[RF_COUNTER_ACCUMULATED] = 0;
fail:
    return status;
}

/* The mean over `accumulate` batches; *is_due: this was the last of them, or of the run. */
static rf_status accumulate(rf_step_job *job, bool *is_due)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const int64_t n_batches = rf_optimiser_get_opts(job->opt)->accumulate;
    int64_t *done = &job->state.counters[RF_COUNTER_ACCUMULATED];
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        if (rf_optimiser_trains(job->coder, i)) {
            RF_TRY(rf_rows_blend(
                step->s, &(rf_rows_blend_args){.to = rf_step_as_rows(update_gradient(job, i)),
                                               .from = rf_step_as_rows(rf_step_gradient(job, i)),
                                               .keep = 1.0,
                                               .weight = 1.0 / (double)n_batches,
                                               .touched = touched_rows(job, i)}));
        }
    }
    *is_due = ++*done >= n_batches || job->rates->flush;
    if (*is_due) {
        job->sum_scale = (double)n_batches / (double)*done;
        job->touched = NULL;
        RF_TRY(sum_squares(job, update_gradient));
        RF_TRY(measure_norm(job)); /* finite: so were the parts */
    }
fail:
    return status;
}

/* ---- update -------------------------------------------------------------------------------- */

static rf_update_kind update_kind(const rf_step_job *job, int idx)
{
    switch (rf_optimiser_get_opts(job->opt)->kind) {
    case RF_OPTIMISER_SIGNUM:
        return RF_UPDATE_SIGNUM;
    case RF_OPTIMISER_SCHEDULE_FREE:
        return RF_UPDATE_SCHEDULE_FREE;
    default:
        return rf_optimiser_is_muon(job->opt, idx) ? RF_UPDATE_PLAIN : RF_UPDATE_ADAM;
    }
}

/* A tensor of parameter `idx` as rows, or an absent view. */
static rf_view part_rows(const rf_step_job *job, rf_optimiser_part part, int idx)
{
    const rf_view v = rf_optimiser_part_view(job->opt, part, idx);
    return v.data == NULL ? v : rf_step_as_rows(v);
}

static rf_status update_parameter(rf_step_job *job, int idx, int64_t t, double average_weight)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_step_rates *r = job->rates;
    const rf_coder_tensor tensor = rf_coder_tensor_at(job->coder, idx);
    rf_update_args args = {.kind = update_kind(job, idx),
                           .w = rf_step_as_rows(tensor.view),
                           .g = rf_step_as_rows(update_gradient(job, idx)),
                           .m = part_rows(job, RF_OPTIMISER_M, idx),
                           .v = part_rows(job, RF_OPTIMISER_V, idx),
                           .average = part_rows(job, RF_OPTIMISER_LIVE, idx),
                           .touched = touched_rows(job, idx),
                           .rule = tensor.rule,
                           .radius = tensor.radius,
                           .grad_scale = &step->scalars->grad_scale,
                           .lr = r->lr,
                           .beta1 = r->beta1,
                           .beta2 = r->beta2,
                           .eps = r->eps,
                           .weight_decay = tensor.decay ? r->weight_decay : 0.0,
                           .average_weight = average_weight,
                           .t = t};
    if (idx == RF_CODER_W_DEC) {
        args.segments = rf_coder_out_segments(job->coder);
    }
    if (args.kind == RF_UPDATE_PLAIN) {
        RF_TRY(rf_muon_direction(step->s, &(rf_muon_args){.g = args.g,
                                                          .momentum = args.m,
                                                          .touched = args.touched,
                                                          .grad_scale = args.grad_scale,
                                                          .rows_are_inputs = idx == RF_CODER_W_DEC,
                                                          .beta = r->beta1,
                                                          .work = rf_optimiser_work(job->opt)}));
        args.touched = NULL;
        args.grad_scale = NULL;
    }
    RF_TRY(rf_update_rows(step->s, &args));
fail:
    return status;
}

static rf_status update_parameters(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    int64_t updates;
    double average_weight = 0.0;
    RF_TRY(rf_optimiser_get_updates(job->opt, step->s, &updates));
    if (rf_optimiser_get_opts(job->opt)->kind == RF_OPTIMISER_SCHEDULE_FREE) {
        RF_TRY(rf_optimiser_average_weight(job->opt, step->s, job->rates->lr, &average_weight));
    }
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        if (rf_optimiser_trains(job->coder, i)) {
            RF_TRY(update_parameter(job, i, updates + 1, average_weight));
        }
    }
    RF_TRY(rf_optimiser_set_updates(job->opt, step->s, updates + 1));
    RF_TRY(rf_coder_derive(job->coder, step->s));
    job->metrics->updated = true;
fail:
    return status;
}

static rf_status track(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_track_fired_args args = {.index = job->fired,
                                .since_fired =
                                    rf_coder_view(job->coder, RF_CODER_TOKENS_SINCE_FIRED),
                                .n_tokens = (int64_t)job->n_valid,
                                .n_fired = &step->scalars->n_fired};
    if (job->fired == NULL) {
        args.n_active = rf_view_nd(step->n_active, RF_I64, 1, &job->n_latents);
    }
    RF_TRY(rf_track_fired(step->s, &args));
    RF_TRY(rf_copy_out(step->s, &job->metrics->n_fired, &step->scalars->n_fired,
                       sizeof job->metrics->n_fired));
    RF_TRY(rf_stream_synchronise(step->s));
fail:
    return status;
}

rf_status rf_step_update(rf_step_job *job)
{
    rf_status status = RF_OK;
    bool is_due = true;
    if (rf_coder_has(job->coder, RF_CODER_ARCHETYPES)) {
        RF_TRY(archetype_gradients(job));
        RF_TRY(sum_squares(job, rf_step_gradient));
    }
    RF_TRY(measure_norm(job));
    if (!job->metrics->skipped && accumulates(job)) {
        RF_TRY(accumulate(job, &is_due));
    }
    if (job->metrics->skipped) {
        goto fail;
    }
    if (is_due) {
        RF_TRY(clip(job));
        RF_TRY(update_parameters(job));
    }
    if (is_due && accumulates(job)) {
        RF_TRY(clear_sums(job));
    }
    RF_TRY(track(job));
    rf_step_lap(job->step, RF_PART_UPDATE);
fail:
    return status;
}
