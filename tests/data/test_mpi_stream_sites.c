/* Readers with several sites, of one model and of several, on any number of ranks. */
#include "stream_case.h"

/* One more site for a reader. */
static case_reader with(case_reader r, int model, const char *name, int64_t layer,
                        rf_hook_shape shape, int64_t width)
{
    rf_reader_site *site = &r.sites[r.n_sites++];
    *site =
        (rf_reader_site){.model = model, .point = {.layer = layer, .shape = shape, .width = width}};
    assert_int_equal(rf_format(site->point.name, sizeof site->point.name, "%s", name), RF_OK);
    return r;
}

static case_reader of_model(case_reader r, int model)
{
    r.sites[0].model = model;
    return r;
}

/* Sites of one model and of three, wide and narrow, in both orders, one twice, and beside them
 * readers of some of the same points. */
static test_case sites_case(int64_t n_pictures, int64_t group_pictures, int64_t pool_groups)
{
    const rf_hook_shape tokens = RF_HOOK_TOKENS;
    test_case c = {.n_pictures = n_pictures,
                   .group_pictures = group_pictures,
                   .pool_groups = pool_groups,
                   .max_bad_share = 1,
                   .n_readers = 6};
    /* two layers of one model; the first of them again */
    c.readers[0] =
        with(with(reader("l0", 0, tokens, 5, RF_TOKENS_ALL, 100, 2), 0, "l1", 1, tokens, 8), 0,
             "l0", 0, tokens, 5);
    /* embed has patches only: another first row at each site */
    c.readers[1] =
        with(reader("embed", 2, RF_HOOK_PATCHES, 3, RF_TOKENS_PATCH, 70, 2), 0, "l1", 1, tokens, 8);
    /* two models, whose points have the same names */
    c.readers[2] = with(of_model(reader("l1", 1, tokens, 1, RF_TOKENS_PATCH, 129, 1), 1), 0, "l1",
                        1, tokens, 8);
    /* three models of two grids, CLS alone */
    c.readers[3] =
        with(with(reader("l0", 0, tokens, 5, RF_TOKENS_CLS, 9, 3), 2, "l0", 0, tokens, 7), 1, "l1",
             1, tokens, 1);
    c.readers[4] = reader("l1", 1, tokens, 8, RF_TOKENS_REGISTER, 64, 1);
    c.readers[5] = with(reader("pooled", 3, RF_HOOK_POOLED, 4, RF_TOKENS_POOLED, 7, 2), 2, "pooled",
                        3, RF_HOOK_POOLED, 6);
    return c;
}

