/* Gradients from codes. Ranks exchange rows and codes of their tokens, each as soon as it is known
 * (inputs before there are codes, codes while they are decoded, g while d_value runs); from there
 * on every rank computes the same whole-batch sums in the order of the batch. */
#include "step_impl.h"

#include <math.h>

static rf_view row_floats(float *rows, int64_t n)
{
    return rf_view_1d(rows, n);
}

/* ---- reconstructions and their residuals -------------------------------------------------------
 */

/* out = decode of a list without bias, and what the skip adds. */
static rf_status decode(rf_step_job *job, const rf_codes *codes, const float *value, rf_view out,
                        bool has_groups)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_decode_args args = {.codes = codes,
                           .value = value,
                           .w_dec = rf_coder_view(job->coder, RF_CODER_W_DEC),
                           .out = out};
    if (has_groups) {
        args.groups = job->groups;
    }
    RF_TRY(rf_decode(step->s, &args));
    if (rf_coder_has(job->coder, RF_CODER_W_SKIP)) {
        for (int64_t q = 0; q < rf_max_i64(1, args.groups.n); q++) {
            rf_view part = out;
            part.data = (float *)out.data + q * job->out_width;
            part.shape[1] = job->out_width;
            RF_TRY(rf_matmul(step->s,
                             &(rf_matmul_args){.a = rf_step_seen(job, false),
                                               .b = rf_coder_view(job->coder, RF_CODER_W_SKIP),
                                               .c = part,
                                               .trans_b = RF_TRANS,
                                               .alpha = 1.0f,
                                               .beta = 1.0f}));
        }
    }
fail:
    return status;
}

/* g = scale (y_hat - y) in place of y_hat, and |y_hat - y|^2 of each row. */
static rf_status residual(rf_step_job *job, rf_view y_hat, rf_view g, float *row_loss, float scale)
{
    rf_step *step = job->step;
    return rf_residual(step->s, &(rf_residual_args){.x = rf_step_target(job, false),
                                                    .x_hat = y_hat,
                                                    .g = g,
                                                    .row_loss = row_floats(row_loss, job->n_local),
                                                    .row_valid = step->local.valid,
                                                    .scale = scale});
}

static rf_status main_residual(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_step_rows *mine = &step->local;
    rf_view g = rf_step_g(job, RF_STEP_MAIN, false);
    RF_TRY(decode(job, &mine->codes[RF_STEP_MAIN], NULL, g, true));
    if (job->groups.n == 0) {
        RF_TRY(residual(job, g, g, mine->loss, job->g_scale));
        goto fail;
    }
    rf_prefix_residual_args args = {.x = rf_step_target(job, false),
                                    .x_hat = g,
                                    .row_loss = row_floats(mine->extra, job->n_local),
                                    .row_last = row_floats(mine->loss, job->n_local),
                                    .row_valid = mine->valid,
                                    .n_groups = job->groups.n,
                                    .scale = job->g_scale};
    for (int q = 0; q < job->groups.n; q++) {
        args.weight[q] = 1.0f / (float)job->groups.n;
    }
    RF_TRY(rf_prefix_residual(step->s, &args));
fail:
    return status;
}

/* Residuals of every reconstruction. That of a gated coder's relu(pi) has a frozen decoder: it
 * reaches d_value only, and stays on this rank. */
static rf_status residuals_local(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step_rows *mine = &job->step->local;
    rf_view g = rf_step_g(job, RF_STEP_SECOND, false);
    RF_TRY(rf_exchange_begin(job->step)); /* of codes: they go meanwhile */
    RF_TRY(main_residual(job));
    if (job->second_k > 0) {
        RF_TRY(decode(job, &mine->codes[RF_STEP_SECOND], NULL, g, false));
        RF_TRY(residual(job, g, g, mine->extra, (float)job->second_weight * job->g_scale));
    } else if (job->act.act == RF_CODER_GATED) {
        RF_TRY(decode(job, &mine->codes[RF_STEP_MAIN], job->step->entries[0], g, false));
        RF_TRY(residual(job, g, g, mine->extra, job->g_scale));
    }
    rf_step_lap(job->step, RF_PART_DECODE);
fail:
    return status;
}

static bool has_extra(const rf_step_job *job)
{
    return job->second_k > 0 || job->groups.n > 0 || job->act.act == RF_CODER_GATED;
}

