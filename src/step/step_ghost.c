/* Ghost gradients for dead latents (Anthropic, January 2024), by themselves or as Prisma has them:
 * exp(h) of dead latents decodes to what is scaled to half the residual's norm, and is to come near
 * the residual. Constant are the residual, the norms, and the main loss that the term is scaled
 * to. b_dec is reached through the encoder alone. The rows of dead latents are gathered into
 * small matrices, and products over micro-batches do the rest.
 *
 * Since each token's reconstruction is scaled, exp(h) matters up to a factor by token alone: it is
 * the softmax over the dead here, which cannot overflow. (Prisma's 1e-6 beside twice the norm is
 * therefore left out.) */
#include "step_impl.h"

#include <math.h>

typedef struct ghost {
    rf_step_job *job;
    int64_t n_dead, n; /* rows of a micro-batch */
    void *block, *index_block;
    rf_view index;                     /* I64 [n_dead] */
    rf_view w_enc, b_enc, w_dec;       /* rows of dead latents; [n_dead, 1] of b_enc */
    rf_view d_w_enc, d_b_enc, d_w_dec; /* side by side in memory, `n_sums` floats */
    rf_view f, d_f;                    /* [n, n_dead] */
    rf_view y;                         /* [n, E] */
    int64_t n_sums;
    float *host_e, *host_y, *host_factor; /* [n, E], [n, E], [max(D, E)] */
    double *mean;                         /* [E] of the residuals */
    double loss;                          /* of this rank's rows, then of all */
} ghost;

/* ---- memory
 * -------------------------------------------------------------------------------------- */

static rf_view carve(float **at, int64_t n_rows, int64_t n_cols)
{
    rf_view v = rf_view_2d(*at, n_rows, n_cols);
    *at += n_rows * n_cols;
    return v;
}

static rf_status ghost_init(rf_step_job *job, ghost *g)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    int64_t d = job->width, e = job->out_width, n_dead = job->metrics->n_dead;
    int64_t n = rf_max_i64(1, rf_min_i64(RF_STEP_MICRO_BATCH, job->n_local));
    int64_t n_floats = 2 * n_dead * (d + e + 1) + 2 * n * n_dead + n * e;
    *g = (ghost){.job = job, .n_dead = n_dead, .n = n, .n_sums = n_dead * (d + e + 1)};
    RF_TRY(rf_memory_alloc(step->be, RF_MEMORY_DEVICE, sizeof(int64_t) * (size_t)n_dead,
                           &g->index_block));
    RF_TRY(
        rf_memory_alloc(step->be, RF_MEMORY_DEVICE, sizeof(float) * (size_t)n_floats, &g->block));
    RF_ALLOC(g->host_e, n * e);
    RF_ALLOC(g->host_y, n * e);
    RF_ALLOC(g->host_factor, rf_max_i64(d, e));
    RF_ALLOC(g->mean, e);
    float *at = g->block;
    g->index = rf_view_nd(g->index_block, RF_I64, 1, &n_dead);
    g->d_w_enc = carve(&at, n_dead, d); /* zero: fresh memory is */
    g->d_w_dec = carve(&at, n_dead, e);
    g->d_b_enc = carve(&at, n_dead, 1);
    g->w_enc = carve(&at, n_dead, d);
    g->w_dec = carve(&at, n_dead, e);
    g->b_enc = carve(&at, n_dead, 1);
    g->f = carve(&at, n, n_dead);
    g->d_f = carve(&at, n, n_dead);
    g->y = carve(&at, n, e);
fail:
    return status;
}

static void ghost_fini(ghost *g)
{
    rf_backend *be = g->job->step->be;
    rf_free(g->mean);
    rf_free(g->host_factor);
    rf_free(g->host_y);
    rf_free(g->host_e);
    rf_memory_free(be, RF_MEMORY_DEVICE, g->block);
    rf_memory_free(be, RF_MEMORY_DEVICE, g->index_block);
}

/* ---- rows of dead latents
 * ------------------------------------------------------------------------ */

/* [F] as [F, 1]. */
static rf_view as_column(rf_view v)
{
    return rf_view_2d(v.data, v.shape[0], 1);
}

