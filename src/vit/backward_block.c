/* Gradients of one transformer block, last point first. Values come from the cache; what has no
 * point there is made again. */
#include "vit_impl.h"

#include <math.h>

/* A branch as its end sees it: the linear map that writes it, what that map read, and what stands
 * between the map and the residual stream. */
typedef struct branch {
    const rf_linear *map, *norm; /* the norm where it stands behind */
    rf_view input, scale;
    rf_site out_site, norm_site;
} branch;

/* What the branch's linear map gave. */
static rf_status make_output(rf_backward *b, const branch *br, rf_view *out)
{
    *out = rf_backward_tokens(b, RF_GRAD_VALUE);
    const rf_matmul_args args = {
        .a = br->input, .b = br->map->weight, .c = *out, .bias = br->map->bias, .alpha = 1.0f};
    return rf_matmul(b->s, &args);
}

/* d by scale * y becomes d by y; the scale gets its own gradient. */
static rf_status scale_grad(rf_backward *b, const branch *br, int64_t layer, const rf_view *d)
{
    rf_status status = RF_OK;
    const rf_view d_scale = rf_backward_weight(b, &br->scale);
    rf_view y;
    if (d_scale.data != NULL) {
        if (br->norm != NULL) {
            RF_TRY(rf_backward_value(b, (rf_site)(br->norm_site + 1), layer, &y));
        } else {
            RF_TRY(make_output(b, br, &y));
        }
        RF_TRY(rf_column_dot(b->s, d, &y, &d_scale));
    }
    RF_TRY(rf_add(b->s, &(rf_add_args){.r = *d, .scale = br->scale, .y = *d}));
fail:
    return status;
}

/* `out` becomes the gradient by what the branch's linear map gave: that of the stream itself where
 * nothing stands between them and nobody may write to it. */
static rf_status branch_grad(rf_backward *b, const branch *br, int64_t layer, rf_view *out)
{
    rf_status status = RF_OK;
    const rf_view resid = rf_backward_tokens(b, RF_GRAD_RESID);
    rf_view y;
    *out = resid;
    if (br->scale.data == NULL && br->norm == NULL &&
        !rf_backward_has_hook(b, br->out_site, layer)) {
        return RF_OK;
    }
    *out = rf_backward_tokens(b, RF_GRAD_BRANCH);
    RF_TRY(rf_add(b->s, &(rf_add_args){.r = resid, .y = *out}));
    RF_TRY(rf_backward_fire(b, br->out_site, layer, out->data));
    if (br->scale.data != NULL) {
        RF_TRY(scale_grad(b, br, layer, out));
    }
    if (br->norm != NULL) {
        RF_TRY(make_output(b, br, &y));
        RF_TRY(rf_backward_norm(b, br->norm, &y, out, out, br->norm_site, layer));
    }
fail:
    return status;
}

/* ---- what a branch reads -------------------------------------------------------------------- */

/* The stream at a point, or the norm's output where that stands before the branch. */
static rf_status read_by_branch(rf_backward *b, rf_site stream, rf_site norm_site, int64_t layer,
                                rf_view *out)
{
    const bool is_before = b->vit->config.norm_place == RF_NORM_BEFORE;
    return rf_backward_value(b, is_before ? (rf_site)(norm_site + 1) : stream, layer, out);
}

/* Where the gradient by what a branch reads is gathered: the stream's own, or a buffer that goes
 * back through the norm. */
static rf_view gathered(rf_backward *b)
{
    const bool is_before = b->vit->config.norm_place == RF_NORM_BEFORE;
    return rf_backward_tokens(b, is_before ? RF_GRAD_NORMED : RF_GRAD_RESID);
}

/* Maps that read the same x: d_x gets the sum of what comes through all of them. */
static rf_status fan_in(rf_backward *b, const rf_linear *const *maps, const rf_view *d_y, int n,
                        const rf_view *x)
{
    rf_status status = RF_OK;
    const bool is_before = b->vit->config.norm_place == RF_NORM_BEFORE;
    for (int i = 0; i < n; i++) {
        const rf_linear_grad_args args = {.map = maps[i],
                                          .x = *x,
                                          .d_y = d_y[i],
                                          .d_x = gathered(b),
                                          .alpha = 1.0f,
                                          .beta = is_before && i == 0 ? 0.0f : 1.0f};
        RF_TRY(rf_backward_linear(b, &args));
    }
fail:
    return status;
}

