#include "scratch.h"

#include <signal.h>
#include <sys/resource.h>

static void limit_file_size(rlim_t bytes)
{
    struct rlimit limit = {.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void a_file_appears_only_when_it_is_committed(void **state)
{
    rf_atomic_file *f = NULL;
    (void)state;
    put_text(scratch("a"), "old");
    assert_ok(rf_atomic_file_create(scratch("a"), &f));
    assert_string_equal(rf_atomic_file_temp_path(f), scratch("a.tmp"));
    assert_ok(rf_atomic_file_write(f, "new ", 4));
    assert_ok(rf_atomic_file_write(f, "", 0));
    assert_ok(rf_atomic_file_write(f, "text", 4));
    assert_file_is(scratch("a"), "old");
    assert_ok(rf_atomic_file_commit(f));
    assert_file_is(scratch("a"), "new text");
    assert_false(rf_file_exists(scratch("a.tmp")));
}

static void an_abandoned_file_leaves_the_old_one(void **state)
{
    rf_atomic_file *f = NULL;
    (void)state;
    put_text(scratch("a"), "old");
    assert_ok(rf_atomic_file_create(scratch("a"), &f));
    assert_ok(rf_atomic_file_write(f, "new", 3));
    rf_atomic_file_abandon(f);
    rf_atomic_file_abandon(NULL);
    assert_file_is(scratch("a"), "old");
    assert_false(rf_file_exists(scratch("a.tmp")));
}

static void what_a_killed_writer_left_is_overwritten(void **state)
{
    (void)state;
    put_text(scratch("a.tmp"), "a long rest of an earlier try");
    assert_ok(rf_file_write_atomic(scratch("a"), "x", 1));
    assert_file_is(scratch("a"), "x");
}

static void a_file_that_does_not_fit_leaves_the_old_one_whole(void **state)
{
    static char large[5000];
    (void)state;
    put_text(scratch("a"), "old");
    limit_file_size(4096);
    rf_status status = rf_file_write_atomic(scratch("a"), large, sizeof large);
    limit_file_size(RLIM_INFINITY);
    assert_refused(status, RF_ERR_IO, "/a': File too large");
    assert_file_is(scratch("a"), "old");
    assert_false(rf_file_exists(scratch("a.tmp")));
}

static void a_full_disk_is_said_with_its_folder(void **state)
{
    char expected[600];
    (void)state;
    if (access("/dev/full", W_OK) != 0) {
        skip();
    }
    assert_int_equal(symlink("/dev/full", scratch("a.tmp")), 0);
    snprintf(expected, sizeof expected, "the disk that holds '%s' is full", scratch_folder);
    assert_refused(rf_file_write_atomic(scratch("a"), "text", 4), RF_ERR_IO, expected);
    assert_false(rf_file_exists(scratch("a")));
}

static void refuses_a_missing_folder_and_a_folder_as_target(void **state)
{
    (void)state;
    assert_refused(rf_file_write_atomic(scratch("none/a"), "x", 1), RF_ERR_NOT_FOUND, "none/a.tmp");
    assert_ok(rf_file_make_dirs(scratch("dir")));
    assert_refused(rf_file_write_atomic(scratch("dir"), "x", 1), RF_ERR_IO, "/dir'");
    assert_false(rf_file_exists(scratch("dir.tmp")));
}

static void commits_a_file_that_a_library_wrote(void **state)
{
    (void)state;
    put_text(scratch("a.part"), "new");
    put_text(scratch("a"), "old");
    assert_ok(rf_file_commit(scratch("a.part"), scratch("a")));
    assert_file_is(scratch("a"), "new");
    assert_false(rf_file_exists(scratch("a.part")));
    assert_refused(rf_file_commit(scratch("a.part"), scratch("a")), RF_ERR_NOT_FOUND, "a.part");
}

static void leaves_no_memory_behind(void **state)
{
    (void)state;
    assert_int_equal(rf_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_file_appears_only_when_it_is_committed),
        scratch_test(an_abandoned_file_leaves_the_old_one),
        scratch_test(what_a_killed_writer_left_is_overwritten),
        scratch_test(a_file_that_does_not_fit_leaves_the_old_one_whole),
        scratch_test(a_full_disk_is_said_with_its_folder),
        scratch_test(refuses_a_missing_folder_and_a_folder_as_target),
        scratch_test(commits_a_file_that_a_library_wrote),
        cmocka_unit_test(leaves_no_memory_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
