/* One coder on activations in a file, in an order in a file, so that other tools can train on the
 * very same batches (benchmarks/peers). Writes how well it reconstructs held-out rows as it goes.
 */
#include "refract/train.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct options {
    const char *train, *held_out, *order; /* npy: [n, D], [m, D], [steps * batch] rows of `train` */
    const char *architecture, *settings;  /* YAML */
    const char *csv, *reconstruction;     /* NULL: none */
    double lr, decay_share;
    int64_t steps, batch, warmup, every, sample, threads;
} options;

typedef struct array {
    float *data;
    int64_t shape[2];
} array;

typedef struct bench {
    options o;
    rf_comm *comm;
    rf_backend *be;
    rf_stream *s;
    array train, held_out, order;
    rf_coder_settings settings;
    rf_coder *coder;
    rf_optimiser *opt;
    rf_step *step;
    float *x, *x_hat;  /* [max(batch, sample), D], [m, D] */
    double *mean;      /* of held-out rows */
    int64_t *n_active; /* [m] */
    double variance;   /* mean |x - mean|^2 of held-out rows */
    FILE *out;
} bench;

/* ---- files ---------------------------------------------------------------------------------- */

static rf_status read_array(const char *path, int dims, array *out)
{
    rf_status status = RF_OK;
    int n_dims = 0;
    RF_TRY(rf_npy_read_f32(path, 2, &n_dims, out->shape, &out->data));
    RF_REQUIRE(n_dims == dims, "%s has %d dimensions, expected %d", path, n_dims, dims);
fail:
    return status;
}

/* Rows order[first .. first + n) of the training file. */
static rf_status gather(bench *b, int64_t first, int64_t n)
{
    rf_status status = RF_OK;
    const int64_t d = b->train.shape[1];
    for (int64_t i = 0; i < n; i++) {
        int64_t row = (int64_t)b->order.data[first + i];
        RF_REQUIRE(row >= 0 && row < b->train.shape[0], "%s: row %" PRId64 " of %" PRId64,
                   b->o.order, row, b->train.shape[0]);
        memcpy(b->x + i * d, b->train.data + row * d, sizeof(float) * (size_t)d);
    }
fail:
    return status;
}

static rf_status write_reconstruction(const bench *b)
{
    rf_status status = RF_OK;
    const int64_t m = b->held_out.shape[0], d = b->held_out.shape[1];
    rf_named_tensor t = {.name = "x_hat",
                         .dtype = RF_FILE_F32,
                         .n_dims = 2,
                         .shape = {m, d},
                         .n_elems = m * d,
                         .bytes = (const unsigned char *)b->x_hat,
                         .n_bytes = m * d * (int64_t)sizeof(float)};
    if (b->o.reconstruction != NULL) {
        RF_TRY(rf_safetensors_write(b->o.reconstruction, &t, 1, NULL, 0));
    }
fail:
    return status;
}

/* ---- how well ------------------------------------------------------------------------------- */

static int64_t count_dead(const bench *b)
{
    const int64_t *since = rf_coder_view(b->coder, RF_CODER_TOKENS_SINCE_FIRED).data;
    int64_t n = 0;
    for (int64_t i = 0; i < rf_coder_n_latents(b->coder); i++) {
        n += since[i] >= b->settings.dead_after_tokens;
    }
    return n;
}

/* One line of the table: 1 - sum |x - x_hat|^2 / sum |x - mean|^2 over the held-out rows. */
static rf_status report(bench *b, int64_t steps_done, double seconds)
{
    rf_status status = RF_OK;
    const int64_t m = b->held_out.shape[0], d = b->held_out.shape[1];
    rf_view x = rf_view_2d(b->held_out.data, m, d), x_hat = rf_view_2d(b->x_hat, m, d);
    double error = 0.0, l0 = 0.0;
    RF_TRY(rf_coder_reconstruct(b->coder, b->s, &x, NULL, NULL, &x_hat, b->n_active));
    for (int64_t i = 0; i < m * d; i++) {
        double e = (double)b->held_out.data[i] - (double)b->x_hat[i];
        error += e * e;
    }
    for (int64_t i = 0; i < m; i++) {
        l0 += (double)b->n_active[i] / (double)m;
    }
    fprintf(b->out, "%lld,%lld,%.5f,%.2f,%lld,%.1f\n", (long long)steps_done,
            (long long)(steps_done * b->o.batch), 1.0 - error / (b->variance * (double)m), l0,
            (long long)count_dead(b), seconds);
    fflush(b->out);
fail:
    return status;
}

/* ---- training ------------------------------------------------------------------------------- */

