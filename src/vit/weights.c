/* Weights from safetensors to the backend: found by the architecture table, checked against the
 * config, turned to fp32, linear maps transposed to [in, out] (the faster side of the product). */
#include "vit_impl.h"

#include <stdio.h>
#include <string.h>

enum { MAX_SHAPE = 4, ALIGN_FLOATS = 16 };

typedef enum layout { AS_STORED, TRANSPOSED, POSITIONS } layout;

/* A tensor to be loaded and where its view goes. */
typedef struct item {
    const rf_named_tensor *tensor;
    rf_view *view;
    layout layout;
    int64_t n_rows, n_cols; /* as stored, all but the first dimension in one */
    int64_t offset;         /* floats into the arena */
} item;

typedef struct plan {
    const rf_vit_files *files;
    item *items;
    int64_t n_items, n_floats;
} plan;

/* ---- finding -------------------------------------------------------------------------------- */

/* `pattern` with {l} filled in, between prefix and suffix. False where it does not fit. */
static bool spell(char out[RF_NAME_LEN], const char *prefix, const char *pattern, int64_t layer,
                  const char *suffix)
{
    const char *mark = strstr(pattern, "{l}");
    int n = mark == NULL ? snprintf(out, RF_NAME_LEN, "%s%s%s", prefix, pattern, suffix)
                         : snprintf(out, RF_NAME_LEN, "%s%.*s%" PRId64 "%s%s", prefix,
                                    (int)(mark - pattern), pattern, layer, mark + 3, suffix);
    return n >= 0 && n < RF_NAME_LEN;
}

static const rf_named_tensor *find_with_prefix(const rf_vit_files *files, const char *prefix,
                                               rf_part part, const char *suffix, int64_t layer)
{
    const char *const *spellings = files->arch->names[part];
    char name[RF_NAME_LEN];
    for (int i = 0; i < RF_MAX_SPELLINGS && spellings[i] != NULL; i++) {
        const rf_named_tensor *t = spell(name, prefix, spellings[i], layer, suffix)
                                       ? rf_tensor_file_find(files->weights, name)
                                       : NULL;
        if (t != NULL) {
            return t;
        }
    }
    return NULL;
}

/* The prefix that this file's tensors have: the one that its patch projection has. */
static const char *prefix_of(const rf_vit_files *files)
{
    const rf_arch *a = files->arch;
    for (int i = 0; i < RF_MAX_WORDS && a->prefixes[i] != NULL; i++) {
        if (find_with_prefix(files, a->prefixes[i], RF_PART_PATCH, ".weight", -1) != NULL) {
            return a->prefixes[i];
        }
    }
    return a->prefixes[0];
}

const rf_named_tensor *rf_weights_find(const rf_vit_files *files, rf_part part, const char *suffix,
                                       int64_t layer, char name[RF_NAME_LEN])
{
    name[0] = '\0';
    if (files->arch->names[part][0] == NULL) {
        return NULL;
    }
    const bool outside = part == RF_PART_PROJECTION || part == RF_PART_HEAD;
    const char *prefix = outside ? "" : prefix_of(files);
    spell(name, prefix, files->arch->names[part][0], layer, suffix);
    return find_with_prefix(files, prefix, part, suffix, layer);
}

/* ---- planning ------------------------------------------------------------------------------- */

static void shape_text(const int64_t *shape, int n_dims, char *out, size_t out_bytes)
{
    size_t at = (size_t)snprintf(out, out_bytes, "[");
    for (int i = 0; i < n_dims && at < out_bytes; i++) {
        at += (size_t)snprintf(out + at, out_bytes - at, "%s%" PRId64, i > 0 ? ", " : "", shape[i]);
    }
    if (at < out_bytes) {
        snprintf(out + at, out_bytes - at, "]");
    }
}

