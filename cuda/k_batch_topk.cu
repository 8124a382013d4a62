/* The k largest of all rows of each class. While tiles pass, what reaches the running bound goes to
 * a pool (8 bytes each); now and then the k-th largest lower bound is found from counts of upper
 * halves of bit patterns, and what it excludes is dropped in place. What is left in the end, about
 * 1.1 k, is measured and cut exactly: by the least value, found from counts of both halves, and of
 * its equals by row and latent. All sums are of integers, so that order leaves no trace. */
#include "k_batch_topk.h"

#include "device_scan.h"
#include "k_encode_pool_device.h"

typedef enum count_kind { COUNT_BOUNDS, COUNT_UPPER, COUNT_LOWER } count_kind;

#define NO_UPPER 0x100000u /* the upper half of no value: fewer than k are > 0 */

static __device__ inline bool is_cut(const rf_k_batch *batch, int which, bool is_last)
{
    return is_last ||
           batch->state[which].n_live > (unsigned long long)k_of_class(&batch->limits, which);
}

/* ---- in a row ------------------------------------------------------------------------------- */

/* Entries that stay move down a row's own chunks, within 32 that all lanes have read. */
typedef struct batch_writer {
    int64_t n, n_known;
    int32_t chunk;
} batch_writer;

static __device__ inline batch_writer begin_moves(const pool_row *r)
{
    batch_writer w;
    w.n = w.n_known = 0;
    w.chunk = r->first;
    return w;
}

static __device__ inline void move(const rf_k_pool *pool, batch_writer *w, bool is_kept,
                                   int32_t latent, float value, int lane)
{
    const unsigned mask = __ballot_sync(GPU_ALL_LANES, is_kept);
    const int m = __popc(mask), used = (int)(w->n % RF_POOL_CHUNK), rank = rank_in(mask, lane);
    if (m > 0) {
        w->chunk = used == 0 && w->n > 0 ? pool->next[w->chunk] : w->chunk;
        const int left = RF_POOL_CHUNK - used;
        const int32_t after = m > left ? pool->next[w->chunk] : w->chunk;
        const int64_t at = rank < left ? (int64_t)w->chunk * RF_POOL_CHUNK + used + rank
                                       : (int64_t)after * RF_POOL_CHUNK + (rank - left);
        if (is_kept) {
            pool->latent[at] = latent;
            pool->value[at] = value;
        }
        w->chunk = after;
        w->n += m;
    }
}

/* The row is what was moved; the chunks after it are given back. */
static __device__ inline void end_moves(const rf_k_batch *batch, pool_row *r, const batch_writer *w,
                                        int64_t row, int lane)
{
    const rf_k_pool *pool = &batch->pool;
    __syncwarp(); /* all have read the row */
    if (lane == 0) {
        int32_t chunk = w->n == 0 ? r->first : w->chunk, last = r->last;
        if (w->n > 0) {
            chunk = chunk == last ? -1 : pool->next[chunk];
        }
        while (chunk >= 0) {
            pool->free[atomicAdd(pool->n_free, 1)] = chunk;
            chunk = chunk == last ? -1 : pool->next[chunk];
        }
        batch->n_known[row] = (int32_t)w->n_known;
    }
    r->n = w->n;
    r->first = w->n == 0 ? -1 : r->first;
    r->last = w->n == 0 ? -1 : w->chunk;
    pool_store(pool, r, row, lane);
}

/* ---- kernels that give a warp a row --------------------------------------------------------- */

static __global__ void __launch_bounds__(ROW_THREADS)
    batch_take(rf_k_tile tile, rf_k_bounds bounds, rf_k_batch batch)
{
    const int lane = lane_of_thread();
    const int64_t row_in_tile = row_of_warp(), row = tile.first_row + row_in_tile;
    if (row_in_tile < tile.n_rows) {
        const int which = class_of_row(batch.classes.row_class, row);
        const bool is_on = bounds.row_on[row] != 0 && k_of_class(&batch.classes, which) > 0;
        const nominee_row of = nominees_of(&tile, &bounds, row_in_tile);
        const float bound = fmaxf(__uint_as_float(batch.state[which].bound), least_positive());
        pool_row r = pool_load(&batch.pool, row);
        for (int64_t first = 0; is_on && first < of.n && !r.is_full; first += RF_ENCODE_STEP) {
            const unsigned mask = nominated(&of, first, bound, lane);
            const bool is_any = __any_sync(GPU_ALL_LANES, mask != 0) != 0;
            for (int u = 0; is_any && u < STEP_EACH; u++) {
                const int64_t j = first + u * GPU_WARP + lane;
                const bool is_wanted = ((mask >> u) & 1u) != 0;
                const float p = is_wanted ? of.p[j] : 0.0f;
                pool_append(&batch.pool, &r, is_wanted, (int32_t)(tile.first_latent + j), p, lane);
            }
        }
        if (is_on) {
            pool_store(&batch.pool, &r, row, lane);
        }
        if (tile.first_latent == 0 && lane == 0) {
            batch.n_known[row] = 0;
        }
    }
}

