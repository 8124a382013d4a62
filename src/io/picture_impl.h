/* The decoders behind rf_picture_decode. Each takes a whole file in memory; on failure `out` is
 * left empty and nothing stays allocated. What `out` has from an earlier picture is used again. */
#ifndef REFRACT_IO_PICTURE_IMPL_H
#define REFRACT_IO_PICTURE_IMPL_H

#include "refract/io.h"

rf_status rf_picture_decode_jpeg(const unsigned char *bytes, size_t n_bytes, rf_picture *out);
rf_status rf_picture_decode_png(const unsigned char *bytes, size_t n_bytes, rf_picture *out);
rf_status rf_picture_decode_webp(const unsigned char *bytes, size_t n_bytes, rf_picture *out);

rf_status rf_picture_decode_jpeg_planes(const unsigned char *bytes, size_t n_bytes,
                                        int64_t least_height, int64_t least_width,
                                        rf_picture_planes *out);

/* A header's size: FORMAT for none, UNSUPPORTED above 2^28 pixels or 2^17 on a side. */
rf_status rf_picture_check_size(int64_t height, int64_t width);
/* Check a header's size and make room in `out` for it; the pixels are anything. */
rf_status rf_picture_alloc(int64_t height, int64_t width, rf_picture *out);

#endif
