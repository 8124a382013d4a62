/* Gradients of an attention pool. It has no hook points inside, so its values are made again from
 * the tokens that it read. hook_pooled is what its first query gives, and queries do not see each
 * other: the others get no gradient. */
#include "vit_impl.h"

#include <math.h>

/* Buffers of a pass: [1, w] of the query, [B * T, ...] of the tokens, [B, w] and [B, m] behind the
 * attention. */
typedef struct pool_pass {
    const rf_pool_weights *w;
    rf_view probe, d_probe, query_in, query, d_query, d_query_in;
    rf_view keys_in, d_keys_in, k, v, d_k, d_v, pattern, d_pattern;
    rf_view z, y, normed, d_y, d_z, d_q, d_normed, pre, post, d_post;
} pool_pass;

static rf_view heads(const rf_view *rows, int64_t n_images, int64_t n_heads)
{
    const int64_t width = rows->shape[1];
    return rf_view_nd(rows->data, RF_F32, 4,
                      (int64_t[]){n_images, rows->shape[0] / n_images, n_heads, width / n_heads});
}

static pool_pass prepare(const rf_backward *b, const rf_view *tokens)
{
    const rf_vit_config *c = &b->vit->config;
    float *const *buf = b->vit->backward.buf;
    const int64_t n = b->n_images, w = c->d_pool, m = c->d_pool_mlp, n_rows = tokens->shape[0];
    const int64_t pattern[4] = {n, c->n_pool_heads, 1, c->n_tokens};
    pool_pass p = {.w = &b->vit->weights.pool, .keys_in = *tokens};
    float *at = buf[RF_GRAD_POOL];
    rf_view *const of_query[] = {&p.query_in, &p.query, &p.d_query, &p.d_query_in};
    rf_view *const of_pictures[] = {&p.z, &p.y, &p.normed, &p.d_y, &p.d_z, &p.d_q, &p.d_normed};
    rf_view *const of_mlp[] = {&p.pre, &p.post, &p.d_post};
    for (size_t i = 0; i < sizeof of_query / sizeof *of_query; i++, at += w) {
        *of_query[i] = rf_view_2d(at, 1, w);
    }
    at = buf[RF_GRAD_POOL] + n * w * (int64_t)(sizeof of_query / sizeof *of_query);
    for (size_t i = 0; i < sizeof of_pictures / sizeof *of_pictures; i++, at += n * w) {
        *of_pictures[i] = rf_view_2d(at, n, w);
    }
    for (size_t i = 0; i < sizeof of_mlp / sizeof *of_mlp; i++, at += n * m) {
        *of_mlp[i] = rf_view_2d(at, n, m);
    }
    const rf_view d_probe = rf_backward_weight(b, &p.w->probe);
    p.probe = rf_view_rows(p.w->probe, 0, 1);
    p.d_probe = rf_view_rows(d_probe, 0, 1);
    p.d_keys_in = rf_backward_tokens(b, RF_GRAD_NORMED);
    p.k = rf_view_2d(buf[RF_GRAD_K], n_rows, w);
    p.v = rf_view_2d(buf[RF_GRAD_V], n_rows, w);
    p.d_k = rf_view_2d(buf[RF_GRAD_Q], n_rows, w);
    p.d_v = rf_view_2d(buf[RF_GRAD_Z], n_rows, w);
    p.pattern = rf_view_nd(buf[RF_GRAD_SOFTMAX], RF_F32, 4, pattern);
    p.d_pattern = rf_view_nd(buf[RF_GRAD_PATTERN], RF_F32, 4, pattern);
    return p;
}

/* ---- values --------------------------------------------------------------------------------- */

static bool is_there(const rf_linear *l)
{
    return l->weight.data != NULL;
}

static rf_status norm(rf_backward *b, const rf_linear *ln, const rf_view *x, const rf_view *y)
{
    const rf_layer_norm_args args = {
        .x = *x, .weight = ln->weight, .bias = ln->bias, .y = *y, .eps = b->vit->config.eps};
    return rf_layer_norm(b->s, &args);
}

static rf_status linear(rf_backward *b, const rf_linear *l, const rf_view *x, const rf_view *y)
{
    const rf_matmul_args args = {.a = *x, .b = l->weight, .c = *y, .bias = l->bias, .alpha = 1.0f};
    return rf_matmul(b->s, &args);
}

