/* What the readers of preprocessing files share: Hugging Face's (transform_processor.c),
 * open_clip's and timm's (transform_torch.c). */
#ifndef REFRACT_TRANSFORM_IMPL_H
#define REFRACT_TRANSFORM_IMPL_H

#include "refract/pictures.h"

enum { RF_TRANSFORM_MAX_SIDE = 16384 };
/* Member `key`, or NULL; null is as good as absent. */
const rf_json *rf_transform_find(const rf_json *root, const char *key);
/* A size in pixels. */
rf_status rf_transform_get_side(const rf_json *root, const char *key, int64_t *out);
/* A list of three numbers, or one for all channels; `out` holds the default, zeros where there is
 * none. */
rf_status rf_transform_get_channels(const rf_json *root, const char *key, bool is_needed,
                                    float out[3]);

#endif
