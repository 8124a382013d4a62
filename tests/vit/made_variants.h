/* Configs of models that no file has, whose switches meet in no family; made.h makes them. */
#ifndef REFRACT_TESTS_VIT_MADE_VARIANTS_H
#define REFRACT_TESTS_VIT_MADE_VARIANTS_H

#include "refract/vit.h"

enum { MADE_D = 12, MADE_HEADS = 3, MADE_LAYERS = 2, MADE_MLP = 20, MADE_VARIANTS = 9 };

/* A plain ViT over 3 x 2 patches. */
static inline rf_vit_config made_config(void)
{
    return (rf_vit_config){.family = "made",
                           .name = "made",
                           .d_model = MADE_D,
                           .n_layers = MADE_LAYERS,
                           .n_heads = MADE_HEADS,
                           .d_head = MADE_D / MADE_HEADS,
                           .d_mlp = MADE_MLP,
                           .image_height = 12,
                           .image_width = 9,
                           .patch_size = 4,
                           .n_channels = 3,
                           .n_frames = 1,
                           .tubelet = 1,
                           .grid = {1, 3, 2},
                           .n_patches = 6,
                           .n_prefix = 1,
                           .n_tokens = 7,
                           .d_pool = MADE_D,
                           .d_out = MADE_D,
                           .eos_id = -1,
                           .act = RF_ACT_GELU,
                           .eps = 1e-5f,
                           .has_cls = true,
                           .has_position = true,
                           .has_ln_final = true,
                           .rope_base = 100.0};
}

static inline void made_add_prefix(rf_vit_config *c, int64_t n)
{
    c->n_prefix = n;
    c->n_tokens = n + c->n_patches;
}

/* Every switch of a block, with a classifier on the mean of the patches too. */
static inline rf_vit_config made_gated(void)
{
    rf_vit_config c = made_config();
    made_add_prefix(&c, 3);
    c.n_registers = 2;
    c.has_ln_pre = c.has_attn_norm = c.has_mlp_norm = c.is_gated = c.has_layer_scale = true;
    c.rope = RF_ROPE_CENTRES;
    c.score_bias = RF_SCORES_RELATIVE;
    c.act = RF_ACT_SILU;
    c.n_classes = 5;
    c.head_input = RF_HEAD_POOLED_AND_PATCH_MEAN;
    return c;
}

static inline rf_vit_config made_norm_behind(void)
{
    rf_vit_config c = made_gated();
    c.norm_place = RF_NORM_BEHIND;
    c.rope = RF_ROPE_GRID;
    c.head_input = RF_HEAD_POOLED;
    return c;
}

static inline rf_vit_config made_text(rf_vit_pool pool, int64_t eos_id)
{
    rf_vit_config c = made_config();
    c.input = RF_VIT_TEXT;
    c.image_height = c.image_width = c.patch_size = c.n_channels = 0;
    c.has_cls = false;
    c.n_prefix = 0;
    c.n_tokens = c.n_patches = 5;
    c.n_vocab = 11;
    c.eos_id = eos_id;
    c.pool = pool;
    c.score_bias = RF_SCORES_CAUSAL;
    c.has_projection = true;
    c.d_out = 8;
    return c;
}

/* No position, no final norm, no prefix. */
static inline rf_vit_config made_clips(void)
{
    rf_vit_config c = made_config();
    c.input = RF_VIT_CLIPS;
    c.n_frames = 5; /* the fifth fills no tubelet */
    c.tubelet = c.grid[0] = 2;
    c.n_patches = 12;
    made_add_prefix(&c, 0);
    c.has_cls = c.has_position = c.has_ln_final = false;
    c.rope = RF_ROPE_AXES;
    c.d_model = 24;
    c.d_head = 8;
    c.d_pool = c.d_out = 24;
    c.pool = RF_POOL_TOKEN_MEAN;
    c.n_classes = 4;
    return c;
}

static inline rf_vit_config made_attention_pool(void)
{
    rf_vit_config c = made_config();
    c.pool = RF_POOL_ATTENTION;
    c.n_pool_queries = 1;
    c.n_pool_heads = 2;
    c.d_pool_mlp = 18;
    return c;
}

/* CoCa's: a pool of another width in front of the final norm. */
static inline rf_vit_config made_wide_pool(void)
{
    rf_vit_config c = made_attention_pool();
    c.norm_is_behind_pool = c.has_projection = true;
    c.d_pool_mlp = 0;
    c.n_pool_queries = 4;
    c.n_pool_heads = 4;
    c.d_pool = 16;
    c.d_out = 10;
    return c;
}

