/* Finite differences of a model's scalar against its gradients: by hook points, weights and input,
 * each along a direction that is half the gradient itself and half random. */
#ifndef VIT_DIFFERENCE_H
#define VIT_DIFFERENCE_H

#include "backward_fixture.h"

#include <stdio.h>

enum { MAX_HOOKS = 512 };

/* What happens at one point: in the forward pass x += offset + step * u, and `seed` . x is added to
 * the scalar; in the backward pass the gradient gets `seed` and is kept. Arrays may be NULL. */
typedef struct point_state {
    rf_hook_point point;
    int64_t n;
    float *value, *gradient, *offset, *seed, *u;
    double step, seeded; /* seeded: seed . x of the last pass */
} point_state;

typedef struct points {
    point_state at[MAX_HOOKS];
    rf_hook forward[MAX_HOOKS], backward[MAX_HOOKS];
    int64_t n;
} points;

static inline rf_status forward_at(void *user, const rf_hook_point *point, const rf_view *act,
                                   rf_stream *s)
{
    point_state *p = user;
    float *x = act->data;
    (void)point;
    (void)s;
    p->seeded = 0.0;
    for (int64_t i = 0; i < p->n; i++) {
        double value = (double)x[i];
        value += p->offset == NULL ? 0.0 : (double)p->offset[i];
        value += p->u == NULL ? 0.0 : p->step * (double)p->u[i];
        x[i] = (float)value;
        if (p->seed != NULL && isfinite(x[i])) { /* scores behind a mask are not */
            p->seeded += (double)p->seed[i] * (double)x[i];
        }
    }
    return RF_OK;
}

static inline rf_status backward_at(void *user, const rf_hook_point *point, const rf_view *act,
                                    rf_stream *s)
{
    point_state *p = user;
    float *d = act->data;
    (void)point;
    (void)s;
    for (int64_t i = 0; i < p->n; i++) {
        d[i] += p->seed == NULL ? 0.0f : p->seed[i];
        p->gradient[i] = d[i];
    }
    return RF_OK;
}

/* Every point of the model that is not on request, with its value in the cache. */
static inline points *new_points(const model *m)
{
    points *all = rf_calloc(1, sizeof *all);
    assert_non_null(all);
    assert_true(rf_cache_n_points(m->cache) <= MAX_HOOKS);
    for (int64_t i = 0; i < rf_cache_n_points(m->cache); i++) {
        point_state *p = &all->at[all->n];
        rf_view v;
        p->point = *rf_cache_point(m->cache, i);
        assert_ok(rf_cache_get(m->cache, p->point.name, &v));
        p->n = rf_view_n_elems(&v);
        p->value = zeros(p->n);
        p->gradient = zeros(p->n);
        memcpy(p->value, v.data, (size_t)p->n * sizeof(float));
        all->forward[all->n] = (rf_hook){p->point, forward_at, p};
        all->backward[all->n++] = (rf_hook){p->point, backward_at, p};
    }
    return all;
}

static inline void free_points(points *all)
{
    for (int64_t i = 0; i < all->n; i++) {
        rf_free(all->at[i].value);
        rf_free(all->at[i].gradient);
        rf_free(all->at[i].offset);
        rf_free(all->at[i].seed);
        rf_free(all->at[i].u);
    }
    rf_free(all);
}

/* The scalar of a pass with all of `all`'s hooks: that of the outputs, and the seeds'. */
static inline double run_points(const model *m, points *all, rf_cache *cache)
{
    double f = run_model(m, all->forward, all->n, cache);
    for (int64_t i = 0; i < all->n; i++) {
        f += all->at[i].seeded;
    }
    return f;
}

/* ---- directions ----------------------------------------------------------------------------- */

/* Root mean square of what is finite (scores behind a mask are not); 1 where that is 0. */
static inline double spread(const float *x, int64_t n)
{
    double sum = 0.0;
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(x[i])) {
            sum += (double)x[i] * (double)x[i];
            count++;
        }
    }
    return sum > 0.0 ? sqrt(sum / (double)count) : 1.0;
}

