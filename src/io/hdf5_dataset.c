/* Datasets of HDF5 files: chunked, checksummed, without times. Links and layouts that lead out of
 * the file are refused when it is read. */
#include "hdf5_impl.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK_BYTES = 4 << 20, MAX_TEXT_BYTES = 64 << 20 };

/* A float of 16 bits: sign, exponent, mantissa. */
static hid_t make_half(size_t exponent_bits, size_t bias)
{
    hid_t id = H5Tcopy(H5T_IEEE_F32LE);
    const size_t mantissa_bits = 15 - exponent_bits;
    if (id >= 0 && (H5Tset_fields(id, 15, mantissa_bits, exponent_bits, 0, mantissa_bits) < 0 ||
                    H5Tset_size(id, 2) < 0 || H5Tset_ebias(id, bias) < 0)) {
        H5Tclose(id);
        return H5I_INVALID_HID;
    }
    return id;
}

hid_t rf_h5_open_type(rf_h5_type type)
{
    switch (type) {
    case RF_H5_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case RF_H5_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case RF_H5_F16:
        return make_half(5, 15);
    case RF_H5_BF16:
        return make_half(8, 127);
    case RF_H5_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case RF_H5_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case RF_H5_U8:
        return H5Tcopy(H5T_STD_U8LE);
    }
    return H5I_INVALID_HID;
}

static const char *type_name(rf_h5_type type)
{
    static const char *const names[] = {"fp32", "fp64", "fp16", "bf16", "int32", "int64", "uint8"};
    return names[type];
}

/* Chunks of whole rows, all but equal, of at most CHUNK_BYTES; a longer row is cut itself. */
static void choose_chunk(int n_dims, const int64_t *shape, int64_t elem_bytes, hsize_t *chunk)
{
    int64_t inner = elem_bytes;
    for (int d = n_dims - 1; d >= 0; d--) {
        int64_t size = rf_max_i64(1, shape[d]);
        int64_t most = rf_max_i64(1, rf_min_i64(size, CHUNK_BYTES / inner));
        chunk[d] = (hsize_t)rf_ceil_div(size, rf_ceil_div(size, most));
        inner *= (int64_t)chunk[d];
    }
}

/* What the chunks take, with their checksums and what is beyond the last row. */
static int64_t disk_bytes(int n_dims, const int64_t *shape, int64_t elem_bytes)
{
    hsize_t chunk[H5S_MAX_RANK];
    int64_t n_chunks = 1, chunk_bytes = elem_bytes;
    for (int d = 0; d < n_dims; d++) {
        if (shape[d] == 0) {
            return 0;
        }
    }
    choose_chunk(n_dims, shape, elem_bytes, chunk);
    for (int d = 0; d < n_dims; d++) {
        n_chunks *= rf_ceil_div(shape[d], (int64_t)chunk[d]);
        chunk_bytes *= (int64_t)chunk[d];
    }
    return n_chunks * (chunk_bytes + 64); /* checksum and place in the index */
}

/* Scalars lie in the object's header, whose checksum covers them. */
static herr_t set_layout(hid_t creation, int n_dims, const int64_t *shape, int64_t n_elems,
                         int64_t elem_bytes)
{
    hsize_t chunk[H5S_MAX_RANK];
    if (n_dims == 0) {
        return H5Pset_layout(creation, H5D_COMPACT);
    }
    if (n_elems == 0) {
        return 0;
    }
    choose_chunk(n_dims, shape, elem_bytes, chunk);
    herr_t result = H5Pset_chunk(creation, n_dims, chunk);
    return result < 0 ? result : H5Pset_fletcher32(creation);
}

rf_status rf_h5_check_shape(const char *name, int n_dims, const int64_t *shape, int64_t *n_elems)
{
    rf_status status = RF_OK;
    *n_elems = 1;
    RF_REQUIRE(n_dims >= 0 && n_dims <= RF_FILE_MAX_DIMS, "dataset '%s' of %d dimensions", name,
               n_dims);
    for (int d = 0; d < n_dims; d++) {
        RF_REQUIRE(shape[d] >= 0, "dataset '%s' has the size %" PRId64, name, shape[d]);
        RF_TRY(rf_mul_i64(*n_elems, shape[d], name, n_elems));
    }
fail:
    return status;
}

