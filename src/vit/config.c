/* config.json to rf_vit_config, and the files of a model's folder. */
#include "vit_impl.h"

#include <math.h>
#include <string.h>

/* Far above any model, and small enough that no product of sizes overflows. */
enum {
    MAX_WIDTH = 1 << 16,
    MAX_MLP = 1 << 20,
    MAX_LAYERS = 1024,
    MAX_SIDE = 1 << 14,
    MAX_CHANNELS = 64,
    MAX_PATCHES = 1 << 18,
    MAX_CLASSES = 1 << 20
};

static rf_status read_size(const rf_json *json, const char *key, int64_t fallback, int64_t max,
                           int64_t *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_json_get_i64(json, key, &fallback, out));
    if (*out < 1 || *out > max) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is %" PRId64 ", expected 1 to %" PRId64, key, *out, max);
    }
fail:
    return status;
}

static rf_status parse_act(const char *name, rf_act *out)
{
    static const struct {
        const char *name;
        rf_act act;
    } acts[] = {{"gelu", RF_ACT_GELU},
                {"gelu_python", RF_ACT_GELU},
                {"quick_gelu", RF_ACT_QUICK_GELU},
                {"relu", RF_ACT_RELU},
                {"gelu_new", RF_ACT_GELU_TANH},
                {"gelu_pytorch_tanh", RF_ACT_GELU_TANH},
                {"gelu_fast", RF_ACT_GELU_TANH},
                {"silu", RF_ACT_SILU},
                {"swish", RF_ACT_SILU}};
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
        if (strcmp(name, acts[i].name) == 0) {
            *out = acts[i].act;
            return RF_OK;
        }
    }
    return rf_error_raise(RF_ERR_UNSUPPORTED, __FILE__, __LINE__,
                          "hidden_act '%.64s' is not supported; supported are gelu, quick_gelu, "
                          "relu, gelu_new, gelu_pytorch_tanh, silu",
                          name);
}

static rf_status read_mlp_width(const rf_json *json, const rf_arch *arch, int64_t d_model,
                                int64_t *out)
{
    rf_status status = RF_OK;
    if (!arch->mlp_is_ratio) {
        return read_size(json, arch->mlp_key, arch->mlp_default, MAX_MLP, out);
    }
    double ratio = 0.0, fallback = (double)arch->mlp_default;
    RF_TRY(rf_json_get_f64(json, arch->mlp_key, &fallback, &ratio));
    double width = trunc(ratio * (double)d_model); /* as Python's int() */
    if (!(width >= 1.0 && width <= (double)MAX_MLP)) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is %g: a hidden layer of 1 to %d was expected", arch->mlp_key,
                ratio, MAX_MLP);
    }
    *out = (int64_t)width;
fail:
    return status;
}

/* Sizes that follow from others. */
static rf_status derive(rf_vit_config *c)
{
    rf_status status = RF_OK;
    c->n_frames = c->tubelet = 1;
    c->grid[0] = 1;
    c->grid[1] = c->image_height / c->patch_size;
    c->grid[2] = c->image_width / c->patch_size;
    c->n_patches = c->grid[0] * c->grid[1] * c->grid[2];
    if (c->n_patches < 1 || c->n_patches > MAX_PATCHES) {
        RF_FAIL(RF_ERR_FORMAT,
                "image_size %" PRId64 " and patch_size %" PRId64 " give %" PRId64
                " patches, expected 1 to %d",
                c->image_height, c->patch_size, c->n_patches, MAX_PATCHES);
    }
    if (c->d_model % c->n_heads != 0) {
        RF_FAIL(RF_ERR_FORMAT,
                "hidden_size %" PRId64 " is not divisible by num_attention_heads %" PRId64,
                c->d_model, c->n_heads);
    }
    c->d_head = c->d_model / c->n_heads;
    c->n_prefix = 1; /* CLS; no family has registers yet */
    c->n_tokens = c->n_prefix + c->n_patches;
fail:
    return status;
}

