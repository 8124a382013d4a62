/* Bytes between ranks. One MPI call counts with int; longer messages go in pieces. */
#include "comm_impl.h"

#include <limits.h>
#include <string.h>

static int64_t message_limit = INT64_C(1) << 30;

int64_t rf_comm_message_limit(void)
{
    return message_limit;
}

void rf_comm_set_message_limit(int64_t n_bytes)
{
    message_limit = n_bytes;
}

rf_status rf_comm_barrier(const rf_comm *comm)
{
    return rf_comm_checked(MPI_Barrier(comm->mpi), "MPI_Barrier");
}

rf_status rf_comm_bcast(const rf_comm *comm, void *data, int64_t n_bytes, int root)
{
    rf_status status = RF_OK;

    RF_REQUIRE(root >= 0 && root < comm->size && n_bytes >= 0,
               "broadcast of %" PRId64 " bytes from rank %d of %d", n_bytes, root, comm->size);
    RF_TRY(rf_comm_check_same(comm, "the length of a broadcast", n_bytes));
    for (int64_t at = 0; at < n_bytes; at += message_limit) {
        int n = (int)rf_min_i64(message_limit, n_bytes - at);
        RF_TRY(rf_comm_checked(MPI_Bcast((char *)data + at, n, MPI_BYTE, root, comm->mpi),
                               "MPI_Bcast"));
    }
fail:
    return status;
}

/* offsets[r] = bytes before rank r's; the whole in *total. */
static rf_status sum_up(const int64_t *n_bytes, int size, int64_t *offsets, int64_t *total)
{
    rf_status status = RF_OK;
    int64_t at = 0;

    for (int r = 0; r < size; r++) {
        RF_REQUIRE(n_bytes[r] >= 0 && n_bytes[r] <= INT64_MAX - at,
                   "%" PRId64 " bytes for rank %d after %" PRId64, n_bytes[r], r, at);
        offsets[r] = at;
        at += n_bytes[r];
    }
fail:
    *total = at;
    return status;
}

static void to_int(const int64_t *from, int n, int *to)
{
    for (int r = 0; r < n; r++) {
        to[r] = (int)from[r]; /* the caller knows that the total is within the limit */
    }
}

rf_status rf_comm_allgatherv(const rf_comm *comm, const void *send, void *recv,
                             const int64_t *recv_bytes)
{
    rf_status status = RF_OK;
    int size = comm->size, rank = comm->rank;
    int64_t *offsets = comm->offsets, total = 0;

    RF_TRY(sum_up(recv_bytes, size, offsets, &total));
    RF_TRY(rf_comm_check_same(comm, "the length of an allgather", total));
    char *mine = (char *)recv + offsets[rank];
    if (recv_bytes[rank] > 0 && mine != send) {
        memmove(mine, send, (size_t)recv_bytes[rank]);
    }
    if (size == 1) {
        return RF_OK;
    }
    if (total <= message_limit) {
        to_int(recv_bytes, size, comm->counts);
        to_int(offsets, size, comm->counts + size);
        return rf_comm_checked(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, recv,
                                              comm->counts, comm->counts + size, MPI_BYTE,
                                              comm->mpi),
                               "MPI_Allgatherv");
    }
    for (int r = 0; r < size; r++) {
        for (int64_t at = 0; at < recv_bytes[r]; at += message_limit) {
            int n = (int)rf_min_i64(message_limit, recv_bytes[r] - at);
            RF_TRY(rf_comm_checked(
                MPI_Bcast((char *)recv + offsets[r] + at, n, MPI_BYTE, r, comm->mpi), "MPI_Bcast"));
        }
    }
fail:
    return status;
}

/* Both directions of one pair of neighbours, piece by piece. The n-th pieces of all ranks are under
 * way together, so nobody waits in a circle. */
