/* Muon (Jordan et al. 2024): momentum, then five Newton-Schulz iterations, whose quintic drives all
 * singular values of a matrix of norm 1 to about 1 (0.7 to 1.2). */
#include "step_impl.h"

#include <math.h>

static const double quintic[3] = {3.4445, -4.7750, 2.0315};
enum { N_ITERATIONS = 5 };

int64_t rf_muon_work(int64_t n_rows, int64_t n_cols)
{
    const int64_t side = rf_min_i64(n_rows, n_cols);
    return n_rows * n_cols + 2 * side * side;
}

static rf_status clear(rf_stream *s, const rf_view *v)
{
    return rf_fill_bytes(s, v->data, 0, sizeof(float) * (size_t)rf_view_n_elems(v));
}

/* to = weight * from */
static rf_status scaled(rf_stream *s, const rf_view *to, const rf_view *from, double weight)
{
    rf_status status = RF_OK;
    RF_TRY(clear(s, to));
    RF_TRY(rf_rows_blend(
        s, &(rf_rows_blend_args){.to = *to, .from = *from, .keep = 1.0, .weight = weight}));
fail:
    return status;
}

/* momentum = beta momentum + (1 - beta) g; x = beta momentum + (1 - beta) g (Nesterov). */
static rf_status momentum_of(rf_stream *s, const rf_muon_args *args, const rf_view *x)
{
    rf_status status = RF_OK;
    rf_rows_blend_args blend = {.to = args->momentum,
                                .from = args->g,
                                .keep = args->beta,
                                .weight = 1.0 - args->beta,
                                .touched = args->touched,
                                .scale = args->grad_scale};
    RF_TRY(rf_rows_blend(s, &blend));
    RF_TRY(scaled(s, x, &args->momentum, args->beta));
    blend.to = *x;
    blend.keep = 1.0;
    RF_TRY(rf_rows_blend(s, &blend));
fail:
    return status;
}

/* y = a x + (b A + c A A) x with A = x x^T; for a tall x all is transposed. */
static rf_status iterate(rf_stream *s, const rf_view *x, const rf_view *y, float *work)
{
    rf_status status = RF_OK;
    const bool is_tall = x->shape[0] > x->shape[1];
    const int64_t side = rf_min_i64(x->shape[0], x->shape[1]);
    const rf_view gram = rf_view_2d(work, side, side),
                  polynomial = rf_view_2d(work + side * side, side, side);
    RF_TRY(rf_matmul(s, &(rf_matmul_args){.a = *x,
                                          .b = *x,
                                          .c = gram,
                                          .trans_a = is_tall ? RF_TRANS : RF_NO_TRANS,
                                          .trans_b = is_tall ? RF_NO_TRANS : RF_TRANS,
                                          .alpha = 1.0f}));
    RF_TRY(rf_matmul(
        s, &(rf_matmul_args){.a = gram, .b = gram, .c = polynomial, .alpha = (float)quintic[2]}));
    RF_TRY(rf_rows_blend(
        s,
        &(rf_rows_blend_args){.to = polynomial, .from = gram, .keep = 1.0, .weight = quintic[1]}));
    RF_TRY(rf_matmul(s, &(rf_matmul_args){.a = is_tall ? *x : polynomial,
                                          .b = is_tall ? polynomial : *x,
                                          .c = *y,
                                          .alpha = 1.0f}));
    RF_TRY(rf_rows_blend(
        s, &(rf_rows_blend_args){.to = *y, .from = *x, .keep = 1.0, .weight = quintic[0]}));
fail:
    return status;
}

/* x = y / |y|, the norm over all elements; `squares` is room for a double. */
static rf_status normalised(rf_stream *s, const rf_view *x, const rf_view *y, void *squares)
{
    rf_status status = RF_OK;
    double sum;
    RF_TRY(rf_sum_squares(s, y, squares, 0.0));
    RF_TRY(rf_copy_out(s, &sum, squares, sizeof sum));
    RF_TRY(rf_stream_synchronise(s));
    RF_TRY(scaled(s, x, y, 1.0 / fmax(sqrt(sum), 1e-7)));
fail:
    return status;
}

rf_status rf_muon_direction(rf_stream *s, const rf_muon_args *args)
{
    rf_status status = RF_OK;
    const int64_t n = args->g.shape[0], d = args->g.shape[1];
    float *const square = args->work, *const matrix = square + 2 * rf_min_i64(n * n, d * d);
    rf_view x = args->g, y = rf_view_2d(matrix, n, d);

    RF_TRY(momentum_of(s, args, &y));
    RF_TRY(normalised(s, &x, &y, square));
    for (int i = 0; i < N_ITERATIONS; i++) { /* an odd number: the last is not in args->g */
        RF_TRY(iterate(s, &x, &y, square));
        rf_view last = x;
        x = y;
        y = last;
    }
    const double ratio = args->rows_are_inputs ? (double)d / (double)n : (double)n / (double)d;
    RF_TRY(scaled(s, &y, &x, sqrt(fmax(1.0, ratio))));
fail:
    return status;
}
