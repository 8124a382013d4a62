/* What callers use: shapes are checked here once for every backend, then the stream's backend is
 * asked. This file holds memory, order, dense operations and ranks; ops_coder.c the rest. */
#include "refract/tensor.h"

#include <stdio.h>

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

/* ---- shape rules --------------------------------------------------------------------------- */

enum { SHAPE_TEXT = 160, MAX_PATCH = 1 << 20 };

/* "[2, 3] strides [3, 1]" for messages. */
static const char *shape_text(const rf_view *v, char out[SHAPE_TEXT])
{
    int at = 0;
    for (int pass = 0; pass < 2; pass++) {
        at += snprintf(out + at, (size_t)(SHAPE_TEXT - at), pass == 0 ? "[" : "] strides [");
        for (int i = 0; i < v->n_dims && i < RF_MAX_DIMS && at < SHAPE_TEXT - 24; i++) {
            at += snprintf(out + at, (size_t)(SHAPE_TEXT - at), "%s%" PRId64, i > 0 ? ", " : "",
                           pass == 0 ? v->shape[i] : v->stride[i]);
        }
    }
    snprintf(out + at, (size_t)(SHAPE_TEXT - at), "]");
    return out;
}

typedef enum presence { MUST_BE_GIVEN, MAY_BE_ABSENT } presence;

/* fp32 (or `dtype`) of `n_dims` whose last dimension is dense; shape[i] = -1: any. */
static rf_status check_view(const char *op, const char *name, const rf_view *v, rf_dtype dtype,
                            presence given, int n_dims, const int64_t *shape)
{
    rf_status status = RF_OK;
    char text[SHAPE_TEXT];
    if (v->data == NULL && given == MAY_BE_ABSENT) {
        return RF_OK;
    }
    RF_REQUIRE(v->n_dims == n_dims, "%s: %s has %d dimensions, expected %d", op, name, v->n_dims,
               n_dims);
    RF_REQUIRE(v->dtype == dtype, "%s: %s has dtype %d, expected %d", op, name, (int)v->dtype,
               (int)dtype);
    for (int i = 0; i < n_dims; i++) {
        RF_REQUIRE(v->shape[i] >= 0 && (shape[i] < 0 || v->shape[i] == shape[i]),
                   "%s: dimension %d of %s %s is %" PRId64 ", expected %" PRId64, op, i, name,
                   shape_text(v, text), v->shape[i], shape[i]);
    }
    int64_t last = n_dims > 0 ? v->shape[n_dims - 1] : 1;
    RF_REQUIRE(n_dims == 0 || last <= 1 || v->stride[n_dims - 1] == 1,
               "%s: rows of %s %s are not contiguous", op, name, shape_text(v, text));
    RF_REQUIRE(n_dims < 2 || v->shape[n_dims - 2] <= 1 || v->stride[n_dims - 2] >= last ||
                   n_dims > 2,
               "%s: rows of %s %s overlap", op, name, shape_text(v, text));
    RF_REQUIRE(v->data != NULL || rf_view_n_elems(v) == 0, "%s: %s is absent", op, name);
fail:
    return status;
}

static rf_status check_1d(const char *op, const char *name, const rf_view *v, presence given,
                          int64_t n)
{
    return check_view(op, name, v, RF_F32, given, 1, &n);
}

static rf_status check_2d(const char *op, const char *name, const rf_view *v, presence given,
                          int64_t n, int64_t d)
{
    return check_view(op, name, v, RF_F32, given, 2, (int64_t[]){n, d});
}

/* ---- dense operations ---------------------------------------------------------------------- */

rf_status rf_matmul(rf_stream *s, const rf_matmul_args *args)
{
    rf_status status = RF_OK;
    const bool ta = args->trans_a == RF_TRANS, tb = args->trans_b == RF_TRANS;
    RF_TRY(check_2d("matmul", "a", &args->a, MUST_BE_GIVEN, -1, -1));
    const int64_t m = args->a.shape[ta ? 1 : 0], k = args->a.shape[ta ? 0 : 1];
    RF_TRY(check_2d("matmul", "b", &args->b, MUST_BE_GIVEN, tb ? -1 : k, tb ? k : -1));
    const int64_t n = args->b.shape[tb ? 0 : 1];
    RF_TRY(check_2d("matmul", "c", &args->c, MUST_BE_GIVEN, m, n));
    RF_TRY(check_1d("matmul", "bias", &args->bias, MAY_BE_ABSENT, n));
    RF_REQUIRE(args->beta == 0.0f || args->beta == 1.0f, "matmul: beta=%g, expected 0 or 1",
               (double)args->beta);
    if (m > 0 && n > 0) {
        RF_TRY(s->backend->ops->matmul(s, args));
    }
fail:
    return status;
}

