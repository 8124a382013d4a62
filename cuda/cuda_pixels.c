/* Bytes of pictures to the values a model sees. */
#include "cuda_impl.h"
#include "k_pixels.h"

rf_status rf_cuda_pixel_values(rf_stream *s, const rf_pixel_values_args *args)
{
    const rf_view *images = &args->images;
    rf_k_pixel_values(rf_cuda_stream_of(s), args->pixels.data, args->levels.data, images->data,
                      images->shape[0], images->shape[1], images->shape[2] * images->shape[3]);
    return rf_cuda_launched(s, "pixel values");
}
