/* The residual stream as a sum: embeddings, branches, heads, neurons. Every norm on the way is
 * taken as the pass had it, with its own scale, which makes it linear: (x - mean(x)) / scale * w of
 * a sum is the sum of those of its summands, and the norm's bias a summand by itself. */
#include "vit_impl.h"

/* ---- embeddings ----------------------------------------------------------------------------- */

static int64_t count_embeddings(const rf_vit *vit)
{
    const rf_vit_config *c = &vit->config;
    return 1 + (c->n_prefix > 0) + c->has_position +
           (c->has_ln_pre && vit->weights.ln_pre.bias.data != NULL);
}

/* rows [n_rows, d] of each picture of `slot`, from token `first` on, become those of `from`:
 * another n_rows for each picture, or the same (stride 0). */
static rf_status put_tokens(rf_stack_fill *f, const rf_view *slot, int64_t first, int64_t n_rows,
                            const float *from, int64_t stride)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &f->cache->vit->config;
    for (int64_t i = 0; i < f->cache->n_images; i++) {
        const rf_view rows = rf_view_rows(*slot, i * c->n_tokens + first, n_rows);
        RF_TRY(rf_copy_within(f->s, rows.data, from + i * stride,
                              (size_t)(n_rows * c->d_model) * sizeof(float)));
    }
fail:
    return status;
}

/* y = row [d] on every token. The index of zeros is new memory, which is zeroed. */
static rf_status put_row(rf_stack_fill *f, const rf_view *slot, void *row)
{
    rf_status status = RF_OK;
    rf_backend *be = f->cache->vit->be;
    const int64_t n = slot->shape[0];
    void *zeros = NULL;
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)n * sizeof(int64_t), &zeros));
    const rf_view index = rf_view_nd(zeros, RF_I64, 1, &n);
    const rf_view source = rf_view_2d(row, 1, slot->shape[1]);
    RF_TRY(rf_gather_rows(f->s, &source, &index, slot));
    RF_TRY(rf_stream_synchronise(f->s)); /* the index goes away */
fail:
    rf_memory_free(be, RF_MEMORY_DEVICE, zeros);
    return status;
}

/* What the norm before the blocks makes of the embeddings so far. */
static rf_status pass_ln_pre(rf_stack_fill *f)
{
    rf_status status = RF_OK;
    const rf_linear *ln = &f->cache->vit->weights.ln_pre;
    rf_view scale, slot;
    RF_TRY(rf_cache_need(f->cache, RF_SITE_LN_PRE_SCALE, -1, &scale));
    for (int64_t i = 0; i < f->n_filled; i++) {
        const rf_view rows = rf_stack_at(f->stack, i);
        const rf_layer_norm_args args = {.x = rows,
                                         .y = rows,
                                         .weight = ln->weight,
                                         .divisor = rf_view_1d(scale.data, rows.shape[0])};
        RF_TRY(rf_layer_norm(f->s, &args));
    }
    if (ln->bias.data != NULL) {
        RF_TRY(rf_stack_next(f, &slot, "ln_pre_bias"));
        RF_TRY(put_row(f, &slot, ln->bias.data));
    }
fail:
    return status;
}

static rf_status push_embeddings(rf_stack_fill *f)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &f->cache->vit->config;
    rf_view embed, slot;
    RF_TRY(rf_cache_need(f->cache, RF_SITE_EMBED, -1, &embed));
    RF_TRY(rf_stack_next(f, &slot, "embed"));
    RF_TRY(put_tokens(f, &slot, c->n_prefix, embed.shape[1], embed.data, embed.stride[0]));
    if (c->n_prefix > 0) {
        const bool is_cls = c->n_prefix == 1 && c->has_cls;
        RF_TRY(rf_stack_next(f, &slot, is_cls ? "cls" : "prefix"));
        RF_TRY(put_tokens(f, &slot, 0, c->n_prefix, f->cache->vit->weights.prefix_token.data, 0));
    }
    if (c->has_position) {
        RF_TRY(rf_stack_push(f, RF_SITE_POS_EMBED, -1, "pos_embed"));
    }
    if (c->has_ln_pre) {
        RF_TRY(pass_ln_pre(f));
    }
fail:
    return status;
}

/* ---- the parts of a branch ------------------------------------------------------------------ */

