/* Tokens to codes and back, outside training. */
#include "coder_impl.h"

/* How codes are selected in use: a coder that shared out its batch keeps what is above the mean of
 * the least values that it kept then, of the token's class where each had a share. */
static rf_select_rule use_rule(const rf_coder *coder)
{
    rf_select_rule rule = coder->architecture->rule(&coder->settings);
    return rule == RF_SELECT_BATCH_TOPK ? RF_SELECT_ABOVE : rule;
}

int64_t rf_coder_rows_for(const rf_coder *coder, int64_t capacity)
{
    return capacity / (use_rule(coder) == RF_SELECT_TOPK ? rf_coder_k(coder) : coder->n_latents);
}

rf_status rf_coder_see(const rf_coder *coder, rf_stream *s, const rf_coder_rows *rows)
{
    rf_normalise_args args = {.norm = (rf_token_norm)coder->settings.normalise,
                              .from = rows->x,
                              .to = rows->seen,
                              .shift = rf_coder_view(coder, RF_CODER_IN_SHIFT),
                              .scale = rf_coder_view(coder, RF_CODER_IN_SCALE),
                              .segments = rf_coder_in_segments(coder),
                              .row_valid = rows->row_valid};
    if (rf_coder_norm_is_per_token(&coder->settings)) {
        args.row_shift = rows->row_shift;
        args.row_scale = rows->row_scale;
    }
    if (rf_coder_subtracts(coder)) {
        args.subtract = rf_coder_view(coder, RF_CODER_B_DEC);
    }
    return rf_normalise_tokens(s, &args);
}

/* ---- codes ------------------------------------------------------------------------------------
 */

void rf_coder_encoding_fini(const rf_coder *coder, rf_coder_encoding *e)
{
    rf_memory_free(coder->backend, RF_MEMORY_DEVICE, e->device);
    rf_memory_free(coder->backend, RF_MEMORY_DEVICE, e->theta.data);
}

rf_act_params rf_coder_use_act(const rf_coder *coder, const rf_coder_encoding *e)
{
    return (rf_act_params){.act = coder->architecture->act,
                           .threshold = e->theta,
                           .b_gate = rf_coder_view(coder, RF_CODER_B_ENC),
                           .gain = rf_coder_view(coder, RF_CODER_GAIN),
                           .b_mag = rf_coder_view(coder, RF_CODER_B_MAG)};
}

/* What values of a BatchTopK coder must be above, by class, into device memory. */
static rf_status put_floors(const rf_coder *coder, rf_stream *s, float *to)
{
    rf_status status = RF_OK;
    rf_coder_state state;
    float floors[RF_MAX_ROW_CLASSES];
    RF_TRY(rf_coder_get_state(coder, s, &state));
    for (int c = 0; c < RF_MAX_ROW_CLASSES; c++) {
        floors[c] = rf_coder_floor(&state, (rf_token_class)c);
    }
    RF_TRY(rf_copy_in(s, to, floors, sizeof floors));
    RF_TRY(rf_stream_synchronise(s)); /* `floors` go */
fail:
    return status;
}

rf_status rf_coder_encoding_init(const rf_coder *coder, rf_stream *s, rf_coder_encoding *e)
{
    rf_status status = RF_OK;
    void *theta = NULL;
    *e = (rf_coder_encoding){0};
    RF_TRY(
        rf_memory_alloc(coder->backend, RF_MEMORY_DEVICE, sizeof *e->device, (void **)&e->device));
    if (use_rule(coder) == RF_SELECT_ABOVE) {
        RF_TRY(put_floors(coder, s, e->device->floor));
    }
    if (coder->architecture->act == RF_CODER_JUMP) {
        RF_TRY(rf_memory_alloc(coder->backend, RF_MEMORY_DEVICE,
                               sizeof(float) * (size_t)coder->n_latents, &theta));
        e->theta = rf_view_1d(theta, coder->n_latents);
        RF_TRY(rf_coder_thresholds(coder, s, &e->theta));
    }
fail:
    if (status != RF_OK) {
        rf_coder_encoding_fini(coder, e);
    }
    return status;
}

/* Gates become values; a latent whose gate is open and whose magnitude is not positive is off. */
static rf_status take_magnitudes(const rf_coder *coder, rf_stream *s, const rf_coder_encoding *e,
                                 rf_codes *codes)
{
    rf_status status = RF_OK;
    rf_act_params act = rf_coder_use_act(coder, e);
    int64_t n = 0;
    RF_TRY(rf_codes_count(s, codes, &n));
    RF_TRY(rf_gated_values(s, &act, codes, codes->value, codes->d_value));
    RF_TRY(rf_copy_within(s, codes->value, codes->d_value, sizeof(float) * (size_t)n));
    RF_TRY(rf_codes_keep(s, codes, (rf_class_rows){0}, 0.0f, 0));
fail:
    return status;
}

