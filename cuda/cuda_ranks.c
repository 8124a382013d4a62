/* Exchanges between the ranks' GPUs, queued on the caller's stream. Floats are moved by NCCL and
 * added by us, in rank order, so that a sum has the bits of rf_comm_sum_f32; integers are added by
 * NCCL. Where ranks share a GPU all goes through pinned host memory and MPI, with the same results,
 * and is done when the call returns. */
#include "k_ranks.h"
#include "ranks_impl.h"

static int64_t sum_of(const int64_t *n_bytes, int n)
{
    int64_t sum = 0;
    for (int r = 0; r < n; r++) {
        sum += n_bytes[r];
    }
    return sum;
}

static rf_status check_sizes(const char *op, const int64_t *n_bytes, int size)
{
    rf_status status = RF_OK;
    for (int r = 0; r < size; r++) {
        RF_REQUIRE(n_bytes[r] >= 0, "%s: %" PRId64 " bytes for rank %d", op, n_bytes[r], r);
    }
fail:
    return status;
}

static rf_status copy(rf_stream *s, void *to, const void *from, int64_t n_bytes,
                      enum cudaMemcpyKind kind)
{
    if (n_bytes == 0 || to == from) {
        return RF_OK;
    }
    return rf_cuda_checked(cudaMemcpyAsync(to, from, (size_t)n_bytes, kind, rf_cuda_stream_of(s)),
                           "cudaMemcpyAsync");
}

/* ---- NCCL ---------------------------------------------------------------------------------- */

/* Every call of a group must be made between its start and its end, also after one has failed. */
static ncclResult_t worse(ncclResult_t a, ncclResult_t b)
{
    return a != ncclSuccess && a != ncclInProgress ? a : b;
}

static ncclResult_t send_and_receive(const rf_ranks *r, cudaStream_t stream, int peer,
                                     const char *send, int64_t n_send, char *recv, int64_t n_recv)
{
    ncclResult_t code = ncclSuccess;
    if (n_send > 0) {
        code = worse(code, ncclSend(send, (size_t)n_send, ncclUint8, peer, r->nccl, stream));
    }
    if (n_recv > 0) {
        code = worse(code, ncclRecv(recv, (size_t)n_recv, ncclUint8, peer, r->nccl, stream));
    }
    return code;
}

/* To and from all others; what is a rank's own stays where it is. */
static rf_status queue_all_to_all(rf_ranks *r, rf_stream *s, const void *send,
                                  const int64_t *send_bytes, void *recv, const int64_t *recv_bytes)
{
    const char *from = send;
    char *to = recv;
    ncclResult_t code = ncclGroupStart();
    for (int peer = 0; peer < r->size; peer++) {
        if (peer != r->rank) {
            code = worse(code, send_and_receive(r, rf_cuda_stream_of(s), peer, from,
                                                send_bytes[peer], to, recv_bytes[peer]));
        }
        from += send_bytes[peer];
        to += recv_bytes[peer];
    }
    return rf_ranks_settle(r, worse(code, ncclGroupEnd()));
}

/* A rank's own part is in its place in `recv`. Equal parts go round by NCCL's own all-gather, which
 * crosses the network once a host; others from each to each. */
static rf_status queue_all_gather(rf_ranks *r, rf_stream *s, void *recv, const int64_t *recv_bytes)
{
    const cudaStream_t stream = rf_cuda_stream_of(s);
    const int64_t n_send = recv_bytes[r->rank];
    const char *send = (char *)recv + sum_of(recv_bytes, r->rank);
    char *to = recv;
    bool is_equal = true;
    for (int peer = 0; peer < r->size; peer++) {
        is_equal = is_equal && recv_bytes[peer] == n_send;
    }
    if (is_equal) {
        return n_send == 0 ? (rf_status)RF_OK
                           : rf_ranks_settle(r, ncclAllGather(send, recv, (size_t)n_send, ncclUint8,
                                                              r->nccl, stream));
    }
    ncclResult_t code = ncclGroupStart();
    for (int peer = 0; peer < r->size; peer++) {
        if (peer != r->rank) {
            code =
                worse(code, send_and_receive(r, stream, peer, send, n_send, to, recv_bytes[peer]));
        }
        to += recv_bytes[peer];
    }
    return rf_ranks_settle(r, worse(code, ncclGroupEnd()));
}

