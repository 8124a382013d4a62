/* Coders of every architecture against torch: gradients of one step, and what three steps of loss,
 * backward, clip, project, Adam, renormalise make of them (tests/golden/make_coder.py). */
#include "coder/coder_fixture.h"

static rf_comm *comm;

enum { D = 12, F = 48, B = 24, K = 4, AUX_K = 6, STEPS = 3, FIGURES = 9 };

typedef struct torch_case {
    const char *name, *architecture;
    void (*set)(rf_coder_settings *s);
    int n_in;
    int64_t in[2], target;
    double p;
    double slack; /* errors may be so many times larger; 0: 1 */
} torch_case;

static void set_nothing(rf_coder_settings *s)
{
    (void)s;
}

static void set_aux(rf_coder_settings *s)
{
    s->aux_alpha = 1.0 / 32;
    s->aux_k = AUX_K;
}

static void set_matryoshka(rf_coder_settings *s)
{
    s->n_prefixes = 4;
    set_aux(s);
}

static void set_by_norm(rf_coder_settings *s)
{
    s->decoder = RF_DECODER_FREE;
    s->penalty_by_norm = true;
}

static void set_tanh_to_all(rf_coder_settings *s)
{
    set_by_norm(s);
    s->penalty = RF_PENALTY_CHOICE_TANH;
    s->tanh_scale = 1.5;
    s->ste_to_input = true;
    s->pre_activation = 0.03;
}

static void set_ghost(rf_coder_settings *s)
{
    s->ghost = RF_GHOST_ORIGINAL;
}

static void set_skip(rf_coder_settings *s)
{
    set_aux(s);
    s->skip = true;
}

static void set_archetypal(rf_coder_settings *s)
{
    s->decoder = RF_DECODER_ARCHETYPAL;
    s->archetypal_points = 7;
}

static void set_lp(rf_coder_settings *s)
{
    s->penalty = RF_PENALTY_CHOICE_LP;
    s->p = 0.5;
}

static void set_tanh(rf_coder_settings *s)
{
    s->penalty = RF_PENALTY_CHOICE_TANH;
    s->tanh_scale = 1.5;
}

static void set_target_l0(rf_coder_settings *s)
{
    s->penalty = RF_PENALTY_CHOICE_TARGET_L0;
    s->target_l0 = 6.0;
}

static void set_pre_activation(rf_coder_settings *s)
{
    s->pre_activation = 0.03;
}

static void set_ghost_prisma(rf_coder_settings *s)
{
    s->prisma_compat = true;
    s->ghost = RF_GHOST_PRISMA;
}

