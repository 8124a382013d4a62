/* What tests of encode share: problems with random numbers, codes, a run on so many threads, and
 * the canonical values that references are made of. */
#ifndef REFRACT_TESTS_ENCODE_FIXTURE_H
#define REFRACT_TESTS_ENCODE_FIXTURE_H

#include "refract/tensor.h"

#include <math.h>
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

typedef struct problem {
    int64_t n, d, f;
    float *x, *w, *b;
    uint8_t *valid, *eligible; /* NULL: all */
} problem;

static inline float *normals(uint64_t tag, int64_t n, float scale)
{
    float *x = rf_calloc(n + 4, sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i += 4) {
        rf_random_normal4(tag, RF_RANDOM_TEST, (uint64_t)i, 0, x + i);
    }
    for (int64_t i = 0; i < n; i++) {
        x[i] *= scale;
    }
    return x;
}

static inline problem make(uint64_t tag, int64_t n, int64_t d, int64_t f)
{
    return (problem){.n = n,
                     .d = d,
                     .f = f,
                     .x = normals(tag, n * d, 2.0f),
                     .w = normals(tag + 1, f * d, 0.3f),
                     .b = normals(tag + 2, f, 0.1f)};
}

static inline void unmake(problem *p)
{
    rf_free(p->x);
    rf_free(p->w);
    rf_free(p->b);
    rf_free(p->valid);
    rf_free(p->eligible);
}

static inline rf_codes make_codes(int64_t n, int64_t capacity)
{
    return (rf_codes){.n_rows = n,
                      .capacity = capacity,
                      .row_start = rf_calloc(n + 1, sizeof(int64_t)),
                      .latent = rf_calloc(capacity, sizeof(int32_t)),
                      .value = rf_calloc(capacity, sizeof(float)),
                      .d_value = rf_calloc(capacity, sizeof(float))};
}

static inline void unmake_codes(rf_codes *c)
{
    rf_free(c->row_start);
    rf_free(c->latent);
    rf_free(c->value);
    rf_free(c->d_value);
}

/* ---- running ------------------------------------------------------------------------------- */

static inline rf_encode_args args_of(const problem *p)
{
    return (rf_encode_args){.x = rf_view_2d(p->x, p->n, p->d),
                            .w_enc = rf_view_2d(p->w, p->f, p->d),
                            .b_enc = rf_view_1d(p->b, p->f),
                            .row_valid = p->valid,
                            .n_lists = 1};
}

static inline void run(const rf_encode_args *args, int n_threads)
{
    rf_backend *be;
    rf_stream *s;
    OK(rf_backend_cpu_create(n_threads, &be));
    OK(rf_stream_create(be, &s));
    OK(rf_encode(s, args));
    rf_stream_destroy(s);
    rf_backend_destroy(be);
}

static inline void same_codes(const rf_codes *a, const rf_codes *b, const char *what)
{
    int64_t n = b->row_start[b->n_rows];
    if (memcmp(a->row_start, b->row_start, sizeof(int64_t) * (size_t)(b->n_rows + 1)) != 0 ||
        memcmp(a->latent, b->latent, sizeof(int32_t) * (size_t)n) != 0 ||
        memcmp(a->value, b->value, sizeof(float) * (size_t)n) != 0) {
        fail_msg("%s: other codes than the reference", what);
    }
}

/* rf_dot + bias of every row and latent [n, f]; NaN, which no rule selects, where a row is not
 * valid or a latent not eligible. */
static inline float *canonical(const problem *p)
{
    float *h = rf_calloc(p->n * p->f, sizeof *h);
    assert_non_null(h);
    for (int64_t e = 0; e < p->n * p->f; e++) {
        int64_t r = e / p->f, i = e % p->f;
        bool may =
            (p->valid == NULL || p->valid[r] != 0) && (p->eligible == NULL || p->eligible[i] != 0);
        h[e] = may ? rf_dot(p->x + r * p->d, p->w + i * p->d, p->d) + p->b[i] : NAN;
    }
    return h;
}

/* The entries of h [n, f] that are marked. */
static inline rf_codes codes_where(const problem *p, const float *h, const bool *is_in)
{
    int64_t at = 0, n = 0;
    for (int64_t e = 0; e < p->n * p->f; e++) {
        n += is_in[e];
    }
    rf_codes codes = make_codes(p->n, n);
    for (int64_t e = 0; e < p->n * p->f; e++) {
        codes.row_start[e / p->f] = e % p->f == 0 ? at : codes.row_start[e / p->f];
        if (is_in[e]) {
            codes.latent[at] = (int32_t)(e % p->f);
            codes.value[at++] = h[e];
        }
    }
    codes.row_start[p->n] = at;
    return codes;
}

#endif
