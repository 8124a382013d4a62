/* vit: HookedViT. Vision transformers (and CLIP's text towers) out of their files, run with hooks
 * that read or replace activations at named points; caches of such passes and what can be computed
 * from them; gradients; weights by name. */
#ifndef REFRACT_VIT_H
#define REFRACT_VIT_H

#include "refract/base.h"
#include "refract/io.h"
#include "refract/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rf_vit rf_vit;

/* ---- what a model is ---------------------------------------------------------------------------
 */

typedef enum rf_vit_input {
    RF_VIT_PICTURES, /* [B, C, H, W] fp32 */
    RF_VIT_CLIPS,    /* [B, frames, C, H, W] fp32 */
    RF_VIT_TEXT,     /* [B, T] I64 token ids */
} rf_vit_input;

/* Where a block's norms stand: x + f(norm(x)), or x + norm(f(x)) (EVA-02 enormous). */
typedef enum rf_norm_place { RF_NORM_BEFORE, RF_NORM_BEHIND } rf_norm_place;

/* Rotary positions of q and k; prefix tokens are not rotated. docs/models.md has the formulas. */
typedef enum rf_rope {
    RF_ROPE_NONE,
    RF_ROPE_GRID,    /* EVA-02, PE: pixel grid, scaled to rope_ref_side, adjacent pairs */
    RF_ROPE_CENTRES, /* DINOv3: patch centres in [-1, 1], halves */
    RF_ROPE_AXES, /* V-JEPA 2: (t, y, x) turn a third of a head each, adjacent pairs, tiled angles
                   */
} rf_rope;

/* The model's own pooled output, hook_pooled. */
typedef enum rf_vit_pool {
    RF_POOL_CLS,
    RF_POOL_PATCH_MEAN, /* without prefix tokens */
    RF_POOL_TOKEN_MEAN, /* of all tokens */
    RF_POOL_ATTENTION,  /* a learned query (SigLIP, PE, CoCa) */
    RF_POOL_END,        /* text: the token with the largest id (CLIP), or the first eos_id */
    RF_POOL_LAST,       /* text: the last token */
} rf_vit_pool;

/* What is added to the attention scores. */
typedef enum rf_score_bias {
    RF_SCORES_PLAIN,
    RF_SCORES_CAUSAL,   /* text: -inf behind the query */
    RF_SCORES_RELATIVE, /* BEiT: a table over relative positions */
} rf_score_bias;

/* What a classification head reads. */
typedef enum rf_head_input {
    RF_HEAD_POOLED,                /* [d] */
    RF_HEAD_POOLED_AND_PATCH_MEAN, /* [2 d]: pooled, then the mean of the patch tokens (DINOv2) */
    RF_HEAD_CLS_AND_DISTILLED,     /* two heads on the first two tokens, averaged (DeiT) */
} rf_head_input;

/* Every number and switch comes from the model's files (or from the row that the user gives). */
typedef struct rf_vit_config {
    char family[32];        /* the row of the architecture table: "clip", "vit", "dinov2" */
    char name[RF_NAME_LEN]; /* what the files call it, else the folder's name */
    rf_vit_input input;
    int64_t d_model, n_layers, n_heads, d_head, d_mlp;
    int64_t image_height, image_width, patch_size, n_channels;
    int64_t n_frames, tubelet; /* of a clip; 1 and 1 for pictures */
    int64_t grid[3];           /* patches along t, y, x; their product is n_patches */
    int64_t n_patches, n_prefix;
    int64_t n_registers;
    int64_t n_tokens;  /* n_prefix + n_patches; text: the context length */
    int64_t d_pool;    /* width of hook_pooled: d_model but for CoCa */
    int64_t d_out;     /* width of the final embedding: projection, or d_pool */
    int64_t n_classes; /* of a classification head, or 0 */
    int64_t n_vocab;   /* text */
    int64_t eos_id;    /* text, RF_POOL_END: -1 for the largest id */
    rf_act act;
    float eps, eps_final;        /* of the norms; of ln_final (VideoMAE's is another) */
    bool has_cls, has_distilled; /* prefix tokens: CLS, distilled, then registers */
    bool has_position;           /* added ones */
    bool has_ln_pre, has_ln_final;
    bool norm_is_behind_pool; /* ln_final normalises the pooled vector, not the tokens */
    rf_norm_place norm_place;
    bool has_attn_norm; /* between z and W_O (EVA-02) */
    bool has_mlp_norm;  /* between the activation and W_out (EVA-02) */
    bool is_gated;      /* MLP: act(x W_gate) * (x W_in) */
    bool has_layer_scale, has_projection;
    rf_score_bias score_bias;
    rf_rope rope;
    double rope_base, rope_offset;
    int64_t rope_ref_side; /* grid side that positions are scaled to; 0: the model's own */
    bool rope_is_xy;       /* RF_ROPE_GRID: x before y */
    rf_vit_pool pool;
    int64_t n_pool_queries, n_pool_heads, d_pool_mlp; /* RF_POOL_ATTENTION; d_pool_mlp 0: no MLP */
    rf_head_input head_input;
} rf_vit_config;

