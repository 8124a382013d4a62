/* Stand-in for the CUDA runtime: events. */
#include "cudart_streams.h"

#include <stdlib.h>

void emul_free_event(struct CUevent_st *e)
{
    if (e->destroyed && e->n_users == 0) {
        free(e);
    }
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    cudaError_t error = emul_enter("cudaEventCreate", cudaErrorMemoryAllocation);

    if (error == cudaSuccess) {
        *event = emul_allocate(sizeof **event);
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
    emul_free_event(event);
    return emul_leave(error);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    cudaError_t error = emul_enter("cudaEventRecord", cudaErrorUnknown);

    if (error == cudaSuccess) {
        struct CUstream_st *s = emul_stream_of(stream);
        emul_op *o = emul_create_op(OP_RECORD, "record of an event", NULL, NULL);

        if (s->device != event->device) {
            emul_die("an event of device %d is recorded on a stream of device %d", event->device,
                     s->device);
        }
        o->event = event;
        o->record = ++event->record;
        event->n_users++;
        emul_push_op(stream, o);
        event->stream = s;
        event->position = s->n_pushed;
    }
    return emul_leave(error);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    cudaError_t error = emul_enter("cudaEventQuery", cudaErrorUnknown);

    if (error == cudaSuccess && event->stream != NULL) {
        error = emul_query(event->stream, event->position);
    }
    return emul_leave(error);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    cudaError_t error = emul_enter("cudaEventSynchronize", cudaErrorUnknown);

    if (error == cudaSuccess && event->stream != NULL) {
        emul_run_until(event->stream, event->position);
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
