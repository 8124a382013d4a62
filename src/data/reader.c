/* A reader's batches. Tokens of a pool travel straight to the rank that owns their rows of the
 * batch, also when the rest of that batch is in a later pool; both sides compute who sends what, so
 * rows travel without an index. */
#include "data_impl.h"

#include <string.h>

static rf_status reader_check(const rf_reader_opts *opts, int64_t n_ranks)
{
    rf_status status = RF_OK;

    RF_REQUIRE(opts->batch_tokens >= 1, "batch_tokens=%" PRId64 ", expected >= 1",
               opts->batch_tokens);
    RF_REQUIRE(opts->total_tokens >= 0, "total_tokens=%" PRId64 ", expected >= 0",
               opts->total_tokens);
    RF_REQUIRE(opts->total_tokens > 0 || opts->epochs >= 1,
               "epochs=%" PRId64 ", expected >= 1 where total_tokens is 0", opts->epochs);
    RF_REQUIRE(opts->first_rank >= 0 && opts->n_ranks >= 0 && opts->n_ranks <= n_ranks &&
                   opts->first_rank <= n_ranks - rf_max_i64(1, opts->n_ranks),
               "batches shared by %d ranks from rank %d on, there are %" PRId64, opts->n_ranks,
               opts->first_rank, n_ranks);
    for (int i = 0; i < opts->n_sites; i++) {
        const rf_hook_point *point = &opts->sites[i].point;
        RF_REQUIRE(point->width >= 1, "hook point '%s' has width %" PRId64, point->name,
                   point->width);
    }
fail:
    return status;
}

/* Rank `rank`'s rows of a batch of `n_tokens`; none, at 0 or the end, where it is not one of the
 * reader's ranks. */
static void find_share(const rf_reader *rd, int64_t rank, int64_t n_tokens, int64_t *first,
                       int64_t *count)
{
    const int64_t place = rank - rd->first_rank;

    if (place >= 0 && place < rd->n_ranks) {
        rf_comm_share(n_tokens, RF_TOKEN_TILE, (int)place, rd->n_ranks, first, count);
    } else {
        *first = place < 0 ? 0 : n_tokens;
        *count = 0;
    }
}

/* The buffers of one batch. */
static rf_status reserve_batch(rf_activation_stream *st, rf_reader *rd)
{
    rf_status status = RF_OK;
    rf_backend *be = rf_stream_backend(st->stream);
    int64_t first = 0, whole = 0, last = 0, n_bytes = 0;

    /* A short last batch may give this rank more rows than a whole one: its tiles are shared out
     * anew, and it is not this rank that has the short one. */
    find_share(rd, st->rank, rf_min_i64(rd->opts.batch_tokens, rd->total), &first, &whole);
    find_share(rd, st->rank, rd->total - (rd->n_batches - 1) * rd->opts.batch_tokens, &first,
               &last);
    int64_t n_rows = rf_max_i64(1, rf_max_i64(whole, last));
    RF_TRY(rf_mul_i64(n_rows, rd->width * (int64_t)sizeof(float), "bytes of a batch", &n_bytes));
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)n_bytes, &rd->x));
    RF_TRY(rf_upload_init(&rd->upload, st->stream, st->copies, n_rows, n_rows));
    RF_ALLOC(rd->valid, n_rows);
    if (rd->opts.max_norm > 0) {
        void *norm = NULL;
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_PINNED, sizeof(float) * (size_t)n_rows, &norm));
        rd->norm = norm;
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, sizeof(float) * (size_t)n_rows,
                               &rd->device_norm));
    }
    RF_ALLOC(rd->pictures, n_rows);
    RF_ALLOC(rd->tokens, n_rows);
    RF_ALLOC(rd->classes, n_rows);
fail:
    return status;
}

/* Row t of one site must be about what row t of the other is. `rows` [2] are where the class begins
 * at each; there are equally many. */
