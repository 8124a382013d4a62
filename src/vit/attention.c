/* The attention of a block: q, k and v of the stream (or of inputs split by heads), z, and what it
 * adds. */
#include "vit_impl.h"

#include <math.h>

static rf_view heads_view(const rf_pass *p, rf_buf buf)
{
    const rf_vit_config *c = &p->vit->config;
    return rf_view_nd(p->vit->ws.buf[buf], RF_F32, 4,
                      (int64_t[]){p->n_images, c->n_tokens, c->n_heads, c->d_head});
}

/* All heads' values of a token side by side. */
static rf_view heads_rows(const rf_pass *p, rf_buf buf)
{
    const rf_vit_config *c = &p->vit->config;
    return rf_view_2d(p->vit->ws.buf[buf], p->n_images * c->n_tokens, c->n_heads * c->d_head);
}

/* Columns first .. first + n - 1. */
static rf_view columns(rf_view v, int64_t first, int64_t n)
{
    v.data = (float *)v.data + first;
    v.shape[1] = n;
    return v;
}

/* ---- inputs split by heads ------------------------------------------------------------------ */

/* Head `head` of [B, T, H, d] as rows [B * T, d]. */
static rf_view head_resid(const rf_pass *p, rf_buf buf, int64_t head)
{
    const rf_vit_config *c = &p->vit->config;
    const rf_view all =
        rf_view_2d(p->vit->ws.buf[buf], p->n_images * c->n_tokens, c->n_heads * c->d_model);
    return columns(all, head * c->d_model, c->d_model);
}

/* A copy of the stream for each head, or of attention's input where that is split already. */
static rf_status split(rf_pass *p, bool is_split, rf_buf to)
{
    rf_status status = RF_OK;
    for (int64_t h = 0; h < p->vit->config.n_heads; h++) {
        const rf_add_args copy = {.r = is_split ? head_resid(p, RF_BUF_SPLIT, h)
                                                : rf_pass_tokens(p, RF_BUF_RESID),
                                  .y = head_resid(p, to, h)};
        RF_TRY(rf_add(p->s, &copy));
    }
fail:
    return status;
}

/* q, k or v, each head's from its own input in `from`. */
static rf_status project_split(rf_pass *p, const rf_block_weights *w, const rf_linear *map,
                               rf_buf from, rf_buf to)
{
    rf_status status = RF_OK;
    const int64_t dh = p->vit->config.d_head;
    for (int64_t h = 0; h < p->vit->config.n_heads; h++) {
        rf_view x = head_resid(p, from, h);
        const rf_view y = columns(heads_rows(p, to), h * dh, dh);
        rf_linear part = {.weight = columns(map->weight, h * dh, dh)};
        if (map->bias.data != NULL) {
            part.bias = rf_view_rows(map->bias, h * dh, dh);
        }
        if (p->vit->config.norm_place == RF_NORM_BEFORE) {
            const rf_view normed = rf_pass_tokens(p, RF_BUF_BRANCH); /* free until z is mapped */
            const rf_layer_norm_args norm = {.x = x,
                                             .weight = w->ln1.weight,
                                             .bias = w->ln1.bias,
                                             .y = normed,
                                             .eps = p->vit->config.eps};
            RF_TRY(rf_layer_norm(p->s, &norm));
            x = normed;
        }
        RF_TRY(rf_pass_linear(p, &part, &x, &y, RF_ACT_NONE));
    }
fail:
    return status;
}

/* Which of q, k and v have inputs of their own. */
typedef struct split_inputs {
    bool is_split[3];
} split_inputs;

/* Fires hook_attn_in and hook_q/k/v_input where they are asked for, and computes what hangs on
 * them, before q itself fires. */
