/* Private to train: the work space of a step and the pieces that run on it. step.c is the order of
 * a step, step_space.c its memory, step_sparse.c and step_dense.c the two ways to the gradients,
 * exchange_tokens.c what ranks tell each other, step_update.c clip and update. */
#ifndef REFRACT_STEP_IMPL_H
#define REFRACT_STEP_IMPL_H

#include "refract/train.h"

enum {
    STEP_MICRO_BATCH = 512, /* tokens of the dense path at once */
    STEP_DENSE_TILE = 4096, /* latents of its backward at once */
};

/* Rows of a batch: this rank's, or all of them. */
typedef struct rf_step_rows {
    float *x;           /* x - b_dec [n, D] */
    float *g, *g_aux;   /* dL/dx_hat of the main and of the auxiliary reconstruction [n, D] */
    uint8_t *valid;     /* [n] */
    float *loss, *aux;  /* |x - x_hat|^2, |e - e_hat|^2 [n] */
    float *spread, *l1; /* |x - mean|^2, sum of values [n] */
    int64_t *active;    /* entries of each row on the dense path [n] */
    rf_codes codes, aux_codes;
} rf_step_rows;

/* Scalars in device memory. */
typedef struct rf_step_scalars {
    double squares;
    int64_t overflow, refused, n_dead, n_fired;
    float grad_scale;
} rf_step_scalars;

struct rf_step {
    rf_backend *be;
    const rf_comm *comm;
    rf_stream *s;
    rf_step_opts opts;
    double lap; /* when the part that is being timed began */
    int64_t n_bytes;
    void *blocks[64]; /* what was allocated */
    int n_blocks;

    int64_t max_local, max_width, max_latents;
    rf_step_rows local, global; /* the same memory where there is one rank */
    float *y;                   /* [n_local, D] reconstruction less b_dec, then e */
    float *mean;                /* [D] */
    rf_latent_index index, aux_index;
    float *gradients; /* arena: parameters of the largest coder */
    uint8_t *touched, *dead;
    int64_t *n_active; /* [F] */
    float *z, *d_z;    /* dense path: [STEP_MICRO_BATCH, F], [.., STEP_DENSE_TILE] */
    rf_step_scalars *scalars;
    float *host_rows;          /* host [max_rows] */
    int64_t *host_starts;      /* host [max_rows + size] */
    int64_t *counts, *offsets; /* host [size]: rows, and bytes of a message */
};

/* One step under way. */
typedef struct rf_step_job {
    rf_step *step;
    rf_coder *coder;
    rf_optimiser *opt;
    const rf_token_batch *batch;
    const rf_step_rates *rates;
    rf_step_metrics *metrics;
    rf_coder_state state;
    int64_t n_local, n_rows, width, n_latents;
    double n_valid, variance, l1; /* l1: weight in the loss */
    float g_scale;                /* 2 / (n V) */
    int64_t aux_k;                /* 0: no auxiliary term */
    bool is_dense;
    const uint8_t *touched; /* NULL: all rows have gradients */
} rf_step_job;

/* Add the time since the last lap to `part`. */
void rf_step_lap(rf_step *step, rf_step_part part);
rf_view rf_step_local(const rf_step_job *job, float *rows);  /* [n_local, D] */
rf_view rf_step_global(const rf_step_job *job, float *rows); /* [n_rows, D] */
/* Gradient of parameter `idx` of the coder, of its shape. */
rf_view rf_step_gradient(const rf_step_job *job, int idx);
/* A vector as one row. */
rf_view rf_step_as_rows(rf_view v);
/* Sum of n floats of the device in order, in double; synchronises. */
rf_status rf_step_sum(rf_step *step, const float *values, int64_t n, double *out);

/* ---- exchange_tokens.c. Collective; with one rank nothing moves. -------------------------------
 */

/* Rows of `row_bytes` of every rank's share, in order of the batch. */
rf_status rf_exchange_rows(const rf_step_job *job, const void *local, void *global,
                           size_t row_bytes);
rf_status rf_exchange_codes(const rf_step_job *job, rf_codes *local, rf_codes *global);

/* ---- the two ways to gradients. Collective. They set metrics and the sum of squares of the
 * gradients; a loss that is not finite sets metrics->skipped and ends them early, on every rank
 * alike. ---------- */
rf_status rf_step_sparse(rf_step_job *job);
rf_status rf_step_dense(rf_step_job *job);
/* Encode; sets job->is_dense when codes did not fit on some rank. */
rf_status rf_step_encode(rf_step_job *job);

/* ---- optimiser.c -------------------------------------------------------------------------------
 */
rf_view rf_optimiser_moment(const rf_optimiser *opt, int moment, int idx);
rf_status rf_optimiser_get_updates(const rf_optimiser *opt, rf_stream *s, int64_t *out);
rf_status rf_optimiser_set_updates(rf_optimiser *opt, rf_stream *s, int64_t updates);

/* ---- step_update.c: clip, project, Adam, renormalise --------------------------------------------
 */
rf_status rf_step_update(rf_step_job *job);

#endif
