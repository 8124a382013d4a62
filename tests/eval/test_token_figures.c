/* Figures of tokens against plain two-pass loops in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "refract/eval.h"

enum { N = 7, T = 6, D = 5 }; /* pictures, positions (CLS, 2 registers, 3 patches), width */

typedef struct fixture {
    float x[N * T * D], x_hat[N * T * D], shift[D];
    uint8_t valid[N];
    int64_t n_active[N * T];
    rf_token_layout layout;
    double arena[T * (2 + D)];
    rf_site_sums site;
    rf_coder_sums sums;
} fixture;

static void fill(fixture *f, float offset)
{
    *f = (fixture){
        .layout = {.n_positions = T, .width = D, .spans = {{0, T}, {0, 1}, {1, 2}, {3, 3}}}};
    for (int i = 0; i < N * T * D; i++) {
        float r[4];
        rf_random_normal4(1, RF_RANDOM_TEST, (uint64_t)i, 0, r);
        /* CLS is far from the others, and every position has a mean of its own. */
        f->x[i] = offset + r[0] + (float)(i / D % T == 0 ? 5 : i / D % T);
        f->x_hat[i] = f->x[i] + 0.3F * r[1];
        f->n_active[i / D] = 1 + i / D % 4;
    }
    for (int b = 0; b < N; b++) {
        f->valid[b] = b != 2;
    }
    for (int i = 0; i < D; i++) {
        f->shift[i] = offset + 0.1F * (float)i;
    }
}

static int class_of(int t)
{
    return t == 0 ? RF_EVAL_CLS : t < 3 ? RF_EVAL_REGISTER : RF_EVAL_PATCH;
}

static void measure(fixture *f)
{
    f->site = rf_site_sums_bind(f->arena, T, D);
    rf_site_sums_add(&f->site, f->x, f->shift, f->valid, N);
    for (int i = 0; i < N * T; i++) {
        if (f->valid[i / T] != 0) {
            rf_coder_sums_add(&f->sums, (rf_eval_class)class_of(i % T), f->x + i * D,
                              f->x_hat + i * D, D, f->n_active[i]);
        }
    }
}

/* Mean over the valid tokens of positions first..end-1. */
static void naive_mean(const fixture *f, int first, int end, double *mean)
{
    int n = 0;
    memset(mean, 0, D * sizeof *mean);
    for (int b = 0; b < N; b++) {
        for (int t = first; f->valid[b] != 0 && t < end; t++, n++) {
            for (int i = 0; i < D; i++) {
                mean[i] += (double)f->x[(b * T + t) * D + i];
            }
        }
    }
    for (int i = 0; i < D; i++) {
        mean[i] /= n;
    }
}

static double naive_spread(const fixture *f, int first, int end, const double *mean)
{
    double sum = 0;
    for (int b = 0; b < N; b++) {
        for (int t = first; f->valid[b] != 0 && t < end; t++) {
            for (int i = 0; i < D; i++) {
                const double d = (double)f->x[(b * T + t) * D + i] - mean[i];
                sum += d * d;
            }
        }
    }
    return sum;
}

static rf_token_figures naive(const fixture *f, int first, int end)
{
    rf_token_figures out = {0};
    double error = 0, spread = 0, mean[D];

    for (int b = 0; b < N; b++) {
        for (int t = first; f->valid[b] != 0 && t < end; t++) {
            double xx = 0, hh = 0, xh = 0;
            for (int i = 0; i < D; i++) {
                const double x = (double)f->x[(b * T + t) * D + i];
                const double h = (double)f->x_hat[(b * T + t) * D + i];
                error += (x - h) * (x - h);
                xx += x * x;
                hh += h * h;
                xh += x * h;
            }
            out.n_tokens += 1;
            out.l0 += (double)f->n_active[b * T + t];
            out.cosine += xh / sqrt(xx * hh);
        }
    }
    for (int t = first; t < end; t++) {
        naive_mean(f, t, t + 1, mean);
        spread += naive_spread(f, t, t + 1, mean);
    }
    naive_mean(f, first, end, mean);
    out.l0 /= (double)out.n_tokens;
    out.cosine /= (double)out.n_tokens;
    out.squared_error = error / (double)out.n_tokens;
    out.mse = out.squared_error / D;
    out.explained_variance = 1 - error / naive_spread(f, first, end, mean);
    out.explained_variance_by_position = 1 - error / spread;
    return out;
}

/* Both are double sums of some hundred terms; the offset of 1000 costs six of sixteen digits. */
static void assert_close(double got, double expected)
{
    if (!(fabs(got - expected) <= 1e-9 * fabs(expected))) {
        fail_msg("got %.17g, expected %.17g", got, expected);
    }
}

