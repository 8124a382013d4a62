/* One operation run on the device: its arrays are collected, sent as one image in which each lies
 * between guards, and taken back. */
#include "shadow_impl.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of 0xff, NaN to whoever reads them as floats: 256 or more on each side of a range. */
enum { GUARD = 256, GUARD_BYTE = 0xff, ALIGNMENT = 64 };

int64_t shadow_type_bytes(shadow_type type)
{
    return type == SHADOW_F64 ? 8 : (int64_t)rf_dtype_bytes((rf_dtype)type);
}

/* ---- collecting ---------------------------------------------------------------------------- */

static void *pointer_at(const void *slot)
{
    void *p;
    memcpy(&p, slot, sizeof p);
    return p;
}

static shadow_array *add(shadow_call *c, const char *name, int list, void *slot, shadow_type type,
                         shadow_role role)
{
    if (c->n_arrays == SHADOW_MAX_ARRAYS) {
        fprintf(stderr, "shadow: more than %d arrays in a call\n", SHADOW_MAX_ARRAYS);
        abort();
    }
    shadow_array *a = &c->arrays[c->n_arrays++];
    *a = (shadow_array){.name = name,
                        .list = list,
                        .slot = slot,
                        .host = pointer_at(slot),
                        .type = type,
                        .role = role};
    return a;
}

shadow_array *shadow_add(shadow_call *c, const char *name, int list, void *slot, shadow_type type,
                         int64_t n, shadow_role role)
{
    if (pointer_at(slot) == NULL) {
        return &c->absent;
    }
    shadow_array *a = add(c, name, list, slot, type, role);
    a->n_dims = 1;
    a->shape[0] = n;
    a->stride[0] = 1;
    return a;
}

shadow_array *shadow_add_view(shadow_call *c, const char *name, int list, rf_view *v,
                              shadow_role role)
{
    if (v->data == NULL) {
        return &c->absent;
    }
    shadow_array *a = add(c, name, list, &v->data, (shadow_type)v->dtype, role);
    a->n_dims = v->n_dims;
    for (int i = 0; i < v->n_dims; i++) {
        a->shape[i] = v->shape[i];
        a->stride[i] = v->stride[i];
    }
    return a;
}

const rf_codes *shadow_add_codes(shadow_call *c, int list, void *slot, int64_t n_rows,
                                 shadow_role role)
{
    const rf_codes *host = pointer_at(slot);
    if (n_rows < 0) {
        n_rows = host->n_rows;
    }
    const shadow_role all = role == SHADOW_SPACE ? SHADOW_OUT : SHADOW_IN;
    rf_codes *mine = &c->codes[c->n_codes];
    *mine = *host;
    memcpy(slot, &mine, sizeof mine);
    c->host_codes[c->n_codes] = host;
    c->codes_at[c->n_codes++] = c->n_arrays;
    const int64_t *n_used = host->row_start + n_rows;
    shadow_add(c, "row_start", list, &mine->row_start, SHADOW_I64, n_rows + 1, all);
    shadow_add(c, "latent", list, &mine->latent, SHADOW_I32, host->capacity, all)->n_used = n_used;
    shadow_add(c, "value", list, &mine->value, SHADOW_F32, host->capacity, all)->n_used = n_used;
    shadow_add(c, "d_value", list, &mine->d_value, SHADOW_F32, host->capacity,
               role == SHADOW_IN ? SHADOW_IN : SHADOW_OUT)
        ->n_used = n_used;
    return host;
}

static void add_index(shadow_call *c, int list, void *slot, shadow_role role)
{
    const rf_latent_index *host = pointer_at(slot);
    if (host == NULL) {
        return;
    }
    rf_latent_index *mine = &c->indices[c->n_indices++];
    *mine = *host;
    memcpy(slot, &mine, sizeof mine);
    const int64_t *n_used = host->latent_start + host->n_latents;
    shadow_add(c, "latent_start", list, &mine->latent_start, SHADOW_I64, host->n_latents + 1, role);
    shadow_add(c, "entry", list, &mine->entry, SHADOW_I32, host->capacity, role)->n_used = n_used;
    shadow_add(c, "row", list, &mine->row, SHADOW_I32, host->capacity, role)->n_used = n_used;
}

