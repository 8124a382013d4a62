/* Pictures against Pillow's convert("RGB"), and damaged pictures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "refract/io.h"

#define PICTURES RF_GOLDEN_DIR "/pictures"

static rf_tensor_file *golden;

static int open_golden(void **state)
{
    (void)state;
    return rf_tensor_file_open(PICTURES "/pictures.safetensors", &golden) != RF_OK;
}

static int close_golden(void **state)
{
    (void)state;
    rf_tensor_file_close(golden);
    return 0;
}

static bool ends_with(const char *name, const char *ending)
{
    size_t n = strlen(name), m = strlen(ending);
    return n >= m && strcmp(name + n - m, ending) == 0;
}

/* The largest difference to the tensor `name` [height, width, 3]. */
static int64_t difference(const rf_picture *p, const char *name)
{
    const rf_named_tensor *t = rf_tensor_file_find(golden, name);
    int64_t worst = 0;
    assert_non_null(t);
    assert_int_equal(t->dtype, RF_FILE_U8);
    assert_int_equal(t->shape[0], p->height);
    assert_int_equal(t->shape[1], p->width);
    for (int64_t i = 0; i < t->n_elems; i++) {
        worst = rf_max_i64(worst, llabs((long long)p->rgb[i] - t->bytes[i]));
    }
    return worst;
}

static void every_kind_of_picture_equals_pillow(void **state)
{
    char **names = NULL;
    int64_t n_names = 0;
    (void)state;
    assert_int_equal(rf_file_list(PICTURES "/accept", &names, &n_names), RF_OK);
    assert_true(n_names >= 35);
    for (int64_t i = 0; i < n_names; i++) {
        char path[RF_PATH_LEN], tensor[RF_PATH_LEN];
        rf_picture p;
        assert_int_equal(rf_path_join(path, PICTURES "/accept", names[i]), RF_OK);
        assert_int_equal(rf_format(tensor, sizeof tensor, "rgb/%s", names[i]), RF_OK);
        if (rf_picture_load(path, &p) != RF_OK) {
            fail_msg("%s", rf_error_text());
        }
        int64_t worst = difference(&p, tensor);
        /* PNG and lossless WebP are exact by their specification; JPEG and lossy WebP are here by
         * the same code in every version of the two libraries, to which one level is allowed: the
         * golden file comes from other versions than the one that runs. */
        bool is_lossy = ends_with(names[i], ".jpg") || strcmp(names[i], "a-jpeg.png") == 0 ||
                        strncmp(names[i], "lossy", 5) == 0;
        if (!(worst <= (is_lossy ? 1 : 0))) {
            fail_msg("%s differs from Pillow by %d levels", names[i], (int)worst);
        }
        rf_picture_fini(&p);
    }
    rf_file_list_free(names, n_names);
}

static void damaged_pictures_are_refused_with_their_name_and_without_a_leak(void **state)
{
    char **names = NULL;
    int64_t n_names = 0;
    (void)state;
    assert_int_equal(rf_file_list(PICTURES "/refuse", &names, &n_names), RF_OK);
    assert_true(n_names >= 19);
    for (int64_t i = 0; i < n_names; i++) {
        char path[RF_PATH_LEN];
        rf_picture p;
        int64_t n_live = rf_alloc_live();
        assert_int_equal(rf_path_join(path, PICTURES "/refuse", names[i]), RF_OK);
        rf_status status = rf_picture_load(path, &p);
        if (status != RF_ERR_FORMAT && status != RF_ERR_UNSUPPORTED) {
            fail_msg("%s: status %d", names[i], (int)status);
        }
        assert_non_null(strstr(rf_error_text(), names[i]));
        assert_null(p.rgb);
        assert_int_equal(rf_alloc_live(), n_live);
    }
    rf_file_list_free(names, n_names);
}

static void a_missing_file_is_an_error_that_names_it(void **state)
{
    rf_picture p;
    (void)state;
    assert_int_not_equal(rf_picture_load(PICTURES "/nowhere.png", &p), RF_OK);
    assert_non_null(strstr(rf_error_text(), "nowhere.png"));
    assert_null(p.rgb);
}

static void read_accepted(const char *name, char **bytes, int64_t *n_bytes)
{
    char path[RF_PATH_LEN];
    assert_int_equal(rf_path_join(path, PICTURES "/accept", name), RF_OK);
    assert_int_equal(rf_file_read(path, 1 << 20, bytes, n_bytes), RF_OK);
}

