/* Rules whose lists may hold anything: ABOVE, of canonical values, and POSITIVE and WINDOW, of
 * those of the product. */
#include "encode_fixture.h"

/* ---- above a floor ------------------------------------------------------------------------- */

static void check_above(const problem *p, float floor, const char *what)
{
    float *h = canonical(p), least = floor > 0.0f ? floor : 0.0f;
    bool *is_in = rf_calloc(p->n * p->f, sizeof *is_in);
    for (int64_t e = 0; e < p->n * p->f; e++) {
        is_in[e] = h[e] > least;
    }
    rf_codes want = codes_where(p, h, is_in);
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        for (int64_t spare = -1; spare <= 1; spare++) {
            int64_t overflow = -1, room = want.row_start[p->n] + spare;
            if (room < 0) {
                continue;
            }
            rf_codes got = make_codes(p->n, room);
            rf_encode_args args = args_of(p);
            args.lists[0] = (rf_select_list){.rule = RF_SELECT_ABOVE,
                                             .floor = &floor,
                                             .eligible = p->eligible,
                                             .codes = &got,
                                             .overflow = &overflow};
            run(&args, n_threads);
            assert_int_equal(overflow, spare < 0);
            if (spare >= 0) {
                same_codes(&got, &want, what);
            } else {
                assert_int_equal(got.row_start[p->n], 0);
            }
            unmake_codes(&got);
        }
    }
    unmake_codes(&want);
    rf_free(is_in);
    rf_free(h);
}

static void lists_above_a_floor_equal_a_dot_for_every_latent(void **state)
{
    (void)state;
    static const int64_t rows[] = {1, 16, 17, 150};
    static const int64_t latents[] = {1, 15, 513, 1023, 1024, 1025};
    static const float floors[] = {-3.0f, 0.0f, 1.5f, 4.0f, 1e9f, NAN};
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 6; j++) {
            problem p = make((uint64_t)(100 + 10 * i + j), rows[i], 24 + j, latents[j]);
            check_above(&p, floors[(i + j) % 6], "above");
            unmake(&p);
        }
    }
    problem p = make(200, 40, 30, 700);
    p.valid = rf_calloc(p.n, 1);
    p.eligible = rf_calloc(p.f, 1);
    for (int64_t i = 0; i < p.f; i++) {
        p.eligible[i] = i % 3 == 1;
        p.valid[i % p.n] = i % p.n % 4 != 2;
    }
    check_above(&p, 0.7f, "some eligible, some valid");
    unmake(&p);
}

/* The floor is one of the values: it and its equals stay out, what is one rounding above comes in.
 */
static void what_equals_the_floor_is_not_above_it(void **state)
{
    (void)state;
    problem p = make(201, 30, 40, 600);
    for (int64_t i = 1; i < p.f; i++) { /* many equal, others a rounding apart */
        memcpy(p.w + i * p.d, p.w, sizeof(float) * (size_t)p.d);
        p.b[i] = p.b[0];
        if (i % 3 == 0) {
            p.w[i * p.d + i % p.d] = nextafterf(p.w[i % p.d], i % 2 == 0 ? 9.0f : -9.0f);
        }
    }
    float *h = canonical(&p);
    for (int64_t r = 0; r < p.n; r += 7) {
        check_above(&p, h[r * p.f], "the floor is a value");
    }
    rf_free(h);
    unmake(&p);
}

/* ---- values of the product ----------------------------------------------------------------- */

/* ReLU: values of the product, the same for any number of threads, near those of the dot. */
static void positive_lists_hold_every_positive_value(void **state)
{
    (void)state;
    static const int64_t rows[] = {1, 17, 40, 300};
    for (int i = 0; i < 4; i++) {
        problem p = make(12 + (uint64_t)i, rows[i], 32, 1100);
        rf_codes codes[3];
        for (int t = 0; t < 3; t++) {
            int64_t overflow = -1;
            rf_encode_args args = args_of(&p);
            codes[t] = make_codes(p.n, p.n * p.f);
            args.lists[0] = (rf_select_list){
                .rule = RF_SELECT_POSITIVE, .codes = &codes[t], .overflow = &overflow};
            run(&args, 1 + 2 * t);
            assert_int_equal(overflow, 0);
            same_codes(&codes[t], &codes[0], "threads");
        }
        for (int64_t r = 0; r < p.n; r++) {
            int64_t e = codes[0].row_start[r];
            for (int64_t j = 0; j < p.f; j++) {
                double v = (double)p.b[j];
                for (int64_t d = 0; d < p.d; d++) {
                    v += (double)p.x[r * p.d + d] * (double)p.w[j * p.d + d];
                }
                bool is_in = e < codes[0].row_start[r + 1] && codes[0].latent[e] == j;
                if (is_in) {
                    assert_true(fabs((double)codes[0].value[e] - v) <= 2e-5); /* |x||w| 32 u */
                    e++;
                } else {
                    assert_true(v <= 2e-5);
                }
            }
            assert_int_equal(e, codes[0].row_start[r + 1]);
        }
        for (int t = 0; t < 3; t++) {
            unmake_codes(&codes[t]);
        }
        unmake(&p);
    }
}

