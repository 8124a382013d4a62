/* coder: sparse coders. A table of architectures; a coder as one arena of parameters and state
 * carved from one table; its initialisation; codes and reconstructions without a batch x dictionary
 * buffer. Training is in `train` (rf_step). */
#ifndef REFRACT_CODER_H
#define REFRACT_CODER_H

#include "refract/base.h"
#include "refract/data.h"
#include "refract/io.h"
#include "refract/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { RF_SITES_LEN = 2048 };

/* ---- settings of `coders` ----------------------------------------------------------------------
 */

typedef enum rf_b_dec_init {
    RF_B_DEC_GEOMETRIC_MEDIAN,
    RF_B_DEC_MEAN,
    RF_B_DEC_ZEROS,
} rf_b_dec_init;
typedef enum rf_w_enc_init { RF_W_ENC_TIED, RF_W_ENC_INDEPENDENT } rf_w_enc_init;
typedef enum rf_decoder_kind {
    RF_DECODER_FREE,
    RF_DECODER_UNIT,
    RF_DECODER_ARCHETYPAL
} rf_decoder_kind;
typedef enum rf_subtract { RF_SUBTRACT_AUTO, RF_SUBTRACT_YES, RF_SUBTRACT_NO } rf_subtract;
typedef enum rf_ghost { RF_GHOST_NONE, RF_GHOST_ORIGINAL, RF_GHOST_PRISMA } rf_ghost;
typedef enum rf_resample { RF_RESAMPLE_NONE, RF_RESAMPLE_LOSS, RF_RESAMPLE_DATA } rf_resample;
typedef enum rf_selection { RF_SELECTION_TOPK, RF_SELECTION_BATCH_TOPK } rf_selection;
/* `penalty` of the settings; AUTO is the architecture's own. */
typedef enum rf_penalty_choice {
    RF_PENALTY_CHOICE_AUTO, /* relu, gated: l1; p_anneal: power; jumprelu: l0 */
    RF_PENALTY_CHOICE_L1,
    RF_PENALTY_CHOICE_LP, /* the p-norm of a token's values */
    RF_PENALTY_CHOICE_TANH,
    RF_PENALTY_CHOICE_L0,
    RF_PENALTY_CHOICE_TARGET_L0, /* (L0 / target_l0 - 1)^2 */
} rf_penalty_choice;

/* k of a token: `of` its class, or `any` where that is 0, or the largest where both are. */
enum { RF_K_CLASSES = 3 };
typedef struct rf_k_by_class {
    int64_t any;
    int64_t of[RF_K_CLASSES]; /* cls, register, patch */
} rf_k_by_class;

/* One coder, as the file says it; what each means, its default and range: the table below. */
typedef struct rf_coder_settings {
    char name[RF_NAME_LEN];
    char input[RF_SITES_LEN];  /* sites: hook points, or model:hook, with ", " between them */
    char target[RF_SITES_LEN]; /* "": the input itself */
    int tokens;                /* as written; rf_coder_token_class tells what it means */
    double max_norm;           /* tokens of a larger norm are left out; 0: none is */
    int architecture;          /* index for rf_architecture_at */
    int64_t expansion, latents;
    rf_k_by_class k;
    double k_start; /* times k at the first step */
    int64_t k_steps;
    /* sparsity */
    double l1, l0, target_l0;
    int64_t sparsity_warmup_steps;
    int penalty; /* rf_penalty_choice */
    bool penalty_by_norm;
    double p, p_end, p_anneal_from; /* p_anneal_from: share of the steps */
    int64_t p_anneal_stages;
    double tanh_scale;
    double threshold_start, bandwidth, pre_activation;
    bool ste_to_input;
    int selection; /* rf_selection, of matryoshka */
    double second_weight;
    int64_t n_prefixes;
    bool random_prefixes;
    double threshold_rate; /* of BatchTopK's running threshold */
    /* shape */
    bool skip;
    int subtract; /* rf_subtract */
    int decoder;  /* rf_decoder_kind */
    int64_t archetypal_points;
    double archetypal_delta;
    /* start */
    int w_enc;                             /* rf_w_enc_init */
    double data_blend, decoder_start_norm; /* norm of decoder rows that are free */
    int b_dec;                             /* rf_b_dec_init */
    int normalise;                         /* rf_token_norm */
    /* dead latents */
    double aux_alpha;
    int64_t aux_k, dead_after_tokens;
    int ghost, resample; /* rf_ghost, rf_resample */
    int64_t resample_every, resample_until;
    int products; /* rf_products */
    bool prisma_compat;
    int64_t seed;
} rf_coder_settings;

