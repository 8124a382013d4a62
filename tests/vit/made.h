/* Models made on the spot with any switches: random weights under their names, input to match. */
#ifndef REFRACT_TESTS_VIT_MADE_H
#define REFRACT_TESTS_VIT_MADE_H

#include "../../src/vit/vit_impl.h"
#include "made_variants.h"
#include "vit_assert.h"

#include <math.h>
#include <string.h>

enum { MADE_PICTURES = 2, MADE_POINTS = 128 };

/* ---- weights -------------------------------------------------------------------------------- */

/* Which maps have biases: all of them, or all but the keys' (as of BEiT and others). */
typedef enum made_biases { MADE_BIASES, MADE_NO_KEY_BIAS } made_biases;

/* Goes over the weights twice: without an arena it only counts floats and params. */
typedef struct made_carver {
    const rf_vit_config *c;
    rf_vit_weights *w;
    made_biases biases;
    uint64_t key;
    int64_t layer; /* -1 outside the blocks */
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

static inline void made_param(made_carver *m, const char *name, rf_view view)
{
    if (m->w->arena != NULL) {
        rf_param *p = &m->w->params[m->w->n_params];
        p->view = view;
        assert_ok(m->layer < 0 ? rf_format(p->name, sizeof p->name, "%s", name)
                               : rf_format(p->name, sizeof p->name, "blocks.%" PRId64 ".%s",
                                           m->layer, name));
    }
    m->w->n_params++;
}

/* The next [n_rows, n_cols] of the arena (n_rows 0: [n_cols]), without a name. */
static inline rf_view made_carve(made_carver *m, int64_t n_rows, int64_t n_cols, float scale,
                                 float offset)
{
    const int64_t n = n_cols * (n_rows > 0 ? n_rows : 1);
    float *x = m->w->arena == NULL ? NULL : m->w->arena + m->w->n_floats;
    m->w->n_floats += rf_ceil_div(n, 16) * 16;
    if (x != NULL) {
        made_fill(m->key, x, n, scale, offset);
    }
    m->key++;
    return n_rows > 0 ? rf_view_2d(x, n_rows, n_cols) : rf_view_1d(x, n_cols);
}

static inline rf_view made_matrix(made_carver *m, const char *name, int64_t n_rows, int64_t n_cols,
                                  float scale)
{
    const rf_view v = made_carve(m, n_rows, n_cols, scale, 0.0f);
    made_param(m, name, v);
    return v;
}

static inline rf_view made_vector(made_carver *m, const char *name, int64_t n, float offset)
{
    const rf_view v = made_carve(m, 0, n, 0.3f, offset);
    made_param(m, name, v);
    return v;
}

static inline rf_linear made_linear(made_carver *m, const char *weight, const char *bias,
                                    int64_t n_in, int64_t n_out)
{
    rf_linear l = {0};
    l.weight = made_matrix(m, weight, n_in, n_out, 1.0f / sqrtf((float)n_in));
    if (bias != NULL) {
        l.bias = made_vector(m, bias, n_out, 0.0f);
    }
    return l;
}

static inline rf_linear made_norm(made_carver *m, const char *weight, const char *bias, int64_t d)
{
    rf_linear l;
    l.weight = made_vector(m, weight, d, 1.0f);
    l.bias = made_vector(m, bias, d, 0.0f);
    return l;
}

/* Rows of one array, each kind of token under its name. */
static inline void made_prefix(made_carver *m)
{
    const rf_vit_config *c = m->c;
    const int64_t n[] = {c->has_cls ? 1 : 0, c->has_distilled ? 1 : 0, c->n_registers};
    static const char *const names[] = {"cls_token", "dist_token", "reg_token"};
    m->w->prefix_token = made_carve(m, c->n_prefix, c->d_model, 1.0f, 0.0f);
    int64_t row = 0;
    for (int i = 0; i < 3; i++) {
        if (n[i] > 0) {
            made_param(m, names[i], rf_view_rows(m->w->prefix_token, row, n[i]));
        }
        row += n[i];
    }
    assert_int_equal(row, c->n_prefix);
}

static inline void made_attention(made_carver *m, rf_block_weights *b)
{
    const int64_t d = m->c->d_model, a = m->c->n_heads * m->c->d_head;
    b->ln1 = made_norm(m, "ln1.w", "ln1.b", d);
    b->q = made_linear(m, "attn.W_Q", "attn.b_Q", d, a);
    b->k = made_linear(m, "attn.W_K", m->biases == MADE_NO_KEY_BIAS ? NULL : "attn.b_K", d, a);
    b->v = made_linear(m, "attn.W_V", "attn.b_V", d, a);
    b->o = made_linear(m, "attn.W_O", "attn.b_O", a, d);
}

static inline void made_score_bias(made_carver *m, rf_block_weights *b)
{
    const int64_t h = m->c->n_heads, t = m->c->n_tokens;
    const rf_view v = made_carve(m, h * t, t, 0.5f, 0.0f);
    b->score_bias = rf_view_nd(v.data, RF_F32, 3, (int64_t[]){h, t, t});
    made_param(m, "attn.bias", b->score_bias);
}

static inline void made_block(made_carver *m, rf_block_weights *b)
{
    const rf_vit_config *c = m->c;
    const int64_t d = c->d_model;
    made_attention(m, b);
    b->ln2 = made_norm(m, "ln2.w", "ln2.b", d);
    b->fc1 = made_linear(m, "mlp.W_in", "mlp.b_in", d, c->d_mlp);
    b->fc2 = made_linear(m, "mlp.W_out", "mlp.b_out", c->d_mlp, d);
    if (c->has_attn_norm) {
        b->attn_ln = made_norm(m, "attn.ln.w", "attn.ln.b", c->n_heads * c->d_head);
    }
    if (c->has_mlp_norm) {
        b->mlp_ln = made_norm(m, "mlp.ln.w", "mlp.ln.b", c->d_mlp);
    }
    if (c->is_gated) {
        b->gate = made_linear(m, "mlp.W_gate", "mlp.b_gate", d, c->d_mlp);
    }
    if (c->has_layer_scale) {
        b->scale1 = made_vector(m, "ls1.gamma", d, 1.0f);
        b->scale2 = made_vector(m, "ls2.gamma", d, 1.0f);
    }
    if (c->score_bias == RF_SCORES_RELATIVE) {
        made_score_bias(m, b);
    }
}

/* SigLIP's has an MLP; CoCa's has norms of query and keys. */
static inline void made_pool(made_carver *m, rf_pool_weights *p)
{
    const rf_vit_config *c = m->c;
    const int64_t d = c->d_pool;
    p->probe = made_matrix(m, "pool.probe", c->n_pool_queries, d, 1.0f);
    p->q = made_linear(m, "pool.W_Q", "pool.b_Q", d, d);
    p->k = made_linear(m, "pool.W_K", "pool.b_K", c->d_model, d);
    p->v = made_linear(m, "pool.W_V", "pool.b_V", c->d_model, d);
    p->o = made_linear(m, "pool.W_O", "pool.b_O", d, d);
    if (c->d_pool_mlp > 0) {
        p->ln = made_norm(m, "pool.ln.w", "pool.ln.b", d);
        p->fc1 = made_linear(m, "pool.W_in", "pool.b_in", d, c->d_pool_mlp);
        p->fc2 = made_linear(m, "pool.W_out", "pool.b_out", c->d_pool_mlp, d);
    } else {
        p->ln_q = made_norm(m, "pool.ln_q.w", "pool.ln_q.b", d);
        p->ln_k = made_norm(m, "pool.ln_k.w", "pool.ln_k.b", c->d_model);
    }
}

static inline void made_begin(made_carver *m)
{
    rf_vit_weights *w = m->w;
    const rf_vit_config *c = m->c;
    const int64_t d = c->d_model;
    if (c->input == RF_VIT_TEXT) {
        w->token = made_matrix(m, "embed.W_E", c->n_vocab, d, 1.0f);
    } else {
        w->patch = made_linear(m, "embed.proj.weight", "embed.proj.bias",
                               c->n_channels * c->tubelet * c->patch_size * c->patch_size, d);
    }
    if (c->n_prefix > 0) {
        made_prefix(m);
    }
    if (c->has_position) {
        w->position = made_matrix(m, "pos_embed.W_pos", c->n_tokens, d, 0.5f);
    }
    if (c->has_ln_pre) {
        w->ln_pre = made_norm(m, "ln_pre.w", "ln_pre.b", d);
    }
}

static inline void made_end(made_carver *m)
{
    rf_vit_weights *w = m->w;
    const rf_vit_config *c = m->c;
    if (c->has_ln_final) {
        w->ln_final = made_norm(m, "ln_final.w", "ln_final.b",
                                c->norm_is_behind_pool ? c->d_pool : c->d_model);
    }
    if (c->pool == RF_POOL_ATTENTION) {
        made_pool(m, &w->pool);
    }
    if (c->has_projection) {
        w->projection = made_linear(m, "proj.W", "proj.b", c->d_pool, c->d_out);
    }
    if (c->n_classes > 0) {
        const int64_t n_in =
            c->head_input == RF_HEAD_POOLED_AND_PATCH_MEAN ? 2 * c->d_model : c->d_pool;
        w->head = made_linear(m, "head.W_H", "head.b_H", n_in, c->n_classes);
    }
    if (c->head_input == RF_HEAD_CLS_AND_DISTILLED) {
        w->head_distilled =
            made_linear(m, "head_dist.W_H", "head_dist.b_H", c->d_model, c->n_classes);
    }
}

static inline void made_weights(made_carver m)
{
    m.w->n_floats = m.w->n_params = 0;
    m.layer = -1;
    made_begin(&m);
    for (m.layer = 0; m.layer < m.c->n_layers; m.layer++) {
        made_block(&m, &m.w->blocks[m.layer]);
    }
    m.layer = -1;
    made_end(&m);
}

/* ---- models --------------------------------------------------------------------------------- */

static inline rf_vit *made_vit(rf_backend *be, rf_stream *s, const rf_vit_config *c,
                               rf_products products, made_biases biases)
{
    rf_vit *vit = rf_calloc(1, sizeof *vit);
    assert_non_null(vit);
    vit->be = be;
    vit->config = *c;
    vit->products = products;
    rf_vit_weights *w = &vit->weights;
    const made_carver carver = {.c = c, .w = w, .biases = biases};
    w->blocks = rf_calloc(c->n_layers, sizeof *w->blocks);
    assert_non_null(w->blocks);
    made_weights(carver);
    const size_t n_bytes = (size_t)w->n_floats * sizeof *w->arena;
    w->params = rf_calloc(w->n_params, sizeof *w->params);
    assert_non_null(w->params);
    assert_ok(rf_memory_alloc(be, RF_MEMORY_DEVICE, n_bytes, (void **)&w->arena));
    assert_ok(rf_fill_bytes(s, w->arena, 0, n_bytes)); /* zeros between the arrays */
    made_weights(carver);
    assert_ok(rf_weights_derive(be, s, c, products, w));
    return vit;
}

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

typedef struct made {
    rf_backend *be;
    rf_stream *s;
    rf_vit *vit;
    rf_view input;
    rf_vit_config c;
} made;

static inline made made_open(const rf_vit_config *c, rf_products products)
{
    made m = {.c = *c};
    assert_ok(rf_backend_cpu_create(2, &m.be));
    assert_ok(rf_stream_create(m.be, &m.s));
    m.vit = made_vit(m.be, m.s, c, products, MADE_BIASES);
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
    assert_ok(rf_vit_hook_list(&m->c, &p.at, &p.n));
    assert_true(p.n <= MADE_POINTS);
    return p;
}

static inline rf_hook_point made_find(const made *m, const char *name)
{
    rf_hook_point p;
    assert_ok(rf_vit_hook_find(&m->c, name, &p));
    return p;
}

static inline rf_vit_output made_pass(made *m, rf_vit_run_args args)
{
    rf_vit_output out;
    assert_ok(rf_vit_run(m->vit, m->s, &args, &out));
    return out;
}

/* From the input to the end. */
static inline rf_vit_output made_run(made *m, const rf_hook *hooks, int64_t n_hooks,
                                     rf_cache *cache)
{
    return made_pass(m, (rf_vit_run_args){
                            .input = m->input, .hooks = hooks, .n_hooks = n_hooks, .cache = cache});
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
    assert_ok(rf_cache_create(m->vit, NULL, 0, &cache));
    return cache;
}

static inline rf_view made_cached(const rf_cache *cache, const char *name)
{
    rf_view v;
    assert_ok(rf_cache_get(cache, name, &v));
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
