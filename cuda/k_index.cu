/* Entries by latent: a stable radix sort, least digit first. A tile of entries is a block's; counts
 * of digits stand digit by digit, so that a digit's entries come tile after tile. */
#include "k_by_latent.h"

#include "device_scan.h"

enum { BLOCK = 256, WARPS = BLOCK / GPU_WARP, DIGITS = RF_K_SORT_DIGITS, TILE = RF_K_SORT_TILE };

static __device__ inline int64_t n_entries(const rf_codes &codes)
{
    return codes.row_start[codes.n_rows];
}

/* key and entry of the first pass; the row of each entry. A block a row. */
static __global__ void begin_sort(rf_codes codes, rf_sort_scratch to)
{
    for (int64_t b = blockIdx.x; b < codes.n_rows; b += gridDim.x) {
        for (int64_t e = codes.row_start[b] + threadIdx.x; e < codes.row_start[b + 1]; e += BLOCK) {
            to.key[0][e] = codes.latent[e];
            to.entry[0][e] = (int32_t)e;
            to.row_of[e] = (int32_t)b;
        }
    }
}

/* counts [digit, tile]. */
static __global__ void count_digits(rf_codes codes, const int32_t *key, int shift, int32_t *counts,
                                    int64_t n_tiles)
{
    GPU_SHARED(int32_t, n_of, DIGITS);
    const int64_t n = n_entries(codes);
    for (int64_t tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
        n_of[threadIdx.x] = 0;
        __syncthreads();
        for (int64_t i = tile * TILE + threadIdx.x; i < n && i < (tile + 1) * TILE; i += BLOCK) {
            atomicAdd(&n_of[((uint32_t)key[i] >> shift) % DIGITS], 1);
        }
        __syncthreads();
        counts[threadIdx.x * n_tiles + tile] = n_of[threadIdx.x];
        __syncthreads();
    }
}

/* Of each digit what is before a tile, and in all. A block a digit. */
static __global__ void scan_tiles(int32_t *counts, int32_t *totals, int64_t n_tiles)
{
    GPU_SHARED(int64_t, partial, WARPS);
    int32_t *mine = counts + blockIdx.x * n_tiles;
    int64_t before = 0;
    for (int64_t first = 0; first < n_tiles; first += BLOCK) {
        const int64_t tile = first + threadIdx.x;
        int64_t sum = 0;
        const int64_t count = tile < n_tiles ? mine[tile] : 0;
        const int64_t place = before + gpu_block_scan(count, partial, &sum);
        if (tile < n_tiles) {
            mine[tile] = (int32_t)place;
        }
        before += sum;
    }
    if (threadIdx.x == 0) {
        totals[blockIdx.x] = (int32_t)before;
    }
}

/* Lanes of the warp with the same digit; only those of `is_here` count. */
static __device__ inline unsigned peers_of(unsigned digit, bool is_here)
{
    unsigned peers = __ballot_sync(GPU_ALL_LANES, is_here);
    for (int bit = 0; bit < 8; bit++) {
        const bool is_set = (digit >> bit) % 2 != 0;
        const unsigned with = __ballot_sync(GPU_ALL_LANES, is_set);
        peers &= is_set ? with : ~with;
    }
    return peers;
}

/* One round of BLOCK entries: where each goes. next [DIGITS] is where a digit goes on; of [WARPS,
 * DIGITS] are the warps' own counts. */