extern const rf_settings_table rf_coder_settings_table;

rf_token_class rf_coder_token_class(const rf_coder_settings *settings);
/* Latents of a coder of `width` (of its input): `latents`, or expansion * width where that is 0. */
int64_t rf_coder_settings_latents(const rf_coder_settings *settings, int64_t width);
/* The largest k of any class, which is also that of classes that are not named. */
int64_t rf_k_max(const rf_k_by_class *k);
/* k of tokens of a class; ALL: as rf_k_max. */
int64_t rf_k_of(const rf_k_by_class *k, rf_token_class token_class);
/* Sites of `input` and of `target`, in order; returns how many, at most RF_MAX_SITES each. */
int rf_coder_sites(const char *sites, char out[RF_MAX_SITES][RF_NAME_LEN]);

/* ---- architectures: one row and one file each ---------------------------------------------------
 */

/* What tells architectures apart: how codes are selected, what a pre-activation becomes, and what
 * the loss has beside |y - y_hat|^2 / V. Functions that may be NULL say so. */
typedef struct rf_architecture {
    const char *name, *help;
    rf_coder_act act;
    /* Codes may be too many for a sparse step, so that there is a dense path; otherwise a row has
     * at most k entries on average, found by the canonical dot. */
    bool may_be_dense;
    rf_penalty_kind penalty; /* where the settings say auto */
    /* Refuses settings that mean nothing here. */
    rf_status (*check)(const rf_coder_settings *settings, int64_t n_latents);
    /* How a training step selects: TOPK, BATCH_TOPK or POSITIVE. */
    rf_select_rule (*rule)(const rf_coder_settings *settings);
    /* Entries that a row may have in a sparse step, on average. */
    int64_t (*row_capacity)(const rf_coder_settings *settings, int64_t n_latents);
    /* Weight and k of a second reconstruction, for k = `k` of the first (MultiTopK); NULL: none. */
    double (*second)(const rf_coder_settings *settings, int64_t k, int64_t *second_k);
    /* Groups whose prefixes each reconstruct (Matryoshka), for the step `step`; NULL: none. */
    void (*prefixes)(const rf_coder_settings *settings, int64_t n_latents, int64_t step,
                     rf_latent_groups *out);
} rf_architecture;

int rf_architecture_count(void);
const rf_architecture *rf_architecture_at(int idx);            /* NULL out of range */
const rf_architecture *rf_architecture_find(const char *name); /* or NULL */

/* ---- a coder -----------------------------------------------------------------------------------
 */

typedef struct rf_coder rf_coder;

/* What it reads and what it reconstructs: the widths of the sites, in order. n_out = 0: its input
 * (autoencoder; with several input sites a crosscoder). Otherwise a transcoder. */
typedef struct rf_coder_shape {
    int n_in, n_out;
    int64_t in[RF_MAX_SITES], out[RF_MAX_SITES];
} rf_coder_shape;
/* One site of `width`, itself the target. */
rf_coder_shape rf_coder_shape_of(int64_t width);

typedef enum rf_tensor_kind { RF_TENSOR_PARAMETER, RF_TENSOR_STATE } rf_tensor_kind;
typedef enum rf_shard { RF_SHARD_NONE, RF_SHARD_LATENT } rf_shard; /* rows are latents */

/* One row of the table that drives arenas, checkpoint, export and the memory report. A coder has
 * some of them: view.data of the others is NULL. */
