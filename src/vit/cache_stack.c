/* Stacks of residual-stream vectors: their memory, the accumulated stream, and what the final norm
 * and a logit's direction make of them. decompose.c fills stacks with summands. */
#include "vit_impl.h"

#include <stdio.h>

/* ---- memory --------------------------------------------------------------------------------- */

void rf_resid_stack_fini(rf_resid_stack *stack)
{
    rf_memory_free(stack->be, RF_MEMORY_DEVICE, stack->values.data);
    rf_free(stack->labels);
    *stack = (rf_resid_stack){0};
}

rf_status rf_stack_begin(rf_stack_fill *f, int64_t n)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &f->cache->vit->config;
    const int64_t n_images = f->cache->n_images;
    void *values = NULL;
    *f->stack = (rf_resid_stack){.be = f->cache->vit->be};
    if (n_images == 0) {
        RF_FAIL(RF_ERR_NOT_FOUND, "the cache is empty: no pass over pictures has filled it");
    }
    RF_ALLOC(f->stack->labels, n);
    RF_TRY_DOING(rf_memory_alloc(f->stack->be, RF_MEMORY_DEVICE,
                                 (size_t)rf_max_i64(1, n * n_images * c->n_tokens * c->d_model) *
                                     sizeof(float),
                                 &values),
                 "a stack of %" PRId64 " residual streams of %" PRId64 " pictures", n, n_images);
    f->stack->n = n;
    f->stack->values =
        rf_view_nd(values, RF_F32, 4, (int64_t[]){n, n_images, c->n_tokens, c->d_model});
    f->n_filled = 0;
fail:
    return status;
}

rf_view rf_stack_at(const rf_resid_stack *stack, int64_t idx)
{
    const int64_t *shape = stack->values.shape;
    const int64_t n_rows = shape[1] * shape[2];
    return rf_view_2d((float *)stack->values.data + idx * n_rows * shape[3], n_rows, shape[3]);
}

rf_status rf_stack_next(rf_stack_fill *f, rf_view *slot, const char *label, ...)
{
    rf_status status = RF_OK;
    va_list args;
    RF_BUG(f->n_filled < f->stack->n, "a stack of %" PRId64 " vectors got more", f->stack->n);
    va_start(args, label);
    vsnprintf(f->stack->labels[f->n_filled], RF_NAME_LEN, label, args); /* all are short */
    va_end(args);
    *slot = rf_stack_at(f->stack, f->n_filled++);
fail:
    return status;
}

rf_status rf_stack_push(rf_stack_fill *f, rf_site site, int64_t layer, const char *label)
{
    rf_status status = RF_OK;
    rf_view act, slot;
    RF_TRY(rf_cache_need(f->cache, site, layer, &act));
    RF_TRY(rf_stack_next(f, &slot, "%s", label));
    RF_TRY(
        rf_copy_within(f->s, slot.data, act.data, (size_t)rf_view_n_elems(&act) * sizeof(float)));
fail:
    return status;
}

rf_status rf_stack_layer(const rf_cache *cache, int64_t layer, int64_t *out)
{
    rf_status status = RF_OK;
    const int64_t n_layers = cache->vit->config.n_layers;
    *out = layer < 0 ? layer + n_layers : layer;
    RF_REQUIRE(*out >= 0 && *out <= n_layers,
               "layer %" PRId64 ", expected 0 to %" PRId64 ", or -%" PRId64 " to -1 from the end",
               layer, n_layers, n_layers);
fail:
    return status;
}

/* ---- the accumulated stream ----------------------------------------------------------------- */

rf_status rf_cache_accumulated_resid(const rf_cache *cache, rf_stream *s, int64_t layer,
                                     bool with_mid, rf_resid_stack *out)
{
    rf_status status = RF_OK;
    const int64_t n_layers = cache->vit->config.n_layers;
    rf_stack_fill f = {.cache = cache, .s = s, .stack = out};
    char label[32];
    *out = (rf_resid_stack){0};
    RF_TRY(rf_stack_layer(cache, layer, &layer));
    RF_TRY(rf_stack_begin(&f, layer + 1 + (with_mid ? layer : 0)));
    for (int64_t l = 0; l <= layer; l++) {
        if (l == n_layers) {
            RF_TRY(rf_stack_push(&f, RF_SITE_RESID_POST, l - 1, "final_post"));
            break;
        }
        RF_TRY(rf_format(label, sizeof label, "%" PRId64 "_pre", l));
        RF_TRY(rf_stack_push(&f, RF_SITE_RESID_PRE, l, label));
        if (with_mid && l < layer) {
            RF_TRY(rf_format(label, sizeof label, "%" PRId64 "_mid", l));
            RF_TRY(rf_stack_push(&f, RF_SITE_RESID_MID, l, label));
        }
    }
fail:
    if (status != RF_OK) {
        rf_resid_stack_fini(out);
    }
    return status;
}

