/* Resampled positions and rotary tables against numbers of torch 2.15. */
#include "../../src/vit/config_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

static void assert_near(const char *what, const float *got, const float *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (!(fabsf(got[i] - want[i]) <= 2e-6f)) { /* values of up to 1.6: a few ulps */
            fail_msg("%s: [%d] is %.9g, expected %.9g", what, (int)i, (double)got[i],
                     (double)want[i]);
        }
    }
}

static void test_grids_are_resampled_as_torch_does(void **state)
{
    (void)state;
    enum { N_IN = 12, N_OUT = 35, D = 2 };
    static const float in[N_IN] = {-1.375f, -0.5f, 0.375f,  1.25f, -0.75f, 0.125f,
                                   1.0f,    -1.0f, -0.125f, 0.75f, -1.25f, -0.375f};
    static const struct {
        rf_interpolation how;
        rf_grid to;
        float want[N_OUT];
    } cases[] = {
        {RF_INTERPOLATE_BICUBIC,
         {5, 7},
         {-1.521815f, -1.190661f,  -0.6504818f, -0.1483749f, 0.4212739f,  1.127615f,
          1.580198f,  -1.264315f,  -0.9458902f, -0.4025432f, 0.3624845f,  0.8038751f,
          0.5510227f, 0.2876001f,  -0.8368147f, -0.5056606f, 0.03451816f, 0.8320314f,
          0.9259856f, -0.2647027f, -1.198433f,  -0.4093147f, 0.03004532f, 0.5432928f,
          0.2342341f, -0.3984612f, -0.6814117f, -0.8238989f, -0.1518145f, 0.3731201f,
          0.865069f,  -0.3538753f, -1.505277f,  -0.8471644f, -0.2008019f}},
        {RF_INTERPOLATE_BICUBIC, {2, 2}, {-0.9093781f, 0.7484894f, 0.3193054f, -0.7834167f}},
        {RF_INTERPOLATE_BICUBIC_ANTIALIAS,
         {5, 7},
         {-1.491581f, -1.191281f,  -0.6136575f, -0.1232311f, 0.4041399f,   1.123383f,
          1.506435f,  -1.25318f,   -0.9577953f, -0.3792113f, 0.2641675f,   0.7139341f,
          0.5503353f, 0.4120421f,  -0.8194112f, -0.5191116f, 0.05851222f,  0.7421875f,
          0.9363523f, -0.3624855f, -1.158654f,  -0.3856425f, -0.01407421f, 0.5496261f,
          0.1340367f, -0.475165f,  -0.6536466f, -0.7157562f, -0.1472414f,  0.2711129f,
          0.8256727f, -0.324882f,  -1.438493f,  -0.7423126f, -0.2412066f}},
        {RF_INTERPOLATE_BICUBIC_ANTIALIAS,
         {2, 2},
         {-0.6167115f, 0.5216686f, 0.08205353f, -0.4359247f}},
        {RF_INTERPOLATE_BILINEAR_ANTIALIAS,
         {5, 7},
         {-1.375f,     -1.0625f,    -0.5625f,    -0.0625f,    0.4375002f,   0.9375001f,
          1.25f,       -1.125f,     -0.8125f,    -0.3125f,    0.1875f,      0.6053571f,
          0.4482142f,  0.3499999f,  -0.75f,      -0.4374999f, 0.06250003f,  0.5625f,
          0.8571424f,  -0.2857146f, -1.0f,       -0.3749999f, -0.06249984f, 0.4375001f,
          0.07499988f, -0.3696432f, -0.5267859f, -0.6249999f, -0.125f,      0.1875001f,
          0.6875f,     -0.25f,      -1.1875f,    -0.6874999f, -0.375f}},
        {RF_INTERPOLATE_BILINEAR_ANTIALIAS,
         {2, 2},
         {-0.515625f, 0.3973214f, 0.008928567f, -0.3616072f}},
    };
    const rf_grid from = {3, 4};
    float pairs[N_IN * D], out[N_OUT * D], one[N_OUT];
    for (int i = 0; i < N_IN; i++) {
        pairs[i * D] = in[i];
        pairs[i * D + 1] = -2.0f * in[i];
    }
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const rf_grid to = cases[c].to;
        assert_int_equal(rf_interpolate_positions(cases[c].how, pairs, from, D, out, to), RF_OK);
        for (int64_t k = 0; k < D; k++) { /* each dimension by itself */
            for (int64_t i = 0; i < to.height * to.width; i++) {
                one[i] = out[i * D + k] * (k == 0 ? 1.0f : -0.5f);
            }
            assert_near("resampled", one, cases[c].want, to.height * to.width);
        }
    }
}

