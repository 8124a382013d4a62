/* From a decoded picture to a model's input, as the model's files say. */
#include "image_impl.h"
#include "transform_impl.h"

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
    if (model_dir[0] == '\0') {
        RF_FAIL(RF_ERR_SETTING,
                "it is not said where the model is (a run that was trained from a store does not "
                "know): add model.path=FOLDER, or with several models model.NAME.path=FOLDER");
    }
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
static void resized_size(const rf_transform *t, int64_t in_height, int64_t in_width,
                         int64_t *height, int64_t *width)
{
    *height = t->resize_height > 0 ? t->resize_height : in_height;
    *width = t->resize_width > 0 ? t->resize_width : in_width;
    if (t->shortest_edge > 0) {
        int64_t edge = t->shortest_edge;
        if (in_width <= in_height) {
            *width = edge;
            *height = (int64_t)((double)(edge * in_height) / (double)in_width);
        } else {
            *height = edge;
            *width = (int64_t)((double)(edge * in_width) / (double)in_height);
        }
    }
}

void rf_transform_least(const rf_transform *t, int64_t *height, int64_t *width)
{
    const bool is_resized = t->shortest_edge > 0 || t->resize_height > 0;
    *height = t->shortest_edge > 0 ? t->shortest_edge : is_resized ? t->resize_height : INT64_MAX;
    *width = t->shortest_edge > 0 ? t->shortest_edge : is_resized ? t->resize_width : INT64_MAX;
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

/* What a picture of some size becomes: its whole resize, the part of it that is taken, and where
 * that lies in what comes out. */
typedef struct placement {
    int64_t height, width;
    rf_region region;
    int64_t top, left;
} placement;

static placement place(const rf_transform *t, int64_t in_height, int64_t in_width)
{
    placement p = {0};
    resized_size(t, in_height, in_width, &p.height, &p.width);
    centre(t->crop_rule, p.height, rf_transform_height(t), &p.region.top, &p.region.height, &p.top);
    centre(t->crop_rule, p.width, rf_transform_width(t), &p.region.left, &p.region.width, &p.left);
    return p;
}

void rf_transform_levels(const rf_transform *t, float *levels)
{
    for (int c = 0; c < 3; c++) {
        const float mean = t->normalise ? t->mean[c] : 0.0F, std = t->normalise ? t->std[c] : 1.0F;
        for (int v = 0; v < 256; v++) { /* double, then float, as transformers does it: its bits */
            levels[256 * c + v] = ((float)(v * t->scale) - mean) / std;
        }
    }
}

static bool is_padded(const rf_transform *t, const placement *p)
{
    return p->region.height < rf_transform_height(t) || p->region.width < rf_transform_width(t);
}

/* Where the picture begins in what comes out; black pixels are put around it. */
static uint8_t *begin_picture(const rf_transform *t, const placement *p, uint8_t *out)
{
    const int64_t height = rf_transform_height(t), width = rf_transform_width(t);
    if (is_padded(t, p)) {
        memset(out, 0, (size_t)(3 * height * width));
    }
    return out + 3 * (p->top * width + p->left);
}

/* `in` [region's height, width, 3] into its place. */
static void pad(const rf_transform *t, const placement *p, const uint8_t *in, uint8_t *out)
{
    const int64_t n_row = 3 * p->region.width, width = rf_transform_width(t);
    uint8_t *to = begin_picture(t, p, out);
    for (int64_t y = 0; y < p->region.height; y++) {
        memcpy(to + 3 * width * y, in + n_row * y, (size_t)n_row);
    }
}

static rf_status check_size(const placement *p, int64_t height, int64_t width)
{
    rf_status status = RF_OK;
    RF_REQUIRE(p->height <= INT32_MAX && p->width <= INT32_MAX,
               "resize of %" PRId64 " x %" PRId64 " to %" PRId64 " x %" PRId64, height, width,
               p->height, p->width);
fail:
    return status;
}

rf_status rf_transform_picture(const rf_transform *t, rf_resize_scratch *scratch,
                               const rf_picture *picture, uint8_t *out)
{
    rf_status status = RF_OK;
    RF_REQUIRE(picture->height >= 1 && picture->width >= 1, "an empty picture");
    const placement p = place(t, picture->height, picture->width);
    RF_TRY(check_size(&p, picture->height, picture->width));
    if (!is_padded(t, &p)) {
        return rf_resize_pixels(scratch, picture, p.height, p.width, t->filter, &p.region, out);
    }
    RF_TRY(rf_resize_reserve(&scratch->resized, &scratch->resized_bytes,
                             3 * p.region.height * p.region.width));
    RF_TRY(rf_resize_pixels(scratch, picture, p.height, p.width, t->filter, &p.region,
                            scratch->resized));
    pad(t, &p, scratch->resized, out);
fail:
    return status;
}

rf_status rf_transform_bytes(const rf_transform *t, const rf_picture *picture, uint8_t *out)
{
    rf_resize_scratch scratch = {0};
    const rf_status status = rf_transform_picture(t, &scratch, picture, out);
    rf_resize_scratch_fini(&scratch);
    return status;
}

rf_status rf_transform_apply(const rf_transform *t, const rf_picture *picture, float *out)
{
    rf_status status = RF_OK;
    const int64_t n = rf_transform_height(t) * rf_transform_width(t);
    float levels[3 * 256];
    uint8_t *bytes = NULL;

    RF_ALLOC(bytes, 3 * n);
    RF_TRY(rf_transform_bytes(t, picture, bytes));
    rf_transform_levels(t, levels);
    for (int64_t i = 0; i < 3 * n; i++) {
        out[i] = levels[256 * (i / n) + bytes[3 * (i % n) + i / n]];
    }
fail:
    rf_free(bytes);
    return status;
}

/* ---- planes --------------------------------------------------------------------------------- */

/* `in` [n_planes, region's height, width] into its place. */
static void fill_from_planes(const rf_transform *t, const placement *p, int n_planes, bool is_ycbcr,
                             const uint8_t *in, uint8_t *out)
{
    const int64_t n = p->region.width, n_plane = n_planes == 3 ? n * p->region.height : 0;
    const int64_t width = rf_transform_width(t);
    uint8_t *to = begin_picture(t, p, out);
    for (int64_t y = 0; y < p->region.height; y++, in += n, to += 3 * width) {
        const uint8_t *const planes[3] = {in, in + n_plane, in + 2 * n_plane};
        if (is_ycbcr) {
            rf_transform_ycbcr(planes, n, to);
        } else { /* or one of grey for all three */
            rf_transform_rgb(planes, n, to);
        }
    }
}

/* Chroma of fewer samples than luma is resized as smoothly as libjpeg enlarges it in the exact way:
 * half the difference of the model's filter, and fewer products. */
static rf_resize_filter filter_of_plane(const rf_transform *t, const rf_picture_planes *planes,
                                        int idx)
{
    const bool is_less = planes->planes[idx].cover_width < planes->planes[0].cover_width ||
                         planes->planes[idx].cover_height < planes->planes[0].cover_height;
    return is_less ? RF_RESIZE_BILINEAR : t->filter;
}

rf_status rf_transform_planes(const rf_transform *t, rf_resize_scratch *scratch,
                              const rf_picture_planes *planes, uint8_t *out)
{
    rf_status status = RF_OK;
    const placement p = place(t, planes->height, planes->width);
    const int64_t n = p.region.height * p.region.width;
    RF_REQUIRE(planes->n_planes >= 1, "a picture of no planes");
    RF_TRY(check_size(&p, planes->height, planes->width));
    RF_TRY(rf_resize_reserve(&scratch->resized, &scratch->resized_bytes, 3 * n));
    for (int i = 0; i < planes->n_planes; i++) {
        RF_TRY(rf_resize_plane(scratch, &planes->planes[i], p.height, p.width,
                               filter_of_plane(t, planes, i), &p.region, scratch->resized + i * n));
    }
    fill_from_planes(t, &p, planes->n_planes, planes->colour == RF_PLANES_YCBCR, scratch->resized,
                     out);
fail:
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
