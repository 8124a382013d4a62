/* Private to vit: from a model's folder to its config and weights. The architecture table, named
 * architectures, a config in the making, a user's row, and what of the files goes where. */
#ifndef REFRACT_VIT_CONFIG_IMPL_H
#define REFRACT_VIT_CONFIG_IMPL_H

#include "vit_impl.h"

/* ---- arch.c: the architecture table --------------------------------------------------------- */

/* Parts of a model that have weights of their own, and what rows of the table call them. Those from
 * LN1 on exist once a layer. */
#define RF_PART_LIST(X)                                                                            \
    X(PATCH, "patch")                                                                              \
    X(TOKEN, "token") /* text: token embeddings */                                                 \
    X(CLS, "cls")                                                                                  \
    X(DISTILLED, "distilled")                                                                      \
    X(REGISTERS, "registers")                                                                      \
    X(POSITION, "position")                                                                        \
    X(RELATIVE_SHARED, "relative_shared") /* one table of relative position biases for all */      \
    X(LN_PRE, "ln_pre")                                                                            \
    X(LN_FINAL, "ln_final")                                                                        \
    X(PROJECTION, "projection")                                                                    \
    X(HEAD, "head")                                                                                \
    X(HEAD_DISTILLED, "head_distilled")                                                            \
    X(POOL_PROBE, "pool_probe") /* and to POOL_FC2: RF_POOL_ATTENTION */                           \
    X(POOL_LN_Q, "pool_ln_q")                                                                      \
    X(POOL_LN_K, "pool_ln_k")                                                                      \
    X(POOL_QKV, "pool_qkv")                                                                        \
    X(POOL_KV, "pool_kv")                                                                          \
    X(POOL_Q, "pool_q")                                                                            \
    X(POOL_K, "pool_k")                                                                            \
    X(POOL_V, "pool_v")                                                                            \
    X(POOL_O, "pool_o")                                                                            \
    X(POOL_LN, "pool_ln")                                                                          \
    X(POOL_FC1, "pool_fc1")                                                                        \
    X(POOL_FC2, "pool_fc2")                                                                        \
    X(LN1, "ln1")                                                                                  \
    X(QKV, "qkv") /* rows of q, k and v in one matrix */                                           \
    X(Q, "q")                                                                                      \
    X(K, "k")                                                                                      \
    X(V, "v")                                                                                      \
    X(Q_BIAS, "q_bias") /* where it is not called as its matrix is; and the next two */            \
    X(K_BIAS, "k_bias")                                                                            \
    X(V_BIAS, "v_bias")                                                                            \
    X(ATTN_LN, "attn_ln")                                                                          \
    X(RELATIVE, "relative") /* a layer's own table of relative position biases */                  \
    X(O, "o")                                                                                      \
    X(SCALE1, "scale1")                                                                            \
    X(LN2, "ln2")                                                                                  \
    X(GATE_FC1, "gate_fc1") /* rows of gate and fc1 in one matrix */                               \
    X(GATE, "gate")                                                                                \
    X(FC1, "fc1")                                                                                  \
    X(MLP_LN, "mlp_ln")                                                                            \
    X(FC2, "fc2")                                                                                  \
    X(SCALE2, "scale2")

typedef enum rf_part {
#define RF_PART_ENUM(name, word) RF_PART_##name,
    RF_PART_LIST(RF_PART_ENUM)
#undef RF_PART_ENUM
        RF_N_PARTS
} rf_part;

enum { RF_MAX_SPELLINGS = 4, RF_MAX_WORDS = 6, RF_MAX_KEYS = 64 };

