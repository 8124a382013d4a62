/* Groups that a store has come from there; others are made live and written to it: while a group is
 * made the one before it comes to the host and is written. */
#include "source_impl.h"

#include <stdio.h>
#include <string.h>

/* A group on its way to the store. */
typedef struct group_out {
    int64_t group;  /* -1: none */
    void **blocks;  /* [n_sites] pinned, in the store's type */
    uint8_t *valid; /* [group_pictures] */
} group_out;

typedef struct cached_source {
    rf_group_source live, stored;
    rf_store *store;
    rf_stream *stream, *copies;
    int64_t n_sites;
    bool *is_stored; /* [n_groups] in the order in which they will be asked for, as the next */
    int64_t *groups;
    int64_t n_groups, n_taken;
    int depth;         /* of what follows: rf_upload_depth */
    group_out outs[2]; /* they take turns */
    int at;            /* the one in use last */
    void *staged[2];   /* device: a site in the store's type, in turns; NULL where that is fp32 */
    rf_event *made;
    rf_event *copied[2]; /* of `staged` */
} cached_source;

/* Write what came to the host. */
static rf_status write_out(const cached_source *from, group_out *out)
{
    const int64_t group = out->group;
    out->group = -1; /* a store that fails is not asked again */
    return group < 0
               ? RF_OK
               : rf_store_write(from->store, group, (const void *const *)out->blocks, out->valid);
}

/* Nothing is on its way any more. */
static rf_status finish_writing(cached_source *from)
{
    rf_status status = RF_OK;

    for (int i = 1; i <= from->depth; i++) {
        group_out *out = &from->outs[(from->at + i) % from->depth];
        if (out->group >= 0) {
            RF_TRY(rf_stream_synchronise(from->copies));
            RF_TRY(write_out(from, out));
        }
    }
fail:
    return status;
}

/* The groups of `wanted` kind alone. */
static rf_status start_part(const cached_source *from, rf_group_source part, bool wanted,
                            const int64_t *pictures, const int64_t *first, int64_t n_groups)
{
    rf_status status = RF_OK;
    int64_t *some = NULL, *begins = NULL, n = 0;

    RF_ALLOC(some, n_groups > 0 ? first[n_groups] : 0);
    RF_ALLOC(begins, n_groups + 1);
    for (int64_t g = 0; g < n_groups; g++) {
        if (from->is_stored[g] == wanted) {
            const int64_t n_pictures = first[g + 1] - first[g];
            memcpy(some + begins[n], pictures + first[g], (size_t)n_pictures * sizeof *some);
            begins[n + 1] = begins[n] + n_pictures;
            n++;
        }
    }
    RF_TRY(part.start(part.self, some, begins, n));
fail:
    rf_free(begins);
    rf_free(some);
    return status;
}

static rf_status source_start(void *self, const int64_t *pictures, const int64_t *first,
                              int64_t n_groups)
{
    rf_status status = RF_OK;
    cached_source *from = self;
    const int64_t group_pictures = rf_store_get_head(from->store)->group_pictures;

    RF_TRY(finish_writing(from));
    rf_free(from->is_stored);
    rf_free(from->groups);
    from->is_stored = NULL;
    from->groups = NULL;
    from->n_groups = n_groups;
    from->n_taken = 0;
    RF_ALLOC(from->is_stored, n_groups);
    RF_ALLOC(from->groups, n_groups);
    for (int64_t g = 0; g < n_groups; g++) {
        from->groups[g] = pictures[first[g]] / group_pictures;
        RF_TRY(rf_store_has(from->store, from->groups[g], &from->is_stored[g]));
    }
    RF_TRY(start_part(from, from->live, false, pictures, first, n_groups));
    RF_TRY(start_part(from, from->stored, true, pictures, first, n_groups));
fail:
    return status;
}

/* Rows of a site, in the store's type, to `block`. */
static rf_status take_site(cached_source *from, const rf_site *site, int64_t s, int64_t n_pictures,
                           void *rows, void *block)
{
    rf_status status = RF_OK;
    const rf_dtype dtype = rf_store_get_head(from->store)->dtype;
    const int64_t n = n_pictures * site->n_rows * site->point.width;
    const int64_t turn = s % from->depth;
    void *values = rows;

    if (dtype != RF_F32) {
        const rf_view wide = rf_view_1d(rows, n),
                      narrow = rf_view_nd(from->staged[turn], dtype, 1, &n);
        RF_TRY(rf_event_wait(from->copied[turn], from->stream));
        RF_TRY(rf_convert(from->stream, &wide, &narrow));
        values = from->staged[turn];
    }
    RF_TRY(rf_event_record(from->made, from->stream));
    RF_TRY(rf_event_wait(from->made, from->copies));
    RF_TRY(rf_copy_out(from->copies, block, values, (size_t)n * rf_dtype_bytes(dtype)));
    RF_TRY(rf_event_record(from->copied[turn], from->copies));
    if (dtype == RF_F32) {
        RF_TRY(rf_event_wait(from->copied[turn], from->stream)); /* the rows are the caller's */
    }
fail:
    return status;
}

