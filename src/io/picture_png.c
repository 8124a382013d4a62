/* PNG by libpng, to RGB as Pillow converts: alpha and tRNS are dropped, 16-bit colours keep their
 * high byte, 16-bit grey is clipped to 0..255, palette entries that the file lacks are black.
 * libpng reports errors by a callback that must not return: it jumps back into decode. */
#include "picture_impl.h"

#include <setjmp.h>
#include <string.h>

#include <png.h>

typedef struct reader {
    png_structp png;
    png_infop info;
    const unsigned char *bytes;
    size_t n_left;
    jmp_buf back;
    char text[128];
    uint8_t *native;      /* [height, width * native_bytes] where rows are not RGB yet */
    int64_t native_bytes; /* of one pixel: 1 palette, 2 grey of 16 bits, 3 RGB */
    png_bytepp rows;      /* [height] */
} reader;

static void on_error(png_structp png, png_const_charp text)
{
    reader *r = png_get_error_ptr(png);
    size_t n = strnlen(text, sizeof r->text - 1);
    memcpy(r->text, text, n);
    r->text[n] = '\0';
    longjmp(r->back, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

static void on_read(png_structp png, png_bytep out, size_t n)
{
    reader *r = png_get_io_ptr(png);
    if (n > r->n_left) {
        png_error(png, "PNG data ends too early");
    }
    memcpy(out, r->bytes, n);
    r->bytes += n;
    r->n_left -= n;
}

/* Deflate shrinks 1032-fold at most: a header that promises more than the file can hold is found
 * before memory for its pixels is taken. */
static rf_status check_size(const reader *r)
{
    rf_status status = RF_OK;
    double need =
        (double)png_get_rowbytes(r->png, r->info) * (double)png_get_image_height(r->png, r->info);
    if (need > 1032.0 * ((double)r->n_left + 16.0)) {
        RF_FAIL(RF_ERR_FORMAT, "the header says %u x %u pixels, more than the file can hold",
                (unsigned)png_get_image_width(r->png, r->info),
                (unsigned)png_get_image_height(r->png, r->info));
    }
fail:
    return status;
}

static void ask_for_native(reader *r)
{
    int color = png_get_color_type(r->png, r->info);
    int depth = png_get_bit_depth(r->png, r->info);
    png_set_interlace_handling(r->png);
    if (color == PNG_COLOR_TYPE_PALETTE) {
        png_set_packing(r->png);
        r->native_bytes = 1;
    } else if (color == PNG_COLOR_TYPE_GRAY && depth == 16) {
        r->native_bytes = 2;
    } else {
        png_set_expand_gray_1_2_4_to_8(r->png);
        png_set_strip_16(r->png);
        png_set_strip_alpha(r->png);
        png_set_gray_to_rgb(r->png);
        r->native_bytes = 3;
    }
    png_read_update_info(r->png, r->info);
}

static void convert_palette(const reader *r, rf_picture *out)
{
    uint8_t table[256][3] = {{0}};
    png_colorp colors = NULL;
    int n_colors = 0;
    png_get_PLTE(r->png, r->info, &colors, &n_colors);
    for (int i = 0; i < n_colors && i < 256; i++) {
        table[i][0] = colors[i].red;
        table[i][1] = colors[i].green;
        table[i][2] = colors[i].blue;
    }
    for (int64_t i = 0; i < out->height * out->width; i++) {
        memcpy(out->rgb + 3 * i, table[r->native[i]], 3);
    }
}

static void convert_grey16(const reader *r, rf_picture *out)
{
    for (int64_t i = 0; i < out->height * out->width; i++) {
        uint8_t v = r->native[2 * i] != 0 ? 255 : r->native[2 * i + 1];
        memset(out->rgb + 3 * i, v, 3);
    }
}

static rf_status decode(reader *r, rf_picture *out)
{
    rf_status status = RF_OK;
    if (setjmp(r->back) != 0) {
        RF_FAIL(RF_ERR_FORMAT, "%s", r->text);
    }
    png_set_read_fn(r->png, r, on_read);
    png_set_user_limits(r->png, 0x7fffffff, 0x7fffffff); /* rf_picture_alloc has the last word */
    png_read_info(r->png, r->info);
    RF_TRY(check_size(r));
    RF_TRY(rf_picture_alloc(png_get_image_height(r->png, r->info),
                            png_get_image_width(r->png, r->info), out));
    ask_for_native(r);
    int64_t row_bytes = r->native_bytes * out->width;
    RF_BUG(row_bytes == (int64_t)png_get_rowbytes(r->png, r->info), "a row has %zu bytes",
           png_get_rowbytes(r->png, r->info));
    if (r->native_bytes != 3) {
        RF_ALLOC(r->native, row_bytes * out->height);
    }
    RF_ALLOC(r->rows, out->height);
    for (int64_t y = 0; y < out->height; y++) {
        r->rows[y] = (r->native_bytes != 3 ? r->native : out->rgb) + y * row_bytes;
    }
    png_read_image(r->png, r->rows);
    if (r->native_bytes == 1) {
        convert_palette(r, out);
    } else if (r->native_bytes == 2) {
        convert_grey16(r, out);
    }
fail:
    return status;
}

rf_status rf_picture_decode_png(const unsigned char *bytes, size_t n_bytes, rf_picture *out)
{
    rf_status status = RF_OK;
    reader *r = NULL;
    RF_ALLOC(r, 1);
    r->bytes = bytes;
    r->n_left = n_bytes;
    r->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, r, on_error, on_warning);
    r->info = r->png != NULL ? png_create_info_struct(r->png) : NULL;
    if (r->info == NULL) {
        RF_FAIL(RF_ERR_NO_MEMORY, "libpng cannot start");
    }
    RF_TRY(decode(r, out));
fail:
    if (r != NULL) {
        png_destroy_read_struct(&r->png, &r->info, NULL); /* a NULL png is fine */
        rf_free(r->rows);
        rf_free(r->native);
        rf_free(r);
    }
    if (status != RF_OK) {
        rf_picture_fini(out);
    }
    return status;
}

/* ---- writing ---- */

typedef struct writer {
    rf_str bytes;
    jmp_buf back;
    char text[128];
} writer;

static void on_write_error(png_structp png, png_const_charp text)
{
    writer *w = png_get_error_ptr(png);
    size_t n = strnlen(text, sizeof w->text - 1);
    memcpy(w->text, text, n);
    w->text[n] = '\0';
    longjmp(w->back, 1);
}

static void on_write(png_structp png, png_bytep bytes, size_t n)
{
    writer *w = png_get_io_ptr(png);
    if (rf_str_append_bytes(&w->bytes, bytes, (int64_t)n) != RF_OK) {
        png_error(png, "out of memory");
    }
}

static void on_flush(png_structp png)
{
    (void)png;
}

static rf_status encode(png_structp png, png_infop info, writer *w, const rf_picture *p)
{
    rf_status status = RF_OK;
    if (setjmp(w->back) != 0) {
        RF_FAIL(RF_ERR_IO, "cannot encode a PNG: %s", w->text);
    }
    png_set_write_fn(png, w, on_write, on_flush);
    png_set_IHDR(png, info, (png_uint_32)p->width, (png_uint_32)p->height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (int64_t y = 0; y < p->height; y++) {
        png_write_row(png, p->rgb + 3 * p->width * y);
    }
    png_write_end(png, info);
fail:
    return status;
}

rf_status rf_picture_write_png(const char *path, const rf_picture *p)
{
    rf_status status = RF_OK;
    writer *w = NULL;
    png_structp png = NULL;
    png_infop info = NULL;
    RF_REQUIRE(p->height >= 1 && p->width >= 1 && p->height <= INT32_MAX && p->width <= INT32_MAX,
               "a picture of %" PRId64 " x %" PRId64 " pixels", p->width, p->height);
    RF_ALLOC(w, 1);
    png = png_create_write_struct(PNG_LIBPNG_VER_STRING, w, on_write_error, on_warning);
    info = png != NULL ? png_create_info_struct(png) : NULL;
    if (info == NULL) {
        RF_FAIL(RF_ERR_NO_MEMORY, "libpng cannot start");
    }
    RF_TRY(encode(png, info, w, p));
    RF_TRY(rf_file_write_atomic(path, w->bytes.data, w->bytes.len));
fail:
    png_destroy_write_struct(&png, &info); /* a NULL png is fine */
    if (w != NULL) {
        rf_str_fini(&w->bytes);
        rf_free(w);
    }
    return status;
}
