/* The dense path's work on the rows of this rank: micro-batches of tokens x all latents, five
 * products each (seven of a gated coder), gradients accumulated by the products; no buffer of batch
 * x latents. */
#include "step_dense.h"

/* Rows first .. first + n - 1 of this rank. */
typedef struct micro_batch {
    int64_t first, n;
    rf_view seen, target, y_hat, g, g_gate; /* [n, D] and [n, E] */
    rf_view h, z;                           /* [n, F] */
    const uint8_t *valid;
} micro_batch;

/* Of all products here, whose operands are fp32: bf16 is taken for TF32. */
static rf_products products_of(const rf_dense_pass *d)
{
    const bool is_exact = d->job->settings->products == RF_PRODUCTS_F32;
    return is_exact ? RF_PRODUCTS_F32 : RF_PRODUCTS_TF32;
}

static rf_view matrix(float *at, int64_t n, int64_t d)
{
    rf_view v = rf_view_2d(at, n, d);
    v.stride[0] = rf_step_dense_stride(d);
    return v;
}

/* Where values take the place of pre-activations there is room for twice the tokens; gradients are
 * then read and written half as often. */
static bool is_in_place(const rf_dense_pass *d)
{
    return d->job->act.act == RF_CODER_RELU;
}

static int64_t micro_batch_rows(const rf_dense_pass *d)
{
    return is_in_place(d) ? 2 * RF_STEP_MICRO_BATCH : RF_STEP_MICRO_BATCH;
}

static micro_batch micro_batch_at(const rf_dense_pass *d, int64_t first)
{
    const rf_step_job *job = d->job;
    const rf_step *step = job->step;
    int64_t n = rf_min_i64(micro_batch_rows(d), job->n_local - first);
    micro_batch mb = {.first = first,
                      .n = n,
                      .seen = rf_view_rows(rf_step_seen(job, false), first, n),
                      .target = rf_view_rows(rf_step_target(job, false), first, n),
                      .y_hat = rf_view_rows(rf_step_local(job, step->y_hat), first, n),
                      .g = rf_view_rows(rf_step_g(job, RF_STEP_MAIN, false), first, n),
                      .h = matrix(step->h, n, job->n_latents),
                      .z = matrix(is_in_place(d) ? step->h : step->z, n, job->n_latents),
                      .valid = step->local.valid + first};
    if (d->is_gated) {
        mb.g_gate = rf_view_rows(rf_step_g(job, RF_STEP_SECOND, false), first, n);
    }
    return mb;
}

static rf_view columns(rf_view v, int64_t first, int64_t n)
{
    v.data = (float *)v.data + first;
    v.shape[1] = n;
    return v;
}

/* What the derivative of a norm needs of each row. Distances to the mean are not known yet: their
 * memory is free. */
static rf_view row_norm(const rf_dense_pass *d, const micro_batch *mb)
{
    bool is_wanted = d->job->act.penalty == RF_PENALTY_NORM;
    return is_wanted ? rf_view_1d(d->job->step->local.spread + mb->first, mb->n) : (rf_view){0};
}

/* ---- forward
 * ------------------------------------------------------------------------------------- */

/* Pre-activations, values, counts and penalties. */
static rf_status encode(const rf_dense_pass *d, const micro_batch *mb)
{
    rf_status status = RF_OK;
    const rf_step_job *job = d->job;
    rf_step *step = job->step;
    rf_step_rows *mine = &step->local;
    const rf_matmul_args product = {.products = products_of(d),
                                    .a = mb->seen,
                                    .b = rf_coder_view(job->coder, RF_CODER_W_ENC),
                                    .c = mb->h,
                                    .bias = rf_coder_view(job->coder, RF_CODER_B_ENC),
                                    .trans_b = RF_TRANS,
                                    .alpha = 1.0f};
    RF_TRY(
        rf_dense_values(step->s, &job->act,
                        &(rf_dense_values_args){
                            .product = &product,
                            .h = mb->h,
                            .z = mb->z,
                            .n_active = rf_view_nd(step->n_active, RF_I64, 1, &job->n_latents),
                            .row_active = rf_view_nd(mine->active + mb->first, RF_I64, 1, &mb->n),
                            .row_penalty = rf_view_1d(mine->sparsity + mb->first, mb->n),
                            .row_norm = row_norm(d, mb),
                            .row_valid = mb->valid}));
    rf_step_lap(step, RF_PART_PRODUCT);
fail:
    return status;
}

