/* Encode and select against a naive reference that asks rf_dot for every latent: the same latents
 * and the same bits, for any shape, any number of threads, and data made to deceive. */
#include "encode_fixture.h"

#include <float.h>

/* Of every row the k (or that of its class) largest > 0: larger value first, then smaller latent.
 */
static rf_codes reference(const problem *p, int64_t k, const uint8_t *row_class,
                          const int64_t *class_k)
{
    float *h = canonical(p);
    bool *is_in = rf_calloc(p->n * p->f, sizeof *is_in);
    for (int64_t r = 0; r < p->n; r++) {
        int64_t first = r * p->f, n = row_class == NULL ? k : class_k[row_class[r] % 200];
        for (int64_t c = 0; c < n; c++) {
            int64_t best = -1;
            for (int64_t e = first; e < first + p->f; e++) {
                best = !is_in[e] && h[e] > 0.0f && (best < 0 || h[e] > h[best]) ? e : best;
            }
            if (best < 0) {
                break;
            }
            is_in[best] = true;
        }
    }
    rf_codes codes = codes_where(p, h, is_in);
    rf_free(is_in);
    rf_free(h);
    return codes;
}

static void check_topk(const problem *p, int64_t k, const char *what)
{
    static const int n_threads[] = {1, 2, 7};
    rf_codes want = reference(p, k, NULL, NULL);
    for (int t = 0; t < 3; t++) {
        rf_codes got = make_codes(p->n, p->n * rf_min_i64(k, p->f) + t);
        int64_t refused = -1;
        rf_encode_args args = args_of(p);
        args.n_refused = &refused;
        args.lists[0] = (rf_select_list){
            .rule = RF_SELECT_TOPK, .k = k, .codes = &got, .eligible = p->eligible};
        run(&args, n_threads[t]);
        same_codes(&got, &want, what);
        assert_int_equal(refused, 0);
        unmake_codes(&got);
    }
    unmake_codes(&want);
}

/* ---- claims -------------------------------------------------------------------------------- */

static void topk_equals_a_dot_for_every_latent(void **state)
{
    (void)state;
    static const int64_t rows[] = {1, 15, 16, 17, 255, 257, 300};
    static const int64_t latents[] = {1, 15, 16, 17, 1023, 1024, 1025, 2047, 2048, 2049};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t j = 0; j < sizeof latents / sizeof latents[0]; j++) {
            if (rows[i] * latents[j] <= 300 * 1025) {
                char what[64];
                problem p = make(10 * i + j, rows[i], 24 + (int64_t)j, latents[j]);
                OK(rf_format(what, sizeof what, "%d x %d", (int)rows[i], (int)latents[j]));
                check_topk(&p, 1 + (int64_t)(i + j) % 9, what);
                unmake(&p);
            }
        }
    }
    problem wide = make(77, 33, 768, 4097); /* dots long enough for several lanes and K steps */
    check_topk(&wide, 32, "33 x 4097, width 768");
    unmake(&wide);
}

static void k_may_reach_and_exceed_the_dictionary(void **state)
{
    (void)state;
    problem p = make(3, 20, 8, 50);
    check_topk(&p, 49, "k = F - 1");
    check_topk(&p, 50, "k = F");
    check_topk(&p, 5000, "k > F");
    unmake(&p);
}

static void ties_go_to_the_smaller_latent(void **state)
{
    (void)state;
    problem p = make(4, 40, 12, 3000);
    for (int64_t i = 0; i < p.f; i++) { /* 7 different rows, each many times; all tie */
        memcpy(p.w + i * p.d, p.w + (i % 7) * p.d, sizeof(float) * (size_t)p.d);
        p.b[i] = 0.25f;
    }
    check_topk(&p, 10, "duplicates");
    check_topk(&p, 600, "duplicates, k across groups");
    memset(p.w, 0, sizeof(float) * (size_t)(p.f * p.d)); /* pre = bias for all 3000 latents */
    check_topk(&p, 10, "all equal");
    for (int64_t i = 0; i < p.f; i++) { /* crowds of ties, each larger than those before */
        p.b[i] = 0.5f + 0.1f * (float)(i / 700);
    }
    check_topk(&p, 10, "rising crowds");
    unmake(&p);
}

