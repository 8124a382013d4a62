/* One writer per folder. The lock is the system's (flock), so it goes with its process, however
 * that ends; the file says who holds it. It stays when the lock is released: to remove it would let
 * two processes hold locks on two files of one name. */
#include "io_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

struct rf_folder_lock {
    int fd;
};

static rf_status raise_taken(int fd, const char *folder)
{
    char holder[256] = "";
    ssize_t n = pread(fd, holder, sizeof holder - 1, 0);
    char *host = n > 0 ? strchr(holder, ' ') : NULL;
    if (host == NULL) { /* between its lock and its name */
        return rf_error_raise(RF_ERR_IO, __FILE__, __LINE__,
                              "'%s' is being written by another process", folder);
    }
    *host++ = '\0';
    host[strcspn(host, "\n")] = '\0';
    return rf_error_raise(RF_ERR_IO, __FILE__, __LINE__,
                          "'%s' is being written by process %s on %s; wait for it, or choose "
                          "another folder",
                          folder, holder, host);
}

static rf_status write_holder(int fd, const char *path)
{
    rf_status status = RF_OK;
    char host[128] = "unknown", line[256];
    if (gethostname(host, sizeof host) != 0) {
        memcpy(host, "unknown", sizeof "unknown");
    }
    host[sizeof host - 1] = '\0';
    RF_TRY(rf_format(line, sizeof line, "%ld %s\n", (long)getpid(), host));
    int reason = ftruncate(fd, 0) != 0 ? errno : 0;
    if (reason == 0) {
        reason = rf_file_write_all(fd, line, (int64_t)strlen(line));
    }
    if (reason != 0) {
        status = rf_file_raise("write", path, reason);
    }
fail:
    return status;
}

rf_status rf_folder_lock_take(const char *folder, rf_folder_lock **out)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    rf_folder_lock *lock = NULL;

    *out = NULL;
    RF_ALLOC(lock, 1);
    lock->fd = -1;
    RF_TRY(rf_path_join(path, folder, ".lock"));
    lock->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock->fd < 0) {
        status = rf_file_raise("create", path, errno);
        goto fail;
    }
    if (flock(lock->fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            status = raise_taken(lock->fd, folder);
            goto fail;
        }
        char reason[128];
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "cannot lock '%s': %s; choose a folder on a file system that has locks", path,
                strerror_r(errno, reason, sizeof reason));
    }
    RF_TRY(write_holder(lock->fd, path));
    *out = lock;
    return RF_OK;
fail:
    if (lock != NULL && lock->fd >= 0) {
        close(lock->fd);
    }
    rf_free(lock);
    return status;
}

void rf_folder_lock_release(rf_folder_lock *lock)
{
    if (lock != NULL) {
        /* An empty file holds nobody; if it cannot be emptied, the lock goes all the same. */
        (void)!ftruncate(lock->fd, 0);
        close(lock->fd);
        rf_free(lock);
    }
}
