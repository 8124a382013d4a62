/* Tokens as a coder sees them, and the way back, against formulas in double. */
#include "act_fixture.h"

enum { N_NORMS = RF_NORM_PER_DIMENSION + 1 };

typedef struct tokens {
    int64_t n, d;
    int n_sites;
    float *x, *y, *back, *row_shift, *row_scale, *shift, *scale, *subtract;
    uint8_t *valid;
    rf_normalise_args args;
} tokens;

/* Site l of `n_sites` ends at end[l]. */
static tokens make_tokens(rf_token_norm norm, int64_t n, int64_t d, int n_sites)
{
    const int rows = n_sites > 1 ? n_sites : 1;
    tokens t = {.n = n, .d = d, .n_sites = rows};
    t.x = random_floats(n * d, 1);
    t.y = rf_calloc(n * d, sizeof(float));
    t.back = rf_calloc(n * d, sizeof(float));
    t.row_shift = rf_calloc(n * rows, sizeof(float));
    t.row_scale = rf_calloc(n * rows, sizeof(float));
    t.shift = random_floats(d, 2);
    t.scale = random_floats(d, 3);
    t.subtract = random_floats(d, 4);
    t.valid = rf_calloc(n, 1);
    for (int64_t b = 0; b < n; b++) {
        t.valid[b] = b % 5 != 3;
        for (int64_t j = 0; j < d; j++) { /* far from 0, as transformers' activations are */
            t.x[b * d + j] = 5.0f + t.x[b * d + j] * (float)(1 + b % 7);
        }
    }
    for (int64_t j = 0; j < d; j++) {
        t.scale[j] = 0.3f + fabsf(t.scale[j]);
    }
    t.args = (rf_normalise_args){.norm = norm,
                                 .from = rf_view_2d(t.x, n, d),
                                 .to = rf_view_2d(t.y, n, d),
                                 .shift = rf_view_1d(t.shift, d),
                                 .scale = rf_view_1d(t.scale, d),
                                 .subtract = rf_view_1d(t.subtract, d),
                                 .row_shift = rf_view_2d(t.row_shift, n, rows),
                                 .row_scale = rf_view_2d(t.row_scale, n, rows),
                                 .segments = {.n = n_sites},
                                 .row_valid = t.valid};
    for (int l = 0; l < n_sites; l++) {
        t.args.segments.end[l] = l == n_sites - 1 ? d : 1 + l * d / n_sites;
    }
    return t;
}

static void free_tokens(tokens *t)
{
    void *blocks[] = {t->x,     t->y,     t->back,     t->row_shift, t->row_scale,
                      t->shift, t->scale, t->subtract, t->valid};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        rf_free(blocks[i]);
    }
}

typedef struct moments {
    double shift, scale;
} moments;

/* Of the site that column j is in. */
static moments moments_of(const tokens *t, int64_t b, int64_t j)
{
    const rf_segments *segments = &t->args.segments;
    const float *x = t->x + b * t->d;
    int64_t first = 0, last = t->d;
    double mean = 0, squares = 0;
    for (int l = 0; segments->n > 1 && l < segments->n; l++) {
        last = segments->end[l];
        if (j < last) {
            break;
        }
        first = last;
    }
    const double n = (double)(last - first);
    for (int64_t i = first; i < last; i++) {
        mean += (double)x[i] / n;
    }
    mean = t->args.norm == RF_NORM_LAYER ? mean : 0;
    for (int64_t i = first; i < last; i++) {
        squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    }
    if (t->args.norm == RF_NORM_LAYER) { /* of one column: no deviation */
        return (moments){mean, 1 / ((n > 1 ? sqrt(squares / (n - 1)) : 0) + 1e-5)};
    }
    return (moments){0, sqrt(n) / sqrt(squares)};
}

static double normalised(const tokens *t, int64_t b, int64_t j)
{
    const double x = (double)t->x[b * t->d + j];
    moments m = {0, 1};
    switch (t->args.norm) {
    case RF_NORM_NONE:
        break;
    case RF_NORM_LAYER:
    case RF_NORM_CONSTANT:
        m = moments_of(t, b, j);
        break;
    case RF_NORM_AVERAGE:
    case RF_NORM_PER_DIMENSION:
        m = (moments){(double)t->shift[j], (double)t->scale[j]};
        break;
    }
    return (x - m.shift) * m.scale - (double)t->subtract[j];
}

