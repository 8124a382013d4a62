/* safetensors, read: one file or the shards of an index, mapped. A file is 8 bytes (the length of
 * the header, little-endian), the header (JSON: name -> dtype, shape, data_offsets), the data. The
 * tensors must fill the data without a hole or an overlap, as the reference implementation asks. A
 * file that is cut while it is mapped kills its reader: writers must replace, never rewrite. */
#include "io_impl.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER_BYTES = 100000000, MAX_SHARDS = 10000 };

struct rf_tensor_file {
    rf_file_map *maps; /* [n_maps], one a shard */
    int64_t n_maps;
    rf_named_tensor *tensors; /* [n_tensors], by name */
    int64_t n_tensors, cap;
    char **metadata; /* key, value, key, ... */
    int64_t n_metadata;
};

static const struct {
    const char *name;
    int64_t n_bytes;
} dtypes[] = {
    [RF_FILE_F64] = {"F64", 8},   [RF_FILE_F32] = {"F32", 4}, [RF_FILE_F16] = {"F16", 2},
    [RF_FILE_BF16] = {"BF16", 2}, [RF_FILE_I64] = {"I64", 8}, [RF_FILE_I32] = {"I32", 4},
    [RF_FILE_I16] = {"I16", 2},   [RF_FILE_I8] = {"I8", 1},   [RF_FILE_U8] = {"U8", 1},
    [RF_FILE_BOOL] = {"BOOL", 1},
};

int64_t rf_file_dtype_bytes(rf_file_dtype dtype)
{
    return dtypes[dtype].n_bytes;
}

const char *rf_file_dtype_name(rf_file_dtype dtype)
{
    return dtypes[dtype].name;
}

static rf_status parse_dtype(const json_t *value, rf_file_dtype *out)
{
    rf_status status = RF_OK;
    const char *text = json_string_value(value);
    if (text == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "its dtype is no text");
    }
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(dtypes[i].name, text) == 0) {
            *out = (rf_file_dtype)i;
            return RF_OK;
        }
    }
    RF_FAIL(RF_ERR_UNSUPPORTED,
            "its dtype is '%.40s', expected F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL",
            text);
fail:
    return status;
}

static rf_status parse_shape(const json_t *value, rf_named_tensor *t)
{
    rf_status status = RF_OK;
    size_t n = json_array_size(value);
    if (!json_is_array(value) || n > RF_FILE_MAX_DIMS) {
        RF_FAIL(RF_ERR_FORMAT, "its shape is no list of at most %d numbers", RF_FILE_MAX_DIMS);
    }
    t->n_dims = (int)n;
    t->n_elems = 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *dim = json_array_get(value, i);
        t->shape[i] = json_is_integer(dim) ? json_integer_value(dim) : -1;
        if (t->shape[i] < 0) {
            RF_FAIL(RF_ERR_FORMAT, "its shape has an entry that is no whole number >= 0");
        }
        if (__builtin_mul_overflow(t->n_elems, t->shape[i], &t->n_elems)) {
            RF_FAIL(RF_ERR_FORMAT, "the product of its shape overflows");
        }
    }
    if (__builtin_mul_overflow(t->n_elems, rf_file_dtype_bytes(t->dtype), &t->n_bytes)) {
        RF_FAIL(RF_ERR_FORMAT, "the product of its shape overflows");
    }
fail:
    return status;
}

static rf_status parse_offsets(const json_t *value, const unsigned char *data, int64_t data_bytes,
                               rf_named_tensor *t)
{
    rf_status status = RF_OK;
    const json_t *b = json_array_get(value, 0), *e = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(b) || !json_is_integer(e)) {
        RF_FAIL(RF_ERR_FORMAT, "its data_offsets are no list of two whole numbers");
    }
    int64_t begin = json_integer_value(b), end = json_integer_value(e);
    if (begin < 0 || end < begin || end > data_bytes) {
        RF_FAIL(RF_ERR_FORMAT,
                "its data_offsets [%" PRId64 ", %" PRId64 "] are outside the %" PRId64
                " bytes of data (a truncated file?)",
                begin, end, data_bytes);
    }
    if (end - begin != t->n_bytes) {
        RF_FAIL(RF_ERR_FORMAT,
                "it has %" PRId64 " bytes of data, expected %" PRId64 " for its shape and dtype",
                end - begin, t->n_bytes);
    }
    t->bytes = data + begin;
fail:
    return status;
}

