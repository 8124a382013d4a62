/* Pictures a second of decode + transform as CLIP wants it (shorter side to 224 bicubic, centre
 * crop, normalised), from files in memory: exact, fast_decode, and libjpeg-turbo's decoding alone,
 * which no exact reader can do without. bench_images [folder=DIR] [threads=N] [rounds=N]
 * [only=PART] [brief=true] Without a folder: one JPEG of 500 x 375 that is made here. Every part
 * has its turn in every round, or one alone, for a profiler, and how far fast is from exact is said
 * at the end; brief prints a line "part pictures/s" for each, for scripts. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include "refract/pictures.h"

enum { MAX_ROUNDS = 1000, MAX_THREADS = 64, N_PARTS = 3 };

static const char *const part_names[N_PARTS] = {"exact", "fast", "decode"};

typedef struct file {
    char *bytes;
    int64_t n_bytes;
    char *name;
} file;

typedef struct bench {
    file *files;
    int64_t n_files, n_threads, n_rounds;
    char folder[RF_PATH_LEN];
    int first_part, n_parts; /* those that have turns */
    bool is_brief;
    double times[N_PARTS][MAX_ROUNDS];
} bench;

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

static rf_status make_jpeg(int64_t width, int64_t height, file *out)
{
    rf_status status = RF_OK;
    unsigned char *bytes = NULL;
    unsigned long n_bytes = 0;
    uint8_t *row = NULL;
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    RF_ALLOC(row, 3 * width);
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, &bytes, &n_bytes);
    jpeg.image_width = (JDIMENSION)width;
    jpeg.image_height = (JDIMENSION)height;
    jpeg.input_components = 3;
    jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&jpeg); /* 4:2:0 */
    jpeg_set_quality(&jpeg, 90, TRUE);
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
    out->n_bytes = (int64_t)n_bytes;
    RF_ALLOC(out->bytes, out->n_bytes);
    memcpy(out->bytes, bytes, n_bytes);
    out->name = rf_strdup("made here");
    RF_REQUIRE(out->name != NULL, "out of memory");
fail:
    free(bytes); /* jpeg_mem_dest took it from malloc */
    rf_free(row);
    return status;
}

static rf_status load_files(bench *b)
{
    rf_status status = RF_OK;
    char **names = NULL, path[RF_PATH_LEN];
    int64_t n_names = 0;
    RF_TRY(rf_file_list(b->folder, &names, &n_names));
    RF_ALLOC(b->files, n_names);
    for (int64_t i = 0; i < n_names; i++) {
        if (rf_picture_is_name(names[i])) {
            file *f = &b->files[b->n_files];
            RF_TRY(rf_path_join(path, b->folder, names[i]));
            RF_TRY(rf_picture_read(path, &f->bytes, &f->n_bytes));
            f->name = rf_strdup(path);
            RF_REQUIRE(f->name != NULL, "out of memory");
            b->n_files++;
        }
    }
    RF_REQUIRE(b->n_files > 0, "%s: no pictures", b->folder);
fail:
    rf_file_list_free(names, n_names);
    return status;
}

/* A thread's share: every n_threads-th file. */
typedef struct share {
    const bench *b;
    int part;
    int64_t first;
    rf_status status;
    char text[RF_ERROR_TEXT_LEN];
} share;

/* Values as the model takes them, [3, 224, 224]. */
static rf_status to_values(rf_stream *s, uint8_t *bytes, float *levels, float *values)
{
    return rf_pixel_values(
        s, &(rf_pixel_values_args){
               .pixels = rf_view_nd(bytes, RF_U8, 4, (int64_t[]){1, 224, 224, 3}),
               .levels = rf_view_2d(levels, 3, 256),
               .images = rf_view_nd(values, RF_F32, 4, (int64_t[]){1, 3, 224, 224})});
}

