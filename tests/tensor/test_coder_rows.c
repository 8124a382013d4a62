/* Operations on codes and rows against plain loops: values in double where rounding is allowed,
 * bits where order is promised. */
#include "../../src/tensor/coder_ops_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)

static const int thread_counts[] = {1, 2, 5};
enum { N_THREAD_COUNTS = 3 };

static rf_backend *backends[N_THREAD_COUNTS];
static rf_stream *streams[N_THREAD_COUNTS];

static float *normals(uint64_t tag, int64_t n)
{
    float *x = rf_calloc(n + 4, sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i += 4) {
        rf_random_normal4(tag, RF_RANDOM_TEST, (uint64_t)i, 0, x + i);
    }
    return x;
}

/* Codes with ragged rows: some empty, some full, latents rising; latent 0 in every row that has
 * one. */
static rf_codes ragged_codes(int64_t n, int64_t f, int64_t most)
{
    rf_codes c = {.n_rows = n, .capacity = n * most};
    c.row_start = rf_calloc(n + 1, sizeof *c.row_start);
    c.latent = rf_calloc(c.capacity, sizeof *c.latent);
    c.value = rf_calloc(c.capacity, sizeof *c.value);
    c.d_value = rf_calloc(c.capacity, sizeof *c.d_value);
    int64_t at = 0;
    for (int64_t b = 0; b < n; b++) {
        int64_t count = b % 5 == 4 ? 0 : 1 + (b * 7) % most;
        c.row_start[b] = at;
        for (int64_t j = 0; j < count; j++, at++) {
            c.latent[at] = (int32_t)(j * f / most);
            c.value[at] = 0.1f + (float)((at * 37) % 101) * 0.01f;
            c.d_value[at] = (float)((at * 53) % 89 - 44) * 0.01f;
        }
    }
    c.row_start[n] = at;
    return c;
}

static void free_codes(rf_codes *c)
{
    rf_free(c->row_start);
    rf_free(c->latent);
    rf_free(c->value);
    rf_free(c->d_value);
}

static rf_latent_index make_index(int64_t f, int64_t capacity)
{
    return (rf_latent_index){.n_latents = f,
                             .capacity = capacity,
                             .latent_start = rf_calloc(f + 1, sizeof(int64_t)),
                             .entry = rf_calloc(capacity, sizeof(int32_t)),
                             .row = rf_calloc(capacity, sizeof(int32_t))};
}

static void free_index(rf_latent_index *i)
{
    rf_free(i->latent_start);
    rf_free(i->entry);
    rf_free(i->row);
}

static void same_floats(const float *got, const float *want, int64_t n, const char *what)
{
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(got + i, want + i, sizeof *got) != 0) {
            fail_msg("%s: element %d is %.9g, expected %.9g", what, (int)i, (double)got[i],
                     (double)want[i]);
        }
    }
}

/* ---- codes --------------------------------------------------------------------------------- */

static void decode_adds_entries_in_order_by_fma(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {
        {1, 1, 1}, {0, 5, 3}, {70, 37, 9}, {130, 200, 90}, {65, 96, 33}};
    for (size_t c = 0; c < sizeof sizes / sizeof sizes[0]; c++) {
        int64_t n = sizes[c][0], f = sizes[c][1], most = sizes[c][2], d = 19 + (int64_t)c;
        rf_codes codes = ragged_codes(n, f, most);
        float *w = normals(c, f * d), *bias = normals(c + 50, d);
        float *want = rf_calloc(n * d, sizeof *want), *got = rf_calloc(n * d, sizeof *got);
        for (int with_bias = 0; with_bias < 2; with_bias++) {
            for (int64_t b = 0; b < n; b++) {
                for (int64_t j = 0; j < d; j++) {
                    float y = with_bias ? bias[j] : 0.0f;
                    for (int64_t e = codes.row_start[b]; e < codes.row_start[b + 1]; e++) {
                        y = fmaf(codes.value[e], w[codes.latent[e] * d + j], y);
                    }
                    want[b * d + j] = y;
                }
            }
            for (int t = 0; t < N_THREAD_COUNTS; t++) {
                rf_decode_args args = {
                    .codes = &codes, .w_dec = rf_view_2d(w, f, d), .out = rf_view_2d(got, n, d)};
                args.bias = with_bias ? rf_view_1d(bias, d) : args.bias;
                OK(rf_decode(streams[t], &args));
                same_floats(got, want, n * d, "decode");
            }
        }
        rf_free(got);
        rf_free(want);
        rf_free(bias);
        rf_free(w);
        free_codes(&codes);
    }
}

