/* The dense path over several micro-batches and tiles of latents, each with a ragged last one: the
 * same gradients and figures as the sparse path. */
#include "coder/coder_fixture.h"

static rf_comm *comm;

enum { D = 6, F = 4100, B = 1100 }; /* tiles of 4096 latents, micro-batches of 512 tokens */

typedef struct path_case {
    const char *name, *architecture;
    void (*set)(rf_coder_settings *s);
} path_case;

static void set_nothing(rf_coder_settings *s)
{
    (void)s;
}

static void set_aux(rf_coder_settings *s)
{
    s->aux_alpha = 0.1;
    s->aux_k = 8;
}

static void set_tanh_by_norm(rf_coder_settings *s)
{
    s->penalty = RF_PENALTY_CHOICE_TANH;
    s->decoder = RF_DECODER_FREE;
    s->penalty_by_norm = true;
}

static void set_lp_and_ghost(rf_coder_settings *s)
{
    s->penalty = RF_PENALTY_CHOICE_LP;
    s->p = 1.5;
    s->ghost = RF_GHOST_ORIGINAL;
}

static const path_case cases[] = {
    {"relu", "relu", set_nothing},
    {"relu with tanh by norm", "relu", set_tanh_by_norm},
    {"relu with lp and ghost", "relu", set_lp_and_ghost},
    {"jumprelu with aux", "jumprelu", set_aux},
    {"gated with aux", "gated", set_aux},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static void fill(const fixture *f, int idx, float mean, float scale)
{
    int64_t n = rf_coder_has(f->coder, idx) ? fixture_len(f, idx) : 0;
    float *normals = fixture_normals(40 + (uint64_t)idx, n, scale);
    for (int64_t i = 0; i < n; i++) {
        fixture_floats(f, idx)[i] = mean + normals[i];
    }
    rf_free(normals);
}

/* About one latent of 150 active. */
static fixture make(const path_case *c, bool is_dense)
{
    rf_coder_settings s = fixture_settings(c->architecture, F, 1);
    s.l1 = 0.01;
    s.l0 = 0.01;
    s.bandwidth = 0.1;
    s.aux_alpha = 0.0;
    s.dead_after_tokens = 100;
    c->set(&s);
    fixture f = fixture_make(comm, &s, D, B, 2);
    const rf_segments one = {.n = 1, .end = {D}};
    rf_view w_dec = rf_coder_view(f.coder, RF_CODER_W_DEC);
    int64_t *since = rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data;
    rf_coder_state state;
    fill(&f, RF_CODER_W_ENC, 0.0f, 0.4f);
    fill(&f, RF_CODER_B_ENC, -2.5f, 0.1f);
    fill(&f, RF_CODER_W_DEC, 0.0f, 0.4f);
    fill(&f, RF_CODER_B_DEC, 0.0f, 0.1f);
    fill(&f, RF_CODER_LOG_THRESHOLD, -2.0f, 0.1f);
    fill(&f, RF_CODER_GAIN, 0.0f, 0.1f);
    fill(&f, RF_CODER_B_MAG, -2.4f, 0.1f);
    OK(rf_apply_row_rule(f.s, &w_dec, RF_ROW_UNIT_NORM, &one, 0.0f));
    for (int i = 0; i < F; i++) {
        since[i] = i % 5 == 0 ? 100 : 0;
    }
    OK(rf_coder_get_state(f.coder, f.s, &state));
    state.scalars[RF_SCALAR_VARIANCE] = 6.0f;
    state.scalars[RF_SCALAR_RMS] = 1.0f;
    state.counters[RF_COUNTER_DENSE] = is_dense;
    OK(rf_coder_set_state(f.coder, f.s, &state));
    return f;
}

static rf_step_metrics look(const fixture *f, float *x, const uint8_t *valid)
{
    const rf_step_rates rates = fixture_gradient_rates();
    rf_token_batch batch = fixture_batch(comm, x, B, D, valid);
    rf_step_metrics metrics;
    OK(rf_step_run(f->step, f->coder, f->opt, &batch, &rates, &metrics));
    return metrics;
}

/* fp32 sums of up to 1100 rows in another order: errors of 1e-6, ten times that allowed. */
static void compare_figure(const path_case *c, const char *what, double sparse, double dense)
{
    if (!(fabs(sparse - dense) <= 1e-5 * fabs(sparse))) {
        fail_msg("%s: %s is %.9g on the sparse path and %.9g on the dense one", c->name, what,
                 sparse, dense);
    }
}

static void paths_agree(void **state)
{
    const path_case *c = *state;
    float *x = fixture_normals(9, B * D, 1.0f);
    uint8_t valid[B];
    for (int b = 0; b < B; b++) {
        valid[b] = b % 11 != 5;
    }
    fixture sparse = make(c, false), dense = make(c, true);
    rf_step_metrics s = look(&sparse, x, valid), d = look(&dense, x, valid);
    assert_false(s.dense_path);
    assert_true(d.dense_path);
    compare_figure(c, "mse", s.mse, d.mse);
    compare_figure(c, "sparsity", s.sparsity, d.sparsity);
    compare_figure(c, "aux", s.aux, d.aux);
    compare_figure(c, "extra", s.extra, d.extra);
    compare_figure(c, "explained variance", s.explained_variance, d.explained_variance);
    compare_figure(c, "grad_norm", s.grad_norm, d.grad_norm);
    compare_figure(c, "l0", s.l0, d.l0);
    assert_int_equal(s.n_fired, d.n_fired);
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        if (rf_coder_has(sparse.coder, i)) {
            double err = fixture_distance(fixture_gradient(&dense, i), fixture_gradient(&sparse, i),
                                          fixture_len(&sparse, i));
            if (!(err <= 1e-5)) { /* as figures */
                fail_msg("%s: gradient of %s differs by %.3g", c->name,
                         rf_coder_tensor_at(sparse.coder, i).name, err);
            }
        }
    }
    fixture_destroy(&dense);
    fixture_destroy(&sparse);
    rf_free(x);
}

static int start(void **state)
{
    (void)state;
    return rf_comm_start(NULL, NULL, &comm) == RF_OK ? 0 : -1;
}

static int finish(void **state)
{
    (void)state;
    rf_comm_finish(comm);
    return 0;
}

int main(void)
{
    static struct CMUnitTest tests[N_CASES];
    for (int i = 0; i < N_CASES; i++) {
        tests[i] = (struct CMUnitTest){.name = cases[i].name,
                                       .test_func = paths_agree,
                                       .initial_state = (void *)(uintptr_t)&cases[i]};
    }
    return _cmocka_run_group_tests("paths agree", tests, N_CASES, start, finish);
}
