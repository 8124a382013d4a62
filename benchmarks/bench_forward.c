/* Pictures a second through vision transformers with random weights, fp32 and bf16, beside the same
 * matrix products done bare in oneDNN on the same threads in the same run, attention's among them:
 * each on its own, whole, without biases, activations, norms or softmax. */
#include "refract/vit.h"

#include <dnnl.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIDE = 224, CHANNELS = 3, MAX_TENSORS = 512, MAX_REPEATS = 200, MAX_SEEN = 8 };
enum { ERROR_PICTURES = 2 };

/* ---- models --------------------------------------------------------------------------------- */

typedef struct model {
    const char *name, *family;
    int64_t patch, d, layers, heads, batch;
} model;

static const model models[] = {{"clip-b32", "clip", 32, 768, 12, 12, 64},
                               {"clip-b16", "clip", 16, 768, 12, 12, 16},
                               {"clip-l14", "clip", 14, 1024, 24, 16, 8},
                               {"dinov2-s14", "dinov2", 14, 384, 12, 6, 16}};
enum { N_MODELS = sizeof models / sizeof *models };

static int64_t n_patches(const model *m)
{
    return (SIDE / m->patch) * (SIDE / m->patch);
}

static int64_t n_tokens(const model *m)
{
    return n_patches(m) + 1;
}

typedef enum weight_kind {
    ONE_TOKEN, /* [1, 1, D] */
    VECTOR,    /* [D] */
    POSITIONS, /* [T, D] */
    POSITIONS_3D,
    PATCH,      /* .weight [D, C, P, P] */
    PATCH_BIAS, /* and .bias [D] */
    NORM,       /* .weight [D] of ones, .bias [D] */
    ONES,       /* [D] */
    SQUARE,     /* .weight [D, D], .bias */
    FC1,
    FC2,
} weight_kind;

typedef struct weight_name {
    const char *family, *name; /* with %d: once a layer */
    weight_kind kind;
} weight_name;

static const weight_name weight_names[] = {
    {"clip", "vision_model.embeddings.class_embedding", VECTOR},
    {"clip", "vision_model.embeddings.patch_embedding", PATCH},
    {"clip", "vision_model.embeddings.position_embedding.weight", POSITIONS},
    {"clip", "vision_model.pre_layrnorm", NORM},
    {"clip", "vision_model.encoder.layers.%d.layer_norm1", NORM},
    {"clip", "vision_model.encoder.layers.%d.self_attn.q_proj", SQUARE},
    {"clip", "vision_model.encoder.layers.%d.self_attn.k_proj", SQUARE},
    {"clip", "vision_model.encoder.layers.%d.self_attn.v_proj", SQUARE},
    {"clip", "vision_model.encoder.layers.%d.self_attn.out_proj", SQUARE},
    {"clip", "vision_model.encoder.layers.%d.layer_norm2", NORM},
    {"clip", "vision_model.encoder.layers.%d.mlp.fc1", FC1},
    {"clip", "vision_model.encoder.layers.%d.mlp.fc2", FC2},
    {"clip", "vision_model.post_layernorm", NORM},
    {"dinov2", "embeddings.cls_token", ONE_TOKEN},
    {"dinov2", "embeddings.patch_embeddings.projection", PATCH_BIAS},
    {"dinov2", "embeddings.position_embeddings", POSITIONS_3D},
    {"dinov2", "encoder.layer.%d.norm1", NORM},
    {"dinov2", "encoder.layer.%d.attention.attention.query", SQUARE},
    {"dinov2", "encoder.layer.%d.attention.attention.key", SQUARE},
    {"dinov2", "encoder.layer.%d.attention.attention.value", SQUARE},
    {"dinov2", "encoder.layer.%d.attention.output.dense", SQUARE},
    {"dinov2", "encoder.layer.%d.layer_scale1.lambda1", ONES},
    {"dinov2", "encoder.layer.%d.norm2", NORM},
    {"dinov2", "encoder.layer.%d.mlp.fc1", FC1},
    {"dinov2", "encoder.layer.%d.mlp.fc2", FC2},
    {"dinov2", "encoder.layer.%d.layer_scale2.lambda1", ONES},
    {"dinov2", "layernorm", NORM}};

