/* A forward pass: pictures to tokens, the blocks, the end; and calling hooks. */
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
    const rf_cache_entry *kept = rf_cache_entry_at(p->cache, site, layer);
    if (kept != NULL) {
        const rf_view act = rf_hook_view(&p->vit->config, &kept->point, p->n_images, data);
        RF_TRY(
            rf_copy_within(p->s, kept->data, data, (size_t)rf_view_n_elems(&act) * sizeof(float)));
    }
    const rf_hook_point here = {.site = (int)site, .layer = layer};
    p->is_done = rf_hook_order(&p->vit->config, &here) >= p->last_order;
fail:
    return status;
}

/* ---- pieces --------------------------------------------------------------------------------- */

rf_view rf_pass_tokens(const rf_pass *p, rf_buf buf)
{
    const rf_vit_config *c = &p->vit->config;
    return rf_view_2d(p->vit->ws.buf[buf], p->n_images * c->n_tokens, c->d_model);
}

rf_status rf_pass_linear(rf_pass *p, const rf_linear *w, const rf_view *a, const rf_view *c,
                         rf_act act)
{
    const rf_matmul_args args = {
        .a = *a, .b = w->weight, .c = *c, .bias = w->bias, .alpha = 1.0f, .act = act};
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

/* ---- the beginning -------------------------------------------------------------------------- */

static rf_status embed_patches(rf_pass *p, const rf_view *images, const rf_view *embed)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const rf_patch_rows_args args = {
        .images = *images,
        .rows = rf_view_2d(p->vit->ws.buf[RF_BUF_MLP], p->n_images * c->n_patches,
                           c->n_channels * c->patch_size * c->patch_size),
        .patch = c->patch_size};
    RF_TRY(rf_patch_rows(p->s, &args));
    RF_TRY(rf_pass_linear(p, &p->vit->weights.patch, &args.rows, embed, RF_ACT_NONE));
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_EMBED, -1, embed->data));
fail:
    return status;
}

/* Tokens without positions, and then a hooked copy of the positions for each picture. */
static rf_status add_hooked_positions(rf_pass *p, const rf_embed_tokens_args *tokens)
{
    rf_status status = RF_OK;
    const rf_vit_weights *w = &p->vit->weights;
    const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
    const rf_view position = rf_pass_tokens(p, RF_BUF_NORMED);
    const int64_t n_tokens = p->vit->config.n_tokens;
    rf_embed_tokens_args bare = *tokens;
    const rf_add_args add = {.x = resid, .r = position, .y = resid};
    for (int64_t i = 0; i < p->n_images; i++) {
        const rf_view rows = rf_view_rows(position, i * n_tokens, n_tokens);
        RF_TRY(rf_copy_within(p->s, rows.data, w->position.data,
                              (size_t)rf_view_n_elems(&rows) * sizeof(float)));
    }
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_POS_EMBED, -1, position.data));
    bare.prefix = w->prefix_token;
    bare.position.data = NULL;
    RF_TRY(rf_embed_tokens(p->s, &bare));
    RF_TRY(rf_add(p->s, &add));
fail:
    return status;
}

static rf_status run_beginning(rf_pass *p, const rf_view *images)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const rf_vit_weights *w = &p->vit->weights;
    const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
    const rf_view embed =
        rf_view_2d(p->vit->ws.buf[RF_BUF_BRANCH], p->n_images * c->n_patches, c->d_model);
    const rf_embed_tokens_args tokens = {
        .patches = embed,
        .position = rf_view_rows(w->position, c->n_prefix, c->n_patches),
        .prefix = w->prefix,
        .out =
            rf_view_nd(resid.data, RF_F32, 3, (int64_t[]){p->n_images, c->n_tokens, c->d_model})};
    RF_PASS_STEP(p, embed_patches(p, images, &embed));
    if (rf_pass_has_hook(p, RF_SITE_POS_EMBED, -1)) {
        RF_PASS_STEP(p, add_hooked_positions(p, &tokens));
    } else {
        RF_TRY(rf_embed_tokens(p->s, &tokens));
    }
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_FULL_EMBED, -1, resid.data));
    if (c->has_ln_pre) {
        RF_PASS_STEP(p,
                     rf_pass_layer_norm(p, &w->ln_pre, &resid, &resid, RF_SITE_LN_PRE_SCALE, -1));
        RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_LN_PRE, -1, resid.data));
    }
