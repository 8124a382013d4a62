/* Hook points: one table of sites, which of them a model has, their order and shapes. */
#include "vit_impl.h"

typedef enum place { BEFORE, INSIDE, BEHIND } place;
typedef enum width {
    WIDTH_NONE,
    WIDTH_ONE,
    WIDTH_MODEL,
    WIDTH_HEADS,
    WIDTH_HEAD_RESID,
    WIDTH_MLP,
    WIDTH_POOL,
    WIDTH_OUT
} width;

/* The switch that a site hangs on. */
typedef enum need {
    ALWAYS,
    ON_REQUEST, /* every model has it, but its value is made when somebody asks for it alone */
    POSITION,
    LN_PRE,
    ROTARY,
    ATTN_NORM,
    GATED,
    MLP_NORM,
    LN_FINAL
} need;

typedef struct site_row {
    const char *name; /* behind "blocks.{l}." for those inside */
    place place;
    rf_hook_shape shape;
    width width;
    need need;
} site_row;

static const site_row sites[RF_N_SITES] = {
    [RF_SITE_EMBED] = {"hook_embed", BEFORE, RF_HOOK_PATCHES, WIDTH_MODEL, ALWAYS},
    [RF_SITE_POS_EMBED] = {"hook_pos_embed", BEFORE, RF_HOOK_TOKENS, WIDTH_MODEL, POSITION},
    [RF_SITE_FULL_EMBED] = {"hook_full_embed", BEFORE, RF_HOOK_TOKENS, WIDTH_MODEL, ALWAYS},
    [RF_SITE_LN_PRE_SCALE] = {"ln_pre.hook_scale", BEFORE, RF_HOOK_TOKENS, WIDTH_ONE, LN_PRE},
    [RF_SITE_LN_PRE_NORMALIZED] = {"ln_pre.hook_normalized", BEFORE, RF_HOOK_TOKENS, WIDTH_MODEL,
                                   LN_PRE},
    [RF_SITE_LN_PRE] = {"hook_ln_pre", BEFORE, RF_HOOK_TOKENS, WIDTH_MODEL, LN_PRE},
    [RF_SITE_RESID_PRE] = {"hook_resid_pre", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, ALWAYS},
    [RF_SITE_ATTN_IN] = {"hook_attn_in", INSIDE, RF_HOOK_HEAD_RESID, WIDTH_HEAD_RESID, ON_REQUEST},
    [RF_SITE_Q_INPUT] = {"hook_q_input", INSIDE, RF_HOOK_HEAD_RESID, WIDTH_HEAD_RESID, ON_REQUEST},
    [RF_SITE_K_INPUT] = {"hook_k_input", INSIDE, RF_HOOK_HEAD_RESID, WIDTH_HEAD_RESID, ON_REQUEST},
    [RF_SITE_V_INPUT] = {"hook_v_input", INSIDE, RF_HOOK_HEAD_RESID, WIDTH_HEAD_RESID, ON_REQUEST},
    [RF_SITE_LN1_SCALE] = {"ln1.hook_scale", INSIDE, RF_HOOK_TOKENS, WIDTH_ONE, ALWAYS},
    [RF_SITE_LN1_NORMALIZED] = {"ln1.hook_normalized", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, ALWAYS},
    [RF_SITE_Q] = {"attn.hook_q", INSIDE, RF_HOOK_HEADS, WIDTH_HEADS, ALWAYS},
    [RF_SITE_K] = {"attn.hook_k", INSIDE, RF_HOOK_HEADS, WIDTH_HEADS, ALWAYS},
    [RF_SITE_V] = {"attn.hook_v", INSIDE, RF_HOOK_HEADS, WIDTH_HEADS, ALWAYS},
    [RF_SITE_ROT_Q] = {"attn.hook_rot_q", INSIDE, RF_HOOK_HEADS, WIDTH_HEADS, ROTARY},
    [RF_SITE_ROT_K] = {"attn.hook_rot_k", INSIDE, RF_HOOK_HEADS, WIDTH_HEADS, ROTARY},
    [RF_SITE_ATTN_SCORES] = {"attn.hook_attn_scores", INSIDE, RF_HOOK_PATTERN, WIDTH_NONE, ALWAYS},
    [RF_SITE_PATTERN] = {"attn.hook_pattern", INSIDE, RF_HOOK_PATTERN, WIDTH_NONE, ALWAYS},
    [RF_SITE_Z] = {"attn.hook_z", INSIDE, RF_HOOK_HEADS, WIDTH_HEADS, ALWAYS},
    [RF_SITE_ATTN_LN_SCALE] = {"attn.ln.hook_scale", INSIDE, RF_HOOK_TOKENS, WIDTH_ONE, ATTN_NORM},
    [RF_SITE_ATTN_LN_NORMALIZED] = {"attn.ln.hook_normalized", INSIDE, RF_HOOK_TOKENS, WIDTH_HEADS,
                                    ATTN_NORM},
    [RF_SITE_RESULT] = {"attn.hook_result", INSIDE, RF_HOOK_HEAD_RESID, WIDTH_HEAD_RESID,
                        ON_REQUEST},
    [RF_SITE_ATTN_OUT] = {"hook_attn_out", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, ALWAYS},
    [RF_SITE_RESID_MID] = {"hook_resid_mid", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, ALWAYS},
    [RF_SITE_MLP_IN] = {"hook_mlp_in", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, ON_REQUEST},
    [RF_SITE_LN2_SCALE] = {"ln2.hook_scale", INSIDE, RF_HOOK_TOKENS, WIDTH_ONE, ALWAYS},
    [RF_SITE_LN2_NORMALIZED] = {"ln2.hook_normalized", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, ALWAYS},
    [RF_SITE_MLP_PRE] = {"mlp.hook_pre", INSIDE, RF_HOOK_TOKENS, WIDTH_MLP, ALWAYS},
    [RF_SITE_MLP_PRE_LINEAR] = {"mlp.hook_pre_linear", INSIDE, RF_HOOK_TOKENS, WIDTH_MLP, GATED},
    [RF_SITE_MLP_POST] = {"mlp.hook_post", INSIDE, RF_HOOK_TOKENS, WIDTH_MLP, ALWAYS},
    [RF_SITE_MLP_LN_SCALE] = {"mlp.ln.hook_scale", INSIDE, RF_HOOK_TOKENS, WIDTH_ONE, MLP_NORM},
    [RF_SITE_MLP_LN_NORMALIZED] = {"mlp.ln.hook_normalized", INSIDE, RF_HOOK_TOKENS, WIDTH_MLP,
                                   MLP_NORM},
    [RF_SITE_MLP_OUT] = {"hook_mlp_out", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, ALWAYS},
    [RF_SITE_RESID_POST] = {"hook_resid_post", INSIDE, RF_HOOK_TOKENS, WIDTH_MODEL, ALWAYS},
    [RF_SITE_LN_FINAL_SCALE] = {"ln_final.hook_scale", BEHIND, RF_HOOK_TOKENS, WIDTH_ONE, LN_FINAL},
    [RF_SITE_LN_FINAL_NORMALIZED] = {"ln_final.hook_normalized", BEHIND, RF_HOOK_TOKENS,
                                     WIDTH_MODEL, LN_FINAL},
    [RF_SITE_LN_FINAL] = {"hook_ln_final", BEHIND, RF_HOOK_TOKENS, WIDTH_MODEL, LN_FINAL},
    [RF_SITE_POOLED] = {"hook_pooled", BEHIND, RF_HOOK_POOLED, WIDTH_POOL, ALWAYS},
    [RF_SITE_POST_HEAD] = {"hook_post_head_pre_normalize", BEHIND, RF_HOOK_POOLED, WIDTH_OUT,
                           ALWAYS},
};

