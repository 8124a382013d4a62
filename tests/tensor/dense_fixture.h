/* What tests of dense operations share: a backend with its stream, and random floats. */
#ifndef REFRACT_TESTS_DENSE_FIXTURE_H
#define REFRACT_TESTS_DENSE_FIXTURE_H

#include "refract/tensor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

typedef struct fixture {
    rf_backend *be;
    rf_stream *s;
} fixture;

static inline fixture open_threads(int n_threads)
{
    fixture f = {0};
    assert_int_equal(rf_backend_cpu_create(n_threads, &f.be), RF_OK);
    assert_int_equal(rf_stream_create(f.be, &f.s), RF_OK);
    return f;
}

static inline void close_threads(fixture f)
{
    rf_stream_destroy(f.s);
    rf_backend_destroy(f.be);
}

static inline float *random_floats(int64_t n, uint64_t seed)
{
    float *x = rf_calloc(n + 4, sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i += 4) {
        rf_random_normal4(seed, RF_RANDOM_TEST, (uint64_t)i, 0, x + i);
    }
    return x;
}

#endif