/* A model's tensors. All of them borrow from two pools: how fast a product is does not depend on
 * its numbers. */
typedef struct weight_set {
    rf_named_tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][RF_NAME_LEN];
    int64_t n;
    float *random, *ones;
} weight_set;

static rf_status add_tensor(weight_set *w, const char *name, int layer, const char *suffix,
                            const float *pool, int n_dims, const int64_t *shape)
{
    rf_status status = RF_OK;
    char stem[RF_NAME_LEN];
    RF_REQUIRE(w->n < MAX_TENSORS, "more than %d tensors", MAX_TENSORS);
    rf_named_tensor *t = &w->tensors[w->n];
    const char *at = strstr(name, "%d");
    if (at == NULL) {
        RF_TRY(rf_format(stem, sizeof stem, "%s", name));
    } else {
        RF_TRY(rf_format(stem, sizeof stem, "%.*s%d%s", (int)(at - name), name, layer, at + 2));
    }
    RF_TRY(rf_format(w->names[w->n], RF_NAME_LEN, "%s%s", stem, suffix));
    *t = (rf_named_tensor){.name = w->names[w->n],
                           .dtype = RF_FILE_F32,
                           .n_dims = n_dims,
                           .n_elems = 1,
                           .bytes = (const unsigned char *)pool};
    for (int i = 0; i < n_dims; i++) {
        t->shape[i] = shape[i];
        t->n_elems *= shape[i];
    }
    t->n_bytes = 4 * t->n_elems;
    w->n++;
fail:
    return status;
}

static rf_status add_weight(weight_set *w, const model *m, const weight_name *name, int layer)
{
    rf_status status = RF_OK;
    const int64_t d = m->d, t = n_tokens(m), p = m->patch;
    const struct {
        int n_dims;
        int64_t shape[4], n_bias;
        const char *suffix;
    } forms[] = {[ONE_TOKEN] = {3, {1, 1, d}, 0, ""},
                 [VECTOR] = {1, {d}, 0, ""},
                 [POSITIONS] = {2, {t, d}, 0, ""},
                 [POSITIONS_3D] = {3, {1, t, d}, 0, ""},
                 [ONES] = {1, {d}, 0, ""},
                 [PATCH] = {4, {d, CHANNELS, p, p}, 0, ".weight"},
                 [PATCH_BIAS] = {4, {d, CHANNELS, p, p}, d, ".weight"},
                 [NORM] = {1, {d}, d, ".weight"},
                 [SQUARE] = {2, {d, d}, d, ".weight"},
                 [FC1] = {2, {4 * d, d}, 4 * d, ".weight"},
                 [FC2] = {2, {d, 4 * d}, d, ".weight"}};
    const weight_kind kind = name->kind;
    const float *pool = kind == NORM || kind == ONES ? w->ones : w->random;
    RF_TRY(add_tensor(w, name->name, layer, forms[kind].suffix, pool, forms[kind].n_dims,
                      forms[kind].shape));
    if (forms[kind].n_bias > 0) {
        RF_TRY(add_tensor(w, name->name, layer, ".bias", w->random, 1, &forms[kind].n_bias));
    }
fail:
    return status;
}

/* Normals of standard deviation 0.02, as models begin with. */
static rf_status fill_pools(weight_set *w, const model *m)
{
    rf_status status = RF_OK;
    const int64_t n = 4 * m->d * m->d;
    RF_ALLOC(w->random, n);
    RF_ALLOC(w->ones, m->d);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i += 4) {
        rf_random_normal4(1, RF_RANDOM_TEST, (uint64_t)i, 0, w->random + i);
        for (int j = 0; j < 4; j++) {
            w->random[i + j] *= 0.02f;
        }
    }
    for (int64_t i = 0; i < m->d; i++) {
        w->ones[i] = 1.0f;
    }
fail:
    return status;
}

