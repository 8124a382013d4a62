/* TOPK lists: what may be among the k largest of a row, while tiles of products pass; then exactly
 * the k largest. */
#ifndef REFRACT_K_SELECT_H
#define REFRACT_K_SELECT_H

#include "k_encode.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Candidates of a row b are the first n[b] of its `room` entries, latents rising; a candidate's
 * value lies in [lo, hi], and is known (lo == hi, canonical) for the first n_known[b]. What is
 * below bound[b] cannot be selected. Of a row's class, k is at most room - RF_ENCODE_STEP, or room
 * is not below the number of latents. */
typedef struct rf_k_topk {
    float *lo, *hi;       /* [B, room] */
    int32_t *latent;      /* [B, room] */
    int32_t *n, *n_known; /* [B] */
    float *bound;         /* [B] */
    int64_t room;
    rf_k_classes classes; /* k >= 0, not above the number of latents */
} rf_k_topk;

/* Adds the candidates of a tile. Of each row the tiles must come with latents rising; the first
 * has latent 0. */
void rf_k_topk_take(cudaStream_t stream, rf_k_tile tile, rf_k_bounds bounds, rf_k_exact exact,
                    rf_k_topk topk);
/* What is selected of n_rows rows is left in lo, latent and n. */
void rf_k_topk_finish(cudaStream_t stream, rf_k_exact exact, rf_k_topk topk, int64_t n_rows);
/* To codes whose row b begins at start[b]; row_start [B + 1] becomes a copy of `start`, *overflow
 * (may be NULL) 0. */
void rf_k_topk_pack(cudaStream_t stream, rf_k_topk topk, const int64_t *start, int64_t n_rows,
                    int64_t *row_start, int32_t *latent, float *value, int64_t *overflow);

#ifdef __cplusplus
}
#endif

#endif
