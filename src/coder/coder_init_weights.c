/* Start of W_dec, what an archetypal one is made of, and W_enc. */
#include "coder_impl.h"

#include <math.h>
#include <string.h>

enum { ROWS_AT_ONCE = 1024 };

/* What the numbers of RF_RANDOM_INIT_OTHER are for, in the upper bits of `b`. */
typedef enum draw { DRAW_TOKEN = 1, DRAW_ENCODER, DRAW_POINTS, DRAW_MIXTURE } draw;

static uint64_t draw_key(draw what, int64_t idx)
{
    return ((uint64_t)what << 40) + (uint64_t)idx;
}

/* Rows first .. first + n - 1 of independent normals: a function of seed, latent and column alone.
 */
static void random_rows(float *rows, int64_t first, int64_t n, int64_t d, uint64_t seed,
                        rf_random_purpose purpose, uint64_t key)
{
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < n; r++) {
        for (int64_t j = 0; j < d; j += 4) {
            float z[4];
            rf_random_normal4(seed, purpose, (uint64_t)(first + r), key + (uint64_t)(j / 4), z);
            memcpy(rows + r * d + j, z, sizeof(float) * (size_t)rf_min_i64(4, d - j));
        }
    }
}

static double norm_of(const float *v, const float *less, int64_t d)
{
    double sum = 0.0;
    for (int64_t j = 0; j < d; j++) {
        double x = (double)v[j] - (less == NULL ? 0.0 : (double)less[j]);
        sum += x * x;
    }
    return sqrt(sum);
}

/* row = (1 - blend) * row / |row| + blend * (token - b_dec) / |token - b_dec|, for a token that the
 * latent draws. */
static void blend_row(const rf_coder *coder, float *row, int64_t latent, const float *y, int64_t n,
                      const float *b_dec)
{
    int64_t d = coder->out_width;
    double blend = coder->settings.data_blend;
    uint32_t u[4];
    rf_random_u32x4((uint64_t)coder->settings.seed, RF_RANDOM_INIT_OTHER, (uint64_t)latent,
                    draw_key(DRAW_TOKEN, 0), u);
    const float *token = y + (int64_t)((((uint64_t)u[0] << 32) | u[1]) % (uint64_t)n) * d;
    double of_row = norm_of(row, NULL, d), of_token = norm_of(token, b_dec, d);
    if (!(of_row > 0.0 && of_token > 0.0)) {
        return; /* a token in the middle has no direction */
    }
    for (int64_t j = 0; j < d; j++) {
        double data = ((double)token[j] - (double)b_dec[j]) / of_token;
        row[j] = (float)((1.0 - blend) * (double)row[j] / of_row + blend * data);
    }
}

/* w = factor * r + x (absent: 0), rows [n, d]. */
static rf_status add_scaled(const rf_coder *coder, rf_stream *s, rf_view x, rf_view r,
                            double factor, rf_view w)
{
    rf_status status = RF_OK;
    int64_t d = w.shape[1];
    float *host = NULL;
    void *scale = NULL;
    RF_ALLOC(host, d);
    for (int64_t j = 0; j < d; j++) {
        host[j] = (float)factor;
    }
    RF_TRY(rf_memory_alloc(coder->backend, RF_MEMORY_DEVICE, sizeof(float) * (size_t)d, &scale));
    RF_TRY(rf_copy_in(s, scale, host, sizeof(float) * (size_t)d));
    RF_TRY(rf_add(s, &(rf_add_args){.x = x, .r = r, .scale = rf_view_1d(scale, d), .y = w}));
    RF_TRY(rf_stream_synchronise(s));
fail:
    rf_memory_free(coder->backend, RF_MEMORY_DEVICE, scale);
    rf_free(host);
    return status;
}

/* Free and unit rows: random, blended with the data. */
static rf_status start_rows(rf_coder *coder, rf_stream *s, const float *y, int64_t n_tokens,
                            const float *b_dec)
{
    rf_status status = RF_OK;
    rf_view w = rf_coder_view(coder, RF_CODER_W_DEC);
    rf_segments sites = rf_coder_out_segments(coder);
    int64_t d = coder->out_width;
    uint64_t seed = (uint64_t)coder->settings.seed;
    float *rows = NULL;

    RF_ALLOC(rows, ROWS_AT_ONCE * d);
    for (int64_t i = 0; i < coder->n_latents; i += ROWS_AT_ONCE) {
        int64_t n = rf_min_i64(ROWS_AT_ONCE, coder->n_latents - i);
        random_rows(rows, i, n, d, seed, RF_RANDOM_INIT_DECODER, 0);
        for (int64_t r = 0; r < n && coder->settings.data_blend > 0.0; r++) {
            blend_row(coder, rows + r * d, i + r, y, n_tokens, b_dec);
        }
        RF_TRY(rf_copy_in(s, (float *)w.data + i * d, rows, sizeof(float) * (size_t)(n * d)));
        RF_TRY(rf_stream_synchronise(s)); /* `rows` is used again */
    }
    RF_TRY(rf_apply_row_rule(s, &w, RF_ROW_UNIT_NORM, &sites, 0.0f));
    if (coder->settings.decoder == RF_DECODER_FREE) {
        RF_TRY(add_scaled(coder, s, (rf_view){0}, w, coder->settings.decoder_start_norm, w));
    }
fail:
    rf_free(rows);
    return status;
}

