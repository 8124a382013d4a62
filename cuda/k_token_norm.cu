/* Tokens as a coder sees them, and the way back. Moments are sums of doubles in 16 lanes, halved at
 * the end: half a warp has a token. */
#include "k_update.h"

#include "device_math.h"

#include <float.h>

enum { BLOCK = 256, HALF = GPU_WARP / 2, ROWS = BLOCK / HALF };

static __device__ inline int n_segments(const rf_normalise_args &args)
{
    return args.segments.n > 1 ? args.segments.n : 1;
}

static __device__ inline int64_t segment_end(const rf_normalise_args &args, int l)
{
    return args.segments.n > 1 ? args.segments.end[l] : args.from.shape[1];
}

static __device__ inline double halve(double lane)
{
    for (int width = HALF / 2; width > 0; width /= 2) {
        lane += __shfl_down_sync(GPU_ALL_LANES, lane, width, HALF);
    }
    return __shfl_sync(GPU_ALL_LANES, lane, 0, HALF);
}

typedef struct shift_scale {
    float shift, scale;
} shift_scale;

static __device__ inline double sum_of(const float *x, int64_t n, int lane)
{
    double sum = 0.0;
    for (int64_t j = lane; j < n; j += HALF) {
        sum += (double)x[j];
    }
    return halve(sum);
}

/* Sum of (x - centre)^2. */
static __device__ inline double squares_of(const float *x, int64_t n, double centre, int lane)
{
    double sum = 0.0;
    for (int64_t j = lane; j < n; j += HALF) {
        const double d = (double)x[j] - centre;
        sum += d * d;
    }
    return halve(sum);
}

static __device__ inline shift_scale layer_of(const float *x, int64_t n, int lane)
{
    const double mean = sum_of(x, n, lane) / (double)n;
    const double squares = squares_of(x, n, mean, lane);
    const double deviation = n > 1 ? sqrt(squares / (double)(n - 1)) : squares; /* 0, or NaN */
    shift_scale by;
    by.shift = (float)mean;
    by.scale = (float)(1.0 / (deviation + (double)1e-5f));
    return by;
}

/* A token of zeros stays, and so does one so near them that its scale is beyond a float. */
static __device__ inline shift_scale constant_of(const float *x, int64_t n, int lane)
{
    const double scale = sqrt((double)n) / sqrt(squares_of(x, n, 0.0, lane));
    shift_scale by;
    by.shift = 0.0f;
    by.scale = scale > (double)FLT_MAX ? 1.0f : (float)scale;
    return by;
}

/* All lanes of the warp come along, as they exchange sums: `is_here` says whose row exists. */
static __device__ inline void normalise_row(const rf_normalise_args &args, int64_t b, bool is_here,
                                            int lane)
{
    const float *subtract = (const float *)args.subtract.data;
    const bool is_valid = is_here && (args.row_valid == NULL || args.row_valid[b] != 0);
    int64_t first = 0;
    for (int l = 0; l < n_segments(args); l++) {
        const int64_t end = segment_end(args, l), n = is_valid ? end - first : 0;
        const float *x = (const float *)args.from.data + b * args.from.stride[0] + first;
        float *to = (float *)args.to.data + b * args.to.stride[0] + first;
        shift_scale by =
            args.norm == RF_NORM_LAYER ? layer_of(x, n, lane) : constant_of(x, n, lane);
        for (int64_t j = lane; j < n; j += HALF) {
            const float v = (x[j] - by.shift) * by.scale;
            to[j] = subtract != NULL ? v - subtract[first + j] : v;
        }
        for (int64_t j = lane; is_here && !is_valid && j < end - first; j += HALF) {
            to[j] = 0.0f;
        }
        if (lane == 0 && is_here && args.row_shift.data != NULL) {
            ((float *)args.row_shift.data)[b * args.row_shift.stride[0] + l] =
                is_valid ? by.shift : 0.0f;
        }
        if (lane == 0 && is_here && args.row_scale.data != NULL) {
            ((float *)args.row_scale.data)[b * args.row_scale.stride[0] + l] =
                is_valid ? by.scale : 1.0f;
        }
        first = end;
    }
}

