/* The memory of a step: made once, for the largest of the coders that will use it. */
#include "step_impl.h"

/* What the largest coder needs. */
typedef struct extents {
    int64_t width, latents, weights, slot, aux_slot;
    bool may_be_dense;
} extents;

static extents extents_of(const rf_coder *const *coders, int64_t n_coders)
{
    extents e = {0};
    for (int64_t i = 0; i < n_coders; i++) {
        const rf_architecture *a = rf_coder_architecture(coders[i]);
        const rf_coder_settings *settings = rf_coder_get_settings(coders[i]);
        int64_t d = rf_coder_width(coders[i]), f = rf_coder_n_latents(coders[i]);
        e.width = rf_max_i64(e.width, d);
        e.latents = rf_max_i64(e.latents, f);
        e.weights = rf_max_i64(e.weights, 2 * f * d + f + d + 64);
        e.slot = rf_max_i64(e.slot, a->row_capacity(settings, f));
        e.aux_slot = rf_max_i64(e.aux_slot, a->aux_k(settings, d, f));
        e.may_be_dense = e.may_be_dense || a->may_be_dense;
    }
    return e;
}

/* *out = n elements of device memory that go with the step; 0 elements give NULL. */
static rf_status take(rf_step *step, int64_t n, size_t elem_bytes, void **out)
{
    rf_status status = RF_OK;
    *out = NULL;
    if (n > 0) {
        RF_BUG(step->n_blocks < (int)(sizeof step->blocks / sizeof step->blocks[0]),
               "step: more than %d blocks", step->n_blocks);
        RF_TRY(rf_memory_alloc(step->be, RF_MEMORY_DEVICE, (size_t)n * elem_bytes, out));
        step->blocks[step->n_blocks++] = *out;
        step->n_bytes += n * (int64_t)elem_bytes;
    }
fail:
    return status;
}
/* `p` keeps its type: n elements of it. */
#define TAKE(p, n)                                                                                 \
    do {                                                                                           \
        void *block;                                                                               \
        RF_TRY(take(step, (n), sizeof *(p), &block));                                              \
        (p) = block;                                                                               \
    } while (0)

static rf_status take_codes(rf_step *step, int64_t n_rows, int64_t slot, rf_codes *codes)
{
    rf_status status = RF_OK;
    int64_t n = n_rows * slot;
    codes->capacity = n;
    TAKE(codes->row_start, n_rows + 1);
    TAKE(codes->latent, n);
    TAKE(codes->value, n);
    TAKE(codes->d_value, n);
fail:
    return status;
}

static rf_status take_rows(rf_step *step, int64_t n, const extents *e, rf_step_rows *rows)
{
    rf_status status = RF_OK;
    TAKE(rows->x, n * e->width);
    TAKE(rows->g, n * e->width);
    TAKE(rows->g_aux, e->aux_slot > 0 ? n * e->width : 0);
    TAKE(rows->valid, n);
    TAKE(rows->loss, n);
    TAKE(rows->aux, n);
    TAKE(rows->spread, n);
    TAKE(rows->l1, n);
    TAKE(rows->active, e->may_be_dense ? n : 0);
    RF_TRY(take_codes(step, n, e->slot, &rows->codes));
    RF_TRY(take_codes(step, n, e->aux_slot, &rows->aux_codes));
fail:
    return status;
}

static rf_status take_index(rf_step *step, int64_t capacity, int64_t n_latents,
                            rf_latent_index *index)
{
    rf_status status = RF_OK;
    index->capacity = capacity;
    TAKE(index->latent_start, n_latents + 1);
    TAKE(index->entry, capacity);
    TAKE(index->row, capacity);
fail:
    return status;
}

