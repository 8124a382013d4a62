/* Writing and reading an activation store, against a plain file of the same blocks, written and
 * read from its begin to its end, on the same disk in the same run. The peak of memory is printed
 * for a store of a quarter of the size and for the whole one.
 * bench_store folder=DIR [mib=2048] [rounds=5] [cold=false]
 * Files are on the disk (fdatasync) when a write ends. Reads are of files in the page cache, as
 * those of a first epoch are; cold=true asks the system to forget them before. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../src/data/source_impl.h"

enum { MAX_ROUNDS = 99, ROWS = 50, WIDTH = 768, GROUP = 16, SITES = 2, N_PARTS = 4 };

static const char *const part_names[N_PARTS] = {"plain write", "store write", "plain read",
                                                "store read"};

typedef struct bench {
    char folder[RF_PATH_LEN - 32], store[RF_PATH_LEN], plain[RF_PATH_LEN];
    int64_t n_mib, n_rounds;
    bool is_cold;
    rf_backend *be;
    rf_stream *stream;
    rf_comm *comm;
    float *block; /* one group of a site */
    double seconds[N_PARTS][MAX_ROUNDS];
} bench;

static const size_t block_bytes = sizeof(float) * GROUP * ROWS * WIDTH;

static int64_t n_groups(const bench *b)
{
    return rf_max_i64(1, (b->n_mib << 20) / (int64_t)(block_bytes * SITES));
}

static rf_status forget(const bench *b, const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && b->is_cold) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    if (fd >= 0) {
        close(fd);
    }
    return RF_OK;
}

/* ---- plain -------------------------------------------------------------------------------------
 */

static rf_status plain_write(bench *b)
{
    rf_status status = RF_OK;
    rf_raw_file *f = NULL;
    const int64_t n = n_groups(b) * SITES;

    RF_TRY(rf_file_write_atomic(b->plain, "", 0));
    RF_TRY(rf_raw_file_open(b->plain, true, &f));
    for (int64_t i = 0; i < n; i++) {
        b->block[i % 1000] = (float)i;
        RF_TRY(rf_raw_file_write(f, i * (int64_t)block_bytes, b->block, (int64_t)block_bytes));
    }
    RF_TRY(rf_raw_file_sync(f));
fail:
    rf_raw_file_close(f);
    return status;
}

static rf_status plain_read(bench *b)
{
    rf_status status = RF_OK;
    rf_raw_file *f = NULL;
    RF_TRY(rf_raw_file_open(b->plain, false, &f));
    for (int64_t i = 0; i < n_groups(b) * SITES; i++) {
        RF_TRY(rf_raw_file_read(f, i * (int64_t)block_bytes, b->block, (int64_t)block_bytes));
    }
fail:
    rf_raw_file_close(f);
    return status;
}

/* ---- store -------------------------------------------------------------------------------------
 */

typedef struct description {
    rf_store_site sites[SITES];
    uint8_t classes[ROWS];
    int32_t positions[3 * ROWS];
    const char **names;
    int64_t *labels;
    rf_store_head head;
} description;

static rf_status describe(const bench *b, description *d)
{
    rf_status status = RF_OK;
    static const char *const points[SITES] = {"blocks.5.hook_resid_post",
                                              "blocks.9.hook_resid_post"};
    const int64_t n = n_groups(b) * GROUP;
    RF_ALLOC(d->names, n);
    RF_ALLOC(d->labels, n);
    memset(d->classes, RF_TOKENS_PATCH, sizeof d->classes);
    for (int64_t i = 0; i < n; i++) {
        d->names[i] = "picture.png";
    }
    for (int s = 0; s < SITES; s++) {
        d->sites[s] = (rf_store_site){.model = "",
                                      .point = points[s],
                                      .n_rows = ROWS,
                                      .point_rows = ROWS,
                                      .width = WIDTH,
                                      .classes = d->classes,
                                      .positions = d->positions};
    }
    d->head = (rf_store_head){.dtype = RF_F32,
                              .n_pictures = n,
                              .group_pictures = GROUP,
                              .sites = d->sites,
                              .n_sites = SITES,
                              .names = d->names,
                              .labels = d->labels,
                              .model = "benchmark",
                              .processing = "none",
                              .settings = ""};
fail:
    return status;
}

