/* Launchers of what is done element by element. All are bound by memory: 4 bytes for each element
 * read or written. */
#ifndef REFRACT_K_ELEMENTWISE_H
#define REFRACT_K_ELEMENTWISE_H

#include "k_view.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y [n] = act(x [n]); y may be x. */
void rf_k_activation(cudaStream_t stream, rf_act act, const float *x, float *y, int64_t n);
/* y [n] = x [n] in y's type; types that rf_convert takes. */
void rf_k_convert(cudaStream_t stream, rf_dtype from, rf_dtype to, const void *x, void *y,
                  int64_t n);

/* On rows [n, d]. y = act(gate) * x. */
void rf_k_gated(cudaStream_t stream, rf_act act, rf_rows gate, rf_rows x, rf_rows y, int64_t n,
                int64_t d);
/* y = x + r * scale [d]; x and scale may be absent. */
void rf_k_add(cudaStream_t stream, rf_rows x, rf_rows r, const float *scale, rf_rows y, int64_t n,
              int64_t d);
/* d_x = d_y * act'(x). */
void rf_k_activation_grad(cudaStream_t stream, rf_act act, rf_rows x, rf_rows d_y, rf_rows d_x,
                          int64_t n, int64_t d);

typedef struct rf_gated_rows {
    rf_rows gate, x, d_y, d_gate, d_x; /* d_gate, d_x may be absent */
} rf_gated_rows;
void rf_k_gated_grad(cudaStream_t stream, rf_act act, rf_gated_rows rows, int64_t n, int64_t d);

#ifdef __cplusplus
}
#endif

#endif
