/* Private to tensor: what the CPU coder operations share. */
#ifndef REFRACT_CODER_OPS_IMPL_H
#define REFRACT_CODER_OPS_IMPL_H

#include "tensor_impl.h"

/* ---- dot.c: the canonical dot ---------------------------------------------------------------- */

/* out[j] = rf_dot(x, base + idx[j] * stride, n). */
typedef void (*rf_dot_rows_fn)(const float *x, const float *base, int64_t stride,
                               const int32_t *idx, int64_t n_idx, int64_t n, float *out);
typedef struct rf_dot_kernel {
    const char *name;
    float (*dot)(const float *a, const float *b, int64_t n);
    rf_dot_rows_fn rows;
} rf_dot_kernel;

/* Those that this machine runs, the plain one first, the fastest last; all give the same bits. */
int rf_dot_kernels(const rf_dot_kernel **out);
void rf_dot_rows(const float *x, const float *base, int64_t stride, const int32_t *idx,
                 int64_t n_idx, int64_t n, float *out);

/* ---- cpu_nominate.c: which of a row of products may pass a threshold ----------------------------
 */

/* The j in 0..n-1 with fma(scale, norm[j], p[j]) + offset[j] >= threshold, rising, into `out` [n];
 * returns how many. */
int64_t rf_cpu_nominate(const float *p, const float *norm, const float *offset, int64_t n,
                        float scale, float threshold, int32_t *out);
/* The same for any machine. */
int64_t rf_cpu_nominate_plain(const float *p, const float *norm, const float *offset, int64_t n,
                              float scale, float threshold, int32_t *out);

/* ---- cpu_select.c: the running k largest of one row ---------------------------------------------
 */

/* A candidate's value lies in [lo, hi]; lo == hi once it is known. */
typedef struct rf_candidates {
    float *lo, *hi;
    int32_t *latent;    /* rising */
    int64_t n, n_known; /* the first n_known values are canonical */
    float threshold;    /* what is below it cannot be selected */
} rf_candidates;

/* Entries that a row's candidates need: k, one tile, and slack so that pruning is rare. */
int64_t rf_candidates_room(int64_t k, int64_t tile);
/* Candidates to go on with before they are pruned. */
int64_t rf_candidates_soft_limit(int64_t k);

/* What the exact values are made of. */
typedef struct rf_exact {
    const float *x, *w, *bias;
    int64_t w_stride, width;
    float *work; /* [rf_candidates_room] */
} rf_exact;

/* Values <= 0 are never selected. */
static const float rf_least_positive = 0x1p-149f;

/* A t >= `from` > 0 that at least k of a [n] reach, and at most k + slack, or as few as ties allow;
 * `from` itself where fewer than k reach that. */
float rf_threshold_of(const float *a, int64_t n, int64_t k, int64_t slack, float from);

/* Drop what cannot be among the k + slack largest, or so; with ties or loose bounds that may be
 * nothing. */
void rf_candidates_prune(rf_candidates *c, int64_t k, int64_t slack);
/* Replace the bounds of the next `count` candidates by canonical values. */
void rf_candidates_measure(rf_candidates *c, int64_t count, const rf_exact *exact);
/* All values are known: keep exactly the k largest > 0, latents rising. */
void rf_candidates_keep(rf_candidates *c, int64_t k);

/* ---- cpu_add_rows.c: sums of rows in one fixed order --------------------------------------------
 */

/* acc [n] = fma(weight[j], row j, acc), j rising; row j begins at base + row[j] * stride. */
void rf_cpu_add_rows(float *acc, int64_t n, const float *base, int64_t stride, const int32_t *row,
                     const float *weight, int64_t count);
/* The same for any machine. */
void rf_cpu_add_rows_plain(float *acc, int64_t n, const float *base, int64_t stride,
                           const int32_t *row, const float *weight, int64_t count);

/* ---- cpu_row_rule.c -----------------------------------------------------------------------------
 */

/* One row w [n] as the rule wants it. */
void rf_cpu_keep_row_rule(float *w, int64_t n, rf_row_rule rule, const rf_segments *segments,
                          float radius);
/* g less its component along the constraint's normal at w, where the rule has one. */
void rf_cpu_project_gradient(float *g, const float *w, int64_t n, rf_row_rule rule,
                             const rf_segments *segments);

/* Blocks of 256 in order, then blocks in order. */
double rf_cpu_sum_doubles(const double *x, int64_t n);

/* ---- for all --------------------------------------------------------------------------------- */

static inline const float *rf_row(const rf_view *v, int64_t row)
{
    return (const float *)v->data + row * v->stride[0];
}
static inline float *rf_row_mut(const rf_view *v, int64_t row)
{
    return (float *)v->data + row * v->stride[0];
}

#endif
