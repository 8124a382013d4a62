/* The k largest of each row. A warp takes a row: it reads each product once, appends what may still
 * be among the k largest, in order, and makes room in place when its list is full. Beside the
 * products (4 bytes each, from the second-level cache) a row writes about k (1 + ln(F / k)) entries
 * of 12 bytes, reads a list of max(2 k, k + 256) each time that it is full, and in the end
 * about 1.1 k rows of w. All rows walk the latents together, so that most of these are in cache. */
#include "k_select.h"

#include "k_encode_device.h"

typedef struct topk_row {
    float *lo, *hi;
    int32_t *latent;
    const float *x;
    int64_t n, n_known, k, room;
    float bound;
} topk_row;

static __device__ inline topk_row load_row(const rf_k_topk *t, const rf_k_exact *exact, int64_t row,
                                           bool is_first)
{
    topk_row r;
    r.lo = t->lo + row * t->room;
    r.hi = t->hi + row * t->room;
    r.latent = t->latent + row * t->room;
    r.x = exact->x + row * exact->x_stride;
    r.n = is_first ? 0 : t->n[row];
    r.n_known = is_first ? 0 : t->n_known[row];
    r.k = k_of_class(&t->classes, class_of_row(t->classes.row_class, row));
    r.room = t->room;
    r.bound = is_first ? least_positive() : t->bound[row];
    return r;
}

static __device__ inline void store_row(const rf_k_topk *t, const topk_row *r, int64_t row,
                                        int lane)
{
    __syncwarp(); /* all have read it */
    if (lane == 0) {
        t->n[row] = (int32_t)r->n;
        t->n_known[row] = (int32_t)r->n_known;
        t->bound[row] = r->bound;
    }
}

static __device__ inline int64_t count_from(const float *a, int64_t n, float t, int lane)
{
    int count = 0;
    for (int64_t i = lane; i < n; i += GPU_WARP) {
        count += a[i] >= t;
    }
    return sum_of_lanes(count);
}

/* A t >= `from` > 0 that at least k of a [n] reach, and at most k + slack, or as few as ties allow;
 * `from` where fewer than k reach that. Halves the interval of bit patterns. */
static __device__ inline float threshold_of(const float *a, int64_t n, int64_t k, int64_t slack,
                                            float from, int lane)
{
    int64_t count = count_from(a, n, from, lane);
    uint32_t low = __float_as_uint(from), high;
    float most = from;
    for (int64_t i = lane; count >= k && i < n; i += GPU_WARP) {
        most = a[i] > most ? a[i] : most;
    }
    high = __float_as_uint(max_of_lanes(most)) + 1;
    while (count > k + slack && high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        const int64_t reach = count_from(a, n, __uint_as_float(middle), lane);
        if (reach >= k) {
            low = middle;
            count = reach;
        } else {
            high = middle;
        }
    }
    return __uint_as_float(low);
}

/* Drops what is below the k + slack largest lower bounds, or so. Entries move down within 32 that
 * all lanes have read. */
static __device__ inline void prune(topk_row *r, int64_t slack, int lane)
{
    int64_t kept = 0, known = 0;
    if (r->n > r->k) {
        r->bound = threshold_of(r->lo, r->n, r->k, slack, r->bound, lane);
        for (int64_t first = 0; first < r->n; first += GPU_WARP) {
            const int64_t i = first + lane;
            const bool is_in = i < r->n;
            const float lo = is_in ? r->lo[i] : 0.0f, hi = is_in ? r->hi[i] : 0.0f;
            const int32_t latent = is_in ? r->latent[i] : 0;
            const bool is_kept = is_in && !(hi < r->bound);
            const unsigned mask = __ballot_sync(GPU_ALL_LANES, is_kept);
            const unsigned of_known = __ballot_sync(GPU_ALL_LANES, is_kept && i < r->n_known);
            const int64_t to = kept + rank_in(mask, lane);
            __syncwarp();
            if (is_kept) {
                r->lo[to] = lo;
                r->hi[to] = hi;
                r->latent[to] = latent;
            }
            kept += __popc(mask);
            known += __popc(of_known);
        }
        r->n = kept;
        r->n_known = known;
    }
    __syncwarp();
}

