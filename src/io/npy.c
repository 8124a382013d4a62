/* npy: one array of NumPy. A file is 6 bytes of magic, the version (2), the length of the header (2
 * bytes in version 1, else 4), the header, the data. The header is a literal of Python,
 * {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }, in any order of keys. */
#include "io_impl.h"

#include <ctype.h>
#include <string.h>

enum { MAX_HEADER_BYTES = 65536, MAGIC_BYTES = 6 };

/* What is left of the header. */
typedef struct text {
    const unsigned char *at, *end;
} text;

static const struct {
    const char *descr;
    rf_file_dtype dtype;
} descrs[] = {
    {"<f8", RF_FILE_F64}, {"<f4", RF_FILE_F32}, {"<f2", RF_FILE_F16},
    {"<i8", RF_FILE_I64}, {"<i4", RF_FILE_I32}, {"<i2", RF_FILE_I16},
    {"|i1", RF_FILE_I8},  {"|u1", RF_FILE_U8},  {"|b1", RF_FILE_BOOL},
};

static void skip_space(text *s)
{
    while (s->at < s->end && isspace(*s->at)) {
        s->at++;
    }
}

/* Take `c` and the space around it, if it is next. */
static bool take(text *s, char c)
{
    skip_space(s);
    if (s->at == s->end || *s->at != (unsigned char)c) {
        return false;
    }
    s->at++;
    skip_space(s);
    return true;
}

static rf_status expect(text *s, char c)
{
    rf_status status = RF_OK;
    if (!take(s, c)) {
        RF_FAIL(RF_ERR_FORMAT, "its header has no '%c' where one must be", c);
    }
fail:
    return status;
}

/* A text in single or double quotes; what a text here never has (escapes) is refused. */
static rf_status take_text(text *s, char out[32])
{
    rf_status status = RF_OK;
    char quote = take(s, '"') ? '"' : '\'';
    int n = 0;
    if (quote == '\'') {
        RF_TRY(expect(s, quote));
    }
    while (s->at < s->end && *s->at != (unsigned char)quote) {
        if (n == 31 || *s->at == '\\' || !isprint(*s->at)) {
            RF_FAIL(RF_ERR_FORMAT, "its header has a text that is none of an npy file");
        }
        out[n++] = (char)*s->at++;
    }
    out[n] = '\0';
    RF_TRY(expect(s, quote));
fail:
    return status;
}

static rf_status take_word(text *s, char out[32])
{
    rf_status status = RF_OK;
    int n = 0;
    skip_space(s);
    while (s->at < s->end && n < 31 && (isalnum(*s->at) || *s->at == '-')) {
        out[n++] = (char)*s->at++;
    }
    out[n] = '\0';
    if (n == 0) {
        RF_FAIL(RF_ERR_FORMAT, "its header has no value where one must be");
    }
fail:
    return status;
}

static rf_status take_dtype(text *s, rf_named_tensor *t)
{
    rf_status status = RF_OK;
    char descr[32];
    if (take(s, '[')) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "its elements are records");
    }
    RF_TRY(take_text(s, descr));
    for (size_t i = 0; i < sizeof descrs / sizeof *descrs; i++) {
        if (strcmp(descrs[i].descr, descr) == 0) {
            t->dtype = descrs[i].dtype;
            return RF_OK;
        }
    }
    if (strchr(descr, 'O') != NULL) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "its elements are Python objects, which are never read");
    }
    RF_FAIL(RF_ERR_UNSUPPORTED,
            "its elements are '%s', expected <f8, <f4, <f2, <i8, <i4, <i2, |i1, |u1 or |b1", descr);
fail:
    return status;
}

static rf_status take_shape(text *s, rf_named_tensor *t)
{
    rf_status status = RF_OK;
    char word[32];
    RF_TRY(expect(s, '('));
    while (!take(s, ')')) {
        if (t->n_dims == RF_FILE_MAX_DIMS) {
            RF_FAIL(RF_ERR_UNSUPPORTED, "it has more than %d dimensions", RF_FILE_MAX_DIMS);
        }
        int64_t *size = &t->shape[t->n_dims++];
        RF_TRY(take_word(s, word));
        if (rf_parse_i64(word, size) != RF_OK || *size < 0) {
            RF_FAIL(RF_ERR_FORMAT, "its shape has '%s', expected a whole number >= 0", word);
        }
        if (!take(s, ',')) {
            RF_TRY(expect(s, ')'));
            break;
        }
    }
fail:
    return status;
}

static rf_status take_order(text *s, bool *is_fortran)
{
    rf_status status = RF_OK;
    char word[32];
    RF_TRY(take_word(s, word));
    *is_fortran = strcmp(word, "True") == 0;
    if (!*is_fortran && strcmp(word, "False") != 0) {
        RF_FAIL(RF_ERR_FORMAT, "its fortran_order is '%s', expected True or False", word);
    }
fail:
    return status;
}

/* dtype, shape and order; each key once. */
static rf_status parse_header(text s, rf_named_tensor *t, bool *is_fortran)
{
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    rf_status status = RF_OK;
    char key[32];
    bool seen[3] = {false, false, false};

    RF_TRY(expect(&s, '{'));
    while (!take(&s, '}')) {
        int k = 0;
        RF_TRY(take_text(&s, key));
        while (k < 3 && strcmp(keys[k], key) != 0) {
            k++;
        }
        if (k == 3 || seen[k]) {
            RF_FAIL(RF_ERR_FORMAT, "its header has a key '%s'%s", key, k == 3 ? "" : " twice");
        }
        seen[k] = true;
        RF_TRY(expect(&s, ':'));
        RF_TRY(k == 0   ? take_dtype(&s, t)
               : k == 1 ? take_order(&s, is_fortran)
                        : take_shape(&s, t));
        if (!take(&s, ',')) {
            RF_TRY(expect(&s, '}'));
            break;
        }
    }
    skip_space(&s);
    if (!seen[0] || !seen[1] || !seen[2] || s.at != s.end) {
        RF_FAIL(RF_ERR_FORMAT, "its header is not one of descr, fortran_order and shape");
    }
fail:
    return status;
}

