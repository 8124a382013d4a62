/* What is to be loaded for a config: each tensor by the architecture table, its shape checked, its
 * place in the arena, its name in TransformerLens terms. */
#include "config_impl.h"

#include <stdio.h>
#include <string.h>

enum { MAX_SHAPE = 5, ALIGN_FLOATS = 16 };

/* What a tensor should be. */
typedef struct want {
    rf_part part;
    const char *suffix;
    int64_t layer;
    int n_dims;
    int64_t shape[MAX_SHAPE];
} want;

/* ---- single tensors ---------------------------------------------------------------------------
 */

static void shape_text(const int64_t *shape, int n_dims, char *out, size_t out_bytes)
{
    size_t at = (size_t)snprintf(out, out_bytes, "[");
    for (int i = 0; i < n_dims && at < out_bytes; i++) {
        at += (size_t)snprintf(out + at, out_bytes - at, "%s%" PRId64, i > 0 ? ", " : "", shape[i]);
    }
    if (at < out_bytes) {
        snprintf(out + at, out_bytes - at, "]");
    }
}

/* Equal but for leading dimensions of one: [1, T, d] and [T, d] are both in use. */
static bool same_shape(const rf_named_tensor *t, const int64_t *shape, int n_dims)
{
    int skip_t = 0, skip_s = 0;
    while (skip_t < t->n_dims && t->shape[skip_t] == 1) {
        skip_t++;
    }
    while (skip_s < n_dims && shape[skip_s] == 1) {
        skip_s++;
    }
    if (t->n_dims - skip_t != n_dims - skip_s) {
        return false;
    }
    for (int i = 0; i < n_dims - skip_s; i++) {
        if (t->shape[skip_t + i] != shape[skip_s + i]) {
            return false;
        }
    }
    return true;
}

/* The tensor that `w` means, checked. */
static rf_status find_checked(const rf_weights_plan *p, const want *w, const rf_named_tensor **out,
                              bool *is_in_out)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN], got[128], expected[128];
    want wanted = *w;
    *out = rf_weights_find(p->files, w->part, w->suffix, w->layer, name, is_in_out);
    if (*out == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "tensor '%s' is missing from the weights",
                name[0] != '\0' ? name : rf_part_name(w->part));
    }
    if (*is_in_out && w->n_dims == 2) {
        wanted.shape[0] = w->shape[1];
        wanted.shape[1] = w->shape[0];
    }
    if (!same_shape(*out, wanted.shape, wanted.n_dims)) {
        shape_text((*out)->shape, (*out)->n_dims, got, sizeof got);
        shape_text(wanted.shape, wanted.n_dims, expected, sizeof expected);
        RF_FAIL(RF_ERR_FORMAT, "tensor '%s' has shape %s, but config.json means %s", (*out)->name,
                got, expected);
    }
fail:
    return status;
}

static int64_t n_elems(const rf_view *v)
{
    int64_t n = 1;
    for (int i = 0; i < v->n_dims; i++) {
        n *= v->shape[i];
    }
    return n;
}

/* Take `item` into the plan, at the end of the arena. `name` is of the param, below its layer. */
static rf_status add(rf_weights_plan *p, rf_weights_item item, int64_t layer, const char *name)
{
    rf_status status = RF_OK;
    RF_BUG(p->n_items < p->capacity, "a plan of %" PRId64 " items is full", p->capacity);
    if (name == NULL) {
        item.name[0] = '\0';
    } else if (layer < 0) {
        RF_TRY(rf_format(item.name, sizeof item.name, "%s", name));
    } else {
        RF_TRY(rf_format(item.name, sizeof item.name, "blocks.%" PRId64 ".%s", layer, name));
    }
    item.offset = p->n_floats;
    p->n_floats += rf_ceil_div(n_elems(&item.shape), ALIGN_FLOATS) * ALIGN_FLOATS;
    p->items[p->n_items++] = item;
fail:
    return status;
}

