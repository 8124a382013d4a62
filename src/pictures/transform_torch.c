/* The inference transforms of OpenCLIP and timm, both built on torchvision's Resize and CenterCrop:
 * preprocess_cfg and pretrained_cfg to a transform. */
#include "transform_impl.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

static rf_status get_filter(const rf_json *root, rf_resize_filter *out)
{
    static const struct {
        const char *name;
        rf_resize_filter filter;
    } filters[] = {{"bicubic", RF_RESIZE_BICUBIC},
                   {"bilinear", RF_RESIZE_BILINEAR},
                   {"lanczos", RF_RESIZE_LANCZOS}};
    rf_status status = RF_OK;
    const char *name = NULL;
    RF_TRY(rf_json_get_str(root, "interpolation", "bicubic", &name));
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        if (strcmp(filters[i].name, name) == 0) {
            *out = filters[i].filter;
            return RF_OK;
        }
    }
    RF_FAIL(RF_ERR_UNSUPPORTED, "interpolation '%.40s'; expected bicubic, bilinear or lanczos",
            name);
fail:
    return status;
}

/* A side for both, or [.., height, width]. */
static rf_status get_size(const rf_json *root, const char *key, int64_t *height, int64_t *width)
{
    rf_status status = RF_OK;
    const rf_json *value = rf_transform_find(root, key);
    const size_t n = json_array_size(value);
    if (!json_is_array(value)) {
        RF_TRY(rf_transform_get_side(root, key, height));
        *width = *height;
        return RF_OK;
    }
    const json_t *h = n >= 2 ? json_array_get(value, n - 2) : NULL;
    const json_t *w = n >= 2 ? json_array_get(value, n - 1) : NULL;
    *height = json_is_integer(h) ? json_integer_value(h) : 0;
    *width = json_is_integer(w) ? json_integer_value(w) : 0;
    if (n > 3 || *height < 1 || *width < 1 || *height > RF_TRANSFORM_MAX_SIDE ||
        *width > RF_TRANSFORM_MAX_SIDE) {
        RF_FAIL(RF_ERR_FORMAT, "%s is no height and width of 1 to %d", key,
                (int)RF_TRANSFORM_MAX_SIDE);
    }
fail:
    return status;
}

/* Resize to height x width / share of it, by the shorter side or squashed, and cut the centre out.
 */
static rf_status resize_and_crop(rf_transform *t, int64_t height, int64_t width, double share,
                                 bool is_squashed)
{
    rf_status status = RF_OK;
    if (!(share > 0.0 && share <= 1.0)) {
        RF_FAIL(RF_ERR_FORMAT, "crop_pct is %g, expected more than 0 and at most 1", share);
    }
    const double high = floor((double)height / share), wide = floor((double)width / share);
    if (!(high <= RF_TRANSFORM_MAX_SIDE && wide <= RF_TRANSFORM_MAX_SIDE)) {
        RF_FAIL(RF_ERR_FORMAT, "crop_pct %g asks for a resize to %g x %g pixels", share, high,
                wide);
    }
    if (is_squashed) {
        t->resize_height = (int64_t)high;
        t->resize_width = (int64_t)wide;
    } else if (height == width) {
        t->shortest_edge = (int64_t)high;
    } else {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "a resize of the shorter side to %" PRId64 " x %" PRId64 ", which is not square",
                height, width);
    }
    t->crop_height = height;
    t->crop_width = width;
    t->crop_rule = RF_CROP_TORCHVISION;
fail:
    return status;
}

static rf_status read_open_clip(const rf_json *root, rf_transform *t)
{
    rf_status status = RF_OK;
    const rf_json *cfg = rf_transform_find(root, "preprocess_cfg");
    const char *mode = NULL;
    int64_t height = 0, width = 0;
    *t = (rf_transform){.scale = 1.0 / 255.0,
                        .normalise = true,
                        .mean = {0.48145466F, 0.4578275F, 0.40821073F},
                        .std = {0.26862954F, 0.26130258F, 0.27577711F}};
    RF_TRY(get_filter(cfg, &t->filter));
    RF_TRY(rf_json_get_str(cfg, "resize_mode", "shortest", &mode));
    if (strcmp(mode, "shortest") != 0 && strcmp(mode, "squash") != 0) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "resize_mode '%.40s'; expected shortest or squash", mode);
    }
    if (rf_transform_find(cfg, "size") != NULL) {
        RF_TRY(get_size(cfg, "size", &height, &width));
    } else {
        RF_TRY(get_size(root, "model_cfg.vision_cfg.image_size", &height, &width));
    }
    RF_TRY(resize_and_crop(t, height, width, 1.0, strcmp(mode, "squash") == 0));
    RF_TRY(rf_transform_get_channels(cfg, "mean", true, t->mean));
    RF_TRY(rf_transform_get_channels(cfg, "std", true, t->std));
    RF_TRY(rf_transform_check(t));
fail:
    return status;
}

static rf_status read_timm(const rf_json *root, rf_transform *t)
{
    rf_status status = RF_OK;
    const rf_json *cfg = rf_transform_find(root, "pretrained_cfg");
    const char *mode = NULL;
    double share = 0.875; /* timm's default */
    int64_t height = 224, width = 224;
    if (!json_is_object(cfg)) {
        RF_FAIL(RF_ERR_NOT_FOUND, "no pretrained_cfg");
    }
    *t = (rf_transform){.scale = 1.0 / 255.0,
                        .normalise = true,
                        .mean = {0.485F, 0.456F, 0.406F},
                        .std = {0.229F, 0.224F, 0.225F}};
    RF_TRY(get_filter(cfg, &t->filter));
    RF_TRY(rf_json_get_f64(cfg, "crop_pct", &share, &share));
    RF_TRY(rf_json_get_str(cfg, "crop_mode", "center", &mode));
    if (strcmp(mode, "center") != 0 && strcmp(mode, "squash") != 0) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "crop_mode '%.40s'; expected center or squash", mode);
    }
    if (rf_transform_find(cfg, "input_size") != NULL) {
        RF_TRY(get_size(cfg, "input_size", &height, &width));
    }
    RF_TRY(resize_and_crop(t, height, width, share, strcmp(mode, "squash") == 0));
    RF_TRY(rf_transform_get_channels(cfg, "mean", true, t->mean));
    RF_TRY(rf_transform_get_channels(cfg, "std", true, t->std));
    RF_TRY(rf_transform_check(t));
fail:
    return status;
}

static rf_status parse(const char *text, int64_t n_bytes, const char *name,
                       rf_status (*read)(const rf_json *, rf_transform *), rf_transform *out)
{
    rf_status status = RF_OK;
    rf_json *root = NULL;
    *out = (rf_transform){0};
    RF_TRY(rf_json_parse(text, n_bytes, name, &root));
    RF_TRY_DOING(read(root, out), "%s", name);
fail:
    rf_json_free(root);
    return status;
}

rf_status rf_transform_parse_open_clip(const char *text, int64_t n_bytes, const char *name,
                                       rf_transform *out)
{
    return parse(text, n_bytes, name, read_open_clip, out);
}

rf_status rf_transform_parse_timm(const char *text, int64_t n_bytes, const char *name,
                                  rf_transform *out)
{
    return parse(text, n_bytes, name, read_timm, out);
}