/* Which latents are dead; where some rows have no gradient, those of dead ones have one now. */
static rf_status list_dead(ghost *g)
{
    rf_status status = RF_OK;
    rf_step *step = g->job->step;
    int64_t n_latents = g->job->n_latents, *index = NULL, n = 0;
    uint8_t *dead = NULL, *touched = NULL;
    RF_ALLOC(index, g->n_dead);
    RF_ALLOC(dead, n_latents);
    RF_ALLOC(touched, n_latents);
    RF_TRY(rf_copy_out(step->s, dead, step->dead, (size_t)n_latents));
    RF_TRY(rf_copy_out(step->s, touched, step->touched, (size_t)n_latents));
    RF_TRY(rf_stream_synchronise(step->s));
    for (int64_t i = 0; i < n_latents; i++) {
        touched[i] = touched[i] != 0 || dead[i] != 0;
        RF_BUG(dead[i] == 0 || n < g->n_dead, "ghost: more than %" PRId64 " dead", g->n_dead);
        if (dead[i] != 0) {
            index[n++] = i;
        }
    }
    RF_BUG(n == g->n_dead, "ghost: %" PRId64 " dead, expected %" PRId64, n, g->n_dead);
    RF_TRY(rf_copy_in(step->s, g->index.data, index, sizeof *index * (size_t)n));
    if (g->job->touched != NULL) {
        RF_TRY(rf_copy_in(step->s, step->touched, touched, (size_t)n_latents));
    }
    RF_TRY(rf_stream_synchronise(step->s)); /* host memory goes */
fail:
    rf_free(touched);
    rf_free(dead);
    rf_free(index);
    return status;
}

static rf_status gather(ghost *g)
{
    rf_status status = RF_OK;
    rf_stream *s = g->job->step->s;
    const rf_coder *coder = g->job->coder;
    rf_view w_enc = rf_coder_view(coder, RF_CODER_W_ENC);
    rf_view w_dec = rf_coder_view(coder, RF_CODER_W_DEC);
    rf_view b_enc = as_column(rf_coder_view(coder, RF_CODER_B_ENC));
    RF_TRY(list_dead(g));
    RF_TRY(rf_gather_rows(s, &w_enc, &g->index, &g->w_enc));
    RF_TRY(rf_gather_rows(s, &w_dec, &g->index, &g->w_dec));
    RF_TRY(rf_gather_rows(s, &b_enc, &g->index, &g->b_enc));
fail:
    return status;
}

/* ---- a token
 * ------------------------------------------------------------------------------------- */

static double norm_of(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t j = 0; j < n; j++) {
        sum += (double)x[j] * (double)x[j];
    }
    return sqrt(sum);
}

/* y becomes the gradient by itself of |scale y - e|^2 / (n V), scale a constant that halves the
 * norm; returns that term. */
static double original_row(const rf_step_job *job, const float *e, float *y, double scale)
{
    const double weight = 1.0 / (job->n_valid * job->variance);
    double loss = 0.0;
    for (int64_t j = 0; j < job->out_width; j++) {
        double off = scale * (double)y[j] - (double)e[j];
        loss += weight * off * off;
        y[j] = (float)(2.0 * weight * scale * off);
    }
    return loss;
}

/* Prisma's: each element's own error, over the norm of the centred residual, is scaled to the main
 * loss. */
static double prisma_row(const rf_step_job *job, const double *mean, const float *e, float *y,
                         double scale)
{
    const double weight = job->metrics->mse / (job->n_valid * (double)job->out_width);
    double loss = 0.0, centred = 0.0;
    for (int64_t j = 0; j < job->out_width; j++) {
        centred += ((double)e[j] - mean[j]) * ((double)e[j] - mean[j]);
    }
    centred = sqrt(centred);
    for (int64_t j = 0; j < job->out_width; j++) {
        double off = scale * (double)y[j] - (double)e[j];
        double error = centred > 0.0 ? off * off / centred : 0.0;
        loss += weight * error / (error + 1e-6);
        y[j] =
            centred > 0.0 ? (float)(2.0 * weight / (error + 1e-6) * scale * off / centred) : 0.0f;
    }
    return loss;
}

/* host_y, what the dead decode to, becomes the loss's gradient by it; g->loss += the loss. */
static void score(ghost *g, int64_t n)
{
    const rf_step_job *job = g->job;
    const int64_t d = job->out_width;
    for (int64_t b = 0; b < n; b++) {
        const float *e = g->host_e + b * d;
        float *y = g->host_y + b * d;
        double norm = norm_of(y, d), scale = norm > 0.0 ? norm_of(e, d) / (2.0 * norm) : 0.0;
        if (!(scale > 0.0)) { /* not valid, or nothing is missing */
            for (int64_t j = 0; j < d; j++) {
                y[j] = 0.0f;
            }
        } else if (job->settings->ghost == RF_GHOST_PRISMA) {
            g->loss += prisma_row(job, g->mean, e, y, scale);
        } else {
            g->loss += original_row(job, e, y, scale);
        }
    }
}

/* ---- micro-batches
 * ------------------------------------------------------------------------------- */