static rf_status make_settings(bench *b)
{
    rf_status status = RF_OK;
    rf_yaml *yaml = NULL;
    rf_coder_settings *settings = &b->settings;
    RF_TRY(rf_settings_defaults(&rf_coder_settings_table, settings));
    snprintf(settings->input, sizeof settings->input, "activations");
    RF_TRY(rf_yaml_parse(b->o.settings, (int64_t)strlen(b->o.settings), "--settings", &yaml));
    RF_TRY(rf_settings_read(&rf_coder_settings_table, yaml, "", NULL, settings, NULL));
    for (int i = 0; i < rf_architecture_count(); i++) {
        if (strcmp(rf_architecture_at(i)->name, b->o.architecture) == 0) {
            settings->architecture = i;
        }
    }
    RF_REQUIRE(strcmp(rf_architecture_at(settings->architecture)->name, b->o.architecture) == 0,
               "--architecture %s: no such one", b->o.architecture);
fail:
    rf_yaml_free(yaml);
    return status;
}

static rf_status prepare(bench *b)
{
    rf_status status = RF_OK;
    const int64_t d = b->train.shape[1], m = b->held_out.shape[0], needed = b->o.steps * b->o.batch;
    const int64_t n_sample = rf_min_i64(b->o.sample, needed);
    const rf_coder_shape shape = rf_coder_shape_of(d);
    const rf_step_opts opts = {.max_rows = b->o.batch};
    RF_REQUIRE(b->held_out.shape[1] == d, "held-out rows are %" PRId64 " wide, others %" PRId64,
               b->held_out.shape[1], d);
    RF_REQUIRE(b->order.shape[0] >= needed, "%s has %" PRId64 " rows, %" PRId64 " are needed",
               b->o.order, b->order.shape[0], needed);
    RF_ALLOC(b->x, rf_max_i64(b->o.batch, n_sample) * d);
    RF_ALLOC(b->x_hat, m * d);
    RF_ALLOC(b->mean, d);
    RF_ALLOC(b->n_active, m);
    RF_TRY(rf_sample_moments(b->held_out.data, m, d, b->mean, &b->variance));
    RF_TRY(make_settings(b));
    RF_TRY(rf_coder_create(b->be, &b->settings, &shape, &b->coder));
    RF_TRY(gather(b, 0, n_sample));
    rf_view sample = rf_view_2d(b->x, n_sample, d);
    RF_TRY(rf_coder_init(b->coder, b->s, &sample));
    RF_TRY(rf_optimiser_create(b->be, b->coder, &(rf_optimiser_opts){0}, &b->opt));
    const rf_coder *coders[] = {b->coder};
    RF_TRY(rf_step_create(b->be, b->comm, coders, 1, &opts, &b->step));
fail:
    return status;
}

static rf_status train(bench *b)
{
    rf_status status = RF_OK;
    const rf_schedule schedule = {.kind = RF_SCHEDULE_DECAY,
                                  .lr = b->o.lr,
                                  .warmup_steps = b->o.warmup,
                                  .n_steps = b->o.steps,
                                  .decay_share = b->o.decay_share};
    double seconds = 0.0;
    fprintf(b->out, "step,tokens,ev,l0,dead,seconds\n");
    RF_TRY(report(b, 0, 0.0));
    for (int64_t i = 0; i < b->o.steps; i++) {
        rf_token_batch batch = {.x = rf_view_2d(b->x, b->o.batch, b->train.shape[1]),
                                .n_rows = b->o.batch,
                                .n_valid = b->o.batch};
        rf_step_rates rates = rf_step_rates_default();
        RF_TRY(gather(b, i * b->o.batch, b->o.batch));
        rates.lr = rf_schedule_lr(&schedule, i);
        rates.sparsity_scale = rf_schedule_sparsity(&b->settings, i);
        rates.k_scale = rf_schedule_k(&b->settings, i);
        rates.p = rf_schedule_p(&b->settings, i, b->o.steps);
        rates.resample = rf_schedule_resamples(&b->settings, i);
        double start = rf_now();
        RF_TRY(rf_step_run(b->step, b->coder, b->opt, &batch, &rates, NULL));
        RF_TRY(rf_stream_synchronise(b->s));
        seconds += rf_now() - start;
        if ((i + 1) % b->o.every == 0 || i + 1 == b->o.steps) {
            RF_TRY(report(b, i + 1, seconds));
        }
    }
    RF_TRY(write_reconstruction(b));
fail:
    return status;
}

/* ---- command line --------------------------------------------------------------------------- */

static const char usage[] =
    "bench_peers --train F.npy --held-out F.npy --order F.npy [--architecture A] "
    "[--settings '{k: 32}'] [--lr X] [--decay-share X] [--steps N] [--batch N] [--warmup N] "
    "[--every N] [--sample N] [--threads N] [--csv FILE] [--reconstruction FILE.safetensors]";

