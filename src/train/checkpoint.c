/* Reading the HDF5 file that holds what the next steps depend on: docs/format-checkpoint.md. */
#include "checkpoint_impl.h"

#include <math.h>
#include <string.h>

static rf_status read_i64(const rf_h5_file *f, const char *name, int64_t *values, int64_t n)
{
    return rf_h5_read(f, name, RF_H5_I64, 1, &n, values);
}

/* ---- read --------------------------------------------------------------------------------------
 */

void rf_checkpoint_header_fini(rf_checkpoint_header *header)
{
    rf_free(header->weight_processing);
    rf_free(header->settings);
    rf_free(header->backend);
    *header = (rf_checkpoint_header){0};
}

/* `out` (may be NULL) gets the version. */
static rf_status read_format(const rf_h5_file *f, const char *path, int64_t *out)
{
    rf_status status = RF_OK;
    char *text = NULL;
    int64_t version = 0;

    RF_TRY(rf_h5_read_text(f, "format", &text));
    if (strcmp(text, RF_CHECKPOINT_FORMAT) != 0) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is no checkpoint: its format is '%.40s'", path, text);
    }
    RF_TRY(read_i64(f, "version", &version, 1));
    if (version == 1) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s' has format version 1: it is of a Refract whose coders were topk and relu "
                "only and held other state. Version %d is read here: train anew, or read it with "
                "the program that wrote it",
                path, RF_CHECKPOINT_VERSION);
    }
    if (version < RF_CHECKPOINT_OLDEST || version > RF_CHECKPOINT_VERSION) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' has format version %" PRId64 ", expected %d to %d", path,
                version, RF_CHECKPOINT_OLDEST, RF_CHECKPOINT_VERSION);
    }
    if (out != NULL) {
        *out = version;
    }
fail:
    rf_free(text);
    return status;
}

/* Which coders are there. */
static rf_status read_held(const rf_h5_file *f, const char *path, int64_t version,
                           rf_checkpoint_header *out)
{
    rf_status status = RF_OK;
    int64_t held[2] = {0, out->n_coders};
    if (version > RF_CHECKPOINT_OLDEST) {
        RF_TRY(read_i64(f, "held", held, 2));
    }
    if (held[0] < 0 || held[1] < 1 || held[1] > out->n_coders ||
        held[0] > out->n_coders - held[1]) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s' holds %" PRId64 " coders from number %" PRId64
                " on, and its run has %" PRId64,
                path, held[1], held[0], out->n_coders);
    }
    out->first = held[0];
    out->n_held = held[1];
fail:
    return status;
}

static rf_status read_header(const rf_h5_file *f, const char *path, rf_checkpoint_header *out)
{
    rf_status status = RF_OK;
    int64_t picture_hash = 0, model_hash = 0, version = 0;

    RF_TRY(read_format(f, path, &version));
    RF_TRY(read_i64(f, "tick", &out->tick, 1));
    RF_TRY(read_i64(f, "n_coders", &out->n_coders, 1));
    RF_TRY(read_i64(f, "picture_hash", &picture_hash, 1));
    RF_TRY(read_i64(f, "model_hash", &model_hash, 1));
    RF_TRY(rf_h5_read_text(f, "weight_processing", &out->weight_processing));
    RF_TRY(rf_h5_read_text(f, "settings", &out->settings));
    RF_TRY(rf_h5_read_text(f, "backend", &out->backend));
    out->picture_hash = (uint64_t)picture_hash;
    out->model_hash = (uint64_t)model_hash;
    if (out->tick < 0 || out->n_coders < 1 || out->n_coders > RF_MAX_CODERS) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': tick %" PRId64 ", %" PRId64 " coders: expected >= 0, 1 to %d",
                path, out->tick, out->n_coders, RF_MAX_CODERS);
    }
    RF_TRY(read_held(f, path, version, out));
fail:
    return status;
}

rf_status rf_checkpoint_read_header(const char *path, rf_checkpoint_header *out)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;

    *out = (rf_checkpoint_header){0};
    RF_TRY(rf_h5_open(path, &f));
    RF_TRY(read_header(f, path, out));
fail:
    rf_h5_close(f);
    if (status != RF_OK) {
        rf_checkpoint_header_fini(out);
    }
    return status;
}

/* `f` is NULL on the ranks that do not read. `comm` NULL: there are none. */
typedef struct reader {
    const rf_comm *comm;
    const rf_h5_file *f;
    const char *path;
    rf_stream *s;
} reader;

static bool reads(const reader *r)
{
    return r->comm == NULL || rf_comm_rank(r->comm) == 0;
}

/* Everybody gets what rank 0 read. */
static rf_status share(const reader *r, rf_status status, void *data, int64_t n_bytes)
{
    status = rf_checkpoint_agree(r->comm, status);
    if (status == RF_OK && r->comm != NULL) {
        status = rf_comm_bcast(r->comm, data, n_bytes, 0);
    }
    return status;
}

