/* Coders that are small enough to be worked out by hand: latent i of the first four reads and
 * writes dimension i, latents 4 .. 7 the same with the sign turned. */
#ifndef REFRACT_SMALL_CODER_H
#define REFRACT_SMALL_CODER_H

#include "coder/coder_fixture.h"

#define FOR_BOTH_PATHS(is_dense) for (int is_dense = 0; is_dense < 2; is_dense++)

static rf_comm *comm; /* of the test that includes this */

enum { D = 4, F = 8, B = 6 };

static inline rf_coder_settings settings_of(const char *architecture)
{
    rf_coder_settings s = fixture_settings(architecture, F, 2);
    s.aux_alpha = 0.0;
    s.l1 = 0.0;
    s.l0 = 0.0;
    s.bandwidth = 0.1;
    s.dead_after_tokens = 1000;
    return s;
}

static inline float *floats(const fixture *f, int idx)
{
    return rf_coder_view(f->coder, idx).data;
}

static inline void set_all(const fixture *f, int idx, float value)
{
    for (int64_t i = 0; i < fixture_len(f, idx); i++) {
        floats(f, idx)[i] = value;
    }
}

static inline void set_scalar(const fixture *f, int idx, float value)
{
    rf_coder_state state;
    OK(rf_coder_get_state(f->coder, f->s, &state));
    state.scalars[idx] = value;
    OK(rf_coder_set_state(f->coder, f->s, &state));
}

static inline void take_path(const fixture *f, bool is_dense)
{
    rf_coder_state state;
    OK(rf_coder_get_state(f->coder, f->s, &state));
    state.counters[RF_COUNTER_DENSE] = is_dense;
    OK(rf_coder_set_state(f->coder, f->s, &state));
}

/* V = 1, thresholds 0.5, biases 0, magnitudes those of the gate. */
static inline fixture make(const rf_coder_settings *settings, const rf_coder_shape *shape)
{
    const rf_optimiser_opts adam = {.kind = RF_OPTIMISER_ADAM};
    fixture f = fixture_make_of(comm, settings, shape, &adam, B, 1);
    for (int i = 0; i < F; i++) {
        floats(&f, RF_CODER_W_ENC)[i * D + i % D] = i < D ? 1.0f : -1.0f;
        floats(&f, RF_CODER_W_DEC)[i * D + i % D] = i < D ? 1.0f : -1.0f;
        if (rf_coder_has(f.coder, RF_CODER_LOG_THRESHOLD)) {
            floats(&f, RF_CODER_LOG_THRESHOLD)[i] = logf(0.5f);
        }
    }
    set_scalar(&f, RF_SCALAR_VARIANCE, 1.0f);
    set_scalar(&f, RF_SCALAR_RMS, 1.0f);
    return f;
}

static inline fixture make_autoencoder(const rf_coder_settings *settings)
{
    const rf_coder_shape shape = rf_coder_shape_of(D);
    return make(settings, &shape);
}

static inline void set_dead(const fixture *f, int first, int n)
{
    int64_t *since = rf_coder_view(f->coder, RF_CODER_TOKENS_SINCE_FIRED).data;
    for (int i = first; i < first + n; i++) {
        since[i] = 5000;
    }
}

/* One step that moves nothing, on rows x [n, width]. */
static inline rf_step_metrics look(const fixture *f, float *x, int64_t n, int64_t width,
                                   const uint8_t *valid)
{
    const rf_step_rates rates = fixture_gradient_rates();
    rf_token_batch batch = fixture_batch(comm, x, n, width, valid);
    rf_step_metrics metrics;
    OK(rf_step_run(f->step, f->coder, f->opt, &batch, &rates, &metrics));
    return metrics;
}

static inline double length_of_row(const float *rows, int64_t row, int64_t d)
{
    double sum = 0.0;
    for (int64_t j = 0; j < d; j++) {
        sum += (double)rows[row * d + j] * (double)rows[row * d + j];
    }
    return sqrt(sum);
}

/* fp32 figures of a few small numbers. */
static inline void assert_close(double got, double want)
{
    if (!(fabs(got - want) <= 1e-6 * (1.0 + fabs(want)))) {
        fail_msg("%.9g, expected %.9g", got, want);
    }
}

static inline int small_start(void **state)
{
    (void)state;
    return rf_comm_start(NULL, NULL, &comm) == RF_OK ? 0 : -1;
}

static inline int small_finish(void **state)
{
    (void)state;
    rf_comm_finish(comm);
    return 0;
}

#endif
