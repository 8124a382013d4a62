#include "scratch.h"

static rf_tensor_file *open_golden(const char *name)
{
    char path[RF_PATH_LEN];
    rf_tensor_file *f = NULL;
    assert_ok(rf_path_join(path, RF_GOLDEN_DIR, name));
    assert_ok(rf_tensor_file_open(path, &f));
    return f;
}

static void every_type_of_the_real_library_reads_as_it_says(void **state)
{
    static const char *const names[] = {"f32", "f16", "bf16", "f64",  "i64",    "i32",
                                        "i16", "i8",  "u8",   "bool", "scalar", "empty"};
    rf_tensor_file *f = open_golden("io.safetensors");
    (void)state;
    assert_int_equal(rf_tensor_file_count(f), 24);
    assert_non_null(rf_tensor_file_metadata(f, "safetensors"));
    assert_null(rf_tensor_file_metadata(f, "none"));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char twin[16];
        snprintf(twin, sizeof twin, "%s.f32", names[i]);
        const rf_named_tensor *t = rf_tensor_file_find(f, names[i]),
                              *expected = rf_tensor_file_find(f, twin);
        assert_non_null(t);
        assert_non_null(expected);
        assert_int_equal(t->n_elems, expected->n_elems);
        float *got = rf_calloc(t->n_elems, sizeof *got),
              *want = rf_calloc(t->n_elems, sizeof *want);
        assert_ok(rf_named_tensor_read_f32(t, got));
        assert_ok(rf_named_tensor_read_f32(expected, want));
        assert_memory_equal(got, want, (size_t)t->n_elems * sizeof *got); /* -0 and inf too */
        rf_free(got);
        rf_free(want);
    }
    assert_int_equal(rf_tensor_file_find(f, "f16")->dtype, RF_FILE_F16);
    assert_int_equal(rf_tensor_file_find(f, "f16")->shape[1], 15);
    assert_int_equal(rf_tensor_file_find(f, "scalar")->n_dims, 0);
    rf_tensor_file_close(f);
}

static void tensors_come_by_name_in_order(void **state)
{
    rf_tensor_file *f = open_golden("io.safetensors");
    (void)state;
    for (int64_t i = 1; i < rf_tensor_file_count(f); i++) {
        assert_true(strcmp(rf_tensor_file_at(f, i - 1)->name, rf_tensor_file_at(f, i)->name) < 0);
    }
    assert_null(rf_tensor_file_at(f, -1));
    assert_null(rf_tensor_file_at(f, rf_tensor_file_count(f)));
    assert_null(rf_tensor_file_find(f, "none"));
    rf_tensor_file_close(f);
}

static void every_half_number_reads_exactly(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t half = (uint16_t)h;
        const rf_named_tensor t = {
            .dtype = RF_FILE_F16, .n_elems = 1, .bytes = (unsigned char *)&half, .n_bytes = 2};
        float got = 0;
        assert_ok(rf_named_tensor_read_f32(&t, &got));
        double fraction = h & 0x3ff, sign = (h & 0x8000) != 0 ? -1 : 1;
        int exponent = h >> 10 & 0x1f;
        double unit = 0x1p-24; /* of subnormals and of the first octave */
        for (int i = 1; i < exponent; i++) {
            unit *= 2;
        }
        if (exponent < 31) {
            assert_true(got == sign * unit * (fraction + (exponent > 0 ? 1024 : 0)));
        } else {
            assert_true(fraction == 0 ? got * sign > 3.4e38 : got != got);
        }
    }
}

static void shards_read_as_one_file(void **state)
{
    rf_tensor_file *f = open_golden("io-sharded/model.safetensors.index.json");
    float a[6], b[4], c[4];
    (void)state;
    assert_int_equal(rf_tensor_file_count(f), 3);
    assert_string_equal(rf_tensor_file_metadata(f, "format"), "pt");
    assert_ok(rf_named_tensor_read_f32(rf_tensor_file_find(f, "a"), a));
    assert_ok(rf_named_tensor_read_f32(rf_tensor_file_find(f, "b"), b));
    assert_ok(rf_named_tensor_read_f32(rf_tensor_file_find(f, "c"), c));
    assert_true(a[5] == 5 && b[3] == 1 && c[0] == 3);
    rf_tensor_file_close(f);
}

