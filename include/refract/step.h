/* step: optimisers, and one update of one coder on every rank's tokens. */
#ifndef REFRACT_STEP_H
#define REFRACT_STEP_H

#include "refract/base.h"
#include "refract/coder.h"
#include "refract/comm.h"
#include "refract/data.h"
#include "refract/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* With y the normalised target (the input itself but for a transcoder), y_hat its reconstruction,
 * means over the valid tokens of the whole batch, V a constant of the coder:
 *   L = mean |y - y_hat|^2 / V                          always (Matryoshka: the mean over prefixes)
 *     + weight * mean |y - y_hat_4k|^2 / V              multi_topk
 *     + mean |y - y_hat(relu(pi))|^2 / V                gated, W_dec and b_dec frozen in it
 *     + sparsity                                        l1, l0: what the penalty says
 *     + aux_alpha * mean |e - e_hat|^2 / V_e            AuxK: e = y - y_hat, a constant here
 *     + the ghost term
 * docs/coders.md gives each with its source. Order: loss, backward, clip (norm over all
 * parameters), project, optimiser, renormalise. */

typedef enum rf_optimiser_kind {
    RF_OPTIMISER_ADAM,
    RF_OPTIMISER_ADAMW,
    RF_OPTIMISER_SIGNUM,
    RF_OPTIMISER_SCHEDULE_FREE,
    RF_OPTIMISER_MUON, /* W_enc, W_dec (and W_skip) by Muon (Jordan et al. 2024), all else by Adam
                        */
} rf_optimiser_kind;

/* Moments of one coder, gradients that wait for their update, and how many updates it did. */
typedef struct rf_optimiser rf_optimiser;
typedef struct rf_optimiser_opts {
    int kind;           /* rf_optimiser_kind */
    int64_t accumulate; /* batches of an update; <= 1: no memory for sums */
} rf_optimiser_opts;
rf_status rf_optimiser_create(rf_backend *be, const rf_coder *coder, const rf_optimiser_opts *opts,
                              rf_optimiser **out);
void rf_optimiser_destroy(rf_optimiser *opt); /* NULL is fine */
/* For checkpoints: "m/W_enc" ..., "v/W_enc" ..., "sum/W_enc" ..., "live/W_enc" ..., "rates" (I64
 * [1], the bits of a double: schedule-free's sum of lr^2), "updates" (I64 [1]); those that the kind
 * has, device memory. */
int rf_optimiser_n_tensors(const rf_optimiser *opt);
const char *rf_optimiser_tensor_name(const rf_optimiser *opt, int idx);
rf_view rf_optimiser_tensor_view(const rf_optimiser *opt, int idx);
/* Schedule-free: between steps the coder's parameters are the average x, which is what evaluation
 * and files are of, and "live/..." is y, at which gradients are taken. A step begins and ends with
 * this exchange of contents. Other kinds: nothing. */
rf_status rf_optimiser_swap_live(rf_optimiser *opt, rf_coder *coder, rf_stream *s);

/* What changes from step to step. */
typedef struct rf_step_rates {
    double lr, beta1, beta2, eps;
    double weight_decay;   /* decoupled, of W_enc, W_dec and W_skip */
    double clip_norm;      /* 0: none */
    double sparsity_scale; /* of l1, l0: warm-up */
    double k_scale;        /* of k: from k_start to 1 */
    double p;              /* p_anneal; 0: the settings' p */
    double
        outlier_factor; /* batches whose loss is above so many running means are skipped; 0: none */
    bool flush;         /* the last batch: what was accumulated is used */
    bool resample;      /* latents that are dead now get a new start after this step */
} rf_step_rates;
/* lr 1e-4, betas 0.9 and 0.999, eps 1e-8, no decay, clip 1, scales 1. */
rf_step_rates rf_step_rates_default(void);
/* k of `coder` when its k is multiplied by `scale` (rates.k_scale): 1 .. F. */
int64_t rf_step_k(const rf_coder *coder, double scale);

