/* Random models as files (forward_model.h). */
#include "forward_model.h"

#include "refract/io.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MAX_TENSORS = 512 };

const model models[N_MODELS] = {{"clip-b32", "clip", 32, 768, 12, 12, 64},
                                {"clip-b16", "clip", 16, 768, 12, 12, 16},
                                {"clip-l14", "clip", 14, 1024, 24, 16, 8},
                                {"dinov2-s14", "dinov2", 14, 384, 12, 6, 16},
                                {"tiny", "clip", 112, 64, 2, 2, 2}};

int64_t n_patches(const model *m)
{
    return (SIDE / m->patch) * (SIDE / m->patch);
}

int64_t n_tokens(const model *m)
{
    return n_patches(m) + 1;
}

typedef enum weight_kind {
    ONE_TOKEN, /* [1, 1, D] */
    VECTOR,    /* [D] */
    POSITIONS, /* [T, D] */
    POSITIONS_3D,
    PATCH,      /* .weight [D, C, P, P] */
    PATCH_BIAS, /* and .bias [D] */
    NORM,       /* .weight [D] of ones, .bias [D] */
    ONES,       /* [D] */
    SQUARE,     /* .weight [D, D], .bias */
    FC1,
    FC2,
} weight_kind;

typedef struct weight_name {
    const char *family, *name; /* with %d: once a layer */
    weight_kind kind;
} weight_name;

static const weight_name weight_names[] = {
    {"clip", "vision_model.embeddings.class_embedding", VECTOR},
    {"clip", "vision_model.embeddings.patch_embedding", PATCH},
    {"clip", "vision_model.embeddings.position_embedding.weight", POSITIONS},
    {"clip", "vision_model.pre_layrnorm", NORM},
    {"clip", "vision_model.encoder.layers.%d.layer_norm1", NORM},
    {"clip", "vision_model.encoder.layers.%d.self_attn.q_proj", SQUARE},
    {"clip", "vision_model.encoder.layers.%d.self_attn.k_proj", SQUARE},
    {"clip", "vision_model.encoder.layers.%d.self_attn.v_proj", SQUARE},
    {"clip", "vision_model.encoder.layers.%d.self_attn.out_proj", SQUARE},
    {"clip", "vision_model.encoder.layers.%d.layer_norm2", NORM},
    {"clip", "vision_model.encoder.layers.%d.mlp.fc1", FC1},
    {"clip", "vision_model.encoder.layers.%d.mlp.fc2", FC2},
    {"clip", "vision_model.post_layernorm", NORM},
    {"dinov2", "embeddings.cls_token", ONE_TOKEN},
    {"dinov2", "embeddings.patch_embeddings.projection", PATCH_BIAS},
    {"dinov2", "embeddings.position_embeddings", POSITIONS_3D},
    {"dinov2", "encoder.layer.%d.norm1", NORM},
    {"dinov2", "encoder.layer.%d.attention.attention.query", SQUARE},
    {"dinov2", "encoder.layer.%d.attention.attention.key", SQUARE},
    {"dinov2", "encoder.layer.%d.attention.attention.value", SQUARE},
    {"dinov2", "encoder.layer.%d.attention.output.dense", SQUARE},
    {"dinov2", "encoder.layer.%d.layer_scale1.lambda1", ONES},
    {"dinov2", "encoder.layer.%d.norm2", NORM},
    {"dinov2", "encoder.layer.%d.mlp.fc1", FC1},
    {"dinov2", "encoder.layer.%d.mlp.fc2", FC2},
    {"dinov2", "encoder.layer.%d.layer_scale2.lambda1", ONES},
    {"dinov2", "layernorm", NORM}};

/* A model's tensors. All of them borrow from two pools: how fast a product is does not depend on
 * its numbers. */
typedef struct weight_set {
    rf_named_tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][RF_NAME_LEN];
    int64_t n;
    float *random, *ones;
} weight_set;

static rf_status add_tensor(weight_set *w, const char *name, int layer, const char *suffix,
                            const float *pool, int n_dims, const int64_t *shape)
{
    rf_status status = RF_OK;
    char stem[RF_NAME_LEN];
    RF_REQUIRE(w->n < MAX_TENSORS, "more than %d tensors", MAX_TENSORS);
    rf_named_tensor *t = &w->tensors[w->n];
    const char *at = strstr(name, "%d");
    if (at == NULL) {
        RF_TRY(rf_format(stem, sizeof stem, "%s", name));
    } else {
        RF_TRY(rf_format(stem, sizeof stem, "%.*s%d%s", (int)(at - name), name, layer, at + 2));
    }
    RF_TRY(rf_format(w->names[w->n], RF_NAME_LEN, "%s%s", stem, suffix));
    *t = (rf_named_tensor){.name = w->names[w->n],
                           .dtype = RF_FILE_F32,
                           .n_dims = n_dims,
                           .n_elems = 1,
                           .bytes = (const unsigned char *)pool};
    for (int i = 0; i < n_dims; i++) {
        t->shape[i] = shape[i];
        t->n_elems *= shape[i];
    }
    t->n_bytes = 4 * t->n_elems;
    w->n++;
fail:
    return status;
}

