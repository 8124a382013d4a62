/* Stand-in for the CUDA runtime: allocation, copies and fills. What a copy is allowed to leave for
 * later, it does: to and from pinned memory it reads and writes the host's side when it runs. */
#include "cudart_emul.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- allocation -------------------------------------------------------------------------------
 */

cudaError_t cudaMalloc(void **pointer, size_t n_bytes)
{
    cudaError_t error = emul_enter("cudaMalloc", cudaErrorMemoryAllocation);

    if (error == cudaSuccess) {
        *pointer = n_bytes == 0 ? NULL : emul_heap_allocate(emul_current_device(), n_bytes);
        error = n_bytes > 0 && *pointer == NULL ? cudaErrorMemoryAllocation : cudaSuccess;
    }
    return emul_leave(error);
}

/* Waits for the device: nothing that is queued can still use the memory. */
cudaError_t cudaFree(void *pointer)
{
    cudaError_t error = emul_enter("cudaFree", cudaErrorUnknown);

    if (error == cudaSuccess && pointer != NULL) {
        emul_finish_all();
        error = emul_broken();
    }
    if (pointer != NULL && !emul_heap_free(pointer)) {
        char at[256];

        emul_describe(pointer, at, sizeof at);
        emul_die("cudaFree of %p, which cudaMalloc did not give: %s", pointer, at);
    }
    return emul_leave(error);
}

cudaError_t cudaMallocHost(void **pointer, size_t n_bytes)
{
    return cudaHostAlloc(pointer, n_bytes, cudaHostAllocDefault);
}

cudaError_t cudaHostAlloc(void **pointer, size_t n_bytes, unsigned flags)
{
    cudaError_t error = emul_enter("cudaMallocHost", cudaErrorMemoryAllocation);

    (void)flags;
    if (error == cudaSuccess) {
        *pointer = n_bytes == 0 ? NULL : emul_pinned_allocate(n_bytes);
        error = n_bytes > 0 && *pointer == NULL ? cudaErrorMemoryAllocation : cudaSuccess;
    }
    return emul_leave(error);
}

cudaError_t cudaFreeHost(void *pointer)
{
    cudaError_t error = emul_enter("cudaFreeHost", cudaErrorUnknown);

    if (pointer != NULL && !emul_pinned_free(pointer)) {
        emul_die("cudaFreeHost of %p, which cudaMallocHost did not give", pointer);
    }
    return emul_leave(error);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *pointer)
{
    cudaError_t error = emul_enter("cudaPointerGetAttributes", cudaErrorUnknown);

    if (error == cudaSuccess) {
        memset(attributes, 0, sizeof *attributes);
        attributes->device = emul_current_device();
        if (emul_is_device_range(pointer, 1)) {
            attributes->type = cudaMemoryTypeDevice;
            attributes->device = emul_device_of(pointer);
            attributes->devicePointer = (void *)(uintptr_t)pointer;
        } else if (emul_is_pinned_range(pointer, 1)) {
            attributes->type = cudaMemoryTypeHost;
            attributes->devicePointer = (void *)(uintptr_t)pointer;
            attributes->hostPointer = (void *)(uintptr_t)pointer;
        } else {
            attributes->type = cudaMemoryTypeUnregistered;
            attributes->hostPointer = (void *)(uintptr_t)pointer;
        }
    }
    return emul_leave(error);
}

/* ---- copies -----------------------------------------------------------------------------------
 */

typedef struct copy {
    char *dst;
    const char *src;
    char *staged; /* a copy of `src`, ours */
    size_t dst_pitch, src_pitch, width, height;
    int value; /* fills */
} copy;

static size_t span(size_t pitch, size_t width, size_t height)
{
    return width == 0 || height == 0 ? 0 : pitch * (height - 1) + width;
}

static void run_copy(void *arg)
{
    const copy *c = arg;

    for (size_t row = 0; row < c->height; row++) {
        memcpy(c->dst + row * c->dst_pitch, c->src + row * c->src_pitch, c->width);
    }
}

static void run_fill(void *arg)
{
    const copy *c = arg;

    memset(c->dst, c->value, c->width);
}

static void drop_copy(void *arg)
{
    copy *c = arg;

    free(c->staged);
    free(c);
}

static copy *create_copy(const copy *from)
{
    copy *c = malloc(sizeof *c);

    if (c == NULL) {
        emul_die("no memory for a copy");
    }
    *c = *from;
    return c;
}

/* One side of a copy must be device memory, and all of it must belong to one allocation. */
static void check_device_side(const char *call, const char *side, const void *p, size_t n_bytes)
{
    char at[256];

    if (!emul_is_device_range(p, n_bytes)) {
        emul_describe(p, at, sizeof at);
        emul_die("%s: its %s, %zu bytes from %p on, is not all in one allocation of device "
                 "memory: it begins at %s",
                 call, side, n_bytes, p, at);
    }
}

static void check_host_side(const char *call, const char *side, const void *p, size_t n_bytes)
{
    char at[256];

    emul_describe(p, at, sizeof at);
    if (emul_touches_device(p, n_bytes)) {
        emul_die("%s: its %s is to be host memory, but is %s", call, side, at);
    }
    if (emul_is_pinned_range(p, 1) && !emul_is_pinned_range(p, n_bytes)) {
        emul_die("%s: its %s has %zu bytes, beginning at %s", call, side, n_bytes, at);
    }
}

