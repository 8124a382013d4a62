/* Gradients of the beginning: from the residual stream to prefix tokens, positions, patches or
 * token embeddings, and the input. */
#include "vit_impl.h"

/* By the positions: they are added to every picture's tokens. */
static rf_status position_grad(rf_backward *b, const rf_view *d_tokens)
{
    rf_status status = RF_OK;
    const rf_view d_position = rf_backward_weight(b, &b->vit->weights.position);
    rf_embed_tokens_args sum = {.out = *d_tokens, .position = d_position};
    if (rf_backward_has_hook(b, RF_SITE_POS_EMBED, -1)) {
        const rf_view rows = rf_backward_tokens(b, RF_GRAD_RESID);
        const rf_view copy = rf_backward_tokens(b, RF_GRAD_NORMED);
        RF_TRY(rf_add(b->s, &(rf_add_args){.r = rows, .y = copy}));
        RF_TRY(rf_backward_fire(b, RF_SITE_POS_EMBED, -1, copy.data));
        sum.out.data = copy.data;
    }
    if (d_position.data != NULL) {
        RF_TRY(rf_embed_tokens_grad(b->s, &sum));
    }
fail:
    return status;
}

static rf_status patch_grad(rf_backward *b, const rf_view *d_embed)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const rf_vit_weights *w = &b->vit->weights;
    const rf_view rows =
        rf_view_2d(b->vit->backward.buf[RF_GRAD_MLP], d_embed->shape[0], w->patch.weight.shape[0]);
    const rf_view d_input = b->args->d_input;
    rf_patch_rows_args patches = {.images = b->args->input,
                                  .rows = rows,
                                  .patch = c->patch_size,
                                  .tubelet = c->input == RF_VIT_CLIPS ? c->tubelet : 0};
    const rf_linear_grad_args by_weight = {
        .map = &w->patch, .x = rows, .d_y = *d_embed, .alpha = 1.0f};
    if (b->args->d_weights != NULL) {
        RF_TRY(rf_patch_rows(b->s, &patches));
        RF_TRY(rf_backward_linear(b, &by_weight));
    }
    if (d_input.data != NULL) {
        const rf_matmul_args by_rows = {
            .a = *d_embed, .b = w->patch.weight, .c = rows, .trans_b = RF_TRANS, .alpha = 1.0f};
        RF_TRY(rf_matmul(b->s, &by_rows));
        patches.images = d_input;
        RF_TRY(rf_patch_rows_grad(b->s, &patches));
    }
fail:
    return status;
}

static rf_status token_grad(rf_backward *b, const rf_view *d_embed)
{
    rf_status status = RF_OK;
    const rf_view d_table = rf_backward_weight(b, &b->vit->weights.token);
    rf_view ids = b->args->input;
    if (d_table.data != NULL) {
        ids.n_dims = 1;
        ids.shape[0] = d_embed->shape[0];
        ids.stride[0] = 1;
        RF_TRY(rf_gather_rows_grad(b->s, d_embed, &ids, &d_table));
    }
fail:
    return status;
}

rf_status rf_backward_begin(rf_backward *b)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const rf_vit_weights *w = &b->vit->weights;
    const rf_view resid = rf_backward_tokens(b, RF_GRAD_RESID);
    const rf_view d_embed = rf_view_2d(b->vit->backward.buf[RF_GRAD_BRANCH],
                                       b->n_images * (c->n_tokens - c->n_prefix), c->d_model);
    rf_embed_tokens_args tokens = {
        .patches = d_embed,
        .prefix = rf_backward_weight(b, &w->prefix_token),
        .out =
            rf_view_nd(resid.data, RF_F32, 3, (int64_t[]){b->n_images, c->n_tokens, c->d_model})};
    rf_view x;
    if (c->has_ln_pre) {
        RF_TRY(rf_backward_fire(b, RF_SITE_LN_PRE, -1, resid.data));
        RF_TRY(rf_backward_value(b, RF_SITE_FULL_EMBED, -1, &x));
        RF_TRY(rf_backward_norm(b, &w->ln_pre, &x, &resid, &resid, RF_SITE_LN_PRE_SCALE, -1));
    }
    RF_TRY(rf_backward_fire(b, RF_SITE_FULL_EMBED, -1, resid.data));
    if (c->has_position) {
        RF_TRY(position_grad(b, &tokens.out));
    }
    RF_TRY(rf_embed_tokens_grad(b->s, &tokens));
    RF_TRY(rf_backward_fire(b, RF_SITE_EMBED, -1, d_embed.data));
    RF_TRY(c->input == RF_VIT_TEXT ? token_grad(b, &d_embed) : patch_grad(b, &d_embed));
fail:
    return status;
}
