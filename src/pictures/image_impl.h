/* From a decoded picture to a model's input: an axis of a resize knows which inputs each result is
 * made of, a pass applies one axis, and a scratch keeps axes and memory from picture to picture. */
#ifndef REFRACT_IMAGE_IMPL_H
#define REFRACT_IMAGE_IMPL_H

#include "refract/pictures.h"

/* What an axis follows from. `cover` is the length, in inputs, of what is resized: n_in, or less
 * where the last input hangs over (half a sample of a subsampled plane). */
typedef struct rf_resize_key {
    int64_t n_in;
    double cover;
    int64_t n_out, begin, n; /* the whole result, of which [begin, begin + n) are wanted */
    rf_resize_filter filter;
    bool is_even;  /* every result begins at an even place behind the origin */
    bool is_rough; /* weights of 14 bits behind the point, not 22 */
} rf_resize_key;

/* Weights come as pairs of neighbours, of 16 bits, the first in the lower half, for instructions
 * that multiply and add pairs: weight = 65536 * high + low, or low alone where they are rough.
 * Every result has as many, zeros behind its last: inputs there may lie behind the span. */
typedef struct rf_resize_axis {
    rf_resize_key key;
    int64_t origin, span; /* inputs origin .. origin + span - 1 are used */
    int64_t n_pairs;      /* of a result */
    int32_t *first;       /* [n], from the origin */
    int32_t *low, *high;  /* [n, n_pairs] */
} rf_resize_axis;

rf_status rf_resize_axis_init(rf_resize_axis *axis, const rf_resize_key *key);
void rf_resize_axis_fini(rf_resize_axis *axis);

/* Bytes of what rf_resize_pass_across needs beside its arguments. */
int64_t rf_resize_pass_bytes(const rf_resize_axis *axis, int n_channels);
/* `n_rows` rows of `stride` bytes, from the axis' origin on, pixels of `n_channels` 1 or 3, to
 * dst [n_rows, n, n_channels]. `lanes` is scratch, aligned to 32 bytes. */
void rf_resize_pass_across(const rf_resize_axis *axis, int n_channels, const uint8_t *src,
                           int64_t stride, int64_t n_rows, uint8_t *lanes, uint8_t *dst);
/* Rows of `stride` bytes, from the axis' origin on, of which `n_bytes` are taken, to dst [n,
 * n_bytes]. */
void rf_resize_pass_down(const rf_resize_axis *axis, const uint8_t *src, int64_t stride,
                         int64_t n_bytes, uint8_t *dst);

enum { RF_RESIZE_AXES = 4 };

/* Those of late, by their keys: most pictures of a data set have one of a few sizes. */
typedef struct rf_resize_axes {
    rf_resize_axis kept[RF_RESIZE_AXES];
    int next; /* the one that goes next */
} rf_resize_axes;

/* One thread's; zeroed at first. */
typedef struct rf_resize_scratch {
    rf_resize_axes across, down;
    uint8_t *lanes, *between, *resized;
    int64_t lanes_bytes, between_bytes, resized_bytes;
} rf_resize_scratch;

void rf_resize_scratch_fini(rf_resize_scratch *scratch);
/* At least `n_bytes` at *memory; what it held is lost. */
rf_status rf_resize_reserve(uint8_t **memory, int64_t *capacity, int64_t n_bytes);
/* Give memory for a picture back when it is more than pictures usually need. */
void rf_resize_trim(uint8_t **memory, int64_t *capacity);
/* rf_resize_picture with a scratch, into `out` [region.height, region.width, 3]. */
rf_status rf_resize_pixels(rf_resize_scratch *scratch, const rf_picture *in, int64_t height,
                           int64_t width, rf_resize_filter filter, const rf_region *region,
                           uint8_t *out);
/* The same of one plane, with rough weights, into `out` [region.height, region.width]. */
rf_status rf_resize_plane(rf_resize_scratch *scratch, const rf_plane *in, int64_t height,
                          int64_t width, rf_resize_filter filter, const rf_region *region,
                          uint8_t *out);

/* rf_transform_bytes with a scratch; and of planes, which must not be NONE. */
rf_status rf_transform_picture(const rf_transform *t, rf_resize_scratch *scratch,
                               const rf_picture *picture, uint8_t *out);
rf_status rf_transform_planes(const rf_transform *t, rf_resize_scratch *scratch,
                              const rf_picture_planes *planes, uint8_t *out);
/* Rows of `n` samples of three planes to `n` pixels: of JFIF's luma and chroma, each channel within
 * 0.53 of a level of what the real numbers give; and of red, green and blue. */
void rf_transform_ycbcr(const uint8_t *const planes[3], int64_t n, uint8_t *to);
void rf_transform_rgb(const uint8_t *const planes[3], int64_t n, uint8_t *to);
/* The least size that a picture may be decoded at, so that nothing is blown up that was not before.
 */
void rf_transform_least(const rf_transform *t, int64_t *height, int64_t *width);

#endif
