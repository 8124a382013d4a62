/* Writing the HDF5 file that holds what the next steps depend on: docs/format-checkpoint.md. Rank 0
 * writes; coders that it has not come to it one at a time. */
#include "checkpoint_impl.h"

#include <string.h>

static rf_status write_i64(rf_h5_file *f, const char *name, const int64_t *values, int64_t n)
{
    return rf_h5_write(f, name, RF_H5_I64, 1, &n, values);
}

/* ---- write -------------------------------------------------------------------------------------
 */

static rf_status write_header(rf_h5_file *f, const rf_checkpoint *c)
{
    rf_status status = RF_OK;
    const int64_t version = RF_CHECKPOINT_VERSION, held[2] = {c->first, c->n_coders};
    const int64_t n_run = rf_max_i64(c->n_run, c->first + c->n_coders);
    const int64_t picture_hash = (int64_t)c->picture_hash, model_hash = (int64_t)c->model_hash;
    RF_TRY(rf_h5_write_text(f, "format", RF_CHECKPOINT_FORMAT));
    RF_TRY(write_i64(f, "version", &version, 1));
    RF_TRY(write_i64(f, "tick", &c->tick, 1));
    RF_TRY(write_i64(f, "n_coders", &n_run, 1));
    RF_TRY(write_i64(f, "held", held, 2));
    RF_TRY(write_i64(f, "picture_hash", &picture_hash, 1));
    RF_TRY(write_i64(f, "model_hash", &model_hash, 1));
    RF_TRY(rf_h5_write_text(f, "weight_processing", c->weight_processing));
    RF_TRY(rf_h5_write_text(f, "settings", c->settings));
    RF_TRY(rf_h5_write_text(f, "refract", RF_VERSION));
    RF_TRY(rf_h5_write_text(f, "backend", c->backend));
fail:
    return status;
}

/* How far it came, and how many batches there are. */
static rf_status write_progress(rf_h5_file *f, int64_t idx, const rf_checkpoint_coder *c)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];
    const int64_t progress[RF_CHECKPOINT_N_PROGRESS] = {
        c->batches_done, c->failed, c->stopping.stop, c->stopping.n_lines, c->stopping.n_worse};
    const int64_t one = 1;

    RF_TRY(rf_checkpoint_dataset(name, idx, "progress"));
    RF_TRY(write_i64(f, name, progress, RF_CHECKPOINT_N_PROGRESS));
    RF_TRY(rf_checkpoint_dataset(name, idx, "best"));
    RF_TRY(rf_h5_write(f, name, RF_H5_F64, 1, &one, &c->stopping.best));
    RF_TRY(rf_checkpoint_dataset(name, idx, "n_batches"));
    RF_TRY(write_i64(f, name, &c->n_batches, 1));
fail:
    return status;
}

/* How many, and their widths. */
static rf_status write_sites(rf_h5_file *f, int64_t idx, const rf_coder_shape *shape)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];
    int64_t sites[RF_CHECKPOINT_MAX_SITES] = {shape->n_in, shape->n_out};

    memcpy(sites + 2, shape->in, sizeof *sites * (size_t)shape->n_in);
    memcpy(sites + 2 + shape->n_in, shape->out, sizeof *sites * (size_t)shape->n_out);
    RF_TRY(rf_checkpoint_dataset(name, idx, "sites"));
    RF_TRY(write_i64(f, name, sites, 2 + shape->n_in + shape->n_out));
fail:
    return status;
}

/* `f` is NULL on the ranks that do not write, and `comm` where there are no others. */
typedef struct writer {
    const rf_comm *comm;
    rf_h5_file *f;
    rf_stream *s;
} writer;

/* Of this rank: it writes; it gives coder `c`. Without others it does both. */
static bool writes(const writer *w)
{
    return w->comm == NULL || rf_comm_rank(w->comm) == 0;
}

static bool gives(const writer *w, const rf_checkpoint_coder *c)
{
    return w->comm == NULL || rf_comm_rank(w->comm) == c->owner;
}

static rf_status move(const writer *w, const rf_checkpoint_coder *c, void *data, size_t n_bytes)
{
    return w->comm != NULL ? rf_comm_move(w->comm, data, (int64_t)n_bytes, c->owner, 0) : RF_OK;
}

static rf_status write_head(const writer *w, int64_t idx, const rf_checkpoint_coder *c)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];
    RF_TRY(rf_checkpoint_dataset(name, idx, "name"));
    RF_TRY(rf_h5_write_text(w->f, name, c->name));
    RF_TRY(write_progress(w->f, idx, c));
