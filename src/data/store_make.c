/* Stores of what models give: which sites and rows, and making the groups that are missing. */
#include "source_impl.h"

#include <string.h>

/* ---- what a store will hold --------------------------------------------------------------------
 */

typedef struct draft {
    rf_store_head head;
    rf_store_site *sites;
    uint8_t *classes;   /* of all sites, one after the other */
    int32_t *positions; /* the same */
    const char **names, **class_names;
    int64_t *labels;
} draft;

static void draft_fini(draft *d)
{
    rf_free(d->labels);
    rf_free(d->class_names);
    rf_free(d->names);
    rf_free(d->positions);
    rf_free(d->classes);
    rf_free(d->sites);
}

static rf_status add_pictures(const rf_activation_stream_opts *opts, draft *d)
{
    rf_status status = RF_OK;
    const rf_picture_list *list = opts->pictures;
    const int64_t n = rf_picture_list_n(list, opts->split);
    const int64_t n_classes = rf_picture_list_n_classes(list);

    RF_ALLOC(d->names, n);
    RF_ALLOC(d->labels, n);
    RF_ALLOC(d->class_names, n_classes);
    for (int64_t i = 0; i < n; i++) {
        d->names[i] = rf_picture_list_name(list, opts->split, i);
        d->labels[i] = rf_picture_list_label(list, opts->split, i);
    }
    for (int64_t c = 0; c < n_classes; c++) {
        d->class_names[c] = rf_picture_list_class(list, c);
    }
    d->head.n_pictures = n;
    d->head.names = d->names;
    d->head.labels = d->labels;
    d->head.classes = d->class_names;
    d->head.n_classes = n_classes;
fail:
    return status;
}

/* Where class and position of each row of a site go. */
static rf_status describe_site(const rf_stream_frame *frame, const rf_site *from, uint8_t *classes,
                               int32_t *positions, rf_store_site *out)
{
    rf_status status = RF_OK;
    const rf_reader_site site = {.model = from->model, .point = from->point};
    const bool is_pooled = from->point.shape == RF_HOOK_POOLED;
    int64_t first = 0, point_rows = 0;

    RF_TRY(rf_site_class_rows(frame, &site, RF_TOKENS_ALL, &first, &point_rows));
    *out = (rf_store_site){.model = frame->models[from->model],
                           .point = from->point.name,
                           .first_row = from->first_row,
                           .n_rows = from->n_rows,
                           .width = from->point.width,
                           .point_rows = point_rows,
                           .classes = classes,
                           .positions = positions};
    for (int64_t r = 0; r < from->n_rows; r++) {
        const rf_token_class class =
            rf_site_class_of_row(frame, &site, from->first_row + r, positions + 3 * r);
        classes[r] = (uint8_t)(is_pooled ? RF_TOKENS_POOLED : class);
    }
fail:
    return status;
}

static rf_status add_sites(const rf_stream_frame *frame, const rf_site *sites, int64_t n_sites,
                           draft *d)
{
    rf_status status = RF_OK;
    int64_t n_rows = 0;

    for (int64_t s = 0; s < n_sites; s++) {
        n_rows += sites[s].n_rows;
    }
    RF_ALLOC(d->sites, n_sites);
    RF_ALLOC(d->classes, n_rows);
    RF_ALLOC(d->positions, 3 * n_rows);
    n_rows = 0;
    for (int64_t s = 0; s < n_sites; s++) {
        RF_TRY(describe_site(frame, &sites[s], d->classes + n_rows, d->positions + 3 * n_rows,
                             &d->sites[s]));
        n_rows += sites[s].n_rows;
    }
    d->head.sites = d->sites;
    d->head.n_sites = n_sites;
fail:
    return status;
}

rf_status rf_store_create_for(const rf_activation_stream_opts *opts, const rf_reader_opts *readers,
                              int64_t n_readers, const rf_store_origin *origin, const char *path,
                              rf_store **out)
{
    rf_status status = RF_OK;
    rf_activation_stream_opts plain = *opts;
    rf_stream_frame frame;
    rf_site *sites = NULL;
    int64_t n_sites = 0;
    draft d = {.head = {.dtype = opts->dtype,
                        .group_pictures = opts->group_pictures,
                        .model_hash = origin->model_hash,
                        .picture_hash = rf_picture_list_hash(opts->pictures),
                        .holdout = origin->holdout,
                        .model = origin->model,
                        .processing = origin->processing,
                        .settings = origin->settings}};

    *out = NULL;
    plain.store = NULL;
    RF_TRY(rf_stream_frame_of(&plain, &frame));
    RF_TRY(rf_site_list(&frame, readers, n_readers, &sites, &n_sites));
    RF_TRY(add_pictures(opts, &d));
    RF_TRY(add_sites(&frame, sites, n_sites, &d));
fail:
    status = rf_comm_agree(opts->comm, status);
    if (status == RF_OK) {
        status = rf_store_create(opts->comm, path, &d.head, out);
    }
    draft_fini(&d);
    rf_free(sites);
    return status;
}

