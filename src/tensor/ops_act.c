/* Shape rules of what a pre-activation becomes, of penalties, of tokens as a coder sees them, and
 * of who fires, once for every backend; then the stream's backend is asked. */
#include "shape_impl.h"

#include <math.h>

static rf_status check_codes(const char *op, const rf_codes *codes)
{
    rf_status status = RF_OK;
    RF_REQUIRE(codes != NULL && codes->row_start != NULL && codes->n_rows >= 0,
               "%s: codes are absent", op);
    RF_REQUIRE(codes->capacity >= 0 && codes->capacity <= INT32_MAX,
               "%s: codes of capacity %" PRId64 ", expected 0 to 2^31 - 1", op, codes->capacity);
fail:
    return status;
}

/* `values` runs beside `codes`. */
static rf_status check_entries(const char *op, const char *name, const rf_codes *codes,
                               const float *values)
{
    rf_status status = RF_OK;
    RF_REQUIRE(values != NULL || codes->capacity == 0, "%s: %s is absent", op, name);
fail:
    return status;
}

static rf_status check_i64(const char *op, const char *name, const rf_view *v, rf_presence given,
                           int64_t n)
{
    return rf_shape_check(op, name, v, RF_I64, given, 1, &n);
}

/* b, r and m of GATED. */
static rf_status check_gated(const char *op, const rf_act_params *params, int64_t n_latents)
{
    rf_status status = RF_OK;
    RF_REQUIRE(params->act == RF_CODER_GATED, "%s: the act is %d, expected gated", op,
               (int)params->act);
    RF_TRY(rf_shape_check_1d(op, "b_gate", &params->b_gate, RF_MUST_BE_GIVEN, n_latents));
    RF_TRY(rf_shape_check_1d(op, "gain", &params->gain, RF_MUST_BE_GIVEN, n_latents));
    RF_TRY(rf_shape_check_1d(op, "b_mag", &params->b_mag, RF_MUST_BE_GIVEN, n_latents));
fail:
    return status;
}

/* n_latents = -1: any. */
static rf_status check_penalty(const char *op, const rf_act_params *params, int64_t n_latents)
{
    rf_status status = RF_OK;
    const rf_penalty_kind kind = params->penalty;
    RF_REQUIRE(kind >= RF_PENALTY_NONE && kind <= RF_PENALTY_L0, "%s: penalty %d is none", op,
               (int)kind);
    if (kind == RF_PENALTY_POWER || kind == RF_PENALTY_NORM || kind == RF_PENALTY_TANH) {
        RF_REQUIRE(params->p > 0.0f && isfinite(params->p), "%s: p=%g, expected > 0", op,
                   (double)params->p);
    }
    RF_TRY(rf_shape_check_1d(op, "weight", &params->weight, RF_MAY_BE_ABSENT, n_latents));
fail:
    return status;
}

static rf_status check_act(const char *op, const rf_act_params *params, int64_t n_latents)
{
    rf_status status = RF_OK;
    RF_REQUIRE(params->act >= RF_CODER_RELU && params->act <= RF_CODER_GATED, "%s: act %d is none",
               op, (int)params->act);
    if (params->act == RF_CODER_JUMP) {
        RF_TRY(rf_shape_check_1d(op, "threshold", &params->threshold, RF_MUST_BE_GIVEN, n_latents));
    }
    if (params->act == RF_CODER_GATED) {
        RF_TRY(check_gated(op, params, n_latents));
    }
    RF_TRY(check_penalty(op, params, n_latents));
fail:
    return status;
}

/* ---- on entries of codes ------------------------------------------------------------------------
 */

rf_status rf_gated_values(rf_stream *s, const rf_act_params *params, const rf_codes *codes,
                          const float *h, float *z)
{
    rf_status status = RF_OK;
    RF_TRY(check_codes("gated values", codes));
    RF_TRY(check_gated("gated values", params, params->b_gate.shape[0]));
    RF_TRY(check_entries("gated values", "h", codes, h));
    RF_TRY(check_entries("gated values", "z", codes, z));
    RF_REQUIRE(z != h || codes->capacity == 0, "gated values: z may not be h");
    RF_TRY(s->backend->ops->gated_values(s, params, codes, h, z));
fail:
    return status;
}

