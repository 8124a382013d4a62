/* Private to coder. */
#ifndef REFRACT_CODER_IMPL_H
#define REFRACT_CODER_IMPL_H

#include "refract/coder.h"

/* arch_<name>.c each */
extern const rf_architecture rf_arch_topk, rf_arch_multi_topk, rf_arch_batch_topk,
    rf_arch_matryoshka, rf_arch_relu, rf_arch_p_anneal, rf_arch_jumprelu, rf_arch_gated;
extern const char *const rf_architecture_names[];

struct rf_coder {
    rf_backend *backend;
    const rf_architecture *architecture;
    rf_coder_settings settings;
    rf_coder_shape shape;
    int64_t width, out_width, n_latents;
    void *arena; /* all tensors, each on a line of its own */
    rf_coder_tensor tensors[RF_CODER_N_TENSORS];
};

/* What several architectures share (architecture.c). */
rf_status rf_architecture_check_k(const rf_coder_settings *settings, int64_t n_latents);
rf_status rf_architecture_check_l1(const rf_coder_settings *settings, int64_t n_latents);
/* AuxK is asked for. */
bool rf_coder_wants_aux(const rf_coder_settings *settings, const rf_architecture *architecture);
rf_select_rule rf_architecture_topk(const rf_coder_settings *settings);
rf_select_rule rf_architecture_batch_topk(const rf_coder_settings *settings);
rf_select_rule rf_architecture_positive(const rf_coder_settings *settings);
int64_t rf_architecture_k_capacity(const rf_coder_settings *settings, int64_t n_latents);
/* While codes are fewer than about 1 latent of 48, a sparse step costs less than a dense one. */
int64_t rf_architecture_sparse_capacity(const rf_coder_settings *settings, int64_t n_latents);
/* The words of a setting's choice, for messages. */
const char *rf_coder_choice_word(const char *key, int choice);

/* The normalisation has statistics of the sample (AVERAGE, PER_DIMENSION). */
bool rf_coder_has_statistics(const rf_coder_settings *settings);
/* Statistics of each token (LAYER, CONSTANT). */
bool rf_coder_norm_is_per_token(const rf_coder_settings *settings);

/* coder_init_weights.c: W_dec (and what an archetypal one is made of) and W_enc, from normalised
 * rows `y` [n, E] and b_dec [E] (host). */
rf_status rf_coder_init_weights(rf_coder *coder, rf_stream *s, const float *y, int64_t n,
                                const float *b_dec);

/* coder_use.c: what an encode outside training needs beside the coder, made anew where parameters
 * may have changed. */
typedef struct rf_encoding_counts {
    int64_t overflow, refused;
    float floor[RF_MAX_ROW_CLASSES]; /* that values of a BatchTopK coder must be above, by class */
} rf_encoding_counts;
typedef struct rf_coder_encoding {
    rf_encoding_counts *device;
    rf_view theta; /* [F] of jumprelu */
} rf_coder_encoding;
rf_status rf_coder_encoding_init(const rf_coder *coder, rf_stream *s, rf_coder_encoding *e);
void rf_coder_encoding_fini(const rf_coder *coder, rf_coder_encoding *e);
rf_act_params rf_coder_use_act(const rf_coder *coder, const rf_coder_encoding *e);
/* Codes of rows that were seen; `overflow`: they did not fit. */
rf_status rf_coder_encode_seen(const rf_coder *coder, rf_stream *s, const rf_coder_encoding *e,
                               const rf_coder_rows *rows, rf_codes *codes, bool *overflow);
/* y_hat [n, E], decoded: what is skipped is added, the normalisation undone. */
rf_status rf_coder_finish(const rf_coder *coder, rf_stream *s, const rf_coder_rows *rows,
                          const rf_view *y_hat);

#endif