static rf_status store_write(bench *b)
{
    rf_status status = RF_OK;
    static description d;
    rf_store *store = NULL;
    uint8_t valid[GROUP];

    memset(valid, 1, sizeof valid);
    unlink(b->store);
    RF_TRY(describe(b, &d));
    RF_TRY(rf_store_create(b->comm, b->store, &d.head, &store));
    for (int64_t g = 0; g < n_groups(b); g++) {
        const void *blocks[SITES] = {b->block, b->block};
        b->block[g % 1000] = (float)g;
        RF_TRY(rf_store_write(store, g, blocks, valid));
    }
    RF_TRY(rf_store_flush(store));
fail:
    rf_store_close(store);
    rf_free(d.names);
    rf_free(d.labels);
    return status;
}

/* As training reads it: threads ahead, checksums looked at, groups in an order of their own. */
static rf_status read_groups(bench *b, rf_group_source source, const rf_site *sites)
{
    rf_status status = RF_OK;
    int64_t *pictures = NULL, *first = NULL;
    void *rows[SITES] = {NULL};
    uint8_t valid[GROUP];
    const int64_t n = n_groups(b);

    RF_ALLOC(pictures, n * GROUP);
    RF_ALLOC(first, n + 1);
    for (int64_t g = 0; g < n; g++) {
        const int64_t group = rf_permute(1, RF_RANDOM_GROUP_ORDER, 0, 0, n, g);
        for (int64_t i = 0; i < GROUP; i++) {
            pictures[g * GROUP + i] = group * GROUP + i;
        }
        first[g + 1] = first[g] + GROUP;
    }
    for (int s = 0; s < SITES; s++) {
        RF_TRY(rf_memory_alloc(b->be, RF_MEMORY_DEVICE, block_bytes, &rows[s]));
    }
    RF_TRY(source.start(source.self, pictures, first, n));
    for (int64_t g = 0; g < n; g++) {
        RF_TRY(source.next(source.self, sites, SITES, GROUP, rows, valid));
    }
fail:
    for (int s = 0; s < SITES; s++) {
        rf_memory_free(b->be, RF_MEMORY_DEVICE, rows[s]);
    }
    rf_free(first);
    rf_free(pictures);
    return status;
}

static rf_status store_read(bench *b)
{
    rf_status status = RF_OK;
    rf_store *store = NULL;
    rf_group_source source = {0};
    rf_site sites[SITES] = {{0}};

    RF_TRY(rf_store_open(b->store, &store));
    RF_TRY(rf_store_check_finished(store));
    for (int s = 0; s < SITES; s++) {
        const rf_store_site *held = &rf_store_get_head(store)->sites[s];
        sites[s] = (rf_site){.n_rows = ROWS, .point = {.width = WIDTH}};
        RF_TRY(rf_format(sites[s].point.name, sizeof sites[s].point.name, "%s", held->point));
    }
    const rf_activation_stream_opts opts = {.stream = b->stream, .store = store, .read_threads = 2};
    RF_TRY(rf_store_source_create(&opts, sites, SITES, &source));
    RF_TRY(read_groups(b, source, sites));
fail:
    if (source.destroy != NULL) {
        source.destroy(source.self);
    }
    rf_store_close(store);
    return status;
}

/* ---- the run -----------------------------------------------------------------------------------
 */

static double peak_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(bench *b)
{
    const double mib = (double)(n_groups(b) * SITES) * (double)block_bytes / (1 << 20);
    const int64_t n = b->n_rounds;
    double median[N_PARTS];
    printf("%.0f MiB, %s, %" PRId64 " rounds; MiB/s\n%-12s %9s %9s %9s\n", mib,
           b->is_cold ? "page cache dropped before reads" : "page cache warm", n, "", "min",
           "median", "max");
    for (int p = 0; p < N_PARTS; p++) {
        qsort(b->seconds[p], (size_t)n, sizeof b->seconds[p][0], compare);
        median[p] = mib / b->seconds[p][n / 2];
        printf("%-12s %9.0f %9.0f %9.0f\n", part_names[p], mib / b->seconds[p][n - 1], median[p],
               mib / b->seconds[p][0]);
    }
    printf("ratio to the plain file, medians: write %.2f, read %.2f\n", median[1] / median[0],
           median[3] / median[2]);
}

