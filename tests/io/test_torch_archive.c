#include "scratch.h"

static const char *golden(const char *name)
{
    static char path[RF_PATH_LEN];
    assert_ok(rf_path_join(path, RF_GOLDEN_DIR, name));
    return path;
}

static rf_tensor_file *open_golden(const char *name)
{
    rf_tensor_file *f = NULL;
    assert_ok(rf_tensor_file_open(golden(name), &f));
    return f;
}

/* A copy of a file that ends where its block ends, so that a sanitizer sees a read past it. */
static unsigned char *load_exactly(const char *path, int64_t *n_bytes)
{
    char *bytes = NULL;
    assert_ok(rf_file_read(path, 1 << 20, &bytes, n_bytes));
    unsigned char *copy = malloc((size_t)*n_bytes);
    assert_non_null(copy);
    memcpy(copy, bytes, (size_t)*n_bytes);
    rf_free(bytes);
    return copy;
}

static void assert_same_tensors(const char *name)
{
    rf_tensor_file *f = open_golden(name), *expected = open_golden("torch/values.safetensors");
    assert_int_equal(rf_tensor_file_count(f), rf_tensor_file_count(expected));
    for (int64_t i = 0; i < rf_tensor_file_count(expected); i++) {
        const rf_named_tensor *want = rf_tensor_file_at(expected, i),
                              *got = rf_tensor_file_at(f, i);
        assert_string_equal(got->name, want->name);
        assert_int_equal(got->dtype, want->dtype);
        assert_int_equal(got->n_dims, want->n_dims);
        assert_memory_equal(got->shape, want->shape, sizeof got->shape);
        assert_int_equal(got->n_elems, want->n_elems);
        assert_int_equal(got->n_bytes, want->n_bytes);
        if (want->n_bytes > 0) {
            assert_memory_equal(got->bytes, want->bytes, (size_t)want->n_bytes);
        }
    }
    rf_tensor_file_close(f);
    rf_tensor_file_close(expected);
}

static void a_zip_archive_has_the_bits_that_torch_saved(void **state)
{
    (void)state;
    assert_same_tensors("torch/zip.pt");
}

static void the_legacy_layout_has_the_same(void **state)
{
    (void)state;
    assert_same_tensors("torch/legacy.pt");
}

static void pickles_of_protocol_5_have_the_same(void **state)
{
    (void)state;
    assert_same_tensors("torch/protocol5.pt");
}

static void the_format_is_told_by_content_and_never_by_name(void **state)
{
    static const char *const goldens[] = {"torch/small.pth", "torch/small_legacy.pth",
                                          "torch/small_legacy5.pth"};
    static const float a[6] = {0, 1, 2, 3, 4, 5}, b[4] = {0, 2, 1, 3};
    float got[6];
    (void)state;
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        rf_tensor_file *f = NULL;
        int64_t n = 0;
        unsigned char *bytes = load_exactly(golden(goldens[i]), &n);
        put_file(scratch("model.safetensors"), bytes, (size_t)n);
        free(bytes);
        assert_ok(rf_tensor_file_open(scratch("model.safetensors"), &f));
        assert_int_equal(rf_tensor_file_count(f), 2);
        assert_ok(rf_named_tensor_read_f32(rf_tensor_file_find(f, "a"), got));
        assert_memory_equal(got, a, sizeof a);
        assert_ok(rf_named_tensor_read_f32(rf_tensor_file_find(f, "b"), got));
        assert_memory_equal(got, b, sizeof b);
        assert_null(rf_tensor_file_metadata(f, "a"));
        rf_tensor_file_close(f);
    }
}

static void a_tensor_by_itself_is_called_tensor(void **state)
{
    rf_tensor_file *f = open_golden("torch/tensor.pth");
    (void)state;
    assert_int_equal(rf_tensor_file_count(f), 1);
    assert_int_equal(rf_tensor_file_find(f, "tensor")->shape[0], 3);
    rf_tensor_file_close(f);
}

