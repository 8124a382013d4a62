/* Order, classes and split of a folder of pictures. Files are empty: a list does not open them. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "refract/pictures.h"

static char root[RF_PATH_LEN];

static int make_root(void **state)
{
    (void)state;
    char template[] = "/tmp/rf-test-list-XXXXXX";
    return mkdtemp(template) == NULL || rf_format(root, sizeof root, "%s", template) != RF_OK;
}

static void remove_all(const char *path)
{
    char **names = NULL, below[RF_PATH_LEN];
    int64_t n = 0;
    if (rf_file_is_dir(path) && rf_file_list(path, &names, &n) == RF_OK) {
        for (int64_t i = 0; i < n; i++) {
            if (rf_path_join(below, path, names[i]) == RF_OK) {
                remove_all(below);
            }
        }
        rf_file_list_free(names, n);
        rmdir(path);
    } else {
        unlink(path);
    }
}

static int remove_root(void **state)
{
    (void)state;
    remove_all(root);
    return 0;
}

/* An empty file at `folder`/`name`, with its folders. */
static void touch(const char *folder, const char *name)
{
    char path[RF_PATH_LEN], dir[RF_PATH_LEN];
    assert_int_equal(rf_format(path, sizeof path, "%s/%s/%s", root, folder, name), RF_OK);
    assert_int_equal(rf_format(dir, sizeof dir, "%.*s", (int)(strrchr(path, '/') - path), path),
                     RF_OK);
    assert_int_equal(rf_file_make_dirs(dir), RF_OK);
    int fd = open(path, O_CREAT | O_WRONLY, 0644); /* an atomic write would wait for the disk */
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
}

static rf_status open_list(const char *folder, double holdout, uint64_t seed, int64_t max_pictures,
                           rf_picture_list **out)
{
    char path[RF_PATH_LEN];
    assert_int_equal(rf_path_join(path, root, folder), RF_OK);
    rf_picture_list_opts opts = {
        .path = path, .holdout = holdout, .seed = seed, .max_pictures = max_pictures};
    return rf_picture_list_open(&opts, out);
}

static void class_folders_give_sorted_names_and_labels(void **state)
{
    static const char *const names[] = {"a/z.jpg",     "a-b/1.png",     "a/deep/er/b.PNG",
                                        "b/x.jpeg",    "loose.webp",    "a/notes.txt",
                                        "empty/no.md", ".hidden/h.png", "b/._x.jpeg"};
    /* '-' comes before '/': the order of whole names, not of folders */
    static const char *const want[] = {"a-b/1.png", "a/deep/er/b.PNG", "a/z.jpg", "b/x.jpeg",
                                       "loose.webp"};
    static const int64_t labels[] = {1, 0, 0, 2, -1};
    rf_picture_list *list = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        touch("classes", names[i]);
    }
    assert_int_equal(open_list("classes", 0, 0, 0, &list), RF_OK);
    assert_int_equal(rf_picture_list_n(list, RF_SPLIT_ALL), 5);
    assert_int_equal(rf_picture_list_n(list, RF_SPLIT_TRAIN), 5);
    assert_int_equal(rf_picture_list_n(list, RF_SPLIT_HELD_OUT), 0);
    for (int64_t i = 0; i < 5; i++) {
        char path[RF_PATH_LEN];
        assert_string_equal(rf_picture_list_name(list, RF_SPLIT_ALL, i), want[i]);
        assert_int_equal(rf_picture_list_label(list, RF_SPLIT_TRAIN, i), labels[i]);
        assert_int_equal(rf_picture_list_path(list, RF_SPLIT_ALL, i, path), RF_OK);
        assert_true(rf_file_exists(path));
    }
    assert_int_equal(rf_picture_list_n_classes(list), 3);
    assert_string_equal(rf_picture_list_class(list, 0), "a");
    assert_string_equal(rf_picture_list_class(list, 1), "a-b");
    assert_string_equal(rf_picture_list_class(list, 2), "b");
    rf_picture_list_close(list);
}

