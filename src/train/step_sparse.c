/* Gradients from codes. Ranks exchange rows and codes of their tokens; from there on every rank
 * computes the same whole-batch sums in the order of the batch. */
#include "step_impl.h"

#include <math.h>

static rf_view row_floats(float *rows, int64_t n)
{
    return rf_view_1d(rows, n);
}

/* Main and auxiliary list for the rows of this rank, in one pass over the products. Room depends on
 * this coder alone, never on the others that share the memory. */
static rf_encode_args encode_args(rf_step_job *job, double *seconds)
{
    rf_step *step = job->step;
    const rf_architecture *a = rf_coder_architecture(job->coder);
    int64_t slot = a->row_capacity(rf_coder_get_settings(job->coder), job->n_latents);
    rf_encode_args args = {.x = rf_step_local(job, step->local.x),
                           .w_enc = rf_coder_view(job->coder, RF_CODER_W_ENC),
                           .b_enc = rf_coder_view(job->coder, RF_CODER_B_ENC),
                           .row_valid = step->local.valid,
                           .n_lists = job->aux_k > 0 ? 2 : 1,
                           .n_refused = &step->scalars->refused,
                           .seconds = seconds};
    step->local.codes.n_rows = step->local.aux_codes.n_rows = job->n_local;
    step->local.codes.capacity = job->n_local * slot;
    step->global.codes.capacity = job->n_rows * slot;
    step->local.aux_codes.capacity = job->n_local * job->aux_k;
    step->global.aux_codes.capacity = job->n_rows * job->aux_k;
    args.lists[0] = (rf_select_list){.rule = a->rule,
                                     .k = rf_coder_k(job->coder),
                                     .codes = &step->local.codes,
                                     .overflow = &step->scalars->overflow};
    args.lists[1] = (rf_select_list){.rule = RF_SELECT_TOPK,
                                     .k = job->aux_k,
                                     .eligible = step->dead,
                                     .codes = &step->local.aux_codes};
    return args;
}

static rf_status encode_local(rf_step_job *job, int64_t counts[2])
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    double seconds[2] = {0.0, 0.0};
    rf_encode_args args = encode_args(job, step->opts.part_seconds == NULL ? NULL : seconds);
    RF_TRY(rf_encode(step->s, &args));
    RF_TRY(rf_copy_out(step->s, &counts[0], &step->scalars->overflow, sizeof counts[0]));
    RF_TRY(rf_copy_out(step->s, &counts[1], &step->scalars->refused, sizeof counts[1]));
    RF_TRY(rf_stream_synchronise(step->s));
    rf_step_lap(step, RF_PART_SELECT);
    if (step->opts.part_seconds != NULL) { /* of the whole encode, what products took */
        step->opts.part_seconds[RF_PART_SELECT] -= seconds[0];
        step->opts.part_seconds[RF_PART_PRODUCT] += seconds[0];
    }
fail:
    return status;
}

rf_status rf_step_encode(rf_step_job *job)
{
    rf_status status = RF_OK;
    const rf_comm *comm = job->step->comm;
    int64_t counts[2] = {0, 0}; /* overflow, refused */
    RF_TRY(rf_comm_agree(comm, encode_local(job, counts)));
    RF_TRY(rf_comm_sum_i64(comm, counts, 2));
    job->metrics->skipped = counts[1] > 0;
    job->is_dense = counts[0] > 0;
fail:
    return status;
}

/* y = decode, g = 2 / (n V) (x_hat - x), row losses. */
static rf_status decode_local(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_step_rows *mine = &step->local;
    rf_view y = rf_step_local(job, step->y);
    RF_TRY(rf_decode(step->s, &(rf_decode_args){.codes = &mine->codes,
                                                .w_dec = rf_coder_view(job->coder, RF_CODER_W_DEC),
                                                .out = y}));
    RF_TRY(
        rf_residual(step->s, &(rf_residual_args){.x = rf_step_local(job, mine->x),
                                                 .x_hat = y,
                                                 .g = rf_step_local(job, mine->g),
                                                 .row_loss = row_floats(mine->loss, job->n_local),
                                                 .row_valid = mine->valid,
                                                 .scale = job->g_scale}));
    rf_step_lap(step, RF_PART_DECODE);
fail:
    return status;
}

/* Rows that whole-batch sums are made of. */
static rf_status exchange_rows(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step_rows *l = &job->step->local, *g = &job->step->global;
    size_t row = sizeof(float) * (size_t)job->width;
    RF_TRY(rf_exchange_rows(job, l->x, g->x, row));
    RF_TRY(rf_exchange_rows(job, l->g, g->g, row));
    RF_TRY(rf_exchange_rows(job, l->valid, g->valid, 1));
    RF_TRY(rf_exchange_rows(job, l->loss, g->loss, sizeof(float)));
    rf_step_lap(job->step, RF_PART_EXCHANGE);
fail:
    return status;
}

