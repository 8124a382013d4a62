/* Private to vit: the weights, the buffers, caches, and the passes. */
#ifndef REFRACT_VIT_IMPL_H
#define REFRACT_VIT_IMPL_H

#include "refract/vit.h"

/* ---- weights.c, weights_derive.c (config_impl.h: what fills them) ------------------------------
 */

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

/* Make what is derived from the arena; again after weights were written. */
rf_status rf_weights_derive(rf_backend *be, rf_stream *s, const rf_vit_config *config,
                            rf_products products, rf_vit_weights *w);
void rf_weights_fini(rf_backend *be, rf_vit_weights *w);

/* ---- rotary.c ------------------------------------------------------------------------------- */

/* cos and sin [T, dh] of a model with rotary positions; host. */
void rf_rotary_tables(const rf_vit_config *config, float *cos, float *sin);
/* VideoMAE's positions, out [n, d]: sin and cos of i / 10000^(2 (j / 2) / d) in turn. Host. */
void rf_sinusoid_table(int64_t n, int64_t d, float *out);

/* ---- hooks.c, hook_names.c ------------------------------------------------------------------ */

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

/* "hook_resid_pre", "ln1.hook_scale": a point's name without its block. */
const char *rf_site_name(rf_site site);
bool rf_site_is_in_block(rf_site site);
/* Points of a pass are ordered by this number; of `point` only site and layer are read. */
int64_t rf_hook_order(const rf_vit_config *config, const rf_hook_point *point);
/* The point of `site` in `layer` (0 outside the blocks). False where the model lacks it. */
bool rf_hook_point_at(const rf_vit_config *config, rf_site site, int64_t layer, rf_hook_point *out);
/* The shape of the point's view for `n_images`. */
rf_view rf_hook_view(const rf_vit_config *config, const rf_hook_point *point, int64_t n_images,
                     float *data);

/* ---- cache.c -------------------------------------------------------------------------------- */

typedef struct rf_cache_entry {
    rf_hook_point point;
    float *data;    /* device */
    bool is_filled; /* by the last pass, which may have stopped before it */
    bool is_hooked; /* in the last pass: the value may have been replaced */
} rf_cache_entry;

struct rf_cache {
    rf_vit *vit;
    rf_cache_entry *entries; /* [n_entries], in firing order */
    int64_t n_entries;
    bool is_full;           /* made for every point that is not on request */
    int64_t n_images;       /* of the last pass */
    int64_t capacity;       /* pictures that fit */
    bool is_complete;       /* the last pass began at the input and ran to the end */
    bool has_request_hooks; /* the last pass had hooks at points on request */
    unsigned processing;
};

/* Room for `n_images`; forgets what is there. */
rf_status rf_cache_begin(rf_cache *cache, rf_stream *s, int64_t n_images);
/* The entry of a point, or NULL where `cache` is NULL or does not keep it. */
const rf_cache_entry *rf_cache_entry_at(const rf_cache *cache, rf_site site, int64_t layer);
/* Data of a point that must be there (NOT_FOUND names it). */
rf_status rf_cache_need(const rf_cache *cache, rf_site site, int64_t layer, rf_view *out);

/* ---- cache_stack.c, decompose.c ------------------------------------------------------------- */

/* A stack being filled, vector by vector. */
typedef struct rf_stack_fill {
    const rf_cache *cache;
    rf_stream *s;
    rf_resid_stack *stack;
    int64_t n_filled;
} rf_stack_fill;

/* Room for `n` vectors, zeroed. NOT_FOUND where no pass has filled the cache. */
rf_status rf_stack_begin(rf_stack_fill *f, int64_t n);
/* The next vector's rows, [B * T, d]. */
rf_status rf_stack_next(rf_stack_fill *f, rf_view *slot, const char *label, ...) RF_PRINTF(3, 4);
/* The next vector is a copy of a cached point. */
rf_status rf_stack_push(rf_stack_fill *f, rf_site site, int64_t layer, const char *label);
/* Vector `idx` as rows, [B * T, d]. */
rf_view rf_stack_at(const rf_resid_stack *stack, int64_t idx);
/* 0 .. n_layers of a layer that may count from the end. */
rf_status rf_stack_layer(const rf_cache *cache, int64_t layer, int64_t *out);

/* ---- workspace.c ---------------------------------------------------------------------------- */

