/* eval: how good a trained coder is. Metrics on tokens, the model with the reconstruction in the
 * place of what it was made of, and the record of both (eval.json). */
#ifndef REFRACT_EVAL_H
#define REFRACT_EVAL_H

#include "refract/base.h"
#include "refract/coder.h"
#include "refract/comm.h"
#include "refract/data.h"
#include "refract/io.h"
#include "refract/tensor.h"
#include "refract/train.h"
#include "refract/vit.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- settings of `eval` -----------------------------------------------------------------------
 */

typedef struct rf_eval_settings {
    int64_t max_held_out, max_trained_on; /* pictures; 0: all */
    int64_t micro_batch;                  /* pictures in one forward pass */
    bool substitution;                    /* also the model with the reconstruction spliced in */
    bool trained_on;                      /* also pictures trained on, beside those held out */
    char classifier[RF_PATH_LEN];         /* "": the model's own head */
    double logit_scale;                   /* of `classifier`; 0: the model's own */
    char pictures[RF_PATH_LEN];           /* "": those that the run held out */
    char root[RF_PATH_LEN];               /* of `pictures`, as in section `data` */
    int part;                             /* rf_picture_part of `pictures` */
} rf_eval_settings;

extern const rf_settings_table rf_eval_settings_table;
/* SETTING when keys mean nothing together. */
rf_status rf_eval_settings_check(const rf_eval_settings *settings);

/* ---- metrics: sums over tokens, and the figures that come of them -----------------------------
 * All functions are local, on host memory. Sums are arenas of doubles, so that they may be added
 * over groups of pictures and over ranks. */

/* Which tokens a figure is about; a coder has those that it sees. */
typedef enum rf_eval_class {
    RF_EVAL_ALL, /* every token that the coder sees */
    RF_EVAL_CLS,
    RF_EVAL_REGISTER,
    RF_EVAL_PATCH,
} rf_eval_class;
enum { RF_EVAL_N_CLASSES = 4 };
const char *rf_eval_class_name(rf_eval_class which);

typedef struct rf_token_span {
    int64_t first, count; /* positions of a picture */
} rf_token_span;

/* The positions of one picture at a hook point, by class. */
typedef struct rf_token_layout {
    int64_t n_positions, width;
    rf_token_span spans[RF_EVAL_N_CLASSES]; /* of a class that the point has not: count 0 */
} rf_token_layout;

/* Of `point` as a coder of `tokens` sees it. Errors: those of rf_token_class_rows. */
rf_status rf_token_layout_init(const rf_vit_config *config, const rf_hook_point *point,
                               rf_token_class tokens, rf_token_layout *out);

/* What the activations of one hook point sum to: for each position how many pictures, the sum of
 * x - shift and of |x - shift|^2. `shift` [width] is any vector near the mean: with it the variance
 * loses no digits. Fields point into an arena of rf_site_sums_len doubles. */
typedef struct rf_site_sums {
    int64_t n_positions, width;
    double *count;  /* [n_positions] */
    double *square; /* [n_positions] */
    double *sum;    /* [n_positions, width] */
} rf_site_sums;
int64_t rf_site_sums_len(int64_t n_positions, int64_t width);
rf_site_sums rf_site_sums_bind(double *arena, int64_t n_positions, int64_t width);
/* x [n_pictures, n_positions, width]; valid [n_pictures]. */
void rf_site_sums_add(const rf_site_sums *sums, const float *x, const float *shift,
                      const uint8_t *valid, int64_t n_pictures);
/* Over the tokens of `span`: sum |x - mean|^2 about the mean of all of them, and about the mean of
 * each position. */
void rf_site_sums_variance(const rf_site_sums *sums, rf_token_span span, double *about_mean,
                           double *about_position);
/* The mean activation over the tokens of `span`, `mean` [width]; zeros when there are none. */
void rf_site_sums_mean(const rf_site_sums *sums, rf_token_span span, const float *shift,
                       float *mean);

/* What a coder's reconstructions sum to, by class. Counts are exact: doubles below 2^53. */
typedef struct rf_coder_sums {
    double n_tokens[RF_EVAL_N_CLASSES];
    double active[RF_EVAL_N_CLASSES]; /* entries with value > 0 */
    double error[RF_EVAL_N_CLASSES];  /* |x - x_hat|^2 */
    double cosine[RF_EVAL_N_CLASSES];
} rf_coder_sums;
enum { RF_CODER_SUMS_LEN = 4 * RF_EVAL_N_CLASSES };

/* One token of class `class` (or RF_EVAL_ALL: of no narrower one): x, x_hat [width] and how many
 * latents are active. */
void rf_coder_sums_add(rf_coder_sums *sums, rf_eval_class which, const float *x, const float *x_hat,
                       int64_t width, int64_t n_active);