/* Figures of one step over the valid tokens of the whole batch, the same on every rank; for TopK
 * coders the same bits for any number of ranks. */
typedef struct rf_step_metrics {
    double loss, mse, sparsity, aux, extra; /* loss = mse + sparsity + aux + extra; mse = mean |y -
                                               y_hat|^2 / V; aux: of dead latents; extra: prefixes,
                                               multi_topk, gated; NaN if skipped for it */
    double l0;                              /* mean entries of a token */
    double explained_variance; /* 1 - sum |y - y_hat|^2 / sum |y - mean y|^2 of the batch */
    double grad_norm;          /* before clipping; 0 if skipped before it was known */
    int64_t n_tokens;          /* valid ones */
    int64_t n_dead;            /* latents that were dead when the step began */
    int64_t n_fired;           /* latents with a value > 0 in this batch */
    int64_t n_resampled;
    bool skipped; /* loss or gradient not finite, an outlier, or no valid token: nothing changed */
    bool outlier, dense_path, updated;
} rf_step_metrics;

/* Parts of a step, for benchmarks. */
typedef enum rf_step_part {
    RF_PART_PRODUCT,
    RF_PART_SELECT,
    RF_PART_DECODE, /* with residual and metrics */
    RF_PART_D_VALUE,
    RF_PART_AUX, /* decode and d_value of the auxiliary list */
    RF_PART_EXCHANGE,
    RF_PART_INDEX,
    RF_PART_BY_LATENT, /* gradients; on the dense path its three products */
    RF_PART_CLIP,
    RF_PART_UPDATE,
    RF_PART_OTHER,
    RF_STEP_N_PARTS
} rf_step_part;
const char *rf_step_part_name(rf_step_part part);

/* Work space and gradient arena of a step, shared by all coders of a run. */
typedef struct rf_step rf_step;

typedef struct rf_step_opts {
    int64_t max_rows;     /* of a whole batch, all ranks */
    double *part_seconds; /* host [RF_STEP_N_PARTS], += seconds of each part; NULL: not measured */
} rf_step_opts;

/* Made for the largest of `coders`, which are not kept. Borrows `be` and `comm`. Local. */
rf_status rf_step_create(rf_backend *be, const rf_comm *comm, const rf_coder *const *coders,
                         int64_t n_coders, const rf_step_opts *opts, rf_step **out);
void rf_step_destroy(rf_step *step); /* NULL is fine */
/* Bytes of its buffers. */
int64_t rf_step_bytes(const rf_step *step);

/* One step of `coder` with `opt` on this rank's share of a batch. Collective; coder, opt, rates and
 * the batch's n_rows must agree. Shares are those of rf_comm_share(n_rows, RF_TOKEN_TILE): in rank
 * order, possibly empty. `out` may be NULL. A batch whose loss or gradient is not finite changes
 * nothing but counter RF_COUNTER_SKIPPED, on every rank alike, and is RF_OK. */
rf_status rf_step_run(rf_step *step, rf_coder *coder, rf_optimiser *opt,
                      const rf_token_batch *batch, const rf_step_rates *rates,
                      rf_step_metrics *out);

/* ---- what a step takes, for those who plan ------------------------------------------------------
 */

/* Lists of codes that a step makes. */
enum {
    RF_STEP_MAIN,   /* what is selected */
    RF_STEP_SECOND, /* MultiTopK's larger k */
    RF_STEP_AUX,    /* of dead latents */
    RF_STEP_WINDOW, /* pre-activations near their thresholds */
    RF_STEP_N_LISTS,
};

/* On the dense path tokens go by micro-batches, twice as large where one matrix will do, and
 * latents of the way back by tiles: each is many tiles of its products, which threads take as they
 * come (with two for two threads the slower of these holds up the other). */
enum { RF_STEP_MICRO_BATCH = 1024, RF_STEP_DENSE_TILE = 8192 };

/* Floats of Muon's work space for a matrix. */
int64_t rf_muon_work(int64_t n_rows, int64_t n_cols);

#ifdef __cplusplus
}
#endif

#endif
