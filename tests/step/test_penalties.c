/* Mistakes that other trainers make, as in test_losses.c. Here: thresholds, gates, ghost gradients,
 * penalties. */
#include "step/small_coder.h"

/* ---- JumpReLU ---------------------------------------------------------------------------------
 */

/* d log theta of latent 0 (theta 0.5, window 0.4 .. 0.6 by a bandwidth of 0.2) when its
 * pre-activation is h and nothing but L0 counts. */
static double threshold_gradient_at(float h, bool is_dense)
{
    rf_coder_settings s = settings_of("jumprelu");
    s.l0 = 0.25;
    s.bandwidth = 0.2;
    fixture f = make_autoencoder(&s);
    float x[D] = {h, 0.0f, 0.0f, 0.0f};
    set_all(&f, RF_CODER_W_DEC, 0.0f); /* so that the reconstruction has no say */
    take_path(&f, is_dense);
    look(&f, x, 1, D, NULL);
    double g = (double)fixture_gradient(&f, RF_CODER_LOG_THRESHOLD)[0];
    fixture_destroy(&f);
    return g;
}

/* -theta l0 / eps, once by the bandwidth, on either side of the threshold. */
static void jump_window_is_two_sided_and_divides_by_the_bandwidth_once(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        assert_close(threshold_gradient_at(0.45f, is_dense), -0.5 * 0.25 / 0.2);
        assert_close(threshold_gradient_at(0.55f, is_dense), -0.5 * 0.25 / 0.2);
        assert_close(threshold_gradient_at(0.35f, is_dense), 0.0);
        assert_close(threshold_gradient_at(0.65f, is_dense), 0.0);
    }
}

/* The window looks at pre-activations: what a latent that is far below its threshold gives, 0, is
 * near a small threshold and yet not in its window. */
static void jump_window_is_of_pre_activations(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        rf_coder_settings s = settings_of("jumprelu");
        s.l0 = 0.25;
        s.bandwidth = 0.2;
        fixture f = make_autoencoder(&s);
        float x[D] = {-3.0f, 0.05f, 0.0f, 0.0f};
        set_all(&f, RF_CODER_LOG_THRESHOLD, logf(0.01f));
        set_all(&f, RF_CODER_W_DEC, 0.0f);
        take_path(&f, is_dense);
        look(&f, x, 1, D, NULL);
        const float *g = fixture_gradient(&f, RF_CODER_LOG_THRESHOLD);
        assert_close((double)g[0], 0.0);
        assert_close((double)g[1], -0.01 * 0.25 / 0.2);
        fixture_destroy(&f);
    }
}

/* A penalty of values presses on thresholds too: z jumps there. */
static void a_penalty_of_values_raises_thresholds(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        rf_coder_settings s = settings_of("jumprelu");
        s.penalty = RF_PENALTY_CHOICE_TANH;
        s.tanh_scale = 1.0;
        s.l1 = 0.25;
        fixture f = make_autoencoder(&s);
        float x[D] = {0.52f, 0.48f, 0.0f, 0.0f};
        set_all(&f, RF_CODER_W_DEC, 0.0f);
        take_path(&f, is_dense);
        look(&f, x, 1, D, NULL);
        const float *g = fixture_gradient(&f, RF_CODER_LOG_THRESHOLD);
        const double unit = 0.25 * 0.5 * 0.5 / 0.1; /* l1 theta^2 / eps */
        assert_close((double)g[0], -unit / (cosh(0.52) * cosh(0.52)));
        assert_close((double)g[1], -unit);
        fixture_destroy(&f);
    }
}

/* ---- gated ------------------------------------------------------------------------------------
 */

/* Gates closed, b_dec the data: both reconstructions are b_dec and both targets the data. */
static void gated_aux_target_has_the_bias_that_the_reconstruction_has(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        rf_coder_settings s = settings_of("gated");
        fixture f = make_autoencoder(&s);
        float x[B * D];
        set_all(&f, RF_CODER_B_DEC, 5.0f);
        set_all(&f, RF_CODER_B_ENC, -1.0f);
        for (int i = 0; i < B * D; i++) {
            x[i] = 5.0f;
        }
        take_path(&f, is_dense);
        rf_step_metrics m = look(&f, x, B, D, NULL);
        assert_close(m.mse, 0.0);
        assert_close(m.extra, 0.0);
        fixture_destroy(&f);
    }
}

/* The gate's reconstruction alone would move the decoder, were it not frozen there. */
static void gated_aux_leaves_the_decoder_alone(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        rf_coder_settings s = settings_of("gated");
        s.decoder = RF_DECODER_FREE;
        fixture f = make_autoencoder(&s);
        float x[D] = {1.0f, 2.0f, 0.0f, 0.0f};
        set_all(&f, RF_CODER_B_MAG, -9.0f);
        set_all(&f, RF_CODER_W_DEC, 0.3f);
        take_path(&f, is_dense);
        look(&f, x, 1, D, NULL);
        for (int i = 0; i < F; i++) {
            assert_close(length_of_row(fixture_gradient(&f, RF_CODER_W_DEC), i, D), 0.0);
        }
        assert_true(length_of_row(fixture_gradient(&f, RF_CODER_W_ENC), 0, D) > 1e-3);
        fixture_destroy(&f);
    }
}