/* Residuals stand times this in the last group of g. */
static double residual_scale(const rf_step_job *job)
{
    return -(double)job->g_scale / (double)rf_max_i64(1, job->groups.n);
}

/* host_e = residuals y - y_hat of rows first .. first + n - 1. */
static rf_status fetch_residuals(ghost *g, int64_t first, int64_t n)
{
    rf_status status = RF_OK;
    const rf_step_job *job = g->job;
    rf_view part = rf_step_g_part(job, rf_max_i64(1, job->groups.n) - 1, false);
    rf_view rows = rf_view_rows(part, first, n), out = rf_view_rows(g->y, 0, n);
    /* together in memory */
    RF_TRY(rf_add(job->step->s, &(rf_add_args){.r = rows, .y = out}));
    RF_TRY(rf_copy_out(job->step->s, g->host_e, g->y.data,
                       sizeof(float) * (size_t)(n * job->out_width)));
    RF_TRY(rf_stream_synchronise(job->step->s));
    for (int64_t i = 0; i < n * job->out_width; i++) {
        g->host_e[i] = (float)((double)g->host_e[i] / residual_scale(job));
    }
fail:
    return status;
}

/* f = softmax(h) of the dead, y = f W_dec. */
static rf_status forward(const ghost *g, const rf_view *seen, const rf_view *f, const rf_view *y)
{
    rf_status status = RF_OK;
    rf_stream *s = g->job->step->s;
    RF_TRY(rf_matmul(s, &(rf_matmul_args){.a = *seen,
                                          .b = g->w_enc,
                                          .c = *f,
                                          .bias = rf_view_1d(g->b_enc.data, g->n_dead),
                                          .trans_b = RF_TRANS,
                                          .alpha = 1.0f}));
    RF_TRY(rf_softmax_rows(s, f));
    RF_TRY(rf_matmul(s, &(rf_matmul_args){.a = *f, .b = g->w_dec, .c = *y, .alpha = 1.0f}));
fail:
    return status;
}

/* From d_y in the place of y: d_h = f (d_y W_dec^T), and the rows' gradients. */
static rf_status backward(const ghost *g, const rf_view *seen, const rf_view *f, const rf_view *d_y)
{
    rf_status status = RF_OK;
    rf_stream *s = g->job->step->s;
    rf_view d_h = rf_view_rows(g->d_f, 0, f->shape[0]);
    rf_matmul_args out = {
        .a = *f, .b = *d_y, .c = g->d_w_dec, .trans_a = RF_TRANS, .alpha = 1.0f, .beta = 1.0f};
    rf_matmul_args in = {
        .a = d_h, .b = *seen, .c = g->d_w_enc, .trans_a = RF_TRANS, .alpha = 1.0f, .beta = 1.0f};
    RF_TRY(rf_matmul(s, &out));
    RF_TRY(rf_matmul(
        s,
        &(rf_matmul_args){.a = *d_y, .b = g->w_dec, .c = d_h, .trans_b = RF_TRANS, .alpha = 1.0f}));
    RF_TRY(rf_gated(s, RF_ACT_NONE, f, &d_h, &d_h));
    RF_TRY(rf_matmul(s, &in));
    RF_TRY(rf_row_sum(s, &(rf_row_sum_args){.x = d_h,
                                            .out = rf_view_1d(g->d_b_enc.data, g->n_dead),
                                            .alpha = 1.0f,
                                            .beta = 1.0f}));
fail:
    return status;
}

static rf_status local_rows(ghost *g)
{
    rf_status status = RF_OK;
    const rf_step_job *job = g->job;
    rf_stream *s = job->step->s;
    for (int64_t first = 0; first < job->n_local; first += g->n) {
        int64_t n = rf_min_i64(g->n, job->n_local - first);
        size_t n_bytes = sizeof(float) * (size_t)(n * job->out_width);
        rf_view seen = rf_view_rows(rf_step_seen(job, false), first, n);
        rf_view f = rf_view_rows(g->f, 0, n), y = rf_view_rows(g->y, 0, n);
        RF_TRY(fetch_residuals(g, first, n));
        RF_TRY(forward(g, &seen, &f, &y));
        RF_TRY(rf_copy_out(s, g->host_y, y.data, n_bytes));
        RF_TRY(rf_stream_synchronise(s));
        score(g, n);
        RF_TRY(rf_copy_in(s, y.data, g->host_y, n_bytes));
        RF_TRY(backward(g, &seen, &f, &y));
        RF_TRY(rf_stream_synchronise(s)); /* the next rows take host_y */
    }
fail:
    return status;
}

