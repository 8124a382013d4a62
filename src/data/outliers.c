/* Tokens whose norm is too large for a coder: they keep their rows, which become zero and count as
 * not valid, as those of a picture that could not be read. */
#include "data_impl.h"

/* Of this rank's rows. */
static rf_status drop_own(rf_activation_stream *st, rf_reader *rd)
{
    rf_status status = RF_OK;
    const size_t row_bytes = (size_t)rd->width * sizeof(float);
    const rf_segments whole = {.n = 1, .end = {rd->width}};
    const rf_view rows = rf_view_2d(rd->x, rd->count, rd->width),
                  norms = rf_view_1d(rd->device_norm, rd->count);

    if (rd->count == 0) {
        return RF_OK;
    }
    RF_TRY(rf_row_norms(st->stream, &rows, &whole, &norms));
    RF_TRY(rf_copy_out(st->stream, rd->norm, rd->device_norm, sizeof(float) * (size_t)rd->count));
    RF_TRY(rf_stream_synchronise(st->stream));
    for (int64_t i = 0; i < rd->count; i++) {
        if (rd->valid[i] && (double)rd->norm[i] > rd->opts.max_norm) { /* NaN stays: a guard's */
            rd->valid[i] = 0;
            RF_TRY(rf_fill_bytes(st->stream, (char *)rd->x + (size_t)i * row_bytes, 0, row_bytes));
        }
    }
fail:
    return status;
}

rf_status rf_reader_drop_outliers(rf_activation_stream *st, rf_reader *rd)
{
    rf_status status = RF_OK;
    int64_t n_valid = 0;

    RF_TRY(rf_comm_agree(st->comm, drop_own(st, rd)));
    for (int64_t i = 0; i < rd->count; i++) {
        n_valid += rd->valid[i];
    }
    RF_TRY(rf_comm_sum_i64(st->comm, &n_valid, 1));
    rd->n_valid = n_valid;
fail:
    return status;
}
