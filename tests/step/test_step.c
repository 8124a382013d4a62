/* The step: what peers got wrong, and how it behaves. */
#include "coder/coder_fixture.h"

static rf_comm *comm;

/* ---- what peers got wrong ------------------------------------------------------------------ */

/* A coder whose latent 0 serves the tokens (all e_0 direction) and whose dead latent 1 points
 * elsewhere. */
static fixture two_latents(double alpha, float b_dec)
{
    rf_coder_settings settings = fixture_settings("topk", 2, 1);
    settings.dead_after_tokens = 100;
    settings.aux_alpha = alpha;
    fixture f = fixture_make(comm, &settings, 4, 64, 1);
    float *w_enc = fixture_floats(&f, RF_CODER_W_ENC), *w_dec = fixture_floats(&f, RF_CODER_W_DEC);
    w_enc[0] = w_dec[0] = 1.0f;
    w_enc[4 + 1] = w_dec[4 + 2] = 1.0f; /* reads dimension 1, writes dimension 2 */
    for (int j = 0; j < 4; j++) {
        fixture_floats(&f, RF_CODER_B_DEC)[j] = b_dec;
    }
    ((int64_t *)rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data)[1] = 100;
    return f;
}

static void tokens_for_two(float *x, int n, float b_dec)
{
    for (int b = 0; b < n; b++) {
        x[b * 4] = 3.0f + 0.25f * (float)(b % 4);
        x[b * 4 + 1] = 0.5f + 0.125f * (float)(b % 3);
        x[b * 4 + 2] = (float)(b % 2);
        x[b * 4 + 3] = 0.0f;
        for (int j = 0; j < 4; j++) {
            x[b * 4 + j] += b_dec;
        }
    }
}

/* docs/regressions.md: the target of the auxiliary term lacks b_dec, so its reconstruction must
 * lack it too. */
static void aux_term_does_not_know_the_decoder_bias(void **state)
{
    (void)state;
    double aux[2];
    for (int i = 0; i < 2; i++) {
        float x[64 * 4], b_dec = i == 0 ? 0.0f : 8.0f; /* exact in fp32 */
        fixture f = two_latents(0.5, b_dec);
        rf_step_rates rates = fixture_gradient_rates();
        rf_step_metrics metrics;
        tokens_for_two(x, 64, b_dec);
        rf_token_batch batch = fixture_batch(comm, x, 64, 4, NULL);
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
        aux[i] = metrics.aux;
        fixture_destroy(&f);
    }
    assert_true(aux[0] > 0.0);
    assert_true(aux[0] == aux[1]);
}

/* docs/regressions.md: the auxiliary term exists to move dead encoder rows. */
static void aux_gradient_reaches_the_encoder(void **state)
{
    (void)state;
    float x[64 * 4];
    fixture f = two_latents(0.5, 0.0f);
    rf_step_rates rates = fixture_gradient_rates();
    tokens_for_two(x, 64, 0.0f);
    rf_token_batch batch = fixture_batch(comm, x, 64, 4, NULL);
    OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, NULL));
    const float *d_w_enc = fixture_gradient(&f, RF_CODER_W_ENC),
                *d_b_enc = fixture_gradient(&f, RF_CODER_B_ENC);
    assert_true(d_w_enc[4 + 1] != 0.0f); /* latent 1 is in no main list */
    assert_true(d_b_enc[1] != 0.0f);
    fixture_destroy(&f);
}

/* docs/regressions.md: with fewer positive pre-activations than k the rest is neither
 * selected, nor counted as fired, nor given a gradient. */
