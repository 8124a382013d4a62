/* What the tests of vit share: a golden model (golden/make_vit.py) with one of its references. */
#ifndef REFRACT_TESTS_VIT_GOLDEN_H
#define REFRACT_TESTS_VIT_GOLDEN_H

#include "refract/vit.h"
#include "vit_assert.h"

#include <math.h>
#include <string.h>

typedef struct model {
    rf_backend *be;
    rf_stream *s;
    rf_vit *vit;
    rf_tensor_file *golden; /* the reference */
    rf_view input;
} model;

static inline float *read_tensor(const rf_named_tensor *t)
{
    assert_non_null(t);
    float *x = rf_calloc(t->n_elems, sizeof *x);
    assert_non_null(x);
    assert_ok(rf_named_tensor_read_f32(t, x));
    return x;
}

/* The reference's input on the host, which is the CPU backend's device. */
static inline rf_view read_input(const rf_tensor_file *golden)
{
    const rf_named_tensor *t = rf_tensor_file_find(golden, "input");
    assert_non_null(t);
    if (t->dtype == RF_FILE_I64) {
        int64_t *ids = rf_calloc(t->n_elems, sizeof *ids);
        assert_non_null(ids);
        memcpy(ids, t->bytes, (size_t)t->n_bytes);
        return rf_view_nd(ids, RF_I64, t->n_dims, t->shape);
    }
    return rf_view_nd(read_tensor(t), RF_F32, t->n_dims, t->shape);
}

/* Model `name` as golden/vit/<name>/<reference>.safetensors is for. */
static inline model open_model(const char *name, const char *reference, int n_threads)
{
    model m = {0};
    char path[RF_PATH_LEN];
    rf_vit_opts opts = {0};
    assert_ok(
        rf_format(path, sizeof path, "%s/vit/%s/%s.safetensors", RF_GOLDEN_DIR, name, reference));
    assert_ok(rf_tensor_file_open(path, &m.golden));
    assert_ok(rf_vit_reference_opts(m.golden, &opts));
    assert_ok(rf_format(path, sizeof path, "%s/vit/%s", RF_GOLDEN_DIR, name));
    assert_ok(rf_backend_cpu_create(n_threads, &m.be));
    assert_ok(rf_stream_create(m.be, &m.s));
    assert_ok(rf_vit_open(m.be, path, &opts, &m.vit));
    m.input = read_input(m.golden);
    return m;
}

static inline void close_model(model *m)
{
    rf_free(m->input.data);
    rf_tensor_file_close(m->golden);
    rf_vit_close(m->vit);
    rf_stream_destroy(m->s);
    rf_backend_destroy(m->be);
}

static inline rf_vit_output forward(model *m, const rf_hook *hooks, int64_t n_hooks)
{
    rf_vit_output out = {0};
    assert_ok(rf_vit_forward(m->vit, m->s, &m->input, hooks, n_hooks, RF_VIT_RUN_ALL, &out));
    return out;
}

static inline double largest_change(const float *a, const float *b, int64_t n)
{
    double change = 0.0;
    for (int64_t i = 0; i < n; i++) {
        change = fmax(change, fabs((double)a[i] - (double)b[i]));
    }
    return change;
}

#endif
