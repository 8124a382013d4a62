/* Tar files made by hand, byte for byte, so that tests may also make wrong ones. */
#ifndef REFRACT_TESTS_TAR_WRITER_H
#define REFRACT_TESTS_TAR_WRITER_H

#include "refract/base.h"

#include <stdio.h>
#include <string.h>

enum { TAR_BLOCK = 512 };

static inline void tar_octal(char *field, int n_digits, int64_t value)
{
    for (int i = n_digits - 1; i >= 0; i--, value /= 8) {
        field[i] = (char)('0' + value % 8);
    }
}

/* A header that says `type` ('0' file, '1' hard link, '2' link, '3' device, '5' folder) and a size
 * that need not be that of what follows. */
static inline rf_status tar_header(rf_str *tar, const char *name, char type, int64_t n_bytes)
{
    char h[TAR_BLOCK] = {0};
    int64_t sum = 0;
    snprintf(h, 100, "%s", name);
    tar_octal(h + 100, 7, 0644);
    tar_octal(h + 108, 7, 0);
    tar_octal(h + 116, 7, 0);
    tar_octal(h + 124, 11, n_bytes);
    tar_octal(h + 136, 11, 0);
    memset(h + 148, ' ', 8);
    h[156] = type;
    if (type == '1' || type == '2') {
        snprintf(h + 157, 100, "elsewhere");
    }
    memcpy(h + 257, "ustar\00000", 8);
    for (int i = 0; i < TAR_BLOCK; i++) {
        sum += (unsigned char)h[i];
    }
    tar_octal(h + 148, 6, sum);
    h[154] = '\0';
    return rf_str_append_bytes(tar, h, TAR_BLOCK);
}

static inline rf_status tar_put_bytes(rf_str *tar, const char *name, const void *bytes,
                                      int64_t n_bytes)
{
    static const char zeros[TAR_BLOCK];
    rf_status status = tar_header(tar, name, '0', n_bytes);
    if (status == RF_OK) {
        status = rf_str_append_bytes(tar, bytes, n_bytes);
    }
    if (status == RF_OK) {
        status = rf_str_append_bytes(tar, zeros, (TAR_BLOCK - n_bytes % TAR_BLOCK) % TAR_BLOCK);
    }
    return status;
}

static inline rf_status tar_put(rf_str *tar, const char *name, const char *text)
{
    return tar_put_bytes(tar, name, text, (int64_t)strlen(text));
}

static inline rf_status tar_end(rf_str *tar)
{
    static const char zeros[2 * TAR_BLOCK];
    return rf_str_append_bytes(tar, zeros, sizeof zeros);
}

#endif
