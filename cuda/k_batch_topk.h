/* BATCH_TOPK lists: what may be among the k largest of all rows of a class, while tiles of products
 * pass; then exactly the k largest. */
#ifndef REFRACT_K_BATCH_TOPK_H
#define REFRACT_K_BATCH_TOPK_H

#include "k_encode_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Values are counted by half of their bits. */
enum { RF_BATCH_BINS = 65536 };

/* What is known of a class; zeroed first. */
typedef struct rf_k_batch_class {
    uint32_t bound;        /* bits: k values are not below it */
    uint32_t upper, least; /* bits of the least value that is selected; its upper half */
    uint32_t unused;
    int64_t n_above, n_ties;   /* values whose upper half is above; how many equals are selected */
    unsigned long long n_live; /* candidates after the last prune */
} rf_k_batch_class;

/* Candidates of a row are the entries of its chunks, latents rising: the product, or for the first
 * n_known[b] the canonical value. */
typedef struct rf_k_batch {
    rf_k_pool pool;
    int32_t *n_known, *n_tied;    /* [B] */
    int64_t *tie_start;           /* [B] */
    rf_k_batch_class *state;      /* [n_classes] */
    uint32_t *counts;             /* [n_classes, RF_BATCH_BINS], zeroed first; left zero */
    rf_k_classes classes, limits; /* k; candidates with which a class goes on unmeasured */
    int n_classes;
} rf_k_batch;

void rf_k_batch_take(cudaStream_t stream, rf_k_tile tile, rf_k_bounds bounds, rf_k_batch batch);
/* Drops what is below the k-th largest lower bound, or a little less: 3 launches. */
void rf_k_batch_prune(cudaStream_t stream, rf_k_bounds bounds, rf_k_batch batch, int64_t n_rows);
/* Measures what is left of each class whose candidates are more than its limit, or of all, and
 * keeps exactly the k largest > 0: 8 launches, which end at once where there is nothing to do. */
void rf_k_batch_settle(cudaStream_t stream, rf_k_bounds bounds, rf_k_exact exact, rf_k_batch batch,
                       int64_t n_rows, bool is_last);

#ifdef __cplusplus
}
#endif

#endif
