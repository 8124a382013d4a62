/* How coders start. */
#include "coder/coder_fixture.h"

static rf_backend *be;
static rf_stream *s;

static rf_coder *make(const char *architecture, int64_t width, int64_t latents, int64_t k)
{
    rf_coder_settings settings = fixture_settings(architecture, latents, k);
    rf_coder_shape shape = rf_coder_shape_of(width);
    rf_coder *coder = NULL;
    OK(rf_coder_create(be, &settings, &shape, &coder));
    return coder;
}

static rf_coder *make_of(rf_coder_settings settings, rf_coder_shape shape)
{
    rf_coder *coder = NULL;
    OK(rf_coder_create(be, &settings, &shape, &coder));
    return coder;
}

static const float *floats(const rf_coder *coder, int idx)
{
    return rf_coder_view(coder, idx).data;
}

static float scalar(const rf_coder *coder, int idx)
{
    rf_coder_state st;
    OK(rf_coder_get_state(coder, s, &st));
    return st.scalars[idx];
}

static double norm(const float *v, int64_t n)
{
    double sum = 0.0;
    for (int64_t j = 0; j < n; j++) {
        sum += (double)v[j] * (double)v[j];
    }
    return sqrt(sum);
}

static void a_coder_starts_tied_with_unit_rows_and_the_samples_variance(void **state)
{
    (void)state;
    enum { N = 200, D = 10, F = 70 };
    float *x = fixture_planted(1, N, D);
    rf_view sample = rf_view_2d(x, N, D);
    rf_coder *coder = make("topk", D, F, 3);
    rf_coder_state st;
    double mean[D], variance;
    OK(rf_coder_init(coder, s, &sample));
    const float *w_dec = rf_coder_view(coder, RF_CODER_W_DEC).data;
    assert_memory_equal(rf_coder_view(coder, RF_CODER_W_ENC).data, w_dec, sizeof(float) * F * D);
    for (int i = 0; i < F; i++) {
        assert_true(fabs((double)rf_dot(w_dec + i * D, w_dec + i * D, D) - 1.0) <= 1e-6);
        assert_true(((float *)rf_coder_view(coder, RF_CODER_B_ENC).data)[i] == 0.0f);
    }
    OK(rf_sample_moments(x, N, D, mean, &variance));
    OK(rf_coder_get_state(coder, s, &st));
    assert_true(st.scalars[RF_SCALAR_VARIANCE] == (float)variance);
    rf_coder_destroy(coder);
    rf_free(x);
}

static void decoder_rows_depend_on_seed_and_latent_only(void **state)
{
    (void)state;
    enum { N = 50, D = 9 };
    float *x = fixture_planted(2, N, D);
    rf_view sample = rf_view_2d(x, N, D);
    rf_coder *small = make("topk", D, 5, 3), *large = make("relu", D, 2100, 3);
    OK(rf_coder_init(small, s, &sample));
    OK(rf_coder_init(large, s, &sample));
    assert_memory_equal(rf_coder_view(small, RF_CODER_W_DEC).data,
                        rf_coder_view(large, RF_CODER_W_DEC).data, sizeof(float) * 5 * D);
    rf_coder_settings settings = fixture_settings("topk", 5, 3);
    settings.seed = 1;
    rf_coder *other = make_of(settings, rf_coder_shape_of(D));
    OK(rf_coder_init(other, s, &sample));
    assert_memory_not_equal(rf_coder_view(small, RF_CODER_W_DEC).data,
                            rf_coder_view(other, RF_CODER_W_DEC).data, sizeof(float) * 5 * D);
    rf_coder_destroy(other);
    rf_coder_destroy(large);
    rf_coder_destroy(small);
    rf_free(x);
}

