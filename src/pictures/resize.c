/* Pillow's two-pass resize of 8-bit pictures, with its fixed-point arithmetic: each pass rounds to
 * 8 bits. */
#include "image_impl.h"

#include <string.h>

enum { KEPT_BYTES = 1 << 25 }; /* more than this is given back after a picture */

static bool is_key_equal(const rf_resize_key *a, const rf_resize_key *b)
{
    return a->n_in == b->n_in && a->cover == b->cover && a->n_out == b->n_out &&
           a->begin == b->begin && a->n == b->n && a->filter == b->filter &&
           a->is_even == b->is_even && a->is_rough == b->is_rough;
}

/* The axis of `key`, made where it is not there; valid until the next call. */
static rf_status get_axis(rf_resize_axes *axes, const rf_resize_key *key,
                          const rf_resize_axis **out)
{
    rf_status status = RF_OK;
    for (int i = 0; i < RF_RESIZE_AXES; i++) {
        if (axes->kept[i].first != NULL && is_key_equal(&axes->kept[i].key, key)) {
            *out = &axes->kept[i];
            return RF_OK;
        }
    }
    rf_resize_axis *axis = &axes->kept[axes->next];
    axes->next = (axes->next + 1) % RF_RESIZE_AXES;
    rf_resize_axis_fini(axis);
    RF_TRY(rf_resize_axis_init(axis, key));
    *out = axis;
fail:
    return status;
}

rf_status rf_resize_reserve(uint8_t **memory, int64_t *capacity, int64_t n_bytes)
{
    rf_status status = RF_OK;
    if (*capacity < n_bytes) {
        rf_free(*memory);
        *capacity = 0;
        RF_ALLOC(*memory, n_bytes);
        *capacity = n_bytes;
    }
fail:
    return status;
}

void rf_resize_trim(uint8_t **memory, int64_t *capacity)
{
    if (*capacity > KEPT_BYTES) {
        rf_free(*memory);
        *memory = NULL;
        *capacity = 0;
    }
}

void rf_resize_scratch_fini(rf_resize_scratch *s)
{
    for (int i = 0; i < RF_RESIZE_AXES; i++) {
        rf_resize_axis_fini(&s->across.kept[i]);
        rf_resize_axis_fini(&s->down.kept[i]);
    }
    rf_free(s->lanes);
    rf_free(s->between);
    rf_free(s->resized);
    *s = (rf_resize_scratch){0};
}

/* What is resized: samples of `n_channels`, side by side. */
typedef struct source {
    const uint8_t *bytes;
    int64_t stride;
    int n_channels;
} source;

static rf_status go_across(rf_resize_scratch *s, const rf_resize_axis *axis, const source *in,
                           int64_t n_rows, uint8_t *out)
{
    rf_status status = RF_OK;
    RF_TRY(
        rf_resize_reserve(&s->lanes, &s->lanes_bytes, rf_resize_pass_bytes(axis, in->n_channels)));
    rf_resize_pass_across(axis, in->n_channels, in->bytes, in->stride, n_rows, s->lanes, out);
fail:
    return status;
}

/* `in` is the first sample that any pass uses. A side that keeps its length has no pass (NULL), as
 * in Pillow; so has the order of the passes its rule, which is of version 13: earlier ones always
 * go across first, and differ by a level here and there in tall pictures. */
static rf_status go(rf_resize_scratch *s, const rf_resize_axis *across, const rf_resize_axis *down,
                    bool is_down_first, const source *in, const rf_region *region, uint8_t *out)
{
    rf_status status = RF_OK;
    const int64_t row_bytes = in->n_channels * region->width;
    if (across != NULL && down != NULL && is_down_first) {
        const int64_t n_bytes = in->n_channels * across->span;
        RF_TRY(rf_resize_reserve(&s->between, &s->between_bytes, region->height * n_bytes));
        rf_resize_pass_down(down, in->bytes, in->stride, n_bytes, s->between);
        const source narrowed = {s->between, n_bytes, in->n_channels};
        RF_TRY(go_across(s, across, &narrowed, region->height, out));
    } else if (across != NULL && down != NULL) {
        RF_TRY(rf_resize_reserve(&s->between, &s->between_bytes, down->span * row_bytes));
        RF_TRY(go_across(s, across, in, down->span, s->between));
        rf_resize_pass_down(down, s->between, row_bytes, row_bytes, out);
    } else if (across != NULL) {
        RF_TRY(go_across(s, across, in, region->height, out));
    } else if (down != NULL) {
        rf_resize_pass_down(down, in->bytes, in->stride, row_bytes, out);
    } else {
        for (int64_t y = 0; y < region->height; y++) {
            memcpy(out + row_bytes * y, in->bytes + y * in->stride, (size_t)row_bytes);
        }
    }
fail:
    rf_resize_trim(&s->between, &s->between_bytes);
    return status;
}

