/* Private to cuda/: the CUDA backend's host side. Host code is C11 and knows cudart, cuBLAS and
 * NCCL; kernels stand in k_<family>.cu, each with a k_<family>.h of plain C launchers:
 *
 *     void rf_k_<kernel>(cudaStream_t stream, ...);   raw device pointers, int64 sizes
 *
 * A host function of the table is rf_cuda_<operation>, in cuda_<family>.c: arguments have passed
 * the shape rules of src/tensor/ops*.c; it asks the stream for scratch, calls launchers, and ends
 * with rf_cuda_launched. Nothing here waits for the device unless it says so. */
#ifndef REFRACT_CUDA_IMPL_H
#define REFRACT_CUDA_IMPL_H

#include "refract/tensor.h"

#include <cublas_v2.h>
#include <cublasLt.h>
#include <cuda_runtime_api.h>

typedef struct rf_cuda_backend {
    rf_backend base; /* first */
    int device;
    int n_sm;             /* multiprocessors */
    int64_t l2_bytes;     /* second-level cache */
    int64_t shared_bytes; /* shared memory that a block may ask for (opt-in) */
    int64_t memory_bytes; /* of the device */
} rf_cuda_backend;

/* cublasLt's choice for one shape of product with a bias (cuda_matmul.c). Any bits may be in
 * `algo`; all of it is plain data. */
typedef struct rf_cuda_plan {
    int64_t m, n, k, lda, ldb, ldc;
    uint64_t aligned; /* powers of two that divide the addresses */
    int kind;         /* precision, transpositions, beta */
    bool is_told;     /* false: cublasLt has none */
    cublasLtMatmulAlgo_t algo;
} rf_cuda_plan;
enum { RF_CUDA_PLANS = 64 };

typedef struct rf_cuda_stream {
    rf_stream base; /* first */
    cudaStream_t stream;
    cublasHandle_t blas; /* NULL before rf_cuda_want_blas, as the next two; bound to `stream` */
    cublasLtHandle_t blas_lt;
    void *blas_work; /* [RF_CUDA_BLAS_BYTES] */
    void *scratch;
    size_t scratch_bytes;
    const char *op; /* the last operation queued: an error that surfaces later names it */
    rf_cuda_plan plans[RF_CUDA_PLANS]; /* the last n_plans modulo their number */
    int64_t n_plans;
} rf_cuda_stream;

enum { RF_CUDA_BLAS_BYTES = 32 << 20 };

static inline rf_cuda_backend *rf_cuda_backend_of(const rf_stream *s)
{
    return (rf_cuda_backend *)s->backend;
}

static inline cudaStream_t rf_cuda_stream_of(const rf_stream *s)
{
    return ((const rf_cuda_stream *)s)->stream;
}

/* RF_OK, or the error with CUDA's reason and `what` (a call or an operation) in front. Out of
 * memory is ERR_NO_MEMORY and says what to change. */
rf_status rf_cuda_checked(cudaError_t code, const char *what);
rf_status rf_cublas_checked(cublasStatus_t code, const char *what);
#define RF_CUDA_TRY(call) RF_TRY(rf_cuda_checked((call), #call))

/* After the launches of `op` on `s`: a launch that was refused is an error now, and errors that
 * surface later name `op`. */
rf_status rf_cuda_launched(rf_stream *s, const char *op);

/* Until all that is queued on `s` is done: rf_stream_synchronise (cuda_nccl.c). Exchanges between
 * GPUs that failed, or are not done in time, are ERR_COMM. */
rf_status rf_cuda_wait(rf_stream *s);

/* cuBLAS, cublasLt and their work space, made at a stream's first product: most streams copy. */
rf_status rf_cuda_want_blas(rf_stream *s);
/* At least `n_bytes` of device memory of `s`, 256-byte aligned, contents unspecified: valid until
 * the next call on `s`, and for whatever was queued in between. One user at a time: an operation
 * asks once and divides what it gets. Waits for the device only when it has to grow. */
rf_status rf_cuda_scratch(rf_stream *s, size_t n_bytes, void **out);

