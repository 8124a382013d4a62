/* Private to coder. */
#ifndef REFRACT_CODER_IMPL_H
#define REFRACT_CODER_IMPL_H

#include "refract/coder.h"

extern const rf_architecture rf_arch_topk; /* arch_topk.c */
extern const rf_architecture rf_arch_relu; /* arch_relu.c */
extern const char *const rf_architecture_names[];

struct rf_coder {
    rf_backend *backend;
    const rf_architecture *architecture;
    rf_coder_settings settings;
    int64_t width, n_latents;
    void *arena; /* all tensors, each on a line of its own */
    rf_coder_tensor tensors[RF_CODER_N_TENSORS];
};

#endif
