/* The architecture table: picture models of transformers. Spellings are those of the Hub's
 * checkpoints (which transformers 4 and 5 also save), then those that transformers 5 uses inside.
 * Defaults are those of transformers' configuration classes (5.23). */
#include "config_impl.h"

#define COMMON_KEYS                                                                                \
    {"d_model", "hidden_size", 0}, {"n_layers", "num_hidden_layers", 0},                           \
        {"n_heads", "num_attention_heads", 0}, {"d_mlp", "intermediate_size", 0},                  \
        {"image_size", "image_size", 0}, {"patch_size", "patch_size", 0},                          \
        {"n_channels", "num_channels", 0}, {"eps", "layer_norm_eps", 0}, {"act", "hidden_act", 0}, \
        {"q_bias", "qkv_bias", 0}, {"k_bias", "qkv_bias", 0},                                      \
    {                                                                                              \
        "v_bias", "qkv_bias", 0                                                                    \
    }

static const rf_key vit_keys[] = {COMMON_KEYS, {0}};

static const rf_key siglip_keys[] = {
    COMMON_KEYS,
    {"n_native_patches", "num_patches", 0},
    {"a tower without its pooling head", "vision_use_head", RF_KEY_NEEDED},
    {0}};

static const rf_key dinov2_keys[] = {
    COMMON_KEYS,
    {"mlp_ratio", "mlp_ratio", 0},
    {"is_gated", "use_swiglu_ffn", 0},
    {"n_registers", "num_register_tokens", 0},
    {0},
};

static const rf_key dinov3_keys[] = {
    COMMON_KEYS,
    {"q_bias", "query_bias", 0},
    {"k_bias", "key_bias", 0},
    {"v_bias", "value_bias", 0},
    {"o_bias", "proj_bias", 0},
    {"mlp_bias", "mlp_bias", 0},
    {"is_gated", "use_gated_mlp", 0},
    {"n_registers", "num_register_tokens", 0},
    {"rope_base", "rope_theta", 0},
    {0},
};

static const rf_key beit_keys[] = {
    COMMON_KEYS,
    {"absolute_positions", "use_absolute_position_embeddings", 0},
    {"relative", "use_relative_position_bias", 0},
    {"relative_shared", "use_shared_relative_position_bias", 0},
    {"has_layer_scale", "layer_scale_init_value", RF_KEY_PRESENT},
    {"mean_pooling", "use_mean_pooling", 0},
    {0},
};

#define CLIP_BLOCK                                                                                 \
    [RF_PART_LN1] = {"encoder.layers.{l}.layer_norm1"},                                            \
    [RF_PART_Q] = {"encoder.layers.{l}.self_attn.q_proj"},                                         \
    [RF_PART_K] = {"encoder.layers.{l}.self_attn.k_proj"},                                         \
    [RF_PART_V] = {"encoder.layers.{l}.self_attn.v_proj"},                                         \
    [RF_PART_O] = {"encoder.layers.{l}.self_attn.out_proj"},                                       \
    [RF_PART_LN2] = {"encoder.layers.{l}.layer_norm2"},                                            \
    [RF_PART_FC1] = {"encoder.layers.{l}.mlp.fc1"}, [RF_PART_FC2] = {"encoder.layers.{l}.mlp.fc2"}

#define SIGLIP_NAMES                                                                               \
    [RF_PART_PATCH] = {"embeddings.patch_embedding"},                                              \
    [RF_PART_POSITION] = {"embeddings.position_embedding.weight"},                                 \
    [RF_PART_LN_FINAL] = {"post_layernorm"}, [RF_PART_POOL_PROBE] = {"head.probe"},                \
    [RF_PART_POOL_QKV] = {"head.attention.in_proj_"},                                              \
    [RF_PART_POOL_O] = {"head.attention.out_proj"}, [RF_PART_POOL_LN] = {"head.layernorm"},        \
    [RF_PART_POOL_FC1] = {"head.mlp.fc1"}, [RF_PART_POOL_FC2] = {"head.mlp.fc2"}, CLIP_BLOCK

