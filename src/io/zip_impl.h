/* The directory of a zip archive in memory, as far as archives of tensors need it: entries are
 * found by name and read in place. */
#ifndef REFRACT_ZIP_IMPL_H
#define REFRACT_ZIP_IMPL_H

#include "io_impl.h"

typedef struct rf_zip_entry {
    const char *name; /* [name_len], without a '\0'; borrowed, as `bytes` are */
    int64_t name_len;
    const unsigned char *bytes; /* [n_bytes]; compressed where `is_stored` is false */
    int64_t n_bytes;
    bool is_stored;
} rf_zip_entry;

typedef struct rf_zip {
    rf_zip_entry *entries; /* [n_entries], by name */
    int64_t n_entries;
} rf_zip;

/* Read the directory (zip64 too) and check every local header. FORMAT: an entry outside the file,
 * two of one name, a directory that contradicts itself; UNSUPPORTED: encrypted, several disks. */
rf_status rf_zip_read(const unsigned char *bytes, int64_t n_bytes, rf_zip *out);
void rf_zip_fini(rf_zip *zip);
/* Or NULL. */
const rf_zip_entry *rf_zip_find(const rf_zip *zip, const char *name);

#endif