static void an_index_of_torch_shards_reads_as_one_file(void **state)
{
    rf_tensor_file *f = open_golden("torch-sharded/pytorch_model.bin.index.json");
    float a[6], b[2];
    (void)state;
    assert_int_equal(rf_tensor_file_count(f), 2);
    assert_ok(rf_named_tensor_read_f32(rf_tensor_file_find(f, "a"), a));
    assert_ok(rf_named_tensor_read_f32(rf_tensor_file_find(f, "b"), b));
    assert_true(a[5] == 5 && b[1] == 1);
    rf_tensor_file_close(f);
}

/* What lies in order stays in the map: nothing of a large checkpoint is copied. */
static void tensors_in_order_are_not_copied(void **state)
{
    int64_t n = 0;
    unsigned char *bytes = load_exactly(golden("torch/small.pth"), &n);
    rf_tensor_file *f = NULL;
    (void)state;
    assert_ok(rf_tensor_file_parse(bytes, n, "small", &f));
    const unsigned char *a = rf_tensor_file_find(f, "a")->bytes,
                        *b = rf_tensor_file_find(f, "b")->bytes;
    assert_true(a >= bytes && a < bytes + n);
    assert_false(b >= bytes && b < bytes + n); /* it is transposed */
    rf_tensor_file_close(f);
    free(bytes);
}

/* ---- hostile ----------------------------------------------------------------------------------
 */

static int open_all(const char *folder, bool is_accepted)
{
    char base[RF_PATH_LEN], path[RF_PATH_LEN];
    char **names = NULL;
    int64_t n = 0, n_live = rf_alloc_live();
    int n_seen = 0;
    assert_ok(rf_path_join(base, RF_SOURCE_DIR "/tests/io", folder));
    assert_ok(rf_file_list(base, &names, &n));
    for (int64_t i = 0; i < n; i++) {
        rf_tensor_file *f = NULL;
        if (strstr(names[i], ".pt") == NULL) {
            continue;
        }
        assert_ok(rf_path_join(path, base, names[i]));
        rf_status status = rf_tensor_file_open(path, &f);
        if ((status == RF_OK) != is_accepted) {
            fail_msg("%s: %s", path, is_accepted ? rf_error_text() : "was read");
        }
        if (status != RF_OK && (f != NULL || strstr(rf_error_text(), names[i]) == NULL)) {
            fail_msg("%s: the error does not name it: %s", path, rf_error_text());
        }
        rf_tensor_file_close(f);
        n_seen++;
    }
    rf_file_list_free(names, n);
    assert_int_equal(rf_alloc_live(), n_live);
    return n_seen;
}

static void the_folder_of_good_archives_is_read(void **state)
{
    (void)state;
    assert_true(open_all("accept", true) >= 14);
}

static void the_folder_of_hostile_archives_is_refused(void **state)
{
    (void)state;
    assert_true(open_all("refuse", false) >= 116);
}

