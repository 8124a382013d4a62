/* Any bytes as a model's config.json, or open_clip_config.json where they say model_cfg, for both
 * towers.
 * layer: vit
 * seeds: tests/vit/accept tests/vit/refuse */
#include "../../src/vit/config_impl.h"

#include "fuzz.h"

/* What every config that is accepted promises to the code behind it. */
static void check(const rf_vit_config *c)
{
    FUZZ_CHECK(c->d_model >= 1 && c->n_layers >= 1 && c->n_heads >= 1 && c->d_mlp >= 1);
    FUZZ_CHECK(c->d_head * c->n_heads == c->d_model);
    FUZZ_CHECK(c->n_patches >= 1 && c->n_patches == c->grid[0] * c->grid[1] * c->grid[2]);
    FUZZ_CHECK(c->n_tokens == c->n_prefix + c->n_patches && c->n_tokens <= (1 << 18) + 1026);
    FUZZ_CHECK(c->eps >= 0.0f && c->eps < 1.0f && c->eps_final >= 0.0f);
    FUZZ_CHECK(c->d_out >= 1 && c->d_pool >= 1 && c->n_classes >= 0 && c->patch_size >= 1);
    FUZZ_CHECK(c->pool != RF_POOL_ATTENTION ||
               (c->n_pool_heads >= 1 && c->d_pool % c->n_pool_heads == 0));
    FUZZ_CHECK(rf_vit_weight_bytes(c) > 0 && rf_vit_workspace_bytes(c, 1) > 0);
}

static void parse(rf_json *json, rf_vit_tower tower, bool is_open_clip)
{
    rf_vit_files files = {.opts.tower = tower, .folder = "fuzz", .json = json};
    if (rf_vit_files_parse(&files, is_open_clip) == RF_OK && rf_vit_files_finish(&files) == RF_OK) {
        check(&files.config);
    }
    files.json = NULL; /* the caller's */
    rf_vit_files_close(&files);
    FUZZ_CHECK(rf_alloc_live() == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    rf_json *json = NULL;
    if (rf_json_parse((const char *)bytes, (int64_t)n_bytes, "fuzz", &json) == RF_OK) {
        const bool is_open_clip = rf_json_find(json, "model_cfg") != NULL;
        parse(json, RF_TOWER_VISION, is_open_clip);
        parse(json, RF_TOWER_TEXT, is_open_clip);
    }
    rf_json_free(json);
    return 0;
}
