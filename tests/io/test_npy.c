#include "scratch.h"

static void every_array_of_numpy_reads_as_it_says(void **state)
{
    char path[RF_PATH_LEN];
    rf_tensor_file *expected = NULL;
    (void)state;
    assert_ok(rf_tensor_file_open(RF_GOLDEN_DIR "/npy/values.safetensors", &expected));
    assert_true(rf_tensor_file_count(expected) >= 17);
    for (int64_t i = 0; i < rf_tensor_file_count(expected); i++) {
        const rf_named_tensor *want = rf_tensor_file_at(expected, i);
        int64_t shape[RF_FILE_MAX_DIMS] = {0};
        float *got = NULL;
        int n_dims = -1;
        assert_ok(rf_format(path, sizeof path, RF_GOLDEN_DIR "/npy/%s.npy", want->name));
        assert_ok(rf_npy_read_f32(path, RF_FILE_MAX_DIMS, &n_dims, shape, &got));
        assert_int_equal(n_dims, want->n_dims);
        assert_memory_equal(shape, want->shape, sizeof shape);
        if (want->n_bytes > 0) {
            assert_memory_equal(got, want->bytes, (size_t)want->n_bytes);
        }
        rf_free(got);
    }
    rf_tensor_file_close(expected);
}

static void more_dimensions_than_asked_for_are_refused(void **state)
{
    int64_t shape[2] = {0};
    float *got = NULL;
    int n_dims = 0;
    (void)state;
    assert_ok(rf_npy_read_f32(RF_GOLDEN_DIR "/npy/f4.npy", 2, &n_dims, shape, &got));
    rf_free(got);
    assert_refused(rf_npy_read_f32(RF_GOLDEN_DIR "/npy/f4.npy", 1, &n_dims, shape, &got),
                   RF_ERR_UNSUPPORTED, "f4.npy': it has 2 dimensions, expected at most 1");
    assert_null(got);
    assert_refused(rf_npy_read_f32(scratch("none.npy"), 1, &n_dims, shape, &got), RF_ERR_NOT_FOUND,
                   "none.npy");
}

static int read_all(const char *folder, bool is_accepted)
{
    char base[RF_PATH_LEN], path[RF_PATH_LEN];
    char **names = NULL;
    int64_t n = 0, shape[RF_FILE_MAX_DIMS];
    int n_seen = 0, n_dims = 0;
    assert_ok(rf_path_join(base, RF_SOURCE_DIR "/tests/io", folder));
    assert_ok(rf_file_list(base, &names, &n));
    for (int64_t i = 0; i < n; i++) {
        float *got = NULL;
        if (strstr(names[i], ".npy") == NULL) {
            continue;
        }
        assert_ok(rf_path_join(path, base, names[i]));
        rf_status status = rf_npy_read_f32(path, RF_FILE_MAX_DIMS, &n_dims, shape, &got);
        if ((status == RF_OK) != is_accepted) {
            fail_msg("%s: %s", path, is_accepted ? rf_error_text() : "was read");
        }
        if (status != RF_OK && (got != NULL || strstr(rf_error_text(), names[i]) == NULL)) {
            fail_msg("%s: the error does not name it: %s", path, rf_error_text());
        }
        rf_free(got);
        n_seen++;
    }
    rf_file_list_free(names, n);
    assert_int_equal(rf_alloc_live(), 0);
    return n_seen;
}

static void the_folder_of_good_arrays_is_read(void **state)
{
    (void)state;
    assert_true(read_all("accept", true) >= 3);
}

static void the_folder_of_hostile_arrays_is_refused(void **state)
{
    (void)state;
    assert_true(read_all("refuse", false) >= 29);
}

static void each_hostile_array_is_told_why(void **state)
{
    static const struct {
        const char *name;
        rf_status status;
        const char *expected;
    } cases[] = {
        {"objects", RF_ERR_UNSUPPORTED, "Python objects, which are never read"},
        {"records", RF_ERR_UNSUPPORTED, "records"},
        {"big-endian", RF_ERR_UNSUPPORTED, "its elements are '>f4'"},
        {"complex", RF_ERR_UNSUPPORTED, "its elements are '<c8'"},
        {"version-4", RF_ERR_UNSUPPORTED, "its version is 4"},
        {"header-is-code", RF_ERR_FORMAT, "no '{'"},
        {"key-twice", RF_ERR_FORMAT, "'descr' twice"},
        {"size-negative", RF_ERR_FORMAT, "'-2', expected a whole number >= 0"},
        {"shape-overflow", RF_ERR_FORMAT, "the product of its shape overflows"},
        {"shape-bytes-overflow", RF_ERR_FORMAT, "the product of its shape overflows"},
        {"data-cut", RF_ERR_FORMAT, "7 bytes, expected 8 for its shape (truncated?)"},
        {"two-arrays", RF_ERR_FORMAT, "expected 8 for its shape"},
    };
    char path[RF_PATH_LEN];
    int64_t shape[RF_FILE_MAX_DIMS];
    float *got = NULL;
    int n_dims = 0;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(
            rf_format(path, sizeof path, RF_SOURCE_DIR "/tests/io/refuse/%s.npy", cases[i].name));
        assert_refused(rf_npy_read_f32(path, RF_FILE_MAX_DIMS, &n_dims, shape, &got),
                       cases[i].status, cases[i].expected);
    }
}

/* Cut at every byte, in a block that ends there: a sanitizer sees a read past it. */
static void an_array_cut_anywhere_is_refused(void **state)
{
    char *bytes = NULL;
    int64_t n = 0, shape[RF_FILE_MAX_DIMS];
    float *got = NULL;
    int n_dims = 0;
    (void)state;
    assert_ok(rf_file_read(RF_GOLDEN_DIR "/npy/fortran_f2.npy", 1 << 20, &bytes, &n));
    for (int64_t cut = 0; cut < n; cut++) {
        unsigned char *copy = malloc((size_t)cut + 1);
        assert_non_null(copy);
        memcpy(copy + 1, bytes, (size_t)cut);
        assert_int_not_equal(
            rf_npy_parse_f32(copy + 1, cut, "cut", RF_FILE_MAX_DIMS, &n_dims, shape, &got), RF_OK);
        free(copy);
    }
    rf_free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_array_of_numpy_reads_as_it_says),
        scratch_test(more_dimensions_than_asked_for_are_refused),
        cmocka_unit_test(the_folder_of_good_arrays_is_read),
        cmocka_unit_test(the_folder_of_hostile_arrays_is_refused),
        cmocka_unit_test(each_hostile_array_is_told_why),
        cmocka_unit_test(an_array_cut_anywhere_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
