/* Private to eval: one split of pictures under measurement. */
#ifndef REFRACT_EVAL_IMPL_H
#define REFRACT_EVAL_IMPL_H

#include "refract/eval.h"

/* Sums that belong to pictures, at the head of the arena; then for each model those of its classes.
 */
enum { RF_SUM_PICTURES, RF_SUM_BAD, RF_SUM_HEAD };
enum { RF_SUM_LABELLED, RF_SUM_CE, RF_SUM_RIGHT, RF_SUM_MODEL };
/* Of one way to replace tokens. */
enum { RF_SUM_SWAP_COSINE, RF_SUM_SWAP_CE, RF_SUM_SWAP_RIGHT, RF_SUM_SWAP };

/* One model of the job; those that no coder reads have no reads and are not run. */
typedef struct rf_eval_runner {
    const rf_eval_model *model;
    int feed;       /* whose pictures it sees */
    rf_hook *reads; /* activations of its sites, and the residual streams before their blocks */
    int64_t n_reads;
    float *clean;    /* host [n_local, d_out]: untouched embeddings of this rank */
    int64_t sums_at; /* RF_SUM_MODEL in the arena */
} rf_eval_runner;

/* Pictures through one transform, for all models that have it. */
typedef struct rf_eval_feed {
    const rf_transform *transform;
    rf_image_feed *feed;
    const rf_image_batch *batch; /* of the micro-batch under way */
    rf_view images;              /* the same, as models take them */
} rf_eval_feed;

/* A hook point of a model that one or more coders read or reconstruct. */
typedef struct rf_eval_site {
    int model;
    rf_hook_point point;
    bool is_target; /* of some coder */
    int64_t n_positions, width;
    float *act;      /* device [batch, n_positions, width]: what the model gave */
    float *resid;    /* device [batch, T, d]: before the point's block; NULL: not needed, or none */
    float *act_host; /* as act */
    float *shift;    /* host [width] */
    int64_t sums_at; /* of a target's rf_site_sums in the arena */
} rf_eval_site;

/* Tokens of several sites that belong together: row r of a picture is position spans[ALL].first + r
 * of each. */
typedef struct rf_eval_place {
    int64_t site;
    rf_token_layout layout;
} rf_eval_place;
typedef struct rf_eval_places {
    int n;
    int64_t n_rows; /* of a picture */
    int64_t width;  /* of all sites side by side */
    rf_eval_place at[RF_MAX_SITES];
} rf_eval_places;

/* Tokens that coders replace: zero and mean ablation are measured once for all of them. */
typedef struct rf_eval_ablation {
    const rf_eval_places *places; /* of the first such coder */
    int64_t zero_at;              /* in the arena */
    float *mean;                  /* host [places->width], for the second pass */
} rf_eval_ablation;

typedef struct rf_eval_part {
    const rf_eval_coder *coder;
    rf_eval_places in, out;    /* out: as in where it has no target */
    rf_substitution_kind kind; /* what takes whose place */
    int64_t ablation;          /* -1: there is no substitution */
    int64_t sums_at, swap_at;  /* in the arena */
    int64_t site_sums_at;      /* rf_coder_sums of each site, where there are several */
    int64_t n_latents;
    uint8_t *row_class; /* [in.n_rows] */
    int64_t *fired;     /* [n_latents] tokens that each latent fired on */
} rf_eval_part;

