/* The training step of one coder and its parts, against the bare encoder product of the same shape
 * in the same run. Data are planted: each token is a sum of few dictionary rows, used by a
 * heavy-tailed law, with heavy-tailed weights, noise, and two dimensions that are far off. On a GPU
 * only whole steps are timed, as their parts are queued and not waited for. */
#include "refract/step.h"
#include "step_bare.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_BATCHES = 2, MAX_STEPS = 1000, ATOMS_A_TOKEN = 48 };

/* What is timed: a sparse step, one with dead latents and AuxK, one on the dense path. */
typedef enum variant { SPARSE, DEAD, DENSE, N_VARIANTS } variant;
static const char *const variant_names[] = {"sparse", "sparse with dead latents and AuxK", "dense"};

typedef struct options {
    const char *architecture;
    int64_t width, latents, k, batch, steps, threads;
    double dead;
    int device;   /* rf_device */
    int products; /* rf_products */
} options;

typedef struct bench {
    options o;
    rf_comm *comm;
    rf_backend *be;
    rf_stream *s;
    rf_coder *coder;
    rf_optimiser *opt;
    rf_step *step;
    float *x[N_BATCHES]; /* on the device */
    bool on_cpu;
    double parts[RF_STEP_N_PARTS];
    double part_seconds[N_VARIANTS][RF_STEP_N_PARTS + 1][MAX_STEPS]; /* the last is the whole */
    double bare_seconds[MAX_BARE][MAX_STEPS];
    rf_step_metrics last[N_VARIANTS];
    bare bare;
    int64_t *since;
    float *vector;
} bench;

/* ---- memory -------------------------------------------------------------------------------- */

static rf_status device_floats(const bench *b, int64_t n, float **out)
{
    return rf_memory_alloc(b->be, RF_MEMORY_DEVICE, (size_t)n * sizeof(float), (void **)out);
}

static rf_status put(const bench *b, void *device, const void *host, size_t n_bytes)
{
    rf_status status = RF_OK;
    RF_TRY(rf_copy_in(b->s, device, host, n_bytes));
    RF_TRY(rf_stream_synchronise(b->s));
fail:
    return status;
}

static rf_status get(const bench *b, void *host, const void *device, size_t n_bytes)
{
    rf_status status = RF_OK;
    RF_TRY(rf_copy_out(b->s, host, device, n_bytes));
    RF_TRY(rf_stream_synchronise(b->s));
fail:
    return status;
}

/* ---- planted data -------------------------------------------------------------------------- */

static float uniform(uint32_t word)
{
    return ((float)(word >> 8) + 0.5f) * 0x1p-24f;
}

static void plant_token(const options *o, const float *atoms, int64_t token, float *x)
{
    float z[4];
    for (int64_t j = 0; j < o->width; j += 4) {
        rf_random_normal4(7, RF_RANDOM_TEST, (uint64_t)token, (uint64_t)j, z);
        for (int64_t i = j; i < rf_min_i64(j + 4, o->width); i++) {
            x[i] = 0.1f * z[i - j] + (i == 3 || i == o->width / 2 ? 30.0f + z[i - j] : 0.0f);
        }
    }
    for (uint64_t a = 0; a < ATOMS_A_TOKEN; a++) {
        uint32_t u[4];
        rf_random_u32x4(8, RF_RANDOM_TEST, (uint64_t)token, a, u);
        rf_random_normal4(9, RF_RANDOM_TEST, (uint64_t)token, a, z);
        int64_t atom = (int64_t)(powf(uniform(u[0]), 3.0f) * (float)o->latents);
        atom = rf_permute(3, RF_RANDOM_TEST, 0, 0, o->latents, rf_min_i64(atom, o->latents - 1));
        float weight = expf(0.8f * z[0]); /* log-normal */
        for (int64_t i = 0; i < o->width; i++) {
            x[i] += weight * atoms[atom * o->width + i];
        }
    }
}

