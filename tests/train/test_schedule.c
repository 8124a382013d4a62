/* What a step runs at, at the places that matter: learning rate, warm-ups, annealings. */
#include "refract/train.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* A handful of double operations: a few units in the last place. */
#define CLOSE(a, b) assert_true(!(fabs((a) - (b)) > 1e-15))

typedef struct expected {
    int64_t step;
    double rate;
} expected;

static void check(const rf_schedule *s, const expected *values, size_t n, double tolerance)
{
    for (size_t i = 0; i < n; i++) {
        const double rate = rf_schedule_lr(s, values[i].step);
        if (!(fabs(rate - values[i].rate) <= tolerance)) {
            fail_msg("step %lld: %.17g, expected %.17g", (long long)values[i].step, rate,
                     values[i].rate);
        }
    }
}
#define CHECK(s, values, tolerance)                                                                \
    check((s), (values), sizeof(values) / sizeof *(values), (tolerance))

static void test_the_warm_up_rises_linearly_to_lr_before_every_schedule(void **state)
{
    (void)state;
    for (int kind = RF_SCHEDULE_CONSTANT; kind <= RF_SCHEDULE_DECAY; kind++) {
        const rf_schedule s = {.kind = kind,
                               .lr = 1e-3,
                               .lr_end = 0.1,
                               .warmup_steps = 4,
                               .n_steps = 100,
                               .restarts = 3,
                               .decay_share = 0.2};
        CLOSE(rf_schedule_lr(&s, 0), 1e-3 * 1 / 5);
        CLOSE(rf_schedule_lr(&s, 3), 1e-3 * 4 / 5);
        CLOSE(rf_schedule_lr(&s, 4), 1e-3); /* the first step behind it has all of lr */
        assert_true(rf_schedule_lr(&s, 0) > 0);
    }
}

static void test_cosine_falls_to_the_floor(void **state)
{
    (void)state;
    const rf_schedule s = {
        .kind = RF_SCHEDULE_COSINE, .lr = 2, .lr_end = 0.25, .warmup_steps = 10, .n_steps = 110};
    CLOSE(rf_schedule_lr(&s, 10), 2);
    CLOSE(rf_schedule_lr(&s, 60), 2 * (0.25 + 0.75 * 0.5)); /* half way */
    CLOSE(rf_schedule_lr(&s, 110), 2 * 0.25);               /* behind the last step */
    assert_true(rf_schedule_lr(&s, 109) > 2 * 0.25);
    assert_true(rf_schedule_lr(&s, 109) < 2 * 0.2502);
    for (int64_t t = 10; t < 109; t++) {
        assert_true(rf_schedule_lr(&s, t + 1) < rf_schedule_lr(&s, t));
    }
}

/* Prisma hands lr / 10 to a schedule that multiplies it by lr again, so that its cosine with
 * warm-up ends at lr * lr / 10 (4.05e-7 and 1e-7 at steps 99 and 100 of this one). */
static void test_the_floor_is_a_share_of_lr_and_not_lr_times_lr(void **state)
{
    (void)state;
    const double lr = 1e-3, bug = lr * lr / 10;
    const rf_schedule s = {
        .kind = RF_SCHEDULE_COSINE, .lr = lr, .lr_end = 0.1, .warmup_steps = 10, .n_steps = 100};
    for (int64_t t = 10; t <= 100; t++) {
        assert_true(rf_schedule_lr(&s, t) >= lr / 10 * (1 - 1e-15));
    }
    CLOSE(rf_schedule_lr(&s, 100), lr / 10);
    CLOSE(rf_schedule_lr(&s, 99), lr * (0.1 + 0.9 * 0.5 * (1 + cos(acos(-1.0) * 89 / 90))));
    assert_true(rf_schedule_lr(&s, 100) > 100 * bug);
}

/* Prisma's figures, to the three digits that are known of them. Where it warms up it takes step t
 * at (t + 1) / w, so that two steps have all of lr, and a w of 0 divides by zero; here t is at
 * (t + 1) / (w + 1). Its cosine with warm-up has the wrong floor (above): not compared. */
