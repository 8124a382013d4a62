/* Steps on 1 to 4 ranks: the same TopK coder bit for bit, the same ReLU curve; expectations come
 * from one rank that is given the whole batch. */
#include "coder/coder_fixture.h"

static rf_comm *world, *alone;

enum { WIDTH = 20, LATENTS = 240, MAX_ROWS = 700 };

/* Ragged, shorter than a tile, one past a tile, and so small that ranks have nothing. */
static const int64_t batch_rows[] = {700, 333, 65, 64, 1, 190, 512};

static void batches_of(const rf_comm *comm, float *x, const uint8_t *valid, int step,
                       rf_token_batch *out)
{
    int64_t n = batch_rows[(size_t)step % (sizeof batch_rows / sizeof batch_rows[0])];
    *out = fixture_batch(comm, x + (step % 5) * WIDTH, n, WIDTH, valid);
}

static fixture start_coder(const rf_comm *comm, const char *architecture, float *x, int n_threads)
{
    rf_coder_settings settings = fixture_settings(architecture, LATENTS, 6);
    settings.dead_after_tokens = 300; /* so that some are dead soon */
    settings.l1 = 0.01;
    fixture f = fixture_make(comm, &settings, WIDTH, MAX_ROWS, n_threads);
    rf_view sample = rf_view_2d(x, 256, WIDTH);
    OK(rf_coder_init(f.coder, f.s, &sample));
    return f;
}

static void same_tensors(const fixture *a, const fixture *b)
{
    for (int i = 0; i < RF_CODER_N_TENSORS; i++) {
        rf_view u = rf_coder_view(a->coder, i), v = rf_coder_view(b->coder, i);
        if (u.data != NULL) {
            assert_memory_equal(u.data, v.data,
                                (size_t)rf_view_n_elems(&u) * rf_dtype_bytes(u.dtype));
        }
    }
    for (int i = 0; i < rf_optimiser_n_tensors(a->opt); i++) {
        rf_view u = rf_optimiser_tensor_view(a->opt, i), v = rf_optimiser_tensor_view(b->opt, i);
        assert_memory_equal(u.data, v.data, (size_t)rf_view_n_elems(&u) * rf_dtype_bytes(u.dtype));
    }
}

static void topk_has_the_same_bits_on_any_number_of_ranks(void **state)
{
    (void)state;
    enum { STEPS = 14 };
    float *x = fixture_planted(21, MAX_ROWS + 8, WIDTH);
    uint8_t valid[MAX_ROWS];
    fixture many = start_coder(world, "topk", x, 1 + rf_comm_rank(world) % 2);
    fixture one = start_coder(alone, "topk", x, 1);
    rf_step_rates rates = rf_step_rates_default();
    int64_t n_with_aux = 0;
    rates.lr = 3e-3;
    for (int b = 0; b < MAX_ROWS; b++) {
        valid[b] = b % 11 != 5;
    }
    for (int i = 0; i < STEPS; i++) {
        rf_step_metrics m, want;
        rf_token_batch batch;
        batches_of(world, x, i % 2 == 0 ? valid : NULL, i, &batch);
        OK(rf_step_run(many.step, many.coder, many.opt, &batch, &rates, &m));
        batches_of(alone, x, i % 2 == 0 ? valid : NULL, i, &batch);
        OK(rf_step_run(one.step, one.coder, one.opt, &batch, &rates, &want));
        assert_true(m.loss == want.loss && m.mse == want.mse && m.aux == want.aux);
        assert_true(m.l0 == want.l0 && m.grad_norm == want.grad_norm);
        assert_true(m.explained_variance == want.explained_variance ||
                    (isnan(m.explained_variance) && isnan(want.explained_variance)) ||
                    isinf(want.explained_variance));
        assert_int_equal(m.n_fired, want.n_fired);
        assert_int_equal(m.n_dead, want.n_dead);
        n_with_aux += want.aux > 0.0;
    }
    same_tensors(&many, &one);
    assert_true(n_with_aux >= 3);
    fixture_destroy(&one);
    fixture_destroy(&many);
    rf_free(x);
}

