/* Stand-in for cuBLAS: products of matrices that arrays of pointers in device memory name. */
#include "cublas_emul.h"

#include <stdlib.h>

typedef struct batched {
    emul_product product; /* of one item */
    const void *const *a, *const *b;
    void *const *c;
    int64_t n;
} batched;

/* The pointers are read now: what wrote them ran before. */
static void run_batched(void *arg)
{
    const batched *all = arg;
    for (int64_t i = 0; i < all->n; i++) {
        emul_product p = all->product;
        p.a = all->a[i];
        p.b = all->b[i];
        p.c = all->c[i];
        p.d = all->c[i];
        emul_product_run(&p);
    }
}

static void check_pointers(const char *what, const void *at, int64_t n)
{
    char where[128] = "";
    if (!emul_is_device_range(at, (size_t)n * sizeof(void *))) {
        emul_describe(at, where, sizeof where);
        emul_die("cublasGemmBatchedEx: %s takes %lld pointers, but lies at %s", what, (long long)n,
                 where);
    }
}

cublasStatus_t cublasGemmBatchedEx_64(cublasHandle_t handle, cublasOperation_t op_a,
                                      cublasOperation_t op_b, int64_t m, int64_t n, int64_t k,
                                      const void *alpha, const void *const a[], cudaDataType type_a,
                                      int64_t lda, const void *const b[], cudaDataType type_b,
                                      int64_t ldb, const void *beta, void *const c[],
                                      cudaDataType type_c, int64_t ldc, int64_t batch,
                                      cublasComputeType_t compute, cublasGemmAlgo_t algo)
{
    batched all = {.product = {.name = "cublasGemmBatchedEx",
                               .op_a = op_a,
                               .op_b = op_b,
                               .type = type_a,
                               .m = m,
                               .n = n,
                               .k = k,
                               .lda = lda,
                               .ldb = ldb,
                               .ldc = ldc},
                   .a = a,
                   .b = b,
                   .c = c,
                   .n = batch};
    (void)algo;
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    if (emul_fails("cublasGemmEx")) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    cublasStatus_t status = emul_product_types(handle, type_b, type_c, compute, &all.product);
    if (status == CUBLAS_STATUS_SUCCESS) {
        all.product.alpha = *(const float *)alpha;
        all.product.beta = *(const float *)beta;
        status = emul_product_check(&all.product); /* of no items: sizes alone */
    }
    if (status == CUBLAS_STATUS_SUCCESS && m > 0 && n > 0 && batch > 0) {
        check_pointers("a", (const void *)a, batch);
        check_pointers("b", (const void *)b, batch);
        check_pointers("c", (const void *)c, batch);
        batched *copy = malloc(sizeof *copy);
        if (copy == NULL) {
            emul_die("cublasGemmBatchedEx: the emulation is out of host memory");
        } else {
            all.product.batch = 1;
            *copy = all;
            emul_push(emul_handle_stream(handle), "cublasGemmBatchedEx", run_batched, copy, free);
        }
    }
    return status;
}
