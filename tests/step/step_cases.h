/* Every architecture and recipe as one row each: tests walk them all, so that a new row is tried by
 * each. */
#ifndef REFRACT_STEP_CASES_H
#define REFRACT_STEP_CASES_H

#include "coder/coder_fixture.h"

enum { CASE_WIDTH = 16, CASE_LATENTS = 96 };

typedef struct step_case {
    const char *name, *architecture;
    const char *settings; /* YAML over the defaults */
    int n_in, n_out;      /* sites; n_out 0: an autoencoder */
    bool is_exact;        /* the same bits on any number of ranks */
    int optimiser;        /* rf_optimiser_kind */
    bool is_sparse;       /* starts with few codes and is kept from the dense path */
} step_case;

#define EXACT(name, architecture, settings, n_in, n_out, optimiser)                                \
    {                                                                                              \
        name, architecture, settings, n_in, n_out, true, RF_OPTIMISER_##optimiser, false           \
    }
/* On the dense path, and kept from it. */
#define BOTH(name, architecture, settings, n_in, n_out)                                            \
    {name, architecture, settings, n_in, n_out, false, RF_OPTIMISER_ADAM, false},                  \
    {                                                                                              \
        name ", sparse", architecture, settings, n_in, n_out, false, RF_OPTIMISER_ADAM, true       \
    }

static const step_case step_cases[] = {
    EXACT("topk", "topk", "{k: 5}", 1, 0, ADAM),
    EXACT("topk, k by class", "topk", "{k: {cls: 3, patch: 6}}", 1, 0, ADAM),
    EXACT("topk, bf16 products", "topk", "{k: 5, products: bf16}", 1, 0, ADAM),
    EXACT("topk, layer norm", "topk", "{k: 5, normalise: layer}", 1, 0, ADAMW),
    EXACT("topk, constant norm", "topk", "{k: 5, normalise: constant}", 1, 0, SIGNUM),
    EXACT("topk, average norm, schedule-free", "topk", "{k: 5, normalise: average}", 1, 0,
          SCHEDULE_FREE),
    EXACT("topk, per dimension", "topk", "{k: 5, normalise: per_dimension}", 1, 0, ADAM),
    EXACT("topk, Muon", "topk", "{k: 5}", 1, 0, MUON),
    EXACT("topk, archetypal", "topk", "{k: 5, decoder: archetypal, archetypal_points: 40}", 1, 0,
          ADAM),
    EXACT("topk, data points", "topk", "{k: 5, data_blend: 0.8, w_enc: independent}", 1, 0, ADAM),
    EXACT("multi_topk", "multi_topk", "{k: 4}", 1, 0, ADAM),
    EXACT("multi_topk, k by class", "multi_topk", "{k: {cls: 6, patch: 3}}", 1, 0, ADAM),
    EXACT("batch_topk", "batch_topk", "{k: 5}", 1, 0, ADAM),
    EXACT("batch_topk, k by class", "batch_topk", "{k: {cls: 3, patch: 6}}", 1, 0, ADAM),
    EXACT("matryoshka over topk, k by class", "matryoshka",
          "{k: {cls: 3, patch: 6}, selection: topk, n_prefixes: 3}", 1, 0, ADAM),
    EXACT("matryoshka", "matryoshka", "{k: 5, n_prefixes: 3}", 1, 0, ADAM),
    EXACT("matryoshka, k by class", "matryoshka", "{k: {cls: 9, any: 4}, n_prefixes: 3}", 1, 0,
          ADAM),
    EXACT("matryoshka over topk, random", "matryoshka",
          "{k: 5, selection: topk, n_prefixes: 4, random_prefixes: true}", 1, 0, ADAM),
    EXACT("transcoder", "topk", "{k: 5, w_enc: independent}", 1, 1, ADAM),
    EXACT("transcoder, skip", "batch_topk", "{k: 5, skip: true, normalise: average}", 1, 1, ADAM),
    EXACT("crosscoder, batch_topk", "batch_topk", "{k: 5}", 2, 0, ADAM),
    BOTH("relu, L1", "relu", "{l1: 0.01}", 1, 0),
    BOTH("relu, Lp", "relu", "{l1: 0.01, penalty: lp, p: 0.7}", 1, 0),
    BOTH("relu, tanh by norms", "relu",
         "{l1: 0.1, penalty: tanh, decoder: free, penalty_by_norm: true}", 1, 0),
    BOTH("relu, AuxK", "relu", "{l1: 0.01, aux_k: 8}", 1, 0),
    BOTH("relu, ghost", "relu", "{l1: 0.01, ghost: original}", 1, 0),
    BOTH("crosscoder, L1 by norms", "relu", "{l1: 0.01, decoder: free, penalty_by_norm: true}", 3,
         0),
    BOTH("p_anneal", "p_anneal", "{l1: 0.01}", 1, 0),
    BOTH("jumprelu", "jumprelu", "{l0: 0.001}", 1, 0),
    BOTH("jumprelu, target L0", "jumprelu",
         "{penalty: target_l0, target_l0: 5, l0: 0.1, bandwidth: 0.2, threshold_start: 0.05}", 1,
         0),
    BOTH("jumprelu, tanh", "jumprelu",
         "{penalty: tanh, l1: 0.01, ste_to_input: true, pre_activation: 1e-4, bandwidth: 0.05}", 1,
         0),
    BOTH("gated", "gated", "{l1: 0.01}", 1, 0),
    BOTH("gated, AuxK", "gated", "{l1: 0.01, aux_k: 8}", 1, 0),
    BOTH("transcoder, jumprelu", "jumprelu", "{l0: 0.001, skip: true}", 1, 1),
};
enum { N_STEP_CASES = sizeof step_cases / sizeof step_cases[0] };

