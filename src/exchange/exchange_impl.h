/* Private to exchange: what a coder is to SAELens, and its tensors there. */
#ifndef REFRACT_EXCHANGE_IMPL_H
#define REFRACT_EXCHANGE_IMPL_H

#include "refract/exchange.h"

typedef struct rf_saelens_kind {
    const char *architecture; /* their name */
    int64_t k;                /* of topk; 0: it has none */
    bool is_gated, has_threshold, has_skip, is_transcoder;
    const char *normalize_activations;
} rf_saelens_kind;

/* UNSUPPORTED says why they have no such coder. */
rf_status rf_saelens_find_kind(const rf_coder *coder, rf_saelens_kind *out);

/* Their tensors by their names, in fp32; `data` are owned. */
enum { RF_SAELENS_MAX_TENSORS = 8 };
typedef struct rf_saelens_tensors {
    rf_named_tensor tensors[RF_SAELENS_MAX_TENSORS];
    float *data[RF_SAELENS_MAX_TENSORS];
    int64_t n;
} rf_saelens_tensors;

/* With the statistics of the normalisation folded in. Release with rf_saelens_tensors_fini, after
 * a failure too. */
rf_status rf_saelens_fold(const rf_coder *coder, rf_stream *s, const rf_saelens_kind *kind,
                          rf_saelens_tensors *out);
void rf_saelens_tensors_fini(rf_saelens_tensors *tensors);

#endif
