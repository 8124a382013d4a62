#include "scratch.h"

#include <sys/stat.h>

static void reads_a_whole_file_and_ends_it_with_zero(void **state)
{
    char *text = NULL;
    int64_t n = -1;
    (void)state;
    put_file(scratch("a"), "ab\0c", 4);
    assert_ok(rf_file_read(scratch("a"), 4, &text, &n));
    assert_int_equal(n, 4);
    assert_memory_equal(text, "ab\0c", 5);
    rf_free(text);
    put_text(scratch("empty"), "");
    assert_ok(rf_file_read(scratch("empty"), 0, &text, &n));
    assert_int_equal(n, 0);
    assert_string_equal(text, "");
    rf_free(text);
}

static void reads_a_file_whose_size_is_said_to_be_zero(void **state)
{
    char *text = NULL;
    int64_t n = 0;
    (void)state;
    assert_ok(rf_file_read("/proc/self/status", 1 << 20, &text, &n));
    assert_non_null(strstr(text, "VmRSS"));
    rf_free(text);
    /* one that never ends meets the cap */
    assert_refused(rf_file_read("/dev/zero", 100000, &text, &n), RF_ERR_FORMAT,
                   "larger than 100000 bytes");
    assert_null(text);
}

static void refuses_a_pipe_at_once(void **state)
{
    char *text = NULL;
    int64_t n = 0;
    rf_file_map map;
    (void)state;
    assert_int_equal(mkfifo(scratch("pipe"), 0600), 0);
    assert_refused(rf_file_read(scratch("pipe"), 100, &text, &n), RF_ERR_IO, "it is a pipe");
    assert_refused(rf_file_map_open(scratch("pipe"), &map), RF_ERR_IO, "it is a pipe");
}

static void refuses_above_the_cap_a_folder_and_a_missing_file(void **state)
{
    char *text = NULL;
    int64_t n = 0;
    (void)state;
    put_text(scratch("a"), "12345");
    assert_refused(rf_file_read(scratch("a"), 4, &text, &n), RF_ERR_FORMAT, "/a' is larger than 4");
    assert_refused(rf_file_read(scratch_folder, 4, &text, &n), RF_ERR_IO, "it is a folder");
    assert_refused(rf_file_read(scratch("b"), 4, &text, &n), RF_ERR_NOT_FOUND, "No such file");
    assert_refused(rf_file_read(scratch("a/b"), 4, &text, &n), RF_ERR_IO, "Not a directory");
}

static void lists_names_in_the_order_of_their_bytes(void **state)
{
    static const char *const expected[] = {".hidden", "B", "a", "a.b", "b"};
    char **names = NULL;
    int64_t n = -1;
    (void)state;
    assert_ok(rf_file_list(scratch_folder, &names, &n));
    assert_int_equal(n, 0);
    rf_file_list_free(names, n);
    put_text(scratch("b"), "");
    put_text(scratch("a"), "");
    put_text(scratch(".hidden"), "");
    assert_ok(rf_file_make_dirs(scratch("B")));
    put_text(scratch("a.b"), "");
    assert_ok(rf_file_list(scratch_folder, &names, &n));
    assert_int_equal(n, 5);
    for (int i = 0; i < 5; i++) {
        assert_string_equal(names[i], expected[i]);
    }
    rf_file_list_free(names, n);
    assert_refused(rf_file_list(scratch("none"), &names, &n), RF_ERR_NOT_FOUND, "/none'");
    assert_refused(rf_file_list(scratch("a"), &names, &n), RF_ERR_IO, "Not a directory");
}

static void lists_more_names_than_fit_its_first_block(void **state)
{
    char **names = NULL, name[16];
    int64_t n = 0;
    (void)state;
    for (int i = 0; i < 65; i++) {
        snprintf(name, sizeof name, "%03d", i);
        put_text(scratch(name), "");
    }
    assert_ok(rf_file_list(scratch_folder, &names, &n));
    assert_int_equal(n, 65);
    assert_string_equal(names[64], "064");
    rf_file_list_free(names, n);
}

