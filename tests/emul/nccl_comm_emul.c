/* Stand-in for NCCL over MPI: communicators. Ranks find each other by messages to the rank that
 * made the unique id, whose rank in MPI_COMM_WORLD stands in it; nothing blocks in a communicator
 * that does not (config.blocking = 0): ncclCommGetAsyncError goes on with what is in progress, as
 * NCCL's own threads would. As NCCL does, two ranks of one GPU are refused. */
#include "nccl_emul.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIRST_TAG = 20000, N_TAGS = 10000, BUSY_CALLS = 2 };

typedef struct unique_id {
    char word[8];
    int32_t root, number, pid;
} unique_id;

static char last_error[256];

void emul_nccl_say(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(last_error, sizeof last_error, format, args);
    va_end(args);
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return last_error;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const words[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "operation in progress"};
    return (int)result >= 0 && (int)result < ncclNumResults ? words[result] : "unknown result code";
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static int32_t n_made;
    unique_id own = {.word = "emulated", .pid = (int32_t)getpid()};
    int root = 0;

    if (emul_fails("ncclGetUniqueId")) {
        emul_nccl_say("bootstrap: no socket interface found");
        return ncclSystemError;
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &root);
    own.root = root;
    own.number = n_made++;
    memset(id, 0, sizeof *id);
    memcpy(id, &own, sizeof own);
    return ncclSuccess;
}

/* ---- joining ------------------------------------------------------------------------------- */

static int seat_bytes(const struct ncclComm *comm)
{
    return comm->n_ranks * (int)sizeof *comm->seats;
}

static int64_t host_number(void)
{
    char name[256] = "";
    uint64_t hash = UINT64_C(14695981039346656037);
    gethostname(name, sizeof name - 1);
    for (const char *c = name; *c != '\0'; c++) {
        hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
    }
    return (int64_t)(hash >> 1);
}

static bool is_root(const struct ncclComm *comm)
{
    return comm->rank == 0;
}

/* The root hears from each, in any order; the others say who they are and hear of all. The first
 * seat is the rank's own until then. */
static void begin_to_join(struct ncclComm *comm)
{
    for (int i = 1; i < comm->n_ranks && is_root(comm); i++) {
        MPI_Irecv(&comm->seats[i], (int)sizeof *comm->seats, MPI_BYTE, MPI_ANY_SOURCE, comm->tag,
                  MPI_COMM_WORLD, &comm->requests[i]);
    }
    if (!is_root(comm)) {
        static emul_seat said[64]; /* outlives the message */
        static int at;
        emul_seat *seat = &said[at++ % 64];
        *seat = comm->seats[0];
        MPI_Isend(seat, (int)sizeof *seat, MPI_BYTE, comm->root, comm->tag, MPI_COMM_WORLD,
                  &comm->requests[0]);
        MPI_Irecv(comm->seats, seat_bytes(comm), MPI_BYTE, comm->root, comm->tag + N_TAGS,
                  MPI_COMM_WORLD, &comm->requests[1]);
    }
}

static void sort_seats(struct ncclComm *comm)
{
    for (int i = 0; i < comm->n_ranks; i++) {
        while (comm->seats[i].rank != i) {
            const int to = comm->seats[i].rank;
            if (to < 0 || to >= comm->n_ranks || comm->seats[to].rank == to ||
                comm->seats[i].n_ranks != comm->n_ranks) {
                emul_die("ncclCommInitRank: rank %d of %d comes twice, or ranks do not agree on "
                         "their number",
                         to, comm->seats[i].n_ranks);
            }
            const emul_seat seat = comm->seats[to];
            comm->seats[to] = comm->seats[i];
            comm->seats[i] = seat;
        }
    }
}

static void find_shared_gpu(struct ncclComm *comm)
{
    for (int i = 0; i < comm->n_ranks; i++) {
        for (int j = 0; j < i; j++) {
            if (comm->seats[i].host == comm->seats[j].host &&
                strcmp(comm->seats[i].bus, comm->seats[j].bus) == 0) {
                comm->seats[0].is_refused = 1;
                emul_nccl_say("Duplicate GPU detected: rank %d and rank %d both on CUDA device %s",
                              i, j, comm->seats[i].bus);
            }
        }
    }
}