static rf_status check_name(const char *name)
{
    rf_status status = RF_OK;
    size_t n = strlen(name);
    RF_REQUIRE(n > 0 && n < RF_PATH_LEN && name[0] != '/' && name[n - 1] != '/' &&
                   strstr(name, "//") == NULL && name[0] != '.' && strstr(name, "/.") == NULL,
               "'%.100s' is no dataset name, expected for example \"coder/w_dec\"", name);
fail:
    return status;
}

/* Objects have headers of the kind with checksums. HDF5 1.10 reads the older kind too, without any,
 * and may crash on a damaged one; no file is written so here. */
static bool has_new_header(const rf_h5_file *f, haddr_t address)
{
    char mark[4] = {0};
    int *fd = NULL;
    return H5Fget_vfd_handle(f->id, H5P_DEFAULT, (void **)&fd) >= 0 && address <= INT64_MAX &&
           pread(*fd, mark, sizeof mark, (off_t)address) == (ssize_t)sizeof mark &&
           memcmp(mark, "OHDR", sizeof mark) == 0;
}

/* Whether every link on the way is a plain one: soft and external links may lead to other files.
 * And no further than to a header of the older kind, of a file that is read. */
static bool has_hard_path(const rf_h5_file *f, const char *name, bool *is_old)
{
    char part[RF_PATH_LEN];
    *is_old = false;
    if (check_name(name) != RF_OK) {
        return false;
    }
    memcpy(part, name, strlen(name) + 1);
    for (char *p = part;; p++) {
        char c = *p;
        if (c == '/' || c == '\0') {
            H5L_info_t info;
            *p = '\0';
            if (H5Lexists(f->id, part, H5P_DEFAULT) <= 0 ||
                H5Lget_info(f->id, part, &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_HARD) {
                return false;
            }
            *is_old = !f->is_new && !has_new_header(f, info.u.address);
            if (*is_old) {
                return false;
            }
            *p = c;
        }
        if (c == '\0') {
            return true;
        }
    }
}

bool rf_h5_has(const rf_h5_file *f, const char *name)
{
    bool is_old = false;
    return has_hard_path(f, name, &is_old);
}

/* The groups of "a/b/c", without times (those that HDF5 makes by itself carry them). */
rf_status rf_h5_make_groups(const rf_h5_file *f, const char *name)
{
    rf_status status = RF_OK;
    hid_t creation = H5Pcreate(H5P_GROUP_CREATE), group = H5I_INVALID_HID;
    char part[RF_PATH_LEN];

    if (creation < 0 || H5Pset_obj_track_times(creation, false) < 0) {
        status = rf_h5_raise(RF_ERR_IO, f, "make the groups of", name);
        goto fail;
    }
    memcpy(part, name, strlen(name) + 1);
    for (char *p = strchr(part, '/'); p != NULL; p = strchr(p + 1, '/')) {
        *p = '\0';
        htri_t exists = H5Lexists(f->id, part, H5P_DEFAULT);
        if (exists == 0) {
            group = H5Gcreate2(f->id, part, H5P_DEFAULT, creation, H5P_DEFAULT);
        }
        if (exists < 0 || (exists == 0 && group < 0)) {
            status = rf_h5_raise(RF_ERR_IO, f, "make the groups of", name);
            goto fail;
        }
        rf_h5_close_id(&group);
        *p = '/';
    }
fail:
    rf_h5_close_id(&creation);
    return status;
}

hid_t rf_h5_make_space(int n_dims, const int64_t *shape)
{
    hsize_t dims[RF_FILE_MAX_DIMS];
    for (int d = 0; d < n_dims; d++) {
        dims[d] = (hsize_t)shape[d];
    }
    return n_dims == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(n_dims, dims, NULL);
}

rf_status rf_h5_check_new(const rf_h5_file *f, const char *name)
{
    rf_status status = RF_OK;
    RF_REQUIRE(f->is_new && !f->is_broken, "'%s' cannot be written: %s", f->path,
               f->is_new ? "a write to it failed" : "it was opened for reading");
    RF_TRY(check_name(name));
    RF_REQUIRE(!rf_h5_has(f, name), "'%s' has a dataset '%s' already", f->path, name);
fail:
    return status;
}

rf_status rf_h5_write(rf_h5_file *f, const char *name, rf_h5_type type, int n_dims,
                      const int64_t *shape, const void *data)
{
    rf_status status = RF_OK;
    hid_t id = rf_h5_open_type(type), space = H5I_INVALID_HID, creation = H5I_INVALID_HID;
    hid_t dataset = H5I_INVALID_HID;
    int64_t n_elems = 0;

    RF_REQUIRE(id >= 0, "dataset '%s' has type %d", name, (int)type);
    RF_TRY(rf_h5_check_new(f, name));
    RF_TRY(rf_h5_check_shape(name, n_dims, shape, &n_elems));
    RF_TRY(rf_h5_reserve(f, name, disk_bytes(n_dims, shape, (int64_t)H5Tget_size(id))));
    RF_TRY(rf_h5_make_groups(f, name));
    space = rf_h5_make_space(n_dims, shape);
    creation = H5Pcreate(H5P_DATASET_CREATE);
    if (space < 0 || creation < 0 || H5Pset_obj_track_times(creation, false) < 0 ||
        set_layout(creation, n_dims, shape, n_elems, (int64_t)H5Tget_size(id)) < 0 ||
        (dataset = H5Dcreate2(f->id, name, id, space, H5P_DEFAULT, creation, H5P_DEFAULT)) < 0 ||
        (n_elems > 0 && H5Dwrite(dataset, id, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)) {
        status = rf_h5_raise(RF_ERR_IO, f, "write dataset", name);
        rf_h5_divert(f);
        goto fail;
    }
    RF_TRY(rf_h5_flush(f, name)); /* before the close: a close that fails leaves HDF5 in pieces */
fail:
    rf_h5_close_id(&dataset);
    rf_h5_close_id(&creation);
    rf_h5_close_id(&space);
    rf_h5_close_id(&id);
    return status;
}

/* Compressed data is of any size once it is unpacked: no file is written so here. */
static bool is_packed(hid_t creation)
{
    for (int i = 0; i < H5Pget_nfilters(creation); i++) {
        unsigned flags = 0;
        size_t n_values = 0;
        if (H5Pget_filter2(creation, (unsigned)i, &flags, &n_values, NULL, 0, NULL, NULL) !=
            H5Z_FILTER_FLETCHER32) {
            return true;
        }
    }
    return false;
}

/* Data of the file itself, in one of the layouts that need no other file. */
static rf_status check_layout(const rf_h5_file *f, const char *name, hid_t creation)
{
    rf_status status = RF_OK;
    if (H5Pget_external_count(creation) != 0 || H5Pget_layout(creation) == H5D_VIRTUAL) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': dataset '%s' has its data in other files", f->path, name);
    }
    if (H5Pget_layout(creation) == H5D_CHUNKED && is_packed(creation)) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "'%s': dataset '%s' is compressed or packed; expected its numbers as they are",
                f->path, name);
    }
