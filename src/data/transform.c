/* From a decoded picture to a model's input, as its preprocessor_config.json says. */
#include "refract/data.h"

#include <math.h>
#include <string.h>

#include <jansson.h>

enum { MAX_SIDE = 16384, MAX_FILE_BYTES = 1 << 20 };

#define CLIP_MEAN                                                                                  \
    {                                                                                              \
        0.48145466F, 0.4578275F, 0.40821073F                                                       \
    }
#define CLIP_STD                                                                                   \
    {                                                                                              \
        0.26862954F, 0.26130258F, 0.27577711F                                                      \
    }
#define HALVES                                                                                     \
    {                                                                                              \
        0.5F, 0.5F, 0.5F                                                                           \
    }

/* What transformers' classes <family>ImageProcessor[Fast] and <family>FeatureExtractor do with keys
 * that a file lacks, and how they read a `size` that is a number. */
typedef struct processor {
    const char *family;
    bool number_is_square;
    rf_transform fallback;
} processor;

static const processor processors[] = {
    {"CLIP",
     false,
     {.shortest_edge = 224,
      .filter = RF_RESIZE_BICUBIC,
      .crop_height = 224,
      .crop_width = 224,
      .scale = 1.0 / 255.0,
      .normalise = true,
      .mean = CLIP_MEAN,
      .std = CLIP_STD}},
    {"Bit",
     false,
     {.shortest_edge = 224,
      .filter = RF_RESIZE_BICUBIC,
      .crop_height = 224,
      .crop_width = 224,
      .scale = 1.0 / 255.0,
      .normalise = true,
      .mean = CLIP_MEAN,
      .std = CLIP_STD}},
    {"ViT",
     true,
     {.resize_height = 224,
      .resize_width = 224,
      .filter = RF_RESIZE_BILINEAR,
      .scale = 1.0 / 255.0,
      .normalise = true,
      .mean = HALVES,
      .std = HALVES}},
    {"DeiT",
     true,
     {.resize_height = 256,
      .resize_width = 256,
      .filter = RF_RESIZE_BICUBIC,
      .crop_height = 224,
      .crop_width = 224,
      .scale = 1.0 / 255.0,
      .normalise = true,
      .mean = HALVES,
      .std = HALVES}},
    {"Siglip",
     true,
     {.resize_height = 224,
      .resize_width = 224,
      .filter = RF_RESIZE_BICUBIC,
      .scale = 1.0 / 255.0,
      .normalise = true,
      .mean = HALVES,
      .std = HALVES}},
};

/* A file that names no class has to say everything that the classes differ in: a crop is made when
 * crop_size is there, and then a `size` that is a number is the shorter side. */
static const processor nameless = {
    "",
    false,
    {.filter = RF_RESIZE_BICUBIC, .scale = 1.0 / 255.0, .normalise = true},
};

