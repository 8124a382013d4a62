/* The dense path's elementwise steps: values of pre-activations and their penalties, and the way
 * back. All are bound by memory: 8 to 12 bytes an element. */
#include "device_act.h"
#include "device_math.h"

enum { BLOCK = 256, WARPS = BLOCK / GPU_WARP, COUNT_ROWS = 64 };

static __device__ inline float *at(const rf_view &v, int64_t row)
{
    return (float *)v.data + row * v.stride[0];
}

/* ---- values ---------------------------------------------------------------------------------- */

/* What a block's threads have, added up in one order. */
typedef struct row_sum {
    double penalty;
    int64_t n_active;
} row_sum;

static __device__ inline row_sum block_sum(row_sum mine, double *penalties, int64_t *counts)
{
    const int lane = (int)threadIdx.x % GPU_WARP, warp = (int)threadIdx.x / GPU_WARP;
    for (int half = GPU_WARP / 2; half >= 1; half /= 2) {
        mine.penalty += __shfl_down_sync(GPU_ALL_LANES, mine.penalty, half);
        mine.n_active += __shfl_down_sync(GPU_ALL_LANES, mine.n_active, half);
    }
    if (lane == 0) {
        penalties[warp] = mine.penalty;
        counts[warp] = mine.n_active;
    }
    __syncthreads();
    row_sum sum = {0.0, 0};
    for (int w = 0; w < WARPS; w++) {
        sum.penalty += penalties[w];
        sum.n_active += counts[w];
    }
    __syncthreads();
    return sum;
}

/* A block a row. */
static __global__ void dense_values(rf_act_arrays act, rf_dense_values_args args)
{
    GPU_SHARED(double, penalties, WARPS);
    GPU_SHARED(int64_t, counts, WARPS);
    const int64_t n = args.z.shape[0], f = args.z.shape[1];
    for (int64_t b = blockIdx.x; b < n; b += gridDim.x) {
        const bool is_valid = args.row_valid == NULL || args.row_valid[b] != 0;
        const float *h = at(args.h, b);
        float *z = at(args.z, b);
        row_sum mine = {0.0, 0};
        for (int64_t i = threadIdx.x; i < f; i += BLOCK) {
            const float before = h[i], value = is_valid ? gpu_value_of(act, i, before) : 0.0f;
            z[i] = value;
            mine.n_active += value > 0.0f;
            if (is_valid && act.penalty != RF_PENALTY_NONE) {
                const float penalised = act.act == RF_CODER_GATED ? before : value;
                mine.penalty += (double)gpu_penalty_term(act, penalised, gpu_weight_of(act, i));
            }
        }
        const row_sum sum = block_sum(mine, penalties, counts);
        if (threadIdx.x == 0 && args.row_active.data != NULL) {
            ((int64_t *)args.row_active.data)[b] = sum.n_active;
        }
        if (threadIdx.x == 0 && args.row_penalty.data != NULL) {
            ((float *)args.row_penalty.data)[b] =
                is_valid ? gpu_penalty_of_sum(act, sum.penalty) : 0.0f;
        }
        if (threadIdx.x == 0 && args.row_norm.data != NULL) {
            ((float *)args.row_norm.data)[b] =
                is_valid ? gpu_penalty_factor(act, sum.penalty) : 0.0f;
        }
    }
}

/* n_active += how many of COUNT_ROWS rows are above 0; whole numbers, in any order. */
static __global__ void count_active(rf_view z, int64_t *n_active)
{
    const int64_t n = z.shape[0], f = z.shape[1];
    const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    for (int64_t first = (int64_t)blockIdx.y * COUNT_ROWS; first < n && i < f;
         first += (int64_t)gridDim.y * COUNT_ROWS) {
        unsigned long long count = 0;
        for (int64_t b = first; b < n && b < first + COUNT_ROWS; b++) {
            count += at(z, b)[i] > 0.0f;
        }
        if (count > 0) {
            atomicAdd((unsigned long long *)n_active + i, count);
        }
    }
}

void rf_k_dense_values(cudaStream_t stream, rf_act_arrays act, rf_dense_values_args args)
{
    const int64_t n = args.z.shape[0], f = args.z.shape[1];
    GPU_LAUNCH(dense_values, dim3(rf_blocks(n, 1)), dim3(BLOCK), 0, stream, act, args);
    if (args.n_active.data != NULL) {
        GPU_LAUNCH(count_active,
                   dim3(rf_blocks(f, BLOCK), rf_blocks_y((n + COUNT_ROWS - 1) / COUNT_ROWS)),
                   dim3(BLOCK), 0, stream, args.z, (int64_t *)args.n_active.data);
    }
}

static __global__ void dense_relu(rf_rows h, rf_rows z, const uint8_t *row_valid, int64_t n,
                                  int64_t f)
{
    const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    for (int64_t b = blockIdx.y; b < n && i < f; b += gridDim.y) {
        const float v = h.data[b * h.stride + i];
        const bool is_valid = row_valid == NULL || row_valid[b] != 0;
        z.data[b * z.stride + i] = is_valid ? gpu_above(v, 0.0f, v) : 0.0f;
    }
}

void rf_k_dense_relu(cudaStream_t stream, rf_rows h, rf_rows z, const uint8_t *row_valid, int64_t n,
                     int64_t f)
{
    GPU_LAUNCH(dense_relu, dim3(rf_blocks(f, BLOCK), rf_blocks_y(n)), dim3(BLOCK), 0, stream, h, z,
               row_valid, n, f);
}

/* ---- gradients ------------------------------------------------------------------------------- */

/* A thread's sums over rows. */
typedef struct grad_sums {
    float h, threshold, b_gate, gain, b_mag;
} grad_sums;

