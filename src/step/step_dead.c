/* Terms for dead latents and decoder norms that both paths share. */
#include "step_impl.h"

#include <math.h>

/* ---- AuxK --------------------------------------------------------------------------------------
 */

/* g of the last group is the residual times this. */
static double residual_scale(const rf_step_job *job)
{
    return (double)job->g_scale / (double)rf_max_i64(1, job->groups.n);
}

/* e = y - y_hat (constant here), e_hat = decode of dead latents without bias: target and
 * reconstruction both lack it. `scale` = 2 alpha / (n V_e). */
static rf_status aux_local(rf_step_job *job, float scale)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_step_rows *mine = &step->local;
    rf_codes *codes = &mine->codes[RF_STEP_AUX];
    rf_view e = rf_step_local(job, step->y_hat), g = rf_step_g(job, RF_STEP_AUX, false);
    rf_view zeros = rf_view_2d(step->mean, 1, job->out_width);
    rf_view w_dec = rf_coder_view(job->coder, RF_CODER_W_DEC);
    RF_TRY(rf_fill_bytes(step->s, step->mean, 0, sizeof(float) * (size_t)job->out_width));
    RF_TRY(rf_residual(
        step->s,
        &(rf_residual_args){.x = rf_step_g_part(job, rf_max_i64(1, job->groups.n) - 1, false),
                            .x_hat = zeros,
                            .g = e,
                            .row_valid = mine->valid,
                            .scale = (float)(1.0 / residual_scale(job))}));
    RF_TRY(rf_decode(step->s, &(rf_decode_args){.codes = codes, .w_dec = w_dec, .out = g}));
    RF_TRY(rf_residual(step->s, &(rf_residual_args){.x = e,
                                                    .x_hat = g,
                                                    .g = g,
                                                    .row_loss = rf_view_1d(mine->aux, job->n_local),
                                                    .row_valid = mine->valid,
                                                    .scale = scale}));
    RF_TRY(rf_d_value(step->s, &(rf_d_value_args){.codes = codes, .w_dec = w_dec, .g = g}));
    RF_TRY(rf_exchange_begin(step));
    rf_step_lap(step, RF_PART_AUX);
fail:
    return status;
}

static rf_status measure_aux(rf_step *step, int64_t n_rows, double *error)
{
    rf_status status = RF_OK;
    RF_TRY(rf_exchange_end(step));
    RF_TRY(rf_step_sum(step, step->global.aux, n_rows, error));
fail:
    return status;
}

/* V_e and the scale of the auxiliary gradient, 2 alpha / (n V_e). */
static rf_status aux_scale(rf_step_job *job, double *v_e, float *scale)
{
    rf_status status = RF_OK;
    rf_view g = rf_step_g_part(job, rf_max_i64(1, job->groups.n) - 1, true);
    double spread, unit = residual_scale(job);
    RF_TRY(rf_exchange_end(job->step));
    RF_TRY(rf_step_spread(job, &g, &spread));
    *v_e = spread / (job->n_valid * unit * unit);
    *scale = (float)(2.0 * job->settings->aux_alpha / (job->n_valid * *v_e));
    rf_step_lap(job->step, RF_PART_AUX);
fail:
    return status;
}

rf_status rf_step_aux(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_step_rows *l = &step->local, *g = &step->global;
    double v_e = 0.0, error = 0.0, loss;
    float scale = 0.0f;
    RF_TRY(rf_comm_agree(step->comm, aux_scale(job, &v_e, &scale)));
    if (!isfinite(scale)) {
        job->aux_k = 0;
        goto fail;
    }
    RF_TRY(rf_comm_agree(step->comm, aux_local(job, scale)));
    status = rf_exchange_queue_rows(job, l->aux, g->aux, sizeof(float));
    RF_TRY(rf_comm_agree(step->comm,
                         status != RF_OK ? status : measure_aux(step, job->n_rows, &error)));
    loss = job->settings->aux_alpha * error / (job->n_valid * v_e);
    if (!isfinite(loss)) {
        job->aux_k = 0;
        goto fail;
    }
    job->metrics->aux = loss;
    RF_TRY(rf_exchange_queue_rows(job, l->g[RF_STEP_AUX], g->g[RF_STEP_AUX],
                                  sizeof(float) * (size_t)job->out_width));
    rf_step_lap(step, RF_PART_EXCHANGE);
fail:
    return status;
}

/* ---- decoder norms in a penalty ----------------------------------------------------------------
 */

