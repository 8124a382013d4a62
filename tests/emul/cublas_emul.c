/* Stand-in for cuBLAS: its checks, and products by plain loops that run when the stream does.
 *
 * Sums go over eight terms at a time and then over these sums, in fp32: another order than the CPU
 * backend's, so that nobody comes to rely on equal bits. Operands in TF32 lose their lower 13 bits,
 * as tensor cores do not look at them; nothing rounds them first, which is the worst case. */
#include "cublas_emul.h"

#include <stdlib.h>
#include <string.h>

struct cublasContext {
    cudaStream_t stream;
    cublasMath_t math;
};

/* A panel of 8 rows of a, one of 4 columns of b; BLOCK terms and rows at a time stay in cache. */
enum { ROWS = 8, COLS = 4, GROUP = 8, BLOCK_TERMS = 512, BLOCK_ROWS = 128 };

typedef float lanes __attribute__((vector_size(16))); /* sums of a panel fit any registers */

/* ---- operands ---------------------------------------------------------------------------- */

static float element(const emul_product *p, const void *matrix, int64_t at)
{
    uint32_t bits;
    float value;
    if (p->type == CUDA_R_16BF) {
        bits = (uint32_t)((const uint16_t *)matrix)[at] << 16;
    } else {
        memcpy(&bits, (const float *)matrix + at, sizeof bits);
        bits = p->is_tf32 ? bits & 0xffffe000u : bits;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* out [panels][n_terms][width]: rows (or columns) first .. of the operand, terms k0 ..; what is
 * behind the last row is 0. `by_term`: the operand is stored with a term's rows side by side. */
static void pack(const emul_product *p, const void *matrix, int64_t ld, bool by_term, int64_t first,
                 int64_t n, int64_t k0, int64_t n_terms, int width, float *out)
{
    for (int64_t at = 0; at < n; at += width) {
        const int64_t here = n - at < width ? n - at : width;
        for (int64_t i = 0; i < n_terms * width; i++) {
            out[i] = 0.0f;
        }
        for (int64_t i = 0; i < here; i++) {
            for (int64_t t = 0; t < n_terms; t++) {
                const int64_t row = first + at + i, term = k0 + t;
                out[t * width + i] =
                    element(p, matrix, by_term ? row + term * ld : term + row * ld);
            }
        }
        out += n_terms * width;
    }
}

/* sums [COLS][ROWS] += a [n_terms, ROWS] . b [n_terms, COLS]. */
static void multiply_panels(const float *a, const float *b, int64_t n_terms, float *sums)
{
    for (int64_t t0 = 0; t0 < n_terms; t0 += GROUP) {
        const int64_t end = t0 + GROUP < n_terms ? t0 + GROUP : n_terms;
        lanes part[COLS][2], row[2];
        memset(part, 0, sizeof part);
        for (int64_t t = t0; t < end; t++) {
            memcpy(row, a + t * ROWS, sizeof row);
            for (int j = 0; j < COLS; j++) {
                part[j][0] += row[0] * b[t * COLS + j];
                part[j][1] += row[1] * b[t * COLS + j];
            }
        }
        for (int j = 0; j < COLS; j++) {
            memcpy(row, sums + j * ROWS, sizeof row);
            row[0] += part[j][0];
            row[1] += part[j][1];
            memcpy(sums + j * ROWS, row, sizeof row);
        }
    }
}

/* ---- one product ------------------------------------------------------------------------- */

typedef struct work {
    float *a;    /* panels of BLOCK_ROWS x BLOCK_TERMS */
    float *b;    /* panels of n x BLOCK_TERMS */
    float *sums; /* [n panels][m panels][COLS][ROWS] */
    int64_t m_panels, n_panels;
} work;

static void *take(size_t n, const char *name)
{
    void *p = calloc(n > 0 ? n : 1, sizeof(float));
    if (p == NULL) {
        emul_die("%s: the emulation is out of host memory", name);
    }
    return p;
}

static void finish(const emul_product *p, const work *w, const float *c, float *d)
{
    for (int64_t j = 0; j < p->n; j++) {
        for (int64_t i = 0; i < p->m; i++) {
            const int64_t panel = j / COLS * w->m_panels + i / ROWS;
            float sum = p->alpha * w->sums[(panel * COLS + j % COLS) * ROWS + i % ROWS];
            sum += p->beta != 0.0f ? p->beta * c[j * p->ldc + i] : 0.0f;
            sum += p->bias != NULL ? p->bias[i] : 0.0f;
            d[j * p->ldc + i] = p->is_relu && sum < 0.0f ? 0.0f : sum;
        }
    }
}

static void multiply_block(const emul_product *p, const work *w, const void *a, int64_t m0,
                           int64_t k0, int64_t n_terms)
{
    const int64_t rows = p->m - m0 < BLOCK_ROWS ? p->m - m0 : BLOCK_ROWS;
    const int64_t panels = (rows + ROWS - 1) / ROWS;
    pack(p, a, p->lda, p->op_a == CUBLAS_OP_N, m0, rows, k0, n_terms, ROWS, w->a);
    for (int64_t j = 0; j < w->n_panels; j++) {
        for (int64_t i = 0; i < panels; i++) {
            multiply_panels(w->a + i * ROWS * n_terms, w->b + j * COLS * n_terms, n_terms,
                            w->sums + (j * w->m_panels + m0 / ROWS + i) * COLS * ROWS);
        }
    }
}

static void multiply(const emul_product *p, const work *w, int64_t item)
{
    const size_t bytes = p->type == CUDA_R_16BF ? 2 : 4;
    const char *a = (const char *)p->a + item * p->stride_a * (int64_t)bytes;
    const char *b = (const char *)p->b + item * p->stride_b * (int64_t)bytes;

    memset(w->sums, 0, (size_t)(w->m_panels * w->n_panels * COLS * ROWS) * sizeof *w->sums);
    for (int64_t k0 = 0; k0 < p->k; k0 += BLOCK_TERMS) {
        const int64_t n_terms = p->k - k0 < BLOCK_TERMS ? p->k - k0 : BLOCK_TERMS;
        pack(p, b, p->ldb, p->op_b != CUBLAS_OP_N, 0, p->n, k0, n_terms, COLS, w->b);
        for (int64_t m0 = 0; m0 < p->m; m0 += BLOCK_ROWS) {
            multiply_block(p, w, a, m0, k0, n_terms);
        }
    }
    finish(p, w, p->c + item * p->stride_c, p->d + item * p->stride_c);
}

/* Elements from the first to behind the last. */
static int64_t extent(int64_t n_rows, int64_t n_cols, int64_t ld, int64_t stride, int64_t batch)
{
    return n_rows == 0 || n_cols == 0 ? 0 : (batch - 1) * stride + (n_cols - 1) * ld + n_rows;
}

static void check_range(const emul_product *p, const char *what, const void *at, int64_t n_elems,
                        size_t elem_bytes)
{
    char where[128] = "";
    if (n_elems > 0 && !emul_is_device_range(at, (size_t)n_elems * elem_bytes)) {
        emul_describe(at, where, sizeof where);
        emul_die("%s [%lld x %lld] over %lld: %s takes %lld elements of %zu bytes, but lies at %s",
                 p->name, (long long)p->m, (long long)p->n, (long long)p->k, what,
                 (long long)n_elems, elem_bytes, where);
    }
}

/* Again when it runs: what it reads may have been freed since it was queued. */
static void check_memory(const emul_product *p)
{
    const bool ta = p->op_a != CUBLAS_OP_N, tb = p->op_b != CUBLAS_OP_N;
    const size_t bytes = p->type == CUDA_R_16BF ? 2 : 4;
    const int64_t n_c = extent(p->m, p->n, p->ldc, p->stride_c, p->batch);
    check_range(p, "a", p->a,
                extent(ta ? p->k : p->m, ta ? p->m : p->k, p->lda, p->stride_a, p->batch), bytes);
    check_range(p, "b", p->b,
                extent(tb ? p->n : p->k, tb ? p->k : p->n, p->ldb, p->stride_b, p->batch), bytes);
    check_range(p, "c", p->c, p->beta != 0.0f ? n_c : 0, sizeof *p->c);
    check_range(p, "d", p->d, n_c, sizeof *p->d);
    check_range(p, "bias", p->bias, p->bias != NULL ? p->m : 0, sizeof *p->bias);
    if (p->d == p->a || p->d == p->b) {
        emul_die("%s: the result stands where an operand is", p->name);
    }
}

void emul_product_run(const emul_product *p)
{
    work w = {.m_panels = (p->m + ROWS - 1) / ROWS, .n_panels = (p->n + COLS - 1) / COLS};
    const int64_t most_terms = p->k < BLOCK_TERMS ? p->k : BLOCK_TERMS;

    check_memory(p);
    w.a = take((size_t)(BLOCK_ROWS * most_terms), p->name);
    w.b = take((size_t)(w.n_panels * COLS * most_terms), p->name);
    w.sums = take((size_t)(w.m_panels * w.n_panels * COLS * ROWS), p->name);
    for (int64_t i = 0; i < p->batch; i++) {
        multiply(p, &w, i);
    }
    free(w.sums);
    free(w.b);
    free(w.a);
}

static void run_product(void *arg)
{
    emul_product_run(arg);
}

cublasStatus_t emul_product_check(const emul_product *p)
{
    const int64_t rows_a = p->op_a == CUBLAS_OP_N ? p->m : p->k;
    const int64_t rows_b = p->op_b == CUBLAS_OP_N ? p->k : p->n;
    const int64_t rows_c = p->m;
    if (p->m < 0 || p->n < 0 || p->k < 0 || p->batch < 0 || p->lda < 1 || p->lda < rows_a ||
        p->ldb < 1 || p->ldb < rows_b || p->ldc < 1 || p->ldc < rows_c) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (p->m > 0 && p->n > 0 && p->batch > 0) {
        check_memory(p);
    }
    return CUBLAS_STATUS_SUCCESS;
}

void emul_product_push(const emul_product *p, cudaStream_t stream)
{
    if (p->m > 0 && p->n > 0 && p->batch > 0) {
        emul_product *copy = malloc(sizeof *copy);
        if (copy == NULL) {
            emul_die("%s: the emulation is out of host memory", p->name);
        } else {
            *copy = *p;
            emul_push(stream, p->name, run_product, copy, free);
        }
    }
}

/* ---- the interface ----------------------------------------------------------------------- */

const char *cublasGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_MAPPING_ERROR:
        return "CUBLAS_STATUS_MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
    return "CUBLAS_STATUS_UNKNOWN";
}

const char *cublasGetStatusString(cublasStatus_t status)
{
    return cublasGetStatusName(status);
}

cublasStatus_t cublasCreate(cublasHandle_t *handle)
{
    *handle = NULL;
    if (emul_fails("cublasCreate")) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    *handle = calloc(1, sizeof **handle);
    return *handle != NULL ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion(cublasHandle_t handle, int *version)
{
    (void)handle;
    *version = 130000;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetStream(cublasHandle_t handle, cudaStream_t *stream)
{
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    *stream = handle->stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void *workspace, size_t n_bytes)
{
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    if ((uintptr_t)workspace % 256 != 0) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (!emul_is_device_range(workspace, n_bytes)) {
        emul_die("cublasSetWorkspace: %zu bytes are not device memory", n_bytes);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode(cublasHandle_t handle, cublasPointerMode_t mode)
{
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    return mode == CUBLAS_POINTER_MODE_HOST ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasSetAtomicsMode(cublasHandle_t handle, cublasAtomicsMode_t mode)
{
    (void)mode;
    return handle != NULL ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode)
{
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cudaStream_t emul_handle_stream(const cublasHandle_t handle)
{
    return handle->stream;
}

/* Of the many combinations of types the two that this project uses. */
cublasStatus_t emul_product_types(const cublasHandle_t handle, cudaDataType type_b,
                                  cudaDataType type_c, cublasComputeType_t compute, emul_product *p)
{
    const bool is_plain = compute == CUBLAS_COMPUTE_32F;
    const bool is_tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    const bool is_pedantic = compute == CUBLAS_COMPUTE_32F_PEDANTIC;
    if (type_b != p->type || type_c != CUDA_R_32F ||
        (p->type == CUDA_R_16BF && !is_plain && !is_pedantic) ||
        (p->type == CUDA_R_32F && !is_plain && !is_pedantic && !is_tf32) ||
        (p->type != CUDA_R_16BF && p->type != CUDA_R_32F)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    p->is_tf32 = is_tf32 || (is_plain && p->type == CUDA_R_32F &&
                             ((int)handle->math & 3) == CUBLAS_TF32_TENSOR_OP_MATH);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmStridedBatchedEx_64(
    cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int64_t m, int64_t n,
    int64_t k, const void *alpha, const void *a, cudaDataType type_a, int64_t lda,
    long long int stride_a, const void *b, cudaDataType type_b, int64_t ldb, long long int stride_b,
    const void *beta, void *c, cudaDataType type_c, int64_t ldc, long long int stride_c,
    int64_t batch, cublasComputeType_t compute, cublasGemmAlgo_t algo)
{
    emul_product p = {.name = "cublasGemmStridedBatchedEx",
                      .op_a = op_a,
                      .op_b = op_b,
                      .type = type_a,
                      .m = m,
                      .n = n,
                      .k = k,
                      .lda = lda,
                      .ldb = ldb,
                      .ldc = ldc,
                      .stride_a = stride_a,
                      .stride_b = stride_b,
                      .stride_c = stride_c,
                      .batch = batch,
                      .a = a,
                      .b = b,
                      .c = c,
                      .d = c};
    (void)algo;
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    if (emul_fails("cublasGemmEx")) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    cublasStatus_t status = emul_product_types(handle, type_b, type_c, compute, &p);
    if (status == CUBLAS_STATUS_SUCCESS) {
        p.alpha = *(const float *)alpha;
        p.beta = *(const float *)beta;
        status = emul_product_check(&p);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        emul_product_push(&p, handle->stream);
    }
    return status;
}

cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t op_a,
                               cublasOperation_t op_b, int64_t m, int64_t n, int64_t k,
                               const void *alpha, const void *a, cudaDataType type_a, int64_t lda,
                               const void *b, cudaDataType type_b, int64_t ldb, const void *beta,
                               void *c, cudaDataType type_c, int64_t ldc,
                               cublasComputeType_t compute, cublasGemmAlgo_t algo)
{
    return cublasGemmStridedBatchedEx_64(handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, 0, b,
                                         type_b, ldb, 0, beta, c, type_c, ldc, 0, 1, compute, algo);
}
