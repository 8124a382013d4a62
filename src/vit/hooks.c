/* Names of hook points: one table, in firing order. */
#include "vit_impl.h"

#include <stdio.h>
#include <string.h>

typedef enum place { BEFORE, INSIDE, BEHIND } place;
typedef enum width { WIDTH_NONE, WIDTH_ONE, WIDTH_MODEL, WIDTH_MLP } width;

typedef struct site_row {
    const char *name; /* behind "blocks.{l}." for those inside */
    place place;
    rf_hook_shape shape;
    width width;
    bool needs_ln_pre;
} site_row;

static const site_row sites[RF_N_SITES] = {
    [RF_SITE_EMBED] = {"hook_embed", BEFORE, RF_HOOK_PATCHES, WIDTH_MODEL, false},
    [RF_SITE_POS_EMBED] = {"hook_pos_embed", BEFORE, RF_HOOK_TOKENS, WIDTH_MODEL, false},
    [RF_SITE_FULL_EMBED] = {"hook_full_embed", BEFORE, RF_HOOK_TOKENS, WIDTH_MODEL, false},
    [RF_SITE_LN_PRE_SCALE] = {"ln_pre.hook_scale", BEFORE, RF_HOOK_TOKENS, WIDTH_ONE, true},
    [RF_SITE_LN_PRE_NORMALIZED] = {"ln_pre.hook_normalized", BEFORE, RF_HOOK_TOKENS, WIDTH_MODEL,
                                   true},
    [RF_SITE_LN_PRE] = {"hook_ln_pre", BEFORE, RF_HOOK_TOKENS, WIDTH_MODEL, true},
    [RF_SITE_RESID_PRE] = {"hook_resid_pre", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, false},
    [RF_SITE_LN1_SCALE] = {"ln1.hook_scale", INSIDE, RF_HOOK_TOKENS, WIDTH_ONE, false},
    [RF_SITE_LN1_NORMALIZED] = {"ln1.hook_normalized", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, false},
    [RF_SITE_Q] = {"attn.hook_q", INSIDE, RF_HOOK_HEADS, WIDTH_MODEL, false},
    [RF_SITE_K] = {"attn.hook_k", INSIDE, RF_HOOK_HEADS, WIDTH_MODEL, false},
    [RF_SITE_V] = {"attn.hook_v", INSIDE, RF_HOOK_HEADS, WIDTH_MODEL, false},
    [RF_SITE_ATTN_SCORES] = {"attn.hook_attn_scores", INSIDE, RF_HOOK_PATTERN, WIDTH_NONE, false},
    [RF_SITE_PATTERN] = {"attn.hook_pattern", INSIDE, RF_HOOK_PATTERN, WIDTH_NONE, false},
    [RF_SITE_Z] = {"attn.hook_z", INSIDE, RF_HOOK_HEADS, WIDTH_MODEL, false},
    [RF_SITE_ATTN_OUT] = {"hook_attn_out", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, false},
    [RF_SITE_RESID_MID] = {"hook_resid_mid", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, false},
    [RF_SITE_LN2_SCALE] = {"ln2.hook_scale", INSIDE, RF_HOOK_TOKENS, WIDTH_ONE, false},
    [RF_SITE_LN2_NORMALIZED] = {"ln2.hook_normalized", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, false},
    [RF_SITE_MLP_PRE] = {"mlp.hook_pre", INSIDE, RF_HOOK_TOKENS, WIDTH_MLP, false},
    [RF_SITE_MLP_POST] = {"mlp.hook_post", INSIDE, RF_HOOK_TOKENS, WIDTH_MLP, false},
    [RF_SITE_MLP_OUT] = {"hook_mlp_out", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, false},
    [RF_SITE_RESID_POST] = {"hook_resid_post", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, false},
    [RF_SITE_LN_FINAL_SCALE] = {"ln_final.hook_scale", BEHIND, RF_HOOK_TOKENS, WIDTH_ONE, false},
    [RF_SITE_LN_FINAL_NORMALIZED] = {"ln_final.hook_normalized", BEHIND, RF_HOOK_TOKENS,
                                     WIDTH_MODEL, false},
    [RF_SITE_LN_FINAL] = {"hook_ln_final", BEHIND, RF_HOOK_TOKENS, WIDTH_MODEL, false},
    [RF_SITE_POOLED] = {"hook_pooled", BEHIND, RF_HOOK_POOLED, WIDTH_MODEL, false},
};

static rf_status make_point(const rf_vit_config *c, int site, int64_t layer, rf_hook_point *out)
{
    const site_row *row = &sites[site];
    *out = (rf_hook_point){.site = site, .shape = row->shape};
    out->layer = row->place == BEFORE ? -1 : row->place == INSIDE ? layer : c->n_layers;
    out->width = row->width == WIDTH_MODEL ? c->d_model
                 : row->width == WIDTH_MLP ? c->d_mlp
                 : row->width == WIDTH_ONE ? 1
                                           : 0;
    if (row->place == INSIDE) {
        return rf_format(out->name, sizeof out->name, "blocks.%" PRId64 ".%s", layer, row->name);
    }
    return rf_format(out->name, sizeof out->name, "%s", row->name);
}

