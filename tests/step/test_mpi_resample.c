/* New starts for dead latents, on 1 to 4 ranks: which tokens they come from follows from the keyed
 * numbers alone. */
#include "../../src/step/step_impl.h"
#include "coder/coder_fixture.h"

static rf_comm *world;

enum { WIDTH = 11, LATENTS = 40, ALIVE = 30, ROWS = 200, K = 3 };

/* The last latents read a direction that is never positive, and have been dead for long. */
static fixture half_dead(rf_coder_settings settings, float *x, rf_optimiser_kind kind)
{
    settings.dead_after_tokens = 1000;
    settings.aux_alpha = 0.0;
    settings.resample_every = 10;
    rf_coder_shape shape = rf_coder_shape_of(WIDTH);
    rf_optimiser_opts opts = {.kind = (int)kind};
    fixture f = fixture_make_of(world, &settings, &shape, &opts, ROWS, 1);
    rf_view sample = rf_view_2d(x, ROWS, WIDTH);
    OK(rf_coder_init(f.coder, f.s, &sample));
    for (int i = ALIVE; i < LATENTS; i++) {
        fixture_floats(&f, RF_CODER_B_ENC)[i] = -100.0f;
        ((int64_t *)rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data)[i] = 5000;
    }
    return f;
}

static rf_coder_settings resampling_settings(rf_resample how)
{
    rf_coder_settings settings = fixture_settings("topk", LATENTS, K);
    settings.resample = (int)how;
    return settings;
}

static rf_step_metrics step_with(fixture *f, float *x, int64_t n, const uint8_t *valid,
                                 bool resample)
{
    rf_step_metrics metrics;
    rf_step_rates rates = rf_step_rates_default();
    rf_token_batch batch = fixture_batch(world, x, n, WIDTH, valid);
    rates.lr = 1e-3;
    rates.resample = resample;
    OK(rf_step_run(f->step, f->coder, f->opt, &batch, &rates, &metrics));
    assert_false(metrics.skipped);
    return metrics;
}

static double cosine(const float *a, const float *b, int64_t n)
{
    double ab = 0.0, aa = 0.0, bb = 0.0;
    for (int64_t j = 0; j < n; j++) {
        ab += (double)a[j] * (double)b[j];
        aa += (double)a[j] * (double)a[j];
        bb += (double)b[j] * (double)b[j];
    }
    return ab / sqrt(aa * bb);
}

/* x - b_dec [WIDTH] as the step saw it. */
static void seen_row(const float *x, const float *b_dec, int64_t row, float *out)
{
    for (int j = 0; j < WIDTH; j++) {
        out[j] = x[row * WIDTH + j] - b_dec[j];
    }
}

/* The rows with a weight above 0 in the order in which they are drawn: by log(u) / weight, of their
 * keyed numbers u in (0, 1). */
static void drawn_order(const rf_coder_settings *settings, uint64_t step, const double *weight,
                        int64_t out[ROWS])
{
    double key[ROWS];
    int64_t n = 0;
    for (int64_t b = 0; b < ROWS; b++) {
        uint32_t u[4];
        rf_random_u32x4((uint64_t)settings->seed, RF_RANDOM_RESAMPLE, step, (uint64_t)b, u);
        if (weight[b] <= 0.0) {
            continue;
        }
        const uint64_t bits = ((uint64_t)u[0] << 32 | u[1]) >> 12;
        const double mine = log(((double)bits + 0.5) * 0x1p-52) / weight[b];
        int64_t at = n;
        for (; at > 0 && key[at - 1] < mine; at--) {
            key[at] = key[at - 1];
            out[at] = out[at - 1];
        }
        key[at] = mine;
        out[at] = b;
        n++;
    }
}

static double mean_alive_norm(const fixture *f)
{
    double sum = 0.0;
    for (int i = 0; i < ALIVE; i++) {
        const float *w = fixture_floats(f, RF_CODER_W_ENC) + i * WIDTH;
        sum += sqrt((double)rf_dot(w, w, WIDTH));
    }
    return sum / ALIVE;
}