static __global__ void normalise_by_token(rf_normalise_args args)
{
    const int lane = (int)threadIdx.x % HALF;
    const int64_t n = args.from.shape[0];
    for (int64_t first = (int64_t)blockIdx.x * ROWS; first < n;
         first += (int64_t)gridDim.x * ROWS) {
        const int64_t b = first + threadIdx.x / HALF;
        normalise_row(args, b, b < n, lane);
    }
}

/* ---- by dimension, and back: an element a thread --------------------------------------------- */

static __global__ void normalise_by_dimension(rf_normalise_args args)
{
    const float *subtract = (const float *)args.subtract.data;
    const float *shift = (const float *)args.shift.data, *scale = (const float *)args.scale.data;
    const int64_t j = (int64_t)blockIdx.x * BLOCK + threadIdx.x, d = args.from.shape[1];
    for (int64_t b = blockIdx.y; b < args.from.shape[0] && j < d; b += gridDim.y) {
        float v = 0.0f;
        if (args.row_valid == NULL || args.row_valid[b] != 0) {
            v = ((const float *)args.from.data)[b * args.from.stride[0] + j];
            v = args.norm == RF_NORM_NONE ? v : (v - shift[j]) * scale[j];
            v = subtract != NULL ? v - subtract[j] : v;
        }
        ((float *)args.to.data)[b * args.to.stride[0] + j] = v;
    }
}

static __device__ inline bool is_by_token(rf_token_norm norm)
{
    return norm == RF_NORM_LAYER || norm == RF_NORM_CONSTANT;
}

/* A row that is not valid gets shift. */
static __global__ void denormalise(rf_normalise_args args)
{
    const int64_t j = (int64_t)blockIdx.x * BLOCK + threadIdx.x, d = args.from.shape[1];
    int l = 0;
    while (j < d && j >= segment_end(args, l)) {
        l++;
    }
    for (int64_t b = blockIdx.y; b < args.from.shape[0] && j < d; b += gridDim.y) {
        const bool is_valid = args.row_valid == NULL || args.row_valid[b] != 0;
        float v = is_valid ? ((const float *)args.from.data)[b * args.from.stride[0] + j] : 0.0f;
        if (is_by_token(args.norm)) {
            const float *shift = (const float *)args.row_shift.data;
            const float *scale = (const float *)args.row_scale.data;
            const float by = shift[b * args.row_shift.stride[0] + l];
            v = is_valid ? v / scale[b * args.row_scale.stride[0] + l] + by : by;
        } else if (args.norm != RF_NORM_NONE) {
            const float *shift = (const float *)args.shift.data;
            const float *scale = (const float *)args.scale.data;
            v = is_valid && scale != NULL ? v / scale[j] : v;
            v = shift != NULL ? v + shift[j] : v;
        }
        ((float *)args.to.data)[b * args.to.stride[0] + j] = v;
    }
}

static dim3 grid_of(const rf_normalise_args &args)
{
    return dim3(rf_blocks(args.from.shape[1], BLOCK), rf_blocks_y(args.from.shape[0]));
}

void rf_k_normalise_tokens(cudaStream_t stream, rf_normalise_args args)
{
    if (args.norm == RF_NORM_LAYER || args.norm == RF_NORM_CONSTANT) {
        GPU_LAUNCH(normalise_by_token, dim3(rf_blocks(args.from.shape[0], ROWS)), dim3(BLOCK), 0,
                   stream, args);
    } else {
        GPU_LAUNCH(normalise_by_dimension, grid_of(args), dim3(BLOCK), 0, stream, args);
    }
}

void rf_k_denormalise_tokens(cudaStream_t stream, rf_normalise_args args)
{
    GPU_LAUNCH(denormalise, grid_of(args), dim3(BLOCK), 0, stream, args);
}
