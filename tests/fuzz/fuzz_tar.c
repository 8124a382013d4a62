/* Any bytes as a tar file: walked, and every member read again by its place.
 * layer: io
 * seeds: tests/golden/tar */
#include "refract/io.h"

#include "fuzz.h"

#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/rf-fuzz-tar-XXXXXX";

static void remove_file(void)
{
    unlink(path);
}

enum { MOST = 1 << 20 };

/* A file of these bytes: tar files are read by place, and only files have places. */
static void put(const uint8_t *bytes, size_t n_bytes)
{
    static int fd = -1;
    if (fd < 0) {
        fd = mkstemp(path);
        FUZZ_CHECK(fd >= 0 && atexit(remove_file) == 0);
    }
    FUZZ_CHECK(ftruncate(fd, 0) == 0);
    FUZZ_CHECK(pwrite(fd, bytes, n_bytes, 0) == (ssize_t)n_bytes);
}

static void read_both(rf_tar *walk, const rf_tar *tar, const rf_tar_member *m)
{
    char *here = NULL, *there = NULL;
    int64_t n_here = 0, n_there = 0;
    const rf_status a = rf_tar_read(tar, m, MOST, &there, &n_there);
    const rf_status b = rf_tar_read_here(walk, MOST, &here, &n_here);
    FUZZ_CHECK((a == RF_OK) == (there != NULL) && (b == RF_OK) == (here != NULL));
    if (a == RF_OK && b == RF_OK) {
        FUZZ_CHECK(n_here == m->n_bytes && n_there == m->n_bytes);
        FUZZ_CHECK(memcmp(here, there, (size_t)n_here) == 0);
    }
    rf_free(here);
    rf_free(there);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    rf_tar *walk = NULL, *tar = NULL;
    rf_tar_member m;
    bool has = false;
    int64_t last = -1;

    put(bytes, n_bytes);
    if (rf_tar_open(path, &walk) == RF_OK && rf_tar_open(path, &tar) == RF_OK) {
        while (rf_tar_next(walk, &m, &has) == RF_OK && has) {
            FUZZ_CHECK(m.place > last && m.n_bytes >= 0);
            FUZZ_CHECK(m.place + m.n_bytes < (int64_t)n_bytes && m.name[0] != '\0');
            last = m.place;
            if (m.kind == RF_TAR_FILE) {
                read_both(walk, tar, &m);
            }
        }
    }
    rf_tar_close(walk);
    rf_tar_close(tar);
    FUZZ_CHECK(rf_alloc_live() == 0);
    return 0;
}