const char *rf_site_name(rf_site site)
{
    return sites[site].name;
}

bool rf_site_is_in_block(rf_site site)
{
    return sites[site].place == INSIDE;
}

static bool is_present(const rf_vit_config *c, rf_site site)
{
    switch (sites[site].need) {
    case ALWAYS:
    case ON_REQUEST:
        break;
    case POSITION:
        return c->has_position;
    case LN_PRE:
        return c->has_ln_pre;
    case ROTARY:
        return c->rope != RF_ROPE_NONE;
    case ATTN_NORM:
        return c->has_attn_norm;
    case GATED:
        return c->is_gated;
    case MLP_NORM:
        return c->has_mlp_norm;
    case LN_FINAL:
        return c->has_ln_final;
    }
    return true;
}

static int64_t width_of(const rf_vit_config *c, width w)
{
    switch (w) {
    case WIDTH_NONE:
        break;
    case WIDTH_ONE:
        return 1;
    case WIDTH_MODEL:
        return c->d_model;
    case WIDTH_HEADS:
        return c->n_heads * c->d_head;
    case WIDTH_HEAD_RESID:
        return c->n_heads * c->d_model;
    case WIDTH_MLP:
        return c->d_mlp;
    case WIDTH_POOL:
        return c->d_pool;
    case WIDTH_OUT: /* the embedding, or the logits of a model that only classifies */
        return c->has_projection || c->n_classes == 0 ? c->d_out : c->n_classes;
    }
    return 0;
}

