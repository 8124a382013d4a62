/* An index of shards: a JSON file that says in its weight_map which file beside it holds which
 * tensor. */
#include "io_impl.h"

#include <jansson.h>
#include <string.h>

enum { MAX_SHARDS = 10000 };

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

rf_status rf_tensor_index_open(rf_tensor_file *f, const char *path)
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
    for (int64_t i = 0; i < n_shards; i++) {
        int64_t first = f->n_tensors;
        RF_TRY(rf_path_join(shard_path, folder, shards[i]));
        RF_TRY_DOING(rf_tensor_file_map(f, shard_path), "shard of '%s'", path);
        keep_mapped(f, first, weight_map, shards[i]);
    }
    RF_TRY_DOING(rf_tensor_file_sort(f), "'%s'", path);
    RF_TRY_DOING(check_all_found(f, weight_map), "'%s'", path);
fail:
    rf_free(shards);
    json_decref(index);
    return status;
}
