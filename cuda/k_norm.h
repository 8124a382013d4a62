/* Launchers of layer norm, softmax and their gradients. A warp has a row; all are bound by memory.
 */
#ifndef REFRACT_K_NORM_H
#define REFRACT_K_NORM_H

#include "k_view.h"

#ifdef __cplusplus
extern "C" {
#endif

void rf_k_layer_norm(cudaStream_t stream, rf_layer_norm_args args);

/* What is summed over rows goes in blocks of RF_K_NORM_ROWS, then blocks in order as doubles.
 * mean [n] and sums [2, blocks, d] are scratch. */
enum { RF_K_NORM_ROWS = 64 };
void rf_k_layer_norm_grad(cudaStream_t stream, rf_layer_norm_grad_args args, float *mean,
                          float *sums);
void rf_k_layer_norm_scale_grad(cudaStream_t stream, rf_layer_norm_grad_args args);

/* Rows of x [n, d], each replaced by softmax(x + bias): row i has bias row (i / n_each) % n_bias *
 * n_each + i % n_each (bias NULL: 0), as queries of heads have. */
typedef struct rf_softmax {
    rf_rows x;
    const float *bias;
    int64_t n, d, n_each, n_bias;
    bool is_sum_alone; /* x + bias, without the softmax */
} rf_softmax;
void rf_k_softmax(cudaStream_t stream, rf_softmax args);
/* d = p * (d - p . d). */
void rf_k_softmax_grad(cudaStream_t stream, const float *p, float *d_p, int64_t n, int64_t d);

/* d_bias [n_bias, Tq, T] += the sum over pictures, and over heads where n_bias is 1, of d_scores
 * [B, H, Tq, T], in order, as doubles. */
void rf_k_bias_grad(cudaStream_t stream, const float *d_scores, int64_t n_pictures, int64_t n_heads,
                    int64_t n_scores, int64_t n_bias, float *d_bias);

/* Where the matrix of each head of each picture begins: at [n_pictures, n_heads]. */
typedef struct rf_heads {
    const float *data;
    int64_t picture_stride, head_stride;
} rf_heads;
void rf_k_point_to_heads(cudaStream_t stream, rf_heads heads, int64_t n_pictures, int64_t n_heads,
                         const void **at);

#ifdef __cplusplus
}
#endif

#endif
