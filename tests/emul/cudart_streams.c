/* Stand-in for the CUDA runtime: streams and events. A stream is a queue that runs as late as the
 * rules allow: only when the host waits, and then only what it waits for. Where several streams
 * may run, the newest does. A missing event thus becomes a wrong answer. */
#include "cudart_emul.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OPS_PER_QUERY = 32 }; /* a query lets this much run, so that polling comes to an end */

typedef enum op_kind { OP_RUN, OP_STEP, OP_WAIT, OP_RECORD } op_kind;

typedef struct op {
    struct op *next;
    op_kind kind;
    const char *name;
    void (*run)(void *);
    bool (*step)(void *);
    void (*drop)(void *);
    void *arg;
    const char *host; /* what a copy touches of the host's memory */
    size_t host_bytes;
    struct CUstream_st *other; /* OP_WAIT: until `other` has done `position` */
    uint64_t position;
    struct CUevent_st *event; /* OP_RECORD */
    uint64_t record;
} op;

struct CUstream_st {
    struct CUstream_st *older, *newer;
    op *first, *last;
    uint64_t n_pushed, n_done;
    int device;
    bool blocking;  /* ordered with the default stream */
    bool destroyed; /* the handle is no longer valid; what was queued goes on */
};

struct CUevent_st {
    struct CUstream_st *stream; /* NULL: not recorded yet */
    uint64_t position;          /* complete when the stream has done so many */
    uint64_t record, stamped;   /* how often recorded; which of them `time` belongs to */
    struct timespec time;
    bool timing, destroyed;
    int device;
    int n_users; /* queued records */
};

/* Streams are never given back: a stale handle is recognised, and events may refer to them. */
static struct CUstream_st *newest, *oldest;
static struct CUstream_st *default_stream[16];
static op *running; /* its own discarding waits until it returns */
static uint64_t random_state = 88172645463325252u;

/* ---- order ------------------------------------------------------------------------------------
 */

typedef enum stream_order { NEWEST, OLDEST, RANDOM, AHEAD, EAGER } stream_order;

static stream_order get_order(void)
{
    static const char *const names[] = {"newest", "oldest", "random", "ahead", "eager"};
    const char *text = getenv("REFRACT_EMUL_STREAMS");

    if (text == NULL || text[0] == '\0') {
        return NEWEST;
    }
    for (int i = 0; i < 5; i++) {
        if (strcmp(text, names[i]) == 0) {
            return (stream_order)i;
        }
    }
    emul_die("REFRACT_EMUL_STREAMS=%s: expected newest, oldest, random, ahead or eager", text);
}

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* ---- queues -----------------------------------------------------------------------------------
 */

static void *allocate(size_t n_bytes)
{
    void *p = calloc(1, n_bytes);

    if (p == NULL) {
        emul_die("no memory for a queue");
    }
    return p;
}

static struct CUstream_st *create_stream(int device, bool blocking)
{
    struct CUstream_st *s = allocate(sizeof *s);

    s->device = device;
    s->blocking = blocking;
    s->older = newest;
    if (newest != NULL) {
        newest->newer = s;
    } else {
        oldest = s;
    }
    newest = s;
    return s;
}

/* The stream of a handle: NULL is the device's default stream. Stops for a stale handle. */
static struct CUstream_st *stream_of(cudaStream_t handle)
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
    const struct CUstream_st *s = newest;

    while (s != NULL && s != stream) {
        s = s->older;
    }
    return s != NULL && !s->destroyed;
}

int emul_stream_device(cudaStream_t stream)
{
    return stream == NULL ? emul_current_device() : stream->device;
}

static void free_event(struct CUevent_st *e)
{
    if (e->destroyed && e->n_users == 0) {
        free(e);
    }
}

static void discard(op *o)
{
    if (o->drop != NULL) {
        o->drop(o->arg);
    }
    if (o->event != NULL) {
        o->event->n_users--;
        free_event(o->event);
    }
    free(o);
}

static void append(struct CUstream_st *s, op *o)
{
    if (s->last != NULL) {
        s->last->next = o;
    } else {
        s->first = o;
    }
    s->last = o;
    s->n_pushed++;
}

static void append_wait(struct CUstream_st *s, struct CUstream_st *other, uint64_t position)
{
    op *o;

    if (other == s || other->n_done >= position) {
        return;
    }
    o = allocate(sizeof *o);
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
        append_wait(s, legacy, legacy->n_pushed);
        return;
    }
    for (struct CUstream_st *other = newest; other != NULL; other = other->older) {
        if (other->blocking && other->device == s->device) {
            append_wait(s, other, other->n_pushed);
        }
    }
}

