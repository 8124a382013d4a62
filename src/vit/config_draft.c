/* The settings of a config in the making: one table that the built-in rows, named architectures,
 * config.json and a user's row all go through. */
#include "config_impl.h"

#include <string.h>

/* Far above any model, and small enough that no product of sizes overflows. */
enum {
    MAX_WIDTH = 1 << 16,
    MAX_MLP = 1 << 20,
    MAX_LAYERS = 1024,
    MAX_SIDE = 1 << 14,
    MAX_CHANNELS = 64,
    MAX_FRAMES = 1 << 12,
    MAX_CLASSES = 1 << 20,
    MAX_VOCAB = 1 << 24,
    MAX_CONTEXT = 1 << 12
};

static const char *const inputs[] = {"pictures", "clips", "text", NULL};
static const char *const acts[] = {"none", "relu", "gelu", "quick_gelu", "gelu_tanh", "silu", NULL};
static const char *const norm_places[] = {"before", "behind", NULL};
static const char *const ropes[] = {"none", "grid", "centres", "axes", NULL};
static const char *const pools[] = {"cls", "patch_mean", "token_mean", "attention",
                                    "end", "last",       NULL};
static const char *const score_biases[] = {"plain", "causal", "relative", NULL};
static const char *const head_inputs[] = {"pooled", "pooled_and_patch_mean", "cls_and_distilled",
                                          NULL};
static const char *const presences[] = {"absent", "optional", "required", NULL};
static const char *const positions[] = {"none", "stored", "sinusoid", NULL};
static const char *const prefix_positions[] = {"all", "cls", "none", NULL};
static const char *const mlp_rules[] = {"plain", "two_thirds", NULL};
static const char *const patch_orders[] = {"ctyx", "yxc", NULL};
static const char *const interpolations[] = {"none", "bicubic", "bicubic_antialias",
                                             "bilinear_antialias", NULL};

#define IN_CONFIG(field) offsetof(rf_draft, config.field)
#define IN_DRAFT(field) offsetof(rf_draft, field)
#define SIZE(key, at, fallback, max, unit, help)                                                   \
    {                                                                                              \
        key, RF_SETTING_I64, at, 0, fallback, 0, max, NULL, unit, help                             \
    }
#define NUMBER(key, at, fallback, max, help)                                                       \
    {                                                                                              \
        key, RF_SETTING_F64, at, 0, fallback, 0, max, NULL, "", help                               \
    }
#define SWITCH(key, at, fallback, help)                                                            \
    {                                                                                              \
        key, RF_SETTING_BOOL, at, 0, fallback, 0, 0, NULL, "", help                                \
    }
#define CHOICE(key, at, fallback, words, help)                                                     \
    {                                                                                              \
        key, RF_SETTING_CHOICE, at, 0, fallback, 0, 0, words, "", help                             \
    }