static rf_status nccl_all_gather(rf_ranks *r, rf_stream *s, const void *send, void *recv,
                                 const int64_t *recv_bytes)
{
    rf_status status = RF_OK;
    RF_TRY(rf_ranks_begin(r, s, "all-gather"));
    RF_TRY(copy(s, (char *)recv + sum_of(recv_bytes, r->rank), send, recv_bytes[r->rank],
                cudaMemcpyDeviceToDevice));
    RF_TRY(queue_all_gather(r, s, recv, recv_bytes));
fail:
    return rf_ranks_end(r, s, status);
}

static rf_status nccl_all_to_all(rf_ranks *r, rf_stream *s, const void *send,
                                 const int64_t *send_bytes, void *recv, const int64_t *recv_bytes)
{
    rf_status status = RF_OK;
    RF_TRY(rf_ranks_begin(r, s, "all-to-all"));
    RF_TRY(copy(s, (char *)recv + sum_of(recv_bytes, r->rank),
                (const char *)send + sum_of(send_bytes, r->rank), recv_bytes[r->rank],
                cudaMemcpyDeviceToDevice));
    RF_TRY(queue_all_to_all(r, s, send, send_bytes, recv, recv_bytes));
fail:
    return rf_ranks_end(r, s, status);
}

/* Each rank adds one share of the piece for all, in rank order; the sums go round. */
static rf_status queue_sum(rf_ranks *r, rf_stream *s, float *piece, int64_t n)
{
    rf_status status = RF_OK;
    int64_t *shares = r->sizes, *mine = r->sizes + r->size, first = 0, count = 0;

    for (int peer = 0; peer < r->size; peer++) {
        rf_comm_share(n, RF_RANKS_TILE, peer, r->size, &first, &count);
        shares[peer] = count * (int64_t)sizeof *piece;
    }
    rf_comm_share(n, RF_RANKS_TILE, r->rank, r->size, &first, &count);
    for (int peer = 0; peer < r->size; peer++) {
        mine[peer] = shares[r->rank];
    }
    RF_TRY(queue_all_to_all(r, s, piece, shares, r->copies, mine));
    rf_k_sum_in_rank_order(rf_cuda_stream_of(s), r->copies, r->size, r->rank, count, piece + first);
    RF_TRY(queue_all_gather(r, s, piece, shares));
fail:
    return status;
}

static rf_status nccl_all_sum_f32(rf_ranks *r, rf_stream *s, float *data, int64_t n)
{
    rf_status status = RF_OK;
    RF_TRY(rf_ranks_begin(r, s, "sum over ranks"));
    for (int64_t at = 0; at < n; at += RF_RANKS_PIECE_FLOATS) {
        RF_TRY(queue_sum(r, s, data + at, rf_min_i64(RF_RANKS_PIECE_FLOATS, n - at)));
    }
fail:
    return rf_ranks_end(r, s, status);
}

static rf_status nccl_all_sum_i64(rf_ranks *r, rf_stream *s, int64_t *data, int64_t n)
{
    rf_status status = RF_OK;
    RF_TRY(rf_ranks_begin(r, s, "sum of integers over ranks"));
    if (n > 0) {
        RF_TRY(rf_ranks_settle(r, ncclAllReduce(data, data, (size_t)n, ncclInt64, ncclSum, r->nccl,
                                                rf_cuda_stream_of(s))));
    }
fail:
    return rf_ranks_end(r, s, status);
}