static rf_status check_rows_agree(const rf_stream_frame *frame, const rf_reader_site *a,
                                  const rf_reader_site *b, const int64_t rows[2], int64_t n_rows)
{
    rf_status status = RF_OK;
    const char *name_a = rf_site_model_name(frame, a), *name_b = rf_site_model_name(frame, b);

    for (int64_t t = 0; t < n_rows; t++) {
        int32_t at_a[3], at_b[3];
        rf_token_class of_a = rf_site_class_of_row(frame, a, rows[0] + t, at_a);
        rf_token_class of_b = rf_site_class_of_row(frame, b, rows[1] + t, at_b);
        if (of_a != of_b) {
            RF_FAIL(RF_ERR_SETTING,
                    "sites of one coder need rows that belong together: row %" PRId64
                    " is a %s at '%s' of %s and a %s at '%s' of %s; use tokens patch or cls",
                    t, rf_token_class_names[of_a], a->point.name, name_a,
                    rf_token_class_names[of_b], b->point.name, name_b);
        }
        if (memcmp(at_a, at_b, sizeof at_a) != 0) {
            RF_FAIL(RF_ERR_SETTING,
                    "sites of one coder need patches in the same places: row %" PRId64
                    " is at (%d, %d) of the grid at '%s' of %s and at (%d, %d) at '%s' of %s",
                    t, (int)at_a[1], (int)at_a[2], a->point.name, name_a, (int)at_b[1],
                    (int)at_b[2], b->point.name, name_b);
        }
    }
fail:
    return status;
}

/* The reader's rows: every site's columns, and how many rows of the class a picture has. */
static rf_status find_parts(rf_activation_stream *st, const rf_stream_frame *frame,
                            const rf_reader_opts *opts, rf_reader *rd)
{
    rf_status status = RF_OK;
    const rf_reader_site *first = &opts->sites[0];

    RF_ALLOC(rd->parts, opts->n_sites);
    rd->n_parts = opts->n_sites;
    for (int i = 0; i < opts->n_sites; i++) {
        const rf_reader_site *site = &opts->sites[i];
        rf_reader_part *part = &rd->parts[i];
        int64_t n_rows = 0;
        RF_TRY(rf_site_class_rows(frame, site, opts->tokens, &part->first_row, &n_rows));
        if (i > 0 && n_rows != rd->n_rows) {
            RF_FAIL(RF_ERR_SETTING,
                    "sites of one coder need equally many rows a picture: '%s' of %s has %" PRId64
                    " (tokens %s) and '%s' of %s has %" PRId64,
                    first->point.name, rf_site_model_name(frame, first), rd->n_rows,
                    rf_token_class_names[opts->tokens], site->point.name,
                    rf_site_model_name(frame, site), n_rows);
        }
        rd->n_rows = n_rows;
        const int64_t rows[2] = {rd->parts[0].first_row, part->first_row};
        RF_TRY(check_rows_agree(frame, first, site, rows, n_rows));
        part->site = rf_site_find(st->sites, st->n_sites, site);
        part->width = site->point.width;
        part->column = rd->width;
        rd->width += part->width;
    }
    RF_ALLOC(rd->row_classes, rd->n_rows);
    for (int64_t t = 0; t < rd->n_rows; t++) {
        int32_t position[3];
        rd->row_classes[t] =
            (uint8_t)rf_site_class_of_row(frame, first, rd->parts[0].first_row + t, position);
    }
fail:
    return status;
}

rf_status rf_reader_init(rf_activation_stream *st, const rf_stream_frame *frame,
                         const rf_reader_opts *opts, rf_reader *rd)
{
    rf_status status = RF_OK;

    RF_TRY(reader_check(opts, st->size));
    rd->first_rank = opts->n_ranks > 0 ? opts->first_rank : 0;
    rd->n_ranks = opts->n_ranks > 0 ? opts->n_ranks : (int)st->size;
    rd->opts = *opts;
    rd->opts.sites = NULL;
    RF_TRY(find_parts(st, frame, opts, rd));
    RF_TRY(
        rf_mul_i64(st->order.n_pictures, rd->n_rows, "tokens of an epoch", &rd->tokens_per_epoch));
    rd->total = opts->total_tokens;
    if (rd->total == 0) {
        RF_TRY(rf_mul_i64(rd->tokens_per_epoch, opts->epochs, "tokens of all epochs", &rd->total));
    }
    rd->n_batches = rf_ceil_div(rd->total, opts->batch_tokens);
    RF_TRY(reserve_batch(st, rd));
    rf_reader_begin_batch(st, rd, 0);
fail:
    return status;
}

