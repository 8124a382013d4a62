/* Tar shards as sources of pictures, and how sources are told apart. */
#include "picture_sources.h"

#include <pthread.h>

static void samples_are_the_members_with_one_key(void **state)
{
    static const char *const a[] = {"./n1/1.jpg", "one",
                                    "./n1/1.cls", " 3\n",
                                    "n1/2.png",   "two", /* without a label */
                                    "n1/3.json",  "{\"label\": 5, \"caption\": \"x\"}",
                                    "n1/3.webp",  "three", /* label first */
                                    "readme.txt", "no picture",
                                    "n1/4.cls",   "7", /* a sample without one */
                                    "5.txt",      "a text",
                                    "5.JPEG",     "five",
                                    NULL};
    static const char *const b[] = {
        /* labels behind all pictures, one of two jsons with "cls" */
        "1.jpg",    "b one", "2.jpg", "b two",  ".hidden.jpg",      "hidden", "n/._3.jpg",
        "of a Mac", "1.cls", "0",     "2.json", "{\"cls\": \"2\"}", NULL};
    static const wanted want[] = {{"a/5.JPEG", -1},   {"a/n1/1.jpg", 3}, {"a/n1/2.png", -1},
                                  {"a/n1/3.webp", 5}, {"b/1.jpg", 0},    {"b/2.jpg", 2},
                                  {NULL, 0}};
    rf_picture_list *list = NULL;
    char path[RF_PATH_LEN];
    int64_t live = rf_alloc_live();
    (void)state;
    put_shard("set/a.tar", a);
    put_shard("set/b.tar", b);
    put_at("set/index.json", "{}");
    assert_ok(open_at("set", &list));
    assert_list(list, want);
    assert_int_equal(rf_picture_list_n_classes(list), 6);
    assert_reads(list, 0, "five");
    assert_reads(list, 1, "one");
    assert_reads(list, 3, "three");
    assert_reads(list, 5, "b two");
    assert_ok(rf_format(path, sizeof path, "%s/n1/1.jpg", scratch("set/a.tar")));
    assert_path(list, 1, path);
    rf_picture_list_close(list);
    assert_int_equal(rf_alloc_live(), live);
}

static int64_t n_warnings;

static void count_warnings(void *user, rf_log_level level, const char *line)
{
    (void)user;
    n_warnings += level == RF_LOG_WARN && strstr(line, "3 pictures") != NULL;
}

static void of_two_pictures_the_plain_one_and_the_first_counts(void **state)
{
    static const char *const a[] = {"1.depth.png", "depth",   "1.jpg",    "plain",   "1.png",
                                    "mask",        "2.b.jpg", "b of two", "2.a.jpg", "a of two",
                                    "2.cls",       "x",       "3.v2.jpg", "dotted",  NULL};
    static const wanted want[] = {{"a/1.jpg", -1}, {"a/2.b.jpg", 0}, {"a/3.v2.jpg", -1}, {NULL, 0}};
    rf_picture_list *list = NULL;
    (void)state;
    put_shard("a.tar", a);
    n_warnings = 0;
    rf_log_set_sink(count_warnings, NULL);
    assert_ok(open_at("a.tar", &list));
    rf_log_set_sink(NULL, NULL);
    assert_list(list, want);
    assert_reads(list, 0, "plain");
    assert_reads(list, 1, "b of two");
    assert_int_equal(n_warnings, 1); /* what is left out is said */
    rf_picture_list_close(list);
}

static void names_out_of_the_shard_are_only_names(void **state)
{
    static const char *const a[] = {"../../up.jpg", "up", "/etc/root.jpg", "root", NULL};
    static const wanted want[] = {{"a/../../up.jpg", -1}, {"a//etc/root.jpg", -1}, {NULL, 0}};
    rf_picture_list *list = NULL;
    (void)state;
    put_shard("a.tar", a);
    assert_ok(open_at("a.tar", &list));
    assert_list(list, want);
    assert_reads(list, 0, "up");
    assert_reads(list, 1, "root");
    rf_picture_list_close(list);
}

static void braces_name_shards(void **state)
{
    static const struct {
        const char *pattern;
        int64_t n;
    } cases[] = {{"set/s-{00..03}.tar", 4 * 6},      {"set/s-{01,03}.tar", 2 * 6},
                 {"set/s-0{0..2}.tar", 3 * 6},       {"{set,more}/s-{00..01}.tar", 0},
                 {"set/s-{0,1}{0..1}.tar", 4 * 6},   {"set/s-02.tar", 6},
                 {"s{e..e}t/s-{00..01}.tar", -1},    {"set/s-{03..01}.tar", -1},
                 {"set/s-{0..99999999999}.tar", -1}, {"set/s-{00..0{1,2}}.tar", -1},
                 {"set/s-{00..01.tar", -1},          {"set/s-{..}.tar", -1},
                 {"set/s-{00..01}{,,}{,,}.tar", -2}, {"set/s-{00..12}.tar", -2},
                 {"set/s-{-1..2}.tar", -1}};
    rf_picture_list *list = NULL;
    int64_t live = rf_alloc_live();
    (void)state;
    put_shards("set", 12, 6);
    put_shards("more", 2, 6);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const rf_status status = open_at(cases[i].pattern, &list);
        if (cases[i].n > 0 && status == RF_OK) {
            assert_int_equal(rf_picture_list_n(list, RF_SPLIT_ALL), cases[i].n);
        } else {
            const rf_status want = cases[i].n > 0     ? RF_OK
                                   : cases[i].n == 0  ? RF_ERR_FORMAT /* set/s-00 and more/s-00 */
                                   : cases[i].n == -1 ? RF_ERR_SETTING
                                                      : RF_ERR_NOT_FOUND;
            if (cases[i].n != -2 || status != RF_ERR_FORMAT) { /* the same shards many times */
                assert_int_equal(status, want);
            }
        }
        rf_picture_list_close(list);
    }
    assert_int_equal(rf_alloc_live(), live);
}