static void d_value_is_the_canonical_dot_and_the_penalty(void **state)
{
    (void)state;
    enum { N = 140, F = 300, MOST = 80, D = 45 };
    rf_codes codes = ragged_codes(N, F, MOST);
    int64_t n_entries = codes.row_start[N];
    float *w = normals(1, F * D), *g = normals(2, N * D);
    float *want = rf_calloc(n_entries, sizeof *want);
    for (int p = 0; p < 2; p++) {
        float penalty = p == 0 ? 0.0f : 0.125f;
        for (int64_t b = 0; b < N; b++) {
            for (int64_t e = codes.row_start[b]; e < codes.row_start[b + 1]; e++) {
                want[e] = rf_dot(g + b * D, w + (int64_t)codes.latent[e] * D, D) + penalty;
            }
        }
        for (int t = 0; t < N_THREAD_COUNTS; t++) {
            OK(rf_d_value(streams[t], &(rf_d_value_args){.codes = &codes,
                                                         .w_dec = rf_view_2d(w, F, D),
                                                         .g = rf_view_2d(g, N, D),
                                                         .penalty = penalty}));
            same_floats(codes.d_value, want, n_entries, "d_value");
        }
    }
    rf_free(want);
    rf_free(g);
    rf_free(w);
    free_codes(&codes);
}

static void row_sums_of_codes_add_values_in_order(void **state)
{
    (void)state;
    rf_codes codes = ragged_codes(30, 40, 7);
    float got[30], want[30];
    rf_view out = rf_view_1d(got, 30);
    for (int64_t b = 0; b < 30; b++) {
        want[b] = 0.0f;
        for (int64_t e = codes.row_start[b]; e < codes.row_start[b + 1]; e++) {
            want[b] += codes.value[e];
        }
    }
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        OK(rf_codes_row_sum(streams[t], &codes, &out));
        same_floats(got, want, 30, "row sum");
    }
    free_codes(&codes);
}

static void index_lists_each_latents_tokens_rising(void **state)
{
    (void)state;
    static const int64_t rows[] = {0, 1, 3, 200};
    for (int c = 0; c < 4; c++) {
        for (int t = 0; t < N_THREAD_COUNTS; t++) {
            rf_codes codes = ragged_codes(rows[c], 77, 12);
            rf_latent_index index = make_index(77, codes.capacity);
            int64_t seen = 0;
            OK(rf_index_by_latent(streams[t], &codes, &index));
            assert_int_equal(index.latent_start[0], 0);
            for (int64_t i = 0; i < 77; i++) {
                for (int64_t e = index.latent_start[i]; e < index.latent_start[i + 1]; e++) {
                    int32_t entry = index.entry[e], row = index.row[e];
                    assert_int_equal(codes.latent[entry], i);
                    assert_true(entry >= codes.row_start[row] && entry < codes.row_start[row + 1]);
                    assert_true(e == index.latent_start[i] || index.row[e - 1] < row);
                    seen++;
                }
            }
            assert_int_equal(seen, codes.row_start[rows[c]]);
            free_index(&index);
            free_codes(&codes);
        }
    }
}

/* ---- by latent ----------------------------------------------------------------------------- */

typedef struct gradients {
    float *enc, *bias, *dec;
    double squares;
} gradients;

