/* Flat HDF5 files of named arrays, written whole by one process. Metadata is of the checksummed
 * kind (HDF5 1.10), data is under Fletcher32, nothing carries a time: the same arrays give the same
 * bytes.
 *
 * HDF5 does not survive a disk that fills up under it: it keeps the file, tries again when the
 * process ends, and crashes there. Three things keep it whole: room is set aside before it writes,
 * everything is flushed before anything is closed, and a file that is given up is laid on a file in
 * memory first, so that what HDF5 still wants to write goes there. */
#include "hdf5_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLACK_BYTES = 256 << 10 }; /* metadata of one dataset, by far */

/* Keep the first, that is the deepest, entry of HDF5's error stack. */
static herr_t keep_deepest(unsigned n, const H5E_error2_t *entry, void *user)
{
    if (n == 0) {
        snprintf(user, 512, "%s", entry->desc != NULL ? entry->desc : "no reason given");
    }
    return 0;
}

rf_status rf_h5_raise(rf_status code, const rf_h5_file *f, const char *doing, const char *name)
{
    char reason[512] = "no reason given";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_deepest, reason);
    const char *number = strstr(reason, "errno = ");
    int error_number = number != NULL ? (int)strtol(number + strlen("errno = "), NULL, 10) : 0;
    if (error_number > 0) {
        /* The system said no: its reason is clearer, above all for a full disk. */
        rf_file_raise(f->is_new ? "write" : "read", f->path, error_number);
        if (name != NULL) {
            rf_error_context("dataset '%s'", name);
        }
        return RF_ERR_IO;
    }
    return rf_error_raise(code, __FILE__, __LINE__, "'%s': cannot %s%s%s%s: HDF5: %s", f->path,
                          doing, name != NULL ? " '" : "", name != NULL ? name : "",
                          name != NULL ? "'" : "", reason);
}

void rf_h5_close_id(hid_t *id)
{
    if (*id >= 0) {
        H5Idec_ref(*id);
    }
    *id = H5I_INVALID_HID;
}

static rf_status make_file(const char *path, rf_h5_file **out)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* errors are ours to tell */
    H5PLset_loading_state(0);              /* no file may ask for a plugin to be loaded */
    RF_ALLOC(f, 1);
    f->id = H5I_INVALID_HID;
    RF_TRY(rf_format(f->path, sizeof f->path, "%s", path));
    RF_TRY(rf_format(f->temp, sizeof f->temp, "%s.tmp", path));
    *out = f;
    return RF_OK;
fail:
    rf_free(f);
    return status;
}

/* Room for `n_bytes` behind `from`, or an errno. File systems that cannot say leave it to luck. */
static int set_aside(int fd, int64_t from, int64_t n_bytes)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        (uint64_t)(from + n_bytes) > (uint64_t)limit.rlim_cur) {
        return EFBIG;
    }
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, from, n_bytes) != 0 &&
        (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
        return errno;
    }
    return 0;
}

rf_status rf_h5_reserve(rf_h5_file *f, const char *name, int64_t n_bytes)
{
    rf_status status = RF_OK;
    int *fd = NULL;
    hsize_t size = 0;
    if (H5Fget_vfd_handle(f->id, H5P_DEFAULT, (void **)&fd) < 0 ||
        H5Fget_filesize(f->id, &size) < 0) {
        return rf_h5_raise(RF_ERR_IO, f, "write", name);
    }
    int reason = set_aside(*fd, (int64_t)size, n_bytes + SLACK_BYTES);
    if (reason != 0) {
        status = rf_file_raise("write", f->path, reason);
        rf_error_context("dataset '%s'", name);
        rf_h5_divert(f);
    }
    return status;
}

/* The temp file, empty; whatever the system has against it is said more clearly than by HDF5. */
static rf_status create_temp(const rf_h5_file *f)
{
    int fd = open(f->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        return rf_file_raise("create", f->temp, errno);
    }
    int reason = set_aside(fd, 0, SLACK_BYTES);
    close(fd);
    return reason != 0 ? rf_file_raise("write", f->path, reason) : RF_OK;
}

rf_status rf_h5_create(const char *path, rf_h5_file **out)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;
    hid_t creation = H5I_INVALID_HID, access = H5I_INVALID_HID;

    *out = NULL;
    RF_TRY(make_file(path, &f));
    f->is_new = true;
    RF_TRY(create_temp(f));
    creation = H5Pcreate(H5P_FILE_CREATE);
    access = H5Pcreate(H5P_FILE_ACCESS);
    if (creation < 0 || access < 0 || H5Pset_obj_track_times(creation, false) < 0 ||
        H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0 ||
        (f->id = H5Fcreate(f->temp, H5F_ACC_TRUNC, creation, access)) < 0) {
        status = rf_h5_raise(RF_ERR_IO, f, "create the file", NULL);
        goto fail;
    }
    *out = f;
    f = NULL;
