/* Groups out of a store, read ahead by threads of their own. */
#include "source_impl.h"

#include <string.h>

enum { GROUPS_AHEAD = 4 };

typedef struct store_source {
    const rf_store *store;
    rf_stream *stream, *copies;
    int64_t n_sites;
    int64_t *held;   /* [n_sites] which site of the store */
    int64_t *groups; /* [n_groups] in the order in which they will be asked for */
    void **blocks;   /* [n_slots, n_sites] pinned; a whole group of the site */
    int64_t n_slots;
    rf_prefetch *prefetch;
    rf_upload upload; /* of a site: through device memory in the store's type, or to fp32 rows */
    int64_t n_taken;
} store_source;

/* An item is a site. */
static rf_status read_block(void *self, int64_t job, int64_t item, int64_t slot)
{
    const store_source *from = self;
    return rf_store_read(from->store, from->groups[job], from->held[item],
                         from->blocks[slot * from->n_sites + item]);
}

static rf_status source_start(void *self, const int64_t *pictures, const int64_t *first,
                              int64_t n_groups)
{
    rf_status status = RF_OK;
    store_source *from = self;
    const int64_t group_pictures = rf_store_get_head(from->store)->group_pictures;
    int64_t *groups = NULL, *n_items = NULL;

    RF_ALLOC(groups, n_groups);
    RF_ALLOC(n_items, n_groups);
    for (int64_t g = 0; g < n_groups; g++) {
        int64_t at = 0;
        groups[g] = pictures[first[g]] / group_pictures;
        n_items[g] = from->n_sites;
        const int64_t n = rf_store_group(from->store, groups[g], &at);
        RF_BUG(pictures[first[g]] == at && first[g + 1] - first[g] == n,
               "pictures %" PRId64 " and %" PRId64 " more are no group of the store",
               pictures[first[g]], first[g + 1] - first[g] - 1);
    }
    RF_TRY(rf_upload_wait(&from->upload)); /* the blocks go back to the threads */
    rf_prefetch_stop(from->prefetch);
    rf_free(from->groups);
    from->groups = groups;
    groups = NULL;
    from->n_taken = 0;
    RF_TRY(rf_prefetch_start(from->prefetch, n_items, n_groups));
fail:
    rf_free(n_items);
    rf_free(groups);
    return status;
}

/* The rows of `site` out of a block of the store, [n_pictures, held rows, width], to `to`. */
static rf_status copy_rows(store_source *from, const rf_store_site *held, const rf_site *site,
                           int64_t n_pictures, const char *block, char *to)
{
    rf_status status = RF_OK;
    const size_t elem_bytes = rf_dtype_bytes(rf_store_get_head(from->store)->dtype);
    const size_t row_bytes = (size_t)held->width * elem_bytes;
    const size_t n_bytes = (size_t)site->n_rows * row_bytes;

    if (site->n_rows == held->n_rows) {
        return rf_copy_in(from->copies, to, block, (size_t)n_pictures * n_bytes);
    }
    block += (size_t)(site->first_row - held->first_row) * row_bytes;
    for (int64_t i = 0; i < n_pictures; i++) {
        RF_TRY(rf_copy_in(from->copies, to + (size_t)i * n_bytes,
                          block + (size_t)i * (size_t)held->n_rows * row_bytes, n_bytes));
    }
fail:
    return status;
}

static rf_status take_site(store_source *from, const rf_site *site, int64_t s, int64_t n_pictures,
                           const char *block, void *rows)
{
    rf_status status = RF_OK;
    const rf_store_head *head = rf_store_get_head(from->store);
    const rf_store_site *held = &head->sites[from->held[s]];
    const int64_t n = n_pictures * site->n_rows * held->width;
    const bool is_wide = head->dtype == RF_F32;
    void *staged = NULL;

    RF_TRY(rf_upload_begin(&from->upload, &staged));
    RF_TRY(copy_rows(from, held, site, n_pictures, block, is_wide ? rows : staged));
    RF_TRY(rf_upload_end(&from->upload));
    if (!is_wide) {
        const rf_view narrow = rf_view_nd(staged, head->dtype, 1, &n), wide = rf_view_1d(rows, n);
        RF_TRY(rf_convert(from->stream, &narrow, &wide));
    }
fail:
    return status;
}