/* Losses first: the step waits for them, and goes on while g is on its way. */
static rf_status queue_residuals(rf_step_job *job)
{
    rf_status status = RF_OK, waits = RF_OK;
    rf_step_rows *l = &job->step->local, *g = &job->step->global;
    const size_t out = sizeof(float) * (size_t)job->out_width;
    RF_TRY(rf_exchange_queue_rows(job, l->loss, g->loss, sizeof(float)));
    if (has_extra(job)) {
        RF_TRY(rf_exchange_queue_rows(job, l->extra, g->extra, sizeof(float)));
    }
    waits = rf_exchange_end(job->step); /* the others expect g all the same */
    RF_TRY(rf_exchange_queue_rows(job, l->g[RF_STEP_MAIN], g->g[RF_STEP_MAIN],
                                  out * (size_t)rf_max_i64(1, job->groups.n)));
    if (job->second_k > 0) {
        RF_TRY(rf_exchange_queue_rows(job, l->g[RF_STEP_SECOND], g->g[RF_STEP_SECOND], out));
    }
    rf_step_lap(job->step, RF_PART_EXCHANGE);
    status = waits;
fail:
    return status;
}

rf_status rf_step_spread(rf_step_job *job, const rf_view *rows, double *out)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_view mean = rf_view_1d(step->mean, rows->shape[1]);
    RF_TRY(rf_row_sum(step->s, &(rf_row_sum_args){
                                   .x = *rows, .out = mean, .alpha = (float)(1.0 / job->n_valid)}));
    RF_TRY(rf_residual(step->s,
                       &(rf_residual_args){.x = *rows,
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
    rf_step *step = job->step;
    rf_view target = rf_step_target(job, true);
    double error, spread, extra = 0.0, n_v = job->n_valid * job->variance;
    RF_TRY(rf_step_sum(step, step->global.loss, job->n_rows, &error));
    RF_TRY(rf_step_spread(job, &target, &spread));
    if (has_extra(job)) {
        RF_TRY(rf_step_sum(step, step->global.extra, job->n_rows, &extra));
        extra = job->groups.n > 0   ? extra - error
                : job->second_k > 0 ? job->second_weight * extra
                                    : extra;
    }
    job->metrics->mse = error / n_v;
    job->metrics->extra = extra / n_v;
    job->metrics->explained_variance = 1.0 - error / spread;
    job->metrics->skipped = !isfinite(job->metrics->mse) || !isfinite(job->metrics->extra);
    rf_step_lap(step, RF_PART_DECODE);
fail:
    return status;
}

/* ---- back to values ----------------------------------------------------------------------------
 */

static rf_status d_value_local(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_codes *codes = step->local.codes;
    rf_view w_dec = rf_coder_view(job->coder, RF_CODER_W_DEC),
            g = rf_step_g(job, RF_STEP_MAIN, false);
    rf_view second = rf_step_g(job, RF_STEP_SECOND, false);
    RF_TRY(rf_d_value(step->s, &(rf_d_value_args){.codes = &codes[RF_STEP_MAIN],
                                                  .w_dec = w_dec,
                                                  .g = g,
                                                  .groups = job->groups}));
    if (job->second_k > 0) {
        RF_TRY(rf_d_value(
            step->s,
            &(rf_d_value_args){.codes = &codes[RF_STEP_SECOND], .w_dec = w_dec, .g = second}));
    } else if (job->act.act == RF_CODER_GATED) {
        RF_TRY(rf_d_value(step->s, &(rf_d_value_args){.codes = &codes[RF_STEP_MAIN],
                                                      .out = step->entries[1],
                                                      .w_dec = w_dec,
                                                      .g = second}));
    } else if (job->act.act == RF_CODER_JUMP) {
        RF_TRY(rf_d_value(
            step->s, &(rf_d_value_args){.codes = &codes[RF_STEP_WINDOW], .w_dec = w_dec, .g = g}));
    }
    rf_step_lap(step, RF_PART_D_VALUE);
fail:
    return status;
}

/* ---- by latent ---------------------------------------------------------------------------------
 */

/* Those of which the whole batch is wanted. */
static void get_lists(const rf_step_job *job, bool lists[RF_STEP_N_LISTS])
{
    lists[RF_STEP_MAIN] = true;
    lists[RF_STEP_SECOND] = job->second_k > 0;
    lists[RF_STEP_AUX] = job->aux_k > 0;
    lists[RF_STEP_WINDOW] = job->settings->ste_to_input || job->act.act == RF_CODER_GATED;
}

static rf_status index_lists(rf_step_job *job, const bool lists[RF_STEP_N_LISTS])
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        if (lists[l]) {
            step->index[l].n_latents = job->n_latents;
            RF_TRY(rf_index_by_latent(step->s, &step->global.codes[l], &step->index[l]));
        }
    }
    job->fired = &step->index[job->act.act == RF_CODER_GATED ? RF_STEP_WINDOW : RF_STEP_MAIN];
    rf_step_lap(step, RF_PART_INDEX);
fail:
    return status;
}