static void test_prismas_linear_and_cosine_rates_behind_the_warm_up(void **state)
{
    (void)state;
    const rf_schedule linear = {.kind = RF_SCHEDULE_LINEAR,
                                .lr = 1e-3,
                                .lr_end = 0, /* that of linearwarmupdecay, whatever it is given */
                                .warmup_steps = 10,
                                .n_steps = 100};
    const rf_schedule cosine = {
        .kind = RF_SCHEDULE_COSINE, .lr = 1e-3, .lr_end = 0.1, .n_steps = 100};
    static const expected linear_rates[] = {{10, 1e-3}, {50, 5.56e-4}, {99, 1.11e-5}, {100, 0}};
    static const expected cosine_rates[] = {{0, 1e-3},     {1, 1e-3},     {9, 9.82e-4},
                                            {10, 9.78e-4}, {50, 5.50e-4}, {99, 1.00e-4},
                                            {100, 1e-4}};
    CHECK(&linear, linear_rates, 5e-7);
    CHECK(&cosine, cosine_rates, 5e-7);
}

/* make_schedule.py; torch multiplies its rates up from step to step or rounds in another order. */
static void test_torchs_schedules(void **state)
{
    (void)state;
    static const expected restarts[] = {
        {0, 0.001},
        {1, 0.0009975348529157229},
        {15, 0.0005500000000000001},
        {29, 0.00010246514708427697},
        {30, 0.001},
        {31, 0.0009975348529157229},
        {59, 0.00010246514708427697},
        {60, 0.001},
        {89, 0.00010246514708427697},
    };
    static const expected annealing[] = {
        {0, 0.001},
        {1, 0.0009997779521645793},
        {9, 0.000982132158554624},
        {10, 0.0009779754323328187},
        {50, 0.0005499999999999997},
        {99, 0.00010022204783542078},
        {100, 0.0001},
    };
    static const expected linear[] = {
        {0, 0.001}, {1, 0.00098125}, {20, 0.000625}, {39, 0.00026875}, {40, 0.00025},
    };
    const rf_schedule a = {.kind = RF_SCHEDULE_COSINE_RESTARTS,
                           .lr = 1e-3,
                           .lr_end = 0.1,
                           .n_steps = 90,
                           .restarts = 3};
    const rf_schedule b = {.kind = RF_SCHEDULE_COSINE, .lr = 1e-3, .lr_end = 0.1, .n_steps = 100};
    const rf_schedule c = {.kind = RF_SCHEDULE_LINEAR, .lr = 1e-3, .lr_end = 0.25, .n_steps = 40};
    CHECK(&a, restarts, 1e-16);
    CHECK(&b, annealing, 1e-16);
    CHECK(&c, linear, 1e-16);
}

static void test_restarts_that_do_not_divide_the_steps_begin_at_lr_all_the_same(void **state)
{
    (void)state;
    const rf_schedule s = {.kind = RF_SCHEDULE_COSINE_RESTARTS,
                           .lr = 1,
                           .lr_end = 0.1,
                           .warmup_steps = 3,
                           .n_steps = 103,
                           .restarts = 7};
    int64_t n_rises = 0;
    for (int64_t t = 3; t < 102; t++) {
        const double now = rf_schedule_lr(&s, t), next = rf_schedule_lr(&s, t + 1);
        assert_true(next >= 0.1 && next <= 1);
        n_rises += next > now;
        if (next > now) { /* into a cycle of 100 / 7 steps: less than one step behind its start */
            assert_true(next > 0.1 + 0.9 * 0.5 * (1 + cos(acos(-1.0) * 7 / 100)));
        }
    }
    assert_int_equal(n_rises, 6);
    CLOSE(rf_schedule_lr(&s, 3), 1);
    CLOSE(rf_schedule_lr(&s, 103), 0.1); /* the end is no new start */
    const rf_schedule one = {.kind = RF_SCHEDULE_COSINE_RESTARTS, .lr = 1, .n_steps = 9};
    const rf_schedule plain = {.kind = RF_SCHEDULE_COSINE, .lr = 1, .n_steps = 9};
    for (int64_t t = 0; t <= 9; t++) { /* one cycle, also where 0 is said */
        CLOSE(rf_schedule_lr(&one, t), rf_schedule_lr(&plain, t));
    }
}

