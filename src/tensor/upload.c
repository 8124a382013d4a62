/* Pinned, double-buffered copies to the device. */
#include "refract/tensor.h"

#include <stdio.h>

int rf_upload_depth(const rf_backend *be)
{
    int64_t free_bytes = 0, all_bytes = 0;
    rf_backend_memory(be, &free_bytes, &all_bytes);
    return all_bytes > 0 ? 2 : 1;
}

rf_status rf_upload_init(rf_upload *up, rf_stream *stream, rf_stream *copies, int64_t host_bytes,
                         int64_t device_bytes)
{
    rf_status status = RF_OK;
    rf_backend *be = rf_stream_backend(stream);

    /* A caller's own memory is no pair: its copies wait for all of `stream`. */
    *up = (rf_upload){
        .stream = stream, .copies = copies, .n = device_bytes > 0 ? rf_upload_depth(be) : 1};
    for (int i = 0; i < up->n; i++) {
        RF_TRY(rf_event_create(be, &up->used[i]));
        if (host_bytes > 0) {
            RF_TRY(rf_memory_alloc(be, RF_MEMORY_PINNED, (size_t)host_bytes, &up->host[i]));
        }
        if (device_bytes > 0) {
            RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)device_bytes, &up->device[i]));
        }
    }
    RF_TRY(rf_event_create(be, &up->copied));
fail:
    return status;
}

void rf_upload_settle(rf_stream *s)
{
    char text[RF_ERROR_TEXT_LEN];
    if (s == NULL) {
        return;
    }
    snprintf(text, sizeof text, "%s", rf_error_text());
    const rf_status status = rf_stream_synchronise(s);
    if (status != RF_OK) {
        (void)rf_error_restore(status, text);
    }
}

void rf_upload_fini(rf_upload *up)
{
    if (up->stream == NULL) {
        return;
    }
    rf_backend *be = rf_stream_backend(up->stream);
    rf_upload_settle(up->copies);
    for (int i = 0; i < 2; i++) {
        rf_memory_free(be, RF_MEMORY_PINNED, up->host[i]);
        rf_memory_free(be, RF_MEMORY_DEVICE, up->device[i]);
        rf_event_destroy(up->used[i]);
    }
    rf_event_destroy(up->copied);
    *up = (rf_upload){0};
}

rf_status rf_upload_wait(rf_upload *up)
{
    return rf_stream_synchronise(up->copies);
}

rf_status rf_upload_stage(rf_upload *up, void **out)
{
    *out = up->host[(up->at + 1) % up->n];
    return rf_upload_wait(up);
}

rf_status rf_upload_begin(rf_upload *up, void **device)
{
    rf_status status = RF_OK;

    RF_TRY(rf_event_record(up->used[up->at], up->stream));
    up->at = (up->at + 1) % up->n;
    RF_TRY(rf_event_wait(up->used[up->at], up->copies));
    *device = up->device[up->at];
fail:
    return status;
}

rf_status rf_upload_end(rf_upload *up)
{
    rf_status status = RF_OK;

    RF_TRY(rf_event_record(up->copied, up->copies));
    RF_TRY(rf_event_wait(up->copied, up->stream));
fail:
    return status;
}

rf_status rf_upload_send(rf_upload *up, const void *pinned, size_t n_bytes, void **device)
{
    rf_status status = RF_OK;

    RF_TRY(rf_upload_begin(up, device));
    RF_TRY(rf_copy_in(up->copies, *device, pinned, n_bytes));
    RF_TRY(rf_upload_end(up));
fail:
    return status;
}
