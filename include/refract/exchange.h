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
    const char *target_name;            /* the same of a transcoder's target */
    const char *pictures_path;          /* what it was trained on */
    const char *weight_processing;      /* as rf_vit_processing_name says it */
    int64_t n_positions;                /* tokens of a picture at the hook point; 0: not known */
    int64_t image_size;                 /* pixels; 0: not known */
    int64_t step;                       /* updates; < 0: not known */
    uint64_t model_hash, pictures_hash; /* 0: not known */
} rf_exchange_origin;

/* Write `coder` into `folder` (made when it is not there) as SAELens 6 loads it:
 * sae_weights.safetensors in fp32, then cfg.json; both atomically. W_enc is [D, F] there. What
 * decides in use is what counts: topk, multi_topk and Matryoshka over TopK are "topk"; relu and
 * p_anneal "standard"; gated "gated"; jumprelu "jumprelu", and with one threshold for all latents
 * batch_topk and Matryoshka over it too; transcoders "transcoder", "jumprelu_transcoder" and their
 * skip forms. Normalisations by constants (average, per_dimension) are folded into the weights, and
 * W_dec keeps its norms. Those of each token (layer, constant) are SAELens's own, at run time; with
 * `layer` reconstructions differ by 1e-5 of a token's deviation, which cfg.json says. An
 * attn.hook_z autoencoder reads [..., H, dh] there. Errors: UNSUPPORTED with the reason
 * (crosscoders, k that differs by token class, TopK and gated transcoders, skip with tokens
 * normalised one by one), IO. Source: sae_lens 6.54, SAE.load_from_disk. */
rf_status rf_saelens_write(const rf_coder *coder, rf_stream *s, const rf_exchange_origin *origin,
                           const char *folder);

#ifdef __cplusplus
}
#endif

#endif