static bool is_of_family(const char *type, const char *family)
{
    static const char *const endings[] = {"ImageProcessor", "ImageProcessorFast",
                                          "ImageProcessorPil", "FeatureExtractor"};
    size_t n = strlen(family);
    if (strncmp(type, family, n) != 0) {
        return false;
    }
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        if (strcmp(type + n, endings[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* A key with null is as good as absent. */
static const rf_json *find(const rf_json *root, const char *key)
{
    const rf_json *value = rf_json_find(root, key);
    return json_is_null(value) ? NULL : value;
}

static rf_status find_processor(const rf_json *root, processor *out)
{
    rf_status status = RF_OK;
    const char *type = NULL;
    RF_TRY(rf_json_get_str(root, "feature_extractor_type", "", &type));
    RF_TRY(rf_json_get_str(root, "image_processor_type", type, &type));
    if (type[0] == '\0') {
        *out = nameless;
        out->number_is_square = find(root, "crop_size") == NULL;
        if (find(root, "size") == NULL) {
            RF_FAIL(RF_ERR_FORMAT, "neither image_processor_type nor size is given");
        }
        return RF_OK;
    }
    for (size_t i = 0; i < sizeof processors / sizeof processors[0]; i++) {
        if (is_of_family(type, processors[i].family)) {
            *out = processors[i];
            return RF_OK;
        }
    }
    RF_FAIL(RF_ERR_UNSUPPORTED,
            "image processor '%s'; expected that of CLIP, Bit (DINOv2), ViT, DeiT or Siglip", type);
fail:
    return status;
}

static rf_status get_side(const rf_json *root, const char *key, int64_t *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_json_get_i64(root, key, NULL, out));
    if (*out < 1 || *out > MAX_SIDE) {
        RF_FAIL(RF_ERR_FORMAT, "%s is %" PRId64 ", expected 1 to %d", key, *out, (int)MAX_SIDE);
    }
fail:
    return status;
}

/* `size`: a number, {"shortest_edge": n} or {"height": h, "width": w}. */
static rf_status read_size(const rf_json *root, bool number_is_square, rf_transform *t)
{
    rf_status status = RF_OK;
    const rf_json *size = find(root, "size");
    if (size == NULL) {
        return RF_OK;
    }
    t->shortest_edge = t->resize_height = t->resize_width = 0;
    if (!json_is_object(size)) {
        int64_t n = 0;
        RF_TRY(get_side(root, "size", &n));
        t->shortest_edge = number_is_square ? 0 : n;
        t->resize_height = t->resize_width = number_is_square ? n : 0;
    } else if (find(root, "size.longest_edge") != NULL || find(root, "size.max_height") != NULL) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "size limits the longer side, expected {shortest_edge} or "
                                    "{height, width}");
    } else if (find(root, "size.height") != NULL) {
        RF_TRY(get_side(root, "size.height", &t->resize_height));
        RF_TRY(get_side(root, "size.width", &t->resize_width));
    } else {
        RF_TRY(get_side(root, "size.shortest_edge", &t->shortest_edge));
    }
fail:
    return status;
}

/* `crop_size`: a number or {"height": h, "width": w}; do_center_crop says whether it is used. */
static rf_status read_crop(const rf_json *root, bool is_nameless, rf_transform *t)
{
    rf_status status = RF_OK;
    const rf_json *crop = find(root, "crop_size");
    bool is_on = t->crop_height > 0 || (is_nameless && crop != NULL);
    RF_TRY(rf_json_get_bool(root, "do_center_crop", &is_on, &is_on));
    if (!is_on) {
        t->crop_height = t->crop_width = 0;
    } else if (json_is_object(crop)) {
        RF_TRY(get_side(root, "crop_size.height", &t->crop_height));
        RF_TRY(get_side(root, "crop_size.width", &t->crop_width));
    } else if (crop != NULL) {
        RF_TRY(get_side(root, "crop_size", &t->crop_height));
        t->crop_width = t->crop_height;
    } else if (t->crop_height == 0) {
        RF_FAIL(RF_ERR_FORMAT, "do_center_crop is true and crop_size is not given");
    }
fail:
    return status;
}

/* `key`: a list of three numbers, or one for all channels. */
static rf_status read_channels(const rf_json *root, const char *key, bool is_needed, float out[3])
{
    rf_status status = RF_OK;
    const rf_json *value = find(root, key);
    if (value == NULL) {
        if (is_needed && out[0] == 0.0F) { /* no default either; no class has a zero */
            RF_FAIL(RF_ERR_FORMAT, "do_normalize is true and %s is not given", key);
        }
        return RF_OK;
    }
    for (size_t c = 0; c < 3; c++) {
        const rf_json *v = json_is_array(value) ? json_array_get(value, c) : value;
        if (!json_is_number(v) || (json_is_array(value) && json_array_size(value) != 3)) {
            RF_FAIL(RF_ERR_FORMAT, "%s is not a list of three numbers", key);
        }
        out[c] = (float)json_number_value(v);
    }
fail:
    return status;
}

static rf_status read_values(const rf_json *root, rf_transform *t)
{
    rf_status status = RF_OK;
    bool yes = true, no = false, is_on = false;
    int64_t filter = t->filter;
    RF_TRY(rf_json_get_i64(root, "resample", &filter, &filter));
    if (filter < RF_RESIZE_LANCZOS || filter > RF_RESIZE_BICUBIC) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "resample is %" PRId64 ", expected 1 (lanczos), 2 (bilinear) or 3 (bicubic)",
                filter);
    }
    t->filter = (rf_resize_filter)filter;
    RF_TRY(rf_json_get_bool(root, "do_rescale", &yes, &is_on));
    RF_TRY(rf_json_get_f64(root, "rescale_factor", &t->scale, &t->scale));
    t->scale = is_on ? t->scale : 1.0;
    RF_TRY(rf_json_get_bool(root, "do_normalize", &t->normalise, &t->normalise));
    RF_TRY(read_channels(root, "image_mean", t->normalise, t->mean));
    RF_TRY(read_channels(root, "image_std", t->normalise, t->std));
    RF_TRY(rf_json_get_bool(root, "do_pad", &no, &is_on));
    if (is_on) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "do_pad is true");
    }