typedef enum rf_presence { RF_ABSENT, RF_OPTIONAL, RF_REQUIRED } rf_presence;
typedef enum rf_positions {
    RF_POSITIONS_NONE,
    RF_POSITIONS_STORED,
    RF_POSITIONS_SINUSOID /* VideoMAE: computed, of no file */
} rf_positions;
typedef enum rf_prefix_positions {
    RF_PREFIX_POSITIONS_ALL, /* every prefix token has a row of its own */
    RF_PREFIX_POSITIONS_CLS, /* CLS and distilled have, registers have not */
    RF_PREFIX_POSITIONS_NONE
} rf_prefix_positions;
typedef enum rf_mlp_rule { RF_MLP_PLAIN, RF_MLP_TWO_THIRDS } rf_mlp_rule;
typedef enum rf_patch_order { RF_PATCH_CTYX, RF_PATCH_YXC } rf_patch_order;
typedef enum rf_interpolation {
    RF_INTERPOLATE_NOT,
    RF_INTERPOLATE_BICUBIC,
    RF_INTERPOLATE_BICUBIC_ANTIALIAS,
    RF_INTERPOLATE_BILINEAR_ANTIALIAS
} rf_interpolation;

/* A config in the making. Sizes of 0 are taken from the weights' shapes. */
typedef struct rf_draft {
    rf_vit_config config;
    double eps, eps_final, mlp_ratio, pool_mlp_ratio;
    int64_t head_width, image_size, n_context, n_native_patches;
    bool patch_bias, q_bias, k_bias, v_bias, o_bias, mlp_bias, projection_bias, head_bias;
    bool mean_pooling, fc_norm, fc_norm_given, attentional_pool;
    bool relative, relative_shared, absolute_positions, embed_prefix, is_causal, quick_gelu;
    rf_presence final_norm, projection, head;
    rf_positions positions;
    rf_prefix_positions prefix_positions;
    rf_mlp_rule mlp_rule;
    rf_patch_order patch_order;
    rf_interpolation interpolation;
} rf_draft;

/* What is done with the value of a key of config.json. */
typedef enum rf_key_how {
    RF_KEY_VALUE,
    RF_KEY_NOT,     /* the switch is its opposite */
    RF_KEY_PRESENT, /* the switch is on where the key has a value other than null */
    RF_KEY_REFUSED, /* only absent, null, false or 0 will do; `field` says what it means */
    RF_KEY_NEEDED   /* only absent or true will do; `field` says what it means */
} rf_key_how;

typedef struct rf_key {
    const char *field; /* of the settings table of drafts; NULL ends a list */
    const char *key;   /* dotted, in the tower's part of the config; "/..." in the whole */
    rf_key_how how;
} rf_key;

typedef struct rf_vit_files rf_vit_files;

/* A family: one row. A tensor's name is prefix + spelling + ".weight" or ".bias", where spellings
 * of parts that are no linear map and no norm are whole. In a spelling {l} is the layer; a leading
 * '/' leaves the prefix out; a trailing '_' takes "weight" and "bias" without the dot; a trailing
 * ":in_out" says that the tensor of that very name is the matrix, stored [in, out]. Later keys
 * overrule earlier ones. */
typedef struct rf_arch {
    const char *family;
    const char *library;
    rf_vit_tower tower;
    const char *model_types[RF_MAX_WORDS];
    const char *config_roots[RF_MAX_WORDS]; /* where a whole model's config keeps the tower's */
    const char *prefixes[RF_MAX_WORDS];
    const char *settings; /* of drafts, as "key: value, ...": the family's switches, and what the
                             library takes where the config lacks a key */
    const rf_key *keys, *more_keys;
    const char *names[RF_N_PARTS][RF_MAX_SPELLINGS]; /* no first spelling: the family lacks it */
    rf_status (*resolve)(rf_vit_files *files);       /* switches that follow from others; or NULL */
} rf_arch;

/* The row of `model_type`; UNSUPPORTED lists the families. */
rf_status rf_arch_find(const char *model_type, rf_vit_tower tower, const char *where,
                       const rf_arch **out);
/* The row called `family`, or NULL. */
const rf_arch *rf_arch_by_family(const char *family);
int64_t rf_arch_count(void);
const rf_arch *rf_arch_at(int64_t idx);
/* The part that rows call `word`, or RF_N_PARTS. */
rf_part rf_part_by_name(const char *word);
const char *rf_part_name(rf_part part);

