/* Launchers of what turns pictures to rows, rows to tokens and tokens to others. All are bound by
 * memory: 4 bytes for each element read or written. */
#ifndef REFRACT_K_TOKENS_H
#define REFRACT_K_TOKENS_H

#include "k_view.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Clips [n_pictures, n_frames, n_channels, height, width] with the strides of picture, frame,
 * channel and line, cut into n_t x n_y x n_x patches of tubelet x patch x patch. */
typedef struct rf_patches {
    float *images;
    int64_t n_pictures, n_frames, n_channels, height, width;
    int64_t tubelet, patch, n_t, n_y, n_x;
    int64_t stride[4];
    rf_rows rows; /* [n_pictures * n_t * n_y * n_x, n_channels * tubelet * patch * patch] */
} rf_patches;
void rf_k_patch_rows(cudaStream_t stream, rf_patches p);
/* images = the sum of what its pixels went to; frames may share their memory. */
void rf_k_patch_rows_grad(cudaStream_t stream, rf_patches p);

/* Tokens [n_pictures, n_prefix + n_patches, d], contiguous. */
typedef struct rf_tokens {
    float *out;
    rf_rows patches, position, prefix; /* any may be absent */
    int64_t n_pictures, n_prefix, n_patches, d;
} rf_tokens;
void rf_k_embed_tokens(cudaStream_t stream, rf_tokens t);
/* `out` is the gradient; patches is overwritten, position and prefix are added to. */
void rf_k_embed_tokens_grad(cudaStream_t stream, rf_tokens t);

/* dst [m, d] = rows index [m] of src [n, d]; NaN where the index is not one of them. */
void rf_k_gather_rows(cudaStream_t stream, rf_rows src, int64_t n, const int64_t *index,
                      rf_rows dst, int64_t m, int64_t d);
/* src[index[i]] += dst[i], i rising; an index that is none is left out. */
void rf_k_gather_rows_grad(cudaStream_t stream, rf_rows dst, int64_t m, const int64_t *index,
                           rf_rows src, int64_t n, int64_t d);

/* y [n_pictures, d] = the mean of n tokens, the first at x. */
void rf_k_mean_tokens(cudaStream_t stream, const float *x, int64_t picture_stride,
                      int64_t token_stride, int64_t n, rf_rows y, int64_t n_pictures, int64_t d);
/* d_x of each of those tokens += d_y / n. */
void rf_k_mean_tokens_grad(cudaStream_t stream, rf_rows d_y, int64_t n, float *d_x,
                           int64_t picture_stride, int64_t token_stride, int64_t n_pictures,
                           int64_t d);

/* x, y [n_pictures, n_tokens, n_heads, 2 half] with the strides of the first three. */
typedef struct rf_turned {
    const float *x;
    float *y;
    int64_t x_stride[3], y_stride[3];
    rf_rows cos, sin; /* [n_tokens, 2 half] */
    int64_t n_pictures, n_tokens, n_heads, half;
    int is_adjacent, is_transposed;
} rf_turned;
void rf_k_rotary(cudaStream_t stream, rf_turned t);

/* out [d] += sum over rows of x * y: blocks of rf_k_column_rows rows by FMA, rows in order, then
 * blocks in order as doubles. partial [ceil(n / rf_k_column_rows), d]. */
enum { RF_K_COLUMN_ROWS = 256 };
void rf_k_column_dot(cudaStream_t stream, rf_rows x, rf_rows y, int64_t n, int64_t d,
                     float *partial, float *out);

#ifdef __cplusplus
}
#endif

#endif