/* Append a tensor; its name is copied. */
static rf_status add_tensor(rf_tensor_file *f, const char *name, rf_named_tensor t)
{
    if (f->n_tensors == f->cap) {
        int64_t cap = rf_max_i64(64, 2 * f->cap);
        rf_named_tensor *grown = rf_realloc(f->tensors, f->cap, cap, sizeof *grown);
        if (grown == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        f->tensors = grown;
        f->cap = cap;
    }
    t.name = rf_strdup(name);
    if (t.name == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    f->tensors[f->n_tensors++] = t;
    return RF_OK;
}

static rf_status add_metadata(rf_tensor_file *f, const json_t *map)
{
    rf_status status = RF_OK;
    const char *key = NULL;
    const json_t *value = NULL;
    int64_t n = f->n_metadata, n_more = (int64_t)json_object_size(map);
    char **grown = NULL;

    if (!json_is_object(map)) {
        RF_FAIL(RF_ERR_FORMAT, "__metadata__ is no map of texts");
    }
    grown = rf_realloc(f->metadata, 2 * n, 2 * (n + n_more), sizeof *grown);
    if (grown == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    f->metadata = grown;
    for (void *it = json_object_iter((json_t *)(uintptr_t)map); it != NULL;
         it = json_object_iter_next((json_t *)(uintptr_t)map, it)) {
        key = json_object_iter_key(it);
        value = json_object_iter_value(it);
        if (!json_is_string(value)) {
            RF_FAIL(RF_ERR_FORMAT, "__metadata__ '%.100s' is no text", key);
        }
        grown[2 * n] = rf_strdup(key);
        grown[2 * n + 1] = rf_strdup(json_string_value(value));
        f->n_metadata = ++n; /* also a half pair is freed */
        if (grown[2 * n - 2] == NULL || grown[2 * n - 1] == NULL) {
            return RF_ERR_NO_MEMORY;
        }
    }
fail:
    return status;
}

static int compare_bytes(const void *a, const void *b)
{
    const rf_named_tensor *s = a, *t = b;
    if (s->bytes != t->bytes) {
        return s->bytes < t->bytes ? -1 : 1;
    }
    return s->n_bytes != t->n_bytes ? (s->n_bytes < t->n_bytes ? -1 : 1) : strcmp(s->name, t->name);
}

/* Each of the tensors starts where the one before ends, and the last ends with the data. */
static rf_status check_filled(rf_named_tensor *tensors, int64_t n, const unsigned char *data,
                              int64_t data_bytes)
{
    rf_status status = RF_OK;
    const unsigned char *end = data;
    if (n > 0) {
        qsort(tensors, (size_t)n, sizeof *tensors, compare_bytes);
    }
    for (int64_t i = 0; i < n; i++) {
        const rf_named_tensor *t = &tensors[i];
        if (t->bytes != end) {
            RF_FAIL(RF_ERR_FORMAT,
                    "tensor '%.100s' starts at byte %td of the data, expected %td: %s", t->name,
                    t->bytes - data, end - data, t->bytes < end ? "tensors overlap" : "a hole");
        }
        end = t->bytes + t->n_bytes;
    }
    if (end != data + data_bytes) {
        RF_FAIL(RF_ERR_FORMAT, "%td bytes of data belong to no tensor", data + data_bytes - end);
    }
fail:
    return status;
}

static rf_status parse_header(rf_tensor_file *f, const json_t *header, const unsigned char *data,
                              int64_t data_bytes)
{
    rf_status status = RF_OK;
    int64_t first = f->n_tensors;

    for (void *it = json_object_iter((json_t *)(uintptr_t)header); it != NULL;
         it = json_object_iter_next((json_t *)(uintptr_t)header, it)) {
        const char *name = json_object_iter_key(it);
        const json_t *entry = json_object_iter_value(it);
        rf_named_tensor t = {0};
        if (strcmp(name, "__metadata__") == 0) {
            RF_TRY(add_metadata(f, entry));
            continue;
        }
        RF_TRY_DOING(parse_dtype(json_object_get(entry, "dtype"), &t.dtype), "tensor '%.100s'",
                     name);
        RF_TRY_DOING(parse_shape(json_object_get(entry, "shape"), &t), "tensor '%.100s'", name);
        RF_TRY_DOING(parse_offsets(json_object_get(entry, "data_offsets"), data, data_bytes, &t),
                     "tensor '%.100s'", name);
        RF_TRY(add_tensor(f, name, t));
    }
    if (f->n_tensors > first) {
        RF_TRY(check_filled(f->tensors + first, f->n_tensors - first, data, data_bytes));
    } else {
        RF_TRY(check_filled(NULL, 0, data, data_bytes));
    }
fail:
    return status;
}

/* The header of a mapped file as JSON, and where the data starts. */
static rf_status read_header(const rf_file_map *map, json_t **header, int64_t *data_start)
{
    rf_status status = RF_OK;
    uint64_t n = 0;
    if (map->n_bytes < 8) {
        RF_FAIL(RF_ERR_FORMAT, "%" PRId64 " bytes are no safetensors file (truncated?)",
                map->n_bytes);
    }
    memcpy(&n, map->bytes, 8);
    if (n > MAX_HEADER_BYTES) {
        RF_FAIL(RF_ERR_FORMAT,
                "its header says %" PRIu64 " bytes, expected at most %d: not a safetensors file?",
                n, MAX_HEADER_BYTES);
    }
    if (n < 2 || (int64_t)n > map->n_bytes - 8) {
        RF_FAIL(RF_ERR_FORMAT,
                "its header says %" PRIu64 " bytes, but %" PRId64 " follow (a truncated file?)", n,
                map->n_bytes - 8);
    }
    RF_TRY(rf_json_parse((const char *)map->bytes + 8, (int64_t)n, "header", header));
    if (!json_is_object(*header)) {
        RF_FAIL(RF_ERR_FORMAT, "its header is no JSON map");
    }
    *data_start = 8 + (int64_t)n;
fail:
    return status;
}

/* Map one file and add its tensors. */
static rf_status add_shard(rf_tensor_file *f, const char *path)
{
    rf_status status = RF_OK;
    json_t *header = NULL;
    rf_file_map *map = &f->maps[f->n_maps];
    int64_t start = 0;

    status = rf_file_map_open(path, map);
    if (status != RF_OK) {
        return status; /* its text names the path */
    }
    f->n_maps++;
    RF_TRY(read_header(map, &header, &start));
    RF_TRY(parse_header(f, header, map->bytes + start, map->n_bytes - start));
fail:
    json_decref(header);
    if (status != RF_OK) {
        rf_error_context("'%s'", path);
    }
    return status;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const rf_named_tensor *)a)->name, ((const rf_named_tensor *)b)->name);
}

