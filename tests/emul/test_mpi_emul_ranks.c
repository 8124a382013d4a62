/* Exchanges between GPUs, through NCCL's stand-in and through host memory, against those of comm;
 * and what becomes of ranks that fail or never come. */
#include "emul.h"
#include "ranks_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static rf_comm *world, *comm; /* comm: of the group of tests */
static rf_backend *be;
static rf_stream *s, *other;
static rf_ranks_way expected_way;
static int rank, size;

static void check(rf_status status)
{
    if (status != RF_OK) {
        fail_msg("rank %d: %s", rank, rf_error_text());
    }
}

static uint32_t word(int64_t which, int64_t i)
{
    uint32_t words[4];
    rf_random_u32x4(11, RF_RANDOM_TEST, (uint64_t)which, (uint64_t)i, words);
    return words[0];
}

static void *device_of(const void *host, int64_t n_bytes)
{
    void *p = NULL;
    check(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)n_bytes, &p));
    check(rf_copy_in(s, p, host, (size_t)n_bytes));
    return p;
}

static void bring_back(void *host, void *device, int64_t n_bytes)
{
    check(rf_copy_out(s, host, device, (size_t)n_bytes));
    check(rf_stream_synchronise(s));
    rf_memory_free(be, RF_MEMORY_DEVICE, device);
}

/* ---- the same results as comm's ------------------------------------------------------------ */

enum { N_SIZES = 6 };

/* Bytes from rank `from` to rank `to`: uneven, some 0, some equal everywhere. */
static int64_t bytes_of(int form, int from, int to)
{
    switch (form) {
    case 0:
        return 0;
    case 1:
        return 24;
    case 2:
        return from == 0 ? 0 : 7 * from + 3 * to;
    case 3:
        return to == 1 ? 0 : 1000 * (from + 1) + to;
    case 4:
        return from == to ? 5 : 0;
    default:
        return 70001;
    }
}

static unsigned char *fill(int64_t n, int which)
{
    unsigned char *p = rf_calloc(n, 1);
    assert_non_null(p);
    for (int64_t i = 0; i < n; i++) {
        p[i] = (unsigned char)word(rank * 10 + which, i);
    }
    return p;
}

static void gather_case(int form, bool in_place)
{
    int64_t n_bytes[16] = {0}, all = 0, at = 0;
    for (int r = 0; r < size; r++) {
        n_bytes[r] = bytes_of(form, r, 3);
        at = r == rank ? all : at;
        all += n_bytes[r];
    }
    const int64_t mine = n_bytes[rank];
    unsigned char *send = fill(mine + 1, 1), *want = fill(all + 1, 2), *got = rf_calloc(all + 1, 1);
    memcpy(got, want, (size_t)(all + 1));
    memcpy(got + at, send, (size_t)mine);
    check(rf_comm_allgatherv(comm, send, want, n_bytes));
    unsigned char *from = device_of(send, mine + 1), *to = device_of(got, all + 1);
    check(rf_all_gather(s, comm, in_place ? to + at : from, to, n_bytes));
    bring_back(got, to, all + 1);
    assert_memory_equal(got, want, (size_t)(all + 1));
    rf_memory_free(be, RF_MEMORY_DEVICE, from);
    rf_free(got);
    rf_free(want);
    rf_free(send);
}

static void gathered_bytes_are_those_of_comm(void **state)
{
    (void)state;
    for (int form = 0; form < N_SIZES; form++) {
        gather_case(form, false);
        gather_case(form, true);
    }
    assert_int_equal(((rf_ranks *)rf_comm_companion(comm))->way, expected_way);
}

static void exchanged_bytes_are_those_of_comm(void **state)
{
    (void)state;
    for (int form = 0; form < N_SIZES; form++) {
        int64_t n_send[16] = {0}, n_recv[16] = {0}, all_send = 0, all_recv = 0;
        for (int r = 0; r < size; r++) {
            n_send[r] = bytes_of(form, rank, r);
            n_recv[r] = bytes_of(form, r, rank);
            all_send += n_send[r];
            all_recv += n_recv[r];
        }
        unsigned char *send = fill(all_send + 1, 3), *want = fill(all_recv + 1, 4);
        unsigned char *got = fill(all_recv + 1, 4);
        check(rf_comm_alltoallv(comm, send, n_send, want, n_recv));
        void *from = device_of(send, all_send + 1), *to = device_of(got, all_recv + 1);
        check(rf_all_to_all(s, comm, from, n_send, to, n_recv));
        bring_back(got, to, all_recv + 1);
        assert_memory_equal(got, want, (size_t)(all_recv + 1));
        rf_memory_free(be, RF_MEMORY_DEVICE, from);
        rf_free(got);
        rf_free(want);
        rf_free(send);
    }
}