static rf_status run_split_inputs(rf_pass *p, const rf_block_weights *w, int64_t layer,
                                  split_inputs *out)
{
    rf_status status = RF_OK;
    const rf_linear *const maps[3] = {&w->q, &w->k, &w->v};
    const bool all = rf_pass_has_hook(p, RF_SITE_ATTN_IN, layer);
    *out = (split_inputs){{false, false, false}};
    if (all) {
        RF_TRY(split(p, false, RF_BUF_SPLIT));
        RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_ATTN_IN, layer, p->vit->ws.buf[RF_BUF_SPLIT]));
    }
    for (int i = 0; i < 3; i++) {
        const rf_site site = (rf_site)(RF_SITE_Q_INPUT + i);
        const bool own = rf_pass_has_hook(p, site, layer);
        out->is_split[i] = all || own;
        if (own) {
            RF_TRY(split(p, all, RF_BUF_SPLIT_COPY));
            RF_PASS_STEP(p, rf_pass_fire(p, site, layer, p->vit->ws.buf[RF_BUF_SPLIT_COPY]));
        }
        if (out->is_split[i]) {
            RF_TRY(project_split(p, w, maps[i], own ? RF_BUF_SPLIT_COPY : RF_BUF_SPLIT,
                                 (rf_buf)(RF_BUF_Q + i)));
        }
    }
fail:
    return status;
}

/* ---- q, k, v -------------------------------------------------------------------------------- */

static rf_status rotate(rf_pass *p, rf_buf buf)
{
    const rf_vit_weights *w = &p->vit->weights;
    const rf_rotary_args args = {
        .x = heads_view(p, buf),
        .y = heads_view(p, buf),
        .cos = w->rope_cos,
        .sin = w->rope_sin,
        .pairs = p->vit->config.rope == RF_ROPE_CENTRES ? RF_PAIRS_HALVES : RF_PAIRS_ADJACENT};
    return rf_rotary(p->s, &args);
}

static rf_status project_qkv(rf_pass *p, const rf_block_weights *w, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const rf_linear *const maps[3] = {&w->q, &w->k, &w->v};
    rf_view x = rf_pass_tokens(p, RF_BUF_RESID);
    split_inputs inputs;
    RF_PASS_STEP(p, run_split_inputs(p, w, layer, &inputs));
    const bool none_is_plain = inputs.is_split[0] && inputs.is_split[1] && inputs.is_split[2];
    if (c->norm_place == RF_NORM_BEFORE && !none_is_plain) {
        const rf_view normed = rf_pass_tokens(p, RF_BUF_NORMED);
        RF_PASS_STEP(p, rf_pass_layer_norm(p, &w->ln1, &x, &normed, RF_SITE_LN1_SCALE, layer));
        x = normed;
    }
    for (int i = 0; i < 3; i++) {
        const rf_view to = heads_rows(p, (rf_buf)(RF_BUF_Q + i));
        if (!inputs.is_split[i]) {
            RF_TRY(rf_pass_linear(p, maps[i], &x, &to, RF_ACT_NONE));
        }
        RF_PASS_STEP(p, rf_pass_fire(p, (rf_site)(RF_SITE_Q + i), layer, to.data));
    }
    for (int i = 0; i < 2 && c->rope != RF_ROPE_NONE; i++) {
        const rf_buf buf = (rf_buf)(RF_BUF_Q + i);
        RF_TRY(rotate(p, buf));
        RF_PASS_STEP(p, rf_pass_fire(p, (rf_site)(RF_SITE_ROT_Q + i), layer, p->vit->ws.buf[buf]));
    }
fail:
    return status;
}

/* ---- z and behind --------------------------------------------------------------------------- */

