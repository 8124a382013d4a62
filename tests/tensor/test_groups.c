/* Latents in groups (Matryoshka): prefixes of a decode, their residuals and gradients; values and
 * gradients beside the codes; sums that go on. */
#include "codes_fixture.h"

/* Codes of [n, f] with at most `most` entries a row, their matrix, and groups of f. */
typedef struct grouped {
    int64_t n, f, d;
    rf_codes codes;
    rf_latent_groups groups;
    float *w, *bias, *value, *g; /* [f, d], [d], [entries], [n, groups d] */
} grouped;

/* n, f, most, d, groups: one group; as many groups as there may be, some of one latent; several
 * ranges of latents, for many and for few entries. */
static const int64_t shapes[][5] = {{1, 1, 1, 3, 1},        {0, 8, 3, 4, 2},
                                    {70, 37, 9, 21, 1},     {70, 37, 9, 21, 16},
                                    {40, 1100, 40, 771, 5}, {11, 300, 11, 20000, 3}};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static grouped make_grouped(size_t c)
{
    grouped m = {.n = shapes[c][0], .f = shapes[c][1], .d = shapes[c][3]};
    m.groups.n = (int)shapes[c][4];
    for (int q = 0; q < m.groups.n; q++) { /* the first ones small */
        m.groups.end[q] = rf_max_i64(q + 1, m.f * (q + 1) * (q + 1) / (m.groups.n * m.groups.n));
    }
    m.codes = ragged_codes(m.n, m.f, shapes[c][2]);
    m.w = normals(c, m.f * m.d);
    m.bias = normals(c + 20, m.d);
    m.value = normals(c + 40, m.codes.capacity);
    m.g = normals(c + 60, m.n * m.groups.n * m.d);
    return m;
}

static void free_grouped(grouped *m)
{
    free_codes(&m->codes);
    rf_free(m->w);
    rf_free(m->bias);
    rf_free(m->value);
    rf_free(m->g);
}

/* Each prefix by itself, from the bias on. */
static void prefixes_by_definition(const grouped *m, const float *value, const float *bias,
                                   float *out)
{
    for (int64_t b = 0; b < m->n; b++) {
        for (int q = 0; q < m->groups.n; q++) {
            for (int64_t j = 0; j < m->d; j++) {
                float y = bias != NULL ? bias[j] : 0.0f;
                for (int64_t e = m->codes.row_start[b]; e < m->codes.row_start[b + 1]; e++) {
                    int64_t i = m->codes.latent[e];
                    y = i < m->groups.end[q] ? fmaf(value[e], m->w[i * m->d + j], y) : y;
                }
                out[(b * m->groups.n + q) * m->d + j] = y;
            }
        }
    }
}

static void each_group_adds_to_the_prefix_before_it(void **state)
{
    (void)state;
    for (size_t c = 0; c < N_SHAPES; c++) {
        grouped m = make_grouped(c);
        int64_t width = m.groups.n * m.d;
        float *want = rf_calloc(m.n * width, sizeof *want);
        float *got = rf_calloc(m.n * width, sizeof *got), *plain = rf_calloc(m.n * m.d, 4);
        for (int way = 0; way < 4; way++) {
            const float *value = way & 1 ? m.value : NULL;
            rf_view bias = way & 2 ? rf_view_1d(m.bias, m.d) : (rf_view){0};
            prefixes_by_definition(&m, way & 1 ? m.value : m.codes.value, bias.data, want);
            for (int t = 0; t < N_THREAD_COUNTS; t++) {
                rf_decode_args args = {.codes = &m.codes,
                                       .value = value,
                                       .w_dec = rf_view_2d(m.w, m.f, m.d),
                                       .bias = bias,
                                       .out = rf_view_2d(got, m.n, width),
                                       .groups = m.groups};
                OK(rf_decode(streams[t], &args));
                same_floats(got, want, m.n * width, "prefixes");
                args.groups.n = 0;
                args.out = rf_view_2d(plain, m.n, m.d);
                OK(rf_decode(streams[t], &args));
                for (int64_t b = 0; b < m.n; b++) { /* the last prefix is the plain decode */
                    same_floats(got + (b + 1) * width - m.d, plain + b * m.d, m.d, "last prefix");
                }
            }
        }
        rf_free(want);
        rf_free(got);
        rf_free(plain);
        free_grouped(&m);
    }
}