static void test_decay_is_constant_and_then_linear_over_its_share(void **state)
{
    (void)state;
    rf_schedule s = {.kind = RF_SCHEDULE_DECAY,
                     .lr = 3,
                     .lr_end = 0.5,
                     .warmup_steps = 5,
                     .n_steps = 100,
                     .decay_share = 0.2};
    CLOSE(rf_schedule_lr(&s, 5), 3);
    CLOSE(rf_schedule_lr(&s, 80), 3);
    CLOSE(rf_schedule_lr(&s, 81), 3 * (0.5 + 0.5 * 0.95));
    CLOSE(rf_schedule_lr(&s, 90), 3 * 0.75);
    CLOSE(rf_schedule_lr(&s, 100), 1.5);
    s.decay_share = 1; /* the whole of what is behind the warm-up */
    const rf_schedule linear = {
        .kind = RF_SCHEDULE_LINEAR, .lr = 3, .lr_end = 0.5, .warmup_steps = 5, .n_steps = 100};
    for (int64_t t = 0; t <= 101; t++) {
        CLOSE(rf_schedule_lr(&s, t), rf_schedule_lr(&linear, t));
    }
    s.decay_share = 0;
    CLOSE(rf_schedule_lr(&s, 99), 3);
}

static void test_the_last_step_without_a_floor_still_moves(void **state)
{
    (void)state;
    const rf_schedule s = {.kind = RF_SCHEDULE_LINEAR, .lr = 1, .n_steps = 4};
    CLOSE(rf_schedule_lr(&s, 0), 1);
    CLOSE(rf_schedule_lr(&s, 1), 0.75);
    CLOSE(rf_schedule_lr(&s, 3), 0.25);
    CLOSE(rf_schedule_lr(&s, 4), 0);
    CLOSE(rf_schedule_lr(&s, 400), 0);
}

static void test_constant_stays_after_the_warm_up(void **state)
{
    (void)state;
    const rf_schedule s = {.kind = RF_SCHEDULE_CONSTANT, .lr = 3, .warmup_steps = 2, .n_steps = 5};
    CLOSE(rf_schedule_lr(&s, 1), 2);
    CLOSE(rf_schedule_lr(&s, 2), 3);
    CLOSE(rf_schedule_lr(&s, 4), 3);
}

/* No steps, no warm-up, fewer steps than warm-up: nothing divides by zero. */
static void test_runs_without_steps_or_warm_up_are_finite(void **state)
{
    (void)state;
    for (int kind = RF_SCHEDULE_CONSTANT; kind <= RF_SCHEDULE_DECAY; kind++) {
        for (int64_t n = 0; n < 4; n++) {
            rf_schedule s = {
                .kind = kind, .lr = 1, .lr_end = 0.5, .n_steps = n, .decay_share = 0.2};
            for (int64_t t = 0; t < 5; t++) {
                const double rate = rf_schedule_lr(&s, t);
                assert_true(rate >= 0.5 && rate <= 1);
            }
            CLOSE(rf_schedule_lr(&s, 0), 1);
            s.warmup_steps = 200;
            CLOSE(rf_schedule_lr(&s, 2), 3.0 / 201);
            assert_true(isfinite(rf_schedule_lr(&s, 300)));
        }
    }
}

static void test_sparsity_warms_up_linearly(void **state)
{
    (void)state;
    rf_coder_settings c = {.sparsity_warmup_steps = 0};
    CLOSE(rf_schedule_sparsity(&c, 0), 1);
    c.sparsity_warmup_steps = 4;
    CLOSE(rf_schedule_sparsity(&c, 0), 0.2);
    CLOSE(rf_schedule_sparsity(&c, 3), 0.8);
    CLOSE(rf_schedule_sparsity(&c, 4), 1);
    CLOSE(rf_schedule_sparsity(&c, 400), 1);
}