static void answer(struct ncclComm *comm)
{
    sort_seats(comm);
    find_shared_gpu(comm);
    for (int i = 1; i < comm->n_ranks; i++) {
        MPI_Isend(comm->seats, seat_bytes(comm), MPI_BYTE, comm->seats[i].world_rank,
                  comm->tag + N_TAGS, MPI_COMM_WORLD, &comm->requests[i]);
    }
}

/* All have joined: this does not wait for long. */
static void stand_up(struct ncclComm *comm)
{
    MPI_Group world = MPI_GROUP_NULL, group = MPI_GROUP_NULL;
    int *members = calloc((size_t)comm->n_ranks, sizeof *members);

    if (comm->seats[0].is_refused) {
        if (!is_root(comm)) {
            emul_nccl_say("Duplicate GPU detected");
        }
        comm->state = EMUL_FAILED;
        comm->error = ncclInvalidUsage;
    } else {
        for (int i = 0; i < comm->n_ranks && members != NULL; i++) {
            members[i] = comm->seats[i].world_rank;
        }
        MPI_Comm_group(MPI_COMM_WORLD, &world);
        MPI_Group_incl(world, comm->n_ranks, members, &group);
        MPI_Comm_create_group(MPI_COMM_WORLD, group, comm->tag, &comm->mpi);
        MPI_Group_free(&group);
        MPI_Group_free(&world);
        comm->state = EMUL_READY;
    }
    free(members);
}

/* One step of what is in progress. */
static void advance(struct ncclComm *comm)
{
    int is_done = 0;
    if (comm->state != EMUL_JOINING && comm->state != EMUL_ANSWERING) {
        return;
    }
    MPI_Testall(comm->n_ranks, comm->requests, &is_done, MPI_STATUSES_IGNORE);
    if (is_done && comm->state == EMUL_JOINING && is_root(comm)) {
        answer(comm);
        comm->state = EMUL_ANSWERING;
    } else if (is_done) {
        stand_up(comm);
    }
}

static ncclResult_t result_of(const struct ncclComm *comm)
{
    switch (comm->state) {
    case EMUL_JOINING:
    case EMUL_ANSWERING:
        return ncclInProgress;
    case EMUL_FAILED:
        return comm->error;
    case EMUL_FINAL:
        return comm->n_queued > 0 ? ncclInProgress : ncclSuccess;
    case EMUL_READY:
        break;
    }
    return comm->n_busy > 0 ? ncclInProgress : ncclSuccess;
}

static struct ncclComm *make_comm(int n_ranks, const unique_id *id, int rank, bool is_blocking)
{
    struct ncclComm *comm = calloc(1, sizeof *comm);
    if (comm == NULL) {
        return NULL;
    }
    comm->seats = calloc((size_t)n_ranks + 1, sizeof *comm->seats);
    comm->requests = calloc((size_t)n_ranks + 1, sizeof *comm->requests);
    if (comm->seats == NULL || comm->requests == NULL) {
        emul_die("ncclCommInitRank: out of host memory");
    }
    for (int i = 0; i <= n_ranks; i++) {
        comm->requests[i] = MPI_REQUEST_NULL;
    }
    comm->is_blocking = is_blocking;
    comm->n_busy = is_blocking ? 0 : BUSY_CALLS;
    comm->n_references = 1;
    comm->rank = rank;
    comm->n_ranks = n_ranks;
    comm->root = id->root;
    comm->tag = FIRST_TAG + id->number % N_TAGS;
    comm->mpi = MPI_COMM_NULL;
    return comm;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    unique_id own;
    int world_rank = 0;

