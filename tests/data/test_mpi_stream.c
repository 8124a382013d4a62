/* The activation stream on any number of ranks, against a sequence that is written out from the
 * definition. */
#include "stream_case.h"

/* Classes, points, widths, and batches of several pools, of a part of one, and of one tile. */
static test_case mixed_case(int64_t n_pictures, int64_t group_pictures, int64_t pool_groups)
{
    return (test_case){
        .n_pictures = n_pictures,
        .group_pictures = group_pictures,
        .pool_groups = pool_groups,
        .max_bad_share = 1,
        .n_readers = 6,
        .readers = {reader("l0", 0, RF_HOOK_TOKENS, 5, RF_TOKENS_ALL, 100, 3),
                    reader("l1", 1, RF_HOOK_TOKENS, 8, RF_TOKENS_PATCH, 64, 2),
                    reader("l1", 1, RF_HOOK_TOKENS, 8, RF_TOKENS_CLS, 129, 3),
                    reader("l0", 0, RF_HOOK_TOKENS, 5, RF_TOKENS_REGISTER, 33, 1),
                    reader("embed", 2, RF_HOOK_PATCHES, 3, RF_TOKENS_PATCH, 200, 1),
                    reader("pooled", 3, RF_HOOK_POOLED, 4, RF_TOKENS_POOLED, 7, 2)},
    };
}

