/* Gradients of the end: heads, projection, pool and final norm. */
#include "vit_impl.h"

/* What the end works with: values that it read and gradients by them. */
typedef struct ending {
    rf_view tokens, d_tokens; /* [B * T, d]: what the pool reads */
    rf_view pooled, d_pooled; /* [B, d_pool]: hook_pooled */
    rf_view d_embedding, d_logits;
} ending;

/* Token `t` of each picture as rows [B, d]. */
static rf_view token_rows(const rf_backward *b, const rf_view *tokens, int64_t t)
{
    const rf_vit_config *c = &b->vit->config;
    rf_view v = rf_view_2d((float *)tokens->data + t * c->d_model, b->n_images, tokens->shape[1]);
    v.stride[0] = c->n_tokens * c->d_model;
    return v;
}

static rf_view by_picture(const rf_backward *b, const rf_view *tokens)
{
    const rf_vit_config *c = &b->vit->config;
    return rf_view_nd(tokens->data, RF_F32, 3, (int64_t[]){b->n_images, c->n_tokens, c->d_model});
}

static rf_status fill_zero(rf_backward *b, const rf_view *v)
{
    return rf_fill_bytes(b->s, v->data, 0, (size_t)rf_view_n_elems(v) * sizeof(float));
}

/* dst = seed, or zero where none is given. */
static rf_status begin_with(rf_backward *b, const rf_view *seed, const rf_view *dst)
{
    if (seed->data == NULL) {
        return fill_zero(b, dst);
    }
    return rf_add(b->s, &(rf_add_args){.r = *seed, .y = *dst});
}

static rf_status add_to(rf_backward *b, const rf_view *dst, const rf_view *what)
{
    return rf_add(b->s, &(rf_add_args){.x = *dst, .r = *what, .y = *dst});
}

/* ---- heads ---------------------------------------------------------------------------------- */

/* [pooled, mean of the patch tokens] made again, and back through both. */
static rf_status joined_head_grad(rf_backward *b, const ending *e)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const int64_t n = b->n_images, left = c->d_pool, width = c->d_pool + c->d_model;
    float *buf = b->vit->backward.buf[RF_GRAD_HEAD_IN];
    rf_view joined = rf_view_2d(buf, n, width), d_joined = rf_view_2d(buf + n * width, n, width);
    rf_view part[2] = {joined, joined}, d_part[2] = {d_joined, d_joined};
    const rf_view tokens = by_picture(b, &e->tokens), d_tokens = by_picture(b, &e->d_tokens);
    for (int i = 0; i < 2; i++) {
        part[i].data = (float *)joined.data + i * left;
        d_part[i].data = (float *)d_joined.data + i * left;
        part[i].shape[1] = d_part[i].shape[1] = i == 0 ? left : c->d_model;
    }
    RF_TRY(rf_add(b->s, &(rf_add_args){.r = e->pooled, .y = part[0]}));
    RF_TRY(rf_mean_tokens(b->s, &tokens, c->n_prefix, c->n_patches, &part[1]));
    const rf_linear_grad_args args = {.map = &b->vit->weights.head,
                                      .x = joined,
                                      .d_y = e->d_logits,
                                      .d_x = d_joined,
                                      .alpha = 1.0f};
    RF_TRY(rf_backward_linear(b, &args));
    RF_TRY(add_to(b, &e->d_pooled, &d_part[0]));
    RF_TRY(rf_mean_tokens_grad(b->s, &d_part[1], c->n_prefix, c->n_patches, &d_tokens));
fail:
    return status;
}

static rf_status head_grad(rf_backward *b, const ending *e)
{
    rf_status status = RF_OK;
    const rf_vit_weights *w = &b->vit->weights;
    const rf_head_input reads = b->vit->config.head_input;
    rf_linear_grad_args args = {.map = &w->head,
                                .x = e->pooled,
                                .d_y = e->d_logits,
                                .d_x = e->d_pooled,
                                .alpha = reads == RF_HEAD_CLS_AND_DISTILLED ? 0.5f : 1.0f,
                                .beta = 1.0f};
    if (reads == RF_HEAD_POOLED_AND_PATCH_MEAN) {
        return joined_head_grad(b, e);
    }
    RF_TRY(rf_backward_linear(b, &args));
    if (reads == RF_HEAD_CLS_AND_DISTILLED) {
        args.map = &w->head_distilled;
        args.x = token_rows(b, &e->tokens, 1);
        args.d_x = token_rows(b, &e->d_tokens, 1);
        RF_TRY(rf_backward_linear(b, &args));
    }
fail:
    return status;
}

/* From the seeds to the gradients by hook_pooled and by the tokens that a head reads. */
static rf_status outputs_grad(rf_backward *b, const ending *e)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const bool only_classifies = c->n_classes > 0 && !c->has_projection;
    const rf_linear_grad_args projection = {.map = &b->vit->weights.projection,
                                            .x = e->pooled,
                                            .d_y = e->d_embedding,
                                            .d_x = e->d_pooled,
                                            .alpha = 1.0f};
    RF_TRY(begin_with(b, &b->args->d_embedding, &e->d_embedding));
    if (c->n_classes > 0) {
        RF_TRY(begin_with(b, &b->args->d_logits, &e->d_logits));
    }
    RF_TRY(rf_backward_fire(b, RF_SITE_POST_HEAD, c->n_layers,
                            only_classifies ? e->d_logits.data : e->d_embedding.data));
    if (c->has_projection) {
        RF_TRY(rf_backward_linear(b, &projection));
    } else {
        RF_TRY(rf_add(b->s, &(rf_add_args){.r = e->d_embedding, .y = e->d_pooled}));
    }
    RF_TRY(fill_zero(b, &e->d_tokens));
    if (c->n_classes > 0) {
        RF_TRY(head_grad(b, e));
    }
    RF_TRY(rf_backward_fire(b, RF_SITE_POOLED, c->n_layers, e->d_pooled.data));
