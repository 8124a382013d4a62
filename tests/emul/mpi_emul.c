/* A device goes on while its host waits for other ranks. Here nothing runs but what the host waits
 * for, and a rank that waited in MPI would keep the others' collectives waiting for its own: so the
 * calls of MPI that wait let the device finish first. */
#include "emul.h"

#include <mpi.h>

static void let_device_finish(void)
{
    (void)cudaDeviceSynchronize(); /* what broke says so where the host asks */
}

int MPI_Allreduce(const void *send, void *recv, int n, MPI_Datatype type, MPI_Op op, MPI_Comm comm)
{
    let_device_finish();
    return PMPI_Allreduce(send, recv, n, type, op, comm);
}

int MPI_Allgatherv(const void *send, int n, MPI_Datatype type, void *recv, const int counts[],
                   const int offsets[], MPI_Datatype recv_type, MPI_Comm comm)
{
    let_device_finish();
    return PMPI_Allgatherv(send, n, type, recv, counts, offsets, recv_type, comm);
}

int MPI_Alltoall(const void *send, int n, MPI_Datatype type, void *recv, int n_recv,
                 MPI_Datatype recv_type, MPI_Comm comm)
{
    let_device_finish();
    return PMPI_Alltoall(send, n, type, recv, n_recv, recv_type, comm);
}

int MPI_Alltoallv(const void *send, const int counts[], const int offsets[], MPI_Datatype type,
                  void *recv, const int recv_counts[], const int recv_offsets[],
                  MPI_Datatype recv_type, MPI_Comm comm)
{
    let_device_finish();
    return PMPI_Alltoallv(send, counts, offsets, type, recv, recv_counts, recv_offsets, recv_type,
                          comm);
}

int MPI_Barrier(MPI_Comm comm)
{
    let_device_finish();
    return PMPI_Barrier(comm);
}

int MPI_Bcast(void *data, int n, MPI_Datatype type, int root, MPI_Comm comm)
{
    let_device_finish();
    return PMPI_Bcast(data, n, type, root, comm);
}

int MPI_Waitall(int n, MPI_Request requests[], MPI_Status statuses[])
{
    let_device_finish();
    return PMPI_Waitall(n, requests, statuses);
}
