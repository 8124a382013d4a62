/* transformers' image processors: preprocessor_config.json to a transform. */
#include "transform_impl.h"

#include <jansson.h>
#include <string.h>

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
    {"Beit",
     true,
     {.resize_height = 224,
      .resize_width = 224,
      .filter = RF_RESIZE_BICUBIC,
      .scale = 1.0 / 255.0,
      .normalise = true,
      .mean = HALVES,
      .std = HALVES}},
    {"DINOv3ViT", /* resizes after the scaling, so that no pixel is rounded to a byte; here it is */
     true,
     {.resize_height = 224,
      .resize_width = 224,
      .filter = RF_RESIZE_BILINEAR,
      .scale = 1.0 / 255.0,
      .normalise = true,
      .mean = {0.485F, 0.456F, 0.406F},
      .std = {0.229F, 0.224F, 0.225F}}},
    {"Siglip2",
     true,
     {.resize_height = 256,
      .resize_width = 256,
      .filter = RF_RESIZE_BILINEAR,
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
const rf_json *rf_transform_find(const rf_json *root, const char *key)
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
        out->number_is_square = rf_transform_find(root, "crop_size") == NULL;
        if (rf_transform_find(root, "size") == NULL) {
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
    RF_FAIL(
        RF_ERR_UNSUPPORTED,
        "image processor '%s'; expected that of CLIP, Bit (DINOv2), ViT, DeiT, Beit, DINOv3ViT, "
        "Siglip or Siglip2",
        type);
fail:
    return status;
}

rf_status rf_transform_get_side(const rf_json *root, const char *key, int64_t *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_json_get_i64(root, key, NULL, out));
    if (*out < 1 || *out > RF_TRANSFORM_MAX_SIDE) {
        RF_FAIL(RF_ERR_FORMAT, "%s is %" PRId64 ", expected 1 to %d", key, *out,
                (int)RF_TRANSFORM_MAX_SIDE);
    }
fail:
    return status;
}

/* `size`: a number, {"shortest_edge": n} or {"height": h, "width": w}. */
static rf_status read_size(const rf_json *root, bool number_is_square, rf_transform *t)
{
    rf_status status = RF_OK;
    const rf_json *size = rf_transform_find(root, "size");
    if (size == NULL) {
        return RF_OK;
    }
    t->shortest_edge = t->resize_height = t->resize_width = 0;
    if (!json_is_object(size)) {
        int64_t n = 0;
        RF_TRY(rf_transform_get_side(root, "size", &n));
        t->shortest_edge = number_is_square ? 0 : n;
        t->resize_height = t->resize_width = number_is_square ? n : 0;
    } else if (rf_transform_find(root, "size.longest_edge") != NULL ||
               rf_transform_find(root, "size.max_height") != NULL) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "size limits the longer side, expected {shortest_edge} or "
                                    "{height, width}");
    } else if (rf_transform_find(root, "size.height") != NULL) {
        RF_TRY(rf_transform_get_side(root, "size.height", &t->resize_height));
        RF_TRY(rf_transform_get_side(root, "size.width", &t->resize_width));
    } else {
        RF_TRY(rf_transform_get_side(root, "size.shortest_edge", &t->shortest_edge));
    }
fail:
    return status;
}

/* `crop_size`: a number or {"height": h, "width": w}; do_center_crop says whether it is used. */
static rf_status read_crop(const rf_json *root, bool is_nameless, rf_transform *t)
{
    rf_status status = RF_OK;
    const rf_json *crop = rf_transform_find(root, "crop_size");
    bool is_on = t->crop_height > 0 || (is_nameless && crop != NULL);
    RF_TRY(rf_json_get_bool(root, "do_center_crop", &is_on, &is_on));
    if (!is_on) {
        t->crop_height = t->crop_width = 0;
    } else if (json_is_object(crop)) {
        RF_TRY(rf_transform_get_side(root, "crop_size.height", &t->crop_height));
        RF_TRY(rf_transform_get_side(root, "crop_size.width", &t->crop_width));
    } else if (crop != NULL) {
        RF_TRY(rf_transform_get_side(root, "crop_size", &t->crop_height));
        t->crop_width = t->crop_height;
    } else if (t->crop_height == 0) {
        RF_FAIL(RF_ERR_FORMAT, "do_center_crop is true and crop_size is not given");
    }
fail:
    return status;
}

/* `key`: a list of three numbers, or one for all channels. */
rf_status rf_transform_get_channels(const rf_json *root, const char *key, bool is_needed,
                                    float out[3])
{
    rf_status status = RF_OK;
    const rf_json *value = rf_transform_find(root, key);
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
    RF_TRY(rf_transform_get_channels(root, "image_mean", t->normalise, t->mean));
    RF_TRY(rf_transform_get_channels(root, "image_std", t->normalise, t->std));
    RF_TRY(rf_json_get_bool(root, "do_pad", &no, &is_on));
    if (is_on) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "do_pad is true");
    }
fail:
    return status;
}

/* SigLIP 2's NaFlex keeps a picture's proportions within max_num_patches patches; here every
 * picture is squashed to the square of as many. */
static rf_status read_patch_count(const rf_json *root, rf_transform *t)
{
    rf_status status = RF_OK;
    int64_t patch = 16, n = 256, side = 1;
    RF_TRY(rf_json_get_i64(root, "patch_size", &patch, &patch));
    RF_TRY(rf_json_get_i64(root, "max_num_patches", &n, &n));
    if (patch < 1 || n < 1 || patch > RF_TRANSFORM_MAX_SIDE || n > 1 << 20) {
        RF_FAIL(RF_ERR_FORMAT, "patch_size %" PRId64 " and max_num_patches %" PRId64, patch, n);
    }
    while ((side + 1) * (side + 1) <= n) {
        side++;
    }
    t->resize_height = t->resize_width = side * patch;
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
    if (strcmp(p.family, "Siglip2") == 0) {
        RF_TRY(read_patch_count(root, out));
        RF_TRY(read_values(root, out));
        return rf_transform_check(out);
    }
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
    if (rf_transform_find(root, "image_processor") != NULL) {
        config = rf_transform_find(root, "image_processor");
    }
    if (!json_is_object(config)) {
        RF_FAIL(RF_ERR_FORMAT, "%s: expected a JSON object", name);
    }
    RF_TRY_DOING(read_config(config, out), "%s", name);
fail:
    rf_json_free(root);
    return status;
}