/* g = g_scale (y_hat - y) with y_hat = z W_dec + W_skip seen; b_dec is missing on both sides. */
static rf_status reconstruct(const rf_dense_pass *d, const micro_batch *mb, const rf_view *g,
                             float *row_loss)
{
    rf_status status = RF_OK;
    const rf_step_job *job = d->job;
    rf_stream *s = job->step->s;
    rf_view w_skip = rf_coder_view(job->coder, RF_CODER_W_SKIP);
    RF_TRY(rf_matmul(s, &(rf_matmul_args){.products = products_of(d),
                                          .a = mb->z,
                                          .b = rf_coder_view(job->coder, RF_CODER_W_DEC),
                                          .c = mb->y_hat,
                                          .alpha = 1.0f}));
    if (w_skip.data != NULL) {
        RF_TRY(rf_matmul(s, &(rf_matmul_args){.products = products_of(d),
                                              .a = mb->seen,
                                              .b = w_skip,
                                              .c = mb->y_hat,
                                              .trans_b = RF_TRANS,
                                              .alpha = 1.0f,
                                              .beta = 1.0f}));
    }
    RF_TRY(rf_residual(s, &(rf_residual_args){.x = mb->target,
                                              .x_hat = mb->y_hat,
                                              .g = *g,
                                              .row_loss = rf_view_1d(row_loss + mb->first, mb->n),
                                              .row_valid = mb->valid,
                                              .scale = job->g_scale}));
    rf_step_lap(job->step, RF_PART_DECODE);
fail:
    return status;
}

/* ---- backward
 * ------------------------------------------------------------------------------------ */

/* c += a^T b; the first micro-batch finds nothing in c. */
static rf_status add_product(const rf_dense_pass *d, const micro_batch *mb, const rf_view *a,
                             const rf_view *b, const rf_view *c)
{
    return rf_matmul(d->job->step->s, &(rf_matmul_args){.products = products_of(d),
                                                        .a = *a,
                                                        .b = *b,
                                                        .c = *c,
                                                        .trans_a = RF_TRANS,
                                                        .alpha = 1.0f,
                                                        .beta = mb->first > 0 ? 1.0f : 0.0f});
}

/* The map from values, of latents i .. i + n - 1. */
static rf_status backward_w_dec(const rf_dense_pass *d, const micro_batch *mb, int64_t i, int64_t n)
{
    rf_view z = columns(mb->z, i, n);
    rf_view d_w_dec = rf_view_rows(rf_step_gradient(d->job, RF_CODER_W_DEC), i, n);
    return add_product(d, mb, &z, &mb->g, &d_w_dec);
}

static rf_status backward_skip(const rf_dense_pass *d, const micro_batch *mb)
{
    rf_view d_w_skip = rf_step_gradient(d->job, RF_CODER_W_SKIP);
    return d_w_skip.data == NULL ? RF_OK : add_product(d, mb, &mb->g, &mb->seen, &d_w_skip);
}

/* The gate's reconstruction, from relu(h), which takes the place of the values. The decoder is
 * frozen in it. */
static rf_status gate_forward(const rf_dense_pass *d, const micro_batch *mb)
{
    rf_status status = RF_OK;
    rf_step *step = d->job->step;
    RF_TRY(rf_dense_relu(step->s, &mb->h, &mb->z, mb->valid));
    RF_TRY(reconstruct(d, mb, &mb->g_gate, step->local.extra));
fail:
    return status;
}

/* Latents i .. i + n - 1 of a micro-batch. */
typedef struct tile {
    int64_t i, n;
    rf_view h, d_z, d_gate;
} tile;