/* The header of the file's `bytes`, and its data, all of it: which is not looked at. */
static rf_status parse(const unsigned char *bytes, int64_t n_bytes, rf_named_tensor *t,
                       bool *is_fortran)
{
    rf_status status = RF_OK;
    if (n_bytes < MAGIC_BYTES + 4 || memcmp(bytes, "\x93NUMPY", MAGIC_BYTES) != 0) {
        RF_FAIL(RF_ERR_FORMAT, "it is no npy file");
    }
    int version = bytes[MAGIC_BYTES], width = version == 1 ? 2 : 4;
    int64_t start = MAGIC_BYTES + 2 + width, header = 0;
    if (version < 1 || version > 3) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "its version is %d, expected 1, 2 or 3", version);
    }
    if (n_bytes >= start) {
        memcpy(&header, bytes + MAGIC_BYTES + 2, (size_t)width);
    }
    if (n_bytes < start || header > n_bytes - start || header > MAX_HEADER_BYTES) {
        RF_FAIL(RF_ERR_FORMAT, "its header says %" PRId64 " bytes, but %" PRId64 " follow", header,
                n_bytes - start);
    }
    RF_TRY(parse_header((text){bytes + start, bytes + start + header}, t, is_fortran));
    RF_TRY(rf_named_tensor_count(t));
    if (t->n_bytes != n_bytes - start - header) {
        RF_FAIL(RF_ERR_FORMAT,
                "its data has %" PRId64 " bytes, expected %" PRId64 " for its shape (truncated?)",
                n_bytes - start - header, t->n_bytes);
    }
    t->bytes = bytes + start + header;
fail:
    return status;
}

/* The elements of `t`, whose first index runs fastest, in row-major order. */
static rf_status reorder(rf_named_tensor *t, unsigned char **block)
{
    rf_status status = RF_OK;
    int64_t stride[RF_FILE_MAX_DIMS] = {0}, next = 1;
    for (int d = 0; d < t->n_dims && t->n_elems > 0; d++) {
        stride[d] = next;
        next *= t->shape[d];
    }
    RF_ALLOC(*block, t->n_bytes);
    rf_tensor_gather(t->bytes, rf_file_dtype_bytes(t->dtype), t->n_dims, t->shape, stride, *block);
    t->bytes = *block;
fail:
    return status;
}

static rf_status read_f32(const unsigned char *bytes, int64_t n_bytes, int max_dims, int *n_dims,
                          int64_t *shape, float **out)
{
    rf_status status = RF_OK;
    rf_named_tensor t = {.name = "array"};
    unsigned char *block = NULL;
    float *values = NULL;
    bool is_fortran = false;

    RF_TRY(parse(bytes, n_bytes, &t, &is_fortran));
    if (t.n_dims > max_dims) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "it has %d dimensions, expected at most %d", t.n_dims,
                max_dims);
    }
    if (is_fortran && t.n_dims > 1) {
        RF_TRY(reorder(&t, &block));
    }
    RF_ALLOC(values, t.n_elems);
    RF_TRY(rf_named_tensor_read_f32(&t, values));
    *n_dims = t.n_dims;
    for (int d = 0; d < t.n_dims; d++) {
        shape[d] = t.shape[d];
    }
    *out = values;
    values = NULL;
fail:
    rf_free(values);
    rf_free(block);
    return status;
}

rf_status rf_npy_parse_f32(const void *bytes, int64_t n_bytes, const char *name, int max_dims,
                           int *n_dims, int64_t *shape, float **out)
{
    rf_status status = RF_OK;
    *out = NULL;
    RF_TRY_DOING(read_f32(bytes, n_bytes, max_dims, n_dims, shape, out), "'%s'", name);
fail:
    return status;
}

rf_status rf_npy_describe(const rf_raw_file *f, const char *name, rf_named_tensor *out,
                          int64_t *offset)
{
    rf_status status = RF_OK;
    bool is_fortran = false;
    unsigned char *head = NULL;
    int64_t n_bytes = 0;

    *out = (rf_named_tensor){.name = "array"};
    RF_TRY(rf_raw_file_size(f, &n_bytes));
    const int64_t n_head = rf_min_i64(n_bytes, MAGIC_BYTES + 6 + MAX_HEADER_BYTES);
    RF_ALLOC(head, n_head);
    RF_TRY(rf_raw_file_read(f, 0, head, n_head));
    RF_TRY_DOING(parse(head, n_bytes, out, &is_fortran), "'%s'", name);
    *offset = out->bytes - head;
    out->bytes = NULL;
    if (is_fortran && out->n_dims > 1) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "'%s' is in Fortran's order; save it again through numpy.ascontiguousarray", name);
    }
fail:
    rf_free(head);
    return status;
}

rf_status rf_npy_read_f32(const char *path, int max_dims, int *n_dims, int64_t *shape, float **out)
{
    rf_status status = RF_OK;
    rf_file_map map = {0};
    *out = NULL;
    RF_TRY(rf_file_map_open(path, &map));
    RF_TRY(rf_npy_parse_f32(map.bytes, map.n_bytes, path, max_dims, n_dims, shape, out));
fail:
    rf_file_map_close(&map);
    return status;
}