fail:
    rf_h5_close_id(&access);
    rf_h5_close_id(&creation);
    rf_h5_close(f);
    return status;
}

/* What HDF5 would follow before any checksum tells it better is looked at here. Files of the kind
 * that is written here have checksums on all that HDF5 follows (superblock 2 or later); older ones
 * have none, and HDF5 1.10 may crash on a damaged one. Nor is there a block of the user's before
 * it, or an extension (drivers, shared tables). */
static rf_status check_kind(const char *path, int fd)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    static const unsigned char none[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const unsigned char zero[8] = {0};
    rf_status status = RF_OK;
    unsigned char head[28] = {0}; /* ... version, sizes, flags, base, extension */
    const ssize_t n = pread(fd, head, sizeof head, 0);
    if (n != (ssize_t)sizeof head || memcmp(head, signature, sizeof signature) != 0) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is no HDF5 file, or was cut short", path);
    }
    if (head[8] < 2) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "'%s' is of HDF5's older kind, without checksums; expected one as this program "
                "writes it (h5py: libver='v110')",
                path);
    }
    if (head[9] != 8 || head[10] != 8 || memcmp(head + 12, zero, 8) != 0 ||
        memcmp(head + 20, none, 8) != 0) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "'%s' is an HDF5 file with other sizes, a user's block or an extension; expected "
                "one as this program writes it (h5py: libver='v110')",
                path);
    }
fail:
    return status;
}

rf_status rf_h5_open(const char *path, rf_h5_file **out)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;

    *out = NULL;
    RF_TRY(make_file(path, &f));
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused by HDF5 */
    if (fd < 0) {
        status = rf_file_raise("open", path, errno);
        goto fail;
    }
    status = check_kind(path, fd);
    close(fd);
    RF_TRY(status);
    f->id = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (f->id < 0) {
        status = rf_h5_raise(RF_ERR_FORMAT, f, "open the file", NULL);
        goto fail;
    }
    *out = f;
    f = NULL;
fail:
    rf_h5_close(f);
    return status;
}

void rf_h5_divert(rf_h5_file *f)
{
    int *fd = NULL;
    if (H5Fget_vfd_handle(f->id, H5P_DEFAULT, (void **)&fd) >= 0 && fd != NULL) {
        int sink = memfd_create("given up", MFD_CLOEXEC);
        if (sink < 0) {
            sink = open("/dev/null", O_RDWR | O_CLOEXEC);
        }
        if (sink >= 0) {
            dup2(sink, *fd);
            close(sink);
        }
    }
    f->is_broken = true;
}

rf_status rf_h5_flush(rf_h5_file *f, const char *name)
{
    rf_status status = RF_OK;
    if (H5Fflush(f->id, H5F_SCOPE_GLOBAL) < 0) {
        status = rf_h5_raise(RF_ERR_IO, f, "write", name);
        rf_h5_divert(f);
    }
    return status;
}

void rf_h5_close(rf_h5_file *f)
{
    if (f != NULL) {
        if (f->id >= 0 && f->is_new) {
            rf_h5_divert(f);
        }
        if (f->id >= 0) {
            H5Fclose(f->id);
        }
        if (f->is_new) {
            unlink(f->temp);
        }
        rf_free(f);
    }
}

/* Give back what was set aside beyond the end. */
static rf_status release_rest(const rf_h5_file *f)
{
    struct stat info;
    if (stat(f->temp, &info) != 0 || truncate(f->temp, info.st_size) != 0) {
        return rf_file_raise("write", f->path, errno);
    }
    return RF_OK;
}

rf_status rf_h5_commit(rf_h5_file *f)
{
    rf_status status = RF_OK;
    RF_REQUIRE(f->is_new && !f->is_broken, "'%s' cannot be committed: %s", f->path,
               f->is_new ? "a write to it failed" : "it was opened for reading");
    RF_TRY(rf_h5_flush(f, NULL));
    if (H5Fclose(f->id) < 0) { /* all was flushed: it has nothing left to write */
        status = rf_h5_raise(RF_ERR_IO, f, "close the file", NULL);
        goto fail;
    }
    f->id = H5I_INVALID_HID;
    RF_TRY(release_rest(f));
    f->is_new = false; /* the temp file is the next call's to rename or to remove */
    status = rf_file_commit(f->temp, f->path);
fail:
    rf_h5_close(f);
    return status;
}
