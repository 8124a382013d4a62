/* Private to tensor: the CPU backend's stream, its scratch memory, and the functions of its table.
 * Arguments have passed the shape rules of ops.c before they come here. */
#ifndef REFRACT_TENSOR_IMPL_H
#define REFRACT_TENSOR_IMPL_H

#include "refract/tensor.h"

typedef struct rf_cpu_backend {
    rf_backend base; /* first */
    int n_threads;
} rf_cpu_backend;

typedef struct rf_cpu_stream {
    rf_stream base; /* first */
    int n_threads;
    void *scratch;
    size_t scratch_bytes;
} rf_cpu_stream;

/* Threads that an operation on `s` uses: the argument of num_threads(). */
int rf_cpu_n_threads(const rf_stream *s);
/* The calling thread's number inside a parallel region, from 0. */
int rf_cpu_thread(void);

/* At least `n_bytes` (0 is fine) of memory of `s`, 64-byte aligned, contents unspecified: valid
 * until the next call on `s`. One user at a time: an operation asks once and divides what it gets.
 * It grows to the largest request and stays until the stream goes. */
rf_status rf_cpu_scratch(rf_stream *s, size_t n_bytes, void **out);

/* c [m, n] = alpha * op(a) [m, k] . op(b) [k, n] + beta * c, row-major, on the calling thread alone
 * whether or not it is inside a parallel region: the only user of oneDNN. beta = 0 does not read c.
 * k = 0 is fine. Safe to call from several threads at once. Where alpha is 1 and a is not
 * transposed an element's bits do not depend on m while it is a multiple of rf_cpu_row_step(). */
rf_status rf_cpu_sgemm_tile(rf_trans ta, rf_trans tb, int64_t m, int64_t n, int64_t k, float alpha,
                            const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                            float *c, int64_t ldc);
int64_t rf_cpu_row_step(void);
/* Whether a product [m, n] of a transposed a has the bits of one with a copy that is not; else it
 * has those of another order, which do not depend on m either while n is 16 to 399. */
bool rf_cpu_sgemm_takes_trans_a(int64_t m, int64_t n);
/* The same for a and b in bf16, neither transposed; products are exact, sums fp32. Only where
 * rf_cpu_has_bf16; where it is not fast, fp32 products of the same values take less time. */
rf_status rf_cpu_bf16_tile(int64_t m, int64_t n, int64_t k, float alpha, const uint16_t *a,
                           int64_t lda, const uint16_t *b, int64_t ldb, float beta, float *c,
                           int64_t ldc);
bool rf_cpu_has_bf16(void);
bool rf_cpu_bf16_is_fast(void);
/* "oneDNN 2.6.3" of the library that runs; ", bf16" where products of bf16 use its own. */
void rf_cpu_gemm_describe(char *out, size_t out_bytes);

/* ---- vectorisable maths (cpu_math.c), over n floats; y may be x. Errors against libm in the unit
 * test: exp 2 ulp, erf 2e-7 absolute. -------------------------------------------------------- */
void rf_cpu_exp(const float *x, float *y, int64_t n);
void rf_cpu_erf(const float *x, float *y, int64_t n);
void rf_cpu_act(rf_act act, const float *x, float *y, int64_t n);
/* x = softmax(x): the sum of the exponentials as rf_cpu_sum_lanes. */
void rf_cpu_softmax_row(float *x, int64_t n);
/* y = x rounded to bf16 (nearest, ties to even; NaN stays NaN), as bf16 or as floats. */
void rf_cpu_to_bf16(const float *x, uint16_t *y, int64_t n);
void rf_cpu_round_bf16(const float *x, float *y, int64_t n);
void rf_cpu_from_bf16(const uint16_t *x, float *y, int64_t n);
/* y = act(x + bias); bias NULL: 0. */
void rf_cpu_bias_act(rf_act act, const float *x, const float *bias, float *y, int64_t n);
/* Row i of a layer norm. */
void rf_cpu_norm_row(const rf_layer_norm_args *args, int64_t i);
/* Sum in 16 lanes, halved at the end: one order for all. */
float rf_cpu_sum_lanes(const float *x, int64_t n);

