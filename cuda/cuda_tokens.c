/* What turns pictures to rows, rows to tokens and tokens to others; and the gradients. */
#include "cuda_impl.h"
#include "k_tokens.h"

static rf_patches patches_of(const rf_patch_rows_args *args)
{
    const rf_view *im = &args->images;
    const int at = im->n_dims == 5 ? 1 : 0; /* pictures are clips of one frame */
    rf_patches p = {.images = im->data,
                    .n_pictures = im->shape[0],
                    .n_frames = at == 1 ? im->shape[1] : 1,
                    .n_channels = im->shape[at + 1],
                    .height = im->shape[at + 2],
                    .width = im->shape[at + 3],
                    .tubelet = rf_max_i64(args->tubelet, 1),
                    .patch = args->patch,
                    .stride = {im->stride[0], at == 1 ? im->stride[1] : 0, im->stride[at + 1],
                               im->stride[at + 2]},
                    .rows = rf_rows_of(&args->rows)};
    p.n_t = p.n_frames / p.tubelet;
    p.n_y = p.height / p.patch;
    p.n_x = p.width / p.patch;
    return p;
}

rf_status rf_cuda_patch_rows(rf_stream *s, const rf_patch_rows_args *args)
{
    rf_k_patch_rows(rf_cuda_stream_of(s), patches_of(args));
    return rf_cuda_launched(s, "patch rows");
}

rf_status rf_cuda_patch_rows_grad(rf_stream *s, const rf_patch_rows_args *args)
{
    rf_k_patch_rows_grad(rf_cuda_stream_of(s), patches_of(args));
    return rf_cuda_launched(s, "gradient of patch rows");
}

/* Of the gradient, prefix.shape[0] says how many prefix rows there are even where none is wanted.
 */
static rf_tokens tokens_of(const rf_embed_tokens_args *args, int64_t n_prefix)
{
    return (rf_tokens){.out = args->out.data,
                       .patches = rf_rows_of(&args->patches),
                       .position = rf_rows_of(&args->position),
                       .prefix = rf_rows_of(&args->prefix),
                       .n_pictures = args->out.shape[0],
                       .n_prefix = n_prefix,
                       .n_patches = args->out.shape[1] - n_prefix,
                       .d = args->out.shape[2]};
}

rf_status rf_cuda_embed_tokens(rf_stream *s, const rf_embed_tokens_args *args)
{
    rf_k_embed_tokens(rf_cuda_stream_of(s),
                      tokens_of(args, args->prefix.data == NULL ? 0 : args->prefix.shape[0]));
    return rf_cuda_launched(s, "embed tokens");
}

rf_status rf_cuda_embed_tokens_grad(rf_stream *s, const rf_embed_tokens_args *args)
{
    rf_k_embed_tokens_grad(rf_cuda_stream_of(s), tokens_of(args, args->prefix.shape[0]));
    return rf_cuda_launched(s, "gradient of embed tokens");
}

rf_status rf_cuda_gather_rows(rf_stream *s, const rf_view *src, const rf_view *index,
                              const rf_view *dst)
{
    rf_k_gather_rows(rf_cuda_stream_of(s), rf_rows_of(src), src->shape[0], index->data,
                     rf_rows_of(dst), dst->shape[0], dst->shape[1]);
    return rf_cuda_launched(s, "gather rows");
}

rf_status rf_cuda_gather_rows_grad(rf_stream *s, const rf_view *dst, const rf_view *index,
                                   const rf_view *src)
{
    rf_k_gather_rows_grad(rf_cuda_stream_of(s), rf_rows_of(dst), dst->shape[0], index->data,
                          rf_rows_of(src), src->shape[0], src->shape[1]);
    return rf_cuda_launched(s, "gradient of gather rows");
}

rf_status rf_cuda_mean_tokens(rf_stream *s, const rf_view *x, int64_t first, int64_t n,
                              const rf_view *y)
{
    rf_k_mean_tokens(rf_cuda_stream_of(s), (const float *)x->data + first * x->stride[1],
                     x->stride[0], x->stride[1], n, rf_rows_of(y), y->shape[0], y->shape[1]);
    return rf_cuda_launched(s, "mean of tokens");
}

rf_status rf_cuda_mean_tokens_grad(rf_stream *s, const rf_view *d_y, int64_t first, int64_t n,
                                   const rf_view *d_x)
{
    rf_k_mean_tokens_grad(rf_cuda_stream_of(s), rf_rows_of(d_y), n,
                          (float *)d_x->data + first * d_x->stride[1], d_x->stride[0],
                          d_x->stride[1], d_x->shape[0], d_x->shape[2]);
    return rf_cuda_launched(s, "gradient of the mean of tokens");
}

rf_status rf_cuda_rotary(rf_stream *s, const rf_rotary_args *args)
{
    const rf_view *x = &args->x, *y = &args->y;
    const rf_turned t = {.x = x->data,
                         .y = y->data,
                         .x_stride = {x->stride[0], x->stride[1], x->stride[2]},
                         .y_stride = {y->stride[0], y->stride[1], y->stride[2]},
                         .cos = rf_rows_of(&args->cos),
                         .sin = rf_rows_of(&args->sin),
                         .n_pictures = x->shape[0],
                         .n_tokens = x->shape[1],
                         .n_heads = x->shape[2],
                         .half = x->shape[3] / 2,
                         .is_adjacent = args->pairs == RF_PAIRS_ADJACENT,
                         .is_transposed = args->is_transposed};
    rf_k_rotary(rf_cuda_stream_of(s), t);
    return rf_cuda_launched(s, "rotary");
}

rf_status rf_cuda_column_dot(rf_stream *s, const rf_view *x, const rf_view *y, const rf_view *out)
{
    rf_status status = RF_OK;
    const int64_t n = x->shape[0], d = x->shape[1];
    void *partial = NULL;
    RF_TRY(rf_cuda_scratch(s, sizeof(float) * (size_t)(rf_ceil_div(n, RF_K_COLUMN_ROWS) * d),
                           &partial));
    rf_k_column_dot(rf_cuda_stream_of(s), rf_rows_of(x), rf_rows_of(y), n, d, partial, out->data);
    RF_TRY(rf_cuda_launched(s, "sum of products by column"));
fail:
    return status;
}
