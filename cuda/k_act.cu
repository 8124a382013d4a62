/* What pre-activations become, on entries of codes: gated magnitudes, JumpReLU's window, penalties.
 */
#include "device_act.h"
#include "device_math.h"

enum { BLOCK = 256, WARPS = BLOCK / GPU_WARP };

static __device__ inline int64_t n_entries(const rf_codes &codes)
{
    return codes.row_start[codes.n_rows];
}

static __global__ void gated_values(rf_act_arrays act, rf_codes codes, const float *h, float *z)
{
    const int64_t n = n_entries(codes), step = (int64_t)gridDim.x * BLOCK;
    for (int64_t e = (int64_t)blockIdx.x * BLOCK + threadIdx.x; e < n; e += step) {
        z[e] = gpu_value_of(act, codes.latent[e], h[e]);
    }
}

void rf_k_gated_values(cudaStream_t stream, rf_act_arrays act, rf_codes codes, const float *h,
                       float *z)
{
    GPU_LAUNCH(gated_values, dim3(rf_blocks(codes.capacity, BLOCK)), dim3(BLOCK), 0, stream, act,
               codes, h, z);
}

/* All of an entry is read before any of it is written: outputs may be inputs. */
static __global__ void gated_values_grad(rf_act_arrays act, rf_codes codes,
                                         rf_gated_values_grad_args args)
{
    const int64_t n = n_entries(codes), step = (int64_t)gridDim.x * BLOCK;
    for (int64_t e = (int64_t)blockIdx.x * BLOCK + threadIdx.x; e < n; e += step) {
        const int64_t i = codes.latent[e];
        const float exp_gain = expf(act.gain[i]);
        const float d_mag = gpu_above(args.z[e], 0.0f, args.d_z[e]);
        const float d_h = args.d_gate[e] + exp_gain * d_mag;
        const float d_gain = d_mag * exp_gain * (args.h[e] - act.b_gate[i]);
        args.d_h[e] = d_h;
        args.d_gain[e] = d_gain;
        args.d_mag[e] = d_mag;
    }
}

void rf_k_gated_values_grad(cudaStream_t stream, rf_act_arrays act, rf_codes codes,
                            rf_gated_values_grad_args args)
{
    GPU_LAUNCH(gated_values_grad, dim3(rf_blocks(codes.capacity, BLOCK)), dim3(BLOCK), 0, stream,
               act, codes, args);
}

/* ---- rows: a block each ---------------------------------------------------------------------- */

static __global__ void jump_window_grad(rf_act_arrays act, rf_codes codes,
                                        rf_jump_window_grad_args args, bool has_slope)
{
    const float *penalty = (const float *)args.row_penalty.data;
    const float l0_by_eps = args.l0 / args.eps;
    for (int64_t b = blockIdx.x; b < codes.n_rows; b += gridDim.x) {
        float factor = args.scale;
        if (has_slope && act.penalty == RF_PENALTY_NORM) {
            factor *= gpu_penalty_factor(act, pow((double)penalty[b], (double)act.p));
        }
        for (int64_t e = codes.row_start[b] + threadIdx.x; e < codes.row_start[b + 1]; e += BLOCK) {
            const int64_t i = codes.latent[e];
            const float h = codes.value[e], theta = act.theta[i];
            float d_z = codes.d_value[e];
            if (has_slope) {
                const float w = gpu_weight_of(act, i);
                d_z += factor * (h > theta ? gpu_penalty_slope(act, gpu_above(h, theta, h), w)
                                           : gpu_slope_at_zero(act) * w);
            }
            const float slope = gpu_jump_slope(theta, d_z, args.eps, l0_by_eps);
            codes.d_value[e] = slope;
            args.d_threshold[e] = -slope;
        }
    }
}

void rf_k_jump_window_grad(cudaStream_t stream, rf_act_arrays act, rf_codes codes,
                           rf_jump_window_grad_args args, bool has_slope)
{
    GPU_LAUNCH(jump_window_grad, dim3(rf_blocks(codes.n_rows, 1)), dim3(BLOCK), 0, stream, act,
               codes, args, has_slope);
}

/* The sum over a block's threads, in one order; every thread has it. `partial` [WARPS]. */
static __device__ inline double block_sum(double mine, double *partial)
{
    const int lane = (int)threadIdx.x % GPU_WARP, warp = (int)threadIdx.x / GPU_WARP;
    mine = gpu_halve_lanes_f64(mine);
    if (lane == 0) {
        partial[warp] = mine;
    }
    __syncthreads();
    double sum = 0.0;
    for (int w = 0; w < WARPS; w++) {
        sum += partial[w];
    }
    __syncthreads();
    return sum;
}

static __global__ void penalty(rf_act_arrays act, rf_codes codes, rf_penalty_args args)
{
    GPU_SHARED(double, partial, WARPS);
    const float *value = args.value != NULL ? args.value : codes.value;
    const bool has_slope =
        args.d_value != NULL && act.penalty != RF_PENALTY_NONE && act.penalty != RF_PENALTY_L0;
    for (int64_t b = blockIdx.x; b < codes.n_rows; b += gridDim.x) {
        const int64_t first = codes.row_start[b] + threadIdx.x, end = codes.row_start[b + 1];
        double mine = 0.0;
        for (int64_t e = first; e < end; e += BLOCK) {
            const float w = gpu_weight_of(act, codes.latent[e]);
            mine += (double)gpu_penalty_term(act, value[e], w);
        }
        const double sum = block_sum(mine, partial);
        if (threadIdx.x == 0) {
            ((float *)args.row_penalty.data)[b] = gpu_penalty_of_sum(act, sum);
        }
        const float factor = args.scale * gpu_penalty_factor(act, sum);
        for (int64_t e = first; has_slope && e < end; e += BLOCK) {
            const float w = gpu_weight_of(act, codes.latent[e]);
            args.d_value[e] += factor * gpu_penalty_slope(act, value[e], w);
        }
    }
}

void rf_k_penalty(cudaStream_t stream, rf_act_arrays act, rf_codes codes, rf_penalty_args args)
{
    GPU_LAUNCH(penalty, dim3(rf_blocks(codes.n_rows, 1)), dim3(BLOCK), 0, stream, act, codes, args);
}
