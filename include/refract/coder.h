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

/* ---- settings of `coders` ----------------------------------------------------------------------
 */

typedef enum rf_b_dec_init {
    RF_B_DEC_GEOMETRIC_MEDIAN,
    RF_B_DEC_MEAN,
    RF_B_DEC_ZEROS,
} rf_b_dec_init;

/* One coder, as the file says it. */
typedef struct rf_coder_settings {
    char name[RF_NAME_LEN];
    char input[RF_NAME_LEN]; /* hook point */
    int tokens;              /* as written; rf_coder_token_class tells what it means */
    int architecture;        /* index for rf_architecture_at */
    int64_t expansion, latents, k;
    double l1, aux_alpha;
    int64_t aux_k, dead_after_tokens;
    int b_dec; /* rf_b_dec_init */
    int64_t seed;
} rf_coder_settings;

extern const rf_settings_table rf_coder_settings_table;

rf_token_class rf_coder_token_class(const rf_coder_settings *settings);
/* Latents of a coder of `width`: `latents`, or expansion * width where that is 0. */
int64_t rf_coder_settings_latents(const rf_coder_settings *settings, int64_t width);

/* ---- architectures: one row and one file each ---------------------------------------------------
 */

/* What tells architectures apart: how codes are selected and what the loss has beside
 * |x - x_hat|^2 / V. */
typedef struct rf_architecture {
    const char *name, *help;
    rf_select_rule rule;
    /* Codes may be too many for a sparse step, so that there is a dense path; otherwise a row has
     * at most k entries, found by the canonical dot. */
    bool may_be_dense;
    /* Refuses settings that mean nothing here. */
    rf_status (*check)(const rf_coder_settings *settings, int64_t n_latents);
    /* Entries that a row may have in a sparse step, on average. */
    int64_t (*row_capacity)(const rf_coder_settings *settings, int64_t n_latents);
    /* Weight of mean_b sum_i z_bi in the loss. */
    double (*l1)(const rf_coder_settings *settings);
    /* Entries of a row in the auxiliary list when `n_dead` latents are dead; 0: no such term. */
    int64_t (*aux_k)(const rf_coder_settings *settings, int64_t width, int64_t n_dead);
} rf_architecture;

int rf_architecture_count(void);
const rf_architecture *rf_architecture_at(int idx);            /* NULL out of range */
const rf_architecture *rf_architecture_find(const char *name); /* or NULL */

/* ---- a coder -----------------------------------------------------------------------------------
 */

typedef struct rf_coder rf_coder;

/* How a tensor of the table starts. */
typedef enum rf_init {
    RF_INIT_ZEROS,
    RF_INIT_UNIT_ROWS, /* random rows of norm 1, keyed by (seed, latent) */
    RF_INIT_DECODER,   /* a copy of W_dec */
    RF_INIT_SAMPLE,    /* from the sample that rf_coder_init is given */
} rf_init;

typedef enum rf_tensor_kind { RF_TENSOR_PARAMETER, RF_TENSOR_STATE } rf_tensor_kind;
typedef enum rf_shard { RF_SHARD_NONE, RF_SHARD_LATENT } rf_shard; /* rows are latents */

/* One row of the table that drives arenas, checkpoint, export and the memory report. */
typedef struct rf_coder_tensor {
    const char *name;
    rf_tensor_kind kind;
    rf_init init;
    bool decay; /* weight decay applies */
    rf_row_rule rule;
    rf_shard shard;
    rf_view view; /* device memory of the coder */
} rf_coder_tensor;

/* Parameters come first and in this order: optimisers and gradients use the same indices. */
enum { RF_CODER_W_ENC, RF_CODER_B_ENC, RF_CODER_W_DEC, RF_CODER_B_DEC, RF_CODER_N_PARAMETERS };

/* A coder of `width` with all parameters zero: give them values with rf_coder_init, or write into
 * the tensors. Takes nothing; `settings` are copied. Errors: what the architecture refuses,
 * NO_MEMORY. */
