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

/* Takes `list`. `want` [n] with `says` in how they were matched, or NULL with it in the reason. */
static void assert_match_of(const rf_eval_classifier *classifier, rf_picture_list *list,
                            const int64_t *want, int64_t n, const char *says)
{
    int64_t *classes = NULL;
    rf_str reason = {0};
    const char *how = NULL;
    assert_int_equal(rf_picture_list_n_classes(list), n);
    TINY_OK(rf_eval_match_classes(model.vit, classifier, list, &classes, &how, &reason));
    assert_int_equal(classes != NULL, want != NULL);
    assert_int_equal(how != NULL, want != NULL);
    for (int64_t i = 0; want != NULL && i < n; i++) {
        assert_int_equal(classes[i], want[i]);
    }
    const char *said = want == NULL ? reason.data : how;
    if (says != NULL && strstr(said, says) == NULL) {
        fail_msg("'%s' is not in '%s'", says, said);
    }
    rf_free(classes);
    rf_str_fini(&reason);
    rf_picture_list_close(list);
}

static void assert_match(rf_picture_list *list, const int64_t *want, int64_t n, const char *says)
{
    assert_match_of(NULL, list, want, n, says);
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

/* Of these names and no vectors. */
static rf_eval_classifier named(char **names, int64_t n)
{
    return (rf_eval_classifier){.classes = {.n_classes = n, .d = TINY_D, .names = names}};
}

static void a_classifiers_names_are_matched_as_folders_and_publishers_write_them(void **state)
{
    (void)state;
    char shark[] = "great white shark", shirt[] = "T-shirt", crane[] = "crane", bird[] = "Crane";
    char *names[] = {shark, shirt, crane, bird};
    const rf_eval_classifier all = named(names, 4), three = named(names, 3);
    const int64_t two[] = {1, 0}, numbers[] = {0, 1, 2}, one[] = {2};
    assert_match_of(&three, list_of("a.jpg,great_white_shark\nb.jpg,T-Shirt\n"), two, 2, "by name");
    assert_match_of(&three, list_of("a.jpg,2\nb.jpg,0\n"), numbers, 3, "by number");
    assert_match_of(&all, list_of("a.jpg,crane\n"), one, 1, "by name"); /* to the letter */
    assert_match_of(&all, list_of("a.jpg,CRANE\n"), NULL, 1, "just one class of the classifier");
    assert_match_of(&three, list_of("a.jpg,great\n"), NULL, 1, "'great'");
    assert_match_of(&three, list_of("a.jpg,T-shirts\n"), NULL, 1, "'T-shirts'");
    assert_match_of(&three, list_of("a.jpg,3\n"), NULL, 4, "0 to 2");
}

/* Kaggle's titles are all names of a class; a publisher takes one of them, or another word. */
static void a_classifier_of_one_name_a_class_agrees_with_titles(void **state)
{
    (void)state;
    char tench[] = "tench", shark[] = "white shark", other[] = "rooster";
    char *names[] = {tench, shark, other}, *shuffled[] = {other, tench, shark};
    const rf_eval_classifier right = named(names, 3), wrong = named(shuffled, 3);
    const int64_t places[] = {0, 1, 2};
    const char *const titles =
        "n5 tench, Tinca tinca\nn1 great white shark, white shark, man-eater\n"
        "n2 cock\n";
    assert_match_of(&right, kaggle_of(titles), places, 3, "titles agree");
    assert_match_of(&wrong, kaggle_of(titles), NULL, 3, "in the same order");
}

static void folders_of_synsets_are_in_the_order_of_as_many_classes(void **state)
{
    (void)state;
    char tench[] = "tench", shark[] = "great white shark", synset[] = "n01440764";
    char *names[] = {tench, shark}, *synsets[] = {synset, shark};
    const rf_eval_classifier two = named(names, 2), by_synset = named(synsets, 2);
    const int64_t places[] = {0, 1}, first[] = {0};
    const char *const rows = "n01440764/a.jpg,n01440764\nn01484850/b.jpg,n01484850\n";
    assert_match_of(&two, list_of(rows), places, 2, "synsets, sorted");
    assert_match_of(&two, list_of("a.jpg,n01440764\n"), NULL, 1, "'n01440764'"); /* one of two */
    assert_match_of(&by_synset, list_of("a.jpg,n01440764\n"), first, 1, "by name");
    assert_match_of(&by_synset, list_of(rows), NULL, 2, "'n01484850'"); /* synsets say otherwise */
    assert_match_of(&two, list_of("a.jpg,cat\nb.jpg,dog\n"), NULL, 2, "'cat'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_of_lists_are_matched_by_name_or_number),
        cmocka_unit_test(titled_classes_are_matched_by_their_place),
        cmocka_unit_test(a_classifiers_names_are_matched_as_folders_and_publishers_write_them),
        cmocka_unit_test(a_classifier_of_one_name_a_class_agrees_with_titles),
        cmocka_unit_test(folders_of_synsets_are_in_the_order_of_as_many_classes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
