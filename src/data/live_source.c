/* A stream that is live: pictures are decoded ahead and go through the model, and hooks copy what
 * the sites hold. */
#include "source_impl.h"

#include <string.h>

enum { GROUPS_AHEAD = 4 };

/* Where a hook copies a site's rows to. */
typedef struct target {
    const rf_site *site;
    char *rows; /* device */
} target;

/* Pictures as one or more of the models want them. */
typedef struct feed {
    rf_transform transform;
    rf_image_feed *images;
    rf_view view; /* of the group in work */
} feed;

typedef struct live_source {
    rf_vit *vits[RF_MAX_MODELS];
    int feed_of[RF_MAX_MODELS]; /* -1: no reader has a site of the model */
    int n_vits, n_feeds;
    feed feeds[RF_MAX_MODELS];
    rf_stream *stream;
    const rf_picture_list *pictures;
    rf_picture_split split;
    int64_t max_sites;
    target *targets; /* [max_sites] */
    rf_hook *hooks;  /* [max_sites] */
    rf_dtype dtype;  /* what values are rounded to */
    void *rounded;   /* device [rounded_elems] of that type */
    int64_t rounded_elems;
} live_source;

/* `act` is [B, rows, ...] with `width` numbers a row; a pooled point has one row. */
static rf_status copy_rows(void *user, const rf_hook_point *point, const rf_view *act,
                           rf_stream *stream)
{
    rf_status status = RF_OK;
    const target *to = user;
    const rf_site *site = to->site;
    int64_t row_bytes = point->width * (int64_t)sizeof(float), n_pictures = act->shape[0];
    int64_t n_rows = rf_view_n_elems(act) / (n_pictures * point->width);
    const char *from = act->data;

    RF_BUG(act->dtype == RF_F32 && rf_view_is_contiguous(act) &&
               site->first_row + site->n_rows <= n_rows,
           "hook point '%s' gave %" PRId64 " rows, expected at least %" PRId64 " contiguous ones",
           point->name, n_rows, site->first_row + site->n_rows);
    if (site->n_rows == n_rows) {
        return rf_copy_within(stream, to->rows, from, (size_t)(n_pictures * n_rows * row_bytes));
    }
    for (int64_t i = 0; i < n_pictures; i++) {
        RF_TRY(rf_copy_within(stream, to->rows + i * site->n_rows * row_bytes,
                              from + (i * n_rows + site->first_row) * row_bytes,
                              (size_t)(site->n_rows * row_bytes)));
    }
fail:
    return status;
}

static rf_status live_start(void *self, const int64_t *pictures, const int64_t *first,
                            int64_t n_groups)
{
    rf_status status = RF_OK;
    live_source *live = self;
    for (int f = 0; f < live->n_feeds; f++) {
        RF_TRY(rf_image_feed_start(live->feeds[f].images, pictures, first, n_groups));
    }
fail:
    return status;
}

/* The next group's pictures; one that is bad here is bad for all. */
static rf_status next_images(feed *from, int64_t n_pictures, uint8_t *valid)
{
    rf_status status = RF_OK;
    const rf_image_batch *batch = NULL;

    RF_TRY(rf_image_feed_next(from->images, &batch, &from->view));
    RF_BUG(batch != NULL && batch->n_images == n_pictures,
           "the loader has not the group of %" PRId64 " pictures that is next", n_pictures);
    for (int64_t i = 0; i < n_pictures; i++) {
        valid[i] = valid[i] && batch->valid[i];
    }
fail:
    return status;
}

/* One model on the pictures of its feed, for the sites that are its own. */
static rf_status run_model(live_source *live, int model, const rf_site *sites, int64_t n_sites,
                           void *const *rows)
{
    int64_t n_hooks = 0;

    for (int64_t s = 0; s < n_sites; s++) {
        if (sites[s].model == model) {
            live->targets[n_hooks] = (target){&sites[s], rows[s]};
            live->hooks[n_hooks] = (rf_hook){sites[s].point, copy_rows, &live->targets[n_hooks]};
            n_hooks++;
        }
    }
    if (n_hooks == 0) {
        return RF_OK;
    }
    return rf_vit_forward(live->vits[model], live->stream, &live->feeds[live->feed_of[model]].view,
                          live->hooks, n_hooks, RF_VIT_STOP_AFTER_HOOKS, NULL);
}

/* Rows of a site as a store gives them back. */
static rf_status round_rows(live_source *live, const rf_site *site, int64_t n_pictures, void *rows)
{
    rf_status status = RF_OK;
    rf_backend *be = rf_stream_backend(live->stream);
    const int64_t n = n_pictures * site->n_rows * site->point.width;

    if (live->dtype == RF_F32) {
        return RF_OK;
    }
    if (n > live->rounded_elems) {
        rf_memory_free(be, RF_MEMORY_DEVICE, live->rounded);
        live->rounded = NULL;
        live->rounded_elems = 0;
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)n * rf_dtype_bytes(live->dtype),
                               &live->rounded));
        live->rounded_elems = n;
    }
    const rf_view wide = rf_view_1d(rows, n),
                  narrow = rf_view_nd(live->rounded, live->dtype, 1, &n);
    RF_TRY(rf_convert(live->stream, &wide, &narrow));
    RF_TRY(rf_convert(live->stream, &narrow, &wide));
fail:
    return status;
}

