/* Launchers of what is done to rows of parameters: updates, rules, norms. A warp has a row, so that
 * canonical dots are its lanes' sums. */
#ifndef REFRACT_K_UPDATE_H
#define REFRACT_K_UPDATE_H

#include "k_view.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a row is held to. */
typedef struct rf_held {
    rf_row_rule rule;
    rf_segments segments;
    float radius;
} rf_held;

/* Rates of one update in the form that kernels use. */
typedef struct rf_rates {
    float beta1, beta2, rest1, rest2;
    float step; /* -lr; of Adam over 1 - beta1^t */
    float v_scale, eps, keep;
    float decay, average; /* schedule-free: -lr * weight_decay, and x's step to z */
} rf_rates;

/* Adam reads w, g, m, v and writes w, m, v: 28 bytes an element, 24 of a row that was not touched;
 * what is read twice is near by then. */
typedef struct rf_updated_rows {
    rf_update_kind kind;
    rf_rows w, g, m, v, average;
    const uint8_t *touched;  /* or NULL */
    const float *grad_scale; /* or NULL */
    rf_held held;
    rf_rates rates;
    int64_t n, d;
} rf_updated_rows;
void rf_k_update_rows(cudaStream_t stream, rf_updated_rows args);

void rf_k_apply_row_rule(cudaStream_t stream, rf_rows w, int64_t n, int64_t d, rf_held held);
void rf_k_row_norms(cudaStream_t stream, rf_rows w, int64_t n, int64_t d, rf_segments segments,
                    float *out);
void rf_k_row_norms_grad(cudaStream_t stream, rf_rows w, int64_t n, int64_t d, rf_segments segments,
                         const float *scale, rf_rows d_w);

/* Tokens to a coder's space and back: see rf_normalise_args. */
void rf_k_normalise_tokens(cudaStream_t stream, rf_normalise_args args);
void rf_k_denormalise_tokens(cudaStream_t stream, rf_normalise_args args);

#ifdef __cplusplus
}
#endif

#endif
