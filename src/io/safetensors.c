/* safetensors, read. A file is 8 bytes (the length of the header, little-endian), the header (JSON:
 * name -> dtype, shape, data_offsets), the data. The tensors must fill the data without a hole or
 * an overlap, as the reference implementation asks. */
#include "io_impl.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER_BYTES = 100000000 };

static rf_status parse_dtype(const json_t *value, rf_file_dtype *out)
{
    rf_status status = RF_OK;
    const char *text = json_string_value(value);
    if (text == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "its dtype is no text");
    }
    for (int i = 0; i <= RF_FILE_BOOL; i++) {
        if (strcmp(rf_file_dtype_name((rf_file_dtype)i), text) == 0) {
            *out = (rf_file_dtype)i;
            return RF_OK;
        }
    }
    RF_FAIL(RF_ERR_UNSUPPORTED,
            "its dtype is '%.40s', expected F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL",
            text);
fail:
    return status;
}

static rf_status parse_shape(const json_t *value, rf_named_tensor *t)
{
    rf_status status = RF_OK;
    size_t n = json_array_size(value);
    if (!json_is_array(value) || n > RF_FILE_MAX_DIMS) {
        RF_FAIL(RF_ERR_FORMAT, "its shape is no list of at most %d numbers", RF_FILE_MAX_DIMS);
    }
    t->n_dims = (int)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *dim = json_array_get(value, i);
        t->shape[i] = json_is_integer(dim) ? json_integer_value(dim) : -1;
        if (t->shape[i] < 0) {
            RF_FAIL(RF_ERR_FORMAT, "its shape has an entry that is no whole number >= 0");
        }
    }
    RF_TRY(rf_named_tensor_count(t));
fail:
    return status;
}

static rf_status parse_offsets(const json_t *value, const unsigned char *data, int64_t data_bytes,
                               rf_named_tensor *t)
{
    rf_status status = RF_OK;
    const json_t *b = json_array_get(value, 0), *e = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(b) || !json_is_integer(e)) {
        RF_FAIL(RF_ERR_FORMAT, "its data_offsets are no list of two whole numbers");
    }
    int64_t begin = json_integer_value(b), end = json_integer_value(e);
    if (begin < 0 || end < begin || end > data_bytes) {
        RF_FAIL(RF_ERR_FORMAT,
                "its data_offsets [%" PRId64 ", %" PRId64 "] are outside the %" PRId64
                " bytes of data (a truncated file?)",
                begin, end, data_bytes);
    }
    if (end - begin != t->n_bytes) {
        RF_FAIL(RF_ERR_FORMAT,
                "it has %" PRId64 " bytes of data, expected %" PRId64 " for its shape and dtype",
                end - begin, t->n_bytes);
    }
    t->bytes = data + begin;
fail:
    return status;
}

