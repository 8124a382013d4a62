/* tensor: dtypes, views, and the seam between Refract and a device. One struct of functions per
 * backend (rf_backend_ops); nothing above this layer knows which it has. Callers use the rf_*
 * functions below, which check shapes once for all backends and then dispatch.
 *
 * Operations are asynchronous on their stream; an error may surface at the next
 * rf_stream_synchronise with the operation's name. (The CPU backend, the reference, finishes each
 * before it returns.) Pointers inside views and argument structs are device memory of the stream's
 * backend unless they say "host". Bits: an operation gives the same bits for any number of threads;
 * docs/determinism.md says more. */
#ifndef REFRACT_TENSOR_H
#define REFRACT_TENSOR_H

#include "refract/base.h"
#include "refract/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- views -------------------------------------------------------------------------------------
 */

typedef enum rf_dtype { RF_F32, RF_F16, RF_BF16, RF_I32, RF_I64, RF_U8 } rf_dtype;
size_t rf_dtype_bytes(rf_dtype dtype);

enum { RF_MAX_DIMS = 5 };

/* A window on device memory; owns nothing. Strides count elements. data = NULL: absent. */
typedef struct rf_view {
    void *data;
    rf_dtype dtype;
    int n_dims;
    int64_t shape[RF_MAX_DIMS], stride[RF_MAX_DIMS];
} rf_view;

/* Contiguous (row-major) fp32 views. */
rf_view rf_view_1d(void *data, int64_t n);
rf_view rf_view_2d(void *data, int64_t n_rows, int64_t n_cols);
rf_view rf_view_nd(void *data, rf_dtype dtype, int n_dims, const int64_t *shape);
/* Rows first .. first + n - 1 along dimension 0. */
rf_view rf_view_rows(rf_view v, int64_t first, int64_t n);
int64_t rf_view_n_elems(const rf_view *v);
bool rf_view_is_contiguous(const rf_view *v);

/* ---- backend, memory, order ---------------------------------------------------------------------
 */

typedef struct rf_backend rf_backend;
typedef struct rf_stream rf_stream;
typedef struct rf_event rf_event;

typedef enum rf_memory { RF_MEMORY_DEVICE, RF_MEMORY_PINNED } rf_memory;

/* Kinds of device, by the names that settings use; AUTO takes a GPU where there is one. */
typedef enum rf_device { RF_DEVICE_AUTO, RF_DEVICE_CPU, RF_DEVICE_CUDA } rf_device;
extern const char *const rf_device_names[]; /* ends in NULL */

/* The backend of `device`. Ranks of `comm` on one host take its GPUs in turn; NULL: this process is
 * alone. `n_threads` of the CPU, 0: what OpenMP says. AUTO says in the log why a build with CUDA
 * computes on the CPU. Collective. Errors: UNSUPPORTED (a build without CUDA), NOT_FOUND (no GPU
 * that this build has kernels for). */
rf_status rf_backend_create(rf_device device, const rf_comm *comm, int n_threads, rf_backend **out);
/* The CPU's alone, which needs no other rank. Local. */
rf_status rf_backend_cpu_create(int n_threads, rf_backend **out);
/* A GPU's: rank r of those on this host takes GPU r modulo their number. `comm` NULL: this process
 * is alone. Collective. */
rf_status rf_backend_cuda_create(const rf_comm *comm, rf_backend **out);
void rf_backend_destroy(rf_backend *be); /* NULL is fine */
const char *rf_backend_name(const rf_backend *be);
/* What could explain other bits on another machine: instruction set, library versions. */
const char *rf_backend_describe(const rf_backend *be);
/* Bytes of device memory that are free and in all; 0 where nobody can say. */
void rf_backend_memory(const rf_backend *be, int64_t *free_bytes, int64_t *all_bytes);

/* Zeroed memory, 64-byte aligned. */
rf_status rf_memory_alloc(rf_backend *be, rf_memory kind, size_t n_bytes, void **out);
void rf_memory_free(rf_backend *be, rf_memory kind, void *p); /* NULL is fine */

rf_status rf_stream_create(rf_backend *be, rf_stream **out);
void rf_stream_destroy(rf_stream *s); /* NULL is fine */
rf_backend *rf_stream_backend(const rf_stream *s);
rf_status rf_stream_synchronise(rf_stream *s);
rf_status rf_event_create(rf_backend *be, rf_event **out);
void rf_event_destroy(rf_event *e);
rf_status rf_event_record(rf_event *e, rf_stream *s);
rf_status rf_event_wait(rf_event *e, rf_stream *s); /* work queued on `s` from now on waits */

/* From and to the host, in the stream's order. With host memory that is not PINNED the host's side
 * is done when these return (`host_src` may be changed, `host_dst` read); with PINNED memory it is
 * done once the stream has come so far: wait for an event, or synchronise. */
rf_status rf_copy_in(rf_stream *s, void *dst, const void *host_src, size_t n_bytes);
rf_status rf_copy_out(rf_stream *s, void *host_dst, const void *src, size_t n_bytes);
rf_status rf_copy_within(rf_stream *s, void *dst, const void *src, size_t n_bytes);
rf_status rf_fill_bytes(rf_stream *s, void *dst, int value, size_t n_bytes);

/* ---- upload: blocks on their way from pinned memory to the device -------------------------------
 *
 * Copies run on a stream of their own, into buffers that take turns: block n + 1 is copied while
 * work on block n runs. Events order both; the host waits for nothing but copies whose memory it is
 * about to write again. Local. */

typedef struct rf_upload {
    rf_stream *stream; /* of the work; borrowed, as the next */
    rf_stream *copies; /* may serve several uploads */
    int n, at;         /* buffers, and the one that was filled last */
    void *host[2];     /* pinned; NULL where the blocks are in pinned memory already */
    void *device[2];   /* NULL where they go to memory of the caller's */
    rf_event *used[2]; /* `stream` is through with the buffer */
    rf_event *copied;
} rf_upload;

/* Buffers 2 deep: one where a second would be memory for nothing, because there is no device memory
 * to speak of (rf_backend_memory: the CPU copies at once). */
int rf_upload_depth(const rf_backend *be);

