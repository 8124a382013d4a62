/* What callers use: shapes are checked here once for every backend, then the stream's backend is
 * asked. This file holds memory, order, ranks and the dense operations but those on tokens
 * (ops_tokens.c); ops_grad.c has their gradients, ops_coder.c the rest. */
#include "shape_impl.h"

/* ---- memory and order ---------------------------------------------------------------------- */

void rf_backend_destroy(rf_backend *be)
{
    if (be != NULL) {
        be->ops->destroy(be);
    }
}

const char *rf_backend_name(const rf_backend *be)
{
    return be->ops->name;
}

const char *rf_backend_describe(const rf_backend *be)
{
    return be->description;
}

void rf_backend_memory(const rf_backend *be, int64_t *free_bytes, int64_t *all_bytes)
{
    be->ops->memory(be, free_bytes, all_bytes);
}

rf_status rf_memory_alloc(rf_backend *be, rf_memory kind, size_t n_bytes, void **out)
{
    return be->ops->alloc(be, kind, n_bytes, out);
}

void rf_memory_free(rf_backend *be, rf_memory kind, void *p)
{
    if (p != NULL) {
        be->ops->free(be, kind, p);
    }
}

rf_status rf_stream_create(rf_backend *be, rf_stream **out)
{
    return be->ops->stream_create(be, out);
}

void rf_stream_destroy(rf_stream *s)
{
    if (s != NULL) {
        s->backend->ops->stream_destroy(s);
    }
}

rf_backend *rf_stream_backend(const rf_stream *s)
{
    return s->backend;
}

rf_status rf_stream_synchronise(rf_stream *s)
{
    return s->backend->ops->stream_synchronise(s);
}

rf_status rf_event_create(rf_backend *be, rf_event **out)
{
    return be->ops->event_create(be, out);
}

void rf_event_destroy(rf_event *e)
{
    if (e != NULL) {
        e->backend->ops->event_destroy(e);
    }
}

rf_status rf_event_record(rf_event *e, rf_stream *s)
{
    return s->backend->ops->event_record(e, s);
}

rf_status rf_event_wait(rf_event *e, rf_stream *s)
{
    return s->backend->ops->event_wait(e, s);
}

rf_status rf_copy_in(rf_stream *s, void *dst, const void *host_src, size_t n_bytes)
{
    return s->backend->ops->copy_in(s, dst, host_src, n_bytes);
}

rf_status rf_copy_out(rf_stream *s, void *host_dst, const void *src, size_t n_bytes)
{
    return s->backend->ops->copy_out(s, host_dst, src, n_bytes);
}

rf_status rf_copy_within(rf_stream *s, void *dst, const void *src, size_t n_bytes)
{
    return s->backend->ops->copy_within(s, dst, src, n_bytes);
}

rf_status rf_fill_bytes(rf_stream *s, void *dst, int value, size_t n_bytes)
{
    return s->backend->ops->fill_bytes(s, dst, value, n_bytes);
}

/* ---- dense operations ---------------------------------------------------------------------- */

rf_status rf_shape_check_matmul(const rf_matmul_args *args)
{
    rf_status status = RF_OK;
    const bool ta = args->trans_a == RF_TRANS, tb = args->trans_b == RF_TRANS;
    RF_TRY(rf_shape_check_2d("matmul", "a", &args->a, RF_MUST_BE_GIVEN, -1, -1));
    const int64_t m = args->a.shape[ta ? 1 : 0], k = args->a.shape[ta ? 0 : 1];
    RF_REQUIRE(args->b.dtype != RF_BF16 || !tb, "matmul: b in bf16 must not be transposed");
    RF_TRY(rf_shape_check("matmul", "b", &args->b, args->b.dtype == RF_BF16 ? RF_BF16 : RF_F32,
                          RF_MUST_BE_GIVEN, 2, (int64_t[]){tb ? -1 : k, tb ? k : -1}));
    const int64_t n = args->b.shape[tb ? 0 : 1];
    RF_TRY(rf_shape_check_2d("matmul", "c", &args->c, RF_MUST_BE_GIVEN, m, n));
    RF_TRY(rf_shape_check_1d("matmul", "bias", &args->bias, RF_MAY_BE_ABSENT, n));
    RF_REQUIRE(args->beta == 0.0f || args->beta == 1.0f, "matmul: beta=%g, expected 0 or 1",
               (double)args->beta);
fail:
    return status;
}

rf_status rf_matmul(rf_stream *s, const rf_matmul_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_matmul(args));
    if (args->c.shape[0] > 0 && args->c.shape[1] > 0) {
        RF_TRY(s->backend->ops->matmul(s, args));
    }
fail:
    return status;
}