typedef struct rf_eval_engine {
    const rf_eval_job *job;
    rf_picture_split split;
    const char *label;            /* of the pass under way, for progress */
    int64_t n_done;               /* pictures of it, of all ranks */
    int64_t batch;                /* pictures of a micro-batch */
    int64_t n_chosen, n_groups;   /* pictures, micro-batches; of all ranks */
    int64_t *chosen;              /* [n_chosen] indices in the split, rising */
    int64_t *local, *local_first; /* this rank's micro-batches, as loaders take them */
    int64_t n_local, n_local_groups;
    rf_eval_runner *runners; /* [n_models] */
    rf_eval_feed *feeds;     /* [n_feeds] */
    int n_feeds;
    rf_eval_site *sites;
    int64_t n_sites;
    rf_eval_ablation *ablations;
    int64_t n_ablations;
    rf_eval_part *parts; /* [n_coders] */
    /* Of one micro-batch. */
    int64_t n_images;
    uint8_t *valid; /* host [batch]: every feed could read it */
    int64_t max_rows, max_width, max_in;
    float *rows, *seen;           /* device [max_rows, max_width] */
    float *row_shift, *row_scale; /* device [max_rows, max_in] */
    float *swap;                  /* device [max_rows, max_width]: site by site [rows, width] */
    uint8_t *row_valid;           /* device [max_rows] */
    uint8_t *row_class;           /* the same */
    float *x, *y, *y_hat;         /* host [max_rows, max_width] */
    uint8_t *row_valid_host;      /* [max_rows] */
    uint8_t *row_class_host;      /* [max_rows] */
    rf_codes codes;               /* device, of as many rows as fit */
    int64_t *row_start;           /* host, of codes */
    int32_t *latent;              /* host, of codes */
    int64_t *n_active;            /* host [max_rows] entries of each row */
    float *embedding, *logits;    /* host [batch, d_out], [batch, n_classes] of the last pass */
    double *group, *total;        /* [n_sums]: of one micro-batch, of all so far */
    int64_t n_sums;
} rf_eval_engine;

/* Allocate everything that `engine->job` needs on engine->split; free it (after a failure too). */
rf_status rf_eval_engine_init(rf_eval_engine *engine);
void rf_eval_engine_fini(rf_eval_engine *engine);

/* eval_sites.c: runners' reads, sites, parts and ablations from the job's coders; freed alike. */
rf_status rf_eval_sites_init(rf_eval_engine *engine);
void rf_eval_sites_fini(rf_eval_engine *engine);
/* The sums of a target in `arena`. */
rf_site_sums rf_eval_site_sums(const rf_eval_site *site, double *arena);
/* "hook", or "model:hook". */
rf_status rf_eval_site_name(const rf_eval_engine *engine, const rf_eval_site *site,
                            char out[RF_NAME_LEN]);

/* Classes of the model's head or classifier. */
int64_t rf_eval_n_classes(const rf_eval_model *model);

/* eval_part.c: reconstruct the tokens that `part` sees, add what they give to engine->group, and
 * leave the reconstructions in engine->swap. */
rf_status rf_eval_part_measure(rf_eval_engine *engine, const rf_eval_part *part);

/* Add all sums of one micro-batch to engine->group, but those of mean ablation; the micro-batch
 * lies in the feeds and begins at this rank's picture `first_local`. */
rf_status rf_eval_group_measure(rf_eval_engine *engine, int64_t first_local);
/* Add the cosines under mean ablation, by ablation, to engine->group [n_ablations]. */
rf_status rf_eval_group_ablate(rf_eval_engine *engine, int64_t first_local);

/* ---- eval_pictures.c: what a run is evaluated on -----------------------------------------------
 */

typedef struct rf_eval_pictures {
    rf_picture_list *own;   /* the run's; NULL: not wanted */
    rf_picture_list *other; /* of eval.pictures, or NULL */
} rf_eval_pictures;
/* Collective. Errors: those of the lists; SETTING (nothing says where they are, or some of the
 * others were trained on). */
rf_status rf_eval_pictures_open(const rf_comm *comm, const rf_run_settings *run,
                                const rf_eval_settings *settings, rf_eval_pictures *out);
void rf_eval_pictures_close(rf_eval_pictures *pictures);
/* Those of held-out or trained-on figures; NULL: there are none. */
const rf_picture_list *rf_eval_pictures_of(const rf_eval_pictures *pictures, rf_picture_split split,
                                           rf_picture_split *part);

#endif
