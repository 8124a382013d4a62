/* Whole files and folders. */
#include "io_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

rf_status rf_file_folder(char out[RF_PATH_LEN], const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return rf_format(out, RF_PATH_LEN, ".");
    }
    return rf_format(out, RF_PATH_LEN, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

void rf_file_explain(const char *doing, const char *path, int errno_value)
{
    char folder[RF_PATH_LEN] = "", reason[128];
    rf_status status = errno_value == ENOENT ? RF_ERR_NOT_FOUND : RF_ERR_IO;
    if (errno_value == ENOSPC || errno_value == EDQUOT) {
        if (rf_file_folder(folder, path) != RF_OK) {
            folder[0] = '\0';
        }
        rf_error_raise(status, __FILE__, __LINE__,
                       "cannot %s '%s': the disk that holds '%s' is full%s", doing, path, folder,
                       errno_value == EDQUOT ? " (quota)" : "");
        return;
    }
    rf_error_raise(status, __FILE__, __LINE__, "cannot %s '%s': %s", doing, path,
                   strerror_r(errno_value, reason, sizeof reason));
}

bool rf_file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool rf_file_is_dir(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* A folder is refused here, because reading it fails with a less clear text, and a pipe, because it
 * would wait for whoever writes to it. */
rf_status rf_file_open_read(const char *path, int *fd, int64_t *n_bytes)
{
    rf_status status = RF_OK;
    struct stat info;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0 || fstat(*fd, &info) != 0) {
        status = rf_file_raise("open", path, errno);
        goto fail;
    }
    if (S_ISDIR(info.st_mode)) {
        RF_FAIL(RF_ERR_IO, "cannot read '%s': it is a folder, expected a file", path);
    }
    if (S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode)) {
        RF_FAIL(RF_ERR_IO, "cannot read '%s': it is a pipe, expected a file", path);
    }
    *n_bytes = (int64_t)info.st_size;
    return RF_OK;
fail:
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return status;
}

/* At most `n_bytes` into `out`; fewer only at the end of the file. */
static rf_status read_some(int fd, const char *path, char *out, int64_t n_bytes, int64_t *n_read)
{
    *n_read = 0;
    while (*n_read < n_bytes) {
        ssize_t n = read(fd, out + *n_read, (size_t)(n_bytes - *n_read));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return rf_file_raise("read", path, errno);
        }
        if (n == 0) {
            break;
        }
        *n_read += n;
    }
    return RF_OK;
}

