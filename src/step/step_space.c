/* The memory of a step: made once, for the largest of the coders that will use it. */
#include "step_impl.h"

#include <math.h>

enum { N_BINS = 65536 };

/* What the largest coder needs. Slots are entries of a row. */
typedef struct extents {
    int64_t in, out, latents, weights, g[RF_STEP_N_LISTS], slot[RF_STEP_N_LISTS];
    int64_t sites;
    bool own_target, may_be_dense, is_gated, is_batch;
    bool has_entries; /* arrays beside the main list */
} extents;

static int64_t weights_of(const rf_coder *coder)
{
    int64_t n = 0;
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        rf_view v = rf_coder_view(coder, i);
        n += v.data == NULL ? 0 : rf_ceil_div(rf_view_n_elems(&v), 16) * 16;
    }
    return n;
}

static void widen_lists(extents *e, const rf_coder *coder)
{
    const rf_architecture *a = rf_coder_architecture(coder);
    const rf_coder_settings *settings = rf_coder_get_settings(coder);
    int64_t f = rf_coder_n_latents(coder), d_out = rf_coder_out_width(coder), slot[RF_STEP_N_LISTS];
    int64_t g[RF_STEP_N_LISTS] = {d_out, 0, 0, 0},
            k = rf_step_k(coder, fmax(1.0, settings->k_start));
    rf_latent_groups groups = {0};

    if (a->prefixes != NULL) {
        a->prefixes(settings, f, 0, &groups);
        g[RF_STEP_MAIN] = d_out * groups.n;
    }
    slot[RF_STEP_MAIN] = a->may_be_dense ? a->row_capacity(settings, f) : k;
    slot[RF_STEP_SECOND] = 0;
    if (a->second != NULL) {
        a->second(settings, k, &slot[RF_STEP_SECOND]);
        slot[RF_STEP_SECOND] = rf_min_i64(slot[RF_STEP_SECOND], f);
        g[RF_STEP_SECOND] = d_out;
    } else if (a->act == RF_CODER_GATED) {
        g[RF_STEP_SECOND] = d_out; /* the gate's residual */
    }
    slot[RF_STEP_AUX] = rf_coder_aux_k(coder, f);
    g[RF_STEP_AUX] = slot[RF_STEP_AUX] > 0 ? d_out : 0;
    slot[RF_STEP_WINDOW] = a->act != RF_CODER_RELU ? slot[RF_STEP_MAIN] : 0;
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        e->slot[l] = rf_max_i64(e->slot[l], slot[l]);
        e->g[l] = rf_max_i64(e->g[l], g[l]);
    }
    e->has_entries = e->has_entries || a->act != RF_CODER_RELU || settings->penalty_by_norm;
}