fail:
    return status;
}

/* ---- the end -------------------------------------------------------------------------------- */

/* CLS rows of [B * T, d] as a view [B, d]. */
static rf_view cls_rows(const rf_pass *p, rf_buf buf)
{
    const rf_vit_config *c = &p->vit->config;
    rf_view v = rf_view_2d(p->vit->ws.buf[buf], p->n_images, c->d_model);
    v.stride[0] = c->n_tokens * c->d_model;
    return v;
}

static bool head_reads_patches(const rf_pass *p)
{
    return p->vit->config.n_classes > 0 &&
           p->vit->config.head_input == RF_HEAD_POOLED_AND_PATCH_MEAN;
}

/* The final norm: of every token where somebody reads them, else of CLS alone. */
static rf_status pool(rf_pass *p, const rf_view *pooled)
{
    rf_status status = RF_OK;
    const int64_t behind = p->vit->config.n_layers;
    const rf_linear *ln = &p->vit->weights.ln_final;
    const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
    const rf_view normed = rf_pass_tokens(p, RF_BUF_NORMED);
    const bool hooked = rf_pass_has_hook(p, RF_SITE_LN_FINAL_SCALE, behind) ||
                        rf_pass_has_hook(p, RF_SITE_LN_FINAL_NORMALIZED, behind) ||
                        rf_pass_has_hook(p, RF_SITE_LN_FINAL, behind);
    if (hooked || head_reads_patches(p)) {
        RF_PASS_STEP(p, rf_pass_layer_norm(p, ln, &resid, &normed, RF_SITE_LN_FINAL_SCALE, behind));
        RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_LN_FINAL, behind, normed.data));
        const rf_add_args copy = {.r = cls_rows(p, RF_BUF_NORMED), .y = *pooled};
        RF_TRY(rf_add(p->s, &copy));
    } else {
        const rf_layer_norm_args args = {.x = cls_rows(p, RF_BUF_RESID),
                                         .weight = ln->weight,
                                         .bias = ln->bias,
                                         .y = *pooled,
                                         .eps = p->vit->config.eps};
        RF_TRY(rf_layer_norm(p->s, &args));
    }
    RF_PASS_STEP(p, rf_pass_fire(p, RF_SITE_POOLED, behind, pooled->data));
fail:
    return status;
}

/* [pooled, mean of the patch tokens behind the final norm]. */
static rf_status join_patch_mean(rf_pass *p, const rf_view *pooled, const rf_view *joined)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const int64_t d = c->d_model;
    const rf_view normed = rf_pass_tokens(p, RF_BUF_NORMED);
    rf_view left = *joined;
    left.shape[1] = d;
    const rf_add_args copy = {.r = *pooled, .y = left};
    RF_TRY(rf_add(p->s, &copy));
    for (int64_t i = 0; i < p->n_images; i++) {
        const rf_row_sum_args mean = {
            .x = rf_view_rows(normed, i * c->n_tokens + c->n_prefix, c->n_patches),
            .out = rf_view_1d((float *)joined->data + i * joined->stride[0] + d, d),
            .alpha = 1.0f / (float)c->n_patches};
        RF_TRY(rf_row_sum(p->s, &mean));
    }
fail:
    return status;
}

static rf_status run_end(rf_pass *p, rf_vit_output *out)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const rf_vit_weights *w = &p->vit->weights;
    float *const *buf = p->vit->ws.buf;
    const rf_view pooled = rf_view_2d(buf[RF_BUF_POOLED], p->n_images, c->d_model);
    rf_view embedding = pooled, logits = {0};

    RF_PASS_STEP(p, pool(p, &pooled));
    if (c->has_projection) {
        embedding = rf_view_2d(buf[RF_BUF_EMBEDDING], p->n_images, c->d_out);
        RF_TRY(rf_pass_linear(p, &w->projection, &pooled, &embedding, RF_ACT_NONE));
    }
    if (c->n_classes > 0) {
        rf_view input = pooled;
        if (head_reads_patches(p)) {
            input = rf_view_2d(buf[RF_BUF_HEAD_IN], p->n_images, 2 * c->d_model);
            RF_TRY(join_patch_mean(p, &pooled, &input));
        }
        logits = rf_view_2d(buf[RF_BUF_LOGITS], p->n_images, c->n_classes);
        RF_TRY(rf_pass_linear(p, &w->head, &input, &logits, RF_ACT_NONE));
    }
    *out = (rf_vit_output){.embedding = embedding, .logits = logits};