/* Equal but for leading dimensions of one: [1, T, d] and [T, d] are both in use. */
static bool same_shape(const rf_named_tensor *t, const int64_t *shape, int n_dims)
{
    int skip_t = 0, skip_s = 0;
    while (skip_t < t->n_dims && t->shape[skip_t] == 1) {
        skip_t++;
    }
    while (skip_s < n_dims && shape[skip_s] == 1) {
        skip_s++;
    }
    if (t->n_dims - skip_t != n_dims - skip_s) {
        return false;
    }
    for (int i = 0; i < n_dims - skip_s; i++) {
        if (t->shape[skip_t + i] != shape[skip_s + i]) {
            return false;
        }
    }
    return true;
}

typedef struct want {
    rf_part part;
    const char *suffix;
    rf_view *view;
    layout layout;
    int n_dims;
    int64_t shape[MAX_SHAPE];
} want;

static rf_status plan_tensor(plan *p, int64_t layer, want w)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN], got[128], expected[128];
    const rf_named_tensor *t = rf_weights_find(p->files, w.part, w.suffix, layer, name);
    if (t == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "tensor '%s' is missing from the weights", name);
    }
    if (!same_shape(t, w.shape, w.n_dims)) {
        shape_text(t->shape, t->n_dims, got, sizeof got);
        shape_text(w.shape, w.n_dims, expected, sizeof expected);
        RF_FAIL(RF_ERR_FORMAT, "tensor '%s' has shape %s, but config.json means %s", t->name, got,
                expected);
    }
    item *it = &p->items[p->n_items++];
    *it = (item){.tensor = t, .view = w.view, .layout = w.layout, .offset = p->n_floats};
    it->n_rows = w.n_dims == 1 ? 1 : w.shape[0];
    it->n_cols = t->n_elems / it->n_rows;
    int64_t n = t->n_elems;
    if (w.layout == POSITIONS) { /* may be resampled to another number of rows */
        n = p->files->config.n_tokens * it->n_cols;
    }
    p->n_floats += rf_ceil_div(n, ALIGN_FLOATS) * ALIGN_FLOATS;
fail:
    return status;
}

typedef enum bias { NO_BIAS, WITH_BIAS } bias;

static rf_status plan_linear(plan *p, rf_part part, int64_t layer, rf_linear *l, int64_t n_out,
                             int64_t n_in, bias b)
{
    rf_status status = RF_OK;
    RF_TRY(
        plan_tensor(p, layer, (want){part, ".weight", &l->weight, TRANSPOSED, 2, {n_out, n_in}}));
    if (b == WITH_BIAS) {
        RF_TRY(plan_tensor(p, layer, (want){part, ".bias", &l->bias, AS_STORED, 1, {n_out}}));
    }
fail:
    return status;
}

static rf_status plan_norm(plan *p, rf_part part, int64_t layer, rf_linear *l)
{
    rf_status status = RF_OK;
    const int64_t d = p->files->config.d_model;
    if (p->files->arch->names[part][0] != NULL) {
        RF_TRY(plan_tensor(p, layer, (want){part, ".weight", &l->weight, AS_STORED, 1, {d}}));
        RF_TRY(plan_tensor(p, layer, (want){part, ".bias", &l->bias, AS_STORED, 1, {d}}));
    }
fail:
    return status;
}

static rf_status plan_block(plan *p, int64_t layer, rf_block_weights *b)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->files->config;
    const int64_t d = c->d_model;
    const bias qkv = p->files->has_qkv_bias ? WITH_BIAS : NO_BIAS;
    RF_TRY(plan_norm(p, RF_PART_LN1, layer, &b->ln1));
    RF_TRY(plan_linear(p, RF_PART_Q, layer, &b->q, d, d, qkv));
    RF_TRY(plan_linear(p, RF_PART_K, layer, &b->k, d, d, qkv));
    RF_TRY(plan_linear(p, RF_PART_V, layer, &b->v, d, d, qkv));
    RF_TRY(plan_linear(p, RF_PART_O, layer, &b->o, d, d, WITH_BIAS));
    RF_TRY(plan_norm(p, RF_PART_LN2, layer, &b->ln2));
    RF_TRY(plan_linear(p, RF_PART_FC1, layer, &b->fc1, c->d_mlp, d, WITH_BIAS));
    RF_TRY(plan_linear(p, RF_PART_FC2, layer, &b->fc2, d, c->d_mlp, WITH_BIAS));
    if (c->has_layer_scale) {
        RF_TRY(plan_tensor(p, layer, (want){RF_PART_SCALE1, "", &b->scale1, AS_STORED, 1, {d}}));
        RF_TRY(plan_tensor(p, layer, (want){RF_PART_SCALE2, "", &b->scale2, AS_STORED, 1, {d}}));
    }
