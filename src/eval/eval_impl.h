/* Private to eval: one split of pictures under measurement. */
#ifndef REFRACT_EVAL_IMPL_H
#define REFRACT_EVAL_IMPL_H

#include "refract/eval.h"

/* Sums that belong to pictures, at the head of the arena. */
enum { RF_SUM_PICTURES, RF_SUM_BAD, RF_SUM_LABELLED, RF_SUM_CE, RF_SUM_HEAD };
/* Of one way to replace tokens. */
enum { RF_SUM_SWAP_COSINE, RF_SUM_SWAP_CE, RF_SUM_SWAP };

/* A hook point that one or more coders read. */
typedef struct rf_eval_site {
    rf_hook_point point;
    int64_t n_positions, width;
    float *act;      /* device [batch, n_positions, width]: what the model gave */
    float *resid;    /* device [batch, T, d]: before the point's block; NULL: it is in none */
    float *act_host; /* the same */
    float *shift;    /* host [width] */
    int64_t sums_at; /* of its rf_site_sums in the arena */
} rf_eval_site;

/* Tokens of a site that coders replace: zero and mean ablation are measured once for all of them.
 */
typedef struct rf_eval_ablation {
    int64_t site;
    rf_token_span span;
    int64_t zero_at; /* in the arena */
    float *mean;     /* host [width], for the second pass */
} rf_eval_ablation;

typedef struct rf_eval_part {
    const rf_eval_coder *coder;
    rf_token_layout layout;
    int64_t site, ablation;
    int64_t sums_at, swap_at; /* in the arena */
    int64_t n_latents;
    int64_t *fired; /* [n_latents] tokens that each latent fired on */
} rf_eval_part;

typedef struct rf_eval_engine {
    const rf_eval_job *job;
    rf_picture_split split;
    int64_t batch;                /* pictures of a micro-batch */
    int64_t n_chosen, n_groups;   /* pictures, micro-batches; of all ranks */
    int64_t *chosen;              /* [n_chosen] indices in the split, rising */
    int64_t *local, *local_first; /* this rank's micro-batches, as the loader takes them */
    int64_t n_local, n_local_groups;
    rf_eval_site *sites;
    rf_hook *reads; /* [2 n_sites] */
    int64_t n_sites, n_reads;
    rf_eval_ablation *ablations;
    int64_t n_ablations;
    rf_eval_part *parts; /* [n_coders] */
    /* Of one micro-batch. `rows` and `swap` [max_rows, max width]. */
    int64_t max_rows, max_width;
    float *images, *rows, *swap; /* device */
    uint8_t *row_valid;          /* device [max_rows] */
    float *swap_host;            /* [max_rows, max width] */
    uint8_t *row_valid_host;     /* [max_rows] */
    rf_codes codes;              /* device, of as many rows as fit */
    int64_t *row_start;          /* host, of codes */
    int32_t *latent;             /* host, of codes */
    int64_t *n_active;           /* host [max_rows] entries of each row */
    float *embedding, *logits;   /* host [batch, d_out], [batch, n_classes]: under a swap */
    float *clean;                /* host [n_local, d_out]: untouched, of this rank */
    double *group, *total;       /* [n_sums]: of one micro-batch, of all so far */
    int64_t n_sums;
} rf_eval_engine;

/* Allocate everything that `engine->job` needs on engine->split; free it (after a failure too). */
rf_status rf_eval_engine_init(rf_eval_engine *engine);
void rf_eval_engine_fini(rf_eval_engine *engine);

/* Add all sums of one micro-batch to engine->group, but those of mean ablation; the micro-batch
 * begins at this rank's picture `first_local`. */
rf_status rf_eval_group_measure(rf_eval_engine *engine, const rf_image_batch *batch,
                                int64_t first_local);
/* Add the cosines under mean ablation, by ablation, to engine->group [n_ablations]. */
rf_status rf_eval_group_ablate(rf_eval_engine *engine, const rf_image_batch *batch,
                               int64_t first_local);

#endif
