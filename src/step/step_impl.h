/* Private to step: the work space of a step and the pieces that run on it.
 *   step.c            the order of a step
 *   step_space.c      its memory
 *   step_encode.c     codes: the lists of a coder, BatchTopK's cut over ranks
 *   step_sparse.c     gradients from codes
 *   step_dense.c      gradients while codes are not sparse
 *   step_dead.c       AuxK, for both; step_ghost.c ghost gradients, for both
 *   step_update.c     clip, accumulate, update, who fired; step_resample.c new starts
 *   exchange_tokens.c what ranks tell each other */
#ifndef REFRACT_STEP_IMPL_H
#define REFRACT_STEP_IMPL_H

#include "refract/step.h"

/* Rows of a batch: this rank's, or all of them. E: width of the target. */
typedef struct rf_step_rows {
    float *seen;   /* what the encoder sees [n, D] */
    float *target; /* y - b_dec [n, E]; the same memory as `seen` where it is the same */
    float *g[RF_STEP_N_LISTS]; /* dL/dy_hat of each list [n, E]; of MAIN [n, groups E] */
    uint8_t *valid;            /* [n] */
    float *loss;               /* |y - y_hat|^2 [n] */
    float *extra;              /* of prefixes, of the second list, or of the gate [n] */
    float *aux;                /* |e - e_hat|^2 [n] */
    float *spread;             /* |y - mean|^2 [n] */
    float *sparsity;           /* the penalty [n] */
    int64_t *active;           /* entries of each row on the dense path [n] */
    rf_codes codes[RF_STEP_N_LISTS];
} rf_step_rows;

/* Scalars in device memory. */
typedef struct rf_step_scalars {
    double squares;
    int64_t overflow, window_overflow, refused, n_dead, n_fired;
    float grad_scale;
} rf_step_scalars;

struct rf_step {
    rf_backend *be;
    const rf_comm *comm;
    rf_stream *s;
    rf_stream *exchange; /* of what ranks tell each other; `s` where there is one rank */
    rf_event *turn;      /* of a stream that another waits for */
    rf_step_opts opts;
    double lap; /* when the part that is being timed began */
    int64_t n_bytes;
    void *blocks[128]; /* what was allocated on the device */
    void *pinned[8];   /* and on the host, for its copies */
    int n_blocks, n_pinned;

    int64_t max_local, max_weights, max_latents, max_in, max_out;
    rf_step_rows local, global;   /* the same memory where there is one rank */
    float *y_hat;                 /* [n_local, groups E] */
    float *mean;                  /* [max(D, E)] */
    float *row_shift, *row_scale; /* [n_local, sites] of the normalisation */
    uint8_t *row_class;           /* [n_local] */
    rf_latent_index index[RF_STEP_N_LISTS];
    float *gradients; /* arena: parameters of the largest coder */
    uint8_t *touched, *dead;
    int64_t *n_active;             /* [F] */
    float *theta, *weight;         /* [F] thresholds; decoder norms that weigh the penalty */
    float *by_latent, *by_latent2; /* [F] */
    float *entries[4];             /* [entries of MAIN] of a gated coder: pi, d_pi, d_mag, d_gain;
                                      [0] d_theta of WINDOW */
    float *h, *z, *d_z,
        *d_gate;        /* dense path: [RF_STEP_MICRO_BATCH, F] twice, [.., RF_STEP_DENSE_TILE] */
    int64_t *histogram; /* [65536] of BatchTopK */
    rf_step_scalars *scalars;
    float *host_rows;     /* pinned [max(max_rows, F)] */
    int64_t *host_starts; /* pinned [max(max_rows + 1, 65536)] */
    int64_t
        *starts[RF_STEP_N_LISTS]; /* pinned [max_rows + size]: where rows start, for all ranks */
    int64_t *counts, *offsets;    /* host [size]: bytes of a message */
    int64_t *n_entries;           /* host [lists, size]: of each list and rank */
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
    const rf_architecture *architecture;
    const rf_coder_settings *settings;
    int64_t n_local, n_rows, width, out_width, n_latents;
    double n_valid, variance;
    double sparsity;     /* weight of the penalty in the loss, warm-up included */
    rf_act_params act;   /* views of step->theta and step->weight where they are used */
    float g_scale;       /* 2 / (n V) */
    int64_t k, second_k; /* largest k of a row now; 0: no second list */
    double second_weight;
    rf_latent_groups groups; /* n = 0: no prefixes */
    int64_t aux_k;           /* 0: no auxiliary term */
    bool is_dense;
    bool fills_rows;  /* gradients of all rows are wanted: none is left as it was */
    double sum_scale; /* of the gradients that an update reads, where sums lack batches; 0: 1 */
    const uint8_t *touched;       /* NULL: all rows have gradients */
    const rf_latent_index *fired; /* of the entries > 0 of all ranks; NULL on the dense path */
} rf_step_job;

/* Floats from row to row of a matrix of n columns on the dense path: rows a multiple of 4096 bytes
 * apart would fall on the same places of a cache when a product walks down a column. */
static inline int64_t rf_step_dense_stride(int64_t n)
{
    return n % 1024 == 0 ? n + 16 : n;
}

