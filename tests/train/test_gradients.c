/* The step's gradients against torch autograd and against finite differences of a naive loss in
 * double. */
#include "coder/coder_fixture.h"

static rf_comm *comm;

static const char *const names[RF_CODER_N_PARAMETERS] = {"W_enc", "b_enc", "W_dec", "b_dec"};

/* ---- golden files -------------------------------------------------------------------------- */

enum { GOLDEN_D = 24, GOLDEN_F = 96, GOLDEN_B = 40, GOLDEN_STEPS = 3, GOLDEN_FIGURES = 8 };

static void read_golden(const rf_tensor_file *file, const char *folder, const char *name,
                        float *out)
{
    char path[64];
    OK(rf_format(path, sizeof path, "%s%s", folder, name));
    const rf_named_tensor *t = rf_tensor_file_find(file, path);
    assert_non_null(t);
    OK(rf_named_tensor_read_f32(t, out));
}

static fixture golden_coder(const rf_tensor_file *file, const char *architecture)
{
    rf_coder_settings settings = fixture_settings(architecture, GOLDEN_F, 6);
    settings.aux_k = 8;
    settings.l1 = 2e-3;
    settings.dead_after_tokens = 1000;
    fixture f = fixture_make(comm, &settings, GOLDEN_D, GOLDEN_B, 2);
    rf_coder_state state;
    OK(rf_coder_get_state(f.coder, f.s, &state));
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        read_golden(file, "start/", names[i], fixture_floats(&f, i));
    }
    read_golden(file, "", "variance", &state.variance);
    OK(rf_coder_set_state(f.coder, f.s, &state));
    memcpy(rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data,
           rf_tensor_file_find(file, "tokens_since_fired")->bytes, sizeof(int64_t) * GOLDEN_F);
    return f;
}

static void compare_figures(const rf_tensor_file *file, int step, const rf_step_metrics *m)
{
    double want[GOLDEN_STEPS][GOLDEN_FIGURES];
    double got[GOLDEN_FIGURES] = {m->mse,
                                  m->l1,
                                  m->aux,
                                  m->l0,
                                  m->explained_variance,
                                  m->grad_norm,
                                  (double)m->n_dead,
                                  (double)m->n_fired};
    memcpy(want, rf_tensor_file_find(file, "figures")->bytes, sizeof want);
    for (int i = 0; i < GOLDEN_FIGURES; i++) {
        /* fp32 sums of 24 to 96 terms, and parameters that differ by 1e-6 after a step */
        double err = fabs(got[i] - want[step][i]);
        if (!(err <= 1e-5 * fabs(want[step][i]))) {
            fail_msg("step %d, figure %d: %.9g, torch %.9g", step, i, got[i], want[step][i]);
        }
    }
}

static void against_torch(const char *architecture)
{
    char path[RF_PATH_LEN];
    rf_tensor_file *file = NULL;
    float *x = rf_calloc(GOLDEN_STEPS * GOLDEN_B * GOLDEN_D, sizeof *x);
    float *want = rf_calloc(GOLDEN_F * GOLDEN_D, sizeof *want);
    OK(rf_format(path, sizeof path, "%s/coder_%s.safetensors", RF_GOLDEN_DIR, architecture));
    OK(rf_tensor_file_open(path, &file));
    read_golden(file, "", "x", x);

    fixture f = golden_coder(file, architecture);
    rf_step_rates rates = fixture_gradient_rates();
    rf_token_batch batch = fixture_batch(comm, x, GOLDEN_B, GOLDEN_D, NULL);
    OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, NULL));
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        read_golden(file, "gradient/", names[i], want);
        double err = fixture_distance(fixture_gradient(&f, i), want, fixture_len(&f, i));
        if (!(err <= 1e-5)) { /* fp32 against double */
            fail_msg("gradient of %s differs by %.3g", names[i], err);
        }
    }
    fixture_destroy(&f);

    f = golden_coder(file, architecture);
    rates = rf_step_rates_default();
    rates.lr = 1e-3;
    rates.clip_norm = 0.05;
    for (int step = 0; step < GOLDEN_STEPS; step++) {
        rf_step_metrics metrics;
        batch = fixture_batch(comm, x + step * GOLDEN_B * GOLDEN_D, GOLDEN_B, GOLDEN_D, NULL);
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
        compare_figures(file, step, &metrics);
    }
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        read_golden(file, "end/", names[i], want);
        double err = fixture_distance(fixture_floats(&f, i), want, fixture_len(&f, i));
        if (!(err <= 1e-5)) {
            fail_msg("%s differs by %.3g after %d steps", names[i], err, GOLDEN_STEPS);
        }
    }
    assert_memory_equal(rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data,
                        rf_tensor_file_find(file, "end/tokens_since_fired")->bytes,
                        sizeof(int64_t) * GOLDEN_F);
    fixture_destroy(&f);
    rf_tensor_file_close(file);
    rf_free(want);
    rf_free(x);
}

