/* Each kernel has 256 threads (or 32), reads x [256], writes out [256] = 2 x where nothing else is
 * said, and has one bug when `bug` is 1. tests/emul/test_emul_bugs.sh runs them. */
#include "broken_kernels.h"

#include "gpu_port.h"

static __device__ float sum_of_block(float v, float *scratch, int bug)
{
    int lane = threadIdx.x % GPU_WARP, warp = threadIdx.x / GPU_WARP;

    for (int o = 16; o > 0; o >>= 1) {
        v += __shfl_xor_sync(GPU_ALL_LANES, v, o);
    }
    if (lane == 0) {
        scratch[warp] = v; /* BUG barrier: some still read the last sum's */
    }
    __syncthreads();
    v = lane < (int)blockDim.x / GPU_WARP ? scratch[lane] : 0.0f;
    for (int o = 16; o > 0; o >>= 1) {
        v += __shfl_xor_sync(GPU_ALL_LANES, v, o);
    }
    if (bug == 0) {
        __syncthreads();
    }
    return v;
}

static __global__ void barrier(int bug, const float *x, float *out)
{
    GPU_SHARED(float, scratch, GPU_WARP);
    float once = sum_of_block(x[threadIdx.x], scratch, bug);
    float twice = sum_of_block(2.0f * x[threadIdx.x], scratch, bug);

    out[threadIdx.x] = once + (float)threadIdx.x * twice;
}

static __global__ void divergent(int bug, const float *x, float *out)
{
    GPU_SHARED(float, keep, 256);
    int t = (int)threadIdx.x;

    keep[t] = x[t];
    if (bug != 0 && t >= 128) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[t] = x[t] + keep[255 - t] - keep[255 - t] + keep[t];
}

static __global__ void mask(int bug, const float *x, float *out)
{
    int t = (int)threadIdx.x;

    out[t] = 2.0f * x[t];
    if (t % GPU_WARP < 16) {
        unsigned lanes = bug != 0 ? GPU_ALL_LANES : 0xffffu;

        out[t] = x[t] + __shfl_xor_sync(lanes, __shfl_xor_sync(lanes, x[t], 1), 1);
    }
    __syncthreads();
}

static __global__ void exited(int bug, const float *x, float *out)
{
    int t = (int)threadIdx.x;

    out[t] = 2.0f * x[t];
    if (t % GPU_WARP != 31) {
        unsigned lanes = bug != 0 ? GPU_ALL_LANES : 0x7fffffffu;

        out[t] = x[t] + __shfl_sync(lanes, x[t], t % GPU_WARP);
    }
}

static __global__ void sync_warp(int bug, const float *x, float *out)
{
    GPU_SHARED(float, keep, 256);
    int t = (int)threadIdx.x;

    keep[t] = 2.0f * x[t ^ 1];
    if (bug == 0) {
        __syncwarp();
    }
    out[t] = keep[t ^ 1]; /* BUG sync_warp */
}

static __global__ void global_write(int bug, const float *x, float *out)
{
    out[threadIdx.x] = 2.0f * x[threadIdx.x];
    if (threadIdx.x == 255) {
        out[threadIdx.x + (bug != 0)] = 2.0f * x[threadIdx.x]; /* BUG global_write */
    }
}

static __global__ void global_read(int bug, const float *x, float *out)
{
    out[threadIdx.x] = 2.0f * x[threadIdx.x + (bug != 0)]; /* BUG global_read */
}

static __global__ void shared_write(int bug, const float *x, float *out)
{
    GPU_SHARED(float, keep, 256);

    keep[threadIdx.x] = 2.0f * x[threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 255) {
        keep[threadIdx.x + (bug != 0)] = 2.0f * x[threadIdx.x]; /* BUG shared_write */
    }
    __syncthreads();
    out[threadIdx.x] = keep[threadIdx.x];
}