static void a_latent_at_zero_neither_fires_nor_learns(void **state)
{
    (void)state;
    rf_coder_settings settings = fixture_settings("topk", 3, 3);
    fixture f = fixture_make(comm, &settings, 2, 64, 1);
    float *w_enc = fixture_floats(&f, RF_CODER_W_ENC), x[64 * 2];
    rf_step_rates rates = fixture_gradient_rates();
    rf_step_metrics metrics;
    w_enc[0] = 1.0f;  /* positive */
    w_enc[2] = -1.4f; /* negative */
    w_enc[5] = 1.0f;  /* exactly 0: dimension 1 is 0 */
    for (int i = 0; i < 3; i++) {
        fixture_floats(&f, RF_CODER_W_DEC)[2 * i] = 1.0f;
    }
    for (int b = 0; b < 64; b++) {
        x[2 * b] = 1.0f + (float)b;
        x[2 * b + 1] = 0.0f;
    }
    rf_token_batch batch = fixture_batch(comm, x, 64, 2, NULL);
    OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
    const int64_t *since = rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data;
    assert_true(metrics.l0 == 1.0);
    assert_int_equal(metrics.n_fired, 1);
    assert_int_equal(since[0], 0);
    assert_int_equal(since[1], 64);
    assert_int_equal(since[2], 64);
    for (int i = 2; i < 6; i++) {
        assert_true(fixture_gradient(&f, RF_CODER_W_ENC)[i] == 0.0f);
    }
    fixture_destroy(&f);
}

/* docs/regressions.md: renormalised after Adam, so a coder is unit-norm whenever training stops. */
static void decoder_rows_have_norm_one_after_a_step(void **state)
{
    (void)state;
    rf_coder_settings settings = fixture_settings("topk", 64, 4);
    fixture f = fixture_make(comm, &settings, 20, 100, 2);
    float *x = fixture_planted(5, 100, 20);
    rf_view sample = rf_view_2d(x, 100, 20);
    rf_step_rates rates = rf_step_rates_default();
    rates.lr = 0.05;
    OK(rf_coder_init(f.coder, f.s, &sample));
    rf_token_batch batch = fixture_batch(comm, x, 100, 20, NULL);
    OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, NULL));
    for (int i = 0; i < 64; i++) {
        const float *w = fixture_floats(&f, RF_CODER_W_DEC) + i * 20;
        assert_true(fabs((double)rf_dot(w, w, 20) - 1.0) <= 1e-6); /* a few roundings */
    }
    fixture_destroy(&f);
    rf_free(x);
}

/* docs/regressions.md: without dead latents there is no auxiliary term, not a copy of the loss. */
static void no_dead_latent_no_aux_term(void **state)
{
    (void)state;
    float x[64 * 4];
    fixture f = two_latents(0.5, 0.0f);
    rf_step_rates rates = fixture_gradient_rates();
    rf_step_metrics metrics;
    ((int64_t *)rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data)[1] = 99;
    tokens_for_two(x, 64, 0.0f);
    rf_token_batch batch = fixture_batch(comm, x, 64, 4, NULL);
    OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
    assert_true(metrics.aux == 0.0);
    assert_true(metrics.loss == metrics.mse);
    assert_int_equal(metrics.n_dead, 0);
    fixture_destroy(&f);
}

/* V_e = 0 (nothing left to explain) makes the auxiliary loss 0 / 0, which counts as 0. */
static void an_aux_loss_that_is_not_finite_counts_as_zero(void **state)
{
    (void)state;
    float x[64 * 4] = {0};
    fixture f = two_latents(0.5, 0.0f);
    rf_step_rates rates = rf_step_rates_default();
    rf_step_metrics metrics;
    for (int b = 0; b < 64; b++) {
        x[4 * b] = 1.0f + (float)b; /* latent 0 explains all of it, exactly */
    }
    rf_token_batch batch = fixture_batch(comm, x, 64, 4, NULL);
    OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
    assert_false(metrics.skipped);
    assert_true(metrics.aux == 0.0 && metrics.mse == 0.0);
    assert_int_equal(metrics.n_dead, 1);
    fixture_destroy(&f);
}

/* ---- behaviour ----------------------------------------------------------------------------- */

/* Latents of a part of the dictionary point away from the data; counts those that are dead at the
 * end. */