static rf_status source_next(void *self, const rf_site *sites, int64_t n_sites, int64_t n_pictures,
                             void *const *rows, uint8_t *valid)
{
    rf_status status = RF_OK;
    store_source *from = self;
    int64_t slot = -1;

    RF_BUG(n_sites == from->n_sites, "%" PRId64 " sites, expected %" PRId64, n_sites,
           from->n_sites);
    RF_TRY(rf_upload_wait(&from->upload)); /* the last group's blocks go back to the threads */
    RF_TRY(rf_prefetch_next(from->prefetch, &slot));
    RF_BUG(slot >= 0, "there is no group left");
    RF_TRY(rf_store_read_valid(from->store, from->groups[from->n_taken++], valid));
    for (int64_t s = 0; s < n_sites; s++) {
        RF_TRY(
            take_site(from, &sites[s], s, n_pictures, from->blocks[slot * n_sites + s], rows[s]));
    }
fail:
    return status;
}

static const char *source_name(void *self, int64_t picture)
{
    const store_source *from = self;
    return rf_store_get_head(from->store)->names[picture];
}

static const char *source_reason(void *self, int64_t picture)
{
    (void)self;
    (void)picture;
    return "could not be read when the store was written";
}

static void source_destroy(void *self)
{
    store_source *from = self;
    if (from == NULL) {
        return;
    }
    rf_backend *be = rf_stream_backend(from->stream);
    rf_prefetch_destroy(from->prefetch);
    rf_upload_fini(&from->upload);
    rf_stream_destroy(from->copies);
    for (int64_t i = 0; from->blocks != NULL && i < from->n_slots * from->n_sites; i++) {
        rf_memory_free(be, RF_MEMORY_PINNED, from->blocks[i]);
    }
    rf_free(from->blocks);
    rf_free(from->groups);
    rf_free(from->held);
    rf_free(from);
}

static rf_status reserve(store_source *from)
{
    rf_status status = RF_OK;
    rf_backend *be = rf_stream_backend(from->stream);
    int64_t largest = 0;

    from->n_slots = 1 + GROUPS_AHEAD;
    RF_ALLOC(from->blocks, from->n_slots * from->n_sites);
    for (int64_t i = 0; i < from->n_slots * from->n_sites; i++) {
        const int64_t n_bytes = rf_store_block_bytes(from->store, 0, from->held[i % from->n_sites]);
        largest = rf_max_i64(largest, n_bytes);
        RF_TRY_DOING(rf_memory_alloc(be, RF_MEMORY_PINNED, (size_t)n_bytes, &from->blocks[i]),
                     "groups of the store, read ahead");
    }
    RF_TRY(rf_stream_create(be, &from->copies));
    RF_TRY(rf_upload_init(&from->upload, from->stream, from->copies, 0,
                          rf_store_get_head(from->store)->dtype != RF_F32 ? largest : 0));
fail:
    return status;
}

rf_status rf_store_source_create(const rf_activation_stream_opts *opts, const rf_site *sites,
                                 int64_t n_sites, rf_group_source *out)
{
    rf_status status = RF_OK;
    store_source *from = NULL;

    RF_ALLOC(from, 1);
    from->store = opts->store;
    from->stream = opts->stream;
    from->n_sites = n_sites;
    RF_ALLOC(from->held, n_sites);
    for (int64_t s = 0; s < n_sites; s++) {
        const char *model = opts->model_names != NULL ? opts->model_names[sites[s].model] : "";
        from->held[s] = rf_store_find(opts->store, model, sites[s].point.name);
        RF_BUG(from->held[s] >= 0, "'%s' is not in the store", sites[s].point.name);
    }
    RF_TRY(reserve(from));
    RF_TRY(rf_prefetch_create(
        &(rf_prefetch_opts){.work = read_block,
                            .self = from,
                            .n_threads = opts->read_threads > 0 ? opts->read_threads : 2,
                            .n_slots = from->n_slots},
        &from->prefetch));
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
