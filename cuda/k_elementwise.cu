/* Activations, gated maps, scaled sums and types, element by element. */
#include "k_elementwise.h"

#include "device_math.h"

enum { BLOCK = 256 };

/* ---- one array ---------------------------------------------------------------------------------
 */

static __global__ void activation(rf_act act, const float *x, float *y, int64_t n)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step) {
        y[i] = gpu_act(act, x[i]);
    }
}

void rf_k_activation(cudaStream_t stream, rf_act act, const float *x, float *y, int64_t n)
{
    GPU_LAUNCH(activation, dim3(rf_blocks(n, BLOCK)), dim3(BLOCK), 0, stream, act, x, y, n);
}

static __global__ void narrow(rf_dtype to, const float *x, uint16_t *y, int64_t n)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step) {
        y[i] = to == RF_F16 ? gpu_to_f16(x[i]) : gpu_to_bf16(x[i]);
    }
}

static __global__ void widen(rf_dtype from, const uint16_t *x, float *y, int64_t n)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step) {
        y[i] = from == RF_F16 ? gpu_from_f16(x[i]) : gpu_from_bf16(x[i]);
    }
}

void rf_k_convert(cudaStream_t stream, rf_dtype from, rf_dtype to, const void *x, void *y,
                  int64_t n)
{
    const dim3 grid(rf_blocks(n, BLOCK)), block(BLOCK);
    if (from == RF_F32) {
        GPU_LAUNCH(narrow, grid, block, 0, stream, to, (const float *)x, (uint16_t *)y, n);
    } else {
        GPU_LAUNCH(widen, grid, block, 0, stream, from, (const uint16_t *)x, (float *)y, n);
    }
}

/* ---- rows --------------------------------------------------------------------------------------
 */

static dim3 grid_of(int64_t n, int64_t d)
{
    return dim3(rf_blocks(d, BLOCK), rf_blocks_y(n));
}

static __global__ void gated(rf_act act, rf_rows gate, rf_rows x, rf_rows y, int64_t n, int64_t d)
{
    const int64_t j = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    for (int64_t i = blockIdx.y; i < n && j < d; i += gridDim.y) {
        const float value = gpu_act(act, gate.data[i * gate.stride + j]);
        y.data[i * y.stride + j] = value * x.data[i * x.stride + j];
    }
}

void rf_k_gated(cudaStream_t stream, rf_act act, rf_rows gate, rf_rows x, rf_rows y, int64_t n,
                int64_t d)
{
    GPU_LAUNCH(gated, grid_of(n, d), dim3(BLOCK), 0, stream, act, gate, x, y, n, d);
}

/* A product and a sum, not an FMA: a caller who asks for the product first gets the same bits. */
static __global__ void add(rf_rows x, rf_rows r, const float *scale, rf_rows y, int64_t n,
                           int64_t d)
{
    const int64_t j = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    for (int64_t i = blockIdx.y; i < n && j < d; i += gridDim.y) {
        float value = r.data[i * r.stride + j];
        if (scale != NULL) {
            value = value * scale[j];
        }
        if (x.data != NULL) {
            value = x.data[i * x.stride + j] + value;
        }
        y.data[i * y.stride + j] = value;
    }
}

void rf_k_add(cudaStream_t stream, rf_rows x, rf_rows r, const float *scale, rf_rows y, int64_t n,
              int64_t d)
{
    GPU_LAUNCH(add, grid_of(n, d), dim3(BLOCK), 0, stream, x, r, scale, y, n, d);
}

static __global__ void activation_grad(rf_act act, rf_rows x, rf_rows d_y, rf_rows d_x, int64_t n,
                                       int64_t d)
{
    const int64_t j = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    for (int64_t i = blockIdx.y; i < n && j < d; i += gridDim.y) {
        const float slope = gpu_act_slope(act, x.data[i * x.stride + j]);
        d_x.data[i * d_x.stride + j] = d_y.data[i * d_y.stride + j] * slope;
    }
}

void rf_k_activation_grad(cudaStream_t stream, rf_act act, rf_rows x, rf_rows d_y, rf_rows d_x,
                          int64_t n, int64_t d)
{
    GPU_LAUNCH(activation_grad, grid_of(n, d), dim3(BLOCK), 0, stream, act, x, d_y, d_x, n, d);
}

/* All of an element is read before any of it is written: outputs may be d_y. */
static __global__ void gated_grad(rf_act act, rf_gated_rows rows, int64_t n, int64_t d)
{
    const int64_t j = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    for (int64_t i = blockIdx.y; i < n && j < d; i += gridDim.y) {
        const float gate = rows.gate.data[i * rows.gate.stride + j];
        const float x = rows.x.data[i * rows.x.stride + j];
        const float g = rows.d_y.data[i * rows.d_y.stride + j];
        if (rows.d_gate.data != NULL) {
            rows.d_gate.data[i * rows.d_gate.stride + j] = gpu_act_slope(act, gate) * (g * x);
        }
        if (rows.d_x.data != NULL) {
            rows.d_x.data[i * rows.d_x.stride + j] = g * gpu_act(act, gate);
        }
    }
}

void rf_k_gated_grad(cudaStream_t stream, rf_act act, rf_gated_rows rows, int64_t n, int64_t d)
{
    GPU_LAUNCH(gated_grad, grid_of(n, d), dim3(BLOCK), 0, stream, act, rows, n, d);
}