/* ---- archetypes -------------------------------------------------------------------------------
 */

/* Tokens of the sample less b_dec, each at most once. */
static rf_status start_points(rf_coder *coder, rf_stream *s, const float *y, int64_t n_tokens,
                              const float *b_dec)
{
    rf_status status = RF_OK;
    int64_t n = coder->settings.archetypal_points, d = coder->out_width;
    float *points = NULL;
    RF_REQUIRE(n <= n_tokens,
               "coder '%s': archetypal_points is %" PRId64 " but the sample has %" PRId64
               " tokens: ask for fewer points, or for more tokens (train.sample_tokens)",
               coder->settings.name, n, n_tokens);
    RF_ALLOC(points, n * d);
    for (int64_t i = 0; i < n; i++) {
        int64_t b = rf_permute((uint64_t)coder->settings.seed, RF_RANDOM_INIT_OTHER, 0,
                               draw_key(DRAW_POINTS, 0), n_tokens, i);
        for (int64_t j = 0; j < d; j++) {
            points[i * d + j] = y[b * d + j] - b_dec[j];
        }
    }
    RF_TRY(rf_copy_in(s, rf_coder_view(coder, RF_CODER_POINTS).data, points,
                      sizeof(float) * (size_t)(n * d)));
    RF_TRY(rf_stream_synchronise(s)); /* `points` goes */
fail:
    rf_free(points);
    return status;
}

/* A latent's mixture of four random points with random shares. Of one point each, latents would be
 * alike where there are more of them than points. */
static void mix(float *row, int64_t n_points, uint64_t seed, int64_t latent)
{
    uint32_t which[4], share[4];
    double sum = 0.0;
    rf_random_u32x4(seed, RF_RANDOM_INIT_OTHER, (uint64_t)latent, draw_key(DRAW_MIXTURE, 0), which);
    rf_random_u32x4(seed, RF_RANDOM_INIT_OTHER, (uint64_t)latent, draw_key(DRAW_MIXTURE, 1), share);
    for (int i = 0; i < 4; i++) {
        sum += (double)share[i] + 1.0;
    }
    for (int i = 0; i < 4; i++) {
        row[which[i] % (uint64_t)n_points] += (float)(((double)share[i] + 1.0) / sum);
    }
}

static rf_status start_mixtures(rf_coder *coder, rf_stream *s)
{
    rf_status status = RF_OK;
    rf_view w = rf_coder_view(coder, RF_CODER_ARCHETYPES);
    rf_view offsets = rf_coder_view(coder, RF_CODER_ARCHETYPE_OFFSETS);
    int64_t n_points = coder->settings.archetypal_points;
    float *rows = NULL;
    RF_ALLOC(rows, ROWS_AT_ONCE * n_points);
    for (int64_t i = 0; i < coder->n_latents; i += ROWS_AT_ONCE) {
        int64_t n = rf_min_i64(ROWS_AT_ONCE, coder->n_latents - i);
        size_t n_bytes = sizeof(float) * (size_t)(n * n_points);
        memset(rows, 0, n_bytes);
        for (int64_t r = 0; r < n; r++) {
            mix(rows + r * n_points, n_points, (uint64_t)coder->settings.seed, i + r);
        }
        RF_TRY(rf_copy_in(s, (float *)w.data + i * n_points, rows, n_bytes));
        RF_TRY(rf_stream_synchronise(s)); /* `rows` is used again */
    }
    RF_TRY(rf_fill_bytes(s, offsets.data, 0, sizeof(float) * (size_t)rf_view_n_elems(&offsets)));
fail:
    rf_free(rows);
    return status;
}

static rf_status set_scale(rf_coder *coder, rf_stream *s, float m)
{
    rf_status status = RF_OK;
    RF_TRY(rf_copy_in(s, rf_coder_view(coder, RF_CODER_ARCHETYPE_SCALE).data, &m, sizeof m));
    RF_TRY(rf_stream_synchronise(s)); /* `m` goes */
fail:
    return status;
}

