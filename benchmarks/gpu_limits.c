/* What the kernels of cuda/ should cost, computed: the bytes and operations of each, and the time
 * that a GPU's memory or its arithmetic needs for them, as Markdown (docs/gpu.md). Nothing is
 * measured, and no GPU is needed. */
#include "gpu_limits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double INFINIBAND = 50e9; /* 400 Gb/s a GPU, bytes a second each way */

/* ---- a step -------------------------------------------------------------------------------------
 */

typedef struct shape {
    double width, latents, batch, local; /* rows of all ranks, of this one */
    double active;                       /* entries of a token */
    double window;                       /* more entries of it, near JumpReLU's thresholds */
    double measured[3];                  /* canonical dots a token, by rf_products */
    double touched;                      /* latents that a batch reaches */
    rf_products products;
} shape;

static double matrix_bytes(const shape *s)
{
    return 4.0 * s->width * s->latents;
}

/* Rows of W that a batch reaches. */
static double reached_bytes(const shape *s)
{
    return 4.0 * s->width * s->touched;
}

/* The product alone, whole, from memory to memory. */
static work bare_product(const shape *s, rf_products products)
{
    const double e = products == RF_PRODUCTS_BF16 ? 2.0 : 4.0;
    work w = stream("bare product", 2.0 * s->local * s->width * s->latents,
                    e * s->width * (s->local + s->latents) + 4.0 * s->local * s->latents);
    w.products = products;
    return w;
}

/* The products of an encode, which stay in the cache, and the bounds of their errors: norms of both
 * operands, how far they are rounded, and bf16 copies. */
static void add_products(works *w, const shape *s)
{
    const double e = s->products == RF_PRODUCTS_BF16 ? 2.0 : 4.0;
    const double elems = s->width * (s->local + s->latents);
    const bool is_rounded = s->products != RF_PRODUCTS_F32;
    work bounds =
        stream("bounds: norms and roundings of W and x", is_rounded ? 5.0 * elems : 2.0 * elems,
               4.0 * elems + (e < 4.0 ? e * elems : 0.0));
    bounds.asked += is_rounded ? 4.0 * elems : 0.0;
    add(w, bounds);
    work product = stream("products, by tiles", 2.0 * s->local * s->width * s->latents, e * elems);
    product.asked += 4.0 * s->local * s->latents;
    product.products = s->products;
    add(w, product);
}

/* A list's pass over the products: 4 FLOP each, from the cache; `entries` of `bytes` are written.
 */
static work walk(const char *name, const shape *s, double entries, double bytes)
{
    work w = stream(name, 4.0 * s->local * s->latents, entries * bytes);
    w.asked += 4.0 * s->local * s->latents;
    return w;
}

/* Rows of W for each of `n` entries. */
static work rows_of_w(const char *name, const shape *s, double n, double rest)
{
    return reread(name, 2.0 * n * s->width, 4.0 * s->width * n, reached_bytes(s), rest);
}

static void add_topk(works *w, const shape *s)
{
    const double k = s->active, appended = k * (1.0 + log(s->latents / k));
    add_products(w, s);
    add(w, walk("TOPK: candidates", s, s->local * appended, 12.0));
    add(w, rows_of_w("TOPK: canonical dots", s, s->local * s->measured[s->products],
                     16.0 * s->local * k));
}

/* Pools of 8 bytes an entry: counted and cut again after every fourth tile, of which there are
 * about 64; in the end measured, counted twice, cut and packed. */
static void add_batch_topk(works *w, const shape *s)
{
    enum { PRUNES = 17 };
    const double n = s->local * s->active, live = 2.0 * n;
    add_products(w, s);
    add(w, walk("BATCH_TOPK: candidates", s, 2.0 * live, 8.0));
    add(w, reread("BATCH_TOPK: counts and cuts", 8.0 * PRUNES * live, 24.0 * PRUNES * live,
                  8.0 * live, 0.0));
    add(w,
        rows_of_w("BATCH_TOPK: canonical dots", s, s->local * s->measured[s->products], 60.0 * n));
}

/* POSITIVE and WINDOW: to a pool, and on to the codes. */
static void add_values(works *w, const shape *s)
{
    add_products(w, s);
    add(w, walk("POSITIVE: values", s, s->local * s->active, 24.0));
    if (s->window > 0.0) {
        add(w, walk("WINDOW: values", s, s->local * s->window, 24.0));
    }
}

