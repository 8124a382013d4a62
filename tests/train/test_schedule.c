/* The learning rate at the places that matter. */
#include "refract/train.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* A handful of double operations: a few units in the last place. */
#define CLOSE(a, b) assert_true(!(fabs((a) - (b)) > 1e-15))

static void test_the_warm_up_rises_linearly_to_lr(void **state)
{
    (void)state;
    const rf_schedule s = {RF_SCHEDULE_COSINE, 1e-3, 0.1, 4, 100};
    CLOSE(rf_schedule_lr(&s, 0), 1e-3 * 1 / 5);
    CLOSE(rf_schedule_lr(&s, 3), 1e-3 * 4 / 5);
    CLOSE(rf_schedule_lr(&s, 4), 1e-3); /* the first step behind it has all of lr */
    assert_true(rf_schedule_lr(&s, 0) > 0);
}

static void test_cosine_falls_to_the_floor(void **state)
{
    (void)state;
    const rf_schedule s = {RF_SCHEDULE_COSINE, 2, 0.25, 10, 110};
    CLOSE(rf_schedule_lr(&s, 10), 2);
    CLOSE(rf_schedule_lr(&s, 60), 2 * (0.25 + 0.75 * 0.5)); /* half way */
    CLOSE(rf_schedule_lr(&s, 110), 2 * 0.25);               /* behind the last step */
    assert_true(rf_schedule_lr(&s, 109) > 2 * 0.25);
    assert_true(rf_schedule_lr(&s, 109) < 2 * 0.2502);
    for (int64_t t = 10; t < 109; t++) {
        assert_true(rf_schedule_lr(&s, t + 1) < rf_schedule_lr(&s, t));
    }
}

static void test_the_last_step_without_a_floor_still_moves(void **state)
{
    (void)state;
    const rf_schedule s = {RF_SCHEDULE_LINEAR, 1, 0, 0, 4};
    CLOSE(rf_schedule_lr(&s, 0), 1);
    CLOSE(rf_schedule_lr(&s, 1), 0.75);
    CLOSE(rf_schedule_lr(&s, 3), 0.25);
    CLOSE(rf_schedule_lr(&s, 4), 0);
    CLOSE(rf_schedule_lr(&s, 400), 0);
}

static void test_constant_stays_after_the_warm_up(void **state)
{
    (void)state;
    const rf_schedule s = {RF_SCHEDULE_CONSTANT, 3, 0, 2, 5};
    CLOSE(rf_schedule_lr(&s, 1), 2);
    CLOSE(rf_schedule_lr(&s, 2), 3);
    CLOSE(rf_schedule_lr(&s, 4), 3);
}

static void test_a_run_shorter_than_its_warm_up_is_finite(void **state)
{
    (void)state;
    const rf_schedule s = {RF_SCHEDULE_COSINE, 1, 0, 200, 3};
    CLOSE(rf_schedule_lr(&s, 2), 3.0 / 201);
    const rf_schedule one = {RF_SCHEDULE_COSINE, 1, 0, 0, 1};
    CLOSE(rf_schedule_lr(&one, 0), 1);
    const rf_schedule none = {RF_SCHEDULE_COSINE, 1, 0.5, 0, 0};
    assert_true(isfinite(rf_schedule_lr(&none, 0)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_warm_up_rises_linearly_to_lr),
        cmocka_unit_test(test_cosine_falls_to_the_floor),
        cmocka_unit_test(test_the_last_step_without_a_floor_still_moves),
        cmocka_unit_test(test_constant_stays_after_the_warm_up),
        cmocka_unit_test(test_a_run_shorter_than_its_warm_up_is_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
