/* The tables of an evaluation. */
#include "refract/report.h"

#include <math.h>

static const char *split_name(const rf_split_figures *split)
{
    return split->split == RF_SPLIT_HELD_OUT ? "held out" : "trained on";
}

/* One row: names stand in the first row of a coder and split. */
static rf_status add_tokens(rf_table *t, const rf_coder_figures *coder, const char *split,
                            int class)
{
    rf_status status = RF_OK;
    const rf_token_figures *f = &coder->by_class[class];
    const bool is_first = class == RF_EVAL_ALL;

    RF_TRY(rf_table_add(t, "%s", is_first ? coder->name : ""));
    RF_TRY(rf_table_add(t, "%s", is_first ? split : ""));
    RF_TRY(rf_table_add(t, "%s", rf_eval_class_name((rf_eval_class) class)));
    RF_TRY(rf_table_add(t, "%" PRId64, f->n_tokens));
    RF_TRY(rf_table_add_number(t, f->l0, 2));
    RF_TRY(rf_table_add_number(t, f->explained_variance, 4));
    RF_TRY(rf_table_add_number(t, f->explained_variance_by_position, 4));
    if (isnan(f->mse)) {
        RF_TRY(rf_table_add(t, "n/a"));
    } else {
        RF_TRY(rf_table_add(t, "%.4g", f->mse));
    }
    RF_TRY(rf_table_add_number(t, f->cosine, 4));
    if (is_first && f->n_tokens > 0) {
        RF_TRY(rf_table_add(t, "%.1f", 100 * (double)coder->n_alive / (double)coder->n_latents));
    } else {
        RF_TRY(rf_table_add(t, "%s", is_first ? "n/a" : ""));
    }
fail:
    return status;
}

static rf_status write_tokens(const rf_eval_report *report, rf_str *out)
{
    static const char *const headings[] = {"coder", "pictures", "tokens", "n",   "L0",
                                           "EV",    "EV pos",   "MSE",    "cos", "alive %"};
    rf_status status = RF_OK;
    rf_table *t = NULL;

    RF_TRY(rf_table_create(headings, 10, "lllrrrrrrr", &t));
    for (int64_t i = 0; i < report->splits[0].n_coders; i++) {
        for (int s = 0; s < 2; s++) {
            const rf_split_figures *split = &report->splits[s];
            const rf_coder_figures *coder = &split->coders[i];
            for (int c = 0; c < RF_EVAL_N_CLASSES; c++) {
                if (c == RF_EVAL_ALL || coder->by_class[c].n_tokens > 0) {
                    RF_TRY(add_tokens(t, coder, split_name(split), c));
                }
            }
        }
    }
    RF_TRY(rf_table_write(t, out));
fail:
    rf_table_destroy(t);
    return status;
}

static rf_status add_substitution(rf_table *t, const rf_coder_figures *coder, const char *split)
{
    rf_status status = RF_OK;
    const rf_substitution_figures *f = &coder->substitution;

    RF_TRY(rf_table_add(t, "%s", coder->name));
    RF_TRY(rf_table_add(t, "%s", split));
    RF_TRY(rf_table_add(t, "%" PRId64, f->n_pictures));
    RF_TRY(rf_table_add_number(t, f->cosine_spliced, 4));
    RF_TRY(rf_table_add_number(t, f->cosine_zero, 4));
    RF_TRY(rf_table_add_number(t, f->cosine_mean, 4));
    RF_TRY(rf_table_add_number(t, f->ce, 4));
    RF_TRY(rf_table_add_number(t, f->ce_spliced, 4));
    RF_TRY(rf_table_add_number(t, f->ce_zero, 4));
    RF_TRY(rf_table_add_number(t, f->ce_recovered, 1));
fail:
    return status;
}

static rf_status write_substitution(const rf_eval_report *report, rf_str *out)
{
    static const char *const headings[] = {"coder",   "pictures",      "n",  "spliced",
                                           "zero",    "mean",          "CE", "CE spliced",
                                           "CE zero", "% CE recovered"};
    rf_status status = RF_OK;
    rf_table *t = NULL;

    RF_TRY(rf_table_create(headings, 10, "llrrrrrrrr", &t));
    for (int64_t i = 0; i < report->splits[0].n_coders; i++) {
        for (int s = 0; s < 2; s++) {
            const rf_split_figures *split = &report->splits[s];
            RF_TRY(add_substitution(t, &split->coders[i], split_name(split)));
        }
    }
    RF_TRY(rf_table_write(t, out));
fail:
    rf_table_destroy(t);
    return status;
}

static rf_status write_pictures(const rf_eval_report *report, rf_str *out)
{
    rf_status status = RF_OK;

    RF_TRY(rf_str_append(out, "%s, step %" PRId64 "\n", report->run_dir, report->step));
    for (int s = 0; s < 2; s++) {
        const rf_split_figures *split = &report->splits[s];
        RF_TRY(
            rf_str_append(out, "%s: %" PRId64 " pictures", split_name(split), split->n_pictures));
        if (split->n_bad > 0) {
            RF_TRY(rf_str_append(out, " (%" PRId64 " more could not be read)", split->n_bad));
        }
        RF_TRY(rf_str_append(out, s == 0 ? "; " : "\n\n"));
    }
fail:
    return status;
}

rf_status rf_report_eval(const rf_eval_report *report, rf_str *out)
{
    rf_status status = RF_OK;

    RF_TRY(write_pictures(report, out));
    RF_TRY(write_tokens(report, out));
    RF_TRY(rf_str_append(out,
                         "EV: explained variance about the mean of these tokens; EV pos: about "
                         "the mean of each position;\nMSE: of one element; cos: of a token and "
                         "its reconstruction; alive: latents that fired on any token\n"));
    if (!report->settings.substitution) {
        return RF_OK;
    }
    RF_TRY(rf_str_append(out, "\n"));
    RF_TRY(write_substitution(report, out));
    RF_TRY(rf_str_append(out, "spliced, zero, mean: cosine of the final embedding to the untouched "
                              "one, with the tokens that the\ncoder sees replaced by the "
                              "reconstruction, by zeros, by their mean\n"));
    if (report->ce_reason != NULL) {
        RF_TRY(rf_str_append(out, "no cross entropy: %s\n", report->ce_reason));
    }
fail:
    return status;
}
