/* One pass over the data: the coders that train in it, dealt out over the ranks, and their stream.
 */
#include "run_impl.h"

#include <string.h>

/* ---- dealing -----------------------------------------------------------------------------------
 */

int64_t rf_training_pass_end(const rf_training *t, int64_t first)
{
    const int64_t n = t->settings->n_coders, most = t->settings->train.coders_at_once;
    return most > 0 && most < n - first ? first + most : n;
}

/* Which ranks train each of the pass's coders. */
static rf_status deal(rf_training *t)
{
    rf_status status = RF_OK;
    const int64_t n = t->end - t->first;
    const int n_ranks = rf_comm_size(t->comm) / t->n_groups;
    double *weights = NULL;
    int *groups = NULL;

    RF_ALLOC(weights, n);
    RF_ALLOC(groups, n);
    for (int64_t i = 0; i < n; i++) {
        const rf_trained *c = &t->coders[t->first + i];
        weights[i] = rf_deal_weight(&c->cost, c->spec, c->n_tokens, n_ranks);
    }
    RF_TRY(rf_deal(weights, n, t->n_groups, groups));
    for (int64_t i = 0; i < n; i++) {
        t->coders[t->first + i].first_rank = groups[i] * n_ranks;
        t->coders[t->first + i].n_ranks = n_ranks;
    }
fail:
    rf_free(groups);
    rf_free(weights);
    return status;
}

static bool is_here(const rf_training *t, const rf_trained *c)
{
    const int rank = rf_comm_rank(t->comm);
    return rank >= c->first_rank && rank < c->first_rank + c->n_ranks;
}

/* ---- stream and coders -------------------------------------------------------------------------
 */

static rf_status open_stream(rf_training *t)
{
    rf_status status = RF_OK;
    const int64_t n = t->end - t->first;
    rf_reader_opts *readers = NULL;
    rf_activation_stream_opts opts = rf_training_stream_opts(t);

    readers = rf_calloc(n, sizeof *readers);
    RF_TRY(rf_comm_agree(t->comm, readers == NULL ? RF_ERR_NO_MEMORY : RF_OK));
    for (int64_t i = 0; i < n; i++) {
        readers[i] = rf_training_reader(&t->coders[t->first + i]);
    }
    if (t->settings->activations.source == RF_ACTIVATIONS_BOTH && t->store == NULL) {
        RF_TRY(rf_training_create_store(t, &opts, readers, n));
        opts.store = t->store;
    }
    RF_TRY(rf_activation_stream_open(&opts, readers, n, &t->acts));
fail:
    rf_free(readers);
    return status;
}

/* What its sequence says, also of coders of other ranks. */
static rf_status set_sequence(rf_training *t, int64_t idx)
{
    rf_status status = RF_OK;
    rf_trained *c = &t->coders[idx];
    const rf_train_settings *train = &c->spec->train;

    rf_training_set_tokens(c, rf_activation_stream_tokens_per_epoch(t->acts, idx - t->first));
    RF_BUG(c->n_batches == rf_activation_stream_n_batches(t->acts, idx - t->first),
           "coder '%s': %" PRId64 " batches, the stream has another number", c->spec->coder.name,
           c->n_batches);
    if (train->accumulate > c->n_batches) {
        RF_FAIL(RF_ERR_SETTING,
                "coder '%s': train.accumulate is %" PRId64 ", but it has %" PRId64
                " batches in all: it would never learn",
                c->spec->coder.name, train->accumulate, c->n_batches);
    }
    c->schedule = (rf_schedule){.kind = train->schedule,
                                .lr = train->lr,
                                .lr_end = train->lr_end,
                                .warmup_steps = train->warmup_steps,
                                .n_steps = c->n_batches,
                                .restarts = train->restarts,
                                .decay_share = train->decay_share};
fail:
    return status;
}

/* Whose error it is, where the text does not say so yet. */
static rf_status name_coder(const rf_trained *c, rf_status status)
{
    char who[RF_NAME_LEN + 16];
    if (status != RF_OK && rf_format(who, sizeof who, "coder '%s'", c->spec->coder.name) == RF_OK &&
        strstr(rf_error_text(), who) == NULL) {
        rf_error_context("%s", who);
    }
    return status;
}

static rf_status create_coder(rf_training *t, rf_trained *c)
{
    rf_status status = RF_OK;
    const rf_train_settings *train = &c->spec->train;
    const rf_optimiser_opts opts = {.kind = train->optimiser, .accumulate = train->accumulate};

    RF_TRY(rf_coder_create(t->be, &c->spec->coder, &c->shape, &c->coder));
    RF_TRY(name_coder(c, rf_optimiser_create(t->be, c->coder, &opts, &c->opt)));
fail:
    return status;
}