/* Sum over the batch of |row - mean row|^2, rows that are not valid left out (they are 0). */
static rf_status spread_of(rf_step_job *job, float *rows, double *out)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_view x = rf_step_global(job, rows), mean = rf_view_1d(step->mean, job->width);
    RF_TRY(rf_row_sum(
        step->s, &(rf_row_sum_args){.x = x, .out = mean, .alpha = (float)(1.0 / job->n_valid)}));
    RF_TRY(rf_residual(step->s,
                       &(rf_residual_args){.x = x,
                                           .x_hat = rf_step_as_rows(mean),
                                           .row_loss = row_floats(step->global.spread, job->n_rows),
                                           .row_valid = step->global.valid}));
    RF_TRY(rf_step_sum(step, step->global.spread, job->n_rows, out));
fail:
    return status;
}

static rf_status measure_loss(rf_step_job *job)
{
    rf_status status = RF_OK;
    double error, spread;
    RF_TRY(rf_step_sum(job->step, job->step->global.loss, job->n_rows, &error));
    RF_TRY(spread_of(job, job->step->global.x, &spread));
    job->metrics->mse = error / (job->n_valid * job->variance);
    job->metrics->explained_variance = 1.0 - error / spread;
    job->metrics->skipped = !isfinite(job->metrics->mse);
    rf_step_lap(job->step, RF_PART_DECODE);
fail:
    return status;
}

static rf_status d_value_local(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(
        rf_d_value(step->s, &(rf_d_value_args){.codes = &step->local.codes,
                                               .w_dec = rf_coder_view(job->coder, RF_CODER_W_DEC),
                                               .g = rf_step_local(job, step->local.g),
                                               .penalty = (float)(job->l1 / job->n_valid)}));
    rf_step_lap(step, RF_PART_D_VALUE);
fail:
    return status;
}

/* e = x - x_hat (constant here), e_hat = decode of dead latents without bias: target and
 * reconstruction both lack it. `scale` = 2 alpha / (n V_e). */
static rf_status aux_local(rf_step_job *job, float scale)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_step_rows *mine = &step->local;
    rf_view y = rf_step_local(job, step->y), g = rf_step_local(job, mine->g_aux);
    rf_view w_dec = rf_coder_view(job->coder, RF_CODER_W_DEC);
    RF_TRY(rf_residual(step->s, &(rf_residual_args){.x = y,
                                                    .x_hat = rf_step_local(job, mine->x),
                                                    .g = y,
                                                    .row_valid = mine->valid,
                                                    .scale = 1.0f}));
    RF_TRY(
        rf_decode(step->s, &(rf_decode_args){.codes = &mine->aux_codes, .w_dec = w_dec, .out = g}));
    RF_TRY(rf_residual(step->s, &(rf_residual_args){.x = y,
                                                    .x_hat = g,
                                                    .g = g,
                                                    .row_loss = row_floats(mine->aux, job->n_local),
                                                    .row_valid = mine->valid,
                                                    .scale = scale}));
    RF_TRY(
        rf_d_value(step->s, &(rf_d_value_args){.codes = &mine->aux_codes, .w_dec = w_dec, .g = g}));
    rf_step_lap(step, RF_PART_AUX);
fail:
    return status;
}

/* V_e and the scale of the auxiliary gradient, 2 alpha / (n V_e). */
static rf_status aux_scale(rf_step_job *job, double *v_e, float *scale)
{
    rf_status status = RF_OK;
    double alpha = rf_coder_get_settings(job->coder)->aux_alpha, spread;
    /* the rows of g are those of e times -g_scale */
    RF_TRY(spread_of(job, job->step->global.g, &spread));
    *v_e = spread / (job->n_valid * (double)job->g_scale * (double)job->g_scale);
    *scale = (float)(2.0 * alpha / (job->n_valid * *v_e));
    rf_step_lap(job->step, RF_PART_AUX);
fail:
    return status;
}