static bool is_zero(rf_view v, int64_t row)
{
    const int64_t n = v.n_dims == 2 ? v.shape[1] : 1;
    for (int64_t j = 0; j < n; j++) {
        if (((const float *)v.data)[row * n + j] != 0.0f) {
            return false;
        }
    }
    return true;
}

/* Row `i` of the coder begins at `token`. */
static void check_start(const fixture *f, int64_t i, const float *token)
{
    const float *w_enc = fixture_floats(f, RF_CODER_W_ENC) + i * WIDTH,
                *w_dec = fixture_floats(f, RF_CODER_W_DEC) + i * WIDTH;
    const int of_latents[] = {RF_CODER_W_ENC, RF_CODER_B_ENC, RF_CODER_W_DEC};
    assert_true(cosine(w_dec, token, WIDTH) > 1.0 - 1e-10); /* a few roundings, squared */
    assert_true(cosine(w_enc, token, WIDTH) > 1.0 - 1e-10);
    assert_true(fabs((double)rf_dot(w_dec, w_dec, WIDTH) - 1.0) <= 1e-6); /* fp32 */
    assert_true(fabs(sqrt((double)rf_dot(w_enc, w_enc, WIDTH)) - 0.2 * mean_alive_norm(f)) <= 1e-6);
    assert_true(fixture_floats(f, RF_CODER_B_ENC)[i] == 0.0f);
    for (int p = 0; p < 3; p++) {
        assert_true(is_zero(rf_optimiser_part_view(f->opt, RF_OPTIMISER_M, of_latents[p]), i));
        assert_true(is_zero(rf_optimiser_part_view(f->opt, RF_OPTIMISER_V, of_latents[p]), i));
    }
}

/* Moments of the dead, as of latents that fired once: they must not move the new rows. */
static void remember_dead(const fixture *f)
{
    const int of_latents[] = {RF_CODER_W_ENC, RF_CODER_B_ENC, RF_CODER_W_DEC};
    for (int p = 0; p < 6; p++) {
        const rf_view v = rf_optimiser_part_view(f->opt, p < 3 ? RF_OPTIMISER_M : RF_OPTIMISER_V,
                                                 of_latents[p % 3]);
        const int64_t n = v.n_dims == 2 ? v.shape[1] : 1;
        for (int64_t i = ALIVE * n; i < LATENTS * n; i++) {
            ((float *)v.data)[i] = 0.5f;
        }
    }
}

static void dead_latents_start_from_the_tokens_that_were_drawn(void **state)
{
    (void)state;
    rf_coder_settings settings = resampling_settings(RF_RESAMPLE_DATA);
    float *x = fixture_planted(1, ROWS, WIDTH), b_dec[WIDTH], token[WIDTH];
    double weight[ROWS];
    uint8_t valid[ROWS];
    int64_t order[ROWS];
    rf_coder_state after;
    for (int b = 0; b < ROWS; b++) {
        valid[b] = b % 7 != 3;
        weight[b] = valid[b];
    }
    fixture f = half_dead(settings, x, RF_OPTIMISER_ADAM);
    step_with(&f, x, ROWS, valid, false); /* moments of the alive that are not 0 */
    remember_dead(&f);
    memcpy(b_dec, fixture_floats(&f, RF_CODER_B_DEC), sizeof b_dec);
    rf_step_metrics m = step_with(&f, x, ROWS, valid, true);
    assert_int_equal(m.n_dead, LATENTS - ALIVE);
    assert_int_equal(m.n_resampled, LATENTS - ALIVE);
    drawn_order(&settings, 1, weight, order);
    for (int i = ALIVE; i < LATENTS; i++) {
        seen_row(x, b_dec, order[i - ALIVE], token);
        check_start(&f, i, token);
        assert_true(((int64_t *)rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data)[i] == 0);
    }
    assert_false(is_zero(rf_optimiser_part_view(f.opt, RF_OPTIMISER_M, RF_CODER_W_DEC), 0));
    OK(rf_coder_get_state(f.coder, f.s, &after));
    assert_int_equal(after.counters[RF_COUNTER_RESAMPLED], LATENTS - ALIVE);
    assert_int_equal(after.counters[RF_COUNTER_RESAMPLES_LEFT], 0);
    assert_int_equal(step_with(&f, x, ROWS, valid, true).n_resampled, 0); /* nothing is dead */
    fixture_destroy(&f);
    rf_free(x);
}