/* What an option sets: one of these is not NULL. */
typedef struct option {
    const char *name;
    const char **text;
    int64_t *whole;
    double *number;
} option;

static rf_status read_options(int argc, char **argv, options *o)
{
    rf_status status = RF_OK;
    const option table[] = {
        {"--train", &o->train, NULL, NULL},
        {"--held-out", &o->held_out, NULL, NULL},
        {"--order", &o->order, NULL, NULL},
        {"--architecture", &o->architecture, NULL, NULL},
        {"--settings", &o->settings, NULL, NULL},
        {"--csv", &o->csv, NULL, NULL},
        {"--reconstruction", &o->reconstruction, NULL, NULL},
        {"--steps", NULL, &o->steps, NULL},
        {"--batch", NULL, &o->batch, NULL},
        {"--warmup", NULL, &o->warmup, NULL},
        {"--every", NULL, &o->every, NULL},
        {"--sample", NULL, &o->sample, NULL},
        {"--threads", NULL, &o->threads, NULL},
        {"--lr", NULL, NULL, &o->lr},
        {"--decay-share", NULL, NULL, &o->decay_share},
    };
    for (int i = 1; i < argc; i += 2) {
        const option *found = NULL;
        for (size_t j = 0; j < sizeof table / sizeof table[0]; j++) {
            found = strcmp(argv[i], table[j].name) == 0 ? &table[j] : found;
        }
        RF_REQUIRE(found != NULL, "%s: no such option; usage: %s", argv[i], usage);
        RF_REQUIRE(i + 1 < argc, "%s: a value is missing; usage: %s", argv[i], usage);
        if (found->text != NULL) {
            *found->text = argv[i + 1];
        } else if (found->whole != NULL) {
            RF_TRY_DOING(rf_parse_i64(argv[i + 1], found->whole), "%s", argv[i]);
        } else {
            RF_TRY_DOING(rf_parse_f64(argv[i + 1], found->number), "%s", argv[i]);
        }
    }
    RF_REQUIRE(o->train != NULL && o->held_out != NULL && o->order != NULL && o->steps >= 1 &&
                   o->batch >= 1 && o->every >= 1 && o->sample >= 2 && o->warmup >= 0,
               "usage: %s", usage);
fail:
    return status;
}

static rf_status run(int *argc, char ***argv, bench *b)
{
    rf_status status = RF_OK;
    int n_threads;
    RF_TRY(rf_comm_start(argc, argv, &b->comm));
    RF_TRY(read_options(*argc, *argv, &b->o));
    RF_TRY(rf_cast_int(b->o.threads, "--threads", &n_threads));
    RF_TRY(rf_backend_cpu_create(n_threads, &b->be));
    RF_TRY(rf_stream_create(b->be, &b->s));
    RF_TRY(read_array(b->o.train, 2, &b->train));
    RF_TRY(read_array(b->o.held_out, 2, &b->held_out));
    RF_TRY(read_array(b->o.order, 1, &b->order));
    if (b->o.csv != NULL) {
        b->out = fopen(b->o.csv, "w");
        RF_REQUIRE(b->out != NULL, "%s cannot be written", b->o.csv);
    }
    RF_TRY(prepare(b));
    RF_TRY(train(b));
fail:
    return status;
}

static void finish(bench *b)
{
    if (b->o.csv != NULL && b->out != NULL && fclose(b->out) != 0) {
        fprintf(stderr, "bench_peers: %s was not written whole\n", b->o.csv);
    }
    rf_step_destroy(b->step);
    rf_optimiser_destroy(b->opt);
    rf_coder_destroy(b->coder);
    rf_free(b->n_active);
    rf_free(b->mean);
    rf_free(b->x_hat);
    rf_free(b->x);
    rf_free(b->order.data);
    rf_free(b->held_out.data);
    rf_free(b->train.data);
    rf_stream_destroy(b->s);
    rf_backend_destroy(b->be);
    rf_comm_finish(b->comm);
}

int main(int argc, char **argv)
{
    bench b = {.o = {.architecture = "topk",
                     .settings = "{}",
                     .lr = 1e-3,
                     .decay_share = 0.2,
                     .steps = 400,
                     .batch = 2048,
                     .warmup = 20,
                     .every = 25,
                     .sample = 8192},
               .out = stdout};
    rf_status status = run(&argc, &argv, &b);
    if (status != RF_OK) {
        fprintf(stderr, "bench_peers: %s\n", rf_error_text());
    }
    finish(&b);
    return status == RF_OK ? 0 : 1;
}
