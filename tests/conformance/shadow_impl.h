/* Private to tests/conformance: a call of an operation, its arrays, and rows of the table. */
#ifndef REFRACT_TESTS_SHADOW_IMPL_H
#define REFRACT_TESTS_SHADOW_IMPL_H

#include "shadow.h"

#include <pthread.h>
#include <stdio.h>

/* Every operation of rf_backend_ops, in its order, with its family. */
#define SHADOW_OPS(X)                                                                              \
    X(matmul, DENSE)                                                                               \
    X(layer_norm, DENSE)                                                                           \
    X(attention, DENSE)                                                                            \
    X(attention_scores, DENSE)                                                                     \
    X(attention_mix, DENSE)                                                                        \
    X(softmax_rows, DENSE)                                                                         \
    X(activation, DENSE)                                                                           \
    X(add, DENSE)                                                                                  \
    X(pixel_values, DENSE)                                                                         \
    X(patch_rows, DENSE)                                                                           \
    X(embed_tokens, DENSE)                                                                         \
    X(gather_rows, DENSE)                                                                          \
    X(convert, DENSE)                                                                              \
    X(gated, DENSE)                                                                                \
    X(rotary, DENSE)                                                                               \
    X(mean_tokens, DENSE)                                                                          \
    X(layer_norm_grad, DENSE)                                                                      \
    X(layer_norm_scale_grad, DENSE)                                                                \
    X(attention_mix_grad, DENSE)                                                                   \
    X(attention_softmax_grad, DENSE)                                                               \
    X(attention_scores_grad, DENSE)                                                                \
    X(activation_grad, DENSE)                                                                      \
    X(gated_grad, DENSE)                                                                           \
    X(column_dot, DENSE)                                                                           \
    X(mean_tokens_grad, DENSE)                                                                     \
    X(patch_rows_grad, DENSE)                                                                      \
    X(embed_tokens_grad, DENSE)                                                                    \
    X(gather_rows_grad, DENSE)                                                                     \
    X(encode, ENCODE)                                                                              \
    X(decode, CODES)                                                                               \
    X(d_value, CODES)                                                                              \
    X(residual, CODES)                                                                             \
    X(index_by_latent, CODES)                                                                      \
    X(accumulate_by_latent, CODES)                                                                 \
    X(row_sum, CODES)                                                                              \
    X(sum_squares, CODES)                                                                          \
    X(codes_histogram, ENCODE)                                                                     \
    X(codes_keep, ENCODE)                                                                          \
    X(prefix_residual, CODES)                                                                      \
    X(sum_by_latent, CODES)                                                                        \
    X(gated_values, CODES)                                                                         \
    X(gated_values_grad, CODES)                                                                    \
    X(jump_window_grad, CODES)                                                                     \
    X(penalty, CODES)                                                                              \
    X(dense_values, CODES)                                                                         \
    X(dense_relu, CODES)                                                                           \
    X(dense_grad, CODES)                                                                           \
    X(update_rows, CODES)                                                                          \
    X(apply_row_rule, CODES)                                                                       \
    X(row_norms, CODES)                                                                            \
    X(row_norms_grad, CODES)                                                                       \
    X(normalise_tokens, CODES)                                                                     \
    X(denormalise_tokens, CODES)                                                                   \
    X(track_fired, CODES)                                                                          \
    X(mark_dead, CODES)                                                                            \
    X(all_gather, RANKS)                                                                           \
    X(all_to_all, RANKS)                                                                           \
    X(all_sum_f32, RANKS)                                                                          \
    X(all_sum_i64, RANKS)

typedef enum shadow_op {
#define SHADOW_ENUM(op, family) SHADOW_##op,
    SHADOW_OPS(SHADOW_ENUM)
#undef SHADOW_ENUM
        SHADOW_N_OPS
} shadow_op;

/* rf_dtype and doubles. */
typedef enum shadow_type {
    SHADOW_F32 = RF_F32,
    SHADOW_F16 = RF_F16,
    SHADOW_BF16 = RF_BF16,
    SHADOW_I32 = RF_I32,
    SHADOW_I64 = RF_I64,
    SHADOW_U8 = RF_U8,
    SHADOW_F64
} shadow_type;
int64_t shadow_type_bytes(shadow_type type);

