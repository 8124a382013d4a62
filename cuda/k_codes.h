/* Launchers of what walks codes by token: decode, gradients of values, residuals, cuts. Codes hold
 * row_start [n_rows + 1] and entries of rising latents. */
#ifndef REFRACT_K_CODES_H
#define REFRACT_K_CODES_H

#include "k_view.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out [n_rows, max(1, groups) D] = bias + sum of value * w_dec[latent], entries in order. A row of
 * W is read for each entry: 4 D bytes, at the speed of the second-level cache where W fits it. */
typedef struct rf_decode_rows {
    const int64_t *row_start;
    const int32_t *latent;
    const float *value, *bias; /* bias may be NULL */
    rf_rows w, out;
    int64_t n_rows, d;
    rf_latent_groups groups;
} rf_decode_rows;
void rf_k_decode(cudaStream_t stream, rf_decode_rows args);

/* out [entries] = rf_dot(w[latent], g_b); as many bytes. */
typedef struct rf_d_value_rows {
    const int64_t *row_start;
    const int32_t *latent;
    float *out;
    rf_rows w, g;
    int64_t n_rows, d;
    rf_latent_groups groups;
} rf_d_value_rows;
void rf_k_d_value(cudaStream_t stream, rf_d_value_rows args);

/* See rf_residual_args; x_hat.stride 0: one row for all. */
typedef struct rf_residual_rows {
    rf_rows x, x_hat, g;
    float *row_loss;
    const uint8_t *row_valid;
    int64_t n, d;
    float scale;
} rf_residual_rows;
void rf_k_residual(cudaStream_t stream, rf_residual_rows args);

void rf_k_prefix_residual(cudaStream_t stream, rf_prefix_residual_args args);

/* counts [65536] = entries of `rows` by a half of their value's bits: rf_codes_histogram. */
void rf_k_codes_histogram(cudaStream_t stream, rf_codes codes, rf_class_rows rows, int32_t upper,
                          int64_t *counts);

/* Entries that stay: rf_codes_keep. Scratch: ties and kept [n_rows + 1], the rest [capacity]. */
typedef struct rf_cut_scratch {
    int64_t *ties, *kept;
    int32_t *latent;
    float *value, *d_value;
} rf_cut_scratch;
void rf_k_codes_keep(cudaStream_t stream, rf_codes codes, rf_class_rows rows, float threshold,
                     int64_t n_ties, rf_cut_scratch scratch);

/* at [n + 1] becomes what is before each of at [n], and their sum. */
void rf_k_scan(cudaStream_t stream, int64_t *at, int64_t n);

#ifdef __cplusplus
}
#endif

#endif
