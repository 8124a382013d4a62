/* Readers whose batches only some ranks share: these get them as if they were alone, and the others
 * nothing but the numbers. */
#include "stream_case.h"

/* Reader r is of ranks first .. first + n - 1. */
typedef struct span {
    int first, n;
} span;

static rf_status open_spans(const test_case *c, const span *spans, rf_activation_stream **out)
{
    rf_reader_opts readers[MAX_READERS] = {{0}};
    const rf_stream_frame frame = frame_of(c);
    readers_of(c, readers);
    for (int64_t r = 0; r < c->n_readers; r++) {
        readers[r].first_rank = spans[r].first;
        readers[r].n_ranks = spans[r].n;
    }
    return rf_activation_stream_assemble(&frame, formula_of(c, NEVER), readers, c->n_readers, out);
}

static test_case make_case(void)
{
    test_case c = {.n_pictures = 61,
                   .group_pictures = 4,
                   .pool_groups = 3,
                   .bad_each = 7,
                   .max_bad_share = 1,
                   .n_readers = 3};
    c.readers[0] = reader("l1", 1, RF_HOOK_TOKENS, 8, RF_TOKENS_ALL, 130, 2);
    c.readers[1] = reader("l1", 1, RF_HOOK_TOKENS, 8, RF_TOKENS_CLS, 10, 3);
    c.readers[2] = reader("l2", 2, RF_HOOK_TOKENS, 4, RF_TOKENS_PATCH, 257, 1);
    return c;
}

/* This rank's rows of batch `b`, by the definition: those of its place among the span's ranks. */
static bool share_is_right(const test_case *c, const case_reader *r, span s,
                           const naive_token *sequence, int64_t total, int64_t b,
                           const rf_token_batch *batch)
{
    const int place = rf_comm_rank(world) - s.first;
    const int64_t begin = b * r->batch_tokens, n = rf_min_i64(r->batch_tokens, total - begin);
    int64_t first = 0, count = 0, n_wrong = 0, n_valid = 0;
    if (place >= 0 && place < s.n) {
        rf_comm_share(n, RF_TOKEN_TILE, place, s.n, &first, &count);
        n_wrong += batch->first_row != first;
    }
    for (int64_t i = 0; i < n; i++) {
        n_valid += !is_bad(c->bad_each, sequence[begin + i].picture);
    }
    n_wrong += batch->batch_idx != b || batch->n_rows != n || batch->n_valid != n_valid;
    if (batch->x.shape[0] != count) {
        return false;
    }
    const float *x = batch->x.data;
    for (int64_t i = 0; i < count; i++) {
        const naive_token t = sequence[begin + first + i];
        n_wrong += batch->pictures[i] != t.picture;
        n_wrong += count_wrong(r, t, is_bad(c->bad_each, t.picture), x + i * width_of(r));
    }
    return n_wrong == 0;
}

static void assert_spans(const test_case *c, const span *spans)
{
    rf_activation_stream *st = NULL;
    naive_token *sequence[MAX_READERS] = {0};
    int64_t total[MAX_READERS] = {0}, done[MAX_READERS] = {0};
    bool ok = true, more = true;
    assert_int_equal(open_spans(c, spans, &st), RF_OK);
    for (int64_t r = 0; r < c->n_readers; r++) {
        sequence[r] = naive_sequence(c, &c->readers[r], &total[r]);
    }
    while (more) {
        bool any = false;
        for (int64_t r = 0; r < c->n_readers; r++) {
            rf_token_batch batch;
            bool has = false;
            ok = rf_activation_stream_next(st, r, &batch, &has) == RF_OK && ok;
            ok = (!has || share_is_right(c, &c->readers[r], spans[r], sequence[r], total[r],
                                         done[r]++, &batch)) &&
                 ok;
            any = any || has;
        }
        if (!any) {
            ok = rf_activation_stream_advance(st, &more) == RF_OK && ok;
        }
    }
    for (int64_t r = 0; r < c->n_readers; r++) {
        ok = done[r] == rf_ceil_div(total[r], c->readers[r].batch_tokens) && ok;
        rf_free(sequence[r]);
    }
    rf_activation_stream_close(st);
    assert_on_all(ok);
}

static void batches_go_to_their_ranks_alone(void **state)
{
    (void)state;
    const test_case c = make_case();
    const int size = rf_comm_size(world);
    for (int first = 0; first < size; first++) {
        for (int n = 1; first + n <= size; n++) {
            const span spans[3] = {{first, n}, {0, size}, {size - first - n, n}};
            assert_spans(&c, spans);
        }
    }
}

static void readers_of_no_ranks_in_particular_are_of_all(void **state)
{
    (void)state;
    const test_case c = make_case();
    assert_case(&c, NULL);
}

static void ranks_that_there_are_not_are_refused(void **state)
{
    (void)state;
    const test_case c = make_case();
    const int size = rf_comm_size(world);
    const span wrong[4] = {{size, 1}, {0, size + 1}, {-1, 1}, {size, 0}};
    for (int i = 0; i < 4; i++) {
        const span spans[3] = {{0, 0}, wrong[i], {0, 0}};
        rf_activation_stream *st = NULL;
        assert_int_equal(open_spans(&c, spans, &st), RF_ERR_INVALID_ARG);
        assert_null(st);
    }
}

static void spans_must_agree(void **state)
{
    (void)state;
    const test_case c = make_case();
    const span spans[3] = {{0, 0}, {rf_comm_rank(world) == 0 ? 0 : 1, 1}, {0, 0}};
    rf_activation_stream *st = NULL;
    if (rf_comm_size(world) > 1) {
        assert_int_equal(open_spans(&c, spans, &st), RF_ERR_INVALID_ARG);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_go_to_their_ranks_alone),
        cmocka_unit_test(readers_of_no_ranks_in_particular_are_of_all),
        cmocka_unit_test(ranks_that_there_are_not_are_refused),
        cmocka_unit_test(spans_must_agree),
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
