/* PyTorch archives, as torch.save writes them. Since 1.6 a zip archive of stored entries:
 * NAME/data.pkl is the object, NAME/data/KEY the bytes of a storage, NAME/byteorder "little".
 * Before, and on request, pickles in a row (a magic number, the protocol, the writer's system, the
 * object, the keys of the storages) and then the storages in the order of their keys: a count of
 * elements, 8 bytes, and the bytes. */
#include "torch_impl.h"
#include "zip_impl.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_PATH = 512, LEGACY_PROTOCOL = 1001 };

/* The bytes of a storage and, for a view, their part. `n_bytes` are all there are. */
static rf_status set_bytes(rf_pickle_storage *s, const unsigned char *bytes, int64_t n_bytes)
{
    rf_status status = RF_OK;
    int64_t elem_bytes = rf_file_dtype_bytes(s->dtype);
    if (n_bytes / elem_bytes != s->n_elems) {
        RF_FAIL(RF_ERR_FORMAT,
                "its pickle says %" PRId64 " elements of %" PRId64 " bytes, but there are %" PRId64
                " bytes",
                s->n_elems, elem_bytes, n_bytes);
    }
    s->bytes = bytes;
    s->n_bytes = s->n_elems * elem_bytes;
    if (s->view_first >= 0) { /* inside: the pickle was checked */
        s->bytes += s->view_first * elem_bytes;
        s->n_bytes = s->view_elems * elem_bytes;
    }
fail:
    return status;
}

/* ---- zip ------------------------------------------------------------------------------------- */

static rf_status find_stored(const rf_zip *zip, const char *name, const rf_zip_entry **out)
{
    rf_status status = RF_OK;
    *out = rf_zip_find(zip, name);
    if (*out == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "it has no entry '%s'", name);
    }
    if (!(*out)->is_stored) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "its entry '%s' is compressed: torch.save writes none; load and save it again",
                name);
    }
fail:
    return status;
}

static bool has_end(const rf_zip_entry *e, const char *end)
{
    int64_t n = (int64_t)strlen(end);
    return e->name_len >= n && memcmp(e->name + e->name_len - n, end, (size_t)n) == 0;
}

/* The folder that everything lies in, "archive/": the one with a data.pkl. */
static rf_status find_folder(const rf_zip *zip, char folder[MOST_PATH])
{
    static const char pickle[] = "/data.pkl";
    rf_status status = RF_OK;
    bool has_arrays = false, is_found = false;
    for (int64_t i = 0; i < zip->n_entries; i++) {
        const rf_zip_entry *e = &zip->entries[i];
        int64_t n = e->name_len - (int64_t)strlen(pickle);
        has_arrays = has_arrays || has_end(e, ".npy");
        if (n > 0 && has_end(e, pickle) && memchr(e->name, '/', (size_t)n) == NULL) {
            if (is_found) {
                RF_FAIL(RF_ERR_FORMAT, "it has two entries data.pkl");
            }
            RF_TRY(rf_format(folder, MOST_PATH, "%.*s/", (int)n, e->name));
            is_found = true;
        }
    }
    if (!is_found) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "it is a zip archive without a data.pkl%s: expected one that torch.save wrote",
                has_arrays ? " (arrays of NumPy)" : "");
    }
fail:
    return status;
}

static rf_status check_byte_order(const rf_zip *zip, const char *folder)
{
    rf_status status = RF_OK;
    char name[MOST_PATH];
    const rf_zip_entry *e = NULL;
    RF_TRY(rf_format(name, sizeof name, "%sbyteorder", folder));
    if (rf_zip_find(zip, name) == NULL) {
        return RF_OK; /* before 2.1 */
    }
    RF_TRY(find_stored(zip, name, &e));
    if (e->n_bytes != 6 || memcmp(e->bytes, "little", 6) != 0) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "its byte order is not little");
    }
fail:
    return status;
}

static rf_status find_zip_storages(const rf_zip *zip, const char *folder, rf_pickle *p)
{
    rf_status status = RF_OK;
    char name[MOST_PATH];
    const rf_zip_entry *e = NULL;
    for (int64_t i = 0; i < p->storages.n; i++) {
        rf_pickle_storage *s = &p->storages.items[i];
        RF_TRY(rf_format(name, sizeof name, "%sdata/%.*s", folder, (int)s->key_len,
                         (const char *)p->bytes + s->key_at));
        RF_TRY(find_stored(zip, name, &e));
        RF_TRY_DOING(set_bytes(s, e->bytes, e->n_bytes), "'%s'", name);
    }
fail:
    return status;
}

