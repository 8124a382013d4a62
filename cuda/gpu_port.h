/* The one file that knows which compiler reads a kernel: nvcc, or a host compiler that runs it
 * under emulation (tests/emul). Kernels are C in the shape of CUDA: no templates, no lambdas, no
 * inline assembly, no cooperative groups; shared memory only by the two macros; launches only by
 * GPU_LAUNCH; guards by `if (i < n) {...}`, never an early return before a barrier. */
#ifndef REFRACT_GPU_PORT_H
#define REFRACT_GPU_PORT_H

#include <stdint.h>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
/* `count` elements of static shared memory. */
#define GPU_SHARED(type, name, count) __shared__ type name[count]
/* All of the launch's dynamic shared memory, 16-byte aligned. */
#define GPU_DYN_SHARED(type, name)                                                                 \
    extern __shared__ __align__(16) unsigned char gpu_dyn_[];                                      \
    type *name = (type *)gpu_dyn_
/* kernel<<<grid, block, shared_bytes, stream>>>(arguments). */
#define GPU_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                 \
    kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#else
#include "gpu_emul.h"
#endif

#if defined(__CUDACC__)
#define GPU_UNROLL _Pragma("unroll")
#else
#define GPU_UNROLL
#endif

enum { GPU_WARP = 32 };
#define GPU_ALL_LANES 0xffffffffu

#endif
