/* Mistakes that other trainers of sparse coders make in their losses, or made: one test each, that
 * fails when the mistake is put in. Here: auxiliary terms, who fires, TopK and its kin, scale. */
#include "step/small_coder.h"

/* ---- AuxK -------------------------------------------------------------------------------------
 */

/* With no code at all the residual is x - b_dec, and what dead latents leave of it is all of it,
 * whatever b_dec is: adding it to their reconstruction would change the term. */
static void aux_decodes_without_b_dec(void **state)
{
    (void)state;
    rf_coder_settings s = settings_of("topk");
    s.aux_alpha = 0.5;
    s.aux_k = 2;
    fixture f = make_autoencoder(&s);
    float x[B * D], spread = 0.0f, all = 0.0f;
    set_all(&f, RF_CODER_B_ENC, -100.0f);
    set_all(&f, RF_CODER_B_DEC, 5.0f);
    set_dead(&f, 0, F);
    for (int i = 0; i < B * D; i++) {
        x[i] = 5.0f + (float)(i / D % 2) * 2.0f; /* residuals 0 and 2, mean 1 */
        spread += 1.0f;
        all += (x[i] - 5.0f) * (x[i] - 5.0f);
    }
    rf_step_metrics m = look(&f, x, B, D, NULL);
    assert_close(m.aux, 0.5 * (double)all / (double)spread);
    fixture_destroy(&f);
}

/* Latents 4 and 5 are dead, would not be selected, and could explain what is missing. */
static fixture with_useful_dead(double alpha, const char *architecture, float *x)
{
    rf_coder_settings s = settings_of(architecture);
    s.aux_alpha = alpha;
    s.aux_k = 2;
    fixture f = make_autoencoder(&s);
    set_dead(&f, 4, 2);
    floats(&f, RF_CODER_B_ENC)[4] = floats(&f, RF_CODER_B_ENC)[5] = 0.1f;
    for (int b = 0; b < B; b++) {
        const float row[D] = {-0.3f - 0.1f * (float)b, -0.2f, 2.0f, 3.0f + (float)b};
        memcpy(x + b * D, row, sizeof row);
    }
    return f;
}

static void aux_gradient_reaches_the_encoder(void **state)
{
    (void)state;
    float x[B * D];
    for (int has_aux = 0; has_aux < 2; has_aux++) {
        fixture f = with_useful_dead(has_aux ? 0.1 : 0.0, "topk", x);
        look(&f, x, B, D, NULL);
        const float *g = fixture_gradient(&f, RF_CODER_W_ENC);
        assert_int_equal(length_of_row(g, 4, D) > 1e-4, has_aux);
        assert_int_equal(length_of_row(g, 5, D) > 1e-4, has_aux);
        fixture_destroy(&f);
    }
}

/* Dead latents whose pre-activations are negative give nothing to the term. */
static void aux_values_are_above_zero(void **state)
{
    (void)state;
    float x[B * D];
    fixture f = with_useful_dead(0.1, "topk", x);
    floats(&f, RF_CODER_B_ENC)[4] = floats(&f, RF_CODER_B_ENC)[5] = -50.0f;
    rf_step_metrics m = look(&f, x, B, D, NULL);
    assert_true(m.n_dead == 2 && m.aux > 0.0);
    assert_true(length_of_row(fixture_gradient(&f, RF_CODER_W_ENC), 4, D) <= 0.0);
    assert_true(length_of_row(fixture_gradient(&f, RF_CODER_W_DEC), 5, D) <= 0.0);
    fixture_destroy(&f);
}

/* All residuals alike: their variance is 0 and the term infinite. It counts as nothing, not as the
 * largest number. */
static void aux_that_is_infinite_counts_as_nothing(void **state)
{
    (void)state;
    float x[B * D];
    rf_coder_settings s = settings_of("topk");
    s.aux_alpha = 0.5;
    fixture f = make_autoencoder(&s);
    set_all(&f, RF_CODER_B_ENC, -100.0f);
    set_dead(&f, 0, F);
    for (int i = 0; i < B * D; i++) {
        x[i] = 1.0f;
    }
    rf_step_metrics m = look(&f, x, B, D, NULL);
    assert_false(m.skipped);
    assert_close(m.aux, 0.0);
    assert_close(m.loss, 4.0);
    fixture_destroy(&f);
}

