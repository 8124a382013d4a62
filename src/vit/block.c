/* One transformer block: attention (attention.c) and MLP, each added to the residual stream. The
 * values at a point do not depend on which points are hooked, with one exception: behind inputs
 * split by heads and behind results by heads they agree within rounding, as sums are taken in
 * another order there. */
#include "vit_impl.h"

rf_status rf_pass_add_branch(rf_pass *p, const rf_linear *norm, rf_site norm_site,
                             const rf_view *scale, rf_site out_site, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
    const rf_view branch = rf_pass_tokens(p, RF_BUF_BRANCH);
    rf_add_args add = {.x = resid, .r = branch, .scale = *scale, .y = resid};
    if (p->vit->config.norm_place == RF_NORM_BEHIND) {
        RF_PASS_STEP(p, rf_pass_layer_norm(p, norm, &branch, &branch, norm_site, layer));
    }
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

/* What the MLP reads: the stream or, when hook_mlp_in is asked for, a copy of it; then its norm. */
static rf_status mlp_input(rf_pass *p, const rf_block_weights *w, int64_t layer, rf_view *out)
{
    rf_status status = RF_OK;
    *out = rf_pass_tokens(p, RF_BUF_RESID);
    if (rf_pass_has_hook(p, RF_SITE_MLP_IN, layer)) {
        const rf_view copy = rf_pass_tokens(p, RF_BUF_BRANCH); /* free until the MLP's output */
        RF_TRY(rf_copy_within(p->s, copy.data, out->data,
                              (size_t)rf_view_n_elems(out) * sizeof(float)));
        RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_MLP_IN, layer, copy.data));
        *out = copy;
    }
    if (p->vit->config.norm_place == RF_NORM_BEFORE) {
        const rf_view normed = rf_pass_tokens(p, RF_BUF_NORMED);
        RF_PASS_STEP(p, rf_pass_layer_norm(p, &w->ln2, out, &normed, RF_SITE_LN2_SCALE, layer));
        *out = normed;
    }
fail:
    return status;
}

/* hidden = act(x W_in + b_in): at once, or in two steps where somebody looks between. */
static rf_status plain_hidden(rf_pass *p, const rf_block_weights *w, int64_t layer,
                              const rf_view *x, const rf_view *hidden)
{
    rf_status status = RF_OK;
    const rf_act act = p->vit->config.act;
    if (!rf_pass_has_hook(p, RF_SITE_MLP_PRE, layer)) {
        return rf_pass_linear(p, &w->fc1, x, hidden, act);
    }
    RF_TRY(rf_pass_linear(p, &w->fc1, x, hidden, RF_ACT_NONE));
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_MLP_PRE, layer, hidden->data));
    RF_TRY(rf_activation(p->s, act, hidden, hidden));
fail:
    return status;
}

/* hidden = act(x W_gate + b_gate) * (x W_in + b_in). */
static rf_status gated_hidden(rf_pass *p, const rf_block_weights *w, int64_t layer,
                              const rf_view *x, const rf_view *hidden)
{
    rf_status status = RF_OK;
    const rf_view linear =
        rf_view_2d(p->vit->ws.buf[RF_BUF_GATE], hidden->shape[0], hidden->shape[1]);
    RF_TRY(rf_pass_linear(p, &w->gate, x, hidden, RF_ACT_NONE));
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_MLP_PRE, layer, hidden->data));
    RF_TRY(rf_pass_linear(p, &w->fc1, x, &linear, RF_ACT_NONE));
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_MLP_PRE_LINEAR, layer, linear.data));
    RF_TRY(rf_gated(p->s, p->vit->config.act, hidden, &linear, hidden));
fail:
    return status;
}

static rf_status mlp_part(rf_pass *p, const rf_block_weights *w, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const rf_view branch = rf_pass_tokens(p, RF_BUF_BRANCH);
    const rf_view hidden =
        rf_view_2d(p->vit->ws.buf[RF_BUF_MLP], p->n_images * c->n_tokens, c->d_mlp);
    rf_view x;
    RF_PASS_STEP(p, mlp_input(p, w, layer, &x));
    RF_PASS_STEP(p, (c->is_gated ? gated_hidden : plain_hidden)(p, w, layer, &x, &hidden));
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_MLP_POST, layer, hidden.data));
    if (c->has_mlp_norm) {
        RF_PASS_STEP(
            p, rf_pass_layer_norm(p, &w->mlp_ln, &hidden, &hidden, RF_SITE_MLP_LN_SCALE, layer));
    }
    RF_TRY(rf_pass_linear(p, &w->fc2, &hidden, &branch, RF_ACT_NONE));
    RF_PASS_STEP(
        p, rf_pass_add_branch(p, &w->ln2, RF_SITE_LN2_SCALE, &w->scale2, RF_SITE_MLP_OUT, layer));
fail:
    return status;
}

rf_status rf_pass_block(rf_pass *p, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_block_weights *w = &p->vit->weights.blocks[layer];
    const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_RESID_PRE, layer, resid.data));
    RF_PASS_STEP(p, rf_pass_attention(p, w, layer));
    RF_PASS_STEP(p, mlp_part(p, w, layer));
fail:
    return status;
}