fail:
    return status;
}

/* `n_bytes` *= n; false when it is more than `most`. */
static bool grows_within(hsize_t *n_bytes, hsize_t n, hsize_t most)
{
    if (n > most / *n_bytes) {
        return false;
    }
    *n_bytes *= n;
    return true;
}

/* Nothing in the file takes more memory than the file itself, before any is asked for: neither the
 * numbers nor a chunk of them. */
static rf_status check_room(const rf_h5_file *f, const char *name, hid_t dataset, hid_t creation)
{
    rf_status status = RF_OK;
    hsize_t dims[H5S_MAX_RANK] = {0}, chunk[H5S_MAX_RANK] = {0}, most = 0;
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    const int n = space < 0 ? -1 : H5Sget_simple_extent_dims(space, dims, NULL);
    const bool is_chunked = H5Pget_layout(creation) == H5D_CHUNKED;
    const size_t elem_bytes = type < 0 ? 0 : H5Tget_size(type);

    if (n < 0 || elem_bytes == 0 || H5Fget_filesize(f->id, &most) < 0 ||
        (is_chunked && H5Pget_chunk(creation, H5S_MAX_RANK, chunk) != n)) {
        status = rf_h5_raise(RF_ERR_FORMAT, f, "look at dataset", name);
        goto fail;
    }
    hsize_t all = elem_bytes, one = elem_bytes;
    bool fits = elem_bytes <= most, is_empty = false;
    for (int d = 0; d < n; d++) {
        is_empty = is_empty || dims[d] == 0;
    }
    for (int d = 0; d < n && fits && !is_empty; d++) {
        fits = grows_within(&all, dims[d], most) &&
               (!is_chunked || grows_within(&one, chunk[d], most));
    }
    if (!fits) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s': dataset '%s' says that it has more bytes than the whole file, %" PRIu64
                ": it was cut short, or is damaged",
                f->path, name, (uint64_t)most);
    }
