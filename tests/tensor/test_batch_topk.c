/* The k largest of all rows against a sort of all canonical values; and cut over several ranks from
 * histograms, against the cut of the whole. */
#include "batch_reference.h"

static rf_codes select_batch(const problem *p, int64_t k, int n_threads)
{
    rf_codes got = make_codes(p->n, rf_min_i64(k, p->n * p->f));
    rf_encode_args args = args_of(p);
    args.lists[0] = (rf_select_list){
        .rule = RF_SELECT_BATCH_TOPK, .k = k, .codes = &got, .eligible = p->eligible};
    run(&args, n_threads);
    return got;
}

static void check_batch(const problem *p, int64_t k, const char *what)
{
    rf_codes want = batch_reference(p, k);
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        int64_t n_live = rf_alloc_live();
        rf_codes got = select_batch(p, k, n_threads);
        same_codes(&got, &want, what);
        unmake_codes(&got);
        assert_int_equal(rf_alloc_live(), n_live);
    }
    unmake_codes(&want);
}

/* ---- claims -------------------------------------------------------------------------------- */

static void batch_topk_equals_a_sort_of_all_values(void **state)
{
    (void)state;
    static const int64_t rows[] = {1, 15, 17, 64, 65, 1030};
    static const int64_t latents[] = {1, 16, 513, 1023, 1024, 1025};
    for (int i = 0; i < 6; i++) {
        for (int j = 0; j < 6; j++) {
            int64_t n = rows[i] * latents[j];
            problem p = make((uint64_t)(10 * i + j), rows[i], 20 + j, latents[j]);
            check_batch(&p, 1, "k = 1");
            check_batch(&p, 1 + n / 50, "k = n / 50");
            if (n < 100000) {
                check_batch(&p, 1 + n / 3, "k = n / 3");
                check_batch(&p, n + 5, "k above all");
                check_batch(&p, 0, "k = 0");
            }
            unmake(&p);
        }
    }
    problem wide = make(77, 50, 768, 3000);
    check_batch(&wide, 50 * 32, "width 768");
    unmake(&wide);
}

/* Duplicate rows and duplicate latents: all values have many equals, everywhere. */
static void ties_go_to_the_smaller_row_then_the_smaller_latent(void **state)
{
    (void)state;
    problem p = make(4, 130, 12, 1500);
    for (int64_t i = 0; i < p.f; i++) {
        memcpy(p.w + i * p.d, p.w + i % 7 * p.d, sizeof(float) * (size_t)p.d);
        p.b[i] = 0.25f;
    }
    for (int64_t r = 0; r < p.n; r++) {
        memcpy(p.x + r * p.d, p.x + r % 5 * p.d, sizeof(float) * (size_t)p.d);
    }
    check_batch(&p, 10, "duplicates, few");
    check_batch(&p, 130 * 16, "duplicates, some");
    check_batch(&p, 40000, "duplicates, many");
    memset(p.w, 0, sizeof(float) * (size_t)(p.f * p.d)); /* pre = bias, the same for all */
    check_batch(&p, 1, "all equal, one");
    check_batch(&p, 7 * 1500 + 3, "all equal, the first seven rows and a little");
    for (int64_t i = 0; i < p.f; i++) { /* crowds of equals, each larger than those before */
        p.b[i] = 0.5f + 0.1f * (float)(i / 400);
    }
    check_batch(&p, 900, "rising crowds");
    check_batch(&p, 130 * 300 + 77, "rising crowds, across two");
    unmake(&p);
}

/* Whatever comes is larger than all before: nothing can be dropped when it is met. */
static void values_that_rise_to_the_end_are_found(void **state)
{
    (void)state;
    problem p = make(5, 200, 8, 1100);
    for (int64_t i = 0; i < p.f; i++) {
        p.b[i] = 0.1f * (float)i;
    }
    for (int64_t i = 0; i < p.n * p.d; i++) {
        p.x[i] *= 0.01f;
        p.x[i] += 1e-3f * (float)(i / p.d);
    }
    check_batch(&p, 50, "rising");
    check_batch(&p, 5000, "rising, many");
    unmake(&p);
}

