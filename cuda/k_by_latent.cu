/* Gradients by latent, tokens in order, and sums of fixed order. */
#include "k_by_latent.h"

#include "device_math.h"

enum { BLOCK = 256, WARPS = BLOCK / GPU_WARP, PIECE = BLOCK, AHEAD = 8 };

/* ---- gradients ------------------------------------------------------------------------------- */

static __device__ inline int64_t group_column(const rf_latent_groups &groups, int64_t latent,
                                              int64_t width)
{
    int q = 0;
    while (q + 1 < groups.n && latent >= groups.end[q]) {
        q++;
    }
    return q * width;
}

/* sum += weight[j] * row[j] of one column, j < n in order; what is loaded ahead leaves no trace. */
static __device__ inline float add_rows(float sum, const float *column, int64_t stride,
                                        const int32_t *row, const float *weight, int n)
{
    int j = 0;
    for (; j + AHEAD <= n; j += AHEAD) {
        float ahead[AHEAD];
        GPU_UNROLL
        for (int a = 0; a < AHEAD; a++) {
            ahead[a] = column[row[j + a] * stride];
        }
        GPU_UNROLL
        for (int a = 0; a < AHEAD; a++) {
            sum = fmaf(weight[j + a], ahead[a], sum);
        }
    }
    for (; j < n; j++) {
        sum = fmaf(weight[j], column[row[j] * stride], sum);
    }
    return sum;
}

/* A piece of a latent's entries in shared memory: rows and weights. */
typedef struct piece {
    int32_t *row;
    float *value, *d_value;
} piece;

static __device__ inline int load_piece(const rf_by_latent_list &list, int64_t first, int64_t end,
                                        piece p)
{
    const int64_t e = first + threadIdx.x;
    __syncthreads(); /* the last piece has been used */
    if (e < end) {
        const int32_t entry = list.entry[e];
        p.row[threadIdx.x] = list.row[e];
        p.value[threadIdx.x] = list.value[entry];
        p.d_value[threadIdx.x] = list.d_value[entry];
    }
    __syncthreads();
    return end - first < PIECE ? (int)(end - first) : (int)PIECE;
}

/* Columns first + thread of the rows of latent i, both matrices. */
static __device__ inline void latent_columns(const rf_by_latent &args, int64_t i, int64_t first,
                                             piece p)
{
    const int64_t j = first + threadIdx.x;
    float *enc = args.d_w_enc.data + i * args.d_w_enc.stride + j;
    float *dec = args.d_w_dec.data + i * args.d_w_dec.stride + j;
    const bool has_in = j < args.width_in, has_out = j < args.width_out;
    const bool is_first = first == 0 && threadIdx.x == 0;
    float in = has_in && args.accumulate ? *enc : 0.0f;
    float out = has_out && args.accumulate ? *dec : 0.0f;
    float bias = is_first && args.accumulate ? args.d_b_enc[i] : 0.0f;
    for (int l = 0; l < args.n_lists; l++) {
        const rf_by_latent_list &list = args.lists[l];
        const int64_t end = list.latent_start[i + 1];
        const float *g = list.g.data != NULL
                             ? list.g.data + group_column(list.groups, i, args.width_out) + j
                             : NULL;
        for (int64_t e = list.latent_start[i]; e < end; e += PIECE) {
            const int n = load_piece(list, e, end, p);
            if (has_out && g != NULL) {
                out = add_rows(out, g, list.g.stride, p.row, p.value, n);
            }
            if (has_in) {
                in = add_rows(in, args.x.data + j, args.x.stride, p.row, p.d_value, n);
            }
            for (int k = 0; is_first && k < n; k++) {
                bias += p.d_value[k];
            }
        }
    }
    if (has_in) {
        *enc = in;
    }
    if (has_out) {
        *dec = out;
    }
    if (is_first) {
        args.d_b_enc[i] = bias;
    }
}

