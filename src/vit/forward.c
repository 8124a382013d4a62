/* A forward pass from end to end: what is asked of it, how far it goes, and its parts in order. */
#include "vit_impl.h"

#include <string.h>

/* ---- what is asked for ---------------------------------------------------------------------- */

static int64_t n_asked(const rf_pass *p)
{
    return p->n_hooks + (p->cache != NULL ? p->cache->n_entries : 0);
}

/* Points that are hooked, then points that are cached. */
static const rf_hook_point *asked(const rf_pass *p, int64_t idx)
{
    return idx < p->n_hooks ? &p->hooks[idx].point : &p->cache->entries[idx - p->n_hooks].point;
}

static bool is_split_input(const rf_hook_point *point)
{
    return point->site >= RF_SITE_ATTN_IN && point->site <= RF_SITE_V_INPUT;
}

static rf_status check_hook(const rf_vit_config *c, const rf_hook *hook, int64_t first_layer,
                            int64_t stop_layer)
{
    rf_status status = RF_OK;
    rf_hook_point same; /* a point of another model has another width or is not there */
    const rf_hook_point *point = &hook->point;
    RF_REQUIRE(hook->fn != NULL, "the hook at '%s' has no function", point->name);
    RF_REQUIRE(point->site >= 0 && point->site < RF_N_SITES &&
                   rf_hook_point_at(c, (rf_site)point->site, point->layer, &same) &&
                   same.layer == point->layer && same.width == point->width &&
                   same.shape == point->shape && strcmp(same.name, point->name) == 0,
               "hook point '%.*s' belongs to another model", RF_NAME_LEN, point->name);
    RF_REQUIRE(point->layer >= first_layer,
               "hook point '%s' lies before block %" PRId64 ", where the pass begins", point->name,
               first_layer);
    RF_REQUIRE(point->layer < stop_layer,
               "hook point '%s' lies behind the start of block %" PRId64 ", where the pass stops",
               point->name, stop_layer);
fail:
    return status;
}

/* Once q, k or v has inputs of its own for each head there is a norm for each of them too, and
 * none whose values could be shown at ln1. */
static rf_status check_split_inputs(const rf_pass *p)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; p->vit->config.norm_place == RF_NORM_BEFORE && i < n_asked(p); i++) {
        const rf_hook_point *point = asked(p, i);
        RF_REQUIRE(!is_split_input(point) ||
                       (!rf_pass_has_hook(p, RF_SITE_LN1_SCALE, point->layer) &&
                        !rf_pass_has_hook(p, RF_SITE_LN1_NORMALIZED, point->layer)),
                   "'%s' gives every head a norm of its own: blocks.%" PRId64
                   ".ln1 cannot be hooked or cached in the same pass",
                   point->name, point->layer);
    }
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

/* The block before which the pass stops; n_layers + 1: it runs to the end. */
static rf_status find_stop(const rf_vit_config *c, const rf_vit_run_args *args, int64_t *out)
{
    rf_status status = RF_OK;
    *out = c->n_layers + 1;
    if (args->stop == RF_VIT_STOP_AT_LAYER) {
        *out = args->stop_layer < 0 ? args->stop_layer + c->n_layers : args->stop_layer;
        RF_REQUIRE(*out >= 0 && *out <= c->n_layers,
                   "a pass cannot stop at layer %" PRId64 " of %" PRId64, args->stop_layer,
                   c->n_layers);
        RF_REQUIRE(args->resid.data == NULL || *out >= args->first_layer,
                   "a pass from block %" PRId64 " on cannot stop at layer %" PRId64,
                   args->first_layer, *out);
    }
fail:
    return status;
}

static rf_status check_args(const rf_pass *p, const rf_vit_run_args *args, int64_t stop_layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const bool from_resid = args->resid.data != NULL;
    if (from_resid) {
        RF_TRY(check_resid(c, args->first_layer, &args->resid));
    }
    if (!from_resid || args->input.data != NULL) {
        RF_TRY(rf_pass_check_input(c, &args->input));
    }
    RF_REQUIRE(!from_resid || args->input.data == NULL ||
                   args->input.shape[0] == args->resid.shape[0],
               "input and residual stream have %" PRId64 " and %" PRId64 " pictures",
               args->input.shape[0], args->resid.shape[0]);
    RF_REQUIRE(args->n_hooks >= 0, "n_hooks=%" PRId64 ", expected >= 0", args->n_hooks);
    for (int64_t i = 0; i < args->n_hooks; i++) {
        RF_TRY(check_hook(c, &args->hooks[i], from_resid ? args->first_layer : -1, stop_layer));
    }
    RF_REQUIRE(args->cache == NULL || args->cache->vit == p->vit,
               "the cache was made for another model");
    RF_TRY(check_split_inputs(p));
fail:
    return status;
}

/* How far the pass goes: the deepest point that is asked for, and the buffers that are needed. */
static unsigned find_depth(rf_pass *p, rf_vit_stop stop)
{
    unsigned on_request = 0;
    p->last_order = stop == RF_VIT_STOP_AFTER_HOOKS ? INT64_MIN : INT64_MAX;
    for (int64_t i = 0; i < n_asked(p); i++) {
        const rf_hook_point *point = asked(p, i);
        p->last_order = rf_max_i64(p->last_order, rf_hook_order(&p->vit->config, point));
        if (point->shape == RF_HOOK_PATTERN) {
            on_request |= 1U << RF_BUF_PATTERN;
        } else if (point->shape == RF_HOOK_HEAD_RESID) {
            const bool is_shared = point->site == RF_SITE_ATTN_IN || point->site == RF_SITE_RESULT;
            on_request |= 1U << (is_shared ? RF_BUF_SPLIT : RF_BUF_SPLIT_COPY);
        }
    }
    return on_request;
}

/* ---- running -------------------------------------------------------------------------------- */

/* Blocks up to `stop_layer`, then the end where it is n_layers + 1. */
static rf_status run(rf_pass *p, const rf_vit_run_args *args, int64_t stop_layer,
                     rf_vit_output *out)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->vit->config;
    const bool from_resid = args->resid.data != NULL;
    const rf_view resid = rf_pass_tokens(p, RF_BUF_RESID);
    if (c->input == RF_VIT_TEXT && args->input.data != NULL) {
        RF_TRY(rf_pass_read_ids(p, &args->input));
    }
    if (from_resid) {
        RF_TRY(rf_copy_within(p->s, resid.data, args->resid.data,
                              (size_t)rf_view_n_elems(&resid) * sizeof(float)));
    } else {
        RF_PASS_STEP(p, rf_pass_begin(p, &args->input));
    }
    for (int64_t layer = from_resid ? args->first_layer : 0;
         layer < rf_min_i64(stop_layer, c->n_layers); layer++) {
        RF_PASS_STEP(p, rf_pass_block(p, layer));
    }
    if (stop_layer > c->n_layers) {
        RF_PASS_STEP(p, rf_pass_end(p, out));
    } else {
        out->resid =
            rf_view_nd(resid.data, RF_F32, 3, (int64_t[]){p->n_images, c->n_tokens, c->d_model});
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

    RF_TRY(find_stop(&vit->config, args, &stop_layer));
    RF_TRY(check_args(&p, args, stop_layer));
    p.n_images = from_resid ? args->resid.shape[0] : args->input.shape[0];
    const unsigned on_request = find_depth(&p, args->stop);
    if (args->cache != NULL) {
        RF_TRY(rf_cache_begin(args->cache, s, p.n_images));
        rf_cache_note_hooks(args->cache, args->hooks, args->n_hooks);
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
        *out = status == RF_OK ? result : (rf_vit_output){0};
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
