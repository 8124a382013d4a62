/* Softmax of rows of scores, its gradient, and where the heads of attention are. */
#include "k_norm.h"

#include "device_math.h"

enum { BLOCK = 256, WARPS = BLOCK / GPU_WARP };

static __device__ inline int64_t first_row(void)
{
    return ((int64_t)blockIdx.x * BLOCK + threadIdx.x) / GPU_WARP;
}

static __device__ inline int64_t row_step(void)
{
    return (int64_t)gridDim.x * WARPS;
}

static __device__ inline float warp_max(float mine)
{
    for (int half = GPU_WARP / 2; half >= 1; half /= 2) {
        const float other = __shfl_xor_sync(GPU_ALL_LANES, mine, half);
        mine = other > mine ? other : mine;
    }
    return mine;
}

static __device__ inline void softmax_row(float *x, int64_t d, int lane)
{
    float most = -INFINITY, sum = 0.0f;
    for (int64_t j = lane; j < d; j += GPU_WARP) {
        most = x[j] > most ? x[j] : most;
    }
    most = warp_max(most);
    for (int64_t j = lane; j < d; j += GPU_WARP) {
        const float e = expf(x[j] - most);
        x[j] = e;
        sum += e;
    }
    sum = gpu_halve_lanes(sum);
    for (int64_t j = lane; j < d; j += GPU_WARP) {
        x[j] = x[j] / sum;
    }
}

static __global__ void softmax(rf_softmax args)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    for (int64_t i = first_row(); i < args.n; i += row_step()) {
        float *x = args.x.data + i * args.x.stride;
        if (args.bias != NULL) {
            const int64_t at = i / args.n_each % args.n_bias * args.n_each + i % args.n_each;
            for (int64_t j = lane; j < args.d; j += GPU_WARP) {
                x[j] += args.bias[at * args.d + j];
            }
        }
        if (!args.is_sum_alone) {
            softmax_row(x, args.d, lane);
        }
    }
}

void rf_k_softmax(cudaStream_t stream, rf_softmax args)
{
    GPU_LAUNCH(softmax, dim3(rf_blocks(args.n, WARPS)), dim3(BLOCK), 0, stream, args);
}

/* Where p is 0, as behind a mask, so is the gradient. */
static __global__ void softmax_grad(const float *p, float *d_p, int64_t n, int64_t d)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    for (int64_t i = first_row(); i < n; i += row_step()) {
        const float *pi = p + i * d;
        float *di = d_p + i * d;
        const float mean = gpu_dot(pi, di, d, lane);
        for (int64_t j = lane; j < d; j += GPU_WARP) {
            di[j] = pi[j] * (di[j] - mean);
        }
    }
}

void rf_k_softmax_grad(cudaStream_t stream, const float *p, float *d_p, int64_t n, int64_t d)
{
    GPU_LAUNCH(softmax_grad, dim3(rf_blocks(n, WARPS)), dim3(BLOCK), 0, stream, p, d_p, n, d);
}

/* An element of the bias a thread. */
static __global__ void bias_grad(const float *d_scores, int64_t n_pictures, int64_t n_heads,
                                 int64_t n_scores, int64_t n_bias, float *d_bias)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n_bias * n_scores; i += step) {
        const int64_t head = i / n_scores, at = i % n_scores;
        const int64_t first = n_bias == 1 ? 0 : head, last = n_bias == 1 ? n_heads : head + 1;
        double sum = 0.0;
        for (int64_t b = 0; b < n_pictures; b++) {
            for (int64_t h = first; h < last; h++) {
                sum += (double)d_scores[(b * n_heads + h) * n_scores + at];
            }
        }
        d_bias[i] = (float)((double)d_bias[i] + sum);
    }
}

void rf_k_bias_grad(cudaStream_t stream, const float *d_scores, int64_t n_pictures, int64_t n_heads,
                    int64_t n_scores, int64_t n_bias, float *d_bias)
{
    GPU_LAUNCH(bias_grad, dim3(rf_blocks(n_bias * n_scores, BLOCK)), dim3(BLOCK), 0, stream,
               d_scores, n_pictures, n_heads, n_scores, n_bias, d_bias);
}

static __global__ void point_to_heads(rf_heads heads, int64_t n_heads, int64_t n, const void **at)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step) {
        at[i] = heads.data + i / n_heads * heads.picture_stride + i % n_heads * heads.head_stride;
    }
}

void rf_k_point_to_heads(cudaStream_t stream, rf_heads heads, int64_t n_pictures, int64_t n_heads,
                         const void **at)
{
    const int64_t n = n_pictures * n_heads;
    GPU_LAUNCH(point_to_heads, dim3(rf_blocks(n, BLOCK)), dim3(BLOCK), 0, stream, heads, n_heads, n,
               at);
}