static rf_status read_sizes(const rf_json *json, rf_vit_files *files)
{
    rf_status status = RF_OK;
    const rf_arch *a = files->arch;
    rf_vit_config *c = &files->config;
    double eps = 0.0;
    const char *act = NULL;
    bool yes = true, no = false, forbidden = false;

    RF_TRY(read_size(json, "hidden_size", a->d_model, MAX_WIDTH, &c->d_model));
    RF_TRY(read_size(json, "num_hidden_layers", a->n_layers, MAX_LAYERS, &c->n_layers));
    RF_TRY(read_size(json, "num_attention_heads", a->n_heads, c->d_model, &c->n_heads));
    RF_TRY(read_size(json, "image_size", a->image_size, MAX_SIDE, &c->image_height));
    c->image_width = c->image_height;
    RF_TRY(read_size(json, "patch_size", a->patch_size, MAX_SIDE, &c->patch_size));
    RF_TRY(read_size(json, "num_channels", a->n_channels, MAX_CHANNELS, &c->n_channels));
    RF_TRY(read_mlp_width(json, a, c->d_model, &c->d_mlp));
    RF_TRY(rf_json_get_f64(json, "layer_norm_eps", &a->eps, &eps));
    if (!(eps >= 0.0 && eps < 1.0)) {
        RF_FAIL(RF_ERR_FORMAT, "'layer_norm_eps' is %g, expected 0 to 1", eps);
    }
    c->eps = (float)eps;
    RF_TRY(rf_json_get_str(json, "hidden_act", a->act, &act));
    RF_TRY(parse_act(act, &c->act));
    RF_TRY(rf_json_get_bool(json, "qkv_bias", &yes, &files->has_qkv_bias));
    if (a->forbidden_key != NULL) {
        RF_TRY(rf_json_get_bool(json, a->forbidden_key, &no, &forbidden));
    }
    if (forbidden) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "'%s' is true: %s is not supported", a->forbidden_key,
                a->forbidden_meaning);
    }
    c->has_cls = true;
    c->has_ln_pre = a->names[RF_PART_LN_PRE][0] != NULL;
    c->has_layer_scale = a->names[RF_PART_SCALE1][0] != NULL;
    c->d_pool = c->d_out = c->d_model;
    c->has_position = c->has_ln_final = true;
    c->head_input = a->head_input;
fail:
    return status;
}

/* A whole model keeps the vision tower's keys below one of config_roots; absent there means the
 * class's defaults, as transformers does. */
static rf_status tower_config(const rf_vit_files *files, const char *model_type,
                              const rf_json **out)
{
    rf_status status = RF_OK;
    const rf_arch *a = files->arch;
    *out = files->json;
    if (a->config_roots[0] == NULL || strcmp(model_type, a->model_types[0]) != 0) {
        return RF_OK; /* the tower alone */
    }
    for (int i = 0; i < RF_MAX_WORDS && a->config_roots[i] != NULL; i++) {
        *out = rf_json_find(files->json, a->config_roots[i]);
        if (*out != NULL && rf_json_find(*out, "hidden_size") != NULL) {
            return RF_OK;
        }
    }
    *out = rf_json_find(files->json, "vision_config");
    if (*out == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "'vision_config' is missing from a config of model_type '%s'",
                model_type);
    }
fail:
    return status;
}

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

static rf_status read_config(rf_vit_files *files, const char *path)
{
    rf_status status = RF_OK;
    const char *model_type = NULL;
    const rf_json *tower = NULL;
    RF_TRY(rf_json_get_str(files->json, "model_type", NULL, &model_type));
    RF_TRY(rf_arch_find(model_type, path, &files->arch));
    RF_TRY(rf_format(files->config.family, sizeof files->config.family, "%s", files->arch->family));
    RF_TRY(tower_config(files, model_type, &tower));
    RF_TRY(read_sizes(tower, files));
    RF_TRY(read_name(files, &files->config));
fail:
    return status;
}

