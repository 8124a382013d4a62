/* Pictures a second of one thread: a JPEG that is made here, decoded, and transformed as CLIP wants
 * it (shorter side to 224 bicubic, centre crop, normalised).
 *   bench_images [width height]      default 500 375 */
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

#include "refract/data.h"

enum { N_RUNS = 101, N_PARTS = 3 };

static const rf_transform clip = {.shortest_edge = 224,
                                  .filter = RF_RESIZE_BICUBIC,
                                  .crop_height = 224,
                                  .crop_width = 224,
                                  .scale = 1.0 / 255.0,
                                  .normalise = true,
                                  .mean = {0.48145466F, 0.4578275F, 0.40821073F},
                                  .std = {0.26862954F, 0.26130258F, 0.27577711F}};

/* Smooth waves, edges and noise: about as many bytes as a photograph of this size. */
static uint8_t sample(int64_t x, int64_t y, int c)
{
    uint32_t r[4];
    rf_random_u32x4(0, RF_RANDOM_TEST, (uint64_t)x, (uint64_t)y, r);
    int64_t wave = (x * (3 + c) / 7 + y * y / 97) % 256;
    int64_t edge = (x / 37 + y / 29) % 2 * 40;
    return (uint8_t)((wave / 2 + edge + (int64_t)(r[c] % 16)) % 256);
}

static unsigned char *make_jpeg(int64_t width, int64_t height, unsigned long *n_bytes)
{
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    unsigned char *bytes = NULL;
    uint8_t *row = rf_calloc(3 * width, 1);
    if (row == NULL) {
        return NULL;
    }
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, &bytes, n_bytes);
    jpeg.image_width = (JDIMENSION)width;
    jpeg.image_height = (JDIMENSION)height;
    jpeg.input_components = 3;
    jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&jpeg); /* 4:2:0 */
    jpeg_set_quality(&jpeg, 85, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    for (int64_t y = 0; y < height; y++) {
        for (int64_t x = 0; x < width; x++) {
            for (int c = 0; c < 3; c++) {
                row[3 * x + c] = sample(x, y, c);
            }
        }
        JSAMPROW rows[1] = {row};
        jpeg_write_scanlines(&jpeg, rows, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    rf_free(row);
    return bytes;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static rf_status run_once(const unsigned char *bytes, unsigned long n_bytes, float *out,
                          double seconds[N_PARTS])
{
    rf_status status = RF_OK;
    rf_picture p = {0};
    double begin = rf_now();
    RF_TRY(rf_picture_decode(bytes, (int64_t)n_bytes, "made here", &p));
    double middle = rf_now();
    RF_TRY(rf_transform_apply(&clip, &p, out));
    double end = rf_now();
    seconds[0] = middle - begin;
    seconds[1] = end - middle;
    seconds[2] = end - begin;
fail:
    rf_picture_fini(&p);
    return status;
}

static void print_parts(double times[N_PARTS][N_RUNS])
{
    static const char *const names[N_PARTS] = {"decode", "transform", "both"};
    printf("%-10s %9s %9s %9s %12s\n", "part", "min ms", "median", "max", "pictures/s");
    for (int part = 0; part < N_PARTS; part++) {
        double *t = times[part];
        qsort(t, N_RUNS, sizeof *t, compare);
        printf("%-10s %9.3f %9.3f %9.3f %12.0f\n", names[part], 1e3 * t[0], 1e3 * t[N_RUNS / 2],
               1e3 * t[N_RUNS - 1], 1.0 / t[N_RUNS / 2]);
    }
    printf("ratio %.2f (both over decode, which is libjpeg-turbo's)\n",
           times[2][N_RUNS / 2] / times[0][N_RUNS / 2]);
}

int main(int argc, char **argv)
{
    static double times[N_PARTS][N_RUNS];
    int64_t width = 500, height = 375;
    unsigned long n_bytes = 0;
    if (argc == 3 &&
        (rf_parse_i64(argv[1], &width) != RF_OK || rf_parse_i64(argv[2], &height) != RF_OK)) {
        fprintf(stderr, "%s\n", rf_error_text());
        return 2;
    }
    if ((argc != 1 && argc != 3) || width < 1 || width > 65500 || height < 1 || height > 65500) {
        fprintf(stderr, "usage: bench_images [width height], each 1 to 65500\n");
        return 2;
    }
    unsigned char *bytes = make_jpeg(width, height, &n_bytes);
    float *out = rf_calloc(3 * 224 * 224, sizeof *out);
    if (bytes == NULL || out == NULL) {
        fprintf(stderr, "out of memory\n");
        return 1;
    }
    printf("JPEG of %d x %d pixels, %lu bytes, %d runs\n", (int)width, (int)height, n_bytes,
           (int)N_RUNS);
    for (int i = -3; i < N_RUNS; i++) { /* three to warm up */
        double seconds[N_PARTS];
        if (run_once(bytes, n_bytes, out, seconds) != RF_OK) {
            fprintf(stderr, "%s\n", rf_error_text());
            return 1;
        }
        for (int part = 0; i >= 0 && part < N_PARTS; part++) {
            times[part][i] = seconds[part];
        }
    }
    print_parts(times);
    rf_free(out);
    free(bytes); /* jpeg_mem_dest took it from malloc */
    return 0;
}