/* A tensor as it is stored, [n] or [n, m]. */
static rf_status add_stored(rf_weights_plan *p, want w, rf_view *view, const char *name)
{
    rf_status status = RF_OK;
    rf_weights_item item = {.view = view};
    bool is_in_out = false;
    RF_TRY(find_checked(p, &w, &item.tensor, &is_in_out));
    item.n_rows = w.n_dims == 1 ? 1 : w.shape[0];
    item.n_cols = item.tensor->n_elems / item.n_rows;
    item.shape =
        w.n_dims == 1 ? rf_view_1d(NULL, item.n_cols) : rf_view_2d(NULL, item.n_rows, item.n_cols);
    RF_TRY(add(p, item, w.layer, name));
fail:
    return status;
}

/* ---- linear maps and norms --------------------------------------------------------------------
 */

/* A linear map: rows first .. first + n_out of the matrix of `fused` (of n_fused rows), or, where
 * the file has none, the matrix of `part`; the same for the bias, which may stand alone. */
typedef struct linear {
    rf_linear *out;
    rf_part part, bias_part, fused;
    int64_t layer, n_out, n_in, first, n_fused;
    bool has_bias;
    const char *weight_name, *bias_name;
} linear;

#define NO_PART RF_N_PARTS

static const rf_named_tensor *find(const rf_weights_plan *p, rf_part part, const char *suffix,
                                   int64_t layer)
{
    char name[RF_NAME_LEN];
    return part == NO_PART ? NULL : rf_weights_find(p->files, part, suffix, layer, name, NULL);
}

static rf_status add_weight(rf_weights_plan *p, const linear *l)
{
    rf_status status = RF_OK;
    rf_weights_item item = {.view = &l->out->weight, .layout = RF_LAYOUT_TRANSPOSED};
    bool is_in_out = false;
    const bool is_fused = find(p, l->fused, ".weight", l->layer) != NULL;
    const want w = {.part = is_fused ? l->fused : l->part,
                    .suffix = ".weight",
                    .layer = l->layer,
                    .n_dims = 2,
                    .shape = {is_fused ? l->n_fused : l->n_out, l->n_in}};
    RF_TRY(find_checked(p, &w, &item.tensor, &is_in_out));
    if (is_fused && is_in_out) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "tensor '%s' holds several maps as [in, out]",
                item.tensor->name);
    }
    item.layout = is_in_out ? RF_LAYOUT_AS_STORED : RF_LAYOUT_TRANSPOSED;
    item.first_row = is_fused ? l->first : 0;
    item.n_rows = is_in_out ? l->n_in : l->n_out;
    item.n_cols = is_in_out ? l->n_out : l->n_in;
    item.shape = rf_view_2d(NULL, l->n_in, l->n_out);
    RF_TRY(add(p, item, l->layer, l->weight_name));
fail:
    return status;
}

static rf_status add_bias(rf_weights_plan *p, const linear *l)
{
    rf_status status = RF_OK;
    rf_weights_item item = {.view = &l->out->bias, .n_rows = 1, .n_cols = l->n_out};
    bool is_in_out = false;
    want w = {
        .part = l->part, .suffix = ".bias", .layer = l->layer, .n_dims = 1, .shape = {l->n_out}};
    if (!l->has_bias) {
        return RF_OK;
    }
    if (find(p, l->fused, ".bias", l->layer) != NULL) {
        w.part = l->fused;
        w.shape[0] = l->n_fused;
        item.first_row = l->first / l->n_out;
    } else if (find(p, l->bias_part, "", l->layer) != NULL) {
        w.part = l->bias_part;
        w.suffix = "";
    } else if (p->files->arch->names[l->part][0] == NULL) { /* for the message */
        w.part = l->fused;
    }
    RF_TRY(find_checked(p, &w, &item.tensor, &is_in_out));
    item.shape = rf_view_1d(NULL, l->n_out);
    RF_TRY(add(p, item, l->layer, l->bias_name));
fail:
    return status;
}

static rf_status add_linear(rf_weights_plan *p, linear l)
{
    rf_status status = add_weight(p, &l);
    return status != RF_OK ? status : add_bias(p, &l);
}