static void write_one(const char *path, const char *name, float value)
{
    const rf_named_tensor t = {
        .name = name, .dtype = RF_FILE_F32, .bytes = (unsigned char *)&value, .n_bytes = 4};
    assert_ok(rf_safetensors_write(path, &t, 1, NULL, 0));
}

static void an_index_must_hold_what_it_says(void **state)
{
    static const struct {
        rf_status status;
        const char *text, *expected;
    } cases[] = {
        {RF_ERR_FORMAT, "{", "x.index.json:1:"},
        {RF_ERR_FORMAT, "{}", "has no weight_map"},
        {RF_ERR_FORMAT, "{\"weight_map\": {}}", "has no weight_map"},
        {RF_ERR_FORMAT, "{\"weight_map\": [\"a\"]}", "has no weight_map"},
        {RF_ERR_FORMAT, "{\"weight_map\": {\"a\": 1}}", "weight_map 'a' is no file name"},
        {RF_ERR_FORMAT, "{\"weight_map\": {\"a\": \"../a.st\"}}", "in the same folder"},
        {RF_ERR_FORMAT, "{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "in the same folder"},
        {RF_ERR_FORMAT, "{\"weight_map\": {\"a\": \"sub/a.st\"}}", "in the same folder"},
        {RF_ERR_FORMAT, "{\"weight_map\": {\"a\": \"..\"}}", "in the same folder"},
        {RF_ERR_FORMAT, "{\"weight_map\": {\"a\": \"\"}}", "in the same folder"},
        {RF_ERR_NOT_FOUND, "{\"weight_map\": {\"a\": \"gone.st\"}}", "/gone.st'"},
        {RF_ERR_FORMAT, "{\"weight_map\": {\"a\": \"a.st\", \"b\": \"a.st\"}}",
         "tensor 'b' is not in 'a.st', where the index puts it"},
        {RF_ERR_FORMAT, "{\"weight_map\": {\"a\": \"b.st\"}}", "tensor 'a' is not in 'b.st'"},
        {RF_ERR_FORMAT, "{\"weight_map\": {\"a\": \".\"}}", "in the same folder"},
    };
    rf_tensor_file *f = NULL;
    (void)state;
    write_one(scratch("a.st"), "a", 1);
    write_one(scratch("b.st"), "b", 2);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_text(scratch("x.index.json"), cases[i].text);
        assert_refused(rf_tensor_file_open(scratch("x.index.json"), &f), cases[i].status,
                       cases[i].expected);
        assert_null(f);
    }
}

static void a_tensor_in_two_shards_is_taken_from_the_one_that_is_named(void **state)
{
    rf_tensor_file *f = NULL;
    float value = 0;
    (void)state;
    write_one(scratch("1.st"), "a", 1);
    const float both[2] = {5, 6};
    const rf_named_tensor t[2] = {
        {.name = "a", .bytes = (const unsigned char *)&both[0], .dtype = RF_FILE_F32, .n_bytes = 4},
        {.name = "b",
         .bytes = (const unsigned char *)&both[1],
         .dtype = RF_FILE_F32,
         .n_bytes = 4}};
    assert_ok(rf_safetensors_write(scratch("2.st"), t, 2, NULL, 0));
    put_text(scratch("x.index.json"), "{\"weight_map\": {\"a\": \"1.st\", \"b\": \"2.st\"}}");
    assert_ok(rf_tensor_file_open(scratch("x.index.json"), &f));
    assert_int_equal(rf_tensor_file_count(f), 2);
    assert_ok(rf_named_tensor_read_f32(rf_tensor_file_find(f, "a"), &value));
    assert_true(value == 1);
    rf_tensor_file_close(f);
}

