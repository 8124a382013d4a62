/* WebP. Alpha is dropped, not blended: the colours below transparent pixels come through. */
#include "picture_impl.h"

#include <webp/decode.h>

static const char *reason_of(VP8StatusCode code)
{
    switch (code) {
    case VP8_STATUS_NOT_ENOUGH_DATA:
        return "WebP data ends too early";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return "a WebP feature that is not supported";
    case VP8_STATUS_OUT_OF_MEMORY:
        return "out of memory in the WebP decoder";
    default:
        return "WebP data is malformed";
    }
}

rf_status rf_picture_decode_webp(const unsigned char *bytes, size_t n_bytes, rf_picture *out)
{
    rf_status status = RF_OK;
    WebPDecoderConfig config;
    RF_BUG(WebPInitDecoderConfig(&config), "libwebp is of another version than its header");
    VP8StatusCode code = WebPGetFeatures(bytes, n_bytes, &config.input);
    if (code != VP8_STATUS_OK) {
        RF_FAIL(RF_ERR_FORMAT, "%s", reason_of(code));
    }
    if (config.input.has_animation) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "an animated WebP, expected a still picture");
    }
    RF_TRY(rf_picture_alloc(config.input.height, config.input.width, out));
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = out->rgb;
    config.output.u.RGBA.stride = 3 * config.input.width;
    config.output.u.RGBA.size = (size_t)(3 * out->height * out->width);
    code = WebPDecode(bytes, n_bytes, &config);
    if (code != VP8_STATUS_OK) {
        RF_FAIL(code == VP8_STATUS_OUT_OF_MEMORY ? RF_ERR_NO_MEMORY : RF_ERR_FORMAT, "%s",
                reason_of(code));
    }
fail:
    if (status != RF_OK) {
        rf_picture_fini(out);
    }
    return status;
}