/* Mean norm of the rows of W_dec. */
static rf_status mean_norm(const rf_coder *coder, rf_stream *s, double *out)
{
    rf_status status = RF_OK;
    rf_view w = rf_coder_view(coder, RF_CODER_W_DEC);
    int64_t d = coder->out_width;
    float *rows = NULL;
    double sum = 0.0;
    RF_ALLOC(rows, ROWS_AT_ONCE * d);
    for (int64_t i = 0; i < coder->n_latents; i += ROWS_AT_ONCE) {
        int64_t n = rf_min_i64(ROWS_AT_ONCE, coder->n_latents - i);
        RF_TRY(rf_copy_out(s, rows, (float *)w.data + i * d, sizeof(float) * (size_t)(n * d)));
        RF_TRY(rf_stream_synchronise(s));
        for (int64_t r = 0; r < n; r++) {
            sum += norm_of(rows + r * d, NULL, d);
        }
    }
    *out = sum / (double)coder->n_latents;
fail:
    rf_free(rows);
    return status;
}

static rf_status start_archetypes(rf_coder *coder, rf_stream *s, const float *y, int64_t n_tokens,
                                  const float *b_dec)
{
    rf_status status = RF_OK;
    double norm = 0.0;
    RF_TRY(start_points(coder, s, y, n_tokens, b_dec));
    RF_TRY(start_mixtures(coder, s));
    RF_TRY(set_scale(coder, s, 0.0f));
    RF_TRY(rf_coder_derive(coder, s));
    RF_TRY(mean_norm(coder, s, &norm));
    if (!(isfinite(norm) && norm > 0.0)) {
        RF_FAIL(RF_ERR_NUMERIC, "coder '%s': mixtures of archetypal points have a mean norm of %g",
                coder->settings.name, norm);
    }
    RF_TRY(set_scale(coder, s, (float)-log(norm)));
    RF_TRY(rf_coder_derive(coder, s));
fail:
    return status;
}

rf_status rf_coder_derive(rf_coder *coder, rf_stream *s)
{
    rf_status status = RF_OK;
    rf_view w = rf_coder_view(coder, RF_CODER_W_DEC);
    float m = 0.0f;
    if (coder->settings.decoder != RF_DECODER_ARCHETYPAL) {
        return RF_OK;
    }
    RF_TRY(rf_copy_out(s, &m, rf_coder_view(coder, RF_CODER_ARCHETYPE_SCALE).data, sizeof m));
    RF_TRY(rf_stream_synchronise(s));
    float scale = expf(m);
    RF_TRY(rf_matmul(s, &(rf_matmul_args){.a = rf_coder_view(coder, RF_CODER_ARCHETYPES),
                                          .b = rf_coder_view(coder, RF_CODER_POINTS),
                                          .c = w,
                                          .alpha = scale}));
    RF_TRY(add_scaled(coder, s, w, rf_coder_view(coder, RF_CODER_ARCHETYPE_OFFSETS), (double)scale,
                      w));
fail:
    return status;
}

/* ---- the encoder ------------------------------------------------------------------------------
 */

static rf_status start_encoder(rf_coder *coder, rf_stream *s)
{
    rf_status status = RF_OK;
    rf_view w = rf_coder_view(coder, RF_CODER_W_ENC), w_dec = rf_coder_view(coder, RF_CODER_W_DEC);
    int64_t d = coder->width;
    float *rows = NULL;
    if (coder->settings.w_enc == RF_W_ENC_TIED) {
        return rf_copy_within(s, w.data, w_dec.data,
                              sizeof(float) * (size_t)(coder->n_latents * d));
    }
    RF_ALLOC(rows, ROWS_AT_ONCE * d);
    for (int64_t i = 0; i < coder->n_latents; i += ROWS_AT_ONCE) {
        int64_t n = rf_min_i64(ROWS_AT_ONCE, coder->n_latents - i);
        random_rows(rows, i, n, d, (uint64_t)coder->settings.seed, RF_RANDOM_INIT_OTHER,
                    draw_key(DRAW_ENCODER, 0));
        RF_TRY(rf_copy_in(s, (float *)w.data + i * d, rows, sizeof(float) * (size_t)(n * d)));
        RF_TRY(rf_stream_synchronise(s)); /* `rows` is used again */
    }
    RF_TRY(rf_apply_row_rule(s, &w, RF_ROW_UNIT_NORM, &(rf_segments){.n = 1, .end = {d}}, 0.0f));
fail:
    rf_free(rows);
    return status;
}

rf_status rf_coder_init_weights(rf_coder *coder, rf_stream *s, const float *y, int64_t n,
                                const float *b_dec)
{
    rf_status status = RF_OK;
    if (coder->settings.decoder == RF_DECODER_ARCHETYPAL) {
        RF_TRY(start_archetypes(coder, s, y, n, b_dec));
    } else {
        RF_TRY(start_rows(coder, s, y, n, b_dec));
    }
    RF_TRY(start_encoder(coder, s));
fail:
    return status;
}