/* Weight processing, in this order. Each keeps the model's outputs; where a family has no room for
 * a part (a norm behind a branch, a norm in front of W_O, rotary QK) that part is left as it is,
 * and rf_vit_processing says what was done. */
typedef enum rf_vit_process {
    RF_FOLD_LN = 1,            /* norms' weight and bias into the linear map that reads them */
    RF_CENTRE_WRITING = 2,     /* the mean over d out of what is written to the stream */
    RF_FOLD_VALUE_BIASES = 4,  /* b_V into b_O */
    RF_REFACTOR_ATTENTION = 8, /* W_V W_O = U S V^T as (U S) (V^T), b_V into b_O; W_Q W_K^T with
                                  their biases as (U sqrt S) (V sqrt S)^T */
} rf_vit_process;

typedef enum rf_vit_tower { RF_TOWER_VISION, RF_TOWER_TEXT } rf_vit_tower;

/* How to open a model; all zeros is the plain way. */
typedef struct rf_vit_opts {
    rf_vit_tower tower;
    int64_t image_height, image_width; /* 0: the files'; else positions are interpolated where the
                                          family can */
    unsigned processing;               /* rf_vit_process, or-ed */
    rf_products products;              /* of linear maps, forward */
    const char *row;                   /* YAML file with a row of the table; NULL: built-in rows */
} rf_vit_opts;

/* Load a model's folder: Hugging Face (config.json), OpenCLIP (open_clip_config.json) or timm
 * (config.json with `architecture`); weights as safetensors (one file or shards) or PyTorch
 * archives. `opts` may be NULL. Weights go to `be`. Errors: NOT_FOUND, FORMAT (a config that does
 * not fit its weights names the tensor, its shape and the expected one), UNSUPPORTED (lists the
 * families). */
rf_status rf_vit_open(rf_backend *be, const char *folder, const rf_vit_opts *opts, rf_vit **out);
void rf_vit_close(rf_vit *vit); /* NULL is fine */
const rf_vit_config *rf_vit_get_config(const rf_vit *vit);
/* The config without the weights' bytes (their shapes are read where they are there): for planning.
 */
rf_status rf_vit_read_config(const char *folder, const rf_vit_opts *opts, rf_vit_config *out);
/* Bytes of weights, and of activations for a micro-batch of `n_images`. */
int64_t rf_vit_weight_bytes(const rf_vit_config *config);
int64_t rf_vit_workspace_bytes(const rf_vit_config *config, int64_t n_images);
/* FLOP of one picture through the layers up to and including `last_layer` (-1: embeddings;
 * n_layers: all, with the end). */
double rf_vit_flop(const rf_vit_config *config, int64_t last_layer);
/* FNV-1a of the bytes of the weights in use, as stored: names a model in run records. */
uint64_t rf_vit_hash(const rf_vit *vit);
/* Which processing the weights have seen: of what was asked for, the parts that were done. */
unsigned rf_vit_processing(const rf_vit *vit);
/* "none", or names joined by '+': "fold_ln+center_writing_weights". */
const char *rf_vit_processing_name(unsigned processing, char out[128]);
/* Label of class `idx` by config.json's id2label, or NULL. */
const char *rf_vit_class_name(const rf_vit *vit, int64_t idx);

