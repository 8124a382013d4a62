/* How far the product of a token and a latent may lie from their canonical dot. */
#include "encode_impl.h"

#include <float.h>
#include <math.h>

float rf_float_above(double v)
{
    float f = (float)v;
    return (double)f < v ? nextafterf(f, INFINITY) : f;
}

/* |row|, rounded up. In double squares of floats neither underflow nor overflow; where they are far
 * from both the float sum will do, which errs by less than 1 in 2^12 up to 2^11 additions of a
 * lane. */
static double row_norm(const float *row, int64_t n)
{
    double sum = (double)rf_dot(row, row, n);
    if (sum > 1e-20 && sum < 1e30 && n <= 32 * 2048) {
        return sqrt(sum * (1.0 + 0x1p-12));
    }
    sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)row[i] * (double)row[i];
    }
    return sqrt(sum * (1.0 + 1e-9));
}

/* |bf16(row) - row|, rounded up, of the elements that are normal numbers: at most 2^-8 |row|, and
 * about 0.4 of that. Others err by no more than FLT_MIN each, whether they are rounded or flushed.
 */
static double rounding_norm(const float *row, int64_t n)
{
    enum { PIECE = 512 };
    float e[PIECE];
    double sum = 0.0;
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t m = rf_min_i64(PIECE, n - i);
        rf_cpu_round_bf16(row + i, e, m);
        for (int64_t j = 0; j < m; j++) {
            float v = row[i + j], size = fabsf(v);
            float error = isinf(e[j]) ? 0x1p-8f * size : v - e[j];
            e[j] = size < FLT_MIN ? 0.0f : error;
        }
        double norm = row_norm(e, m);
        sum += norm * norm;
    }
    return sqrt(sum) * (1.0 + 1e-9);
}

/* |bf16(row) - row| / |row| where products are of rounded values. */
static double rounding_share(const rf_encode_plan *plan, const float *row, double norm)
{
    return plan->kind == RF_PRODUCT_F32 || !(norm > 0.0) ? 0.0
                                                         : rounding_norm(row, plan->width) / norm;
}

typedef struct extremes {
    double norm, bias, share; /* the largest of all latents */
    bool is_finite;
} extremes;

static extremes bound_latents(const rf_encode_plan *plan, int n_threads)
{
    const rf_encode_args *args = plan->args;
    const float *bias = args->b_enc.data;
    double share = 0.0;
#pragma omp parallel for schedule(static) num_threads(n_threads) reduction(max : share)
    for (int64_t i = 0; i < plan->n_latents; i++) {
        const float *row = rf_row(&args->w_enc, i);
        plan->norm[i] = rf_float_above(row_norm(row, plan->width));
        double mine = rounding_share(plan, row, (double)plan->norm[i]);
        share = mine > share ? mine : share;
    }
    extremes most = {.share = share, .is_finite = true};
    for (int64_t i = 0; i < plan->n_latents; i++) {
        most.norm = fmax(most.norm, (double)plan->norm[i]);
        most.bias = fmax(most.bias, fabs((double)bias[i]));
        most.is_finite = most.is_finite && isfinite(plan->norm[i]) && isfinite(bias[i]);
    }
    return most;
}

/* Product and canonical dot of n terms each err by at most g |x| |w|, g = n u / (1 - n u) (Higham
 * 2002, section 3.1; any order of summation); 8 more terms stand for the roundings of bias and
 * bounds. Rounding operands to bf16 moves the product by |x~ - x| |w~| + |x| |w~ - w| at most, and
 * |x~| |w~| is below 1.01 |x| |w|. Returns the largest |x| that is on. */
static double bound_rows(const rf_encode_plan *plan, const extremes *latents, int n_threads)
{
    const rf_encode_args *args = plan->args;
    double terms = (double)(plan->width + 8) * 0x1p-24, most = 0.0;
    double sums = 2.0 * terms / (1.0 - terms) * (plan->kind == RF_PRODUCT_F32 ? 1.0 : 1.01);
#pragma omp parallel for schedule(static) num_threads(n_threads) reduction(max : most)
    for (int64_t b = 0; b < plan->n_rows; b++) {
        const float *row = rf_row(&args->x, b);
        double norm = row_norm(row, plan->width), share = rounding_share(plan, row, norm);
        double rounding = (share + latents->share + share * latents->share) * (1.0 + 1e-9);
        plan->row_scale[b] = rf_float_above((sums + rounding) * norm);
        plan->row_on[b] =
            latents->is_finite && norm * latents->norm + latents->bias < (double)FLT_MAX / 4;
        most = plan->row_on[b] != 0 && norm > most ? norm : most;
    }
    return most;
}

/* FLT_MIN stands for each product that underflows or is flushed, and in bf16 for each operand. */
static void offset_latents(const rf_encode_plan *plan, double max_row)
{
    const float *bias = plan->args->b_enc.data;
    double tiny = 4.0 * (double)(plan->width + 8) * (double)FLT_MIN;
    double flushed = 2.0 * sqrt((double)plan->width) * (double)FLT_MIN;
    for (int64_t i = 0; i < plan->n_latents; i++) {
        double slack = 0x1p-21 * fabs((double)bias[i]) + tiny;
        if (plan->kind != RF_PRODUCT_F32) {
            slack += flushed * (max_row + (double)plan->norm[i]);
        }
        plan->offset_hi[i] = rf_float_above((double)bias[i] + slack);
        plan->offset_lo[i] = -rf_float_above(slack - (double)bias[i]);
    }
}

int64_t rf_encode_bound(const rf_encode_plan *plan, int n_threads)
{
    const uint8_t *row_valid = plan->args->row_valid;
    extremes latents = bound_latents(plan, n_threads);
    offset_latents(plan, bound_rows(plan, &latents, n_threads));
    int64_t n_refused = 0;
    for (int64_t b = 0; b < plan->n_rows; b++) {
        bool is_valid = row_valid == NULL || row_valid[b] != 0;
        n_refused += is_valid && plan->row_on[b] == 0;
        plan->row_on[b] = plan->row_on[b] != 0 && is_valid;
    }
    return n_refused;
}

/* A value v = fl(p + bias) > c, c a float, means p + bias > c before rounding as well; so p + (bias
 * - c), bias - c rounded up, is not below 0. */
void rf_encode_make_gate(const rf_encode_plan *plan, const rf_encode_list *list)
{
    const float *bias = plan->args->b_enc.data, *threshold = list->list->threshold.data;
    double half = (double)(0.5f * list->list->window);
    for (int64_t i = 0; i < plan->n_latents; i++) {
        double c = 0.0;
        if (list->list->rule == RF_SELECT_WINDOW) { /* two steps down: v > its lower end */
            float low = -rf_float_above(half - (double)threshold[i]);
            c = (double)nextafterf(low, -INFINITY);
        } else if (threshold != NULL && threshold[i] > 0.0f) {
            c = (double)threshold[i];
        }
        list->gate[i] = rf_float_above((double)bias[i] - c);
    }
}
