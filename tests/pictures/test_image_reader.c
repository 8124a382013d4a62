/* The image reader: exact and fast decoding, whatever it read before; resizes of every small shape.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h> /* jpeglib.h needs it first */
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <cmocka.h>

#include "refract/pictures.h"

#define PICTURES RF_GOLDEN_DIR "/pictures/accept"

enum { SIDE = 48, IMAGE_ELEMS = 3 * SIDE * SIDE, MAX_FILES = 64 };

/* Values come out as 0..255, so that differences are levels. */
static const rf_transform levels = {.shortest_edge = 56,
                                    .filter = RF_RESIZE_BICUBIC,
                                    .crop_height = SIDE,
                                    .crop_width = SIDE,
                                    .scale = 1.0};

typedef struct jpeg_bytes {
    unsigned char *bytes;
    unsigned long n_bytes;
} jpeg_bytes;

/* Grows to the right in red, downwards in green, to both in blue: a shift shows in every pixel. */
static uint8_t gradient(int64_t x, int64_t width, int64_t y, int64_t height, int channel)
{
    const double across = ((double)x + 0.5) / (double)width;
    const double down = ((double)y + 0.5) / (double)height;
    const double value = channel == 0 ? across : channel == 1 ? down : 0.5 * (across + down);
    return (uint8_t)(255.0 * value);
}

/* `n_channels` 1 or 3; chroma has 1 sample for `h` x `v` pixels. */
static jpeg_bytes make_gradient(int64_t width, int64_t height, int n_channels, int h, int v,
                                bool is_progressive)
{
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    jpeg_bytes out = {0};
    uint8_t *row = rf_calloc(3 * width, 1);
    assert_non_null(row);
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, &out.bytes, &out.n_bytes);
    jpeg.image_width = (JDIMENSION)width;
    jpeg.image_height = (JDIMENSION)height;
    jpeg.input_components = n_channels;
    jpeg.in_color_space = n_channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, 97, TRUE);
    jpeg.comp_info[0].h_samp_factor = h;
    jpeg.comp_info[0].v_samp_factor = v;
    if (is_progressive) {
        jpeg_simple_progression(&jpeg);
    }
    jpeg_start_compress(&jpeg, TRUE);
    for (int64_t y = 0; y < height; y++) {
        for (int64_t x = 0; x < width; x++) {
            for (int c = 0; c < n_channels; c++) {
                row[n_channels * x + c] = gradient(x, width, y, height, c);
            }
        }
        JSAMPROW rows[1] = {row};
        jpeg_write_scanlines(&jpeg, rows, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    rf_free(row);
    return out;
}

static rf_image_reader *make_reader(const rf_transform *t, bool fast_decode)
{
    rf_image_reader *reader = NULL;
    assert_int_equal(rf_image_reader_create(t, fast_decode, &reader), RF_OK);
    return reader;
}

/* Mean and largest difference of the two ways, over all pixels. */
static void compare_ways(const rf_transform *t, const jpeg_bytes *jpeg, double *mean, double *worst)
{
    const int64_t n = 3 * rf_transform_height(t) * rf_transform_width(t);
    uint8_t *pixels[2];
    *mean = *worst = 0.0;
    for (int way = 0; way < 2; way++) {
        rf_image_reader *reader = make_reader(t, way == 1);
        pixels[way] = rf_calloc(n, 1);
        assert_int_equal(
            rf_image_reader_read(reader, jpeg->bytes, (int64_t)jpeg->n_bytes, "made", pixels[way]),
            RF_OK);
        rf_image_reader_destroy(reader);
    }
    for (int64_t i = 0; i < n; i++) {
        const double d = fabs((double)pixels[0][i] - (double)pixels[1][i]);
        *mean += d / (double)n;
        *worst = fmax(*worst, d);
    }
    rf_free(pixels[0]);
    rf_free(pixels[1]);
}

static void fast_decoding_shows_the_same_part_of_a_picture(void **state)
{
    static const struct {
        int width, height, n_channels, h, v;
        bool is_progressive;
    } cases[] = {
        {401, 263, 3, 2, 2, false}, /* 4:2:0, and both sides odd; at half its size */
        {101, 75, 3, 2, 2, false},  /* whole */
        {75, 101, 3, 2, 1, false},  /* 4:2:2 */
        {75, 101, 3, 1, 2, false},  /* 4:4:0 */
        {260, 60, 3, 4, 1, false},  /* 4:1:1 */
        {83, 97, 3, 1, 1, false},   /* 4:4:4 */
        {120, 61, 1, 1, 1, false},  /* grey */
        {240, 231, 1, 2, 2, false}, /* grey with sampling factors; at a quarter */
        {905, 701, 3, 2, 2, true},  /* at an eighth, progressive */
        {50, 33, 3, 2, 2, false},   /* blown up */
        {57, 56, 3, 2, 2, false},   /* hardly resized */
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        jpeg_bytes jpeg = make_gradient(cases[i].width, cases[i].height, cases[i].n_channels,
                                        cases[i].h, cases[i].v, cases[i].is_progressive);
        double mean = 0, worst = 0;
        compare_ways(&levels, &jpeg, &mean, &worst);
        /* A pixel of the result is 255 / 56 = 4.6 levels from its neighbour: a shift by a fifth of
         * one would be 0.9. What is left is rounding, of planes here and of colours there. */
        if (!(mean <= 0.9) || !(worst <= 6.0)) {
            fail_msg("case %d: mean %.3f, worst %.3f levels", (int)i, mean, worst);
        }
        free(jpeg.bytes);
    }
}

static void fast_decoding_pads_and_crops_where_the_exact_way_does(void **state)
{
    static const rf_transform cases[] = {
        /* wider than the picture: zeros around it; taller: a crop */
        {.crop_height = 60, .crop_width = 120, .scale = 0.5, .filter = RF_RESIZE_BILINEAR},
        {.resize_height = 30, .resize_width = 90, .scale = 1, .filter = RF_RESIZE_LANCZOS},
        {.shortest_edge = 32,
         .crop_height = 31,
         .crop_width = 64,
         .scale = 1,
         .filter = RF_RESIZE_BICUBIC,
         .crop_rule = RF_CROP_TORCHVISION},
    };
    jpeg_bytes jpeg = make_gradient(101, 75, 3, 2, 2, false);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double mean = 0, worst = 0;
        compare_ways(&cases[i], &jpeg, &mean, &worst);
        if (!(mean <= 0.9) || !(worst <= 8.0)) { /* as above; zeros beside a pixel would be > 100 */
            fail_msg("case %d: mean %.3f, worst %.3f levels", (int)i, mean, worst);
        }
    }
    free(jpeg.bytes);
}