static cudaMemcpyKind actual_kind(const void *dst, const void *src, cudaMemcpyKind kind)
{
    if (kind != cudaMemcpyDefault) {
        return kind;
    }
    if (emul_touches_device(dst, 1)) {
        return emul_touches_device(src, 1) ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice;
    }
    return emul_touches_device(src, 1) ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost;
}

static void check_copy(const char *call, const copy *c, cudaMemcpyKind kind)
{
    size_t dst_bytes = span(c->dst_pitch, c->width, c->height);
    size_t src_bytes = span(c->src_pitch, c->width, c->height);

    if (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) {
        check_device_side(call, "destination", c->dst, dst_bytes);
    } else {
        check_host_side(call, "destination", c->dst, dst_bytes);
    }
    if (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice) {
        check_device_side(call, "source", c->src, src_bytes);
    } else {
        check_host_side(call, "source", c->src, src_bytes);
    }
    if (c->dst < c->src + src_bytes && c->src < c->dst + dst_bytes) {
        emul_die("%s: source and destination overlap", call);
    }
}

/* Pageable memory is read before the call returns. */
static void stage(copy *c)
{
    copy to_staged = *c;

    c->staged = malloc(c->width * c->height);
    if (c->staged == NULL) {
        emul_die("no memory to stage %zu bytes", c->width * c->height);
    }
    to_staged.dst = c->staged;
    to_staged.dst_pitch = c->width;
    run_copy(&to_staged);
    c->src = c->staged;
    c->src_pitch = c->width;
}

static cudaError_t queue_copy(const char *call, const copy *wanted, cudaMemcpyKind asked_kind,
                              cudaStream_t stream)
{
    cudaMemcpyKind kind = actual_kind(wanted->dst, wanted->src, asked_kind);
    const char *host = NULL;
    size_t host_bytes = 0;
    copy *c;

    if (wanted->width == 0 || wanted->height == 0) {
        return cudaSuccess;
    }
    check_copy(call, wanted, kind);
    if (kind == cudaMemcpyHostToHost) {
        emul_finish_stream(stream);
        run_copy((void *)(uintptr_t)wanted);
        return emul_broken();
    }
    c = create_copy(wanted);
    if (kind == cudaMemcpyHostToDevice && emul_is_pinned_range(c->src, 1)) {
        host = c->src;
        host_bytes = span(c->src_pitch, c->width, c->height);
    } else if (kind == cudaMemcpyHostToDevice) {
        stage(c);
    } else if (kind == cudaMemcpyDeviceToHost) {
        host = c->dst;
        host_bytes = span(c->dst_pitch, c->width, c->height);
    }
    emul_push_copy(stream, call, run_copy, c, drop_copy, host, host_bytes);
    if (kind == cudaMemcpyDeviceToHost && !emul_is_pinned_range(host, 1)) {
        emul_finish_stream(stream);
    }
    return emul_broken();
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n_bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    cudaError_t error = emul_enter("cudaMemcpyAsync", cudaErrorUnknown);
    copy c = {.dst = dst, .src = src, .width = n_bytes, .height = 1};

    if (error == cudaSuccess) {
        error = queue_copy("cudaMemcpyAsync", &c, kind, stream);
    }
    return emul_leave(error);
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    cudaError_t error = emul_enter("cudaMemcpy2DAsync", cudaErrorUnknown);
    copy c = {.dst = dst,
              .src = src,
              .dst_pitch = dst_pitch,
              .src_pitch = src_pitch,
              .width = width,
              .height = height};

    if (error == cudaSuccess && (width > dst_pitch || width > src_pitch)) {
        error = cudaErrorInvalidPitchValue;
    }
    if (error == cudaSuccess) {
        error = queue_copy("cudaMemcpy2DAsync", &c, kind, stream);
    }
    return emul_leave(error);
}

/* On the default stream, and complete when it returns. */
cudaError_t cudaMemcpy(void *dst, const void *src, size_t n_bytes, cudaMemcpyKind kind)
{
    cudaError_t error = emul_enter("cudaMemcpy", cudaErrorUnknown);
    copy c = {.dst = dst, .src = src, .width = n_bytes, .height = 1};

    if (error == cudaSuccess) {
        error = queue_copy("cudaMemcpy", &c, kind, NULL);
    }
    if (error == cudaSuccess) {
        emul_finish_stream(NULL);
        error = emul_broken();
    }
    return emul_leave(error);
}

static cudaError_t queue_fill(const char *call, void *dst, int value, size_t n_bytes,
                              cudaStream_t stream)
{
    copy c = {.dst = dst, .width = n_bytes, .value = value};

    if (n_bytes > 0) {
        check_device_side(call, "destination", dst, n_bytes);
        emul_push(stream, call, run_fill, create_copy(&c), drop_copy);
    }
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t n_bytes, cudaStream_t stream)
{
    cudaError_t error = emul_enter("cudaMemsetAsync", cudaErrorUnknown);

    if (error == cudaSuccess) {
        error = queue_fill("cudaMemsetAsync", dst, value, n_bytes, stream);
    }
    return emul_leave(error);
}

/* Asynchronous in spite of its name, on the default stream. */
cudaError_t cudaMemset(void *dst, int value, size_t n_bytes)
{
    cudaError_t error = emul_enter("cudaMemset", cudaErrorUnknown);

    if (error == cudaSuccess) {
        error = queue_fill("cudaMemset", dst, value, n_bytes, NULL);
    }
    return emul_leave(error);
}