typedef struct rf_coder_tensor {
    const char *name;
    rf_tensor_kind kind;
    bool decay; /* weight decay applies */
    rf_row_rule rule;
    float radius; /* of RF_ROW_BALL */
    rf_shard shard;
    rf_view view; /* device memory of the coder */
} rf_coder_tensor;

/* Parameters come first and in this order: optimisers and gradients use the same indices. Shapes:
 * D the input's width, E the output's, F latents, N archetypal points. */
enum {
    RF_CODER_W_ENC, /* [F, D] */
    RF_CODER_B_ENC, /* [F]; of a gated coder the gate's */
    RF_CODER_W_DEC, /* [F, E]; with an archetypal decoder a state that is made of the next but */
    RF_CODER_B_DEC, /* [E] */
    RF_CODER_LOG_THRESHOLD,     /* [F] jumprelu: log theta */
    RF_CODER_GAIN,              /* [F] gated: r */
    RF_CODER_B_MAG,             /* [F] gated: the magnitude's bias */
    RF_CODER_W_SKIP,            /* [E, D] y_hat += W_skip x */
    RF_CODER_ARCHETYPES,        /* [F, N] W_dec = exp(m) (archetypes . points + offsets) */
    RF_CODER_ARCHETYPE_OFFSETS, /* [F, E], |row| <= archetypal_delta */
    RF_CODER_ARCHETYPE_SCALE,   /* [1] m */
    RF_CODER_N_PARAMETERS,
    /* state */
    RF_CODER_TOKENS_SINCE_FIRED = RF_CODER_N_PARAMETERS, /* I64 [F] since a value was > 0 */
    RF_CODER_SCALARS,                                    /* fp32 [RF_CODER_N_SCALARS] */
    RF_CODER_COUNTERS,                                   /* I64 [RF_CODER_N_COUNTERS] */
    RF_CODER_IN_SHIFT,  /* [D] of the normalisation, as are the next; AVERAGE and PER_DIMENSION */
    RF_CODER_IN_SCALE,  /* [D] */
    RF_CODER_OUT_SHIFT, /* [E] of a transcoder's target */
    RF_CODER_OUT_SCALE, /* [E] */
    RF_CODER_POINTS,    /* [N, E] archetypal points, fixed */
    RF_CODER_CLASS_THRESHOLDS, /* fp32 [RF_K_CLASSES, 2] of BatchTopK with k by class: as the
                                  scalars THRESHOLD and its MASS, of each class's own least value */
    RF_CODER_N_TENSORS
};
/* Places in `scalars`. */
enum {
    RF_SCALAR_VARIANCE,  /* V of the loss: mean |y - mean|^2 of the normalised initial sample */
    RF_SCALAR_THRESHOLD, /* BatchTopK: running sum of the least value kept (of any class), weighted
                          */
    RF_SCALAR_THRESHOLD_MASS, /* of its weights: threshold / mass is the mean */
    RF_SCALAR_LOSS,           /* running mean of the loss, for the guard, and its mass */
    RF_SCALAR_LOSS_MASS,
    RF_SCALAR_P,       /* p_anneal: p of the last step, */
    RF_SCALAR_P_SCALE, /* and what its penalty is multiplied by (0 before the first step) */
    RF_SCALAR_RMS,     /* root mean |seen|^2 of the initial sample: unit of thresholds, bandwidth */
    RF_CODER_N_SCALARS
};
/* Places in `counters`. */
enum {
    RF_COUNTER_STEPS,    /* updates done */
    RF_COUNTER_TOKENS,   /* valid tokens of these */
    RF_COUNTER_SKIPPED,  /* batches without an update: loss or gradient not finite, or an outlier */
    RF_COUNTER_DENSE,    /* 1: the next step takes the dense path */
    RF_COUNTER_OUTLIERS, /* of the skipped, those whose loss was finite and too large */
    RF_COUNTER_RESAMPLED,      /* latents that were given a new start */
    RF_COUNTER_RESAMPLES_LEFT, /* that still wait for one */
    RF_COUNTER_HOLD,           /* steps for which the dense path is kept, as codes did not fit */
    RF_COUNTER_ACCUMULATED,    /* batches whose gradients wait for an update */
    RF_CODER_N_COUNTERS
};

