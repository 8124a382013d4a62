/* One HDF5 file that holds what the next steps depend on: docs/format-checkpoint.md. */
#include "run_impl.h"

#include <math.h>
#include <string.h>

enum {
    FORMAT_VERSION = 2,
    MAX_CODERS = 4096,
    N_PROGRESS = 5,
    MAX_SITES = 2 + 2 * RF_MAX_SITES, /* numbers of "sites" */
};
static const char format_text[] = "refract checkpoint";

/* ---- datasets ----------------------------------------------------------------------------------
 */

static rf_status h5_type(const rf_view *view, rf_h5_type *out)
{
    rf_status status = RF_OK;
    switch (view->dtype) {
    case RF_F32:
        *out = RF_H5_F32;
        return RF_OK;
    case RF_I64:
        *out = RF_H5_I64;
        return RF_OK;
    default:
        RF_BUG(false, "a checkpoint holds fp32 and int64 tensors, not dtype %d", (int)view->dtype);
    }
fail:
    return status;
}

static size_t view_bytes(const rf_view *view)
{
    return (size_t)rf_view_n_elems(view) * rf_dtype_bytes(view->dtype);
}

/* Names of dataset `name` of coder `idx`. */
static rf_status dataset_name(char out[RF_NAME_LEN], int64_t idx, const char *group,
                              const char *name)
{
    return rf_format(out, RF_NAME_LEN, "coders/%05" PRId64 "/%s%s", idx, group, name);
}

static rf_status write_i64(rf_h5_file *f, const char *name, const int64_t *values, int64_t n)
{
    return rf_h5_write(f, name, RF_H5_I64, 1, &n, values);
}

static rf_status read_i64(const rf_h5_file *f, const char *name, int64_t *values, int64_t n)
{
    return rf_h5_read(f, name, RF_H5_I64, 1, &n, values);
}

static rf_status write_tensor(rf_h5_file *f, const char *name, rf_stream *s, const rf_view *view)
{
    rf_status status = RF_OK;
    unsigned char *host = NULL;
    rf_h5_type type = RF_H5_F32;

    RF_TRY(h5_type(view, &type));
    RF_ALLOC(host, (int64_t)view_bytes(view));
    RF_TRY(rf_copy_out(s, host, view->data, view_bytes(view)));
    RF_TRY(rf_stream_synchronise(s));
    RF_TRY(rf_h5_write(f, name, type, view->n_dims, view->shape, host));
fail:
    rf_free(host);
    return status;
}

/* ---- write -------------------------------------------------------------------------------------
 */

static rf_status write_header(rf_h5_file *f, const rf_checkpoint *c)
{
    rf_status status = RF_OK;
    const int64_t version = FORMAT_VERSION;
    const int64_t picture_hash = (int64_t)c->picture_hash, model_hash = (int64_t)c->model_hash;
    RF_TRY(rf_h5_write_text(f, "format", format_text));
    RF_TRY(write_i64(f, "version", &version, 1));
    RF_TRY(write_i64(f, "tick", &c->tick, 1));
    RF_TRY(write_i64(f, "n_coders", &c->n_coders, 1));
    RF_TRY(write_i64(f, "picture_hash", &picture_hash, 1));
    RF_TRY(write_i64(f, "model_hash", &model_hash, 1));
    RF_TRY(rf_h5_write_text(f, "weight_processing", c->weight_processing));
    RF_TRY(rf_h5_write_text(f, "settings", c->settings));
    RF_TRY(rf_h5_write_text(f, "refract", RF_VERSION));
    RF_TRY(rf_h5_write_text(f, "backend", c->backend));
fail:
    return status;
}

static rf_status write_progress(rf_h5_file *f, int64_t idx, const rf_checkpoint_coder *c)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];
    const int64_t progress[N_PROGRESS] = {c->batches_done, c->failed, c->stopping.stop,
                                          c->stopping.n_lines, c->stopping.n_worse};
    const int64_t one = 1;

    RF_TRY(dataset_name(name, idx, "progress", ""));
    RF_TRY(write_i64(f, name, progress, N_PROGRESS));
    RF_TRY(dataset_name(name, idx, "best", ""));
    RF_TRY(rf_h5_write(f, name, RF_H5_F64, 1, &one, &c->stopping.best));
fail:
    return status;
}