static void b_dec_starts_where_it_is_told(void **state)
{
    (void)state;
    enum { N = 101, D = 7 };
    float *x = fixture_planted(3, N, D);
    rf_view sample = rf_view_2d(x, N, D);
    double mean[D], median[D], variance;
    x[0] = 1000.0f; /* moves the mean, hardly the median */
    OK(rf_sample_moments(x, N, D, mean, &variance));
    OK(rf_geometric_median(x, N, D, median));
    assert_true(fabs(mean[0] - median[0]) > 5.0);
    for (int choice = 0; choice < 3; choice++) {
        rf_coder_settings settings = fixture_settings("topk", 20, 3);
        settings.b_dec = choice;
        rf_coder *coder = make_of(settings, rf_coder_shape_of(D));
        OK(rf_coder_init(coder, s, &sample));
        const float *b_dec = rf_coder_view(coder, RF_CODER_B_DEC).data;
        for (int j = 0; j < D; j++) {
            double want = choice == RF_B_DEC_GEOMETRIC_MEDIAN ? median[j]
                          : choice == RF_B_DEC_MEAN           ? mean[j]
                                                              : 0.0;
            assert_true(b_dec[j] == (float)want);
        }
        rf_coder_destroy(coder);
    }
    rf_free(x);
}

static void a_sample_without_variance_or_not_finite_is_refused(void **state)
{
    (void)state;
    float x[20] = {0};
    rf_view sample = rf_view_2d(x, 5, 4);
    rf_coder *coder = make("topk", 4, 20, 3);
    assert_int_equal(rf_coder_init(coder, s, &sample), RF_ERR_NUMERIC);
    x[3] = NAN;
    assert_int_equal(rf_coder_init(coder, s, &sample), RF_ERR_NUMERIC);
    x[3] = INFINITY;
    assert_int_equal(rf_coder_init(coder, s, &sample), RF_ERR_NUMERIC);
    sample = rf_view_2d(x, 0, 4);
    assert_int_equal(rf_coder_init(coder, s, &sample), RF_ERR_INVALID_ARG);
    sample = rf_view_2d(x, 4, 5);
    assert_int_equal(rf_coder_init(coder, s, &sample), RF_ERR_INVALID_ARG);
    rf_coder_destroy(coder);
}

static void all_else_starts_at_zero(void **state)
{
    (void)state;
    enum { N = 40, D = 6, F = 30 };
    static const int zeros[] = {RF_CODER_B_ENC, RF_CODER_GAIN, RF_CODER_B_MAG, RF_CODER_W_SKIP};
    float *x = fixture_planted(11, N, 2 * D);
    rf_view sample = rf_view_2d(x, N, 2 * D);
    rf_coder_settings t = fixture_settings("gated", F, 3);
    t.skip = true;
    rf_coder *coder = make_of(t, (rf_coder_shape){.n_in = 1, .in = {D}, .n_out = 1, .out = {D}});
    for (int i = 0; i < RF_CODER_N_TENSORS; i++) { /* what an earlier use left */
        rf_view v = rf_coder_view(coder, i);
        if (v.data != NULL) {
            memset(v.data, 1, (size_t)rf_view_n_elems(&v) * rf_dtype_bytes(v.dtype));
        }
    }
    OK(rf_coder_init(coder, s, &sample));
    for (size_t i = 0; i < sizeof zeros / sizeof zeros[0]; i++) {
        rf_view v = rf_coder_view(coder, zeros[i]);
        for (int64_t j = 0; j < rf_view_n_elems(&v); j++) {
            assert_true(((float *)v.data)[j] == 0.0f);
        }
    }
    rf_coder_state st;
    OK(rf_coder_get_state(coder, s, &st));
    for (int i = 0; i < RF_CODER_N_COUNTERS; i++) {
        assert_int_equal(st.counters[i], i == RF_COUNTER_DENSE ? 1 : 0);
    }
    for (int i = 0; i < RF_CODER_N_SCALARS; i++) {
        assert_int_equal(st.scalars[i] != 0.0f, i == RF_SCALAR_VARIANCE || i == RF_SCALAR_RMS);
    }
    for (int i = 0; i < F; i++) {
        assert_true(((int64_t *)rf_coder_view(coder, RF_CODER_TOKENS_SINCE_FIRED).data)[i] == 0);
    }
    rf_coder_destroy(coder);
    rf_free(x);
}