/* Counts lower bounds that reach the running bound, or values > 0, by the upper half of their bits;
 * or those of one upper half by the lower. */
static __global__ void __launch_bounds__(ROW_THREADS)
    batch_count(rf_k_bounds bounds, rf_k_batch batch, int64_t n_rows, int kind, bool is_last)
{
    const int lane = lane_of_thread();
    const int64_t row = row_of_warp();
    if (row < n_rows) {
        const int which = class_of_row(batch.classes.row_class, row);
        const rf_k_batch_class *state = batch.state + which;
        uint32_t *counts = batch.counts + (int64_t)which * RF_BATCH_BINS;
        const pool_row r = pool_load(&batch.pool, row);
        const bool is_on = kind == COUNT_BOUNDS || is_cut(&batch, which, is_last);
        const int64_t n_known = is_on && kind == COUNT_BOUNDS ? batch.n_known[row] : r.n;
        const float scale = r.n > n_known ? bounds.row_scale[row] : 0.0f;
        const float from =
            fmaxf(kind == COUNT_BOUNDS ? __uint_as_float(state->bound) : 0.0f, least_positive());
        pool_walk w = pool_begin(&r);
        for (; is_on && w.i < r.n; pool_step(&batch.pool, &r, &w)) {
            const int64_t i = w.i + lane;
            float v = i < r.n ? batch.pool.value[w.at + lane] : 0.0f;
            if (i < r.n && i >= n_known) {
                const int32_t latent = batch.pool.latent[w.at + lane];
                v = fmaf(-scale, bounds.norm[latent], v) + bounds.lo[latent];
            }
            const uint32_t bits = __float_as_uint(v);
            if (v >= from && (kind != COUNT_LOWER || bits >> 16 == state->upper)) {
                atomicAdd(counts + (kind == COUNT_LOWER ? bits & 0xffffu : bits >> 16), 1u);
            }
        }
    }
}

static __global__ void __launch_bounds__(ROW_THREADS)
    batch_drop(rf_k_bounds bounds, rf_k_batch batch, int64_t n_rows)
{
    const int lane = lane_of_thread();
    const int64_t row = row_of_warp();
    if (row < n_rows && batch.pool.n[row] > 0) {
        rf_k_batch_class *state = batch.state + class_of_row(batch.classes.row_class, row);
        const float bound = __uint_as_float(state->bound), scale = bounds.row_scale[row];
        const int64_t n_known = batch.n_known[row];
        pool_row r = pool_load(&batch.pool, row);
        batch_writer to = begin_moves(&r);
        for (pool_walk w = pool_begin(&r); w.i < r.n; pool_step(&batch.pool, &r, &w)) {
            const int64_t i = w.i + lane;
            const bool is_in = i < r.n;
            const float p = is_in ? batch.pool.value[w.at + lane] : 0.0f;
            const int32_t latent = is_in ? batch.pool.latent[w.at + lane] : 0;
            float hi = p;
            if (is_in && i >= n_known) {
                hi = fmaf(scale, bounds.norm[latent], p) + bounds.hi[latent];
            }
            const bool is_kept = is_in && !(hi < bound);
            to.n_known += __popc(__ballot_sync(GPU_ALL_LANES, is_kept && i < n_known));
            __syncwarp();
            move(&batch.pool, &to, is_kept, latent, p, lane);
        }
        end_moves(&batch, &r, &to, row, lane);
        if (lane == 0) {
            atomicAdd(&state->n_live, (unsigned long long)to.n);
        }
    }
}

