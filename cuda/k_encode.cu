/* Bounds of the products' errors, as src/tensor/cpu_encode_bounds.c has them, for a device's
 * products.
 *
 * Let u = 2^-24, S = |x| |w| (not below the sum of |x_i w_i|, by Cauchy and Schwarz) and n the
 * width. The canonical dot errs by g(n u) S at most, g(t) = t / (1 - t) (Higham 2002, section 3.1).
 *
 * Products of fp32: the same, in whatever order they are summed.
 *
 * Products of TF32 and bf16: operands x~ = x + dx, w~ = w + dw move the product by |dx| |w| + |x|
 * |dw| + |dx| |dw|. |dx| / |x| and |dw| / |w| are measured: for bf16, which we round to ourselves,
 * as it is; for TF32 with the last 13 bits cut off, as a unit may either do so or round to the
 * nearest, which errs by no more in any element. Products of such operands are exact in fp32 (22
 * bits or 16). A tensor core adds blocks of m of them and the sum so far: terms are aligned to the
 * largest and may be cut at 24 bits, each by 2 u of the largest, which is below (1 + 2^-7) S; and
 * the result may be cut again. That is (m + 2) 2 u S a block, and below 4 u S a term for m >= 2. So
 * their sum errs by 1.01 g(4 n u) S.
 *
 * 8 more terms stand for the roundings of bias and bounds and for parts of a sum that are added at
 * the end. Numbers below FLT_MIN may be flushed, products (n FLT_MIN) and operands (sqrt(n) FLT_MIN
 * (|x| + |w|)): `offsets` has that. Where a TF32 operand could be rounded to infinity, the bound is
 * infinite and every latent is measured. */
#include "device_scan.h"
#include "k_encode_device.h"

enum {
    BOUND_THREADS = 256,
    BOUND_WARPS = BOUND_THREADS / GPU_WARP,
    BOUND_BLOCKS = 2048, /* so that few meet at the extremes */
    SCAN_EACH = 8,
};

/* Rounded up: a float not below v. */
static __device__ inline float float_above(double v)
{
    const float f = (float)v;
    return (double)f < v ? nextafterf(f, INFINITY) : f;
}

static __device__ inline double bits_double(unsigned long long bits)
{
    return __longlong_as_double((long long)bits);
}

static __device__ inline unsigned long long double_bits(double v)
{
    return (unsigned long long)__double_as_longlong(v);
}

/* |row|, rounded up: the bits of the CPU's, as they say which rows are refused. Where squares are
 * too small or too large for floats they are added one after the other, as doubles. */
static __device__ inline double row_norm(const float *row, int64_t n, int lane)
{
    double sum = (double)gpu_dot(row, row, n, lane);
    double more = 0x1p-12;
    if (!(sum > 1e-20 && sum < 1e30 && n <= 32 * 2048)) {
        sum = 0.0;
        more = 1e-9;
        for (int64_t first = 0; first < n; first += GPU_WARP) {
            const int64_t i = first + lane;
            const double v = i < n ? (double)row[i] : 0.0;
            const double square = v * v;
            for (int l = 0; l < GPU_WARP; l++) { /* + 0 changes nothing */
                sum += __shfl_sync(GPU_ALL_LANES, square, l);
            }
        }
    }
    return sqrt(sum * (1.0 + more));
}

/* To the nearest, ties to even; what would be rounded to infinity to the largest: own. */
static __device__ inline uint16_t bf16_of(float v)
{
    const float most = 0x1.fep127f;
    const float low = v < most ? v : most, in = low > -most ? low : -most;
    return gpu_to_bf16(in);
}

/* Writes the copy of row `i` and returns |rounded - row|, rounded up, over what is not below
 * FLT_MIN. */
static __device__ inline double round_row(const rf_k_operand *o, int64_t i, int lane)
{
    const float *row = o->data + i * o->stride;
    double sum = 0.0;
    for (int64_t j = lane; o->products != RF_PRODUCTS_F32 && j < o->width; j += GPU_WARP) {
        const float v = row[j];
        float to = __uint_as_float(__float_as_uint(v) & ~0x1fffu);
        if (o->products == RF_PRODUCTS_BF16) {
            const uint16_t bits = bf16_of(v);
            o->copy[i * o->copy_stride + j] = bits;
            to = gpu_from_bf16(bits);
        }
        const double e = fabsf(v) < FLT_MIN ? 0.0 : (double)(v - to);
        sum += e * e;
    }
    return sqrt(gpu_halve_lanes_f64(sum)) * (1.0 + 1e-9);
}

