/* What every part of a backward pass is made of: values out of the cache, calling hooks, gradients
 * of norms and linear maps. */
#include "vit_impl.h"

/* ---- hooks ---------------------------------------------------------------------------------- */

void rf_cache_note_hooks(rf_cache *cache, const rf_hook *hooks, int64_t n_hooks)
{
    cache->has_request_hooks = false;
    for (int64_t i = 0; i < cache->n_entries; i++) {
        cache->entries[i].is_hooked = false;
        for (int64_t j = 0; j < n_hooks; j++) {
            const rf_hook_point *point = &hooks[j].point;
            cache->entries[i].is_hooked |= point->site == cache->entries[i].point.site &&
                                           point->layer == cache->entries[i].point.layer;
        }
    }
    for (int64_t j = 0; j < n_hooks; j++) {
        cache->has_request_hooks |= hooks[j].point.is_on_request;
    }
}

bool rf_backward_was_hooked(const rf_backward *b, rf_site site, int64_t layer)
{
    const rf_cache_entry *entry = rf_cache_entry_at(b->cache, site, layer);
    return entry != NULL && entry->is_hooked;
}

bool rf_backward_has_hook(const rf_backward *b, rf_site site, int64_t layer)
{
    for (int64_t i = 0; i < b->args->n_hooks; i++) {
        const rf_hook_point *point = &b->args->hooks[i].point;
        if (point->site == (int)site && point->layer == layer) {
            return true;
        }
    }
    return false;
}

rf_status rf_backward_fire(rf_backward *b, rf_site site, int64_t layer, float *data)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < b->args->n_hooks; i++) {
        const rf_hook *hook = &b->args->hooks[i];
        if (hook->point.site != (int)site || hook->point.layer != layer) {
            continue;
        }
        const rf_view act = rf_hook_view(&b->vit->config, &hook->point, b->n_images, data);
        RF_TRY_DOING(hook->fn(hook->user, &hook->point, &act, b->s), "backward hook at %s",
                     hook->point.name);
    }
fail:
    return status;
}

/* ---- pieces --------------------------------------------------------------------------------- */

rf_view rf_backward_tokens(const rf_backward *b, rf_grad_buf buf)
{
    const rf_vit_config *c = &b->vit->config;
    return rf_view_2d(b->vit->backward.buf[buf], b->n_images * c->n_tokens, c->d_model);
}

rf_status rf_backward_value(const rf_backward *b, rf_site site, int64_t layer, rf_view *out)
{
    rf_status status = RF_OK;
    rf_view v;
    RF_TRY(rf_cache_need(b->cache, site, layer, &v));
    const int64_t width = rf_cache_entry_at(b->cache, site, layer)->point.width;
    *out = rf_view_2d(v.data, rf_view_n_elems(&v) / width, width);
fail:
    return status;
}

rf_view rf_backward_weight(const rf_backward *b, const rf_view *weight)
{
    rf_view d = *weight;
    if (b->args->d_weights == NULL || weight->data == NULL) {
        d.data = NULL;
    } else {
        d.data = b->args->d_weights + ((const float *)weight->data - b->vit->weights.arena);
    }
    return d;
}

rf_status rf_backward_linear(rf_backward *b, const rf_linear_grad_args *args)
{
    rf_status status = RF_OK;
    const rf_view d_weight = rf_backward_weight(b, &args->map->weight);
    const rf_view d_bias = rf_backward_weight(b, &args->map->bias);
    if (d_weight.data != NULL) {
        const rf_matmul_args product = {.a = args->x,
                                        .b = args->d_y,
                                        .c = d_weight,
                                        .trans_a = RF_TRANS,
                                        .alpha = args->alpha,
                                        .beta = 1.0f};
        RF_TRY(rf_matmul(b->s, &product));
    }
    if (d_bias.data != NULL) {
        const rf_row_sum_args sum = {
            .x = args->d_y, .out = d_bias, .alpha = args->alpha, .beta = 1.0f};
        RF_TRY(rf_row_sum(b->s, &sum));
    }
    if (args->d_x.data != NULL) {
        const rf_matmul_args product = {.a = args->d_y,
                                        .b = args->map->weight,
                                        .c = args->d_x,
                                        .trans_b = RF_TRANS,
                                        .alpha = args->alpha,
                                        .beta = args->beta};
        RF_TRY(rf_matmul(b->s, &product));
    }
fail:
    return status;
}

/* In one operation where nobody looks at the scale; else through the gradient by it, and from there
 * on with the scale that x has itself: the cached one may have been replaced. */
rf_status rf_backward_norm(rf_backward *b, const rf_linear *ln, const rf_view *x,
                           const rf_view *d_y, const rf_view *d_x, rf_site scale_site,
                           int64_t layer)
{
    rf_status status = RF_OK;
    const int64_t n = x->shape[0];
    float *buf = b->vit->backward.buf[RF_GRAD_SCALE];
    rf_layer_norm_grad_args args = {.x = *x,
                                    .weight = ln->weight,
                                    .d_y = *d_y,
                                    .d_x = *d_x,
                                    .d_weight = rf_backward_weight(b, &ln->weight),
                                    .d_bias = rf_backward_weight(b, &ln->bias)};
    RF_TRY(rf_backward_value(b, scale_site, layer, &args.scale));
    args.scale = rf_view_1d(args.scale.data, n);
    RF_TRY(rf_backward_fire(b, (rf_site)(scale_site + 1), layer, d_y->data));
    if (!rf_backward_has_hook(b, scale_site, layer) &&
        !rf_backward_was_hooked(b, scale_site, layer)) {
        RF_TRY(rf_layer_norm_grad(b->s, &args));
        goto fail;
    }
    args.d_scale = rf_view_1d(buf, n);
    RF_TRY(rf_layer_norm_grad(b->s, &args));
    RF_TRY(rf_backward_fire(b, scale_site, layer, buf));
    args.scale = rf_view_1d(buf + n, n);
    const rf_layer_norm_args own = {.x = *x, .scale = args.scale, .eps = b->vit->config.eps};
    RF_TRY(rf_layer_norm(b->s, &own));
    RF_TRY(rf_layer_norm_scale_grad(b->s, &args));
fail:
    return status;
}
