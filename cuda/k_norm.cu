/* Layer norm, softmax and their gradients. A warp has a row, a lane every 32nd element of it. */
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

static dim3 grid_of_rows(int64_t n)
{
    return dim3(rf_blocks(n, WARPS));
}

static __device__ inline float mean_of(const float *x, int64_t d, int lane)
{
    float sum = 0.0f;
    for (int64_t j = lane; j < d; j += GPU_WARP) {
        sum += x[j];
    }
    return gpu_halve_lanes(sum) / (float)d;
}

/* ---- layer norm ------------------------------------------------------------------------------ */

static __device__ inline float root_of(const float *x, int64_t d, float mean, float eps, int lane)
{
    float sum = 0.0f;
    for (int64_t j = lane; j < d; j += GPU_WARP) {
        const float off = x[j] - mean;
        sum = fmaf(off, off, sum);
    }
    return sqrtf(gpu_halve_lanes(sum) / (float)d + eps);
}

static __global__ void layer_norm(rf_layer_norm_args args)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    const int64_t n = args.x.shape[0], d = args.x.shape[1];
    const float *weight = (const float *)args.weight.data, *bias = (const float *)args.bias.data;
    const float *divisor = (const float *)args.divisor.data;
    float *scale = (float *)args.scale.data;
    for (int64_t i = first_row(); i < n; i += row_step()) {
        const float *x = (const float *)args.x.data + i * args.x.stride[0];
        float *y = (float *)args.y.data + i * args.y.stride[0];
        const float mean = mean_of(x, d, lane);
        float root = 0.0f;
        if (divisor == NULL || scale != NULL) {
            root = root_of(x, d, mean, args.eps, lane);
        }
        const float inverse = 1.0f / (divisor != NULL ? divisor[i] : root);
        for (int64_t j = lane; args.y.data != NULL && j < d; j += GPU_WARP) {
            float v = (x[j] - mean) * inverse;
            v = weight != NULL ? v * weight[j] : v;
            y[j] = bias != NULL ? v + bias[j] : v;
        }
        if (lane == 0 && scale != NULL) {
            scale[i] = root;
        }
    }
}

void rf_k_layer_norm(cudaStream_t stream, rf_layer_norm_args args)
{
    GPU_LAUNCH(layer_norm, grid_of_rows(args.x.shape[0]), dim3(BLOCK), 0, stream, args);
}

/* ---- its gradient ---------------------------------------------------------------------------- */

static __global__ void row_means(rf_view x, float *mean)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    for (int64_t i = first_row(); i < x.shape[0]; i += row_step()) {
        const float m = mean_of((const float *)x.data + i * x.stride[0], x.shape[1], lane);
        if (lane == 0) {
            mean[i] = m;
        }
    }
}

/* sums [2, n_blocks, d]: of d_y * normalised x, and of d_y. A thread has a column. */
static __global__ void column_sums(rf_layer_norm_grad_args args, const float *mean,
                                   int64_t n_blocks, float *sums)
{
    const int64_t n = args.x.shape[0], d = args.x.shape[1];
    const int64_t j = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    const float *scale = (const float *)args.scale.data;
    for (int64_t k = blockIdx.y; k < n_blocks && j < d; k += gridDim.y) {
        float of_weight = 0.0f, of_bias = 0.0f;
        for (int64_t i = k * RF_K_NORM_ROWS; i < n && i < (k + 1) * RF_K_NORM_ROWS; i++) {
            const float x = ((const float *)args.x.data)[i * args.x.stride[0] + j];
            const float g = ((const float *)args.d_y.data)[i * args.d_y.stride[0] + j];
            of_weight += g * ((x - mean[i]) * (1.0f / scale[i]));
            of_bias += g;
        }
        sums[k * d + j] = of_weight;
        sums[(n_blocks + k) * d + j] = of_bias;
    }
}

static __global__ void add_blocks(const float *sums, int64_t n_blocks, int64_t d, float *out)
{
    const int64_t j = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (j < d) {
        double sum = 0.0;
        for (int64_t k = 0; k < n_blocks; k++) {
            sum += (double)sums[k * d + j];
        }
        out[j] = (float)((double)out[j] + sum);
    }
}