/* A token that is 100 times as far away has 1e8 times the weight of the others: it comes first, and
 * only once. */
static void tokens_of_large_loss_are_drawn_first(void **state)
{
    (void)state;
    float *x = fixture_planted(2, ROWS, WIDTH), b_dec[WIDTH], token[WIDTH];
    const int64_t far = 150; /* not on the first rank when there are several */
    fixture f = half_dead(resampling_settings(RF_RESAMPLE_LOSS), x, RF_OPTIMISER_ADAM);
    for (int j = 0; j < WIDTH; j++) {
        x[far * WIDTH + j] = 100.0f * (float)(j % 2 == 0 ? 1 : -1);
    }
    memcpy(b_dec, fixture_floats(&f, RF_CODER_B_DEC), sizeof b_dec);
    step_with(&f, x, ROWS, NULL, true);
    seen_row(x, b_dec, far, token);
    check_start(&f, ALIVE, token);
    for (int i = ALIVE + 1; i < LATENTS; i++) {
        const float *w = fixture_floats(&f, RF_CODER_W_DEC) + i * WIDTH;
        assert_true(cosine(w, token, WIDTH) < 0.999);
    }
    fixture_destroy(&f);
    rf_free(x);
}

/* Of ordinary tokens, whose losses are within a few times of each other: not by the loss, nor by
 * its root, which draw others. */
static void tokens_are_drawn_by_the_square_of_their_loss(void **state)
{
    (void)state;
    rf_coder_settings settings = resampling_settings(RF_RESAMPLE_LOSS);
    float *x = fixture_planted(8, ROWS, WIDTH), b_dec[WIDTH], token[WIDTH], y_hat[ROWS * WIDTH];
    const rf_view in = rf_view_2d(x, ROWS, WIDTH), out = rf_view_2d(y_hat, ROWS, WIDTH);
    double weight[ROWS];
    int64_t order[ROWS];
    fixture f = half_dead(settings, x, RF_OPTIMISER_ADAM);
    OK(rf_coder_reconstruct(f.coder, f.s, &in, NULL, NULL, &out, NULL));
    for (int b = 0; b < ROWS; b++) {
        double loss = 0.0;
        for (int j = b * WIDTH; j < (b + 1) * WIDTH; j++) {
            loss += ((double)x[j] - (double)y_hat[j]) * ((double)x[j] - (double)y_hat[j]);
        }
        weight[b] = loss * loss;
    }
    memcpy(b_dec, fixture_floats(&f, RF_CODER_B_DEC), sizeof b_dec);
    assert_int_equal(step_with(&f, x, ROWS, NULL, true).n_resampled, LATENTS - ALIVE);
    drawn_order(&settings, 0, weight, order);
    for (int i = ALIVE; i < LATENTS; i++) {
        seen_row(x, b_dec, order[i - ALIVE], token);
        check_start(&f, i, token);
    }
    fixture_destroy(&f);
    rf_free(x);
}

static void latents_for_which_there_is_no_token_wait(void **state)
{
    (void)state;
    float *x = fixture_planted(3, ROWS, WIDTH);
    uint8_t valid[8] = {1, 0, 1, 1, 1, 0, 1, 1};
    rf_coder_state after;
    fixture f = half_dead(resampling_settings(RF_RESAMPLE_DATA), x, RF_OPTIMISER_ADAM);
    assert_int_equal(step_with(&f, x, 8, valid, true).n_resampled, 6);
    OK(rf_coder_get_state(f.coder, f.s, &after));
    assert_int_equal(after.counters[RF_COUNTER_RESAMPLES_LEFT], 4);
    assert_int_equal(step_with(&f, x, 8, valid, false).n_resampled, 4);
    assert_int_equal(step_with(&f, x, 8, valid, false).n_resampled, 0);
    OK(rf_coder_get_state(f.coder, f.s, &after));
    assert_int_equal(after.counters[RF_COUNTER_RESAMPLED], 10);
    assert_int_equal(after.counters[RF_COUNTER_RESAMPLES_LEFT], 0);
    fixture_destroy(&f);
    rf_free(x);
}

