/* Shape rules of what turns pictures to rows, rows to tokens and tokens to others, and of their
 * gradients, once for every backend; then the stream's backend is asked. */
#include "shape_impl.h"

enum { MAX_PATCH = 1 << 20 };

rf_status rf_rotary(rf_stream *s, const rf_rotary_args *args)
{
    rf_status status = RF_OK;
    const rf_view *x = &args->x;
    RF_TRY(
        rf_shape_check("rotary", "x", x, RF_F32, RF_MUST_BE_GIVEN, 4, (int64_t[]){-1, -1, -1, -1}));
    RF_TRY(rf_shape_check("rotary", "y", &args->y, RF_F32, RF_MUST_BE_GIVEN, 4, x->shape));
    RF_TRY(rf_shape_check_unrepeated("rotary", "y", &args->y));
    RF_REQUIRE(x->shape[3] % 2 == 0, "rotary: heads of %" PRId64 " are not pairs", x->shape[3]);
    RF_TRY(
        rf_shape_check_2d("rotary", "cos", &args->cos, RF_MUST_BE_GIVEN, x->shape[1], x->shape[3]));
    RF_TRY(
        rf_shape_check_2d("rotary", "sin", &args->sin, RF_MUST_BE_GIVEN, x->shape[1], x->shape[3]));
    RF_REQUIRE(args->pairs == RF_PAIRS_ADJACENT || args->pairs == RF_PAIRS_HALVES,
               "rotary: %d is no way to pair", (int)args->pairs);
    if (rf_view_n_elems(x) > 0) {
        RF_TRY(s->backend->ops->rotary(s, args));
    }
fail:
    return status;
}

/* Of tokens [B, T, d] and their mean [B, d], in both directions. */
static rf_status check_mean(const char *op, const rf_view *tokens, const char *tokens_name,
                            const rf_view *mean, const char *mean_name, int64_t first, int64_t n)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check(op, tokens_name, tokens, RF_F32, RF_MUST_BE_GIVEN, 3,
                          (int64_t[]){-1, -1, -1}));
    RF_TRY(rf_shape_check_2d(op, mean_name, mean, RF_MUST_BE_GIVEN, tokens->shape[0],
                             tokens->shape[2]));
    RF_REQUIRE(n > 0 && first >= 0 && first <= tokens->shape[1] && n <= tokens->shape[1] - first,
               "%s: %" PRId64 " tokens from %" PRId64 " on, there are %" PRId64, op, n, first,
               tokens->shape[1]);
fail:
    return status;
}

rf_status rf_mean_tokens(rf_stream *s, const rf_view *x, int64_t first, int64_t n, const rf_view *y)
{
    rf_status status = RF_OK;
    RF_TRY(check_mean("mean of tokens", x, "x", y, "y", first, n));
    if (rf_view_n_elems(y) > 0) {
        RF_TRY(s->backend->ops->mean_tokens(s, x, first, n, y));
    }
fail:
    return status;
}

rf_status rf_mean_tokens_grad(rf_stream *s, const rf_view *d_y, int64_t first, int64_t n,
                              const rf_view *d_x)
{
    rf_status status = RF_OK;
    RF_TRY(check_mean("gradient of the mean of tokens", d_x, "d_x", d_y, "d_y", first, n));
    RF_TRY(rf_shape_check_unrepeated("gradient of the mean of tokens", "d_x", d_x));
    if (rf_view_n_elems(d_y) > 0) {
        RF_TRY(s->backend->ops->mean_tokens_grad(s, d_y, first, n, d_x));
    }
fail:
    return status;
}

