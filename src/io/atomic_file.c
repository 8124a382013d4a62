/* Files that appear whole or not at all: temp name, write, fsync, rename, fsync of the folder. */
#include "io_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

struct rf_atomic_file {
    int fd;
    char path[RF_PATH_LEN], temp[RF_PATH_LEN];
};

int rf_file_write_all(int fd, const void *bytes, int64_t n_bytes)
{
    const char *p = bytes;
    while (n_bytes > 0) {
        /* One call takes less than 2^31 bytes on Linux. */
        ssize_t n = write(fd, p, (size_t)rf_min_i64(n_bytes, 1 << 30));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno;
        }
        if (n == 0) {
            return ENOSPC;
        }
        p += n;
        n_bytes -= n;
    }
    return 0;
}

rf_status rf_atomic_file_create(const char *path, rf_atomic_file **out)
{
    rf_status status = RF_OK;
    rf_atomic_file *f = NULL;

    *out = NULL;
    RF_ALLOC(f, 1);
    f->fd = -1;
    RF_TRY(rf_format(f->path, sizeof f->path, "%s", path));
    RF_TRY(rf_format(f->temp, sizeof f->temp, "%s.tmp", path));
    f->fd = open(f->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        status = rf_file_raise("create", f->temp, errno);
        goto fail;
    }
    *out = f;
    return RF_OK;
fail:
    rf_free(f); /* nothing to remove: the temp file does not exist yet */
    return status;
}

rf_status rf_atomic_file_write(rf_atomic_file *f, const void *bytes, int64_t n_bytes)
{
    rf_status status = RF_OK;
    RF_REQUIRE(n_bytes >= 0, "n_bytes = %" PRId64 ", expected >= 0", n_bytes);
    int reason = rf_file_write_all(f->fd, bytes, n_bytes);
    if (reason != 0) {
        status = rf_file_raise("write", f->path, reason);
    }
fail:
    return status;
}

const char *rf_atomic_file_temp_path(const rf_atomic_file *f)
{
    return f->temp;
}

static rf_status sync_folder(const char *path)
{
    rf_status status = RF_OK;
    char folder[RF_PATH_LEN];
    RF_TRY(rf_file_folder(folder, path));
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        status = rf_file_raise("open the folder", folder, errno);
    } else {
        /* Some file systems cannot sync a folder and say EINVAL: there is nothing to do then. */
        if (fsync(fd) != 0 && errno != EINVAL) {
            status = rf_file_raise("sync the folder", folder, errno);
        }
        close(fd);
    }
fail:
    return status;
}

/* Takes `fd`. */
static rf_status commit_open(int fd, const char *temp, const char *path)
{
    rf_status status = RF_OK;
    int reason = fsync(fd) != 0 ? errno : 0;
    if (close(fd) != 0 && reason == 0) { /* NFS tells of a full disk here */
        reason = errno;
    }
    if (reason == 0 && rename(temp, path) != 0) {
        reason = errno;
    }
    if (reason != 0) {
        status = rf_file_raise("write", path, reason);
        unlink(temp);
        return status;
    }
    return sync_folder(path);
}

rf_status rf_atomic_file_commit(rf_atomic_file *f)
{
    rf_status status = commit_open(f->fd, f->temp, f->path);
    rf_free(f);
    return status;
}

void rf_atomic_file_abandon(rf_atomic_file *f)
{
    if (f != NULL) {
        close(f->fd);
        unlink(f->temp);
        rf_free(f);
    }
}

rf_status rf_file_commit(const char *temp_path, const char *path)
{
    int fd = open(temp_path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return rf_file_raise("open", temp_path, errno);
    }
    return commit_open(fd, temp_path, path);
}

rf_status rf_file_write_atomic(const char *path, const void *bytes, int64_t n_bytes)
{
    rf_status status = RF_OK;
    rf_atomic_file *f = NULL;

    RF_TRY(rf_atomic_file_create(path, &f));
    RF_TRY(rf_atomic_file_write(f, bytes, n_bytes));
    status = rf_atomic_file_commit(f);
    f = NULL;
fail:
    rf_atomic_file_abandon(f);
    return status;
}