typedef enum rf_buf {
    RF_BUF_RESID,  /* [B * T, d] the residual stream */
    RF_BUF_NORMED, /* [B * T, d] a norm's output; before the blocks, positions when hooked */
    RF_BUF_Q,      /* [B * T, H * dh], and the next three */
    RF_BUF_K,
    RF_BUF_V,
    RF_BUF_Z,
    RF_BUF_BRANCH,  /* [B * T, d] what a branch adds; before the blocks, embedded patches */
    RF_BUF_MLP,     /* [B * T, m]; before the blocks, rows of patches */
    RF_BUF_GATE,    /* [B * T, m] of gated MLPs: the linear half */
    RF_BUF_SCALE,   /* [B * T] */
    RF_BUF_POOLED,  /* [B, d_pool] */
    RF_BUF_POOL,    /* what an attention pool works in */
    RF_BUF_END_ROW, /* I64 [B]: the rows of [B * T, d] that RF_POOL_END reads */
    RF_BUF_HEAD_IN, /* what a head reads that is not the pooled vector */
    RF_BUF_EMBEDDING,
    RF_BUF_LOGITS,
    RF_BUF_PATTERN,    /* [B, H, T, T]; this and the next are made when a hook asks for them */
    RF_BUF_SPLIT,      /* [B * T, H * d] hook_attn_in, later hook_result */
    RF_BUF_SPLIT_COPY, /* [B * T, H * d] hook_q_input, hook_k_input, hook_v_input in turn */
    RF_N_BUFS
} rf_buf;

/* Buffers for micro-batches of up to capacity[i] pictures. Device memory. */
typedef struct rf_vit_workspace {
    float *buf[RF_N_BUFS];
    int64_t capacity[RF_N_BUFS];
    int64_t *ids; /* host, [ids_capacity * T]: of texts */
    int64_t ids_capacity;
} rf_vit_workspace;

/* `on_request`: bits 1 << rf_buf of the buffers from RF_BUF_PATTERN on that are needed. */
rf_status rf_workspace_reserve(rf_vit *vit, rf_stream *s, int64_t n_images, unsigned on_request);
void rf_workspace_fini(rf_vit *vit);

/* ---- backward.c, backward_block.c, backward_end.c, backward_pool.c, backward_space.c --------- */

/* Gradients in flight. Rows of tokens are as wide as the widest of stream and pool. */
typedef enum rf_grad_buf {
    RF_GRAD_RESID,  /* [B * T, d] by the residual stream: every point on it sees this one in turn */
    RF_GRAD_BRANCH, /* [B * T, d] by what a branch adds; before the blocks, by embedded patches */
    RF_GRAD_NORMED, /* [B * T, d] by a norm's output */
    RF_GRAD_VALUE,  /* [B * T, d] a value without a hook point, made again */
    RF_GRAD_Q,
    RF_GRAD_K,
    RF_GRAD_V,
    RF_GRAD_Z,
    RF_GRAD_MLP,     /* [B * T, m]; before the blocks, rows of patches */
    RF_GRAD_GATE,    /* [B * T, m] of gated MLPs */
    RF_GRAD_SCALE,   /* [B * T] by a norm's scale */
    RF_GRAD_PATTERN, /* [B, H, T, T] */
    RF_GRAD_POOLED,
    RF_GRAD_HEAD_IN, /* [B, 4 d]: of a head on two vectors, value and gradient */
    RF_GRAD_EMBEDDING,
    RF_GRAD_LOGITS,
    RF_GRAD_POOL, /* what an attention pool works in: RF_POOL_ROWS vectors a picture, and the MLP's
                   */
    RF_GRAD_SOFTMAX, /* [B, H, T, T] a pattern made again: where one was replaced, and in a pool */
    RF_N_GRAD_BUFS
} rf_grad_buf;

enum { RF_POOL_ROWS = 11, RF_POOL_MLP_ROWS = 3 }; /* [B, d_pool] and [B, d_pool_mlp] each */

typedef struct rf_backward_space {
    float *buf[RF_N_GRAD_BUFS]; /* device */
    int64_t capacity[RF_N_GRAD_BUFS];
} rf_backward_space;

/* Room for `n_images` in every buffer but RF_GRAD_SOFTMAX, and in that one too `with_softmax`. */
rf_status rf_backward_reserve(rf_vit *vit, rf_stream *s, int64_t n_images, bool with_softmax);
void rf_backward_fini(rf_vit *vit);

/* One backward pass. */
typedef struct rf_backward {
    rf_vit *vit;
    rf_stream *s;
    const rf_vit_backward_args *args;
    const rf_cache *cache;
    int64_t n_images;
    int64_t last_layer; /* where nothing before is asked for: -1 is the input */
} rf_backward;