static void test_k_falls_linearly_from_k_start(void **state)
{
    (void)state;
    rf_coder_settings c = {.k_start = 5, .k_steps = 0};
    CLOSE(rf_schedule_k(&c, 0), 1); /* no steps: k from the first on */
    c.k_steps = 8;
    CLOSE(rf_schedule_k(&c, 0), 5);
    CLOSE(rf_schedule_k(&c, 2), 4);
    CLOSE(rf_schedule_k(&c, 8), 1);
    CLOSE(rf_schedule_k(&c, 9), 1);
    c.k_start = 0.5; /* or rises to it */
    CLOSE(rf_schedule_k(&c, 4), 0.75);
}

static void test_p_goes_down_in_equal_stages_and_the_last_has_p_end(void **state)
{
    (void)state;
    rf_coder_settings c = {.p = 1, .p_end = 0.2, .p_anneal_from = 0.1, .p_anneal_stages = 4};
    CLOSE(rf_schedule_p(&c, 0, 50), 1);
    CLOSE(rf_schedule_p(&c, 4, 50), 1);
    CLOSE(rf_schedule_p(&c, 5, 50), 0.8); /* 45 steps in four pieces: 5, 17, 28, 39 begin one */
    CLOSE(rf_schedule_p(&c, 16, 50), 0.8);
    CLOSE(rf_schedule_p(&c, 17, 50), 0.6);
    CLOSE(rf_schedule_p(&c, 28, 50), 0.4);
    CLOSE(rf_schedule_p(&c, 38, 50), 0.4);
    assert_true(rf_schedule_p(&c, 39, 50) == 0.2);
    assert_true(rf_schedule_p(&c, 49, 50) == 0.2);
    assert_true(rf_schedule_p(&c, 99, 50) == 0.2);
    c.p_anneal_stages = 100; /* more than steps */
    assert_true(rf_schedule_p(&c, 49, 50) < 0.22 && rf_schedule_p(&c, 49, 50) >= 0.2);
    for (int64_t t = 0; t < 49; t++) {
        assert_true(rf_schedule_p(&c, t + 1, 50) <= rf_schedule_p(&c, t, 50));
    }
    c.p_anneal_from = 1;
    CLOSE(rf_schedule_p(&c, 49, 50), 1);
    assert_true(isfinite(rf_schedule_p(&c, 0, 0)));
}

static void test_resampling_comes_after_every_so_many_steps_until_its_end(void **state)
{
    (void)state;
    rf_coder_settings c = {.resample = RF_RESAMPLE_LOSS, .resample_every = 3};
    int64_t n = 0;
    for (int64_t t = 0; t < 12; t++) {
        const bool does = rf_schedule_resamples(&c, t);
        assert_int_equal(does, t % 3 == 2);
        n += does;
    }
    assert_int_equal(n, 4);
    c.resample_until = 6;
    assert_true(rf_schedule_resamples(&c, 5));
    assert_false(rf_schedule_resamples(&c, 8));
    c.resample = RF_RESAMPLE_NONE;
    assert_false(rf_schedule_resamples(&c, 5));
    c.resample = RF_RESAMPLE_DATA;
    c.resample_every = 0;
    assert_false(rf_schedule_resamples(&c, 5));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_warm_up_rises_linearly_to_lr_before_every_schedule),
        cmocka_unit_test(test_cosine_falls_to_the_floor),
        cmocka_unit_test(test_the_floor_is_a_share_of_lr_and_not_lr_times_lr),
        cmocka_unit_test(test_prismas_linear_and_cosine_rates_behind_the_warm_up),
        cmocka_unit_test(test_torchs_schedules),
        cmocka_unit_test(test_restarts_that_do_not_divide_the_steps_begin_at_lr_all_the_same),
        cmocka_unit_test(test_decay_is_constant_and_then_linear_over_its_share),
        cmocka_unit_test(test_the_last_step_without_a_floor_still_moves),
        cmocka_unit_test(test_constant_stays_after_the_warm_up),
        cmocka_unit_test(test_runs_without_steps_or_warm_up_are_finite),
        cmocka_unit_test(test_sparsity_warms_up_linearly),
        cmocka_unit_test(test_k_falls_linearly_from_k_start),
        cmocka_unit_test(test_p_goes_down_in_equal_stages_and_the_last_has_p_end),
        cmocka_unit_test(test_resampling_comes_after_every_so_many_steps_until_its_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
