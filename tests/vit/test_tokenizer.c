/* CLIP's tokenizer against transformers, and files that it must refuse. */
#include "refract/vit.h"
#include "vit_assert.h"

#include <stdint.h>
#include <stdlib.h>

#include <jansson.h>
#include <string.h>
#include <unistd.h>

enum { MAX_CONTEXT = 128 };

static rf_tokenizer *open_golden(const char *which)
{
    char folder[RF_PATH_LEN];
    rf_tokenizer *t = NULL;
    assert_ok(rf_format(folder, sizeof folder, RF_GOLDEN_DIR "/tokenizer/%s", which));
    assert_ok(rf_tokenizer_open(folder, &t));
    return t;
}

static void check_case(const rf_tokenizer *t, const json_t *item)
{
    const char *text = json_string_value(json_object_get(item, "text"));
    const int64_t context = json_integer_value(json_object_get(item, "context"));
    const json_t *want = json_object_get(item, "ids");
    int64_t got[MAX_CONTEXT];
    assert_true(context <= MAX_CONTEXT);
    assert_ok(rf_tokenizer_encode(t, text, context, got));
    for (int64_t i = 0; i < context; i++) {
        const bool is_there = i < (int64_t)json_array_size(want);
        const int64_t id = is_there ? json_integer_value(json_array_get(want, (size_t)i)) : 0;
        if (got[i] != id) {
            fail_msg("'%s': id %d is %d, expected %d", text, (int)i, (int)got[i], (int)id);
        }
    }
}

static void check_folder(const char *which)
{
    rf_tokenizer *t = open_golden(which);
    json_t *root = json_load_file(RF_GOLDEN_DIR "/tokenizer/cases.json", 0, NULL);
    const json_t *cases = json_object_get(root, "cases");
    assert_true(json_array_size(cases) >= 40);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        check_case(t, json_array_get(cases, i));
    }
    json_decref(root);
    rf_tokenizer_close(t);
}

static void test_vocabulary_and_merges_give_the_ids_of_transformers(void **state)
{
    (void)state;
    check_folder("two");
}

static void test_tokenizer_json_gives_the_ids_of_transformers(void **state)
{
    (void)state;
    check_folder("one");
}

static void test_text_that_is_no_utf8_is_refused(void **state)
{
    (void)state;
    rf_tokenizer *t = open_golden("two");
    int64_t ids[8];
    static const char *const bad[] = {"\xFF", "a\xC3", "\xED\xA0\x80", "\xF8\x88\x80\x80\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(rf_tokenizer_encode(t, bad[i], 8, ids), RF_ERR_FORMAT);
    }
    assert_int_equal(rf_tokenizer_encode(t, "a", 1, ids), RF_ERR_INVALID_ARG);
    rf_tokenizer_close(t);
}

static void test_no_text_reads_or_writes_outside(void **state)
{
    (void)state;
    rf_tokenizer *t = open_golden("two");
    int64_t ids[16];
    char text[9];
    for (uint64_t i = 0; i < 20000; i++) { /* ASan watches */
        uint32_t word[4];
        rf_random_u32x4(7, RF_RANDOM_TEST, i, 0, word);
        memcpy(text, word, 8);
        text[8] = '\0';
        const int64_t context = 2 + (int64_t)(word[2] % 14);
        if (rf_tokenizer_encode(t, text, context, ids) == RF_OK) {
            assert_true(ids[0] == 2012);
        }
    }
    rf_tokenizer_close(t);
}

static void write_text(const char *folder, const char *name, const char *text)
{
    char path[RF_PATH_LEN];
    assert_ok(rf_path_join(path, folder, name));
    assert_ok(rf_file_write_atomic(path, text, (int64_t)strlen(text)));
}

static void test_broken_tokenizers_are_refused_with_a_reason(void **state)
{
    static const struct {
        const char *json;
        rf_status status;
        const char *word;
    } bad[] = {
        {"{}", RF_ERR_UNSUPPORTED, "word ending"},
        {"[", RF_ERR_FORMAT, "not valid JSON"},
        {"{\"model\": {\"type\": \"Unigram\"}}", RF_ERR_UNSUPPORTED, "Unigram"},
        {"{\"model\": {\"end_of_word_suffix\": \"</w>\"}}", RF_ERR_FORMAT, "byte 0"},
        {"{\"model\": {\"end_of_word_suffix\": \"</w>\", \"vocab\": {\"a\": 0, \"b\": \"x\", "
         "\"c\": -4}, \"merges\": [\"a b\"]}}",
         RF_ERR_FORMAT, "outside the vocabulary"},
        {"{\"model\": {\"end_of_word_suffix\": \"</w>\", \"merges\": [3]}}", RF_ERR_FORMAT,
         "merge 0"},
        {"{\"model\": {\"end_of_word_suffix\": \"</w>\", \"merges\": [\"alone\"]}}", RF_ERR_FORMAT,
         "no pair"},
    };
    (void)state;
    char folder[] = "/tmp/rf-tokenizer-XXXXXX", path[RF_PATH_LEN];
    rf_tokenizer *t = NULL;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(rf_tokenizer_open(folder, &t), RF_ERR_NOT_FOUND);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(folder, "tokenizer.json", bad[i].json);
        assert_int_equal(rf_tokenizer_open(folder, &t), bad[i].status);
        assert_null(t);
        if (strstr(rf_error_text(), bad[i].word) == NULL) {
            fail_msg("'%s' does not say '%s'", rf_error_text(), bad[i].word);
        }
    }
    assert_ok(rf_path_join(path, folder, "tokenizer.json"));
    unlink(path);
    rmdir(folder);
}

static void test_the_80_templates_have_one_hole_each(void **state)
{
    (void)state;
    assert_int_equal(rf_templates_count(), 80);
    for (int64_t i = 0; i < rf_templates_count(); i++) {
        const char *hole = strstr(rf_templates_at(i), "{}");
        assert_non_null(hole);
        assert_null(strstr(hole + 2, "{}"));
    }
    assert_string_equal(rf_templates_at(0), "a bad photo of a {}.");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vocabulary_and_merges_give_the_ids_of_transformers),
        cmocka_unit_test(test_tokenizer_json_gives_the_ids_of_transformers),
        cmocka_unit_test(test_text_that_is_no_utf8_is_refused),
        cmocka_unit_test(test_no_text_reads_or_writes_outside),
        cmocka_unit_test(test_broken_tokenizers_are_refused_with_a_reason),
        cmocka_unit_test(test_the_80_templates_have_one_hole_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
