/* What the files of comm share. */
#ifndef REFRACT_COMM_IMPL_H
#define REFRACT_COMM_IMPL_H

#include "refract/comm.h"

#include <mpi.h>

/* Scratch of a communicator for sums, in bytes; longer arrays are summed in pieces. */
enum { RF_COMM_SCRATCH_BYTES = 1 << 20 };

typedef struct rf_comm_guest {
    void *object; /* another layer's */
    void (*destroy)(void *);
} rf_comm_guest;

struct rf_comm {
    MPI_Comm mpi;
    int rank, size;
    int world_rank;           /* what error texts name */
    int *counts;              /* [4, size]: send counts and offsets, receive counts and offsets */
    int64_t *offsets;         /* [2, size]: where each rank's bytes begin in `send` and in `recv` */
    void *scratch;            /* [RF_COMM_SCRATCH_BYTES + 16 * size] where size > 1 */
    rf_comm_guest *companion; /* one */
};

/* RF_OK, or ERR_COMM with MPI's reason. `call` is the name of the function that returned `code`. */
rf_status rf_comm_checked(int code, const char *call);

/* The most bytes that one MPI call may carry: 1 GiB, as MPI counts with int. Tests lower it to walk
 * the ways of long messages with short ones; it must be the same on every rank. */
int64_t rf_comm_message_limit(void);
void rf_comm_set_message_limit(int64_t n_bytes);

#endif