/* ---- registry: models by name ------------------------------------------------------------------
 */

typedef struct rf_model {
    const char *name;    /* as users write it: "openai/clip-vit-base-patch32",
                            "open-clip:laion/CLIP-ViT-B-32-laion2B-s34B-b79K" */
    const char *repo;    /* on the Hub; NULL: not there */
    const char *library; /* "transformers", "open_clip", "timm", "meta" */
    const char *arch;    /* named architecture: sizes and switches */
    const char *note;    /* what is not supported, and why; "" */
} rf_model;

int64_t rf_registry_count(void);
const rf_model *rf_registry_at(int64_t idx);
/* By name, or by repo where that is unique; NOT_FOUND names the nearest. */
rf_status rf_registry_find(const char *name, const rf_model **out);
/* The config of a named model without its files. */
rf_status rf_registry_config(const rf_model *model, rf_vit_config *out);
/* The same of a named architecture ("vit_base_patch16_clip_224", "ViT-L-14", "dinov2-small") or a
 * family. UNSUPPORTED names the nearest. */
rf_status rf_registry_arch_config(const char *arch, rf_vit_config *out);

/* ---- hook points -------------------------------------------------------------------------------
 */

/* Which axis of a hook point walks over what. */
typedef enum rf_hook_shape {
    RF_HOOK_TOKENS,     /* [B, T, width] */
    RF_HOOK_PATCHES,    /* [B, N, width]: hook_embed, before prefix tokens are added */
    RF_HOOK_HEADS,      /* [B, T, H, dh], width = H * dh */
    RF_HOOK_PATTERN,    /* [B, H, T, T] */
    RF_HOOK_HEAD_RESID, /* [B, T, H, d], width = H * d: points on request */
    RF_HOOK_POOLED,     /* [B, width]: behind the pool */
} rf_hook_shape;

typedef struct rf_hook_point {
    char name[RF_NAME_LEN];
    int site;      /* private number of the point inside a block */
    int64_t layer; /* -1 for points before the blocks, n_layers behind them */
    rf_hook_shape shape;
    int64_t width;      /* of one token's vector; 0 for patterns */
    bool is_on_request; /* exists when it is named in full; patterns and `all` leave it out */
} rf_hook_point;

/* TransformerLens names, in firing order: hook_embed, hook_pos_embed, hook_full_embed; with a norm
 * before the blocks ln_pre.hook_scale, ln_pre.hook_normalized, hook_ln_pre; in blocks.{l}.:
 * hook_resid_pre, (on request hook_attn_in, hook_q_input, hook_k_input, hook_v_input),
 * ln1.hook_scale/normalized, attn.hook_q/k/v, (rotary: attn.hook_rot_q/rot_k),
 * attn.hook_attn_scores/ pattern/z, (a norm before W_O: attn.ln.hook_scale/normalized), (on request
 * attn.hook_result), hook_attn_out, hook_resid_mid, (on request hook_mlp_in),
 * ln2.hook_scale/normalized, mlp.hook_pre, (gated: mlp.hook_pre_linear), mlp.hook_post,
 * (mlp.ln.hook_scale/normalized), hook_mlp_out, hook_resid_post; then
 * ln_final.hook_scale/normalized, hook_ln_final, hook_pooled, and hook_post_head_pre_normalize: the
 * embedding, or the logits of a model that only classifies. Where norms stand behind the branches,
 * ln1 fires behind attention and ln2 behind the MLP; where ln_final stands behind the pool, its
 * points are [B, width] and hook_pooled is behind them. hook_scale is sqrt(var + eps) [B, T, 1];
 * hook_normalized is after weight and bias; attn_out and mlp_out are what is added to the residual
 * stream, so after LayerScale, hook_result what a head adds before LayerScale, without b_O. Inputs
 * by heads (hook_attn_in, hook_q/k/v_input) give each head a norm of its own: the layer's ln1
 * points cannot be asked for in the same pass. Negative layers count from the end. Short forms:
 * "k6", "resid_pre6", "pattern-1", "scale4ln1", "pre5", and without a layer "scale" and
 * "normalized" (ln_final's). NOT_FOUND names the nearest valid one. */