static work index_of(const shape *s, double n)
{
    const double passes = ceil(log2(s->latents) / 8.0);
    const double asked = n * (16.0 + 20.0 * passes + 20.0), least = 12.0 * n;
    work w = stream("index: sort by latent", 0.0, 8.0 * s->latents);
    w.asked += asked;
    w.least += least;
    w.most += 28.0 * n <= kept_bytes() ? least : asked;
    return w;
}

/* Rows of x and g for each entry of all ranks; both gradients of the latents that have any. */
static work by_latent(const shape *s, double n)
{
    const double pieces = ceil(s->width / 256.0), both = 2.0 * reached_bytes(s);
    work w = reread("gradients by latent", 4.0 * n * s->width + 4.0 * s->touched * s->width,
                    8.0 * s->width * n, 8.0 * s->width * s->batch, both + 16.0 * n);
    w.asked += 16.0 * n * (pieces - 1.0) + both;
    return w;
}

/* Adam on both matrices: w, g, m, v read and w, m, v written; where no token came g is not read. */
static work update(const shape *s)
{
    const double rows = 7.0 * s->touched + 6.0 * (s->latents - s->touched);
    work w =
        stream("update: Adam, both matrices", 34.0 * s->width * s->latents, 8.0 * s->width * rows);
    w.asked += 5.0 * matrix_bytes(s); /* projection and renormalisation of W_dec */
    return w;
}

/* What every sparse step does behind its codes. `n`: entries of this rank. */
static void add_backward(works *w, const shape *s)
{
    const double rows = 4.0 * s->width * s->local, n = s->local * s->active;
    const double all = s->batch * s->active;
    add(w, rows_of_w("decode", s, n, rows + 8.0 * n));
    add(w, stream("tokens: normalise, residual, spread", 12.0 * s->width * s->local, 7.0 * rows));
    add(w, rows_of_w("gradients of values", s, n + s->local * s->window, rows + 8.0 * n));
    add(w, index_of(s, all));
    add(w, by_latent(s, all));
    add(w, stream("gradient of b_dec", 2.0 * s->width * (s->batch + s->touched),
                  4.0 * s->width * s->batch + reached_bytes(s)));
    add(w, update(s));
}

static void add_penalty(works *w, const shape *s)
{
    add(w, stream("penalty", 8.0 * s->local * s->active, 20.0 * s->local * s->active));
}

/* One of the dense path's products: operands stay fp32 in memory, and bf16 is taken for TF32. */
static work dense_product(const char *name, const shape *s, double bytes, double asked)
{
    work w = stream(name, 2.0 * s->local * s->latents * s->width, bytes);
    w.asked += asked;
    w.products = s->products == RF_PRODUCTS_F32 ? RF_PRODUCTS_F32 : RF_PRODUCTS_TF32;
    return w;
}

/* Five products of micro-batches of 2048 tokens, and what stands between them. */
static void add_dense(works *w, const shape *s)
{
    const double all = s->local * s->latents, fd = matrix_bytes(s);
    const double parts = ceil(s->local / 2048.0), rows = 4.0 * s->width * s->local;
    const double sums = rows + (2.0 * parts - 1.0) * fd;
    add(w, dense_product("product: pre-activations", s, rows + parts * fd + 4.0 * all, 0.0));
    add(w, stream("values and their counts", 6.0 * all, 12.0 * all));
    add(w, dense_product("product: reconstruction", s, rows + parts * fd + 4.0 * all, 0.0));
    add(w, stream("tokens: normalise, residual, spread", 12.0 * s->width * s->local, 7.0 * rows));
    add(w, dense_product("product: gradient of W_dec", s, sums + 4.0 * all, 0.0));
    add(w, dense_product("product: gradient of values, by tiles", s, rows + parts * fd, 4.0 * all));
    work act = stream("through the act, sums by latent", 6.0 * all, 4.0 * all);
    act.asked += 12.0 * all;
    add(w, act);
    add(w, dense_product("product: gradient of W_enc", s, sums, 4.0 * all));
    add(w, stream("norm of gradients, gradient of b_dec", 6.0 * s->width * s->latents, 3.0 * fd));
    add(w, update(s));
}

/* ---- steps, printed -----------------------------------------------------------------------------
 */

typedef void adder(works *w, const shape *s);

static void add_topk_step(works *w, const shape *s)
{
    add_topk(w, s);
    add_backward(w, s);
}

static void add_batch_topk_step(works *w, const shape *s)
{
    add_batch_topk(w, s);
    add_backward(w, s);
}

static void add_values_step(works *w, const shape *s)
{
    add_values(w, s);
    add_penalty(w, s);
    add_backward(w, s);
}