static void d_value_reads_the_columns_of_the_latents_group(void **state)
{
    (void)state;
    for (size_t c = 0; c < N_SHAPES; c++) {
        grouped m = make_grouped(c);
        int64_t n_entries = m.codes.row_start[m.n], width = m.groups.n * m.d;
        float *want = rf_calloc(n_entries, sizeof *want), *got = rf_calloc(n_entries, sizeof *got);
        float *before = rf_calloc(n_entries, sizeof *before);
        for (int64_t b = 0; b < m.n; b++) {
            for (int64_t e = m.codes.row_start[b]; e < m.codes.row_start[b + 1]; e++) {
                int64_t i = m.codes.latent[e], q = group_of(&m.groups, i);
                want[e] = rf_dot(m.g + b * width + q * m.d, m.w + i * m.d, m.d);
                before[e] = m.codes.d_value[e];
            }
        }
        for (int t = 0; t < N_THREAD_COUNTS; t++) {
            rf_d_value_args args = {.codes = &m.codes,
                                    .out = got,
                                    .w_dec = rf_view_2d(m.w, m.f, m.d),
                                    .g = rf_view_2d(m.g, m.n, width),
                                    .groups = m.groups};
            OK(rf_d_value(streams[t], &args));
            same_floats(got, want, n_entries, "d_value");
            same_floats(m.codes.d_value, before, n_entries, "the codes' own d_value");
        }
        rf_free(want);
        rf_free(got);
        rf_free(before);
        free_grouped(&m);
    }
}

/* ---- residuals of prefixes ------------------------------------------------------------------ */

enum { ROWS = 23, WIDTH = 37 };

static void prefixes_are_measured_and_weighed_from_the_last_to_the_first(void **state)
{
    (void)state;
    for (int n_groups = 1; n_groups <= RF_MAX_GROUPS; n_groups += 5) {
        int64_t wide = n_groups * WIDTH;
        float *x = normals(1, ROWS * WIDTH), *x_hat = normals(2, ROWS * wide);
        float *bits = NULL, loss[ROWS], last[ROWS];
        uint8_t valid[ROWS];
        for (int b = 0; b < ROWS; b++) {
            valid[b] = b % 4 != 2;
        }
        x[2 * WIDTH] = NAN; /* row 2 is not valid */
        for (int t = 0; t < N_THREAD_COUNTS; t++) {
            float *g = normals(2, ROWS * wide);
            rf_prefix_residual_args args = {.x = rf_view_2d(x, ROWS, WIDTH),
                                            .x_hat = rf_view_2d(g, ROWS, wide),
                                            .row_loss = rf_view_1d(loss, ROWS),
                                            .row_last = rf_view_1d(last, ROWS),
                                            .row_valid = valid,
                                            .n_groups = n_groups,
                                            .scale = 0.3f};
            for (int q = 0; q < n_groups; q++) {
                args.weight[q] = 0.5f + 0.25f * (float)q;
            }
            OK(rf_prefix_residual(streams[t], &args));
            for (int b = 0; b < ROWS; b++) {
                double want_loss = 0.0, want_last = 0.0, sum[WIDTH] = {0};
                for (int q = n_groups - 1; q >= 0; q--) {
                    double square = 0.0, weight = 0.5 + 0.25 * q;
                    for (int j = 0; j < WIDTH; j++) {
                        double r = valid[b] ? (double)x_hat[b * wide + q * WIDTH + j] -
                                                  (double)x[b * WIDTH + j]
                                            : 0.0;
                        square += r * r;
                        sum[j] += weight * r;
                        /* fp32: up to 16 terms of about 5 */
                        assert_true(fabs((double)g[b * wide + q * WIDTH + j] - 0.3 * sum[j]) <=
                                    1e-5);
                    }
                    want_loss += weight * square;
                    want_last = q == n_groups - 1 ? square : want_last;
                }
                assert_true(fabs((double)loss[b] - want_loss) <= 1e-6 * want_loss); /* fp32 */
                assert_true(fabs((double)last[b] - want_last) <= 1e-6 * want_last);
            }
            if (t == 0) {
                bits = g;
            } else {
                same_floats(g, bits, ROWS * wide, "threads");
                rf_free(g);
            }
        }
        rf_free(bits);
        rf_free(x);
        rf_free(x_hat);
    }
}

