#include "refract/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

static void numbers_of_statuses_are_pinned(void **state)
{
    static const rf_status in_order[] = {
        RF_OK,          RF_ERR_INVALID_ARG, RF_ERR_NO_MEMORY,   RF_ERR_IO,
        RF_ERR_FORMAT,  RF_ERR_UNSUPPORTED, RF_ERR_NOT_FOUND,   RF_ERR_SETTING,
        RF_ERR_NUMERIC, RF_ERR_COMM,        RF_ERR_INTERRUPTED, RF_ERR_BUG,
    };
    (void)state;
    for (int i = 0; i < 12; i++) {
        assert_int_equal(in_order[i], i);
        assert_true(strlen(rf_status_word(in_order[i])) > 0);
    }
    assert_string_equal(rf_status_word(RF_OK), "ok");
    assert_string_equal(rf_status_word((rf_status)99), "unknown status");
}

static rf_status refuse(int n)
{
    rf_status status = RF_OK;
    RF_REQUIRE(n > 0, "n = %d, expected > 0", n);
fail:
    return status;
}

static rf_status try_it(int n)
{
    rf_status status = RF_OK;
    RF_TRY_DOING(refuse(n), "trying %d", n);
    RF_BUG(n != 1, "n is one");
    RF_TRY(refuse(n - 2));
fail:
    return status;
}

static void the_macros_stop_at_the_first_failure_and_tell_it(void **state)
{
    (void)state;
    assert_int_equal(try_it(-1), RF_ERR_INVALID_ARG);
    assert_string_equal(rf_error_text(), "trying -1: n = -1, expected > 0");
    assert_non_null(strstr(rf_error_place(), "test_error.c:"));
    assert_int_equal(try_it(1), RF_ERR_BUG);
    assert_string_equal(rf_error_text(), "n is one");
    assert_int_equal(try_it(2), RF_ERR_INVALID_ARG);
    assert_string_equal(rf_error_text(), "n = 0, expected > 0");
    assert_int_equal(try_it(3), RF_OK);
}

static rf_status allocate(int64_t n)
{
    rf_status status = RF_OK;
    double *p = NULL;
    RF_ALLOC(p, n);
fail:
    rf_free(p);
    return status;
}

static void a_failed_allocation_is_a_status_with_a_text(void **state)
{
    (void)state;
    assert_int_equal(allocate(3), RF_OK);
    assert_int_equal(allocate(INT64_MAX), RF_ERR_NO_MEMORY);
    assert_string_equal(rf_error_text(), "cannot allocate 9223372036854775807 elements of 8 bytes");
    assert_int_equal(allocate(-1), RF_ERR_NO_MEMORY);
}

static void a_text_may_be_made_from_the_last_one(void **state)
{
    (void)state;
    rf_error_raise(RF_ERR_IO, "a/b/file.c", 7, "first");
    assert_string_equal(rf_error_place(), "file.c:7");
    assert_int_equal(rf_error_raise(RF_ERR_COMM, "file.c", 8, "second after %s", rf_error_text()),
                     RF_ERR_COMM);
    assert_string_equal(rf_error_text(), "second after first");
    rf_error_context("%s", rf_error_text());
    assert_string_equal(rf_error_text(), "second after first: second after first");
    assert_int_equal(rf_error_restore(RF_ERR_IO, rf_error_text()), RF_ERR_IO);
    assert_string_equal(rf_error_text(), "second after first: second after first");
    assert_string_equal(rf_error_place(), "");
}

static void long_texts_are_cut_and_still_end(void **state)
{
    char text[3 * RF_ERROR_TEXT_LEN];
    (void)state;
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    rf_error_raise(RF_ERR_IO, "f.c", 1, "%s", text);
    assert_int_equal(strlen(rf_error_text()), RF_ERROR_TEXT_LEN - 1);
    rf_error_context("context");
    assert_int_equal(strlen(rf_error_text()), RF_ERROR_TEXT_LEN - 1);
    assert_int_equal(strncmp(rf_error_text(), "context: xxx", 12), 0);
    rf_error_raise(RF_ERR_IO, "f.c", 1, "the cause");
    rf_error_context("%s", text); /* would push the cause out: left away */
    assert_string_equal(rf_error_text(), "the cause");
    for (size_t n = 500; n < 520; n++) { /* around half the room */
        text[n] = '\0';
        rf_error_raise(RF_ERR_IO, "f.c", 1, "the cause");
        rf_error_context("%s", text);
        assert_non_null(strstr(rf_error_text(), "the cause"));
        text[n] = 'x';
    }
}

static void *raise_elsewhere(void *arg)
{
    (void)arg;
    bool was_empty = rf_error_text()[0] == '\0';
    rf_error_raise(RF_ERR_IO, "f.c", 1, "of the other thread");
    return was_empty ? NULL : "not empty";
}

static void each_thread_has_its_own_text(void **state)
{
    pthread_t thread;
    void *result = NULL;
    (void)state;
    rf_error_raise(RF_ERR_IO, "f.c", 1, "of this thread");
    assert_int_equal(pthread_create(&thread, NULL, raise_elsewhere, NULL), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_null(result);
    assert_string_equal(rf_error_text(), "of this thread");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_of_statuses_are_pinned),
        cmocka_unit_test(the_macros_stop_at_the_first_failure_and_tell_it),
        cmocka_unit_test(a_failed_allocation_is_a_status_with_a_text),
        cmocka_unit_test(a_text_may_be_made_from_the_last_one),
        cmocka_unit_test(long_texts_are_cut_and_still_end),
        cmocka_unit_test(each_thread_has_its_own_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