/* Entries of latent i in token order, list after list. */
static gradients by_definition(const rf_codes *codes, const float *const *g, const float *x,
                               int n_lists, int64_t f, int64_t d_in, int64_t d_out)
{
    gradients want = {.enc = rf_calloc(f * d_in, sizeof(float)),
                      .bias = rf_calloc(f, sizeof(float)),
                      .dec = rf_calloc(f * d_out, sizeof(float))};
    for (int l = 0; l < n_lists; l++) {
        for (int64_t b = 0; b < codes[l].n_rows; b++) {
            for (int64_t e = codes[l].row_start[b]; e < codes[l].row_start[b + 1]; e++) {
                int64_t i = codes[l].latent[e];
                for (int64_t j = 0; j < d_in; j++) {
                    float *at = &want.enc[i * d_in + j];
                    *at = fmaf(codes[l].d_value[e], x[b * d_in + j], *at);
                }
                for (int64_t j = 0; j < d_out; j++) {
                    float *at = &want.dec[i * d_out + j];
                    *at = fmaf(codes[l].value[e], g[l][b * d_out + j], *at);
                }
                want.bias[i] += codes[l].d_value[e];
            }
        }
    }
    for (int64_t i = 0; i < f; i++) {
        want.squares += (double)rf_dot(want.enc + i * d_in, want.enc + i * d_in, d_in) +
                        (double)rf_dot(want.dec + i * d_out, want.dec + i * d_out, d_out) +
                        (double)want.bias[i] * (double)want.bias[i];
    }
    return want;
}

static void free_gradients(gradients *g)
{
    rf_free(g->enc);
    rf_free(g->bias);
    rf_free(g->dec);
}

/* Crowded latents take another way than the rest; both must have the same bits. */
static void gradients_by_latent_are_in_token_order_by_fma(void **state)
{
    (void)state;
    enum { N = 700, F = 620, D_IN = 21, D_OUT = 34 };
    rf_codes codes[2] = {ragged_codes(N, F, 40), ragged_codes(N, F, 200)};
    float *g[2] = {normals(3, N * D_OUT), normals(4, N * D_OUT)}, *x = normals(5, N * D_IN);
    for (int n_lists = 1; n_lists <= 2; n_lists++) {
        gradients want = by_definition(codes, (const float *const *)g, x, n_lists, F, D_IN, D_OUT);
        for (int t = 0; t < N_THREAD_COUNTS; t++) {
            gradients got = {.enc = normals(6, F * D_IN), /* old contents must not matter */
                             .bias = normals(7, F),
                             .dec = normals(8, F * D_OUT)};
            rf_latent_index index[2] = {make_index(F, codes[0].capacity),
                                        make_index(F, codes[1].capacity)};
            static uint8_t touched[F];
            int64_t n_touched = 0;
            OK(rf_index_by_latent(streams[t], &codes[0], &index[0]));
            OK(rf_index_by_latent(streams[t], &codes[1], &index[1]));
            rf_by_latent_args args = {.n_lists = n_lists,
                                      .codes = {&codes[0], &codes[1]},
                                      .index = {&index[0], &index[1]},
                                      .g = {rf_view_2d(g[0], N, D_OUT), rf_view_2d(g[1], N, D_OUT)},
                                      .x = rf_view_2d(x, N, D_IN),
                                      .d_w_enc = rf_view_2d(got.enc, F, D_IN),
                                      .d_b_enc = rf_view_1d(got.bias, F),
                                      .d_w_dec = rf_view_2d(got.dec, F, D_OUT),
                                      .touched = touched,
                                      .squares = &got.squares};
            OK(rf_accumulate_by_latent(streams[t], &args));
            same_floats(got.bias, want.bias, F, "d_b_enc");
            for (int64_t i = 0; i < F; i++) {
                bool has = index[0].latent_start[i + 1] > index[0].latent_start[i] ||
                           (n_lists > 1 && index[1].latent_start[i + 1] > index[1].latent_start[i]);
                assert_int_equal(touched[i], has);
                n_touched += has;
                if (has) {
                    same_floats(got.enc + i * D_IN, want.enc + i * D_IN, D_IN, "d_w_enc");
                    same_floats(got.dec + i * D_OUT, want.dec + i * D_OUT, D_OUT, "d_w_dec");
                }
            }
            assert_true(n_touched > 0 && n_touched < F);
            assert_true(got.squares == want.squares);
            free_index(&index[0]);
            free_index(&index[1]);
            free_gradients(&got);
        }
        free_gradients(&want);
    }
    for (int l = 0; l < 2; l++) {
        rf_free(g[l]);
        free_codes(&codes[l]);
    }
    rf_free(x);
}

