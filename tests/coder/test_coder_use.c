/* Codes and reconstructions against a model in plain loops of doubles. */
#include "coder/coder_fixture.h"

static rf_backend *be;
static rf_stream *s;

enum { MAX_D = 24, MAX_F = 420 };

typedef struct use_case {
    const char *architecture, *settings; /* YAML over k = 5 */
    rf_coder_shape shape;
    int64_t latents;
    float b_enc; /* mean of b_enc: below 0 codes are few */
} use_case;

#define ONE                                                                                        \
    {                                                                                              \
        .n_in = 1, .in = { 12 }                                                                    \
    }
#define SITES                                                                                      \
    {                                                                                              \
        .n_in = 2, .in = { 7, 5 }                                                                  \
    }
#define ACROSS                                                                                     \
    {                                                                                              \
        .n_in = 1, .in = {12}, .n_out = 2, .out = { 3, 5 }                                         \
    }
#define BESIDE                                                                                     \
    {                                                                                              \
        .n_in = 1, .in = {12}, .n_out = 1, .out = { 12 }                                           \
    }

static float *param(const rf_coder *coder, int idx)
{
    return rf_coder_view(coder, idx).data;
}

/* Values for all that starts at zero, so that nothing hides. */
static void stir(rf_coder *coder, float b_enc)
{
    static const int small[] = {RF_CODER_B_ENC, RF_CODER_GAIN, RF_CODER_B_MAG, RF_CODER_W_SKIP,
                                RF_CODER_LOG_THRESHOLD};
    rf_coder_state st;
    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++) {
        rf_view v = rf_coder_view(coder, small[i]);
        int64_t n = rf_view_n_elems(&v);
        float *noise = fixture_normals(70 + (uint64_t)i, n, 0.3f), *to = v.data;
        for (int64_t j = 0; j < n; j++) {
            to[j] = noise[j] + (small[i] == RF_CODER_B_ENC           ? b_enc
                                : small[i] == RF_CODER_LOG_THRESHOLD ? -1.0f
                                                                     : 0.0f);
        }
        rf_free(noise);
    }
    OK(rf_coder_get_state(coder, s, &st));
    st.scalars[RF_SCALAR_THRESHOLD] = 0.2f; /* a mean of 0.4 */
    st.scalars[RF_SCALAR_THRESHOLD_MASS] = 0.5f;
    OK(rf_coder_set_state(coder, s, &st));
}

static rf_coder *started(const use_case *c, float *x, int64_t n)
{
    rf_coder_settings settings = fixture_settings(c->architecture, c->latents, 5);
    rf_coder *coder = NULL;
    rf_yaml *map = NULL;
    OK(rf_yaml_parse(c->settings, (int64_t)strlen(c->settings), "test", &map));
    OK(rf_settings_read(&rf_coder_settings_table, map, "coder", NULL, &settings, NULL));
    rf_yaml_free(map);
    OK(rf_coder_create(be, &settings, &c->shape, &coder));
    int64_t columns =
        rf_coder_width(coder) + (rf_coder_is_transcoder(coder) ? rf_coder_out_width(coder) : 0);
    rf_view sample = rf_view_2d(x, n, columns);
    OK(rf_coder_init(coder, s, &sample));
    stir(coder, c->b_enc);
    return coder;
}

/* ---- the naive model --------------------------------------------------------------------------
 */

typedef struct naive {
    double seen[MAX_D], z[MAX_F], y[MAX_D];
    double shift[RF_MAX_SITES], scale[RF_MAX_SITES]; /* per token */
} naive;