/* One query for all pictures. */
static rf_attention_args attention(const rf_backward *b, const pool_pass *p)
{
    const rf_vit_config *c = &b->vit->config;
    const int64_t n = b->n_images, n_heads = c->n_pool_heads;
    rf_attention_args args = {.q = heads(&p->query, 1, n_heads),
                              .k = heads(&p->k, n, n_heads),
                              .v = heads(&p->v, n, n_heads),
                              .z = heads(&p->z, n, n_heads),
                              .pattern = p->pattern,
                              .scale = 1.0f / sqrtf((float)(c->d_pool / n_heads))};
    args.q.shape[0] = n;
    args.q.stride[0] = 0;
    return args;
}

static rf_status attend(rf_backward *b, pool_pass *p)
{
    rf_status status = RF_OK;
    RF_TRY(linear(b, &p->w->q, &p->query_in, &p->query));
    RF_TRY(linear(b, &p->w->k, &p->keys_in, &p->k));
    RF_TRY(linear(b, &p->w->v, &p->keys_in, &p->v));
    const rf_attention_args args = attention(b, p);
    RF_TRY(rf_attention(b->s, &args));
    RF_TRY(linear(b, &p->w->o, &p->z, &p->y));
fail:
    return status;
}

/* What the queries and keys are made of: normed where there are norms for it. */
static rf_status norm_inputs(rf_backward *b, pool_pass *p, const rf_view *tokens)
{
    rf_status status = RF_OK;
    if (is_there(&p->w->ln_q)) {
        RF_TRY(norm(b, &p->w->ln_q, &p->probe, &p->query_in));
    } else {
        p->query_in = p->probe;
    }
    if (is_there(&p->w->ln_k)) {
        p->keys_in = rf_backward_tokens(b, RF_GRAD_VALUE);
        RF_TRY(norm(b, &p->w->ln_k, tokens, &p->keys_in));
    }
fail:
    return status;
}

static rf_status make_values(rf_backward *b, pool_pass *p, const rf_view *tokens)
{
    rf_status status = RF_OK;
    RF_TRY(norm_inputs(b, p, tokens));
    RF_TRY(attend(b, p));
    if (is_there(&p->w->fc1)) {
        RF_TRY(norm(b, &p->w->ln, &p->y, &p->normed));
        RF_TRY(linear(b, &p->w->fc1, &p->normed, &p->pre));
        RF_TRY(rf_activation(b->s, b->vit->config.act, &p->pre, &p->post));
    }
fail:
    return status;
}

rf_status rf_backward_pool_value(rf_backward *b, const rf_view *tokens, const rf_view *out)
{
    rf_status status = RF_OK;
    pool_pass p = prepare(b, tokens);
    RF_TRY(make_values(b, &p, tokens));
    if (is_there(&p.w->fc1)) {
        RF_TRY(linear(b, &p.w->fc2, &p.post, out));
        RF_TRY(rf_add(b->s, &(rf_add_args){.x = p.y, .r = *out, .y = *out}));
    } else {
        RF_TRY(rf_add(b->s, &(rf_add_args){.r = p.y, .y = *out}));
    }
fail:
    return status;
}

/* ---- gradients ------------------------------------------------------------------------------ */

static rf_status linear_grad(rf_backward *b, const rf_linear *map, const rf_view *x,
                             const rf_view *d_y, const rf_view *d_x, float beta)
{
    const rf_linear_grad_args args = {
        .map = map, .x = *x, .d_y = *d_y, .d_x = *d_x, .alpha = 1.0f, .beta = beta};
    return rf_backward_linear(b, &args);
}

/* In place over d; the scale is made again. */
static rf_status norm_grad(rf_backward *b, const rf_linear *ln, const rf_view *x, const rf_view *d)
{
    rf_status status = RF_OK;
    const rf_view scale = rf_view_1d(b->vit->backward.buf[RF_GRAD_SCALE], x->shape[0]);
    const rf_layer_norm_args own = {.x = *x, .scale = scale, .eps = b->vit->config.eps};
    const rf_layer_norm_grad_args args = {.x = *x,
                                          .weight = ln->weight,
                                          .scale = scale,
                                          .d_y = *d,
                                          .d_x = *d,
                                          .d_weight = rf_backward_weight(b, &ln->weight),
                                          .d_bias = rf_backward_weight(b, &ln->bias)};
    RF_TRY(rf_layer_norm(b->s, &own));
    RF_TRY(rf_layer_norm_grad(b->s, &args));
fail:
    return status;
}