/* What a cache must know about the pass that fills it: which points had hooks. */
void rf_cache_note_hooks(rf_cache *cache, const rf_hook *hooks, int64_t n_hooks);
/* A forward hook may have replaced the value at this point. */
bool rf_backward_was_hooked(const rf_backward *b, rf_site site, int64_t layer);
bool rf_backward_has_hook(const rf_backward *b, rf_site site, int64_t layer);
/* Call the backward hooks of this point on the gradient `data`. */
rf_status rf_backward_fire(rf_backward *b, rf_site site, int64_t layer, float *data);
/* The buffer as rows of all tokens, [B * T, d]. */
rf_view rf_backward_tokens(const rf_backward *b, rf_grad_buf buf);
/* The cached activation as rows [n, width]. */
rf_status rf_backward_value(const rf_backward *b, rf_site site, int64_t layer, rf_view *out);
/* Where the gradient of a weight goes, shaped as the weight; absent when it is not wanted. */
rf_view rf_backward_weight(const rf_backward *b, const rf_view *weight);

/* Of y = x . w + bias by alpha * d_y: weight and bias are added to; d_x (may be absent) is
 * overwritten (beta 0) or added to (1). */
typedef struct rf_linear_grad_args {
    const rf_linear *map;
    rf_view x, d_y, d_x;
    float alpha, beta;
} rf_linear_grad_args;
rf_status rf_backward_linear(rf_backward *b, const rf_linear_grad_args *args);
/* Of a norm and its two points: d_y [n, d] by its output, d_x (may be d_y) overwritten. */
rf_status rf_backward_norm(rf_backward *b, const rf_linear *ln, const rf_view *x,
                           const rf_view *d_y, const rf_view *d_x, rf_site scale_site,
                           int64_t layer);
/* RF_GRAD_RESID holds the gradient behind block `layer`, then the one in front of it. */
rf_status rf_backward_block(rf_backward *b, int64_t layer);
/* From the stream before the blocks to the input. */
rf_status rf_backward_begin(rf_backward *b);
/* From the seeds to the gradient behind the last block, in RF_GRAD_RESID. */
rf_status rf_backward_end(rf_backward *b);
/* What an attention pool made of `tokens` [B * T, d], to out [B, d_pool]. */
rf_status rf_backward_pool_value(rf_backward *b, const rf_view *tokens, const rf_view *out);
/* Its gradient: d_pooled [B, d_pool] by what it made; d_tokens is added to. */
rf_status rf_backward_pool(rf_backward *b, const rf_view *tokens, const rf_view *d_pooled,
                           const rf_view *d_tokens);

struct rf_vit {
    rf_backend *be;
    rf_vit_config config;
    rf_products products;
    unsigned processing; /* what the weights have seen */
    rf_vit_weights weights;
    rf_vit_workspace ws;
    rf_backward_space backward;
    char **class_names; /* [n_classes], entries may be NULL; or NULL */
};

/* ---- forward.c, begin.c, block.c, attention.c, end.c ----------------------------------------- */

/* One forward pass. */
typedef struct rf_pass {
    rf_vit *vit;
    rf_stream *s;
    const rf_hook *hooks;
    int64_t n_hooks;
    rf_cache *cache;    /* or NULL */
    int64_t last_order; /* the deepest point that is asked for; INT64_MAX: run all */
    bool is_done;       /* it has fired */
    bool knows_end;     /* RF_BUF_END_ROW is filled */
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
/* resid += scale * branch (its norm, where norms stand behind), with the points of this part:
 * `norm_site` and the next, `out_site` and the next. */
rf_status rf_pass_add_branch(rf_pass *p, const rf_linear *norm, rf_site norm_site,
                             const rf_view *scale, rf_site out_site, int64_t layer);
rf_status rf_pass_attention(rf_pass *p, const rf_block_weights *w, int64_t layer);
rf_status rf_pass_block(rf_pass *p, int64_t layer);
/* The shape of an input. */
rf_status rf_pass_check_input(const rf_vit_config *config, const rf_view *input);
/* Token ids: range, and where each text ends. */
rf_status rf_pass_read_ids(rf_pass *p, const rf_view *ids);
/* The beginning: input to the residual stream. */
rf_status rf_pass_begin(rf_pass *p, const rf_view *input);
/* The end: final norm, pool, projection and head. */
rf_status rf_pass_end(rf_pass *p, rf_vit_output *out);

/* ---- process.c ------------------------------------------------------------------------------ */

/* Process the weights of an open model; vit->processing gets what was done. After a failure they
 * are of no use. */
rf_status rf_vit_process_weights(rf_vit *vit, rf_stream *s, unsigned processing);

#endif