static rf_status add_norm(rf_weights_plan *p, rf_part part, int64_t layer, int64_t n, rf_linear *l,
                          const char *weight_name, const char *bias_name)
{
    rf_status status = RF_OK;
    want w = {.part = part, .suffix = ".weight", .layer = layer, .n_dims = 1, .shape = {n}};
    RF_TRY(add_stored(p, w, &l->weight, weight_name));
    w.suffix = ".bias";
    RF_TRY(add_stored(p, w, &l->bias, bias_name));
fail:
    return status;
}

/* ---- before the blocks ------------------------------------------------------------------------
 */

static rf_status plan_patch(rf_weights_plan *p, rf_vit_weights *w)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->files->config;
    const rf_draft *d = &p->files->draft;
    const int64_t side = c->patch_size, n_in = c->n_channels * c->tubelet * side * side;
    rf_weights_item item = {.view = &w->patch.weight, .n_rows = c->d_model, .n_cols = n_in};
    want matrix = {.part = RF_PART_PATCH, .suffix = ".weight", .layer = -1};
    bool is_in_out = false;
    const rf_named_tensor *t = find(p, RF_PART_PATCH, ".weight", -1);
    if (t != NULL && t->n_dims == 2) { /* a linear map of rows of patches */
        matrix.n_dims = 2;
        memcpy(matrix.shape, (int64_t[]){c->d_model, n_in}, 2 * sizeof(int64_t));
    } else if (c->input == RF_VIT_CLIPS) {
        matrix.n_dims = 5;
        memcpy(matrix.shape, (int64_t[]){c->d_model, c->n_channels, c->tubelet, side, side},
               5 * sizeof(int64_t));
    } else {
        matrix.n_dims = 4;
        memcpy(matrix.shape, (int64_t[]){c->d_model, c->n_channels, side, side},
               4 * sizeof(int64_t));
    }
    RF_TRY(find_checked(p, &matrix, &item.tensor, &is_in_out));
    item.layout = d->patch_order == RF_PATCH_YXC ? RF_LAYOUT_PATCH_YXC : RF_LAYOUT_TRANSPOSED;
    item.shape = rf_view_2d(NULL, n_in, c->d_model);
    RF_TRY(add(p, item, -1, "embed.proj.weight"));
    RF_TRY(add_bias(p, &(linear){.out = &w->patch,
                                 .part = RF_PART_PATCH,
                                 .bias_part = NO_PART,
                                 .fused = NO_PART,
                                 .layer = -1,
                                 .n_out = c->d_model,
                                 .has_bias = d->patch_bias,
                                 .bias_name = "embed.proj.bias"}));
fail:
    return status;
}

/* Class, distillation and register tokens: rows of one array, each a param of its own. */
static rf_status plan_prefix(rf_weights_plan *p, rf_vit_weights *w)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->files->config;
    const struct {
        rf_part part;
        int64_t n;
        const char *name;
    } tokens[] = {{RF_PART_CLS, c->has_cls ? 1 : 0, "cls_token"},
                  {RF_PART_DISTILLED, c->has_distilled ? 1 : 0, "dist_token"},
                  {RF_PART_REGISTERS, c->n_registers, "reg_token"}};
    const int64_t start = p->n_floats;
    int64_t row = 0;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        if (tokens[i].n == 0) {
            continue;
        }
        const want token = {.part = tokens[i].part,
                            .suffix = "",
                            .layer = -1,
                            .n_dims = 2,
                            .shape = {tokens[i].n, c->d_model}};
        RF_TRY(add_stored(p, token, row == 0 ? &w->prefix_token : NULL, tokens[i].name));
        p->items[p->n_items - 1].offset = start + row * c->d_model; /* no gaps between them */
        row += tokens[i].n;
    }
    p->n_floats = start + rf_ceil_div(row * c->d_model, ALIGN_FLOATS) * ALIGN_FLOATS;
fail:
    return status;
}