/* The pointers to codes and indices in `args` are replaced already, their arrays are the host's. */
static int64_t count_of(const shadow_field *f, const char *args)
{
    const char *of = args + f->of;
    const rf_view *v = (const rf_view *)(const void *)of;
    switch (f->extent) {
    case SHADOW_ROWS:
        return v->shape[0];
    case SHADOW_COLS:
        return v->shape[1];
    case SHADOW_ENTRIES: {
        const rf_codes *codes = pointer_at(of);
        return codes->row_start[codes->n_rows];
    }
    case SHADOW_CODE_ROWS:
        return ((const rf_codes *)pointer_at(of))->n_rows;
    case SHADOW_INDEXED: {
        const rf_latent_index *index = pointer_at(of);
        return index->latent_start[index->n_latents];
    }
    case SHADOW_COUNT:
        break;
    }
    return (int64_t)f->of;
}

static void collect(shadow_call *c, const shadow_field *f, char *at, int list, const char *args)
{
    switch (f->kind) {
    case SHADOW_VIEW:
        shadow_add_view(c, f->name, list, (rf_view *)(void *)at, f->role)->tol = f->tol;
        break;
    case SHADOW_PLAIN:
        if (pointer_at(at) != NULL) {
            shadow_add(c, f->name, list, at, f->type, count_of(f, args), f->role)->tol = f->tol;
        }
        break;
    case SHADOW_CODES:
        if (shadow_add_codes(c, list, at, -1, f->role)->d_value != NULL) {
            c->arrays[c->n_arrays - 1].tol = f->tol;
        }
        break;
    case SHADOW_INDEX:
        add_index(c, list, at, f->role);
        break;
    case SHADOW_HOOK:
        f->hook(c);
        break;
    }
}

static void collect_field(shadow_call *c, const shadow_field *f, char *args)
{
    if (!f->is_list) {
        collect(c, f, args + f->at, -1, args);
        return;
    }
    int n_lists;
    memcpy(&n_lists, args, sizeof n_lists);
    size_t step = f->kind == SHADOW_VIEW ? sizeof(rf_view) : sizeof(void *);
    for (int l = 0; l < n_lists; l++) {
        collect(c, f, args + f->at + (size_t)l * step, l, args);
    }
}

/* ---- ranges and images --------------------------------------------------------------------- */

/* Bytes from the first to behind the last element. */
static int64_t span_of(const shadow_array *a)
{
    int64_t last = 0;
    for (int i = 0; i < a->n_dims; i++) {
        if (a->shape[i] == 0) {
            return 0;
        }
        last += (a->shape[i] - 1) * a->stride[i];
    }
    return (last + 1) * shadow_type_bytes(a->type);
}

static int by_begin(const void *a, const void *b)
{
    const shadow_range *x = a, *y = b;
    if (x->begin != y->begin) {
        return (uintptr_t)x->begin < (uintptr_t)y->begin ? -1 : 1;
    }
    return (x->end > y->end) - (x->end < y->end);
}

/* Ranges in the image keep their addresses' place in a line of 64 bytes: what a device decides by
 * alignment, it decides as for the caller. */