/* ---- the final norm and logits -------------------------------------------------------------- */

/* Each row of `small` [B, 1], `n_tokens` times: wide [B * T, 1]. */
static rf_status repeat_by_token(rf_stream *s, const rf_view *small, int64_t n_tokens,
                                 const rf_view *wide)
{
    rf_status status = RF_OK;
    rf_backend *be = rf_stream_backend(s);
    const int64_t n = wide->shape[0];
    int64_t *host = NULL;
    void *index = NULL;
    RF_ALLOC(host, n);
    for (int64_t i = 0; i < n; i++) {
        host[i] = i / n_tokens;
    }
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)n * sizeof *host, &index));
    RF_TRY(rf_copy_in(s, index, host, (size_t)n * sizeof *host));
    const rf_view rows = rf_view_nd(index, RF_I64, 1, &n);
    RF_TRY(rf_gather_rows(s, small, &rows, wide));
    RF_TRY(rf_stream_synchronise(s)); /* the index goes away */
fail:
    rf_memory_free(be, RF_MEMORY_DEVICE, index);
    rf_free(host);
    return status;
}

/* The final norm must be linear in what comes before it, its scale given. */
static rf_status check_ln_final(const rf_vit_config *c)
{
    rf_status status = RF_OK;
    if (!c->has_ln_final) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "this model has no final norm");
    }
    if (c->norm_is_behind_pool && (c->pool == RF_POOL_ATTENTION || c->d_pool != c->d_model)) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "the final norm of this model reads an attention pool, not the residual stream");
    }
fail:
    return status;
}

rf_status rf_cache_apply_ln_final(const rf_cache *cache, rf_stream *s, rf_resid_stack *stack)
{
    rf_status status = RF_OK;
    const rf_vit *vit = cache->vit;
    const int64_t n_rows = cache->n_images * vit->config.n_tokens;
    void *wide = NULL;
    rf_view scale;
    RF_TRY(check_ln_final(&vit->config));
    RF_TRY(rf_cache_need(cache, RF_SITE_LN_FINAL_SCALE, vit->config.n_layers, &scale));
    RF_REQUIRE(stack->values.n_dims == 4 &&
                   stack->values.shape[1] * stack->values.shape[2] == n_rows &&
                   stack->values.shape[3] == vit->config.d_model,
               "the stack is not of this cache's pass");
    if (vit->config.norm_is_behind_pool) {
        const rf_view small = rf_view_2d(scale.data, cache->n_images, 1);
        RF_TRY(rf_memory_alloc(vit->be, RF_MEMORY_DEVICE, (size_t)n_rows * sizeof(float), &wide));
        const rf_view rows = rf_view_2d(wide, n_rows, 1);
        RF_TRY(repeat_by_token(s, &small, vit->config.n_tokens, &rows));
        scale = rows;
    }
    for (int64_t i = 0; i < stack->n; i++) {
        const rf_view rows = rf_stack_at(stack, i);
        const rf_layer_norm_args args = {.x = rows,
                                         .y = rows,
                                         .weight = vit->weights.ln_final.weight,
                                         .divisor = rf_view_1d(scale.data, n_rows)};
        RF_TRY(rf_layer_norm(s, &args));
    }
    RF_TRY(rf_stream_synchronise(s));
fail:
    rf_memory_free(vit->be, RF_MEMORY_DEVICE, wide);
    return status;
}

rf_status rf_cache_logit_attribution(const rf_cache *cache, rf_stream *s,
                                     const rf_resid_stack *stack, const float *direction,
                                     float *out)
{
    rf_status status = RF_OK;
    rf_backend *be = cache->vit->be;
    const int64_t d = cache->vit->config.d_model;
    void *device = NULL;
    RF_REQUIRE(stack->values.n_dims == 4 && stack->values.shape[3] == d,
               "the stack is not of this cache's pass");
    const int64_t n = rf_view_n_elems(&stack->values) / d;
    if (n == 0) {
        return RF_OK;
    }
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)(d + n) * sizeof(float), &device));
    RF_TRY(rf_copy_in(s, device, direction, (size_t)d * sizeof(float)));
    const rf_matmul_args args = {.a = rf_view_2d(stack->values.data, n, d),
                                 .b = rf_view_2d(device, d, 1),
                                 .c = rf_view_2d((float *)device + d, n, 1),
                                 .alpha = 1.0f};
    RF_TRY(rf_matmul(s, &args));
    RF_TRY(rf_copy_out(s, out, args.c.data, (size_t)n * sizeof(float)));
    RF_TRY(rf_stream_synchronise(s));
fail:
    rf_memory_free(be, RF_MEMORY_DEVICE, device);
    return status;
}
