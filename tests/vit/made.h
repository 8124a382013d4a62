/* Models made on the spot with any switches: random weights, input to match. */
#ifndef REFRACT_TESTS_VIT_MADE_H
#define REFRACT_TESTS_VIT_MADE_H

#include "../../src/vit/vit_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

enum { MADE_D = 12, MADE_HEADS = 3, MADE_LAYERS = 2, MADE_MLP = 20, MADE_PICTURES = 2 };
enum { MADE_ARENA = 1 << 17, MADE_VARIANTS = 9, MADE_POINTS = 128 };

static inline void made_ok(rf_status status)
{
    if (status != RF_OK) {
        fail_msg("%s: %s", rf_error_place(), rf_error_text());
    }
}

/* ---- configs -------------------------------------------------------------------------------- */

/* A plain ViT over 3 x 2 patches. */
static inline rf_vit_config made_config(void)
{
    return (rf_vit_config){.family = "made",
                           .name = "made",
                           .d_model = MADE_D,
                           .n_layers = MADE_LAYERS,
                           .n_heads = MADE_HEADS,
                           .d_head = MADE_D / MADE_HEADS,
                           .d_mlp = MADE_MLP,
                           .image_height = 12,
                           .image_width = 9,
                           .patch_size = 4,
                           .n_channels = 3,
                           .n_frames = 1,
                           .tubelet = 1,
                           .grid = {1, 3, 2},
                           .n_patches = 6,
                           .n_prefix = 1,
                           .n_tokens = 7,
                           .d_pool = MADE_D,
                           .d_out = MADE_D,
                           .eos_id = -1,
                           .act = RF_ACT_GELU,
                           .eps = 1e-5f,
                           .has_cls = true,
                           .has_position = true,
                           .has_ln_final = true,
                           .rope_base = 100.0};
}

static inline void made_add_prefix(rf_vit_config *c, int64_t n)
{
    c->n_prefix = n;
    c->n_tokens = n + c->n_patches;
}

/* Every switch of a block, with a classifier on the mean of the patches too. */
static inline rf_vit_config made_gated(void)
{
    rf_vit_config c = made_config();
    made_add_prefix(&c, 3);
    c.n_registers = 2;
    c.has_ln_pre = c.has_attn_norm = c.has_mlp_norm = c.is_gated = c.has_layer_scale = true;
    c.rope = RF_ROPE_CENTRES;
    c.score_bias = RF_SCORES_RELATIVE;
    c.act = RF_ACT_SILU;
    c.n_classes = 5;
    c.head_input = RF_HEAD_POOLED_AND_PATCH_MEAN;
    return c;
}

static inline rf_vit_config made_norm_behind(void)
{
    rf_vit_config c = made_gated();
    c.norm_place = RF_NORM_BEHIND;
    c.rope = RF_ROPE_GRID;
    c.head_input = RF_HEAD_POOLED;
    return c;
}

static inline rf_vit_config made_text(rf_vit_pool pool, int64_t eos_id)
{
    rf_vit_config c = made_config();
    c.input = RF_VIT_TEXT;
    c.image_height = c.image_width = c.patch_size = c.n_channels = 0;
    c.has_cls = false;
    c.n_prefix = 0;
    c.n_tokens = c.n_patches = 5;
    c.n_vocab = 11;
    c.eos_id = eos_id;
    c.pool = pool;
    c.score_bias = RF_SCORES_CAUSAL;
    c.has_projection = true;
    c.d_out = 8;
    return c;
}

/* No position, no final norm, no prefix. */
static inline rf_vit_config made_clips(void)
{
    rf_vit_config c = made_config();
    c.input = RF_VIT_CLIPS;
    c.n_frames = 5; /* the fifth fills no tubelet */
    c.tubelet = c.grid[0] = 2;
    c.n_patches = 12;
    made_add_prefix(&c, 0);
    c.has_cls = c.has_position = c.has_ln_final = false;
    c.rope = RF_ROPE_AXES;
    c.d_model = 24;
    c.d_head = 8;
    c.d_pool = c.d_out = 24;
    c.pool = RF_POOL_TOKEN_MEAN;
    c.n_classes = 4;
    return c;
}

static inline rf_vit_config made_attention_pool(void)
{
    rf_vit_config c = made_config();
    c.pool = RF_POOL_ATTENTION;
    c.n_pool_queries = 1;
    c.n_pool_heads = 2;
    c.d_pool_mlp = 18;
    return c;
}

