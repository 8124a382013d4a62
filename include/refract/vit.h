/* vit: HookedViT. A vision transformer out of a Hugging Face directory, run with hooks that read or
 * replace activations at named points. */
#ifndef REFRACT_VIT_H
#define REFRACT_VIT_H

#include "refract/base.h"
#include "refract/io.h"
#include "refract/tensor.h"

typedef struct rf_vit rf_vit;

/* What a model is. Every number comes from its files. */
typedef struct rf_vit_config {
    char family[32];        /* the row of the architecture table: "clip", "vit", "dinov2" */
    char name[RF_NAME_LEN]; /* "_name_or_path" of config.json, else the folder's name */
    int64_t d_model, n_layers, n_heads, d_head, d_mlp;
    int64_t image_size, patch_size, n_channels;
    int64_t n_patches, n_prefix; /* at image_size; prefix: CLS, then registers */
    int64_t n_registers;
    int64_t n_tokens;  /* n_prefix + n_patches */
    int64_t d_out;     /* width of the final embedding: projection, or d_model */
    int64_t n_classes; /* of a classification head, or 0 */
    rf_act act;
    float eps;
    bool has_cls, has_ln_pre, has_layer_scale, has_projection;
} rf_vit_config;

/* Load config.json and model.safetensors (or the sharded index) of `folder`; `image_size` 0: the
 * config's, else positions are interpolated where the family can (DINOv2). Weights go to `be`.
 * Errors: NOT_FOUND, FORMAT (a config that does not fit its weights names the tensor, its shape and
 * the expected one), UNSUPPORTED (lists the families). */
rf_status rf_vit_open(rf_backend *be, const char *folder, int64_t image_size, rf_vit **out);
void rf_vit_close(rf_vit *vit); /* NULL is fine */
const rf_vit_config *rf_vit_get_config(const rf_vit *vit);
/* config.json and, where the weights are there, the sizes that only their shapes tell (projection,
 * head): for planning. No weight is read. */
rf_status rf_vit_read_config(const char *folder, rf_vit_config *out);
/* Bytes of weights, and of activations for a micro-batch of `n_images`. */
int64_t rf_vit_weight_bytes(const rf_vit_config *config);
int64_t rf_vit_workspace_bytes(const rf_vit_config *config, int64_t n_images);
/* FLOP of one picture through the layers up to and including `last_layer` (-1: embeddings;
 * n_layers: all, with the end). */
double rf_vit_flop(const rf_vit_config *config, int64_t last_layer);
/* FNV-1a of the bytes of the weights in use, as stored: names a model in run records. */
uint64_t rf_vit_hash(const rf_vit *vit);
/* Label of class `idx` by config.json's id2label, or NULL. */
const char *rf_vit_class_name(const rf_vit *vit, int64_t idx);

/* ---- hook points -------------------------------------------------------------------------------
 */

/* Which axis of a hook point walks over what. */
typedef enum rf_hook_shape {
    RF_HOOK_TOKENS,  /* [B, T, width] */
    RF_HOOK_PATCHES, /* [B, N, width]: hook_embed, before CLS is added */
    RF_HOOK_HEADS,   /* [B, T, H, dh], width = H * dh */
    RF_HOOK_PATTERN, /* [B, H, T, T] */
    RF_HOOK_POOLED,  /* [B, width]: hook_pooled, the model's own pooled output after the final norm
                      */
} rf_hook_shape;

typedef struct rf_hook_point {
    char name[RF_NAME_LEN];
    int site;      /* private number of the point inside a block */
    int64_t layer; /* -1 for points before the blocks, n_layers behind them */
    rf_hook_shape shape;
    int64_t width; /* of one token's vector; 0 for patterns */
} rf_hook_point;

/* TransformerLens names, in firing order: hook_embed, hook_pos_embed, hook_full_embed; with a norm
 * before the blocks ln_pre.hook_scale, ln_pre.hook_normalized, hook_ln_pre; in blocks.{l}.:
 * hook_resid_pre, ln1.hook_scale/normalized, attn.hook_q/k/v/attn_scores/pattern/z, hook_attn_out,
 * hook_resid_mid, ln2.hook_scale/normalized, mlp.hook_pre/post, hook_mlp_out, hook_resid_post; then
 * ln_final.hook_scale/normalized, hook_ln_final, hook_pooled (CLS behind the final norm, before a
 * projection). hook_scale is sqrt(var + eps) [B, T, 1]; hook_normalized is after weight and bias;
 * attn_out and mlp_out are what is added to the residual stream, so after LayerScale. Negative
 * layers count from the end. NOT_FOUND names the nearest valid one. */
rf_status rf_vit_hook_find(const rf_vit_config *config, const char *name, rf_hook_point *out);
/* All points in firing order: for --help and `info`. Caller frees with rf_free. */
rf_status rf_vit_hook_list(const rf_vit_config *config, rf_hook_point **out, int64_t *n);

/* Called in firing order. `act` is a contiguous fp32 view of the point's shape; whatever it holds
 * on return is what the model goes on with: reading leaves it alone, replacing writes into it (with
 * operations on `s`). Several hooks on one point are called in the order given. Each point fires
 * once a pass; reading changes no bit of what follows. */
typedef rf_status (*rf_hook_fn)(void *user, const rf_hook_point *point, const rf_view *act,
                                rf_stream *s);

typedef struct rf_hook {
    rf_hook_point point;
    rf_hook_fn fn;
    void *user;
} rf_hook;

/* What a forward pass gives beyond the hooks. All device memory of the model, valid until the next
 * pass; data = NULL where the pass stopped before or the model has none. */
typedef struct rf_vit_output {
    rf_view embedding; /* [B, d_out]: pooled, projected where the model projects */
    rf_view logits;    /* [B, n_classes] */
} rf_vit_output;

typedef enum rf_vit_stop { RF_VIT_RUN_ALL, RF_VIT_STOP_AFTER_HOOKS } rf_vit_stop;

/* Run images [B, C, H, W] (device, normalised; B = 0 calls no hook). STOP_AFTER_HOOKS ends behind
 * the deepest point that `hooks` names. `out` may be NULL. Errors of hooks pass through. A
 * picture's values do not depend on the others in the batch. Source: transformers' CLIPVisionModel,
 * ViTModel, Dinov2Model; equal within 2e-5 (L2 per token, relative to the token's norm) at each
 * point. */
rf_status rf_vit_forward(rf_vit *vit, rf_stream *s, const rf_view *images, const rf_hook *hooks,
                         int64_t n_hooks, rf_vit_stop stop, rf_vit_output *out);

/* The same from the residual stream `resid` [B, T, d] (device; borrowed, left alone) before block
 * `layer` (0-based) on: the values behind it are those of the pass that the stream came from. Hooks
 * may name points of that block and behind it only. */
rf_status rf_vit_forward_from(rf_vit *vit, rf_stream *s, int64_t layer, const rf_view *resid,
                              const rf_hook *hooks, int64_t n_hooks, rf_vit_stop stop,
                              rf_vit_output *out);

#endif
