/* Launchers of what stands around cuBLAS's products. */
#ifndef REFRACT_K_MATMUL_H
#define REFRACT_K_MATMUL_H

#include "refract/tensor.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* y [n_rows, n_cols], rows y_stride apart, = x in bf16, to the nearest with ties to even. */
void rf_k_rows_to_bf16(cudaStream_t stream, const float *x, int64_t x_stride, int64_t n_rows,
                       int64_t n_cols, uint16_t *y, int64_t y_stride);

/* c [n_rows, n_cols] = act(c + bias [n_cols]); bias NULL: 0. */
void rf_k_bias_act(cudaStream_t stream, rf_act act, const float *bias, float *c, int64_t c_stride,
                   int64_t n_rows, int64_t n_cols);

/* c *= beta, and 0 where beta is 0: what is left of a product of no terms. */
void rf_k_scale_rows(cudaStream_t stream, float beta, float *c, int64_t c_stride, int64_t n_rows,
                     int64_t n_cols);

#ifdef __cplusplus
}
#endif

#endif
