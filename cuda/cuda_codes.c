/* What walks codes by token. */
#include "cuda_impl.h"
#include "k_codes.h"

rf_status rf_cuda_decode(rf_stream *s, const rf_decode_args *args)
{
    const rf_codes *codes = args->codes;
    rf_k_decode(rf_cuda_stream_of(s),
                (rf_decode_rows){.row_start = codes->row_start,
                                 .latent = codes->latent,
                                 .value = args->value != NULL ? args->value : codes->value,
                                 .bias = args->bias.data,
                                 .w = rf_rows_of(&args->w_dec),
                                 .out = rf_rows_of(&args->out),
                                 .n_rows = codes->n_rows,
                                 .d = args->w_dec.shape[1],
                                 .groups = args->groups});
    return rf_cuda_launched(s, "decode");
}

rf_status rf_cuda_d_value(rf_stream *s, const rf_d_value_args *args)
{
    const rf_codes *codes = args->codes;
    rf_k_d_value(rf_cuda_stream_of(s),
                 (rf_d_value_rows){.row_start = codes->row_start,
                                   .latent = codes->latent,
                                   .out = args->out != NULL ? args->out : codes->d_value,
                                   .w = rf_rows_of(&args->w_dec),
                                   .g = rf_rows_of(&args->g),
                                   .n_rows = codes->n_rows,
                                   .d = args->w_dec.shape[1],
                                   .groups = args->groups});
    return rf_cuda_launched(s, "gradient of values");
}

rf_status rf_cuda_residual(rf_stream *s, const rf_residual_args *args)
{
    rf_residual_rows rows = {.x = rf_rows_of(&args->x),
                             .x_hat = rf_rows_of(&args->x_hat),
                             .g = rf_rows_of(&args->g),
                             .row_loss = args->row_loss.data,
                             .row_valid = args->row_valid,
                             .n = args->x.shape[0],
                             .d = args->x.shape[1],
                             .scale = args->scale};
    if (args->x_hat.shape[0] == 1) {
        rows.x_hat.stride = 0;
    }
    rf_k_residual(rf_cuda_stream_of(s), rows);
    return rf_cuda_launched(s, "residual");
}

rf_status rf_cuda_prefix_residual(rf_stream *s, const rf_prefix_residual_args *args)
{
    rf_k_prefix_residual(rf_cuda_stream_of(s), *args);
    return rf_cuda_launched(s, "residuals of prefixes");
}

rf_status rf_cuda_codes_histogram(rf_stream *s, const rf_codes *codes, rf_class_rows rows,
                                  int32_t upper, int64_t *counts)
{
    rf_status status = RF_OK;
    RF_TRY(rf_fill_bytes(s, counts, 0, sizeof *counts << 16));
    rf_k_codes_histogram(rf_cuda_stream_of(s), *codes, rows, upper, counts);
    RF_TRY(rf_cuda_launched(s, "histogram of codes"));
fail:
    return status;
}

rf_status rf_cuda_codes_keep(rf_stream *s, rf_codes *codes, rf_class_rows rows, float threshold,
                             int64_t n_ties)
{
    rf_status status = RF_OK;
    rf_cut_scratch scratch = {0};
    rf_carver memory = {0};
    for (int round = 0; round < 2; round++) {
        scratch.ties = rf_carve(&memory, codes->n_rows + 1, sizeof(int64_t));
        scratch.kept = rf_carve(&memory, codes->n_rows + 1, sizeof(int64_t));
        scratch.latent = rf_carve(&memory, codes->capacity, sizeof(int32_t));
        scratch.value = rf_carve(&memory, codes->capacity, sizeof(float));
        scratch.d_value = rf_carve(&memory, codes->capacity, sizeof(float));
        if (round == 0) {
            void *base = NULL;
            RF_TRY(rf_cuda_scratch(s, memory.used, &base));
            memory = (rf_carver){.base = base};
        }
    }
    rf_k_codes_keep(rf_cuda_stream_of(s), *codes, rows, threshold, n_ties, scratch);
    RF_TRY(rf_cuda_launched(s, "codes that stay"));
fail:
    return status;
}
