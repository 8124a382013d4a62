/* The end of a forward pass: final norm, pool, projection and heads. Where only the pooled token is
 * read, the final norm sees that token alone; a row's norm has the same bits either way. */
#include "vit_impl.h"

#include <math.h>

/* ---- which tokens --------------------------------------------------------------------------- */

/* Token `t` of each picture as a view [B, d]. */
static rf_view token_rows(const rf_pass *p, rf_buf buf, int64_t t)
{
    const rf_vit_config *c = &p->vit->config;
    rf_view v = rf_view_2d(p->vit->ws.buf[buf] + t * c->d_model, p->n_images, c->d_model);
    v.stride[0] = c->n_tokens * c->d_model;
    return v;
}

static bool head_reads(const rf_pass *p, rf_head_input input)
{
    return p->vit->config.n_classes > 0 && p->vit->config.head_input == input;
}

/* The final norm is taken of every token: somebody reads them all. */
static bool norms_all_tokens(const rf_pass *p)
{
    const rf_vit_config *c = &p->vit->config;
    const int64_t behind = c->n_layers;
    if (!c->has_ln_final || c->norm_is_behind_pool) {
        return false;
    }
    return c->pool == RF_POOL_PATCH_MEAN || c->pool == RF_POOL_TOKEN_MEAN ||
           c->pool == RF_POOL_ATTENTION || head_reads(p, RF_HEAD_POOLED_AND_PATCH_MEAN) ||
           rf_pass_has_hook(p, RF_SITE_LN_FINAL_SCALE, behind) ||
           rf_pass_has_hook(p, RF_SITE_LN_FINAL_NORMALIZED, behind) ||
           rf_pass_has_hook(p, RF_SITE_LN_FINAL, behind);
}

/* ---- pools ---------------------------------------------------------------------------------- */

/* The next n_rows x n_cols floats of a buffer. */
static rf_view take(float **at, int64_t n_rows, int64_t n_cols)
{
    const rf_view v = rf_view_2d(*at, n_rows, n_cols);
    *at += n_rows * n_cols;
    return v;
}

static rf_status plain_norm(rf_pass *p, const rf_linear *ln, const rf_view *x, const rf_view *y)
{
    const rf_layer_norm_args args = {
        .x = *x, .weight = ln->weight, .bias = ln->bias, .y = *y, .eps = p->vit->config.eps};
    return rf_layer_norm(p->s, &args);
}

/* x += mlp(ln(x)), x [B, d_pool]. */
static rf_status pool_mlp(rf_pass *p, const rf_view *x, const rf_view *normed,
                          const rf_view *hidden)
{
    rf_status status = RF_OK;
    const rf_pool_weights *w = &p->vit->weights.pool;
    const rf_add_args add = {.x = *x, .r = *normed, .y = *x};
    RF_TRY(plain_norm(p, &w->ln, x, normed));
    RF_TRY(rf_pass_linear(p, &w->fc1, normed, hidden, p->vit->config.act));
    RF_TRY(rf_pass_linear(p, &w->fc2, hidden, normed, RF_ACT_NONE));
    RF_TRY(rf_add(p->s, &add));
fail:
    return status;
}