rf_status rf_gated_values_grad(rf_stream *s, const rf_act_params *params,
                               const rf_gated_values_grad_args *args)
{
    static const char op[] = "gradient of gated values";
    rf_status status = RF_OK;
    RF_TRY(check_codes(op, args->codes));
    RF_TRY(check_gated(op, params, params->b_gate.shape[0]));
    RF_TRY(check_entries(op, "h", args->codes, args->h));
    RF_TRY(check_entries(op, "z", args->codes, args->z));
    RF_TRY(check_entries(op, "d_z", args->codes, args->d_z));
    RF_TRY(check_entries(op, "d_gate", args->codes, args->d_gate));
    RF_TRY(check_entries(op, "d_h", args->codes, args->d_h));
    RF_TRY(check_entries(op, "d_mag", args->codes, args->d_mag));
    RF_TRY(check_entries(op, "d_gain", args->codes, args->d_gain));
    RF_TRY(s->backend->ops->gated_values_grad(s, params, args));
fail:
    return status;
}

rf_status rf_jump_window_grad(rf_stream *s, const rf_act_params *params,
                              const rf_jump_window_grad_args *args)
{
    static const char op[] = "gradient of jump's window";
    rf_status status = RF_OK;
    const bool is_norm =
        params->penalty == RF_PENALTY_NORM && params->p != 1.0f && args->scale != 0.0f;
    RF_TRY(check_codes(op, args->codes));
    RF_TRY(check_entries(op, "value", args->codes, args->codes->value));
    RF_TRY(check_entries(op, "d_value", args->codes, args->codes->d_value));
    RF_TRY(check_entries(op, "d_threshold", args->codes, args->d_threshold));
    RF_REQUIRE(params->act == RF_CODER_JUMP, "%s: the act is %d, expected jump", op,
               (int)params->act);
    RF_TRY(check_act(op, params, params->threshold.shape[0]));
    RF_REQUIRE(args->eps > 0.0f && isfinite(args->eps), "%s: eps=%g, expected > 0", op,
               (double)args->eps);
    RF_TRY(rf_shape_check_1d(op, "row_penalty", &args->row_penalty,
                             is_norm ? RF_MUST_BE_GIVEN : RF_MAY_BE_ABSENT, args->codes->n_rows));
    RF_TRY(s->backend->ops->jump_window_grad(s, params, args));
fail:
    return status;
}

rf_status rf_penalty(rf_stream *s, const rf_act_params *params, const rf_penalty_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(check_codes("penalty", args->codes));
    RF_TRY(check_penalty("penalty", params, -1));
    RF_TRY(check_entries("penalty", "value", args->codes,
                         args->value != NULL ? args->value : args->codes->value));
    RF_TRY(rf_shape_check_1d("penalty", "row_penalty", &args->row_penalty, RF_MUST_BE_GIVEN,
                             args->codes->n_rows));
    RF_TRY(s->backend->ops->penalty(s, params, args));
fail:
    return status;
}

/* ---- on matrices --------------------------------------------------------------------------------
 */

/* `product`, where there is one, fills `out`: the operation takes it along, or it is made here. */
static rf_status begin_product(rf_stream *s, const char *op, const rf_view *out,
                               const rf_matmul_args **product)
{
    rf_status status = RF_OK;
    if (*product == NULL) {
        return RF_OK;
    }
    const rf_view *c = &(*product)->c;
    RF_TRY(rf_shape_check_matmul(*product));
    RF_REQUIRE(c->data == out->data && c->shape[0] == out->shape[0] &&
                   c->shape[1] == out->shape[1] && c->stride[0] == out->stride[0],
               "%s: the product is of another matrix", op);
    if (!s->backend->joins_products || rf_view_n_elems(out) == 0) {
        RF_TRY(rf_matmul(s, *product));
        *product = NULL;
    }
fail:
    return status;
}

static rf_status check_dense_outputs(const char *op, const rf_act_params *params,
                                     const rf_dense_values_args *args)
{
    rf_status status = RF_OK;
    const int64_t n = args->h.shape[0], n_latents = args->h.shape[1];
    RF_TRY(check_i64(op, "n_active", &args->n_active, RF_MAY_BE_ABSENT, n_latents));
    RF_TRY(check_i64(op, "row_active", &args->row_active, RF_MAY_BE_ABSENT, n));
    RF_TRY(rf_shape_check_1d(op, "row_penalty", &args->row_penalty, RF_MAY_BE_ABSENT, n));
    RF_TRY(rf_shape_check_1d(op, "row_norm", &args->row_norm, RF_MAY_BE_ABSENT, n));
    RF_REQUIRE(params->act != RF_CODER_GATED || args->z.data != args->h.data ||
                   args->h.data == NULL,
               "%s: z of a gated coder may not be h", op);
fail:
    return status;
}

