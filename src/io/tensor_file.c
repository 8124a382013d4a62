/* A file of named tensors, whatever its format: the list that the readers of each format fill, and
 * the door that tells formats apart by their content. A file that is cut while it is mapped kills
 * its reader: writers must replace, never rewrite. Who reads for long takes the tensor's place and
 * reads the file itself. */
#include "io_impl.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* ---- which format --------------------------------------------------------------------------- */

typedef enum kind { KIND_SAFETENSORS, KIND_TORCH, KIND_JSON } kind;

/* What people hand in instead, by what stands where. */
static const struct {
    int64_t at;
    const char *mark;
    rf_status status;
    const char *what;
} strangers[] = {
    {0, "version https://git-lfs", RF_ERR_FORMAT,
     "it is a Git LFS pointer: the weights themselves were not fetched (git lfs pull)"},
    {0, "<!DOCTYPE", RF_ERR_FORMAT, "it is a web page: the download went wrong"},
    {0, "<html", RF_ERR_FORMAT, "it is a web page: the download went wrong"},
    {0, "\x93NUMPY", RF_ERR_UNSUPPORTED, "it is an npy array: expected tensors with names"},
    {0, "\x89HDF", RF_ERR_UNSUPPORTED, "it is an HDF5 file: convert it to safetensors"},
    {0, "GGUF", RF_ERR_UNSUPPORTED, "it is a GGUF file: take the model's safetensors"},
    {0, "\x1f\x8b", RF_ERR_UNSUPPORTED, "it is compressed with gzip: unpack it first"},
    {257, "ustar", RF_ERR_UNSUPPORTED,
     "it is a tar file; if it is PyTorch's layout before 2017, convert it: load it with PyTorch "
     "and "
     "torch.save it again"},
};

static bool begins(const unsigned char *bytes, int64_t n_bytes, int64_t at, const char *mark)
{
    int64_t n = (int64_t)strlen(mark);
    return n_bytes - at >= n && memcmp(bytes + at, mark, (size_t)n) == 0;
}

/* A map of JSON; a safetensors file that begins so has zero bytes in the length of its header. */
static bool is_json(const unsigned char *bytes, int64_t n_bytes)
{
    int64_t i = 0;
    while (i < n_bytes && i < 64 && isspace(bytes[i])) {
        i++;
    }
    return i < n_bytes && bytes[i] == '{' &&
           memchr(bytes, 0, (size_t)rf_min_i64(n_bytes, 8)) == NULL;
}

/* A pickle of protocol 2 to 5; the length of a safetensors header may begin so too. */
static bool is_pickle(const unsigned char *bytes, int64_t n_bytes)
{
    return n_bytes > 8 && bytes[0] == 0x80 && bytes[1] >= 2 && bytes[1] <= 5 && bytes[8] != '{';
}

static rf_status tell_kind(const unsigned char *bytes, int64_t n_bytes, kind *out)
{
    rf_status status = RF_OK;
    *out = KIND_SAFETENSORS;
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++) {
        if (begins(bytes, n_bytes, strangers[i].at, strangers[i].mark)) {
            RF_FAIL(strangers[i].status, "%s", strangers[i].what);
        }
    }
    if (begins(bytes, n_bytes, 0, "PK\3\4") || begins(bytes, n_bytes, 0, "PK\5\6") ||
        rf_torch_is_legacy(bytes, n_bytes)) {
        *out = KIND_TORCH;
    } else if (is_pickle(bytes, n_bytes)) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "it is a pickle that torch.save did not write");
    } else if (is_json(bytes, n_bytes)) {
        *out = KIND_JSON;
    }
fail:
    return status;
}

/* ---- the list ------------------------------------------------------------------------------- */

/* What the list of a file and the tensors that cannot stay in its map may take: so many bytes, and
 * so many for each byte of the file. */
enum { LEAST_BYTES = 1 << 20, BYTES_A_BYTE = 8 };

/* Take `n_bytes` from that. */
static rf_status charge(rf_tensor_file *f, int64_t n_bytes)
{
    rf_status status = RF_OK;
    if (n_bytes > f->bytes_left) {
        RF_FAIL(RF_ERR_FORMAT, "its tensors would take many times the memory of the file");
    }
    f->bytes_left -= n_bytes;
fail:
    return status;
}

rf_status rf_tensor_file_add(rf_tensor_file *f, const char *name, rf_named_tensor t)
{
    rf_status status = RF_OK;
    RF_TRY(charge(f, (int64_t)(sizeof t + 64 + strlen(name))));
    if (f->n_tensors == f->tensors_cap) {
        int64_t cap = rf_max_i64(64, 2 * f->tensors_cap);
        rf_named_tensor *grown = rf_realloc(f->tensors, f->tensors_cap, cap, sizeof *grown);
        if (grown == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        f->tensors = grown;
        f->tensors_cap = cap;
    }
    t.name = rf_strdup(name);
    if (t.name == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    f->tensors[f->n_tensors++] = t;
fail:
    return status;
}

rf_status rf_tensor_file_block(rf_tensor_file *f, int64_t n_bytes, unsigned char **out)
{
    rf_status status = RF_OK;
    RF_TRY(charge(f, n_bytes));
    if ((f->n_blocks & (f->n_blocks - 1)) == 0) { /* full at 0, 1, 2, 4, 8, ... */
        int64_t cap = rf_max_i64(1, 2 * f->n_blocks);
        void **grown = rf_realloc(f->blocks, f->n_blocks, cap, sizeof *grown);
        if (grown == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        f->blocks = grown;
    }
    RF_ALLOC(*out, n_bytes);
    f->blocks[f->n_blocks++] = *out;
fail:
    return status;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const rf_named_tensor *)a)->name, ((const rf_named_tensor *)b)->name);
}