rf_status rf_vit_hook_find(const rf_vit_config *config, const char *name, rf_hook_point *out);
/* All points in firing order: for --help and `info`. Caller frees with rf_free. */
rf_status rf_vit_hook_list(const rf_vit_config *config, rf_hook_point **out, int64_t *n);

/* Called in firing order. `act` is a contiguous fp32 view of the point's shape; whatever it holds
 * on return is what the model goes on with: reading leaves it alone, replacing writes into it (with
 * operations on `s`). Several hooks on one point are called in the order given. Each point fires
 * once a pass; reading changes no bit of what follows (points on request: up to rounding, as heads
 * are then computed one by one). */
typedef rf_status (*rf_hook_fn)(void *user, const rf_hook_point *point, const rf_view *act,
                                rf_stream *s);

typedef struct rf_hook {
    rf_hook_point point;
    rf_hook_fn fn;
    void *user;
} rf_hook;

/* ---- forward -----------------------------------------------------------------------------------
 */

/* What a forward pass gives beyond the hooks. All device memory of the model, valid until the next
 * pass; data = NULL where the pass stopped before or the model has none. */
typedef struct rf_vit_output {
    rf_view embedding; /* [B, d_out]: pooled, projected where the model projects, not normalised */
    rf_view logits;    /* [B, n_classes] */
    rf_view resid;     /* [B, T, d]: where RF_VIT_STOP_AT_LAYER stopped */
} rf_vit_output;

typedef enum rf_vit_stop {
    RF_VIT_RUN_ALL,
    RF_VIT_STOP_AFTER_HOOKS, /* behind the deepest point that is hooked or cached */
    RF_VIT_STOP_AT_LAYER,    /* before block `stop_layer`; hooks behind that are INVALID_ARG */
} rf_vit_stop;

typedef struct rf_cache rf_cache;

typedef struct rf_vit_run_args {
    rf_view input; /* as rf_vit_config.input says (device; B = 0 calls no hook) */
    rf_view resid; /* instead: the residual stream [B, T, d] (device; borrowed, left alone) before
                      block first_layer; hooks may then name points from there on. With RF_POOL_END
                      the token ids are needed too, for the pool */
    int64_t first_layer;
    const rf_hook *hooks;
    int64_t n_hooks;
    rf_cache *cache; /* gets what it asks for, after the hooks of each point; or NULL */
    rf_vit_stop stop;
    int64_t stop_layer; /* 0 .. n_layers; negative from the end */
} rf_vit_run_args;

/* One forward pass. `out` may be NULL. Errors of hooks pass through. A picture's values do not
 * depend on the others in the batch. Source: the models of transformers, timm and open_clip; equal
 * within 2e-5 (L2 per token, relative to the token's norm) at each point. */
rf_status rf_vit_run(rf_vit *vit, rf_stream *s, const rf_vit_run_args *args, rf_vit_output *out);

/* The common case of it. */
rf_status rf_vit_forward(rf_vit *vit, rf_stream *s, const rf_view *images, const rf_hook *hooks,
                         int64_t n_hooks, rf_vit_stop stop, rf_vit_output *out);

/* ---- cache: the activations of one pass --------------------------------------------------------
 */

/* A cache for points by `filters` [n_filters]: names, short forms, or patterns with * and ?
 * ("blocks.*.hook_resid_post"). n_filters 0: every point that is not on request, which is what
 * rf_vit_backward needs. NOT_FOUND where a filter names nothing. */
rf_status rf_cache_create(rf_vit *vit, const char *const *filters, int64_t n_filters,
                          rf_cache **out);
void rf_cache_destroy(rf_cache *cache); /* NULL is fine */
/* Pictures of the pass that filled it; 0 before. */
int64_t rf_cache_n_images(const rf_cache *cache);
int64_t rf_cache_n_points(const rf_cache *cache);
const rf_hook_point *rf_cache_point(const rf_cache *cache, int64_t idx); /* in firing order */
/* The activation by name (as rf_vit_hook_find takes it): device memory of the cache, valid until
 * the next pass into it. NOT_FOUND where it is not kept. */