void rf_reader_fini(rf_activation_stream *st, rf_reader *rd)
{
    rf_backend *be = rf_stream_backend(st->stream);

    rf_free(rd->classes);
    rf_free(rd->tokens);
    rf_free(rd->pictures);
    rf_free(rd->valid);
    rf_memory_free(be, RF_MEMORY_DEVICE, rd->device_norm);
    rf_memory_free(be, RF_MEMORY_PINNED, rd->norm);
    rf_upload_fini(&rd->upload);
    rf_memory_free(be, RF_MEMORY_DEVICE, rd->x);
    rf_free(rd->row_classes);
    rf_free(rd->parts);
    *rd = (rf_reader){0};
}

void rf_reader_begin_batch(const rf_activation_stream *st, rf_reader *rd, int64_t batch_idx)
{
    rd->taken = batch_idx;
    rd->begin = rf_min_i64(batch_idx * rd->opts.batch_tokens, rd->total);
    rd->end = rf_min_i64(rd->begin + rd->opts.batch_tokens, rd->total);
    rd->filled = rd->begin;
    rd->n_valid = 0;
    find_share(rd, st->rank, rd->end - rd->begin, &rd->first, &rd->count);
}

rf_status rf_exchange_scratch_init(rf_activation_stream *st)
{
    rf_status status = RF_OK;
    rf_exchange_scratch *x = &st->scratch;
    rf_backend *be = rf_stream_backend(st->stream);
    int64_t max_batch = 1, max_index = 1, n_bytes = 0, max_bytes = 0;

    for (int64_t r = 0; r < st->n_readers; r++) {
        const rf_reader *rd = &st->readers[r];
        int64_t n_rows = rf_min_i64(rd->opts.batch_tokens, rd->total);
        max_batch = rf_max_i64(max_batch, n_rows);
        max_index = rf_max_i64(max_index, n_rows * rd->n_parts);
        RF_TRY(
            rf_mul_i64(n_rows, rd->width * (int64_t)sizeof(float), "bytes of a batch", &n_bytes));
        max_bytes = rf_max_i64(max_bytes, n_bytes);
    }
    RF_ALLOC(x->sources, max_batch);
    RF_ALLOC(x->own, max_batch);
    RF_TRY(rf_mul_i64(max_index, (int64_t)sizeof(int64_t), "bytes of an index", &n_bytes));
    RF_TRY(rf_upload_init(&x->index, st->stream, st->copies, n_bytes, n_bytes));
    RF_ALLOC(x->send_bytes, st->size);
    RF_ALLOC(x->recv_bytes, st->size);
    RF_ALLOC(x->share_end, st->size);
    RF_ALLOC(x->next, st->size);
    if (st->size > 1) {
        /* One rank may have all rows of a batch to send, and get no more than all. */
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)max_bytes, &x->send));
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)max_bytes, &x->recv));
    }
fail:
    return status;
}

void rf_exchange_scratch_fini(rf_activation_stream *st)
{
    rf_exchange_scratch *x = &st->scratch;
    rf_backend *be = rf_stream_backend(st->stream);

    rf_memory_free(be, RF_MEMORY_DEVICE, x->recv);
    rf_memory_free(be, RF_MEMORY_DEVICE, x->send);
    rf_free(x->next);
    rf_free(x->share_end);
    rf_free(x->recv_bytes);
    rf_free(x->send_bytes);
    rf_upload_fini(&x->index);
    rf_free(x->own);
    rf_free(x->sources);
    *x = (rf_exchange_scratch){0};
}

