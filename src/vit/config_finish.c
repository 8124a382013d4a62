/* A draft to a config: sizes out of the weights' shapes, parts that may be missing, and checks. */
#include "config_impl.h"

#include <math.h>
#include <string.h>

enum {
    MAX_SIDE = 1 << 14,
    MAX_PATCHES = 1 << 18,
    MAX_RELATIVE = 1 << 12, /* tokens of a model with [H, T, T] biases a layer */
    MAX_WIDTH = 1 << 16,
    MAX_MLP = 1 << 20
};

/* ---- what the weights' shapes tell ------------------------------------------------------------
 */

/* Size `axis` (negative: from the end) of a part's tensor, or 0. */
static int64_t size_of(const rf_vit_files *f, rf_part part, const char *suffix, int axis)
{
    char name[RF_NAME_LEN];
    bool is_in_out = false;
    const int64_t layer = part >= RF_PART_LN1 ? 0 : -1;
    const rf_named_tensor *t = rf_weights_find(f, part, suffix, layer, name, &is_in_out);
    if (t == NULL) {
        return 0;
    }
    if (is_in_out && t->n_dims == 2 && axis >= 0) {
        axis = 1 - axis;
    }
    axis = axis < 0 ? t->n_dims + axis : axis;
    return axis >= 0 && axis < t->n_dims ? t->shape[axis] : 0;
}

static int64_t count_layers(const rf_vit_files *f)
{
    char name[RF_NAME_LEN];
    int64_t n = 0;
    while (n < 1024 && rf_weights_find(f, RF_PART_FC2, ".weight", n, name, NULL) != NULL) {
        n++;
    }
    return n;
}

static void fill(int64_t *size, int64_t found)
{
    if (*size == 0) {
        *size = found;
    }
}

/* The same of a file's shape, within the bounds of the setting `key`. */
static void fill_found(int64_t *size, const char *key, int64_t found)
{
    if (found <= (int64_t)rf_draft_field(key)->max) {
        fill(size, found);
    }
}

/* Sides of a square grid of the stored positions. */
static void fill_image(const rf_vit_files *f, rf_draft *d)
{
    const rf_vit_config *c = &d->config;
    if (d->image_size > 0 || c->image_height > 0 || d->positions != RF_POSITIONS_STORED) {
        return;
    }
    int64_t n = size_of(f, RF_PART_POSITION, "", -2), side = 1;
    if (d->prefix_positions != RF_PREFIX_POSITIONS_NONE) {
        n -= (c->has_cls ? 1 : 0) + (c->has_distilled ? 1 : 0);
    }
    n -= d->prefix_positions == RF_PREFIX_POSITIONS_ALL ? c->n_registers : 0;
    n /= rf_max_i64(1, c->n_frames / rf_max_i64(1, c->tubelet));
    while ((side + 1) * (side + 1) <= n && side < MAX_SIDE) {
        side++;
    }
    d->image_size = side * c->patch_size;
}

static void fill_from_shapes(const rf_vit_files *f, rf_draft *d)
{
    rf_vit_config *c = &d->config;
    const bool is_text = c->input == RF_VIT_TEXT;
    fill_found(&c->d_model, "d_model",
               is_text ? size_of(f, RF_PART_TOKEN, "", 1)
                       : size_of(f, RF_PART_PATCH, ".weight", 0));
    fill(&c->n_layers, count_layers(f));
    if (d->mlp_ratio == 0.0) {
        fill_found(&c->d_mlp, "d_mlp", size_of(f, RF_PART_FC2, ".weight", 1));
    }
    if (is_text) {
        fill_found(&c->n_vocab, "n_vocab", size_of(f, RF_PART_TOKEN, "", 0));
        fill_found(&d->n_context, "n_context", size_of(f, RF_PART_POSITION, "", -2));
        return;
    }
    fill_found(&c->patch_size, "patch_size", size_of(f, RF_PART_PATCH, ".weight", -1));
    fill_image(f, d);
}

/* ---- parts that may be there or not -----------------------------------------------------------
 */

static rf_status check_presence(rf_presence presence, const rf_named_tensor *t, const char *name,
                                bool *out)
{
    rf_status status = RF_OK;
    if (presence == RF_REQUIRED && t == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "tensor '%s' is missing from the weights", name);
    }
    *out = presence != RF_ABSENT && t != NULL;
fail:
    return status;
}

/* timm names the final norm by its place: norm in front of the pool, fc_norm behind it. A user's
 * row may say otherwise, or have a norm of another name. */