static __global__ void __launch_bounds__(ROW_THREADS)
    batch_measure(rf_k_exact exact, rf_k_batch batch, int64_t n_rows, bool is_last)
{
    const int lane = lane_of_thread();
    const int64_t row = row_of_warp();
    if (row < n_rows && is_cut(&batch, class_of_row(batch.classes.row_class, row), is_last)) {
        const pool_row r = pool_load(&batch.pool, row);
        const int64_t n_known = batch.n_known[row];
        const float *x = exact.x + row * exact.x_stride;
        for (pool_walk w = pool_begin(&r); w.i < r.n; pool_step(&batch.pool, &r, &w)) {
            const int n = r.n - w.i < GPU_WARP ? (int)(r.n - w.i) : GPU_WARP;
            const int n_done = n_known > w.i ? (int)(n_known - w.i < n ? n_known - w.i : n) : 0;
            for (int i = n_done; i < n; i += 4) {
                int32_t latent[4];
                float value[4];
                for (int j = 0; j < 4; j++) {
                    latent[j] = batch.pool.latent[w.at + (i + j < n ? i + j : i)];
                }
                four_values(&exact, x, latent, lane, value);
                if (lane < 4 && i + lane < n) {
                    batch.pool.value[w.at + i + lane] = value_of_lane(value, lane);
                }
            }
        }
        __syncwarp();
        if (lane == 0) {
            batch.n_known[row] = (int32_t)r.n;
        }
    }
}

static __global__ void __launch_bounds__(ROW_THREADS)
    batch_count_ties(rf_k_batch batch, int64_t n_rows, bool is_last)
{
    const int lane = lane_of_thread();
    const int64_t row = row_of_warp();
    if (row < n_rows) {
        const int which = class_of_row(batch.classes.row_class, row);
        const float least = __uint_as_float(batch.state[which].least);
        const bool is_on = is_cut(&batch, which, is_last);
        const pool_row r = pool_load(&batch.pool, row);
        pool_walk w = pool_begin(&r);
        int n = 0;
        for (; is_on && w.i < r.n; pool_step(&batch.pool, &r, &w)) {
            n += w.i + lane < r.n && batch.pool.value[w.at + lane] == least;
        }
        n = sum_of_lanes(n);
        if (lane == 0) {
            batch.n_tied[row] = n;
        }
    }
}

static __global__ void __launch_bounds__(ROW_THREADS)
    batch_keep(rf_k_batch batch, int64_t n_rows, bool is_last)
{
    const int lane = lane_of_thread();
    const int64_t row = row_of_warp();
    const int which = row < n_rows ? class_of_row(batch.classes.row_class, row) : 0;
    if (row < n_rows && batch.pool.n[row] > 0 && is_cut(&batch, which, is_last)) {
        const float least = __uint_as_float(batch.state[which].least);
        const int64_t n_ties = batch.state[which].n_ties - batch.tie_start[row];
        pool_row r = pool_load(&batch.pool, row);
        batch_writer to = begin_moves(&r);
        int64_t ties = 0;
        for (pool_walk w = pool_begin(&r); w.i < r.n; pool_step(&batch.pool, &r, &w)) {
            const bool is_in = w.i + lane < r.n;
            const float v = is_in ? batch.pool.value[w.at + lane] : 0.0f;
            const int32_t latent = is_in ? batch.pool.latent[w.at + lane] : 0;
            const unsigned equal = __ballot_sync(GPU_ALL_LANES, v == least);
            const bool is_tie = v == least && ties + rank_in(equal, lane) < n_ties;
            __syncwarp();
            move(&batch.pool, &to, v > least || is_tie, latent, v, lane);
            ties += __popc(equal);
        }
        to.n_known = to.n;
        end_moves(&batch, &r, &to, row, lane);
    }
}

/* ---- kernels that give a block a class ------------------------------------------------------ */

/* What was found: the bin that holds the last of those that are wanted, and how many are in bins
 * above it; bin < 0: there are fewer in all. One thread. */
static __device__ inline void note_found(rf_k_batch_class *state, int kind, int64_t wanted, int bin,
                                         int64_t n_above, bool may_raise)
{
    if (kind == COUNT_BOUNDS) {
        const uint32_t bound = bin < 0 ? 0 : (uint32_t)bin << 16;
        state->bound = bound > state->bound ? bound : state->bound;
        state->n_live = 0;
    } else if (kind == COUNT_UPPER) {
        state->upper = bin < 0 ? NO_UPPER : (uint32_t)bin;
        state->n_above = n_above;
        state->least = 1;
        state->n_ties = wanted;
    } else if (bin >= 0) {
        state->least = state->upper << 16 | (uint32_t)bin;
        state->n_ties = wanted - n_above;
        state->bound = may_raise && state->least > state->bound ? state->least : state->bound;
    }
}

