/* Coders: table, settings, start values, codes and reconstructions. */
#include "coder/coder_fixture.h"

static rf_backend *be;
static rf_stream *s;

static rf_coder *make(const char *architecture, int64_t width, int64_t latents, int64_t k)
{
    rf_coder_settings settings = fixture_settings(architecture, latents, k);
    rf_coder *coder = NULL;
    OK(rf_coder_create(be, &settings, width, &coder));
    return coder;
}

/* ---- table and settings -------------------------------------------------------------------- */

static void every_architecture_can_be_chosen_by_its_name(void **state)
{
    (void)state;
    const rf_settings_table *t = &rf_coder_settings_table;
    const char *const *choices = NULL;
    int n = 0;
    for (int64_t i = 0; i < t->n_rows; i++) {
        if (strcmp(t->rows[i].key, "architecture") == 0) {
            choices = t->rows[i].choices;
        }
    }
    assert_non_null(choices);
    while (choices[n] != NULL) {
        assert_ptr_equal(rf_architecture_find(choices[n]), rf_architecture_at(n));
        assert_string_equal(rf_architecture_at(n)->name, choices[n]);
        n++;
    }
    assert_int_equal(n, rf_architecture_count());
    assert_null(rf_architecture_at(n));
    assert_null(rf_architecture_at(-1));
    assert_null(rf_architecture_find("mlp"));
}

static void settings_read_as_people_write_them(void **state)
{
    (void)state;
    static const char text[] = "name: a\ninput: blocks.8.hook_resid_post\ntokens: spatial\n"
                               "architecture: relu\nexpansion: 64\nl1: 0.01\n"
                               "dead_after_tokens: 1.5e6\nb_dec: mean\n";
    rf_coder_settings settings;
    rf_yaml *map = NULL;
    OK(rf_yaml_parse(text, (int64_t)strlen(text), "test", &map));
    OK(rf_settings_defaults(&rf_coder_settings_table, &settings));
    assert_int_equal(rf_coder_token_class(&settings), RF_TOKENS_ALL);
    OK(rf_settings_read(&rf_coder_settings_table, map, "coders", NULL, &settings, NULL));
    assert_int_equal(rf_coder_token_class(&settings), RF_TOKENS_PATCH);
    assert_string_equal(rf_architecture_at(settings.architecture)->name, "relu");
    assert_int_equal(rf_coder_settings_latents(&settings, 384), 64 * 384);
    assert_int_equal(settings.dead_after_tokens, 1500000);
    assert_int_equal(settings.b_dec, RF_B_DEC_MEAN);
    settings.latents = 100;
    assert_int_equal(rf_coder_settings_latents(&settings, 384), 100);
    rf_yaml_free(map);
}

static void token_classes_have_the_numbers_of_the_stream(void **state)
{
    (void)state;
    const rf_settings_table *t = &rf_coder_settings_table;
    for (int64_t i = 0; i < t->n_rows; i++) {
        for (int c = 0; strcmp(t->rows[i].key, "tokens") == 0 && t->rows[i].choices[c] != NULL;
             c++) {
            rf_token_class want;
            rf_coder_settings settings = {.tokens = c};
            OK(rf_token_class_parse(t->rows[i].choices[c], &want));
            assert_int_equal(rf_coder_token_class(&settings), want);
        }
    }
}

static void a_coder_that_means_nothing_is_refused(void **state)
{
    (void)state;
    rf_coder *coder = NULL;
    rf_coder_settings settings = fixture_settings("topk", 10, 11);
    assert_int_equal(rf_coder_create(be, &settings, 4, &coder), RF_ERR_INVALID_ARG);
    settings.k = 10;
    assert_int_equal(rf_coder_create(be, &settings, 0, &coder), RF_ERR_INVALID_ARG);
    settings.latents = INT64_C(1) << 31;
    assert_int_equal(rf_coder_create(be, &settings, 4, &coder), RF_ERR_INVALID_ARG);
    settings.latents = 10;
    settings.architecture = 77;
    assert_int_equal(rf_coder_create(be, &settings, 4, &coder), RF_ERR_INVALID_ARG);
    assert_null(coder);
}

static void the_table_covers_parameters_and_state(void **state)
{
    (void)state;
    static const char *const want[] = {
        "W_enc", "b_enc", "W_dec", "b_dec", "tokens_since_fired", "variance", "counters"};
    rf_coder *coder = make("topk", 6, 20, 3);
    assert_int_equal(rf_coder_n_tensors(coder), 7);
    for (int i = 0; i < 7; i++) {
        rf_coder_tensor t = rf_coder_tensor_at(coder, i);
        assert_string_equal(t.name, want[i]);
        assert_int_equal(t.kind == RF_TENSOR_PARAMETER, i < RF_CODER_N_PARAMETERS);
        assert_true((uintptr_t)t.view.data % 64 == 0);
    }
    rf_view w = rf_coder_view(coder, RF_CODER_W_DEC);
    assert_true(w.n_dims == 2 && w.shape[0] == 20 && w.shape[1] == 6);
    assert_int_equal(rf_coder_tensor_at(coder, RF_CODER_W_DEC).rule, RF_ROW_UNIT_NORM);
    rf_coder_destroy(coder);
    rf_coder_destroy(NULL);
}

