/* A folder of its own for each test, and the check that a call was refused with a certain text. */
#ifndef REFRACT_TESTS_SCRATCH_H
#define REFRACT_TESTS_SCRATCH_H

#include "refract/io.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <ftw.h>
#include <unistd.h>

static char scratch_folder[256];

static int scratch_remove(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info;
    (void)kind;
    (void)place;
    return remove(path);
}

static inline int scratch_begin(void **state)
{
    const char *base = getenv("TMPDIR");
    (void)state;
    snprintf(scratch_folder, sizeof scratch_folder, "%s/refract-XXXXXX",
             base != NULL ? base : "/tmp");
    return mkdtemp(scratch_folder) == NULL;
}

static inline int scratch_end(void **state)
{
    (void)state;
    return nftw(scratch_folder, scratch_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* `name` in the test's folder; the text lives for the next seven calls. */
static inline const char *scratch(const char *name)
{
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", scratch_folder, name);
    return path;
}

static inline void put_file(const char *path, const void *bytes, size_t n_bytes)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n_bytes, f), n_bytes);
    assert_int_equal(fclose(f), 0);
}

static inline void put_text(const char *path, const char *text)
{
    put_file(path, text, strlen(text));
}

static inline void assert_file_is(const char *path, const char *text)
{
    char *got = NULL;
    int64_t n_bytes = 0;
    assert_int_equal(rf_file_read(path, 1 << 24, &got, &n_bytes), RF_OK);
    assert_int_equal(n_bytes, strlen(text));
    assert_string_equal(got, text);
    rf_free(got);
}

#define assert_refused(call, expected_status, expected_text)                                       \
    do {                                                                                           \
        assert_int_equal((call), (expected_status));                                               \
        if (strstr(rf_error_text(), (expected_text)) == NULL) {                                    \
            fail_msg("the error says \"%s\", expected \"%s\" in it", rf_error_text(),              \
                     (expected_text));                                                             \
        }                                                                                          \
    } while (0)
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)
#define scratch_test(f) cmocka_unit_test_setup_teardown(f, scratch_begin, scratch_end)

#endif
