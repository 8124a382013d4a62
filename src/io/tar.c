/* Tar files: members in order, and again by place. libarchive reads the headers; bytes come by
 * pread from one descriptor, so that threads may read at once and what is not wanted is passed
 * over. */
#include "io_impl.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

enum {
    HEADER_BYTES = 512,
    WALK_BYTES = 4096, /* a header, and a small member with the next one */
    READ_BYTES = 1 << 17,
    END_BYTES = 1 << 16 /* writers fill a file up with zeros to so many at most */
};

/* One pass of libarchive over a file, from any member's header on. */
typedef struct cursor {
    const rf_tar *tar;
    struct archive *archive;
    struct archive_entry *entry; /* borrowed from `archive` */
    int64_t start;               /* where the pass began */
    int64_t at;                  /* where the next block is read */
    int64_t block_bytes;
    char *block; /* [block_bytes] */
} cursor;

struct rf_tar {
    char path[RF_PATH_LEN];
    int fd;
    int64_t n_bytes;
    cursor *walk; /* of rf_tar_next; NULL before the first call */
    bool is_over;
    char name[RF_PATH_LEN]; /* of the member that rf_tar_next gave last */
    int64_t place, member_bytes;
};

/* ---- a cursor ---------------------------------------------------------------------------------
 */

static la_ssize_t read_block(struct archive *archive, void *user, const void **out)
{
    cursor *c = user;
    ssize_t n = 0;
    do {
        n = pread(c->tar->fd, c->block, (size_t)c->block_bytes, (off_t)c->at);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        archive_set_error(archive, errno, "cannot be read");
        return ARCHIVE_FATAL;
    }
    c->at += n;
    *out = c->block;
    return n;
}

/* A seek goes beyond the end without complaint, and a file that was cut would look whole: where
 * there is less, less is passed over, and the next block has no bytes. (An error from here would be
 * asked again for ever.) */
static la_int64_t skip_bytes(struct archive *archive, void *user, la_int64_t n_bytes)
{
    cursor *c = user;
    (void)archive;
    const int64_t n = rf_min_i64(n_bytes, rf_max_i64(c->tar->n_bytes - c->at, 0));
    c->at += n;
    return n;
}

static void cursor_close(cursor *c)
{
    if (c != NULL) {
        archive_read_free(c->archive);
        rf_free(c->block);
        rf_free(c);
    }
}

/* What libarchive says of member or header at `place`. */
static rf_status raise_archive(const cursor *c, int64_t place)
{
    const char *text = archive_error_string(c->archive);
    return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__,
                          "%s: damaged tar file, at byte %" PRId64 ": %s", c->tar->path, place,
                          text != NULL ? text : "no reason given");
}

static rf_status cursor_open(const rf_tar *tar, int64_t start, int64_t block_bytes, cursor **out)
{
    rf_status status = RF_OK;
    cursor *c = NULL;

    RF_ALLOC(c, 1);
    *c = (cursor){.tar = tar, .start = start, .at = start, .block_bytes = block_bytes};
    RF_ALLOC(c->block, block_bytes);
    c->archive = archive_read_new();
    if (c->archive == NULL) {
        RF_FAIL(RF_ERR_NO_MEMORY, "%s: no memory to read it", tar->path);
    }
    if (archive_read_support_format_tar(c->archive) != ARCHIVE_OK ||
        archive_read_set_callback_data(c->archive, c) != ARCHIVE_OK ||
        archive_read_set_read_callback(c->archive, read_block) != ARCHIVE_OK ||
        archive_read_set_skip_callback(c->archive, skip_bytes) != ARCHIVE_OK ||
        archive_read_open1(c->archive) != ARCHIVE_OK) {
        status = raise_archive(c, start);
        goto fail;
    }
    *out = c;
    c = NULL;
fail:
    cursor_close(c);
    return status;
}

/* Behind the last member stands at least one block of zeros, and nothing else behind that: a file
 * that was cut between two members has none, and one that another was appended to would be read by
 * half. */
static rf_status check_end(const rf_tar *tar, int64_t place)
{
    rf_status status = RF_OK;
    char *block = NULL;
    ssize_t n = 0;

    RF_ALLOC(block, END_BYTES);
    do {
        n = pread(tar->fd, block, END_BYTES, (off_t)place);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        status = rf_file_raise("read", tar->path, errno);
        goto fail;
    }
    for (ssize_t i = 0; i < n; i++) {
        if (block[i] != 0) {
            RF_FAIL(RF_ERR_FORMAT,
                    "%s: damaged tar file, at byte %" PRId64
                    ": more follows behind the mark of its end; were two files put together?",
                    tar->path, place + i);
        }
    }
    if (n < HEADER_BYTES) {
        RF_FAIL(RF_ERR_FORMAT,
                "%s: damaged tar file, at byte %" PRId64
                ": the file is cut short: the mark of its end is missing",
                tar->path, place);
    }
fail:
    rf_free(block);
    return status;
}

