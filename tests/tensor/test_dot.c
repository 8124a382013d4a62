/* The canonical dot: its definition by hand, and every version of it bit for bit. */
#include "../../src/tensor/coder_ops_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_N = 1300 };

static void fill(float *a, uint64_t tag, bool with_outliers)
{
    for (int64_t i = 0; i < MAX_N; i += 4) {
        rf_random_normal4(tag, RF_RANDOM_TEST, (uint64_t)i, 0, a + i);
    }
    for (int i = 3; with_outliers && i < MAX_N; i += 97) {
        a[i] *= 300.0f;
    }
}

static float by_definition(const float *a, const float *b, int64_t n)
{
    float lane[32] = {0};
    for (int l = 0; l < 32; l++) {
        for (int64_t i = l; i < n; i += 32) {
            lane[l] = fmaf(a[i], b[i], lane[l]);
        }
    }
    for (int half = 16; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) {
            lane[l] = lane[l] + lane[l + half];
        }
    }
    return lane[0];
}

static void every_version_has_the_bits_of_the_definition(void **state)
{
    (void)state;
    static float a[MAX_N], b[MAX_N];
    const rf_dot_kernel *kernels;
    int n_kernels = rf_dot_kernels(&kernels);
    assert_true(n_kernels >= 1);
    for (uint64_t t = 0; t < 40; t++) {
        fill(a, t, true);
        fill(b, t + 1000, false);
        for (int64_t n = 0; n <= MAX_N; n += 1 + (int64_t)t % 7) {
            float want = by_definition(a, b, n), got = rf_dot(a, b, n);
            assert_memory_equal(&want, &got, sizeof want);
            for (int k = 0; k < n_kernels; k++) {
                got = kernels[k].dot(a, b, n);
                if (memcmp(&want, &got, sizeof want) != 0) {
                    fail_msg("%s: n=%d: %.9g, by definition %.9g", kernels[k].name, (int)n,
                             (double)got, (double)want);
                }
            }
        }
    }
}

static void several_rows_at_once_have_the_bits_of_one(void **state)
{
    (void)state;
    enum { ROWS = 11, WIDTH = 71, STRIDE = 80 };
    static float w[MAX_N], x[MAX_N];
    static const int32_t idx[] = {3, 0, 10, 10, 7, 1, 2, 5, 4};
    const rf_dot_kernel *kernels;
    int n_kernels = rf_dot_kernels(&kernels);
    fill(w, 1, true);
    fill(x, 2, true);
    for (int k = 0; k < n_kernels; k++) {
        for (int n_idx = 0; n_idx <= 9; n_idx++) {
            for (int64_t n = 1; n <= WIDTH; n += 5) {
                float out[9];
                kernels[k].rows(x, w, STRIDE, idx, n_idx, n, out);
                for (int j = 0; j < n_idx; j++) {
                    float want = by_definition(x, w + (int64_t)idx[j] * STRIDE, n);
                    assert_memory_equal(&want, &out[j], sizeof want);
                }
            }
        }
    }
}

static void not_finite_values_come_through(void **state)
{
    (void)state;
    float a[40] = {0}, b[40];
    const rf_dot_kernel *kernels;
    int n_kernels = rf_dot_kernels(&kernels);
    for (int i = 0; i < 40; i++) {
        b[i] = 1.0f;
    }
    for (int k = 0; k < n_kernels; k++) {
        a[37] = INFINITY;
        assert_true(isinf(kernels[k].dot(a, b, 40)));
        a[37] = NAN;
        assert_true(isnan(kernels[k].dot(a, b, 40)));
        assert_true(kernels[k].dot(a, b, 37) == 0.0f); /* what lies behind the end is not read */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_version_has_the_bits_of_the_definition),
        cmocka_unit_test(several_rows_at_once_have_the_bits_of_one),
        cmocka_unit_test(not_finite_values_come_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