static rf_status write_config(const model *m, const char *folder)
{
    rf_status status = RF_OK;
    char text[1024], path[RF_PATH_LEN];
    const bool is_clip = strcmp(m->family, "clip") == 0;
    RF_TRY(rf_format(
        text, sizeof text,
        "{\"model_type\": \"%s\", \"hidden_size\": %" PRId64 ", \"num_hidden_layers\": %" PRId64
        ", \"num_attention_heads\": %" PRId64 ", \"image_size\": %d, \"patch_size\": %" PRId64
        ", \"num_channels\": %d, \"intermediate_size\": %" PRId64
        ", \"mlp_ratio\": 4, \"hidden_act\": \"%s\", \"layer_norm_eps\": %s"
        ", \"qkv_bias\": true, \"use_swiglu_ffn\": false}",
        is_clip ? "clip_vision_model" : m->family, m->d, m->layers, m->heads, SIDE, m->patch,
        CHANNELS, 4 * m->d, is_clip ? "quick_gelu" : "gelu", is_clip ? "1e-5" : "1e-6"));
    RF_TRY(rf_path_join(path, folder, "config.json"));
    RF_TRY(rf_file_write_atomic(path, text, (int64_t)strlen(text)));
fail:
    return status;
}

static rf_status write_model(const model *m, const char *folder)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    weight_set *w = NULL;
    RF_ALLOC(w, 1);
    RF_TRY(fill_pools(w, m));
    for (size_t i = 0; i < sizeof weight_names / sizeof *weight_names; i++) {
        const bool of_layer = strstr(weight_names[i].name, "%d") != NULL;
        if (strcmp(weight_names[i].family, m->family) != 0) {
            continue;
        }
        for (int64_t layer = 0; layer < (of_layer ? m->layers : 1); layer++) {
            RF_TRY(add_weight(w, m, &weight_names[i], (int)layer));
        }
    }
    RF_TRY(write_config(m, folder));
    RF_TRY(rf_path_join(path, folder, "model.safetensors"));
    RF_TRY(rf_safetensors_write(path, w->tensors, w->n, NULL, 0));
fail:
    if (w != NULL) {
        rf_free(w->random);
        rf_free(w->ones);
    }
    rf_free(w);
    return status;
}

static void remove_model(const char *folder)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    char path[RF_PATH_LEN];
    for (int i = 0; i < 2; i++) {
        if (rf_path_join(path, folder, names[i]) == RF_OK) {
            unlink(path);
        }
    }
    rmdir(folder);
}

/* ---- bare products -------------------------------------------------------------------------- */

/* What they multiply: rows of activations, and every weight in memory of its own, as a model has
 * it. */
typedef struct bare {
    const model *m;
    int64_t batch;
    float *rows, *hidden, *out, *scores, *weights;
} bare;

static int64_t weights_of_layer(const model *m)
{
    return 12 * m->d * m->d;
}

static int64_t weights_of_patch(const model *m)
{
    return CHANNELS * m->patch * m->patch * m->d;
}

static rf_status alloc_floats(float **out, int64_t n)
{
    rf_status status = RF_OK;
    RF_ALLOC(*out, n);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        (*out)[i] = (float)(i % 1021) * 1e-3f - 0.5f;
    }
fail:
    return status;
}

static rf_status bare_create(const model *m, int64_t batch, int threads, bare *b)
{
    rf_status status = RF_OK;
    const int64_t t = n_tokens(m), n = batch * t;
    const int64_t patch_rows = batch * n_patches(m) * CHANNELS * m->patch * m->patch;
    *b = (bare){.m = m, .batch = batch};
    RF_TRY(alloc_floats(&b->rows, n * m->d));
    RF_TRY(alloc_floats(&b->hidden, rf_max_i64(n * 4 * m->d, patch_rows)));
    RF_TRY(alloc_floats(&b->out, n * m->d));
    RF_TRY(alloc_floats(&b->scores, threads * t * t));
    RF_TRY(alloc_floats(&b->weights, weights_of_patch(m) + m->layers * weights_of_layer(m)));
fail:
    return status;
}

static void bare_fini(bare *b)
{
    rf_free(b->rows);
    rf_free(b->hidden);
    rf_free(b->out);
    rf_free(b->scores);
    rf_free(b->weights);
}

/* c [m, n] = a [m, k] . b [k, n], on all threads. */
static void multiply(int64_t m, int64_t n, int64_t k, const float *a, const float *b, float *c)
{
    dnnl_sgemm('N', 'N', m, n, k, 1.0f, a, k, b, n, 0.0f, c, n);
}