/* Open every file of tests/io/`folder`; returns how many there were. */
static int open_all(const char *folder, bool is_accepted)
{
    char base[RF_PATH_LEN], path[RF_PATH_LEN];
    char **names = NULL;
    int64_t n = 0;
    int n_seen = 0;
    assert_ok(rf_path_join(base, RF_SOURCE_DIR "/tests/io", folder));
    assert_ok(rf_file_list(base, &names, &n));
    for (int64_t i = 0; i < n; i++) {
        rf_tensor_file *f = NULL;
        if (strstr(names[i], ".safetensors") == NULL) {
            continue;
        }
        assert_ok(rf_path_join(path, base, names[i]));
        rf_status status = rf_tensor_file_open(path, &f);
        if ((status == RF_OK) != is_accepted) {
            fail_msg("%s: %s", path, is_accepted ? rf_error_text() : "was read");
        }
        if (status != RF_OK && strstr(rf_error_text(), names[i]) == NULL) {
            fail_msg("%s: the error does not name it: %s", path, rf_error_text());
        }
        rf_tensor_file_close(f);
        n_seen++;
    }
    rf_file_list_free(names, n);
    return n_seen;
}

static void the_folder_of_good_files_is_read(void **state)
{
    (void)state;
    assert_true(open_all("accept", true) >= 6);
}

static void the_folder_of_hostile_files_is_refused(void **state)
{
    (void)state;
    assert_true(open_all("refuse", false) >= 37);
}

static void each_hostile_file_is_told_why(void **state)
{
    static const struct {
        const char *name;
        rf_status status;
        const char *expected;
    } cases[] = {
        {"no-bytes", RF_ERR_FORMAT, "0 bytes are no safetensors file"},
        {"header-length-0", RF_ERR_FORMAT, "its header says 0 bytes"},
        {"header-length-beyond-file", RF_ERR_FORMAT, "says 3 bytes, but 2 follow"},
        {"header-length-2-to-63", RF_ERR_FORMAT, "says 9223372036854775808 bytes"},
        {"header-length-above-cap", RF_ERR_FORMAT, "expected at most 100000000"},
        {"header-is-text", RF_ERR_FORMAT, "it is a Git LFS pointer"},
        {"header-is-no-json", RF_ERR_FORMAT, "header:1:"},
        {"header-is-a-list", RF_ERR_FORMAT, "no JSON map"},
        {"duplicate-name", RF_ERR_FORMAT, "duplicate object key"},
        {"entry-is-no-map", RF_ERR_FORMAT, "tensor 'a': its dtype is no text"},
        {"unknown-dtype", RF_ERR_UNSUPPORTED, "tensor 'a': its dtype is 'F33', expected F64, F32"},
        {"nine-dimensions", RF_ERR_FORMAT, "at most 8 numbers"},
        {"negative-size", RF_ERR_FORMAT, "no whole number >= 0"},
        {"shape-overflow", RF_ERR_FORMAT, "the product of its shape overflows"},
        {"shape-bytes-overflow", RF_ERR_FORMAT, "the product of its shape overflows"},
        {"shape-2-to-63", RF_ERR_FORMAT, "too big integer"},
        {"shape-not-its-bytes", RF_ERR_FORMAT, "it has 8 bytes of data, expected 4 for its shape"},
        {"three-offsets", RF_ERR_FORMAT, "no list of two whole numbers"},
        {"negative-offset", RF_ERR_FORMAT, "[-4, 0] are outside the 4 bytes of data"},
        {"offset-2-to-63-less-1", RF_ERR_FORMAT, "are outside the 4 bytes of data"},
        {"data-truncated", RF_ERR_FORMAT, "[0, 4] are outside the 3 bytes of data (a truncated"},
        {"overlap", RF_ERR_FORMAT, "'b' starts at byte 4 of the data, expected 8: tensors overlap"},
        {"hole", RF_ERR_FORMAT, "'b' starts at byte 8 of the data, expected 4: a hole"},
        {"bytes-behind", RF_ERR_FORMAT, "4 bytes of data belong to no tensor"},
        {"metadata-is-no-text", RF_ERR_FORMAT, "__metadata__ 'k' is no text"},
    };
    char path[RF_PATH_LEN];
    rf_tensor_file *f = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(rf_format(path, sizeof path, RF_SOURCE_DIR "/tests/io/refuse/%s.safetensors",
                            cases[i].name));
        assert_refused(rf_tensor_file_open(path, &f), cases[i].status, cases[i].expected);
    }
    assert_refused(rf_tensor_file_open(scratch("none.safetensors"), &f), RF_ERR_NOT_FOUND,
                   "/none.safetens");
    assert_refused(rf_tensor_file_open(scratch_folder, &f), RF_ERR_IO, "it is a folder");
}