/* x.y / (|x| |y|) in double; 0 when a norm is 0. */
double rf_eval_cosine(const float *x, const float *y, int64_t n);
/* Cross entropy of logits [n] against class `label`, in double, nats. */
double rf_eval_cross_entropy(const float *logits, int64_t n, int64_t label);

/* Figures of the tokens of one class; x is what was to be reconstructed, as the model gave it. NaN:
 * there are none (or their variance is 0). */
typedef struct rf_token_figures {
    int64_t n_tokens;
    double l0;                             /* mean number of active latents (value > 0) a token */
    double explained_variance;             /* 1 - sum |x - x_hat|^2 / sum |x - mean|^2 */
    double explained_variance_by_position; /* the same with the mean of each position */
    double mse;                            /* mean of (x - x_hat)^2 over tokens and elements */
    double squared_error;                  /* mean of |x - x_hat|^2 a token: mse times the width */
    double cosine;                         /* mean over tokens of cos(x, x_hat) */
} rf_token_figures;
/* Of tokens whose x lies side by side over `n_sites` sites (of spans[i] at sites[i], equally many
 * each). */
void rf_token_figures_compute(const rf_coder_sums *sums, rf_eval_class which,
                              const rf_token_span *spans, const rf_site_sums *sites, int n_sites,
                              rf_token_figures *out);

/* ---- substitution: the model with something else at a hook point ------------------------------
 */

/* What is put in the place of what. */
typedef enum rf_substitution_kind {
    RF_SUBSTITUTION_OFF,            /* not asked for */
    RF_SUBSTITUTION_INPUT,          /* an autoencoder's own tokens */
    RF_SUBSTITUTION_TARGET,         /* tokens of a transcoder's target */
    RF_SUBSTITUTION_ALL_SITES,      /* of several sites of one model at once */
    RF_SUBSTITUTION_SEVERAL_MODELS, /* none: there is no one model to put them into */
} rf_substitution_kind;
/* What eval.json says of it. */
const char *rf_substitution_text(rf_substitution_kind kind);

/* Means over pictures. The tokens that the coder sees are replaced, at the points that it
 * reconstructs, by what it makes of the untouched activations; all others keep what the model gave
 * them. Cosines are between the final embedding so and the untouched one. */
typedef struct rf_substitution_figures {
    rf_substitution_kind kind;
    int64_t n_pictures;    /* 0: not measured */
    double cosine_spliced; /* by the reconstruction */
    double cosine_zero;    /* by zeros */
    double cosine_mean;    /* by the mean activation of the replaced tokens over this split */
    int64_t n_labelled;    /* pictures whose class is one of the model's */
    double ce;             /* cross entropy of the untouched model, nats */
    double ce_spliced, ce_zero;
    double ce_recovered; /* 100 (ce_zero - ce_spliced) / (ce_zero - ce), percent */
    double accuracy;     /* percent of them whose class has the largest logit, untouched */
    double accuracy_spliced, accuracy_zero;
} rf_substitution_figures;

/* ---- classifier: what stands for a head where a model has none (CLIP) --------------------------
 */

/* Logits are scale * <embedding / |embedding|, class>. */
typedef struct rf_eval_classifier {
    rf_zero_shot classes;
    double scale;
    uint64_t hash; /* of its file */
} rf_eval_classifier;
/* Read `path` (of rf_zero_shot_save, or Prisma's .npy) for a model whose embeddings are `width`
 * wide. Errors: IO, FORMAT (no classifier, no unit vectors), SETTING (another width). */
rf_status rf_eval_classifier_load(const char *path, int64_t width, double scale,
                                  rf_eval_classifier *out);
void rf_eval_classifier_fini(rf_eval_classifier *classifier);

/* For each class of `list` the class of `classifier` (NULL: of the model's head), in `classes`
 * [n_classes of the list], to be freed, and in `how` which of these it was: in the same order,
 * where the list has titles (Kaggle's ImageNet) and they agree; by name; by number, of classes that
 * are all numbers from 0; in order, of as many classes that are all synsets (n01440764) and sorted.
 * *classes is NULL when there is no head or not every class fits, and `reason` (to be released)
 * says so. */
rf_status rf_eval_match_classes(const rf_vit *vit, const rf_eval_classifier *classifier,
                                const rf_picture_list *list, int64_t **classes, const char **how,
                                rf_str *reason);

/* ---- measure: coders on one split of pictures -------------------------------------------------
 */

typedef struct rf_eval_model {
    const char *name; /* as sites name it; "" where they name none */
    rf_vit *vit;
    const rf_transform *transform;        /* its size is the model's image size */
    const int64_t *classes;               /* of rf_eval_match_classes, or NULL */
    const rf_eval_classifier *classifier; /* NULL: its head */
} rf_eval_model;