/* Add the time since the last lap to `part`. */
void rf_step_lap(rf_step *step, rf_step_part part);
/* What is queued on `to` from now on comes after what is queued on `from` by now. Local. */
rf_status rf_step_take_turns(rf_step *step, rf_stream *from, rf_stream *to);
rf_view rf_step_seen(const rf_step_job *job, bool global);   /* [n, D] */
rf_view rf_step_target(const rf_step_job *job, bool global); /* [n, E] */
rf_view rf_step_g(const rf_step_job *job, int list,
                  bool global); /* [n, E], [n, groups E] of MAIN */
/* The rows [n, E] of g[RF_STEP_MAIN] of one group; the last is the residual times g_scale and its
 * weight, the first what reaches b_dec. */
rf_view rf_step_g_part(const rf_step_job *job, int64_t group, bool global);
rf_view rf_step_local(const rf_step_job *job, float *rows);       /* [n_local, E] */
rf_view rf_step_by_latent(const rf_step_job *job, float *values); /* [F] */
/* Gradient of parameter `idx` of the coder, of its shape; data NULL where it has none. */
rf_view rf_step_gradient(const rf_step_job *job, int idx);
/* A vector as one row. */
rf_view rf_step_as_rows(rf_view v);
/* Sum of n floats of the device in order, in double; synchronises. */
rf_status rf_step_sum(rf_step *step, const float *values, int64_t n, double *out);
/* Sum over the batch of |row - mean row|^2 of rows [n_rows, d] that every rank has. */
rf_status rf_step_spread(rf_step_job *job, const rf_view *rows, double *out);

/* ---- exchange_tokens.c. With one rank nothing moves. -------------------------------------------
 * All that ranks tell each other goes on step->exchange, in the same order everywhere. What is
 * queued there reads what the step had made by the last rf_exchange_begin, which must not be
 * written again before an rf_exchange_end that comes after. rf_step_run ends with one. */

/* The exchange waits for what the step's stream holds by now. Local. */
rf_status rf_exchange_begin(rf_step *step);
/* The step's stream waits for what the exchange holds by now. Local. */
rf_status rf_exchange_end(rf_step *step);
/* The next three are collective, and may fail on one rank alone: agree on what they return. */

/* Rows of `row_bytes` of every rank's share, in order of the batch. */
rf_status rf_exchange_queue_rows(const rf_step_job *job, const void *local, void *global,
                                 size_t row_bytes);
/* Rows, latents and values of lists; once a step for each. The host waits for the lists. */
rf_status rf_exchange_codes(const rf_step_job *job, const bool lists[RF_STEP_N_LISTS]);
/* The derivatives, of lists whose codes were exchanged. */
rf_status rf_exchange_d_values(const rf_step_job *job, const bool lists[RF_STEP_N_LISTS]);

/* Rows that are needed at once: all of begin, queue, end. Collective. */
rf_status rf_exchange_rows(const rf_step_job *job, const void *local, void *global,
                           size_t row_bytes);

/* ---- step_encode.c. Collective -----------------------------------------------------------------
 */

/* The codes of every list of this rank's rows, while what the encoder sees, targets and valid rows
 * go to all ranks; sets job->is_dense when codes did not fit on some
 * rank, metrics->skipped when a token is not finite. BATCH_TOPK: the k of the whole batch over all
 * ranks, or of its tokens of each class; the coder's running thresholds follow. */
rf_status rf_step_encode(rf_step_job *job);
/* The list of dead latents alone, for the dense path; begins its exchange. */
rf_status rf_step_encode_aux(rf_step_job *job);

/* ---- the two ways to gradients. Collective. They set metrics and the sum of squares of the
 * gradients; a loss that is not finite sets metrics->skipped and ends them early, on every rank
 * alike. ---------- */
rf_status rf_step_sparse(rf_step_job *job);
rf_status rf_step_dense(rf_step_job *job);

/* Set job->sparsity, and metrics->sparsity, of a penalty of L0 from metrics->l0. Local. */
void rf_step_set_l0_weight(rf_step_job *job);
/* p_anneal: where p changes, keep the penalty of this batch by its weight (job->sparsity, and the
 * state). Both ways call it when `measure` (collective) can tell the batch's penalty for
 * job->act.p. */
rf_status rf_step_keep_penalty(rf_step_job *job,
                               rf_status (*measure)(rf_step_job *job, double *out));

/* ---- step_act.c: what acts and penalties add to a sparse step. Collective -----------------------
 */

/* Values of the main list from its pre-activations, and the batch's L0. A gated coder's
 * pre-activations go to step->entries[0], its entries > 0 to the WINDOW list. */
rf_status rf_step_values(rf_step_job *job);
/* The penalty into metrics and into d_value (of a gated coder into entries[1]); where decoder norms
 * weigh it, the sums of its derivative with respect to them into step->by_latent2. */