/* Latents whose pre-activations differ by one rounding: the product cannot tell them apart. */
static void values_a_rounding_apart_are_told_apart(void **state)
{
    (void)state;
    problem p = make(5, 64, 96, 2500);
    for (int64_t i = 1; i < p.f; i++) {
        memcpy(p.w + i * p.d, p.w, sizeof(float) * (size_t)p.d);
        p.w[i * p.d + i % p.d] = nextafterf(p.w[i % p.d], i % 2 == 0 ? 9.0f : -9.0f);
        p.b[i] = p.b[0];
    }
    check_topk(&p, 16, "a rounding apart");
    unmake(&p);
}

static void values_at_or_below_zero_are_never_selected(void **state)
{
    (void)state;
    problem p = make(6, 30, 16, 1500);
    for (int64_t i = 0; i < p.f; i++) {
        p.b[i] = -100.0f;
    }
    check_topk(&p, 8, "all negative");
    for (int64_t i = 0; i < p.f; i++) {
        p.b[i] = i == 1200 ? 100.0f : -100.0f;
    }
    check_topk(&p, 8, "one positive");
    memset(p.x, 0, sizeof(float) * (size_t)(p.n * p.d));
    memset(p.b, 0, sizeof(float) * (size_t)p.f);
    check_topk(&p, 8, "exactly zero");
    for (int64_t i = 0; i < p.f; i++) { /* the least positive float counts */
        p.b[i] = i % 3 == 0 ? 0x1p-149f : -0.0f;
    }
    check_topk(&p, 700, "the least positive");
    unmake(&p);
}

/* Bounds must hold per latent: tiny and huge rows side by side, and outlier dimensions. */
static void rows_of_any_norm_are_bounded(void **state)
{
    (void)state;
    problem p = make(7, 50, 40, 2000);
    for (int64_t i = 0; i < p.f; i++) {
        float scale = powf(10.0f, (float)(i % 13) - 6.0f);
        for (int64_t j = 0; j < p.d; j++) {
            p.w[i * p.d + j] *= scale;
        }
    }
    for (int64_t r = 0; r < p.n; r++) {
        p.x[r * p.d + 5] = 500.0f; /* cancels against row-to-row differences */
    }
    check_topk(&p, 20, "norms from 1e-6 to 1e6");
    for (int64_t i = 0; i < p.n * p.d; i++) {
        p.x[i] *= 1e-30f; /* products underflow */
    }
    check_topk(&p, 20, "tokens of 1e-30");
    unmake(&p);
}

static void only_eligible_latents_are_selected(void **state)
{
    (void)state;
    problem p = make(8, 60, 20, 2300);
    p.eligible = rf_calloc(p.f, 1);
    check_topk(&p, 12, "none eligible");
    for (int64_t i = 0; i < p.f; i++) {
        p.eligible[i] = i % 10 == 3;
    }
    check_topk(&p, 12, "a tenth eligible");
    check_topk(&p, 512, "a tenth eligible, more wanted than there are");
    for (int64_t i = 0; i < p.f; i++) {
        p.eligible[i] = i > 2000;
    }
    check_topk(&p, 12, "the end eligible");
    unmake(&p);
}

static void rows_that_are_not_valid_get_no_entries(void **state)
{
    (void)state;
    problem p = make(9, 70, 20, 300);
    p.valid = rf_calloc(p.n, 1);
    for (int64_t r = 0; r < p.n; r++) {
        p.valid[r] = r % 3 != 1;
        p.x[r * p.d] = p.valid[r] ? p.x[r * p.d] : NAN;
    }
    check_topk(&p, 7, "invalid rows");
    memset(p.valid, 0, (size_t)p.n);
    check_topk(&p, 7, "no valid row");
    unmake(&p);
}

static void rows_that_are_not_finite_or_could_overflow_are_refused_and_counted(void **state)
{
    (void)state;
    problem p = make(10, 40, 20, 300);
    rf_codes got = make_codes(p.n, p.n * 5);
    int64_t refused = 0;
    rf_encode_args args = args_of(&p);
    args.n_refused = &refused;
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_TOPK, .k = 5, .codes = &got};
    p.x[3 * p.d + 1] = NAN;
    p.x[17 * p.d] = INFINITY;
    p.x[20 * p.d + 19] = FLT_MAX;
    run(&args, 2);
    assert_int_equal(refused, 3);
    for (int64_t r = 0; r < p.n; r++) {
        bool is_bad = r == 3 || r == 17 || r == 20;
        assert_int_equal(got.row_start[r + 1] - got.row_start[r], is_bad ? 0 : 5);
    }
    p.w[100] = NAN;
    run(&args, 2);
    assert_int_equal(refused, p.n);
    assert_int_equal(got.row_start[p.n], 0);
    unmake_codes(&got);
    unmake(&p);
}