fail:
    return status;
}

/* From the device of who has it to `host`, and on rank 0 into the file. The bytes travel whatever
 * failed, so that nobody waits for them. */
static rf_status write_tensor(const writer *w, int64_t idx, const rf_checkpoint_coder *c,
                              const rf_checkpoint_list *list, int item, void *host)
{
    rf_status status = RF_OK;
    const rf_view *view = &list->items[item].view;
    rf_h5_type type = RF_H5_F32;
    char name[RF_NAME_LEN];

    if (gives(w, c)) {
        status = rf_copy_out(w->s, host, view->data, rf_checkpoint_bytes(view));
        status = status == RF_OK ? rf_stream_synchronise(w->s) : status;
    }
    const rf_status moved = move(w, c, host, rf_checkpoint_bytes(view));
    RF_TRY(status);
    RF_TRY(moved);
    if (writes(w)) {
        RF_TRY(rf_checkpoint_type(view, &type));
        RF_TRY(rf_checkpoint_dataset(name, idx, list->items[item].name));
        RF_TRY(rf_h5_write(w->f, name, type, view->n_dims, view->shape, host));
    }
fail:
    return status;
}

/* What a rank has to say of it, and the shapes of all that comes; `status` is what went before. */
static rf_status begin_coder(const writer *w, int64_t idx, const rf_checkpoint_coder *c,
                             rf_checkpoint_list *list, unsigned char **host, rf_status status)
{
    rf_coder_shape shape = {0};
    if (status == RF_OK && gives(w, c)) {
        status = rf_checkpoint_list_tensors(c, list);
        shape = *rf_coder_get_shape(c->coder);
    }
    RF_TRY(rf_checkpoint_agree(w->comm, status));
    RF_TRY(move(w, c, list, sizeof *list));
    RF_TRY(move(w, c, &shape, sizeof shape));
    if (writes(w)) {
        status = write_head(w, idx, c);
        status = status == RF_OK ? write_sites(w->f, idx, &shape) : status;
    }
    if (status == RF_OK && (writes(w) || gives(w, c))) {
        *host = rf_calloc((int64_t)list->most_bytes, 1);
        status = *host == NULL ? RF_ERR_NO_MEMORY : RF_OK;
    }
    status = rf_checkpoint_agree(w->comm, status);
fail:
    return status;
}

/* `before` is what went wrong on this rank earlier. Collective; the status is this rank's own. */
static rf_status write_coder(const writer *w, int64_t idx, const rf_checkpoint_coder *c,
                             rf_status before)
{
    rf_status status = RF_OK;
    unsigned char *host = NULL;
    rf_checkpoint_list *list = NULL;

    list = rf_calloc(1, sizeof *list);
    before = list == NULL ? RF_ERR_NO_MEMORY : before;
    RF_TRY(begin_coder(w, idx, c, list, &host, before));
    for (int i = 0; i < list->n; i++) {
        const rf_status written = write_tensor(w, idx, c, list, i, host);
        status = status == RF_OK ? written : status;
    }
fail:
    rf_free(host);
    rf_free(list);
    return status;
}

static rf_status begin_file(const writer *w, const char *path, const rf_checkpoint *c,
                            rf_h5_file **f)
{
    rf_status status = RF_OK;
    if (writes(w)) {
        RF_TRY(rf_h5_create(path, f));
        RF_TRY(write_header(*f, c));
    }
fail:
    return status;
}

rf_status rf_checkpoint_write(const char *path, rf_stream *s, const rf_checkpoint *c)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;
    writer w = {.comm = c->comm, .s = s};

    status = begin_file(&w, path, c, &f);
    w.f = f;
    for (int64_t i = 0; i < c->n_coders; i++) {
        status = write_coder(&w, c->first + i, &c->coders[i], status);
        if (status != RF_OK && c->comm == NULL) {
            goto fail; /* with others, the next one agrees first */
        }
    }
    RF_TRY(rf_checkpoint_agree(c->comm, status));
    if (writes(&w)) {
        status = rf_h5_commit(f);
        f = NULL;
    }
    status = rf_checkpoint_agree(c->comm, status);
fail:
    rf_h5_close(f);
    if (status != RF_OK) {
        rf_error_context("saving a checkpoint (the ones before it are whole)");
    }
    return status;
}
