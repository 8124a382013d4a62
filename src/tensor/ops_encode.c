/* Shape rules of encode and of what makes its lists smaller, once for every backend; then the
 * stream's backend is asked. */
#include "shape_impl.h"

#include <limits.h>

bool rf_select_is_exact(rf_select_rule rule)
{
    return rule == RF_SELECT_TOPK || rule == RF_SELECT_BATCH_TOPK || rule == RF_SELECT_ABOVE;
}

/* Rules whose size is known: room for all that they may select. */
static rf_status check_counted(const rf_select_list *list, int64_t n_rows, int64_t n_latents)
{
    rf_status status = RF_OK;
    bool is_topk = list->rule == RF_SELECT_TOPK;
    int64_t left = list->k;
    int64_t k = rf_min_i64(list->k, is_topk ? n_latents : n_rows * n_latents);
    int64_t need = is_topk ? n_rows * k : k;
    RF_REQUIRE(list->k >= (is_topk ? 1 : 0), "encode: k=%" PRId64 ", expected >= %d", list->k,
               is_topk ? 1 : 0);
    RF_REQUIRE(list->codes->capacity >= need,
               "encode: room for %" PRId64 " entries, k=%" PRId64 " of %" PRId64
               " rows needs %" PRId64,
               list->codes->capacity, list->k, n_rows, need);
    for (int c = 0; list->row_class != NULL && c < RF_MAX_ROW_CLASSES; c++) {
        RF_REQUIRE(list->class_k[c] >= 0 && list->class_k[c] <= left,
                   "encode: k=%" PRId64 " of class %d, expected 0 to %" PRId64, list->class_k[c], c,
                   left);
        left -= is_topk ? 0 : list->class_k[c];
    }
fail:
    return status;
}

/* Rules that may select anything. */
static rf_status check_open(const rf_select_list *list, int64_t n_latents)
{
    rf_status status = RF_OK;
    RF_REQUIRE(list->overflow != NULL, "encode: a list that may overflow must count it");
    RF_REQUIRE(list->row_class == NULL || list->rule == RF_SELECT_ABOVE,
               "encode: classes of rows mean nothing to rule %d", (int)list->rule);
    if (list->rule == RF_SELECT_ABOVE) {
        RF_REQUIRE(list->floor != NULL, "encode: a list of what is above has no floor");
        return RF_OK;
    }
    RF_TRY(rf_shape_check_1d("encode", "threshold", &list->threshold,
                             list->rule == RF_SELECT_WINDOW ? RF_MUST_BE_GIVEN : RF_MAY_BE_ABSENT,
                             n_latents));
    RF_REQUIRE(list->rule != RF_SELECT_WINDOW || list->window > 0.0f,
               "encode: window=%g, expected > 0", (double)list->window);
fail:
    return status;
}

static rf_status check_list(const rf_select_list *list, int64_t n_rows, int64_t n_latents)
{
    rf_status status = RF_OK;
    RF_REQUIRE(list->codes != NULL && list->codes->row_start != NULL,
               "encode: a list has no codes");
    RF_REQUIRE(list->codes->capacity >= 0 && list->codes->capacity <= INT32_MAX,
               "encode: capacity %" PRId64 ", expected 0 to 2^31 - 1", list->codes->capacity);
    switch (list->rule) {
    case RF_SELECT_TOPK:
    case RF_SELECT_BATCH_TOPK:
        return check_counted(list, n_rows, n_latents);
    case RF_SELECT_ABOVE:
    case RF_SELECT_POSITIVE:
    case RF_SELECT_WINDOW:
        return check_open(list, n_latents);
    }
    RF_FAIL(RF_ERR_INVALID_ARG, "encode: rule %d is none", (int)list->rule);
fail:
    return status;
}

rf_status rf_encode(rf_stream *s, const rf_encode_args *args)
{
    rf_status status = RF_OK;
    int64_t n = args->x.shape[0], d = args->x.shape[1], n_latents = args->w_enc.shape[0];
    RF_TRY(rf_shape_check_2d("encode", "x", &args->x, RF_MUST_BE_GIVEN, -1, -1));
    RF_TRY(rf_shape_check_2d("encode", "w_enc", &args->w_enc, RF_MUST_BE_GIVEN, -1, d));
    RF_REQUIRE(n <= INT32_MAX && d >= 1 && n_latents >= 1 && n_latents <= INT32_MAX,
               "encode: %" PRId64 " rows of %" PRId64 " for %" PRId64 " latents, expected 0, 1 and "
               "1 to 2^31 - 1",
               n, d, n_latents);
    RF_TRY(rf_shape_check_1d("encode", "b_enc", &args->b_enc, RF_MUST_BE_GIVEN, n_latents));
    RF_REQUIRE(args->products >= RF_PRODUCTS_F32 && args->products <= RF_PRODUCTS_TF32,
               "encode: products %d, expected fp32, bf16 or tf32", (int)args->products);
    RF_REQUIRE(args->n_lists >= 1 && args->n_lists <= RF_MAX_LISTS,
               "encode: %d lists, expected 1 to %d", args->n_lists, RF_MAX_LISTS);
    for (int l = 0; l < args->n_lists; l++) {
        RF_TRY(check_list(&args->lists[l], n, n_latents));
    }
    RF_TRY(s->backend->ops->encode(s, args));
fail:
    return status;
}

static rf_status check_rows(const rf_codes *codes, rf_class_rows rows)
{
    rf_status status = RF_OK;
    RF_REQUIRE(codes != NULL && codes->row_start != NULL, "codes are absent");
    RF_REQUIRE(rows.which >= 0 && rows.which < RF_MAX_ROW_CLASSES,
               "rows of class %d, expected 0 to %d", rows.which, RF_MAX_ROW_CLASSES - 1);
fail:
    return status;
}

rf_status rf_codes_histogram(rf_stream *s, const rf_codes *codes, rf_class_rows rows, int32_t upper,
                             int64_t *counts)
{
    rf_status status = RF_OK;
    RF_TRY_DOING(check_rows(codes, rows), "histogram");
    RF_REQUIRE(counts != NULL, "histogram: counts are absent");
    RF_REQUIRE(upper <= UINT16_MAX, "histogram: upper half %" PRId32 ", expected 16 bits", upper);
    RF_TRY(s->backend->ops->codes_histogram(s, codes, rows, upper, counts));
fail:
    return status;
}

rf_status rf_codes_keep(rf_stream *s, rf_codes *codes, rf_class_rows rows, float threshold,
                        int64_t n_ties)
{
    rf_status status = RF_OK;
    RF_TRY_DOING(check_rows(codes, rows), "keep");
    RF_REQUIRE(n_ties >= 0, "keep: %" PRId64 " ties, expected >= 0", n_ties);
    RF_TRY(s->backend->ops->codes_keep(s, codes, rows, threshold, n_ties));
fail:
    return status;
}
