/* Products of bf16 only nominate: exact rules have the bits of fp32 products, on data made to
 * mislead roundings to bf16; and values of the product are those of rounded operands. Both ways to
 * multiply are tried, whichever this machine would take. */
#include "encode_fixture.h"

#include "../../src/tensor/encode_impl.h"

#include <float.h>

static void run_as(rf_encode_args args, rf_product_kind kind, int n_threads)
{
    rf_backend *be;
    rf_stream *s;
    OK(rf_backend_cpu_create(n_threads, &be));
    OK(rf_stream_create(be, &s));
    OK(rf_cpu_encode_as(s, &args, kind));
    rf_stream_destroy(s);
    rf_backend_destroy(be);
}

static int kinds_here(rf_product_kind out[2])
{
    out[0] = RF_PRODUCT_ROUNDED;
    out[1] = RF_PRODUCT_BF16;
    return rf_cpu_has_bf16() ? 2 : 1;
}

typedef struct exact_lists {
    rf_codes top, batch, above;
    int64_t overflow, refused;
    float floor;
} exact_lists;

static exact_lists run_exact(const problem *p, int64_t k, float floor, rf_product_kind kind,
                             int n_threads)
{
    exact_lists e = {.top = make_codes(p->n, p->n * rf_min_i64(k, p->f)),
                     .batch = make_codes(p->n, p->n * k),
                     .above = make_codes(p->n, p->n * p->f),
                     .floor = floor};
    rf_encode_args args = args_of(p);
    args.n_refused = &e.refused;
    args.n_lists = 3;
    args.lists[0] =
        (rf_select_list){.rule = RF_SELECT_TOPK, .k = k, .eligible = p->eligible, .codes = &e.top};
    args.lists[1] = (rf_select_list){
        .rule = RF_SELECT_BATCH_TOPK, .k = p->n * k, .eligible = p->eligible, .codes = &e.batch};
    args.lists[2] = (rf_select_list){.rule = RF_SELECT_ABOVE,
                                     .floor = &e.floor,
                                     .eligible = p->eligible,
                                     .codes = &e.above,
                                     .overflow = &e.overflow};
    run_as(args, kind, n_threads);
    return e;
}

static void unmake_lists(exact_lists *e)
{
    unmake_codes(&e->top);
    unmake_codes(&e->batch);
    unmake_codes(&e->above);
}

static void check_exact(const problem *p, int64_t k, float floor, const char *what)
{
    rf_product_kind kinds[2];
    exact_lists want = run_exact(p, k, floor, RF_PRODUCT_F32, 1);
    for (int i = 0; i < kinds_here(kinds); i++) {
        for (int n_threads = 1; n_threads <= 3; n_threads++) {
            exact_lists got = run_exact(p, k, floor, kinds[i], n_threads);
            same_codes(&got.top, &want.top, what);
            same_codes(&got.batch, &want.batch, what);
            same_codes(&got.above, &want.above, what);
            assert_int_equal(got.refused, want.refused);
            assert_int_equal(got.overflow, 0);
            unmake_lists(&got);
        }
    }
    unmake_lists(&want);
}

static void exact_rules_have_the_bits_of_fp32_products(void **state)
{
    (void)state;
    static const int64_t rows[] = {1, 16, 47, 49, 200};
    static const int64_t latents[] = {1, 15, 383, 384, 385, 1000};
    for (int i = 0; i < 5; i++) {
        for (int j = 0; j < 6; j++) {
            problem p = make((uint64_t)(10 * i + j), rows[i], 24 + j, latents[j]);
            check_exact(&p, 1 + (i + j) % 9, 2.0f, "ragged");
            unmake(&p);
        }
    }
    problem wide = make(77, 60, 801, 2100); /* steps over K, the last ragged */
    wide.eligible = rf_calloc(wide.f, 1);
    wide.valid = rf_calloc(wide.n, 1);
    for (int64_t i = 0; i < wide.f; i++) {
        wide.eligible[i] = i % 4 != 1;
        wide.valid[i % wide.n] = i % wide.n % 7 != 2;
    }
    check_exact(&wide, 16, 10.0f, "wide");
    unmake(&wide);
}

/* Elements of the best latent lie halfway and are all rounded down; of the others the products are
 * larger, the values smaller. */
static void what_roundings_hide_is_found(void **state)
{
    (void)state;
    problem p = make(5, 20, 256, 800);
    const float down = 1.0f + 0x1p-8f, up = 1.0f + 0x1.1p-8f;
    for (int64_t i = 0; i < p.f; i++) {
        for (int64_t j = 0; j < p.d; j++) {
            p.w[i * p.d + j] = i == 777 ? down : (i + j) % 2 == 0 ? up : 1.0f + 0x1.cp-9f;
        }
        p.b[i] = 0.0f;
    }
    for (int64_t e = 0; e < p.n * p.d; e++) {
        p.x[e] = down;
    }
    check_exact(&p, 1, 257.9f, "halfway");
    for (int64_t e = 0; e < p.n * p.d; e++) {
        p.x[e] = e % 2 == 0 ? up : -up; /* signs cancel what is common */
    }
    check_exact(&p, 3, 0.0f, "halfway, with signs");
    unmake(&p);
}

