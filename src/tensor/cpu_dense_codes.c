/* The dense path's elementwise steps, and which latents fired. */
#include "coder_ops_impl.h"

#include <string.h>

/* Sum and count of a row that is one of this micro-batch's; rows that are not valid become zero. */
static void dense_row(const rf_dense_codes_args *args, int64_t b)
{
    float *z = rf_row_mut(&args->z, b);
    int64_t n = args->z.shape[1], n_active = 0;
    if (args->row_valid != NULL && args->row_valid[b] == 0) {
        memset(z, 0, sizeof(float) * (size_t)n);
    }
    for (int64_t i = 0; i < n; i++) {
        n_active += z[i] > 0.0f;
    }
    ((float *)args->row_sum.data)[b] = rf_cpu_sum_lanes(z, n);
    ((int64_t *)args->row_active.data)[b] = n_active;
}

/* Latents are divided among threads for the counts by latent; a chunk of them stays in cache. */
enum { LATENT_CHUNK = 512 };

static void count_active(const rf_dense_codes_args *args, int64_t first, int64_t last)
{
    int64_t *n_active = args->n_active.data;
    for (int64_t b = 0; b < args->z.shape[0]; b++) {
        const float *z = rf_row(&args->z, b);
        for (int64_t i = first; i < last; i++) {
            n_active[i] += z[i] > 0.0f;
        }
    }
}

rf_status rf_cpu_dense_codes(rf_stream *s, const rf_dense_codes_args *args)
{
    int n_threads = rf_cpu_n_threads(s);
    int64_t n_latents = args->z.shape[1];
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t b = 0; b < args->z.shape[0]; b++) {
        dense_row(args, b);
    }
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < n_latents; i += LATENT_CHUNK) {
        count_active(args, i, rf_min_i64(i + LATENT_CHUNK, n_latents));
    }
    return RF_OK;
}

rf_status rf_cpu_dense_mask(rf_stream *s, const rf_view *z, const rf_view *d_z, float penalty)
{
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t b = 0; b < z->shape[0]; b++) {
        const float *zb = rf_row(z, b);
        float *db = rf_row_mut(d_z, b);
        for (int64_t i = 0; i < z->shape[1]; i++) {
            db[i] = zb[i] > 0.0f ? db[i] + penalty : 0.0f;
        }
    }
    return RF_OK;
}

rf_status rf_cpu_track_fired(rf_stream *s, const rf_track_fired_args *args)
{
    (void)s; /* too little to share out */
    int64_t *since = args->since_fired.data, count = 0;
    const int64_t *n_active = args->n_active.data;
    for (int64_t i = 0; i < args->since_fired.shape[0]; i++) {
        bool fired = n_active != NULL
                         ? n_active[i] > 0
                         : args->index->latent_start[i + 1] > args->index->latent_start[i];
        since[i] = fired ? 0 : since[i] + args->n_tokens;
        count += fired;
    }
    *args->n_fired = count;
    return RF_OK;
}

rf_status rf_cpu_mark_dead(rf_stream *s, const rf_view *since_fired, int64_t limit, uint8_t *dead,
                           int64_t *n_dead)
{
    (void)s;
    const int64_t *since = since_fired->data;
    int64_t count = 0;
    for (int64_t i = 0; i < since_fired->shape[0]; i++) {
        dead[i] = since[i] >= limit;
        count += dead[i];
    }
    *n_dead = count;
    return RF_OK;
}
