/* Private to the matrix product: what its two files share. cpu_matmul.c cuts tiles and multiplies,
 * cpu_panels.c copies operands into the form in which they are multiplied. */
#ifndef REFRACT_MATMUL_IMPL_H
#define REFRACT_MATMUL_IMPL_H

#include "tensor_impl.h"

enum {
    RF_PAD_ROWS = 48,
    RF_PAD_COLS = 16,
    RF_TILE_COLS = 384,
    RF_TILE_ROWS = 5 * RF_PAD_ROWS, /* at most, with panels: those may be staged */
    RF_MAX_TILE_COLS = 3072,        /* without panels */
    RF_K_STEP = 384,
    RF_WIDE_ROW = 1024, /* floats: rows of b from here on are copied into panels */
    RF_STAGE_FLOATS = RF_TILE_ROWS * RF_K_STEP,
    RF_MAX_PANEL_FLOATS = 1 << 23, /* of all panels at a time */
    RF_BLOCK_COLS = 128,
    RF_BLOCK_ROWS = 16, /* what rows of tiles begin at multiples of */
};

/* How terms are multiplied. Values in bf16 may be multiplied as floats: the products are the same.
 */
typedef enum rf_product_kind {
    RF_PRODUCT_F32,
    RF_PRODUCT_ROUNDED, /* a is rounded to bf16, b widened; both as floats */
    RF_PRODUCT_BF16,
} rf_product_kind;

/* What is done to elements of c while they are in a cache: called once for each block of at most
 * RF_BLOCK_ROWS rows, the first of which is a multiple of that, and of columns from a multiple of
 * RF_BLOCK_COLS on, when they are final; by any thread. */
typedef struct rf_finish {
    void (*block)(void *state, int64_t m0, int64_t m, int64_t n0, int64_t n);
    void *state;
} rf_finish;

typedef struct rf_product {
    const rf_matmul_args *args;
    const rf_finish *finish;                                /* NULL: nothing else */
    int64_t m, n, k, chunk;                                 /* chunk: terms of a tile */
    int64_t row_step, tile_rows, tile_cols, n_rows, n_cols; /* n_rows x n_cols tiles */
    rf_product_kind kind;
    bool is_narrow;  /* fewer columns than RF_PAD_COLS: padded with zeros */
    bool has_panels; /* else b is read where it is */
    bool is_tall;    /* tiles may have more rows than can be staged */
    int n_threads;
    int64_t n_sums; /* of `chunk` terms each, made side by side; 1: straight into c */
    void *panels;   /* [n_cols] of [chunk, columns of the tile], floats or bf16 */
    float *sums;    /* [n_sums, m, n] where there are several */
    float *work;    /* [n_threads][rf_product_thread_floats] */
} rf_product;

/* Rows m0 .. and columns n0 .. of c, terms k0 .. of them. */
typedef struct rf_tile {
    int64_t m0, m, n0, n, k0, k;
    float *c; /* its first element of c, or of the sum it is a part of */
    int64_t c_stride;
    float beta;        /* of what is in c before its first term */
    const void *panel; /* [k, n] */
    void *stage;       /* of the thread: RF_STAGE_FLOATS */
    float *padded_c;   /* of the thread: [RF_PAD_ROWS, RF_MAX_TILE_COLS + RF_PAD_COLS] */
} rf_tile;

static inline const float *rf_element(const rf_view *v, rf_trans trans, int64_t i, int64_t j)
{
    const float *p = v->data;
    return trans == RF_TRANS ? p + j * v->stride[0] + i : p + i * v->stride[0] + j;
}

static inline float *rf_product_c(const rf_product *p, int64_t i, int64_t j)
{
    return (float *)p->args->c.data + i * p->args->c.stride[0] + j;
}

/* rf_cpu_matmul with the kind of product given: RF_PRODUCT_F32 where b is fp32. */
rf_status rf_cpu_matmul_as(rf_stream *s, const rf_matmul_args *args, rf_product_kind kind);
/* rf_cpu_matmul with `finish`, in memory of so many bytes (a multiple of 64). */
size_t rf_cpu_matmul_bytes(rf_stream *s, const rf_matmul_args *args);
rf_status rf_cpu_matmul_then(rf_stream *s, const rf_matmul_args *args, const rf_finish *finish,
                             void *memory);

int64_t rf_product_panel_floats(const rf_product *p);
int64_t rf_product_thread_floats(void);
/* Where the panel of tile column `col` is when `n_terms` are packed. */
void *rf_panel_at(const rf_product *p, int64_t col, int64_t n_terms);
/* Terms k0 .. k0 + n_terms - 1 of b. By all threads of a parallel region together. */
void rf_pack_panels(const rf_product *p, int64_t k0, int64_t n_terms);
/* stage [n_rows, n_terms] = terms k0 .. of the tile's rows, rounded to bf16 where the product is;
 * rows behind the tile's are zero. */
void rf_stage(const rf_product *p, const rf_tile *t, int64_t n_rows, int64_t k0, int64_t n_terms);
void rf_stage_bf16(const rf_product *p, const rf_tile *t, int64_t n_rows, int64_t k0,
                   int64_t n_terms);

#endif