static void topk_with_aux_equals_torch_autograd(void **state)
{
    (void)state;
    against_torch("topk");
}

static void relu_equals_torch_autograd(void **state)
{
    (void)state;
    against_torch("relu");
}

/* ---- a naive loss in double ---------------------------------------------------------------- */

enum { D = 9, F = 40, B = 21, K = 5, AUX_K = 4 };

typedef struct naive {
    double p[2 * F * D + F + D]; /* W_enc, b_enc, W_dec, b_dec */
    float x[B * D];
    uint8_t valid[B];
    bool dead[F];
    bool is_topk;
    double variance, l1, alpha, n_valid;
    double e[B][D], v_e; /* constants of the auxiliary term */
} naive;

static const double *at(const naive *m, int idx)
{
    static const int start[] = {0, F * D, F * D + F, 2 * F * D + F};
    return m->p + start[idx];
}

/* z [F]: the k largest positive of h among `allowed` (NULL: all). */
static void naive_topk(const double *h, const bool *allowed, int k, double *z)
{
    memset(z, 0, sizeof(double) * F);
    for (int n = 0; n < k; n++) {
        int best = -1;
        for (int i = 0; i < F; i++) {
            if ((allowed == NULL || allowed[i]) && z[i] == 0.0 && h[i] > 0.0 &&
                (best < 0 || h[i] > h[best])) {
                best = i;
            }
        }
        if (best >= 0) {
            z[best] = h[best];
        }
    }
}

static void naive_encode(const naive *m, int b, double *h)
{
    for (int i = 0; i < F; i++) {
        h[i] = at(m, RF_CODER_B_ENC)[i];
        for (int j = 0; j < D; j++) {
            h[i] += ((double)m->x[b * D + j] - at(m, RF_CODER_B_DEC)[j]) *
                    at(m, RF_CODER_W_ENC)[i * D + j];
        }
    }
}

static double naive_decode(const naive *m, const double *z, int j)
{
    double y = 0.0;
    for (int i = 0; i < F; i++) {
        y += z[i] * at(m, RF_CODER_W_DEC)[i * D + j];
    }
    return y;
}

/* The loss; with `fix` the constants of the auxiliary term are taken from here. */
static double naive_loss(naive *m, bool fix)
{
    double loss = 0.0, aux = 0.0, mean[D] = {0};
    for (int b = 0; b < B; b++) {
        double h[F], z[F], z_aux[F];
        if (!m->valid[b]) {
            continue;
        }
        naive_encode(m, b, h);
        naive_topk(h, NULL, m->is_topk ? K : F, z);
        naive_topk(h, m->dead, AUX_K, z_aux);
        for (int i = 0; i < F; i++) {
            loss += m->is_topk ? 0.0 : m->l1 * z[i] / m->n_valid;
        }
        for (int j = 0; j < D; j++) {
            double e = (double)m->x[b * D + j] - at(m, RF_CODER_B_DEC)[j] - naive_decode(m, z, j);
            loss += e * e / (m->n_valid * m->variance);
            if (fix) {
                m->e[b][j] = e;
                mean[j] += e / m->n_valid;
            }
            double left = m->e[b][j] - naive_decode(m, z_aux, j);
            aux += left * left / m->n_valid;
        }
    }
    for (int b = 0; fix && b < B; b++) {
        m->v_e = b == 0 ? 0.0 : m->v_e;
        for (int j = 0; m->valid[b] && j < D; j++) {
            m->v_e += (m->e[b][j] - mean[j]) * (m->e[b][j] - mean[j]) / m->n_valid;
        }
    }
    return loss + (m->is_topk ? m->alpha * aux / m->v_e : 0.0);
}