static void schedule_free_starts_all_its_copies_anew(void **state)
{
    (void)state;
    float *x = fixture_planted(4, ROWS, WIDTH);
    fixture f = half_dead(resampling_settings(RF_RESAMPLE_DATA), x, RF_OPTIMISER_SCHEDULE_FREE);
    step_with(&f, x, ROWS, NULL, false);
    assert_int_equal(step_with(&f, x, ROWS, NULL, true).n_resampled, LATENTS - ALIVE);
    const rf_optimiser_part copies[] = {RF_OPTIMISER_M, RF_OPTIMISER_LIVE};
    for (int c = 0; c < 2; c++) {
        const float *w = fixture_floats(&f, RF_CODER_W_DEC),
                    *copy = rf_optimiser_part_view(f.opt, copies[c], RF_CODER_W_DEC).data;
        assert_memory_equal(w + ALIVE * WIDTH, copy + ALIVE * WIDTH,
                            sizeof *w * (LATENTS - ALIVE) * WIDTH);
        assert_memory_not_equal(w, copy, sizeof *w * ALIVE * WIDTH);
    }
    assert_true(
        is_zero(rf_optimiser_part_view(f.opt, RF_OPTIMISER_V, RF_CODER_W_ENC), LATENTS - 1));
    fixture_destroy(&f);
    rf_free(x);
}

static void an_archetypal_latent_starts_at_one_point(void **state)
{
    (void)state;
    rf_coder_settings settings = fixture_settings("relu", LATENTS, K);
    settings.resample = RF_RESAMPLE_DATA;
    settings.decoder = RF_DECODER_ARCHETYPAL;
    settings.archetypal_points = 16;
    float *x = fixture_planted(5, ROWS, WIDTH);
    fixture f = half_dead(settings, x, RF_OPTIMISER_ADAM);
    const int64_t n_points = rf_coder_view(f.coder, RF_CODER_POINTS).shape[0];
    const float *points = fixture_floats(&f, RF_CODER_POINTS);
    assert_int_equal(step_with(&f, x, ROWS, NULL, true).n_resampled, LATENTS - ALIVE);
    for (int i = ALIVE; i < LATENTS; i++) {
        const float *a = fixture_floats(&f, RF_CODER_ARCHETYPES) + i * n_points;
        int64_t at = 0;
        double sum = 0.0;
        for (int64_t p = 0; p < n_points; p++) {
            at = a[p] == 1.0f ? p : at;
            sum += (double)a[p];
        }
        assert_true(a[at] == 1.0f && sum == 1.0);
        assert_true(is_zero(rf_coder_view(f.coder, RF_CODER_ARCHETYPE_OFFSETS), i));
        /* W_dec was made of it */
        assert_true(cosine(fixture_floats(&f, RF_CODER_W_DEC) + i * WIDTH, points + at * WIDTH,
                           WIDTH) > 1.0 - 1e-10);
    }
    fixture_destroy(&f);
    rf_free(x);
}

static void a_threshold_starts_where_it_did(void **state)
{
    (void)state;
    rf_coder_settings settings = fixture_settings("jumprelu", LATENTS, K);
    settings.resample = RF_RESAMPLE_DATA;
    float *x = fixture_planted(6, ROWS, WIDTH);
    fixture f = half_dead(settings, x, RF_OPTIMISER_ADAM);
    float *log_threshold = fixture_floats(&f, RF_CODER_LOG_THRESHOLD), want = log_threshold[0];
    for (int i = 0; i < LATENTS; i++) {
        log_threshold[i] = 2.0f;
    }
    assert_int_equal(step_with(&f, x, ROWS, NULL, true).n_resampled, LATENTS - ALIVE);
    for (int i = ALIVE; i < LATENTS; i++) {
        assert_true(fabs((double)log_threshold[i] - (double)want) <= 1e-6); /* fp32 */
    }
    assert_true(fabs((double)log_threshold[0] - 2.0) <= 0.01); /* a step of lr */
    fixture_destroy(&f);
    rf_free(x);
}

