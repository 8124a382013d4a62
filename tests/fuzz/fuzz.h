/* A fuzz target is one function that takes any bytes; what must hold whatever they are is checked
 * in every build type. Its first comment names the layer that it links and the folders its seeds
 * come from: CMakeLists.txt and launch/fuzz read them there. */
#ifndef REFRACT_TESTS_FUZZ_H
#define REFRACT_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);          \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
