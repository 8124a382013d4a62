/* Private to tensor: the checks that shape rules are made of, for every backend. */
#ifndef REFRACT_SHAPE_IMPL_H
#define REFRACT_SHAPE_IMPL_H

#include "refract/tensor.h"

enum { RF_SHAPE_TEXT = 160 };

typedef enum rf_presence { RF_MUST_BE_GIVEN, RF_MAY_BE_ABSENT } rf_presence;

/* "[2, 3] strides [3, 1]" for messages. */
const char *rf_shape_text(const rf_view *v, char out[RF_SHAPE_TEXT]);

/* `v` has `dtype` and `n_dims` dimensions, the last of them dense, rows of two that do not overlap;
 * shape[i] = -1: any. Errors: INVALID_ARG, naming the operation and the view. */
rf_status rf_shape_check(const char *op, const char *name, const rf_view *v, rf_dtype dtype,
                         rf_presence given, int n_dims, const int64_t *shape);
rf_status rf_shape_check_1d(const char *op, const char *name, const rf_view *v, rf_presence given,
                            int64_t n);
rf_status rf_shape_check_2d(const char *op, const char *name, const rf_view *v, rf_presence given,
                            int64_t n, int64_t d);
/* No element is written twice for a stride of 0: what threads write may not be repeated. */
rf_status rf_shape_check_unrepeated(const char *op, const char *name, const rf_view *v);
/* What rf_matmul asks of its arguments. */
rf_status rf_shape_check_matmul(const rf_matmul_args *args);
rf_status rf_shape_check_act(const char *op, rf_act act);

#endif
