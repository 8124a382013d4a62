/* Private to vit: the architecture table, the weights, the buffers, and one forward pass. */
#ifndef REFRACT_VIT_IMPL_H
#define REFRACT_VIT_IMPL_H

#include "refract/vit.h"

/* ---- arch.c: the architecture table --------------------------------------------------------- */

/* Parts of a model that have weights of their own. Those from RF_PART_LN1 on exist once a layer. */
typedef enum rf_part {
    RF_PART_PATCH,
    RF_PART_CLS,
    RF_PART_POSITION,
    RF_PART_LN_PRE,
    RF_PART_LN_FINAL,
    RF_PART_PROJECTION,
    RF_PART_HEAD,
    RF_PART_LN1,
    RF_PART_Q,
    RF_PART_K,
    RF_PART_V,
    RF_PART_O,
    RF_PART_SCALE1,
    RF_PART_LN2,
    RF_PART_FC1,
    RF_PART_FC2,
    RF_PART_SCALE2,
    RF_N_PARTS
} rf_part;

enum { RF_MAX_SPELLINGS = 4, RF_MAX_WORDS = 4 };

/* What a classification head reads. */
typedef enum rf_head_input {
    RF_HEAD_POOLED,                /* [d] */
    RF_HEAD_POOLED_AND_PATCH_MEAN, /* [2 d]: pooled, then the mean of the patch tokens */
} rf_head_input;

/* A family: one row. Names of weights are prefix + spelling (+ ".weight", ".bias"), every prefix
 * with every spelling; projection and head stand outside the prefix. */
typedef struct rf_arch {
    const char *family;
    const char *model_types[RF_MAX_WORDS];
    const char *config_roots[RF_MAX_WORDS]; /* where a whole model's config keeps the tower's */
    const char *prefixes[RF_MAX_WORDS];
    const char *names[RF_N_PARTS][RF_MAX_SPELLINGS]; /* no first spelling: the family lacks it */

    /* What transformers' configuration class takes where a key is missing. */
    int64_t d_model, n_layers, n_heads, image_size, patch_size, n_channels;
    const char *mlp_key;
    int64_t mlp_default;
    bool mlp_is_ratio; /* mlp_key times hidden_size */
    const char *act;
    double eps;
    const char *forbidden_key; /* a switch that must be false, and what it would mean */
    const char *forbidden_meaning;

    bool has_patch_bias, can_interpolate;
    rf_head_input head_input;
} rf_arch;

/* The row of `model_type`; UNSUPPORTED lists the families. */
rf_status rf_arch_find(const char *model_type, const char *where, const rf_arch **out);

/* ---- config.c ------------------------------------------------------------------------------- */

/* config.json as `arch` reads it. What only the weights tell (projection, head) is left at none;
 * `native_size` is the size that the stored positions are for. */
typedef struct rf_vit_files {
    const rf_arch *arch;
    rf_json *json;
    rf_tensor_file *weights; /* NULL: not there, and not needed */
    rf_vit_config config;
    int64_t native_size;
    bool has_qkv_bias;
    char folder[RF_PATH_LEN];
} rf_vit_files;

typedef enum rf_weights_need { RF_WEIGHTS_IF_THERE, RF_WEIGHTS_NEEDED } rf_weights_need;
rf_status rf_vit_files_open(const char *folder, int64_t image_size, rf_weights_need need,
                            rf_vit_files *out);
void rf_vit_files_close(rf_vit_files *files);

/* ---- weights.c ------------------------------------------------------------------------------ */

/* A linear map as the forward pass uses it: weight [in, out] (transposed from the files'), bias. */
typedef struct rf_linear {
    rf_view weight, bias;
} rf_linear;

typedef struct rf_block_weights {
    rf_linear ln1, q, k, v, o, ln2, fc1, fc2;
    rf_view scale1, scale2; /* LayerScale, or absent */
} rf_block_weights;

typedef struct rf_vit_weights {
    float *arena; /* device; everything below lies in it */
    int64_t n_floats;
    rf_linear patch;
    rf_view cls;      /* [1, d] */
    rf_view position; /* [T, d], interpolated where needed */
    rf_view prefix;   /* [1, d]: cls + its position */
    rf_linear ln_pre, ln_final, projection, head;
    rf_block_weights *blocks; /* [n_layers] */
    uint64_t hash;
} rf_vit_weights;

/* The tensor of `part` with `suffix` ("", ".weight", ".bias"), or NULL. `layer` is -1 for parts
 * outside the blocks. `name` gets its name, or the first one that would have done. */
const rf_named_tensor *rf_weights_find(const rf_vit_files *files, rf_part part, const char *suffix,
                                       int64_t layer, char name[RF_NAME_LEN]);
rf_status rf_weights_load(rf_backend *be, rf_stream *s, const rf_vit_files *files,
                          rf_vit_weights *out);
void rf_weights_fini(rf_backend *be, rf_vit_weights *w);

/* out [new_side^2, d] = bicubic resampling of in [old_side^2, d], as torch's interpolate(mode =
 * "bicubic", align_corners = False, antialias = False): a = -0.75, borders repeated. Host. */