static rf_status live_next(void *self, const rf_site *sites, int64_t n_sites, int64_t n_pictures,
                           void *const *rows, uint8_t *valid)
{
    rf_status status = RF_OK;
    live_source *live = self;

    RF_BUG(n_sites <= live->max_sites, "%" PRId64 " sites, expected at most %" PRId64, n_sites,
           live->max_sites);
    memset(valid, 1, (size_t)n_pictures);
    for (int f = 0; f < live->n_feeds; f++) {
        RF_TRY(next_images(&live->feeds[f], n_pictures, valid));
    }
    for (int m = 0; m < live->n_vits; m++) {
        RF_TRY(run_model(live, m, sites, n_sites, rows));
    }
    for (int64_t i = 0; i < n_sites; i++) {
        RF_TRY(round_rows(live, &sites[i], n_pictures, rows[i]));
    }
fail:
    return status;
}

static const char *live_name(void *self, int64_t picture)
{
    const live_source *live = self;
    return rf_picture_list_name(live->pictures, live->split, picture);
}

static const char *live_reason(void *self, int64_t picture)
{
    const live_source *live = self;
    const char *wanted = live_name(self, picture), *name = NULL, *reason = NULL;

    for (int f = 0; f < live->n_feeds; f++) {
        const rf_image_loader *loader = rf_image_feed_loader(live->feeds[f].images);
        for (int64_t i = 0; i < rf_image_loader_n_bad(loader); i++) {
            rf_image_loader_bad(loader, i, &name, &reason);
            if (strcmp(name, wanted) == 0) {
                return reason;
            }
        }
    }
    return NULL;
}

static void live_destroy(void *self)
{
    live_source *live = self;

    if (live == NULL) {
        return;
    }
    for (int f = 0; f < live->n_feeds; f++) {
        rf_image_feed_destroy(live->feeds[f].images);
    }
    rf_memory_free(rf_stream_backend(live->stream), RF_MEMORY_DEVICE, live->rounded);
    rf_free(live->hooks);
    rf_free(live->targets);
    rf_free(live);
}

/* ---- open --------------------------------------------------------------------------------------
 */

static rf_status check_size(const rf_vit_config *c, const rf_transform *t)
{
    rf_status status = RF_OK;

    RF_TRY(rf_transform_check(t));
    RF_REQUIRE(
        rf_transform_height(t) == c->image_height && rf_transform_width(t) == c->image_width,
        "the transform makes pictures of %" PRId64 " x %" PRId64 ", but model %s takes %" PRId64
        " x %" PRId64 "; preprocessor_config.json and model.image_size must agree",
        rf_transform_height(t), rf_transform_width(t), c->name, c->image_height, c->image_width);
fail:
    return status;
}

/* Give every model that is read its feed; those with one transform share it. */
static void deal_feeds(live_source *live, const rf_activation_stream_opts *opts,
                       const rf_reader_opts *readers, int64_t n_readers)
{
    bool is_read[RF_MAX_MODELS] = {false};

    for (int64_t r = 0; r < n_readers; r++) {
        for (int i = 0; i < readers[r].n_sites; i++) {
            is_read[readers[r].sites[i].model] = true;
        }
    }
    for (int m = 0; m < opts->n_vits; m++) {
        int f = 0;
        live->feed_of[m] = -1;
        if (!is_read[m]) {
            continue;
        }
        while (f < live->n_feeds &&
               !rf_transform_is_equal(&live->feeds[f].transform, &opts->transforms[m])) {
            f++;
        }
        if (f == live->n_feeds) {
            live->feeds[live->n_feeds++].transform = opts->transforms[m];
        }
        live->feed_of[m] = f;
    }
}

static rf_status open_feed(const live_source *live, const rf_activation_stream_opts *opts,
                           feed *out)
{
    const rf_image_loader_opts loader = {
        .list = opts->pictures,
        .split = opts->split,
        .transform = out->transform,
        .max_images = opts->group_pictures,
        /* the threads are of the rank: loaders share them */
        .n_threads = rf_max_i64(1, opts->decode_threads / live->n_feeds),
        .n_ahead = GROUPS_AHEAD,
        .fast_decode = opts->fast_decode,
    };
    return rf_image_feed_create(opts->stream, &loader, &out->images);
}

static rf_status check_opts(const rf_activation_stream_opts *opts, const rf_reader_opts *readers,
                            int64_t n_readers)
{
    rf_status status = RF_OK;

    RF_TRY(rf_readers_check(readers, n_readers, opts->n_vits));
    for (int m = 0; m < opts->n_vits; m++) {
        RF_TRY(check_size(rf_vit_get_config(opts->vits[m]), &opts->transforms[m]));
    }
    RF_REQUIRE(opts->group_pictures >= 1, "group_pictures=%" PRId64 ", expected >= 1",
               opts->group_pictures);
fail:
    return status;
}

rf_status rf_live_source_create(const rf_activation_stream_opts *opts,
                                const rf_reader_opts *readers, int64_t n_readers,
                                rf_group_source *out)
{
    rf_status status = RF_OK;
    live_source *live = NULL;

    RF_TRY(check_opts(opts, readers, n_readers));
    RF_ALLOC(live, 1);
    live->n_vits = opts->n_vits;
    memcpy(live->vits, opts->vits, (size_t)opts->n_vits * sizeof *live->vits);
    live->stream = opts->stream;
    live->dtype = opts->dtype;
    live->pictures = opts->pictures;
    live->split = opts->split;
    for (int64_t r = 0; r < n_readers; r++) {
        live->max_sites += readers[r].n_sites;
    }
    RF_ALLOC(live->targets, live->max_sites);
    RF_ALLOC(live->hooks, live->max_sites);
    deal_feeds(live, opts, readers, n_readers);
    for (int f = 0; f < live->n_feeds; f++) {
        RF_TRY(open_feed(live, opts, &live->feeds[f]));
    }
    *out = (rf_group_source){
        .self = live,
        .start = live_start,
        .next = live_next,
        .name = live_name,
        .reason = live_reason,
        .destroy = live_destroy,
    };
    return RF_OK;
fail:
    live_destroy(live);
    return status;
}