static void one_prefix_is_the_plain_residual(void **state)
{
    (void)state;
    float *x = normals(3, ROWS * WIDTH), *x_hat = normals(4, ROWS * WIDTH);
    float loss[ROWS], want_loss[ROWS], want[ROWS * WIDTH];
    OK(rf_residual(streams[0], &(rf_residual_args){.x = rf_view_2d(x, ROWS, WIDTH),
                                                   .x_hat = rf_view_2d(x_hat, ROWS, WIDTH),
                                                   .g = rf_view_2d(want, ROWS, WIDTH),
                                                   .row_loss = rf_view_1d(want_loss, ROWS),
                                                   .scale = 0.7f}));
    OK(rf_prefix_residual(streams[1],
                          &(rf_prefix_residual_args){.x = rf_view_2d(x, ROWS, WIDTH),
                                                     .x_hat = rf_view_2d(x_hat, ROWS, WIDTH),
                                                     .row_loss = rf_view_1d(loss, ROWS),
                                                     .n_groups = 1,
                                                     .weight = {1.0f},
                                                     .scale = 0.7f}));
    same_floats(x_hat, want, ROWS * WIDTH, "g");
    same_floats(loss, want_loss, ROWS, "row loss");
    rf_free(x);
    rf_free(x_hat);
}

/* ---- by latent ------------------------------------------------------------------------------ */

/* Two lists of one batch: the first in groups, the second without g. */
typedef struct two_lists {
    rf_codes codes[2];
    rf_latent_index index[2];
    float *g, *x;
    rf_by_latent_args args;
} two_lists;

enum { TOKENS = 600, LATENTS = 310, D_IN = 900, D_OUT = 33, N_GROUPS = 4 };

static void make_two(two_lists *m)
{
    /* the first latent of a group is used */
    rf_latent_groups groups = {.n = N_GROUPS, .end = {5, 41, 201, LATENTS}};
    m->g = normals(10, TOKENS * N_GROUPS * D_OUT);
    m->x = normals(11, TOKENS * D_IN);
    for (int l = 0; l < 2; l++) {
        m->codes[l] = ragged_codes(TOKENS, LATENTS, l == 0 ? 60 : 150);
        m->index[l] = make_index(LATENTS, m->codes[l].capacity);
        OK(rf_index_by_latent(streams[0], &m->codes[l], &m->index[l]));
    }
    m->args = (rf_by_latent_args){.n_lists = 2,
                                  .codes = {&m->codes[0], &m->codes[1]},
                                  .index = {&m->index[0], &m->index[1]},
                                  .g = {rf_view_2d(m->g, TOKENS, N_GROUPS * D_OUT)},
                                  .groups = {groups},
                                  .x = rf_view_2d(m->x, TOKENS, D_IN)};
}

static void free_two(two_lists *m)
{
    for (int l = 0; l < 2; l++) {
        free_codes(&m->codes[l]);
        free_index(&m->index[l]);
    }
    rf_free(m->g);
    rf_free(m->x);
}

static void aim(rf_by_latent_args *args, gradients *to, uint8_t *touched)
{
    args->d_w_enc = rf_view_2d(to->enc, LATENTS, D_IN);
    args->d_b_enc = rf_view_1d(to->bias, LATENTS);
    args->d_w_dec = rf_view_2d(to->dec, LATENTS, D_OUT);
    args->touched = touched;
    args->squares = &to->squares;
}

static gradients random_gradients(void)
{
    return (gradients){.enc = normals(12, LATENTS * D_IN),
                       .bias = normals(13, LATENTS),
                       .dec = normals(14, LATENTS * D_OUT)};
}

static void a_list_takes_its_groups_gradient_or_leaves_the_decoder_alone(void **state)
{
    (void)state;
    two_lists m;
    make_two(&m);
    gradients want = zero_gradients(LATENTS, D_IN, D_OUT);
    add_by_definition(&m.args, LATENTS, D_OUT, &want);
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        gradients got = random_gradients();
        uint8_t touched[LATENTS];
        aim(&m.args, &got, touched);
        OK(rf_accumulate_by_latent(streams[t], &m.args));
        same_floats(got.bias, want.bias, LATENTS, "d_b_enc");
        for (int64_t i = 0; i < LATENTS; i++) {
            if (touched[i]) { /* also by the second list alone: its decoder row is then zero */
                same_floats(got.enc + i * D_IN, want.enc + i * D_IN, D_IN, "d_w_enc");
                same_floats(got.dec + i * D_OUT, want.dec + i * D_OUT, D_OUT, "d_w_dec");
            }
        }
        assert_true(got.squares == want.squares);
        free_gradients(&got);
    }
    free_gradients(&want);
    free_two(&m);
}

