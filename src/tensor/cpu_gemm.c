/* One tile of a matrix product on one thread: the only place that knows oneDNN (2.6 to 3.x). */
#include "tensor_impl.h"

#include <dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>

static bool has_isa(dnnl_cpu_isa_t isa)
{
    return (dnnl_get_effective_cpu_isa() & isa) == isa;
}

static bool has_avx512(void)
{
    return has_isa(dnnl_cpu_isa_avx512_core);
}

/* oneDNN chooses how it walks over K by m and n once K is longer than this (measured: 2.6.3);
 * walking in steps of it keeps the bits of an element independent of the tile. */
static int64_t max_k_step(void)
{
    return has_avx512() ? 768 : 384;
}

/* With AVX2 the last columns of a packed tile whose n is no multiple of 16 are summed up in another
 * order; narrower tiles are not packed. */
static int64_t n_ragged(int64_t n)
{
    return n > 399 && !has_avx512() ? n % 16 : 0;
}

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

/* What a thread is given back after oneDNN. */
typedef struct calm {
    int n_threads;
    sigset_t signals;
} calm;

/* Of a fault a handler must hear at once. */
static void block_signals(sigset_t *before)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t all;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        sigdelset(&all, faults[i]);
    }
    pthread_sigmask(SIG_BLOCK, &all, before); /* fails for another first argument only */
}

/* A region of one thread does not count as parallel, so oneDNN would start a team there. Signals
 * wait until it is through: its kernels point the stack pointer at memory of the heap (2.6 to 3.x),
 * and the frame of a handler would be written over what lies before that memory. */
static calm begin_alone(void)
{
    calm before = {.n_threads = omp_get_max_threads()};
    if (before.n_threads != 1) {
        omp_set_num_threads(1);
    }
    block_signals(&before.signals);
    return before;
}

static void end_alone(const calm *before)
{
    pthread_sigmask(SIG_SETMASK, &before->signals, NULL);
    if (before->n_threads != 1) {
        omp_set_num_threads(before->n_threads);
    }
}

/* In steps of K, the ragged columns by themselves. */
static rf_status sgemm_in_steps(rf_trans ta, rf_trans tb, int64_t m, int64_t n, int64_t k,
                                float alpha, const float *a, int64_t lda, const float *b,
                                int64_t ldb, float beta, float *c, int64_t ldc)
{
    rf_status status = RF_OK;
    const int64_t whole = n - n_ragged(n), max_step = max_k_step();
    for (int64_t k0 = 0; k0 < k; k0 += max_step) {
        const int64_t step = rf_min_i64(max_step, k - k0);
        const float *a_now = a + (ta == RF_TRANS ? k0 * lda : k0), scale = k0 == 0 ? beta : 1.0f;
        const float *b_now = b + (tb == RF_TRANS ? k0 : k0 * ldb);
        RF_TRY(sgemm_step(ta, tb, m, whole, step, alpha, a_now, lda, b_now, ldb, scale, c, ldc));
        if (whole < n) {
            b_now += tb == RF_TRANS ? whole * ldb : whole;
            RF_TRY(sgemm_step(ta, tb, m, n - whole, step, alpha, a_now, lda, b_now, ldb, scale,
                              c + whole, ldc));
        }
    }
fail:
    return status;
}

rf_status rf_cpu_sgemm_tile(rf_trans ta, rf_trans tb, int64_t m, int64_t n, int64_t k, float alpha,
                            const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                            float *c, int64_t ldc)
{
    if (m <= 0 || n <= 0) {
        return RF_OK;
    }
    if (k <= 0) {
        scale_tile(c, m, n, ldc, beta);
        return RF_OK;
    }
    const calm before = begin_alone();
    const rf_status status = sgemm_in_steps(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    end_alone(&before);
    return status;
}

/* Measured with oneDNN 2.6.3: with AVX-512 an element is one chain of FMA over a step of K for any
 * m, n and row lengths; AVX2 treats the last rows of an m that is no multiple of 48 otherwise. */
int64_t rf_cpu_row_step(void)
{
    return has_avx512() ? 16 : 48;
}

/* With AVX2 a transposed a is summed up in the order of one that is not where it is packed: that
 * goes by the share packing takes, oneDNN's own measure (2.6 to 3.7). */
bool rf_cpu_sgemm_takes_trans_a(int64_t m, int64_t n)
{
    return has_avx512() || (n % 16 == 0 && 1.0 / (double)m + 1.0 / (double)n < 0.0038);
}

/* ---- bf16 ---------------------------------------------------------------------------------- */

/* In every library since 1.2, in no header. */
extern dnnl_status_t dnnl_gemm_bf16bf16f32(char ta, char tb, dnnl_dim_t m, dnnl_dim_t n,
                                           dnnl_dim_t k, float alpha, const uint16_t *a,
                                           dnnl_dim_t lda, const uint16_t *b, dnnl_dim_t ldb,
                                           float beta, float *c, dnnl_dim_t ldc)
    __attribute__((weak));

bool rf_cpu_has_bf16(void)
{
    return dnnl_gemm_bf16bf16f32 != NULL && has_isa(dnnl_cpu_isa_avx512_core_bf16);
}

/* Intel's vector unit does bf16 at half the rate of fp32 (measured: 87 of 178 GFLOP/s a core),
 * AMD's at twice. */
bool rf_cpu_bf16_is_fast(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    return rf_cpu_has_bf16() &&
           (has_isa(dnnl_cpu_isa_avx512_core_amx) || __builtin_cpu_is("amd") != 0);
#else
    return false;
#endif
}

rf_status rf_cpu_bf16_tile(int64_t m, int64_t n, int64_t k, float alpha, const uint16_t *a,
                           int64_t lda, const uint16_t *b, int64_t ldb, float beta, float *c,
                           int64_t ldc)
{
    rf_status status = RF_OK;
    if (m <= 0 || n <= 0) {
        return RF_OK;
    }
    if (k <= 0) {
        scale_tile(c, m, n, ldc, beta);
        return RF_OK;
    }
    const calm before = begin_alone();
    dnnl_status_t st =
        dnnl_gemm_bf16bf16f32('N', 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    end_alone(&before);
    if (st == dnnl_out_of_memory) {
        RF_FAIL(RF_ERR_NO_MEMORY, "matrix product: oneDNN is out of memory");
    }
    RF_BUG(st == dnnl_success,
           "bf16 product: oneDNN returned %d for m=%" PRId64 " n=%" PRId64 " k=%" PRId64, (int)st,
           m, n, k);
fail:
    return status;
}

void rf_cpu_gemm_describe(char *out, size_t out_bytes)
{
    const dnnl_version_t *v = dnnl_version();
    snprintf(out, out_bytes, "oneDNN %d.%d.%d%s", v->major, v->minor, v->patch,
             rf_cpu_bf16_is_fast() ? ", bf16" : "");
}
