/* What hdf5.c (files) and hdf5_dataset.c (what is in them) share. */
#ifndef REFRACT_HDF5_IMPL_H
#define REFRACT_HDF5_IMPL_H

#include "io_impl.h"

#include <hdf5.h>

struct rf_h5_file {
    hid_t id;
    bool is_new;    /* under construction */
    bool is_broken; /* a write failed: it can only be closed */
    char path[RF_PATH_LEN], temp[RF_PATH_LEN];
};

/* "cannot <doing> '<path>': <HDF5's deepest reason>", for dataset `name` where it is not NULL.
 * Right after the call that failed: the next one clears HDF5's error stack. */
rf_status rf_h5_raise(rf_status code, const rf_h5_file *f, const char *doing, const char *name);

/* hdf5_dataset.c, for hdf5_raw.c and hdf5_names.c. */
/* A copy of the file's type for `type`, to be closed; < 0 when HDF5 fails. */
hid_t rf_h5_open_type(rf_h5_type type);
rf_status rf_h5_check_new(const rf_h5_file *f, const char *name);
rf_status rf_h5_check_shape(const char *name, int n_dims, const int64_t *shape, int64_t *n_elems);
rf_status rf_h5_make_groups(const rf_h5_file *f, const char *name);
hid_t rf_h5_make_space(int n_dims, const int64_t *shape);
/* An existing dataset, with its data in the file itself. */
rf_status rf_h5_open_dataset(const rf_h5_file *f, const char *name, hid_t *out);
/* FORMAT unless type and shape are these. */
rf_status rf_h5_check_is(const rf_h5_file *f, const char *name, hid_t dataset, rf_h5_type type,
                         int n_dims, const int64_t *shape);

/* Close whatever `id` is and forget it. */
void rf_h5_close_id(hid_t *id);

/* Have the disk set aside `n_bytes` more before HDF5 writes them. */
rf_status rf_h5_reserve(rf_h5_file *f, const char *name, int64_t n_bytes);

/* Bring all to the system. */
rf_status rf_h5_flush(rf_h5_file *f, const char *name);

/* A write failed: what HDF5 still wants to write goes nowhere. */
void rf_h5_divert(rf_h5_file *f);

#endif
