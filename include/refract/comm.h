/* comm: the only user of MPI for messages. A communicator, agreement on a status, exchanges of
 * bytes, and reductions whose order is fixed, so that results depend on values alone. */
#ifndef REFRACT_COMM_H
#define REFRACT_COMM_H

#include "refract/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rf_comm rf_comm;

/* Start MPI if nobody has, and wrap a duplicate of the world. Collective over all processes.
 * `argc`, `argv` may be NULL. Only `cli`, tests and benchmarks call it. */
rf_status rf_comm_start(int *argc, char ***argv, rf_comm **world);
/* Destroy `world` and end MPI if rf_comm_start began it. Collective. NULL is fine. */
void rf_comm_finish(rf_comm *world);
/* End the whole job at once with exit code `code`: for a failure that the others cannot hear of. */
void rf_comm_abort(const rf_comm *comm, int code);

/* The part of `parent` with the same `color`; ranks keep their order. Collective. */
rf_status rf_comm_split(const rf_comm *parent, int color, rf_comm **out);
/* The ranks of `parent` that share this machine's memory. Collective. */
rf_status rf_comm_split_host(const rf_comm *parent, rf_comm **out);
void rf_comm_destroy(rf_comm *comm); /* Collective. NULL is fine. */

int rf_comm_rank(const rf_comm *comm);
int rf_comm_size(const rf_comm *comm);

/* One object of another layer that lives as long as the communicator; NULL before one is set.
 * Local. rf_comm_destroy calls `destroy` while the communicator still stands; setting another
 * destroys the last one. */
void *rf_comm_companion(const rf_comm *comm);
void rf_comm_set_companion(const rf_comm *comm, void *companion, void (*destroy)(void *));

/* The same status on every rank: RF_OK when all are; else that of the lowest failing rank, whose
 * error text (where size > 1 with its rank of the world in front) replaces the local one.
 * Collective. */
rf_status rf_comm_agree(const rf_comm *comm, rf_status status);
/* In debug builds: fail on every rank unless all gave the same `value`. Collective there. */
rf_status rf_comm_check_same(const rf_comm *comm, const char *what, int64_t value);

rf_status rf_comm_barrier(const rf_comm *comm); /* Collective */
rf_status rf_comm_bcast(const rf_comm *comm, void *data, int64_t n_bytes,
                        int root); /* Collective */

/* Every rank's `send` (send_bytes may differ), in rank order, in `recv`; recv_bytes [size] tells
 * how many bytes each gives and must agree. Sizes over 2 GiB are split inside. Collective. */
rf_status rf_comm_allgatherv(const rf_comm *comm, const void *send, void *recv,
                             const int64_t *recv_bytes);
/* To rank r the bytes send_bytes[r] (packed in rank order), from r recv_bytes[r]. Collective. */
rf_status rf_comm_alltoallv(const rf_comm *comm, const void *send, const int64_t *send_bytes,
                            void *recv, const int64_t *recv_bytes);
/* `n_bytes` of `data` of rank `from` into `data` of rank `to`; nothing where these are the same,
 * and on all other ranks. Collective over the two, which must agree on `n_bytes`. */
rf_status rf_comm_move(const rf_comm *comm, void *data, int64_t n_bytes, int from, int to);

/* In place, every rank gets the result. Collective. Floats are added in rank order, element by
 * element, the same bits on every rank; `n` must agree. */
rf_status rf_comm_sum_f32(const rf_comm *comm, float *data, int64_t n);
rf_status rf_comm_sum_f64(const rf_comm *comm, double *data, int64_t n);
rf_status rf_comm_sum_i64(const rf_comm *comm, int64_t *data, int64_t n);
rf_status rf_comm_max_i64(const rf_comm *comm, int64_t *data, int64_t n);

/* The share of `n_items` items of `rank` of `size`, in whole tiles of `tile` (the last may be
 * short): first and count. Local. */
void rf_comm_share(int64_t n_items, int64_t tile, int rank, int size, int64_t *first,
                   int64_t *count);

#ifdef __cplusplus
}
#endif

#endif