/* Canonical values take the place of bounds. */
static __device__ inline void measure(topk_row *r, const rf_k_exact *exact, int lane)
{
    for (int64_t i = r->n_known; i < r->n; i += 4) {
        int32_t latent[4];
        float value[4];
        for (int j = 0; j < 4; j++) {
            latent[j] = r->latent[i + j < r->n ? i + j : i];
        }
        four_values(exact, r->x, latent, lane, value);
        if (lane < 4 && i + lane < r->n) {
            r->lo[i + lane] = r->hi[i + lane] = value_of_lane(value, lane);
        }
    }
    r->n_known = r->n;
    __syncwarp();
}

/* All values are known: exactly the k largest > 0 stay. Of those that equal the last the first do.
 */
static __device__ inline void keep(topk_row *r, int lane)
{
    const float least = threshold_of(r->lo, r->n, r->k, 0, least_positive(), lane);
    const float above = __uint_as_float(__float_as_uint(least) + 1);
    const int64_t n_ties = r->k - count_from(r->lo, r->n, above, lane);
    int64_t kept = 0, ties = 0;
    for (int64_t first = 0; first < r->n; first += GPU_WARP) {
        const int64_t i = first + lane;
        const float v = i < r->n ? r->lo[i] : 0.0f;
        const int32_t latent = i < r->n ? r->latent[i] : 0;
        const unsigned equal = __ballot_sync(GPU_ALL_LANES, v == least);
        const bool is_tie = v == least && ties + rank_in(equal, lane) < n_ties;
        const bool is_kept = v > least || is_tie;
        const unsigned mask = __ballot_sync(GPU_ALL_LANES, is_kept);
        const int64_t to = kept + rank_in(mask, lane);
        __syncwarp();
        if (is_kept) {
            r->lo[to] = r->hi[to] = v;
            r->latent[to] = latent;
        }
        kept += __popc(mask);
        ties += __popc(equal);
    }
    r->n = r->n_known = kept;
    r->bound = kept == r->k && least > r->bound ? least : r->bound;
    __syncwarp();
}

/* Where bounds cannot tell the k largest from half as many others as fit, or all are equal, they
 * are measured: then no more than k are left. So they are where pruning is not enough. */
static __device__ inline void make_room(topk_row *r, const rf_k_exact *exact, bool is_pruned,
                                        int lane)
{
    if (!is_pruned) {
        prune(r, r->k / 8, lane);
    }
    if (is_pruned || r->n > r->k + (r->room - r->k) / 2) {
        measure(r, exact, lane);
        keep(r, lane);
    }
}

/* Appends what `mask` (own) names of the step that begins at `first`. */
static __device__ inline void append(topk_row *r, const nominee_row *of, const float *lo,
                                     int64_t first, int32_t first_latent, unsigned mask, int lane)
{
    for (int u = 0; u < STEP_EACH; u++) {
        const unsigned chosen = __ballot_sync(GPU_ALL_LANES, (mask >> u) & 1u);
        if ((mask >> u) & 1u) {
            const int64_t j = first + u * GPU_WARP + lane, to = r->n + rank_in(chosen, lane);
            const float p = of->p[j], norm = of->norm[j];
            r->lo[to] = fmaf(-of->scale, norm, p) + lo[j];
            r->hi[to] = fmaf(of->scale, norm, p) + of->hi[j];
            r->latent[to] = first_latent + (int32_t)j;
        }
        r->n += __popc(chosen);
    }
    __syncwarp();
}