/* Sizes far apart, so that the order of additions shows. */
static float uneven(int64_t i)
{
    const double x = (double)word(rank, i) / 4294967296.0 - 0.5;
    return (float)(x * (double)(1 << (word(rank + 100, i) % 20)));
}

static void sum_case(int64_t n)
{
    float *want = rf_calloc(n + 1, sizeof *want), *got = rf_calloc(n + 1, sizeof *got);
    assert_true(want != NULL && got != NULL);
    for (int64_t i = 0; i < n + 1; i++) {
        want[i] = got[i] = uneven(i);
    }
    check(rf_comm_sum_f32(comm, want, n));
    float *data = device_of(got, (n + 1) * (int64_t)sizeof *got);
    check(rf_all_sum_f32(s, comm, data, n));
    bring_back(got, data, (n + 1) * (int64_t)sizeof *got);
    assert_memory_equal(got, want, (size_t)(n + 1) * sizeof *got);
    rf_free(got);
    rf_free(want);
}

static void sums_have_the_bits_of_comm(void **state)
{
    (void)state;
    static const int64_t lengths[] = {0, 1, 5, 63, 64, 65, 127, 1000, 20011};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        sum_case(lengths[i]);
    }
}

/* Or the test above would show nothing. */
static void another_order_gives_other_bits(void **state)
{
    (void)state;
    bool differs = false;
    for (int64_t i = 0; i < 1000 && size > 2; i++) {
        float forward = 0.0f, backward = 0.0f;
        for (int r = 0; r < size; r++) {
            float x[2] = {uneven(i), uneven(i)};
            check(rf_comm_bcast(comm, &x[0], sizeof x[0], r));
            check(rf_comm_bcast(comm, &x[1], sizeof x[1], size - 1 - r));
            forward += x[0];
            backward += x[1];
        }
        differs = differs || forward != backward;
    }
    assert_true(differs || size <= 2);
}

static void sums_longer_than_a_piece_have_the_bits_of_comm(void **state)
{
    (void)state;
    if (size == 2) {
        sum_case(RF_RANKS_PIECE_FLOATS + 129);
    }
}

static void integers_are_added(void **state)
{
    (void)state;
    for (int64_t n = 0; n < 5000; n = 3 * n + 1) {
        int64_t *want = rf_calloc(n + 1, sizeof *want), *got = rf_calloc(n + 1, sizeof *got);
        for (int64_t i = 0; i < n + 1; i++) {
            want[i] = got[i] = (int64_t)word(rank, i) << 28;
        }
        check(rf_comm_sum_i64(comm, want, n));
        int64_t *data = device_of(got, (n + 1) * (int64_t)sizeof *got);
        check(rf_all_sum_i64(s, comm, data, n));
        bring_back(got, data, (n + 1) * (int64_t)sizeof *got);
        assert_memory_equal(got, want, (size_t)(n + 1) * sizeof *got);
        rf_free(got);
        rf_free(want);
    }
}

/* ---- order --------------------------------------------------------------------------------- */

static bool is_late(void *arg)
{
    return rf_now() > *(const double *)arg;
}

/* Two streams take turns over one communicator: each sum must be there before the next begins. */
static void streams_take_turns_by_events(void **state)
{
    (void)state;
    enum { N = 300, ROUNDS = 6 };
    float got[N], want[N];
    rf_event *event = NULL;
    check(rf_event_create(be, &event));
    for (int64_t i = 0; i < N; i++) {
        got[i] = want[i] = uneven(i) * 1e-3f;
    }
    float *data = device_of(got, sizeof got);
    rf_stream *turn[2] = {s, other};
    for (int i = 0; i < ROUNDS; i++) {
        check(rf_event_record(event, turn[i % 2]));
        check(rf_event_wait(event, turn[(i + 1) % 2]));
        check(rf_all_sum_f32(turn[(i + 1) % 2], comm, data, N));
        check(rf_comm_sum_f32(comm, want, N));
    }
    check(rf_event_record(event, turn[ROUNDS % 2]));
    check(rf_event_wait(event, s));
    bring_back(got, data, sizeof got);
    assert_memory_equal(got, want, sizeof got);
    rf_event_destroy(event);
}

