/* Rows of floats as kernels take them by value, and grids over rows and columns. */
#ifndef REFRACT_K_VIEW_H
#define REFRACT_K_VIEW_H

#include "refract/tensor.h"

#include <cuda_runtime_api.h>

#include <stdint.h>

/* Row i begins at data + i * stride; data NULL: absent. */
typedef struct rf_rows {
    float *data;
    int64_t stride;
} rf_rows;

static inline rf_rows rf_rows_of(const rf_view *v)
{
    rf_rows rows;
    rows.data = (float *)v->data;
    rows.stride = v->stride[0];
    return rows;
}

/* Blocks for n items, `each` a block, no more than a grid may have along x: kernels stride on. */
static inline unsigned rf_blocks(int64_t n, int64_t each)
{
    const int64_t blocks = (n + each - 1) / each;
    return (unsigned)(blocks < 1 ? 1 : blocks < 0x7fffffff ? blocks : 0x7fffffff);
}

/* The same along y or z. */
static inline unsigned rf_blocks_y(int64_t n)
{
    return (unsigned)(n < 1 ? 1 : n < 65535 ? n : 65535);
}

#endif
