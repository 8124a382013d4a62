/* A stream that is live: pictures are decoded ahead and go through the model, and hooks copy what
 * the sites hold. */
#include "data_impl.h"

#include <string.h>

enum { GROUPS_AHEAD = 4 };

/* Where a hook copies a site's rows to. */
typedef struct target {
    const rf_site *site;
    char *rows; /* device */
} target;

typedef struct live_source {
    rf_vit *vit;
    rf_stream *stream;
    const rf_picture_list *pictures;
    rf_picture_split split;
    rf_image_loader *loader;
    void *images; /* device [group_pictures, C, H, W] */
    int64_t max_sites;
    target *targets; /* [max_sites] */
    rf_hook *hooks;  /* [max_sites] */
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
    live_source *live = self;
    return rf_image_loader_start(live->loader, pictures, first, n_groups);
}

static rf_status live_next(void *self, const rf_site *sites, int64_t n_sites, int64_t n_pictures,
                           void *const *rows, uint8_t *valid)
{
    rf_status status = RF_OK;
    live_source *live = self;
    const rf_image_batch *batch = NULL;

    RF_BUG(n_sites <= live->max_sites, "%" PRId64 " sites, expected at most %" PRId64, n_sites,
           live->max_sites);
    RF_TRY(rf_image_loader_next(live->loader, &batch));
    RF_BUG(batch != NULL && batch->n_images == n_pictures && batch->n_frames == 1,
           "the loader has not the group of %" PRId64 " pictures that is next", n_pictures);
    const int64_t shape[4] = {n_pictures, batch->n_channels, batch->height, batch->width};
    rf_view images = rf_view_nd(live->images, RF_F32, 4, shape);
    RF_TRY(rf_copy_in(live->stream, images.data, batch->pixels,
                      (size_t)rf_view_n_elems(&images) * sizeof(float)));
    for (int64_t s = 0; s < n_sites; s++) {
        live->targets[s] = (target){&sites[s], rows[s]};
        live->hooks[s] = (rf_hook){sites[s].point, copy_rows, &live->targets[s]};
    }
    RF_TRY(rf_vit_forward(live->vit, live->stream, &images, live->hooks, n_sites,
                          RF_VIT_STOP_AFTER_HOOKS, NULL));
    RF_TRY(rf_stream_synchronise(live->stream)); /* the loader takes its pixels back */
    memcpy(valid, batch->valid, (size_t)n_pictures);
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

    for (int64_t i = 0; i < rf_image_loader_n_bad(live->loader); i++) {
        rf_image_loader_bad(live->loader, i, &name, &reason);
        if (strcmp(name, wanted) == 0) {
            return reason;
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
    rf_image_loader_destroy(live->loader);
    rf_memory_free(rf_stream_backend(live->stream), RF_MEMORY_DEVICE, live->images);
    rf_free(live->hooks);
    rf_free(live->targets);
    rf_free(live);
}

/* What the transform makes is what the model takes. */
static rf_status check_size(const rf_activation_stream_opts *opts)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = rf_vit_get_config(opts->vit);

    RF_TRY(rf_transform_check(opts->transform));
    RF_REQUIRE(rf_transform_height(opts->transform) == c->image_height &&
                   rf_transform_width(opts->transform) == c->image_width,
               "the transform makes pictures of %" PRId64 " x %" PRId64
               ", but the model takes %" PRId64 " x %" PRId64
               "; preprocessor_config.json and model.image_size must agree",
               rf_transform_height(opts->transform), rf_transform_width(opts->transform),
               c->image_height, c->image_width);
    RF_REQUIRE(opts->group_pictures >= 1, "group_pictures=%" PRId64 ", expected >= 1",
               opts->group_pictures);
fail:
    return status;
}

static rf_status live_create(const rf_activation_stream_opts *opts, int64_t max_sites,
                             rf_group_source *out)
{
    rf_status status = RF_OK;
    live_source *live = NULL;
    const rf_vit_config *config = rf_vit_get_config(opts->vit);
    int64_t image_bytes =
        config->n_channels * config->image_height * config->image_width * (int64_t)sizeof(float);
    int64_t n_bytes = 0;

    RF_TRY(check_size(opts));
    RF_ALLOC(live, 1);
    live->vit = opts->vit;
    live->stream = opts->stream;
    live->pictures = opts->pictures;
    live->split = opts->split;
    live->max_sites = max_sites;
    RF_ALLOC(live->targets, max_sites);
    RF_ALLOC(live->hooks, max_sites);
    RF_TRY(rf_mul_i64(opts->group_pictures, image_bytes, "bytes of a group's images", &n_bytes));
    RF_TRY(rf_memory_alloc(rf_stream_backend(opts->stream), RF_MEMORY_DEVICE, (size_t)n_bytes,
                           &live->images));
    const rf_image_loader_opts loader = {
        .list = opts->pictures,
        .split = opts->split,
        .transform = *opts->transform,
        .max_images = opts->group_pictures,
        .n_threads = opts->decode_threads,
        .n_ahead = GROUPS_AHEAD,
    };
    RF_TRY(rf_image_loader_create(&loader, &live->loader));
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

rf_status rf_activation_stream_open(const rf_activation_stream_opts *opts,
                                    const rf_reader_opts *readers, int64_t n_readers,
                                    rf_activation_stream **out)
{
    rf_status status = RF_OK;
    rf_group_source source = {0};
    rf_stream_frame frame = {
        .stream = opts->stream,
        .comm = opts->comm,
        .config = rf_vit_get_config(opts->vit),
        .n_pictures = rf_picture_list_n(opts->pictures, opts->split),
        .group_pictures = opts->group_pictures,
        .pool_groups = opts->pool_groups,
        .seed = opts->seed,
        .pictures_hash = rf_picture_list_hash(opts->pictures),
        .keep_bytes = opts->keep_bytes,
        .max_bad_share = opts->max_bad_share,
    };

    *out = NULL;
    status = live_create(opts, n_readers, &source);
    status = rf_comm_agree(opts->comm, status);
    if (status != RF_OK) {
        if (source.destroy != NULL) {
            source.destroy(source.self);
        }
        return status;
    }
    return rf_activation_stream_assemble(&frame, source, readers, n_readers, out);
}