/* ---- who fires --------------------------------------------------------------------------------
 */

/* Of the latents, three are above 0, three below, and two, 3 and 7, at 0 and at -0. */
static void fired_means_value_above_zero(void **state)
{
    (void)state;
    rf_coder_settings s = settings_of("topk");
    s.k = (rf_k_by_class){.any = 7};
    fixture f = make_autoencoder(&s);
    float x[B * D];
    const int64_t *since = rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data;
    for (int i = 0; i < B * D; i++) {
        x[i] = i % D < 3 ? 1.0f + (float)i * 0.1f : 0.0f;
    }
    rf_step_metrics m = look(&f, x, B, D, NULL);
    assert_close(m.l0, 3.0);
    assert_int_equal(m.n_fired, 3);
    for (int i = 0; i < F; i++) {
        assert_int_equal(since[i], i < 3 ? 0 : B);
    }
    fixture_destroy(&f);
}

/* Dead is told in valid tokens, not in steps. */
static void tokens_since_fired_counts_valid_tokens(void **state)
{
    (void)state;
    const uint8_t valid[B] = {1, 0, 1, 1, 0, 1};
    rf_coder_settings s = settings_of("topk");
    fixture f = make_autoencoder(&s);
    float x[B * D];
    rf_coder_state after;
    for (int i = 0; i < B * D; i++) {
        x[i] = 1.0f;
    }
    look(&f, x, B, D, valid);
    look(&f, x, B, D, valid);
    assert_int_equal(((int64_t *)rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data)[7], 8);
    OK(rf_coder_get_state(f.coder, f.s, &after));
    assert_int_equal(after.counters[RF_COUNTER_TOKENS], 8);
    fixture_destroy(&f);
}

/* A gated latent whose gate is open and whose magnitude is 0 does not fire. */
static void an_open_gate_without_magnitude_does_not_fire(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        rf_coder_settings s = settings_of("gated");
        fixture f = make_autoencoder(&s);
        float x[D] = {1.0f, 2.0f, 0.0f, 0.0f};
        floats(&f, RF_CODER_B_MAG)[1] = -9.0f;
        take_path(&f, is_dense);
        rf_step_metrics m = look(&f, x, 1, D, NULL);
        assert_close(m.l0, 1.0);
        assert_int_equal(m.n_fired, 1);
        fixture_destroy(&f);
    }
}

/* ---- TopK and its kin -------------------------------------------------------------------------
 */

static void multi_topk_counts_k_not_4k(void **state)
{
    (void)state;
    rf_coder_settings s = settings_of("multi_topk");
    s.k = (rf_k_by_class){.any = 1};
    fixture f = make_autoencoder(&s);
    float x[B * D];
    for (int b = 0; b < B; b++) {
        const float row[D] = {4.0f, 3.0f, 2.0f, 1.0f};
        memcpy(x + b * D, row, sizeof row);
    }
    rf_step_metrics m = look(&f, x, B, D, NULL);
    assert_close(m.l0, 1.0);
    assert_int_equal(m.n_fired, 1);
    assert_close(m.mse, 9.0 + 4.0 + 1.0);
    assert_close(m.extra, 0.0); /* four latents have it all */
    fixture_destroy(&f);
}

static void multi_topk_gradient_reaches_the_encoder(void **state)
{
    (void)state;
    rf_coder_settings s = settings_of("multi_topk");
    s.k = (rf_k_by_class){.any = 1};
    fixture f = make_autoencoder(&s);
    float x[D] = {4.0f, 3.0f, 2.0f, 1.0f};
    floats(&f, RF_CODER_B_ENC)[2] = 0.5f; /* what the four latents get wrong */
    look(&f, x, 1, D, NULL);
    assert_true(length_of_row(fixture_gradient(&f, RF_CODER_W_ENC), 2, D) > 1e-3);
    fixture_destroy(&f);
}