static void add_list(rf_step_job *job, int list, rf_by_latent_args *args)
{
    const int l = args->n_lists++;
    args->codes[l] = &job->step->global.codes[list];
    args->index[l] = &job->step->index[list];
    if (list != RF_STEP_WINDOW) {
        args->g[l] = rf_step_g(job, list, true);
    }
    if (list == RF_STEP_MAIN) {
        args->groups[l] = job->groups;
    }
}

/* Where the sums of d_pre by latent go: a gated coder's b_enc has a gradient of its own. */
rf_view rf_step_d_pre_sums(const rf_step_job *job)
{
    return job->act.act == RF_CODER_GATED ? rf_step_by_latent(job, job->step->by_latent)
                                          : rf_step_gradient(job, RF_CODER_B_ENC);
}

static rf_status zero(rf_step_job *job, const rf_view *v)
{
    return rf_fill_bytes(job->step->s, v->data, 0, sizeof(float) * (size_t)rf_view_n_elems(v));
}

/* What every rank does alike with the whole batch. */
static rf_status by_latent(rf_step_job *job, const bool lists[RF_STEP_N_LISTS])
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(index_lists(job, lists)); /* of codes, which are here; d_values may be on their way */
    RF_TRY(rf_exchange_end(step));
    rf_by_latent_args args = {.x = rf_step_seen(job, true),
                              .d_w_enc = rf_step_gradient(job, RF_CODER_W_ENC),
                              .d_b_enc = rf_step_d_pre_sums(job),
                              .d_w_dec = rf_step_gradient(job, RF_CODER_W_DEC),
                              .accumulate = job->fills_rows,
                              .touched = step->touched,
                              .squares = &step->scalars->squares};
    if (job->fills_rows) {
        RF_TRY(zero(job, &args.d_w_enc));
        RF_TRY(zero(job, &args.d_b_enc));
        RF_TRY(zero(job, &args.d_w_dec));
    }
    add_list(job, RF_STEP_MAIN, &args);
    if (job->second_k > 0) {
        add_list(job, RF_STEP_SECOND, &args);
    }
    if (job->aux_k > 0) {
        add_list(job, RF_STEP_AUX, &args);
    }
    if (job->act.act == RF_CODER_JUMP && job->settings->ste_to_input) {
        add_list(job, RF_STEP_WINDOW, &args);
    }
    RF_TRY(rf_accumulate_by_latent(step->s, &args));
    if (job->aux_k > 0 && job->act.act == RF_CODER_GATED) { /* dead gates */
        rf_view d_b_enc = rf_step_gradient(job, RF_CODER_B_ENC);
        RF_TRY(rf_sum_by_latent(step->s, &step->index[RF_STEP_AUX],
                                step->global.codes[RF_STEP_AUX].d_value, &d_b_enc, 1.0f));
    }
    job->touched = job->fills_rows ? NULL : step->touched;
    rf_step_lap(step, RF_PART_BY_LATENT);
fail:
    return status;
}

/* ---- parameters that are not by latent ---------------------------------------------------------
 */

/* d_b_dec = sum of g over tokens and reconstructions, less, where the encoder sees x - b_dec, the
 * sum over latents of d_pre * W_enc. */
static rf_status b_dec_gradient(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_view d_b_dec = rf_step_gradient(job, RF_CODER_B_DEC);
    RF_TRY(rf_row_sum(
        step->s,
        &(rf_row_sum_args){.x = rf_step_g_part(job, 0, true), .out = d_b_dec, .alpha = 1.0f}));
    if (job->second_k > 0) {
        RF_TRY(rf_row_sum(step->s, &(rf_row_sum_args){.x = rf_step_g(job, RF_STEP_SECOND, true),
                                                      .out = d_b_dec,
                                                      .alpha = 1.0f,
                                                      .beta = 1.0f}));
    }
    if (rf_coder_subtracts(job->coder)) {
        RF_TRY(
            rf_row_sum(step->s, &(rf_row_sum_args){.x = rf_coder_view(job->coder, RF_CODER_W_ENC),
                                                   .weight = rf_step_d_pre_sums(job),
                                                   .out = d_b_dec,
                                                   .alpha = -1.0f,
                                                   .beta = 1.0f}));
    }
fail:
    return status;
}

static rf_status skip_gradient(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_view d_skip = rf_step_gradient(job, RF_CODER_W_SKIP);
    rf_matmul_args args = {.a = rf_step_g_part(job, 0, true),
                           .b = rf_step_seen(job, true),
                           .c = d_skip,
                           .trans_a = RF_TRANS,
                           .alpha = 1.0f};
    RF_TRY(rf_matmul(step->s, &args));
    if (job->second_k > 0) {
        args.a = rf_step_g(job, RF_STEP_SECOND, true);
        args.beta = 1.0f;
        RF_TRY(rf_matmul(step->s, &args));
    }
fail:
    return status;
}