static void check_there(const tokens *t)
{
    for (int64_t b = 0; b < t->n; b++) {
        for (int64_t j = 0; j < t->d; j++) {
            const double want = t->valid[b] ? normalised(t, b, j) : 0;
            /* x near 10 less its mean in fp32, over a deviation of 1 or so. */
            near((double)t->y[b * t->d + j], want, 2e-6, "normalised");
        }
    }
}

/* Without `subtract` the way back gives the token; rows that are not valid get their shift. */
static void check_back(tokens *t, rf_stream *s)
{
    rf_normalise_args there = t->args, back = t->args;
    const bool has_shift = there.norm == RF_NORM_AVERAGE || there.norm == RF_NORM_PER_DIMENSION;
    there.subtract = (rf_view){0};
    back.from = there.to;
    back.to = rf_view_2d(t->back, t->n, t->d);
    OK(rf_normalise_tokens(s, &there));
    OK(rf_denormalise_tokens(s, &back)); /* does not read subtract */
    for (int64_t e = 0; e < t->n * t->d; e++) {
        const float blank = has_shift ? t->shift[e % t->d] : 0.0f;
        near((double)t->back[e], (double)(t->valid[e / t->d] ? t->x[e] : blank), 1e-6, "back");
    }
    back.to = back.from;
    OK(rf_denormalise_tokens(s, &back));
    same_bits(t->y, t->back, t->n * t->d, "back in place");
}

static const int64_t sizes[][3] = {{0, 4, 1},  {1, 1, 1}, {6, 1, 0},   {9, 16, 1},
                                   {7, 33, 2}, {5, 6, 3}, {11, 100, 4}};
enum { N_SIZES = 7 };

static void each_norm_is_its_formula_there_and_back(void **state)
{
    (void)state;
    for (int c = 0; c < N_SIZES * N_NORMS; c++) {
        const int64_t *size = sizes[c / N_NORMS];
        float *first = NULL;
        for (int k = 0; k < N_THREADS; k++) {
            tokens t = make_tokens((rf_token_norm)(c % N_NORMS), size[0], size[1], (int)size[2]);
            OK(rf_normalise_tokens(threads[k].s, &t.args));
            check_there(&t);
            if (k == 0) {
                first = rf_calloc(t.n * t.d, sizeof *first);
                memcpy(first, t.y, sizeof *first * (size_t)(t.n * t.d));
            }
            same_bits(t.y, first, t.n * t.d, "by threads");
            check_back(&t, threads[k].s);
            t.args.to = t.args.from;
            t.args.row_shift = t.args.row_scale = (rf_view){0}; /* may be absent on the way there */
            OK(rf_normalise_tokens(threads[k].s, &t.args));
            same_bits(t.x, first, t.n * t.d, "in place");
            free_tokens(&t);
        }
        rf_free(first);
    }
}

static void rows_keep_their_shift_and_scale_by_site(void **state)
{
    (void)state;
    for (int norm = RF_NORM_LAYER; norm <= RF_NORM_CONSTANT; norm++) {
        tokens t = make_tokens((rf_token_norm)norm, 9, 40, 3);
        OK(rf_normalise_tokens(threads[1].s, &t.args));
        for (int64_t b = 0; b < t.n; b++) {
            for (int l = 0; l < t.n_sites; l++) {
                const moments m = moments_of(&t, b, t.args.segments.end[l] - 1);
                const int64_t at = b * t.n_sites + l;
                near((double)t.row_shift[at], t.valid[b] ? m.shift : 0, 1e-7, "row_shift");
                if (!(fabs((double)t.row_scale[at] - (t.valid[b] ? m.scale : 1)) <=
                      1e-6 * fabs((double)t.row_scale[at]))) {
                    fail_msg("row_scale of %d, %d", (int)b, l);
                }
            }
        }
        free_tokens(&t);
    }
}