/* How many, and their widths. */
static rf_status write_sites(rf_h5_file *f, int64_t idx, const rf_coder_shape *shape)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];
    int64_t sites[MAX_SITES] = {shape->n_in, shape->n_out};

    memcpy(sites + 2, shape->in, sizeof *sites * (size_t)shape->n_in);
    memcpy(sites + 2 + shape->n_in, shape->out, sizeof *sites * (size_t)shape->n_out);
    RF_TRY(dataset_name(name, idx, "sites", ""));
    RF_TRY(write_i64(f, name, sites, 2 + shape->n_in + shape->n_out));
fail:
    return status;
}

static rf_status write_coder(rf_h5_file *f, rf_stream *s, int64_t idx, const rf_checkpoint_coder *c)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];

    RF_TRY(dataset_name(name, idx, "name", ""));
    RF_TRY(rf_h5_write_text(f, name, c->name));
    RF_TRY(write_progress(f, idx, c));
    RF_TRY(write_sites(f, idx, rf_coder_get_shape(c->coder)));
    for (int i = 0; i < rf_coder_n_tensors(c->coder); i++) {
        const rf_coder_tensor t = rf_coder_tensor_at(c->coder, i);
        if (rf_coder_has(c->coder, i)) {
            RF_TRY(dataset_name(name, idx, "coder/", t.name));
            RF_TRY(write_tensor(f, name, s, &t.view));
        }
    }
    for (int i = 0; i < rf_optimiser_n_tensors(c->opt); i++) {
        const rf_view view = rf_optimiser_tensor_view(c->opt, i);
        RF_TRY(dataset_name(name, idx, "optimiser/", rf_optimiser_tensor_name(c->opt, i)));
        RF_TRY(write_tensor(f, name, s, &view));
    }
fail:
    return status;
}

rf_status rf_checkpoint_write(const char *path, rf_stream *s, const rf_checkpoint *c)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;

    RF_TRY(rf_h5_create(path, &f));
    RF_TRY(write_header(f, c));
    for (int64_t i = 0; i < c->n_coders; i++) {
        RF_TRY(write_coder(f, s, i, &c->coders[i]));
    }
    status = rf_h5_commit(f);
    f = NULL;
fail:
    rf_h5_close(f);
    if (status != RF_OK) {
        rf_error_context("saving a checkpoint (the ones before it are whole)");
    }
    return status;
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

static rf_status read_format(const rf_h5_file *f, const char *path)
{
    rf_status status = RF_OK;
    char *text = NULL;
    int64_t version = 0;

    RF_TRY(rf_h5_read_text(f, "format", &text));
    if (strcmp(text, format_text) != 0) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is no checkpoint: its format is '%.40s'", path, text);
    }
    RF_TRY(read_i64(f, "version", &version, 1));
    if (version == 1) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s' has format version 1: it is of a Refract whose coders were topk and relu "
                "only and held other state. Version %d is read here: train anew, or read it with "
                "the program that wrote it",
                path, FORMAT_VERSION);
    }
    if (version != FORMAT_VERSION) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' has format version %" PRId64 ", expected %d", path, version,
                FORMAT_VERSION);
    }
fail:
    rf_free(text);
    return status;
}

static rf_status read_header(const rf_h5_file *f, const char *path, rf_checkpoint_header *out)
{
    rf_status status = RF_OK;
    int64_t picture_hash = 0, model_hash = 0;

    RF_TRY(read_format(f, path));
    RF_TRY(read_i64(f, "tick", &out->tick, 1));
    RF_TRY(read_i64(f, "n_coders", &out->n_coders, 1));
    RF_TRY(read_i64(f, "picture_hash", &picture_hash, 1));
    RF_TRY(read_i64(f, "model_hash", &model_hash, 1));
    RF_TRY(rf_h5_read_text(f, "weight_processing", &out->weight_processing));
    RF_TRY(rf_h5_read_text(f, "settings", &out->settings));
    RF_TRY(rf_h5_read_text(f, "backend", &out->backend));
    out->picture_hash = (uint64_t)picture_hash;
    out->model_hash = (uint64_t)model_hash;
    if (out->tick < 0 || out->n_coders < 1 || out->n_coders > MAX_CODERS) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': tick %" PRId64 ", %" PRId64 " coders: expected >= 0, 1 to %d",
                path, out->tick, out->n_coders, MAX_CODERS);
    }
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

static rf_status agree(const reader *r, rf_status status)
{
    return r->comm != NULL ? rf_comm_agree(r->comm, status) : status;
}

