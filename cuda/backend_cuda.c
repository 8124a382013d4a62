/* The CUDA backend: devices, memory, order, errors, and the table of its operations. One rank has
 * one GPU; work is queued on the streams that callers make, and nothing waits for it but
 * rf_stream_synchronise, a copy to or from memory that is not pinned, scratch that grows, and
 * memory that is freed. Where the driver would wait, rf_cuda_wait does so first: it notices ranks
 * that hang, and the driver never would. */
#include "cuda_impl.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct cuda_event {
    rf_event base; /* first */
    cudaEvent_t event;
};

/* A stream as the backend knows it. */
typedef struct gpu_stream {
    rf_cuda_stream cuda; /* first */
    struct gpu_stream *next;
} gpu_stream;

typedef struct gpu {
    rf_cuda_backend base; /* first */
    pthread_mutex_t lock; /* of the next */
    gpu_stream *streams;
} gpu;

/* ---- errors -------------------------------------------------------------------------------- */

rf_status rf_cuda_checked(cudaError_t code, const char *what)
{
    if (code == cudaSuccess) {
        return RF_OK;
    }
    (void)cudaGetLastError(); /* said here: the next call begins without it */
    if (code == cudaErrorMemoryAllocation) {
        return rf_error_raise(RF_ERR_NO_MEMORY, __FILE__, __LINE__,
                              "%s: the GPU is out of memory; take smaller groups of pictures "
                              "(activations.group_pictures) or more ranks and, where it trains, "
                              "fewer coders at once (train.coders_at_once) or a smaller "
                              "train.batch_tokens; `refract plan` says what training takes",
                              what);
    }
    return rf_error_raise(RF_ERR_BUG, __FILE__, __LINE__, "%s: %s (%s)", what,
                          cudaGetErrorString(code), cudaGetErrorName(code));
}

rf_status rf_cublas_checked(cublasStatus_t code, const char *what)
{
    if (code == CUBLAS_STATUS_SUCCESS) {
        return RF_OK;
    }
    return rf_error_raise(code == CUBLAS_STATUS_ALLOC_FAILED ? RF_ERR_NO_MEMORY : RF_ERR_BUG,
                          __FILE__, __LINE__, "%s: %s", what, cublasGetStatusString(code));
}

rf_status rf_cuda_launched(rf_stream *s, const char *op)
{
    ((rf_cuda_stream *)s)->op = op;
    return rf_cuda_checked(cudaGetLastError(), op);
}

/* ---- memory -------------------------------------------------------------------------------- */

/* Bytes that cannot be had, with what there is. */
static rf_status no_room(cudaError_t code, rf_memory kind, size_t n_bytes)
{
    char what[128];
    size_t free_bytes = 0, all_bytes = 0;
    if (code != cudaErrorMemoryAllocation) {
        return rf_cuda_checked(code, "memory");
    }
    (void)cudaGetLastError();
    if (kind == RF_MEMORY_PINNED) {
        return rf_error_raise(RF_ERR_NO_MEMORY, __FILE__, __LINE__,
                              "%.3f GB asked for: the host has no more memory to pin for copies to "
                              "the GPU (`ulimit -l`, or memory of the job)",
                              (double)n_bytes * 1e-9);
    }
    if (cudaMemGetInfo(&free_bytes, &all_bytes) != cudaSuccess) {
        free_bytes = all_bytes = 0;
    }
    snprintf(what, sizeof what, "%.2f GB asked for, %.2f of %.2f GB free", (double)n_bytes * 1e-9,
             (double)free_bytes * 1e-9, (double)all_bytes * 1e-9);
    return rf_cuda_checked(code, what);
}

/* Until nothing is queued, for what has no status to return: cudaFree and its like wait for the
 * whole device. A rank that hangs is given up, which ends what waits for it; the next exchange says
 * so, and the text of the error that led here stays. */
static void drain(rf_backend *be)
{
    gpu *device = (gpu *)be;
    char text[RF_ERROR_TEXT_LEN];
    rf_status worst = RF_OK;

    snprintf(text, sizeof text, "%s", rf_error_text());
    (void)pthread_mutex_lock(&device->lock);
    for (gpu_stream *s = device->streams; s != NULL; s = s->next) {
        const rf_status status = rf_cuda_wait(&s->cuda.base);
        worst = worst == RF_OK ? status : worst;
    }
    (void)pthread_mutex_unlock(&device->lock);
    if (worst != RF_OK) {
        (void)rf_error_restore(worst, text);
    }
}

