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

enum {
    LONG_K = 8192,
    SUM_K = 12288, /* more terms are several sums side by side: large tiles of few elements */
    WIDE_COLS = 1024,
};

_Static_assert(RF_TILE_COLS % RF_BLOCK_COLS == 0 && WIDE_COLS % RF_BLOCK_COLS == 0 &&
                   RF_MAX_TILE_COLS % RF_BLOCK_COLS == 0,
               "tiles begin where blocks do");

/* A tile at most, and what one costs by itself, in rows. oneDNN packs what is transposed once a
 * tile, and reads and writes c once a step of K. */
typedef struct tile_limits {
    int64_t rows, cols, cost;
} tile_limits;

static tile_limits limits_of(const rf_product *p)
{
    const tile_limits small = {RF_TILE_ROWS, RF_TILE_COLS, 16};
    const tile_limits tall = {44 * RF_PAD_ROWS, 2 * RF_TILE_COLS, 48};
    const rf_matmul_args *args = p->args;
    if (p->has_panels || args->alpha != 1.0f) {
        return small; /* alpha: oneDNN multiplies by it before the sum or behind, by the tile */
    }
    if (args->trans_a == RF_TRANS) {
        const int64_t rows = rf_min_i64(p->m, tall.rows), cols = rf_min_i64(p->n, tall.cols);
        return rf_cpu_sgemm_takes_trans_a(rows, cols) ? tall : small;
    }
    if (args->trans_b == RF_TRANS) {
        const int64_t cols = p->n / 4 / WIDE_COLS * WIDE_COLS; /* some tiles for each row of them */
        return (tile_limits){22 * RF_PAD_ROWS,
                             rf_min_i64(rf_max_i64(cols, WIDE_COLS), RF_MAX_TILE_COLS), 64};
    }
    return p->k >= LONG_K ? tall : small;
}

/* Rows of a tile: those with which all threads are done first, if they take tiles of one size by
 * turns. */
