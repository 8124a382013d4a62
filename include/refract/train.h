/* train: schedules, many coders on one stream, sweeps, checkpoints, resume, what a run will take.
 */
#ifndef REFRACT_TRAIN_H
#define REFRACT_TRAIN_H

#include "refract/base.h"
#include "refract/coder.h"
#include "refract/comm.h"
#include "refract/data.h"
#include "refract/io.h"
#include "refract/step.h"
#include "refract/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- run: settings ------------------------------------------------------------------------------
 */

typedef enum rf_schedule_kind {
    RF_SCHEDULE_CONSTANT,
    RF_SCHEDULE_LINEAR,
    RF_SCHEDULE_COSINE,
    RF_SCHEDULE_COSINE_RESTARTS,
    RF_SCHEDULE_DECAY, /* constant, then linear over the last part */
} rf_schedule_kind;
typedef enum rf_resume { RF_RESUME_NEVER, RF_RESUME_AUTO, RF_RESUME_MUST } rf_resume;

/* What each means, its default and range: the tables below. */
typedef struct rf_model_settings {
    char path[RF_PATH_LEN];
    int64_t image_size;
    char row[RF_PATH_LEN];
    rf_products products;
    bool fold_ln, center_writing_weights, fold_value_biases, refactor_attention;
} rf_model_settings;

typedef struct rf_train_settings {
    int64_t batch_tokens, epochs, total_tokens;
    double lr;
    int schedule; /* rf_schedule_kind */
    int64_t warmup_steps;
    double lr_end;
    int64_t restarts;   /* cycles of cosine_restarts */
    double decay_share; /* of the steps, for decay */
    int optimiser;      /* rf_optimiser_kind */
    double beta1, beta2, eps, weight_decay, clip_norm;
    int64_t accumulate;
    double outlier_factor;
    char stop_metric[64]; /* "": no early stopping; "max" or "min" before a metric's name */
    int64_t stop_patience;
    double stop_min_change;
    double bad_l0, bad_ev; /* Prisma's bad run: l0 below and explained variance below; 0: off */
    int64_t seed, sample_tokens;
    double max_skipped_share;
    int device;                              /* rf_device */
    int64_t ranks_per_coder, coders_at_once; /* 0: all */
    int64_t threads, checkpoint_every, keep_checkpoints, log_every;
    int resume; /* rf_resume */
} rf_train_settings;

typedef struct rf_output_settings {
    char dir[RF_PATH_LEN];
    char select[256];
    char published[RF_PATH_LEN];
} rf_output_settings;

/* One coder after `each` and `sweep`, with its own copy of the training settings. */
typedef struct rf_coder_spec {
    rf_coder_settings coder;
    rf_train_settings train;
} rf_coder_spec;

/* A model that sites may name (`name:hook`); the one model of a run that has no map of them has the
 * name "". */
typedef struct rf_named_model {
    char name[RF_NAME_LEN];
    rf_model_settings settings;
} rf_named_model;

typedef struct rf_run_settings {
    rf_named_model models[RF_MAX_MODELS]; /* the first is what sites without a model's name mean */
    int n_models;
    rf_data_settings data;
    rf_activations_settings activations;
    rf_train_settings train;
    rf_output_settings output;
    rf_coder_spec *coders; /* [n_coders] */
    int64_t n_coders;
} rf_run_settings;

extern const rf_settings_table rf_model_settings_table;
extern const rf_settings_table rf_train_settings_table;
extern const rf_settings_table rf_output_settings_table;

/* Read the file `path`, put `overrides` ("train.lr=1e-3") over it, walk `each`, multiply `sweep`,
 * check everything. Caller frees with rf_run_settings_free. Local. Errors: SETTING names file,
 * line, key path and the nearest valid key; NOT_FOUND, IO, FORMAT of the file. */
rf_status rf_run_settings_load(const char *path, const char *const *overrides, int64_t n_overrides,
                               rf_run_settings **out);
/* The same from text; `name` stands for the file in messages. Local. */
rf_status rf_run_settings_parse(const char *yaml, const char *name, const char *const *overrides,
                                int64_t n_overrides, rf_run_settings **out);