fail:
    return status;
}

static rf_status plan_all(plan *p, rf_vit_weights *w)
{
    rf_status status = RF_OK;
    const rf_vit_files *f = p->files;
    const rf_vit_config *c = &f->config;
    const int64_t d = c->d_model, n_native = f->native_grid[1] * f->native_grid[2];
    const int64_t n_head_in = f->arch->head_input == RF_HEAD_POOLED ? d : 2 * d;

    RF_TRY(plan_tensor(p, -1,
                       (want){RF_PART_PATCH,
                              ".weight",
                              &w->patch.weight,
                              TRANSPOSED,
                              4,
                              {d, c->n_channels, c->patch_size, c->patch_size}}));
    if (f->arch->has_patch_bias) {
        RF_TRY(
            plan_tensor(p, -1, (want){RF_PART_PATCH, ".bias", &w->patch.bias, AS_STORED, 1, {d}}));
    }
    RF_TRY(plan_tensor(p, -1, (want){RF_PART_CLS, "", &w->prefix_token, AS_STORED, 2, {1, d}}));
    RF_TRY(plan_tensor(
        p, -1,
        (want){RF_PART_POSITION, "", &w->position, POSITIONS, 2, {c->n_prefix + n_native, d}}));
    RF_TRY(plan_norm(p, RF_PART_LN_PRE, -1, &w->ln_pre));
    for (int64_t l = 0; l < c->n_layers; l++) {
        RF_TRY(plan_block(p, l, &w->blocks[l]));
    }
    RF_TRY(plan_norm(p, RF_PART_LN_FINAL, -1, &w->ln_final));
    if (c->has_projection) {
        RF_TRY(plan_linear(p, RF_PART_PROJECTION, -1, &w->projection, c->d_out, d, NO_BIAS));
    }
    if (c->n_classes > 0) {
        RF_TRY(plan_linear(p, RF_PART_HEAD, -1, &w->head, c->n_classes, n_head_in, WITH_BIAS));
    }
fail:
    return status;
}

/* ---- loading -------------------------------------------------------------------------------- */

static void transpose(const float *in, int64_t n_rows, int64_t n_cols, float *out)
{
    enum { TILE = 32 };
    for (int64_t i0 = 0; i0 < n_rows; i0 += TILE) {
        for (int64_t j0 = 0; j0 < n_cols; j0 += TILE) {
            for (int64_t j = j0; j < rf_min_i64(n_cols, j0 + TILE); j++) {
                for (int64_t i = i0; i < rf_min_i64(n_rows, i0 + TILE); i++) {
                    out[j * n_rows + i] = in[i * n_cols + j];
                }
            }
        }
    }
}

/* Positions of the prefix as they are, those of the grid resampled where its side differs. */
static void fit_positions(const rf_vit_files *f, const float *in, float *out)
{
    const rf_vit_config *c = &f->config;
    const int64_t d = c->d_model, old_side = f->native_grid[1];
    const int64_t new_side = c->grid[1], skip = c->n_prefix * d;
    memcpy(out, in, (size_t)skip * sizeof *out);
    if (new_side == old_side) {
        memcpy(out + skip, in + skip, (size_t)(new_side * new_side * d) * sizeof *out);
    } else {
        rf_interpolate_positions(in + skip, old_side, d, out + skip, new_side);
    }
}