/* A coder with all parameters zero: give them values with rf_coder_init, or write into the tensors.
 * Takes nothing; `settings` are copied. Errors: what the architecture refuses, combinations that
 * mean nothing (skip with unequal widths), NO_MEMORY. */
rf_status rf_coder_create(rf_backend *be, const rf_coder_settings *settings,
                          const rf_coder_shape *shape, rf_coder **out);
void rf_coder_destroy(rf_coder *coder); /* NULL is fine */
/* What rf_coder_create refuses, without memory. Local. */
rf_status rf_coder_check(const rf_coder_settings *settings, const rf_coder_shape *shape);

const rf_coder_settings *rf_coder_get_settings(const rf_coder *coder);
const rf_architecture *rf_coder_architecture(const rf_coder *coder);
const rf_coder_shape *rf_coder_get_shape(const rf_coder *coder);
int64_t rf_coder_width(const rf_coder *coder);     /* D */
int64_t rf_coder_out_width(const rf_coder *coder); /* E */
bool rf_coder_is_transcoder(const rf_coder *coder);
/* Columns of the sites, one segment each. */
rf_segments rf_coder_in_segments(const rf_coder *coder);
rf_segments rf_coder_out_segments(const rf_coder *coder);
int64_t rf_coder_n_latents(const rf_coder *coder);
/* Its largest k, capped by the number of latents; for architectures without k the number of
 * latents.
 */
int64_t rf_coder_k(const rf_coder *coder);
/* Its tokens are of several classes, whose k the settings tell apart. */
bool rf_coder_has_class_k(const rf_coder *coder);
/* k of a token of each rf_token_class when k is multiplied by `scale`: 1 .. F; for lists of an
 * encode, whose row_class holds such classes. */
void rf_coder_class_k(const rf_coder *coder, double scale, int64_t out[RF_MAX_ROW_CLASSES]);
/* W_enc sees x - b_dec, not x. */
bool rf_coder_subtracts(const rf_coder *coder);
rf_penalty_kind rf_coder_penalty(const rf_coder *coder);
/* Entries of a token in the auxiliary list when `n_dead` latents are dead; 0: no such term. `aux_k`
 * 0 means the power of two nearest to E / 2 where codes are of a fixed number, none elsewhere. */
int64_t rf_coder_aux_k(const rf_coder *coder, int64_t n_dead);

int rf_coder_n_tensors(const rf_coder *coder);
rf_coder_tensor rf_coder_tensor_at(const rf_coder *coder, int idx);
bool rf_coder_has(const rf_coder *coder, int idx);
rf_view rf_coder_view(const rf_coder *coder, int idx); /* data NULL where it has none */

/* The small state as host values. Both synchronise `s`. */
typedef struct rf_coder_state {
    float scalars[RF_CODER_N_SCALARS];
    int64_t counters[RF_CODER_N_COUNTERS];
    float class_thresholds[RF_K_CLASSES][2]; /* zeros where it has none */
} rf_coder_state;
rf_status rf_coder_get_state(const rf_coder *coder, rf_stream *s, rf_coder_state *out);
rf_status rf_coder_set_state(rf_coder *coder, rf_stream *s, const rf_coder_state *state);
/* What values of a BatchTopK coder must be above in use, of tokens of a class: the mean of the
 * least value kept of that class, or, where there was none yet or its classes share one k, of the
 * whole batch; before the first step 0. */
float rf_coder_floor(const rf_coder_state *state, rf_token_class token_class);
/* Width of the straight-through estimators' rectangle, in units of pre-activations. */
double rf_coder_bandwidth(const rf_coder *coder, const rf_coder_state *state);
/* theta [F] (device) = exp(log_threshold), by the host's expf; synchronises. */
rf_status rf_coder_thresholds(const rf_coder *coder, rf_stream *s, const rf_view *theta);