static rf_status run_share(const share *s)
{
    rf_status status = RF_OK;
    rf_picture p = {0};
    rf_image_reader *reader = NULL;
    rf_backend *be = NULL;
    rf_stream *stream = NULL;
    uint8_t *bytes = NULL;
    float *values = NULL, levels[3 * 256];
    RF_ALLOC(bytes, 3 * 224 * 224);
    RF_ALLOC(values, 3 * 224 * 224);
    RF_TRY(rf_backend_cpu_create(1, &be));
    RF_TRY(rf_stream_create(be, &stream));
    RF_TRY(rf_image_reader_create(&clip, s->part == 1, &reader));
    rf_transform_levels(&clip, levels);
    for (int64_t i = s->first; i < s->b->n_files; i += s->b->n_threads) {
        const file *f = &s->b->files[i];
        if (s->part == 2) {
            RF_TRY(rf_picture_decode_into(f->bytes, f->n_bytes, f->name, &p));
        } else {
            RF_TRY(rf_image_reader_read(reader, f->bytes, f->n_bytes, f->name, bytes));
            RF_TRY(to_values(stream, bytes, levels, values));
        }
    }
fail:
    rf_picture_fini(&p);
    rf_image_reader_destroy(reader);
    rf_stream_destroy(stream);
    rf_backend_destroy(be);
    rf_free(bytes);
    rf_free(values);
    return status;
}

static void *thread_main(void *arg)
{
    share *s = arg;
    s->status = run_share(s);
    if (s->status != RF_OK) {
        snprintf(s->text, sizeof s->text, "%s", rf_error_text());
    }
    return NULL;
}

static rf_status run_part(const bench *b, int part, double *seconds)
{
    rf_status status = RF_OK;
    pthread_t threads[MAX_THREADS];
    share shares[MAX_THREADS];
    const double begin = rf_now();
    for (int64_t i = 0; i < b->n_threads; i++) {
        shares[i] = (share){.b = b, .part = part, .first = i};
        RF_REQUIRE(pthread_create(&threads[i], NULL, thread_main, &shares[i]) == 0, "no thread");
    }
    for (int64_t i = 0; i < b->n_threads; i++) {
        pthread_join(threads[i], NULL);
        status = status == RF_OK ? rf_error_restore(shares[i].status, shares[i].text) : status;
    }
    *seconds = rf_now() - begin;
fail:
    return status;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_parts(bench *b)
{
    const double n = (double)b->n_files;
    double median[N_PARTS];
    if (!b->is_brief) {
        printf("%d pictures, %d threads, %d rounds; ms of a picture\n", (int)b->n_files,
               (int)b->n_threads, (int)b->n_rounds);
        printf("%-8s %9s %9s %9s %12s%s\n", "part", "min", "median", "max", "pictures/s",
               b->n_parts == N_PARTS ? "    part / decode" : "");
    }
    const int end = b->first_part + b->n_parts;
    for (int part = b->first_part; part < end; part++) {
        qsort(b->times[part], (size_t)b->n_rounds, sizeof(double), compare);
        median[part] = b->times[part][b->n_rounds / 2];
    }
    for (int part = b->first_part; part < end; part++) {
        const double *t = b->times[part];
        if (b->is_brief) {
            printf("%s %.1f\n", part_names[part], n / median[part]);
        } else {
            printf("%-8s %9.3f %9.3f %9.3f %12.0f", part_names[part], 1e3 * t[0] / n,
                   1e3 * median[part] / n, 1e3 * t[b->n_rounds - 1] / n, n / median[part]);
            if (b->n_parts == N_PARTS) {
                printf(" %16.2f", median[part] / median[N_PARTS - 1]);
            }
            printf("\n");
        }
    }
}

/* What a model sees of fast less what it sees of exact, over all files. */
static rf_status print_difference(const bench *b)
{
    rf_status status = RF_OK;
    enum { SIDE = 224, N = 3 * SIDE * SIDE };
    rf_image_reader *readers[2] = {NULL, NULL};
    uint8_t *bytes = NULL;
    float levels[3 * 256];
    double sum = 0.0, worst = 0.0;
    RF_ALLOC(bytes, 2 * N);
    RF_TRY(rf_image_reader_create(&clip, false, &readers[0]));
    RF_TRY(rf_image_reader_create(&clip, true, &readers[1]));
    rf_transform_levels(&clip, levels);
    for (int64_t i = 0; i < b->n_files; i++) {
        const file *f = &b->files[i];
        for (int way = 0; way < 2; way++) {
            RF_TRY(
                rf_image_reader_read(readers[way], f->bytes, f->n_bytes, f->name, bytes + way * N));
        }
        for (int k = 0; k < N; k++) {
            const float *row = levels + 256 * (k % 3);
            const double d = fabs((double)row[bytes[N + k]] - (double)row[bytes[k]]);
            sum += d;
            worst = fmax(worst, d);
        }
    }
    printf("fast - exact, normalised pixels: mean %.4f, largest %.2f\n",
           sum / (double)(b->n_files * N), worst);
fail:
    rf_image_reader_destroy(readers[0]);
    rf_image_reader_destroy(readers[1]);
    rf_free(bytes);
    return status;
}

static rf_status choose_part(const char *name, bench *b)
{
    rf_status status = RF_OK;
    b->n_parts = 1;
    for (b->first_part = 0; b->first_part < N_PARTS; b->first_part++) {
        if (strcmp(name, part_names[b->first_part]) == 0) {
            return RF_OK;
        }
    }
    RF_REQUIRE(false, "only=%s: expected exact, fast or decode", name);
fail:
    return status;
}

static rf_status read_arguments(int argc, char **argv, bench *b)
{
    rf_status status = RF_OK;
    b->n_threads = 1;
    b->n_rounds = 15;
    b->n_parts = N_PARTS;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "folder=", 7) == 0) {
            RF_TRY(rf_format(b->folder, sizeof b->folder, "%s", argv[i] + 7));
        } else if (strncmp(argv[i], "threads=", 8) == 0) {
            RF_TRY(rf_parse_i64(argv[i] + 8, &b->n_threads));
        } else if (strncmp(argv[i], "rounds=", 7) == 0) {
            RF_TRY(rf_parse_i64(argv[i] + 7, &b->n_rounds));
        } else if (strncmp(argv[i], "only=", 5) == 0) {
            RF_TRY(choose_part(argv[i] + 5, b));
        } else if (strcmp(argv[i], "brief=true") == 0) {
            b->is_brief = true;
        } else {
            RF_REQUIRE(false,
                       "%s: expected folder=DIR, threads=N, rounds=N, only=PART or brief=true",
                       argv[i]);
        }
    }
    RF_REQUIRE(b->n_threads >= 1 && b->n_threads <= MAX_THREADS && b->n_rounds >= 1 &&
                   b->n_rounds <= MAX_ROUNDS,
               "threads are 1 to %d, rounds 1 to %d", (int)MAX_THREADS, (int)MAX_ROUNDS);
