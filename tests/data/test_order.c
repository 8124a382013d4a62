/* The order: pure functions of the settings. */
#include "../../src/data/data_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* Ragged, tiny, one past a group, one past a pool, one group larger than everything. */
static const struct shape {
    int64_t n_pictures, group_pictures, pool_groups, n_rows;
} shapes[] = {
    {1, 1, 1, 1},  {1, 16, 16, 5}, {16, 16, 1, 3}, {17, 16, 1, 3},  {37, 4, 3, 7},
    {36, 4, 3, 1}, {48, 4, 3, 2},  {49, 4, 3, 2},  {50, 7, 100, 2}, {103, 5, 2, 3},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], SEED = 7, N_EPOCHS = 3 };

static rf_order make_order(const struct shape *s)
{
    rf_order order;
    assert_int_equal(rf_order_init(&order, SEED, s->n_pictures, s->group_pictures, s->pool_groups),
                     RF_OK);
    return order;
}

static int64_t picture_of(const rf_order *order, int64_t epoch, rf_order_token t)
{
    int64_t group = rf_order_group(order, epoch, t.slot);
    assert_in_range(t.picture, 0, rf_order_group_size(order, group) - 1);
    return group * order->group_pictures + t.picture;
}

static void every_token_comes_exactly_once_an_epoch(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        rf_order order = make_order(&shapes[i]);
        int64_t n_rows = shapes[i].n_rows, n_tokens = order.n_pictures * n_rows;
        for (int64_t e = 0; e < N_EPOCHS; e++) {
            rf_order_epoch epoch = rf_order_find_epoch(&order, e);
            uint8_t *seen = rf_calloc(n_tokens, 1);
            int64_t n_seen = 0, begin, end;
            for (int64_t pool = 0; pool < order.n_pools; pool++) {
                rf_order_pool_span(&order, epoch, pool, n_rows, &begin, &end);
                for (int64_t k = 0; k < end - begin; k++) {
                    rf_order_token t = rf_order_token_at(&order, epoch, pool, n_rows, k);
                    int64_t token = picture_of(&order, e, t) * n_rows + t.row;
                    assert_in_range(t.row, 0, n_rows - 1);
                    assert_int_equal(seen[token]++, 0);
                    n_seen++;
                }
            }
            assert_int_equal(n_seen, n_tokens);
            rf_free(seen);
        }
    }
}

static void a_pool_holds_the_tokens_of_its_groups_only(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        rf_order order = make_order(&shapes[i]);
        rf_order_epoch epoch = rf_order_find_epoch(&order, 1);
        for (int64_t pool = 0; pool < order.n_pools; pool++) {
            int64_t begin, end, n_pictures = 0;
            int64_t first = pool * order.pool_groups;
            int64_t last = rf_min_i64(first + order.pool_groups, order.n_groups);
            for (int64_t slot = first; slot < last; slot++) {
                n_pictures += rf_order_group_size(&order, rf_order_group(&order, 1, slot));
            }
            rf_order_pool_span(&order, epoch, pool, shapes[i].n_rows, &begin, &end);
            assert_int_equal(end - begin, n_pictures * shapes[i].n_rows);
            for (int64_t k = 0; k < end - begin; k++) {
                rf_order_token t = rf_order_token_at(&order, epoch, pool, shapes[i].n_rows, k);
                assert_in_range(t.slot, first, last - 1);
            }
        }
    }
}

static void pools_lie_end_to_end_over_epochs(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        rf_order order = make_order(&shapes[i]);
        int64_t n_rows = shapes[i].n_rows, position = 0, begin, end;
        for (int64_t t = 0; t < N_EPOCHS * order.n_pools; t++) {
            rf_order_epoch epoch = rf_order_find_epoch(&order, t / order.n_pools);
            rf_order_pool_span(&order, epoch, t % order.n_pools, n_rows, &begin, &end);
            assert_int_equal(begin, position);
            assert_true(end > begin);
            for (; position < end; position++) {
                assert_int_equal(rf_order_pool_at(&order, n_rows, position), t);
            }
        }
        assert_int_equal(position, N_EPOCHS * order.n_pictures * n_rows);
    }
}

