/* Zeroed, aligned, counted allocations. */
#include "refract/base.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

static _Atomic int64_t n_live;

void *rf_calloc(int64_t n, size_t elem_bytes)
{
    if (n < 0 || elem_bytes == 0 || (uint64_t)n > (SIZE_MAX - ALIGNMENT) / elem_bytes) {
        rf_error_raise(RF_ERR_NO_MEMORY, __FILE__, __LINE__,
                       "cannot allocate %" PRId64 " elements of %zu bytes", n, elem_bytes);
        return NULL;
    }
    size_t bytes = (size_t)n * elem_bytes;
    size_t padded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (padded == 0) {
        padded = ALIGNMENT;
    }
    void *p = aligned_alloc(ALIGNMENT, padded);
    if (p == NULL) {
        rf_error_raise(RF_ERR_NO_MEMORY, __FILE__, __LINE__, "cannot allocate %zu bytes", bytes);
        return NULL;
    }
    memset(p, 0, padded);
    n_live++;
    return p;
}

void *rf_realloc(void *p, int64_t old_n, int64_t n, size_t elem_bytes)
{
    void *grown = rf_calloc(n, elem_bytes);
    if (grown != NULL && p != NULL) {
        memcpy(grown, p, (size_t)rf_min_i64(old_n, n) * elem_bytes);
        rf_free(p);
    }
    return grown;
}

void rf_free(void *p)
{
    if (p != NULL) {
        n_live--;
        free(p);
    }
}

int64_t rf_alloc_live(void)
{
    return n_live;
}
