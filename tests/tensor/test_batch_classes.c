/* BATCH_TOPK by classes of rows: against a cut of the rows of each class alone. */
#include "batch_reference.h"

enum { BUCKETS = 65536 };

/* Cuts of the rows of each class alone, side by side. */
static rf_codes reference_by_class(const problem *p, const uint8_t *row_class, const int64_t *k)
{
    uint8_t *valid = rf_calloc(p->n, sizeof *valid);
    bool *is_in = rf_calloc(p->n * p->f, sizeof *is_in);
    float *h = canonical(p);
    for (int c = 0; c < RF_MAX_ROW_CLASSES; c++) {
        problem q = *p;
        q.valid = valid;
        for (int64_t r = 0; r < p->n; r++) {
            const int own = row_class[r] < RF_MAX_ROW_CLASSES ? row_class[r] : 0;
            valid[r] = own == c && (p->valid == NULL || p->valid[r] != 0);
        }
        rf_codes one = batch_reference(&q, k[c]);
        for (int64_t e = 0, r = 0; e < one.row_start[p->n]; e++) {
            for (; e >= one.row_start[r + 1]; r++) {
            }
            is_in[r * p->f + one.latent[e]] = true;
        }
        unmake_codes(&one);
    }
    rf_codes codes = codes_where(p, h, is_in);
    rf_free(h);
    rf_free(is_in);
    rf_free(valid);
    return codes;
}

static int64_t sum_of(const int64_t *k)
{
    int64_t sum = 0;
    for (int c = 0; c < RF_MAX_ROW_CLASSES; c++) {
        sum += k[c];
    }
    return sum;
}

static rf_codes select_by_class(const problem *p, const uint8_t *row_class, const int64_t *k,
                                int n_threads)
{
    rf_codes got = make_codes(p->n, rf_min_i64(sum_of(k), p->n * p->f));
    rf_encode_args args = args_of(p);
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_BATCH_TOPK,
                                     .k = sum_of(k),
                                     .row_class = row_class,
                                     .codes = &got,
                                     .eligible = p->eligible};
    memcpy(args.lists[0].class_k, k, sizeof args.lists[0].class_k);
    run(&args, n_threads);
    return got;
}

static void check_by_class(const problem *p, const uint8_t *row_class, const int64_t *k,
                           const char *what)
{
    rf_codes want = reference_by_class(p, row_class, k);
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        int64_t n_live = rf_alloc_live();
        rf_codes got = select_by_class(p, row_class, k, n_threads);
        same_codes(&got, &want, what);
        unmake_codes(&got);
        assert_int_equal(rf_alloc_live(), n_live);
    }
    unmake_codes(&want);
}

/* One row in thirty of class 1, as CLS tokens are; some of what is no class, which counts as 0. */
static uint8_t *classes_of(int64_t n)
{
    uint8_t *classes = rf_calloc(n, sizeof *classes);
    for (int64_t r = 0; r < n; r++) {
        classes[r] = (uint8_t)(r % 30 == 4 ? 1 : r % 7 == 2 ? 7 : r % 11 == 3 ? 255 : 3);
    }
    return classes;
}

static void classes_of_rows_share_out_their_own_k(void **state)
{
    (void)state;
    static const int64_t rows[] = {1, 17, 64, 130, 1030};
    static const int64_t latents[] = {1, 513, 1024, 1100};
    for (int i = 0; i < 5; i++) {
        for (int j = 0; j < 4; j++) {
            const int64_t n = rows[i], f = latents[j];
            problem p = make((uint64_t)(40 + 10 * i + j), n, 20 + j, f);
            uint8_t *classes = classes_of(n);
            check_by_class(&p, classes,
                           (int64_t[RF_MAX_ROW_CLASSES]){n, n / 3, 0, 5 * n, 9, 0, 0, 2},
                           "k by class");
            check_by_class(&p, classes, (int64_t[RF_MAX_ROW_CLASSES]){0, n * f}, "only one class");
            check_by_class(&p, classes, (int64_t[RF_MAX_ROW_CLASSES]){0}, "none");
            check_by_class(&p, classes,
                           (int64_t[RF_MAX_ROW_CLASSES]){[3] = 1 + n * f / 40, [7] = n * f},
                           "many, and all");
            rf_free(classes);
            unmake(&p);
        }
    }
}

/* Rows of a class whose values are all larger take nothing from those of another; ties go to the
 * smaller row and latent of the class. */