/* What was written is read again while it is near: warp 0 has d_w_enc's row, warp 1 d_w_dec's. */
static __device__ inline void latent_squares(const rf_by_latent &args, int64_t i, float *dots)
{
    const int lane = (int)threadIdx.x % GPU_WARP, warp = (int)threadIdx.x / GPU_WARP;
    __syncthreads();
    if (warp < 2) {
        const float *row = warp == 0 ? args.d_w_enc.data + i * args.d_w_enc.stride
                                     : args.d_w_dec.data + i * args.d_w_dec.stride;
        const float dot = gpu_dot(row, row, warp == 0 ? args.width_in : args.width_out, lane);
        if (lane == 0) {
            dots[warp] = dot;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        const double bias = (double)args.d_b_enc[i];
        args.squares[i] = (double)dots[0] + (double)dots[1] + bias * bias;
    }
    __syncthreads();
}

static __global__ void accumulate(rf_by_latent args)
{
    GPU_SHARED(int32_t, row, PIECE);
    GPU_SHARED(float, value, PIECE);
    GPU_SHARED(float, d_value, PIECE);
    GPU_SHARED(float, dots, 2);
    const piece p = {row, value, d_value};
    const int64_t width = args.width_in > args.width_out ? args.width_in : args.width_out;
    for (int64_t i = blockIdx.x; i < args.n_latents; i += gridDim.x) {
        int64_t n = 0;
        for (int l = 0; l < args.n_lists; l++) {
            n += args.lists[l].latent_start[i + 1] - args.lists[l].latent_start[i];
        }
        for (int64_t first = 0; n > 0 && first < width; first += BLOCK) {
            latent_columns(args, i, first, p);
        }
        if (n > 0 && !args.accumulate) {
            latent_squares(args, i, dots);
        }
        if (threadIdx.x == 0) {
            args.touched[i] = n > 0;
            if (n == 0 && !args.accumulate) {
                args.d_b_enc[i] = 0.0f;
                args.squares[i] = 0.0;
            }
        }
    }
}

void rf_k_accumulate_by_latent(cudaStream_t stream, rf_by_latent args)
{
    GPU_LAUNCH(accumulate, dim3(rf_blocks(args.n_latents, 1)), dim3(BLOCK), 0, stream, args);
}

static __global__ void sum_by_latent(rf_latent_index index, const float *entries, float *out,
                                     float beta)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < index.n_latents; i += step) {
        float sum = 0.0f;
        for (int64_t e = index.latent_start[i]; e < index.latent_start[i + 1]; e++) {
            sum += entries[index.entry[e]];
        }
        out[i] = beta == 0.0f ? sum : out[i] + sum;
    }
}

void rf_k_sum_by_latent(cudaStream_t stream, rf_latent_index index, const float *entries,
                        float *out, float beta)
{
    GPU_LAUNCH(sum_by_latent, dim3(rf_blocks(index.n_latents, BLOCK)), dim3(BLOCK), 0, stream,
               index, entries, out, beta);
}

/* ---- sums ------------------------------------------------------------------------------------ */

static __global__ void sum_blocks(const double *x, int64_t n, int64_t n_blocks, double *partial)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t k = (int64_t)blockIdx.x * BLOCK + threadIdx.x; k < n_blocks; k += step) {
        const int64_t end = (k + 1) * RF_K_SUM_BLOCK < n ? (k + 1) * RF_K_SUM_BLOCK : n;
        double sum = 0.0;
        for (int64_t i = k * RF_K_SUM_BLOCK; i < end; i++) {
            sum += x[i];
        }
        partial[k] = sum;
    }
}

static __global__ void add_sums(const double *partial, int64_t n_blocks, double *out, double beta)
{
    double sum = 0.0;
    for (int64_t k = 0; k < n_blocks; k++) {
        sum += partial[k];
    }
    *out = beta == 0.0 ? sum : *out + sum;
}

void rf_k_sum_doubles(cudaStream_t stream, const double *x, int64_t n, double *partial, double *out,
                      double beta)
{
    const int64_t n_blocks = (n + RF_K_SUM_BLOCK - 1) / RF_K_SUM_BLOCK;
    GPU_LAUNCH(sum_blocks, dim3(rf_blocks(n_blocks, BLOCK)), dim3(BLOCK), 0, stream, x, n, n_blocks,
               partial);
    GPU_LAUNCH(add_sums, dim3(1), dim3(1), 0, stream, (const double *)partial, n_blocks, out, beta);
}

static __global__ void row_squares(rf_rows x, int64_t n, int64_t d, double *squares)
{
    const int lane = (int)threadIdx.x % GPU_WARP;
    const int64_t first = ((int64_t)blockIdx.x * BLOCK + threadIdx.x) / GPU_WARP;
    for (int64_t i = first; i < n; i += (int64_t)gridDim.x * WARPS) {
        const float *row = x.data + i * x.stride;
        const float dot = gpu_dot(row, row, d, lane);
        if (lane == 0) {
            squares[i] = (double)dot;
        }
    }
}