rf_status rf_coder_create(rf_backend *be, const rf_coder_settings *settings, int64_t width,
                          rf_coder **out);
void rf_coder_destroy(rf_coder *coder); /* NULL is fine */

const rf_coder_settings *rf_coder_get_settings(const rf_coder *coder);
const rf_architecture *rf_coder_architecture(const rf_coder *coder);
int64_t rf_coder_width(const rf_coder *coder);
int64_t rf_coder_n_latents(const rf_coder *coder);
/* k, capped by the number of latents; for architectures without k the number of latents. */
int64_t rf_coder_k(const rf_coder *coder);

/* All tensors, parameters first:
 *   W_enc [F, D], b_enc [F], W_dec [F, D], b_dec [D]   fp32
 *   tokens_since_fired I64 [F]   tokens since latent i last had a value > 0
 *   variance fp32 [1]            V of the loss: mean |x - mean|^2 of the initial sample
 *   counters I64 [RF_CODER_N_COUNTERS] */
int rf_coder_n_tensors(const rf_coder *coder);
rf_coder_tensor rf_coder_tensor_at(const rf_coder *coder, int idx);
rf_view rf_coder_view(const rf_coder *coder, int idx);

enum {
    RF_CODER_TOKENS_SINCE_FIRED = RF_CODER_N_PARAMETERS,
    RF_CODER_VARIANCE,
    RF_CODER_COUNTERS,
    RF_CODER_N_TENSORS
};
/* Places in `counters`. */
enum {
    RF_COUNTER_STEPS,   /* updates done */
    RF_COUNTER_TOKENS,  /* valid tokens of these */
    RF_COUNTER_SKIPPED, /* batches without an update: loss or gradient was not finite */
    RF_COUNTER_DENSE,   /* 1: the next step takes the dense path */
    RF_CODER_N_COUNTERS
};

/* The small state as host values. Both synchronise `s`. */
typedef struct rf_coder_state {
    float variance;
    int64_t counters[RF_CODER_N_COUNTERS];
} rf_coder_state;
rf_status rf_coder_get_state(const rf_coder *coder, rf_stream *s, rf_coder_state *out);
rf_status rf_coder_set_state(rf_coder *coder, rf_stream *s, const rf_coder_state *state);

/* Start values. `sample` [n, D] (device, n >= 1): what the coder sees, the same on every rank.
 * W_dec: rows of independent normals scaled to norm 1, keyed by (settings.seed, latent); W_enc =
 * W_dec; b_enc = 0; b_dec = geometric median, mean or zeros; V = mean |x - mean|^2 of the sample in
 * double. Errors: NUMERIC when the sample is not finite or has no variance. */
rf_status rf_coder_init(rf_coder *coder, rf_stream *s, const rf_view *sample);

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
 * row, ReLU may need F. */
int64_t rf_coder_rows_for(const rf_coder *coder, int64_t capacity);

/* Codes of x [n, D] (raw activations; b_dec is subtracted inside). `centred` [n, D] is work space
 * and gets x - b_dec; it may be x. `row_valid` [n] or NULL. n_rows of `codes` is set; capacity must
 * be n * k (TopK) or n * F (others) at least, see rf_coder_rows_for. NUMERIC when a row is not
 * finite. */
rf_status rf_coder_encode(const rf_coder *coder, rf_stream *s, const rf_view *x,
                          const uint8_t *row_valid, const rf_view *centred, rf_codes *codes);

/* x_hat [n, D] = decode(encode(x)), any n, in micro-batches; `x_hat` may not be x. Rows that are
 * not valid get b_dec. n_active (host, [n], or NULL) gets the entries of each row. */
rf_status rf_coder_reconstruct(const rf_coder *coder, rf_stream *s, const rf_view *x,
                               const uint8_t *row_valid, const rf_view *x_hat, int64_t *n_active);

#ifdef __cplusplus
}
#endif

#endif