/* Without events between them, as what they touch is apart; but for memory of the communicator. */
static void sums_on_two_streams_do_not_disturb_each_other(void **state)
{
    (void)state;
    enum { N = 1000 };
    float got[2][N], want[2][N];
    float *data[2];
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; i < N; i++) {
            got[k][i] = want[k][i] = uneven(k * N + i);
        }
        data[k] = device_of(got[k], sizeof got[k]);
    }
    check(rf_stream_synchronise(s));
    check(rf_all_sum_f32(s, comm, data[0], N));
    check(rf_all_sum_f32(other, comm, data[1], N));
    check(rf_stream_synchronise(other));
    for (int k = 0; k < 2; k++) {
        check(rf_comm_sum_f32(comm, want[k], N));
        bring_back(got[k], data[k], sizeof got[k]);
        assert_memory_equal(got[k], want[k], sizeof got[k]);
    }
}

/* They share memory, so that the second waits for the first even if nothing else connects them. */
static void exchanges_of_one_communicator_follow_each_other(void **state)
{
    (void)state;
    check(rf_all_sum_f32(s, comm, NULL, 0));
    double end = rf_now() + 0.5;
    emul_push_until(rf_cuda_stream_of(s), "a gate", is_late, &end, NULL);
    check(rf_all_sum_f32(s, comm, NULL, 0));
    check(rf_all_sum_f32(other, comm, NULL, 0));
    bool waits = true;
    for (int i = 0; i < 100 && waits; i++) { /* each lets the device go on a little */
        waits = cudaStreamQuery(rf_cuda_stream_of(other)) == cudaErrorNotReady;
    }
    (void)cudaGetLastError();              /* that it is not ready */
    const bool is_closed = rf_now() < end; /* through host memory the calls wait themselves */
    check(rf_stream_synchronise(other));
    check(rf_stream_synchronise(s));
    assert_true(!is_closed || waits == (expected_way == RF_RANKS_NCCL));
}

static void parts_of_the_ranks_have_exchanges_of_their_own(void **state)
{
    (void)state;
    rf_comm *half = NULL;
    check(rf_comm_split(comm, rank % 2, &half));
    int64_t got = rank + 1, want = rank + 1;
    int64_t *data = device_of(&got, sizeof got);
    check(rf_comm_sum_i64(half, &want, 1));
    check(rf_all_sum_i64(s, half, data, 1));
    bring_back(&got, data, sizeof got);
    assert_int_equal(got, want);
    rf_comm_destroy(half);
}

static void wrong_sizes_are_refused(void **state)
{
    (void)state;
    int64_t n_bytes[16] = {0};
    char byte = 0;
    char *p = device_of(&byte, 1);
    n_bytes[size - 1] = -1;
    assert_int_equal(rf_all_gather(s, comm, p, p, n_bytes), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_all_to_all(s, comm, p, n_bytes, p, n_bytes), RF_ERR_INVALID_ARG);
    n_bytes[size - 1] = 0;
    int64_t others[16] = {0};
    others[rank] = 1;
    assert_int_equal(rf_all_to_all(s, comm, p, n_bytes, p, others), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_all_sum_f32(s, comm, (float *)(void *)p, -1), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_all_sum_i64(s, comm, (int64_t *)(void *)p, -1), RF_ERR_INVALID_ARG);
    check(rf_stream_synchronise(s));
    rf_memory_free(be, RF_MEMORY_DEVICE, p);
}

/* ---- ranks that fail ----------------------------------------------------------------------- */

static rf_comm *frail; /* of one test */

static void begin_frail(const char *timeout)
{
    setenv("REFRACT_COMM_TIMEOUT", timeout, 1);
    check(rf_comm_split(world, 0, &frail));
}

static void end_frail(void)
{
    unsetenv("REFRACT_COMM_TIMEOUT");
    unsetenv("REFRACT_EMUL_FAIL");
    rf_comm_destroy(frail);
    check(rf_comm_barrier(world));
}

/* A sum on stream `on`, which is two operations and takes something of every rank, awaited on `s`;
 * `failure` is asked for on rank `where` alone. */
static rf_status sum_with(const char *failure, int where, rf_stream *on, double *seconds)
{
    rf_status status = RF_OK;
    enum { N = 8 * RF_RANKS_TILE };
    float x[N] = {1.0f};
    float *data = device_of(x, sizeof x);
    rf_event *turn = NULL;
    const double start = rf_now();

    check(rf_event_create(be, &turn));
    if (rank == where) {
        setenv("REFRACT_EMUL_FAIL", failure, 1);
    }
    RF_TRY(rf_event_record(turn, s));
    RF_TRY(rf_event_wait(turn, on));
    RF_TRY(rf_all_sum_f32(on, frail, data, N));
    RF_TRY(rf_event_record(turn, on));
    RF_TRY(rf_event_wait(turn, s));
    RF_TRY(rf_stream_synchronise(s));
fail:
    *seconds = rf_now() - start;
    unsetenv("REFRACT_EMUL_FAIL");
    rf_event_destroy(turn);
    rf_memory_free(be, RF_MEMORY_DEVICE, data);
    return status;
}