static rf_status place_timm_norm(rf_vit_files *f)
{
    rf_status status = RF_OK;
    char front[RF_NAME_LEN], behind[RF_NAME_LEN];
    const rf_yaml *own = f->row != NULL ? rf_yaml_find(f->row, "settings") : NULL;
    if (f->arch->library == NULL || strcmp(f->arch->library, "timm") != 0 ||
        (own != NULL && rf_yaml_find(own, "norm_is_behind_pool") != NULL)) {
        return RF_OK;
    }
    RF_TRY(rf_format(front, sizeof front, "%snorm.weight", f->prefix));
    RF_TRY(rf_format(behind, sizeof behind, "%sfc_norm.weight", f->prefix));
    const bool is_front = rf_tensor_file_find(f->weights, front) != NULL;
    const bool is_behind = rf_tensor_file_find(f->weights, behind) != NULL;
    if (is_front && is_behind) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "the weights have '%s' and '%s': a norm in front of the pool and one behind it are "
                "not supported",
                front, behind);
    }
    if (is_front || is_behind) {
        f->draft.config.norm_is_behind_pool = is_behind;
    }
fail:
    return status;
}

/* Projection, head, the norm behind it all. */
static rf_status find_optional_parts(rf_vit_files *f)
{
    rf_status status = RF_OK;
    rf_draft *d = &f->draft;
    rf_vit_config *c = &d->config;
    char name[RF_NAME_LEN];
    bool has_first = false, has_head = false, is_in_out = false;
    const rf_named_tensor *t = c->input == RF_VIT_TEXT
                                   ? rf_weights_find(f, RF_PART_TOKEN, "", -1, name, NULL)
                                   : rf_weights_find(f, RF_PART_PATCH, ".weight", -1, name, NULL);
    RF_TRY(check_presence(RF_REQUIRED, t, name, &has_first)); /* else the file is another model's */
    t = rf_weights_find(f, RF_PART_PROJECTION, ".weight", -1, name, &is_in_out);
    RF_TRY(check_presence(d->projection, t, name, &c->has_projection));
    const int64_t d_out = c->has_projection && t->n_dims == 2 ? t->shape[is_in_out ? 1 : 0] : 0;
    const rf_named_tensor *head = rf_weights_find(f, RF_PART_HEAD, ".weight", -1, name, NULL);
    RF_TRY(check_presence(d->head, head, name, &has_head));
    const int64_t n_classes = has_head && head->n_dims == 2 ? head->shape[0] : 0;
    if ((c->has_projection && (d_out < 1 || d_out > MAX_WIDTH)) ||
        (has_head && (n_classes < 1 || n_classes > 1 << 20))) {
        RF_FAIL(RF_ERR_FORMAT, "tensor '%s' has an impossible shape", has_head ? head->name : name);
    }
    if (c->has_projection && c->d_out > 0 && c->d_out != d_out) {
        RF_FAIL(RF_ERR_FORMAT, "tensor '%s' projects to %" PRId64 ", but the config means %" PRId64,
                t->name, d_out, c->d_out);
    }
    c->d_out = d_out;
    c->n_classes = n_classes;
    if (c->has_distilled && rf_weights_find(f, RF_PART_HEAD_DISTILLED, ".weight", -1, name, NULL)) {
        c->head_input = RF_HEAD_CLS_AND_DISTILLED;
    }
    t = rf_weights_find(f, RF_PART_LN_FINAL, ".weight", -1, name, NULL);
    RF_TRY(check_presence(d->final_norm, t, name, &c->has_ln_final));
    RF_TRY(place_timm_norm(f));
fail:
    return status;
}

/* The same for a model without files. */
static void assume_parts(rf_draft *d)
{
    rf_vit_config *c = &d->config;
    c->has_projection = d->projection != RF_ABSENT && c->d_out > 0;
    c->n_classes = d->head != RF_ABSENT ? c->n_classes : 0;
    c->has_ln_final = d->final_norm != RF_ABSENT;
}

/* ---- sizes that follow from others ------------------------------------------------------------
 */

