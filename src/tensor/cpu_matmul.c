/* Matrix product by tiles, one thread a tile. Tiles depend on the shape alone, rows come in 48s and
 * columns in 16 at least, with what does not fill them padded: so an element has the same bits for
 * any number of threads and, where `a` is not transposed, whatever other rows stand beside its own
 * (measured with oneDNN 2.6.3: AVX-512 needs rows in 16s, AVX2 in 48s). */
#include "tensor_impl.h"

#include <string.h>

enum {
    PAD_ROWS = 48,
    PAD_COLS = 16,
    TILE_COLS = 384, /* with TILE_ROWS: within 5 % of the best of 128..1024 x 128..1024, measured */
    TILE_ROWS = 5 * PAD_ROWS,
    MIN_TILES = 8, /* so that a few threads share a small product */
};

typedef struct tiling {
    int64_t rows, cols, n_row_tiles, n_col_tiles;
} tiling;

static tiling choose_tiles(int64_t m, int64_t n)
{
    tiling t = {.rows = TILE_ROWS, .cols = TILE_COLS};
    t.n_col_tiles = rf_max_i64(1, rf_ceil_div(n, TILE_COLS));
    if (t.n_col_tiles > 1 && n - (t.n_col_tiles - 1) * TILE_COLS < PAD_COLS) {
        t.n_col_tiles--; /* the last tile takes a narrow rest along */
    }
    while (t.rows > PAD_ROWS && rf_ceil_div(m, t.rows) * t.n_col_tiles < MIN_TILES) {
        t.rows -= PAD_ROWS;
    }
    t.n_row_tiles = rf_ceil_div(m, t.rows);
    return t;
}

/* A block of c and what it is made of; `work` holds pad_floats() of this thread. */
typedef struct block {
    int64_t m0, m, n0, n, k;
    float *work;
} block;

static int64_t pad_floats(int64_t k)
{
    return (PAD_ROWS + PAD_COLS) * k + PAD_ROWS * (TILE_COLS + PAD_COLS);
}

static const float *element(const rf_view *v, rf_trans trans, int64_t i, int64_t j)
{
    const float *p = v->data;
    return trans == RF_TRANS ? p + j * v->stride[0] + i : p + i * v->stride[0] + j;
}

/* out [n_rows, n_cols] = rows of op(v) from (i0, j0), zeros outside m x n. */
static void pack(const rf_view *v, rf_trans trans, int64_t i0, int64_t m, int64_t n_rows,
                 int64_t j0, int64_t n, int64_t n_cols, float *out)
{
    memset(out, 0, (size_t)(n_rows * n_cols) * sizeof *out);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            out[i * n_cols + j] = *element(v, trans, i0 + i, j0 + j);
        }
    }
}

static void epilogue(const rf_matmul_args *args, const block *b)
{
    const float *bias = args->bias.data;
    for (int64_t i = 0; i < b->m; i++) {
        float *row = (float *)args->c.data + (b->m0 + i) * args->c.stride[0] + b->n0;
        if (bias != NULL) {
            for (int64_t j = 0; j < b->n; j++) {
                row[j] += bias[b->n0 + j];
            }
        }
        if (args->act != RF_ACT_NONE) {
            rf_cpu_act(args->act, row, row, b->n);
        }
    }
}