static rf_status run_rounds(bench *b)
{
    rf_status status = RF_OK;
    rf_status (*const parts[N_PARTS])(bench *) = {plain_write, store_write, plain_read, store_read};
    for (int64_t r = 0; r < b->n_rounds; r++) {
        for (int p = 0; p < N_PARTS; p++) {
            RF_TRY(forget(b, p == 2 ? b->plain : b->store));
            const double start = rf_now();
            RF_TRY(parts[p](b));
            b->seconds[p][r] = rf_now() - start;
        }
    }
fail:
    return status;
}

static rf_status run(bench *b)
{
    rf_status status = RF_OK;
    const int64_t whole = b->n_mib, rounds = b->n_rounds;

    RF_TRY(rf_format(b->store, sizeof b->store, "%s/bench.h5", b->folder));
    RF_TRY(rf_format(b->plain, sizeof b->plain, "%s/bench.bin", b->folder));
    b->n_mib = rf_max_i64(1, whole / 4);
    b->n_rounds = 1;
    RF_TRY(run_rounds(b));
    const double quarter = peak_mib();
    b->n_mib = whole;
    b->n_rounds = rounds;
    RF_TRY(run_rounds(b));
    report(b);
    printf("peak of memory: %.1f MiB for a quarter, %.1f MiB for the whole\n", quarter, peak_mib());
fail:
    unlink(b->store);
    unlink(b->plain);
    return status;
}

static rf_status parse(bench *b, int argc, char **argv)
{
    rf_status status = RF_OK;
    for (int i = 1; i < argc; i++) {
        const char *value = strchr(argv[i], '=');
        value = value != NULL ? value + 1 : "";
        if (strncmp(argv[i], "folder=", 7) == 0) {
            RF_TRY(rf_format(b->folder, sizeof b->folder, "%s", value));
        } else if (strncmp(argv[i], "mib=", 4) == 0) {
            RF_TRY(rf_parse_i64(value, &b->n_mib));
        } else if (strncmp(argv[i], "rounds=", 7) == 0) {
            RF_TRY(rf_parse_i64(value, &b->n_rounds));
        } else if (strcmp(argv[i], "cold=true") == 0) {
            b->is_cold = true;
        } else {
            RF_FAIL(RF_ERR_USAGE, "'%s': expected folder=, mib=, rounds= or cold=true", argv[i]);
        }
    }
    if (b->folder[0] == '\0' || b->n_mib < 1 || b->n_rounds < 1 || b->n_rounds > MAX_ROUNDS) {
        RF_FAIL(RF_ERR_USAGE, "bench_store folder=DIR [mib=2048] [rounds=5] [cold=true]");
    }
fail:
    return status;
}

int main(int argc, char **argv)
{
    rf_status status = RF_OK;
    static bench b = {.n_mib = 2048, .n_rounds = 5};

    RF_TRY(rf_comm_start(&argc, &argv, &b.comm));
    RF_TRY(parse(&b, argc, argv));
    RF_TRY(rf_backend_cpu_create(1, &b.be));
    RF_TRY(rf_stream_create(b.be, &b.stream));
    RF_ALLOC(b.block, (int64_t)(block_bytes / sizeof(float)));
    RF_TRY(run(&b));
fail:
    if (status != RF_OK) {
        fprintf(stderr, "bench_store: %s\n", rf_error_text());
    }
    rf_free(b.block);
    rf_stream_destroy(b.stream);
    rf_backend_destroy(b.be);
    rf_comm_finish(b.comm);
    return status == RF_OK ? 0 : 1;
}