/* d_x may be d_y: a lane reads an element before it writes it. */
static __global__ void norm_grad(rf_layer_norm_grad_args args, const float *means)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    const int64_t n = args.x.shape[0], d = args.x.shape[1];
    const float *weight = (const float *)args.weight.data, *scale = (const float *)args.scale.data;
    float *d_scale = (float *)args.d_scale.data;
    for (int64_t i = first_row(); i < n; i += row_step()) {
        const float *x = (const float *)args.x.data + i * args.x.stride[0];
        const float *d_y = (const float *)args.d_y.data + i * args.d_y.stride[0];
        float *d_x = (float *)args.d_x.data + i * args.d_x.stride[0];
        const float mean = means[i], inverse = 1.0f / scale[i];
        float sum = 0.0f, dot = 0.0f;
        for (int64_t j = lane; j < d; j += GPU_WARP) {
            const float g = weight != NULL ? d_y[j] * weight[j] : d_y[j];
            sum += g;
            dot = fmaf(g, (x[j] - mean) * inverse, dot);
        }
        const float mean_g = gpu_halve_lanes(sum) / (float)d;
        dot = gpu_halve_lanes(dot);
        const float along = d_scale == NULL ? dot / (float)d : 0.0f;
        for (int64_t j = lane; args.d_x.data != NULL && j < d; j += GPU_WARP) {
            const float g = weight != NULL ? d_y[j] * weight[j] : d_y[j];
            d_x[j] = (g - mean_g - (x[j] - mean) * inverse * along) * inverse;
        }
        if (lane == 0 && d_scale != NULL) {
            d_scale[i] = -dot * inverse;
        }
    }
}

void rf_k_layer_norm_grad(cudaStream_t stream, rf_layer_norm_grad_args args, float *mean,
                          float *sums)
{
    const int64_t n = args.x.shape[0], d = args.x.shape[1];
    const int64_t n_blocks = (n + RF_K_NORM_ROWS - 1) / RF_K_NORM_ROWS;
    const unsigned columns = rf_blocks(d, BLOCK);
    GPU_LAUNCH(row_means, grid_of_rows(n), dim3(BLOCK), 0, stream, args.x, mean);
    if (sums != NULL) {
        GPU_LAUNCH(column_sums, dim3(columns, rf_blocks_y(n_blocks)), dim3(BLOCK), 0, stream, args,
                   (const float *)mean, n_blocks, sums);
    }
    if (args.d_weight.data != NULL) {
        GPU_LAUNCH(add_blocks, dim3(columns), dim3(BLOCK), 0, stream, (const float *)sums, n_blocks,
                   d, (float *)args.d_weight.data);
    }
    if (args.d_bias.data != NULL) {
        GPU_LAUNCH(add_blocks, dim3(columns), dim3(BLOCK), 0, stream,
                   (const float *)(sums + n_blocks * d), n_blocks, d, (float *)args.d_bias.data);
    }
    if (args.d_x.data != NULL || args.d_scale.data != NULL) {
        GPU_LAUNCH(norm_grad, grid_of_rows(n), dim3(BLOCK), 0, stream, args, (const float *)mean);
    }
}

static __global__ void scale_grad(rf_layer_norm_grad_args args)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    const int64_t n = args.x.shape[0], d = args.x.shape[1];
    for (int64_t i = first_row(); i < n; i += row_step()) {
        const float *x = (const float *)args.x.data + i * args.x.stride[0];
        float *d_x = (float *)args.d_x.data + i * args.d_x.stride[0];
        const float mean = mean_of(x, d, lane);
        const float along = ((const float *)args.d_scale.data)[i] /
                            ((float)d * ((const float *)args.scale.data)[i]);
        for (int64_t j = lane; j < d; j += GPU_WARP) {
            d_x[j] += along * (x[j] - mean);
        }
    }
}

void rf_k_layer_norm_scale_grad(cudaStream_t stream, rf_layer_norm_grad_args args)
{
    GPU_LAUNCH(scale_grad, grid_of_rows(args.x.shape[0]), dim3(BLOCK), 0, stream, args);
}
