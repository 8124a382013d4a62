/* The tiny models of golden/vit with a full cache, and the scalar that make_backward.py takes the
 * gradient of: sum(direction(1) * embedding) + sum(direction(2) * logits). */
#ifndef BACKWARD_FIXTURE_H
#define BACKWARD_FIXTURE_H

#include "../../src/vit/vit_impl.h"
#include "vit_assert.h"

#include <math.h>
#include <string.h>

enum { KEY_EMBEDDING = 1, KEY_LOGITS = 2, KEY_TEST = 4, KEY_INPUT = 16, KEY_WEIGHTS = 64 };

/* Number i of direction `key`: in [-1, 1), on a grid of 2^-23 (golden/make_backward.py). */
static inline float direction(int64_t key, int64_t i)
{
    uint64_t z = ((uint64_t)key << 40) + (uint64_t)i;
    z = (z + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    z = z ^ (z >> 31);
    return (float)((double)(z >> 40) / 8388608.0 - 1.0);
}

static inline float *zeros(int64_t n)
{
    float *x = rf_calloc(n, sizeof *x);
    assert_non_null(x);
    return x;
}

static inline float *new_direction(int64_t key, int64_t n)
{
    float *x = zeros(n);
    for (int64_t i = 0; i < n; i++) {
        x[i] = direction(key, i);
    }
    return x;
}

static inline double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

static inline double norm(const float *a, int64_t n)
{
    return sqrt(dot(a, a, n));
}

/* |got - want| / |want| */
static inline double relative(const float *got, const float *want, int64_t n)
{
    double error = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double e = (double)got[i] - (double)want[i];
        error += e * e;
    }
    return sqrt(error) / norm(want, n);
}

typedef struct model {
    rf_backend *be;
    rf_stream *s;
    rf_vit *vit;
    rf_cache *cache;
    rf_view input;
    int64_t n_images;
    rf_view d_embedding, d_logits; /* the seeds: what outputs are multiplied with */
} model;

static inline rf_view read_input(const rf_named_tensor *t)
{
    assert_non_null(t);
    if (t->dtype != RF_FILE_I64) {
        float *x = zeros(t->n_elems);
        assert_ok(rf_named_tensor_read_f32(t, x));
        return rf_view_nd(x, RF_F32, t->n_dims, t->shape);
    }
    int64_t *ids = rf_calloc(t->n_elems, sizeof *ids);
    assert_non_null(ids);
    memcpy(ids, t->bytes, (size_t)t->n_bytes);
    return rf_view_nd(ids, RF_I64, t->n_dims, t->shape);
}

/* The input of vit/`name`/`reference`.safetensors. */
static inline rf_view read_reference_input(const char *name, const char *reference)
{
    char path[RF_PATH_LEN];
    rf_tensor_file *golden = NULL;
    assert_ok(
        rf_format(path, sizeof path, "%s/vit/%s/%s.safetensors", RF_GOLDEN_DIR, name, reference));
    assert_ok(rf_tensor_file_open(path, &golden));
    const rf_view input = read_input(rf_tensor_file_find(golden, "input"));
    rf_tensor_file_close(golden);
    return input;
}

/* Tower, and picture size where it is not the model's own, of that input. */
static inline rf_vit_opts opts_of(const char *reference, const rf_view *input)
{
    rf_vit_opts opts = {.tower =
                            strstr(reference, "_text") != NULL ? RF_TOWER_TEXT : RF_TOWER_VISION};
    if (strpbrk(reference, "0123456789") != NULL) {
        opts.image_height = input->shape[input->n_dims - 2];
        opts.image_width = input->shape[input->n_dims - 1];
    }
    return opts;
}

/* A pass with `hooks` that fills the cache; the scalar. */
static inline double run_model(const model *m, const rf_hook *hooks, int64_t n_hooks,
                               rf_cache *cache)
{
    rf_vit_output out;
    const rf_vit_run_args args = {
        .input = m->input, .hooks = hooks, .n_hooks = n_hooks, .cache = cache};
    assert_ok(rf_vit_run(m->vit, m->s, &args, &out));
    double f = dot(out.embedding.data, m->d_embedding.data, rf_view_n_elems(&out.embedding));
    if (out.logits.data != NULL) {
        f += dot(out.logits.data, m->d_logits.data, rf_view_n_elems(&out.logits));
    }
    return f;
}

/* Seeds and a filled cache. */
static inline void add_seeds(model *m)
{
    const rf_vit_config *c = rf_vit_get_config(m->vit);
    const int64_t n = m->n_images;
    m->d_embedding = rf_view_2d(new_direction(KEY_EMBEDDING, n * c->d_out), n, c->d_out);
    if (c->n_classes > 0) {
        m->d_logits = rf_view_2d(new_direction(KEY_LOGITS, n * c->n_classes), n, c->n_classes);
    }
    assert_ok(rf_cache_create(m->vit, NULL, 0, &m->cache));
    run_model(m, NULL, 0, m->cache);
}

/* Reference "reference", "reference_text" or "reference_HxW" of model `name`. */
static inline model open_model(const char *name, const char *reference, int n_threads)
{
    model m = {.input = read_reference_input(name, reference)};
    const rf_vit_opts opts = opts_of(reference, &m.input);
    char path[RF_PATH_LEN];
    m.n_images = m.input.shape[0];
    assert_ok(rf_format(path, sizeof path, "%s/vit/%s", RF_GOLDEN_DIR, name));
    assert_ok(rf_backend_cpu_create(n_threads, &m.be));
    assert_ok(rf_stream_create(m.be, &m.s));
    assert_ok(rf_vit_open(m.be, path, &opts, &m.vit));
    add_seeds(&m);
    return m;
}

static inline void close_model(model *m)
{
    rf_free(m->input.data);
    rf_free(m->d_embedding.data);
    rf_free(m->d_logits.data);
    rf_cache_destroy(m->cache);
    rf_vit_close(m->vit);
    rf_stream_destroy(m->s);
    rf_backend_destroy(m->be);
}

/* What is asked of a backward pass; NULL: not that. */
static inline rf_status backward(const model *m, const rf_hook *hooks, int64_t n_hooks,
                                 float *d_weights, float *d_input)
{
    const rf_vit_backward_args args = {
        .cache = m->cache,
        .input = m->input,
        .d_embedding = m->d_embedding,
        .d_logits = m->d_logits,
        .hooks = hooks,
        .n_hooks = n_hooks,
        .d_weights = d_weights,
        .d_input = d_input == NULL ? (rf_view){0}
                                   : rf_view_nd(d_input, RF_F32, m->input.n_dims, m->input.shape)};
    return rf_vit_backward(m->vit, m->s, &args);
}

#endif
