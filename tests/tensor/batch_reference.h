/* What a BATCH_TOPK list must hold, by a sort of all canonical values. */
#ifndef REFRACT_TESTS_BATCH_REFERENCE_H
#define REFRACT_TESTS_BATCH_REFERENCE_H

#include "encode_fixture.h"

#include <stdlib.h>

typedef struct place {
    float value;
    int64_t at;
} place;

/* Larger values first, then the smaller row and latent. */
static inline int before(const void *a, const void *b)
{
    const place *p = a, *q = b;
    if (p->value != q->value) {
        return p->value > q->value ? -1 : 1;
    }
    return p->at < q->at ? -1 : p->at > q->at;
}

/* The k largest > 0 of all rows. */
static inline rf_codes batch_reference(const problem *p, int64_t k)
{
    int64_t n = p->n * p->f, count = 0;
    float *h = canonical(p);
    place *all = rf_calloc(n, sizeof *all);
    bool *is_in = rf_calloc(n, sizeof *is_in);
    for (int64_t e = 0; e < n; e++) {
        if (h[e] > 0.0f) {
            all[count++] = (place){h[e], e};
        }
    }
    qsort(all, (size_t)count, sizeof *all, before);
    for (int64_t i = 0; i < count && i < k; i++) {
        is_in[all[i].at] = true;
    }
    rf_codes codes = codes_where(p, h, is_in);
    rf_free(is_in);
    rf_free(all);
    rf_free(h);
    return codes;
}

#endif
