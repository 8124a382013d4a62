/* The table, operations on codes and on what a pre-activation becomes. Those of exact rules have
 * the reference's bits (docs/determinism.md); what goes through exp and pow is near. */
#include "shadow_impl.h"

#define EXACT SHADOW_BITS
#define NEAR 5e-6   /* exp, pow and tanh in the last bits, and a row's sum of them */
#define CHAINS 1e-5 /* several behind one another */

SHADOW_STRUCT(encode, rf_encode_args, IN(x), IN(w_enc), IN(b_enc), IN_PLAIN(row_valid, U8, ROWS, x),
              OUT_COUNT(n_refused, I64, 1), HOOK(shadow_collect_encode))
SHADOW_STRUCT(decode, rf_decode_args, IN_CODES(codes), IN_PLAIN(value, F32, ENTRIES, codes),
              IN(w_dec), IN(bias), OUT(out, EXACT))
SHADOW_STRUCT(prefix_residual, rf_prefix_residual_args, IN(x), IN_PLAIN(row_valid, U8, ROWS, x),
              OUT(x_hat, EXACT), OUT(row_loss, EXACT), OUT(row_last, EXACT))
SHADOW_STRUCT(d_value, rf_d_value_args, IN_CODES_OUT_GRAD(codes, EXACT), IN(w_dec), IN(g),
              OUT_PLAIN(out, F32, ENTRIES, codes, EXACT))
SHADOW_STRUCT(residual, rf_residual_args, IN(x), IN(x_hat), IN_PLAIN(row_valid, U8, ROWS, x),
              OUT(g, EXACT), OUT(row_loss, EXACT))
SHADOW_STRUCT(accumulate_by_latent, rf_by_latent_args, IN_CODES_LIST(codes), IN_INDEX_LIST(index),
              IN_LIST(g), IN(x), OUT(d_w_enc, EXACT), OUT(d_b_enc, EXACT), OUT(d_w_dec, EXACT),
              OUT_PLAIN(touched, U8, ROWS, d_w_enc, EXACT), OUT_COUNT(squares, F64, 1))
SHADOW_STRUCT(row_sum, rf_row_sum_args, IN(x), IN(weight), OUT(out, EXACT))

typedef struct code_args {
    const rf_codes *codes;
    rf_latent_index *index;
    const uint8_t *row_class;
    int64_t *counts;
} code_args;
SHADOW_ROW(index_by_latent, code_args,
           (rf_stream * s, const rf_codes *codes, rf_latent_index *index),
           ((T){.codes = codes, .index = index}), (c->device_stream, a.codes, a.index),
           (s, codes, index), IN_CODES(codes), OUT_INDEX(index))
SHADOW_ROW(codes_histogram, code_args,
           (rf_stream * s, const rf_codes *codes, rf_class_rows rows, int32_t upper,
            int64_t *counts),
           ((T){.codes = codes, .row_class = rows.row_class, .counts = counts}),
           (c->device_stream, a.codes, (rf_class_rows){a.row_class, rows.which}, upper, a.counts),
           (s, codes, rows, upper, counts), IN_CODES(codes),
           IN_PLAIN(row_class, U8, CODE_ROWS, codes), OUT_COUNT(counts, I64, 65536))

typedef struct keep_args {
    rf_codes *codes;
    const uint8_t *row_class;
} keep_args;
SHADOW_ROW(codes_keep, keep_args,
           (rf_stream * s, rf_codes *codes, rf_class_rows rows, float threshold, int64_t n_ties),
           ((T){codes, rows.row_class}),
           (c->device_stream, a.codes, (rf_class_rows){a.row_class, rows.which}, threshold, n_ties),
           (s, codes, rows, threshold, n_ties), OUT_CODES(codes),
           IN_PLAIN(row_class, U8, CODE_ROWS, codes))

typedef struct sum_args {
    const rf_latent_index *index;
    const float *entries;
    rf_view out;
} sum_args;
SHADOW_ROW(sum_by_latent, sum_args,
           (rf_stream * s, const rf_latent_index *index, const float *entries, const rf_view *out,
            float beta),
           ((T){index, entries, *out}), (c->device_stream, a.index, a.entries, &a.out, beta),
           (s, index, entries, out, beta), IN_INDEX(index), IN_PLAIN(entries, F32, INDEXED, index),
           OUT(out, EXACT))

typedef struct squares_args {
    rf_view x;
    double *out;
} squares_args;
SHADOW_ROW(sum_squares, squares_args, (rf_stream * s, const rf_view *x, double *out, double beta),
           ((T){*x, out}), (c->device_stream, &a.x, a.out, beta), (s, x, out, beta), IN(x),
           OUT_COUNT(out, F64, 1))

/* ---- acts and penalties -------------------------------------------------------------------- */

#define PARAMS                                                                                     \
    IN(params.threshold), IN(params.b_gate), IN(params.gain), IN(params.b_mag), IN(params.weight)

typedef struct gated_args {
    rf_act_params params;
    const rf_codes *codes;
    const float *h;
    float *z;
} gated_args;
SHADOW_ROW(gated_values, gated_args,
           (rf_stream * s, const rf_act_params *params, const rf_codes *codes, const float *h,
            float *z),
           ((T){*params, codes, h, z}), (c->device_stream, &a.params, a.codes, a.h, a.z),
           (s, params, codes, h, z), PARAMS, IN_CODES(codes), IN_PLAIN(h, F32, ENTRIES, codes),
           OUT_PLAIN(z, F32, ENTRIES, codes, NEAR))