/* Shares a block out. With base NULL it only adds up: walk the same code twice. */
typedef struct rf_carver {
    char *base;
    size_t used;
} rf_carver;
static inline void *rf_carve(rf_carver *c, int64_t n, size_t elem_bytes)
{
    void *p = c->base == NULL ? NULL : c->base + c->used;
    c->used += ((size_t)n * elem_bytes + 255) / 256 * 256;
    return p;
}

/* c [m, n] = alpha * op(a) . op(b) + beta * c, row-major as everywhere here (cuBLAS is asked for
 * the transposed product), rows lda, ldb, ldc apart. F32: IEEE fp32. TF32: operands of 10 bits.
 * BF16: a and b hold bf16. Sums are fp32. `work` and heuristics are the stream's. */
rf_status rf_cuda_gemm(rf_stream *s, rf_products products, rf_trans ta, rf_trans tb, int64_t m,
                       int64_t n, int64_t k, float alpha, const void *a, int64_t lda, const void *b,
                       int64_t ldb, float beta, float *c, int64_t ldc);
/* The same for `batch` of them, stride_* elements apart (0: one for all). */
rf_status rf_cuda_gemm_batched(rf_stream *s, rf_products products, rf_trans ta, rf_trans tb,
                               int64_t m, int64_t n, int64_t k, float alpha, const void *a,
                               int64_t lda, int64_t stride_a, const void *b, int64_t ldb,
                               int64_t stride_b, float beta, float *c, int64_t ldc,
                               int64_t stride_c, int64_t batch);

/* ---- the table ------------------------------------------------------------------------------ */
rf_status rf_cuda_matmul(rf_stream *s, const rf_matmul_args *args);
rf_status rf_cuda_layer_norm(rf_stream *s, const rf_layer_norm_args *args);
rf_status rf_cuda_attention(rf_stream *s, const rf_attention_args *args);
rf_status rf_cuda_attention_scores(rf_stream *s, const rf_attention_args *args);
rf_status rf_cuda_attention_mix(rf_stream *s, const rf_attention_args *args);
rf_status rf_cuda_softmax_rows(rf_stream *s, const rf_view *x);
rf_status rf_cuda_activation(rf_stream *s, rf_act act, const rf_view *x, const rf_view *y);
rf_status rf_cuda_add(rf_stream *s, const rf_add_args *args);
rf_status rf_cuda_pixel_values(rf_stream *s, const rf_pixel_values_args *args);
rf_status rf_cuda_patch_rows(rf_stream *s, const rf_patch_rows_args *args);
rf_status rf_cuda_embed_tokens(rf_stream *s, const rf_embed_tokens_args *args);
rf_status rf_cuda_gather_rows(rf_stream *s, const rf_view *src, const rf_view *index,
                              const rf_view *dst);
rf_status rf_cuda_convert(rf_stream *s, const rf_view *x, const rf_view *y);
rf_status rf_cuda_gated(rf_stream *s, rf_act act, const rf_view *gate, const rf_view *x,
                        const rf_view *y);
rf_status rf_cuda_rotary(rf_stream *s, const rf_rotary_args *args);
rf_status rf_cuda_mean_tokens(rf_stream *s, const rf_view *x, int64_t first, int64_t n,
                              const rf_view *y);
rf_status rf_cuda_layer_norm_grad(rf_stream *s, const rf_layer_norm_grad_args *args);
rf_status rf_cuda_layer_norm_scale_grad(rf_stream *s, const rf_layer_norm_grad_args *args);
rf_status rf_cuda_attention_mix_grad(rf_stream *s, const rf_attention_grad_args *args);
rf_status rf_cuda_attention_softmax_grad(rf_stream *s, const rf_attention_grad_args *args);
rf_status rf_cuda_attention_scores_grad(rf_stream *s, const rf_attention_grad_args *args);
rf_status rf_cuda_activation_grad(rf_stream *s, rf_act act, const rf_view *x, const rf_view *d_y,
                                  const rf_view *d_x);
rf_status rf_cuda_gated_grad(rf_stream *s, const rf_gated_grad_args *args);
rf_status rf_cuda_column_dot(rf_stream *s, const rf_view *x, const rf_view *y, const rf_view *out);
rf_status rf_cuda_mean_tokens_grad(rf_stream *s, const rf_view *d_y, int64_t first, int64_t n,
                                   const rf_view *d_x);