static rf_status cuda_alloc(rf_backend *be, rf_memory kind, size_t n_bytes, void **out)
{
    rf_status status = RF_OK;
    void *p = NULL;
    const size_t n = n_bytes > 0 ? n_bytes : 1; /* NULL would mean an absent view */

    (void)be;
    *out = NULL;
    if (kind == RF_MEMORY_PINNED) {
        RF_TRY(no_room(cudaMallocHost(&p, n), kind, n));
        memset(p, 0, n);
    } else {
        RF_TRY(no_room(cudaMalloc(&p, n), kind, n));
        RF_CUDA_TRY(cudaMemset(p, 0, n));
        RF_CUDA_TRY(cudaStreamSynchronize(NULL)); /* our streams do not wait for this one */
    }
    *out = p;
    p = NULL;
fail:
    if (p != NULL) {
        (void)cudaFree(p);
    }
    return status;
}

static void cuda_free(rf_backend *be, rf_memory kind, void *p)
{
    drain(be);
    (void)(kind == RF_MEMORY_PINNED ? cudaFreeHost(p) : cudaFree(p));
}

static void cuda_memory(const rf_backend *be, int64_t *free_bytes, int64_t *all_bytes)
{
    size_t free_now = 0, all = 0;
    (void)be;
    if (cudaMemGetInfo(&free_now, &all) != cudaSuccess) {
        free_now = all = 0;
    }
    *free_bytes = (int64_t)free_now;
    *all_bytes = (int64_t)all;
}

rf_status rf_cuda_scratch(rf_stream *s, size_t n_bytes, void **out)
{
    rf_status status = RF_OK;
    rf_cuda_stream *cuda = (rf_cuda_stream *)s;
    if (n_bytes > cuda->scratch_bytes || cuda->scratch == NULL) {
        const size_t n = n_bytes > 256 ? n_bytes : 256;
        if (cuda->scratch != NULL) {
            RF_TRY(rf_cuda_wait(s)); /* what is queued may use it */
            drain(s->backend);
            RF_CUDA_TRY(cudaFree(cuda->scratch));
        }
        cuda->scratch = NULL;
        cuda->scratch_bytes = 0;
        RF_TRY_DOING(no_room(cudaMalloc(&cuda->scratch, n), RF_MEMORY_DEVICE, n), "scratch memory");
        cuda->scratch_bytes = n;
    }
    *out = cuda->scratch;
fail:
    return status;
}

rf_status rf_cuda_want_blas(rf_stream *stream)
{
    rf_status status = RF_OK;
    rf_cuda_stream *s = (rf_cuda_stream *)stream;
    if (s->blas_lt != NULL) { /* the last that is made */
        return RF_OK;
    }
    if (s->blas_work == NULL) {
        RF_TRY(no_room(cudaMalloc(&s->blas_work, RF_CUDA_BLAS_BYTES), RF_MEMORY_DEVICE,
                       RF_CUDA_BLAS_BYTES));
    }
    if (s->blas == NULL) {
        RF_TRY(rf_cublas_checked(cublasCreate(&s->blas), "cublasCreate"));
    }
    RF_TRY(rf_cublas_checked(cublasSetStream(s->blas, s->stream), "cublasSetStream"));
    RF_TRY(rf_cublas_checked(cublasSetWorkspace(s->blas, s->blas_work, RF_CUDA_BLAS_BYTES),
                             "cublasSetWorkspace"));
    RF_TRY(rf_cublas_checked(cublasLtCreate(&s->blas_lt), "cublasLtCreate"));
fail:
    return status;
}

/* ---- order --------------------------------------------------------------------------------- */

static void stream_destroy(rf_stream *s)
{
    rf_cuda_stream *cuda = (rf_cuda_stream *)s;
    gpu *device = (gpu *)s->backend;

    drain(s->backend);
    (void)pthread_mutex_lock(&device->lock);
    for (gpu_stream **at = &device->streams; *at != NULL; at = &(*at)->next) {
        if (*at == (gpu_stream *)s) {
            *at = (*at)->next;
            break;
        }
    }
    (void)pthread_mutex_unlock(&device->lock);
    if (cuda->blas != NULL) {
        (void)cublasDestroy(cuda->blas);
    }
    if (cuda->blas_lt != NULL) {
        (void)cublasLtDestroy(cuda->blas_lt);
    }
    if (cuda->stream != NULL) {
        (void)cudaStreamDestroy(cuda->stream);
    }
    (void)cudaFree(cuda->blas_work);
    (void)cudaFree(cuda->scratch);
    rf_free(cuda);
}