rf_status rf_layer_norm(rf_stream *s, const rf_layer_norm_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(check_2d("layer norm", "x", &args->x, MUST_BE_GIVEN, -1, -1));
    const int64_t n = args->x.shape[0], d = args->x.shape[1];
    RF_REQUIRE(d > 0, "layer norm: rows of 0 elements");
    RF_TRY(check_2d("layer norm", "y", &args->y, MAY_BE_ABSENT, n, d));
    RF_TRY(check_1d("layer norm", "weight", &args->weight, MAY_BE_ABSENT, d));
    RF_TRY(check_1d("layer norm", "bias", &args->bias, MAY_BE_ABSENT, d));
    RF_TRY(check_1d("layer norm", "scale", &args->scale, MAY_BE_ABSENT, n));
    RF_TRY(check_1d("layer norm", "divisor", &args->divisor, MAY_BE_ABSENT, n));
    if (n > 0) {
        RF_TRY(s->backend->ops->layer_norm(s, args));
    }
fail:
    return status;
}

typedef enum attention_part { ATTENTION_ALL, ATTENTION_SCORES, ATTENTION_MIX } attention_part;

static rf_status check_attention(const rf_attention_args *args, attention_part part, bool *empty)
{
    static const char *const names[] = {"attention", "attention scores", "attention mix"};
    rf_status status = RF_OK;
    const char *op = names[part];
    const rf_view *like = part == ATTENTION_MIX ? &args->v : &args->q;
    const int64_t any[4] = {-1, -1, -1, -1};
    RF_TRY(check_view(op, part == ATTENTION_MIX ? "v" : "q", like, RF_F32, MUST_BE_GIVEN, 4, any));
    if (part != ATTENTION_MIX) {
        RF_TRY(check_view(op, "k", &args->k, RF_F32, MUST_BE_GIVEN, 4, like->shape));
    }
    if (part != ATTENTION_SCORES) {
        RF_TRY(check_view(op, "v", &args->v, RF_F32, MUST_BE_GIVEN, 4, like->shape));
        RF_TRY(check_view(op, "z", &args->z, RF_F32, MUST_BE_GIVEN, 4, like->shape));
    }
    const int64_t n_tokens = like->shape[1];
    const int64_t pattern[4] = {like->shape[0], like->shape[2], n_tokens, n_tokens};
    RF_TRY(check_view(op, "pattern", &args->pattern, RF_F32,
                      part == ATTENTION_ALL ? MAY_BE_ABSENT : MUST_BE_GIVEN, 4, pattern));
    RF_REQUIRE(args->pattern.data == NULL || rf_view_is_contiguous(&args->pattern),
               "%s: pattern is not contiguous", op);
    *empty = rf_view_n_elems(like) == 0;
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
    RF_TRY(check_2d("softmax", "x", x, MUST_BE_GIVEN, -1, -1));
    if (rf_view_n_elems(x) > 0) {
        RF_TRY(s->backend->ops->softmax_rows(s, x));
    }
fail:
    return status;
}

rf_status rf_activation(rf_stream *s, rf_act act, const rf_view *x, const rf_view *y)
{
    rf_status status = RF_OK;
    RF_REQUIRE(act >= RF_ACT_NONE && act <= RF_ACT_SILU, "activation: %d is none", (int)act);
    RF_REQUIRE(x->n_dims > 0 && x->n_dims <= RF_MAX_DIMS, "activation: x has %d dimensions",
               x->n_dims);
    RF_TRY(check_view("activation", "x", x, RF_F32, MUST_BE_GIVEN, x->n_dims, x->shape));
    RF_TRY(check_view("activation", "y", y, RF_F32, MUST_BE_GIVEN, x->n_dims, x->shape));
    RF_REQUIRE(rf_view_is_contiguous(x) && rf_view_is_contiguous(y),
               "activation: x and y must be contiguous");
    if (rf_view_n_elems(x) > 0) {
        RF_TRY(s->backend->ops->activation(s, act, x, y));
    }
fail:
    return status;
}

