/* JSON: read through jansson, written as text. */
#include "io_impl.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

enum { MAX_FILE_BYTES = 1 << 28 };

rf_status rf_json_parse(const char *text, int64_t n_bytes, const char *name, rf_json **out)
{
    rf_status status = RF_OK;
    json_error_t error;

    *out = NULL;
    RF_REQUIRE(n_bytes >= 0, "n_bytes = %" PRId64 ", expected >= 0", n_bytes);
    *out = json_loadb(text, (size_t)n_bytes, JSON_REJECT_DUPLICATES, &error);
    if (*out == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "%s:%d:%d: not valid JSON: %s", name, error.line, error.column,
                error.text);
    }
fail:
    return status;
}

rf_status rf_json_load(const char *path, rf_json **out)
{
    rf_status status = RF_OK;
    char *text = NULL;
    int64_t n_bytes = 0;

    *out = NULL;
    RF_TRY(rf_file_read(path, MAX_FILE_BYTES, &text, &n_bytes));
    RF_TRY(rf_json_parse(text, n_bytes, path, out));
fail:
    rf_free(text);
    return status;
}

void rf_json_free(rf_json *root)
{
    json_decref(root);
}

const rf_json *rf_json_find(const rf_json *object, const char *key)
{
    const rf_json *whole = json_object_get(object, key);
    const char *dot = strchr(key, '.');
    if (whole != NULL || dot == NULL) {
        return whole;
    }
    char head[RF_NAME_LEN];
    if (rf_format(head, sizeof head, "%.*s", (int)(dot - key), key) != RF_OK) {
        return NULL;
    }
    const rf_json *child = json_object_get(object, head);
    return child != NULL ? rf_json_find(child, dot + 1) : NULL;
}

/* `value` shortened to what fits a message. */
static void describe(const rf_json *value, char out[64])
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    size_t n = text != NULL ? strlen(text) : 0;
    if (n < 64) {
        memcpy(out, text != NULL ? text : "", n + 1);
    } else {
        memcpy(out, text, 60);
        memcpy(out + 60, "...", 4);
    }
    free(text); /* allocated by jansson */
}

static rf_status raise_type(const rf_json *value, const char *key, const char *expected)
{
    char got[64];
    describe(value, got);
    return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__, "key '%s' is %s, expected %s", key,
                          got, expected);
}

/* The value of `key`, or NULL where it is absent or null; then NOT_FOUND unless `has_fallback`. */
static rf_status get(const rf_json *object, const char *key, bool has_fallback,
                     const char *expected, const rf_json **out)
{
    *out = rf_json_find(object, key);
    if (json_is_null(*out)) {
        *out = NULL;
    }
    if (*out == NULL && !has_fallback) {
        rf_error_raise(RF_ERR_NOT_FOUND, __FILE__, __LINE__, "key '%s' is missing, expected %s",
                       key, expected);
        return RF_ERR_NOT_FOUND;
    }
    return RF_OK;
}

rf_status rf_json_get_i64(const rf_json *object, const char *key, const int64_t *fallback,
                          int64_t *out)
{
    static const char expected[] = "a whole number";
    const rf_json *value = NULL;
    rf_status status = get(object, key, fallback != NULL, expected, &value);
    if (status != RF_OK) {
        return status;
    }
    if (value == NULL) {
        *out = *fallback;
    } else if (json_is_integer(value)) {
        *out = json_integer_value(value);
    } else {
        double v = json_is_real(value) ? json_real_value(value) : NAN;
        if (!(v == rint(v) && fabs(v) <= 0x1p53)) {
            return raise_type(value, key, expected);
        }
        *out = (int64_t)v;
    }
    return RF_OK;
}

rf_status rf_json_get_f64(const rf_json *object, const char *key, const double *fallback,
                          double *out)
{
    static const char expected[] = "a number";
    const rf_json *value = NULL;
    rf_status status = get(object, key, fallback != NULL, expected, &value);
    if (status != RF_OK) {
        return status;
    }
    if (value != NULL && !json_is_number(value)) {
        return raise_type(value, key, expected);
    }
    *out = value != NULL ? json_number_value(value) : *fallback;
    return RF_OK;
}

rf_status rf_json_get_bool(const rf_json *object, const char *key, const bool *fallback, bool *out)
{
    static const char expected[] = "true or false";
    const rf_json *value = NULL;
    rf_status status = get(object, key, fallback != NULL, expected, &value);
    if (status != RF_OK) {
        return status;
    }
    if (value != NULL && !json_is_boolean(value)) {
        return raise_type(value, key, expected);
    }
    *out = value != NULL ? json_is_true(value) : *fallback;
    return RF_OK;
}

rf_status rf_json_get_str(const rf_json *object, const char *key, const char *fallback,
                          const char **out)
{
    static const char expected[] = "a text";
    const rf_json *value = NULL;
    rf_status status = get(object, key, fallback != NULL, expected, &value);
    if (status != RF_OK) {
        return status;
    }
    if (value != NULL && !json_is_string(value)) {
        return raise_type(value, key, expected);
    }
    *out = value != NULL ? json_string_value(value) : fallback;
    return RF_OK;
}

/* Bytes of the UTF-8 character at `p` (which ends in '\0') and its code point; 0 if it is none. */
static int decode_utf8(const unsigned char *p, uint32_t *code)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    int n = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
    *code = n == 1 ? p[0] : n > 1 ? p[0] & (0x7fU >> n) : 0;
    for (int i = 1; i < n; i++) {
        if (p[i] >> 6 != 2) {
            return 0;
        }
        *code = *code << 6 | (p[i] & 0x3fU);
    }
    bool is_surrogate = *code >= 0xd800 && *code < 0xe000;
    return *code < least[n] || *code > 0x10ffff || is_surrogate ? 0 : n;
}

/* What JSON forbids bare, and what YAML refuses to read (settings are printed by this too). */
static bool must_escape(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x2028 || code == 0x2029 ||
           code == 0xfeff || code == 0xfffe || code == 0xffff;
}

rf_status rf_json_append_str(rf_str *out, const char *text)
{
    rf_status status = rf_str_append(out, "\"");
    for (const unsigned char *p = (const unsigned char *)text; status == RF_OK && *p != '\0';) {
        uint32_t code = 0;
        int n = decode_utf8(p, &code);
        if (n == 0) {
            status = rf_str_append(out, "\\ufffd");
            n = 1;
        } else if (code == '"' || code == '\\') {
            status = rf_str_append(out, "\\%c", (int)code);
        } else if (code == '\n') {
            status = rf_str_append(out, "\\n");
        } else if (must_escape(code)) {
            status = rf_str_append(out, "\\u%04x", code);
        } else {
            status = rf_str_append_bytes(out, p, n);
        }
        p += n;
    }
    return status == RF_OK ? rf_str_append(out, "\"") : status;
}

rf_status rf_json_append_f64(rf_str *out, double value)
{
    return isfinite(value) ? rf_str_append(out, "%.17g", value) : rf_str_append(out, "null");
}