/* Thresholds mean the same whatever the units of the data are. */
static void thresholds_scale_with_what_the_encoder_sees(void **state)
{
    (void)state;
    enum { N = 80, D = 9, F = 12 };
    float *x = fixture_planted(12, N, D);
    for (int round = 0; round < 2; round++) {
        rf_view sample = rf_view_2d(x, N, D);
        rf_coder_settings t = fixture_settings("jumprelu", F, 3);
        t.threshold_start = 0.01;
        t.b_dec = RF_B_DEC_MEAN;
        rf_coder *coder = make_of(t, rf_coder_shape_of(D));
        double mean[D], variance;
        OK(rf_sample_moments(x, N, D, mean, &variance));
        OK(rf_coder_init(coder, s, &sample));
        /* the encoder sees x - mean, so that the mean square norm is the variance */
        assert_true(fabs((double)scalar(coder, RF_SCALAR_RMS) / sqrt(variance) - 1.0) <= 1e-6);
        for (int i = 0; i < F; i++) {
            double theta = exp((double)floats(coder, RF_CODER_LOG_THRESHOLD)[i]);
            assert_true(fabs(theta / (0.01 * sqrt(variance)) - 1.0) <= 1e-5); /* log in fp32 */
        }
        rf_coder_destroy(coder);
        for (int i = 0; i < N * D; i++) {
            x[i] *= 100.0f;
        }
    }
    rf_free(x);
}

static void rows_of_sites_share_a_norm_of_one(void **state)
{
    (void)state;
    enum { N = 50, F = 33, E = 9 };
    float *x = fixture_planted(13, N, E);
    rf_view sample = rf_view_2d(x, N, E);
    rf_coder *coder =
        make_of(fixture_settings("topk", F, 3), (rf_coder_shape){.n_in = 3, .in = {2, 3, 4}});
    OK(rf_coder_init(coder, s, &sample));
    for (int i = 0; i < F; i++) {
        const float *row = floats(coder, RF_CODER_W_DEC) + i * E;
        double sum = norm(row, 2) + norm(row + 2, 3) + norm(row + 5, 4);
        assert_true(fabs(sum - 1.0) <= 1e-6);
    }
    assert_memory_equal(floats(coder, RF_CODER_W_ENC), floats(coder, RF_CODER_W_DEC),
                        sizeof(float) * F * E);
    rf_coder_destroy(coder);
    rf_free(x);
}

static void free_rows_start_with_their_norm(void **state)
{
    (void)state;
    enum { N = 50, F = 1100, D = 9 };
    float *x = fixture_planted(14, N, D);
    rf_view sample = rf_view_2d(x, N, D);
    rf_coder_settings t = fixture_settings("relu", F, 3);
    t.decoder = RF_DECODER_FREE;
    t.decoder_start_norm = 0.3;
    rf_coder *coder = make_of(t, rf_coder_shape_of(D));
    OK(rf_coder_init(coder, s, &sample));
    for (int i = 0; i < F; i++) {
        assert_true(fabs(norm(floats(coder, RF_CODER_W_DEC) + i * D, D) - 0.3) <= 1e-6);
    }
    assert_memory_equal(floats(coder, RF_CODER_W_ENC), floats(coder, RF_CODER_W_DEC),
                        sizeof(float) * F * D);
    rf_coder_destroy(coder);
    rf_free(x);
}

/* Of a decoder as wide as its own rows: were they drawn from the same numbers, they would be equal.
 */