rf_status rf_layer_norm(rf_stream *s, const rf_layer_norm_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_2d("layer norm", "x", &args->x, RF_MUST_BE_GIVEN, -1, -1));
    const int64_t n = args->x.shape[0], d = args->x.shape[1];
    RF_REQUIRE(d > 0, "layer norm: rows of 0 elements");
    RF_TRY(rf_shape_check_2d("layer norm", "y", &args->y, RF_MAY_BE_ABSENT, n, d));
    RF_TRY(rf_shape_check_1d("layer norm", "weight", &args->weight, RF_MAY_BE_ABSENT, d));
    RF_TRY(rf_shape_check_1d("layer norm", "bias", &args->bias, RF_MAY_BE_ABSENT, d));
    RF_TRY(rf_shape_check_1d("layer norm", "scale", &args->scale, RF_MAY_BE_ABSENT, n));
    RF_TRY(rf_shape_check_1d("layer norm", "divisor", &args->divisor, RF_MAY_BE_ABSENT, n));
    if (n > 0) {
        RF_TRY(s->backend->ops->layer_norm(s, args));
    }
fail:
    return status;
}

typedef enum attention_part { ATTENTION_ALL, ATTENTION_SCORES, ATTENTION_MIX } attention_part;

static rf_status check_pattern(const char *op, const rf_attention_args *args, rf_presence given,
                               const int64_t shape[4])
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check(op, "pattern", &args->pattern, RF_F32, given, 4, shape));
    RF_REQUIRE(args->pattern.data == NULL || rf_view_is_contiguous(&args->pattern),
               "%s: pattern is not contiguous", op);
fail:
    return status;
}

static rf_status check_bias(const char *op, const rf_view *bias, const int64_t pattern[4])
{
    rf_status status = RF_OK;
    const int64_t n_heads = bias->n_dims == 3 && bias->shape[0] == 1 ? 1 : pattern[1];
    const int64_t shape[3] = {n_heads, pattern[2], pattern[3]};
    RF_TRY(rf_shape_check(op, "bias", bias, RF_F32, RF_MAY_BE_ABSENT, 3, shape));
    RF_REQUIRE(bias->data == NULL || rf_view_is_contiguous(bias), "%s: bias is not contiguous", op);
fail:
    return status;
}

/* Queries are those of q (z for the mix), keys those of k (v for the mix). */
static rf_status check_attention(const rf_attention_args *args, attention_part part, bool *empty)
{
    static const char *const names[] = {"attention", "attention scores", "attention mix"};
    rf_status status = RF_OK;
    const char *op = names[part];
    const bool mixes = part != ATTENTION_SCORES, scores = part != ATTENTION_MIX;
    const rf_view *rows = scores ? &args->q : &args->z, *cols = scores ? &args->k : &args->v;
    const int64_t any[4] = {-1, -1, -1, -1};
    RF_TRY(rf_shape_check(op, scores ? "q" : "z", rows, RF_F32, RF_MUST_BE_GIVEN, 4, any));
    RF_TRY(rf_shape_check(op, scores ? "k" : "v", cols, RF_F32, RF_MUST_BE_GIVEN, 4,
                          (int64_t[]){rows->shape[0], cols->n_dims == 4 ? cols->shape[1] : -1,
                                      rows->shape[2], rows->shape[3]}));
    const int64_t pattern[4] = {rows->shape[0], rows->shape[2], rows->shape[1], cols->shape[1]};
    if (part == ATTENTION_ALL) {
        RF_TRY(rf_shape_check(op, "v", &args->v, RF_F32, RF_MUST_BE_GIVEN, 4, cols->shape));
        RF_TRY(rf_shape_check(op, "z", &args->z, RF_F32, RF_MUST_BE_GIVEN, 4, rows->shape));
    }
    if (scores) {
        RF_TRY(check_bias(op, &args->bias, pattern));
    }
    if (mixes) {
        RF_TRY(rf_shape_check_unrepeated(op, "z", &args->z));
    }
    RF_TRY(check_pattern(op, args, part == ATTENTION_ALL ? RF_MAY_BE_ABSENT : RF_MUST_BE_GIVEN,
                         pattern));
    *empty = rf_view_n_elems(rows) == 0;
    RF_REQUIRE(*empty || pattern[3] > 0, "%s: no keys for %" PRId64 " queries", op, pattern[2]);
fail:
    return status;
}

rf_status rf_attention(rf_stream *s, const rf_attention_args *args)
{
    rf_status status = RF_OK;
    bool empty = false;
    RF_TRY(check_attention(args, ATTENTION_ALL, &empty));
    if (!empty) {
        RF_TRY(s->backend->ops->attention(s, args));
    }
fail:
    return status;
}

rf_status rf_attention_scores(rf_stream *s, const rf_attention_args *args)
{
    rf_status status = RF_OK;
    bool empty = false;
    RF_TRY(check_attention(args, ATTENTION_SCORES, &empty));
    if (!empty) {
        RF_TRY(s->backend->ops->attention_scores(s, args));
    }
fail:
    return status;
}

rf_status rf_attention_mix(rf_stream *s, const rf_attention_args *args)
{
    rf_status status = RF_OK;
    bool empty = false;
    RF_TRY(check_attention(args, ATTENTION_MIX, &empty));
    if (!empty) {
        RF_TRY(s->backend->ops->attention_mix(s, args));
    }
fail:
    return status;
}