/* What of a step may be selected (own), once there is room for it. */
static __device__ inline unsigned nominated_that_fit(topk_row *r, const nominee_row *of,
                                                     const rf_k_exact *exact, int64_t first,
                                                     int lane)
{
    unsigned mask;
    bool fits;
    int tries = 0;
    do {
        if (tries > 0) {
            make_room(r, exact, tries > 1, lane);
        }
        mask = nominated(of, first, r->bound, lane);
        fits = __any_sync(GPU_ALL_LANES, mask != 0) == 0 ||
               r->n + sum_of_lanes(__popc(mask)) <= r->room;
        tries++;
    } while (!fits);
    return mask;
}

static __global__ void __launch_bounds__(ROW_THREADS, 6)
    topk_take(rf_k_tile tile, rf_k_bounds bounds, rf_k_exact exact, rf_k_topk topk)
{
    const int lane = lane_of_thread();
    const int64_t row_in_tile = row_of_warp(), row = tile.first_row + row_in_tile;
    if (row_in_tile < tile.n_rows) {
        topk_row r = load_row(&topk, &exact, row, tile.first_latent == 0);
        const nominee_row of = nominees_of(&tile, &bounds, row_in_tile);
        const bool is_on = bounds.row_on[row] != 0 && r.k > 0;
        for (int64_t j = 0; is_on && j < of.n; j += RF_ENCODE_STEP) {
            const unsigned mask = nominated_that_fit(&r, &of, &exact, j, lane);
            if (__any_sync(GPU_ALL_LANES, mask != 0)) {
                append(&r, &of, bounds.lo + tile.first_latent, j, (int32_t)tile.first_latent, mask,
                       lane);
            }
        }
        store_row(&topk, &r, row, lane);
    }
}

static __global__ void __launch_bounds__(ROW_THREADS)
    topk_finish(rf_k_exact exact, rf_k_topk topk, int64_t n_rows)
{
    const int lane = lane_of_thread();
    const int64_t row = row_of_warp();
    if (row < n_rows) {
        topk_row r = load_row(&topk, &exact, row, false);
        prune(&r, 0, lane);
        measure(&r, &exact, lane);
        keep(&r, lane);
        store_row(&topk, &r, row, lane);
    }
}

static __global__ void __launch_bounds__(ROW_THREADS)
    topk_pack(rf_k_topk topk, const int64_t *start, int64_t n_rows, int64_t *row_start,
              int32_t *latent, float *value, int64_t *overflow)
{
    const int lane = lane_of_thread();
    const int64_t row = row_of_warp();
    if (row < n_rows) {
        const int64_t from = row * topk.room, to = start[row], n = start[row + 1] - to;
        for (int64_t i = lane; i < n; i += GPU_WARP) {
            latent[to + i] = topk.latent[from + i];
            value[to + i] = topk.lo[from + i];
        }
        if (lane == 0) {
            row_start[row + 1] = to + n;
        }
        if (lane == 0 && row == 0) {
            row_start[0] = 0;
            if (overflow != NULL) {
                *overflow = 0;
            }
        }
    }
}

void rf_k_topk_take(cudaStream_t stream, rf_k_tile tile, rf_k_bounds bounds, rf_k_exact exact,
                    rf_k_topk topk)
{
    GPU_LAUNCH(topk_take, blocks_of_rows(tile.n_rows), ROW_THREADS, 0, stream, tile, bounds, exact,
               topk);
}

void rf_k_topk_finish(cudaStream_t stream, rf_k_exact exact, rf_k_topk topk, int64_t n_rows)
{
    GPU_LAUNCH(topk_finish, blocks_of_rows(n_rows), ROW_THREADS, 0, stream, exact, topk, n_rows);
}

void rf_k_topk_pack(cudaStream_t stream, rf_k_topk topk, const int64_t *start, int64_t n_rows,
                    int64_t *row_start, int32_t *latent, float *value, int64_t *overflow)
{
    GPU_LAUNCH(topk_pack, blocks_of_rows(n_rows), ROW_THREADS, 0, stream, topk, start, n_rows,
               row_start, latent, value, overflow);
}
