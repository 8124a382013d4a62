/* What the files of the training run share. */
#ifndef REFRACT_RUN_IMPL_H
#define REFRACT_RUN_IMPL_H

#include "refract/train.h"
#include "refract/vit.h"

enum { RF_MAX_CODERS = 4096 }; /* of a run */

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
/* Section `model` of `root`: models and n_models. `is_needed`: they must say where they are. */
rf_status rf_model_list_read(const rf_yaml *root, bool is_needed, rf_run_settings *settings);
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
    rf_coder *coder;   /* NULL on the ranks that have it not */
    rf_optimiser *opt; /* NULL when reading: moments are not looked at */
    int owner;         /* the first rank that has it */
    int64_t n_batches, batches_done;
    bool failed;
    rf_stopping stopping;
    int64_t n_skipped, n_outliers; /* of its counters; when reading, as the next */
    int64_t n_tried; /* batches until it failed or stopped: it learned from them or skipped them */
} rf_checkpoint_coder;

enum { RF_PROCESSING_LEN = RF_MAX_MODELS * RF_NAME_LEN };

typedef struct rf_checkpoint {
    int64_t tick;
    uint64_t picture_hash, model_hash;
    char weight_processing[RF_PROCESSING_LEN]; /* rf_summary_processing */
    const char *settings;                      /* YAML */
    const char *backend;                       /* rf_backend_describe */
    rf_checkpoint_coder *coders;               /* [n_coders] */
    int64_t n_coders;
    int64_t first, n_run; /* coders[0] is number `first` of the `n_run` of the run; n_run 0: there
                             are no others */
    const rf_comm *comm;  /* whose ranks the owners are, for writing; NULL: this rank has all */
} rf_checkpoint;

/* Rank 0 writes, and gets what it has not from the owners, one coder at a time. A failure leaves
 * what was at `path`, and rank 0 alone looks at that. Collective over checkpoint->comm; NULL:
 * local. */
rf_status rf_checkpoint_write(const char *path, rf_stream *s, const rf_checkpoint *checkpoint);

typedef struct rf_checkpoint_header {
    int64_t tick, n_coders; /* n_coders: of the run */
    int64_t first, n_held;  /* which of them are in the file */
    uint64_t picture_hash, model_hash;
    char *weight_processing; /* owned, as are the next */
    char *settings;
    char *backend;
} rf_checkpoint_header;

void rf_checkpoint_header_fini(rf_checkpoint_header *header);
/* Local. FORMAT when it is no checkpoint, damaged, or of another version. */
rf_status rf_checkpoint_read_header(const char *path, rf_checkpoint_header *out);
/* Fill coders, optimisers and progress of `inout`, whose names and shapes must fit and which must
 * be what the file holds. Rank 0 of `comm` reads and the others get it from there, coders those
 * that have them, progress all; NULL: this rank alone. Collective. */
rf_status rf_checkpoint_read(const rf_comm *comm, const char *path, rf_stream *s,
                             rf_checkpoint *inout);
/* Progress alone of the `n` coders from number `first` on, which have the names. Collective, as
 * above. */
rf_status rf_checkpoint_read_progress(const rf_comm *comm, const char *path, int64_t first,
                                      int64_t n, rf_checkpoint_coder *inout);
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
/* The same among those behind tick `after`: the others stay. */
rf_status rf_run_folder_prune_after(const char *dir, int64_t after, int64_t tick, int64_t keep);
/* summary.csv says that the run has ended: it goes when that goes on. */
rf_status rf_run_folder_remove_summary(const char *dir);
/* Put a checkpoint that cannot be read out of the way, under another name. */
rf_status rf_run_folder_set_aside(const char *dir, int64_t tick);

/* ---- summary: the files at the end -------------------------------------------------------------
 */

typedef struct rf_summary_row {
    const rf_coder_spec *spec;
    const rf_metrics_line *last; /* coder "" when it never stepped */
    int64_t n_batches, batches_done, n_tried, n_skipped, n_outliers;
    bool failed;
    int stop; /* rf_stop */
} rf_summary_row;

/* One row for each coder, settings included; `best` (an index or -1) is marked. */
rf_status rf_summary_write(const char *path, const rf_summary_row *rows, int64_t n, int64_t best);
/* What a coder was trained on. */
typedef struct rf_coder_origin {
    const char *model;      /* "tiny-vit", or "base:tiny-vit, tuned:tiny-vit" */
    const char *processing; /* rf_summary_processing */
    uint64_t model_hash, picture_hash;
} rf_coder_origin;

/* What the transformers' weights had been through: rf_vit_processing_name of each, with ", "
 * between them where they differ. */
