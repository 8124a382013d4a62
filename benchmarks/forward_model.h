/* Models with random weights for bench_forward, written as a folder that rf_vit_open reads. */
#ifndef REFRACT_FORWARD_MODEL_H
#define REFRACT_FORWARD_MODEL_H

#include "refract/base.h"

enum { SIDE = 224, CHANNELS = 3, N_MODELS = 5 };

typedef struct model {
    const char *name, *family;
    int64_t patch, d, layers, heads, batch;
} model;

extern const model models[N_MODELS]; /* the last, tiny, tries the program and times nothing */

int64_t n_patches(const model *m);
int64_t n_tokens(const model *m);
/* Multiplications and additions of a pass. */
double flop_of(const model *m, int64_t batch);
/* config.json and model.safetensors in `folder`; both, and the folder, taken away. */
rf_status write_model(const model *m, const char *folder);
void remove_model(const char *folder);

#endif