static bool is_present(const rf_vit_config *c, int site)
{
    return sites[site].name != NULL && (!sites[site].needs_ln_pre || c->has_ln_pre);
}

rf_status rf_vit_hook_list(const rf_vit_config *config, rf_hook_point **out, int64_t *n)
{
    rf_status status = RF_OK;
    rf_hook_point *points = NULL;
    int64_t count = 0;
    RF_ALLOC(points, RF_N_SITES * (config->n_layers + 1));
    for (int64_t layer = -1; layer <= config->n_layers; layer++) {
        const place at = layer < 0 ? BEFORE : layer < config->n_layers ? INSIDE : BEHIND;
        for (int site = 0; site < RF_N_SITES; site++) {
            if (is_present(config, site) && sites[site].place == at) {
                RF_TRY(make_point(config, site, layer, &points[count++]));
            }
        }
    }
    *out = points;
    *n = count;
    points = NULL;
fail:
    rf_free(points);
    return status;
}

/* NOT_FOUND with the nearest name that exists. */
static rf_status raise_unknown(const rf_vit_config *c, const char *name)
{
    rf_status status = RF_OK;
    rf_hook_point *points = NULL;
    int64_t n = 0, best = 0;
    RF_TRY(rf_vit_hook_list(c, &points, &n));
    for (int64_t i = 1; i < n; i++) {
        if (rf_str_distance(name, points[i].name) < rf_str_distance(name, points[best].name)) {
            best = i;
        }
    }
    RF_FAIL(RF_ERR_NOT_FOUND, "there is no hook point '%.128s' in this model; did you mean '%s'?",
            name, points[best].name);
fail:
    rf_free(points);
    return status;
}

/* "blocks.-1.hook_x" to layer -1 and "hook_x"; `rest` is NULL for other names. */
static rf_status split_name(const char *name, int64_t *layer, const char **rest)
{
    rf_status status = RF_OK;
    char number[32];
    *layer = 0;
    *rest = NULL;
    if (strncmp(name, "blocks.", 7) == 0) {
        const char *dot = strchr(name + 7, '.');
        if (dot != NULL && dot - (name + 7) < (int)sizeof number) {
            RF_TRY(rf_format(number, sizeof number, "%.*s", (int)(dot - (name + 7)), name + 7));
            if (rf_parse_i64(number, layer) == RF_OK) {
                *rest = dot + 1;
            }
        }
    }
fail:
    return status;
}

rf_status rf_vit_hook_find(const rf_vit_config *config, const char *name, rf_hook_point *out)
{
    rf_status status = RF_OK;
    int64_t layer = 0;
    const char *rest = NULL;
    RF_TRY(split_name(name, &layer, &rest));
    const int64_t resolved = layer < 0 ? layer + config->n_layers : layer;
    for (int site = 0; site < RF_N_SITES; site++) {
        const char *tail = sites[site].place == INSIDE ? rest : name;
        if (tail == NULL || !is_present(config, site) || strcmp(sites[site].name, tail) != 0) {
            continue;
        }
        if (resolved < 0 || resolved >= config->n_layers) {
            RF_FAIL(RF_ERR_NOT_FOUND,
                    "there is no hook point '%.128s': this model has layers 0 to %" PRId64
                    " (or -%" PRId64 " to -1 from the end)",
                    name, config->n_layers - 1, config->n_layers);
        }
        RF_TRY(make_point(config, site, resolved, out));
        goto fail;
    }
    RF_TRY(raise_unknown(config, name));
fail:
    return status;
}

int64_t rf_hook_order(const rf_vit_config *config, const rf_hook_point *point)
{
    (void)config;
    return point->layer * RF_N_SITES + point->site;
}

bool rf_hook_point_at(const rf_vit_config *config, rf_site site, int64_t layer, rf_hook_point *out)
{
    return is_present(config, site) && make_point(config, site, layer, out) == RF_OK;
}

rf_view rf_hook_view(const rf_vit_config *c, const rf_hook_point *point, int64_t n, float *data)
{
    const int64_t t = c->n_tokens;
    switch (point->shape) {
    case RF_HOOK_PATCHES:
        return rf_view_nd(data, RF_F32, 3, (int64_t[]){n, c->n_patches, point->width});
    case RF_HOOK_HEADS:
        return rf_view_nd(data, RF_F32, 4, (int64_t[]){n, t, c->n_heads, c->d_head});
    case RF_HOOK_HEAD_RESID:
        return rf_view_nd(data, RF_F32, 4, (int64_t[]){n, t, c->n_heads, c->d_model});
    case RF_HOOK_PATTERN:
        return rf_view_nd(data, RF_F32, 4, (int64_t[]){n, c->n_heads, t, t});
    case RF_HOOK_POOLED:
        return rf_view_2d(data, n, point->width);
    case RF_HOOK_TOKENS:
        break;
    }
    return rf_view_nd(data, RF_F32, 3, (int64_t[]){n, t, point->width});
}
