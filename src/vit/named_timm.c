/* Architectures of timm: VisionTransformer, VisionTransformerDistilled, Eva and Beit. Sizes and
 * switches were read off the modules that timm 1.0.31 builds for each name; what is not said is as
 * in the row of the table. */
#include "config_impl.h"

static const rf_named_arch rows[] = {
    {"beit3_base_patch16_224", "timm_vit",
     "has_mlp_norm: true, has_attn_norm: true, eps: 1e-5, norm_is_behind_pool: true, pool: "
     "patch_mean"},
    {"beit3_giant_patch14_224", "timm_vit",
     "d_model: 1408, n_layers: 40, n_heads: 16, mlp_ratio: 4.364, patch_size: 14, has_mlp_norm: "
     "true, has_attn_norm: true, eps: 1e-5, norm_is_behind_pool: true, pool: patch_mean"},
    {"beit3_giant_patch14_336", "timm_vit",
     "d_model: 1408, n_layers: 40, n_heads: 16, mlp_ratio: 4.364, patch_size: 14, image_size: 336, "
     "has_mlp_norm: true, has_attn_norm: true, eps: 1e-5, norm_is_behind_pool: true, pool: "
     "patch_mean"},
    {"beit3_large_patch16_224", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, has_mlp_norm: true, has_attn_norm: true, eps: "
     "1e-5, norm_is_behind_pool: true, pool: patch_mean"},
    {"beit_base_patch16_224", "timm_beit", "norm_is_behind_pool: true, pool: patch_mean"},
    {"beit_base_patch16_384", "timm_beit",
     "image_size: 384, norm_is_behind_pool: true, pool: patch_mean"},
    {"beit_large_patch16_224", "timm_beit",
     "d_model: 1024, n_layers: 24, n_heads: 16, norm_is_behind_pool: true, pool: patch_mean"},
    {"beit_large_patch16_384", "timm_beit",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 384, norm_is_behind_pool: true, pool: "
     "patch_mean"},
    {"beit_large_patch16_512", "timm_beit",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 512, norm_is_behind_pool: true, pool: "
     "patch_mean"},
    {"beitv2_base_patch16_224", "timm_beit", "norm_is_behind_pool: true, pool: patch_mean"},
    {"beitv2_large_patch16_224", "timm_beit",
     "d_model: 1024, n_layers: 24, n_heads: 16, norm_is_behind_pool: true, pool: patch_mean"},
    {"deit3_base_patch16_224", "timm_vit", "prefix_positions: none, has_layer_scale: true"},
    {"deit3_base_patch16_384", "timm_vit",
     "image_size: 384, prefix_positions: none, has_layer_scale: true"},
    {"deit3_huge_patch14_224", "timm_vit",
     "d_model: 1280, n_layers: 32, n_heads: 16, patch_size: 14, prefix_positions: none, "
     "has_layer_scale: true"},
    {"deit3_large_patch16_224", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, prefix_positions: none, has_layer_scale: true"},
    {"deit3_large_patch16_384", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 384, prefix_positions: none, "
     "has_layer_scale: true"},
    {"deit3_medium_patch16_224", "timm_vit",
     "d_model: 512, n_heads: 8, prefix_positions: none, has_layer_scale: true"},
    {"deit3_small_patch16_224", "timm_vit",
     "d_model: 384, n_heads: 6, prefix_positions: none, has_layer_scale: true"},
    {"deit3_small_patch16_384", "timm_vit",
     "d_model: 384, n_heads: 6, image_size: 384, prefix_positions: none, has_layer_scale: true"},
    {"deit_base_distilled_patch16_224", "timm_vit",
     "has_distilled: true, head_input: cls_and_distilled"},
    {"deit_base_distilled_patch16_384", "timm_vit",
     "image_size: 384, has_distilled: true, head_input: cls_and_distilled"},
    {"deit_base_patch16_224", "timm_vit", ""},
    {"deit_base_patch16_384", "timm_vit", "image_size: 384"},
    {"deit_small_distilled_patch16_224", "timm_vit",
     "d_model: 384, n_heads: 6, has_distilled: true, head_input: cls_and_distilled"},
    {"deit_small_patch16_224", "timm_vit", "d_model: 384, n_heads: 6"},
    {"deit_tiny_distilled_patch16_224", "timm_vit",
     "d_model: 192, n_heads: 3, has_distilled: true, head_input: cls_and_distilled"},
    {"deit_tiny_patch16_224", "timm_vit", "d_model: 192, n_heads: 3"},
    {"eva02_base_patch14_224", "eva",
     "mlp_ratio: 2.6666666666666665, patch_size: 14, is_gated: true, act: silu, has_mlp_norm: "
     "true, norm_is_behind_pool: true, pool: patch_mean, rope: grid, rope_ref_side: 16, n_classes: "
     "0"},
    {"eva02_base_patch14_448", "eva",
     "mlp_ratio: 2.6666666666666665, patch_size: 14, image_size: 448, is_gated: true, act: silu, "
     "has_mlp_norm: true, norm_is_behind_pool: true, pool: patch_mean, rope: grid, rope_ref_side: "
     "16"},
    {"eva02_base_patch16_clip_224", "eva",
     "mlp_ratio: 2.6666666666666665, is_gated: true, act: silu, has_mlp_norm: true, has_attn_norm: "
     "true, rope: grid, rope_ref_side: 16, n_classes: 512"},
    {"eva02_enormous_patch14_clip_224", "eva",
     "d_model: 1792, n_layers: 64, n_heads: 16, mlp_ratio: 8.57143, patch_size: 14, norm_place: "
     "behind, n_classes: 1024"},
    {"eva02_large_patch14_224", "eva",
     "d_model: 1024, n_layers: 24, n_heads: 16, mlp_ratio: 2.6666666666666665, patch_size: 14, "
     "is_gated: true, act: silu, has_mlp_norm: true, norm_is_behind_pool: true, pool: patch_mean, "
     "rope: grid, rope_ref_side: 16, n_classes: 0"},
    {"eva02_large_patch14_448", "eva",
     "d_model: 1024, n_layers: 24, n_heads: 16, mlp_ratio: 2.6666666666666665, patch_size: 14, "
     "image_size: 448, is_gated: true, act: silu, has_mlp_norm: true, norm_is_behind_pool: true, "
     "pool: patch_mean, rope: grid, rope_ref_side: 16"},
    {"eva02_large_patch14_clip_224", "eva",
     "d_model: 1024, n_layers: 24, n_heads: 16, mlp_ratio: 2.6666666666666665, patch_size: 14, "
     "is_gated: true, act: silu, has_mlp_norm: true, has_attn_norm: true, rope: grid, "
     "rope_ref_side: 16, n_classes: 768"},
    {"eva02_large_patch14_clip_336", "eva",
     "d_model: 1024, n_layers: 24, n_heads: 16, mlp_ratio: 2.6666666666666665, patch_size: 14, "
     "image_size: 336, is_gated: true, act: silu, has_mlp_norm: true, has_attn_norm: true, rope: "
     "grid, rope_ref_side: 16, n_classes: 768"},
    {"eva02_small_patch14_224", "eva",
     "d_model: 384, n_heads: 6, mlp_ratio: 2.6666666666666665, patch_size: 14, is_gated: true, "
     "act: silu, norm_is_behind_pool: true, pool: patch_mean, rope: grid, rope_ref_side: 16, "
     "n_classes: 0"},
    {"eva02_small_patch14_336", "eva",
     "d_model: 384, n_heads: 6, mlp_ratio: 2.6666666666666665, patch_size: 14, image_size: 336, "
     "is_gated: true, act: silu, norm_is_behind_pool: true, pool: patch_mean, rope: grid, "
     "rope_ref_side: 16"},
    {"eva02_tiny_patch14_224", "eva",
     "d_model: 192, n_heads: 3, mlp_ratio: 2.6666666666666665, patch_size: 14, is_gated: true, "
     "act: silu, norm_is_behind_pool: true, pool: patch_mean, rope: grid, rope_ref_side: 16, "
     "n_classes: 0"},
    {"eva02_tiny_patch14_336", "eva",
     "d_model: 192, n_heads: 3, mlp_ratio: 2.6666666666666665, patch_size: 14, image_size: 336, "
     "is_gated: true, act: silu, norm_is_behind_pool: true, pool: patch_mean, rope: grid, "
     "rope_ref_side: 16"},
    {"eva_giant_patch14_224", "eva",
     "d_model: 1408, n_layers: 40, n_heads: 16, mlp_ratio: 4.364, patch_size: 14, "
     "norm_is_behind_pool: true, pool: patch_mean"},
    {"eva_giant_patch14_336", "eva",
     "d_model: 1408, n_layers: 40, n_heads: 16, mlp_ratio: 4.364, patch_size: 14, image_size: 336, "
     "norm_is_behind_pool: true, pool: patch_mean"},
    {"eva_giant_patch14_560", "eva",
     "d_model: 1408, n_layers: 40, n_heads: 16, mlp_ratio: 4.364, patch_size: 14, image_size: 560, "
     "norm_is_behind_pool: true, pool: patch_mean"},
    {"eva_giant_patch14_clip_224", "eva",
     "d_model: 1408, n_layers: 40, n_heads: 16, mlp_ratio: 4.364, patch_size: 14, n_classes: 1024"},
    {"eva_large_patch14_196", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14, image_size: 196, "
     "norm_is_behind_pool: true, pool: patch_mean"},
    {"eva_large_patch14_336", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14, image_size: 336, "
     "norm_is_behind_pool: true, pool: patch_mean"},
    {"flexivit_base", "timm_vit", "image_size: 240, prefix_positions: none"},
    {"flexivit_large", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 240, prefix_positions: none"},
    {"flexivit_small", "timm_vit",
     "d_model: 384, n_heads: 6, image_size: 240, prefix_positions: none"},
    {"vit_7b_patch16_dinov3", "eva",
     "d_model: 4096, n_layers: 40, n_heads: 32, mlp_ratio: 2, image_size: 256, is_gated: true, "
     "act: silu, q_bias: false, v_bias: false, eps: 1e-5, n_registers: 4, positions: none, pool: "
     "patch_mean, has_layer_scale: true, rope: centres, rope_base: 100, n_classes: 0"},
    {"vit_base_patch14_dinov2", "timm_vit",
     "patch_size: 14, image_size: 518, has_layer_scale: true, n_classes: 0"},
    {"vit_base_patch14_reg1_tipsv2", "timm_vit",
     "patch_size: 14, image_size: 448, n_registers: 1, prefix_positions: none, has_layer_scale: "
     "true, n_classes: 0"},
    {"vit_base_patch14_reg4_dinov2", "timm_vit",
     "patch_size: 14, image_size: 518, n_registers: 4, prefix_positions: none, has_layer_scale: "
     "true, n_classes: 0"},
    {"vit_base_patch16_224", "timm_vit", ""},
    {"vit_base_patch16_224_miil", "timm_vit",
     "q_bias: false, k_bias: false, v_bias: false, n_classes: 11221"},
    {"vit_base_patch16_384", "timm_vit", "image_size: 384"},
    {"vit_base_patch16_clip_224", "timm_vit", "patch_bias: false, eps: 1e-5, has_ln_pre: true"},
    {"vit_base_patch16_clip_384", "timm_vit",
     "image_size: 384, patch_bias: false, eps: 1e-5, has_ln_pre: true"},
    {"vit_base_patch16_clip_quickgelu_224", "timm_vit",
     "patch_bias: false, act: quick_gelu, eps: 1e-5, has_ln_pre: true, n_classes: 512"},
    {"vit_base_patch16_dinov3", "eva",
     "image_size: 256, q_bias: false, v_bias: false, eps: 1e-5, n_registers: 4, positions: none, "
     "pool: patch_mean, has_layer_scale: true, rope: centres, rope_base: 100, n_classes: 0"},
    {"vit_base_patch16_dinov3_qkvb", "eva",
     "image_size: 256, eps: 1e-5, n_registers: 4, positions: none, pool: patch_mean, "
     "has_layer_scale: true, rope: centres, rope_base: 100, n_classes: 0"},
    {"vit_base_patch16_gap_224", "timm_vit", "n_heads: 16, has_cls: false, pool: patch_mean"},
    {"vit_base_patch16_lingbot", "eva",
     "image_size: 512, eps: 1e-5, n_registers: 4, positions: none, has_layer_scale: true, rope: "
     "centres, rope_base: 100, n_classes: 0"},
    {"vit_base_patch16_plus_240", "timm_vit",
     "d_model: 896, n_heads: 14, image_size: 240, has_layer_scale: true"},
    {"vit_base_patch16_plus_clip_240", "timm_vit",
     "d_model: 896, n_heads: 14, image_size: 240, patch_bias: false, eps: 1e-5, has_ln_pre: true, "
     "n_classes: 640"},
    {"vit_base_patch16_radio_v3", "timm_vit",
     "image_size: 512, n_registers: 7, prefix_positions: none, final_norm: absent, "
     "has_layer_scale: true, n_classes: 0"},
    {"vit_base_patch16_reg4_gap_256", "timm_vit",
     "image_size: 256, has_cls: false, n_registers: 4, prefix_positions: none, "
     "norm_is_behind_pool: true, pool: patch_mean"},
    {"vit_base_patch16_rope_224", "eva",
     "k_bias: true, positions: none, has_layer_scale: true, rope: grid, rope_base: 100, "
     "rope_is_xy: true"},
    {"vit_base_patch16_rope_ape_224", "eva",
     "k_bias: true, prefix_positions: none, has_layer_scale: true, rope: grid, rope_base: 100, "
     "rope_is_xy: true"},
    {"vit_base_patch16_rope_reg1_gap_256", "eva",
     "image_size: 256, has_cls: false, n_registers: 1, positions: none, norm_is_behind_pool: true, "
     "pool: patch_mean, has_layer_scale: true, rope: grid, rope_ref_side: 16"},
    {"vit_base_patch16_siglip_224", "timm_vit", "has_cls: false, pool: attention, n_classes: 0"},
    {"vit_base_patch16_siglip_256", "timm_vit",
     "image_size: 256, has_cls: false, pool: attention, n_classes: 0"},
    {"vit_base_patch16_siglip_384", "timm_vit",
     "image_size: 384, has_cls: false, pool: attention, n_classes: 0"},
    {"vit_base_patch16_siglip_512", "timm_vit",
     "image_size: 512, has_cls: false, pool: attention, n_classes: 0"},
    {"vit_base_patch16_siglip_gap_224", "timm_vit",
     "has_cls: false, pool: patch_mean, n_classes: 0"},
    {"vit_base_patch16_siglip_gap_256", "timm_vit",
     "image_size: 256, has_cls: false, pool: patch_mean, n_classes: 0"},
    {"vit_base_patch16_siglip_gap_384", "timm_vit",
     "image_size: 384, has_cls: false, pool: patch_mean, n_classes: 0"},
    {"vit_base_patch16_siglip_gap_512", "timm_vit",
     "image_size: 512, has_cls: false, pool: patch_mean, n_classes: 0"},
    {"vit_base_patch32_224", "timm_vit", "patch_size: 32"},
    {"vit_base_patch32_384", "timm_vit", "patch_size: 32, image_size: 384"},
    {"vit_base_patch32_clip_224", "timm_vit",
     "patch_size: 32, patch_bias: false, eps: 1e-5, has_ln_pre: true"},
    {"vit_base_patch32_clip_256", "timm_vit",
     "patch_size: 32, image_size: 256, patch_bias: false, eps: 1e-5, has_ln_pre: true, n_classes: "
     "512"},
    {"vit_base_patch32_clip_384", "timm_vit",
     "patch_size: 32, image_size: 384, patch_bias: false, eps: 1e-5, has_ln_pre: true"},
    {"vit_base_patch32_clip_448", "timm_vit",
     "patch_size: 32, image_size: 448, patch_bias: false, eps: 1e-5, has_ln_pre: true"},
    {"vit_base_patch32_clip_quickgelu_224", "timm_vit",
     "patch_size: 32, patch_bias: false, act: quick_gelu, eps: 1e-5, has_ln_pre: true, n_classes: "
     "512"},
    {"vit_base_patch32_plus_256", "timm_vit",
     "d_model: 896, n_heads: 14, patch_size: 32, image_size: 256, has_layer_scale: true"},
    {"vit_base_patch32_siglip_256", "timm_vit",
     "patch_size: 32, image_size: 256, act: gelu_tanh, has_cls: false, pool: attention, n_classes: "
     "0"},
    {"vit_base_patch32_siglip_gap_256", "timm_vit",
     "patch_size: 32, image_size: 256, act: gelu_tanh, has_cls: false, pool: patch_mean, "
     "n_classes: 0"},
    {"vit_base_patch8_224", "timm_vit", "patch_size: 8"},
    {"vit_betwixt_patch16_gap_256", "timm_vit",
     "d_model: 640, n_heads: 10, image_size: 256, q_bias: false, k_bias: false, v_bias: false, "
     "has_cls: false, pool: patch_mean, has_layer_scale: true"},
    {"vit_betwixt_patch16_reg1_gap_256", "timm_vit",
     "d_model: 640, n_heads: 10, image_size: 256, has_cls: false, n_registers: 1, "
     "prefix_positions: none, norm_is_behind_pool: true, pool: patch_mean, has_layer_scale: true"},
    {"vit_betwixt_patch16_reg4_gap_256", "timm_vit",
     "d_model: 640, n_heads: 10, image_size: 256, has_cls: false, n_registers: 4, "
     "prefix_positions: none, norm_is_behind_pool: true, pool: patch_mean, has_layer_scale: true"},
    {"vit_betwixt_patch16_reg4_gap_384", "timm_vit",
     "d_model: 640, n_heads: 10, image_size: 384, has_cls: false, n_registers: 4, "
     "prefix_positions: none, norm_is_behind_pool: true, pool: patch_mean, has_layer_scale: true"},
    {"vit_betwixt_patch16_rope_reg4_gap_256", "eva",
     "d_model: 640, n_heads: 10, image_size: 256, has_cls: false, n_registers: 4, positions: none, "
     "norm_is_behind_pool: true, pool: patch_mean, has_layer_scale: true, rope: grid, "
     "rope_ref_side: 16"},
    {"vit_betwixt_patch32_clip_224", "timm_vit",
     "d_model: 640, n_heads: 10, patch_size: 32, patch_bias: false, eps: 1e-5, has_ln_pre: true, "
     "n_classes: 512"},
    {"vit_giant_patch14_224", "timm_vit",
     "d_model: 1408, n_layers: 40, n_heads: 16, mlp_ratio: 4.364, patch_size: 14"},
    {"vit_giant_patch14_clip_224", "timm_vit",
     "d_model: 1408, n_layers: 40, n_heads: 16, mlp_ratio: 4.364, patch_size: 14, patch_bias: "
     "false, eps: 1e-5, has_ln_pre: true, n_classes: 1024"},
    {"vit_giant_patch14_dinov2", "timm_vit",
     "d_model: 1536, n_layers: 40, n_heads: 24, mlp_ratio: 2.6666666666666665, patch_size: 14, "
     "image_size: 518, is_gated: true, act: silu, has_layer_scale: true, n_classes: 0"},
    {"vit_giant_patch14_reg1_tipsv2", "timm_vit",
     "d_model: 1536, n_layers: 40, n_heads: 24, mlp_ratio: 2.6666666666666665, patch_size: 14, "
     "image_size: 448, is_gated: true, act: silu, n_registers: 1, prefix_positions: none, "
     "has_layer_scale: true, n_classes: 0"},
    {"vit_giant_patch14_reg4_dinov2", "timm_vit",
     "d_model: 1536, n_layers: 40, n_heads: 24, mlp_ratio: 2.6666666666666665, patch_size: 14, "
     "image_size: 518, is_gated: true, act: silu, n_registers: 4, prefix_positions: none, "
     "has_layer_scale: true, n_classes: 0"},
    {"vit_giant_patch16_gap_224", "timm_vit",
     "d_model: 1408, n_layers: 40, n_heads: 16, mlp_ratio: 4.364, has_cls: false, pool: "
     "patch_mean, n_classes: 0"},
    {"vit_giant_patch16_lingbot", "eva",
     "d_model: 1536, n_layers: 40, n_heads: 24, mlp_ratio: 2.6666666666666665, image_size: 512, "
     "is_gated: true, act: silu, q_bias: false, v_bias: false, eps: 1e-5, n_registers: 4, "
     "positions: none, has_layer_scale: true, rope: centres, rope_base: 100, n_classes: 0"},
    {"vit_giant_patch16_radio_v3", "timm_vit",
     "d_model: 1536, n_layers: 40, n_heads: 24, image_size: 512, n_registers: 7, prefix_positions: "
     "none, final_norm: absent, n_classes: 0"},
    {"vit_giantopt_patch16_siglip_256", "timm_vit",
     "d_model: 1536, n_layers: 40, n_heads: 16, image_size: 256, act: gelu_tanh, has_cls: false, "
     "pool: attention, n_classes: 0"},
    {"vit_giantopt_patch16_siglip_384", "timm_vit",
     "d_model: 1536, n_layers: 40, n_heads: 16, image_size: 384, act: gelu_tanh, has_cls: false, "
     "pool: attention, n_classes: 0"},
    {"vit_giantopt_patch16_siglip_gap_256", "timm_vit",
     "d_model: 1536, n_layers: 40, n_heads: 16, image_size: 256, act: gelu_tanh, has_cls: false, "
     "pool: patch_mean, n_classes: 0"},
    {"vit_giantopt_patch16_siglip_gap_384", "timm_vit",
     "d_model: 1536, n_layers: 40, n_heads: 16, image_size: 384, act: gelu_tanh, has_cls: false, "
     "pool: patch_mean, n_classes: 0"},
    {"vit_gigantic_patch14_224", "timm_vit",
     "d_model: 1664, n_layers: 48, n_heads: 16, mlp_ratio: 4.9231, patch_size: 14"},
    {"vit_gigantic_patch14_clip_224", "timm_vit",
     "d_model: 1664, n_layers: 48, n_heads: 16, mlp_ratio: 4.9231, patch_size: 14, patch_bias: "
     "false, eps: 1e-5, has_ln_pre: true, n_classes: 1280"},
    {"vit_gigantic_patch14_clip_378", "timm_vit",
     "d_model: 1664, n_layers: 48, n_heads: 16, mlp_ratio: 4.9231, patch_size: 14, image_size: "
     "378, patch_bias: false, eps: 1e-5, has_ln_pre: true, n_classes: 1280"},
    {"vit_gigantic_patch14_clip_quickgelu_224", "timm_vit",
     "d_model: 1664, n_layers: 48, n_heads: 16, mlp_ratio: 4.9231, patch_size: 14, patch_bias: "
     "false, act: quick_gelu, eps: 1e-5, has_ln_pre: true, n_classes: 1280"},
    {"vit_huge_patch14_224", "timm_vit",
     "d_model: 1280, n_layers: 32, n_heads: 16, patch_size: 14, n_classes: 0"},
    {"vit_huge_patch14_clip_224", "timm_vit",
     "d_model: 1280, n_layers: 32, n_heads: 16, patch_size: 14, patch_bias: false, eps: 1e-5, "
     "has_ln_pre: true"},
    {"vit_huge_patch14_clip_336", "timm_vit",
     "d_model: 1280, n_layers: 32, n_heads: 16, patch_size: 14, image_size: 336, patch_bias: "
     "false, eps: 1e-5, has_ln_pre: true"},
    {"vit_huge_patch14_clip_378", "timm_vit",
     "d_model: 1280, n_layers: 32, n_heads: 16, patch_size: 14, image_size: 378, patch_bias: "
     "false, eps: 1e-5, has_ln_pre: true, n_classes: 1024"},
    {"vit_huge_patch14_clip_quickgelu_224", "timm_vit",
     "d_model: 1280, n_layers: 32, n_heads: 16, patch_size: 14, patch_bias: false, act: "
     "quick_gelu, eps: 1e-5, has_ln_pre: true, n_classes: 1024"},
    {"vit_huge_patch14_clip_quickgelu_378", "timm_vit",
     "d_model: 1280, n_layers: 32, n_heads: 16, patch_size: 14, image_size: 378, patch_bias: "
     "false, act: quick_gelu, eps: 1e-5, has_ln_pre: true, n_classes: 1024"},
    {"vit_huge_patch14_gap_224", "timm_vit",
     "d_model: 1280, n_layers: 32, n_heads: 16, patch_size: 14, has_cls: false, pool: patch_mean, "
     "n_classes: 0"},
    {"vit_huge_patch16_gap_448", "timm_vit",
     "d_model: 1280, n_layers: 32, n_heads: 16, image_size: 448, has_cls: false, pool: patch_mean, "
     "n_classes: 0"},
    {"vit_huge_patch16_radio_v3", "timm_vit",
     "d_model: 1280, n_layers: 32, n_heads: 16, image_size: 512, n_registers: 7, prefix_positions: "
     "none, final_norm: absent, n_classes: 0"},
    {"vit_huge_patch16_radio_v4", "timm_vit",
     "d_model: 1280, n_layers: 32, n_heads: 16, image_size: 512, n_registers: 9, prefix_positions: "
     "none, final_norm: absent, n_classes: 0"},
    {"vit_huge_plus_patch16_dinov3", "eva",
     "d_model: 1280, n_layers: 32, n_heads: 20, image_size: 256, is_gated: true, act: silu, "
     "q_bias: false, v_bias: false, eps: 1e-5, n_registers: 4, positions: none, pool: patch_mean, "
     "has_layer_scale: true, rope: centres, rope_base: 100, n_classes: 0"},
    {"vit_huge_plus_patch16_dinov3_qkvb", "eva",
     "d_model: 1280, n_layers: 32, n_heads: 20, image_size: 256, is_gated: true, act: silu, eps: "
     "1e-5, n_registers: 4, positions: none, pool: patch_mean, has_layer_scale: true, rope: "
     "centres, rope_base: 100, n_classes: 0"},
    {"vit_intern300m_patch14_448", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14, image_size: 448, final_norm: "
     "absent, has_layer_scale: true, n_classes: 0"},
    {"vit_large_patch14_224", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14"},
    {"vit_large_patch14_clip_224", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14, patch_bias: false, eps: 1e-5, "
     "has_ln_pre: true"},
    {"vit_large_patch14_clip_336", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14, image_size: 336, patch_bias: "
     "false, eps: 1e-5, has_ln_pre: true"},
    {"vit_large_patch14_clip_quickgelu_224", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14, patch_bias: false, act: "
     "quick_gelu, eps: 1e-5, has_ln_pre: true, n_classes: 768"},
    {"vit_large_patch14_clip_quickgelu_336", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14, image_size: 336, patch_bias: "
     "false, act: quick_gelu, eps: 1e-5, has_ln_pre: true, n_classes: 768"},
    {"vit_large_patch14_dinov2", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14, image_size: 518, has_layer_scale: "
     "true, n_classes: 0"},
    {"vit_large_patch14_reg1_tipsv2", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14, image_size: 448, n_registers: 1, "
     "prefix_positions: none, has_layer_scale: true, n_classes: 0"},
    {"vit_large_patch14_reg4_dinov2", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14, image_size: 518, n_registers: 4, "
     "prefix_positions: none, has_layer_scale: true, n_classes: 0"},
    {"vit_large_patch16_224", "timm_vit", "d_model: 1024, n_layers: 24, n_heads: 16"},
    {"vit_large_patch16_384", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 384"},
    {"vit_large_patch16_dinov3", "eva",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 256, q_bias: false, v_bias: false, "
     "eps: 1e-5, n_registers: 4, positions: none, pool: patch_mean, has_layer_scale: true, rope: "
     "centres, rope_base: 100, n_classes: 0"},
    {"vit_large_patch16_dinov3_qkvb", "eva",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 256, eps: 1e-5, n_registers: 4, "
     "positions: none, pool: patch_mean, has_layer_scale: true, rope: centres, rope_base: 100, "
     "n_classes: 0"},
    {"vit_large_patch16_lingbot", "eva",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 512, eps: 1e-5, n_registers: 4, "
     "positions: none, has_layer_scale: true, rope: centres, rope_base: 100, n_classes: 0"},
    {"vit_large_patch16_radio_v3", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 512, n_registers: 7, prefix_positions: "
     "none, final_norm: absent, has_layer_scale: true, n_classes: 0"},
    {"vit_large_patch16_rope_224", "eva",
     "d_model: 1024, n_layers: 24, n_heads: 16, k_bias: true, positions: none, has_layer_scale: "
     "true, rope: grid, rope_base: 100, rope_is_xy: true"},
    {"vit_large_patch16_rope_ape_224", "eva",
     "d_model: 1024, n_layers: 24, n_heads: 16, k_bias: true, prefix_positions: none, "
     "has_layer_scale: true, rope: grid, rope_base: 100, rope_is_xy: true"},
    {"vit_large_patch16_siglip_256", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 256, has_cls: false, pool: attention, "
     "n_classes: 0"},
    {"vit_large_patch16_siglip_384", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 384, has_cls: false, pool: attention, "
     "n_classes: 0"},
    {"vit_large_patch16_siglip_512", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 512, act: gelu_tanh, has_cls: false, "
     "pool: attention, n_classes: 0"},
    {"vit_large_patch16_siglip_gap_256", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 256, has_cls: false, pool: patch_mean, "
     "n_classes: 0"},
    {"vit_large_patch16_siglip_gap_384", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 384, has_cls: false, pool: patch_mean, "
     "n_classes: 0"},
    {"vit_large_patch16_siglip_gap_512", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, image_size: 512, act: gelu_tanh, has_cls: false, "
     "pool: patch_mean, n_classes: 0"},
    {"vit_large_patch32_224", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 32, n_classes: 0"},
    {"vit_large_patch32_384", "timm_vit",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 32, image_size: 384"},
    {"vit_little_patch16_reg1_gap_256", "timm_vit",
     "d_model: 320, n_layers: 14, n_heads: 5, mlp_ratio: 5.6, image_size: 256, has_cls: false, "
     "n_registers: 1, prefix_positions: none, norm_is_behind_pool: true, pool: patch_mean, "
     "has_layer_scale: true"},
    {"vit_little_patch16_reg4_gap_256", "timm_vit",
     "d_model: 320, n_layers: 14, n_heads: 5, mlp_ratio: 5.6, image_size: 256, has_cls: false, "
     "n_registers: 4, prefix_positions: none, norm_is_behind_pool: true, pool: patch_mean, "
     "has_layer_scale: true"},
    {"vit_medium_patch16_clip_224", "timm_vit",
     "d_model: 512, n_heads: 8, patch_bias: false, eps: 1e-5, has_ln_pre: true, n_classes: 512"},
    {"vit_medium_patch16_gap_240", "timm_vit",
     "d_model: 512, n_heads: 8, image_size: 240, q_bias: false, k_bias: false, v_bias: false, "
     "has_cls: false, pool: patch_mean, has_layer_scale: true, n_classes: 11821"},
    {"vit_medium_patch16_gap_256", "timm_vit",
     "d_model: 512, n_heads: 8, image_size: 256, q_bias: false, k_bias: false, v_bias: false, "
     "has_cls: false, pool: patch_mean, has_layer_scale: true"},
    {"vit_medium_patch16_gap_384", "timm_vit",
     "d_model: 512, n_heads: 8, image_size: 384, q_bias: false, k_bias: false, v_bias: false, "
     "has_cls: false, pool: patch_mean, has_layer_scale: true"},
    {"vit_medium_patch16_reg1_gap_256", "timm_vit",
     "d_model: 512, n_heads: 8, image_size: 256, has_cls: false, n_registers: 1, prefix_positions: "
     "none, norm_is_behind_pool: true, pool: patch_mean, has_layer_scale: true"},
    {"vit_medium_patch16_reg4_gap_256", "timm_vit",
     "d_model: 512, n_heads: 8, image_size: 256, has_cls: false, n_registers: 4, prefix_positions: "
     "none, norm_is_behind_pool: true, pool: patch_mean, has_layer_scale: true"},
    {"vit_medium_patch16_rope_reg1_gap_256", "eva",
     "d_model: 512, n_heads: 8, image_size: 256, has_cls: false, n_registers: 1, positions: none, "
     "norm_is_behind_pool: true, pool: patch_mean, has_layer_scale: true, rope: grid, "
     "rope_ref_side: 16"},
    {"vit_medium_patch32_clip_224", "timm_vit",
     "d_model: 512, n_heads: 8, patch_size: 32, patch_bias: false, eps: 1e-5, has_ln_pre: true, "
     "n_classes: 512"},
    {"vit_mediumd_patch16_reg4_gap_256", "timm_vit",
     "d_model: 512, n_layers: 20, n_heads: 8, image_size: 256, has_cls: false, n_registers: 4, "
     "prefix_positions: none, norm_is_behind_pool: true, pool: patch_mean, has_layer_scale: true"},
    {"vit_mediumd_patch16_reg4_gap_384", "timm_vit",
     "d_model: 512, n_layers: 20, n_heads: 8, image_size: 384, has_cls: false, n_registers: 4, "
     "prefix_positions: none, norm_is_behind_pool: true, pool: patch_mean, has_layer_scale: true"},
    {"vit_mediumd_patch16_rope_reg1_gap_256", "eva",
     "d_model: 512, n_layers: 20, n_heads: 8, image_size: 256, q_bias: false, v_bias: false, "
     "has_cls: false, n_registers: 1, positions: none, norm_is_behind_pool: true, pool: "
     "patch_mean, has_layer_scale: true, rope: grid, rope_ref_side: 16"},
    {"vit_pe_core_base_patch16_224", "eva",
     "patch_bias: false, k_bias: true, eps: 1e-5, has_ln_pre: true, pool: attention, rope: grid, "
     "rope_offset: 1, rope_ref_side: 14, rope_is_xy: true, n_classes: 1024, n_pool_heads: 8, "
     "pool_mlp_ratio: 4"},
    {"vit_pe_core_gigantic_patch14_448", "eva",
     "d_model: 1536, n_layers: 50, n_heads: 16, mlp_ratio: 5.833333333333333, patch_size: 14, "
     "image_size: 448, patch_bias: false, k_bias: true, eps: 1e-5, has_cls: false, has_ln_pre: "
     "true, pool: attention, rope: grid, rope_ref_side: 32, rope_is_xy: true, n_classes: 1280, "
     "n_pool_heads: 8, pool_mlp_ratio: 4"},
    {"vit_pe_core_large_patch14_336", "eva",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14, image_size: 336, patch_bias: "
     "false, k_bias: true, eps: 1e-5, has_ln_pre: true, pool: attention, rope: grid, rope_offset: "
     "1, rope_ref_side: 24, rope_is_xy: true, n_classes: 1024, n_pool_heads: 8, pool_mlp_ratio: 4"},
    {"vit_pe_core_small_patch16_384", "eva",
     "d_model: 384, n_heads: 6, image_size: 384, patch_bias: false, k_bias: true, eps: 1e-5, "
     "has_ln_pre: true, pool: attention, rope: grid, rope_offset: 1, rope_ref_side: 24, "
     "rope_is_xy: true, n_classes: 512, n_pool_heads: 8, pool_mlp_ratio: 4"},
    {"vit_pe_core_tiny_patch16_384", "eva",
     "d_model: 192, n_heads: 3, image_size: 384, patch_bias: false, k_bias: true, eps: 1e-5, "
     "has_ln_pre: true, pool: attention, rope: grid, rope_offset: 1, rope_ref_side: 24, "
     "rope_is_xy: true, n_classes: 512, n_pool_heads: 8, pool_mlp_ratio: 4"},
    {"vit_pe_lang_gigantic_patch14_448", "eva",
     "d_model: 1536, n_layers: 47, n_heads: 16, mlp_ratio: 5.833333333333333, patch_size: 14, "
     "image_size: 448, patch_bias: false, k_bias: true, eps: 1e-5, has_cls: false, has_ln_pre: "
     "true, final_norm: absent, pool: patch_mean, has_layer_scale: true, rope: grid, "
     "rope_ref_side: 32, rope_is_xy: true, n_classes: 0"},
    {"vit_pe_lang_large_patch14_448", "eva",
     "d_model: 1024, n_layers: 23, n_heads: 16, patch_size: 14, image_size: 448, patch_bias: "
     "false, k_bias: true, eps: 1e-5, has_ln_pre: true, final_norm: absent, pool: patch_mean, "
     "has_layer_scale: true, rope: grid, rope_offset: 1, rope_ref_side: 32, rope_is_xy: true, "
     "n_classes: 0"},
    {"vit_pe_spatial_base_patch16_512", "eva",
     "image_size: 512, patch_bias: false, k_bias: true, eps: 1e-5, has_ln_pre: true, final_norm: "
     "absent, pool: patch_mean, rope: grid, rope_offset: 1, rope_ref_side: 32, rope_is_xy: true, "
     "n_classes: 0"},
    {"vit_pe_spatial_gigantic_patch14_448", "eva",
     "d_model: 1536, n_layers: 50, n_heads: 16, mlp_ratio: 5.833333333333333, patch_size: 14, "
     "image_size: 448, patch_bias: false, k_bias: true, eps: 1e-5, has_cls: false, has_ln_pre: "
     "true, final_norm: absent, pool: patch_mean, has_layer_scale: true, rope: grid, "
     "rope_ref_side: 32, rope_is_xy: true, n_classes: 0"},
    {"vit_pe_spatial_large_patch14_448", "eva",
     "d_model: 1024, n_layers: 24, n_heads: 16, patch_size: 14, image_size: 448, patch_bias: "
     "false, k_bias: true, eps: 1e-5, has_ln_pre: true, final_norm: absent, pool: patch_mean, "
     "rope: grid, rope_offset: 1, rope_ref_side: 32, rope_is_xy: true, n_classes: 0"},
    {"vit_pe_spatial_small_patch16_512", "eva",
     "d_model: 384, n_heads: 6, image_size: 512, patch_bias: false, k_bias: true, eps: 1e-5, "
     "has_ln_pre: true, final_norm: absent, pool: patch_mean, rope: grid, rope_offset: 1, "
     "rope_ref_side: 32, rope_is_xy: true, n_classes: 0"},
    {"vit_pe_spatial_tiny_patch16_512", "eva",
     "d_model: 192, n_heads: 3, image_size: 512, patch_bias: false, k_bias: true, eps: 1e-5, "
     "has_ln_pre: true, final_norm: absent, pool: patch_mean, rope: grid, rope_offset: 1, "
     "rope_ref_side: 32, rope_is_xy: true, n_classes: 0"},
    {"vit_small_patch14_dinov2", "timm_vit",
     "d_model: 384, n_heads: 6, patch_size: 14, image_size: 518, has_layer_scale: true, n_classes: "
     "0"},
    {"vit_small_patch14_reg4_dinov2", "timm_vit",
     "d_model: 384, n_heads: 6, patch_size: 14, image_size: 518, n_registers: 4, prefix_positions: "
     "none, has_layer_scale: true, n_classes: 0"},
    {"vit_small_patch16_224", "timm_vit", "d_model: 384, n_heads: 6"},
    {"vit_small_patch16_36x1_224", "timm_vit",
     "d_model: 384, n_layers: 36, n_heads: 6, has_layer_scale: true"},
    {"vit_small_patch16_384", "timm_vit", "d_model: 384, n_heads: 6, image_size: 384"},
    {"vit_small_patch16_dinov3", "eva",
     "d_model: 384, n_heads: 6, image_size: 256, q_bias: false, v_bias: false, eps: 1e-5, "
     "n_registers: 4, positions: none, pool: patch_mean, has_layer_scale: true, rope: centres, "
     "rope_base: 100, n_classes: 0"},
    {"vit_small_patch16_dinov3_qkvb", "eva",
     "d_model: 384, n_heads: 6, image_size: 256, eps: 1e-5, n_registers: 4, positions: none, pool: "
     "patch_mean, has_layer_scale: true, rope: centres, rope_base: 100, n_classes: 0"},
    {"vit_small_patch16_lingbot", "eva",
     "d_model: 384, n_heads: 6, image_size: 512, eps: 1e-5, n_registers: 4, positions: none, "
     "has_layer_scale: true, rope: centres, rope_base: 100, n_classes: 0"},
    {"vit_small_patch16_rope_224", "eva",
     "d_model: 384, n_heads: 6, k_bias: true, positions: none, has_layer_scale: true, rope: grid, "
     "rope_base: 100, rope_is_xy: true"},
    {"vit_small_patch16_rope_ape_224", "eva",
     "d_model: 384, n_heads: 6, k_bias: true, prefix_positions: none, has_layer_scale: true, rope: "
     "grid, rope_base: 100, rope_is_xy: true"},
    {"vit_small_patch32_224", "timm_vit", "d_model: 384, n_heads: 6, patch_size: 32"},
    {"vit_small_patch32_384", "timm_vit",
     "d_model: 384, n_heads: 6, patch_size: 32, image_size: 384"},
    {"vit_small_patch8_224", "timm_vit", "d_model: 384, n_heads: 6, patch_size: 8, n_classes: 0"},
    {"vit_small_plus_patch16_dinov3", "eva",
     "d_model: 384, n_heads: 6, image_size: 256, is_gated: true, act: silu, q_bias: false, v_bias: "
     "false, eps: 1e-5, n_registers: 4, positions: none, pool: patch_mean, has_layer_scale: true, "
     "rope: centres, rope_base: 100, n_classes: 0"},
    {"vit_small_plus_patch16_dinov3_qkvb", "eva",
     "d_model: 384, n_heads: 6, image_size: 256, is_gated: true, act: silu, eps: 1e-5, "
     "n_registers: 4, positions: none, pool: patch_mean, has_layer_scale: true, rope: centres, "
     "rope_base: 100, n_classes: 0"},
    {"vit_so150m2_patch16_reg1_gap_256", "timm_vit",
     "d_model: 832, n_layers: 21, n_heads: 13, mlp_ratio: 2.6154, image_size: 256, q_bias: false, "
     "k_bias: false, v_bias: false, has_cls: false, n_registers: 1, norm_is_behind_pool: true, "
     "pool: patch_mean, has_layer_scale: true"},
    {"vit_so150m2_patch16_reg1_gap_384", "timm_vit",
     "d_model: 832, n_layers: 21, n_heads: 13, mlp_ratio: 2.6154, image_size: 384, q_bias: false, "
     "k_bias: false, v_bias: false, has_cls: false, n_registers: 1, norm_is_behind_pool: true, "
     "pool: patch_mean, has_layer_scale: true"},
    {"vit_so150m2_patch16_reg1_gap_448", "timm_vit",
     "d_model: 832, n_layers: 21, n_heads: 13, mlp_ratio: 2.6154, image_size: 448, q_bias: false, "
     "k_bias: false, v_bias: false, has_cls: false, n_registers: 1, norm_is_behind_pool: true, "
     "pool: patch_mean, has_layer_scale: true"},
    {"vit_so150m_patch16_reg4_gap_256", "timm_vit",
     "d_model: 896, n_layers: 18, n_heads: 14, mlp_ratio: 2.57143, image_size: 256, has_cls: "
     "false, n_registers: 4, pool: patch_mean"},
    {"vit_so150m_patch16_reg4_gap_384", "timm_vit",
     "d_model: 896, n_layers: 18, n_heads: 14, mlp_ratio: 2.57143, image_size: 384, has_cls: "
     "false, n_registers: 4, pool: patch_mean"},
    {"vit_so400m_patch14_reg1_tipsv2", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, patch_size: 14, "
     "image_size: 448, n_registers: 1, prefix_positions: none, has_layer_scale: true, n_classes: "
     "0"},
    {"vit_so400m_patch14_siglip_224", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, patch_size: 14, "
     "has_cls: false, pool: attention, n_classes: 0"},
    {"vit_so400m_patch14_siglip_378", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, patch_size: 14, "
     "image_size: 378, has_cls: false, pool: attention, n_classes: 0"},
    {"vit_so400m_patch14_siglip_384", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, patch_size: 14, "
     "image_size: 384, has_cls: false, pool: attention, n_classes: 0"},
    {"vit_so400m_patch14_siglip_gap_224", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, patch_size: 14, "
     "has_cls: false, pool: patch_mean, n_classes: 0"},
    {"vit_so400m_patch14_siglip_gap_378", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, patch_size: 14, "
     "image_size: 378, has_cls: false, pool: patch_mean, n_classes: 0"},
    {"vit_so400m_patch14_siglip_gap_384", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, patch_size: 14, "
     "image_size: 384, has_cls: false, pool: patch_mean, n_classes: 0"},
    {"vit_so400m_patch14_siglip_gap_448", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, patch_size: 14, "
     "image_size: 448, has_cls: false, pool: patch_mean, n_classes: 0"},
    {"vit_so400m_patch14_siglip_gap_896", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, patch_size: 14, "
     "image_size: 896, has_cls: false, pool: patch_mean, n_classes: 0"},
    {"vit_so400m_patch16_radio_v4", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, image_size: 512, "
     "n_registers: 9, prefix_positions: none, final_norm: absent, n_classes: 0"},
    {"vit_so400m_patch16_siglip_256", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, image_size: 256, "
     "act: gelu_tanh, has_cls: false, pool: attention, n_classes: 0"},
    {"vit_so400m_patch16_siglip_384", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, image_size: 384, "
     "act: gelu_tanh, has_cls: false, pool: attention, n_classes: 0"},
    {"vit_so400m_patch16_siglip_512", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, image_size: 512, "
     "act: gelu_tanh, has_cls: false, pool: attention, n_classes: 0"},
    {"vit_so400m_patch16_siglip_gap_256", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, image_size: 256, "
     "act: gelu_tanh, has_cls: false, pool: patch_mean, n_classes: 0"},
    {"vit_so400m_patch16_siglip_gap_384", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, image_size: 384, "
     "act: gelu_tanh, has_cls: false, pool: patch_mean, n_classes: 0"},
    {"vit_so400m_patch16_siglip_gap_512", "timm_vit",
     "d_model: 1152, n_layers: 27, n_heads: 16, mlp_ratio: 3.736111111111111, image_size: 512, "
     "act: gelu_tanh, has_cls: false, pool: patch_mean, n_classes: 0"},
    {"vit_tiny_patch16_224", "timm_vit", "d_model: 192, n_heads: 3"},
    {"vit_tiny_patch16_384", "timm_vit", "d_model: 192, n_heads: 3, image_size: 384"},
    {"vit_tiny_patch16_dinov3_qkvb", "eva",
     "d_model: 192, n_heads: 3, image_size: 256, eps: 1e-5, n_registers: 4, positions: none, pool: "
     "patch_mean, has_layer_scale: true, rope: centres, rope_base: 100, n_classes: 0"},
    {"vit_wee_patch16_reg1_gap_256", "timm_vit",
     "d_model: 256, n_layers: 14, n_heads: 4, mlp_ratio: 5, image_size: 256, has_cls: false, "
     "n_registers: 1, prefix_positions: none, norm_is_behind_pool: true, pool: patch_mean, "
     "has_layer_scale: true"},
    {"vit_xsmall_patch16_clip_224", "timm_vit",
     "d_model: 256, n_layers: 10, n_heads: 4, patch_bias: false, eps: 1e-5, has_ln_pre: true, "
     "n_classes: 512"},
};

const rf_named_list rf_named_timm = {rows, sizeof rows / sizeof *rows};
