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

static rf_status check_list(const rf_select_list *list, int64_t n_rows, int64_t n_latents)
{
    rf_status status = RF_OK;
    RF_REQUIRE(list->codes != NULL && list->codes->row_start != NULL,
               "encode: a list has no codes");
    RF_REQUIRE(list->codes->capacity <= INT32_MAX, "encode: capacity %" PRId64 " above 2^31 - 1",
               list->codes->capacity);
    if (list->rule == RF_SELECT_TOPK) {
        int64_t k = rf_min_i64(list->k, n_latents);
        RF_REQUIRE(list->k >= 1, "encode: k=%" PRId64 ", expected >= 1", list->k);
        RF_REQUIRE(list->codes->capacity >= n_rows * k,
                   "encode: room for %" PRId64 " entries, %" PRId64 " rows of k=%" PRId64
                   " need %" PRId64,
                   list->codes->capacity, n_rows, k, n_rows * k);
    } else {
        RF_REQUIRE(list->overflow != NULL, "encode: a list that may overflow must count it");
    }
fail:
    return status;
}

rf_status rf_encode(rf_stream *s, const rf_encode_args *args)
{
    rf_status status = RF_OK;
    int64_t n = args->x.shape[0], d = args->x.shape[1], n_latents = args->w_enc.shape[0];
    RF_REQUIRE(is_matrix(&args->x), "encode: x must be rows of fp32, [B, D]");
    RF_REQUIRE(is_shape(&args->w_enc, n_latents, d) && n_latents >= 1 && n_latents <= INT32_MAX,
               "encode: w_enc must be [F, %" PRId64 "], F >= 1", d);
    RF_REQUIRE(is_vector(&args->b_enc, RF_F32, n_latents), "encode: b_enc must be [%" PRId64 "]",
               n_latents);
    RF_REQUIRE(args->n_lists >= 1 && args->n_lists <= RF_MAX_LISTS,
               "encode: %d lists, expected 1 to %d", args->n_lists, RF_MAX_LISTS);
    for (int l = 0; l < args->n_lists; l++) {
        RF_TRY(check_list(&args->lists[l], n, n_latents));
    }
    RF_TRY(s->backend->ops->encode(s, args));
fail:
    return status;
}

rf_status rf_decode(rf_stream *s, const rf_decode_args *args)
{
    rf_status status = RF_OK;
    int64_t d = args->w_dec.shape[1];
    RF_REQUIRE(is_matrix(&args->w_dec), "decode: w_dec must be rows of fp32, [F, D]");
    RF_REQUIRE(is_shape(&args->out, args->out.shape[0], d), "decode: out must be [B, %" PRId64 "]",
               d);
    RF_REQUIRE(is_absent(&args->bias) || is_vector(&args->bias, RF_F32, d),
               "decode: bias must be [%" PRId64 "]", d);
    RF_TRY(check_codes(args->codes, args->out.shape[0]));
    RF_TRY(s->backend->ops->decode(s, args));
fail:
    return status;
}

rf_status rf_codes_row_sum(rf_stream *s, const rf_codes *codes, const rf_view *row_sum)
{
    rf_status status = RF_OK;
    RF_TRY(check_codes(codes, row_sum->shape[0]));
    RF_REQUIRE(is_vector(row_sum, RF_F32, codes->n_rows), "codes row sum: out must be [B]");
    RF_TRY(s->backend->ops->codes_row_sum(s, codes, row_sum));
fail:
    return status;
}