static int64_t dead_after_training(double alpha)
{
    enum { WIDTH = 16, LATENTS = 128, ROWS = 256, STEPS = 150 };
    rf_coder_settings settings = fixture_settings("topk", LATENTS, 4);
    settings.aux_alpha = alpha;
    settings.dead_after_tokens = 10 * ROWS;
    fixture f = fixture_make(comm, &settings, WIDTH, ROWS, 2);
    float *x = fixture_planted(6, ROWS * 8, WIDTH);
    rf_view sample = rf_view_2d(x, ROWS * 8, WIDTH);
    rf_step_rates rates = rf_step_rates_default();
    rf_step_metrics metrics = {0};
    rates.lr = 3e-3;
    OK(rf_coder_init(f.coder, f.s, &sample));
    for (int i = 0; i < LATENTS / 2; i++) { /* never among the 4 largest, though often positive */
        fixture_floats(&f, RF_CODER_B_ENC)[i] = -0.1f;
        for (int j = 0; j < WIDTH; j++) {
            fixture_floats(&f, RF_CODER_W_ENC)[i * WIDTH + j] *= 0.2f;
        }
    }
    for (int step = 0; step < STEPS; step++) {
        rf_token_batch batch =
            fixture_batch(comm, x + (step % 8) * ROWS * WIDTH, ROWS, WIDTH, NULL);
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
    }
    fixture_destroy(&f);
    rf_free(x);
    return metrics.n_dead;
}

static void aux_term_brings_dead_latents_back(void **state)
{
    (void)state;
    int64_t without = dead_after_training(0.0), with = dead_after_training(1.0 / 32);
    print_message("dead after training: %d without the term, %d with it\n", (int)without,
                  (int)with);
    assert_true(without >= 40);
    assert_true(with <= without / 2);
}

static void training_lowers_the_loss(void **state)
{
    (void)state;
    static const char *const architectures[] = {"topk", "relu"};
    for (int a = 0; a < 2; a++) {
        rf_coder_settings settings = fixture_settings(architectures[a], 64, 4);
        fixture f = fixture_make(comm, &settings, 16, 512, 2);
        float *x = fixture_planted(7, 512, 16);
        rf_view sample = rf_view_2d(x, 512, 16);
        rf_token_batch batch = fixture_batch(comm, x, 512, 16, NULL);
        rf_step_rates rates = rf_step_rates_default();
        rf_step_metrics first, last;
        rates.lr = 3e-3;
        OK(rf_coder_init(f.coder, f.s, &sample));
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &first));
        for (int i = 0; i < 200; i++) {
            OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &last));
        }
        assert_true(last.loss < 0.6 * first.loss);
        assert_true(last.explained_variance > 0.4);
        fixture_destroy(&f);
        rf_free(x);
    }
}

static void copy_everything(const fixture *f, char *out)
{
    for (int i = 0; i < RF_CODER_N_TENSORS; i++) {
        rf_view v = rf_coder_view(f->coder, i);
        size_t n = (size_t)rf_view_n_elems(&v) * rf_dtype_bytes(v.dtype);
        if (i != RF_CODER_COUNTERS && v.data != NULL) {
            memcpy(out, v.data, n);
            out += n;
        }
    }
    for (int i = 0; i < rf_optimiser_n_tensors(f->opt); i++) {
        rf_view v = rf_optimiser_tensor_view(f->opt, i);
        size_t n = (size_t)rf_view_n_elems(&v) * rf_dtype_bytes(v.dtype);
        memcpy(out, v.data, n);
        out += n;
    }
}

