/* Products on the CUDA backend, with cuBLAS's stand-in, against sums in double and against the CPU
 * backend; and what the stand-in refuses. */
#include "cuda_impl.h"
#include "emul.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static rf_backend *gpu, *cpu;
static rf_stream *s, *cpu_s;

static void check(rf_status status)
{
    if (status != RF_OK) {
        fail_msg("%s", rf_error_text());
    }
}

/* ---- numbers ------------------------------------------------------------------------------- */

static float number(uint64_t which, int64_t i)
{
    uint32_t words[4];
    rf_random_u32x4(7, RF_RANDOM_TEST, which, (uint64_t)i, words);
    return (float)((double)words[0] / 2147483648.0 - 1.0);
}

static float *numbers(uint64_t which, int64_t n)
{
    float *x = rf_calloc(n, sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = number(which, i);
    }
    return x;
}

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t to_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint16_t to_bf16(float x)
{
    const uint32_t bits = to_bits(x);
    return (uint16_t)((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

/* As it is multiplied. */
static double operand(rf_products products, float x)
{
    switch (products) {
    case RF_PRODUCTS_BF16:
        return (double)from_bits((uint32_t)to_bf16(x) << 16);
    case RF_PRODUCTS_TF32:
        return (double)from_bits(to_bits(x) & 0xffffe000U); /* the stand-in cuts */
    case RF_PRODUCTS_F32:
        break;
    }
    return (double)x;
}

static void *upload(const void *host, int64_t n_bytes)
{
    void *p = NULL;
    check(rf_memory_alloc(gpu, RF_MEMORY_DEVICE, (size_t)n_bytes, &p));
    check(rf_copy_in(s, p, host, (size_t)n_bytes));
    return p;
}

/* Floats as a product takes them. */
static void *upload_as(rf_products products, const float *x, int64_t n)
{
    if (products != RF_PRODUCTS_BF16) {
        return upload(x, n * (int64_t)sizeof *x);
    }
    uint16_t *half = rf_calloc(n, sizeof *half);
    for (int64_t i = 0; i < n; i++) {
        half[i] = to_bf16(x[i]);
    }
    void *p = upload(half, n * (int64_t)sizeof *half);
    rf_free(half);
    return p;
}

static void release(void *p)
{
    rf_memory_free(gpu, RF_MEMORY_DEVICE, p);
}

/* ---- gemm ---------------------------------------------------------------------------------- */

typedef struct gemm_case {
    rf_products products;
    rf_trans ta, tb;
    int64_t m, n, k, batch;
    int64_t apart; /* elements between what rows need and where the next begins */
    float alpha, beta;
    bool one_a; /* for all of the batch */
} gemm_case;

typedef struct gemm_data {
    int64_t lda, ldb, ldc, stride_a, stride_b, stride_c, n_a, n_b, n_c;
    float *a, *b, *c, *out;
} gemm_data;

static gemm_data make_data(const gemm_case *t)
{
    gemm_data d = {.lda = (t->ta == RF_TRANS ? t->m : t->k) + t->apart,
                   .ldb = (t->tb == RF_TRANS ? t->k : t->n) + t->apart,
                   .ldc = t->n + t->apart};
    const int64_t rows_a = t->ta == RF_TRANS ? t->k : t->m,
                  rows_b = t->tb == RF_TRANS ? t->n : t->k;
    d.stride_a = t->one_a ? 0 : rows_a * d.lda;
    d.stride_b = rows_b * d.ldb;
    d.stride_c = t->m * d.ldc;
    d.n_a = rows_a * d.lda * (t->one_a ? 1 : t->batch) + 1;
    d.n_b = d.stride_b * t->batch + 1;
    d.n_c = d.stride_c * t->batch + 1;
    d.a = numbers(1, d.n_a);
    d.b = numbers(2, d.n_b);
    d.c = numbers(3, d.n_c);
    d.out = rf_calloc(d.n_c, sizeof *d.out);
    for (int64_t i = 0; t->beta == 0.0f && i < d.n_c; i++) {
        d.c[i] = i % d.ldc < t->n && i < d.n_c - 1 ? NAN : d.c[i]; /* must not be read */
    }
    return d;
}

static void free_data(gemm_data *d)
{
    rf_free(d->out);
    rf_free(d->c);
    rf_free(d->b);
    rf_free(d->a);
}

static void run_case(const gemm_case *t, gemm_data *d)
{
    void *a = upload_as(t->products, d->a, d->n_a), *b = upload_as(t->products, d->b, d->n_b);
    float *c = upload(d->c, d->n_c * (int64_t)sizeof *d->c);
    if (t->batch == 1) {
        check(rf_cuda_gemm(s, t->products, t->ta, t->tb, t->m, t->n, t->k, t->alpha, a, d->lda, b,
                           d->ldb, t->beta, c, d->ldc));
    } else {
        check(rf_cuda_gemm_batched(s, t->products, t->ta, t->tb, t->m, t->n, t->k, t->alpha, a,
                                   d->lda, d->stride_a, b, d->ldb, d->stride_b, t->beta, c, d->ldc,
                                   d->stride_c, t->batch));
    }
    check(rf_copy_out(s, d->out, c, (size_t)d->n_c * sizeof *c));
    check(rf_stream_synchronise(s));
    release(c);
    release(b);
    release(a);
}

/* What lies between rows and behind the last is as it was. */
static void check_gaps(const gemm_case *t, const gemm_data *d)
{
    for (int64_t i = 0; i < d->n_c; i++) {
        if (i == d->n_c - 1 || i % d->ldc >= t->n) {
            assert_memory_equal(&d->out[i], &d->c[i], sizeof *d->c);
        }
    }
}

/* Sums of fp32: half a unit in the last place for every addition, of the sum of sizes at most. */
static void check_element(const gemm_case *t, const gemm_data *d, int64_t item, int64_t i,
                          int64_t j)
{
    const float *a = d->a + item * d->stride_a, *b = d->b + item * d->stride_b;
    const int64_t at = item * d->stride_c + i * d->ldc + j;
    double sum = 0.0, size = 0.0;
    for (int64_t k = 0; k < t->k; k++) {
        const double x =
            operand(t->products, t->ta == RF_TRANS ? a[k * d->lda + i] : a[i * d->lda + k]);
        const double y =
            operand(t->products, t->tb == RF_TRANS ? b[j * d->ldb + k] : b[k * d->ldb + j]);
        sum += x * y;
        size += fabs(x * y);
    }
    const double before = t->beta == 0.0f ? 0.0 : (double)t->beta * (double)d->c[at];
    const double want = (double)t->alpha * sum + before;
    const double bound =
        (double)(t->k + 4) * 0x1p-24 * (fabs((double)t->alpha) * size + fabs(before));
    if (!(fabs((double)d->out[at] - want) <= bound)) {
        fail_msg("[%d][%d,%d] of %d x %d over %d (trans %d %d, products %d): %.9g, expected %.9g",
                 (int)item, (int)i, (int)j, (int)t->m, (int)t->n, (int)t->k, (int)t->ta, (int)t->tb,
                 (int)t->products, (double)d->out[at], want);
    }
}

static void check_case(const gemm_case *t)
{
    gemm_data d = make_data(t);
    run_case(t, &d);
    check_gaps(t, &d);
    for (int64_t item = 0; item < t->batch; item++) {
        for (int64_t i = 0; i < t->m; i++) {
            for (int64_t j = 0; j < t->n; j++) {
                check_element(t, &d, item, i, j);
            }
        }
    }
    free_data(&d);
}

static const int64_t shapes[][3] = {{1, 1, 1},   {3, 5, 7},    {16, 4, 8},   {17, 5, 9},
                                    {33, 65, 9}, {130, 3, 40}, {1, 70, 530}, {2, 3, 0}};
static const float factors[][2] = {{1.0f, 0.0f}, {-0.5f, 1.0f}, {2.0f, -0.25f}};

static void check_all_cases(int64_t batch, bool one_a)
{
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (int f = 0; f < 3 * 4 * 3; f++) {
            const gemm_case t = {.products = (rf_products)(f / 12),
                                 .ta = (f & 1) != 0 ? RF_TRANS : RF_NO_TRANS,
                                 .tb = (f & 2) != 0 ? RF_TRANS : RF_NO_TRANS,
                                 .m = shapes[i][0],
                                 .n = shapes[i][1],
                                 .k = shapes[i][2],
                                 .batch = batch,
                                 .apart = f % 3,
                                 .alpha = factors[f / 4 % 3][0],
                                 .beta = factors[f / 4 % 3][1],
                                 .one_a = one_a};
            check_case(&t);
        }
    }
}

static void products_are_sums_for_every_form(void **state)
{
    (void)state;
    check_all_cases(1, false);
}

static void batches_are_products_of_their_own(void **state)
{
    (void)state;
    check_all_cases(3, false);
    check_all_cases(2, true);
}

static void a_single_row_may_come_with_any_stride(void **state)
{
    (void)state;
    const float a[] = {1.0f, 2.0f, 3.0f}, b[] = {4.0f, 5.0f, 6.0f};
    float out = 0.0f;
    void *da = upload(a, sizeof a), *db = upload(b, sizeof b), *dc = upload(&out, sizeof out);
    check(rf_cuda_gemm(s, RF_PRODUCTS_F32, RF_NO_TRANS, RF_TRANS, 1, 1, 3, 1.0f, da, 0, db, 1, 0.0f,
                       dc, 0));
    check(rf_copy_out(s, &out, dc, sizeof out));
    check(rf_stream_synchronise(s));
    assert_true(out == 32.0f);
    release(dc);
    release(db);
    release(da);
}

static void products_of_nothing_are_nothing(void **state)
{
    (void)state;
    check(rf_cuda_gemm(s, RF_PRODUCTS_F32, RF_NO_TRANS, RF_NO_TRANS, 0, 4, 3, 1.0f, NULL, 3, NULL,
                       4, 0.0f, NULL, 4));
    check(rf_cuda_gemm_batched(s, RF_PRODUCTS_F32, RF_NO_TRANS, RF_NO_TRANS, 4, 4, 3, 1.0f, NULL, 3,
                               0, NULL, 4, 0, 0.0f, NULL, 4, 0, 0));
    check(rf_stream_synchronise(s));
}

/* ---- matmul -------------------------------------------------------------------------------- */

typedef struct matmul_case {
    int64_t m, n, k, apart, more_of_c; /* as above; and of c alone */
    int64_t offset;                    /* where each begins, in elements */
    rf_trans ta, tb;
    rf_act act;
    bool has_bias, is_bf16;
    float beta;
} matmul_case;

static rf_view view_of(void *data, rf_dtype dtype, int64_t offset, int64_t n_rows, int64_t n_cols,
                       int64_t apart)
{
    char *at = (char *)data + offset * (int64_t)rf_dtype_bytes(dtype);
    rf_view v = rf_view_nd(at, dtype, 2, (int64_t[]){n_rows, n_cols});
    v.stride[0] += apart;
    return v;
}

static rf_matmul_args args_of(const matmul_case *t, void *a, void *b, void *bias, void *c)
{
    const bool ta = t->ta == RF_TRANS, tb = t->tb == RF_TRANS;
    const rf_dtype of_b = t->is_bf16 ? RF_BF16 : RF_F32;
    rf_matmul_args args = {
        .trans_a = t->ta, .trans_b = t->tb, .alpha = 1.5f, .beta = t->beta, .act = t->act};
    args.a = view_of(a, RF_F32, t->offset, ta ? t->k : t->m, ta ? t->m : t->k, t->apart);
    args.b = view_of(b, of_b, t->offset, tb ? t->n : t->k, tb ? t->k : t->n, t->apart);
    args.c = view_of(c, RF_F32, t->offset, t->m, t->n, t->apart + t->more_of_c);
    if (t->has_bias) {
        args.bias = rf_view_1d((float *)bias + t->offset, t->n);
    }
    return args;
}

enum { MOST = 40000 };

/* The CPU backend's result and the GPU's differ by rounding: of sums of k terms below 1.5 in size,
 * and of what an activation makes of them, whose slope is at most 1.13. */
static void check_matmul(const matmul_case *t)
{
    float *a = numbers(1, MOST), *b = numbers(2, MOST), *bias = numbers(3, MOST);
    float *c = numbers(4, MOST), *out = rf_calloc(MOST, sizeof *out);
    uint16_t *half = rf_calloc(MOST, sizeof *half);
    for (int64_t i = 0; i < MOST; i++) {
        half[i] = to_bf16(b[i]);
    }
    void *da = upload(a, MOST * 4), *dc = upload(c, MOST * 4), *dbias = upload(bias, MOST * 4);
    void *db = t->is_bf16 ? upload(half, MOST * 2) : upload(b, MOST * 4);

    const rf_matmul_args on_gpu = args_of(t, da, db, dbias, dc);
    const rf_matmul_args on_cpu = args_of(t, a, t->is_bf16 ? (void *)half : b, bias, c);
    check(rf_matmul(s, &on_gpu));
    check(rf_copy_out(s, out, dc, MOST * sizeof *out));
    check(rf_stream_synchronise(s));
    check(rf_matmul(cpu_s, &on_cpu));
    const double bound = 1.13 * (double)(t->k + 8) * 1.5 * (double)(t->k + 2) * 0x1p-23;
    for (int64_t i = 0; i < MOST; i++) {
        if (!(fabs((double)out[i] - (double)c[i]) <= bound)) {
            fail_msg("element %d of %d x %d over %d, act %d, bias %d, bf16 %d: %.9g, CPU %.9g",
                     (int)i, (int)t->m, (int)t->n, (int)t->k, (int)t->act, (int)t->has_bias,
                     (int)t->is_bf16, (double)out[i], (double)c[i]);
        }
    }
    release(db);
    release(dbias);
    release(dc);
    release(da);
    rf_free(half);
    rf_free(out);
    rf_free(c);
    rf_free(bias);
    rf_free(b);
    rf_free(a);
}

static void matmul_adds_bias_and_activates_as_the_cpu_does(void **state)
{
    (void)state;
    static const int64_t mnk[][3] = {{1, 1, 1},    {7, 33, 5},  {9, 64, 48},
                                     {65, 31, 17}, {70, 36, 1}, {5, 40, 0}};
    for (size_t i = 0; i < sizeof mnk / sizeof mnk[0]; i++) {
        for (int f = 0; f < 6 * 2 * 2 * 3; f++) {
            const int form = f / 24; /* plain, transposed, bf16 */
            const matmul_case t = {.m = mnk[i][0],
                                   .n = mnk[i][1],
                                   .k = mnk[i][2],
                                   .apart = f % 5,
                                   .offset = f % 4,
                                   .ta = form == 1 || f % 7 == 0 ? RF_TRANS : RF_NO_TRANS,
                                   .tb = form == 1 ? RF_TRANS : RF_NO_TRANS,
                                   .act = (rf_act)(f % 6),
                                   .has_bias = f / 6 % 2 != 0,
                                   .beta = f / 12 % 2 != 0 ? 1.0f : 0.0f,
                                   .is_bf16 = form == 2};
            check_matmul(&t);
        }
    }
}

static const matmul_case plain = {.m = 9, .n = 64, .k = 21, .has_bias = true, .beta = 1.0f};

static void a_shape_is_asked_for_once(void **state)
{
    (void)state;
    matmul_case t = plain;
    t.k = 22;
    check_matmul(&t);
    t.more_of_c = 3;
    check_matmul(&t); /* another shape */
    t.offset = 1;
    check_matmul(&t); /* another alignment */
    t.offset = t.more_of_c = 0;
    /* Asked again, it would have no algorithm, and the way without would fail. */
    setenv("REFRACT_EMUL_FAIL", "cublasLtMatmulAlgoGetHeuristic:1+,cublasGemmEx:1+", 1);
    check_matmul(&t);
    unsetenv("REFRACT_EMUL_FAIL");
}

static void without_an_algorithm_the_result_is_the_same(void **state)
{
    (void)state;
    matmul_case t = plain;
    t.k = 23;
    setenv("REFRACT_EMUL_FAIL", "cublasLtMatmulAlgoGetHeuristic:1,cublasLtMatmul:1", 1);
    check_matmul(&t);
    check_matmul(&t); /* remembered */
    unsetenv("REFRACT_EMUL_FAIL");
}

static void more_shapes_than_are_remembered_are_right(void **state)
{
    (void)state;
    matmul_case t = plain;
    for (int64_t round = 0; round < 2; round++) {
        for (t.n = 1; t.n <= RF_CUDA_PLANS + 3; t.n++) {
            check_matmul(&t);
        }
    }
}

static void nan_is_not_hidden_by_relu(void **state)
{
    (void)state;
    const float one = 1.0f, nan = NAN;
    float out = 0.0f;
    void *a = upload(&nan, sizeof nan), *b = upload(&one, sizeof one),
         *c = upload(&one, sizeof one);
    const matmul_case t = {.m = 1, .n = 1, .k = 1, .act = RF_ACT_RELU, .has_bias = true};
    const rf_matmul_args args = args_of(&t, a, b, b, c);
    check(rf_matmul(s, &args));
    check(rf_copy_out(s, &out, c, sizeof out));
    check(rf_stream_synchronise(s));
    assert_true(isnan(out));
    release(c);
    release(b);
    release(a);
}

static void tf32_is_taken_only_where_it_is_asked_for(void **state)
{
    (void)state;
    const float a = 1.0f + 0x1p-12f, b = 1.0f;
    float out[2] = {0.0f, 0.0f};
    float *da = upload(&a, sizeof a), *db = upload(&b, sizeof b), *dc = upload(out, sizeof out);
    const matmul_case t = {.m = 1, .n = 1, .k = 1};
    for (int i = 0; i < 2; i++) {
        rf_matmul_args args = args_of(&t, da, db, NULL, dc + i);
        args.alpha = 1.0f;
        args.products = i == 0 ? RF_PRODUCTS_F32 : RF_PRODUCTS_TF32;
        check(rf_matmul(s, &args));
    }
    check(rf_copy_out(s, out, dc, sizeof out));
    check(rf_stream_synchronise(s));
    assert_true(out[0] == a);
    assert_true(out[1] == 1.0f);
    release(dc);
    release(db);
    release(da);
}

static void a_product_that_fails_says_so(void **state)
{
    (void)state;
    const float x = 1.0f;
    float *p = upload(&x, sizeof x), *c = upload(&x, sizeof x);
    setenv("REFRACT_EMUL_FAIL", "cublasGemmEx:1", 1);
    assert_int_not_equal(rf_cuda_gemm(s, RF_PRODUCTS_F32, RF_NO_TRANS, RF_NO_TRANS, 1, 1, 1, 1.0f,
                                      p, 1, p, 1, 0.0f, c, 1),
                         RF_OK);
    unsetenv("REFRACT_EMUL_FAIL");
    assert_non_null(strstr(rf_error_text(), "matrix product"));
    assert_non_null(strstr(rf_error_text(), "CUBLAS_STATUS_EXECUTION_FAILED"));
    release(c);
    release(p);
}

/* ---- what the stand-in refuses ------------------------------------------------------------- */

static cublasStatus_t multiply(int64_t lda, const float *a, const float *b, float *c)
{
    const float one = 1.0f, zero = 0.0f;
    cublasHandle_t blas = ((rf_cuda_stream *)s)->blas;
    return cublasGemmEx_64(blas, CUBLAS_OP_N, CUBLAS_OP_N, 4, 2, 3, &one, a, CUDA_R_32F, lda, b,
                           CUDA_R_32F, 3, &zero, c, CUDA_R_32F, 4, CUBLAS_COMPUTE_32F,
                           CUBLAS_GEMM_DEFAULT);
}

static void columns_closer_than_their_length_are_refused(void **state)
{
    (void)state;
    float *p = upload((float[64]){0}, 256);
    assert_int_equal(multiply(4, p, p + 16, p + 32), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(multiply(3, p, p + 16, p + 32), CUBLAS_STATUS_INVALID_VALUE);
    check(rf_stream_synchronise(s));
    release(p);
}

/* The exit code of a child that multiplies. */
static int code_of_child(const float *a, const float *b, float *c)
{
    int code = 0;
    const pid_t child = fork();
    if (child == 0) {
        fclose(stderr);
        (void)multiply(4, a, b, c);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &code, 0), child);
    return WIFEXITED(code) ? WEXITSTATUS(code) : -1;
}

static void memory_that_is_too_small_or_not_the_devices_stops(void **state)
{
    (void)state;
    float host[64] = {0};
    float *whole = upload(host, 256), *small = upload(host, 4 * 11); /* 12 floats are needed */
    assert_int_equal(code_of_child(whole, whole + 16, whole + 32), 0);
    assert_int_equal(code_of_child(small, whole + 16, whole + 32), EMUL_EXIT);
    assert_int_equal(code_of_child(whole, host, whole + 32), EMUL_EXIT);
    assert_int_equal(code_of_child(whole, whole + 16, whole + 57), EMUL_EXIT);
    assert_int_equal(code_of_child(whole, whole + 16, whole), EMUL_EXIT); /* in place */
    release(small);
    release(whole);
}

static int begin(void **state)
{
    (void)state;
    return rf_backend_cuda_create(NULL, &gpu) != RF_OK || rf_stream_create(gpu, &s) != RF_OK ||
           rf_backend_cpu_create(1, &cpu) != RF_OK || rf_stream_create(cpu, &cpu_s) != RF_OK;
}

static int end(void **state)
{
    (void)state;
    rf_stream_destroy(cpu_s);
    rf_backend_destroy(cpu);
    rf_stream_destroy(s);
    rf_backend_destroy(gpu);
    return rf_alloc_live() != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_sums_for_every_form),
        cmocka_unit_test(batches_are_products_of_their_own),
        cmocka_unit_test(a_single_row_may_come_with_any_stride),
        cmocka_unit_test(products_of_nothing_are_nothing),
        cmocka_unit_test(matmul_adds_bias_and_activates_as_the_cpu_does),
        cmocka_unit_test(a_shape_is_asked_for_once),
        cmocka_unit_test(without_an_algorithm_the_result_is_the_same),
        cmocka_unit_test(more_shapes_than_are_remembered_are_right),
        cmocka_unit_test(nan_is_not_hidden_by_relu),
        cmocka_unit_test(tf32_is_taken_only_where_it_is_asked_for),
        cmocka_unit_test(a_product_that_fails_says_so),
        cmocka_unit_test(columns_closer_than_their_length_are_refused),
        cmocka_unit_test(memory_that_is_too_small_or_not_the_devices_stops),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