/* To the next header; c->entry is NULL at the end. */
static rf_status cursor_next(cursor *c, int64_t *place)
{
    c->entry = NULL;
    const int result = archive_read_next_header(c->archive, &c->entry);
    *place = c->start + archive_read_header_position(c->archive);
    if (result == ARCHIVE_EOF) {
        c->entry = NULL;
        return check_end(c->tar, *place);
    }
    /* WARN: of owners, times, character sets */
    if (result != ARCHIVE_OK && result != ARCHIVE_WARN) {
        c->entry = NULL;
        *place = c->start + archive_filter_bytes(c->archive, 0); /* the header's is gone now */
        return raise_archive(c, *place);
    }
    return RF_OK;
}

/* ---- members ----------------------------------------------------------------------------------
 */

/* Bytes as they stand; where they are known as UTF-8 only, as that. */
static const char *name_of(struct archive_entry *entry)
{
    const char *name = archive_entry_pathname(entry);
    name = name != NULL ? name : archive_entry_pathname_utf8(entry);
    while (name != NULL && name[0] == '.' && name[1] == '/' && name[2] != '\0') {
        name += 2; /* "tar -c ." writes it before each name */
    }
    return name;
}

static rf_tar_kind kind_of(struct archive_entry *entry)
{
    if (archive_entry_hardlink(entry) != NULL || archive_entry_hardlink_utf8(entry) != NULL) {
        return RF_TAR_OTHER;
    }
    switch (archive_entry_filetype(entry)) {
    case AE_IFREG:
        return RF_TAR_FILE;
    case AE_IFDIR:
        return RF_TAR_FOLDER;
    default:
        return RF_TAR_OTHER;
    }
}

static rf_status describe(const rf_tar *tar, struct archive_entry *entry, int64_t place,
                          char name[RF_PATH_LEN], rf_tar_member *out)
{
    rf_status status = RF_OK;
    const char *raw = name_of(entry);

    if (raw == NULL || raw[0] == '\0') {
        RF_FAIL(RF_ERR_FORMAT, "%s: damaged tar file, at byte %" PRId64 ": a member has no name",
                tar->path, place);
    }
    if (strlen(raw) >= RF_PATH_LEN) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "%s: at byte %" PRId64 ": the name of a member has %zu bytes, expected fewer than "
                "%d",
                tar->path, place, strlen(raw), (int)RF_PATH_LEN);
    }
    RF_TRY(rf_format(name, RF_PATH_LEN, "%s", raw));
    *out = (rf_tar_member){
        .name = name, .kind = kind_of(entry), .place = place, .n_bytes = archive_entry_size(entry)};
    if (out->kind != RF_TAR_FILE) {
        out->n_bytes = 0;
        return RF_OK;
    }
    if (archive_entry_sparse_count(entry) > 0) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "%s: at byte %" PRId64 ": '%s' is stored as a sparse file; write the tar file "
                "again without --sparse",
                tar->path, place, name);
    }
    if (out->n_bytes < 0 || out->n_bytes > tar->n_bytes - HEADER_BYTES - place) {
        RF_FAIL(RF_ERR_FORMAT,
                "%s: damaged tar file, at byte %" PRId64
                ": the file is cut short: '%s' has %" PRId64 " bytes, and %" PRId64 " follow",
                tar->path, place, name, out->n_bytes, tar->n_bytes - HEADER_BYTES - place);
    }
fail:
    return status;
}

/* The data of the cursor's member. */
static rf_status read_data(cursor *c, const rf_tar_member *member, char **out)
{
    rf_status status = RF_OK;
    char *bytes = NULL;
    int64_t n = 0;

    RF_ALLOC(bytes, member->n_bytes + 1);
    while (n < member->n_bytes) {
        la_ssize_t got = archive_read_data(c->archive, bytes + n, (size_t)(member->n_bytes - n));
        if (got <= 0) {
            status = raise_archive(c, member->place);
            goto fail;
        }
        n += got;
    }
    *out = bytes;
    bytes = NULL;
fail:
    rf_free(bytes);
    return status;
}

static rf_status check_size(const rf_tar *tar, const char *name, int64_t n_bytes, int64_t max_bytes)
{
    if (n_bytes > max_bytes) {
        return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__,
                              "%s: '%s' has %" PRId64 " bytes, expected at most %" PRId64,
                              tar->path, name, n_bytes, max_bytes);
    }
    return RF_OK;
}

/* ---- files ------------------------------------------------------------------------------------
 */

