/* Any bytes as an npy array.
 * layer: io
 * seeds: tests/golden/npy tests/io/accept tests/io/refuse */
#include "refract/io.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    int64_t shape[RF_FILE_MAX_DIMS], n = 1;
    float *values = NULL;
    int n_dims = 0;
    if (rf_npy_parse_f32(bytes, (int64_t)n_bytes, "fuzz", RF_FILE_MAX_DIMS, &n_dims, shape,
                         &values) == RF_OK) {
        for (int d = 0; d < n_dims; d++) {
            n *= shape[d];
        }
        FUZZ_CHECK(n >= 0 && n <= (int64_t)n_bytes);
    }
    rf_free(values);
    FUZZ_CHECK(rf_alloc_live() == 0);
    return 0;
}
