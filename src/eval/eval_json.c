/* eval.json: every figure under its formula's name, with what it was taken on. */
#include "refract/eval.h"

typedef struct figure {
    const char *name, *formula;
} figure;

/* What each key means; the text goes into the file. */
static const figure formulas[] = {
    {"x", "the activations that are to be reconstructed, as the model gives them: a transcoder's "
          "are its target's, of several sites side by side; x_hat: the reconstruction, with the "
          "coder's normalisation undone"},
    {"l0", "mean over tokens of the number of latents with a value > 0"},
    {"explained_variance",
     "1 - sum |x - x_hat|^2 / sum |x - mean|^2, the mean over the tokens of the same row"},
    {"explained_variance_by_position",
     "1 - sum |x - x_hat|^2 / sum |x - mean_t|^2, mean_t over the tokens at position t"},
    {"mse", "mean over tokens and elements of (x - x_hat)^2"},
    {"squared_error", "mean over tokens of |x - x_hat|^2"},
    {"cosine", "mean over tokens of x.x_hat / (|x| |x_hat|), 0 where a norm is 0"},
    {"alive_percent", "100 * latents with a value > 0 on at least one of the tokens / latents"},
    {"cosine_spliced", "mean over pictures of the cosine between the final embedding and the one "
                       "with x_hat in the place of x"},
    {"cosine_zero", "the same with zeros in their place"},
    {"cosine_mean", "the same with the mean of those tokens over this split in their place"},
    {"ce", "mean over labelled pictures of the cross entropy of the logits, nats; logits: of the "
           "model's head, or, with a classifier, logit_scale * the cosines of the final embedding "
           "to its classes"},
    {"ce_spliced", "the same with x_hat in the place of x"},
    {"ce_zero", "the same with zeros in their place"},
    {"ce_recovered_percent", "100 * (ce_zero - ce_spliced) / (ce_zero - ce)"},
    {"accuracy_percent", "100 * labelled pictures whose class has the largest logit / labelled "
                         "pictures; accuracy_spliced_percent and accuracy_zero_percent as for ce"},
};

const char *rf_substitution_text(rf_substitution_kind kind)
{
    switch (kind) {
    case RF_SUBSTITUTION_OFF:
        break;
    case RF_SUBSTITUTION_INPUT:
        return "the tokens that the coder sees";
    case RF_SUBSTITUTION_TARGET:
        return "the target's tokens, made of the untouched input";
    case RF_SUBSTITUTION_ALL_SITES:
        return "all sites at once, from the untouched activations";
    case RF_SUBSTITUTION_SEVERAL_MODELS:
        return "none: the sites are of several models";
    }
    return "none: not asked for";
}

static rf_status append_key(rf_str *out, int indent, const char *key)
{
    return rf_str_append(out, "%*s\"%s\": ", indent, "", key);
}

/* "key": "text", */
static rf_status append_text(rf_str *out, int indent, const char *key, const char *text)
{
    rf_status status = RF_OK;
    RF_TRY(append_key(out, indent, key));
    RF_TRY(rf_json_append_str(out, text));
    RF_TRY(rf_str_append(out, ",\n"));
fail:
    return status;
}

static rf_status append_count(rf_str *out, int indent, const char *key, int64_t value)
{
    return rf_str_append(out, "%*s\"%s\": %" PRId64 ",\n", indent, "", key, value);
}

static rf_status append_hash(rf_str *out, int indent, const char *key, uint64_t value)
{
    return rf_str_append(out, "%*s\"%s\": \"%016" PRIx64 "\",\n", indent, "", key, value);
}

/* ` "key": value` of a row, with a comma in front of all but the first. */
typedef struct number {
    const char *key;
    double value;
} number;

static rf_status append_numbers(rf_str *out, const number *numbers, int n)
{
    rf_status status = RF_OK;
    for (int i = 0; i < n; i++) {
        RF_TRY(rf_str_append(out, ", \"%s\": ", numbers[i].key));
        RF_TRY(rf_json_append_f64(out, numbers[i].value));
    }
fail:
    return status;
}

static rf_status append_tokens(rf_str *out, const rf_coder_figures *coder)
{
    rf_status status = RF_OK;

    RF_TRY(rf_str_append(out, "          \"tokens\": {\n"));
    for (int c = 0; c < RF_EVAL_N_CLASSES; c++) {
        const rf_token_figures *f = &coder->by_class[c];
        const number numbers[] = {
            {"l0", f->l0},
            {"explained_variance", f->explained_variance},
            {"explained_variance_by_position", f->explained_variance_by_position},
            {"mse", f->mse},
            {"squared_error", f->squared_error},
            {"cosine", f->cosine}};
        RF_TRY(rf_str_append(out, "            \"%s\": {\"n_tokens\": %" PRId64,
                             rf_eval_class_name((rf_eval_class)c), f->n_tokens));
        RF_TRY(append_numbers(out, numbers, 6));
        RF_TRY(rf_str_append(out, "}%s\n", c + 1 < RF_EVAL_N_CLASSES ? "," : ""));
    }
    RF_TRY(rf_str_append(out, "          },\n"));
fail:
    return status;
}