/* A batch in which nothing is above 0 is an ordinary batch without codes. */
static void batch_topk_takes_a_batch_without_positive_values(void **state)
{
    (void)state;
    rf_coder_settings s = settings_of("batch_topk");
    fixture f = make_autoencoder(&s);
    float x[B * D];
    set_all(&f, RF_CODER_B_ENC, -100.0f);
    for (int i = 0; i < B * D; i++) {
        x[i] = 0.5f;
    }
    rf_step_metrics m = look(&f, x, B, D, NULL);
    assert_false(m.skipped);
    assert_close(m.l0, 0.0);
    assert_close(m.mse, 1.0);
    fixture_destroy(&f);
}

/* The threshold in use is the mean of what was measured from the first step on, not pulled towards
 * 0, and it is a tensor of the coder, so that files have it. */
static void batch_topk_threshold_starts_at_what_was_measured(void **state)
{
    (void)state;
    rf_coder_settings s = settings_of("batch_topk");
    fixture f = make_autoencoder(&s);
    float x[B * D];
    for (int b = 0; b < B; b++) {
        const float row[D] = {4.0f, 3.0f, 0.75f, 0.5f}; /* the least of 2 B is 3 */
        memcpy(x + b * D, row, sizeof row);
    }
    look(&f, x, B, D, NULL);
    const float *scalars = floats(&f, RF_CODER_SCALARS);
    assert_true(scalars[RF_SCALAR_THRESHOLD_MASS] > 0.0f);
    assert_close((double)scalars[RF_SCALAR_THRESHOLD] / (double)scalars[RF_SCALAR_THRESHOLD_MASS],
                 3.0);
    assert_string_equal(rf_coder_tensor_at(f.coder, RF_CODER_SCALARS).name, "scalars");
    fixture_destroy(&f);
}

/* One latent, the first, is in every prefix: all prefixes reconstruct alike, and their mean is the
 * loss of the whole. */
static void matryoshka_weights_sum_to_one(void **state)
{
    (void)state;
    rf_coder_settings s = settings_of("matryoshka");
    s.k = (rf_k_by_class){.any = 1};
    s.n_prefixes = 4;
    fixture f = make_autoencoder(&s);
    float x[D] = {4.0f, 3.0f, 2.0f, 1.0f};
    rf_step_metrics m = look(&f, x, 1, D, NULL);
    assert_close(m.mse, 14.0);
    assert_close(m.extra, 0.0);
    assert_close(m.loss, 14.0);
    fixture_destroy(&f);
}

/* ---- scale, normalisation, start --------------------------------------------------------------
 */

/* |y - y_hat|^2 over V, a constant of the coder: not over a norm, nor over the batch's own spread.
 */
static void mse_is_over_the_coders_variance(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        rf_coder_settings s = settings_of("relu");
        fixture f = make_autoencoder(&s);
        float x[2 * D] = {3.0f, 0.0f, 0.0f, 0.0f, 1.0f, 1.0f, 0.0f, 0.0f};
        set_all(&f, RF_CODER_B_ENC, -100.0f);
        set_scalar(&f, RF_SCALAR_VARIANCE, 2.5f);
        take_path(&f, is_dense);
        rf_step_metrics m = look(&f, x, 2, D, NULL);
        assert_int_equal(m.dense_path, is_dense);
        assert_close(m.mse, (9.0 + 2.0) / 2.0 / 2.5);
        assert_close(m.explained_variance, 1.0 - 11.0 / (11.0 - (16.0 + 1.0) / 2.0));
        fixture_destroy(&f);
    }
}

/* Error over spread, each summed over the batch: not the mean of each token's own ratio, which
 * tokens near the mean decide. */
static void explained_variance_is_a_ratio_of_sums(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        rf_coder_settings s = settings_of("relu");
        fixture f = make_autoencoder(&s);
        float x[3 * D] = {6.0f, 0.0f, 0.0f, 0.0f, 0.0f, 3.0f}; /* mean 2, 1, 0, 0 */
        set_all(&f, RF_CODER_B_ENC, -100.0f);
        take_path(&f, is_dense);
        rf_step_metrics m = look(&f, x, 3, D, NULL);
        assert_close(m.explained_variance, 1.0 - (36.0 + 9.0 + 0.0) / (17.0 + 8.0 + 5.0));
        fixture_destroy(&f);
    }
}