/* Rows share the room: one may have many entries where others have few. */
static void a_positive_list_fits_when_all_entries_do(void **state)
{
    (void)state;
    enum { EACH = 30, CROWDED = 400 };
    problem p = make(20, 50, 8, 400);
    for (int64_t i = 0; i < p.f; i++) { /* 30 latents positive, all of them for rows 10 and 49 */
        memset(p.w + i * p.d, 0, sizeof(float) * (size_t)p.d);
        p.b[i] = i % 13 == 0 && i < 390 ? 1.0f : -1.0f;
        p.w[i * p.d] = 1.0f;
    }
    for (int64_t r = 0; r < p.n; r++) {
        p.x[r * p.d] = r == 10 || r == 49 ? 2.0f : 0.0f;
    }
    int64_t total = 48 * EACH + 2 * CROWDED;
    for (int64_t room = total - 1; room <= total + 1; room++) {
        for (int n_threads = 1; n_threads <= 4; n_threads += 3) {
            rf_codes got = make_codes(p.n, room);
            int64_t overflow = -1;
            rf_encode_args args = args_of(&p);
            args.lists[0] =
                (rf_select_list){.rule = RF_SELECT_POSITIVE, .codes = &got, .overflow = &overflow};
            run(&args, n_threads);
            assert_int_equal(overflow, room < total);
            for (int64_t r = 0; r < p.n; r++) {
                int64_t want = r == 10 || r == 49 ? CROWDED : EACH;
                assert_int_equal(got.row_start[r + 1] - got.row_start[r], room < total ? 0 : want);
            }
            unmake_codes(&got);
        }
    }
    unmake(&p);
}

/* So many more than fit that chunks run out in the middle. */
static void a_list_far_too_small_is_only_counted(void **state)
{
    (void)state;
    problem p = make(23, 300, 8, 900);
    rf_codes got = make_codes(p.n, 10);
    int64_t overflow = -1;
    rf_encode_args args = args_of(&p);
    args.lists[0] =
        (rf_select_list){.rule = RF_SELECT_POSITIVE, .codes = &got, .overflow = &overflow};
    run(&args, 3);
    assert_int_equal(overflow, 1);
    assert_int_equal(got.row_start[p.n], 0);
    unmake_codes(&got);
    unmake(&p);
}

/* Runs a list of one rule on 1, 2 and 5 threads, which must agree, and returns its codes. */
static rf_codes run_values(const problem *p, const rf_select_list *list)
{
    rf_codes codes[3];
    for (int t = 0; t < 3; t++) {
        int64_t overflow = -1;
        rf_encode_args args = args_of(p);
        codes[t] = make_codes(p->n, p->n * p->f);
        args.lists[0] = *list;
        args.lists[0].eligible = p->eligible;
        args.lists[0].codes = &codes[t];
        args.lists[0].overflow = &overflow;
        run(&args, t == 2 ? 5 : t + 1);
        assert_int_equal(overflow, 0);
        same_codes(&codes[t], &codes[0], "threads");
    }
    unmake_codes(&codes[1]);
    unmake_codes(&codes[2]);
    return codes[0];
}

/* Every value of the product of a row and latent, from two lists that leave none out. */
static float *products(const problem *p)
{
    float *v = rf_calloc(p->n * p->f, sizeof *v), *zero = rf_calloc(p->f, sizeof *zero);
    rf_codes all = run_values(p, &(rf_select_list){.rule = RF_SELECT_WINDOW,
                                                   .threshold = rf_view_1d(zero, p->f),
                                                   .window = 1e30f});
    for (int64_t e = 0; e < p->n * p->f; e++) {
        v[e] = NAN;
    }
    for (int64_t r = 0; r < p->n; r++) {
        for (int64_t e = all.row_start[r]; e < all.row_start[r + 1]; e++) {
            v[r * p->f + all.latent[e]] = all.value[e];
        }
    }
    unmake_codes(&all);
    rf_free(zero);
    return v;
}

static problem make_hurdles(uint64_t tag, float **theta)
{
    problem p = make(tag, 70, 32, 1100);
    p.valid = rf_calloc(p.n, 1);
    p.eligible = rf_calloc(p.f, 1);
    *theta = normals(tag + 9, p.f, 1.0f); /* some below 0 */
    memset(p.x + 2 * p.d, 0, sizeof(float) * (size_t)p.d);
    for (int64_t i = 0; i < p.f; i++) {
        p.eligible[i] = i % 5 != 3 || tag % 2 == 0;
        p.valid[i % p.n] = i % p.n % 6 != 1;
        p.b[i] = i % 4 == 0 ? 0.0f : p.b[i]; /* values of row 2 that are 0 */
    }
    return p;
}

