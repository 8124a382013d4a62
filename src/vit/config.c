/* A model's folder to what it is: which library wrote it, which row of the table it is, and what
 * its config says. */
#include "config_impl.h"

#include <jansson.h>
#include <string.h>

static const char *base_name(const char *folder)
{
    const char *slash = strrchr(folder, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : folder;
}

static rf_status read_name(const rf_vit_files *files, rf_vit_config *c)
{
    rf_status status = RF_OK;
    const char *name = NULL;
    RF_TRY(rf_json_get_str(files->json, "_name_or_path", "", &name));
    if (name[0] == '\0') {
        name = base_name(files->folder);
    }
    /* a label only: cut where it does not fit */
    RF_TRY(rf_format(c->name, sizeof c->name, "%.*s", (int)sizeof c->name - 1, name));
fail:
    return status;
}

static bool ends_in(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A whole model keeps the tower's keys below one of config_roots. What an old one is called wins,
 * as in transformers, which wrote both. */
static rf_status find_tower(rf_vit_files *files)
{
    rf_status status = RF_OK;
    const rf_arch *a = files->arch;
    const char *model_type = "";
    const char *root = NULL;
    files->tower = a->config_roots[0] == NULL ? files->json : NULL;
    for (int i = 0; i < RF_MAX_WORDS && a->config_roots[i] != NULL; i++) {
        const rf_json *found = rf_json_find(files->json, a->config_roots[i]);
        root = a->config_roots[i];
        if (json_is_object(found) && (json_object_size(found) > 0 || files->tower == NULL)) {
            files->tower = found;
            goto fail;
        }
    }
    if (files->tower != NULL || strcmp(a->library, "timm") == 0) {
        goto fail;
    }
    RF_TRY(rf_json_get_str(files->json, "model_type", "", &model_type));
    if (!ends_in(model_type, "_model") && files->opts.row == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is missing from a config of model_type '%.64s'", root,
                model_type);
    }
    files->tower = files->json; /* the tower alone */
fail:
    return status;
}

/* Whose row it is, and the settings that come with it. */
static rf_status find_open_clip(rf_vit_files *files)
{
    rf_status status = RF_OK;
    const bool is_text = files->opts.tower == RF_TOWER_TEXT;
    const rf_json *vision = rf_json_find(files->json, "model_cfg.vision_cfg");
    const rf_json *trunk = vision != NULL ? rf_json_find(vision, "timm_model_name") : NULL;
    const rf_json *layers = vision != NULL ? rf_json_find(vision, "layers") : NULL;
    if (!is_text && trunk != NULL && !json_is_null(trunk)) {
        return rf_open_clip_trunk(files);
    }
    if (!is_text && json_is_array(layers)) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "'vision_cfg.layers' is a list: a ResNet is not supported");
    }
    RF_TRY(rf_named_apply(is_text ? "open_clip_text" : "open_clip", &files->draft, &files->arch));
    RF_TRY(find_tower(files));
fail:
    return status;
}

static rf_status find_row(rf_vit_files *files)
{
    rf_status status = RF_OK;
    const char *model_type = NULL, *architecture = "";
    RF_TRY(rf_json_get_str(files->json, "architecture", "", &architecture));
    RF_TRY(rf_json_get_str(files->json, "model_type", "", &model_type));
    if (architecture[0] == '\0' && model_type[0] == '\0') {
        RF_FAIL(RF_ERR_NOT_FOUND,
                "neither 'model_type' (transformers) nor 'architecture' (timm) is "
                "given: a model of another kind needs a row of its own, row=FILE.yaml "
                "(docs/models.md)");
    }
    if (architecture[0] != '\0' &&
        (model_type[0] == '\0' || strcmp(model_type, "timm_wrapper") == 0)) {
        RF_TRY(rf_named_apply(architecture, &files->draft, &files->arch));
        if (files->arch->tower != files->opts.tower) {
            RF_FAIL(RF_ERR_UNSUPPORTED, "'%.64s' has no %s tower", architecture,
                    files->opts.tower == RF_TOWER_TEXT ? "text" : "vision");
        }
    } else {
        RF_TRY(rf_arch_find(model_type, files->opts.tower, "config", &files->arch));
        RF_TRY(rf_draft_set(&files->draft, files->arch->settings, files->arch->family));
    }
    RF_TRY(find_tower(files));
fail:
    return status;
}

/* A user's row, over the one that it is like. */
static rf_status find_own_row(rf_vit_files *files)
{
    rf_status status = RF_OK;
    const rf_arch *base = NULL;
    RF_TRY(rf_row_load(files));
    files->arch = &files->own_arch;
    if (files->like != NULL) {
        RF_TRY(rf_named_apply(files->like, &files->draft, &base));
    }
    RF_TRY(find_tower(files));
fail:
    return status;
}

static rf_status apply_own_settings(rf_vit_files *files)
{
    const rf_yaml *own = files->row != NULL ? rf_yaml_find(files->row, "settings") : NULL;
    return own != NULL ? rf_draft_set_yaml(&files->draft, own, "settings") : RF_OK;
}