/* The first query's output; the others are not read by anybody. */
static rf_status attention_pool(rf_pass *p, rf_buf tokens, const rf_view *pooled)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const rf_pool_weights *w = &p->vit->weights.pool;
    const int64_t b = p->n_images, d = c->d_pool, n_heads = c->n_pool_heads, dh = d / n_heads;
    float *at = p->vit->ws.buf[RF_BUF_POOL];
    const rf_view k = take(&at, b * c->n_tokens, d), v = take(&at, b * c->n_tokens, d);
    const rf_view q = take(&at, 1, d), z = take(&at, b, d), hidden = take(&at, b, c->d_pool_mlp);
    rf_view x = rf_pass_tokens(p, tokens), probe = rf_view_rows(w->probe, 0, 1);

    if (w->ln_k.weight.data != NULL) {
        const rf_view normed = rf_pass_tokens(p, RF_BUF_BRANCH);
        RF_TRY(plain_norm(p, &w->ln_k, &x, &normed));
        x = normed;
    }
    if (w->ln_q.weight.data != NULL) {
        const rf_view normed = rf_view_rows(z, 0, 1); /* z comes later */
        RF_TRY(plain_norm(p, &w->ln_q, &probe, &normed));
        probe = normed;
    }
    RF_TRY(rf_pass_linear(p, &w->k, &x, &k, RF_ACT_NONE));
    RF_TRY(rf_pass_linear(p, &w->v, &x, &v, RF_ACT_NONE));
    RF_TRY(rf_pass_linear(p, &w->q, &probe, &q, RF_ACT_NONE));
    rf_attention_args args = {
        .q = rf_view_nd(q.data, RF_F32, 4, (int64_t[]){b, 1, n_heads, dh}),
        .k = rf_view_nd(k.data, RF_F32, 4, (int64_t[]){b, c->n_tokens, n_heads, dh}),
        .v = rf_view_nd(v.data, RF_F32, 4, (int64_t[]){b, c->n_tokens, n_heads, dh}),
        .z = rf_view_nd(z.data, RF_F32, 4, (int64_t[]){b, 1, n_heads, dh}),
        .scale = 1.0f / sqrtf((float)dh)};
    args.q.stride[0] = 0; /* one for all pictures */
    RF_TRY(rf_attention(p->s, &args));
    RF_TRY(rf_pass_linear(p, &w->o, &z, pooled, RF_ACT_NONE));
    if (c->d_pool_mlp > 0) {
        RF_TRY(pool_mlp(p, pooled, &z, &hidden));
    }
fail:
    return status;
}

/* The token that ends each text. */
static rf_status end_pool(rf_pass *p, rf_buf tokens, const rf_view *pooled)
{
    rf_status status = RF_OK;
    const rf_view from = rf_pass_tokens(p, tokens);
    const rf_view index =
        rf_view_nd(p->vit->ws.buf[RF_BUF_END_ROW], RF_I64, 1, (int64_t[]){p->n_images});
    RF_REQUIRE(p->knows_end, "the pooled token of this model is found by the token ids: a pass "
                             "from the residual stream needs them as input beside it");
    RF_TRY(rf_gather_rows(p->s, &from, &index, pooled));
fail:
    return status;
}

static rf_status copy_rows(rf_pass *p, rf_view from, const rf_view *to)
{
    const rf_add_args copy = {.r = from, .y = *to};
    return rf_add(p->s, &copy);
}

static rf_status mean_of_tokens(rf_pass *p, rf_buf tokens, int64_t first, const rf_view *out)
{
    const rf_vit_config *c = &p->vit->config;
    const rf_view x = rf_view_nd(p->vit->ws.buf[tokens], RF_F32, 3,
                                 (int64_t[]){p->n_images, c->n_tokens, c->d_model});
    return rf_mean_tokens(p->s, &x, first, c->n_tokens - first, out);
}

static rf_status pool(rf_pass *p, rf_buf tokens, const rf_view *pooled)
{
    const rf_vit_config *c = &p->vit->config;
    switch (c->pool) {
    case RF_POOL_CLS:
        break;
    case RF_POOL_PATCH_MEAN:
        return mean_of_tokens(p, tokens, c->n_prefix, pooled);
    case RF_POOL_TOKEN_MEAN:
        return mean_of_tokens(p, tokens, 0, pooled);
    case RF_POOL_ATTENTION:
        return attention_pool(p, tokens, pooled);
    case RF_POOL_END:
        return end_pool(p, tokens, pooled);
    case RF_POOL_LAST:
        return copy_rows(p, token_rows(p, tokens, c->n_tokens - 1), pooled);
    }
    return copy_rows(p, token_rows(p, tokens, 0), pooled);
}

static rf_status final_norm(rf_pass *p, const rf_view *x, const rf_view *y)
{
    rf_status status = RF_OK;
    const int64_t behind = p->vit->config.n_layers;
    RF_PASS_STEP(
        p, rf_pass_layer_norm(p, &p->vit->weights.ln_final, x, y, RF_SITE_LN_FINAL_SCALE, behind));
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_LN_FINAL, behind, y->data));
fail:
    return status;
}

/* The final norm and the pool, in whichever order. */
static rf_status norm_and_pool(rf_pass *p, const rf_view *pooled)
{
    rf_status status = RF_OK;
    const bool norms_all = norms_all_tokens(p);
    if (norms_all) {
        const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
        const rf_view normed = rf_pass_tokens(p, RF_BUF_NORMED);
        RF_PASS_STEP(p, final_norm(p, &resid, &normed));
    }
    RF_TRY(pool(p, norms_all ? RF_BUF_NORMED : RF_BUF_RESID, pooled));
    if (p->vit->config.has_ln_final && !norms_all) {
        RF_PASS_STEP(p, final_norm(p, pooled, pooled));
    }
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_POOLED, p->vit->config.n_layers, pooled->data));
fail:
    return status;
}

