/* Rows of parameters: updates, rules, norms. A warp has a row and a lane every 32nd element of it,
 * from the start of a segment on: what a lane wrote it reads again, and needs no barrier for that.
 */
#include "k_update.h"

#include "device_math.h"

enum { BLOCK = 256, WARPS = BLOCK / GPU_WARP };

/* Segment l of a row of n columns; segments.n <= 1: the row. */
static __device__ inline int64_t segment_begin(const rf_segments &segments, int l)
{
    return l == 0 || segments.n <= 1 ? 0 : segments.end[l - 1];
}

static __device__ inline int64_t segment_end(const rf_segments &segments, int l, int64_t n)
{
    return segments.n <= 1 ? n : segments.end[l];
}

static __device__ inline int n_segments(const rf_segments &segments)
{
    return segments.n > 1 ? segments.n : 1;
}

/* |segment l of w|. */
static __device__ inline float segment_norm(const float *w, const rf_segments &segments, int l,
                                            int64_t n, int lane)
{
    const int64_t first = segment_begin(segments, l), end = segment_end(segments, l, n);
    return sqrtf(gpu_dot(w + first, w + first, end - first, lane));
}

static __device__ inline float sum_of_norms(const float *w, const rf_segments &segments, int64_t n,
                                            int lane)
{
    float sum = segment_norm(w, segments, 0, n, lane);
    for (int l = 1; l < n_segments(segments); l++) {
        sum += segment_norm(w, segments, l, n, lane);
    }
    return sum;
}

/* ---- rules ----------------------------------------------------------------------------------- */

static __device__ inline void divide(float *w, int64_t n, float by, int lane)
{
    for (int64_t j = lane; j < n; j += GPU_WARP) {
        w[j] = w[j] / by;
    }
}

/* Sum in 16 lanes, halved at the end: rf_cpu_sum_lanes. */
static __device__ inline float sum_16_lanes(const float *w, int64_t n, int lane)
{
    float sum = 0.0f;
    __syncwarp(); /* other lanes wrote what is read here */
    for (int64_t j = lane; lane < 16 && j < n; j += 16) {
        sum += w[j];
    }
    for (int half = 8; half >= 1; half /= 2) {
        sum += __shfl_down_sync(GPU_ALL_LANES, sum, half);
    }
    __syncwarp();
    return __shfl_sync(GPU_ALL_LANES, sum, 0);
}

/* NaN stays to be seen. */
static __device__ inline void to_simplex(float *w, int64_t n, int lane)
{
    for (int64_t j = lane; j < n; j += GPU_WARP) {
        w[j] = w[j] < 0.0f ? 0.0f : w[j];
    }
    const float sum = sum_16_lanes(w, n, lane);
    for (int64_t j = lane; j < n; j += GPU_WARP) {
        w[j] = sum == 0.0f ? 1.0f / (float)n : w[j] / sum;
    }
}

static __device__ inline void keep_rule(float *w, int64_t n, const rf_held &held, int lane)
{
    __syncwarp(); /* lanes of a row and lanes of a segment have different elements */
    if (held.rule == RF_ROW_UNIT_NORM) {
        const float norm = sum_of_norms(w, held.segments, n, lane);
        __syncwarp();
        if (norm > 0.0f) {
            divide(w, n, norm, lane);
        }
    } else if (held.rule == RF_ROW_BALL) {
        const float norm = sqrtf(gpu_dot(w, w, n, lane));
        for (int64_t j = lane; norm > held.radius && j < n; j += GPU_WARP) {
            w[j] = w[j] * (held.radius / norm);
        }
    } else if (held.rule == RF_ROW_SIMPLEX) {
        to_simplex(w, n, lane);
    }
}

/* ---- the gradient along the constraint ------------------------------------------------------- */

/* What is taken off the gradient: of segment l, factor * w; lane l holds the factor. One segment of
 * norm 1 is its own normal. Of several the constraint sum_l |w_l| = 1 has the normal (w_l /
 * |w_l|)_l, of squared length the number of segments; of a segment that is 0 it has none. */
