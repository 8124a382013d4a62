/* Private to encode: what its two files share. cpu_encode.c plans, walks tiles and packs;
 * cpu_encode_tile.c turns one tile of products into candidates and entries. */
#ifndef REFRACT_ENCODE_IMPL_H
#define REFRACT_ENCODE_IMPL_H

#include "coder_ops_impl.h"

/* oneDNN packs both operands of each tile: tall tiles pack the dictionary less often (measured on 2
 * cores with AVX-512: 1024 x 512 takes 0.93 of the time of 256 x 1024, and no longer than one whole
 * product). Bits of a product do not depend on the tile in steps of 16 rows. */
enum { ENCODE_TILE_ROWS = 1024, ENCODE_TILE_LATENTS = 512, ENCODE_ROW_STEP = 16 };

/* Entries of a POSITIVE list until their number is known: rows take chunks from one pool as they
 * grow. Which chunk a row gets depends on the threads; how many it takes does not. */
enum { ENCODE_CHUNK = 32 };
typedef struct rf_encode_pool {
    int32_t *latent, *next; /* [n_chunks * ENCODE_CHUNK], [n_chunks] */
    float *value;
    int32_t *first, *last; /* [B] */
    int64_t n_chunks, n_used;
} rf_encode_pool;

/* The same for all threads. pre of (b, i) lies within row_scale[b] * norm[i] of the product, and a
 * little for the bias, which offset_hi and offset_lo hold together with the bias itself. */
typedef struct rf_encode_plan {
    const rf_encode_args *args;
    int64_t n_rows, width, n_latents;
    int64_t block_rows, n_blocks, tile;
    float *norm, *offset_hi, *offset_lo; /* [F] */
    float *row_scale;                    /* [B] */
    uint8_t *row_on;                     /* [B] */
    int64_t *count[RF_MAX_LISTS];        /* [B] entries of a row */
    rf_encode_pool *pool;                /* [n_lists] */
    int64_t k[RF_MAX_LISTS], room[RF_MAX_LISTS], slot[RF_MAX_LISTS];
} rf_encode_plan;

/* One thread's work space. */
typedef struct rf_encode_work {
    float *products;                                /* [block_rows, tile] */
    float *x_padded;                                /* [block_rows, D] */
    rf_candidates *candidates[RF_MAX_LISTS];        /* [block_rows] */
    float *lo[RF_MAX_LISTS], *hi[RF_MAX_LISTS];     /* [block_rows, room] */
    int32_t *latent[RF_MAX_LISTS];                  /* [block_rows, room] */
    int32_t *nominated, *chosen;                    /* [tile] */
    float *gathered, *norm, *offset_hi, *offset_lo; /* [tile], of eligible latents */
    float *exact_work;                              /* [largest room] */
} rf_encode_work;

void rf_encode_begin_block(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                           int64_t n_rows);
/* Products of rows first_row.. with latents first_latent.. are in work->products. */
void rf_encode_use_tile(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                        int64_t n_rows, int64_t first_latent, int64_t n_latents);
void rf_encode_end_block(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                         int64_t n_rows);

#endif