static void each_hostile_archive_is_told_why(void **state)
{
    static const struct {
        const char *name;
        rf_status status;
        const char *expected;
    } cases[] = {
        {"asks-os-system", RF_ERR_UNSUPPORTED, "it asks for 'posix.system'"},
        {"asks-os-system", RF_ERR_UNSUPPORTED, "nothing in a checkpoint is ever executed"},
        {"asks-os-system-legacy", RF_ERR_UNSUPPORTED, "it asks for 'posix.system'"},
        {"asks-eval", RF_ERR_UNSUPPORTED, "it asks for 'builtins.eval'"},
        {"asks-eval-on-stack", RF_ERR_UNSUPPORTED, "it asks for 'builtins.eval'"},
        {"asks-by-inst", RF_ERR_UNSUPPORTED, "opcode 0x69"},
        {"asks-a-module", RF_ERR_UNSUPPORTED, "'torch.nn.modules.linear.Linear'"},
        {"asks-unprintable", RF_ERR_UNSUPPORTED, "it asks for '?[31m.x?'"},
        {"complex", RF_ERR_UNSUPPORTED, "'torch.ComplexFloatStorage'"},
        {"negated", RF_ERR_UNSUPPORTED, "tensor 'a': it is a negated or conjugated view"},
        {"zip-program", RF_ERR_UNSUPPORTED, "it is a program of torch.jit.save"},
        {"zip-compressed", RF_ERR_UNSUPPORTED, "'archive/data.pkl' is compressed"},
        {"zip-of-arrays", RF_ERR_UNSUPPORTED, "(arrays of NumPy)"},
        {"zip-big-endian", RF_ERR_UNSUPPORTED, "byte order"},
        {"zip-encrypted", RF_ERR_UNSUPPORTED, "encrypted"},
        {"legacy-big-endian", RF_ERR_UNSUPPORTED, "byte order"},
        {"tar", RF_ERR_UNSUPPORTED, "convert it"},
        {"gzip", RF_ERR_UNSUPPORTED, "unpack it"},
        {"web-page", RF_ERR_FORMAT, "web page"},
        {"plain-pickle", RF_ERR_UNSUPPORTED, "a pickle that torch.save did not write"},
        {"map-of-text", RF_ERR_FORMAT, "has no weight_map"},
        {"zip-name-twice", RF_ERR_FORMAT, "two entries of its zip directory are called"},
        {"zip-two-pickles", RF_ERR_FORMAT, "two entries data.pkl"},
        {"zip-entry-outside", RF_ERR_FORMAT, "starts outside the file"},
        {"zip-entry-too-long", RF_ERR_FORMAT, "end outside the file"},
        {"zip-directory-outside", RF_ERR_FORMAT, "directory is outside the file"},
        {"zip64-end-outside", RF_ERR_FORMAT, "zip64 end record"},
        {"zip-cut", RF_ERR_FORMAT, "no end record (a truncated file?)"},
        {"legacy-cut", RF_ERR_FORMAT, "a truncated file?"},
        {"legacy-count-of-2-to-62", RF_ERR_FORMAT, "ends outside the file"},
        {"legacy-count-too-small", RF_ERR_FORMAT, "but there are 12 bytes"},
        {"storage-shorter-than-said", RF_ERR_FORMAT, "but there are 12 bytes"},
        {"storage-elsewhere", RF_ERR_FORMAT, "no entry 'archive/data/../../x'"},
        {"shape-outside", RF_ERR_FORMAT, "outside the 4 elements of its storage"},
        {"stride-of-2-to-62", RF_ERR_FORMAT, "outside the 4 elements of its storage"},
        {"stride-negative", RF_ERR_FORMAT, "no whole number >= 0"},
        {"shape-overflow", RF_ERR_FORMAT, "the product of its shape overflows"},
        {"expanded-to-gigabytes", RF_ERR_FORMAT, "many times the memory of the file"},
        {"expanded-many-times", RF_ERR_FORMAT, "many times the memory of the file"},
        {"list-in-itself", RF_ERR_FORMAT, "nested deeper than 64"},
        {"lists-of-lists", RF_ERR_FORMAT, "hold each other too many times"},
        {"memo-of-2-to-32", RF_ERR_FORMAT, "its memo has a place 4294967295"},
        {"two-of-one-name", RF_ERR_FORMAT, "two of its tensors are called 'a.b'"},
        {"no-stop", RF_ERR_FORMAT, "a truncated file?"},
    };
    char path[RF_PATH_LEN];
    rf_tensor_file *f = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(
            rf_format(path, sizeof path, RF_SOURCE_DIR "/tests/io/refuse/%s.pt", cases[i].name));
        assert_refused(rf_tensor_file_open(path, &f), cases[i].status, cases[i].expected);
    }
}

static void assert_read_f32(const char *accepted, const char *name, const float *want, size_t n)
{
    char path[RF_PATH_LEN];
    float got[16];
    rf_tensor_file *f = NULL;
    assert_ok(rf_format(path, sizeof path, RF_SOURCE_DIR "/tests/io/accept/%s.pt", accepted));
    assert_ok(rf_tensor_file_open(path, &f));
    const rf_named_tensor *t = rf_tensor_file_find(f, name);
    assert_non_null(t);
    assert_int_equal(t->n_elems, n);
    assert_ok(rf_named_tensor_read_f32(t, got));
    assert_memory_equal(got, want, n * sizeof *want);
    rf_tensor_file_close(f);
}

