/* Layer norm: one row at a time, sums in 16 lanes. */
#include "tensor_impl.h"
#include "wide_impl.h"

#include <math.h>

RF_LOOP float sum_squared_deviations(const float *x, int64_t n, float mean)
{
    float lane[RF_LANES] = {0};
    int64_t whole = n / RF_LANES * RF_LANES;
    for (int64_t i = 0; i < whole; i += RF_LANES) {
        for (int j = 0; j < RF_LANES; j++) {
            float d = x[i + j] - mean;
            lane[j] = fmaf(d, d, lane[j]);
        }
    }
    for (int64_t i = whole; i < n; i++) {
        float d = x[i] - mean;
        lane[i - whole] = fmaf(d, d, lane[i - whole]);
    }
    return rf_halve_lanes(lane);
}

RF_LOOP void normalise_row(const float *x, int64_t n, float mean, float inverse,
                           const float *weight, const float *bias, float *y)
{
    if (weight != NULL && bias != NULL) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            y[i] = fmaf((x[i] - mean) * inverse, weight[i], bias[i]);
        }
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float v = (x[i] - mean) * inverse;
        v = weight != NULL ? v * weight[i] : v;
        y[i] = bias != NULL ? v + bias[i] : v;
    }
}

/* Row `i`. */
RF_LOOP void cpu_norm_row_loop(const rf_layer_norm_args *args, int64_t i)
{
    const int64_t d = args->x.shape[1];
    const float *row = (const float *)args->x.data + i * args->x.stride[0];
    const float *divisor = args->divisor.data;
    float *y = args->y.data, *scale = args->scale.data, root = 0.0f;
    const float mean = rf_sum_loop(row, d) / (float)d;
    if (divisor == NULL || scale != NULL) {
        root = sqrtf(sum_squared_deviations(row, d, mean) / (float)d + args->eps);
    }
    if (y != NULL) {
        normalise_row(row, d, mean, 1.0f / (divisor != NULL ? divisor[i] : root), args->weight.data,
                      args->bias.data, y + i * args->y.stride[0]);
    }
    if (scale != NULL) {
        scale[i] = root;
    }
}
RF_TWICE(cpu_norm_row, (const rf_layer_norm_args *args, int64_t i), (args, i))

rf_status rf_cpu_layer_norm(rf_stream *s, const rf_layer_norm_args *args)
{
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < args->x.shape[0]; i++) {
        rf_cpu_norm_row(args, i);
    }
    return RF_OK;
}