typedef enum shadow_role {
    SHADOW_IN,
    SHADOW_OUT,  /* written (or added to), and compared */
    SHADOW_SPACE /* may be written; what it holds is compared by the call's own check, or not */
} shadow_role;

#define SHADOW_BITS 0.0 /* a tolerance: none */

/* An array of a call. */
typedef struct shadow_array {
    const char *name;
    int list;   /* of several: which, else -1 */
    void *slot; /* the pointer to it in the device's arguments */
    char *host; /* the caller's */
    shadow_type type;
    int n_dims;
    int64_t shape[RF_MAX_DIMS], stride[RF_MAX_DIMS];
    shadow_role role;
    double tol;            /* per row (last dimension): |difference| <= tol max(|row|, floor) */
    const int64_t *n_used; /* of one dimension: how many elements mean something, once the
                              reference has run; NULL: all */
    size_t at;             /* of its first element in the images */
} shadow_array;

/* Addresses that arrays of a call cover; those that overlap are one range, so that what is in place
 * or interleaved for the caller is so for the device. */
typedef struct shadow_range {
    const char *begin, *end;
    size_t at; /* of `begin` in the images */
} shadow_range;

enum { SHADOW_MAX_ARRAYS = 64, SHADOW_MAX_CODES = RF_MAX_LISTS, SHADOW_TEXT = 1024 };

/* A stream: the reference's, which the caller has, and the device's beside it, with the block of
 * device memory that arrays of a call are copied to and its images on the host. */
typedef struct shadow_stream {
    rf_stream *reference, *device;
    char *block;      /* device memory */
    char *sent, *got; /* what was copied to it, and out of it after the operation */
    size_t n_bytes;
    struct shadow_stream *next;
} shadow_stream;

typedef struct shadow_backend {
    rf_backend base; /* first */
    rf_backend_ops ops;
    rf_backend *reference, *device;
    pthread_mutex_t lock; /* of the list of streams */
    shadow_stream *streams;
} shadow_backend;

typedef struct shadow_call {
    shadow_op op;
    shadow_stream *stream;
    const rf_backend_ops *reference, *device; /* whose functions the table calls */
    rf_stream *device_stream;
    rf_status status; /* of what was done for the device before it is called */
    int n_arrays, n_ranges, n_codes, n_indices;
    shadow_array arrays[SHADOW_MAX_ARRAYS];
    shadow_array absent; /* what is set in it nobody reads */
    shadow_range ranges[SHADOW_MAX_ARRAYS];
    rf_codes codes[SHADOW_MAX_CODES]; /* the device's */
    const rf_codes *host_codes[SHADOW_MAX_CODES];
    int codes_at[SHADOW_MAX_CODES]; /* the array that is their row_start; the others follow */
    rf_latent_index indices[RF_MAX_LISTS];
    size_t n_bytes;   /* of the images */
    double tol_scale; /* tolerances are multiplied by it */
    double floor;     /* of the norm of a row; < 0: 1 % of the rows' root mean square */
    /* What a row may be away beyond its tolerance, for what was sent; asked when it is. Or NULL. */
    double (*row_tol)(const struct shadow_call *c, const shadow_array *a, int64_t row);
    void *args;                           /* the device's, of the table's type */
    void (*check)(struct shadow_call *c); /* of what is SPACE, or NULL */
    bool has_failed, has_other_bits;
    double worst; /* error by row, of what has a tolerance */
    int64_t n_one_sided;
} shadow_call;

/* ---- a row of the table: where pointers stand in arguments of type T, and what they mean -------
 */

typedef enum shadow_kind {
    SHADOW_VIEW,  /* an rf_view */
    SHADOW_PLAIN, /* a pointer to elements */
    SHADOW_CODES, /* a pointer to rf_codes */
    SHADOW_INDEX, /* a pointer to rf_latent_index */
    SHADOW_HOOK   /* a function that looks further */
} shadow_kind;

