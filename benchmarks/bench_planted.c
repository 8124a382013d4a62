/* Does a coder find the dictionary that its data were made of? Tokens are sums of few atoms of a
 * known dictionary and noise. Atoms come in groups that fire together, groups by a power law of
 * their rank, so that some atoms are thirty times rarer than others. Every architecture learns
 * from the same tokens; the table says how well its decoder rows match the atoms. A seed repeats to
 * the bit: the last column is a hash of the trained parameters. */
#include "refract/train.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 128, ATOMS = 256, GROUP = 4, LATENTS = 320, BATCH = 1024, HELD_OUT = 4096 };
enum { POOL = 512 }; /* batches that are planted; more steps see them again */

typedef struct options {
    const char *only; /* an architecture, or NULL: all */
    int64_t steps, seed, threads;
} options;

/* One row of the table: what is set beside the defaults. A token has about four atoms, some have
 * none and some ten: k of a token is 8, k of a batch 4. A prefix that holds fewer latents than
 * there are atoms must merge some, so that matryoshka gets prefixes that are drawn: short ones fall
 * on few latents at most steps. The last of its rows shows what halved prefixes do. */
typedef struct row {
    const char *name, *architecture, *settings; /* YAML */
    double lr;
} row;

static const row rows[] = {
    {"topk", "topk", "k: 8", 3e-3},
    {"multi_topk", "multi_topk", "k: 8", 3e-3},
    {"batch_topk", "batch_topk", "{k: 4, threshold_rate: 0.03}", 3e-3},
    {"matryoshka", "matryoshka",
     "{k: 4, n_prefixes: 2, random_prefixes: true, threshold_rate: 0.03}", 3e-3},
    {"matryoshka over topk", "matryoshka",
     "{k: 8, n_prefixes: 2, random_prefixes: true, selection: topk}", 6e-3},
    {"matryoshka, halved", "matryoshka", "{k: 4, n_prefixes: 3, threshold_rate: 0.03}", 3e-3},
    {"relu, L1", "relu", "l1: 0.05", 3e-3},
    {"relu, tanh", "relu", "{l1: 0.02, penalty: tanh}", 3e-3},
    {"relu, L1 by norms", "relu", "{l1: 0.05, decoder: free, penalty_by_norm: true}", 3e-3},
    {"p_anneal", "p_anneal", "l1: 0.05", 3e-3},
    {"jumprelu", "jumprelu", "{l0: 0.005, threshold_start: 0.09, bandwidth: 0.09}", 3e-3},
    {"jumprelu, target L0", "jumprelu",
     "{penalty: target_l0, target_l0: 4, l0: 0.03, threshold_start: 0.09, bandwidth: 0.09}", 3e-3},
    {"gated", "gated", "l1: 0.1", 3e-3},
    {"topk, archetypal", "topk", "{k: 8, decoder: archetypal, archetypal_points: 1024}", 3e-3},
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

typedef struct bench {
    options o;
    rf_comm *comm;
    rf_backend *be;
    rf_stream *s;
    float *tokens; /* [POOL * BATCH, WIDTH] to train on, the same for every row */
    float *atoms;  /* [ATOMS, WIDTH] of norm 1 */
    float *rate;   /* [ATOMS / GROUP] how often a group fires */
} bench;

/* ---- planted data -------------------------------------------------------------------------- */

static float uniform(uint32_t word)
{
    return ((float)(word >> 8) + 0.5f) * 0x1p-24f;
}

static rf_status make_dictionary(bench *b)
{
    rf_status status = RF_OK;
    const int64_t n_groups = ATOMS / GROUP;
    float sum = 0.0f;
    RF_ALLOC(b->atoms, ATOMS * WIDTH);
    RF_ALLOC(b->rate, n_groups);
    for (int64_t i = 0; i < ATOMS; i++) {
        float *atom = b->atoms + i * WIDTH;
        for (int64_t j = 0; j < WIDTH; j += 4) {
            rf_random_normal4((uint64_t)b->o.seed, RF_RANDOM_TEST, 1, (uint64_t)(i * WIDTH + j),
                              atom + j);
        }
        float norm = sqrtf(rf_dot(atom, atom, WIDTH));
        for (int64_t j = 0; j < WIDTH; j++) {
            atom[j] /= norm;
        }
    }
    for (int64_t g = 0; g < n_groups; g++) {
        b->rate[g] = powf((float)(g + 2), -1.0f);
        sum += b->rate[g];
    }
    for (int64_t g = 0; g < n_groups; g++) { /* two groups a token, about four atoms */
        b->rate[g] = fminf(0.9f, 2.0f * b->rate[g] / sum);
    }
fail:
    return status;
}

static void plant_token(const bench *b, uint64_t token, float *x)
{
    uint32_t u[4];
    float z[4];
    for (int64_t j = 0; j < WIDTH; j += 4) {
        rf_random_normal4((uint64_t)b->o.seed, RF_RANDOM_TEST, token, (uint64_t)j, z);
        for (int64_t i = 0; i < 4; i++) {
            x[j + i] = 0.03f * z[i] + (j == 0 ? 0.5f : 0.0f);
        }
    }
    for (int64_t a = 0; a < ATOMS; a++) {
        rf_random_u32x4((uint64_t)b->o.seed, RF_RANDOM_TEST, token, (uint64_t)(1000 + a / GROUP),
                        u);
        if (uniform(u[0]) > b->rate[a / GROUP]) {
            continue;
        }
        rf_random_u32x4((uint64_t)b->o.seed, RF_RANDOM_TEST, token, (uint64_t)(2000 + a), u);
        if (uniform(u[0]) < 0.5f) { /* half of a group that fires */
            float weight = 0.5f + uniform(u[1]);
            for (int64_t j = 0; j < WIDTH; j++) {
                x[j] += weight * b->atoms[a * WIDTH + j];
            }
        }
    }
}

static void plant(const bench *b, uint64_t first, int64_t n, float *x)
{
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < n; t++) {
        plant_token(b, (first + (uint64_t)t) * 16 + 5, x + t * WIDTH);
    }
}

