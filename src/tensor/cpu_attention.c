/* Attention: a picture's head is one tile of [T, T] on one thread. The fused operation and its
 * parts call the same tile products, so their bits are the same. */
#include "tensor_impl.h"

typedef enum part { PART_SCORES = 1, PART_SOFTMAX = 2, PART_MIX = 4 } part;

static float *at_head(const rf_view *v, int64_t picture, int64_t head)
{
    return (float *)v->data + picture * v->stride[0] + head * v->stride[2];
}

static rf_status one_head(const rf_attention_args *args, unsigned parts, int64_t picture,
                          int64_t head, float *scores)
{
    rf_status status = RF_OK;
    const rf_view *z = &args->z;
    if ((parts & PART_SCORES) != 0) {
        const int64_t n_tokens = args->q.shape[1], width = args->q.shape[3];
        RF_TRY(rf_cpu_sgemm_tile(RF_NO_TRANS, RF_TRANS, n_tokens, n_tokens, width, args->scale,
                                 at_head(&args->q, picture, head), args->q.stride[1],
                                 at_head(&args->k, picture, head), args->k.stride[1], 0.0f, scores,
                                 n_tokens));
    }
    if ((parts & PART_SOFTMAX) != 0) {
        const int64_t n_tokens = args->q.shape[1];
        for (int64_t i = 0; i < n_tokens; i++) {
            rf_cpu_softmax_row(scores + i * n_tokens, n_tokens);
        }
    }
    if ((parts & PART_MIX) != 0) {
        const int64_t n_tokens = z->shape[1], width = z->shape[3];
        RF_TRY(rf_cpu_sgemm_tile(RF_NO_TRANS, RF_NO_TRANS, n_tokens, width, n_tokens, 1.0f, scores,
                                 n_tokens, at_head(&args->v, picture, head), args->v.stride[1],
                                 0.0f, at_head(z, picture, head), z->stride[1]));
    }
fail:
    return status;
}

static rf_status all_heads(rf_stream *s, const rf_attention_args *args, unsigned parts,
                           const rf_view *like)
{
    rf_status status = RF_OK, worst = RF_OK;
    const int64_t n_pictures = like->shape[0], n_heads = like->shape[2];
    const int64_t tile = like->shape[1] * like->shape[1];
    const int n_threads = rf_cpu_n_threads(s);
    float *pattern = args->pattern.data;
    void *work = NULL;

    if (pattern == NULL) {
        RF_TRY(rf_cpu_scratch(s, (size_t)n_threads * (size_t)tile * sizeof(float), &work));
    }
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t i = 0; i < n_pictures * n_heads; i++) {
        float *scores =
            pattern != NULL ? pattern + i * tile : (float *)work + rf_cpu_thread() * tile;
        rf_status st = one_head(args, parts, i / n_heads, i % n_heads, scores);
        if (st != RF_OK) {
#pragma omp atomic write
            worst = st;
        }
    }
    if (worst != RF_OK) {
        RF_FAIL(worst, "attention over %" PRId64 " tokens: oneDNN failed", like->shape[1]);
    }
fail:
    return status;
}

rf_status rf_cpu_attention(rf_stream *s, const rf_attention_args *args)
{
    return all_heads(s, args, PART_SCORES | PART_SOFTMAX | PART_MIX, &args->z);
}

rf_status rf_cpu_attention_scores(rf_stream *s, const rf_attention_args *args)
{
    return all_heads(s, args, PART_SCORES, &args->q);
}

rf_status rf_cpu_attention_mix(rf_stream *s, const rf_attention_args *args)
{
    return all_heads(s, args, PART_MIX, &args->z);
}

rf_status rf_cpu_softmax_rows(rf_stream *s, const rf_view *x)
{
    const int64_t n = x->shape[0], d = x->shape[1], stride = x->stride[0];
    float *data = x->data;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n; i++) {
        rf_cpu_softmax_row(data + i * stride, d);
    }
    return RF_OK;
}
