/* Operations on codes and rows against plain loops: values in double where rounding is allowed,
 * bits where order is promised. */
#include "codes_fixture.h"

/* ---- codes --------------------------------------------------------------------------------- */

/* n, F, most entries of a row, D: tiny and empty; rows that end in ragged registers; several ranges
 * of latents, walked because entries are many and because they are few. */
static const int64_t shapes[][4] = {{1, 1, 1, 19},        {0, 5, 3, 20},      {70, 37, 9, 21},
                                    {130, 200, 90, 22},   {65, 96, 33, 16},   {67, 1100, 40, 771},
                                    {21, 1000, 90, 4099}, {9, 300, 11, 40000}};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static void decode_by_definition(const rf_codes *codes, const float *w, const float *bias,
                                 int64_t d, float *out)
{
    for (int64_t b = 0; b < codes->n_rows; b++) {
        for (int64_t j = 0; j < d; j++) {
            float y = bias != NULL ? bias[j] : 0.0f;
            for (int64_t e = codes->row_start[b]; e < codes->row_start[b + 1]; e++) {
                y = fmaf(codes->value[e], w[codes->latent[e] * d + j], y);
            }
            out[b * d + j] = y;
        }
    }
}

static void decode_adds_entries_in_order_by_fma(void **state)
{
    (void)state;
    for (size_t c = 0; c < N_SHAPES; c++) {
        int64_t n = shapes[c][0], f = shapes[c][1], d = shapes[c][3];
        rf_codes codes = ragged_codes(n, f, shapes[c][2]);
        float *w = normals(c, f * d), *bias = normals(c + 50, d);
        float *want = rf_calloc(n * d, sizeof *want), *got = rf_calloc(n * d, sizeof *got);
        for (int with_bias = 0; with_bias < 2; with_bias++) {
            decode_by_definition(&codes, w, with_bias ? bias : NULL, d, want);
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

static void d_value_is_the_canonical_dot(void **state)
{
    (void)state;
    for (size_t c = 0; c < N_SHAPES; c++) {
        int64_t n = shapes[c][0], f = shapes[c][1], d = shapes[c][3];
        rf_codes codes = ragged_codes(n, f, shapes[c][2]);
        float *w = normals(c, f * d), *g = normals(c + 50, n * d);
        float *want = rf_calloc(codes.capacity, sizeof *want);
        for (int64_t b = 0; b < n; b++) {
            for (int64_t e = codes.row_start[b]; e < codes.row_start[b + 1]; e++) {
                want[e] = rf_dot(g + b * d, w + (int64_t)codes.latent[e] * d, d);
            }
        }
        for (int t = 0; t < N_THREAD_COUNTS; t++) {
            memset(codes.d_value, 0xff, sizeof(float) * (size_t)codes.capacity);
            OK(rf_d_value(streams[t], &(rf_d_value_args){.codes = &codes,
                                                         .w_dec = rf_view_2d(w, f, d),
                                                         .g = rf_view_2d(g, n, d)}));
            same_floats(codes.d_value, want, codes.row_start[n], "d_value");
        }
        rf_free(want);
        rf_free(g);
        rf_free(w);
        free_codes(&codes);
    }
}

static void sums_of_rows_have_the_same_bits_in_any_registers(void **state)
{
    (void)state;
    enum { N = 83, ROWS = 30 };
    float *rows = normals(60, N * ROWS), *weight = normals(61, ROWS), *start = normals(62, N);
    int32_t at[ROWS];
    for (int j = 0; j < ROWS; j++) {
        at[j] = (j * 7) % ROWS;
    }
    for (int n = 0; n <= N; n++) {
        for (int count = 0; count <= ROWS; count++) {
            float plain[N], fast[N];
            memcpy(plain, start, sizeof plain);
            memcpy(fast, start, sizeof fast);
            rf_cpu_add_rows_plain(plain, n, rows, N, at, weight, count);
            rf_cpu_add_rows(fast, n, rows, N, at, weight, count);
            same_floats(fast, plain, N, "sum"); /* beyond n nothing is written */
        }
    }
    rf_free(rows);
    rf_free(weight);
    rf_free(start);
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

static void compare_gradients(const gradients *got, const gradients *want,
                              const rf_by_latent_args *args, const uint8_t *has)
{
    int64_t f = args->d_w_enc.shape[0], d_in = args->d_w_enc.shape[1];
    int64_t d_out = args->d_w_dec.shape[1];
    same_floats(got->bias, want->bias, f, "d_b_enc");
    for (int64_t i = 0; i < f; i++) {
        assert_int_equal(args->touched[i], has[i]);
        if (has[i]) {
            same_floats(got->enc + i * d_in, want->enc + i * d_in, d_in, "d_w_enc");
            same_floats(got->dec + i * d_out, want->dec + i * d_out, d_out, "d_w_dec");
        }
    }
    assert_true(got->squares == want->squares);
}

/* Old contents must not matter. */
static void check_by_latent(rf_by_latent_args args, int64_t f, int64_t d_out)
{
    int64_t d_in = args.x.shape[1];
    gradients want = zero_gradients(f, d_in, d_out);
    uint8_t *touched = rf_calloc(f, 1), *has = rf_calloc(f, 1);
    add_by_definition(&args, f, d_out, &want);
    for (int l = 0; l < args.n_lists; l++) {
        for (int64_t e = 0; e < args.codes[l]->row_start[args.x.shape[0]]; e++) {
            has[args.codes[l]->latent[e]] = 1;
        }
    }
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        gradients got = {.enc = normals(6, f * d_in), .bias = normals(7, f)};
        got.dec = normals(8, f * d_out);
        rf_latent_index index[2] = {{0}, {0}};
        for (int l = 0; l < args.n_lists; l++) {
            index[l] = make_index(f, args.codes[l]->capacity);
            OK(rf_index_by_latent(streams[t], args.codes[l], &index[l]));
            args.index[l] = &index[l];
        }
        args.d_w_enc = rf_view_2d(got.enc, f, d_in);
        args.d_b_enc = rf_view_1d(got.bias, f);
        args.d_w_dec = rf_view_2d(got.dec, f, d_out);
        args.touched = touched;
        args.squares = &got.squares;
        OK(rf_accumulate_by_latent(streams[t], &args));
        compare_gradients(&got, &want, &args, has);
        free_index(&index[0]);
        free_index(&index[1]);
        free_gradients(&got);
    }
    free_gradients(&want);
    rf_free(touched);
    rf_free(has);
}

/* Crowded latents take another way than the rest, in ranges of tokens and so many at a time; all
 * must have the same bits. */
static void gradients_by_latent_are_in_token_order_by_fma(void **state)
{
    (void)state;
    static const int64_t cases[][5] = {{700, 620, 200, 21, 34},
                                       {700, 310, 60, 1500, 770},
                                       {60, 9001, 8800, 3, 2},
                                       {0, 9, 4, 2, 3}};
    for (int c = 0; c < 4; c++) {
        int64_t n = cases[c][0], f = cases[c][1], most = cases[c][2];
        int64_t d_in = cases[c][3], d_out = cases[c][4];
        rf_codes codes[2] = {ragged_codes(n, f, rf_max_i64(1, most / 5)), ragged_codes(n, f, most)};
        for (int64_t b = 0; b < n && c == 2; b++) { /* every row full: many latents are crowded */
            codes[1].row_start[b + 1] = (b + 1) * most;
            for (int64_t j = 0; j < most; j++) {
                codes[1].latent[b * most + j] = (int32_t)(j * f / most);
                codes[1].value[b * most + j] = (float)(j % 7) + 0.3f * (float)b;
                codes[1].d_value[b * most + j] = (float)(j % 5) - 0.7f * (float)b;
            }
        }
        float *g[2] = {normals(3, n * d_out), normals(4, n * d_out)}, *x = normals(5, n * d_in);
        for (int n_lists = 1; n_lists <= 2; n_lists++) {
            check_by_latent(
                (rf_by_latent_args){.n_lists = n_lists,
                                    .codes = {&codes[0], &codes[1]},
                                    .g = {rf_view_2d(g[0], n, d_out), rf_view_2d(g[1], n, d_out)},
                                    .x = rf_view_2d(x, n, d_in)},
                f, d_out);
        }
        for (int l = 0; l < 2; l++) {
            rf_free(g[l]);
            free_codes(&codes[l]);
        }
        rf_free(x);
    }
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

static void sum_of_squares_adds_canonical_rows_in_blocks(void **state)
{
    (void)state;
    enum { N = 333, D = 50 };
    float *x = normals(11, N * D);
    rf_view v = rf_view_2d(x, N, D);
    double block[2] = {0.0, 0.0}, got;
    for (int b = 0; b < N; b++) {
        block[b / 256] += (double)rf_dot(x + b * D, x + b * D, D);
    }
    const double want = 2.5 + (block[0] + block[1]);
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        got = 2.5;
        OK(rf_sum_squares(streams[t], &v, &got, 1.0));
        assert_true(got == want);
    }
    rf_free(x);
}

/* ---- nomination ---------------------------------------------------------------------------- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_adds_entries_in_order_by_fma),
        cmocka_unit_test(d_value_is_the_canonical_dot),
        cmocka_unit_test(sums_of_rows_have_the_same_bits_in_any_registers),
        cmocka_unit_test(index_lists_each_latents_tokens_rising),
        cmocka_unit_test(gradients_by_latent_are_in_token_order_by_fma),
        cmocka_unit_test(residual_scales_and_measures_valid_rows),
        cmocka_unit_test(row_sums_do_not_depend_on_threads_and_are_exact_where_sums_are),
        cmocka_unit_test(sum_of_squares_adds_canonical_rows_in_blocks),
        cmocka_unit_test(both_versions_nominate_the_same),
    };
    return cmocka_run_group_tests(tests, open_streams, close_streams);
}
