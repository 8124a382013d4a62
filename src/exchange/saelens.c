/* SAELens: cfg.json and sae_weights.safetensors. */
#include "exchange_impl.h"

#include <string.h>

/* The layout is theirs of this version; they read what says less than 6 as an older one. */
#define LAYOUT_VERSION "6.54.12"

static rf_status write_weights(const rf_coder *coder, rf_stream *s, const rf_saelens_kind *kind,
                               const char *path)
{
    rf_status status = RF_OK;
    rf_saelens_tensors weights;
    static const char *const metadata[] = {"format", "pt", "refract_version", RF_VERSION};

    RF_TRY(rf_saelens_fold(coder, s, kind, &weights));
    RF_TRY(rf_safetensors_write(path, weights.tensors, weights.n, metadata, 2));
fail:
    rf_saelens_tensors_fini(&weights);
    return status;
}

/* ---- cfg.json ---------------------------------------------------------------------------------
 */

static rf_status append_text(rf_str *out, const char *key, const char *text)
{
    rf_status status = RF_OK;
    if (text == NULL) {
        return RF_OK;
    }
    RF_TRY(rf_str_append(out, ",\n    \"%s\": ", key));
    RF_TRY(rf_json_append_str(out, text));
fail:
    return status;
}

static rf_status append_count(rf_str *out, const char *key, int64_t value, int64_t least)
{
    return value >= least ? rf_str_append(out, ",\n    \"%s\": %" PRId64, key, value) : RF_OK;
}

static rf_status append_hash(rf_str *out, const char *key, uint64_t hash)
{
    return hash != 0 ? rf_str_append(out, ",\n    \"%s\": \"%016" PRIx64 "\"", key, hash) : RF_OK;
}

/* What is not quite the same there; NULL: nothing. */
static const char *note_of(const rf_coder *coder)
{
    const bool is_layer = rf_coder_get_settings(coder)->normalise == RF_NORM_LAYER;
    return is_layer && !rf_coder_is_transcoder(coder)
               ? "SAELens divides a token by s + 1e-5 and multiplies its reconstruction by s; "
                 "Refract multiplies by s + 1e-5. Codes are the same, reconstructions differ by "
                 "1e-5 / s of what is not the token's mean."
               : NULL;
}

/* Theirs first; keys with our name in front are ours, which they keep. */
static rf_status write_metadata(const rf_coder *coder, const rf_exchange_origin *origin,
                                rf_str *out)
{
    rf_status status = RF_OK;
    const rf_coder_settings *settings = rf_coder_get_settings(coder);

    RF_TRY(rf_str_append(out,
                         "  \"metadata\": {\n    \"sae_lens_version\": \"%s\",\n"
                         "    \"sae_lens_training_version\": null,\n    \"prepend_bos\": false",
                         LAYOUT_VERSION));
    RF_TRY(append_text(out, "model_name", origin->model_name));
    RF_TRY(append_text(out, "hook_name", origin->hook_name));
    RF_TRY(append_text(out, "hook_name_out", origin->target_name));
    RF_TRY(append_text(out, "dataset_path", origin->pictures_path));
    RF_TRY(append_count(out, "context_size", origin->n_positions, 1));
    RF_TRY(append_text(out, "refract_version", RF_VERSION));
    RF_TRY(append_text(out, "refract_coder", settings->name));
    RF_TRY(append_text(out, "refract_architecture", rf_coder_architecture(coder)->name));
    RF_TRY(append_text(out, "refract_note", note_of(coder)));
    RF_TRY(
        append_text(out, "refract_tokens", rf_token_class_names[rf_coder_token_class(settings)]));
    RF_TRY(append_count(out, "refract_step", origin->step, 0));
    RF_TRY(append_count(out, "refract_image_size", origin->image_size, 1));
    RF_TRY(append_text(out, "refract_weight_processing", origin->weight_processing));
    RF_TRY(append_hash(out, "refract_model_hash", origin->model_hash));
    RF_TRY(append_hash(out, "refract_pictures_hash", origin->pictures_hash));
    RF_TRY(rf_str_append(out, "\n  }\n"));
fail:
    return status;
}

/* Whether hook points of this name are [..., H, dh] in their eyes. */
static bool is_hook_z(const char *hook_name)
{
    const char *dot = hook_name != NULL ? strrchr(hook_name, '.') : NULL;
    return dot != NULL && strcmp(dot, ".hook_z") == 0;
}

/* What their config class of this architecture has. */
static rf_status write_config(const rf_coder *coder, const rf_saelens_kind *kind,
                              const rf_exchange_origin *origin, rf_str *json)
{
    rf_status status = RF_OK;
    const bool reshapes = !kind->is_transcoder && is_hook_z(origin->hook_name);

    RF_TRY(rf_str_append(
        json, "  \"architecture\": \"%s\",\n  \"d_in\": %" PRId64 ",\n  \"d_sae\": %" PRId64 ",\n",
        kind->architecture, rf_coder_width(coder), rf_coder_n_latents(coder)));
    if (kind->is_transcoder) {
        RF_TRY(rf_str_append(json, "  \"d_out\": %" PRId64 ",\n", rf_coder_out_width(coder)));
    }
    if (kind->k > 0) {
        RF_TRY(rf_str_append(
            json, "  \"k\": %" PRId64 ",\n  \"rescale_acts_by_decoder_norm\": false,\n", kind->k));
    }
    RF_TRY(rf_str_append(json,
                         "  \"dtype\": \"float32\",\n  \"device\": \"cpu\",\n"
                         "  \"apply_b_dec_to_input\": %s,\n"
                         "  \"normalize_activations\": \"%s\",\n"
                         "  \"reshape_activations\": \"%s\",\n",
                         rf_coder_subtracts(coder) ? "true" : "false", kind->normalize_activations,
                         reshapes ? "hook_z" : "none"));
fail:
    return status;
}

static rf_status write_cfg(const rf_coder *coder, const rf_saelens_kind *kind,
                           const rf_exchange_origin *origin, const char *path)
{
    rf_status status = RF_OK;
    rf_str json = {0};

    RF_TRY(rf_str_append(&json, "{\n"));
    RF_TRY(write_config(coder, kind, origin, &json));
    RF_TRY(write_metadata(coder, origin, &json));
    RF_TRY(rf_str_append(&json, "}\n"));
    RF_TRY(rf_file_write_atomic(path, json.data, json.len));
fail:
    rf_str_fini(&json);
    return status;
}

rf_status rf_saelens_write(const rf_coder *coder, rf_stream *s, const rf_exchange_origin *origin,
                           const char *folder)
{
    rf_status status = RF_OK;
    char weights_path[RF_PATH_LEN], cfg_path[RF_PATH_LEN];
    rf_saelens_kind kind;

    RF_TRY(rf_saelens_find_kind(coder, &kind));
    RF_TRY(rf_file_make_dirs(folder));
    RF_TRY(rf_path_join(weights_path, folder, "sae_weights.safetensors"));
    RF_TRY(rf_path_join(cfg_path, folder, "cfg.json"));
    RF_TRY(write_weights(coder, s, &kind, weights_path));
    RF_TRY(write_cfg(coder, &kind, origin, cfg_path));
    if (note_of(coder) != NULL) {
        rf_log(RF_LOG_WARN, "coder '%s': %s", rf_coder_get_settings(coder)->name, note_of(coder));
    }
fail:
    return status;
}
