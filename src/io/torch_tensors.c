/* From the values of a checkpoint to its tensors: names by walking through maps and lists, layouts
 * checked against the bytes of the storages. */
#include "torch_impl.h"

#include <string.h>

enum {
    MOST_DEPTH = 64,
    MOST_NAME = 1024,
    MOST_ARGS = 10,
    LEAST_VISITS = 1 << 16, /* values that are reached several times are walked several times */
    VISITS_A_CELL = 16,
};

typedef struct walk {
    const rf_pickle *p;
    rf_tensor_file *f;
    char name[MOST_NAME];
    int64_t n_visits, most_visits;
} walk;

/* ---- one tensor ------------------------------------------------------------------------------ */

/* A tuple of whole numbers >= 0. */
static rf_status read_sizes(const rf_pickle *p, rf_pickle_value v, int64_t *out, int *n_dims)
{
    rf_status status = RF_OK;
    rf_pickle_value items[RF_FILE_MAX_DIMS + 1];
    int n = v.kind == RF_PICKLE_TUPLE ? rf_pickle_items(p, v, RF_FILE_MAX_DIMS + 1, items) : -1;
    if (n < 0 || n > RF_FILE_MAX_DIMS) {
        RF_FAIL(RF_ERR_FORMAT, "its shape or stride is no tuple of at most %d numbers",
                RF_FILE_MAX_DIMS);
    }
    for (int i = 0; i < n; i++) {
        if (items[i].kind != RF_PICKLE_INT || items[i].at < 0) {
            RF_FAIL(RF_ERR_FORMAT, "its shape or stride has an entry that is no whole number >= 0");
        }
        out[i] = items[i].at;
    }
    *n_dims = n;
fail:
    return status;
}

/* What a view may do to its elements when they are read (negate, conjugate) is not done here. */
static rf_status check_plain(const rf_pickle *p, rf_pickle_value metadata)
{
    rf_status status = RF_OK;
    bool is_empty = metadata.kind == RF_PICKLE_NONE ||
                    (metadata.kind == RF_PICKLE_MAP && p->objects.items[metadata.at].n_items == 0);
    if (!is_empty) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "it is a negated or conjugated view");
    }
fail:
    return status;
}

/* Elements first ... last lie in the storage's bytes. Strides of sizes 0 and 1 become 0. */
static rf_status check_extent(const rf_named_tensor *t, int64_t first, int64_t *stride,
                              const rf_pickle_storage *s)
{
    rf_status status = RF_OK;
    int64_t last = first, step = 0, n_there = s->n_bytes / rf_file_dtype_bytes(t->dtype);
    bool is_inside = first >= 0 && t->n_elems >= 0;
    for (int d = 0; d < t->n_dims; d++) {
        if (t->shape[d] <= 1) {
            stride[d] = 0;
        }
        is_inside = is_inside && !__builtin_mul_overflow(t->shape[d] - 1, stride[d], &step) &&
                    !__builtin_add_overflow(last, step, &last);
    }
    if (t->n_elems > 0 && (!is_inside || last >= n_there)) {
        RF_FAIL(RF_ERR_FORMAT,
                "its offset, shape and stride reach outside the %" PRId64
                " elements of its storage",
                n_there);
    }
fail:
    return status;
}

static bool is_contiguous(const rf_named_tensor *t, const int64_t *stride)
{
    int64_t expected = 1;
    for (int d = t->n_dims - 1; d >= 0; d--) {
        if (t->shape[d] > 1 && stride[d] != expected) {
            return false;
        }
        expected *= t->shape[d];
    }
    return true;
}

/* Point into the storage where the elements lie in order, else bring them into order. */
static rf_status place_elements(rf_tensor_file *f, rf_named_tensor *t, int64_t first,
                                const int64_t *stride, const rf_pickle_storage *s)
{
    rf_status status = RF_OK;
    unsigned char *block = NULL;
    int64_t elem_bytes = rf_file_dtype_bytes(t->dtype);
    if (t->n_elems == 0) {
        t->bytes = s->bytes;
        return RF_OK;
    }
    t->bytes = s->bytes + first * elem_bytes;
    if (!is_contiguous(t, stride)) {
        RF_TRY(rf_tensor_file_block(f, t->n_bytes, &block));
        rf_tensor_gather(t->bytes, elem_bytes, t->n_dims, t->shape, stride, block);
        t->bytes = block;
    }
fail:
    return status;
}

