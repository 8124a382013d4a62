/* What rows of parameters are held to: unit norm over segments, a ball, the simplex. */
#include "coder_ops_impl.h"

#include <math.h>

/* Segment l of rows of n columns begins where the one before ended. */
typedef struct segment {
    int64_t first, count;
} segment;

static int n_segments(const rf_segments *segments)
{
    return segments->n > 1 ? segments->n : 1;
}

static segment segment_at(const rf_segments *segments, int l, int64_t n)
{
    if (segments->n <= 1) {
        return (segment){0, n};
    }
    int64_t first = l == 0 ? 0 : segments->end[l - 1];
    return (segment){first, segments->end[l] - first};
}

static float norm_of(const float *w, segment at)
{
    return sqrtf(rf_dot(w + at.first, w + at.first, at.count));
}

static float sum_of_norms(const float *w, int64_t n, const rf_segments *segments)
{
    float sum = norm_of(w, segment_at(segments, 0, n));
    for (int l = 1; l < n_segments(segments); l++) {
        sum += norm_of(w, segment_at(segments, l, n));
    }
    return sum;
}

static void divide(float *w, int64_t n, float by)
{
    for (int64_t d = 0; d < n; d++) {
        w[d] = w[d] / by;
    }
}

/* NaN stays to be seen. */
static void to_simplex(float *w, int64_t n)
{
    for (int64_t d = 0; d < n; d++) {
        w[d] = w[d] < 0.0f ? 0.0f : w[d];
    }
    float sum = rf_cpu_sum_lanes(w, n);
    for (int64_t d = 0; sum == 0.0f && d < n; d++) {
        w[d] = 1.0f / (float)n;
    }
    if (sum != 0.0f) {
        divide(w, n, sum);
    }
}

void rf_cpu_keep_row_rule(float *w, int64_t n, rf_row_rule rule, const rf_segments *segments,
                          float radius)
{
    float norm;
    switch (rule) {
    case RF_ROW_FREE:
        return;
    case RF_ROW_UNIT_NORM:
        norm = sum_of_norms(w, n, segments);
        if (norm > 0.0f) {
            divide(w, n, norm);
        }
        return;
    case RF_ROW_BALL:
        norm = sqrtf(rf_dot(w, w, n));
        for (int64_t d = 0; norm > radius && d < n; d++) {
            w[d] = w[d] * (radius / norm);
        }
        return;
    case RF_ROW_SIMPLEX:
        to_simplex(w, n);
        return;
    }
}

/* The constraint sum_l |w_l| = 1 has the normal (w_l / |w_l|)_l, of squared length the number of
 * segments; of a segment that is 0 it has none. */
static void project_segments(float *g, const float *w, int64_t n, const rf_segments *segments)
{
    float norm[RF_MAX_SITES], along = 0.0f;
    int n_nonzero = 0;
    for (int l = 0; l < segments->n; l++) {
        segment at = segment_at(segments, l, n);
        norm[l] = norm_of(w, at);
        if (norm[l] > 0.0f) {
            along += rf_dot(g + at.first, w + at.first, at.count) / norm[l];
            n_nonzero++;
        }
    }
    for (int l = 0; l < segments->n; l++) {
        segment at = segment_at(segments, l, n);
        float factor = norm[l] > 0.0f ? -along / ((float)n_nonzero * norm[l]) : 0.0f;
        for (int64_t d = at.first; d < at.first + at.count; d++) {
            g[d] = fmaf(factor, w[d], g[d]);
        }
    }
}

void rf_cpu_project_gradient(float *g, const float *w, int64_t n, rf_row_rule rule,
                             const rf_segments *segments)
{
    if (rule != RF_ROW_UNIT_NORM) {
        return;
    }
    if (segments->n > 1) {
        project_segments(g, w, n, segments);
        return;
    }
    float along = -rf_dot(g, w, n); /* rows of norm 1 are their own normal */
    for (int64_t d = 0; d < n; d++) {
        g[d] = fmaf(along, w[d], g[d]);
    }
}

rf_status rf_cpu_apply_row_rule(rf_stream *s, const rf_view *w, rf_row_rule rule,
                                const rf_segments *segments, float radius)
{
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < w->shape[0]; i++) {
        rf_cpu_keep_row_rule(rf_row_mut(w, i), w->shape[1], rule, segments, radius);
    }
    return RF_OK;
}

rf_status rf_cpu_row_norms(rf_stream *s, const rf_view *w, const rf_segments *segments,
                           const rf_view *out)
{
    float *norms = out->data;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < w->shape[0]; i++) {
        norms[i] = sum_of_norms(rf_row(w, i), w->shape[1], segments);
    }
    return RF_OK;
}

static void add_norm_gradient(const float *w, float scale, int64_t n, const rf_segments *segments,
                              float *d_w)
{
    for (int l = 0; l < n_segments(segments); l++) {
        segment at = segment_at(segments, l, n);
        float norm = norm_of(w, at), factor = norm > 0.0f ? scale / norm : 0.0f;
        for (int64_t d = at.first; d < at.first + at.count; d++) {
            d_w[d] = fmaf(factor, w[d], d_w[d]);
        }
    }
}

rf_status rf_cpu_row_norms_grad(rf_stream *s, const rf_view *w, const rf_segments *segments,
                                const rf_view *scale, const rf_view *d_w)
{
    const float *scales = scale->data;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < w->shape[0]; i++) {
        add_norm_gradient(rf_row(w, i), scales[i], w->shape[1], segments, rf_row_mut(d_w, i));
    }
    return RF_OK;
}