/* u [n]: as large as a share of `value` is, half along the gradient and half random. */
static inline float *new_probe(const float *value, const float *gradient, int64_t n, int64_t key,
                               double share)
{
    float *u = zeros(n);
    const double size = share * spread(value, n), g = spread(gradient, n);
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(value[i])) {
            u[i] = (float)(size * (0.5 * (double)gradient[i] / g + (double)direction(key, i)));
        }
    }
    return u;
}

/* ---- differences ---------------------------------------------------------------------------- */

/* The scalar at `step` along whatever the user has prepared. */
typedef double (*scalar_fn)(void *user, double step);

static inline bool is_slope(scalar_fn f, void *user, double h, double expected, double scale,
                            double *slope)
{
    const double near = f(user, h) - f(user, -h), far = f(user, 2.0 * h) - f(user, -2.0 * h);
    *slope = (8.0 * near - far) / (12.0 * h);
    return fabs(*slope - expected) <= 1e-3 * fabs(expected) + 4e-7 * scale / h;
}

/* Fourth order, over steps of 1/64 of what is perturbed, or of 1/256 or 1/1024 where the model
 * bends too much for those. The scalar's rounding (of `scale`, the size of its terms: a few times
 * 2^-24) is divided by the step; 1e-3 of the derivative is what the series leaves out. */
static inline void assert_slope(const char *what, scalar_fn f, void *user, double expected,
                                double scale)
{
    double slope = 0.0;
    for (double h = 1.0 / 64.0; h >= 1.0 / 1024.0; h /= 4.0) {
        if (is_slope(f, user, h, expected, scale, &slope)) {
            return;
        }
    }
    fail_msg("%s: the difference is %.8g, the gradient means %.8g (terms of %.3g)", what, slope,
             expected, scale);
}

/* Sizes of the scalar's terms: what its rounding is relative to. */
static inline double size_of_scalar(const model *m, const points *all)
{
    const rf_vit_config *c = rf_vit_get_config(m->vit);
    rf_vit_output out;
    const rf_vit_run_args args = {.input = m->input};
    assert_ok(rf_vit_run(m->vit, m->s, &args, &out));
    double sum = norm(out.embedding.data, m->n_images * c->d_out);
    if (out.logits.data != NULL) {
        sum += norm(out.logits.data, m->n_images * c->n_classes);
    }
    for (int64_t i = 0; i < all->n; i++) {
        const point_state *p = &all->at[i];
        sum += p->seed == NULL
                   ? 0.0
                   : sqrt((double)p->n) * spread(p->value, p->n) * spread(p->seed, p->n);
    }
    return sum;
}

typedef struct walk {
    const model *m;
    points *all;
    float *x; /* what is moved, from `from` along u [n]; NULL: the points whose site this is */
    const float *from, *u;
    int64_t n;
    int site; /* RF_N_SITES: every site */
    bool is_weight, needs_hooks;
} walk;

static inline double scalar_at(void *user, double step)
{
    walk *w = user;
    for (int64_t i = 0; w->x != NULL && i < w->n; i++) {
        w->x[i] = (float)((double)w->from[i] + step * (double)w->u[i]);
    }
    if (w->is_weight) {
        rf_vit *vit = w->m->vit;
        assert_ok(
            rf_weights_derive(vit->be, w->m->s, &vit->config, RF_PRODUCTS_F32, &vit->weights));
    }
    for (int64_t i = 0; i < w->all->n; i++) {
        const bool moves = w->site == RF_N_SITES || w->all->at[i].point.site == w->site;
        w->all->at[i].step = w->x == NULL && moves ? step : 0.0;
    }
    return w->needs_hooks ? run_points(w->m, w->all, NULL) : run_model(w->m, NULL, 0, NULL);
}

