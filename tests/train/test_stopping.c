/* Early stopping: when a coder is done, when it has failed, and what it must be told. */
#include "../../src/train/run_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)

static rf_train_settings settings(const char *metric, int64_t patience, double min_change)
{
    rf_train_settings s;
    OK(rf_settings_defaults(&rf_train_settings_table, &s));
    OK(rf_format(s.stop_metric, sizeof s.stop_metric, "%s", metric));
    s.stop_patience = patience;
    s.stop_min_change = min_change;
    return s;
}

/* The line (from 1) at which a run of losses stops, or 0. */
static int64_t stops_at(const rf_train_settings *s, rf_stopping *stopping, const double *losses,
                        int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const rf_metrics_line line = {.m = {.loss = losses[i], .explained_variance = -losses[i]}};
        OK(rf_stopping_update(stopping, s, &line, true));
        if (stopping->stop != RF_STOP_NONE) {
            return i + 1;
        }
    }
    return 0;
}
#define STOPS_AT(s, ...)                                                                           \
    stops_at((s), &(rf_stopping){0}, (const double[]){__VA_ARGS__},                                \
             sizeof((const double[]){__VA_ARGS__}) / sizeof(double))

static void test_it_stops_after_so_many_lines_without_a_better_one(void **state)
{
    (void)state;
    rf_train_settings s = settings("min loss", 3, 0);
    assert_int_equal(STOPS_AT(&s, 5, 4, 3, 2, 1), 0);
    assert_int_equal(STOPS_AT(&s, 5, 4, 4, 5, 4, 1), 5); /* equal is not better */
    assert_int_equal(STOPS_AT(&s, 5, 6, 7, 4, 5, 5, 3, 4, 4), 0);
    s = settings("max ev", 3, 0); /* of -loss: the same */
    assert_int_equal(STOPS_AT(&s, 5, 4, 4, 5, 4, 1), 5);
    s = settings("max loss", 2, 0);
    assert_int_equal(STOPS_AT(&s, 1, 2, 2, 2), 4);
    s = settings("min loss", 1, 0);
    assert_int_equal(STOPS_AT(&s, 1, 2), 2);
}

static void test_small_changes_are_no_improvement(void **state)
{
    (void)state;
    const rf_train_settings s = settings("min loss", 3, 0.5);
    assert_int_equal(STOPS_AT(&s, 5, 4.6, 4.6, 4.55), 4);
    assert_int_equal(STOPS_AT(&s, 5, 4.8, 4.7, 4.4, 4.4), 0); /* of the best, not of the last */
}

static void test_without_a_metric_nothing_stops(void **state)
{
    (void)state;
    const rf_train_settings s = settings("", 1, 0);
    assert_int_equal(STOPS_AT(&s, 5, 6, 7, 8), 0);
}

static void test_lines_without_a_value_count_against_it_but_not_before_the_first(void **state)
{
    (void)state;
    const rf_train_settings s = settings("min loss", 2, 0);
    assert_int_equal(STOPS_AT(&s, NAN, NAN, NAN, 3, 2), 0);
    assert_int_equal(STOPS_AT(&s, 3, NAN, NAN), 3);
    assert_int_equal(STOPS_AT(&s, 3, NAN, 2, INFINITY, 1), 0);
}

static void test_it_goes_on_where_it_was_saved(void **state)
{
    (void)state;
    static const double losses[] = {5, 4, 4.5, 4.2, 4.1, 3, 3.5, 3.2, 3.1, 3.3};
    const rf_train_settings s = settings("min loss", 4, 0.01);
    rf_stopping whole = {0};
    const int64_t at = stops_at(&s, &whole, losses, 10);
    assert_int_equal(at, 10);
    for (int64_t cut = 0; cut < 10; cut++) {
        rf_stopping first = {0};
        assert_int_equal(stops_at(&s, &first, losses, cut), 0);
        rf_stopping second = {.stop = first.stop,
                              .n_lines = first.n_lines,
                              .n_worse = first.n_worse,
                              .best = first.best};
        assert_int_equal(cut + stops_at(&s, &second, losses + cut, 10 - cut), at);
        assert_true(second.best == whole.best && second.n_worse == whole.n_worse &&
                    second.n_lines == whole.n_lines);
    }
}