/* ---- dense operations ---------------------------------------------------------------------- */
rf_status rf_cpu_matmul(rf_stream *s, const rf_matmul_args *args);
rf_status rf_cpu_layer_norm(rf_stream *s, const rf_layer_norm_args *args);
rf_status rf_cpu_attention(rf_stream *s, const rf_attention_args *args);
rf_status rf_cpu_attention_scores(rf_stream *s, const rf_attention_args *args);
rf_status rf_cpu_attention_mix(rf_stream *s, const rf_attention_args *args);
rf_status rf_cpu_softmax_rows(rf_stream *s, const rf_view *x);
rf_status rf_cpu_activation(rf_stream *s, rf_act act, const rf_view *x, const rf_view *y);
rf_status rf_cpu_add(rf_stream *s, const rf_add_args *args);
rf_status rf_cpu_pixel_values(rf_stream *s, const rf_pixel_values_args *args);
rf_status rf_cpu_patch_rows(rf_stream *s, const rf_patch_rows_args *args);
rf_status rf_cpu_embed_tokens(rf_stream *s, const rf_embed_tokens_args *args);
rf_status rf_cpu_convert(rf_stream *s, const rf_view *x, const rf_view *y);
rf_status rf_cpu_gather_rows(rf_stream *s, const rf_view *src, const rf_view *index,
                             const rf_view *dst);
rf_status rf_cpu_gated(rf_stream *s, rf_act act, const rf_view *gate, const rf_view *x,
                       const rf_view *y);
rf_status rf_cpu_rotary(rf_stream *s, const rf_rotary_args *args);
rf_status rf_cpu_mean_tokens(rf_stream *s, const rf_view *x, int64_t first, int64_t n,
                             const rf_view *y);

/* ---- their gradients ----------------------------------------------------------------------- */
rf_status rf_cpu_layer_norm_grad(rf_stream *s, const rf_layer_norm_grad_args *args);
rf_status rf_cpu_layer_norm_scale_grad(rf_stream *s, const rf_layer_norm_grad_args *args);
rf_status rf_cpu_attention_mix_grad(rf_stream *s, const rf_attention_grad_args *args);
rf_status rf_cpu_attention_softmax_grad(rf_stream *s, const rf_attention_grad_args *args);
rf_status rf_cpu_attention_scores_grad(rf_stream *s, const rf_attention_grad_args *args);
rf_status rf_cpu_activation_grad(rf_stream *s, rf_act act, const rf_view *x, const rf_view *d_y,
                                 const rf_view *d_x);
rf_status rf_cpu_gated_grad(rf_stream *s, const rf_gated_grad_args *args);
rf_status rf_cpu_column_dot(rf_stream *s, const rf_view *x, const rf_view *y, const rf_view *out);
rf_status rf_cpu_mean_tokens_grad(rf_stream *s, const rf_view *d_y, int64_t first, int64_t n,
                                  const rf_view *d_x);
rf_status rf_cpu_patch_rows_grad(rf_stream *s, const rf_patch_rows_args *args);
/* prefix.shape[0] is how many prefix rows there are, whether or not their gradient is wanted. */
rf_status rf_cpu_embed_tokens_grad(rf_stream *s, const rf_embed_tokens_args *args);
rf_status rf_cpu_gather_rows_grad(rf_stream *s, const rf_view *dst, const rf_view *index,
                                  const rf_view *src);

/* out [d] += the sum over blocks of partial [n_blocks, d] (`stride` apart), in order, as doubles.
 */
void rf_cpu_add_blocks(const float *partial, int64_t n_blocks, int64_t stride, int64_t d,
                       float *out);