static rf_status plan_positions(rf_weights_plan *p, rf_vit_weights *w)
{
    rf_status status = RF_OK;
    const rf_vit_files *f = p->files;
    const rf_vit_config *c = &f->config;
    rf_weights_item item = {.view = &w->position,
                            .n_rows = c->n_tokens,
                            .n_cols = c->d_model,
                            .shape = rf_view_2d(NULL, c->n_tokens, c->d_model)};
    bool is_in_out = false;
    if (f->draft.positions == RF_POSITIONS_NONE) {
        return RF_OK;
    }
    if (f->draft.positions == RF_POSITIONS_SINUSOID) {
        item.layout = RF_LAYOUT_SINUSOID;
        return add(p, item, -1, "pos_embed.W_pos");
    }
    item.n_rows = f->native_grid[0] * f->native_grid[1] * f->native_grid[2];
    if (f->draft.prefix_positions != RF_PREFIX_POSITIONS_NONE) {
        item.n_rows += f->draft.prefix_positions == RF_PREFIX_POSITIONS_ALL
                           ? c->n_prefix
                           : c->n_prefix - c->n_registers;
    }
    item.layout = RF_LAYOUT_POSITIONS;
    const want rows = {.part = RF_PART_POSITION,
                       .suffix = "",
                       .layer = -1,
                       .n_dims = 2,
                       .shape = {item.n_rows, c->d_model}};
    RF_TRY(find_checked(p, &rows, &item.tensor, &is_in_out));
    RF_TRY(add(p, item, -1, "pos_embed.W_pos"));
fail:
    return status;
}

/* ---- a block ----------------------------------------------------------------------------------
 */

/* [H, T, T] out of the layer's table, the shared one, or both. */
static rf_status plan_relative(rf_weights_plan *p, int64_t layer, rf_block_weights *b)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->files->config;
    const rf_draft *d = &p->files->draft;
    const int64_t n = (2 * c->grid[1] - 1) * (2 * c->grid[2] - 1) + 3;
    const int64_t shape[] = {c->n_heads, c->n_tokens, c->n_tokens};
    bool is_in_out = false, is_first = true;
    for (int i = 0; i < 2; i++) {
        if (!(i == 0 ? d->relative : d->relative_shared)) {
            continue;
        }
        rf_weights_item item = {.layout = is_first ? RF_LAYOUT_RELATIVE : RF_LAYOUT_RELATIVE_MORE,
                                .view = is_first ? &b->score_bias : NULL,
                                .n_rows = n,
                                .n_cols = c->n_heads};
        const want table = {.part = i == 0 ? RF_PART_RELATIVE : RF_PART_RELATIVE_SHARED,
                            .suffix = "",
                            .layer = layer,
                            .n_dims = 2,
                            .shape = {n, c->n_heads}};
        RF_TRY(find_checked(p, &table, &item.tensor, &is_in_out));
        item.shape = rf_view_nd(NULL, RF_F32, 3, shape);
        RF_TRY(add(p, item, layer, is_first ? "attn.bias" : NULL));
        if (!is_first) { /* added to the one before, in its place */
            p->n_floats = p->items[p->n_items - 1].offset;
            p->items[p->n_items - 1].offset = p->items[p->n_items - 2].offset;
        }
        is_first = false;
    }
fail:
    return status;
}

static rf_status plan_attention(rf_weights_plan *p, int64_t layer, rf_block_weights *b)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->files->config;
    const rf_draft *d = &p->files->draft;
    const int64_t n = c->d_model;
    const linear maps[] = {
        {&b->q, RF_PART_Q, RF_PART_Q_BIAS, RF_PART_QKV, layer, n, n, 0, 3 * n, d->q_bias,
         "attn.W_Q", "attn.b_Q"},
        {&b->k, RF_PART_K, RF_PART_K_BIAS, RF_PART_QKV, layer, n, n, n, 3 * n, d->k_bias,
         "attn.W_K", "attn.b_K"},
        {&b->v, RF_PART_V, RF_PART_V_BIAS, RF_PART_QKV, layer, n, n, 2 * n, 3 * n, d->v_bias,
         "attn.W_V", "attn.b_V"},
        {&b->o, RF_PART_O, NO_PART, NO_PART, layer, n, n, 0, 0, d->o_bias, "attn.W_O", "attn.b_O"},
    };
    RF_TRY(add_norm(p, RF_PART_LN1, layer, n, &b->ln1, "ln1.w", "ln1.b"));
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        RF_TRY(add_linear(p, maps[i]));
    }
    if (c->has_attn_norm) {
        RF_TRY(add_norm(p, RF_PART_ATTN_LN, layer, n, &b->attn_ln, "attn.ln.w", "attn.ln.b"));
    }
    if (c->score_bias == RF_SCORES_RELATIVE) {
        RF_TRY(plan_relative(p, layer, b));
    }
