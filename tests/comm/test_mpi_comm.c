/* What comm promises, on any number of ranks: agreement, exchanges, sums of fixed order. */
#include "../../src/comm/comm_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static rf_comm *world;
static int rank, size;

/* A byte that depends on who sends it, to whom, and where it stands. */
static unsigned char mark(int from, int to, int64_t i)
{
    return (unsigned char)(from * 31 + to * 7 + i * 3 + 1);
}

static void test_shares_are_whole_tiles_that_cover_all_items(void **state)
{
    (void)state;
    for (int n_ranks = 1; n_ranks <= 5; n_ranks++) {
        for (int64_t tile = 1; tile <= 48; tile += 15) {
            for (int64_t n = 0; n <= 200; n++) {
                int64_t at = 0, least = INT64_MAX, most = 0;
                for (int r = 0; r < n_ranks; r++) {
                    int64_t first = -1, count = -1;
                    rf_comm_share(n, tile, r, n_ranks, &first, &count);
                    assert_true(first == at && count >= 0);
                    at += count;
                    assert_true(at == n || count % tile == 0);
                    least = rf_min_i64(least, rf_ceil_div(count, tile));
                    most = rf_max_i64(most, rf_ceil_div(count, tile));
                }
                assert_true(at == n);
                assert_true(most - least <= 1);
            }
        }
    }
}

static void test_agree_gives_all_ranks_the_failure_of_the_lowest(void **state)
{
    (void)state;
    assert_int_equal(rf_comm_agree(world, RF_OK), RF_OK);
    for (int lowest = 0; lowest < size; lowest++) {
        for (int highest = lowest; highest < size; highest++) {
            char expected[64] = "";
            rf_status status = RF_OK;
            snprintf(expected, sizeof expected,
                     size > 1 ? "rank %d: disk %d is full" : "disk 7 is full", lowest, lowest + 7);
            rf_error_restore(RF_ERR_BUG, "old text");
            if (rank == lowest) {
                status = rf_error_raise(RF_ERR_IO, __FILE__, __LINE__, "disk %d is full", rank + 7);
            } else if (rank == highest) {
                status = rf_error_raise(RF_ERR_NUMERIC, __FILE__, __LINE__, "not a number");
            }
            assert_int_equal(rf_comm_agree(world, status), RF_ERR_IO);
            assert_string_equal(rf_error_text(), expected);
            /* An outer function agrees once more: the rank is named once. */
            assert_int_equal(rf_comm_agree(world, RF_ERR_IO), RF_ERR_IO);
            assert_string_equal(rf_error_text(), expected);
        }
    }
}

static void test_broadcast_reaches_all_from_every_root(void **state)
{
    const int64_t lengths[] = {0, 1, 63, 64, 65, 1000};
    unsigned char data[1000];

    (void)state;
    for (int root = 0; root < size; root++) {
        for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) {
            memset(data, 0, sizeof data);
            for (int64_t i = 0; rank == root && i < lengths[k]; i++) {
                data[i] = mark(root, 0, i);
            }
            assert_int_equal(rf_comm_bcast(world, data, lengths[k], root), RF_OK);
            for (int64_t i = 0; i < 1000; i++) {
                assert_int_equal(data[i], i < lengths[k] ? mark(root, 0, i) : 0);
            }
        }
    }
    assert_int_equal(rf_comm_bcast(world, NULL, 0, 0), RF_OK);
    assert_int_equal(rf_comm_bcast(world, data, 1, size), RF_ERR_INVALID_ARG);
}

static void check_allgather(const int64_t *n_bytes, bool in_place)
{
    unsigned char send[512], recv[4 * 512 + 1];
    int64_t at = 0, mine = 0;

    memset(recv, 0xee, sizeof recv);
    for (int r = 0; r < rank; r++) {
        mine += n_bytes[r];
    }
    for (int64_t i = 0; i < n_bytes[rank]; i++) {
        send[i] = recv[mine + i] = mark(rank, 0, i);
    }
    assert_int_equal(rf_comm_allgatherv(world, in_place ? recv + mine : send, recv, n_bytes),
                     RF_OK);
    for (int r = 0; r < size; r++) {
        for (int64_t i = 0; i < n_bytes[r]; i++) {
            assert_int_equal(recv[at++], mark(r, 0, i));
        }
    }
    assert_int_equal(recv[at], 0xee);
}

