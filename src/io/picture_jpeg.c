/* JPEG by libjpeg-turbo: accurate integer DCT and smooth chroma upsampling, its defaults. Four
 * components are CMYK in Adobe's polarity (inverted), whatever the file says, as Pillow has it.
 * libjpeg reports errors by a callback that must not return: it jumps back into decode. */
#include "picture_impl.h"

#include <setjmp.h>
#include <stdio.h> /* jpeglib.h needs it first */
#include <string.h>

#include <jpeglib.h>

#include <jerror.h> /* needs jpeglib.h */

/* A progressive file may hold thousands of nearly empty scans, each a pass over the picture. */
enum { MAX_SCANS = 500 };

typedef struct reader {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf back;
    char text[JMSG_LENGTH_MAX];
    bool is_out_of_memory;
    unsigned char *row; /* [4 * width] of a CMYK picture */
} reader;

static void fail_in(reader *r, const char *text)
{
    size_t n = strnlen(text, sizeof r->text - 1);
    memcpy(r->text, text, n);
    r->text[n] = '\0';
    longjmp(r->back, 1);
}

static void on_error(j_common_ptr jpeg)
{
    reader *r = jpeg->client_data;
    char text[JMSG_LENGTH_MAX];
    /* Cases 2 and 4 are a failed malloc; the others are sizes that no honest file asks for. */
    int which = jpeg->err->msg_parm.i[0];
    r->is_out_of_memory = jpeg->err->msg_code == JERR_OUT_OF_MEMORY && (which == 2 || which == 4);
    jpeg->err->format_message(jpeg, text);
    fail_in(r, text);
}

/* Warnings tell of damage that decodes to something; Pillow lets it pass, and so do we. */
static void on_message(j_common_ptr jpeg, int level)
{
    (void)jpeg;
    (void)level;
}

static void on_scan(j_common_ptr jpeg)
{
    reader *r = jpeg->client_data;
    if (r->jpeg.input_scan_number > MAX_SCANS) {
        fail_in(r, "too many scans");
    }
}

static void source_begin(j_decompress_ptr jpeg)
{
    (void)jpeg;
}

/* The whole file was given at the start: whoever asks for more has a truncated file. */
static boolean source_more(j_decompress_ptr jpeg)
{
    fail_in(jpeg->client_data, "JPEG data ends too early");
    return FALSE;
}

static void source_skip(j_decompress_ptr jpeg, long n_bytes)
{
    if (n_bytes > 0) {
        if ((size_t)n_bytes > jpeg->src->bytes_in_buffer) {
            source_more(jpeg);
        }
        jpeg->src->next_input_byte += n_bytes;
        jpeg->src->bytes_in_buffer -= (size_t)n_bytes;
    }
}

static void source_end(j_decompress_ptr jpeg)
{
    (void)jpeg;
}

static void reader_begin(reader *r, const unsigned char *bytes, size_t n_bytes)
{
    r->jpeg.err = jpeg_std_error(&r->errors);
    r->errors.error_exit = on_error;
    r->errors.emit_message = on_message;
    r->jpeg.client_data = r;
    jpeg_create_decompress(&r->jpeg);
    r->progress.progress_monitor = on_scan;
    r->jpeg.progress = &r->progress;
    r->source = (struct jpeg_source_mgr){
        .next_input_byte = bytes,
        .bytes_in_buffer = n_bytes,
        .init_source = source_begin,
        .fill_input_buffer = source_more,
        .skip_input_data = source_skip,
        .resync_to_restart = jpeg_resync_to_restart,
        .term_source = source_end,
    };
    r->jpeg.src = &r->source;
}

/* round(a * b / 255), exact for 0..255. */
static unsigned mul_div_255(unsigned a, unsigned b)
{
    unsigned t = a * b + 128;
    return ((t >> 8) + t) >> 8;
}

static void row_from_cmyk(const unsigned char *cmyk, int64_t width, uint8_t *rgb)
{
    for (int64_t x = 0; x < width; x++) {
        unsigned white = cmyk[4 * x + 3]; /* inverted: 255 is no ink */
        for (int c = 0; c < 3; c++) {
            unsigned ink = 255U - cmyk[4 * x + c];
            rgb[3 * x + c] = (uint8_t)(white - mul_div_255(ink, white));
        }
    }
}

/* Runs between setjmp and longjmp: everything it owns hangs on `r` and `out`. */
static void read_rows(reader *r, rf_picture *out)
{
    bool is_cmyk = r->jpeg.out_color_space == JCS_CMYK;
    while (r->jpeg.output_scanline < r->jpeg.output_height) {
        uint8_t *rgb = out->rgb + 3 * out->width * (int64_t)r->jpeg.output_scanline;
        JSAMPROW row = is_cmyk ? r->row : rgb;
        jpeg_read_scanlines(&r->jpeg, &row, 1);
        if (is_cmyk) {
            row_from_cmyk(r->row, out->width, rgb);
        }
    }
}

static rf_status decode(reader *r, const unsigned char *bytes, size_t n_bytes, rf_picture *out)
{
    rf_status status = RF_OK;
    if (setjmp(r->back) != 0) {
        RF_FAIL(r->is_out_of_memory ? RF_ERR_NO_MEMORY : RF_ERR_FORMAT, "%s", r->text);
    }
    reader_begin(r, bytes, n_bytes);
    jpeg_read_header(&r->jpeg, TRUE);
    RF_TRY(rf_picture_alloc(r->jpeg.image_height, r->jpeg.image_width, out));
    r->jpeg.out_color_space = r->jpeg.num_components == 4 ? JCS_CMYK : JCS_RGB;
    if (r->jpeg.num_components == 4) {
        RF_ALLOC(r->row, 4 * out->width);
    }
    jpeg_start_decompress(&r->jpeg);
    read_rows(r, out);
fail:
    return status;
}

rf_status rf_picture_decode_jpeg(const unsigned char *bytes, size_t n_bytes, rf_picture *out)
{
    rf_status status = RF_OK;
    reader *r = NULL;
    RF_ALLOC(r, 1);
    RF_TRY(decode(r, bytes, n_bytes, out));
fail:
    if (r != NULL) {
        jpeg_destroy_decompress(&r->jpeg); /* also fine before it was created: all zero */
        rf_free(r->row);
        rf_free(r);
    }
    if (status != RF_OK) {
        rf_picture_fini(out);
    }
    return status;
}
