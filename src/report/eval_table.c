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

/* One row of a site: of all tokens that the coder sees, and only what differs from site to site. */
static rf_status add_site(rf_table *t, const rf_site_figures *site)
{
    rf_status status = RF_OK;
    const rf_token_figures *f = &site->by_class[RF_EVAL_ALL];

    RF_TRY(rf_table_add(t, "%s", ""));
    RF_TRY(rf_table_add(t, "%s", ""));
    RF_TRY(rf_table_add(t, "at %s", site->site));
    RF_TRY(rf_table_add(t, "%" PRId64, f->n_tokens));
    RF_TRY(rf_table_add(t, "%s", ""));
    RF_TRY(rf_table_add_number(t, f->explained_variance, 4));
    RF_TRY(rf_table_add_number(t, f->explained_variance_by_position, 4));
    if (isnan(f->mse)) {
        RF_TRY(rf_table_add(t, "n/a"));
    } else {
        RF_TRY(rf_table_add(t, "%.4g", f->mse));
    }
    RF_TRY(rf_table_add_number(t, f->cosine, 4));
    RF_TRY(rf_table_add(t, "%s", ""));
fail:
    return status;
}

static rf_status add_coder(rf_table *t, const rf_coder_figures *coder, const char *split)
{
    rf_status status = RF_OK;

    for (int c = 0; c < RF_EVAL_N_CLASSES; c++) {
        if (c == RF_EVAL_ALL || coder->by_class[c].n_tokens > 0) {
            RF_TRY(add_tokens(t, coder, split, c));
        }
    }
    for (int64_t i = 0; i < coder->n_sites; i++) {
        RF_TRY(add_site(t, &coder->sites[i]));
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
            if (i < split->n_coders) {
                RF_TRY(add_coder(t, &split->coders[i], split_name(split)));
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
            if (i < split->n_coders &&
                split->coders[i].substitution.kind != RF_SUBSTITUTION_SEVERAL_MODELS) {
                RF_TRY(add_substitution(t, &split->coders[i], split_name(split)));
            }
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
        if (s > 0 && split->n_coders == 0) {
            continue;
        }
        RF_TRY(rf_str_append(out, "%s%s: %" PRId64 " pictures", s > 0 ? "; " : "",
                             split_name(split), split->n_pictures));
        if (s == 0 && report->settings.pictures[0] != '\0') {
            RF_TRY(rf_str_append(out, " of %s", report->settings.pictures));
        }
        if (split->n_bad > 0) {
            RF_TRY(rf_str_append(out, " (%" PRId64 " more could not be read)", split->n_bad));
        }
    }
    RF_TRY(rf_str_append(out, "\n\n"));
fail:
    return status;
}

/* What coders that are not autoencoders of one site reconstruct of what. */
static rf_status write_sites(const rf_eval_report *report, rf_str *out)
{
    rf_status status = RF_OK;
    bool has_one = false;

    for (int64_t i = 0; i < report->splits[0].n_coders; i++) {
        const rf_coder_figures *coder = &report->splits[0].coders[i];
        if (coder->target[0] != '\0') {
            RF_TRY(rf_str_append(out, "%s: transcoder, %s from %s\n", coder->name, coder->target,
                                 coder->input));
        } else if (coder->n_sites > 0) {
            RF_TRY(rf_str_append(out, "%s: crosscoder of %s\n", coder->name, coder->input));
        } else {
            continue;
        }
        has_one = true;
    }
    RF_TRY(rf_str_append(out, "%s", has_one ? "\n" : ""));
fail:
    return status;
}

/* A classifier is there with one model only; its accuracy tells whether classes are in their
 * places.
 */
static rf_status write_classifier(const rf_eval_report *report, rf_str *out)
{
    rf_status status = RF_OK;
    const rf_evaluated_model *model = &report->models[0];
    const rf_split_figures *split = &report->splits[0];

    if (report->n_models == 1 && model->logit_scale > 0 && model->class_match != NULL) {
        RF_TRY(rf_str_append(out,
                             "CE: of %s, %" PRId64 " classes, cosines x %.4g; pictures' classes "
                             "matched %s\n",
                             report->settings.classifier, model->n_classes, model->logit_scale,
                             model->class_match));
    }
    if (split->n_coders > 0 && split->coders[0].substitution.n_labelled > 0) {
        RF_TRY(rf_str_append(out,
                             "%.2f %% of %" PRId64 " labelled pictures are classified right "
                             "by the untouched model\n",
                             split->coders[0].substitution.accuracy,
                             split->coders[0].substitution.n_labelled));
    }
fail:
    return status;
}

/* What the figures of substitution are, and who has none. */
static rf_status write_notes(const rf_eval_report *report, rf_str *out)
{
    rf_status status = RF_OK;

    RF_TRY(rf_str_append(out, "spliced, zero, mean: cosine of the final embedding to the untouched "
                              "one, with the tokens that the\ncoder reconstructs replaced by the "
                              "reconstruction, by zeros, by their mean\n"));
    for (int64_t i = 0; i < report->splits[0].n_coders; i++) {
        const rf_coder_figures *coder = &report->splits[0].coders[i];
        const rf_substitution_kind kind = coder->substitution.kind;
        if (kind == RF_SUBSTITUTION_ALL_SITES || kind == RF_SUBSTITUTION_SEVERAL_MODELS) {
            RF_TRY(rf_str_append(out, "%s: %s\n", coder->name, rf_substitution_text(kind)));
        }
    }
    RF_TRY(write_classifier(report, out));
    for (int m = 0; m < report->n_models; m++) {
        const rf_evaluated_model *model = &report->models[m];
        if (model->ce_reason != NULL) {
            RF_TRY(rf_str_append(out, "no cross entropy%s%s: %s\n",
                                 model->name[0] != '\0' ? " of " : "", model->name,
                                 model->ce_reason));
        }
    }
fail:
    return status;
}

rf_status rf_report_eval(const rf_eval_report *report, rf_str *out)
{
    rf_status status = RF_OK;

    RF_TRY(write_pictures(report, out));
    RF_TRY(write_sites(report, out));
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
    RF_TRY(write_notes(report, out));
fail:
    return status;
}
