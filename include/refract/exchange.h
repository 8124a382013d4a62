/* exchange: coders to and from the layouts of other tools. All functions are local. */
#ifndef REFRACT_EXCHANGE_H
#define REFRACT_EXCHANGE_H

#include "refract/base.h"
#include "refract/coder.h"
#include "refract/io.h"
#include "refract/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where a coder comes from: what the other tool's record says of it. Texts are borrowed; NULL is
 * left out. */
typedef struct rf_exchange_origin {
    const char *model_name;             /* as the Hub or the model's files name it */
    const char *hook_name;              /* TransformerLens name of the hook point */
    const char *pictures_path;          /* what it was trained on */
    const char *weight_processing;      /* as rf_vit_processing_name says it */
    int64_t n_positions;                /* tokens of a picture at the hook point; 0: not known */
    int64_t image_size;                 /* pixels; 0: not known */
    int64_t step;                       /* updates; < 0: not known */
    uint64_t model_hash, pictures_hash; /* 0: not known */
} rf_exchange_origin;

/* Write `coder` into `folder` (made when it is not there) as SAELens 6 loads it:
 * sae_weights.safetensors with W_enc [D, F], b_enc [F], W_dec [F, D], b_dec [D] in fp32, then
 * cfg.json (TopK as "topk", ReLU as "standard"; b_dec is subtracted from the input). An attn.hook_z
 * coder reads [..., H, dh] there. Both files are written atomically, cfg.json last. Errors:
 * UNSUPPORTED (an architecture that SAELens has not), IO. Source: sae_lens 6.54,
 * SAE.load_from_disk.
 */
rf_status rf_saelens_write(const rf_coder *coder, rf_stream *s, const rf_exchange_origin *origin,
                           const char *folder);

#ifdef __cplusplus
}
#endif

#endif