/* Back through the norm before a branch to the stream at `stream`. */
static rf_status norm_before(rf_backward *b, const rf_linear *ln, rf_site stream, rf_site norm_site,
                             int64_t layer)
{
    rf_status status = RF_OK;
    const rf_view resid = rf_backward_tokens(b, RF_GRAD_RESID);
    const rf_view d = rf_backward_tokens(b, RF_GRAD_NORMED);
    rf_view x;
    if (b->vit->config.norm_place == RF_NORM_BEFORE) {
        RF_TRY(rf_backward_value(b, stream, layer, &x));
        RF_TRY(rf_backward_norm(b, ln, &x, &d, &d, norm_site, layer));
        RF_TRY(rf_add(b->s, &(rf_add_args){.x = resid, .r = d, .y = resid}));
    }
fail:
    return status;
}

/* ---- MLP ------------------------------------------------------------------------------------ */

static rf_view hidden(const rf_backward *b, rf_grad_buf buf)
{
    const rf_vit_config *c = &b->vit->config;
    return rf_view_2d(b->vit->backward.buf[buf], b->n_images * c->n_tokens, c->d_mlp);
}

/* From the gradient by hook_post in RF_GRAD_MLP to what the MLP read. */
static rf_status hidden_grad(rf_backward *b, const rf_block_weights *w, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const rf_linear *const maps[2] = {&w->fc1, &w->gate};
    const rf_view d[2] = {hidden(b, RF_GRAD_MLP), hidden(b, RF_GRAD_GATE)};
    rf_view x, pre, linear;
    RF_TRY(rf_backward_value(b, RF_SITE_MLP_PRE, layer, &pre));
    RF_TRY(read_by_branch(b, RF_SITE_RESID_MID, RF_SITE_LN2_SCALE, layer, &x));
    if (c->is_gated) {
        RF_TRY(rf_backward_value(b, RF_SITE_MLP_PRE_LINEAR, layer, &linear));
        const rf_gated_grad_args args = {
            .gate = pre, .x = linear, .d_y = d[0], .d_gate = d[1], .d_x = d[0], .act = c->act};
        RF_TRY(rf_gated_grad(b->s, &args));
        RF_TRY(rf_backward_fire(b, RF_SITE_MLP_PRE_LINEAR, layer, d[0].data));
        RF_TRY(rf_backward_fire(b, RF_SITE_MLP_PRE, layer, d[1].data));
    } else {
        RF_TRY(rf_activation_grad(b->s, c->act, &pre, &d[0], &d[0]));
        RF_TRY(rf_backward_fire(b, RF_SITE_MLP_PRE, layer, d[0].data));
    }
    RF_TRY(fan_in(b, maps, d, c->is_gated ? 2 : 1, &x));
fail:
    return status;
}

static rf_status mlp_grad(rf_backward *b, const rf_block_weights *w, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const rf_view d = hidden(b, RF_GRAD_MLP);
    branch br = {.map = &w->fc2,
                 .norm = c->norm_place == RF_NORM_BEHIND ? &w->ln2 : NULL,
                 .scale = w->scale2,
                 .out_site = RF_SITE_MLP_OUT,
                 .norm_site = RF_SITE_LN2_SCALE};
    rf_view post, d_out;
    RF_TRY(rf_backward_value(b, RF_SITE_MLP_POST, layer, &post));
    br.input = post;
    if (c->has_mlp_norm) {
        RF_TRY(rf_backward_value(b, RF_SITE_MLP_LN_NORMALIZED, layer, &br.input));
    }
    RF_TRY(branch_grad(b, &br, layer, &d_out));
    const rf_linear_grad_args out = {
        .map = br.map, .x = br.input, .d_y = d_out, .d_x = d, .alpha = 1.0f};
    RF_TRY(rf_backward_linear(b, &out));
    if (c->has_mlp_norm) {
        RF_TRY(rf_backward_norm(b, &w->mlp_ln, &post, &d, &d, RF_SITE_MLP_LN_SCALE, layer));
    }
    RF_TRY(rf_backward_fire(b, RF_SITE_MLP_POST, layer, d.data));
    RF_TRY(hidden_grad(b, w, layer));
    RF_TRY(norm_before(b, &w->ln2, RF_SITE_RESID_MID, RF_SITE_LN2_SCALE, layer));
fail:
    return status;
}