/* The arguments of _rebuild_tensor (4), _v2 (6 or 7) and _v3 (7 or 8). */
static rf_status read_tensor(rf_tensor_file *f, const rf_pickle *p, rf_pickle_value call,
                             rf_named_tensor *t)
{
    rf_status status = RF_OK;
    rf_pickle_value args[MOST_ARGS];
    int64_t stride[RF_FILE_MAX_DIMS] = {0};
    int n_strides = 0, n = rf_pickle_items(p, call, MOST_ARGS, args);
    bool has_dtype = rf_torch_global_at(call.len)->role == RF_TORCH_TENSOR_DTYPE;

    if (n < (has_dtype ? 7 : 4) || n > (has_dtype ? 8 : 7) || args[0].kind != RF_PICKLE_STORAGE ||
        args[1].kind != RF_PICKLE_INT) {
        RF_FAIL(RF_ERR_FORMAT, "it is not made of storage, offset, shape and stride");
    }
    const rf_pickle_storage *s = &p->storages.items[args[0].at];
    t->dtype = s->dtype;
    if (has_dtype) {
        if (args[6].kind != RF_PICKLE_GLOBAL ||
            rf_torch_global_at(args[6].at)->role != RF_TORCH_DTYPE) {
            RF_FAIL(RF_ERR_FORMAT, "it has no dtype");
        }
        t->dtype = rf_torch_global_at(args[6].at)->dtype;
    }
    if (n == (has_dtype ? 8 : 7)) {
        RF_TRY(check_plain(p, args[n - 1]));
    }
    RF_TRY(read_sizes(p, args[2], t->shape, &t->n_dims));
    RF_TRY(read_sizes(p, args[3], stride, &n_strides));
    if (n_strides != t->n_dims) {
        RF_FAIL(RF_ERR_FORMAT, "it has %d sizes and %d strides", t->n_dims, n_strides);
    }
    RF_TRY(rf_named_tensor_count(t));
    RF_TRY(check_extent(t, args[1].at, stride, s));
    RF_TRY(place_elements(f, t, args[1].at, stride, s));
fail:
    return status;
}

/* ---- the walk -------------------------------------------------------------------------------- */

static rf_status visit(walk *w, rf_pickle_value v, size_t name_len, int depth);

/* Append ".<part>" to the name, or "<part>" to an empty one. */
static rf_status add_part(walk *w, size_t *name_len, const char *part, size_t n)
{
    rf_status status = RF_OK;
    size_t n_dots = *name_len > 0 ? 1 : 0;
    if (*name_len + n_dots + n >= MOST_NAME) {
        RF_FAIL(RF_ERR_FORMAT, "the name of a tensor has more than %d bytes", MOST_NAME - 1);
    }
    if (memchr(part, 0, n) != NULL) {
        RF_FAIL(RF_ERR_FORMAT, "the name of a tensor has a zero byte");
    }
    memcpy(w->name + *name_len, ".", n_dots);
    memcpy(w->name + *name_len + n_dots, part, n);
    *name_len += n_dots + n;
fail:
    return status;
}

/* Visit `v`, which `key` leads to: text, a whole number, or "?" for anything else. */
static rf_status visit_member(walk *w, rf_pickle_value key, rf_pickle_value v, size_t name_len,
                              int depth)
{
    rf_status status = RF_OK;
    char number[24] = "?";
    const char *part = number;
    if (v.kind < RF_PICKLE_TUPLE || v.kind == RF_PICKLE_OPAQUE) {
        return RF_OK; /* no tensors in there */
    }
    if (key.kind == RF_PICKLE_INT) {
        RF_TRY(rf_format(number, sizeof number, "%" PRId64, key.at));
    }
    if (key.kind == RF_PICKLE_TEXT) {
        part = (const char *)w->p->bytes + key.at;
    }
    RF_TRY(add_part(w, &name_len, part,
                    key.kind == RF_PICKLE_TEXT ? (size_t)key.len : strlen(number)));
    RF_TRY(visit(w, v, name_len, depth));
fail:
    return status;
}

static rf_status visit_members(walk *w, rf_pickle_value v, size_t name_len, int depth)
{
    rf_status status = RF_OK;
    const rf_pickle_cell *cells = w->p->cells.items;
    bool is_map = v.kind == RF_PICKLE_MAP;
    rf_pickle_value key = {.kind = RF_PICKLE_INT};
    for (int64_t c = w->p->objects.items[v.at].first; c >= 0; c = cells[c].next, key.at++) {
        if (w->n_visits++ >= w->most_visits) {
            RF_FAIL(RF_ERR_FORMAT, "its maps and lists hold each other too many times");
        }
        if (is_map) { /* an even number of items: key, value, ... */
            key = cells[c].value;
            c = cells[c].next;
        }
        RF_TRY(visit_member(w, key, cells[c].value, name_len, depth));
    }
fail:
    return status;
}

static rf_status visit(walk *w, rf_pickle_value v, size_t name_len, int depth)
{
    rf_status status = RF_OK;
    rf_named_tensor t = {0};
    if (depth > MOST_DEPTH) {
        RF_FAIL(RF_ERR_FORMAT, "its maps and lists are nested deeper than %d", MOST_DEPTH);
    }
    if (v.kind == RF_PICKLE_TUPLE || v.kind == RF_PICKLE_LIST || v.kind == RF_PICKLE_MAP) {
        RF_TRY(visit_members(w, v, name_len, depth + 1));
    } else if (v.kind == RF_PICKLE_TENSOR) {
        w->name[name_len] = '\0';
        const char *name = name_len > 0 ? w->name : "tensor";
        RF_TRY_DOING(read_tensor(w->f, w->p, v, &t), "tensor '%.100s'", name);
        RF_TRY(rf_tensor_file_add(w->f, name, t));
    }
fail:
    return status;
}

rf_status rf_torch_add_tensors(rf_tensor_file *f, const rf_pickle *p)
{
    walk w = {.p = p, .f = f, .most_visits = LEAST_VISITS + VISITS_A_CELL * p->cells.n};
    return visit(&w, p->root, 0, 0);
}
