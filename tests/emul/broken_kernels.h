/* Kernels for the test of the tests: each is right with bug 0 and has one bug with bug 1. */
#ifndef REFRACT_BROKEN_KERNELS_H
#define REFRACT_BROKEN_KERNELS_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* out[i] = the sum of x over 256 threads plus i times the sum of 2 x. */
void emul_b_barrier(cudaStream_t stream, int bug, const float *x, float *out);
/* Half of the threads reach another barrier. */
void emul_b_divergent(cudaStream_t stream, int bug, const float *x, float *out);
/* 16 lanes shuffle; the bug's mask names 32. */
void emul_b_mask(cudaStream_t stream, int bug, const float *x, float *out);
/* Lanes leave, and a shuffle names them. */
void emul_b_exited(cudaStream_t stream, int bug, const float *x, float *out);
/* Exchange between lanes through shared memory without __syncwarp. */
void emul_b_sync_warp(cudaStream_t stream, int bug, const float *x, float *out);
/* One element behind the end of global or shared memory is written or read. */
void emul_b_global_write(cudaStream_t stream, int bug, const float *x, float *out);
void emul_b_global_read(cudaStream_t stream, int bug, const float *x, float *out);
void emul_b_shared_write(cudaStream_t stream, int bug, const float *x, float *out);
void emul_b_shared_read(cudaStream_t stream, int bug, const float *x, float *out);
/* Shared memory is added to before it is set. */
void emul_b_unset(cudaStream_t stream, int bug, const float *x, float *out);
/* All blocks add to out[0..255]: with integer atomics, or not. */
void emul_b_blocks(cudaStream_t stream, int bug, const float *x, float *out);
/* Needs 200 kB of stack. */
void emul_b_stack(cudaStream_t stream, int bug, const float *x, float *out);
/* 48 KiB of static and 16 of dynamic shared memory. */
void emul_b_static(cudaStream_t stream, int bug, const float *x, float *out);

#ifdef __cplusplus
}
#endif
#endif
