/* The same list on every rank and for any number of ranks, who share the work of looking into
 * shards. */
#include "picture_sources.h"

#include "refract/comm.h"

static rf_comm *world;

/* Rank 0 makes a folder; all know its name. */
static int begin(void **state)
{
    int failed = rf_comm_rank(world) == 0 ? scratch_begin(state) : 0;
    failed |= rf_comm_bcast(world, scratch_folder, sizeof scratch_folder, 0) != RF_OK;
    return failed;
}

static int end(void **state)
{
    const bool ok = rf_comm_barrier(world) == RF_OK;
    return (rf_comm_rank(world) == 0 ? scratch_end(state) : 0) | !ok;
}

static void assert_same(const rf_picture_list *a, const rf_picture_list *b)
{
    const int64_t n = rf_picture_list_n(a, RF_SPLIT_ALL);
    assert_int_equal(rf_picture_list_n(b, RF_SPLIT_ALL), n);
    assert_int_equal(rf_picture_list_n(b, RF_SPLIT_HELD_OUT),
                     rf_picture_list_n(a, RF_SPLIT_HELD_OUT));
    assert_int_equal(rf_picture_list_n_classes(b), rf_picture_list_n_classes(a));
    assert_true(rf_picture_list_hash(a) == rf_picture_list_hash(b));
    for (int64_t i = 0; i < n; i++) {
        char *x = NULL, *y = NULL;
        int64_t n_x = 0, n_y = 0;
        assert_string_equal(rf_picture_list_name(a, RF_SPLIT_ALL, i),
                            rf_picture_list_name(b, RF_SPLIT_ALL, i));
        assert_int_equal(rf_picture_list_label(a, RF_SPLIT_ALL, i),
                         rf_picture_list_label(b, RF_SPLIT_ALL, i));
        assert_int_equal(rf_picture_list_bytes(a, RF_SPLIT_ALL, i),
                         rf_picture_list_bytes(b, RF_SPLIT_ALL, i));
        assert_ok(rf_picture_list_read(a, RF_SPLIT_ALL, i, &x, &n_x));
        assert_ok(rf_picture_list_read(b, RF_SPLIT_ALL, i, &y, &n_y));
        assert_int_equal(n_x, n_y);
        assert_memory_equal(x, y, (size_t)n_x);
        rf_free(x);
        rf_free(y);
    }
}

/* More shards than ranks, fewer, one; an empty one among them. */
static void all_ranks_get_the_list_that_one_alone_makes(void **state)
{
    static const struct {
        const char *name;
        int n_shards, n;
    } cases[] = {{"many", 11, 13}, {"two", 2, 5}, {"one", 1, 1}};
    (void)state;
    int64_t live = rf_alloc_live();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (rf_comm_rank(world) == 0) {
            put_shards(cases[i].name, cases[i].n_shards, cases[i].n);
            put_shard("many/t.tar", (const char *const[]){NULL});
        }
        assert_ok(rf_comm_barrier(world));
        rf_picture_list *alone = NULL, *together = NULL;
        rf_picture_list_opts opts = {.path = scratch(cases[i].name), .holdout = 0.3, .seed = 5};
        for (int64_t max = 0; max <= 7; max += 7) {
            opts.max_pictures = max;
            opts.comm = NULL;
            assert_ok(rf_picture_list_open(&opts, &alone));
            opts.comm = world;
            assert_ok(rf_picture_list_open(&opts, &together));
            if (max == 0) {
                assert_int_equal(rf_picture_list_n(alone, RF_SPLIT_ALL),
                                 cases[i].n_shards * cases[i].n);
            }
            assert_same(alone, together);
            rf_picture_list_close(alone);
            rf_picture_list_close(together);
        }
    }
    assert_int_equal(rf_alloc_live(), live);
}

/* Whichever rank looks into it. */
static void a_damaged_shard_fails_on_all_ranks_with_its_name(void **state)
{
    (void)state;
    int64_t live = rf_alloc_live();
    if (rf_comm_rank(world) == 0) {
        put_shards("bad", 7, 3);
    }
    for (int s = 0; s < 7; s++) {
        char name[32];
        rf_picture_list *list = NULL;
        snprintf(name, sizeof name, "s-%02d.tar", s);
        if (rf_comm_rank(world) == 0) {
            put_shards("bad", 7, 3);
            char path[64];
            snprintf(path, sizeof path, "bad/%s", name);
            put_text(scratch(path), "cut");
        }
        assert_ok(rf_comm_barrier(world));
        const rf_picture_list_opts opts = {.path = scratch("bad"), .comm = world};
        assert_refused(rf_picture_list_open(&opts, &list), RF_ERR_FORMAT, name);
        assert_null(list);
        assert_ok(rf_comm_barrier(world));
    }
    assert_int_equal(rf_alloc_live(), live);
}

/* Each rank names another folder, as where a disk is not shared. */
static void ranks_that_see_other_shards_say_so(void **state)
{
    (void)state;
    rf_picture_list *list = NULL;
    if (rf_comm_rank(world) == 0) {
        put_shards("here", 3, 2);
        put_shards("there", 2, 2);
        put_at("classes/a/1.jpg", "");
    }
    assert_ok(rf_comm_barrier(world));
    const bool is_last = rf_comm_rank(world) == rf_comm_size(world) - 1;
    const char *const others[] = {"there", "classes", "nowhere"};
    for (int i = 0; rf_comm_size(world) > 1 && i < 3; i++) {
        const rf_picture_list_opts opts = {.path = scratch(is_last ? others[i] : "here"),
                                           .comm = world};
        assert_refused(rf_picture_list_open(&opts, &list),
                       i == 2 ? RF_ERR_NOT_FOUND : RF_ERR_SETTING,
                       i == 2 ? "nowhere" : "same files");
        assert_null(list);
    }
}

static void other_sources_open_together_too(void **state)
{
    (void)state;
    if (rf_comm_rank(world) == 0) {
        put_at("folder/b/2.png", "2");
        put_at("folder/a/1.png", "1");
        put_at("folder.csv", "folder/b/2.png,b\nfolder/a/1.png,a\n");
    }
    assert_ok(rf_comm_barrier(world));
    const char *const paths[] = {"folder", "folder.csv"};
    for (int i = 0; i < 2; i++) {
        rf_picture_list *alone = NULL, *together = NULL;
        rf_picture_list_opts opts = {.path = scratch(paths[i])};
        assert_ok(rf_picture_list_open(&opts, &alone));
        opts.comm = world;
        assert_ok(rf_picture_list_open(&opts, &together));
        assert_same(alone, together);
        rf_picture_list_close(alone);
        rf_picture_list_close(together);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_ranks_get_the_list_that_one_alone_makes, begin, end),
        cmocka_unit_test_setup_teardown(a_damaged_shard_fails_on_all_ranks_with_its_name, begin,
                                        end),
        cmocka_unit_test_setup_teardown(ranks_that_see_other_shards_say_so, begin, end),
        cmocka_unit_test_setup_teardown(other_sources_open_together_too, begin, end),
    };
    int n_failed = 1;
    if (rf_comm_start(&argc, &argv, &world) == RF_OK) {
        n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    }
    rf_comm_finish(world);
    return n_failed;
}