/* Those that this rank trains, and work space for the largest. */
static rf_status create_coders(rf_training *t)
{
    rf_status status = RF_OK;
    const rf_coder **coders = NULL;
    int64_t n = 0;
    rf_step_opts opts = {0};

    RF_ALLOC(coders, t->end - t->first);
    for (int64_t i = t->first; i < t->end; i++) {
        rf_trained *c = &t->coders[i];
        RF_TRY(set_sequence(t, i));
        if (is_here(t, c)) {
            RF_TRY(create_coder(t, c));
            coders[n++] = c->coder;
            opts.max_rows = rf_max_i64(opts.max_rows, c->spec->train.batch_tokens);
        }
    }
    if (n > 0) {
        RF_TRY(rf_step_create(t->be, t->group != NULL ? t->group : t->comm, coders, n, &opts,
                              &t->step));
    }
fail:
    rf_free(coders);
    return status;
}

rf_status rf_training_open_pass(rf_training *t, int64_t first, int64_t end)
{
    rf_status status = RF_OK;
    rf_training_close_pass(t);
    t->first = first;
    t->end = end;
    RF_TRY(rf_comm_agree(t->comm, deal(t)));
    RF_TRY(open_stream(t));
    RF_TRY(rf_comm_agree(t->comm, create_coders(t)));
fail:
    return status;
}

void rf_training_close_pass(rf_training *t)
{
    for (int64_t i = t->first; t->coders != NULL && i < t->end; i++) {
        rf_trained *c = &t->coders[i];
        rf_tfevents_close(c->events);
        rf_optimiser_destroy(c->opt);
        rf_coder_destroy(c->coder);
        c->events = NULL;
        c->opt = NULL;
        c->coder = NULL;
    }
    rf_step_destroy(t->step);
    rf_activation_stream_close(t->acts);
    t->step = NULL;
    t->acts = NULL;
    t->end = t->first;
}

/* ---- what is said of it ------------------------------------------------------------------------
 */

/* "  ranks 2 to 3: a, b" of the coders of one group. */
static rf_status log_group(const rf_training *t, int group)
{
    rf_status status = RF_OK;
    rf_str names = {0};
    const int n_ranks = rf_comm_size(t->comm) / t->n_groups, first = group * n_ranks;
    int64_t n = 0, idx = 0;
    char ranks[64];

    RF_TRY(rf_str_append(&names, "%s", ""));
    for (int64_t i = t->first; i < t->end; i++) {
        n += t->coders[i].first_rank == first;
    }
    for (int64_t i = t->first; i < t->end; i++) {
        if (t->coders[i].first_rank == first) {
            RF_TRY(rf_deal_append_name(&names, idx++, n, t->coders[i].spec->coder.name));
        }
    }
    RF_TRY(n_ranks == 1
               ? rf_format(ranks, sizeof ranks, "rank %d", first)
               : rf_format(ranks, sizeof ranks, "ranks %d to %d", first, first + n_ranks - 1));
    rf_log(RF_LOG_INFO, "%s: %s", ranks,
           names.len > 0 ? names.data : "no coder, only pictures through the model");
fail:
    rf_str_fini(&names);
    return status;
}

rf_status rf_training_log_pass(const rf_training *t)
{
    rf_status status = RF_OK;
    const int64_t n = t->settings->n_coders, most = t->settings->train.coders_at_once;

    if (t->first > 0 || t->end < n) {
        const int64_t now = t->passes_before + 1;
        rf_log(RF_LOG_INFO,
               "pass %" PRId64 " of %" PRId64 ": coders %" PRId64 " to %" PRId64 " of %" PRId64,
               now, now + rf_run_passes_left(n - t->end, most), t->first + 1, t->end, n);
    }
    for (int g = 0; t->n_groups > 1 && g < t->n_groups; g++) {
        RF_TRY(log_group(t, g));
    }
fail:
    return status;
}

/* ---- start values ------------------------------------------------------------------------------
 */

static rf_status init_on_device(rf_training *t, rf_trained *c, const float *rows, int64_t n,
                                int64_t width)
{
    rf_status status = RF_OK;
    void *device = NULL;
    const size_t n_bytes = (size_t)(n * width) * sizeof *rows;

    RF_TRY(rf_memory_alloc(t->be, RF_MEMORY_DEVICE, n_bytes, &device));
    RF_TRY(rf_copy_in(t->stream, device, rows, n_bytes));
    const rf_view sample = rf_view_2d(device, n, width);
    RF_TRY(rf_coder_init(c->coder, t->stream, &sample));
    RF_TRY(rf_stream_synchronise(t->stream));
fail:
    rf_memory_free(t->be, RF_MEMORY_DEVICE, device);
    return status;
}

/* Also refuses samples with nothing in them. */
static rf_status init_from(rf_training *t, rf_trained *c, const float *rows, int64_t n,
                           int64_t width)
{
    rf_status status = RF_OK;
    const char *name = c->spec->coder.name;
    if (n == 0) {
        RF_FAIL(RF_ERR_NUMERIC, "coder '%s': none of the first pictures could be read", name);
    }
    RF_TRY(name_coder(c, init_on_device(t, c, rows, n, width)));
fail:
    return status;
}

