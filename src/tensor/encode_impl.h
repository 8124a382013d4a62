/* Private to encode: what its files share. cpu_encode.c plans and walks blocks and tiles;
 * cpu_encode_bounds.c says how far products may lie from canonical dots, cpu_encode_product.c makes
 * them, cpu_encode_tile.c turns a tile of them into candidates and entries, cpu_encode_pool.c holds
 * entries until their number is known, and cpu_batch_topk.c finds the largest of all rows. */
#ifndef REFRACT_ENCODE_IMPL_H
#define REFRACT_ENCODE_IMPL_H

#include "coder_ops_impl.h"
#include "matmul_impl.h"

/* oneDNN packs both operands of each tile: large ones pack less often (measured on one core with
 * AVX-512: the product in tiles of 1024 x 1024 takes as long as one whole product, of 1024 x 512
 * 1.05 of it). */
enum { ENCODE_TILE_ROWS = 1024, ENCODE_TILE_LATENTS = 1024, ENCODE_PACK_ROWS = 16 };

/* Tokens are settled side by side, a few candidates each at a time: rows of W that several of them
 * ask for are then in cache. */
enum { SETTLE_ROWS = 64, SETTLE_CANDIDATES = 32 };

/* Entries of a list until their number is known: rows take chunks from one pool as they grow. Which
 * chunk a row gets depends on the threads; how many it takes does not. */
enum { ENCODE_CHUNK = 32 };
typedef struct rf_encode_pool {
    int32_t *latent, *next; /* [n_chunks * ENCODE_CHUNK], [n_chunks] */
    float *value;
    int32_t *first, *last; /* [B] */
    int64_t n_chunks, n_used;
} rf_encode_pool;

/* Rows of one class, of an exact rule: all rows where there are no classes. */
typedef struct rf_encode_class {
    int64_t k;    /* of a row (TOPK), of all of them (BATCH_TOPK) */
    int64_t room; /* of BATCH_TOPK: candidates of a thread */
    float bound;  /* of BATCH_TOPK: k values are not below it, as some thread knows */
    float least;  /* of ABOVE: the least value that is wanted */
} rf_encode_class;

/* A list as all threads see it. */
typedef struct rf_encode_list {
    const rf_select_list *list;
    int64_t k, room, slot; /* of TOPK: largest k, candidates of a row */
    int64_t *count;        /* [B] entries of a row */
    float *gate;           /* [F], of POSITIVE and WINDOW: product + gate < 0 is not wanted */
    int n_classes;
    rf_encode_class classes[RF_MAX_ROW_CLASSES];
    rf_encode_pool pool;
} rf_encode_list;

static inline int rf_class_of(const uint8_t *row_class, int64_t row)
{
    return row_class == NULL || row_class[row] >= RF_MAX_ROW_CLASSES ? 0 : row_class[row];
}

static inline bool rf_class_has(rf_class_rows rows, int64_t row)
{
    return rows.row_class == NULL || rf_class_of(rows.row_class, row) == rows.which;
}

/* The same for all threads. pre of (b, i) lies within row_scale[b] * norm[i] of the product, and a
 * little for the bias, which offset_hi and offset_lo hold together with the bias itself. */
typedef struct rf_encode_plan {
    const rf_encode_args *args;
    rf_product_kind kind;
    int64_t n_rows, width, n_latents;
    int64_t row_step, block_rows, n_blocks, tile;
    float *norm, *offset_hi, *offset_lo; /* [F] */
    float *row_scale;                    /* [B] */
    uint8_t *row_on;                     /* [B] */
    rf_encode_list *lists;               /* [n_lists] */
} rf_encode_plan;

/* What one thread holds for a BATCH_TOPK list, in the order in which it came: of each row the
 * latents rise. */
typedef struct rf_batch_candidates {
    float *lo, *hi;
    int32_t *row, *latent;
    int64_t n, n_known; /* the first n_known values are canonical */
    float threshold;    /* what is below it cannot be selected */
} rf_batch_candidates;

