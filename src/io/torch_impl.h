/* PyTorch archives: a pickle read as data, and the tensors that it describes. */
#ifndef REFRACT_TORCH_IMPL_H
#define REFRACT_TORCH_IMPL_H

#include "io_impl.h"

/* ---- globals: the names that a pickle may mention ------------------------------------------- */

/* What a global means here. Nothing is ever called: a role says how its call is read. */
typedef enum rf_torch_role {
    RF_TORCH_OPAQUE,       /* a value of no interest, whatever it is called with */
    RF_TORCH_MAP,          /* collections.OrderedDict */
    RF_TORCH_TUPLE,        /* torch.Size: its argument */
    RF_TORCH_TENSOR,       /* _rebuild_tensor, _v2: storage, offset, size, stride, ... */
    RF_TORCH_TENSOR_DTYPE, /* _v3: the same, and a dtype in the seventh place */
    RF_TORCH_FIRST,        /* _rebuild_parameter: its first argument */
    RF_TORCH_FROM_TYPE,    /* _rebuild_from_type_v2: function, type, arguments, state */
    RF_TORCH_STORAGE,      /* a type of storage */
    RF_TORCH_DTYPE,
} rf_torch_role;

typedef struct rf_torch_global {
    const char *module, *name;
    rf_torch_role role;
    rf_file_dtype dtype; /* of storages and dtypes */
} rf_torch_global;

/* UNSUPPORTED, naming it, when the pickle's global is not known. Neither text ends in '\0'. */
rf_status rf_torch_find_global(const unsigned char *module, int64_t module_len,
                               const unsigned char *name, int64_t name_len, int64_t *idx);
const rf_torch_global *rf_torch_global_at(int64_t idx);

/* ---- pickle: the values of one pickle -------------------------------------------------------- */

typedef enum rf_pickle_kind {
    RF_PICKLE_ABSENT, /* no value: a place of the memo that nothing was put in */
    RF_PICKLE_NONE,
    RF_PICKLE_BOOL,    /* `at` is 0 or 1 */
    RF_PICKLE_INT,     /* `at` is it */
    RF_PICKLE_TEXT,    /* `len` bytes at `at` of the file */
    RF_PICKLE_GLOBAL,  /* `at` is its index */
    RF_PICKLE_STORAGE, /* `at` is its index in `storages` */
    RF_PICKLE_TUPLE,   /* `at` is the index in `objects`, for these four */
    RF_PICKLE_LIST,
    RF_PICKLE_MAP,    /* items are key, value, key, ... */
    RF_PICKLE_TENSOR, /* items are the arguments of the call of global `len` */
    RF_PICKLE_OPAQUE, /* of no interest: floats, large integers, sets, objects */
} rf_pickle_kind;

typedef struct rf_pickle_value {
    rf_pickle_kind kind;
    int32_t len;
    int64_t at;
} rf_pickle_value;

/* Items hang in a chain: objects grow in turns. */
typedef struct rf_pickle_cell {
    rf_pickle_value value;
    int64_t next; /* or -1 */
} rf_pickle_cell;

typedef struct rf_pickle_object {
    int64_t first, last, n_items; /* cells; -1 when there are none */
} rf_pickle_object;

/* A mention of a storage: its own bytes, or a part of them. */
typedef struct rf_pickle_storage {
    int64_t key_at;
    int32_t key_len;
    rf_file_dtype dtype;
    int64_t n_elems;
    int64_t view_first, view_elems; /* -1, 0: the whole */
    const unsigned char *bytes;     /* filled by the archive */
    int64_t n_bytes;
} rf_pickle_storage;

#define RF_PICKLE_ARRAY(type)                                                                      \
    struct {                                                                                       \
        type *items;                                                                               \
        int64_t n, cap;                                                                            \
    }

typedef struct rf_pickle {
    const unsigned char *bytes; /* the file; borrowed */
    int64_t n_bytes, pos;       /* `pos`: behind the pickle, once it is read */
    rf_pickle_value root;
    RF_PICKLE_ARRAY(rf_pickle_object) objects;
    RF_PICKLE_ARRAY(rf_pickle_cell) cells;
    RF_PICKLE_ARRAY(rf_pickle_storage) storages;
    RF_PICKLE_ARRAY(rf_pickle_value) stack;
    RF_PICKLE_ARRAY(rf_pickle_value) memo;
    RF_PICKLE_ARRAY(int64_t) marks; /* heights of the stack */
} rf_pickle;

/* Read the pickle that starts at `start`; release with rf_pickle_fini, also after a failure.
 * FORMAT: not a pickle, truncated, or one that contradicts itself; UNSUPPORTED: a global, or an
 * opcode, that no checkpoint needs. */
rf_status rf_pickle_read(rf_pickle *p, const unsigned char *bytes, int64_t n_bytes, int64_t start);
void rf_pickle_fini(rf_pickle *p);
bool rf_pickle_is_text(const rf_pickle *p, rf_pickle_value v, const char *text);
/* Value of `key` of a map, or ABSENT. */
rf_pickle_value rf_pickle_get(const rf_pickle *p, rf_pickle_value map, const char *key);
/* The first `most` items of an object of any kind; returns how many. */
int rf_pickle_items(const rf_pickle *p, rf_pickle_value object, int most, rf_pickle_value *items);

/* What the stack machine and the reading of calls share. */
rf_status rf_pickle_push(rf_pickle *p, rf_pickle_kind kind, int32_t len, int64_t at);
rf_status rf_pickle_new(rf_pickle *p, int64_t *object);
rf_status rf_pickle_append(rf_pickle *p, int64_t object, rf_pickle_value v);
/* Push what `callee(*args)` would give. */
rf_status rf_pickle_call(rf_pickle *p, rf_pickle_value callee, rf_pickle_value args);
/* ("storage", type, key, location, n_elems[, view]): view is None or (key, first, n_elems). */
rf_status rf_pickle_read_storage(const rf_pickle *p, rf_pickle_value id, rf_pickle_storage *s);

/* ---- tensors --------------------------------------------------------------------------------- */

/* Add every tensor below `p`'s root under its dotted name; the storages have their bytes. */
rf_status rf_torch_add_tensors(rf_tensor_file *f, const rf_pickle *p);

#endif