rf_status rf_tensor_file_sort(rf_tensor_file *f)
{
    rf_status status = RF_OK;
    if (f->n_tensors > 1) {
        qsort(f->tensors, (size_t)f->n_tensors, sizeof *f->tensors, compare_names);
    }
    for (int64_t i = 1; i < f->n_tensors; i++) {
        if (strcmp(f->tensors[i - 1].name, f->tensors[i].name) == 0) {
            RF_FAIL(RF_ERR_FORMAT, "two of its tensors are called '%.200s'", f->tensors[i].name);
        }
    }
fail:
    return status;
}

/* ---- opening -------------------------------------------------------------------------------- */

static rf_status parse(rf_tensor_file *f, const unsigned char *bytes, int64_t n_bytes)
{
    rf_status status = RF_OK;
    kind k = KIND_SAFETENSORS;

    RF_TRY(tell_kind(bytes, n_bytes, &k));
    if (k == KIND_JSON) {
        RF_FAIL(RF_ERR_FORMAT, "it is JSON: expected tensors");
    }
    f->bytes_left = LEAST_BYTES + BYTES_A_BYTE * n_bytes;
    return k == KIND_TORCH ? rf_torch_archive_parse(f, bytes, n_bytes)
                           : rf_safetensors_parse(f, bytes, n_bytes);
fail:
    return status;
}

rf_status rf_tensor_file_map(rf_tensor_file *f, const char *path)
{
    rf_status status = RF_OK;
    rf_file_map *grown = rf_realloc(f->maps, f->n_maps, f->n_maps + 1, sizeof *grown);
    if (grown == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    f->maps = grown;
    RF_TRY(rf_file_map_open(path, &f->maps[f->n_maps])); /* its text names the path */
    f->n_maps++;
    RF_TRY_DOING(parse(f, f->maps[f->n_maps - 1].bytes, f->maps[f->n_maps - 1].n_bytes), "'%s'",
                 path);
fail:
    return status;
}

static rf_status is_index(const char *path, bool *out)
{
    rf_file_map map;
    rf_status status = rf_file_map_open(path, &map);
    if (status == RF_OK) {
        *out = is_json(map.bytes, map.n_bytes);
        rf_file_map_close(&map);
    }
    return status;
}

rf_status rf_tensor_file_open(const char *path, rf_tensor_file **out)
{
    rf_status status = RF_OK;
    rf_tensor_file *f = NULL;
    bool has_shards = false;

    *out = NULL;
    RF_TRY(is_index(path, &has_shards));
    RF_ALLOC(f, 1);
    if (has_shards) {
        RF_TRY(rf_tensor_index_open(f, path));
    } else {
        RF_TRY(rf_tensor_file_map(f, path));
        RF_TRY_DOING(rf_tensor_file_sort(f), "'%s'", path);
    }
    *out = f;
    f = NULL;
fail:
    rf_tensor_file_close(f);
    return status;
}

rf_status rf_tensor_file_parse(const void *bytes, int64_t n_bytes, const char *name,
                               rf_tensor_file **out)
{
    rf_status status = RF_OK;
    rf_tensor_file *f = NULL;

    *out = NULL;
    RF_ALLOC(f, 1);
    RF_TRY_DOING(parse(f, bytes, n_bytes), "'%s'", name);
    RF_TRY_DOING(rf_tensor_file_sort(f), "'%s'", name);
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
        for (int64_t i = 0; i < f->n_blocks; i++) {
            rf_free(f->blocks[i]);
        }
        for (int64_t i = 0; i < f->n_maps; i++) {
            rf_file_map_close(&f->maps[i]);
        }
        rf_free(f->tensors);
        rf_free(f->metadata);
        rf_free(f->blocks);
        rf_free(f->maps);
        rf_free(f);
    }
}

/* ---- looking -------------------------------------------------------------------------------- */

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

bool rf_tensor_file_place(const rf_tensor_file *f, const rf_named_tensor *t, int64_t *offset)
{
    const rf_file_map *map = f->n_maps == 1 ? &f->maps[0] : NULL;
    const uintptr_t at = (uintptr_t)t->bytes, first = map != NULL ? (uintptr_t)map->bytes : 0;
    if (map == NULL || at < first || at - first > (uintptr_t)map->n_bytes) {
        return false;
    }
    *offset = (int64_t)(at - first);
    return true;
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