static int64_t choose_rows(const rf_product *p, const tile_limits *limits)
{
    int64_t best = 0, least = INT64_MAX;
    for (int64_t rows = RF_PAD_ROWS; rows <= limits->rows; rows += p->row_step) {
        const int64_t n_tiles = rf_ceil_div(p->m, rows) * p->n_cols * p->n_sums;
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
    const bool is_one = p.has_panels || args->trans_a == RF_TRANS;
    p.n_sums = is_one ? 1 : rf_max_i64(1, rf_ceil_div(p.k, SUM_K));
    const tile_limits limits = limits_of(&p);
    p.tile_cols = limits.cols;
    p.is_tall = limits.rows > RF_TILE_ROWS;
    p.n_cols = rf_max_i64(1, rf_ceil_div(p.n, p.tile_cols));
    if (p.n_cols > 1 && p.n - (p.n_cols - 1) * p.tile_cols < RF_PAD_COLS) {
        p.n_cols--; /* the last tile takes a narrow rest along */
    }
    p.tile_rows = choose_rows(&p, &limits);
    p.n_rows = rf_ceil_div(p.m, p.tile_rows);
    p.chunk = rf_ceil_div(rf_ceil_div(p.k, p.n_sums), RF_K_STEP) * RF_K_STEP;
    if (p.has_panels) { /* panels of so many terms at once that they stay small */
        int64_t most = RF_MAX_PANEL_FLOATS / rf_max_i64(p.n, RF_PAD_COLS) / RF_K_STEP * RF_K_STEP;
        p.chunk = rf_min_i64(p.k, rf_max_i64(RF_K_STEP, most));
    }
    return p;
}

/* Of one block of rows. */
static void epilogue(const rf_product *p, int64_t m0, int64_t m, int64_t n0, int64_t n)
{
    const rf_matmul_args *args = p->args;
    const float *bias = args->bias.data;
    for (int64_t i = m0; i < m0 + m && (bias != NULL || args->act != RF_ACT_NONE); i++) {
        float *row = rf_product_c(p, i, n0);
        rf_cpu_bias_act(args->act, row, bias == NULL ? NULL : bias + n0, row, n);
    }
    if (p->finish != NULL) {
        p->finish->block(p->finish->state, m0, m, n0, n);
    }
}

/* Whether a is copied, although all `rows` rows of n columns exist. */
static bool is_staged(const rf_product *p, int64_t rows, int64_t n)
{
    return p->kind == RF_PRODUCT_ROUNDED ||
           (p->is_tall && p->args->trans_a == RF_TRANS && !rf_cpu_sgemm_takes_trans_a(rows, n));
}

/* Terms k0 .. k0 + n_terms - 1 of `rows` rows (whole 48s) of a tile whose first t->m exist. */
static rf_status multiply(const rf_product *p, const rf_tile *t, int64_t rows, int64_t k0,
                          int64_t n_terms, float beta, float *c, int64_t c_stride)
{
    const rf_matmul_args *args = p->args;
    const int64_t n = p->is_narrow ? RF_PAD_COLS : t->n;
    if (p->kind == RF_PRODUCT_BF16) {
        rf_stage_bf16(p, t, rows, k0, n_terms);
        return rf_cpu_bf16_tile(rows, n, n_terms, args->alpha, t->stage, n_terms,
                                (const uint16_t *)t->panel + (k0 - t->k0) * n, n, beta, c,
                                c_stride);
    }
    const float *a = rf_element(&args->a, args->trans_a, t->m0, k0);
    int64_t a_stride = args->a.stride[0];
    rf_trans trans_a = args->trans_a;
    if (rows != t->m || is_staged(p, rows, n)) {
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

/* Every term of the tile. */
static rf_status multiply_chunk(const rf_product *p, const rf_tile *t, int64_t rows, float *c,
                                int64_t c_stride)
{
    rf_status status = RF_OK;
    int64_t done = 0;
    do { /* once at least: a product of no terms is zero */
        const int64_t step = rf_min_i64(RF_K_STEP, t->k - done);
        RF_TRY(multiply(p, t, rows, t->k0 + done, step, done == 0 ? t->beta : 1.0f, c, c_stride));
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
    memset(t->padded_c, 0, (size_t)(n_rows * n) * sizeof *t->padded_c);
    for (int64_t i = 0; i < t->m && t->beta != 0.0f; i++) {
        memcpy(t->padded_c + i * n, t->c + i * t->c_stride, row_bytes);
    }
    RF_TRY(multiply_chunk(p, t, n_rows, t->padded_c, n));
    for (int64_t i = 0; i < t->m; i++) {
        memcpy(t->c + i * t->c_stride, t->padded_c + i * n, row_bytes);
    }
fail:
    return status;
}

/* Rows of what is left of a tile that are multiplied at once: its whole steps (with a copy of a, as
 * many as that has room for), then the rest; all 48 by 48 where columns are few. */
static int64_t rows_at_once(const rf_product *p, const rf_tile *left)
{
    const int64_t whole = p->is_narrow ? 0 : left->m / p->row_step * p->row_step;
    if (whole == 0) {
        return rf_min_i64(RF_PAD_ROWS, left->m);
    }
    return is_staged(p, whole, left->n) ? rf_min_i64(RF_TILE_ROWS, whole) : whole;
}

static rf_status multiply_tile(const rf_product *p, const rf_tile *tile)
{
    rf_status status = RF_OK;
    rf_tile t = *tile;
    for (int64_t done = 0; done < tile->m; done += t.m) {
        t.m0 = tile->m0 + done;
        t.c = tile->c + done * t.c_stride;
        t.m = tile->m - done;
        t.m = rows_at_once(p, &t);
        if (p->is_narrow || t.m % p->row_step != 0) {
            RF_TRY(multiply_padded(p, &t));
        } else {
            RF_TRY(multiply_chunk(p, &t, t.m, t.c, t.c_stride));
        }
    }
    if (p->n_sums == 1 && tile->k0 + tile->k >= p->k) {
        for (int64_t i = 0; i < tile->m; i += RF_BLOCK_ROWS) {
            epilogue(p, tile->m0 + i, rf_min_i64(RF_BLOCK_ROWS, tile->m - i), tile->n0, tile->n);
        }
    }
fail:
    return status;
}

/* Tile `i` of the terms from k0: rows fastest, so that threads share a panel. */
static rf_tile tile_at(const rf_product *p, int64_t i, int64_t k0)
{
    const int64_t row = i % p->n_rows, col = i / p->n_rows % p->n_cols;
    const int64_t sum = i / (p->n_rows * p->n_cols);
    rf_tile t = {.m0 = row * p->tile_rows, .n0 = col * p->tile_cols, .k0 = k0 + sum * p->chunk};
    t.m = rf_min_i64(p->tile_rows, p->m - t.m0);
    t.n = col == p->n_cols - 1 ? p->n - t.n0 : p->tile_cols;
    t.k = rf_min_i64(p->chunk, p->k - t.k0);
    if (p->n_sums > 1) {
        t.c = p->sums + (sum * p->m + t.m0) * p->n + t.n0;
        t.c_stride = p->n;
    } else {
        t.c = rf_product_c(p, t.m0, t.n0);
        t.c_stride = p->args->c.stride[0];
        t.beta = k0 > 0 ? 1.0f : p->args->beta;
    }
    t.panel = rf_panel_at(p, col, t.k);
    t.stage = p->work + rf_cpu_thread() * rf_product_thread_floats();
    t.padded_c = (float *)t.stage + RF_STAGE_FLOATS;
    return t;
}

/* Row `i` of c = beta c + the sums in order. */
static void add_sums_of_row(const rf_product *p, int64_t i)
{
    const float beta = p->args->beta;
    float *c = rf_product_c(p, i, 0);
    for (int64_t j = 0; j < p->n; j++) {
        c[j] = beta == 0.0f ? 0.0f : beta * c[j];
    }
    for (int64_t sum = 0; sum < p->n_sums; sum++) {
        const float *more = p->sums + (sum * p->m + i) * p->n;
        for (int64_t j = 0; j < p->n; j++) {
            c[j] += more[j];
        }
    }
}

/* By all threads of a parallel region together. */
static void add_sums(const rf_product *p)
{
#pragma omp for schedule(static)
    for (int64_t i = 0; i < p->m; i += RF_BLOCK_ROWS) {
        const int64_t m = rf_min_i64(RF_BLOCK_ROWS, p->m - i);
        for (int64_t row = i; row < i + m; row++) {
            add_sums_of_row(p, row);
        }
        epilogue(p, i, m, 0, p->n);
    }
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
            for (int64_t i = 0; i < p->n_rows * p->n_cols * p->n_sums; i++) {
                const rf_tile t = tile_at(p, i, k0);
                const rf_status st = multiply_tile(p, &t);
                if (st != RF_OK) {
#pragma omp atomic write
                    worst = st;
                }
            }
            k0 += rf_max_i64(1, p->n_sums * p->chunk);
        } while (k0 < p->k);
        if (p->n_sums > 1) {
            add_sums(p);
        }
    }
    return worst;
}

/* Floats of each part of a product's memory: multiples of 16, so that all stay aligned. */
typedef struct product_memory {
    int64_t panels, sums, work;
} product_memory;

static product_memory memory_of(const rf_product *p)
{
    return (product_memory){.panels = rf_product_panel_floats(p),
                            .sums =
                                p->n_sums > 1 ? rf_ceil_div(p->n_sums * p->m * p->n, 16) * 16 : 0,
                            .work = p->n_threads * rf_product_thread_floats()};
}

static size_t bytes_of(const rf_product *p)
{
    const product_memory floats = memory_of(p);
    return (size_t)(floats.panels + floats.sums + floats.work) * sizeof(float);
}

static rf_status run_product(rf_product *p, void *memory)
{
    rf_status status = RF_OK;
    const product_memory floats = memory_of(p);
    p->panels = memory;
    p->sums = (float *)memory + floats.panels;
    p->work = p->sums + floats.sums;
    const rf_status worst = multiply_all(p);
    if (worst != RF_OK) {
        RF_FAIL(worst, "matrix product [%" PRId64 " x %" PRId64 "] over %" PRId64 ": oneDNN failed",
                p->m, p->n, p->k);
    }
fail:
    return status;
}

static rf_product_kind kind_of(const rf_matmul_args *args)
{
    const rf_product_kind of_bf16 = rf_cpu_bf16_is_fast() ? RF_PRODUCT_BF16 : RF_PRODUCT_ROUNDED;
    return args->b.dtype == RF_BF16 ? of_bf16 : RF_PRODUCT_F32;
}

size_t rf_cpu_matmul_bytes(rf_stream *s, const rf_matmul_args *args)
{
    const rf_product p = plan_product(args, kind_of(args), rf_cpu_n_threads(s));
    return bytes_of(&p);
}

rf_status rf_cpu_matmul_then(rf_stream *s, const rf_matmul_args *args, const rf_finish *finish,
                             void *memory)
{
    rf_product p = plan_product(args, kind_of(args), rf_cpu_n_threads(s));
    p.finish = finish;
    return run_product(&p, memory);
}

rf_status rf_cpu_matmul_as(rf_stream *s, const rf_matmul_args *args, rf_product_kind kind)
{
    rf_status status = RF_OK;
    rf_product p = plan_product(args, kind, rf_cpu_n_threads(s));
    void *memory;
    RF_TRY(rf_cpu_scratch(s, bytes_of(&p), &memory));
    RF_TRY(run_product(&p, memory));
fail:
    return status;
}

rf_status rf_cpu_matmul(rf_stream *s, const rf_matmul_args *args)
{
    return rf_cpu_matmul_as(s, args, kind_of(args));
}