static void naive_see(const rf_coder *coder, const float *x, naive *out)
{
    rf_segments sites = rf_coder_in_segments(coder);
    int norm = rf_coder_get_settings(coder)->normalise;
    int64_t first = 0;
    for (int l = 0; l < sites.n; l++) {
        int64_t n = sites.end[l] - first;
        double mean = 0.0, square = 0.0, raw = 0.0;
        for (int64_t j = first; j < sites.end[l]; j++) {
            mean += (double)x[j] / (double)n;
            raw += (double)x[j] * (double)x[j];
        }
        for (int64_t j = first; j < sites.end[l]; j++) {
            square += ((double)x[j] - mean) * ((double)x[j] - mean);
        }
        out->shift[l] = norm == RF_NORM_LAYER ? mean : 0.0;
        out->scale[l] = norm == RF_NORM_LAYER      ? 1.0 / (sqrt(square / (double)(n - 1)) + 1e-5)
                        : norm == RF_NORM_CONSTANT ? sqrt((double)n) / sqrt(raw)
                                                   : 1.0;
        for (int64_t j = first; j < sites.end[l]; j++) {
            double v = ((double)x[j] - out->shift[l]) * out->scale[l];
            if (rf_coder_has(coder, RF_CODER_IN_SHIFT)) {
                v = ((double)x[j] - (double)param(coder, RF_CODER_IN_SHIFT)[j]) *
                    (double)param(coder, RF_CODER_IN_SCALE)[j];
            }
            out->seen[j] =
                v - (rf_coder_subtracts(coder) ? (double)param(coder, RF_CODER_B_DEC)[j] : 0.0);
        }
        first = sites.end[l];
    }
}

/* Keep the k largest. */
static void naive_topk(double *z, int64_t f, int64_t k)
{
    double cut = 0.0;
    for (int64_t i = 0; i < f; i++) {
        int64_t n_larger = 0;
        for (int64_t j = 0; j < f; j++) {
            n_larger += z[j] > z[i];
        }
        cut = n_larger == k ? fmax(cut, z[i]) : cut;
    }
    for (int64_t i = 0; i < f; i++) {
        z[i] = z[i] > cut ? z[i] : 0.0;
    }
}

static void naive_codes(const rf_coder *coder, int64_t k, naive *out)
{
    const rf_architecture *a = rf_coder_architecture(coder);
    rf_select_rule rule = a->rule(rf_coder_get_settings(coder));
    int64_t d = rf_coder_width(coder), f = rf_coder_n_latents(coder);
    for (int64_t i = 0; i < f; i++) {
        double b = (double)param(coder, RF_CODER_B_ENC)[i], h = b;
        for (int64_t j = 0; j < d; j++) {
            h += out->seen[j] * (double)param(coder, RF_CODER_W_ENC)[i * d + j];
        }
        double above = a->act == RF_CODER_JUMP
                           ? exp((double)param(coder, RF_CODER_LOG_THRESHOLD)[i])
                       : rule == RF_SELECT_BATCH_TOPK ? 0.4 /* as stir() says */
                                                      : 0.0;
        out->z[i] = h > above ? h : 0.0;
        if (a->act == RF_CODER_GATED && h > 0.0) {
            out->z[i] = fmax(0.0, exp((double)param(coder, RF_CODER_GAIN)[i]) * (h - b) +
                                      (double)param(coder, RF_CODER_B_MAG)[i]);
        }
    }
    if (rule == RF_SELECT_TOPK && k < f) {
        naive_topk(out->z, f, k);
    }
}

static void naive_decode(const rf_coder *coder, naive *out)
{
    rf_segments sites = rf_coder_out_segments(coder);
    bool per_token = !rf_coder_is_transcoder(coder);
    int64_t d = rf_coder_width(coder), e = rf_coder_out_width(coder);
    int shift = rf_coder_is_transcoder(coder) ? RF_CODER_OUT_SHIFT : RF_CODER_IN_SHIFT;
    int scale = rf_coder_is_transcoder(coder) ? RF_CODER_OUT_SCALE : RF_CODER_IN_SCALE;
    for (int64_t j = 0, l = 0; j < e; j++) {
        double v = (double)param(coder, RF_CODER_B_DEC)[j];
        l += j >= sites.end[l];
        for (int64_t i = 0; i < rf_coder_n_latents(coder); i++) {
            v += out->z[i] * (double)param(coder, RF_CODER_W_DEC)[i * e + j];
        }
        for (int64_t i = 0; rf_coder_has(coder, RF_CODER_W_SKIP) && i < d; i++) {
            v += (double)param(coder, RF_CODER_W_SKIP)[j * d + i] * out->seen[i];
        }
        if (rf_coder_has(coder, shift)) {
            v = v / (double)param(coder, scale)[j] + (double)param(coder, shift)[j];
        } else if (per_token) {
            v = v / out->scale[l] + out->shift[l];
        }
        out->y[j] = v;
    }
}