typedef struct files {
    char **names;
    int64_t n;
    char *bytes[MAX_FILES];
    int64_t n_bytes[MAX_FILES];
} files;

static void open_files(files *f)
{
    char path[RF_PATH_LEN];
    assert_int_equal(rf_file_list(PICTURES, &f->names, &f->n), RF_OK);
    assert_in_range(f->n, 30, MAX_FILES);
    for (int64_t i = 0; i < f->n; i++) {
        assert_int_equal(rf_path_join(path, PICTURES, f->names[i]), RF_OK);
        assert_int_equal(rf_picture_read(path, &f->bytes[i], &f->n_bytes[i]), RF_OK);
    }
}

static void close_files(files *f)
{
    for (int64_t i = 0; i < f->n; i++) {
        rf_free(f->bytes[i]);
    }
    rf_file_list_free(f->names, f->n);
}

static void read_one(rf_image_reader *reader, const files *f, int64_t i, uint8_t *out)
{
    assert_int_equal(rf_image_reader_read(reader, f->bytes[i], f->n_bytes[i], f->names[i], out),
                     RF_OK);
}

static void a_reader_gives_the_same_whatever_it_read_before(void **state)
{
    files f = {0};
    uint8_t want[IMAGE_ELEMS], got[IMAGE_ELEMS];
    (void)state;
    open_files(&f);
    const int64_t n_live = rf_alloc_live();
    for (int way = 0; way < 2; way++) {
        rf_image_reader *old = make_reader(&levels, way == 1);
        for (int64_t i = 0; i < 3 * f.n; i++) {
            const int64_t file = 7 * i % f.n; /* sizes and kinds in another order each time */
            rf_image_reader *fresh = make_reader(&levels, way == 1);
            read_one(fresh, &f, file, want);
            read_one(old, &f, file, got);
            assert_memory_equal(got, want, sizeof want);
            rf_image_reader_destroy(fresh);
        }
        rf_image_reader_destroy(old);
    }
    assert_int_equal(rf_alloc_live(), n_live);
    close_files(&f);
}

static void the_exact_way_is_a_decode_and_a_transform(void **state)
{
    files f = {0};
    uint8_t want[IMAGE_ELEMS], got[IMAGE_ELEMS];
    rf_image_reader *reader = make_reader(&levels, false);
    (void)state;
    open_files(&f);
    for (int64_t i = 0; i < f.n; i++) {
        rf_picture p;
        assert_int_equal(rf_picture_decode(f.bytes[i], f.n_bytes[i], f.names[i], &p), RF_OK);
        assert_int_equal(rf_transform_bytes(&levels, &p, want), RF_OK);
        read_one(reader, &f, i, got);
        assert_memory_equal(got, want, sizeof want);
        rf_picture_fini(&p);
    }
    rf_image_reader_destroy(reader);
    close_files(&f);
}