static void attention_products(const bare *b)
{
    const int64_t d = b->m->d, t = n_tokens(b->m), heads = b->m->heads, width = d / heads;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < b->batch * heads; i++) {
        const int64_t at = i / heads * t * d + i % heads * width;
        float *scores = b->scores + omp_get_thread_num() * t * t;
        dnnl_sgemm('N', 'T', t, t, width, 1.0f, b->rows + at, d, b->hidden + at, d, 0.0f, scores,
                   t);
        dnnl_sgemm('N', 'N', t, width, t, 1.0f, scores, t, b->hidden + at, d, 0.0f, b->out + at, d);
    }
}

static void run_bare(const bare *b)
{
    const model *m = b->m;
    const int64_t d = m->d, n = b->batch * n_tokens(m);
    const float *w = b->weights;
    multiply(b->batch * n_patches(m), d, CHANNELS * m->patch * m->patch, b->hidden, w, b->rows);
    w += weights_of_patch(m);
    for (int64_t layer = 0; layer < m->layers; layer++, w += weights_of_layer(m)) {
        for (int64_t i = 0; i < 3; i++) { /* q, k and v */
            multiply(n, d, d, b->rows, w + i * d * d, b->out);
        }
        attention_products(b);
        multiply(n, d, d, b->rows, w + 3 * d * d, b->out);
        multiply(n, 4 * d, d, b->rows, w + 4 * d * d, b->hidden);
        multiply(n, d, 4 * d, b->hidden, w + 8 * d * d, b->out);
    }
}

static double flop_of(const model *m, int64_t batch)
{
    const double d = (double)m->d, t = (double)n_tokens(m);
    const double patch = (double)(CHANNELS * m->patch * m->patch);
    return (double)batch *
           (2.0 * (t - 1.0) * patch * d + (double)m->layers * (24.0 * t * d * d + 4.0 * t * t * d));
}

/* ---- errors of bf16 ------------------------------------------------------------------------- */

typedef struct seen {
    rf_hook hooks[MAX_SEEN];
    float *values[MAX_SEEN]; /* of the fp32 pass */
    double error[MAX_SEEN];  /* largest of a token, relative to its norm */
    int64_t n;
} seen;

static rf_status keep_values(void *user, const rf_hook_point *point, const rf_view *act,
                             rf_stream *s)
{
    rf_status status = RF_OK;
    float **values = user;
    (void)point;
    RF_ALLOC(*values, rf_view_n_elems(act));
    RF_TRY(rf_copy_out(s, *values, act->data, (size_t)rf_view_n_elems(act) * sizeof(float)));
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}

typedef struct comparison {
    const float *expected;
    double *error;
} comparison;

static rf_status compare_values(void *user, const rf_hook_point *point, const rf_view *act,
                                rf_stream *s)
{
    rf_status status = RF_OK;
    const comparison *c = user;
    const int64_t n = rf_view_n_elems(act), width = point->width;
    float *got = NULL;
    RF_ALLOC(got, n);
    RF_TRY(rf_copy_out(s, got, act->data, (size_t)n * sizeof *got));
    RF_TRY(rf_stream_synchronise(s));
    for (int64_t i = 0; i < n; i += width) {
        double off = 0.0, size = 0.0;
        for (int64_t j = i; j < i + width; j++) {
            const double e = (double)c->expected[j], d = (double)got[j] - e;
            off += d * d;
            size += e * e;
        }
        *c->error = fmax(*c->error, sqrt(off / size));
    }
fail:
    rf_free(got);
    return status;
}

