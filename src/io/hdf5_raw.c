/* Datasets that HDF5 only describes. Their numbers are read and written at the place in the file
 * that it names, by any number of processes and threads at once: no metadata changes while they
 * are, so that a killed writer leaves a file that opens. */
#include "hdf5_impl.h"

#include <string.h>
#include <sys/resource.h>

/* A file may not grow beyond this process's limit: HDF5, which finds out when it is done, would not
 * survive it. */
static rf_status check_limit(rf_h5_file *f, const char *name, int64_t n_bytes)
{
    struct rlimit limit = {0};
    hsize_t size = 0;
    rf_status status = RF_OK;
    if (H5Fget_filesize(f->id, &size) < 0) {
        return rf_h5_raise(RF_ERR_IO, f, "write", name);
    }
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        (size > limit.rlim_cur || (rlim_t)n_bytes > limit.rlim_cur - size)) {
        rf_h5_divert(f);
        RF_FAIL(RF_ERR_IO, "dataset '%s': cannot write '%s': File too large", name, f->path);
    }
fail:
    return status;
}

/* The room is there from the start and nothing is put into it. */
static herr_t set_contiguous(hid_t creation)
{
    if (H5Pset_obj_track_times(creation, false) < 0 ||
        H5Pset_layout(creation, H5D_CONTIGUOUS) < 0 ||
        H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) < 0) {
        return -1;
    }
    return H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
}

rf_status rf_h5_declare(rf_h5_file *f, const char *name, rf_h5_type type, int n_dims,
                        const int64_t *shape)
{
    rf_status status = RF_OK;
    hid_t id = rf_h5_open_type(type), space = H5I_INVALID_HID, creation = H5I_INVALID_HID;
    hid_t dataset = H5I_INVALID_HID;
    int64_t n_elems = 0, n_bytes = 0;

    RF_REQUIRE(id >= 0, "dataset '%s' has type %d", name, (int)type);
    RF_TRY(rf_h5_check_new(f, name));
    RF_TRY(rf_h5_check_shape(name, n_dims, shape, &n_elems));
    RF_REQUIRE(n_elems > 0, "dataset '%s' would be empty", name);
    RF_TRY(rf_mul_i64(n_elems, (int64_t)H5Tget_size(id), name, &n_bytes));
    RF_TRY(check_limit(f, name, n_bytes));
    RF_TRY(rf_h5_reserve(f, name, 0));
    RF_TRY(rf_h5_make_groups(f, name));
    space = rf_h5_make_space(n_dims, shape);
    creation = H5Pcreate(H5P_DATASET_CREATE);
    if (space < 0 || creation < 0 || set_contiguous(creation) < 0 ||
        (dataset = H5Dcreate2(f->id, name, id, space, H5P_DEFAULT, creation, H5P_DEFAULT)) < 0) {
        status = rf_h5_raise(RF_ERR_IO, f, "make dataset", name);
        rf_h5_divert(f);
        goto fail;
    }
    RF_TRY(rf_h5_flush(f, name));
fail:
    rf_h5_close_id(&dataset);
    rf_h5_close_id(&creation);
    rf_h5_close_id(&space);
    rf_h5_close_id(&id);
    return status;
}

rf_status rf_h5_locate(const rf_h5_file *f, const char *name, rf_h5_type type, int n_dims,
                       const int64_t *shape, int64_t *offset)
{
    rf_status status = RF_OK;
    hid_t dataset = H5I_INVALID_HID, id = rf_h5_open_type(type), creation = H5I_INVALID_HID;
    hsize_t file_bytes = 0;
    int64_t n_elems = 0, n_bytes = 0;

    *offset = 0;
    RF_REQUIRE(id >= 0, "dataset '%s' has type %d", name, (int)type);
    RF_TRY_DOING(rf_h5_check_shape(name, n_dims, shape, &n_elems), "'%s'", f->path);
    RF_TRY_DOING(rf_mul_i64(n_elems, (int64_t)H5Tget_size(id), name, &n_bytes), "'%s'", f->path);
    RF_TRY(rf_h5_open_dataset(f, name, &dataset));
    RF_TRY(rf_h5_check_is(f, name, dataset, type, n_dims, shape));
    creation = H5Dget_create_plist(dataset);
    const haddr_t at = H5Dget_offset(dataset);
    if (creation < 0 || H5Fget_filesize(f->id, &file_bytes) < 0) {
        status = rf_h5_raise(RF_ERR_FORMAT, f, "look at dataset", name);
        goto fail;
    }
    if (H5Pget_layout(creation) != H5D_CONTIGUOUS || at == HADDR_UNDEF) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': dataset '%s' is not in one piece", f->path, name);
    }
    if (at > INT64_MAX || (hsize_t)at > file_bytes || file_bytes - at < (hsize_t)n_bytes) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s': dataset '%s' has %" PRId64 " bytes from byte %" PRIu64
                " on and the file ends at %" PRIu64 ": it was cut short",
                f->path, name, n_bytes, (uint64_t)at, (uint64_t)file_bytes);
    }
    *offset = (int64_t)at;
fail:
    rf_h5_close_id(&creation);
    rf_h5_close_id(&dataset);
    rf_h5_close_id(&id);
    return status;
}

static rf_status write_attribute(rf_h5_file *f, hid_t object, const char *key, const char *text)
{
    rf_status status = RF_OK;
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR), attribute = H5I_INVALID_HID;
    if (type < 0 || space < 0 || H5Tset_size(type, strlen(text) + 1) < 0 ||
        H5Tset_cset(type, H5T_CSET_UTF8) < 0 ||
        (attribute = H5Acreate2(object, key, type, space, H5P_DEFAULT, H5P_DEFAULT)) < 0 ||
        H5Awrite(attribute, type, text) < 0) {
        status = rf_h5_raise(RF_ERR_IO, f, "write attribute", key);
        rf_h5_divert(f);
    }
    rf_h5_close_id(&attribute);
    rf_h5_close_id(&space);
    rf_h5_close_id(&type);
    return status;
}

rf_status rf_h5_describe(rf_h5_file *f, const char *name, const char *key, const char *text)
{
    rf_status status = RF_OK;
    hid_t object = H5I_INVALID_HID;

    RF_REQUIRE(f->is_new && !f->is_broken, "'%s' cannot be written: %s", f->path,
               f->is_new ? "a write to it failed" : "it was opened for reading");
    object = H5Oopen(f->id, name != NULL ? name : "/", H5P_DEFAULT);
    if (object < 0) {
        status = rf_h5_raise(RF_ERR_IO, f, "describe", name);
        goto fail;
    }
    RF_TRY(write_attribute(f, object, key, text));
    RF_TRY(rf_h5_flush(f, name));
fail:
    rf_h5_close_id(&object);
    return status;
}
