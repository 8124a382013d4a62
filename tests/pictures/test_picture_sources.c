/* Lists and Kaggle's ImageNet as sources of pictures. */
#include "picture_sources.h"

static rf_status parse(const char *name, const char *text, rf_picture_list **out)
{
    const rf_picture_list_opts opts = {.path = name};
    return rf_picture_list_parse(&opts, text, (int64_t)strlen(text), out);
}

static void assert_classes(const rf_picture_list *list, const char *const *want)
{
    int64_t n = 0;
    for (; want[n] != NULL; n++) {
        assert_true(n < rf_picture_list_n_classes(list));
        assert_string_equal(rf_picture_list_class(list, n), want[n]);
    }
    assert_int_equal(rf_picture_list_n_classes(list), n);
}

/* ---- lists ------------------------------------------------------------------------------------
 */

static void a_csv_with_a_header_is_read_by_the_names_of_its_columns(void **state)
{
    const rf_picture_list_opts opts = {.path = RF_GOLDEN_DIR "/lists/header.csv"};
    static const wanted want[] = {
        {"pets/1.jpg", 0}, {"pets/2, small.jpg", 1}, {"pets/3.jpg", -1}, {NULL, 0}};
    static const char *const classes[] = {"a \"cat\", red", "dog", NULL};
    rf_picture_list *list = NULL;
    (void)state;
    assert_ok(rf_picture_list_open(&opts, &list));
    assert_list(list, want);
    assert_classes(list, classes);
    assert_null(rf_picture_list_class_title(list, 0));
    assert_path(list, 0, RF_GOLDEN_DIR "/lists/pets/1.jpg");
    assert_int_equal(rf_picture_list_bytes(list, RF_SPLIT_ALL, 0), -1); /* it is not there */
    rf_picture_list_close(list);
}

static void a_tsv_without_a_header_is_path_and_label(void **state)
{
    const rf_picture_list_opts opts = {.path = RF_GOLDEN_DIR "/lists/pairs.tsv"};
    static const wanted want[] = {{"a.jpg", 0}, {"b.jpg", 12}, {"c \"d\".png", 3}, {NULL, 0}};
    rf_picture_list *list = NULL;
    (void)state;
    assert_ok(rf_picture_list_open(&opts, &list));
    assert_list(list, want);
    assert_int_equal(rf_picture_list_n_classes(list), 13); /* 0 to the largest */
    assert_string_equal(rf_picture_list_class(list, 7), "7");
    rf_picture_list_close(list);
}

static void a_txt_is_paths_or_path_blank_label(void **state)
{
    rf_picture_list_opts opts = {.path = RF_GOLDEN_DIR "/lists/caffe.txt"};
    static const wanted caffe[] = {{"n01440764/a b.JPEG", 0}, {"n01443537/c.JPEG", 1}, {NULL, 0}};
    static const wanted paths[] = {
        {"/abs/three.webp", -1}, {"one.jpg", -1}, {"two 2.png", -1}, {NULL, 0}};
    static const wanted tabs[] = {{"a b.jpg", 1}, {"x 1", 0}, {NULL, 0}};
    rf_picture_list *list = NULL;
    (void)state;
    assert_ok(rf_picture_list_open(&opts, &list));
    assert_string_equal(rf_picture_list_name(list, RF_SPLIT_ALL, 0), "n01440764/a b.JPEG");
    assert_string_equal(rf_picture_list_name(list, RF_SPLIT_ALL, 1), "n01443537/c.JPEG");
    assert_list(list, (const wanted[]){caffe[0], caffe[1], {NULL, 0}});
    rf_picture_list_close(list);
    opts.path = RF_GOLDEN_DIR "/lists/paths.txt";
    assert_ok(rf_picture_list_open(&opts, &list));
    assert_list(list, paths);
    assert_int_equal(rf_picture_list_n_classes(list), 0);
    assert_path(list, 0, "/abs/three.webp");
    rf_picture_list_close(list);
    opts.root = "/data";
    assert_ok(rf_picture_list_open(&opts, &list));
    assert_path(list, 0, "/data//abs/three.webp"); /* with a root, every path is below it */
    assert_path(list, 1, "/data/one.jpg");
    rf_picture_list_close(list);
    assert_ok(parse("t.txt", "a b.jpg\tdog\nx 1\tcat\n", &list));
    assert_list(list, tabs);
    rf_picture_list_close(list);
}

