/* Pictures a second through vision transformers with random weights, fp32 and bf16 (on a GPU TF32
 * too), beside the same matrix products done bare in the same run, attention's among them: each on
 * its own, whole, without biases, activations, norms or softmax; by oneDNN on the same threads, or
 * by the GPU's library. */
#include "forward_bare.h"
#include "forward_model.h"
#include "refract/vit.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_REPEATS = 200, MAX_SEEN = 8 };
enum { ERROR_PICTURES = 2 };

/* ---- errors of narrow products -------------------------------------------------------------- */

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

/* What is timed; of the CPU the first N_CPU_RUNS. */
static const struct {
    const char *name;
    rf_products products;
    bool is_bare;
    int by, by_on_cpu; /* the run of bare products that it is measured by */
} runs[] = {
    {"bare products", RF_PRODUCTS_F32, true, 0, 0}, {"fp32", RF_PRODUCTS_F32, false, 0, 0},
    {"bf16", RF_PRODUCTS_BF16, false, 4, 0},        {"bare in tf32", RF_PRODUCTS_TF32, true, 3, 3},
    {"bare in bf16", RF_PRODUCTS_BF16, true, 4, 4}, {"tf32", RF_PRODUCTS_TF32, false, 3, 3}};
enum { FP32 = 1, N_CPU_RUNS = 3, N_RUNS = sizeof runs / sizeof *runs };

typedef struct options {
    const char *model;
    int64_t batch, repeats, threads;
    int device; /* rf_device */
} options;

typedef struct bench {
    options o;
    rf_comm *comm;
    rf_backend *be;
    rf_stream *s;
    bool on_cpu;
    rf_vit *vit[N_RUNS]; /* those of bare products are NULL */
    float *images;       /* on the device */
    double seconds[N_RUNS][MAX_REPEATS];
    bare bare;
    seen errors[N_RUNS];
} bench;

static int n_runs(const bench *b)
{
    return b->on_cpu ? N_CPU_RUNS : N_RUNS;
}

/* Whether it is measured against fp32. */
static bool has_errors(int run)
{
    return !runs[run].is_bare && run != FP32;
}

