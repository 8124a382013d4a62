/* The shadow backend itself: memory and order are the reference's, operations those of the table.
 */
#include "shadow_impl.h"

/* Streams and events of the reference say that they are the shadow's while the caller has them. */
static shadow_backend *shadow_of(rf_backend *be)
{
    return (shadow_backend *)be;
}

static void shadow_destroy(rf_backend *be)
{
    shadow_backend *sh = shadow_of(be);
    rf_backend_destroy(sh->device);
    rf_backend_destroy(sh->reference);
    pthread_mutex_destroy(&sh->lock);
    rf_free(sh);
}

static rf_status shadow_alloc(rf_backend *be, rf_memory kind, size_t n_bytes, void **out)
{
    return rf_memory_alloc(shadow_of(be)->reference, kind, n_bytes, out);
}

static void shadow_free(rf_backend *be, rf_memory kind, void *p)
{
    rf_memory_free(shadow_of(be)->reference, kind, p);
}

static void shadow_memory(const rf_backend *be, int64_t *free_bytes, int64_t *all_bytes)
{
    rf_backend_memory(((const shadow_backend *)be)->reference, free_bytes, all_bytes);
}

static rf_status shadow_stream_create(rf_backend *be, rf_stream **out)
{
    rf_status status = RF_OK;
    shadow_backend *sh = shadow_of(be);
    shadow_stream *stream = NULL;

    RF_ALLOC(stream, 1);
    RF_TRY(rf_stream_create(sh->reference, &stream->reference));
    RF_TRY_DOING(rf_stream_create(sh->device, &stream->device), "the shadow's device");
    stream->reference->backend = be;
    pthread_mutex_lock(&sh->lock);
    stream->next = sh->streams;
    sh->streams = stream;
    pthread_mutex_unlock(&sh->lock);
    *out = stream->reference;
    return RF_OK;
fail:
    if (stream != NULL) {
        rf_stream_destroy(stream->reference);
    }
    rf_free(stream);
    return status;
}

static void shadow_stream_destroy(rf_stream *s)
{
    shadow_backend *sh = shadow_of(s->backend);
    pthread_mutex_lock(&sh->lock);
    shadow_stream **at = &sh->streams;
    while ((*at)->reference != s) {
        at = &(*at)->next;
    }
    shadow_stream *stream = *at;
    *at = stream->next;
    pthread_mutex_unlock(&sh->lock);
    s->backend = sh->reference;
    rf_stream_destroy(s);
    rf_memory_free(sh->device, RF_MEMORY_DEVICE, stream->block);
    rf_stream_destroy(stream->device);
    rf_free(stream->sent);
    rf_free(stream->got);
    rf_free(stream);
}

static rf_status shadow_stream_synchronise(rf_stream *s)
{
    return shadow_of(s->backend)->reference->ops->stream_synchronise(s);
}

static rf_status shadow_event_create(rf_backend *be, rf_event **out)
{
    rf_status status = rf_event_create(shadow_of(be)->reference, out);
    if (status == RF_OK) {
        (*out)->backend = be;
    }
    return status;
}

static void shadow_event_destroy(rf_event *e)
{
    e->backend = shadow_of(e->backend)->reference;
    rf_event_destroy(e);
}

static rf_status shadow_event_record(rf_event *e, rf_stream *s)
{
    return shadow_of(s->backend)->reference->ops->event_record(e, s);
}

static rf_status shadow_event_wait(rf_event *e, rf_stream *s)
{
    return shadow_of(s->backend)->reference->ops->event_wait(e, s);
}

static rf_status shadow_copy_in(rf_stream *s, void *dst, const void *src, size_t n_bytes)
{
    return shadow_of(s->backend)->reference->ops->copy_in(s, dst, src, n_bytes);
}

static rf_status shadow_copy_out(rf_stream *s, void *dst, const void *src, size_t n_bytes)
{
    return shadow_of(s->backend)->reference->ops->copy_out(s, dst, src, n_bytes);
}

static rf_status shadow_copy_within(rf_stream *s, void *dst, const void *src, size_t n_bytes)
{
    return shadow_of(s->backend)->reference->ops->copy_within(s, dst, src, n_bytes);
}

static rf_status shadow_fill_bytes(rf_stream *s, void *dst, int value, size_t n_bytes)
{
    return shadow_of(s->backend)->reference->ops->fill_bytes(s, dst, value, n_bytes);
}

static void fill_ops(rf_backend_ops *ops, const char *name)
{
    *ops = (rf_backend_ops){.name = name,
                            .destroy = shadow_destroy,
                            .alloc = shadow_alloc,
                            .free = shadow_free,
                            .memory = shadow_memory,
                            .stream_create = shadow_stream_create,
                            .stream_destroy = shadow_stream_destroy,
                            .stream_synchronise = shadow_stream_synchronise,
                            .event_create = shadow_event_create,
                            .event_destroy = shadow_event_destroy,
                            .event_record = shadow_event_record,
                            .event_wait = shadow_event_wait,
                            .copy_in = shadow_copy_in,
                            .copy_out = shadow_copy_out,
                            .copy_within = shadow_copy_within,
                            .fill_bytes = shadow_fill_bytes};
    shadow_fill_dense(ops);
    shadow_fill_coder(ops);
    shadow_fill_rows(ops);
}

rf_status rf_shadow_create(rf_backend *reference, rf_backend *device, rf_backend **out)
{
    rf_status status = RF_OK;
    shadow_backend *sh = NULL;

    RF_ALLOC(sh, 1);
    fill_ops(&sh->ops, rf_backend_name(reference));
    sh->base.ops = &sh->ops;
    RF_TRY(rf_format(sh->base.description, sizeof sh->base.description, "%s",
                     rf_backend_describe(reference)));
    RF_BUG(pthread_mutex_init(&sh->lock, NULL) == 0, "cannot make a lock");
    sh->reference = reference;
    sh->device = device;
    shadow_report_at_exit();
    *out = &sh->base;
    return RF_OK;
fail:
    rf_free(sh);
    rf_backend_destroy(device);
    rf_backend_destroy(reference);
    return status;
}
