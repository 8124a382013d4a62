/* Stand-in for NCCL over MPI: groups of sends, receives and collective calls, queued on a stream.
 * An operation that runs copies what it sends to host memory, posts messages that do not block and
 * is asked again until they are through: a send ends when its receive is there, as NCCL's does.
 *
 * REFRACT_EMUL_FAIL counts on each rank: "ncclSend:3" (and Recv, AllReduce, Broadcast, AllGather,
 * GroupEnd, CommInitRankConfig, GetUniqueId): the third call fails at once; "nccl_async:2": the
 * second operation that runs makes an asynchronous error of its communicator and never ends;
 * "nccl_hang:2": it never ends. */
#include "nccl_emul.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { TAG = 7 };

typedef enum call_kind { SEND, RECV, ALL_REDUCE, BROADCAST, ALL_GATHER } call_kind;
static const char *const call_names[] = {"ncclSend", "ncclRecv", "ncclAllReduce", "ncclBroadcast",
                                         "ncclAllGather"};

typedef struct call {
    call_kind kind;
    ncclComm_t comm;
    cudaStream_t stream;
    const void *send;
    void *recv;
    size_t count, send_bytes, recv_bytes;
    ncclDataType_t type;
    ncclRedOp_t op;
    int peer; /* or root */
    char *host_send, *host_recv;
} call;

/* Calls of one group that go over one communicator: one operation on a stream. */
typedef struct operation {
    ncclComm_t comm;
    int64_t number;
    bool is_begun, hangs, fails;
    int n_calls;
    call *calls;           /* [n_calls] */
    MPI_Request *requests; /* [n_calls] */
    MPI_Status *statuses;  /* [n_calls] */
} operation;

static _Thread_local struct {
    int depth;
    int n_calls, capacity;
    call *calls;
    ncclResult_t error;
} group;

static void *take(size_t n, size_t elem_bytes)
{
    void *p = calloc(n > 0 ? n : 1, elem_bytes);
    if (p == NULL) {
        emul_die("NCCL's stand-in is out of host memory");
    }
    return p;
}

/* ---- running ------------------------------------------------------------------------------- */

static MPI_Datatype mpi_type(ncclDataType_t type)
{
    switch ((int)type) {
    case ncclInt8:
        return MPI_INT8_T;
    case ncclUint8:
        return MPI_UINT8_T;
    case ncclInt32:
        return MPI_INT32_T;
    case ncclUint32:
        return MPI_UINT32_T;
    case ncclInt64:
        return MPI_INT64_T;
    case ncclUint64:
        return MPI_UINT64_T;
    case ncclFloat32:
        return MPI_FLOAT;
    case ncclFloat64:
        return MPI_DOUBLE;
    default:
        return MPI_DATATYPE_NULL; /* may be moved, and not added */
    }
}

static MPI_Op mpi_op(ncclRedOp_t op)
{
    static const int n_ops = 4;
    const MPI_Op ops[] = {MPI_SUM, MPI_PROD, MPI_MAX, MPI_MIN};
    return (int)op >= 0 && (int)op < n_ops ? ops[op] : MPI_OP_NULL;
}

static void check_range(const call *c, const char *what, const void *p, size_t n_bytes)
{
    char where[128] = "";
    if (n_bytes > 0 && !emul_is_device_range(p, n_bytes)) {
        emul_describe(p, where, sizeof where);
        emul_die("%s: %s of %zu elements, %zu bytes, does not lie in one allocation of device "
                 "memory: it begins at %s",
                 call_names[c->kind], what, c->count, n_bytes, where);
    }
}

static void post(call *c, MPI_Comm mpi, MPI_Request *request)
{
    const int n_send = (int)c->send_bytes, n_recv = (int)c->recv_bytes;
    c->host_send = take(c->send_bytes, 1);
    c->host_recv = take(c->recv_bytes, 1);
    if (c->send_bytes > 0) {
        memcpy(c->host_send, c->send, c->send_bytes);
    }
    switch (c->kind) {
    case SEND:
        MPI_Issend(c->host_send, n_send, MPI_BYTE, c->peer, TAG, mpi, request);
        break;
    case RECV:
        MPI_Irecv(c->host_recv, n_recv, MPI_BYTE, c->peer, TAG, mpi, request);
        break;
    case ALL_REDUCE:
        MPI_Iallreduce(c->host_send, c->host_recv, (int)c->count, mpi_type(c->type), mpi_op(c->op),
                       mpi, request);
        break;
    case BROADCAST:
        if (c->comm->rank == c->peer) {
            memcpy(c->host_recv, c->host_send, c->send_bytes);
        }
        MPI_Ibcast(c->host_recv, n_recv, MPI_BYTE, c->peer, mpi, request);
        break;
    case ALL_GATHER:
        MPI_Iallgather(c->host_send, n_send, MPI_BYTE, c->host_recv, n_send, MPI_BYTE, mpi,
                       request);
        break;
    }
}

