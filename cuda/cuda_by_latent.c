/* What walks codes by latent; sums; who fires. */
#include "cuda_impl.h"
#include "k_by_latent.h"

rf_status rf_cuda_index_by_latent(rf_stream *s, const rf_codes *codes, rf_latent_index *index)
{
    rf_status status = RF_OK;
    rf_sort_scratch scratch = {.n_tiles =
                                   rf_max_i64(1, rf_ceil_div(codes->capacity, RF_K_SORT_TILE))};
    rf_carver memory = {0};
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 2; i++) {
            scratch.key[i] = rf_carve(&memory, codes->capacity, sizeof(int32_t));
            scratch.entry[i] = rf_carve(&memory, codes->capacity, sizeof(int32_t));
        }
        scratch.row_of = rf_carve(&memory, codes->capacity, sizeof(int32_t));
        scratch.counts = rf_carve(&memory, scratch.n_tiles * RF_K_SORT_DIGITS, sizeof(int32_t));
        scratch.totals = rf_carve(&memory, RF_K_SORT_DIGITS, sizeof(int32_t));
        if (round == 0) {
            void *base = NULL;
            RF_TRY(rf_cuda_scratch(s, memory.used, &base));
            memory = (rf_carver){.base = base};
        }
    }
    rf_k_index_by_latent(rf_cuda_stream_of(s), *codes, *index, scratch);
    RF_TRY(rf_cuda_launched(s, "index by latent"));
fail:
    return status;
}

rf_status rf_cuda_accumulate_by_latent(rf_stream *s, const rf_by_latent_args *args)
{
    rf_status status = RF_OK;
    rf_by_latent all = {.n_lists = args->n_lists,
                        .x = rf_rows_of(&args->x),
                        .d_w_enc = rf_rows_of(&args->d_w_enc),
                        .d_w_dec = rf_rows_of(&args->d_w_dec),
                        .d_b_enc = args->d_b_enc.data,
                        .n_latents = args->d_w_enc.shape[0],
                        .width_in = args->d_w_enc.shape[1],
                        .width_out = args->d_w_dec.shape[1],
                        .accumulate = args->accumulate,
                        .touched = args->touched};
    for (int l = 0; l < args->n_lists; l++) {
        all.lists[l] = (rf_by_latent_list){.latent_start = args->index[l]->latent_start,
                                           .entry = args->index[l]->entry,
                                           .row = args->index[l]->row,
                                           .value = args->codes[l]->value,
                                           .d_value = args->codes[l]->d_value,
                                           .g = rf_rows_of(&args->g[l]),
                                           .groups = args->groups[l]};
    }
    const int64_t n_blocks = rf_ceil_div(all.n_latents, RF_K_SUM_BLOCK);
    void *scratch = NULL;
    RF_TRY(rf_cuda_scratch(s, sizeof(double) * (size_t)(all.n_latents + n_blocks), &scratch));
    all.squares = scratch;
    rf_k_accumulate_by_latent(rf_cuda_stream_of(s), all);
    if (!args->accumulate) {
        rf_k_sum_doubles(rf_cuda_stream_of(s), all.squares, all.n_latents,
                         all.squares + all.n_latents, args->squares, 0.0);
    }
    RF_TRY(rf_cuda_launched(s, "gradients by latent"));
fail:
    return status;
}

rf_status rf_cuda_sum_by_latent(rf_stream *s, const rf_latent_index *index, const float *entries,
                                const rf_view *out, float beta)
{
    rf_k_sum_by_latent(rf_cuda_stream_of(s), *index, entries, out->data, beta);
    return rf_cuda_launched(s, "sums by latent");
}

rf_status rf_cuda_row_sum(rf_stream *s, const rf_row_sum_args *args)
{
    rf_status status = RF_OK;
    const int64_t n = args->x.shape[0], d = args->x.shape[1];
    void *partial = NULL;
    RF_TRY(
        rf_cuda_scratch(s, sizeof(float) * (size_t)(rf_ceil_div(n, RF_K_SUM_BLOCK) * d), &partial));
    rf_k_row_sum(rf_cuda_stream_of(s), (rf_weighted_rows){.x = rf_rows_of(&args->x),
                                                          .weight = args->weight.data,
                                                          .partial = partial,
                                                          .out = args->out.data,
                                                          .n = n,
                                                          .d = d,
                                                          .alpha = args->alpha,
                                                          .beta = args->beta});
    RF_TRY(rf_cuda_launched(s, "sum of rows"));
fail:
    return status;
}

rf_status rf_cuda_sum_squares(rf_stream *s, const rf_view *x, double *out, double beta)
{
    rf_status status = RF_OK;
    const int64_t n = x->shape[0];
    void *scratch = NULL;
    RF_TRY(rf_cuda_scratch(s, sizeof(double) * (size_t)(n + rf_ceil_div(n, RF_K_SUM_BLOCK)),
                           &scratch));
    double *squares = scratch;
    rf_k_row_squares(rf_cuda_stream_of(s), rf_rows_of(x), n, x->shape[1], squares);
    rf_k_sum_doubles(rf_cuda_stream_of(s), squares, n, squares + n, out, beta);
    RF_TRY(rf_cuda_launched(s, "sum of squares"));
fail:
    return status;
}

rf_status rf_cuda_track_fired(rf_stream *s, const rf_track_fired_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(rf_fill_bytes(s, args->n_fired, 0, sizeof *args->n_fired));
    rf_k_track_fired(rf_cuda_stream_of(s), args->index != NULL ? args->index->latent_start : NULL,
                     args->n_active.data, args->since_fired.data, args->since_fired.shape[0],
                     args->n_tokens, args->n_fired);
    RF_TRY(rf_cuda_launched(s, "who fired"));
fail:
    return status;
}

rf_status rf_cuda_mark_dead(rf_stream *s, const rf_view *since_fired, int64_t limit, uint8_t *dead,
                            int64_t *n_dead)
{
    rf_status status = RF_OK;
    RF_TRY(rf_fill_bytes(s, n_dead, 0, sizeof *n_dead));
    rf_k_mark_dead(rf_cuda_stream_of(s), since_fired->data, since_fired->shape[0], limit, dead,
                   n_dead);
    RF_TRY(rf_cuda_launched(s, "who is dead"));
fail:
    return status;
}