/* `host_bytes`, `device_bytes`: of a block, 0 for none. */
rf_status rf_upload_init(rf_upload *up, rf_stream *stream, rf_stream *copies, int64_t host_bytes,
                         int64_t device_bytes);
/* Waits for the copies. Zeroed is fine. */
void rf_upload_fini(rf_upload *up);

/* Until the host's side of all blocks may be written again. */
rf_status rf_upload_wait(rf_upload *up);
/* *out: pinned memory for the next block. */
rf_status rf_upload_stage(rf_upload *up, void **out);

/* Between these the caller queues copies on `copies`, to *device or where else it likes (then they
 * come behind all that `stream` holds). Work queued on `stream` after _end sees them; *device is
 * the caller's until the next _begin. */
rf_status rf_upload_begin(rf_upload *up, void **device);
rf_status rf_upload_end(rf_upload *up);
/* Both, with one copy. `pinned` must not be written before rf_upload_wait or _stage. */
rf_status rf_upload_send(rf_upload *up, const void *pinned, size_t n_bytes, void **device);

/* For clean-ups, before memory goes that copies on `s` (NULL: none) may use: until they are done.
 * Keeps the text of the error that led there; one of its own is not told. */
void rf_upload_settle(rf_stream *s);

/* ---- dense operations
 * ---------------------------------------------------------------------------- */

typedef enum rf_act {
    RF_ACT_NONE,
    RF_ACT_RELU,
    RF_ACT_GELU,
    RF_ACT_QUICK_GELU,
    RF_ACT_GELU_TANH,
    RF_ACT_SILU
} rf_act;
typedef enum rf_trans { RF_NO_TRANS, RF_TRANS } rf_trans;

/* Precision of the operands of a matrix product; sums are fp32. TF32 (10 bits of fraction) where a
 * device has it, fp32 elsewhere. */
typedef enum rf_products { RF_PRODUCTS_F32, RF_PRODUCTS_BF16, RF_PRODUCTS_TF32 } rf_products;
extern const char *const rf_products_names[]; /* as settings name them; ends in NULL */

/* c [M, N] = act(alpha * op(a) [M, K] . op(b) [K, N] + beta * c + bias [N]). Rows of a, b, c are
 * contiguous (stride[1] == 1); trans means the view holds the transpose. bias may be absent; beta
 * is 0 or 1. Where b is BF16 (not transposed), a is rounded to bf16 (nearest, ties to even),
 * products are exact and sums fp32. */
typedef struct rf_matmul_args {
    rf_view a, b, c, bias;
    rf_trans trans_a, trans_b;
    rf_products products; /* F32 or TF32; b's type says whether it is BF16 */
    float alpha, beta;
    rf_act act;
} rf_matmul_args;
rf_status rf_matmul(rf_stream *s, const rf_matmul_args *args);

/* y = (x - mean) / sqrt(var + eps) * weight + bias over rows of x [n, d]; var over d. weight, bias,
 * scale may be absent; scale [n] gets sqrt(var + eps). Where divisor [n] is given it is divided by
 * instead. y may be absent (the scale alone) or x. */
typedef struct rf_layer_norm_args {
    rf_view x, weight, bias, y, scale, divisor;
    float eps;
} rf_layer_norm_args;
rf_status rf_layer_norm(rf_stream *s, const rf_layer_norm_args *args);

/* softmax(scale * q.k + bias) . v for each picture and head. q, z [B, Tq, H, dh], k, v [B, T, H,
 * dh], any strides with stride[3] == 1 (stride[0] may be 0: one q for all pictures). bias [H, Tq,
 * T] or [1, Tq, T] (for all heads; contiguous, -inf masks) may be absent. pattern [B, H, Tq, T]
 * (query x key, contiguous) may be absent. The same bits whether it is asked for or not, and by its
 * three parts: scores, softmax of their rows, mix. */
typedef struct rf_attention_args {
    rf_view q, k, v, z, pattern, bias;
    float scale;
    rf_products products; /* BF16 is taken for TF32: operands are fp32 */
} rf_attention_args;
rf_status rf_attention(rf_stream *s, const rf_attention_args *args);
/* pattern = scale * q.k + bias, before the softmax; v and z are not used. */
rf_status rf_attention_scores(rf_stream *s, const rf_attention_args *args);
/* z from pattern and v; q and k are not used. */
rf_status rf_attention_mix(rf_stream *s, const rf_attention_args *args);
/* Rows of x [n, d], each replaced by its softmax. */
rf_status rf_softmax_rows(rf_stream *s, const rf_view *x);

/* y = act(x), in place allowed. */
rf_status rf_activation(rf_stream *s, rf_act act, const rf_view *x, const rf_view *y);

/* y = act(gate) * x, rows [n, d]; y may be gate or x. */
rf_status rf_gated(rf_stream *s, rf_act act, const rf_view *gate, const rf_view *x,
                   const rf_view *y);

/* Rotary positions: y = x * cos + turned(x) * sin by element, x, y [B, T, H, dh] (stride[3] == 1;
 * in place allowed), cos, sin [T, dh]. turned(x) of adjacent pairs is (-x1, x0, -x3, x2, ...), of
 * halves
 * (-second half, first half). With `is_transposed` y = x * cos + turned^T(x * sin), the gradient.
 */
typedef enum rf_rotary_pairs { RF_PAIRS_ADJACENT, RF_PAIRS_HALVES } rf_rotary_pairs;
typedef struct rf_rotary_args {
    rf_view x, y, cos, sin;
    rf_rotary_pairs pairs;
    bool is_transposed;
} rf_rotary_args;
rf_status rf_rotary(rf_stream *s, const rf_rotary_args *args);

/* y [B, d] = mean over tokens first .. first + n - 1 of x [B, T, d]; sums in fixed order. */
rf_status rf_mean_tokens(rf_stream *s, const rf_view *x, int64_t first, int64_t n,
                         const rf_view *y);

/* y = x + r * scale, rows [n, d]; scale [d] may be absent (1), and x (0); y may be x or r. */
typedef struct rf_add_args {
    rf_view x, r, scale, y;
} rf_add_args;
rf_status rf_add(rf_stream *s, const rf_add_args *args);

/* images [B, C, H, W] = levels [C, 256] of pixels (U8) [B, H, W, C]: each byte becomes what its
 * channel's line of `levels` says. All contiguous. */
