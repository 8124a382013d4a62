/* What tests of coders share: one rank, a CPU backend, random rows, coders by a few numbers. */
#ifndef REFRACT_CODER_FIXTURE_H
#define REFRACT_CODER_FIXTURE_H

#include "refract/step.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s (%s)", #call, rf_error_text(), rf_error_place());                     \
        }                                                                                          \
    } while (0)

/* n normals, a function of `tag` and the index. */
static inline float *fixture_normals(uint64_t tag, int64_t n, float scale)
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

/* Rows made of few atoms of a dictionary of 3 d, and noise: something that a coder can learn. */
static inline float *fixture_planted(uint64_t tag, int64_t n, int64_t d)
{
    float *x = fixture_normals(tag, n * d, 0.05f), *atoms = fixture_normals(99, 3 * d * d, 1.0f);
    for (int64_t b = 0; b < n; b++) {
        for (uint64_t a = 0; a < 4; a++) {
            uint32_t u[4];
            rf_random_u32x4(tag, RF_RANDOM_TEST, (uint64_t)b, 1000 + a, u);
            int64_t atom = (int64_t)(u[0] % (uint32_t)(3 * d));
            float weight = 0.5f + (float)(u[1] % 1000) * 1e-3f;
            for (int64_t j = 0; j < d; j++) {
                x[b * d + j] += weight * atoms[atom * d + j] / sqrtf((float)d);
            }
        }
    }
    rf_free(atoms);
    return x;
}

static inline rf_coder_settings fixture_settings(const char *architecture, int64_t latents,
                                                 int64_t k)
{
    rf_coder_settings settings;
    OK(rf_settings_defaults(&rf_coder_settings_table, &settings));
    for (int i = 0; i < rf_architecture_count(); i++) {
        if (strcmp(rf_architecture_at(i)->name, architecture) == 0) {
            settings.architecture = i;
        }
    }
    settings.latents = latents;
    settings.k = (rf_k_by_class){.any = k};
    return settings;
}

/* A coder with what trains it, on one communicator. */
typedef struct fixture {
    rf_backend *be;
    rf_stream *s;
    rf_coder *coder;
    rf_optimiser *opt;
    rf_step *step;
    int64_t width, latents;
} fixture;

static inline fixture fixture_make_of(const rf_comm *comm, const rf_coder_settings *settings,
                                      const rf_coder_shape *shape, const rf_optimiser_opts *how,
                                      int64_t max_rows, int n_threads)
{
    fixture f = {0};
    rf_step_opts opts = {.max_rows = max_rows};
    OK(rf_backend_cpu_create(n_threads, &f.be));
    OK(rf_stream_create(f.be, &f.s));
    OK(rf_coder_create(f.be, settings, shape, &f.coder));
    OK(rf_optimiser_create(f.be, f.coder, how, &f.opt));
    const rf_coder *coders[] = {f.coder};
    OK(rf_step_create(f.be, comm, coders, 1, &opts, &f.step));
    f.latents = rf_coder_n_latents(f.coder);
    f.width = rf_coder_width(f.coder);
    return f;
}

/* An autoencoder of one site, with Adam. */
static inline fixture fixture_make(const rf_comm *comm, const rf_coder_settings *settings,
                                   int64_t width, int64_t max_rows, int n_threads)
{
    rf_coder_shape shape = rf_coder_shape_of(width);
    rf_optimiser_opts adam = {.kind = RF_OPTIMISER_ADAM};
    return fixture_make_of(comm, settings, &shape, &adam, max_rows, n_threads);
}

static inline void fixture_destroy(fixture *f)
{
    rf_step_destroy(f->step);
    rf_optimiser_destroy(f->opt);
    rf_coder_destroy(f->coder);
    rf_stream_destroy(f->s);
    rf_backend_destroy(f->be);
}

/* This rank's share of the rows of x [n, width]. */
static inline rf_token_batch fixture_batch(const rf_comm *comm, float *x, int64_t n, int64_t width,
                                           const uint8_t *valid)
{
    int64_t first, count, n_valid = n;
    rf_comm_share(n, RF_TOKEN_TILE, rf_comm_rank(comm), rf_comm_size(comm), &first, &count);
    for (int64_t i = 0; i < n && valid != NULL; i++) {
        n_valid -= valid[i] == 0;
    }
    return (rf_token_batch){.x = rf_view_2d(x + first * width, count, width),
                            .row_valid = valid == NULL ? NULL : valid + first,
                            .first_row = first,
                            .n_rows = n,
                            .n_valid = n_valid};
}

static inline float *fixture_floats(const fixture *f, int idx)
{
    return rf_coder_view(f->coder, idx).data;
}

static inline int64_t fixture_len(const fixture *f, int idx)
{
    rf_view v = rf_coder_view(f->coder, idx);
    return rf_view_n_elems(&v);
}

/* |a - b| / |b| over n elements, in double. */
static inline double fixture_distance(const float *a, const float *b, int64_t n)
{
    double num = 0.0, den = 0.0;
    for (int64_t i = 0; i < n; i++) {
        num += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        den += (double)b[i] * (double)b[i];
    }
    return sqrt(num) / (sqrt(den) + 1e-300);
}

/* Rates under which Adam's first moment is the gradient itself and nothing moves. */
static inline rf_step_rates fixture_gradient_rates(void)
{
    rf_step_rates rates = rf_step_rates_default();
    rates.lr = 0.0;
    rates.beta1 = 0.0;
    rates.clip_norm = 0.0;
    return rates;
}

/* The moment of parameter `idx`, or NULL where there is none. */
static inline const float *fixture_gradient(const fixture *f, int idx)
{
    char name[64];
    OK(rf_format(name, sizeof name, "m/%s", rf_coder_tensor_at(f->coder, idx).name));
    for (int i = 0; i < rf_optimiser_n_tensors(f->opt); i++) {
        if (strcmp(rf_optimiser_tensor_name(f->opt, i), name) == 0) {
            return rf_optimiser_tensor_view(f->opt, i).data;
        }
    }
    return NULL;
}

#endif
