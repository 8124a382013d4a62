/* Checksums of large blocks. */
#include "refract/io.h"

#include <xxhash.h>

uint64_t rf_checksum(const void *bytes, size_t n_bytes)
{
    return XXH3_64bits(bytes, n_bytes);
}