rf_status rf_softmax_rows(rf_stream *s, const rf_view *x)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_2d("softmax", "x", x, RF_MUST_BE_GIVEN, -1, -1));
    if (rf_view_n_elems(x) > 0) {
        RF_TRY(s->backend->ops->softmax_rows(s, x));
    }
fail:
    return status;
}

rf_status rf_activation(rf_stream *s, rf_act act, const rf_view *x, const rf_view *y)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_act("activation", act));
    RF_REQUIRE(x->n_dims > 0 && x->n_dims <= RF_MAX_DIMS, "activation: x has %d dimensions",
               x->n_dims);
    RF_TRY(rf_shape_check("activation", "x", x, RF_F32, RF_MUST_BE_GIVEN, x->n_dims, x->shape));
    RF_TRY(rf_shape_check("activation", "y", y, RF_F32, RF_MUST_BE_GIVEN, x->n_dims, x->shape));
    RF_REQUIRE(rf_view_is_contiguous(x) && rf_view_is_contiguous(y),
               "activation: x and y must be contiguous");
    if (rf_view_n_elems(x) > 0) {
        RF_TRY(s->backend->ops->activation(s, act, x, y));
    }
fail:
    return status;
}

rf_status rf_gated(rf_stream *s, rf_act act, const rf_view *gate, const rf_view *x,
                   const rf_view *y)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_act("gated", act));
    RF_TRY(rf_shape_check_2d("gated", "gate", gate, RF_MUST_BE_GIVEN, -1, -1));
    RF_TRY(rf_shape_check_2d("gated", "x", x, RF_MUST_BE_GIVEN, gate->shape[0], gate->shape[1]));
    RF_TRY(rf_shape_check_2d("gated", "y", y, RF_MUST_BE_GIVEN, gate->shape[0], gate->shape[1]));
    if (rf_view_n_elems(gate) > 0) {
        RF_TRY(s->backend->ops->gated(s, act, gate, x, y));
    }
fail:
    return status;
}

rf_status rf_add(rf_stream *s, const rf_add_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_2d("add", "y", &args->y, RF_MUST_BE_GIVEN, -1, -1));
    const int64_t n = args->y.shape[0], d = args->y.shape[1];
    RF_TRY(rf_shape_check_2d("add", "x", &args->x, RF_MAY_BE_ABSENT, n, d));
    RF_TRY(rf_shape_check_2d("add", "r", &args->r, RF_MUST_BE_GIVEN, n, d));
    RF_TRY(rf_shape_check_1d("add", "scale", &args->scale, RF_MAY_BE_ABSENT, d));
    if (n > 0 && d > 0) {
        RF_TRY(s->backend->ops->add(s, args));
    }
fail:
    return status;
}

/* ---- ranks --------------------------------------------------------------------------------- */

rf_status rf_all_gather(rf_stream *s, const rf_comm *comm, const void *send, void *recv,
                        const int64_t *recv_bytes)
{
    return s->backend->ops->all_gather(s, comm, send, recv, recv_bytes);
}

rf_status rf_all_to_all(rf_stream *s, const rf_comm *comm, const void *send,
                        const int64_t *send_bytes, void *recv, const int64_t *recv_bytes)
{
    return s->backend->ops->all_to_all(s, comm, send, send_bytes, recv, recv_bytes);
}

rf_status rf_all_sum_f32(rf_stream *s, const rf_comm *comm, float *data, int64_t n)
{
    return s->backend->ops->all_sum_f32(s, comm, data, n);
}

rf_status rf_all_sum_i64(rf_stream *s, const rf_comm *comm, int64_t *data, int64_t n)
{
    return s->backend->ops->all_sum_i64(s, comm, data, n);
}

static bool is_a_float(rf_dtype dtype)
{
    return dtype == RF_F32 || dtype == RF_F16 || dtype == RF_BF16;
}

rf_status rf_convert(rf_stream *s, const rf_view *x, const rf_view *y)
{
    rf_status status = RF_OK;
    RF_REQUIRE(is_a_float(x->dtype) && is_a_float(y->dtype) &&
                   (x->dtype == RF_F32 || y->dtype == RF_F32 || x->dtype == y->dtype),
               "convert: from type %d to %d, expected F32 and F16 or BF16", (int)x->dtype,
               (int)y->dtype);
    RF_TRY(rf_shape_check("convert", "x", x, x->dtype, RF_MUST_BE_GIVEN, x->n_dims, x->shape));
    RF_TRY(rf_shape_check("convert", "y", y, y->dtype, RF_MUST_BE_GIVEN, x->n_dims, x->shape));
    RF_REQUIRE(rf_view_is_contiguous(x) && rf_view_is_contiguous(y),
               "convert: x and y must be contiguous");
    if (rf_view_n_elems(x) > 0) {
        RF_TRY(s->backend->ops->convert(s, x, y));
    }
fail:
    return status;
}
