/* Gradients while codes are not sparse: micro-batches of tokens x all latents, five products each,
 * gradients accumulated by the products; no buffer of batch x latents. */
#include "step_impl.h"

#include <math.h>

/* Rows first .. first + n - 1 of this rank. */
typedef struct micro_batch {
    int64_t first, n;
    rf_view x, y, g, z;
} micro_batch;

static micro_batch micro_batch_at(const rf_step_job *job, int64_t first)
{
    rf_step *step = job->step;
    int64_t n = rf_min_i64(STEP_MICRO_BATCH, job->n_local - first);
    return (micro_batch){.first = first,
                         .n = n,
                         .x = rf_view_rows(rf_step_local(job, step->local.x), first, n),
                         .y = rf_view_rows(rf_step_local(job, step->y), first, n),
                         .g = rf_view_rows(rf_step_local(job, step->local.g), first, n),
                         .z = rf_view_2d(step->z, n, job->n_latents)};
}

static rf_status forward(rf_step_job *job, const micro_batch *mb)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_step_rows *mine = &step->local;
    const uint8_t *valid = mine->valid + mb->first;
    RF_TRY(rf_matmul(step->s, &(rf_matmul_args){.a = mb->x,
                                                .b = rf_coder_view(job->coder, RF_CODER_W_ENC),
                                                .c = mb->z,
                                                .bias = rf_coder_view(job->coder, RF_CODER_B_ENC),
                                                .trans_b = RF_TRANS,
                                                .alpha = 1.0f,
                                                .act = RF_ACT_RELU}));
    rf_step_lap(step, RF_PART_PRODUCT);
    RF_TRY(rf_dense_codes(step->s,
                          &(rf_dense_codes_args){
                              .z = mb->z,
                              .row_sum = rf_view_1d(mine->l1 + mb->first, mb->n),
                              .n_active = rf_view_nd(step->n_active, RF_I64, 1, &job->n_latents),
                              .row_active = rf_view_nd(mine->active + mb->first, RF_I64, 1, &mb->n),
                              .row_valid = valid}));
    rf_step_lap(step, RF_PART_SELECT);
    RF_TRY(rf_matmul(step->s, &(rf_matmul_args){.a = mb->z,
                                                .b = rf_coder_view(job->coder, RF_CODER_W_DEC),
                                                .c = mb->y,
                                                .alpha = 1.0f}));
    RF_TRY(rf_residual(step->s,
                       &(rf_residual_args){.x = mb->x,
                                           .x_hat = mb->y,
                                           .g = mb->g,
                                           .row_loss = rf_view_1d(mine->loss + mb->first, mb->n),
                                           .row_valid = valid,
                                           .scale = job->g_scale}));
    rf_step_lap(step, RF_PART_DECODE);
fail:
    return status;
}

/* d_z of latents i .. i + n - 1, and from it d_w_enc and d_b_enc. */
static rf_status backward_tile(rf_step_job *job, const micro_batch *mb, int64_t i, int64_t n)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_view d_z = rf_view_2d(step->d_z, mb->n, n), z = mb->z;
    rf_view d_b_enc = rf_step_gradient(job, RF_CODER_B_ENC);
    z.data = (float *)z.data + i;
    z.shape[1] = n;
    RF_TRY(rf_matmul(
        step->s,
        &(rf_matmul_args){.a = mb->g,
                          .b = rf_view_rows(rf_coder_view(job->coder, RF_CODER_W_DEC), i, n),
                          .c = d_z,
                          .trans_b = RF_TRANS,
                          .alpha = 1.0f}));
    RF_TRY(rf_dense_mask(step->s, &z, &d_z, (float)(job->l1 / job->n_valid)));
    rf_step_lap(step, RF_PART_D_VALUE);
    RF_TRY(rf_matmul(
        step->s, &(rf_matmul_args){.a = d_z,
                                   .b = mb->x,
                                   .c = rf_view_rows(rf_step_gradient(job, RF_CODER_W_ENC), i, n),
                                   .trans_a = RF_TRANS,
                                   .alpha = 1.0f,
                                   .beta = 1.0f}));
    RF_TRY(rf_row_sum(
        step->s, &(rf_row_sum_args){
                     .x = d_z, .out = rf_view_rows(d_b_enc, i, n), .alpha = 1.0f, .beta = 1.0f}));
    rf_step_lap(step, RF_PART_BY_LATENT);
fail:
    return status;
}

static rf_status backward(rf_step_job *job, const micro_batch *mb)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_matmul(step->s, &(rf_matmul_args){.a = mb->z,
                                                .b = mb->g,
                                                .c = rf_step_gradient(job, RF_CODER_W_DEC),
                                                .trans_a = RF_TRANS,
                                                .alpha = 1.0f,
                                                .beta = 1.0f}));
    rf_step_lap(step, RF_PART_BY_LATENT);
    for (int64_t i = 0; i < job->n_latents; i += STEP_DENSE_TILE) {
        RF_TRY(backward_tile(job, mb, i, rf_min_i64(STEP_DENSE_TILE, job->n_latents - i)));
    }
fail:
    return status;
}