static rf_status plant(bench *b)
{
    rf_status status = RF_OK;
    const options *o = &b->o;
    const int64_t n = o->batch * o->width, n_atoms = o->latents * o->width;
    float *atoms = NULL, *x = NULL;
    RF_ALLOC(atoms, n_atoms);
    RF_ALLOC(x, n);
    RF_TRY(get(b, atoms, rf_coder_view(b->coder, RF_CODER_W_DEC).data,
               (size_t)n_atoms * sizeof(float)));
    for (int i = 0; i < N_BATCHES; i++) {
#pragma omp parallel for schedule(static)
        for (int64_t t = 0; t < o->batch; t++) {
            plant_token(o, atoms, t + i * o->batch, x + t * o->width);
        }
        RF_TRY(device_floats(b, n, &b->x[i]));
        RF_TRY(put(b, b->x[i], x, (size_t)n * sizeof(float)));
    }
fail:
    rf_free(atoms);
    rf_free(x);
    return status;
}

/* ---- set up -------------------------------------------------------------------------------- */

static rf_status settings_of(const options *o, rf_coder_settings *settings)
{
    rf_status status = RF_OK;
    RF_TRY(rf_settings_defaults(&rf_coder_settings_table, settings));
    settings->latents = o->latents;
    settings->k.any = o->k;
    settings->aux_alpha = 1.0 / 32.0;
    settings->aux_k = rf_min_i64(512, o->latents);
    settings->products = o->products;
    settings->bandwidth = 0.005; /* jumprelu: wider windows hold more than 1,000 latents here */
    for (int i = 0; i < rf_architecture_count(); i++) {
        if (strcmp(rf_architecture_at(i)->name, o->architecture) == 0) {
            settings->architecture = i;
        }
    }
fail:
    return status;
}

/* Random dictionary, then data made of it, then b_dec and V from the data. */
static rf_status init_coder(bench *b)
{
    rf_status status = RF_OK;
    const float one = 1.0f; /* any sample with a variance: the dictionary does not depend on it */
    float *noise = NULL;
    RF_TRY(device_floats(b, 2 * b->o.width, &noise));
    RF_TRY(put(b, noise, &one, sizeof one));
    rf_view sample = rf_view_2d(noise, 2, b->o.width);
    RF_TRY(rf_coder_init(b->coder, b->s, &sample));
    RF_TRY(plant(b));
    sample = rf_view_2d(b->x[0], rf_min_i64(1024, b->o.batch), b->o.width);
    RF_TRY(rf_coder_init(b->coder, b->s, &sample));
fail:
    rf_memory_free(b->be, RF_MEMORY_DEVICE, noise);
    return status;
}

static rf_status set_up(bench *b)
{
    rf_status status = RF_OK;
    rf_coder_settings settings;
    const rf_coder_shape shape = rf_coder_shape_of(b->o.width);
    int n_threads;
    RF_TRY(settings_of(&b->o, &settings));
    RF_TRY(rf_cast_int(b->o.threads, "--threads", &n_threads));
    if (n_threads > 0) {
        omp_set_num_threads(n_threads); /* of the bare products as well */
    }
    RF_TRY(rf_backend_create((rf_device)b->o.device, b->comm, n_threads, &b->be));
    b->on_cpu = strcmp(rf_backend_name(b->be), rf_device_names[RF_DEVICE_CPU]) == 0;
    RF_TRY(rf_stream_create(b->be, &b->s));
    RF_TRY(rf_coder_create(b->be, &settings, &shape, &b->coder));
    RF_TRY(init_coder(b));
    RF_TRY(rf_optimiser_create(b->be, b->coder, &(rf_optimiser_opts){0}, &b->opt));
    const rf_coder *coders[] = {b->coder};
    rf_step_opts opts = {.max_rows = b->o.batch, .part_seconds = b->on_cpu ? b->parts : NULL};
    RF_TRY(rf_step_create(b->be, b->comm, coders, 1, &opts, &b->step));
    RF_ALLOC(b->since, b->o.latents);
    RF_ALLOC(b->vector, b->o.latents);
fail:
    return status;
}

static rf_status set_vector(bench *b, int idx, float value)
{
    rf_status status = RF_OK;
    rf_view v = rf_coder_view(b->coder, idx);
    for (int64_t i = 0; i < b->o.latents; i++) {
        b->vector[i] = value;
    }
    RF_TRY(put(b, v.data, b->vector, sizeof(float) * (size_t)b->o.latents));
fail:
    return status;
}