static void relu_loss_agrees_within_1e_6_over_50_steps(void **state)
{
    (void)state;
    float *x = fixture_planted(22, MAX_ROWS + 8, WIDTH);
    fixture many = start_coder(world, "relu", x, 1), one = start_coder(alone, "relu", x, 1);
    rf_step_rates rates = rf_step_rates_default();
    double worst = 0.0;
    for (int i = 0; i < 50; i++) {
        rf_step_metrics m, want;
        rf_token_batch batch;
        batches_of(world, x, NULL, i, &batch);
        OK(rf_step_run(many.step, many.coder, many.opt, &batch, &rates, &m));
        batches_of(alone, x, NULL, i, &batch);
        OK(rf_step_run(one.step, one.coder, one.opt, &batch, &rates, &want));
        worst = fmax(worst, fabs(m.loss - want.loss) / want.loss);
        assert_true(m.loss > 0.0);
    }
    if (rf_comm_rank(world) == 0) {
        print_message("ReLU loss differs by at most %.2g\n", worst);
    }
    assert_true(worst <= 1e-6); /* the order of fp32 sums differs */
    fixture_destroy(&one);
    fixture_destroy(&many);
    rf_free(x);
}

/* ReLU on its sparse path exchanges tokens too; codes come from products, whose tiles differ by
 * rank. */
static void sparse_relu_agrees_over_ranks(void **state)
{
    (void)state;
    float *x = fixture_planted(23, MAX_ROWS + 8, WIDTH);
    fixture both[2] = {start_coder(world, "relu", x, 2), start_coder(alone, "relu", x, 1)};
    const rf_comm *comms[] = {world, alone};
    rf_step_metrics m[2];
    for (int c = 0; c < 2; c++) {
        rf_coder_state st;
        rf_step_rates rates = rf_step_rates_default();
        for (int i = 0; i < LATENTS; i++) {
            fixture_floats(&both[c], RF_CODER_B_ENC)[i] = -1.6f;
        }
        OK(rf_coder_get_state(both[c].coder, both[c].s, &st));
        st.counters[RF_COUNTER_DENSE] = 0;
        OK(rf_coder_set_state(both[c].coder, both[c].s, &st));
        for (int i = 0; i < 7; i++) {
            rf_token_batch batch;
            batches_of(comms[c], x, NULL, i, &batch);
            OK(rf_step_run(both[c].step, both[c].coder, both[c].opt, &batch, &rates, &m[c]));
        }
        assert_false(m[c].dense_path);
    }
    assert_true(m[0].l0 > 0.0);
    assert_true(fabs(m[0].loss - m[1].loss) <= 1e-6 * m[1].loss);
    fixture_destroy(&both[0]);
    fixture_destroy(&both[1]);
    rf_free(x);
}

/* NaN on one rank: all skip, and none hangs. */
static void every_rank_skips_the_same_batch(void **state)
{
    (void)state;
    static const char *const architectures[] = {"topk", "relu"};
    for (int a = 0; a < 2; a++) {
        float *x = fixture_planted(24, MAX_ROWS + 8, WIDTH);
        fixture f = start_coder(world, architectures[a], x, 1);
        rf_step_rates rates = rf_step_rates_default();
        rf_step_metrics m;
        x[(MAX_ROWS - 1) * WIDTH] = NAN; /* the last rank's */
        rf_token_batch batch = fixture_batch(world, x, MAX_ROWS, WIDTH, NULL);
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &m));
        assert_true(m.skipped);
        x[(MAX_ROWS - 1) * WIDTH] = 0.0f;
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &m));
        assert_false(m.skipped);
        fixture_destroy(&f);
        rf_free(x);
    }
}

/* A mistake on one rank is an error on all. */
static void a_wrong_share_on_one_rank_fails_on_all(void **state)
{
    (void)state;
    float *x = fixture_planted(25, MAX_ROWS + 8, WIDTH);
    fixture f = start_coder(world, "topk", x, 1);
    rf_step_rates rates = rf_step_rates_default();
    rf_token_batch batch = fixture_batch(world, x, MAX_ROWS, WIDTH, NULL);
    if (rf_comm_rank(world) == rf_comm_size(world) - 1) {
        batch.x.shape[0]--;
    }
    assert_int_equal(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, NULL), RF_ERR_INVALID_ARG);
    fixture_destroy(&f);
    rf_free(x);
}

static int start(void **state)
{
    (void)state;
    if (rf_comm_start(NULL, NULL, &world) != RF_OK) {
        return -1;
    }
    return rf_comm_split(world, rf_comm_rank(world), &alone) == RF_OK ? 0 : -1;
}

static int finish(void **state)
{
    (void)state;
    rf_comm_destroy(alone);
    rf_comm_finish(world);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(topk_has_the_same_bits_on_any_number_of_ranks),
        cmocka_unit_test(relu_loss_agrees_within_1e_6_over_50_steps),
        cmocka_unit_test(sparse_relu_agrees_over_ranks),
        cmocka_unit_test(every_rank_skips_the_same_batch),
        cmocka_unit_test(a_wrong_share_on_one_rank_fails_on_all),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
