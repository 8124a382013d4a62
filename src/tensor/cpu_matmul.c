/* Matrix product by tiles, one thread a tile. Where tiles begin along N and along K depends on N
 * and K alone, rows come in steps of 48 (or 16) and columns in 16 at least, with what does not fill
 * them padded: so an element has the same bits for any number of threads and, where `a` is not
 * transposed, whatever other rows stand beside its own (rf_cpu_row_step).
 *
 * A wide b is copied into panels of 384 columns first (cpu_panels.c): its rows lie so far apart
 * that caches and page tables hold few of them (measured with rows of 3072 floats: 109 GFLOP/s a
 * core without, 158 with; of 768: 160 and 159). */
#include "matmul_impl.h"

#include <string.h>

enum { LONG_K = 8192 };

/* A tile at most, and what one costs by itself, in rows. oneDNN packs what is transposed once a
 * tile, and reads and writes c once a step of K. */
typedef struct tile_limits {
    int64_t rows, cols, cost;
} tile_limits;

/* Large tiles are for AVX-512, where an element is one chain of FMA whatever the tile; with AVX2
 * oneDNN sums up in another order from some size on. */
static tile_limits limits_of(const rf_product *p)
{
    const rf_matmul_args *args = p->args;
    if (p->has_panels || p->row_step == RF_PAD_ROWS) {
        return (tile_limits){RF_TILE_ROWS, RF_TILE_COLS, 16};
    }
    if (args->trans_a == RF_TRANS) {
        return (tile_limits){11 * RF_PAD_ROWS, 2 * RF_TILE_COLS, 32};
    }
    if (args->trans_b == RF_TRANS) {
        return (tile_limits){22 * RF_PAD_ROWS, RF_MAX_TILE_COLS, 64};
    }
    return p->k >= LONG_K ? (tile_limits){11 * RF_PAD_ROWS, 2 * RF_TILE_COLS, 32}
                          : (tile_limits){RF_TILE_ROWS, RF_TILE_COLS, 16};
}

/* Rows of a tile: those with which all threads are done first, if they take tiles of one size by
 * turns. */
static int64_t choose_rows(const rf_product *p, const tile_limits *limits)
{
    int64_t best = 0, least = INT64_MAX;
    for (int64_t rows = RF_PAD_ROWS; rows <= limits->rows; rows += p->row_step) {
        const int64_t n_tiles = rf_ceil_div(p->m, rows) * p->n_cols;
        const int64_t time = rf_ceil_div(n_tiles, p->n_threads) * (rows + limits->cost);
        if (time <= least) {
            least = time;
            best = rows;
        }
    }
    return best;
}

static rf_product plan_product(const rf_matmul_args *args, rf_product_kind kind, int n_threads)
{
    rf_product p = {.args = args,
                    .kind = kind,
                    .m = args->c.shape[0],
                    .n = args->c.shape[1],
                    .n_threads = n_threads};
    p.k = args->trans_a == RF_TRANS ? args->a.shape[0] : args->a.shape[1];
    p.is_narrow = p.n < RF_PAD_COLS;
    p.has_panels = p.is_narrow || kind != RF_PRODUCT_F32 ||
                   (args->trans_b == RF_NO_TRANS && args->b.stride[0] >= RF_WIDE_ROW);
    p.row_step = kind == RF_PRODUCT_BF16 ? RF_PAD_ROWS : rf_cpu_row_step();
    const tile_limits limits = limits_of(&p);
    p.tile_cols = limits.cols;
    p.n_cols = rf_max_i64(1, rf_ceil_div(p.n, p.tile_cols));
    if (p.n_cols > 1 && p.n - (p.n_cols - 1) * p.tile_cols < RF_PAD_COLS) {
        p.n_cols--; /* the last tile takes a narrow rest along */
    }
    p.tile_rows = choose_rows(&p, &limits);
    p.n_rows = rf_ceil_div(p.m, p.tile_rows);
    p.chunk = p.k;
    if (p.has_panels) { /* panels of so many terms at once that they stay small */
        int64_t most = RF_MAX_PANEL_FLOATS / rf_max_i64(p.n, RF_PAD_COLS) / RF_K_STEP * RF_K_STEP;
        p.chunk = rf_min_i64(p.k, rf_max_i64(RF_K_STEP, most));
    }
    return p;
}