/* The least value of codes. */
static rf_status least_value(const bench *b, const rf_codes *codes, float *out)
{
    rf_status status = RF_OK;
    int64_t n = 0;
    float *values = NULL;
    RF_TRY(rf_codes_count(b->s, codes, &n));
    RF_ALLOC(values, n);
    RF_TRY(get(b, values, codes->value, (size_t)n * sizeof(float)));
    *out = INFINITY;
    for (int64_t e = 0; e < n; e++) {
        *out = fminf(*out, values[e]);
    }
fail:
    rf_free(values);
    return status;
}

/* The pre-activation that k latents of a token exceed, on average over some tokens, where b_enc is
 * 0. */
static rf_status find_level(bench *b, float *out)
{
    rf_status status = RF_OK;
    int64_t n = rf_min_i64(256, b->o.batch), total = n * rf_min_i64(b->o.k, b->o.latents);
    rf_codes codes = {0};
    float *seen = NULL;
    RF_TRY(rf_codes_create(b->be, n, total, &codes));
    RF_TRY(device_floats(b, n * b->o.width, &seen));
    const rf_coder_rows rows = {.x = rf_view_2d(b->x[0], n, b->o.width),
                                .seen = rf_view_2d(seen, n, b->o.width)};
    RF_TRY(rf_coder_see(b->coder, b->s, &rows));
    rf_encode_args args = {.x = rows.seen,
                           .w_enc = rf_coder_view(b->coder, RF_CODER_W_ENC),
                           .b_enc = rf_coder_view(b->coder, RF_CODER_B_ENC),
                           .n_lists = 1};
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_BATCH_TOPK, .k = total, .codes = &codes};
    RF_TRY(rf_encode(b->s, &args));
    RF_TRY(least_value(b, &codes, out));
fail:
    rf_memory_free(b->be, RF_MEMORY_DEVICE, seen);
    rf_codes_destroy(b->be, &codes);
    return status;
}

/* Architectures without a k: thresholds (jumprelu) or biases such that k latents are active. On the
 * dense path biases are 0: half of the dictionary is active, as at the start of a run. */
static rf_status plant_activity(bench *b, variant v)
{
    rf_status status = RF_OK;
    const bool is_jump = rf_coder_architecture(b->coder)->act == RF_CODER_JUMP;
    rf_coder_state state;
    float level = 0.0f;
    RF_TRY(set_vector(b, RF_CODER_B_ENC, 0.0f));
    if (v != DENSE) {
        RF_TRY(find_level(b, &level));
    }
    if (is_jump) {
        RF_TRY(set_vector(b, RF_CODER_LOG_THRESHOLD, logf(fmaxf(level, 1e-3f))));
    } else {
        RF_TRY(set_vector(b, RF_CODER_B_ENC, -level));
    }
    if (rf_coder_has(b->coder, RF_CODER_GAIN)) {
        RF_TRY(set_vector(b, RF_CODER_GAIN, 0.0f));
        RF_TRY(set_vector(b, RF_CODER_B_MAG, -level));
    }
    RF_TRY(rf_coder_get_state(b->coder, b->s, &state));
    state.counters[RF_COUNTER_DENSE] = v == DENSE;
    RF_TRY(rf_coder_set_state(b->coder, b->s, &state));
fail:
    return status;
}

/* Before each step. */
static rf_status prepare(bench *b, variant v)
{
    rf_status status = RF_OK;
    rf_view since = rf_coder_view(b->coder, RF_CODER_TOKENS_SINCE_FIRED);
    const int64_t dead = (int64_t)(b->o.dead * (double)b->o.latents);
    if (rf_coder_architecture(b->coder)->may_be_dense) {
        RF_TRY(plant_activity(b, v));
    }
    for (int64_t i = 0; i < b->o.latents; i++) {
        bool is_dead = rf_permute(5, RF_RANDOM_TEST, 0, 0, b->o.latents, i) < dead;
        b->since[i] = v == DEAD && is_dead ? INT64_C(1) << 40 : 0;
    }
    RF_TRY(put(b, since.data, b->since, sizeof(int64_t) * (size_t)b->o.latents));
fail:
    return status;
}

