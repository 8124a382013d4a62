/* The steps of weight processing, on host copies. Sources: TransformerLens's fold_ln,
 * center_writing_weights, fold_value_biases and refactor_factored_attn_matrices, whose results
 * these equal where a model has what they expect. */
#include "process_impl.h"

#include <math.h>

static void fold_bias(const rf_matrix *norm_bias, rf_map *reader)
{
    for (int64_t i = 0; i < reader->w.n_rows; i++) {
        for (int64_t j = 0; j < reader->w.n_cols; j++) {
            reader->b.x[j] += norm_bias->x[i] * reader->w.x[i * reader->w.n_cols + j];
        }
    }
}

static void scale_rows(const rf_matrix *norm_weight, rf_matrix *w)
{
    for (int64_t i = 0; i < w->n_rows; i++) {
        for (int64_t j = 0; j < w->n_cols; j++) {
            w->x[i * w->n_cols + j] *= norm_weight->x[i];
        }
    }
}

static void centre_columns(rf_matrix *w)
{
    for (int64_t j = 0; j < w->n_cols; j++) {
        double mean = 0.0;
        for (int64_t i = 0; i < w->n_rows; i++) {
            mean += w->x[i * w->n_cols + j] / (double)w->n_rows;
        }
        for (int64_t i = 0; i < w->n_rows; i++) {
            w->x[i * w->n_cols + j] -= mean;
        }
    }
}

static void set_all(rf_matrix *m, double value)
{
    for (int64_t i = 0; m->x != NULL && i < m->n_rows * m->n_cols; i++) {
        m->x[i] = value;
    }
}

void rf_fold_norm(rf_map *norm, rf_map *const *readers, int n_readers)
{
    for (int i = 0; i < n_readers; i++) {
        if (norm->b.x != NULL) {
            fold_bias(&norm->b, readers[i]);
        }
        scale_rows(&norm->w, &readers[i]->w);
        centre_columns(&readers[i]->w);
    }
    set_all(&norm->w, 1.0);
    set_all(&norm->b, 0.0);
}

static void scale_columns(rf_matrix *m, const rf_matrix *scale)
{
    for (int64_t i = 0; i < m->n_rows; i++) {
        for (int64_t j = 0; j < m->n_cols; j++) {
            m->x[i * m->n_cols + j] *= scale->x[j];
        }
    }
}

void rf_fold_scale(rf_map *map, rf_matrix *scale)
{
    if (scale->x == NULL) {
        return;
    }
    scale_columns(&map->w, scale);
    scale_columns(&map->b, scale); /* no rows where it is absent */
    set_all(scale, 1.0);
}

void rf_centre_rows(rf_matrix *m)
{
    for (int64_t i = 0; i < m->n_rows; i++) {
        double mean = 0.0;
        for (int64_t j = 0; j < m->n_cols; j++) {
            mean += m->x[i * m->n_cols + j] / (double)m->n_cols;
        }
        for (int64_t j = 0; j < m->n_cols; j++) {
            m->x[i * m->n_cols + j] -= mean;
        }
    }
}

void rf_fold_value_bias(rf_map *v, rf_map *o)
{
    fold_bias(&v->b, o);
    set_all(&v->b, 0.0);
}

/* ---- factors -------------------------------------------------------------------------------- */

/* Columns first .. first + k - 1 of [w; b], each [n_rows + 1], one behind the other. */
static void take_columns(const rf_map *map, int64_t first, int64_t k, double *out)
{
    const int64_t n = map->w.n_rows;
    for (int64_t j = 0; j < k; j++) {
        for (int64_t i = 0; i < n; i++) {
            out[j * (n + 1) + i] = map->w.x[i * map->w.n_cols + first + j];
        }
        out[j * (n + 1) + n] = map->b.x != NULL ? map->b.x[first + j] : 0.0;
    }
}

/* Column j of `in`, times scale[j], back to where take_columns had it. Without a bias its row is
 * zero, before and after. */
static void give_columns(rf_map *map, int64_t first, int64_t k, const double *in,
                         const double *scale)
{
    const int64_t n = map->w.n_rows;
    for (int64_t j = 0; j < k; j++) {
        for (int64_t i = 0; i < n; i++) {
            map->w.x[i * map->w.n_cols + first + j] = in[j * (n + 1) + i] * scale[j];
        }
        if (map->b.x != NULL) {
            map->b.x[first + j] = in[j * (n + 1) + n] * scale[j];
        }
    }
}

rf_status rf_refactor_ov(rf_map *v, rf_map *o, int64_t n_heads)
{
    rf_status status = RF_OK;
    const int64_t k = v->w.n_cols / n_heads, n = v->w.n_rows + 1;
    double *a = NULL, *s = NULL;
    RF_ALLOC(a, k * n);
    RF_ALLOC(s, k);
    for (int64_t h = 0; h < n_heads; h++) {
        double *rows = o->w.x + h * k * o->w.n_cols; /* of W_O: columns of its transpose */
        take_columns(v, h * k, k, a);
        RF_TRY(rf_factor_svd(a, n, rows, o->w.n_cols, k, s));
        give_columns(v, h * k, k, a, s);
    }
fail:
    rf_free(a);
    rf_free(s);
    return status;
}

rf_status rf_refactor_qk(rf_map *q, rf_map *k, int64_t n_heads)
{
    rf_status status = RF_OK;
    const int64_t width = q->w.n_cols / n_heads, n = q->w.n_rows + 1;
    double *a = NULL, *b = NULL, *s = NULL;
    RF_ALLOC(a, width * n);
    RF_ALLOC(b, width * n);
    RF_ALLOC(s, width);
    for (int64_t h = 0; h < n_heads; h++) {
        take_columns(q, h * width, width, a);
        take_columns(k, h * width, width, b);
        RF_TRY(rf_factor_svd(a, n, b, n, width, s));
        for (int64_t j = 0; j < width; j++) {
            s[j] = sqrt(s[j]);
        }
        give_columns(q, h * width, width, a, s);
        give_columns(k, h * width, width, b, s);
    }
fail:
    rf_free(a);
    rf_free(b);
    rf_free(s);
    return status;
}