static __global__ void __launch_bounds__(BOUND_THREADS, 4)
    encode_latents(rf_k_operand w, const float *bias, float *norm, rf_k_extremes *extremes)
{
    GPU_SHARED(float, norms, BOUND_WARPS);
    GPU_SHARED(float, biases, BOUND_WARPS);
    GPU_SHARED(double, shares, BOUND_WARPS);
    GPU_SHARED(uint32_t, bad, BOUND_WARPS);
    const int lane = lane_of_thread(), warp = (int)threadIdx.x / GPU_WARP;
    float most_norm = 0.0f, most_bias = 0.0f;
    double most_share = 0.0;
    uint32_t is_bad = 0;
    for (int64_t i = row_of_warp(); i < w.n; i += (int64_t)gridDim.x * BOUND_WARPS) {
        const float mine = float_above(row_norm(w.data + i * w.stride, w.width, lane));
        const float b = fabsf(bias[i]);
        const double share = round_row(&w, i, lane) / (double)mine;
        is_bad |= !(mine <= FLT_MAX && b <= FLT_MAX);
        most_norm = mine > most_norm ? mine : most_norm;
        most_bias = b > most_bias ? b : most_bias;
        most_share = mine > 0.0f && share > most_share ? share : most_share;
        if (lane == 0) {
            norm[i] = mine;
        }
    }
    if (lane == 0) {
        norms[warp] = most_norm;
        biases[warp] = most_bias;
        shares[warp] = most_share;
        bad[warp] = is_bad;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < BOUND_WARPS; i++) {
            most_norm = norms[i] > most_norm ? norms[i] : most_norm;
            most_bias = biases[i] > most_bias ? biases[i] : most_bias;
            most_share = shares[i] > most_share ? shares[i] : most_share;
            is_bad |= bad[i];
        }
        atomicMax(&extremes->norm, __float_as_uint(most_norm));
        atomicMax(&extremes->bias, __float_as_uint(most_bias));
        atomicMax(&extremes->share, double_bits(most_share));
        atomicMax(&extremes->is_bad, is_bad);
    }
}

/* How far products of a row may err, relative to |w|. */
static __device__ inline double scale_of(const rf_k_operand *x, double norm, double error,
                                         double sums, const rf_k_extremes *latents)
{
    const double of_w = bits_double(latents->share), of_x = norm > 0.0 ? error / norm : 0.0;
    const double rounding = (of_x + of_w + of_x * of_w) * (1.0 + 1e-9);
    const bool is_huge = !(norm < 0x1p127 && __uint_as_float(latents->norm) < 0x1p127f);
    return x->products == RF_PRODUCTS_TF32 && is_huge ? (double)INFINITY : (sums + rounding) * norm;
}

static __global__ void __launch_bounds__(BOUND_THREADS, 4)
    encode_rows(rf_k_operand x, const uint8_t *row_valid, double sums, rf_k_extremes *extremes,
                float *row_scale, uint8_t *row_on, int64_t *n_refused)
{
    GPU_SHARED(double, norms, BOUND_WARPS);
    const int lane = lane_of_thread(), warp = (int)threadIdx.x / GPU_WARP;
    const double most_w = (double)__uint_as_float(extremes->norm);
    const double most_bias = (double)__uint_as_float(extremes->bias);
    double most = 0.0;
    for (int64_t b = row_of_warp(); b < x.n; b += (int64_t)gridDim.x * BOUND_WARPS) {
        const double norm = row_norm(x.data + b * x.stride, x.width, lane);
        const double error = round_row(&x, b, lane);
        const bool fits = extremes->is_bad == 0 && norm * most_w + most_bias < (double)FLT_MAX / 4;
        const bool is_valid = row_valid == NULL || row_valid[b] != 0;
        most = fits && norm > most ? norm : most;
        if (lane == 0) {
            row_scale[b] = float_above(scale_of(&x, norm, error, sums, extremes));
            row_on[b] = (uint8_t)(fits && is_valid);
            if (is_valid && !fits && n_refused != NULL) {
                atomicAdd((unsigned long long *)n_refused, 1ull);
            }
        }
    }
    if (lane == 0) {
        norms[warp] = most;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < BOUND_WARPS; i++) {
            most = norms[i] > most ? norms[i] : most;
        }
        atomicMax(&extremes->row, double_bits(most));
    }
}