fail:
    rf_h5_close_id(&space);
    rf_h5_close_id(&type);
    return status;
}

rf_status rf_h5_open_dataset(const rf_h5_file *f, const char *name, hid_t *out)
{
    rf_status status = RF_OK;
    hid_t dataset = H5I_INVALID_HID, creation = H5I_INVALID_HID;
    bool is_old = false;
    RF_TRY(check_name(name));
    if (!has_hard_path(f, name, &is_old)) {
        if (is_old) {
            RF_FAIL(RF_ERR_UNSUPPORTED,
                    "'%s': dataset '%s' or its group is of HDF5's older kind, without checksums",
                    f->path, name);
        }
        RF_FAIL(RF_ERR_NOT_FOUND, "'%s' has no dataset '%s'", f->path, name);
    }
    dataset = H5Dopen2(f->id, name, H5P_DEFAULT);
    if (dataset < 0) {
        status = rf_h5_raise(RF_ERR_FORMAT, f, "open dataset", name);
        goto fail;
    }
    creation = H5Dget_create_plist(dataset);
    if (creation < 0) {
        status = rf_h5_raise(RF_ERR_FORMAT, f, "read dataset", name);
        goto fail;
    }
    RF_TRY(check_layout(f, name, creation));
    RF_TRY(check_room(f, name, dataset, creation));
    *out = dataset;
    dataset = H5I_INVALID_HID;
fail:
    rf_h5_close_id(&creation);
    rf_h5_close_id(&dataset);
    return status;
}

static rf_status get_shape(const rf_h5_file *f, const char *name, hid_t dataset, int max_dims,
                           int *n_dims, int64_t *shape)
{
    rf_status status = RF_OK;
    hsize_t dims[H5S_MAX_RANK];
    hid_t space = H5Dget_space(dataset);
    int n = space < 0 ? -1 : H5Sget_simple_extent_dims(space, dims, NULL);
    if (n < 0) {
        status = rf_h5_raise(RF_ERR_FORMAT, f, "read the shape of dataset", name);
        goto fail;
    }
    if (n > max_dims || H5Sget_simple_extent_type(space) == H5S_NULL) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': dataset '%s' has %d dimensions, expected at most %d", f->path,
                name, n, max_dims);
    }
    for (int d = 0; d < n; d++) {
        if (dims[d] > INT64_MAX) {
            RF_FAIL(RF_ERR_FORMAT, "'%s': the shape of dataset '%s' overflows", f->path, name);
        }
        shape[d] = (int64_t)dims[d];
    }
    *n_dims = n;
fail:
    rf_h5_close_id(&space);
    return status;
}

rf_status rf_h5_shape(const rf_h5_file *f, const char *name, int max_dims, int *n_dims,
                      int64_t *shape)
{
    rf_status status = RF_OK;
    hid_t dataset = H5I_INVALID_HID;
    RF_TRY(rf_h5_open_dataset(f, name, &dataset));
    RF_TRY(get_shape(f, name, dataset, max_dims, n_dims, shape));
fail:
    rf_h5_close_id(&dataset);
    return status;
}