typedef struct rf_pixel_values_args {
    rf_view pixels, levels, images;
} rf_pixel_values_args;
rf_status rf_pixel_values(rf_stream *s, const rf_pixel_values_args *args);

/* rows [B * n_patches, C * t * P * P] from images [B, C, H, W], or from clips [B, F, C, H, W] in
 * tubelets of t frames (last stride 1): patches (t, y, x) in order, inside one (c, t, y, x). A
 * border that does not fill a patch is left out, as a convolution of stride P does. tubelet 0 is 1.
 */
typedef struct rf_patch_rows_args {
    rf_view images, rows;
    int64_t patch, tubelet;
} rf_patch_rows_args;
rf_status rf_patch_rows(rf_stream *s, const rf_patch_rows_args *args);

/* out [B, n_prefix + N, d]: first the prefix rows (the same for each picture; may be absent), then
 * patches [B * N, d] + position [N, d] (may be absent). */
typedef struct rf_embed_tokens_args {
    rf_view patches, position, prefix, out;
} rf_embed_tokens_args;
rf_status rf_embed_tokens(rf_stream *s, const rf_embed_tokens_args *args);

/* dst [m, d] = rows of src [n, d] named by index [m] (I64, each in 0..n-1). Another index is
 * INVALID_ARG on the CPU; a device, where nobody waits for what it finds, makes that row NaN. */
rf_status rf_gather_rows(rf_stream *s, const rf_view *src, const rf_view *index,
                         const rf_view *dst);

/* y = x in y's type, to the nearest with ties to even: one of them F32, the other F16 or BF16 (or
 * both of one type). Contiguous, of one shape, not overlapping. */
rf_status rf_convert(rf_stream *s, const rf_view *x, const rf_view *y);

/* ---- gradients of the dense operations
 * ---------------------------------------------------------------------------- */

/* Sums over rows or pictures go in fixed blocks combined in order. Those of linear maps are
 * rf_matmul with trans, and rf_row_sum for biases. `d_w`, `d_bias` and the like are added to; other
 * outputs are overwritten. */

/* Of y = (x - mean) / scale * weight + bias by d_y [n, d]; scale [n] is what was divided by. d_x,
 * d_weight, d_bias may be absent; d_x may be d_y. Without d_scale, d_x has the whole chain, scale =
 * sqrt(var + eps) included; with it d_x stops at the division, d_scale [n] gets the gradient by
 * scale, and rf_layer_norm_scale_grad adds its way back to d_x. */
typedef struct rf_layer_norm_grad_args {
    rf_view x, weight, scale, d_y, d_x, d_weight, d_bias, d_scale;
} rf_layer_norm_grad_args;
rf_status rf_layer_norm_grad(rf_stream *s, const rf_layer_norm_grad_args *args);
/* d_x += d_scale * (x - mean) / (d * scale). */
rf_status rf_layer_norm_scale_grad(rf_stream *s, const rf_layer_norm_grad_args *args);

/* Attention by its parts, shapes as in rf_attention_args. mix: d_pattern = d_z . v^T, d_v =
 * pattern^T . d_z. softmax: d_pattern becomes the gradient by the scores, in place. scores: d_q =
 * scale * d_scores . k, d_k = scale * d_scores^T . q, d_bias (may be absent) += sum over pictures
 * (and over heads where bias has one) of d_scores. d_pattern (of mix), d_q, d_k, d_v may be absent;
 * d_q is by picture even where q is one for all. */
typedef struct rf_attention_grad_args {
    rf_view q, k, v, pattern, d_z, d_pattern, d_q, d_k, d_v, d_bias;
    float scale;
    rf_products products;
} rf_attention_grad_args;
rf_status rf_attention_mix_grad(rf_stream *s, const rf_attention_grad_args *args);
rf_status rf_attention_softmax_grad(rf_stream *s, const rf_attention_grad_args *args);
rf_status rf_attention_scores_grad(rf_stream *s, const rf_attention_grad_args *args);

/* d_x = d_y * act'(x), rows [n, d]; d_x may be d_y. */
rf_status rf_activation_grad(rf_stream *s, rf_act act, const rf_view *x, const rf_view *d_y,
                             const rf_view *d_x);
/* d_gate = d_y * act'(gate) * x, d_x = d_y * act(gate); either may be d_y, or absent. */
typedef struct rf_gated_grad_args {
    rf_view gate, x, d_y, d_gate, d_x;
    rf_act act;
} rf_gated_grad_args;
rf_status rf_gated_grad(rf_stream *s, const rf_gated_grad_args *args);

/* out [d] += sum over rows of x * y, both [n, d]: the gradient of a scale by column. */
rf_status rf_column_dot(rf_stream *s, const rf_view *x, const rf_view *y, const rf_view *out);

/* Of rf_mean_tokens: d_x[b, first .. first + n - 1] += d_y[b] / n. */
rf_status rf_mean_tokens_grad(rf_stream *s, const rf_view *d_y, int64_t first, int64_t n,
                              const rf_view *d_x);
/* Of rf_patch_rows: images is overwritten by the sum of what its pixels went to; one picture may
 * stand for all frames of a clip (stride[1] == 0). */
rf_status rf_patch_rows_grad(rf_stream *s, const rf_patch_rows_args *args);
/* Of rf_embed_tokens, out holding the gradient: patches (overwritten), position (+=), prefix (+=);
 * each may be absent. */
rf_status rf_embed_tokens_grad(rf_stream *s, const rf_embed_tokens_args *args);
/* Of rf_gather_rows: src[index[i]] += dst[i], i rising. */
rf_status rf_gather_rows_grad(rf_stream *s, const rf_view *dst, const rf_view *index,
                              const rf_view *src);

/* ---- coder operations
 * ------------------------------------------------------------------------------ */

/* Codes as compressed rows. Entries of row b are row_start[b] .. row_start[b+1]-1, latents rising.
 * All arrays are device memory; `capacity` entries fit. */
typedef struct rf_codes {
    int64_t n_rows, capacity;
    int64_t *row_start; /* [n_rows + 1] */
    int32_t *latent;    /* [capacity] */
    float *value;       /* [capacity], > 0 but in a list of a WINDOW */
    float *d_value;     /* [capacity], dL/dvalue */
} rf_codes;