/* How a branch makes what it adds of its last wide activation: [norm] . W + b, [norm], [scale]. */
typedef struct branch {
    rf_stack_fill *f;
    rf_view wide; /* [n, w]: z of all heads, or the MLP's hidden layer */
    const rf_linear *inner, *out, *outer;
    rf_view inner_scale, outer_scale; /* [n] of the pass; absent where there is no such norm */
    rf_view layer_scale;              /* [d], or absent */
    rf_view spread;                   /* [n, w] scratch, with an inner norm */
} branch;

static void branch_fini(branch *b)
{
    rf_memory_free(b->f->cache->vit->be, RF_MEMORY_DEVICE, b->spread.data);
}

/* The pass's scale of a norm, as [n]. */
static rf_status need_scale(const branch *b, rf_site site, int64_t layer, rf_view *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_cache_need(b->f->cache, site, layer, out));
    *out = rf_view_1d(out->data, b->wide.shape[0]);
fail:
    return status;
}

static rf_status branch_init(branch *b, rf_stack_fill *f, rf_site wide_site, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &f->cache->vit->config;
    const rf_block_weights *w = &f->cache->vit->weights.blocks[layer];
    const bool is_attn = wide_site == RF_SITE_Z;
    rf_view wide;
    *b = (branch){.f = f};
    b->inner = is_attn ? &w->attn_ln : &w->mlp_ln;
    b->out = is_attn ? &w->o : &w->fc2;
    b->outer = is_attn ? &w->ln1 : &w->ln2;
    b->layer_scale = is_attn ? w->scale1 : w->scale2;
    RF_TRY(rf_cache_need(f->cache, wide_site, layer, &wide));
    const int64_t n_rows = wide.shape[0] * wide.shape[1];
    b->wide = rf_view_2d(wide.data, n_rows, rf_view_n_elems(&wide) / n_rows);
    if (is_attn ? c->has_attn_norm : c->has_mlp_norm) {
        RF_TRY(need_scale(b, is_attn ? RF_SITE_ATTN_LN_SCALE : RF_SITE_MLP_LN_SCALE, layer,
                          &b->inner_scale));
        b->spread = b->wide;
        b->spread.data = NULL;
        RF_TRY(rf_memory_alloc(f->cache->vit->be, RF_MEMORY_DEVICE,
                               (size_t)rf_view_n_elems(&wide) * sizeof(float), &b->spread.data));
    }
    if (c->norm_place == RF_NORM_BEHIND) {
        RF_TRY(
            need_scale(b, is_attn ? RF_SITE_LN1_SCALE : RF_SITE_LN2_SCALE, layer, &b->outer_scale));
    }
fail:
    return status;
}

static rf_view columns(rf_view v, int64_t first, int64_t n)
{
    v.data = (float *)v.data + first;
    v.shape[1] = n;
    return v;
}

/* What stands behind the linear map, on what came out of it; `bias` of the outer norm or absent. */
static rf_status leave_branch(const branch *b, const rf_view *slot, rf_view bias)
{
    rf_status status = RF_OK;
    if (b->outer_scale.data != NULL) {
        const rf_layer_norm_args norm = {.x = *slot,
                                         .y = *slot,
                                         .weight = b->outer->weight,
                                         .bias = bias,
                                         .divisor = b->outer_scale};
        RF_TRY(rf_layer_norm(b->f->s, &norm));
    }
    if (b->layer_scale.data != NULL) {
        const rf_add_args scale = {.r = *slot, .scale = b->layer_scale, .y = *slot};
        RF_TRY(rf_add(b->f->s, &scale));
    }
fail:
    return status;
}

/* What `n` columns of the wide activation add to the stream, from `first` on. With an inner norm,
 * the columns are seen by it as a whole vector that is zero elsewhere. */
