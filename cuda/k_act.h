/* Launchers of what pre-activations become and of their penalties, on entries of codes and on
 * matrices. */
#ifndef REFRACT_K_ACT_H
#define REFRACT_K_ACT_H

#include "k_view.h"

#ifdef __cplusplus
extern "C" {
#endif

/* rf_act_params by value; POWER and NORM of p = 1 are L1 here. Arrays from latent 0 on, NULL where
 * the act has none. */
typedef struct rf_act_arrays {
    rf_coder_act act;
    rf_penalty_kind penalty;
    const float *theta, *b_gate, *gain, *b_mag, *weight;
    float p;
} rf_act_arrays;

/* ---- entries of codes -------------------------------------------------------------------------
 */

/* Grids for `capacity` entries; those that are there say so themselves. `codes` of the arguments'
 * own structs is host memory and NULL here. */
void rf_k_gated_values(cudaStream_t stream, rf_act_arrays act, rf_codes codes, const float *h,
                       float *z);
void rf_k_gated_values_grad(cudaStream_t stream, rf_act_arrays act, rf_codes codes,
                            rf_gated_values_grad_args args);
/* has_slope: the penalty's derivative times `scale` is part of it. */
void rf_k_jump_window_grad(cudaStream_t stream, rf_act_arrays act, rf_codes codes,
                           rf_jump_window_grad_args args, bool has_slope);
void rf_k_penalty(cudaStream_t stream, rf_act_arrays act, rf_codes codes, rf_penalty_args args);

/* ---- matrices ---------------------------------------------------------------------------------
 */

void rf_k_dense_values(cudaStream_t stream, rf_act_arrays act, rf_dense_values_args args);
void rf_k_dense_relu(cudaStream_t stream, rf_rows h, rf_rows z, const uint8_t *row_valid, int64_t n,
                     int64_t f);

/* Sums over rows go in blocks of RF_K_GRAD_ROWS, then blocks in order. sums [n_sums, blocks, f]:
 * d_h (all that RELU has), d_threshold, d_b_gate, d_gain, d_b_mag; NULL where none is wanted. */
enum { RF_K_GRAD_ROWS = 64, RF_K_GRAD_SUMS = 5 };
static inline int rf_k_grad_sums(rf_coder_act act)
{
    return act == RF_CODER_RELU ? 1 : RF_K_GRAD_SUMS;
}
void rf_k_dense_grad(cudaStream_t stream, rf_act_arrays act, rf_dense_grad_args args, float *sums);

#ifdef __cplusplus
}
#endif

#endif