/* A program of torch.jit.save has its constants and its code beside the pickle. */
static bool is_program(const rf_zip *zip, const char *folder)
{
    char name[MOST_PATH];
    return rf_format(name, sizeof name, "%sconstants.pkl", folder) == RF_OK &&
           rf_zip_find(zip, name) != NULL;
}

static rf_status parse_zip(rf_tensor_file *f, const unsigned char *bytes, int64_t n_bytes)
{
    rf_status status = RF_OK;
    rf_zip zip = {0};
    rf_pickle p = {0};
    char folder[MOST_PATH], name[MOST_PATH];
    const rf_zip_entry *e = NULL;

    RF_TRY(rf_zip_read(bytes, n_bytes, &zip));
    RF_TRY(find_folder(&zip, folder));
    RF_TRY(check_byte_order(&zip, folder));
    RF_TRY(rf_format(name, sizeof name, "%sdata.pkl", folder));
    RF_TRY(find_stored(&zip, name, &e));
    status = rf_pickle_read(&p, e->bytes, e->n_bytes, 0);
    if (status != RF_OK && is_program(&zip, folder)) {
        rf_error_context("it is a program of torch.jit.save, not a table of weights (in PyTorch, "
                         "torch.save its state_dict())");
    }
    RF_TRY(status);
    RF_TRY(find_zip_storages(&zip, folder, &p));
    RF_TRY(rf_torch_add_tensors(f, &p));
fail:
    rf_pickle_fini(&p);
    rf_zip_fini(&zip);
    return status;
}

/* ---- legacy ---------------------------------------------------------------------------------- */

/* The pickle of 0x1950a86a20f9469cfc6c: a protocol, perhaps a frame, the number of 10 bytes, stop.
 */
bool rf_torch_is_legacy(const unsigned char *bytes, int64_t n_bytes)
{
    static const unsigned char number[] = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    int64_t n = (int64_t)sizeof number - 1, at = 2;
    if (n_bytes > at && bytes[0] == 0x80 && bytes[at] == 0x95) {
        at += 9;
    }
    return n_bytes >= at + n && bytes[0] == 0x80 && memcmp(bytes + at, number, (size_t)n) == 0;
}

/* Read the next pickle, which starts where `p` ended. */
static rf_status next_pickle(rf_pickle *p)
{
    const unsigned char *bytes = p->bytes;
    int64_t n_bytes = p->n_bytes, at = p->pos;
    rf_pickle_fini(p);
    return rf_pickle_read(p, bytes, n_bytes, at);
}

/* The magic number, the protocol and the writer's system; leaves `p` behind them. */
static rf_status read_preamble(rf_pickle *p, const unsigned char *bytes, int64_t n_bytes)
{
    rf_status status = RF_OK;
    RF_TRY(rf_pickle_read(p, bytes, n_bytes, 0));
    RF_TRY(next_pickle(p));
    if (p->root.kind != RF_PICKLE_INT || p->root.at != LEGACY_PROTOCOL) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "its protocol is not %d", LEGACY_PROTOCOL);
    }
    RF_TRY(next_pickle(p));
    rf_pickle_value little = rf_pickle_get(p, p->root, "little_endian");
    if (little.kind != RF_PICKLE_BOOL || little.at != 1) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "its byte order is not little");
    }
fail:
    return status;
}

/* The storages of the object in the order of their keys, so that they are found by bisection. */
typedef struct keyed {
    const char *key;
    int64_t key_len;
    rf_pickle_storage *storage;
} keyed;

static int compare_keys(const void *a, const void *b)
{
    const keyed *s = a, *t = b;
    int order = memcmp(s->key, t->key, (size_t)rf_min_i64(s->key_len, t->key_len));
    return order != 0 ? order : (s->key_len > t->key_len) - (s->key_len < t->key_len);
}