/* Whole numbers are counts. */
static rf_status read_values(const reader *r, const char *name, rf_h5_type type,
                             const rf_view *view, void *host)
{
    rf_status status = RF_OK;
    RF_TRY(rf_h5_read(r->f, name, type, view->n_dims, view->shape, host));
    for (int64_t i = 0; type == RF_H5_I64 && i < rf_view_n_elems(view); i++) {
        const int64_t count = ((const int64_t *)host)[i];
        if (count < 0) {
            RF_FAIL(RF_ERR_FORMAT, "'%s': '%s' has %" PRId64 ", expected >= 0", r->path, name,
                    count);
        }
    }
fail:
    return status;
}

/* From the file to the device, on the ranks whose view has a place. */
static rf_status read_tensor(const reader *r, const char *name, const rf_view *view)
{
    rf_status status = RF_OK;
    unsigned char *host = NULL;
    rf_h5_type type = RF_H5_F32;
    const int64_t n_bytes = (int64_t)rf_checkpoint_bytes(view);

    RF_TRY(rf_checkpoint_type(view, &type));
    host = rf_calloc(n_bytes, 1);
    status = host == NULL ? RF_ERR_NO_MEMORY : RF_OK;
    if (status == RF_OK && reads(r)) {
        status = read_values(r, name, type, view, host);
    }
    RF_TRY(share(r, status, host, n_bytes));
    if (view->data != NULL) {
        status = rf_copy_in(r->s, view->data, host, (size_t)n_bytes);
        status = status == RF_OK ? rf_stream_synchronise(r->s) : status;
    }
    status = rf_checkpoint_agree(r->comm, status);
fail:
    rf_free(host);
    return status;
}

static rf_status check_name(const reader *r, int64_t idx, const char *expected)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN], *text = NULL;

    RF_TRY(rf_checkpoint_dataset(name, idx, "name"));
    RF_TRY(rf_h5_read_text(r->f, name, &text));
    if (strcmp(text, expected) != 0) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': coder %" PRId64 " is called '%.100s', expected '%s'", r->path,
                idx, text, expected);
    }
fail:
    rf_free(text);
    return status;
}

/* What rank 0 reads of a coder and all have to know. */
typedef struct progress {
    int64_t
        n[RF_CHECKPOINT_N_PROGRESS]; /* batches done, failed, stop, lines, lines since the best */
    double best;
    int64_t n_batches;
    int64_t counters[RF_CODER_N_COUNTERS];
} progress;

static rf_status check_progress(const reader *r, int64_t idx, const progress *p)
{
    rf_status status = RF_OK;
    const int64_t *n = p->n;
    if (p->n_batches < 0 || p->counters[RF_COUNTER_SKIPPED] < 0 ||
        p->counters[RF_COUNTER_OUTLIERS] < 0) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s': coder %" PRId64 " has %" PRId64 " batches, skipped %" PRId64
                " and of them %" PRId64 " as outliers: expected >= 0",
                r->path, idx, p->n_batches, p->counters[RF_COUNTER_SKIPPED],
                p->counters[RF_COUNTER_OUTLIERS]);
    }
    if (n[0] < 0 || n[1] < 0 || n[1] > 1 || n[2] < 0 || n[2] >= RF_N_STOPS || n[3] < 0 ||
        n[4] < 0 || n[4] > n[3] || !isfinite(p->best)) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s': progress of coder %" PRId64 " is %" PRId64 ", %" PRId64 ", %" PRId64
                ", %" PRId64 ", %" PRId64
                " and best %g: expected batches >= 0, 0 or 1, below %d, lines >= 0 and no more "
                "than these, a finite number",
                r->path, idx, n[0], n[1], n[2], n[3], n[4], p->best, RF_N_STOPS);
    }
fail:
    return status;
}

static rf_status read_numbers(const reader *r, int64_t idx, const char *expected, progress *p)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];
    const int64_t one = 1;

    RF_TRY(check_name(r, idx, expected));
    RF_TRY(rf_checkpoint_dataset(name, idx, "progress"));
    RF_TRY(read_i64(r->f, name, p->n, RF_CHECKPOINT_N_PROGRESS));
    RF_TRY(rf_checkpoint_dataset(name, idx, "best"));
    RF_TRY(rf_h5_read(r->f, name, RF_H5_F64, 1, &one, &p->best));
    RF_TRY(rf_checkpoint_dataset(name, idx, "coder/counters"));
    RF_TRY(read_i64(r->f, name, p->counters, RF_CODER_N_COUNTERS));
    RF_TRY(rf_checkpoint_dataset(name, idx, "n_batches"));
    if (rf_h5_has(r->f, name)) { /* not in files of the oldest version */
        RF_TRY(read_i64(r->f, name, &p->n_batches, 1));
    }
    RF_TRY(check_progress(r, idx, p));
