/* Sources of pictures to try lists on: shards, Kaggle's layout, lists. */
#ifndef REFRACT_TESTS_PICTURE_SOURCES_H
#define REFRACT_TESTS_PICTURE_SOURCES_H

#include "refract/pictures.h"

#include "io/scratch.h"
#include "io/tar_writer.h"

/* `text` at `name` in the test's folder, with its folders. */
static inline void put_at(const char *name, const char *text)
{
    char folder[RF_PATH_LEN];
    const char *path = scratch(name);
    assert_ok(rf_format(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path));
    assert_ok(rf_file_make_dirs(folder));
    put_text(path, text);
}

/* A shard of what the pairs of `members` say: name, text, name, text, ..., NULL. */
static inline void put_shard(const char *name, const char *const *members)
{
    rf_str tar = {0};
    for (int i = 0; members[i] != NULL; i += 2) {
        assert_ok(tar_put(&tar, members[i], members[i + 1]));
    }
    assert_ok(tar_end(&tar));
    put_at(name, "");
    put_file(scratch(name), tar.data, (size_t)tar.len);
    rf_str_fini(&tar);
}

/* `n_shards` shards of `n` samples, some without a label, in the folder `folder`. */
static inline void put_shards(const char *folder, int n_shards, int n)
{
    for (int s = 0; s < n_shards; s++) {
        rf_str tar = {0};
        char name[64], text[64];
        for (int i = 0; i < n; i++) {
            snprintf(name, sizeof name, "sub/%03d.jpg", i);
            snprintf(text, sizeof text, "picture %d of %d", i, s);
            assert_ok(tar_put(&tar, name, text));
            snprintf(name, sizeof name, "sub/%03d.cls", i);
            snprintf(text, sizeof text, "%d", (7 * s + i) % 10);
            if (i % 5 != 4) {
                assert_ok(tar_put(&tar, name, text));
            }
        }
        assert_ok(tar_end(&tar));
        snprintf(name, sizeof name, "%s/s-%02d.tar", folder, s);
        put_at(name, "");
        put_file(scratch(name), tar.data, (size_t)tar.len);
        rf_str_fini(&tar);
    }
}

/* ---- what a list holds ------------------------------------------------------------------------
 */

static inline rf_status open_at(const char *name, rf_picture_list **out)
{
    const rf_picture_list_opts opts = {.path = scratch(name)};
    return rf_picture_list_open(&opts, out);
}

/* What a list must hold, in order; a NULL name ends it. */
typedef struct wanted {
    const char *name;
    int64_t label;
} wanted;

static inline void assert_list(const rf_picture_list *list, const wanted *want)
{
    int64_t n = 0;
    for (; want[n].name != NULL; n++) {
        assert_true(n < rf_picture_list_n(list, RF_SPLIT_ALL));
        assert_string_equal(rf_picture_list_name(list, RF_SPLIT_ALL, n), want[n].name);
        assert_int_equal(rf_picture_list_label(list, RF_SPLIT_ALL, n), want[n].label);
    }
    assert_int_equal(rf_picture_list_n(list, RF_SPLIT_ALL), n);
}

static inline void assert_path(const rf_picture_list *list, int64_t idx, const char *want)
{
    char path[RF_PATH_LEN];
    assert_ok(rf_picture_list_path(list, RF_SPLIT_ALL, idx, path));
    assert_string_equal(path, want);
}

static inline void assert_reads(const rf_picture_list *list, int64_t idx, const char *want)
{
    char *bytes = NULL;
    int64_t n_bytes = 0;
    assert_ok(rf_picture_list_read(list, RF_SPLIT_ALL, idx, &bytes, &n_bytes));
    assert_int_equal(n_bytes, strlen(want));
    assert_memory_equal(bytes, want, strlen(want));
    assert_int_equal(rf_picture_list_bytes(list, RF_SPLIT_ALL, idx), strlen(want));
    rf_free(bytes);
}

#endif
