/* Gradients of attention's parts: as in the forward pass, a picture's head is one pair of products
 * on one thread. */
#include "tensor_impl.h"

static float *at_head(const rf_view *v, int64_t picture, int64_t head)
{
    float *data = v->data;
    return data == NULL ? NULL : data + picture * v->stride[0] + head * v->stride[2];
}

/* [Tq, T] of a pattern. */
static float *at_tile(const rf_view *pattern, int64_t offset)
{
    float *data = pattern->data;
    return data == NULL ? NULL : data + offset;
}

/* Between a head's rows; of a single row the stride says nothing, but a product wants one. */
static int64_t row_stride(const rf_view *v)
{
    return v->shape[1] > 1 ? v->stride[1] : v->shape[3];
}

typedef struct one_head {
    int64_t picture, head, n_queries, n_keys, width;
    int64_t tile; /* where its [Tq, T] begins in a pattern */
} one_head;

typedef rf_status (*head_fn)(const rf_attention_grad_args *args, const one_head *h);

/* Call `fn` for every head of every picture; `query` [B, Tq, H, dh], n_keys is T. */
static rf_status all_heads(rf_stream *s, const rf_attention_grad_args *args, head_fn fn,
                           const rf_view *query, int64_t n_keys)
{
    rf_status status = RF_OK, worst = RF_OK;
    const int64_t n_heads = query->shape[2], n_queries = query->shape[1];
#pragma omp parallel for schedule(dynamic) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < query->shape[0] * n_heads; i++) {
        const one_head h = {.picture = i / n_heads,
                            .head = i % n_heads,
                            .n_queries = n_queries,
                            .n_keys = n_keys,
                            .width = query->shape[3],
                            .tile = i * n_queries * n_keys};
        rf_status st = fn(args, &h);
        if (st != RF_OK) {
#pragma omp atomic write
            worst = st;
        }
    }
    if (worst != RF_OK) {
        RF_FAIL(worst, "gradient of attention over %" PRId64 " tokens: oneDNN failed", n_keys);
    }
fail:
    return status;
}

static rf_status mix_head(const rf_attention_grad_args *args, const one_head *h)
{
    rf_status status = RF_OK;
    const float *d_z = at_head(&args->d_z, h->picture, h->head);
    const int64_t z_stride = row_stride(&args->d_z);
    if (args->d_pattern.data != NULL) {
        RF_TRY(rf_cpu_sgemm_tile(RF_NO_TRANS, RF_TRANS, h->n_queries, h->n_keys, h->width, 1.0f,
                                 d_z, z_stride, at_head(&args->v, h->picture, h->head),
                                 row_stride(&args->v), 0.0f, at_tile(&args->d_pattern, h->tile),
                                 h->n_keys));
    }
    if (args->d_v.data != NULL) {
        RF_TRY(rf_cpu_sgemm_tile(RF_TRANS, RF_NO_TRANS, h->n_keys, h->width, h->n_queries, 1.0f,
                                 at_tile(&args->pattern, h->tile), h->n_keys, d_z, z_stride, 0.0f,
                                 at_head(&args->d_v, h->picture, h->head), row_stride(&args->d_v)));
    }
fail:
    return status;
}

rf_status rf_cpu_attention_mix_grad(rf_stream *s, const rf_attention_grad_args *args)
{
    return all_heads(s, args, mix_head, &args->d_z, args->v.shape[1]);
}

/* d = p * (d - p . d): where p is 0, as behind a mask, so is the gradient. */
rf_status rf_cpu_attention_softmax_grad(rf_stream *s, const rf_attention_grad_args *args)
{
    const int64_t n_keys = args->pattern.shape[3];
    const int64_t n_rows = rf_view_n_elems(&args->pattern) / n_keys;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n_rows; i++) {
        const float *p = (const float *)args->pattern.data + i * n_keys;
        float *d = (float *)args->d_pattern.data + i * n_keys;
        const float mean = rf_dot(p, d, n_keys);
        for (int64_t j = 0; j < n_keys; j++) {
            d[j] = p[j] * (d[j] - mean);
        }
    }
    return RF_OK;
}

static rf_status scores_head(const rf_attention_grad_args *args, const one_head *h)
{
    rf_status status = RF_OK;
    const float *d_scores = at_tile(&args->d_pattern, h->tile);
    if (args->d_q.data != NULL) {
        RF_TRY(rf_cpu_sgemm_tile(RF_NO_TRANS, RF_NO_TRANS, h->n_queries, h->width, h->n_keys,
                                 args->scale, d_scores, h->n_keys,
                                 at_head(&args->k, h->picture, h->head), row_stride(&args->k), 0.0f,
                                 at_head(&args->d_q, h->picture, h->head), row_stride(&args->d_q)));
    }
    if (args->d_k.data != NULL) {
        RF_TRY(rf_cpu_sgemm_tile(RF_TRANS, RF_NO_TRANS, h->n_keys, h->width, h->n_queries,
                                 args->scale, d_scores, h->n_keys,
                                 at_head(&args->q, h->picture, h->head), row_stride(&args->q), 0.0f,
                                 at_head(&args->d_k, h->picture, h->head), row_stride(&args->d_k)));
    }
fail:
    return status;
}

enum { KEYS_AT_ONCE = 256 };

/* One row of d_bias [T]: pictures in order, and heads within one where all share a bias. */
static void add_bias_row(const rf_attention_grad_args *args, int64_t head, int64_t query,
                         float *out)
{
    const int64_t *shape = args->d_pattern.shape; /* [B, H, Tq, T] */
    const bool is_shared = args->d_bias.shape[0] == 1;
    const int64_t last = is_shared ? shape[1] : head + 1;
    for (int64_t j0 = 0; j0 < shape[3]; j0 += KEYS_AT_ONCE) {
        const int64_t n = rf_min_i64(KEYS_AT_ONCE, shape[3] - j0);
        double sum[KEYS_AT_ONCE] = {0};
        for (int64_t b = 0; b < shape[0]; b++) {
            for (int64_t h = is_shared ? 0 : head; h < last; h++) {
                const float *d = (const float *)args->d_pattern.data +
                                 ((b * shape[1] + h) * shape[2] + query) * shape[3] + j0;
                for (int64_t j = 0; j < n; j++) {
                    sum[j] += (double)d[j];
                }
            }
        }
        for (int64_t j = 0; j < n; j++) {
            out[j0 + j] = (float)((double)out[j0 + j] + sum[j]);
        }
    }
}

rf_status rf_cpu_attention_scores_grad(rf_stream *s, const rf_attention_grad_args *args)
{
    rf_status status = RF_OK;
    const int64_t n_queries = args->q.shape[1], n_keys = args->k.shape[1];
    if (args->q.shape[3] > 0) {
        RF_TRY(all_heads(s, args, scores_head, &args->q, n_keys));
    }
    if (args->d_bias.data != NULL) {
        const int64_t n_rows = args->d_bias.shape[0] * n_queries;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
        for (int64_t i = 0; i < n_rows; i++) {
            add_bias_row(args, i / n_queries, i % n_queries,
                         (float *)args->d_bias.data + i * n_keys);
        }
    }
fail:
    return status;
}