rf_status rf_resize_pixels(rf_resize_scratch *scratch, const rf_picture *in, int64_t height,
                           int64_t width, rf_resize_filter filter, const rf_region *region,
                           uint8_t *out)
{
    rf_status status = RF_OK;
    const rf_resize_axis *across = NULL, *down = NULL;
    int64_t left = region->left, top = region->top;
    if (width != in->width) {
        const rf_resize_key key = {
            in->width, (double)in->width, width, region->left, region->width, filter, true, false};
        RF_TRY(get_axis(&scratch->across, &key, &across));
        left = across->origin;
    }
    if (height != in->height) {
        const rf_resize_key key = {
            in->height, (double)in->height, height, region->top, region->height, filter, false,
            false};
        RF_TRY(get_axis(&scratch->down, &key, &down));
        top = down->origin;
    }
    const bool is_down_first = in->height > height && in->height - height > 2 * (in->width - width);
    const source src = {in->rgb + 3 * (in->width * top + left), 3 * in->width, 3};
    RF_TRY(go(scratch, across, down, is_down_first, &src, region, out));
fail:
    return status;
}

rf_status rf_resize_plane(rf_resize_scratch *scratch, const rf_plane *in, int64_t height,
                          int64_t width, rf_resize_filter filter, const rf_region *region,
                          uint8_t *out)
{
    rf_status status = RF_OK;
    const rf_resize_axis *across = NULL, *down = NULL;
    const rf_resize_key key_across = {in->width,     in->cover_width, width, region->left,
                                      region->width, filter,          true,  true};
    const rf_resize_key key_down = {in->height,     in->cover_height, height, region->top,
                                    region->height, filter,           false,  true};
    RF_TRY(get_axis(&scratch->across, &key_across, &across));
    RF_TRY(get_axis(&scratch->down, &key_down, &down));
    const source src = {in->bytes + in->stride * down->origin + across->origin, in->stride, 1};
    RF_TRY(go(scratch, across, down, false, &src, region, out));
fail:
    return status;
}

rf_status rf_resize_picture(const rf_picture *in, int64_t height, int64_t width,
                            rf_resize_filter filter, const rf_region *region, rf_picture *out)
{
    rf_status status = RF_OK;
    rf_resize_scratch scratch = {0};
    *out = (rf_picture){0};
    RF_REQUIRE(in->height >= 1 && in->width >= 1 && height >= 1 && width >= 1 &&
                   height <= INT32_MAX && width <= INT32_MAX,
               "resize of %" PRId64 " x %" PRId64 " to %" PRId64 " x %" PRId64, in->height,
               in->width, height, width);
    RF_REQUIRE(region->height >= 1 && region->width >= 1 && region->top >= 0 && region->left >= 0 &&
                   region->height <= height - region->top && region->width <= width - region->left,
               "the region %" PRId64 " x %" PRId64 " at (%" PRId64 ", %" PRId64
               ") is not inside %" PRId64 " x %" PRId64,
               region->height, region->width, region->top, region->left, height, width);
    RF_ALLOC(out->rgb, 3 * region->height * region->width);
    out->height = region->height;
    out->width = region->width;
    RF_TRY(rf_resize_pixels(&scratch, in, height, width, filter, region, out->rgb));
fail:
    rf_resize_scratch_fini(&scratch);
    if (status != RF_OK) {
        rf_picture_fini(out);
    }
    return status;
}
