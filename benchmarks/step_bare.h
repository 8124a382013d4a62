/* The encoder's product alone, which bench_step measures a step by: oneDNN's on the CPU, whole and
 * in tiles; a device's own library, whole, in the precision of the step. */
#ifndef REFRACT_STEP_BARE_H
#define REFRACT_STEP_BARE_H

#include "refract/tensor.h"

enum { MAX_BARE = 3 };

typedef struct bare {
    rf_stream *s;
    bool on_cpu;
    rf_products products;
    int64_t batch, width, latents;
    rf_view w;      /* [latents, width], borrowed */
    void *w_half;   /* device: w in bf16 */
    float *results; /* [batch, latents] on the stream's device, or tiles of all threads */
} bare;

/* After shape, stream and products are set. */
rf_status bare_init(bare *b);
void bare_fini(bare *b);
int bare_count(const bare *b);
const char *bare_name(const bare *b, int which);
/* x [batch, width] on the device. *seconds: until the product is done. */
rf_status bare_run(const bare *b, int which, const float *x, double *seconds);

#endif
