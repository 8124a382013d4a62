/* Attention: some queries of one head of a picture are a tile [queries, T] on one thread. The fused
 * operation and its parts cut the same tiles and call the same products, so their bits are the
 * same. */
#include "tensor_impl.h"

typedef enum part { PART_SCORES = 1, PART_SOFTMAX = 2, PART_MIX = 4 } part;

/* Tiles hold this many scores, so that they stay in a core's own cache, and whole 48s of queries.
 */
enum { TILE_SCORES = 1 << 18, TILE_STEP = 48 };

typedef struct heads {
    const rf_attention_args *args;
    unsigned parts;
    int64_t n_pictures, n_heads, n_queries, n_keys, width;
    int64_t tile_rows, tiles_a_head;
} heads;

static heads plan_heads(const rf_attention_args *args, unsigned parts)
{
    const rf_view *rows = (parts & PART_MIX) != 0 ? &args->z : &args->q;
    const rf_view *cols = (parts & PART_MIX) != 0 ? &args->v : &args->k;
    heads h = {.args = args,
               .parts = parts,
               .n_pictures = rows->shape[0],
               .n_heads = rows->shape[2],
               .n_queries = rows->shape[1],
               .n_keys = cols->shape[1],
               .width = rows->shape[3]};
    h.tile_rows = rf_max_i64(1, TILE_SCORES / h.n_keys / TILE_STEP) * TILE_STEP;
    h.tile_rows = rf_min_i64(h.tile_rows, h.n_queries);
    h.tiles_a_head = rf_ceil_div(h.n_queries, h.tile_rows);
    return h;
}

static float *at_head(const rf_view *v, int64_t picture, int64_t row, int64_t head)
{
    return (float *)v->data + picture * v->stride[0] + row * v->stride[1] + head * v->stride[2];
}

static void add_bias(const heads *h, int64_t head, int64_t first, int64_t n_rows, float *scores)
{
    const rf_view *bias = &h->args->bias;
    if (bias->data == NULL) {
        return;
    }
    const int64_t of_head = bias->shape[0] == 1 ? 0 : head;
    const float *from = (const float *)bias->data + (of_head * h->n_queries + first) * h->n_keys;
    rf_cpu_bias_act(RF_ACT_NONE, scores, from, scores, n_rows * h->n_keys);
}

/* Queries first .. first + n_rows - 1 of a head. */
static rf_status one_tile(const heads *h, int64_t picture, int64_t head, int64_t first,
                          int64_t n_rows, float *scores)
{
    rf_status status = RF_OK;
    const rf_attention_args *args = h->args;
    if ((h->parts & PART_SCORES) != 0) {
        RF_TRY(rf_cpu_sgemm_tile(RF_NO_TRANS, RF_TRANS, n_rows, h->n_keys, h->width, args->scale,
                                 at_head(&args->q, picture, first, head), args->q.stride[1],
                                 at_head(&args->k, picture, 0, head), args->k.stride[1], 0.0f,
                                 scores, h->n_keys));
        add_bias(h, head, first, n_rows, scores);
    }
    if ((h->parts & PART_SOFTMAX) != 0) {
        for (int64_t i = 0; i < n_rows; i++) {
            rf_cpu_softmax_row(scores + i * h->n_keys, h->n_keys);
        }
    }
    if ((h->parts & PART_MIX) != 0) {
        RF_TRY(rf_cpu_sgemm_tile(RF_NO_TRANS, RF_NO_TRANS, n_rows, h->width, h->n_keys, 1.0f,
                                 scores, h->n_keys, at_head(&args->v, picture, 0, head),
                                 args->v.stride[1], 0.0f, at_head(&args->z, picture, first, head),
                                 args->z.stride[1]));
    }
fail:
    return status;
}

static rf_status all_heads(rf_stream *s, const rf_attention_args *args, unsigned parts)
{
    rf_status status = RF_OK, worst = RF_OK;
    const heads h = plan_heads(args, parts);
    const int64_t tile = h.tile_rows * h.n_keys;
    const int n_threads = rf_cpu_n_threads(s);
    float *pattern = args->pattern.data;
    void *work = NULL;

    if (pattern == NULL) {
        RF_TRY(rf_cpu_scratch(s, (size_t)n_threads * (size_t)tile * sizeof(float), &work));
    }
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t i = 0; i < h.n_pictures * h.n_heads * h.tiles_a_head; i++) {
        const int64_t head = i / h.tiles_a_head, first = i % h.tiles_a_head * h.tile_rows;
        float *scores = pattern != NULL ? pattern + (head * h.n_queries + first) * h.n_keys
                                        : (float *)work + rf_cpu_thread() * tile;
        rf_status st = one_tile(&h, head / h.n_heads, head % h.n_heads, first,
                                rf_min_i64(h.tile_rows, h.n_queries - first), scores);
        if (st != RF_OK) {
#pragma omp atomic write
            worst = st;
        }
    }
    if (worst != RF_OK) {
        RF_FAIL(worst, "attention over %" PRId64 " tokens: oneDNN failed", h.n_keys);
    }
fail:
    return status;
}

rf_status rf_cpu_attention(rf_stream *s, const rf_attention_args *args)
{
    return all_heads(s, args, PART_SCORES | PART_SOFTMAX | PART_MIX);
}

rf_status rf_cpu_attention_scores(rf_stream *s, const rf_attention_args *args)
{
    return all_heads(s, args, PART_SCORES);
}

rf_status rf_cpu_attention_mix(rf_stream *s, const rf_attention_args *args)
{
    return all_heads(s, args, PART_MIX);
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
