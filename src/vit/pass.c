/* What every part of a forward pass is made of: calling hooks and keeping what they leave, norms
 * and linear maps. */
#include "vit_impl.h"

/* ---- hooks ---------------------------------------------------------------------------------- */

bool rf_pass_has_hook(const rf_pass *p, rf_site site, int64_t layer)
{
    for (int64_t i = 0; i < p->n_hooks; i++) {
        if (p->hooks[i].point.site == (int)site && p->hooks[i].point.layer == layer) {
            return true;
        }
    }
    return rf_cache_entry_at(p->cache, site, layer) != NULL;
}

/* Keep what the model goes on with. */
static rf_status keep(const rf_pass *p, rf_site site, int64_t layer, const float *data)
{
    rf_status status = RF_OK;
    const rf_cache_entry *entry = rf_cache_entry_at(p->cache, site, layer);
    if (entry != NULL) {
        const rf_view act = rf_hook_view(&p->vit->config, &entry->point, p->n_images, entry->data);
        RF_TRY(rf_copy_within(p->s, act.data, data, (size_t)rf_view_n_elems(&act) * sizeof(float)));
        p->cache->entries[entry - p->cache->entries].is_filled = true;
    }
fail:
    return status;
}

rf_status rf_pass_fire(rf_pass *p, rf_site site, int64_t layer, float *data)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < p->n_hooks; i++) {
        const rf_hook *hook = &p->hooks[i];
        if (hook->point.site != (int)site || hook->point.layer != layer) {
            continue;
        }
        const rf_view act = rf_hook_view(&p->vit->config, &hook->point, p->n_images, data);
        RF_TRY_DOING(hook->fn(hook->user, &hook->point, &act, p->s), "hook at %s",
                     hook->point.name);
    }
    RF_TRY(keep(p, site, layer, data));
    const rf_hook_point here = {.site = (int)site, .layer = layer};
    p->is_done = rf_hook_order(&p->vit->config, &here) >= p->last_order;
fail:
    return status;
}

/* ---- steps ---------------------------------------------------------------------------------- */

rf_view rf_pass_tokens(const rf_pass *p, rf_buf buf)
{
    const rf_vit_config *c = &p->vit->config;
    return rf_view_2d(p->vit->ws.buf[buf], p->n_images * c->n_tokens, c->d_model);
}

/* The same elements of the arena's copy in bf16, where there is one. */
static rf_view as_multiplied(const rf_pass *p, const rf_view *weight)
{
    const rf_vit_weights *w = &p->vit->weights;
    rf_view v = *weight;
    if (p->vit->products == RF_PRODUCTS_BF16 && w->half != NULL) {
        v.data = w->half + ((const float *)weight->data - w->arena);
        v.dtype = RF_BF16;
    }
    return v;
}

rf_status rf_pass_linear(rf_pass *p, const rf_linear *w, const rf_view *a, const rf_view *c,
                         rf_act act)
{
    const rf_matmul_args args = {.a = *a,
                                 .b = as_multiplied(p, &w->weight),
                                 .c = *c,
                                 .bias = w->bias,
                                 .products = p->vit->products,
                                 .alpha = 1.0f,
                                 .act = act};
    return rf_matmul(p->s, &args);
}

rf_status rf_pass_layer_norm(rf_pass *p, const rf_linear *ln, const rf_view *x, const rf_view *y,
                             rf_site scale_site, int64_t layer)
{
    rf_status status = RF_OK;
    rf_layer_norm_args args = {
        .x = *x, .weight = ln->weight, .bias = ln->bias, .y = *y, .eps = p->vit->config.eps};
    if (rf_pass_has_hook(p, scale_site, layer)) {
        args.scale = rf_view_1d(p->vit->ws.buf[RF_BUF_SCALE], x->shape[0]);
        args.y.data = NULL;
        RF_TRY(rf_layer_norm(p->s, &args));
        RF_PASS_STEP(p, rf_pass_fire(p, scale_site, layer, args.scale.data));
        args.divisor = args.scale;
        args.scale.data = NULL;
        args.y = *y;
    }
    RF_TRY(rf_layer_norm(p->s, &args));
    RF_PASS_STEP(p, rf_pass_fire(p, (rf_site)(scale_site + 1), layer, y->data));
fail:
    return status;
}