static rf_status stream_create(rf_backend *be, rf_stream **out)
{
    rf_status status = RF_OK;
    gpu *device = (gpu *)be;
    gpu_stream *listed = NULL;
    rf_cuda_stream *s = NULL;

    *out = NULL;
    RF_ALLOC(listed, 1);
    s = &listed->cuda;
    s->base.backend = be;
    s->op = "nothing";
    RF_CUDA_TRY(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking));
    (void)pthread_mutex_lock(&device->lock);
    listed->next = device->streams;
    device->streams = listed;
    (void)pthread_mutex_unlock(&device->lock);
    *out = &s->base;
    s = NULL;
fail:
    if (s != NULL) {
        stream_destroy(&s->base);
    }
    return status;
}

static rf_status event_create(rf_backend *be, rf_event **out)
{
    rf_status status = RF_OK;
    struct cuda_event *e = NULL;

    *out = NULL;
    RF_ALLOC(e, 1);
    e->base.backend = be;
    RF_CUDA_TRY(cudaEventCreateWithFlags(&e->event, cudaEventDisableTiming));
    *out = &e->base;
    e = NULL;
fail:
    rf_free(e);
    return status;
}

static void event_destroy(rf_event *e)
{
    (void)cudaEventDestroy(((struct cuda_event *)e)->event);
    rf_free(e);
}

static rf_status event_record(rf_event *e, rf_stream *s)
{
    return rf_cuda_checked(cudaEventRecord(((struct cuda_event *)e)->event, rf_cuda_stream_of(s)),
                           "cudaEventRecord");
}

static rf_status event_wait(rf_event *e, rf_stream *s)
{
    return rf_cuda_checked(
        cudaStreamWaitEvent(rf_cuda_stream_of(s), ((struct cuda_event *)e)->event, 0),
        "cudaStreamWaitEvent");
}

/* ---- copies -------------------------------------------------------------------------------- */

static rf_status copy(rf_stream *s, void *dst, const void *src, size_t n_bytes,
                      enum cudaMemcpyKind kind, const char *op)
{
    if (n_bytes == 0) {
        return RF_OK;
    }
    ((rf_cuda_stream *)s)->op = op;
    return rf_cuda_checked(cudaMemcpyAsync(dst, src, n_bytes, kind, rf_cuda_stream_of(s)), op);
}

/* The driver is asked, which takes no longer than to queue a copy: callers have pinned memory of
 * many kinds, whose copies out must not wait. */
static bool is_pageable(const void *host)
{
    struct cudaPointerAttributes attributes;
    if (cudaPointerGetAttributes(&attributes, host) != cudaSuccess) {
        (void)cudaGetLastError();
        return true;
    }
    return attributes.type == cudaMemoryTypeUnregistered;
}

/* Up to so many pageable bytes are put by when a copy in is queued; before more are the driver may
 * wait for the stream. Copies out to pageable memory always wait. */
enum { STAGED_BYTES = 64 << 10 };

static rf_status copy_in(rf_stream *s, void *dst, const void *src, size_t n_bytes)
{
    if (n_bytes > STAGED_BYTES && is_pageable(src)) {
        const rf_status status = rf_cuda_wait(s);
        if (status != RF_OK) {
            return status;
        }
    }
    return copy(s, dst, src, n_bytes, cudaMemcpyHostToDevice, "copy in");
}

static rf_status copy_out(rf_stream *s, void *dst, const void *src, size_t n_bytes)
{
    if (n_bytes > 0 && is_pageable(dst)) {
        const rf_status status = rf_cuda_wait(s);
        if (status != RF_OK) {
            return status;
        }
    }
    return copy(s, dst, src, n_bytes, cudaMemcpyDeviceToHost, "copy out");
}

static rf_status copy_within(rf_stream *s, void *dst, const void *src, size_t n_bytes)
{
    return copy(s, dst, src, n_bytes, cudaMemcpyDeviceToDevice, "copy within");
}