static void zero_and_constant_tokens_stay_finite(void **state)
{
    (void)state;
    float x[3][4] = {{0}, {3, 3, 3, 3}, {1e-42f, 0, 0, 0}}, y[3][4], back[3][4];
    float shift[3], scale[3];
    rf_normalise_args there = {.from = rf_view_2d(x, 3, 4), .to = rf_view_2d(y, 3, 4)};
    there.row_shift = rf_view_2d(shift, 3, 1);
    there.row_scale = rf_view_2d(scale, 3, 1);
    for (int norm = RF_NORM_LAYER; norm <= RF_NORM_CONSTANT; norm++) {
        there.norm = (rf_token_norm)norm;
        rf_normalise_args again = there;
        again.from = there.to;
        again.to = rf_view_2d(back, 3, 4);
        OK(rf_normalise_tokens(threads[0].s, &there));
        OK(rf_denormalise_tokens(threads[0].s, &again));
        for (int j = 0; j < 4; j++) {
            assert_true(y[0][j] == 0.0f && y[1][j] == (norm == RF_NORM_LAYER ? 0.0f : 1.0f));
            assert_true(isfinite(y[2][j]));
        }
        for (int b = 0; b < 2; b++) {
            for (int j = 0; j < 4; j++) {
                near((double)back[b][j], (double)x[b][j], 1e-6, "back");
            }
        }
    }
}

static void what_is_not_a_number_stays_visible_in_valid_rows_alone(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY};
    for (int c = 0; c < 2 * N_NORMS; c++) {
        tokens t = make_tokens((rf_token_norm)(c % N_NORMS), 5, 20, 1);
        for (int64_t b = 0; b < 5; b++) {
            t.x[b * 20 + 7] = bad[c / N_NORMS];
        }
        OK(rf_normalise_tokens(threads[0].s, &t.args));
        for (int64_t b = 0; b < 5; b++) {
            assert_true(t.valid[b] ? !isfinite(t.y[b * 20 + 7]) : t.y[b * 20 + 7] == 0.0f);
        }
        free_tokens(&t);
    }
}

static void rows_of_wider_matrices_are_normalised_alone(void **state)
{
    (void)state;
    tokens t = make_tokens(RF_NORM_LAYER, 6, 10, 1);
    float wide[6 * 13];
    for (int i = 0; i < 6 * 13; i++) {
        wide[i] = 77.0f;
    }
    OK(rf_normalise_tokens(threads[0].s, &t.args));
    t.args.to = rf_view_2d(wide, 6, 10);
    t.args.to.stride[0] = 13;
    OK(rf_normalise_tokens(threads[2].s, &t.args));
    for (int b = 0; b < 6; b++) {
        same_bits(wide + b * 13, t.y + b * 10, 10, "row");
        assert_true(wide[b * 13 + 10] == 77.0f && wide[b * 13 + 12] == 77.0f);
    }
    free_tokens(&t);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    rf_stream *s = threads[0].s;
    tokens t = make_tokens(RF_NORM_LAYER, 4, 12, 3);
    rf_normalise_args a = t.args;
    OK(rf_normalise_tokens(s, &a));
    a.segments.end[1] = a.segments.end[0];
    REFUSED(rf_normalise_tokens(s, &a)); /* an empty site */
    a = t.args;
    a.segments.end[2] = 11;
    REFUSED(rf_normalise_tokens(s, &a)); /* sites end before the columns do */
    a = t.args;
    a.segments.n = RF_MAX_SITES + 1;
    REFUSED(rf_normalise_tokens(s, &a));
    a = t.args;
    a.row_scale = rf_view_2d(t.row_scale, 4, 2);
    REFUSED(rf_normalise_tokens(s, &a));
    a = t.args;
    a.row_shift = (rf_view){0};
    REFUSED(rf_denormalise_tokens(s, &a)); /* is read */
    a = t.args;
    a.to = rf_view_2d(t.y, 4, 11);
    REFUSED(rf_normalise_tokens(s, &a));
    a = t.args;
    a.subtract = rf_view_1d(t.subtract, 11);
    REFUSED(rf_normalise_tokens(s, &a));
    a = t.args;
    a.norm = (rf_token_norm)9;
    REFUSED(rf_normalise_tokens(s, &a));
    free_tokens(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_norm_is_its_formula_there_and_back),
        cmocka_unit_test(rows_keep_their_shift_and_scale_by_site),
        cmocka_unit_test(zero_and_constant_tokens_stay_finite),
        cmocka_unit_test(what_is_not_a_number_stays_visible_in_valid_rows_alone),
        cmocka_unit_test(rows_of_wider_matrices_are_normalised_alone),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
