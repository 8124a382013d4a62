/* Token classes: their names, and which rows of a hook point they mean. */
#include "refract/data.h"

#include <string.h>

const char *const rf_token_class_names[] = {"all", "cls", "register", "patch", "pooled", NULL};

rf_status rf_token_class_parse(const char *text, rf_token_class *out)
{
    rf_status status = RF_OK;

    for (int i = 0; rf_token_class_names[i] != NULL; i++) {
        if (strcmp(text, rf_token_class_names[i]) == 0) {
            *out = (rf_token_class)i;
            return RF_OK;
        }
    }
    if (strcmp(text, "spatial") == 0) {
        *out = RF_TOKENS_PATCH;
        return RF_OK;
    }
    RF_FAIL(RF_ERR_SETTING,
            "there is no token class '%s'; expected all, cls, register, patch or pooled", text);
fail:
    return status;
}

rf_token_class rf_token_class_of_row(const rf_vit_config *config, const rf_hook_point *point,
                                     int64_t row)
{
    if (point->shape == RF_HOOK_POOLED) {
        return RF_TOKENS_CLS;
    }
    if (point->shape == RF_HOOK_PATCHES || row >= config->n_prefix) {
        return RF_TOKENS_PATCH;
    }
    return row >= config->n_prefix - config->n_registers ? RF_TOKENS_REGISTER : RF_TOKENS_CLS;
}

/* Of a point that has the model's prefix tokens and patches. */
static rf_status rows_of_tokens(const rf_vit_config *config, const rf_hook_point *point,
                                rf_token_class tokens, int64_t *first, int64_t *n_rows)
{
    rf_status status = RF_OK;

    switch (tokens) {
    case RF_TOKENS_ALL:
        *first = 0;
        *n_rows = config->n_tokens;
        break;
    case RF_TOKENS_CLS:
        if (!config->has_cls) {
            RF_FAIL(RF_ERR_SETTING, "tokens cls: model '%s' has no CLS token", config->name);
        }
        *first = 0;
        *n_rows = 1;
        break;
    case RF_TOKENS_REGISTER:
        if (config->n_registers == 0) {
            RF_FAIL(RF_ERR_SETTING, "tokens register: model '%s' has no registers", config->name);
        }
        *first = config->n_prefix - config->n_registers;
        *n_rows = config->n_registers;
        break;
    case RF_TOKENS_PATCH:
        *first = config->n_prefix;
        *n_rows = config->n_patches;
        break;
    default:
        RF_FAIL(RF_ERR_SETTING,
                "tokens pooled: hook point '%s' is not pooled; use input hook_pooled", point->name);
    }
fail:
    return status;
}

rf_status rf_token_class_rows(const rf_vit_config *config, const rf_hook_point *point,
                              rf_token_class tokens, int64_t *first, int64_t *n_rows)
{
    rf_status status = RF_OK;
    const char *name = rf_token_class_names[tokens];

    *first = 0;
    *n_rows = 0;
    switch (point->shape) {
    case RF_HOOK_PATCHES:
        if (tokens != RF_TOKENS_ALL && tokens != RF_TOKENS_PATCH) {
            RF_FAIL(RF_ERR_SETTING,
                    "tokens %s: hook point '%s' has patches only; use tokens patch, or a later "
                    "point",
                    name, point->name);
        }
        *n_rows = config->n_patches;
        break;
    case RF_HOOK_POOLED:
        if (tokens != RF_TOKENS_ALL && tokens != RF_TOKENS_POOLED) {
            RF_FAIL(RF_ERR_SETTING,
                    "tokens %s: hook point '%s' has one row a picture; use tokens pooled", name,
                    point->name);
        }
        *n_rows = 1;
        break;
    case RF_HOOK_HEAD_RESID:
    case RF_HOOK_PATTERN:
        RF_FAIL(RF_ERR_SETTING,
                "hook point '%s' has no vector for each token: attention patterns, and inputs or "
                "results of heads, cannot be a coder's input",
                point->name);
    default:
        RF_TRY(rows_of_tokens(config, point, tokens, first, n_rows));
    }
fail:
    return status;
}

void rf_token_position_of_row(const rf_vit_config *config, const rf_hook_point *point, int64_t row,
                              int32_t out[3])
{
    const int64_t *grid = config->grid;
    const int64_t patch = point->shape == RF_HOOK_PATCHES ? row : row - config->n_prefix;
    out[0] = out[1] = out[2] = -1;
    if (rf_token_class_of_row(config, point, row) == RF_TOKENS_PATCH) {
        out[0] = (int32_t)(patch / (grid[1] * grid[2]));
        out[1] = (int32_t)(patch / grid[2] % grid[1]);
        out[2] = (int32_t)(patch % grid[2]);
    }
}