static rf_status fill_bytes(rf_stream *s, void *dst, int value, size_t n_bytes)
{
    if (n_bytes == 0) {
        return RF_OK;
    }
    ((rf_cuda_stream *)s)->op = "fill";
    return rf_cuda_checked(cudaMemsetAsync(dst, value, n_bytes, rf_cuda_stream_of(s)), "fill");
}

/* ---- the table ----------------------------------------------------------------------------- */

static void cuda_destroy(rf_backend *be)
{
    rf_free(be);
}

static const rf_backend_ops cuda_ops = {
    .name = "cuda",
    .destroy = cuda_destroy,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .memory = cuda_memory,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_synchronise = rf_cuda_wait,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_wait = event_wait,
    .copy_in = copy_in,
    .copy_out = copy_out,
    .copy_within = copy_within,
    .fill_bytes = fill_bytes,
    .matmul = rf_cuda_matmul,
    .layer_norm = rf_cuda_layer_norm,
    .attention = rf_cuda_attention,
    .attention_scores = rf_cuda_attention_scores,
    .attention_mix = rf_cuda_attention_mix,
    .softmax_rows = rf_cuda_softmax_rows,
    .activation = rf_cuda_activation,
    .add = rf_cuda_add,
    .pixel_values = rf_cuda_pixel_values,
    .patch_rows = rf_cuda_patch_rows,
    .embed_tokens = rf_cuda_embed_tokens,
    .gather_rows = rf_cuda_gather_rows,
    .convert = rf_cuda_convert,
    .gated = rf_cuda_gated,
    .rotary = rf_cuda_rotary,
    .mean_tokens = rf_cuda_mean_tokens,
    .layer_norm_grad = rf_cuda_layer_norm_grad,
    .layer_norm_scale_grad = rf_cuda_layer_norm_scale_grad,
    .attention_mix_grad = rf_cuda_attention_mix_grad,
    .attention_softmax_grad = rf_cuda_attention_softmax_grad,
    .attention_scores_grad = rf_cuda_attention_scores_grad,
    .activation_grad = rf_cuda_activation_grad,
    .gated_grad = rf_cuda_gated_grad,
    .column_dot = rf_cuda_column_dot,
    .mean_tokens_grad = rf_cuda_mean_tokens_grad,
    .patch_rows_grad = rf_cuda_patch_rows_grad,
    .embed_tokens_grad = rf_cuda_embed_tokens_grad,
    .gather_rows_grad = rf_cuda_gather_rows_grad,
    .encode = rf_cuda_encode,
    .decode = rf_cuda_decode,
    .d_value = rf_cuda_d_value,
    .residual = rf_cuda_residual,
    .index_by_latent = rf_cuda_index_by_latent,
    .accumulate_by_latent = rf_cuda_accumulate_by_latent,
    .row_sum = rf_cuda_row_sum,
    .sum_squares = rf_cuda_sum_squares,
    .codes_histogram = rf_cuda_codes_histogram,
    .codes_keep = rf_cuda_codes_keep,
    .prefix_residual = rf_cuda_prefix_residual,
    .sum_by_latent = rf_cuda_sum_by_latent,
    .gated_values = rf_cuda_gated_values,
    .gated_values_grad = rf_cuda_gated_values_grad,
    .jump_window_grad = rf_cuda_jump_window_grad,
    .penalty = rf_cuda_penalty,
    .dense_values = rf_cuda_dense_values,
    .dense_relu = rf_cuda_dense_relu,
    .dense_grad = rf_cuda_dense_grad,
    .update_rows = rf_cuda_update_rows,
    .apply_row_rule = rf_cuda_apply_row_rule,
    .row_norms = rf_cuda_row_norms,
    .row_norms_grad = rf_cuda_row_norms_grad,
    .normalise_tokens = rf_cuda_normalise_tokens,
    .denormalise_tokens = rf_cuda_denormalise_tokens,
    .track_fired = rf_cuda_track_fired,
    .mark_dead = rf_cuda_mark_dead,
    .all_gather = rf_cuda_all_gather,
    .all_to_all = rf_cuda_all_to_all,
    .all_sum_f32 = rf_cuda_all_sum_f32,
    .all_sum_i64 = rf_cuda_all_sum_i64,
};

