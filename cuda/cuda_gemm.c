/* Matrix products by cuBLAS, which has columns where we have rows: c = a . b by rows is
 * c^T = b^T . a^T by columns, and what is stored by rows is its own transpose by columns. So b goes
 * first, with n and m exchanged, and nothing is moved. The interface of 64-bit sizes (cuBLAS 12 on)
 * is used throughout. One handle has one stream, its workspace is its own and atomics are off: the
 * same product has the same bits in every run on the same device. */
#include "cuda_impl.h"
#include "k_matmul.h"

typedef struct operand {
    cublasOperation_t op;
    int64_t ld;
} operand;

/* A matrix [rows, cols] as stored; one of a single row may come with any stride. */
static operand operand_of(rf_trans trans, int64_t rows, int64_t cols, int64_t ld)
{
    const int64_t n_stored = trans == RF_TRANS ? cols : rows;
    const int64_t width = trans == RF_TRANS ? rows : cols;
    return (operand){.op = trans == RF_TRANS ? CUBLAS_OP_T : CUBLAS_OP_N,
                     .ld = n_stored <= 1 ? rf_max_i64(ld, width) : ld};
}

static cudaDataType type_of(rf_products products)
{
    return products == RF_PRODUCTS_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasComputeType_t compute_of(rf_products products)
{
    return products == RF_PRODUCTS_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

rf_status rf_cuda_gemm(rf_stream *s, rf_products products, rf_trans ta, rf_trans tb, int64_t m,
                       int64_t n, int64_t k, float alpha, const void *a, int64_t lda, const void *b,
                       int64_t ldb, float beta, float *c, int64_t ldc)
{
    rf_status status = RF_OK;
    const operand of_a = operand_of(ta, m, k, lda), of_b = operand_of(tb, k, n, ldb);
    const operand of_c = operand_of(RF_NO_TRANS, m, n, ldc);
    const cudaDataType type = type_of(products);

    if (m == 0 || n == 0) {
        return RF_OK;
    }
    if (k == 0) {
        rf_k_scale_rows(rf_cuda_stream_of(s), beta, c, of_c.ld, m, n);
        return rf_cuda_launched(s, "matrix product");
    }
    RF_TRY(rf_cuda_want_blas(s));
    ((rf_cuda_stream *)s)->op = "matrix product";
    status = rf_cublas_checked(cublasGemmEx_64(((rf_cuda_stream *)s)->blas, of_b.op, of_a.op, n, m,
                                               k, &alpha, b, type, of_b.ld, a, type, of_a.ld, &beta,
                                               c, CUDA_R_32F, of_c.ld, compute_of(products),
                                               CUBLAS_GEMM_DEFAULT),
                               "matrix product");
fail:
    return status;
}

rf_status rf_cuda_gemm_batched(rf_stream *s, rf_products products, rf_trans ta, rf_trans tb,
                               int64_t m, int64_t n, int64_t k, float alpha, const void *a,
                               int64_t lda, int64_t stride_a, const void *b, int64_t ldb,
                               int64_t stride_b, float beta, float *c, int64_t ldc,
                               int64_t stride_c, int64_t batch)
{
    rf_status status = RF_OK;
    const operand of_a = operand_of(ta, m, k, lda), of_b = operand_of(tb, k, n, ldb);
    const operand of_c = operand_of(RF_NO_TRANS, m, n, ldc);
    const cudaDataType type = type_of(products);

    if (m == 0 || n == 0 || batch == 0) {
        return RF_OK;
    }
    if (k == 0) {
        for (int64_t i = 0; i < batch; i++) {
            rf_k_scale_rows(rf_cuda_stream_of(s), beta, c + i * stride_c, of_c.ld, m, n);
        }
        return rf_cuda_launched(s, "batched matrix product");
    }
    RF_TRY(rf_cuda_want_blas(s));
    ((rf_cuda_stream *)s)->op = "batched matrix product";
    status = rf_cublas_checked(
        cublasGemmStridedBatchedEx_64(((rf_cuda_stream *)s)->blas, of_b.op, of_a.op, n, m, k,
                                      &alpha, b, type, of_b.ld, stride_b, a, type, of_a.ld,
                                      stride_a, &beta, c, CUDA_R_32F, of_c.ld, stride_c, batch,
                                      compute_of(products), CUBLAS_GEMM_DEFAULT),
        "batched matrix product");
fail:
    return status;
}