static rf_status make_point(const rf_vit_config *c, rf_site site, int64_t layer, rf_hook_point *out)
{
    const site_row *row = &sites[site];
    const bool is_pooled =
        c->norm_is_behind_pool && site >= RF_SITE_LN_FINAL_SCALE && site <= RF_SITE_LN_FINAL;
    *out = (rf_hook_point){.site = (int)site,
                           .shape = row->shape,
                           .width = width_of(c, row->width),
                           .is_on_request = row->need == ON_REQUEST};
    out->layer = row->place == BEFORE ? -1 : row->place == INSIDE ? layer : c->n_layers;
    if (is_pooled) {
        out->shape = RF_HOOK_POOLED;
        out->width = width_of(c, row->width == WIDTH_ONE ? WIDTH_ONE : WIDTH_POOL);
    } else if (site == RF_SITE_EMBED && c->input == RF_VIT_TEXT) {
        out->shape = RF_HOOK_TOKENS;
    }
    if (row->place == INSIDE) {
        return rf_format(out->name, sizeof out->name, "blocks.%" PRId64 ".%s", layer, row->name);
    }
    return rf_format(out->name, sizeof out->name, "%s", row->name);
}

bool rf_hook_point_at(const rf_vit_config *config, rf_site site, int64_t layer, rf_hook_point *out)
{
    const bool is_there = !rf_site_is_in_block(site) || (layer >= 0 && layer < config->n_layers);
    return is_there && is_present(config, site) && make_point(config, site, layer, out) == RF_OK;
}

/* A number that rises in firing order inside a block. Norms behind the branches fire between the
 * last point of the branch and what is added: two steps between neighbouring sites. */
static int64_t rank(const rf_vit_config *c, int site)
{
    if (c->norm_place == RF_NORM_BEHIND) {
        switch (site) {
        case RF_SITE_LN1_SCALE:
        case RF_SITE_LN1_NORMALIZED:
            return 3 * RF_SITE_RESULT + 1 + site - RF_SITE_LN1_SCALE;
        case RF_SITE_LN2_SCALE:
        case RF_SITE_LN2_NORMALIZED:
            return 3 * RF_SITE_MLP_LN_NORMALIZED + 1 + site - RF_SITE_LN2_SCALE;
        default:
            break;
        }
    }
    return 3 * (int64_t)site;
}

int64_t rf_hook_order(const rf_vit_config *config, const rf_hook_point *point)
{
    return point->layer * 3 * RF_N_SITES + rank(config, point->site);
}

/* Into firing order; nearly there already. */
static void sort_points(const rf_vit_config *c, rf_hook_point *points, int64_t n)
{
    for (int64_t i = 1; i < n; i++) {
        const rf_hook_point point = points[i];
        int64_t j = i;
        for (; j > 0 && rf_hook_order(c, &points[j - 1]) > rf_hook_order(c, &point); j--) {
            points[j] = points[j - 1];
        }
        points[j] = point;
    }
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
            if (sites[site].place == at && is_present(config, (rf_site)site)) {
                RF_TRY(make_point(config, (rf_site)site, layer, &points[count++]));
            }
        }
    }
    sort_points(config, points, count);
    *out = points;
    *n = count;
    points = NULL;
fail:
    rf_free(points);
    return status;
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
