/* Axes: round bounds, ticks, and every value on the paper. */
#include "../../src/report/report_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void a_linear_axis_has_round_bounds_around_its_values(void **state)
{
    (void)state;
    const rf_axis a = rf_axis_fit(0.113, 0.87, false, 0, 100);
    assert_false(a.is_log);
    assert_true(a.lo <= 0.113 && a.hi >= 0.87);
    assert_true(a.n_ticks >= 3);
    assert_true(fabs(a.ticks[0] - a.lo) < 1e-12 && fabs(a.ticks[a.n_ticks - 1] - a.hi) < 1e-12);
    assert_true(fabs(rf_axis_place(&a, (a.lo + a.hi) / 2, NULL) - 50) < 1e-9);
}

static void a_log_axis_needs_positive_values_far_apart(void **state)
{
    (void)state;
    assert_true(rf_axis_fit(8, 512, true, 0, 1).is_log);
    assert_false(rf_axis_fit(0, 512, true, 0, 1).is_log);
    assert_false(rf_axis_fit(30, 40, true, 0, 1).is_log);
    const rf_axis a = rf_axis_fit(1, 100, true, 0, 100);
    assert_true(fabs(rf_axis_place(&a, 10, NULL) - 50) < 1e-9);
    for (int i = 0; i < a.n_ticks; i++) {
        assert_true(a.ticks[i] >= a.lo && a.ticks[i] <= a.hi);
    }
    assert_true(rf_axis_fit(1e-30, 1e30, true, 0, 100).n_ticks >= 3);
}

static void what_lies_outside_is_kept_on_the_edge_and_told(void **state)
{
    (void)state;
    bool is_on = true;
    const rf_axis a = rf_axis_fit(0, 1, false, 200, 10); /* upwards on paper */
    assert_true(fabs(rf_axis_place(&a, -5, &is_on) - 200) < 1e-9);
    assert_false(is_on);
    assert_true(fabs(rf_axis_place(&a, 1, &is_on) - 10) < 1e-9);
    assert_true(is_on);
}

static void no_values_one_value_and_nonsense_give_an_axis(void **state)
{
    (void)state;
    static const double bounds[][2] = {{0, 0},
                                       {5, 5},
                                       {-3, -3},
                                       {1e-12, 1e-12},
                                       {2, 1},
                                       {(double)NAN, 1},
                                       {0, (double)INFINITY},
                                       {1e300, 1e301},
                                       {1e-300, 1e-299}};
    for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++) {
        for (int wants_log = 0; wants_log < 2; wants_log++) {
            const rf_axis a = rf_axis_fit(bounds[i][0], bounds[i][1], wants_log, 0, 100);
            assert_true(isfinite(a.lo) && isfinite(a.hi) && a.lo < a.hi);
            const double at = rf_axis_place(&a, bounds[i][0], NULL);
            assert_true(isnan(bounds[i][0]) || (at >= 0 && at <= 100));
            assert_true(a.n_ticks >= 1 && a.n_ticks <= RF_AXIS_MAX_TICKS);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_linear_axis_has_round_bounds_around_its_values),
        cmocka_unit_test(a_log_axis_needs_positive_values_far_apart),
        cmocka_unit_test(what_lies_outside_is_kept_on_the_edge_and_told),
        cmocka_unit_test(no_values_one_value_and_nonsense_give_an_axis),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
