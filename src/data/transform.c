/* From a decoded picture to a model's input, as the model's files say. */
#include "data_impl.h"

#include <math.h>
#include <string.h>

enum { MAX_FILE_BYTES = 1 << 20 };

/* Files that say how pictures are prepared, the first one that is there counts. */
static const struct {
    const char *name;
    rf_status (*parse)(const char *text, int64_t n_bytes, const char *name, rf_transform *out);
} sources[] = {
    {"preprocessor_config.json", rf_transform_parse},
    {"processor_config.json", rf_transform_parse},
    {"open_clip_config.json", rf_transform_parse_open_clip},
    {"config.json", rf_transform_parse_timm},
};

rf_status rf_transform_load(const char *model_dir, rf_transform *out)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    char *text = NULL;
    int64_t n_bytes = 0;
    *out = (rf_transform){0};
    if (!rf_file_is_dir(model_dir)) {
        RF_FAIL(RF_ERR_NOT_FOUND, "%s: there is no such folder", model_dir);
    }
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        RF_TRY(rf_path_join(path, model_dir, sources[i].name));
        if (rf_file_exists(path)) {
            RF_TRY(rf_file_read(path, MAX_FILE_BYTES, &text, &n_bytes));
            status = sources[i].parse(text, n_bytes, path, out);
            break;
        }
    }
    if (text == NULL || status == RF_ERR_NOT_FOUND) { /* or a config.json that is not timm's */
        RF_FAIL(RF_ERR_NOT_FOUND,
                "%s: no preprocessor_config.json, which says how the model wants its pictures "
                "(it lies beside config.json on the Hugging Face Hub)",
                model_dir);
    }
fail:
    rf_free(text);
    return status;
}

static bool is_side(int64_t n)
{
    return n >= 0 && n <= RF_TRANSFORM_MAX_SIDE;
}

rf_status rf_transform_check(const rf_transform *t)
{
    rf_status status = RF_OK;
    bool is_exact = t->resize_height > 0 && t->resize_width > 0;
    RF_REQUIRE(is_side(t->shortest_edge) && is_side(t->resize_height) && is_side(t->resize_width) &&
                   is_side(t->crop_height) && is_side(t->crop_width),
               "a size is not in 0 to %d", (int)RF_TRANSFORM_MAX_SIDE);
    RF_REQUIRE((t->resize_height > 0) == (t->resize_width > 0) &&
                   (t->crop_height > 0) == (t->crop_width > 0),
               "a height or width is given without the other");
    RF_REQUIRE(!is_exact || t->shortest_edge == 0, "both a shortest edge and an exact size");
    RF_REQUIRE(isfinite(t->scale), "the scale is %g", t->scale);
    for (int c = 0; c < 3; c++) {
        RF_REQUIRE(
            !t->normalise || (isfinite(t->mean[c]) && isfinite(t->std[c]) && t->std[c] > 0.0F),
            "channel %d has mean %g and deviation %g", c, (double)t->mean[c], (double)t->std[c]);
    }
    if (!is_exact && t->crop_height == 0) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "images would differ in size: neither a centre crop nor a "
                                    "resize to one height and width");
    }
fail:
    return status;
}

int64_t rf_transform_height(const rf_transform *t)
{
    return t->crop_height > 0 ? t->crop_height : t->resize_height;
}

int64_t rf_transform_width(const rf_transform *t)
{
    return t->crop_width > 0 ? t->crop_width : t->resize_width;
}

/* The size after the resize; the longer side is cut to a whole number, as transformers does. */
static void resized_size(const rf_transform *t, const rf_picture *p, int64_t *height,
                         int64_t *width)
{
    *height = t->resize_height > 0 ? t->resize_height : p->height;
    *width = t->resize_width > 0 ? t->resize_width : p->width;
    if (t->shortest_edge > 0) {
        int64_t edge = t->shortest_edge;
        if (p->width <= p->height) {
            *width = edge;
            *height = (int64_t)((double)(edge * p->height) / (double)p->width);
        } else {
            *height = edge;
            *width = (int64_t)((double)(edge * p->width) / (double)p->height);
        }
    }
}

/* One side of a centre crop to n_out: what is taken of n_in, and the zeros before it where n_in is
 * too short. transformers rounds what is cut down and puts the odd zero first; torchvision rounds
 * it to the nearest even number, and puts the odd zero last. */
static void centre(rf_crop_rule rule, int64_t n_in, int64_t n_out, int64_t *begin, int64_t *n,
                   int64_t *n_before)
{
    *n = rf_min_i64(n_in, n_out);
    const int64_t n_cut = n_in - *n, n_zeros = n_out - *n;
    const bool rounds_up = rule == RF_CROP_TORCHVISION && n_cut % 4 == 3;
    *begin = n_cut / 2 + (rounds_up ? 1 : 0);
    *n_before = (rule == RF_CROP_TORCHVISION ? n_zeros : n_zeros + 1) / 2;
}

/* A pixel value has 256 possible results in each channel. Double, then float, then the float
 * operations of transformers: the same bits. */
static void fill_values(const rf_transform *t, int c, float values[256])
{
    for (int v = 0; v < 256; v++) {
        float scaled = (float)((double)v * t->scale);
        values[v] = t->normalise ? (scaled - t->mean[c]) / t->std[c] : scaled;
    }
}

/* `p` at (top, left) of `plane` [height, width] of channel `c`; zero pixels around it. */
static void fill_plane(const rf_picture *p, int c, const float values[256], int64_t top,
                       int64_t left, int64_t height, int64_t width, float *plane)
{
    if (p->height < height || p->width < width) {
        for (int64_t i = 0; i < height * width; i++) {
            plane[i] = values[0];
        }
    }
    for (int64_t y = 0; y < p->height; y++) {
        const uint8_t *in = p->rgb + 3 * p->width * y + c;
        float *out = plane + (top + y) * width + left;
        for (int64_t x = 0; x < p->width; x++) {
            out[x] = values[in[3 * x]];
        }
    }
}

rf_status rf_transform_apply(const rf_transform *t, const rf_picture *picture, float *out)
{
    rf_status status = RF_OK;
    rf_picture resized = {0};
    rf_region region;
    int64_t height = 0, width = 0, top = 0, left = 0;
    int64_t out_height = rf_transform_height(t), out_width = rf_transform_width(t);
    RF_REQUIRE(picture->height >= 1 && picture->width >= 1, "an empty picture");
    resized_size(t, picture, &height, &width);
    centre(t->crop_rule, height, out_height, &region.top, &region.height, &top);
    centre(t->crop_rule, width, out_width, &region.left, &region.width, &left);
    RF_TRY(rf_resize_picture(picture, height, width, t->filter, &region, &resized));
    for (int c = 0; c < 3; c++) {
        float values[256];
        fill_values(t, c, values);
        fill_plane(&resized, c, values, top, left, out_height, out_width,
                   out + c * out_height * out_width);
    }
fail:
    rf_picture_fini(&resized);
    return status;
}

bool rf_transform_is_equal(const rf_transform *a, const rf_transform *b)
{
    bool same = a->shortest_edge == b->shortest_edge && a->resize_height == b->resize_height &&
                a->resize_width == b->resize_width && a->filter == b->filter &&
                a->crop_height == b->crop_height && a->crop_width == b->crop_width &&
                a->crop_rule == b->crop_rule && a->scale == b->scale &&
                a->normalise == b->normalise;
    for (int c = 0; c < 3; c++) {
        same = same && a->mean[c] == b->mean[c] && a->std[c] == b->std[c];
    }
    return same;
}