static void lay_out(shadow_call *c)
{
    int n = 0;
    for (int i = 0; i < c->n_arrays; i++) {
        const shadow_array *a = &c->arrays[i];
        c->ranges[i] = (shadow_range){.begin = a->host, .end = a->host + span_of(a)};
    }
    qsort(c->ranges, (size_t)c->n_arrays, sizeof c->ranges[0], by_begin);
    for (int i = 0; i < c->n_arrays; i++) {
        const shadow_range r = c->ranges[i];
        if (n > 0 && (r.begin < c->ranges[n - 1].end || r.begin == c->ranges[n - 1].begin)) {
            if (r.end > c->ranges[n - 1].end) {
                c->ranges[n - 1].end = r.end;
            }
        } else {
            c->ranges[n++] = r;
        }
    }
    c->n_ranges = n;
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        shadow_range *r = &c->ranges[i];
        r->at = at + GUARD + (uintptr_t)r->begin % ALIGNMENT;
        at = (r->at + (size_t)(r->end - r->begin) + GUARD + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    c->n_bytes = at;
}

static const shadow_range *range_of(const shadow_call *c, const char *p)
{
    int i = c->n_ranges - 1;
    while (i > 0 && (uintptr_t)c->ranges[i].begin > (uintptr_t)p) {
        i--;
    }
    return &c->ranges[i];
}

static rf_status make_room(shadow_stream *s, size_t n_bytes)
{
    rf_status status = RF_OK;
    void *block = NULL;
    if (n_bytes <= s->n_bytes) {
        return RF_OK;
    }
    rf_memory_free(s->device->backend, RF_MEMORY_DEVICE, s->block);
    rf_free(s->sent);
    rf_free(s->got);
    s->block = s->sent = s->got = NULL;
    s->n_bytes = 0;
    RF_TRY(rf_memory_alloc(s->device->backend, RF_MEMORY_DEVICE, n_bytes, &block));
    s->block = block;
    RF_ALLOC(s->sent, (int64_t)n_bytes);
    RF_ALLOC(s->got, (int64_t)n_bytes);
    s->n_bytes = n_bytes;
fail:
    return status;
}

static rf_status send_all(shadow_call *c)
{
    rf_status status = RF_OK;
    shadow_stream *s = c->stream;
    lay_out(c);
    if (c->n_bytes == 0) {
        return RF_OK;
    }
    RF_TRY(make_room(s, c->n_bytes));
    memset(s->sent, GUARD_BYTE, c->n_bytes);
    for (int i = 0; i < c->n_ranges; i++) {
        const shadow_range *r = &c->ranges[i];
        if (r->end > r->begin) {
            memcpy(s->sent + r->at, r->begin, (size_t)(r->end - r->begin));
        }
    }
    RF_TRY(rf_copy_in(s->device, s->block, s->sent, c->n_bytes));
    RF_TRY(rf_stream_synchronise(s->device));
    for (int i = 0; i < c->n_arrays; i++) {
        shadow_array *a = &c->arrays[i];
        const shadow_range *r = range_of(c, a->host);
        a->at = r->at + (size_t)(a->host - r->begin);
        char *device = s->block + a->at;
        memcpy(a->slot, &device, sizeof device);
    }
fail:
    return status;
}

/* ---- a call -------------------------------------------------------------------------------- */

static shadow_stream *stream_of(rf_stream *s)
{
    shadow_backend *sh = (shadow_backend *)s->backend;
    pthread_mutex_lock(&sh->lock);
    shadow_stream *at = sh->streams;
    while (at->reference != s) {
        at = at->next;
    }
    pthread_mutex_unlock(&sh->lock);
    return at;
}

shadow_call *shadow_begin(rf_stream *s, shadow_op op, const shadow_field *fields, size_t n_fields,
                          void *args)
{
    rf_status status = RF_OK;
    const shadow_backend *sh = (const shadow_backend *)s->backend;
    shadow_call *c = NULL;
    RF_ALLOC(c, 1);
    c->op = op;
    c->stream = stream_of(s);
    c->reference = sh->reference->ops;
    c->device = sh->device->ops;
    c->device_stream = c->stream->device;
    c->args = args;
    c->tol_scale = 1.0;
    c->floor = -1.0;
    for (size_t i = 0; i < n_fields; i++) {
        collect_field(c, &fields[i], args);
    }
    c->status = send_all(c);
fail:
    (void)status; /* there is no call without memory */
    return c;
}

static rf_status take_back(shadow_call *c)
{
    rf_status status = RF_OK;
    shadow_stream *s = c->stream;
    RF_TRY(rf_stream_synchronise(s->device));
    if (c->n_bytes > 0) {
        RF_TRY(rf_copy_out(s->device, s->got, s->block, c->n_bytes));
        RF_TRY(rf_stream_synchronise(s->device));
    }
fail:
    return status;
}

void shadow_compare(shadow_call *c, rf_status status)
{
    if (status == RF_OK) {
        status = take_back(c);
    }
    if (status != RF_OK) {
        shadow_fail(c, NULL, "the device fails (%s): %s", rf_status_word(status), rf_error_text());
        return;
    }
    for (int i = 0; i < c->n_codes; i++) {
        if (c->codes[i].n_rows != c->host_codes[i]->n_rows) {
            shadow_fail(c, NULL, "codes of %" PRId64 " rows, expected %" PRId64, c->codes[i].n_rows,
                        c->host_codes[i]->n_rows);
        }
    }
    shadow_compare_rest(c);
    for (int i = 0; i < c->n_arrays; i++) {
        if (c->arrays[i].role == SHADOW_OUT) {
            shadow_compare_array(c, &c->arrays[i]);
        }
    }
    if (c->check != NULL && !c->has_failed) {
        c->check(c);
    }
}

rf_status shadow_end(shadow_call *c, rf_status status)
{
    shadow_count(c, status);
    rf_free(c);
    return status;
}
