/* Text that is safe in a page, and numbers that fit one. */
#include "report_impl.h"

#include <math.h>
#include <string.h>
#include <utf8proc.h>

/* What must not stand as it is, or NULL. */
static const char *entity_of(utf8proc_int32_t code)
{
    switch (code) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    case '\t':
    case '\n':
        return NULL;
    default:
        break;
    }
    /* Controls, and those that turn the direction of the text around them. */
    const bool is_control = code < 0x20 || (code >= 0x7f && code < 0xa0);
    const bool turns = (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
    return is_control || turns ? "\xef\xbf\xbd" : NULL;
}

rf_status rf_html_append(rf_str *out, const char *text)
{
    rf_status status = RF_OK;
    const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)text;
    utf8proc_ssize_t left = (utf8proc_ssize_t)strlen(text), n = 0;
    for (; left > 0; p += n, left -= n) {
        utf8proc_int32_t code = -1;
        n = utf8proc_iterate(p, left, &code);
        const char *entity = n < 1 ? "\xef\xbf\xbd" : entity_of(code);
        n = n < 1 ? 1 : n;
        if (entity != NULL) {
            RF_TRY(rf_str_append(out, "%s", entity));
        } else {
            RF_TRY(rf_str_append_bytes(out, p, n));
        }
    }
fail:
    return status;
}

void rf_html_short(double value, char out[32])
{
    static const struct {
        double least, unit;
        const char *letter;
    } units[] = {{999.95e9, 1e12, "T"},
                 {999.95e6, 1e9, "G"},
                 {999.95e3, 1e6, "M"},
                 {9999.5, 1e3, "k"},
                 {0, 1, ""}};
    const double size = fabs(value);
    int i = 0;
    if (!isfinite(value) || size >= 1e15) {
        (void)rf_format(out, 32, isnan(value) ? "n/a" : "%.3g", value);
        return;
    }
    if (size > 0 && size < 1e-3) {
        (void)rf_format(out, 32, "%.2g", value);
        return;
    }
    while (size < units[i].least) {
        i++;
    }
    (void)rf_format(out, 32, "%.4g%s", value / units[i].unit, units[i].letter);
}