static void figures_are_those_of_two_pass_loops_whatever_the_mean(void **state)
{
    (void)state;
    static const float offsets[] = {0, 1000, -30};
    for (size_t k = 0; k < 3; k++) {
        fixture f;
        fill(&f, offsets[k]);
        measure(&f);
        for (int c = 0; c < RF_EVAL_N_CLASSES; c++) {
            const rf_token_span span = f.layout.spans[c];
            rf_token_figures got, expected;
            rf_token_figures_compute(&f.sums, (rf_eval_class)c, &span, &f.site, 1, &got);
            expected = naive(&f, (int)span.first, (int)(span.first + span.count));
            assert_int_equal(got.n_tokens, expected.n_tokens);
            assert_close(got.l0, expected.l0);
            assert_close(got.mse, expected.mse);
            assert_close(got.squared_error, expected.squared_error);
            assert_close(got.cosine, expected.cosine);
            assert_close(got.explained_variance, expected.explained_variance);
            assert_close(got.explained_variance_by_position,
                         expected.explained_variance_by_position);
        }
    }
}

static void explained_variance_about_all_exceeds_that_about_positions(void **state)
{
    (void)state;
    fixture f;
    rf_token_figures got;
    fill(&f, 0);
    measure(&f);
    rf_token_figures_compute(&f.sums, RF_EVAL_ALL, &f.layout.spans[0], &f.site, 1, &got);
    assert_true(got.explained_variance > got.explained_variance_by_position + 0.01);
}

static void a_class_without_tokens_is_not_a_number(void **state)
{
    (void)state;
    fixture f;
    rf_token_figures got;
    fill(&f, 0);
    f.site = rf_site_sums_bind(f.arena, T, D);
    rf_token_figures_compute(&f.sums, RF_EVAL_CLS, &f.layout.spans[RF_EVAL_CLS], &f.site, 1, &got);
    assert_int_equal(got.n_tokens, 0);
    assert_true(isnan(got.l0) && isnan(got.mse) && isnan(got.cosine));
    assert_true(isnan(got.explained_variance) && isnan(got.explained_variance_by_position));
}

static void a_constant_has_no_variance_to_explain(void **state)
{
    (void)state;
    fixture f;
    rf_token_figures got;
    fill(&f, 0);
    for (int i = 0; i < N * T * D; i++) {
        f.x[i] = 0.1F; /* not exact in binary: what is left of the difference is rounding */
    }
    measure(&f);
    rf_token_figures_compute(&f.sums, RF_EVAL_ALL, &f.layout.spans[0], &f.site, 1, &got);
    assert_int_equal(got.n_tokens, (N - 1) * T);
    assert_true(isnan(got.explained_variance) && isnan(got.explained_variance_by_position));
    assert_true(!isnan(got.mse));
}

/* Prisma takes its cosine over the tokens of each channel; of tokens that are
 * reconstructed up to their lengths that is less than 1. */
static void cosine_is_of_tokens_not_of_channels(void **state)
{
    (void)state;
    fixture f;
    rf_token_figures got;
    fill(&f, 0);
    for (int i = 0; i < N * T * D; i++) {
        f.x_hat[i] = f.x[i] * (float)(1 << i / D % 7); /* exact */
    }
    measure(&f);
    rf_token_figures_compute(&f.sums, RF_EVAL_ALL, &f.layout.spans[0], &f.site, 1, &got);
    assert_close(got.cosine, 1);
}

/* Two halves of a row as sites of their own. */
static void several_sites_have_the_variance_of_the_row_that_they_make(void **state)
{
    (void)state;
    enum { LEFT = 2, RIGHT = D - LEFT };
    fixture f;
    double arena[2][T * (2 + D)] = {{0}};
    float parts[2][N * T * D];
    rf_token_figures whole, got;
    fill(&f, 0);
    measure(&f);
    for (int i = 0; i < N * T; i++) {
        memcpy(parts[0] + i * LEFT, f.x + i * D, LEFT * sizeof(float));
        memcpy(parts[1] + i * RIGHT, f.x + i * D + LEFT, RIGHT * sizeof(float));
    }
    const rf_site_sums sites[2] = {rf_site_sums_bind(arena[0], T, LEFT),
                                   rf_site_sums_bind(arena[1], T, RIGHT)};
    rf_site_sums_add(&sites[0], parts[0], f.shift, f.valid, N);
    rf_site_sums_add(&sites[1], parts[1], f.shift + LEFT, f.valid, N);
    for (int c = 0; c < RF_EVAL_N_CLASSES; c++) {
        const rf_token_span spans[2] = {f.layout.spans[c], f.layout.spans[c]};
        rf_token_figures_compute(&f.sums, (rf_eval_class)c, spans, &f.site, 1, &whole);
        rf_token_figures_compute(&f.sums, (rf_eval_class)c, spans, sites, 2, &got);
        assert_close(got.explained_variance, whole.explained_variance);
        assert_close(got.explained_variance_by_position, whole.explained_variance_by_position);
        assert_close(got.mse, whole.mse);
    }
}