static __device__ inline float projection(const float *g, float scale, const float *w, int64_t n,
                                          const rf_held &held, int lane)
{
    float norm = 0.0f, along = 0.0f;
    int n_nonzero = 0;
    for (int l = 0; l < n_segments(held.segments); l++) {
        const int64_t end = segment_end(held.segments, l, n);
        float dot = 0.0f;
        for (int64_t j = segment_begin(held.segments, l) + lane; j < end; j += GPU_WARP) {
            dot = fmaf(scale * g[j], w[j], dot);
        }
        dot = gpu_halve_lanes(dot);
        const float of_l = held.segments.n > 1 ? segment_norm(w, held.segments, l, n, lane) : 1.0f;
        if (of_l > 0.0f) {
            along += held.segments.n > 1 ? dot / of_l : dot;
            n_nonzero++;
        }
        norm = lane == l ? of_l : norm;
    }
    if (held.segments.n <= 1) {
        return -along;
    }
    return norm > 0.0f ? -along / ((float)n_nonzero * norm) : 0.0f;
}

/* ---- one element ----------------------------------------------------------------------------- */

typedef struct element {
    float w, m, v;
} element;

static __device__ inline float adam_step(const rf_rates &r, float w, float m, float v)
{
    return fmaf(r.step, m / fmaf(sqrtf(v), r.v_scale, r.eps), w * r.keep);
}

/* At j, by gradient g; rows that were not touched have none. */
static __device__ inline void step_element(const rf_updated_rows &args, int64_t i, int64_t j,
                                           bool is_touched, float g)
{
    const rf_rates &r = args.rates;
    float *w = args.w.data + i * args.w.stride + j;
    float *m = args.m.data + i * args.m.stride + j, *v = args.v.data + i * args.v.stride + j;
    switch (args.kind) {
    case RF_UPDATE_ADAM:
        *m = is_touched ? fmaf(r.rest1, g, r.beta1 * *m) : r.beta1 * *m;
        *v = is_touched ? fmaf(r.rest2 * g, g, r.beta2 * *v) : r.beta2 * *v;
        *w = adam_step(r, *w, *m, *v);
        break;
    case RF_UPDATE_SIGNUM: {
        *m = fmaf(r.rest1, g, r.beta1 * *m);
        const float sign = (float)(*m > 0.0f) - (float)(*m < 0.0f);
        *w = fmaf(r.step, sign, *w * r.keep);
        break;
    }
    case RF_UPDATE_SCHEDULE_FREE: { /* the iterate, kept in m */
        *v = fmaf(r.rest2 * g, g, r.beta2 * *v);
        const float step = g / fmaf(sqrtf(*v), r.v_scale, r.eps);
        *m = fmaf(r.step, step, fmaf(r.decay, *w, *m));
        break;
    }
    case RF_UPDATE_PLAIN:
        *w = fmaf(r.step, g, *w * r.keep);
        break;
    }
}

/* ---- one row --------------------------------------------------------------------------------- */

/* Schedule-free: the rule holds for the iterate z, the average x, and the y that they make. */
static __device__ inline void mix_average(const rf_updated_rows &args, int64_t i, int lane)
{
    float *y = args.w.data + i * args.w.stride, *z = args.m.data + i * args.m.stride;
    float *x = args.average.data + i * args.average.stride;
    keep_rule(z, args.d, args.held, lane);
    for (int64_t j = lane; j < args.d; j += GPU_WARP) {
        x[j] = fmaf(args.rates.average, z[j] - x[j], x[j]);
    }
    keep_rule(x, args.d, args.held, lane);
    for (int64_t j = lane; j < args.d; j += GPU_WARP) {
        y[j] = fmaf(args.rates.beta1, x[j], args.rates.rest1 * z[j]);
    }
}