fail:
    return status;
}

/* A coder that failed or stopped takes its batches and does nothing with them. */
static int64_t count_tried(const progress *p)
{
    const int64_t n_skipped = rf_min_i64(p->counters[RF_COUNTER_SKIPPED], p->n[0]);
    const int64_t n_learned = rf_max_i64(p->counters[RF_COUNTER_STEPS], 0);
    return n_skipped + rf_min_i64(n_learned, p->n[0] - n_skipped);
}

static rf_status read_progress(const reader *r, int64_t idx, rf_checkpoint_coder *c)
{
    rf_status status = RF_OK;
    progress p = {0};

    if (reads(r)) {
        status = read_numbers(r, idx, c->name, &p);
    }
    status = share(r, status, &p, (int64_t)sizeof p);
    if (status == RF_OK) {
        c->n_batches = p.n_batches;
        c->n_skipped = p.counters[RF_COUNTER_SKIPPED];
        c->n_outliers = p.counters[RF_COUNTER_OUTLIERS];
        c->batches_done = p.n[0];
        c->n_tried = count_tried(&p);
        c->failed = p.n[1] != 0;
        c->stopping = (rf_stopping){
            .stop = (int)p.n[2], .n_lines = p.n[3], .n_worse = p.n[4], .best = p.best};
    }
    return status;
}

/* What a coder has in a file, on every rank as its owner knows it; views have their places on the
 * ranks that have the coder. */
static rf_status share_list(const reader *r, const rf_checkpoint_coder *c, rf_checkpoint_list *list)
{
    rf_status status = RF_OK;
    rf_checkpoint_list *mine = NULL;

    if (c->coder != NULL) {
        status = rf_checkpoint_list_tensors(c, list);
    }
    if (r->comm == NULL) {
        return status;
    }
    mine = rf_calloc(1, sizeof *mine);
    status = status == RF_OK && mine == NULL ? RF_ERR_NO_MEMORY : status;
    RF_TRY(rf_comm_agree(r->comm, status));
    *mine = *list;
    RF_TRY(rf_comm_bcast(r->comm, list, (int64_t)sizeof *list, c->owner));
    for (int i = 0; i < list->n; i++) {
        list->items[i].view.data = mine->items[i].view.data; /* zeroed: no place */
    }
fail:
    rf_free(mine);
    return status;
}

static rf_status read_coder(const reader *r, int64_t idx, rf_checkpoint_coder *c)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];
    rf_checkpoint_list *list = rf_calloc(1, sizeof *list);

    RF_TRY(rf_checkpoint_agree(r->comm, list == NULL ? RF_ERR_NO_MEMORY : RF_OK));
    RF_TRY(read_progress(r, idx, c));
    RF_TRY(share_list(r, c, list));
    for (int i = 0; i < list->n; i++) {
        RF_TRY(rf_checkpoint_dataset(name, idx, list->items[i].name));
        RF_TRY(read_tensor(r, name, &list->items[i].view));
    }
fail:
    rf_free(list);
    return status;
}

/* What rank 0 alone can check; leaves the tick in `tick`. */
static rf_status open_file(const char *path, const rf_checkpoint *c, rf_h5_file **f, int64_t *tick)
{
    rf_status status = RF_OK;
    rf_checkpoint_header header = {0};
    const int64_t n_run = rf_max_i64(c->n_run, c->first + c->n_coders);

    RF_TRY(rf_h5_open(path, f));
    RF_TRY(read_header(*f, path, &header));
    if (header.n_coders != n_run || header.first != c->first || header.n_held != c->n_coders) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s' has %" PRId64 " coders from number %" PRId64 " on of a run of %" PRId64
                ", expected %" PRId64 " from %" PRId64 " on of %" PRId64,
                path, header.n_held, header.first, header.n_coders, c->n_coders, c->first, n_run);
    }
    *tick = header.tick;
fail:
    rf_checkpoint_header_fini(&header);
    return status;
}

rf_status rf_checkpoint_read(const rf_comm *comm, const char *path, rf_stream *s,
                             rf_checkpoint *inout)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;
    reader r = {.comm = comm, .path = path, .s = s};

    if (reads(&r)) {
        status = open_file(path, inout, &f, &inout->tick);
    }
    RF_TRY(share(&r, status, &inout->tick, (int64_t)sizeof inout->tick));
    r.f = f;
    for (int64_t i = 0; i < inout->n_coders; i++) {
        RF_TRY(read_coder(&r, inout->first + i, &inout->coders[i]));
    }
fail:
    rf_h5_close(f);
    return status;
}

