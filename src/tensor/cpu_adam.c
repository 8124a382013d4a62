/* Adam over rows, in one pass: scale, project, moments, step, renormalise. */
#include "coder_ops_impl.h"

#include <math.h>

void rf_cpu_normalise_row(float *w, int64_t n)
{
    float norm = sqrtf(rf_dot(w, w, n));
    for (int64_t d = 0; norm > 0.0f && d < n; d++) {
        w[d] = w[d] / norm;
    }
}

/* Rates of one step in the form that the loops use. */
typedef struct adam_rates {
    float scale, beta1, beta2, rest1, rest2, step, v_scale, eps, keep;
} adam_rates;

static adam_rates rates_of(const rf_adam_args *a)
{
    double t = (double)a->t;
    return (adam_rates){.scale = a->grad_scale == NULL ? 1.0f : *a->grad_scale,
                        .beta1 = (float)a->beta1,
                        .beta2 = (float)a->beta2,
                        .rest1 = (float)(1.0 - a->beta1),
                        .rest2 = (float)(1.0 - a->beta2),
                        .step = (float)(-a->lr / (1.0 - pow(a->beta1, t))),
                        .v_scale = (float)(1.0 / sqrt(1.0 - pow(a->beta2, t))),
                        .eps = (float)a->eps,
                        .keep = (float)(1.0 - a->lr * a->weight_decay)};
}

static inline float stepped(const adam_rates *r, float w, float m, float v)
{
    return fmaf(r->step, m / fmaf(sqrtf(v), r->v_scale, r->eps), w * r->keep);
}

static void step_row(const adam_rates *rates, int64_t n, const float *restrict g, float *restrict w,
                     float *restrict m, float *restrict v)
{
    adam_rates r = *rates;
    for (int64_t d = 0; d < n; d++) {
        m[d] = fmaf(r.rest1, g[d], r.beta1 * m[d]);
        v[d] = fmaf(r.rest2 * g[d], g[d], r.beta2 * v[d]);
        w[d] = stepped(&r, w[d], m[d], v[d]);
    }
}

/* The same with a gradient of zero. */
static void step_untouched(const adam_rates *rates, int64_t n, float *restrict w, float *restrict m,
                           float *restrict v)
{
    adam_rates r = *rates;
    for (int64_t d = 0; d < n; d++) {
        m[d] = r.beta1 * m[d];
        v[d] = r.beta2 * v[d];
        w[d] = stepped(&r, w[d], m[d], v[d]);
    }
}

/* `work` [n] gets the gradient as it is used. */
static void prepare_gradient(const rf_adam_args *args, const adam_rates *rates, const float *g,
                             const float *w, int64_t n, float *restrict work)
{
    float scale = rates->scale;
    for (int64_t d = 0; d < n; d++) {
        work[d] = scale * g[d];
    }
    if (args->rule == RF_ROW_UNIT_NORM) {
        float along = -rf_dot(work, w, n);
        for (int64_t d = 0; d < n; d++) {
            work[d] = fmaf(along, w[d], work[d]);
        }
    }
}

rf_status rf_cpu_adam_rows(rf_stream *s, const rf_adam_args *args)
{
    rf_status status = RF_OK;
    int n_threads = rf_cpu_n_threads(s);
    int64_t d = args->w.shape[1], stride = rf_ceil_div(d, 16) * 16;
    adam_rates rates = rates_of(args);
    void *scratch;

    RF_TRY(rf_cpu_scratch(s, sizeof(float) * (size_t)(stride * n_threads), &scratch));
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < args->w.shape[0]; i++) {
        float *work = (float *)scratch + rf_cpu_thread() * stride;
        float *w = rf_row_mut(&args->w, i);
        float *m = rf_row_mut(&args->m, i), *v = rf_row_mut(&args->v, i);
        if (args->touched == NULL || args->touched[i] != 0) {
            prepare_gradient(args, &rates, rf_row(&args->g, i), w, d, work);
            step_row(&rates, d, work, w, m, v);
        } else {
            step_untouched(&rates, d, w, m, v);
        }
        if (args->rule == RF_ROW_UNIT_NORM) {
            rf_cpu_normalise_row(w, d);
        }
    }
fail:
    return status;
}
