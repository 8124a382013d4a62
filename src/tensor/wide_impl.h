/* Private to tensor: the same loop compiled twice, for the least CPU and for one with 512-bit
 * registers. Loops are without reassociation and contraction, so no bit depends on which one runs.
 */
#ifndef REFRACT_WIDE_IMPL_H
#define REFRACT_WIDE_IMPL_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define RF_LOOP static inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__AVX2__) && defined(__FMA__)
#define RF_WIDE __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))
static inline bool rf_cpu_is_wide(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#else
#define RF_WIDE
static inline bool rf_cpu_is_wide(void)
{
    return false;
}
#endif

/* void rf_<name> of the loop <name>_loop. */
#define RF_TWICE(name, params, args)                                                               \
    static void name##_plain params                                                                \
    {                                                                                              \
        name##_loop args;                                                                          \
    }                                                                                              \
    RF_WIDE static void name##_wide params                                                         \
    {                                                                                              \
        name##_loop args;                                                                          \
    }                                                                                              \
    void rf_##name params                                                                          \
    {                                                                                              \
        if (rf_cpu_is_wide()) {                                                                    \
            name##_wide args;                                                                      \
        } else {                                                                                   \
            name##_plain args;                                                                     \
        }                                                                                          \
    }

/* One register of 16 floats, or two of 8. (Not as an argument: the way it is passed depends on the
 * instructions in use.) */
enum { RF_LANES = 16 };
typedef float rf_lanes __attribute__((vector_size(4 * RF_LANES)));
typedef int32_t rf_lane_bits __attribute__((vector_size(4 * RF_LANES)));

/* The lanes added in halves: 8 to 8, 4 to 4, 2 to 2, 1 to 1. */
RF_LOOP float rf_halve_lanes(const float lane[RF_LANES])
{
    typedef float eight __attribute__((vector_size(32)));
    typedef float four __attribute__((vector_size(16)));
    eight a, b;
    four c, d;
    memcpy(&a, lane, sizeof a);
    memcpy(&b, lane + 8, sizeof b);
    a += b;
    memcpy(&c, &a, sizeof c);
    memcpy(&d, (const char *)&a + sizeof c, sizeof d);
    c += d;
    return (c[0] + c[2]) + (c[1] + c[3]);
}

/* Sum in 16 lanes, halved at the end. */
RF_LOOP float rf_sum_loop(const float *x, int64_t n)
{
    float lane[RF_LANES];
    rf_lanes sum = {0}, next;
    const int64_t whole = n / RF_LANES * RF_LANES;
    for (int64_t i = 0; i < whole; i += RF_LANES) {
        memcpy(&next, x + i, sizeof next);
        sum += next;
    }
    memcpy(lane, &sum, sizeof lane);
    for (int64_t i = whole; i < n; i++) {
        lane[i - whole] += x[i];
    }
    return rf_halve_lanes(lane);
}

#endif