static void old_spellings_read_as_what_they_say(void **state)
{
    static const float zeros[2] = {0, 0};
    (void)state;
    assert_read_f32("python2-pairs", "a", zeros, 2);
    assert_read_f32("python2-texts", "a", zeros, 2);
    assert_read_f32("protocol-1-numbers", "a", zeros, 2);
    assert_read_f32("untyped-storage", "a", zeros, 2);
    assert_read_f32("legacy-view", "a", zeros, 2);
    assert_read_f32("keys-of-all-kinds", "7", zeros, 2);
    assert_read_f32("keys-of-all-kinds", "?", zeros, 2);
    assert_read_f32("empty-with-odd-stride", "a", zeros, 0);
}

/* Open what may be damaged and read the ends of every tensor: a sanitizer sees what is outside. */
static rf_status touch(const unsigned char *bytes, int64_t n)
{
    rf_tensor_file *f = NULL;
    unsigned char *copy = malloc((size_t)n + 1), ends[2]; /* never a block of no bytes */
    assert_non_null(copy);
    memcpy(copy + 1, bytes, (size_t)n);
    rf_status status = rf_tensor_file_parse(copy + 1, n, "cut", &f);
    for (int64_t i = 0; status == RF_OK && i < rf_tensor_file_count(f); i++) {
        const rf_named_tensor *t = rf_tensor_file_at(f, i);
        if (t->n_bytes > 0) {
            memcpy(&ends[0], t->bytes, 1);
            memcpy(&ends[1], t->bytes + t->n_bytes - 1, 1);
            assert_true(ends[0] + ends[1] >= 0);
        }
    }
    rf_tensor_file_close(f);
    free(copy);
    return status;
}

static void an_archive_cut_anywhere_is_refused(void **state)
{
    static const char *const goldens[] = {"torch/small.pth", "torch/small_legacy.pth",
                                          "torch/small_legacy5.pth"};
    int64_t n_live = rf_alloc_live();
    (void)state;
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        int64_t n = 0;
        unsigned char *bytes = load_exactly(golden(goldens[i]), &n);
        assert_int_equal(touch(bytes, n), RF_OK);
        for (int64_t cut = 0; cut < n; cut++) {
            assert_int_not_equal(touch(bytes, cut), RF_OK);
        }
        free(bytes);
    }
    assert_int_equal(rf_alloc_live(), n_live);
}

/* Whatever one byte is changed to, nothing outside is read and nothing is leaked. */
static void an_archive_with_any_byte_changed_stays_inside(void **state)
{
    static const char *const goldens[] = {"torch/small.pth", "torch/small_legacy5.pth"};
    static const unsigned char others[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    int64_t n_live = rf_alloc_live();
    (void)state;
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        int64_t n = 0;
        unsigned char *bytes = load_exactly(golden(goldens[i]), &n);
        for (int64_t at = 0; at < n; at++) {
            unsigned char kept = bytes[at];
            for (size_t k = 0; k < sizeof others; k++) {
                bytes[at] = others[k];
                touch(bytes, n);
            }
            bytes[at] = kept;
        }
        free(bytes);
    }
    assert_int_equal(rf_alloc_live(), n_live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_zip_archive_has_the_bits_that_torch_saved),
        cmocka_unit_test(the_legacy_layout_has_the_same),
        cmocka_unit_test(pickles_of_protocol_5_have_the_same),
        scratch_test(the_format_is_told_by_content_and_never_by_name),
        cmocka_unit_test(a_tensor_by_itself_is_called_tensor),
        cmocka_unit_test(an_index_of_torch_shards_reads_as_one_file),
        cmocka_unit_test(tensors_in_order_are_not_copied),
        cmocka_unit_test(the_folder_of_good_archives_is_read),
        cmocka_unit_test(the_folder_of_hostile_archives_is_refused),
        cmocka_unit_test(each_hostile_archive_is_told_why),
        cmocka_unit_test(old_spellings_read_as_what_they_say),
        cmocka_unit_test(an_archive_cut_anywhere_is_refused),
        cmocka_unit_test(an_archive_with_any_byte_changed_stays_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
