/* Pictures: the format is told by the first bytes, never by the name. */
#include "refract/io.h"

#include <string.h>
#include <strings.h>

#include "picture_impl.h"

/* The cap on a side also bounds the weights of a resize: they grow with side over result. */
enum { MAX_PIXELS = 1 << 28, MAX_SIDE = 1 << 17, MAX_FILE_BYTES = 1 << 30 };

typedef rf_status (*decoder)(const unsigned char *bytes, size_t n_bytes, rf_picture *out);

rf_status rf_picture_check_size(int64_t height, int64_t width)
{
    rf_status status = RF_OK;
    if (height < 1 || width < 1) {
        RF_FAIL(RF_ERR_FORMAT, "the header says %" PRId64 " x %" PRId64 " pixels", width, height);
    }
    if (height > MAX_SIDE || width > MAX_SIDE || height * width > MAX_PIXELS) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "the header says %" PRId64 " x %" PRId64 " pixels, expected at most %d in all and "
                "%d on a side",
                width, height, (int)MAX_PIXELS, (int)MAX_SIDE);
    }
fail:
    return status;
}

rf_status rf_picture_alloc(int64_t height, int64_t width, rf_picture *out)
{
    rf_status status = RF_OK;
    const int64_t n_bytes = 3 * height * width;
    RF_TRY(rf_picture_check_size(height, width));
    if (out->capacity < n_bytes) {
        rf_picture_fini(out);
        RF_ALLOC(out->rgb, n_bytes);
        out->capacity = n_bytes;
    }
    out->height = height;
    out->width = width;
fail:
    return status;
}

static decoder decoder_of(const unsigned char *b, int64_t n)
{
    static const unsigned char png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    if (n >= 3 && b[0] == 0xff && b[1] == 0xd8 && b[2] == 0xff) {
        return rf_picture_decode_jpeg;
    }
    if (n >= 8 && memcmp(b, png, sizeof png) == 0) {
        return rf_picture_decode_png;
    }
    if (n >= 12 && memcmp(b, "RIFF", 4) == 0 && memcmp(b + 8, "WEBP", 4) == 0) {
        return rf_picture_decode_webp;
    }
    return NULL;
}

rf_status rf_picture_decode_into(const void *bytes, int64_t n_bytes, const char *name,
                                 rf_picture *inout)
{
    rf_status status = RF_OK;
    RF_REQUIRE(n_bytes >= 0, "n_bytes = %" PRId64 ", expected >= 0", n_bytes);
    decoder decode = decoder_of(bytes, n_bytes);
    if (n_bytes == 0) {
        RF_FAIL(RF_ERR_FORMAT, "%s: the file is empty", name);
    }
    if (decode == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "%s: not a JPEG, PNG or WebP picture", name);
    }
    RF_TRY_DOING(decode(bytes, (size_t)n_bytes, inout), "%s", name);
fail:
    if (status != RF_OK) {
        rf_picture_fini(inout);
    }
    return status;
}

rf_status rf_picture_decode(const void *bytes, int64_t n_bytes, const char *name, rf_picture *out)
{
    *out = (rf_picture){0};
    return rf_picture_decode_into(bytes, n_bytes, name, out);
}

rf_status rf_picture_decode_planes(const void *bytes, int64_t n_bytes, const char *name,
                                   int64_t least_height, int64_t least_width,
                                   rf_picture_planes *inout)
{
    rf_status status = RF_OK;
    inout->colour = RF_PLANES_NONE;
    inout->n_planes = 0;
    RF_REQUIRE(n_bytes >= 0, "n_bytes = %" PRId64 ", expected >= 0", n_bytes);
    if (decoder_of(bytes, n_bytes) == rf_picture_decode_jpeg) {
        RF_TRY_DOING(
            rf_picture_decode_jpeg_planes(bytes, (size_t)n_bytes, least_height, least_width, inout),
            "%s", name);
    }
fail:
    if (status != RF_OK) {
        rf_picture_planes_fini(inout);
    }
    return status;
}

void rf_picture_planes_fini(rf_picture_planes *planes)
{
    rf_free(planes->memory);
    *planes = (rf_picture_planes){0};
}

rf_status rf_picture_read(const char *path, char **bytes, int64_t *n_bytes)
{
    return rf_file_read(path, MAX_FILE_BYTES, bytes, n_bytes);
}

rf_status rf_picture_load(const char *path, rf_picture *out)
{
    rf_status status = RF_OK;
    char *bytes = NULL;
    int64_t n_bytes = 0;
    *out = (rf_picture){0};
    RF_TRY(rf_picture_read(path, &bytes, &n_bytes));
    RF_TRY(rf_picture_decode(bytes, n_bytes, path, out));
fail:
    rf_free(bytes);
    return status;
}

void rf_picture_fini(rf_picture *p)
{
    if (p != NULL) {
        rf_free(p->rgb);
        *p = (rf_picture){0};
    }
}

bool rf_picture_is_name(const char *name)
{
    static const char *const endings[] = {".jpg", ".jpeg", ".png", ".webp"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t n_ending = strlen(endings[i]);
        if (n > n_ending && strcasecmp(name + n - n_ending, endings[i]) == 0) {
            return true;
        }
    }
    return false;
}
