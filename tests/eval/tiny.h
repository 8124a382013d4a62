/* A ViT classifier of a few thousand weights, pictures for it, and random coders: made on the spot,
 * in a folder of their own. */
#ifndef TESTS_EVAL_TINY_H
#define TESTS_EVAL_TINY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "refract/eval.h"

enum { TINY_D = 16, TINY_LAYERS = 2, TINY_MLP = 32, TINY_SIDE = 8, TINY_PATCH = 4, TINY_T = 5 };
enum { TINY_CLASSES = 3, TINY_PICTURES = 23, TINY_MAX_TENSORS = 64 };

static const char *const tiny_labels[TINY_CLASSES] = {"cat", "dog", "great owl"};

static inline void tiny_ok(rf_status status, const char *what)
{
    if (status != RF_OK) {
        fail_msg("%s: %s (%s)", what, rf_error_text(), rf_error_place());
    }
}
#define TINY_OK(call) tiny_ok((call), #call)

/* Independent normals times `scale`, keyed by `key`. To be freed. */
static inline float *tiny_normals(uint64_t key, int64_t n, float scale, float offset)
{
    float *x = rf_calloc(n, sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        float r[4];
        rf_random_normal4(7, RF_RANDOM_TEST, key, (uint64_t)i, r);
        x[i] = offset + scale * r[0];
    }
    return x;
}

typedef struct tiny_weights {
    rf_named_tensor tensors[TINY_MAX_TENSORS];
    char names[TINY_MAX_TENSORS][RF_NAME_LEN];
    int64_t n;
    uint64_t seed; /* 0: the first model */
} tiny_weights;

static inline void tiny_add(tiny_weights *w, const char *name, int n_dims, const int64_t *shape,
                            float scale, float offset)
{
    rf_named_tensor *t = &w->tensors[w->n];
    *t = (rf_named_tensor){
        .name = w->names[w->n], .dtype = RF_FILE_F32, .n_dims = n_dims, .n_elems = 1};
    TINY_OK(rf_format(w->names[w->n], RF_NAME_LEN, "%s", name));
    for (int i = 0; i < n_dims; i++) {
        t->shape[i] = shape[i];
        t->n_elems *= shape[i];
    }
    t->bytes = (const unsigned char *)tiny_normals(100000 * w->seed + (uint64_t)w->n, t->n_elems,
                                                   scale, offset);
    t->n_bytes = t->n_elems * 4;
    w->n++;
}

/* `name`.weight [n_out, n_in] and `name`.bias. */
static inline void tiny_add_linear(tiny_weights *w, const char *name, int64_t n_out, int64_t n_in)
{
    char full[RF_NAME_LEN];
    const int64_t shape[2] = {n_out, n_in};
    TINY_OK(rf_format(full, sizeof full, "%s.weight", name));
    tiny_add(w, full, 2, shape, 0.3F, 0);
    TINY_OK(rf_format(full, sizeof full, "%s.bias", name));
    tiny_add(w, full, 1, shape, 0.1F, 0);
}

static inline void tiny_add_norm(tiny_weights *w, const char *name)
{
    char full[RF_NAME_LEN];
    const int64_t shape[1] = {TINY_D};
    TINY_OK(rf_format(full, sizeof full, "%s.weight", name));
    tiny_add(w, full, 1, shape, 0.1F, 1);
    TINY_OK(rf_format(full, sizeof full, "%s.bias", name));
    tiny_add(w, full, 1, shape, 0.1F, 0);
}

static inline void tiny_add_layer(tiny_weights *w, int layer)
{
    static const struct {
        const char *name;
        int64_t n_out, n_in;
    } linears[] = {
        {"attention.attention.query", TINY_D, TINY_D}, {"attention.attention.key", TINY_D, TINY_D},
        {"attention.attention.value", TINY_D, TINY_D}, {"attention.output.dense", TINY_D, TINY_D},
        {"intermediate.dense", TINY_MLP, TINY_D},      {"output.dense", TINY_D, TINY_MLP}};
    char name[RF_NAME_LEN];
    for (int i = 0; i < 6; i++) {
        TINY_OK(rf_format(name, sizeof name, "vit.encoder.layer.%d.%s", layer, linears[i].name));
        tiny_add_linear(w, name, linears[i].n_out, linears[i].n_in);
    }
    TINY_OK(rf_format(name, sizeof name, "vit.encoder.layer.%d.layernorm_before", layer));
    tiny_add_norm(w, name);
    TINY_OK(rf_format(name, sizeof name, "vit.encoder.layer.%d.layernorm_after", layer));
    tiny_add_norm(w, name);
}

static inline void tiny_write_text(const char *folder, const char *name, const char *text)
{
    char path[RF_PATH_LEN];
    TINY_OK(rf_path_join(path, folder, name));
    TINY_OK(rf_file_write_atomic(path, text, (int64_t)strlen(text)));
}

