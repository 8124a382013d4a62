/* Communicators of NCCL: how ranks find each other, and how a rank that others have left alone gets
 * to know it. They do not block: a call that is still in progress is asked again, and so is a
 * stream, with a time-out. What failed is given up as a whole (ncclCommAbort), which the other
 * ranks hear of, or time out. */
#include "ranks_impl.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all below, and of NCCL's calls */
static rf_ranks *first_ranks;

/* ---- errors and time ----------------------------------------------------------------------- */

/* Give the communicator up and say why. */
static rf_status give_up(rf_ranks *r, ncclResult_t code)
{
    const char *detail = ncclGetLastError(r->nccl);
    const bool has_detail = detail != NULL && detail[0] != '\0';
    const rf_status status = rf_error_raise(
        RF_ERR_COMM, __FILE__, __LINE__, "%s over %d GPUs: NCCL: %s%s%s", r->op, r->size,
        ncclGetErrorString(code), has_detail ? ": " : "", has_detail ? detail : "");
    if (r->nccl != NULL) {
        (void)ncclCommAbort(r->nccl);
        r->nccl = NULL;
    }
    return status;
}

static rf_status give_up_waiting(rf_ranks *r)
{
    const rf_status status = rf_error_raise(
        RF_ERR_COMM, __FILE__, __LINE__,
        "%s over %d GPUs: not done after %g seconds: another rank has ended, failed or is far "
        "behind (environment: REFRACT_COMM_TIMEOUT, seconds; 0: none)",
        r->op, r->size, r->timeout_s);
    if (r->nccl != NULL) {
        (void)ncclCommAbort(r->nccl);
        r->nccl = NULL;
    }
    return status;
}

static bool is_late(const rf_ranks *r, double begin)
{
    return r->timeout_s > 0.0 && rf_now() - begin > r->timeout_s;
}

/* Not at all at first, then an eighth of what the wait has taken: late by that much at most, and
 * no core is kept busy. */
static void pause_since(double begin)
{
    const double waited = rf_now() - begin;
    if (waited > 100e-6) {
        const double pause = fmin(1e-3, fmax(20e-6, waited / 8.0));
        nanosleep(&(struct timespec){.tv_nsec = (long)(pause * 1e9)}, NULL);
    }
}

rf_status rf_ranks_settle(rf_ranks *r, ncclResult_t code)
{
    const double begin = rf_now();
    while (code == ncclInProgress) {
        ncclResult_t state = ncclSuccess;
        if (is_late(r, begin)) {
            return give_up_waiting(r);
        }
        code = ncclCommGetAsyncError(r->nccl, &state);
        if (code == ncclSuccess && state != ncclSuccess) {
            code = state;
            pause_since(begin);
        }
    }
    return code == ncclSuccess ? RF_OK : give_up(r, code);
}

/* ---- use ----------------------------------------------------------------------------------- */

rf_status rf_ranks_begin(rf_ranks *r, rf_stream *s, const char *op)
{
    rf_status status = RF_OK;
    const cudaStream_t stream = rf_cuda_stream_of(s);

    (void)pthread_mutex_lock(&lock);
    if (r->nccl == NULL) {
        RF_FAIL(RF_ERR_COMM, "%s: communication between GPUs has failed before, in %s", op, r->op);
    }
    r->op = op;
    if (r->last_stream != stream) { /* `copies` may be in use there */
        RF_CUDA_TRY(cudaStreamWaitEvent(stream, r->last, 0));
        r->last_stream = stream;
    }
fail:
    return status;
}

rf_status rf_ranks_end(rf_ranks *r, rf_stream *s, rf_status status)
{
    if (status == RF_OK) {
        status = rf_cuda_launched(s, r->op);
    }
    if (status == RF_OK) {
        status = rf_cuda_checked(cudaEventRecord(r->last, rf_cuda_stream_of(s)), "cudaEventRecord");
    }
    if (status != RF_OK && r->nccl != NULL) {
        (void)ncclCommAbort(r->nccl); /* the others would wait for what is not queued here */
        r->nccl = NULL;
    }
    (void)pthread_mutex_unlock(&lock);
    return status;
}

/* Has any communicator an error, or one in use no time left? `in_use`: is there any. */
static rf_status check_all(double begin, bool *in_use)
{
    rf_status status = RF_OK;

    *in_use = false;
    (void)pthread_mutex_lock(&lock);
    for (rf_ranks *r = first_ranks; r != NULL; r = r->next) {
        ncclResult_t state = ncclSuccess;
        if (r->nccl == NULL) {
            continue;
        }
        *in_use = true;
        const ncclResult_t code = ncclCommGetAsyncError(r->nccl, &state);
        const ncclResult_t worst = code != ncclSuccess ? code : state;
        if (worst != ncclSuccess && worst != ncclInProgress) {
            status = give_up(r, worst);
        } else if (is_late(r, begin) && cudaEventQuery(r->last) == cudaErrorNotReady) {
            (void)cudaGetLastError();
            status = give_up_waiting(r);
        }
    }
    (void)pthread_mutex_unlock(&lock);
    return status;
}

