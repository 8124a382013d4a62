/* Blocks on their way from pinned memory to the device. Copies run on a stream of their own, into
 * buffers that take turns: block n + 1 is copied while work on block n runs. Events order both; the
 * host waits for nothing but copies whose memory it is about to write again. Local. */
#ifndef REFRACT_UPLOAD_H
#define REFRACT_UPLOAD_H

#include "refract/tensor.h"

typedef struct rf_upload {
    rf_stream *stream; /* of the work; borrowed, as the next */
    rf_stream *copies; /* may serve several uploads */
    int n, at;         /* buffers, and the one that was filled last */
    void *host[2];     /* pinned; NULL where the blocks are in pinned memory already */
    void *device[2];   /* NULL where they go to memory of the caller's */
    rf_event *used[2]; /* `stream` is through with the buffer */
    rf_event *copied;
} rf_upload;

/* Buffers 2 deep: one where a second would be memory for nothing, because there is no device memory
 * to speak of (rf_backend_memory: the CPU copies at once). */
int rf_upload_depth(const rf_backend *be);

/* `host_bytes`, `device_bytes`: of a block, 0 for none. */
rf_status rf_upload_init(rf_upload *up, rf_stream *stream, rf_stream *copies, int64_t host_bytes,
                         int64_t device_bytes);
/* Waits for the copies. Zeroed is fine. */
void rf_upload_fini(rf_upload *up);

/* Until the host's side of all blocks may be written again. */
rf_status rf_upload_wait(rf_upload *up);
/* *out: pinned memory for the next block. */
rf_status rf_upload_stage(rf_upload *up, void **out);

/* Between these the caller queues copies on `copies`, to *device or where else it likes (then they
 * come behind all that `stream` holds). Work queued on `stream` after _end sees them; *device is
 * the caller's until the next _begin. */
rf_status rf_upload_begin(rf_upload *up, void **device);
rf_status rf_upload_end(rf_upload *up);
/* Both, with one copy. `pinned` must not be written before rf_upload_wait or _stage. */
rf_status rf_upload_send(rf_upload *up, const void *pinned, size_t n_bytes, void **device);

/* For clean-ups, before memory goes that copies on `s` (NULL: none) may use: until they are done.
 * Keeps the text of the error that led there; one of its own is not told. */
void rf_upload_settle(rf_stream *s);

#endif
