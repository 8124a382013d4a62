/* Codes in device memory. */
#include "refract/coder.h"

rf_status rf_codes_create(rf_backend *be, int64_t max_rows, int64_t capacity, rf_codes *out)
{
    rf_status status = RF_OK;
    rf_codes codes = {.n_rows = max_rows, .capacity = capacity};
    void *p;

    RF_REQUIRE(max_rows >= 0 && capacity >= 0 && capacity <= INT32_MAX,
               "codes: %" PRId64 " rows, %" PRId64 " entries, expected at most 2^31 - 1 entries",
               max_rows, capacity);
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, sizeof(int64_t) * (size_t)(max_rows + 1), &p));
    codes.row_start = p;
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, sizeof(int32_t) * (size_t)capacity, &p));
    codes.latent = p;
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, sizeof(float) * (size_t)capacity, &p));
    codes.value = p;
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, sizeof(float) * (size_t)capacity, &p));
    codes.d_value = p;
    *out = codes;
    return RF_OK;
fail:
    rf_codes_destroy(be, &codes);
    return status;
}

void rf_codes_destroy(rf_backend *be, rf_codes *codes)
{
    if (codes != NULL) {
        rf_memory_free(be, RF_MEMORY_DEVICE, codes->d_value);
        rf_memory_free(be, RF_MEMORY_DEVICE, codes->value);
        rf_memory_free(be, RF_MEMORY_DEVICE, codes->latent);
        rf_memory_free(be, RF_MEMORY_DEVICE, codes->row_start);
        *codes = (rf_codes){0};
    }
}

rf_status rf_codes_count(rf_stream *s, const rf_codes *codes, int64_t *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_copy_out(s, out, codes->row_start + codes->n_rows, sizeof *out));
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}