static rf_status add_metadata(rf_tensor_file *f, const json_t *map)
{
    rf_status status = RF_OK;
    const char *key = NULL;
    const json_t *value = NULL;
    int64_t n = f->n_metadata, n_more = (int64_t)json_object_size(map);
    char **grown = NULL;

    if (!json_is_object(map)) {
        RF_FAIL(RF_ERR_FORMAT, "__metadata__ is no map of texts");
    }
    grown = rf_realloc(f->metadata, 2 * n, 2 * (n + n_more), sizeof *grown);
    if (grown == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    f->metadata = grown;
    for (void *it = json_object_iter((json_t *)(uintptr_t)map); it != NULL;
         it = json_object_iter_next((json_t *)(uintptr_t)map, it)) {
        key = json_object_iter_key(it);
        value = json_object_iter_value(it);
        if (!json_is_string(value)) {
            RF_FAIL(RF_ERR_FORMAT, "__metadata__ '%.100s' is no text", key);
        }
        grown[2 * n] = rf_strdup(key);
        grown[2 * n + 1] = rf_strdup(json_string_value(value));
        f->n_metadata = ++n; /* also a half pair is freed */
        if (grown[2 * n - 2] == NULL || grown[2 * n - 1] == NULL) {
            return RF_ERR_NO_MEMORY;
        }
    }
fail:
    return status;
}

static int compare_bytes(const void *a, const void *b)
{
    const rf_named_tensor *s = a, *t = b;
    if (s->bytes != t->bytes) {
        return s->bytes < t->bytes ? -1 : 1;
    }
    return s->n_bytes != t->n_bytes ? (s->n_bytes < t->n_bytes ? -1 : 1) : strcmp(s->name, t->name);
}

/* Each of the tensors starts where the one before ends, and the last ends with the data. */
static rf_status check_filled(rf_named_tensor *tensors, int64_t n, const unsigned char *data,
                              int64_t data_bytes)
{
    rf_status status = RF_OK;
    const unsigned char *end = data;
    if (n > 0) {
        qsort(tensors, (size_t)n, sizeof *tensors, compare_bytes);
    }
    for (int64_t i = 0; i < n; i++) {
        const rf_named_tensor *t = &tensors[i];
        if (t->bytes != end) {
            RF_FAIL(RF_ERR_FORMAT,
                    "tensor '%.100s' starts at byte %td of the data, expected %td: %s", t->name,
                    t->bytes - data, end - data, t->bytes < end ? "tensors overlap" : "a hole");
        }
        end = t->bytes + t->n_bytes;
    }
    if (end != data + data_bytes) {
        RF_FAIL(RF_ERR_FORMAT, "%td bytes of data belong to no tensor", data + data_bytes - end);
    }
fail:
    return status;
}

static rf_status parse_header(rf_tensor_file *f, const json_t *header, const unsigned char *data,
                              int64_t data_bytes)
{
    rf_status status = RF_OK;
    int64_t first = f->n_tensors;

    for (void *it = json_object_iter((json_t *)(uintptr_t)header); it != NULL;
         it = json_object_iter_next((json_t *)(uintptr_t)header, it)) {
        const char *name = json_object_iter_key(it);
        const json_t *entry = json_object_iter_value(it);
        rf_named_tensor t = {0};
        if (strcmp(name, "__metadata__") == 0) {
            RF_TRY(add_metadata(f, entry));
            continue;
        }
        RF_TRY_DOING(parse_dtype(json_object_get(entry, "dtype"), &t.dtype), "tensor '%.100s'",
                     name);
        RF_TRY_DOING(parse_shape(json_object_get(entry, "shape"), &t), "tensor '%.100s'", name);
        RF_TRY_DOING(parse_offsets(json_object_get(entry, "data_offsets"), data, data_bytes, &t),
                     "tensor '%.100s'", name);
        RF_TRY(rf_tensor_file_add(f, name, t));
    }
    if (f->n_tensors > first) {
        RF_TRY(check_filled(f->tensors + first, f->n_tensors - first, data, data_bytes));
    } else {
        RF_TRY(check_filled(NULL, 0, data, data_bytes));
    }
fail:
    return status;
}

/* The header as JSON, and where the data starts. */
static rf_status read_header(const unsigned char *bytes, int64_t n_bytes, json_t **header,
                             int64_t *data_start)
{
    rf_status status = RF_OK;
    uint64_t n = 0;
    if (n_bytes < 8) {
        RF_FAIL(RF_ERR_FORMAT, "%" PRId64 " bytes are no safetensors file (truncated?)", n_bytes);
    }
    memcpy(&n, bytes, 8);
    if (n > MAX_HEADER_BYTES) {
        RF_FAIL(RF_ERR_FORMAT,
                "its header says %" PRIu64 " bytes, expected at most %d: not a safetensors file?",
                n, MAX_HEADER_BYTES);
    }
    if (n < 2 || (int64_t)n > n_bytes - 8) {
        RF_FAIL(RF_ERR_FORMAT,
                "its header says %" PRIu64 " bytes, but %" PRId64 " follow (a truncated file?)", n,
                n_bytes - 8);
    }
    RF_TRY(rf_json_parse((const char *)bytes + 8, (int64_t)n, "header", header));
    if (!json_is_object(*header)) {
        RF_FAIL(RF_ERR_FORMAT, "its header is no JSON map");
    }
    *data_start = 8 + (int64_t)n;
fail:
    return status;
}

rf_status rf_safetensors_parse(rf_tensor_file *f, const unsigned char *bytes, int64_t n_bytes)
{
    rf_status status = RF_OK;
    json_t *header = NULL;
    int64_t start = 0;

    RF_TRY(read_header(bytes, n_bytes, &header, &start));
    RF_TRY(parse_header(f, header, bytes + start, n_bytes - start));
fail:
    json_decref(header);
    return status;
}
