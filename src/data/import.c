/* Activations that other tools wrote, made into a store group by group. */
#include "import_impl.h"

#include <math.h>

/* ---- settings ----------------------------------------------------------------------------------
 */

#define FIELD(name) .offset = offsetof(rf_import_settings, name)

static const char *const dtypes[] = {"fp32", "fp16", "bf16", NULL};
static const char *const middles[] = {"auto", "rows", "layers", NULL};
static const char *const cls_words[] = {"auto", "first", "none", NULL};

#define TEXT(field, words)                                                                         \
    {                                                                                              \
        .key = #field, .type = RF_SETTING_TEXT, FIELD(field),                                      \
        .size = sizeof((rf_import_settings *)0)->field, .fallback = "", .unit = "", .help = words  \
    }
#define CHOICE(field, first, among, words)                                                         \
    {                                                                                              \
        .key = #field, .type = RF_SETTING_CHOICE, FIELD(field), .fallback = first,                 \
        .choices = among, .unit = "", .help = words                                                \
    }
#define COUNT(field, most, of, words)                                                              \
    {                                                                                              \
        .key = #field, .type = RF_SETTING_I64, FIELD(field), .fallback = "0", .max = most,         \
        .unit = of, .help = words                                                                  \
    }

static const rf_setting rows[] = {
    TEXT(out, "The store that is written; where it is there and not finished, it is gone on with."),
    CHOICE(dtype, "fp32", dtypes, "Type of the store."),
    COUNT(group_pictures, 65536, "pictures",
          "Consecutive pictures that stay together; 0 is 16, or 4096 where a picture is one row."),
    TEXT(point, "Hook point that the activations are of, with {layer} where there are several; "
                "empty is 'activations', of saev's shards blocks.{layer}.hook_resid_post."),
    TEXT(tensor, "Which tensor of each file; empty is the only one of 2 to 4 dimensions."),
    TEXT(layers, "Layers that are taken, as 3,6,9 or 0..11; empty is all."),
    TEXT(numbers, "Numbers of the layers of files that do not say them, in order; empty is 0, 1, "
                  "2 ..."),
    COUNT(rows, 1 << 20, "tokens",
          "Tokens of a picture, of files that are one list of tokens; 0 is one."),
    CHOICE(middle, "auto", middles,
           "What the middle axis of three is; auto is layers in PyTorch's files, else rows."),
    CHOICE(cls, "auto", cls_words,
           "Whether the first row of a picture is its CLS token; auto is what the files say, else "
           "none."),
    COUNT(registers, 1 << 16, "tokens", "Register tokens, behind the CLS token."),
    TEXT(grid, "Rows and columns of patches, as 14x14; empty is a square, none is not known."),
    TEXT(labels, "npy file with the class of each picture; -1 is none."),
    TEXT(names, "Text file with the name of each picture, one a line; empty numbers them."),
};

const rf_settings_table rf_import_settings_table = {
    .section = "import",
    .help = "Activations that other tools wrote.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
};

/* ---- writing -----------------------------------------------------------------------------------
 */

typedef struct importer {
    const rf_comm *comm;
    rf_import files;
    rf_import_head head;
    rf_store *store;
    rf_backend *be; /* what rounds numbers */
    rf_stream *stream;
    void **blocks; /* [n_sites] */
    float *values; /* of one block */
    uint8_t *valid;
    int64_t *groups, n_groups; /* this rank's, in order */
    int64_t n_all;             /* over ranks */
    int64_t counts[2];         /* not finite, too large */
} importer;

static void importer_fini(importer *im)
{
    for (int64_t s = 0; im->blocks != NULL && s < im->head.head.n_sites; s++) {
        rf_free(im->blocks[s]);
    }
    rf_free(im->groups);
    rf_free(im->valid);
    rf_free(im->values);
    rf_free(im->blocks);
    rf_stream_destroy(im->stream);
    rf_backend_destroy(im->be);
    rf_store_close(im->store);
    rf_import_head_fini(&im->head);
    rf_import_close(&im->files);
}

/* Missing groups are dealt out in turn; what one rank finds missing must not depend on how far
 * another has come. Collective. */
static rf_status deal(importer *im)
{
    rf_status status = RF_OK;
    const int64_t size = rf_comm_size(im->comm), rank = rf_comm_rank(im->comm);

    RF_ALLOC(im->groups, rf_store_n_groups(im->store));
    for (int64_t g = 0; g < rf_store_n_groups(im->store); g++) {
        bool has = false;
        RF_TRY(rf_store_has(im->store, g, &has));
        if (!has && im->n_all++ % size == rank) {
            im->groups[im->n_groups++] = g;
        }
    }
fail:
    return rf_comm_agree(im->comm, status);
}

static rf_status reserve(importer *im)
{
    rf_status status = RF_OK;
    const rf_store_head *head = &im->head.head;

    RF_ALLOC(im->blocks, head->n_sites);
    for (int64_t s = 0; s < head->n_sites; s++) {
        uint8_t *block = NULL;
        RF_ALLOC(block, rf_store_block_bytes(im->store, 0, s));
        im->blocks[s] = block;
    }
    RF_ALLOC(im->values, head->group_pictures * im->files.picture_rows * im->files.layout.width);
    RF_ALLOC(im->valid, head->group_pictures);
    for (int64_t i = 0; i < head->group_pictures; i++) {
        im->valid[i] = 1;
    }
    RF_TRY(rf_backend_cpu_create(1, &im->be));
    RF_TRY(rf_stream_create(im->be, &im->stream));
fail:
    return status;
}