static void no_rows_give_no_codes(void **state)
{
    (void)state;
    problem p = make(11, 0, 8, 30);
    rf_codes got = make_codes(0, 0);
    rf_encode_args args = args_of(&p);
    got.row_start[0] = 99;
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_TOPK, .k = 5, .codes = &got};
    run(&args, 2);
    assert_int_equal(got.row_start[0], 0);
    unmake_codes(&got);
    unmake(&p);
}

/* A class that is none counts as class 0. */
static void rows_have_the_k_of_their_class(void **state)
{
    (void)state;
    static const int64_t class_k[RF_MAX_ROW_CLASSES] = {40, 7, 0, 33, 1};
    problem p = make(30, 150, 20, 1300);
    uint8_t *row_class = rf_calloc(p.n, sizeof *row_class);
    p.valid = rf_calloc(p.n, 1);
    for (int64_t r = 0; r < p.n; r++) {
        row_class[r] = (uint8_t)(r % 17 == 3 ? 200 : r * 7 % 5);
        p.valid[r] = r % 11 != 5;
    }
    rf_codes want = reference(&p, 40, row_class, class_k);
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        rf_codes got = make_codes(p.n, p.n * 40);
        int64_t overflow = -1;
        rf_encode_args args = args_of(&p);
        args.lists[0] = (rf_select_list){.rule = RF_SELECT_TOPK,
                                         .k = 40,
                                         .row_class = row_class,
                                         .codes = &got,
                                         .overflow = &overflow};
        memcpy(args.lists[0].class_k, class_k, sizeof class_k);
        run(&args, n_threads);
        same_codes(&got, &want, "k by class");
        assert_int_equal(overflow, 0);
        unmake_codes(&got);
    }
    unmake_codes(&want);
    rf_free(row_class);
    unmake(&p);
}

/* What is above a floor of its class is what is above that floor alone, of the class's rows. */
static void rows_have_the_floor_of_their_class(void **state)
{
    (void)state;
    static const float floors[RF_MAX_ROW_CLASSES] = {0.5f, 3.0f, -1.0f, 1.25f};
    problem p = make(31, 90, 20, 700);
    uint8_t *row_class = rf_calloc(p.n, sizeof *row_class);
    int64_t overflow = -1;
    float *h = canonical(&p);
    bool *is_in = rf_calloc(p.n * p.f, sizeof *is_in);
    for (int64_t r = 0; r < p.n; r++) {
        row_class[r] = (uint8_t)(r % 13 == 5 ? 200 : r % 4);
        for (int64_t i = 0; i < p.f; i++) {
            const float floor = floors[row_class[r] % 200];
            is_in[r * p.f + i] = h[r * p.f + i] > 0.0f && h[r * p.f + i] > floor;
        }
    }
    rf_codes want = codes_where(&p, h, is_in), got = make_codes(p.n, p.n * p.f);
    rf_encode_args args = args_of(&p);
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_ABOVE,
                                     .row_class = row_class,
                                     .floor = floors,
                                     .codes = &got,
                                     .overflow = &overflow};
    run(&args, 2);
    assert_int_equal(overflow, 0);
    same_codes(&got, &want, "floor by class");
    unmake_codes(&got);
    unmake_codes(&want);
    rf_free(is_in);
    rf_free(h);
    rf_free(row_class);
    unmake(&p);
}

static void only_rules_with_canonical_values_are_exact(void **state)
{
    (void)state;
    assert_true(rf_select_is_exact(RF_SELECT_TOPK));
    assert_true(rf_select_is_exact(RF_SELECT_BATCH_TOPK));
    assert_true(rf_select_is_exact(RF_SELECT_ABOVE));
    assert_false(rf_select_is_exact(RF_SELECT_POSITIVE));
    assert_false(rf_select_is_exact(RF_SELECT_WINDOW));
}