/* ---- training ------------------------------------------------------------------------------ */

static rf_status settings_of(const bench *b, const row *r, rf_coder_settings *out)
{
    rf_status status = RF_OK;
    rf_yaml *yaml = NULL;
    RF_TRY(rf_settings_defaults(&rf_coder_settings_table, out));
    RF_TRY(rf_yaml_parse(r->settings, (int64_t)strlen(r->settings), r->name, &yaml));
    RF_TRY(rf_settings_read(&rf_coder_settings_table, yaml, "", NULL, out, NULL));
    for (int i = 0; i < rf_architecture_count(); i++) {
        if (strcmp(rf_architecture_at(i)->name, r->architecture) == 0) {
            out->architecture = i;
        }
    }
    out->latents = LATENTS;
    out->seed = b->o.seed;
    out->dead_after_tokens = 50 * BATCH;
    out->b_dec = RF_B_DEC_MEAN;
    out->sparsity_warmup_steps = b->o.steps / 10;
fail:
    rf_yaml_free(yaml);
    return status;
}

static rf_status train(bench *b, const row *r, rf_coder *coder)
{
    rf_status status = RF_OK;
    rf_optimiser *opt = NULL;
    rf_step *step = NULL;
    float *x = NULL;
    const rf_coder *coders[] = {coder};
    const rf_step_opts opts = {.max_rows = BATCH};
    const rf_schedule schedule = {.kind = RF_SCHEDULE_DECAY,
                                  .lr = r->lr,
                                  .warmup_steps = b->o.steps / 20,
                                  .n_steps = b->o.steps,
                                  .decay_share = 0.3};
    const rf_coder_settings *settings = rf_coder_get_settings(coder);
    RF_ALLOC(x, HELD_OUT * WIDTH);
    plant(b, UINT64_C(1) << 40, HELD_OUT, x);
    rf_view sample = rf_view_2d(x, HELD_OUT, WIDTH);
    RF_TRY(rf_coder_init(coder, b->s, &sample));
    RF_TRY(rf_optimiser_create(b->be, coder, &(rf_optimiser_opts){0}, &opt));
    RF_TRY(rf_step_create(b->be, b->comm, coders, 1, &opts, &step));
    for (int64_t i = 0; i < b->o.steps; i++) {
        rf_step_rates rates = rf_step_rates_default();
        rf_token_batch batch = {.x = rf_view_2d(b->tokens + i % POOL * BATCH * WIDTH, BATCH, WIDTH),
                                .n_rows = BATCH,
                                .n_valid = BATCH};
        rates.lr = rf_schedule_lr(&schedule, i);
        rates.sparsity_scale = rf_schedule_sparsity(settings, i);
        rates.p = rf_schedule_p(settings, i, b->o.steps);
        RF_TRY(rf_step_run(step, coder, opt, &batch, &rates, NULL));
    }
fail:
    rf_free(x);
    rf_step_destroy(step);
    rf_optimiser_destroy(opt);
    return status;
}