static void a_batch_that_is_not_finite_changes_nothing_and_is_counted(void **state)
{
    (void)state;
    static const char *const architectures[] = {"topk", "relu", "relu"};
    static char before[1 << 16], after[1 << 16];
    static const float bad[] = {NAN, INFINITY, 3e38f};
    for (int a = 0; a < 9; a++) {
        rf_coder_settings settings = fixture_settings(architectures[a / 3], 48, 4);
        fixture f = fixture_make(comm, &settings, 12, 80, 2);
        float *x = fixture_planted(8, 80, 12);
        rf_view sample = rf_view_2d(x, 80, 12);
        rf_token_batch batch = fixture_batch(comm, x, 80, 12, NULL);
        rf_step_rates rates = rf_step_rates_default();
        rf_step_metrics metrics;
        rf_coder_state st;
        OK(rf_coder_init(f.coder, f.s, &sample));
        OK(rf_coder_get_state(f.coder, f.s, &st));
        st.counters[RF_COUNTER_DENSE] = a / 3 == 1; /* relu both ways */
        OK(rf_coder_set_state(f.coder, f.s, &st));
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
        assert_false(metrics.skipped);
        copy_everything(&f, before);
        OK(rf_coder_get_state(f.coder, f.s, &st));
        x[7 * 12 + 3] = bad[a % 3];
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
        copy_everything(&f, after);
        assert_true(metrics.skipped);
        assert_memory_equal(before, after, sizeof before);
        int64_t dense = st.counters[RF_COUNTER_DENSE];
        OK(rf_coder_get_state(f.coder, f.s, &st));
        assert_int_equal(st.counters[RF_COUNTER_SKIPPED], 1);
        assert_int_equal(st.counters[RF_COUNTER_STEPS], 1);
        assert_int_equal(st.counters[RF_COUNTER_DENSE], dense);
        fixture_destroy(&f);
        rf_free(x);
    }
}

/* Rows that are not valid might as well not be there, whatever they hold. */
static void rows_that_are_not_valid_do_not_count(void **state)
{
    (void)state;
    enum { N = 90, WIDTH = 10 };
    static const char *const architectures[] = {"topk", "relu"};
    for (int a = 0; a < 2; a++) {
        rf_step_metrics metrics[2];
        float *ends[2], *x = fixture_planted(9, N, WIDTH);
        for (int with = 0; with < 2; with++) {
            rf_coder_settings settings = fixture_settings(architectures[a], 60, 4);
            fixture f = fixture_make(comm, &settings, WIDTH, 2 * N, 1);
            float *rows = rf_calloc(2 * N * WIDTH, sizeof *rows);
            uint8_t valid[2 * N];
            rf_view sample = rf_view_2d(x, N, WIDTH);
            rf_step_rates rates = rf_step_rates_default();
            OK(rf_coder_init(f.coder, f.s, &sample));
            for (int b = 0; b < 2 * N; b++) {
                valid[b] = with == 0 || b % 2 == 0;
                for (int j = 0; j < WIDTH; j++) {
                    int source = with == 0 ? b % N : b / 2;
                    rows[b * WIDTH + j] = valid[b] ? x[source * WIDTH + j] : NAN;
                }
            }
            rf_token_batch batch =
                fixture_batch(comm, rows, with == 0 ? N : 2 * N, WIDTH, with == 0 ? NULL : valid);
            OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics[with]));
            int64_t n = fixture_len(&f, RF_CODER_W_DEC);
            ends[with] = rf_calloc(n, sizeof(float));
            memcpy(ends[with], fixture_floats(&f, RF_CODER_W_DEC), sizeof(float) * (size_t)n);
            rf_free(rows);
            fixture_destroy(&f);
        }
        assert_int_equal(metrics[1].n_tokens, N);
        assert_int_equal(metrics[0].n_fired, metrics[1].n_fired);
        assert_true(metrics[0].l0 == metrics[1].l0);
        /* blocks of sums hold other rows: rounding only */
        assert_true(fabs(metrics[0].loss - metrics[1].loss) <= 1e-6 * metrics[0].loss);
        assert_true(fixture_distance(ends[0], ends[1], 60 * WIDTH) <= 1e-5);
        rf_free(ends[0]);
        rf_free(ends[1]);
        rf_free(x);
    }
}