/* CoCa's: a pool of another width in front of the final norm. */
static inline rf_vit_config made_wide_pool(void)
{
    rf_vit_config c = made_attention_pool();
    c.norm_is_behind_pool = c.has_projection = true;
    c.d_pool_mlp = 0;
    c.n_pool_queries = 4;
    c.n_pool_heads = 4;
    c.d_pool = 16;
    c.d_out = 10;
    return c;
}

static inline rf_vit_config made_distilled(void)
{
    rf_vit_config c = made_config();
    made_add_prefix(&c, 2);
    c.has_distilled = true;
    c.n_classes = 5;
    c.head_input = RF_HEAD_CLS_AND_DISTILLED;
    return c;
}

/* The mean of the patches, then its norm. */
static inline rf_vit_config made_mean(void)
{
    rf_vit_config c = made_config();
    c.pool = RF_POOL_PATCH_MEAN;
    c.norm_is_behind_pool = true;
    c.n_classes = 3;
    return c;
}

static inline rf_vit_config made_variant(int idx)
{
    switch (idx) {
    case 0:
        return made_gated();
    case 1:
        return made_norm_behind();
    case 2:
        return made_text(RF_POOL_END, -1);
    case 3:
        return made_text(RF_POOL_LAST, -1);
    case 4:
        return made_clips();
    case 5:
        return made_attention_pool();
    case 6:
        return made_wide_pool();
    case 7:
        return made_distilled();
    default:
        return made_mean();
    }
}

/* ---- weights -------------------------------------------------------------------------------- */

typedef struct made_carver {
    rf_vit_weights *w;
    uint64_t key;
} made_carver;

/* Independent normals: offset + scale * n. */
static inline void made_fill(uint64_t key, float *x, int64_t n, float scale, float offset)
{
    for (int64_t i = 0; i < n; i++) {
        float r[4];
        rf_random_normal4(11, RF_RANDOM_TEST, key, (uint64_t)i, r);
        x[i] = offset + scale * r[0];
    }
}

/* The next [n_rows, n_cols] of the arena (n_rows 0: [n_cols]). */
static inline rf_view made_carve(made_carver *m, int64_t n_rows, int64_t n_cols, float scale,
                                 float offset)
{
    const int64_t n = n_cols * (n_rows > 0 ? n_rows : 1);
    float *x = m->w->arena + m->w->n_floats;
    m->w->n_floats += rf_ceil_div(n, 16) * 16;
    assert_true(m->w->n_floats <= MADE_ARENA);
    made_fill(m->key++, x, n, scale, offset);
    return n_rows > 0 ? rf_view_2d(x, n_rows, n_cols) : rf_view_1d(x, n_cols);
}

static inline rf_linear made_linear(made_carver *m, int64_t n_in, int64_t n_out)
{
    rf_linear l;
    l.weight = made_carve(m, n_in, n_out, 1.0f / sqrtf((float)n_in), 0.0f);
    l.bias = made_carve(m, 0, n_out, 0.3f, 0.0f);
    return l;
}

static inline rf_linear made_norm(made_carver *m, int64_t d)
{
    rf_linear l;
    l.weight = made_carve(m, 0, d, 0.3f, 1.0f);
    l.bias = made_carve(m, 0, d, 0.3f, 0.0f);
    return l;
}

static inline void made_block(made_carver *m, const rf_vit_config *c, rf_block_weights *b)
{
    const int64_t d = c->d_model, a = c->n_heads * c->d_head;
    b->ln1 = made_norm(m, d);
    b->q = made_linear(m, d, a);
    b->k = made_linear(m, d, a);
    b->v = made_linear(m, d, a);
    b->o = made_linear(m, a, d);
    b->ln2 = made_norm(m, d);
    b->fc1 = made_linear(m, d, c->d_mlp);
    b->fc2 = made_linear(m, c->d_mlp, d);
    if (c->has_attn_norm) {
        b->attn_ln = made_norm(m, a);
    }
    if (c->has_mlp_norm) {
        b->mlp_ln = made_norm(m, c->d_mlp);
    }
    if (c->is_gated) {
        b->gate = made_linear(m, d, c->d_mlp);
    }
    if (c->has_layer_scale) {
        b->scale1 = made_carve(m, 0, d, 0.3f, 1.0f);
        b->scale2 = made_carve(m, 0, d, 0.3f, 1.0f);
    }
    if (c->score_bias == RF_SCORES_RELATIVE) {
        const rf_view v = made_carve(m, c->n_heads * c->n_tokens, c->n_tokens, 0.5f, 0.0f);
        b->score_bias =
            rf_view_nd(v.data, RF_F32, 3, (int64_t[]){c->n_heads, c->n_tokens, c->n_tokens});
    }
}