static void test_allgather_joins_uneven_and_empty_shares_in_rank_order(void **state)
{
    const int64_t shares[][4] = {{0, 0, 0, 0}, {5, 0, 131, 1}, {0, 7, 0, 64}, {512, 511, 65, 128}};

    (void)state;
    for (size_t k = 0; k < sizeof shares / sizeof shares[0]; k++) {
        check_allgather(shares[k], false);
        check_allgather(shares[k], true);
    }
}

static int64_t length_of(int from, int to, int variant)
{
    return (from * 2 + to * 3 + variant) % 4 * 37 *
           variant; /* zeros among them, all at variant 0 */
}

static void test_alltoall_delivers_every_part_and_skips_empty_ones(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        unsigned char send[4 * 512], recv[4 * 512 + 1];
        int64_t send_bytes[4], recv_bytes[4], n_send = 0, at = 0;

        memset(recv, 0xee, sizeof recv);
        for (int r = 0; r < size; r++) {
            send_bytes[r] = length_of(rank, r, variant);
            recv_bytes[r] = length_of(r, rank, variant);
            for (int64_t i = 0; i < send_bytes[r]; i++) {
                send[n_send++] = mark(rank, r, i);
            }
        }
        assert_int_equal(rf_comm_alltoallv(world, send, send_bytes, recv, recv_bytes), RF_OK);
        for (int r = 0; r < size; r++) {
            for (int64_t i = 0; i < recv_bytes[r]; i++) {
                assert_int_equal(recv[at++], mark(r, rank, i));
            }
        }
        assert_int_equal(recv[at], 0xee);
    }
}

static void test_alltoall_with_a_wrong_length_on_one_rank_fails_on_all(void **state)
{
    int64_t lengths[4] = {0};
    char byte = 0;

    (void)state;
    if (rank == size - 1) {
        lengths[0] = -1;
    }
    assert_int_equal(rf_comm_alltoallv(world, &byte, lengths, &byte, lengths), RF_ERR_INVALID_ARG);
    assert_non_null(strstr(rf_error_text(), "-1 bytes for rank 0"));
}

static void test_alltoall_within_the_same_memory_is_refused_on_all_ranks(void **state)
{
    int64_t lengths[4] = {0}, nothing[4] = {0};
    char bytes[2] = {1, 2};

    (void)state;
    lengths[rank] = 1;
    void *recv = rank == 0 ? bytes : bytes + 1;
    assert_int_equal(rf_comm_alltoallv(world, bytes, lengths, recv, lengths), RF_ERR_INVALID_ARG);
    assert_non_null(strstr(rf_error_text(), "the same memory"));
    assert_int_equal(rf_comm_alltoallv(world, bytes, nothing, bytes, nothing), RF_OK);
}

/* Lengths round the number of ranks, and one past what the scratch takes at once. */
static const int64_t sum_lengths[] = {0, 1, 2, 3, 4, 5, 1000, RF_COMM_SCRATCH_BYTES / 4 + 1};
enum { N_SUM_LENGTHS = sizeof sum_lengths / sizeof sum_lengths[0] };

static float value_f32(int r, int64_t i)
{
    float v[4];
    rf_random_normal4(1, RF_RANDOM_TEST, (uint64_t)r, (uint64_t)i, v);
    return v[0] * (r % 2 == 0 ? 1.0f : 1e4f); /* widths apart: another order gives other bits */
}

static void test_float_sums_add_in_rank_order_to_the_bit(void **state)
{
    (void)state;
    for (int k = 0; k < N_SUM_LENGTHS; k++) {
        int64_t n = sum_lengths[k];
        float *data = rf_calloc(n + 1, sizeof *data), *expected = rf_calloc(n + 1, sizeof *data);
        for (int64_t i = 0; i < n; i++) {
            data[i] = value_f32(rank, i);
            expected[i] = value_f32(0, i);
            for (int r = 1; r < size; r++) {
                expected[i] += value_f32(r, i);
            }
        }
        assert_int_equal(rf_comm_sum_f32(world, data, n), RF_OK);
        assert_memory_equal(data, expected, (size_t)(n + 1) * sizeof *data);
        rf_free(expected);
        rf_free(data);
    }
}