static void makes_folders_above_folders(void **state)
{
    char deep[RF_PATH_LEN];
    (void)state;
    assert_ok(rf_path_join(deep, scratch_folder, "x/y//z/"));
    assert_ok(rf_file_make_dirs(deep));
    assert_true(rf_file_is_dir(scratch("x/y/z")));
    assert_ok(rf_file_make_dirs(deep));
    assert_ok(rf_file_make_dirs("/"));
    put_text(scratch("file"), "");
    assert_refused(rf_file_make_dirs(scratch("file")), RF_ERR_IO, "a file of that name is there");
    assert_int_not_equal(rf_file_make_dirs(scratch("file/below")), RF_OK);
    assert_refused(rf_file_make_dirs(""), RF_ERR_INVALID_ARG, "without a name");
}

static void joins_paths_and_refuses_what_does_not_fit(void **state)
{
    char out[RF_PATH_LEN], name[RF_PATH_LEN];
    (void)state;
    assert_ok(rf_path_join(out, "a", "b"));
    assert_string_equal(out, "a/b");
    assert_ok(rf_path_join(out, "a/", "b"));
    assert_string_equal(out, "a/b");
    assert_ok(rf_path_join(out, "", "b"));
    assert_string_equal(out, "b");
    memset(name, 'n', sizeof name);
    name[RF_PATH_LEN - 3] = '\0';
    assert_ok(rf_path_join(out, "a", name));
    name[RF_PATH_LEN - 3] = 'n';
    name[RF_PATH_LEN - 2] = '\0';
    assert_refused(rf_path_join(out, "a", name), RF_ERR_INVALID_ARG, "does not fit");
}

static void hashes_the_whole_content(void **state)
{
    enum { N = (1 << 20) + 1 }; /* one more than a block */
    static char bytes[N];
    uint64_t hash = 0;
    int64_t n = 0;
    (void)state;
    bytes[N - 1] = 7;
    put_file(scratch("a"), bytes, N);
    assert_ok(rf_file_hash(scratch("a"), &hash, &n));
    assert_int_equal(n, N);
    assert_true(hash == rf_hash(RF_HASH_START, bytes, N));
    put_file(scratch("a"), bytes, N - 1); /* exactly a block */
    assert_ok(rf_file_hash(scratch("a"), &hash, NULL));
    assert_true(hash == rf_hash(RF_HASH_START, bytes, N - 1));
    assert_refused(rf_file_hash(scratch("b"), &hash, &n), RF_ERR_NOT_FOUND, "/b'");
}

static void maps_files_even_empty_ones(void **state)
{
    rf_file_map map;
    (void)state;
    put_text(scratch("a"), "hello");
    assert_ok(rf_file_map_open(scratch("a"), &map));
    assert_int_equal(map.n_bytes, 5);
    assert_memory_equal(map.bytes, "hello", 5);
    rf_file_map_close(&map);
    rf_file_map_close(&map); /* twice is fine */
    put_text(scratch("empty"), "");
    assert_ok(rf_file_map_open(scratch("empty"), &map));
    assert_int_equal(map.n_bytes, 0);
    rf_file_map_close(&map);
    assert_refused(rf_file_map_open(scratch("b"), &map), RF_ERR_NOT_FOUND, "/b'");
}

static void leaves_no_memory_behind(void **state)
{
    (void)state;
    assert_int_equal(rf_alloc_live(), 0); /* the last test: all above freed what they took */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(reads_a_whole_file_and_ends_it_with_zero),
        scratch_test(reads_a_file_whose_size_is_said_to_be_zero),
        scratch_test(refuses_a_pipe_at_once),
        scratch_test(refuses_above_the_cap_a_folder_and_a_missing_file),
        scratch_test(lists_names_in_the_order_of_their_bytes),
        scratch_test(lists_more_names_than_fit_its_first_block),
        scratch_test(makes_folders_above_folders),
        scratch_test(joins_paths_and_refuses_what_does_not_fit),
        scratch_test(hashes_the_whole_content),
        scratch_test(maps_files_even_empty_ones),
        cmocka_unit_test(leaves_no_memory_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