static void sites_lie_side_by_side_in_the_sequence_of_one_site(void **state)
{
    (void)state;
    const int64_t shapes[][3] = {{1, 1, 1},  {1, 4, 4},  {5, 16, 16}, {37, 4, 3},
                                 {36, 4, 3}, {23, 1, 5}, {64, 8, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        test_case c = sites_case(shapes[i][0], shapes[i][1], shapes[i][2]);
        assert_case(&c, NULL);
        c.bad_each = 5;
        assert_case(&c, NULL);
    }
}

static void a_reader_of_several_sites_alone_gets_the_same_batches(void **state)
{
    (void)state;
    test_case all = sites_case(37, 4, 3);
    for (int64_t r = 0; r < all.n_readers; r++) {
        test_case c = all;
        c.n_readers = 1;
        c.readers[0] = all.readers[r];
        assert_case(&c, NULL);
    }
}

static void a_point_is_held_once_whoever_reads_it(void **state)
{
    (void)state;
    test_case c = sites_case(37, 4, 3);
    int64_t n_made = 0;
    c.n_readers = 3;
    /* Of model 0: 9 rows of 5 and of 8, 6 patches of 3; of model 1: 6 patches of 1. */
    int64_t group_bytes = 4 * (9 * (5 + 8) + 6 * 3 + 6 * 1) * 4;
    c.keep_bytes = group_bytes - 1;
    assert_case(&c, &n_made);
    assert_int_equal(n_made, 20); /* two epochs of ten groups: nothing fits */
    c.keep_bytes = group_bytes * 10;
    assert_case(&c, &n_made);
    assert_int_equal(n_made, 10);
}

static void a_seek_goes_on_with_several_sites(void **state)
{
    (void)state;
    test_case c = sites_case(37, 4, 3);
    for (int64_t n_ticks = 0; n_ticks <= 12; n_ticks += 3) {
        rf_activation_stream *st = NULL;
        int64_t done[MAX_READERS] = {0}, ticks = n_ticks;
        bool ok = true, more = true;
        assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
        while (ticks > 0 && more) {
            bool any = false;
            for (int64_t r = 0; r < c.n_readers; r++) {
                rf_token_batch batch;
                bool has = false;
                ok = rf_activation_stream_next(st, r, &batch, &has) == RF_OK && ok;
                done[r] += has;
                any = any || has;
            }
            ticks -= any;
            if (!any) {
                ok = rf_activation_stream_advance(st, &more) == RF_OK && ok;
            }
        }
        assert_on_all(ok);
        rf_activation_stream_close(st);
        assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
        assert_int_equal(rf_activation_stream_seek(st, done), RF_OK);
        assert_on_all(run_to_end(&c, st, done));
        rf_activation_stream_close(st);
    }
}

static void a_sample_has_all_sites_side_by_side(void **state)
{
    (void)state;
    test_case c = sites_case(12, 4, 3); /* one pool: all of an epoch */
    rf_activation_stream *st = NULL;
    c.bad_each = 4;
    assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
    for (int64_t r = 0; r < c.n_readers; r++) {
        int64_t total = 0, n = 0, width = 0, n_valid = 0;
        float *rows = NULL;
        naive_token *sequence = naive_sequence(&c, &c.readers[r], &total);
        bool ok = rf_activation_stream_sample(st, r, 30, &rows, &n, &width) == RF_OK &&
                  width == width_of(&c.readers[r]);
        for (int64_t p = 0; ok && p < total / c.readers[r].epochs && n_valid < 30; p++) {
            if (!is_bad(c.bad_each, sequence[p].picture)) {
                ok = count_wrong(&c.readers[r], sequence[p], false, rows + n_valid * width) == 0;
                n_valid++;
            }
        }
        assert_on_all(ok && n == n_valid && n > 0);
        rf_free(rows);
        rf_free(sequence);
    }
    rf_activation_stream_close(st);
}

static void assert_refused(const case_reader *r, rf_status expected, const char *const *words)
{
    test_case c = sites_case(37, 4, 3);
    rf_activation_stream *st = NULL;
    int64_t live = rf_alloc_live();
    c.readers[4] = *r;
    rf_status status = open_case(&c, NEVER, &st);
    bool ok = status == expected && st == NULL;
    for (int i = 0; words[i] != NULL; i++) {
        ok = ok && strstr(rf_error_text(), words[i]) != NULL;
    }
    if (!ok) {
        print_message("got %s\n", rf_error_text());
    }
    assert_on_all(ok);
    assert_on_all(rf_alloc_live() == live);
}
#define REFUSED(r, status, ...) assert_refused(r, status, (const char *const[]){__VA_ARGS__, NULL})

static void sites_that_do_not_fit_together_are_refused_by_name_and_number(void **state)
{
    (void)state;
    const case_reader l1 = reader("l1", 1, RF_HOOK_TOKENS, 8, RF_TOKENS_ALL, 64, 1);
    case_reader patches = l1, cls = l1;
    patches.tokens = RF_TOKENS_PATCH;
    cls.tokens = RF_TOKENS_CLS;
    case_reader r = with(l1, 1, "m1", 1, RF_HOOK_TOKENS, 8);
    REFUSED(&r, RF_ERR_SETTING, "'l1' of formula has 9", "'m1' of bare has 7", "equally many");
    r = with(patches, 2, "m1", 1, RF_HOOK_TOKENS, 8);
    REFUSED(&r, RF_ERR_SETTING, "has 6", "'m1' of small has 4", "tokens patch");
    r = with(l1, 0, "embed", 2, RF_HOOK_PATCHES, 3);
    REFUSED(&r, RF_ERR_SETTING, "'l1' of formula has 9", "'embed' of formula has 6");
    /* as many rows, but not of the same classes, or not in the same places */
    r = with(l1, 4, "m1", 1, RF_HOOK_TOKENS, 8);
    REFUSED(&r, RF_ERR_SETTING, "row 1 is a register at 'l1'", "a patch at 'm1' of shifted");
    r = with(patches, 3, "m1", 1, RF_HOOK_TOKENS, 8);
    REFUSED(&r, RF_ERR_SETTING, "row 2 is at (0, 2) of the grid at 'l1' of formula",
            "at (1, 0) at 'm1' of turned");
    /* a site without the class at all */
    r = with(cls, 0, "embed", 2, RF_HOOK_PATCHES, 3);
    REFUSED(&r, RF_ERR_SETTING, "hook point 'embed' has patches only");
}

static void wrong_sites_are_refused(void **state)
{
    (void)state;
    const case_reader l1 = reader("l1", 1, RF_HOOK_TOKENS, 8, RF_TOKENS_ALL, 64, 1);
    case_reader r = l1;
    r.n_sites = 0;
    REFUSED(&r, RF_ERR_INVALID_ARG, "reader 4 has 0 sites");
    r.n_sites = 2 * RF_MAX_SITES + 1;
    REFUSED(&r, RF_ERR_INVALID_ARG, "reader 4 has 65 sites");
    r = of_model(l1, N_MODELS);
    REFUSED(&r, RF_ERR_INVALID_ARG, "there is no model 5");
    r = of_model(l1, -1);
    REFUSED(&r, RF_ERR_INVALID_ARG, "there is no model -1");
    r = with(l1, 0, "flat", 1, RF_HOOK_TOKENS, 0);
    REFUSED(&r, RF_ERR_INVALID_ARG, "'flat' has width 0");
}

static void ranks_with_other_sites_are_refused(void **state)
{
    (void)state;
    test_case c = sites_case(37, 4, 3);
    rf_activation_stream *st = NULL;
    if (rf_comm_size(world) == 1) {
        return;
    }
    c.readers[2].sites[0].model = rf_comm_rank(world) == 0 ? 1 : 0;
    c.readers[2].sites[0].point.width = 8;
    rf_status status = open_case(&c, NEVER, &st);
    assert_on_all(status == RF_ERR_INVALID_ARG && st == NULL &&
                  strstr(rf_error_text(), "different settings") != NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sites_lie_side_by_side_in_the_sequence_of_one_site),
        cmocka_unit_test(a_reader_of_several_sites_alone_gets_the_same_batches),
        cmocka_unit_test(a_point_is_held_once_whoever_reads_it),
        cmocka_unit_test(a_seek_goes_on_with_several_sites),
        cmocka_unit_test(a_sample_has_all_sites_side_by_side),
        cmocka_unit_test(sites_that_do_not_fit_together_are_refused_by_name_and_number),
        cmocka_unit_test(wrong_sites_are_refused),
        cmocka_unit_test(ranks_with_other_sites_are_refused),
    };
    int n_failed = 1;
    if (rf_comm_start(&argc, &argv, &world) == RF_OK &&
        rf_backend_cpu_create(1, &backend) == RF_OK &&
        rf_stream_create(backend, &stream) == RF_OK) {
        n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    }
    rf_stream_destroy(stream);
    rf_backend_destroy(backend);
    rf_comm_finish(world);
    return n_failed;
}
