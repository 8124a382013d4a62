/* One writer per folder, or per file. The lock is the system's (flock), so it goes with its
 * process, however that ends; the lock's own file says who holds it. A folder's stays when the lock
 * is released. A file's is removed, so that none lies about beside it: then a lock counts only
 * while its file still has the name that it was opened by, or two processes would hold locks on two
 * files of one name. */
#include "io_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct rf_folder_lock {
    int fd;
    bool is_of_file; /* goes when it is released */
    char path[RF_PATH_LEN];
};

static rf_status raise_taken(int fd, const char *what, const char *kind)
{
    char holder[256] = "";
    ssize_t n = pread(fd, holder, sizeof holder - 1, 0);
    char *host = n > 0 ? strchr(holder, ' ') : NULL;
    if (host == NULL) { /* between its lock and its name */
        return rf_error_raise(RF_ERR_IO, __FILE__, __LINE__,
                              "'%s' is being written by another process", what);
    }
    *host++ = '\0';
    host[strcspn(host, "\n")] = '\0';
    return rf_error_raise(RF_ERR_IO, __FILE__, __LINE__,
                          "'%s' is being written by process %s on %s; wait for it, or choose "
                          "another %s",
                          what, holder, host, kind);
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

/* Open and lock lock->path; *is_lost when it was removed in between by who held it before. */
static rf_status lock_file(rf_folder_lock *lock, const char *what, bool *is_lost)
{
    rf_status status = RF_OK;
    struct stat mine, named;

    *is_lost = false;
    lock->fd = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock->fd < 0) {
        status = rf_file_raise("create", lock->path, errno);
        goto fail;
    }
    if (flock(lock->fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            status = raise_taken(lock->fd, what, lock->is_of_file ? "file" : "folder");
            goto fail;
        }
        char reason[128];
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "cannot lock '%s': %s; choose a folder on a file system that has locks", lock->path,
                strerror_r(errno, reason, sizeof reason));
    }
    *is_lost = fstat(lock->fd, &mine) != 0 || stat(lock->path, &named) != 0 ||
               mine.st_ino != named.st_ino || mine.st_dev != named.st_dev;
fail:
    return status;
}

static rf_status take(const char *what, bool is_of_file, rf_folder_lock **out)
{
    enum { MOST_TRIES = 100 };
    rf_status status = RF_OK;
    rf_folder_lock *lock = NULL;
    bool is_lost = true;

    *out = NULL;
    RF_ALLOC(lock, 1);
    lock->fd = -1;
    lock->is_of_file = is_of_file;
    if (is_of_file) {
        RF_TRY(rf_format(lock->path, sizeof lock->path, "%s.lock", what));
    } else {
        RF_TRY(rf_path_join(lock->path, what, ".lock"));
    }
    for (int i = 0; is_lost; i++) {
        if (i == MOST_TRIES) {
            RF_FAIL(RF_ERR_IO, "cannot lock '%s': others take and remove it all the time",
                    lock->path);
        }
        if (lock->fd >= 0) {
            close(lock->fd);
        }
        RF_TRY(lock_file(lock, what, &is_lost));
    }
    RF_TRY(write_holder(lock->fd, lock->path));
    *out = lock;
    return RF_OK;
fail:
    if (lock != NULL && lock->fd >= 0) {
        close(lock->fd);
    }
    rf_free(lock);
    return status;
}

rf_status rf_folder_lock_take(const char *folder, rf_folder_lock **out)
{
    return take(folder, false, out);
}

rf_status rf_folder_lock_take_file(const char *path, rf_folder_lock **out)
{
    return take(path, true, out);
}

void rf_folder_lock_release(rf_folder_lock *lock)
{
    if (lock != NULL) {
        /* An empty file holds nobody; if it cannot be emptied, the lock goes all the same. */
        (void)!ftruncate(lock->fd, 0);
        if (lock->is_of_file) {
            unlink(lock->path); /* while it is locked: who waits for it sees that it is gone */
        }
        close(lock->fd);
        rf_free(lock);
    }
}
