/* The activation stream: one pass over the pictures, any number of readers. */
#include "data_impl.h"

#include <string.h>

/* ---- open and close ---------------------------------------------------------------------------
 */

rf_status rf_readers_check(const rf_reader_opts *readers, int64_t n_readers, int n_models)
{
    rf_status status = RF_OK;

    RF_REQUIRE(n_models >= 1 && n_models <= RF_MAX_MODELS, "%d models, expected 1 to %d", n_models,
               RF_MAX_MODELS);
    RF_REQUIRE(n_readers >= 1, "a stream needs a reader");
    for (int64_t r = 0; r < n_readers; r++) {
        const rf_reader_opts *opts = &readers[r];
        RF_REQUIRE(opts->sites != NULL && opts->n_sites >= 1 && opts->n_sites <= 2 * RF_MAX_SITES,
                   "reader %" PRId64 " has %d sites, expected 1 to %d", r, opts->n_sites,
                   2 * RF_MAX_SITES);
        for (int i = 0; i < opts->n_sites; i++) {
            RF_REQUIRE(opts->sites[i].model >= 0 && opts->sites[i].model < n_models,
                       "reader %" PRId64 ": there is no model %d", r, opts->sites[i].model);
        }
    }
fail:
    return status;
}

int64_t rf_site_find(const rf_site *sites, int64_t n, const rf_reader_site *wanted)
{
    int64_t s = 0;
    while (s < n && (sites[s].model != wanted->model ||
                     strcmp(sites[s].point.name, wanted->point.name) != 0)) {
        s++;
    }
    return s;
}

/* Put a reader's site into `sites`, or widen the one that is there. */
static rf_status add_site(const rf_stream_frame *frame, const rf_reader_site *wanted,
                          rf_token_class tokens, rf_site *sites, int64_t *n)
{
    rf_status status = RF_OK;
    int64_t first = 0, count = 0, s = rf_site_find(sites, *n, wanted);

    RF_TRY(rf_site_class_rows(frame, wanted, tokens, &first, &count));
    if (s == *n) {
        sites[(*n)++] = (rf_site){wanted->model, wanted->point, first, count};
        return RF_OK;
    }
    int64_t end = rf_max_i64(first + count, sites[s].first_row + sites[s].n_rows);
    sites[s].first_row = rf_min_i64(first, sites[s].first_row);
    sites[s].n_rows = end - sites[s].first_row;
fail:
    return status;
}

rf_status rf_site_list(const rf_stream_frame *frame, const rf_reader_opts *readers,
                       int64_t n_readers, rf_site **out, int64_t *n)
{
    rf_status status = RF_OK;
    rf_site *sites = NULL;
    int64_t n_sites = 0, n_most = 0;

    RF_TRY(rf_readers_check(readers, n_readers, frame->n_models));
    for (int64_t r = 0; r < n_readers; r++) {
        n_most += readers[r].n_sites;
    }
    RF_ALLOC(sites, n_most);
    for (int64_t r = 0; r < n_readers; r++) {
        for (int i = 0; i < readers[r].n_sites; i++) {
            RF_TRY(add_site(frame, &readers[r].sites[i], readers[r].tokens, sites, &n_sites));
        }
    }
    *out = sites;
    *n = n_sites;
    return RF_OK;
fail:
    rf_free(sites);
    return status;
}

static rf_status init_parts(rf_activation_stream *st, const rf_stream_frame *frame,
                            const rf_reader_opts *readers, int64_t n_readers)
{
    rf_status status = RF_OK;
    int64_t n_epochs = 0;

    RF_REQUIRE(frame->max_bad_share >= 0 && frame->max_bad_share <= 1,
               "max_bad_share=%g, expected 0 to 1", frame->max_bad_share);
    RF_TRY(rf_stream_create(rf_stream_backend(st->stream), &st->copies));
    RF_TRY(rf_order_init(&st->order, frame->seed, frame->n_pictures, frame->group_pictures,
                         frame->pool_groups));
    if (frame->share > 0) {
        RF_TRY(rf_order_use_share(&st->order, frame->share));
    }
    RF_TRY(rf_site_list(frame, readers, n_readers, &st->sites, &st->n_sites));
    RF_ALLOC(st->readers, n_readers);
    st->n_readers = n_readers;
    for (int64_t r = 0; r < n_readers; r++) {
        rf_reader *rd = &st->readers[r];
        RF_TRY(rf_reader_init(st, frame, &readers[r], rd));
        n_epochs = rf_max_i64(n_epochs, rf_ceil_div(rd->total, rd->tokens_per_epoch));
    }
    RF_TRY(rf_exchange_scratch_init(st));
    RF_TRY(rf_pool_init(st));
    RF_TRY(rf_keep_init(st, frame->keep_bytes, n_epochs, frame->deals_as_first));
    RF_TRY(rf_bad_pictures_init(st));
fail:
    return status;
}

static uint64_t hash_i64(uint64_t hash, int64_t value)
{
    return rf_hash(hash, &value, sizeof value);
}

