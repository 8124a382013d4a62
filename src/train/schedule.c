/* The learning rate of a coder's step: a warm-up, then a fall to a floor. */
#include "run_impl.h"

#include <math.h>

double rf_schedule_lr(const rf_schedule *s, int64_t step)
{
    static const double pi = 3.14159265358979323846;
    if (step < s->warmup_steps) {
        return s->lr * (double)(step + 1) / (double)(s->warmup_steps + 1);
    }
    /* 0 at the end of the warm-up; 1 would be the step after the last, which nobody takes. */
    int64_t n = rf_max_i64(s->n_steps - s->warmup_steps, 1);
    double done = (double)rf_min_i64(step - s->warmup_steps, n) / (double)n;
    double share = 1;
    switch (s->kind) {
    case RF_SCHEDULE_CONSTANT:
        return s->lr;
    case RF_SCHEDULE_LINEAR:
        share = 1 - done;
        break;
    case RF_SCHEDULE_COSINE:
        share = 0.5 * (1 + cos(pi * done));
        break;
    }
    return s->lr * (s->lr_end + (1 - s->lr_end) * share);
}