static void the_order_and_the_split_are_those_of_the_names(void **state)
{
    rf_picture_list *list = NULL, *turned = NULL, *folder = NULL;
    rf_picture_list_opts opts = {.path = "a.csv", .holdout = 0.5};
    const char *text = "c/1.jpg,x\nb/2.jpg,y\na/3.jpg,x\n", *other = "a/3.jpg\nc/1.jpg\nb/2.jpg\n";
    (void)state;
    assert_ok(rf_picture_list_parse(&opts, text, (int64_t)strlen(text), &list));
    assert_ok(rf_picture_list_parse(&opts, other, (int64_t)strlen(other), &turned));
    put_at("f/a/3.jpg", "");
    put_at("f/b/2.jpg", "");
    put_at("f/c/1.jpg", "");
    opts.path = scratch("f");
    assert_ok(rf_picture_list_open(&opts, &folder));
    assert_true(rf_picture_list_hash(list) == rf_picture_list_hash(turned));
    assert_true(rf_picture_list_hash(list) == rf_picture_list_hash(folder));
    for (int split = RF_SPLIT_TRAIN; split <= RF_SPLIT_HELD_OUT; split++) {
        const rf_picture_split s = (rf_picture_split)split;
        assert_int_equal(rf_picture_list_n(list, s), rf_picture_list_n(folder, s));
        for (int64_t i = 0; i < rf_picture_list_n(list, s); i++) {
            assert_int_equal(rf_picture_list_index(list, s, i),
                             rf_picture_list_index(folder, s, i));
        }
    }
    rf_picture_list_close(list);
    rf_picture_list_close(turned);
    rf_picture_list_close(folder);
}

static void wrong_rows_are_refused_with_their_line(void **state)
{
    static const struct {
        const char *name, *text, *says;
        rf_status status;
    } cases[] = {
        {"l.csv", "", "no picture", RF_ERR_NOT_FOUND},
        {"l.csv", "path,label\n", "no picture", RF_ERR_NOT_FOUND},
        {"l.csv", "\n\r\n\n", "no picture", RF_ERR_NOT_FOUND},
        {"l.csv", "a.jpg,1\nb.jpg\n", "l.csv: line 2: 1 fields, expected 2", RF_ERR_FORMAT},
        {"l.csv", "a.jpg,1\n,2\n", "line 2: no path", RF_ERR_FORMAT},
        {"l.csv", "a.jpg,1\n  ,2\n", "line 2: no path", RF_ERR_FORMAT},
        {"l.csv", "a.jpg,1,2\n", "expected a path and perhaps a label", RF_ERR_FORMAT},
        {"l.csv", "name,label\na.jpg,1\n", "column 'label'", RF_ERR_FORMAT},
        {"l.csv", "a.jpg\nb.jpg\n\na.jpg\n", "l.csv: lines 1 and 4 are both 'a.jpg'",
         RF_ERR_FORMAT},
        {"l.csv", "\"a.jpg\nb.jpg\n", "line 1: a quote that nothing closes", RF_ERR_FORMAT},
        {"l.csv", "x.jpg\n\"a\nb.jpg\"c,1\n", "line 3: text behind", RF_ERR_FORMAT},
        {"l.csv", "a.jpg,-1\nb.jpg,2\n", "'a.jpg': label -1", RF_ERR_FORMAT},
        {"l.csv", "a.jpg,1\nb.jpg,1048576\n", "'b.jpg': label 1048576", RF_ERR_FORMAT},
        {"l.csv", "a.jpg,1\nb.jpg,99999999999999999999\n", "'b.jpg': label 9999", RF_ERR_FORMAT},
        {"l.txt", "a.jpg 1\nb.jpg\n", "line 2: 1 fields", RF_ERR_FORMAT},
        {"l.md", "a.jpg\n", "expected a name that ends", RF_ERR_INVALID_ARG},
    };
    rf_picture_list *list = NULL;
    int64_t live = rf_alloc_live();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_refused(parse(cases[i].name, cases[i].text, &list), cases[i].status, cases[i].says);
        assert_null(list);
    }
    const rf_picture_list_opts opts = {.path = "l.csv"};
    assert_refused(rf_picture_list_parse(&opts, "a.jpg\nb\0.jpg\n", 13, &list), RF_ERR_FORMAT,
                   "line 2: a zero byte");
    char *long_row = rf_calloc((1 << 20) + 10, 1);
    memset(long_row, 'a', (1 << 20) + 9);
    assert_refused(parse("l.csv", long_row, &list), RF_ERR_FORMAT, "longer than");
    long_row[1024] = '\0';
    assert_refused(parse("l.csv", long_row, &list), RF_ERR_FORMAT, "path of 1024 bytes");
    memset(long_row, ',', 2000);
    long_row[2000] = '\0';
    assert_refused(parse("l.csv", long_row, &list), RF_ERR_FORMAT, "more than 1024 fields");
    rf_free(long_row);
    assert_int_equal(rf_alloc_live(), live);
}

