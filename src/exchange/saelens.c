/* SAELens: cfg.json and sae_weights.safetensors. */
#include "refract/exchange.h"

#include <string.h>

/* The layout is theirs of this version; they read what says less than 6 as an older one. */
#define LAYOUT_VERSION "6.54.12"

/* Their name of our architecture. */
static rf_status find_architecture(const rf_coder *coder, const char **out)
{
    static const char *const names[][2] = {{"topk", "topk"}, {"relu", "standard"}};
    const char *ours = rf_coder_architecture(coder)->name;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(ours, names[i][0]) == 0) {
            *out = names[i][1];
            return RF_OK;
        }
    }
    return rf_error_raise(RF_ERR_UNSUPPORTED, __FILE__, __LINE__,
                          "SAELens has no architecture for a '%s' coder", ours);
}

/* ---- weights ----------------------------------------------------------------------------------
 */

static void transpose(const float *from, int64_t n_rows, int64_t n_cols, float *to)
{
    enum { TILE = 32 };
    for (int64_t r = 0; r < n_rows; r += TILE) {
        for (int64_t c = 0; c < n_cols; c += TILE) {
            for (int64_t i = r; i < rf_min_i64(r + TILE, n_rows); i++) {
                for (int64_t j = c; j < rf_min_i64(c + TILE, n_cols); j++) {
                    to[j * n_rows + i] = from[i * n_cols + j];
                }
            }
        }
    }
}

/* A host copy of parameter `idx`, to be freed. */
static rf_status read_parameter(const rf_coder *coder, rf_stream *s, int idx, float **out)
{
    rf_status status = RF_OK;
    const rf_view view = rf_coder_view(coder, idx);
    const int64_t n = rf_view_n_elems(&view);

    RF_ALLOC(*out, n);
    RF_TRY(rf_copy_out(s, *out, view.data, (size_t)n * sizeof **out));
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}

static rf_named_tensor describe(const char *name, const float *data, int n_dims, int64_t n0,
                                int64_t n1)
{
    const int64_t n = n_dims == 2 ? n0 * n1 : n0;
    return (rf_named_tensor){.name = name,
                             .dtype = RF_FILE_F32,
                             .n_dims = n_dims,
                             .shape = {n0, n1},
                             .n_elems = n,
                             .bytes = (const unsigned char *)data,
                             .n_bytes = n * (int64_t)sizeof *data};
}

static rf_status write_weights(const rf_coder *coder, rf_stream *s, const char *path)
{
    rf_status status = RF_OK;
    const int64_t d = rf_coder_width(coder), n_latents = rf_coder_n_latents(coder);
    float *data[RF_CODER_N_PARAMETERS] = {NULL}, *w_enc = NULL;
    static const char *const metadata[] = {"format", "pt", "refract_version", RF_VERSION};

    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        RF_TRY(read_parameter(coder, s, i, &data[i]));
    }
    RF_ALLOC(w_enc, d * n_latents);
    transpose(data[RF_CODER_W_ENC], n_latents, d, w_enc);
    const rf_named_tensor tensors[] = {
        describe("W_dec", data[RF_CODER_W_DEC], 2, n_latents, d),
        describe("W_enc", w_enc, 2, d, n_latents),
        describe("b_dec", data[RF_CODER_B_DEC], 1, d, 0),
        describe("b_enc", data[RF_CODER_B_ENC], 1, n_latents, 0),
    };
    RF_TRY(rf_safetensors_write(path, tensors, 4, metadata, 2));
fail:
    rf_free(w_enc);
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        rf_free(data[i]);
    }
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
    RF_TRY(append_text(out, "dataset_path", origin->pictures_path));
    RF_TRY(append_count(out, "context_size", origin->n_positions, 1));
    RF_TRY(append_text(out, "refract_version", RF_VERSION));
    RF_TRY(append_text(out, "refract_coder", settings->name));
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

static rf_status write_cfg(const rf_coder *coder, const char *architecture,
                           const rf_exchange_origin *origin, const char *path)
{
    rf_status status = RF_OK;
    rf_str json = {0};

    RF_TRY(rf_str_append(&json,
                         "{\n  \"architecture\": \"%s\",\n  \"d_in\": %" PRId64
                         ",\n  \"d_sae\": %" PRId64 ",\n",
                         architecture, rf_coder_width(coder), rf_coder_n_latents(coder)));
    if (!rf_coder_architecture(coder)->may_be_dense) {
        RF_TRY(rf_str_append(&json,
                             "  \"k\": %" PRId64 ",\n  \"rescale_acts_by_decoder_norm\": false,\n",
                             rf_coder_k(coder)));
    }
    RF_TRY(rf_str_append(&json,
                         "  \"dtype\": \"float32\",\n  \"device\": \"cpu\",\n"
                         "  \"apply_b_dec_to_input\": true,\n"
                         "  \"normalize_activations\": \"none\",\n"
                         "  \"reshape_activations\": \"%s\",\n",
                         is_hook_z(origin->hook_name) ? "hook_z" : "none"));
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
    const char *architecture = NULL;

    RF_TRY(find_architecture(coder, &architecture));
    RF_TRY(rf_file_make_dirs(folder));
    RF_TRY(rf_path_join(weights_path, folder, "sae_weights.safetensors"));
    RF_TRY(rf_path_join(cfg_path, folder, "cfg.json"));
    RF_TRY(write_weights(coder, s, weights_path));
    RF_TRY(write_cfg(coder, architecture, origin, cfg_path));
fail:
    return status;
}