/* d_z of one element becomes d_h. */
static __device__ inline float jump_grad(const rf_act_arrays &act, const rf_dense_grad_args &args,
                                         int64_t latent, float h, float d, float factor,
                                         grad_sums *sums)
{
    const float theta = act.theta[latent], w = gpu_weight_of(act, latent);
    const float slope = gpu_penalty_slope(act, gpu_above(h, theta, h), w);
    float reach = 0.0f;
    if (args.d_threshold.data != NULL || args.ste_to_input) {
        const float d_z = d + factor * (h > theta ? slope : gpu_slope_at_zero(act) * w);
        reach = gpu_near(h, theta, 0.5f * args.eps,
                         gpu_jump_slope(theta, d_z, args.eps, args.l0 / args.eps));
        sums->threshold -= reach;
    }
    const float d_h = gpu_above(h, theta, d + factor * slope);
    return args.ste_to_input ? d_h + reach : d_h;
}

static __device__ inline float gated_grad(const rf_act_arrays &act, int64_t latent, float h,
                                          float d, float d_gate, float factor, grad_sums *sums)
{
    const float e = expf(act.gain[latent]), b = act.b_gate[latent];
    const float m = gpu_magnitude(h, e, b, act.b_mag[latent]);
    const float slope = gpu_penalty_slope(act, h, gpu_weight_of(act, latent));
    const float gate = gpu_above(h, 0.0f, d_gate + factor * slope);
    const float mag = gpu_above(h, 0.0f, gpu_above(m, 0.0f, d));
    sums->b_gate += gate;
    sums->b_mag += mag;
    sums->gain += mag * e * (h - b);
    return gate + e * mag;
}

static __device__ inline float element_grad(const rf_act_arrays &act,
                                            const rf_dense_grad_args &args, int64_t b, int64_t i,
                                            float factor, grad_sums *sums)
{
    const int64_t latent = args.first_latent + i;
    const float h = at(args.h, b)[i], d = at(args.d_z, b)[i];
    float d_h = 0.0f;
    switch (act.act) {
    case RF_CODER_RELU:
        d_h =
            gpu_above(h, 0.0f, d + factor * gpu_penalty_slope(act, h, gpu_weight_of(act, latent)));
        break;
    case RF_CODER_JUMP:
        d_h = jump_grad(act, args, latent, h, d, factor, sums);
        break;
    case RF_CODER_GATED:
        d_h = gated_grad(act, latent, h, d, at(args.d_gate, b)[i], factor, sums);
        break;
    }
    return d_h;
}

/* RF_K_GRAD_ROWS rows of a latent a thread, rows in order. */
static __global__ void dense_grad(rf_act_arrays act, rf_dense_grad_args args, int64_t n_blocks,
                                  float *sums)
{
    const int64_t n = args.h.shape[0], f = args.h.shape[1];
    const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    const float *row_norm =
        act.penalty == RF_PENALTY_NORM ? (const float *)args.row_norm.data : NULL;
    for (int64_t k = blockIdx.y; k < n_blocks && i < f; k += gridDim.y) {
        grad_sums mine = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
        for (int64_t b = k * RF_K_GRAD_ROWS; b < n && b < (k + 1) * RF_K_GRAD_ROWS; b++) {
            float d_h = 0.0f;
            if (args.row_valid == NULL || args.row_valid[b] != 0) {
                const float factor = args.scale * (row_norm != NULL ? row_norm[b] : 1.0f);
                d_h = element_grad(act, args, b, i, factor, &mine);
                mine.h += d_h;
            }
            at(args.d_z, b)[i] = d_h;
        }
        if (sums != NULL) {
            sums[(0 * n_blocks + k) * f + i] = mine.h;
        }
        if (sums != NULL && act.act != RF_CODER_RELU) {
            sums[(1 * n_blocks + k) * f + i] = mine.threshold;
            sums[(2 * n_blocks + k) * f + i] = mine.b_gate;
            sums[(3 * n_blocks + k) * f + i] = mine.gain;
            sums[(4 * n_blocks + k) * f + i] = mine.b_mag;
        }
    }
}

static __global__ void add_grad_sums(const float *sums, int64_t n_blocks, int64_t f, float *out)
{
    const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i < f) {
        float sum = 0.0f;
        for (int64_t k = 0; k < n_blocks; k++) {
            sum += sums[k * f + i];
        }
        out[i] += sum;
    }
}

void rf_k_dense_grad(cudaStream_t stream, rf_act_arrays act, rf_dense_grad_args args, float *sums)
{
    const int64_t n = args.h.shape[0], f = args.h.shape[1];
    const int64_t n_blocks = (n + RF_K_GRAD_ROWS - 1) / RF_K_GRAD_ROWS;
    float *const out[RF_K_GRAD_SUMS] = {(float *)args.d_h.data, (float *)args.d_threshold.data,
                                        (float *)args.d_b_gate.data, (float *)args.d_gain.data,
                                        (float *)args.d_b_mag.data};
    const unsigned columns = rf_blocks(f, BLOCK);
    GPU_LAUNCH(dense_grad, dim3(columns, rf_blocks_y(n_blocks)), dim3(BLOCK), 0, stream, act, args,
               n_blocks, sums);
    for (int k = 0; k < rf_k_grad_sums(act.act); k++) {
        if (out[k] != NULL && sums != NULL) {
            GPU_LAUNCH(add_grad_sums, dim3(columns), dim3(BLOCK), 0, stream,
                       (const float *)(sums + k * n_blocks * f), n_blocks, f,
                       out[k] + args.first_latent);
        }
    }
}
