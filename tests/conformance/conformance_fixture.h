/* What conformance tests share: a backend that is a shadow (shadow_wrap.c), shapes that matter to
 * devices, and arrays of random numbers that go when a test ends. A test only calls operations: the
 * shadow compares what they leave. */
#ifndef REFRACT_TESTS_CONFORMANCE_FIXTURE_H
#define REFRACT_TESTS_CONFORMANCE_FIXTURE_H

#include "shadow.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)

static rf_backend *be;
static rf_stream *s;

enum { MAX_BLOCKS = 4096 };
static void *blocks[MAX_BLOCKS];
static int n_blocks;

/* Tiny, ragged, one short of and one past a warp, a block, and the most threads of one; none; the
 * widths of transformers and of dictionaries. */
static const int64_t shapes[][2] = {{1, 1},    {3, 7},   {33, 31},  {31, 33},
                                    {2, 255},  {257, 3}, {5, 1025}, {1, 1536},
                                    {1025, 2}, {0, 5},   {3, 4100}, {65, 257}};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static inline int open_backend(void **state)
{
    (void)state;
    return rf_backend_cpu_create(1, &be) == RF_OK && rf_stream_create(be, &s) == RF_OK ? 0 : -1;
}

static inline int close_backend(void **state)
{
    (void)state;
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    return 0;
}

static inline int forget(void **state)
{
    (void)state;
    while (n_blocks > 0) {
        rf_free(blocks[--n_blocks]);
    }
    return 0;
}

static inline void *block(int64_t n, size_t elem_bytes)
{
    assert_true(n_blocks < MAX_BLOCKS);
    void *p = rf_calloc(n, elem_bytes);
    assert_non_null(p);
    blocks[n_blocks++] = p;
    return p;
}

/* Normal numbers, others at each call. */
static inline float *floats(int64_t n)
{
    static uint64_t tag;
    float *x = block(n + 4, sizeof *x);
    tag++;
    for (int64_t i = 0; i < n; i += 4) {
        rf_random_normal4(tag, RF_RANDOM_TEST, (uint64_t)i, 0, x + i);
    }
    return x;
}

static inline rf_view vector(int64_t n)
{
    return rf_view_1d(floats(n), n);
}

static inline rf_view matrix(int64_t n, int64_t d)
{
    return rf_view_2d(floats(n * d), n, d);
}

/* Rows that are `gap` elements apart, and do not begin where memory does. */
static inline rf_view apart(int64_t n, int64_t d, int64_t gap)
{
    rf_view v = rf_view_2d(floats(n * (d + gap) + 3) + 3, n, d);
    v.stride[0] = d + gap;
    return v;
}

static inline rf_view positive(rf_view v)
{
    for (int64_t i = 0; i < rf_view_n_elems(&v); i++) {
        float *x = (float *)v.data + i;
        *x = 0.2f + (*x < 0.0f ? -*x : *x);
    }
    return v;
}

static inline rf_view counters(int64_t n)
{
    return rf_view_nd(block(n, sizeof(int64_t)), RF_I64, 1, &n);
}

static inline rf_view four(int64_t a, int64_t b, int64_t c, int64_t d)
{
    return rf_view_nd(floats(a * b * c * d), RF_F32, 4, (int64_t[]){a, b, c, d});
}

/* 1 but for every third. */
static inline uint8_t *flags(int64_t n)
{
    uint8_t *p = block(n, 1);
    for (int64_t i = 0; i < n; i++) {
        p[i] = i % 3 != 1;
    }
    return p;
}

static const rf_view none;

/* The last test of a program: the shadow did compare each operation of the family. */
static inline void assert_compared(rf_shadow_family family)
{
    for (int i = 0; rf_shadow_op_name(i) != NULL; i++) {
        const char *op = rf_shadow_op_name(i);
        if (rf_shadow_op_family(i) == family && rf_shadow_n_compared(op) == 0) {
            fail_msg("%s was not compared: is this linked as shadow_wrap.c says?", op);
        }
    }
}

#endif