static void a_class_takes_nothing_from_another(void **state)
{
    (void)state;
    problem p = make(70, 200, 12, 900);
    uint8_t *classes = classes_of(p.n);
    p.valid = rf_calloc(p.n, 1);
    for (int64_t r = 0; r < p.n; r++) {
        p.valid[r] = r % 5 != 1;
        for (int64_t j = 0; j < p.d; j++) {
            p.x[r * p.d + j] *= classes[r] == 1 ? 50.0f : classes[r] == 7 ? 0.01f : 1.0f;
        }
    }
    check_by_class(&p, classes, (int64_t[RF_MAX_ROW_CLASSES]){30, 40, 0, 500, 0, 0, 0, 100},
                   "scales apart");
    memset(p.w, 0, sizeof(float) * (size_t)(p.f * p.d)); /* pre = bias, the same for all */
    for (int64_t i = 0; i < p.f; i++) {
        p.b[i] = 0.5f + 0.1f * (float)(i / 400);
    }
    check_by_class(&p, classes, (int64_t[RF_MAX_ROW_CLASSES]){1, 2, 0, 20000, 0, 0, 0, 1001},
                   "crowds of equals");
    rf_free(classes);
    unmake(&p);
}

/* Counts and a cut of one class leave the others' entries where they are. */
static void a_cut_of_one_class_keeps_the_others(void **state)
{
    (void)state;
    enum { N = 40, FEW = 6 };
    rf_backend *be;
    rf_stream *s;
    problem p = make(71, N, 12, 300);
    uint8_t *classes = classes_of(N);
    int64_t *counts = rf_calloc(BUCKETS, sizeof *counts), n_of = 0, n_counted = 0, at = 0;
    rf_codes got = batch_reference(&p, 900), all = batch_reference(&p, 900);
    const rf_class_rows rows = {.row_class = classes, .which = 7};
    OK(rf_backend_cpu_create(1, &be));
    OK(rf_stream_create(be, &s));
    for (int64_t b = 0; b < N; b++) {
        n_of += classes[b] == 7 ? all.row_start[b + 1] - all.row_start[b] : 0;
    }
    OK(rf_codes_histogram(s, &got, rows, -1, counts));
    for (int i = 0; i < BUCKETS; i++) {
        n_counted += counts[i];
    }
    assert_true(n_of > FEW);
    assert_int_equal(n_counted, n_of);
    OK(rf_codes_keep(s, &got, rows, INFINITY, 0));
    for (int64_t b = 0; b < N; b++) {
        const int64_t n = classes[b] == 7 ? 0 : all.row_start[b + 1] - all.row_start[b];
        assert_int_equal(got.row_start[b + 1] - got.row_start[b], n);
        assert_memory_equal(got.value + at, all.value + all.row_start[b],
                            sizeof(float) * (size_t)n);
        at += n;
    }
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    unmake_codes(&got);
    unmake_codes(&all);
    rf_free(counts);
    rf_free(classes);
    unmake(&p);
}

static void classes_that_mean_nothing_are_refused(void **state)
{
    (void)state;
    rf_backend *be;
    rf_stream *s;
    const uint8_t classes[3] = {0, 1, 2};
    int64_t overflow = 0;
    problem p = make(72, 3, 4, 10);
    rf_codes codes = make_codes(3, 30);
    rf_encode_args args = args_of(&p);
    OK(rf_backend_cpu_create(1, &be));
    OK(rf_stream_create(be, &s));
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_BATCH_TOPK,
                                     .k = 9,
                                     .row_class = classes,
                                     .class_k = {4, 5},
                                     .codes = &codes,
                                     .overflow = &overflow};
    OK(rf_encode(s, &args));
    args.lists[0].class_k[7] = 1; /* more than k in all */
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    args.lists[0].rule = RF_SELECT_TOPK; /* whose rows do not add up */
    OK(rf_encode(s, &args));
    args.lists[0].class_k[7] = 10;
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    args.lists[0].class_k[7] = -1;
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    args.lists[0].rule = RF_SELECT_POSITIVE;
    assert_int_equal(rf_encode(s, &args), RF_ERR_INVALID_ARG);
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    unmake_codes(&codes);
    unmake(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_of_rows_share_out_their_own_k),
        cmocka_unit_test(a_class_takes_nothing_from_another),
        cmocka_unit_test(a_cut_of_one_class_keeps_the_others),
        cmocka_unit_test(classes_that_mean_nothing_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
