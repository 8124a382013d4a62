/* Stand-in for the CUDA runtime: streams, each a queue of work. */
#include "cudart_streams.h"

#include <stdlib.h>

struct CUstream_st *emul_newest_stream, *emul_oldest_stream;
static struct CUstream_st *default_stream[16];

/* ---- queues -----------------------------------------------------------------------------------
 */

void *emul_allocate(size_t n_bytes)
{
    void *p = calloc(1, n_bytes);

    if (p == NULL) {
        emul_die("no memory for a queue");
    }
    return p;
}

static struct CUstream_st *create_stream(int device, bool blocking)
{
    struct CUstream_st *s = emul_allocate(sizeof *s);

    s->device = device;
    s->blocking = blocking;
    s->older = emul_newest_stream;
    if (emul_newest_stream != NULL) {
        emul_newest_stream->newer = s;
    } else {
        emul_oldest_stream = s;
    }
    emul_newest_stream = s;
    return s;
}

struct CUstream_st *emul_stream_of(cudaStream_t handle)
{
    int device = emul_current_device();

    if (handle == NULL) {
        if (default_stream[device] == NULL) {
            default_stream[device] = create_stream(device, true);
        }
        return default_stream[device];
    }
    if (!emul_is_stream(handle)) {
        emul_die("%p is no stream, or one that was destroyed", (void *)handle);
    }
    return handle;
}

bool emul_is_stream(cudaStream_t stream)
{
    const struct CUstream_st *s = emul_newest_stream;

    while (s != NULL && s != stream) {
        s = s->older;
    }
    return s != NULL && !s->destroyed;
}

int emul_stream_device(cudaStream_t stream)
{
    return stream == NULL ? emul_current_device() : stream->device;
}

void emul_discard_op(emul_op *o)
{
    if (o->drop != NULL) {
        o->drop(o->arg);
    }
    if (o->event != NULL) {
        o->event->n_users--;
        emul_free_event(o->event);
    }
    free(o);
}

static void append(struct CUstream_st *s, emul_op *o)
{
    if (s->last != NULL) {
        s->last->next = o;
    } else {
        s->first = o;
    }
    s->last = o;
    s->n_pushed++;
}

void emul_append_wait(struct CUstream_st *s, struct CUstream_st *other, uint64_t position)
{
    emul_op *o;

    if (other == s || other->n_done >= position) {
        return;
    }
    o = emul_allocate(sizeof *o);
    o->kind = OP_WAIT;
    o->name = "wait for an event";
    o->other = other;
    o->position = position;
    append(s, o);
}

/* The default stream waits for all blocking streams of its device, and they for it. */
static void order_with_default(struct CUstream_st *s)
{
    struct CUstream_st *legacy = default_stream[s->device];

    if (!s->blocking || legacy == NULL) {
        return;
    }
    if (s != legacy) {
        emul_append_wait(s, legacy, legacy->n_pushed);
        return;
    }
    for (struct CUstream_st *other = emul_newest_stream; other != NULL; other = other->older) {
        if (other->blocking && other->device == s->device) {
            emul_append_wait(s, other, other->n_pushed);
        }
    }
}

void emul_push_op(cudaStream_t stream, emul_op *o)
{
    struct CUstream_st *s = emul_stream_of(stream);

    if (emul_broken() != cudaSuccess) {
        emul_discard_op(o);
        return;
    }
    order_with_default(s);
    append(s, o);
    if (emul_get_order() == EAGER) {
        emul_finish_all();
    }
}

emul_op *emul_create_op(op_kind kind, const char *name, void *arg, void (*drop)(void *))
{
    emul_op *o = emul_allocate(sizeof *o);

    o->kind = kind;
    o->name = name;
    o->arg = arg;
    o->drop = drop;
    return o;
}

void emul_push(cudaStream_t stream, const char *name, void (*run)(void *), void *arg,
               void (*drop)(void *))
{
    emul_push_copy(stream, name, run, arg, drop, NULL, 0);
}

void emul_push_copy(cudaStream_t stream, const char *name, void (*run)(void *), void *arg,
                    void (*drop)(void *), const void *host, size_t host_bytes)
{
    emul_op *o = emul_create_op(OP_RUN, name, arg, drop);

    o->run = run;
    o->host = host;
    o->host_bytes = host_bytes;
    emul_lock();
    emul_push_op(stream, o);
    emul_unlock();
}

void emul_push_until(cudaStream_t stream, const char *name, bool (*step)(void *), void *arg,
                     void (*drop)(void *))
{
    emul_op *o = emul_create_op(OP_STEP, name, arg, drop);

    o->step = step;
    emul_lock();
    emul_push_op(stream, o);
    emul_unlock();
}

bool emul_stream_is_idle(cudaStream_t stream)
{
    return emul_stream_of(stream)->first == NULL;
}

bool emul_is_host_range_queued(const void *p, size_t n_bytes)
{
    for (const struct CUstream_st *s = emul_newest_stream; s != NULL; s = s->older) {
        for (const emul_op *o = s->first; o != NULL; o = o->next) {
            if (o->host != NULL && o->host < (const char *)p + n_bytes &&
                (const char *)p < o->host + o->host_bytes) {
                return true;
            }
        }
    }
    return false;
}

void emul_finish_stream(cudaStream_t stream)
{
    struct CUstream_st *s = emul_stream_of(stream);

    order_with_default(s);
    emul_run_until(s, s->n_pushed);
}

/* ---- the interface: streams ---------------------------------------------------------------------
 */

cudaError_t cudaDeviceSynchronize(void)
{
    cudaError_t error = emul_enter("cudaDeviceSynchronize", cudaErrorUnknown);

    if (error == cudaSuccess) {
        emul_finish_all();
        error = emul_broken();
    }
    return emul_leave(error);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    cudaError_t error = emul_enter("cudaStreamCreate", cudaErrorMemoryAllocation);

    if (error == cudaSuccess) {
        *stream = create_stream(emul_current_device(), (flags & cudaStreamNonBlocking) == 0);
    }
    return emul_leave(error);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    cudaError_t error = emul_enter("cudaStreamDestroy", cudaErrorUnknown);

    if (stream == NULL) {
        return emul_leave(cudaErrorInvalidResourceHandle);
    }
    emul_stream_of(stream)->destroyed = true;
    return emul_leave(error);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    cudaError_t error = emul_enter("cudaStreamSynchronize", cudaErrorUnknown);

    if (error == cudaSuccess) {
        emul_finish_stream(stream);
        error = emul_broken();
    }
    return emul_leave(error);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    cudaError_t error = emul_enter("cudaStreamQuery", cudaErrorUnknown);

    if (error == cudaSuccess) {
        struct CUstream_st *s = emul_stream_of(stream);

        error = emul_query(s, s->n_pushed);
    }
    return emul_leave(error);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    cudaError_t error = emul_enter("cudaStreamWaitEvent", cudaErrorUnknown);

    (void)flags;
    if (error == cudaSuccess && event->destroyed) {
        emul_die("a stream waits for an event that was destroyed");
    }
    if (error == cudaSuccess && event->stream != NULL) {
        emul_append_wait(emul_stream_of(stream), event->stream, event->position);
    }
    return emul_leave(error);
}