static int attribute(enum cudaDeviceAttr which, int device)
{
    int value = 0;
    return cudaDeviceGetAttribute(&value, which, device) == cudaSuccess ? value : 0;
}

static rf_status describe(rf_cuda_backend *be)
{
    rf_status status = RF_OK;
    struct cudaDeviceProp device;
    int runtime = 0, driver = 0;
    size_t free_bytes = 0, all_bytes = 0;

    RF_CUDA_TRY(cudaGetDeviceProperties(&device, be->device));
    RF_CUDA_TRY(cudaRuntimeGetVersion(&runtime));
    RF_CUDA_TRY(cudaDriverGetVersion(&driver));
    RF_CUDA_TRY(cudaMemGetInfo(&free_bytes, &all_bytes));
    be->n_sm = attribute(cudaDevAttrMultiProcessorCount, be->device);
    be->l2_bytes = attribute(cudaDevAttrL2CacheSize, be->device);
    be->shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, be->device);
    be->memory_bytes = (int64_t)all_bytes;
    RF_TRY(rf_format(be->base.description, sizeof be->base.description,
                     "cuda, %s (sm_%d%d), CUDA %d.%d, driver %d.%d, cuBLAS %zu", device.name,
                     attribute(cudaDevAttrComputeCapabilityMajor, be->device),
                     attribute(cudaDevAttrComputeCapabilityMinor, be->device), runtime / 1000,
                     runtime % 1000 / 10, driver / 1000, driver % 1000 / 10, cublasLtGetVersion()));
fail:
    return status;
}

/* The rank's number among those on its host. Collective. */
static rf_status rank_on_host(const rf_comm *comm, int *out)
{
    rf_status status = RF_OK;
    rf_comm *host = NULL;

    *out = 0;
    if (comm != NULL) {
        RF_TRY(rf_comm_split_host(comm, &host));
        *out = rf_comm_rank(host);
    }
fail:
    rf_comm_destroy(host);
    return status;
}

/* How many there are: one or more. */
static rf_status count_devices(int *out)
{
    rf_status status = RF_OK;
    int driver = 0;

    *out = 0;
    const cudaError_t code = cudaGetDeviceCount(out);
    if (code == cudaSuccess && *out > 0) {
        return RF_OK;
    }
    (void)cudaGetLastError();
    const char *why = code == cudaSuccess ? "the driver has none" : cudaGetErrorString(code);
    if (code == cudaErrorInsufficientDriver &&
        (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)) {
        why = "there is no driver";
    }
    RF_FAIL(RF_ERR_NOT_FOUND, "no GPU to compute on: %s; the other device is cpu", why);
fail:
    return status;
}

/* Kernels are compiled for Ampere and what came after it. */
static rf_status check_capability(int device)
{
    enum { OLDEST = 8 };
    rf_status status = RF_OK;
    const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
    if (major < OLDEST) {
        RF_FAIL(RF_ERR_NOT_FOUND,
                "no GPU to compute on: device %d has compute capability %d.%d, and %d.0 is needed; "
                "the other device is cpu",
                device, major, attribute(cudaDevAttrComputeCapabilityMinor, device), OLDEST);
    }
fail:
    return status;
}

static rf_status open_device(int number, rf_cuda_backend **out)
{
    rf_status status = RF_OK;
    gpu *device = NULL;
    int n_devices;

    RF_TRY(count_devices(&n_devices));
    RF_TRY(check_capability(number % n_devices));
    RF_ALLOC(device, 1);
    (void)pthread_mutex_init(&device->lock, NULL); /* with default attributes it cannot fail */
    rf_cuda_backend *be = &device->base;
    be->base.ops = &cuda_ops;
    be->device = number % n_devices;
    RF_CUDA_TRY(cudaSetDevice(be->device));
    RF_TRY(describe(be));
    *out = be;
    device = NULL;
fail:
    rf_free(device);
    return status;
}

rf_status rf_backend_cuda_create(const rf_comm *comm, rf_backend **out)
{
    rf_status status = RF_OK;
    rf_cuda_backend *be = NULL;
    int number = 0;

    *out = NULL;
    RF_TRY(rank_on_host(comm, &number));
    status = open_device(number, &be);
    if (comm != NULL) {
        status = rf_comm_agree(comm, status);
    }
    if (status == RF_OK) {
        *out = &be->base;
        be = NULL;
    }
fail:
    rf_free(be);
    return status;
}