static const torch_case cases[] = {
    {"topk", "topk", set_aux, 1, {D}, 0, 0, 0},
    {"multi_topk", "multi_topk", set_nothing, 1, {D}, 0, 0, 0},
    {"batch_topk", "batch_topk", set_aux, 1, {D}, 0, 0, 0},
    {"matryoshka", "matryoshka", set_matryoshka, 1, {D}, 0, 0, 0},
    {"relu", "relu", set_nothing, 1, {D}, 0, 0, 0},
    {"p_anneal", "p_anneal", set_nothing, 1, {D}, 0, 0.5, 0},
    {"jumprelu", "jumprelu", set_nothing, 1, {D}, 0, 0, 0},
    {"jumprelu_tanh", "jumprelu", set_tanh_to_all, 1, {D}, 0, 0, 0},
    {"gated", "gated", set_nothing, 1, {D}, 0, 0, 0},
    {"ghost", "relu", set_ghost, 1, {D}, 0, 0, 0},
    {"skip_transcoder", "topk", set_skip, 1, {D}, D, 0, 0},
    {"crosscoder", "relu", set_by_norm, 2, {5, 7}, 0, 0, 0},
    {"archetypal", "topk", set_archetypal, 1, {D}, 0, 0, 0},
    {"relu_lp", "relu", set_lp, 1, {D}, 0, 0, 0},
    {"relu_tanh", "relu", set_tanh, 1, {D}, 0, 0, 0},
    {"jumprelu_target_l0", "jumprelu", set_target_l0, 1, {D}, 0, 0, 0},
    {"jumprelu_pre_activation", "jumprelu", set_pre_activation, 1, {D}, 0, 0, 0},
    /* an element's gradient is near 1 over its error: rounding of small errors, down to 1/300 of
     * others, counts that much more */
    {"ghost_prisma", "relu", set_ghost_prisma, 1, {D}, 0, 0, 10},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static double tolerance(const torch_case *c)
{
    return 1e-5 * (c->slack > 0.0 ? c->slack : 1.0);
}

static rf_coder_settings settings_of(const torch_case *c)
{
    rf_coder_settings s = fixture_settings(c->architecture, F, K);
    s.l1 = 2e-3;
    s.l0 = 1e-3;
    s.bandwidth = 0.5;
    s.aux_alpha = 0.0;
    s.dead_after_tokens = 1000;
    c->set(&s);
    return s;
}

static const rf_named_tensor *find(const rf_tensor_file *file, const char *folder, const char *name)
{
    char path[64];
    OK(rf_format(path, sizeof path, "%s%s", folder, name));
    const rf_named_tensor *t = rf_tensor_file_find(file, path);
    if (t == NULL) {
        fail_msg("the golden file has no %s", path);
    }
    return t;
}

static void read_f32(const rf_tensor_file *file, const char *folder, const char *name, float *out)
{
    OK(rf_named_tensor_read_f32(find(file, folder, name), out));
}

/* Is it a parameter that this coder has? */
static bool is_parameter(const fixture *f, int idx)
{
    rf_coder_tensor t = rf_coder_tensor_at(f->coder, idx);
    return t.view.data != NULL && t.kind == RF_TENSOR_PARAMETER;
}

static fixture start_of(const torch_case *c, const rf_tensor_file *file, bool is_dense)
{
    const rf_optimiser_opts adam = {.kind = RF_OPTIMISER_ADAM};
    const rf_coder_settings settings = settings_of(c);
    rf_coder_shape shape = {.n_in = c->n_in, .n_out = c->target > 0, .out = {c->target}};
    rf_coder_state state;
    memcpy(shape.in, c->in, sizeof c->in);
    fixture f = fixture_make_of(comm, &settings, &shape, &adam, B, 2);
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        if (is_parameter(&f, i)) {
            rf_coder_tensor t = rf_coder_tensor_at(f.coder, i);
            read_f32(file, "start/", t.name, t.view.data);
        }
    }
    if (rf_coder_has(f.coder, RF_CODER_POINTS)) {
        read_f32(file, "", "points", rf_coder_view(f.coder, RF_CODER_POINTS).data);
    }
    OK(rf_coder_derive(f.coder, f.s));
    memcpy(rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data,
           find(file, "", "tokens_since_fired")->bytes, sizeof(int64_t) * F);
    OK(rf_coder_get_state(f.coder, f.s, &state));
    read_f32(file, "", "variance", &state.scalars[RF_SCALAR_VARIANCE]);
    state.scalars[RF_SCALAR_RMS] = 1.0f;
    state.counters[RF_COUNTER_DENSE] = is_dense;
    OK(rf_coder_set_state(f.coder, f.s, &state));
    return f;
}

static void compare_gradients(const torch_case *c, const fixture *f, const rf_tensor_file *file)
{
    static float want[F * 2 * D];
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        if (is_parameter(f, i)) {
            rf_coder_tensor t = rf_coder_tensor_at(f->coder, i);
            read_f32(file, "gradient/", t.name, want);
            double err = fixture_distance(fixture_gradient(f, i), want, rf_view_n_elems(&t.view));
            if (!(err <= tolerance(c))) { /* fp32 against double */
                fail_msg("%s: gradient of %s differs by %.3g", c->name, t.name, err);
            }
        }
    }
}

