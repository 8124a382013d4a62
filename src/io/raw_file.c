/* Bytes of a file at given places, for any number of threads and processes at once. */
#include "io_impl.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct rf_raw_file {
    int fd;
    char path[RF_PATH_LEN];
};

rf_status rf_raw_file_open(const char *path, bool writable, rf_raw_file **out)
{
    rf_status status = RF_OK;
    rf_raw_file *f = NULL;

    *out = NULL;
    RF_ALLOC(f, 1);
    f->fd = -1;
    RF_TRY(rf_format(f->path, sizeof f->path, "%s", path));
    if (!writable) {
        int64_t n_bytes = 0;
        RF_TRY(rf_file_open_read(path, &f->fd, &n_bytes));
    } else if ((f->fd = open(path, O_RDWR | O_CLOEXEC)) < 0) {
        status = rf_file_raise("open", path, errno);
        goto fail;
    }
    *out = f;
    return RF_OK;
fail:
    rf_free(f);
    return status;
}

void rf_raw_file_close(rf_raw_file *f)
{
    if (f != NULL) {
        close(f->fd);
        rf_free(f);
    }
}

rf_status rf_raw_file_size(const rf_raw_file *f, int64_t *n_bytes)
{
    struct stat info;
    if (fstat(f->fd, &info) != 0) {
        return rf_file_raise("read", f->path, errno);
    }
    *n_bytes = (int64_t)info.st_size;
    return RF_OK;
}

rf_status rf_raw_file_read(const rf_raw_file *f, int64_t offset, void *out, int64_t n_bytes)
{
    rf_status status = RF_OK;
    char *to = out;
    while (n_bytes > 0) {
        const ssize_t n = pread(f->fd, to, (size_t)rf_min_i64(n_bytes, 1 << 30), offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            status = rf_file_raise("read", f->path, errno);
            goto fail;
        }
        if (n == 0) {
            RF_FAIL(RF_ERR_FORMAT, "'%s' ends at byte %" PRId64 ": it was cut short", f->path,
                    offset);
        }
        to += n;
        offset += n;
        n_bytes -= n;
    }
fail:
    return status;
}

/* The disk begins with these bytes now: at the next sync little is left to wait for. A hint, which
 * only Linux takes. */
static void begin_writeback(const rf_raw_file *f, int64_t offset, int64_t n_bytes)
{
#if defined(SYNC_FILE_RANGE_WRITE)
    (void)sync_file_range(f->fd, offset, n_bytes, SYNC_FILE_RANGE_WRITE);
#else
    (void)f;
    (void)offset;
    (void)n_bytes;
#endif
}

rf_status rf_raw_file_write(rf_raw_file *f, int64_t offset, const void *bytes, int64_t n_bytes)
{
    const char *from = bytes;
    const int64_t first = offset, n_total = n_bytes;
    while (n_bytes > 0) {
        const ssize_t n = pwrite(f->fd, from, (size_t)rf_min_i64(n_bytes, 1 << 30), offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return rf_file_raise("write", f->path, n < 0 ? errno : ENOSPC);
        }
        from += n;
        offset += n;
        n_bytes -= n;
    }
    begin_writeback(f, first, n_total);
    return RF_OK;
}

rf_status rf_raw_file_sync(rf_raw_file *f)
{
    return fdatasync(f->fd) == 0 ? RF_OK : rf_file_raise("write", f->path, errno);
}
