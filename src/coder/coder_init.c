/* How a coder starts. */
#include "coder_impl.h"

#include <math.h>
#include <string.h>

enum { ROWS_AT_ONCE = 1024 };

/* Rows first .. first + n - 1 of independent normals: a function of seed, latent and column alone.
 */
static void random_rows(float *rows, int64_t first, int64_t n, int64_t d, uint64_t seed)
{
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < n; r++) {
        for (int64_t j = 0; j < d; j += 4) {
            float z[4];
            rf_random_normal4(seed, RF_RANDOM_INIT_DECODER, (uint64_t)(first + r),
                              (uint64_t)(j / 4), z);
            memcpy(rows + r * d + j, z, sizeof(float) * (size_t)rf_min_i64(4, d - j));
        }
    }
}

static rf_status start_weights(rf_coder *coder, rf_stream *s)
{
    rf_status status = RF_OK;
    rf_view w_dec = rf_coder_view(coder, RF_CODER_W_DEC);
    rf_view w_enc = rf_coder_view(coder, RF_CODER_W_ENC);
    rf_view b_enc = rf_coder_view(coder, RF_CODER_B_ENC);
    int64_t d = coder->width;
    float *rows = NULL;

    RF_ALLOC(rows, ROWS_AT_ONCE * d);
    for (int64_t i = 0; i < coder->n_latents; i += ROWS_AT_ONCE) {
        int64_t n = rf_min_i64(ROWS_AT_ONCE, coder->n_latents - i);
        random_rows(rows, i, n, d, (uint64_t)coder->settings.seed);
        RF_TRY(rf_copy_in(s, (float *)w_dec.data + i * d, rows, sizeof(float) * (size_t)(n * d)));
        RF_TRY(rf_stream_synchronise(s)); /* `rows` is used again */
    }
    RF_TRY(rf_normalise_rows(s, &w_dec));
    RF_TRY(
        rf_copy_within(s, w_enc.data, w_dec.data, sizeof(float) * (size_t)(coder->n_latents * d)));
    RF_TRY(rf_fill_bytes(s, b_enc.data, 0, sizeof(float) * (size_t)coder->n_latents));
fail:
    rf_free(rows);
    return status;
}

static rf_status start_b_dec(const rf_coder *coder, const float *x, int64_t n, const double *mean,
                             double *out)
{
    int64_t d = coder->width;
    switch ((rf_b_dec_init)coder->settings.b_dec) {
    case RF_B_DEC_GEOMETRIC_MEDIAN:
        return rf_geometric_median(x, n, d, out);
    case RF_B_DEC_MEAN:
        memcpy(out, mean, sizeof *out * (size_t)d);
        return RF_OK;
    case RF_B_DEC_ZEROS:
        memset(out, 0, sizeof *out * (size_t)d);
        return RF_OK;
    }
    return rf_error_raise(RF_ERR_BUG, __FILE__, __LINE__, "b_dec: choice %d",
                          coder->settings.b_dec);
}

/* b_dec and V, from rows on the host. */
static rf_status start_from_sample(rf_coder *coder, rf_stream *s, const float *x, int64_t n,
                                   rf_coder_state *state)
{
    rf_status status = RF_OK;
    int64_t d = coder->width;
    double *mean = NULL, *b_dec = NULL, variance;
    float *rounded = NULL;

    RF_ALLOC(mean, d);
    RF_ALLOC(b_dec, d);
    RF_ALLOC(rounded, d);
    RF_TRY(rf_sample_moments(x, n, d, mean, &variance));
    state->variance = (float)variance;
    if (!isfinite(state->variance)) {
        RF_FAIL(RF_ERR_NUMERIC, "coder '%s': the sample of what it sees is not finite",
                coder->settings.name);
    }
    if (!(state->variance > 0.0f)) {
        RF_FAIL(RF_ERR_NUMERIC,
                "coder '%s': all %" PRId64 " tokens of the sample of what it sees are alike",
                coder->settings.name, n);
    }
    RF_TRY(start_b_dec(coder, x, n, mean, b_dec));
    for (int64_t j = 0; j < d; j++) {
        rounded[j] = (float)b_dec[j];
    }
    RF_TRY(rf_copy_in(s, rf_coder_view(coder, RF_CODER_B_DEC).data, rounded,
                      sizeof(float) * (size_t)d));
    RF_TRY(rf_stream_synchronise(s)); /* `rounded` goes */
fail:
    rf_free(rounded);
    rf_free(b_dec);
    rf_free(mean);
    return status;
}

rf_status rf_coder_init(rf_coder *coder, rf_stream *s, const rf_view *sample)
{
    rf_status status = RF_OK;
    float *x = NULL;
    int64_t n = sample->shape[0];
    rf_view since = rf_coder_view(coder, RF_CODER_TOKENS_SINCE_FIRED);
    rf_coder_state state = {.variance = 1.0f};

    RF_REQUIRE(sample->n_dims == 2 && sample->shape[1] == coder->width && n >= 1 &&
                   sample->dtype == RF_F32 && rf_view_is_contiguous(sample),
               "coder '%s': the sample must be contiguous rows of fp32, [n >= 1, %" PRId64 "]",
               coder->settings.name, coder->width);
    RF_ALLOC(x, n * coder->width);
    RF_TRY(rf_copy_out(s, x, sample->data, sizeof(float) * (size_t)(n * coder->width)));
    RF_TRY(rf_stream_synchronise(s));
    RF_TRY(start_from_sample(coder, s, x, n, &state));
    RF_TRY(start_weights(coder, s));
    RF_TRY(rf_fill_bytes(s, since.data, 0, sizeof(int64_t) * (size_t)coder->n_latents));
    state.counters[RF_COUNTER_DENSE] = coder->architecture->may_be_dense;
    RF_TRY(rf_coder_set_state(coder, s, &state));
fail:
    rf_free(x);
    return status;
}