static void state_survives_a_round_trip(void **state)
{
    (void)state;
    rf_coder *coder = make("relu", 6, 20, 3);
    rf_coder_state a, b;
    OK(rf_coder_get_state(coder, s, &a));
    assert_int_equal(a.counters[RF_COUNTER_DENSE], 1);
    a.variance = 2.5f;
    a.counters[RF_COUNTER_STEPS] = 77;
    OK(rf_coder_set_state(coder, s, &a));
    OK(rf_coder_get_state(coder, s, &b));
    assert_true(b.variance == 2.5f);
    assert_memory_equal(a.counters, b.counters, sizeof a.counters);
    rf_coder_destroy(coder);
}

/* ---- start values -------------------------------------------------------------------------- */

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
    assert_true(st.variance == (float)variance);
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
    rf_coder *other = NULL;
    settings.seed = 1;
    OK(rf_coder_create(be, &settings, D, &other));
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
        rf_coder *coder = NULL;
        settings.b_dec = choice;
        OK(rf_coder_create(be, &settings, D, &coder));
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

static double mean_distance(const float *x, int64_t n, int64_t d, const double *y)
{
    double total = 0.0;
    for (int64_t b = 0; b < n; b++) {
        double sum = 0.0;
        for (int64_t j = 0; j < d; j++) {
            sum += ((double)x[b * d + j] - y[j]) * ((double)x[b * d + j] - y[j]);
        }
        total += sqrt(sum);
    }
    return total / (double)n;
}

static void no_point_near_the_geometric_median_is_better(void **state)
{
    (void)state;
    enum { N = 300, D = 5 };
    float *x = fixture_planted(4, N, D);
    double y[D], best;
    OK(rf_geometric_median(x, N, D, y));
    best = mean_distance(x, N, D, y);
    for (int j = 0; j < 2 * D; j++) {
        double z[D];
        memcpy(z, y, sizeof z);
        z[j / 2] += j % 2 == 0 ? 1e-3 : -1e-3;
        assert_true(mean_distance(x, N, D, z) > best);
    }
    rf_free(x);
}