static works works_of(adder *step, const shape *s)
{
    works w = {.n = 0};
    step(&w, s);
    return w;
}

/* Time (at least), the bare product's, and tokens a second. */
static void print_whole(adder *step, shape s, rf_products products)
{
    s.products = products;
    const works w = works_of(step, &s);
    const work bare = bare_product(&s, products);
    printf("| %s | %.2f |", rf_products_names[products], most_of_all(&w) * 1e-9);
    for (int i = 0; i < N_DEVICES; i++) {
        const device *d = &devices[i];
        const double t = seconds_of_all(&w, d, false), least = seconds_of_all(&w, d, true);
        const double product = seconds(&bare, d, false);
        printf(" %.2f (%.2f) / %.2f = %.2f (%.2f); %.2f |", t * 1e3, least * 1e3, product * 1e3,
               t / product, least / product, s.batch / t * 1e-6);
    }
    printf("\n");
}

static void print_whole_head(void)
{
    printf("| products | memory, GB |");
    for (int i = 0; i < N_DEVICES; i++) {
        printf(" %s: step / product, ms; Mtokens/s |", devices[i].name);
    }
    printf("\n|---|---|---|---|---|\n");
}

static void print_step(const char *title, adder *step, const shape *s, int n_precisions)
{
    static const rf_products order[] = {RF_PRODUCTS_F32, RF_PRODUCTS_TF32, RF_PRODUCTS_BF16};
    const works w = works_of(step, s);
    printf("\n### %s\n\n", title);
    print_works(&w);
    printf("\n");
    print_whole_head();
    for (int i = 0; i < n_precisions; i++) {
        print_whole(step, *s, order[i]);
    }
}

/* How tiles are planned (cuda_encode.c): a third of the cache holds the products of a tile. */
static double n_tiles(const shape *s, const device *d)
{
    const double floats = floor(d->cache / 3.0 / 4.0);
    const double rows = fmin(s->local, fmax(1024.0, floor(floats / 512.0 / 128.0) * 128.0));
    const double tile = fmax(256.0, floor(floats / rows / 256.0) * 256.0);
    return ceil(s->local / rows) * ceil(s->latents / tile);
}

static void print_tiles(const shape *s)
{
    printf("\nTiles of an encode:");
    for (int i = 0; i < N_DEVICES; i++) {
        printf(" %s %.0f%s", devices[i].name, n_tiles(s, &devices[i]),
               i + 1 < N_DEVICES ? "," : ".");
    }
    printf("\n");
}

/* ---- optimisers ---------------------------------------------------------------------------------
 */

static void print_optimisers(const shape *s)
{
    enum { ITERATIONS = 5 };
    works w = {.n = 0};
    const double both = 2.0 * matrix_bytes(s), d = s->width, elems = 2.0 * d * s->latents;
    add(&w, stream("Adam: w g m v, written w m v", 17.0 * elems, 7.0 * both));
    add(&w, stream("Signum: w g m, written w m", 6.0 * elems, 5.0 * both));
    add(&w, stream("schedule-free: w g m v average, all but g written", 22.0 * elems, 9.0 * both));
    /* of each matrix x: x^T x, its square, x times that, and a blend, five times */
    work muon =
        stream("Muon: fp32 products of five iterations",
               ITERATIONS * (4.0 * d * elems + 2.0 * 2.0 * d * d * d), ITERATIONS * 6.0 * both);
    add(&w, muon);
    add(&w, stream("Muon: momentum, norm, scales, update", 20.0 * elems, 18.0 * both));
    printf("\n### Optimisers, both matrices, every row touched\n\n");
    print_works(&w);
}

/* ---- ranks --------------------------------------------------------------------------------------
 */

/* What a rank receives in a sparse step: rows as seen, g, flags and losses; latents, values and
 * gradients of entries, and where rows begin. */
static double exchanged(const shape *s, double ranks)
{
    const double others = s->batch * (ranks - 1.0) / ranks;
    return others * (8.0 * s->width + 5.0 + 8.0 + 12.0 * s->active);
}

static void print_ranks(shape s, double ranks, double batch)
{
    s.batch = batch;
    s.local = batch / ranks;
    const works w = works_of(add_topk_step, &s);
    const double bytes = exchanged(&s, ranks);
    const double gradients = 2.0 * (ranks - 1.0) / ranks * 2.0 * matrix_bytes(&s);
    printf("| %.0f on %.0f | %.0f | %.0f |", batch, ranks, bytes * 1e-6, gradients * 1e-6);
    for (int i = 0; i < N_DEVICES; i++) {
        const double t = seconds_of_all(&w, &devices[i], false), near = bytes / devices[i].link;
        printf(" %.2f + %.2f, or %.2f; %.1f |", t * 1e3, near * 1e3, bytes / INFINIBAND * 1e3,
               batch / (t + near) * 1e-6);
    }
    printf("\n");
}