/* Numbers that no coder can use are kept and told of. */
static void count(importer *im, int64_t n)
{
    static const float limits[] = {/* what is rounded to infinity */
                                   [RF_F32] = INFINITY,
                                   [RF_F16] = 65520.0f,
                                   [RF_BF16] = 0x1.ffp127f};
    const float limit = limits[im->head.head.dtype];
    int64_t n_not_finite = 0, n_too_large = 0;
    for (int64_t i = 0; i < n; i++) {
        const float size = fabsf(im->values[i]);
        n_not_finite += !(size < INFINITY);
        n_too_large += size >= limit && size < INFINITY;
    }
    im->counts[0] += n_not_finite;
    im->counts[1] += n_too_large;
}

static rf_status write_group(importer *im, int64_t group)
{
    rf_status status = RF_OK;
    const rf_store_head *head = &im->head.head;
    int64_t first = 0;
    const int64_t rows_each = im->files.picture_rows;
    const int64_t n_rows = rf_store_group(im->store, group, &first) * rows_each;
    const int64_t shape[2] = {n_rows, im->files.layout.width};

    for (int64_t s = 0; s < head->n_sites; s++) {
        RF_TRY(
            rf_import_read(&im->files, im->head.layers[s], first * rows_each, n_rows, im->values));
        count(im, n_rows * im->files.layout.width);
        const rf_view from = rf_view_nd(im->values, RF_F32, 2, shape);
        const rf_view to = rf_view_nd(im->blocks[s], head->dtype, 2, shape);
        RF_TRY(rf_convert(im->stream, &from, &to));
        RF_TRY(rf_stream_synchronise(im->stream));
    }
    RF_TRY(rf_store_write(im->store, group, (const void *const *)im->blocks, im->valid));
fail:
    return status;
}

/* Ranks agree after each round, so that none goes on alone. Collective. */
static rf_status write_groups(importer *im, int64_t *n_written)
{
    rf_status status = RF_OK;
    const int64_t n_rounds = rf_ceil_div(im->n_all, rf_comm_size(im->comm));

    for (int64_t round = 0; round < n_rounds && status == RF_OK; round++) {
        status = round < im->n_groups ? write_group(im, im->groups[round]) : RF_OK;
        if (status == RF_OK && rf_interrupt_pending() != 0) {
            status = rf_error_raise(RF_ERR_INTERRUPTED, __FILE__, __LINE__, "stopped by signal %d",
                                    rf_interrupt_pending());
        }
        status = rf_comm_agree(im->comm, status);
        if (status == RF_OK || status == RF_ERR_INTERRUPTED) {
            *n_written = rf_min_i64(im->n_all, (round + 1) * rf_comm_size(im->comm));
        }
        if (rf_comm_rank(im->comm) == 0) {
            rf_progress("import", *n_written, im->n_all, "groups");
        }
    }
    return status == RF_OK ? rf_comm_agree(im->comm, rf_store_flush(im->store)) : status;
}

static rf_status prepare(importer *im, const char *path, const rf_import_settings *settings)
{
    rf_status status = RF_OK;
    if (settings->out[0] == '\0') {
        RF_FAIL(RF_ERR_SETTING, "importing '%s': out= says which store to write", path);
    }
    RF_TRY(rf_import_open(path, settings, &im->files));
    RF_TRY(rf_import_describe(&im->files, settings, path, &im->head));
fail:
    return status;
}

rf_status rf_import_run(const rf_comm *comm, const char *path, const rf_import_settings *settings,
                        rf_import_report *report)
{
    rf_status status = RF_OK;
    const double start = rf_now();
    importer im = {.comm = comm};

    *report = (rf_import_report){0};
    RF_TRY(rf_comm_agree(comm, prepare(&im, path, settings)));
    RF_TRY_DOING(rf_store_create(comm, settings->out, &im.head.head, &im.store), "importing '%s'",
                 path);
    RF_TRY(deal(&im));
    RF_TRY(rf_comm_agree(comm, reserve(&im)));
    *report = (rf_import_report){.kind = im.files.kind,
                                 .n_sites = im.head.head.n_sites,
                                 .n_pictures = im.head.head.n_pictures,
                                 .n_groups = rf_store_n_groups(im.store)};
    for (int64_t s = 0; s < report->n_sites; s++) {
        report->n_bytes += (double)report->n_pictures * (double)im.files.picture_rows *
                           (double)im.files.layout.width *
                           (double)rf_dtype_bytes(im.head.head.dtype);
    }
    RF_TRY(write_groups(&im, &report->n_written));
    RF_TRY(rf_comm_sum_i64(comm, im.counts, 2));
    report->n_not_finite = im.counts[0];
    report->n_too_large = im.counts[1];
fail:
    report->seconds = rf_now() - start;
    importer_fini(&im);
    return status;
}