#define VIT_EMBEDDINGS                                                                             \
    [RF_PART_PATCH] = {"embeddings.patch_embeddings.projection"},                                  \
    [RF_PART_CLS] = {"embeddings.cls_token"},                                                      \
    [RF_PART_POSITION] = {"embeddings.position_embeddings"},                                       \
    [RF_PART_HEAD] = {"/classifier", "/cls_classifier"}

#define VIT_BLOCK                                                                                  \
    [RF_PART_LN1] = {"encoder.layer.{l}.layernorm_before", "layers.{l}.layernorm_before"},         \
    [RF_PART_Q] = {"encoder.layer.{l}.attention.attention.query", "layers.{l}.attention.q_proj"},  \
    [RF_PART_K] = {"encoder.layer.{l}.attention.attention.key", "layers.{l}.attention.k_proj"},    \
    [RF_PART_V] = {"encoder.layer.{l}.attention.attention.value", "layers.{l}.attention.v_proj"},  \
    [RF_PART_O] = {"encoder.layer.{l}.attention.output.dense", "layers.{l}.attention.o_proj"},     \
    [RF_PART_LN2] = {"encoder.layer.{l}.layernorm_after", "layers.{l}.layernorm_after"},           \
    [RF_PART_FC1] = {"encoder.layer.{l}.intermediate.dense", "layers.{l}.mlp.fc1"},                \
    [RF_PART_FC2] = {"encoder.layer.{l}.output.dense", "layers.{l}.mlp.fc2"}

#define VIT_SIZES                                                                                  \
    "d_model: 768, n_layers: 12, n_heads: 12, d_mlp: 3072, image_size: 224, patch_size: 16, "      \
    "eps: 1e-12, "

#define DINOV2_NAMES                                                                               \
    VIT_EMBEDDINGS,                                                                                \
        [RF_PART_REGISTERS] = {"embeddings.register_tokens"}, [RF_PART_LN_FINAL] = {"layernorm"},  \
        [RF_PART_LN1] = {"encoder.layer.{l}.norm1"},                                               \
        [RF_PART_Q] = {"encoder.layer.{l}.attention.attention.query",                              \
                       "encoder.layer.{l}.attention.q_proj"},                                      \
        [RF_PART_K] = {"encoder.layer.{l}.attention.attention.key",                                \
                       "encoder.layer.{l}.attention.k_proj"},                                      \
        [RF_PART_V] = {"encoder.layer.{l}.attention.attention.value",                              \
                       "encoder.layer.{l}.attention.v_proj"},                                      \
        [RF_PART_O] = {"encoder.layer.{l}.attention.output.dense",                                 \
                       "encoder.layer.{l}.attention.o_proj"},                                      \
        [RF_PART_SCALE1] = {"encoder.layer.{l}.layer_scale1.lambda1"},                             \
        [RF_PART_LN2] = {"encoder.layer.{l}.norm2"},                                               \
        [RF_PART_GATE_FC1] = {"encoder.layer.{l}.mlp.weights_in"},                                 \
        [RF_PART_GATE] = {"encoder.layer.{l}.mlp.gate_proj"},                                      \
        [RF_PART_FC1] = {"encoder.layer.{l}.mlp.fc1", "encoder.layer.{l}.mlp.up_proj"},            \
        [RF_PART_FC2] = {"encoder.layer.{l}.mlp.fc2", "encoder.layer.{l}.mlp.weights_out",         \
                         "encoder.layer.{l}.mlp.down_proj"},                                       \
        [RF_PART_SCALE2] = {"encoder.layer.{l}.layer_scale2.lambda1"}

#define DINOV2_SIZES                                                                               \
    "d_model: 768, n_layers: 12, n_heads: 12, mlp_ratio: 4, image_size: 224, eps: 1e-6, "          \
    "has_cls: true, has_layer_scale: true, head_input: pooled_and_patch_mean, "

