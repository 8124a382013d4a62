/* Private to vit: the architecture table, the weights, the buffers, and one forward pass. */
#ifndef REFRACT_VIT_IMPL_H
#define REFRACT_VIT_IMPL_H

#include "refract/vit.h"

/* ---- arch.c: the architecture table --------------------------------------------------------- */

/* Parts of a model that have weights of their own. Those from RF_PART_LN1 on exist once a layer. */
typedef enum rf_part {
    RF_PART_PATCH,
    RF_PART_TOKEN, /* text: token embeddings */
    RF_PART_CLS,
    RF_PART_DISTILLED,
    RF_PART_REGISTERS,
    RF_PART_POSITION,
    RF_PART_LN_PRE,
    RF_PART_LN_FINAL,
    RF_PART_PROJECTION,
    RF_PART_HEAD,
    RF_PART_HEAD_DISTILLED,
    RF_PART_POOL_PROBE, /* and to POOL_FC2: RF_POOL_ATTENTION */
    RF_PART_POOL_LN_Q,
    RF_PART_POOL_LN_K,
    RF_PART_POOL_QKV,
    RF_PART_POOL_KV,
    RF_PART_POOL_Q,
    RF_PART_POOL_K,
    RF_PART_POOL_V,
    RF_PART_POOL_O,
    RF_PART_POOL_LN,
    RF_PART_POOL_FC1,
    RF_PART_POOL_FC2,
    RF_PART_LN1,
    RF_PART_QKV, /* rows of q, k and v in one matrix */
    RF_PART_Q,
    RF_PART_K,
    RF_PART_V,
    RF_PART_ATTN_LN,
    RF_PART_RELATIVE, /* table of relative position biases */
    RF_PART_O,
    RF_PART_SCALE1,
    RF_PART_LN2,
    RF_PART_GATE_FC1, /* rows of gate and fc1 in one matrix */
    RF_PART_GATE,
    RF_PART_FC1,
    RF_PART_MLP_LN,
    RF_PART_FC2,
    RF_PART_SCALE2,
    RF_N_PARTS
} rf_part;

enum { RF_MAX_SPELLINGS = 4, RF_MAX_WORDS = 4 };

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
 * `native_grid` is the grid that the stored positions are for. */
typedef struct rf_vit_files {
    const rf_arch *arch;
    rf_vit_opts opts;
    rf_json *json;
    rf_tensor_file *weights; /* NULL: not there, and not needed */
    rf_vit_config config;
    int64_t native_grid[3];
    bool has_qkv_bias;
    char folder[RF_PATH_LEN];
} rf_vit_files;

typedef enum rf_weights_need { RF_WEIGHTS_IF_THERE, RF_WEIGHTS_NEEDED } rf_weights_need;
rf_status rf_vit_files_open(const char *folder, const rf_vit_opts *opts, rf_weights_need need,
                            rf_vit_files *out);
void rf_vit_files_close(rf_vit_files *files);

/* ---- weights.c ------------------------------------------------------------------------------ */

/* A linear map as the forward pass uses it: weight [in, out] (transposed from the files'), bias.
 * Absent parts have data = NULL. */
typedef struct rf_linear {
    rf_view weight, bias;
} rf_linear;

typedef struct rf_block_weights {
    rf_linear ln1, q, k, v, attn_ln, o, ln2, gate, fc1, mlp_ln,
        fc2;                /* norms: weight [d], bias [d] */
    rf_view score_bias;     /* [H, T, T] of RF_SCORES_RELATIVE, else absent */
    rf_view scale1, scale2; /* LayerScale, or absent */
} rf_block_weights;

/* RF_POOL_ATTENTION: z = attention(q = probe, k = v = tokens behind ln_final), then o, then, where
 * there is an MLP, x + mlp(ln(x)). ln_q and ln_k are CoCa's, of probe and tokens. */
typedef struct rf_pool_weights {
    rf_view probe; /* [n_queries, width] */
    rf_linear ln_q, ln_k, q, k, v, o, ln, fc1, fc2;
} rf_pool_weights;

/* One array of the arena as it is stored: [in, out] for linear maps. */
typedef struct rf_param {
    char name[RF_NAME_LEN]; /* as rf_vit_weight_find takes it */
    rf_view view;
} rf_param;