static void fast_decoding_leaves_what_is_not_a_jpeg_with_planes_as_it_is(void **state)
{
    files f = {0};
    uint8_t exact[IMAGE_ELEMS], fast[IMAGE_ELEMS];
    rf_image_reader *readers[2] = {make_reader(&levels, false), make_reader(&levels, true)};
    int n_same = 0;
    (void)state;
    open_files(&f);
    for (int64_t i = 0; i < f.n; i++) {
        const char *ending = strrchr(f.names[i], '.');
        read_one(readers[0], &f, i, exact);
        read_one(readers[1], &f, i, fast);
        if (strcmp(ending, ".jpg") != 0 || strstr(f.names[i], "cmyk") ||
            strstr(f.names[i], "ycck")) {
            if (strcmp(f.names[i], "a-jpeg.png") != 0) { /* the name lies */
                assert_memory_equal(fast, exact, sizeof exact);
                n_same++;
            }
        }
    }
    assert_in_range(n_same, 25, f.n);
    rf_image_reader_destroy(readers[0]);
    rf_image_reader_destroy(readers[1]);
    close_files(&f);
}

static void damaged_pictures_are_refused_in_both_ways_and_the_next_one_is_read(void **state)
{
    files f = {0};
    char **names = NULL, path[RF_PATH_LEN], *bytes = NULL;
    int64_t n_names = 0, n_bytes = 0;
    uint8_t want[IMAGE_ELEMS], got[IMAGE_ELEMS];
    (void)state;
    open_files(&f);
    assert_int_equal(rf_file_list(RF_GOLDEN_DIR "/pictures/refuse", &names, &n_names), RF_OK);
    assert_true(n_names >= 19);
    for (int way = 0; way < 2; way++) {
        rf_image_reader *reader = make_reader(&levels, way == 1);
        read_one(reader, &f, 0, want);
        for (int64_t i = 0; i < n_names; i++) {
            assert_int_equal(rf_path_join(path, RF_GOLDEN_DIR "/pictures/refuse", names[i]), RF_OK);
            assert_int_equal(rf_picture_read(path, &bytes, &n_bytes), RF_OK);
            const rf_status status = rf_image_reader_read(reader, bytes, n_bytes, path, got);
            if (status != RF_ERR_FORMAT && status != RF_ERR_UNSUPPORTED) {
                fail_msg("%s: status %d", names[i], (int)status);
            }
            assert_non_null(strstr(rf_error_text(), names[i]));
            rf_free(bytes);
            read_one(reader, &f, 0, got);
            assert_memory_equal(got, want, sizeof want);
        }
        rf_image_reader_destroy(reader);
    }
    rf_file_list_free(names, n_names);
    close_files(&f);
}

static void a_loader_with_fast_decode_gives_what_a_fast_reader_gives(void **state)
{
    const rf_picture_list_opts list_opts = {.path = PICTURES};
    rf_picture_list *list = NULL;
    rf_image_loader *loader = NULL;
    rf_image_reader *readers[2] = {make_reader(&levels, false), make_reader(&levels, true)};
    uint8_t want[IMAGE_ELEMS], exact[IMAGE_ELEMS];
    int64_t pictures[MAX_FILES], n_different = 0;
    const rf_image_batch *batch = NULL;
    (void)state;
    assert_int_equal(rf_picture_list_open(&list_opts, &list), RF_OK);
    const int64_t n = rf_picture_list_n(list, RF_SPLIT_ALL), first[2] = {0, n};
    for (int64_t i = 0; i < n; i++) {
        pictures[i] = i;
    }
    const rf_image_loader_opts opts = {.list = list,
                                       .split = RF_SPLIT_ALL,
                                       .transform = levels,
                                       .max_images = n,
                                       .n_threads = 3,
                                       .fast_decode = true};
    assert_int_equal(rf_image_loader_create(&opts, &loader), RF_OK);
    assert_int_equal(rf_image_loader_start(loader, pictures, first, 1), RF_OK);
    assert_int_equal(rf_image_loader_next(loader, &batch), RF_OK);
    for (int64_t i = 0; i < n; i++) {
        char *bytes = NULL;
        int64_t n_bytes = 0;
        assert_int_equal(rf_picture_list_read(list, RF_SPLIT_ALL, i, &bytes, &n_bytes), RF_OK);
        assert_int_equal(rf_image_reader_read(readers[0], bytes, n_bytes, "", exact), RF_OK);
        assert_int_equal(rf_image_reader_read(readers[1], bytes, n_bytes, "", want), RF_OK);
        assert_memory_equal(batch->pixels + i * IMAGE_ELEMS, want, sizeof want);
        n_different += memcmp(want, exact, sizeof want) != 0;
        rf_free(bytes);
    }
    assert_in_range(n_different, 3, n); /* the setting does something */
    rf_image_loader_destroy(loader);
    rf_image_reader_destroy(readers[0]);
    rf_image_reader_destroy(readers[1]);
    rf_picture_list_close(list);
}

