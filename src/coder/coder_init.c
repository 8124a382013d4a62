/* How a coder starts: normalisation, b_dec and V from a sample; the weights are in
 * coder_init_weights.c. */
#include "coder_impl.h"

#include <math.h>
#include <string.h>

/* The sample on the host, as it came and as the coder sees it. */
typedef struct sample_rows {
    int64_t n, d, e;
    float *x, *y;         /* [n, D], [n, E] normalised; the same where the coder has no target */
    float *raw_y;         /* [n, E], where prisma_compat asks for it */
    double *mean, *b_dec; /* [E] */
    float *start;         /* [E] b_dec in single precision */
} sample_rows;

static void sample_fini(sample_rows *r)
{
    rf_free(r->start);
    rf_free(r->b_dec);
    rf_free(r->mean);
    rf_free(r->raw_y);
    if (r->y != r->x) {
        rf_free(r->y);
    }
    rf_free(r->x);
}

/* Columns first .. first + n_columns - 1 of device rows, as rows of their own on the host. */
static rf_status fetch_columns(rf_stream *s, const rf_view *sample, int64_t first,
                               int64_t n_columns, float **out)
{
    rf_status status = RF_OK;
    int64_t n = sample->shape[0], all = sample->shape[1];
    float *rows = NULL, *columns = NULL;
    RF_ALLOC(rows, n * all);
    RF_TRY(rf_copy_out(s, rows, sample->data, sizeof(float) * (size_t)(n * all)));
    RF_TRY(rf_stream_synchronise(s));
    if (n_columns == all) {
        *out = rows;
        return RF_OK;
    }
    RF_ALLOC(columns, n * n_columns);
    for (int64_t b = 0; b < n; b++) {
        memcpy(columns + b * n_columns, rows + b * all + first, sizeof(float) * (size_t)n_columns);
    }
    *out = columns;
fail:
    rf_free(rows);
    return status;
}

/* ---- normalisation ----------------------------------------------------------------------------
 */

/* AVERAGE of one site: its mean norm becomes the root of its width. */
static rf_status average_scale(const rf_coder *coder, const float *x, int64_t n, int64_t d,
                               int64_t first, int64_t end, float *scale)
{
    rf_status status = RF_OK;
    double sum = 0.0;
    for (int64_t b = 0; b < n; b++) {
        double square = 0.0;
        for (int64_t j = first; j < end; j++) {
            square += (double)x[b * d + j] * (double)x[b * d + j];
        }
        sum += sqrt(square);
    }
    double factor = sqrt((double)(end - first)) / (sum / (double)n);
    if (!(isfinite(factor) && sum > 0.0)) {
        RF_FAIL(RF_ERR_NUMERIC, "coder '%s': normalise: average, but the sample's mean norm is %g",
                coder->settings.name, sum / (double)n);
    }
    for (int64_t j = first; j < end; j++) {
        scale[j] = (float)factor;
    }
fail:
    return status;
}

/* PER_DIMENSION of column j. A constant column is only shifted. */
static void dimension_statistics(const float *x, int64_t n, int64_t d, int64_t j, float *shift,
                                 float *scale)
{
    double mean = 0.0, square = 0.0;
    for (int64_t b = 0; b < n; b++) {
        mean += (double)x[b * d + j];
    }
    mean /= (double)n;
    for (int64_t b = 0; b < n; b++) {
        double e = (double)x[b * d + j] - mean;
        square += e * e;
    }
    double deviation = sqrt(square / (double)n);
    *shift = (float)mean;
    *scale = deviation > 0.0 ? (float)(1.0 / deviation) : 1.0f;
}

/* Shift and scale [d] of the sample x [n, d] by sites, into two tensors of the coder. */
static rf_status start_statistics(rf_coder *coder, rf_stream *s, const float *x, int64_t n,
                                  const rf_segments *sites, int shift_idx, int scale_idx)
{
    rf_status status = RF_OK;
    int64_t d = sites->end[sites->n - 1];
    float *shift = NULL, *scale = NULL;
    RF_ALLOC(shift, d);
    RF_ALLOC(scale, d);
    for (int l = 0; l < sites->n && coder->settings.normalise == RF_NORM_AVERAGE; l++) {
        RF_TRY(average_scale(coder, x, n, d, l > 0 ? sites->end[l - 1] : 0, sites->end[l], scale));
    }
    for (int64_t j = 0; j < d && coder->settings.normalise == RF_NORM_PER_DIMENSION; j++) {
        dimension_statistics(x, n, d, j, shift + j, scale + j);
    }
    RF_TRY(rf_copy_in(s, rf_coder_view(coder, shift_idx).data, shift, sizeof(float) * (size_t)d));
    RF_TRY(rf_copy_in(s, rf_coder_view(coder, scale_idx).data, scale, sizeof(float) * (size_t)d));
    RF_TRY(rf_stream_synchronise(s)); /* both go */
fail:
    rf_free(scale);
    rf_free(shift);
    return status;
}

