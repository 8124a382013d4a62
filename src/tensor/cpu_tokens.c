/* Pictures to rows, rows to tokens, and rows by index. */
#include "tensor_impl.h"

#include <string.h>

rf_clip rf_cpu_clip_of(const rf_patch_rows_args *args)
{
    const rf_view *im = &args->images;
    const int at = im->n_dims == 5 ? 1 : 0; /* pictures are clips of one frame */
    rf_clip clip = {.n_pictures = im->shape[0],
                    .n_frames = at == 1 ? im->shape[1] : 1,
                    .n_channels = im->shape[at + 1],
                    .height = im->shape[at + 2],
                    .width = im->shape[at + 3],
                    .tubelet = rf_max_i64(args->tubelet, 1),
                    .stride = {im->stride[0], at == 1 ? im->stride[1] : 0, im->stride[at + 1],
                               im->stride[at + 2]}};
    clip.n_t = clip.n_frames / clip.tubelet;
    clip.n_y = clip.height / args->patch;
    clip.n_x = clip.width / args->patch;
    return clip;
}

/* One row: the pixels of `tubelet` frames' patch that begins at `from`. */
static void copy_patch(const rf_clip *clip, int64_t patch, const float *from, float *row)
{
    for (int64_t c = 0; c < clip->n_channels; c++) {
        for (int64_t t = 0; t < clip->tubelet; t++) {
            const float *corner = from + c * clip->stride[2] + t * clip->stride[1];
            for (int64_t y = 0; y < patch; y++) {
                memcpy(row, corner + y * clip->stride[3], (size_t)patch * sizeof(float));
                row += patch;
            }
        }
    }
}

rf_status rf_cpu_patch_rows(rf_stream *s, const rf_patch_rows_args *args)
{
    const rf_clip clip = rf_cpu_clip_of(args);
    const int64_t n_in_plane = clip.n_y * clip.n_x, patch = args->patch;
    const float *from = args->images.data;
    float *to = args->rows.data;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < clip.n_pictures * clip.n_t * n_in_plane; i++) {
        const int64_t t = i / n_in_plane % clip.n_t, b = i / n_in_plane / clip.n_t;
        const int64_t py = i / clip.n_x % clip.n_y, px = i % clip.n_x;
        copy_patch(&clip, patch,
                   from + b * clip.stride[0] + t * clip.tubelet * clip.stride[1] +
                       py * patch * clip.stride[3] + px * patch,
                   to + i * args->rows.stride[0]);
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

rf_status rf_cpu_check_index(const char *op, const rf_view *index, int64_t n)
{
    rf_status status = RF_OK;
    const int64_t *rows = index->data;
    for (int64_t i = 0; i < index->shape[0]; i++) {
        RF_REQUIRE(rows[i] >= 0 && rows[i] < n,
                   "%s: index[%" PRId64 "]=%" PRId64 ", expected 0 to %" PRId64, op, i, rows[i],
                   n - 1);
    }
fail:
    return status;
}

rf_status rf_cpu_gather_rows(rf_stream *s, const rf_view *src, const rf_view *index,
                             const rf_view *dst)
{
    rf_status status = RF_OK;
    const int64_t m = dst->shape[0], d = dst->shape[1];
    const int64_t *rows = index->data;
    RF_TRY(rf_cpu_check_index("gather rows", index, src->shape[0]));
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < m; i++) {
        memcpy((float *)dst->data + i * dst->stride[0],
               (const float *)src->data + rows[i] * src->stride[0], (size_t)d * sizeof(float));
    }
fail:
    return status;
}

enum { COLUMNS = 256 };

/* n <= COLUMNS columns of one picture's mean, tokens in order. */
static void mean_piece(const float *x, int64_t stride, int64_t n_tokens, int64_t n, float *y)
{
    double sum[COLUMNS] = {0};
    for (int64_t t = 0; t < n_tokens; t++) {
        for (int64_t j = 0; j < n; j++) {
            sum[j] += (double)x[t * stride + j];
        }
    }
    for (int64_t j = 0; j < n; j++) {
        y[j] = (float)(sum[j] / (double)n_tokens);
    }
}

rf_status rf_cpu_mean_tokens(rf_stream *s, const rf_view *x, int64_t first, int64_t n,
                             const rf_view *y)
{
    const int64_t d = x->shape[2], n_pieces = rf_ceil_div(d, COLUMNS);
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < x->shape[0] * n_pieces; i++) {
        const int64_t b = i / n_pieces, j0 = i % n_pieces * COLUMNS;
        mean_piece((const float *)x->data + b * x->stride[0] + first * x->stride[1] + j0,
                   x->stride[1], n, rf_min_i64(COLUMNS, d - j0),
                   (float *)y->data + b * y->stride[0] + j0);
    }
    return RF_OK;
}