static rf_status time_model(bench *b, const rf_view *images)
{
    rf_status status = RF_OK;
    for (int64_t i = -1; i < b->o.repeats; i++) { /* the first is not counted */
        for (int run = 0; run < n_runs(b); run++) {
            const double t0 = rf_now();
            if (runs[run].is_bare) {
                RF_TRY(bare_run(&b->bare, runs[run].products));
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

static void report_errors(const bench *b, int run)
{
    const seen *errors = &b->errors[run];
    printf("  %s, largest error of a token:", runs[run].name);
    for (int64_t i = 0; i < errors->n; i++) {
        printf("%s %s %.1e", i > 0 ? "," : "", errors->hooks[i].point.name, errors->error[i]);
    }
    printf("\n");
}

static void report(bench *b, const model *m, int64_t batch)
{
    const double flop = flop_of(m, batch);
    const int64_t n = b->o.repeats;
    printf("\n%s, batch %lld, %.1f GFLOP a picture\n", m->name, (long long)batch,
           flop * 1e-9 / (double)batch);
    printf("  %-14s %8s %8s %8s %10s %9s %16s\n", "", "min s", "median", "max", "images/s",
           "GFLOP/s", "of bare (min)");
    for (int run = 0; run < n_runs(b); run++) {
        qsort(b->seconds[run], (size_t)n, sizeof *b->seconds[run], by_value);
    }
    for (int run = 0; run < n_runs(b); run++) {
        const double *t = b->seconds[run],
                     *floor_of = b->seconds[b->on_cpu ? runs[run].by_on_cpu : runs[run].by];
        printf("  %-14s %8.4f %8.4f %8.4f %10.1f %9.0f %8.3f (%.3f)\n", runs[run].name, t[0],
               t[n / 2], t[n - 1], (double)batch / t[n / 2], flop * 1e-9 / t[n / 2],
               floor_of[n / 2] / t[n / 2], floor_of[0] / t[0]);
    }
    for (int run = 0; run < n_runs(b); run++) {
        if (has_errors(run)) {
            report_errors(b, run);
        }
    }
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
    for (int run = 0; run < n_runs(b); run++) {
        if (!runs[run].is_bare) {
            RF_TRY(rf_vit_open(b->be, folder, &(rf_vit_opts){.products = runs[run].products},
                               &b->vit[run]));
        }
    }
fail:
    remove_model(folder);
    return status;
}

static rf_status make_images(bench *b, int64_t n)
{
    rf_status status = RF_OK;
    const size_t n_bytes = (size_t)n * sizeof(float);
    float *host = NULL;
    RF_ALLOC(host, n);
    for (int64_t i = 0; i < n; i += 4) {
        rf_random_normal4(2, RF_RANDOM_TEST, (uint64_t)i, 0, host + i);
    }
    RF_TRY(rf_memory_alloc(b->be, RF_MEMORY_DEVICE, n_bytes, (void **)&b->images));
    RF_TRY(rf_copy_in(b->s, b->images, host, n_bytes));
    RF_TRY(rf_stream_synchronise(b->s));
fail:
    rf_free(host);
    return status;
}

static bare bare_of_model(const bench *b, const model *m, int64_t batch)
{
    return (bare){.s = b->s,
                  .on_cpu = b->on_cpu,
                  .has_half = !b->on_cpu,
                  .batch = batch,
                  .tokens = n_tokens(m),
                  .patches = n_patches(m),
                  .patch_values = CHANNELS * m->patch * m->patch,
                  .width = m->d,
                  .layers = m->layers,
                  .heads = m->heads,
                  .threads = (int)b->o.threads};
}

static void close_models(bench *b)
{
    for (int run = 0; run < N_RUNS; run++) {
        rf_vit_close(b->vit[run]);
        b->vit[run] = NULL;
    }
    rf_memory_free(b->be, RF_MEMORY_DEVICE, b->images);
    b->images = NULL;
    bare_fini(&b->bare);
    b->bare = (bare){0};
}

static rf_status bench_model(bench *b, const model *m)
{
    rf_status status = RF_OK;
    const int64_t batch = b->o.batch > 0 ? b->o.batch : m->batch;
    const int64_t shape[4] = {batch, CHANNELS, SIDE, SIDE};
    RF_TRY(open_models(b, m));
    b->bare = bare_of_model(b, m, batch);
    RF_TRY(bare_init(&b->bare));
    RF_TRY(make_images(b, batch * CHANNELS * SIDE * SIDE));
    const rf_view images = rf_view_nd(b->images, RF_F32, 4, shape);
    const rf_view few = rf_view_rows(images, 0, rf_min_i64(ERROR_PICTURES, batch));
    RF_TRY(time_model(b, &images));
    for (int run = 0; run < n_runs(b); run++) {
        if (has_errors(run)) {
            RF_TRY(measure_errors(b->vit[FP32], b->vit[run], b->s, &few, &b->errors[run]));
        }
    }
    report(b, m, batch);
fail:
    close_models(b);
    return status;
}

/* ---- command line --------------------------------------------------------------------------- */

static const char usage[] = "bench_forward [--model NAME|all] [--batch N] [--repeats N] "
                            "[--threads N] [--device cpu|cuda|auto]";

static rf_status find_device(const char *word, int *out)
{
    rf_status status = RF_OK;
    int i = 0;
    while (rf_device_names[i] != NULL && strcmp(rf_device_names[i], word) != 0) {
        i++;
    }
    RF_REQUIRE(rf_device_names[i] != NULL, "--device %s: not known; usage: %s", word, usage);
    *out = i;
fail:
    return status;
}

static rf_status read_options(int argc, char **argv, options *o)
{
    rf_status status = RF_OK;
    for (int i = 1; i < argc; i += 2) {
        RF_REQUIRE(i + 1 < argc, "%s: a value is missing; usage: %s", argv[i], usage);
        if (strcmp(argv[i], "--model") == 0) {
            o->model = argv[i + 1];
            continue;
        }
        if (strcmp(argv[i], "--device") == 0) {
            RF_TRY(find_device(argv[i + 1], &o->device));
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
    b->o = (options){
        .model = "all", .repeats = 5, .threads = omp_get_max_threads(), .device = RF_DEVICE_CPU};
    RF_TRY(rf_comm_start(&argc, &argv, &b->comm));
    RF_TRY(read_options(argc, argv, &b->o));
    omp_set_num_threads((int)b->o.threads);
    RF_TRY(rf_backend_create((rf_device)b->o.device, b->comm, (int)b->o.threads, &b->be));
    b->on_cpu = strcmp(rf_backend_name(b->be), rf_device_names[RF_DEVICE_CPU]) == 0;
    RF_TRY(rf_stream_create(b->be, &b->s));
    printf("%s, %lld threads\n", rf_backend_describe(b->be), (long long)b->o.threads);
    for (int i = 0; i < N_MODELS; i++) {
        const bool is_meant = strcmp(b->o.model, models[i].name) == 0;
        if (is_meant || (strcmp(b->o.model, "all") == 0 && i + 1 < N_MODELS)) {
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
        rf_comm_finish(b->comm);
    }
    rf_free(b);
    return status == RF_OK ? 0 : 1;
}