static void one_row_may_take_most_entries(void **state)
{
    (void)state;
    problem p = make(6, 150, 16, 2100);
    for (int64_t j = 0; j < p.d; j++) {
        p.x[77 * p.d + j] *= 50.0f;
    }
    rf_codes got = select_batch(&p, 1200, 2);
    assert_true(got.row_start[78] - got.row_start[77] > 900);
    unmake_codes(&got);
    check_batch(&p, 1200, "a heavy row");
    check_batch(&p, 150, "a heavy row that takes all");
    unmake(&p);
}

static void values_a_rounding_apart_are_told_apart(void **state)
{
    (void)state;
    problem p = make(7, 40, 96, 1500);
    for (int64_t i = 1; i < p.f; i++) {
        memcpy(p.w + i * p.d, p.w, sizeof(float) * (size_t)p.d);
        p.w[i * p.d + i % p.d] = nextafterf(p.w[i % p.d], i % 2 == 0 ? 9.0f : -9.0f);
        p.b[i] = p.b[0];
    }
    for (int64_t r = 1; r < p.n; r++) {
        memcpy(p.x + r * p.d, p.x, sizeof(float) * (size_t)p.d);
    }
    check_batch(&p, 16, "a rounding apart");
    check_batch(&p, 40 * 160 + 9, "a rounding apart, many");
    unmake(&p);
}

static void only_valid_rows_and_eligible_latents_with_values_above_zero_count(void **state)
{
    (void)state;
    problem p = make(8, 90, 16, 900);
    p.valid = rf_calloc(p.n, 1);
    p.eligible = rf_calloc(p.f, 1);
    check_batch(&p, 100, "nothing may be selected");
    for (int64_t i = 0; i < p.f; i++) {
        p.eligible[i] = i % 10 == 3 || i > 890;
        p.valid[i % p.n] = i % p.n % 3 != 1;
    }
    for (int64_t r = 0; r < p.n; r++) {
        p.x[r * p.d] = p.valid[r] ? p.x[r * p.d] : NAN;
    }
    check_batch(&p, 100, "a few");
    check_batch(&p, 5000, "more than there are above zero");
    for (int64_t i = 0; i < p.f; i++) {
        p.b[i] = -100.0f;
    }
    check_batch(&p, 100, "all below zero");
    memset(p.x, 0, sizeof(float) * (size_t)(p.n * p.d));
    for (int64_t i = 0; i < p.f; i++) { /* the least positive float counts */
        p.b[i] = i % 3 == 0 ? 0x1p-149f : -0.0f;
    }
    check_batch(&p, 700, "the least positive");
    unmake(&p);
}

static void no_rows_give_no_codes(void **state)
{
    (void)state;
    problem p = make(9, 0, 8, 30);
    rf_codes got = make_codes(0, 0);
    int64_t overflow = -1;
    rf_encode_args args = args_of(&p);
    got.row_start[0] = 99;
    args.lists[0] = (rf_select_list){
        .rule = RF_SELECT_BATCH_TOPK, .k = 5, .codes = &got, .overflow = &overflow};
    run(&args, 2);
    assert_int_equal(got.row_start[0], 0);
    assert_int_equal(overflow, 0);
    unmake_codes(&got);
    unmake(&p);
}

/* Lists of all exact rules share tiles, and a stream's memory serves encodes of any size. */
static void lists_of_other_rules_do_not_disturb(void **state)
{
    (void)state;
    rf_backend *be;
    rf_stream *s;
    OK(rf_backend_cpu_create(2, &be));
    OK(rf_stream_create(be, &s));
    for (int64_t n = 20; n <= 180; n += 80) {
        problem p = make(10, n, 24, 1200), q = p;
        float floor = 3.0f;
        int64_t overflow = -1;
        rf_codes all = make_codes(n, 500), few = make_codes(n, 60), top = make_codes(n, n * 8),
                 above = make_codes(n, n * p.f);
        q.eligible = rf_calloc(p.f, 1);
        memset(q.eligible + 400, 1, 300);
        rf_encode_args args = args_of(&p);
        args.n_lists = 4;
        args.lists[0] = (rf_select_list){.rule = RF_SELECT_BATCH_TOPK, .k = 500, .codes = &all};
        args.lists[1] = (rf_select_list){.rule = RF_SELECT_TOPK, .k = 8, .codes = &top};
        args.lists[2] = (rf_select_list){
            .rule = RF_SELECT_BATCH_TOPK, .k = 60, .codes = &few, .eligible = q.eligible};
        args.lists[3] = (rf_select_list){
            .rule = RF_SELECT_ABOVE, .floor = &floor, .codes = &above, .overflow = &overflow};
        OK(rf_encode(s, &args));
        rf_codes want = batch_reference(&p, 500), want_few = batch_reference(&q, 60);
        same_codes(&all, &want, "all");
        same_codes(&few, &want_few, "eligible");
        assert_int_equal(top.row_start[n], n * 8);
        assert_int_equal(overflow, 0);
        unmake_codes(&want);
        unmake_codes(&want_few);
        unmake_codes(&all);
        unmake_codes(&few);
        unmake_codes(&top);
        unmake_codes(&above);
        unmake(&q); /* p's arrays too */
    }
    rf_stream_destroy(s);
    rf_backend_destroy(be);
}

