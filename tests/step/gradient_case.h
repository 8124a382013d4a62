/* Coders of every architecture and option, each beside the naive one (naive.h) with the same random
 * parameters: the step's gradients, on both of its paths, equal finite differences. */
#ifndef REFRACT_GRADIENT_CASE_H
#define REFRACT_GRADIENT_CASE_H

#include "step/naive.h"

static rf_comm *comm; /* of the test that includes this */

/* ---- cases ------------------------------------------------------------------------------------
 */

enum { TOP_K = 4, MAX_SITES = 2 };

typedef struct gradient_case {
    const char *name, *architecture;
    void (*set)(rf_coder_settings *s);
    int n_in, n_out;
    int64_t in[MAX_SITES], out[MAX_SITES];
    double p;            /* of p_anneal */
    bool k_by_class;     /* rows take turns */
    bool has_quiet_dead; /* dead latents are so far below their thresholds that none fires */
    /* 0: 1e-5, fp32 sums of tens of terms. 1e-4: a power below one of small values, or Prisma's
     * division by errors that come near 0 */
    double tolerance;
} gradient_case;

static inline void set_nothing(rf_coder_settings *s)
{
    (void)s;
}

static inline void set_aux(rf_coder_settings *s)
{
    s->aux_alpha = 0.25;
    s->aux_k = 3;
}

static inline void set_k_by_class(rf_coder_settings *s)
{
    s->k = (rf_k_by_class){.any = TOP_K, .of = {1, 0, 6}};
}

static inline void set_lp(rf_coder_settings *s)
{
    s->penalty = RF_PENALTY_CHOICE_LP;
    s->p = 1.7;
}

static inline void set_lp_below_one(rf_coder_settings *s)
{
    s->penalty = RF_PENALTY_CHOICE_LP;
    s->p = 0.6;
}

static inline void set_tanh(rf_coder_settings *s)
{
    s->penalty = RF_PENALTY_CHOICE_TANH;
    s->tanh_scale = 1.5;
}

static inline void set_l1(rf_coder_settings *s)
{
    s->penalty = RF_PENALTY_CHOICE_L1;
}

static inline void set_by_norm(rf_coder_settings *s)
{
    s->decoder = RF_DECODER_FREE;
    s->penalty_by_norm = true;
}

static inline void set_tanh_by_norm(rf_coder_settings *s)
{
    set_by_norm(s);
    set_tanh(s);
}

static inline void set_target_l0(rf_coder_settings *s)
{
    s->penalty = RF_PENALTY_CHOICE_TARGET_L0;
    s->target_l0 = 3.0;
}

static inline void set_ste_to_input(rf_coder_settings *s)
{
    s->ste_to_input = true;
}

/* Anthropic, January 2025 */
static inline void set_tanh_to_all(rf_coder_settings *s)
{
    set_tanh_by_norm(s);
    s->ste_to_input = true;
    s->pre_activation = 0.03;
}

static inline void set_pre_activation(rf_coder_settings *s)
{
    s->pre_activation = 0.03;
}

static inline void set_matryoshka(rf_coder_settings *s)
{
    s->n_prefixes = 4;
    s->selection = RF_SELECTION_BATCH_TOPK;
    set_aux(s);
}

static inline void set_matryoshka_topk(rf_coder_settings *s)
{
    s->n_prefixes = 3;
    s->selection = RF_SELECTION_TOPK;
}

static inline void set_skip(rf_coder_settings *s)
{
    s->skip = true;
}

static inline void set_independent(rf_coder_settings *s)
{
    s->w_enc = RF_W_ENC_INDEPENDENT;
}

static inline void set_no_subtract(rf_coder_settings *s)
{
    s->subtract = RF_SUBTRACT_NO;
}

static inline void set_archetypal(rf_coder_settings *s)
{
    s->decoder = RF_DECODER_ARCHETYPAL;
    s->archetypal_points = NAIVE_POINTS;
}

static inline void set_ghost(rf_coder_settings *s)
{
    s->ghost = RF_GHOST_ORIGINAL;
}

static inline void set_ghost_prisma(rf_coder_settings *s)
{
    s->ghost = RF_GHOST_PRISMA;
    s->prisma_compat = true;
}