static void the_mean_is_of_readable_tokens_of_the_span(void **state)
{
    (void)state;
    fixture f;
    float got[D];
    double expected[D];
    fill(&f, 100);
    measure(&f);
    rf_site_sums_mean(&f.site, f.layout.spans[RF_EVAL_PATCH], f.shift, got);
    naive_mean(&f, 3, 6, expected);
    for (int i = 0; i < D; i++) {
        /* rounded once to fp32 */
        assert_true(fabs((double)got[i] - expected[i]) <= 1e-7 * fabs(expected[i]));
    }
}

static void cosine_with_a_zero_vector_is_zero(void **state)
{
    (void)state;
    const float zero[3] = {0, 0, 0}, one[3] = {1, 2, 2}, minus[3] = {-2, -4, -4};
    assert_true(rf_eval_cosine(zero, one, 3) == 0);
    assert_close(rf_eval_cosine(one, minus, 3), -1);
}

static void cross_entropy_survives_large_logits(void **state)
{
    (void)state;
    const float logits[3] = {1000, 999, -1000};
    assert_close(rf_eval_cross_entropy(logits, 3, 0), log1p(exp(-1)));
    assert_close(rf_eval_cross_entropy(logits, 3, 2), 2000 + log1p(exp(-1)));
}

static void a_coder_has_the_classes_that_it_sees(void **state)
{
    (void)state;
    const rf_vit_config config = {.n_tokens = T,
                                  .n_prefix = 3,
                                  .n_registers = 2,
                                  .n_patches = 3,
                                  .has_cls = true,
                                  .d_model = D,
                                  .n_layers = 1};
    const rf_hook_point point = {
        .name = "blocks.0.hook_resid_post", .shape = RF_HOOK_TOKENS, .width = D};
    rf_token_layout all, patch, reg;
    assert_int_equal(rf_token_layout_init(&config, &point, RF_TOKENS_ALL, &all), RF_OK);
    assert_int_equal(all.n_positions, T);
    assert_int_equal(all.spans[RF_EVAL_ALL].count, T);
    assert_int_equal(all.spans[RF_EVAL_CLS].count, 1);
    assert_int_equal(all.spans[RF_EVAL_REGISTER].first, 1);
    assert_int_equal(all.spans[RF_EVAL_REGISTER].count, 2);
    assert_int_equal(all.spans[RF_EVAL_PATCH].first, 3);
    assert_int_equal(rf_token_layout_init(&config, &point, RF_TOKENS_PATCH, &patch), RF_OK);
    assert_int_equal(patch.n_positions, T);
    assert_int_equal(patch.spans[RF_EVAL_ALL].first, 3);
    assert_int_equal(patch.spans[RF_EVAL_ALL].count, 3);
    assert_int_equal(patch.spans[RF_EVAL_CLS].count, 0);
    assert_int_equal(patch.spans[RF_EVAL_PATCH].count, 3);
    assert_int_equal(rf_token_layout_init(&config, &point, RF_TOKENS_REGISTER, &reg), RF_OK);
    assert_int_equal(reg.spans[RF_EVAL_ALL].first, 1);
    assert_int_equal(reg.spans[RF_EVAL_PATCH].count, 0);
}

static void a_point_without_the_class_is_refused(void **state)
{
    (void)state;
    const rf_vit_config config = {.n_tokens = 4, .n_prefix = 1, .n_patches = 3, .has_cls = true};
    const rf_hook_point point = {
        .name = "blocks.0.hook_resid_post", .shape = RF_HOOK_TOKENS, .width = D};
    rf_token_layout layout;
    assert_int_not_equal(rf_token_layout_init(&config, &point, RF_TOKENS_REGISTER, &layout), RF_OK);
    assert_int_not_equal(rf_token_layout_init(&config, &point, RF_TOKENS_POOLED, &layout), RF_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_are_those_of_two_pass_loops_whatever_the_mean),
        cmocka_unit_test(explained_variance_about_all_exceeds_that_about_positions),
        cmocka_unit_test(a_class_without_tokens_is_not_a_number),
        cmocka_unit_test(a_constant_has_no_variance_to_explain),
        cmocka_unit_test(cosine_is_of_tokens_not_of_channels),
        cmocka_unit_test(several_sites_have_the_variance_of_the_row_that_they_make),
        cmocka_unit_test(the_mean_is_of_readable_tokens_of_the_span),
        cmocka_unit_test(cosine_with_a_zero_vector_is_zero),
        cmocka_unit_test(cross_entropy_survives_large_logits),
        cmocka_unit_test(a_coder_has_the_classes_that_it_sees),
        cmocka_unit_test(a_point_without_the_class_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
