/* Private to cudart_streams.c, cudart_events.c and cudart_order.c: streams as queues. All of it is
 * under the lock. */
#ifndef REFRACT_CUDART_STREAMS_H
#define REFRACT_CUDART_STREAMS_H

#include "cudart_emul.h"

#include <time.h>

typedef enum op_kind { OP_RUN, OP_STEP, OP_WAIT, OP_RECORD } op_kind;

typedef struct emul_op {
    struct emul_op *next;
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
} emul_op;

struct CUstream_st {
    struct CUstream_st *older, *newer;
    emul_op *first, *last;
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

/* ---- cudart_streams.c ------------------------------------------------------------------------ */
/* Streams are never given back: a stale handle is recognised, and events may refer to them. */
extern struct CUstream_st *emul_newest_stream, *emul_oldest_stream;

/* Zeroed; stops without memory. */
void *emul_allocate(size_t n_bytes);
/* The stream of a handle: NULL is the device's default stream. Stops for a stale handle. */
struct CUstream_st *emul_stream_of(cudaStream_t handle);
emul_op *emul_create_op(op_kind kind, const char *name, void *arg, void (*drop)(void *));
void emul_push_op(cudaStream_t stream, emul_op *o);
void emul_discard_op(emul_op *o);
/* `s` goes on when `other` has done `position`. */
void emul_append_wait(struct CUstream_st *s, struct CUstream_st *other, uint64_t position);

/* ---- cudart_events.c ------------------------------------------------------------------------- */
/* If it was destroyed and no queue needs it. */
void emul_free_event(struct CUevent_st *e);

/* ---- cudart_order.c -------------------------------------------------------------------------- */
typedef enum stream_order { NEWEST, OLDEST, RANDOM, AHEAD, EAGER } stream_order;

stream_order emul_get_order(void);
/* Until `s` has done `position`. Gives the lock away while it sleeps. */
void emul_run_until(struct CUstream_st *s, uint64_t position);
/* Lets a little run; whether all up to `position` was done before. */
cudaError_t emul_query(struct CUstream_st *s, uint64_t position);

#endif