fail:
    return status;
}

static rf_status run_all(int argc, char **argv, bench *b)
{
    rf_status status = RF_OK;
    double ignored;
    RF_TRY(read_arguments(argc, argv, b));
    if (b->folder[0] != '\0') {
        RF_TRY(load_files(b));
    } else {
        RF_ALLOC(b->files, 1);
        RF_TRY(make_jpeg(500, 375, b->files));
        b->n_files = 1;
        b->n_threads = 1;
    }
    for (int64_t i = -1; i < b->n_rounds; i++) { /* one to warm up */
        for (int part = b->first_part; part < b->first_part + b->n_parts; part++) {
            RF_TRY(run_part(b, part, i < 0 ? &ignored : &b->times[part][i]));
        }
    }
    print_parts(b);
    if (!b->is_brief && b->n_parts == N_PARTS) {
        RF_TRY(print_difference(b));
    }
fail:
    return status;
}

int main(int argc, char **argv)
{
    static bench b;
    const rf_status status = run_all(argc, argv, &b);
    if (status != RF_OK) {
        fprintf(stderr, "bench_images: %s\n", rf_error_text());
    }
    for (int64_t i = 0; i < b.n_files; i++) {
        rf_free(b.files[i].bytes);
        rf_free(b.files[i].name);
    }
    rf_free(b.files);
    return status == RF_OK ? 0 : 1;
}