static void compare_end(const torch_case *c, const fixture *f, const rf_tensor_file *file)
{
    static float want[F * 2 * D];
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        if (is_parameter(f, i)) {
            rf_coder_tensor t = rf_coder_tensor_at(f->coder, i);
            read_f32(file, "end/", t.name, want);
            double err = fixture_distance(t.view.data, want, rf_view_n_elems(&t.view));
            if (!(err <= tolerance(c))) { /* fp32 against double; a step moves them by 1e-3 */
                fail_msg("%s: %s differs by %.3g after %d steps", c->name, t.name, err, STEPS);
            }
        }
    }
    assert_memory_equal(rf_coder_view(f->coder, RF_CODER_TOKENS_SINCE_FIRED).data,
                        find(file, "end/", "tokens_since_fired")->bytes, sizeof(int64_t) * F);
}

static void compare_figures(const torch_case *c, const rf_tensor_file *file, int step,
                            const rf_step_metrics *m)
{
    static const char *const names[FIGURES] = {"mse", "sparsity", "aux",    "extra",  "l0",
                                               "ev",  "norm",     "n_dead", "n_fired"};
    double want[STEPS][FIGURES];
    const double got[FIGURES] = {m->mse,
                                 m->sparsity,
                                 m->aux,
                                 m->extra,
                                 m->l0,
                                 m->explained_variance,
                                 m->grad_norm,
                                 (double)m->n_dead,
                                 (double)m->n_fired};
    memcpy(want, find(file, "", "figures")->bytes, sizeof want);
    for (int i = 0; i < FIGURES; i++) {
        /* fp32 sums of 12 to 96 terms, and parameters that differ by 1e-6 after a step; `extra` is
         * a difference of larger figures */
        double err = fabs(got[i] - want[step][i]);
        if (!(err <= tolerance(c) * (fabs(want[step][i]) + (i == 3 ? fabs(want[step][0]) : 0.0)))) {
            fail_msg("%s, step %d: %s is %.9g, torch has %.9g", c->name, step, names[i], got[i],
                     want[step][i]);
        }
    }
}

static void against_torch(const torch_case *c, bool is_dense)
{
    char path[RF_PATH_LEN];
    rf_tensor_file *file = NULL;
    const int64_t width = D + c->target;
    float *x = rf_calloc(STEPS * B * width, sizeof *x);
    rf_step_rates rates = fixture_gradient_rates();
    rf_step_metrics metrics;
    OK(rf_format(path, sizeof path, "%s/coder_%s.safetensors", RF_GOLDEN_DIR, c->name));
    OK(rf_tensor_file_open(path, &file));
    read_f32(file, "", "x", x);

    fixture f = start_of(c, file, is_dense);
    rf_token_batch batch = fixture_batch(comm, x, B, width, NULL);
    rates.p = c->p;
    OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
    assert_int_equal(metrics.dense_path, is_dense);
    compare_gradients(c, &f, file);
    fixture_destroy(&f);

    f = start_of(c, file, is_dense);
    rates = rf_step_rates_default();
    rates.lr = 1e-3;
    rates.clip_norm = 0.05;
    rates.p = c->p;
    for (int step = 0; step < STEPS; step++) {
        batch = fixture_batch(comm, x + step * B * width, B, width, NULL);
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
        compare_figures(c, file, step, &metrics);
    }
    compare_end(c, &f, file);
    fixture_destroy(&f);
    rf_tensor_file_close(file);
    rf_free(x);
}

static void equals_torch(void **state)
{
    const torch_case *c = *state;
    against_torch(c, false);
    if (rf_architecture_find(c->architecture)->may_be_dense) {
        against_torch(c, true);
    }
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
                                       .test_func = equals_torch,
                                       .initial_state = (void *)(uintptr_t)&cases[i]};
    }
    return _cmocka_run_group_tests("steps equal torch's", tests, N_CASES, start, finish);
}