static void labels_are_numbers_only_where_all_are(void **state)
{
    static const wanted names[] = {{"a.jpg", 1}, {"b.jpg", 0}, {"c.jpg", 2}, {NULL, 0}};
    static const char *const classes[] = {"-1", "10", "9x", NULL};
    static const wanted numbers[] = {{"a.jpg", 3}, {"b.jpg", 0}, {"c.jpg", 3}, {NULL, 0}};
    rf_picture_list *list = NULL;
    (void)state;
    assert_ok(parse("l.csv", "a.jpg,10\nb.jpg,-1\nc.jpg,9x\n", &list));
    assert_list(list, names);
    assert_classes(list, classes);
    rf_picture_list_close(list);
    assert_ok(parse("l.csv", "a.jpg,3\nb.jpg,0\nc.jpg,003\n", &list));
    assert_list(list, numbers);
    assert_int_equal(rf_picture_list_n_classes(list), 4);
    rf_picture_list_close(list);
}

static void a_listed_file_that_is_not_there_fails_when_it_is_read(void **state)
{
    rf_picture_list *list = NULL;
    char *bytes = NULL;
    int64_t n_bytes = 0;
    (void)state;
    put_at("some/here.jpg", "here");
    put_at("some/list.csv", "here.jpg\nnot here.jpg\n");
    assert_ok(open_at("some/list.csv", &list));
    assert_reads(list, 0, "here");
    assert_refused(rf_picture_list_read(list, RF_SPLIT_ALL, 1, &bytes, &n_bytes), RF_ERR_NOT_FOUND,
                   "not here.jpg");
    assert_int_equal(rf_picture_list_bytes(list, RF_SPLIT_ALL, 1), -1);
    assert_int_equal(rf_picture_list_bytes(list, RF_SPLIT_ALL, 2), -1);
    rf_picture_list_close(list);
}

/* ---- Kaggle's ImageNet -------------------------------------------------------------------------
 */

#define CLS "in/ILSVRC/Data/CLS-LOC/"

static void put_kaggle(void)
{
    put_at("in/LOC_synset_mapping.txt",
           "n02 crane\nn01 tench, Tinca tinca\nn03 crane\nn00 of which there is none\n");
    put_at("in/LOC_val_solution.csv", "ImageId,PredictionString\n"
                                      "ILSVRC2012_val_00000002,n02 1 2 3 4 n02 5 6 7 8\n"
                                      "ILSVRC2012_val_00000001,n03 85 1 499 272 \n"
                                      "ILSVRC2012_val_00000009,n03 1 1 1 1\n");
    put_at(CLS "train/n01/n01_7.JPEG", "t1");
    put_at(CLS "train/n03/n03_5.JPEG", "t3");
    put_at(CLS "train/n02/n02_1.JPEG", "t2");
    put_at(CLS "val/ILSVRC2012_val_00000001.JPEG", "v1");
    put_at(CLS "val/ILSVRC2012_val_00000002.JPEG", "v2");
}

static rf_status open_part(rf_picture_part part, rf_picture_list **out)
{
    const rf_picture_list_opts opts = {.path = scratch("in"), .part = part};
    return rf_picture_list_open(&opts, out);
}

