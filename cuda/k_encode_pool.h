/* Lists of rows whose size is known only in the end: entries stand in chunks of one pool, which
 * rows take as they grow. Which chunk a row gets depends on who comes first; how many it takes does
 * not. ABOVE, POSITIVE and WINDOW lists hold latents and values; BATCH_TOPK lists candidates. */
#ifndef REFRACT_K_ENCODE_POOL_H
#define REFRACT_K_ENCODE_POOL_H

#include "k_encode.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { RF_POOL_CHUNK = 128 }; /* entries; a multiple of a warp's lanes */

/* Row b has n[b] entries in the chunks first[b], next[first[b]], .., last[b]. */
typedef struct rf_k_pool {
    int32_t *latent;           /* [n_chunks, RF_POOL_CHUNK] */
    float *value;              /* [n_chunks, RF_POOL_CHUNK] */
    int32_t *next;             /* [n_chunks] */
    int32_t *first, *last, *n; /* [B] */
    int32_t *n_used;           /* [1] chunks that were asked for, zeroed first */
    int32_t *n_free, *free;    /* [1] zeroed first, [n_chunks]: chunks that rows gave back */
    int64_t n_chunks;
} rf_k_pool;

/* No row has entries. */
void rf_k_pool_empty(cudaStream_t stream, rf_k_pool pool, int64_t n_rows);

/* All whose canonical value is above max(0, floor), by class where row_class is not NULL. */
void rf_k_pool_take_above(cudaStream_t stream, rf_k_tile tile, rf_k_bounds bounds, rf_k_exact exact,
                          const float *floor, const uint8_t *row_class, rf_k_pool pool);

/* Values of the product, of rows that are on: POSITIVE (threshold may be NULL) or, where window is
 * > 0, WINDOW. */
typedef struct rf_k_wanted {
    const float *bias, *threshold; /* [F] */
    const uint8_t *eligible;       /* [F] or NULL */
    const uint8_t *row_on;         /* [B] */
    float window;
} rf_k_wanted;
void rf_k_pool_take_values(cudaStream_t stream, rf_k_tile tile, rf_k_wanted wanted, rf_k_pool pool);

/* Entries to the codes, row b from start[b] on, if there are no more than `capacity`; else every
 * row is empty. *overflow (may be NULL) says. */
void rf_k_pool_pack(cudaStream_t stream, rf_k_pool pool, const int64_t *start, int64_t n_rows,
                    int64_t capacity, int64_t *row_start, int32_t *latent, float *value,
                    int64_t *overflow);

#ifdef __cplusplus
}
#endif

#endif