typedef struct rf_vit_weights {
    float *arena; /* device; everything below lies in it but what is derived */
    int64_t n_floats;
    rf_param *params; /* [n_params], in the arena's order */
    int64_t n_params;
    rf_linear patch;      /* weight [C * t * P * P, d] */
    rf_view token;        /* text: [V, d] */
    rf_view prefix_token; /* [n_prefix, d]: CLS, distilled, registers; or absent */
    rf_view
        position; /* [T, d], interpolated where needed, zero rows for tokens without; or absent */
    rf_linear ln_pre, ln_final, projection, head, head_distilled;
    rf_pool_weights pool;
    rf_block_weights *blocks; /* [n_layers] */
    uint64_t hash;

    /* Derived from the above by rf_weights_derive: */
    rf_view prefix;             /* [n_prefix, d]: prefix tokens with their positions */
    rf_view rope_cos, rope_sin; /* [T, dh]; prefix rows are 1 and 0; or absent */
    rf_view causal;             /* [1, T, T]: 0 and -inf; or absent */
    float *derived;             /* device memory of these */
    uint16_t *half;             /* device, [n_floats]: linear maps of the arena in bf16; or NULL */
} rf_vit_weights;

/* The tensor of `part` with `suffix` ("", ".weight", ".bias"), or NULL. `layer` is -1 for parts
 * outside the blocks. `name` gets its name, or the first one that would have done. */
const rf_named_tensor *rf_weights_find(const rf_vit_files *files, rf_part part, const char *suffix,
                                       int64_t layer, char name[RF_NAME_LEN]);
rf_status rf_weights_load(rf_backend *be, rf_stream *s, const rf_vit_files *files,
                          rf_vit_weights *out);
/* Make what is derived from the arena; again after weights were written. */
rf_status rf_weights_derive(rf_backend *be, rf_stream *s, const rf_vit_config *config,
                            rf_dtype products, rf_vit_weights *w);
void rf_weights_fini(rf_backend *be, rf_vit_weights *w);

/* out [new_side^2, d] = bicubic resampling of in [old_side^2, d], as torch's interpolate(mode =
 * "bicubic", align_corners = False, antialias = False): a = -0.75, borders repeated. Host. */
void rf_interpolate_positions(const float *in, int64_t old_side, int64_t d, float *out,
                              int64_t new_side);

/* ---- rotary.c ------------------------------------------------------------------------------- */

/* cos and sin [T, dh] of a model with rotary positions; host. */
void rf_rotary_tables(const rf_vit_config *config, float *cos, float *sin);

/* ---- hooks.c -------------------------------------------------------------------------------- */

/* Points in firing order (where norms stand before the branches): before the blocks, inside one,
 * behind them. */
typedef enum rf_site {
    RF_SITE_EMBED,
    RF_SITE_POS_EMBED,
    RF_SITE_FULL_EMBED,
    RF_SITE_LN_PRE_SCALE,
    RF_SITE_LN_PRE_NORMALIZED,
    RF_SITE_LN_PRE,
    RF_SITE_RESID_PRE,
    RF_SITE_ATTN_IN,
    RF_SITE_Q_INPUT,
    RF_SITE_K_INPUT,
    RF_SITE_V_INPUT,
    RF_SITE_LN1_SCALE,
    RF_SITE_LN1_NORMALIZED,
    RF_SITE_Q,
    RF_SITE_K,
    RF_SITE_V,
    RF_SITE_ROT_Q,
    RF_SITE_ROT_K,
    RF_SITE_ATTN_SCORES,
    RF_SITE_PATTERN,
    RF_SITE_Z,
    RF_SITE_ATTN_LN_SCALE,
    RF_SITE_ATTN_LN_NORMALIZED,
    RF_SITE_RESULT,
    RF_SITE_ATTN_OUT,
    RF_SITE_RESID_MID,
    RF_SITE_MLP_IN,
    RF_SITE_LN2_SCALE,
    RF_SITE_LN2_NORMALIZED,
    RF_SITE_MLP_PRE,
    RF_SITE_MLP_PRE_LINEAR,
    RF_SITE_MLP_POST,
    RF_SITE_MLP_LN_SCALE,
    RF_SITE_MLP_LN_NORMALIZED,
    RF_SITE_MLP_OUT,
    RF_SITE_RESID_POST,
    RF_SITE_LN_FINAL_SCALE,
    RF_SITE_LN_FINAL_NORMALIZED,
    RF_SITE_LN_FINAL,
    RF_SITE_POOLED,
    RF_SITE_POST_HEAD,
    RF_N_SITES
} rf_site;