static void independent_encoders_are_unit_rows_of_their_own(void **state)
{
    (void)state;
    enum { N = 50, F = 1100, D = 9 };
    for (int e = 5; e <= D; e += D - 5) {
        float *x = fixture_planted(15, N, D + e);
        rf_view sample = rf_view_2d(x, N, D + e);
        rf_coder_settings t = fixture_settings("topk", F, 3);
        t.w_enc = RF_W_ENC_INDEPENDENT;
        rf_coder *coder =
            make_of(t, (rf_coder_shape){.n_in = 1, .in = {D}, .n_out = 1, .out = {e}});
        OK(rf_coder_init(coder, s, &sample));
        for (int i = 0; i < F; i++) {
            const float *row = floats(coder, RF_CODER_W_ENC) + i * D;
            double dot = 0.0;
            assert_true(fabs(norm(row, D) - 1.0) <= 1e-6);
            for (int j = 0; j < e; j++) {
                dot += (double)row[j] * (double)floats(coder, RF_CODER_W_DEC)[i * e + j];
            }
            assert_true(fabs(dot) < 0.999);
        }
        rf_coder_destroy(coder);
        rf_free(x);
    }
}

/* Entirely of data, each row is some token's direction from b_dec; with less, near one. */
static void rows_may_start_at_data_points(void **state)
{
    (void)state;
    enum { N = 30, F = 40, D = 8 };
    float *x = fixture_planted(16, N, D);
    rf_view sample = rf_view_2d(x, N, D);
    double least[2] = {1.0, 1.0};
    for (int round = 0; round < 2; round++) {
        rf_coder_settings t = fixture_settings("topk", F, 3);
        t.data_blend = round == 0 ? 1.0 : 0.8;
        rf_coder *coder = make_of(t, rf_coder_shape_of(D));
        OK(rf_coder_init(coder, s, &sample));
        for (int i = 0; i < F; i++) {
            double best = 0.0;
            for (int b = 0; b < N; b++) {
                float e[D];
                double dot = 0.0;
                for (int j = 0; j < D; j++) {
                    e[j] = x[b * D + j] - floats(coder, RF_CODER_B_DEC)[j];
                    dot += (double)e[j] * (double)floats(coder, RF_CODER_W_DEC)[i * D + j];
                }
                best = fmax(best, dot / norm(e, D));
            }
            least[round] = fmin(least[round], best);
        }
        rf_coder_destroy(coder);
    }
    assert_true(least[0] >= 1.0 - 1e-6);
    /* 0.2 of any direction turns 0.8 of another by asin(1/4) at most, whose cosine is 0.9682 */
    assert_true(least[1] < 1.0 - 1e-6 && least[1] >= 0.968);
    rf_free(x);
}

static void statistics_are_those_of_each_site(void **state)
{
    (void)state;
    enum { N = 64, D = 7 };
    float *x = fixture_planted(17, N, D);
    rf_view sample = rf_view_2d(x, N, D);
    for (int b = 0; b < N; b++) {
        for (int j = 0; j < D; j++) {
            x[b * D + j] = x[b * D + j] * (j < 3 ? 50.0f : 1.0f) + 3.0f;
        }
        x[b * D + 5] = 4.0f; /* constant */
    }
    for (int choice = RF_NORM_AVERAGE; choice <= RF_NORM_PER_DIMENSION; choice++) {
        rf_coder_settings t = fixture_settings("topk", 20, 3);
        t.normalise = choice;
        rf_coder *coder = make_of(t, (rf_coder_shape){.n_in = 2, .in = {3, 4}});
        OK(rf_coder_init(coder, s, &sample));
        const float *shift = floats(coder, RF_CODER_IN_SHIFT);
        const float *scale = floats(coder, RF_CODER_IN_SCALE);
        double site[2] = {0.0, 0.0};
        for (int b = 0; b < N; b++) {
            site[0] += norm(x + b * D, 3) / N;
            site[1] += norm(x + b * D + 3, 4) / N;
        }
        for (int j = 0; j < D; j++) {
            double mean = 0.0, square = 0.0;
            for (int b = 0; b < N; b++) {
                mean += (double)x[b * D + j] / N;
            }
            for (int b = 0; b < N; b++) {
                square += ((double)x[b * D + j] - mean) * ((double)x[b * D + j] - mean) / N;
            }
            bool average = choice == RF_NORM_AVERAGE;
            double want = average        ? sqrt(j < 3 ? 3.0 : 4.0) / site[j < 3 ? 0 : 1]
                          : square > 0.0 ? 1.0 / sqrt(square)
                                         : 1.0;
            assert_true(fabs((double)scale[j] / want - 1.0) <= 1e-5);
            assert_true(fabs((double)shift[j] - (average ? 0.0 : mean)) <= 1e-5 * fabs(mean));
        }
        rf_coder_destroy(coder);
    }
    rf_free(x);
}