rf_status rf_cuda_wait(rf_stream *s)
{
    rf_status status = RF_OK;
    const rf_cuda_stream *cuda = (const rf_cuda_stream *)s;
    const double begin = rf_now();
    bool in_use = false;

    RF_TRY(check_all(begin, &in_use));
    if (!in_use) {
        return rf_cuda_checked(cudaStreamSynchronize(cuda->stream), cuda->op);
    }
    cudaError_t code = cudaStreamQuery(cuda->stream);
    while (code == cudaErrorNotReady) {
        (void)cudaGetLastError();
        pause_since(begin);
        RF_TRY(check_all(begin, &in_use));
        code = cudaStreamQuery(cuda->stream);
    }
    RF_TRY(check_all(begin, &in_use)); /* an exchange that failed may have ended early */
    status = rf_cuda_checked(code, cuda->op);
fail:
    return status;
}

/* ---- from nothing to a communicator --------------------------------------------------------- */

static void ranks_destroy(void *p)
{
    rf_ranks *r = p;

    (void)pthread_mutex_lock(&lock);
    for (rf_ranks **at = &first_ranks; *at != NULL; at = &(*at)->next) {
        if (*at == r) {
            *at = r->next;
            break;
        }
    }
    if (r->nccl != NULL) {
        r->op = "the end";
        if (rf_ranks_settle(r, ncclCommFinalize(r->nccl)) == RF_OK) {
            (void)ncclCommDestroy(r->nccl);
        }
    }
    (void)pthread_mutex_unlock(&lock);
    if (r->last != NULL) {
        (void)cudaEventDestroy(r->last);
    }
    (void)cudaFree(r->copies);
    (void)cudaFreeHost(r->pinned);
    rf_free(r->sizes);
    rf_free(r);
}

/* Do two ranks of `comm` have one GPU? Collective. */
static rf_status find_shared_gpu(const rf_comm *comm, int device, bool *is_shared)
{
    typedef struct seat {
        int64_t host; /* the least rank there */
        char bus[56];
    } seat;
    rf_status status = RF_OK;
    const int rank = rf_comm_rank(comm), size = rf_comm_size(comm);
    rf_comm *host = NULL;
    seat *seats = NULL;
    int64_t *n_bytes = NULL, host_rank = rank;

    *is_shared = false;
    RF_TRY(rf_comm_split_host(comm, &host));
    RF_TRY(rf_comm_bcast(host, &host_rank, sizeof host_rank, 0));
    seats = rf_calloc(size, sizeof *seats);
    n_bytes = rf_calloc(size, sizeof *n_bytes);
    if (seats == NULL || n_bytes == NULL) {
        status = RF_ERR_NO_MEMORY;
    } else {
        seats[rank].host = host_rank;
        status = rf_cuda_checked(
            cudaDeviceGetPCIBusId(seats[rank].bus, (int)sizeof seats[rank].bus, device),
            "cudaDeviceGetPCIBusId");
    }
    RF_TRY(rf_comm_agree(comm, status));
    for (int i = 0; i < size; i++) {
        n_bytes[i] = (int64_t)sizeof *seats;
    }
    RF_TRY(rf_comm_allgatherv(comm, &seats[rank], seats, n_bytes));
    for (int i = 0; i < size; i++) {
        for (int j = 0; j < i; j++) {
            *is_shared = *is_shared || (seats[i].host == seats[j].host &&
                                        strcmp(seats[i].bus, seats[j].bus) == 0);
        }
    }
fail:
    rf_comm_destroy(host);
    rf_free(n_bytes);
    rf_free(seats);
    return status;
}

typedef struct ranks_wish {
    double timeout_s;
    int64_t is_auto, way;
} ranks_wish;