fail:
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static rf_status check_hooks(const rf_vit_config *c, const rf_hook *hooks, int64_t n_hooks,
                             int64_t first_layer)
{
    rf_status status = RF_OK;
    RF_REQUIRE(n_hooks >= 0, "n_hooks=%" PRId64 ", expected >= 0", n_hooks);
    for (int64_t i = 0; i < n_hooks; i++) {
        rf_hook_point same; /* a point of another model has other widths or is not there */
        const rf_hook_point *point = &hooks[i].point;
        RF_REQUIRE(hooks[i].fn != NULL, "hook %" PRId64 " has no function", i);
        RF_TRY(rf_vit_hook_find(c, point->name, &same));
        RF_REQUIRE(same.site == point->site && same.layer == point->layer &&
                       same.width == point->width && same.shape == point->shape,
                   "hook point '%s' belongs to another model", point->name);
        RF_REQUIRE(point->layer >= first_layer,
                   "hook point '%s' lies before block %" PRId64 ", where the pass begins",
                   point->name, first_layer);
    }
fail:
    return status;
}

static rf_status check_images(const rf_vit_config *c, const rf_view *images)
{
    rf_status status = RF_OK;
    RF_REQUIRE(images->n_dims == 4 && images->dtype == RF_F32 && rf_view_is_contiguous(images),
               "images must be contiguous fp32 [B, C, H, W]");
    RF_REQUIRE(images->shape[1] == c->n_channels && images->shape[2] == c->image_height &&
                   images->shape[3] == c->image_width,
               "images are [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
               "], expected [B, %" PRId64 ", %" PRId64 ", %" PRId64 "]",
               images->shape[0], images->shape[1], images->shape[2], images->shape[3],
               c->n_channels, c->image_height, c->image_width);
fail:
    return status;
}

static rf_status check_resid(const rf_vit_config *c, int64_t layer, const rf_view *resid)
{
    rf_status status = RF_OK;
    RF_REQUIRE(layer >= 0 && layer < c->n_layers,
               "a pass cannot begin at block %" PRId64 " of %" PRId64, layer, c->n_layers);
    RF_REQUIRE(resid->n_dims == 3 && resid->dtype == RF_F32 && rf_view_is_contiguous(resid) &&
                   resid->shape[1] == c->n_tokens && resid->shape[2] == c->d_model,
               "the residual stream must be contiguous fp32 [B, %" PRId64 ", %" PRId64 "]",
               c->n_tokens, c->d_model);
fail:
    return status;
}

/* The beginning: from images (layer -1), or from a residual stream that is given. */
static rf_status begin(rf_pass *p, int64_t layer, const rf_view *input)
{
    rf_status status = RF_OK;
    if (layer < 0) {
        return run_beginning(p, input);
    }
    const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
    RF_TRY(rf_copy_within(p->s, resid.data, input->data,
                          (size_t)rf_view_n_elems(&resid) * sizeof(float)));
fail:
    return status;
}

/* Blocks up to `stop_layer`, then the end where it is n_layers + 1. */
static rf_status run(rf_pass *p, const rf_vit_run_args *args, int64_t stop_layer,
                     rf_vit_output *out)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const bool from_resid = args->resid.data != NULL;
    RF_PASS_STEP(
        p, begin(p, from_resid ? args->first_layer : -1, from_resid ? &args->resid : &args->input));
    for (int64_t layer = from_resid ? args->first_layer : 0;
         layer < rf_min_i64(stop_layer, c->n_layers); layer++) {
        RF_PASS_STEP(p, rf_pass_block(p, layer));
    }
    if (stop_layer > c->n_layers) {
        RF_PASS_STEP(p, run_end(p, out));
    } else {
        out->resid = rf_view_nd(p->vit->ws.buf[RF_BUF_RESID], RF_F32, 3,
                                (int64_t[]){p->n_images, c->n_tokens, c->d_model});
    }