/* ---- heads ---------------------------------------------------------------------------------- */

/* A head on [pooled, mean of the patch tokens]. */
static rf_status classify_with_mean(rf_pass *p, const rf_view *pooled, const rf_view *logits)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const rf_view joined = rf_view_2d(p->vit->ws.buf[RF_BUF_HEAD_IN], p->n_images, 2 * c->d_model);
    rf_view left = joined, right = joined;
    left.shape[1] = right.shape[1] = c->d_model;
    right.data = (float *)joined.data + c->d_model;
    RF_TRY(copy_rows(p, *pooled, &left));
    RF_TRY(
        mean_of_tokens(p, norms_all_tokens(p) ? RF_BUF_NORMED : RF_BUF_RESID, c->n_prefix, &right));
    RF_TRY(rf_pass_linear(p, &p->vit->weights.head, &joined, logits, RF_ACT_NONE));
fail:
    return status;
}

/* The mean of a head on the pooled token and another on the second. */
static rf_status classify_distilled(rf_pass *p, const rf_view *pooled, const rf_view *logits)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const rf_vit_weights *w = &p->vit->weights;
    float *at = p->vit->ws.buf[RF_BUF_HEAD_IN];
    rf_view token = token_rows(p, norms_all_tokens(p) ? RF_BUF_NORMED : RF_BUF_RESID, 1);
    const rf_view normed = take(&at, p->n_images, c->d_model);
    const rf_view both = rf_view_nd(at, RF_F32, 3, (int64_t[]){p->n_images, 2, c->n_classes});
    rf_view one = rf_view_2d(at, p->n_images, c->n_classes);
    one.stride[0] = 2 * c->n_classes;
    rf_view other = one;
    other.data = at + c->n_classes;
    if (c->has_ln_final && !norms_all_tokens(p)) {
        RF_TRY(plain_norm(p, &w->ln_final, &token, &normed));
        token = normed;
    }
    RF_TRY(rf_pass_linear(p, &w->head, pooled, &one, RF_ACT_NONE));
    RF_TRY(rf_pass_linear(p, &w->head_distilled, &token, &other, RF_ACT_NONE));
    RF_TRY(rf_mean_tokens(p->s, &both, 0, 2, logits));
fail:
    return status;
}

static rf_status classify(rf_pass *p, const rf_view *pooled, const rf_view *logits)
{
    switch (p->vit->config.head_input) {
    case RF_HEAD_POOLED:
        break;
    case RF_HEAD_POOLED_AND_PATCH_MEAN:
        return classify_with_mean(p, pooled, logits);
    case RF_HEAD_CLS_AND_DISTILLED:
        return classify_distilled(p, pooled, logits);
    }
    return rf_pass_linear(p, &p->vit->weights.head, pooled, logits, RF_ACT_NONE);
}

rf_status rf_pass_end(rf_pass *p, rf_vit_output *out)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    float *const *buf = p->vit->ws.buf;
    const rf_view pooled = rf_view_2d(buf[RF_BUF_POOLED], p->n_images, c->d_pool);
    rf_view embedding = pooled, logits = {0};

    RF_PASS_STEP(p, norm_and_pool(p, &pooled));
    if (c->has_projection) {
        embedding = rf_view_2d(buf[RF_BUF_EMBEDDING], p->n_images, c->d_out);
        RF_TRY(rf_pass_linear(p, &p->vit->weights.projection, &pooled, &embedding, RF_ACT_NONE));
    }
    if (c->n_classes > 0) {
        logits = rf_view_2d(buf[RF_BUF_LOGITS], p->n_images, c->n_classes);
        RF_TRY(classify(p, &pooled, &logits));
    }
    const bool only_classifies = c->n_classes > 0 && !c->has_projection;
    *out = (rf_vit_output){.embedding = embedding, .logits = logits};
    RF_TRY(rf_pass_fire(p, RF_SITE_POST_HEAD, c->n_layers,
                        only_classifies ? logits.data : embedding.data));
fail:
    return status;
}