static const gradient_case cases[] = {
    {"topk", "topk", set_nothing, 1, 0, {9}, {0}, 0, false, false, 0},
    {"topk with aux", "topk", set_aux, 1, 0, {9}, {0}, 0, false, false, 0},
    {"topk with k by class", "topk", set_k_by_class, 1, 0, {9}, {0}, 0, true, false, 0},
    {"topk without b_dec at the input",
     "topk",
     set_no_subtract,
     1,
     0,
     {6},
     {0},
     0,
     false,
     false,
     0},
    {"topk with ghost", "topk", set_ghost, 1, 0, {7}, {0}, 0, false, false, 0},
    {"topk with Prisma's ghost", "topk", set_ghost_prisma, 1, 0, {7}, {0}, 0, false, false, 1e-4},
    {"topk, archetypal", "topk", set_archetypal, 1, 0, {6}, {0}, 0, false, false, 0},
    {"multi_topk", "multi_topk", set_aux, 1, 0, {9}, {0}, 0, false, false, 0},
    {"batch_topk", "batch_topk", set_aux, 1, 0, {8}, {0}, 0, false, false, 0},
    {"batch_topk with k by class", "batch_topk", set_k_by_class, 1, 0, {8}, {0}, 0, true, false, 0},
    {"matryoshka with k by class", "matryoshka", set_k_by_class, 1, 0, {8}, {0}, 0, true, false, 0},
    {"matryoshka", "matryoshka", set_matryoshka, 1, 0, {8}, {0}, 0, false, false, 0},
    {"matryoshka of topk", "matryoshka", set_matryoshka_topk, 1, 0, {8}, {0}, 0, false, false, 0},
    {"matryoshka with ghost", "matryoshka", set_ghost, 1, 0, {8}, {0}, 0, false, false, 0},
    {"matryoshka with Prisma's ghost",
     "matryoshka",
     set_ghost_prisma,
     1,
     0,
     {8},
     {0},
     0,
     false,
     false,
     1e-4},
    {"relu", "relu", set_nothing, 1, 0, {9}, {0}, 0, false, false, 0},
    {"relu with aux", "relu", set_aux, 1, 0, {9}, {0}, 0, false, false, 0},
    {"relu with lp", "relu", set_lp, 1, 0, {8}, {0}, 0, false, false, 0},
    {"relu with lp below one", "relu", set_lp_below_one, 1, 0, {8}, {0}, 0, false, false, 1e-4},
    {"relu with tanh", "relu", set_tanh, 1, 0, {8}, {0}, 0, false, false, 0},
    {"relu with l1 by norm", "relu", set_by_norm, 1, 0, {8}, {0}, 0, false, false, 0},
    {"relu with tanh by norm", "relu", set_tanh_by_norm, 1, 0, {8}, {0}, 0, false, false, 0},
    {"relu with ghost", "relu", set_ghost, 1, 0, {8}, {0}, 0, false, false, 0},
    {"relu with Prisma's ghost", "relu", set_ghost_prisma, 1, 0, {7}, {0}, 0, false, false, 1e-4},
    {"relu, archetypal", "relu", set_archetypal, 1, 0, {6}, {0}, 0, false, false, 0},
    {"p_anneal", "p_anneal", set_nothing, 1, 0, {8}, {0}, 0.5, false, false, 1e-4},
    {"jumprelu", "jumprelu", set_nothing, 1, 0, {8}, {0}, 0, false, false, 0},
    {"jumprelu with aux", "jumprelu", set_aux, 1, 0, {8}, {0}, 0, false, false, 0},
    {"jumprelu with target_l0", "jumprelu", set_target_l0, 1, 0, {8}, {0}, 0, false, false, 0},
    {"jumprelu with l1", "jumprelu", set_l1, 1, 0, {8}, {0}, 0, false, false, 0},
    {"jumprelu with tanh", "jumprelu", set_tanh, 1, 0, {8}, {0}, 0, false, false, 0},
    {"jumprelu, windows to all", "jumprelu", set_ste_to_input, 1, 0, {8}, {0}, 0, false, false, 0},
    {"jumprelu, tanh to all", "jumprelu", set_tanh_to_all, 1, 0, {8}, {0}, 0, false, true, 0},
    {"jumprelu, pre_activation", "jumprelu", set_pre_activation, 1, 0, {8}, {0}, 0, false, true, 0},
    {"gated", "gated", set_nothing, 1, 0, {8}, {0}, 0, false, false, 0},
    {"gated with aux", "gated", set_aux, 1, 0, {8}, {0}, 0, false, false, 0},
    {"gated with l1 by norm", "gated", set_by_norm, 1, 0, {8}, {0}, 0, false, false, 0},
    {"gated with ghost", "gated", set_ghost, 1, 0, {8}, {0}, 0, false, false, 0},
    {"transcoder of topk", "topk", set_independent, 1, 1, {5}, {8}, 0, false, false, 0},
    {"transcoder of relu", "relu", set_independent, 1, 1, {8}, {5}, 0, false, false, 0},
    {"skip transcoder of topk", "topk", set_skip, 1, 1, {7}, {7}, 0, false, false, 0},
    {"skip transcoder of multi_topk", "multi_topk", set_skip, 1, 1, {7}, {7}, 0, false, false, 0},
    {"skip transcoder of matryoshka", "matryoshka", set_skip, 1, 1, {7}, {7}, 0, false, false, 0},
    {"skip transcoder of gated", "gated", set_skip, 1, 1, {7}, {7}, 0, false, false, 0},
    {"skip transcoder of jumprelu", "jumprelu", set_skip, 1, 1, {7}, {7}, 0, false, false, 0},
    {"crosscoder, l1 by norms", "relu", set_by_norm, 2, 0, {4, 5}, {0}, 0, false, false, 0},
    {"crosscoder of batch_topk", "batch_topk", set_aux, 2, 0, {4, 5}, {0}, 0, false, false, 0},
    {"transcoder with ghost", "relu", set_ghost, 1, 1, {7}, {7}, 0, false, false, 0},
    {"transcoder to two sites", "relu", set_independent, 1, 2, {6}, {4, 5}, 0, false, false, 0},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

/* ---- a coder and the naive one with the same random parameters --------------------------------
 */

typedef struct pair {
    fixture f;
    naive m;
    uint8_t classes[NAIVE_B];
} pair;

static inline rf_coder_settings settings_of(const gradient_case *c)
{
    rf_coder_settings s = fixture_settings(c->architecture, NAIVE_F, TOP_K);
    s.l1 = 0.02;
    s.l0 = 0.01;
    s.bandwidth = 0.5;
    s.aux_alpha = 0.0;
    s.dead_after_tokens = 100;
    c->set(&s);
    return s;
}

/* Rows of the tensor times `scale`, as a step has them. */
static inline void fill(pair *f, int idx, uint64_t tag, float mean, float scale)
{
    rf_view v = rf_coder_view(f->f.coder, idx);
    int64_t n = v.data == NULL ? 0 : rf_view_n_elems(&v);
    float *to = v.data, *normals = fixture_normals(tag + (uint64_t)idx, n, scale);
    for (int64_t i = 0; i < n; i++) {
        to[i] = mean + normals[i];
    }
    rf_free(normals);
}

static inline void make_simplex(pair *f)
{
    rf_view v = rf_coder_view(f->f.coder, RF_CODER_ARCHETYPES);
    float *rows = v.data;
    for (int64_t i = 0; v.data != NULL && i < NAIVE_F; i++) {
        float sum = 0.0f;
        for (int q = 0; q < NAIVE_POINTS; q++) {
            rows[i * NAIVE_POINTS + q] = fabsf(rows[i * NAIVE_POINTS + q]) + 0.05f;
            sum += rows[i * NAIVE_POINTS + q];
        }
        for (int q = 0; q < NAIVE_POINTS; q++) {
            rows[i * NAIVE_POINTS + q] /= sum;
        }
    }
}

static inline void fill_coder(pair *f, const gradient_case *c, uint64_t tag)
{
    const rf_segments sites = rf_coder_out_segments(f->f.coder);
    rf_view w_dec = rf_coder_view(f->f.coder, RF_CODER_W_DEC);
    int64_t *since = rf_coder_view(f->f.coder, RF_CODER_TOKENS_SINCE_FIRED).data;
    float *b_enc;
    rf_coder_state state;
    fill(f, RF_CODER_W_ENC, tag, 0.0f, 0.4f);
    fill(f, RF_CODER_B_ENC, tag, 0.0f, 0.2f);
    fill(f, RF_CODER_W_DEC, tag, 0.0f, 0.4f);
    fill(f, RF_CODER_B_DEC, tag, 0.0f, 0.3f);
    fill(f, RF_CODER_LOG_THRESHOLD, tag, -1.2f, 0.2f);
    fill(f, RF_CODER_GAIN, tag, 0.0f, 0.3f);
    fill(f, RF_CODER_B_MAG, tag, 0.1f, 0.3f);
    fill(f, RF_CODER_W_SKIP, tag, 0.0f, 0.3f);
    fill(f, RF_CODER_ARCHETYPES, tag, 0.0f, 1.0f);
    fill(f, RF_CODER_ARCHETYPE_OFFSETS, tag, 0.0f, 0.05f);
    fill(f, RF_CODER_ARCHETYPE_SCALE, tag, -0.3f, 0.1f);
    fill(f, RF_CODER_POINTS, tag, 0.0f, 1.0f);
    make_simplex(f);
    if (f->m.settings.decoder == RF_DECODER_UNIT) {
        OK(rf_apply_row_rule(f->f.s, &w_dec, RF_ROW_UNIT_NORM, &sites, 0.0f));
    }
    OK(rf_coder_derive(f->f.coder, f->f.s));
    b_enc = rf_coder_view(f->f.coder, RF_CODER_B_ENC).data;
    for (int i = 0; i < NAIVE_F; i++) {
        f->m.dead[i] = i % 3 == 0;
        since[i] = f->m.dead[i] ? 100 : 99;
        b_enc[i] -= c->has_quiet_dead && i % 6 == 0 ? 9.0f : 0.0f;
    }
    OK(rf_coder_get_state(f->f.coder, f->f.s, &state));
    state.scalars[RF_SCALAR_VARIANCE] = 3.5f;
    state.scalars[RF_SCALAR_RMS] = 1.25f;
    OK(rf_coder_set_state(f->f.coder, f->f.s, &state));
}

static inline void fill_rows(naive *m, const gradient_case *c, uint8_t *classes, uint64_t tag)
{
    int64_t n = (int64_t)NAIVE_B * (m->has_own_target ? m->d + m->e : m->d);
    float *rows = fixture_normals(tag + 100, n, 1.0f);
    memcpy(m->x, rows, sizeof(float) * (size_t)n);
    rf_free(rows);
    for (int b = 0; b < NAIVE_B; b++) {
        const int class_idx = b % 3;
        m->valid[b] = b % 7 != 3;
        m->n_valid += m->valid[b];
        m->k[b] = TOP_K;
        classes[b] = (uint8_t)((int)RF_TOKENS_CLS + class_idx);
        if (c->k_by_class && m->settings.k.of[class_idx] > 0) {
            m->k[b] = (int)m->settings.k.of[class_idx];
        }
    }
}

static inline void read_parameters(pair *f)
{
    naive *m = &f->m;
    const float *points = rf_coder_view(f->f.coder, RF_CODER_POINTS).data;
    for (int idx = 0; idx < RF_CODER_N_PARAMETERS; idx++) {
        rf_coder_tensor t = rf_coder_tensor_at(f->f.coder, idx);
        bool is_there = t.view.data != NULL && t.kind == RF_TENSOR_PARAMETER;
        m->first[idx] = m->n_all;
        m->n[idx] = is_there ? rf_view_n_elems(&t.view) : 0;
        assert_true(m->n_all + m->n[idx] <= NAIVE_N);
        for (int64_t i = 0; i < m->n[idx]; i++) {
            m->at[m->n_all++] = (double)((const float *)t.view.data)[i];
        }
    }
    for (int q = 0; points != NULL && q < NAIVE_POINTS; q++) {
        for (int j = 0; j < m->e; j++) {
            m->points[q][j] = (double)points[q * m->e + j];
        }
    }
}

static inline void pair_init(pair *f, const gradient_case *c, uint64_t tag)
{
    const rf_optimiser_opts adam = {.kind = RF_OPTIMISER_ADAM};
    rf_coder_shape shape = {.n_in = c->n_in, .n_out = c->n_out};
    naive *m = &f->m;
    memset(f, 0, sizeof *f);
    memcpy(shape.in, c->in, sizeof c->in);
    memcpy(shape.out, c->out, sizeof c->out);
    m->settings = settings_of(c);
    f->f = fixture_make_of(comm, &m->settings, &shape, &adam, NAIVE_B, 1);
    m->architecture = rf_coder_architecture(f->f.coder);
    m->penalty = rf_coder_penalty(f->f.coder);
    m->sites = rf_coder_out_segments(f->f.coder);
    m->subtracts = rf_coder_subtracts(f->f.coder);
    m->has_own_target = c->n_out > 0;
    m->d = (int)rf_coder_width(f->f.coder);
    m->e = (int)rf_coder_out_width(f->f.coder);
    m->second_k = m->architecture->second != NULL ? 4 * TOP_K : 0;
    m->aux_k = m->settings.aux_alpha > 0.0 ? (int)m->settings.aux_k : 0;
    m->variance = 3.5;
    m->bandwidth = 0.5 * 1.25;
    m->p = c->p > 0.0 ? c->p : m->settings.p;
    m->has_class_k = c->k_by_class;
    if (m->architecture->prefixes != NULL) {
        m->architecture->prefixes(&m->settings, NAIVE_F, 0, &m->groups);
    }
    fill_coder(f, c, tag);
    fill_rows(m, c, f->classes, tag);
    read_parameters(f);
}

/* ---- against finite differences ---------------------------------------------------------------
 */

/* What lies along the normal of sum over sites of |row| = 1 is taken off before the moments. */
static inline void project_rows(const naive *m, double *g)
{
    for (int i = 0; i < NAIVE_F && m->settings.decoder == RF_DECODER_UNIT; i++) {
        const double *row = m->dec[i];
        double normal[NAIVE_W], along = 0.0;
        for (int l = 0; l < m->sites.n; l++) {
            int64_t first = l == 0 ? 0 : m->sites.end[l - 1], end = m->sites.end[l];
            const rf_segments one = {.n = 1, .end = {end - first}};
            for (int64_t j = first; j < end; j++) {
                normal[j] = row[j] / naive_row_norm(&one, row + first);
                along += normal[j] * g[i * m->e + j];
            }
        }
        for (int j = 0; j < m->e; j++) {
            g[i * m->e + j] -= along / (double)m->sites.n * normal[j];
        }
    }
}

static inline void compare(const pair *f, const double *want, const gradient_case *c,
                           const char *path)
{
    static float want_f[NAIVE_N];
    const double limit = c->tolerance > 0.0 ? c->tolerance : 1e-5;
    for (int idx = 0; idx < RF_CODER_N_PARAMETERS; idx++) {
        const int64_t n = f->m.n[idx];
        for (int64_t i = 0; i < n; i++) {
            want_f[i] = (float)want[f->m.first[idx] + i];
        }
        double err = n > 0 ? fixture_distance(fixture_gradient(&f->f, idx), want_f, n) : 0.0;
        if (!(err <= limit)) {
            fail_msg("%s, %s path: gradient of %s differs by %.3g", c->name, path,
                     rf_coder_tensor_at(f->f.coder, idx).name, err);
        }
    }
}

static inline void compare_figure(const gradient_case *c, const char *path, const char *what,
                                  double got, double want, double of)
{
    const double limit = c->tolerance > 0.0 ? c->tolerance : 1e-5; /* as gradients */
    if (!(fabs(got - want) <= limit * of)) {
        fail_msg("%s, %s path: %s is %.9g, expected %.9g", c->name, path, what, got, want);
    }
}

static inline void step_on_path(const gradient_case *c, uint64_t tag, bool is_dense)
{
    static pair f;
    static double want[NAIVE_N];
    const char *path = is_dense ? "dense" : "sparse";
    rf_step_rates rates = fixture_gradient_rates();
    rf_step_metrics metrics;
    rf_coder_state state;
    naive_terms terms;
    double squares = 0.0;
    pair_init(&f, c, tag);
    OK(rf_coder_get_state(f.f.coder, f.f.s, &state));
    state.counters[RF_COUNTER_DENSE] = is_dense;
    OK(rf_coder_set_state(f.f.coder, f.f.s, &state));
    rates.p = c->p;
    rf_token_batch batch =
        fixture_batch(comm, f.m.x, NAIVE_B, f.m.has_own_target ? f.m.d + f.m.e : f.m.d, f.m.valid);
    batch.classes = c->k_by_class ? f.classes + batch.first_row : NULL;

    double loss = naive_loss(&f.m, &f.m, &terms);
    if (rf_comm_rank(comm) == 0) {
        naive_gradient(&f.m, want);
    }
    OK(rf_comm_bcast(comm, want, sizeof want, 0));
    for (int64_t i = 0; i < f.m.n_all; i++) {
        squares += want[i] * want[i];
    }
    project_rows(&f.m, want + f.m.first[RF_CODER_W_DEC]);
    OK(rf_step_run(f.f.step, f.f.coder, f.f.opt, &batch, &rates, &metrics));

    assert_int_equal(metrics.dense_path, is_dense);
    compare_figure(c, path, "loss", metrics.loss, loss, loss);
    compare_figure(c, path, "mse", metrics.mse, terms.mse, loss);
    compare_figure(c, path, "sparsity", metrics.sparsity, terms.sparsity, loss);
    compare_figure(c, path, "aux", metrics.aux, terms.aux, loss);
    compare_figure(c, path, "extra", metrics.extra, terms.extra, loss);
    compare(&f, want, c, path);
    compare_figure(c, path, "grad_norm", metrics.grad_norm, sqrt(squares), sqrt(squares));
    fixture_destroy(&f.f);
}

/* On the sparse path, and on the dense one where there is one. */
static inline void check_case(const gradient_case *c)
{
    step_on_path(c, 11, false);
    if (rf_architecture_find(c->architecture)->may_be_dense) {
        step_on_path(c, 23, true);
    }
}

#endif