static tile tile_at(const rf_dense_pass *d, const micro_batch *mb, int64_t i)
{
    const rf_step *step = d->job->step;
    int64_t n = rf_min_i64(RF_STEP_DENSE_TILE, d->job->n_latents - i);
    tile t = {.i = i, .n = n, .h = columns(mb->h, i, n), .d_z = matrix(step->d_z, mb->n, n)};
    if (d->is_gated) {
        t.d_gate = matrix(step->d_gate, mb->n, n);
    }
    return t;
}

/* sums[i] += sum over rows of z dL/dz through the penalty alone: over w, what the norms that weigh
 * it are owed. */
static rf_status add_penalty_sums(const rf_dense_pass *d, const micro_batch *mb, const tile *t)
{
    rf_status status = RF_OK;
    const rf_step_job *job = d->job;
    rf_stream *s = job->step->s;
    size_t n_bytes = sizeof(float) * (size_t)(mb->n * rf_step_dense_stride(t->n));
    rf_view z = columns(mb->z, t->i, t->n);
    rf_view sums = rf_view_rows(rf_step_by_latent(job, job->step->by_latent2), t->i, t->n);
    RF_TRY(rf_fill_bytes(s, t->d_z.data, 0, n_bytes));
    if (d->is_gated) {
        RF_TRY(rf_fill_bytes(s, t->d_gate.data, 0, n_bytes));
    }
    RF_TRY(rf_dense_grad(s, &job->act,
                         &(rf_dense_grad_args){.h = t->h,
                                               .d_z = t->d_z,
                                               .d_gate = t->d_gate,
                                               .row_norm = row_norm(d, mb),
                                               .row_valid = mb->valid,
                                               .first_latent = t->i,
                                               .scale = d->scale,
                                               .eps = 1.0f}));
    RF_TRY(rf_column_dot(s, &z, &t->d_z, &sums));
fail:
    return status;
}

/* d_z = g W_dec^T. */
static rf_matmul_args d_values(const rf_dense_pass *d, const tile *t, const rf_view *g,
                               const rf_view *d_z)
{
    return (rf_matmul_args){
        .products = products_of(d),
        .a = *g,
        .b = rf_view_rows(rf_coder_view(d->job->coder, RF_CODER_W_DEC), t->i, t->n),
        .c = *d_z,
        .trans_b = RF_TRANS,
        .alpha = 1.0f};
}

/* d_z becomes dL/dh; sums of it (b_enc's gradient, but for a gate, whose bias has its own), and
 * what the act's own parameters are owed, are added. */
static rf_status backward_h(const rf_dense_pass *d, const micro_batch *mb, const tile *t)
{
    rf_status status = RF_OK;
    const rf_step_job *job = d->job;
    rf_stream *s = job->step->s;
    const rf_matmul_args product = d_values(d, t, &mb->g, &t->d_z);
    if (d->is_gated) {
        const rf_matmul_args of_gate = d_values(d, t, &mb->g_gate, &t->d_gate);
        RF_TRY(rf_matmul(s, &of_gate));
    }
    RF_TRY(rf_dense_grad(
        s, &job->act,
        &(rf_dense_grad_args){.product = &product,
                              .h = t->h,
                              .d_z = t->d_z,
                              .d_gate = t->d_gate,
                              .row_norm = row_norm(d, mb),
                              .d_h = rf_step_d_pre_sums(job),
                              .d_threshold = rf_step_gradient(job, RF_CODER_LOG_THRESHOLD),
                              .d_b_gate = d->is_gated ? rf_step_gradient(job, RF_CODER_B_ENC)
                                                      : (rf_view){0},
                              .d_gain = rf_step_gradient(job, RF_CODER_GAIN),
                              .d_b_mag = rf_step_gradient(job, RF_CODER_B_MAG),
                              .row_valid = mb->valid,
                              .first_latent = t->i,
                              .scale = d->scale,
                              .eps = d->bandwidth,
                              .l0 = d->l0,
                              .ste_to_input = job->settings->ste_to_input}));
    rf_step_lap(job->step, RF_PART_D_VALUE);
fail:
    return status;
}