static void test_double_sums_add_in_rank_order_to_the_bit(void **state)
{
    (void)state;
    for (int k = 0; k < N_SUM_LENGTHS; k++) {
        int64_t n = sum_lengths[k];
        double *data = rf_calloc(n + 1, sizeof *data), *expected = rf_calloc(n + 1, sizeof *data);
        for (int64_t i = 0; i < n; i++) {
            data[i] = (double)value_f32(rank, i) / 3;
            expected[i] = (double)value_f32(0, i) / 3;
            for (int r = 1; r < size; r++) {
                expected[i] += (double)value_f32(r, i) / 3;
            }
        }
        assert_int_equal(rf_comm_sum_f64(world, data, n), RF_OK);
        assert_memory_equal(data, expected, (size_t)(n + 1) * sizeof *data);
        rf_free(expected);
        rf_free(data);
    }
}

static void test_integers_sum_and_have_a_maximum_exactly(void **state)
{
    int64_t sums[21], maxima[21];

    (void)state;
    for (int64_t i = 0; i < 21; i++) {
        sums[i] = (INT64_C(1) << 53) + rank * i + 1; /* past what a double counts */
        maxima[i] = rank == i % size ? INT64_MAX - i : INT64_MIN + rank;
    }
    assert_int_equal(rf_comm_sum_i64(world, sums, 21), RF_OK);
    assert_int_equal(rf_comm_max_i64(world, maxima, 21), RF_OK);
    for (int64_t i = 0; i < 21; i++) {
        assert_true(sums[i] == size * ((INT64_C(1) << 53) + 1) + i * size * (size - 1) / 2);
        assert_true(maxima[i] == INT64_MAX - i);
    }
    assert_int_equal(rf_comm_sum_i64(world, NULL, 0), RF_OK);
    assert_int_equal(rf_comm_sum_i64(world, sums, -1), RF_ERR_INVALID_ARG);
}

static void test_a_split_keeps_order_and_talks_among_its_own(void **state)
{
    rf_comm *part = NULL;
    int color = rank % 2, n_part = (size + 1 - color) / 2;
    int64_t sum = rank, expected = 0;
    rf_status status = RF_OK;

    (void)state;
    assert_int_equal(rf_comm_split(world, color, &part), RF_OK);
    assert_int_equal(rf_comm_rank(part), rank / 2);
    assert_int_equal(rf_comm_size(part), n_part);
    for (int r = color; r < size; r += 2) {
        expected += r;
    }
    assert_int_equal(rf_comm_sum_i64(part, &sum, 1), RF_OK);
    assert_true(sum == expected);
    /* A failure in a part names the rank of the world, which is what a person knows. */
    if (rf_comm_rank(part) == n_part - 1) {
        status = rf_error_raise(RF_ERR_IO, __FILE__, __LINE__, "no disk");
    }
    assert_int_equal(rf_comm_agree(part, status), RF_ERR_IO);
    if (n_part > 1) {
        char text[64];
        snprintf(text, sizeof text, "rank %d: no disk", 2 * (n_part - 1) + color);
        assert_string_equal(rf_error_text(), text);
    }
    rf_comm_destroy(part);
    assert_int_equal(rf_comm_split(world, rank == 0 ? -1 : 0, &part), RF_ERR_INVALID_ARG);
    assert_null(part);
}

static void test_ranks_of_one_host_find_each_other(void **state)
{
    rf_comm *host = NULL;

    (void)state;
    assert_int_equal(rf_comm_split_host(world, &host), RF_OK);
    assert_true(rf_comm_size(host) >= 1 && rf_comm_size(host) <= size);
    assert_int_equal(rf_comm_barrier(host), RF_OK);
    rf_comm_destroy(host);
}

static int n_ended;

