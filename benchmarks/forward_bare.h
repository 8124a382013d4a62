/* A transformer's matrix products alone, attention's among them, which bench_forward measures a
 * pass by: oneDNN's on the CPU, a device's own library there. Without biases, activations, norms
 * and softmax; bf16 products round their rows on the way. */
#ifndef REFRACT_FORWARD_BARE_H
#define REFRACT_FORWARD_BARE_H

#include "refract/tensor.h"

typedef struct bare {
    rf_stream *s;
    bool on_cpu, has_half; /* has_half: weights in bf16 too, on a device */
    int64_t batch, tokens, patches, patch_values, width, layers, heads;
    int threads;
    /* rows of activations, and every weight in memory of its own, as a model has it */
    float *rows, *hidden, *out, *scores, *weights;
    uint16_t *half;
} bare;

/* After all sizes are set. */
rf_status bare_init(bare *b);
void bare_fini(bare *b);
/* A whole pass, until it is done. On the CPU always in fp32. */
rf_status bare_run(const bare *b, rf_products products);

#endif