/* ---- attention ------------------------------------------------------------------------------ */

/* All heads' gradients of a token side by side. */
static rf_view heads_rows(const rf_backward *b, rf_grad_buf buf)
{
    const rf_vit_config *c = &b->vit->config;
    return rf_view_2d(b->vit->backward.buf[buf], b->n_images * c->n_tokens, c->n_heads * c->d_head);
}

static rf_view heads(const rf_backward *b, rf_grad_buf buf)
{
    const rf_vit_config *c = &b->vit->config;
    return rf_view_nd(b->vit->backward.buf[buf], RF_F32, 4,
                      (int64_t[]){b->n_images, c->n_tokens, c->n_heads, c->d_head});
}

/* The pattern as the softmax gave it, which a hook may have replaced behind it. */
static rf_status softmax_of_scores(rf_backward *b, int64_t layer, rf_view *pattern)
{
    rf_status status = RF_OK;
    rf_view scores;
    if (!rf_backward_was_hooked(b, RF_SITE_PATTERN, layer)) {
        return RF_OK;
    }
    RF_TRY(rf_cache_need(b->cache, RF_SITE_ATTN_SCORES, layer, &scores));
    pattern->data = b->vit->backward.buf[RF_GRAD_SOFTMAX];
    RF_TRY(rf_copy_within(b->s, pattern->data, scores.data,
                          (size_t)rf_view_n_elems(&scores) * sizeof(float)));
    const int64_t n_keys = pattern->shape[3];
    const rf_view rows = rf_view_2d(pattern->data, rf_view_n_elems(pattern) / n_keys, n_keys);
    RF_TRY(rf_softmax_rows(b->s, &rows));
fail:
    return status;
}

/* From d_z to the gradients by q and k as the scores read them, and by v. */
static rf_status attend_grad(rf_backward *b, const rf_block_weights *w, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const bool turns = c->rope != RF_ROPE_NONE;
    rf_attention_grad_args args = {.d_z = heads(b, RF_GRAD_Z),
                                   .d_q = heads(b, RF_GRAD_Q),
                                   .d_k = heads(b, RF_GRAD_K),
                                   .d_v = heads(b, RF_GRAD_V),
                                   .d_bias = rf_backward_weight(b, &w->score_bias),
                                   .scale = 1.0f / sqrtf((float)c->d_head)};
    RF_TRY(rf_cache_need(b->cache, turns ? RF_SITE_ROT_Q : RF_SITE_Q, layer, &args.q));
    RF_TRY(rf_cache_need(b->cache, turns ? RF_SITE_ROT_K : RF_SITE_K, layer, &args.k));
    RF_TRY(rf_cache_need(b->cache, RF_SITE_V, layer, &args.v));
    RF_TRY(rf_cache_need(b->cache, RF_SITE_PATTERN, layer, &args.pattern));
    args.d_pattern = args.pattern;
    args.d_pattern.data = b->vit->backward.buf[RF_GRAD_PATTERN];
    RF_TRY(rf_attention_mix_grad(b->s, &args));
    RF_TRY(rf_backward_fire(b, RF_SITE_PATTERN, layer, args.d_pattern.data));
    RF_TRY(softmax_of_scores(b, layer, &args.pattern));
    RF_TRY(rf_attention_softmax_grad(b->s, &args));
    RF_TRY(rf_backward_fire(b, RF_SITE_ATTN_SCORES, layer, args.d_pattern.data));
    RF_TRY(rf_attention_scores_grad(b->s, &args));
fail:
    return status;
}