static __global__ void shared_read(int bug, const float *x, float *out)
{
    GPU_DYN_SHARED(float, keep);

    keep[threadIdx.x] = 2.0f * x[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = keep[threadIdx.x + (bug != 0)]; /* BUG shared_read */
}

static __global__ void unset(int bug, const float *x, float *out)
{
    GPU_SHARED(float, keep, 256);

    if (bug == 0) {
        keep[threadIdx.x] = 0.0f;
    }
    keep[threadIdx.x] += 2.0f * x[threadIdx.x];
    out[threadIdx.x] = keep[threadIdx.x];
}

static __global__ void blocks(int bug, const float *x, float *out)
{
    int *counts = (int *)out;
    int add = (int)x[threadIdx.x];

    if (bug != 0) {
        counts[threadIdx.x] += add; /* BUG blocks */
    } else {
        atomicAdd(&counts[threadIdx.x], add);
    }
}

static __device__ __attribute__((noinline)) float from_far(const float *x)
{
    volatile float keep[50000];

    for (int i = 0; i < 50000; i++) {
        keep[i] = x[threadIdx.x];
    }
    return keep[threadIdx.x];
}

static __global__ void stack(int bug, const float *x, float *out)
{
    out[threadIdx.x] = 2.0f * (bug != 0 ? from_far(x) : x[threadIdx.x]);
}

static __global__ void statics(int bug, const float *x, float *out)
{
    GPU_SHARED(float, keep, 11 << 10);
    GPU_DYN_SHARED(float, more);

    keep[threadIdx.x] = x[threadIdx.x];
    more[threadIdx.x] = (float)bug;
    out[threadIdx.x] = 2.0f * keep[threadIdx.x] + 0.0f * more[threadIdx.x];
}

extern "C" {
void emul_b_barrier(cudaStream_t stream, int bug, const float *x, float *out)
{
    GPU_LAUNCH(barrier, 1, 256, 0, stream, bug, x, out);
}
void emul_b_divergent(cudaStream_t stream, int bug, const float *x, float *out)
{
    GPU_LAUNCH(divergent, 1, 256, 0, stream, bug, x, out);
}
void emul_b_mask(cudaStream_t stream, int bug, const float *x, float *out)
{
    GPU_LAUNCH(mask, 1, 256, 0, stream, bug, x, out);
}
void emul_b_exited(cudaStream_t stream, int bug, const float *x, float *out)
{
    GPU_LAUNCH(exited, 1, 256, 0, stream, bug, x, out);
}
void emul_b_sync_warp(cudaStream_t stream, int bug, const float *x, float *out)
{
    GPU_LAUNCH(sync_warp, 1, 256, 0, stream, bug, x, out);
}
void emul_b_global_write(cudaStream_t stream, int bug, const float *x, float *out)
{
    GPU_LAUNCH(global_write, 1, 256, 0, stream, bug, x, out);
}
void emul_b_global_read(cudaStream_t stream, int bug, const float *x, float *out)
{
    GPU_LAUNCH(global_read, 1, 256, 0, stream, bug, x, out);
}
void emul_b_shared_write(cudaStream_t stream, int bug, const float *x, float *out)
{
    GPU_LAUNCH(shared_write, 1, 256, 0, stream, bug, x, out);
}
void emul_b_shared_read(cudaStream_t stream, int bug, const float *x, float *out)
{
    GPU_LAUNCH(shared_read, 1, 256, 256 * sizeof(float), stream, bug, x, out);
}
void emul_b_unset(cudaStream_t stream, int bug, const float *x, float *out)
{
    GPU_LAUNCH(unset, 1, 256, 0, stream, bug, x, out);
}
void emul_b_blocks(cudaStream_t stream, int bug, const float *x, float *out)
{
    cudaMemsetAsync(out, 0, 256 * sizeof(int), stream);
    GPU_LAUNCH(blocks, 2, 256, 0, stream, bug, x, out);
}
void emul_b_stack(cudaStream_t stream, int bug, const float *x, float *out)
{
    GPU_LAUNCH(stack, 1, 32, 0, stream, bug, x, out);
}
void emul_b_static(cudaStream_t stream, int bug, const float *x, float *out)
{
    GPU_LAUNCH(statics, 1, 256, bug != 0 ? 16384 : 4096, stream, bug, x, out);
}
}