/* A block takes a step. */
static __global__ void __launch_bounds__(RF_ENCODE_STEP)
    encode_offsets(const float *norm, const float *bias, const uint8_t *eligible, int64_t n,
                   int64_t width, const rf_k_extremes *extremes, float *hi, float *lo,
                   float *peak_norm, float *peak_hi)
{
    GPU_SHARED(float, norms, RF_ENCODE_STEP / GPU_WARP);
    GPU_SHARED(float, his, RF_ENCODE_STEP / GPU_WARP);
    const int lane = lane_of_thread(), warp = (int)threadIdx.x / GPU_WARP;
    const int64_t i = (int64_t)blockIdx.x * RF_ENCODE_STEP + threadIdx.x;
    float my_norm = 0.0f, my_hi = -INFINITY;
    if (i < n) {
        const double tiny = 4.0 * (double)(width + 8) * (double)FLT_MIN;
        const double flushed = 2.0 * sqrt((double)width) * (double)FLT_MIN;
        const double b = (double)bias[i], size = bits_double(extremes->row) + (double)norm[i];
        const double slack = 0x1p-21 * fabs(b) + tiny + flushed * size;
        my_norm = norm[i];
        my_hi = eligible == NULL || eligible[i] != 0 ? float_above(b + slack) : -INFINITY;
        hi[i] = my_hi;
        lo[i] = -float_above(slack - b);
    }
    my_norm = max_of_lanes(my_norm);
    my_hi = max_of_lanes(my_hi);
    if (lane == 0) {
        norms[warp] = my_norm;
        his[warp] = my_hi;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < RF_ENCODE_STEP / GPU_WARP; w++) {
            my_norm = fmaxf(my_norm, norms[w]);
            my_hi = fmaxf(my_hi, his[w]);
        }
        peak_norm[blockIdx.x] = my_norm;
        peak_hi[blockIdx.x] = my_hi;
    }
}

/* One block: 8192 rows a turn. */
static __global__ void __launch_bounds__(GPU_SCAN_THREADS)
    encode_start_rows(const int32_t *count, int64_t n, int64_t *start)
{
    GPU_SHARED(int64_t, totals, GPU_SCAN_WARPS);
    int64_t before = 0;
    for (int64_t first = 0; first < n; first += GPU_SCAN_THREADS * SCAN_EACH) {
        const int64_t i0 = first + (int64_t)threadIdx.x * SCAN_EACH;
        const int64_t i1 = i0 + SCAN_EACH < n ? i0 + SCAN_EACH : n;
        int64_t mine = 0, all;
        for (int64_t i = i0; i < i1; i++) {
            mine += count[i];
        }
        int64_t sum = before + gpu_block_scan(mine, totals, &all);
        before += all;
        for (int64_t i = i0; i < i1; i++) {
            start[i] = sum;
            sum += count[i];
        }
    }
    if (threadIdx.x == 0) {
        start[n] = before;
    }
}

static unsigned bound_blocks(int64_t n)
{
    const int64_t blocks = (n + BOUND_WARPS - 1) / BOUND_WARPS;
    return blocks < BOUND_BLOCKS ? (unsigned)blocks : (unsigned)BOUND_BLOCKS;
}

void rf_k_encode_latents(cudaStream_t stream, rf_k_operand w, const float *bias, float *norm,
                         rf_k_extremes *extremes)
{
    GPU_LAUNCH(encode_latents, bound_blocks(w.n), BOUND_THREADS, 0, stream, w, bias, norm,
               extremes);
}

void rf_k_encode_rows(cudaStream_t stream, rf_k_operand x, const uint8_t *row_valid, double sums,
                      rf_k_extremes *extremes, float *row_scale, uint8_t *row_on,
                      int64_t *n_refused)
{
    GPU_LAUNCH(encode_rows, bound_blocks(x.n), BOUND_THREADS, 0, stream, x, row_valid, sums,
               extremes, row_scale, row_on, n_refused);
}

void rf_k_encode_offsets(cudaStream_t stream, const float *norm, const float *bias,
                         const uint8_t *eligible, int64_t n_latents, int64_t width,
                         const rf_k_extremes *extremes, float *hi, float *lo, float *peak_norm,
                         float *peak_hi)
{
    const unsigned n_steps = (unsigned)((n_latents + RF_ENCODE_STEP - 1) / RF_ENCODE_STEP);
    GPU_LAUNCH(encode_offsets, n_steps, RF_ENCODE_STEP, 0, stream, norm, bias, eligible, n_latents,
               width, extremes, hi, lo, peak_norm, peak_hi);
}

void rf_k_encode_start_rows(cudaStream_t stream, const int32_t *count, int64_t n, int64_t *start)
{
    GPU_LAUNCH(encode_start_rows, 1, GPU_SCAN_THREADS, 0, stream, count, n, start);
}
