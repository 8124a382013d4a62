/* Bytes of pictures to the values a model sees. */
#include "tensor_impl.h"

enum { AT_ONCE = 8 };

/* One line of one picture: a channel's values by its 256 levels. Inlined, with a constant number of
 * channels, a value is two loads and a store. */
static inline void line_values(const uint8_t *pixels, int64_t n_channels, const float *levels,
                               int64_t n, float *restrict out)
{
    int64_t x = 0;
    for (; x + AT_ONCE <= n; x += AT_ONCE) {
        for (int k = 0; k < AT_ONCE; k++) {
            out[x + k] = levels[pixels[(x + k) * n_channels]];
        }
    }
    for (; x < n; x++) {
        out[x] = levels[pixels[x * n_channels]];
    }
}

rf_status rf_cpu_pixel_values(rf_stream *s, const rf_pixel_values_args *args)
{
    const rf_view *images = &args->images;
    const int64_t n_channels = images->shape[1], height = images->shape[2];
    const int64_t width = images->shape[3];
    const uint8_t *pixels = args->pixels.data;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < images->shape[0] * height; i++) {
        const int64_t b = i / height, y = i % height;
        for (int64_t c = 0; c < n_channels; c++) {
            const uint8_t *line = pixels + i * width * n_channels + c;
            const float *levels = (const float *)args->levels.data + 256 * c;
            float *out = (float *)images->data + ((b * n_channels + c) * height + y) * width;
            if (n_channels == 3) {
                line_values(line, 3, levels, width, out);
            } else {
                line_values(line, n_channels, levels, width, out);
            }
        }
    }
    return RF_OK;
}