/* Embeddings, the stream behind the first, middle and last block, and the pooled output. */
static rf_status measure_errors(rf_vit *exact, rf_vit *rounded, rf_stream *s, const rf_view *images,
                                seen *out)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = rf_vit_get_config(exact);
    comparison compared[MAX_SEEN];
    char name[RF_NAME_LEN];
    const int64_t layers[3] = {0, c->n_layers / 2, c->n_layers - 1};
    *out = (seen){.n = 5};
    RF_TRY(rf_vit_hook_find(c, "hook_embed", &out->hooks[0].point));
    for (int i = 0; i < 3; i++) {
        RF_TRY(rf_format(name, sizeof name, "blocks.%d.hook_resid_post", (int)layers[i]));
        RF_TRY(rf_vit_hook_find(c, name, &out->hooks[1 + i].point));
    }
    RF_TRY(rf_vit_hook_find(c, "hook_pooled", &out->hooks[4].point));
    for (int64_t i = 0; i < out->n; i++) {
        out->hooks[i].fn = keep_values;
        out->hooks[i].user = &out->values[i];
    }
    RF_TRY(rf_vit_forward(exact, s, images, out->hooks, out->n, RF_VIT_RUN_ALL, NULL));
    for (int64_t i = 0; i < out->n; i++) {
        compared[i] = (comparison){.expected = out->values[i], .error = &out->error[i]};
        out->hooks[i].fn = compare_values;
        out->hooks[i].user = &compared[i];
    }
    RF_TRY(rf_vit_forward(rounded, s, images, out->hooks, out->n, RF_VIT_RUN_ALL, NULL));
fail:
    for (int64_t i = 0; i < out->n; i++) {
        rf_free(out->values[i]);
    }
    return status;
}

/* ---- measuring ------------------------------------------------------------------------------ */

enum { BARE, FP32, BF16, N_RUNS };

typedef struct options {
    const char *model;
    int64_t batch, repeats, threads;
} options;

typedef struct bench {
    options o;
    rf_backend *be;
    rf_stream *s;
    rf_vit *vit[N_RUNS]; /* that of BARE is NULL */
    float *images;
    double seconds[N_RUNS][MAX_REPEATS];
    bare bare;
} bench;

