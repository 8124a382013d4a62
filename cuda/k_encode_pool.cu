/* ABOVE, POSITIVE and WINDOW lists. Each product is read once, by one warp; an entry is written
 * once to the pool and moved once to the codes (16 bytes each). */
#include "k_encode_pool.h"

#include "k_encode_pool_device.h"

/* The least float that is wanted: above max(0, floor). */
static __device__ inline float least_above(float floor)
{
    const float base = floor > 0.0f ? floor : 0.0f;
    return base <= FLT_MAX ? __uint_as_float(__float_as_uint(base) + 1) : base;
}

/* Of 32 latents those that `mask` names are measured, four at a time: own value. */
static __device__ inline float values_of(const rf_k_exact *exact, const float *x, int32_t latent,
                                         unsigned mask, int lane)
{
    float mine = 0.0f;
    while (mask != 0) {
        int32_t from[4], of[4];
        float value[4];
        for (int i = 0; i < 4; i++) { /* the first again where there are fewer */
            from[i] = mask != 0 ? __ffs((int)mask) - 1 : from[0];
            of[i] = latent + from[i];
            mask &= mask - 1;
        }
        four_values(exact, x, of, lane, value);
        for (int i = 0; i < 4; i++) {
            mine = lane == from[i] ? value[i] : mine;
        }
    }
    return mine;
}

static __global__ void __launch_bounds__(256) pool_empty(rf_k_pool pool, int64_t n_rows)
{
    const int64_t row = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (row < n_rows) {
        pool.n[row] = 0;
        pool.first[row] = pool.last[row] = -1;
    }
}

static __global__ void __launch_bounds__(ROW_THREADS)
    pool_take_above(rf_k_tile tile, rf_k_bounds bounds, rf_k_exact exact, const float *floor,
                    const uint8_t *row_class, rf_k_pool pool)
{
    const int lane = lane_of_thread();
    const int64_t row_in_tile = row_of_warp(), row = tile.first_row + row_in_tile;
    if (row_in_tile < tile.n_rows && bounds.row_on[row] != 0) {
        pool_row r = pool_load(&pool, row);
        const nominee_row of = nominees_of(&tile, &bounds, row_in_tile);
        const float least = least_above(floor[class_of_row(row_class, row)]);
        const float *x = exact.x + row * exact.x_stride;
        for (int64_t first = 0; first < of.n && !r.is_full; first += RF_ENCODE_STEP) {
            const unsigned mask = nominated(&of, first, least, lane);
            const bool is_any = __any_sync(GPU_ALL_LANES, mask != 0) != 0;
            for (int u = 0; is_any && u < STEP_EACH; u++) {
                const unsigned may = __ballot_sync(GPU_ALL_LANES, (mask >> u) & 1u);
                const int32_t latent = (int32_t)(tile.first_latent + first + u * GPU_WARP);
                const float v = values_of(&exact, x, latent, may, lane);
                if (may != 0 && !r.is_full) {
                    const bool is_wanted = ((mask >> u) & 1u) != 0 && v >= least;
                    pool_append(&pool, &r, is_wanted, latent + lane, v, lane);
                }
            }
        }
        pool_store(&pool, &r, row, lane);
    }
}

/* Own. */
static __device__ inline bool is_wanted_value(const rf_k_wanted *wanted, float v, int64_t latent)
{
    const float threshold = wanted->threshold == NULL ? 0.0f : wanted->threshold[latent];
    const bool is_near = fabsf(v - threshold) < 0.5f * wanted->window;
    const bool is_over = v > 0.0f && (wanted->threshold == NULL || v > threshold);
    return (wanted->window > 0.0f ? is_near : is_over) &&
           (wanted->eligible == NULL || wanted->eligible[latent] != 0);
}

static __global__ void __launch_bounds__(ROW_THREADS)
    pool_take_values(rf_k_tile tile, rf_k_wanted wanted, rf_k_pool pool)
{
    const int lane = lane_of_thread();
    const int64_t row_in_tile = row_of_warp(), row = tile.first_row + row_in_tile;
    if (row_in_tile < tile.n_rows && wanted.row_on[row] != 0) {
        pool_row r = pool_load(&pool, row);
        const float *p = tile.products + row_in_tile * tile.stride;
        for (int64_t first = 0; first < tile.n_latents && !r.is_full; first += GPU_WARP) {
            const int64_t j = first + lane, latent = tile.first_latent + j;
            const bool is_in = j < tile.n_latents;
            const float v = is_in ? p[j] + wanted.bias[latent] : 0.0f;
            const bool is_wanted = is_in && is_wanted_value(&wanted, v, latent);
            pool_append(&pool, &r, is_wanted, (int32_t)latent, v, lane);
        }
        pool_store(&pool, &r, row, lane);
    }
}

static __global__ void __launch_bounds__(ROW_THREADS)
    pool_pack(rf_k_pool pool, const int64_t *start, int64_t n_rows, int64_t capacity,
              int64_t *row_start, int32_t *latent, float *value, int64_t *overflow)
{
    const int lane = lane_of_thread();
    const int64_t row = row_of_warp();
    if (row < n_rows) {
        const bool fits = *pool.n_used <= pool.n_chunks && start[n_rows] <= capacity;
        const pool_row r = pool_load(&pool, row);
        const int64_t to = start[row];
        for (pool_walk w = pool_begin(&r); fits && w.i < r.n; pool_step(&pool, &r, &w)) {
            if (w.i + lane < r.n) {
                latent[to + w.i + lane] = pool.latent[w.at + lane];
                value[to + w.i + lane] = pool.value[w.at + lane];
            }
        }
        if (lane == 0) {
            row_start[row + 1] = fits ? start[row + 1] : 0;
        }
        if (lane == 0 && row == 0) {
            row_start[0] = 0;
            if (overflow != NULL) {
                *overflow = !fits;
            }
        }
    }
}

void rf_k_pool_empty(cudaStream_t stream, rf_k_pool pool, int64_t n_rows)
{
    GPU_LAUNCH(pool_empty, (unsigned)((n_rows + 255) / 256), 256, 0, stream, pool, n_rows);
}

void rf_k_pool_take_above(cudaStream_t stream, rf_k_tile tile, rf_k_bounds bounds, rf_k_exact exact,
                          const float *floor, const uint8_t *row_class, rf_k_pool pool)
{
    GPU_LAUNCH(pool_take_above, blocks_of_rows(tile.n_rows), ROW_THREADS, 0, stream, tile, bounds,
               exact, floor, row_class, pool);
}

void rf_k_pool_take_values(cudaStream_t stream, rf_k_tile tile, rf_k_wanted wanted, rf_k_pool pool)
{
    GPU_LAUNCH(pool_take_values, blocks_of_rows(tile.n_rows), ROW_THREADS, 0, stream, tile, wanted,
               pool);
}

void rf_k_pool_pack(cudaStream_t stream, rf_k_pool pool, const int64_t *start, int64_t n_rows,
                    int64_t capacity, int64_t *row_start, int32_t *latent, float *value,
                    int64_t *overflow)
{
    GPU_LAUNCH(pool_pack, blocks_of_rows(n_rows), ROW_THREADS, 0, stream, pool, start, n_rows,
               capacity, row_start, latent, value, overflow);
}