rf_status rf_cache_get(const rf_cache *cache, const char *name, rf_view *out);
/* The same copied to `host`. */
rf_status rf_cache_read(const rf_cache *cache, rf_stream *s, const char *name, float *host);
/* Which weight processing the activations saw. */
unsigned rf_cache_processing(const rf_cache *cache);

/* Vectors of the residual stream, each a summand or a state: values [n, B, T, d] (device, owned).
 */
typedef struct rf_resid_stack {
    rf_backend *be;
    int64_t n;
    char (*labels)[RF_NAME_LEN]; /* [n] */
    rf_view values;
} rf_resid_stack;
void rf_resid_stack_fini(rf_resid_stack *stack);

typedef enum rf_decompose {
    RF_DECOMPOSE_BRANCHES, /* embeddings, then attn_out and mlp_out of each layer */
    RF_DECOMPOSE_ATTN,     /* embeddings, attention; the MLPs in one summand */
    RF_DECOMPOSE_MLP,      /* embeddings, MLPs; attention in one summand */
    RF_DECOMPOSE_HEADS,    /* embeddings, every head, attention's bias a layer, MLPs */
} rf_decompose;

/* `layer`: 0 .. n_layers or negative (from the end; n_layers is the stream behind the last block).
 * The functions name the cached points that they lack (NOT_FOUND). Device work on `s`. */

/* The stream before each block up to `layer` ("0_pre", "1_pre", ..., "final_post"), with the states
 * between attention and MLP ("0_mid") when `with_mid`. */
rf_status rf_cache_accumulated_resid(const rf_cache *cache, rf_stream *s, int64_t layer,
                                     bool with_mid, rf_resid_stack *out);
/* Summands of the stream before block `layer`: embed, cls (and other prefix tokens), pos_embed,
 * seen through ln_pre where there is one (its bias is a summand), then the branches. They add up to
 * the stream, at every token, up to rounding, as long as no hook replaced what they are made of:
 * the stream itself, or for heads what stands behind z. (With bf16 products heads are off by the
 * rounding of z and W_O.) */
rf_status rf_cache_decompose_resid(const rf_cache *cache, rf_stream *s, int64_t layer,
                                   rf_decompose mode, rf_resid_stack *out);
/* What each head of the layers before `layer` adds to the stream ("L0H0"), without b_O: through
 * LayerScale and the norms of its branch, which are linear once their scale is given. */
rf_status rf_cache_head_results(const rf_cache *cache, rf_stream *s, int64_t layer,
                                rf_resid_stack *out);
/* What neurons first .. first + n - 1 of layer `layer`'s MLP add ("L0N5"), without b_out. `layer`
 * is 0 .. n_layers - 1, or negative. */
rf_status rf_cache_neuron_results(const rf_cache *cache, rf_stream *s, int64_t layer, int64_t first,
                                  int64_t n, rf_resid_stack *out);
/* Each vector of `stack` as the final norm of this pass makes it: (v - mean(v)) / scale * w, so
 * that the summands of a stream become summands of the normed stream (less the norm's bias). In
 * place. Where the norm stands behind the pool, a mean of these over the pool's tokens is the
 * pooled vector. UNSUPPORTED: no final norm, or one behind an attention pool. */
rf_status rf_cache_apply_ln_final(const rf_cache *cache, rf_stream *s, rf_resid_stack *stack);
/* Direct logit attribution: out (host, [n, B, T]) = <stack[i, b, t], direction>. `direction` (host,
 * [d]): see rf_vit_logit_direction. Behind rf_cache_apply_ln_final, these at the pool's tokens,
 * <ln_final.b, direction> and the column's own bias add up to the logit. */
rf_status rf_cache_logit_attribution(const rf_cache *cache, rf_stream *s,
                                     const rf_resid_stack *stack, const float *direction,
                                     float *out);

/* ---- weights by name ---------------------------------------------------------------------------
 */

typedef struct rf_weight {
    char name[RF_NAME_LEN];
    rf_view view; /* device; strided where a part of a larger matrix is meant */
} rf_weight;