static void test_the_same_grid_comes_back(void **state)
{
    (void)state;
    enum { H = 2, W = 5, D = 3 };
    float in[H * W * D], out[H * W * D];
    for (int i = 0; i < H * W * D; i++) {
        in[i] = (float)(i * 7 % 11) - 5.0f;
    }
    for (int how = RF_INTERPOLATE_BICUBIC; how <= RF_INTERPOLATE_BILINEAR_ANTIALIAS; how++) {
        assert_int_equal(rf_interpolate_positions((rf_interpolation)how, in, (rf_grid){H, W}, D,
                                                  out, (rf_grid){H, W}),
                         RF_OK);
        assert_memory_equal(in, out, sizeof in);
    }
}

/* Prefix tokens are not turned: cos 1, sin 0. */
static void test_rotary_tables_leave_prefix_tokens_alone(void **state)
{
    (void)state;
    enum { T = 3 + 6, DH = 8 };
    static const rf_rope ropes[] = {RF_ROPE_GRID, RF_ROPE_CENTRES, RF_ROPE_AXES};
    float cos[T * DH], sin[T * DH];
    for (size_t r = 0; r < sizeof ropes / sizeof *ropes; r++) {
        const rf_vit_config c = {.rope = ropes[r],
                                 .rope_base = 100.0,
                                 .d_head = DH,
                                 .n_heads = 1,
                                 .grid = {1, 2, 3},
                                 .n_prefix = 3,
                                 .n_patches = 6,
                                 .n_tokens = T};
        rf_rotary_tables(&c, cos, sin);
        for (int i = 0; i < T * DH; i++) {
            const float norm = cos[i] * cos[i] + sin[i] * sin[i];
            assert_true(fabsf(norm - 1.0f) <= 1e-6f); /* one rounding of each */
            assert_true(i >= 3 * DH || (cos[i] == 1.0f && sin[i] == 0.0f));
        }
    }
}

/* V-JEPA 2's heads that no third of divides: what is left over does not turn. */
static void test_axes_leave_the_rest_of_a_head_alone(void **state)
{
    (void)state;
    enum { DH = 20, N = 8 };
    const rf_vit_config c = {.rope = RF_ROPE_AXES,
                             .rope_base = 10000.0,
                             .d_head = DH,
                             .n_heads = 1,
                             .grid = {2, 2, 2},
                             .n_patches = N,
                             .n_tokens = N};
    float cos[N * DH], sin[N * DH];
    rf_rotary_tables(&c, cos, sin);
    const float *last = sin + 7 * DH; /* t = y = x = 1 */
    for (int j = 0; j < DH; j++) {    /* 6 values an axis: bands 1, 10000^(-1/3), 10000^(-2/3) */
        const float band = powf(10000.0f, -(float)(j % 3) / 3.0f);
        assert_true(fabsf(last[j] - (j < 18 ? sinf(band) : 0.0f)) <= 1e-6f);
    }
}

static void test_sinusoids_take_turns(void **state)
{
    (void)state;
    float table[3 * 4];
    rf_sinusoid_table(3, 4, table);
    const float want[] = {0.0f,       1.0f,        0.0f,         1.0f,
                          0.8414710f, 0.5403023f,  0.009999833f, 0.9999500f,
                          0.9092974f, -0.4161468f, 0.01999867f,  0.9998000f};
    assert_near("sinusoid", table, want, 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grids_are_resampled_as_torch_does),
        cmocka_unit_test(test_the_same_grid_comes_back),
        cmocka_unit_test(test_rotary_tables_leave_prefix_tokens_alone),
        cmocka_unit_test(test_axes_leave_the_rest_of_a_head_alone),
        cmocka_unit_test(test_sinusoids_take_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
