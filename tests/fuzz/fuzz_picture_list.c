/* Any bytes as a list of pictures in each of its forms, and as a tar shard.
 * layer: pictures
 * seeds: tests/golden/lists tests/golden/tar */
#include "refract/pictures.h"

#include "fuzz.h"

#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/rf-fuzz-list-XXXXXX.tar";

static void remove_file(void)
{
    unlink(path);
}

static void check(rf_picture_list *list)
{
    const int64_t n = list != NULL ? rf_picture_list_n(list, RF_SPLIT_ALL) : 0;
    const int64_t n_classes = list != NULL ? rf_picture_list_n_classes(list) : 0;
    for (int64_t i = 0; i < n; i++) {
        const char *name = rf_picture_list_name(list, RF_SPLIT_ALL, i);
        const int64_t label = rf_picture_list_label(list, RF_SPLIT_ALL, i);
        FUZZ_CHECK(name[0] != '\0' && strlen(name) < RF_PATH_LEN);
        FUZZ_CHECK(i == 0 || strcmp(rf_picture_list_name(list, RF_SPLIT_ALL, i - 1), name) < 0);
        FUZZ_CHECK(label >= -1 && label < n_classes);
    }
    rf_picture_list_close(list);
    FUZZ_CHECK(rf_alloc_live() == 0);
}

/* The header that every tar file has; others need no file. */
static bool is_tar(const uint8_t *bytes, size_t n_bytes)
{
    return n_bytes >= 512 && memcmp(bytes + 257, "ustar", 5) == 0;
}

static void open_shard(const uint8_t *bytes, size_t n_bytes)
{
    static int fd = -1;
    rf_picture_list *list = NULL;
    const rf_picture_list_opts opts = {.path = path};
    if (fd < 0) {
        fd = mkstemps(path, 4);
        FUZZ_CHECK(fd >= 0 && atexit(remove_file) == 0);
    }
    FUZZ_CHECK(ftruncate(fd, 0) == 0);
    FUZZ_CHECK(pwrite(fd, bytes, n_bytes, 0) == (ssize_t)n_bytes);
    const rf_status status = rf_picture_list_open(&opts, &list);
    FUZZ_CHECK((status == RF_OK) == (list != NULL));
    check(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    static const char *const names[] = {"fuzz.csv", "fuzz.tsv", "fuzz.txt"};
    for (int i = 0; i < 3; i++) {
        rf_picture_list *list = NULL;
        const rf_picture_list_opts opts = {.path = names[i], .holdout = 0.5};
        const rf_status status = rf_picture_list_parse(&opts, bytes, (int64_t)n_bytes, &list);
        FUZZ_CHECK((status == RF_OK) == (list != NULL));
        check(list);
    }
    if (is_tar(bytes, n_bytes)) {
        open_shard(bytes, n_bytes);
    }
    return 0;
}
