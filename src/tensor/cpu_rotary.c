/* Rotary positions: each pair of elements turned by its token's angles. */
#include "tensor_impl.h"

/* y = x * cos + turned(x) * sin of n pairs (a, b), turned(a) = -b, turned(b) = a; elements of a
 * kind are `step` apart. A pair is read before it is written. Products and sums are rounded apart,
 * as the models' own code does. */
static void turn(const float *xa, const float *xb, const float *cos_a, const float *cos_b,
                 const float *sin_a, const float *sin_b, float *ya, float *yb, int64_t n,
                 int64_t step)
{
    for (int64_t i = 0; i < n * step; i += step) {
        const float a = xa[i], b = xb[i];
        ya[i] = a * cos_a[i] - b * sin_a[i];
        yb[i] = b * cos_b[i] + a * sin_b[i];
    }
}

/* y = x * cos + turned^T(x * sin). */
static void turn_back(const float *xa, const float *xb, const float *cos_a, const float *cos_b,
                      const float *sin_a, const float *sin_b, float *ya, float *yb, int64_t n,
                      int64_t step)
{
    for (int64_t i = 0; i < n * step; i += step) {
        const float a = xa[i], b = xb[i];
        ya[i] = a * cos_a[i] + b * sin_b[i];
        yb[i] = b * cos_b[i] - a * sin_a[i];
    }
}

rf_status rf_cpu_rotary(rf_stream *s, const rf_rotary_args *args)
{
    const rf_view *x = &args->x, *y = &args->y;
    const int64_t n_tokens = x->shape[1], n_heads = x->shape[2], half = x->shape[3] / 2;
    const bool is_adjacent = args->pairs == RF_PAIRS_ADJACENT;
    const int64_t step = is_adjacent ? 2 : 1, partner = is_adjacent ? 1 : half;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < x->shape[0] * n_tokens; i++) {
        const int64_t b = i / n_tokens, t = i % n_tokens;
        const float *c = (const float *)args->cos.data + t * args->cos.stride[0];
        const float *sn = (const float *)args->sin.data + t * args->sin.stride[0];
        for (int64_t h = 0; h < n_heads; h++) {
            const float *from = (const float *)x->data + b * x->stride[0] + t * x->stride[1];
            float *to = (float *)y->data + b * y->stride[0] + t * y->stride[1] + h * y->stride[2];
            from += h * x->stride[2];
            (args->is_transposed ? turn_back : turn)(from, from + partner, c, c + partner, sn,
                                                     sn + partner, to, to + partner, half, step);
        }
    }
    return RF_OK;
}