static const rf_setting rows[] = {
    CHOICE("input", IN_CONFIG(input), "pictures", inputs, "What the model reads."),
    SIZE("d_model", IN_CONFIG(d_model), "0", MAX_WIDTH, "", "Width of the residual stream."),
    SIZE("n_layers", IN_CONFIG(n_layers), "0", MAX_LAYERS, "", "Blocks."),
    SIZE("n_heads", IN_CONFIG(n_heads), "0", MAX_WIDTH, "", "Attention heads."),
    SIZE("head_width", IN_DRAFT(head_width), "0", MAX_WIDTH, "",
         "Width of a head, where the config says that instead of their number."),
    SIZE("d_mlp", IN_CONFIG(d_mlp), "0", MAX_MLP, "", "Width of the MLP."),
    NUMBER("mlp_ratio", IN_DRAFT(mlp_ratio), "0", 1 << 16,
           "Or the same as a multiple of d_model, rounded down."),
    CHOICE("mlp_rule", IN_DRAFT(mlp_rule), "plain", mlp_rules,
           "two_thirds: of mlp_ratio, rounded up to a multiple of 8 (DINOv2's SwiGLU)."),
    SIZE("image_size", IN_DRAFT(image_size), "0", MAX_SIDE, "pixels", "Side of a square picture."),
    SIZE("image_height", IN_CONFIG(image_height), "0", MAX_SIDE, "pixels",
         "Where it is not square."),
    SIZE("image_width", IN_CONFIG(image_width), "0", MAX_SIDE, "pixels", "Where it is not square."),
    SIZE("n_native_patches", IN_DRAFT(n_native_patches), "0", 1 << 18, "",
         "Patches of a square picture, where the config says that instead (SigLIP 2)."),
    SIZE("patch_size", IN_CONFIG(patch_size), "0", MAX_SIDE, "pixels", "Side of a patch."),
    SIZE("n_channels", IN_CONFIG(n_channels), "3", MAX_CHANNELS, "", "Channels of a picture."),
    SIZE("n_frames", IN_CONFIG(n_frames), "1", MAX_FRAMES, "frames", "Of a clip."),
    SIZE("tubelet", IN_CONFIG(tubelet), "1", MAX_FRAMES, "frames", "Of a patch."),
    SIZE("n_registers", IN_CONFIG(n_registers), "0", 1 << 10, "", "Register tokens."),
    SIZE("n_vocab", IN_CONFIG(n_vocab), "0", MAX_VOCAB, "", "Text: ids."),
    SIZE("n_context", IN_DRAFT(n_context), "0", MAX_CONTEXT, "tokens", "Text: length."),
    {"eos_id", RF_SETTING_I64, IN_CONFIG(eos_id), 0, "-1", -1, MAX_VOCAB, NULL, "",
     "Text, pool end: the id that ends a text; -1: the largest."},
    SIZE("d_out", IN_CONFIG(d_out), "0", MAX_WIDTH, "", "Width of the projection."),
    SIZE("n_classes", IN_CONFIG(n_classes), "0", MAX_CLASSES, "", "Of a classification head."),
    CHOICE("act", IN_CONFIG(act), "gelu", acts, "The MLP's activation."),
    NUMBER("eps", IN_DRAFT(eps), "1e-6", 0.9, "Of the norms."),
    NUMBER("eps_final", IN_DRAFT(eps_final), "0", 0.9, "Of the final norm; 0: as the others."),
    SWITCH("has_cls", IN_CONFIG(has_cls), "false", "A class token."),
    SWITCH("has_distilled", IN_CONFIG(has_distilled), "false", "A distillation token (DeiT)."),
    CHOICE("positions", IN_DRAFT(positions), "stored", positions, "Positions that are added."),
    CHOICE("prefix_positions", IN_DRAFT(prefix_positions), "all", prefix_positions,
           "Which tokens before the patches have a position."),
    CHOICE("interpolation", IN_DRAFT(interpolation), "none", interpolations,
           "How positions are resampled for another picture size; none: they cannot be."),
    CHOICE("rope", IN_CONFIG(rope), "none", ropes, "Rotary positions."),
    NUMBER("rope_base", IN_CONFIG(rope_base), "10000", 1e9, "Their base."),
    NUMBER("rope_offset", IN_CONFIG(rope_offset), "0", 1e3, "grid: added to positions."),
    SIZE("rope_ref_side", IN_CONFIG(rope_ref_side), "0", MAX_SIDE, "patches",
         "grid: side that positions are scaled to."),
    SWITCH("rope_is_xy", IN_CONFIG(rope_is_xy), "false", "grid: x before y."),
    SWITCH("has_ln_pre", IN_CONFIG(has_ln_pre), "false", "A norm before the blocks."),
    CHOICE("final_norm", IN_DRAFT(final_norm), "required", presences, "A norm behind them."),
    SWITCH("norm_is_behind_pool", IN_CONFIG(norm_is_behind_pool), "false",
           "It normalises the pooled vector."),
    CHOICE("norm_place", IN_CONFIG(norm_place), "before", norm_places,
           "A block's norms: before or behind its branches."),
    SWITCH("has_attn_norm", IN_CONFIG(has_attn_norm), "false", "A norm before W_O."),
    SWITCH("has_mlp_norm", IN_CONFIG(has_mlp_norm), "false", "A norm before W_out."),
    SWITCH("is_gated", IN_CONFIG(is_gated), "false", "The MLP is act(x W_gate) * (x W_in)."),
    SWITCH("has_layer_scale", IN_CONFIG(has_layer_scale), "false", "LayerScale."),
    CHOICE("score_bias", IN_CONFIG(score_bias), "plain", score_biases,
           "What is added to attention scores."),
    SWITCH("relative", IN_DRAFT(relative), "false", "A table of relative positions a layer."),
    SWITCH("relative_shared", IN_DRAFT(relative_shared), "false", "One for all layers."),
    CHOICE("pool", IN_CONFIG(pool), "cls", pools, "The model's own pooled output."),
    SIZE("n_pool_queries", IN_CONFIG(n_pool_queries), "1", 1 << 12, "", "Pool attention: queries."),
    SIZE("n_pool_heads", IN_CONFIG(n_pool_heads), "0", MAX_WIDTH, "",
         "Its heads; 0: as many as the blocks have."),
    SIZE("d_pool", IN_CONFIG(d_pool), "0", MAX_WIDTH, "", "Its width; 0: d_model."),
    SIZE("d_pool_mlp", IN_CONFIG(d_pool_mlp), "0", MAX_MLP, "", "Its MLP's; 0: it has none."),
    NUMBER("pool_mlp_ratio", IN_DRAFT(pool_mlp_ratio), "0", 1 << 16,
           "Or the same as a multiple of d_pool."),
    CHOICE("head_input", IN_CONFIG(head_input), "pooled", head_inputs, "What the head reads."),
    CHOICE("projection", IN_DRAFT(projection), "absent", presences, "A projection."),
    CHOICE("head", IN_DRAFT(head), "optional", presences, "A classification head."),
    SWITCH("patch_bias", IN_DRAFT(patch_bias), "true", "The patch embedding has a bias."),
    SWITCH("q_bias", IN_DRAFT(q_bias), "true", "So has W_Q,"),
    SWITCH("k_bias", IN_DRAFT(k_bias), "true", "W_K,"),
    SWITCH("v_bias", IN_DRAFT(v_bias), "true", "W_V,"),
    SWITCH("o_bias", IN_DRAFT(o_bias), "true", "W_O,"),
    SWITCH("mlp_bias", IN_DRAFT(mlp_bias), "true", "and the maps of the MLP."),
    SWITCH("projection_bias", IN_DRAFT(projection_bias), "false", "The projection has a bias."),
    SWITCH("head_bias", IN_DRAFT(head_bias), "true", "The head has a bias."),
    CHOICE("patch_order", IN_DRAFT(patch_order), "ctyx", patch_orders,
           "Order of a patch's values in the matrix."),
    SWITCH("mean_pooling", IN_DRAFT(mean_pooling), "false",
           "BEiT, VideoMAE: the mean, with the norm behind it."),
    SWITCH("fc_norm", IN_DRAFT(fc_norm), "false", "timm: the norm stands behind the pool."),
    SWITCH("attentional_pool", IN_DRAFT(attentional_pool), "false", "OpenCLIP: CoCa's pool."),
    SWITCH("absolute_positions", IN_DRAFT(absolute_positions), "true",
           "false: positions are none, whatever else is said."),
    SWITCH("embed_prefix", IN_DRAFT(embed_prefix), "true", "false: prefix_positions are none."),
    SWITCH("is_causal", IN_DRAFT(is_causal), "false", "score_bias is causal."),
    SWITCH("quick_gelu", IN_DRAFT(quick_gelu), "false", "act is quick_gelu."),
};

