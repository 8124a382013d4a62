/* The order in which queued work runs: as late as the rules allow, only when the host waits, and
 * then only what it waits for. Where several streams may run, the newest does. A missing event thus
 * becomes a wrong answer. */
#include "cudart_streams.h"

#include <stdlib.h>
#include <string.h>

enum { OPS_PER_QUERY = 32 }; /* a query lets this much run, so that polling comes to an end */

static emul_op *running; /* its own discarding waits until it returns */
static uint64_t random_state = 88172645463325252u;

stream_order emul_get_order(void)
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

/* Carries out the first of `s`, for which nothing has to be waited. False: not ready yet. */
static bool run_first(struct CUstream_st *s)
{
    emul_op *o = s->first;
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
        emul_discard_op(o);
        return true;
    }
    if (ready) {
        s->first = o->next;
        s->last = s->first == NULL ? NULL : s->last;
        s->n_done++;
        emul_discard_op(o);
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
    for (struct CUstream_st *s = emul_newest_stream; s != NULL; s = s->older) {
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

void emul_run_until(struct CUstream_st *s, uint64_t position)
{
    const struct timespec pause = {.tv_nsec = 50000};

    emul_heap_begin();
    if (emul_get_order() == AHEAD) {
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
    struct CUstream_st *s = order == OLDEST ? emul_oldest_stream : emul_newest_stream;
    uint64_t n_busy = 0, skip;

    if (order == RANDOM) {
        for (const struct CUstream_st *t = emul_newest_stream; t != NULL; t = t->older) {
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
    stream_order order = emul_get_order();
    struct CUstream_st *s;

    emul_heap_begin();
    while ((s = next_stream(order)) != NULL && emul_broken() == cudaSuccess) {
        emul_run_until(s, order == RANDOM ? s->n_done + 1 : s->n_pushed);
    }
    emul_heap_end();
}

bool emul_go_on(void)
{
    struct CUstream_st *s;
    bool ran = false;

    emul_lock();
    emul_heap_begin();
    s = next_stream(emul_get_order());
    if (s != NULL && emul_broken() == cudaSuccess) {
        struct CUstream_st *needed = first_needed(s);
        ran = run_first(needed) || run_another(needed);
    }
    emul_heap_end();
    emul_unlock();
    return ran;
}

void emul_drop_all(void)
{
    for (struct CUstream_st *s = emul_newest_stream; s != NULL; s = s->older) {
        while (s->first != NULL) {
            emul_op *o = s->first;

            s->first = o->next;
            if (o != running) {
                emul_discard_op(o);
            }
        }
        s->last = NULL;
        s->n_done = s->n_pushed;
    }
}

cudaError_t emul_query(struct CUstream_st *s, uint64_t position)
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