static void sums_go_on_from_what_the_gradients_hold(void **state)
{
    (void)state;
    two_lists m;
    make_two(&m);
    gradients want = random_gradients();
    add_by_definition(&m.args, LATENTS, D_OUT, &want);
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        gradients got = random_gradients();
        uint8_t touched[LATENTS];
        aim(&m.args, &got, touched);
        got.squares = -1.0;
        m.args.accumulate = true;
        OK(rf_accumulate_by_latent(streams[t], &m.args));
        same_floats(got.enc, want.enc, LATENTS * D_IN, "d_w_enc"); /* untouched rows too */
        same_floats(got.bias, want.bias, LATENTS, "d_b_enc");
        same_floats(got.dec, want.dec, LATENTS * D_OUT, "d_w_dec");
        assert_true(got.squares == -1.0);
        m.args.squares = NULL; /* not written, so not needed */
        OK(rf_accumulate_by_latent(streams[t], &m.args));
        free_gradients(&got);
    }
    free_gradients(&want);
    free_two(&m);
}

static void entries_are_summed_by_latent_in_token_order(void **state)
{
    (void)state;
    two_lists m;
    make_two(&m);
    float *entries = normals(15, m.codes[0].capacity), *before = normals(16, LATENTS);
    float want[LATENTS] = {0}, got[LATENTS];
    rf_view out = rf_view_1d(got, LATENTS);
    for (int64_t e = 0; e < m.codes[0].row_start[TOKENS]; e++) {
        want[m.codes[0].latent[e]] += entries[e];
    }
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        memset(got, 0xff, sizeof got); /* NaN: with beta 0 it is not read */
        OK(rf_sum_by_latent(streams[t], &m.index[0], entries, &out, 0.0f));
        same_floats(got, want, LATENTS, "beta 0");
        memcpy(got, before, sizeof got);
        OK(rf_sum_by_latent(streams[t], &m.index[0], entries, &out, 1.0f));
        for (int i = 0; i < LATENTS; i++) {
            assert_true(got[i] == before[i] + want[i]);
        }
    }
    rf_free(entries);
    rf_free(before);
    free_two(&m);
}

/* ---- what is refused ------------------------------------------------------------------------ */

static void groups_that_are_not_the_latents_are_refused(void **state)
{
    (void)state;
    static const rf_latent_groups bad[] = {{.n = 2, .end = {5, 36}},    {.n = 2, .end = {5, 38}},
                                           {.n = 2, .end = {37, 37}},   {.n = 2, .end = {0, 37}},
                                           {.n = 3, .end = {9, 5, 37}}, {.n = -1},
                                           {.n = RF_MAX_GROUPS + 1}};
    grouped m = make_grouped(2);
    float *out = rf_calloc(m.n * m.d * RF_MAX_GROUPS, sizeof *out);
    for (size_t c = 0; c < sizeof bad / sizeof bad[0]; c++) {
        int64_t width = m.d * rf_max_i64(1, bad[c].n);
        rf_view w = rf_view_2d(m.w, m.f, m.d), rows = rf_view_2d(out, m.n, width);
        rf_decode_args decode = {.codes = &m.codes, .w_dec = w, .out = rows, .groups = bad[c]};
        rf_d_value_args d_value = {.codes = &m.codes, .w_dec = w, .g = rows, .groups = bad[c]};
        assert_int_equal(rf_decode(streams[0], &decode), RF_ERR_INVALID_ARG);
        assert_non_null(strstr(rf_error_text(), "group"));
        assert_int_equal(rf_d_value(streams[0], &d_value), RF_ERR_INVALID_ARG);
    }
    rf_decode_args narrow = {.codes = &m.codes,
                             .w_dec = rf_view_2d(m.w, m.f, m.d),
                             .out = rf_view_2d(out, m.n, m.d),
                             .groups = {.n = 2, .end = {5, 37}}};
    assert_int_equal(rf_decode(streams[0], &narrow), RF_ERR_INVALID_ARG);
    rf_prefix_residual_args none = {.x = narrow.out, .x_hat = narrow.out};
    assert_int_equal(rf_prefix_residual(streams[0], &none), RF_ERR_INVALID_ARG);
    none.n_groups = RF_MAX_GROUPS + 1;
    assert_int_equal(rf_prefix_residual(streams[0], &none), RF_ERR_INVALID_ARG);
    rf_free(out);
    free_grouped(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_group_adds_to_the_prefix_before_it),
        cmocka_unit_test(d_value_reads_the_columns_of_the_latents_group),
        cmocka_unit_test(prefixes_are_measured_and_weighed_from_the_last_to_the_first),
        cmocka_unit_test(one_prefix_is_the_plain_residual),
        cmocka_unit_test(a_list_takes_its_groups_gradient_or_leaves_the_decoder_alone),
        cmocka_unit_test(sums_go_on_from_what_the_gradients_hold),
        cmocka_unit_test(entries_are_summed_by_latent_in_token_order),
        cmocka_unit_test(groups_that_are_not_the_latents_are_refused),
    };
    return cmocka_run_group_tests(tests, open_streams, close_streams);
}
