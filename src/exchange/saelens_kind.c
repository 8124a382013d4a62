/* What SAELens calls a coder, or why it has none like it. */
#include "exchange_impl.h"

static rf_status check_sites(const rf_coder *coder)
{
    rf_status status = RF_OK;
    const rf_coder_shape *shape = rf_coder_get_shape(coder);

    if (shape->n_in > 1 || shape->n_out > 1) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "it %s %d sites side by side%s, and a SAELens coder reads one and makes one",
                shape->n_in > 1 ? "reads" : "reconstructs",
                shape->n_in > 1 ? shape->n_in : shape->n_out,
                shape->n_out == 0 ? " (a crosscoder)" : "");
    }
fail:
    return status;
}

/* One k for every token that the coder sees. */
static rf_status find_k(const rf_coder *coder, int64_t *out)
{
    rf_status status = RF_OK;
    const rf_coder_settings *settings = rf_coder_get_settings(coder);
    const rf_token_class tokens = rf_coder_token_class(settings);
    const int64_t cls = rf_k_of(&settings->k, RF_TOKENS_CLS);
    const int64_t reg = rf_k_of(&settings->k, RF_TOKENS_REGISTER);
    const int64_t patch = rf_k_of(&settings->k, RF_TOKENS_PATCH);

    if (tokens == RF_TOKENS_ALL && (cls != reg || cls != patch)) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "its k differs by token class (cls %" PRId64 ", register %" PRId64
                ", patch %" PRId64 "), and SAELens has one for all",
                cls, reg, patch);
    }
    *out = rf_min_i64(rf_k_of(&settings->k, tokens), rf_coder_n_latents(coder));
fail:
    return status;
}

/* BatchTopK's classes share out their k apart, and end with a threshold each. */
static rf_status check_threshold(const rf_coder *coder)
{
    rf_status status = RF_OK;
    const rf_k_by_class *k = &rf_coder_get_settings(coder)->k;

    if (rf_coder_has(coder, RF_CODER_CLASS_THRESHOLDS)) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "its k differs by token class (cls %" PRId64 ", register %" PRId64
                ", patch %" PRId64 "), so that each has a threshold of its own, and SAELens has "
                "one for all",
                rf_k_of(k, RF_TOKENS_CLS), rf_k_of(k, RF_TOKENS_REGISTER),
                rf_k_of(k, RF_TOKENS_PATCH));
    }
fail:
    return status;
}

/* By what selects in use, so that architectures that differ in training alone are one. */
static rf_status find_selection(const rf_coder *coder, rf_saelens_kind *out)
{
    rf_status status = RF_OK;
    const rf_architecture *a = rf_coder_architecture(coder);
    const rf_select_rule rule = a->rule(rf_coder_get_settings(coder));

    if (a->act == RF_CODER_GATED) {
        out->is_gated = true;
        out->architecture = "gated";
    } else if (a->act == RF_CODER_JUMP || rule == RF_SELECT_BATCH_TOPK) {
        RF_TRY(check_threshold(coder));
        out->has_threshold = true;
        out->architecture = "jumprelu";
    } else if (rule == RF_SELECT_TOPK) {
        RF_TRY(find_k(coder, &out->k));
        out->architecture = "topk";
    } else {
        out->architecture = "standard";
    }
fail:
    return status;
}

static rf_status find_transcoder(rf_saelens_kind *out, bool is_per_token)
{
    rf_status status = RF_OK;

    if (out->is_gated || out->k > 0) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "it is a transcoder of the kind '%s', and SAELens has those of ReLU and JumpReLU "
                "alone",
                out->architecture);
    }
    if (out->has_threshold) {
        out->architecture = out->has_skip ? "jumprelu_skip_transcoder" : "jumprelu_transcoder";
    } else {
        out->architecture = out->has_skip ? "skip_transcoder" : "transcoder";
    }
    if (out->has_skip && is_per_token) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "its W_skip is of tokens that are normalised one by one (%s), and SAELens skips "
                "what was not",
                out->normalize_activations);
    }
fail:
    return status;
}

/* What they do to a token before it is coded; constants are in the weights. */
static const char *norm_of(int norm)
{
    switch ((rf_token_norm)norm) {
    case RF_NORM_LAYER:
        return "layer_norm";
    case RF_NORM_CONSTANT:
        return "constant_norm_rescale";
    case RF_NORM_NONE:
    case RF_NORM_AVERAGE:
    case RF_NORM_PER_DIMENSION:
        break;
    }
    return "none";
}

rf_status rf_saelens_find_kind(const rf_coder *coder, rf_saelens_kind *out)
{
    rf_status status = RF_OK;
    const rf_coder_settings *settings = rf_coder_get_settings(coder);
    const int norm = settings->normalise;

    *out = (rf_saelens_kind){.is_transcoder = rf_coder_is_transcoder(coder),
                             .has_skip = rf_coder_has(coder, RF_CODER_W_SKIP),
                             .normalize_activations = norm_of(norm)};
    RF_TRY(check_sites(coder));
    RF_TRY(find_selection(coder, out));
    if (out->is_transcoder) {
        RF_TRY(find_transcoder(out, norm == RF_NORM_LAYER || norm == RF_NORM_CONSTANT));
    }
fail:
    if (status != RF_OK) {
        rf_error_context("coder '%s' has no form in SAELens", settings->name);
    }
    return status;
}