static void begin(operation *o)
{
    o->is_begun = true;
    o->comm->n_begun++;
    for (int i = 0; i < o->n_calls; i++) {
        check_range(&o->calls[i], "what is sent", o->calls[i].send, o->calls[i].send_bytes);
        check_range(&o->calls[i], "what is received", o->calls[i].recv, o->calls[i].recv_bytes);
    }
    for (int i = 0; i < o->n_calls; i++) {
        post(&o->calls[i], o->comm->mpi, &o->requests[i]);
    }
}

static void finish(operation *o)
{
    for (int i = 0; i < o->n_calls; i++) {
        const call *c = &o->calls[i];
        int n_bytes = (int)c->recv_bytes;
        if (c->kind == RECV) {
            MPI_Get_count(&o->statuses[i], MPI_BYTE, &n_bytes);
        }
        if (n_bytes != (int)c->recv_bytes) {
            emul_die("ncclRecv: rank %d expects %zu bytes of rank %d, which sends %d",
                     c->comm->rank, c->recv_bytes, c->peer, n_bytes);
        }
        if (c->recv_bytes > 0) {
            memcpy(c->recv, c->host_recv, c->recv_bytes);
        }
    }
}

static bool step(void *arg)
{
    operation *o = arg;
    int is_done = 0;
    if (o->comm->is_aborted) {
        return true;
    }
    if (o->comm->state == EMUL_FAILED || o->hangs ||
        (!o->is_begun && o->comm->n_begun != o->number)) {
        return false;
    }
    if (o->fails) {
        emul_nccl_say("socket of a peer was closed");
        o->comm->state = EMUL_FAILED;
        o->comm->error = ncclRemoteError;
        return false;
    }
    if (!o->is_begun) {
        begin(o);
    }
    MPI_Testall(o->n_calls, o->requests, &is_done, o->statuses);
    if (is_done) {
        finish(o);
    }
    return is_done != 0;
}

/* Messages that never came may still come: their memory is left alone. */
static void drop(void *arg)
{
    operation *o = arg;
    o->comm->n_queued--;
    for (int i = 0; i < o->n_calls; i++) {
        if (o->requests[i] == MPI_REQUEST_NULL) {
            free(o->calls[i].host_send);
            free(o->calls[i].host_recv);
        }
    }
    emul_nccl_unref(o->comm);
    free(o->statuses);
    free(o->requests);
    free(o->calls);
    free(o);
}

/* ---- queueing ------------------------------------------------------------------------------ */

/* The calls of the group over `comm`, which leave it. */
static void push_operation(ncclComm_t comm)
{
    operation *o = take(1, sizeof *o);
    int n_left = 0;

    o->comm = comm;
    o->number = comm->n_issued++;
    o->calls = take((size_t)group.n_calls, sizeof *o->calls);
    o->requests = take((size_t)group.n_calls, sizeof *o->requests);
    o->statuses = take((size_t)group.n_calls, sizeof *o->statuses);
    for (int i = 0; i < group.n_calls; i++) {
        if (group.calls[i].comm == comm) {
            o->requests[o->n_calls] = MPI_REQUEST_NULL;
            o->calls[o->n_calls++] = group.calls[i];
        } else {
            group.calls[n_left++] = group.calls[i];
        }
    }
    group.n_calls = n_left;
    for (int i = 1; i < o->n_calls; i++) {
        if (o->calls[i].stream != o->calls[0].stream) {
            emul_die("ncclGroupEnd: one group on two streams over one communicator");
        }
    }
    o->hangs = emul_fails("nccl_hang");
    o->fails = emul_fails("nccl_async");
    comm->n_references++;
    comm->n_queued++;
    comm->n_busy = comm->is_blocking ? 0 : 1;
    comm->last_stream = o->calls[0].stream;
    emul_push_until(o->calls[0].stream, call_names[o->calls[0].kind], step, o, drop);
}