static void every_shorter_beginning_is_refused(void **state)
{
    static const char *const names[] = {
        "rgb.png",    "palette4-interlaced.png", "420.jpg", "progressive.jpg", "cmyk.jpg",
        "lossy.webp", "lossless-alpha.webp"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *bytes = NULL;
        int64_t n_bytes = 0, n_live = 0;
        read_accepted(names[i], &bytes, &n_bytes);
        n_live = rf_alloc_live();
        for (int64_t n = 0; n < n_bytes; n++) {
            rf_picture p;
            rf_picture_planes planes = {0};
            /* its own block, so that a sanitizer sees a byte read too many */
            char *part = rf_calloc(1, (size_t)rf_max_i64(n, 1));
            memcpy(part, bytes, (size_t)n);
            rf_status status = rf_picture_decode(part, n, names[i], &p);
            /* what closes a file (IEND, EOI, checksums) may be missing after the last pixel */
            if (status == RF_OK && n < n_bytes - 24) {
                fail_msg("%s: %d of %d bytes were enough", names[i], (int)n, (int)n_bytes);
            }
            rf_picture_fini(&p);
            status = rf_picture_decode_planes(part, n, names[i], 1, 1, &planes);
            if (status == RF_OK && planes.n_planes > 0 && n < n_bytes - 24) {
                fail_msg("%s: %d of %d bytes were enough", names[i], (int)n, (int)n_bytes);
            }
            rf_picture_planes_fini(&planes);
            rf_free(part);
        }
        assert_int_equal(rf_alloc_live(), n_live);
        rf_free(bytes);
    }
}

static void damage_anywhere_neither_crashes_nor_leaks(void **state)
{
    enum { N_TRIALS = 150 };
    char **names = NULL;
    int64_t n_names = 0;
    (void)state;
    assert_int_equal(rf_file_list(PICTURES "/accept", &names, &n_names), RF_OK);
    for (int64_t i = 0; i < n_names; i++) {
        char *bytes = NULL;
        int64_t n_bytes = 0;
        read_accepted(names[i], &bytes, &n_bytes);
        int64_t n_live = rf_alloc_live();
        rf_picture_planes planes = {0}; /* kept from trial to trial */
        for (uint64_t trial = 0; trial < N_TRIALS; trial++) {
            uint32_t r[4];
            rf_picture p;
            rf_random_u32x4(1, RF_RANDOM_TEST, (uint64_t)i, trial, r);
            /* half of the trials in the headers, where damage goes furthest */
            int64_t at = (int64_t)r[0] % (trial % 2 == 0 ? rf_min_i64(n_bytes, 64) : n_bytes);
            char before = bytes[at];
            bytes[at] = (char)(r[1] & 0xff);
            (void)rf_picture_decode(bytes, n_bytes, names[i], &p);
            rf_picture_fini(&p);
            (void)rf_picture_decode_planes(bytes, n_bytes, names[i], trial % 3 == 0 ? 1 : 1000, 1,
                                           &planes);
            bytes[at] = before;
        }
        rf_picture_planes_fini(&planes);
        assert_int_equal(rf_alloc_live(), n_live);
        rf_free(bytes);
    }
    rf_file_list_free(names, n_names);
}

/* A picture's planes at the least size that was asked for, against what its header says. */
static void check_planes(const char *name, int64_t least, int n_planes, int64_t h, int64_t v,
                         int64_t shrink)
{
    char *bytes = NULL;
    int64_t n_bytes = 0;
    rf_picture p;
    rf_picture_planes planes = {0};
    read_accepted(name, &bytes, &n_bytes);
    assert_int_equal(rf_picture_decode(bytes, n_bytes, name, &p), RF_OK);
    assert_int_equal(rf_picture_decode_planes(bytes, n_bytes, name, least, least, &planes), RF_OK);
    assert_int_equal(planes.n_planes, n_planes);
    for (int i = 0; i < n_planes; i++) {
        const rf_plane *plane = &planes.planes[i];
        assert_int_equal(planes.height, p.height);
        assert_int_equal(planes.width, p.width);
        /* libjpeg shrinks chroma less than luma where it has fewer samples */
        const int64_t by_v = i == 0 ? shrink : rf_max_i64(v, shrink);
        const int64_t by_h = i == 0 ? shrink : rf_max_i64(h, shrink);
        assert_true(plane->cover_height == (double)p.height / (double)by_v);
        assert_true(plane->cover_width == (double)p.width / (double)by_h);
        assert_int_equal(plane->height, (p.height + by_v - 1) / by_v);
        assert_int_equal(plane->width, (p.width + by_h - 1) / by_h);
        assert_true(plane->stride >= plane->width);
    }
    rf_picture_planes_fini(&planes);
    rf_picture_fini(&p);
    rf_free(bytes);
}

static void planes_are_as_coded_and_no_smaller_than_asked(void **state)
{
    (void)state;
    check_planes("420.jpg", INT64_MAX, 3, 2, 2, 1);
    check_planes("422.jpg", INT64_MAX, 3, 2, 1, 1);
    check_planes("444.jpg", INT64_MAX, 3, 1, 1, 1);
    check_planes("grey.jpg", INT64_MAX, 1, 1, 1, 1);
    check_planes("progressive.jpg", 1, 3, 2, 2, 8);
    check_planes("420.jpg", 1, 3, 2, 2, 8);
    check_planes("cmyk.jpg", 1, 0, 1, 1, 1);
    check_planes("rgb.png", 1, 0, 1, 1, 1);
}