static rf_status check_patch_rows(const char *op, const rf_patch_rows_args *args)
{
    rf_status status = RF_OK;
    const rf_view *im = &args->images;
    const int at = im->n_dims == 5 ? 1 : 0; /* clips have frames behind the picture's number */
    const int64_t tubelet = rf_max_i64(args->tubelet, 1);
    int64_t n_elems = 0;
    RF_TRY(rf_shape_check(op, "images", im, RF_F32, RF_MUST_BE_GIVEN, at == 1 ? 5 : 4,
                          (int64_t[]){-1, -1, -1, -1, -1}));
    RF_REQUIRE(args->patch > 0 && args->patch <= MAX_PATCH,
               "%s: patch=%" PRId64 ", expected 1 to %d", op, args->patch, MAX_PATCH);
    RF_REQUIRE(args->tubelet >= 0 && args->tubelet <= (at == 1 ? MAX_PATCH : 1),
               "%s: tubelet=%" PRId64 ", expected 0 to %d", op, args->tubelet,
               at == 1 ? MAX_PATCH : 1);
    const int64_t n_t = at == 1 ? im->shape[1] / tubelet : 1;
    const int64_t n_patches =
        n_t * (im->shape[at + 2] / args->patch) * (im->shape[at + 3] / args->patch);
    RF_TRY(rf_mul_i64(args->patch * args->patch, tubelet, "elements of a patch", &n_elems));
    RF_TRY(rf_mul_i64(n_elems, im->shape[at + 1], "elements of a patch", &n_elems));
    RF_TRY(rf_shape_check_2d(op, "rows", &args->rows, RF_MUST_BE_GIVEN, im->shape[0] * n_patches,
                             n_elems));
fail:
    return status;
}

rf_status rf_pixel_values(rf_stream *s, const rf_pixel_values_args *args)
{
    rf_status status = RF_OK;
    const rf_view *images = &args->images;
    const int64_t *shape = images->shape;
    RF_TRY(rf_shape_check("pixel values", "images", images, RF_F32, RF_MUST_BE_GIVEN, 4,
                          (int64_t[]){-1, -1, -1, -1}));
    RF_TRY(rf_shape_check("pixel values", "pixels", &args->pixels, RF_U8, RF_MUST_BE_GIVEN, 4,
                          (int64_t[]){shape[0], shape[2], shape[3], shape[1]}));
    RF_TRY(rf_shape_check("pixel values", "levels", &args->levels, RF_F32, RF_MUST_BE_GIVEN, 2,
                          (int64_t[]){shape[1], 256}));
    RF_REQUIRE(rf_view_is_contiguous(images) && rf_view_is_contiguous(&args->pixels) &&
                   rf_view_is_contiguous(&args->levels),
               "pixel values: expected contiguous views");
    if (rf_view_n_elems(images) > 0) {
        RF_TRY(s->backend->ops->pixel_values(s, args));
    }
fail:
    return status;
}

rf_status rf_patch_rows(rf_stream *s, const rf_patch_rows_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(check_patch_rows("patch rows", args));
    if (rf_view_n_elems(&args->rows) > 0) {
        RF_TRY(s->backend->ops->patch_rows(s, args));
    }
fail:
    return status;
}

rf_status rf_patch_rows_grad(rf_stream *s, const rf_patch_rows_args *args)
{
    rf_status status = RF_OK;
    RF_TRY(check_patch_rows("gradient of patch rows", args));
    rf_view written = args->images;
    if (written.n_dims == 5) {
        written.stride[1] = 1; /* one picture may stand for all frames: their gradients are added */
    }
    RF_TRY(rf_shape_check_unrepeated("gradient of patch rows", "images", &written));
    if (rf_view_n_elems(&args->images) > 0) {
        RF_TRY(s->backend->ops->patch_rows_grad(s, args));
    }
fail:
    return status;
}

rf_status rf_embed_tokens(rf_stream *s, const rf_embed_tokens_args *args)
{
    rf_status status = RF_OK;
    const rf_view *out = &args->out;
    RF_TRY(rf_shape_check("embed tokens", "out", out, RF_F32, RF_MUST_BE_GIVEN, 3,
                          (int64_t[]){-1, -1, -1}));
    RF_REQUIRE(rf_view_is_contiguous(out), "embed tokens: out is not contiguous");
    RF_TRY(rf_shape_check_2d("embed tokens", "prefix", &args->prefix, RF_MAY_BE_ABSENT, -1,
                             out->shape[2]));
    const int64_t n_prefix = args->prefix.data == NULL ? 0 : args->prefix.shape[0];
    const int64_t n_patches = out->shape[1] - n_prefix;
    RF_REQUIRE(n_patches >= 0, "embed tokens: %" PRId64 " prefix rows in %" PRId64 " tokens",
               n_prefix, out->shape[1]);
    RF_TRY(rf_shape_check_2d("embed tokens", "patches", &args->patches, RF_MUST_BE_GIVEN,
                             out->shape[0] * n_patches, out->shape[2]));
    RF_TRY(rf_shape_check_2d("embed tokens", "position", &args->position, RF_MAY_BE_ABSENT,
                             n_patches, out->shape[2]));
    if (rf_view_n_elems(out) > 0) {
        RF_TRY(s->backend->ops->embed_tokens(s, args));
    }
fail:
    return status;
}

