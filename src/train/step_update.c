/* The end of a step: clip, then for each row project, Adam and renormalise; and who fired. */
#include "step_impl.h"

#include <math.h>

/* The norm over all parameters; the factor that clips it goes to the device. */
static rf_status clip(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    double squares, limit = job->rates->clip_norm;
    RF_TRY(rf_copy_out(step->s, &squares, &step->scalars->squares, sizeof squares));
    RF_TRY(rf_stream_synchronise(step->s));
    job->metrics->grad_norm = sqrt(squares);
    job->metrics->skipped = !isfinite(job->metrics->grad_norm);
    float scale = limit > 0.0 && job->metrics->grad_norm > limit
                      ? (float)(limit / job->metrics->grad_norm)
                      : 1.0f;
    RF_TRY(rf_copy_in(step->s, &step->scalars->grad_scale, &scale, sizeof scale));
    RF_TRY(rf_stream_synchronise(step->s)); /* `scale` goes */
    rf_step_lap(step, RF_PART_CLIP);
fail:
    return status;
}

static rf_status update_parameters(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_step_rates *r = job->rates;
    int64_t updates;
    RF_TRY(rf_optimiser_get_updates(job->opt, step->s, &updates));
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        const rf_coder_tensor t = rf_coder_tensor_at(job->coder, i);
        bool is_by_latent = t.shard == RF_SHARD_LATENT && t.view.n_dims == 2;
        RF_TRY(rf_adam_rows(
            step->s, &(rf_adam_args){.w = rf_step_as_rows(t.view),
                                     .g = rf_step_as_rows(rf_step_gradient(job, i)),
                                     .m = rf_step_as_rows(rf_optimiser_moment(job->opt, 0, i)),
                                     .v = rf_step_as_rows(rf_optimiser_moment(job->opt, 1, i)),
                                     .touched = is_by_latent ? job->touched : NULL,
                                     .rule = t.rule,
                                     .grad_scale = &step->scalars->grad_scale,
                                     .lr = r->lr,
                                     .beta1 = r->beta1,
                                     .beta2 = r->beta2,
                                     .eps = r->eps,
                                     .weight_decay = t.decay ? r->weight_decay : 0.0,
                                     .t = updates + 1}));
    }
    RF_TRY(rf_optimiser_set_updates(job->opt, step->s, updates + 1));
fail:
    return status;
}

static rf_status track(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_track_fired_args args = {.index = &step->index,
                                .since_fired =
                                    rf_coder_view(job->coder, RF_CODER_TOKENS_SINCE_FIRED),
                                .n_tokens = (int64_t)job->n_valid,
                                .n_fired = &step->scalars->n_fired};
    if (job->is_dense) {
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
    RF_TRY(clip(job));
    if (job->metrics->skipped) {
        goto fail;
    }
    RF_TRY(update_parameters(job));
    RF_TRY(track(job));
    rf_step_lap(job->step, RF_PART_UPDATE);
fail:
    return status;
}