static void the_geometric_median_may_be_a_data_point(void **state)
{
    (void)state;
    /* the mean (where the iteration starts) is the first point, which most others coincide with */
    static const float heavy[] = {0, 0, 0, 0, 0, 0, 5, 0, -5, 0};
    static const float line[] = {0, 1, 2, 3, 100}; /* in one dimension: the median */
    double y[2];
    OK(rf_geometric_median(heavy, 5, 2, y));
    assert_true(fabs(y[0]) <= 1e-6 && fabs(y[1]) <= 1e-6);
    OK(rf_geometric_median(line, 5, 1, y));
    assert_true(fabs(y[0] - 2.0) <= 1e-2); /* converges slowly next to a data point */
    OK(rf_geometric_median(line, 1, 1, y));
    assert_true(y[0] == 0.0);
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

/* ---- use ----------------------------------------------------------------------------------- */

/* Naive codes of one token in double: relu, or its k largest. */
static void naive_codes(const rf_coder *coder, const float *x, double *z)
{
    int64_t d = rf_coder_width(coder), f = rf_coder_n_latents(coder), k = rf_coder_k(coder);
    const float *w = rf_coder_view(coder, RF_CODER_W_ENC).data;
    const float *b = rf_coder_view(coder, RF_CODER_B_ENC).data;
    const float *b_dec = rf_coder_view(coder, RF_CODER_B_DEC).data;
    for (int64_t i = 0; i < f; i++) {
        z[i] = (double)b[i];
        for (int64_t j = 0; j < d; j++) {
            z[i] += ((double)x[j] - (double)b_dec[j]) * (double)w[i * d + j];
        }
    }
    for (int64_t i = 0; i < f; i++) {
        z[i] = fmax(z[i], 0.0);
    }
    double threshold = 0.0;
    for (int64_t i = 0; i < f; i++) {
        int64_t n_larger = 0;
        for (int64_t j = 0; j < f; j++) {
            n_larger += z[j] > z[i];
        }
        threshold = n_larger == k ? fmax(threshold, z[i]) : threshold;
    }
    for (int64_t i = 0; k < f && i < f; i++) {
        z[i] = z[i] > threshold ? z[i] : 0.0;
    }
}

static rf_coder *started(const char *architecture, float *x, int64_t n, int64_t d, int64_t f)
{
    rf_view sample = rf_view_2d(x, n, d);
    rf_coder *coder = make(architecture, d, f, 5);
    OK(rf_coder_init(coder, s, &sample));
    return coder;
}

static void reconstructions_equal_a_naive_model(void **state)
{
    (void)state;
    enum { N = 1100, D = 12, F = 90 };
    static const char *const architectures[] = {"topk", "relu", "relu"};
    float *x = fixture_planted(5, N, D), *x_hat = rf_calloc(N * D, sizeof *x_hat);
    uint8_t valid[N];
    int64_t n_active[N];
    for (int b = 0; b < N; b++) {
        valid[b] = b % 100 != 7;
    }
    for (int a = 0; a < 3; a++) {
        rf_coder *coder = started(architectures[a], x, N, D, F);
        rf_view in = rf_view_2d(x, N, D), out = rf_view_2d(x_hat, N, D);
        const float *w_dec = rf_coder_view(coder, RF_CODER_W_DEC).data;
        const float *b_dec = rf_coder_view(coder, RF_CODER_B_DEC).data;
        float *b_enc = rf_coder_view(coder, RF_CODER_B_ENC).data;
        for (int i = 0; a == 2 && i < F; i++) {
            b_enc[i] = -1.0f; /* sparse; before, half of it is active: the dense way */
        }
        OK(rf_coder_reconstruct(coder, s, &in, valid, &out, n_active));
        for (int b = 0; b < N; b++) {
            double z[F], err = 0.0;
            int64_t count = 0;
            naive_codes(coder, x + b * D, z);
            for (int i = 0; i < F; i++) {
                z[i] = valid[b] ? z[i] : 0.0;
                count += z[i] > 0.0;
            }
            for (int j = 0; j < D; j++) {
                double y = (double)b_dec[j];
                for (int i = 0; i < F; i++) {
                    y += z[i] * (double)w_dec[i * D + j];
                }
                err = fmax(err, fabs(y - (double)x_hat[b * D + j]));
            }
            assert_true(err <= 1e-4); /* fp32 sums of up to 90 terms of size 3 */
            assert_int_equal(n_active[b], count);
        }
        rf_coder_destroy(coder);
    }
    rf_free(x_hat);
    rf_free(x);
}

static void encode_gives_the_codes_that_reconstruct_decodes(void **state)
{
    (void)state;
    enum { N = 60, D = 12, F = 90 };
    static const char *const architectures[] = {"topk", "relu"};
    float *x = fixture_planted(6, N, D), *centred = rf_calloc(N * D, sizeof *centred);
    float *a_hat = rf_calloc(N * D, sizeof *a_hat), *b_hat = rf_calloc(N * D, sizeof *b_hat);
    for (int a = 0; a < 2; a++) {
        rf_coder *coder = started(architectures[a], x, N, D, F);
        rf_codes codes;
        rf_view in = rf_view_2d(x, N, D), c = rf_view_2d(centred, N, D);
        rf_view out = rf_view_2d(a_hat, N, D), other = rf_view_2d(b_hat, N, D);
        OK(rf_codes_create(be, N, N * rf_coder_k(coder), &codes));
        assert_int_equal(rf_coder_rows_for(coder, codes.capacity), N);
        OK(rf_coder_encode(coder, s, &in, NULL, &c, &codes));
        OK(rf_decode(s, &(rf_decode_args){.codes = &codes,
                                          .w_dec = rf_coder_view(coder, RF_CODER_W_DEC),
                                          .bias = rf_coder_view(coder, RF_CODER_B_DEC),
                                          .out = out}));
        OK(rf_coder_reconstruct(coder, s, &in, NULL, &other, NULL));
        assert_true(fixture_distance(a_hat, b_hat, N * D) <= (a == 0 ? 0.0 : 1e-6));
        codes.capacity--;
        assert_int_equal(rf_coder_encode(coder, s, &in, NULL, &c, &codes), RF_ERR_INVALID_ARG);
        codes.capacity++;
        x[5] = NAN;
        assert_int_equal(rf_coder_encode(coder, s, &in, NULL, &c, &codes), RF_ERR_NUMERIC);
        x[5] = 0.5f;
        rf_codes_destroy(be, &codes);
        rf_coder_destroy(coder);
    }
    rf_free(b_hat);
    rf_free(a_hat);
    rf_free(centred);
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
        cmocka_unit_test(every_architecture_can_be_chosen_by_its_name),
        cmocka_unit_test(settings_read_as_people_write_them),
        cmocka_unit_test(token_classes_have_the_numbers_of_the_stream),
        cmocka_unit_test(a_coder_that_means_nothing_is_refused),
        cmocka_unit_test(the_table_covers_parameters_and_state),
        cmocka_unit_test(state_survives_a_round_trip),
        cmocka_unit_test(a_coder_starts_tied_with_unit_rows_and_the_samples_variance),
        cmocka_unit_test(decoder_rows_depend_on_seed_and_latent_only),
        cmocka_unit_test(b_dec_starts_where_it_is_told),
        cmocka_unit_test(no_point_near_the_geometric_median_is_better),
        cmocka_unit_test(the_geometric_median_may_be_a_data_point),
        cmocka_unit_test(a_sample_without_variance_or_not_finite_is_refused),
        cmocka_unit_test(reconstructions_equal_a_naive_model),
        cmocka_unit_test(encode_gives_the_codes_that_reconstruct_decodes),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
