/* Conversion between fp32 and 16-bit floats: every 16-bit number, and rounding to the nearest. */
#include "refract/tensor.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_HALVES = 1 << 16, N_RANDOM = 200003 };

static rf_backend *backend;
static rf_stream *stream;

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The value that 16 bits stand for, by definition: sign, exponent, mantissa. */
static double value_of(rf_dtype dtype, uint16_t h)
{
    const int mantissa_bits = dtype == RF_F16 ? 10 : 7, bias = dtype == RF_F16 ? 15 : 127;
    const int exponent = (h & 0x7fff) >> mantissa_bits, top = (0x7fff >> mantissa_bits);
    const int mantissa = h & ((1 << mantissa_bits) - 1);
    const double sign = h >> 15 ? -1.0 : 1.0;
    if (exponent == top) {
        return mantissa != 0 ? NAN : sign * INFINITY;
    }
    const double m = exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits);
    return sign * ldexp(m, (exponent == 0 ? 1 : exponent) - bias - mantissa_bits);
}

static void convert(rf_dtype from, const void *x, rf_dtype to, void *y, int64_t n)
{
    const rf_view a = rf_view_nd((void *)(uintptr_t)x, from, 1, &n), b = rf_view_nd(y, to, 1, &n);
    assert_int_equal(rf_convert(stream, &a, &b), RF_OK);
}

static void every_16_bit_number_goes_to_fp32_and_back(void **state)
{
    (void)state;
    static uint16_t halves[N_HALVES], back[N_HALVES];
    static float wide[N_HALVES];
    const rf_dtype dtypes[] = {RF_F16, RF_BF16};
    for (int d = 0; d < 2; d++) {
        for (int i = 0; i < N_HALVES; i++) {
            halves[i] = (uint16_t)i;
        }
        convert(dtypes[d], halves, RF_F32, wide, N_HALVES);
        convert(RF_F32, wide, dtypes[d], back, N_HALVES);
        for (int i = 0; i < N_HALVES; i++) {
            const double expected = value_of(dtypes[d], (uint16_t)i);
            assert_true(isnan(expected) ? isnan(wide[i]) : (double)wide[i] == expected);
            assert_true(isnan(expected) ? isnan(value_of(dtypes[d], back[i])) : back[i] == i);
        }
    }
}

/* Of the two neighbours of x the nearer one, and of equals the even one. */
static void fp32_goes_to_the_nearest(void **state)
{
    (void)state;
    static float x[N_RANDOM];
    static uint16_t y[N_RANDOM];
    const rf_dtype dtypes[] = {RF_F16, RF_BF16};
    for (int d = 0; d < 2; d++) {
        uint32_t random = 12345;
        for (int i = 0; i < N_RANDOM; i++) {
            random = random * 1664525u + 1013904223u;
            /* half of them in fp16's range, its subnormals and overflow included; ties too */
            const uint32_t exponent =
                i % 2 == 0 ? 100u + (random >> 8) % 45u : random >> 24 & 0xffu;
            const uint32_t mantissa = i % 5 == 0 ? random & 0x7ff000u : random & 0x7fffffu;
            x[i] = float_of((random & 0x80000000u) | exponent << 23 | mantissa);
        }
        convert(RF_F32, x, dtypes[d], y, N_RANDOM);
        for (int i = 0; i < N_RANDOM; i++) {
            const double got = value_of(dtypes[d], y[i]), wanted = (double)x[i];
            if (isnan(x[i])) {
                assert_true(isnan(got));
                continue;
            }
            assert_int_equal(y[i] >> 15, bits_of(x[i]) >> 31);
            if (isinf(got)) { /* beyond halfway between the largest and the next, were there one */
                const double largest = value_of(dtypes[d], dtypes[d] == RF_F16 ? 0x7bff : 0x7f7f);
                const double step =
                    largest - value_of(dtypes[d], dtypes[d] == RF_F16 ? 0x7bfe : 0x7f7e);
                assert_true(fabs(wanted) >= largest + step / 2);
                continue;
            }
            const int magnitude = y[i] & 0x7fff;
            const double up = value_of(dtypes[d], (uint16_t)(magnitude + 1)) - fabs(got);
            const double down = fabs(got) - value_of(dtypes[d], (uint16_t)(magnitude - 1));
            const double off = fabs(wanted) - fabs(got);
            const bool is_even = (y[i] & 1) == 0;
            assert_true(off <= up / 2 || isinf(up));
            assert_true(magnitude == 0 || -off <= down / 2);
            assert_true(is_even || (off != up / 2 && -off != down / 2));
        }
    }
}

static void other_types_and_shapes_are_refused(void **state)
{
    (void)state;
    float x[4] = {0}, y[4] = {0};
    const int64_t four = 4, three = 3;
    const rf_view wide = rf_view_nd(x, RF_F32, 1, &four), half = rf_view_nd(y, RF_F16, 1, &four),
                  brain = rf_view_nd(x, RF_BF16, 1, &four),
                  short_ = rf_view_nd(y, RF_F16, 1, &three),
                  whole = rf_view_nd(y, RF_I32, 1, &four);
    assert_int_equal(rf_convert(stream, &half, &brain), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_convert(stream, &wide, &short_), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_convert(stream, &wide, &whole), RF_ERR_INVALID_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_16_bit_number_goes_to_fp32_and_back),
        cmocka_unit_test(fp32_goes_to_the_nearest),
        cmocka_unit_test(other_types_and_shapes_are_refused),
    };
    int n_failed = 1;
    if (rf_backend_cpu_create(2, &backend) == RF_OK &&
        rf_stream_create(backend, &stream) == RF_OK) {
        n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    }
    rf_stream_destroy(stream);
    rf_backend_destroy(backend);
    return n_failed;
}