static void a_batch_without_valid_tokens_is_skipped(void **state)
{
    (void)state;
    rf_coder_settings settings = fixture_settings("topk", 48, 4);
    fixture f = fixture_make(comm, &settings, 12, 80, 2);
    float x[5 * 12] = {0};
    uint8_t valid[5] = {0};
    rf_step_rates rates = rf_step_rates_default();
    rf_step_metrics metrics;
    rf_token_batch batch = fixture_batch(comm, x, 5, 12, valid);
    OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
    assert_true(metrics.skipped);
    batch = fixture_batch(comm, x, 0, 12, NULL);
    OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
    assert_true(metrics.skipped);
    fixture_destroy(&f);
}

/* A ReLU coder whose codes are sparse takes the sparse path; both paths agree but for rounding. */
static void relu_paths_agree_and_change_with_density(void **state)
{
    (void)state;
    enum { N = 130, WIDTH = 16, LATENTS = 2048 };
    rf_step_metrics metrics[2];
    float *ends[2][RF_CODER_B_DEC + 1], *x = fixture_planted(10, N, WIDTH);
    for (int dense = 0; dense < 2; dense++) {
        rf_coder_settings settings = fixture_settings("relu", LATENTS, 4);
        settings.l1 = 0.01;
        fixture f = fixture_make(comm, &settings, WIDTH, N, 2);
        rf_view sample = rf_view_2d(x, N, WIDTH);
        rf_step_rates rates = rf_step_rates_default();
        rf_coder_state st;
        OK(rf_coder_init(f.coder, f.s, &sample));
        for (int i = 0; i < LATENTS; i++) {
            fixture_floats(&f, RF_CODER_B_ENC)[i] = -1.6f;
        }
        OK(rf_coder_get_state(f.coder, f.s, &st));
        st.counters[RF_COUNTER_DENSE] = dense;
        OK(rf_coder_set_state(f.coder, f.s, &st));
        rf_token_batch batch = fixture_batch(comm, x, N, WIDTH, NULL);
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics[dense]));
        assert_int_equal(metrics[dense].dense_path, dense);
        OK(rf_coder_get_state(f.coder, f.s, &st));
        assert_int_equal(st.counters[RF_COUNTER_DENSE], 0); /* sparse from now on */
        for (int i = 0; i <= RF_CODER_B_DEC; i++) {
            int64_t n = fixture_len(&f, i);
            ends[dense][i] = rf_calloc(n, sizeof(float));
            memcpy(ends[dense][i], rf_optimiser_tensor_view(f.opt, i).data,
                   sizeof(float) * (size_t)n);
        }
        if (dense == 0) { /* now half of the dictionary is active: it does not fit */
            for (int i = 0; i < LATENTS; i++) {
                fixture_floats(&f, RF_CODER_B_ENC)[i] = 0.0f;
            }
            rf_step_metrics crowded;
            OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &crowded));
            assert_true(crowded.dense_path);
            assert_true(crowded.l0 > LATENTS / 4);
            OK(rf_coder_get_state(f.coder, f.s, &st));
            assert_int_equal(st.counters[RF_COUNTER_DENSE], 1);
        }
        fixture_destroy(&f);
    }
    print_message("L0 %.2f of %d\n", metrics[0].l0, LATENTS);
    assert_true(metrics[0].l0 > 1.0);
    assert_true(metrics[0].l0 == metrics[1].l0);
    assert_int_equal(metrics[0].n_fired, metrics[1].n_fired);
    assert_true(fabs(metrics[0].loss - metrics[1].loss) <= 1e-6 * metrics[1].loss);
    for (int i = 0; i <= RF_CODER_B_DEC; i++) {
        int64_t n[] = {LATENTS * WIDTH, LATENTS, LATENTS * WIDTH, WIDTH};
        assert_true(fixture_distance(ends[0][i], ends[1][i], n[i]) <= 1e-5); /* fp32 rounding */
        rf_free(ends[0][i]);
        rf_free(ends[1][i]);
    }
    rf_free(x);
}