typedef enum rf_select_rule {
    RF_SELECT_TOPK,       /* of each row the k largest > 0; ties: the smaller latent */
    RF_SELECT_BATCH_TOPK, /* of all rows of a class together the k largest > 0; ties: the smaller
                             row, then the smaller latent (Bussmann et al. 2024) */
    RF_SELECT_ABOVE,      /* all > max(0, floor) */
    RF_SELECT_POSITIVE,   /* all > 0 and, where there is one, > threshold[i] (ReLU, JumpReLU) */
    RF_SELECT_WINDOW,     /* all within window / 2 of threshold[i]; values have any sign */
} rf_select_rule;
/* Values of TOPK, BATCH_TOPK and ABOVE are canonical dots, those of POSITIVE and WINDOW are of the
 * product. */
bool rf_select_is_exact(rf_select_rule rule);

/* Rows may be of classes, 0 .. RF_MAX_ROW_CLASSES - 1 (what is not counts as 0), and these selected
 * by a k or a floor of their own. */
enum { RF_MAX_ROW_CLASSES = 8 };

/* One list that an encode fills. A TOPK list must have room for k entries of every row (F if that
 * is less), a BATCH_TOPK list for min(k, B F). The others fit when their entries are no more than
 * codes->capacity in all; else no row keeps any and `overflow` (device, one int64; may be NULL for
 * the first two) is 1, otherwise 0. */
typedef struct rf_select_list {
    rf_select_rule rule;
    int64_t k;                /* of TOPK, >= 1, and BATCH_TOPK, >= 0 */
    const uint8_t *row_class; /* [B] device, of the exact rules; NULL: rows are all alike */
    int64_t class_k[RF_MAX_ROW_CLASSES]; /* 0 .. k, with row_class: k of a row of TOPK, of all rows
                                            of the class of BATCH_TOPK; the latter's sum is <= k */
    const uint8_t *eligible;             /* [F], 1: may be selected; NULL: all */
    rf_view threshold;                   /* [F] of POSITIVE (may be absent) and WINDOW */
    const float *floor; /* device, of ABOVE: one, or with row_class [RF_MAX_ROW_CLASSES] */
    float window;       /* of WINDOW, > 0 */
    rf_codes *codes;
    int64_t *overflow;
} rf_select_list;

enum { RF_MAX_LISTS = 4 };

/* pre = x [B, D] . w_enc [F, D]^T + b_enc [F], by tiles of tokens x latents, never whole. Products
 * nominate (with a rigorous bound of their error, which holds for bf16 products too); values and
 * ties of exact rules are those of the canonical dot: rf_dot(x_b, w_i) + b_i in one rounding each.
 * Rows with row_valid[b] == 0 get no entries. Nor do rows that could overflow or are not finite
 * (|x_b| max|w_i| + max|b_i| not below FLT_MAX / 4): `n_refused` gets their number. */
typedef struct rf_encode_args {
    rf_view x, w_enc, b_enc;
    rf_products products;     /* of the nominating products */
    const uint8_t *row_valid; /* [B] or NULL */
    int n_lists;
    rf_select_list lists[RF_MAX_LISTS];
    int64_t *n_refused; /* device, one int64, or NULL */
    double *seconds;    /* host [2] or NULL: += time in products, in selection (mean of threads) */
} rf_encode_args;
rf_status rf_encode(rf_stream *s, const rf_encode_args *args);

/* Rows b of one class: row_class[b] == which (device; 0: also what is none). NULL: all rows. */
typedef struct rf_class_rows {
    const uint8_t *row_class;
    int which;
} rf_class_rows;

/* The k-th largest of values that several ranks hold is found from counts of their upper and lower
 * halves. counts (device I64 [65536]) = entries of `rows` of `codes` by the upper 16 bits of their
 * value (`upper` < 0), or by the lower 16 bits of those whose upper half is `upper`. Values are
 * > 0. */
rf_status rf_codes_histogram(rf_stream *s, const rf_codes *codes, rf_class_rows rows, int32_t upper,
                             int64_t *counts);
/* Of `rows` keep the entries > threshold, and of those that equal it the first `n_ties` by row and
 * latent. Other rows keep theirs. */
rf_status rf_codes_keep(rf_stream *s, rf_codes *codes, rf_class_rows rows, float threshold,
                        int64_t n_ties);

/* The canonical dot of host floats (design: 32 lanes of FMA, then halves): the reference for all
 * others. */
float rf_dot(const float *a, const float *b, int64_t n);

/* Latents in groups (Matryoshka): group q is latents end[q-1] .. end[q] - 1. n = 0: no groups. */
enum { RF_MAX_GROUPS = 16 };
typedef struct rf_latent_groups {
    int n;
    int64_t end[RF_MAX_GROUPS]; /* rising, the last is F */
} rf_latent_groups;

/* out [B, D] = bias [D] (may be absent) + sum of value * w_dec[latent], entries in order, by FMA.
 * With groups out is [B, n D]: its q-th D columns hold the sum over groups 0 .. q. `value` replaces
 * that of the codes where it is not NULL. */
typedef struct rf_decode_args {
    const rf_codes *codes;
    const float *value; /* [entries] or NULL */
    rf_view w_dec, bias, out;
    rf_latent_groups groups;
} rf_decode_args;
rf_status rf_decode(rf_stream *s, const rf_decode_args *args);

/* Of prefix reconstructions x_hat [B, n D], r_q = x_hat_q - x: row_loss[b] = sum_q weight_q
 * |r_q|^2, row_last[b] = |r_(n-1)|^2, and x_hat becomes the gradients of the groups, g_q = scale *
 * sum_{p >= q} weight_p r_p. Rows that are not valid get 0. */
typedef struct rf_prefix_residual_args {
    rf_view x, x_hat, row_loss, row_last;
    const uint8_t *row_valid;
    int n_groups;
    float weight[RF_MAX_GROUPS];
    float scale;
} rf_prefix_residual_args;
rf_status rf_prefix_residual(rf_stream *s, const rf_prefix_residual_args *args);

