/* Bytes of pictures to the values a model sees. A thread has all channels of a place: its bytes lie
 * side by side, and each channel's values are written by consecutive threads. */
#include "k_pixels.h"

#include "device_math.h"
#include "k_view.h"

enum { BLOCK = 256 };

static __global__ void pixel_values(const uint8_t *pixels, const float *levels, float *images,
                                    int64_t n, int64_t n_channels, int64_t n_places)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n * n_places; i += step) {
        const int64_t b = i / n_places, at = i % n_places;
        for (int64_t c = 0; c < n_channels; c++) {
            images[(b * n_channels + c) * n_places + at] =
                levels[256 * c + pixels[i * n_channels + c]];
        }
    }
}

void rf_k_pixel_values(cudaStream_t stream, const uint8_t *pixels, const float *levels,
                       float *images, int64_t n, int64_t n_channels, int64_t n_places)
{
    GPU_LAUNCH(pixel_values, dim3(rf_blocks(n * n_places, BLOCK)), dim3(BLOCK), 0, stream, pixels,
               levels, images, n, n_channels, n_places);
}