fail:
    return status;
}

static rf_status plan_mlp(rf_weights_plan *p, int64_t layer, rf_block_weights *b)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->files->config;
    const bool bias = p->files->draft.mlp_bias;
    const int64_t n = c->d_model, m = c->d_mlp;
    /* a matrix of its own for the gate wins: both may be spelled alike */
    const bool is_fused = c->is_gated && find(p, RF_PART_GATE, ".weight", layer) == NULL;
    const rf_part fused = is_fused ? RF_PART_GATE_FC1 : NO_PART;
    RF_TRY(add_norm(p, RF_PART_LN2, layer, n, &b->ln2, "ln2.w", "ln2.b"));
    if (c->is_gated) {
        RF_TRY(add_linear(p, (linear){&b->gate, RF_PART_GATE, NO_PART, fused, layer, m, n, 0, 2 * m,
                                      bias, "mlp.W_gate", "mlp.b_gate"}));
    }
    RF_TRY(add_linear(p, (linear){&b->fc1, RF_PART_FC1, NO_PART, fused, layer, m, n, m, 2 * m, bias,
                                  "mlp.W_in", "mlp.b_in"}));
    if (c->has_mlp_norm) {
        RF_TRY(add_norm(p, RF_PART_MLP_LN, layer, m, &b->mlp_ln, "mlp.ln.w", "mlp.ln.b"));
    }
    RF_TRY(add_linear(p, (linear){&b->fc2, RF_PART_FC2, NO_PART, NO_PART, layer, n, m, 0, 0, bias,
                                  "mlp.W_out", "mlp.b_out"}));
fail:
    return status;
}

static rf_status plan_block(rf_weights_plan *p, int64_t layer, rf_block_weights *b)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->files->config;
    want scale = {
        .part = RF_PART_SCALE1, .suffix = "", .layer = layer, .n_dims = 1, .shape = {c->d_model}};
    RF_TRY(plan_attention(p, layer, b));
    RF_TRY(plan_mlp(p, layer, b));
    if (c->has_layer_scale) {
        RF_TRY(add_stored(p, scale, &b->scale1, "ls1.gamma"));
        scale.part = RF_PART_SCALE2;
        RF_TRY(add_stored(p, scale, &b->scale2, "ls2.gamma"));
    }
fail:
    return status;
}

/* ---- behind the blocks ------------------------------------------------------------------------
 */

static rf_status plan_pool(rf_weights_plan *p, rf_pool_weights *w)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->files->config;
    const int64_t n = c->d_pool, d = c->d_model, m = c->d_pool_mlp;
    /* one matrix for q, k and v; or one for k and v; or one each */
    const bool is_kv = find(p, RF_PART_POOL_KV, ".weight", -1) != NULL;
    const rf_part kv = is_kv ? RF_PART_POOL_KV : RF_PART_POOL_QKV;
    const int64_t skip = is_kv ? 0 : n;
    const linear maps[] = {
        {&w->q, RF_PART_POOL_Q, NO_PART, is_kv ? NO_PART : RF_PART_POOL_QKV, -1, n, n, 0, 3 * n,
         true, "pool.W_Q", "pool.b_Q"},
        {&w->k, RF_PART_POOL_K, NO_PART, kv, -1, n, d, skip, skip + 2 * n, true, "pool.W_K",
         "pool.b_K"},
        {&w->v, RF_PART_POOL_V, NO_PART, kv, -1, n, d, skip + n, skip + 2 * n, true, "pool.W_V",
         "pool.b_V"},
        {&w->o, RF_PART_POOL_O, NO_PART, NO_PART, -1, n, n, 0, 0, true, "pool.W_O", "pool.b_O"},
        {&w->fc1, RF_PART_POOL_FC1, NO_PART, NO_PART, -1, m, n, 0, 0, true, "pool.W_in",
         "pool.b_in"},
        {&w->fc2, RF_PART_POOL_FC2, NO_PART, NO_PART, -1, n, m, 0, 0, true, "pool.W_out",
         "pool.b_out"},
    };
    RF_TRY(add_stored(p,
                      (want){.part = RF_PART_POOL_PROBE,
                             .suffix = "",
                             .layer = -1,
                             .n_dims = 2,
                             .shape = {c->n_pool_queries, n}},
                      &w->probe, "pool.probe"));
    if (p->files->arch->names[RF_PART_POOL_LN_Q][0] != NULL) {
        RF_TRY(add_norm(p, RF_PART_POOL_LN_Q, -1, n, &w->ln_q, "pool.ln_q.w", "pool.ln_q.b"));
        RF_TRY(add_norm(p, RF_PART_POOL_LN_K, -1, d, &w->ln_k, "pool.ln_k.w", "pool.ln_k.b"));
    }
    for (int i = 0; i < (m > 0 ? 6 : 4); i++) {
        RF_TRY(add_linear(p, maps[i]));
    }
    if (m > 0) {
        RF_TRY(add_norm(p, RF_PART_POOL_LN, -1, n, &w->ln, "pool.ln.w", "pool.ln.b"));
    }