/* What each of several sites has of it, over all tokens that the coder sees. */
static rf_status append_sites(rf_str *out, const rf_coder_figures *coder)
{
    rf_status status = RF_OK;

    if (coder->n_sites == 0) {
        return RF_OK;
    }
    RF_TRY(rf_str_append(out, "          \"sites\": [\n"));
    for (int64_t i = 0; i < coder->n_sites; i++) {
        const rf_site_figures *site = &coder->sites[i];
        const rf_token_figures *f = &site->by_class[RF_EVAL_ALL];
        const number numbers[] = {
            {"explained_variance", f->explained_variance},
            {"explained_variance_by_position", f->explained_variance_by_position},
            {"mse", f->mse},
            {"squared_error", f->squared_error},
            {"cosine", f->cosine}};
        RF_TRY(rf_str_append(out, "            {\"site\": "));
        RF_TRY(rf_json_append_str(out, site->site));
        RF_TRY(rf_str_append(out, ", \"width\": %" PRId64, site->width));
        RF_TRY(append_numbers(out, numbers, 5));
        RF_TRY(rf_str_append(out, "}%s\n", i + 1 < coder->n_sites ? "," : ""));
    }
    RF_TRY(rf_str_append(out, "          ],\n"));
fail:
    return status;
}

static rf_status append_substitution(rf_str *out, const rf_substitution_figures *f)
{
    rf_status status = RF_OK;
    const number cosines[] = {{"cosine_spliced", f->cosine_spliced},
                              {"cosine_zero", f->cosine_zero},
                              {"cosine_mean", f->cosine_mean}};
    const number entropies[] = {{"ce", f->ce},
                                {"ce_spliced", f->ce_spliced},
                                {"ce_zero", f->ce_zero},
                                {"ce_recovered_percent", f->ce_recovered},
                                {"accuracy_percent", f->accuracy},
                                {"accuracy_spliced_percent", f->accuracy_spliced},
                                {"accuracy_zero_percent", f->accuracy_zero}};

    RF_TRY(append_text(out, 10, "substitution", rf_substitution_text(f->kind)));
    RF_TRY(rf_str_append(out, "          \"embedding\": {\"n_pictures\": %" PRId64, f->n_pictures));
    RF_TRY(append_numbers(out, cosines, 3));
    RF_TRY(rf_str_append(out, "},\n          \"classification\": {\"n_pictures\": %" PRId64,
                         f->n_labelled));
    RF_TRY(append_numbers(out, entropies, 7));
    RF_TRY(rf_str_append(out, "}\n"));
fail:
    return status;
}

static rf_status append_coder(rf_str *out, const rf_coder_figures *coder)
{
    rf_status status = RF_OK;
    const double alive = 100 * (double)coder->n_alive / (double)coder->n_latents;
    const number numbers[] = {{"alive_percent", coder->by_class[RF_EVAL_ALL].n_tokens > 0
                                                    ? alive
                                                    : coder->by_class[RF_EVAL_ALL].l0}};

    RF_TRY(rf_str_append(out, "        {\n"));
    RF_TRY(append_text(out, 10, "name", coder->name));
    RF_TRY(append_text(out, 10, "input", coder->input));
    if (coder->target[0] != '\0') {
        RF_TRY(append_text(out, 10, "target", coder->target));
    }
    RF_TRY(append_text(out, 10, "sees", rf_token_class_names[coder->tokens]));
    RF_TRY(append_count(out, 10, "width", coder->width));
    RF_TRY(append_count(out, 10, "out_width", coder->out_width));
    RF_TRY(append_count(out, 10, "n_latents", coder->n_latents));
    RF_TRY(rf_str_append(out, "          \"n_alive\": %" PRId64, coder->n_alive));
    RF_TRY(append_numbers(out, numbers, 1));
    RF_TRY(rf_str_append(out, ",\n"));
    RF_TRY(append_tokens(out, coder));
    RF_TRY(append_sites(out, coder));
    RF_TRY(append_substitution(out, &coder->substitution));
    RF_TRY(rf_str_append(out, "        }"));
fail:
    return status;
}

static rf_status append_split(rf_str *out, const rf_split_figures *split, const char *path)
{
    rf_status status = RF_OK;

    RF_TRY(rf_str_append(out, "    {\n"));
    RF_TRY(append_text(out, 6, "pictures",
                       split->split == RF_SPLIT_HELD_OUT ? "held out" : "trained on"));
    RF_TRY(append_text(out, 6, "path", path));
    RF_TRY(append_count(out, 6, "n_pictures", split->n_pictures));
    RF_TRY(append_count(out, 6, "n_unreadable", split->n_bad));
    RF_TRY(append_hash(out, 6, "pictures_hash", split->pictures_hash));
    RF_TRY(rf_str_append(out, "      \"coders\": ["));
    for (int64_t i = 0; i < split->n_coders; i++) {
        RF_TRY(rf_str_append(out, i == 0 ? "\n" : ",\n"));
        RF_TRY(append_coder(out, &split->coders[i]));
    }
    RF_TRY(rf_str_append(out, "\n      ]\n    }"));
fail:
    return status;
}