/* ---- several ranks ------------------------------------------------------------------------- */

enum { BUCKETS = 65536, MAX_RANKS = 3 };

/* The bucket, from the last, with which `k` entries are reached; *k becomes what is left of it. */
static int32_t bucket_of(const int64_t *counts, int64_t *k)
{
    int32_t b = BUCKETS - 1;
    while (b > 0 && counts[b] < *k) {
        *k -= counts[b--];
    }
    return b;
}

static void add_counts(rf_stream *s, const rf_codes *codes, int n_ranks, int32_t upper,
                       int64_t *sum)
{
    int64_t *counts = rf_calloc(BUCKETS, sizeof *counts);
    memset(sum, 0, sizeof *sum * BUCKETS);
    for (int r = 0; r < n_ranks; r++) {
        OK(rf_codes_histogram(s, &codes[r], (rf_class_rows){0}, upper, counts));
        for (int b = 0; b < BUCKETS; b++) {
            sum[b] += counts[b];
        }
    }
    rf_free(counts);
}

static int64_t count_equal(const rf_codes *codes, float v)
{
    int64_t n = 0;
    for (int64_t e = 0; e < codes->row_start[codes->n_rows]; e++) {
        n += codes->value[e] == v;
    }
    return n;
}

/* Every rank selects k of its rows; all are cut where the k-th of all lies. */
static void cut_ranks(rf_stream *s, rf_codes *codes, int n_ranks, int64_t k)
{
    int64_t *sum = rf_calloc(BUCKETS, sizeof *sum), total = 0, ties = k;
    uint32_t bits = 0;
    float threshold = 0.0f;
    for (int r = 0; r < n_ranks; r++) {
        total += codes[r].row_start[codes[r].n_rows];
    }
    if (total > k) {
        add_counts(s, codes, n_ranks, -1, sum);
        int32_t upper = bucket_of(sum, &ties);
        add_counts(s, codes, n_ranks, upper, sum);
        bits = (uint32_t)upper << 16 | (uint32_t)bucket_of(sum, &ties);
        memcpy(&threshold, &bits, sizeof bits);
    }
    for (int r = 0; r < n_ranks; r++) {
        int64_t equal = count_equal(&codes[r], threshold), mine = rf_min_i64(ties, equal);
        OK(rf_codes_keep(s, &codes[r], (rf_class_rows){0}, threshold, mine));
        ties -= mine;
    }
    rf_free(sum);
}

/* Rows of a rank; the second of three has none. */
static int64_t rank_end(int64_t n, int n_ranks, int rank)
{
    return rank == n_ranks - 1 ? n : n_ranks == 3 ? n / 3 : n / 4 + 1;
}