ncclResult_t ncclGroupStart(void)
{
    group.depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    ncclResult_t result;
    if (group.depth == 0) {
        emul_nccl_say("ncclGroupEnd: no group was started");
        return ncclInvalidUsage;
    }
    if (--group.depth > 0) {
        return ncclSuccess;
    }
    result = group.error;
    group.error = ncclSuccess;
    if (result == ncclSuccess && emul_fails("ncclGroupEnd")) {
        emul_nccl_say("cannot launch");
        result = ncclUnhandledCudaError;
    }
    while (result == ncclSuccess && group.n_calls > 0) {
        const bool is_blocking = group.calls[0].comm->is_blocking;
        push_operation(group.calls[0].comm);
        if (!is_blocking && group.n_calls == 0) {
            result = ncclInProgress;
        }
    }
    group.n_calls = 0;
    return result;
}

static ncclResult_t refuse(ncclResult_t error)
{
    group.error = group.depth > 0 && group.error == ncclSuccess ? error : group.error;
    return error;
}

static size_t type_bytes(ncclDataType_t type)
{
    static const unsigned char bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return (int)type >= 0 && (size_t)type < sizeof bytes ? bytes[type] : 0;
}

static void add_to_group(const call *c)
{
    if (group.n_calls == group.capacity) {
        group.capacity = 2 * group.capacity + 8;
        group.calls = realloc(group.calls, (size_t)group.capacity * sizeof *group.calls);
        if (group.calls == NULL) {
            emul_die("NCCL's stand-in is out of host memory");
        }
    }
    group.calls[group.n_calls++] = *c;
}

/* A call outside of a group is a group of its own. */
static ncclResult_t add(call c, size_t n_sent, size_t n_received)
{
    const size_t bytes = type_bytes(c.type);
    const ncclResult_t usable = emul_nccl_usable(c.comm);
    if (usable != ncclSuccess) {
        return refuse(usable);
    }
    if (bytes == 0 || c.peer < 0 || c.peer >= c.comm->n_ranks ||
        (c.kind == ALL_REDUCE &&
         (mpi_type(c.type) == MPI_DATATYPE_NULL || mpi_op(c.op) == MPI_OP_NULL))) {
        emul_nccl_say("%s: a wrong type, operation or rank", call_names[c.kind]);
        return refuse(ncclInvalidArgument);
    }
    if (emul_fails(call_names[c.kind])) {
        emul_nccl_say("%s: no buffer space available", call_names[c.kind]);
        return refuse(ncclSystemError);
    }
    c.send_bytes = n_sent * bytes;
    c.recv_bytes = n_received * bytes;
    if (c.send_bytes > INT_MAX || c.recv_bytes > INT_MAX) {
        emul_die("%s: more than 2 GiB in one call of the emulation", call_names[c.kind]);
    }
    if (emul_stream_device(c.stream) != c.comm->device) {
        emul_die("%s: the stream is of another device than the communicator", call_names[c.kind]);
    }
    check_range(&c, "what is sent", c.send, c.send_bytes);
    check_range(&c, "what is received", c.recv, c.recv_bytes);
    if (n_sent + n_received == 0) {
        return ncclSuccess;
    }
    (void)ncclGroupStart();
    add_to_group(&c);
    return ncclGroupEnd();
}

ncclResult_t ncclSend(const void *send, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream)
{
    return add((call){.kind = SEND,
                      .comm = comm,
                      .stream = stream,
                      .send = send,
                      .count = count,
                      .type = type,
                      .peer = peer},
               count, 0);
}

ncclResult_t ncclRecv(void *recv, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    return add((call){.kind = RECV,
                      .comm = comm,
                      .stream = stream,
                      .recv = recv,
                      .count = count,
                      .type = type,
                      .peer = peer},
               0, count);
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    return add((call){.kind = ALL_REDUCE,
                      .comm = comm,
                      .stream = stream,
                      .send = send,
                      .recv = recv,
                      .count = count,
                      .type = type,
                      .op = op},
               count, count);
}

ncclResult_t ncclBroadcast(const void *send, void *recv, size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream)
{
    const bool sends = comm != NULL && comm->rank == root;
    return add((call){.kind = BROADCAST,
                      .comm = comm,
                      .stream = stream,
                      .send = sends ? send : NULL,
                      .recv = recv,
                      .count = count,
                      .type = type,
                      .peer = root},
               sends ? count : 0, count);
}

ncclResult_t ncclAllGather(const void *send, void *recv, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    const size_t n_ranks = comm != NULL ? (size_t)comm->n_ranks : 0;
    return add((call){.kind = ALL_GATHER,
                      .comm = comm,
                      .stream = stream,
                      .send = send,
                      .recv = recv,
                      .count = count,
                      .type = type},
               count, count * n_ranks);
}
