/* The table, dense operations and their gradients. Tolerances are of a row's norm: where nothing
 * else is said, those of sums and of exp, tanh and erf that differ in the last bits. */
#include "shadow_impl.h"

#define EXACT SHADOW_BITS
#define SUMS 2e-6   /* one sum or one function of rounded operands */
#define CHAINS 1e-5 /* several behind one another, with differences in between */

SHADOW_STRUCT(matmul, rf_matmul_args, IN(a), IN(b), IN(bias), OUT(c, SUMS),
              HOOK(shadow_measure_products))
SHADOW_STRUCT(layer_norm, rf_layer_norm_args, IN(x), IN(weight), IN(bias), IN(divisor),
              OUT(y, CHAINS), OUT(scale, SUMS))
SHADOW_STRUCT(attention, rf_attention_args, IN(q), IN(k), IN(v), IN(bias), OUT(z, CHAINS),
              OUT(pattern, CHAINS), HOOK(shadow_measure_scores))
SHADOW_STRUCT(attention_scores, rf_attention_args, IN(q), IN(k), IN(bias), OUT(pattern, CHAINS),
              HOOK(shadow_allow_tf32))
SHADOW_STRUCT(attention_mix, rf_attention_args, IN(pattern), IN(v), OUT(z, CHAINS),
              HOOK(shadow_allow_tf32))
SHADOW_STRUCT(add, rf_add_args, IN(x), IN(r), IN(scale), OUT(y, EXACT))
SHADOW_STRUCT(pixel_values, rf_pixel_values_args, IN(pixels), IN(levels), OUT(images, EXACT))
SHADOW_STRUCT(patch_rows, rf_patch_rows_args, IN(images), OUT(rows, EXACT))
SHADOW_STRUCT(embed_tokens, rf_embed_tokens_args, IN(patches), IN(position), IN(prefix),
              OUT(out, EXACT))
SHADOW_STRUCT(rotary, rf_rotary_args, IN(x), IN(cos), IN(sin), OUT(y, SUMS))

typedef struct one_view {
    rf_view x;
} one_view;
SHADOW_ROW(softmax_rows, one_view, (rf_stream * s, const rf_view *x), {*x},
           (c->device_stream, &a.x), (s, x), OUT(x, SUMS))

typedef struct act_views {
    rf_view gate, x, y, d_x;
} act_views;
SHADOW_ROW(activation, act_views, (rf_stream * s, rf_act act, const rf_view *x, const rf_view *y),
           ((T){.x = *x, .y = *y}), (c->device_stream, act, &a.x, &a.y), (s, act, x, y), IN(x),
           OUT(y, CHAINS)) /* 1 + erf cancels */
SHADOW_ROW(gated, act_views,
           (rf_stream * s, rf_act act, const rf_view *gate, const rf_view *x, const rf_view *y),
           ((T){.gate = *gate, .x = *x, .y = *y}), (c->device_stream, act, &a.gate, &a.x, &a.y),
           (s, act, gate, x, y), IN(gate), IN(x), OUT(y, CHAINS))
SHADOW_ROW(activation_grad, act_views,
           (rf_stream * s, rf_act act, const rf_view *x, const rf_view *d_y, const rf_view *d_x),
           ((T){.x = *x, .y = *d_y, .d_x = *d_x}), (c->device_stream, act, &a.x, &a.y, &a.d_x),
           (s, act, x, d_y, d_x), IN(x), IN(y), OUT(d_x, CHAINS))

typedef struct rows_views {
    rf_view src, index, dst;
} rows_views;
SHADOW_ROW(gather_rows, rows_views,
           (rf_stream * s, const rf_view *src, const rf_view *index, const rf_view *dst),
           ((T){*src, *index, *dst}), (c->device_stream, &a.src, &a.index, &a.dst),
           (s, src, index, dst), IN(src), IN(index), OUT(dst, EXACT))
SHADOW_ROW(gather_rows_grad, rows_views,
           (rf_stream * s, const rf_view *dst, const rf_view *index, const rf_view *src),
           ((T){*src, *index, *dst}), (c->device_stream, &a.dst, &a.index, &a.src),
           (s, dst, index, src), IN(dst), IN(index), OUT(src, EXACT))

typedef struct two_views {
    rf_view x, y;
} two_views;
SHADOW_ROW(convert, two_views, (rf_stream * s, const rf_view *x, const rf_view *y), ((T){*x, *y}),
           (c->device_stream, &a.x, &a.y), (s, x, y), IN(x), OUT(y, EXACT))
