/* What a coder's step runs at: its learning rate, and the warm-ups and annealings of its loss. */
#include "run_impl.h"

#include <math.h>

/* How far the part of `n` steps is done at its step `i`: 0 at the first; 1 would be the step after
 * the last, which nobody takes. */
static double share_done(int64_t i, int64_t n)
{
    n = rf_max_i64(n, 1);
    return (double)rf_min_i64(i, n) / (double)n;
}

static double cosine(double done)
{
    static const double pi = 3.14159265358979323846;
    return 0.5 * (1 + cos(pi * done));
}

/* Place in its own cycle, in whole numbers: a cycle begins exactly at 0. */
static double cycle_done(const rf_schedule *s, int64_t i, int64_t n)
{
    n = rf_max_i64(n, 1);
    return i >= n ? 1 : (double)(i * rf_max_i64(s->restarts, 1) % n) / (double)n;
}

static double decay_done(const rf_schedule *s, int64_t i, int64_t n)
{
    const int64_t n_decay = rf_min_i64((int64_t)ceil(s->decay_share * (double)s->n_steps), n);
    return share_done(rf_max_i64(i - (n - n_decay), 0), n_decay);
}

double rf_schedule_lr(const rf_schedule *s, int64_t step)
{
    const int64_t n = s->n_steps - s->warmup_steps, i = step - s->warmup_steps;
    double share = 1;
    if (i < 0) {
        return s->lr * (double)(step + 1) / (double)(s->warmup_steps + 1);
    }
    switch (s->kind) {
    case RF_SCHEDULE_CONSTANT:
        return s->lr;
    case RF_SCHEDULE_LINEAR:
        share = 1 - share_done(i, n);
        break;
    case RF_SCHEDULE_COSINE:
        share = cosine(share_done(i, n));
        break;
    case RF_SCHEDULE_COSINE_RESTARTS:
        share = cosine(cycle_done(s, i, n));
        break;
    case RF_SCHEDULE_DECAY:
        share = 1 - decay_done(s, i, n);
        break;
    }
    return s->lr * (s->lr_end + (1 - s->lr_end) * share);
}

double rf_schedule_sparsity(const rf_coder_settings *settings, int64_t step)
{
    const int64_t n = settings->sparsity_warmup_steps;
    return step < n ? (double)(step + 1) / (double)(n + 1) : 1;
}

double rf_schedule_k(const rf_coder_settings *settings, int64_t step)
{
    const int64_t n = settings->k_steps;
    return step < n ? settings->k_start + (1 - settings->k_start) * share_done(step, n) : 1;
}

double rf_schedule_p(const rf_coder_settings *settings, int64_t step, int64_t n_steps)
{
    const int64_t first = llround(settings->p_anneal_from * (double)n_steps);
    const int64_t rest = n_steps - first, n = rf_max_i64(settings->p_anneal_stages, 1);
    if (step < first || rest <= 0) {
        return settings->p;
    }
    const int64_t stage = rf_min_i64((step - first) * n / rest, n - 1) + 1;
    return stage == n ? settings->p_end
                      : settings->p + (settings->p_end - settings->p) * (double)stage / (double)n;
}

bool rf_schedule_resamples(const rf_coder_settings *settings, int64_t step)
{
    const int64_t done = step + 1, every = settings->resample_every;
    return settings->resample != RF_RESAMPLE_NONE && every > 0 && done % every == 0 &&
           (settings->resample_until == 0 || done <= settings->resample_until);
}