/* Points of a pass are ordered by this number. */
int64_t rf_hook_order(const rf_vit_config *config, const rf_hook_point *point);
/* The point of `site` in `layer` (0 outside the blocks). False where the model lacks it. */
bool rf_hook_point_at(const rf_vit_config *config, rf_site site, int64_t layer, rf_hook_point *out);
/* The shape of the point's view for `n_images`. */
rf_view rf_hook_view(const rf_vit_config *config, const rf_hook_point *point, int64_t n_images,
                     float *data);

/* ---- cache.c -------------------------------------------------------------------------------- */

typedef struct rf_cache_entry {
    rf_hook_point point;
    float *data; /* device */
} rf_cache_entry;

struct rf_cache {
    rf_vit *vit;
    rf_cache_entry *entries; /* [n_entries], in firing order */
    int64_t n_entries;
    bool is_full;     /* made for every point that is not on request */
    int64_t n_images; /* of the last pass */
    int64_t capacity; /* pictures that fit */
    bool is_complete; /* the last pass began at the input and ran to the end */
    unsigned processing;
};

/* Room for `n_images`; forgets what is there. */
rf_status rf_cache_begin(rf_cache *cache, rf_stream *s, int64_t n_images);
/* The entry of a point, or NULL where `cache` is NULL or does not keep it. */
const rf_cache_entry *rf_cache_entry_at(const rf_cache *cache, rf_site site, int64_t layer);
/* Data of a point that must be there (NOT_FOUND names it). */
rf_status rf_cache_need(const rf_cache *cache, rf_site site, int64_t layer, rf_view *out);

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
    RF_BUF_GATE,   /* [B * T, m] of gated MLPs */
    RF_BUF_SCALE,  /* [B * T] */
    RF_BUF_POOLED, /* [B, d] */
    RF_BUF_POOL,   /* what an attention pool works in */
    RF_BUF_HEAD_IN,
    RF_BUF_EMBEDDING,
    RF_BUF_LOGITS,
    RF_BUF_PATTERN, /* [B, H, T, T], and the next: made when a hook first asks for it */
    RF_BUF_SPLIT,   /* [B * T, H * d] */
    RF_N_BUFS
} rf_buf;

/* Buffers for micro-batches of up to capacity[i] pictures. Device memory. */
typedef struct rf_vit_workspace {
    float *buf[RF_N_BUFS];
    int64_t capacity[RF_N_BUFS];
} rf_vit_workspace;

/* `on_request`: bits 1 << rf_buf of the buffers from RF_BUF_PATTERN on that are needed. */
rf_status rf_workspace_reserve(rf_vit *vit, rf_stream *s, int64_t n_images, unsigned on_request);
void rf_workspace_fini(rf_vit *vit);

struct rf_vit {
    rf_backend *be;
    rf_vit_config config;
    rf_dtype products;   /* RF_F32 or RF_BF16 */
    unsigned processing; /* what the weights have seen */
    rf_vit_weights weights;
    rf_vit_workspace ws;
    char **class_names; /* [n_classes], entries may be NULL; or NULL */
};

/* ---- forward.c, block.c, end.c --------------------------------------------------------------- */

/* One forward pass. */
typedef struct rf_pass {
    rf_vit *vit;
    rf_stream *s;
    const rf_hook *hooks;
    int64_t n_hooks;
    const rf_cache *cache; /* or NULL */
    int64_t last_order;    /* the deepest point that is asked for; INT64_MAX: run all */
    bool is_done;          /* it has fired */
    int64_t n_images;
} rf_pass;

/* The buffer as rows of all tokens, [B * T, d]. */
rf_view rf_pass_tokens(const rf_pass *p, rf_buf buf);

/* A point is hooked or cached: its value must exist by itself. */
bool rf_pass_has_hook(const rf_pass *p, rf_site site, int64_t layer);
/* Call the hooks of this point on `data`, then keep it where the cache asks; sets is_done behind
 * the deepest one. */
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
/* c [n, out] = act(a . w + b), in bf16 where the model multiplies so. */
rf_status rf_pass_linear(rf_pass *p, const rf_linear *w, const rf_view *a, const rf_view *c,
                         rf_act act);
rf_status rf_pass_block(rf_pass *p, int64_t layer);
/* The end: final norm, pool, projection and head. */
rf_status rf_pass_end(rf_pass *p, rf_vit_output *out);

/* ---- process.c ------------------------------------------------------------------------------ */

/* Process the weights of an open model; sets vit->processing to what was asked for. */
rf_status rf_vit_process_weights(rf_vit *vit, rf_stream *s, unsigned processing);

#endif