static void epilogue(const rf_product *p, const rf_tile *t)
{
    const rf_matmul_args *args = p->args;
    const float *bias = args->bias.data;
    if (bias == NULL && args->act == RF_ACT_NONE) {
        return;
    }
    for (int64_t i = 0; i < t->m; i++) {
        float *row = rf_product_c(p, t->m0 + i, t->n0);
        rf_cpu_bias_act(args->act, row, bias == NULL ? NULL : bias + t->n0, row, t->n);
    }
}

/* Terms k0 .. k0 + n_terms - 1 of `rows` rows (whole 48s) of a tile whose first t->m exist. */
static rf_status multiply(const rf_product *p, const rf_tile *t, int64_t rows, int64_t k0,
                          int64_t n_terms, float beta, float *c, int64_t c_stride)
{
    const rf_matmul_args *args = p->args;
    const int64_t n = p->is_narrow ? RF_PAD_COLS : t->n;
    const bool is_whole = rows == t->m;
    if (p->kind == RF_PRODUCT_BF16) {
        rf_stage_bf16(p, t, rows, k0, n_terms);
        return rf_cpu_bf16_tile(rows, n, n_terms, args->alpha, t->stage, n_terms,
                                (const uint16_t *)t->panel + (k0 - t->k0) * n, n, beta, c,
                                c_stride);
    }
    const float *a = rf_element(&args->a, args->trans_a, t->m0, k0);
    int64_t a_stride = args->a.stride[0];
    rf_trans trans_a = args->trans_a;
    if (!is_whole || p->kind == RF_PRODUCT_ROUNDED) {
        rf_stage(p, t, rows, k0, n_terms);
        a = t->stage;
        a_stride = n_terms;
        trans_a = RF_NO_TRANS;
    }
    if (p->has_panels) {
        return rf_cpu_sgemm_tile(trans_a, RF_NO_TRANS, rows, n, n_terms, args->alpha, a, a_stride,
                                 (const float *)t->panel + (k0 - t->k0) * n, n, beta, c, c_stride);
    }
    return rf_cpu_sgemm_tile(trans_a, args->trans_b, rows, n, n_terms, args->alpha, a, a_stride,
                             rf_element(&args->b, args->trans_b, k0, t->n0), args->b.stride[0],
                             beta, c, c_stride);
}

/* Every term of the chunk. */
static rf_status multiply_chunk(const rf_product *p, const rf_tile *t, int64_t rows, float *c,
                                int64_t c_stride)
{
    rf_status status = RF_OK;
    int64_t done = 0;
    do { /* once at least: a product of no terms is zero */
        const int64_t step = rf_min_i64(RF_K_STEP, t->k - done);
        RF_TRY(multiply(p, t, rows, t->k0 + done, step, t->k0 + done == 0 ? p->args->beta : 1.0f, c,
                        c_stride));
        done += step;
    } while (done < t->k);
fail:
    return status;
}

/* At most 48 rows, some of them or some of 16 columns missing: c through a padded copy. */
static rf_status multiply_padded(const rf_product *p, const rf_tile *t)
{
    rf_status status = RF_OK;
    const int64_t n = p->is_narrow ? RF_PAD_COLS : t->n;
    const int64_t n_rows = rf_ceil_div(t->m, p->row_step) * p->row_step;
    const size_t row_bytes = (size_t)t->n * sizeof(float);
    const bool reads_c = t->k0 > 0 || p->args->beta != 0.0f;
    memset(t->padded_c, 0, (size_t)(n_rows * n) * sizeof *t->padded_c);
    for (int64_t i = 0; i < t->m && reads_c; i++) {
        memcpy(t->padded_c + i * n, rf_product_c(p, t->m0 + i, t->n0), row_bytes);
    }
    RF_TRY(multiply_chunk(p, t, n_rows, t->padded_c, n));
    for (int64_t i = 0; i < t->m; i++) {
        memcpy(rf_product_c(p, t->m0 + i, t->n0), t->padded_c + i * n, row_bytes);
    }
fail:
    return status;
}