/* A unit in subnormal operands may take them for zero; the largest floats are no bf16. */
static void operands_of_any_size_are_bounded(void **state)
{
    (void)state;
    problem p = make(6, 50, 40, 900);
    for (int64_t i = 0; i < p.f; i++) {
        float scale = powf(10.0f, (float)(i % 13) - 6.0f);
        for (int64_t j = 0; j < p.d; j++) {
            p.w[i * p.d + j] *= scale;
        }
    }
    for (int64_t r = 0; r < p.n; r++) {
        p.x[r * p.d + 5] = 500.0f;
    }
    check_exact(&p, 12, 100.0f, "norms from 1e-6 to 1e6");
    unmake(&p);
    p = make(60, 50, 40, 900);
    for (int64_t i = 0; i < p.f * p.d; i++) {
        p.w[i] = ldexpf(p.w[i], 92);
    }
    memset(p.b, 0, sizeof(float) * (size_t)p.f);
    for (int64_t e = 0; e < p.n * p.d; e++) {
        p.x[e] *= 1e-40f; /* a bf16 that is subnormal is a multiple of 9.2e-41 */
    }
    check_exact(&p, 12, 0.0f, "subnormal tokens, huge latents");
    for (int64_t i = 0; i < p.f * p.d; i++) {
        p.w[i] = 1e-6f * (float)(1 + i % 11);
    }
    for (int64_t e = 0; e < p.n * p.d; e++) {
        p.x[e] = e % p.d == e / p.d % p.d ? FLT_MAX : 1.0f;
    }
    check_exact(&p, 12, 1e30f, "the largest float");
    p.x[3] = INFINITY;
    p.x[5 * p.d] = NAN;
    check_exact(&p, 12, 1e30f, "not finite");
    unmake(&p);
}

static void ties_are_as_with_fp32(void **state)
{
    (void)state;
    problem p = make(7, 60, 12, 900);
    for (int64_t i = 0; i < p.f; i++) {
        memcpy(p.w + i * p.d, p.w + i % 7 * p.d, sizeof(float) * (size_t)p.d);
        p.b[i] = 0.25f;
    }
    check_exact(&p, 10, 0.5f, "duplicates");
    memset(p.w, 0, sizeof(float) * (size_t)(p.f * p.d));
    check_exact(&p, 40, 0.25f, "all equal");
    unmake(&p);
}

/* Products are exact and sums of 40 terms in fp32, against sums of rounded operands in double. */
static void values_of_the_product_are_of_rounded_operands(void **state)
{
    (void)state;
    problem p = make(8, 70, 40, 500);
    rf_product_kind kinds[2];
    float *x = rf_calloc(p.n * p.d, sizeof *x), *w = rf_calloc(p.f * p.d, sizeof *w);
    rf_cpu_round_bf16(p.x, x, p.n * p.d);
    rf_cpu_round_bf16(p.w, w, p.f * p.d);
    for (int i = 0; i < kinds_here(kinds); i++) {
        rf_codes codes[3];
        for (int t = 0; t < 3; t++) {
            int64_t overflow = -1;
            rf_encode_args args = args_of(&p);
            codes[t] = make_codes(p.n, p.n * p.f);
            args.lists[0] = (rf_select_list){
                .rule = RF_SELECT_POSITIVE, .codes = &codes[t], .overflow = &overflow};
            run_as(args, kinds[i], 1 + t);
            same_codes(&codes[t], &codes[0], "threads");
        }
        assert_true(codes[0].row_start[p.n] > p.n * p.f / 3);
        for (int64_t r = 0; r < p.n; r++) {
            for (int64_t e = codes[0].row_start[r]; e < codes[0].row_start[r + 1]; e++) {
                int64_t latent = codes[0].latent[e];
                double v = (double)p.b[latent];
                for (int64_t d = 0; d < p.d; d++) {
                    v += (double)x[r * p.d + d] * (double)w[latent * p.d + d];
                }
                double error = fabs((double)codes[0].value[e] - v);
                assert_true(error <= 5e-5); /* 41 roundings of |x||w| < 40: 41 * 40 * 2^-25 */
            }
        }
        for (int t = 0; t < 3; t++) {
            unmake_codes(&codes[t]);
        }
    }
    rf_free(x);
    rf_free(w);
    unmake(&p);
}

static void a_call_may_ask_for_bf16(void **state)
{
    (void)state;
    problem p = make(9, 33, 24, 600);
    rf_codes got = make_codes(p.n, p.n * 5), want = make_codes(p.n, p.n * 5);
    rf_encode_args args = args_of(&p);
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_TOPK, .k = 5, .codes = &want};
    run(&args, 2);
    args.lists[0].codes = &got;
    args.products = RF_PRODUCTS_BF16;
    run(&args, 2);
    same_codes(&got, &want, "bf16");
    unmake_codes(&got);
    unmake_codes(&want);
    unmake(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_rules_have_the_bits_of_fp32_products),
        cmocka_unit_test(what_roundings_hide_is_found),
        cmocka_unit_test(operands_of_any_size_are_bounded),
        cmocka_unit_test(ties_are_as_with_fp32),
        cmocka_unit_test(values_of_the_product_are_of_rounded_operands),
        cmocka_unit_test(a_call_may_ask_for_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
