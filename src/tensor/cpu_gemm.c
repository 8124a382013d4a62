/* One tile of a matrix product on one thread: the only place that knows oneDNN (2.6 to 3.x). */
#include "tensor_impl.h"

#include <dnnl.h>
#include <omp.h>
#include <stdio.h>

/* oneDNN chooses how it walks over K by m and n once K is longer than this (measured: 2.6.3 with
 * AVX-512); walking in steps of it keeps the bits of an element independent of the tile. */
enum { MAX_K_STEP = 768 };

static rf_status sgemm_step(rf_trans ta, rf_trans tb, int64_t m, int64_t n, int64_t k, float alpha,
                            const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                            float *c, int64_t ldc)
{
    rf_status status = RF_OK;
    dnnl_status_t st = dnnl_sgemm(ta == RF_TRANS ? 'T' : 'N', tb == RF_TRANS ? 'T' : 'N', m, n, k,
                                  alpha, a, lda, b, ldb, beta, c, ldc);
    if (st == dnnl_out_of_memory) {
        RF_FAIL(RF_ERR_NO_MEMORY, "matrix product: oneDNN is out of memory");
    }
    RF_BUG(st == dnnl_success,
           "matrix product: oneDNN returned %d for m=%" PRId64 " n=%" PRId64 " k=%" PRId64, (int)st,
           m, n, k);
fail:
    return status;
}

/* The product of no terms. */
static void scale_tile(float *c, int64_t m, int64_t n, int64_t ldc, float beta)
{
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            c[i * ldc + j] = beta == 0.0f ? 0.0f : beta * c[i * ldc + j];
        }
    }
}

rf_status rf_cpu_sgemm_tile(rf_trans ta, rf_trans tb, int64_t m, int64_t n, int64_t k, float alpha,
                            const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                            float *c, int64_t ldc)
{
    rf_status status = RF_OK;
    if (m <= 0 || n <= 0) {
        return RF_OK;
    }
    if (k <= 0) {
        scale_tile(c, m, n, ldc, beta);
        return RF_OK;
    }
    /* A region of one thread does not count as parallel, so oneDNN would start a team there. */
    int n_before = omp_get_max_threads();
    if (n_before != 1) {
        omp_set_num_threads(1);
    }
    for (int64_t k0 = 0; k0 < k && status == RF_OK; k0 += MAX_K_STEP) {
        int64_t step = rf_min_i64(MAX_K_STEP, k - k0);
        status =
            sgemm_step(ta, tb, m, n, step, alpha, a + (ta == RF_TRANS ? k0 * lda : k0), lda,
                       b + (tb == RF_TRANS ? k0 : k0 * ldb), ldb, k0 == 0 ? beta : 1.0f, c, ldc);
    }
    if (n_before != 1) {
        omp_set_num_threads(n_before);
    }
    return status;
}

void rf_cpu_gemm_describe(char *out, size_t out_bytes)
{
    const dnnl_version_t *v = dnnl_version();
    snprintf(out, out_bytes, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
}