static rf_status read_environment(ranks_wish *out)
{
    rf_status status = RF_OK;
    const char *timeout = getenv("REFRACT_COMM_TIMEOUT"), *way = getenv("REFRACT_COMM_WAY");

    *out = (ranks_wish){.timeout_s = 600.0, .is_auto = 1};
    if (timeout != NULL && (rf_parse_f64(timeout, &out->timeout_s) != RF_OK ||
                            !(out->timeout_s >= 0.0 && isfinite(out->timeout_s)))) {
        RF_FAIL(RF_ERR_SETTING, "environment: REFRACT_COMM_TIMEOUT=%s, expected seconds >= 0",
                timeout);
    }
    if (way != NULL && strcmp(way, "auto") != 0) {
        out->is_auto = 0;
        out->way = strcmp(way, "nccl") == 0 ? RF_RANKS_NCCL : RF_RANKS_HOST;
        if (out->way == RF_RANKS_HOST && strcmp(way, "host") != 0) {
            RF_FAIL(RF_ERR_SETTING, "environment: REFRACT_COMM_WAY=%s, expected auto, nccl or host",
                    way);
        }
    }
fail:
    return status;
}

/* The first rank's wishes count: the others' environment may be another. Collective. */
static rf_status choose_way(const rf_comm *comm, rf_ranks *r)
{
    rf_status status = RF_OK;
    ranks_wish wish = {0};
    bool is_shared = false;

    if (r->rank == 0) {
        status = read_environment(&wish);
    }
    RF_TRY(rf_comm_agree(comm, status));
    RF_TRY(rf_comm_bcast(comm, &wish, sizeof wish, 0));
    r->timeout_s = wish.timeout_s;
    r->way = (rf_ranks_way)wish.way;
    if (wish.is_auto && r->size == 1) {
        r->way = RF_RANKS_ALONE;
    } else if (wish.is_auto) {
        RF_TRY(find_shared_gpu(comm, r->device, &is_shared));
        r->way = is_shared ? RF_RANKS_HOST : RF_RANKS_NCCL;
        if (is_shared && r->rank == 0) {
            rf_log(RF_LOG_INFO, "ranks share a GPU: they exchange through the host's memory");
        }
    }
fail:
    return status;
}

/* What is NCCL's alone. Without other ranks. */
static rf_status prepare_nccl(rf_ranks *r, ncclUniqueId *id)
{
    rf_status status = RF_OK;
    const int64_t n = RF_RANKS_PIECE_FLOATS + (int64_t)RF_RANKS_TILE * r->size;

    r->op = "the start of communication";
    memset(id, 0, sizeof *id);
    RF_CUDA_TRY(cudaSetDevice(r->device));
    RF_CUDA_TRY(cudaEventCreateWithFlags(&r->last, cudaEventDisableTiming));
    RF_TRY_DOING(rf_cuda_checked(cudaMalloc((void **)&r->copies, (size_t)n * sizeof *r->copies),
                                 "sums over ranks"),
                 "scratch memory");
    if (r->rank == 0) {
        const ncclResult_t code = ncclGetUniqueId(id);
        status = code == ncclSuccess ? RF_OK : give_up(r, code);
    }
fail:
    return status;
}

/* Collective. */
static rf_status start_nccl(const rf_comm *comm, rf_ranks *r)
{
    rf_status status = RF_OK;
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;

    RF_TRY(rf_comm_agree(comm, prepare_nccl(r, &id)));
    RF_TRY(rf_comm_bcast(comm, &id, sizeof id, 0));
    config.blocking = 0;
    (void)pthread_mutex_lock(&lock);
    status = rf_ranks_settle(r, ncclCommInitRankConfig(&r->nccl, r->size, id, r->rank, &config));
    if (status == RF_OK) {
        r->next = first_ranks;
        first_ranks = r;
    }
    (void)pthread_mutex_unlock(&lock);
    RF_TRY(rf_comm_agree(comm, status));
fail:
    return status;
}

rf_status rf_ranks_of(rf_stream *s, const rf_comm *comm, rf_ranks **out)
{
    rf_status status = RF_OK;
    rf_ranks *r = rf_comm_companion(comm);

    *out = r;
    if (r != NULL) {
        return RF_OK;
    }
    r = rf_calloc(1, sizeof *r);
    if (r != NULL) {
        r->rank = rf_comm_rank(comm);
        r->size = rf_comm_size(comm);
        r->device = rf_cuda_backend_of(s)->device;
        r->sizes = rf_calloc(2 * (int64_t)r->size, sizeof *r->sizes);
    }
    RF_TRY(
        rf_comm_agree(comm, r == NULL || r->sizes == NULL ? RF_ERR_NO_MEMORY : (rf_status)RF_OK));
    RF_TRY(choose_way(comm, r));
    if (r->way == RF_RANKS_NCCL) {
        RF_TRY(start_nccl(comm, r));
    }
    rf_comm_set_companion(comm, r, ranks_destroy);
    *out = r;
    r = NULL;
fail:
    if (r != NULL) {
        ranks_destroy(r);
    }
    return status;
}