void rf_interpolate_positions(const float *in, int64_t old_side, int64_t d, float *out,
                              int64_t new_side);

/* ---- hooks.c -------------------------------------------------------------------------------- */

/* Points in firing order: before the blocks, inside one, behind them. */
typedef enum rf_site {
    RF_SITE_EMBED,
    RF_SITE_POS_EMBED,
    RF_SITE_FULL_EMBED,
    RF_SITE_LN_PRE_SCALE,
    RF_SITE_LN_PRE_NORMALIZED,
    RF_SITE_LN_PRE,
    RF_SITE_RESID_PRE,
    RF_SITE_LN1_SCALE,
    RF_SITE_LN1_NORMALIZED,
    RF_SITE_Q,
    RF_SITE_K,
    RF_SITE_V,
    RF_SITE_ATTN_SCORES,
    RF_SITE_PATTERN,
    RF_SITE_Z,
    RF_SITE_ATTN_OUT,
    RF_SITE_RESID_MID,
    RF_SITE_LN2_SCALE,
    RF_SITE_LN2_NORMALIZED,
    RF_SITE_MLP_PRE,
    RF_SITE_MLP_POST,
    RF_SITE_MLP_OUT,
    RF_SITE_RESID_POST,
    RF_SITE_LN_FINAL_SCALE,
    RF_SITE_LN_FINAL_NORMALIZED,
    RF_SITE_LN_FINAL,
    RF_SITE_POOLED,
    RF_N_SITES
} rf_site;

/* Points of a pass are ordered by this number. */
int64_t rf_hook_order(const rf_hook_point *point);

/* ---- workspace.c ---------------------------------------------------------------------------- */

typedef enum rf_buf {
    RF_BUF_RESID,  /* [B * T, d] the residual stream */
    RF_BUF_NORMED, /* [B * T, d] a norm's output; before the blocks, positions when hooked */
    RF_BUF_Q,      /* [B * T, d], and the next three */
    RF_BUF_K,
    RF_BUF_V,
    RF_BUF_Z,
    RF_BUF_BRANCH, /* [B * T, d] what a branch adds; before the blocks, embedded patches [B * N, d]
                    */
    RF_BUF_MLP,    /* [B * T, m]; before the blocks, rows of patches */
    RF_BUF_SCALE,  /* [B * T] */
    RF_BUF_POOLED, /* [B, d] */
    RF_BUF_HEAD_IN,
    RF_BUF_EMBEDDING,
    RF_BUF_LOGITS,
    RF_BUF_PATTERN, /* [B, H, T, T], made when a hook first asks for it */
    RF_N_BUFS
} rf_buf;

/* Buffers for micro-batches of up to capacity[i] pictures. Device memory. */
typedef struct rf_vit_workspace {
    float *buf[RF_N_BUFS];
    int64_t capacity[RF_N_BUFS];
} rf_vit_workspace;

typedef enum rf_pattern_need { RF_PATTERN_NOT_NEEDED, RF_PATTERN_NEEDED } rf_pattern_need;
rf_status rf_workspace_reserve(rf_vit *vit, rf_stream *s, int64_t n_images, rf_pattern_need need);
void rf_workspace_fini(rf_vit *vit);

struct rf_vit {
    rf_backend *be;
    rf_vit_config config;
    const rf_arch *arch;
    rf_vit_weights weights;
    rf_vit_workspace ws;
    char **class_names; /* [n_classes], entries may be NULL; or NULL */
};

/* ---- forward.c, block.c --------------------------------------------------------------------- */

/* One forward pass. */
typedef struct rf_pass {
    rf_vit *vit;
    rf_stream *s;
    const rf_hook *hooks;
    int64_t n_hooks;
    int64_t last_order; /* the deepest hook's; INT64_MAX: run all */
    bool is_done;       /* it has fired */
    int64_t n_images;
} rf_pass;

/* The buffer as rows of all tokens, [B * T, d]. */
rf_view rf_pass_tokens(const rf_pass *p, rf_buf buf);

bool rf_pass_has_hook(const rf_pass *p, rf_site site, int64_t layer);
/* Call the hooks of this point on `data`; sets is_done behind the deepest one. */
rf_status rf_pass_fire(rf_pass *p, rf_site site, int64_t layer, float *data);
/* A step that fires hooks: leave (status OK, label `fail`) when nothing deeper is asked for. */
#define RF_PASS_STEP(p, call)                                                                      \
    do {                                                                                           \
        RF_TRY(call);                                                                              \
        if ((p)->is_done) {                                                                        \
            goto fail;                                                                             \
        }                                                                                          \
    } while (0)

/* y [n, d] = layer norm of x, with its two hooks: at `scale_site` and the next site. */
rf_status rf_pass_layer_norm(rf_pass *p, const rf_linear *ln, const rf_view *x, const rf_view *y,
                             rf_site scale_site, int64_t layer);
/* c [n, out] = act(a . w + b). */
rf_status rf_pass_linear(rf_pass *p, const rf_linear *w, const rf_view *a, const rf_view *c,
                         rf_act act);
rf_status rf_pass_block(rf_pass *p, int64_t layer);

#endif