/* ---- resizes: the vector code against the plain one, which does rows by ones and twos and columns
 * of fewer than 32 bytes ---------------------------------------------------------------------- */

static void fill_noise(rf_picture *p, uint64_t key)
{
    for (int64_t i = 0; i < 3 * p->height * p->width; i++) {
        uint32_t r[4];
        rf_random_u32x4(0, RF_RANDOM_TEST, key, (uint64_t)i, r);
        p->rgb[i] = (uint8_t)(r[0] % 3 == 0 ? 255 : r[0] % 3 == 1 ? 0 : r[1] & 0xff);
    }
}

static void every_row_is_resized_across_as_if_it_were_alone(void **state)
{
    enum { MAX_SIDE = 40 };
    uint8_t rgb[3 * MAX_SIDE * MAX_SIDE];
    (void)state;
    for (int64_t trial = 0; trial < 400; trial++) {
        const int64_t height = 1 + trial % 19, width = 1 + trial * 7 % MAX_SIDE;
        const int64_t n = 1 + trial * 11 % 61;
        rf_picture in = {.height = height, .width = width, .rgb = rgb}, all, one;
        const rf_region whole = {0, 0, height, n}, row = {0, 0, 1, n};
        fill_noise(&in, (uint64_t)trial);
        assert_int_equal(
            rf_resize_picture(&in, height, n, (rf_resize_filter)(1 + trial % 3), &whole, &all),
            RF_OK);
        for (int64_t y = 0; y < height; y++) {
            const rf_picture alone = {.height = 1, .width = width, .rgb = rgb + 3 * width * y};
            assert_int_equal(
                rf_resize_picture(&alone, 1, n, (rf_resize_filter)(1 + trial % 3), &row, &one),
                RF_OK);
            assert_memory_equal(all.rgb + 3 * n * y, one.rgb, (size_t)(3 * n));
            rf_picture_fini(&one);
        }
        rf_picture_fini(&all);
    }
}

static void every_column_is_resized_down_as_if_it_were_alone(void **state)
{
    enum { MAX_SIDE = 40 };
    uint8_t rgb[3 * MAX_SIDE * MAX_SIDE], column[3 * MAX_SIDE];
    (void)state;
    for (int64_t trial = 0; trial < 300; trial++) {
        const int64_t height = 1 + trial * 7 % MAX_SIDE, width = 1 + trial % 23;
        const int64_t n = 1 + trial * 11 % 61;
        const rf_resize_filter filter = (rf_resize_filter)(1 + trial % 3);
        rf_picture in = {.height = height, .width = width, .rgb = rgb}, all, one;
        const rf_region whole = {0, 0, n, width}, line = {0, 0, n, 1};
        fill_noise(&in, (uint64_t)(1000 + trial));
        assert_int_equal(rf_resize_picture(&in, n, width, filter, &whole, &all), RF_OK);
        for (int64_t x = 0; x < width; x++) {
            const rf_picture alone = {.height = height, .width = 1, .rgb = column};
            for (int64_t y = 0; y < height; y++) {
                memcpy(column + 3 * y, rgb + 3 * (width * y + x), 3);
            }
            assert_int_equal(rf_resize_picture(&alone, n, 1, filter, &line, &one), RF_OK);
            for (int64_t y = 0; y < n; y++) {
                assert_memory_equal(all.rgb + 3 * (width * y + x), one.rgb + 3 * y, 3);
            }
            rf_picture_fini(&one);
        }
        rf_picture_fini(&all);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_decoding_shows_the_same_part_of_a_picture),
        cmocka_unit_test(fast_decoding_pads_and_crops_where_the_exact_way_does),
        cmocka_unit_test(a_reader_gives_the_same_whatever_it_read_before),
        cmocka_unit_test(the_exact_way_is_a_decode_and_a_transform),
        cmocka_unit_test(fast_decoding_leaves_what_is_not_a_jpeg_with_planes_as_it_is),
        cmocka_unit_test(damaged_pictures_are_refused_in_both_ways_and_the_next_one_is_read),
        cmocka_unit_test(a_loader_with_fast_decode_gives_what_a_fast_reader_gives),
        cmocka_unit_test(every_row_is_resized_across_as_if_it_were_alone),
        cmocka_unit_test(every_column_is_resized_down_as_if_it_were_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