/* d_value = rf_dot(w_dec[latent], g_b) for each entry; with groups g is [B, n D] and the latent's
 * group says which D columns. `out` [entries] takes the place of codes->d_value where not NULL. */
typedef struct rf_d_value_args {
    rf_codes *codes;
    float *out;
    rf_view w_dec, g;
    rf_latent_groups groups;
} rf_d_value_args;
rf_status rf_d_value(rf_stream *s, const rf_d_value_args *args);

/* g = scale * (x_hat - x) and row_loss[b] = |x_hat - x|^2 (canonical dot); rows that are not valid
 * get 0. g may be x or x_hat; g and row_loss may each be absent; x_hat [1, D] serves every row. */
typedef struct rf_residual_args {
    rf_view x, x_hat, g, row_loss;
    const uint8_t *row_valid;
    float scale;
} rf_residual_args;
rf_status rf_residual(rf_stream *s, const rf_residual_args *args);

/* Entries by latent, tokens rising: entry[latent_start[i] .. latent_start[i+1]-1] are positions in
 * the codes. */
typedef struct rf_latent_index {
    int64_t n_latents, capacity;
    int64_t *latent_start; /* [F + 1] */
    int32_t *entry;        /* [capacity] position in codes */
    int32_t *row;          /* [capacity] row of that entry */
} rf_latent_index;
rf_status rf_index_by_latent(rf_stream *s, const rf_codes *codes, rf_latent_index *index);

/* For each latent i, over the lists in order and their entries in token order, by FMA from +0:
 * d_w_dec[i] = sum value * g_row; d_w_enc[i] = sum d_value * x_row; d_b_enc[i] = sum d_value.
 * A list with groups takes g of the latent's group; one whose g is absent leaves d_w_dec alone.
 * touched[i] = the latent has an entry. The others' gradients are zero: d_b_enc says so, and their
 * rows of d_w_enc and d_w_dec are left as they were (rf_update_args reads `touched`). With
 * `accumulate` sums begin with what the three gradients hold, untouched rows count as they are, and
 * `squares` is not written. */
typedef struct rf_by_latent_args {
    int n_lists;
    const rf_codes *codes[RF_MAX_LISTS];
    const rf_latent_index *index[RF_MAX_LISTS];
    rf_view g[RF_MAX_LISTS]; /* [B, D_out], [B, n D_out] with groups, or absent */
    rf_latent_groups groups[RF_MAX_LISTS];
    rf_view x; /* [B, D_in] */
    rf_view d_w_enc, d_b_enc, d_w_dec;
    bool accumulate;
    uint8_t *touched; /* [F] */
    double *squares;  /* device, one double: sum of squares of the three gradients, canonical dots
                       * of rows, added as doubles in blocks of 256 latents */
} rf_by_latent_args;
rf_status rf_accumulate_by_latent(rf_stream *s, const rf_by_latent_args *args);

/* out [F] = beta * out + sum of entries[e] over the entries e of each latent, in token order;
 * `entries` runs beside the codes that `index` was made of. beta 0 or 1. */
rf_status rf_sum_by_latent(rf_stream *s, const rf_latent_index *index, const float *entries,
                           const rf_view *out, float beta);

/* ---- what a pre-activation becomes, and its penalties: on entries of codes (sparse), or on
 * matrices [n, F] (dense) ----------------------------------------------------------------------
 */

typedef enum rf_coder_act {
    RF_CODER_RELU,  /* z = h where h > 0 */
    RF_CODER_JUMP,  /* z = h where h > theta_i (Rajamanoharan et al. 2024b) */
    RF_CODER_GATED, /* z = relu(exp(r_i) (h - b_i) + m_i) where h > 0 (Rajamanoharan et al. 2024a):
                       h is the gate, b its bias, m the magnitude's */
} rf_coder_act;

typedef enum rf_penalty_kind {
    RF_PENALTY_NONE,
    RF_PENALTY_L1,    /* sum_i w_i z_i */
    RF_PENALTY_POWER, /* sum_i (w_i z_i)^p */
    RF_PENALTY_NORM,  /* (sum_i (w_i z_i)^p)^(1/p) */
    RF_PENALTY_TANH,  /* sum_i tanh(p w_i z_i) */
    RF_PENALTY_L0,    /* number of z_i > 0: reaches thresholds only */
} rf_penalty_kind;

/* One act with its parameters; views that it does not use are absent. */
typedef struct rf_act_params {
    rf_coder_act act;
    rf_view threshold;           /* [F] theta of JUMP */
    rf_view b_gate, gain, b_mag; /* [F] b, r and m of GATED */
    rf_penalty_kind penalty;     /* of z; for GATED of relu(h) */
    rf_view weight;              /* [F] w, or absent: 1 */
    float p;                     /* of POWER, NORM and TANH */
} rf_act_params;

/* Sparse. z [entries] of pre-activations h [entries] (beside `codes`, whose latents are read):
 * GATED only, as the others' values are their pre-activations. z may not be h. */
rf_status rf_gated_values(rf_stream *s, const rf_act_params *params, const rf_codes *codes,
                          const float *h, float *z);
/* From d_z and d_gate = dL/d relu(h) [entries]: d_h = d_gate + exp(r) d_z [z > 0] (may be d_gate),
 * d_mag = d_z [z > 0] (may be d_z), d_gain = d_mag exp(r) (h - b). */
typedef struct rf_gated_values_grad_args {
    const rf_codes *codes;
    const float *h, *z, *d_z, *d_gate;
    float *d_h, *d_mag, *d_gain;
} rf_gated_values_grad_args;
rf_status rf_gated_values_grad(rf_stream *s, const rf_act_params *params,
                               const rf_gated_values_grad_args *args);
/* Entries of a WINDOW list (h = codes->value, <w_dec_i, g_b> = codes->d_value) of JUMP: the
 * straight-through estimators with a rectangle of width eps. With d_z = <w_dec_i, g_b> + scale *
 * the penalty's derivative at z (h where h > theta_i, else 0; at 0 that of L1 is w, of TANH p w, of
 * POWER and NORM 0): d_threshold[e] = -(theta_i / eps) d_z - l0 / eps, and codes->d_value becomes
 * what reaches h where that is wanted, (theta_i / eps) d_z + l0 / eps.
 */
