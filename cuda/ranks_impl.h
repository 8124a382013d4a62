/* Private to the exchanges between GPUs: cuda_nccl.c holds communicators, their errors and the wait
 * for them, cuda_ranks.c what goes through them. */
#ifndef REFRACT_RANKS_IMPL_H
#define REFRACT_RANKS_IMPL_H

#include "cuda_impl.h"

#include <nccl.h>

typedef enum rf_ranks_way {
    RF_RANKS_ALONE, /* one rank: nothing to move */
    RF_RANKS_NCCL,
    RF_RANKS_HOST, /* ranks share a GPU, which NCCL refuses: through host memory and MPI */
} rf_ranks_way;

/* What a sum over ranks takes at a time: 32 MiB. */
enum { RF_RANKS_PIECE_FLOATS = 8 << 20, RF_RANKS_TILE = 64 };

/* The companion of a communicator (rf_comm_companion). */
typedef struct rf_ranks {
    rf_ranks_way way;
    int rank, size, device;
    double timeout_s; /* 0: none */
    const char *op;   /* the last operation queued */
    int64_t *sizes;   /* [2, size]: bytes to and from each rank */

    /* NCCL */
    ncclComm_t nccl;          /* NULL before it stands and after it was given up */
    float *copies;            /* device [PIECE + TILE * size]: parts of a sum, as ranks gave them */
    cudaEvent_t last;         /* the end of `op` */
    cudaStream_t last_stream; /* where it was queued */
    struct rf_ranks *next;    /* of all that have a communicator of NCCL */

    /* HOST */
    void *pinned;
    size_t pinned_bytes;
} rf_ranks;

/* Those of `comm`, made at the first call, which is collective: the way is the same on all ranks.
 * Environment of rank 0: REFRACT_COMM_TIMEOUT, seconds (600; 0: none), and REFRACT_COMM_WAY (auto,
 * nccl, host). */
rf_status rf_ranks_of(rf_stream *s, const rf_comm *comm, rf_ranks **out);

/* Between these two one thread alone uses communicators of NCCL. _begin fails where the one of `r`
 * was given up; _end gives it up unless all went well, so that the other ranks hear of it. */
rf_status rf_ranks_begin(rf_ranks *r, rf_stream *s, const char *op);
rf_status rf_ranks_end(rf_ranks *r, rf_stream *s, rf_status status);
/* RF_OK once NCCL has taken a call that gave `code`: waits while it is in progress. Only between
 * rf_ranks_begin and rf_ranks_end. */
rf_status rf_ranks_settle(rf_ranks *r, ncclResult_t code);

#endif