static rf_status take_all(rf_step *step, const extents *e)
{
    rf_status status = RF_OK;
    int64_t n = step->opts.max_rows, dense = e->may_be_dense ? STEP_MICRO_BATCH : 0;
    RF_TRY(take_rows(step, step->max_local, e, &step->local));
    step->global = step->local;
    if (rf_comm_size(step->comm) > 1) {
        step->global = (rf_step_rows){0};
        RF_TRY(take_rows(step, n, e, &step->global));
    }
    TAKE(step->y, step->max_local * e->width);
    TAKE(step->mean, e->width);
    RF_TRY(take_index(step, n * e->slot, e->latents, &step->index));
    RF_TRY(take_index(step, n * e->aux_slot, e->latents, &step->aux_index));
    TAKE(step->gradients, e->weights);
    TAKE(step->touched, e->latents);
    TAKE(step->dead, e->latents);
    TAKE(step->n_active, e->latents);
    TAKE(step->z, dense * e->latents);
    TAKE(step->d_z, dense * STEP_DENSE_TILE);
    TAKE(step->scalars, 1);
fail:
    return status;
}

rf_status rf_step_create(rf_backend *be, const rf_comm *comm, const rf_coder *const *coders,
                         int64_t n_coders, const rf_step_opts *opts, rf_step **out)
{
    rf_status status = RF_OK;
    rf_step *step = NULL;
    int size = rf_comm_size(comm);

    RF_REQUIRE(opts->max_rows >= 1 && n_coders >= 1,
               "step: %" PRId64 " rows for %" PRId64 " coders, expected at least 1 of each",
               opts->max_rows, n_coders);
    extents e = extents_of(coders, n_coders);
    RF_REQUIRE(e.slot <= INT32_MAX / opts->max_rows && e.aux_slot <= INT32_MAX / opts->max_rows,
               "step: a batch of %" PRId64 " tokens with %" PRId64
               " entries each is too large: at most 2^31 - 1 entries",
               opts->max_rows, rf_max_i64(e.slot, e.aux_slot));
    RF_ALLOC(step, 1);
    step->be = be;
    step->comm = comm;
    step->opts = *opts;
    step->max_width = e.width;
    step->max_latents = e.latents;
    step->max_local =
        rf_min_i64(opts->max_rows,
                   RF_TOKEN_TILE * rf_ceil_div(rf_ceil_div(opts->max_rows, RF_TOKEN_TILE), size));
    RF_TRY(rf_stream_create(be, &step->s));
    RF_TRY_DOING(take_all(step, &e), "work space of the step");
    RF_ALLOC(step->host_rows, opts->max_rows);
    RF_ALLOC(step->host_starts, opts->max_rows + 1);
    RF_ALLOC(step->counts, size);
    RF_ALLOC(step->offsets, size);
    *out = step;
    step = NULL;
fail:
    rf_step_destroy(step);
    return status;
}

void rf_step_destroy(rf_step *step)
{
    if (step != NULL) {
        rf_free(step->offsets);
        rf_free(step->counts);
        rf_free(step->host_starts);
        rf_free(step->host_rows);
        while (step->n_blocks > 0) {
            rf_memory_free(step->be, RF_MEMORY_DEVICE, step->blocks[--step->n_blocks]);
        }
        rf_stream_destroy(step->s);
        rf_free(step);
    }
}

int64_t rf_step_bytes(const rf_step *step)
{
    return step->n_bytes;
}

rf_view rf_step_local(const rf_step_job *job, float *rows)
{
    return rf_view_2d(rows, job->n_local, job->width);
}

rf_view rf_step_global(const rf_step_job *job, float *rows)
{
    return rf_view_2d(rows, job->n_rows, job->width);
}

rf_view rf_step_gradient(const rf_step_job *job, int idx)
{
    float *at = job->step->gradients;
    for (int i = 0; i < idx; i++) {
        rf_view v = rf_coder_view(job->coder, i);
        at += rf_ceil_div(rf_view_n_elems(&v), 16) * 16;
    }
    rf_view v = rf_coder_view(job->coder, idx);
    v.data = at;
    return v;
}

rf_view rf_step_as_rows(rf_view v)
{
    return v.n_dims == 2 ? v : rf_view_2d(v.data, 1, v.shape[0]);
}
