/* Shape rules of updates and of what rows are held to, once for every backend; then the stream's
 * backend is asked. */
#include "shape_impl.h"

static rf_status check_segments(const char *op, const rf_segments *segments, int64_t d)
{
    rf_status status = RF_OK;
    RF_REQUIRE(segments->n >= 0 && segments->n <= RF_MAX_SITES, "%s: %d segments, expected 0 to %d",
               op, segments->n, RF_MAX_SITES);
    for (int l = 0; segments->n > 1 && l < segments->n; l++) {
        RF_REQUIRE(segments->end[l] > (l == 0 ? 0 : segments->end[l - 1]),
                   "%s: segment %d ends at %" PRId64 ", not behind its beginning", op, l,
                   segments->end[l]);
    }
    RF_REQUIRE(segments->n <= 1 || segments->end[segments->n - 1] == d,
               "%s: segments of %" PRId64 " columns, rows have %" PRId64, op,
               segments->end[segments->n - 1], d);
fail:
    return status;
}

static rf_status check_rule(const char *op, const rf_view *w, rf_row_rule rule,
                            const rf_segments *segments, float radius)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_2d(op, "w", w, RF_MUST_BE_GIVEN, -1, -1));
    RF_REQUIRE(w->shape[1] >= 1, "%s: rows of 0 elements", op);
    RF_REQUIRE(rule >= RF_ROW_FREE && rule <= RF_ROW_SIMPLEX, "%s: rule %d is none", op, (int)rule);
    RF_REQUIRE(rule != RF_ROW_BALL || radius >= 0.0f, "%s: radius %g, expected >= 0", op,
               (double)radius);
    RF_TRY(check_segments(op, segments, w->shape[1]));
fail:
    return status;
}

/* The state that the kind has: m, v, average. */
static rf_status check_state(const char *op, const rf_update_args *args)
{
    rf_status status = RF_OK;
    const int64_t n = args->w.shape[0], d = args->w.shape[1];
    if (args->kind != RF_UPDATE_PLAIN) {
        RF_TRY(rf_shape_check_2d(op, "m", &args->m, RF_MUST_BE_GIVEN, n, d));
        RF_REQUIRE(args->beta1 >= 0.0 && args->beta1 < 1.0, "%s: beta1=%g, expected 0 <= beta < 1",
                   op, args->beta1);
    }
    if (args->kind == RF_UPDATE_ADAM || args->kind == RF_UPDATE_SCHEDULE_FREE) {
        RF_TRY(rf_shape_check_2d(op, "v", &args->v, RF_MUST_BE_GIVEN, n, d));
        RF_REQUIRE(args->beta2 >= 0.0 && args->beta2 < 1.0, "%s: beta2=%g, expected 0 <= beta < 1",
                   op, args->beta2);
    }
    if (args->kind == RF_UPDATE_SCHEDULE_FREE) {
        RF_TRY(rf_shape_check_2d(op, "average", &args->average, RF_MUST_BE_GIVEN, n, d));
        RF_REQUIRE(args->average_weight >= 0.0 && args->average_weight <= 1.0,
                   "%s: weight %g of the average, expected 0 to 1", op, args->average_weight);
    }
fail:
    return status;
}

rf_status rf_update_rows(rf_stream *s, const rf_update_args *args)
{
    static const char *const op = "update";
    rf_status status = RF_OK;
    RF_REQUIRE(args->kind >= RF_UPDATE_ADAM && args->kind <= RF_UPDATE_PLAIN, "%s: kind %d is none",
               op, (int)args->kind);
    RF_TRY(check_rule(op, &args->w, args->rule, &args->segments, args->radius));
    RF_TRY(
        rf_shape_check_2d(op, "g", &args->g, RF_MUST_BE_GIVEN, args->w.shape[0], args->w.shape[1]));
    RF_TRY(check_state(op, args));
    RF_REQUIRE(args->t >= 1, "%s: t=%" PRId64 ", expected >= 1", op, args->t);
    if (args->w.shape[0] > 0) {
        RF_TRY(s->backend->ops->update_rows(s, args));
    }
fail:
    return status;
}

rf_status rf_apply_row_rule(rf_stream *s, const rf_view *w, rf_row_rule rule,
                            const rf_segments *segments, float radius)
{
    rf_status status = RF_OK;
    RF_TRY(check_rule("row rule", w, rule, segments, radius));
    if (w->shape[0] > 0 && rule != RF_ROW_FREE) {
        RF_TRY(s->backend->ops->apply_row_rule(s, w, rule, segments, radius));
    }
fail:
    return status;
}

rf_status rf_row_norms(rf_stream *s, const rf_view *w, const rf_segments *segments,
                       const rf_view *out)
{
    static const char *const op = "row norms";
    rf_status status = RF_OK;
    RF_TRY(check_rule(op, w, RF_ROW_FREE, segments, 0.0f));
    RF_TRY(rf_shape_check_1d(op, "out", out, RF_MUST_BE_GIVEN, w->shape[0]));
    if (w->shape[0] > 0) {
        RF_TRY(s->backend->ops->row_norms(s, w, segments, out));
    }
fail:
    return status;
}

rf_status rf_row_norms_grad(rf_stream *s, const rf_view *w, const rf_segments *segments,
                            const rf_view *scale, const rf_view *d_w)
{
    static const char *const op = "gradient of row norms";
    rf_status status = RF_OK;
    RF_TRY(check_rule(op, w, RF_ROW_FREE, segments, 0.0f));
    RF_TRY(rf_shape_check_1d(op, "scale", scale, RF_MUST_BE_GIVEN, w->shape[0]));
    RF_TRY(rf_shape_check_2d(op, "d_w", d_w, RF_MUST_BE_GIVEN, w->shape[0], w->shape[1]));
    if (w->shape[0] > 0) {
        RF_TRY(s->backend->ops->row_norms_grad(s, w, segments, scale, d_w));
    }
fail:
    return status;
}