/* Both of its terms are over V: in other units of x they weigh as much against each other. */
static void gated_aux_is_over_the_coders_variance_too(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        rf_coder_settings s = settings_of("gated");
        fixture f = make_autoencoder(&s);
        float x[2 * D] = {3.0f, 0.0f, 0.0f, 0.0f, 1.0f, 1.0f, 0.0f, 0.0f};
        set_all(&f, RF_CODER_B_ENC, -100.0f); /* all gates closed */
        set_scalar(&f, RF_SCALAR_VARIANCE, 2.5f);
        take_path(&f, is_dense);
        rf_step_metrics m = look(&f, x, 2, D, NULL);
        assert_close(m.mse, (9.0 + 2.0) / 2.0 / 2.5);
        assert_close(m.extra, m.mse);
        fixture_destroy(&f);
    }
}

/* Residuals are those of normalised tokens, as pre-activations are: one token that is longer than
 * another does not have more of the ghost term. */
static void ghost_weighs_tokens_alike_whatever_their_length(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        float g[2][F * D];
        for (int i = 0; i < 2; i++) {
            rf_coder_settings s = settings_of("relu");
            s.ghost = RF_GHOST_ORIGINAL;
            s.normalise = RF_NORM_LAYER;
            fixture f = make_autoencoder(&s);
            float x[B * D], *normals = fixture_normals(9, B * D, 1.0f);
            for (int j = 0; j < B * D; j++) {
                x[j] = normals[j] * (i == 0 ? 1.0f : 1.0f + 10.0f * (float)(j / D));
            }
            set_dead(&f, 4, 4);
            for (int j = 4; j < F; j++) {
                floats(&f, RF_CODER_B_ENC)[j] = -100.0f;
            }
            take_path(&f, is_dense);
            rf_step_metrics m = look(&f, x, B, D, NULL);
            assert_true(m.n_dead == 4 && m.aux > 0.0);
            memcpy(g[i], fixture_gradient(&f, RF_CODER_W_ENC), sizeof g[i]);
            rf_free(normals);
            fixture_destroy(&f);
        }
        for (int j = 4 * D; j < F * D; j++) { /* the 1e-5 beside a deviation of about 1 */
            assert_true(fabs((double)g[1][j] - (double)g[0][j]) <=
                        1e-4 * length_of_row(g[0], j / D, D));
        }
        assert_true(length_of_row(g[0], 4, D) > 1e-3);
    }
}

/* A transcoder's input is normalised by token; its target keeps its units and does not come back in
 * those of the input. */
static void a_transcoders_target_keeps_its_units(void **state)
{
    (void)state;
    const rf_coder_shape shape = {.n_in = 1, .in = {D}, .n_out = 1, .out = {D}};
    double mse[3];
    for (int i = 0; i < 3; i++) {
        rf_coder_settings s = settings_of("relu");
        s.normalise = RF_NORM_LAYER;
        fixture f = make(&s, &shape);
        const float unit = i == 0 ? 1.0f : 30.0f;
        set_all(&f, RF_CODER_B_ENC, i == 2 ? -100.0f : 0.0f); /* no codes: all of it is missing */
        float x[2 * D] = {1.0f * unit, 2.0f * unit, -1.0f * unit, 0.5f * unit,
                          0.1f,        0.2f,        0.3f,         0.4f};
        mse[i] = look(&f, x, 1, 2 * D, NULL).mse;
        fixture_destroy(&f);
    }
    assert_true(fabs(mse[1] - mse[0]) <= 1e-4 * mse[0]); /* the 1e-5 beside a deviation of 1 */
    assert_close(mse[2], 0.01 + 0.04 + 0.09 + 0.16);
}

/* The skip maps normalised tokens, as the encoder does: of this one they are (-15, -5, 5, 15) over
 * its deviation, sqrt(500 / 3). */