/* A transcoder from one site to two: encoder rows are of the input, decoder rows of the target. */
static void decoder_rows_start_at_the_target(void **state)
{
    (void)state;
    enum { WIDE = 2 * WIDTH };
    const rf_coder_shape shape = {.n_in = 1, .n_out = 2, .in = {WIDTH}, .out = {7, WIDTH - 7}};
    const rf_optimiser_opts adam = {.kind = RF_OPTIMISER_ADAM};
    rf_coder_settings settings = resampling_settings(RF_RESAMPLE_DATA);
    float *x = fixture_planted(7, ROWS, WIDE), b_dec[WIDTH];
    double weight[ROWS];
    int64_t order[ROWS];
    settings.dead_after_tokens = 1;
    settings.aux_alpha = 0.0;
    settings.resample_every = 10;
    settings.w_enc = RF_W_ENC_INDEPENDENT;
    for (int b = 0; b < ROWS; b++) {
        weight[b] = 1.0;
    }
    fixture f = fixture_make_of(world, &settings, &shape, &adam, ROWS, 1);
    rf_view sample = rf_view_2d(x, ROWS, WIDE);
    rf_step_rates rates = rf_step_rates_default();
    rf_token_batch batch = fixture_batch(world, x, ROWS, WIDE, NULL);
    rf_step_metrics m;
    OK(rf_coder_init(f.coder, f.s, &sample));
    fixture_floats(&f, RF_CODER_B_ENC)[5] = -100.0f;
    ((int64_t *)rf_coder_view(f.coder, RF_CODER_TOKENS_SINCE_FIRED).data)[5] = 1;
    memcpy(b_dec, fixture_floats(&f, RF_CODER_B_DEC), sizeof b_dec);
    rates.resample = true;
    OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &m));
    assert_int_equal(m.n_resampled, 1);
    drawn_order(&settings, 0, weight, order);
    const float *token = x + order[0] * WIDE, *w = fixture_floats(&f, RF_CODER_W_DEC) + 5 * WIDTH;
    float target[WIDTH];
    for (int j = 0; j < WIDTH; j++) {
        target[j] = token[WIDTH + j] - b_dec[j];
    }
    assert_true(cosine(w, target, WIDTH) > 1.0 - 1e-10); /* a few roundings, squared */
    assert_true(cosine(fixture_floats(&f, RF_CODER_W_ENC) + 5 * WIDTH, token, WIDTH) > 1.0 - 1e-10);
    double norm = sqrt((double)rf_dot(w, w, 7)) + sqrt((double)rf_dot(w + 7, w + 7, WIDTH - 7));
    assert_true(fabs(norm - 1.0) <= 1e-6); /* fp32 */
    fixture_destroy(&f);
    rf_free(x);
}

static int start(void **state)
{
    (void)state;
    return rf_comm_start(NULL, NULL, &world) == RF_OK ? 0 : -1;
}

static int finish(void **state)
{
    (void)state;
    rf_comm_finish(world);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dead_latents_start_from_the_tokens_that_were_drawn),
        cmocka_unit_test(tokens_of_large_loss_are_drawn_first),
        cmocka_unit_test(tokens_are_drawn_by_the_square_of_their_loss),
        cmocka_unit_test(latents_for_which_there_is_no_token_wait),
        cmocka_unit_test(schedule_free_starts_all_its_copies_anew),
        cmocka_unit_test(an_archetypal_latent_starts_at_one_point),
        cmocka_unit_test(a_threshold_starts_where_it_did),
        cmocka_unit_test(decoder_rows_start_at_the_target),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