static bool has_variant(const bench *b, variant v)
{
    return v != DENSE || rf_coder_architecture(b->coder)->may_be_dense;
}

/* ---- measuring ----------------------------------------------------------------------------- */

static rf_status one_step(bench *b, variant v, int64_t i)
{
    rf_status status = RF_OK;
    rf_step_rates rates = rf_step_rates_default();
    rf_token_batch batch = {.x = rf_view_2d(b->x[i % N_BATCHES], b->o.batch, b->o.width),
                            .stream = b->s,
                            .n_rows = b->o.batch,
                            .n_valid = b->o.batch};
    RF_TRY(prepare(b, v));
    memset(b->parts, 0, sizeof b->parts);
    double t0 = rf_now();
    RF_TRY(rf_step_run(b->step, b->coder, b->opt, &batch, &rates, &b->last[v]));
    RF_TRY(rf_stream_synchronise(b->s)); /* it waits for the step's */
    b->part_seconds[v][RF_STEP_N_PARTS][i] = rf_now() - t0;
    for (int p = 0; p < RF_STEP_N_PARTS; p++) {
        b->part_seconds[v][p][i] = b->parts[p];
    }
    if (b->last[v].skipped) {
        RF_FAIL(RF_ERR_NUMERIC, "a step was skipped: its loss is not finite");
    }
fail:
    return status;
}

/* Peak resident memory of this process so far, in bytes. */
static double peak_memory(void)
{
    char line[256];
    double kib = 0.0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            kib = strtod(line + 6, NULL);
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return kib * 1024.0;
}

/* Of this process on the CPU; what is taken on a device. */
static double memory_taken(const bench *b)
{
    int64_t free_bytes = 0, all_bytes = 0;
    if (!b->on_cpu) {
        rf_backend_memory(b->be, &free_bytes, &all_bytes);
    }
    return b->on_cpu ? peak_memory() : (double)(all_bytes - free_bytes);
}

static rf_status bare_products(bench *b, int64_t i)
{
    rf_status status = RF_OK;
    for (int which = 0; which < bare_count(&b->bare); which++) {
        RF_TRY(bare_run(&b->bare, which, b->x[i % N_BATCHES], &b->bare_seconds[which][i]));
    }
fail:
    return status;
}

static rf_status measure(bench *b, double *peak)
{
    rf_status status = RF_OK;
    /* Warm up, and see the memory before the bare products'. */
    for (variant v = SPARSE; v < N_VARIANTS; v++) {
        if (has_variant(b, v)) {
            RF_TRY(one_step(b, v, 0));
        }
    }
    *peak = memory_taken(b);
    b->bare = (bare){.s = b->s,
                     .on_cpu = b->on_cpu,
                     .products = (rf_products)b->o.products,
                     .batch = b->o.batch,
                     .width = b->o.width,
                     .latents = b->o.latents,
                     .w = rf_coder_view(b->coder, RF_CODER_W_ENC)};
    RF_TRY(bare_init(&b->bare));
    RF_TRY(bare_products(b, 0));
    for (int64_t i = 0; i < b->o.steps; i++) {
        RF_TRY(bare_products(b, i));
        for (variant v = SPARSE; v < N_VARIANTS; v++) {
            if (has_variant(b, v)) {
                RF_TRY(one_step(b, v, i));
            }
        }
    }
fail:
    return status;
}

/* ---- report -------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts `seconds`, prints a line, returns the median. */
static double print_times(const char *name, double *seconds, int64_t n, double flop)
{
    qsort(seconds, (size_t)n, sizeof *seconds, by_value);
    double median = seconds[n / 2];
    printf("  %-20s %9.4f %9.4f %9.4f", name, seconds[0], median, seconds[n - 1]);
    if (flop > 0.0 && median > 0.0) {
        printf("  %8.1f GFLOP  %7.1f GFLOP/s", flop * 1e-9, flop * 1e-9 / median);
    }
    printf("\n");
    return median;
}

