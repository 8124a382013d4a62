#include "refract/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static bool is_zero(const unsigned char *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (p[i] != 0) {
            return false;
        }
    }
    return true;
}

static void blocks_are_zeroed_and_aligned(void **state)
{
    static const int64_t sizes[] = {0, 1, 63, 64, 65, 4097, 1 << 20};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int again = 0; again < 2; again++) { /* the second may be given the first's memory */
            unsigned char *p = rf_calloc(sizes[i], 1);
            assert_non_null(p);
            assert_int_equal((uintptr_t)p % 64, 0);
            assert_true(is_zero(p, sizes[i]));
            memset(p, 0xff, (size_t)sizes[i]);
            rf_free(p);
        }
    }
}

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    assert_null(rf_calloc(-1, 1));
    assert_null(rf_calloc(INT64_MAX, 8));
    assert_null(rf_calloc(INT64_C(1) << 61, 8));
    assert_null(rf_calloc((INT64_C(1) << 61) - 1, 8)); /* the padding would overflow */
    assert_null(rf_calloc(1, 0));
    assert_non_null(strstr(rf_error_text(), "cannot allocate"));
}

static void growing_keeps_what_was_there_and_zeroes_the_rest(void **state)
{
    int32_t *p = NULL;
    (void)state;
    p = rf_realloc(p, 0, 3, sizeof *p);
    assert_non_null(p);
    for (int32_t i = 0; i < 3; i++) {
        p[i] = i + 1;
    }
    p = rf_realloc(p, 3, 1000, sizeof *p);
    assert_true(p[0] == 1 && p[2] == 3);
    assert_true(is_zero((unsigned char *)(p + 3), 997 * 4));
    p = rf_realloc(p, 1000, 2, sizeof *p);
    assert_true(p[0] == 1 && p[1] == 2);
    assert_null(rf_realloc(p, 2, -1, sizeof *p));
    assert_true(p[1] == 2); /* the old block stays valid */
    rf_free(p);
}

static void live_blocks_are_counted(void **state)
{
    int64_t before = rf_alloc_live();
    (void)state;
    void *a = rf_calloc(1, 1), *b = rf_calloc(0, 8);
    assert_int_equal(rf_alloc_live(), before + 2);
    a = rf_realloc(a, 1, 100, 1);
    assert_int_equal(rf_alloc_live(), before + 2);
    rf_free(a);
    rf_free(b);
    rf_free(NULL);
    assert_int_equal(rf_alloc_live(), before);
    assert_null(rf_calloc(-1, 1));
    assert_int_equal(rf_alloc_live(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_zeroed_and_aligned),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(growing_keeps_what_was_there_and_zeroes_the_rest),
        cmocka_unit_test(live_blocks_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
