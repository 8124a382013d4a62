/* The decoders behind rf_picture_decode. Each takes a whole file in memory; on failure `out` is
 * left empty and nothing stays allocated. */
#ifndef REFRACT_IO_PICTURE_IMPL_H
#define REFRACT_IO_PICTURE_IMPL_H

#include "refract/io.h"

rf_status rf_picture_decode_jpeg(const unsigned char *bytes, size_t n_bytes, rf_picture *out);
rf_status rf_picture_decode_png(const unsigned char *bytes, size_t n_bytes, rf_picture *out);
rf_status rf_picture_decode_webp(const unsigned char *bytes, size_t n_bytes, rf_picture *out);

/* Check a header's size and allocate `out` for it: FORMAT for none, UNSUPPORTED above 2^28 pixels.
 */
rf_status rf_picture_alloc(int64_t height, int64_t width, rf_picture *out);

#endif
