/* The singular value decomposition of a product of two thin matrices: QR of each, then one-sided
 * Jacobi (Hestenes) on the small square in between. Our own and not LAPACK's: a library's bits
 * depend on which BLAS stands under it and on its threads, and weights must have the same bits on
 * every rank. */
#include "process_impl.h"

#include <math.h>

/* Eight sums side by side, which the compiler makes one. */
static double dot(const double *x, const double *y, int64_t n)
{
    enum { LANES = 8 };
    double part[LANES] = {0.0}, sum = 0.0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            part[lane] += x[i + lane] * y[i + lane];
        }
    }
    for (; i < n; i++) {
        sum += x[i] * y[i];
    }
    for (int lane = 0; lane < LANES; lane++) {
        sum += part[lane];
    }
    return sum;
}

/* The columns of `a` [k][n] become orthonormal, r [k][k] (columns) what they were made of. Each is
 * orthogonalised twice, which is enough; what then is rounding alone becomes zero. */
static void orthonormalise(double *a, int64_t n, int64_t k, double *r)
{
    for (int64_t j = 0; j < k; j++) {
        double *x = a + j * n;
        const double before = sqrt(dot(x, x, n));
        for (int64_t i = 0; i < 2 * j; i++) {
            const double *q = a + i % j * n;
            const double part = dot(q, x, n);
            r[j * k + i % j] += part;
            for (int64_t e = 0; e < n; e++) {
                x[e] -= part * q[e];
            }
        }
        const double norm = sqrt(dot(x, x, n));
        const bool is_new = norm > 1e-14 * before;
        r[j * k + j] = is_new ? norm : 0.0;
        for (int64_t e = 0; e < n; e++) {
            x[e] = is_new ? x[e] / norm : 0.0;
        }
    }
}

static void rotate(double *x, double *y, int64_t n, double c, double s)
{
    for (int64_t i = 0; i < n; i++) {
        const double old = x[i];
        x[i] = c * old - s * y[i];
        y[i] = s * old + c * y[i];
    }
}

/* Rotations of pairs of columns of x [k][k] until all are orthogonal: x v = u s. Each sweep squares
 * what is left, so that few are enough. */
static void jacobi(double *x, double *v, int64_t k)
{
    enum { MAX_SWEEPS = 60 };
    bool is_done = false;
    for (int sweep = 0; sweep < MAX_SWEEPS && !is_done; sweep++) {
        is_done = true;
        for (int64_t i = 0; i < k; i++) {
            for (int64_t j = i + 1; j < k; j++) {
                double *xi = x + i * k, *xj = x + j * k;
                const double ii = dot(xi, xi, k), jj = dot(xj, xj, k), ij = dot(xi, xj, k);
                if (fabs(ij) <= 1e-15 * sqrt(ii) * sqrt(jj)) {
                    continue;
                }
                const double zeta = (jj - ii) / (2.0 * ij);
                const double t = copysign(1.0, zeta) / (fabs(zeta) + sqrt(1.0 + zeta * zeta));
                const double c = 1.0 / sqrt(1.0 + t * t);
                rotate(xi, xj, k, c, c * t);
                rotate(v + i * k, v + j * k, k, c, c * t);
                is_done = false;
            }
        }
    }
}

/* Lengths of the columns of x to s, falling; x to unit columns; v in the same order. */
static void sort_columns(double *x, double *v, int64_t k, double *s)
{
    for (int64_t i = 0; i < k; i++) {
        s[i] = sqrt(dot(x + i * k, x + i * k, k));
    }
    for (int64_t i = 0; i < k; i++) {
        int64_t largest = i;
        for (int64_t j = i + 1; j < k; j++) {
            largest = s[j] > s[largest] ? j : largest;
        }
        const double length = s[largest];
        s[largest] = s[i];
        s[i] = length;
        rotate(x + i * k, x + largest * k, largest == i ? 0 : k, 0.0, -1.0); /* swaps, one sign */
        rotate(v + i * k, v + largest * k, largest == i ? 0 : k, 0.0, -1.0);
        for (int64_t e = 0; e < k; e++) {
            x[i * k + e] = length > 0.0 ? x[i * k + e] / length : 0.0;
        }
    }
}

/* a [k][n] = q [k][n] . u [k][k], all by columns; `row` [k] is scratch. */
static void combine(double *a, int64_t n, int64_t k, const double *u, double *row)
{
    for (int64_t e = 0; e < n; e++) {
        for (int64_t j = 0; j < k; j++) {
            row[j] = a[j * n + e];
        }
        for (int64_t j = 0; j < k; j++) {
            a[j * n + e] = dot(row, u + j * k, k);
        }
    }
}

rf_status rf_factor_svd(double *a, int64_t n, double *b, int64_t m, int64_t k, double *s)
{
    rf_status status = RF_OK;
    double *r_a = NULL, *r_b = NULL, *x = NULL, *v = NULL;
    RF_ALLOC(r_a, k * k);
    RF_ALLOC(r_b, k * k);
    RF_ALLOC(x, k * k);
    RF_ALLOC(v, k * k);
    orthonormalise(a, n, k, r_a);
    orthonormalise(b, m, k, r_b);
    for (int64_t j = 0; j < k; j++) { /* x = r_a r_b^T */
        v[j * k + j] = 1.0;
        for (int64_t l = 0; l < k; l++) {
            for (int64_t i = 0; i < k; i++) {
                x[j * k + i] += r_a[l * k + i] * r_b[l * k + j];
            }
        }
    }
    jacobi(x, v, k);
    sort_columns(x, v, k, s);
    combine(a, n, k, x, r_a);
    combine(b, m, k, v, r_a);
fail:
    rf_free(r_a);
    rf_free(r_b);
    rf_free(x);
    rf_free(v);
    return status;
}