static __device__ inline int64_t place_of(unsigned digit, bool is_here, int32_t *next, int32_t *of)
{
    const int lane = (int)threadIdx.x % GPU_WARP, warp = (int)threadIdx.x / GPU_WARP;
    for (int w = 0; w < WARPS; w++) {
        of[w * DIGITS + (int)threadIdx.x] = 0;
    }
    __syncthreads();
    const unsigned peers = peers_of(digit, is_here), below = (1u << lane) - 1;
    const int rank = __popc(peers & below);
    if (is_here && rank == 0) {
        of[warp * DIGITS + (int)digit] = __popc(peers);
    }
    __syncthreads();
    int32_t at = next[threadIdx.x]; /* a thread has a digit: warps in order */
    for (int w = 0; w < WARPS; w++) {
        const int32_t count = of[w * DIGITS + (int)threadIdx.x];
        of[w * DIGITS + (int)threadIdx.x] = at;
        at += count;
    }
    next[threadIdx.x] = at;
    __syncthreads();
    const int64_t place = is_here ? of[warp * DIGITS + (int)digit] + rank : -1;
    __syncthreads();
    return place;
}

static __global__ void scatter(rf_codes codes, rf_sort_scratch s, int pass, int shift)
{
    GPU_SHARED(int32_t, next, DIGITS);
    GPU_SHARED(int32_t, of, WARPS * DIGITS);
    GPU_SHARED(int64_t, partial, WARPS);
    const int32_t *key = s.key[pass % 2], *entry = s.entry[pass % 2];
    int32_t *to_key = s.key[1 - pass % 2], *to_entry = s.entry[1 - pass % 2];
    const int64_t n = n_entries(codes);
    int64_t all = 0;
    const int64_t digit_start = gpu_block_scan(s.totals[threadIdx.x], partial, &all);
    for (int64_t tile = blockIdx.x; tile < s.n_tiles; tile += gridDim.x) {
        next[threadIdx.x] = (int32_t)digit_start + s.counts[threadIdx.x * s.n_tiles + tile];
        __syncthreads();
        for (int64_t first = tile * TILE; first < n && first < (tile + 1) * TILE; first += BLOCK) {
            const int64_t i = first + threadIdx.x;
            const int32_t k = i < n ? key[i] : 0;
            const int64_t to = place_of(((uint32_t)k >> shift) % DIGITS, i < n, next, of);
            if (to >= 0) {
                to_key[to] = k;
                to_entry[to] = entry[i];
            }
        }
        __syncthreads();
    }
}

/* The sorted entries, their rows, and where each latent begins: whoever comes first of a latent
 * says so for those before it that have none. */
static __global__ void end_sort(rf_codes codes, rf_latent_index index, rf_sort_scratch s, int pass)
{
    const int32_t *key = s.key[pass % 2], *entry = s.entry[pass % 2];
    const int64_t n = n_entries(codes), step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i <= n; i += step) {
        const int64_t before = i > 0 ? key[i - 1] : -1;
        const int64_t here = i < n ? key[i] : index.n_latents;
        for (int64_t latent = before + 1; latent <= here; latent++) {
            index.latent_start[latent] = i;
        }
        if (i < n) {
            index.entry[i] = entry[i];
            index.row[i] = s.row_of[entry[i]];
        }
    }
}

void rf_k_index_by_latent(cudaStream_t stream, rf_codes codes, rf_latent_index index,
                          rf_sort_scratch scratch)
{
    const dim3 block(BLOCK), by_row(rf_blocks(codes.n_rows, 1));
    const dim3 by_tile(rf_blocks(scratch.n_tiles, 1));
    int pass = 0;
    GPU_LAUNCH(begin_sort, by_row, block, 0, stream, codes, scratch);
    for (int shift = 0; shift < 32 && (index.n_latents - 1) >> shift > 0; shift += 8) {
        GPU_LAUNCH(count_digits, by_tile, block, 0, stream, codes,
                   (const int32_t *)scratch.key[pass % 2], shift, scratch.counts, scratch.n_tiles);
        GPU_LAUNCH(scan_tiles, dim3(DIGITS), block, 0, stream, scratch.counts, scratch.totals,
                   scratch.n_tiles);
        GPU_LAUNCH(scatter, by_tile, block, 0, stream, codes, scratch, pass, shift);
        pass++;
    }
    GPU_LAUNCH(end_sort, by_tile, block, 0, stream, codes, index, scratch, pass);
}