static void print_exchange(const shape *s)
{
    printf("\n### Ranks\n\n| tokens on ranks | a rank receives, MB | a sum of gradients would be, "
           "MB |");
    for (int i = 0; i < N_DEVICES; i++) {
        printf(" %s: step + exchange by NVLink, or by InfiniBand, ms; Mtokens/s |",
               devices[i].name);
    }
    printf("\n|---|---|---|---|---|---|\n");
    print_ranks(*s, 2.0, s->batch);
    print_ranks(*s, 8.0, s->batch);
    print_ranks(*s, 8.0, 8.0 * s->batch);
}

/* ---- command line -------------------------------------------------------------------------------
 */

static const char usage[] = "gpu_limits [--width D] [--latents F] [--batch B] [--k K] [--active N] "
                            "[--window N] [--touched SHARE]";

typedef struct options {
    double width, latents, batch, k, active, window, touched;
} options;

static rf_status read_options(int argc, char **argv, options *o)
{
    rf_status status = RF_OK;
    const struct {
        const char *name;
        double *value;
    } numbers[] = {{"--width", &o->width},    {"--latents", &o->latents},
                   {"--batch", &o->batch},    {"--k", &o->k},
                   {"--active", &o->active},  {"--window", &o->window},
                   {"--touched", &o->touched}};
    for (int i = 1; i < argc; i += 2) {
        double *value = NULL;
        for (size_t j = 0; j < sizeof numbers / sizeof *numbers; j++) {
            value = strcmp(argv[i], numbers[j].name) == 0 ? numbers[j].value : value;
        }
        RF_REQUIRE(value != NULL && i + 1 < argc, "usage: %s", usage);
        RF_TRY_DOING(rf_parse_f64(argv[i + 1], value), "%s", argv[i]);
    }
    RF_REQUIRE(o->width >= 1.0 && o->batch >= 1.0 && o->k >= 1.0 && o->k < o->latents &&
                   o->active >= 1.0 && o->active < o->latents && o->window >= 0.0 &&
                   o->touched > 0.0 && o->touched <= 1.0,
               "a number is out of range; usage: %s", usage);
fail:
    return status;
}

static shape shape_of(const options *o, double active)
{
    /* Canonical dots for k of 64: planted tokens as in bench_step with the bounds of k_encode.cu.
     */
    const double more[3] = {65.0 / 64.0, 113.0 / 64.0, 76.0 / 64.0};
    shape s = {.width = o->width,
               .latents = o->latents,
               .batch = o->batch,
               .local = o->batch,
               .active = active,
               .touched = o->touched * o->latents,
               .products = RF_PRODUCTS_TF32};
    for (int i = 0; i < 3; i++) {
        s.measured[i] = active * more[i];
    }
    return s;
}

static void print_all(const options *o)
{
    shape s = shape_of(o, o->k);
    printf("D %.0f, F %.0f, %.0f tokens, %.0f %% of latents touched\n", o->width, o->latents,
           o->batch, 100.0 * o->touched);
    print_step("TopK, kernels in TF32", add_topk_step, &s, 3);
    print_tiles(&s);
    print_step("BatchTopK, kernels in TF32", add_batch_topk_step, &s, 3);
    print_exchange(&s);
    s = shape_of(o, o->active);
    print_step("ReLU, sparse, kernels in TF32", add_values_step, &s, 3);
    s.window = o->window;
    print_step("JumpReLU, sparse, kernels in TF32", add_values_step, &s, 3);
    print_step("Dense path, kernels in TF32", add_dense, &s, 2); /* bf16 is taken for TF32 */
    print_optimisers(&s);
    print_models();
}

int main(int argc, char **argv)
{
    rf_status status = RF_OK;
    options o = {.width = 768,
                 .latents = 49152,
                 .batch = 4096,
                 .k = 64,
                 .active = 1000,
                 .window = 200,
                 .touched = 1.0};
    RF_TRY(read_options(argc, argv, &o));
    print_all(&o);
fail:
    if (status != RF_OK) {
        fprintf(stderr, "gpu_limits: %s\n", rf_error_text());
    }
    return status == RF_OK ? 0 : 1;
}
