/* Private to weight processing: host copies of weights in double, and the steps on them. */
#ifndef REFRACT_PROCESS_IMPL_H
#define REFRACT_PROCESS_IMPL_H

#include "vit_impl.h"

/* A copy [n_rows, n_cols] of a view (a vector is one row); x = NULL: the view is absent. */
typedef struct rf_matrix {
    rf_view view;
    double *x;
    int64_t n_rows, n_cols;
} rf_matrix;

/* A linear map [in, out] with its bias, or a norm with its own. */
typedef struct rf_map {
    rf_matrix w, b;
} rf_map;

/* ---- process_steps.c ------------------------------------------------------------------------ */

/* The norm's weight and bias into the maps that read it; the mean over their inputs out of their
 * columns, as what they read has none. The maps have biases where the norm has one. */
void rf_fold_norm(rf_map *norm, rf_map *const *readers, int n_readers);
/* A scale of what the map gives into the map. */
void rf_fold_scale(rf_map *map, rf_matrix *scale);
/* The mean of each row out of it. */
void rf_centre_rows(rf_matrix *m);
/* b_V into b_O: rows of a pattern sum to one. */
void rf_fold_value_bias(rf_map *v, rf_map *o);
/* Each head's W_V W_O = U S V^T as (U S) (V^T). b_V must be zero or absent. */
rf_status rf_refactor_ov(rf_map *v, rf_map *o, int64_t n_heads);
/* Each head's [W_Q; b_Q] [W_K; b_K]^T = U S V^T as (U sqrt S) (V sqrt S)^T. */
rf_status rf_refactor_qk(rf_map *q, rf_map *k, int64_t n_heads);

/* ---- factor.c ------------------------------------------------------------------------------- */

/* Singular values (falling) and vectors of A . B^T: a holds the `k` columns of A [n, k], one behind
 * the other, b those of B [m, k]; they become U and V, s [k] the values. */
rf_status rf_factor_svd(double *a, int64_t n, double *b, int64_t m, int64_t k, double *s);

/* ---- biases.c ------------------------------------------------------------------------------- */

typedef struct rf_new_bias {
    rf_linear *map; /* has none */
    char name[RF_NAME_LEN];
} rf_new_bias;

/* Zero biases for maps that have none, at the end of the arena, which moves. */
rf_status rf_biases_add(rf_vit *vit, rf_stream *s, const rf_new_bias *biases, int64_t n);

#endif
