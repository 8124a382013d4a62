/* The checks that shape rules are made of. */
#include "shape_impl.h"

#include <stdio.h>

const char *rf_shape_text(const rf_view *v, char out[RF_SHAPE_TEXT])
{
    int at = 0;
    for (int pass = 0; pass < 2; pass++) {
        at += snprintf(out + at, (size_t)(RF_SHAPE_TEXT - at), pass == 0 ? "[" : "] strides [");
        for (int i = 0; i < v->n_dims && i < RF_MAX_DIMS && at < RF_SHAPE_TEXT - 24; i++) {
            at += snprintf(out + at, (size_t)(RF_SHAPE_TEXT - at), "%s%" PRId64, i > 0 ? ", " : "",
                           pass == 0 ? v->shape[i] : v->stride[i]);
        }
    }
    snprintf(out + at, (size_t)(RF_SHAPE_TEXT - at), "]");
    return out;
}

rf_status rf_shape_check(const char *op, const char *name, const rf_view *v, rf_dtype dtype,
                         rf_presence given, int n_dims, const int64_t *shape)
{
    rf_status status = RF_OK;
    char text[RF_SHAPE_TEXT];
    if (v->data == NULL && given == RF_MAY_BE_ABSENT) {
        return RF_OK;
    }
    RF_REQUIRE(v->n_dims == n_dims, "%s: %s has %d dimensions, expected %d", op, name, v->n_dims,
               n_dims);
    RF_REQUIRE(v->dtype == dtype, "%s: %s has dtype %d, expected %d", op, name, (int)v->dtype,
               (int)dtype);
    for (int i = 0; i < n_dims; i++) {
        RF_REQUIRE(v->shape[i] >= 0 && (shape[i] < 0 || v->shape[i] == shape[i]),
                   "%s: dimension %d of %s %s is %" PRId64 ", expected %" PRId64, op, i, name,
                   rf_shape_text(v, text), v->shape[i], shape[i]);
    }
    int64_t last = n_dims > 0 ? v->shape[n_dims - 1] : 1;
    RF_REQUIRE(n_dims == 0 || last <= 1 || v->stride[n_dims - 1] == 1,
               "%s: rows of %s %s are not contiguous", op, name, rf_shape_text(v, text));
    RF_REQUIRE(n_dims < 2 || v->shape[n_dims - 2] <= 1 || v->stride[n_dims - 2] >= last ||
                   n_dims > 2,
               "%s: rows of %s %s overlap", op, name, rf_shape_text(v, text));
    RF_REQUIRE(v->data != NULL || rf_view_n_elems(v) == 0, "%s: %s is absent", op, name);
fail:
    return status;
}

rf_status rf_shape_check_1d(const char *op, const char *name, const rf_view *v, rf_presence given,
                            int64_t n)
{
    return rf_shape_check(op, name, v, RF_F32, given, 1, &n);
}

rf_status rf_shape_check_2d(const char *op, const char *name, const rf_view *v, rf_presence given,
                            int64_t n, int64_t d)
{
    return rf_shape_check(op, name, v, RF_F32, given, 2, (int64_t[]){n, d});
}

rf_status rf_shape_check_unrepeated(const char *op, const char *name, const rf_view *v)
{
    rf_status status = RF_OK;
    for (int i = 0; v->data != NULL && i < v->n_dims; i++) {
        RF_REQUIRE(v->shape[i] <= 1 || v->stride[i] != 0,
                   "%s: dimension %d of %s has stride 0, but is written", op, i, name);
    }
fail:
    return status;
}

rf_status rf_shape_check_act(const char *op, rf_act act)
{
    rf_status status = RF_OK;
    RF_REQUIRE(act >= RF_ACT_NONE && act <= RF_ACT_SILU, "%s: activation %d is none", op, (int)act);
fail:
    return status;
}