rf_status rf_dense_values(rf_stream *s, const rf_act_params *params,
                          const rf_dense_values_args *args)
{
    static const char op[] = "dense values";
    rf_status status = RF_OK;
    rf_dense_values_args a = *args;
    RF_TRY(rf_shape_check_2d(op, "h", &args->h, RF_MUST_BE_GIVEN, -1, -1));
    RF_TRY(
        rf_shape_check_2d(op, "z", &args->z, RF_MUST_BE_GIVEN, args->h.shape[0], args->h.shape[1]));
    RF_TRY(rf_shape_check_unrepeated(op, "z", &args->z));
    RF_TRY(check_act(op, params, args->h.shape[1]));
    RF_TRY(check_dense_outputs(op, params, args));
    RF_TRY(begin_product(s, op, &args->h, &a.product));
    RF_TRY(s->backend->ops->dense_values(s, params, &a));
fail:
    return status;
}

rf_status rf_dense_relu(rf_stream *s, const rf_view *h, const rf_view *z, const uint8_t *row_valid)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_2d("dense relu", "h", h, RF_MUST_BE_GIVEN, -1, -1));
    RF_TRY(rf_shape_check_2d("dense relu", "z", z, RF_MUST_BE_GIVEN, h->shape[0], h->shape[1]));
    RF_TRY(rf_shape_check_unrepeated("dense relu", "z", z));
    RF_TRY(s->backend->ops->dense_relu(s, h, z, row_valid));
fail:
    return status;
}

static rf_status check_dense_sums(const char *op, const rf_act_params *params,
                                  const rf_dense_grad_args *args, int64_t n_latents)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_1d(op, "d_h", &args->d_h, RF_MAY_BE_ABSENT, n_latents));
    RF_TRY(rf_shape_check_1d(op, "d_threshold", &args->d_threshold, RF_MAY_BE_ABSENT, n_latents));
    RF_TRY(rf_shape_check_1d(op, "d_b_gate", &args->d_b_gate, RF_MAY_BE_ABSENT, n_latents));
    RF_TRY(rf_shape_check_1d(op, "d_gain", &args->d_gain, RF_MAY_BE_ABSENT, n_latents));
    RF_TRY(rf_shape_check_1d(op, "d_b_mag", &args->d_b_mag, RF_MAY_BE_ABSENT, n_latents));
    if (params->act == RF_CODER_JUMP && (args->d_threshold.data != NULL || args->ste_to_input)) {
        RF_REQUIRE(args->eps > 0.0f && isfinite(args->eps), "%s: eps=%g, expected > 0", op,
                   (double)args->eps);
    }
fail:
    return status;
}

/* How many latents there are in all, by whichever whole view says so; where none does, those up to
 * the tile's last. */
static int64_t count_latents(const rf_act_params *params, const rf_dense_grad_args *args)
{
    const rf_view *whole[] = {&params->threshold, &params->b_gate, &params->weight, &args->d_h,
                              &args->d_threshold, &args->d_b_gate, &args->d_gain,   &args->d_b_mag};
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++) {
        if (whole[i]->data != NULL) {
            return whole[i]->shape[0];
        }
    }
    return args->first_latent + args->h.shape[1];
}

rf_status rf_dense_grad(rf_stream *s, const rf_act_params *params, const rf_dense_grad_args *args)
{
    static const char op[] = "dense gradient";
    rf_status status = RF_OK;
    rf_dense_grad_args a = *args;
    const int64_t n = args->h.shape[0], f = args->h.shape[1];
    const int64_t n_latents = count_latents(params, args);
    RF_TRY(rf_shape_check_2d(op, "h", &args->h, RF_MUST_BE_GIVEN, -1, -1));
    RF_TRY(rf_shape_check_2d(op, "d_z", &args->d_z, RF_MUST_BE_GIVEN, n, f));
    RF_TRY(rf_shape_check_unrepeated(op, "d_z", &args->d_z));
    RF_REQUIRE(args->first_latent >= 0 && args->first_latent + f <= n_latents,
               "%s: latents %" PRId64 " to %" PRId64 " of %" PRId64, op, args->first_latent,
               args->first_latent + f, n_latents);
    RF_TRY(check_act(op, params, n_latents));
    if (params->act == RF_CODER_GATED) {
        RF_TRY(rf_shape_check_2d(op, "d_gate", &args->d_gate, RF_MUST_BE_GIVEN, n, f));
    }
    RF_TRY(rf_shape_check_1d(
        op, "row_norm", &args->row_norm,
        params->penalty == RF_PENALTY_NORM ? RF_MUST_BE_GIVEN : RF_MAY_BE_ABSENT, n));
    RF_TRY(check_dense_sums(op, params, args, n_latents));
    RF_TRY(begin_product(s, op, &args->d_z, &a.product));
    RF_TRY(s->backend->ops->dense_grad(s, params, &a));
fail:
    return status;
}