/* V, b_dec and thresholds are of normalised rows; Prisma computes b_dec on raw ones. */
static void b_dec_is_computed_on_what_the_coder_sees(void **state)
{
    (void)state;
    enum { N = 100, D = 8 };
    float *x = fixture_planted(18, N, D);
    rf_view sample = rf_view_2d(x, N, D);
    for (int i = 0; i < N * D; i++) {
        x[i] = 40.0f * x[i] + (float)(i % D);
    }
    float seen[N * D];
    for (int b = 0; b < N; b++) {
        double mean = 0.0, square = 0.0;
        for (int j = 0; j < D; j++) {
            mean += (double)x[b * D + j] / D;
        }
        for (int j = 0; j < D; j++) {
            square += ((double)x[b * D + j] - mean) * ((double)x[b * D + j] - mean) / (D - 1);
        }
        for (int j = 0; j < D; j++) {
            seen[b * D + j] = (float)(((double)x[b * D + j] - mean) / (sqrt(square) + 1e-5));
        }
    }
    for (int compat = 0; compat < 2; compat++) {
        rf_coder_settings t = fixture_settings("topk", 20, 3);
        t.normalise = RF_NORM_LAYER;
        t.b_dec = RF_B_DEC_MEAN;
        t.prisma_compat = compat == 1;
        rf_coder *coder = make_of(t, rf_coder_shape_of(D));
        OK(rf_coder_init(coder, s, &sample));
        double mean[D], ignored[D], variance, other;
        OK(rf_sample_moments(seen, N, D, mean, &variance));
        assert_true(fabs((double)scalar(coder, RF_SCALAR_VARIANCE) / variance - 1.0) <= 1e-5);
        OK(rf_sample_moments(compat == 1 ? x : seen, N, D, ignored, &other));
        for (int j = 0; j < D; j++) {
            double err = (double)floats(coder, RF_CODER_B_DEC)[j] - ignored[j];
            assert_true(fabs(err) <= 1e-4); /* of values up to some tens, in fp32 */
        }
        rf_coder_destroy(coder);
    }
    rf_free(x);
}

static void a_transcoder_starts_from_its_target(void **state)
{
    (void)state;
    enum { N = 60, D = 5, E = 3 };
    float *x = fixture_planted(19, N, D + E), y[N * E], in[N * D];
    rf_view sample = rf_view_2d(x, N, D + E);
    for (int b = 0; b < N; b++) {
        memcpy(in + b * D, x + b * (D + E), sizeof(float) * D);
        memcpy(y + b * E, x + b * (D + E) + D, sizeof(float) * E);
    }
    rf_coder_settings t = fixture_settings("topk", 20, 3);
    t.w_enc = RF_W_ENC_INDEPENDENT;
    double start[3][E] = {{0}}, variance, square = 0.0; /* start[RF_B_DEC_ZEROS] stays 0 */
    OK(rf_geometric_median(y, N, E, start[RF_B_DEC_GEOMETRIC_MEDIAN]));
    OK(rf_sample_moments(y, N, E, start[RF_B_DEC_MEAN], &variance));
    for (int b = 0; b < N; b++) { /* nothing is subtracted from the input */
        square += norm(in + b * D, D) * norm(in + b * D, D) / N;
    }
    for (t.b_dec = RF_B_DEC_GEOMETRIC_MEDIAN; t.b_dec <= RF_B_DEC_ZEROS; t.b_dec++) {
        rf_coder *coder =
            make_of(t, (rf_coder_shape){.n_in = 1, .in = {D}, .n_out = 1, .out = {E}});
        OK(rf_coder_init(coder, s, &sample));
        for (int j = 0; j < E; j++) {
            assert_true(floats(coder, RF_CODER_B_DEC)[j] == (float)start[t.b_dec][j]);
        }
        assert_true(scalar(coder, RF_SCALAR_VARIANCE) == (float)variance);
        assert_true(fabs((double)scalar(coder, RF_SCALAR_RMS) / sqrt(square) - 1.0) <= 1e-6);
        rf_coder_destroy(coder);
    }
    rf_free(x);
}

