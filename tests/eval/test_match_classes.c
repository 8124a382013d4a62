/* Which class of a model's head each class of the pictures is. */
#include "eval/tiny.h"

/* The tiny model's labels are cat, dog and great owl. */
static tiny model;

static int set_up(void **state)
{
    (void)state;
    tiny_write(&model, tiny_labels, true);
    tiny_open(&model, 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    tiny_close(&model);
    tiny_remove(&model);
    return 0;
}

static rf_picture_list *list_of(const char *rows)
{
    const rf_picture_list_opts opts = {.path = "rows.csv"};
    rf_picture_list *list = NULL;
    TINY_OK(rf_picture_list_parse(&opts, rows, (int64_t)strlen(rows), &list));
    return list;
}

/* Takes `list`. `want` [n] or NULL, with `says` in the reason. */
static void assert_match(rf_picture_list *list, const int64_t *want, int64_t n, const char *says)
{
    int64_t *classes = NULL;
    rf_str reason = {0};
    assert_int_equal(rf_picture_list_n_classes(list), n);
    TINY_OK(rf_eval_match_classes(model.vit, list, &classes, &reason));
    assert_int_equal(classes != NULL, want != NULL);
    for (int64_t i = 0; want != NULL && i < n; i++) {
        assert_int_equal(classes[i], want[i]);
    }
    if (want == NULL) {
        assert_non_null(strstr(reason.data, says));
    }
    rf_free(classes);
    rf_str_fini(&reason);
    rf_picture_list_close(list);
}

static void labels_of_lists_are_matched_by_name_or_number(void **state)
{
    (void)state;
    const int64_t by_name[] = {1, 2}, numbers[] = {0, 1, 2};
    assert_match(list_of("a.jpg,great owl\nb.jpg,dog\n"), by_name, 2, NULL);
    assert_match(list_of("a.jpg,2\nb.jpg,0\n"), numbers, 3, NULL);
    assert_match(list_of("a.jpg,3\nb.jpg,0\n"), NULL, 4, "0 to 2"); /* the model has three */
    assert_match(list_of("a.jpg,dog\nb.jpg,0\n"), NULL, 2, "'0'");
    assert_match(list_of("a.jpg\nb.jpg\n"), NULL, 0, "no classes");
}

static rf_picture_list *kaggle_of(const char *mapping)
{
    static const char *const folders[] = {"k",
                                          "k/ILSVRC",
                                          "k/ILSVRC/Data",
                                          "k/ILSVRC/Data/CLS-LOC",
                                          "k/ILSVRC/Data/CLS-LOC/train",
                                          "k/ILSVRC/Data/CLS-LOC/train/n1"};
    char path[RF_PATH_LEN];
    rf_picture_list *list = NULL;
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        TINY_OK(rf_path_join(path, model.folder, folders[i]));
        TINY_OK(rf_file_make_dirs(path));
    }
    TINY_OK(rf_path_join(path, model.folder, "k/ILSVRC/Data/CLS-LOC/train/n1/1.JPEG"));
    TINY_OK(rf_file_write_atomic(path, "", 0));
    TINY_OK(rf_path_join(path, model.folder, "k/LOC_synset_mapping.txt"));
    TINY_OK(rf_file_write_atomic(path, mapping, (int64_t)strlen(mapping)));
    TINY_OK(rf_path_join(path, model.folder, "k"));
    const rf_picture_list_opts opts = {.path = path};
    TINY_OK(rf_picture_list_open(&opts, &list));
    return list;
}

/* ImageNet has two cranes: by name the second would be the first. */
static void titled_classes_are_matched_by_their_place(void **state)
{
    (void)state;
    const int64_t places[] = {0, 1, 2};
    assert_match(kaggle_of("n3 cat\nn1 dog\nn2 great owl\n"), places, 3, NULL);
    assert_match(kaggle_of("n3 cat\nn1 cat\nn2 great owl\n"), places, 3, NULL);
    assert_match(kaggle_of("n3 dog\nn1 great owl\nn2 cat\n"), NULL, 3, "'n3'"); /* another order */
    assert_match(kaggle_of("n3 cat\nn1 dog\nn2 great owl\nn4 crane\n"), NULL, 4, "'n3'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_of_lists_are_matched_by_name_or_number),
        cmocka_unit_test(titled_classes_are_matched_by_their_place),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