/* Switches that stand for choices. */
static void settle_switches(rf_draft *d)
{
    rf_vit_config *c = &d->config;
    d->positions = d->absolute_positions ? d->positions : RF_POSITIONS_NONE;
    d->prefix_positions = d->embed_prefix ? d->prefix_positions : RF_PREFIX_POSITIONS_NONE;
    c->act = d->quick_gelu ? RF_ACT_QUICK_GELU : c->act;
    if (d->is_causal) {
        c->score_bias = RF_SCORES_CAUSAL;
    }
    if (d->relative || d->relative_shared) {
        c->score_bias = RF_SCORES_RELATIVE;
    }
}

rf_status rf_vit_files_settle(rf_vit_files *files)
{
    rf_status status = RF_OK;
    rf_vit_config *c = &files->draft.config;
    RF_TRY(apply_own_settings(files));
    if (files->arch->resolve != NULL) {
        RF_TRY(files->arch->resolve(files));
        RF_TRY(apply_own_settings(files)); /* the user's word counts */
    }
    settle_switches(&files->draft);
    RF_TRY(rf_format(c->family, sizeof c->family, "%.31s", files->arch->family));
fail:
    return status;
}

rf_status rf_vit_files_parse(rf_vit_files *files, bool is_open_clip)
{
    rf_status status = RF_OK;
    rf_draft *d = &files->draft;
    RF_TRY(rf_settings_defaults(&rf_draft_table, d));
    d->fc_norm_given = false;
    if (files->opts.row != NULL) {
        RF_TRY(find_own_row(files));
    } else if (is_open_clip) {
        RF_TRY(find_open_clip(files));
    } else {
        RF_TRY(find_row(files));
    }
    d->fc_norm_given = false;
    RF_TRY(rf_draft_read_json(d, files->arch->keys, files->json, files->tower));
    RF_TRY(rf_draft_read_json(d, files->arch->more_keys, files->json, files->tower));
    RF_TRY(rf_draft_read_json(d, files->own_keys, files->json, files->tower));
    RF_TRY(rf_vit_files_settle(files));
    RF_TRY(read_name(files, &d->config));
fail:
    return status;
}

/* ---- files ------------------------------------------------------------------------------------
 */

static rf_status is_there(const char *folder, const char *name, bool *out)
{
    char path[RF_PATH_LEN];
    rf_status status = rf_path_join(path, folder, name);
    *out = status == RF_OK && rf_file_exists(path);
    return status;
}

/* The config to read. OpenCLIP's is taken where its weights are there too, or where it is alone; a
 * pipeline's folder (Kandinsky) keeps its image encoder in a folder of its own. */
static rf_status find_config(rf_vit_files *files, char path[RF_PATH_LEN], bool *is_open_clip)
{
    rf_status status = RF_OK;
    bool has_config = false, has_open_clip = false, has_weights = false, has_archive = false;
    RF_TRY(is_there(files->folder, "config.json", &has_config));
    RF_TRY(is_there(files->folder, "open_clip_config.json", &has_open_clip));
    RF_TRY(is_there(files->folder, "open_clip_model.safetensors", &has_weights));
    RF_TRY(is_there(files->folder, "open_clip_pytorch_model.bin", &has_archive));
    if (!has_config && !has_open_clip && files->opts.row == NULL) {
        RF_TRY(is_there(files->folder, "image_encoder/config.json", &has_config));
        if (!has_config) {
            RF_FAIL(RF_ERR_NOT_FOUND,
                    "'%s' has no config.json and no open_clip_config.json: expected a model's "
                    "folder of Hugging Face, OpenCLIP or timm",
                    files->folder);
        }
        RF_TRY(rf_format(files->folder + strlen(files->folder),
                         sizeof files->folder - strlen(files->folder), "/image_encoder"));
    }
    *is_open_clip = has_open_clip && (has_weights || has_archive || !has_config);
    RF_TRY(
        rf_path_join(path, files->folder, *is_open_clip ? "open_clip_config.json" : "config.json"));
fail:
    return status;
}

static rf_status load_config(rf_vit_files *files, bool *is_open_clip)
{
    static const char empty[] = "{}";
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    RF_TRY(find_config(files, path, is_open_clip));
    if (rf_file_exists(path)) {
        RF_TRY(rf_json_load(path, &files->json));
    } else { /* the user's row says everything */
        RF_TRY(rf_json_parse(empty, sizeof empty - 1, path, &files->json));
    }
    RF_TRY_DOING(rf_vit_files_parse(files, *is_open_clip), "%s", path);
fail:
    return status;
}

rf_status rf_vit_files_open(const char *folder, const rf_vit_opts *opts, rf_weights_need need,
                            rf_vit_files *out)
{
    rf_status status = RF_OK;
    bool is_open_clip = false;
    *out = (rf_vit_files){0};
    if (opts != NULL) {
        out->opts = *opts;
    }
    RF_TRY(rf_format(out->folder, sizeof out->folder, "%s", folder));
    for (size_t n = strlen(out->folder); n > 1 && out->folder[n - 1] == '/'; n--) {
        out->folder[n - 1] = '\0';
    }
    RF_TRY(load_config(out, &is_open_clip));
    RF_TRY(rf_vit_files_open_weights(out, is_open_clip, need));
    RF_TRY_DOING(rf_vit_files_finish(out), "%s", out->folder);
fail:
    if (status != RF_OK) {
        rf_vit_files_close(out);
    }
    return status;
}

void rf_vit_files_close(rf_vit_files *files)
{
    rf_tensor_file_close(files->weights);
    rf_json_free(files->json);
    rf_yaml_free(files->row);
    *files = (rf_vit_files){0};
}