static extents extents_of(const rf_coder *const *coders, int64_t n_coders)
{
    extents e = {0};
    for (int64_t i = 0; i < n_coders; i++) {
        const rf_coder *c = coders[i];
        const rf_architecture *a = rf_coder_architecture(c);
        e.in = rf_max_i64(e.in, rf_coder_width(c));
        e.out = rf_max_i64(e.out, rf_coder_out_width(c));
        e.latents = rf_max_i64(e.latents, rf_coder_n_latents(c));
        e.weights = rf_max_i64(e.weights, weights_of(c));
        e.sites = rf_max_i64(e.sites, rf_coder_get_shape(c)->n_in);
        e.own_target = e.own_target || !rf_coder_subtracts(c);
        e.may_be_dense = e.may_be_dense || a->may_be_dense;
        e.is_gated = e.is_gated || a->act == RF_CODER_GATED;
        e.is_batch = e.is_batch || a->rule(rf_coder_get_settings(c)) == RF_SELECT_BATCH_TOPK;
        widen_lists(&e, c);
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
/* The same of pinned memory of the host. */
static rf_status take_pinned(rf_step *step, int64_t n, size_t elem_bytes, void **out)
{
    rf_status status = RF_OK;
    *out = NULL;
    if (n > 0) {
        RF_BUG(step->n_pinned < (int)(sizeof step->pinned / sizeof step->pinned[0]),
               "step: more than %d pinned blocks", step->n_pinned);
        RF_TRY(rf_memory_alloc(step->be, RF_MEMORY_PINNED, (size_t)n * elem_bytes, out));
        step->pinned[step->n_pinned++] = *out;
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
#define TAKE_PINNED(p, n)                                                                          \
    do {                                                                                           \
        void *block;                                                                               \
        RF_TRY(take_pinned(step, (n), sizeof *(p), &block));                                       \
        (p) = block;                                                                               \
    } while (0)

static rf_status take_codes(rf_step *step, int64_t n_rows, int64_t n, rf_codes *codes)
{
    rf_status status = RF_OK;
    codes->capacity = n;
    TAKE(codes->row_start, n > 0 ? n_rows + 1 : 0);
    TAKE(codes->latent, n);
    TAKE(codes->value, n);
    TAKE(codes->d_value, n);
fail:
    return status;
}

/* `n` rows with the codes of `n_main` rows in the main list. */
static rf_status take_rows(rf_step *step, int64_t n, int64_t n_main, const extents *e,
                           rf_step_rows *rows)
{
    rf_status status = RF_OK;
    TAKE(rows->seen, n * e->in);
    TAKE(rows->target, e->own_target ? n * e->out : 0);
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        TAKE(rows->g[l], n * e->g[l]);
        RF_TRY(take_codes(step, n, (l == RF_STEP_MAIN ? n_main : n) * e->slot[l], &rows->codes[l]));
    }
    TAKE(rows->valid, n);
    TAKE(rows->loss, n);
    TAKE(rows->extra, n);
    TAKE(rows->aux, n);
    TAKE(rows->spread, n);
    TAKE(rows->sparsity, n);
    TAKE(rows->active, n);
fail:
    return status;
}

static rf_status take_index(rf_step *step, int64_t capacity, int64_t n_latents,
                            rf_latent_index *index)
{
    rf_status status = RF_OK;
    index->capacity = capacity;
    TAKE(index->latent_start, capacity > 0 ? n_latents + 1 : 0);
    TAKE(index->entry, capacity);
    TAKE(index->row, capacity);
fail:
    return status;
}

static rf_status take_latents(rf_step *step, const extents *e)
{
    rf_status status = RF_OK;
    int64_t dense = e->may_be_dense ? RF_STEP_MICRO_BATCH : 0;
    TAKE(step->gradients, e->weights);
    TAKE(step->touched, e->latents);
    TAKE(step->dead, e->latents);
    TAKE(step->n_active, e->latents);
    TAKE(step->theta, e->latents);
    TAKE(step->weight, e->latents);
    TAKE(step->by_latent, e->latents);
    TAKE(step->by_latent2, e->latents);
    int64_t wide = rf_step_dense_stride(e->latents) + 16,
            tile = rf_step_dense_stride(rf_min_i64(RF_STEP_DENSE_TILE, e->latents));
    TAKE(step->h, 2 * dense * wide);
    step->z = step->h == NULL ? NULL : step->h + dense * wide;
    TAKE(step->d_z, 2 * dense * tile);
    TAKE(step->d_gate, e->is_gated ? dense * tile : 0);
fail:
    return status;
}

static rf_status take_all(rf_step *step, const extents *e)
{
    rf_status status = RF_OK;
    int64_t n = step->opts.max_rows;
    int64_t n_main = e->is_batch ? n : step->max_local; /* one rank may have all entries */
    RF_TRY(take_rows(step, step->max_local, n_main, e, &step->local));
    step->global = step->local;
    if (rf_comm_size(step->comm) > 1) {
        step->global = (rf_step_rows){0};
        RF_TRY(take_rows(step, n, n, e, &step->global));
    }
    TAKE(step->histogram, e->is_batch ? N_BINS : 0);
    TAKE(step->y_hat, step->max_local * e->out);
    TAKE(step->mean, rf_max_i64(e->in, e->out));
    TAKE(step->row_shift, step->max_local * e->sites);
    TAKE(step->row_scale, step->max_local * e->sites);
    TAKE(step->row_class, step->max_local);
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        RF_TRY(take_index(step, n * e->slot[l], e->latents, &step->index[l]));
    }
    for (int i = 0; i < 4; i++) {
        TAKE(step->entries[i], e->has_entries ? n_main * e->slot[RF_STEP_MAIN] : 0);
    }
    RF_TRY(take_latents(step, e));
    TAKE(step->scalars, 1);
fail:
    return status;
}

static rf_status take_host(rf_step *step, const extents *e)
{
    rf_status status = RF_OK;
    const int64_t n = step->opts.max_rows, size = rf_comm_size(step->comm);
    TAKE_PINNED(step->host_rows, rf_max_i64(n, e->latents));
    TAKE_PINNED(step->host_starts, rf_max_i64(n + 1, N_BINS));
    for (int l = 0; l < RF_STEP_N_LISTS && size > 1; l++) {
        TAKE_PINNED(step->starts[l], e->slot[l] > 0 ? n + size : 0);
    }
    RF_ALLOC(step->counts, size);
    RF_ALLOC(step->offsets, size);
    RF_ALLOC(step->n_entries, RF_STEP_N_LISTS * size);
fail:
    return status;
}

static rf_status take_streams(rf_step *step)
{
    rf_status status = RF_OK;
    RF_TRY(rf_stream_create(step->be, &step->s));
    step->exchange = step->s;
    if (rf_comm_size(step->comm) > 1) {
        RF_TRY(rf_stream_create(step->be, &step->exchange));
    }
    RF_TRY(rf_event_create(step->be, &step->turn));
fail:
    return status;
}

static rf_status check_entries(const extents *e, int64_t max_rows)
{
    rf_status status = RF_OK;
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        RF_REQUIRE(e->slot[l] <= INT32_MAX / max_rows,
                   "step: a batch of %" PRId64 " tokens with %" PRId64
                   " entries each is too large: at most 2^31 - 1 entries",
                   max_rows, e->slot[l]);
    }
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
    RF_TRY(check_entries(&e, opts->max_rows));
    RF_ALLOC(step, 1);
    step->be = be;
    step->comm = comm;
    step->opts = *opts;
    step->max_in = e.in;
    step->max_out = e.out;
    step->max_weights = e.weights;
    step->max_latents = e.latents;
    step->max_local =
        rf_min_i64(opts->max_rows,
                   RF_TOKEN_TILE * rf_ceil_div(rf_ceil_div(opts->max_rows, RF_TOKEN_TILE), size));
    RF_TRY(take_streams(step));
    RF_TRY_DOING(take_all(step, &e), "work space of the step");
    RF_TRY_DOING(take_host(step, &e), "work space of the step");
    *out = step;
    step = NULL;
fail:
    rf_step_destroy(step);
    return status;
}

void rf_step_destroy(rf_step *step)
{
    if (step != NULL) {
        rf_free(step->n_entries);
        rf_free(step->offsets);
        rf_free(step->counts);
        if (step->exchange != step->s) {
            rf_stream_destroy(step->exchange); /* what it still holds uses the memory */
        }
        while (step->n_pinned > 0) {
            rf_memory_free(step->be, RF_MEMORY_PINNED, step->pinned[--step->n_pinned]);
        }
        while (step->n_blocks > 0) {
            rf_memory_free(step->be, RF_MEMORY_DEVICE, step->blocks[--step->n_blocks]);
        }
        rf_event_destroy(step->turn);
        rf_stream_destroy(step->s);
        rf_free(step);
    }
}

int64_t rf_step_bytes(const rf_step *step)
{
    return step->n_bytes;
}

rf_view rf_step_seen(const rf_step_job *job, bool global)
{
    const rf_step *step = job->step;
    return global ? rf_view_2d(step->global.seen, job->n_rows, job->width)
                  : rf_view_2d(step->local.seen, job->n_local, job->width);
}

rf_view rf_step_target(const rf_step_job *job, bool global)
{
    const rf_step_rows *rows = global ? &job->step->global : &job->step->local;
    return rf_view_2d(rf_coder_subtracts(job->coder) ? rows->seen : rows->target,
                      global ? job->n_rows : job->n_local, job->out_width);
}

rf_view rf_step_g(const rf_step_job *job, int list, bool global)
{
    const rf_step_rows *rows = global ? &job->step->global : &job->step->local;
    int64_t n_groups = list == RF_STEP_MAIN ? rf_max_i64(1, job->groups.n) : 1;
    return rf_view_2d(rows->g[list], global ? job->n_rows : job->n_local,
                      n_groups * job->out_width);
}

rf_view rf_step_g_part(const rf_step_job *job, int64_t group, bool global)
{
    rf_view v = rf_step_g(job, RF_STEP_MAIN, global);
    v.data = (float *)v.data + group * job->out_width;
    v.shape[1] = job->out_width;
    return v;
}

rf_view rf_step_local(const rf_step_job *job, float *rows)
{
    return rf_view_2d(rows, job->n_local, job->out_width);
}

rf_view rf_step_by_latent(const rf_step_job *job, float *values)
{
    return rf_view_1d(values, job->n_latents);
}

rf_view rf_step_gradient(const rf_step_job *job, int idx)
{
    float *at = job->step->gradients;
    for (int i = 0; i < idx; i++) {
        rf_view v = rf_coder_view(job->coder, i);
        at += v.data == NULL ? 0 : rf_ceil_div(rf_view_n_elems(&v), 16) * 16;
    }
    rf_view v = rf_coder_view(job->coder, idx);
    v.data = v.data == NULL ? NULL : at;
    return v;
}

rf_view rf_step_as_rows(rf_view v)
{
    return v.n_dims == 2 ? v : rf_view_2d(v.data, 1, v.shape[0]);
}
