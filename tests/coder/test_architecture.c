/* What the rows of the table of architectures say. */
#include "coder/coder_fixture.h"

static const rf_architecture *row(const char *name, rf_coder_settings *settings)
{
    *settings = fixture_settings(name, 4096, 32);
    return rf_architecture_at(settings->architecture);
}

static void each_selects_as_its_paper_does(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        rf_select_rule rule;
        rf_coder_act act;
        bool may_be_dense;
    } cases[] = {
        {"topk", RF_SELECT_TOPK, RF_CODER_RELU, false},
        {"multi_topk", RF_SELECT_TOPK, RF_CODER_RELU, false},
        {"batch_topk", RF_SELECT_BATCH_TOPK, RF_CODER_RELU, false},
        {"matryoshka", RF_SELECT_BATCH_TOPK, RF_CODER_RELU, false},
        {"relu", RF_SELECT_POSITIVE, RF_CODER_RELU, true},
        {"p_anneal", RF_SELECT_POSITIVE, RF_CODER_RELU, true},
        {"jumprelu", RF_SELECT_POSITIVE, RF_CODER_JUMP, true},
        {"gated", RF_SELECT_POSITIVE, RF_CODER_GATED, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rf_coder_settings t;
        const rf_architecture *a = row(cases[i].name, &t);
        assert_int_equal(a->rule(&t), cases[i].rule);
        assert_int_equal(a->act, cases[i].act);
        assert_int_equal(a->may_be_dense, cases[i].may_be_dense);
        assert_int_equal(rf_select_is_exact(a->rule(&t)), !a->may_be_dense);
        assert_int_equal(a->penalty == RF_PENALTY_NONE, !a->may_be_dense);
        assert_int_equal(a->second != NULL, strcmp(a->name, "multi_topk") == 0);
        assert_int_equal(a->prefixes != NULL, strcmp(a->name, "matryoshka") == 0);
    }
    rf_coder_settings t;
    const rf_architecture *a = row("matryoshka", &t);
    t.selection = RF_SELECTION_TOPK;
    assert_int_equal(a->rule(&t), RF_SELECT_TOPK);
}

static void room_for_codes_follows_k_or_the_dictionary(void **state)
{
    (void)state;
    rf_coder_settings t;
    const rf_architecture *topk = row("batch_topk", &t);
    assert_int_equal(topk->row_capacity(&t, 4096), 32);
    assert_int_equal(topk->row_capacity(&t, 20), 20);
    t.k_start = 2.51;
    assert_int_equal(topk->row_capacity(&t, 4096), 32); /* k does not fall */
    t.k_steps = 10;
    assert_int_equal(topk->row_capacity(&t, 4096), 81); /* 80.32 */
    t.k = (rf_k_by_class){.of = {100, 0, 8}};
    t.k_steps = 0;
    assert_int_equal(topk->row_capacity(&t, 4096), 100);
    const rf_architecture *relu = row("relu", &t);
    assert_int_equal(relu->row_capacity(&t, 40 * 1000), 1000);
    assert_int_equal(relu->row_capacity(&t, 100), 32);
    assert_int_equal(relu->row_capacity(&t, 7), 7);
}

static void multi_topk_adds_four_times_k(void **state)
{
    (void)state;
    rf_coder_settings t;
    const rf_architecture *a = row("multi_topk", &t);
    int64_t k = 0;
    assert_true(a->second(&t, 32, &k) == 0.125);
    assert_int_equal(k, 128);
}

static void fixed_prefixes_halve(void **state)
{
    (void)state;
    rf_coder_settings t;
    const rf_architecture *a = row("matryoshka", &t);
    rf_latent_groups g;
    a->prefixes(&t, 49152, 7, &g);
    static const int64_t want[] = {3072, 6144, 12288, 24576, 49152};
    assert_int_equal(g.n, 5);
    assert_memory_equal(g.end, want, sizeof want);
    t.n_prefixes = 1;
    a->prefixes(&t, 9, 7, &g);
    assert_true(g.n == 1 && g.end[0] == 9);
}

static void random_prefixes_rise_and_end_with_the_dictionary(void **state)
{
    (void)state;
    rf_coder_settings t;
    const rf_architecture *a = row("matryoshka", &t);
    rf_latent_groups g, again;
    static const int64_t sizes[] = {1, 2, 3, 16, 17, 1000, 1 << 20};
    t.random_prefixes = true;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int64_t step = 0; step < 200; step++) {
            t.n_prefixes = rf_min_i64(RF_MAX_GROUPS, sizes[i]);
            a->prefixes(&t, sizes[i], step, &g);
            a->prefixes(&t, sizes[i], step, &again);
            assert_memory_equal(&g, &again, sizeof g);
            assert_int_equal(g.n, t.n_prefixes);
            assert_int_equal(g.end[g.n - 1], sizes[i]);
            assert_true(g.end[0] >= 1);
            for (int q = 1; q < g.n; q++) {
                assert_true(g.end[q] > g.end[q - 1]);
            }
        }
    }
}

static void random_prefixes_differ_by_step_and_seed(void **state)
{
    (void)state;
    rf_coder_settings t;
    const rf_architecture *a = row("matryoshka", &t);
    rf_latent_groups g, other;
    t.random_prefixes = true;
    a->prefixes(&t, 1 << 20, 5, &g);
    a->prefixes(&t, 1 << 20, 6, &other);
    assert_memory_not_equal(&g, &other, sizeof g);
    t.seed = 1;
    a->prefixes(&t, 1 << 20, 5, &other);
    assert_memory_not_equal(&g, &other, sizeof g);
}

/* P(end >= i) = (i^(-1/2) - F^(-1/2)) / (1 - F^(-1/2)), for the first draw alone. */
static void random_prefixes_have_paretos_density(void **state)
{
    (void)state;
    enum { N = 20000, F = 4096 };
    rf_coder_settings t;
    const rf_architecture *a = row("matryoshka", &t);
    t.random_prefixes = true;
    t.n_prefixes = 2;
    for (int64_t i = 2; i < F; i *= 4) {
        int64_t n_above = 0;
        for (int64_t step = 0; step < N; step++) {
            rf_latent_groups g;
            a->prefixes(&t, F, step, &g);
            n_above += g.end[0] >= i;
        }
        double tail = 1.0 / sqrt((double)F);
        double want = (1.0 / sqrt((double)i) - tail) / (1.0 - tail);
        double deviation = sqrt(want * (1.0 - want) / N);
        /* five standard deviations of a count: the numbers are fixed, so this cannot flicker */
        assert_true(fabs((double)n_above / N - want) <= 5.0 * deviation);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_selects_as_its_paper_does),
        cmocka_unit_test(room_for_codes_follows_k_or_the_dictionary),
        cmocka_unit_test(multi_topk_adds_four_times_k),
        cmocka_unit_test(fixed_prefixes_halve),
        cmocka_unit_test(random_prefixes_rise_and_end_with_the_dictionary),
        cmocka_unit_test(random_prefixes_differ_by_step_and_seed),
        cmocka_unit_test(random_prefixes_have_paretos_density),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