/* The whole steps of a tile's rows at once, then the rest; all 48 by 48 where columns are few. */
static rf_status multiply_tile(const rf_product *p, const rf_tile *tile)
{
    rf_status status = RF_OK;
    rf_tile t = *tile;
    t.m = p->is_narrow ? 0 : tile->m / p->row_step * p->row_step;
    if (t.m > 0) {
        RF_TRY(multiply_chunk(p, &t, t.m, rf_product_c(p, t.m0, t.n0), p->args->c.stride[0]));
    }
    for (int64_t done = t.m; done < tile->m; done += t.m) {
        t.m0 = tile->m0 + done;
        t.m = rf_min_i64(RF_PAD_ROWS, tile->m - done);
        RF_TRY(multiply_padded(p, &t));
    }
    if (tile->k0 + tile->k >= p->k) {
        epilogue(p, tile);
    }
fail:
    return status;
}

/* Tile `i` of the terms from k0: rows fastest, so that threads share a panel. */
static rf_tile tile_at(const rf_product *p, int64_t i, int64_t k0)
{
    const int64_t row = i % p->n_rows, col = i / p->n_rows;
    rf_tile t = {.m0 = row * p->tile_rows,
                 .n0 = col * p->tile_cols,
                 .k0 = k0,
                 .k = rf_min_i64(p->chunk, p->k - k0)};
    t.m = rf_min_i64(p->tile_rows, p->m - t.m0);
    t.n = col == p->n_cols - 1 ? p->n - t.n0 : p->tile_cols;
    t.panel = rf_panel_at(p, col, t.k);
    t.stage = p->work + rf_cpu_thread() * rf_product_thread_floats();
    t.padded_c = (float *)t.stage + RF_STAGE_FLOATS;
    return t;
}

static rf_status multiply_all(const rf_product *p)
{
    rf_status worst = RF_OK;
#pragma omp parallel num_threads(p->n_threads)
    {
        int64_t k0 = 0;
        do {
            if (p->has_panels) {
                rf_pack_panels(p, k0, rf_min_i64(p->chunk, p->k - k0));
            }
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < p->n_rows * p->n_cols; i++) {
                const rf_tile t = tile_at(p, i, k0);
                const rf_status st = multiply_tile(p, &t);
                if (st != RF_OK) {
#pragma omp atomic write
                    worst = st;
                }
            }
            k0 += rf_max_i64(1, p->chunk);
        } while (k0 < p->k);
    }
    return worst;
}

rf_status rf_cpu_matmul_as(rf_stream *s, const rf_matmul_args *args, rf_product_kind kind)
{
    rf_status status = RF_OK;
    rf_product p = plan_product(args, kind, rf_cpu_n_threads(s));
    const int64_t panels = rf_product_panel_floats(&p);
    void *memory = NULL;
    RF_TRY(rf_cpu_scratch(
        s, (size_t)(panels + p.n_threads * rf_product_thread_floats()) * sizeof(float), &memory));
    p.panels = memory;
    p.work = (float *)memory + panels;
    const rf_status worst = multiply_all(&p);
    if (worst != RF_OK) {
        RF_FAIL(worst, "matrix product [%" PRId64 " x %" PRId64 "] over %" PRId64 ": oneDNN failed",
                p.m, p.n, p.k);
    }
fail:
    return status;
}

rf_status rf_cpu_matmul(rf_stream *s, const rf_matmul_args *args)
{
    const rf_product_kind of_bf16 = rf_cpu_bf16_is_fast() ? RF_PRODUCT_BF16 : RF_PRODUCT_ROUNDED;
    return rf_cpu_matmul_as(s, args, args->b.dtype == RF_BF16 ? of_bf16 : RF_PRODUCT_F32);
}
