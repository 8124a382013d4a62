/* Fast decoding's planes: resized as if each row and column were alone, and made colours. */
#include "../../src/pictures/image_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_WIDTH = 70, GUARD = 99 };

/* ---- colours -------------------------------------------------------------------------------- */

static double clipped(double v)
{
    return fmin(fmax(v, 0.0), 255.0);
}

/* The largest error of a level of luma with this chroma. */
static double worst_of_chroma(int cb, int cr)
{
    enum { N = 256 };
    uint8_t planes[3][N], got[3 * N];
    double worst = 0.0;
    for (int y = 0; y < N; y++) {
        planes[0][y] = (uint8_t)y;
    }
    memset(planes[1], cb, N);
    memset(planes[2], cr, N);
    rf_transform_ycbcr((const uint8_t *const[3]){planes[0], planes[1], planes[2]}, N, got);
    for (int y = 0; y < N; y++) {
        const double b = cb - 128, r = cr - 128;
        const double want[3] = {y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b};
        for (int c = 0; c < 3; c++) {
            worst = fmax(worst, fabs(got[3 * y + c] - clipped(want[c])));
        }
    }
    return worst;
}

static void every_colour_is_within_rounding_of_the_real_numbers(void **state)
{
    double worst = 0.0;
    (void)state;
    for (int cb = 0; cb < 256; cb++) {
        for (int cr = 0; cr < 256; cr++) {
            worst = fmax(worst, worst_of_chroma(cb, cr));
        }
    }
    /* half a level to the nearest, two roundings at 1/64 of one, factors that are 2^-14 off */
    if (!(worst <= 0.53)) {
        fail_msg("worst %.4f levels", worst);
    }
}

/* A vector makes 16 pixels: at every length around some, one is what it is by itself. */
static void a_pixel_is_the_same_in_a_row_of_any_length(void **state)
{
    uint8_t planes[3][MAX_WIDTH], got[3 * MAX_WIDTH + 1], one[3];
    (void)state;
    for (int i = 0; i < MAX_WIDTH; i++) {
        for (int c = 0; c < 3; c++) {
            planes[c][i] = (uint8_t)((i * 37 + c * 101 + i * i * 7) % 256);
        }
    }
    const uint8_t *const all[3] = {planes[0], planes[1], planes[2]};
    for (int64_t n = 0; n <= MAX_WIDTH; n++) {
        memset(got, GUARD, sizeof got);
        rf_transform_rgb(all, n, got);
        for (int64_t x = 0; x < n; x++) {
            assert_memory_equal(got + 3 * x, ((uint8_t[3]){all[0][x], all[1][x], all[2][x]}), 3);
        }
        assert_int_equal(got[3 * n], GUARD);
        memset(got, GUARD, sizeof got);
        rf_transform_ycbcr(all, n, got);
        for (int64_t x = 0; x < n; x++) {
            rf_transform_ycbcr((const uint8_t *const[3]){all[0] + x, all[1] + x, all[2] + x}, 1,
                               one);
            assert_memory_equal(got + 3 * x, one, 3);
        }
        assert_int_equal(got[3 * n], GUARD);
    }
}

/* ---- resizes: the vector code against the plain one, as in test_image_reader. A side that keeps
 * its length is multiplied by one, but for lanczos ------------------------------------------- */

enum { MAX_SIDE = 130, MAX_OUT = 61 };

static void fill_noise(uint8_t *bytes, int64_t n, uint64_t key)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t r[4];
        rf_random_u32x4(0, RF_RANDOM_TEST, key, (uint64_t)i, r);
        bytes[i] = (uint8_t)(r[0] % 3 == 0 ? 255 : r[0] % 3 == 1 ? 0 : r[1] & 0xff);
    }
}

static void resize(rf_resize_scratch *scratch, const uint8_t *bytes, int64_t stride,
                   const int64_t in[2], const int64_t to[2], rf_resize_filter filter, uint8_t *out)
{
    const rf_plane plane = {.bytes = bytes,
                            .height = in[0],
                            .width = in[1],
                            .stride = stride,
                            .cover_height = (double)in[0],
                            .cover_width = (double)in[1]};
    const rf_region whole = {0, 0, to[0], to[1]};
    assert_int_equal(rf_resize_plane(scratch, &plane, to[0], to[1], filter, &whole, out), RF_OK);
}

static rf_resize_filter filter_of_trial(int64_t trial)
{
    return trial % 2 == 0 ? RF_RESIZE_BILINEAR : RF_RESIZE_BICUBIC;
}

static void every_row_of_a_plane_is_resized_across_as_if_it_were_alone(void **state)
{
    enum { MAX_ROWS = 19 };
    uint8_t in[MAX_ROWS * MAX_SIDE], all[MAX_ROWS * MAX_OUT], one[MAX_OUT];
    rf_resize_scratch scratch = {0};
    (void)state;
    for (int64_t trial = 0; trial < 400; trial++) {
        const int64_t height = 1 + trial % MAX_ROWS, width = 1 + trial * 7 % MAX_SIDE;
        const int64_t n = 1 + trial * 11 % MAX_OUT;
        fill_noise(in, height * width, (uint64_t)trial);
        resize(&scratch, in, width, (int64_t[]){height, width}, (int64_t[]){height, n},
               filter_of_trial(trial), all);
        for (int64_t y = 0; y < height; y++) {
            resize(&scratch, in + width * y, width, (int64_t[]){1, width}, (int64_t[]){1, n},
                   filter_of_trial(trial), one);
            assert_memory_equal(all + n * y, one, (size_t)n);
        }
    }
    rf_resize_scratch_fini(&scratch);
}

static void every_column_of_a_plane_is_resized_down_as_if_it_were_alone(void **state)
{
    uint8_t in[MAX_SIDE * MAX_WIDTH], all[MAX_OUT * MAX_WIDTH], one[MAX_OUT];
    rf_resize_scratch scratch = {0};
    (void)state;
    for (int64_t trial = 0; trial < 300; trial++) {
        const int64_t height = 1 + trial * 7 % MAX_SIDE, width = 1 + trial % MAX_WIDTH;
        const int64_t n = 1 + trial * 11 % MAX_OUT;
        fill_noise(in, height * width, (uint64_t)(1000 + trial));
        resize(&scratch, in, width, (int64_t[]){height, width}, (int64_t[]){n, width},
               filter_of_trial(trial), all);
        for (int64_t x = 0; x < width; x++) {
            resize(&scratch, in + x, width, (int64_t[]){height, 1}, (int64_t[]){n, 1},
                   filter_of_trial(trial), one);
            for (int64_t y = 0; y < n; y++) {
                assert_int_equal(all[width * y + x], one[y]);
            }
        }
    }
    rf_resize_scratch_fini(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_colour_is_within_rounding_of_the_real_numbers),
        cmocka_unit_test(a_pixel_is_the_same_in_a_row_of_any_length),
        cmocka_unit_test(every_row_of_a_plane_is_resized_across_as_if_it_were_alone),
        cmocka_unit_test(every_column_of_a_plane_is_resized_down_as_if_it_were_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