static rf_status time_model(bench *b, const rf_view *images)
{
    rf_status status = RF_OK;
    for (int64_t i = -1; i < b->o.repeats; i++) { /* the first is not counted */
        for (int run = 0; run < N_RUNS; run++) {
            const double t0 = rf_now();
            if (run == BARE) {
                run_bare(&b->bare);
            } else {
                RF_TRY(rf_vit_forward(b->vit[run], b->s, images, NULL, 0, RF_VIT_RUN_ALL, NULL));
                RF_TRY(rf_stream_synchronise(b->s));
            }
            b->seconds[run][i < 0 ? 0 : i] = rf_now() - t0;
        }
    }
fail:
    return status;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(bench *b, const model *m, int64_t batch, const seen *errors)
{
    static const char *const names[N_RUNS] = {"bare products", "fp32", "bf16"};
    const double flop = flop_of(m, batch);
    const int64_t n = b->o.repeats;
    printf("\n%s, batch %lld, %.1f GFLOP a picture\n", m->name, (long long)batch,
           flop * 1e-9 / (double)batch);
    printf("  %-14s %8s %8s %8s %10s %9s %16s\n", "", "min s", "median", "max", "images/s",
           "GFLOP/s", "of bare (min)");
    for (int run = 0; run < N_RUNS; run++) {
        double *t = b->seconds[run];
        qsort(t, (size_t)n, sizeof *t, by_value);
        printf("  %-14s %8.3f %8.3f %8.3f %10.1f %9.0f %8.3f (%.3f)\n", names[run], t[0], t[n / 2],
               t[n - 1], (double)batch / t[n / 2], flop * 1e-9 / t[n / 2],
               b->seconds[BARE][n / 2] / t[n / 2], b->seconds[BARE][0] / t[0]);
    }
    printf("  bf16, largest error of a token:");
    for (int64_t i = 0; i < errors->n; i++) {
        printf("%s %s %.1e", i > 0 ? "," : "", errors->hooks[i].point.name, errors->error[i]);
    }
    printf("\n");
    fflush(stdout);
}

static rf_status open_models(bench *b, const model *m)
{
    rf_status status = RF_OK;
    char folder[RF_PATH_LEN] = "";
    const char *base = getenv("TMPDIR");
    RF_TRY(rf_format(folder, sizeof folder, "%s/bench-forward-XXXXXX", base ? base : "/tmp"));
    if (mkdtemp(folder) == NULL) {
        RF_FAIL(RF_ERR_IO, "cannot make a folder %s", folder);
    }
    RF_TRY(write_model(m, folder));
    RF_TRY(rf_vit_open(b->be, folder, NULL, &b->vit[FP32]));
    RF_TRY(rf_vit_open(b->be, folder, &(rf_vit_opts){.products = RF_PRODUCTS_BF16}, &b->vit[BF16]));
fail:
    remove_model(folder);
    return status;
}

static rf_status bench_model(bench *b, const model *m)
{
    rf_status status = RF_OK;
    const int64_t batch = b->o.batch > 0 ? b->o.batch : m->batch;
    const int64_t shape[4] = {batch, CHANNELS, SIDE, SIDE};
    seen errors;
    RF_TRY(open_models(b, m));
    RF_TRY(bare_create(m, batch, (int)b->o.threads, &b->bare));
    RF_TRY(alloc_floats(&b->images, batch * CHANNELS * SIDE * SIDE));
    for (int64_t i = 0; i < batch * CHANNELS * SIDE * SIDE; i += 4) {
        rf_random_normal4(2, RF_RANDOM_TEST, (uint64_t)i, 0, b->images + i);
    }
    const rf_view images = rf_view_nd(b->images, RF_F32, 4, shape);
    const rf_view few = rf_view_rows(images, 0, rf_min_i64(ERROR_PICTURES, batch));
    RF_TRY(time_model(b, &images));
    RF_TRY(measure_errors(b->vit[FP32], b->vit[BF16], b->s, &few, &errors));
    report(b, m, batch, &errors);
fail:
    for (int run = 0; run < N_RUNS; run++) {
        rf_vit_close(b->vit[run]);
        b->vit[run] = NULL;
    }
    rf_free(b->images);
    b->images = NULL;
    bare_fini(&b->bare);
    b->bare = (bare){0};
    return status;
}

/* ---- command line --------------------------------------------------------------------------- */

static const char usage[] = "bench_forward [--model NAME|all] [--batch N] [--repeats N] "
                            "[--threads N]";

static rf_status read_options(int argc, char **argv, options *o)
{
    rf_status status = RF_OK;
    for (int i = 1; i < argc; i += 2) {
        RF_REQUIRE(i + 1 < argc, "%s: a value is missing; usage: %s", argv[i], usage);
        if (strcmp(argv[i], "--model") == 0) {
            o->model = argv[i + 1];
            continue;
        }
        int64_t *value = strcmp(argv[i], "--batch") == 0     ? &o->batch
                         : strcmp(argv[i], "--repeats") == 0 ? &o->repeats
                         : strcmp(argv[i], "--threads") == 0 ? &o->threads
                                                             : NULL;
        RF_REQUIRE(value != NULL, "%s: no such option; usage: %s", argv[i], usage);
        RF_TRY_DOING(rf_parse_i64(argv[i + 1], value), "%s", argv[i]);
    }
    RF_REQUIRE(o->batch >= 0 && o->batch <= 4096 && o->repeats >= 1 && o->repeats <= MAX_REPEATS &&
                   o->threads >= 1 && o->threads <= 4096,
               "a number is out of range (repeats at most %d)", MAX_REPEATS);
fail:
    return status;
}

int main(int argc, char **argv)
{
    rf_status status = RF_OK;
    bench *b = NULL;
    bool found = false;
    RF_ALLOC(b, 1);
    b->o = (options){.model = "all", .repeats = 5, .threads = omp_get_max_threads()};
    RF_TRY(read_options(argc, argv, &b->o));
    omp_set_num_threads((int)b->o.threads);
    RF_TRY(rf_backend_cpu_create((int)b->o.threads, &b->be));
    RF_TRY(rf_stream_create(b->be, &b->s));
    printf("%s, %lld threads\n", rf_backend_describe(b->be), (long long)b->o.threads);
    for (size_t i = 0; i < N_MODELS; i++) {
        if (strcmp(b->o.model, "all") == 0 || strcmp(b->o.model, models[i].name) == 0) {
            RF_TRY(bench_model(b, &models[i]));
            found = true;
        }
    }
    RF_REQUIRE(found, "no model is called '%s'", b->o.model);
fail:
    if (status != RF_OK) {
        fprintf(stderr, "bench_forward: %s\n", rf_error_text());
    }
    if (b != NULL) {
        rf_stream_destroy(b->s);
        rf_backend_destroy(b->be);
    }
    rf_free(b);
    return status == RF_OK ? 0 : 1;
}