/* Thread t has the t-th largest 64 bins. */
static __global__ void __launch_bounds__(GPU_SCAN_THREADS)
    batch_find(rf_k_batch batch, int kind, bool is_last)
{
    GPU_SHARED(int64_t, totals, GPU_SCAN_WARPS);
    const int which = (int)blockIdx.x, each = RF_BATCH_BINS / GPU_SCAN_THREADS;
    const int first = RF_BATCH_BINS - 1 - (int)threadIdx.x * each;
    rf_k_batch_class *state = batch.state + which;
    uint32_t *counts = batch.counts + (int64_t)which * RF_BATCH_BINS;
    const bool is_used = kind != COUNT_LOWER || state->upper != NO_UPPER;
    const int64_t wanted =
        k_of_class(&batch.classes, which) - (kind == COUNT_LOWER ? state->n_above : 0);
    int64_t mine = 0, all;
    for (int i = 0; i < each; i++) {
        mine += counts[first - i];
    }
    int64_t above = gpu_block_scan(mine, totals, &all);
    const bool is_here = wanted > 0 && above < wanted && above + mine >= wanted;
    int bin = is_here ? first : -1;
    while (is_here && above + counts[bin] < wanted) {
        above += counts[bin--];
    }
    if (is_used && (is_here || (threadIdx.x == 0 && (wanted <= 0 || all < wanted)))) {
        note_found(state, kind, wanted, bin, above, is_cut(&batch, which, is_last));
    }
    if (threadIdx.x == 0 && which == 0 && kind == COUNT_BOUNDS) {
        const int32_t n_free = *batch.pool.n_free; /* takers in vain left it below 0 */
        *batch.pool.n_free = n_free < 0 ? 0 : n_free;
    }
    for (int i = 0; i < each; i++) {
        counts[first - i] = 0;
    }
}

/* Ties of the rows of a class before each of its rows. */
static __global__ void __launch_bounds__(GPU_SCAN_THREADS)
    batch_start_ties(rf_k_batch batch, int64_t n)
{
    GPU_SHARED(int64_t, totals, GPU_SCAN_WARPS);
    const int which = (int)blockIdx.x;
    int64_t before = 0, all;
    for (int64_t first = 0; first < n; first += GPU_SCAN_THREADS) {
        const int64_t row = first + threadIdx.x;
        const bool is_mine = row < n && class_of_row(batch.classes.row_class, row) == which;
        const int64_t sum = before + gpu_block_scan(is_mine ? batch.n_tied[row] : 0, totals, &all);
        if (is_mine) {
            batch.tie_start[row] = sum;
        }
        before += all;
    }
}

/* ---- launchers ------------------------------------------------------------------------------ */

void rf_k_batch_take(cudaStream_t stream, rf_k_tile tile, rf_k_bounds bounds, rf_k_batch batch)
{
    GPU_LAUNCH(batch_take, blocks_of_rows(tile.n_rows), ROW_THREADS, 0, stream, tile, bounds,
               batch);
}

static void find(cudaStream_t stream, rf_k_bounds bounds, rf_k_batch batch, int64_t n_rows,
                 count_kind kind, bool is_last)
{
    GPU_LAUNCH(batch_count, blocks_of_rows(n_rows), ROW_THREADS, 0, stream, bounds, batch, n_rows,
               (int)kind, is_last);
    GPU_LAUNCH(batch_find, (unsigned)batch.n_classes, GPU_SCAN_THREADS, 0, stream, batch, (int)kind,
               is_last);
}

void rf_k_batch_prune(cudaStream_t stream, rf_k_bounds bounds, rf_k_batch batch, int64_t n_rows)
{
    find(stream, bounds, batch, n_rows, COUNT_BOUNDS, false);
    GPU_LAUNCH(batch_drop, blocks_of_rows(n_rows), ROW_THREADS, 0, stream, bounds, batch, n_rows);
}

void rf_k_batch_settle(cudaStream_t stream, rf_k_bounds bounds, rf_k_exact exact, rf_k_batch batch,
                       int64_t n_rows, bool is_last)
{
    const unsigned blocks = blocks_of_rows(n_rows);
    GPU_LAUNCH(batch_measure, blocks, ROW_THREADS, 0, stream, exact, batch, n_rows, is_last);
    find(stream, bounds, batch, n_rows, COUNT_UPPER, is_last);
    find(stream, bounds, batch, n_rows, COUNT_LOWER, is_last);
    GPU_LAUNCH(batch_count_ties, blocks, ROW_THREADS, 0, stream, batch, n_rows, is_last);
    GPU_LAUNCH(batch_start_ties, (unsigned)batch.n_classes, GPU_SCAN_THREADS, 0, stream, batch,
               n_rows);
    GPU_LAUNCH(batch_keep, blocks, ROW_THREADS, 0, stream, batch, n_rows, is_last);
}