/* A coder's bits must not depend on what else shares the work space. */
static void a_shared_work_space_does_not_change_a_coder(void **state)
{
    (void)state;
    static char ends[2][1 << 16];
    float *x = fixture_planted(12, 100, 12);
    for (int shared = 0; shared < 2; shared++) {
        rf_coder_settings settings = fixture_settings("relu", 96, 4);
        rf_coder_settings other = fixture_settings("topk", 500, 30);
        fixture f = fixture_make(comm, &settings, 12, 100, 2);
        rf_coder *large = NULL;
        rf_step *step = NULL;
        const rf_coder_shape shape = rf_coder_shape_of(20);
        OK(rf_coder_create(f.be, &other, &shape, &large));
        const rf_coder *both[] = {large, f.coder};
        rf_step_opts opts = {.max_rows = 300};
        OK(rf_step_create(f.be, comm, both, 2, &opts, &step));
        rf_view sample = rf_view_2d(x, 100, 12);
        rf_token_batch batch = fixture_batch(comm, x, 100, 12, NULL);
        rf_step_rates rates = rf_step_rates_default();
        rf_coder_state st;
        OK(rf_coder_init(f.coder, f.s, &sample));
        OK(rf_coder_get_state(f.coder, f.s, &st));
        st.counters[RF_COUNTER_DENSE] =
            0; /* rows do not fit its lists, but would fit the other's */
        OK(rf_coder_set_state(f.coder, f.s, &st));
        for (int i = 0; i < 10; i++) {
            OK(rf_step_run(shared ? step : f.step, f.coder, f.opt, &batch, &rates, NULL));
        }
        copy_everything(&f, ends[shared]);
        rf_step_destroy(step);
        rf_coder_destroy(large);
        fixture_destroy(&f);
    }
    assert_memory_equal(ends[0], ends[1], sizeof ends[0]);
    rf_free(x);
}

static void the_number_of_threads_leaves_no_trace(void **state)
{
    (void)state;
    static const char *const architectures[] = {"topk", "relu"};
    static char ends[3][1 << 17];
    for (int a = 0; a < 2; a++) {
        static const int n_threads[] = {1, 2, 5};
        for (int t = 0; t < 3; t++) {
            rf_coder_settings settings = fixture_settings(architectures[a], 150, 6);
            settings.dead_after_tokens = 400;
            fixture f = fixture_make(comm, &settings, 20, 333, n_threads[t]);
            float *x = fixture_planted(13, 333, 20);
            rf_view sample = rf_view_2d(x, 333, 20);
            rf_step_rates rates = rf_step_rates_default();
            rates.lr = 1e-2;
            OK(rf_coder_init(f.coder, f.s, &sample));
            for (int i = 0; i < 8; i++) {
                rf_token_batch batch = fixture_batch(comm, x, 333 - 7 * i, 20, NULL);
                OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, NULL));
            }
            copy_everything(&f, ends[t]);
            fixture_destroy(&f);
            rf_free(x);
        }
        assert_memory_equal(ends[0], ends[1], sizeof ends[0]);
        assert_memory_equal(ends[0], ends[2], sizeof ends[0]);
    }
}

/* Peak resident memory since the last call, in bytes; -1 where the system does not tell. */
static double peak_since_reset(void)
{
    char line[256];
    double kib = -1.0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            double v;
            OK(sscanf(line + 6, "%lf", &v) == 1 ? RF_OK : RF_ERR_FORMAT);
            kib = v;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    f = fopen("/proc/self/clear_refs", "w");
    if (f == NULL || fputs("5", f) < 0 || fclose(f) != 0) {
        return -1.0;
    }
    return kib * 1024.0;
}

/* batch x latents would be 805 MB. What there is: parameters, moments, gradients, a micro-batch of
 * the dense path, lists. */
