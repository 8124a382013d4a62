/* Where a sample lies and how wide it is: mean, variance, geometric median, in double on the host.
 */
#include "refract/coder.h"

#include <math.h>
#include <string.h>

rf_status rf_sample_moments(const float *x, int64_t n, int64_t d, double *mean, double *variance)
{
    rf_status status = RF_OK;
    double sum = 0.0;
    RF_REQUIRE(n >= 1 && d >= 1, "a sample of %" PRId64 " rows of %" PRId64 ": nothing to measure",
               n, d);
    memset(mean, 0, sizeof *mean * (size_t)d);
    for (int64_t b = 0; b < n; b++) {
        for (int64_t j = 0; j < d; j++) {
            mean[j] += (double)x[b * d + j];
        }
    }
    for (int64_t j = 0; j < d; j++) {
        mean[j] /= (double)n;
    }
    for (int64_t b = 0; b < n; b++) {
        for (int64_t j = 0; j < d; j++) {
            double e = (double)x[b * d + j] - mean[j];
            sum += e * e;
        }
    }
    *variance = sum / (double)n;
fail:
    return status;
}

static double distance(const float *x, const double *y, int64_t d)
{
    double sum = 0.0;
    for (int64_t j = 0; j < d; j++) {
        double e = (double)x[j] - y[j];
        sum += e * e;
    }
    return sqrt(sum);
}

/* One step of Weiszfeld's iteration from `y` to `next`; at data points Vardi and Zhang's (2000),
 * which neither divides by zero nor stops there for that reason alone. Returns the mean distance to
 * y. */
static double weiszfeld_step(const float *x, int64_t n, int64_t d, const double *y, double *next)
{
    double sum_weight = 0.0, sum_distance = 0.0, pull = 0.0;
    int64_t n_here = 0;
    memset(next, 0, sizeof *next * (size_t)d);
    for (int64_t b = 0; b < n; b++) {
        double r = distance(x + b * d, y, d);
        sum_distance += r;
        if (r == 0.0) {
            n_here++;
            continue;
        }
        sum_weight += 1.0 / r;
        for (int64_t j = 0; j < d; j++) {
            next[j] += (double)x[b * d + j] / r;
        }
    }
    for (int64_t j = 0; j < d && sum_weight > 0.0; j++) {
        double towards = next[j] - sum_weight * y[j];
        pull += towards * towards;
        next[j] /= sum_weight;
    }
    double stay = sum_weight > 0.0 ? 0.0 : 1.0;
    if (n_here > 0 && pull > 0.0) {
        stay = fmin(1.0, (double)n_here / sqrt(pull));
    } else if (n_here > 0) {
        stay = 1.0;
    }
    for (int64_t j = 0; j < d; j++) {
        next[j] += stay * (y[j] - next[j]);
    }
    return sum_distance / (double)n;
}

rf_status rf_geometric_median(const float *x, int64_t n, int64_t d, double *out)
{
    enum { MAX_STEPS = 200 };
    rf_status status = RF_OK;
    double *next = NULL, variance;

    RF_TRY(rf_sample_moments(x, n, d, out, &variance));
    RF_ALLOC(next, d);
    for (int step = 0; step < MAX_STEPS; step++) {
        double scale = weiszfeld_step(x, n, d, out, next), moved = 0.0;
        for (int64_t j = 0; j < d; j++) {
            moved += (next[j] - out[j]) * (next[j] - out[j]);
            out[j] = next[j];
        }
        if (!(sqrt(moved) > 1e-6 * scale)) {
            break;
        }
    }
fail:
    rf_free(next);
    return status;
}
