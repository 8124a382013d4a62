/* What tests of operations on codes share: streams of several numbers of threads, ragged codes, and
 * gradients by latent as the header defines them. */
#ifndef REFRACT_TESTS_CODES_FIXTURE_H
#define REFRACT_TESTS_CODES_FIXTURE_H

#include "../../src/tensor/coder_ops_impl.h"

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

static const int thread_counts[] = {1, 2, 5};
enum { N_THREAD_COUNTS = 3 };

static rf_backend *backends[N_THREAD_COUNTS];
static rf_stream *streams[N_THREAD_COUNTS];

static inline int open_streams(void **state)
{
    (void)state;
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        if (rf_backend_cpu_create(thread_counts[t], &backends[t]) != RF_OK ||
            rf_stream_create(backends[t], &streams[t]) != RF_OK) {
            return -1;
        }
    }
    return 0;
}

static inline int close_streams(void **state)
{
    (void)state;
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        rf_stream_destroy(streams[t]);
        rf_backend_destroy(backends[t]);
    }
    return 0;
}

static inline float *normals(uint64_t tag, int64_t n)
{
    float *x = rf_calloc(n + 4, sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i += 4) {
        rf_random_normal4(tag, RF_RANDOM_TEST, (uint64_t)i, 0, x + i);
    }
    return x;
}

/* Codes with ragged rows: some empty, some full, latents rising; latent 0 in every row that has
 * one. */
static inline rf_codes ragged_codes(int64_t n, int64_t f, int64_t most)
{
    rf_codes c = {.n_rows = n, .capacity = n * most};
    c.row_start = rf_calloc(n + 1, sizeof *c.row_start);
    c.latent = rf_calloc(c.capacity, sizeof *c.latent);
    c.value = rf_calloc(c.capacity, sizeof *c.value);
    c.d_value = rf_calloc(c.capacity, sizeof *c.d_value);
    int64_t at = 0;
    for (int64_t b = 0; b < n; b++) {
        int64_t count = b % 5 == 4 ? 0 : 1 + (b * 7) % most;
        c.row_start[b] = at;
        for (int64_t j = 0; j < count; j++, at++) {
            c.latent[at] = (int32_t)(j * f / most);
            c.value[at] = 0.1f + (float)((at * 37) % 101) * 0.01f;
            c.d_value[at] = (float)((at * 53) % 89 - 44) * 0.01f;
        }
    }
    c.row_start[n] = at;
    return c;
}

static inline void free_codes(rf_codes *c)
{
    rf_free(c->row_start);
    rf_free(c->latent);
    rf_free(c->value);
    rf_free(c->d_value);
}

static inline rf_latent_index make_index(int64_t f, int64_t capacity)
{
    return (rf_latent_index){.n_latents = f,
                             .capacity = capacity,
                             .latent_start = rf_calloc(f + 1, sizeof(int64_t)),
                             .entry = rf_calloc(capacity, sizeof(int32_t)),
                             .row = rf_calloc(capacity, sizeof(int32_t))};
}

static inline void free_index(rf_latent_index *i)
{
    rf_free(i->latent_start);
    rf_free(i->entry);
    rf_free(i->row);
}

static inline void same_floats(const float *got, const float *want, int64_t n, const char *what)
{
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(got + i, want + i, sizeof *got) != 0) {
            fail_msg("%s: element %d is %.9g, expected %.9g", what, (int)i, (double)got[i],
                     (double)want[i]);
        }
    }
}

/* Of latent i: its group, or 0 where there are none. */
static inline int64_t group_of(const rf_latent_groups *groups, int64_t i)
{
    int q = 0;
    while (q < groups->n && i >= groups->end[q]) {
        q++;
    }
    return q;
}

typedef struct gradients {
    float *enc, *bias, *dec;
    double squares;
} gradients;

static inline void free_gradients(gradients *g)
{
    rf_free(g->enc);
    rf_free(g->bias);
    rf_free(g->dec);
}

/* Entries of latent i in token order, list after list, added to what `sums` holds; the views of the
 * gradients in `args` are not used. */
static inline void add_by_definition(const rf_by_latent_args *args, int64_t f, int64_t d_out,
                                     gradients *sums)
{
    int64_t d_in = args->x.shape[1];
    for (int l = 0; l < args->n_lists; l++) {
        const rf_codes *codes = args->codes[l];
        for (int64_t b = 0; b < codes->n_rows; b++) {
            const float *x = rf_row(&args->x, b);
            for (int64_t e = codes->row_start[b]; e < codes->row_start[b + 1]; e++) {
                int64_t i = codes->latent[e], q = group_of(&args->groups[l], i);
                for (int64_t j = 0; j < d_in; j++) {
                    sums->enc[i * d_in + j] =
                        fmaf(codes->d_value[e], x[j], sums->enc[i * d_in + j]);
                }
                for (int64_t j = 0; args->g[l].data != NULL && j < d_out; j++) {
                    sums->dec[i * d_out + j] =
                        fmaf(codes->value[e], rf_row(&args->g[l], b)[q * d_out + j],
                             sums->dec[i * d_out + j]);
                }
                sums->bias[i] += codes->d_value[e];
            }
        }
    }
    double block = 0.0; /* of 256 latents */
    sums->squares = 0.0;
    for (int64_t i = 0; i < f; i++) {
        block += (double)rf_dot(sums->enc + i * d_in, sums->enc + i * d_in, d_in) +
                 (double)rf_dot(sums->dec + i * d_out, sums->dec + i * d_out, d_out) +
                 (double)sums->bias[i] * (double)sums->bias[i];
        if (i % 256 == 255 || i + 1 == f) {
            sums->squares += block;
            block = 0.0;
        }
    }
}

static inline gradients zero_gradients(int64_t f, int64_t d_in, int64_t d_out)
{
    return (gradients){.enc = rf_calloc(f * d_in, sizeof(float)),
                       .bias = rf_calloc(f, sizeof(float)),
                       .dec = rf_calloc(f * d_out, sizeof(float))};
}

#endif
