/* Updates of rows, in one pass: scale, project, moments, step, rule. */
#include "coder_ops_impl.h"

#include <math.h>
#include <string.h>

/* Rates of one update in the form that the loops use. */
typedef struct update_rates {
    float scale, beta1, beta2, rest1, rest2;
    float step; /* -lr; of Adam over 1 - beta1^t */
    float v_scale, eps, keep;
    float decay, average; /* schedule-free: -lr * weight_decay, and x's step to z */
} update_rates;

static update_rates rates_of(const rf_update_args *a)
{
    double t = (double)a->t;
    bool is_adam = a->kind == RF_UPDATE_ADAM;
    return (update_rates){.scale = a->grad_scale == NULL ? 1.0f : *a->grad_scale,
                          .beta1 = (float)a->beta1,
                          .beta2 = (float)a->beta2,
                          .rest1 = (float)(1.0 - a->beta1),
                          .rest2 = (float)(1.0 - a->beta2),
                          .step = (float)(-a->lr / (is_adam ? 1.0 - pow(a->beta1, t) : 1.0)),
                          .v_scale = (float)(1.0 / sqrt(1.0 - pow(a->beta2, t))),
                          .eps = (float)a->eps,
                          .keep = (float)(1.0 - a->lr * a->weight_decay),
                          .decay = (float)(-a->lr * a->weight_decay),
                          .average = (float)a->average_weight};
}

/* ---- Adam ---------------------------------------------------------------------------------- */

static inline float stepped(const update_rates *r, float w, float m, float v)
{
    return fmaf(r->step, m / fmaf(sqrtf(v), r->v_scale, r->eps), w * r->keep);
}

static void adam_row(const update_rates *rates, int64_t n, const float *restrict g,
                     float *restrict w, float *restrict m, float *restrict v)
{
    update_rates r = *rates;
    for (int64_t d = 0; d < n; d++) {
        m[d] = fmaf(r.rest1, g[d], r.beta1 * m[d]);
        v[d] = fmaf(r.rest2 * g[d], g[d], r.beta2 * v[d]);
        w[d] = stepped(&r, w[d], m[d], v[d]);
    }
}

/* The same with a gradient of zero. */
static void adam_untouched(const update_rates *rates, int64_t n, float *restrict w,
                           float *restrict m, float *restrict v)
{
    update_rates r = *rates;
    for (int64_t d = 0; d < n; d++) {
        m[d] = r.beta1 * m[d];
        v[d] = r.beta2 * v[d];
        w[d] = stepped(&r, w[d], m[d], v[d]);
    }
}

/* ---- the others ---------------------------------------------------------------------------- */

static void signum_row(const update_rates *rates, int64_t n, const float *restrict g,
                       float *restrict w, float *restrict m)
{
    update_rates r = *rates;
    for (int64_t d = 0; d < n; d++) {
        m[d] = fmaf(r.rest1, g[d], r.beta1 * m[d]);
        float sign = (float)(m[d] > 0.0f) - (float)(m[d] < 0.0f);
        w[d] = fmaf(r.step, sign, w[d] * r.keep);
    }
}

static void plain_row(const update_rates *rates, int64_t n, const float *restrict g,
                      float *restrict w)
{
    update_rates r = *rates;
    for (int64_t d = 0; d < n; d++) {
        w[d] = fmaf(r.step, g[d], w[d] * r.keep);
    }
}

/* The iterate z by the gradient at y; decay is that of y. */
static void iterate_row(const update_rates *rates, int64_t n, const float *restrict g,
                        const float *restrict y, float *restrict z, float *restrict v)
{
    update_rates r = *rates;
    for (int64_t d = 0; d < n; d++) {
        v[d] = fmaf(r.rest2 * g[d], g[d], r.beta2 * v[d]);
        float step = g[d] / fmaf(sqrtf(v[d]), r.v_scale, r.eps);
        z[d] = fmaf(r.step, step, fmaf(r.decay, y[d], z[d]));
    }
}

/* to += weight * (from - to) */
static void move_row(float weight, int64_t n, const float *restrict from, float *restrict to)
{
    for (int64_t d = 0; d < n; d++) {
        to[d] = fmaf(weight, from[d] - to[d], to[d]);
    }
}

static void mix_row(const update_rates *rates, int64_t n, const float *restrict z,
                    const float *restrict x, float *restrict y)
{
    update_rates r = *rates;
    for (int64_t d = 0; d < n; d++) {
        y[d] = fmaf(r.beta1, x[d], r.rest1 * z[d]);
    }
}

static void schedule_free_row(const rf_update_args *a, const update_rates *rates, int64_t i,
                              const float *g)
{
    int64_t n = a->w.shape[1];
    float *y = rf_row_mut(&a->w, i), *z = rf_row_mut(&a->m, i), *x = rf_row_mut(&a->average, i);
    iterate_row(rates, n, g, y, z, rf_row_mut(&a->v, i));
    rf_cpu_keep_row_rule(z, n, a->rule, &a->segments, a->radius);
    move_row(rates->average, n, z, x);
    rf_cpu_keep_row_rule(x, n, a->rule, &a->segments, a->radius);
    mix_row(rates, n, z, x, y);
}

/* ---- all ----------------------------------------------------------------------------------- */

/* `work` [n] gets the gradient as it is used. */
static void prepare_gradient(const rf_update_args *args, const update_rates *rates, int64_t i,
                             float *restrict work)
{
    int64_t n = args->w.shape[1];
    const float *g = rf_row(&args->g, i);
    float scale = rates->scale;
    for (int64_t d = 0; d < n; d++) {
        work[d] = scale * g[d];
    }
    rf_cpu_project_gradient(work, rf_row(&args->w, i), n, args->rule, &args->segments);
}

static void update_row(const rf_update_args *args, const update_rates *rates, int64_t i,
                       float *work)
{
    int64_t n = args->w.shape[1];
    float *w = rf_row_mut(&args->w, i);
    bool is_touched = args->touched == NULL || args->touched[i] != 0;
    if (is_touched) {
        prepare_gradient(args, rates, i, work);
    } else {
        memset(work, 0, sizeof *work * (size_t)n);
    }
    switch (args->kind) {
    case RF_UPDATE_ADAM:
        if (is_touched) {
            adam_row(rates, n, work, w, rf_row_mut(&args->m, i), rf_row_mut(&args->v, i));
        } else {
            adam_untouched(rates, n, w, rf_row_mut(&args->m, i), rf_row_mut(&args->v, i));
        }
        break;
    case RF_UPDATE_SIGNUM:
        signum_row(rates, n, work, w, rf_row_mut(&args->m, i));
        break;
    case RF_UPDATE_SCHEDULE_FREE:
        schedule_free_row(args, rates, i, work);
        break;
    case RF_UPDATE_PLAIN:
        plain_row(rates, n, work, w);
        break;
    }
    rf_cpu_keep_row_rule(w, n, args->rule, &args->segments, args->radius);
}

rf_status rf_cpu_update_rows(rf_stream *s, const rf_update_args *args)
{
    rf_status status = RF_OK;
    int n_threads = rf_cpu_n_threads(s);
    int64_t stride = rf_ceil_div(args->w.shape[1], 16) * 16;
    update_rates rates = rates_of(args);
    void *scratch;

    RF_TRY(rf_cpu_scratch(s, sizeof(float) * (size_t)(stride * n_threads), &scratch));
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < args->w.shape[0]; i++) {
        update_row(args, &rates, i, (float *)scratch + rf_cpu_thread() * stride);
    }
fail:
    return status;
}
