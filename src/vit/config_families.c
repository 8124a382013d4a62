/* Switches of single families that follow from other keys of their configs. */
#include "config_impl.h"

#include <jansson.h>
#include <string.h>

/* Files from before 2023 say 2, which is no id of theirs: transformers then takes the largest. */
rf_status rf_resolve_clip_text(rf_vit_files *files)
{
    rf_vit_config *c = &files->draft.config;
    c->eos_id = c->eos_id == 2 ? -1 : c->eos_id;
    return RF_OK;
}

/* The pooling head's MLP is as wide as the blocks'. SigLIP 2's pictures have any shape; its own is
 * the square of its stored positions. */
rf_status rf_resolve_siglip(rf_vit_files *files)
{
    rf_status status = RF_OK;
    rf_draft *d = &files->draft;
    d->config.d_pool_mlp = d->config.d_mlp;
    if (d->n_native_patches > 0 && d->image_size == 0) {
        int64_t side = 1;
        while ((side + 1) * (side + 1) <= d->n_native_patches) {
            side++;
        }
        if (side * side != d->n_native_patches) {
            RF_FAIL(RF_ERR_FORMAT, "'num_patches' is %" PRId64 ", expected a square number",
                    d->n_native_patches);
        }
        d->image_size = side * d->config.patch_size;
    }
fail:
    return status;
}

rf_status rf_resolve_dinov2(rf_vit_files *files)
{
    rf_draft *d = &files->draft;
    if (d->config.is_gated) {
        d->config.act = RF_ACT_SILU; /* whatever hidden_act says */
        d->mlp_rule = RF_MLP_TWO_THIRDS;
    }
    return RF_OK;
}

/* BEiT and VideoMAE: the norm stands behind the mean. VideoMAE's is torch's own, with its eps. */
rf_status rf_resolve_mean_pooling(rf_vit_files *files)
{
    rf_draft *d = &files->draft;
    d->config.norm_is_behind_pool = d->mean_pooling;
    if (d->mean_pooling) {
        d->config.pool = d->config.has_cls ? RF_POOL_PATCH_MEAN : RF_POOL_TOKEN_MEAN;
        d->eps_final = d->config.input == RF_VIT_CLIPS ? 1e-5 : 0.0;
    }
    return RF_OK;
}

/* ---- timm -------------------------------------------------------------------------------------
 */

static bool knows_key(const rf_key *keys, const char *key)
{
    for (const rf_key *k = keys; k != NULL && k->field != NULL; k++) {
        if (strcmp(k->key, key) == 0) {
            return true;
        }
    }
    return false;
}

/* An argument that nobody reads here could change the numbers. */
static rf_status check_model_args(const rf_vit_files *files)
{
    static const char *const harmless[] = {"num_classes",     "dynamic_img_size",
                                           "dynamic_img_pad", "drop_rate",
                                           "pos_drop_rate",   "patch_drop_rate",
                                           "proj_drop_rate",  "attn_drop_rate",
                                           "drop_path_rate",  "weight_init",
                                           "fix_init",        "head_init_scale",
                                           "strict_img_size", "rope_shift_coords",
                                           "qkv_fused",       "rope_jitter_coords",
                                           "device",          "dtype",
                                           "cache_dir",       "rope_rescale_coords"};
    rf_status status = RF_OK;
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)files->tower, key, value)
    {
        bool is_known = knows_key(files->arch->keys, key) || knows_key(files->own_keys, key);
        for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
            is_known = is_known || strcmp(key, harmless[i]) == 0;
        }
        if (!is_known && !json_is_null(value)) {
            RF_FAIL(RF_ERR_UNSUPPORTED, "'model_args' has '%.64s', which is not supported", key);
        }
    }
fail:
    return status;
}

/* The pool that the architecture has where no argument says another. */
static rf_status find_own_pool(const rf_vit_files *files, rf_vit_pool *out)
{
    rf_status status = RF_OK;
    rf_draft own = {0};
    const rf_arch *row = NULL;
    const char *name = files->like;
    if (name == NULL) {
        RF_TRY(rf_json_get_str(files->json, "architecture", "", &name));
    }
    if (name[0] == '\0') {
        RF_TRY(rf_json_get_str(files->json, "model_cfg.vision_cfg.timm_model_name",
                               files->arch->family, &name));
    }
    RF_TRY(rf_settings_defaults(&rf_draft_table, &own));
    RF_TRY(rf_named_apply(name, &own, &row));
    *out = own.config.pool;
fail:
    return status;
}

/* With another pool than the architecture's own, the norm's place follows, as in timm's
 * constructor. timm writes the pool down always, so that the same one says nothing. The weights,
 * where they are there, know better: rf_vit_files_finish. */
