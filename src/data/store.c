/* The activation store: groups written and read at the places that the file's description names
 * (docs/format-store.md). */
#include "store_impl.h"

#include <stdio.h>
#include <string.h>

/* What a killed writer may have to make again. */
enum { FLUSH_BYTES = 256 << 20, FLUSH_SECONDS = 2 };

/* ---- what is known -----------------------------------------------------------------------------
 */

const rf_store_head *rf_store_get_head(const rf_store *store)
{
    return &store->head;
}

const char *rf_store_path(const rf_store *store)
{
    return store->path;
}

int64_t rf_store_n_groups(const rf_store *store)
{
    return store->n_groups;
}

int64_t rf_store_group(const rf_store *store, int64_t group, int64_t *first)
{
    *first = group * store->head.group_pictures;
    return rf_min_i64(store->head.group_pictures, store->head.n_pictures - *first);
}

static int64_t picture_bytes(const rf_store *store, int64_t site)
{
    const rf_store_site *s = &store->head.sites[site];
    return s->n_rows * s->width * (int64_t)rf_dtype_bytes(store->head.dtype);
}

int64_t rf_store_block_bytes(const rf_store *store, int64_t group, int64_t site)
{
    int64_t first = 0;
    return rf_store_group(store, group, &first) * picture_bytes(store, site);
}

static int64_t block_offset(const rf_store *store, int64_t group, int64_t site)
{
    return store->at.values[site] + group * store->head.group_pictures * picture_bytes(store, site);
}

int64_t rf_store_find(const rf_store *store, const char *model, const char *point)
{
    for (int64_t s = 0; s < store->head.n_sites; s++) {
        const rf_store_site *site = &store->head.sites[s];
        if (strcmp(site->model, model) == 0 && strcmp(site->point, point) == 0) {
            return s;
        }
    }
    return -1;
}

/* ---- open and close ----------------------------------------------------------------------------
 */

static uint64_t *checksums_of(const rf_store *store, int64_t group)
{
    return store->checksum + group * (store->head.n_sites + 1);
}

static int64_t checksum_bytes(const rf_store *store)
{
    return (store->head.n_sites + 1) * (int64_t)sizeof(uint64_t);
}

static rf_status read_progress(rf_store *store)
{
    rf_status status = RF_OK;
    const int64_t n = store->n_groups;

    RF_ALLOC(store->done, n);
    RF_ALLOC(store->checksum, n * (store->head.n_sites + 1));
    RF_TRY(rf_raw_file_read(store->file, store->at.done, store->done, n));
    RF_TRY(rf_raw_file_read(store->file, store->at.checksum, store->checksum,
                            n * checksum_bytes(store)));
    for (int64_t g = 0; g < n && store->use != RF_STORE_REPAIR; g++) {
        if (store->done[g] > 1) {
            RF_FAIL(RF_ERR_FORMAT,
                    "'%s': groups/done[%" PRId64
                    "] is %d, expected 0 or 1: the file is damaged; " RF_STORE_HOW_TO_REPAIR,
                    store->path, g, store->done[g]);
        }
    }
fail:
    return status;
}

rf_status rf_store_open_for(const char *path, rf_store_use use, rf_store **out)
{
    rf_status status = RF_OK;
    rf_store *store = NULL;
    const bool writable = use != RF_STORE_READ;

    *out = NULL;
    RF_ALLOC(store, 1);
    store->use = use;
    RF_TRY(rf_format(store->path, sizeof store->path, "%s", path));
    RF_TRY(rf_store_read_head(store));
    RF_TRY(rf_raw_file_open(path, writable, &store->file));
    RF_TRY(read_progress(store));
    if (writable) {
        RF_ALLOC(store->pending, store->n_groups);
        store->last_flush = rf_now();
    }
    *out = store;
    return RF_OK;
fail:
    rf_store_close(store);
    return status;
}

rf_status rf_store_open(const char *path, rf_store **out)
{
    return rf_store_open_for(path, RF_STORE_READ, out);
}

/* The folder that `path` is to lie in. */
static rf_status make_folder(const char *path)
{
    rf_status status = RF_OK;
    char folder[RF_PATH_LEN];
    const char *slash = strrchr(path, '/');

    if (slash != NULL && slash != path) {
        RF_TRY(rf_format(folder, sizeof folder, "%.*s", (int)(slash - path), path));
        RF_TRY(rf_file_make_dirs(folder));
    }
fail:
    return status;
}