/* Shards lie beside their index: anything else would let an index read the whole disk. */
static rf_status check_shard_name(const char *tensor, const char *shard)
{
    rf_status status = RF_OK;
    if (shard == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "weight_map '%.100s' is no file name", tensor);
    }
    if (shard[0] == '\0' || strcmp(shard, ".") == 0 || strcmp(shard, "..") == 0 ||
        strpbrk(shard, "/\\") != NULL) {
        RF_FAIL(RF_ERR_FORMAT,
                "weight_map '%.100s' names '%.200s', expected a file in the same folder", tensor,
                shard);
    }
fail:
    return status;
}

/* Drop the tensors of the shard just read that the index puts elsewhere or does not know. */
static void keep_mapped(rf_tensor_file *f, int64_t first, const json_t *weight_map,
                        const char *shard)
{
    int64_t n = first;
    for (int64_t i = first; i < f->n_tensors; i++) {
        const char *place = json_string_value(json_object_get(weight_map, f->tensors[i].name));
        if (place != NULL && strcmp(place, shard) == 0) {
            f->tensors[n++] = f->tensors[i];
        } else {
            rf_free((void *)(uintptr_t)f->tensors[i].name);
        }
    }
    f->n_tensors = n;
}

/* The file names of `weight_map` [*n], each once. Names are borrowed, `*out` is freed by the
 * caller. */
static rf_status list_shards(const json_t *weight_map, const char ***out, int64_t *n)
{
    rf_status status = RF_OK;
    json_t *map = (json_t *)(uintptr_t)weight_map, *seen = json_object();
    RF_ALLOC(*out, MAX_SHARDS);
    for (void *it = json_object_iter(map); it != NULL; it = json_object_iter_next(map, it)) {
        const char *shard = json_string_value(json_object_iter_value(it));
        RF_TRY(check_shard_name(json_object_iter_key(it), shard));
        if (json_object_get(seen, shard) == NULL) {
            if (*n == MAX_SHARDS) {
                RF_FAIL(RF_ERR_FORMAT, "more than %d shards", MAX_SHARDS);
            }
            (*out)[(*n)++] = shard;
            if (json_object_set_new(seen, shard, json_true()) != 0) {
                RF_FAIL(RF_ERR_NO_MEMORY, "no memory for the list of shards");
            }
        }
    }
fail:
    json_decref(seen);
    return status;
}