static inline rf_vit_config made_distilled(void)
{
    rf_vit_config c = made_config();
    made_add_prefix(&c, 2);
    c.has_distilled = true;
    c.n_classes = 5;
    c.head_input = RF_HEAD_CLS_AND_DISTILLED;
    return c;
}

/* The mean of the patches, then its norm. */
static inline rf_vit_config made_mean(void)
{
    rf_vit_config c = made_config();
    c.pool = RF_POOL_PATCH_MEAN;
    c.norm_is_behind_pool = true;
    c.n_classes = 3;
    return c;
}

static inline rf_vit_config made_variant(int idx)
{
    switch (idx) {
    case 0:
        return made_gated();
    case 1:
        return made_norm_behind();
    case 2:
        return made_text(RF_POOL_END, -1);
    case 3:
        return made_text(RF_POOL_LAST, -1);
    case 4:
        return made_clips();
    case 5:
        return made_attention_pool();
    case 6:
        return made_wide_pool();
    case 7:
        return made_distilled();
    default:
        return made_mean();
    }
}

/* ---- small ones: gradients against finite differences ---------------------------------------- */

/* What they start from: pictures that are not square, sizes that fill no tile. */
static inline rf_vit_config made_small_base(void)
{
    return (rf_vit_config){.family = "made",
                           .input = RF_VIT_PICTURES,
                           .d_model = 12,
                           .n_layers = 2,
                           .n_heads = 2,
                           .d_head = 6,
                           .d_mlp = 20,
                           .image_height = 7,
                           .image_width = 9,
                           .patch_size = 3,
                           .n_channels = 2,
                           .n_frames = 1,
                           .tubelet = 1,
                           .n_prefix = 1,
                           .act = RF_ACT_GELU,
                           .eps = 1e-5f,
                           .has_cls = true,
                           .has_position = true,
                           .has_ln_final = true,
                           .pool = RF_POOL_CLS,
                           .rope_base = 100.0};
}

static inline rf_vit_config made_small_clip(void)
{
    rf_vit_config c = made_small_base();
    c.has_ln_pre = c.has_projection = true;
    c.d_out = 5;
    c.act = RF_ACT_QUICK_GELU;
    return c;
}

static inline rf_vit_config made_small_norms_behind(void)
{
    rf_vit_config c = made_small_base();
    c.norm_place = RF_NORM_BEHIND;
    c.has_layer_scale = true;
    c.n_classes = 4;
    return c;
}

static inline rf_vit_config made_small_sub_norms(void)
{
    rf_vit_config c = made_small_base();
    c.has_attn_norm = c.has_mlp_norm = c.is_gated = true;
    c.act = RF_ACT_SILU;
    c.rope = RF_ROPE_GRID;
    c.rope_ref_side = 4;
    c.d_head = 8; /* heads wider than the model, together */
    return c;
}

static inline rf_vit_config made_small_registers_and_mean(void)
{
    rf_vit_config c = made_small_base();
    c.n_prefix = 3;
    c.n_registers = 2;
    c.has_position = false;
    c.rope = RF_ROPE_CENTRES;
    c.d_head = 4;
    c.n_heads = 3;
    c.pool = RF_POOL_PATCH_MEAN;
    c.norm_is_behind_pool = true;
    c.n_classes = 4;
    c.has_layer_scale = true;
    c.act = RF_ACT_GELU_TANH;
    return c;
}

static inline rf_vit_config made_small_pool_with_mlp(void)
{
    rf_vit_config c = made_small_base();
    c.n_prefix = 0;
    c.has_cls = false;
    c.pool = RF_POOL_ATTENTION;
    c.n_pool_queries = 1;
    c.n_pool_heads = 3;
    c.d_pool_mlp = 7;
    c.has_mlp_norm = true;
    return c;
}

static inline rf_vit_config made_small_pool_of_another_width(void)
{
    rf_vit_config c = made_small_base();
    c.pool = RF_POOL_ATTENTION;
    c.n_pool_queries = 4;
    c.n_pool_heads = 2;
    c.d_pool = 16;
    c.norm_is_behind_pool = true;
    c.has_projection = true;
    c.d_out = 3;
    return c;
}

