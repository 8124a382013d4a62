/* Pictures to rows, rows to tokens, and rows by index. */
#include "tensor_impl.h"

#include <string.h>

rf_status rf_cpu_patch_rows(rf_stream *s, const rf_patch_rows_args *args)
{
    const rf_view *im = &args->images;
    const int64_t n_pictures = im->shape[0], n_channels = im->shape[1], patch = args->patch;
    const int64_t n_y = im->shape[2] / patch, n_x = im->shape[3] / patch;
    const int64_t row_stride = args->rows.stride[0];
    const float *from = im->data;
    float *to = args->rows.data;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n_pictures * n_y * n_x; i++) {
        const int64_t b = i / (n_y * n_x), py = i / n_x % n_y, px = i % n_x;
        float *row = to + i * row_stride;
        for (int64_t c = 0; c < n_channels; c++) {
            const float *plane = from + b * im->stride[0] + c * im->stride[1] + px * patch;
            for (int64_t y = 0; y < patch; y++) {
                memcpy(row, plane + (py * patch + y) * im->stride[2],
                       (size_t)patch * sizeof(float));
                row += patch;
            }
        }
    }
    return RF_OK;
}

rf_status rf_cpu_embed_tokens(rf_stream *s, const rf_embed_tokens_args *args)
{
    const int64_t n_prefix = args->prefix.data == NULL ? 0 : args->prefix.shape[0];
    const int64_t n_pictures = args->out.shape[0], n_tokens = args->out.shape[1];
    const int64_t d = args->out.shape[2], n_patches = n_tokens - n_prefix;
    const float *patches = args->patches.data, *position = args->position.data;
    float *out = args->out.data;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n_pictures * n_tokens; i++) {
        const int64_t t = i % n_tokens - n_prefix, b = i / n_tokens;
        float *to = out + i * d;
        if (t < 0) {
            const float *prefix = args->prefix.data;
            memcpy(to, prefix + (t + n_prefix) * args->prefix.stride[0], (size_t)d * sizeof *to);
            continue;
        }
        const float *from = patches + (b * n_patches + t) * args->patches.stride[0];
        const float *at = position == NULL ? NULL : position + t * args->position.stride[0];
        for (int64_t j = 0; j < d; j++) {
            to[j] = at == NULL ? from[j] : from[j] + at[j];
        }
    }
    return RF_OK;
}

rf_status rf_cpu_gather_rows(rf_stream *s, const rf_view *src, const rf_view *index,
                             const rf_view *dst)
{
    rf_status status = RF_OK;
    const int64_t m = dst->shape[0], d = dst->shape[1], n = src->shape[0];
    const int64_t *rows = index->data;
    for (int64_t i = 0; i < m; i++) {
        RF_REQUIRE(rows[i] >= 0 && rows[i] < n,
                   "gather rows: index[%" PRId64 "]=%" PRId64 ", expected 0 to %" PRId64, i,
                   rows[i], n - 1);
    }
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < m; i++) {
        memcpy((float *)dst->data + i * dst->stride[0],
               (const float *)src->data + rows[i] * src->stride[0], (size_t)d * sizeof(float));
    }
fail:
    return status;
}
