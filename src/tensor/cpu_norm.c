/* Layer norm: one row at a time, sums in 16 lanes. */
#include "tensor_impl.h"

#include <math.h>

enum { LANES = 16 };

static float sum_squared_deviations(const float *x, int64_t n, float mean)
{
    float lane[LANES] = {0};
    int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            float d = x[i + j] - mean;
            lane[j] = fmaf(d, d, lane[j]);
        }
    }
    for (int64_t i = whole; i < n; i++) {
        float d = x[i] - mean;
        lane[i - whole] = fmaf(d, d, lane[i - whole]);
    }
    return rf_cpu_sum_lanes(lane, LANES);
}

static void normalise_row(const float *x, int64_t n, float mean, float inverse, const float *weight,
                          const float *bias, float *y)
{
    if (weight != NULL && bias != NULL) {
        for (int64_t i = 0; i < n; i++) {
            y[i] = fmaf((x[i] - mean) * inverse, weight[i], bias[i]);
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        float v = (x[i] - mean) * inverse;
        v = weight != NULL ? v * weight[i] : v;
        y[i] = bias != NULL ? v + bias[i] : v;
    }
}

rf_status rf_cpu_layer_norm(rf_stream *s, const rf_layer_norm_args *args)
{
    const int64_t n = args->x.shape[0], d = args->x.shape[1];
    const float *x = args->x.data, *divisor = args->divisor.data;
    float *y = args->y.data, *scale = args->scale.data;
    const int64_t x_stride = args->x.stride[0], y_stride = args->y.stride[0];

#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n; i++) {
        const float *row = x + i * x_stride;
        float mean = rf_cpu_sum_lanes(row, d) / (float)d;
        float root = 0.0f;
        if (divisor == NULL || scale != NULL) {
            root = sqrtf(sum_squared_deviations(row, d, mean) / (float)d + args->eps);
        }
        if (y != NULL) {
            normalise_row(row, d, mean, 1.0f / (divisor != NULL ? divisor[i] : root),
                          args->weight.data, args->bias.data, y + i * y_stride);
        }
        if (scale != NULL) {
            scale[i] = root;
        }
    }
    return RF_OK;
}
