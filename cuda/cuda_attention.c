/* Attention by its parts: products of all heads of all pictures at once, by pointers to them, and a
 * softmax between. The whole is its three parts, whether the pattern is asked for or not. */
#include "cuda_impl.h"
#include "k_norm.h"

/* The matrix [rows, cols] of each head of each picture. */
typedef struct head_matrix {
    rf_heads at;
    int64_t ld;
    rf_trans trans; /* it holds the transpose */
} head_matrix;

/* c = alpha * a . b, [m, k] . [k, n], for n_pictures x n_heads heads. */
typedef struct head_product {
    rf_products products;
    int64_t n_pictures, n_heads, m, n, k;
    float alpha;
    head_matrix a, b, c;
    const void **pointers; /* [3, n_pictures * n_heads], scratch */
} head_product;

/* [B, T, H, dh]. Of a single row the stride says nothing, but a product wants one. */
static head_matrix of_tokens(const rf_view *v, rf_trans trans)
{
    return (head_matrix){.at = {v->data, v->stride[0], v->stride[2]},
                         .ld = v->shape[1] > 1 ? v->stride[1] : rf_max_i64(1, v->shape[3]),
                         .trans = trans};
}

/* [B, H, Tq, T]. */
static head_matrix of_pattern(const void *data, int64_t n_heads, int64_t n_queries, int64_t n_keys,
                              rf_trans trans)
{
    const int64_t tile = n_queries * n_keys;
    return (head_matrix){.at = {data, n_heads * tile, tile}, .ld = n_keys, .trans = trans};
}

static cublasOperation_t op_of(const head_matrix *m)
{
    return m->trans == RF_TRANS ? CUBLAS_OP_T : CUBLAS_OP_N;
}

/* By columns, as cuBLAS sees them, c^T = b^T . a^T. */
static rf_status multiply(rf_stream *s, const head_product *p)
{
    rf_status status = RF_OK;
    const int64_t batch = p->n_pictures * p->n_heads;
    const void **a = p->pointers, **b = a + batch, **c = b + batch;
    const float zero = 0.0f;
    if (p->m == 0 || p->n == 0 || batch == 0) {
        return RF_OK;
    }
    RF_TRY(rf_cuda_want_blas(s));
    rf_k_point_to_heads(rf_cuda_stream_of(s), p->a.at, p->n_pictures, p->n_heads, a);
    rf_k_point_to_heads(rf_cuda_stream_of(s), p->b.at, p->n_pictures, p->n_heads, b);
    rf_k_point_to_heads(rf_cuda_stream_of(s), p->c.at, p->n_pictures, p->n_heads, c);
    status = rf_cublas_checked(
        cublasGemmBatchedEx_64(((rf_cuda_stream *)s)->blas, op_of(&p->b), op_of(&p->a), p->n, p->m,
                               p->k, &p->alpha, b, CUDA_R_32F, p->b.ld, a, CUDA_R_32F, p->a.ld,
                               &zero, (void *const *)c, CUDA_R_32F, p->c.ld, batch,
                               p->products == RF_PRODUCTS_F32 ? CUBLAS_COMPUTE_32F
                                                              : CUBLAS_COMPUTE_32F_FAST_TF32,
                               CUBLAS_GEMM_DEFAULT),
        "products of heads");
fail:
    return status;
}

/* ---- forward --------------------------------------------------------------------------------- */

typedef struct shape {
    int64_t n_pictures, n_heads, n_queries, n_keys, width;
} shape;

static shape shape_of(const rf_view *rows, const rf_view *keys)
{
    return (shape){.n_pictures = rows->shape[0],
                   .n_heads = rows->shape[2],
                   .n_queries = rows->shape[1],
                   .n_keys = keys->shape[1],
                   .width = rows->shape[3]};
}

static int64_t n_scores(const shape *n)
{
    return n->n_pictures * n->n_heads * n->n_queries * n->n_keys;
}

static head_product product_of(const shape *n, rf_products products, const void **pointers)
{
    return (head_product){.products = products,
                          .n_pictures = n->n_pictures,
                          .n_heads = n->n_heads,
                          .alpha = 1.0f,
                          .pointers = pointers};
}