/* ---- what was found ------------------------------------------------------------------------ */

typedef struct found {
    double cosine, above, ev, l0, rarest; /* rarest: the share found of the rarest quarter */
    int64_t n_dead;
    uint64_t hash;
} found;

static void match_atoms(const bench *b, const rf_coder *coder, found *out)
{
    const float *w = rf_coder_view(coder, RF_CODER_W_DEC).data;
    for (int64_t a = 0; a < ATOMS; a++) {
        double best = 0.0;
        for (int64_t i = 0; i < LATENTS; i++) {
            const float *d = w + i * WIDTH;
            double norm = sqrt((double)rf_dot(d, d, WIDTH));
            best =
                fmax(best, norm > 0.0 ? (double)rf_dot(b->atoms + a * WIDTH, d, WIDTH) / norm : 0);
        }
        out->cosine += best / ATOMS;
        out->above += best > 0.9 ? 1.0 / ATOMS : 0.0;
        out->rarest += a >= ATOMS * 3 / 4 && best > 0.9 ? 4.0 / ATOMS : 0.0;
    }
}

static rf_status reconstruct(const bench *b, const rf_coder *coder, found *out)
{
    rf_status status = RF_OK;
    float *x = NULL, *x_hat = NULL;
    double *mean = NULL, variance, error = 0.0;
    int64_t *n_active = NULL;
    RF_ALLOC(x, HELD_OUT * WIDTH);
    RF_ALLOC(x_hat, HELD_OUT * WIDTH);
    RF_ALLOC(mean, WIDTH);
    RF_ALLOC(n_active, HELD_OUT);
    plant(b, UINT64_C(1) << 41, HELD_OUT, x);
    rf_view in = rf_view_2d(x, HELD_OUT, WIDTH), hat = rf_view_2d(x_hat, HELD_OUT, WIDTH);
    RF_TRY(rf_coder_reconstruct(coder, b->s, &in, NULL, NULL, &hat, n_active));
    RF_TRY(rf_sample_moments(x, HELD_OUT, WIDTH, mean, &variance));
    for (int64_t i = 0; i < HELD_OUT * WIDTH; i++) {
        error += ((double)x[i] - (double)x_hat[i]) * ((double)x[i] - (double)x_hat[i]);
    }
    for (int64_t t = 0; t < HELD_OUT; t++) {
        out->l0 += (double)n_active[t] / HELD_OUT;
    }
    out->ev = 1.0 - error / (variance * HELD_OUT);
fail:
    rf_free(n_active);
    rf_free(mean);
    rf_free(x_hat);
    rf_free(x);
    return status;
}

static void count_dead(const rf_coder *coder, found *out)
{
    const int64_t *since = rf_coder_view(coder, RF_CODER_TOKENS_SINCE_FIRED).data;
    for (int64_t i = 0; i < LATENTS; i++) {
        out->n_dead += since[i] >= rf_coder_get_settings(coder)->dead_after_tokens;
    }
    out->hash = 0;
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        rf_view v = rf_coder_view(coder, i);
        if (v.data != NULL) {
            out->hash = rf_hash(out->hash, v.data, sizeof(float) * (size_t)rf_view_n_elems(&v));
        }
    }
}