/* `host` and `turned` hold the largest tensor each. */
static rf_status load_item(rf_stream *s, const rf_vit_files *f, const item *it, float *arena,
                           float *host, float *turned)
{
    rf_status status = RF_OK;
    const float *from = host;
    float *to = arena + it->offset;
    RF_TRY(rf_named_tensor_read_f32(it->tensor, host));
    int64_t n_rows = it->n_rows, n_cols = it->n_cols;
    if (it->layout == TRANSPOSED) {
        transpose(host, n_rows, n_cols, turned);
        from = turned;
        n_rows = it->n_cols;
        n_cols = it->n_rows;
    } else if (it->layout == POSITIONS) {
        fit_positions(f, host, turned);
        from = turned;
        n_rows = f->config.n_tokens;
    }
    *it->view = it->layout == AS_STORED && n_rows == 1 && it->tensor->n_dims == 1
                    ? rf_view_1d(to, n_cols)
                    : rf_view_2d(to, n_rows, n_cols);
    RF_TRY(rf_copy_in(s, to, from, (size_t)(n_rows * n_cols) * sizeof *to));
    RF_TRY(rf_stream_synchronise(s)); /* the host buffers are used again */
fail:
    return status;
}

static rf_status load_all(rf_stream *s, const plan *p, rf_vit_weights *w)
{
    rf_status status = RF_OK;
    float *host = NULL, *turned = NULL;
    int64_t largest = p->files->config.n_tokens * p->files->config.d_model;
    w->hash = RF_HASH_START;
    for (int64_t i = 0; i < p->n_items; i++) {
        const rf_named_tensor *t = p->items[i].tensor;
        largest = rf_max_i64(largest, t->n_elems);
        w->hash = rf_hash(w->hash, t->bytes, (size_t)t->n_bytes);
    }
    RF_ALLOC(host, largest);
    RF_ALLOC(turned, largest);
    for (int64_t i = 0; i < p->n_items; i++) {
        RF_TRY(load_item(s, p->files, &p->items[i], w->arena, host, turned));
    }
fail:
    rf_free(host);
    rf_free(turned);
    return status;
}

rf_status rf_weights_derive(rf_backend *be, rf_stream *s, const rf_vit_config *config,
                            rf_dtype products, rf_vit_weights *w)
{
    rf_status status = RF_OK;
    (void)products;
    if (w->derived == NULL) {
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE,
                               (size_t)(config->n_prefix * config->d_model) * sizeof(float),
                               (void **)&w->derived));
    }
    w->prefix_token = rf_view_2d(w->prefix_token.data, config->n_prefix, config->d_model);
    w->prefix = rf_view_2d(w->derived, config->n_prefix, config->d_model);
    const rf_add_args args = {
        .x = w->prefix_token, .r = rf_view_rows(w->position, 0, config->n_prefix), .y = w->prefix};
    RF_TRY(rf_add(s, &args));
fail:
    return status;
}

rf_status rf_weights_load(rf_backend *be, rf_stream *s, const rf_vit_files *files,
                          rf_vit_weights *out)
{
    rf_status status = RF_OK;
    plan p = {.files = files};
    *out = (rf_vit_weights){0};
    RF_ALLOC(out->blocks, files->config.n_layers);
    RF_ALLOC(p.items, 32 + 24 * files->config.n_layers); /* more than any family has */
    RF_TRY_DOING(plan_all(&p, out), "%s", files->folder);
    out->n_floats = p.n_floats;
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)out->n_floats * sizeof(float),
                           (void **)&out->arena));
    RF_TRY_DOING(load_all(s, &p, out), "%s", files->folder);
    RF_TRY(rf_weights_derive(be, s, &files->config, files->opts.products, out));
    RF_TRY(rf_stream_synchronise(s));
fail:
    rf_free(p.items);
    if (status != RF_OK) {
        rf_weights_fini(be, out);
    }
    return status;
}

void rf_weights_fini(rf_backend *be, rf_vit_weights *w)
{
    rf_memory_free(be, RF_MEMORY_DEVICE, w->arena);
    rf_memory_free(be, RF_MEMORY_DEVICE, w->derived);
    rf_memory_free(be, RF_MEMORY_DEVICE, w->half);
    rf_free(w->params);
    rf_free(w->blocks);
    *w = (rf_vit_weights){0};
}