/* pattern = scale * q . k. */
static rf_status scores(rf_stream *s, const rf_attention_args *args, const shape *n, float *pattern,
                        const void **pointers)
{
    head_product p = product_of(n, args->products, pointers);
    p.m = n->n_queries;
    p.n = n->n_keys;
    p.k = n->width;
    p.alpha = args->scale;
    p.a = of_tokens(&args->q, RF_NO_TRANS);
    p.b = of_tokens(&args->k, RF_TRANS);
    p.c = of_pattern(pattern, n->n_heads, n->n_queries, n->n_keys, RF_NO_TRANS);
    return multiply(s, &p);
}

static rf_status mix(rf_stream *s, const rf_attention_args *args, const shape *n,
                     const float *pattern, const void **pointers)
{
    head_product p = product_of(n, args->products, pointers);
    p.m = n->n_queries;
    p.n = n->width;
    p.k = n->n_keys;
    p.a = of_pattern(pattern, n->n_heads, n->n_queries, n->n_keys, RF_NO_TRANS);
    p.b = of_tokens(&args->v, RF_NO_TRANS);
    p.c = of_tokens(&args->z, RF_NO_TRANS);
    return multiply(s, &p);
}

static void add_bias_and_softmax(rf_stream *s, const rf_attention_args *args, const shape *n,
                                 float *pattern, bool is_sum_alone)
{
    if (is_sum_alone && args->bias.data == NULL) {
        return;
    }
    rf_k_softmax(rf_cuda_stream_of(s),
                 (rf_softmax){.x = {pattern, n->n_keys},
                              .bias = args->bias.data,
                              .n = n->n_pictures * n->n_heads * n->n_queries,
                              .d = n->n_keys,
                              .n_each = n->n_queries,
                              .n_bias = args->bias.data != NULL ? args->bias.shape[0] : 1,
                              .is_sum_alone = is_sum_alone});
}

/* Pointers for products, and the pattern where nobody else keeps it. */
static rf_status take_scratch(rf_stream *s, const shape *n, bool has_pattern,
                              const void ***pointers, float **pattern)
{
    rf_status status = RF_OK;
    rf_carver memory = {0};
    for (int round = 0; round < 2; round++) {
        *pointers = rf_carve(&memory, 3 * n->n_pictures * n->n_heads, sizeof(void *));
        if (!has_pattern) {
            *pattern = rf_carve(&memory, n_scores(n), sizeof(float));
        }
        if (round == 0) {
            void *base = NULL;
            RF_TRY(rf_cuda_scratch(s, memory.used, &base));
            memory = (rf_carver){.base = base};
        }
    }
fail:
    return status;
}

rf_status rf_cuda_attention(rf_stream *s, const rf_attention_args *args)
{
    rf_status status = RF_OK;
    const shape n = shape_of(&args->z, &args->v);
    const void **pointers = NULL;
    float *pattern = args->pattern.data;
    RF_TRY(take_scratch(s, &n, pattern != NULL, &pointers, &pattern));
    RF_TRY(scores(s, args, &n, pattern, pointers));
    add_bias_and_softmax(s, args, &n, pattern, false);
    RF_TRY(mix(s, args, &n, pattern, pointers));
    RF_TRY(rf_cuda_launched(s, "attention"));
fail:
    return status;
}

rf_status rf_cuda_attention_scores(rf_stream *s, const rf_attention_args *args)
{
    rf_status status = RF_OK;
    const shape n = shape_of(&args->q, &args->k);
    const void **pointers = NULL;
    RF_TRY(take_scratch(s, &n, true, &pointers, NULL));
    RF_TRY(scores(s, args, &n, args->pattern.data, pointers));
    add_bias_and_softmax(s, args, &n, args->pattern.data, true);
    RF_TRY(rf_cuda_launched(s, "scores of attention"));
fail:
    return status;
}

rf_status rf_cuda_attention_mix(rf_stream *s, const rf_attention_args *args)
{
    rf_status status = RF_OK;
    const shape n = shape_of(&args->z, &args->v);
    const void **pointers = NULL;
    RF_TRY(take_scratch(s, &n, true, &pointers, NULL));
    RF_TRY(mix(s, args, &n, args->pattern.data, pointers));
    RF_TRY(rf_cuda_launched(s, "mix of attention"));
fail:
    return status;
}