rf_status rf_store_lock(const char *path, rf_folder_lock **out)
{
    rf_status status = rf_folder_lock_take_file(path, out);
    if (status == RF_ERR_UNSUPPORTED) { /* a file system without locks */
        rf_log(RF_LOG_WARN, "%s. Two writers of it at once would not be noticed", rf_error_text());
        return RF_OK;
    }
    return status;
}

/* Jobs that find all of it there write nothing, and any number of them may have it. */
static bool is_finished(const char *path)
{
    rf_store *store = NULL;
    const bool is = rf_store_open(path, &store) == RF_OK && rf_store_check_finished(store) == RF_OK;
    rf_store_close(store);
    return is;
}

/* Of rank 0: one job writes, and its other ranks stand behind this lock. */
static rf_status make_file(const char *path, const rf_store_head *head, rf_folder_lock **lock)
{
    rf_status status = RF_OK;

    RF_TRY(rf_store_check_head(head));
    RF_TRY(make_folder(path));
    if (rf_file_exists(path) && is_finished(path)) {
        return RF_OK;
    }
    RF_TRY(rf_store_lock(path, lock));
    if (!rf_file_exists(path)) {
        RF_TRY(rf_store_write_skeleton(path, head));
    }
fail:
    return status;
}

rf_status rf_store_create(const rf_comm *comm, const char *path, const rf_store_head *head,
                          rf_store **out)
{
    rf_status status = RF_OK;
    rf_store *store = NULL;
    rf_folder_lock *lock = NULL;

    *out = NULL;
    RF_TRY(rf_comm_agree(comm, rf_comm_rank(comm) == 0 ? make_file(path, head, &lock) : RF_OK));
    status = rf_store_open_for(path, RF_STORE_WRITE, &store);
    if (status == RF_OK) {
        status = rf_store_compare(store, head);
    }
    RF_TRY(rf_comm_agree(comm, status));
    store->lock = lock;
    *out = store;
    return RF_OK;
fail:
    rf_store_close(store);
    rf_folder_lock_release(lock);
    return status;
}

/* Also behind an error, whose text stays. */
static void flush_rest(rf_store *store)
{
    char text[RF_ERROR_TEXT_LEN];
    if (store->n_pending > 0) {
        snprintf(text, sizeof text, "%s", rf_error_text());
        rf_store_flush(store); /* if it fails, those groups are made once more */
        rf_error_restore(RF_ERR_IO, text);
    }
}

void rf_store_close(rf_store *store)
{
    if (store != NULL) {
        flush_rest(store);
        rf_raw_file_close(store->file);
        rf_folder_lock_release(store->lock);
        rf_free(store->pending);
        rf_free(store->checksum);
        rf_free(store->done);
        rf_store_fini_head(store);
        rf_free(store);
    }
}

rf_status rf_store_check_finished(const rf_store *store)
{
    rf_status status = RF_OK;
    int64_t n_done = 0, missing = -1;
    for (int64_t g = store->n_groups - 1; g >= 0; g--) {
        n_done += store->done[g];
        missing = store->done[g] != 0 ? missing : g;
    }
    if (missing >= 0) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s' is not finished: it has %" PRId64 " of %" PRId64 " groups, and group %" PRId64
                " is the first that is missing (a run with activations.source=both writes those of "
                "its activations.share). 'refract cache' with the same settings goes on",
                store->path, n_done, store->n_groups, missing);
    }
fail:
    return status;
}

/* ---- writing -----------------------------------------------------------------------------------
 */

static rf_status check_group(const rf_store *store, int64_t group)
{
    rf_status status = RF_OK;
    RF_REQUIRE(group >= 0 && group < store->n_groups,
               "group=%" PRId64 " of '%s', expected 0 to %" PRId64, group, store->path,
               store->n_groups - 1);
fail:
    return status;
}