static rf_status append_formulas(rf_str *out)
{
    rf_status status = RF_OK;
    const int n = sizeof formulas / sizeof formulas[0];

    RF_TRY(rf_str_append(out, "  \"formulas\": {\n"));
    for (int i = 0; i < n; i++) {
        RF_TRY(append_key(out, 4, formulas[i].name));
        RF_TRY(rf_json_append_str(out, formulas[i].formula));
        RF_TRY(rf_str_append(out, i + 1 < n ? ",\n" : "\n"));
    }
    RF_TRY(rf_str_append(out, "  },\n"));
fail:
    return status;
}

/* What its logits are of, and how classes of pictures came to be its own. */
static rf_status append_classes(rf_str *out, const rf_eval_report *r,
                                const rf_evaluated_model *model)
{
    rf_status status = RF_OK;

    if (model->logit_scale > 0) {
        RF_TRY(append_text(out, 6, "classifier", r->settings.classifier));
        RF_TRY(append_hash(out, 6, "classifier_hash", model->classifier_hash));
        RF_TRY(append_key(out, 6, "logit_scale"));
        RF_TRY(rf_json_append_f64(out, model->logit_scale));
        RF_TRY(rf_str_append(out, ",\n"));
    }
    RF_TRY(append_count(out, 6, "n_classes", model->n_classes));
    if (model->class_match != NULL) {
        RF_TRY(append_text(out, 6, "classes_matched", model->class_match));
    }
    if (model->ce_reason != NULL) {
        RF_TRY(append_text(out, 6, "no_classification", model->ce_reason));
    }
fail:
    return status;
}

static rf_status append_models(rf_str *out, const rf_eval_report *r)
{
    rf_status status = RF_OK;

    RF_TRY(rf_str_append(out, "  \"models\": [\n"));
    for (int m = 0; m < r->n_models; m++) {
        const rf_evaluated_model *model = &r->models[m];
        RF_TRY(rf_str_append(out, "    {\n"));
        if (model->name[0] != '\0') {
            RF_TRY(append_text(out, 6, "name", model->name));
        }
        RF_TRY(append_text(out, 6, "model", model->model_name));
        RF_TRY(append_text(out, 6, "path", model->path));
        RF_TRY(append_classes(out, r, model));
        RF_TRY(append_text(out, 6, "weight_processing", model->weight_processing));
        RF_TRY(rf_str_append(out, "      \"hash\": \"%016" PRIx64 "\"\n    }%s\n", model->hash,
                             m + 1 < r->n_models ? "," : ""));
    }
    RF_TRY(rf_str_append(out, "  ],\n"));
fail:
    return status;
}

/* What was measured with what. */
static rf_status append_origin(rf_str *out, const rf_eval_report *r)
{
    rf_status status = RF_OK;

    RF_TRY(append_text(out, 2, "refract", RF_VERSION));
    RF_TRY(append_text(out, 2, "run", r->run_dir));
    RF_TRY(append_text(out, 2, "checkpoint", r->checkpoint));
    RF_TRY(append_count(out, 2, "step", r->step));
    RF_TRY(append_models(out, r));
    RF_TRY(append_text(out, 2, "pictures", r->pictures_path));
    RF_TRY(append_hash(out, 2, "pictures_hash", r->pictures_hash));
    RF_TRY(append_hash(out, 2, "settings_hash", r->settings_hash));
    RF_TRY(append_count(out, 2, "max_held_out", r->settings.max_held_out));
    RF_TRY(append_count(out, 2, "max_trained_on", r->settings.max_trained_on));
    RF_TRY(append_count(out, 2, "micro_batch", r->settings.micro_batch));
    RF_TRY(append_count(out, 2, "seed", (int64_t)r->seed));
fail:
    return status;
}

rf_status rf_eval_report_write_json(const rf_eval_report *report, rf_str *out)
{
    rf_status status = RF_OK;

    RF_TRY(rf_str_append(out, "{\n"));
    RF_TRY(append_text(out, 2, "format", "refract-eval-2"));
    RF_TRY(append_origin(out, report));
    RF_TRY(append_formulas(out));
    RF_TRY(rf_str_append(out, "  \"splits\": [\n"));
    for (int s = 0; s < 2; s++) {
        if (s == 0 || report->splits[s].n_coders > 0) {
            RF_TRY(rf_str_append(out, "%s", s > 0 ? ",\n" : ""));
            RF_TRY(append_split(out, &report->splits[s], report->split_paths[s]));
        }
    }
    RF_TRY(rf_str_append(out, "\n  ]\n}\n"));
fail:
    return status;
}