static void places_outside_the_list_give_nothing(void **state)
{
    rf_picture_list *list = NULL;
    char path[RF_PATH_LEN];
    (void)state;
    touch("flat", "1.png");
    assert_int_equal(open_list("flat", 0, 0, 0, &list), RF_OK);
    assert_int_equal(rf_picture_list_n_classes(list), 0);
    assert_null(rf_picture_list_class(list, 0));
    assert_null(rf_picture_list_name(list, RF_SPLIT_ALL, 1));
    assert_null(rf_picture_list_name(list, RF_SPLIT_ALL, -1));
    assert_null(rf_picture_list_name(list, RF_SPLIT_HELD_OUT, 0));
    assert_int_equal(rf_picture_list_index(list, RF_SPLIT_HELD_OUT, 0), -1);
    assert_int_equal(rf_picture_list_label(list, RF_SPLIT_ALL, 5), -1);
    assert_int_equal(rf_picture_list_path(list, RF_SPLIT_ALL, 1, path), RF_ERR_INVALID_ARG);
    rf_picture_list_close(list);
    rf_picture_list_close(NULL);
}

static void make_many(const char *folder, int n)
{
    char name[64];
    for (int i = 0; i < n; i++) {
        assert_int_equal(rf_format(name, sizeof name, "c%d/%d.jpg", i % 7, i), RF_OK);
        touch(folder, name);
    }
}

static bool is_held_out(const rf_picture_list *list, const char *name)
{
    for (int64_t i = 0; i < rf_picture_list_n(list, RF_SPLIT_HELD_OUT); i++) {
        if (strcmp(rf_picture_list_name(list, RF_SPLIT_HELD_OUT, i), name) == 0) {
            return true;
        }
    }
    return false;
}

static void a_share_is_held_out_and_the_splits_part_the_list(void **state)
{
    rf_picture_list *list = NULL;
    (void)state;
    make_many("many", 1000);
    assert_int_equal(open_list("many", 0.1, 0, 0, &list), RF_OK);
    int64_t n_held_out = rf_picture_list_n(list, RF_SPLIT_HELD_OUT);
    /* binomial: 100 +- 9.5; five deviations */
    assert_in_range(n_held_out, 52, 148);
    uint8_t seen[1000] = {0};
    for (int split = RF_SPLIT_TRAIN; split <= RF_SPLIT_HELD_OUT; split++) {
        int64_t last = -1;
        for (int64_t i = 0; i < rf_picture_list_n(list, (rf_picture_split)split); i++) {
            int64_t at = rf_picture_list_index(list, (rf_picture_split)split, i);
            assert_true(at > last && at < 1000);
            assert_int_equal(seen[at]++, 0);
            last = at;
        }
    }
    assert_int_equal(rf_picture_list_n(list, RF_SPLIT_TRAIN) + n_held_out, 1000);
    rf_picture_list_close(list);
}

static void neither_other_pictures_nor_seed_nor_share_move_a_picture_out(void **state)
{
    rf_picture_list *few = NULL, *more = NULL, *larger = NULL;
    (void)state;
    make_many("few", 300);
    make_many("more", 700);
    assert_int_equal(open_list("few", 0.1, 0, 0, &few), RF_OK);
    assert_int_equal(open_list("more", 0.1, 99, 0, &more), RF_OK);
    assert_int_equal(open_list("few", 0.3, 0, 0, &larger), RF_OK);
    for (int64_t i = 0; i < rf_picture_list_n(few, RF_SPLIT_ALL); i++) {
        const char *name = rf_picture_list_name(few, RF_SPLIT_ALL, i);
        assert_int_equal(is_held_out(few, name), is_held_out(more, name));
        assert_true(!is_held_out(few, name) || is_held_out(larger, name));
    }
    assert_true(rf_picture_list_n(larger, RF_SPLIT_HELD_OUT) >
                rf_picture_list_n(few, RF_SPLIT_HELD_OUT));
    rf_picture_list_close(few);
    rf_picture_list_close(more);
    rf_picture_list_close(larger);
}

static void max_pictures_keeps_a_spread_that_its_seed_names(void **state)
{
    rf_picture_list *list = NULL, *again = NULL, *other = NULL, *all = NULL;
    (void)state;
    make_many("spread", 400);
    assert_int_equal(open_list("spread", 0.1, 1, 70, &list), RF_OK);
    assert_int_equal(open_list("spread", 0.1, 1, 70, &again), RF_OK);
    assert_int_equal(open_list("spread", 0.1, 2, 70, &other), RF_OK);
    assert_int_equal(open_list("spread", 0.1, 1, 400, &all), RF_OK);
    assert_int_equal(rf_picture_list_n(list, RF_SPLIT_ALL), 70);
    assert_int_equal(rf_picture_list_n(all, RF_SPLIT_ALL), 400);
    assert_int_equal(rf_picture_list_n_classes(list), 7);
    int64_t of_class[7] = {0};
    for (int64_t i = 0; i < 70; i++) {
        const char *name = rf_picture_list_name(list, RF_SPLIT_ALL, i);
        assert_string_equal(name, rf_picture_list_name(again, RF_SPLIT_ALL, i));
        assert_true(i == 0 || strcmp(rf_picture_list_name(list, RF_SPLIT_ALL, i - 1), name) < 0);
        assert_int_equal(is_held_out(list, name), is_held_out(all, name));
        of_class[rf_picture_list_label(list, RF_SPLIT_ALL, i)]++;
    }
    for (int c = 0; c < 7; c++) {
        assert_true(of_class[c] > 0); /* the first 70 names would be c0 and c1 alone */
    }
    assert_true(rf_picture_list_hash(list) == rf_picture_list_hash(again));
    assert_true(rf_picture_list_hash(list) != rf_picture_list_hash(other));
    rf_picture_list_close(list);
    rf_picture_list_close(again);
    rf_picture_list_close(other);
    rf_picture_list_close(all);
}

