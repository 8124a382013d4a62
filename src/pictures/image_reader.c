/* From the bytes of a picture file to a model's input, with memory that is kept from one picture to
 * the next. */
#include "image_impl.h"

struct rf_image_reader {
    rf_transform transform;
    bool fast_decode;
    rf_picture picture;
    rf_picture_planes planes;
    rf_resize_scratch scratch;
};

rf_status rf_image_reader_create(const rf_transform *transform, bool fast_decode,
                                 rf_image_reader **out)
{
    rf_status status = RF_OK;
    *out = NULL;
    RF_TRY(rf_transform_check(transform));
    RF_ALLOC(*out, 1);
    (*out)->transform = *transform;
    (*out)->fast_decode = fast_decode;
fail:
    return status;
}

void rf_image_reader_destroy(rf_image_reader *r)
{
    if (r != NULL) {
        rf_picture_fini(&r->picture);
        rf_picture_planes_fini(&r->planes);
        rf_resize_scratch_fini(&r->scratch);
        rf_free(r);
    }
}

static rf_status read_exact(rf_image_reader *r, const void *bytes, int64_t n_bytes,
                            const char *name, uint8_t *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_picture_decode_into(bytes, n_bytes, name, &r->picture));
    RF_TRY_DOING(rf_transform_picture(&r->transform, &r->scratch, &r->picture, out), "%s", name);
fail:
    rf_resize_trim(&r->picture.rgb, &r->picture.capacity);
    return status;
}

rf_status rf_image_reader_read(rf_image_reader *r, const void *bytes, int64_t n_bytes,
                               const char *name, uint8_t *out)
{
    rf_status status = RF_OK;
    int64_t height = 0, width = 0;
    if (!r->fast_decode) {
        return read_exact(r, bytes, n_bytes, name, out);
    }
    rf_transform_least(&r->transform, &height, &width);
    RF_TRY(rf_picture_decode_planes(bytes, n_bytes, name, height, width, &r->planes));
    if (r->planes.colour == RF_PLANES_NONE) {
        return read_exact(r, bytes, n_bytes, name, out);
    }
    RF_TRY_DOING(rf_transform_planes(&r->transform, &r->scratch, &r->planes, out), "%s", name);
fail:
    rf_resize_trim(&r->planes.memory, &r->planes.capacity);
    return status;
}
