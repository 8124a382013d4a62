/* Shape rules of the coder operations, once for every backend; then the stream's backend is asked.
 */
#include "refract/tensor.h"

#include <limits.h>

static bool is_matrix(const rf_view *v)
{
    return (v->data != NULL || v->shape[0] == 0) && v->dtype == RF_F32 && v->n_dims == 2 &&
           v->shape[1] >= 1 && v->stride[1] == 1 && v->stride[0] >= v->shape[1];
}

static bool is_shape(const rf_view *v, int64_t n, int64_t d)
{
    return is_matrix(v) && v->shape[0] == n && v->shape[1] == d;
}

static bool is_vector(const rf_view *v, rf_dtype dtype, int64_t n)
{
    return (v->data != NULL || n == 0) && v->dtype == dtype && v->n_dims == 1 && v->shape[0] == n &&
           v->stride[0] == 1;
}

static bool is_absent(const rf_view *v)
{
    return v->data == NULL;
}

static rf_status check_codes(const rf_codes *codes, int64_t n_rows)
{
    rf_status status = RF_OK;
    RF_REQUIRE(codes != NULL && codes->row_start != NULL, "codes: absent");
    RF_REQUIRE(codes->n_rows == n_rows, "codes of %" PRId64 " rows, expected %" PRId64,
               codes->n_rows, n_rows);
    RF_REQUIRE(codes->capacity >= 0 && codes->capacity <= INT32_MAX,
               "codes: capacity %" PRId64 ", expected 0 to 2^31 - 1", codes->capacity);
fail:
    return status;
}

static rf_status check_groups(const char *op, const rf_latent_groups *groups, int64_t n_latents)
{
    rf_status status = RF_OK;
    RF_REQUIRE(groups->n >= 0 && groups->n <= RF_MAX_GROUPS, "%s: %d groups, expected 0 to %d", op,
               groups->n, RF_MAX_GROUPS);
    for (int q = 0; q < groups->n; q++) {
        RF_REQUIRE(groups->end[q] > (q == 0 ? 0 : groups->end[q - 1]),
                   "%s: group %d ends at latent %" PRId64 ", the one before at %" PRId64, op, q,
                   groups->end[q], q == 0 ? 0 : groups->end[q - 1]);
    }
    RF_REQUIRE(groups->n == 0 || groups->end[groups->n - 1] == n_latents,
               "%s: the last group ends at latent %" PRId64 ", expected %" PRId64, op,
               groups->end[groups->n - 1], n_latents);
fail:
    return status;
}

/* Columns of what has a part for each group. */
static int64_t grouped_width(const rf_latent_groups *groups, int64_t d)
{
    return groups->n > 0 ? groups->n * d : d;
}

rf_status rf_decode(rf_stream *s, const rf_decode_args *args)
{
    rf_status status = RF_OK;
    int64_t d = args->w_dec.shape[1], width = grouped_width(&args->groups, d);
    RF_REQUIRE(is_matrix(&args->w_dec), "decode: w_dec must be rows of fp32, [F, D]");
    RF_TRY(check_groups("decode", &args->groups, args->w_dec.shape[0]));
    RF_REQUIRE(is_shape(&args->out, args->out.shape[0], width),
               "decode: out must be [B, %" PRId64 "]", width);
    RF_REQUIRE(is_absent(&args->bias) || is_vector(&args->bias, RF_F32, d),
               "decode: bias must be [%" PRId64 "]", d);
    RF_TRY(check_codes(args->codes, args->out.shape[0]));
    RF_TRY(s->backend->ops->decode(s, args));
fail:
    return status;
}

rf_status rf_prefix_residual(rf_stream *s, const rf_prefix_residual_args *args)
{
    rf_status status = RF_OK;
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    RF_REQUIRE(is_matrix(&args->x), "prefix residual: x must be rows of fp32, [B, D]");
    RF_REQUIRE(args->n_groups >= 1 && args->n_groups <= RF_MAX_GROUPS,
               "prefix residual: %d groups, expected 1 to %d", args->n_groups, RF_MAX_GROUPS);
    RF_REQUIRE(is_shape(&args->x_hat, n, args->n_groups * d),
               "prefix residual: x_hat must be [%" PRId64 ", %" PRId64 "]", n, args->n_groups * d);
    RF_REQUIRE((is_absent(&args->row_loss) || is_vector(&args->row_loss, RF_F32, n)) &&
                   (is_absent(&args->row_last) || is_vector(&args->row_last, RF_F32, n)),
               "prefix residual: row_loss and row_last must be [%" PRId64 "]", n);
    RF_TRY(s->backend->ops->prefix_residual(s, args));
fail:
    return status;
}

rf_status rf_d_value(rf_stream *s, const rf_d_value_args *args)
{
    rf_status status = RF_OK;
    int64_t width = grouped_width(&args->groups, args->w_dec.shape[1]);
    RF_REQUIRE(is_matrix(&args->w_dec), "d_value: w_dec must be rows of fp32, [F, D]");
    RF_TRY(check_groups("d_value", &args->groups, args->w_dec.shape[0]));
    RF_REQUIRE(is_shape(&args->g, args->g.shape[0], width), "d_value: g must be [B, %" PRId64 "]",
               width);
    RF_TRY(check_codes(args->codes, args->g.shape[0]));
    RF_TRY(s->backend->ops->d_value(s, args));
fail:
    return status;
}