/* Every cut of a real file is refused; none may read past the map. */
static void a_file_cut_anywhere_is_refused(void **state)
{
    char path[RF_PATH_LEN];
    char *bytes = NULL;
    int64_t n = 0;
    rf_tensor_file *f = NULL;
    (void)state;
    assert_ok(rf_path_join(path, RF_GOLDEN_DIR, "io-sharded/model-00001-of-00002.safetensors"));
    assert_ok(rf_file_read(path, 1 << 20, &bytes, &n));
    for (int64_t cut = 0; cut < n; cut++) {
        put_file(scratch("cut.safetensors"), bytes, (size_t)cut);
        assert_refused(rf_tensor_file_open(scratch("cut.safetensors"), &f), RF_ERR_FORMAT,
                       "/cut.safetens");
    }
    rf_free(bytes);
}

static void what_is_written_reads_back(void **state)
{
    static const float w[6] = {1, 2, 3, 4, 5, -0.0f};
    static const int64_t ids[2] = {-1, INT64_C(1) << 40};
    static const unsigned char small[3] = {1, 2, 3};
    static const char *const metadata[] = {"who", "a \"quoted\" \xc3\xa9", "", "empty key"};
    const rf_named_tensor t[] = {
        {.name = "u", .dtype = RF_FILE_U8, .n_dims = 1, .shape = {3}, .bytes = small, .n_bytes = 3},
        {.name = "w",
         .dtype = RF_FILE_F32,
         .n_dims = 2,
         .shape = {2, 3},
         .bytes = (const unsigned char *)w,
         .n_bytes = 24},
        {.name = "ids",
         .dtype = RF_FILE_I64,
         .n_dims = 1,
         .shape = {2},
         .bytes = (const unsigned char *)ids,
         .n_bytes = 16},
        {.name = "a.\"b\"\\", .dtype = RF_FILE_F32, .n_dims = 2, .shape = {0, 3}},
    };
    rf_tensor_file *f = NULL;
    (void)state;
    assert_ok(rf_safetensors_write(scratch("t.safetensors"), t, 4, metadata, 2));
    assert_ok(rf_tensor_file_open(scratch("t.safetensors"), &f));
    assert_int_equal(rf_tensor_file_count(f), 4);
    assert_memory_equal(rf_tensor_file_find(f, "w")->bytes, w, sizeof w);
    assert_int_equal(rf_tensor_file_find(f, "w")->shape[1], 3);
    assert_memory_equal(rf_tensor_file_find(f, "ids")->bytes, ids, sizeof ids);
    assert_memory_equal(rf_tensor_file_find(f, "u")->bytes, small, sizeof small);
    assert_int_equal(rf_tensor_file_find(f, "a.\"b\"\\")->n_elems, 0);
    assert_string_equal(rf_tensor_file_metadata(f, "who"), metadata[1]);
    assert_string_equal(rf_tensor_file_metadata(f, ""), "empty key");
    /* each tensor is aligned to its elements (a map starts at a page) */
    assert_int_equal((uintptr_t)rf_tensor_file_find(f, "ids")->bytes % 8, 0);
    assert_int_equal((uintptr_t)rf_tensor_file_find(f, "w")->bytes % 4, 0);
    rf_tensor_file_close(f);
}