typedef struct gated_grad_args {
    rf_act_params params;
    rf_gated_values_grad_args args;
} gated_grad_args;
SHADOW_ROW(gated_values_grad, gated_grad_args,
           (rf_stream * s, const rf_act_params *params, const rf_gated_values_grad_args *args),
           ((T){*params, *args}), (c->device_stream, &a.params, &a.args), (s, params, args), PARAMS,
           IN_CODES(args.codes), IN_PLAIN(args.h, F32, ENTRIES, args.codes),
           IN_PLAIN(args.z, F32, ENTRIES, args.codes), IN_PLAIN(args.d_z, F32, ENTRIES, args.codes),
           IN_PLAIN(args.d_gate, F32, ENTRIES, args.codes),
           OUT_PLAIN(args.d_h, F32, ENTRIES, args.codes, NEAR),
           OUT_PLAIN(args.d_mag, F32, ENTRIES, args.codes, NEAR),
           OUT_PLAIN(args.d_gain, F32, ENTRIES, args.codes, NEAR))

typedef struct window_args {
    rf_act_params params;
    rf_jump_window_grad_args args;
} window_args;
SHADOW_ROW(jump_window_grad, window_args,
           (rf_stream * s, const rf_act_params *params, const rf_jump_window_grad_args *args),
           ((T){*params, *args}), (c->device_stream, &a.params, &a.args), (s, params, args), PARAMS,
           IN_CODES_OUT_GRAD(args.codes, NEAR), IN(args.row_penalty),
           OUT_PLAIN(args.d_threshold, F32, ENTRIES, args.codes, NEAR))

typedef struct penalty_args {
    rf_act_params params;
    rf_penalty_args args;
} penalty_args;
SHADOW_ROW(penalty, penalty_args,
           (rf_stream * s, const rf_act_params *params, const rf_penalty_args *args),
           ((T){*params, *args}), (c->device_stream, &a.params, &a.args), (s, params, args), PARAMS,
           IN_CODES(args.codes), IN_PLAIN(args.value, F32, ENTRIES, args.codes),
           OUT_PLAIN(args.d_value, F32, ENTRIES, args.codes, NEAR), OUT(args.row_penalty, NEAR))

SHADOW_ROW(dense_values, shadow_dense_values,
           (rf_stream * s, const rf_act_params *params, const rf_dense_values_args *args),
           ((T){*params, *args}), (c->device_stream, &a.params, &a.args), (s, params, args), PARAMS,
           IN(args.h), IN_PLAIN(args.row_valid, U8, ROWS, args.h), OUT(args.z, NEAR),
           OUT(args.n_active, EXACT), OUT(args.row_active, EXACT), OUT(args.row_penalty, NEAR),
           OUT(args.row_norm, NEAR), HOOK(shadow_allow_bends))

typedef struct relu_args {
    rf_view h, z;
    const uint8_t *row_valid;
} relu_args;
SHADOW_ROW(dense_relu, relu_args,
           (rf_stream * s, const rf_view *h, const rf_view *z, const uint8_t *row_valid),
           ((T){*h, *z, row_valid}), (c->device_stream, &a.h, &a.z, a.row_valid),
           (s, h, z, row_valid), IN(h), IN_PLAIN(row_valid, U8, ROWS, h), OUT(z, EXACT))

SHADOW_ROW(dense_grad, shadow_dense_grad,
           (rf_stream * s, const rf_act_params *params, const rf_dense_grad_args *args),
           ((T){*params, *args}), (c->device_stream, &a.params, &a.args), (s, params, args), PARAMS,
           IN(args.h), IN(args.d_gate), IN(args.row_norm),
           IN_PLAIN(args.row_valid, U8, ROWS, args.h), OUT(args.d_z, CHAINS), OUT(args.d_h, CHAINS),
           OUT(args.d_threshold, CHAINS), OUT(args.d_b_gate, CHAINS), OUT(args.d_gain, CHAINS),
           OUT(args.d_b_mag, CHAINS), HOOK(shadow_measure_gradients))

void shadow_fill_coder(rf_backend_ops *ops)
{
    ops->encode = run_encode;
    ops->decode = run_decode;
    ops->d_value = run_d_value;
    ops->residual = run_residual;
    ops->index_by_latent = run_index_by_latent;
    ops->accumulate_by_latent = run_accumulate_by_latent;
    ops->row_sum = run_row_sum;
    ops->sum_squares = run_sum_squares;
    ops->codes_histogram = run_codes_histogram;
    ops->codes_keep = run_codes_keep;
    ops->prefix_residual = run_prefix_residual;
    ops->sum_by_latent = run_sum_by_latent;
    ops->gated_values = run_gated_values;
    ops->gated_values_grad = run_gated_values_grad;
    ops->jump_window_grad = run_jump_window_grad;
    ops->penalty = run_penalty;
    ops->dense_values = run_dense_values;
    ops->dense_relu = run_dense_relu;
    ops->dense_grad = run_dense_grad;
}