static rf_status add_part(const branch *b, int64_t first, int64_t n, const rf_view *slot)
{
    rf_status status = RF_OK;
    rf_stream *s = b->f->s;
    rf_matmul_args map = {.a = columns(b->wide, first, n),
                          .b = rf_view_rows(b->out->weight, first, n),
                          .c = *slot,
                          .alpha = 1.0f};
    if (b->inner_scale.data != NULL) {
        const rf_add_args put = {.r = map.a, .y = columns(b->spread, first, n)};
        const rf_layer_norm_args norm = {
            .x = b->spread, .y = b->spread, .weight = b->inner->weight, .divisor = b->inner_scale};
        RF_TRY(rf_fill_bytes(s, b->spread.data, 0,
                             (size_t)rf_view_n_elems(&b->spread) * sizeof(float)));
        RF_TRY(rf_add(s, &put));
        RF_TRY(rf_layer_norm(s, &norm));
        map.a = b->spread;
        map.b = b->out->weight;
    }
    RF_TRY(rf_matmul(s, &map));
    RF_TRY(leave_branch(b, slot, (rf_view){0}));
fail:
    return status;
}

/* What the biases of the branch add: the inner norm's through the map, the map's, the outer's. */
static rf_status add_bias_part(const branch *b, const rf_view *slot)
{
    rf_status status = RF_OK;
    rf_backend *be = b->f->cache->vit->be;
    const int64_t d = slot->shape[1];
    const bool has_inner = b->inner_scale.data != NULL && b->inner->bias.data != NULL;
    void *row = NULL;
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)d * sizeof(float), &row));
    if (has_inner) {
        const rf_matmul_args map = {.a = rf_view_2d(b->inner->bias.data, 1, b->wide.shape[1]),
                                    .b = b->out->weight,
                                    .c = rf_view_2d(row, 1, d),
                                    .bias = b->out->bias,
                                    .alpha = 1.0f};
        RF_TRY(rf_matmul(b->f->s, &map));
    } else if (b->out->bias.data != NULL) {
        RF_TRY(rf_copy_within(b->f->s, row, b->out->bias.data, (size_t)d * sizeof(float)));
    }
    RF_TRY(put_row(b->f, slot, row));
    RF_TRY(leave_branch(b, slot, b->outer->bias));
fail:
    rf_memory_free(be, RF_MEMORY_DEVICE, row);
    return status;
}

static rf_status push_heads(const branch *b, int64_t layer)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &b->f->cache->vit->config;
    rf_view slot;
    for (int64_t h = 0; h < c->n_heads; h++) {
        RF_TRY(rf_stack_next(b->f, &slot, "L%" PRId64 "H%" PRId64, layer, h));
        RF_TRY(add_part(b, h * c->d_head, c->d_head, &slot));
    }
fail:
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------ */

typedef enum with_bias { HEADS_ALONE, HEADS_AND_BIAS } with_bias;

static rf_status push_attention_parts(rf_stack_fill *f, int64_t layer, with_bias which)
{
    rf_status status = RF_OK;
    branch b;
    rf_view slot;
    RF_TRY(branch_init(&b, f, RF_SITE_Z, layer));
    RF_TRY(push_heads(&b, layer));
    if (which == HEADS_AND_BIAS) {
        RF_TRY(rf_stack_next(f, &slot, "%" PRId64 "_attn_bias", layer));
        RF_TRY(add_bias_part(&b, &slot));
    }
    RF_TRY(rf_stream_synchronise(f->s)); /* scratch goes away */
fail:
    branch_fini(&b);
    return status;
}

static rf_status push_branch(rf_stack_fill *f, rf_site site, int64_t layer)
{
    rf_status status = RF_OK;
    char label[32];
    RF_TRY(rf_format(label, sizeof label, "%" PRId64 "_%s", layer,
                     site == RF_SITE_ATTN_OUT ? "attn_out" : "mlp_out"));
    RF_TRY(rf_stack_push(f, site, layer, label));
fail:
    return status;
}

/* The branches `site` of the first `n_layers` in one summand. */
static rf_status push_branch_sum(rf_stack_fill *f, rf_site site, int64_t n_layers)
{
    rf_status status = RF_OK;
    rf_view slot;
    RF_TRY(rf_stack_next(f, &slot, site == RF_SITE_ATTN_OUT ? "attn_out" : "mlp_out"));
    for (int64_t l = 0; l < n_layers; l++) {
        rf_view act;
        RF_TRY(rf_cache_need(f->cache, site, l, &act));
        const rf_add_args add = {
            .x = slot, .r = rf_view_2d(act.data, slot.shape[0], slot.shape[1]), .y = slot};
        RF_TRY(rf_add(f->s, &add));
    }
fail:
    return status;
}