static inline void made_pool(made_carver *m, const rf_vit_config *c, rf_pool_weights *p)
{
    const int64_t d = c->d_pool;
    p->probe = made_carve(m, c->n_pool_queries, d, 1.0f, 0.0f);
    p->q = made_linear(m, d, d);
    p->k = made_linear(m, c->d_model, d);
    p->v = made_linear(m, c->d_model, d);
    p->o = made_linear(m, d, d);
    if (c->d_pool_mlp > 0) {
        p->ln = made_norm(m, d);
        p->fc1 = made_linear(m, d, c->d_pool_mlp);
        p->fc2 = made_linear(m, c->d_pool_mlp, d);
    } else {
        p->ln_q = made_norm(m, d);
        p->ln_k = made_norm(m, c->d_model);
    }
}

static inline void made_weights(made_carver *m, const rf_vit_config *c)
{
    rf_vit_weights *w = m->w;
    const int64_t d = c->d_model;
    if (c->input == RF_VIT_TEXT) {
        w->token = made_carve(m, c->n_vocab, d, 1.0f, 0.0f);
    } else {
        w->patch = made_linear(m, c->n_channels * c->tubelet * c->patch_size * c->patch_size, d);
    }
    if (c->n_prefix > 0) {
        w->prefix_token = made_carve(m, c->n_prefix, d, 1.0f, 0.0f);
    }
    if (c->has_position) {
        w->position = made_carve(m, c->n_tokens, d, 0.5f, 0.0f);
    }
    if (c->has_ln_pre) {
        w->ln_pre = made_norm(m, d);
    }
    for (int64_t l = 0; l < c->n_layers; l++) {
        made_block(m, c, &w->blocks[l]);
    }
    if (c->has_ln_final) {
        w->ln_final = made_norm(m, c->norm_is_behind_pool ? c->d_pool : d);
    }
    if (c->pool == RF_POOL_ATTENTION) {
        made_pool(m, c, &w->pool);
    }
    if (c->has_projection) {
        w->projection = made_linear(m, c->d_pool, c->d_out);
    }
    if (c->n_classes > 0) {
        const int64_t n_in = c->head_input == RF_HEAD_POOLED_AND_PATCH_MEAN ? 2 * d : c->d_pool;
        w->head = made_linear(m, n_in, c->n_classes);
    }
    if (c->head_input == RF_HEAD_CLS_AND_DISTILLED) {
        w->head_distilled = made_linear(m, d, c->n_classes);
    }
}

/* ---- models --------------------------------------------------------------------------------- */

typedef struct made {
    rf_backend *be;
    rf_stream *s;
    rf_vit *vit;
    rf_view input;
    rf_vit_config c;
} made;

static inline rf_view made_input(const rf_vit_config *c, int64_t n)
{
    if (c->input == RF_VIT_TEXT) {
        int64_t *ids = rf_calloc(n * c->n_tokens, sizeof *ids);
        assert_non_null(ids);
        for (int64_t i = 0; i < n * c->n_tokens; i++) {
            ids[i] = (7 * i + 3) % c->n_vocab;
        }
        return rf_view_nd(ids, RF_I64, 2, (int64_t[]){n, c->n_tokens});
    }
    const int64_t shape[5] = {n, c->n_frames, c->n_channels, c->image_height, c->image_width};
    const int64_t flat[4] = {n, c->n_channels, c->image_height, c->image_width};
    rf_view v = c->input == RF_VIT_CLIPS ? rf_view_nd(NULL, RF_F32, 5, shape)
                                         : rf_view_nd(NULL, RF_F32, 4, flat);
    v.data = rf_calloc(rf_view_n_elems(&v), sizeof(float));
    assert_non_null(v.data);
    made_fill(1000, v.data, rf_view_n_elems(&v), 1.0f, 0.0f);
    return v;
}

