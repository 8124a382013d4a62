/* What stands around cuBLAS's products: operands rounded to bf16, bias and activation. All are
 * bound by memory: 6 bytes an element to round, 8 for bias and activation. */
#include "k_matmul.h"

#include "device_math.h"

/* Blocks of 32 columns by 8 rows: a warp has consecutive addresses, a thread one column, whose bias
 * it reads once. */
enum { COLS = 32, ROWS = 8, ROWS_EACH = 8 };

typedef struct rows_of {
    int64_t n_rows, n_cols, stride;
} rows_of;

static __device__ inline int64_t first_col(void)
{
    return (int64_t)blockIdx.x * COLS + threadIdx.x;
}

static __device__ inline int64_t first_row(void)
{
    return (int64_t)blockIdx.y * ROWS + threadIdx.y;
}

static __device__ inline int64_t row_step(void)
{
    return (int64_t)gridDim.y * ROWS;
}

static dim3 grid_of(int64_t n_rows, int64_t n_cols)
{
    const int64_t y = (n_rows + ROWS * ROWS_EACH - 1) / (ROWS * ROWS_EACH);
    return dim3((unsigned)((n_cols + COLS - 1) / COLS), (unsigned)(y < 65535 ? y : 65535), 1);
}

/* ---- operands ------------------------------------------------------------------------------ */

static __global__ void rows_to_bf16(const float *x, int64_t x_stride, rows_of y_rows, uint16_t *y)
{
    const int64_t col = first_col();
    if (col < y_rows.n_cols) {
        for (int64_t row = first_row(); row < y_rows.n_rows; row += row_step()) {
            y[row * y_rows.stride + col] = gpu_to_bf16(x[row * x_stride + col]);
        }
    }
}

void rf_k_rows_to_bf16(cudaStream_t stream, const float *x, int64_t x_stride, int64_t n_rows,
                       int64_t n_cols, uint16_t *y, int64_t y_stride)
{
    if (n_rows > 0 && n_cols > 0) {
        const rows_of y_rows = {n_rows, n_cols, y_stride};
        GPU_LAUNCH(rows_to_bf16, grid_of(n_rows, n_cols), dim3(COLS, ROWS, 1), 0, stream, x,
                   x_stride, y_rows, y);
    }
}

/* ---- results ------------------------------------------------------------------------------- */

static __global__ void bias_act(rf_act act, const float *bias, rows_of c_rows, float *c)
{
    const int64_t col = first_col();
    if (col < c_rows.n_cols) {
        const float b = bias != NULL ? bias[col] : 0.0f;
        for (int64_t row = first_row(); row < c_rows.n_rows; row += row_step()) {
            float *at = c + row * c_rows.stride + col;
            *at = gpu_act(act, bias != NULL ? *at + b : *at);
        }
    }
}

void rf_k_bias_act(cudaStream_t stream, rf_act act, const float *bias, float *c, int64_t c_stride,
                   int64_t n_rows, int64_t n_cols)
{
    if (n_rows > 0 && n_cols > 0 && (bias != NULL || act != RF_ACT_NONE)) {
        const rows_of c_rows = {n_rows, n_cols, c_stride};
        GPU_LAUNCH(bias_act, grid_of(n_rows, n_cols), dim3(COLS, ROWS, 1), 0, stream, act, bias,
                   c_rows, c);
    }
}

static __global__ void scale_rows(float beta, rows_of c_rows, float *c)
{
    const int64_t col = first_col();
    if (col < c_rows.n_cols) {
        for (int64_t row = first_row(); row < c_rows.n_rows; row += row_step()) {
            float *at = c + row * c_rows.stride + col;
            *at = beta == 0.0f ? 0.0f : beta * *at; /* where beta is 0, c may hold anything */
        }
    }
}

void rf_k_scale_rows(cudaStream_t stream, float beta, float *c, int64_t c_stride, int64_t n_rows,
                     int64_t n_cols)
{
    if (n_rows > 0 && n_cols > 0 && beta != 1.0f) {
        const rows_of c_rows = {n_rows, n_cols, c_stride};
        GPU_LAUNCH(scale_rows, grid_of(n_rows, n_cols), dim3(COLS, ROWS, 1), 0, stream, beta,
                   c_rows, c);
    }
}