static int64_t count_branches(const rf_vit_config *c, int64_t n_layers, rf_decompose mode)
{
    switch (mode) {
    case RF_DECOMPOSE_ATTN:
    case RF_DECOMPOSE_MLP:
        return n_layers + (n_layers > 0);
    case RF_DECOMPOSE_HEADS:
        return n_layers * (c->n_heads + 2);
    case RF_DECOMPOSE_BRANCHES:
        break;
    }
    return 2 * n_layers;
}

static rf_status push_layer(rf_stack_fill *f, int64_t layer, rf_decompose mode)
{
    rf_status status = RF_OK;
    if (mode == RF_DECOMPOSE_HEADS) {
        RF_TRY(push_attention_parts(f, layer, HEADS_AND_BIAS));
    } else if (mode != RF_DECOMPOSE_MLP) {
        RF_TRY(push_branch(f, RF_SITE_ATTN_OUT, layer));
    }
    if (mode != RF_DECOMPOSE_ATTN) {
        RF_TRY(push_branch(f, RF_SITE_MLP_OUT, layer));
    }
fail:
    return status;
}

rf_status rf_cache_decompose_resid(const rf_cache *cache, rf_stream *s, int64_t layer,
                                   rf_decompose mode, rf_resid_stack *out)
{
    rf_status status = RF_OK;
    rf_stack_fill f = {.cache = cache, .s = s, .stack = out};
    *out = (rf_resid_stack){0};
    RF_TRY(rf_stack_layer(cache, layer, &layer));
    RF_TRY(rf_stack_begin(&f, count_embeddings(cache->vit) +
                                  count_branches(&cache->vit->config, layer, mode)));
    RF_TRY(push_embeddings(&f));
    for (int64_t l = 0; l < layer; l++) {
        RF_TRY(push_layer(&f, l, mode));
    }
    if (layer > 0 && mode == RF_DECOMPOSE_ATTN) {
        RF_TRY(push_branch_sum(&f, RF_SITE_MLP_OUT, layer));
    }
    if (layer > 0 && mode == RF_DECOMPOSE_MLP) {
        RF_TRY(push_branch_sum(&f, RF_SITE_ATTN_OUT, layer));
    }
fail:
    if (status != RF_OK) {
        rf_resid_stack_fini(out);
    }
    return status;
}

rf_status rf_cache_head_results(const rf_cache *cache, rf_stream *s, int64_t layer,
                                rf_resid_stack *out)
{
    rf_status status = RF_OK;
    rf_stack_fill f = {.cache = cache, .s = s, .stack = out};
    *out = (rf_resid_stack){0};
    RF_TRY(rf_stack_layer(cache, layer, &layer));
    RF_TRY(rf_stack_begin(&f, layer * cache->vit->config.n_heads));
    for (int64_t l = 0; l < layer; l++) {
        RF_TRY(push_attention_parts(&f, l, HEADS_ALONE));
    }
fail:
    if (status != RF_OK) {
        rf_resid_stack_fini(out);
    }
    return status;
}

rf_status rf_cache_neuron_results(const rf_cache *cache, rf_stream *s, int64_t layer, int64_t first,
                                  int64_t n, rf_resid_stack *out)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &cache->vit->config;
    rf_stack_fill f = {.cache = cache, .s = s, .stack = out};
    branch b = {.f = &f};
    rf_view slot;
    *out = (rf_resid_stack){0};
    const int64_t l = layer < 0 ? layer + c->n_layers : layer;
    RF_REQUIRE(l >= 0 && l < c->n_layers, "layer %" PRId64 " of a model of %" PRId64, layer,
               c->n_layers);
    RF_REQUIRE(first >= 0 && n >= 0 && first <= c->d_mlp - n,
               "%" PRId64 " neurons from %" PRId64 " on, of %" PRId64, n, first, c->d_mlp);
    RF_TRY(rf_stack_begin(&f, n));
    RF_TRY(branch_init(&b, &f, RF_SITE_MLP_POST, l));
    for (int64_t i = first; i < first + n; i++) {
        RF_TRY(rf_stack_next(&f, &slot, "L%" PRId64 "N%" PRId64, l, i));
        RF_TRY(add_part(&b, i, 1, &slot));
    }
    RF_TRY(rf_stream_synchronise(s)); /* scratch goes away */
fail:
    branch_fini(&b);
    if (status != RF_OK) {
        rf_resid_stack_fini(out);
    }
    return status;
}