/* What the order and the exchanges rest on must be the same everywhere: a rank that sees another
 * folder would send rows that nobody waits for. Collective. */
static rf_status check_agreement(const rf_comm *comm, const rf_stream_frame *frame,
                                 const rf_reader_opts *readers, int64_t n_readers)
{
    rf_status status = RF_OK;
    uint64_t order = hash_i64(RF_HASH_START, frame->n_pictures), settings = RF_HASH_START;

    order = rf_hash(order, &frame->pictures_hash, sizeof frame->pictures_hash);
    settings = rf_hash(settings, &frame->seed, sizeof frame->seed);
    settings = rf_hash(settings, &frame->max_bad_share, sizeof frame->max_bad_share);
    settings = rf_hash(settings, &frame->share, sizeof frame->share);
    settings = hash_i64(settings, frame->group_pictures);
    settings = hash_i64(settings, frame->pool_groups);
    settings = hash_i64(settings, frame->keep_bytes);
    for (int64_t r = 0; r < n_readers; r++) {
        for (int i = 0; i < readers[r].n_sites; i++) {
            const rf_reader_site *site = &readers[r].sites[i];
            settings = hash_i64(settings, site->model);
            settings = rf_hash(settings, site->point.name, strlen(site->point.name) + 1);
        }
        settings = hash_i64(settings, (int64_t)readers[r].tokens);
        settings = hash_i64(settings, readers[r].batch_tokens);
        settings = hash_i64(settings, readers[r].epochs);
        settings = hash_i64(settings, readers[r].total_tokens);
        settings = rf_hash(settings, &readers[r].max_norm, sizeof readers[r].max_norm);
        settings = hash_i64(settings, readers[r].first_rank);
        settings = hash_i64(settings, readers[r].n_ranks);
    }
    /* Halved, so that the negative exists. */
    int64_t a = (int64_t)(order >> 1), b = (int64_t)(settings >> 1);
    int64_t most[4] = {a, -a, b, -b};
    RF_TRY(rf_comm_max_i64(comm, most, 4));
    RF_REQUIRE(most[0] == -most[1],
               "the ranks see different pictures; every rank needs the same folder");
    RF_REQUIRE(most[2] == -most[3], "the ranks have different settings of the activation stream");
fail:
    return status;
}

rf_status rf_activation_stream_assemble(const rf_stream_frame *frame, rf_group_source source,
                                        const rf_reader_opts *readers, int64_t n_readers,
                                        rf_activation_stream **out)
{
    rf_status status = RF_OK;
    rf_activation_stream *st = NULL;

    *out = NULL;
    st = rf_calloc(1, sizeof *st);
    if (st == NULL) {
        status = RF_ERR_NO_MEMORY;
        source.destroy(source.self);
    } else {
        st->stream = frame->stream;
        st->comm = frame->comm;
        st->rank = rf_comm_rank(frame->comm);
        st->size = rf_comm_size(frame->comm);
        st->max_bad_share = frame->max_bad_share;
        st->source = source;
        st->at = -1;
        st->at_epoch.epoch = -1;
        status = init_parts(st, frame, readers, n_readers);
    }
    RF_TRY(rf_comm_agree(frame->comm, status));
    RF_TRY(check_agreement(frame->comm, frame, readers, n_readers));
    *out = st;
    return RF_OK;
fail:
    rf_activation_stream_close(st);
    return status;
}

void rf_activation_stream_close(rf_activation_stream *st)
{
    if (st == NULL) {
        return;
    }
    rf_order_fini(&st->order);
    rf_bad_pictures_fini(st);
    rf_keep_fini(st);
    rf_pool_fini(st);
    rf_exchange_scratch_fini(st);
    for (int64_t r = 0; r < st->n_readers; r++) {
        rf_reader_fini(st, &st->readers[r]);
    }
    rf_free(st->readers);
    rf_free(st->sites);
    rf_stream_destroy(st->copies);
    st->source.destroy(st->source.self);
    rf_free(st);
}

/* ---- what is known without moving -------------------------------------------------------------
 */

int64_t rf_activation_stream_n_batches(const rf_activation_stream *st, int64_t reader)
{
    return st->readers[reader].n_batches;
}

int64_t rf_activation_stream_tokens_per_epoch(const rf_activation_stream *st, int64_t reader)
{
    return st->readers[reader].tokens_per_epoch;
}

rf_status rf_activation_stream_bad(const rf_activation_stream *st, int64_t *n_bad,
                                   rf_str *names_and_reasons)
{
    rf_status status = RF_OK;
    const rf_bad_pictures *bad = &st->bad;

    *n_bad = bad->n_bad;
    if (names_and_reasons == NULL || bad->n_bad == 0) {
        return RF_OK;
    }
    RF_TRY(rf_str_append(names_and_reasons, "%s", bad->lines.data));
    if (bad->n_bad > bad->n_named) {
        RF_TRY(
            rf_str_append(names_and_reasons, "and %" PRId64 " more\n", bad->n_bad - bad->n_named));
    }
fail:
    return status;
}

