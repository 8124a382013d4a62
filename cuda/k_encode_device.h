/* Private to the kernels of encode: what a warp does together. All 32 lanes call these; what they
 * return is the same in every lane unless it says "own". */
#ifndef REFRACT_K_ENCODE_DEVICE_H
#define REFRACT_K_ENCODE_DEVICE_H

#include "device_math.h"
#include "k_encode.h"

#include <float.h>
#include <math.h>

enum { ROWS_A_BLOCK = 4, ROW_THREADS = ROWS_A_BLOCK * GPU_WARP }; /* a warp takes a row */

static __device__ inline int lane_of_thread(void)
{
    return (int)(threadIdx.x % GPU_WARP);
}

static __device__ inline int64_t row_of_warp(void)
{
    return (int64_t)blockIdx.x * (blockDim.x / GPU_WARP) + threadIdx.x / GPU_WARP;
}

static inline unsigned blocks_of_rows(int64_t n_rows)
{
    return (unsigned)((n_rows + ROWS_A_BLOCK - 1) / ROWS_A_BLOCK);
}

/* Values <= 0 are never selected. */
static __device__ inline float least_positive(void)
{
    return __int_as_float(1);
}

/* Lanes of `mask` before this one: own. */
static __device__ inline int rank_in(unsigned mask, int lane)
{
    return __popc(mask & ((1u << lane) - 1u));
}

static __device__ inline int sum_of_lanes(int v)
{
    for (int half = GPU_WARP / 2; half >= 1; half /= 2) {
        v += __shfl_xor_sync(GPU_ALL_LANES, v, half);
    }
    return v;
}

static __device__ inline float max_of_lanes(float v)
{
    for (int half = GPU_WARP / 2; half >= 1; half /= 2) {
        v = fmaxf(v, __shfl_xor_sync(GPU_ALL_LANES, v, half));
    }
    return v;
}

/* Canonical values of row `x` with four latents (some may be the same one): each x that is read
 * serves four, and four rows of w are on their way at a time. */
static __device__ inline void four_values(const rf_k_exact *e, const float *x,
                                          const int32_t *latent, int lane, float *value)
{
    const float *w0 = e->w + latent[0] * e->w_stride, *w1 = e->w + latent[1] * e->w_stride;
    const float *w2 = e->w + latent[2] * e->w_stride, *w3 = e->w + latent[3] * e->w_stride;
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
    for (int64_t i = lane; i < e->width; i += GPU_WARP) {
        const float v = x[i];
        s0 = fmaf(v, w0[i], s0);
        s1 = fmaf(v, w1[i], s1);
        s2 = fmaf(v, w2[i], s2);
        s3 = fmaf(v, w3[i], s3);
    }
    value[0] = gpu_halve_lanes(s0) + e->bias[latent[0]];
    value[1] = gpu_halve_lanes(s1) + e->bias[latent[1]];
    value[2] = gpu_halve_lanes(s2) + e->bias[latent[2]];
    value[3] = gpu_halve_lanes(s3) + e->bias[latent[3]];
}

/* Of four values that of lane % 4: own. */
static __device__ inline float value_of_lane(const float *value, int lane)
{
    const float low = (lane & 1) == 0 ? value[0] : value[1];
    const float high = (lane & 1) == 0 ? value[2] : value[3];
    return (lane & 2) == 0 ? low : high;
}

static __device__ inline int class_of_row(const uint8_t *row_class, int64_t row)
{
    const int which = row_class == NULL ? 0 : row_class[row];
    return which < RF_MAX_ROW_CLASSES ? which : 0;
}

/* classes->k[which], by constant places: kernel arguments are then read where they are. */
static __device__ inline int64_t k_of_class(const rf_k_classes *classes, int which)
{
    const int64_t *k = classes->k;
    const int64_t low = which < 2 ? (which < 1 ? k[0] : k[1]) : (which < 3 ? k[2] : k[3]);
    const int64_t high = which < 6 ? (which < 5 ? k[4] : k[5]) : (which < 7 ? k[6] : k[7]);
    return which < RF_MAX_ROW_CLASSES / 2 ? low : high;
}

/* ---- which of a step's products may reach a bound ----------------------------------------------
 */

enum { STEP_EACH = RF_ENCODE_STEP / GPU_WARP }; /* latents of a lane */

/* One row of a tile. */
typedef struct nominee_row {
    const float *p;         /* [n] products */
    const float *norm, *hi; /* of the tile's latents */
    const float *peak_norm, *peak_hi;
    int64_t n;
    float scale;
} nominee_row;

static __device__ inline nominee_row nominees_of(const rf_k_tile *tile, const rf_k_bounds *bounds,
                                                 int64_t row_in_tile)
{
    nominee_row r;
    const int64_t step = tile->first_latent / RF_ENCODE_STEP;
    r.p = tile->products + row_in_tile * tile->stride;
    r.norm = bounds->norm + tile->first_latent;
    r.hi = bounds->hi + tile->first_latent;
    r.peak_norm = bounds->peak_norm + step;
    r.peak_hi = bounds->peak_hi + step;
    r.n = tile->n_latents;
    r.scale = bounds->row_scale[tile->first_row + row_in_tile];
    return r;
}

/* Of the step that begins at `first`, bit u: latent first + 32 u + lane may reach `bound`: own.
 * Rounding is monotone, so what the step's peaks cannot lift to the bound its latents cannot; most
 * steps end there, without their norms being read. What is no number (a product that overflowed)
 * may be anything. */
static __device__ inline unsigned nominated(const nominee_row *r, int64_t first, float bound,
                                            int lane)
{
    const float peak_norm = r->peak_norm[first / RF_ENCODE_STEP];
    const float peak_hi = r->peak_hi[first / RF_ENCODE_STEP];
    unsigned mask = 0, sure = 0;
    float p[STEP_EACH];
    for (int u = 0; u < STEP_EACH; u++) { /* all on their way at once */
        const int64_t j = first + u * GPU_WARP + lane;
        p[u] = r->p[j < r->n ? j : 0];
    }
    for (int u = 0; u < STEP_EACH; u++) {
        const bool is_in = first + u * GPU_WARP + lane < r->n;
        const bool is_below = fmaf(r->scale, peak_norm, p[u]) + peak_hi < bound;
        mask |= (unsigned)(is_in && !is_below) << u;
    }
    for (; mask != 0; mask &= mask - 1) {
        const int u = __ffs((int)mask) - 1;
        const int64_t j = first + u * GPU_WARP + lane;
        const float hi = r->hi[j];
        const unsigned may = hi != -INFINITY && !(fmaf(r->scale, r->norm[j], r->p[j]) + hi < bound);
        sure |= may << u;
    }
    return sure;
}

#endif