/* How many elements a plain pointer has. */
typedef enum shadow_extent {
    SHADOW_ROWS,    /* shape[0] of the view at `of` */
    SHADOW_COLS,    /* shape[1] of it */
    SHADOW_ENTRIES, /* the entries of the codes at `of` */
    SHADOW_INDEXED, /* the entries of the index at `of` */
    SHADOW_CODE_ROWS,
    SHADOW_COUNT /* `of` of them */
} shadow_extent;

typedef struct shadow_field {
    const char *name;
    shadow_kind kind;
    shadow_role role; /* of codes: of d_value (OUT), or of all (SPACE) */
    size_t at;
    shadow_type type;
    shadow_extent extent;
    size_t of;
    double tol;
    bool is_list; /* one of several: the arguments begin with `int n_lists` */
    void (*hook)(shadow_call *c);
} shadow_field;

#define SHADOW_FIELD(kind_, role_, f)                                                              \
    .name = #f, .kind = (kind_), .role = (role_), .at = offsetof(T, f)
#define IN(f)                                                                                      \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_VIEW, SHADOW_IN, f)                                                    \
    }
#define OUT(f, tol_)                                                                               \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_VIEW, SHADOW_OUT, f), .tol = (tol_)                                    \
    }
#define IN_PLAIN(f, type_, extent_, of_)                                                           \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_PLAIN, SHADOW_IN, f),                                                  \
            .type = SHADOW_##type_, .extent = SHADOW_##extent_, .of = offsetof(T, of_)             \
    }
#define OUT_PLAIN(f, type_, extent_, of_, tol_)                                                    \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_PLAIN, SHADOW_OUT, f),                                                 \
            .type = SHADOW_##type_, .extent = SHADOW_##extent_, .of = offsetof(T, of_),            \
            .tol = (tol_)                                                                          \
    }
#define IN_COUNT(f, type_, n)                                                                      \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_PLAIN, SHADOW_IN, f), .type = SHADOW_##type_, .extent = SHADOW_COUNT,  \
                                                  .of = (n)                                        \
    }
#define OUT_COUNT(f, type_, n)                                                                     \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_PLAIN, SHADOW_OUT, f), .type = SHADOW_##type_, .extent = SHADOW_COUNT, \
                                                   .of = (n)                                       \
    }
#define IN_CODES(f)                                                                                \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_CODES, SHADOW_IN, f)                                                   \
    }
#define IN_CODES_OUT_GRAD(f, tol_)                                                                 \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_CODES, SHADOW_OUT, f), .tol = (tol_)                                   \
    }
#define OUT_CODES(f)                                                                               \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_CODES, SHADOW_SPACE, f)                                                \
    }
#define IN_INDEX(f)                                                                                \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_INDEX, SHADOW_IN, f)                                                   \
    }
#define OUT_INDEX(f)                                                                               \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_INDEX, SHADOW_OUT, f)                                                  \
    }
#define IN_LIST(f)                                                                                 \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_VIEW, SHADOW_IN, f), .is_list = true                                   \
    }
#define IN_CODES_LIST(f)                                                                           \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_CODES, SHADOW_IN, f), .is_list = true                                  \
    }
#define IN_INDEX_LIST(f)                                                                           \
    {                                                                                              \
        SHADOW_FIELD(SHADOW_INDEX, SHADOW_IN, f), .is_list = true                                  \
    }
#define HOOK(function)                                                                             \
    {                                                                                              \
        .name = #function, .kind = SHADOW_HOOK, .hook = (function)                                 \
    }

/* The function of the table for `op`. `decl`: its arguments; `pack`: they as a T; `device_args` and
 * `reference_args`: what the two are called with, `a` being the device's T. The reference goes
 * first: what it refuses the device need not survive. */