/* Multiplications and additions of a part. */
static double work_of(const bench *b, variant v, rf_step_part part)
{
    const rf_step_metrics *m = &b->last[v];
    double n = (double)b->o.batch, d = (double)b->o.width, f = (double)b->o.latents;
    double entries = m->dense_path ? f : m->l0;
    switch (part) {
    case RF_PART_PRODUCT:
        return 2.0 * n * d * f;
    case RF_PART_DECODE:
    case RF_PART_D_VALUE:
        return 2.0 * n * d * entries;
    case RF_PART_BY_LATENT:
        return 4.0 * n * d * entries;
    default:
        return 0.0;
    }
}

static double report_variant(bench *b, variant v)
{
    const rf_step_metrics *m = &b->last[v];
    printf("\n%s (%s path), %.1f %% dead: L0 %.1f, explained variance %.3f, %lld fired\n",
           variant_names[v], m->dense_path ? "dense" : "sparse",
           100.0 * (double)m->n_dead / (double)b->o.latents, m->l0, m->explained_variance,
           (long long)m->n_fired);
    printf("  %-20s %9s %9s %9s\n", "seconds", "min", "median", "max");
    for (int p = 0; b->on_cpu && p < RF_STEP_N_PARTS; p++) {
        print_times(rf_step_part_name((rf_step_part)p), b->part_seconds[v][p], b->o.steps,
                    work_of(b, v, (rf_step_part)p));
    }
    return print_times("whole step", b->part_seconds[v][RF_STEP_N_PARTS], b->o.steps, 0.0);
}

/* The median over the rounds of a step's time by that of a form of the bare product in its round:
 * what slows the machine down for a while slows both. Of the form that is best so: the best form of
 * each round would be three draws against one. Before print_times sorts them. */
static double ratio_by_rounds(const bench *b, variant v)
{
    double worst = 0.0, ratios[MAX_STEPS];
    const int64_t n = b->o.steps;
    for (int which = 0; which < bare_count(&b->bare); which++) {
        for (int64_t i = 0; i < n; i++) {
            ratios[i] = b->part_seconds[v][RF_STEP_N_PARTS][i] / b->bare_seconds[which][i];
        }
        qsort(ratios, (size_t)n, sizeof *ratios, by_value);
        worst = fmax(worst, ratios[n / 2]);
    }
    return worst;
}

static void report(bench *b, double peak)
{
    const options *o = &b->o;
    double product = INFINITY, step[N_VARIANTS] = {0}, by_rounds[N_VARIANTS] = {0};
    for (variant v = SPARSE; v < N_VARIANTS; v++) {
        by_rounds[v] = has_variant(b, v) ? ratio_by_rounds(b, v) : 0.0;
    }
    printf("%s, width %lld, latents %lld, k %lld, batch %lld, products %s, %lld steps, %s\n",
           o->architecture, (long long)o->width, (long long)o->latents, (long long)o->k,
           (long long)o->batch, rf_products_names[o->products], (long long)o->steps,
           rf_backend_describe(b->be));
    printf("  %-20s %9s %9s %9s\n", "bare product, s", "min", "median", "max");
    for (int which = 0; which < bare_count(&b->bare); which++) {
        product = fmin(product, print_times(bare_name(&b->bare, which), b->bare_seconds[which],
                                            o->steps, work_of(b, 0, RF_PART_PRODUCT)));
    }
    for (variant v = SPARSE; v < N_VARIANTS; v++) {
        step[v] = has_variant(b, v) ? report_variant(b, v) : 0.0;
    }
    double batch = 4.0 * N_BATCHES * (double)(o->batch * o->width);
    printf("\nmemory %.2f GB and %.3f GB of batches; the step's own buffers %.3f GB with "
           "gradients\n",
           (peak - batch) * 1e-9, batch * 1e-9, (double)rf_step_bytes(b->step) * 1e-9);
    for (int v = N_VARIANTS; v-- > 0;) {
        if (step[v] > 0.0) {
            printf("ratio of the step, %s: %.3f (by rounds %.3f)\n", variant_names[v],
                   step[v] / product, by_rounds[v]);
        }
    }
}

/* ---- command line -------------------------------------------------------------------------- */

static const char usage[] = "bench_step [--architecture topk|batch_topk|relu|jumprelu|gated|...] "
                            "[--width D] [--latents F] [--k K] [--batch B] "
                            "[--steps N] [--dead SHARE] [--threads N] "
                            "[--device cpu|cuda|auto] [--products fp32|tf32|bf16]";