/* Pictures or clips as patches see them: sizes, what is whole along t, y, x, and the strides of
 * picture, frame, channel and line. */
typedef struct rf_clip {
    int64_t n_pictures, n_frames, n_channels, height, width;
    int64_t tubelet, n_t, n_y, n_x;
    int64_t stride[4];
} rf_clip;
rf_clip rf_cpu_clip_of(const rf_patch_rows_args *args);

/* Every one of `index` is in 0..n-1. */
rf_status rf_cpu_check_index(const char *op, const rf_view *index, int64_t n);

/* ---- coder operations ---------------------------------------------------------------------- */
rf_status rf_cpu_encode(rf_stream *s, const rf_encode_args *args);
rf_status rf_cpu_decode(rf_stream *s, const rf_decode_args *args);
rf_status rf_cpu_d_value(rf_stream *s, const rf_d_value_args *args);
rf_status rf_cpu_residual(rf_stream *s, const rf_residual_args *args);
rf_status rf_cpu_index_by_latent(rf_stream *s, const rf_codes *codes, rf_latent_index *index);
rf_status rf_cpu_accumulate_by_latent(rf_stream *s, const rf_by_latent_args *args);
rf_status rf_cpu_row_sum(rf_stream *s, const rf_row_sum_args *args);
rf_status rf_cpu_sum_squares(rf_stream *s, const rf_view *x, double *out, double beta);
rf_status rf_cpu_codes_histogram(rf_stream *s, const rf_codes *codes, rf_class_rows rows,
                                 int32_t upper, int64_t *counts);
rf_status rf_cpu_codes_keep(rf_stream *s, rf_codes *codes, rf_class_rows rows, float threshold,
                            int64_t n_ties);
rf_status rf_cpu_prefix_residual(rf_stream *s, const rf_prefix_residual_args *args);
rf_status rf_cpu_sum_by_latent(rf_stream *s, const rf_latent_index *index, const float *entries,
                               const rf_view *out, float beta);
rf_status rf_cpu_gated_values(rf_stream *s, const rf_act_params *params, const rf_codes *codes,
                              const float *h, float *z);
rf_status rf_cpu_gated_values_grad(rf_stream *s, const rf_act_params *params,
                                   const rf_gated_values_grad_args *args);
rf_status rf_cpu_jump_window_grad(rf_stream *s, const rf_act_params *params,
                                  const rf_jump_window_grad_args *args);
rf_status rf_cpu_penalty(rf_stream *s, const rf_act_params *params, const rf_penalty_args *args);
rf_status rf_cpu_dense_values(rf_stream *s, const rf_act_params *params,
                              const rf_dense_values_args *args);
rf_status rf_cpu_dense_relu(rf_stream *s, const rf_view *h, const rf_view *z,
                            const uint8_t *row_valid);
rf_status rf_cpu_dense_grad(rf_stream *s, const rf_act_params *params,
                            const rf_dense_grad_args *args);
rf_status rf_cpu_update_rows(rf_stream *s, const rf_update_args *args);
rf_status rf_cpu_apply_row_rule(rf_stream *s, const rf_view *w, rf_row_rule rule,
                                const rf_segments *segments, float radius);
rf_status rf_cpu_row_norms(rf_stream *s, const rf_view *w, const rf_segments *segments,
                           const rf_view *out);
rf_status rf_cpu_row_norms_grad(rf_stream *s, const rf_view *w, const rf_segments *segments,
                                const rf_view *scale, const rf_view *d_w);
rf_status rf_cpu_normalise_tokens(rf_stream *s, const rf_normalise_args *args);
rf_status rf_cpu_denormalise_tokens(rf_stream *s, const rf_normalise_args *args);
rf_status rf_cpu_track_fired(rf_stream *s, const rf_track_fired_args *args);
rf_status rf_cpu_mark_dead(rf_stream *s, const rf_view *since_fired, int64_t limit, uint8_t *dead,
                           int64_t *n_dead);

#endif
