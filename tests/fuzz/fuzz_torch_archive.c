/* Any bytes as a file of named tensors: safetensors, PyTorch's zip and legacy layouts.
 * layer: io
 * seeds: tests/golden/torch tests/io/accept tests/io/refuse */
#include "refract/io.h"

#include "fuzz.h"

enum { MOST_READ = 4096 }; /* the ends of a tensor say as much as all of it */

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    rf_tensor_file *f = NULL;
    float values[MOST_READ];
    if (rf_tensor_file_parse(bytes, (int64_t)n_bytes, "fuzz", &f) == RF_OK) {
        for (int64_t i = 0; i < rf_tensor_file_count(f); i++) {
            const rf_named_tensor *t = rf_tensor_file_at(f, i);
            rf_named_tensor ends = *t;
            ends.n_elems = rf_min_i64(t->n_elems, MOST_READ);
            ends.n_bytes = t->n_elems > 0 ? t->n_bytes / t->n_elems * ends.n_elems : 0;
            FUZZ_CHECK(rf_named_tensor_read_f32(&ends, values) == RF_OK);
            ends.bytes += t->n_bytes - ends.n_bytes;
            FUZZ_CHECK(rf_named_tensor_read_f32(&ends, values) == RF_OK);
            FUZZ_CHECK(rf_tensor_file_find(f, t->name) == t);
        }
    }
    rf_tensor_file_close(f);
    FUZZ_CHECK(rf_alloc_live() == 0);
    return 0;
}
