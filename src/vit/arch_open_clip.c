/* The architecture table: OpenCLIP's own vision transformer. Defaults are those of its
 * CLIPVisionCfg (3.3). */
#include "config_impl.h"

static const rf_key keys[] = {
    {"d_model", "width", 0},
    {"n_layers", "layers", 0},
    {"head_width", "head_width", 0},
    {"mlp_ratio", "mlp_ratio", 0},
    {"image_size", "image_size", 0},
    {"patch_size", "patch_size", 0},
    {"has_layer_scale", "ls_init_value", RF_KEY_PRESENT},
    {"has_ln_pre", "no_ln_pre", RF_KEY_NOT},
    {"norm_is_behind_pool", "final_ln_after_pool", 0},
    {"pool", "pool_type", 0},
    {"attentional_pool", "attentional_pool", 0},
    {"n_pool_queries", "attn_pooler_queries", 0},
    {"n_pool_heads", "attn_pooler_heads", 0},
    {"d_out", "/model_cfg.embed_dim", 0},
    {"quick_gelu", "/model_cfg.quick_gelu", 0},
    {"eps", "norm_kwargs.eps", 0},
    {"act", "act_kwargs.approximate", 0},
    {"a norm of q and k", "qk_norm", RF_KEY_REFUSED},
    {"cosine attention", "scaled_cosine_attn", RF_KEY_REFUSED},
    {"a scale a head", "scale_heads", RF_KEY_REFUSED},
    {"a norm before W_O", "scale_attn_inner", RF_KEY_REFUSED},
    {"a norm behind attention", "scale_attn", RF_KEY_REFUSED},
    {"a norm inside the MLP", "scale_fc", RF_KEY_REFUSED},
    {0},
};

static const rf_arch rows[] = {{
    .family = "open_clip",
    .library = "open_clip",
    .config_roots = {"model_cfg.vision_cfg"},
    .prefixes = {"visual."},
    .settings = "d_model: 768, n_layers: 12, head_width: 64, mlp_ratio: 4, image_size: 224, "
                "patch_size: 16, eps: 1e-5, has_cls: true, has_ln_pre: true, patch_bias: false, "
                "n_pool_queries: 256, n_pool_heads: 8, projection: required, head: absent, "
                "interpolation: bicubic_antialias",
    .keys = keys,
    .names = {[RF_PART_PATCH] = {"conv1"},
              [RF_PART_CLS] = {"class_embedding"},
              [RF_PART_POSITION] = {"positional_embedding"},
              [RF_PART_LN_PRE] = {"ln_pre"},
              [RF_PART_LN_FINAL] = {"ln_post"},
              [RF_PART_PROJECTION] = {"proj:in_out"},
              [RF_PART_POOL_PROBE] = {"attn_pool.query"},
              [RF_PART_POOL_LN_Q] = {"attn_pool.ln_q"},
              [RF_PART_POOL_LN_K] = {"attn_pool.ln_k"},
              [RF_PART_POOL_QKV] = {"attn_pool.attn.in_proj_"},
              [RF_PART_POOL_Q] = {"attn_pool.attn.q_proj_"},
              [RF_PART_POOL_K] = {"attn_pool.attn.k_proj_"},
              [RF_PART_POOL_V] = {"attn_pool.attn.v_proj_"},
              [RF_PART_POOL_O] = {"attn_pool.attn.out_proj"},
              [RF_PART_LN1] = {"transformer.resblocks.{l}.ln_1"},
              [RF_PART_QKV] = {"transformer.resblocks.{l}.attn.in_proj_"},
              [RF_PART_O] = {"transformer.resblocks.{l}.attn.out_proj"},
              [RF_PART_SCALE1] = {"transformer.resblocks.{l}.ls_1.gamma"},
              [RF_PART_LN2] = {"transformer.resblocks.{l}.ln_2"},
              [RF_PART_FC1] = {"transformer.resblocks.{l}.mlp.c_fc"},
              [RF_PART_FC2] = {"transformer.resblocks.{l}.mlp.c_proj"},
              [RF_PART_SCALE2] = {"transformer.resblocks.{l}.ls_2.gamma"}},
    .resolve = rf_resolve_open_clip,
}};

const rf_arch_list rf_archs_open_clip = {rows, sizeof rows / sizeof *rows};
