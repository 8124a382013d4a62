/* Private to the kernels of encode: a row that grows in a pool's chunks. A warp takes a row. */
#ifndef REFRACT_K_ENCODE_POOL_DEVICE_H
#define REFRACT_K_ENCODE_POOL_DEVICE_H

#include "k_encode_device.h"
#include "k_encode_pool.h"

typedef struct pool_row {
    int32_t first, last; /* -1: none */
    int64_t n;
    bool is_full; /* the pool gave nothing more: nobody will read the list */
} pool_row;

enum { POOL_ROW_FULL = -2 }; /* in `last` */

static __device__ inline pool_row pool_load(const rf_k_pool *pool, int64_t row)
{
    pool_row r;
    r.first = pool->first[row];
    r.last = pool->last[row];
    r.n = pool->n[row];
    r.is_full = r.last == POOL_ROW_FULL;
    return r;
}

static __device__ inline void pool_store(const rf_k_pool *pool, const pool_row *r, int64_t row,
                                         int lane)
{
    __syncwarp(); /* all have read it */
    if (lane == 0) {
        pool->first[row] = r->first;
        pool->last[row] = r->is_full ? (int32_t)POOL_ROW_FULL : r->last;
        pool->n[row] = (int32_t)r->n;
    }
}

/* A chunk that was given back, or a new one; -1 where there is none. One lane. */
static __device__ inline int32_t pool_take_chunk(const rf_k_pool *pool)
{
    int32_t chunk = -1;
    const int32_t n_free = pool->free == NULL ? 0 : atomicAdd(pool->n_free, -1);
    if (n_free > 0) {
        chunk = pool->free[n_free - 1];
    } else {
        const int32_t used = atomicAdd(pool->n_used, 1);
        chunk = used < pool->n_chunks ? used : -1;
    }
    return chunk;
}

/* Appends the entries of the lanes that want one, in their order. */
static __device__ inline void pool_append(const rf_k_pool *pool, pool_row *r, bool is_wanted,
                                          int32_t latent, float value, int lane)
{
    const unsigned mask = __ballot_sync(GPU_ALL_LANES, is_wanted);
    const int m = __popc(mask), used = (int)(r->n % RF_POOL_CHUNK), rank = rank_in(mask, lane);
    const int left = used == 0 ? 0 : RF_POOL_CHUNK - used;
    int32_t fresh = -1;
    if (m > left) {
        if (lane == 0) {
            fresh = pool_take_chunk(pool);
            if (fresh >= 0 && r->n > 0) {
                pool->next[r->last] = fresh;
            }
        }
        fresh = __shfl_sync(GPU_ALL_LANES, fresh, 0);
        r->is_full = fresh < 0;
        r->first = r->n == 0 ? fresh : r->first;
    }
    if (is_wanted && !r->is_full) {
        const int64_t at = rank < left ? (int64_t)r->last * RF_POOL_CHUNK + used + rank
                                       : (int64_t)fresh * RF_POOL_CHUNK + (rank - left);
        pool->latent[at] = latent;
        pool->value[at] = value;
    }
    if (!r->is_full) {
        r->n += m;
        r->last = fresh >= 0 ? fresh : r->last;
    }
}

/* Walks a row's entries, 32 at a time. */
typedef struct pool_walk {
    int64_t i, at; /* the first of the 32, and its place in the pool */
    int32_t chunk;
} pool_walk;

static __device__ inline pool_walk pool_begin(const pool_row *r)
{
    pool_walk w;
    w.i = 0;
    w.chunk = r->first;
    w.at = (int64_t)r->first * RF_POOL_CHUNK;
    return w;
}

static __device__ inline void pool_step(const rf_k_pool *pool, const pool_row *r, pool_walk *w)
{
    w->i += GPU_WARP;
    w->at += GPU_WARP;
    if (w->i % RF_POOL_CHUNK == 0 && w->i < r->n) {
        w->chunk = pool->next[w->chunk];
        w->at = (int64_t)w->chunk * RF_POOL_CHUNK;
    }
}

#endif
