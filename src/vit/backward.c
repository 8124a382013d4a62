/* A backward pass: from the gradients of the outputs, through the points in the reverse of their
 * firing order, to weights and input. It reads a full cache, the weights and the input: nothing is
 * recorded for it while the model runs. */
#include "vit_impl.h"

/* ---- checks --------------------------------------------------------------------------------- */

static rf_status check_cache(const rf_vit *vit, const rf_cache *cache)
{
    rf_status status = RF_OK;
    RF_REQUIRE(cache != NULL, "gradients need the cache of a pass");
    RF_REQUIRE(cache->vit == vit, "the cache belongs to another model");
    RF_REQUIRE(cache->is_full,
               "the cache keeps %" PRId64 " hook points, and gradients need all of them: create it "
               "without filters",
               cache->n_entries);
    RF_REQUIRE(cache->is_complete, "the cache holds no whole pass: give it to rf_vit_run with an "
                                   "input and without a layer to stop at");
    RF_REQUIRE(cache->processing == vit->processing,
               "the weights were processed after the cache was made");
    if (cache->has_request_hooks) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "gradients of a pass with hooks at points on request "
                                    "(hook_result, hook_q_input and the like)");
    }
fail:
    return status;
}

static rf_status check_hooks(const rf_vit_config *c, const rf_hook *hooks, int64_t n_hooks)
{
    rf_status status = RF_OK;
    RF_REQUIRE(n_hooks >= 0, "n_hooks=%" PRId64 ", expected >= 0", n_hooks);
    for (int64_t i = 0; i < n_hooks; i++) {
        rf_hook_point same;
        const rf_hook_point *point = &hooks[i].point;
        RF_REQUIRE(hooks[i].fn != NULL, "backward hook %" PRId64 " has no function", i);
        RF_TRY(rf_vit_hook_find(c, point->name, &same));
        RF_REQUIRE(same.site == point->site && same.layer == point->layer &&
                       same.width == point->width && same.shape == point->shape,
                   "hook point '%s' belongs to another model", point->name);
        if (point->is_on_request) {
            RF_FAIL(RF_ERR_UNSUPPORTED, "backward hook at '%s': points on request have no gradient",
                    point->name);
        }
    }
fail:
    return status;
}

static rf_status check_seed(const char *name, const rf_view *seed, int64_t n_images, int64_t width)
{
    rf_status status = RF_OK;
    if (seed->data != NULL) {
        RF_REQUIRE(width > 0, "%s is given, but the model has no such output", name);
        RF_REQUIRE(seed->n_dims == 2 && seed->dtype == RF_F32 && seed->shape[0] == n_images &&
                       seed->shape[1] == width && seed->stride[1] == 1,
                   "%s must be fp32 [%" PRId64 ", %" PRId64 "]", name, n_images, width);
    }
fail:
    return status;
}

/* Of the pass that the cache is of: `name` is "input" or "d_input". */
static rf_status check_input(const rf_vit_config *c, const char *name, const rf_view *v, int64_t n)
{
    rf_status status = RF_OK;
    const int64_t pictures[5] = {n, c->n_frames, c->n_channels, c->image_height, c->image_width};
    const int first = c->input == RF_VIT_PICTURES ? 1 : 0; /* a picture has no frames */
    if (v->data == NULL) {
        return RF_OK;
    }
    if (c->input == RF_VIT_TEXT) {
        RF_REQUIRE(v->n_dims == 2 && v->dtype == RF_I64 && v->shape[0] == n &&
                       v->shape[1] == c->n_tokens && rf_view_is_contiguous(v),
                   "%s must be contiguous I64 [%" PRId64 ", %" PRId64 "]", name, n, c->n_tokens);
        return RF_OK;
    }
    RF_REQUIRE(v->n_dims == 5 - first && v->dtype == RF_F32 && v->shape[0] == n,
               "%s must be fp32 of %d dimensions, and %" PRId64 " in the first", name, 5 - first,
               n);
    for (int i = 1; i < v->n_dims; i++) {
        RF_REQUIRE(v->shape[i] == pictures[i + first],
                   "%s has %" PRId64 " in dimension %d, expected %" PRId64, name, v->shape[i], i,
                   pictures[i + first]);
    }
fail:
    return status;
}

static rf_status check_args(const rf_vit *vit, const rf_vit_backward_args *args)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &vit->config;
    if (vit->products == RF_PRODUCTS_BF16) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "gradients of a model whose products are bf16: open it with fp32 products");
    }
    RF_TRY(check_cache(vit, args->cache));
    const int64_t n = args->cache->n_images;
    RF_TRY(check_hooks(c, args->hooks, args->n_hooks));
    RF_TRY(check_seed("d_embedding", &args->d_embedding, n, c->d_out));
    RF_TRY(check_seed("d_logits", &args->d_logits, n, c->n_classes));
    RF_TRY(check_input(c, "input", &args->input, n));
    RF_REQUIRE(args->d_input.data == NULL || c->input != RF_VIT_TEXT,
               "token ids have no gradient: hook hook_embed instead");
    RF_TRY(check_input(c, "d_input", &args->d_input, n));
    RF_REQUIRE(args->d_weights == NULL || args->input.data != NULL || n == 0,
               "the gradient of the %s embedding needs the input of the pass",
               c->input == RF_VIT_TEXT ? "token" : "patch");
    RF_REQUIRE(c->pool != RF_POOL_END || args->input.data != NULL || n == 0,
               "this model pools where a text ends: gradients need the input of the pass");
fail:
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------ */

/* The layer of the first point that is asked for; -1 where weights or input are. */
static int64_t find_last_layer(const rf_vit *vit, const rf_vit_backward_args *args)
{
    int64_t layer = vit->config.n_layers;
    if (args->d_weights != NULL || args->d_input.data != NULL) {
        return -1;
    }
    for (int64_t i = 0; i < args->n_hooks; i++) {
        layer = rf_min_i64(layer, args->hooks[i].point.layer);
    }
    return layer;
}

rf_status rf_vit_backward(rf_vit *vit, rf_stream *s, const rf_vit_backward_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(check_args(vit, args));
    rf_backward b = {.vit = vit,
                     .s = s,
                     .args = args,
                     .cache = args->cache,
                     .n_images = args->cache->n_images,
                     .last_layer = find_last_layer(vit, args)};
    bool with_softmax = vit->config.pool == RF_POOL_ATTENTION;
    for (int64_t layer = 0; layer < vit->config.n_layers; layer++) {
        with_softmax |= rf_backward_was_hooked(&b, RF_SITE_PATTERN, layer);
    }
    if (b.n_images == 0) {
        goto fail;
    }
    RF_TRY(rf_backward_reserve(vit, s, b.n_images, with_softmax));
    if (vit->config.input == RF_VIT_TEXT && args->input.data != NULL) {
        rf_pass p = {.vit = vit, .s = s, .n_images = b.n_images};
        RF_TRY(rf_pass_read_ids(&p, &args->input)); /* checks them; a pass between may have had
                                                       other ends */
    }
    RF_TRY(rf_backward_end(&b));
    for (int64_t layer = vit->config.n_layers - 1; layer >= rf_max_i64(b.last_layer, 0); layer--) {
        RF_TRY(rf_backward_block(&b, layer));
    }
    if (b.last_layer < 0) {
        RF_TRY(rf_backward_begin(&b));
    }
fail:
    return status;
}
