/* What tests of gradients share: central differences of a naive formula in double. */
#ifndef REFRACT_TESTS_FINITE_DIFFERENCE_H
#define REFRACT_TESTS_FINITE_DIFFERENCE_H

#include "dense_fixture.h"

#include <math.h>

/* A scalar of a problem whose arrays are doubles. */
typedef double (*scalar_fn)(const void *problem);

static inline double *as_doubles(const float *x, int64_t n)
{
    double *out = rf_calloc(n, sizeof *out);
    assert_non_null(out);
    for (int64_t i = 0; i < n; i++) {
        out[i] = (double)x[i];
    }
    return out;
}

/* `gradient` [n] is that of `f` by `x`, an array of the problem. In double the differences are good
 * to 1e-9, so what `tol` forgives is the rounding of the fp32 operation. */
static inline void check_gradient(const char *what, scalar_fn f, const void *problem, double *x,
                                  int64_t n, const float *gradient, double tol)
{
    const double h = 1e-5;
    for (int64_t i = 0; i < n; i++) {
        const double kept = x[i];
        x[i] = kept + h;
        const double above = f(problem);
        x[i] = kept - h;
        const double below = f(problem), want = (above - below) / (2 * h);
        x[i] = kept;
        if (!(fabs((double)gradient[i] - want) <= tol * (1.0 + fabs(want)))) {
            fail_msg("%s[%" PRId64 "] = %.9g, differences say %.9g", what, i, (double)gradient[i],
                     want);
        }
    }
}

#endif