rf_status rf_summary_processing(rf_vit *const *vits, int n_vits, char out[RF_PROCESSING_LEN]);
/* coder.safetensors: every tensor that use of the coder needs (W_enc [F, D], W_dec [F, E] ...), a
 * jumprelu coder's threshold [F] and a batch_topk coder's threshold [1] ([3] with k by class) as
 * they are used, and metadata that say what it is of. */
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
    /* of a token, by list of the step (RF_STEP_MAIN ...): entries, and columns of their gradients
     */
    double entries[RF_MAX_LISTS], columns[RF_MAX_LISTS];
    double encode_flop;    /* of a token: the encoder product */
    double rest_flop;      /* of a token: all else; codes that may be dense count as dense */
    double update_flop;    /* of an update: Muon, an archetypal decoder */
    double update_bytes;   /* that an update moves */
    double exchange_bytes; /* of a token: what each of several ranks gets of it; gradients instead
                              where codes may be dense */
} rf_coder_cost;

/* Errors: those of rf_coder_check. */
rf_status rf_coder_cost_estimate(const rf_coder_spec *spec, const rf_coder_shape *shape,
                                 int n_ranks, rf_coder_cost *out);
/* Bytes that a rank holds of a coder while others take their steps. */
double rf_coder_cost_held(const rf_coder_cost *cost, const rf_coder_spec *spec, int n_ranks);
/* Seconds of all steps over `n_tokens`, on `n_ranks` ranks of which each does so many FLOP and
 * moves so many bytes a second. Dense gradients are shared by the ranks, sparse ones and updates
 * are made by each. */
double rf_coder_cost_seconds(const rf_coder_cost *cost, const rf_coder_spec *spec, int64_t n_tokens,
                             int n_ranks, double flop_per_s, double bytes_per_s);

/* ---- deal: which ranks train which coder -------------------------------------------------------
 */

/* What a coder weighs in the dealing: rf_coder_cost_seconds on a machine that is the same
 * everywhere. */
double rf_deal_weight(const rf_coder_cost *cost, const rf_coder_spec *spec, int64_t n_tokens,
                      int n_ranks);
/* groups[i] of 0 .. n_groups - 1 for n coders of these weights, so that all have about as much to
 * do: the heaviest first, each to the group that has least so far, the first of equals. Local, and
 * a function of its arguments. */
rf_status rf_deal(const double *weights, int64_t n, int n_groups, int *groups);
/* The idx-th of the `n` names of a group, behind a comma: a few of them, with the last " and 7
 * more". */
rf_status rf_deal_append_name(rf_str *out, int64_t idx, int64_t n, const char *name);

/* ---- run_progress: how far coders came, by the checkpoints -------------------------------------
 */

/* FORMAT names `path` where the progress of coder `idx` cannot be: more batches than `n_batches`
 * (0: not known), more skipped than taken. */
rf_status rf_run_progress_check(const char *path, int64_t idx, const rf_checkpoint_coder *c,
                                int64_t n_batches);
/* ends[i] (0: not known) is where the pass ends that begins with coder i. */
void rf_run_passes_note(int64_t *ends, int64_t first, int64_t end);
/* How many passes took the coders before `upto`; `most`: train.coders_at_once, for those that are
 * not known. */
int64_t rf_run_passes_count(const int64_t *ends, int64_t upto, int64_t most);
/* How many passes `n` coders still take. */
int64_t rf_run_passes_left(int64_t n, int64_t most);

/* ---- run_parts: what a run is made of, and what it has in every pass ---------------------------
 */

typedef struct rf_trained {
    const rf_coder_spec *spec;
    rf_reader_site sites[2 * RF_MAX_SITES]; /* [n_in] of the input, then [n_out] of the target */
    int n_in, n_out;                        /* n_out 0: the input is the target */
    rf_coder_shape shape;
    rf_coder_cost cost;
    int first_rank, n_ranks; /* that train it, of its pass */
    rf_coder *coder;         /* NULL, as opt, on other ranks and in other passes */
    rf_optimiser *opt;
    rf_schedule schedule;
    int64_t n_batches, tokens_per_epoch;
    int64_t batches_done, n_skipped, n_outliers; /* the same on every rank, as the next three */
    int64_t n_tried; /* batches until it failed or stopped: it learned from them or skipped them */
    bool failed;
    rf_stopping stopping;
    int64_t n_tokens;      /* of all batches */
    int64_t n_whole;       /* batches that are not short: all but perhaps the last */
    rf_metrics_line last;  /* coder "" before the first step; where it is trained, and on rank 0 */
    rf_metrics_line whole; /* the last of a whole batch that was logged: for the summary, rank 0 */
    int64_t first_batch;   /* of this call */
    int64_t window_tokens;
    double window_start;
    rf_tfevents *events; /* rank 0 */
} rf_trained;

/* The coders of a run train in passes, each from its own reading: numbers first .. end - 1 of the
 * list, dealt out over groups of consecutive ranks. */
