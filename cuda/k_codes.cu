/* What walks codes by token. Sums go over a token's entries in order, one thread an element. */
#include "k_codes.h"

#include "device_math.h"
#include "device_scan.h"

enum { BLOCK = 256, WARPS = BLOCK / GPU_WARP, COLUMNS = 4 };

/* A block a row. */
static dim3 grid_of_rows(int64_t n)
{
    return dim3(rf_blocks(n, 1));
}

static __device__ inline int64_t group_end(const rf_latent_groups &groups, int q)
{
    return groups.n == 0 ? INT64_MAX : groups.end[q];
}

/* ---- decode ------------------------------------------------------------------------------------
 */

/* Columns first, first + BLOCK, ... of one row, COLUMNS of them: the entries are walked once for
 * all, and what was summed is written where a group ends. */
static __device__ inline void decode_columns(const rf_decode_rows &args, int64_t b, int64_t first)
{
    const int n_groups = args.groups.n > 0 ? args.groups.n : 1;
    float sum[COLUMNS];
    GPU_UNROLL
    for (int c = 0; c < COLUMNS; c++) {
        const int64_t j = first + c * BLOCK;
        sum[c] = args.bias != NULL && j < args.d ? args.bias[j] : 0.0f;
    }
    int64_t e = args.row_start[b];
    const int64_t end = args.row_start[b + 1];
    for (int q = 0; q < n_groups; q++) {
        const int64_t last = group_end(args.groups, q);
        for (; e < end && args.latent[e] < last; e++) {
            const float *w = args.w.data + args.latent[e] * args.w.stride;
            const float value = args.value[e];
            GPU_UNROLL
            for (int c = 0; c < COLUMNS; c++) {
                const int64_t j = first + c * BLOCK;
                sum[c] = j < args.d ? fmaf(value, w[j], sum[c]) : 0.0f;
            }
        }
        GPU_UNROLL
        for (int c = 0; c < COLUMNS; c++) {
            const int64_t j = first + c * BLOCK;
            if (j < args.d) {
                args.out.data[b * args.out.stride + q * args.d + j] = sum[c];
            }
        }
    }
}

static __global__ void decode(rf_decode_rows args)
{
    for (int64_t b = blockIdx.x; b < args.n_rows; b += gridDim.x) {
        for (int64_t first = 0; first < args.d; first += COLUMNS * BLOCK) {
            decode_columns(args, b, first + threadIdx.x);
        }
    }
}

void rf_k_decode(cudaStream_t stream, rf_decode_rows args)
{
    GPU_LAUNCH(decode, grid_of_rows(args.n_rows), dim3(BLOCK), 0, stream, args);
}

/* ---- gradients of values -----------------------------------------------------------------------
 */

/* A warp an entry. */
static __global__ void d_value(rf_d_value_rows args)
{
    const int lane = (int)threadIdx.x % GPU_WARP, warp = (int)threadIdx.x / GPU_WARP;
    for (int64_t b = blockIdx.x; b < args.n_rows; b += gridDim.x) {
        int q = 0;
        for (int64_t e = args.row_start[b] + warp; e < args.row_start[b + 1]; e += WARPS) {
            const int64_t latent = args.latent[e];
            while (latent >= group_end(args.groups, q)) {
                q++;
            }
            const float *g = args.g.data + b * args.g.stride + q * args.d;
            const float dot = gpu_dot(g, args.w.data + latent * args.w.stride, args.d, lane);
            if (lane == 0) {
                args.out[e] = dot;
            }
        }
    }
}

void rf_k_d_value(cudaStream_t stream, rf_d_value_rows args)
{
    GPU_LAUNCH(d_value, grid_of_rows(args.n_rows), dim3(BLOCK), 0, stream, args);
}

/* ---- residuals: a warp a row -------------------------------------------------------------------
 */

/* An element is read and written by one lane: g may be x or x_hat. */
static __global__ void residual(rf_residual_rows args)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    const int64_t first = ((int64_t)blockIdx.x * BLOCK + threadIdx.x) / GPU_WARP;
    for (int64_t b = first; b < args.n; b += (int64_t)gridDim.x * WARPS) {
        const bool is_valid = args.row_valid == NULL || args.row_valid[b] != 0;
        float sum = 0.0f;
        for (int64_t j = lane; j < args.d; j += GPU_WARP) {
            float difference = 0.0f;
            if (is_valid) {
                difference =
                    args.x_hat.data[b * args.x_hat.stride + j] - args.x.data[b * args.x.stride + j];
                sum = fmaf(difference, difference, sum);
            }
            if (args.g.data != NULL) {
                args.g.data[b * args.g.stride + j] = is_valid ? args.scale * difference : 0.0f;
            }
        }
        sum = gpu_halve_lanes(sum);
        if (lane == 0 && args.row_loss != NULL) {
            args.row_loss[b] = is_valid ? sum : 0.0f;
        }
    }
}

