/* Stand-in for cuBLASLt: products with an epilogue. An algorithm remembers the problem it was
 * chosen for, with the alignments that were promised, and is refused for any other. */
#include "cublas_emul.h"
#include "cublasLt.h"

#include <stdlib.h>
#include <string.h>

enum { WORK_BYTES = 4096 };

struct cublasLtContext {
    int is_open;
};

struct cublasLtMatmulDescOpaque {
    cublasComputeType_t compute;
    cublasOperation_t op_a, op_b;
    cublasLtEpilogue_t epilogue;
    const float *bias;
};

struct cublasLtMatrixLayoutOpaque {
    cudaDataType type;
    int64_t n_rows, n_cols, ld;
};

struct cublasLtMatmulPreferenceOpaque {
    uint64_t work_bytes;
    uint32_t schemes;
    uint32_t alignment[4]; /* of a, b, c, d */
};

size_t cublasLtGetVersion(void)
{
    return 130000;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = emul_fails("cublasLtCreate") ? NULL : calloc(1, sizeof **handle);
    return *handle != NULL ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    free(handle);
    return handle != NULL ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

/* ---- descriptions ------------------------------------------------------------------------ */

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType scale_type)
{
    *desc = NULL;
    if (scale_type != CUDA_R_32F) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    *desc = calloc(1, sizeof **desc);
    if (*desc == NULL) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    (*desc)->compute = compute;
    (*desc)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    free(desc);
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set(void *field, size_t field_bytes, const void *value, size_t n_bytes)
{
    if (value == NULL || n_bytes != field_bytes) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(field, value, n_bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t n_bytes)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return set(&desc->op_a, sizeof desc->op_a, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return set(&desc->op_b, sizeof desc->op_b, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return set(&desc->epilogue, sizeof desc->epilogue, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return set(&desc->bias, sizeof desc->bias, value, n_bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                          uint64_t n_rows, uint64_t n_cols, int64_t ld)
{
    *layout = calloc(1, sizeof **layout);
    if (*layout == NULL) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    **layout = (struct cublasLtMatrixLayoutOpaque){type, (int64_t)n_rows, (int64_t)n_cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    free(layout);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    *preference = calloc(1, sizeof **preference);
    if (*preference == NULL) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    (*preference)->schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
    for (int i = 0; i < 4; i++) {
        (*preference)->alignment[i] = 256;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    free(preference);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t n_bytes)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return set(&preference->work_bytes, sizeof preference->work_bytes, value, n_bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return set(&preference->schemes, sizeof preference->schemes, value, n_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        break;
    }
    const int i = (int)attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
    if (i < 0 || i > 3) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    return set(&preference->alignment[i], sizeof preference->alignment[i], value, n_bytes);
}

/* ---- products ---------------------------------------------------------------------------- */

/* The problem without its pointers. */
static cublasStatus_t describe(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                               cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                               cublasLtMatrixLayout_t d, emul_product *p)
{
    const bool ta = desc->op_a != CUBLAS_OP_N, tb = desc->op_b != CUBLAS_OP_N;
    *p = (emul_product){.name = "cublasLtMatmul",
                        .op_a = desc->op_a,
                        .op_b = desc->op_b,
                        .type = a->type,
                        .m = d->n_rows,
                        .n = d->n_cols,
                        .k = ta ? a->n_rows : a->n_cols,
                        .lda = a->ld,
                        .ldb = b->ld,
                        .ldc = d->ld,
                        .batch = 1,
                        .is_tf32 = desc->compute == CUBLAS_COMPUTE_32F_FAST_TF32,
                        .is_relu = (desc->epilogue & CUBLASLT_EPILOGUE_RELU) != 0};
    if ((ta ? a->n_cols : a->n_rows) != p->m || (tb ? b->n_cols : b->n_rows) != p->k ||
        (tb ? b->n_rows : b->n_cols) != p->n || c->n_rows != p->m || c->n_cols != p->n ||
        (desc->compute == CUBLAS_COMPUTE_32F_FAST_TF32 && a->type != CUDA_R_32F)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (a->type != b->type || (a->type != CUDA_R_32F && a->type != CUDA_R_16BF) ||
        c->type != CUDA_R_32F || d->type != CUDA_R_32F || c->ld != d->ld ||
        (desc->compute != CUBLAS_COMPUTE_32F && desc->compute != CUBLAS_COMPUTE_32F_FAST_TF32)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    return CUBLAS_STATUS_SUCCESS;
}

static uint64_t mix(uint64_t hash, int64_t value)
{
    return (hash ^ (uint64_t)value) * UINT64_C(1099511628211);
}

static uint64_t hash_of(const emul_product *p, cublasLtMatmulDesc_t desc)
{
    const int64_t parts[] = {p->m,
                             p->n,
                             p->k,
                             p->lda,
                             p->ldb,
                             p->ldc,
                             (int64_t)p->type,
                             (int64_t)p->op_a,
                             (int64_t)p->op_b,
                             (int64_t)desc->epilogue,
                             (int64_t)desc->compute};
    uint64_t hash = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        hash = mix(hash, parts[i]);
    }
    return hash;
}

cublasStatus_t
cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                               cublasLtMatrixLayout_t layout_a, cublasLtMatrixLayout_t layout_b,
                               cublasLtMatrixLayout_t layout_c, cublasLtMatrixLayout_t layout_d,
                               cublasLtMatmulPreference_t preference, int n_asked,
                               cublasLtMatmulHeuristicResult_t results[], int *n_found)
{
    emul_product p;
    *n_found = 0;
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    if (emul_fails("cublasLtMatmulAlgoGetHeuristic")) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    const cublasStatus_t status = describe(desc, layout_a, layout_b, layout_c, layout_d, &p);
    if (status != CUBLAS_STATUS_SUCCESS || n_asked < 1) {
        return n_asked < 1 ? CUBLAS_STATUS_INVALID_VALUE : status;
    }
    memset(&results[0], 0, sizeof results[0]);
    results[0].algo.data[0] = hash_of(&p, desc);
    for (int i = 0; i < 4; i++) {
        results[0].algo.data[1 + i] = preference->alignment[i];
    }
    results[0].workspaceSize = preference->work_bytes < WORK_BYTES ? 0 : WORK_BYTES;
    results[0].algo.data[5] = results[0].workspaceSize;
    results[0].wavesCount = 1.0f;
    *n_found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

static void check_algorithm(const emul_product *p, cublasLtMatmulDesc_t desc,
                            const cublasLtMatmulAlgo_t *algo)
{
    const void *at[4] = {p->a, p->b, p->c, p->d};
    if (algo->data[0] != hash_of(p, desc)) {
        emul_die("cublasLtMatmul: the algorithm was chosen for another product");
    }
    for (int i = 0; i < 4; i++) {
        if (algo->data[1 + i] == 0 || (uintptr_t)at[i] % algo->data[1 + i] != 0) {
            emul_die(
                "cublasLtMatmul: %c does not lie at a multiple of %llu bytes, as was said when "
                "the algorithm was chosen",
                "abcd"[i], (unsigned long long)algo -> data[1 + i]);
        }
    }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t layout_a, const void *b,
                              cublasLtMatrixLayout_t layout_b, const void *beta, const void *c,
                              cublasLtMatrixLayout_t layout_c, void *d,
                              cublasLtMatrixLayout_t layout_d, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    emul_product p;
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    if (emul_fails("cublasLtMatmul")) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    cublasStatus_t status = describe(desc, layout_a, layout_b, layout_c, layout_d, &p);
    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    p.a = a;
    p.b = b;
    p.c = c;
    p.d = d;
    p.alpha = *(const float *)alpha;
    p.beta = *(const float *)beta;
    p.bias = (desc->epilogue & CUBLASLT_EPILOGUE_BIAS) != 0 ? desc->bias : NULL;
    if ((desc->epilogue & CUBLASLT_EPILOGUE_BIAS) != 0 && p.bias == NULL) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    check_algorithm(&p, desc, algo);
    if (workspace_bytes < algo->data[5]) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (workspace_bytes > 0 && !emul_is_device_range(workspace, workspace_bytes)) {
        emul_die("cublasLtMatmul: the workspace of %zu bytes is not device memory",
                 workspace_bytes);
    }
    status = emul_product_check(&p);
    if (status == CUBLAS_STATUS_SUCCESS) {
        emul_product_push(&p, stream);
    }
    return status;
}