static rf_status exchange_pair(const rf_comm *comm, const char *send, int64_t n_send, int to,
                               char *recv, int64_t n_recv, int from)
{
    rf_status status = RF_OK;

    for (int64_t at = 0; at < n_send || at < n_recv; at += message_limit) {
        MPI_Request request[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
        if (at < n_recv) {
            int n = (int)rf_min_i64(message_limit, n_recv - at);
            RF_TRY(rf_comm_checked(
                MPI_Irecv(recv + at, n, MPI_BYTE, from, 0, comm->mpi, &request[0]), "MPI_Irecv"));
        }
        if (at < n_send) {
            int n = (int)rf_min_i64(message_limit, n_send - at);
            RF_TRY(rf_comm_checked(MPI_Isend(send + at, n, MPI_BYTE, to, 0, comm->mpi, &request[1]),
                                   "MPI_Isend"));
        }
        RF_TRY(rf_comm_checked(MPI_Waitall(2, request, MPI_STATUSES_IGNORE), "MPI_Waitall"));
    }
fail:
    return status;
}

static rf_status alltoallv_long(const rf_comm *comm, const char *send, const int64_t *send_bytes,
                                char *recv, const int64_t *recv_bytes)
{
    rf_status status = RF_OK;
    int size = comm->size, rank = comm->rank;
    const int64_t *from_at = comm->offsets, *to_at = comm->offsets + size;

    for (int step = 0; step < size; step++) {
        int to = (rank + step) % size, from = (rank + size - step) % size;
        RF_TRY(exchange_pair(comm, send + from_at[to], send_bytes[to], to, recv + to_at[from],
                             recv_bytes[from], from));
    }
fail:
    return status;
}

#if defined(RF_DEBUG)
/* What r sends to me is what I expect of r: else MPI would fail late or hang. */
static rf_status check_pairs(const rf_comm *comm, const int64_t *send_bytes,
                             const int64_t *recv_bytes)
{
    rf_status status = RF_OK;
    int64_t *sent = NULL;

    RF_ALLOC(sent, comm->size);
    RF_TRY(rf_comm_checked(
        MPI_Alltoall(send_bytes, 1, MPI_INT64_T, sent, 1, MPI_INT64_T, comm->mpi), "MPI_Alltoall"));
    for (int r = 0; r < comm->size; r++) {
        RF_BUG(sent[r] == recv_bytes[r],
               "rank %d sends %" PRId64 " bytes where %" PRId64 " are expected", r, sent[r],
               recv_bytes[r]);
    }
fail:
    rf_free(sent);
    return rf_comm_agree(comm, status);
}
#endif

rf_status rf_comm_alltoallv(const rf_comm *comm, const void *send, const int64_t *send_bytes,
                            void *recv, const int64_t *recv_bytes)
{
    static char nothing[2];
    rf_status status = RF_OK;
    int size = comm->size;
    int64_t n_send = 0, n_recv = 0, most = 0;

    RF_TRY(sum_up(send_bytes, size, comm->offsets, &n_send));
    RF_TRY(sum_up(recv_bytes, size, comm->offsets + size, &n_recv));
    /* Where nothing is sent `send` may be where `recv` begins, and the other way round. There are
     * libraries that take equal addresses for MPI_IN_PLACE: they would send what is to come. */
    send = n_send > 0 ? send : nothing;
    recv = n_recv > 0 ? recv : nothing + 1;
    RF_REQUIRE(send != recv, "an exchange from and to the same memory");
    most = rf_max_i64(n_send, n_recv);
fail:
    most = status == RF_OK ? most : INT64_MAX; /* all ranks must go the same way */
    rf_status comm_status = rf_comm_max_i64(comm, &most, 1);
    if (comm_status != RF_OK) {
        return comm_status;
    }
    if (most == INT64_MAX) {
        return rf_comm_agree(comm, status);
    }
#if defined(RF_DEBUG)
    status = check_pairs(comm, send_bytes, recv_bytes);
    if (status != RF_OK) {
        return status;
    }
#endif
    if (most > message_limit) {
        return alltoallv_long(comm, send, send_bytes, recv, recv_bytes);
    }
    int *counts = comm->counts;
    to_int(send_bytes, size, counts);
    to_int(comm->offsets, size, counts + size);
    to_int(recv_bytes, size, counts + 2 * size);
    to_int(comm->offsets + size, size, counts + 3 * size);
    return rf_comm_checked(MPI_Alltoallv(send, counts, counts + size, MPI_BYTE, recv,
                                         counts + 2 * size, counts + 3 * size, MPI_BYTE, comm->mpi),
                           "MPI_Alltoallv");
}

rf_status rf_comm_move(const rf_comm *comm, void *data, int64_t n_bytes, int from, int to)
{
    rf_status status = RF_OK;

    RF_REQUIRE(from >= 0 && from < comm->size && to >= 0 && to < comm->size && n_bytes >= 0,
               "%" PRId64 " bytes from rank %d to rank %d of %d", n_bytes, from, to, comm->size);
    if (from != to && comm->rank == from) {
        status = exchange_pair(comm, data, n_bytes, to, NULL, 0, to);
    } else if (from != to && comm->rank == to) {
        status = exchange_pair(comm, NULL, 0, from, data, n_bytes, from);
    }
fail:
    return status;
}