/* Back through the rotary positions, where there are any. */
static rf_status turn_back(rf_backward *b, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const rf_vit_weights *w = &b->vit->weights;
    if (c->rope == RF_ROPE_NONE) {
        return RF_OK;
    }
    RF_TRY(rf_backward_fire(b, RF_SITE_ROT_K, layer, b->vit->backward.buf[RF_GRAD_K]));
    RF_TRY(rf_backward_fire(b, RF_SITE_ROT_Q, layer, b->vit->backward.buf[RF_GRAD_Q]));
    for (int i = 0; i < 2; i++) {
        const rf_view d = heads(b, i == 0 ? RF_GRAD_Q : RF_GRAD_K);
        const rf_rotary_args args = {.x = d,
                                     .y = d,
                                     .cos = w->rope_cos,
                                     .sin = w->rope_sin,
                                     .pairs = c->rope == RF_ROPE_CENTRES ? RF_PAIRS_HALVES
                                                                         : RF_PAIRS_ADJACENT,
                                     .is_transposed = true};
        RF_TRY(rf_rotary(b->s, &args));
    }
fail:
    return status;
}

/* From the gradient by hook_z in RF_GRAD_Z to what the attention read. */
static rf_status heads_grad(rf_backward *b, const rf_block_weights *w, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_linear *const maps[3] = {&w->q, &w->k, &w->v};
    const rf_view d[3] = {heads_rows(b, RF_GRAD_Q), heads_rows(b, RF_GRAD_K),
                          heads_rows(b, RF_GRAD_V)};
    rf_view x;
    RF_TRY(attend_grad(b, w, layer));
    RF_TRY(turn_back(b, layer));
    for (int i = 2; i >= 0; i--) {
        RF_TRY(rf_backward_fire(b, (rf_site)(RF_SITE_Q + i), layer, d[i].data));
    }
    RF_TRY(read_by_branch(b, RF_SITE_RESID_PRE, RF_SITE_LN1_SCALE, layer, &x));
    RF_TRY(fan_in(b, maps, d, 3, &x));
fail:
    return status;
}

static rf_status attention_grad(rf_backward *b, const rf_block_weights *w, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const rf_view d = heads_rows(b, RF_GRAD_Z);
    branch br = {.map = &w->o,
                 .norm = c->norm_place == RF_NORM_BEHIND ? &w->ln1 : NULL,
                 .scale = w->scale1,
                 .out_site = RF_SITE_ATTN_OUT,
                 .norm_site = RF_SITE_LN1_SCALE};
    rf_view z, d_out;
    RF_TRY(rf_backward_value(b, RF_SITE_Z, layer, &z));
    br.input = z;
    if (c->has_attn_norm) {
        RF_TRY(rf_backward_value(b, RF_SITE_ATTN_LN_NORMALIZED, layer, &br.input));
    }
    RF_TRY(branch_grad(b, &br, layer, &d_out));
    const rf_linear_grad_args out = {
        .map = br.map, .x = br.input, .d_y = d_out, .d_x = d, .alpha = 1.0f};
    RF_TRY(rf_backward_linear(b, &out));
    if (c->has_attn_norm) {
        RF_TRY(rf_backward_norm(b, &w->attn_ln, &z, &d, &d, RF_SITE_ATTN_LN_SCALE, layer));
    }
    RF_TRY(rf_backward_fire(b, RF_SITE_Z, layer, d.data));
    RF_TRY(heads_grad(b, w, layer));
    RF_TRY(norm_before(b, &w->ln1, RF_SITE_RESID_PRE, RF_SITE_LN1_SCALE, layer));
fail:
    return status;
}

rf_status rf_backward_block(rf_backward *b, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_block_weights *w = &b->vit->weights.blocks[layer];
    float *resid = b->vit->backward.buf[RF_GRAD_RESID];
    RF_TRY(rf_backward_fire(b, RF_SITE_RESID_POST, layer, resid));
    RF_TRY(mlp_grad(b, w, layer));
    RF_TRY(rf_backward_fire(b, RF_SITE_RESID_MID, layer, resid));
    RF_TRY(attention_grad(b, w, layer));
    RF_TRY(rf_backward_fire(b, RF_SITE_RESID_PRE, layer, resid));
fail:
    return status;
}