/* ---- reconstructions --------------------------------------------------------------------------
 */

static float *input_rows(const use_case *c, int64_t n, int64_t *columns)
{
    *columns = 0;
    for (int i = 0; i < c->shape.n_in; i++) {
        *columns += c->shape.in[i];
    }
    for (int i = 0; i < c->shape.n_out; i++) {
        *columns += c->shape.out[i];
    }
    return fixture_planted(5, n, *columns);
}

/* The first columns of rows of `from` columns. */
static float *take_columns(const float *x, int64_t n, int64_t from, int64_t columns)
{
    float *out = rf_calloc(n * columns, sizeof *out);
    for (int64_t b = 0; b < n; b++) {
        memcpy(out + b * columns, x + b * from, sizeof(float) * (size_t)columns);
    }
    return out;
}

static void assert_row(const rf_coder *coder, const use_case *c, const naive *want,
                       const float *y_hat, int64_t n_active, int64_t b)
{
    int64_t n = 0;
    double worst = 0.0, size = 0.0;
    for (int64_t i = 0; i < rf_coder_n_latents(coder); i++) {
        n += want->z[i] > 0.0;
    }
    for (int64_t j = 0; j < rf_coder_out_width(coder); j++) {
        worst = fmax(worst, fabs((double)y_hat[j] - want->y[j]));
        size = fmax(size, fabs(want->y[j]));
    }
    /* sums of up to some 200 terms of about 1 in fp32 */
    if (n_active != n || !(worst <= 2e-5 * (1.0 + size))) {
        fail_msg("%s {%s} row %d: %d active, expected %d; off by %g of %g", c->architecture,
                 c->settings, (int)b, (int)n_active, (int)n, worst, size);
    }
}

static void assert_case(const use_case *c, int64_t n)
{
    int64_t columns, *n_active = rf_calloc(n, sizeof *n_active);
    int64_t n_sample = rf_max_i64(n, 30); /* one token has no variance */
    float *rows = input_rows(c, n_sample, &columns);
    rf_coder *coder = started(c, rows, n_sample);
    int64_t d = rf_coder_width(coder), e = rf_coder_out_width(coder);
    float *x = take_columns(rows, n, columns, d), *y_hat = rf_calloc(n * e, sizeof *y_hat);
    uint8_t *valid = rf_calloc(n, 1);
    naive *want = rf_calloc(1, sizeof *want);
    rf_view in = rf_view_2d(x, n, d), out = rf_view_2d(y_hat, n, e);
    for (int64_t b = 0; b < n; b++) {
        valid[b] = b % 50 != 7;
        x[b * d] = valid[b] == 0 ? NAN : x[b * d]; /* nobody looks */
    }
    OK(rf_coder_reconstruct(coder, s, &in, valid, NULL, &out, n_active));
    for (int64_t b = 0; b < n; b++) {
        *want = (naive){0};
        for (int l = 0; l < RF_MAX_SITES; l++) {
            want->scale[l] = 1.0;
        }
        if (valid[b] != 0) {
            naive_see(coder, x + b * d, want);
            naive_codes(coder, rf_coder_k(coder), want);
        }
        naive_decode(coder, want); /* of rows that are not valid what no code decodes to */
        assert_row(coder, c, want, y_hat + b * e, n_active[b], b);
    }
    rf_free(want);
    rf_free(valid);
    rf_free(y_hat);
    rf_free(x);
    rf_free(rows);
    rf_free(n_active);
    rf_coder_destroy(coder);
}