void rf_k_residual(cudaStream_t stream, rf_residual_rows args)
{
    GPU_LAUNCH(residual, dim3(rf_blocks(args.n, WARPS)), dim3(BLOCK), 0, stream, args);
}

/* One column of all prefixes, the last first: r = x_hat - x; sum of weight * r; x_hat = scale *
 * sum. `square` are this lane's parts of |r|^2. */
static __device__ inline void fold_column(const rf_prefix_residual_args &args, float x,
                                          float *x_hat, int64_t d, float *square)
{
    float sum = 0.0f;
    GPU_UNROLL
    for (int q = RF_MAX_GROUPS - 1; q >= 0; q--) {
        if (q < args.n_groups) {
            const float r = x_hat[q * d] - x;
            sum = fmaf(args.weight[q], r, sum);
            x_hat[q * d] = args.scale * sum;
            square[q] = fmaf(r, r, square[q]);
        }
    }
}

static __global__ void prefix_residual(rf_prefix_residual_args args)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    const int64_t n = args.x.shape[0], d = args.x.shape[1];
    const int64_t first = ((int64_t)blockIdx.x * BLOCK + threadIdx.x) / GPU_WARP;
    for (int64_t b = first; b < n; b += (int64_t)gridDim.x * WARPS) {
        const bool is_valid = args.row_valid == NULL || args.row_valid[b] != 0;
        const float *x = (const float *)args.x.data + b * args.x.stride[0];
        float *x_hat = (float *)args.x_hat.data + b * args.x_hat.stride[0];
        float square[RF_MAX_GROUPS] = {0.0f}, loss = 0.0f, last = 0.0f;
        for (int64_t j = lane; is_valid && j < d; j += GPU_WARP) {
            fold_column(args, x[j], x_hat + j, d, square);
        }
        for (int64_t j = lane; !is_valid && j < args.n_groups * d; j += GPU_WARP) {
            x_hat[j] = 0.0f;
        }
        GPU_UNROLL
        for (int q = 0; q < RF_MAX_GROUPS; q++) {
            const float whole = gpu_halve_lanes(square[q]);
            loss = q < args.n_groups ? fmaf(args.weight[q], whole, loss) : loss;
            last = q == args.n_groups - 1 ? whole : last;
        }
        if (lane == 0 && args.row_loss.data != NULL) {
            ((float *)args.row_loss.data)[b] = loss;
        }
        if (lane == 0 && args.row_last.data != NULL) {
            ((float *)args.row_last.data)[b] = last;
        }
    }
}

void rf_k_prefix_residual(cudaStream_t stream, rf_prefix_residual_args args)
{
    GPU_LAUNCH(prefix_residual, dim3(rf_blocks(args.x.shape[0], WARPS)), dim3(BLOCK), 0, stream,
               args);
}

/* ---- counts and cuts: a block a row ------------------------------------------------------------
 */

static __device__ inline bool is_of_class(rf_class_rows rows, int64_t b)
{
    const int class_of = rows.row_class == NULL                    ? rows.which
                         : rows.row_class[b] >= RF_MAX_ROW_CLASSES ? 0
                                                                   : rows.row_class[b];
    return class_of == rows.which;
}

static __global__ void histogram(rf_codes codes, rf_class_rows rows, int32_t upper, int64_t *counts)
{
    for (int64_t b = blockIdx.x; b < codes.n_rows; b += gridDim.x) {
        const int64_t end = is_of_class(rows, b) ? codes.row_start[b + 1] : 0;
        for (int64_t e = codes.row_start[b] + threadIdx.x; e < end; e += BLOCK) {
            const uint32_t bits = __float_as_uint(codes.value[e]);
            if (upper < 0 || (bits >> 16) == (uint32_t)upper) {
                const uint32_t at = upper < 0 ? bits >> 16 : bits & 0xffffu;
                atomicAdd((unsigned long long *)counts + at, 1ull);
            }
        }
    }
}

void rf_k_codes_histogram(cudaStream_t stream, rf_codes codes, rf_class_rows rows, int32_t upper,
                          int64_t *counts)
{
    GPU_LAUNCH(histogram, grid_of_rows(codes.n_rows), dim3(BLOCK), 0, stream, codes, rows, upper,
               counts);
}

/* Of each row, how many are above the threshold, and how many equal it where that matters. */
static __global__ void count_kept(rf_codes codes, rf_class_rows rows, float threshold,
                                  int64_t *ties, int64_t *kept)
{
    GPU_SHARED(int64_t, partial, WARPS);
    for (int64_t b = blockIdx.x; b < codes.n_rows; b += gridDim.x) {
        const bool is_cut = is_of_class(rows, b);
        int64_t above = 0, equal = 0;
        for (int64_t e = codes.row_start[b] + threadIdx.x; e < codes.row_start[b + 1]; e += BLOCK) {
            const float v = codes.value[e];
            above += !is_cut || v > threshold;
            equal += is_cut && v == threshold;
        }
        above = gpu_block_sum(above, partial);
        equal = gpu_block_sum(equal, partial);
        if (threadIdx.x == 0) {
            kept[b] = above;
            ties[b] = equal;
        }
    }
}