static void push(cudaStream_t stream, op *o)
{
    struct CUstream_st *s = stream_of(stream);

    if (emul_broken() != cudaSuccess) {
        discard(o);
        return;
    }
    order_with_default(s);
    append(s, o);
    if (get_order() == EAGER) {
        emul_finish_all();
    }
}

static op *create_op(op_kind kind, const char *name, void *arg, void (*drop)(void *))
{
    op *o = allocate(sizeof *o);

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
    op *o = create_op(OP_RUN, name, arg, drop);

    o->run = run;
    o->host = host;
    o->host_bytes = host_bytes;
    emul_lock();
    push(stream, o);
    emul_unlock();
}

void emul_push_until(cudaStream_t stream, const char *name, bool (*step)(void *), void *arg,
                     void (*drop)(void *))
{
    op *o = create_op(OP_STEP, name, arg, drop);

    o->step = step;
    emul_lock();
    push(stream, o);
    emul_unlock();
}

/* ---- running ----------------------------------------------------------------------------------
 */

/* Carries out the first of `s`, for which nothing has to be waited. False: not ready yet. */
static bool run_first(struct CUstream_st *s)
{
    op *o = s->first;
    bool ready = true;

    running = o;
    if (o->kind == OP_RUN || o->kind == OP_STEP) {
        emul_heap_begin();
        if (o->kind == OP_RUN) {
            o->run(o->arg);
        } else {
            ready = o->step(o->arg);
        }
        emul_heap_check(o->name);
        emul_heap_end();
    } else if (o->kind == OP_RECORD) {
        clock_gettime(CLOCK_MONOTONIC, &o->event->time);
        o->event->stamped = o->record;
    }
    running = NULL;
    if (s->first != o) { /* the device broke: the queues are empty */
        discard(o);
        return true;
    }
    if (ready) {
        s->first = o->next;
        s->last = s->first == NULL ? NULL : s->last;
        s->n_done++;
        discard(o);
    }
    return ready;
}

/* The stream whose first work has to be done next so that `s` can go on. */
static struct CUstream_st *first_needed(struct CUstream_st *s)
{
    while (s->first->kind == OP_WAIT && s->first->other->n_done < s->first->position) {
        s = s->first->other;
    }
    return s;
}

/* Some other stream that can go on, while `waiting` cannot; false: none can. */
static bool run_another(const struct CUstream_st *waiting)
{
    for (struct CUstream_st *s = newest; s != NULL; s = s->older) {
        struct CUstream_st *needed = s->first == NULL ? NULL : first_needed(s);

        if (needed != NULL && needed != waiting && run_first(needed)) {
            return true;
        }
    }
    return false;
}

/* What comes first in order AHEAD: all that can go on without `s`. */
static void run_others(const struct CUstream_st *s)
{
    while (emul_broken() == cudaSuccess && run_another(s)) {
    }
}

static bool is_done(const struct CUstream_st *s, uint64_t position)
{
    return s->n_done >= position || emul_broken() != cudaSuccess;
}

/* Until `s` has done `position`. Gives the lock away while it sleeps. */
static void run_until(struct CUstream_st *s, uint64_t position)
{
    const struct timespec pause = {.tv_nsec = 50000};

    emul_heap_begin();
    if (get_order() == AHEAD) {
        run_others(s);
    }
    while (!is_done(s, position)) {
        struct CUstream_st *needed = first_needed(s);

        if (!run_first(needed)) {
            run_another(needed);
            emul_heap_end();
            emul_unlock();
            nanosleep(&pause, NULL);
            emul_lock();
            emul_heap_begin();
        }
    }
    emul_heap_end();
}

static struct CUstream_st *next_stream(stream_order order)
{
    struct CUstream_st *s = order == OLDEST ? oldest : newest;
    uint64_t n_busy = 0, skip;

    if (order == RANDOM) {
        for (const struct CUstream_st *t = newest; t != NULL; t = t->older) {
            n_busy += t->first != NULL ? 1 : 0;
        }
        skip = n_busy > 0 ? next_random() % n_busy : 0;
        while (s != NULL && (s->first == NULL || skip-- > 0)) {
            s = s->older;
        }
        return s;
    }
    while (s != NULL && s->first == NULL) {
        s = order == OLDEST ? s->newer : s->older;
    }
    return s;
}