/* sums[i] = sum over tokens of z dP/dz: divided by w_i it is the derivative to the norm. */
static rf_status norm_gradient_local(rf_step_job *job, float *sums)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const size_t n_bytes = sizeof(float) * (size_t)job->n_latents;
    rf_view w_dec = rf_coder_view(job->coder, RF_CODER_W_DEC);
    rf_view d_w_dec = rf_step_gradient(job, RF_CODER_W_DEC);
    rf_view scale = rf_step_by_latent(job, sums);
    rf_segments segments = rf_coder_out_segments(job->coder);
    float *norm = NULL;
    RF_ALLOC(norm, job->n_latents);
    RF_TRY(rf_copy_out(step->s, step->host_rows, sums, n_bytes));
    RF_TRY(rf_copy_out(step->s, norm, step->weight, n_bytes));
    RF_TRY(rf_stream_synchronise(step->s));
    for (int64_t i = 0; i < job->n_latents; i++) {
        step->host_rows[i] = norm[i] > 0.0f ? step->host_rows[i] / norm[i] : 0.0f;
    }
    RF_TRY(rf_copy_in(step->s, sums, step->host_rows, n_bytes));
    RF_TRY(rf_row_norms_grad(step->s, &w_dec, &segments, &scale, &d_w_dec));
    RF_TRY(rf_stream_synchronise(step->s)); /* host_rows is used again */
fail:
    rf_free(norm);
    return status;
}

rf_status rf_step_norm_gradient(rf_step_job *job, float *sums)
{
    return rf_comm_agree(job->step->comm, norm_gradient_local(job, sums));
}

/* ---- pre-activation loss -----------------------------------------------------------------------
 */

/* For each latent its weight in the loss: pre_activation |w_dec_i| where it was dead and stayed
 * silent in this batch, else 0. */
static rf_status silent_weights(rf_step_job *job, float *out)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    uint8_t *dead = NULL;
    int64_t *fired = NULL;
    const int64_t f = job->n_latents;
    rf_view norms = rf_step_by_latent(job, step->weight);
    rf_view w_dec = rf_coder_view(job->coder, RF_CODER_W_DEC);
    rf_segments segments = rf_coder_out_segments(job->coder);
    RF_ALLOC(dead, f);
    RF_ALLOC(fired, f + 1);
    RF_TRY(rf_row_norms(step->s, &w_dec, &segments, &norms));
    RF_TRY(rf_copy_out(step->s, out, step->weight, sizeof(float) * (size_t)f));
    RF_TRY(rf_copy_out(step->s, dead, step->dead, (size_t)f));
    RF_TRY(rf_copy_out(step->s, fired, job->is_dense ? step->n_active : job->fired->latent_start,
                       sizeof(int64_t) * (size_t)(job->is_dense ? f : f + 1)));
    RF_TRY(rf_stream_synchronise(step->s));
    for (int64_t i = 0; i < f; i++) {
        bool has_fired = job->is_dense ? fired[i] > 0 : fired[i + 1] > fired[i];
        out[i] *= dead[i] != 0 && !has_fired ? (float)job->settings->pre_activation : 0.0f;
    }
fail:
    rf_free(fired);
    rf_free(dead);
    return status;
}

/* vector [F] of the host into `at`; synchronises. */
static rf_status put(rf_step_job *job, float *at, const float *vector)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_copy_in(step->s, at, vector, sizeof(float) * (size_t)job->n_latents));
    RF_TRY(rf_stream_synchronise(step->s));
fail:
    return status;
}

/* row of `idx`'s gradient += vector [F] of the host, through step->by_latent2. */
static rf_status add_to(rf_step_job *job, rf_view gradient, const float *vector)
{
    rf_status status = RF_OK;
    rf_view row = rf_view_2d(job->step->by_latent2, 1, job->n_latents);
    RF_TRY(put(job, job->step->by_latent2, vector));
    rf_view g = rf_step_as_rows(gradient);
    RF_TRY(rf_add(job->step->s, &(rf_add_args){.x = g, .r = row, .y = g}));
    RF_TRY(rf_stream_synchronise(job->step->s));
fail:
    return status;
}

/* below[i] = theta_i - mean over tokens of h_bi = theta_i - <W_enc_i, mean seen> - b_i. */
static rf_status mean_below(rf_step_job *job, float *below)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const size_t n_bytes = sizeof(float) * (size_t)job->n_latents;
    RF_TRY(
        rf_matmul(step->s, &(rf_matmul_args){.a = rf_view_2d(step->mean, 1, job->width),
                                             .b = rf_coder_view(job->coder, RF_CODER_W_ENC),
                                             .c = rf_view_2d(step->by_latent2, 1, job->n_latents),
                                             .bias = rf_coder_view(job->coder, RF_CODER_B_ENC),
                                             .trans_b = RF_TRANS,
                                             .alpha = 1.0f}));
    RF_TRY(rf_copy_out(step->s, below, step->theta, n_bytes));
    RF_TRY(rf_copy_out(step->s, step->host_rows, step->by_latent2, n_bytes));
    RF_TRY(rf_stream_synchronise(step->s));
    for (int64_t i = 0; i < job->n_latents; i++) {
        below[i] -= step->host_rows[i];
    }