rf_status rf_cuda_patch_rows_grad(rf_stream *s, const rf_patch_rows_args *args);
rf_status rf_cuda_embed_tokens_grad(rf_stream *s, const rf_embed_tokens_args *args);
rf_status rf_cuda_gather_rows_grad(rf_stream *s, const rf_view *dst, const rf_view *index,
                                   const rf_view *src);
rf_status rf_cuda_encode(rf_stream *s, const rf_encode_args *args);
rf_status rf_cuda_decode(rf_stream *s, const rf_decode_args *args);
rf_status rf_cuda_d_value(rf_stream *s, const rf_d_value_args *args);
rf_status rf_cuda_residual(rf_stream *s, const rf_residual_args *args);
rf_status rf_cuda_index_by_latent(rf_stream *s, const rf_codes *codes, rf_latent_index *index);
rf_status rf_cuda_accumulate_by_latent(rf_stream *s, const rf_by_latent_args *args);
rf_status rf_cuda_row_sum(rf_stream *s, const rf_row_sum_args *args);
rf_status rf_cuda_sum_squares(rf_stream *s, const rf_view *x, double *out, double beta);
rf_status rf_cuda_codes_histogram(rf_stream *s, const rf_codes *codes, rf_class_rows rows,
                                  int32_t upper, int64_t *counts);
rf_status rf_cuda_codes_keep(rf_stream *s, rf_codes *codes, rf_class_rows rows, float threshold,
                             int64_t n_ties);
rf_status rf_cuda_prefix_residual(rf_stream *s, const rf_prefix_residual_args *args);
rf_status rf_cuda_sum_by_latent(rf_stream *s, const rf_latent_index *index, const float *entries,
                                const rf_view *out, float beta);
rf_status rf_cuda_gated_values(rf_stream *s, const rf_act_params *params, const rf_codes *codes,
                               const float *h, float *z);
rf_status rf_cuda_gated_values_grad(rf_stream *s, const rf_act_params *params,
                                    const rf_gated_values_grad_args *args);
rf_status rf_cuda_jump_window_grad(rf_stream *s, const rf_act_params *params,
                                   const rf_jump_window_grad_args *args);
rf_status rf_cuda_penalty(rf_stream *s, const rf_act_params *params, const rf_penalty_args *args);
rf_status rf_cuda_dense_values(rf_stream *s, const rf_act_params *params,
                               const rf_dense_values_args *args);
rf_status rf_cuda_dense_relu(rf_stream *s, const rf_view *h, const rf_view *z,
                             const uint8_t *row_valid);
rf_status rf_cuda_dense_grad(rf_stream *s, const rf_act_params *params,
                             const rf_dense_grad_args *args);
rf_status rf_cuda_update_rows(rf_stream *s, const rf_update_args *args);
rf_status rf_cuda_apply_row_rule(rf_stream *s, const rf_view *w, rf_row_rule rule,
                                 const rf_segments *segments, float radius);
rf_status rf_cuda_row_norms(rf_stream *s, const rf_view *w, const rf_segments *segments,
                            const rf_view *out);
rf_status rf_cuda_row_norms_grad(rf_stream *s, const rf_view *w, const rf_segments *segments,
                                 const rf_view *scale, const rf_view *d_w);
rf_status rf_cuda_normalise_tokens(rf_stream *s, const rf_normalise_args *args);
rf_status rf_cuda_denormalise_tokens(rf_stream *s, const rf_normalise_args *args);
rf_status rf_cuda_track_fired(rf_stream *s, const rf_track_fired_args *args);
rf_status rf_cuda_mark_dead(rf_stream *s, const rf_view *since_fired, int64_t limit, uint8_t *dead,
                            int64_t *n_dead);
rf_status rf_cuda_all_gather(rf_stream *s, const rf_comm *comm, const void *send, void *recv,
                             const int64_t *recv_bytes);
rf_status rf_cuda_all_to_all(rf_stream *s, const rf_comm *comm, const void *send,
                             const int64_t *send_bytes, void *recv, const int64_t *recv_bytes);
rf_status rf_cuda_all_sum_f32(rf_stream *s, const rf_comm *comm, float *data, int64_t n);
rf_status rf_cuda_all_sum_i64(rf_stream *s, const rf_comm *comm, int64_t *data, int64_t n);

#endif
