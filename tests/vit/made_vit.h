/* Models that no file has: any switches of rf_vit_config, random weights. */
#ifndef MADE_VIT_H
#define MADE_VIT_H

#include "backward_fixture.h"

#include <stdio.h>

enum { MAX_PARAMS = 128 };

typedef struct builder {
    rf_vit *vit;
    int64_t at; /* floats of the arena in use */
    bool is_counting;
} builder;

/* [rows, cols], or [rows] where cols is 0: offset + uniform numbers of this size. */
static inline void add_param(builder *b, rf_view *v, const char *name, int64_t rows, int64_t cols,
                             float offset, float size)
{
    rf_vit_weights *w = &b->vit->weights;
    const int64_t n = rows * (cols > 0 ? cols : 1);
    if (!b->is_counting) {
        float *data = w->arena + b->at;
        for (int64_t i = 0; i < n; i++) {
            data[i] = offset + size * direction(1000 + w->n_params, i);
        }
        *v = cols > 0 ? rf_view_2d(data, rows, cols) : rf_view_1d(data, rows);
        assert_true(w->n_params < MAX_PARAMS);
        rf_param *p = &w->params[w->n_params++];
        snprintf(p->name, sizeof p->name, "%s", name);
        p->view = *v;
    }
    b->at += rf_ceil_div(n, 16) * 16;
}

typedef enum with_bias { NO_BIAS, WITH_BIAS } with_bias;

static inline void add_linear(builder *b, rf_linear *l, const char *name, int64_t n_in,
                              int64_t n_out, with_bias bias)
{
    add_param(b, &l->weight, name, n_in, n_out, 0.0f, sqrtf(3.0f / (float)n_in));
    if (bias == WITH_BIAS) {
        add_param(b, &l->bias, name, n_out, 0, 0.1f, 0.3f);
    }
}

static inline void add_norm(builder *b, rf_linear *l, const char *name, int64_t d)
{
    add_param(b, &l->weight, name, d, 0, 1.0f, 0.4f);
    add_param(b, &l->bias, name, d, 0, 0.1f, 0.3f);
}

static inline void add_block(builder *b, rf_block_weights *w)
{
    const rf_vit_config *c = &b->vit->config;
    const int64_t d = c->d_model, wide = c->n_heads * c->d_head, t = c->n_tokens;
    add_norm(b, &w->ln1, "ln1", d);
    add_linear(b, &w->q, "q", d, wide, WITH_BIAS);
    add_linear(b, &w->k, "k", d, wide, NO_BIAS);
    add_linear(b, &w->v, "v", d, wide, WITH_BIAS);
    if (c->has_attn_norm) {
        add_norm(b, &w->attn_ln, "attn_ln", wide);
    }
    add_linear(b, &w->o, "o", wide, d, WITH_BIAS);
    if (c->score_bias == RF_SCORES_RELATIVE) {
        add_param(b, &w->score_bias, "score_bias", c->n_heads * t, t, 0.0f, 1.0f);
        const int64_t shape[3] = {c->n_heads, t, t};
        w->score_bias = rf_view_nd(w->score_bias.data, RF_F32, 3, shape);
    }
    add_norm(b, &w->ln2, "ln2", d);
    if (c->is_gated) {
        add_linear(b, &w->gate, "gate", d, c->d_mlp, WITH_BIAS);
    }
    add_linear(b, &w->fc1, "fc1", d, c->d_mlp, WITH_BIAS);
    if (c->has_mlp_norm) {
        add_norm(b, &w->mlp_ln, "mlp_ln", c->d_mlp);
    }
    add_linear(b, &w->fc2, "fc2", c->d_mlp, d, WITH_BIAS);
    if (c->has_layer_scale) {
        add_param(b, &w->scale1, "scale1", d, 0, 0.7f, 0.4f);
        add_param(b, &w->scale2, "scale2", d, 0, 0.7f, 0.4f);
    }
}

/* CoCa's pool has norms of query and keys and another width; SigLIP's has an MLP. */
static inline void add_pool(builder *b, rf_pool_weights *w)
{
    const rf_vit_config *c = &b->vit->config;
    const int64_t d = c->d_pool;
    add_param(b, &w->probe, "probe", c->n_pool_queries, d, 0.0f, 1.0f);
    if (c->d_pool_mlp == 0) {
        add_norm(b, &w->ln_q, "ln_q", d);
        add_norm(b, &w->ln_k, "ln_k", c->d_model);
    }
    add_linear(b, &w->q, "pool q", d, d, WITH_BIAS);
    add_linear(b, &w->k, "pool k", c->d_model, d, WITH_BIAS);
    add_linear(b, &w->v, "pool v", c->d_model, d, WITH_BIAS);
    add_linear(b, &w->o, "pool o", d, d, WITH_BIAS);
    if (c->d_pool_mlp > 0) {
        add_norm(b, &w->ln, "pool ln", d);
        add_linear(b, &w->fc1, "pool fc1", d, c->d_pool_mlp, WITH_BIAS);
        add_linear(b, &w->fc2, "pool fc2", c->d_pool_mlp, d, WITH_BIAS);
    }
}