static __device__ inline void update_row(const rf_updated_rows &args, int64_t i, int lane)
{
    const bool is_touched = args.touched == NULL || args.touched[i] != 0;
    const bool is_projected = is_touched && args.held.rule == RF_ROW_UNIT_NORM;
    const float scale = args.grad_scale != NULL ? *args.grad_scale : 1.0f;
    const float *g = args.g.data + i * args.g.stride;
    float *w = args.w.data + i * args.w.stride;
    const float factors = is_projected ? projection(g, scale, w, args.d, args.held, lane) : 0.0f;
    for (int l = 0; l < n_segments(args.held.segments); l++) {
        const int64_t end = segment_end(args.held.segments, l, args.d);
        const float factor = __shfl_sync(GPU_ALL_LANES, factors, l);
        for (int64_t j = segment_begin(args.held.segments, l) + lane; j < end; j += GPU_WARP) {
            float mine = is_touched ? scale * g[j] : 0.0f;
            mine = is_projected ? fmaf(factor, w[j], mine) : mine;
            step_element(args, i, j, is_touched, mine);
        }
    }
    if (args.kind == RF_UPDATE_SCHEDULE_FREE) {
        mix_average(args, i, lane);
    }
    keep_rule(w, args.d, args.held, lane);
}

/* The warp's first row, and how many warps there are. */
static __device__ inline int64_t first_row(void)
{
    return ((int64_t)blockIdx.x * BLOCK + threadIdx.x) / GPU_WARP;
}

static __device__ inline int64_t row_step(void)
{
    return (int64_t)gridDim.x * WARPS;
}

static __global__ void update_rows(rf_updated_rows args)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    for (int64_t i = first_row(); i < args.n; i += row_step()) {
        update_row(args, i, lane);
    }
}

void rf_k_update_rows(cudaStream_t stream, rf_updated_rows args)
{
    GPU_LAUNCH(update_rows, dim3(rf_blocks(args.n, WARPS)), dim3(BLOCK), 0, stream, args);
}

static __global__ void apply_row_rule(rf_rows w, int64_t n, int64_t d, rf_held held)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    for (int64_t i = first_row(); i < n; i += row_step()) {
        keep_rule(w.data + i * w.stride, d, held, lane);
    }
}

void rf_k_apply_row_rule(cudaStream_t stream, rf_rows w, int64_t n, int64_t d, rf_held held)
{
    GPU_LAUNCH(apply_row_rule, dim3(rf_blocks(n, WARPS)), dim3(BLOCK), 0, stream, w, n, d, held);
}

/* ---- norms ----------------------------------------------------------------------------------- */

static __global__ void row_norms(rf_rows w, int64_t n, int64_t d, rf_segments segments, float *out)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    for (int64_t i = first_row(); i < n; i += row_step()) {
        const float norm = sum_of_norms(w.data + i * w.stride, segments, d, lane);
        if (lane == 0) {
            out[i] = norm;
        }
    }
}

void rf_k_row_norms(cudaStream_t stream, rf_rows w, int64_t n, int64_t d, rf_segments segments,
                    float *out)
{
    GPU_LAUNCH(row_norms, dim3(rf_blocks(n, WARPS)), dim3(BLOCK), 0, stream, w, n, d, segments,
               out);
}

static __global__ void row_norms_grad(rf_rows w, int64_t n, int64_t d, rf_segments segments,
                                      const float *scale, rf_rows d_w)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    for (int64_t i = first_row(); i < n; i += row_step()) {
        const float *row = w.data + i * w.stride;
        for (int l = 0; l < n_segments(segments); l++) {
            const float norm = segment_norm(row, segments, l, d, lane);
            const float factor = norm > 0.0f ? scale[i] / norm : 0.0f;
            const int64_t end = segment_end(segments, l, d);
            for (int64_t j = segment_begin(segments, l) + lane; j < end; j += GPU_WARP) {
                float *to = d_w.data + i * d_w.stride + j;
                *to = fmaf(factor, row[j], *to);
            }
        }
    }
}

void rf_k_row_norms_grad(cudaStream_t stream, rf_rows w, int64_t n, int64_t d, rf_segments segments,
                         const float *scale, rf_rows d_w)
{
    GPU_LAUNCH(row_norms_grad, dim3(rf_blocks(n, WARPS)), dim3(BLOCK), 0, stream, w, n, d, segments,
               scale, d_w);
}
