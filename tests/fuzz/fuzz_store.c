/* Any bytes as an activation store: opened, and everything read that it says it has.
 * layer: data
 * seeds: tests/data/accept tests/data/refuse */
#include "refract/data.h"

#include "fuzz.h"

#include <string.h>
#include <unistd.h>

enum { MOST_GROUPS = 64, MOST_SITES = 8 };

static void check_head(const rf_store_head *head)
{
    FUZZ_CHECK(head->n_pictures >= 1 && head->n_sites >= 1 && head->group_pictures >= 1);
    FUZZ_CHECK(head->n_sites <= RF_STORE_MAX_SITES);
    for (int64_t i = 0; i < head->n_pictures; i++) {
        FUZZ_CHECK(strlen(head->names[i]) < RF_PATH_LEN && head->labels[i] >= -1);
    }
    for (int64_t s = 0; s < head->n_sites; s++) {
        const rf_store_site *site = &head->sites[s];
        FUZZ_CHECK(site->n_rows >= 1 && site->width >= 1 && site->point[0] != '\0');
        FUZZ_CHECK(site->first_row >= 0 && site->first_row + site->n_rows <= site->point_rows);
        for (int64_t r = 0; r < site->n_rows; r++) {
            FUZZ_CHECK(site->classes[r] >= RF_TOKENS_CLS && site->classes[r] <= RF_TOKENS_POOLED);
        }
    }
}

static void read_group(const rf_store *store, int64_t group, size_t n_bytes)
{
    int64_t first = 0;
    const int64_t n = rf_store_group(store, group, &first);
    const int64_t n_sites = rf_store_get_head(store)->n_sites;
    uint8_t *valid = rf_calloc(n, 1);
    FUZZ_CHECK(n >= 1 && first >= 0 && n <= (int64_t)n_bytes && valid != NULL);
    (void)rf_store_read_valid(store, group, valid);
    for (int64_t s = 0; s < rf_min_i64(n_sites, MOST_SITES); s++) {
        const int64_t n_block = rf_store_block_bytes(store, group, s);
        FUZZ_CHECK(n_block >= 1 && n_block <= (int64_t)n_bytes); /* it lies in the file */
        uint8_t *block = rf_calloc(n_block, 1);
        FUZZ_CHECK(block != NULL);
        (void)rf_store_read(store, group, s, block);
        rf_free(block);
    }
    rf_free(valid);
}

static void look_at(const char *path, size_t n_bytes)
{
    rf_store *store = NULL;
    if (rf_store_open(path, &store) != RF_OK) {
        return;
    }
    check_head(rf_store_get_head(store));
    (void)rf_store_check_finished(store);
    for (int64_t g = 0; g < rf_min_i64(rf_store_n_groups(store), MOST_GROUPS); g++) {
        read_group(store, g, n_bytes);
    }
    rf_store_close(store);
}

/* HDF5 wants a file with a name. One of this process, in memory where there is such a folder. */
static char file_path[64];

static void remove_file(void)
{
    remove(file_path);
}

static int open_file(void)
{
    static int fd = -1;
    if (fd < 0) {
        const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        FUZZ_CHECK(rf_format(file_path, sizeof file_path, "%s/fuzz-store-XXXXXX", folder) == RF_OK);
        fd = mkstemp(file_path);
        FUZZ_CHECK(fd >= 0 && atexit(remove_file) == 0);
    }
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    const int fd = open_file();
    FUZZ_CHECK(ftruncate(fd, 0) == 0);
    FUZZ_CHECK(pwrite(fd, bytes, n_bytes, 0) == (ssize_t)n_bytes);
    look_at(file_path, n_bytes);
    FUZZ_CHECK(rf_alloc_live() == 0);
    return 0;
}