static inline void tiny_write_model(const char *folder, uint64_t seed)
{
    static const int64_t cls[3] = {1, 1, TINY_D}, position[3] = {1, TINY_T, TINY_D};
    static const int64_t patches[4] = {TINY_D, 3, TINY_PATCH, TINY_PATCH}, bias[1] = {TINY_D};
    tiny_weights w = {.seed = seed};
    char path[RF_PATH_LEN];

    TINY_OK(rf_file_make_dirs(folder));
    tiny_add(&w, "vit.embeddings.cls_token", 3, cls, 1, 0);
    tiny_add(&w, "vit.embeddings.position_embeddings", 3, position, 0.5F, 0);
    tiny_add(&w, "vit.embeddings.patch_embeddings.projection.weight", 4, patches, 0.3F, 0);
    tiny_add(&w, "vit.embeddings.patch_embeddings.projection.bias", 1, bias, 0.1F, 0);
    for (int i = 0; i < TINY_LAYERS; i++) {
        tiny_add_layer(&w, i);
    }
    tiny_add_norm(&w, "vit.layernorm");
    tiny_add_linear(&w, "classifier", TINY_CLASSES, TINY_D);
    TINY_OK(rf_path_join(path, folder, "model.safetensors"));
    TINY_OK(rf_safetensors_write(path, w.tensors, w.n, NULL, 0));
    for (int64_t i = 0; i < w.n; i++) {
        rf_free((void *)(uintptr_t)w.tensors[i].bytes);
    }
    tiny_write_text(
        folder, "config.json",
        "{\"model_type\": \"vit\", \"architectures\": [\"ViTForImageClassification\"],"
        " \"hidden_size\": 16, \"num_hidden_layers\": 2, \"num_attention_heads\": 2,"
        " \"intermediate_size\": 32, \"hidden_act\": \"gelu\", \"layer_norm_eps\": 1e-6,"
        " \"image_size\": 8, \"patch_size\": 4, \"num_channels\": 3,"
        " \"qkv_bias\": true,"
        " \"id2label\": {\"0\": \"cat\", \"1\": \"dog\", \"2\": \"great owl\"}}");
    tiny_write_text(folder, "preprocessor_config.json",
                    "{\"image_processor_type\": \"ViTImageProcessor\", \"do_resize\": true,"
                    " \"size\": {\"height\": 8, \"width\": 8}, \"resample\": 2,"
                    " \"do_rescale\": true, \"rescale_factor\": 0.00392156862745098,"
                    " \"do_normalize\": true, \"image_mean\": [0.5, 0.5, 0.5],"
                    " \"image_std\": [0.5, 0.5, 0.5]}");
}

/* TINY_PICTURES pictures in class folders, and one file that is none. */
static inline void tiny_write_pictures(const char *folder, const char *const *labels, bool with_bad)
{
    char sub[RF_PATH_LEN], name[RF_NAME_LEN], path[RF_PATH_LEN];
    uint8_t rgb[TINY_SIDE * TINY_SIDE * 3];

    for (int i = 0; i < TINY_PICTURES; i++) {
        const rf_picture picture = {.height = TINY_SIDE, .width = TINY_SIDE, .rgb = rgb};
        for (size_t p = 0; p < sizeof rgb; p++) {
            uint32_t r[4];
            rf_random_u32x4(3, RF_RANDOM_TEST, (uint64_t)i, p, r);
            rgb[p] = (uint8_t)(r[0] >> 24);
        }
        TINY_OK(rf_path_join(sub, folder, labels[i % TINY_CLASSES]));
        TINY_OK(rf_file_make_dirs(sub));
        TINY_OK(rf_format(name, sizeof name, "p%02d.png", i));
        TINY_OK(rf_path_join(path, sub, name));
        TINY_OK(rf_picture_write_png(path, &picture));
    }
    if (with_bad) {
        TINY_OK(rf_path_join(sub, folder, labels[0]));
        tiny_write_text(sub, "a-broken.png", "not a picture");
    }
}

/* Everything that a measurement borrows, on the CPU. */
typedef struct tiny {
    char folder[RF_PATH_LEN], model[RF_PATH_LEN], data[RF_PATH_LEN];
    rf_backend *be;
    rf_stream *stream;
    rf_vit *vit;
    rf_picture_list *pictures;
    rf_transform transform;
} tiny;

/* Write model and pictures below a fresh folder. */
static inline void tiny_write(tiny *t, const char *const *labels, bool with_bad)
{
    const char *base = getenv("TMPDIR");
    TINY_OK(rf_format(t->folder, sizeof t->folder, "%s/refract-eval-XXXXXX",
                      base != NULL ? base : "/tmp"));
    assert_non_null(mkdtemp(t->folder));
    TINY_OK(rf_path_join(t->model, t->folder, "model"));
    TINY_OK(rf_path_join(t->data, t->folder, "pictures"));
    tiny_write_model(t->model, 0);
    tiny_write_pictures(t->data, labels, with_bad);
}

static inline void tiny_open(tiny *t, double holdout)
{
    const rf_picture_list_opts opts = {.path = t->data, .holdout = holdout, .seed = 1};
    TINY_OK(rf_backend_cpu_create(1, &t->be));
    TINY_OK(rf_stream_create(t->be, &t->stream));
    TINY_OK(rf_transform_load(t->model, &t->transform));
    TINY_OK(rf_vit_open(t->be, t->model, NULL, &t->vit));
    TINY_OK(rf_picture_list_open(&opts, &t->pictures));
}