static void kaggles_classes_have_imagenets_order(void **state)
{
    static const wanted train[] = {
        {"n01/n01_7.JPEG", 1}, {"n02/n02_1.JPEG", 0}, {"n03/n03_5.JPEG", 2}, {NULL, 0}};
    static const wanted val[] = {
        {"ILSVRC2012_val_00000001.JPEG", 2}, {"ILSVRC2012_val_00000002.JPEG", 0}, {NULL, 0}};
    static const char *const classes[] = {"n02", "n01", "n03", "n00", NULL};
    rf_picture_list *list = NULL;
    int64_t live = rf_alloc_live();
    (void)state;
    put_kaggle();
    for (int part = RF_PART_AUTO; part <= RF_PART_VAL; part++) {
        const bool is_val = part == RF_PART_VAL;
        assert_ok(open_part((rf_picture_part)part, &list));
        assert_list(list, is_val ? val : train);
        assert_classes(list, classes);
        assert_string_equal(rf_picture_list_class_title(list, 1), "tench, Tinca tinca");
        assert_null(rf_picture_list_class_title(list, 4));
        assert_reads(list, 0, is_val ? "v1" : "t1");
        rf_picture_list_close(list);
    }
    assert_int_equal(rf_alloc_live(), live);
}

static void validation_pictures_may_lie_in_class_folders(void **state)
{
    static const wanted val[] = {{"n02/ILSVRC2012_val_00000002.JPEG", 0}, {NULL, 0}};
    rf_picture_list *list = NULL;
    (void)state;
    put_kaggle();
    assert_int_equal(remove(scratch(CLS "val/ILSVRC2012_val_00000001.JPEG")), 0);
    assert_int_equal(remove(scratch(CLS "val/ILSVRC2012_val_00000002.JPEG")), 0);
    put_at(CLS "val/n02/ILSVRC2012_val_00000002.JPEG", "v2");
    assert_ok(open_part(RF_PART_VAL, &list));
    assert_list(list, val);
    rf_picture_list_close(list);
}

static void kaggles_files_that_do_not_fit_are_refused(void **state)
{
    static const struct {
        const char *name, *text, *says;
        rf_picture_part part;
    } cases[] = {
        {"in/LOC_synset_mapping.txt", "", "no class in it", RF_PART_TRAIN},
        {"in/LOC_synset_mapping.txt", "n01 a\nn02\n", "line 2: expected a synset", RF_PART_TRAIN},
        {"in/LOC_synset_mapping.txt", "n01 a\nn02 b\nn01 c\n", "'n01' stands in it twice",
         RF_PART_TRAIN},
        {"in/LOC_synset_mapping.txt", "n01 a\nn02 b\n", "class 'n03'", RF_PART_TRAIN},
        {"in/LOC_val_solution.csv", "", "expected the header", RF_PART_VAL},
        {"in/LOC_val_solution.csv", "ILSVRC2012_val_00000002,n02\n", "expected the header",
         RF_PART_VAL},
        {"in/LOC_val_solution.csv", "ImageId,PredictionString\nILSVRC2012_val_00000002,n02\n",
         "no row for picture 'ILSVRC2012_val_00000001.JPEG'", RF_PART_VAL},
        {"in/LOC_val_solution.csv", "ImageId,PredictionString\na,n02\na,n02\n",
         "'a' stands in it twice", RF_PART_VAL},
        {"in/LOC_val_solution.csv", "ImageId,PredictionString\na,n02,3\n", "line 2: 3 fields",
         RF_PART_VAL},
        {"in/LOC_val_solution.csv", "ImageId,PredictionString\na,\n", "line 2: an empty field",
         RF_PART_VAL},
    };
    rf_picture_list *list = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_kaggle();
        put_at(cases[i].name, cases[i].text);
        assert_refused(open_part(cases[i].part, &list), RF_ERR_FORMAT, cases[i].says);
    }
    put_at("bare/LOC_synset_mapping.txt", "n01 a\n");
    assert_refused(open_at("bare", &list), RF_ERR_NOT_FOUND, "CLS-LOC/train");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_csv_with_a_header_is_read_by_the_names_of_its_columns),
        cmocka_unit_test(a_tsv_without_a_header_is_path_and_label),
        cmocka_unit_test(a_txt_is_paths_or_path_blank_label),
        scratch_test(the_order_and_the_split_are_those_of_the_names),
        cmocka_unit_test(wrong_rows_are_refused_with_their_line),
        cmocka_unit_test(labels_are_numbers_only_where_all_are),
        scratch_test(a_listed_file_that_is_not_there_fails_when_it_is_read),
        scratch_test(kaggles_classes_have_imagenets_order),
        scratch_test(validation_pictures_may_lie_in_class_folders),
        scratch_test(kaggles_files_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
