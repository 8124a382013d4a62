/* What the files of the training run share. */
#ifndef REFRACT_RUN_IMPL_H
#define REFRACT_RUN_IMPL_H

#include "refract/train.h"
#include "refract/vit.h"

/* ---- setting_keys: lists of keys ------------------------------------------------------------- */

/* `keys` end in NULL. */
bool rf_setting_keys_have(const char *const *keys, const char *key);
/* The keys of `table` that `but_not` (may be NULL) has not, ending in NULL; to be freed. */
rf_status rf_setting_keys_of(const rf_settings_table *table, const rf_settings_table *but_not,
                             const char ***out);
/* SETTING: `key` of `item` is none of `keys`; names place and nearest. `path` ends in its dot. */
rf_status rf_setting_keys_raise(const rf_yaml *item, const char *path, const char *key,
                                const char *const *keys);

/* ---- train_settings, model_list, coder_list, run_settings --------------------------------------
 */

/* SETTING when they mean nothing together: weight decay with adam, no such stop_metric. */
rf_status rf_train_settings_check(const rf_train_settings *settings);
/* Keys of `train` that no coder has for itself. */
bool rf_train_setting_is_of_run(const char *key);
/* Keys of `train` that a coder may repeat for itself and has none of its own by that name, ending
 * in NULL; to be freed. */
rf_status rf_train_keys_of_coder(const char ***out);
/* Letters, digits and ._+- */
bool rf_name_has_char(char c);
/* The coders of the settings in `root`; `out` [n_out] is to be freed. */
rf_status rf_coder_list_read(const rf_yaml *root, const rf_train_settings *train,
                             rf_coder_spec **out, int64_t *n_out);
/* Section `model` of `root`: models and n_models. */
rf_status rf_model_list_read(const rf_yaml *root, rf_run_settings *settings);
rf_status rf_model_list_write_yaml(const rf_run_settings *settings, rf_str *out);
/* The key path of a model: "model", or "model.NAME". */
rf_status rf_model_list_key(const rf_run_settings *settings, int model, char *out,
                            size_t out_bytes);
/* SETTING when a coder's site names a model that is not there. */
rf_status rf_model_list_check_sites(const rf_run_settings *settings);
/* SETTING names the first key that shapes what is computed and differs: a resume is refused. */
rf_status rf_run_settings_compare(const rf_run_settings *then, const rf_run_settings *now);

/* ---- sweep: one coder's map to many ------------------------------------------------------------
 */

typedef struct rf_yaml_list {
    rf_yaml **nodes; /* owned */
    int64_t n;
} rf_yaml_list;

void rf_yaml_list_fini(rf_yaml_list *list);
rf_status rf_yaml_list_append(rf_yaml_list *list, rf_yaml *node); /* takes `node`, always */
rf_status rf_yaml_map_set(rf_yaml *map, const char *key, const rf_yaml *value); /* copies */
rf_status rf_yaml_set_text(rf_yaml *scalar, const char *text);
/* A list, a range a..b, {log: [a, b, n]} or {linear: [a, b, n]} as single values behind `out`. */
rf_status rf_yaml_read_values(const rf_yaml *node, const char *path, rf_yaml_list *out);
/* The same, where an item of a list may itself be a map or a list: one value as a whole. */
rf_status rf_yaml_read_any_values(const rf_yaml *node, const char *path, rf_yaml_list *out);
/* Copies of `coder` for its `each`, without that key; one copy where there is none. */
rf_status rf_each_expand(const rf_yaml *coder, const char *path, rf_yaml_list *out);
/* Copies of `coder` (which has a name) for every point of `sweep` (NULL: one copy). */
rf_status rf_sweep_expand(const rf_yaml *sweep, const rf_yaml *coder, rf_yaml_list *out);

/* ---- metrics_log: metrics.jsonl ----------------------------------------------------------------
 */