/* ---- all ranks
 * ----------------------------------------------------------------------------------- */

static rf_status fetch_mean(ghost *g)
{
    rf_status status = RF_OK;
    const rf_step *step = g->job->step;
    const int64_t d = g->job->out_width;
    RF_TRY(rf_copy_out(step->s, g->host_e, step->mean, sizeof(float) * (size_t)d));
    RF_TRY(rf_stream_synchronise(step->s));
    for (int64_t j = 0; j < d; j++) {
        g->mean[j] = (double)g->host_e[j];
    }
fail:
    return status;
}

/* The mean residual of the batch. */
static rf_status residual_mean(ghost *g)
{
    rf_status status = RF_OK;
    const rf_step_job *job = g->job;
    rf_step *step = job->step;
    int64_t d = job->out_width;
    RF_TRY(rf_comm_agree(
        step->comm,
        rf_row_sum(step->s, &(rf_row_sum_args){
                                .x = rf_step_g_part(job, rf_max_i64(1, job->groups.n) - 1, false),
                                .out = rf_view_1d(step->mean, d),
                                .alpha = (float)(1.0 / (job->n_valid * residual_scale(job)))})));
    RF_TRY(rf_all_sum_f32(step->s, step->comm, step->mean, d));
    RF_TRY(rf_comm_agree(step->comm, fetch_mean(g)));
fail:
    return status;
}

/* rows *= factor; factors as many as columns stand in step->mean. */
static rf_status scale_rows(const ghost *g, const rf_view *rows)
{
    rf_step *step = g->job->step;
    return rf_add(
        step->s,
        &(rf_add_args){.r = *rows, .scale = rf_view_1d(step->mean, rows->shape[1]), .y = *rows});
}

/* The gradients of the coder += factor * those of the dead rows. */
static rf_status scatter(ghost *g, double factor)
{
    rf_status status = RF_OK;
    const rf_step_job *job = g->job;
    rf_stream *s = job->step->s;
    int64_t d = rf_max_i64(job->width, job->out_width);
    rf_view w_enc = rf_step_gradient(job, RF_CODER_W_ENC);
    rf_view w_dec = rf_step_gradient(job, RF_CODER_W_DEC);
    rf_view b_enc = as_column(rf_step_gradient(job, RF_CODER_B_ENC));
    rf_view d_pre = as_column(rf_step_d_pre_sums(job));
    for (int64_t j = 0; j < d; j++) {
        g->host_factor[j] = (float)factor;
    }
    RF_TRY(rf_copy_in(s, job->step->mean, g->host_factor, sizeof(float) * (size_t)d));
    RF_TRY(scale_rows(g, &g->d_w_enc));
    RF_TRY(scale_rows(g, &g->d_w_dec));
    RF_TRY(scale_rows(g, &g->d_b_enc));
    RF_TRY(rf_gather_rows_grad(s, &g->d_w_enc, &g->index, &w_enc));
    RF_TRY(rf_gather_rows_grad(s, &g->d_w_dec, &g->index, &w_dec));
    RF_TRY(rf_gather_rows_grad(s, &g->d_b_enc, &g->index, &b_enc));
    if (d_pre.data != b_enc.data) { /* of a gated coder */
        RF_TRY(rf_gather_rows_grad(s, &g->d_b_enc, &g->index, &d_pre));
    }
    RF_TRY(rf_stream_synchronise(s)); /* host_factor goes */
fail:
    return status;
}

rf_status rf_step_ghost(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_comm *comm = step->comm;
    rf_step_metrics *m = job->metrics;
    ghost g = {.job = job};
    if (m->n_dead == 0) {
        return RF_OK;
    }
    status = ghost_init(job, &g);
    RF_TRY(rf_comm_agree(comm, status != RF_OK ? status : gather(&g)));
    if (job->settings->ghost == RF_GHOST_PRISMA) {
        RF_TRY(residual_mean(&g));
    }
    RF_TRY(rf_comm_agree(comm, local_rows(&g)));
    RF_TRY(rf_all_sum_f32(step->s, comm, g.d_w_enc.data, g.n_sums));
    RF_TRY(rf_comm_sum_f64(comm, &g.loss, 1));
    double factor = job->settings->ghost == RF_GHOST_PRISMA ? 1.0 : m->mse / g.loss;
    if (isfinite(factor) && isfinite(g.loss)) { /* otherwise it counts as nothing */
        RF_TRY(rf_comm_agree(comm, scatter(&g, factor)));
        m->aux += factor * g.loss;
    }
    rf_step_lap(step, RF_PART_AUX);
fail:
    ghost_fini(&g);
    return status;
}
