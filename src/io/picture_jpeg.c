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

/* What follows runs between setjmp and longjmp: everything it owns hangs on `r` and `out`. */
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

/* ---- planes ------------------------------------------------------------------------------------
 */

/* The name of this field follows the version of the interface that libjpeg was built for. */
#if JPEG_LIB_VERSION >= 70
#define BLOCK_SIDE(component) ((component)->DCT_h_scaled_size)
#else
#define BLOCK_SIDE(component) ((component)->DCT_scaled_size)
#endif

/* NONE leaves the picture to the other decoder, which may refuse it. */
static rf_planes_colour colour_of(const struct jpeg_decompress_struct *jpeg)
{
    int h = 1, v = 1;
    for (int i = 0; i < jpeg->num_components; i++) {
        h = jpeg->comp_info[i].h_samp_factor > h ? jpeg->comp_info[i].h_samp_factor : h;
        v = jpeg->comp_info[i].v_samp_factor > v ? jpeg->comp_info[i].v_samp_factor : v;
    }
    for (int i = 0; i < jpeg->num_components; i++) {
        if (h % jpeg->comp_info[i].h_samp_factor != 0 ||
            v % jpeg->comp_info[i].v_samp_factor != 0) {
            return RF_PLANES_NONE;
        }
    }
    switch (jpeg->jpeg_color_space) {
    case JCS_GRAYSCALE:
        return RF_PLANES_GREY;
    case JCS_RGB:
        return RF_PLANES_RGB;
    case JCS_YCbCr:
        return RF_PLANES_YCBCR;
    default:
        return RF_PLANES_NONE;
    }
}

/* Only the scales whose inverse DCT libjpeg-turbo has in vector instructions: those between cost
 * more than the whole size. */
static void choose_scale(struct jpeg_decompress_struct *jpeg, int64_t least_height,
                         int64_t least_width)
{
    jpeg->scale_denom = 8;
    for (jpeg->scale_num = 1; jpeg->scale_num < 8; jpeg->scale_num *= 2) {
        jpeg_calc_output_dimensions(jpeg);
        if (jpeg->output_height >= least_height && jpeg->output_width >= least_width) {
            return;
        }
    }
}

/* Sizes with whole MCUs, as libjpeg writes them. */
static rf_status lay_out(const reader *r, rf_picture_planes *out)
{
    rf_status status = RF_OK;
    const struct jpeg_decompress_struct *jpeg = &r->jpeg;
    int64_t first[3] = {0}, n_bytes = 0;
    for (int i = 0; i < out->n_planes; i++) {
        const jpeg_component_info *c = &jpeg->comp_info[i];
        const int64_t block = BLOCK_SIDE(c), h = c->h_samp_factor, v = c->v_samp_factor;
        const int64_t n_mcus = ((int64_t)c->width_in_blocks + h - 1) / h;
        const double across = (double)(h * block) / (jpeg->max_h_samp_factor * DCTSIZE);
        const double down = (double)(v * block) / (jpeg->max_v_samp_factor * DCTSIZE);
        out->planes[i] = (rf_plane){.height = c->downsampled_height,
                                    .width = c->downsampled_width,
                                    .stride = n_mcus * h * block,
                                    .cover_height = (double)out->height * down,
                                    .cover_width = (double)out->width * across};
        first[i] = n_bytes;
        n_bytes += out->planes[i].stride * jpeg->total_iMCU_rows * v * block;
    }
    if (out->capacity < n_bytes) {
        rf_free(out->memory);
        out->capacity = 0;
        RF_ALLOC(out->memory, n_bytes);
        out->capacity = n_bytes;
    }
    for (int i = 0; i < out->n_planes; i++) {
        out->planes[i].bytes = out->memory + first[i];
    }
fail:
    return status;
}

static void read_planes(reader *r, const rf_picture_planes *out)
{
    JSAMPROW rows[3][MAX_SAMP_FACTOR * DCTSIZE];
    JSAMPARRAY planes[3] = {rows[0], rows[1], rows[2]};
    const JDIMENSION n_lines = MAX_SAMP_FACTOR * DCTSIZE; /* room; a call gives one row of MCUs */
    for (int64_t mcu = 0; mcu < r->jpeg.total_iMCU_rows; mcu++) {
        for (int i = 0; i < out->n_planes; i++) {
            const jpeg_component_info *c = &r->jpeg.comp_info[i];
            const int64_t n = c->v_samp_factor * BLOCK_SIDE(c);
            const int64_t at =
                (out->planes[i].bytes - out->memory) + mcu * n * out->planes[i].stride;
            for (int64_t y = 0; y < n; y++) {
                rows[i][y] = out->memory + at + y * out->planes[i].stride;
            }
        }
        jpeg_read_raw_data(&r->jpeg, planes, n_lines);
    }
}

static rf_status decode_planes(reader *r, const unsigned char *bytes, size_t n_bytes,
                               int64_t least_height, int64_t least_width, rf_picture_planes *out)
{
    rf_status status = RF_OK;
    if (setjmp(r->back) != 0) {
        RF_FAIL(r->is_out_of_memory ? RF_ERR_NO_MEMORY : RF_ERR_FORMAT, "%s", r->text);
    }
    reader_begin(r, bytes, n_bytes);
    jpeg_read_header(&r->jpeg, TRUE);
    RF_TRY(rf_picture_check_size(r->jpeg.image_height, r->jpeg.image_width));
    out->height = r->jpeg.image_height;
    out->width = r->jpeg.image_width;
    out->colour = colour_of(&r->jpeg);
    if (out->colour != RF_PLANES_NONE) {
        out->n_planes = r->jpeg.num_components;
        choose_scale(&r->jpeg, least_height, least_width);
        r->jpeg.raw_data_out = TRUE;
        jpeg_start_decompress(&r->jpeg);
        RF_TRY(lay_out(r, out));
        read_planes(r, out);
    }
fail:
    return status;
}

static void reader_free(reader *r)
{
    if (r != NULL) {
        jpeg_destroy_decompress(&r->jpeg); /* also fine before it was created: all zero */
        rf_free(r->row);
        rf_free(r);
    }
}

rf_status rf_picture_decode_jpeg(const unsigned char *bytes, size_t n_bytes, rf_picture *out)
{
    rf_status status = RF_OK;
    reader *r = NULL;
    RF_ALLOC(r, 1);
    RF_TRY(decode(r, bytes, n_bytes, out));
fail:
    reader_free(r);
    if (status != RF_OK) {
        rf_picture_fini(out);
    }
    return status;
}

rf_status rf_picture_decode_jpeg_planes(const unsigned char *bytes, size_t n_bytes,
                                        int64_t least_height, int64_t least_width,
                                        rf_picture_planes *out)
{
    rf_status status = RF_OK;
    reader *r = NULL;
    RF_ALLOC(r, 1);
    RF_TRY(decode_planes(r, bytes, n_bytes, least_height, least_width, out));
fail:
    reader_free(r);
    return status;
}