static void a_skip_sees_what_the_encoder_sees(void **state)
{
    (void)state;
    const rf_coder_shape shape = {.n_in = 1, .in = {D}, .n_out = 1, .out = {D}};
    FOR_BOTH_PATHS(is_dense)
    {
        rf_coder_settings s = settings_of("relu");
        s.normalise = RF_NORM_LAYER;
        s.skip = true;
        fixture f = make(&s, &shape);
        float x[2 * D] = {110.0f, 120.0f, 130.0f, 140.0f}; /* and a target of 0 */
        set_all(&f, RF_CODER_B_ENC, -100.0f);
        for (int j = 0; j < D; j++) {
            floats(&f, RF_CODER_W_SKIP)[j * D + j] = 1.0f;
        }
        take_path(&f, is_dense);
        rf_step_metrics m = look(&f, x, 1, 2 * D, NULL);
        assert_true(fabs(m.mse - 3.0) <= 1e-5); /* the 1e-5 beside the deviation, and fp32 */
        fixture_destroy(&f);
    }
}

/* Raw rows have a mean of 100; what the encoder sees has one near 0, and b_dec is of that. */
static void b_dec_is_computed_on_what_the_coder_sees(void **state)
{
    (void)state;
    enum { N = 64 };
    rf_coder_settings s = settings_of("relu");
    s.normalise = RF_NORM_LAYER;
    for (int how = RF_B_DEC_GEOMETRIC_MEDIAN; how <= RF_B_DEC_MEAN; how++) {
        s.b_dec = how;
        fixture f = make_autoencoder(&s);
        float *x = fixture_normals(7, N * D, 1.0f);
        for (int i = 0; i < N * D; i++) {
            x[i] += 100.0f;
        }
        rf_view sample = rf_view_2d(x, N, D);
        OK(rf_coder_init(f.coder, f.s, &sample));
        assert_true(length_of_row(floats(&f, RF_CODER_B_DEC), 0, D) < 1.0);
        rf_free(x);
        fixture_destroy(&f);
    }
}

/* After the update, not before the next one: what is saved has unit rows. */
static void decoder_rows_are_unit_when_a_step_is_over(void **state)
{
    (void)state;
    FOR_BOTH_PATHS(is_dense)
    {
        rf_coder_settings s = settings_of("relu");
        fixture f = make_autoencoder(&s);
        float x[B * D], *normals = fixture_normals(5, B * D, 1.0f);
        rf_step_rates rates = rf_step_rates_default();
        rf_token_batch batch = fixture_batch(comm, x, B, D, NULL);
        rates.lr = 0.1;
        memcpy(x, normals, sizeof x);
        set_all(&f, RF_CODER_B_ENC, 0.1f);
        take_path(&f, is_dense);
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, NULL));
        for (int i = 0; i < F; i++) {
            assert_close(length_of_row(floats(&f, RF_CODER_W_DEC), i, D), 1.0);
        }
        rf_free(normals);
        fixture_destroy(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(aux_decodes_without_b_dec),
        cmocka_unit_test(aux_gradient_reaches_the_encoder),
        cmocka_unit_test(aux_values_are_above_zero),
        cmocka_unit_test(aux_that_is_infinite_counts_as_nothing),
        cmocka_unit_test(fired_means_value_above_zero),
        cmocka_unit_test(tokens_since_fired_counts_valid_tokens),
        cmocka_unit_test(an_open_gate_without_magnitude_does_not_fire),
        cmocka_unit_test(multi_topk_counts_k_not_4k),
        cmocka_unit_test(multi_topk_gradient_reaches_the_encoder),
        cmocka_unit_test(batch_topk_takes_a_batch_without_positive_values),
        cmocka_unit_test(batch_topk_threshold_starts_at_what_was_measured),
        cmocka_unit_test(matryoshka_weights_sum_to_one),
        cmocka_unit_test(mse_is_over_the_coders_variance),
        cmocka_unit_test(explained_variance_is_a_ratio_of_sums),
        cmocka_unit_test(gated_aux_is_over_the_coders_variance_too),
        cmocka_unit_test(ghost_weighs_tokens_alike_whatever_their_length),
        cmocka_unit_test(a_transcoders_target_keeps_its_units),
        cmocka_unit_test(a_skip_sees_what_the_encoder_sees),
        cmocka_unit_test(b_dec_is_computed_on_what_the_coder_sees),
        cmocka_unit_test(decoder_rows_are_unit_when_a_step_is_over),
    };
    return cmocka_run_group_tests(tests, small_start, small_finish);
}