typedef struct rf_jump_window_grad_args {
    rf_codes *codes;
    float *d_threshold; /* [entries] */
    float eps, l0, scale;
    rf_view row_penalty; /* [B] of NORM, as rf_penalty left it; absent otherwise */
} rf_jump_window_grad_args;
rf_status rf_jump_window_grad(rf_stream *s, const rf_act_params *params,
                              const rf_jump_window_grad_args *args);
/* row_penalty[b] = the penalty of the row's values (`value` [entries], or NULL: the codes'), and
 * d_value[e] += scale * its derivative (d_value NULL: not wanted). For POWER and NORM with p < 1
 * the derivative is that at max(z, 1e-6). */
typedef struct rf_penalty_args {
    const rf_codes *codes;
    const float *value;
    float *d_value;
    rf_view row_penalty; /* [B] */
    float scale;
} rf_penalty_args;
rf_status rf_penalty(rf_stream *s, const rf_act_params *params, const rf_penalty_args *args);

/* Dense, on one micro-batch: h [n, F] holds pre-activations with their bias; `product` (NULL: they
 * are there) makes them first, its c being h. z [n, F] gets the values (may be h but for GATED;
 * rows that are not valid: 0); n_active (I64 [F]) += count of z > 0 of valid rows, row_active (I64
 * [n]) = count of the row, row_penalty [n] = its penalty, row_norm [n] = what the derivative of
 * NORM needs (absent otherwise). The same bits with `product` as after it. */
typedef struct rf_dense_values_args {
    const rf_matmul_args *product;
    rf_view h, z, n_active, row_active, row_penalty, row_norm;
    const uint8_t *row_valid;
} rf_dense_values_args;
rf_status rf_dense_values(rf_stream *s, const rf_act_params *params,
                          const rf_dense_values_args *args);
/* z = relu(h) of valid rows, 0 of others: the gate's own reconstruction. */
rf_status rf_dense_relu(rf_stream *s, const rf_view *h, const rf_view *z, const uint8_t *row_valid);
/* Latents first_latent .. first_latent + f - 1 of a micro-batch: from h [n, f] and d_z = g .
 * w_dec^T [n, f], which `product` makes first where it is given (and d_gate [n, f] of GATED), d_z
 * becomes dL/dh, penalty's derivative times `scale` included. Views of params are whole, [F]. d_h
 * (dL/dh itself), d_threshold (JUMP: by rectangle of width eps, as rf_jump_window_grad, from values
 * h; with `ste_to_input` it reaches h too), d_b_gate, d_gain, d_b_mag (GATED): [F] whole, += sums
 * over rows, in blocks combined in order; absent where not wanted. The same bits with `product` as
 * after it. */
typedef struct rf_dense_grad_args {
    const rf_matmul_args *product;
    rf_view h, d_z, d_gate, row_norm;
    rf_view d_h, d_threshold, d_b_gate, d_gain, d_b_mag;
    const uint8_t *row_valid;
    int64_t first_latent;
    float scale, eps, l0;
    bool ste_to_input;
} rf_dense_grad_args;
rf_status rf_dense_grad(rf_stream *s, const rf_act_params *params, const rf_dense_grad_args *args);

/* out [d] = alpha * sum over rows b of weight[b] * x[b] (weight absent: 1), in fixed blocks
 * combined in order; beta 0 or 1. */
typedef struct rf_row_sum_args {
    rf_view x, weight, out;
    float alpha, beta;
} rf_row_sum_args;
rf_status rf_row_sum(rf_stream *s, const rf_row_sum_args *args);

/* out (device, one double) = sum of squares of x [n, d]: canonical dot of each row, added as
 * doubles in blocks of 256 rows; beta 0 or 1. */
rf_status rf_sum_squares(rf_stream *s, const rf_view *x, double *out, double beta);

/* ---- rows: rules, updates -----------------------------------------------------------------------
 */

/* Columns in segments (the sites of a crosscoder): segment l is columns end[l-1] .. end[l] - 1.
 * n <= 1: one segment. */
enum { RF_MAX_SITES = 32 };
typedef struct rf_segments {
    int n;
    int64_t end[RF_MAX_SITES];
} rf_segments;

typedef enum rf_row_rule {
    RF_ROW_FREE,      /* nothing */
    RF_ROW_UNIT_NORM, /* the sum over segments of |segment| is 1: gradient's component along the
                         constraint's normal removed before, row divided by the sum after */
    RF_ROW_BALL,      /* |row| <= radius: longer rows are scaled back after */
    RF_ROW_SIMPLEX,   /* entries >= 0 that sum to 1: max(0, .) and divided by the sum after; a row
                         that is all <= 0 becomes uniform */
} rf_row_rule;

typedef enum rf_update_kind {
    RF_UPDATE_ADAM,   /* Kingma & Ba 2015; decoupled weight decay, Loshchilov & Hutter 2019 */
    RF_UPDATE_SIGNUM, /* Bernstein et al. 2018: m = beta1 m + (1 - beta1) g; w -= lr sign(m) */
    RF_UPDATE_SCHEDULE_FREE, /* AdamW of Defazio et al. 2024: w holds y, m the iterate z, v Adam's
                                v, average x; y = (1 - beta1) z + beta1 x */
    RF_UPDATE_PLAIN,         /* w -= lr g: of a direction that is made elsewhere (Muon) */
} rf_update_kind;

/* One pass a row: g *= *grad_scale (device); project; moments; step; rule. Adam: w -= lr * (m / (1
 * - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps). Schedule-free: z -= lr * (g / (sqrt(v / (1 -
 * beta2^t)) + eps) + weight_decay y), x += average_weight (z - x); the rule holds for z, x and the
 * y that is made of these. */
typedef struct rf_update_args {
    rf_update_kind kind;
    rf_view w, g, m, v, average; /* [n, d]; absent where the kind has none */
    const uint8_t *touched;      /* [n] or NULL; 0: the row's gradient is zero, g is not read */
    rf_row_rule rule;
    rf_segments segments;
    float radius;            /* of RF_ROW_BALL */
    const float *grad_scale; /* device, or NULL for 1 */
    double lr, beta1, beta2, eps, weight_decay;
    double average_weight; /* schedule-free: lr_t^2 / sum of lr^2 */
    int64_t t;             /* from 1 */
} rf_update_args;
rf_status rf_update_rows(rf_stream *s, const rf_update_args *args);
/* The rule alone, on rows w [n, d]. UNIT_NORM: rows of norm 0 stay. */
rf_status rf_apply_row_rule(rf_stream *s, const rf_view *w, rf_row_rule rule,
                            const rf_segments *segments, float radius);