static void what_a_folder_is_is_told_by_what_lies_in_it(void **state)
{
    static const char *const one[] = {"1.jpg", "1", NULL};
    rf_picture_list *list = NULL;
    (void)state;
    put_shard("classes/archive.tar", one); /* what the folders came out of */
    put_at("classes/archive2.tar.gz", "\x1f\x8b");
    put_at("classes/a/1.jpg", "");
    assert_ok(open_at("classes", &list));
    assert_int_equal(rf_picture_list_n(list, RF_SPLIT_ALL), 1);
    assert_string_equal(rf_picture_list_name(list, RF_SPLIT_ALL, 0), "a/1.jpg");
    rf_picture_list_close(list);
    put_shard("mixed/s.tar", one);
    put_at("mixed/preview.png", "");
    assert_refused(open_at("mixed", &list), RF_ERR_SETTING, "either may be meant");
    put_shard("half/a.tar", one);
    put_at("half/b.tar.gz", "\x1f\x8b and so on");
    assert_refused(open_at("half", &list), RF_ERR_UNSUPPORTED, "gzip");
    assert_refused(open_at("half/b.tar.gz", &list), RF_ERR_UNSUPPORTED, "gzip");
    put_at("notes.md", "x");
    assert_refused(open_at("notes.md", &list), RF_ERR_NOT_FOUND, "none of what");
    rf_picture_list_opts opts = {.path = scratch("half"), .part = RF_PART_VAL};
    assert_refused(rf_picture_list_open(&opts, &list), RF_ERR_SETTING, "Kaggle");
    opts = (rf_picture_list_opts){.path = scratch("half"), .root = "/data"};
    assert_refused(rf_picture_list_open(&opts, &list), RF_ERR_SETTING, "/data");
}

static void hostile_shards_are_refused_with_their_place(void **state)
{
    static const struct {
        const char *members[5], *says;
        rf_status status;
    } cases[] = {
        {{"a.txt", "x", NULL}, "no picture", RF_ERR_NOT_FOUND},
        {{NULL}, "no picture", RF_ERR_NOT_FOUND},
        {{"1.jpg", "x", "1.jpg", "y", NULL},
         "'1.jpg' is there twice, at byte 0 and 1024",
         RF_ERR_FORMAT},
        {{"1.cls", "", "1.jpg", "y", NULL}, "at byte 0: '1.cls': an empty label", RF_ERR_FORMAT},
        {{"1.jpg", "y", "1.cls", "a\001b", NULL},
         "at byte 1024: '1.cls': a label with the control",
         RF_ERR_FORMAT},
        {{"1.jpg", "y", "1.cls", "-4", NULL}, "'s/1.jpg': label -4", RF_ERR_FORMAT},
        {{"1.jpg", "y", "1.json", "{\"label\": [1]}", NULL},
         "at byte 1024: '1.json'",
         RF_ERR_FORMAT},
        {{"1.jpg", "y", "1.json", "{\"label\": ", NULL}, "1.json", RF_ERR_FORMAT},
    };
    rf_picture_list *list = NULL;
    int64_t live = rf_alloc_live();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_shard("s.tar", cases[i].members);
        assert_refused(open_at("s.tar", &list), cases[i].status, cases[i].says);
        assert_null(list);
    }
    char big[5000];
    memset(big, '1', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    put_shard("s.tar", (const char *const[]){"1.jpg", "x", "1.cls", big, NULL});
    assert_refused(open_at("s.tar", &list), RF_ERR_FORMAT, "at most 4096");
    big[600] = '\0';
    put_shard("s.tar", (const char *const[]){"1.jpg", "x", "1.cls", big, NULL});
    assert_refused(open_at("s.tar", &list), RF_ERR_FORMAT, "a label of 600 bytes");
    for (const char *type = "123"; *type != '\0'; type++) {
        rf_str tar = {0};
        assert_ok(tar_put(&tar, "1.jpg", "x"));
        assert_ok(tar_header(&tar, "2.jpg", *type, 0));
        assert_ok(tar_end(&tar));
        put_file(scratch("s.tar"), tar.data, (size_t)tar.len);
        assert_refused(open_at("s.tar", &list), RF_ERR_UNSUPPORTED, "at byte 1024: '2.jpg'");
        put_file(scratch("s.tar"), tar.data, 1500);
        assert_refused(open_at("s.tar", &list), RF_ERR_FORMAT, "s.tar");
        rf_str_fini(&tar);
    }
    assert_int_equal(rf_alloc_live(), live);
}