/* How many patches a picture has, by whichever view is given. */
static int64_t embedded_patches(const rf_embed_tokens_args *args)
{
    if (args->patches.data != NULL) {
        return args->patches.shape[0] / args->out.shape[0];
    }
    if (args->position.data != NULL) {
        return args->position.shape[0];
    }
    return args->out.shape[1] - (args->prefix.data != NULL ? args->prefix.shape[0] : 0);
}

rf_status rf_embed_tokens_grad(rf_stream *s, const rf_embed_tokens_args *args)
{
    static const char *const op = "gradient of embed tokens";
    rf_status status = RF_OK;
    rf_embed_tokens_args full = *args;
    const rf_view *out = &args->out;
    RF_TRY(rf_shape_check(op, "out", out, RF_F32, RF_MUST_BE_GIVEN, 3, (int64_t[]){-1, -1, -1}));
    RF_REQUIRE(rf_view_is_contiguous(out), "%s: out is not contiguous", op);
    if (rf_view_n_elems(out) == 0) {
        return RF_OK;
    }
    const int64_t n_patches = embedded_patches(args), n_prefix = out->shape[1] - n_patches;
    RF_REQUIRE(n_prefix >= 0, "%s: %" PRId64 " patches in %" PRId64 " tokens", op, n_patches,
               out->shape[1]);
    RF_TRY(
        rf_shape_check_2d(op, "prefix", &args->prefix, RF_MAY_BE_ABSENT, n_prefix, out->shape[2]));
    RF_TRY(rf_shape_check_2d(op, "patches", &args->patches, RF_MAY_BE_ABSENT,
                             out->shape[0] * n_patches, out->shape[2]));
    RF_TRY(rf_shape_check_2d(op, "position", &args->position, RF_MAY_BE_ABSENT, n_patches,
                             out->shape[2]));
    full.prefix.shape[0] = n_prefix; /* a backend reads it there whether or not it is absent */
    RF_TRY(s->backend->ops->embed_tokens_grad(s, &full));
fail:
    return status;
}

static rf_status check_gather(const char *op, const rf_view *src, const rf_view *index,
                              const rf_view *dst)
{
    rf_status status = RF_OK;
    RF_TRY(rf_shape_check_2d(op, "src", src, RF_MUST_BE_GIVEN, -1, -1));
    RF_TRY(rf_shape_check_2d(op, "dst", dst, RF_MUST_BE_GIVEN, -1, src->shape[1]));
    RF_TRY(rf_shape_check(op, "index", index, RF_I64, RF_MUST_BE_GIVEN, 1, dst->shape));
fail:
    return status;
}

rf_status rf_gather_rows(rf_stream *s, const rf_view *src, const rf_view *index, const rf_view *dst)
{
    rf_status status = RF_OK;
    RF_TRY(check_gather("gather rows", src, index, dst));
    if (rf_view_n_elems(dst) > 0) {
        RF_TRY(s->backend->ops->gather_rows(s, src, index, dst));
    }
fail:
    return status;
}

rf_status rf_gather_rows_grad(rf_stream *s, const rf_view *dst, const rf_view *index,
                              const rf_view *src)
{
    rf_status status = RF_OK;
    RF_TRY(check_gather("gradient of gather rows", src, index, dst));
    if (rf_view_n_elems(dst) > 0) {
        RF_TRY(s->backend->ops->gather_rows_grad(s, dst, index, src));
    }
fail:
    return status;
}