void emul_finish_all(void)
{
    stream_order order = get_order();
    struct CUstream_st *s;

    emul_heap_begin();
    while ((s = next_stream(order)) != NULL && emul_broken() == cudaSuccess) {
        run_until(s, order == RANDOM ? s->n_done + 1 : s->n_pushed);
    }
    emul_heap_end();
}

void emul_finish_stream(cudaStream_t stream)
{
    struct CUstream_st *s = stream_of(stream);

    order_with_default(s);
    run_until(s, s->n_pushed);
}

void emul_drop_all(void)
{
    for (struct CUstream_st *s = newest; s != NULL; s = s->older) {
        while (s->first != NULL) {
            op *o = s->first;

            s->first = o->next;
            if (o != running) {
                discard(o);
            }
        }
        s->last = NULL;
        s->n_done = s->n_pushed;
    }
}

bool emul_stream_is_idle(cudaStream_t stream)
{
    return stream_of(stream)->first == NULL;
}

bool emul_is_host_range_queued(const void *p, size_t n_bytes)
{
    for (const struct CUstream_st *s = newest; s != NULL; s = s->older) {
        for (const op *o = s->first; o != NULL; o = o->next) {
            if (o->host != NULL && o->host < (const char *)p + n_bytes &&
                (const char *)p < o->host + o->host_bytes) {
                return true;
            }
        }
    }
    return false;
}

/* Lets a little run; whether all up to `position` was done before. */
static cudaError_t query(struct CUstream_st *s, uint64_t position)
{
    struct CUstream_st *needed = NULL;
    bool ready = true;

    if (s->n_done >= position) {
        return cudaSuccess;
    }
    emul_heap_begin();
    for (int i = 0; i < OPS_PER_QUERY && ready && !is_done(s, position); i++) {
        needed = first_needed(s);
        ready = run_first(needed);
    }
    if (!ready) {
        run_another(needed);
    }
    emul_heap_end();
    return emul_broken() != cudaSuccess ? emul_broken() : cudaErrorNotReady;
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
    stream_of(stream)->destroyed = true;
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
        struct CUstream_st *s = stream_of(stream);

        error = query(s, s->n_pushed);
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
        append_wait(stream_of(stream), event->stream, event->position);
    }
    return emul_leave(error);
}

/* ---- the interface: events ----------------------------------------------------------------------
 */

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    cudaError_t error = emul_enter("cudaEventCreate", cudaErrorMemoryAllocation);

    if (error == cudaSuccess) {
        *event = allocate(sizeof **event);
        (*event)->device = emul_current_device();
        (*event)->timing = (flags & cudaEventDisableTiming) == 0;
    }
    return emul_leave(error);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    cudaError_t error = emul_enter("cudaEventDestroy", cudaErrorUnknown);

    if (event == NULL) {
        return emul_leave(cudaErrorInvalidResourceHandle);
    }
    event->destroyed = true;
    free_event(event);
    return emul_leave(error);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    cudaError_t error = emul_enter("cudaEventRecord", cudaErrorUnknown);

    if (error == cudaSuccess) {
        struct CUstream_st *s = stream_of(stream);
        op *o = create_op(OP_RECORD, "record of an event", NULL, NULL);

        if (s->device != event->device) {
            emul_die("an event of device %d is recorded on a stream of device %d", event->device,
                     s->device);
        }
        o->event = event;
        o->record = ++event->record;
        event->n_users++;
        push(stream, o);
        event->stream = s;
        event->position = s->n_pushed;
    }
    return emul_leave(error);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    cudaError_t error = emul_enter("cudaEventQuery", cudaErrorUnknown);

    if (error == cudaSuccess && event->stream != NULL) {
        error = query(event->stream, event->position);
    }
    return emul_leave(error);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    cudaError_t error = emul_enter("cudaEventSynchronize", cudaErrorUnknown);

    if (error == cudaSuccess && event->stream != NULL) {
        run_until(event->stream, event->position);
        error = emul_broken();
    }
    return emul_leave(error);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    cudaError_t error = emul_enter("cudaEventElapsedTime", cudaErrorUnknown);

    if (error == cudaSuccess &&
        (!start->timing || !end->timing || start->record == 0 || end->record == 0)) {
        error = cudaErrorInvalidResourceHandle;
    }
    if (error == cudaSuccess && (start->stamped != start->record || end->stamped != end->record)) {
        error = cudaErrorNotReady;
    }
    if (error == cudaSuccess) {
        *ms = (float)((double)(end->time.tv_sec - start->time.tv_sec) * 1e3 +
                      (double)(end->time.tv_nsec - start->time.tv_nsec) * 1e-6);
    }
    return emul_leave(error);
}