typedef struct rf_metrics_line {
    char coder[RF_NAME_LEN];
    int64_t tick, step, tokens; /* step: batches of the coder so far; tokens: valid ones */
    double epoch, lr;
    rf_step_metrics m;
    double k, p, threshold; /* of this step; NaN where the coder has none. threshold: BatchTopK's */
    int64_t n_resampled, n_skipped, n_outliers; /* so far; n_skipped counts outliers too */
    int64_t stopped;                            /* rf_stop */
    double tokens_per_s;
} rf_metrics_line;

rf_status rf_metrics_append_json(const rf_metrics_line *line, rf_str *out);
rf_status rf_metrics_parse_json(const char *text, int64_t n_bytes, rf_metrics_line *out);

typedef struct rf_metrics_log rf_metrics_log;
rf_status rf_metrics_log_open(const char *path, rf_metrics_log **out); /* appends */
rf_status rf_metrics_log_write(rf_metrics_log *log, const rf_metrics_line *line);
rf_status rf_metrics_log_close(rf_metrics_log *log); /* NULL is fine */
/* Leave the lines of ticks up to `tick`; a torn line and all behind it go. No file is fine. */
rf_status rf_metrics_cut(const char *path, int64_t tick);
/* The last line of `coder` up to its step `max_step`; *has is false where there is none. */
rf_status rf_metrics_find_last(const char *path, const char *coder, int64_t max_step,
                               rf_metrics_line *out, bool *has);
/* The figures of a line by name, for TensorBoard, CSV and `select`: idx 0, 1, ... until NULL. */
const char *rf_metrics_figure(const rf_metrics_line *line, int idx, double *value);

/* The value of a figure by its name (`ev` is short for explained_variance); NULL line: only whether
 * there is such a figure. */
bool rf_metrics_find_figure(const rf_metrics_line *line, const char *name, double *value);

/* ---- stopping: coders that are done before their batches are -----------------------------------
 */

/* Numbers stand in checkpoints and metrics. */
typedef enum rf_stop {
    RF_STOP_NONE,
    RF_STOP_METRIC, /* stop_metric did not improve for stop_patience lines: done, and well */
    RF_STOP_BAD,    /* bad_l0 and bad_ev: failed */
    RF_N_STOPS
} rf_stop;
/* "", "stop_metric", "bad run". */
const char *rf_stop_name(rf_stop stop);

/* What a coder's lines showed so far. Zeroed: nothing yet. */
typedef struct rf_stopping {
    int stop;        /* rf_stop */
    int64_t n_lines; /* that had a finite stop_metric, or came after one that had */
    int64_t n_worse; /* since the best */
    double best;     /* of n_lines > 0 */
} rf_stopping;

/* SETTING says what stop_metric must look like. */
rf_status rf_stopping_check(const rf_train_settings *settings);
/* Look at one more line of metrics of a coder whose warm-up is over or not (`is_warm`: bad runs are
 * judged then only). The same on every rank, as figures are. */
rf_status rf_stopping_update(rf_stopping *stopping, const rf_train_settings *settings,
                             const rf_metrics_line *line, bool is_warm);

/* ---- select: "max ev where l0 <= 500" ----------------------------------------------------------
 */

/* "" is fine. SETTING says what was expected. */
rf_status rf_select_check(const char *text);
/* The index of the best of `lines` [n], or -1 where none fits or `text` is "". */
rf_status rf_select_best(const char *text, const rf_metrics_line *lines, int64_t n, int64_t *out);

/* ---- checkpoint: docs/format-checkpoint.md -----------------------------------------------------
 */

typedef struct rf_checkpoint_coder {
    const char *name;
    rf_coder *coder;
    rf_optimiser *opt; /* NULL when reading: moments are not looked at */
    int64_t batches_done;
    bool failed;
    rf_stopping stopping;
} rf_checkpoint_coder;

enum { RF_PROCESSING_LEN = RF_MAX_MODELS * RF_NAME_LEN };

typedef struct rf_checkpoint {
    int64_t tick;
    uint64_t picture_hash, model_hash;
    char weight_processing[RF_PROCESSING_LEN]; /* rf_summary_processing */
    const char *settings;                      /* YAML */
    const char *backend;                       /* rf_backend_describe */
    rf_checkpoint_coder *coders;
    int64_t n_coders;
} rf_checkpoint;

