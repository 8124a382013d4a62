/* Operands of a matrix product as it wants them: b in panels, a in bf16 or padded. */
#include "matmul_impl.h"

#include <string.h>

static size_t panel_element(const rf_product *p)
{
    return p->kind == RF_PRODUCT_BF16 ? sizeof(uint16_t) : sizeof(float);
}

int64_t rf_product_panel_floats(const rf_product *p)
{
    const int64_t n = rf_max_i64(p->n, RF_PAD_COLS) * p->chunk;
    return p->has_panels ? rf_ceil_div(n, 16) * 16 : 0; /* what follows stays aligned */
}

int64_t rf_product_thread_floats(void)
{
    return RF_STAGE_FLOATS + RF_PAD_ROWS * (RF_MAX_TILE_COLS + RF_PAD_COLS);
}

void *rf_panel_at(const rf_product *p, int64_t col, int64_t n_terms)
{
    return (char *)p->panels + (size_t)(col * p->tile_cols * n_terms) * panel_element(p);
}

/* One row of a panel. */
static void pack_row(const rf_product *p, int64_t term, int64_t n0, int64_t n, void *out)
{
    const rf_matmul_args *args = p->args;
    if (args->b.dtype == RF_BF16) {
        const uint16_t *from = (const uint16_t *)args->b.data + term * args->b.stride[0] + n0;
        if (p->kind == RF_PRODUCT_BF16) {
            memcpy(out, from, (size_t)n * sizeof *from);
        } else {
            rf_cpu_from_bf16(from, out, n);
        }
    } else if (args->trans_b == RF_NO_TRANS) {
        memcpy(out, rf_element(&args->b, RF_NO_TRANS, term, n0), (size_t)n * sizeof(float));
    } else {
        for (int64_t j = 0; j < n; j++) {
            ((float *)out)[j] = *rf_element(&args->b, RF_TRANS, term, n0 + j);
        }
    }
}

/* Row `r` of the terms from k0 in every panel: b is read in the order in which it lies. */
static void pack_rows(const rf_product *p, int64_t k0, int64_t r, int64_t n_terms)
{
    for (int64_t col = 0; col < p->n_cols; col++) {
        const int64_t n0 = col * p->tile_cols, n = col == p->n_cols - 1 ? p->n - n0 : p->tile_cols;
        const int64_t width = rf_max_i64(n, RF_PAD_COLS);
        const size_t row_bytes = (size_t)width * panel_element(p);
        char *out = (char *)rf_panel_at(p, col, n_terms) + (size_t)r * row_bytes;
        if (width > n) {
            memset(out, 0, row_bytes);
        }
        pack_row(p, k0 + r, n0, n, out);
    }
}

void rf_pack_panels(const rf_product *p, int64_t k0, int64_t n_terms)
{
#pragma omp for schedule(static)
    for (int64_t r = 0; r < n_terms; r++) {
        pack_rows(p, k0, r, n_terms);
    }
}

/* Terms of one row of op(a), gathered where a is transposed. */
static const float *row_of_a(const rf_product *p, int64_t row, int64_t k0, int64_t n_terms,
                             float *gathered)
{
    const rf_matmul_args *args = p->args;
    const float *from = rf_element(&args->a, args->trans_a, row, k0);
    if (args->trans_a == RF_NO_TRANS) {
        return from;
    }
    for (int64_t j = 0; j < n_terms; j++) {
        gathered[j] = from[j * args->a.stride[0]];
    }
    return gathered;
}

void rf_stage(const rf_product *p, const rf_tile *t, int64_t n_rows, int64_t k0, int64_t n_terms)
{
    float gathered[RF_K_STEP], *out = t->stage;
    for (int64_t i = 0; i < n_rows; i++, out += n_terms) {
        if (i >= t->m) {
            memset(out, 0, (size_t)n_terms * sizeof *out);
            continue;
        }
        const float *from = row_of_a(p, t->m0 + i, k0, n_terms, gathered);
        if (p->kind == RF_PRODUCT_ROUNDED) {
            rf_cpu_round_bf16(from, out, n_terms);
        } else {
            memcpy(out, from, (size_t)n_terms * sizeof *out);
        }
    }
}

void rf_stage_bf16(const rf_product *p, const rf_tile *t, int64_t n_rows, int64_t k0,
                   int64_t n_terms)
{
    float gathered[RF_K_STEP];
    uint16_t *out = t->stage;
    for (int64_t i = 0; i < n_rows; i++, out += n_terms) {
        if (i >= t->m) {
            memset(out, 0, (size_t)n_terms * sizeof *out);
            continue;
        }
        rf_cpu_to_bf16(row_of_a(p, t->m0 + i, k0, n_terms, gathered), out, n_terms);
    }
}