typedef struct rf_eval_coder {
    const char *name;
    const rf_reader_site *sites; /* [n_in + n_out]: the input's, then the target's; `model` counts
                                    in those of the job */
    int n_in, n_out;             /* n_out 0: it reconstructs its input */
    rf_token_class tokens;
    rf_coder *coder;
} rf_eval_coder;

/* All borrowed. Every field must agree over ranks. */
typedef struct rf_eval_job {
    const rf_comm *comm;
    const rf_eval_model *models; /* [n_models], of one backend */
    int n_models;
    rf_stream *stream; /* of that backend */
    const rf_picture_list *pictures;
    const rf_eval_coder *coders;
    int64_t n_coders;
    rf_eval_settings settings;
    uint64_t seed; /* chooses the pictures when there are more than asked for */
    int64_t decode_threads;
    bool fast_decode; /* rf_image_reader_create's */
    double max_bad_share;
} rf_eval_job;

/* One site of several that a coder reconstructs. */
typedef struct rf_site_figures {
    char site[RF_NAME_LEN];
    int64_t width;
    rf_token_figures by_class[RF_EVAL_N_CLASSES];
} rf_site_figures;

typedef struct rf_coder_figures {
    char name[RF_NAME_LEN];
    char input[RF_SITES_LEN], target[RF_SITES_LEN]; /* sites; target "": the input itself */
    rf_token_class tokens;
    int64_t n_latents, width, out_width;
    int64_t n_alive; /* latents with a value > 0 on any token of this split */
    rf_token_figures by_class[RF_EVAL_N_CLASSES]; /* over all sites side by side */
    rf_site_figures *sites;                       /* [n_sites] of several; else NULL */
    int64_t n_sites;
    rf_substitution_figures substitution;
} rf_coder_figures;

typedef struct rf_split_figures {
    rf_picture_split split;
    int64_t n_pictures; /* that could be read */
    int64_t n_bad;
    uint64_t pictures_hash; /* of the names of those chosen */
    rf_coder_figures *coders;
    int64_t n_coders;
} rf_split_figures;

/* All figures of `job`'s coders on `split` (RF_SPLIT_ALL counts as held out). Every model runs on
 * the same pictures, which are dealt to ranks by micro-batches; one that cannot be read is read by
 * none. Sums are in double and added micro-batch by micro-batch, so that the figures have the same
 * bits on any number of ranks. Collective. Release with rf_split_figures_fini. Errors: IO (more
 * pictures that cannot be read than max_bad_share). */
rf_status rf_eval_measure(const rf_eval_job *job, rf_picture_split split, rf_split_figures *out);
void rf_split_figures_fini(rf_split_figures *figures);

/* ---- run: a finished run, measured and recorded -----------------------------------------------
 */

typedef struct rf_evaluated_model {
    char name[RF_NAME_LEN]; /* as sites name it */
    char model_name[RF_NAME_LEN], path[RF_PATH_LEN];
    char weight_processing[128]; /* rf_vit_processing_name */
    uint64_t hash;
    int64_t n_classes;       /* of its head, or of the classifier */
    const char *class_match; /* rf_eval_match_classes's `how`, or NULL */
    char *ce_reason;         /* why there is no cross entropy, or NULL */
    double logit_scale;      /* 0: there is no classifier */
    uint64_t classifier_hash;
} rf_evaluated_model;

typedef struct rf_eval_report {
    char run_dir[RF_PATH_LEN], checkpoint[RF_PATH_LEN], json_path[RF_PATH_LEN];
    int64_t step;
    char pictures_path[RF_PATH_LEN]; /* of the run */
    rf_evaluated_model models[RF_MAX_MODELS];
    int n_models;
    uint64_t pictures_hash, settings_hash;
    uint64_t seed;
    rf_eval_settings settings;
    rf_split_figures splits[2];       /* held out, trained on; n_coders 0: not measured */
    char split_paths[2][RF_PATH_LEN]; /* where their pictures lie */
} rf_eval_report;

/* Measure every coder of `run` on `be`, held out and trained on, and write eval.json into the run's
 * folder (rank 0, atomic). With settings->pictures all of those count as held out; SETTING when
 * some of them were trained on. Collective. Release with rf_eval_report_fini. Errors: those of
 * opening the model, the classifier, pictures and checkpoint, SETTING (classes that the classifier
 * has not), and those of rf_eval_measure. */
rf_status rf_eval_run(const rf_comm *comm, rf_backend *be, const rf_run *run,
                      const rf_eval_settings *settings, rf_eval_report *out);
void rf_eval_report_fini(rf_eval_report *report);
/* The text of eval.json. Local. */
rf_status rf_eval_report_write_json(const rf_eval_report *report, rf_str *out);

#ifdef __cplusplus
}
#endif

#endif
