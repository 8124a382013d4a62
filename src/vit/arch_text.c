/* The architecture table: text towers. Defaults are those of transformers' configuration classes
 * (5.23) and of open_clip's CLIPTextCfg (3.3). */
#include "config_impl.h"

static const rf_key clip_keys[] = {
    {"d_model", "hidden_size", 0},
    {"n_layers", "num_hidden_layers", 0},
    {"n_heads", "num_attention_heads", 0},
    {"d_mlp", "intermediate_size", 0},
    {"n_vocab", "vocab_size", 0},
    {"n_context", "max_position_embeddings", 0},
    {"eps", "layer_norm_eps", 0},
    {"act", "hidden_act", 0},
    {0},
};

static const rf_key eos_keys[] = {{"eos_id", "eos_token_id", 0}, {0}};

static const rf_key open_clip_keys[] = {
    {"a text tower of transformers (vision only)", "hf_model_name", RF_KEY_REFUSED},
    {"a class token behind the text (CoCa)", "embed_cls", RF_KEY_REFUSED},
    {"d_model", "width", 0},
    {"n_layers", "layers", 0},
    {"n_heads", "heads", 0},
    {"mlp_ratio", "mlp_ratio", 0},
    {"n_vocab", "vocab_size", 0},
    {"n_context", "context_length", 0},
    {"has_layer_scale", "ls_init_value", RF_KEY_PRESENT},
    {"is_causal", "no_causal_mask", RF_KEY_NOT},
    {"pool", "pool_type", 0},
    {"eos_id", "eos_id", 0},
    {"projection_bias", "proj_bias", 0},
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

#define CLIP_NAMES                                                                                 \
    [RF_PART_TOKEN] = {"embeddings.token_embedding.weight"},                                       \
    [RF_PART_POSITION] = {"embeddings.position_embedding.weight"},                                 \
    [RF_PART_LN_FINAL] = {"final_layer_norm"}, [RF_PART_LN1] = {"encoder.layers.{l}.layer_norm1"}, \
    [RF_PART_Q] = {"encoder.layers.{l}.self_attn.q_proj"},                                         \
    [RF_PART_K] = {"encoder.layers.{l}.self_attn.k_proj"},                                         \
    [RF_PART_V] = {"encoder.layers.{l}.self_attn.v_proj"},                                         \
    [RF_PART_O] = {"encoder.layers.{l}.self_attn.out_proj"},                                       \
    [RF_PART_LN2] = {"encoder.layers.{l}.layer_norm2"},                                            \
    [RF_PART_FC1] = {"encoder.layers.{l}.mlp.fc1"}, [RF_PART_FC2] = {"encoder.layers.{l}.mlp.fc2"}

static const rf_arch rows[] = {
    {
        .family = "clip_text",
        .library = "transformers",
        .tower = RF_TOWER_TEXT,
        .model_types = {"clip", "clip_text_model", "metaclip_2", "metaclip_2_text_model"},
        .config_roots = {"text_config_dict", "text_config"},
        .prefixes = {"text_model.", "", "clip.text_model."},
        .settings = "input: text, d_model: 512, n_layers: 12, n_heads: 8, d_mlp: 2048, n_vocab: "
                    "49408, n_context: 77, eos_id: 49407, act: quick_gelu, eps: 1e-5, is_causal: "
                    "true, pool: end, projection: optional, head: absent",
        .keys = clip_keys,
        .more_keys = eos_keys,
        .names = {[RF_PART_PROJECTION] = {"/text_projection"}, CLIP_NAMES},
        .resolve = rf_resolve_clip_text,
    },
    {
        .family = "siglip_text",
        .library = "transformers",
        .tower = RF_TOWER_TEXT,
        .model_types = {"siglip", "siglip_text_model", "siglip2", "siglip2_text_model"},
        .config_roots = {"text_config"},
        .prefixes = {"text_model.", ""},
        .settings = "input: text, d_model: 768, n_layers: 12, n_heads: 12, d_mlp: 3072, n_vocab: "
                    "32000, n_context: 64, act: gelu_tanh, eps: 1e-6, pool: last, projection: "
                    "required, projection_bias: true, head: absent",
        .keys = clip_keys,
        .names = {[RF_PART_PROJECTION] = {"head"}, CLIP_NAMES},
    },
    {
        .family = "open_clip_text",
        .library = "open_clip",
        .tower = RF_TOWER_TEXT,
        .config_roots = {"model_cfg.text_cfg"},
        .prefixes = {"text.", ""},
        .settings = "input: text, d_model: 512, n_layers: 12, n_heads: 8, mlp_ratio: 4, n_vocab: "
                    "49408, n_context: 77, eos_id: 2, eps: 1e-5, is_causal: true, pool: end, "
                    "projection: optional, head: absent",
        .keys = open_clip_keys,
        .names = {[RF_PART_TOKEN] = {"token_embedding.weight"},
                  [RF_PART_POSITION] = {"positional_embedding"},
                  [RF_PART_LN_FINAL] = {"ln_final"},
                  [RF_PART_PROJECTION] = {"text_projection:in_out", "text_projection"},
                  [RF_PART_LN1] = {"transformer.resblocks.{l}.ln_1"},
                  [RF_PART_QKV] = {"transformer.resblocks.{l}.attn.in_proj_"},
                  [RF_PART_O] = {"transformer.resblocks.{l}.attn.out_proj"},
                  [RF_PART_SCALE1] = {"transformer.resblocks.{l}.ls_1.gamma"},
                  [RF_PART_LN2] = {"transformer.resblocks.{l}.ln_2"},
                  [RF_PART_FC1] = {"transformer.resblocks.{l}.mlp.c_fc"},
                  [RF_PART_FC2] = {"transformer.resblocks.{l}.mlp.c_proj"},
                  [RF_PART_SCALE2] = {"transformer.resblocks.{l}.ls_2.gamma"}},
        .resolve = rf_resolve_open_clip_text,
    },
};

const rf_arch_list rf_archs_text = {rows, sizeof rows / sizeof *rows};