static void each_architecture_reconstructs_as_the_naive_model(void **state)
{
    (void)state;
    static const use_case cases[] = {
        {"topk", "{}", ONE, 90, 0.0f},
        {"multi_topk", "{}", ONE, 90, 0.0f},
        {"batch_topk", "{}", ONE, 90, -0.5f},
        {"matryoshka", "{}", ONE, 90, -0.5f},
        {"matryoshka", "selection: topk", ONE, 90, 0.0f},
        {"relu", "{}", ONE, 90, -1.0f},
        {"p_anneal", "{}", ONE, 90, -1.0f},
        {"jumprelu", "{}", ONE, 90, -0.5f},
        {"gated", "{}", ONE, 90, -0.5f},
        {"topk", "k: 90", ONE, 90, 0.0f},
        {"topk", "{}", {.n_in = 1, .in = {2}}, 7, 0.0f},
        {"topk", "decoder: archetypal\narchetypal_points: 11", ONE, 90, 0.0f},
        {"relu", "decoder: free", ONE, 33, -0.1f},
        {"topk", "subtract: no", ONE, 90, 0.0f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_case(&cases[i], 120);
    }
    assert_case(&cases[0], 1100); /* more than one micro-batch */
    assert_case(&cases[8], 1100);
    assert_case(&cases[0], 1);
}

/* Of 400 latents about 200 are active: more than there is room for. */
static void codes_that_are_not_sparse_go_the_dense_way(void **state)
{
    (void)state;
    static const use_case cases[] = {
        {"relu", "{}", ONE, 400, 0.0f},
        {"jumprelu", "normalise: layer", ONE, 400, 0.5f},
        {"gated", "{}", SITES, 400, 0.0f},
        {"relu", "skip: true\nnormalise: per_dimension", BESIDE, 400, 0.0f},
        {"batch_topk", "{}", ONE, 400, 0.5f}, /* exact: fewer rows at a time */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_case(&cases[i], 150);
    }
}

static void every_normalisation_is_undone_for_every_shape(void **state)
{
    (void)state;
    static const char *const norms[] = {"none", "layer", "constant", "average", "per_dimension"};
    char text[100];
    use_case cases[] = {
        {"topk", text, ONE, 60, 0.0f},      {"topk", text, SITES, 60, 0.0f},
        {"relu", text, SITES, 60, -0.5f},   {"topk", text, ACROSS, 60, 0.0f},
        {"gated", text, ACROSS, 60, -0.5f}, {"topk", text, BESIDE, 60, 0.0f},
    };
    for (int i = 0; i < 5; i++) {
        for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
            bool skips = c == 5; /* the last */
            snprintf(text, sizeof text, "normalise: %s\nw_enc: independent%s", norms[i],
                     skips ? "\nskip: true" : "");
            assert_case(&cases[c], 60);
        }
    }
}

/* Rows of the identity and of its opposite reconstruct anything: what comes back is the token.
 * Small ones too: what is added to their deviation before they are divided by it is 1 % of it, and
 * the way back must know. */
static void a_perfect_coder_gives_tokens_back_whatever_the_normalisation(void **state)
{
    (void)state;
    enum { N = 70, D = 12, F = 2 * D };
    static const char *const norms[] = {"none", "layer", "constant", "average", "per_dimension"};
    for (int i = 0; i < 10; i++) {
        char text[100];
        use_case c = {"relu", text, SITES, F, 0.0f};
        const float unit = i < 5 ? 20.0f : 1e-3f;
        float *x = fixture_planted(6, N, D), y_hat[N * D];
        snprintf(text, sizeof text, "normalise: %s\nsubtract: yes", norms[i % 5]);
        for (int j = 0; j < N * D; j++) {
            x[j] = unit * (x[j] + 0.05f * (float)(j % D));
        }
        rf_coder *coder = started(&c, x, N);
        memset(param(coder, RF_CODER_B_ENC), 0, sizeof(float) * F);
        for (int f = 0; f < F; f++) {
            for (int j = 0; j < D; j++) {
                float v = f % D != j ? 0.0f : f < D ? 1.0f : -1.0f;
                param(coder, RF_CODER_W_ENC)[f * D + j] = v;
                param(coder, RF_CODER_W_DEC)[f * D + j] = v;
            }
        }
        rf_view in = rf_view_2d(x, N, D), out = rf_view_2d(y_hat, N, D);
        OK(rf_coder_reconstruct(coder, s, &in, NULL, NULL, &out, NULL));
        for (int j = 0; j < N * D; j++) { /* a few roundings of values up to 2.5 units */
            assert_true(fabs((double)y_hat[j] - (double)x[j]) <= 2.5e-6 * (double)unit);
        }
        rf_coder_destroy(coder);
        rf_free(x);
    }
}

/* ---- k by class -------------------------------------------------------------------------------
 */