rf_status rf_training_init_coders(rf_training *t)
{
    rf_status status = RF_OK;
    float *rows = NULL;
    int64_t n = 0, width = 0;

    for (int64_t i = t->first; i < t->end; i++) {
        rf_trained *c = &t->coders[i];
        RF_TRY(rf_activation_stream_sample(t->acts, i - t->first, c->spec->train.sample_tokens,
                                           &rows, &n, &width));
        status = c->coder != NULL ? init_from(t, c, rows, n, width) : RF_OK;
        RF_TRY(rf_comm_agree(t->comm, status));
        rf_free(rows);
        rows = NULL;
    }
fail:
    rf_free(rows);
    return status;
}

/* ---- files at the end --------------------------------------------------------------------------
 */

static int64_t tensor_bytes(const rf_coder *coder, int idx)
{
    const rf_view view = rf_coder_tensor_at(coder, idx).view;
    return view.data != NULL ? rf_view_n_elems(&view) * (int64_t)rf_dtype_bytes(view.dtype) : 0;
}

/* The tensors of `coder`, on the rank that has them and on rank 0, which made room. Collective over
 * these two; what one rank fails in, it still takes part in. */
static rf_status move_tensors(const rf_training *t, const rf_trained *c, rf_coder *coder,
                              unsigned char *host)
{
    rf_status status = RF_OK;
    const bool gives = rf_comm_rank(t->comm) == c->first_rank;

    for (int i = 0; i < rf_coder_n_tensors(coder); i++) {
        const rf_view view = rf_coder_tensor_at(coder, i).view;
        const size_t n_bytes = (size_t)tensor_bytes(coder, i);
        if (gives && n_bytes > 0 && status == RF_OK) {
            status = rf_copy_out(t->stream, host, view.data, n_bytes);
            status = status == RF_OK ? rf_stream_synchronise(t->stream) : status;
        }
        const rf_status moved = rf_comm_move(t->comm, host, (int64_t)n_bytes, c->first_rank, 0);
        status = status == RF_OK ? moved : status;
        if (!gives && n_bytes > 0 && status == RF_OK) {
            status = rf_copy_in(t->stream, view.data, host, n_bytes);
            status = status == RF_OK ? rf_stream_synchronise(t->stream) : status;
        }
    }
    return status;
}

/* *out: coder `c` on rank 0, the caller's own where it is not
 * trained there. Collective. */
static rf_status bring_coder(const rf_training *t, const rf_trained *c, rf_coder **out)
{
    rf_status status = RF_OK;
    const int rank = rf_comm_rank(t->comm);
    const bool takes_part = c->first_rank != 0 && (rank == 0 || rank == c->first_rank);
    rf_coder *coder = c->coder;
    unsigned char *host = NULL;
    int64_t most = 1;

    if (takes_part && rank == 0) {
        status = rf_coder_create(t->be, &c->spec->coder, &c->shape, &coder);
    }
    if (takes_part && status == RF_OK) {
        for (int i = 0; i < rf_coder_n_tensors(coder); i++) {
            most = rf_max_i64(most, tensor_bytes(coder, i));
        }
        host = rf_calloc(most, 1);
        status = host == NULL ? RF_ERR_NO_MEMORY : RF_OK;
    }
    RF_TRY(rf_comm_agree(t->comm, status));
    status = takes_part ? move_tensors(t, c, coder, host) : RF_OK;
    RF_TRY(rf_comm_agree(t->comm, status));
    *out = coder;
    coder = NULL;
fail:
    rf_free(host);
    if (coder != c->coder) {
        rf_coder_destroy(coder);
    }
    return status;
}

static rf_status write_coder(const rf_training *t, const rf_trained *c, const rf_coder *coder)
{
    rf_status status = RF_OK;
    char folder[RF_PATH_LEN], path[RF_PATH_LEN];
    const rf_coder_origin origin = {.model = t->model_name.data,
                                    .processing = t->processing,
                                    .model_hash = t->model_hash,
                                    .picture_hash = t->picture_hash};
    RF_TRY(rf_run_folder_coder(t->settings->output.dir, c->spec->coder.name, folder));
    RF_TRY(rf_path_join(path, folder, "coder.safetensors"));
    RF_TRY(rf_summary_write_coder(path, t->stream, coder, c->spec, &origin));
fail:
    return status;
}

rf_status rf_training_write_coders(const rf_training *t)
{
    rf_status status = RF_OK;
    for (int64_t i = t->first; i < t->end; i++) {
        const rf_trained *c = &t->coders[i];
        rf_coder *coder = NULL;
        RF_TRY(bring_coder(t, c, &coder));
        if (rf_comm_rank(t->comm) == 0) {
            status = write_coder(t, c, coder);
        }
        if (coder != c->coder) {
            rf_coder_destroy(coder);
        }
        RF_TRY(rf_comm_agree(t->comm, status));
    }
fail:
    return status;
}
