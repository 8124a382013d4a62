/* rf_matmul: a product, a bias, an activation. A bias alone goes through cublasLt, which adds it
 * while it writes; an activation takes a pass of its own, as cublasLt's GELU is not the exact one
 * and nobody says what its RELU makes of NaN. cublasLt is asked once for a shape. */
#include "cuda_impl.h"
#include "k_matmul.h"

#include <string.h>

typedef struct product {
    rf_products products;
    rf_trans trans_a, trans_b;
    int64_t m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const void *a, *b;
    const float *bias;
    float *c;
} product;

/* ---- cublasLt ------------------------------------------------------------------------------ */

/* As cublasLt sees it: b^T first (cuda_gemm.c). */
typedef struct lt_product {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t first, second, result;
} lt_product;

#define LT_TRY(call) RF_TRY(rf_cublas_checked((call), #call))
#define LT_SET(desc, name, value)                                                                  \
    LT_TRY(cublasLtMatmulDescSetAttribute((desc), (name), &(value), sizeof(value)))
#define LT_PREFER(preference, name, value)                                                         \
    LT_TRY(cublasLtMatmulPreferenceSetAttribute((preference), (name), &(value), sizeof(value)))

static void lt_fini(lt_product *lt)
{
    if (lt->result != NULL) {
        (void)cublasLtMatrixLayoutDestroy(lt->result);
    }
    if (lt->second != NULL) {
        (void)cublasLtMatrixLayoutDestroy(lt->second);
    }
    if (lt->first != NULL) {
        (void)cublasLtMatrixLayoutDestroy(lt->first);
    }
    if (lt->desc != NULL) {
        (void)cublasLtMatmulDescDestroy(lt->desc);
    }
}

/* A matrix stored by rows [n_rows, n_cols]. */
static rf_status lay_out(cudaDataType type, int64_t n_rows, int64_t n_cols, int64_t ld,
                         cublasLtMatrixLayout_t *out)
{
    const int64_t stride = n_rows <= 1 ? rf_max_i64(ld, n_cols) : ld;
    return rf_cublas_checked(
        cublasLtMatrixLayoutCreate(out, type, (uint64_t)n_cols, (uint64_t)n_rows, stride),
        "cublasLtMatrixLayoutCreate");
}