static void tokens_take_the_k_of_their_class(void **state)
{
    (void)state;
    enum { N = 1030, D = 12 };
    const use_case c = {"topk", "k: {cls: 9, register: 1, patch: 4}", ONE, 200, 0.5f};
    float *x = fixture_planted(7, N, D), *y_hat = rf_calloc(N * D, sizeof *y_hat);
    uint8_t classes[N];
    int64_t n_active[N];
    rf_coder *coder = started(&c, x, N);
    rf_view in = rf_view_2d(x, N, D), out = rf_view_2d(y_hat, N, D);
    for (int b = 0; b < N; b++) {
        classes[b] = (uint8_t)(b % 10 == 0   ? RF_TOKENS_CLS
                               : b % 10 == 1 ? RF_TOKENS_REGISTER
                                             : RF_TOKENS_PATCH);
    }
    OK(rf_coder_reconstruct(coder, s, &in, NULL, classes, &out, n_active));
    for (int b = 0; b < N; b++) { /* b_enc is high: there are always enough */
        assert_int_equal(n_active[b], b % 10 == 0 ? 9 : b % 10 == 1 ? 1 : 4);
    }
    OK(rf_coder_reconstruct(coder, s, &in, NULL, NULL, &out, n_active));
    for (int b = 0; b < N; b++) { /* classes are not known: the largest */
        assert_int_equal(n_active[b], 9);
    }
    assert_int_equal(rf_coder_k(coder), 9);
    assert_int_equal(rf_coder_rows_for(coder, 90), 10);
    rf_coder_destroy(coder);
    rf_free(y_hat);
    rf_free(x);
}

static void a_coder_of_one_class_has_its_k(void **state)
{
    (void)state;
    enum { N = 40, D = 12 };
    const use_case c = {"topk", "tokens: patch\nk: {cls: 9, patch: 4}", ONE, 30, 0.5f};
    const use_case few = {"topk", "k: {any: 2, cls: 9}", ONE, 9, 0.5f};
    float *x = fixture_planted(8, N, D), y_hat[N * D];
    rf_view in = rf_view_2d(x, N, D), out = rf_view_2d(y_hat, N, D);
    rf_coder *coder = started(&c, x, N), *small = started(&few, x, N);
    int64_t n_active[N], k[RF_MAX_ROW_CLASSES];
    OK(rf_coder_reconstruct(coder, s, &in, NULL, NULL, &out, n_active));
    for (int b = 0; b < N; b++) {
        assert_int_equal(n_active[b], 4);
    }
    assert_true(rf_coder_has_class_k(small) && !rf_coder_has_class_k(coder));
    rf_coder_class_k(small, 1.0, k);
    assert_true(k[RF_TOKENS_CLS] == 9 && k[RF_TOKENS_REGISTER] == 2 && k[RF_TOKENS_ALL] == 9);
    rf_coder_class_k(small, 0.3, k); /* never none */
    assert_true(k[RF_TOKENS_CLS] == 3 && k[RF_TOKENS_REGISTER] == 1);
    rf_coder_destroy(small);
    rf_coder_destroy(coder);
    rf_free(x);
}

/* ---- see, encode, decode ----------------------------------------------------------------------
 */

typedef struct parts {
    rf_coder_rows rows;
    rf_codes codes;
    float *seen, *row_shift, *row_scale;
} parts;

static parts make_parts(const rf_coder *coder, float *x, int64_t n, int64_t capacity)
{
    parts p = {.seen = rf_calloc(n * rf_coder_width(coder), sizeof(float)),
               .row_shift = rf_calloc(n * 2, sizeof(float)),
               .row_scale = rf_calloc(n * 2, sizeof(float))};
    p.rows =
        (rf_coder_rows){.x = rf_view_2d(x, n, rf_coder_width(coder)),
                        .seen = rf_view_2d(p.seen, n, rf_coder_width(coder)),
                        .row_shift = rf_view_2d(p.row_shift, n, rf_coder_get_shape(coder)->n_in),
                        .row_scale = rf_view_2d(p.row_scale, n, rf_coder_get_shape(coder)->n_in)};
    OK(rf_codes_create(be, n, capacity, &p.codes));
    return p;
}

static void free_parts(parts *p)
{
    rf_codes_destroy(be, &p->codes);
    rf_free(p->row_scale);
    rf_free(p->row_shift);
    rf_free(p->seen);
}