/* TransformerLens names: embed.proj.weight [C * t * P * P, d], embed.proj.bias, cls_token,
 * dist_token, reg_token, pos_embed.W_pos [T, d], ln_pre.w, ln_pre.b; in blocks.{l}.: ln1.w, ln1.b,
 * attn.W_Q/W_K/W_V [H, d, dh], attn.b_Q/b_K/b_V [H, dh], attn.W_O [H, dh, d], attn.b_O,
 * attn.ln.w/b, attn.bias [H, T, T], ls1.gamma, ln2.w, ln2.b, mlp.W_in [d, m], mlp.b_in, mlp.W_gate,
 * mlp.b_gate, mlp.ln.w/b, mlp.W_out [m, d], mlp.b_out, ls2.gamma; ln_final.w, ln_final.b, pool.*;
 * proj.W [d, out], head.W_H [d, C], head.b_H [C], head_dist.*; text: embed.W_E [V, d]. Negative
 * layers count from the end. Folding norms gives a bias to maps that have none (proj.b, attn.b_K);
 * these come last. */
rf_status rf_vit_weight_find(const rf_vit *vit, const char *name, rf_weight *out);
/* All, in the order of the arena. Caller frees with rf_free. */
rf_status rf_vit_weight_list(const rf_vit *vit, rf_weight **out, int64_t *n);
/* Copy out of, or into, the model; `host` is contiguous in the named shape. What is derived from a
 * weight follows. */
rf_status rf_vit_weight_read(const rf_vit *vit, rf_stream *s, const char *name, float *host);
rf_status rf_vit_weight_write(rf_vit *vit, rf_stream *s, const char *name, const float *host);

/* A head's circuit as factors a [d, dh] . b [dh, d] (device views of the weights): QK = W_Q W_K^T,
 * or OV = W_V W_O. b of QK is W_K transposed by its strides. */
typedef enum rf_circuit { RF_CIRCUIT_QK, RF_CIRCUIT_OV } rf_circuit;
typedef struct rf_factored {
    rf_view a, b;
} rf_factored;
rf_status rf_vit_circuit(const rf_vit *vit, rf_circuit which, int64_t layer, int64_t head,
                         rf_factored *out);
/* The direction of the normed stream that column `idx` of head (or, without a head, projection)
 * reads, to host [d_pool]: of a head on two vectors the pooled one's part, of DeiT's two heads the
 * first. UNSUPPORTED where the model has neither. */
rf_status rf_vit_logit_direction(const rf_vit *vit, rf_stream *s, int64_t idx, float *out);

/* ---- backward ----------------------------------------------------------------------------------
 */

typedef struct rf_vit_backward_args {
    const rf_cache *cache; /* of a whole pass from the input, made with all points */
    rf_view input;         /* of that pass; needed with d_weights and by RF_POOL_END */
    rf_view d_embedding;   /* [B, d_out], or absent: zero */
    rf_view d_logits;      /* [B, n_classes], or absent: zero */
    /* Called at their points, last point first, with the gradient of the scalar by the value that
     * the model went on with; what they leave there flows on to what came before. Adding makes the
     * scalar depend on that activation too; zeroing says that a forward hook overwrote it. */
    const rf_hook *hooks;
    int64_t n_hooks;
    float *d_weights; /* device [rf_vit_n_weight_floats], added to; NULL: not wanted */
    rf_view d_input;  /* as input, overwritten; or absent */
} rf_vit_backward_args;

/* Gradients of a scalar through the whole model. A point that was replaced counts as its value plus
 * a constant unless a hook here says otherwise. UNSUPPORTED: bf16 products; hooks at points on
 * request. Source: the chain rule; equal to torch autograd within 1e-4 relative. */
rf_status rf_vit_backward(rf_vit *vit, rf_stream *s, const rf_vit_backward_args *args);
int64_t rf_vit_n_weight_floats(const rf_vit *vit);
/* rf_vit_weight_find in an arena of gradients instead. */
rf_status rf_vit_gradient_find(const rf_vit *vit, float *d_weights, const char *name,
                               rf_weight *out);

/* ---- text: tokenizer and zero-shot classifier --------------------------------------------------
 */

/* CLIP's byte-pair encoding: vocab.json and merges.txt, or tokenizer.json, of `folder`. */
typedef struct rf_tokenizer rf_tokenizer;
rf_status rf_tokenizer_open(const char *folder, rf_tokenizer **out);
void rf_tokenizer_close(rf_tokenizer *t); /* NULL is fine */
/* `ids` [context] = start, text, end, then padding; text that is too long is cut before the end
 * mark, as CLIP does. Invalid UTF-8 is FORMAT. */
