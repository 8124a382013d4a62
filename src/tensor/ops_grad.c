/* Shape rules of the gradients of norms, attention and what goes element by element, once for every
 * backend; then the stream's backend is asked. (Those of tokens are in ops_tokens.c.) */
#include "shape_impl.h"

/* ---- layer norm ---------------------------------------------------------------------------- */

static rf_status check_norm(const char *op, const rf_layer_norm_grad_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_2d(op, "x", &args->x, RF_MUST_BE_GIVEN, -1, -1));
    const int64_t n = args->x.shape[0], d = args->x.shape[1];
    RF_REQUIRE(d > 0, "%s: rows of 0 elements", op);
    RF_TRY(rf_shape_check_1d(op, "scale", &args->scale, RF_MUST_BE_GIVEN, n));
    RF_TRY(rf_shape_check_1d(op, "d_scale", &args->d_scale, RF_MAY_BE_ABSENT, n));
    RF_TRY(rf_shape_check_2d(op, "d_x", &args->d_x, RF_MAY_BE_ABSENT, n, d));
fail:
    return status;
}

rf_status rf_layer_norm_grad(rf_stream *s, const rf_layer_norm_grad_args *args)
{
    static const char *const op = "gradient of layer norm";
    rf_status status = RF_OK;
    RF_TRY(check_norm(op, args));
    const int64_t n = args->x.shape[0], d = args->x.shape[1];
    RF_TRY(rf_shape_check_2d(op, "d_y", &args->d_y, RF_MUST_BE_GIVEN, n, d));
    RF_TRY(rf_shape_check_1d(op, "weight", &args->weight, RF_MAY_BE_ABSENT, d));
    RF_TRY(rf_shape_check_1d(op, "d_weight", &args->d_weight, RF_MAY_BE_ABSENT, d));
    RF_TRY(rf_shape_check_1d(op, "d_bias", &args->d_bias, RF_MAY_BE_ABSENT, d));
    if (n > 0) {
        RF_TRY(s->backend->ops->layer_norm_grad(s, args));
    }
fail:
    return status;
}

rf_status rf_layer_norm_scale_grad(rf_stream *s, const rf_layer_norm_grad_args *args)
{
    static const char *const op = "gradient of layer norm's scale";
    rf_status status = RF_OK;
    RF_TRY(check_norm(op, args));
    RF_REQUIRE(args->x.shape[0] == 0 || (args->d_scale.data != NULL && args->d_x.data != NULL),
               "%s: d_scale and d_x must be given", op);
    if (args->x.shape[0] > 0) {
        RF_TRY(s->backend->ops->layer_norm_scale_grad(s, args));
    }
fail:
    return status;
}

/* ---- attention ----------------------------------------------------------------------------- */

/* What the parts are checked against: [B, Tq, H, dh] and [B, T, H, dh]. */
typedef struct attention_sizes {
    int64_t query[4], key[4], pattern[4];
} attention_sizes;

static attention_sizes attention_sizes_of(const rf_view *query, const rf_view *key)
{
    attention_sizes z;
    for (int i = 0; i < 4; i++) {
        z.query[i] = query->shape[i];
        z.key[i] = i == 1 ? key->shape[1] : query->shape[i];
    }
    z.pattern[0] = z.query[0];
    z.pattern[1] = z.query[2];
    z.pattern[2] = z.query[1];
    z.pattern[3] = z.key[1];
    return z;
}

static rf_status check_pattern(const char *op, const char *name, const rf_view *v,
                               rf_presence given, const int64_t *shape)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check(op, name, v, RF_F32, given, 4, shape));
    RF_REQUIRE(v->data == NULL || rf_view_is_contiguous(v), "%s: %s is not contiguous", op, name);
fail:
    return status;
}

/* [B, T, H, dh]; stride[0] may be 0 where it is only read. */
static rf_status check_heads(const char *op, const char *name, const rf_view *v, rf_presence given,
                             const int64_t *shape)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check(op, name, v, RF_F32, given, 4, shape));
    RF_REQUIRE(v->data == NULL || v->shape[1] <= 1 || v->stride[1] >= v->shape[3],
               "%s: tokens of %s overlap", op, name);
fail:
    return status;
}

/* An output, which may be absent. */
static rf_status check_heads_out(const char *op, const char *name, const rf_view *v,
                                 const int64_t *shape)
{
    rf_status status = RF_OK;
    RF_TRY(check_heads(op, name, v, RF_MAY_BE_ABSENT, shape));
    RF_TRY(rf_shape_check_unrepeated(op, name, v));
fail:
    return status;
}

rf_status rf_attention_mix_grad(rf_stream *s, const rf_attention_grad_args *args)
{
    static const char *const op = "gradient of attention mix";
    rf_status status = RF_OK;
    const int64_t any[4] = {-1, -1, -1, -1};
    RF_TRY(check_heads(op, "d_z", &args->d_z, RF_MUST_BE_GIVEN, any));
    RF_REQUIRE(args->v.n_dims == 4, "%s: v has %d dimensions, expected 4", op, args->v.n_dims);
    const attention_sizes z = attention_sizes_of(&args->d_z, &args->v);
    RF_TRY(check_heads(op, "v", &args->v, RF_MUST_BE_GIVEN, z.key));
    RF_TRY(check_pattern(op, "pattern", &args->pattern, RF_MUST_BE_GIVEN, z.pattern));
    RF_TRY(check_pattern(op, "d_pattern", &args->d_pattern, RF_MAY_BE_ABSENT, z.pattern));
    RF_TRY(check_heads_out(op, "d_v", &args->d_v, z.key));
    if (z.key[0] > 0 && z.key[1] > 0 && z.key[2] > 0) {
        RF_TRY(s->backend->ops->attention_mix_grad(s, args));
    }
fail:
    return status;
}