/* ---- rows ---------------------------------------------------------------------------------- */

static void residual_scales_and_measures_valid_rows(void **state)
{
    (void)state;
    enum { N = 37, D = 29 };
    float *x = normals(9, N * D), *y = normals(10, N * D);
    float g[N * D], loss[N], row[D];
    uint8_t valid[N];
    for (int b = 0; b < N; b++) {
        valid[b] = b % 4 != 2;
    }
    x[2 * D] = NAN; /* row 2 is not valid */
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        for (int one_row = 0; one_row < 2; one_row++) {
            rf_residual_args args = {.x = rf_view_2d(x, N, D),
                                     .x_hat = rf_view_2d(y, one_row ? 1 : N, D),
                                     .g = rf_view_2d(g, N, D),
                                     .row_loss = rf_view_1d(loss, N),
                                     .row_valid = valid,
                                     .scale = 0.3f};
            OK(rf_residual(streams[t], &args));
            for (int b = 0; b < N; b++) {
                const float *hat = y + (one_row ? 0 : b * D);
                for (int j = 0; j < D; j++) {
                    row[j] = hat[j] - x[b * D + j];
                    float want = valid[b] ? 0.3f * row[j] : 0.0f;
                    assert_true(g[b * D + j] == want);
                }
                assert_true(loss[b] == (valid[b] ? rf_dot(row, row, D) : 0.0f));
            }
        }
    }
    rf_residual_args in_place = {.x = rf_view_2d(x, N, D),
                                 .x_hat = rf_view_2d(y, N, D),
                                 .g = rf_view_2d(y, N, D),
                                 .row_valid = valid,
                                 .scale = 0.3f};
    OK(rf_residual(streams[0], &(rf_residual_args){.x = rf_view_2d(x, N, D),
                                                   .x_hat = rf_view_2d(y, N, D),
                                                   .g = rf_view_2d(g, N, D),
                                                   .row_valid = valid,
                                                   .scale = 0.3f}));
    OK(rf_residual(streams[0], &in_place));
    same_floats(y, g, N * D, "in place");
    rf_free(x);
    rf_free(y);
}

static void row_sums_do_not_depend_on_threads_and_are_exact_where_sums_are(void **state)
{
    (void)state;
    enum { N = 1000, D = 13 };
    float *x = rf_calloc(N * D, sizeof *x), weight[N], out[D];
    for (int b = 0; b < N; b++) {
        weight[b] = (float)(b % 3);
        for (int j = 0; j < D; j++) {
            x[b * D + j] = (float)(b + j); /* integers: every sum is exact */
        }
    }
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        for (int j = 0; j < D; j++) {
            out[j] = 5.0f;
        }
        OK(rf_row_sum(streams[t], &(rf_row_sum_args){.x = rf_view_2d(x, N, D),
                                                     .weight = rf_view_1d(weight, N),
                                                     .out = rf_view_1d(out, D),
                                                     .alpha = -0.5f,
                                                     .beta = 1.0f}));
        for (int j = 0; j < D; j++) {
            double want = 0.0;
            for (int b = 0; b < N; b++) {
                want += (double)(b % 3) * (double)(b + j);
            }
            assert_true(out[j] == (float)(5.0 - 0.5 * want));
        }
        OK(rf_row_sum(streams[t], &(rf_row_sum_args){.x = rf_view_2d(x, 0, D),
                                                     .out = rf_view_1d(out, D),
                                                     .alpha = 1.0f}));
        assert_true(out[0] == 0.0f); /* no rows */
    }
    rf_free(x);
}

