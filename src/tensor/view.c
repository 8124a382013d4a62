/* Views: windows on device memory. */
#include "refract/tensor.h"

size_t rf_dtype_bytes(rf_dtype dtype)
{
    switch (dtype) {
    case RF_F32:
    case RF_I32:
        return 4;
    case RF_F16:
    case RF_BF16:
        return 2;
    case RF_I64:
        return 8;
    case RF_U8:
        return 1;
    }
    return 0;
}

rf_view rf_view_nd(void *data, rf_dtype dtype, int n_dims, const int64_t *shape)
{
    rf_view v = {.data = data, .dtype = dtype, .n_dims = n_dims};
    int64_t stride = 1;
    for (int i = n_dims - 1; i >= 0; i--) {
        v.shape[i] = shape[i];
        v.stride[i] = stride;
        stride *= shape[i];
    }
    return v;
}

rf_view rf_view_1d(void *data, int64_t n)
{
    return rf_view_nd(data, RF_F32, 1, &n);
}

rf_view rf_view_2d(void *data, int64_t n_rows, int64_t n_cols)
{
    int64_t shape[2] = {n_rows, n_cols};
    return rf_view_nd(data, RF_F32, 2, shape);
}

rf_view rf_view_rows(rf_view v, int64_t first, int64_t n)
{
    if (v.data != NULL) {
        v.data = (char *)v.data + first * v.stride[0] * (int64_t)rf_dtype_bytes(v.dtype);
    }
    v.shape[0] = n;
    return v;
}

int64_t rf_view_n_elems(const rf_view *v)
{
    int64_t n = 1;
    for (int i = 0; i < v->n_dims; i++) {
        n *= v->shape[i];
    }
    return n;
}

bool rf_view_is_contiguous(const rf_view *v)
{
    int64_t stride = 1;
    for (int i = v->n_dims - 1; i >= 0; i--) {
        if (v->shape[i] != 1 && v->stride[i] != stride) {
            return rf_view_n_elems(v) == 0;
        }
        stride *= v->shape[i];
    }
    return true;
}