static inline made made_open(const rf_vit_config *c, rf_dtype products)
{
    made m = {.c = *c};
    made_ok(rf_backend_cpu_create(2, &m.be));
    made_ok(rf_stream_create(m.be, &m.s));
    m.vit = rf_calloc(1, sizeof *m.vit);
    assert_non_null(m.vit);
    m.vit->be = m.be;
    m.vit->config = *c;
    m.vit->products = products;
    m.vit->weights.blocks = rf_calloc(c->n_layers, sizeof *m.vit->weights.blocks);
    assert_non_null(m.vit->weights.blocks);
    made_ok(rf_memory_alloc(m.be, RF_MEMORY_DEVICE, MADE_ARENA * sizeof(float),
                            (void **)&m.vit->weights.arena));
    made_weights(&(made_carver){.w = &m.vit->weights}, c);
    made_ok(rf_weights_derive(m.be, m.s, c, products, &m.vit->weights));
    m.input = made_input(c, MADE_PICTURES);
    return m;
}

static inline void made_close(made *m)
{
    rf_free(m->input.data);
    rf_vit_close(m->vit);
    rf_stream_destroy(m->s);
    rf_backend_destroy(m->be);
}

/* ---- passes --------------------------------------------------------------------------------- */

typedef struct made_points {
    rf_hook_point *at;
    int64_t n;
} made_points;

static inline made_points made_list(const made *m)
{
    made_points p;
    made_ok(rf_vit_hook_list(&m->c, &p.at, &p.n));
    assert_true(p.n <= MADE_POINTS);
    return p;
}

static inline rf_hook_point made_find(const made *m, const char *name)
{
    rf_hook_point p;
    made_ok(rf_vit_hook_find(&m->c, name, &p));
    return p;
}

static inline rf_vit_output made_run(made *m, const rf_hook *hooks, int64_t n_hooks,
                                     rf_cache *cache)
{
    rf_vit_output out;
    made_ok(rf_vit_run(
        m->vit, m->s,
        &(rf_vit_run_args){.input = m->input, .hooks = hooks, .n_hooks = n_hooks, .cache = cache},
        &out));
    return out;
}

static inline float *made_copy(const rf_view *v)
{
    float *x = rf_calloc(rf_view_n_elems(v), sizeof *x);
    assert_non_null(x);
    memcpy(x, v->data, (size_t)rf_view_n_elems(v) * sizeof *x);
    return x;
}

static inline double made_change(const float *a, const float *b, int64_t n)
{
    double change = 0.0;
    for (int64_t i = 0; i < n; i++) {
        change = fmax(change, fabs((double)a[i] - (double)b[i]));
    }
    return change;
}

static inline rf_cache *made_full_cache(made *m)
{
    rf_cache *cache = NULL;
    made_ok(rf_cache_create(m->vit, NULL, 0, &cache));
    return cache;
}

static inline rf_view made_cached(const rf_cache *cache, const char *name)
{
    rf_view v;
    made_ok(rf_cache_get(cache, name, &v));
    return v;
}

/* ---- hooks ---------------------------------------------------------------------------------- */

typedef struct made_firing {
    const rf_vit_config *c;
    int64_t n_calls, last_order;
} made_firing;

static inline rf_status made_note(void *user, const rf_hook_point *point, const rf_view *act,
                                  rf_stream *s)
{
    made_firing *f = user;
    const rf_view want = rf_hook_view(f->c, point, MADE_PICTURES, act->data);
    (void)s;
    assert_memory_equal(&want, act, sizeof want);
    assert_true(rf_hook_order(f->c, point) > f->last_order);
    f->last_order = rf_hook_order(f->c, point);
    f->n_calls++;
    return RF_OK;
}

static inline rf_status made_edit(void *user, const rf_hook_point *point, const rf_view *act,
                                  rf_stream *s)
{
    float *x = act->data;
    (void)point;
    (void)s;
    for (int64_t i = 0; i < rf_view_n_elems(act); i++) { /* no norm or softmax undoes this */
        x[i] = 1.5f * x[i] + 0.3f * (float)(i % 5);
    }
    ++*(int64_t *)user;
    return RF_OK;
}

static inline rf_status made_keep(void *user, const rf_hook_point *point, const rf_view *act,
                                  rf_stream *s)
{
    rf_view *kept = user;
    (void)point;
    (void)s;
    *kept = *act;
    kept->data = made_copy(act);
    return RF_OK;
}

/* y = a + b everywhere, in one rounding. */
static inline void made_assert_sum(const rf_cache *cache, const char *y, const char *a,
                                   const char *b)
{
    const rf_view vy = made_cached(cache, y), va = made_cached(cache, a),
                  vb = made_cached(cache, b);
    const float *xy = vy.data, *xa = va.data, *xb = vb.data;
    for (int64_t i = 0; i < rf_view_n_elems(&vy); i++) {
        assert_true(xy[i] == xa[i] + xb[i]);
    }
}

#endif