/* The tables of one library: arch_transformers.c, arch_video.c, arch_text.c, arch_open_clip.c,
 * arch_timm.c. */
typedef struct rf_arch_list {
    const rf_arch *rows;
    int64_t n;
} rf_arch_list;
extern const rf_arch_list rf_archs_transformers, rf_archs_video, rf_archs_text, rf_archs_open_clip,
    rf_archs_timm;

/* ---- named.c: architectures by name ---------------------------------------------------------- */

/* Sizes and switches without files. `like` is another name, or a row's family. */
typedef struct rf_named_arch {
    const char *name, *like, *settings;
} rf_named_arch;
typedef struct rf_named_list {
    const rf_named_arch *rows;
    int64_t n;
} rf_named_list;
extern const rf_named_list rf_named_hub, rf_named_timm, rf_named_open_clip;

const rf_named_arch *rf_named_find(const char *name);
/* The row that `name` is like, and its settings over `draft`, from the row's outwards.
 * UNSUPPORTED names the nearest. */
rf_status rf_named_apply(const char *name, rf_draft *draft, const rf_arch **row);

/* ---- config_draft.c: the settings of a draft --------------------------------------------------
 */

extern const rf_settings_table rf_draft_table;
const rf_setting *rf_draft_field(const char *key); /* or NULL */
/* What stands for the same as `key`, which was just set, no longer counts (but what is `given`
 * beside it, [n_rows] or NULL). */
void rf_draft_forget_rivals(rf_draft *draft, const char *key, const bool *given);
/* Read "key: value, ..." over `draft`. `what` names the text in messages. */
rf_status rf_draft_set(rf_draft *draft, const char *settings, const char *what);
/* Read a map of settings (a user's) over `draft`. */
rf_status rf_draft_set_yaml(rf_draft *draft, const rf_yaml *map, const char *path);
/* config_json.c: read `keys` from `tower`, a part of `root` (or NULL). */
rf_status rf_draft_read_json(rf_draft *draft, const rf_key *keys, const rf_json *root,
                             const rf_json *tower);

/* ---- config.c, config_finish.c -----------------------------------------------------------------
 */

/* A model's folder, understood. */
struct rf_vit_files {
    const rf_arch *arch;
    rf_arch own_arch; /* where arch is a changed copy of a row */
    rf_key own_keys[RF_MAX_KEYS];
    rf_yaml *row;     /* the user's, which own_arch borrows from; or NULL */
    const char *like; /* named architecture, or NULL: arch alone */
    rf_vit_opts opts;
    rf_json *json;
    const rf_json *tower;      /* the tower's part of it; NULL: it has none */
    rf_tensor_file *weights;   /* NULL: not there, and not needed */
    char prefix[RF_NAME_LEN];  /* of the tensors' names in this file */
    char wrapper[RF_NAME_LEN]; /* the part of it that all tensors have */
    rf_draft draft;
    rf_vit_config config;
    int64_t native_grid[3]; /* that the stored positions are for */
    char folder[RF_PATH_LEN];
};

typedef enum rf_weights_need { RF_WEIGHTS_IF_THERE, RF_WEIGHTS_NEEDED } rf_weights_need;
rf_status rf_vit_files_open(const char *folder, const rf_vit_opts *opts, rf_weights_need need,
                            rf_vit_files *out);
void rf_vit_files_close(rf_vit_files *files);
/* The part of it that needs no disk: files->json (of open_clip_config.json where `is_open_clip`) to
 * a draft. */
rf_status rf_vit_files_parse(rf_vit_files *files, bool is_open_clip);
/* Its end: the switches that follow from others, and the user's settings. */
rf_status rf_vit_files_settle(rf_vit_files *files);
/* Sizes that the draft lacks, out of the weights' shapes; optional parts; checks; files->config. */
rf_status rf_vit_files_finish(rf_vit_files *files);
/* Open the weights of files->folder and find their prefix. */
rf_status rf_vit_files_open_weights(rf_vit_files *files, bool is_open_clip, rf_weights_need need);