static void thresholds_are_of_a_latent_and_strict(void **state)
{
    (void)state;
    for (uint64_t tag = 300; tag < 302; tag++) {
        float *theta;
        problem p = make_hurdles(tag, &theta);
        float *v = products(&p);
        for (int64_t i = 0; i < p.f; i += 3) { /* exactly a value of a row, or the float below it */
            float value = v[i % p.n * p.f + i];
            theta[i] = isnan(value) ? theta[i] : nextafterf(value, i % 2 == 0 ? value : -9.0f);
        }
        theta[7] = NAN;
        theta[8] = INFINITY;
        theta[9] = -INFINITY;
        bool *is_in = rf_calloc(p.n * p.f, sizeof *is_in);
        for (int64_t e = 0; e < p.n * p.f; e++) {
            is_in[e] = v[e] > 0.0f && v[e] > theta[e % p.f];
        }
        rf_codes want = codes_where(&p, v, is_in);
        rf_codes got = run_values(
            &p, &(rf_select_list){.rule = RF_SELECT_POSITIVE, .threshold = rf_view_1d(theta, p.f)});
        same_codes(&got, &want, "thresholds");
        unmake_codes(&got);
        unmake_codes(&want);
        rf_free(is_in);
        rf_free(v);
        rf_free(theta);
        unmake(&p);
    }
}

static void windows_hold_what_is_near_a_threshold_whatever_its_sign(void **state)
{
    (void)state;
    static const float windows[] = {1e-3f, 0.25f, 6.0f};
    for (int k = 0; k < 3; k++) {
        float *theta;
        int64_t n_negative = 0;
        problem p = make_hurdles((uint64_t)(400 + k), &theta);
        float *v = products(&p);
        for (int64_t i = 0; i < p.f; i += 3) { /* the window's edge is a value */
            float value = v[i % p.n * p.f + i];
            theta[i] = isnan(value) ? theta[i] : value + (i % 2 == 0 ? 0.5f : -0.5f) * windows[k];
        }
        theta[7] = NAN;
        theta[8] = INFINITY;
        theta[9] = -INFINITY;
        bool *is_in = rf_calloc(p.n * p.f, sizeof *is_in);
        for (int64_t e = 0; e < p.n * p.f; e++) {
            is_in[e] = fabsf(v[e] - theta[e % p.f]) < 0.5f * windows[k];
            n_negative += is_in[e] && v[e] < 0.0f;
        }
        assert_true(n_negative > 0);
        rf_codes want = codes_where(&p, v, is_in);
        rf_codes got = run_values(&p, &(rf_select_list){.rule = RF_SELECT_WINDOW,
                                                        .threshold = rf_view_1d(theta, p.f),
                                                        .window = windows[k]});
        same_codes(&got, &want, "window");
        unmake_codes(&got);
        unmake_codes(&want);
        rf_free(is_in);
        rf_free(v);
        rf_free(theta);
        unmake(&p);
    }
}

/* A dictionary's last tile may be narrow. */
static void values_do_not_depend_on_threads_where_tiles_are_ragged(void **state)
{
    (void)state;
    for (int64_t f = 509; f <= 530; f += 3) {
        problem p = make((uint64_t)(500 + f), 75, 40, f);
        rf_codes got = run_values(&p, &(rf_select_list){.rule = RF_SELECT_POSITIVE});
        assert_true(got.row_start[p.n] > p.n * f / 3);
        unmake_codes(&got);
        unmake(&p);
    }
}

static void no_rows_do_not_overflow(void **state)
{
    (void)state;
    static const rf_select_rule rules[] = {RF_SELECT_ABOVE, RF_SELECT_POSITIVE, RF_SELECT_WINDOW};
    problem p = make(600, 0, 8, 30);
    float floor = 0.0f, theta[30] = {0};
    for (int i = 0; i < 3; i++) {
        rf_codes got = make_codes(0, 0);
        int64_t overflow = -1;
        rf_encode_args args = args_of(&p);
        got.row_start[0] = 99;
        args.lists[0] = (rf_select_list){.rule = rules[i],
                                         .floor = &floor,
                                         .threshold = rf_view_1d(theta, 30),
                                         .window = 1.0f,
                                         .codes = &got,
                                         .overflow = &overflow};
        run(&args, 2);
        assert_int_equal(overflow, 0);
        assert_int_equal(got.row_start[0], 0);
        unmake_codes(&got);
    }
    unmake(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_above_a_floor_equal_a_dot_for_every_latent),
        cmocka_unit_test(what_equals_the_floor_is_not_above_it),
        cmocka_unit_test(positive_lists_hold_every_positive_value),
        cmocka_unit_test(a_positive_list_fits_when_all_entries_do),
        cmocka_unit_test(a_list_far_too_small_is_only_counted),
        cmocka_unit_test(thresholds_are_of_a_latent_and_strict),
        cmocka_unit_test(windows_hold_what_is_near_a_threshold_whatever_its_sign),
        cmocka_unit_test(values_do_not_depend_on_threads_where_tiles_are_ragged),
        cmocka_unit_test(no_rows_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
