/* Lists of texts in HDF5 files, as strings of one length. */
#include "hdf5_impl.h"

#include <string.h>

enum { MAX_NAME_BYTES = RF_PATH_LEN, MAX_ALL_BYTES = INT32_MAX };

static size_t longest(const char *const *texts, int64_t n)
{
    size_t most = 1;
    for (int64_t i = 0; i < n; i++) {
        const size_t len = strlen(texts[i]);
        most = len > most ? len : most;
    }
    return most;
}

static hid_t open_string(size_t n_bytes)
{
    hid_t id = H5Tcopy(H5T_C_S1);
    if (id >= 0 && (H5Tset_size(id, n_bytes) < 0 || H5Tset_strpad(id, H5T_STR_NULLPAD) < 0 ||
                    H5Tset_cset(id, H5T_CSET_UTF8) < 0)) {
        H5Tclose(id);
        return H5I_INVALID_HID;
    }
    return id;
}

static herr_t set_one_chunk(hid_t creation, int64_t n)
{
    const hsize_t chunk = (hsize_t)rf_min_i64(rf_max_i64(n, 1), 1 << 12);
    if (H5Pset_obj_track_times(creation, false) < 0) {
        return -1;
    }
    return n == 0 ? 0 : H5Pset_chunk(creation, 1, &chunk) < 0 ? -1 : H5Pset_fletcher32(creation);
}

rf_status rf_h5_write_names(rf_h5_file *f, const char *name, const char *const *texts, int64_t n)
{
    rf_status status = RF_OK;
    const size_t width = longest(texts, n);
    hid_t id = open_string(width), space = H5I_INVALID_HID, creation = H5I_INVALID_HID;
    hid_t dataset = H5I_INVALID_HID;
    char *packed = NULL;

    RF_REQUIRE(id >= 0 && width <= MAX_NAME_BYTES, "dataset '%s': a text of %zu bytes", name,
               width);
    RF_TRY(rf_h5_check_new(f, name));
    if (n > MAX_ALL_BYTES / ((int64_t)width + 1)) { /* no reader takes more */
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "'%s': %" PRId64
                " texts of up to %zu bytes are more than 2 GiB: shorten the longest",
                name, n, width);
    }
    RF_ALLOC(packed, (int64_t)width * n);
    for (int64_t i = 0; i < n; i++) {
        memcpy(packed + (size_t)i * width, texts[i], strlen(texts[i]));
    }
    RF_TRY(rf_h5_reserve(f, name, ((int64_t)width + 1) * (n + (1 << 12))));
    RF_TRY(rf_h5_make_groups(f, name));
    space = rf_h5_make_space(1, &n);
    creation = H5Pcreate(H5P_DATASET_CREATE);
    if (space < 0 || creation < 0 || set_one_chunk(creation, n) < 0 ||
        (dataset = H5Dcreate2(f->id, name, id, space, H5P_DEFAULT, creation, H5P_DEFAULT)) < 0 ||
        (n > 0 && H5Dwrite(dataset, id, H5S_ALL, H5S_ALL, H5P_DEFAULT, packed) < 0)) {
        status = rf_h5_raise(RF_ERR_IO, f, "write dataset", name);
        rf_h5_divert(f);
        goto fail;
    }
    RF_TRY(rf_h5_flush(f, name));
fail:
    rf_free(packed);
    rf_h5_close_id(&dataset);
    rf_h5_close_id(&creation);
    rf_h5_close_id(&space);
    rf_h5_close_id(&id);
    return status;
}

/* The length of the strings of `dataset`. */
static rf_status find_width(const rf_h5_file *f, const char *name, hid_t dataset, size_t *width)
{
    rf_status status = RF_OK;
    hid_t id = H5Dget_type(dataset);
    *width = id >= 0 && H5Tget_class(id) == H5T_STRING ? H5Tget_size(id) : 0;
    if (*width == 0 || *width > MAX_NAME_BYTES || H5Tis_variable_str(id) != 0) {
        status = rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__,
                                "'%s': dataset '%s' is no list of texts of one length up to %d",
                                f->path, name, (int)MAX_NAME_BYTES);
    }
    rf_h5_close_id(&id);
    return status;
}

/* One block: the pointers, then the texts. */
static rf_status unpack(const char *packed, int64_t n, size_t width, char ***out)
{
    rf_status status = RF_OK;
    char *block = NULL;
    RF_ALLOC(block, (int64_t)sizeof(char *) * rf_max_i64(n, 1) + (int64_t)(width + 1) * n);
    char **texts = (char **)(void *)block, *at = block + sizeof(char *) * (size_t)rf_max_i64(n, 1);
    for (int64_t i = 0; i < n; i++, at += width + 1) {
        memcpy(at, packed + (size_t)i * width, width);
        texts[i] = at;
    }
    *out = texts;
fail:
    return status;
}

rf_status rf_h5_read_names(const rf_h5_file *f, const char *name, char ***texts, int64_t *n)
{
    rf_status status = RF_OK;
    hid_t dataset = H5I_INVALID_HID, id = H5I_INVALID_HID;
    size_t width = 0;
    int n_dims = 0;
    int64_t n_bytes = 0;
    char *packed = NULL;

    *texts = NULL;
    *n = 0;
    RF_TRY(rf_h5_shape(f, name, 1, &n_dims, n));
    RF_TRY(rf_h5_open_dataset(f, name, &dataset));
    RF_TRY(find_width(f, name, dataset, &width));
    RF_TRY(rf_mul_i64(*n, (int64_t)width + 1, name, &n_bytes));
    if (n_dims != 1 || n_bytes > MAX_ALL_BYTES) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': dataset '%s' is no list of texts of at most 2 GiB", f->path,
                name);
    }
    RF_ALLOC(packed, n_bytes);
    id = open_string(width);
    if (id < 0 || (*n > 0 && H5Dread(dataset, id, H5S_ALL, H5S_ALL, H5P_DEFAULT, packed) < 0)) {
        status = rf_h5_raise(RF_ERR_FORMAT, f, "read dataset", name);
        goto fail;
    }
    RF_TRY(unpack(packed, *n, width, texts));
fail:
    rf_free(packed);
    rf_h5_close_id(&id);
    rf_h5_close_id(&dataset);
    return status;
}