/* ---- tokens as a coder sees them ----------------------------------------------------------------
 */

static rf_status check_segments(const char *op, const rf_segments *segments, int64_t d)
{
    rf_status status = RF_OK;
    int64_t last = 0;
    RF_REQUIRE(segments->n >= 0 && segments->n <= RF_MAX_SITES, "%s: %d segments, expected 0 to %d",
               op, segments->n, RF_MAX_SITES);
    for (int l = 0; segments->n > 1 && l < segments->n; l++) {
        RF_REQUIRE(segments->end[l] > last,
                   "%s: segment %d ends at %" PRId64 ", expected > %" PRId64, op, l,
                   segments->end[l], last);
        last = segments->end[l];
    }
    RF_REQUIRE(segments->n <= 1 || last == d, "%s: segments end at %" PRId64 " of %" PRId64, op,
               last, d);
fail:
    return status;
}

static rf_status check_normalise(const char *op, const rf_normalise_args *args,
                                 rf_presence row_given)
{
    rf_status status = RF_OK;
    const int64_t n = args->from.shape[0], d = args->from.shape[1];
    const int64_t n_segments = args->segments.n > 1 ? args->segments.n : 1;
    RF_REQUIRE(args->norm >= RF_NORM_NONE && args->norm <= RF_NORM_PER_DIMENSION,
               "%s: norm %d is none", op, (int)args->norm);
    RF_TRY(rf_shape_check_2d(op, "from", &args->from, RF_MUST_BE_GIVEN, -1, -1));
    RF_TRY(rf_shape_check_2d(op, "to", &args->to, RF_MUST_BE_GIVEN, n, d));
    RF_TRY(rf_shape_check_unrepeated(op, "to", &args->to));
    RF_REQUIRE(d >= 1, "%s: tokens of width 0", op);
    RF_TRY(check_segments(op, &args->segments, d));
    RF_TRY(rf_shape_check_1d(op, "shift", &args->shift, RF_MAY_BE_ABSENT, d));
    RF_TRY(rf_shape_check_1d(op, "scale", &args->scale, RF_MAY_BE_ABSENT, d));
    RF_TRY(rf_shape_check_1d(op, "subtract", &args->subtract, RF_MAY_BE_ABSENT, d));
    if (args->norm == RF_NORM_LAYER || args->norm == RF_NORM_CONSTANT) {
        RF_TRY(rf_shape_check_2d(op, "row_shift", &args->row_shift, row_given, n, n_segments));
        RF_TRY(rf_shape_check_2d(op, "row_scale", &args->row_scale, row_given, n, n_segments));
    }
fail:
    return status;
}

rf_status rf_normalise_tokens(rf_stream *s, const rf_normalise_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(check_normalise("normalise", args, RF_MAY_BE_ABSENT));
    RF_TRY(s->backend->ops->normalise_tokens(s, args));
fail:
    return status;
}

rf_status rf_denormalise_tokens(rf_stream *s, const rf_normalise_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(check_normalise("denormalise", args, RF_MUST_BE_GIVEN));
    RF_TRY(s->backend->ops->denormalise_tokens(s, args));
fail:
    return status;
}

/* ---- who fires ----------------------------------------------------------------------------------
 */

rf_status rf_track_fired(rf_stream *s, const rf_track_fired_args *args)
{
    rf_status status = RF_OK;
    const int64_t n = args->since_fired.shape[0];
    RF_TRY(check_i64("fired", "since_fired", &args->since_fired, RF_MUST_BE_GIVEN, -1));
    RF_TRY(check_i64("fired", "n_active", &args->n_active, RF_MAY_BE_ABSENT, n));
    RF_REQUIRE(args->n_active.data != NULL || n == 0 ||
                   (args->index != NULL && args->index->n_latents == n),
               "fired: index or n_active of %" PRId64 " latents expected", n);
    RF_REQUIRE(args->n_fired != NULL, "fired: n_fired is absent");
    RF_TRY(s->backend->ops->track_fired(s, args));
fail:
    return status;
}

rf_status rf_mark_dead(rf_stream *s, const rf_view *since_fired, int64_t limit, uint8_t *dead,
                       int64_t *n_dead)
{
    rf_status status = RF_OK;
    RF_TRY(check_i64("dead", "since_fired", since_fired, RF_MUST_BE_GIVEN, -1));
    RF_REQUIRE(n_dead != NULL && (dead != NULL || since_fired->shape[0] == 0),
               "dead: an output is absent");
    RF_TRY(s->backend->ops->mark_dead(s, since_fired, limit, dead, n_dead));
fail:
    return status;
}