rf_status rf_file_read(const char *path, int64_t max_bytes, char **out, int64_t *n_bytes)
{
    rf_status status = RF_OK;
    int fd = -1;
    int64_t size = 0, len = 0, cap = 0;
    char *bytes = NULL;

    *out = NULL;
    RF_REQUIRE(max_bytes >= 0, "max_bytes = %" PRId64 ", expected >= 0", max_bytes);
    RF_TRY(rf_file_open_read(path, &fd, &size));
    /* The size is a guess only: files of /proc say 0, and a file may grow while it is read. */
    cap = rf_min_i64(rf_max_i64(size, 4096), max_bytes) + 1;
    RF_ALLOC(bytes, cap);
    for (;;) {
        int64_t n = 0;
        RF_TRY(read_some(fd, path, bytes + len, cap - len, &n));
        len += n;
        if (len > max_bytes) {
            RF_FAIL(RF_ERR_FORMAT, "'%s' is larger than %" PRId64 " bytes, the most allowed here",
                    path, max_bytes);
        }
        if (len < cap) {
            break;
        }
        char *grown = rf_realloc(bytes, cap, rf_min_i64(2 * cap, max_bytes + 1), 1);
        if (grown == NULL) {
            status = RF_ERR_NO_MEMORY;
            goto fail;
        }
        bytes = grown;
        cap = rf_min_i64(2 * cap, max_bytes + 1);
    }
    bytes[len] = '\0';
    *out = bytes;
    bytes = NULL;
    if (n_bytes != NULL) {
        *n_bytes = len;
    }
fail:
    rf_free(bytes);
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

rf_status rf_file_hash(const char *path, uint64_t *hash, int64_t *n_bytes)
{
    enum { BLOCK = 1 << 20 };
    rf_status status = RF_OK;
    int fd = -1;
    int64_t size = 0, n = 0, total = 0;
    uint64_t h = RF_HASH_START;
    char *block = NULL;

    RF_TRY(rf_file_open_read(path, &fd, &size));
    RF_ALLOC(block, BLOCK);
    do {
        RF_TRY(read_some(fd, path, block, BLOCK, &n));
        h = rf_hash(h, block, (size_t)n);
        total += n;
    } while (n == BLOCK);
    *hash = h;
    if (n_bytes != NULL) {
        *n_bytes = total;
    }
fail:
    rf_free(block);
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

static rf_status make_dir(const char *path)
{
    if (mkdir(path, 0777) != 0) {
        int reason = errno;
        if (reason != EEXIST && !rf_file_is_dir(path)) { /* "/" or a read-only parent that exists */
            return rf_file_raise("make the folder", path, reason);
        }
        if (!rf_file_is_dir(path)) {
            return rf_error_raise(RF_ERR_IO, __FILE__, __LINE__,
                                  "cannot make the folder '%s': a file of that name is there",
                                  path);
        }
    }
    return RF_OK;
}

rf_status rf_file_make_dirs(const char *path)
{
    rf_status status = RF_OK;
    char part[RF_PATH_LEN];

    RF_REQUIRE(path[0] != '\0', "cannot make a folder without a name");
    RF_TRY(rf_format(part, sizeof part, "%s", path));
    for (char *p = part + 1; *p != '\0'; p++) {
        if (*p == '/') {
            *p = '\0';
            RF_TRY(make_dir(part));
            *p = '/';
        }
    }
    RF_TRY(make_dir(part));
fail:
    return status;
}

rf_status rf_path_join(char out[RF_PATH_LEN], const char *folder, const char *name)
{
    size_t n = strlen(folder);
    const char *between = n == 0 || folder[n - 1] == '/' ? "" : "/";
    return rf_format(out, RF_PATH_LEN, "%s%s%s", folder, between, name);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static rf_status append_name(char ***names, int64_t *n_names, int64_t *cap, const char *name)
{
    if (*n_names == *cap) {
        int64_t more = rf_max_i64(64, 2 * *cap);
        char **grown = rf_realloc(*names, *cap, more, sizeof *grown);
        if (grown == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        *names = grown;
        *cap = more;
    }
    char *copy = rf_strdup(name);
    if (copy == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    (*names)[(*n_names)++] = copy;
    return RF_OK;
}

rf_status rf_file_list(const char *folder, char ***names, int64_t *n_names)
{
    rf_status status = RF_OK;
    char **list = NULL;
    int64_t n = 0, cap = 0;
    struct dirent *entry = NULL;
    DIR *dir = opendir(folder);

    *names = NULL;
    *n_names = 0;
    if (dir == NULL) {
        status = rf_file_raise("open the folder", folder, errno);
        goto fail;
    }
    while (errno = 0, (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            RF_TRY(append_name(&list, &n, &cap, entry->d_name));
        }
    }
    if (errno != 0) {
        status = rf_file_raise("list", folder, errno);
        goto fail;
    }
    if (n > 1) {
        qsort(list, (size_t)n, sizeof *list, compare_names);
    }
    *names = list;
    *n_names = n;
    list = NULL;
    n = 0;
fail:
    rf_file_list_free(list, n);
    if (dir != NULL) {
        closedir(dir);
    }
    return status;
}

void rf_file_list_free(char **names, int64_t n_names)
{
    for (int64_t i = 0; i < n_names; i++) {
        rf_free(names[i]);
    }
    rf_free(names);
}

rf_status rf_file_map_open(const char *path, rf_file_map *out)
{
    rf_status status = RF_OK;
    int fd = -1;
    int64_t size = 0;

    *out = (rf_file_map){0};
    RF_TRY(rf_file_open_read(path, &fd, &size));
    if (size > 0) { /* an empty map is an error of the system; an empty file is not one */
        void *p = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            status = rf_file_raise("map", path, errno);
            goto fail;
        }
        *out = (rf_file_map){.bytes = p, .n_bytes = size};
    }
fail:
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

void rf_file_map_close(rf_file_map *map)
{
    if (map->bytes != NULL) {
        munmap((void *)(uintptr_t)map->bytes, (size_t)map->n_bytes);
    }
    *map = (rf_file_map){0};
}