/* z from q, k and v: at once, or by its parts where a hook wants to see scores or pattern. */
static rf_status attend(rf_pass *p, const rf_block_weights *w, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    rf_attention_args args = {.q = heads_view(p, RF_BUF_Q),
                              .k = heads_view(p, RF_BUF_K),
                              .v = heads_view(p, RF_BUF_V),
                              .z = heads_view(p, RF_BUF_Z),
                              .bias = c->score_bias == RF_SCORES_CAUSAL ? p->vit->weights.causal
                                                                        : w->score_bias,
                              .scale = 1.0f / sqrtf((float)c->d_head),
                              .products = p->vit->products};
    if (rf_pass_has_hook(p, RF_SITE_ATTN_SCORES, layer) ||
        rf_pass_has_hook(p, RF_SITE_PATTERN, layer)) {
        float *pattern = p->vit->ws.buf[RF_BUF_PATTERN];
        const rf_view rows =
            rf_view_2d(pattern, p->n_images * c->n_heads * c->n_tokens, c->n_tokens);
        args.pattern = rf_view_nd(pattern, RF_F32, 4,
                                  (int64_t[]){p->n_images, c->n_heads, c->n_tokens, c->n_tokens});
        RF_TRY(rf_attention_scores(p->s, &args));
        RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_ATTN_SCORES, layer, pattern));
        RF_TRY(rf_softmax_rows(p->s, &rows));
        RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_PATTERN, layer, pattern));
        RF_TRY(rf_attention_mix(p->s, &args));
    } else {
        RF_TRY(rf_attention(p->s, &args));
    }
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_Z, layer, args.z.data));
fail:
    return status;
}

/* What each head adds by itself, then branch = b_O and their sum. */
static rf_status map_by_heads(rf_pass *p, const rf_linear *o, int64_t layer)
{
    rf_status status = RF_OK;
    const int64_t d = p->vit->config.d_model, dh = p->vit->config.d_head;
    const rf_view branch = rf_pass_tokens(p, RF_BUF_BRANCH);
    for (int64_t h = 0; h < p->vit->config.n_heads; h++) {
        const rf_linear part = {.weight = rf_view_rows(o->weight, h * dh, dh)};
        const rf_view z = columns(heads_rows(p, RF_BUF_Z), h * dh, dh);
        const rf_view result = head_resid(p, RF_BUF_SPLIT, h);
        RF_TRY(rf_pass_linear(p, &part, &z, &result, RF_ACT_NONE));
    }
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_RESULT, layer, p->vit->ws.buf[RF_BUF_SPLIT]));
    rf_embed_tokens_args first = {
        .patches = head_resid(p, RF_BUF_SPLIT, 0),
        .out = rf_view_nd(branch.data, RF_F32, 3, (int64_t[]){branch.shape[0], 1, d})};
    if (o->bias.data != NULL) { /* as the position of a single token: added to every row */
        first.position = rf_view_2d(o->bias.data, 1, d);
    }
    RF_TRY(rf_embed_tokens(p->s, &first));
    for (int64_t h = 1; h < p->vit->config.n_heads; h++) {
        const rf_add_args add = {.x = branch, .r = head_resid(p, RF_BUF_SPLIT, h), .y = branch};
        RF_TRY(rf_add(p->s, &add));
    }
fail:
    return status;
}

rf_status rf_pass_attention(rf_pass *p, const rf_block_weights *w, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_view z = heads_rows(p, RF_BUF_Z), branch = rf_pass_tokens(p, RF_BUF_BRANCH);
    RF_PASS_STEP(p, project_qkv(p, w, layer));
    RF_PASS_STEP(p, attend(p, w, layer));
    if (p->vit->config.has_attn_norm) {
        RF_PASS_STEP(p, rf_pass_layer_norm(p, &w->attn_ln, &z, &z, RF_SITE_ATTN_LN_SCALE, layer));
    }
    if (rf_pass_has_hook(p, RF_SITE_RESULT, layer)) {
        RF_PASS_STEP(p, map_by_heads(p, &w->o, layer));
    } else {
        RF_TRY(rf_pass_linear(p, &w->o, &z, &branch, RF_ACT_NONE));
    }
    RF_PASS_STEP(
        p, rf_pass_add_branch(p, &w->ln1, RF_SITE_LN1_SCALE, &w->scale1, RF_SITE_ATTN_OUT, layer));
fail:
    return status;
}