static void the_order_of_the_arguments_does_not_change_the_bytes(void **state)
{
    static const unsigned char bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    rf_named_tensor t[2] = {
        {.name = "a", .dtype = RF_FILE_U8, .n_dims = 1, .shape = {8}, .bytes = bytes, .n_bytes = 8},
        {.name = "b", .dtype = RF_FILE_I64, .bytes = bytes, .n_bytes = 8},
    };
    uint64_t first = 0, second = 0;
    (void)state;
    assert_ok(rf_safetensors_write(scratch("1"), t, 2, NULL, 0));
    const rf_named_tensor swapped[2] = {t[1], t[0]};
    assert_ok(rf_safetensors_write(scratch("2"), swapped, 2, NULL, 0));
    assert_ok(rf_file_hash(scratch("1"), &first, NULL));
    assert_ok(rf_file_hash(scratch("2"), &second, NULL));
    assert_true(first == second);
}

static void the_writer_refuses_mistakes_and_leaves_the_old_file(void **state)
{
    static const float w[2] = {1, 2};
    const unsigned char *bytes = (const unsigned char *)w;
    const rf_named_tensor good = {
        .name = "a", .dtype = RF_FILE_F32, .n_dims = 1, .shape = {2}, .bytes = bytes, .n_bytes = 8};
    rf_named_tensor bad = good;
    const rf_named_tensor twice[2] = {good, good};
    static const char *const pairs[] = {"k", "1", "k", "2"};
    const char *path = NULL;
    (void)state;
    put_text(scratch("t"), "old");
    path = scratch("t");
    bad.n_bytes = 4;
    assert_refused(rf_safetensors_write(path, &bad, 1, NULL, 0), RF_ERR_INVALID_ARG,
                   "4 bytes, expected 8");
    bad = good;
    bad.shape[0] = -1;
    assert_refused(rf_safetensors_write(path, &bad, 1, NULL, 0), RF_ERR_INVALID_ARG, "the size -1");
    bad = good;
    bad.n_dims = 9;
    assert_refused(rf_safetensors_write(path, &bad, 1, NULL, 0), RF_ERR_INVALID_ARG,
                   "9 dimensions");
    bad = good;
    bad.name = "__metadata__";
    assert_refused(rf_safetensors_write(path, &bad, 1, NULL, 0), RF_ERR_INVALID_ARG,
                   "a name of its own");
    bad = good;
    bad.bytes = NULL;
    assert_refused(rf_safetensors_write(path, &bad, 1, NULL, 0), RF_ERR_INVALID_ARG, "has no data");
    assert_refused(rf_safetensors_write(path, twice, 2, NULL, 0), RF_ERR_INVALID_ARG,
                   "'a' is given twice");
    assert_refused(rf_safetensors_write(path, &good, 1, pairs, 2), RF_ERR_INVALID_ARG,
                   "'k' is given twice");
    assert_refused(rf_safetensors_write(scratch("no/t"), &good, 1, NULL, 0), RF_ERR_NOT_FOUND,
                   "no/t.tmp");
    assert_file_is(scratch("t"), "old");
}

static void a_file_without_tensors_is_a_file(void **state)
{
    rf_tensor_file *f = NULL;
    (void)state;
    assert_ok(rf_safetensors_write(scratch("t"), NULL, 0, NULL, 0));
    assert_ok(rf_tensor_file_open(scratch("t"), &f));
    assert_int_equal(rf_tensor_file_count(f), 0);
    assert_null(rf_tensor_file_find(f, "a"));
    rf_tensor_file_close(f);
    rf_tensor_file_close(NULL);
    assert_int_equal(rf_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_of_the_real_library_reads_as_it_says),
        cmocka_unit_test(tensors_come_by_name_in_order),
        cmocka_unit_test(every_half_number_reads_exactly),
        cmocka_unit_test(shards_read_as_one_file),
        scratch_test(an_index_must_hold_what_it_says),
        scratch_test(a_tensor_in_two_shards_is_taken_from_the_one_that_is_named),
        cmocka_unit_test(the_folder_of_good_files_is_read),
        cmocka_unit_test(the_folder_of_hostile_files_is_refused),
        scratch_test(each_hostile_file_is_told_why),
        scratch_test(a_file_cut_anywhere_is_refused),
        scratch_test(what_is_written_reads_back),
        scratch_test(the_order_of_the_arguments_does_not_change_the_bytes),
        scratch_test(the_writer_refuses_mistakes_and_leaves_the_old_file),
        scratch_test(a_file_without_tensors_is_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