static rf_status backward_tile(const rf_dense_pass *d, const micro_batch *mb, int64_t i)
{
    rf_status status = RF_OK;
    const rf_step_job *job = d->job;
    tile t = tile_at(d, mb, i);
    rf_view d_w_enc = rf_view_rows(rf_step_gradient(job, RF_CODER_W_ENC), i, t.n);
    if (d->is_by_norm) {
        RF_TRY(add_penalty_sums(d, mb, &t));
    }
    if (!d->is_gated) {
        RF_TRY(backward_w_dec(d, mb, i, t.n));
    }
    rf_step_lap(job->step, RF_PART_BY_LATENT);
    RF_TRY(backward_h(d, mb, &t));
    RF_TRY(add_product(d, mb, &t.d_z, &mb->seen, &d_w_enc));
    rf_step_lap(job->step, RF_PART_BY_LATENT);
fail:
    return status;
}

static rf_status forward_and_backward(const rf_dense_pass *d, const micro_batch *mb)
{
    rf_status status = RF_OK;
    const rf_step_job *job = d->job;
    RF_TRY(encode(d, mb));
    RF_TRY(reconstruct(d, mb, &mb->g, job->step->local.loss));
    RF_TRY(backward_skip(d, mb));
    if (d->is_gated) {
        RF_TRY(backward_w_dec(d, mb, 0, job->n_latents));
        RF_TRY(gate_forward(d, mb));
    }
    for (int64_t i = 0; i < job->n_latents; i += RF_STEP_DENSE_TILE) {
        RF_TRY(backward_tile(d, mb, i));
    }
fail:
    return status;
}

/* ---- the rows of this rank
 * ----------------------------------------------------------------------- */

/* What is added to; matrices only where no product comes to fill them. */
static rf_status clear(const rf_dense_pass *d)
{
    rf_status status = RF_OK;
    const rf_step_job *job = d->job;
    rf_step *step = job->step;
    size_t n = (size_t)job->n_latents;
    RF_TRY(rf_fill_bytes(step->s, step->n_active, 0, sizeof *step->n_active * n));
    RF_TRY(rf_fill_bytes(step->s, step->by_latent, 0, sizeof(float) * n));
    RF_TRY(rf_fill_bytes(step->s, step->by_latent2, 0, sizeof(float) * n));
    for (int i = 0; i < RF_CODER_ARCHETYPES; i++) {
        rf_view g = rf_step_gradient(job, i);
        if (g.data != NULL && (g.n_dims == 1 || job->n_local == 0)) {
            RF_TRY(rf_fill_bytes(step->s, g.data, 0, sizeof(float) * (size_t)rf_view_n_elems(&g)));
        }
    }
fail:
    return status;
}

rf_status rf_dense_gradients(const rf_dense_pass *d)
{
    rf_status status = RF_OK;
    const rf_step_job *job = d->job;
    rf_step *step = job->step;
    RF_TRY(clear(d));
    for (int64_t b = 0; b < job->n_local; b += micro_batch_rows(d)) {
        micro_batch mb = micro_batch_at(d, b);
        RF_TRY(forward_and_backward(d, &mb));
    }
    RF_TRY(rf_row_sum(step->s, &(rf_row_sum_args){.x = rf_step_g(job, RF_STEP_MAIN, false),
                                                  .out = rf_step_gradient(job, RF_CODER_B_DEC),
                                                  .alpha = 1.0f}));
    RF_TRY(rf_row_sum(step->s, &(rf_row_sum_args){.x = rf_step_target(job, false),
                                                  .out = rf_view_1d(step->mean, job->out_width),
                                                  .alpha = (float)(1.0 / job->n_valid)}));
    rf_step_lap(step, RF_PART_OTHER);
fail:
    return status;
}

rf_status rf_dense_survey(const rf_dense_pass *d)
{
    rf_status status = RF_OK;
    RF_TRY(clear(d));
    for (int64_t b = 0; b < d->job->n_local; b += micro_batch_rows(d)) {
        micro_batch mb = micro_batch_at(d, b);
        RF_TRY(encode(d, &mb));
    }
fail:
    return status;
}
