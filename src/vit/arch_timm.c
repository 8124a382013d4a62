/* The architecture table: timm's VisionTransformer (and its distilled DeiT), Eva and Beit. The
 * named architecture (named_timm.c) gives the sizes and switches, `model_args` overrules them. */
#include "config_impl.h"

#define COMMON_KEYS                                                                                \
    {"image_size", "/pretrained_cfg.input_size", 0}, {"image_size", "img_size", 0},                \
        {"n_classes", "/num_classes", 0}, {"n_classes", "num_classes", 0},                         \
        {"d_model", "embed_dim", 0}, {"n_layers", "depth", 0}, {"n_heads", "num_heads", 0},        \
        {"mlp_ratio", "mlp_ratio", 0}, {"patch_size", "patch_size", 0},                            \
        {"n_channels", "in_chans", 0}, {"pool", "global_pool", 0}, {"has_cls", "class_token", 0},  \
        {"embed_prefix", "no_embed_class", RF_KEY_NOT},                                            \
        {"has_layer_scale", "init_values", RF_KEY_PRESENT}, {"q_bias", "qkv_bias", 0},             \
        {"v_bias", "qkv_bias", 0},                                                                 \
    {                                                                                              \
        "a norm of q and k", "qk_norm", RF_KEY_REFUSED                                             \
    }

static const rf_key vit_keys[] = {
    COMMON_KEYS,
    {"k_bias", "qkv_bias", 0},
    {"o_bias", "proj_bias", 0},
    {"mlp_bias", "proj_bias", 0},
    {"n_registers", "reg_tokens", 0},
    {"has_ln_pre", "pre_norm", 0},
    {"patch_bias", "pre_norm", RF_KEY_NOT},
    {"fc_norm", "fc_norm", 0},
    {"act", "act_layer", 0},
    {"has_attn_norm", "scale_attn_norm", 0},
    {"has_mlp_norm", "scale_mlp_norm", 0},
    {"a pool over prefix tokens", "pool_include_prefix", RF_KEY_REFUSED},
    {0},
};

static const rf_key eva_keys[] = {
    COMMON_KEYS,
    {"n_registers", "num_reg_tokens", 0},
    {"absolute_positions", "use_abs_pos_emb", 0},
    {"fc_norm", "use_fc_norm", 0},
    {"is_gated", "swiglu_mlp", 0},
    {"has_mlp_norm", "scale_mlp", 0},
    {"has_attn_norm", "scale_attn_inner", 0},
    {"n_pool_heads", "attn_pool_num_heads", 0},
    {"pool_mlp_ratio", "attn_pool_mlp_ratio", 0},
    {"rope_base", "rope_temperature", 0},
    {"rope_offset", "rope_grid_offset", 0},
    {"a gate behind attention", "gated_attn", RF_KEY_REFUSED},
    {"grouped keys and values", "num_kv_heads", RF_KEY_REFUSED},
    {0},
};

#define EMBEDDINGS                                                                                 \
    [RF_PART_PATCH] = {"patch_embed.proj"}, [RF_PART_CLS] = {"cls_token"},                         \
    [RF_PART_DISTILLED] = {"dist_token"}, [RF_PART_REGISTERS] = {"reg_token"},                     \
    [RF_PART_POSITION] = {"pos_embed"}, [RF_PART_LN_PRE] = {"norm_pre"},                           \
    [RF_PART_LN_FINAL] = {"norm", "fc_norm"}, [RF_PART_HEAD] = {"head"},                           \
    [RF_PART_HEAD_DISTILLED] = {"head_dist"}, [RF_PART_POOL_PROBE] = {"attn_pool.latent"},         \
    [RF_PART_POOL_Q] = {"attn_pool.q"}, [RF_PART_POOL_KV] = {"attn_pool.kv"},                      \
    [RF_PART_POOL_O] = {"attn_pool.proj"}, [RF_PART_POOL_LN] = {"attn_pool.norm"},                 \
    [RF_PART_POOL_FC1] = {"attn_pool.mlp.fc1"}, [RF_PART_POOL_FC2] = {"attn_pool.mlp.fc2"}