static void epochs_differ_and_pools_are_mixed(void **state)
{
    (void)state;
    rf_order order = make_order(&(struct shape){256, 4, 16, 9});
    int64_t n_same = 0, n_in_order = 0, n_tokens = 16 * 4 * 9;
    for (int64_t slot = 0; slot < order.n_groups; slot++) {
        n_same += rf_order_group(&order, 0, slot) == rf_order_group(&order, 1, slot);
    }
    assert_in_range(n_same, 0, 10); /* one is expected of 64 by chance */
    rf_order_epoch epoch = rf_order_find_epoch(&order, 0);
    int64_t before = -1;
    for (int64_t k = 0; k < n_tokens; k++) {
        rf_order_token t = rf_order_token_at(&order, epoch, 0, 9, k);
        int64_t token = (t.slot * 4 + t.picture) * 9 + t.row;
        n_in_order += token == before + 1;
        before = token;
    }
    assert_in_range(n_in_order, 0, 10); /* one is expected of 576 by chance */
}

static void the_seed_changes_the_order(void **state)
{
    (void)state;
    rf_order a = make_order(&(struct shape){256, 4, 16, 9}), b = a;
    int64_t n_same = 0;
    b.seed++;
    for (int64_t slot = 0; slot < a.n_groups; slot++) {
        n_same += rf_order_group(&a, 0, slot) == rf_order_group(&b, 0, slot);
    }
    assert_in_range(n_same, 0, 10);
}

/* Mean entropy of the pictures in the batches of an epoch, in nats. */
static double count_entropy(const rf_order *order, int64_t n_rows, int64_t batch_tokens)
{
    const int64_t n = order->n_pictures * n_rows;
    const rf_order_epoch epoch = rf_order_find_epoch(order, 0);
    int64_t *in_batch = rf_calloc(order->n_pictures, sizeof *in_batch), begin = 0, end = 0;
    double sum = 0;
    for (int64_t i = 0, pool = -1; i < n; i++) {
        while (i >= end) {
            rf_order_pool_span(order, epoch, ++pool, n_rows, &begin, &end);
        }
        in_batch[picture_of(order, 0, rf_order_token_at(order, epoch, pool, n_rows, i - begin))]++;
        for (int64_t p = 0; (i + 1) % batch_tokens == 0 && p < order->n_pictures; p++) {
            const double share = (double)in_batch[p] / (double)batch_tokens;
            sum -= share > 0 ? share * log(share) : 0;
            in_batch[p] = 0;
        }
    }
    rf_free(in_batch);
    return sum / (double)(n / batch_tokens);
}

static void the_expected_entropy_is_that_of_the_batches(void **state)
{
    (void)state;
    enum { N = 600, ROWS = 49, BATCH = 300 };
    rf_order whole;
    assert_int_equal(rf_order_init(&whole, SEED, N, 4, N), RF_OK);
    const double ideal = count_entropy(&whole, ROWS, BATCH);
    for (int64_t pool_groups = 16; pool_groups <= 128; pool_groups *= 2) {
        rf_order order;
        assert_int_equal(rf_order_init(&order, SEED, N, 4, pool_groups), RF_OK);
        const double expected = rf_batch_entropy_share(N, 4 * pool_groups, ROWS, BATCH);
        const double got = count_entropy(&order, ROWS, BATCH) / ideal;
        /* batches that reach into the next pool have a few pictures more */
        assert_true(!(fabs(expected - got) > 0.03));
    }
    assert_true(rf_batch_entropy_share(1000, 1000, 49, 4096) == 1);
    assert_true(rf_batch_entropy_share(1000, 64, 1, 64) == 1);
    assert_true(rf_batch_entropy_share(1, 1, 1, 1) == 1);
}

static void nothing_to_order_is_refused(void **state)
{
    (void)state;
    rf_order order;
    assert_int_equal(rf_order_init(&order, SEED, 0, 4, 4), RF_ERR_INVALID_ARG);
    assert_non_null(strstr(rf_error_text(), "no pictures"));
    assert_int_equal(rf_order_init(&order, SEED, 4, 0, 4), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_order_init(&order, SEED, 4, 4, -1), RF_ERR_INVALID_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_token_comes_exactly_once_an_epoch),
        cmocka_unit_test(a_pool_holds_the_tokens_of_its_groups_only),
        cmocka_unit_test(pools_lie_end_to_end_over_epochs),
        cmocka_unit_test(epochs_differ_and_pools_are_mixed),
        cmocka_unit_test(the_seed_changes_the_order),
        cmocka_unit_test(the_expected_entropy_is_that_of_the_batches),
        cmocka_unit_test(nothing_to_order_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
