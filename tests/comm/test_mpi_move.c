/* Bytes from one rank to another, while the others do nothing. */
#include "../../src/comm/comm_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 1000 };

static rf_comm *world;

static void assert_on_all(bool ok)
{
    int64_t n_wrong = ok ? 0 : 1;
    assert_int_equal(rf_comm_sum_i64(world, &n_wrong, 1), RF_OK);
    assert_int_equal(n_wrong, 0);
}

static void fill(unsigned char *data, int rank)
{
    for (int i = 0; i < MOST; i++) {
        data[i] = (unsigned char)(i * 7 + rank * 31);
    }
}

static void bytes_arrive_whole_and_nothing_else_changes(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 1, 63, 64, 65, MOST};
    const int rank = rf_comm_rank(world), size = rf_comm_size(world);
    unsigned char data[MOST], expected[MOST];
    for (int from = 0; from < size; from++) {
        for (int to = 0; to < size; to++) {
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                unsigned char sent[MOST];
                fill(data, rank);
                fill(expected, rank);
                fill(sent, from);
                if (rank == to) {
                    memcpy(expected, sent, (size_t)sizes[s]);
                }
                assert_on_all(rf_comm_move(world, data, sizes[s], from, to) == RF_OK &&
                              memcmp(data, expected, MOST) == 0);
            }
        }
    }
}

static void long_messages_go_in_pieces(void **state)
{
    const int64_t limit = rf_comm_message_limit();
    rf_comm_set_message_limit(64);
    bytes_arrive_whole_and_nothing_else_changes(state);
    rf_comm_set_message_limit(limit);
}

static void ranks_that_there_are_not_are_refused(void **state)
{
    (void)state;
    char data = 0;
    const int size = rf_comm_size(world);
    assert_int_equal(rf_comm_move(world, &data, 1, 0, size), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_comm_move(world, &data, 1, -1, 0), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_comm_move(world, &data, -1, 0, 0), RF_ERR_INVALID_ARG);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_arrive_whole_and_nothing_else_changes),
        cmocka_unit_test(long_messages_go_in_pieces),
        cmocka_unit_test(ranks_that_there_are_not_are_refused),
    };
    if (rf_comm_start(&argc, &argv, &world) != RF_OK) {
        return 1;
    }
    const int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    rf_comm_finish(world);
    return n_failed;
}
