/* Launchers of what walks codes by latent: the index, gradients, sums; and sums over rows. */
#ifndef REFRACT_K_BY_LATENT_H
#define REFRACT_K_BY_LATENT_H

#include "k_view.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- index: a stable radix sort of entries by latent, 8 bits a pass ---------------------------
 */

enum { RF_K_SORT_TILE = 4096, RF_K_SORT_DIGITS = 256 };

/* Scratch: keys and entries of the passes [capacity], counts [RF_K_SORT_DIGITS, n_tiles] with
 * n_tiles = ceil(capacity / RF_K_SORT_TILE), at least 1, and totals [RF_K_SORT_DIGITS]. */
typedef struct rf_sort_scratch {
    int32_t *key[2], *entry[2], *row_of;
    int32_t *counts, *totals;
    int64_t n_tiles;
} rf_sort_scratch;
/* The index of `codes`. A pass reads and writes 16 bytes an entry. */
void rf_k_index_by_latent(cudaStream_t stream, rf_codes codes, rf_latent_index index,
                          rf_sort_scratch scratch);

/* ---- gradients --------------------------------------------------------------------------------
 */

typedef struct rf_by_latent_list {
    const int64_t *latent_start;
    const int32_t *entry, *row;
    const float *value, *d_value;
    rf_rows g; /* may be absent */
    rf_latent_groups groups;
} rf_by_latent_list;

typedef struct rf_by_latent {
    int n_lists;
    rf_by_latent_list lists[RF_MAX_LISTS];
    rf_rows x, d_w_enc, d_w_dec;
    float *d_b_enc;
    int64_t n_latents, width_in, width_out;
    bool accumulate;
    uint8_t *touched;
    double *squares; /* [F] of each latent; not written with `accumulate` */
} rf_by_latent;
/* A block a latent, both matrices in one pass: each entry reads a row of x and one of g (which
 * second-level cache holds), each touched latent writes two rows. */
void rf_k_accumulate_by_latent(cudaStream_t stream, rf_by_latent args);

/* out [n] = beta * out + sum of entries[index] in order. */
void rf_k_sum_by_latent(cudaStream_t stream, rf_latent_index index, const float *entries,
                        float *out, float beta);

/* ---- sums -------------------------------------------------------------------------------------
 */

/* *out = beta * *out + the sum of x [n]: blocks of RF_K_SUM_BLOCK in order, then blocks in order.
 * partial [ceil(n / RF_K_SUM_BLOCK)]. */
enum { RF_K_SUM_BLOCK = 256 };
void rf_k_sum_doubles(cudaStream_t stream, const double *x, int64_t n, double *partial, double *out,
                      double beta);
/* squares [n] = the canonical dot of each row with itself. */
void rf_k_row_squares(cudaStream_t stream, rf_rows x, int64_t n, int64_t d, double *squares);

/* out [d] = beta * out + alpha * sum of weight[b] * x[b] (weight NULL: 1): blocks of
 * RF_K_SUM_BLOCK rows by FMA, then blocks in order as doubles. partial [blocks, d]. */
typedef struct rf_weighted_rows {
    rf_rows x;
    const float *weight;
    float *partial, *out;
    int64_t n, d;
    float alpha, beta;
} rf_weighted_rows;
void rf_k_row_sum(cudaStream_t stream, rf_weighted_rows args);

/* ---- who fires --------------------------------------------------------------------------------
 */

/* since [n] = 0 where a latent fired (n_active, or entries by latent_start), else += n_tokens;
 * *n_fired = how many did. */
void rf_k_track_fired(cudaStream_t stream, const int64_t *latent_start, const int64_t *n_active,
                      int64_t *since, int64_t n, int64_t n_tokens, int64_t *n_fired);
/* dead [n] = since >= limit; *n_dead = how many are. */
void rf_k_mark_dead(cudaStream_t stream, const int64_t *since, int64_t n, int64_t limit,
                    uint8_t *dead, int64_t *n_dead);

#ifdef __cplusplus
}
#endif

#endif