rf_status rf_checkpoint_read_progress(const rf_comm *comm, const char *path, int64_t first,
                                      int64_t n, rf_checkpoint_coder *inout)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;
    reader r = {.comm = comm, .path = path};

    if (reads(&r)) {
        status = rf_h5_open(path, &f);
        status = status == RF_OK ? read_format(f, path, NULL) : status;
    }
    r.f = f;
    RF_TRY(rf_checkpoint_agree(comm, status));
    for (int64_t i = 0; i < n; i++) {
        RF_TRY(read_progress(&r, first + i, &inout[i]));
    }
fail:
    rf_h5_close(f);
    return status;
}

/* ---- the shape of a coder, for who has its settings only ----------------------------------------
 */

static rf_status fail_sites(const char *path, int64_t idx, const char *why)
{
    return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__, "'%s': sites of coder %" PRId64 ": %s",
                          path, idx, why);
}

static rf_status read_sites(const rf_h5_file *f, const char *path, int64_t idx, rf_coder_shape *out)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];
    int n_dims = 0;
    int64_t n = 0, sites[RF_CHECKPOINT_MAX_SITES] = {0};

    *out = (rf_coder_shape){0};
    RF_TRY(rf_checkpoint_dataset(name, idx, "sites"));
    RF_TRY(rf_h5_shape(f, name, 1, &n_dims, &n));
    if (n_dims != 1 || n < 3 || n > RF_CHECKPOINT_MAX_SITES) {
        return fail_sites(path, idx, "expected two numbers and a width for each site");
    }
    RF_TRY(read_i64(f, name, sites, n));
    if (sites[0] < 1 || sites[0] > RF_MAX_SITES || sites[1] < 0 || sites[1] > RF_MAX_SITES ||
        n != 2 + sites[0] + sites[1]) {
        return fail_sites(path, idx, "their numbers do not fit their widths");
    }
    out->n_in = (int)sites[0];
    out->n_out = (int)sites[1];
    memcpy(out->in, sites + 2, sizeof *sites * (size_t)out->n_in);
    memcpy(out->out, sites + 2 + out->n_in, sizeof *sites * (size_t)out->n_out);
fail:
    return status;
}

/* Sum of widths, each 1 .. max in all; -1 otherwise. */
static int64_t sum_widths(const int64_t *widths, int n, int64_t max)
{
    int64_t sum = 0;
    for (int i = 0; i < n; i++) {
        if (widths[i] < 1 || widths[i] > max - sum) {
            return -1;
        }
        sum += widths[i];
    }
    return sum;
}

/* Memory is made for a shape: one that the file cannot hold is not believed. */
static rf_status check_shape(const rf_h5_file *f, const char *path, int64_t idx,
                             const rf_coder_settings *settings, const rf_coder_shape *shape)
{
    rf_status status = RF_OK;
    rf_file_map map = {0};
    char name[RF_NAME_LEN];
    int n_dims = 0;
    int64_t w_enc[2] = {0};

    RF_TRY(rf_file_map_open(path, &map));
    const int64_t n_max = map.n_bytes / (int64_t)sizeof(float);
    const int64_t width = sum_widths(shape->in, shape->n_in, n_max);
    const int64_t out_width = sum_widths(shape->out, shape->n_out, n_max);
    if (width < 0 || out_width < 0) {
        status = fail_sites(path, idx, "a width that the file cannot hold");
        goto fail;
    }
    RF_TRY(rf_checkpoint_dataset(name, idx, "coder/W_enc"));
    RF_TRY(rf_h5_shape(f, name, 2, &n_dims, w_enc));
    const int64_t larger = rf_max_i64(width, out_width);
    if (n_dims != 2 || w_enc[0] < 1 || w_enc[1] != width || w_enc[0] > n_max / larger ||
        w_enc[0] != rf_coder_settings_latents(settings, width)) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s': '%s' has shape %" PRId64 " x %" PRId64
                ": expected the latents of coder '%s' and width %" PRId64,
                path, name, w_enc[0], w_enc[1], settings->name, width);
    }
fail:
    rf_file_map_close(&map);
    return status;
}

rf_status rf_checkpoint_read_shape(const char *path, int64_t idx, const rf_coder_settings *settings,
                                   rf_coder_shape *out)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;

    RF_TRY(rf_h5_open(path, &f));
    RF_TRY(read_format(f, path, NULL));
    RF_TRY(read_sites(f, path, idx, out));
    RF_TRY(check_shape(f, path, idx, settings, out));
fail:
    rf_h5_close(f);
    return status;
}

rf_status rf_checkpoint_read_coder(const char *path, rf_stream *s, int64_t idx,
                                   rf_checkpoint_coder *inout)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;

    RF_TRY(rf_h5_open(path, &f));
    RF_TRY(read_format(f, path, NULL));
    const reader r = {.f = f, .path = path, .s = s};
    RF_TRY(read_coder(&r, idx, inout));
fail:
    rf_h5_close(f);
    return status;
}
