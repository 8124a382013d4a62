#include "emul_kernels.h"

#include "gpu_port.h"

#include <float.h>

static __device__ float warp_sum(float v)
{
    for (int o = 16; o > 0; o >>= 1) {
        v += __shfl_xor_sync(GPU_ALL_LANES, v, o);
    }
    return v;
}

static __device__ float block_sum(float v, float *scratch)
{
    int lane = threadIdx.x % GPU_WARP, warp = threadIdx.x / GPU_WARP;

    v = warp_sum(v);
    if (lane == 0) {
        scratch[warp] = v;
    }
    __syncthreads();
    v = lane < (int)blockDim.x / GPU_WARP ? scratch[lane] : 0.0f;
    v = warp_sum(v);
    __syncthreads();
    return v;
}

static __global__ void norm_rows(const float *x, float *y, int64_t n_cols)
{
    GPU_SHARED(float, scratch, GPU_WARP);
    const float *in = x + blockIdx.x * n_cols;
    float sum = 0.0f, squares = 0.0f, mean, scale;

    for (int64_t c = threadIdx.x; c < n_cols; c += blockDim.x) {
        sum += in[c];
    }
    mean = block_sum(sum, scratch) / (float)n_cols;
    for (int64_t c = threadIdx.x; c < n_cols; c += blockDim.x) {
        squares += (in[c] - mean) * (in[c] - mean);
    }
    scale = rsqrtf(block_sum(squares, scratch) / (float)n_cols + 1e-5f);
    for (int64_t c = threadIdx.x; c < n_cols; c += blockDim.x) {
        y[blockIdx.x * n_cols + c] = (in[c] - mean) * scale;
    }
}

extern "C" void emul_k_norm_rows(cudaStream_t stream, const float *x, float *y, int64_t n_rows,
                                 int64_t n_cols)
{
    GPU_LAUNCH(norm_rows, (unsigned)n_rows, 256, 0, stream, x, y, n_cols);
}

/* Bitonic. */
static __global__ void sort_rows(float *z, int64_t n_cols)
{
    GPU_DYN_SHARED(float, key);
    int t = (int)threadIdx.x;

    key[t] = t < n_cols ? z[blockIdx.x * n_cols + t] : -FLT_MAX;
    __syncthreads();
    for (int size = 2; size <= (int)blockDim.x; size <<= 1) {
        for (int stride = size >> 1; stride > 0; stride >>= 1) {
            int p = t ^ stride;

            if (p > t && (key[t] < key[p]) == ((t & size) == 0)) {
                float swap = key[t];

                key[t] = key[p];
                key[p] = swap;
            }
            __syncthreads();
        }
    }
    if (t < n_cols) {
        z[blockIdx.x * n_cols + t] = key[t];
    }
}

extern "C" void emul_k_sort_rows(cudaStream_t stream, float *z, int64_t n_rows, int64_t n_cols,
                                 int block)
{
    GPU_LAUNCH(sort_rows, (unsigned)n_rows, (unsigned)block, (size_t)block * sizeof(float), stream,
               z, n_cols);
}

static __global__ void warp_results(double *out)
{
    int t = (int)threadIdx.x, lane = t % GPU_WARP;
    double *mine = out + (int64_t)t * EMUL_N_WARP_RESULTS;
    float f = (float)t + 0.5f;
    double d = (double)t + 0.25;
    long long big = (long long)t << 40;

    mine[0] = (double)__shfl_sync(GPU_ALL_LANES, f, 3);
    mine[1] = __shfl_sync(GPU_ALL_LANES, d, lane ^ 1);
    mine[2] = (double)__shfl_sync(GPU_ALL_LANES, t, 9, 8); /* lane 1 of each eight */
    mine[3] = (double)__shfl_up_sync(GPU_ALL_LANES, f, 1);
    mine[4] = (double)__shfl_up_sync(GPU_ALL_LANES, t, 3, 16);
    mine[5] = (double)__shfl_down_sync(GPU_ALL_LANES, (unsigned)t, 5u);
    mine[6] = __shfl_down_sync(GPU_ALL_LANES, d, 2, 4);
    mine[7] = (double)__shfl_xor_sync(GPU_ALL_LANES, big, 16);
    mine[8] = (double)__shfl_xor_sync(GPU_ALL_LANES, t, 6, 8);
    mine[9] = (double)__ballot_sync(GPU_ALL_LANES, t % 3 == 0);
    mine[10] = (double)__any_sync(GPU_ALL_LANES, t == 40);
    mine[11] = (double)__all_sync(GPU_ALL_LANES, t < 32);
    mine[12] = (double)__popc(__ballot_sync(GPU_ALL_LANES, lane < 5));
    mine[13] = (double)(__ffs((int)__ballot_sync(GPU_ALL_LANES, lane > 7)) - 1);
    mine[14] = (double)__clz(t) + 100.0 * (double)__clzll(t);
    mine[15] = (double)__int_as_float(__float_as_int(f)) + (double)max(t, 7) - (double)min(t, 7);
}