/* y + mlp(ln(y)): d_y becomes the gradient by y. */
static rf_status mlp_grad(rf_backward *b, pool_pass *p)
{
    rf_status status = RF_OK;
    RF_TRY(linear_grad(b, &p->w->fc2, &p->post, &p->d_y, &p->d_post, 0.0f));
    RF_TRY(rf_activation_grad(b->s, b->vit->config.act, &p->pre, &p->d_post, &p->d_post));
    RF_TRY(linear_grad(b, &p->w->fc1, &p->normed, &p->d_post, &p->d_normed, 0.0f));
    RF_TRY(norm_grad(b, &p->w->ln, &p->y, &p->d_normed));
    RF_TRY(rf_add(b->s, &(rf_add_args){.x = p->d_y, .r = p->d_normed, .y = p->d_y}));
fail:
    return status;
}

/* From d_y to d_q [B, w], d_k and d_v. */
static rf_status attend_grad(rf_backward *b, pool_pass *p)
{
    rf_status status = RF_OK;
    const int64_t n = b->n_images, n_heads = b->vit->config.n_pool_heads;
    const rf_attention_args values = attention(b, p);
    const rf_attention_grad_args args = {.q = values.q,
                                         .k = values.k,
                                         .v = values.v,
                                         .pattern = p->pattern,
                                         .d_z = heads(&p->d_z, n, n_heads),
                                         .d_pattern = p->d_pattern,
                                         .d_q = heads(&p->d_q, n, n_heads),
                                         .d_k = heads(&p->d_k, n, n_heads),
                                         .d_v = heads(&p->d_v, n, n_heads),
                                         .scale = values.scale};
    RF_TRY(linear_grad(b, &p->w->o, &p->z, &p->d_y, &p->d_z, 0.0f));
    RF_TRY(rf_attention_mix_grad(b->s, &args));
    RF_TRY(rf_attention_softmax_grad(b->s, &args));
    RF_TRY(rf_attention_scores_grad(b->s, &args));
fail:
    return status;
}

/* The query is the same for all pictures: their gradients are added. */
static rf_status query_grad(rf_backward *b, pool_pass *p)
{
    rf_status status = RF_OK;
    const rf_row_sum_args sum = {
        .x = p->d_q, .out = rf_view_1d(p->d_query.data, p->d_query.shape[1]), .alpha = 1.0f};
    if (b->args->d_weights == NULL) {
        return RF_OK;
    }
    RF_TRY(rf_row_sum(b->s, &sum));
    RF_TRY(linear_grad(b, &p->w->q, &p->query_in, &p->d_query, &p->d_query_in, 0.0f));
    if (is_there(&p->w->ln_q)) {
        RF_TRY(norm_grad(b, &p->w->ln_q, &p->probe, &p->d_query_in));
    }
    RF_TRY(rf_add(b->s, &(rf_add_args){.x = p->d_probe, .r = p->d_query_in, .y = p->d_probe}));
fail:
    return status;
}

static rf_status keys_grad(rf_backward *b, pool_pass *p, const rf_view *tokens,
                           const rf_view *d_tokens)
{
    rf_status status = RF_OK;
    const bool normed = is_there(&p->w->ln_k);
    const rf_view *to = normed ? &p->d_keys_in : d_tokens;
    RF_TRY(linear_grad(b, &p->w->k, &p->keys_in, &p->d_k, to, normed ? 0.0f : 1.0f));
    RF_TRY(linear_grad(b, &p->w->v, &p->keys_in, &p->d_v, to, 1.0f));
    if (normed) {
        RF_TRY(norm_grad(b, &p->w->ln_k, tokens, to));
        RF_TRY(rf_add(b->s, &(rf_add_args){.x = *d_tokens, .r = *to, .y = *d_tokens}));
    }
fail:
    return status;
}

rf_status rf_backward_pool(rf_backward *b, const rf_view *tokens, const rf_view *d_pooled,
                           const rf_view *d_tokens)
{
    rf_status status = RF_OK;
    pool_pass p = prepare(b, tokens);
    RF_TRY(make_values(b, &p, tokens));
    RF_TRY(rf_add(b->s, &(rf_add_args){.r = *d_pooled, .y = p.d_y}));
    if (is_there(&p.w->fc1)) {
        RF_TRY(mlp_grad(b, &p));
    }
    RF_TRY(attend_grad(b, &p));
    RF_TRY(query_grad(b, &p));
    RF_TRY(keys_grad(b, &p, tokens, d_tokens));
fail:
    return status;
}