fail:
    return status;
}

static rf_status plan_end(rf_weights_plan *p, rf_vit_weights *w)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->files->config;
    const rf_draft *d = &p->files->draft;
    const int64_t n_head_in =
        c->head_input == RF_HEAD_POOLED_AND_PATCH_MEAN ? 2 * c->d_model : c->d_pool;
    if (c->has_ln_final) {
        RF_TRY(add_norm(p, RF_PART_LN_FINAL, -1, c->norm_is_behind_pool ? c->d_pool : c->d_model,
                        &w->ln_final, "ln_final.w", "ln_final.b"));
    }
    if (c->pool == RF_POOL_ATTENTION) {
        RF_TRY(plan_pool(p, &w->pool));
    }
    if (c->has_projection) {
        RF_TRY(add_linear(p, (linear){&w->projection, RF_PART_PROJECTION, NO_PART, NO_PART, -1,
                                      c->d_out, c->d_pool, 0, 0, d->projection_bias, "proj.W",
                                      "proj.b"}));
    }
    if (c->n_classes > 0) {
        RF_TRY(add_linear(p, (linear){&w->head, RF_PART_HEAD, NO_PART, NO_PART, -1, c->n_classes,
                                      n_head_in, 0, 0, d->head_bias, "head.W_H", "head.b_H"}));
    }
    if (c->n_classes > 0 && c->head_input == RF_HEAD_CLS_AND_DISTILLED) {
        RF_TRY(add_linear(p, (linear){&w->head_distilled, RF_PART_HEAD_DISTILLED, NO_PART, NO_PART,
                                      -1, c->n_classes, n_head_in, 0, 0, d->head_bias,
                                      "head_dist.W_H", "head_dist.b_H"}));
    }
fail:
    return status;
}

rf_status rf_weights_plan_all(rf_weights_plan *p, rf_vit_weights *w)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->files->config;
    if (c->input == RF_VIT_TEXT) {
        RF_TRY(add_stored(p,
                          (want){.part = RF_PART_TOKEN,
                                 .suffix = "",
                                 .layer = -1,
                                 .n_dims = 2,
                                 .shape = {c->n_vocab, c->d_model}},
                          &w->token, "embed.W_E"));
    } else {
        RF_TRY(plan_patch(p, w));
        RF_TRY(plan_prefix(p, w));
    }
    RF_TRY(plan_positions(p, w));
    if (c->has_ln_pre) {
        RF_TRY(add_norm(p, RF_PART_LN_PRE, -1, c->d_model, &w->ln_pre, "ln_pre.w", "ln_pre.b"));
    }
    for (int64_t l = 0; l < c->n_layers; l++) {
        RF_TRY(plan_block(p, l, &w->blocks[l]));
    }
    RF_TRY(plan_end(p, w));
    RF_TRY(rf_weights_check_taken(p));
fail:
    return status;
}