static rf_status lt_init(const product *p, lt_product *lt)
{
    rf_status status = RF_OK;
    const bool ta = p->trans_a == RF_TRANS, tb = p->trans_b == RF_TRANS;
    const cublasOperation_t op_a = ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t op_b = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType type = p->products == RF_PRODUCTS_BF16 ? CUDA_R_16BF : CUDA_R_32F;

    *lt = (lt_product){.desc = NULL};
    LT_TRY(cublasLtMatmulDescCreate(&lt->desc,
                                    p->products == RF_PRODUCTS_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                    : CUBLAS_COMPUTE_32F,
                                    CUDA_R_32F));
    LT_SET(lt->desc, CUBLASLT_MATMUL_DESC_TRANSA, op_b);
    LT_SET(lt->desc, CUBLASLT_MATMUL_DESC_TRANSB, op_a);
    LT_SET(lt->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    LT_SET(lt->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p->bias);
    RF_TRY(lay_out(type, tb ? p->n : p->k, tb ? p->k : p->n, p->ldb, &lt->first));
    RF_TRY(lay_out(type, ta ? p->k : p->m, ta ? p->m : p->k, p->lda, &lt->second));
    RF_TRY(lay_out(CUDA_R_32F, p->m, p->n, p->ldc, &lt->result));
fail:
    return status; /* lt_fini frees what there is */
}

/* The largest power of two, up to 256, that divides the address. */
static uint32_t alignment_of(const void *p)
{
    const uintptr_t at = (uintptr_t)p | 256;
    return (uint32_t)(at & (~at + 1));
}

/* Sums of parts are made in fp32 and in workspace, or not at all: in a fixed order, and not rounded
 * on the way. */
static rf_status lt_choose(rf_cuda_stream *s, const product *p, const lt_product *lt,
                           rf_cuda_plan *plan)
{
    rf_status status = RF_OK;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    const uint64_t work_bytes = RF_CUDA_BLAS_BYTES;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t of_a = alignment_of(p->a), of_b = alignment_of(p->b), of_c = alignment_of(p->c);
    int n_found = 0;

    LT_TRY(cublasLtMatmulPreferenceCreate(&preference));
    LT_PREFER(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, work_bytes);
    LT_PREFER(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
    LT_PREFER(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, of_b);
    LT_PREFER(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, of_a);
    LT_PREFER(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, of_c);
    LT_PREFER(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, of_c);
    memset(&result, 0, sizeof result);
    const cublasStatus_t code =
        cublasLtMatmulAlgoGetHeuristic(s->blas_lt, lt->desc, lt->first, lt->second, lt->result,
                                       lt->result, preference, 1, &result, &n_found);
    if (code != CUBLAS_STATUS_NOT_SUPPORTED) {
        RF_TRY(rf_cublas_checked(code, "cublasLtMatmulAlgoGetHeuristic"));
        plan->is_told = n_found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
        plan->algo = result.algo;
    }
fail:
    if (preference != NULL) {
        (void)cublasLtMatmulPreferenceDestroy(preference);
    }
    return status;
}

static rf_cuda_plan plan_key(const product *p)
{
    return (rf_cuda_plan){
        .m = p->m,
        .n = p->n,
        .k = p->k,
        .lda = p->lda,
        .ldb = p->ldb,
        .ldc = p->ldc,
        .kind = (int)p->products + 4 * (int)p->trans_a + 8 * (int)p->trans_b +
                (p->beta != 0.0f ? 16 : 0),
        .aligned = (uint64_t)alignment_of(p->a) | (uint64_t)alignment_of(p->b) << 9 |
                   (uint64_t)alignment_of(p->c) << 18 | (uint64_t)alignment_of(p->bias) << 27};
}

static bool is_same(const rf_cuda_plan *x, const rf_cuda_plan *y)
{
    return x->m == y->m && x->n == y->n && x->k == y->k && x->lda == y->lda && x->ldb == y->ldb &&
           x->ldc == y->ldc && x->kind == y->kind && x->aligned == y->aligned;
}

/* The plan of this shape: known, or asked for and remembered. */
static rf_status find_plan(rf_cuda_stream *s, const product *p, const lt_product *lt,
                           const rf_cuda_plan **out)
{
    rf_status status = RF_OK;
    rf_cuda_plan key = plan_key(p);

    for (int64_t i = 0; i < rf_min_i64(s->n_plans, RF_CUDA_PLANS); i++) {
        if (is_same(&s->plans[i], &key)) {
            *out = &s->plans[i];
            return RF_OK;
        }
    }
    RF_TRY(lt_choose(s, p, lt, &key));
    rf_cuda_plan *place = &s->plans[s->n_plans++ % RF_CUDA_PLANS];
    *place = key;
    *out = place;
fail:
    return status;
}

/* c = alpha * a . b + beta * c + bias, if cublasLt does that. */
static rf_status multiply_with_bias(rf_cuda_stream *s, const product *p, bool *is_done)
{
    rf_status status = RF_OK;
    const rf_cuda_plan *plan = NULL;
    lt_product lt = {.desc = NULL};

    *is_done = false;
    RF_TRY(rf_cuda_want_blas(&s->base));
    RF_TRY(lt_init(p, &lt));
    RF_TRY(find_plan(s, p, &lt, &plan));
    if (plan->is_told) {
        LT_TRY(cublasLtMatmul(s->blas_lt, lt.desc, &p->alpha, p->b, lt.first, p->a, lt.second,
                              &p->beta, p->c, lt.result, p->c, lt.result, &plan->algo, s->blas_work,
                              RF_CUDA_BLAS_BYTES, s->stream));
        *is_done = true;
    }
fail:
    lt_fini(&lt);
    return status;
}

/* ---- the operation ------------------------------------------------------------------------- */

/* `a` as bf16 in scratch memory, rows 16 bytes apart at least: what tensor cores read. */
static rf_status round_a(rf_stream *s, const rf_view *a, product *p)
{
    rf_status status = RF_OK;
    const int64_t n_rows = a->shape[0], n_cols = a->shape[1];
    void *scratch = NULL;

    p->lda = rf_ceil_div(n_cols, 8) * 8;
    RF_TRY(rf_cuda_scratch(s, (size_t)(n_rows * p->lda) * sizeof(uint16_t), &scratch));
    rf_k_rows_to_bf16(rf_cuda_stream_of(s), a->data, a->stride[0], n_rows, n_cols, scratch, p->lda);
    p->a = scratch;
fail:
    return status;
}

rf_status rf_cuda_matmul(rf_stream *s, const rf_matmul_args *args)
{
    rf_status status = RF_OK;
    const bool is_bf16 = args->b.dtype == RF_BF16;
    bool has_bias = false; /* is it added by now? */
    const rf_products of_floats =
        args->products == RF_PRODUCTS_TF32 ? RF_PRODUCTS_TF32 : RF_PRODUCTS_F32;
    product p = {.products = is_bf16 ? RF_PRODUCTS_BF16 : of_floats,
                 .trans_a = args->trans_a,
                 .trans_b = args->trans_b,
                 .m = args->c.shape[0],
                 .n = args->c.shape[1],
                 .k = args->a.shape[args->trans_a == RF_TRANS ? 0 : 1],
                 .lda = args->a.stride[0],
                 .ldb = args->b.stride[0],
                 .ldc = args->c.stride[0],
                 .alpha = args->alpha,
                 .beta = args->beta,
                 .a = args->a.data,
                 .b = args->b.data,
                 .bias = args->bias.data,
                 .c = args->c.data};

    if (is_bf16) {
        RF_TRY(round_a(s, &args->a, &p));
    }
    if (p.bias != NULL && args->act == RF_ACT_NONE && p.k > 0) {
        RF_TRY_DOING(multiply_with_bias((rf_cuda_stream *)s, &p, &has_bias), "matrix product");
    }
    if (!has_bias) {
        RF_TRY(rf_cuda_gemm(s, p.products, p.trans_a, p.trans_b, p.m, p.n, p.k, p.alpha, p.a, p.lda,
                            p.b, p.ldb, p.beta, p.c, p.ldc));
        rf_k_bias_act(rf_cuda_stream_of(s), args->act, p.bias, p.c, p.ldc, p.m, p.n);
    }
    return rf_cuda_launched(s, "matrix product");
fail:
    return status;
}