/* Sizes that only the weights' shapes tell: the projection, the head. */
static rf_status read_optional_parts(rf_vit_files *files)
{
    rf_status status = RF_OK;
    rf_vit_config *c = &files->config;
    char name[RF_NAME_LEN];
    const rf_named_tensor *t = rf_weights_find(files, RF_PART_PROJECTION, ".weight", -1, name);
    if (t != NULL) {
        c->has_projection = true;
        c->d_out = t->shape[0];
    }
    const rf_named_tensor *head = rf_weights_find(files, RF_PART_HEAD, ".weight", -1, name);
    if (head != NULL) {
        c->n_classes = head->shape[0];
    }
    if ((t != NULL && (t->n_dims != 2 || c->d_out < 1 || c->d_out > MAX_WIDTH)) ||
        (head != NULL && (head->n_dims != 2 || c->n_classes < 1 || c->n_classes > MAX_CLASSES))) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' has an impossible shape", (t != NULL ? t : head)->name);
    }
fail:
    return status;
}

static rf_status open_weights(rf_vit_files *files, rf_weights_need need)
{
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    for (size_t i = 0; i < sizeof names / sizeof *names && files->weights == NULL; i++) {
        RF_TRY(rf_path_join(path, files->folder, names[i]));
        if (rf_file_exists(path)) {
            RF_TRY(rf_tensor_file_open(path, &files->weights));
        }
    }
    if (files->weights == NULL && need == RF_WEIGHTS_NEEDED) {
        RF_TRY(rf_path_join(path, files->folder, "pytorch_model.bin"));
        RF_FAIL(RF_ERR_NOT_FOUND, "'%s' has no model.safetensors and no index of shards%s",
                files->folder,
                rf_file_exists(path) ? "; convert its pytorch_model.bin to safetensors" : "");
    }
    if (files->weights != NULL) {
        RF_TRY_DOING(read_optional_parts(files), "%s", files->folder);
    }
fail:
    return status;
}

static rf_status set_image_size(rf_vit_files *files, const char *path)
{
    rf_status status = RF_OK;
    rf_vit_config *c = &files->config;
    const int64_t height = files->opts.image_height, width = files->opts.image_width;
    RF_REQUIRE(height >= 0 && height <= MAX_SIDE && width >= 0 && width <= MAX_SIDE,
               "image size %" PRId64 " x %" PRId64 ", expected 0 to %d", height, width,
               (int)MAX_SIDE);
    RF_TRY_DOING(derive(c), "%s", path);
    memcpy(files->native_grid, c->grid, sizeof c->grid);
    if ((height == 0 || height == c->image_height) && (width == 0 || width == c->image_width)) {
        return RF_OK;
    }
    if (!files->arch->can_interpolate) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "%s: a model of family %s runs at its own image size %" PRId64 " x %" PRId64
                ", not %" PRId64 " x %" PRId64,
                path, files->arch->family, c->image_height, c->image_width, height, width);
    }
    c->image_height = height > 0 ? height : c->image_height;
    c->image_width = width > 0 ? width : c->image_width;
    RF_TRY_DOING(derive(c), "%s", path);
fail:
    return status;
}

rf_status rf_vit_files_open(const char *folder, const rf_vit_opts *opts, rf_weights_need need,
                            rf_vit_files *out)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    *out = (rf_vit_files){0};
    if (opts != NULL) {
        out->opts = *opts;
    }
    RF_TRY(rf_format(out->folder, sizeof out->folder, "%s", folder));
    for (size_t n = strlen(out->folder); n > 1 && out->folder[n - 1] == '/'; n--) {
        out->folder[n - 1] = '\0';
    }
    RF_TRY(rf_path_join(path, folder, "config.json"));
    if (!rf_file_exists(path)) {
        RF_FAIL(RF_ERR_NOT_FOUND, "'%s' has no config.json: expected a Hugging Face model folder",
                folder);
    }
    RF_TRY(rf_json_load(path, &out->json));
    RF_TRY_DOING(read_config(out, path), "%s", path);
    RF_TRY(set_image_size(out, path));
    RF_TRY(open_weights(out, need));
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
    *files = (rf_vit_files){0};
}