static void the_hash_is_of_the_names(void **state)
{
    rf_picture_list *a = NULL, *b = NULL, *c = NULL;
    (void)state;
    touch("hash-a", "x/1.png");
    touch("hash-a", "x/2.png");
    touch("hash-b", "x/2.png");
    touch("hash-b", "x/1.png");
    touch("hash-c", "x/1.png");
    touch("hash-c", "y/2.png");
    assert_int_equal(open_list("hash-a", 0, 0, 0, &a), RF_OK);
    assert_int_equal(open_list("hash-b", 0.5, 7, 0, &b), RF_OK);
    assert_int_equal(open_list("hash-c", 0, 0, 0, &c), RF_OK);
    assert_true(rf_picture_list_hash(a) == rf_picture_list_hash(b));
    assert_true(rf_picture_list_hash(a) != rf_picture_list_hash(c));
    rf_picture_list_close(a);
    rf_picture_list_close(b);
    rf_picture_list_close(c);
}

static void folders_that_hold_no_pictures_are_refused_by_name(void **state)
{
    rf_picture_list *list = NULL;
    int64_t n_live = rf_alloc_live();
    (void)state;
    assert_int_equal(open_list("nowhere", 0, 0, 0, &list), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "nowhere"));
    assert_null(list);
    touch("texts", "a/readme.txt");
    assert_int_equal(open_list("texts", 0, 0, 0, &list), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "texts"));
    touch("file", "x.png");
    assert_int_equal(open_list("file/x.png", 0, 0, 0, &list), RF_ERR_NOT_FOUND);
    assert_int_equal(open_list("file", 1.0, 0, 0, &list), RF_ERR_INVALID_ARG);
    assert_int_equal(open_list("file", -0.1, 0, 0, &list), RF_ERR_INVALID_ARG);
    assert_int_equal(open_list("file", 0, 0, -1, &list), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_alloc_live(), n_live);
}

static void folders_that_lead_into_themselves_end_in_an_error(void **state)
{
    rf_picture_list *list = NULL;
    char path[RF_PATH_LEN];
    (void)state;
    touch("loop", "a/x.png");
    assert_int_equal(rf_format(path, sizeof path, "%s/loop/a/again", root), RF_OK);
    assert_int_equal(symlink("..", path), 0);
    assert_int_equal(open_list("loop", 0, 0, 0, &list), RF_ERR_UNSUPPORTED);
    assert_non_null(strstr(rf_error_text(), "nested"));
}

static void settings_of_the_section_have_their_defaults(void **state)
{
    rf_data_settings s;
    (void)state;
    assert_int_equal(rf_settings_defaults(&rf_data_settings_table, &s), RF_OK);
    assert_string_equal(s.path, "");
    assert_true(s.holdout == 0.02 && s.max_bad_share == 0.01);
    assert_int_equal(s.max_pictures, 0);
    assert_int_equal(s.decode_threads, 0);
    assert_string_equal(s.root, "");
    assert_int_equal(s.part, RF_PART_AUTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(class_folders_give_sorted_names_and_labels),
        cmocka_unit_test(places_outside_the_list_give_nothing),
        cmocka_unit_test(a_share_is_held_out_and_the_splits_part_the_list),
        cmocka_unit_test(neither_other_pictures_nor_seed_nor_share_move_a_picture_out),
        cmocka_unit_test(max_pictures_keeps_a_spread_that_its_seed_names),
        cmocka_unit_test(the_hash_is_of_the_names),
        cmocka_unit_test(folders_that_hold_no_pictures_are_refused_by_name),
        cmocka_unit_test(folders_that_lead_into_themselves_end_in_an_error),
        cmocka_unit_test(settings_of_the_section_have_their_defaults),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