/* Local; a failure leaves what was at `path`. */
rf_status rf_checkpoint_write(const char *path, rf_stream *s, const rf_checkpoint *checkpoint);

typedef struct rf_checkpoint_header {
    int64_t tick, n_coders;
    uint64_t picture_hash, model_hash;
    char *weight_processing; /* owned, as are the next */
    char *settings;
    char *backend;
} rf_checkpoint_header;

void rf_checkpoint_header_fini(rf_checkpoint_header *header);
/* Local. FORMAT when it is no checkpoint, damaged, or of another version. */
rf_status rf_checkpoint_read_header(const char *path, rf_checkpoint_header *out);
/* Fill coders, optimisers and progress of `inout`, whose names and shapes must fit.
 * Rank 0 of `comm` reads and the others get it from there; NULL: this rank alone. Collective. */
rf_status rf_checkpoint_read(const rf_comm *comm, const char *path, rf_stream *s,
                             rf_checkpoint *inout);
/* Sites of coder `idx`, whose latents must be those of `settings`. Local. */
rf_status rf_checkpoint_read_shape(const char *path, int64_t idx, const rf_coder_settings *settings,
                                   rf_coder_shape *out);
/* The same as rf_checkpoint_read for one coder of the file. Local. */
rf_status rf_checkpoint_read_coder(const char *path, rf_stream *s, int64_t idx,
                                   rf_checkpoint_coder *inout);

/* ---- run_folder: what lies where ---------------------------------------------------------------
 */

rf_status rf_run_folder_config(const char *dir, char out[RF_PATH_LEN]);
rf_status rf_run_folder_metrics(const char *dir, char out[RF_PATH_LEN]);
rf_status rf_run_folder_coder(const char *dir, const char *name, char out[RF_PATH_LEN]);
rf_status rf_run_folder_checkpoint(const char *dir, int64_t tick, char out[RF_PATH_LEN]);
/* Ticks of the checkpoints in `dir`, rising; to be freed. No folder: none. */
rf_status rf_run_folder_list(const char *dir, int64_t **ticks, int64_t *n);
/* Whether a run was begun in `dir`. */
rf_status rf_run_folder_is_used(const char *dir, bool *out);
/* Remove checkpoints before `tick` but for the newest `keep` up to and with it, and what a killed
 * run left half written. */
rf_status rf_run_folder_prune(const char *dir, int64_t tick, int64_t keep);
/* Put a checkpoint that cannot be read out of the way, under another name. */
rf_status rf_run_folder_set_aside(const char *dir, int64_t tick);

/* ---- summary: the files at the end -------------------------------------------------------------
 */

typedef struct rf_summary_row {
    const rf_coder_spec *spec;
    const rf_metrics_line *last; /* coder "" when it never stepped */
    int64_t n_batches;
    bool failed;
    int stop; /* rf_stop */
} rf_summary_row;

/* One row for each coder, settings included; `best` (an index or -1) is marked. */
rf_status rf_summary_write(const char *path, const rf_summary_row *rows, int64_t n, int64_t best);
/* What a coder was trained on. */
typedef struct rf_coder_origin {
    rf_vit *const *vits;          /* [n_vits] */
    const rf_named_model *models; /* [n_vits] what sites call them */
    int n_vits;
    uint64_t model_hash, picture_hash;
} rf_coder_origin;

/* What the transformers' weights had been through: rf_vit_processing_name of each, with ", "
 * between them where they differ. */
rf_status rf_summary_processing(rf_vit *const *vits, int n_vits, char out[RF_PROCESSING_LEN]);
/* coder.safetensors: every tensor that use of the coder needs (W_enc [F, D], W_dec [F, E] ...), a
 * jumprelu coder's threshold [F] and a batch_topk coder's threshold [1] as they are used, and
 * metadata that say what it is of. */