static inline rf_coder_settings case_settings(const step_case *c)
{
    rf_yaml *yaml = NULL;
    rf_coder_settings settings = fixture_settings(c->architecture, CASE_LATENTS, 5);
    OK(rf_yaml_parse(c->settings, (int64_t)strlen(c->settings), c->name, &yaml));
    OK(rf_settings_read(&rf_coder_settings_table, yaml, "", NULL, &settings, NULL));
    rf_yaml_free(yaml);
    settings.dead_after_tokens = 900;
    return settings;
}

/* Columns of a batch: input sites, then target sites. */
static inline int64_t case_columns(const step_case *c)
{
    return (int64_t)(c->n_in + c->n_out) * CASE_WIDTH;
}

/* Before a step of a case that is kept from the dense path. */
static inline void case_keep_sparse(const step_case *c, const fixture *f)
{
    rf_coder_state state;
    if (c->is_sparse) {
        OK(rf_coder_get_state(f->coder, f->s, &state));
        state.counters[RF_COUNTER_DENSE] = 0;
        OK(rf_coder_set_state(f->coder, f->s, &state));
    }
}

/* Its start values come from the first rows of x [>= 256, columns]. */
static inline fixture case_make(const rf_comm *comm, const step_case *c, float *x, int64_t max_rows,
                                int n_threads)
{
    const rf_coder_settings settings = case_settings(c);
    const rf_optimiser_opts how = {.kind = c->optimiser};
    rf_coder_shape shape = {.n_in = c->n_in, .n_out = c->n_out};
    rf_view sample = rf_view_2d(x, 256, case_columns(c));
    for (int i = 0; i < c->n_in; i++) {
        shape.in[i] = CASE_WIDTH;
    }
    for (int i = 0; i < c->n_out; i++) {
        shape.out[i] = CASE_WIDTH;
    }
    fixture f = fixture_make_of(comm, &settings, &shape, &how, max_rows, n_threads);
    OK(rf_coder_init(f.coder, f.s, &sample));
    const float norm =
        settings.decoder == RF_DECODER_FREE ? (float)settings.decoder_start_norm : 1.0f;
    int64_t *since = rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data;
    for (int i = 0; i < CASE_LATENTS; i++) {
        const bool sleeps = i % 8 == 3; /* something for the remedies */
        since[i] = sleeps ? 1000000 : 0;
        if (sleeps || c->is_sparse) {
            fixture_floats(&f, RF_CODER_B_ENC)[i] = (sleeps ? -2.5f : -0.5f) * norm;
        }
        if (c->is_sparse && rf_coder_has(f.coder, RF_CODER_B_MAG)) {
            fixture_floats(&f, RF_CODER_B_MAG)[i] = -0.7f;
        }
    }
    return f;
}

/* Rows that a dictionary made, every site (and target) another mixture of the same few atoms. */
static inline float *case_rows(const step_case *c, uint64_t tag, int64_t n)
{
    return fixture_planted(tag, n, case_columns(c));
}

/* Every third token is a CLS token. */
static const uint8_t *case_classes(int64_t first)
{
    static uint8_t classes[4096 + 3];
    for (int64_t i = 0; i < 4096 + 3; i++) {
        classes[i] = i % 3 == 0 ? RF_TOKENS_CLS : RF_TOKENS_PATCH;
    }
    return classes + first % 3;
}

static inline rf_token_batch case_batch(const rf_comm *comm, const step_case *c, float *x,
                                        int64_t n, const uint8_t *valid)
{
    rf_token_batch batch = fixture_batch(comm, x, n, case_columns(c), valid);
    batch.classes = case_classes(batch.first_row);
    return batch;
}

static inline rf_step_rates case_rates(const step_case *c)
{
    rf_step_rates rates = rf_step_rates_default();
    rates.lr = c->optimiser == RF_OPTIMISER_SIGNUM ? 1e-3 : 3e-3;
    rates.weight_decay = c->optimiser == RF_OPTIMISER_ADAMW ? 0.01 : 0.0;
    return rates;
}

#endif
