/* What acts and penalties add to a sparse step: values from pre-activations, derivatives of the
 * penalty, thresholds, gates. */
#include "step_impl.h"

/* ---- values ------------------------------------------------------------------------------------
 */

static void swap(float **a, float **b)
{
    float *t = *a;
    *a = *b;
    *b = t;
}

/* The entries of a gated coder whose value is > 0: who fires. */
static rf_status keep_fired(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_codes *from = &step->local.codes[RF_STEP_MAIN], *to = &step->local.codes[RF_STEP_WINDOW];
    int64_t n;
    RF_TRY(rf_codes_count(step->s, from, &n));
    to->n_rows = from->n_rows;
    to->capacity = from->capacity;
    step->global.codes[RF_STEP_WINDOW].capacity = step->global.codes[RF_STEP_MAIN].capacity;
    RF_TRY(rf_copy_within(step->s, to->row_start, from->row_start,
                          sizeof(int64_t) * (size_t)(from->n_rows + 1)));
    RF_TRY(rf_copy_within(step->s, to->latent, from->latent, sizeof(int32_t) * (size_t)n));
    RF_TRY(rf_copy_within(step->s, to->value, from->value, sizeof(float) * (size_t)n));
    RF_TRY(rf_fill_bytes(step->s, to->d_value, 0, sizeof(float) * (size_t)n));
    RF_TRY(rf_codes_keep(step->s, to, (rf_class_rows){0}, 0.0f, 0));
fail:
    return status;
}

static rf_status values_local(rf_step_job *job, int64_t *n_fired)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_codes *codes = &step->local.codes[RF_STEP_MAIN];
    const rf_codes *fired = codes;
    if (job->act.act == RF_CODER_GATED) {
        RF_TRY(rf_gated_values(step->s, &job->act, codes, codes->value, step->entries[0]));
        swap(&codes->value, &step->entries[0]);
        RF_TRY(keep_fired(job));
        fired = &step->local.codes[RF_STEP_WINDOW];
    }
    RF_TRY(rf_codes_count(step->s, fired, n_fired));
fail:
    return status;
}

rf_status rf_step_values(rf_step_job *job)
{
    rf_status status = RF_OK;
    int64_t n = 0;
    RF_TRY(rf_comm_agree(job->step->comm, values_local(job, &n)));
    RF_TRY(rf_comm_sum_i64(job->step->comm, &n, 1));
    job->metrics->l0 = (double)n / job->n_valid;
    rf_step_lap(job->step, RF_PART_OTHER);
fail:
    return status;
}

/* ---- penalty -----------------------------------------------------------------------------------
 */

/* Rows' penalties; its derivative times `scale` into d_value where that is not NULL. */
static rf_status penalty_local(rf_step_job *job, float *d_value, float scale)
{
    rf_step *step = job->step;
    const bool is_gated = job->act.act == RF_CODER_GATED;
    return rf_penalty(step->s, &job->act,
                      &(rf_penalty_args){
                          .codes = &step->local.codes[RF_STEP_MAIN],
                          .value = is_gated ? step->entries[0] : NULL,
                          .d_value = d_value,
                          .row_penalty = rf_view_1d(step->local.sparsity, job->n_local),
                          .scale = scale,
                      });
}

/* The sum of the rows' penalties over all ranks. */
static rf_status sum_penalty(rf_step_job *job, double *out)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_exchange_rows(job, step->local.sparsity, step->global.sparsity, sizeof(float)));
    RF_TRY(rf_comm_agree(step->comm, rf_step_sum(step, step->global.sparsity, job->n_rows, out)));
fail:
    return status;
}

static rf_status measure(rf_step_job *job, double *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_comm_agree(job->step->comm, penalty_local(job, NULL, 0.0f)));
    RF_TRY(sum_penalty(job, out));
fail:
    return status;
}

/* out [F] = the sum over this rank's entries of each latent, then over ranks. */
static rf_status sum_local(rf_step_job *job, int list, const float *entries, float *out)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_view sums = rf_step_by_latent(job, out);
    RF_TRY(rf_comm_agree(step->comm,
                         rf_sum_by_latent(step->s, &step->index[list], entries, &sums, 0.0f)));
    if (rf_comm_size(step->comm) > 1) {
        RF_TRY(rf_all_sum_f32(step->s, step->comm, out, job->n_latents));
    }
fail:
    return status;
}

/* The index of a list of this rank; index_lists makes those of the whole batch later. */
static rf_status index_local(rf_step_job *job, int list)
{
    rf_step *step = job->step;
    step->index[list].n_latents = job->n_latents;
    return rf_index_by_latent(step->s, &step->local.codes[list], &step->index[list]);
}

/* Entries' penalty derivative alone, times the value: dP/dw_i = z_i / w_i dP/dz_i. */
static rf_status norm_entries(rf_step_job *job, float scale)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_codes *codes = &step->local.codes[RF_STEP_MAIN];
    const float *value = job->act.act == RF_CODER_GATED ? step->entries[0] : codes->value;
    int64_t n;
    RF_TRY(rf_codes_count(step->s, codes, &n));
    RF_TRY(rf_fill_bytes(step->s, step->entries[2], 0, sizeof(float) * (size_t)n));
    RF_TRY(penalty_local(job, step->entries[2], scale));
    if (n > 0) {
        rf_view d = rf_view_2d(step->entries[2], 1, n),
                v = rf_view_2d((void *)(uintptr_t)value, 1, n);
        RF_TRY(rf_gated(step->s, RF_ACT_NONE, &d, &v, &d));
    }
    RF_TRY(index_local(job, RF_STEP_MAIN));