fail:
    return status;
}

/* Where the texts end, as rows of all tokens. */
static rf_view end_index(const rf_backward *b)
{
    return rf_view_nd(b->vit->ws.buf[RF_BUF_END_ROW], RF_I64, 1, &b->n_images);
}

/* ---- pool and final norm -------------------------------------------------------------------- */

/* First token and number of tokens of a mean. */
static void mean_range(const rf_vit_config *c, int64_t *first, int64_t *n)
{
    *first = c->pool == RF_POOL_PATCH_MEAN ? c->n_prefix : 0;
    *n = c->n_tokens - *first;
}

static rf_status pool_grad(rf_backward *b, const ending *e)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const rf_view d_tokens = by_picture(b, &e->d_tokens);
    rf_view rows, index;
    int64_t first = 0, n = 0;
    switch (c->pool) {
    case RF_POOL_CLS:
    case RF_POOL_LAST:
        rows = token_rows(b, &e->d_tokens, c->pool == RF_POOL_CLS ? 0 : c->n_tokens - 1);
        RF_TRY(add_to(b, &rows, &e->d_pooled));
        break;
    case RF_POOL_PATCH_MEAN:
    case RF_POOL_TOKEN_MEAN:
        mean_range(c, &first, &n);
        RF_TRY(rf_mean_tokens_grad(b->s, &e->d_pooled, first, n, &d_tokens));
        break;
    case RF_POOL_END:
        index = end_index(b);
        RF_TRY(rf_gather_rows_grad(b->s, &e->d_pooled, &index, &e->d_tokens));
        break;
    case RF_POOL_ATTENTION:
        RF_TRY(rf_backward_pool(b, &e->tokens, &e->d_pooled, &e->d_tokens));
        break;
    }
fail:
    return status;
}

/* hook_pooled of a model whose final norm stands behind the pool, in front of that norm. */
static rf_status make_pooled(rf_backward *b, const ending *e, rf_view *out)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const rf_view tokens = by_picture(b, &e->tokens);
    rf_view index;
    int64_t first = 0, n = 0;
    *out = rf_view_2d((float *)e->d_pooled.data + b->n_images * c->d_pool, b->n_images, c->d_pool);
    switch (c->pool) {
    case RF_POOL_CLS:
    case RF_POOL_LAST:
        *out = token_rows(b, &e->tokens, c->pool == RF_POOL_CLS ? 0 : c->n_tokens - 1);
        break;
    case RF_POOL_PATCH_MEAN:
    case RF_POOL_TOKEN_MEAN:
        mean_range(c, &first, &n);
        RF_TRY(rf_mean_tokens(b->s, &tokens, first, n, out));
        break;
    case RF_POOL_END:
        index = end_index(b);
        RF_TRY(rf_gather_rows(b->s, &e->tokens, &index, out));
        break;
    case RF_POOL_ATTENTION:
        RF_TRY(rf_backward_pool_value(b, &e->tokens, out));
        break;
    }
fail:
    return status;
}

static rf_status norm_behind_pool(rf_backward *b, const ending *e)
{
    rf_status status = RF_OK;
    const int64_t behind = b->vit->config.n_layers;
    rf_view x;
    RF_TRY(rf_backward_fire(b, RF_SITE_LN_FINAL, behind, e->d_pooled.data));
    RF_TRY(make_pooled(b, e, &x));
    RF_TRY(rf_backward_norm(b, &b->vit->weights.ln_final, &x, &e->d_pooled, &e->d_pooled,
                            RF_SITE_LN_FINAL_SCALE, behind));
fail:
    return status;
}

static rf_status norm_of_tokens(rf_backward *b, const ending *e)
{
    rf_status status = RF_OK;
    const int64_t behind = b->vit->config.n_layers;
    rf_view x;
    RF_TRY(rf_backward_fire(b, RF_SITE_LN_FINAL, behind, e->d_tokens.data));
    RF_TRY(rf_backward_value(b, RF_SITE_RESID_POST, behind - 1, &x));
    RF_TRY(rf_backward_norm(b, &b->vit->weights.ln_final, &x, &e->d_tokens, &e->d_tokens,
                            RF_SITE_LN_FINAL_SCALE, behind));
fail:
    return status;
}

rf_status rf_backward_end(rf_backward *b)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    float *const *buf = b->vit->backward.buf;
    const bool norms_tokens = c->has_ln_final && !c->norm_is_behind_pool;
    ending e = {.d_tokens = rf_backward_tokens(b, RF_GRAD_RESID),
                .d_pooled = rf_view_2d(buf[RF_GRAD_POOLED], b->n_images, c->d_pool),
                .d_embedding = rf_view_2d(buf[RF_GRAD_EMBEDDING], b->n_images, c->d_out),
                .d_logits = rf_view_2d(buf[RF_GRAD_LOGITS], b->n_images, c->n_classes)};
    RF_TRY(rf_backward_value(b, RF_SITE_POOLED, c->n_layers, &e.pooled));
    RF_TRY(rf_backward_value(b, norms_tokens ? RF_SITE_LN_FINAL : RF_SITE_RESID_POST,
                             norms_tokens ? c->n_layers : c->n_layers - 1, &e.tokens));
    RF_TRY(outputs_grad(b, &e));
    if (c->has_ln_final && c->norm_is_behind_pool) {
        RF_TRY(norm_behind_pool(b, &e));
    }
    RF_TRY(pool_grad(b, &e));
    if (norms_tokens) {
        RF_TRY(norm_of_tokens(b, &e));
    }
fail:
    return status;
}