/* All ranks have ERR_COMM in the end, and the next exchange says so at once; others go on. */
static void check_failure_on(rf_stream *on, const char *failure, int where, const char *words,
                             double least)
{
    char text[RF_ERROR_TEXT_LEN];
    double seconds = 0.0;
    int64_t one = 1;
    begin_frail("0.5");
    check(rf_comm_barrier(world));
    const rf_status status = sum_with(failure, where, on, &seconds);
    snprintf(text, sizeof text, "%s", rf_error_text());
    assert_int_equal(status, RF_ERR_COMM);
    if (rank == where && strstr(text, words) == NULL) {
        fail_msg("'%s' does not say '%s'", text, words);
    }
    assert_non_null(strstr(text, "sum over ranks"));
    assert_true(seconds >= (rank == where ? least : 0.0));
    int64_t *data = device_of(&one, sizeof one);
    assert_int_equal(rf_all_sum_i64(s, frail, data, 1), RF_ERR_COMM);
    assert_non_null(strstr(rf_error_text(), "has failed before"));
    check(rf_all_sum_i64(s, comm, data, 1));
    bring_back(&one, data, sizeof one);
    assert_int_equal(one, size);
    end_frail();
}

/* Whether the host waits for the stream of the exchange or for one that waits for it. */
static void check_failure(const char *failure, int where, const char *words, double least)
{
    check_failure_on(s, failure, where, words, least);
    check_failure_on(other, failure, where, words, least);
}

static void an_exchange_that_never_ends_is_given_up_in_time(void **state)
{
    (void)state;
    for (int where = 0; where < size && size > 1; where++) {
        check_failure("nccl_hang:2", where, "not done after 0.5 seconds", 0.5);
    }
}

static void an_asynchronous_error_is_told(void **state)
{
    (void)state;
    if (size > 1) {
        check_failure("nccl_async:2", size - 1, "network error: socket of a peer was closed", 0.0);
        check_failure("nccl_async:1", 0, "network error", 0.0);
    }
}

static void a_call_that_fails_is_told_and_the_others_do_not_wait_for_ever(void **state)
{
    (void)state;
    if (size > 1) {
        check_failure("ncclSend:1", 0, "unhandled system error: ncclSend: no buffer space", 0.0);
        check_failure("ncclRecv:1", size - 1, "ncclRecv: no buffer space", 0.0);
        check_failure("ncclGroupEnd:1", 0, "cannot launch", 0.0);
    }
}

/* A communicator cannot be made: the same error on all ranks, whatever rank it was. */
static void check_no_start(const char *failure, int where, rf_status expected, const char *words)
{
    double seconds = 0.0;
    begin_frail("0.5");
    assert_int_equal(sum_with(failure, where, s, &seconds), expected);
    if (strstr(rf_error_text(), words) == NULL) {
        fail_msg("'%s' does not say '%s'", rf_error_text(), words);
    }
    assert_null(rf_comm_companion(frail));
    end_frail();
}

static void a_start_that_fails_fails_on_all_ranks(void **state)
{
    (void)state;
    if (expected_way == RF_RANKS_NCCL) {
        check_no_start("ncclGetUniqueId:1", 0, RF_ERR_COMM, "no socket interface");
        check_no_start("cudaMalloc:1", size - 1, RF_ERR_NO_MEMORY, "the GPU is out of memory");
        check_no_start("cudaEventCreate:1", 0, RF_ERR_NO_MEMORY, "cudaEventCreate");
        check_no_start("ncclCommInitRankConfig:1", 0, RF_ERR_COMM,
                       "the start of communication over");
    }
}

static void a_wrong_environment_is_told_on_all_ranks(void **state)
{
    (void)state;
    static const char *const wrong[] = {"soon", "-1", "nan", "inf", ""};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        int64_t n_bytes[16] = {0};
        begin_frail(wrong[i]);
        assert_int_equal(rf_all_gather(s, frail, NULL, NULL, n_bytes), RF_ERR_SETTING);
        assert_non_null(strstr(rf_error_text(), "REFRACT_COMM_TIMEOUT"));
        end_frail();
    }
}