static void encode_gives_the_codes_that_reconstruct_decodes(void **state)
{
    (void)state;
    enum { N = 60, D = 12, F = 90 };
    static const use_case cases[] = {
        {"topk", "{}", ONE, F, 0.0f},
        {"topk", "normalise: layer", SITES, F, 0.0f},
        {"batch_topk", "normalise: average", ONE, F, -0.5f},
        {"relu", "skip: true", BESIDE, F, -0.5f},
        {"jumprelu", "{}", ONE, F, -0.5f},
        {"gated", "{}", ONE, F, -0.5f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t columns;
        float *sample = input_rows(&cases[i], N, &columns);
        float a_hat[N * D], b_hat[N * D], *x = take_columns(sample, N, columns, D);
        rf_coder *coder = started(&cases[i], sample, N);
        parts p = make_parts(coder, x, N, N * F);
        rf_view a = rf_view_2d(a_hat, N, D), b = rf_view_2d(b_hat, N, D);
        OK(rf_coder_see(coder, s, &p.rows));
        OK(rf_coder_encode(coder, s, &p.rows, &p.codes));
        assert_int_equal(p.codes.n_rows, N);
        for (int64_t e = 0; e < p.codes.row_start[N]; e++) {
            assert_true(p.codes.value[e] > 0.0f);
        }
        OK(rf_coder_decode(coder, s, &p.rows, &p.codes, &a));
        OK(rf_coder_reconstruct(coder, s, &p.rows.x, NULL, NULL, &b, NULL));
        assert_memory_equal(a_hat, b_hat, sizeof a_hat); /* the same operations on the same rows */
        free_parts(&p);
        rf_coder_destroy(coder);
        rf_free(x);
        rf_free(sample);
    }
}

/* docs/regressions.md: others keep the statistics of the last encode in the coder. */
static void norms_belong_to_the_rows_that_were_seen(void **state)
{
    (void)state;
    enum { N = 20, D = 12, F = 90 };
    static const use_case layer = {"topk", "normalise: layer", ONE, F, 0.0f};
    float *x = fixture_planted(11, N, D), *other = fixture_planted(12, N, D);
    float alone[N * D], between[N * D];
    rf_coder *coder = started(&layer, x, N);
    parts p = make_parts(coder, x, N, N * F), q = make_parts(coder, other, N, N * F);
    rf_view a = rf_view_2d(alone, N, D), b = rf_view_2d(between, N, D);
    for (int j = 0; j < N * D; j++) {
        other[j] = 7.0f * other[j] + 3.0f;
    }
    OK(rf_coder_see(coder, s, &p.rows));
    OK(rf_coder_encode(coder, s, &p.rows, &p.codes));
    OK(rf_coder_decode(coder, s, &p.rows, &p.codes, &a));
    OK(rf_coder_see(coder, s, &q.rows));
    OK(rf_coder_encode(coder, s, &q.rows, &q.codes));
    OK(rf_coder_decode(coder, s, &p.rows, &p.codes, &b));
    assert_memory_equal(alone, between, sizeof alone);
    free_parts(&q);
    free_parts(&p);
    rf_coder_destroy(coder);
    rf_free(other);
    rf_free(x);
}

static void codes_of_too_little_room_and_bad_tokens_are_refused(void **state)
{
    (void)state;
    enum { N = 20, D = 12, F = 90 };
    static const use_case cases[] = {{"topk", "{}", ONE, F, 0.0f},
                                     {"batch_topk", "{}", ONE, F, 0.0f},
                                     {"relu", "{}", ONE, F, 0.0f}};
    for (int i = 0; i < 3; i++) {
        float *x = fixture_planted(9, N, D), y_hat[N * D];
        uint8_t valid[N];
        rf_coder *coder = started(&cases[i], x, N);
        int64_t per_row = i == 0 ? 5 : F; /* a threshold bounds nothing */
        rf_view in = rf_view_2d(x, N, D), out = rf_view_2d(y_hat, N, D);
        parts p = make_parts(coder, x, N, N * per_row);
        memset(valid, 1, sizeof valid);
        assert_int_equal(rf_coder_rows_for(coder, N * per_row), N);
        assert_int_equal(rf_coder_rows_for(coder, N * per_row - 1), N - 1);
        OK(rf_coder_see(coder, s, &p.rows));
        OK(rf_coder_encode(coder, s, &p.rows, &p.codes));
        p.codes.capacity--;
        assert_int_equal(rf_coder_encode(coder, s, &p.rows, &p.codes), RF_ERR_INVALID_ARG);
        p.codes.capacity++;
        x[5] = NAN;
        OK(rf_coder_see(coder, s, &p.rows));
        assert_int_equal(rf_coder_encode(coder, s, &p.rows, &p.codes), RF_ERR_NUMERIC);
        assert_int_equal(rf_coder_reconstruct(coder, s, &in, NULL, NULL, &out, NULL),
                         RF_ERR_NUMERIC);
        valid[0] = 0;
        OK(rf_coder_reconstruct(coder, s, &in, valid, NULL, &out, NULL));
        in = rf_view_2d(x, N, D - 1);
        assert_int_equal(rf_coder_reconstruct(coder, s, &in, NULL, NULL, &out, NULL),
                         RF_ERR_INVALID_ARG);
        free_parts(&p);
        rf_coder_destroy(coder);
        rf_free(x);
    }
}

static void without_a_threshold_yet_batch_topk_keeps_all_positive(void **state)
{
    (void)state;
    enum { N = 30, D = 12, F = 40 };
    const use_case as_batch = {"batch_topk", "{}", ONE, F, 0.0f};
    const use_case as_relu = {"relu", "{}", ONE, F, 0.0f};
    float *x = fixture_planted(10, N, D), y_hat[N * D];
    rf_coder *batch = started(&as_batch, x, N), *relu = started(&as_relu, x, N);
    rf_view in = rf_view_2d(x, N, D), out = rf_view_2d(y_hat, N, D);
    int64_t n_active[2][N];
    rf_coder_state st;
    OK(rf_coder_get_state(batch, s, &st));
    st.scalars[RF_SCALAR_THRESHOLD] = 0.0f;
    st.scalars[RF_SCALAR_THRESHOLD_MASS] = 0.0f;
    OK(rf_coder_set_state(batch, s, &st));
    OK(rf_coder_reconstruct(batch, s, &in, NULL, NULL, &out, n_active[0]));
    OK(rf_coder_reconstruct(relu, s, &in, NULL, NULL, &out, n_active[1]));
    assert_memory_equal(n_active[0], n_active[1], sizeof n_active[0]);
    rf_coder_destroy(relu);
    rf_coder_destroy(batch);
    rf_free(x);
}

/* Products only nominate: rounded ones give the same codes. */
static void topk_codes_do_not_depend_on_the_products(void **state)
{
    (void)state;
    enum { N = 100, D = 12, F = 300 };
    static const use_case cases[] = {{"topk", "products: fp32", ONE, F, 0.0f},
                                     {"topk", "products: bf16", ONE, F, 0.0f}};
    float *x = fixture_planted(11, N, D), y_hat[2][N * D];
    rf_view in = rf_view_2d(x, N, D);
    for (int i = 0; i < 2; i++) {
        rf_coder *coder = started(&cases[i], x, N);
        rf_view out = rf_view_2d(y_hat[i], N, D);
        OK(rf_coder_reconstruct(coder, s, &in, NULL, NULL, &out, NULL));
        rf_coder_destroy(coder);
    }
    assert_memory_equal(y_hat[0], y_hat[1], sizeof y_hat[0]);
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
        cmocka_unit_test(each_architecture_reconstructs_as_the_naive_model),
        cmocka_unit_test(codes_that_are_not_sparse_go_the_dense_way),
        cmocka_unit_test(every_normalisation_is_undone_for_every_shape),
        cmocka_unit_test(a_perfect_coder_gives_tokens_back_whatever_the_normalisation),
        cmocka_unit_test(tokens_take_the_k_of_their_class),
        cmocka_unit_test(a_coder_of_one_class_has_its_k),
        cmocka_unit_test(encode_gives_the_codes_that_reconstruct_decodes),
        cmocka_unit_test(norms_belong_to_the_rows_that_were_seen),
        cmocka_unit_test(codes_of_too_little_room_and_bad_tokens_are_refused),
        cmocka_unit_test(without_a_threshold_yet_batch_topk_keeps_all_positive),
        cmocka_unit_test(topk_codes_do_not_depend_on_the_products),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