/* Positions of the batch that are moved now. */
typedef struct span {
    int64_t begin, end;           /* positions */
    int64_t own_first, own_count; /* rows of this rank's share among them, from its first row */
    int64_t n_send;               /* rows that this rank sends */
} span;

/* Where each token is, and how many bytes go from whom to whom; `own` becomes the tokens that this
 * rank sends, receiver by receiver. */
static void plan_send(rf_activation_stream *st, const rf_reader *rd, span *sp)
{
    rf_exchange_scratch *x = &st->scratch;
    int64_t row_bytes = rd->width * (int64_t)sizeof(float), receiver = 0;
    int64_t n = sp->end - sp->begin;

#pragma omp parallel for schedule(static) if (n >= 1024)
    for (int64_t i = 0; i < n; i++) {
        x->sources[i] = rf_pool_find(st, rd, sp->begin + i);
    }
    for (int64_t r = 0; r < st->size; r++) {
        int64_t first = 0, count = 0;
        find_share(rd, r, rd->end - rd->begin, &first, &count);
        x->share_end[r] = first + count;
        x->send_bytes[r] = 0;
        x->recv_bytes[r] = 0;
    }
    for (int64_t i = 0; i < n; i++) {
        const rf_token_source *source = &x->sources[i];
        while (sp->begin + i - rd->begin >= x->share_end[receiver]) {
            receiver++;
        }
        if (source->owner == st->rank) {
            x->own[sp->n_send++] = i;
            x->send_bytes[receiver] += row_bytes;
        }
        if (receiver == st->rank) {
            x->recv_bytes[source->owner] += row_bytes;
        }
    }
}

/* What is known about the batch's rows without moving anything. */
static void note_rows(const rf_activation_stream *st, rf_reader *rd, const span *sp)
{
    for (int64_t i = 0; i < sp->end - sp->begin; i++) {
        const rf_token_source *source = &st->scratch.sources[i];
        int64_t row = sp->begin + i - rd->begin - rd->first;
        rd->n_valid += source->is_valid;
        if (row >= 0 && row < rd->count) {
            rd->valid[row] = source->is_valid;
            rd->pictures[row] = source->picture;
            rd->tokens[row] = rd->parts[0].first_row + source->row;
            rd->classes[row] = rd->row_classes[source->row];
        }
    }
}

/* The tokens of `own` out of the pool to rows of the reader at `to`, sites side by side. */
static rf_status gather_own(rf_activation_stream *st, const rf_reader *rd, const span *sp, void *to)
{
    rf_status status = RF_OK;
    rf_exchange_scratch *x = &st->scratch;
    const int64_t n = sp->n_send;
    void *staged = NULL, *device = NULL;

    if (n == 0) {
        return RF_OK;
    }
    RF_TRY(rf_upload_stage(&x->index, &staged));
    for (int p = 0; p < rd->n_parts; p++) {
        int64_t *index = (int64_t *)staged + p * n;
        for (int64_t i = 0; i < n; i++) {
            index[i] = rf_pool_row(st, &rd->parts[p], &x->sources[x->own[i]]);
        }
    }
    RF_TRY(rf_upload_send(&x->index, staged, (size_t)(rd->n_parts * n) * sizeof(int64_t), &device));
    for (int p = 0; p < rd->n_parts; p++) {
        const rf_reader_part *part = &rd->parts[p];
        int64_t n_rows =
            st->pool.capacity * st->order.group_pictures * st->sites[part->site].n_rows;
        const rf_view rows = rf_view_2d(st->pool.rows[part->site], n_rows, part->width);
        const rf_view index = rf_view_nd((int64_t *)device + p * n, RF_I64, 1, &n);
        rf_view columns = rf_view_2d((float *)to + part->column, n, part->width);
        columns.stride[0] = rd->width;
        RF_TRY(rf_gather_rows(st->stream, &rows, &index, &columns));
    }
fail:
    return status;
}