/* The group in work begins its way to the store, and the last one gets there. */
static rf_status write_group(cached_source *from, const rf_site *sites, int64_t n_pictures,
                             void *const *rows, const uint8_t *valid)
{
    rf_status status = RF_OK;
    group_out *last = &from->outs[from->at];

    RF_TRY(rf_stream_synchronise(from->copies)); /* of the last group, before this one's begin */
    from->at = (from->at + 1) % from->depth;
    group_out *out = &from->outs[from->at];
    for (int64_t s = 0; s < from->n_sites; s++) {
        RF_TRY(take_site(from, &sites[s], s, n_pictures, rows[s], out->blocks[s]));
    }
    memcpy(out->valid, valid, (size_t)n_pictures);
    if (last != out) {
        RF_TRY(write_out(from, last));
    }
    out->group = from->groups[from->n_taken];
    if (from->depth == 1 || from->n_taken + 1 == from->n_groups) {
        RF_TRY(finish_writing(from)); /* nothing is gained by waiting, or nobody comes again */
    }
fail:
    return status;
}

static rf_status source_next(void *self, const rf_site *sites, int64_t n_sites, int64_t n_pictures,
                             void *const *rows, uint8_t *valid)
{
    rf_status status = RF_OK;
    cached_source *from = self;

    if (from->is_stored[from->n_taken]) {
        RF_TRY(from->stored.next(from->stored.self, sites, n_sites, n_pictures, rows, valid));
    } else {
        RF_TRY(from->live.next(from->live.self, sites, n_sites, n_pictures, rows, valid));
        RF_TRY(rf_pool_clear_bad_rows(from->stream, sites, n_sites, n_pictures, rows, valid));
        RF_TRY(write_group(from, sites, n_pictures, rows, valid));
    }
    from->n_taken++;
fail:
    return status;
}

static const char *source_name(void *self, int64_t picture)
{
    const cached_source *from = self;
    return from->live.name(from->live.self, picture);
}

static const char *source_reason(void *self, int64_t picture)
{
    const cached_source *from = self;
    const char *reason = from->live.reason(from->live.self, picture);
    return reason != NULL ? reason : from->stored.reason(from->stored.self, picture);
}

/* The group that was on its way when its run ended, as well as it can be written. */
static void finish_late(cached_source *from)
{
    char text[RF_ERROR_TEXT_LEN];
    snprintf(text, sizeof text, "%s", rf_error_text());
    const rf_status status = finish_writing(from);
    if (status != RF_OK) {
        rf_log(RF_LOG_WARN, "the last group was not written to '%s': %s",
               rf_store_path(from->store), rf_error_text());
        (void)rf_error_restore(status, text); /* what ended the run is what there is to say */
    }
}

static void free_out(const cached_source *from, group_out *out)
{
    for (int64_t s = 0; out->blocks != NULL && s < from->n_sites; s++) {
        rf_memory_free(rf_stream_backend(from->stream), RF_MEMORY_PINNED, out->blocks[s]);
    }
    rf_free(out->blocks);
    rf_free(out->valid);
}

static void source_destroy(void *self)
{
    cached_source *from = self;
    if (from == NULL) {
        return;
    }
    finish_late(from);
    from->live.destroy(from->live.self);
    if (from->stored.destroy != NULL) {
        from->stored.destroy(from->stored.self);
    }
    rf_upload_settle(from->copies);
    for (int i = 0; i < 2; i++) {
        free_out(from, &from->outs[i]);
        rf_memory_free(rf_stream_backend(from->stream), RF_MEMORY_DEVICE, from->staged[i]);
        rf_event_destroy(from->copied[i]);
    }
    rf_event_destroy(from->made);
    rf_stream_destroy(from->copies);
    rf_free(from->groups);
    rf_free(from->is_stored);
    rf_free(from);
}

static rf_status reserve(cached_source *from)
{
    rf_status status = RF_OK;
    rf_backend *be = rf_stream_backend(from->stream);
    const rf_store_head *head = rf_store_get_head(from->store);

    RF_TRY(rf_stream_create(be, &from->copies));
    RF_TRY(rf_event_create(be, &from->made));
    for (int i = 0; i < from->depth; i++) {
        group_out *out = &from->outs[i];
        int64_t largest = 0;
        RF_TRY(rf_event_create(be, &from->copied[i]));
        RF_ALLOC(out->valid, head->group_pictures);
        RF_ALLOC(out->blocks, from->n_sites);
        for (int64_t s = 0; s < from->n_sites; s++) {
            const int64_t n_bytes = rf_store_block_bytes(from->store, 0, s);
            largest = rf_max_i64(largest, n_bytes);
            RF_TRY_DOING(rf_memory_alloc(be, RF_MEMORY_PINNED, (size_t)n_bytes, &out->blocks[s]),
                         "groups on their way to the store");
        }
        if (head->dtype != RF_F32) {
            RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)largest, &from->staged[i]));
        }
    }
fail:
    return status;
}

rf_status rf_cached_source_create(const rf_activation_stream_opts *opts, const rf_site *sites,
                                  int64_t n_sites, rf_group_source live, rf_group_source *out)
{
    rf_status status = RF_OK;
    cached_source *from = rf_calloc(1, sizeof *from);

    if (from == NULL) {
        live.destroy(live.self);
        return RF_ERR_NO_MEMORY;
    }
    from->live = live;
    from->store = opts->store;
    from->stream = opts->stream;
    from->n_sites = n_sites;
    from->depth = rf_upload_depth(rf_stream_backend(opts->stream));
    from->outs[0].group = from->outs[1].group = -1;
    RF_BUG(rf_store_get_head(opts->store)->n_sites == n_sites,
           "the store has other sites than the readers");
    RF_TRY(reserve(from));
    RF_TRY(rf_store_source_create(opts, sites, n_sites, &from->stored));
    *out = (rf_group_source){
        .self = from,
        .start = source_start,
        .next = source_next,
        .name = source_name,
        .reason = source_reason,
        .destroy = source_destroy,
    };
    return RF_OK;
fail:
    source_destroy(from);
    return status;
}