/* The gate's L1 is of the gate, and no parameter is without use. */
static void gated_biases_all_learn(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        rf_coder_settings s = settings_of("gated");
        s.l1 = 0.5;
        fixture f = make_autoencoder(&s);
        float x[D] = {1.0f, 0.0f, 0.0f, 0.0f};
        set_all(&f, RF_CODER_B_MAG, 0.25f);
        floats(&f, RF_CODER_GAIN)[0] = 0.5f;
        take_path(&f, is_dense);
        rf_step_metrics m = look(&f, x, 1, D, NULL);
        const double z = exp(0.5) + 0.25, d_z = 2.0 * (z - 1.0);
        assert_close(m.sparsity, 0.5);
        assert_close(m.mse, (z - 1.0) * (z - 1.0));
        assert_close((double)fixture_gradient(&f, RF_CODER_B_ENC)[0], 0.5);
        assert_close((double)fixture_gradient(&f, RF_CODER_B_MAG)[0], d_z);
        assert_close((double)fixture_gradient(&f, RF_CODER_GAIN)[0], d_z * exp(0.5));
        fixture_destroy(&f);
    }
}

/* ---- ghost gradients --------------------------------------------------------------------------
 */

static rf_coder_settings ghost_settings(rf_ghost kind)
{
    rf_coder_settings s = settings_of("relu");
    s.ghost = (int)kind;
    s.prisma_compat = kind == RF_GHOST_PRISMA;
    return s;
}

/* Adding the term where it has nothing to say would double the loss. */
static void ghost_is_nothing_when_nothing_is_dead(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        const bool is_dense = i % 2 == 1;
        rf_coder_settings s = ghost_settings(i < 2 ? RF_GHOST_ORIGINAL : RF_GHOST_PRISMA);
        fixture f = make_autoencoder(&s);
        float x[B * D], *normals = fixture_normals(4, B * D, 1.0f);
        memcpy(x, normals, sizeof x);
        rf_free(normals);
        set_all(&f, RF_CODER_B_DEC, 0.5f);
        floats(&f, RF_CODER_B_ENC)[0] = -0.25f;
        take_path(&f, is_dense);
        rf_step_metrics none = look(&f, x, B, D, NULL);
        assert_true(none.mse > 0.01 && none.n_dead == 0 && none.dense_path == is_dense);
        assert_close(none.aux, 0.0);
        assert_close(none.loss, none.mse);
        set_dead(&f, 4, 1);
        take_path(&f, is_dense);
        rf_step_metrics some = look(&f, x, B, D, NULL);
        assert_int_equal(some.n_dead, 1);
        assert_true(some.aux > 0.0);
        fixture_destroy(&f);
    }
}

/* exp of a large pre-activation must not take the step down. */
static void ghost_does_not_overflow(void **state)
{
    (void)state;
    for (int kind = RF_GHOST_ORIGINAL; kind <= RF_GHOST_PRISMA; kind++) {
        rf_coder_settings s = ghost_settings((rf_ghost)kind);
        fixture f = make_autoencoder(&s);
        float x[B * D], *normals = fixture_normals(3, B * D, 1.0f);
        memcpy(x, normals, sizeof x);
        set_dead(&f, 4, 2);
        floats(&f, RF_CODER_B_ENC)[4] = 500.0f;
        rf_step_metrics m = look(&f, x, B, D, NULL);
        assert_false(m.skipped);
        assert_true(isfinite(m.aux) && m.aux > 0.0 && isfinite(m.grad_norm));
        rf_free(normals);
        fixture_destroy(&f);
    }
}

/* ---- penalties --------------------------------------------------------------------------------
 */

/* Where p falls, the weight follows: the penalty of a batch is what it was. */
static void p_anneal_keeps_the_penalty_where_p_falls(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        rf_coder_settings s = settings_of("p_anneal");
        s.l1 = 0.5;
        fixture f = make_autoencoder(&s);
        float x[D] = {4.0f, 1.0f, 0.25f, 0.0f};
        double sparsity[3];
        rf_step_rates rates = fixture_gradient_rates();
        rf_token_batch batch = fixture_batch(comm, x, 1, D, NULL);
        const double p[3] = {1.0, 0.5, 0.5};
        for (int step = 0; step < 3; step++) {
            rf_step_metrics m;
            take_path(&f, is_dense);
            rates.p = p[step];
            OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &m));
            assert_int_equal(m.dense_path, is_dense);
            sparsity[step] = m.sparsity;
        }
        assert_close(sparsity[0], 0.5 * 5.25);
        assert_close(sparsity[1], 0.5 * 5.25);
        assert_close(sparsity[2], 0.5 * 5.25);
        /* 0.5 z^(-1/2) of latent 0, less what its reconstruction is right about, times the weight
         */
        const double weight = 0.5 * 5.25 / (2.0 + 1.0 + 0.5);
        assert_close((double)fixture_gradient(&f, RF_CODER_B_ENC)[0], weight * 0.5 / 2.0);
        fixture_destroy(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jump_window_is_two_sided_and_divides_by_the_bandwidth_once),
        cmocka_unit_test(jump_window_is_of_pre_activations),
        cmocka_unit_test(a_penalty_of_values_raises_thresholds),
        cmocka_unit_test(gated_aux_target_has_the_bias_that_the_reconstruction_has),
        cmocka_unit_test(gated_aux_leaves_the_decoder_alone),
        cmocka_unit_test(gated_biases_all_learn),
        cmocka_unit_test(ghost_is_nothing_when_nothing_is_dead),
        cmocka_unit_test(ghost_does_not_overflow),
        cmocka_unit_test(p_anneal_keeps_the_penalty_where_p_falls),
    };
    return cmocka_run_group_tests(tests, small_start, small_finish);
}