/* At most 48 rows, some of them or some of 16 columns missing: through padded copies. */
static rf_status multiply_padded(const rf_matmul_args *args, const block *b)
{
    rf_status status = RF_OK;
    float *pa = b->work, *pb = pa + PAD_ROWS * b->k, *pc = pb + PAD_COLS * b->k;
    const bool pad_cols = b->n < PAD_COLS;
    const int64_t n = pad_cols ? PAD_COLS : b->n, c_stride = args->c.stride[0];
    float *c = (float *)args->c.data + b->m0 * c_stride + b->n0;
    const float *from_b = pb;

    pack(&args->a, args->trans_a, b->m0, b->m, PAD_ROWS, 0, b->k, b->k, pa);
    if (pad_cols) {
        pack(&args->b, args->trans_b, 0, b->k, b->k, b->n0, b->n, PAD_COLS, pb);
    } else {
        from_b = element(&args->b, args->trans_b, 0, b->n0);
    }
    memset(pc, 0, (size_t)(PAD_ROWS * n) * sizeof *pc);
    for (int64_t i = 0; i < b->m && args->beta != 0.0f; i++) {
        memcpy(pc + i * n, c + i * c_stride, (size_t)b->n * sizeof *c);
    }
    RF_TRY(rf_cpu_sgemm_tile(RF_NO_TRANS, pad_cols ? RF_NO_TRANS : args->trans_b, PAD_ROWS, n, b->k,
                             args->alpha, pa, b->k, from_b, pad_cols ? n : args->b.stride[0],
                             args->beta, pc, n));
    for (int64_t i = 0; i < b->m; i++) {
        memcpy(c + i * c_stride, pc + i * n, (size_t)b->n * sizeof *c);
    }
fail:
    return status;
}

static rf_status multiply_whole(const rf_matmul_args *args, const block *b)
{
    return rf_cpu_sgemm_tile(args->trans_a, args->trans_b, b->m, b->n, b->k, args->alpha,
                             element(&args->a, args->trans_a, b->m0, 0), args->a.stride[0],
                             element(&args->b, args->trans_b, 0, b->n0), args->b.stride[0],
                             args->beta, (float *)args->c.data + b->m0 * args->c.stride[0] + b->n0,
                             args->c.stride[0]);
}

/* The whole 48s of a tile's rows at once, then the rest; all 48 by 48 where columns are few. */
static rf_status multiply_tile(const rf_matmul_args *args, const block *tile)
{
    rf_status status = RF_OK;
    block b = *tile;
    b.m = tile->n < PAD_COLS ? 0 : tile->m / PAD_ROWS * PAD_ROWS;
    if (b.m > 0) {
        RF_TRY(multiply_whole(args, &b));
    }
    for (int64_t done = b.m; done < tile->m; done += b.m) {
        b.m0 = tile->m0 + done;
        b.m = rf_min_i64(PAD_ROWS, tile->m - done);
        RF_TRY(multiply_padded(args, &b));
    }
    epilogue(args, tile);
fail:
    return status;
}

rf_status rf_cpu_matmul(rf_stream *s, const rf_matmul_args *args)
{
    rf_status status = RF_OK;
    const int64_t m = args->c.shape[0], n = args->c.shape[1];
    const int64_t k = args->trans_a == RF_TRANS ? args->a.shape[0] : args->a.shape[1];
    const tiling t = choose_tiles(m, n);
    const int n_threads = rf_cpu_n_threads(s);
    const int64_t n_tiles = t.n_row_tiles * t.n_col_tiles;
    void *work = NULL;
    rf_status worst = RF_OK;

    if (m % PAD_ROWS != 0 || n < PAD_COLS) {
        RF_TRY(rf_cpu_scratch(s, (size_t)n_threads * (size_t)pad_floats(k) * sizeof(float), &work));
    }
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t i = 0; i < n_tiles; i++) {
        int64_t row = i % t.n_row_tiles, col = i / t.n_row_tiles;
        block b = {.m0 = row * t.rows, .n0 = col * t.cols, .k = k};
        b.m = rf_min_i64(t.rows, m - b.m0);
        b.n = col == t.n_col_tiles - 1 ? n - b.n0 : t.cols;
        b.work = work == NULL ? NULL : (float *)work + rf_cpu_thread() * pad_floats(k);
        rf_status st = multiply_tile(args, &b);
        if (st != RF_OK) {
#pragma omp atomic write
            worst = st;
        }
    }
    if (worst != RF_OK) {
        RF_FAIL(worst, "matrix product [%" PRId64 " x %" PRId64 "] over %" PRId64 ": oneDNN failed",
                m, n, k);
    }
fail:
    return status;
}
