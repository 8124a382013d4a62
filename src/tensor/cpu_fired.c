/* Which latents fired, and which have not for long. */
#include "tensor_impl.h"

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