rf_status rf_tokenizer_encode(const rf_tokenizer *t, const char *text, int64_t context,
                              int64_t *ids);

/* The 80 prompt templates of CLIP's ImageNet experiments, "a photo of a {}." */
int64_t rf_templates_count(void);
const char *rf_templates_at(int64_t idx);

/* A zero-shot classifier: a unit vector a class, the normalised mean over templates of normalised
 * text embeddings. weights host [n_classes, d]. */
typedef struct rf_zero_shot {
    int64_t n_classes, d;
    float *weights;
    char **names; /* [n_classes], or NULL */
} rf_zero_shot;
void rf_zero_shot_fini(rf_zero_shot *z);
/* `text` is an open text tower, `templates` NULL: the 80. */
rf_status rf_zero_shot_build(rf_vit *text, rf_stream *s, const rf_tokenizer *tokenizer,
                             const char *const *names, int64_t n_classes,
                             const char *const *templates, int64_t n_templates, rf_zero_shot *out);
/* safetensors with the names in it. */
rf_status rf_zero_shot_save(const rf_zero_shot *z, const char *path);
/* What save wrote, or Prisma's .npy [d, n_classes] (also [n_classes, d] where that is clear). */
rf_status rf_zero_shot_load(const char *path, rf_zero_shot *out);
/* logits (host, [B, n_classes]) = scale * <embedding / |embedding|, class>; embeddings host [B, d].
 */
rf_status rf_zero_shot_logits(const rf_zero_shot *z, const float *embeddings, int64_t n_images,
                              float scale, float *logits);
/* What the model of `folder` multiplies its cosines by, exp(logit_scale) of its weights (CLIP,
 * OpenCLIP, SigLIP); `row` as in rf_vit_opts. NOT_FOUND where they have none: a vision tower alone.
 */
rf_status rf_zero_shot_read_scale(const char *folder, const char *row, double *out);

/* ---- comparison with a reference ---------------------------------------------------------------
 * A reference is a tensor file that launch/dump-reference made with transformers, timm or
 * open_clip: "input", the values at hook points by name, "embedding", "logits", and where it says
 * so "rounding/<name>" [1]: what the library's own fp32 differs from its double precision there. */

typedef struct rf_compared {
    char name[RF_NAME_LEN];
    int64_t layer;  /* as rf_hook_point has it; n_layers for "embedding" and "logits" */
    double error;   /* the largest |a - b| / |b| (L2) of a token, of a row for scores and patterns
                       (|b| of scores counts as 1 at least); INFINITY where something is not a
                       number, or infinite on one side alone */
    double allowed; /* the tolerance, or twice the library's own rounding where that is more */
} rf_compared;

typedef struct rf_comparison {
    rf_compared *points; /* [n_points], in firing order, then "embedding" and "logits" */
    int64_t n_points;
    char (*missing)[RF_NAME_LEN]; /* [n_missing]: in the reference, and not in the model */
    int64_t n_missing;
    char (*extra)[RF_NAME_LEN]; /* [n_extra]: in the model (not on request), not in the reference */
    int64_t n_extra;
} rf_comparison;
void rf_comparison_fini(rf_comparison *c);
bool rf_compared_is_close(const rf_compared *p);
/* The point of `layer` with the largest error, those that are not close before the others; -1 where
 * nothing was compared. */
enum { RF_ANY_LAYER = -2 };
int64_t rf_comparison_worst(const rf_comparison *c, int64_t layer);

/* The tower and picture size that the reference's input is for; the rest of `out` is left alone. */
rf_status rf_vit_reference_opts(const rf_tensor_file *reference, rf_vit_opts *out);
/* One pass over the reference's input, every point compared. Errors: FORMAT where a shape differs
 * (names both), or where the reference holds no input. */
rf_status rf_vit_compare(rf_vit *vit, rf_stream *s, const rf_tensor_file *reference,
                         double tolerance, rf_comparison *out);

#ifdef __cplusplus
}
#endif

#endif
