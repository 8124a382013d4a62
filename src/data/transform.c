/* From a decoded picture to a model's input, as the model's files say. */
#include "data_impl.h"
#include "image_impl.h"

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

/* Where channel `c` of the picture begins in what comes out; zero pixels are put around it. */
static float *begin_plane(const rf_transform *t, const placement *p, int c, float *out)
{
    const int64_t height = rf_transform_height(t), width = rf_transform_width(t);
    float *plane = out + c * height * width;
    if (p->region.height < height || p->region.width < width) {
        const float zero = t->normalise ? (0.0F - t->mean[c]) / t->std[c] : 0.0F;
        for (int64_t i = 0; i < height * width; i++) {
            plane[i] = zero;
        }
    }
    return plane + p->top * width + p->left;
}

/* Double, then float, then the float operations of transformers: the same bits. A subtraction of 0
 * and a division by 1 change none. */
static inline __attribute__((always_inline)) void fill_row(const uint8_t *in, int64_t step,
                                                           int64_t n, double scale, float mean,
                                                           float std, float *out)
{
    for (int64_t x = 0; x < n; x++) {
        out[x] = ((float)((double)in[step * x] * scale) - mean) / std;
    }
}

/* Channel `c`: `in` [region's height, width], `step` (1 or 3) bytes from one pixel to the next. */
static void fill_plane(const rf_transform *t, const placement *p, int c, const uint8_t *in,
                       int64_t step, float *out)
{
    const float mean = t->normalise ? t->mean[c] : 0.0F, std = t->normalise ? t->std[c] : 1.0F;
    float *plane = begin_plane(t, p, c, out);
    for (int64_t y = 0; y < p->region.height; y++) {
        const uint8_t *row = in + step * p->region.width * y;
        float *to = plane + rf_transform_width(t) * y;
        if (step == 3) {
            fill_row(row, 3, p->region.width, t->scale, mean, std, to);
        } else {
            fill_row(row, 1, p->region.width, t->scale, mean, std, to);
        }
    }
}

rf_status rf_transform_apply_pixels(const rf_transform *t, rf_resize_scratch *scratch,
                                    const rf_picture *picture, float *out)
{
    rf_status status = RF_OK;
    RF_REQUIRE(picture->height >= 1 && picture->width >= 1, "an empty picture");
    const placement p = place(t, picture->height, picture->width);
    RF_REQUIRE(p.height <= INT32_MAX && p.width <= INT32_MAX,
               "resize of %" PRId64 " x %" PRId64 " to %" PRId64 " x %" PRId64, picture->height,
               picture->width, p.height, p.width);
    RF_TRY(rf_resize_reserve(&scratch->resized, &scratch->resized_bytes,
                             3 * p.region.height * p.region.width));
    RF_TRY(rf_resize_pixels(scratch, picture, p.height, p.width, t->filter, &p.region,
                            scratch->resized));
    for (int c = 0; c < 3; c++) {
        fill_plane(t, &p, c, scratch->resized + c, 3, out);
    }
fail:
    return status;
}

rf_status rf_transform_apply(const rf_transform *t, const rf_picture *picture, float *out)
{
    rf_resize_scratch scratch = {0};
    const rf_status status = rf_transform_apply_pixels(t, &scratch, picture, out);
    rf_resize_scratch_fini(&scratch);
    return status;
}

/* factor * clipped value + offset: of a channel, the same as fill_row's to a rounding. */
typedef struct line {
    float factor, offset;
} line;

static line line_of(const rf_transform *t, int c)
{
    const float std = t->normalise ? t->std[c] : 1.0F, mean = t->normalise ? t->mean[c] : 0.0F;
    return (line){(float)t->scale / std, -mean / std};
}

static inline float clip(float v)
{
    v = v < 0.0F ? 0.0F : v;
    return v > 255.0F ? 255.0F : v;
}

/* A row of JFIF's colours. */
static void fill_from_ycbcr(const uint8_t *restrict luma, const uint8_t *restrict blue,
                            const uint8_t *restrict red, int64_t n, const line lines[3],
                            float *restrict to_r, float *restrict to_g, float *restrict to_b)
{
    for (int64_t x = 0; x < n; x++) {
        const float y = (float)luma[x], cb = (float)(blue[x] - 128), cr = (float)(red[x] - 128);
        to_r[x] = clip(y + 1.402F * cr) * lines[0].factor + lines[0].offset;
        to_g[x] = clip(y - 0.344136F * cb - 0.714136F * cr) * lines[1].factor + lines[1].offset;
        to_b[x] = clip(y + 1.772F * cb) * lines[2].factor + lines[2].offset;
    }
}

static void fill_planes_from_ycbcr(const rf_transform *t, const placement *p, const uint8_t *in,
                                   float *out)
{
    const int64_t n = p->region.width, n_plane = n * p->region.height;
    const int64_t width = rf_transform_width(t);
    const line lines[3] = {line_of(t, 0), line_of(t, 1), line_of(t, 2)};
    float *r = begin_plane(t, p, 0, out), *g = begin_plane(t, p, 1, out);
    float *b = begin_plane(t, p, 2, out);
    for (int64_t y = 0; y < p->region.height; y++) {
        const uint8_t *row = in + y * n;
        fill_from_ycbcr(row, row + n_plane, row + 2 * n_plane, n, lines, r + y * width,
                        g + y * width, b + y * width);
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

rf_status rf_transform_apply_planes(const rf_transform *t, rf_resize_scratch *scratch,
                                    const rf_picture_planes *planes, float *out)
{
    rf_status status = RF_OK;
    const placement p = place(t, planes->height, planes->width);
    const int64_t n = p.region.height * p.region.width;
    RF_REQUIRE(planes->n_planes >= 1 && p.height <= INT32_MAX && p.width <= INT32_MAX,
               "resize of %d planes of %" PRId64 " x %" PRId64 " to %" PRId64 " x %" PRId64,
               planes->n_planes, planes->height, planes->width, p.height, p.width);
    RF_TRY(rf_resize_reserve(&scratch->resized, &scratch->resized_bytes, 3 * n));
    for (int i = 0; i < planes->n_planes; i++) {
        RF_TRY(rf_resize_plane(scratch, &planes->planes[i], p.height, p.width,
                               filter_of_plane(t, planes, i), &p.region, scratch->resized + i * n));
    }
    if (planes->colour == RF_PLANES_YCBCR) {
        fill_planes_from_ycbcr(t, &p, scratch->resized, out);
    }
    for (int c = 0; planes->colour != RF_PLANES_YCBCR && c < 3; c++) {
        fill_plane(t, &p, c, scratch->resized + (planes->n_planes == 3 ? c * n : 0), 1, out);
    }
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
