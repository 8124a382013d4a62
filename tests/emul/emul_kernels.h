/* Kernels for the tests of the emulation: each does one thing that cuda/ relies on. */
#ifndef REFRACT_EMUL_KERNELS_H
#define REFRACT_EMUL_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* y [n_rows, n_cols] = (x - mean) / sqrt(variance + 1e-5) of each row; 256 threads a row. */
void emul_k_norm_rows(cudaStream_t stream, const float *x, float *y, int64_t n_rows,
                      int64_t n_cols);
/* Each row of z [n_rows, n_cols] in falling order; `block` >= n_cols is a power of two. */
void emul_k_sort_rows(cudaStream_t stream, float *z, int64_t n_rows, int64_t n_cols, int block);
/* What each of 64 lanes gets from shuffles and votes, EMUL_N_WARP_RESULTS a lane. */
enum { EMUL_N_WARP_RESULTS = 16 };
void emul_k_warp_results(cudaStream_t stream, double *out);
/* Two halves of a warp that take different ways, each with its own mask: sums of lane numbers. */
void emul_k_half_warps(cudaStream_t stream, int *out);
/* Turns round 32 values through shared memory with __syncwarp alone. */
void emul_k_reverse_in_warp(cudaStream_t stream, const int *x, int *y);
/* out [7]: add, max, min, or, and, exchanges, compare-and-swaps of all threads of all blocks. */
void emul_k_atomics(cudaStream_t stream, int *out, unsigned long long *sum64, int64_t n);
/* out[i] = how often thread i of a grid of grid x block, both three-dimensional, has run. */
void emul_k_index_3d(cudaStream_t stream, int *out);
/* One block that keeps n floats in dynamic shared memory; `ask` for more than 48 KiB. */
void emul_k_big_shared(cudaStream_t stream, float *out, int64_t n, int ask);
/* A launch of any shape that does nothing. */
void emul_k_nothing(cudaStream_t stream, int64_t grid, int64_t block);
/* y = x + 1, n of them. */
void emul_k_add_one(cudaStream_t stream, const float *x, float *y, int64_t n);
typedef struct emul_pair {
    const float *x;
    float *y;
} emul_pair;
void emul_k_add_one_pair(cudaStream_t stream, emul_pair pair, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