    *out = NULL;
    memcpy(&own, &id, sizeof own);
    if (n_ranks < 1 || rank < 0 || rank >= n_ranks || memcmp(own.word, "emulated", 8) != 0 ||
        config == NULL || config->size != sizeof *config || config->magic != 0xcafebeef) {
        emul_nccl_say("ncclCommInitRankConfig: a wrong rank, unique id or configuration");
        return ncclInvalidArgument;
    }
    if (emul_fails("ncclCommInitRankConfig")) {
        emul_nccl_say("bootstrap: connection refused");
        return ncclSystemError;
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    if ((rank == 0) != (world_rank == own.root)) {
        emul_die("ncclCommInitRank: here rank 0 makes the unique id, and not world rank %d",
                 (int)own.root);
    }
    struct ncclComm *comm = make_comm(n_ranks, &own, rank, config->blocking != 0);
    if (comm == NULL || cudaGetDevice(&comm->device) != cudaSuccess) {
        free(comm);
        return ncclUnhandledCudaError;
    }
    emul_seat *seat = &comm->seats[0];
    seat->world_rank = world_rank;
    seat->rank = rank;
    seat->n_ranks = n_ranks;
    seat->host = host_number();
    cudaDeviceGetPCIBusId(seat->bus, (int)sizeof seat->bus, comm->device);
    begin_to_join(comm);
    *out = comm;
    while (comm->is_blocking && result_of(comm) == ncclInProgress) {
        advance(comm);
    }
    return comm->is_blocking ? result_of(comm) : ncclInProgress;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int n_ranks, ncclUniqueId id, int rank)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    return ncclCommInitRankConfig(comm, n_ranks, id, rank, &config);
}

/* ---- life and end -------------------------------------------------------------------------- */

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    if (comm == NULL) {
        return ncclInvalidArgument;
    }
    advance(comm);
    if (comm->state == EMUL_FINAL && comm->n_queued > 0) {
        (void)cudaStreamQuery(comm->last_stream); /* a device needs no asking */
        (void)cudaGetLastError();
    }
    *state = result_of(comm);
    if (comm->state == EMUL_READY && comm->n_busy > 0) {
        comm->n_busy--;
    }
    return ncclSuccess;
}

ncclResult_t emul_nccl_usable(ncclComm_t comm)
{
    if (comm == NULL) {
        return ncclInvalidArgument;
    }
    if (comm->state == EMUL_FAILED) {
        return comm->error;
    }
    if (result_of(comm) != ncclSuccess || comm->state != EMUL_READY) {
        emul_nccl_say("the communicator is not ready: another call is still in progress");
        return ncclInvalidUsage;
    }
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count)
{
    *count = comm->n_ranks;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank)
{
    *rank = comm->rank;
    return ncclSuccess;
}

void emul_nccl_unref(ncclComm_t comm)
{
    if (--comm->n_references == 0) {
        free(comm->requests);
        free(comm->seats);
        free(comm);
    }
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    const ncclResult_t usable = emul_nccl_usable(comm);
    if (usable != ncclSuccess) {
        return usable;
    }
    comm->state = EMUL_FINAL;
    while (comm->is_blocking && comm->n_queued > 0) {
        (void)cudaStreamQuery(comm->last_stream);
        (void)cudaGetLastError();
    }
    return result_of(comm);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    if (comm == NULL) {
        return ncclSuccess;
    }
    if (comm->is_blocking && comm->state == EMUL_READY) {
        (void)ncclCommFinalize(comm);
    }
    if (comm->state != EMUL_FINAL || comm->n_queued > 0) {
        emul_die("ncclCommDestroy: without ncclCommFinalize before, or before that was done");
    }
    MPI_Comm_free(&comm->mpi);
    emul_nccl_unref(comm);
    return ncclSuccess;
}

/* What is queued ends without effect. The others need not do the same, so MPI's communicator is
 * left to MPI_Finalize. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    if (comm == NULL) {
        return ncclSuccess;
    }
    comm->is_aborted = true;
    for (int i = 0; i < comm->n_ranks + 1; i++) {
        if (comm->requests[i] != MPI_REQUEST_NULL) {
            comm->n_references++; /* a message may still arrive there */
            MPI_Request_free(&comm->requests[i]);
        }
    }
    emul_nccl_unref(comm);
    return ncclSuccess;
}
