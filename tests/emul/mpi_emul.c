/* A device goes on while its host waits for other ranks. Here nothing runs but what the host waits
 * for, and a rank that waited in MPI would keep the others' collectives waiting for its own: so the
 * calls of MPI that wait look for a while, and then let the device go on piece by piece. (A device
 * that finished first would order what a missing event does not.) */
#include "emul.h"

#include <mpi.h>
#include <time.h>

enum { LOOKS = 100 };

/* One more look was in vain. */
static void pass_time(int n_looks)
{
    const struct timespec pause = {.tv_nsec = 20000};
    if (n_looks < LOOKS || !emul_go_on()) {
        nanosleep(&pause, NULL);
    }
}

static int wait_for(int code, MPI_Request *request)
{
    int is_done = 0;
    for (int i = 0; code == MPI_SUCCESS && !is_done; i++) {
        code = PMPI_Test(request, &is_done, MPI_STATUS_IGNORE);
        if (!is_done) {
            pass_time(i);
        }
    }
    return code;
}

/* MPI forbids it where both hold something. Where one is empty Open MPI's calls that wait let it
 * pass; those that do not wait take it for MPI_IN_PLACE, and a rank sends what no other expects. */
static void expect_apart(const char *call, const void *send, const void *recv)
{
    if (send == recv && send != NULL) {
        emul_die("%s: what is sent and what is received begin at the same address", call);
    }
}

int MPI_Allreduce(const void *send, void *recv, int n, MPI_Datatype type, MPI_Op op, MPI_Comm comm)
{
    MPI_Request request;
    expect_apart("MPI_Allreduce", send, recv);
    return wait_for(PMPI_Iallreduce(send, recv, n, type, op, comm, &request), &request);
}

int MPI_Allgatherv(const void *send, int n, MPI_Datatype type, void *recv, const int counts[],
                   const int offsets[], MPI_Datatype recv_type, MPI_Comm comm)
{
    MPI_Request request;
    expect_apart("MPI_Allgatherv", send, recv);
    return wait_for(
        PMPI_Iallgatherv(send, n, type, recv, counts, offsets, recv_type, comm, &request),
        &request);
}

int MPI_Alltoall(const void *send, int n, MPI_Datatype type, void *recv, int n_recv,
                 MPI_Datatype recv_type, MPI_Comm comm)
{
    MPI_Request request;
    expect_apart("MPI_Alltoall", send, recv);
    return wait_for(PMPI_Ialltoall(send, n, type, recv, n_recv, recv_type, comm, &request),
                    &request);
}

int MPI_Alltoallv(const void *send, const int counts[], const int offsets[], MPI_Datatype type,
                  void *recv, const int recv_counts[], const int recv_offsets[],
                  MPI_Datatype recv_type, MPI_Comm comm)
{
    MPI_Request request;
    expect_apart("MPI_Alltoallv", send, recv);
    return wait_for(PMPI_Ialltoallv(send, counts, offsets, type, recv, recv_counts, recv_offsets,
                                    recv_type, comm, &request),
                    &request);
}

int MPI_Barrier(MPI_Comm comm)
{
    MPI_Request request;
    return wait_for(PMPI_Ibarrier(comm, &request), &request);
}

int MPI_Bcast(void *data, int n, MPI_Datatype type, int root, MPI_Comm comm)
{
    MPI_Request request;
    return wait_for(PMPI_Ibcast(data, n, type, root, comm, &request), &request);
}

int MPI_Waitall(int n, MPI_Request requests[], MPI_Status statuses[])
{
    int code = MPI_SUCCESS, is_done = 0;
    for (int i = 0; code == MPI_SUCCESS && !is_done; i++) {
        code = PMPI_Testall(n, requests, &is_done, statuses);
        if (!is_done) {
            pass_time(i);
        }
    }
    return code;
}