typedef struct rf_encode_list_work {
    rf_candidates *candidates;  /* TOPK: [block_rows] */
    float *lo, *hi;             /* [block_rows, room] */
    int32_t *latent;            /* [block_rows, room] */
    rf_batch_candidates *batch; /* BATCH_TOPK: [n_classes] */
} rf_encode_list_work;

/* One thread's work space. */
typedef struct rf_encode_work {
    float *products;                                       /* [block_rows, tile] */
    void *x_staged;                                        /* [block_rows, D] floats or bf16 */
    void *w_staged;                                        /* [tile, D] floats or bf16 */
    float *row_staged;                                     /* [ENCODE_PACK_ROWS, D] */
    const void *x;                                         /* the block's rows for the product */
    int64_t x_stride, x_rows;                              /* x_rows: whole steps */
    int32_t *nominated, *chosen;                           /* [tile] */
    float *gathered, *norm, *offset_hi, *offset_lo, *gate; /* [tile], of eligible latents */
    float *exact_work;                                     /* [largest room of a row, or tile] */
    rf_encode_list_work lists[RF_MAX_LISTS];
} rf_encode_work;

/* The latents of a tile that a list may select, with their bounds: all of them, or a gathered few.
 */
typedef struct rf_tile_latents {
    const float *norm, *offset_hi, *offset_lo, *gate;
    const int32_t *chosen; /* place in the tile, or NULL: all */
    int64_t n, first;
} rf_tile_latents;

static inline int32_t rf_tile_latent(const rf_tile_latents *t, int64_t j)
{
    return (int32_t)(t->first + (t->chosen != NULL ? t->chosen[j] : j));
}

/* Rounded up: a float not below v. */
float rf_float_above(double v);

/* rf_cpu_encode with the kind of product given. */
rf_status rf_cpu_encode_as(rf_stream *s, const rf_encode_args *args, rf_product_kind kind);

/* Fills norm, offsets, row_scale and row_on; returns how many valid rows are refused. */
int64_t rf_encode_bound(const rf_encode_plan *plan, int n_threads);
/* Fills the gate of a POSITIVE or WINDOW list. */
void rf_encode_make_gate(const rf_encode_plan *plan, const rf_encode_list *list);

/* A block's rows are made ready; then each tile's products are left in work->products
 * [rows, n_latents]. */
void rf_encode_load_rows(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                         int64_t n_rows);
rf_status rf_encode_multiply(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_latent,
                             int64_t n_latents);

void rf_encode_begin_block(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                           int64_t n_rows);
/* Products of rows first_row.. with latents first_latent.. are in work->products. */
void rf_encode_use_tile(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                        int64_t n_rows, int64_t first_latent, int64_t n_latents);
void rf_encode_end_block(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                         int64_t n_rows);
rf_exact rf_encode_exact(const rf_encode_plan *plan, const rf_encode_work *work, int64_t row);

/* One more entry of `row`; false when there is no chunk left: the list does not fit. */
bool rf_encode_append(rf_encode_list *list, int64_t row, int32_t latent, float value);
/* Entries of all rows from their chunks to the codes, if they fit; `overflow` says. */
void rf_encode_pack_chunks(const rf_encode_plan *plan, const rf_encode_list *list, int n_threads);
/* Codes' row_start from counts; returns how many entries there are. */
int64_t rf_encode_start_rows(const rf_encode_plan *plan, const rf_encode_list *list);

/* Candidates that a thread may hold. */
int64_t rf_batch_room(int64_t k, int64_t n_values, int64_t tile);
/* Those of products `p` of one row with the latents of `t`. */
void rf_batch_add(const rf_encode_plan *plan, rf_encode_work *work, int l, const rf_tile_latents *t,
                  const float *p, int64_t row);
/* From what all threads hold to the codes. */
rf_status rf_batch_finish(const rf_encode_plan *plan, const rf_encode_work *works, int n_threads,
                          int l);

/* `to` = the entries of `from` (which it may be): of `rows` those > threshold, and the first n_ties
 * of those equal to it; of other rows all. d_value goes along where both have it. */
void rf_codes_cut(const rf_codes *from, rf_class_rows rows, float threshold, int64_t n_ties,
                  rf_codes *to);

#endif