rf_status rf_coder_encode_seen(const rf_coder *coder, rf_stream *s, const rf_coder_encoding *e,
                               const rf_coder_rows *rows, rf_codes *codes, bool *overflow)
{
    rf_status status = RF_OK;
    rf_encoding_counts counts = {0};
    codes->n_rows = rows->seen.shape[0];
    rf_encode_args args = {.x = rows->seen,
                           .w_enc = rf_coder_view(coder, RF_CODER_W_ENC),
                           .b_enc = rf_coder_view(coder, RF_CODER_B_ENC),
                           .products = (rf_products)coder->settings.products,
                           .row_valid = rows->row_valid,
                           .n_lists = 1,
                           .n_refused = &e->device->refused};
    args.lists[0] =
        (rf_select_list){.rule = use_rule(coder),
                         .k = rf_coder_k(coder),
                         .row_class = rf_coder_has_class_k(coder) ? rows->row_class : NULL,
                         .threshold = e->theta,
                         .floor = e->device->floor,
                         .codes = codes,
                         .overflow = &e->device->overflow};
    rf_coder_class_k(coder, 1.0, args.lists[0].class_k);
    RF_TRY(rf_encode(s, &args));
    RF_TRY(rf_copy_out(s, &counts, e->device, sizeof counts));
    RF_TRY(rf_stream_synchronise(s));
    if (counts.refused > 0) {
        RF_FAIL(RF_ERR_NUMERIC,
                "coder '%s': %" PRId64 " of %" PRId64 " tokens are not finite or too large",
                coder->settings.name, counts.refused, rows->seen.shape[0]);
    }
    *overflow = counts.overflow > 0;
    if (coder->architecture->act == RF_CODER_GATED && !*overflow) {
        RF_TRY(take_magnitudes(coder, s, e, codes));
    }
fail:
    return status;
}

rf_status rf_coder_encode(const rf_coder *coder, rf_stream *s, const rf_coder_rows *rows,
                          rf_codes *codes)
{
    rf_status status = RF_OK;
    rf_coder_encoding e = {0};
    bool overflow = false;
    int64_t n = rows->seen.shape[0];
    RF_REQUIRE(n <= rf_coder_rows_for(coder, codes->capacity),
               "coder '%s': codes of %" PRId64 " entries hold %" PRId64 " rows, %" PRId64
               " were given",
               coder->settings.name, codes->capacity, rf_coder_rows_for(coder, codes->capacity), n);
    RF_TRY(rf_coder_encoding_init(coder, s, &e));
    RF_TRY(rf_coder_encode_seen(coder, s, &e, rows, codes, &overflow));
    RF_BUG(!overflow, "coder '%s': codes did not fit", coder->settings.name);
fail:
    rf_coder_encoding_fini(coder, &e);
    return status;
}

/* ---- and back ---------------------------------------------------------------------------------
 */

rf_status rf_coder_finish(const rf_coder *coder, rf_stream *s, const rf_coder_rows *rows,
                          const rf_view *y_hat)
{
    rf_status status = RF_OK;
    bool is_transcoder = rf_coder_is_transcoder(coder);
    bool per_token = rf_coder_norm_is_per_token(&coder->settings);
    if (coder->settings.skip) {
        RF_TRY(rf_matmul(s, &(rf_matmul_args){.a = rows->seen,
                                              .b = rf_coder_view(coder, RF_CODER_W_SKIP),
                                              .c = *y_hat,
                                              .trans_b = RF_TRANS,
                                              .alpha = 1.0f,
                                              .beta = 1.0f}));
    }
    if (coder->settings.normalise == RF_NORM_NONE || (is_transcoder && per_token)) {
        goto fail; /* a token's own scale says nothing about its target */
    }
    rf_normalise_args args = {
        .norm = (rf_token_norm)coder->settings.normalise,
        .from = *y_hat,
        .to = *y_hat,
        .shift = rf_coder_view(coder, is_transcoder ? RF_CODER_OUT_SHIFT : RF_CODER_IN_SHIFT),
        .scale = rf_coder_view(coder, is_transcoder ? RF_CODER_OUT_SCALE : RF_CODER_IN_SCALE),
        .segments = rf_coder_out_segments(coder)};
    if (per_token) {
        args.row_shift = rows->row_shift;
        args.row_scale = rows->row_scale;
    }
    RF_TRY(rf_denormalise_tokens(s, &args));
fail:
    return status;
}

rf_status rf_coder_decode(const rf_coder *coder, rf_stream *s, const rf_coder_rows *rows,
                          const rf_codes *codes, const rf_view *y_hat)
{
    rf_status status = RF_OK;
    RF_TRY(rf_decode(s, &(rf_decode_args){.codes = codes,
                                          .w_dec = rf_coder_view(coder, RF_CODER_W_DEC),
                                          .bias = rf_coder_view(coder, RF_CODER_B_DEC),
                                          .out = *y_hat}));
    RF_TRY(rf_coder_finish(coder, s, rows, y_hat));
fail:
    return status;
}