static void a_grey_plane_is_the_picture(void **state)
{
    char *bytes = NULL;
    int64_t n_bytes = 0, worst = 0;
    rf_picture p;
    rf_picture_planes planes = {0};
    (void)state;
    read_accepted("grey.jpg", &bytes, &n_bytes);
    assert_int_equal(rf_picture_decode(bytes, n_bytes, "", &p), RF_OK);
    assert_int_equal(rf_picture_decode_planes(bytes, n_bytes, "", INT64_MAX, 1, &planes), RF_OK);
    assert_int_equal(planes.colour, RF_PLANES_GREY);
    for (int64_t y = 0; y < p.height; y++) {
        for (int64_t x = 0; x < p.width; x++) {
            const int grey = planes.planes[0].bytes[planes.planes[0].stride * y + x];
            worst = rf_max_i64(worst, abs(p.rgb[3 * (p.width * y + x)] - grey));
        }
    }
    assert_int_equal(worst, 0); /* the same inverse DCT, and grey has no colours to convert */
    rf_picture_planes_fini(&planes);
    rf_picture_fini(&p);
    rf_free(bytes);
}

static void a_picture_that_is_used_again_is_as_a_new_one(void **state)
{
    static const char *const names[] = {"one.png",  "420.jpg",  "grey1.png", "palette.png",
                                        "grey.jpg", "cmyk.jpg", "lossy.webp"};
    rf_picture p = {0}, fresh;
    (void)state;
    for (size_t i = 0; i < 3 * sizeof names / sizeof names[0]; i++) {
        const char *name = names[5 * i % (sizeof names / sizeof names[0])];
        char *bytes = NULL;
        int64_t n_bytes = 0;
        read_accepted(name, &bytes, &n_bytes);
        assert_int_equal(rf_picture_decode(bytes, n_bytes, name, &fresh), RF_OK);
        assert_int_equal(rf_picture_decode_into(bytes, n_bytes, name, &p), RF_OK);
        assert_int_equal(p.height, fresh.height);
        assert_int_equal(p.width, fresh.width);
        assert_memory_equal(p.rgb, fresh.rgb, (size_t)(3 * p.height * p.width));
        rf_picture_fini(&fresh);
        rf_free(bytes);
    }
    assert_int_not_equal(rf_picture_decode_into("x", 1, "x", &p), RF_OK);
    assert_null(p.rgb);
}

static void a_written_png_reads_back_the_same(void **state)
{
    static const int64_t sizes[][2] = {{1, 1}, {1, 300}, {7, 1}, {33, 17}};
    char path[RF_PATH_LEN];
    (void)state;
    assert_int_equal(rf_format(path, sizeof path, "/tmp/rf-test-picture-%d.png", (int)getpid()),
                     RF_OK);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        rf_picture in = {.height = sizes[i][0], .width = sizes[i][1]}, out;
        int64_t n = 3 * in.height * in.width;
        in.rgb = rf_calloc(n, 1);
        for (int64_t b = 0; b < n; b++) {
            in.rgb[b] = (uint8_t)(b * 37 % 256);
        }
        assert_int_equal(rf_picture_write_png(path, &in), RF_OK);
        assert_int_equal(rf_picture_load(path, &out), RF_OK);
        assert_int_equal(out.height, in.height);
        assert_int_equal(out.width, in.width);
        assert_memory_equal(out.rgb, in.rgb, (size_t)n);
        rf_picture_fini(&in);
        rf_picture_fini(&out);
    }
    rf_picture empty = {0};
    assert_int_equal(rf_picture_write_png(path, &empty), RF_ERR_INVALID_ARG);
    unlink(path);
}

static void pictures_are_told_by_their_ending_in_any_case(void **state)
{
    (void)state;
    assert_true(rf_picture_is_name("a.jpg"));
    assert_true(rf_picture_is_name("a.b.JPEG"));
    assert_true(rf_picture_is_name("x.Png"));
    assert_true(rf_picture_is_name("x.webp"));
    assert_false(rf_picture_is_name(".png"));
    assert_false(rf_picture_is_name("png"));
    assert_false(rf_picture_is_name(""));
    assert_false(rf_picture_is_name("a.png.txt"));
    assert_false(rf_picture_is_name("a.gif"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_picture_equals_pillow),
        cmocka_unit_test(damaged_pictures_are_refused_with_their_name_and_without_a_leak),
        cmocka_unit_test(a_missing_file_is_an_error_that_names_it),
        cmocka_unit_test(every_shorter_beginning_is_refused),
        cmocka_unit_test(damage_anywhere_neither_crashes_nor_leaks),
        cmocka_unit_test(planes_are_as_coded_and_no_smaller_than_asked),
        cmocka_unit_test(a_grey_plane_is_the_picture),
        cmocka_unit_test(a_picture_that_is_used_again_is_as_a_new_one),
        cmocka_unit_test(a_written_png_reads_back_the_same),
        cmocka_unit_test(pictures_are_told_by_their_ending_in_any_case),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