rf_status rf_store_write(rf_store *store, int64_t group, const void *const *blocks,
                         const uint8_t *valid)
{
    rf_status status = RF_OK;
    const int64_t n_sites = store->head.n_sites;
    int64_t first = 0;

    RF_TRY(check_group(store, group));
    RF_REQUIRE(store->use == RF_STORE_WRITE, "'%s' was opened for reading", store->path);
    const int64_t n = rf_store_group(store, group, &first);
    uint64_t *checksum = checksums_of(store, group);
    for (int64_t s = 0; s < n_sites; s++) {
        const int64_t n_bytes = rf_store_block_bytes(store, group, s);
        checksum[s] = rf_checksum(blocks[s], (size_t)n_bytes);
        RF_TRY(rf_raw_file_write(store->file, block_offset(store, group, s), blocks[s], n_bytes));
        store->pending_bytes += n_bytes;
    }
    checksum[n_sites] = rf_checksum(valid, (size_t)n);
    RF_TRY(rf_raw_file_write(store->file, store->at.valid + first, valid, n));
    RF_TRY(rf_raw_file_write(store->file, store->at.checksum + group * checksum_bytes(store),
                             checksum, checksum_bytes(store)));
    if (store->done[group] == 0) {
        store->done[group] = 1;
        store->pending[store->n_pending++] = group;
    }
    if (store->pending_bytes >= FLUSH_BYTES || rf_now() - store->last_flush >= FLUSH_SECONDS) {
        RF_TRY(rf_store_flush(store));
    }
fail:
    return status;
}

rf_status rf_store_flush(rf_store *store)
{
    rf_status status = RF_OK;
    const uint8_t one = 1;

    if (store->n_pending == 0) {
        return RF_OK;
    }
    RF_TRY(rf_raw_file_sync(store->file));
    for (int64_t i = 0; i < store->n_pending; i++) {
        RF_TRY(rf_raw_file_write(store->file, store->at.done + store->pending[i], &one, 1));
    }
    store->n_pending = 0;
    store->pending_bytes = 0;
    store->last_flush = rf_now();
fail:
    return status;
}

rf_status rf_store_unmark(rf_store *store, int64_t group)
{
    rf_status status = RF_OK;
    const uint8_t zero = 0;

    RF_TRY(check_group(store, group));
    RF_TRY(rf_raw_file_write(store->file, store->at.done + group, &zero, 1));
    RF_TRY(rf_raw_file_sync(store->file));
    store->done[group] = 0;
fail:
    return status;
}

/* ---- reading -----------------------------------------------------------------------------------
 */

rf_status rf_store_has(rf_store *store, int64_t group, bool *out)
{
    rf_status status = RF_OK;
    uint8_t done = 0;

    *out = false;
    RF_TRY(check_group(store, group));
    if (store->done[group] == 0 &&
        store->use == RF_STORE_WRITE) { /* another rank may have written it */
        RF_TRY(rf_raw_file_read(store->file, store->at.done + group, &done, 1));
        if (done == 1) {
            RF_TRY(rf_raw_file_read(store->file, store->at.checksum + group * checksum_bytes(store),
                                    checksums_of(store, group), checksum_bytes(store)));
            store->done[group] = 1;
        }
    }
    *out = store->done[group] == 1;
fail:
    return status;
}

/* Bytes at `offset`, as they were when `checksum` was taken. */
static rf_status read_checked(const rf_store *store, int64_t group, const char *what,
                              uint64_t checksum, int64_t offset, void *out, int64_t n_bytes)
{
    rf_status status = RF_OK;
    int64_t first = 0;
    const int64_t n = rf_store_group(store, group, &first);

    RF_TRY(rf_raw_file_read(store->file, offset, out, n_bytes));
    if (rf_checksum(out, (size_t)n_bytes) != checksum) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s': %s of group %" PRId64 " (pictures %" PRId64 " to %" PRId64 ", bytes %" PRId64
                " to %" PRId64 " of the file) do not match their checksum: the file is "
                "damaged; " RF_STORE_HOW_TO_REPAIR,
                store->path, what, group, first, first + n - 1, offset, offset + n_bytes - 1);
    }
fail:
    return status;
}

rf_status rf_store_read(const rf_store *store, int64_t group, int64_t site, void *out)
{
    rf_status status = RF_OK;
    RF_TRY(check_group(store, group));
    RF_REQUIRE(site >= 0 && site < store->head.n_sites,
               "site=%" PRId64 " of '%s', expected 0 to %" PRId64, site, store->path,
               store->head.n_sites - 1);
    RF_TRY(read_checked(store, group, store->head.sites[site].point,
                        checksums_of(store, group)[site], block_offset(store, group, site), out,
                        rf_store_block_bytes(store, group, site)));
fail:
    return status;
}

rf_status rf_store_read_valid(const rf_store *store, int64_t group, uint8_t *valid)
{
    rf_status status = RF_OK;
    int64_t first = 0;
    RF_TRY(check_group(store, group));
    const int64_t n = rf_store_group(store, group, &first);
    RF_TRY(read_checked(store, group, "pictures/valid",
                        checksums_of(store, group)[store->head.n_sites], store->at.valid + first,
                        valid, n));
fail:
    return status;
}