void rf_k_row_squares(cudaStream_t stream, rf_rows x, int64_t n, int64_t d, double *squares)
{
    GPU_LAUNCH(row_squares, dim3(rf_blocks(n, WARPS)), dim3(BLOCK), 0, stream, x, n, d, squares);
}

/* A weight of 0 adds nothing, whatever stands in its row. */
static __global__ void weighted_blocks(rf_weighted_rows args, int64_t n_blocks)
{
    const int64_t j = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    for (int64_t k = blockIdx.y; k < n_blocks && j < args.d; k += gridDim.y) {
        const int64_t end = (k + 1) * RF_K_SUM_BLOCK < args.n ? (k + 1) * RF_K_SUM_BLOCK : args.n;
        float sum = 0.0f;
        for (int64_t b = k * RF_K_SUM_BLOCK; b < end; b++) {
            const float w = args.weight != NULL ? args.weight[b] : 1.0f;
            if (w != 0.0f) {
                sum = fmaf(w, args.x.data[b * args.x.stride + j], sum);
            }
        }
        args.partial[k * args.d + j] = sum;
    }
}

static __global__ void add_weighted(rf_weighted_rows args, int64_t n_blocks)
{
    const int64_t j = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (j < args.d) {
        double sum = 0.0;
        for (int64_t k = 0; k < n_blocks; k++) {
            sum += (double)args.partial[k * args.d + j];
        }
        sum *= (double)args.alpha;
        args.out[j] = (float)(args.beta == 0.0f ? sum : (double)args.out[j] + sum);
    }
}

void rf_k_row_sum(cudaStream_t stream, rf_weighted_rows args)
{
    const int64_t n_blocks = (args.n + RF_K_SUM_BLOCK - 1) / RF_K_SUM_BLOCK;
    const unsigned columns = rf_blocks(args.d, BLOCK);
    GPU_LAUNCH(weighted_blocks, dim3(columns, rf_blocks_y(n_blocks)), dim3(BLOCK), 0, stream, args,
               n_blocks);
    GPU_LAUNCH(add_weighted, dim3(columns), dim3(BLOCK), 0, stream, args, n_blocks);
}

/* ---- who fires ------------------------------------------------------------------------------- */

/* The warp's count goes to the whole one: whole numbers, in any order. */
static __device__ inline void count_lanes(bool is_counted, int64_t *count)
{
    const unsigned lanes = __ballot_sync(GPU_ALL_LANES, is_counted);
    if (threadIdx.x % GPU_WARP == 0 && lanes != 0) {
        atomicAdd((unsigned long long *)count, (unsigned long long)__popc(lanes));
    }
}

static __global__ void track_fired(const int64_t *latent_start, const int64_t *n_active,
                                   int64_t *since, int64_t n, int64_t n_tokens, int64_t *n_fired)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t first = (int64_t)blockIdx.x * BLOCK; first < n; first += step) {
        const int64_t i = first + threadIdx.x;
        bool fired = false;
        if (i < n) {
            fired = n_active != NULL ? n_active[i] > 0 : latent_start[i + 1] > latent_start[i];
            since[i] = fired ? 0 : since[i] + n_tokens;
        }
        count_lanes(fired, n_fired);
    }
}

void rf_k_track_fired(cudaStream_t stream, const int64_t *latent_start, const int64_t *n_active,
                      int64_t *since, int64_t n, int64_t n_tokens, int64_t *n_fired)
{
    GPU_LAUNCH(track_fired, dim3(rf_blocks(n, BLOCK)), dim3(BLOCK), 0, stream, latent_start,
               n_active, since, n, n_tokens, n_fired);
}

static __global__ void mark_dead(const int64_t *since, int64_t n, int64_t limit, uint8_t *dead,
                                 int64_t *n_dead)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t first = (int64_t)blockIdx.x * BLOCK; first < n; first += step) {
        const int64_t i = first + threadIdx.x;
        const bool is_dead = i < n && since[i] >= limit;
        if (i < n) {
            dead[i] = is_dead;
        }
        count_lanes(is_dead, n_dead);
    }
}

void rf_k_mark_dead(cudaStream_t stream, const int64_t *since, int64_t n, int64_t limit,
                    uint8_t *dead, int64_t *n_dead)
{
    GPU_LAUNCH(mark_dead, dim3(rf_blocks(n, BLOCK)), dim3(BLOCK), 0, stream, since, n, limit, dead,
               n_dead);
}
