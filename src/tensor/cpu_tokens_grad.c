/* Gradients of what turns pictures to rows, rows to tokens, and takes rows by index. Sums over
 * pictures and rows go in their order, whichever thread makes them. */
#include "tensor_impl.h"

#include <string.h>

rf_status rf_cpu_mean_tokens_grad(rf_stream *s, const rf_view *d_y, int64_t first, int64_t n,
                                  const rf_view *d_x)
{
    const int64_t d = d_x->shape[2];
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < d_x->shape[0] * n; i++) {
        const int64_t b = i / n, t = first + i % n;
        const float *from = (const float *)d_y->data + b * d_y->stride[0];
        float *to = (float *)d_x->data + b * d_x->stride[0] + t * d_x->stride[1];
        for (int64_t j = 0; j < d; j++) {
            to[j] += from[j] / (float)n;
        }
    }
    return RF_OK;
}

/* What one line of pixels (picture b, channel c, line y) gets from one frame's rows. */
static void add_line(const rf_patch_rows_args *args, const rf_clip *clip, int64_t b, int64_t frame,
                     int64_t c, int64_t y, float *line)
{
    const int64_t patch = args->patch, t = frame / clip->tubelet, py = y / patch;
    const int64_t in_row =
        ((c * clip->tubelet + frame % clip->tubelet) * patch + y % patch) * patch;
    for (int64_t px = 0; px < clip->n_x; px++) {
        const int64_t row = ((b * clip->n_t + t) * clip->n_y + py) * clip->n_x + px;
        const float *from = (const float *)args->rows.data + row * args->rows.stride[0] + in_row;
        for (int64_t j = 0; j < patch; j++) {
            line[px * patch + j] += from[j];
        }
    }
}

rf_status rf_cpu_patch_rows_grad(rf_stream *s, const rf_patch_rows_args *args)
{
    const rf_clip clip = rf_cpu_clip_of(args);
    const int64_t n_frames = clip.n_t * clip.tubelet, n_lines = clip.n_y * args->patch;
    const int64_t n_all = clip.n_pictures * clip.n_channels * clip.height;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n_all;
         i++) { /* frames may share their memory: one thread has them all */
        const int64_t y = i % clip.height, c = i / clip.height % clip.n_channels;
        const int64_t b = i / clip.height / clip.n_channels;
        float *line = (float *)args->images.data + b * clip.stride[0] + c * clip.stride[2] +
                      y * clip.stride[3];
        for (int64_t f = 0; f < clip.n_frames; f++) {
            memset(line + f * clip.stride[1], 0, sizeof *line * (size_t)clip.width);
        }
        for (int64_t f = 0; f < n_frames && y < n_lines; f++) {
            add_line(args, &clip, b, f, c, y, line + f * clip.stride[1]);
        }
    }
    return RF_OK;
}

enum { COLUMNS = 256 };

/* to [d] += the sum over pictures of the gradient at one token. */
static void add_over_pictures(const rf_view *out, int64_t token, float *to)
{
    const int64_t n_pictures = out->shape[0], d = out->shape[2];
    for (int64_t j0 = 0; j0 < d; j0 += COLUMNS) {
        const int64_t n = rf_min_i64(COLUMNS, d - j0);
        double sum[COLUMNS] = {0};
        for (int64_t b = 0; b < n_pictures; b++) {
            const float *from = (const float *)out->data + (b * out->shape[1] + token) * d + j0;
            for (int64_t j = 0; j < n; j++) {
                sum[j] += (double)from[j];
            }
        }
        for (int64_t j = 0; j < n; j++) {
            to[j0 + j] = (float)((double)to[j0 + j] + sum[j]);
        }
    }
}

rf_status rf_cpu_embed_tokens_grad(rf_stream *s, const rf_embed_tokens_args *args)
{
    const rf_view *out = &args->out;
    const int64_t n_tokens = out->shape[1], d = out->shape[2], n_prefix = args->prefix.shape[0];
    const int64_t n_patches = n_tokens - n_prefix;
    const int64_t n_copied = args->patches.data == NULL ? 0 : out->shape[0] * n_patches;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n_copied; i++) {
        const int64_t from = i / n_patches * n_tokens + n_prefix + i % n_patches;
        memcpy((float *)args->patches.data + i * args->patches.stride[0],
               (const float *)out->data + from * d, sizeof(float) * (size_t)d);
    }
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t t = 0; t < n_tokens; t++) {
        const rf_view *to = t < n_prefix ? &args->prefix : &args->position;
        const int64_t row = t < n_prefix ? t : t - n_prefix;
        if (to->data != NULL) {
            add_over_pictures(out, t, (float *)to->data + row * to->stride[0]);
        }
    }
    return RF_OK;
}

rf_status rf_cpu_gather_rows_grad(rf_stream *s, const rf_view *dst, const rf_view *index,
                                  const rf_view *src)
{
    rf_status status = RF_OK;
    const int64_t d = src->shape[1];
    const int64_t *rows = index->data;
    RF_TRY(rf_cpu_check_index("gradient of gather rows", index, src->shape[0]));
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t j0 = 0; j0 < d;
         j0 += COLUMNS) { /* a row may be named twice: threads share columns */
        const int64_t n = rf_min_i64(COLUMNS, d - j0);
        for (int64_t i = 0; i < dst->shape[0]; i++) {
            const float *from = (const float *)dst->data + i * dst->stride[0] + j0;
            float *to = (float *)src->data + rows[i] * src->stride[0] + j0;
            for (int64_t j = 0; j < n; j++) {
                to[j] += from[j];
            }
        }
    }
fail:
    return status;
}