/* ties [n + 1] are those before each row: the first n_ties of all are kept. */
static __global__ void add_ties(const int64_t *ties, int64_t n_ties, int64_t n, int64_t *kept)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t b = (int64_t)blockIdx.x * BLOCK + threadIdx.x; b < n; b += step) {
        const int64_t from = ties[b] < n_ties ? ties[b] : n_ties;
        const int64_t to = ties[b + 1] < n_ties ? ties[b + 1] : n_ties;
        kept[b] += to > from ? to - from : 0;
    }
}

/* Entries of one row that stay go to the scratch, in their order, BLOCK of them at a time. */
static __device__ inline void move_row(const rf_codes &codes, bool is_cut, float threshold,
                                       int64_t n_ties, const rf_cut_scratch &to, int64_t b,
                                       int64_t *partial)
{
    int64_t ties = to.ties[b], at = to.kept[b];
    for (int64_t first = codes.row_start[b]; first < codes.row_start[b + 1]; first += BLOCK) {
        const int64_t e = first + threadIdx.x;
        const bool is_here = e < codes.row_start[b + 1];
        const float v = is_here ? codes.value[e] : 0.0f;
        const bool is_tie = is_here && is_cut && v == threshold;
        int64_t n_tied = 0, n_kept = 0;
        const int64_t tie = ties + gpu_block_scan(is_tie, partial, &n_tied);
        const bool is_kept = is_here && (!is_cut || v > threshold || (is_tie && tie < n_ties));
        const int64_t place = at + gpu_block_scan(is_kept, partial, &n_kept);
        if (is_kept) {
            to.latent[place] = codes.latent[e];
            to.value[place] = v;
            if (codes.d_value != NULL) {
                to.d_value[place] = codes.d_value[e];
            }
        }
        ties += n_tied;
        at += n_kept;
    }
}

static __global__ void move_kept(rf_codes codes, rf_class_rows rows, float threshold,
                                 int64_t n_ties, rf_cut_scratch to)
{
    GPU_SHARED(int64_t, partial, WARPS);
    for (int64_t b = blockIdx.x; b < codes.n_rows; b += gridDim.x) {
        move_row(codes, is_of_class(rows, b), threshold, n_ties, to, b, partial);
    }
}

static __global__ void take_back(rf_codes codes, rf_cut_scratch from)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK, n = from.kept[codes.n_rows];
    const int64_t first = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    for (int64_t e = first; e < n; e += step) {
        codes.latent[e] = from.latent[e];
        codes.value[e] = from.value[e];
        if (codes.d_value != NULL) {
            codes.d_value[e] = from.d_value[e];
        }
    }
    for (int64_t b = first; b <= codes.n_rows; b += step) {
        codes.row_start[b] = from.kept[b];
    }
}

void rf_k_codes_keep(cudaStream_t stream, rf_codes codes, rf_class_rows rows, float threshold,
                     int64_t n_ties, rf_cut_scratch scratch)
{
    const int64_t n = codes.n_rows;
    const dim3 by_row = grid_of_rows(n), block(BLOCK);
    GPU_LAUNCH(count_kept, by_row, block, 0, stream, codes, rows, threshold, scratch.ties,
               scratch.kept);
    rf_k_scan(stream, scratch.ties, n);
    GPU_LAUNCH(add_ties, dim3(rf_blocks(n, BLOCK)), block, 0, stream, scratch.ties, n_ties, n,
               scratch.kept);
    rf_k_scan(stream, scratch.kept, n);
    GPU_LAUNCH(move_kept, by_row, block, 0, stream, codes, rows, threshold, n_ties, scratch);
    GPU_LAUNCH(take_back, by_row, block, 0, stream, codes, scratch);
}

/* ---- scans -------------------------------------------------------------------------------------
 */

/* One block walks the array: rows of a batch are few. */
static __global__ void scan(int64_t *at, int64_t n)
{
    GPU_SHARED(int64_t, partial, GPU_SCAN_WARPS);
    int64_t before = 0;
    for (int64_t first = 0; first < n; first += GPU_SCAN_THREADS) {
        const int64_t i = first + threadIdx.x;
        const int64_t mine = i < n ? at[i] : 0;
        int64_t sum = 0;
        const int64_t place = before + gpu_block_scan(mine, partial, &sum);
        if (i < n) {
            at[i] = place;
        }
        before += sum;
    }
    if (threadIdx.x == 0) {
        at[n] = before;
    }
}

void rf_k_scan(cudaStream_t stream, int64_t *at, int64_t n)
{
    GPU_LAUNCH(scan, dim3(1), dim3(GPU_SCAN_THREADS), 0, stream, at, n);
}
