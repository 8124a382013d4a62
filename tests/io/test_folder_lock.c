#include "scratch.h"

#include <fcntl.h>
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

/* ---- of one file -------------------------------------------------------------------------------
 */

static void a_files_lock_is_told_and_goes_with_its_release(void **state)
{
    rf_folder_lock *lock = NULL, *second = NULL;
    char expected[128];
    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_ok(rf_folder_lock_take_file(scratch("a.h5"), &lock));
        snprintf(expected, sizeof expected, "/a.h5' is being written by process %ld on ",
                 (long)getpid());
        assert_refused(rf_folder_lock_take_file(scratch("a.h5"), &second), RF_ERR_IO, expected);
        assert_refused(rf_folder_lock_take_file(scratch("a.h5"), &second), RF_ERR_IO,
                       "choose another file");
        rf_folder_lock_release(lock);
        assert_false(rf_file_exists(scratch("a.h5.lock")));
    }
    assert_refused(rf_folder_lock_take_file(scratch("none/a.h5"), &lock), RF_ERR_NOT_FOUND,
                   "none/a.h5.lock");
    assert_int_equal(rf_alloc_live(), 0);
}

/* As many processes as there are, one after the other, each with the lock's file new or not: never
 * two at once. */
static void of_many_that_want_a_file_one_has_it(void **state)
{
    enum { PROCESSES = 4, TURNS = 200 };
    pid_t pids[PROCESSES];
    (void)state;
    for (int p = 0; p < PROCESSES; p++) {
        pids[p] = fork();
        assert_true(pids[p] >= 0);
        if (pids[p] == 0) {
            for (int done = 0; done < TURNS;) {
                rf_folder_lock *lock = NULL;
                if (rf_folder_lock_take_file(scratch("a.h5"), &lock) == RF_OK) {
                    const int fd = open(scratch("mine"), O_CREAT | O_EXCL, 0600);
                    if (fd < 0) {
                        _exit(1); /* another one is in here */
                    }
                    close(fd);
                    remove(scratch("mine"));
                    rf_folder_lock_release(lock);
                    done++;
                }
            }
            _exit(0);
        }
    }
    for (int p = 0; p < PROCESSES; p++) {
        int result = 0;
        assert_int_equal(waitpid(pids[p], &result, 0), pids[p]);
        assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_second_process_is_refused_and_told_the_first),
        scratch_test(the_lock_goes_with_a_killed_process),
        scratch_test(a_released_lock_can_be_taken_again),
        scratch_test(a_holder_without_a_name_is_told_too),
        scratch_test(a_missing_folder_is_named),
        scratch_test(a_files_lock_is_told_and_goes_with_its_release),
        scratch_test(of_many_that_want_a_file_one_has_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
