/* Tables of rotary positions and of sinusoids, as the libraries make them. docs/models.md has the
 * formulas. */
#include "vit_impl.h"

#include <math.h>

static const double pi = 3.14159265358979323846;

/* timm's RotaryEmbeddingCat: positions of pixels (scaled to the reference side), bands
 * base^(-i / (dh / 4)), y's angles then x's, each twice in a row. */
static void grid_angles(const rf_vit_config *c, int64_t y, int64_t x, float *angle)
{
    const int64_t n_bands = c->d_head / 4;
    float at[2] = {(float)y + (float)c->rope_offset, (float)x + (float)c->rope_offset};
    if (c->rope_ref_side > 0) {
        at[0] = at[0] / (float)c->grid[1] * (float)c->rope_ref_side;
        at[1] = at[1] / (float)c->grid[2] * (float)c->rope_ref_side;
    }
    for (int64_t axis = 0; axis < 2; axis++) {
        const float position = at[c->rope_is_xy ? 1 - axis : axis];
        for (int64_t i = 0; i < n_bands; i++) {
            const float exponent = (float)i / (float)n_bands;
            const float band = 1.0f / powf((float)c->rope_base, exponent);
            float *pair = angle + (axis * n_bands + i) * 2;
            pair[0] = pair[1] = position * band;
        }
    }
}

/* DINOv3: centres of patches in [-1, 1] times 2 pi base^(-4 i / dh), y's then x's, then all once
 * more for the second half. */
static void centre_angles(const rf_vit_config *c, int64_t y, int64_t x, float *angle)
{
    const int64_t n_bands = c->d_head / 4;
    const float at[2] = {2.0f * (((float)y + 0.5f) / (float)c->grid[1]) - 1.0f,
                         2.0f * (((float)x + 0.5f) / (float)c->grid[2]) - 1.0f};
    for (int64_t axis = 0; axis < 2; axis++) {
        for (int64_t i = 0; i < n_bands; i++) {
            const float exponent = (float)i * (4.0f / (float)c->d_head);
            const float band = 1.0f / powf((float)c->rope_base, exponent);
            const float value = (float)(2.0 * pi) * at[axis] * band;
            angle[axis * n_bands + i] = value;
            angle[2 * n_bands + axis * n_bands + i] = value;
        }
    }
}

/* V-JEPA 2: t, y and x turn 2 floor(floor(dh / 3) / 2) values each; pairs are adjacent, but the
 * angles of an axis are its bands twice over, so that the two of a pair turn differently (as the
 * weights were trained). What is left over does not turn. */
static void axes_angles(const rf_vit_config *c, int64_t t, int64_t y, int64_t x, float *angle)
{
    const int64_t width = 2 * (c->d_head / 3 / 2), n_bands = width / 2;
    const float at[3] = {(float)t, (float)y, (float)x};
    for (int64_t j = 0; j < c->d_head; j++) {
        angle[j] = 0.0f;
    }
    for (int64_t j = 0; j < 3 * width; j++) {
        const int64_t i = j % width % n_bands;
        const float omega = 1.0f / powf((float)c->rope_base, (float)i / ((float)width / 2.0f));
        angle[j] = at[j / width] * omega;
    }
}

void rf_rotary_tables(const rf_vit_config *config, float *cos, float *sin)
{
    const rf_vit_config *c = config;
    const int64_t dh = c->d_head, area = c->grid[1] * c->grid[2];
    for (int64_t i = 0; i < c->n_prefix * dh; i++) {
        cos[i] = 1.0f;
        sin[i] = 0.0f;
    }
    for (int64_t n = 0; n < c->n_patches; n++) {
        float *const cos_row = cos + (c->n_prefix + n) * dh, *const row =
                                                                 sin + (c->n_prefix + n) * dh;
        const int64_t t = n / area, y = n % area / c->grid[2], x = n % c->grid[2];
        if (c->rope == RF_ROPE_GRID) {
            grid_angles(c, y, x, row);
        } else if (c->rope == RF_ROPE_CENTRES) {
            centre_angles(c, y, x, row);
        } else {
            axes_angles(c, t, y, x, row);
        }
        for (int64_t j = 0; j < dh; j++) {
            cos_row[j] = cosf(row[j]);
            row[j] = sinf(row[j]);
        }
    }
}

void rf_sinusoid_table(int64_t n, int64_t d, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < d; j++) {
            const double angle = (double)i / pow(10000.0, 2.0 * (double)(j / 2) / (double)d);
            out[i * d + j] = (float)(j % 2 == 0 ? sin(angle) : cos(angle));
        }
    }
}