static inline void add_end(builder *b)
{
    rf_vit_weights *w = &b->vit->weights;
    const rf_vit_config *c = &b->vit->config;
    const int64_t n_read = c->head_input == RF_HEAD_POOLED_AND_PATCH_MEAN ? 2 : 1;
    if (c->has_ln_final) {
        add_norm(b, &w->ln_final, "ln_final", c->norm_is_behind_pool ? c->d_pool : c->d_model);
    }
    if (c->pool == RF_POOL_ATTENTION) {
        add_pool(b, &w->pool);
    }
    if (c->has_projection) {
        add_linear(b, &w->projection, "projection", c->d_pool, c->d_out, WITH_BIAS);
    }
    if (c->n_classes > 0) {
        add_linear(b, &w->head, "head", n_read * c->d_pool, c->n_classes, WITH_BIAS);
    }
    if (c->n_classes > 0 && c->head_input == RF_HEAD_CLS_AND_DISTILLED) {
        add_linear(b, &w->head_distilled, "head_distilled", c->d_model, c->n_classes, WITH_BIAS);
    }
}

static inline void add_all(builder *b)
{
    rf_vit_weights *w = &b->vit->weights;
    const rf_vit_config *c = &b->vit->config;
    const int64_t d = c->d_model;
    b->at = 0;
    if (c->input == RF_VIT_TEXT) {
        add_param(b, &w->token, "token", c->n_vocab, d, 0.0f, 1.0f);
    } else {
        add_linear(b, &w->patch, "patch",
                   c->n_channels * c->tubelet * c->patch_size * c->patch_size, d, WITH_BIAS);
    }
    if (c->n_prefix > 0) {
        add_param(b, &w->prefix_token, "prefix_token", c->n_prefix, d, 0.0f, 1.0f);
    }
    if (c->has_position) {
        add_param(b, &w->position, "position", c->n_tokens, d, 0.0f, 1.0f);
    }
    if (c->has_ln_pre) {
        add_norm(b, &w->ln_pre, "ln_pre", d);
    }
    for (int64_t layer = 0; layer < c->n_layers; layer++) {
        add_block(b, &w->blocks[layer]);
    }
    add_end(b);
}

static inline rf_view made_input(const rf_vit_config *c, int64_t n)
{
    const int64_t shape[5] = {n, c->n_frames, c->n_channels, c->image_height, c->image_width};
    const int64_t picture[4] = {n, shape[2], shape[3], shape[4]};
    if (c->input == RF_VIT_TEXT) {
        int64_t *ids = rf_calloc(n * c->n_tokens, sizeof *ids);
        assert_non_null(ids);
        for (int64_t i = 0; i < n * c->n_tokens; i++) {
            ids[i] = (5 * i + 3) % c->n_vocab;
        }
        return rf_view_nd(ids, RF_I64, 2, (int64_t[]){n, c->n_tokens});
    }
    float *x = new_direction(999, n * shape[1] * shape[2] * shape[3] * shape[4]);
    return c->input == RF_VIT_CLIPS ? rf_view_nd(x, RF_F32, 5, shape)
                                    : rf_view_nd(x, RF_F32, 4, picture);
}

/* Sizes that follow from the others. */
static inline void complete(rf_vit_config *c)
{
    snprintf(c->family, sizeof c->family, "made");
    c->grid[0] = c->n_frames / c->tubelet;
    c->grid[1] = c->image_height / c->patch_size;
    c->grid[2] = c->image_width / c->patch_size;
    if (c->input != RF_VIT_TEXT) {
        c->n_patches = c->grid[0] * c->grid[1] * c->grid[2];
    }
    c->n_tokens = c->n_prefix + c->n_patches;
    c->d_pool = c->d_pool == 0 ? c->d_model : c->d_pool;
    c->d_out = c->has_projection ? c->d_out : c->d_pool;
}

static inline model make_model(const rf_vit_config *config, int64_t n_images, int n_threads)
{
    model m = {.n_images = n_images};
    builder b = {.is_counting = true};
    assert_ok(rf_backend_cpu_create(n_threads, &m.be));
    assert_ok(rf_stream_create(m.be, &m.s));
    m.vit = b.vit = rf_calloc(1, sizeof *m.vit);
    assert_non_null(m.vit);
    m.vit->be = m.be;
    m.vit->config = *config;
    m.vit->products = RF_F32;
    rf_vit_config *c = &m.vit->config;
    rf_vit_weights *w = &m.vit->weights;
    complete(c);
    w->blocks = rf_calloc(c->n_layers, sizeof *w->blocks);
    w->params = rf_calloc(MAX_PARAMS, sizeof *w->params);
    assert_true(w->blocks != NULL && w->params != NULL);
    add_all(&b);
    w->n_floats = b.at;
    assert_ok(rf_memory_alloc(m.be, RF_MEMORY_DEVICE, (size_t)w->n_floats * sizeof(float),
                              (void **)&w->arena));
    b.is_counting = false;
    add_all(&b);
    assert_ok(rf_weights_derive(m.be, m.s, c, RF_F32, w));
    m.input = made_input(c, n_images);
    add_seeds(&m);
    return m;
}

#endif
