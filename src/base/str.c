/* Growing text, strict numbers, checked casts and formats for people. */
#include "refract/base.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static rf_status reserve(rf_str *s, int64_t n_more)
{
    rf_status status = RF_OK;
    if (s->len + n_more + 1 > s->cap) {
        int64_t cap = rf_max_i64(2 * s->cap, s->len + n_more + 1);
        char *data = rf_realloc(s->data, s->cap, cap, 1);
        if (data == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        s->data = data;
        s->cap = cap;
    }
    return status;
}

rf_status rf_str_append_bytes(rf_str *s, const void *bytes, int64_t n)
{
    rf_status status = reserve(s, n);
    if (status == RF_OK && n > 0) {
        memcpy(s->data + s->len, bytes, (size_t)n);
        s->len += n;
        s->data[s->len] = '\0';
    }
    return status;
}

rf_status rf_str_append(rf_str *s, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    rf_status status = n < 0 ? RF_ERR_INVALID_ARG : reserve(s, n);
    if (status == RF_OK) {
        vsnprintf(s->data + s->len, (size_t)n + 1, fmt, again);
        s->len += n;
    }
    va_end(again);
    return status;
}

void rf_str_fini(rf_str *s)
{
    rf_free(s->data);
    *s = (rf_str){0};
}

rf_status rf_format(char *out, size_t out_bytes, const char *fmt, ...)
{
    rf_status status = RF_OK;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(out, out_bytes, fmt, args);
    va_end(args);
    RF_REQUIRE(n >= 0 && (size_t)n < out_bytes, "'%.60s...' does not fit into %zu bytes", out,
               out_bytes);
fail:
    return status;
}

char *rf_strdup(const char *text)
{
    int64_t n = (int64_t)strlen(text) + 1;
    char *copy = rf_calloc(n, 1);
    if (copy != NULL) {
        memcpy(copy, text, (size_t)n);
    }
    return copy;
}

int64_t rf_str_distance(const char *a, const char *b)
{
    enum { MAX = 128 };
    int64_t n = (int64_t)strnlen(a, MAX), m = (int64_t)strnlen(b, MAX), row[MAX + 1];
    for (int64_t j = 0; j <= m; j++) {
        row[j] = j;
    }
    for (int64_t i = 1; i <= n; i++) {
        int64_t diagonal = row[0];
        row[0] = i;
        for (int64_t j = 1; j <= m; j++) {
            int64_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = rf_min_i64(replaced, 1 + rf_min_i64(row[j], row[j - 1]));
        }
    }
    return row[m];
}

/* strtod and strtoll also take space in front, hexadecimal, "inf" and "nan". */
static bool is_plain_number(const char *text)
{
    return text[strspn(text, "0123456789+-.eE")] == '\0';
}

rf_status rf_parse_f64(const char *text, double *out)
{
    rf_status status = RF_OK;
    char *end = NULL;
    double v = strtod(text, &end);
    RF_REQUIRE(is_plain_number(text) && end != text && *end == '\0', "'%s' is not a number", text);
    RF_REQUIRE(isfinite(v), "'%s' is not a finite number", text);
    *out = v;
fail:
    return status;
}

rf_status rf_parse_i64(const char *text, int64_t *out)
{
    rf_status status = RF_OK;
    char *end = NULL;
    double v = 0;
    errno = 0;
    long long whole = strtoll(text, &end, 10);
    if (end != text && *end == '\0' && errno == 0 && is_plain_number(text)) {
        *out = whole;
        return RF_OK;
    }
    RF_TRY(rf_parse_f64(text, &v));
    RF_REQUIRE(v == rint(v), "'%s' is not a whole number", text);
    RF_REQUIRE(fabs(v) <= 0x1p53, "'%s' is too large to be exact", text);
    *out = (int64_t)v;
fail:
    return status;
}

rf_status rf_cast_int(int64_t v, const char *what, int *out)
{
    rf_status status = RF_OK;
    RF_REQUIRE(v >= INT_MIN && v <= INT_MAX, "%s = %" PRId64 " does not fit 32 bits", what, v);
    *out = (int)v;
fail:
    return status;
}

rf_status rf_mul_i64(int64_t a, int64_t b, const char *what, int64_t *out)
{
    rf_status status = RF_OK;
    RF_REQUIRE(!__builtin_mul_overflow(a, b, out), "%s: %" PRId64 " x %" PRId64 " overflows", what,
               a, b);
fail:
    return status;
}

void rf_format_duration(double seconds, char *out)
{
    int64_t s = seconds > 0 && seconds < 1e15 ? (int64_t)(seconds + 0.5) : 0;
    if (s < 60) {
        snprintf(out, 32, "%" PRId64 "s", s);
    } else if (s < 3600) {
        snprintf(out, 32, "%" PRId64 "m %02" PRId64 "s", s / 60, s % 60);
    } else {
        snprintf(out, 32, "%" PRId64 "h %02" PRId64 "m", s / 3600, s / 60 % 60);
    }
}

void rf_format_bytes(double bytes, char *out)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    int u = 0;
    while (bytes >= (u == 0 ? 999.5 : 999.995) && u < 5) { /* never "1000.00 kB" */
        bytes /= 1000;
        u++;
    }
    snprintf(out, 32, u == 0 ? "%.0f %s" : "%.2f %s", bytes, units[u]);
}
