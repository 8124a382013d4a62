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

/* Write all bytes to `fd`, whatever the system takes at a time; 0 or an errno. */
int rf_file_write_all(int fd, const void *bytes, int64_t n_bytes);

/* A node of its own: the name of its file lies in the same block, so that it goes with it. */
rf_yaml *rf_yaml_new_root(rf_yaml_kind kind, const char *file);
/* A node that borrows `file`. */
rf_yaml *rf_yaml_new(rf_yaml_kind kind, const char *file, int line, int column);
/* Put `item` (taken, also on failure) at the end of a list (`key` NULL) or of a map. */
rf_status rf_yaml_append(rf_yaml *parent, const char *key, rf_yaml *item);

/* Bytes of one element. */
int64_t rf_file_dtype_bytes(rf_file_dtype dtype);
/* "F32" and so on, as the format spells it. */
const char *rf_file_dtype_name(rf_file_dtype dtype);

#endif
