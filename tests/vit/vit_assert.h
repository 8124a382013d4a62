/* cmocka, and the assertion that every test of vit needs. */
#ifndef REFRACT_TESTS_VIT_VIT_ASSERT_H
#define REFRACT_TESTS_VIT_VIT_ASSERT_H

#include "refract/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static inline void assert_ok(rf_status status)
{
    if (status != RF_OK) {
        fail_msg("%s: %s", rf_error_place(), rf_error_text());
    }
}

#endif