/* The place of `word` in names that end in NULL. */
static rf_status find_word(const char *option, const char *word, const char *const *names, int *out)
{
    rf_status status = RF_OK;
    int i = 0;
    while (names[i] != NULL && strcmp(names[i], word) != 0) {
        i++;
    }
    RF_REQUIRE(names[i] != NULL, "%s %s: not known; usage: %s", option, word, usage);
    *out = i;
fail:
    return status;
}

static rf_status read_options(int argc, char **argv, options *o)
{
    rf_status status = RF_OK;
    struct {
        const char *name;
        int64_t *value;
    } numbers[] = {{"--width", &o->width}, {"--latents", &o->latents}, {"--k", &o->k},
                   {"--batch", &o->batch}, {"--steps", &o->steps},     {"--threads", &o->threads}};
    for (int i = 1; i < argc; i += 2) {
        bool known = false;
        RF_REQUIRE(i + 1 < argc, "%s: a value is missing; usage: %s", argv[i], usage);
        for (size_t j = 0; j < sizeof numbers / sizeof numbers[0]; j++) {
            if (strcmp(argv[i], numbers[j].name) == 0) {
                RF_TRY_DOING(rf_parse_i64(argv[i + 1], numbers[j].value), "%s", argv[i]);
                known = true;
            }
        }
        if (strcmp(argv[i], "--architecture") == 0) {
            o->architecture = argv[i + 1];
            known = true;
        } else if (strcmp(argv[i], "--dead") == 0) {
            RF_TRY_DOING(rf_parse_f64(argv[i + 1], &o->dead), "%s", argv[i]);
            known = true;
        } else if (strcmp(argv[i], "--device") == 0) {
            RF_TRY(find_word(argv[i], argv[i + 1], rf_device_names, &o->device));
            known = true;
        } else if (strcmp(argv[i], "--products") == 0) {
            RF_TRY(find_word(argv[i], argv[i + 1], rf_products_names, &o->products));
            known = true;
        }
        RF_REQUIRE(known, "%s: no such option; usage: %s", argv[i], usage);
    }
    RF_REQUIRE(rf_architecture_find(o->architecture) != NULL, "no architecture is called '%s'",
               o->architecture);
    RF_REQUIRE(o->width >= 1 && o->latents >= 1 && o->k >= 1 && o->batch >= 2 && o->steps >= 1 &&
                   o->steps <= MAX_STEPS && o->dead >= 0.0 && o->dead <= 1.0,
               "a size is out of range (steps at most %d, dead 0 to 1)", MAX_STEPS);
fail:
    return status;
}

static void tear_down(bench *b)
{
    bare_fini(&b->bare);
    rf_free(b->vector);
    rf_free(b->since);
    rf_step_destroy(b->step);
    rf_optimiser_destroy(b->opt);
    rf_coder_destroy(b->coder);
    for (int i = 0; i < N_BATCHES; i++) {
        rf_memory_free(b->be, RF_MEMORY_DEVICE, b->x[i]);
    }
    rf_stream_destroy(b->s);
    rf_backend_destroy(b->be);
    rf_comm_finish(b->comm);
    rf_free(b);
}

int main(int argc, char **argv)
{
    rf_status status = RF_OK;
    bench *b = NULL;
    double peak = 0.0;
    RF_ALLOC(b, 1);
    b->o = (options){.architecture = "topk",
                     .width = 768,
                     .latents = 49152,
                     .k = 64,
                     .batch = 4096,
                     .steps = 7,
                     .dead = 0.1,
                     .device = RF_DEVICE_CPU};
    RF_TRY(rf_comm_start(&argc, &argv, &b->comm));
    RF_TRY(read_options(argc, argv, &b->o));
    RF_TRY(set_up(b));
    RF_TRY(measure(b, &peak));
    report(b, peak);
fail:
    if (status != RF_OK) {
        fprintf(stderr, "bench_step: %s\n", rf_error_text());
    }
    if (b != NULL) {
        tear_down(b);
    }
    return status == RF_OK ? 0 : 1;
}