/* The rows of this rank: gradients, row losses and counts, and the sums of x and of g over rows. */
static rf_status local_gradients(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_fill_bytes(step->s, step->n_active, 0, sizeof(int64_t) * (size_t)job->n_latents));
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        rf_view g = rf_step_gradient(job, i);
        RF_TRY(rf_fill_bytes(step->s, g.data, 0, sizeof(float) * (size_t)rf_view_n_elems(&g)));
    }
    for (int64_t b = 0; b < job->n_local; b += STEP_MICRO_BATCH) {
        micro_batch mb = micro_batch_at(job, b);
        RF_TRY(forward(job, &mb));
        RF_TRY(backward(job, &mb));
    }
    RF_TRY(rf_row_sum(step->s, &(rf_row_sum_args){.x = rf_step_local(job, step->local.g),
                                                  .out = rf_step_gradient(job, RF_CODER_B_DEC),
                                                  .alpha = 1.0f}));
    RF_TRY(rf_row_sum(step->s, &(rf_row_sum_args){.x = rf_step_local(job, step->local.x),
                                                  .out = rf_view_1d(step->mean, job->width),
                                                  .alpha = (float)(1.0 / job->n_valid)}));
    rf_step_lap(step, RF_PART_OTHER);
fail:
    return status;
}

/* Gradients, counts and the mean, summed over ranks in their order. */
static rf_status sum_over_ranks(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    if (rf_comm_size(step->comm) == 1) {
        return RF_OK;
    }
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        rf_view g = rf_step_gradient(job, i);
        RF_TRY(rf_all_sum_f32(step->s, step->comm, g.data, rf_view_n_elems(&g)));
    }
    RF_TRY(rf_all_sum_f32(step->s, step->comm, step->mean, job->width));
    RF_TRY(rf_all_sum_i64(step->s, step->comm, step->n_active, job->n_latents));
fail:
    return status;
}

/* Rows of every rank: their losses, sums of values, distances to the mean of the batch, counts. */
static rf_status exchange_figures(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_step_rows *l = &step->local, *g = &step->global;
    rf_view mean = rf_view_2d(step->mean, 1, job->width);
    RF_TRY(rf_comm_agree(
        step->comm,
        rf_residual(step->s, &(rf_residual_args){.x = rf_step_local(job, l->x),
                                                 .x_hat = mean,
                                                 .row_loss = rf_view_1d(l->spread, job->n_local),
                                                 .row_valid = l->valid})));
    RF_TRY(rf_exchange_rows(job, l->loss, g->loss, sizeof(float)));
    RF_TRY(rf_exchange_rows(job, l->l1, g->l1, sizeof(float)));
    RF_TRY(rf_exchange_rows(job, l->spread, g->spread, sizeof(float)));
    RF_TRY(rf_exchange_rows(job, l->active, g->active, sizeof(int64_t)));
    rf_step_lap(step, RF_PART_EXCHANGE);
fail:
    return status;
}

/* Is the next step a sparse one? Both ways are counted in integers, and going back takes more than
 * it took to come (step.c holds the other threshold). */
static rf_status choose_path(rf_step_job *job)
{
    enum { SPARSE_BELOW = 64 }; /* one latent of so many active on average */
    rf_status status = RF_OK;
    rf_step *step = job->step;
    int64_t total = 0;
    RF_TRY(rf_copy_out(step->s, step->host_starts, step->global.active,
                       sizeof(int64_t) * (size_t)job->n_rows));
    RF_TRY(rf_stream_synchronise(step->s));
    for (int64_t b = 0; b < job->n_rows; b++) {
        total += step->host_starts[b];
    }
    job->metrics->l0 = (double)total / job->n_valid;
    job->state.counters[RF_COUNTER_DENSE] =
        (double)total * SPARSE_BELOW > job->n_valid * (double)job->n_latents;
fail:
    return status;
}

static rf_status measure(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_step_rows *all = &step->global;
    double error, spread, l1;
    RF_TRY(rf_step_sum(step, all->loss, job->n_rows, &error));
    RF_TRY(rf_step_sum(step, all->spread, job->n_rows, &spread));
    RF_TRY(rf_step_sum(step, all->l1, job->n_rows, &l1));
    RF_TRY(choose_path(job));
    job->metrics->mse = error / (job->n_valid * job->variance);
    job->metrics->l1 = job->l1 * l1 / job->n_valid;
    job->metrics->explained_variance = 1.0 - error / spread;
    job->metrics->skipped = !isfinite(job->metrics->mse) || !isfinite(job->metrics->l1);
    rf_step_lap(step, RF_PART_OTHER);
fail:
    return status;
}

/* d_b_dec is the sum of g so far: less the sum over latents of d_b_enc * W_enc. */
static rf_status finish_gradients(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_row_sum(step->s, &(rf_row_sum_args){.x = rf_coder_view(job->coder, RF_CODER_W_ENC),
                                                  .weight = rf_step_gradient(job, RF_CODER_B_ENC),
                                                  .out = rf_step_gradient(job, RF_CODER_B_DEC),
                                                  .alpha = -1.0f,
                                                  .beta = 1.0f}));
    rf_step_lap(step, RF_PART_BY_LATENT);
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        rf_view g = rf_step_as_rows(rf_step_gradient(job, i));
        RF_TRY(rf_sum_squares(step->s, &g, &step->scalars->squares, i == 0 ? 0.0 : 1.0));
    }
    rf_step_lap(step, RF_PART_CLIP);
fail:
    return status;
}

rf_status rf_step_dense(rf_step_job *job)
{
    rf_status status = RF_OK;
    const rf_comm *comm = job->step->comm;
    job->touched = NULL;
    job->metrics->dense_path = true;
    RF_TRY(rf_comm_agree(comm, local_gradients(job)));
    RF_TRY(sum_over_ranks(job));
    RF_TRY(exchange_figures(job));
    RF_TRY(rf_comm_agree(comm, measure(job)));
    if (!job->metrics->skipped) {
        RF_TRY(rf_comm_agree(comm, finish_gradients(job)));
    }
fail:
    return status;
}