rf_status rf_summary_write_coder(const char *path, rf_stream *s, const rf_coder *coder,
                                 const rf_coder_spec *spec, const rf_coder_origin *origin);

/* ---- coder_cost: what a coder takes, for `plan` ------------------------------------------------
 */

typedef struct rf_coder_cost {
    int64_t n_latents, width, out_width;
    bool is_transcoder, subtracts;
    double parameter_bytes; /* trained; gradients are as many */
    double state_bytes;     /* beside these: counters, statistics, archetypal points */
    double optimiser_bytes; /* moments, sums, the live copy */
    double work_bytes;      /* of a step on each rank, without gradients; about */
    double encode_flop;     /* of a token: the encoder product */
    double rest_flop;       /* of a token: all else; codes that may be dense count as dense */
    double update_flop;     /* of an update: Muon, an archetypal decoder */
    double update_bytes;    /* that an update moves */
} rf_coder_cost;

/* Errors: those of rf_coder_check. */
rf_status rf_coder_cost_estimate(const rf_coder_spec *spec, const rf_coder_shape *shape,
                                 int n_ranks, rf_coder_cost *out);

/* ---- run_parts: what a run is made of ----------------------------------------------------------
 */

typedef struct rf_trained {
    const rf_coder_spec *spec;
    rf_reader_site sites[2 * RF_MAX_SITES]; /* [n_in] of the input, then [n_out] of the target */
    int n_in, n_out;                        /* n_out 0: the input is the target */
    rf_coder_shape shape;
    rf_coder *coder;
    rf_optimiser *opt;
    rf_schedule schedule;
    int64_t n_batches, batches_done, n_skipped, tokens_per_epoch;
    bool failed;
    rf_stopping stopping;
    int64_t n_tokens;      /* of all batches */
    int64_t n_whole;       /* batches that are not short: all but perhaps the last */
    rf_metrics_line last;  /* coder "" before the first step */
    rf_metrics_line whole; /* the last of a whole batch that was logged: for the summary */
    int64_t first_batch;   /* of this call */
    int64_t window_tokens;
    double window_start;
    rf_tfevents *events; /* rank 0 */
} rf_trained;

typedef struct rf_training {
    const rf_comm *comm; /* borrowed, as is the next */
    const rf_run_settings *settings;
    int64_t n_threads;
    rf_backend *be;
    rf_stream *stream;
    rf_vit *vits[RF_MAX_MODELS]; /* as settings->models, all on `be` */
    int n_vits;
    rf_picture_list *pictures;
    rf_transform transforms[RF_MAX_MODELS];
    rf_activation_stream *acts;
    rf_trained *coders; /* [settings->n_coders] */
    rf_step *step;
    uint64_t picture_hash, model_hash; /* model_hash: of all models, in order */
    int64_t tick, saved_tick;          /* saved_tick -1: none yet */
    rf_str settings_yaml;
    rf_folder_lock *lock; /* rank 0, as is the next */
    rf_metrics_log *metrics;
} rf_training;

/* Model, pictures, stream, coders with zero parameters, work space. Collective. */
rf_status rf_training_open(rf_training *t);
void rf_training_close(rf_training *t);
/* Start values of every coder from the head of its own sequence. Collective. */
rf_status rf_training_init_coders(rf_training *t);
/* Cores of this host that each of its ranks may use. Collective. */
rf_status rf_training_count_threads(const rf_comm *comm, int64_t asked, int64_t *out);

/* ---- run_resume: begin at the start or at a checkpoint -----------------------------------------
 */

/* Make or check the run folder, and take its lock. Collective. */
rf_status rf_training_enter_folder(rf_training *t);
/* Start values, or those of the newest whole checkpoint, and the stream at that place. Collective.
 */
rf_status rf_training_begin(rf_training *t);
/* Collective. */
rf_status rf_training_save(rf_training *t);

/* ---- run_loop ----------------------------------------------------------------------------------
 */

/* All ticks that remain, or until a signal. Collective. */
rf_status rf_training_loop(rf_training *t, rf_train_report *report);

#endif
