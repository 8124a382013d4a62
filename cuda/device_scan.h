/* Sums and prefix sums of whole numbers over a block. Whole warps; every thread of the block calls.
 * `partial` is shared, an element for each warp. Included by k_*.cu alone. */
#ifndef REFRACT_DEVICE_SCAN_H
#define REFRACT_DEVICE_SCAN_H

#include "gpu_port.h"

/* Of a block that walks an array by itself. */
enum { GPU_SCAN_THREADS = 1024, GPU_SCAN_WARPS = GPU_SCAN_THREADS / GPU_WARP };

/* What the lanes before this one have. */
static __device__ inline int64_t gpu_warp_scan(int64_t mine)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    int64_t sum = mine;
    for (int step = 1; step < GPU_WARP; step *= 2) {
        const int64_t other = __shfl_up_sync(GPU_ALL_LANES, sum, step);
        sum += lane >= step ? other : 0;
    }
    return sum - mine;
}

/* What the threads before this one have; *whole is what all have. */
static __device__ inline int64_t gpu_block_scan(int64_t mine, int64_t *partial, int64_t *whole)
{
    const int lane = (int)threadIdx.x % GPU_WARP, warp = (int)threadIdx.x / GPU_WARP;
    const int n_warps = (int)blockDim.x / GPU_WARP;
    int64_t before = gpu_warp_scan(mine), sum = 0;
    if (lane == GPU_WARP - 1) {
        partial[warp] = before + mine;
    }
    __syncthreads();
    for (int w = 0; w < n_warps; w++) {
        before += w < warp ? partial[w] : 0;
        sum += partial[w];
    }
    __syncthreads(); /* the next call may write */
    *whole = sum;
    return before;
}

static __device__ inline int64_t gpu_block_sum(int64_t mine, int64_t *partial)
{
    int64_t whole = 0;
    (void)gpu_block_scan(mine, partial, &whole);
    return whole;
}

#endif