static void no_buffer_of_batch_times_dictionary(void **state)
{
    (void)state;
    enum { N = 4096, WIDTH = 8, LATENTS = 49152 };
    static const char *const architectures[] = {"topk", "relu", "relu"};
    for (int a = 0; a < 3; a++) {
        rf_coder_settings settings = fixture_settings(architectures[a], LATENTS, 8);
        double before = peak_since_reset();
        before = peak_since_reset();
        fixture f = fixture_make(comm, &settings, WIDTH, N, 2);
        float *x = fixture_planted(14, N, WIDTH);
        rf_view sample = rf_view_2d(x, 64, WIDTH);
        rf_token_batch batch = fixture_batch(comm, x, N, WIDTH, NULL);
        rf_step_rates rates = rf_step_rates_default();
        rf_step_metrics metrics;
        OK(rf_coder_init(f.coder, f.s, &sample));
        for (int i = 0; a == 2 && i < LATENTS; i++) { /* sparse: no value at all */
            fixture_floats(&f, RF_CODER_B_ENC)[i] = -9.0f;
        }
        if (a == 2) {
            rf_coder_state st;
            OK(rf_coder_get_state(f.coder, f.s, &st));
            st.counters[RF_COUNTER_DENSE] = 0;
            OK(rf_coder_set_state(f.coder, f.s, &st));
        }
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &metrics));
        assert_int_equal(metrics.dense_path, a == 1);
        double used = peak_since_reset() - before;
        print_message("%s: %.0f MB\n", architectures[a], used * 1e-6);
        if (before >= 0.0) {
            /* 49152 latents of width 8: 13 MB; two micro-batches x dictionary 403 MB, lists of ReLU
             * up to 151 MB */
            assert_true(used < (a == 0 ? 120e6 : 700e6));
        }
        rf_free(x);
        fixture_destroy(&f);
    }
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    rf_coder_settings settings = fixture_settings("topk", 48, 4);
    fixture f = fixture_make(comm, &settings, 12, 80, 1);
    float *x = fixture_planted(15, 100, 12);
    rf_step_rates rates = rf_step_rates_default();
    rf_token_batch batch = fixture_batch(comm, x, 81, 12, NULL); /* one row too many */
    assert_int_equal(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, NULL), RF_ERR_INVALID_ARG);
    batch = fixture_batch(comm, x, 80, 11, NULL); /* another width */
    assert_int_equal(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, NULL), RF_ERR_INVALID_ARG);
    batch = fixture_batch(comm, x, 80, 12, NULL);
    batch.first_row = 1; /* another rank's share */
    assert_int_equal(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, NULL), RF_ERR_INVALID_ARG);
    rf_free(x);
    fixture_destroy(&f);
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
        cmocka_unit_test(aux_term_does_not_know_the_decoder_bias),
        cmocka_unit_test(aux_gradient_reaches_the_encoder),
        cmocka_unit_test(a_latent_at_zero_neither_fires_nor_learns),
        cmocka_unit_test(decoder_rows_have_norm_one_after_a_step),
        cmocka_unit_test(no_dead_latent_no_aux_term),
        cmocka_unit_test(an_aux_loss_that_is_not_finite_counts_as_zero),
        cmocka_unit_test(aux_term_brings_dead_latents_back),
        cmocka_unit_test(training_lowers_the_loss),
        cmocka_unit_test(a_batch_that_is_not_finite_changes_nothing_and_is_counted),
        cmocka_unit_test(rows_that_are_not_valid_do_not_count),
        cmocka_unit_test(a_batch_without_valid_tokens_is_skipped),
        cmocka_unit_test(relu_paths_agree_and_change_with_density),
        cmocka_unit_test(a_shared_work_space_does_not_change_a_coder),
        cmocka_unit_test(the_number_of_threads_leaves_no_trace),
        cmocka_unit_test(no_buffer_of_batch_times_dictionary),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
