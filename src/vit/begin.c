/* The beginning of a forward pass: pictures, clips or token ids to the residual stream. */
#include "vit_impl.h"

/* ---- the input ------------------------------------------------------------------------------ */

static rf_status check_ids(const rf_vit_config *c, const rf_view *ids)
{
    rf_status status = RF_OK;
    RF_REQUIRE(ids->n_dims == 2 && ids->dtype == RF_I64 && rf_view_is_contiguous(ids),
               "token ids must be contiguous int64 [B, T]");
    RF_REQUIRE(ids->shape[1] == c->n_tokens,
               "texts of %" PRId64 " tokens, expected %" PRId64 " (the context, padded)",
               ids->shape[1], c->n_tokens);
fail:
    return status;
}

static rf_status check_clips(const rf_vit_config *c, const rf_view *clips)
{
    rf_status status = RF_OK;
    RF_REQUIRE(clips->n_dims == 5 && clips->dtype == RF_F32 && rf_view_is_contiguous(clips),
               "clips must be contiguous fp32 [B, frames, C, H, W]");
    RF_REQUIRE(clips->shape[1] == c->n_frames && clips->shape[2] == c->n_channels &&
                   clips->shape[3] == c->image_height && clips->shape[4] == c->image_width,
               "clips are [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
               "], expected [B, %" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "]",
               clips->shape[0], clips->shape[1], clips->shape[2], clips->shape[3], clips->shape[4],
               c->n_frames, c->n_channels, c->image_height, c->image_width);
fail:
    return status;
}

static rf_status check_images(const rf_vit_config *c, const rf_view *images)
{
    rf_status status = RF_OK;
    RF_REQUIRE(images->n_dims == 4 && images->dtype == RF_F32 && rf_view_is_contiguous(images),
               "images must be contiguous fp32 [B, C, H, W]");
    RF_REQUIRE(images->shape[1] == c->n_channels && images->shape[2] == c->image_height &&
                   images->shape[3] == c->image_width,
               "images are [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
               "], expected [B, %" PRId64 ", %" PRId64 ", %" PRId64 "]",
               images->shape[0], images->shape[1], images->shape[2], images->shape[3],
               c->n_channels, c->image_height, c->image_width);
fail:
    return status;
}

rf_status rf_pass_check_input(const rf_vit_config *config, const rf_view *input)
{
    switch (config->input) {
    case RF_VIT_TEXT:
        return check_ids(config, input);
    case RF_VIT_CLIPS:
        return check_clips(config, input);
    case RF_VIT_PICTURES:
        break;
    }
    return check_images(config, input);
}

/* The token that RF_POOL_END reads: the first eos_id (the first token, where there is none), or
 * the first of those with the largest id. */
static int64_t end_of_text(const rf_vit_config *c, const int64_t *ids)
{
    int64_t best = 0;
    for (int64_t i = 0; i < c->n_tokens; i++) {
        if (c->eos_id >= 0 && ids[i] == c->eos_id) {
            return i;
        }
        if (c->eos_id < 0 && ids[i] > ids[best]) {
            best = i;
        }
    }
    return best;
}

rf_status rf_pass_read_ids(rf_pass *p, const rf_view *ids)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    int64_t *host = p->vit->ws.ids;
    const int64_t n = p->n_images * c->n_tokens;
    RF_TRY(rf_copy_out(p->s, host, ids->data, (size_t)n * sizeof *host));
    RF_TRY(rf_stream_synchronise(p->s));
    for (int64_t i = 0; i < n; i++) {
        RF_REQUIRE(host[i] >= 0 && host[i] < c->n_vocab,
                   "token %" PRId64 " of text %" PRId64 " is %" PRId64 ", expected 0 to %" PRId64,
                   i % c->n_tokens, i / c->n_tokens, host[i], c->n_vocab - 1);
    }
    if (c->pool == RF_POOL_END) {
        for (int64_t b = 0; b < p->n_images; b++) { /* over ids that were read before */
            host[b] = b * c->n_tokens + end_of_text(c, host + b * c->n_tokens);
        }
        RF_TRY(rf_copy_in(p->s, p->vit->ws.buf[RF_BUF_END_ROW], host,
                          (size_t)p->n_images * sizeof *host));
        p->knows_end = true;
    }