static inline rf_vit_config made_small_text(rf_vit_pool pool)
{
    rf_vit_config c = made_small_base();
    c.input = RF_VIT_TEXT;
    c.n_vocab = 11;
    c.eos_id = pool == RF_POOL_END ? 2 : -1;
    c.n_patches = 6;
    c.n_prefix = 0;
    c.has_cls = false;
    c.score_bias = RF_SCORES_CAUSAL;
    c.pool = pool;
    c.has_projection = true;
    c.d_out = 5;
    c.act = RF_ACT_GELU;
    return c;
}

static inline rf_vit_config made_small_distilled(void)
{
    rf_vit_config c = made_small_base();
    c.n_prefix = 2;
    c.has_distilled = true;
    c.n_classes = 3;
    c.head_input = RF_HEAD_CLS_AND_DISTILLED;
    c.score_bias = RF_SCORES_RELATIVE;
    return c;
}

static inline rf_vit_config made_small_head_on_two(void)
{
    rf_vit_config c = made_small_base();
    c.n_classes = 3;
    c.head_input = RF_HEAD_POOLED_AND_PATCH_MEAN;
    c.act = RF_ACT_RELU;
    c.n_layers = 1;
    c.n_heads = 1;
    c.d_head = 12;
    return c;
}

static inline rf_vit_config made_small_clips(void)
{
    rf_vit_config c = made_small_base();
    c.input = RF_VIT_CLIPS;
    c.n_frames = 4;
    c.tubelet = 2;
    c.n_prefix = 0;
    c.has_cls = c.has_position = c.has_ln_final = false;
    c.rope = RF_ROPE_AXES;
    c.d_head = 20;
    c.rope_base = 10000.0;
    c.pool = RF_POOL_TOKEN_MEAN;
    return c;
}

static inline rf_vit_config made_small_mean_behind_norm(void)
{
    rf_vit_config c = made_small_base();
    c.pool = RF_POOL_PATCH_MEAN;
    c.has_ln_pre = c.is_gated = c.has_layer_scale = true;
    return c;
}

typedef enum made_small {
    MADE_SMALL_CLIP,
    MADE_SMALL_NORMS_BEHIND,
    MADE_SMALL_SUB_NORMS,
    MADE_SMALL_REGISTERS_AND_MEAN,
    MADE_SMALL_POOL_WITH_MLP,
    MADE_SMALL_POOL_OF_ANOTHER_WIDTH,
    MADE_SMALL_TEXT_TO_ITS_END,
    MADE_SMALL_TEXT_TO_THE_LAST_TOKEN,
    MADE_SMALL_DISTILLED,
    MADE_SMALL_HEAD_ON_TWO,
    MADE_SMALL_CLIPS,
    MADE_SMALL_MEAN_BEHIND_NORM,
    MADE_N_SMALL
} made_small;

static inline rf_vit_config made_small_switches(made_small which)
{
    switch (which) {
    case MADE_SMALL_CLIP:
        return made_small_clip();
    case MADE_SMALL_NORMS_BEHIND:
        return made_small_norms_behind();
    case MADE_SMALL_SUB_NORMS:
        return made_small_sub_norms();
    case MADE_SMALL_REGISTERS_AND_MEAN:
        return made_small_registers_and_mean();
    case MADE_SMALL_POOL_WITH_MLP:
        return made_small_pool_with_mlp();
    case MADE_SMALL_POOL_OF_ANOTHER_WIDTH:
        return made_small_pool_of_another_width();
    case MADE_SMALL_TEXT_TO_ITS_END:
        return made_small_text(RF_POOL_END);
    case MADE_SMALL_TEXT_TO_THE_LAST_TOKEN:
        return made_small_text(RF_POOL_LAST);
    case MADE_SMALL_DISTILLED:
        return made_small_distilled();
    case MADE_SMALL_HEAD_ON_TWO:
        return made_small_head_on_two();
    case MADE_SMALL_CLIPS:
        return made_small_clips();
    default:
        return made_small_mean_behind_norm();
    }
}

/* With the sizes that follow from the others. */
static inline rf_vit_config made_small_variant(made_small which)
{
    rf_vit_config c = made_small_switches(which);
    c.grid[0] = c.n_frames / c.tubelet;
    c.grid[1] = c.image_height / c.patch_size;
    c.grid[2] = c.image_width / c.patch_size;
    if (c.input != RF_VIT_TEXT) {
        c.n_patches = c.grid[0] * c.grid[1] * c.grid[2];
    }
    c.n_tokens = c.n_prefix + c.n_patches;
    c.d_pool = c.d_pool == 0 ? c.d_model : c.d_pool;
    c.d_out = c.has_projection ? c.d_out : c.d_pool;
    return c;
}

#endif