/* The first bytes of what people also call a tar file. */
static rf_status refuse_compressed(const rf_tar *tar)
{
    static const struct {
        const char *magic, *what;
    } kinds[] = {{"\x1f\x8b", "gzip"},
                 {"BZh", "bzip2"},
                 {"\xfd"
                  "7zXZ",
                  "xz"},
                 {"\x28\xb5\x2f\xfd", "zstd"},
                 {"\x04\x22\x4d\x18", "lz4"}};
    unsigned char first[8] = {0};
    if (pread(tar->fd, first, sizeof first, 0) < 0) {
        return rf_file_raise("read", tar->path, errno);
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (memcmp(first, kinds[i].magic, strlen(kinds[i].magic)) == 0) {
            return rf_error_raise(RF_ERR_UNSUPPORTED, __FILE__, __LINE__,
                                  "%s: compressed by %s, so that members cannot be read by "
                                  "themselves; unpack it to a plain .tar (pictures are compressed "
                                  "already)",
                                  tar->path, kinds[i].what);
        }
    }
    return RF_OK;
}

rf_status rf_tar_open(const char *path, rf_tar **out)
{
    rf_status status = RF_OK;
    struct stat info;
    rf_tar *tar = NULL;

    *out = NULL;
    RF_ALLOC(tar, 1);
    tar->fd = -1;
    RF_TRY(rf_format(tar->path, sizeof tar->path, "%s", path));
    tar->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would be waited for */
    if (tar->fd < 0 || fstat(tar->fd, &info) != 0) {
        status = rf_file_raise("open", path, errno);
        goto fail;
    }
    if (!S_ISREG(info.st_mode)) {
        RF_FAIL(RF_ERR_IO, "cannot read '%s': expected a file", path);
    }
    tar->n_bytes = (int64_t)info.st_size;
    RF_TRY(refuse_compressed(tar));
    if (tar->n_bytes < HEADER_BYTES) {
        RF_FAIL(RF_ERR_FORMAT, "%s: %" PRId64 " bytes are too few for a tar file", path,
                tar->n_bytes);
    }
    *out = tar;
    tar = NULL;
fail:
    rf_tar_close(tar);
    return status;
}

void rf_tar_close(rf_tar *tar)
{
    if (tar == NULL) {
        return;
    }
    cursor_close(tar->walk);
    if (tar->fd >= 0) {
        close(tar->fd);
    }
    rf_free(tar);
}

rf_status rf_tar_next(rf_tar *tar, rf_tar_member *out, bool *has)
{
    rf_status status = RF_OK;
    int64_t place = 0;

    *has = false;
    if (tar->is_over) {
        return RF_OK;
    }
    if (tar->walk == NULL) {
        RF_TRY(cursor_open(tar, 0, WALK_BYTES, &tar->walk));
    }
    tar->is_over = true; /* also where this fails */
    RF_TRY(cursor_next(tar->walk, &place));
    if (tar->walk->entry == NULL) {
        return RF_OK;
    }
    RF_TRY(describe(tar, tar->walk->entry, place, tar->name, out));
    tar->place = out->place;
    tar->member_bytes = out->n_bytes;
    tar->is_over = false;
    *has = true;
fail:
    return status;
}

rf_status rf_tar_read_here(rf_tar *tar, int64_t max_bytes, char **bytes, int64_t *n_bytes)
{
    rf_status status = RF_OK;
    const rf_tar_member member = {
        .name = tar->name, .place = tar->place, .n_bytes = tar->member_bytes};

    *bytes = NULL;
    RF_REQUIRE(tar->walk != NULL && !tar->is_over, "%s: no member to read", tar->path);
    RF_TRY(check_size(tar, member.name, member.n_bytes, max_bytes));
    RF_TRY(read_data(tar->walk, &member, bytes));
    *n_bytes = member.n_bytes;
fail:
    return status;
}

rf_status rf_tar_read(const rf_tar *tar, const rf_tar_member *member, int64_t max_bytes,
                      char **bytes, int64_t *n_bytes)
{
    rf_status status = RF_OK;
    cursor *c = NULL;
    char name[RF_PATH_LEN];
    rf_tar_member found = {0};
    int64_t place = 0;

    *bytes = NULL;
    RF_REQUIRE(member->place >= 0, "place = %" PRId64 ", expected >= 0", member->place);
    RF_TRY(check_size(tar, member->name, member->n_bytes, max_bytes));
    RF_TRY(
        cursor_open(tar, member->place, rf_min_i64(member->n_bytes + WALK_BYTES, READ_BYTES), &c));
    RF_TRY(cursor_next(c, &place));
    if (c->entry != NULL) {
        RF_TRY(describe(tar, c->entry, place, name, &found));
    }
    if (found.name == NULL || found.kind != RF_TAR_FILE || found.n_bytes != member->n_bytes ||
        strcmp(found.name, member->name) != 0) {
        RF_FAIL(RF_ERR_FORMAT,
                "%s: at byte %" PRId64 " there is no '%s' of %" PRId64
                " bytes any more: the file was changed",
                tar->path, member->place, member->name, member->n_bytes);
    }
    RF_TRY(read_data(c, &found, bytes));
    *n_bytes = found.n_bytes;
fail:
    cursor_close(c);
    return status;
}