static void end_companion(void *companion)
{
    n_ended += *(const int *)companion;
}

static void test_a_companion_lives_as_long_as_its_communicator(void **state)
{
    rf_comm *own = NULL;
    int first = 1, second = 10;

    (void)state;
    n_ended = 0;
    assert_int_equal(rf_comm_split(world, 0, &own), RF_OK);
    assert_null(rf_comm_companion(own));
    rf_comm_set_companion(own, &first, end_companion);
    assert_ptr_equal(rf_comm_companion(own), &first);
    assert_null(rf_comm_companion(world));
    rf_comm_set_companion(own, &second, end_companion); /* the first has to go */
    assert_int_equal(n_ended, 1);
    assert_ptr_equal(rf_comm_companion(own), &second);
    rf_comm_destroy(own);
    assert_int_equal(n_ended, 11);
}

static void test_debug_builds_notice_arguments_that_differ(void **state)
{
    (void)state;
    assert_int_equal(rf_comm_check_same(world, "n", INT64_MIN), RF_OK);
#if defined(RF_DEBUG)
    if (size > 1) {
        assert_int_equal(rf_comm_check_same(world, "n", rank == 0 ? -5 : 6), RF_ERR_BUG);
        assert_non_null(strstr(rf_error_text(), "from -5 to 6"));
    }
#endif
}

static int use_short_messages(void **state)
{
    (void)state;
    rf_comm_set_message_limit(64);
    return 0;
}

static int use_long_messages(void **state)
{
    (void)state;
    rf_comm_set_message_limit(INT64_C(1) << 30);
    return 0;
}

/* The same claim where no MPI call may carry more than 64 bytes. */
#define IN_PIECES(test)                                                                            \
    {                                                                                              \
        .name = #test " in pieces", .test_func = (test), .setup_func = use_short_messages,         \
        .teardown_func = use_long_messages                                                         \
    }

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares_are_whole_tiles_that_cover_all_items),
        cmocka_unit_test(test_agree_gives_all_ranks_the_failure_of_the_lowest),
        cmocka_unit_test(test_broadcast_reaches_all_from_every_root),
        IN_PIECES(test_broadcast_reaches_all_from_every_root),
        cmocka_unit_test(test_allgather_joins_uneven_and_empty_shares_in_rank_order),
        IN_PIECES(test_allgather_joins_uneven_and_empty_shares_in_rank_order),
        cmocka_unit_test(test_alltoall_delivers_every_part_and_skips_empty_ones),
        IN_PIECES(test_alltoall_delivers_every_part_and_skips_empty_ones),
        cmocka_unit_test(test_alltoall_with_a_wrong_length_on_one_rank_fails_on_all),
        cmocka_unit_test(test_alltoall_within_the_same_memory_is_refused_on_all_ranks),
        cmocka_unit_test(test_float_sums_add_in_rank_order_to_the_bit),
        cmocka_unit_test(test_double_sums_add_in_rank_order_to_the_bit),
        cmocka_unit_test(test_integers_sum_and_have_a_maximum_exactly),
        IN_PIECES(test_integers_sum_and_have_a_maximum_exactly),
        cmocka_unit_test(test_a_split_keeps_order_and_talks_among_its_own),
        cmocka_unit_test(test_ranks_of_one_host_find_each_other),
        cmocka_unit_test(test_a_companion_lives_as_long_as_its_communicator),
        cmocka_unit_test(test_debug_builds_notice_arguments_that_differ),
    };
    int64_t n_live = rf_alloc_live();
    int n_failed;

    if (rf_comm_start(&argc, &argv, &world) != RF_OK) {
        fprintf(stderr, "%s\n", rf_error_text());
        return 1;
    }
    rank = rf_comm_rank(world);
    size = rf_comm_size(world);
    if (size > 4) {
        fprintf(stderr, "these tests know what to expect of 1 to 4 ranks\n");
        return 1;
    }
    n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    rf_comm_finish(world);
    if (rf_alloc_live() != n_live) {
        fprintf(stderr, "%" PRId64 " blocks leaked\n", rf_alloc_live() - n_live);
        n_failed++;
    }
    return n_failed;
}