#define BLOCK                                                                                      \
    [RF_PART_LN1] = {"blocks.{l}.norm1"}, [RF_PART_QKV] = {"blocks.{l}.attn.qkv"},                 \
    [RF_PART_O] = {"blocks.{l}.attn.proj"}, [RF_PART_LN2] = {"blocks.{l}.norm2"},                  \
    [RF_PART_GATE_FC1] = {"blocks.{l}.mlp.fc1"}, [RF_PART_FC2] = {"blocks.{l}.mlp.fc2"}

#define TIMM_SIZES                                                                                 \
    "d_model: 768, n_layers: 12, n_heads: 12, mlp_ratio: 4, image_size: 224, patch_size: 16, "     \
    "has_cls: true, n_classes: 1000, "

static const rf_arch rows[] = {
    {
        .family = "timm_vit",
        .library = "timm",
        .config_roots = {"model_args"},
        .prefixes = {"", "timm_model."},
        .settings = TIMM_SIZES "interpolation: bicubic_antialias",
        .keys = vit_keys,
        .names =
            {EMBEDDINGS, [RF_PART_ATTN_LN] = {"blocks.{l}.attn.norm"},
             [RF_PART_MLP_LN] = {"blocks.{l}.mlp.norm"},
             [RF_PART_SCALE1] = {"blocks.{l}.ls1.gamma"}, [RF_PART_FC1] = {"blocks.{l}.mlp.fc1"},
             [RF_PART_SCALE2] = {"blocks.{l}.ls2.gamma"}, BLOCK},
        .resolve = rf_resolve_timm,
    },
    {
        .family = "eva",
        .library = "timm",
        .config_roots = {"model_args"},
        .prefixes = {"", "timm_model."},
        .settings = TIMM_SIZES "interpolation: bicubic_antialias, k_bias: false",
        .keys = eva_keys,
        .names =
            {EMBEDDINGS, [RF_PART_Q] = {"blocks.{l}.attn.q_proj"},
             [RF_PART_K] = {"blocks.{l}.attn.k_proj"}, [RF_PART_V] = {"blocks.{l}.attn.v_proj"},
             [RF_PART_Q_BIAS] = {"blocks.{l}.attn.q_bias"},
             [RF_PART_V_BIAS] = {"blocks.{l}.attn.v_bias"},
             [RF_PART_ATTN_LN] = {"blocks.{l}.attn.norm"},
             [RF_PART_SCALE1] = {"blocks.{l}.gamma_1"}, [RF_PART_GATE] = {"blocks.{l}.mlp.fc1_g"},
             [RF_PART_FC1] = {"blocks.{l}.mlp.fc1_x", "blocks.{l}.mlp.fc1"},
             [RF_PART_MLP_LN] = {"blocks.{l}.mlp.norm"}, [RF_PART_SCALE2] = {"blocks.{l}.gamma_2"},
             BLOCK},
        .resolve = rf_resolve_timm,
    },
    {
        .family = "timm_beit",
        .library = "timm",
        .config_roots = {"model_args"},
        .prefixes = {"", "timm_model."},
        .settings =
            TIMM_SIZES "k_bias: false, positions: none, relative: true, has_layer_scale: true",
        .keys = eva_keys,
        .names = {EMBEDDINGS, [RF_PART_Q_BIAS] = {"blocks.{l}.attn.q_bias"},
                  [RF_PART_V_BIAS] = {"blocks.{l}.attn.v_bias"},
                  [RF_PART_RELATIVE] = {"blocks.{l}.attn.relative_position_bias_table"},
                  [RF_PART_SCALE1] = {"blocks.{l}.gamma_1"}, [RF_PART_FC1] = {"blocks.{l}.mlp.fc1"},
                  [RF_PART_SCALE2] = {"blocks.{l}.gamma_2"}, BLOCK},
        .resolve = rf_resolve_timm,
    },
};

const rf_arch_list rf_archs_timm = {rows, sizeof rows / sizeof *rows};