fail:
    return status;
}

rf_status rf_step_sparsity(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    double sum = 0.0;
    RF_TRY(rf_step_keep_penalty(job, measure));
    if (job->act.penalty == RF_PENALTY_L0) {
        rf_step_set_l0_weight(job);
    } else if (job->sparsity > 0.0 && job->act.penalty != RF_PENALTY_NONE) {
        const float scale = (float)(job->sparsity / job->n_valid);
        float *d_value = job->act.act == RF_CODER_GATED ? step->entries[1]
                                                        : step->local.codes[RF_STEP_MAIN].d_value;
        RF_TRY(rf_comm_agree(step->comm, penalty_local(job, d_value, scale)));
        RF_TRY(sum_penalty(job, &sum));
        job->metrics->sparsity = job->sparsity * sum / job->n_valid;
        if (job->settings->penalty_by_norm) {
            RF_TRY(rf_comm_agree(step->comm, norm_entries(job, scale)));
            RF_TRY(sum_local(job, RF_STEP_MAIN, step->entries[2], step->by_latent2));
        }
    } else if (job->settings->penalty_by_norm) {
        RF_TRY(rf_comm_agree(step->comm, rf_fill_bytes(step->s, step->by_latent2, 0,
                                                       sizeof(float) * (size_t)job->n_latents)));
    }
    rf_step_lap(step, RF_PART_OTHER);
fail:
    return status;
}

/* ---- thresholds and gates ----------------------------------------------------------------------
 */

static rf_status window_gradient(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const bool is_l0 = job->act.penalty == RF_PENALTY_L0;
    rf_jump_window_grad_args args = {.codes = &step->local.codes[RF_STEP_WINDOW],
                                     .d_threshold = step->entries[0],
                                     .eps = (float)rf_coder_bandwidth(job->coder, &job->state),
                                     .l0 = is_l0 ? (float)(job->sparsity / job->n_valid) : 0.0f,
                                     .scale = is_l0 ? 0.0f : (float)(job->sparsity / job->n_valid),
                                     .row_penalty = rf_view_1d(step->local.sparsity, job->n_local)};
    RF_TRY(index_local(job, RF_STEP_WINDOW));
    RF_TRY(rf_jump_window_grad(step->s, &job->act, &args));
fail:
    return status;
}

rf_status rf_step_scale_by_theta(rf_step_job *job, const float *d_theta)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_view d_theta_row = rf_view_2d((void *)(uintptr_t)d_theta, 1, job->n_latents);
    rf_view theta = rf_view_2d(step->theta, 1, job->n_latents);
    rf_view out = rf_step_as_rows(rf_step_gradient(job, RF_CODER_LOG_THRESHOLD));
    RF_TRY(rf_gated(step->s, RF_ACT_NONE, &theta, &d_theta_row, &out));
fail:
    return status;
}

static rf_status jump_gradients(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_comm_agree(step->comm, window_gradient(job)));
    RF_TRY(sum_local(job, RF_STEP_WINDOW, step->entries[0], step->by_latent));
    RF_TRY(rf_comm_agree(step->comm, rf_step_scale_by_theta(job, step->by_latent)));
fail:
    return status;
}

static rf_status gate_entries(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_codes *codes = &step->local.codes[RF_STEP_MAIN];
    RF_TRY(rf_gated_values_grad(step->s, &job->act,
                                &(rf_gated_values_grad_args){.codes = codes,
                                                             .h = step->entries[0],
                                                             .z = codes->value,
                                                             .d_z = codes->d_value,
                                                             .d_gate = step->entries[1],
                                                             .d_h = step->entries[2],
                                                             .d_mag = codes->d_value,
                                                             .d_gain = step->entries[3]}));
    swap(&codes->d_value, &step->entries[2]); /* d_pre, and d_mag */
    RF_TRY(index_local(job, RF_STEP_MAIN));
fail:
    return status;
}

static rf_status gate_gradients(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_comm_agree(step->comm, gate_entries(job)));
    RF_TRY(
        sum_local(job, RF_STEP_MAIN, step->entries[1], rf_step_gradient(job, RF_CODER_B_ENC).data));
    RF_TRY(
        sum_local(job, RF_STEP_MAIN, step->entries[2], rf_step_gradient(job, RF_CODER_B_MAG).data));
    RF_TRY(
        sum_local(job, RF_STEP_MAIN, step->entries[3], rf_step_gradient(job, RF_CODER_GAIN).data));
fail:
    return status;
}

rf_status rf_step_act_gradients(rf_step_job *job)
{
    rf_status status = RF_OK;
    if (job->act.act == RF_CODER_JUMP) {
        RF_TRY(jump_gradients(job));
    } else if (job->act.act == RF_CODER_GATED) {
        RF_TRY(gate_gradients(job));
    }
    rf_step_lap(job->step, RF_PART_OTHER);
fail:
    return status;
}