/* ---- filling it --------------------------------------------------------------------------------
 */

typedef struct filler {
    const rf_activation_stream_opts *opts;
    rf_site *sites;
    int64_t n_sites;
    rf_group_source source;
    void **rows;               /* [n_sites] device: a group */
    int64_t *groups, n_groups; /* this rank's, in order */
    int64_t n_rounds, n_all;   /* over ranks: the most groups of one, and all */
    uint8_t *valid;            /* [group_pictures] */
    int64_t n_seen, n_bad;     /* pictures of this rank */
} filler;

/* Every rank looks at all groups, then all of them write: what one finds missing does not depend on
 * how far another has come. Missing groups are dealt out in turn. Collective. */
static rf_status deal(filler *fill)
{
    rf_status status = RF_OK;
    rf_store *store = fill->opts->store;
    const int64_t size = rf_comm_size(fill->opts->comm), rank = rf_comm_rank(fill->opts->comm);

    RF_ALLOC(fill->groups, rf_store_n_groups(store));
    for (int64_t g = 0; g < rf_store_n_groups(store); g++) {
        bool has = false;
        RF_TRY(rf_store_has(store, g, &has));
        if (!has && fill->n_all++ % size == rank) {
            fill->groups[fill->n_groups++] = g;
        }
    }
    fill->n_rounds = rf_ceil_div(fill->n_all, size);
fail:
    return rf_comm_agree(fill->opts->comm, status);
}

static rf_status reserve(filler *fill)
{
    rf_status status = RF_OK;
    const rf_activation_stream_opts *opts = fill->opts;

    RF_ALLOC(fill->rows, fill->n_sites);
    RF_ALLOC(fill->valid, opts->group_pictures);
    for (int64_t s = 0; s < fill->n_sites; s++) {
        const size_t n =
            (size_t)(opts->group_pictures * fill->sites[s].n_rows * fill->sites[s].point.width);
        RF_TRY(rf_memory_alloc(rf_stream_backend(opts->stream), RF_MEMORY_DEVICE, n * sizeof(float),
                               &fill->rows[s]));
    }
fail:
    return status;
}

static rf_status start(filler *fill)
{
    rf_status status = RF_OK;
    int64_t *pictures = NULL, *first = NULL;

    RF_ALLOC(pictures, fill->n_groups * fill->opts->group_pictures);
    RF_ALLOC(first, fill->n_groups + 1);
    for (int64_t i = 0; i < fill->n_groups; i++) {
        int64_t at = 0;
        const int64_t n = rf_store_group(fill->opts->store, fill->groups[i], &at);
        for (int64_t j = 0; j < n; j++) {
            pictures[first[i] + j] = at + j;
        }
        first[i + 1] = first[i] + n;
    }
    RF_TRY(fill->source.start(fill->source.self, pictures, first, fill->n_groups));
fail:
    rf_free(first);
    rf_free(pictures);
    return status;
}

static rf_status open_filler(filler *fill, const rf_reader_opts *readers, int64_t n_readers)
{
    rf_status status = RF_OK;
    rf_stream_frame frame;
    rf_group_source live = {0};

    RF_TRY(rf_stream_frame_of(fill->opts, &frame));
    RF_TRY(rf_site_list(&frame, readers, n_readers, &fill->sites, &fill->n_sites));
    RF_TRY(reserve(fill));
    RF_TRY(rf_live_source_create(fill->opts, readers, n_readers, &live));
    RF_TRY(rf_cached_source_create(fill->opts, fill->sites, fill->n_sites, live, &fill->source));
    RF_TRY(start(fill));
fail:
    return status;
}