const rf_settings_table rf_draft_table = {
    .section = "settings",
    .help = "What a model is.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
};

const rf_setting *rf_draft_field(const char *key)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(rows[i].key, key) == 0) {
            return &rows[i];
        }
    }
    return NULL;
}

void rf_draft_forget_rivals(rf_draft *draft, const char *key, const bool *given)
{
    static const char *const rivals[][2] = {{"mlp_ratio", "d_mlp"},
                                            {"head_width", "n_heads"},
                                            {"image_size", "image_height"},
                                            {"image_size", "image_width"},
                                            {"n_native_patches", "image_size"},
                                            {"pool_mlp_ratio", "d_pool_mlp"}};
    for (size_t i = 0; i < sizeof rivals / sizeof *rivals; i++) {
        if (strcmp(key, rivals[i][0]) != 0) {
            continue;
        }
        for (int64_t r = 0; r < rf_draft_table.n_rows; r++) {
            if (strcmp(rows[r].key, rivals[i][1]) == 0 && (given == NULL || !given[r])) {
                memset((char *)draft + rows[r].offset, 0, sizeof(int64_t));
            }
        }
    }
    if (strcmp(key, "d_mlp") == 0) {
        draft->mlp_ratio = 0.0;
    } else if (strcmp(key, "n_heads") == 0) {
        draft->head_width = 0;
    } else if (strcmp(key, "fc_norm") == 0) {
        draft->fc_norm_given = true;
    }
}

rf_status rf_draft_set_yaml(rf_draft *draft, const rf_yaml *map, const char *path)
{
    rf_status status = RF_OK;
    bool given[sizeof rows / sizeof *rows] = {false};
    RF_TRY(rf_settings_read(&rf_draft_table, map, path, NULL, draft, given));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (given[i]) {
            rf_draft_forget_rivals(draft, rows[i].key, given);
        }
    }
fail:
    return status;
}

rf_status rf_draft_set(rf_draft *draft, const char *settings, const char *what)
{
    rf_status status = RF_OK;
    rf_str text = {0};
    rf_yaml *map = NULL;
    RF_TRY(rf_str_append(&text, "{%s}", settings));
    RF_TRY(rf_yaml_parse(text.data, text.len, what, &map));
    RF_TRY(rf_draft_set_yaml(draft, map, ""));
fail:
    rf_yaml_free(map);
    rf_str_fini(&text);
    return status;
}