static void archetypes_start_as_mixtures_of_data(void **state)
{
    (void)state;
    enum { N = 50, D = 6, F = 1200, P = 20 };
    float *x = fixture_planted(20, N, D);
    rf_view sample = rf_view_2d(x, N, D);
    rf_coder_settings t = fixture_settings("topk", F, 3);
    t.decoder = RF_DECODER_ARCHETYPAL;
    t.archetypal_points = P;
    rf_coder *coder = make_of(t, rf_coder_shape_of(D));
    OK(rf_coder_init(coder, s, &sample));
    const float *a = floats(coder, RF_CODER_ARCHETYPES), *c = floats(coder, RF_CODER_POINTS);
    const float *w = floats(coder, RF_CODER_W_DEC), *b_dec = floats(coder, RF_CODER_B_DEC);
    double scale = exp((double)floats(coder, RF_CODER_ARCHETYPE_SCALE)[0]), mean = 0.0;
    for (int i = 0; i < F; i++) {
        double sum = 0.0;
        for (int p = 0; p < P; p++) {
            assert_true(a[i * P + p] >= 0.0f);
            sum += (double)a[i * P + p];
        }
        assert_true(fabs(sum - 1.0) <= 1e-6);
        mean += norm(w + i * D, D) / F;
        for (int j = 0; j < D; j++) {
            double want = 0.0;
            for (int p = 0; p < P; p++) {
                want += scale * (double)a[i * P + p] * (double)c[p * D + j];
            }
            assert_true(fabs((double)w[i * D + j] - want) <= 1e-5); /* rows of norm about 1 */
        }
    }
    assert_true(fabs(mean - 1.0) <= 1e-5);
    for (int p = 0; p < P; p++) { /* a point is a token less b_dec */
        int n_same = 0;
        for (int b = 0; b < N; b++) {
            bool same = true;
            for (int j = 0; j < D; j++) {
                same = same && c[p * D + j] == x[b * D + j] - b_dec[j];
            }
            n_same += same;
        }
        assert_int_equal(n_same, 1);
    }
    assert_memory_equal(floats(coder, RF_CODER_W_ENC), w, sizeof(float) * F * D);
    sample = rf_view_2d(x, P - 1, D);
    assert_int_equal(rf_coder_init(coder, s, &sample), RF_ERR_INVALID_ARG);
    assert_non_null(strstr(rf_error_text(), "archetypal_points is 20 but the sample has 19"));
    rf_coder_destroy(coder);
    rf_free(x);
}