static rf_status finish_mlp(const rf_draft *d, double ratio, int64_t width, const char *what,
                            int64_t *out)
{
    rf_status status = RF_OK;
    if (*out == 0 && ratio > 0.0) {
        double n = trunc(ratio * (double)width); /* as Python's int() */
        if (d->mlp_rule == RF_MLP_TWO_THIRDS) {
            n = 8.0 * floor((trunc(n * 2.0 / 3.0) + 7.0) / 8.0);
        }
        if (!(n >= 1.0 && n <= (double)MAX_MLP)) {
            RF_FAIL(RF_ERR_FORMAT, "%s %g: a hidden layer of 1 to %d was expected", what, ratio,
                    MAX_MLP);
        }
        *out = (int64_t)n;
    }
fail:
    return status;
}

static rf_status finish_grid(rf_vit_config *c)
{
    rf_status status = RF_OK;
    const int64_t frames = c->input == RF_VIT_CLIPS ? c->n_frames : 1;
    c->tubelet = c->input == RF_VIT_CLIPS ? c->tubelet : 1;
    c->n_frames = frames;
    c->grid[0] = frames / c->tubelet;
    c->grid[1] = c->image_height / c->patch_size;
    c->grid[2] = c->image_width / c->patch_size;
    c->n_patches = c->grid[0] * c->grid[1] * c->grid[2];
    if (c->n_patches < 1 || c->n_patches > MAX_PATCHES) {
        RF_FAIL(RF_ERR_FORMAT,
                "image_size %" PRId64 " and patch_size %" PRId64 " give %" PRId64
                " patches, expected 1 to %d",
                c->image_height, c->patch_size, c->n_patches, MAX_PATCHES);
    }
    c->n_prefix = (c->has_cls ? 1 : 0) + (c->has_distilled ? 1 : 0) + c->n_registers;
    c->n_tokens = c->n_prefix + c->n_patches;
fail:
    return status;
}

/* Texts have no pictures, and every token is what a patch is there. */
static void finish_text(rf_draft *d)
{
    rf_vit_config *c = &d->config;
    c->image_height = c->image_width = 0;
    c->patch_size = c->n_channels = c->n_frames = c->tubelet = 1;
    c->grid[0] = c->grid[1] = 1;
    c->grid[2] = c->n_patches = c->n_tokens = d->n_context;
    c->n_registers = c->n_prefix = 0;
    c->has_cls = c->has_distilled = false;
}

static rf_status finish_heads(rf_draft *d)
{
    rf_status status = RF_OK;
    rf_vit_config *c = &d->config;
    if (d->head_width > 0) {
        c->n_heads = c->d_model / d->head_width;
    }
    if (c->n_heads < 1 || c->d_model % c->n_heads != 0) {
        RF_FAIL(RF_ERR_FORMAT,
                "hidden_size %" PRId64 " is not divisible by num_attention_heads %" PRId64,
                c->d_model, c->n_heads);
    }
    c->d_head = c->d_model / c->n_heads;
    if (c->rope != RF_ROPE_NONE && c->d_head % (c->rope == RF_ROPE_AXES ? 2 : 4) != 0) {
        RF_FAIL(RF_ERR_FORMAT, "heads of %" PRId64 " cannot be turned by rotary positions",
                c->d_head);
    }
fail:
    return status;
}

static rf_status finish_pool(rf_draft *d)
{
    rf_status status = RF_OK;
    rf_vit_config *c = &d->config;
    if (c->pool != RF_POOL_ATTENTION) {
        c->d_pool = c->d_model;
        c->n_pool_queries = c->n_pool_heads = c->d_pool_mlp = 0;
        return RF_OK;
    }
    fill(&c->d_pool, c->d_model);
    fill(&c->n_pool_heads, c->n_heads);
    RF_TRY(finish_mlp(d, d->pool_mlp_ratio, c->d_pool, "pool_mlp_ratio", &c->d_pool_mlp));
    if (c->d_pool % c->n_pool_heads != 0) {
        RF_FAIL(RF_ERR_FORMAT,
                "an attention pool of width %" PRId64 " is not divisible by its %" PRId64 " heads",
                c->d_pool, c->n_pool_heads);
    }
fail:
    return status;
}

/* Every size has been said by somebody. */
static rf_status check_sizes(const rf_draft *d)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &d->config;
    const struct {
        const char *name;
        int64_t size;
    } sizes[] = {{"d_model", c->d_model},
                 {"n_layers", c->n_layers},
                 {"d_mlp or mlp_ratio", c->d_mlp > 0 || d->mlp_ratio > 0.0},
                 {"n_heads", c->n_heads > 0 || d->head_width > 0},
                 {"patch_size", c->input == RF_VIT_TEXT ? 1 : c->patch_size},
                 {"image_size", c->input == RF_VIT_TEXT ? 1 : c->image_height},
                 {"image_size", c->input == RF_VIT_TEXT ? 1 : c->image_width},
                 {"tubelet", c->tubelet},
                 {"n_channels", c->n_channels},
                 {"n_vocab", c->input == RF_VIT_TEXT ? c->n_vocab : 1},
                 {"n_context", c->input == RF_VIT_TEXT ? d->n_context : 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i].size < 1) {
            RF_FAIL(RF_ERR_FORMAT, "nothing says %s", sizes[i].name);
        }
    }
