/* Private to NCCL's stand-in: nccl_comm_emul.c makes communicators, nccl_emul.c moves bytes. */
#ifndef REFRACT_NCCL_EMUL_H
#define REFRACT_NCCL_EMUL_H

#include "emul.h"
#include "nccl.h"

#include <mpi.h>
#include <stdint.h>

/* Who a rank is, as it says when it joins. */
typedef struct emul_seat {
    int32_t world_rank, rank, n_ranks, is_refused;
    int64_t host;
    char bus[24];
} emul_seat;

typedef enum emul_comm_state {
    EMUL_JOINING, /* waits for the others to join */
    EMUL_ANSWERING,
    EMUL_READY,
    EMUL_FINAL, /* finalised: done once nothing is queued */
    EMUL_FAILED,
} emul_comm_state;

struct ncclComm {
    emul_comm_state state;
    ncclResult_t error; /* of FAILED: what ncclCommGetAsyncError says */
    bool is_blocking, is_aborted;
    int n_busy;       /* so often still "in progress", where calls do not block */
    int n_references; /* the user's and those of queued operations */
    int n_queued;
    int64_t n_issued, n_begun; /* operations begin in the order of their calls, on any stream */
    cudaStream_t last_stream;
    int device, rank, n_ranks, root, tag; /* root: rank in MPI_COMM_WORLD */
    emul_seat *seats;                     /* [n_ranks] */
    MPI_Request *requests;                /* [n_ranks] */
    MPI_Comm mpi;
};

void emul_nccl_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void emul_nccl_unref(ncclComm_t comm);
/* May an operation be queued now? */
ncclResult_t emul_nccl_usable(ncclComm_t comm);

#endif