static void sum_of_squares_adds_canonical_rows_in_order(void **state)
{
    (void)state;
    enum { N = 333, D = 50 };
    float *x = normals(11, N * D);
    rf_view v = rf_view_2d(x, N, D);
    double want = 2.5, got;
    for (int b = 0; b < N; b++) {
        want += (double)rf_dot(x + b * D, x + b * D, D);
    }
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        got = 2.5;
        OK(rf_sum_squares(streams[t], &v, &got, 1.0));
        assert_true(got == want);
    }
    rf_free(x);
}

/* Adam in double on one row, as the paper writes it. */
static void adam_by_definition(const rf_adam_args *a, int64_t n, double scale, const float *g,
                               double *w, double *m, double *v)
{
    double along = 0.0, norm = 0.0;
    for (int64_t j = 0; j < n; j++) {
        along += scale * (double)g[j] * w[j];
    }
    for (int64_t j = 0; j < n; j++) {
        double gj = scale * (double)g[j] - (a->rule == RF_ROW_UNIT_NORM ? along * w[j] : 0.0);
        m[j] = a->beta1 * m[j] + (1 - a->beta1) * gj;
        v[j] = a->beta2 * v[j] + (1 - a->beta2) * gj * gj;
        double m_hat = m[j] / (1 - pow(a->beta1, (double)a->t));
        double v_hat = v[j] / (1 - pow(a->beta2, (double)a->t));
        w[j] -= a->lr * a->weight_decay * w[j];
        w[j] -= a->lr * m_hat / (sqrt(v_hat) + a->eps);
        norm += w[j] * w[j];
    }
    for (int64_t j = 0; a->rule == RF_ROW_UNIT_NORM && norm > 0.0 && j < n; j++) {
        w[j] /= sqrt(norm);
    }
}

static void adam_equals_its_definition(void **state)
{
    (void)state;
    enum { N = 23, D = 37, STEPS = 4 };
    for (int rule = 0; rule < 2; rule++) {
        float *w = normals(12, N * D), *m = rf_calloc(N * D, sizeof *m);
        float *v = rf_calloc(N * D, sizeof *v), scale = 0.25f;
        static double dw[N * D], dm[N * D], dv[N * D];
        rf_view rows = rf_view_2d(w, N, D);
        OK(rf_normalise_rows(streams[0], &rows));
        for (int i = 0; i < N * D; i++) {
            dw[i] = (double)w[i];
            dm[i] = dv[i] = 0.0;
        }
        for (int step = 1; step <= STEPS; step++) {
            float *g = normals(100 + (uint64_t)step, N * D);
            rf_adam_args args = {.w = rows,
                                 .g = rf_view_2d(g, N, D),
                                 .m = rf_view_2d(m, N, D),
                                 .v = rf_view_2d(v, N, D),
                                 .rule = rule == 0 ? RF_ROW_FREE : RF_ROW_UNIT_NORM,
                                 .grad_scale = &scale,
                                 .lr = 0.01,
                                 .beta1 = 0.9,
                                 .beta2 = 0.99,
                                 .eps = 1e-8,
                                 .weight_decay = 0.1,
                                 .t = step};
            OK(rf_adam_rows(streams[step % N_THREAD_COUNTS], &args));
            for (int64_t i = 0; i < N; i++) {
                adam_by_definition(&args, D, (double)scale, g + i * D, dw + i * D, dm + i * D,
                                   dv + i * D);
            }
            rf_free(g);
        }
        for (int i = 0; i < N * D; i++) {
            assert_true(fabs((double)w[i] - dw[i]) <= 2e-6); /* fp32, a few steps of 0.01 */
            assert_true(fabs((double)m[i] - dm[i]) <= 1e-6);
            assert_true(fabs((double)v[i] - dv[i]) <= 1e-6);
        }
        rf_free(w);
        rf_free(m);
        rf_free(v);
    }
}