static void several_lists_of_one_encode_equal_encodes_apart(void **state)
{
    (void)state;
    problem p = make(21, 90, 30, 1300), q = p;
    rf_codes main_codes = make_codes(p.n, p.n * 10), aux = make_codes(p.n, p.n * 6);
    rf_codes all = make_codes(p.n, p.n * p.f), want;
    int64_t overflow = 0;
    rf_encode_args args = args_of(&p);
    q.eligible = rf_calloc(p.f, 1);
    for (int64_t i = 0; i < p.f; i += 4) {
        q.eligible[i] = 1;
    }
    args.n_lists = 3;
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_TOPK, .k = 10, .codes = &main_codes};
    args.lists[1] =
        (rf_select_list){.rule = RF_SELECT_TOPK, .k = 6, .codes = &aux, .eligible = q.eligible};
    args.lists[2] =
        (rf_select_list){.rule = RF_SELECT_POSITIVE, .codes = &all, .overflow = &overflow};
    run(&args, 2);
    want = reference(&p, 10, NULL, NULL);
    same_codes(&main_codes, &want, "main");
    unmake_codes(&want);
    want = reference(&q, 6, NULL, NULL);
    same_codes(&aux, &want, "auxiliary");
    unmake_codes(&want);
    assert_true(all.row_start[p.n] > p.n * p.f / 3);
    unmake_codes(&main_codes);
    unmake_codes(&aux);
    unmake_codes(&all);
    unmake(&q); /* p's arrays too */
}

static void shapes_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    problem p = make(22, 10, 8, 30);
    rf_codes codes = make_codes(10, 10 * 4);
    rf_backend *be;
    rf_stream *s;
    OK(rf_backend_cpu_create(1, &be));
    OK(rf_stream_create(be, &s));
    rf_encode_args args = args_of(&p);
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_TOPK, .k = 5, .codes = &codes};
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG); /* room for 4 */
    args.lists[0].k = 0;
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_POSITIVE, .codes = &codes};
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG); /* overflow is not counted */
    int64_t overflow;
    float floor = 0.0f, theta[30] = {0};
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_BATCH_TOPK, .k = 41, .codes = &codes};
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG); /* room for 40 */
    args.lists[0].k = -1;
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    args.lists[0] =
        (rf_select_list){.rule = RF_SELECT_ABOVE, .codes = &codes, .overflow = &overflow};
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG); /* above what? */
    args.lists[0].overflow = NULL;
    args.lists[0].floor = &floor;
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    args.lists[0] = (rf_select_list){
        .rule = RF_SELECT_WINDOW, .window = 0.1f, .codes = &codes, .overflow = &overflow};
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG); /* around what? */
    args.lists[0].threshold = rf_view_1d(theta, 29);
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    args.lists[0].threshold = rf_view_1d(theta, 30);
    args.lists[0].window = NAN;
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    args.lists[0].window = 0.0f;
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    args.lists[0].rule = (rf_select_rule)99;
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_TOPK, .k = 4, .codes = &codes};
    args.products = (rf_products)7;
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    args.products = RF_PRODUCTS_F32;
    assert_int_equal(rf_encode(s, &args), RF_OK);
    args.w_enc.shape[1] = 7;
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    args.w_enc.shape[1] = 8;
    args.b_enc.shape[0] = 29;
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    unmake_codes(&codes);
    unmake(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(topk_equals_a_dot_for_every_latent),
        cmocka_unit_test(k_may_reach_and_exceed_the_dictionary),
        cmocka_unit_test(ties_go_to_the_smaller_latent),
        cmocka_unit_test(values_a_rounding_apart_are_told_apart),
        cmocka_unit_test(values_at_or_below_zero_are_never_selected),
        cmocka_unit_test(rows_of_any_norm_are_bounded),
        cmocka_unit_test(only_eligible_latents_are_selected),
        cmocka_unit_test(rows_that_are_not_valid_get_no_entries),
        cmocka_unit_test(rows_that_are_not_finite_or_could_overflow_are_refused_and_counted),
        cmocka_unit_test(no_rows_give_no_codes),
        cmocka_unit_test(rows_have_the_k_of_their_class),
        cmocka_unit_test(rows_have_the_floor_of_their_class),
        cmocka_unit_test(only_rules_with_canonical_values_are_exact),
        cmocka_unit_test(several_lists_of_one_encode_equal_encodes_apart),
        cmocka_unit_test(shapes_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