/* Coder and naive model with the same random parameters, rows that are not valid among the batch.
 */
static fixture naive_pair(naive *m, const char *architecture, uint64_t tag)
{
    rf_coder_settings settings = fixture_settings(architecture, F, K);
    settings.aux_k = AUX_K;
    settings.l1 = 0.02;
    settings.aux_alpha = 0.25;
    settings.dead_after_tokens = 100;
    fixture f = fixture_make(comm, &settings, D, B, 1);
    rf_coder_state state;
    int64_t *since = rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data, at_p = 0;
    float *rows = fixture_normals(tag, B * D, 1.0f);
    *m = (naive){
        .is_topk = strcmp(architecture, "topk") == 0, .l1 = 0.02, .alpha = 0.25, .variance = 3.5};
    memcpy(m->x, rows, sizeof m->x);
    for (int b = 0; b < B; b++) {
        m->valid[b] = b % 7 != 3;
        m->n_valid += m->valid[b];
    }
    for (int i = 0; i < F; i++) {
        m->dead[i] = i % 3 == 0;
        since[i] = m->dead[i] ? 100 : 99;
    }
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        int64_t n = fixture_len(&f, i);
        float *p = fixture_normals(tag + 1 + (uint64_t)i, n, 0.4f);
        memcpy(fixture_floats(&f, i), p, sizeof(float) * (size_t)n);
        for (int64_t j = 0; j < n; j++) {
            m->p[at_p++] = (double)p[j];
        }
        rf_free(p);
    }
    OK(rf_coder_get_state(f.coder, f.s, &state));
    state.variance = 3.5f;
    OK(rf_coder_set_state(f.coder, f.s, &state));
    rf_free(rows);
    return f;
}

/* Central differences; a decoder row's less what lies along the row. */
static void numeric_gradient(naive *m, double *g)
{
    const double h = 1e-5; /* truncation h^2, rounding 1e-16 / h: both below 1e-9 */
    for (int i = 0; i < 2 * F * D + F + D; i++) {
        double p = m->p[i];
        m->p[i] = p + h;
        double above = naive_loss(m, false);
        m->p[i] = p - h;
        g[i] = (above - naive_loss(m, false)) / (2 * h);
        m->p[i] = p;
    }
    double *d_w_dec = g + F * D + F;
    for (int i = 0; i < F; i++) {
        double along = 0.0;
        for (int j = 0; j < D; j++) {
            along += d_w_dec[i * D + j] * at(m, RF_CODER_W_DEC)[i * D + j];
        }
        for (int j = 0; j < D; j++) {
            d_w_dec[i * D + j] -= along * at(m, RF_CODER_W_DEC)[i * D + j];
        }
    }
}

static void against_differences(const char *architecture, uint64_t tag)
{
    static naive m;
    static double want[2 * F * D + F + D];
    static float want_f[F * D];
    fixture f = naive_pair(&m, architecture, tag);
    rf_step_rates rates = fixture_gradient_rates();
    rf_step_metrics metrics;
    rf_token_batch batch = fixture_batch(comm, m.x, B, D, m.valid);
    double loss = (naive_loss(&m, true), naive_loss(&m, false));
    numeric_gradient(&m, want);
    OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
    assert_true(fabs(metrics.loss - loss) <= 1e-5 * loss); /* fp32 sums */
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        int64_t n = fixture_len(&f, i), first = at(&m, i) - m.p;
        for (int64_t j = 0; j < n; j++) {
            want_f[j] = (float)want[first + j];
        }
        double err = fixture_distance(fixture_gradient(&f, i), want_f, n);
        if (!(err <= 1e-5)) { /* fp32 gradient; differences are better than 1e-8 */
            fail_msg("%s: gradient of %s differs by %.3g", architecture, names[i], err);
        }
    }
    fixture_destroy(&f);
}

static void topk_gradients_equal_finite_differences(void **state)
{
    (void)state;
    against_differences("topk", 11);
    against_differences("topk", 23);
}

static void relu_gradients_equal_finite_differences(void **state)
{
    (void)state;
    against_differences("relu", 31);
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(topk_with_aux_equals_torch_autograd),
        cmocka_unit_test(relu_equals_torch_autograd),
        cmocka_unit_test(topk_gradients_equal_finite_differences),
        cmocka_unit_test(relu_gradients_equal_finite_differences),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