static void test_a_bad_run_has_both_too_low_after_the_warm_up(void **state)
{
    (void)state;
    rf_train_settings s = settings("", 1, 0);
    rf_metrics_line line = {.m = {.l0 = 4, .explained_variance = 0.2}};
    rf_stopping stopping = {0};

    OK(rf_stopping_update(&stopping, &s, &line, true)); /* off */
    assert_int_equal(stopping.stop, RF_STOP_NONE);
    s.bad_l0 = 5;
    s.bad_ev = 0.3;
    OK(rf_stopping_update(&stopping, &s, &line, false)); /* still warming up */
    assert_int_equal(stopping.stop, RF_STOP_NONE);
    line.m.l0 = 6;
    OK(rf_stopping_update(&stopping, &s, &line, true));
    line.m.l0 = 4;
    line.m.explained_variance = 0.4;
    OK(rf_stopping_update(&stopping, &s, &line, true));
    line.m.explained_variance = NAN; /* a skipped batch says nothing */
    OK(rf_stopping_update(&stopping, &s, &line, true));
    assert_int_equal(stopping.stop, RF_STOP_NONE);
    line.m.explained_variance = 0.2;
    OK(rf_stopping_update(&stopping, &s, &line, true));
    assert_int_equal(stopping.stop, RF_STOP_BAD);
    assert_string_equal(rf_stop_name((rf_stop)stopping.stop), "bad run");
}

static void refused(const rf_train_settings *s, const char *word)
{
    assert_int_equal(rf_train_settings_check(s), RF_ERR_SETTING);
    if (strstr(rf_error_text(), word) == NULL) {
        fail_msg("'%s' is not in: %s", word, rf_error_text());
    }
}

static void test_settings_that_mean_nothing_together_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "loss", "max", "max ", "best loss", "max speed", "MAX loss", "max loss where l0 < 5"};
    rf_train_settings s = settings("", 1, 0);
    OK(rf_train_settings_check(&s));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        s = settings(wrong[i], 1, 0);
        refused(&s, "stop_metric");
    }
    s = settings("max tokens_per_s", 1, 0); /* ranks have clocks of their own */
    refused(&s, "clock");
    s = settings("", 1, 0);
    s.bad_l0 = 5;
    refused(&s, "train.bad_ev");
    s.bad_l0 = 0;
    s.bad_ev = 0.5;
    refused(&s, "train.bad_l0");
    s.bad_l0 = 5;
    OK(rf_train_settings_check(&s));
    s.weight_decay = 0.1;
    refused(&s, "adamw");
    static const int kinds[] = {RF_OPTIMISER_ADAMW, RF_OPTIMISER_SIGNUM, RF_OPTIMISER_SCHEDULE_FREE,
                                RF_OPTIMISER_MUON};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        s.optimiser = kinds[i];
        OK(rf_train_settings_check(&s));
    }
}

static void test_every_figure_can_be_watched(void **state)
{
    (void)state;
    const rf_metrics_line empty = {0};
    double value = 0;
    const char *figure = NULL;
    int64_t n = 0;
    for (int i = 0; (figure = rf_metrics_figure(&empty, i, &value)) != NULL; i++) {
        char metric[64];
        OK(rf_format(metric, sizeof metric, "min %s", figure));
        const rf_train_settings s = settings(metric, 1, 0);
        if (strcmp(figure, "tokens_per_s") != 0) {
            OK(rf_train_settings_check(&s));
            n++;
        }
    }
    assert_true(n >= 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_stops_after_so_many_lines_without_a_better_one),
        cmocka_unit_test(test_small_changes_are_no_improvement),
        cmocka_unit_test(test_without_a_metric_nothing_stops),
        cmocka_unit_test(test_lines_without_a_value_count_against_it_but_not_before_the_first),
        cmocka_unit_test(test_it_goes_on_where_it_was_saved),
        cmocka_unit_test(test_a_bad_run_has_both_too_low_after_the_warm_up),
        cmocka_unit_test(test_settings_that_mean_nothing_together_are_refused),
        cmocka_unit_test(test_every_figure_can_be_watched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
