/* A backward pass: from the gradients of the outputs, through the points in the reverse of their
 * firing order, to weights and input. It reads a full cache, the weights and the input: nothing is
 * recorded for it while the model runs. */
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

/* ---- the beginning -------------------------------------------------------------------------- */

/* By the positions: they are added to every picture's tokens. */
static rf_status position_grad(rf_backward *b, const rf_view *d_tokens)
{
    rf_status status = RF_OK;
    const rf_view d_position = rf_backward_weight(b, &b->vit->weights.position);
    rf_embed_tokens_args sum = {.out = *d_tokens, .position = d_position};
    if (rf_backward_has_hook(b, RF_SITE_POS_EMBED, -1)) {
        const rf_view rows = rf_backward_tokens(b, RF_GRAD_RESID);
        const rf_view copy = rf_backward_tokens(b, RF_GRAD_NORMED);
        RF_TRY(rf_add(b->s, &(rf_add_args){.r = rows, .y = copy}));
        RF_TRY(rf_backward_fire(b, RF_SITE_POS_EMBED, -1, copy.data));
        sum.out.data = copy.data;
    }
    if (d_position.data != NULL) {
        RF_TRY(rf_embed_tokens_grad(b->s, &sum));
    }
fail:
    return status;
}

static rf_status patch_grad(rf_backward *b, const rf_view *d_embed)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const rf_vit_weights *w = &b->vit->weights;
    const rf_view rows =
        rf_view_2d(b->vit->backward.buf[RF_GRAD_MLP], d_embed->shape[0], w->patch.weight.shape[0]);
    const rf_view d_input = b->args->d_input;
    rf_patch_rows_args patches = {.images = b->args->input,
                                  .rows = rows,
                                  .patch = c->patch_size,
                                  .tubelet = c->input == RF_VIT_CLIPS ? c->tubelet : 0};
    const rf_linear_grad_args by_weight = {
        .map = &w->patch, .x = rows, .d_y = *d_embed, .alpha = 1.0f};
    if (b->args->d_weights != NULL) {
        RF_TRY(rf_patch_rows(b->s, &patches));
        RF_TRY(rf_backward_linear(b, &by_weight));
    }
    if (d_input.data != NULL) {
        const rf_matmul_args by_rows = {
            .a = *d_embed, .b = w->patch.weight, .c = rows, .trans_b = RF_TRANS, .alpha = 1.0f};
        RF_TRY(rf_matmul(b->s, &by_rows));
        patches.images = d_input;
        RF_TRY(rf_patch_rows_grad(b->s, &patches));
    }
fail:
    return status;
}

static rf_status token_grad(rf_backward *b, const rf_view *d_embed)
{
    rf_status status = RF_OK;
    const rf_view d_table = rf_backward_weight(b, &b->vit->weights.token);
    rf_view ids = b->args->input;
    if (d_table.data != NULL) {
        ids.n_dims = 1;
        ids.shape[0] = d_embed->shape[0];
        ids.stride[0] = 1;
        RF_TRY(rf_gather_rows_grad(b->s, d_embed, &ids, &d_table));
    }
fail:
    return status;
}

static rf_status beginning_grad(rf_backward *b)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->vit->config;
    const rf_vit_weights *w = &b->vit->weights;
    const rf_view resid = rf_backward_tokens(b, RF_GRAD_RESID);
    const rf_view d_embed = rf_view_2d(b->vit->backward.buf[RF_GRAD_BRANCH],
                                       b->n_images * (c->n_tokens - c->n_prefix), c->d_model);
    rf_embed_tokens_args tokens = {
        .patches = d_embed,
        .prefix = rf_backward_weight(b, &w->prefix_token),
        .out =
            rf_view_nd(resid.data, RF_F32, 3, (int64_t[]){b->n_images, c->n_tokens, c->d_model})};
    rf_view x;
    if (c->has_ln_pre) {
        RF_TRY(rf_backward_fire(b, RF_SITE_LN_PRE, -1, resid.data));
        RF_TRY(rf_backward_value(b, RF_SITE_FULL_EMBED, -1, &x));
        RF_TRY(rf_backward_norm(b, &w->ln_pre, &x, &resid, &resid, RF_SITE_LN_PRE_SCALE, -1));
    }
    RF_TRY(rf_backward_fire(b, RF_SITE_FULL_EMBED, -1, resid.data));
    if (c->has_position) {
        RF_TRY(position_grad(b, &tokens.out));
    }
    RF_TRY(rf_embed_tokens_grad(b->s, &tokens));
    RF_TRY(rf_backward_fire(b, RF_SITE_EMBED, -1, d_embed.data));
    RF_TRY(c->input == RF_VIT_TEXT ? token_grad(b, &d_embed) : patch_grad(b, &d_embed));
fail:
    return status;
}

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
    if (vit->products != RF_F32) {
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
        RF_TRY(beginning_grad(&b));
    }
fail:
    return status;
}