/* ---- moving -----------------------------------------------------------------------------------
 */

rf_status rf_activation_stream_require(rf_activation_stream *st, int64_t ordinal)
{
    rf_status status = RF_OK;

    if (st->keep.is_on && st->pool.ordinal != ordinal) {
        RF_TRY(rf_comm_agree(st->comm, rf_keep_let_go(st)));
    }
    RF_TRY(rf_pool_require(st, ordinal));
fail:
    return status;
}

static void set_at(rf_activation_stream *st, int64_t ordinal)
{
    int64_t epoch = ordinal / st->order.n_pools;

    st->at = ordinal;
    if (st->at_epoch.epoch != epoch) {
        st->at_epoch = rf_order_find_epoch(&st->order, epoch);
    }
}

static bool is_at_end(const rf_reader *rd)
{
    return rd->taken == rd->n_batches;
}

static rf_status fill_all(rf_activation_stream *st)
{
    rf_status status = RF_OK;

    for (int64_t r = 0; r < st->n_readers; r++) {
        RF_TRY(rf_reader_fill(st, &st->readers[r]));
    }
fail:
    return status;
}

rf_status rf_activation_stream_seek(rf_activation_stream *st, const int64_t *batches_done)
{
    rf_status status = RF_OK;
    int64_t first = INT64_MAX, last = INT64_MAX;

    for (int64_t r = 0; r < st->n_readers; r++) {
        RF_REQUIRE(batches_done[r] >= 0 && batches_done[r] <= st->readers[r].n_batches,
                   "reader %" PRId64 " cannot have taken %" PRId64 " of %" PRId64 " batches", r,
                   batches_done[r], st->readers[r].n_batches);
        RF_TRY(rf_comm_check_same(st->comm, "batches_done", batches_done[r]));
    }
    for (int64_t r = 0; r < st->n_readers; r++) {
        rf_reader *rd = &st->readers[r];
        rf_reader_begin_batch(st, rd, batches_done[r]);
        if (!is_at_end(rd)) {
            int64_t end = rf_order_pool_at(&st->order, rd->n_rows, rd->end - 1);
            first = rf_min_i64(first, rf_order_pool_at(&st->order, rd->n_rows, rd->begin));
            last = rf_min_i64(last, end);
        }
    }
    st->at = -1;
    for (int64_t t = first; t <= last && first != INT64_MAX; t++) {
        set_at(st, t);
        RF_TRY(rf_activation_stream_require(st, t));
        RF_TRY(fill_all(st));
    }
fail:
    return status;
}

rf_status rf_activation_stream_next(rf_activation_stream *st, int64_t reader, rf_token_batch *out,
                                    bool *has)
{
    rf_status status = RF_OK;
    void *staged = NULL, *row_valid = NULL;

    *has = false;
    *out = (rf_token_batch){0};
    RF_REQUIRE(reader >= 0 && reader < st->n_readers, "reader=%" PRId64 ", expected 0 to %" PRId64,
               reader, st->n_readers - 1);
    rf_reader *rd = &st->readers[reader];
    if (is_at_end(rd)) {
        return RF_OK;
    }
    RF_TRY(rf_reader_fill(st, rd));
    if (rd->filled < rd->end) {
        return RF_OK;
    }
    if (rd->opts.max_norm > 0) {
        RF_TRY(rf_reader_drop_outliers(st, rd));
    }
    RF_TRY(rf_upload_stage(&rd->upload, &staged));
    memcpy(staged, rd->valid, (size_t)rd->count);
    RF_TRY(rf_upload_send(&rd->upload, staged, (size_t)rd->count, &row_valid));
    *out = (rf_token_batch){
        .stream = st->stream,
        .x = rf_view_2d(rd->x, rd->count, rd->width),
        .row_valid = row_valid,
        .first_row = rd->first,
        .n_rows = rd->end - rd->begin,
        .n_valid = rd->n_valid,
        .batch_idx = rd->taken,
        .pictures = rd->pictures,
        .tokens = rd->tokens,
        .classes = rd->classes,
    };
    rf_reader_begin_batch(st, rd, rd->taken + 1);
    *has = true;
fail:
    return status;
}

rf_status rf_activation_stream_advance(rf_activation_stream *st, bool *more)
{
    rf_status status = RF_OK;
    bool any = false;

    *more = false;
    RF_TRY(fill_all(st));
    for (int64_t r = 0; r < st->n_readers; r++) {
        const rf_reader *rd = &st->readers[r];
        RF_REQUIRE(is_at_end(rd) || rd->filled < rd->end,
                   "advance would drop batch %" PRId64 " of reader %" PRId64
                   ": it is whole and next has not taken it",
                   rd->taken, r);
        any = any || !is_at_end(rd);
    }
    if (any) {
        RF_TRY(rf_activation_stream_require(st, st->at + 1));
        set_at(st, st->at + 1);
    }
    *more = any;
fail:
    return status;
}
