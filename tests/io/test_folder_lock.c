#include "scratch.h"

#include <signal.h>
#include <sys/wait.h>

/* A process that holds the lock until it is killed; returns when it has it. */
static pid_t start_holder(void)
{
    int ready[2];
    char byte = 0;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        rf_folder_lock *lock = NULL;
        byte = rf_folder_lock_take(scratch_folder, &lock) == RF_OK ? 'y' : 'n';
        (void)!write(ready[1], &byte, 1);
        for (;;) {
            pause();
        }
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    assert_int_equal(byte, 'y');
    return pid;
}

static void a_second_process_is_refused_and_told_the_first(void **state)
{
    rf_folder_lock *lock = NULL;
    char expected[600], host[128] = "";
    (void)state;
    pid_t pid = start_holder();
    gethostname(host, sizeof host - 1);
    snprintf(expected, sizeof expected, "'%s' is being written by process %ld on %s;",
             scratch_folder, (long)pid, host);
    assert_refused(rf_folder_lock_take(scratch_folder, &lock), RF_ERR_IO, expected);
    assert_null(lock);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void the_lock_goes_with_a_killed_process(void **state)
{
    rf_folder_lock *lock = NULL;
    (void)state;
    pid_t pid = start_holder();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_ok(rf_folder_lock_take(scratch_folder, &lock));
    rf_folder_lock_release(lock);
}

static void a_released_lock_can_be_taken_again(void **state)
{
    rf_folder_lock *lock = NULL, *second = NULL;
    (void)state;
    assert_ok(rf_folder_lock_take(scratch_folder, &lock));
    assert_refused(rf_folder_lock_take(scratch_folder, &second), RF_ERR_IO, "is being written by");
    rf_folder_lock_release(lock);
    assert_ok(rf_folder_lock_take(scratch_folder, &lock));
    rf_folder_lock_release(lock);
    rf_folder_lock_release(NULL);
}

static void a_holder_without_a_name_is_told_too(void **state)
{
    rf_folder_lock *lock = NULL, *second = NULL;
    (void)state;
    assert_ok(rf_folder_lock_take(scratch_folder, &lock));
    put_text(scratch(".lock"), "garbage");
    assert_refused(rf_folder_lock_take(scratch_folder, &second), RF_ERR_IO, "by another process");
    rf_folder_lock_release(lock);
}

static void a_missing_folder_is_named(void **state)
{
    rf_folder_lock *lock = NULL;
    (void)state;
    assert_refused(rf_folder_lock_take(scratch("none"), &lock), RF_ERR_NOT_FOUND, "none/.lock");
    assert_int_equal(rf_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_second_process_is_refused_and_told_the_first),
        scratch_test(the_lock_goes_with_a_killed_process),
        scratch_test(a_released_lock_can_be_taken_again),
        scratch_test(a_holder_without_a_name_is_told_too),
        scratch_test(a_missing_folder_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