fail:
    return status;
}

/* ---- embedding ------------------------------------------------------------------------------ */

static rf_status embed(rf_pass *p, const rf_view *input, const rf_view *out)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const rf_vit_weights *w = &p->vit->weights;
    if (c->input == RF_VIT_TEXT) {
        const rf_view ids =
            rf_view_nd(input->data, RF_I64, 1, (int64_t[]){p->n_images * c->n_tokens});
        RF_TRY(rf_gather_rows(p->s, &w->token, &ids, out));
    } else {
        const rf_patch_rows_args args = {
            .images = *input,
            .rows = rf_view_2d(p->vit->ws.buf[RF_BUF_MLP], out->shape[0],
                               c->n_channels * c->tubelet * c->patch_size * c->patch_size),
            .patch = c->patch_size,
            .tubelet = c->tubelet};
        RF_TRY(rf_patch_rows(p->s, &args));
        RF_TRY(rf_pass_linear(p, &w->patch, &args.rows, out, RF_ACT_NONE));
    }
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_EMBED, -1, out->data));
fail:
    return status;
}

/* Tokens without positions, and then a hooked copy of the positions for each picture. */
static rf_status add_hooked_positions(rf_pass *p, const rf_embed_tokens_args *tokens)
{
    rf_status status = RF_OK;
    const rf_vit_weights *w = &p->vit->weights;
    const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
    const rf_view position = rf_pass_tokens(p, RF_BUF_NORMED);
    const int64_t n_tokens = p->vit->config.n_tokens;
    rf_embed_tokens_args bare = *tokens;
    const rf_add_args add = {.x = resid, .r = position, .y = resid};
    for (int64_t i = 0; i < p->n_images; i++) {
        const rf_view rows = rf_view_rows(position, i * n_tokens, n_tokens);
        RF_TRY(rf_copy_within(p->s, rows.data, w->position.data,
                              (size_t)rf_view_n_elems(&rows) * sizeof(float)));
    }
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_POS_EMBED, -1, position.data));
    bare.prefix = w->prefix_token;
    bare.position.data = NULL;
    RF_TRY(rf_embed_tokens(p->s, &bare));
    RF_TRY(rf_add(p->s, &add));
fail:
    return status;
}

rf_status rf_pass_begin(rf_pass *p, const rf_view *input)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const rf_vit_weights *w = &p->vit->weights;
    const int64_t n_embedded = c->n_tokens - c->n_prefix;
    const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
    rf_embed_tokens_args tokens = {
        .patches = rf_view_2d(p->vit->ws.buf[RF_BUF_BRANCH], p->n_images * n_embedded, c->d_model),
        .prefix = w->prefix_token,
        .out =
            rf_view_nd(resid.data, RF_F32, 3, (int64_t[]){p->n_images, c->n_tokens, c->d_model})};
    RF_PASS_STEP(p, embed(p, input, &tokens.patches));
    if (c->has_position) {
        tokens.prefix = w->prefix;
        tokens.position = rf_view_rows(w->position, c->n_prefix, n_embedded);
    }
    if (rf_pass_has_hook(p, RF_SITE_POS_EMBED, -1)) {
        RF_PASS_STEP(p, add_hooked_positions(p, &tokens));
    } else {
        RF_TRY(rf_embed_tokens(p->s, &tokens));
    }
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_FULL_EMBED, -1, resid.data));
    if (c->has_ln_pre) {
        RF_PASS_STEP(p,
                     rf_pass_layer_norm(p, &w->ln_pre, &resid, &resid, RF_SITE_LN_PRE_SCALE, -1));
        RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_LN_PRE, -1, resid.data));
    }
fail:
    return status;
}