/* config_families.c: switches that follow from others. */
rf_status rf_resolve_clip_text(rf_vit_files *files);
rf_status rf_resolve_siglip(rf_vit_files *files);
rf_status rf_resolve_dinov2(rf_vit_files *files);
rf_status rf_resolve_mean_pooling(rf_vit_files *files);
rf_status rf_resolve_timm(rf_vit_files *files);
rf_status rf_resolve_open_clip(rf_vit_files *files);
rf_status rf_resolve_open_clip_text(rf_vit_files *files);
/* OpenCLIP whose vision tower is timm's: the row and sizes of that architecture. */
rf_status rf_open_clip_trunk(rf_vit_files *files);

/* ---- row.c ------------------------------------------------------------------------------------
 */

/* Load files->opts.row into files->own_arch. */
rf_status rf_row_load(rf_vit_files *files);

/* ---- weights.c, weights_file.c, weights_plan.c, weights_check.c, interpolate.c -----------------
 */

/* The tensor of `part` with `suffix` (".weight", ".bias"; of parts that are neither linear map nor
 * norm ""), or NULL. `layer` is -1 for parts outside the blocks. `name` gets its name, or the first
 * one that would have done; `is_in_out` (may be NULL) whether it is stored so. */
const rf_named_tensor *rf_weights_find(const rf_vit_files *files, rf_part part, const char *suffix,
                                       int64_t layer, char name[RF_NAME_LEN], bool *is_in_out);
/* Find files->prefix by the part that every model has. */
rf_status rf_weights_find_prefix(rf_vit_files *files);
rf_status rf_weights_load(rf_backend *be, rf_stream *s, const rf_vit_files *files,
                          rf_vit_weights *out);
/* How a tensor, or some of its rows, becomes an array of the arena. */
typedef enum rf_layout {
    RF_LAYOUT_AS_STORED,
    RF_LAYOUT_TRANSPOSED,    /* [out, in] to [in, out] */
    RF_LAYOUT_PATCH_YXC,     /* the same, and the inputs from (y, x, c) to (c, y, x) */
    RF_LAYOUT_POSITIONS,     /* resampled, with rows of zeros for tokens that have none */
    RF_LAYOUT_RELATIVE,      /* a table of relative biases [n, H] to [H, T, T] */
    RF_LAYOUT_RELATIVE_MORE, /* the same, added to what is there */
    RF_LAYOUT_SINUSOID       /* no tensor: computed positions */
} rf_layout;

typedef struct rf_weights_item {
    const rf_named_tensor *tensor;
    rf_layout layout;
    int64_t first_row, n_rows, n_cols; /* of the tensor, all dimensions but the first in one */
    int64_t offset;                    /* floats into the arena */
    rf_view shape;                     /* of the result; its data is not set */
    rf_view *view;                     /* where the result's view goes, or NULL */
    char name[RF_NAME_LEN];            /* of the param */
} rf_weights_item;

typedef struct rf_weights_plan {
    const rf_vit_files *files;
    rf_weights_item *items;
    int64_t n_items, capacity, n_floats;
} rf_weights_plan;

/* weights_plan.c: what is to be loaded; checked against the config. */
rf_status rf_weights_plan_all(rf_weights_plan *p, rf_vit_weights *w);
/* A tensor of a block that no part took is refused: a layer or a switch too many would change the
 * numbers. */
rf_status rf_weights_check_taken(const rf_weights_plan *p);
/* The tensors that the config means are there, in the shapes that it means. Nothing is read. */
rf_status rf_weights_check(const rf_vit_files *files);

/* The ways of torch's interpolate(align_corners = False) over in [old_h * old_w, d] to out
 * [new_h * new_w, d]. Bicubic is a = -0.75 with borders repeated, or, antialiased, a = -0.5 with
 * the kernel as wide as the step. Host. */
typedef struct rf_grid {
    int64_t height, width;
} rf_grid;
rf_status rf_interpolate_positions(rf_interpolation how, const float *in, rf_grid from, int64_t d,
                                   float *out, rf_grid to);

#endif