static inline void tiny_close(tiny *t)
{
    rf_picture_list_close(t->pictures);
    rf_vit_close(t->vit);
    rf_stream_destroy(t->stream);
    rf_backend_destroy(t->be);
}

static inline void tiny_remove(const tiny *t)
{
    char command[RF_PATH_LEN + 16];
    TINY_OK(rf_format(command, sizeof command, "rm -rf '%s'", t->folder));
    assert_int_equal(system(command), 0);
}

static inline rf_coder_settings tiny_settings(const char *architecture, int64_t n_latents,
                                              int64_t k)
{
    rf_coder_settings settings;
    TINY_OK(rf_settings_defaults(&rf_coder_settings_table, &settings));
    for (int i = 0; i < rf_architecture_count(); i++) {
        if (strcmp(rf_architecture_at(i)->name, architecture) == 0) {
            settings.architecture = i;
        }
    }
    settings.latents = n_latents;
    settings.k = (rf_k_by_class){.any = k};
    settings.w_enc = RF_W_ENC_INDEPENDENT;
    return settings;
}

static inline void tiny_fill(const tiny *t, const rf_coder *coder, int idx, uint64_t key,
                             float scale, float offset)
{
    const rf_view view = rf_coder_view(coder, idx);
    const int64_t n = rf_view_n_elems(&view);
    if (view.data != NULL) {
        float *x = tiny_normals(key + 100 * (uint64_t)idx, n, scale, offset);
        TINY_OK(rf_copy_in(t->stream, view.data, x, (size_t)n * sizeof *x));
        TINY_OK(rf_stream_synchronise(t->stream));
        rf_free(x);
    }
}

/* A coder of random tensors, biases away from 0; a threshold in use that cuts some values off. */
static inline rf_coder *tiny_coder_of(const tiny *t, const rf_coder_settings *settings,
                                      const rf_coder_shape *shape, uint64_t key)
{
    static const struct {
        float scale, offset;
    } of[RF_CODER_N_TENSORS] = {
        [RF_CODER_W_ENC] = {0.25F, 0},         [RF_CODER_B_ENC] = {0.3F, 0},
        [RF_CODER_W_DEC] = {0.25F, 0},         [RF_CODER_B_DEC] = {0.3F, 0},
        [RF_CODER_LOG_THRESHOLD] = {0.3F, -1}, [RF_CODER_GAIN] = {0.3F, 0},
        [RF_CODER_B_MAG] = {0.3F, 0},          [RF_CODER_W_SKIP] = {0.2F, 0},
        [RF_CODER_IN_SHIFT] = {0.3F, 0},       [RF_CODER_IN_SCALE] = {0.1F, 1.5F},
        [RF_CODER_OUT_SHIFT] = {0.3F, 0},      [RF_CODER_OUT_SCALE] = {0.1F, 0.7F}};
    rf_coder *coder = NULL;
    rf_coder_state state;

    TINY_OK(rf_coder_create(t->be, settings, shape, &coder));
    for (int i = 0; i < RF_CODER_N_TENSORS; i++) {
        if (of[i].scale > 0) {
            tiny_fill(t, coder, i, key, of[i].scale, of[i].offset);
        }
    }
    TINY_OK(rf_coder_get_state(coder, t->stream, &state));
    state.scalars[RF_SCALAR_THRESHOLD] = 0.2F;
    state.scalars[RF_SCALAR_THRESHOLD_MASS] = 0.4F;
    TINY_OK(rf_coder_set_state(coder, t->stream, &state));
    return coder;
}

/* An autoencoder of one site of the model. */
static inline rf_coder *tiny_coder(const tiny *t, const char *architecture, int64_t n_latents,
                                   int64_t k, uint64_t key)
{
    const rf_coder_settings settings = tiny_settings(architecture, n_latents, k);
    const rf_coder_shape shape = rf_coder_shape_of(TINY_D);
    return tiny_coder_of(t, &settings, &shape, key);
}

static inline rf_eval_model tiny_model(const tiny *t)
{
    return (rf_eval_model){.name = "", .vit = t->vit, .transform = &t->transform};
}

/* Takes `coder`. */
static inline rf_eval_coder tiny_eval_coder(const tiny *t, const char *name, const char *hook,
                                            rf_token_class tokens, rf_coder *coder)
{
    rf_reader_site *site = rf_calloc(1, sizeof *site);
    assert_non_null(site);
    TINY_OK(rf_vit_hook_find(rf_vit_get_config(t->vit), hook, &site->point));
    return (rf_eval_coder){
        .name = name, .sites = site, .n_in = 1, .tokens = tokens, .coder = coder};
}

static inline void tiny_eval_coder_fini(rf_eval_coder *coder)
{
    rf_coder_destroy(coder->coder);
    rf_free((void *)(uintptr_t)coder->sites);
    *coder = (rf_eval_coder){.name = NULL};
}

#endif