void rf_run_settings_free(rf_run_settings *settings); /* NULL is fine */
/* Every key of every section and coder, without `each` and `sweep`: reading it gives the same
 * settings again. Local. */
rf_status rf_run_settings_write_yaml(const rf_run_settings *settings, rf_str *out);
/* All sections from their tables, and what `each` and `sweep` do. Local. */
rf_status rf_run_settings_write_help(bool markdown, rf_str *out);

/* The model and the hook point that a site says: "hook" or "model:hook". *hook is borrowed from
 * `site`. SETTING where no model has the name. Local. */
rf_status rf_run_settings_site(const rf_run_settings *settings, const char *site, int *model,
                               const char **hook);
/* The preprocessing for `model`: what its preprocessor_config.json says, scaled to image_size where
 * that is set. Its height is the size to open the model with. Local. */
rf_status rf_model_settings_transform(const rf_model_settings *model, rf_transform *out);
/* How to open `model` for pictures out of `transform`. `row` is borrowed from `model`. */
rf_vit_opts rf_model_settings_opts(const rf_model_settings *model, const rf_transform *transform);
/* The pictures of section `data`. Collective over `comm`, whose ranks share the work; NULL: Local.
 */
rf_status rf_run_settings_pictures(const rf_run_settings *settings, const rf_comm *comm,
                                   rf_picture_list **out);

/* ---- run: train, plan, open ---------------------------------------------------------------------
 */

typedef struct rf_train_report {
    bool interrupted;   /* by a signal: a checkpoint was written, `train.resume=auto` goes on */
    int signal;         /* that signal, or 0 */
    int64_t steps;      /* ticks in all: passes over the coders in which one or more stepped */
    int64_t first_step; /* where this call began: 0, or the checkpoint's */
    int64_t n_failed;   /* coders of which too many batches were skipped, or bad runs */
    int64_t n_stopped;  /* coders that stopped early and well */
    int64_t n_skipped;  /* batches of all coders without an update, */
    int64_t n_outliers; /* and those of them whose loss was finite and too large */
    int64_t n_bad_pictures;
    double seconds;
} rf_train_report;

/* Everything of `refract train`: model, pictures, stream, coders, the loop, checkpoints, metrics
 * and the files at the end, in the folder `output.dir`. Collective; `settings` must agree. Errors:
 * SETTING (a used folder without `train.resume`; a checkpoint of other settings: names the key),
 * NUMERIC (all coders failed), and what the parts give; the same on every rank, named with the rank
 * it happened on. Checkpoints that were whole stay whole whatever happens. */
rf_status rf_train_run(const rf_comm *comm, const rf_run_settings *settings, rf_train_report *out);

/* What rf_cache_run did. */
typedef struct rf_cache_report {
    char path[RF_PATH_LEN]; /* of the store */
    int64_t n_sites, n_pictures, n_groups;
    int64_t n_written; /* groups, in this call */
    double n_bytes;    /* of all values */
    double seconds;
} rf_cache_report;

/* The run's store: activations.store, else activations.h5 in output.dir. Local. */
rf_status rf_run_store_path(const rf_run_settings *settings, char out[RF_PATH_LEN]);

/* `refract cache`: the activation store of the run's hook points (activations.hooks, else those
 * that its coders read) at activations.store, for the pictures that it trains on. Goes on with a
 * store that is not finished. Collective; `settings` must agree. Errors: INTERRUPTED (a signal:
 * what is written stays), those of rf_store_create_for and rf_store_fill. */
rf_status rf_cache_run(const rf_comm *comm, const rf_run_settings *settings,
                       rf_cache_report *report);

/* A table of what the run will take with `n_ranks` ranks: memory of each rank (of its device, where
 * train.device is one, and of the host), bytes read, FLOP, hours by a product that is timed for it.
 * `device_bytes` of memory has each rank's device; 0: what the one of this machine has free, if
 * there is one. Local. Errors: USAGE (memory of a device, and train.device is the CPU). */
rf_status rf_train_plan(const rf_run_settings *settings, int n_ranks, double device_bytes,
                        rf_str *out);

