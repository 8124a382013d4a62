/* What the files of the io layer share. */
#ifndef REFRACT_IO_IMPL_H
#define REFRACT_IO_IMPL_H

#include "refract/io.h"

#include <errno.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "files are little-endian and are read in place: a big-endian machine is not supported"
#endif

/* Record "cannot <doing> '<path>': <reason of errno_value>". A full disk is said with the folder
 * that it holds. */
void rf_file_explain(const char *doing, const char *path, int errno_value);

/* The same, and the status that belongs to it. */
static inline rf_status rf_file_raise(const char *doing, const char *path, int errno_value)
{
    rf_file_explain(doing, path, errno_value);
    return errno_value == ENOENT ? RF_ERR_NOT_FOUND : RF_ERR_IO;
}

/* The folder of `path` ("." when it has none). */
rf_status rf_file_folder(char out[RF_PATH_LEN], const char *path);

/* Open a plain file for reading; `n_bytes` is its size. *fd is -1 on failure. */
rf_status rf_file_open_read(const char *path, int *fd, int64_t *n_bytes);

/* Write all bytes to `fd`, whatever the system takes at a time; 0 or an errno. */
int rf_file_write_all(int fd, const void *bytes, int64_t n_bytes);

/* A node of its own: the name of its file lies in the same block, so that it goes with it. */
rf_yaml *rf_yaml_new_root(rf_yaml_kind kind, const char *file);
/* A node that borrows `file`. */
rf_yaml *rf_yaml_new(rf_yaml_kind kind, const char *file, int line, int column);
/* Put `item` (taken, also on failure) at the end of a list (`key` NULL) or of a map. */
rf_status rf_yaml_append(rf_yaml *parent, const char *key, rf_yaml *item);

/* Tensors by name: the list that the readers of each format fill. */
struct rf_tensor_file {
    rf_file_map *maps; /* [n_maps], one a shard */
    int64_t n_maps;
    void **blocks; /* [n_blocks]: what could not stay in the map */
    int64_t n_blocks;
    rf_named_tensor *tensors; /* [n_tensors], by name once the file is open */
    int64_t n_tensors, tensors_cap;
    char **metadata; /* key, value, key, ... */
    int64_t n_metadata;
    int64_t bytes_left; /* what a hostile file may still make us allocate */
};

/* Append a tensor; its name is copied, its bytes are borrowed. */
rf_status rf_tensor_file_add(rf_tensor_file *f, const char *name, rf_named_tensor t);
/* Zeroed bytes that live as long as `f`. */
rf_status rf_tensor_file_block(rf_tensor_file *f, int64_t n_bytes, unsigned char **out);
/* Map `path` and add its tensors, whatever its format; its name is put before the error's text. */
rf_status rf_tensor_file_map(rf_tensor_file *f, const char *path);
/* Add the tensors of the shards that the index at `path` names, and sort them. */
rf_status rf_tensor_index_open(rf_tensor_file *f, const char *path);
/* Sort by name; FORMAT where two tensors share one. */
rf_status rf_tensor_file_sort(rf_tensor_file *f);
/* Add the tensors of a whole file. */
rf_status rf_safetensors_parse(rf_tensor_file *f, const unsigned char *bytes, int64_t n_bytes);
rf_status rf_torch_archive_parse(rf_tensor_file *f, const unsigned char *bytes, int64_t n_bytes);
/* Whether `bytes` begin as torch.save's legacy layout does. */
bool rf_torch_is_legacy(const unsigned char *bytes, int64_t n_bytes);

/* Bytes of `n_dims` sizes >= 0 of `dtype`: n_elems and n_bytes of `t`; FORMAT when they overflow.
 */
rf_status rf_named_tensor_count(rf_named_tensor *t);
/* `out` = the elements of `shape` at `stride` (in elements) from `from`, in row-major order. */
void rf_tensor_gather(const unsigned char *from, int64_t elem_bytes, int n_dims,
                      const int64_t *shape, const int64_t *stride, unsigned char *out);

/* Bytes of one element. */
int64_t rf_file_dtype_bytes(rf_file_dtype dtype);
/* "F32" and so on, as the format spells it. */
const char *rf_file_dtype_name(rf_file_dtype dtype);

#endif