/* out [n] = sum over segments of |segment of row| (canonical). */
rf_status rf_row_norms(rf_stream *s, const rf_view *w, const rf_segments *segments,
                       const rf_view *out);
/* Its gradient: d_w[i] += scale[i] * sum over segments of segment / |segment| (0 where that is 0).
 */
rf_status rf_row_norms_grad(rf_stream *s, const rf_view *w, const rf_segments *segments,
                            const rf_view *scale, const rf_view *d_w);

/* ---- tokens as a coder sees them ----------------------------------------------------------------
 */

typedef enum rf_token_norm {
    RF_NORM_NONE,
    RF_NORM_LAYER,    /* (x - mean) / (s + 1e-5) of each token, s its sample deviation (n - 1) */
    RF_NORM_CONSTANT, /* x sqrt(D) / |x| of each token; zero tokens stay */
    RF_NORM_AVERAGE,  /* x times one constant: the sample's mean |x| becomes sqrt(D) */
    RF_NORM_PER_DIMENSION, /* (x_j - mean_j) / deviation_j of the sample */
} rf_token_norm;

/* to = (from - shift) * scale: per token, with shift and scale left in row_shift and row_scale [n];
 * or per dimension, by `shift` and `scale` [D]. Segments are normalised apart (row_shift and
 * row_scale are then [n, n_segments]). `subtract` [D] (absent: 0) is taken off at the end. Rows
 * that are not valid become 0. `to` may be `from`. */
typedef struct rf_normalise_args {
    rf_token_norm norm;
    rf_view from, to;               /* [n, D] */
    rf_view shift, scale, subtract; /* [D] */
    rf_view row_shift, row_scale;   /* [n, max(1, segments)] of LAYER and CONSTANT */
    rf_segments segments;
    const uint8_t *row_valid;
} rf_normalise_args;
rf_status rf_normalise_tokens(rf_stream *s, const rf_normalise_args *args);
/* The way back, from -> to: to = from / scale + shift (row_shift and row_scale are read, and
 * `subtract` is not). Rows that are not valid get shift. */
rf_status rf_denormalise_tokens(rf_stream *s, const rf_normalise_args *args);

/* ---- who fires --------------------------------------------------------------------------------
 */

/* since_fired[i] (I64 [F], tokens) = 0 where latent i fired, else += n_tokens; n_fired (device, one
 * int64) = how many fired. Fired: has an entry in `index` (n_active absent), or n_active[i] > 0. */
typedef struct rf_track_fired_args {
    const rf_latent_index *index;
    rf_view n_active, since_fired;
    int64_t n_tokens;
    int64_t *n_fired;
} rf_track_fired_args;
rf_status rf_track_fired(rf_stream *s, const rf_track_fired_args *args);
/* dead[i] = since_fired[i] >= limit; n_dead (device, one int64) = how many are. */
rf_status rf_mark_dead(rf_stream *s, const rf_view *since_fired, int64_t limit, uint8_t *dead,
                       int64_t *n_dead);

/* ---- ranks: device buffers over a communicator
 * ---------------------------------------------------- */

/* As rf_comm_allgatherv, rf_comm_alltoallv and rf_comm_sum_f32, for device memory. Collective over
 * `comm`. */
rf_status rf_all_gather(rf_stream *s, const rf_comm *comm, const void *send, void *recv,
                        const int64_t *recv_bytes);
rf_status rf_all_to_all(rf_stream *s, const rf_comm *comm, const void *send,
                        const int64_t *send_bytes, void *recv, const int64_t *recv_bytes);
rf_status rf_all_sum_f32(rf_stream *s, const rf_comm *comm, float *data, int64_t n);
rf_status rf_all_sum_i64(rf_stream *s, const rf_comm *comm, int64_t *data, int64_t n);

/* ---- the interface that a backend fills
 * ------------------------------------------------------------ */