/* ---- through host memory ------------------------------------------------------------------- */

static rf_status reserve_pinned(rf_ranks *r, int64_t n_bytes, char **out)
{
    rf_status status = RF_OK;
    if ((size_t)n_bytes > r->pinned_bytes || r->pinned == NULL) {
        RF_CUDA_TRY(cudaFreeHost(r->pinned));
        r->pinned = NULL;
        r->pinned_bytes = 0;
        RF_CUDA_TRY(cudaMallocHost(&r->pinned, n_bytes > 0 ? (size_t)n_bytes : 1));
        r->pinned_bytes = (size_t)n_bytes;
    }
    *out = r->pinned;
fail:
    return status;
}

/* `n_bytes` of `from` in pinned memory at `at`, of which `all_bytes` are reserved, on every rank:
 * or the same error on all. Collective. */
static rf_status fetch(rf_ranks *r, rf_stream *s, const rf_comm *comm, const void *from,
                       int64_t n_bytes, int64_t at, int64_t all_bytes, char **out)
{
    rf_status status = RF_OK;
    RF_TRY(reserve_pinned(r, all_bytes, out));
    RF_TRY(copy(s, *out + at, from, n_bytes, cudaMemcpyDeviceToHost));
    RF_TRY(rf_cuda_wait(s));
fail:
    return rf_comm_agree(comm, status);
}

static rf_status bring(rf_stream *s, void *to, const void *from, int64_t n_bytes)
{
    rf_status status = RF_OK;
    RF_TRY(copy(s, to, from, n_bytes, cudaMemcpyHostToDevice));
    RF_TRY(rf_cuda_wait(s));
fail:
    return status;
}

static rf_status host_all_gather(rf_ranks *r, rf_stream *s, const rf_comm *comm, const void *send,
                                 void *recv, const int64_t *recv_bytes)
{
    rf_status status = RF_OK;
    const int64_t at = sum_of(recv_bytes, r->rank), all = sum_of(recv_bytes, r->size);
    char *pinned = NULL;
    RF_TRY(fetch(r, s, comm, send, recv_bytes[r->rank], at, all, &pinned));
    RF_TRY(rf_comm_allgatherv(comm, pinned + at, pinned, recv_bytes));
    RF_TRY(bring(s, recv, pinned, all));
fail:
    return status;
}

static rf_status host_all_to_all(rf_ranks *r, rf_stream *s, const rf_comm *comm, const void *send,
                                 const int64_t *send_bytes, void *recv, const int64_t *recv_bytes)
{
    rf_status status = RF_OK;
    const int64_t n_send = sum_of(send_bytes, r->size), n_recv = sum_of(recv_bytes, r->size);
    char *pinned = NULL;
    RF_TRY(fetch(r, s, comm, send, n_send, 0, n_send + n_recv, &pinned));
    RF_TRY(rf_comm_alltoallv(comm, pinned, send_bytes, pinned + n_send, recv_bytes));
    RF_TRY(bring(s, recv, pinned + n_send, n_recv));
fail:
    return status;
}

static rf_status host_all_sum_f32(rf_ranks *r, rf_stream *s, const rf_comm *comm, float *data,
                                  int64_t n)
{
    rf_status status = RF_OK;
    const int64_t n_bytes = n * (int64_t)sizeof *data;
    char *pinned = NULL;
    RF_TRY(fetch(r, s, comm, data, n_bytes, 0, n_bytes, &pinned));
    RF_TRY(rf_comm_sum_f32(comm, (float *)(void *)pinned, n));
    RF_TRY(bring(s, data, pinned, n_bytes));
fail:
    return status;
}

static rf_status host_all_sum_i64(rf_ranks *r, rf_stream *s, const rf_comm *comm, int64_t *data,
                                  int64_t n)
{
    rf_status status = RF_OK;
    const int64_t n_bytes = n * (int64_t)sizeof *data;
    char *pinned = NULL;
    RF_TRY(fetch(r, s, comm, data, n_bytes, 0, n_bytes, &pinned));
    RF_TRY(rf_comm_sum_i64(comm, (int64_t *)(void *)pinned, n));
    RF_TRY(bring(s, data, pinned, n_bytes));
fail:
    return status;
}

