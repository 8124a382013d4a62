/* Status words and the error text of each thread. */
#include "refract/base.h"

#include <stdio.h>
#include <string.h>

static _Thread_local char error_text[RF_ERROR_TEXT_LEN];
static _Thread_local char error_place[256];

const char *rf_status_word(rf_status status)
{
    switch (status) {
#define RF_STATUS_CASE(name, number, word)                                                         \
    case RF_##name:                                                                                \
        return word;
        RF_STATUS_LIST(RF_STATUS_CASE)
#undef RF_STATUS_CASE
    }
    return "unknown status";
}

rf_status rf_error_raise(rf_status status, const char *file, int line, const char *fmt, ...)
{
    char text[RF_ERROR_TEXT_LEN]; /* the arguments may point into the old text */
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    memcpy(error_text, text, sizeof text);
    const char *base = strrchr(file, '/');
    snprintf(error_place, sizeof error_place, "%s:%d", base != NULL ? base + 1 : file, line);
    return status;
}

void rf_error_context(const char *fmt, ...)
{
    char text[RF_ERROR_TEXT_LEN], cause[RF_ERROR_TEXT_LEN];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n >= 0 && n < (int)sizeof text / 2) { /* a longer context would cut the cause */
        memcpy(cause, error_text, sizeof cause);
        size_t room = sizeof error_text - (size_t)n - 3;
        memcpy(error_text, text, (size_t)n);
        memcpy(error_text + n, ": ", 2);
        memcpy(error_text + n + 2, cause, room);
        error_text[sizeof error_text - 1] = '\0';
    }
}

const char *rf_error_text(void)
{
    return error_text;
}

const char *rf_error_place(void)
{
    return error_place;
}

rf_status rf_error_restore(rf_status status, const char *text)
{
    char copy[RF_ERROR_TEXT_LEN];
    snprintf(copy, sizeof copy, "%s", text);
    memcpy(error_text, copy, sizeof copy);
    error_place[0] = '\0';
    return status;
}
