/* One transformer block: attention and MLP, each added to the residual stream. The values at a
 * point do not depend on which points are hooked. */
#include "vit_impl.h"

#include <math.h>

static rf_view heads_view(const rf_pass *p, rf_buf buf)
{
    const rf_vit_config *c = &p->vit->config;
    return rf_view_nd(p->vit->ws.buf[buf], RF_F32, 4,
                      (int64_t[]){p->n_images, c->n_tokens, c->n_heads, c->d_head});
}

static rf_status project_qkv(rf_pass *p, const rf_block_weights *w, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_linear *const maps[3] = {&w->q, &w->k, &w->v};
    const rf_view from = rf_pass_tokens(p, RF_BUF_NORMED);
    for (int i = 0; i < 3; i++) {
        const rf_buf buf = (rf_buf)(RF_BUF_Q + i);
        const rf_view to = rf_pass_tokens(p, buf);
        RF_TRY(rf_pass_linear(p, maps[i], &from, &to, RF_ACT_NONE));
        RF_PASS_STEP(p, rf_pass_fire(p, (rf_site)(RF_SITE_Q + i), layer, to.data));
    }
fail:
    return status;
}

/* z from q, k and v: at once, or by its parts where a hook wants to see scores or pattern. */
static rf_status attend(rf_pass *p, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    rf_attention_args args = {.q = heads_view(p, RF_BUF_Q),
                              .k = heads_view(p, RF_BUF_K),
                              .v = heads_view(p, RF_BUF_V),
                              .z = heads_view(p, RF_BUF_Z),
                              .scale = 1.0f / sqrtf((float)c->d_head)};
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

/* resid += scale * branch. `out_site` sees what is added, that is after LayerScale. */
static rf_status add_branch(rf_pass *p, const rf_view *scale, rf_site out_site, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
    const rf_view branch = rf_pass_tokens(p, RF_BUF_BRANCH);
    rf_add_args add = {.x = resid, .r = branch, .scale = *scale, .y = resid};
    if (rf_pass_has_hook(p, out_site, layer)) {
        if (scale->data != NULL) {
            const rf_add_args scaled = {.r = branch, .scale = *scale, .y = branch};
            RF_TRY(rf_add(p->s, &scaled));
        }
        RF_PASS_STEP(p, rf_pass_fire(p, out_site, layer, branch.data));
        add.scale.data = NULL;
    }
    RF_TRY(rf_add(p->s, &add));
    /* resid_mid stands behind attn_out, resid_post behind mlp_out */
    RF_PASS_STEP(p, rf_pass_fire(p, (rf_site)(out_site + 1), layer, resid.data));
fail:
    return status;
}

static rf_status attention_part(rf_pass *p, const rf_block_weights *w, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
    const rf_view normed = rf_pass_tokens(p, RF_BUF_NORMED);
    const rf_view z = rf_pass_tokens(p, RF_BUF_Z), branch = rf_pass_tokens(p, RF_BUF_BRANCH);
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_RESID_PRE, layer, resid.data));
    RF_PASS_STEP(p, rf_pass_layer_norm(p, &w->ln1, &resid, &normed, RF_SITE_LN1_SCALE, layer));
    RF_PASS_STEP(p, project_qkv(p, w, layer));
    RF_PASS_STEP(p, attend(p, layer));
    RF_TRY(rf_pass_linear(p, &w->o, &z, &branch, RF_ACT_NONE));
    RF_PASS_STEP(p, add_branch(p, &w->scale1, RF_SITE_ATTN_OUT, layer));
fail:
    return status;
}

static rf_status mlp_part(rf_pass *p, const rf_block_weights *w, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
    const rf_view normed = rf_pass_tokens(p, RF_BUF_NORMED);
    const rf_view branch = rf_pass_tokens(p, RF_BUF_BRANCH);
    const rf_view hidden =
        rf_view_2d(p->vit->ws.buf[RF_BUF_MLP], p->n_images * c->n_tokens, c->d_mlp);
    const bool sees_pre = rf_pass_has_hook(p, RF_SITE_MLP_PRE, layer);
    RF_PASS_STEP(p, rf_pass_layer_norm(p, &w->ln2, &resid, &normed, RF_SITE_LN2_SCALE, layer));
    RF_TRY(rf_pass_linear(p, &w->fc1, &normed, &hidden, sees_pre ? RF_ACT_NONE : c->act));
    if (sees_pre) {
        RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_MLP_PRE, layer, hidden.data));
        RF_TRY(rf_activation(p->s, c->act, &hidden, &hidden));
    }
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_MLP_POST, layer, hidden.data));
    RF_TRY(rf_pass_linear(p, &w->fc2, &hidden, &branch, RF_ACT_NONE));
    RF_PASS_STEP(p, add_branch(p, &w->scale2, RF_SITE_MLP_OUT, layer));
fail:
    return status;
}

rf_status rf_pass_block(rf_pass *p, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_block_weights *w = &p->vit->weights.blocks[layer];
    RF_PASS_STEP(p, attention_part(p, w, layer));
    RF_PASS_STEP(p, mlp_part(p, w, layer));
fail:
    return status;
}