/* The auxiliary term; where it is not finite it counts as 0 and job->aux_k becomes 0. */
static rf_status aux_term(rf_step_job *job)
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
    RF_TRY(rf_exchange_rows(job, l->aux, g->aux, sizeof(float)));
    RF_TRY(rf_comm_agree(step->comm, rf_step_sum(step, g->aux, job->n_rows, &error)));
    loss = rf_coder_get_settings(job->coder)->aux_alpha * error / (job->n_valid * v_e);
    if (!isfinite(loss)) {
        job->aux_k = 0;
        goto fail;
    }
    job->metrics->aux = loss;
    RF_TRY(rf_exchange_rows(job, l->g_aux, g->g_aux, sizeof(float) * (size_t)job->width));
    RF_TRY(rf_exchange_codes(job, &l->aux_codes, &g->aux_codes));
    rf_step_lap(step, RF_PART_EXCHANGE);
fail:
    return status;
}

static rf_status measure_codes(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    int64_t n_entries;
    double sum;
    RF_TRY(rf_codes_count(step->s, &step->global.codes, &n_entries));
    job->metrics->l0 = (double)n_entries / job->n_valid;
    if (job->l1 > 0.0) {
        rf_view l1 = row_floats(step->global.l1, job->n_rows);
        RF_TRY(rf_codes_row_sum(step->s, &step->global.codes, &l1));
        RF_TRY(rf_step_sum(step, step->global.l1, job->n_rows, &sum));
        job->metrics->l1 = job->l1 * sum / job->n_valid;
    }
    rf_step_lap(step, RF_PART_OTHER);
fail:
    return status;
}

/* d_b_dec = sum of g over tokens - sum over latents of d_b_enc * W_enc: x - b_dec goes into the
 * encoder. */
static rf_status b_dec_gradient(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_view d_b_dec = rf_step_gradient(job, RF_CODER_B_DEC);
    RF_TRY(rf_row_sum(step->s, &(rf_row_sum_args){.x = rf_step_global(job, step->global.g),
                                                  .out = d_b_dec,
                                                  .alpha = 1.0f}));
    RF_TRY(rf_row_sum(step->s, &(rf_row_sum_args){.x = rf_coder_view(job->coder, RF_CODER_W_ENC),
                                                  .weight = rf_step_gradient(job, RF_CODER_B_ENC),
                                                  .out = d_b_dec,
                                                  .alpha = -1.0f,
                                                  .beta = 1.0f}));
fail:
    return status;
}

/* What every rank does alike with the whole batch. */
static rf_status by_latent(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_step_rows *all = &step->global;
    rf_view d_b_dec = rf_step_as_rows(rf_step_gradient(job, RF_CODER_B_DEC));

    RF_TRY(measure_codes(job));
    step->index.n_latents = step->aux_index.n_latents = job->n_latents;
    RF_TRY(rf_index_by_latent(step->s, &all->codes, &step->index));
    if (job->aux_k > 0) {
        RF_TRY(rf_index_by_latent(step->s, &all->aux_codes, &step->aux_index));
    }
    rf_step_lap(step, RF_PART_INDEX);
    rf_by_latent_args args = {.n_lists = job->aux_k > 0 ? 2 : 1,
                              .codes = {&all->codes, &all->aux_codes},
                              .index = {&step->index, &step->aux_index},
                              .g = {rf_step_global(job, all->g), rf_step_global(job, all->g_aux)},
                              .x = rf_step_global(job, all->x),
                              .d_w_enc = rf_step_gradient(job, RF_CODER_W_ENC),
                              .d_b_enc = rf_step_gradient(job, RF_CODER_B_ENC),
                              .d_w_dec = rf_step_gradient(job, RF_CODER_W_DEC),
                              .touched = step->touched,
                              .squares = &step->scalars->squares};
    RF_TRY(rf_accumulate_by_latent(step->s, &args));
    job->touched = step->touched;
    RF_TRY(b_dec_gradient(job));
    rf_step_lap(step, RF_PART_BY_LATENT);
    RF_TRY(rf_sum_squares(step->s, &d_b_dec, &step->scalars->squares, 1.0));
    rf_step_lap(step, RF_PART_CLIP);
fail:
    return status;
}

rf_status rf_step_sparse(rf_step_job *job)
{
    rf_status status = RF_OK;
    const rf_comm *comm = job->step->comm;
    RF_TRY(rf_comm_agree(comm, decode_local(job)));
    RF_TRY(exchange_rows(job));
    RF_TRY(rf_comm_agree(comm, measure_loss(job)));
    if (job->metrics->skipped) {
        goto fail;
    }
    RF_TRY(rf_comm_agree(comm, d_value_local(job)));
    if (job->aux_k > 0) {
        RF_TRY(aux_term(job));
    }
    RF_TRY(rf_exchange_codes(job, &job->step->local.codes, &job->step->global.codes));
    rf_step_lap(job->step, RF_PART_EXCHANGE);
    RF_TRY(rf_comm_agree(comm, by_latent(job)));
fail:
    return status;
}