rf_status rf_residual(rf_stream *s, const rf_residual_args *args)
{
    rf_status status = RF_OK;
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    RF_REQUIRE(is_matrix(&args->x), "residual: x must be rows of fp32, [B, D]");
    RF_REQUIRE(is_shape(&args->x_hat, n, d) || is_shape(&args->x_hat, 1, d),
               "residual: x_hat must be [%" PRId64 ", %" PRId64 "] or one row", n, d);
    RF_REQUIRE(is_absent(&args->g) || is_shape(&args->g, n, d), "residual: g must be as x");
    RF_REQUIRE(is_absent(&args->row_loss) || is_vector(&args->row_loss, RF_F32, n),
               "residual: row_loss must be [%" PRId64 "]", n);
    RF_TRY(s->backend->ops->residual(s, args));
fail:
    return status;
}

rf_status rf_index_by_latent(rf_stream *s, const rf_codes *codes, rf_latent_index *index)
{
    rf_status status = RF_OK;
    RF_TRY(check_codes(codes, codes->n_rows));
    RF_REQUIRE(index->n_latents >= 1 && index->latent_start != NULL, "index: no latents");
    RF_REQUIRE(index->capacity >= codes->capacity,
               "index: room for %" PRId64 " entries, the codes have %" PRId64, index->capacity,
               codes->capacity);
    RF_TRY(s->backend->ops->index_by_latent(s, codes, index));
fail:
    return status;
}

static rf_status check_list_by_latent(const rf_by_latent_args *args, int l)
{
    rf_status status = RF_OK;
    int64_t n = args->x.shape[0], n_latents = args->d_w_enc.shape[0];
    int64_t width = grouped_width(&args->groups[l], args->d_w_dec.shape[1]);
    RF_TRY(check_codes(args->codes[l], n));
    RF_TRY(check_groups("by latent", &args->groups[l], n_latents));
    RF_REQUIRE(is_absent(&args->g[l]) || is_shape(&args->g[l], n, width),
               "by latent: g must be [%" PRId64 ", %" PRId64 "]", n, width);
    RF_REQUIRE(args->index[l]->n_latents == n_latents, "by latent: index of other latents");
fail:
    return status;
}

rf_status rf_accumulate_by_latent(rf_stream *s, const rf_by_latent_args *args)
{
    rf_status status = RF_OK;
    int64_t n_latents = args->d_w_enc.shape[0];
    RF_REQUIRE(is_matrix(&args->x), "by latent: x must be rows of fp32, [B, D]");
    RF_REQUIRE(is_shape(&args->d_w_enc, n_latents, args->x.shape[1]) &&
                   is_shape(&args->d_w_dec, n_latents, args->d_w_dec.shape[1]) &&
                   is_vector(&args->d_b_enc, RF_F32, n_latents),
               "by latent: gradients must be [F, D_in], [F, D_out] and [F]");
    RF_REQUIRE(args->touched != NULL && (args->squares != NULL || args->accumulate),
               "by latent: an output is absent");
    RF_REQUIRE(args->n_lists >= 1 && args->n_lists <= RF_MAX_LISTS,
               "by latent: %d lists, expected 1 to %d", args->n_lists, RF_MAX_LISTS);
    for (int l = 0; l < args->n_lists; l++) {
        RF_TRY(check_list_by_latent(args, l));
    }
    RF_TRY(s->backend->ops->accumulate_by_latent(s, args));
fail:
    return status;
}

rf_status rf_sum_by_latent(rf_stream *s, const rf_latent_index *index, const float *entries,
                           const rf_view *out, float beta)
{
    rf_status status = RF_OK;
    RF_REQUIRE(index->n_latents >= 1 && index->latent_start != NULL, "sum by latent: no index");
    RF_REQUIRE(entries != NULL || index->capacity == 0, "sum by latent: no entries");
    RF_REQUIRE(is_vector(out, RF_F32, index->n_latents), "sum by latent: out must be [%" PRId64 "]",
               index->n_latents);
    RF_REQUIRE(beta == 0.0f || beta == 1.0f, "sum by latent: beta=%g, expected 0 or 1",
               (double)beta);
    RF_TRY(s->backend->ops->sum_by_latent(s, index, entries, out, beta));
fail:
    return status;
}

rf_status rf_row_sum(rf_stream *s, const rf_row_sum_args *args)
{
    rf_status status = RF_OK;
    RF_REQUIRE(is_matrix(&args->x), "row sum: x must be rows of fp32, [n, d]");
    RF_REQUIRE(is_absent(&args->weight) || is_vector(&args->weight, RF_F32, args->x.shape[0]),
               "row sum: weight must be [%" PRId64 "]", args->x.shape[0]);
    RF_REQUIRE(is_vector(&args->out, RF_F32, args->x.shape[1]),
               "row sum: out must be [%" PRId64 "]", args->x.shape[1]);
    RF_REQUIRE(args->beta == 0.0f || args->beta == 1.0f, "row sum: beta=%g, expected 0 or 1",
               (double)args->beta);
    RF_TRY(s->backend->ops->row_sum(s, args));
fail:
    return status;
}

rf_status rf_sum_squares(rf_stream *s, const rf_view *x, double *out, double beta)
{
    rf_status status = RF_OK;
    RF_REQUIRE(is_matrix(x), "sum of squares: x must be rows of fp32, [n, d]");
    RF_REQUIRE(beta == 0.0 || beta == 1.0, "sum of squares: beta=%g, expected 0 or 1", beta);
    RF_TRY(s->backend->ops->sum_squares(s, x, out, beta));
fail:
    return status;
}