fail:
    return status;
}

/* Combinations that the forward pass has no meaning for. */
static rf_status check_switches(const rf_draft *d)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &d->config;
    const bool is_text = c->input == RF_VIT_TEXT;
    if (!is_text && (c->pool == RF_POOL_END || c->score_bias == RF_SCORES_CAUSAL)) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "pool end and causal scores are for texts alone");
    }
    if (c->pool == RF_POOL_ATTENTION && c->norm_is_behind_pool && c->d_pool_mlp > 0) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "an attention pool with an MLP and a norm behind it");
    }
    if (c->score_bias == RF_SCORES_RELATIVE &&
        (c->grid[0] != 1 || c->n_prefix != 1 || c->n_tokens > MAX_RELATIVE)) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "relative position biases are for pictures with one class token and at most %d "
                "tokens, not %" PRId64 " with %" PRId64 " before the patches",
                (int)MAX_RELATIVE, c->n_tokens, c->n_prefix);
    }
    if (c->rope != RF_ROPE_NONE && is_text) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "rotary positions of texts are not supported");
    }
    if (c->head_input == RF_HEAD_CLS_AND_DISTILLED && !(c->has_cls && c->has_distilled)) {
        RF_FAIL(RF_ERR_FORMAT, "head_input cls_and_distilled needs has_cls and has_distilled");
    }
fail:
    return status;
}

/* Another picture size than the files'. */
static rf_status set_image_size(rf_vit_files *files)
{
    rf_status status = RF_OK;
    rf_vit_config *c = &files->draft.config;
    const int64_t height = files->opts.image_height, width = files->opts.image_width;
    RF_REQUIRE(height >= 0 && height <= MAX_SIDE && width >= 0 && width <= MAX_SIDE,
               "image size %" PRId64 " x %" PRId64 ", expected 0 to %d", height, width,
               (int)MAX_SIDE);
    memcpy(files->native_grid, c->grid, sizeof c->grid);
    if ((height == 0 || height == c->image_height) && (width == 0 || width == c->image_width)) {
        return RF_OK;
    }
    if (c->input == RF_VIT_TEXT ||
        (files->draft.interpolation == RF_INTERPOLATE_NOT &&
         (files->draft.positions != RF_POSITIONS_NONE || c->score_bias == RF_SCORES_RELATIVE))) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "a model of family %s runs at its own image size %" PRId64 " x %" PRId64
                ", not %" PRId64 " x %" PRId64,
                c->family, c->image_height, c->image_width, height, width);
    }
    c->image_height = height > 0 ? height : c->image_height;
    c->image_width = width > 0 ? width : c->image_width;
    RF_TRY(finish_grid(c));
fail:
    return status;
}

rf_status rf_vit_files_finish(rf_vit_files *files)
{
    rf_status status = RF_OK;
    rf_draft *d = &files->draft;
    rf_vit_config *c = &d->config;
    if (files->weights != NULL) {
        fill_from_shapes(files, d);
        RF_TRY(find_optional_parts(files));
    } else {
        assume_parts(d);
    }
    fill(&c->image_height, d->image_size);
    fill(&c->image_width, d->image_size);
    RF_TRY(check_sizes(d));
    RF_TRY(finish_mlp(d, d->mlp_ratio, c->d_model, "'mlp_ratio' is", &c->d_mlp));
    RF_TRY(finish_heads(d));
    if (c->input == RF_VIT_TEXT) {
        finish_text(d);
    } else {
        RF_TRY(finish_grid(c));
    }
    RF_TRY(finish_pool(d));
    c->d_out = c->has_projection ? c->d_out : c->d_pool;
    c->eps = (float)d->eps;
    c->eps_final = (float)(d->eps_final > 0.0 ? d->eps_final : d->eps);
    c->has_position = d->positions != RF_POSITIONS_NONE;
    RF_TRY(check_switches(d));
    RF_TRY(set_image_size(files));
    files->config = *c;
fail:
    return status;
}