extern "C" void emul_k_warp_results(cudaStream_t stream, double *out)
{
    GPU_LAUNCH(warp_results, 1, 64, 0, stream, out);
}

static __global__ void half_warps(int *out)
{
    int lane = (int)threadIdx.x, v = lane;

    if (lane < 16) {
        for (int o = 8; o > 0; o >>= 1) {
            v += __shfl_down_sync(0x0000ffffu, v, o, 16);
        }
    } else {
        for (int o = 1; o < 16; o <<= 1) {
            v += __shfl_xor_sync(0xffff0000u, v, o, 16);
        }
    }
    __syncwarp();
    out[lane] = v;
}

extern "C" void emul_k_half_warps(cudaStream_t stream, int *out)
{
    GPU_LAUNCH(half_warps, 1, 32, 0, stream, out);
}

static __global__ void reverse_in_warp(const int *x, int *y)
{
    GPU_SHARED(int, scratch, GPU_WARP);

    scratch[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    y[threadIdx.x] = scratch[GPU_WARP - 1 - threadIdx.x];
}

extern "C" void emul_k_reverse_in_warp(cudaStream_t stream, const int *x, int *y)
{
    GPU_LAUNCH(reverse_in_warp, 1, 32, 0, stream, x, y);
}

static __global__ void atomics(int *out, unsigned long long *sum64, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n) {
        atomicAdd(&out[0], (int)i);
        atomicMax(&out[1], (int)i);
        atomicMin(&out[2], -(int)i);
        atomicOr(&out[3], 1 << i % 20);
        atomicAnd((unsigned *)&out[4], ~(1u << i % 20));
        atomicExch(&out[5], 77);
        if (atomicCAS(&out[6], (int)i, (int)i) < 0) {
            out[6] = 0;
        }
        atomicAdd(sum64, (unsigned long long)i << 32);
    }
}

extern "C" void emul_k_atomics(cudaStream_t stream, int *out, unsigned long long *sum64, int64_t n)
{
    GPU_LAUNCH(atomics, (unsigned)((n + 127) / 128), 128, 0, stream, out, sum64, n);
}

static __global__ void index_3d(int *out)
{
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;

    out[block * blockDim.x * blockDim.y * blockDim.z + t] += 1;
}

extern "C" void emul_k_index_3d(cudaStream_t stream, int *out)
{
    GPU_LAUNCH(index_3d, dim3(3, 2, 2), dim3(8, 4, 2), 0, stream, out);
}

static __global__ void big_shared(float *out, int64_t n)
{
    GPU_DYN_SHARED(float, keep);

    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        keep[i] = (float)i;
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        out[i] = keep[n - 1 - i];
    }
}

extern "C" void emul_k_big_shared(cudaStream_t stream, float *out, int64_t n, int ask)
{
    if (ask != 0) {
        cudaFuncSetAttribute(big_shared, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)(n * (int64_t)sizeof(float)));
    }
    GPU_LAUNCH(big_shared, 1, 256, (size_t)n * sizeof(float), stream, out, n);
    if (ask != 0) {
        cudaFuncSetAttribute(big_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 0);
    }
}

static __global__ void nothing(int unused)
{
    (void)unused;
}

extern "C" void emul_k_nothing(cudaStream_t stream, int64_t grid, int64_t block)
{
    GPU_LAUNCH(nothing, grid, block, 0, stream, 0);
}

static __global__ void add_one(const float *x, float *y, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n) {
        y[i] = x[i] + 1.0f;
    }
}

extern "C" void emul_k_add_one(cudaStream_t stream, const float *x, float *y, int64_t n)
{
    GPU_LAUNCH(add_one, (unsigned)((n + 127) / 128), 128, 0, stream, x, y, n);
}

static __global__ void add_one_pair(emul_pair pair, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n) {
        pair.y[i] = pair.x[i] + 1.0f;
    }
}

extern "C" void emul_k_add_one_pair(cudaStream_t stream, emul_pair pair, int64_t n)
{
    GPU_LAUNCH(add_one_pair, (unsigned)((n + 127) / 128), 128, 0, stream, pair, n);
}