static void adam_of_an_untouched_row_is_that_of_a_zero_gradient(void **state)
{
    (void)state;
    enum { N = 19, D = 41 };
    float *w[2], *m[2], *v[2], *g = normals(20, N * D);
    uint8_t touched[N];
    for (int i = 0; i < N; i++) {
        touched[i] = i % 3 == 0;
        for (int j = 0; !touched[i] && j < D; j++) {
            g[i * D + j] = 0.0f;
        }
    }
    for (int k = 0; k < 2; k++) {
        w[k] = normals(21, N * D);
        m[k] = normals(22, N * D);
        v[k] = normals(23, N * D);
        for (int i = 0; i < N * D; i++) {
            v[k][i] *= v[k][i];
        }
        for (int i = 0; k == 1 && i < N * D; i++) { /* what is not read may be anything */
            g[i] = touched[i / D] ? g[i] : NAN;
        }
        OK(rf_adam_rows(streams[k], &(rf_adam_args){.w = rf_view_2d(w[k], N, D),
                                                    .g = rf_view_2d(g, N, D),
                                                    .m = rf_view_2d(m[k], N, D),
                                                    .v = rf_view_2d(v[k], N, D),
                                                    .touched = k == 0 ? NULL : touched,
                                                    .rule = RF_ROW_UNIT_NORM,
                                                    .lr = 0.01,
                                                    .beta1 = 0.9,
                                                    .beta2 = 0.999,
                                                    .eps = 1e-8,
                                                    .t = 3}));
    }
    same_floats(w[1], w[0], N * D, "w");
    same_floats(m[1], m[0], N * D, "m");
    same_floats(v[1], v[0], N * D, "v");
    for (int k = 0; k < 2; k++) {
        rf_free(w[k]);
        rf_free(m[k]);
        rf_free(v[k]);
    }
    rf_free(g);
}

static void rows_of_norm_zero_stay(void **state)
{
    (void)state;
    float w[6] = {0.0f, 0.0f, 0.0f, 3.0f, 0.0f, 4.0f};
    rf_view rows = rf_view_2d(w, 2, 3);
    OK(rf_normalise_rows(streams[0], &rows));
    assert_true(w[0] == 0.0f && w[1] == 0.0f && w[2] == 0.0f);
    assert_true(w[3] == 3.0f / 5.0f && w[4] == 0.0f && w[5] == 4.0f / 5.0f);
}

/* ---- dense path, fired --------------------------------------------------------------------- */

static void dense_codes_count_sum_and_blank(void **state)
{
    (void)state;
    enum { N = 9, F = 1100 };
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        float *z = normals(30, N * F), *before = normals(30, N * F), sums[N];
        int64_t active[N], n_active[F];
        uint8_t valid[N];
        for (int64_t i = 0; i < N * F; i++) {
            z[i] = before[i] = fmaxf(before[i], 0.0f);
        }
        for (int i = 0; i < F; i++) {
            n_active[i] = 7; /* adds to what is there */
        }
        for (int b = 0; b < N; b++) {
            valid[b] = b != 4;
        }
        OK(rf_dense_codes(
            streams[t],
            &(rf_dense_codes_args){.z = rf_view_2d(z, N, F),
                                   .row_sum = rf_view_1d(sums, N),
                                   .n_active = rf_view_nd(n_active, RF_I64, 1, (int64_t[]){F}),
                                   .row_active = rf_view_nd(active, RF_I64, 1, (int64_t[]){N}),
                                   .row_valid = valid}));
        for (int b = 0; b < N; b++) {
            double sum = 0.0;
            int64_t count = 0;
            for (int i = 0; i < F; i++) {
                float want = valid[b] ? before[b * F + i] : 0.0f;
                assert_true(z[b * F + i] == want);
                sum += (double)want;
                count += want > 0.0f;
            }
            assert_true(fabs((double)sums[b] - sum) <= 1e-6 * sum); /* fp32 in 16 lanes */
            assert_int_equal(active[b], count);
        }
        for (int i = 0; i < F; i++) {
            int64_t count = 7;
            for (int b = 0; b < N; b++) {
                count += valid[b] && before[b * F + i] > 0.0f;
            }
            assert_int_equal(n_active[i], count);
        }
        rf_free(z);
        rf_free(before);
    }
}