static void a_json_without_a_label_says_none(void **state)
{
    static const char *const a[] = {"1.jpg", "x", "1.json", "{\"caption\": \"c\"}",
                                    "2.jpg", "y", "2.json", "{\"label\": null}",
                                    "3.jpg", "z", "3.json", "[1]",
                                    "4.jpg", "",  "4.json", "{\"label\": \"dog \"}",
                                    NULL};
    static const wanted want[] = {
        {"s/1.jpg", -1}, {"s/2.jpg", -1}, {"s/3.jpg", -1}, {"s/4.jpg", 0}, {NULL, 0}};
    rf_picture_list *list = NULL;
    (void)state;
    put_shard("s.tar", a);
    assert_ok(open_at("s.tar", &list));
    assert_list(list, want);
    assert_string_equal(rf_picture_list_class(list, 0), "dog");
    assert_reads(list, 3, ""); /* nothing to decode, which is a bad picture and no bad list */
    rf_picture_list_close(list);
}

static void a_shard_that_changed_is_noticed_when_it_is_read(void **state)
{
    static const char *const a[] = {"1.jpg", "x", "2.jpg", "yy", NULL};
    static const char *const b[] = {"1.jpg", "x", "3.jpg", "yy", NULL};
    rf_picture_list *list = NULL;
    char *bytes = NULL;
    int64_t n_bytes = 0;
    (void)state;
    put_shard("s.tar", a);
    assert_ok(open_at("s.tar", &list));
    put_shard("s.tar", b);
    assert_reads(list, 0, "x");
    assert_refused(rf_picture_list_read(list, RF_SPLIT_ALL, 1, &bytes, &n_bytes), RF_ERR_FORMAT,
                   "was changed");
    rf_picture_list_close(list);
}

/* ---- threads, more shards than stay open ------------------------------------------------------
 */

enum { N_THREADS = 4, N_MANY = 150, N_IN = 3 };

typedef struct reading {
    const rf_picture_list *list;
    int64_t first, n_wrong;
} reading;

static void *read_all(void *arg)
{
    reading *r = arg;
    const int64_t n = rf_picture_list_n(r->list, RF_SPLIT_ALL);
    for (int64_t k = 0; k < n; k++) {
        const int64_t i = (r->first + 7 * k) % n;
        char *bytes = NULL, want[64];
        int64_t n_bytes = 0;
        snprintf(want, sizeof want, "picture %d of %d", (int)(i % N_IN), (int)(i / N_IN));
        r->n_wrong += rf_picture_list_read(r->list, RF_SPLIT_ALL, i, &bytes, &n_bytes) != RF_OK ||
                      n_bytes != (int64_t)strlen(want) || memcmp(bytes, want, strlen(want)) != 0;
        rf_free(bytes);
    }
    return NULL;
}

static void threads_read_from_more_shards_than_stay_open(void **state)
{
    rf_picture_list *list = NULL;
    pthread_t threads[N_THREADS];
    reading r[N_THREADS];
    (void)state;
    for (int s = 0; s < N_MANY; s++) { /* three digits, so that names are in order of shards */
        rf_str tar = {0};
        char name[64], text[64];
        for (int i = 0; i < N_IN; i++) {
            snprintf(name, sizeof name, "%d.jpg", i);
            snprintf(text, sizeof text, "picture %d of %d", i, s);
            assert_ok(tar_put(&tar, name, text));
        }
        assert_ok(tar_end(&tar));
        snprintf(name, sizeof name, "s%03d.tar", s);
        put_file(scratch(name), tar.data, (size_t)tar.len);
        rf_str_fini(&tar);
    }
    assert_ok(open_at("s{000..149}.tar", &list));
    assert_int_equal(rf_picture_list_n(list, RF_SPLIT_ALL), N_MANY * N_IN);
    for (int i = 0; i < N_THREADS; i++) {
        r[i] = (reading){.list = list, .first = 100 * i};
        assert_int_equal(pthread_create(&threads[i], NULL, read_all, &r[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(r[i].n_wrong, 0);
    }
    rf_picture_list_close(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(samples_are_the_members_with_one_key),
        scratch_test(of_two_pictures_the_plain_one_and_the_first_counts),
        scratch_test(names_out_of_the_shard_are_only_names),
        scratch_test(braces_name_shards),
        scratch_test(what_a_folder_is_is_told_by_what_lies_in_it),
        scratch_test(hostile_shards_are_refused_with_their_place),
        scratch_test(a_json_without_a_label_says_none),
        scratch_test(a_shard_that_changed_is_noticed_when_it_is_read),
        scratch_test(threads_read_from_more_shards_than_stay_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
