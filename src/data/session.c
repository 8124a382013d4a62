/* A model and pictures for it, for programs that look at a few. */
#include "refract/data.h"

rf_status rf_session_open(const char *folder, rf_device device, int n_threads,
                          const rf_vit_opts *opts, rf_session *out)
{
    rf_status status = RF_OK;
    rf_vit_opts sized = opts != NULL ? *opts : (rf_vit_opts){0};
    *out = (rf_session){0};
    RF_TRY(rf_transform_load(folder, &out->transform));
    if (sized.image_height == 0 && sized.image_width == 0) {
        sized.image_height = rf_transform_height(&out->transform);
        sized.image_width = rf_transform_width(&out->transform);
    }
    RF_TRY(rf_backend_create(device, NULL, n_threads, &out->be));
    RF_TRY(rf_stream_create(out->be, &out->stream));
    RF_TRY(rf_vit_open(out->be, folder, &sized, &out->vit));
fail:
    if (status != RF_OK) {
        rf_session_close(out);
    }
    return status;
}

static rf_status reserve(rf_session *session, int64_t n, int64_t n_floats)
{
    rf_status status = RF_OK;
    int64_t n_all = 0;
    if (session->pixels == NULL) {
        RF_ALLOC(session->pixels, n_floats);
    }
    if (n > session->capacity) {
        RF_TRY(rf_stream_synchronise(session->stream)); /* nothing may still read what is freed */
        rf_memory_free(session->be, RF_MEMORY_DEVICE, session->device);
        session->device = NULL;
        session->capacity = 0;
        RF_TRY(rf_mul_i64(n, n_floats, "values of pictures", &n_all));
        RF_TRY(rf_memory_alloc(session->be, RF_MEMORY_DEVICE, (size_t)n_all * sizeof(float),
                               &session->device));
        session->capacity = n;
    }
fail:
    return status;
}

rf_status rf_session_load(rf_session *session, const char *const *paths, int64_t n, rf_view *images)
{
    rf_status status = RF_OK;
    rf_picture picture = {0};
    const int64_t shape[4] = {n, 3, rf_transform_height(&session->transform),
                              rf_transform_width(&session->transform)};
    const int64_t n_floats = shape[1] * shape[2] * shape[3];
    RF_REQUIRE(n >= 0, "%" PRId64 " pictures, expected >= 0", n);
    RF_TRY(reserve(session, n, n_floats));
    *images = rf_view_nd(session->device, RF_F32, 4, shape);
    for (int64_t i = 0; i < n; i++) {
        RF_TRY(rf_picture_load(paths[i], &picture));
        RF_TRY_DOING(rf_transform_apply(&session->transform, &picture, session->pixels), "%s",
                     paths[i]);
        rf_picture_fini(&picture);
        RF_TRY(rf_copy_in(session->stream, (float *)session->device + i * n_floats, session->pixels,
                          (size_t)n_floats * sizeof(float)));
        RF_TRY(rf_stream_synchronise(session->stream)); /* pixels are used again */
    }
fail:
    rf_picture_fini(&picture);
    return status;
}

void rf_session_close(rf_session *session)
{
    if (session->be != NULL) {
        rf_memory_free(session->be, RF_MEMORY_DEVICE, session->device);
    }
    rf_free(session->pixels);
    rf_vit_close(session->vit);
    rf_stream_destroy(session->stream);
    rf_backend_destroy(session->be);
    *session = (rf_session){0};
}