static void derive_adds_offsets_and_leaves_other_decoders_alone(void **state)
{
    (void)state;
    enum { N = 50, D = 6, F = 30, P = 4 };
    float *x = fixture_planted(21, N, D), before[F * D];
    rf_view sample = rf_view_2d(x, N, D);
    rf_coder_settings t = fixture_settings("topk", F, 3);
    rf_coder *unit = make_of(t, rf_coder_shape_of(D));
    t.decoder = RF_DECODER_ARCHETYPAL;
    t.archetypal_points = P;
    rf_coder *coder = make_of(t, rf_coder_shape_of(D));
    OK(rf_coder_init(coder, s, &sample));
    OK(rf_coder_init(unit, s, &sample));
    memcpy(before, floats(coder, RF_CODER_W_DEC), sizeof before);
    float *offsets = rf_coder_view(coder, RF_CODER_ARCHETYPE_OFFSETS).data;
    float *m = rf_coder_view(coder, RF_CODER_ARCHETYPE_SCALE).data, old = expf(*m);
    for (int i = 0; i < F * D; i++) {
        offsets[i] = 0.01f * (float)(i % 7);
    }
    *m += 1.0f;
    OK(rf_coder_derive(coder, s));
    for (int i = 0; i < F * D; i++) {
        double want = (double)expf(*m) * ((double)before[i] / (double)old + (double)offsets[i]);
        assert_true(fabs((double)floats(coder, RF_CODER_W_DEC)[i] - want) <= 1e-5);
    }
    memcpy(before, floats(unit, RF_CODER_W_DEC), sizeof before);
    OK(rf_coder_derive(unit, s));
    assert_memory_equal(before, floats(unit, RF_CODER_W_DEC), sizeof before);
    rf_coder_destroy(unit);
    rf_coder_destroy(coder);
    rf_free(x);
}

static void an_input_of_zeros_is_refused(void **state)
{
    (void)state;
    enum { N = 9, D = 4, E = 3 };
    float *x = fixture_normals(22, N * (D + E), 1.0f);
    rf_view sample = rf_view_2d(x, N, D + E);
    for (int normalise = RF_NORM_NONE; normalise <= RF_NORM_PER_DIMENSION; normalise++) {
        rf_coder_settings t = fixture_settings("topk", 20, 3);
        t.w_enc = RF_W_ENC_INDEPENDENT;
        t.normalise = normalise;
        for (int b = 0; b < N; b++) {
            memset(x + b * (D + E), 0, sizeof(float) * D);
        }
        rf_coder *coder =
            make_of(t, (rf_coder_shape){.n_in = 1, .in = {D}, .n_out = 1, .out = {E}});
        assert_int_equal(rf_coder_init(coder, s, &sample), RF_ERR_NUMERIC);
        rf_coder_destroy(coder);
    }
    rf_free(x);
}

static int start(void **state)
{
    (void)state;
    return rf_backend_cpu_create(2, &be) == RF_OK && rf_stream_create(be, &s) == RF_OK ? 0 : -1;
}

static int finish(void **state)
{
    (void)state;
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    return rf_alloc_live() == 0 ? 0 : -1; /* nothing is left behind, also after errors */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_coder_starts_tied_with_unit_rows_and_the_samples_variance),
        cmocka_unit_test(decoder_rows_depend_on_seed_and_latent_only),
        cmocka_unit_test(b_dec_starts_where_it_is_told),
        cmocka_unit_test(a_sample_without_variance_or_not_finite_is_refused),
        cmocka_unit_test(all_else_starts_at_zero),
        cmocka_unit_test(thresholds_scale_with_what_the_encoder_sees),
        cmocka_unit_test(rows_of_sites_share_a_norm_of_one),
        cmocka_unit_test(free_rows_start_with_their_norm),
        cmocka_unit_test(independent_encoders_are_unit_rows_of_their_own),
        cmocka_unit_test(rows_may_start_at_data_points),
        cmocka_unit_test(statistics_are_those_of_each_site),
        cmocka_unit_test(b_dec_is_computed_on_what_the_coder_sees),
        cmocka_unit_test(a_transcoder_starts_from_its_target),
        cmocka_unit_test(archetypes_start_as_mixtures_of_data),
        cmocka_unit_test(derive_adds_offsets_and_leaves_other_decoders_alone),
        cmocka_unit_test(an_input_of_zeros_is_refused),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