static void dense_mask_penalises_active_latents_only(void **state)
{
    (void)state;
    float z[6] = {1.0f, 0.0f, 0.5f, 9.0f, 0.0f, 2.0f}, d[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    rf_view wide = rf_view_2d(z, 2, 3), d_z = rf_view_2d(d, 2, 2);
    wide.shape[1] = 2; /* two columns of three */
    OK(rf_dense_mask(streams[0], &wide, &d_z, 0.25f));
    assert_true(d[0] == 1.25f && d[1] == 0.0f && d[2] == 3.25f && d[3] == 0.0f);
}

static void fired_and_dead_are_counted_in_tokens(void **state)
{
    (void)state;
    int64_t since[4] = {0, 50, 90, 95}, n_active[4] = {0, 3, 0, 1}, n_fired = -1, n_dead = -1;
    uint8_t dead[4];
    rf_view v = rf_view_nd(since, RF_I64, 1, (int64_t[]){4});
    OK(rf_track_fired(streams[0], &(rf_track_fired_args){
                                      .n_active = rf_view_nd(n_active, RF_I64, 1, (int64_t[]){4}),
                                      .since_fired = v,
                                      .n_tokens = 10,
                                      .n_fired = &n_fired}));
    assert_int_equal(n_fired, 2);
    assert_true(since[0] == 10 && since[1] == 0 && since[2] == 100 && since[3] == 0);
    OK(rf_mark_dead(streams[0], &v, 100, dead, &n_dead));
    assert_int_equal(n_dead, 1);
    assert_true(dead[0] == 0 && dead[1] == 0 && dead[2] == 1 && dead[3] == 0);
    OK(rf_mark_dead(streams[0], &v, 101, dead, &n_dead));
    assert_int_equal(n_dead, 0);
}

static void both_versions_nominate_the_same(void **state)
{
    (void)state;
    enum { N = 517 };
    float *p = normals(40, N), *norm = normals(41, N), *offset = normals(42, N);
    int32_t a[N], b[N];
    for (int n = 0; n <= N; n += 1 + n / 7) {
        for (int t = -3; t <= 3; t++) {
            int64_t want = rf_cpu_nominate_plain(p, norm, offset, n, 0.5f, (float)t, a);
            int64_t got = rf_cpu_nominate(p, norm, offset, n, 0.5f, (float)t, b);
            int64_t count = 0;
            assert_int_equal(got, want);
            assert_memory_equal(a, b, sizeof(int32_t) * (size_t)got);
            for (int j = 0; j < n; j++) {
                count += fmaf(0.5f, norm[j], p[j]) + offset[j] >= (float)t;
            }
            assert_int_equal(got, count);
        }
    }
    rf_free(p);
    rf_free(norm);
    rf_free(offset);
}

static int start(void **state)
{
    (void)state;
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        if (rf_backend_cpu_create(thread_counts[t], &backends[t]) != RF_OK ||
            rf_stream_create(backends[t], &streams[t]) != RF_OK) {
            return -1;
        }
    }
    return 0;
}

static int finish(void **state)
{
    (void)state;
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        rf_stream_destroy(streams[t]);
        rf_backend_destroy(backends[t]);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_adds_entries_in_order_by_fma),
        cmocka_unit_test(d_value_is_the_canonical_dot_and_the_penalty),
        cmocka_unit_test(row_sums_of_codes_add_values_in_order),
        cmocka_unit_test(index_lists_each_latents_tokens_rising),
        cmocka_unit_test(gradients_by_latent_are_in_token_order_by_fma),
        cmocka_unit_test(residual_scales_and_measures_valid_rows),
        cmocka_unit_test(row_sums_do_not_depend_on_threads_and_are_exact_where_sums_are),
        cmocka_unit_test(sum_of_squares_adds_canonical_rows_in_order),
        cmocka_unit_test(adam_equals_its_definition),
        cmocka_unit_test(adam_of_an_untouched_row_is_that_of_a_zero_gradient),
        cmocka_unit_test(rows_of_norm_zero_stay),
        cmocka_unit_test(dense_codes_count_sum_and_blank),
        cmocka_unit_test(dense_mask_penalises_active_latents_only),
        cmocka_unit_test(fired_and_dead_are_counted_in_tokens),
        cmocka_unit_test(both_versions_nominate_the_same),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