/* Everybody gets what rank 0 read. */
static rf_status share(const reader *r, rf_status status, void *data, int64_t n_bytes)
{
    status = agree(r, status);
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

static rf_status read_tensor(const reader *r, const char *name, const rf_view *view)
{
    rf_status status = RF_OK;
    unsigned char *host = NULL;
    rf_h5_type type = RF_H5_F32;
    const int64_t n_bytes = (int64_t)view_bytes(view);

    RF_TRY(h5_type(view, &type));
    host = rf_calloc(n_bytes, 1);
    status = host == NULL ? RF_ERR_NO_MEMORY : RF_OK;
    if (status == RF_OK && reads(r)) {
        status = read_values(r, name, type, view, host);
    }
    RF_TRY(share(r, status, host, n_bytes));
    status = rf_copy_in(r->s, view->data, host, (size_t)n_bytes);
    if (status == RF_OK) {
        status = rf_stream_synchronise(r->s);
    }
    status = agree(r, status);
fail:
    rf_free(host);
    return status;
}

static rf_status check_name(const reader *r, int64_t idx, const char *expected)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN], *text = NULL;

    RF_TRY(dataset_name(name, idx, "name", ""));
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
    int64_t n[N_PROGRESS]; /* batches done, failed, stop, lines, lines since the best */
    double best;
} progress;

static rf_status check_progress(const reader *r, int64_t idx, const progress *p)
{
    rf_status status = RF_OK;
    const int64_t *n = p->n;
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

static rf_status read_progress(const reader *r, int64_t idx, rf_checkpoint_coder *c)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];
    progress p = {0};
    const int64_t one = 1;

    if (reads(r)) {
        RF_TRY(check_name(r, idx, c->name));
        RF_TRY(dataset_name(name, idx, "progress", ""));
        RF_TRY(read_i64(r->f, name, p.n, N_PROGRESS));
        RF_TRY(dataset_name(name, idx, "best", ""));
        RF_TRY(rf_h5_read(r->f, name, RF_H5_F64, 1, &one, &p.best));
        RF_TRY(check_progress(r, idx, &p));
    }
fail:
    status = share(r, status, &p, (int64_t)sizeof p);
    if (status == RF_OK) {
        c->batches_done = p.n[0];
        c->failed = p.n[1] != 0;
        c->stopping = (rf_stopping){
            .stop = (int)p.n[2], .n_lines = p.n[3], .n_worse = p.n[4], .best = p.best};
    }
    return status;
}

static rf_status read_coder(const reader *r, int64_t idx, rf_checkpoint_coder *c)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];

    RF_TRY(read_progress(r, idx, c));
    for (int i = 0; i < rf_coder_n_tensors(c->coder); i++) {
        const rf_coder_tensor t = rf_coder_tensor_at(c->coder, i);
        if (rf_coder_has(c->coder, i)) {
            RF_TRY(dataset_name(name, idx, "coder/", t.name));
            RF_TRY(read_tensor(r, name, &t.view));
        }
    }
    for (int i = 0; c->opt != NULL && i < rf_optimiser_n_tensors(c->opt); i++) {
        const rf_view view = rf_optimiser_tensor_view(c->opt, i);
        RF_TRY(dataset_name(name, idx, "optimiser/", rf_optimiser_tensor_name(c->opt, i)));
        RF_TRY(read_tensor(r, name, &view));
    }
fail:
    return status;
}

/* What rank 0 alone can check; leaves the tick in `tick`. */
static rf_status open_file(const char *path, int64_t n_coders, rf_h5_file **f, int64_t *tick)
{
    rf_status status = RF_OK;
    rf_checkpoint_header header = {0};

    RF_TRY(rf_h5_open(path, f));
    RF_TRY(read_header(*f, path, &header));
    if (header.n_coders != n_coders) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' has %" PRId64 " coders, expected %" PRId64, path,
                header.n_coders, n_coders);
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
        status = open_file(path, inout->n_coders, &f, &inout->tick);
    }
    RF_TRY(share(&r, status, &inout->tick, (int64_t)sizeof inout->tick));
    r.f = f;
    for (int64_t i = 0; i < inout->n_coders; i++) {
        RF_TRY(read_coder(&r, i, &inout->coders[i]));
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
    int64_t n = 0, sites[MAX_SITES] = {0};

    *out = (rf_coder_shape){0};
    RF_TRY(dataset_name(name, idx, "sites", ""));
    RF_TRY(rf_h5_shape(f, name, 1, &n_dims, &n));
    if (n_dims != 1 || n < 3 || n > MAX_SITES) {
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
    RF_TRY(dataset_name(name, idx, "coder/", "W_enc"));
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
    RF_TRY(read_format(f, path));
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
    RF_TRY(read_format(f, path));
    const reader r = {.f = f, .path = path, .s = s};
    RF_TRY(read_coder(&r, idx, inout));
fail:
    rf_h5_close(f);
    return status;
}