static rf_status sort_storages(const rf_pickle *object, keyed **out)
{
    rf_status status = RF_OK;
    RF_ALLOC(*out, object->storages.n);
    for (int64_t i = 0; i < object->storages.n; i++) {
        rf_pickle_storage *s = &object->storages.items[i];
        (*out)[i] = (keyed){
            .key = (const char *)object->bytes + s->key_at, .key_len = s->key_len, .storage = s};
    }
    if (object->storages.n > 1) {
        qsort(*out, (size_t)object->storages.n, sizeof **out, compare_keys);
    }
fail:
    return status;
}

/* Give the storage at `*at` to all of `sorted` [n] with this key; moves `*at` behind it. */
static rf_status give_storage(keyed *sorted, int64_t n, const keyed *key, const rf_pickle *file,
                              int64_t *at)
{
    rf_status status = RF_OK;
    int64_t count = 0, n_bytes = 0;
    const keyed *k = n > 0 ? bsearch(key, sorted, (size_t)n, sizeof *sorted, compare_keys) : NULL;
    if (k == NULL || k->storage->bytes != NULL) {
        RF_FAIL(RF_ERR_FORMAT, "its list of storages has one twice, or one that nothing refers to");
    }
    if (file->n_bytes - *at < 8) {
        RF_FAIL(RF_ERR_FORMAT, "it ends before its storages do (a truncated file?)");
    }
    memcpy(&count, file->bytes + *at, 8);
    *at += 8;
    if (count < 0 ||
        __builtin_mul_overflow(count, rf_file_dtype_bytes(k->storage->dtype), &n_bytes) ||
        n_bytes > file->n_bytes - *at) {
        RF_FAIL(RF_ERR_FORMAT,
                "a storage of %" PRId64 " elements ends outside the file (a "
                "truncated file?)",
                count);
    }
    while (k > sorted && compare_keys(k - 1, key) == 0) {
        k--;
    }
    for (; k < sorted + n && compare_keys(k, key) == 0; k++) {
        RF_TRY(set_bytes(k->storage, file->bytes + *at, n_bytes));
    }
    *at += n_bytes;
fail:
    return status;
}

/* `keys` is the pickle behind the object's: a list; the storages follow in its order. */
static rf_status find_legacy_storages(const rf_pickle *keys, rf_pickle *object)
{
    rf_status status = RF_OK;
    keyed *sorted = NULL;
    int64_t at = keys->pos;

    if (keys->root.kind != RF_PICKLE_LIST) {
        RF_FAIL(RF_ERR_FORMAT, "it has no list of its storages");
    }
    RF_TRY(sort_storages(object, &sorted));
    for (int64_t c = keys->objects.items[keys->root.at].first; c >= 0;
         c = keys->cells.items[c].next) {
        rf_pickle_value v = keys->cells.items[c].value;
        if (v.kind != RF_PICKLE_TEXT) {
            RF_FAIL(RF_ERR_FORMAT, "its list of storages has one without a key");
        }
        const keyed key = {.key = (const char *)keys->bytes + v.at, .key_len = v.len};
        RF_TRY(give_storage(sorted, object->storages.n, &key, keys, &at));
    }
    for (int64_t i = 0; i < object->storages.n; i++) {
        if (object->storages.items[i].bytes == NULL) {
            RF_FAIL(RF_ERR_FORMAT, "its list of storages lacks one that a tensor refers to");
        }
    }
fail:
    rf_free(sorted);
    return status;
}

static rf_status parse_legacy(rf_tensor_file *f, const unsigned char *bytes, int64_t n_bytes)
{
    rf_status status = RF_OK;
    rf_pickle object = {0}, keys = {0};

    RF_TRY(read_preamble(&object, bytes, n_bytes));
    RF_TRY(next_pickle(&object));
    RF_TRY(rf_pickle_read(&keys, bytes, n_bytes, object.pos));
    RF_TRY(find_legacy_storages(&keys, &object));
    RF_TRY(rf_torch_add_tensors(f, &object));
fail:
    rf_pickle_fini(&keys);
    rf_pickle_fini(&object);
    return status;
}

rf_status rf_torch_archive_parse(rf_tensor_file *f, const unsigned char *bytes, int64_t n_bytes)
{
    return rf_torch_is_legacy(bytes, n_bytes) ? parse_legacy(f, bytes, n_bytes)
                                              : parse_zip(f, bytes, n_bytes);
}