rf_status rf_attention_softmax_grad(rf_stream *s, const rf_attention_grad_args *args)
{
    static const char *const op = "gradient of attention softmax";
    rf_status status = RF_OK;
    const int64_t any[4] = {-1, -1, -1, -1};
    RF_TRY(check_pattern(op, "pattern", &args->pattern, RF_MUST_BE_GIVEN, any));
    RF_TRY(check_pattern(op, "d_pattern", &args->d_pattern, RF_MUST_BE_GIVEN, args->pattern.shape));
    if (rf_view_n_elems(&args->pattern) > 0) {
        RF_TRY(s->backend->ops->attention_softmax_grad(s, args));
    }
fail:
    return status;
}

static rf_status check_d_bias(const char *op, const rf_view *d_bias, const int64_t *pattern)
{
    rf_status status = RF_OK;
    const int64_t shape[3] = {d_bias->n_dims == 3 && d_bias->shape[0] == 1 ? 1 : pattern[1],
                              pattern[2], pattern[3]};
    RF_TRY(rf_shape_check(op, "d_bias", d_bias, RF_F32, RF_MAY_BE_ABSENT, 3, shape));
    RF_REQUIRE(d_bias->data == NULL || rf_view_is_contiguous(d_bias),
               "%s: d_bias is not contiguous", op);
fail:
    return status;
}

rf_status rf_attention_scores_grad(rf_stream *s, const rf_attention_grad_args *args)
{
    static const char *const op = "gradient of attention scores";
    rf_status status = RF_OK;
    const int64_t any[4] = {-1, -1, -1, -1};
    RF_TRY(check_heads(op, "q", &args->q, RF_MUST_BE_GIVEN, any));
    RF_REQUIRE(args->k.n_dims == 4, "%s: k has %d dimensions, expected 4", op, args->k.n_dims);
    const attention_sizes z = attention_sizes_of(&args->q, &args->k);
    RF_TRY(check_heads(op, "k", &args->k, RF_MUST_BE_GIVEN, z.key));
    RF_TRY(check_pattern(op, "d_pattern", &args->d_pattern, RF_MUST_BE_GIVEN, z.pattern));
    RF_TRY(check_heads_out(op, "d_q", &args->d_q, z.query));
    RF_TRY(check_heads_out(op, "d_k", &args->d_k, z.key));
    RF_TRY(check_d_bias(op, &args->d_bias, z.pattern));
    if (z.key[0] > 0 && z.key[2] > 0 && (z.key[1] > 0 || z.query[1] > 0)) {
        RF_TRY(s->backend->ops->attention_scores_grad(s, args));
    }
fail:
    return status;
}

/* ---- element by element -------------------------------------------------------------------- */

rf_status rf_activation_grad(rf_stream *s, rf_act act, const rf_view *x, const rf_view *d_y,
                             const rf_view *d_x)
{
    static const char *const op = "gradient of an activation";
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_act(op, act));
    RF_TRY(rf_shape_check_2d(op, "x", x, RF_MUST_BE_GIVEN, -1, -1));
    RF_TRY(rf_shape_check_2d(op, "d_y", d_y, RF_MUST_BE_GIVEN, x->shape[0], x->shape[1]));
    RF_TRY(rf_shape_check_2d(op, "d_x", d_x, RF_MUST_BE_GIVEN, x->shape[0], x->shape[1]));
    if (rf_view_n_elems(x) > 0) {
        RF_TRY(s->backend->ops->activation_grad(s, act, x, d_y, d_x));
    }
fail:
    return status;
}

rf_status rf_gated_grad(rf_stream *s, const rf_gated_grad_args *args)
{
    static const char *const op = "gradient of gated";
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_act(op, args->act));
    RF_TRY(rf_shape_check_2d(op, "gate", &args->gate, RF_MUST_BE_GIVEN, -1, -1));
    const int64_t n = args->gate.shape[0], d = args->gate.shape[1];
    RF_TRY(rf_shape_check_2d(op, "x", &args->x, RF_MUST_BE_GIVEN, n, d));
    RF_TRY(rf_shape_check_2d(op, "d_y", &args->d_y, RF_MUST_BE_GIVEN, n, d));
    RF_TRY(rf_shape_check_2d(op, "d_gate", &args->d_gate, RF_MAY_BE_ABSENT, n, d));
    RF_TRY(rf_shape_check_2d(op, "d_x", &args->d_x, RF_MAY_BE_ABSENT, n, d));
    if (rf_view_n_elems(&args->gate) > 0) {
        RF_TRY(s->backend->ops->gated_grad(s, args));
    }
fail:
    return status;
}

rf_status rf_column_dot(rf_stream *s, const rf_view *x, const rf_view *y, const rf_view *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_2d("column dot", "x", x, RF_MUST_BE_GIVEN, -1, -1));
    RF_TRY(rf_shape_check_2d("column dot", "y", y, RF_MUST_BE_GIVEN, x->shape[0], x->shape[1]));
    RF_TRY(rf_shape_check_1d("column dot", "out", out, RF_MUST_BE_GIVEN, x->shape[1]));
    if (rf_view_n_elems(x) > 0) {
        RF_TRY(s->backend->ops->column_dot(s, x, y, out));
    }
fail:
    return status;
}