/* ---- gradients ------------------------------------------------------------------------------- */

rf_status rf_cuda_attention_mix_grad(rf_stream *s, const rf_attention_grad_args *args)
{
    rf_status status = RF_OK;
    const shape n = shape_of(&args->d_z, &args->v);
    const void **pointers = NULL;
    RF_TRY(take_scratch(s, &n, true, &pointers, NULL));
    head_product p = product_of(&n, args->products, pointers);
    if (args->d_pattern.data != NULL) {
        p.m = n.n_queries;
        p.n = n.n_keys;
        p.k = n.width;
        p.a = of_tokens(&args->d_z, RF_NO_TRANS);
        p.b = of_tokens(&args->v, RF_TRANS);
        p.c = of_pattern(args->d_pattern.data, n.n_heads, n.n_queries, n.n_keys, RF_NO_TRANS);
        RF_TRY(multiply(s, &p));
    }
    if (args->d_v.data != NULL) {
        p.m = n.n_keys;
        p.n = n.width;
        p.k = n.n_queries;
        p.a = of_pattern(args->pattern.data, n.n_heads, n.n_queries, n.n_keys, RF_TRANS);
        p.b = of_tokens(&args->d_z, RF_NO_TRANS);
        p.c = of_tokens(&args->d_v, RF_NO_TRANS);
        RF_TRY(multiply(s, &p));
    }
    RF_TRY(rf_cuda_launched(s, "gradient of attention's mix"));
fail:
    return status;
}

rf_status rf_cuda_attention_softmax_grad(rf_stream *s, const rf_attention_grad_args *args)
{
    const int64_t n_keys = args->pattern.shape[3];
    rf_k_softmax_grad(rf_cuda_stream_of(s), args->pattern.data, args->d_pattern.data,
                      rf_view_n_elems(&args->pattern) / n_keys, n_keys);
    return rf_cuda_launched(s, "gradient of attention's softmax");
}

static rf_status scores_grad(rf_stream *s, const rf_attention_grad_args *args, const shape *n,
                             const void **pointers)
{
    rf_status status = RF_OK;
    head_product p = product_of(n, args->products, pointers);
    p.alpha = args->scale;
    p.n = n->width;
    if (args->d_q.data != NULL) {
        p.m = n->n_queries;
        p.k = n->n_keys;
        p.a = of_pattern(args->d_pattern.data, n->n_heads, n->n_queries, n->n_keys, RF_NO_TRANS);
        p.b = of_tokens(&args->k, RF_NO_TRANS);
        p.c = of_tokens(&args->d_q, RF_NO_TRANS);
        RF_TRY(multiply(s, &p));
    }
    if (args->d_k.data != NULL) {
        p.m = n->n_keys;
        p.k = n->n_queries;
        p.a = of_pattern(args->d_pattern.data, n->n_heads, n->n_queries, n->n_keys, RF_TRANS);
        p.b = of_tokens(&args->q, RF_NO_TRANS);
        p.c = of_tokens(&args->d_k, RF_NO_TRANS);
        RF_TRY(multiply(s, &p));
    }
fail:
    return status;
}

rf_status rf_cuda_attention_scores_grad(rf_stream *s, const rf_attention_grad_args *args)
{
    rf_status status = RF_OK;
    const shape n = shape_of(&args->q, &args->k);
    const void **pointers = NULL;
    RF_TRY(take_scratch(s, &n, true, &pointers, NULL));
    RF_TRY(scores_grad(s, args, &n, pointers));
    if (args->d_bias.data != NULL) {
        const int64_t *shape4 = args->d_pattern.shape; /* [B, H, Tq, T] */
        rf_k_bias_grad(rf_cuda_stream_of(s), args->d_pattern.data, shape4[0], shape4[1],
                       shape4[2] * shape4[3], args->d_bias.shape[0], args->d_bias.data);
    }
    RF_TRY(rf_cuda_launched(s, "gradient of attention's scores"));
fail:
    return status;
}
