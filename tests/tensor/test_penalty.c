/* Penalties of a row: accuracy, and values at which formulas break. test_coder_act.c compares them
 * with their definitions. */
#include "act_fixture.h"

typedef struct three {
    int64_t start[2];
    int32_t latent[3];
    float value[3], d_value[3], penalty;
} three;

/* One row of three values; d_value becomes the derivative. */
static three penalise(const rf_act_params *params, float a, float b, float c)
{
    three r = {.start = {0, 3}, .latent = {0, 1, 2}, .value = {a, b, c}};
    rf_codes codes = {1, 3, r.start, r.latent, r.value, r.d_value};
    OK(rf_penalty(threads[0].s, params,
                  &(rf_penalty_args){.codes = &codes,
                                     .d_value = r.d_value,
                                     .row_penalty = rf_view_1d(&r.penalty, 1),
                                     .scale = 1.0f}));
    return r;
}

static void powers_are_good_from_tiny_to_huge_values(void **state)
{
    (void)state;
    static const float powers[] = {0.2f, 0.5f, 0.9f, 1.5f, 2.0f};
    for (size_t k = 0; k < sizeof powers / sizeof powers[0]; k++) {
        const rf_act_params params = {.penalty = RF_PENALTY_POWER, .p = powers[k]};
        const double p = (double)powers[k];
        for (float z = 2e-6f; z < 1e5f; z *= 1.37f) {
            const three r = penalise(&params, z, 0.0f, -1.0f);
            const double want = pow((double)z, p), slope = p * pow((double)z, p - 1);
            /* |p ln z| up to 24, half an ulp of it is an error of the power. */
            assert_true(fabs((double)r.penalty - want) <= 4e-6 * want);
            assert_true(fabs((double)r.d_value[0] - slope) <= 4e-6 * slope);
            assert_true(r.d_value[1] == 0.0f && r.d_value[2] == 0.0f);
        }
    }
}

static void below_a_millionth_the_slope_of_a_root_stays(void **state)
{
    (void)state;
    const rf_act_params params = {.penalty = RF_PENALTY_POWER, .p = 0.5f};
    const three r = penalise(&params, 1e-9f, 1e-30f, 1e-42f);
    for (int i = 0; i < 3; i++) {
        near((double)r.d_value[i], 0.5 * pow(1e-6, -0.5), 4e-6, "slope");
    }
}

static void tanh_is_good_near_and_far(void **state)
{
    (void)state;
    const rf_act_params params = {.penalty = RF_PENALTY_TANH, .p = 4.0f};
    for (float z = 1e-7f; z < 1e4f; z *= 1.17f) {
        const three r = penalise(&params, z, 0.0f, 0.0f);
        const double want = tanh(4 * (double)z), c = cosh(fmin(4 * (double)z, 300));
        assert_true(fabs((double)r.penalty - want) <= 5e-7 * want); /* a few ulp */
        assert_true(fabs((double)r.d_value[0] - 4 / (c * c)) <= 2e-6);
    }
}

static void a_power_of_one_has_the_bits_of_l1(void **state)
{
    (void)state;
    float w[3] = {0.5f, 2.0f, 0.3f};
    rf_act_params params = {.penalty = RF_PENALTY_L1, .weight = rf_view_1d(w, 3)};
    const three want = penalise(&params, 0.1f, 3.0f, 1.7f);
    near((double)want.penalty, 0.05 + 6 + 0.51, 1e-6, "l1");
    params.p = 1.0f;
    for (int kind = RF_PENALTY_POWER; kind <= RF_PENALTY_NORM; kind++) {
        params.penalty = (rf_penalty_kind)kind;
        const three got = penalise(&params, 0.1f, 3.0f, 1.7f);
        assert_true(got.penalty == want.penalty);
        same_bits(got.d_value, want.d_value, 3, "derivative");
        same_bits(got.d_value, w, 3, "derivative");
    }
}

static void zeros_have_no_slope_and_are_no_nan(void **state)
{
    (void)state;
    float w[3] = {0.0f, 0.0f, 0.0f};
    for (int c = 0; c < 2 * 2 * N_PENALTIES; c++) {
        rf_act_params params = {.penalty = (rf_penalty_kind)(c / 4), .p = c % 2 == 0 ? 0.5f : 2.0f};
        params.weight = c / 2 % 2 == 0 ? params.weight : rf_view_1d(w, 3); /* weights of 0 too */
        const float z = c / 2 % 2 == 0 ? 0.0f : 1.0f;
        const three r = penalise(&params, z, z, 0.0f);
        assert_true(r.penalty == (params.penalty == RF_PENALTY_L0 ? 2.0f * z : 0.0f));
        assert_true(r.d_value[0] == 0.0f && r.d_value[1] == 0.0f && r.d_value[2] == 0.0f);
    }
}

static void infinite_values_have_infinite_penalties(void **state)
{
    (void)state;
    for (int kind = RF_PENALTY_L1; kind <= RF_PENALTY_NORM; kind++) {
        const rf_act_params params = {.penalty = (rf_penalty_kind)kind, .p = 0.5f};
        const three r = penalise(&params, INFINITY, 1.0f, 0.0f);
        assert_true(isinf(r.penalty));
    }
}

static void counting_has_no_slope(void **state)
{
    (void)state;
    const rf_act_params params = {.penalty = RF_PENALTY_L0};
    const three r = penalise(&params, 3.0f, 0.0f, 1e-30f);
    assert_true(r.penalty == 2.0f && r.d_value[0] == 0.0f && r.d_value[2] == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(powers_are_good_from_tiny_to_huge_values),
        cmocka_unit_test(below_a_millionth_the_slope_of_a_root_stays),
        cmocka_unit_test(tanh_is_good_near_and_far),
        cmocka_unit_test(a_power_of_one_has_the_bits_of_l1),
        cmocka_unit_test(zeros_have_no_slope_and_are_no_nan),
        cmocka_unit_test(infinite_values_have_infinite_penalties),
        cmocka_unit_test(counting_has_no_slope),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