typedef struct rf_backend_ops {
    const char *name;
    void (*destroy)(rf_backend *be);
    rf_status (*alloc)(rf_backend *be, rf_memory kind, size_t n_bytes, void **out);
    void (*free)(rf_backend *be, rf_memory kind, void *p);
    void (*memory)(const rf_backend *be, int64_t *free_bytes, int64_t *all_bytes);
    rf_status (*stream_create)(rf_backend *be, rf_stream **out);
    void (*stream_destroy)(rf_stream *s);
    rf_status (*stream_synchronise)(rf_stream *s);
    rf_status (*event_create)(rf_backend *be, rf_event **out);
    void (*event_destroy)(rf_event *e);
    rf_status (*event_record)(rf_event *e, rf_stream *s);
    rf_status (*event_wait)(rf_event *e, rf_stream *s);
    rf_status (*copy_in)(rf_stream *s, void *dst, const void *src, size_t n_bytes);
    rf_status (*copy_out)(rf_stream *s, void *dst, const void *src, size_t n_bytes);
    rf_status (*copy_within)(rf_stream *s, void *dst, const void *src, size_t n_bytes);
    rf_status (*fill_bytes)(rf_stream *s, void *dst, int value, size_t n_bytes);

    rf_status (*matmul)(rf_stream *s, const rf_matmul_args *args);
    rf_status (*layer_norm)(rf_stream *s, const rf_layer_norm_args *args);
    rf_status (*attention)(rf_stream *s, const rf_attention_args *args);
    rf_status (*attention_scores)(rf_stream *s, const rf_attention_args *args);
    rf_status (*attention_mix)(rf_stream *s, const rf_attention_args *args);
    rf_status (*softmax_rows)(rf_stream *s, const rf_view *x);
    rf_status (*activation)(rf_stream *s, rf_act act, const rf_view *x, const rf_view *y);
    rf_status (*add)(rf_stream *s, const rf_add_args *args);
    rf_status (*pixel_values)(rf_stream *s, const rf_pixel_values_args *args);
    rf_status (*patch_rows)(rf_stream *s, const rf_patch_rows_args *args);
    rf_status (*embed_tokens)(rf_stream *s, const rf_embed_tokens_args *args);
    rf_status (*gather_rows)(rf_stream *s, const rf_view *src, const rf_view *index,
                             const rf_view *dst);
    rf_status (*convert)(rf_stream *s, const rf_view *x, const rf_view *y);
    rf_status (*gated)(rf_stream *s, rf_act act, const rf_view *gate, const rf_view *x,
                       const rf_view *y);
    rf_status (*rotary)(rf_stream *s, const rf_rotary_args *args);
    rf_status (*mean_tokens)(rf_stream *s, const rf_view *x, int64_t first, int64_t n,
                             const rf_view *y);

    rf_status (*layer_norm_grad)(rf_stream *s, const rf_layer_norm_grad_args *args);
    rf_status (*layer_norm_scale_grad)(rf_stream *s, const rf_layer_norm_grad_args *args);
    rf_status (*attention_mix_grad)(rf_stream *s, const rf_attention_grad_args *args);
    rf_status (*attention_softmax_grad)(rf_stream *s, const rf_attention_grad_args *args);
    rf_status (*attention_scores_grad)(rf_stream *s, const rf_attention_grad_args *args);
    rf_status (*activation_grad)(rf_stream *s, rf_act act, const rf_view *x, const rf_view *d_y,
                                 const rf_view *d_x);
    rf_status (*gated_grad)(rf_stream *s, const rf_gated_grad_args *args);
    rf_status (*column_dot)(rf_stream *s, const rf_view *x, const rf_view *y, const rf_view *out);
    rf_status (*mean_tokens_grad)(rf_stream *s, const rf_view *d_y, int64_t first, int64_t n,
                                  const rf_view *d_x);
    rf_status (*patch_rows_grad)(rf_stream *s, const rf_patch_rows_args *args);
    rf_status (*embed_tokens_grad)(rf_stream *s, const rf_embed_tokens_args *args);
    rf_status (*gather_rows_grad)(rf_stream *s, const rf_view *dst, const rf_view *index,
                                  const rf_view *src);

    rf_status (*encode)(rf_stream *s, const rf_encode_args *args);
    rf_status (*decode)(rf_stream *s, const rf_decode_args *args);
    rf_status (*d_value)(rf_stream *s, const rf_d_value_args *args);
    rf_status (*residual)(rf_stream *s, const rf_residual_args *args);
    rf_status (*index_by_latent)(rf_stream *s, const rf_codes *codes, rf_latent_index *index);
    rf_status (*accumulate_by_latent)(rf_stream *s, const rf_by_latent_args *args);
    rf_status (*row_sum)(rf_stream *s, const rf_row_sum_args *args);
    rf_status (*sum_squares)(rf_stream *s, const rf_view *x, double *out, double beta);
    rf_status (*codes_histogram)(rf_stream *s, const rf_codes *codes, rf_class_rows rows,
                                 int32_t upper, int64_t *counts);
    rf_status (*codes_keep)(rf_stream *s, rf_codes *codes, rf_class_rows rows, float threshold,
                            int64_t n_ties);
    rf_status (*prefix_residual)(rf_stream *s, const rf_prefix_residual_args *args);
    rf_status (*sum_by_latent)(rf_stream *s, const rf_latent_index *index, const float *entries,
                               const rf_view *out, float beta);
    rf_status (*gated_values)(rf_stream *s, const rf_act_params *params, const rf_codes *codes,
                              const float *h, float *z);
    rf_status (*gated_values_grad)(rf_stream *s, const rf_act_params *params,
                                   const rf_gated_values_grad_args *args);
    rf_status (*jump_window_grad)(rf_stream *s, const rf_act_params *params,
                                  const rf_jump_window_grad_args *args);
    rf_status (*penalty)(rf_stream *s, const rf_act_params *params, const rf_penalty_args *args);
    rf_status (*dense_values)(rf_stream *s, const rf_act_params *params,
                              const rf_dense_values_args *args);
    rf_status (*dense_relu)(rf_stream *s, const rf_view *h, const rf_view *z,
                            const uint8_t *row_valid);
    rf_status (*dense_grad)(rf_stream *s, const rf_act_params *params,
                            const rf_dense_grad_args *args);
    rf_status (*update_rows)(rf_stream *s, const rf_update_args *args);
    rf_status (*apply_row_rule)(rf_stream *s, const rf_view *w, rf_row_rule rule,
                                const rf_segments *segments, float radius);
    rf_status (*row_norms)(rf_stream *s, const rf_view *w, const rf_segments *segments,
                           const rf_view *out);
    rf_status (*row_norms_grad)(rf_stream *s, const rf_view *w, const rf_segments *segments,
                                const rf_view *scale, const rf_view *d_w);
    rf_status (*normalise_tokens)(rf_stream *s, const rf_normalise_args *args);
    rf_status (*denormalise_tokens)(rf_stream *s, const rf_normalise_args *args);
    rf_status (*track_fired)(rf_stream *s, const rf_track_fired_args *args);
    rf_status (*mark_dead)(rf_stream *s, const rf_view *since_fired, int64_t limit, uint8_t *dead,
                           int64_t *n_dead);

    rf_status (*all_gather)(rf_stream *s, const rf_comm *comm, const void *send, void *recv,
                            const int64_t *recv_bytes);
    rf_status (*all_to_all)(rf_stream *s, const rf_comm *comm, const void *send,
                            const int64_t *send_bytes, void *recv, const int64_t *recv_bytes);
    rf_status (*all_sum_f32)(rf_stream *s, const rf_comm *comm, float *data, int64_t n);
    rf_status (*all_sum_i64)(rf_stream *s, const rf_comm *comm, int64_t *data, int64_t n);
} rf_backend_ops;

/* What every backend, stream and event begins with; a backend embeds them. */
struct rf_backend {
    const rf_backend_ops *ops;
    bool joins_products; /* dense_values and dense_grad take their product along; else it is none */
    char description[256];
};
struct rf_stream {
    rf_backend *backend;
};
struct rf_event {
    rf_backend *backend;
};

#ifdef __cplusplus
}
#endif

#endif