static void long_work_that_is_no_exchange_is_not_given_up(void **state)
{
    (void)state;
    int64_t one = 1;
    begin_frail("0.2");
    int64_t *data = device_of(&one, sizeof one);
    check(rf_all_sum_i64(s, frail, data, 1));
    check(rf_stream_synchronise(s));
    double end = rf_now() + 0.6;
    emul_push_until(rf_cuda_stream_of(s), "long work", is_late, &end, NULL);
    check(rf_stream_synchronise(s));
    bring_back(&one, data, sizeof one);
    assert_int_equal(one, size);
    end_frail();
}

/* ---- groups -------------------------------------------------------------------------------- */

static void begin_group(rf_ranks_way way, const char *n_devices, const char *wish)
{
    expected_way = way;
    setenv("REFRACT_EMUL_DEVICES", n_devices, 1);
    setenv("REFRACT_COMM_WAY", wish, 1);
    check(rf_comm_split(world, 0, &comm));
    check(rf_backend_cuda_create(comm, &be));
    check(rf_stream_create(be, &s));
    check(rf_stream_create(be, &other));
}

static int begin_own_gpus(void **state)
{
    char n_devices[16];
    (void)state;
    snprintf(n_devices, sizeof n_devices, "%d", size);
    begin_group(size > 1 ? RF_RANKS_NCCL : RF_RANKS_ALONE, n_devices, "auto");
    return 0;
}

static int begin_one_gpu(void **state)
{
    (void)state;
    begin_group(size > 1 ? RF_RANKS_HOST : RF_RANKS_ALONE, "1", "auto");
    return 0;
}

/* Also where there is one rank: what a test on a machine with one GPU can do. */
static int begin_nccl(void **state)
{
    char n_devices[16];
    (void)state;
    snprintf(n_devices, sizeof n_devices, "%d", size);
    begin_group(RF_RANKS_NCCL, n_devices, "nccl");
    return 0;
}

static int begin_host(void **state)
{
    (void)state;
    begin_group(RF_RANKS_HOST, "1", "host");
    return 0;
}

static int end_group(void **state)
{
    (void)state;
    rf_stream_destroy(other);
    rf_stream_destroy(s);
    rf_comm_destroy(comm);
    rf_backend_destroy(be);
    return 0;
}

#define SAME_RESULTS                                                                               \
    cmocka_unit_test(gathered_bytes_are_those_of_comm),                                            \
        cmocka_unit_test(exchanged_bytes_are_those_of_comm),                                       \
        cmocka_unit_test(sums_have_the_bits_of_comm), cmocka_unit_test(integers_are_added),        \
        cmocka_unit_test(streams_take_turns_by_events),                                            \
        cmocka_unit_test(sums_on_two_streams_do_not_disturb_each_other),                           \
        cmocka_unit_test(exchanges_of_one_communicator_follow_each_other),                         \
        cmocka_unit_test(parts_of_the_ranks_have_exchanges_of_their_own),                          \
        cmocka_unit_test(wrong_sizes_are_refused)

int main(int argc, char **argv)
{
    const struct CMUnitTest own_gpus[] = {
        SAME_RESULTS,
        cmocka_unit_test(another_order_gives_other_bits),
        cmocka_unit_test(sums_longer_than_a_piece_have_the_bits_of_comm),
        cmocka_unit_test(an_exchange_that_never_ends_is_given_up_in_time),
        cmocka_unit_test(an_asynchronous_error_is_told),
        cmocka_unit_test(a_call_that_fails_is_told_and_the_others_do_not_wait_for_ever),
        cmocka_unit_test(a_start_that_fails_fails_on_all_ranks),
        cmocka_unit_test(a_wrong_environment_is_told_on_all_ranks),
        cmocka_unit_test(long_work_that_is_no_exchange_is_not_given_up),
    };
    const struct CMUnitTest same[] = {SAME_RESULTS};
    int n_failed = 0;

    if (rf_comm_start(&argc, &argv, &world) != RF_OK) {
        return 1;
    }
    rank = rf_comm_rank(world);
    size = rf_comm_size(world);
    n_failed += cmocka_run_group_tests(own_gpus, begin_own_gpus, end_group);
    n_failed += cmocka_run_group_tests(same, begin_one_gpu, end_group);
    n_failed += cmocka_run_group_tests(same, begin_nccl, end_group);
    n_failed += cmocka_run_group_tests(same, begin_host, end_group);
    rf_comm_finish(world);
    return n_failed + (rf_alloc_live() != 0);
}