/* What a coder's step `step` (from 0) of `n_steps` runs at; functions of settings and numbers
 * alone.
 *
 * The learning rate: over `warmup_steps` it rises as (step + 1) / (warmup_steps + 1), and the first
 * step behind has all of lr. Then over the remaining n steps, never below lr_end * lr: LINEAR and
 * COSINE reach the floor at step n_steps, which nobody takes; COSINE_RESTARTS begins again
 * `restarts` times in all (Loshchilov & Hutter 2017, cycles of one length); DECAY stays at lr and
 * falls linearly over the last decay_share of n_steps. */
typedef struct rf_schedule {
    int kind; /* rf_schedule_kind */
    double lr, lr_end;
    int64_t warmup_steps, n_steps;
    int64_t restarts;   /* cycles; below 1: 1 */
    double decay_share; /* 0 .. 1 */
} rf_schedule;
double rf_schedule_lr(const rf_schedule *schedule, int64_t step);
/* What l1 and l0 are multiplied by: it rises as (step + 1) / (sparsity_warmup_steps + 1) to 1. */
double rf_schedule_sparsity(const rf_coder_settings *settings, int64_t step);
/* What k is multiplied by: from k_start at step 0 linearly to 1 at step k_steps. */
double rf_schedule_k(const rf_coder_settings *settings, int64_t step);
/* p of a p_anneal coder: `p` for the first p_anneal_from of the steps; the others are cut into
 * p_anneal_stages pieces that differ by one step at most, and from piece to piece p goes on by
 * equal steps, so that the last piece has p_end. */
double rf_schedule_p(const rf_coder_settings *settings, int64_t step, int64_t n_steps);
/* Dead latents get a new start after this step: after every resample_every steps, as long as no
 * more than resample_until are done (0: no end). */
bool rf_schedule_resamples(const rf_coder_settings *settings, int64_t step);

/* A finished or interrupted run, for evaluation and export. */
typedef struct rf_run rf_run;
/* Read `dir`/config.yaml, put `overrides` over it (model.path, data.path: where they are now), and
 * find the newest whole checkpoint. Local. */
rf_status rf_run_open(const char *dir, const char *const *overrides, int64_t n_overrides,
                      rf_run **out);
void rf_run_close(rf_run *run); /* NULL is fine */
/* `output.dir` is `dir`, wherever the folder was moved to. Borrowed. */
const rf_run_settings *rf_run_get_settings(const rf_run *run);
int64_t rf_run_step(const rf_run *run);                /* of the checkpoint */
const char *rf_run_checkpoint_path(const rf_run *run); /* borrowed, as is the next */
/* What the transformer's weights had been through, as rf_vit_processing_name says it. */
const char *rf_run_weight_processing(const rf_run *run);
/* Whether a checkpoint has coder `idx`. */
bool rf_run_has_coder(const rf_run *run, int64_t idx);
/* Whether coder `idx` waits for a pass that has not begun (train.coders_at_once): for which, from
 * 1, of how many. */
bool rf_run_coder_waits(const rf_run *run, int64_t idx, int64_t *pass, int64_t *n_passes);
/* Parameters and state of coder `idx`, no moments. Local. NOT_FOUND where it waits, or its
 * checkpoint cannot be read. */
rf_status rf_run_load_coder(rf_backend *be, rf_stream *s, const rf_run *run, int64_t idx,
                            rf_coder **out);

/* How far a coder came, by the newest checkpoint that has it and can be read. */
typedef struct rf_coder_progress {
    bool is_known;                   /* else nothing of it is but the last two */
    int64_t n_batches, batches_done; /* n_batches: of its sequence, 0: not known */
    int64_t n_tried;                 /* of batches_done: until it failed or stopped, */
    int64_t n_skipped, n_outliers;   /* without an update of these, and of these as outliers */
    bool failed;
    const char *stopped;         /* "", "stop_metric", "bad run" */
    int64_t waits_for, n_passes; /* a pass that has not begun, from 1, of how many; 0: none */
} rf_coder_progress;
/* `out` [n_coders] of the run in `dir`; nothing is known where there is no checkpoint. Local. */
rf_status rf_run_read_progress(const char *dir, const rf_run_settings *settings,
                               rf_coder_progress *out);

#ifdef __cplusplus
}
#endif

#endif