static const rf_arch rows[] = {
    {
        .family = "clip",
        .library = "transformers",
        .model_types = {"clip", "clip_vision_model", "metaclip_2", "metaclip_2_vision_model"},
        .config_roots = {"vision_config_dict", "vision_config"},
        .prefixes = {"vision_model.", "", "clip.vision_model."},
        .settings = "d_model: 768, n_layers: 12, n_heads: 12, d_mlp: 3072, image_size: 224, "
                    "patch_size: 32, act: quick_gelu, eps: 1e-5, has_cls: true, has_ln_pre: true, "
                    "patch_bias: false, projection: optional, head: absent, interpolation: bicubic",
        .keys = vit_keys,
        .names = {[RF_PART_PATCH] = {"embeddings.patch_embedding"},
                  [RF_PART_CLS] = {"embeddings.class_embedding"},
                  [RF_PART_POSITION] = {"embeddings.position_embedding.weight"},
                  [RF_PART_LN_PRE] = {"pre_layrnorm", "pre_layernorm"},
                  [RF_PART_LN_FINAL] = {"post_layernorm"},
                  [RF_PART_PROJECTION] = {"/visual_projection"},
                  CLIP_BLOCK},
    },
    {
        .family = "siglip",
        .library = "transformers",
        .model_types = {"siglip", "siglip_vision_model"},
        .config_roots = {"vision_config"},
        .prefixes = {"vision_model.", ""},
        .settings = "d_model: 768, n_layers: 12, n_heads: 12, d_mlp: 3072, image_size: 224, "
                    "patch_size: 16, act: gelu_tanh, eps: 1e-6, pool: attention, head: absent, "
                    "interpolation: bicubic",
        .keys = siglip_keys,
        .names = {SIGLIP_NAMES},
        .resolve = rf_resolve_siglip,
    },
    {
        .family = "siglip2",
        .library = "transformers",
        .model_types = {"siglip2", "siglip2_vision_model"},
        .config_roots = {"vision_config"},
        .prefixes = {"vision_model.", ""},
        .settings = "d_model: 768, n_layers: 12, n_heads: 12, d_mlp: 3072, n_native_patches: 256, "
                    "patch_size: 16, act: gelu_tanh, eps: 1e-6, pool: attention, head: absent, "
                    "patch_order: yxc, interpolation: bilinear_antialias",
        .keys = siglip_keys,
        .names = {SIGLIP_NAMES},
        .resolve = rf_resolve_siglip,
    },
    {
        .family = "vit", /* also DINO v1 */
        .library = "transformers",
        .model_types = {"vit"},
        .prefixes = {"vit.", ""},
        .settings = VIT_SIZES "has_cls: true, interpolation: bicubic",
        .keys = vit_keys,
        .names = {VIT_EMBEDDINGS, [RF_PART_LN_FINAL] = {"layernorm"}, VIT_BLOCK},
    },
    {
        .family = "deit",
        .library = "transformers",
        .model_types = {"deit"},
        .prefixes = {"deit.", ""},
        .settings = VIT_SIZES "has_cls: true, has_distilled: true, interpolation: bicubic",
        .keys = vit_keys,
        .names = {VIT_EMBEDDINGS, [RF_PART_DISTILLED] = {"embeddings.distillation_token"},
                  [RF_PART_LN_FINAL] = {"layernorm"},
                  [RF_PART_HEAD_DISTILLED] = {"/distillation_classifier"}, VIT_BLOCK},
    },
    {
        .family = "dinov2",
        .library = "transformers",
        .model_types = {"dinov2"},
        .prefixes = {"dinov2.", ""},
        .settings = DINOV2_SIZES "patch_size: 14, interpolation: bicubic",
        .keys = dinov2_keys,
        .names = {DINOV2_NAMES},
        .resolve = rf_resolve_dinov2,
    },
    {
        .family = "dinov2_with_registers",
        .library = "transformers",
        .model_types = {"dinov2_with_registers"},
        .prefixes = {"dinov2_with_registers.", ""},
        .settings = DINOV2_SIZES "patch_size: 16, n_registers: 4, prefix_positions: cls, "
                                 "interpolation: bicubic_antialias",
        .keys = dinov2_keys,
        .names = {DINOV2_NAMES},
        .resolve = rf_resolve_dinov2,
    },
    {
        .family = "dinov3",
        .library = "transformers",
        .model_types = {"dinov3_vit"},
        .prefixes = {"", "dinov3_vit.", "model."},
        .settings = "d_model: 384, n_layers: 12, n_heads: 6, d_mlp: 1536, image_size: 224, "
                    "patch_size: 16, eps: 1e-5, has_cls: true, positions: none, rope: centres, "
                    "rope_base: 100, k_bias: false, has_layer_scale: true",
        .keys = dinov3_keys,
        .names = {[RF_PART_PATCH] = {"embeddings.patch_embeddings"},
                  [RF_PART_CLS] = {"embeddings.cls_token"},
                  [RF_PART_REGISTERS] = {"embeddings.register_tokens"},
                  [RF_PART_LN_FINAL] = {"norm"},
                  [RF_PART_HEAD] = {"/classifier"},
                  [RF_PART_LN1] = {"layer.{l}.norm1", "model.layer.{l}.norm1"},
                  [RF_PART_Q] = {"layer.{l}.attention.q_proj", "model.layer.{l}.attention.q_proj"},
                  [RF_PART_K] = {"layer.{l}.attention.k_proj", "model.layer.{l}.attention.k_proj"},
                  [RF_PART_V] = {"layer.{l}.attention.v_proj", "model.layer.{l}.attention.v_proj"},
                  [RF_PART_O] = {"layer.{l}.attention.o_proj", "model.layer.{l}.attention.o_proj"},
                  [RF_PART_SCALE1] = {"layer.{l}.layer_scale1.lambda1",
                                      "model.layer.{l}.layer_scale1.lambda1"},
                  [RF_PART_LN2] = {"layer.{l}.norm2", "model.layer.{l}.norm2"},
                  [RF_PART_GATE] = {"layer.{l}.mlp.gate_proj", "model.layer.{l}.mlp.gate_proj"},
                  [RF_PART_FC1] = {"layer.{l}.mlp.up_proj", "model.layer.{l}.mlp.up_proj"},
                  [RF_PART_FC2] = {"layer.{l}.mlp.down_proj", "model.layer.{l}.mlp.down_proj"},
                  [RF_PART_SCALE2] = {"layer.{l}.layer_scale2.lambda1",
                                      "model.layer.{l}.layer_scale2.lambda1"}},
    },
    {
        .family = "ijepa",
        .library = "transformers",
        .model_types = {"ijepa"},
        .prefixes = {"ijepa.", ""},
        .settings = VIT_SIZES "pool: token_mean, interpolation: bicubic",
        .keys = vit_keys,
        .names = {VIT_EMBEDDINGS, [RF_PART_LN_FINAL] = {"layernorm"}, VIT_BLOCK},
    },
    {
        .family = "mae", /* the encoder */
        .library = "transformers",
        .model_types = {"vit_mae"},
        .prefixes = {"vit.", ""},
        .settings = VIT_SIZES "has_cls: true, head: absent, interpolation: bicubic",
        .keys = vit_keys,
        .names = {VIT_EMBEDDINGS, [RF_PART_LN_FINAL] = {"layernorm"}, VIT_BLOCK},
    },
    {
        .family = "beit",
        .library = "transformers",
        .model_types = {"beit"},
        .prefixes = {"beit.", ""},
        .settings = VIT_SIZES "has_cls: true, k_bias: false, absolute_positions: false, "
                              "has_layer_scale: true, mean_pooling: true",
        .keys = beit_keys,
        .names = {VIT_EMBEDDINGS, [RF_PART_LN_FINAL] = {"layernorm", "pooler.layernorm"},
                  [RF_PART_RELATIVE_SHARED] = {"encoder.relative_position_bias."
                                               "relative_position_bias_table"},
                  [RF_PART_RELATIVE] = {"encoder.layer.{l}.attention.attention."
                                        "relative_position_bias.relative_position_bias_table"},
                  [RF_PART_SCALE1] = {"encoder.layer.{l}.lambda_1"},
                  [RF_PART_SCALE2] = {"encoder.layer.{l}.lambda_2"}, VIT_BLOCK},
        .resolve = rf_resolve_mean_pooling,
    },
};

const rf_arch_list rf_archs_transformers = {rows, sizeof rows / sizeof *rows};