/* `index` becomes the place in the receive buffer, sender by sender, of each of the share's rows.
 */
static void plan_unpack(rf_activation_stream *st, const rf_reader *rd, const span *sp,
                        int64_t *index)
{
    rf_exchange_scratch *x = &st->scratch;
    int64_t row_bytes = rd->width * (int64_t)sizeof(float), n = 0;
    const rf_token_source *own = x->sources + (rd->begin + rd->first + sp->own_first - sp->begin);

    for (int64_t r = 0; r < st->size; r++) {
        x->next[r] = n;
        n += x->recv_bytes[r] / row_bytes;
    }
    for (int64_t i = 0; i < sp->own_count; i++) {
        index[i] = x->next[own[i].owner]++;
    }
}

/* What was received to this rank's rows of the batch. */
static rf_status unpack(rf_activation_stream *st, const rf_reader *rd, const span *sp, float *to)
{
    rf_status status = RF_OK;
    rf_exchange_scratch *x = &st->scratch;
    const rf_view from = rf_view_2d(x->recv, sp->own_count, rd->width);
    const rf_view share = rf_view_2d(to, sp->own_count, rd->width);
    void *staged = NULL, *device = NULL;

    RF_TRY(rf_upload_stage(&x->index, &staged));
    plan_unpack(st, rd, sp, staged);
    RF_TRY(rf_upload_send(&x->index, staged, (size_t)sp->own_count * sizeof(int64_t), &device));
    const rf_view index = rf_view_nd(device, RF_I64, 1, &sp->own_count);
    RF_TRY(rf_gather_rows(st->stream, &from, &index, &share));
fail:
    return status;
}

/* Rows of the pool to the batch's owners. Collective. */
static rf_status move_rows(rf_activation_stream *st, rf_reader *rd, const span *sp)
{
    rf_status status = RF_OK;
    rf_exchange_scratch *x = &st->scratch;
    float *to = (float *)rd->x + sp->own_first * rd->width;

    if (st->size == 1) {
        return gather_own(st, rd, sp, to);
    }
    status = gather_own(st, rd, sp, x->send);
    RF_TRY(rf_comm_agree(st->comm, status));
    status = rf_all_to_all(st->stream, st->comm, x->send, x->send_bytes, x->recv, x->recv_bytes);
    if (status == RF_OK && sp->own_count > 0) {
        status = unpack(st, rd, sp, to);
    }
    RF_TRY(rf_comm_agree(st->comm, status));
fail:
    return status;
}

rf_status rf_reader_fill(rf_activation_stream *st, rf_reader *rd)
{
    rf_status status = RF_OK;
    span sp = {.begin = rd->filled};
    int64_t pool_begin = 0, pool_end = 0;

    if (st->at < 0) {
        return RF_OK;
    }
    rf_order_pool_span(&st->order, st->at_epoch, st->at % st->order.n_pools, rd->n_rows,
                       &pool_begin, &pool_end);
    sp.end = rf_min_i64(rd->end, pool_end);
    if (sp.begin >= sp.end) {
        return RF_OK;
    }
    RF_BUG(sp.begin >= pool_begin,
           "token %" PRId64 " of '%s' is behind the pool that begins with %" PRId64, sp.begin,
           st->sites[rd->parts[0].site].point.name, pool_begin);
    RF_TRY(rf_activation_stream_require(st, st->at));
    int64_t own_begin = rf_max_i64(sp.begin - rd->begin, rd->first);
    int64_t own_end = rf_min_i64(sp.end - rd->begin, rd->first + rd->count);
    sp.own_first = rf_max_i64(0, own_begin - rd->first);
    sp.own_count = rf_max_i64(0, own_end - own_begin);
    plan_send(st, rd, &sp);
    note_rows(st, rd, &sp);
    RF_TRY(move_rows(st, rd, &sp));
    rd->filled = sp.end;
fail:
    return status;
}
