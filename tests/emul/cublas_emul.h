/* Private to the stand-ins of cuBLAS and cuBLASLt: one product by columns, queued on a stream. */
#ifndef REFRACT_CUBLAS_EMUL_H
#define REFRACT_CUBLAS_EMUL_H

#include "cublas_v2.h"
#include "emul.h"

/* d = act(alpha * op(a) [m, k] . op(b) [k, n] + beta * c + bias [m]), all by columns. */
typedef struct emul_product {
    const char *name;
    cublasOperation_t op_a, op_b;
    cudaDataType type; /* of a and b; c, d and bias are floats */
    int64_t m, n, k, lda, ldb, ldc, stride_a, stride_b, stride_c, batch;
    float alpha, beta;
    const void *a, *b;
    const float *c, *bias; /* bias may be NULL */
    float *d;              /* in rows of c's; may be c */
    bool is_tf32, is_relu;
} emul_product;

/* The types of a product, where it is one of those that this project uses. */
cublasStatus_t emul_product_types(const cublasHandle_t handle, cudaDataType type_b,
                                  cudaDataType type_c, cublasComputeType_t compute,
                                  emul_product *p);
cudaStream_t emul_handle_stream(const cublasHandle_t handle);

/* What cuBLAS checks; stops where memory is not the device's. */
cublasStatus_t emul_product_check(const emul_product *p);
void emul_product_push(const emul_product *p, cudaStream_t stream);
/* At once, its memory checked: for work that is already running. */
void emul_product_run(const emul_product *p);

#endif
