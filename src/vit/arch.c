/* The architecture table: a family is one row. Spellings of names are those of the Hub's
 * checkpoints (which transformers 4 and 5 also save), then those that transformers 5 uses inside.
 * Defaults are those of transformers' configuration classes. */
#include "vit_impl.h"

#include <string.h>

static const rf_arch archs[] = {
    {
        .family = "clip",
        .model_types = {"clip", "clip_vision_model"},
        .config_roots = {"vision_config_dict", "vision_config"},
        .prefixes = {"vision_model.", "", "clip.vision_model."},
        .names =
            {
                [RF_PART_PATCH] = {"embeddings.patch_embedding"},
                [RF_PART_CLS] = {"embeddings.class_embedding"},
                [RF_PART_POSITION] = {"embeddings.position_embedding.weight"},
                [RF_PART_LN_PRE] = {"pre_layrnorm", "pre_layernorm"},
                [RF_PART_LN_FINAL] = {"post_layernorm"},
                [RF_PART_PROJECTION] = {"visual_projection"},
                [RF_PART_LN1] = {"encoder.layers.{l}.layer_norm1"},
                [RF_PART_Q] = {"encoder.layers.{l}.self_attn.q_proj"},
                [RF_PART_K] = {"encoder.layers.{l}.self_attn.k_proj"},
                [RF_PART_V] = {"encoder.layers.{l}.self_attn.v_proj"},
                [RF_PART_O] = {"encoder.layers.{l}.self_attn.out_proj"},
                [RF_PART_LN2] = {"encoder.layers.{l}.layer_norm2"},
                [RF_PART_FC1] = {"encoder.layers.{l}.mlp.fc1"},
                [RF_PART_FC2] = {"encoder.layers.{l}.mlp.fc2"},
            },
        .d_model = 768,
        .n_layers = 12,
        .n_heads = 12,
        .image_size = 224,
        .patch_size = 32,
        .n_channels = 3,
        .mlp_key = "intermediate_size",
        .mlp_default = 3072,
        .act = "quick_gelu",
        .eps = 1e-5,
    },
    {
        .family = "vit",
        .model_types = {"vit"},
        .prefixes = {"vit.", ""},
        .names =
            {
                [RF_PART_PATCH] = {"embeddings.patch_embeddings.projection"},
                [RF_PART_CLS] = {"embeddings.cls_token"},
                [RF_PART_POSITION] = {"embeddings.position_embeddings"},
                [RF_PART_LN_FINAL] = {"layernorm"},
                [RF_PART_HEAD] = {"classifier"},
                [RF_PART_LN1] = {"encoder.layer.{l}.layernorm_before",
                                 "layers.{l}.layernorm_before"},
                [RF_PART_Q] = {"encoder.layer.{l}.attention.attention.query",
                               "layers.{l}.attention.q_proj"},
                [RF_PART_K] = {"encoder.layer.{l}.attention.attention.key",
                               "layers.{l}.attention.k_proj"},
                [RF_PART_V] = {"encoder.layer.{l}.attention.attention.value",
                               "layers.{l}.attention.v_proj"},
                [RF_PART_O] = {"encoder.layer.{l}.attention.output.dense",
                               "layers.{l}.attention.o_proj"},
                [RF_PART_LN2] = {"encoder.layer.{l}.layernorm_after", "layers.{l}.layernorm_after"},
                [RF_PART_FC1] = {"encoder.layer.{l}.intermediate.dense", "layers.{l}.mlp.fc1"},
                [RF_PART_FC2] = {"encoder.layer.{l}.output.dense", "layers.{l}.mlp.fc2"},
            },
        .d_model = 768,
        .n_layers = 12,
        .n_heads = 12,
        .image_size = 224,
        .patch_size = 16,
        .n_channels = 3,
        .mlp_key = "intermediate_size",
        .mlp_default = 3072,
        .act = "gelu",
        .eps = 1e-12,
        .has_patch_bias = true,
        .head_input = RF_HEAD_POOLED,
    },
    {
        .family = "dinov2",
        .model_types = {"dinov2"},
        .prefixes = {"dinov2.", ""},
        .names =
            {
                [RF_PART_PATCH] = {"embeddings.patch_embeddings.projection"},
                [RF_PART_CLS] = {"embeddings.cls_token"},
                [RF_PART_POSITION] = {"embeddings.position_embeddings"},
                [RF_PART_LN_FINAL] = {"layernorm"},
                [RF_PART_HEAD] = {"classifier"},
                [RF_PART_LN1] = {"encoder.layer.{l}.norm1"},
                [RF_PART_Q] = {"encoder.layer.{l}.attention.attention.query",
                               "encoder.layer.{l}.attention.q_proj"},
                [RF_PART_K] = {"encoder.layer.{l}.attention.attention.key",
                               "encoder.layer.{l}.attention.k_proj"},
                [RF_PART_V] = {"encoder.layer.{l}.attention.attention.value",
                               "encoder.layer.{l}.attention.v_proj"},
                [RF_PART_O] = {"encoder.layer.{l}.attention.output.dense",
                               "encoder.layer.{l}.attention.o_proj"},
                [RF_PART_SCALE1] = {"encoder.layer.{l}.layer_scale1.lambda1"},
                [RF_PART_LN2] = {"encoder.layer.{l}.norm2"},
                [RF_PART_FC1] = {"encoder.layer.{l}.mlp.fc1"},
                [RF_PART_FC2] = {"encoder.layer.{l}.mlp.fc2"},
                [RF_PART_SCALE2] = {"encoder.layer.{l}.layer_scale2.lambda1"},
            },
        .d_model = 768,
        .n_layers = 12,
        .n_heads = 12,
        .image_size = 224,
        .patch_size = 14,
        .n_channels = 3,
        .mlp_key = "mlp_ratio",
        .mlp_default = 4,
        .mlp_is_ratio = true,
        .act = "gelu",
        .eps = 1e-6,
        .forbidden_key = "use_swiglu_ffn",
        .forbidden_meaning = "a SwiGLU feed-forward part",
        .has_patch_bias = true,
        .can_interpolate = true,
        .head_input = RF_HEAD_POOLED_AND_PATCH_MEAN,
    },
};

enum { N_ARCHS = sizeof archs / sizeof *archs };

rf_status rf_arch_find(const char *model_type, const char *where, const rf_arch **out)
{
    rf_status status = RF_OK;
    rf_str known = {0};
    for (int i = 0; i < N_ARCHS; i++) {
        for (int j = 0; j < RF_MAX_WORDS && archs[i].model_types[j] != NULL; j++) {
            if (strcmp(archs[i].model_types[j], model_type) == 0) {
                *out = &archs[i];
                goto fail;
            }
            RF_TRY(
                rf_str_append(&known, "%s%s", known.len > 0 ? ", " : "", archs[i].model_types[j]));
        }
    }
    RF_FAIL(RF_ERR_UNSUPPORTED, "%s: model_type '%.64s' is not supported; supported are %s", where,
            model_type, known.data);
fail:
    rf_str_fini(&known);
    return status;
}