static rf_status add_weight(weight_set *w, const model *m, const weight_name *name, int layer)
{
    rf_status status = RF_OK;
    const int64_t d = m->d, t = n_tokens(m), p = m->patch;
    const struct {
        int n_dims;
        int64_t shape[4], n_bias;
        const char *suffix;
    } forms[] = {[ONE_TOKEN] = {3, {1, 1, d}, 0, ""},
                 [VECTOR] = {1, {d}, 0, ""},
                 [POSITIONS] = {2, {t, d}, 0, ""},
                 [POSITIONS_3D] = {3, {1, t, d}, 0, ""},
                 [ONES] = {1, {d}, 0, ""},
                 [PATCH] = {4, {d, CHANNELS, p, p}, 0, ".weight"},
                 [PATCH_BIAS] = {4, {d, CHANNELS, p, p}, d, ".weight"},
                 [NORM] = {1, {d}, d, ".weight"},
                 [SQUARE] = {2, {d, d}, d, ".weight"},
                 [FC1] = {2, {4 * d, d}, 4 * d, ".weight"},
                 [FC2] = {2, {d, 4 * d}, d, ".weight"}};
    const weight_kind kind = name->kind;
    const float *pool = kind == NORM || kind == ONES ? w->ones : w->random;
    RF_TRY(add_tensor(w, name->name, layer, forms[kind].suffix, pool, forms[kind].n_dims,
                      forms[kind].shape));
    if (forms[kind].n_bias > 0) {
        RF_TRY(add_tensor(w, name->name, layer, ".bias", w->random, 1, &forms[kind].n_bias));
    }
fail:
    return status;
}

/* Normals of standard deviation 0.02, as models begin with. */
static rf_status fill_pools(weight_set *w, const model *m)
{
    rf_status status = RF_OK;
    const int64_t n = m->d * rf_max_i64(4 * m->d, CHANNELS * m->patch * m->patch); /* the largest */
    RF_ALLOC(w->random, n);
    RF_ALLOC(w->ones, m->d);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i += 4) {
        rf_random_normal4(1, RF_RANDOM_TEST, (uint64_t)i, 0, w->random + i);
        for (int j = 0; j < 4; j++) {
            w->random[i + j] *= 0.02f;
        }
    }
    for (int64_t i = 0; i < m->d; i++) {
        w->ones[i] = 1.0f;
    }
fail:
    return status;
}

static rf_status write_config(const model *m, const char *folder)
{
    rf_status status = RF_OK;
    char text[1024], path[RF_PATH_LEN];
    const bool is_clip = strcmp(m->family, "clip") == 0;
    RF_TRY(rf_format(
        text, sizeof text,
        "{\"model_type\": \"%s\", \"hidden_size\": %" PRId64 ", \"num_hidden_layers\": %" PRId64
        ", \"num_attention_heads\": %" PRId64 ", \"image_size\": %d, \"patch_size\": %" PRId64
        ", \"num_channels\": %d, \"intermediate_size\": %" PRId64
        ", \"mlp_ratio\": 4, \"hidden_act\": \"%s\", \"layer_norm_eps\": %s"
        ", \"qkv_bias\": true, \"use_swiglu_ffn\": false}",
        is_clip ? "clip_vision_model" : m->family, m->d, m->layers, m->heads, SIDE, m->patch,
        CHANNELS, 4 * m->d, is_clip ? "quick_gelu" : "gelu", is_clip ? "1e-5" : "1e-6"));
    RF_TRY(rf_path_join(path, folder, "config.json"));
    RF_TRY(rf_file_write_atomic(path, text, (int64_t)strlen(text)));
fail:
    return status;
}

rf_status write_model(const model *m, const char *folder)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    weight_set *w = NULL;
    RF_ALLOC(w, 1);
    RF_TRY(fill_pools(w, m));
    for (size_t i = 0; i < sizeof weight_names / sizeof *weight_names; i++) {
        const bool of_layer = strstr(weight_names[i].name, "%d") != NULL;
        if (strcmp(weight_names[i].family, m->family) != 0) {
            continue;
        }
        for (int64_t layer = 0; layer < (of_layer ? m->layers : 1); layer++) {
            RF_TRY(add_weight(w, m, &weight_names[i], (int)layer));
        }
    }
    RF_TRY(write_config(m, folder));
    RF_TRY(rf_path_join(path, folder, "model.safetensors"));
    RF_TRY(rf_safetensors_write(path, w->tensors, w->n, NULL, 0));
fail:
    if (w != NULL) {
        rf_free(w->random);
        rf_free(w->ones);
    }
    rf_free(w);
    return status;
}

void remove_model(const char *folder)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    char path[RF_PATH_LEN];
    for (int i = 0; i < 2; i++) {
        if (rf_path_join(path, folder, names[i]) == RF_OK) {
            unlink(path);
        }
    }
    rmdir(folder);
}

double flop_of(const model *m, int64_t batch)
{
    const double d = (double)m->d, t = (double)n_tokens(m);
    const double patch = (double)(CHANNELS * m->patch * m->patch);
    return (double)batch *
           (2.0 * (t - 1.0) * patch * d + (double)m->layers * (24.0 * t * d * d + 4.0 * t * t * d));
}
