/* The architecture table: video models. Defaults are those of transformers' configuration classes
 * (5.23) and, for V-JEPA, of its configs (facebookresearch/jepa). */
#include "config_impl.h"

#define COMMON_KEYS                                                                                \
    {"d_model", "hidden_size", 0}, {"n_layers", "num_hidden_layers", 0},                           \
        {"n_heads", "num_attention_heads", 0}, {"patch_size", "patch_size", 0},                    \
        {"tubelet", "tubelet_size", 0}, {"eps", "layer_norm_eps", 0}, {"act", "hidden_act", 0},    \
        {"q_bias", "qkv_bias", 0},                                                                 \
    {                                                                                              \
        "v_bias", "qkv_bias", 0                                                                    \
    }

#define FRAME_KEYS                                                                                 \
    {"d_mlp", "intermediate_size", 0}, {"image_size", "image_size", 0},                            \
        {"n_frames", "num_frames", 0},                                                             \
    {                                                                                              \
        "n_channels", "num_channels", 0                                                            \
    }

static const rf_key vivit_keys[] = {COMMON_KEYS, FRAME_KEYS, {"k_bias", "qkv_bias", 0}, {0}};

static const rf_key videomae_keys[] = {COMMON_KEYS,
                                       FRAME_KEYS,
                                       {"q_bias", "qv_bias", 0},
                                       {"v_bias", "qv_bias", 0},
                                       {"mean_pooling", "use_mean_pooling", 0},
                                       {0}};

static const rf_key jepa_keys[] = {
    COMMON_KEYS,
    {"k_bias", "qkv_bias", 0},
    {"mlp_ratio", "mlp_ratio", 0},
    {"image_size", "crop_size", 0},
    {"n_frames", "frames_per_clip", 0},
    {"n_channels", "in_chans", 0},
    {0},
};

#define VIT_BLOCK                                                                                  \
    [RF_PART_LN1] = {"encoder.layer.{l}.layernorm_before", "layers.{l}.layernorm_before"},         \
    [RF_PART_Q] = {"encoder.layer.{l}.attention.attention.query", "layers.{l}.attention.q_proj"},  \
    [RF_PART_K] = {"encoder.layer.{l}.attention.attention.key", "layers.{l}.attention.k_proj"},    \
    [RF_PART_V] = {"encoder.layer.{l}.attention.attention.value", "layers.{l}.attention.v_proj"},  \
    [RF_PART_O] = {"encoder.layer.{l}.attention.output.dense", "layers.{l}.attention.o_proj"},     \
    [RF_PART_LN2] = {"encoder.layer.{l}.layernorm_after", "layers.{l}.layernorm_after"},           \
    [RF_PART_FC1] = {"encoder.layer.{l}.intermediate.dense", "layers.{l}.mlp.fc1"},                \
    [RF_PART_FC2] = {"encoder.layer.{l}.output.dense", "layers.{l}.mlp.fc2"}

static const rf_arch rows[] = {
    {
        .family = "vivit",
        .library = "transformers",
        .model_types = {"vivit"},
        .prefixes = {"vivit.", ""},
        .settings = "input: clips, d_model: 768, n_layers: 12, n_heads: 12, d_mlp: 3072, "
                    "image_size: 224, patch_size: 16, n_frames: 32, tubelet: 2, eps: 1e-6, "
                    "act: gelu_tanh, has_cls: true",
        .keys = vivit_keys,
        .names = {[RF_PART_PATCH] = {"embeddings.patch_embeddings.projection"},
                  [RF_PART_CLS] = {"embeddings.cls_token"},
                  [RF_PART_POSITION] = {"embeddings.position_embeddings"},
                  [RF_PART_LN_FINAL] = {"layernorm"},
                  [RF_PART_HEAD] = {"/classifier"},
                  VIT_BLOCK},
    },
    {
        .family = "videomae",
        .library = "transformers",
        .model_types = {"videomae"},
        .prefixes = {"videomae.", ""},
        .settings = "input: clips, d_model: 768, n_layers: 12, n_heads: 12, d_mlp: 3072, "
                    "image_size: 224, patch_size: 16, n_frames: 16, tubelet: 2, eps: 1e-12, "
                    "k_bias: false, positions: sinusoid, mean_pooling: true, final_norm: optional",
        .keys = videomae_keys,
        .names = {[RF_PART_PATCH] = {"embeddings.patch_embeddings.projection"},
                  [RF_PART_LN_FINAL] = {"layernorm", "/fc_norm"},
                  [RF_PART_HEAD] = {"/classifier"},
                  [RF_PART_Q_BIAS] = {"encoder.layer.{l}.attention.attention.q_bias"},
                  [RF_PART_V_BIAS] = {"encoder.layer.{l}.attention.attention.v_bias"},
                  VIT_BLOCK},
        .resolve = rf_resolve_mean_pooling,
    },
    {
        .family = "vjepa2", /* the encoder */
        .library = "transformers",
        .model_types = {"vjepa2"},
        .prefixes = {"encoder.", "vjepa2.encoder."},
        .settings = "input: clips, d_model: 1024, n_layers: 24, n_heads: 16, mlp_ratio: 4, "
                    "image_size: 256, patch_size: 16, n_frames: 64, tubelet: 2, eps: 1e-6, "
                    "positions: none, rope: axes, pool: token_mean, head: absent",
        .keys = jepa_keys,
        .names = {[RF_PART_PATCH] = {"embeddings.patch_embeddings.proj"},
                  [RF_PART_LN_FINAL] = {"layernorm"},
                  [RF_PART_LN1] = {"layer.{l}.norm1"},
                  [RF_PART_Q] = {"layer.{l}.attention.query"},
                  [RF_PART_K] = {"layer.{l}.attention.key"},
                  [RF_PART_V] = {"layer.{l}.attention.value"},
                  [RF_PART_O] = {"layer.{l}.attention.proj"},
                  [RF_PART_LN2] = {"layer.{l}.norm2"},
                  [RF_PART_FC1] = {"layer.{l}.mlp.fc1"},
                  [RF_PART_FC2] = {"layer.{l}.mlp.fc2"}},
    },
    {
        .family = "vjepa", /* Meta's own archives; config.json is the user's, see docs/models.md */
        .library = "meta",
        .model_types = {"vjepa"},
        .prefixes = {""},
        .settings = "input: clips, d_model: 1280, n_layers: 32, n_heads: 16, mlp_ratio: 4, "
                    "image_size: 224, patch_size: 16, n_frames: 16, tubelet: 2, eps: 1e-6, "
                    "pool: token_mean, head: absent",
        .keys = jepa_keys,
        .names = {[RF_PART_PATCH] = {"patch_embed.proj"},
                  [RF_PART_POSITION] = {"pos_embed"},
                  [RF_PART_LN_FINAL] = {"norm"},
                  [RF_PART_LN1] = {"blocks.{l}.norm1"},
                  [RF_PART_QKV] = {"blocks.{l}.attn.qkv"},
                  [RF_PART_O] = {"blocks.{l}.attn.proj"},
                  [RF_PART_LN2] = {"blocks.{l}.norm2"},
                  [RF_PART_FC1] = {"blocks.{l}.mlp.fc1"},
                  [RF_PART_FC2] = {"blocks.{l}.mlp.fc2"}},
    },
};

const rf_arch_list rf_archs_video = {rows, sizeof rows / sizeof *rows};
