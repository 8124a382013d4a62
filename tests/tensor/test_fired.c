/* Which latents fired, and which are dead. */
#include "act_fixture.h"

static void fired_and_dead_are_counted_in_tokens(void **state)
{
    (void)state;
    rf_stream *s = threads[0].s;
    int64_t since[4] = {0, 50, 90, 95}, n_active[4] = {0, 3, 0, 1}, n_fired = -1, n_dead = -1;
    int64_t start[5] = {0, 2, 2, 2, 3};
    uint8_t dead[4];
    rf_latent_index index = {.n_latents = 4, .latent_start = start};
    rf_view v = rf_view_nd(since, RF_I64, 1, (int64_t[]){4});
    rf_track_fired_args args = {.n_active = rf_view_nd(n_active, RF_I64, 1, (int64_t[]){4}),
                                .since_fired = v,
                                .n_tokens = 10,
                                .n_fired = &n_fired};
    OK(rf_track_fired(s, &args));
    assert_int_equal(n_fired, 2);
    assert_true(since[0] == 10 && since[1] == 0 && since[2] == 100 && since[3] == 0);
    OK(rf_mark_dead(s, &v, 100, dead, &n_dead));
    assert_int_equal(n_dead, 1);
    assert_true(dead[0] == 0 && dead[1] == 0 && dead[2] == 1 && dead[3] == 0);
    OK(rf_mark_dead(s, &v, 101, dead, &n_dead));
    assert_int_equal(n_dead, 0);

    args.n_active = (rf_view){0};
    REFUSED(rf_track_fired(s, &args)); /* neither index nor counts */
    args.index = &index;
    OK(rf_track_fired(s, &args));
    assert_int_equal(n_fired, 2);
    assert_true(since[0] == 0 && since[1] == 10 && since[2] == 110 && since[3] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fired_and_dead_are_counted_in_tokens),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
