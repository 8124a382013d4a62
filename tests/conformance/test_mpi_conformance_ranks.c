/* Exchanges over ranks of ragged sizes, none and more than a block; the shadow compares. */
#include "conformance_fixture.h"

static rf_comm *world;

enum { MAX_RANKS = 64 };

/* Of what goes from one rank to another: some give nothing. */
static int64_t bytes_between(int from, int to, int round)
{
    static const int64_t some[] = {0, 1, 33, 4, 4096, 100003, 256};
    return some[(from * 3 + to * 5 + round) % 7];
}

static void parts_are_gathered(void **state)
{
    (void)state;
    const int rank = rf_comm_rank(world), size = rf_comm_size(world);
    for (int round = 0; round < 7; round++) {
        int64_t bytes[MAX_RANKS], all = 0, mine = 0;
        for (int r = 0; r < size; r++) {
            bytes[r] = bytes_between(r, 0, round);
            mine = r == rank ? all : mine;
            all += bytes[r];
        }
        char *send = (char *)floats(bytes[rank] / 4 + 1), *recv = block(all, 1);
        OK(rf_all_gather(s, world, send, recv, bytes));
        memcpy(recv + mine, send, (size_t)bytes[rank]);
        OK(rf_all_gather(s, world, recv + mine, recv, bytes)); /* in place */
    }
}

static void parts_are_exchanged(void **state)
{
    (void)state;
    const int rank = rf_comm_rank(world), size = rf_comm_size(world);
    for (int round = 0; round < 7; round++) {
        int64_t send_bytes[MAX_RANKS], recv_bytes[MAX_RANKS], sent = 0, received = 0;
        for (int r = 0; r < size; r++) {
            sent += send_bytes[r] = bytes_between(rank, r, round);
            received += recv_bytes[r] = bytes_between(r, rank, round);
        }
        OK(rf_all_to_all(s, world, floats(sent / 4 + 1), send_bytes, block(received, 1),
                         recv_bytes));
    }
}

static void sums_have_one_order(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 1, 3, 33, 257, 4100, 100003};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        float *data = floats(sizes[i]);
        int64_t *counts = block(sizes[i], sizeof *counts);
        for (int64_t j = 0; j < sizes[i]; j++) {
            data[j] *= (float)(1 + rf_comm_rank(world) * 1000);
            counts[j] = (j << 40) - rf_comm_rank(world);
        }
        OK(rf_all_sum_f32(s, world, data, sizes[i]));
        OK(rf_all_sum_i64(s, world, counts, sizes[i]));
    }
}

static void each_of_them_was_compared(void **state)
{
    (void)state;
    assert_compared(RF_SHADOW_RANKS);
}

int main(int argc, char **argv)
{
#define TEST(test) cmocka_unit_test_teardown(test, forget)
    const struct CMUnitTest tests[] = {
        TEST(parts_are_gathered),
        TEST(parts_are_exchanged),
        TEST(sums_have_one_order),
        TEST(each_of_them_was_compared),
    };
    if (rf_comm_start(&argc, &argv, &world) != RF_OK || rf_comm_size(world) > MAX_RANKS) {
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, open_backend, close_backend);
    rf_comm_finish(world);
    return failed;
}