fail:
    return status;
}

/* What of c_i (theta_i - <W_enc_i, mean> - b_i) reaches W_enc: rank one. */
static rf_status add_to_w_enc(rf_step_job *job, const float *c)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(put(job, step->by_latent2, c));
    RF_TRY(
        rf_matmul(step->s, &(rf_matmul_args){.a = rf_view_2d(step->by_latent2, 1, job->n_latents),
                                             .b = rf_view_2d(step->mean, 1, job->width),
                                             .c = rf_step_gradient(job, RF_CODER_W_ENC),
                                             .trans_a = RF_TRANS,
                                             .alpha = -1.0f,
                                             .beta = 1.0f}));
fail:
    return status;
}

/* What reaches |w_dec_i|: pre_activation * below_i where the latent counts. */
static rf_status add_to_norms(rf_step_job *job, const float *c, float *below)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_view w_dec = rf_coder_view(job->coder, RF_CODER_W_DEC);
    rf_view d_w_dec = rf_step_gradient(job, RF_CODER_W_DEC);
    rf_view scale = rf_step_by_latent(job, step->by_latent2);
    rf_segments segments = rf_coder_out_segments(job->coder);
    for (int64_t i = 0; i < job->n_latents; i++) {
        below[i] = c[i] > 0.0f ? (float)job->settings->pre_activation * below[i] : 0.0f;
    }
    RF_TRY(put(job, step->by_latent2, below));
    RF_TRY(rf_row_norms_grad(step->s, &w_dec, &segments, &scale, &d_w_dec));
fail:
    return status;
}

/* With c the weights of silent latents: loss sum_i c_i (theta_i - mean_b h_bi), as none of these h
 * is above its threshold. */
static rf_status add_silent(rf_step_job *job, const float *c)
{
    rf_status status = RF_OK;
    const int64_t f = job->n_latents;
    float *below = NULL, *d = NULL;
    RF_ALLOC(below, f);
    RF_ALLOC(d, f);
    RF_TRY(mean_below(job, below));
    for (int64_t i = 0; i < f; i++) {
        job->metrics->sparsity += (double)c[i] * (double)below[i];
        d[i] = -c[i];
    }
    RF_TRY(add_to(job, rf_step_d_pre_sums(job), d));
    RF_TRY(add_to_w_enc(job, c));
    RF_TRY(rf_copy_out(job->step->s, d, job->step->theta, sizeof *d * (size_t)f));
    RF_TRY(rf_stream_synchronise(job->step->s));
    for (int64_t i = 0; i < f; i++) { /* d log theta */
        d[i] *= c[i];
    }
    RF_TRY(add_to(job, rf_step_gradient(job, RF_CODER_LOG_THRESHOLD), d));
    if (job->settings->decoder == RF_DECODER_FREE) {
        RF_TRY(add_to_norms(job, c, below));
    }
fail:
    rf_free(d);
    rf_free(below);
    return status;
}

/* step->mean = the mean of what the encoder saw: of all ranks, or on the dense path of this one. */
static rf_status mean_local(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_row_sum(step->s, &(rf_row_sum_args){.x = rf_step_seen(job, !job->is_dense),
                                                  .out = rf_view_1d(step->mean, job->width),
                                                  .alpha = (float)(1.0 / job->n_valid)}));
    RF_TRY(rf_exchange_begin(step));
fail:
    return status;
}

/* step->mean = that of all ranks. May fail on one rank alone. Collective. */
static rf_status mean_seen(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_comm_agree(step->comm, mean_local(job)));
    if (job->is_dense) {
        RF_TRY(rf_all_sum_f32(step->exchange, step->comm, step->mean, job->width));
    }
    RF_TRY(rf_exchange_end(step));
fail:
    return status;
}

rf_status rf_step_pre_activation(rf_step_job *job)
{
    rf_status status = RF_OK;
    float *c = NULL;
    if (job->metrics->n_dead == 0) {
        return RF_OK;
    }
    c = rf_calloc(job->n_latents, sizeof *c);
    RF_TRY(rf_comm_agree(job->step->comm, c == NULL ? RF_ERR_NO_MEMORY : silent_weights(job, c)));
    status = mean_seen(job);
    RF_TRY(rf_comm_agree(job->step->comm, status != RF_OK ? status : add_silent(job, c)));
fail:
    rf_free(c);
    return status;
}
