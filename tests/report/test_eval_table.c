/* The tables of an evaluation. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "refract/report.h"

static rf_coder_figures figures(double l0)
{
    const double none = (double)NAN;
    const rf_token_figures absent = {0, none, none, none, none, none, none};
    rf_coder_figures out = {.name = "resid-8", .n_latents = 200, .n_alive = 50, .width = 4};
    for (int c = 0; c < RF_EVAL_N_CLASSES; c++) {
        out.by_class[c] = absent;
    }
    out.by_class[RF_EVAL_ALL] = (rf_token_figures){30, l0, 0.75, 0.5, 1.5e-3, 6e-3, 0.9};
    out.by_class[RF_EVAL_PATCH] = out.by_class[RF_EVAL_ALL];
    out.substitution = (rf_substitution_figures){.n_pictures = 3,
                                                 .cosine_spliced = 0.98765,
                                                 .cosine_zero = 0.1,
                                                 .cosine_mean = 0.2,
                                                 .ce = none,
                                                 .ce_spliced = none,
                                                 .ce_zero = none,
                                                 .ce_recovered = none};
    return out;
}

static void both_splits_stand_beside_each_other(void **state)
{
    (void)state;
    rf_coder_figures held_out = figures(32), trained_on = figures(31.5);
    rf_str out = {0};
    rf_eval_report report = {
        .run_dir = "runs/a",
        .step = 7,
        .settings = {.substitution = true},
        .n_models = 1,
        .splits = {
            {.split = RF_SPLIT_HELD_OUT,
             .n_pictures = 3,
             .n_bad = 2,
             .coders = &held_out,
             .n_coders = 1},
            {.split = RF_SPLIT_TRAIN, .n_pictures = 4, .coders = &trained_on, .n_coders = 1}}};
    assert_int_equal(rf_report_eval(&report, &out), RF_OK);
    assert_non_null(strstr(out.data, "held out: 3 pictures (2 more could not be read); "
                                     "trained on: 4 pictures\n"));
    assert_non_null(strstr(out.data, "resid-8  held out    all     30  32.00  0.7500  0.5000  "
                                     "0.0015  0.9000     25.0\n"));
    assert_non_null(strstr(out.data, "resid-8  trained on  all     30  31.50"));
    assert_null(strstr(out.data, "  cls ")); /* the coder sees none: no row */
    assert_non_null(strstr(out.data, "resid-8  held out    3   0.9877  0.1000  0.2000"));
    rf_str_fini(&out);
}

static void without_substitution_there_is_one_table(void **state)
{
    (void)state;
    rf_coder_figures coder = figures(1);
    rf_str out = {0};
    const rf_split_figures split = {.coders = &coder, .n_coders = 1};
    const rf_eval_report report = {.splits = {split, split}};
    assert_int_equal(rf_report_eval(&report, &out), RF_OK);
    assert_null(strstr(out.data, "spliced"));
    rf_str_fini(&out);
}

static void a_missing_cross_entropy_says_why(void **state)
{
    (void)state;
    rf_coder_figures coder = figures(1);
    rf_str out = {0};
    char reason[] = "the model has no classification head";
    const rf_split_figures split = {.coders = &coder, .n_coders = 1};
    const rf_eval_report report = {.settings = {.substitution = true},
                                   .models = {{.ce_reason = reason}},
                                   .n_models = 1,
                                   .splits = {split, split}};
    assert_int_equal(rf_report_eval(&report, &out), RF_OK);
    assert_non_null(strstr(out.data, "no cross entropy: the model has no classification head\n"));
    rf_str_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_splits_stand_beside_each_other),
        cmocka_unit_test(without_substitution_there_is_one_table),
        cmocka_unit_test(a_missing_cross_entropy_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