static rf_status one_row(bench *b, const row *r)
{
    rf_status status = RF_OK;
    rf_coder *coder = NULL;
    rf_coder_settings settings;
    found f = {0};
    const rf_coder_shape shape = rf_coder_shape_of(WIDTH);
    double start = rf_now();
    RF_TRY(settings_of(b, r, &settings));
    RF_TRY(rf_coder_create(b->be, &settings, &shape, &coder));
    RF_TRY(train(b, r, coder));
    match_atoms(b, coder, &f);
    RF_TRY(reconstruct(b, coder, &f));
    count_dead(coder, &f);
    printf("| %-20s | %.3f | %5.1f | %5.1f | %.3f | %5.1f | %3lld | %5.1f | %016llx |\n", r->name,
           f.cosine, 100.0 * f.above, 100.0 * f.rarest, f.ev, f.l0, (long long)f.n_dead,
           rf_now() - start, (unsigned long long)f.hash);
    fflush(stdout);
fail:
    rf_coder_destroy(coder);
    return status;
}

/* ---- command line -------------------------------------------------------------------------- */

static const char usage[] = "bench_planted [--only ROW] [--steps N] [--seed S] [--threads N]";

static rf_status read_options(int argc, char **argv, options *o)
{
    rf_status status = RF_OK;
    for (int i = 1; i < argc; i += 2) {
        RF_REQUIRE(i + 1 < argc, "%s: a value is missing; usage: %s", argv[i], usage);
        if (strcmp(argv[i], "--only") == 0) {
            o->only = argv[i + 1];
        } else if (strcmp(argv[i], "--steps") == 0) {
            RF_TRY_DOING(rf_parse_i64(argv[i + 1], &o->steps), "%s", argv[i]);
        } else if (strcmp(argv[i], "--seed") == 0) {
            RF_TRY_DOING(rf_parse_i64(argv[i + 1], &o->seed), "%s", argv[i]);
        } else if (strcmp(argv[i], "--threads") == 0) {
            RF_TRY_DOING(rf_parse_i64(argv[i + 1], &o->threads), "%s", argv[i]);
        } else {
            RF_REQUIRE(false, "%s: no such option; usage: %s", argv[i], usage);
        }
    }
    RF_REQUIRE(o->steps >= 1 && o->seed >= 0 && o->threads >= 0, "usage: %s", usage);
fail:
    return status;
}

static rf_status run(int *argc, char ***argv, bench *b)
{
    rf_status status = RF_OK;
    int n_threads;
    int64_t n_planted;
    RF_TRY(rf_comm_start(argc, argv, &b->comm));
    RF_TRY(read_options(*argc, *argv, &b->o));
    RF_TRY(rf_cast_int(b->o.threads, "--threads", &n_threads));
    RF_TRY(rf_backend_cpu_create(n_threads, &b->be));
    RF_TRY(rf_stream_create(b->be, &b->s));
    RF_TRY(make_dictionary(b));
    n_planted = rf_min_i64(b->o.steps, POOL) * BATCH;
    RF_ALLOC(b->tokens, n_planted * WIDTH);
    plant(b, 0, n_planted, b->tokens);
    printf(
        "%d atoms of width %d in groups of %d, %d latents, %lld steps of %d tokens, seed %lld\n\n",
        ATOMS, WIDTH, GROUP, LATENTS, (long long)b->o.steps, BATCH, (long long)b->o.seed);
    printf(
        "| coder | mean best cosine | found, %% | of the rarest quarter, %% | EV held out | L0 | "
        "dead | seconds | hash |\n|---|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < N_ROWS; i++) {
        if (b->o.only == NULL || strcmp(b->o.only, rows[i].name) == 0) {
            RF_TRY_DOING(one_row(b, &rows[i]), "%s", rows[i].name);
        }
    }
fail:
    return status;
}

int main(int argc, char **argv)
{
    bench b = {.o = {.steps = 3000}};
    rf_status status = run(&argc, &argv, &b);
    if (status != RF_OK) {
        fprintf(stderr, "bench_planted: %s\n", rf_error_text());
    }
    rf_free(b.tokens);
    rf_free(b.rate);
    rf_free(b.atoms);
    rf_stream_destroy(b.s);
    rf_backend_destroy(b.be);
    rf_comm_finish(b.comm);
    return status == RF_OK ? 0 : 1;
}