rf_status rf_step_sparsity(rf_step_job *job);
/* d_value becomes d_pre; gradients of thresholds, or of the gate's bias, gain and b_mag. */
rf_status rf_step_act_gradients(rf_step_job *job);
/* The gradient of log thresholds from that of thresholds [F]. Local. */
rf_status rf_step_scale_by_theta(rf_step_job *job, const float *d_theta);
/* step_sparse.c: [F] where the sums of d_pre over tokens are. */
rf_view rf_step_d_pre_sums(const rf_step_job *job);

/* ---- for both. Collective -----------------------------------------------------------------------
 */

/* Main rows are being exchanged, residuals stand in local.g[RF_STEP_MAIN] times g_scale (its last
 * group). AuxK: its derivatives of values, metrics->aux, and its row gradients on their way to all
 * ranks; where the term is not finite it counts as 0 and job->aux_k becomes 0. May fail on one rank
 * alone: agree on what it returns. */
rf_status rf_step_aux(rf_step_job *job);
/* sum of squares += that of all gradients that rf_accumulate_by_latent did not add up; beta 0
 * begins with 0 and takes all of them. */
rf_status rf_step_squares(rf_step_job *job, double beta);
/* d_W_dec += sparsity's derivative with respect to decoder norms: sum over the batch of dP/dw_i;
 * `sums` [F] of this rank's rows. Only where the penalty is weighted. */
rf_status rf_step_norm_gradient(rf_step_job *job, float *sums);
/* The pre-activation loss of a jumprelu coder for dead latents: `pre_activation` * mean over tokens
 * of sum over dead i of relu(theta_i - h_i) |w_dec_i|: rank one, as dead latents do not fire. Adds
 * to gradients of W_enc, b_enc and the threshold and to metrics->sparsity. */
rf_status rf_step_pre_activation(rf_step_job *job);
/* step_ghost.c. Adds to the gradients of W_enc, b_enc, W_dec and to metrics->aux. Main residuals
 * stand in local.g[RF_STEP_MAIN], as for rf_step_aux. Nothing when nothing is dead. Rows that it
 * adds to are then touched, and had been zero or filled. */
rf_status rf_step_ghost(rf_step_job *job);

/* ---- optimiser.c -------------------------------------------------------------------------------
 */
/* A tensor of parameter `idx`: moments "m", "v", sums, the live copy; data NULL where there is
 * none. */
typedef enum rf_optimiser_part {
    RF_OPTIMISER_M,
    RF_OPTIMISER_V,
    RF_OPTIMISER_SUM,
    RF_OPTIMISER_LIVE,
    RF_OPTIMISER_N_PARTS
} rf_optimiser_part;
rf_view rf_optimiser_part_view(const rf_optimiser *opt, rf_optimiser_part part, int idx);
const rf_optimiser_opts *rf_optimiser_get_opts(const rf_optimiser *opt);
rf_status rf_optimiser_get_updates(const rf_optimiser *opt, rf_stream *s, int64_t *out);
rf_status rf_optimiser_set_updates(rf_optimiser *opt, rf_stream *s, int64_t updates);
/* The coder has parameter `idx`, and it is trained (not made of others). */
bool rf_optimiser_trains(const rf_coder *coder, int idx);
/* Its direction is Muon's. */
bool rf_optimiser_is_muon(const rf_optimiser *opt, int idx);
/* lr^2 / (sum of lr^2 of all updates, this one added): schedule-free's weight of the new iterate.
 */
rf_status rf_optimiser_average_weight(rf_optimiser *opt, rf_stream *s, double lr, double *out);
/* Work space of rf_muon_direction, large enough for each parameter that is Muon's. */
float *rf_optimiser_work(const rf_optimiser *opt);
/* to = keep * to + weight * scale * from, rows [n, d]; `scale` (device) may be NULL (1). Rows of
 * `from` that are not touched count as 0. 0 <= keep <= 1, weight not 0 where keep < 1. */
typedef struct rf_rows_blend_args {
    rf_view to, from;
    double keep, weight;
    const uint8_t *touched;
    const float *scale;
} rf_rows_blend_args;
rf_status rf_rows_blend(rf_stream *s, const rf_rows_blend_args *args);

/* ---- muon.c ------------------------------------------------------------------------------------
 */
/* g (contiguous rows; times *grad_scale, rows that are not touched count as 0) becomes Muon's
 * direction: momentum, Nesterov, five Newton-Schulz iterations to about the nearest orthogonal
 * matrix, times sqrt(max(1, outputs / inputs)) of the map, whose rows are its outputs unless said.
 * Local. */
typedef struct rf_muon_args {
    rf_view g, momentum;
    const uint8_t *touched;
    const float *grad_scale;
    bool rows_are_inputs;
    double beta;
    float *work; /* [rf_muon_work] */
} rf_muon_args;
rf_status rf_muon_direction(rf_stream *s, const rf_muon_args *args);

/* ---- step_update.c, step_resample.c. Local where not said otherwise. ----------------------------
 */
/* Clip, add to the sums or update, derive, and who fired. */
rf_status rf_step_update(rf_step_job *job);
/* Give dead latents a new start (Bricken et al. 2023), at most one for each token of the batch:
 * `loss` draws tokens by their squared loss, `data` draws them alike. Runs after the update.
 * Collective. */
rf_status rf_step_resample(rf_step_job *job);

#endif