/* ---- the operations ------------------------------------------------------------------------ */

rf_status rf_cuda_all_gather(rf_stream *s, const rf_comm *comm, const void *send, void *recv,
                             const int64_t *recv_bytes)
{
    rf_status status = RF_OK;
    rf_ranks *r = NULL;

    RF_TRY(rf_ranks_of(s, comm, &r));
    RF_TRY(check_sizes("all-gather", recv_bytes, r->size));
    switch (r->way) {
    case RF_RANKS_ALONE:
        status = copy(s, recv, send, recv_bytes[0], cudaMemcpyDeviceToDevice);
        break;
    case RF_RANKS_NCCL:
        status = nccl_all_gather(r, s, send, recv, recv_bytes);
        break;
    case RF_RANKS_HOST:
        status = host_all_gather(r, s, comm, send, recv, recv_bytes);
        break;
    }
fail:
    return status;
}

rf_status rf_cuda_all_to_all(rf_stream *s, const rf_comm *comm, const void *send,
                             const int64_t *send_bytes, void *recv, const int64_t *recv_bytes)
{
    rf_status status = RF_OK;
    rf_ranks *r = NULL;

    RF_TRY(rf_ranks_of(s, comm, &r));
    RF_TRY(check_sizes("all-to-all", send_bytes, r->size));
    RF_TRY(check_sizes("all-to-all", recv_bytes, r->size));
    RF_REQUIRE(send_bytes[r->rank] == recv_bytes[r->rank],
               "all-to-all: %" PRId64 " bytes to itself, %" PRId64 " from itself",
               send_bytes[r->rank], recv_bytes[r->rank]);
    switch (r->way) {
    case RF_RANKS_ALONE:
        status = copy(s, recv, send, recv_bytes[0], cudaMemcpyDeviceToDevice);
        break;
    case RF_RANKS_NCCL:
        status = nccl_all_to_all(r, s, send, send_bytes, recv, recv_bytes);
        break;
    case RF_RANKS_HOST:
        status = host_all_to_all(r, s, comm, send, send_bytes, recv, recv_bytes);
        break;
    }
fail:
    return status;
}

rf_status rf_cuda_all_sum_f32(rf_stream *s, const rf_comm *comm, float *data, int64_t n)
{
    rf_status status = RF_OK;
    rf_ranks *r = NULL;

    RF_TRY(rf_ranks_of(s, comm, &r));
    RF_REQUIRE(n >= 0, "sum over ranks: n=%" PRId64 ", expected >= 0", n);
    RF_TRY(rf_comm_check_same(comm, "the length of a sum", n));
    if (r->way == RF_RANKS_NCCL) {
        status = nccl_all_sum_f32(r, s, data, n);
    } else if (r->way == RF_RANKS_HOST) {
        status = host_all_sum_f32(r, s, comm, data, n);
    }
fail:
    return status;
}

rf_status rf_cuda_all_sum_i64(rf_stream *s, const rf_comm *comm, int64_t *data, int64_t n)
{
    rf_status status = RF_OK;
    rf_ranks *r = NULL;

    RF_TRY(rf_ranks_of(s, comm, &r));
    RF_REQUIRE(n >= 0, "sum over ranks: n=%" PRId64 ", expected >= 0", n);
    RF_TRY(rf_comm_check_same(comm, "the length of a sum", n));
    if (r->way == RF_RANKS_NCCL) {
        status = nccl_all_sum_i64(r, s, data, n);
    } else if (r->way == RF_RANKS_HOST) {
        status = host_all_sum_i64(r, s, comm, data, n);
    }
fail:
    return status;
}
