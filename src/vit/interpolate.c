/* Bicubic resampling of a square grid of positions, as torch does it. */
#include "vit_impl.h"

#include <math.h>

enum { TAPS = 4 };

typedef struct taps {
    int64_t at[TAPS];
    float weight[TAPS];
} taps;

/* Keys' kernel with a = -0.75, inside and outside one step. */
static float near_tap(float x)
{
    const float a = -0.75f;
    return ((a + 2.0f) * x - (a + 3.0f)) * x * x + 1.0f;
}

static float far_tap(float x)
{
    const float a = -0.75f;
    return ((a * x - 5.0f * a) * x + 8.0f * a) * x - 4.0f * a;
}

/* Where output `i` of `n_out` reads in a line of `n_in`. */
static taps taps_of(int64_t i, int64_t n_in, int64_t n_out)
{
    taps t;
    const float scale = (float)n_in / (float)n_out;
    const float source = scale * ((float)i + 0.5f) - 0.5f;
    const float base = floorf(source), x = source - base;
    t.weight[0] = far_tap(x + 1.0f);
    t.weight[1] = near_tap(x);
    t.weight[2] = near_tap(1.0f - x);
    t.weight[3] = far_tap(2.0f - x);
    for (int k = 0; k < TAPS; k++) {
        t.at[k] = rf_max_i64(0, rf_min_i64(n_in - 1, (int64_t)base - 1 + k));
    }
    return t;
}

void rf_interpolate_positions(const float *in, int64_t old_side, int64_t d, float *out,
                              int64_t new_side)
{
    for (int64_t i = 0; i < new_side * new_side; i++) {
        const taps ty = taps_of(i / new_side, old_side, new_side);
        const taps tx = taps_of(i % new_side, old_side, new_side);
        for (int64_t j = 0; j < d; j++) {
            float sum = 0.0f;
            for (int y = 0; y < TAPS; y++) {
                float line = 0.0f;
                for (int x = 0; x < TAPS; x++) {
                    line += tx.weight[x] * in[(ty.at[y] * old_side + tx.at[x]) * d + j];
                }
                sum += ty.weight[y] * line;
            }
            out[i * d + j] = sum;
        }
    }
}