rf_status rf_d_value(rf_stream *s, const rf_d_value_args *args)
{
    rf_status status = RF_OK;
    RF_REQUIRE(is_matrix(&args->w_dec), "d_value: w_dec must be rows of fp32, [F, D]");
    RF_REQUIRE(is_shape(&args->g, args->g.shape[0], args->w_dec.shape[1]),
               "d_value: g must be [B, %" PRId64 "]", args->w_dec.shape[1]);
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

rf_status rf_accumulate_by_latent(rf_stream *s, const rf_by_latent_args *args)
{
    rf_status status = RF_OK;
    int64_t n = args->x.shape[0], n_latents = args->d_w_enc.shape[0];
    RF_REQUIRE(is_matrix(&args->x), "by latent: x must be rows of fp32, [B, D]");
    RF_REQUIRE(is_shape(&args->d_w_enc, n_latents, args->x.shape[1]) &&
                   is_shape(&args->d_w_dec, n_latents, args->d_w_dec.shape[1]) &&
                   is_vector(&args->d_b_enc, RF_F32, n_latents),
               "by latent: gradients must be [F, D_in], [F, D_out] and [F]");
    RF_REQUIRE(args->touched != NULL && args->squares != NULL, "by latent: an output is absent");
    RF_REQUIRE(args->n_lists >= 1 && args->n_lists <= RF_MAX_LISTS,
               "by latent: %d lists, expected 1 to %d", args->n_lists, RF_MAX_LISTS);
    for (int l = 0; l < args->n_lists; l++) {
        RF_TRY(check_codes(args->codes[l], n));
        RF_REQUIRE(is_shape(&args->g[l], n, args->d_w_dec.shape[1]),
                   "by latent: g must be [%" PRId64 ", %" PRId64 "]", n, args->d_w_dec.shape[1]);
        RF_REQUIRE(args->index[l]->n_latents == n_latents, "by latent: index of other latents");
    }
    RF_TRY(s->backend->ops->accumulate_by_latent(s, args));
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

rf_status rf_adam_rows(rf_stream *s, const rf_adam_args *args)
{
    rf_status status = RF_OK;
    int64_t n = args->w.shape[0], d = args->w.shape[1];
    RF_REQUIRE(is_matrix(&args->w), "adam: w must be rows of fp32, [n, d]");
    RF_REQUIRE(is_shape(&args->g, n, d) && is_shape(&args->m, n, d) && is_shape(&args->v, n, d),
               "adam: g, m and v must be [%" PRId64 ", %" PRId64 "]", n, d);
    RF_REQUIRE(args->t >= 1, "adam: t=%" PRId64 ", expected >= 1", args->t);
    RF_REQUIRE(args->beta1 >= 0 && args->beta1 < 1 && args->beta2 >= 0 && args->beta2 < 1,
               "adam: beta1=%g, beta2=%g, expected 0 <= beta < 1", args->beta1, args->beta2);
    RF_TRY(s->backend->ops->adam_rows(s, args));
fail:
    return status;
}

rf_status rf_normalise_rows(rf_stream *s, const rf_view *w)
{
    rf_status status = RF_OK;
    RF_REQUIRE(is_matrix(w), "normalise: w must be rows of fp32, [n, d]");
    RF_TRY(s->backend->ops->normalise_rows(s, w));
fail:
    return status;
}

rf_status rf_track_fired(rf_stream *s, const rf_track_fired_args *args)
{
    rf_status status = RF_OK;
    int64_t n = args->since_fired.shape[0];
    RF_REQUIRE(is_vector(&args->since_fired, RF_I64, n), "fired: since_fired must be I64 [F]");
    RF_REQUIRE(is_absent(&args->n_active) ? args->index != NULL && args->index->n_latents == n
                                          : is_vector(&args->n_active, RF_I64, n),
               "fired: index or n_active of %" PRId64 " latents expected", n);
    RF_TRY(s->backend->ops->track_fired(s, args));
fail:
    return status;
}

rf_status rf_mark_dead(rf_stream *s, const rf_view *since_fired, int64_t limit, uint8_t *dead,
                       int64_t *n_dead)
{
    rf_status status = RF_OK;
    RF_REQUIRE(is_vector(since_fired, RF_I64, since_fired->shape[0]),
               "dead: since_fired must be I64 [F]");
    RF_TRY(s->backend->ops->mark_dead(s, since_fired, limit, dead, n_dead));
fail:
    return status;
}

rf_status rf_dense_codes(rf_stream *s, const rf_dense_codes_args *args)
{
    rf_status status = RF_OK;
    int64_t n = args->z.shape[0];
    RF_REQUIRE(is_matrix(&args->z), "dense codes: z must be rows of fp32, [n, F]");
    RF_REQUIRE(is_vector(&args->row_sum, RF_F32, n) && is_vector(&args->row_active, RF_I64, n) &&
                   is_vector(&args->n_active, RF_I64, args->z.shape[1]),
               "dense codes: row_sum [%" PRId64 "], row_active and n_active [%" PRId64
               "] (I64) expected",
               n, args->z.shape[1]);
    RF_TRY(s->backend->ops->dense_codes(s, args));
fail:
    return status;
}

rf_status rf_dense_mask(rf_stream *s, const rf_view *z, const rf_view *d_z, float penalty)
{
    rf_status status = RF_OK;
    RF_REQUIRE(is_matrix(z) && is_shape(d_z, z->shape[0], z->shape[1]),
               "dense mask: z and d_z must be rows of fp32 of one shape");
    RF_TRY(s->backend->ops->dense_mask(s, z, d_z, penalty));
fail:
    return status;
}