/* x [n] of the model moves along a probe; it is put back. */
static inline void check_moved(const model *m, points *all, const char *what, float *x,
                               const float *gradient, int64_t n, bool is_weight, double scale)
{
    float *from = zeros(n);
    memcpy(from, x, (size_t)n * sizeof *x);
    float *u = new_probe(from, gradient, n, KEY_TEST, 1.0);
    const bool needs_hooks = all->at[0].seed != NULL || all->at[0].offset != NULL;
    walk w = {m, all, x, from, u, n, -1, is_weight, needs_hooks};
    assert_slope(what, scalar_at, &w, dot(gradient, u, n), scale);
    memcpy(x, from, (size_t)n * sizeof *x);
    scalar_at(&w, 0.0);
    rf_free(from);
    rf_free(u);
}

/* Backward hooks that only read change what is computed (a norm's scale on its own), and not what
 * comes out: sums in another order are within 1e-5. */
static inline void check_without_hooks(const char *name, const model *m, const float *d_weights,
                                       const float *d_input)
{
    const int64_t n = rf_vit_n_weight_floats(m->vit), n_input = rf_view_n_elems(&m->input);
    float *plain = zeros(n), *plain_input = d_input == NULL ? NULL : zeros(n_input);
    assert_ok(backward(m, NULL, 0, plain, plain_input));
    if (!(relative(plain, d_weights, n) <= 1e-5)) {
        fail_msg("%s: hooks that read change gradients by weights", name);
    }
    if (d_input != NULL && !(relative(plain_input, d_input, n_input) <= 1e-5)) {
        fail_msg("%s: hooks that read change the gradient by the input", name);
    }
    rf_free(plain);
    rf_free(plain_input);
}

/* The points of `site` in all layers, or of every site, move at once. */
static inline void check_site(const char *name, const model *m, points *all, int site, double scale)
{
    char what[2 * RF_NAME_LEN];
    const double share = site == RF_N_SITES ? 0.125 : 1.0; /* their moves add up */
    double expected = 0.0;
    int64_t n_here = 0;
    for (int64_t i = 0; i < all->n; i++) {
        point_state *p = &all->at[i];
        if (site == RF_N_SITES || p->point.site == site) {
            rf_free(p->u);
            p->u = new_probe(p->value, p->gradient, p->n, KEY_TEST + 1 + i, share);
            expected += dot(p->gradient, p->u, p->n);
            n_here++;
            snprintf(what, sizeof what, "%s: %s", name, p->point.name);
        }
    }
    walk at = {m, all, NULL, NULL, NULL, 0, site, false, true};
    if (n_here > 0) {
        assert_slope(what, scalar_at, &at, expected, scale);
    }
}

typedef enum point_moves { SITE_BY_SITE, ALL_AT_ONCE } point_moves;

/* Gradients at the points, by every weight and by the input, with whatever offsets and seeds `all`
 * has. */
static inline void check_all_slopes(const char *name, model *m, points *all, point_moves moves)
{
    char what[2 * RF_NAME_LEN];
    const int64_t n_input = rf_view_n_elems(&m->input);
    const rf_vit_weights *w = &m->vit->weights;
    const double scale = size_of_scalar(m, all);
    float *d_weights = zeros(rf_vit_n_weight_floats(m->vit));
    float *d_input = m->input.dtype == RF_I64 ? NULL : zeros(n_input);
    run_points(m, all, m->cache);
    assert_ok(backward(m, all->backward, all->n, d_weights, d_input));
    if (all->at[0].seed == NULL) {
        check_without_hooks(name, m, d_weights, d_input);
    }
    const int first = moves == SITE_BY_SITE ? 0 : RF_N_SITES;
    for (int site = first; site < rf_max_i64(RF_N_SITES, first + 1); site++) {
        check_site(name, m, all, site, scale);
    }
    for (int64_t i = 0; i < w->n_params; i++) {
        const rf_view *v = &w->params[i].view;
        snprintf(what, sizeof what, "%s: %s", name, w->params[i].name);
        check_moved(m, all, what, v->data, d_weights + ((float *)v->data - w->arena),
                    rf_view_n_elems(v), true, scale);
    }
    if (d_input != NULL) {
        snprintf(what, sizeof what, "%s: input", name);
        check_moved(m, all, what, m->input.data, d_input, n_input, false, scale);
    }
    rf_free(d_weights);
    rf_free(d_input);
}

#endif