fail:
    return status;
}

static rf_status read_config(const rf_json *root, rf_transform *out)
{
    rf_status status = RF_OK;
    bool yes = true, resizes = false;
    processor p = nameless;
    RF_TRY(find_processor(root, &p));
    *out = p.fallback;
    RF_TRY(rf_json_get_bool(root, "do_resize", &yes, &resizes));
    RF_TRY(read_size(root, p.number_is_square, out));
    if (!resizes) {
        out->shortest_edge = out->resize_height = out->resize_width = 0;
    }
    RF_TRY(read_crop(root, p.family[0] == '\0', out));
    RF_TRY(read_values(root, out));
    RF_TRY(rf_transform_check(out));
fail:
    return status;
}

rf_status rf_transform_parse(const char *text, int64_t n_bytes, const char *name, rf_transform *out)
{
    rf_status status = RF_OK;
    rf_json *root = NULL;
    *out = (rf_transform){0};
    RF_TRY(rf_json_parse(text, n_bytes, name, &root));
    const rf_json *config = root;
    if (find(root, "image_processor") != NULL) {
        config = find(root, "image_processor");
    }
    if (!json_is_object(config)) {
        RF_FAIL(RF_ERR_FORMAT, "%s: expected a JSON object", name);
    }
    RF_TRY_DOING(read_config(config, out), "%s", name);
fail:
    rf_json_free(root);
    return status;
}

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
    RF_TRY(rf_path_join(path, model_dir, "preprocessor_config.json"));
    if (!rf_file_exists(path)) {
        RF_TRY(rf_path_join(path, model_dir, "processor_config.json"));
    }
    if (!rf_file_exists(path)) {
        RF_FAIL(RF_ERR_NOT_FOUND,
                "%s: no preprocessor_config.json, which says how the model wants its pictures "
                "(it lies beside config.json on the Hugging Face Hub)",
                model_dir);
    }
    RF_TRY(rf_file_read(path, MAX_FILE_BYTES, &text, &n_bytes));
    RF_TRY(rf_transform_parse(text, n_bytes, path, out));
fail:
    rf_free(text);
    return status;
}

static bool is_side(int64_t n)
{
    return n >= 0 && n <= MAX_SIDE;
}

rf_status rf_transform_check(const rf_transform *t)
{
    rf_status status = RF_OK;
    bool is_exact = t->resize_height > 0 && t->resize_width > 0;
    RF_REQUIRE(is_side(t->shortest_edge) && is_side(t->resize_height) && is_side(t->resize_width) &&
                   is_side(t->crop_height) && is_side(t->crop_width),
               "a size is not in 0 to %d", (int)MAX_SIDE);
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
 * too short (the odd zero comes first). */
static void centre(int64_t n_in, int64_t n_out, int64_t *begin, int64_t *n, int64_t *n_before)
{
    *n = rf_min_i64(n_in, n_out);
    *begin = (n_in - *n) / 2;
    *n_before = (n_out - *n + 1) / 2;
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
    centre(height, out_height, &region.top, &region.height, &top);
    centre(width, out_width, &region.left, &region.width, &left);
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
