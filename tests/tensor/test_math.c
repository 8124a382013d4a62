/* The CPU backend's exp, erf, activations and softmax against libm in double. */
#include "../../src/tensor/tensor_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

enum { N = 1 << 20 };

static float *grid(float from, float to)
{
    float *x = rf_calloc(N, sizeof *x);
    assert_non_null(x);
    for (int i = 0; i < N; i++) {
        x[i] = from + (to - from) * (float)i / (float)(N - 1);
    }
    return x;
}

static void test_exp_is_within_2_ulp_of_libm(void **state)
{
    (void)state;
    float *x = grid(-104.0f, 89.0f), *y = grid(0.0f, 0.0f);
    rf_cpu_exp(x, y, N);
    for (int i = 0; i < N; i++) {
        double exact = exp((double)x[i]);
        if (exact > (double)3.4028235e38f) {
            assert_true(isinf(y[i]) || y[i] > 3.4e38f);
            continue;
        }
        /* ulp of the result; a subnormal has that of the smallest normal */
        double ulp = ldexp(1.0, ilogb(fmax(exact, 1.1754944e-38)) - 23);
        if (!(fabs((double)y[i] - exact) <= 2.0 * ulp)) {
            fail_msg("exp(%.9g) = %.9g, expected %.9g", (double)x[i], (double)y[i], exact);
        }
    }
    rf_free(x);
    rf_free(y);
}

static void test_exp_keeps_infinities_and_nan(void **state)
{
    (void)state;
    float x[5] = {INFINITY, -INFINITY, NAN, -NAN, 0.0f}, y[5];
    rf_cpu_exp(x, y, 5);
    assert_true(isinf(y[0]) && y[0] > 0.0f);
    assert_true(y[1] == 0.0f);
    assert_true(isnan(y[2]) && isnan(y[3]));
    assert_true(y[4] == 1.0f);
}

static void test_erf_is_within_2e_7_of_libm(void **state)
{
    (void)state;
    float *x = grid(-7.0f, 7.0f), *y = grid(0.0f, 0.0f);
    rf_cpu_erf(x, y, N);
    for (int i = 0; i < N; i++) {
        if (!(fabs((double)y[i] - erf((double)x[i])) <= 2e-7)) {
            fail_msg("erf(%.9g) = %.9g", (double)x[i], (double)y[i]);
        }
    }
    float special[3] = {INFINITY, -INFINITY, NAN};
    rf_cpu_erf(special, special, 3);
    assert_true(special[0] == 1.0f && special[1] == -1.0f && isnan(special[2]));
    rf_free(x);
    rf_free(y);
}

static double reference(rf_act act, double x)
{
    switch (act) {
    case RF_ACT_NONE:
        return x;
    case RF_ACT_RELU:
        return x > 0.0 ? x : 0.0;
    case RF_ACT_GELU:
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case RF_ACT_QUICK_GELU:
        return x / (1.0 + exp(-1.702 * x));
    case RF_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case RF_ACT_SILU:
        return x / (1.0 + exp(-x));
    }
    return (double)NAN;
}

static void test_activations_are_their_formulas(void **state)
{
    (void)state;
    float *x = grid(-12.0f, 12.0f), *y = grid(0.0f, 0.0f);
    for (int act = RF_ACT_NONE; act <= RF_ACT_SILU; act++) {
        rf_cpu_act((rf_act)act, x, y, N);
        for (int i = 0; i < N; i++) {
            /* erf's 2e-7 times |x| / 2, and rounding of the result */
            double tol = 2e-7 * fmax(1.0, fabs((double)x[i]));
            if (!(fabs((double)y[i] - reference((rf_act)act, (double)x[i])) <= tol)) {
                fail_msg("activation %d of %.9g = %.9g", act, (double)x[i], (double)y[i]);
            }
        }
        float nan = NAN;
        rf_cpu_act((rf_act)act, &nan, &nan, 1);
        assert_true(isnan(nan));
    }
    rf_free(x);
    rf_free(y);
}

static void test_softmax_sums_to_one_and_survives_large_scores(void **state)
{
    (void)state;
    for (int64_t n = 1; n < 70; n++) {
        float x[70];
        double total = 0.0, exact = 0.0;
        for (int64_t i = 0; i < n; i++) {
            x[i] = 1000.0f + 0.1f * (float)((i * 37) % n);
            exact += exp(0.1 * (double)((i * 37) % n));
        }
        rf_cpu_softmax_row(x, n);
        for (int64_t i = 0; i < n; i++) {
            /* scores near 1000 are rounded to 6e-5 before they come here */
            assert_true(fabs((double)x[i] - exp(0.1 * (double)((i * 37) % n)) / exact) <= 1e-4);
            total += (double)x[i];
        }
        assert_true(fabs(total - 1.0) <= 1e-6);
    }
}

static void test_an_element_has_the_same_bits_wherever_it_stands(void **state)
{
    (void)state;
    enum { FEW = 83 };
    float x[FEW], bias[FEW], all[FEW], one;
    for (int i = 0; i < FEW; i++) {
        x[i] = -6.0f + 0.143f * (float)i;
        bias[i] = 0.01f * (float)i;
    }
    for (int act = RF_ACT_NONE; act <= RF_ACT_SILU; act++) {
        rf_cpu_bias_act((rf_act)act, x, bias, all, FEW);
        for (int i = 0; i < FEW; i++) {
            float sum = x[i] + bias[i]; /* alone, and without the bias */
            rf_cpu_act((rf_act)act, &sum, &one, 1);
            assert_memory_equal(&one, &all[i], sizeof one);
        }
        memcpy(x, all, sizeof x); /* in place, from elsewhere */
        rf_cpu_act((rf_act)act, all + 1, all + 1, FEW - 1);
        for (int i = 1; i < FEW; i++) {
            rf_cpu_act((rf_act)act, &x[i], &one, 1);
            assert_memory_equal(&one, &all[i], sizeof one);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp_is_within_2_ulp_of_libm),
        cmocka_unit_test(test_exp_keeps_infinities_and_nan),
        cmocka_unit_test(test_erf_is_within_2e_7_of_libm),
        cmocka_unit_test(test_activations_are_their_formulas),
        cmocka_unit_test(test_softmax_sums_to_one_and_survives_large_scores),
        cmocka_unit_test(test_an_element_has_the_same_bits_wherever_it_stands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
