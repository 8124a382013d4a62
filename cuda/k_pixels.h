/* Launcher of what turns bytes of pictures into values: 1 byte read and 4 written for each. */
#ifndef REFRACT_K_PIXELS_H
#define REFRACT_K_PIXELS_H

#include <cuda_runtime_api.h>

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* images [n, n_channels, n_places] = levels [n_channels, 256] of pixels [n, n_places, n_channels].
 */
void rf_k_pixel_values(cudaStream_t stream, const uint8_t *pixels, const float *levels,
                       float *images, int64_t n, int64_t n_channels, int64_t n_places);

#ifdef __cplusplus
}
#endif

#endif