static rf_status check_all_found(const rf_tensor_file *f, const json_t *weight_map)
{
    rf_status status = RF_OK;
    json_t *map = (json_t *)(uintptr_t)weight_map;
    for (void *it = json_object_iter(map); it != NULL; it = json_object_iter_next(map, it)) {
        if (rf_tensor_file_find(f, json_object_iter_key(it)) == NULL) {
            RF_FAIL(RF_ERR_FORMAT, "tensor '%.100s' is not in '%.200s', where the index puts it",
                    json_object_iter_key(it), json_string_value(json_object_iter_value(it)));
        }
    }
fail:
    return status;
}

static void sort_by_name(rf_tensor_file *f)
{
    if (f->n_tensors > 1) {
        qsort(f->tensors, (size_t)f->n_tensors, sizeof *f->tensors, compare_names);
    }
}

static rf_status open_index(rf_tensor_file *f, const char *path)
{
    rf_status status = RF_OK;
    json_t *index = NULL;
    const json_t *weight_map = NULL;
    const char **shards = NULL;
    int64_t n_shards = 0;
    char folder[RF_PATH_LEN], shard_path[RF_PATH_LEN];

    RF_TRY(rf_json_load(path, &index));
    RF_TRY(rf_file_folder(folder, path));
    weight_map = json_object_get(index, "weight_map");
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' has no weight_map: expected a map from tensor to file", path);
    }
    RF_TRY_DOING(list_shards(weight_map, &shards, &n_shards), "'%s'", path);
    RF_ALLOC(f->maps, n_shards);
    for (int64_t i = 0; i < n_shards; i++) {
        int64_t first = f->n_tensors;
        RF_TRY(rf_path_join(shard_path, folder, shards[i]));
        RF_TRY_DOING(add_shard(f, shard_path), "shard of '%s'", path);
        keep_mapped(f, first, weight_map, shards[i]);
    }
    sort_by_name(f);
    RF_TRY_DOING(check_all_found(f, weight_map), "'%s'", path);
fail:
    rf_free(shards);
    json_decref(index);
    return status;
}

rf_status rf_tensor_file_open(const char *path, rf_tensor_file **out)
{
    static const char index_end[] = ".index.json";
    rf_status status = RF_OK;
    rf_tensor_file *f = NULL;
    size_t n = strlen(path), n_end = sizeof index_end - 1;

    *out = NULL;
    RF_ALLOC(f, 1);
    if (n > n_end && strcmp(path + n - n_end, index_end) == 0) {
        RF_TRY(open_index(f, path));
    } else {
        RF_ALLOC(f->maps, 1);
        RF_TRY(add_shard(f, path));
        sort_by_name(f);
    }
    *out = f;
    f = NULL;
fail:
    rf_tensor_file_close(f);
    return status;
}

void rf_tensor_file_close(rf_tensor_file *f)
{
    if (f != NULL) {
        for (int64_t i = 0; i < f->n_tensors; i++) {
            rf_free((void *)(uintptr_t)f->tensors[i].name);
        }
        for (int64_t i = 0; i < 2 * f->n_metadata; i++) {
            rf_free(f->metadata[i]);
        }
        for (int64_t i = 0; i < f->n_maps; i++) {
            rf_file_map_close(&f->maps[i]);
        }
        rf_free(f->tensors);
        rf_free(f->metadata);
        rf_free(f->maps);
        rf_free(f);
    }
}

int64_t rf_tensor_file_count(const rf_tensor_file *f)
{
    return f->n_tensors;
}

const rf_named_tensor *rf_tensor_file_at(const rf_tensor_file *f, int64_t idx)
{
    return idx >= 0 && idx < f->n_tensors ? &f->tensors[idx] : NULL;
}

const rf_named_tensor *rf_tensor_file_find(const rf_tensor_file *f, const char *name)
{
    const rf_named_tensor key = {.name = name};
    return f->n_tensors == 0
               ? NULL
               : bsearch(&key, f->tensors, (size_t)f->n_tensors, sizeof *f->tensors, compare_names);
}

const char *rf_tensor_file_metadata(const rf_tensor_file *f, const char *key)
{
    for (int64_t i = 0; i < f->n_metadata; i++) {
        if (strcmp(f->metadata[2 * i], key) == 0) {
            return f->metadata[2 * i + 1];
        }
    }
    return NULL;
}