static rf_status make_group(filler *fill, int64_t round)
{
    rf_status status = RF_OK;
    int64_t first = 0;

    if (round < fill->n_groups) {
        const int64_t n = rf_store_group(fill->opts->store, fill->groups[round], &first);
        RF_TRY(fill->source.next(fill->source.self, fill->sites, fill->n_sites, n, fill->rows,
                                 fill->valid));
        fill->n_seen += n;
        for (int64_t i = 0; i < n; i++) {
            fill->n_bad += !fill->valid[i];
        }
    }
    if (rf_interrupt_pending() != 0) {
        RF_FAIL(RF_ERR_INTERRUPTED, "stopped by signal %d", rf_interrupt_pending());
    }
fail:
    return status;
}

/* Collective. */
static rf_status check_bad(const filler *fill, int64_t n_seen, int64_t n_bad)
{
    rf_status status = RF_OK;
    int64_t counts[2] = {n_seen, n_bad};

    RF_TRY(rf_comm_sum_i64(fill->opts->comm, counts, 2));
    if ((double)counts[1] > fill->opts->max_bad_share * (double)counts[0]) {
        RF_FAIL(RF_ERR_FORMAT,
                "%" PRId64 " of %" PRId64
                " pictures could not be read, more than data.max_bad_share; remove '%s' to try "
                "them again",
                counts[1], counts[0], rf_store_path(fill->opts->store));
    }
fail:
    return status;
}

/* The whole store, also what was written before. Collective. */
static rf_status check_all(const filler *fill)
{
    rf_status status = RF_OK;
    rf_store *store = fill->opts->store;
    const int64_t size = rf_comm_size(fill->opts->comm), rank = rf_comm_rank(fill->opts->comm);
    int64_t n_seen = 0, n_bad = 0, first = 0;

    for (int64_t g = rank; g < rf_store_n_groups(store) && status == RF_OK; g += size) {
        bool has = false;
        const int64_t n = rf_store_group(store, g, &first);
        status = rf_store_has(store, g, &has);
        if (status == RF_OK && has) {
            status = rf_store_read_valid(store, g, fill->valid);
        }
        for (int64_t i = 0; status == RF_OK && has && i < n; i++) {
            n_seen++;
            n_bad += !fill->valid[i];
        }
    }
    RF_TRY(rf_comm_agree(fill->opts->comm, status));
    RF_TRY(check_bad(fill, n_seen, n_bad));
fail:
    return status;
}

/* Groups in rounds; ranks agree after each, so that none goes on alone. Collective. */
static rf_status run(filler *fill, int64_t *n_written)
{
    enum { ROUNDS_TO_JUDGE = 16 };
    rf_status status = RF_OK;
    const rf_comm *comm = fill->opts->comm;

    for (int64_t round = 0; round < fill->n_rounds; round++) {
        RF_TRY(rf_comm_agree(comm, make_group(fill, round)));
        *n_written = rf_min_i64(fill->n_all, (round + 1) * rf_comm_size(comm));
        if ((round + 1) % ROUNDS_TO_JUDGE == 0) {
            RF_TRY(check_bad(fill, fill->n_seen, fill->n_bad));
        }
        if (rf_comm_rank(comm) == 0) {
            rf_progress("cache", *n_written, fill->n_all, "groups");
        }
    }
    RF_TRY(rf_comm_agree(comm, rf_store_flush(fill->opts->store)));
    RF_TRY(check_all(fill));
fail:
    return status;
}

rf_status rf_store_fill(const rf_activation_stream_opts *opts, const rf_reader_opts *readers,
                        int64_t n_readers, int64_t *n_written)
{
    rf_status status = RF_OK;
    int64_t n = 0;
    filler fill = {.opts = opts};

    RF_REQUIRE(opts->store != NULL && opts->n_vits > 0, "a store is filled by models");
    RF_TRY(deal(&fill));
    RF_TRY(rf_comm_agree(opts->comm, open_filler(&fill, readers, n_readers)));
    RF_TRY(run(&fill, &n));
fail:
    if (n_written != NULL) {
        *n_written = n;
    }
    if (fill.source.destroy != NULL) {
        fill.source.destroy(fill.source.self);
    }
    for (int64_t s = 0; fill.rows != NULL && s < fill.n_sites; s++) {
        rf_memory_free(rf_stream_backend(opts->stream), RF_MEMORY_DEVICE, fill.rows[s]);
    }
    rf_free(fill.valid);
    rf_free(fill.groups);
    rf_free(fill.rows);
    rf_free(fill.sites);
    return status;
}