rf_status rf_step_squares(rf_step_job *job, double beta)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    double *squares = &step->scalars->squares;
    const bool is_gated = job->act.act == RF_CODER_GATED, takes_all = beta == 0.0;
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        rf_view g = rf_step_as_rows(rf_step_gradient(job, i));
        const bool is_added =
            i == RF_CODER_W_ENC || i == RF_CODER_W_DEC || (i == RF_CODER_B_ENC && !is_gated);
        if (g.data == NULL || i >= RF_CODER_ARCHETYPES ||
            (is_added && !takes_all)) { /* archetypes: step_update.c */
            continue;
        }
        RF_TRY(rf_sum_squares(step->s, &g, squares, beta));
        beta = 1.0;
    }
    rf_step_lap(step, RF_PART_CLIP);
fail:
    return status;
}

/* by_latent counted the sums of d_pre as if they were a gradient. */
static rf_status take_off_d_pre(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    rf_view sums = rf_step_as_rows(rf_step_d_pre_sums(job));
    double all, mine;
    RF_TRY(rf_copy_out(step->s, &all, &step->scalars->squares, sizeof all));
    RF_TRY(rf_sum_squares(step->s, &sums, &step->scalars->squares, 0.0));
    RF_TRY(rf_copy_out(step->s, &mine, &step->scalars->squares, sizeof mine));
    RF_TRY(rf_stream_synchronise(step->s));
    all = fmax(0.0, all - mine);
    RF_TRY(rf_copy_in(step->s, &step->scalars->squares, &all, sizeof all));
    RF_TRY(rf_stream_synchronise(step->s)); /* `all` goes */
fail:
    return status;
}

static rf_status finish_gradients(rf_step_job *job)
{
    rf_status status = RF_OK;
    RF_TRY(b_dec_gradient(job));
    if (rf_coder_has(job->coder, RF_CODER_W_SKIP)) {
        RF_TRY(skip_gradient(job));
    }
    rf_step_lap(job->step, RF_PART_BY_LATENT);
    if (!job->fills_rows && job->act.act == RF_CODER_GATED) {
        RF_TRY(take_off_d_pre(job));
    }
    RF_TRY(rf_step_squares(job, job->fills_rows ? 0.0 : 1.0));
fail:
    return status;
}

/* ---- together ----------------------------------------------------------------------------------
 */

/* From codes to residuals and their loss. */
static rf_status forward(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    bool lists[RF_STEP_N_LISTS];
    get_lists(job, lists);
    RF_TRY(rf_step_values(job));
    RF_TRY(rf_comm_agree(step->comm, residuals_local(job)));
    status = rf_exchange_codes(job, lists);
    RF_TRY(rf_comm_agree(step->comm, status != RF_OK ? status : rf_exchange_begin(step)));
    status = queue_residuals(job);
    RF_TRY(rf_comm_agree(step->comm, status != RF_OK ? status : measure_loss(job)));
fail:
    return status;
}

/* From residuals to codes with d_pre on every rank, and what these sum up to by latent. */
static rf_status backward(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    bool lists[RF_STEP_N_LISTS];
    RF_TRY(rf_comm_agree(step->comm, d_value_local(job)));
    RF_TRY(rf_step_sparsity(job));
    RF_TRY(rf_step_act_gradients(job));
    if (job->aux_k > 0) {
        status = rf_step_aux(job);
    }
    get_lists(job, lists);
    RF_TRY(rf_comm_agree(step->comm, status != RF_OK ? status : rf_exchange_begin(step)));
    status = rf_exchange_d_values(job, lists);
    rf_step_lap(step, RF_PART_EXCHANGE);
    RF_TRY(rf_comm_agree(step->comm, status != RF_OK ? status : by_latent(job, lists)));
fail:
    return status;
}

rf_status rf_step_sparse(rf_step_job *job)
{
    rf_status status = RF_OK;
    const rf_comm *comm = job->step->comm;
    RF_TRY(forward(job));
    if (job->metrics->skipped) {
        goto fail;
    }
    RF_TRY(backward(job));
    if (job->settings->penalty_by_norm) {
        RF_TRY(rf_step_norm_gradient(job, job->step->by_latent2));
    }
    if (job->settings->ghost != RF_GHOST_NONE) {
        RF_TRY(rf_step_ghost(job));
    }
    if (job->settings->pre_activation > 0.0) {
        RF_TRY(rf_step_pre_activation(job));
    }
    RF_TRY(rf_comm_agree(comm, finish_gradients(job)));
fail:
    return status;
}