static void batches_are_those_of_the_sequence_on_any_number_of_ranks(void **state)
{
    (void)state;
    const int64_t shapes[][3] = {{1, 1, 1},  {1, 4, 4},  {5, 16, 16}, {37, 4, 3},
                                 {36, 4, 3}, {49, 4, 3}, {23, 1, 5},  {64, 8, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        test_case c = mixed_case(shapes[i][0], shapes[i][1], shapes[i][2]);
        assert_case(&c, NULL);
    }
}

/* docs/regressions.md: others give it once for each patch. Counted, not compared with the sequence,
 * which asks the same function how many tokens a class has. */
static void a_coder_of_cls_gets_it_once_of_each_picture(void **state)
{
    (void)state;
    enum { N = 37 };
    test_case c = mixed_case(N, 4, 3);
    int64_t seen[N] = {0}, n_other = 0;
    rf_activation_stream *st = NULL;
    bool more = true, has = true;
    c.n_readers = 1;
    c.readers[0] = reader("l1", 1, RF_HOOK_TOKENS, 8, RF_TOKENS_CLS, 10, 1);
    assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
    assert_int_equal(rf_activation_stream_tokens_per_epoch(st, 0), N);
    while (more) {
        rf_token_batch batch;
        assert_int_equal(rf_activation_stream_next(st, 0, &batch, &has), RF_OK);
        for (int64_t i = 0; has && i < batch.x.shape[0]; i++) {
            const float *row = (const float *)batch.x.data + i * batch.x.stride[0];
            seen[batch.pictures[i]]++;
            n_other += !(row[0] == formula(1, batch.pictures[i], 0, 0));
        }
        if (!has) {
            assert_int_equal(rf_activation_stream_advance(st, &more), RF_OK);
        }
    }
    assert_int_equal(rf_comm_sum_i64(world, seen, N), RF_OK);
    for (int i = 0; i < N; i++) {
        assert_int_equal(seen[i], 1);
    }
    assert_on_all(n_other == 0);
    rf_activation_stream_close(st);
}

static void one_pass_over_the_pictures_feeds_all_readers(void **state)
{
    (void)state;
    test_case c = mixed_case(37, 4, 3);
    int64_t n_made = 0;
    assert_case(&c, &n_made);
    assert_int_equal(n_made, 3 * 10); /* epochs of the longest reader, groups */
}

static void bad_pictures_keep_their_rows_zero_and_not_valid(void **state)
{
    (void)state;
    test_case c = mixed_case(49, 4, 3);
    c.bad_each = 5;
    assert_case(&c, NULL);
    c.bad_each = 1; /* p % 1 == 1 never */
    assert_case(&c, NULL);
}

static void a_reader_alone_gets_the_batches_it_gets_among_others(void **state)
{
    (void)state;
    test_case all = mixed_case(37, 4, 3); /* right, as the first test found; here each alone */
    for (int64_t r = 0; r < all.n_readers; r++) {
        test_case c = all;
        c.n_readers = 1;
        c.readers[0] = all.readers[r];
        assert_case(&c, NULL);
    }
}

static void total_tokens_ends_inside_and_beyond_an_epoch(void **state)
{
    (void)state;
    const int64_t totals[] = {1, 63, 64, 65, 200, 333, 334, 1000};
    for (size_t i = 0; i < sizeof totals / sizeof totals[0]; i++) {
        test_case c = mixed_case(37, 4, 3); /* 333 tokens an epoch */
        c.readers[0].total_tokens = totals[i];
        c.readers[0].epochs = 0;
        assert_case(&c, NULL);
    }
}

static void kept_activations_are_the_same_rows_without_computing_them_again(void **state)
{
    (void)state;
    test_case c = mixed_case(37, 4, 3);
    c.n_readers = 3;
    c.bad_each = 7;
    /* Four pictures of 9 rows x 5 and (cls to patches: all) 9 rows x 8 floats. */
    int64_t group_bytes = 4 * (9 * 5 + 9 * 8) * 4, n_made = 0, size = rf_comm_size(world);
    c.keep_bytes = group_bytes - 1;
    assert_case(&c, &n_made);
    assert_int_equal(n_made, 30);
    c.keep_bytes = group_bytes * 2 + 1;
    assert_case(&c, &n_made);
    assert_int_equal(n_made, 30 - 2 * rf_min_i64(10, 2 * size));
    c.keep_bytes = group_bytes * 100;
    assert_case(&c, &n_made);
    assert_int_equal(n_made, 10);
}

/* Run through `n_ticks` passes over the readers; note how many batches each has taken. */
static bool run_ticks(const test_case *c, rf_activation_stream *st, int64_t n_ticks, int64_t *done)
{
    bool ok = true, more = true;
    while (n_ticks > 0 && more) {
        bool any = false;
        for (int64_t r = 0; r < c->n_readers; r++) {
            rf_token_batch batch;
            bool has = false;
            ok = rf_activation_stream_next(st, r, &batch, &has) == RF_OK && ok;
            done[r] += has;
            any = any || has;
        }
        if (any) {
            n_ticks--;
        } else {
            ok = rf_activation_stream_advance(st, &more) == RF_OK && ok;
        }
    }
    return ok;
}

static void a_seek_goes_on_as_if_nothing_had_stopped(void **state)
{
    (void)state;
    test_case c = mixed_case(37, 4, 3);
    c.bad_each = 9;
    for (int64_t n_ticks = 0; n_ticks <= 32; n_ticks += n_ticks < 12 ? 1 : 5) {
        for (int keep = 0; keep <= 1; keep++) {
            rf_activation_stream *st = NULL;
            int64_t done[MAX_READERS] = {0};
            c.keep_bytes = keep * 5000;
            assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
            assert_on_all(run_ticks(&c, st, n_ticks, done));
            rf_activation_stream_close(st);
            assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
            assert_int_equal(rf_activation_stream_seek(st, done), RF_OK);
            assert_on_all(run_to_end(&c, st, done));
            rf_activation_stream_close(st);
        }
    }
}

static void a_seek_goes_back_and_forth_in_one_stream(void **state)
{
    (void)state;
    test_case c = mixed_case(37, 4, 3);
    rf_activation_stream *st = NULL;
    int64_t done[MAX_READERS] = {0}, start[MAX_READERS] = {0}, end[MAX_READERS];
    assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
    assert_on_all(run_ticks(&c, st, 5, done));
    assert_int_equal(rf_activation_stream_seek(st, start), RF_OK);
    assert_on_all(run_to_end(&c, st, start));
    memcpy(end, start, sizeof end);
    assert_int_equal(rf_activation_stream_seek(st, done), RF_OK);
    assert_on_all(run_to_end(&c, st, done));
    bool more = true;
    assert_int_equal(rf_activation_stream_seek(st, end), RF_OK);
    assert_int_equal(rf_activation_stream_advance(st, &more), RF_OK);
    assert_false(more);
    end[0]++;
    assert_int_equal(rf_activation_stream_seek(st, end), RF_ERR_INVALID_ARG);
    rf_activation_stream_close(st);
}

static void a_seek_makes_at_most_two_pools_again(void **state)
{
    (void)state;
    test_case c = mixed_case(64, 4, 4); /* 4 pools an epoch, 144 tokens of a picture's nine each */
    c.n_readers = 2;
    for (int64_t n_ticks = 0; n_ticks < 17; n_ticks++) {
        rf_activation_stream *st = NULL;
        int64_t done[MAX_READERS] = {0};
        assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
        assert_on_all(run_ticks(&c, st, n_ticks, done));
        rf_activation_stream_close(st);
        assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
        assert_int_equal(rf_activation_stream_seek(st, done), RF_OK);
        int64_t n_made = formula_made->n_made;
        assert_int_equal(rf_comm_sum_i64(world, &n_made, 1), RF_OK);
        assert_true(n_made <= 2 * c.pool_groups);
        rf_activation_stream_close(st);
    }
}

static void a_sample_is_the_first_valid_tokens_and_costs_no_pool(void **state)
{
    (void)state;
    test_case c = mixed_case(37, 4, 3);
    c.bad_each = 4;
    const int64_t wanted[] = {0, 1, 50, 100000};
    rf_activation_stream *st = NULL;
    int64_t done[MAX_READERS] = {0}, n_made = 0;
    assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
    for (int64_t r = 0; r < c.n_readers; r++) {
        int64_t total = 0, first = 0, n_rows = 0;
        naive_token *sequence = naive_sequence(&c, &c.readers[r], &total);
        assert_int_equal(rf_token_class_rows(&models[0], &c.readers[r].sites[0].point,
                                             c.readers[r].tokens, &first, &n_rows),
                         RF_OK);
        for (int i = 0; i < 4; i++) {
            float *rows = NULL;
            int64_t n = -1, width = 0, expected = 0;
            bool ok = rf_activation_stream_sample(st, r, wanted[i], &rows, &n, &width) == RF_OK;
            ok = ok && width == width_of(&c.readers[r]);
            /* Pool 0 has 3 groups: 12 pictures, less three where the short group is one of them. */
            int64_t n_pool = 12 * n_rows;
            for (int64_t slot = 0; slot < 3; slot++) {
                n_pool -=
                    rf_permute(SEED, RF_RANDOM_GROUP_ORDER, 0, 0, 10, slot) == 9 ? 3 * n_rows : 0;
            }
            for (int64_t p = 0; ok && p < n_pool && expected < wanted[i]; p++) {
                naive_token t = sequence[p];
                ok = ok && (is_bad(4, t.picture) ||
                            count_wrong(&c.readers[r], t, false, rows + expected * width) == 0);
                expected += !is_bad(4, t.picture);
            }
            assert_on_all(ok && n == expected);
            rf_free(rows);
        }
        rf_free(sequence);
    }
    n_made = formula_made->n_made;
    assert_int_equal(rf_comm_sum_i64(world, &n_made, 1), RF_OK);
    assert_int_equal(n_made, 3);
    assert_on_all(run_to_end(&c, st, done));
    n_made = formula_made->n_made;
    assert_int_equal(rf_comm_sum_i64(world, &n_made, 1), RF_OK);
    assert_int_equal(n_made, 30);
    rf_activation_stream_close(st);
}

static void a_sample_in_the_middle_leaves_the_stream_where_it_is(void **state)
{
    (void)state;
    test_case c = mixed_case(37, 4, 3);
    rf_activation_stream *st = NULL;
    int64_t done[MAX_READERS] = {0}, n = 0, width = 0;
    float *rows = NULL;
    assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
    assert_on_all(run_ticks(&c, st, 9, done));
    assert_int_equal(rf_activation_stream_sample(st, 0, 20, &rows, &n, &width), RF_OK);
    assert_int_equal(n, 20);
    rf_free(rows);
    assert_on_all(run_to_end(&c, st, done));
    rf_activation_stream_close(st);
}

static void bad_pictures_are_counted_once_and_named_on_every_rank(void **state)
{
    (void)state;
    test_case c = mixed_case(37, 4, 3);
    rf_activation_stream *st = NULL;
    int64_t done[MAX_READERS] = {0}, n_bad = -1;
    rf_str lines = {0};
    c.bad_each = 10; /* 1, 11, 21, 31 */
    assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
    assert_int_equal(rf_activation_stream_bad(st, &n_bad, &lines), RF_OK);
    assert_int_equal(n_bad, 0);
    assert_on_all(run_to_end(&c, st, done));
    assert_int_equal(rf_activation_stream_bad(st, &n_bad, &lines), RF_OK);
    assert_on_all(n_bad == 4 && lines.data != NULL &&
                  strstr(lines.data, "p11.jpg: torn at 33\n") != NULL &&
                  strstr(lines.data, "p1.jpg: torn at 3\n") != NULL &&
                  strstr(lines.data, "p21.jpg: torn at 63\n") != NULL &&
                  strstr(lines.data, "p31.jpg: torn at 93\n") != NULL &&
                  lines.len == (int64_t)strlen("p1.jpg: torn at 3\n") + 3 * 20);
    rf_str_fini(&lines);
    rf_activation_stream_close(st);
}

static void the_list_of_bad_pictures_ends_after_a_hundred(void **state)
{
    (void)state;
    test_case c = mixed_case(300, 4, 100);
    rf_activation_stream *st = NULL;
    int64_t n_bad = -1, n_lines = 0;
    bool more = false;
    rf_str lines = {0};
    c.n_readers = 1;
    c.bad_each = 2;
    assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
    assert_int_equal(rf_activation_stream_advance(st, &more), RF_OK);
    assert_int_equal(rf_activation_stream_bad(st, &n_bad, &lines), RF_OK);
    for (int64_t i = 0; i < lines.len; i++) {
        n_lines += lines.data[i] == '\n';
    }
    assert_on_all(n_bad == 150 && n_lines == 101 && strstr(lines.data, "and 50 more\n") != NULL);
    rf_str_fini(&lines);
    rf_activation_stream_close(st);
}

static void too_many_bad_pictures_end_the_run_on_every_rank(void **state)
{
    (void)state;
    test_case c = mixed_case(37, 4, 3);
    rf_activation_stream *st = NULL;
    bool more = false;
    c.bad_each = 3;
    c.max_bad_share = 0.1;
    assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
    rf_status status = rf_activation_stream_advance(st, &more);
    assert_on_all(status == RF_ERR_FORMAT && !more &&
                  strstr(rf_error_text(), "data.max_bad_share=0.1") != NULL &&
                  strstr(rf_error_text(), ".jpg: torn at") != NULL);
    rf_activation_stream_close(st);
    c.max_bad_share = 0.6; /* not more than a third and a bit of any pool here */
    assert_case(&c, NULL);
}

static void a_failure_on_one_rank_is_a_failure_on_all(void **state)
{
    (void)state;
    test_case c = mixed_case(49, 4, 5);
    rf_activation_stream *st = NULL;
    bool more = false;
    int last = rf_comm_size(world) - 1;
    assert_int_equal(open_case(&c, rf_comm_rank(world) == last ? 0 : NEVER, &st), RF_OK);
    rf_status status = rf_activation_stream_advance(st, &more);
    assert_on_all(status == RF_ERR_NUMERIC && strstr(rf_error_text(), "the model broke") != NULL);
    formula_made->fail_at = NEVER; /* and the stream can be used again */
    int64_t done[MAX_READERS] = {0};
    assert_on_all(run_to_end(&c, st, done));
    rf_activation_stream_close(st);
}

static void ranks_that_see_other_pictures_or_settings_are_refused(void **state)
{
    (void)state;
    rf_activation_stream *st = NULL;
    test_case c = mixed_case(37 + rf_comm_rank(world), 4, 3);
    rf_status status = open_case(&c, NEVER, &st);
    if (rf_comm_size(world) == 1) {
        assert_int_equal(status, RF_OK);
        rf_activation_stream_close(st);
        return;
    }
    assert_on_all(status == RF_ERR_INVALID_ARG && st == NULL &&
                  strstr(rf_error_text(), "different pictures") != NULL);
    c = mixed_case(37, 4, 3);
    c.readers[2].batch_tokens += rf_comm_rank(world);
    status = open_case(&c, NEVER, &st);
    assert_on_all(status == RF_ERR_INVALID_ARG && st == NULL &&
                  strstr(rf_error_text(), "different settings") != NULL);
}

static void what_cannot_be_streamed_is_refused(void **state)
{
    (void)state;
    rf_activation_stream *st = NULL;
    const test_case good = mixed_case(37, 4, 3);
    int64_t live = rf_alloc_live();
    test_case c = good;
    c.n_readers = 0;
    assert_int_equal(open_case(&c, NEVER, &st), RF_ERR_INVALID_ARG);
    c = good;
    c.n_pictures = 0;
    assert_int_equal(open_case(&c, NEVER, &st), RF_ERR_INVALID_ARG);
    c = good;
    c.readers[1].batch_tokens = 0;
    assert_int_equal(open_case(&c, NEVER, &st), RF_ERR_INVALID_ARG);
    c = good;
    c.readers[1].epochs = 0;
    assert_int_equal(open_case(&c, NEVER, &st), RF_ERR_INVALID_ARG);
    c = good;
    c.readers[4].tokens = RF_TOKENS_CLS;
    assert_int_equal(open_case(&c, NEVER, &st), RF_ERR_SETTING);
    c = good;
    c.max_bad_share = NAN;
    assert_int_equal(open_case(&c, NEVER, &st), RF_ERR_INVALID_ARG);
    c = good;
    c.keep_bytes = -1;
    assert_int_equal(open_case(&c, NEVER, &st), RF_ERR_INVALID_ARG);
    assert_null(st);
    assert_on_all(rf_alloc_live() == live);
}

static void advance_does_not_drop_a_batch(void **state)
{
    (void)state;
    test_case c = mixed_case(37, 4, 3);
    rf_activation_stream *st = NULL;
    bool more = false;
    int64_t done[MAX_READERS] = {0};
    assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
    assert_int_equal(rf_activation_stream_advance(st, &more), RF_OK);
    rf_status status = rf_activation_stream_advance(st, &more);
    assert_on_all(status == RF_ERR_INVALID_ARG);
    assert_on_all(run_to_end(&c, st, done));
    rf_activation_stream_close(st);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_are_those_of_the_sequence_on_any_number_of_ranks),
        cmocka_unit_test(a_coder_of_cls_gets_it_once_of_each_picture),
        cmocka_unit_test(one_pass_over_the_pictures_feeds_all_readers),
        cmocka_unit_test(bad_pictures_keep_their_rows_zero_and_not_valid),
        cmocka_unit_test(a_reader_alone_gets_the_batches_it_gets_among_others),
        cmocka_unit_test(total_tokens_ends_inside_and_beyond_an_epoch),
        cmocka_unit_test(kept_activations_are_the_same_rows_without_computing_them_again),
        cmocka_unit_test(a_seek_goes_on_as_if_nothing_had_stopped),
        cmocka_unit_test(a_seek_goes_back_and_forth_in_one_stream),
        cmocka_unit_test(a_seek_makes_at_most_two_pools_again),
        cmocka_unit_test(a_sample_is_the_first_valid_tokens_and_costs_no_pool),
        cmocka_unit_test(a_sample_in_the_middle_leaves_the_stream_where_it_is),
        cmocka_unit_test(bad_pictures_are_counted_once_and_named_on_every_rank),
        cmocka_unit_test(the_list_of_bad_pictures_ends_after_a_hundred),
        cmocka_unit_test(too_many_bad_pictures_end_the_run_on_every_rank),
        cmocka_unit_test(a_failure_on_one_rank_is_a_failure_on_all),
        cmocka_unit_test(ranks_that_see_other_pictures_or_settings_are_refused),
        cmocka_unit_test(what_cannot_be_streamed_is_refused),
        cmocka_unit_test(advance_does_not_drop_a_batch),
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