/* "[3, 4]" */
static void format_shape(int n_dims, const int64_t *shape, char *out, size_t out_bytes)
{
    size_t n = (size_t)snprintf(out, out_bytes, "[");
    for (int d = 0; d < n_dims && n < out_bytes; d++) {
        n += (size_t)snprintf(out + n, out_bytes - n, "%s%" PRId64, d == 0 ? "" : ", ", shape[d]);
    }
    if (n < out_bytes) {
        snprintf(out + n, out_bytes - n, "]");
    }
}

static rf_status check_type(const rf_h5_file *f, const char *name, hid_t dataset, rf_h5_type type)
{
    rf_status status = RF_OK;
    hid_t id = H5Dget_type(dataset), wanted = rf_h5_open_type(type);
    if (id < 0 || H5Tequal(id, wanted) <= 0) {
        status = rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__,
                                "'%s': dataset '%s' is not of %s (little-endian), as expected",
                                f->path, name, type_name(type));
    }
    rf_h5_close_id(&wanted);
    rf_h5_close_id(&id);
    return status;
}

rf_status rf_h5_check_is(const rf_h5_file *f, const char *name, hid_t dataset, rf_h5_type type,
                         int n_dims, const int64_t *shape)
{
    rf_status status = RF_OK;
    int64_t got_shape[H5S_MAX_RANK];
    int got_dims = 0;

    RF_TRY(check_type(f, name, dataset, type));
    RF_TRY(get_shape(f, name, dataset, H5S_MAX_RANK, &got_dims, got_shape));
    if (got_dims != n_dims ||
        (n_dims > 0 && memcmp(got_shape, shape, (size_t)n_dims * sizeof *shape) != 0)) {
        char got[192], expected[192];
        format_shape(got_dims, got_shape, got, sizeof got);
        format_shape(n_dims, shape, expected, sizeof expected);
        RF_FAIL(RF_ERR_FORMAT, "'%s': dataset '%s' has the shape %s, expected %s", f->path, name,
                got, expected);
    }
fail:
    return status;
}

rf_status rf_h5_read(const rf_h5_file *f, const char *name, rf_h5_type type, int n_dims,
                     const int64_t *shape, void *data)
{
    rf_status status = RF_OK;
    hid_t dataset = H5I_INVALID_HID, id = rf_h5_open_type(type);
    int64_t n_elems = 0;

    RF_REQUIRE(id >= 0, "dataset '%s' has type %d", name, (int)type);
    RF_TRY(rf_h5_check_shape(name, n_dims, shape, &n_elems));
    RF_TRY(rf_h5_open_dataset(f, name, &dataset));
    RF_TRY(rf_h5_check_is(f, name, dataset, type, n_dims, shape));
    if (n_elems > 0 && H5Dread(dataset, id, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) {
        status = rf_h5_raise(RF_ERR_FORMAT, f, "read dataset", name);
    }
fail:
    rf_h5_close_id(&dataset);
    rf_h5_close_id(&id);
    return status;
}

rf_status rf_h5_write_text(rf_h5_file *f, const char *name, const char *text)
{
    int64_t n_bytes = (int64_t)strlen(text);
    return rf_h5_write(f, name, RF_H5_U8, 1, &n_bytes, text);
}

rf_status rf_h5_read_text(const rf_h5_file *f, const char *name, char **out)
{
    rf_status status = RF_OK;
    int n_dims = 0;
    int64_t n_bytes = 0;
    char *text = NULL;

    *out = NULL;
    RF_TRY(rf_h5_shape(f, name, 1, &n_dims, &n_bytes));
    if (n_dims != 1 || n_bytes > MAX_TEXT_BYTES) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': dataset '%s' is no text of at most 64 MiB", f->path, name);
    }
    RF_ALLOC(text, n_bytes + 1);
    RF_TRY(rf_h5_read(f, name, RF_H5_U8, 1, &n_bytes, text));
    if ((int64_t)strlen(text) != n_bytes) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': text '%s' contains a zero byte", f->path, name);
    }
    *out = text;
    text = NULL;
fail:
    rf_free(text);
    return status;
}
