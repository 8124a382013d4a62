/* Kernels of encode that belong to no rule: how far products may lie from canonical dots, copies of
 * the operands in bf16, and where rows begin. What kernels of the rules share stands here too. */
#ifndef REFRACT_K_ENCODE_H
#define REFRACT_K_ENCODE_H

#include "refract/tensor.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Latents that a warp looks at in one step. For every step there are the largest bounds of its
 * latents; tiles begin with a step. */
enum { RF_ENCODE_STEP = 256 };

/* Largest of all latents and rows, by bit patterns, which order as floats >= 0 do. Zeroed first. */
typedef struct rf_k_extremes {
    uint32_t norm, bias; /* floats */
    uint32_t is_bad;     /* a latent is not finite */
    uint32_t unused;
    unsigned long long share, row; /* doubles: |rounding error| / |w|, and |x| */
} rf_k_extremes;

/* Rows of x or of w and what becomes of them. */
typedef struct rf_k_operand {
    const float *data;
    int64_t stride, n, width;
    uint16_t *copy; /* [n, copy_stride] in bf16, or NULL */
    int64_t copy_stride;
    rf_products products;
} rf_k_operand;

/* pre of (b, i) lies within row_scale[b] * norm[i] of the product, and a little for the bias, which
 * `hi` and `lo` hold together with the bias itself. hi is -inf where a latent may not be selected.
 * Peaks are the largest of a step. */
typedef struct rf_k_bounds {
    const float *norm;          /* [F] */
    float *hi, *lo;             /* [F] */
    float *peak_norm, *peak_hi; /* [steps] */
    const float *row_scale;     /* [B] */
    const uint8_t *row_on;      /* [B] */
} rf_k_bounds;

/* What canonical values are made of. */
typedef struct rf_k_exact {
    const float *x, *w, *bias;
    int64_t x_stride, w_stride, width;
} rf_k_exact;

/* Products of rows first_row .. with latents first_latent .., `stride` floats apart. */
typedef struct rf_k_tile {
    const float *products;
    int64_t stride, first_row, n_rows, first_latent, n_latents;
} rf_k_tile;

/* k by class; all rows are of class 0 where row_class is NULL. */
typedef struct rf_k_classes {
    const uint8_t *row_class;
    int64_t k[RF_MAX_ROW_CLASSES];
} rf_k_classes;

/* norm [F], the copy, and the latents' part of `extremes`. */
void rf_k_encode_latents(cudaStream_t stream, rf_k_operand w, const float *bias, float *norm,
                         rf_k_extremes *extremes);
/* row_scale, row_on [B], the copy; *n_refused (may be NULL) += valid rows that are refused. `sums`
 * is how far the sums of a product and of a canonical dot err, relative to |x| |w|. */
void rf_k_encode_rows(cudaStream_t stream, rf_k_operand x, const uint8_t *row_valid, double sums,
                      rf_k_extremes *extremes, float *row_scale, uint8_t *row_on,
                      int64_t *n_refused);
/* hi, lo [F] and the peaks of a list. */
void rf_k_encode_offsets(cudaStream_t stream, const float *norm, const float *bias,
                         const uint8_t *eligible, int64_t n_latents, int64_t width,
                         const rf_k_extremes *extremes, float *hi, float *lo, float *peak_norm,
                         float *peak_hi);
/* start [n + 1] = sums of the counts before. */
void rf_k_encode_start_rows(cudaStream_t stream, const int32_t *count, int64_t n, int64_t *start);

#ifdef __cplusplus
}
#endif

#endif
