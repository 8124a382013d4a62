/* Counter-based random numbers (Random123's Philox 4x32-10) and keyed permutations. */
#include "refract/base.h"

#include <math.h>
#include <Random123/philox.h>

void rf_random_u32x4(uint64_t seed, rf_random_purpose purpose, uint64_t a, uint64_t b,
                     uint32_t out[4])
{
    philox4x32_ctr_t counter = {
        {(uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32)}};
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32) ^ (uint32_t)purpose << 8}};
    philox4x32_ctr_t r = philox4x32(counter, key);
    for (int i = 0; i < 4; i++) {
        out[i] = r.v[i];
    }
}

void rf_random_normal4(uint64_t seed, rf_random_purpose purpose, uint64_t a, uint64_t b,
                       float out[4])
{
    uint32_t u[4];
    rf_random_u32x4(seed, purpose, a, b, u);
    for (int i = 0; i < 4; i += 2) {
        double r = sqrt(-2.0 * log(((double)u[i] + 0.5) * 0x1p-32));
        double angle = 6.283185307179586476925 * ((double)u[i + 1] + 0.5) * 0x1p-32;
        out[i] = (float)(r * cos(angle));
        out[i + 1] = (float)(r * sin(angle));
    }
}

/* A balanced Feistel network on 2*half_bits bits, the least power of four >= n; a result outside
 * 0..n-1 is fed in again (cycle walking), on average less than four times. */
int64_t rf_permute(uint64_t seed, rf_random_purpose purpose, uint64_t a, uint64_t b, int64_t n,
                   int64_t i)
{
    enum { N_ROUNDS = 6 };
    unsigned half_bits = 1;
    while (half_bits < 31 && (INT64_C(1) << (2 * half_bits)) < n) {
        half_bits++;
    }
    uint64_t mask = (UINT64_C(1) << half_bits) - 1;
    uint32_t key[4];
    rf_random_u32x4(seed, purpose, a, b, key);
    uint64_t v = (uint64_t)i;
    do {
        uint64_t left = v >> half_bits, right = v & mask;
        for (uint32_t round = 0; round < N_ROUNDS; round++) {
            philox2x32_ctr_t c = {{(uint32_t)right, round ^ key[2]}};
            philox2x32_key_t k = {{key[round & 1] ^ key[3]}};
            uint64_t next = left ^ (philox2x32(c, k).v[0] & mask);
            left = right;
            right = next;
        }
        v = left << half_bits | right;
    } while (v >= (uint64_t)n);
    return (int64_t)v;
}

uint64_t rf_hash(uint64_t start, const void *bytes, size_t n_bytes)
{
    const unsigned char *p = bytes;
    uint64_t h = start;
    for (size_t i = 0; i < n_bytes; i++) {
        h = (h ^ p[i]) * UINT64_C(1099511628211);
    }
    return h;
}