rf_status rf_resolve_timm(rf_vit_files *files)
{
    rf_status status = RF_OK;
    rf_draft *d = &files->draft;
    rf_vit_pool own_pool = d->config.pool;
    if (d->config.pool == RF_POOL_ATTENTION && d->pool_mlp_ratio == 0.0) {
        d->pool_mlp_ratio = d->mlp_ratio; /* VisionTransformer's pool is as the blocks are */
    }
    if (files->tower == NULL) {
        return RF_OK;
    }
    RF_TRY(check_model_args(files));
    const rf_json *pool = rf_json_find(files->tower, "global_pool");
    if (d->fc_norm_given) {
        d->config.norm_is_behind_pool = d->fc_norm;
    } else if (pool != NULL && !json_is_null(pool)) {
        RF_TRY(find_own_pool(files, &own_pool));
        if (d->config.pool != own_pool) {
            d->config.norm_is_behind_pool = d->config.pool == RF_POOL_PATCH_MEAN;
        }
    }
fail:
    return status;
}

/* ---- OpenCLIP ---------------------------------------------------------------------------------
 */

rf_status rf_resolve_open_clip(rf_vit_files *files)
{
    rf_status status = RF_OK;
    rf_draft *d = &files->draft;
    if (d->attentional_pool) { /* CoCa: the pool reads tokens, and the norm its result */
        if (d->config.pool != RF_POOL_CLS) {
            RF_FAIL(RF_ERR_UNSUPPORTED,
                    "'attentional_pool' with a 'pool_type' other than tok is not supported");
        }
        d->config.pool = RF_POOL_ATTENTION;
        d->config.norm_is_behind_pool = true;
        d->config.d_pool = d->config.d_out;
    }
fail:
    return status;
}

rf_status rf_resolve_open_clip_text(rf_vit_files *files)
{
    rf_status status = RF_OK;
    rf_draft *d = &files->draft;
    const char *pool = "argmax";
    if (files->tower != NULL) {
        RF_TRY(rf_json_get_str(files->tower, "pool_type", "argmax", &pool));
    }
    d->config.eos_id = strcmp(pool, "argmax") == 0 ? -1 : d->config.eos_id;
fail:
    return status;
}

/* What timm_pool and timm_proj make of a trunk: without a projection of OpenCLIP's own, timm's head
 * is the projection and timm's constructor places the norm where the pool is another one than the
 * architecture's; with one, the norm stays where the architecture has it. */
static rf_status read_trunk_end(rf_vit_files *files, const rf_json *vision)
{
    static const rf_key pool_key[] = {{"pool", "timm_pool", 0}, {0}};
    static const rf_key bias_key[] = {{"projection_bias", "timm_proj_bias", 0}, {0}};
    static const rf_key out_key[] = {{"d_out", "/model_cfg.embed_dim", 0}, {0}};
    rf_status status = RF_OK;
    rf_draft *d = &files->draft;
    const rf_vit_pool own_pool = d->config.pool;
    const char *pool = NULL, *proj = NULL;
    const rf_json *value = rf_json_find(vision, "timm_proj");
    RF_TRY(rf_json_get_str(vision, "timm_pool", "avg", &pool));
    RF_TRY(rf_json_get_str(vision, "timm_proj", value != NULL ? "" : "linear", &proj));
    if (strcmp(pool, "avg") != 0 || rf_json_find(vision, "timm_pool") != NULL) {
        RF_TRY(rf_draft_read_json(d, pool_key, vision, vision));
    } else {
        d->config.pool = RF_POOL_PATCH_MEAN;
    }
    if (strcmp(proj, "linear") == 0) {
        RF_TRY(rf_draft_read_json(d, bias_key, vision, vision));
        files->own_arch.names[RF_PART_PROJECTION][0] = "/visual.head.proj";
    } else if (proj[0] == '\0') {
        if (d->config.pool != own_pool) {
            d->config.norm_is_behind_pool = d->config.pool == RF_POOL_PATCH_MEAN;
        }
        d->projection_bias = true;
        files->own_arch.names[RF_PART_PROJECTION][0] = "head";
    } else if (strcmp(proj, "none") == 0) {
        d->projection = RF_ABSENT;
    } else {
        RF_FAIL(RF_ERR_UNSUPPORTED, "'timm_proj' is '%.64s', which is not supported", proj);
    }
    RF_TRY(rf_draft_read_json(d, out_key, files->json, vision));
fail:
    return status;
}

rf_status rf_open_clip_trunk(rf_vit_files *files)
{
    rf_status status = RF_OK;
    const rf_json *vision = rf_json_find(files->json, "model_cfg.vision_cfg");
    const char *name = NULL;
    const rf_arch *row = NULL;
    RF_TRY(rf_json_get_str(vision, "timm_model_name", NULL, &name));
    RF_TRY(rf_named_apply(name, &files->draft, &row));
    files->own_arch = *row;
    files->arch = &files->own_arch;
    files->tower = rf_json_find(vision, "timm_model_args");
    memset(files->own_arch.prefixes, 0, sizeof files->own_arch.prefixes);
    files->own_arch.prefixes[0] = "visual.trunk.";
    memset(files->own_arch.names[RF_PART_HEAD], 0, sizeof files->own_arch.names[RF_PART_HEAD]);
    files->draft.head = RF_ABSENT;
    files->draft.config.n_classes = 0;
    files->draft.projection = RF_REQUIRED;
    RF_TRY(read_trunk_end(files, vision));
fail:
    return status;
}