fail:
    return status;
}

/* How far the pass goes: the deepest point that is asked for, and the buffers that are needed. */
static unsigned find_depth(rf_pass *p, rf_vit_stop stop)
{
    const rf_vit_config *c = &p->vit->config;
    unsigned on_request = 0;
    p->last_order = stop == RF_VIT_STOP_AFTER_HOOKS ? INT64_MIN : INT64_MAX;
    for (int64_t i = 0; i < p->n_hooks; i++) {
        p->last_order = rf_max_i64(p->last_order, rf_hook_order(c, &p->hooks[i].point));
        on_request |= p->hooks[i].point.shape == RF_HOOK_PATTERN ? 1U << RF_BUF_PATTERN : 0U;
        on_request |= p->hooks[i].point.shape == RF_HOOK_HEAD_RESID ? 1U << RF_BUF_SPLIT : 0U;
    }
    for (int64_t i = 0; p->cache != NULL && i < p->cache->n_entries; i++) {
        const rf_hook_point *point = &p->cache->entries[i].point;
        p->last_order = rf_max_i64(p->last_order, rf_hook_order(c, point));
        on_request |= point->shape == RF_HOOK_PATTERN ? 1U << RF_BUF_PATTERN : 0U;
        on_request |= point->shape == RF_HOOK_HEAD_RESID ? 1U << RF_BUF_SPLIT : 0U;
    }
    return on_request;
}

static rf_status stop_layer_of(const rf_vit_config *c, const rf_vit_run_args *args, int64_t *out)
{
    rf_status status = RF_OK;
    *out = c->n_layers + 1;
    if (args->stop == RF_VIT_STOP_AT_LAYER) {
        *out = args->stop_layer < 0 ? args->stop_layer + c->n_layers : args->stop_layer;
        RF_REQUIRE(*out >= 0 && *out <= c->n_layers,
                   "a pass cannot stop at layer %" PRId64 " of %" PRId64, args->stop_layer,
                   c->n_layers);
    }
fail:
    return status;
}

rf_status rf_vit_run(rf_vit *vit, rf_stream *s, const rf_vit_run_args *args, rf_vit_output *out)
{
    rf_status status = RF_OK;
    rf_vit_output result = {0};
    rf_pass p = {
        .vit = vit, .s = s, .hooks = args->hooks, .n_hooks = args->n_hooks, .cache = args->cache};
    const bool from_resid = args->resid.data != NULL;
    int64_t stop_layer = 0;

    RF_TRY(from_resid ? check_resid(&vit->config, args->first_layer, &args->resid)
                      : check_images(&vit->config, &args->input));
    RF_TRY(check_hooks(&vit->config, p.hooks, p.n_hooks, from_resid ? args->first_layer : -1));
    RF_TRY(stop_layer_of(&vit->config, args, &stop_layer));
    p.n_images = from_resid ? args->resid.shape[0] : args->input.shape[0];
    const unsigned on_request = find_depth(&p, args->stop);
    if (args->cache != NULL) {
        RF_TRY(rf_cache_begin(args->cache, s, p.n_images));
    }
    if (p.n_images > 0 && p.last_order != INT64_MIN) { /* else nothing is asked for */
        RF_TRY(rf_workspace_reserve(vit, s, p.n_images, on_request));
        RF_TRY(run(&p, args, stop_layer, &result));
    }
    if (args->cache != NULL) {
        args->cache->is_complete = !from_resid && stop_layer > vit->config.n_layers;
    }
fail:
    if (out != NULL) {
        *out = result;
    }
    return status;
}

rf_status rf_vit_forward(rf_vit *vit, rf_stream *s, const rf_view *images, const rf_hook *hooks,
                         int64_t n_hooks, rf_vit_stop stop, rf_vit_output *out)
{
    const rf_vit_run_args args = {
        .input = *images, .hooks = hooks, .n_hooks = n_hooks, .stop = stop};
    return rf_vit_run(vit, s, &args, out);
}