SHADOW_ROW(mean_tokens, two_views,
           (rf_stream * s, const rf_view *x, int64_t first, int64_t n, const rf_view *y),
           ((T){*x, *y}), (c->device_stream, &a.x, first, n, &a.y), (s, x, first, n, y), IN(x),
           OUT(y, SUMS))
SHADOW_ROW(mean_tokens_grad, two_views,
           (rf_stream * s, const rf_view *d_y, int64_t first, int64_t n, const rf_view *d_x),
           ((T){*d_x, *d_y}), (c->device_stream, &a.y, first, n, &a.x), (s, d_y, first, n, d_x),
           IN(y), OUT(x, SUMS))

typedef struct column_views {
    rf_view x, y, out;
} column_views;
SHADOW_ROW(column_dot, column_views,
           (rf_stream * s, const rf_view *x, const rf_view *y, const rf_view *out),
           ((T){*x, *y, *out}), (c->device_stream, &a.x, &a.y, &a.out), (s, x, y, out), IN(x),
           IN(y), OUT(out, SUMS))

SHADOW_STRUCT(layer_norm_grad, rf_layer_norm_grad_args, IN(x), IN(weight), IN(scale), IN(d_y),
              OUT(d_x, CHAINS), OUT(d_weight, CHAINS), OUT(d_bias, CHAINS), OUT(d_scale, CHAINS))
SHADOW_STRUCT(layer_norm_scale_grad, rf_layer_norm_grad_args, IN(x), IN(scale), IN(d_scale),
              OUT(d_x, CHAINS))
SHADOW_STRUCT(attention_mix_grad, rf_attention_grad_args, IN(v), IN(pattern), IN(d_z),
              OUT(d_pattern, CHAINS), OUT(d_v, CHAINS), HOOK(shadow_allow_tf32_grad))
SHADOW_STRUCT(attention_softmax_grad, rf_attention_grad_args, IN(pattern), OUT(d_pattern, CHAINS))
SHADOW_STRUCT(attention_scores_grad, rf_attention_grad_args, IN(q), IN(k), IN(d_pattern),
              OUT(d_q, CHAINS), OUT(d_k, CHAINS), OUT(d_bias, CHAINS), HOOK(shadow_allow_tf32_grad))
SHADOW_STRUCT(gated_grad, rf_gated_grad_args, IN(gate), IN(x), IN(d_y), OUT(d_gate, CHAINS),
              OUT(d_x, CHAINS))
SHADOW_STRUCT(patch_rows_grad, rf_patch_rows_args, IN(rows), OUT(images, SUMS))
SHADOW_STRUCT(embed_tokens_grad, rf_embed_tokens_args, IN(out), OUT(patches, SUMS),
              OUT(position, SUMS), OUT(prefix, SUMS))

void shadow_fill_dense(rf_backend_ops *ops)
{
    ops->matmul = run_matmul;
    ops->layer_norm = run_layer_norm;
    ops->attention = run_attention;
    ops->attention_scores = run_attention_scores;
    ops->attention_mix = run_attention_mix;
    ops->softmax_rows = run_softmax_rows;
    ops->activation = run_activation;
    ops->add = run_add;
    ops->pixel_values = run_pixel_values;
    ops->patch_rows = run_patch_rows;
    ops->embed_tokens = run_embed_tokens;
    ops->gather_rows = run_gather_rows;
    ops->convert = run_convert;
    ops->gated = run_gated;
    ops->rotary = run_rotary;
    ops->mean_tokens = run_mean_tokens;
    ops->layer_norm_grad = run_layer_norm_grad;
    ops->layer_norm_scale_grad = run_layer_norm_scale_grad;
    ops->attention_mix_grad = run_attention_mix_grad;
    ops->attention_softmax_grad = run_attention_softmax_grad;
    ops->attention_scores_grad = run_attention_scores_grad;
    ops->activation_grad = run_activation_grad;
    ops->gated_grad = run_gated_grad;
    ops->column_dot = run_column_dot;
    ops->mean_tokens_grad = run_mean_tokens_grad;
    ops->patch_rows_grad = run_patch_rows_grad;
    ops->embed_tokens_grad = run_embed_tokens_grad;
    ops->gather_rows_grad = run_gather_rows_grad;
}