rf_status rf_add(rf_stream *s, const rf_add_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(check_2d("add", "y", &args->y, MUST_BE_GIVEN, -1, -1));
    const int64_t n = args->y.shape[0], d = args->y.shape[1];
    RF_TRY(check_2d("add", "x", &args->x, MAY_BE_ABSENT, n, d));
    RF_TRY(check_2d("add", "r", &args->r, MUST_BE_GIVEN, n, d));
    RF_TRY(check_1d("add", "scale", &args->scale, MAY_BE_ABSENT, d));
    if (n > 0 && d > 0) {
        RF_TRY(s->backend->ops->add(s, args));
    }
fail:
    return status;
}

rf_status rf_patch_rows(rf_stream *s, const rf_patch_rows_args *args)
{
    rf_status status = RF_OK;
    const rf_view *im = &args->images;
    int64_t n_elems = 0;
    RF_TRY(check_view("patch rows", "images", im, RF_F32, MUST_BE_GIVEN, 4,
                      (int64_t[]){-1, -1, -1, -1}));
    RF_REQUIRE(args->patch > 0 && args->patch <= MAX_PATCH,
               "patch rows: patch=%" PRId64 ", expected 1 to %d", args->patch, MAX_PATCH);
    const int64_t n_patches = (im->shape[2] / args->patch) * (im->shape[3] / args->patch);
    RF_TRY(rf_mul_i64(args->patch * args->patch, im->shape[1], "elements of a patch", &n_elems));
    RF_TRY(check_2d("patch rows", "rows", &args->rows, MUST_BE_GIVEN, im->shape[0] * n_patches,
                    n_elems));
    if (rf_view_n_elems(&args->rows) > 0) {
        RF_TRY(s->backend->ops->patch_rows(s, args));
    }
fail:
    return status;
}

rf_status rf_embed_tokens(rf_stream *s, const rf_embed_tokens_args *args)
{
    rf_status status = RF_OK;
    const rf_view *out = &args->out;
    RF_TRY(
        check_view("embed tokens", "out", out, RF_F32, MUST_BE_GIVEN, 3, (int64_t[]){-1, -1, -1}));
    RF_REQUIRE(rf_view_is_contiguous(out), "embed tokens: out is not contiguous");
    RF_TRY(check_2d("embed tokens", "prefix", &args->prefix, MAY_BE_ABSENT, -1, out->shape[2]));
    const int64_t n_prefix = args->prefix.data == NULL ? 0 : args->prefix.shape[0];
    const int64_t n_patches = out->shape[1] - n_prefix;
    RF_REQUIRE(n_patches >= 0, "embed tokens: %" PRId64 " prefix rows in %" PRId64 " tokens",
               n_prefix, out->shape[1]);
    RF_TRY(check_2d("embed tokens", "patches", &args->patches, MUST_BE_GIVEN,
                    out->shape[0] * n_patches, out->shape[2]));
    RF_TRY(check_2d("embed tokens", "position", &args->position, MAY_BE_ABSENT, n_patches,
                    out->shape[2]));
    if (rf_view_n_elems(out) > 0) {
        RF_TRY(s->backend->ops->embed_tokens(s, args));
    }
fail:
    return status;
}

rf_status rf_gather_rows(rf_stream *s, const rf_view *src, const rf_view *index, const rf_view *dst)
{
    rf_status status = RF_OK;
    RF_TRY(check_2d("gather rows", "src", src, MUST_BE_GIVEN, -1, -1));
    RF_TRY(check_2d("gather rows", "dst", dst, MUST_BE_GIVEN, -1, src->shape[1]));
    RF_TRY(check_view("gather rows", "index", index, RF_I64, MUST_BE_GIVEN, 1, dst->shape));
    if (rf_view_n_elems(dst) > 0) {
        RF_TRY(s->backend->ops->gather_rows(s, src, index, dst));
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