/* Host rows x [n, d], normalised in place by the device's own operation. */
static rf_status normalise_host(const rf_coder *coder, rf_stream *s, float *x, int64_t n,
                                const rf_segments *sites, int shift_idx, int scale_idx)
{
    rf_status status = RF_OK;
    int64_t d = sites->end[sites->n - 1];
    size_t n_bytes = sizeof(float) * (size_t)(n * d), row_bytes = sizeof(float) * (size_t)sites->n;
    void *rows = NULL, *row_shift = NULL, *row_scale = NULL;
    RF_TRY(rf_memory_alloc(coder->backend, RF_MEMORY_DEVICE, n_bytes, &rows));
    RF_TRY(rf_memory_alloc(coder->backend, RF_MEMORY_DEVICE, (size_t)n * row_bytes, &row_shift));
    RF_TRY(rf_memory_alloc(coder->backend, RF_MEMORY_DEVICE, (size_t)n * row_bytes, &row_scale));
    RF_TRY(rf_copy_in(s, rows, x, n_bytes));
    rf_normalise_args args = {.norm = (rf_token_norm)coder->settings.normalise,
                              .from = rf_view_2d(rows, n, d),
                              .to = rf_view_2d(rows, n, d),
                              .segments = *sites};
    if (rf_coder_norm_is_per_token(&coder->settings)) {
        args.row_shift = rf_view_2d(row_shift, n, sites->n);
        args.row_scale = rf_view_2d(row_scale, n, sites->n);
    } else {
        args.shift = rf_coder_view(coder, shift_idx);
        args.scale = rf_coder_view(coder, scale_idx);
    }
    RF_TRY(rf_normalise_tokens(s, &args));
    RF_TRY(rf_copy_out(s, x, rows, n_bytes));
    RF_TRY(rf_stream_synchronise(s));
fail:
    rf_memory_free(coder->backend, RF_MEMORY_DEVICE, row_scale);
    rf_memory_free(coder->backend, RF_MEMORY_DEVICE, row_shift);
    rf_memory_free(coder->backend, RF_MEMORY_DEVICE, rows);
    return status;
}

static rf_status normalise_sample(rf_coder *coder, rf_stream *s, sample_rows *r)
{
    rf_status status = RF_OK;
    rf_segments in = rf_coder_in_segments(coder), out = rf_coder_out_segments(coder);
    bool has_statistics = rf_coder_has_statistics(&coder->settings);
    if (coder->settings.normalise == RF_NORM_NONE) {
        return RF_OK;
    }
    if (has_statistics) {
        RF_TRY(start_statistics(coder, s, r->x, r->n, &in, RF_CODER_IN_SHIFT, RF_CODER_IN_SCALE));
    }
    if (has_statistics && r->y != r->x) {
        RF_TRY(
            start_statistics(coder, s, r->y, r->n, &out, RF_CODER_OUT_SHIFT, RF_CODER_OUT_SCALE));
        RF_TRY(normalise_host(coder, s, r->y, r->n, &out, RF_CODER_OUT_SHIFT, RF_CODER_OUT_SCALE));
    }
    RF_TRY(normalise_host(coder, s, r->x, r->n, &in, RF_CODER_IN_SHIFT, RF_CODER_IN_SCALE));
fail:
    return status;
}

/* ---- what follows from normalised rows ---------------------------------------------------------
 */

static rf_status start_b_dec(const rf_coder *coder, sample_rows *r)
{
    const float *y = r->raw_y != NULL ? r->raw_y : r->y;
    double variance;
    switch ((rf_b_dec_init)coder->settings.b_dec) {
    case RF_B_DEC_GEOMETRIC_MEDIAN:
        return rf_geometric_median(y, r->n, r->e, r->b_dec);
    case RF_B_DEC_MEAN:
        return rf_sample_moments(y, r->n, r->e, r->b_dec, &variance);
    case RF_B_DEC_ZEROS:
        memset(r->b_dec, 0, sizeof *r->b_dec * (size_t)r->e);
        return RF_OK;
    }
    return rf_error_raise(RF_ERR_BUG, __FILE__, __LINE__, "b_dec: choice %d",
                          coder->settings.b_dec);
}

/* The root mean square norm of what the encoder sees. */
static double seen_norm(const rf_coder *coder, const sample_rows *r)
{
    bool subtracts = rf_coder_subtracts(coder);
    double sum = 0.0;
    for (int64_t b = 0; b < r->n; b++) {
        for (int64_t j = 0; j < r->d; j++) {
            double v = (double)r->x[b * r->d + j] - (subtracts ? r->b_dec[j] : 0.0);
            sum += v * v;
        }
    }
    return sqrt(sum / (double)r->n);
}

