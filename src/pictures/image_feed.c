/* Pictures on their way to a model: decoded ahead by a loader's threads, copied in as bytes while
 * the model may still be at the last ones, and made values on the device. */
#include "refract/pictures.h"

struct rf_image_feed {
    rf_stream *stream, *copies; /* `stream` is borrowed */
    rf_image_loader *loader;
    rf_upload upload; /* of bytes [max_images, H, W, 3] */
    float *levels;    /* device [3, 256] */
    float *images;    /* device [max_images, 3, H, W] */
};

static rf_status put_levels(rf_image_feed *feed, const rf_transform *t)
{
    rf_status status = RF_OK;
    float levels[3 * 256];
    rf_transform_levels(t, levels);
    RF_TRY(rf_copy_in(feed->stream, feed->levels, levels, sizeof levels));
    RF_TRY(rf_stream_synchronise(feed->stream)); /* `levels` goes */
fail:
    return status;
}

rf_status rf_image_feed_create(rf_stream *stream, const rf_image_loader_opts *opts,
                               rf_image_feed **out)
{
    rf_status status = RF_OK;
    rf_backend *be = rf_stream_backend(stream);
    rf_image_loader_opts pinned = *opts;
    rf_image_feed *feed = NULL;
    int64_t n_bytes = 3 * rf_transform_height(&opts->transform);

    *out = NULL;
    RF_ALLOC(feed, 1);
    feed->stream = stream;
    pinned.backend = be;
    RF_TRY(
        rf_mul_i64(n_bytes, rf_transform_width(&opts->transform), "a picture's bytes", &n_bytes));
    RF_TRY(rf_mul_i64(n_bytes, opts->max_images, "bytes of pictures", &n_bytes));
    RF_REQUIRE(n_bytes <= INT64_MAX / (int64_t)sizeof(float), "%" PRId64 " bytes of pictures",
               n_bytes);
    RF_TRY(rf_stream_create(be, &feed->copies));
    RF_TRY(rf_upload_init(&feed->upload, stream, feed->copies, 0, n_bytes));
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, 3 * 256 * sizeof(float), (void **)&feed->levels));
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)n_bytes * sizeof(float),
                           (void **)&feed->images));
    RF_TRY(put_levels(feed, &opts->transform));
    RF_TRY(rf_image_loader_create(&pinned, &feed->loader));
    *out = feed;
    feed = NULL;
fail:
    rf_image_feed_destroy(feed);
    return status;
}

void rf_image_feed_destroy(rf_image_feed *feed)
{
    if (feed == NULL) {
        return;
    }
    rf_backend *be = rf_stream_backend(feed->stream);
    rf_upload_settle(feed->stream); /* a model may be at the pictures */
    rf_upload_fini(&feed->upload);
    rf_image_loader_destroy(feed->loader);
    rf_stream_destroy(feed->copies);
    rf_memory_free(be, RF_MEMORY_DEVICE, feed->levels);
    rf_memory_free(be, RF_MEMORY_DEVICE, feed->images);
    rf_free(feed);
}

rf_status rf_image_feed_start(rf_image_feed *feed, const int64_t *pictures, const int64_t *first,
                              int64_t n_groups)
{
    rf_status status = RF_OK;
    RF_TRY(rf_upload_wait(&feed->upload)); /* the loader's threads write pixels at once */
    RF_TRY(rf_image_loader_start(feed->loader, pictures, first, n_groups));
fail:
    return status;
}

/* What could not be read is 0 to the model, which black is not. */
static rf_status clear_invalid(const rf_image_feed *feed, const rf_image_batch *batch, int64_t n)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < batch->n_images; i++) {
        if (batch->valid[i] == 0) {
            RF_TRY(rf_fill_bytes(feed->stream, feed->images + i * n, 0, (size_t)n * sizeof(float)));
        }
    }
fail:
    return status;
}

rf_status rf_image_feed_next(rf_image_feed *feed, const rf_image_batch **batch, rf_view *images)
{
    rf_status status = RF_OK;
    void *bytes = NULL;

    *images = (rf_view){0};
    RF_TRY(rf_upload_wait(&feed->upload)); /* the loader takes the last group's pixels back */
    RF_TRY(rf_image_loader_next(feed->loader, batch));
    if (*batch == NULL) {
        return RF_OK;
    }
    const rf_image_batch *b = *batch;
    const int64_t n = b->n_channels * b->height * b->width;
    const rf_view levels = rf_view_2d(feed->levels, b->n_channels, 256);
    RF_BUG(b->n_frames == 1, "pictures of %" PRId64 " frames", b->n_frames);
    *images = rf_view_nd(feed->images, RF_F32, 4,
                         (int64_t[]){b->n_images, b->n_channels, b->height, b->width});
    RF_TRY(rf_upload_send(&feed->upload, b->pixels, (size_t)(b->n_images * n), &bytes));
    const int64_t shape[4] = {b->n_images, b->height, b->width, b->n_channels};
    RF_TRY(rf_pixel_values(feed->stream,
                           &(rf_pixel_values_args){.pixels = rf_view_nd(bytes, RF_U8, 4, shape),
                                                   .levels = levels,
                                                   .images = *images}));
    RF_TRY(clear_invalid(feed, b, n));
fail:
    return status;
}

const rf_image_loader *rf_image_feed_loader(const rf_image_feed *feed)
{
    return feed->loader;
}