#define SHADOW_ROW(op_, type, decl, pack, device_args, reference_args, ...)                        \
    static rf_status run_##op_ decl                                                                \
    {                                                                                              \
        typedef type T;                                                                            \
        static const shadow_field fields[] = {__VA_ARGS__};                                        \
        T a = pack;                                                                                \
        shadow_call *c =                                                                           \
            shadow_begin(s, SHADOW_##op_, fields, sizeof fields / sizeof fields[0], &a);           \
        if (c == NULL) {                                                                           \
            return RF_ERR_NO_MEMORY;                                                               \
        }                                                                                          \
        rf_status status = c->reference->op_ reference_args;                                       \
        if (status == RF_OK) {                                                                     \
            shadow_compare(c, c->status != RF_OK ? c->status : c->device->op_ device_args);        \
        }                                                                                          \
        return shadow_end(c, status);                                                              \
    }
/* An operation of one struct of arguments. */
#define SHADOW_STRUCT(op, type, ...)                                                               \
    SHADOW_ROW(op, type, (rf_stream * s, const type *args), *args, (c->device_stream, &a),         \
               (s, args), __VA_ARGS__)

/* ---- shadow_call.c --------------------------------------------------------------------------- */

/* Collects the arrays that `fields` name in `args` (of the device: pointers are replaced) and sends
 * them. NULL without memory. */
shadow_call *shadow_begin(rf_stream *s, shadow_op op, const shadow_field *fields, size_t n_fields,
                          void *args);
/* Takes the device's arrays back and compares. */
void shadow_compare(shadow_call *c, rf_status status);
/* Counts, frees, and returns `status`. */
rf_status shadow_end(shadow_call *c, rf_status status);

/* For hooks. The array that *slot points to; nothing where it is NULL. */
shadow_array *shadow_add(shadow_call *c, const char *name, int list, void *slot, shadow_type type,
                         int64_t n, shadow_role role);
shadow_array *shadow_add_view(shadow_call *c, const char *name, int list, rf_view *v,
                              shadow_role role);
/* Replaces the pointer to codes in *slot, and returns it. `role` as in a field; n_rows < 0: theirs.
 */
const rf_codes *shadow_add_codes(shadow_call *c, int list, void *slot, int64_t n_rows,
                                 shadow_role role);

/* ---- shadow_compare.c ------------------------------------------------------------------------ */

/* What the device left. */
static inline char *shadow_got(const shadow_call *c, const shadow_array *a)
{
    return c->stream->got + a->at;
}
void shadow_compare_array(shadow_call *c, const shadow_array *a);
/* Nothing changed but arrays that are written. */
void shadow_compare_rest(shadow_call *c);
/* The call has failed, once: `fmt` says how. */
void shadow_fail(shadow_call *c, const shadow_array *a, const char *fmt, ...) RF_PRINTF(3, 4);
/* Byte offset of row i (of all dimensions but the last). */
int64_t shadow_row_at(const shadow_array *a, int64_t i);
int64_t shadow_n_rows(const shadow_array *a);
int64_t shadow_row_length(const shadow_array *a);

/* ---- shadow_report.c ------------------------------------------------------------------------- */

void shadow_count(const shadow_call *c, rf_status status);
void shadow_report_at_exit(void);

/* ---- arguments of operations that take them one by one ----------------------------------------
 */

typedef struct shadow_dense_values {
    rf_act_params params;
    rf_dense_values_args args;
} shadow_dense_values;

typedef struct shadow_dense_grad {
    rf_act_params params;
    rf_dense_grad_args args;
} shadow_dense_grad;

typedef struct shadow_ranks {
    const rf_comm *comm;
    const void *send;
    void *recv;
    const int64_t *send_bytes, *recv_bytes;
    int64_t n; /* of the sums: elements of recv */
} shadow_ranks;

/* ---- table_*.c ------------------------------------------------------------------------------- */

void shadow_fill_dense(rf_backend_ops *ops);
void shadow_fill_coder(rf_backend_ops *ops);
void shadow_fill_rows(rf_backend_ops *ops);
/* Hooks: shadow_hooks.c. */
void shadow_collect_encode(shadow_call *c);
void shadow_measure_gradients(shadow_call *c);
void shadow_allow_bends(shadow_call *c);
void shadow_measure_products(shadow_call *c);
void shadow_allow_tf32(shadow_call *c);
void shadow_measure_scores(shadow_call *c);
void shadow_allow_tf32_grad(shadow_call *c);
void shadow_collect_gather(shadow_call *c);
void shadow_collect_exchange(shadow_call *c);
void shadow_collect_sum_f32(shadow_call *c);
void shadow_collect_sum_i64(shadow_call *c);

#endif
