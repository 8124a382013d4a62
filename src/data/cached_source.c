/* Groups that a store has come from there; others are made live and written to it. */
#include "source_impl.h"

#include <string.h>

typedef struct cached_source {
    rf_group_source live, stored;
    rf_store *store;
    rf_stream *stream;
    int64_t n_sites;
    bool *is_stored; /* [n_groups] in the order in which they will be asked for, as the next */
    int64_t *groups;
    int64_t n_taken;
    void **blocks; /* [n_sites] pinned: a group in the store's type */
    void *staged;  /* device: one site of it */
} cached_source;

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

    rf_free(from->is_stored);
    rf_free(from->groups);
    from->is_stored = NULL;
    from->groups = NULL;
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

/* Rows of the group in work, in the store's type, to the store. */
static rf_status write_group(cached_source *from, const rf_site *sites, int64_t n_pictures,
                             void *const *rows, const uint8_t *valid)
{
    rf_status status = RF_OK;
    const rf_dtype dtype = rf_store_get_head(from->store)->dtype;

    for (int64_t s = 0; s < from->n_sites; s++) {
        const int64_t n = n_pictures * sites[s].n_rows * sites[s].point.width;
        const void *values = rows[s];
        if (dtype != RF_F32) {
            const rf_view wide = rf_view_1d(rows[s], n),
                          narrow = rf_view_nd(from->staged, dtype, 1, &n);
            RF_TRY(rf_convert(from->stream, &wide, &narrow));
            values = from->staged;
        }
        RF_TRY(
            rf_copy_out(from->stream, from->blocks[s], values, (size_t)n * rf_dtype_bytes(dtype)));
    }
    RF_TRY(rf_stream_synchronise(from->stream));
    RF_TRY(rf_store_write(from->store, from->groups[from->n_taken],
                          (const void *const *)from->blocks, valid));
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

static void source_destroy(void *self)
{
    cached_source *from = self;
    if (from == NULL) {
        return;
    }
    rf_backend *be = rf_stream_backend(from->stream);
    from->live.destroy(from->live.self);
    if (from->stored.destroy != NULL) {
        from->stored.destroy(from->stored.self);
    }
    for (int64_t s = 0; from->blocks != NULL && s < from->n_sites; s++) {
        rf_memory_free(be, RF_MEMORY_PINNED, from->blocks[s]);
    }
    rf_memory_free(be, RF_MEMORY_DEVICE, from->staged);
    rf_free(from->blocks);
    rf_free(from->groups);
    rf_free(from->is_stored);
    rf_free(from);
}

static rf_status reserve(cached_source *from)
{
    rf_status status = RF_OK;
    rf_backend *be = rf_stream_backend(from->stream);
    int64_t largest = 0;

    RF_ALLOC(from->blocks, from->n_sites);
    for (int64_t s = 0; s < from->n_sites; s++) {
        const int64_t n_bytes = rf_store_block_bytes(from->store, 0, s);
        largest = rf_max_i64(largest, n_bytes);
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_PINNED, (size_t)n_bytes, &from->blocks[s]));
    }
    if (rf_store_get_head(from->store)->dtype != RF_F32) {
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)largest, &from->staged));
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