typedef struct rf_training {
    const rf_comm *comm; /* borrowed, as is the next */
    const rf_run_settings *settings;
    rf_comm *group; /* the ranks that train coders with this one; NULL: all */
    int n_groups;
    int64_t first, end;
    int64_t pass_tick; /* when the pass began */
    int64_t passes_before;
    int64_t n_threads;
    rf_backend *be;
    rf_stream *stream;
    rf_vit *vits[RF_MAX_MODELS]; /* as settings->models, all on `be`; none where activations come */
    int n_vits;                  /* from a store alone, as with `pictures` and `transforms` */
    rf_picture_list *pictures;
    rf_transform transforms[RF_MAX_MODELS];
    rf_store *store; /* NULL: all live */
    rf_str model_name;
    char processing[RF_PROCESSING_LEN]; /* of the models' weights */
    const char *names[RF_MAX_MODELS];   /* [settings->n_models] */
    rf_activation_stream *acts;         /* of the pass: reader r is coder first + r */
    rf_trained *coders;                 /* [settings->n_coders] */
    rf_step *step; /* of the pass; NULL where this rank has none of its coders */
    uint64_t picture_hash, model_hash; /* model_hash: of all models, in order */
    int64_t tick, saved_tick;          /* saved_tick -1: none yet */
    rf_str settings_yaml;
    rf_folder_lock *lock; /* rank 0, as is the next */
    rf_metrics_log *metrics;
} rf_training;

/* ---- run_store: a run and its activation store -------------------------------------------------
 */

/* Whether all comes from a store: no model, no pictures. */
bool rf_training_is_stored(const rf_training *t);
/* A finished store that fits the settings, and its hashes. Local. */
rf_status rf_training_open_store(rf_training *t);
/* model_name and processing. Local. */
rf_status rf_training_describe_models(rf_training *t);
/* By the model, or by the store. Local. */
rf_status rf_training_find_point(const rf_training *t, int model, const char *hook,
                                 rf_hook_point *out);
/* A new store for the readers, or the unfinished one that is there. Collective. */
rf_status rf_training_create_store(rf_training *t, const rf_activation_stream_opts *opts,
                                   const rf_reader_opts *readers, int64_t n_readers);

/* ---- run_parts, again --------------------------------------------------------------------------
 */

/* Models and pictures, or the store, what is known of every coder, groups of ranks. Collective. */
rf_status rf_training_open(rf_training *t);
/* The same but for the groups, and for how long the coders train. Collective. */
rf_status rf_training_open_data(rf_training *t);
rf_activation_stream_opts rf_training_stream_opts(const rf_training *t);
rf_reader_opts rf_training_reader(const rf_trained *c);
/* Closes the pass too. Collective. */
void rf_training_close(rf_training *t);
/* Into how many groups `train.ranks_per_coder` cuts so many ranks; SETTING where it does not divide
 * them. Local. */
rf_status rf_train_count_groups(const rf_train_settings *settings, int n_ranks, int *out);
/* Tokens and batches of a coder's whole sequence, and of its whole batches. */
void rf_training_set_tokens(rf_trained *c, int64_t tokens_per_epoch);
/* Cores of this host that each of its ranks may use. Collective. */
rf_status rf_training_count_threads(const rf_comm *comm, int64_t asked, int64_t *out);

/* ---- run_pass: what a pass is made of ----------------------------------------------------------
 */

/* Close the pass that is open, and open that of coders first .. end - 1: dealt out, the stream at
 * its beginning, coders with zero parameters, work space. Collective. */
rf_status rf_training_open_pass(rf_training *t, int64_t first, int64_t end);
void rf_training_close_pass(rf_training *t);
/* How many coders a pass takes from number `first` on. */
int64_t rf_training_pass_end(const rf_training *t, int64_t first);
/* Start values of the pass's coders, each from the head of its own sequence. Collective. */
rf_status rf_training_init_coders(rf_training *t);
/* "coders 5 to 8 of 12 (pass 2 of 3)", and who trains what, through the log. Rank 0. */
rf_status rf_training_log_pass(const rf_training *t);
/* coder.safetensors of each of the pass's coders; rank 0 writes. Collective. */
rf_status rf_training_write_coders(const rf_training *t);

/* ---- run_resume: begin at the start or at a checkpoint -----------------------------------------
 */

/* Make or check the run folder, and take its lock. Collective. */
rf_status rf_training_enter_folder(rf_training *t);
/* The first pass with start values, or that of the newest whole checkpoint at its place.
 * Collective.
 */
rf_status rf_training_begin(rf_training *t);
/* The pass behind this one, with start values. Collective. */
rf_status rf_training_begin_next(rf_training *t);
/* Collective. */
rf_status rf_training_save(rf_training *t);
/* Of a pass that is over the last checkpoint stays. Collective. */
rf_status rf_training_end_pass(const rf_training *t);

/* ---- run_loop ----------------------------------------------------------------------------------
 */

/* All ticks of the pass that remain, or until a signal. Collective. */
rf_status rf_training_loop(rf_training *t, rf_train_report *report);

#endif