/* b_dec, V and the unit of thresholds. */
static rf_status start_from_sample(rf_coder *coder, rf_stream *s, sample_rows *r,
                                   rf_coder_state *state)
{
    rf_status status = RF_OK;
    double variance;

    RF_TRY(rf_sample_moments(r->y, r->n, r->e, r->mean, &variance));
    state->scalars[RF_SCALAR_VARIANCE] = (float)variance;
    if (!isfinite(state->scalars[RF_SCALAR_VARIANCE])) {
        RF_FAIL(RF_ERR_NUMERIC, "coder '%s': the sample of what it sees is not finite",
                coder->settings.name);
    }
    if (!(state->scalars[RF_SCALAR_VARIANCE] > 0.0f)) {
        RF_FAIL(RF_ERR_NUMERIC,
                "coder '%s': all %" PRId64 " tokens of the sample of what it %s are alike",
                coder->settings.name, r->n, r->y != r->x ? "reconstructs" : "sees");
    }
    RF_TRY(start_b_dec(coder, r));
    for (int64_t j = 0; j < r->e; j++) {
        r->start[j] = (float)r->b_dec[j];
    }
    double norm = seen_norm(coder, r);
    state->scalars[RF_SCALAR_RMS] = (float)norm;
    if (!(isfinite(norm) && norm > 0.0)) {
        RF_FAIL(RF_ERR_NUMERIC,
                "coder '%s': tokens of the sample of its input have a mean norm of %g",
                coder->settings.name, norm);
    }
    RF_TRY(rf_copy_in(s, rf_coder_view(coder, RF_CODER_B_DEC).data, r->start,
                      sizeof(float) * (size_t)r->e));
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}

static rf_status take_sample(const rf_coder *coder, rf_stream *s, const rf_view *sample,
                             sample_rows *r)
{
    rf_status status = RF_OK;
    bool is_transcoder = rf_coder_is_transcoder(coder);
    *r = (sample_rows){.n = sample->shape[0], .d = coder->width, .e = coder->out_width};
    RF_TRY(fetch_columns(s, sample, 0, r->d, &r->x));
    r->y = r->x;
    if (is_transcoder) {
        RF_TRY(fetch_columns(s, sample, r->d, r->e, &r->y));
    }
    if (coder->settings.prisma_compat) {
        RF_TRY(fetch_columns(s, sample, is_transcoder ? r->d : 0, r->e, &r->raw_y));
    }
    RF_ALLOC(r->mean, r->e);
    RF_ALLOC(r->b_dec, r->e);
    RF_ALLOC(r->start, r->e);
fail:
    return status;
}

/* Parameters that start at zero, and thresholds. */
static rf_status start_rest(rf_coder *coder, rf_stream *s, const rf_coder_state *state)
{
    static const int zeros[] = {RF_CODER_B_ENC, RF_CODER_GAIN, RF_CODER_B_MAG, RF_CODER_W_SKIP};
    rf_status status = RF_OK;
    rf_view since = rf_coder_view(coder, RF_CODER_TOKENS_SINCE_FIRED);
    rf_view log_threshold = rf_coder_view(coder, RF_CODER_LOG_THRESHOLD);
    float *start = NULL;
    for (size_t i = 0; i < sizeof zeros / sizeof zeros[0]; i++) {
        rf_view v = rf_coder_view(coder, zeros[i]);
        if (v.data != NULL) {
            RF_TRY(rf_fill_bytes(s, v.data, 0, sizeof(float) * (size_t)rf_view_n_elems(&v)));
        }
    }
    RF_TRY(rf_fill_bytes(s, since.data, 0, sizeof(int64_t) * (size_t)coder->n_latents));
    if (log_threshold.data != NULL) {
        RF_ALLOC(start, coder->n_latents);
        for (int64_t i = 0; i < coder->n_latents; i++) {
            start[i] =
                (float)log(coder->settings.threshold_start * (double)state->scalars[RF_SCALAR_RMS]);
        }
        RF_TRY(rf_copy_in(s, log_threshold.data, start, sizeof(float) * (size_t)coder->n_latents));
    }
    RF_TRY(rf_stream_synchronise(s)); /* `start` goes */
fail:
    rf_free(start);
    return status;
}

rf_status rf_coder_init(rf_coder *coder, rf_stream *s, const rf_view *sample)
{
    rf_status status = RF_OK;
    sample_rows rows = {0};
    rf_coder_state state = {.counters = {[RF_COUNTER_DENSE] = coder->architecture->may_be_dense}};
    int64_t columns =
        coder->width + (rf_coder_is_transcoder(coder) ? coder->out_width : (int64_t)0);

    RF_REQUIRE(sample->n_dims == 2 && sample->shape[1] == columns && sample->shape[0] >= 1 &&
                   sample->dtype == RF_F32 && rf_view_is_contiguous(sample),
               "coder '%s': the sample must be contiguous rows of fp32, [n >= 1, %" PRId64 "]",
               coder->settings.name, columns);
    RF_TRY(take_sample(coder, s, sample, &rows));
    RF_TRY(normalise_sample(coder, s, &rows));
    RF_TRY(start_from_sample(coder, s, &rows, &state));
    RF_TRY(rf_coder_init_weights(coder, s, rows.y, rows.n, rows.start));
    RF_TRY(start_rest(coder, s, &state));
    RF_TRY(rf_coder_set_state(coder, s, &state));
fail:
    sample_fini(&rows);
    return status;
}
