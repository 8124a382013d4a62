/* Products of a block of tokens with a tile of latents: fp32, bf16, or fp32 of values rounded to
 * bf16. */
#include "encode_impl.h"

#include <string.h>

/* What is larger would be rounded to infinity; pulled to the largest it errs by less than 2^-8 of
 * itself, as others do. */
static const float most_bf16 = 0x1.fep127f;

static void clamp_row(const float *from, float *to, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float v = from[i] < most_bf16 ? from[i] : most_bf16;
        to[i] = v > -most_bf16 ? v : -most_bf16;
    }
}

static void stage_row(const rf_encode_plan *plan, const rf_encode_work *work, int64_t row, void *to)
{
    const float *from = rf_row(&plan->args->x, row);
    if (plan->kind == RF_PRODUCT_F32) {
        memcpy(to, from, sizeof(float) * (size_t)plan->width);
    } else if (plan->kind == RF_PRODUCT_ROUNDED) {
        clamp_row(from, to, plan->width);
        rf_cpu_round_bf16(to, to, plan->width);
    } else {
        clamp_row(from, work->row_staged, plan->width);
        rf_cpu_to_bf16(work->row_staged, to, plan->width);
    }
}

/* Rows come in steps: a ragged end is padded with zeros. */
void rf_encode_load_rows(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_row,
                         int64_t n_rows)
{
    const rf_view *x = &plan->args->x;
    size_t elem_bytes = plan->kind == RF_PRODUCT_BF16 ? sizeof(uint16_t) : sizeof(float);
    size_t row_bytes = elem_bytes * (size_t)plan->width;
    work->x_rows = rf_ceil_div(n_rows, plan->row_step) * plan->row_step;
    if (plan->kind == RF_PRODUCT_F32 && n_rows == work->x_rows) {
        work->x = rf_row(x, first_row);
        work->x_stride = x->stride[0];
        return;
    }
    work->x = work->x_staged;
    work->x_stride = plan->width;
    for (int64_t r = 0; r < work->x_rows; r++) {
        char *to = (char *)work->x_staged + (size_t)r * row_bytes;
        if (r < n_rows) {
            stage_row(plan, work, first_row + r, to);
        } else {
            memset(to, 0, row_bytes);
        }
    }
}

static void round_tile(const rf_encode_plan *plan, const rf_encode_work *work, int64_t first,
                       int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float *to = (float *)work->w_staged + i * plan->width;
        clamp_row(rf_row(&plan->args->w_enc, first + i), to, plan->width);
        rf_cpu_round_bf16(to, to, plan->width);
    }
}

/* w_staged [D, n] = the tile in bf16, transposed; a few latents at a time stay in cache. */
static void transpose_tile(const rf_encode_plan *plan, const rf_encode_work *work, int64_t first,
                           int64_t n)
{
    uint16_t *out = work->w_staged, *rows = (uint16_t *)(void *)work->row_staged;
    float *row = work->row_staged + (ENCODE_PACK_ROWS - 1) * plan->width;
    const int64_t step = ENCODE_PACK_ROWS / 2, d = plan->width;
    for (int64_t i = 0; i < n; i += step) {
        int64_t count = rf_min_i64(step, n - i);
        for (int64_t r = 0; r < count; r++) {
            clamp_row(rf_row(&plan->args->w_enc, first + i + r), row, d);
            rf_cpu_to_bf16(row, rows + r * d, d);
        }
        for (int64_t j = 0; j < d; j++) {
            for (int64_t r = 0; r < count; r++) {
                out[j * n + i + r] = rows[r * d + j];
            }
        }
    }
}

static rf_status multiply_bf16(const rf_encode_plan *plan, const rf_encode_work *work,
                               int64_t n_latents)
{
    rf_status status = RF_OK;
    const uint16_t *x = work->x, *w = work->w_staged;
    for (int64_t k = 0; k < plan->width; k += RF_K_STEP) {
        RF_TRY(rf_cpu_bf16_tile(work->x_rows, n_latents, rf_min_i64(RF_K_STEP, plan->width - k),
                                1.0f, x + k, work->x_stride, w + k * n_latents, n_latents,
                                k == 0 ? 0.0f : 1.0f, work->products, n_latents));
    }
fail:
    return status;
}

rf_status rf_encode_multiply(const rf_encode_plan *plan, rf_encode_work *work, int64_t first_latent,
                             int64_t n_latents)
{
    const rf_view *w = &plan->args->w_enc;
    const float *rows = rf_row(w, first_latent);
    int64_t stride = w->stride[0];
    if (plan->kind == RF_PRODUCT_BF16) {
        transpose_tile(plan, work, first_latent, n_latents);
        return multiply_bf16(plan, work, n_latents);
    }
    if (plan->kind == RF_PRODUCT_ROUNDED) {
        round_tile(plan, work, first_latent, n_latents);
        rows = work->w_staged;
        stride = plan->width;
    }
    return rf_cpu_sgemm_tile(RF_NO_TRANS, RF_TRANS, work->x_rows, n_latents, plan->width, 1.0f,
                             work->x, work->x_stride, rows, stride, 0.0f, work->products,
                             n_latents);
}
