/* What a forward pass of a vision transformer should cost. */
#include "gpu_limits.h"

#include <stdio.h>

typedef struct model {
    const char *name;
    double patch, width, layers, heads, tokens, pictures; /* of one pass */
} model;

static const model models[] = {{"CLIP B/32", 32, 768, 12, 12, 50, 256},
                               {"CLIP B/16", 16, 768, 12, 12, 197, 256}};
enum { N_MODELS = sizeof models / sizeof *models, PIXELS = 3 * 224 * 224 };

/* A linear map of m rows, with its bias. bf16: a is rounded first. */
static void add_linear(works *w, const char *name, rf_products products, double m, double n,
                       double k)
{
    const bool is_bf16 = products == RF_PRODUCTS_BF16;
    work one = stream(name, 2.0 * m * n * k, (is_bf16 ? 2.0 : 4.0) * (m * k + k * n) + 4.0 * m * n);
    one.products = products;
    add(w, one);
    if (is_bf16) {
        add(w, stream("its operand rounded", 0.0, 6.0 * m * k));
    }
}

/* Scores and mix of all heads; the pattern is written, and read for softmax and mix. */
static void add_attention(works *w, const model *m, rf_products products)
{
    const double n = m->pictures * m->tokens, d = m->width;
    const double pattern = m->pictures * m->heads * m->tokens * m->tokens;
    work product =
        stream("attention: scores, mix", 4.0 * n * m->tokens * d, 16.0 * n * d + 8.0 * pattern);
    product.products = products == RF_PRODUCTS_F32 ? RF_PRODUCTS_F32 : RF_PRODUCTS_TF32;
    add(w, product);
    work softmax = stream("attention: softmax", 6.0 * pattern, 8.0 * pattern);
    softmax.asked += 12.0 * pattern;
    add(w, softmax);
}

static void add_layer(works *w, const model *m, rf_products products)
{
    const double n = m->pictures * m->tokens, d = m->width;
    work norm = stream("two layer norms", 16.0 * n * d, 16.0 * n * d);
    norm.asked += 16.0 * n * d;
    add(w, norm);
    add_linear(w, "q", products, n, d, d);
    add_linear(w, "k", products, n, d, d);
    add_linear(w, "v", products, n, d, d);
    add_attention(w, m, products);
    add_linear(w, "o", products, n, d, d);
    add(w, stream("two sums to the stream", 2.0 * n * d, 24.0 * n * d));
    add_linear(w, "MLP in", products, n, 4.0 * d, d);
    add(w, stream("its bias and activation", 24.0 * n * d, 32.0 * n * d));
    add_linear(w, "MLP out", products, n, d, 4.0 * d);
}

/* Bytes of pictures to values, to rows of patches, to tokens. */
static void add_begin(works *w, const model *m, rf_products products)
{
    const double n = m->pictures * m->tokens, d = m->width, values = PIXELS * m->pictures;
    const double patches = n - m->pictures, row = 3.0 * m->patch * m->patch;
    add(w, stream("pixels to values", 0.0, 5.0 * values));
    add(w, stream("rows of patches", 0.0, 8.0 * values));
    add_linear(w, "patches", products, patches, d, row);
    add(w, stream("tokens, first layer norm", 9.0 * n * d, 16.0 * n * d));
}

static void print_pass(const model *m, rf_products products)
{
    works layer = {.n = 0}, begin = {.n = 0};
    add_layer(&layer, m, products);
    add_begin(&begin, m, products);
    printf("| %s | %.2f |", rf_products_names[products],
           (most_of_all(&layer) * m->layers + most_of_all(&begin)) / m->pictures * 1e-9);
    for (int i = 0; i < N_DEVICES; i++) {
        const device *d = &devices[i];
        const double t =
            m->layers * seconds_of_all(&layer, d, false) + seconds_of_all(&begin, d, false);
        double products_alone = 0.0; /* all of a pass */
        for (int j = 0; j < layer.n; j++) {
            products_alone += m->layers * layer.of[j].flop / d->flop[layer.of[j].products];
        }
        printf(" %.1f; %.1f; %.0f %% |", t * 1e3, m->pictures / t * 1e-3,
               100.0 * products_alone / t);
    }
    printf("\n");
}

static void print_model(const model *m)
{
    works w = {.n = 0};
    add_begin(&w, m, RF_PRODUCTS_TF32);
    add_layer(&w, m, RF_PRODUCTS_TF32);
    printf("\n### %s, %.0f pictures of 224 x 224, TF32: the beginning, and one of %.0f layers\n\n",
           m->name, m->pictures, m->layers);
    print_works(&w);
    printf("\n| whole pass | memory a picture, GB |");
    for (int i = 0; i < N_DEVICES; i++) {
        printf(" %s: ms; thousand pictures/s; products' share |", devices[i].name);
    }
    printf("\n|---|---|---|---|---|\n");
    print_pass(m, RF_PRODUCTS_F32);
    print_pass(m, RF_PRODUCTS_TF32);
    print_pass(m, RF_PRODUCTS_BF16);
}

void print_models(void)
{
    for (int i = 0; i < N_MODELS; i++) {
        print_model(&models[i]);
    }
}