/* Start values. `sample` [n, D], or [n, D + E] of a transcoder, the target's columns last (device,
 * contiguous, n >= 1): what the coder sees, the same on every rank. Normalisation first; all else
 * is of normalised rows. W_dec: rows of independent normals keyed by (seed, latent), blended with
 * data points, of norm 1 (or decoder_start_norm where free); W_enc = W_dec or independent; b_enc =
 * 0; b_dec = geometric median, mean or zeros of the target; V in double. Errors: NUMERIC when the
 * sample is not finite or has no variance. */
rf_status rf_coder_init(rf_coder *coder, rf_stream *s, const rf_view *sample);
/* W_dec of an archetypal decoder from its parameters; others: nothing. */
rf_status rf_coder_derive(rf_coder *coder, rf_stream *s);

/* The point with the least mean distance to the rows of x (host, [n, d]), by Weiszfeld's iteration
 * from the mean (Vardi & Zhang's step at a data point), until a step moves it by less than 1e-6 of
 * the mean distance or 200 times. `out` [d]. */
rf_status rf_geometric_median(const float *x, int64_t n, int64_t d, double *out);
/* Mean [d] and mean |x - mean|^2 of host rows, in double. */
rf_status rf_sample_moments(const float *x, int64_t n, int64_t d, double *mean, double *variance);

/* ---- using a coder ------------------------------------------------------------------------------
 */

/* Codes with room for `capacity` entries of `max_rows` rows, in device memory. */
rf_status rf_codes_create(rf_backend *be, int64_t max_rows, int64_t capacity, rf_codes *out);
void rf_codes_destroy(rf_backend *be, rf_codes *codes); /* NULL is fine */
/* Entries in `codes`; synchronises `s`. */
rf_status rf_codes_count(rf_stream *s, const rf_codes *codes, int64_t *out);

/* Rows that rf_coder_encode takes at once so that `capacity` entries always suffice: TopK needs k a
 * row, others may need F. */
int64_t rf_coder_rows_for(const rf_coder *coder, int64_t capacity);

/* Tokens as a coder sees them. `seen` [n, D]: normalised, less b_dec where the encoder wants that;
 * work space of the caller, as is the rest. */
typedef struct rf_coder_rows {
    rf_view x;                    /* [n, D] raw */
    rf_view seen;                 /* [n, D]; may be x where the coder has no skip */
    rf_view row_shift, row_scale; /* [n, n_in]; absent unless the normalisation is per token */
    const uint8_t *row_valid;     /* [n] or NULL */
    const uint8_t *row_class;     /* [n] device, RF_TOKENS_CLS, _REGISTER or _PATCH: whose k, or
                                     whose threshold; NULL: not known, the largest k, or the threshold
                                     of all */
} rf_coder_rows;

/* Fill seen (and row_shift, row_scale) from x. */
rf_status rf_coder_see(const rf_coder *coder, rf_stream *s, const rf_coder_rows *rows);
/* Codes of rows that were seen, as in use: BatchTopK selects by its running thresholds. Values are
 * what is decoded (for a gated coder those of the magnitude path). n_rows of `codes` is set;
 * capacity must suffice, see rf_coder_rows_for. NUMERIC when a row is not finite. */
rf_status rf_coder_encode(const rf_coder *coder, rf_stream *s, const rf_coder_rows *rows,
                          rf_codes *codes);
/* y_hat [n, E] from codes of the same rows, back in the units of the data. Rows that are not valid
 * get what no code decodes to. */
rf_status rf_coder_decode(const rf_coder *coder, rf_stream *s, const rf_coder_rows *rows,
                          const rf_codes *codes, const rf_view *y_hat);

/* y_hat [n, E] = decode(encode(x [n, D])), any n, in micro-batches; `y_hat` may not be x. Rows that
 * are not valid get what no code decodes to. n_active (host, [n], or NULL) gets the entries of each
 * row; row_class (host, [n], or NULL) as above. */
rf_status rf_coder_reconstruct(const rf_coder *coder, rf_stream *s, const rf_view *x,
                               const uint8_t *row_valid, const uint8_t *row_class,
                               const rf_view *y_hat, int64_t *n_active);

#ifdef __cplusplus
}
#endif

#endif