static void check_ranks(const problem *p, int64_t k, int n_ranks, const rf_codes *want)
{
    rf_backend *be;
    rf_stream *s;
    rf_codes codes[MAX_RANKS];
    int64_t first = 0, at = 0;
    OK(rf_backend_cpu_create(1, &be));
    OK(rf_stream_create(be, &s));
    for (int r = 0; r < n_ranks; r++) {
        problem q = *p;
        q.x += first * p->d;
        q.n = rank_end(p->n, n_ranks, r) - first;
        codes[r] = select_batch(&q, k, 1 + r);
        first += q.n;
        for (int64_t e = 0; e < codes[r].row_start[q.n]; e++) {
            codes[r].d_value[e] = -codes[r].value[e]; /* must stay beside its value */
        }
    }
    cut_ranks(s, codes, n_ranks, k);
    for (int r = 0; r < n_ranks; r++) {
        int64_t n = codes[r].row_start[codes[r].n_rows];
        assert_memory_equal(codes[r].latent, want->latent + at, sizeof(int32_t) * (size_t)n);
        assert_memory_equal(codes[r].value, want->value + at, sizeof(float) * (size_t)n);
        for (int64_t e = 0; e < n; e++) {
            assert_true(codes[r].d_value[e] == -codes[r].value[e]);
        }
        int64_t row = r == 0 ? 0 : rank_end(p->n, n_ranks, r - 1);
        for (int64_t b = 0; b <= codes[r].n_rows; b++) {
            assert_int_equal(codes[r].row_start[b] + at, want->row_start[row + b]);
        }
        at += n;
        unmake_codes(&codes[r]);
    }
    assert_int_equal(at, want->row_start[p->n]);
    rf_stream_destroy(s);
    rf_backend_destroy(be);
}

static void ranks_that_cut_by_histograms_keep_what_one_keeps(void **state)
{
    (void)state;
    static const int64_t k[] = {1, 40, 333, 5000, 1000000};
    for (uint64_t tag = 20; tag < 22; tag++) {
        problem p = make(tag, 61, 20, 700);
        for (int64_t i = 0; i < p.f && tag == 21; i++) { /* ties on every rank */
            memcpy(p.w + i * p.d, p.w + i % 7 * p.d, sizeof(float) * (size_t)p.d);
            p.b[i] = 0.25f;
            memcpy(p.x + i % p.n * p.d, p.x + i % p.n % 3 * p.d, sizeof(float) * (size_t)p.d);
        }
        for (int i = 0; i < 5; i++) {
            rf_codes want = batch_reference(&p, k[i]);
            for (int n_ranks = 1; n_ranks <= MAX_RANKS; n_ranks++) {
                check_ranks(&p, k[i], n_ranks, &want);
            }
            unmake_codes(&want);
        }
        unmake(&p);
    }
}

static void counts_and_cuts_refuse_what_is_none(void **state)
{
    const rf_class_rows all = {0};
    (void)state;
    rf_backend *be;
    rf_stream *s;
    rf_codes codes = make_codes(3, 4);
    int64_t *counts = rf_calloc(BUCKETS, sizeof *counts);
    OK(rf_backend_cpu_create(1, &be));
    OK(rf_stream_create(be, &s));
    counts[5] = 77;
    OK(rf_codes_histogram(s, &codes, all, -1, counts));
    assert_int_equal(counts[5], 0);
    OK(rf_codes_keep(s, &codes, all, 1.0f, 3));
    assert_int_equal(codes.row_start[3], 0);
    assert_int_equal(rf_codes_histogram(s, &codes, all, BUCKETS, counts), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_codes_histogram(s, &codes, all, 0, NULL), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_codes_keep(s, &codes, all, 0.0f, -1), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_codes_keep(s, NULL, all, 0.0f, 0), RF_ERR_INVALID_ARG);
    assert_int_equal(
        rf_codes_keep(s, &codes, (rf_class_rows){.which = RF_MAX_ROW_CLASSES}, 0.0f, 0),
        RF_ERR_INVALID_ARG);
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    rf_free(counts);
    unmake_codes(&codes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_topk_equals_a_sort_of_all_values),
        cmocka_unit_test(ties_go_to_the_smaller_row_then_the_smaller_latent),
        cmocka_unit_test(values_that_rise_to_the_end_are_found),
        cmocka_unit_test(one_row_may_take_most_entries),
        cmocka_unit_test(values_a_rounding_apart_are_told_apart),
        cmocka_unit_test(only_valid_rows_and_eligible_latents_with_values_above_zero_count),
        cmocka_unit_test(no_rows_give_no_codes),
        cmocka_unit_test(lists_of_other_rules_do_not_disturb),
        cmocka_unit_test(ranks_that_cut_by_histograms_keep_what_one_keeps),
        cmocka_unit_test(counts_and_cuts_refuse_what_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
