/* make_clip FOLDER: a random CLIP vision tower with the 12 layers that the recipes of the Prisma
 * paper name, and nothing else of CLIP-B/32's size: width 16, 14 x 14 pictures, patches of 7. */
#include "refract/io.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 16, LAYERS = 12, HEADS = 2, MLP = 32, SIDE = 14, PATCH = 7, TOKENS = 5, OUT = 8 };
enum { MAX_TENSORS = 256 };

typedef struct model {
    rf_named_tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][RF_NAME_LEN];
    int64_t n;
} model;

/* Normal numbers around `centre`, of `n_dims` of `shape`. */
static rf_status add(model *m, const char *name, int n_dims, const int64_t *shape, float centre,
                     float spread)
{
    rf_status status = RF_OK;
    float *values = NULL;
    int64_t n = 1;
    for (int i = 0; i < n_dims; i++) {
        n *= shape[i];
    }
    RF_BUG(m->n < MAX_TENSORS, "too many tensors");
    RF_ALLOC(values, n + 4);
    for (int64_t i = 0; i < n; i += 4) {
        rf_random_normal4(3, RF_RANDOM_TEST, (uint64_t)m->n, (uint64_t)i, values + i);
    }
    for (int64_t i = 0; i < n; i++) {
        values[i] = centre + spread * values[i];
    }
    rf_named_tensor *t = &m->tensors[m->n];
    RF_TRY(rf_format(m->names[m->n], RF_NAME_LEN, "%s", name));
    *t = (rf_named_tensor){.name = m->names[m->n],
                           .dtype = RF_FILE_F32,
                           .n_dims = n_dims,
                           .n_elems = n,
                           .bytes = (const unsigned char *)values,
                           .n_bytes = n * (int64_t)sizeof(float)};
    memcpy(t->shape, shape, (size_t)n_dims * sizeof *shape);
    m->n++;
    return RF_OK;
fail:
    rf_free(values);
    return status;
}

/* PREFIX.NAME.weight [rows, cols] and .bias [rows]; cols 0: a norm. */
static rf_status add_pair(model *m, const char *prefix, const char *name, int64_t rows,
                          int64_t cols)
{
    rf_status status = RF_OK;
    char full[RF_NAME_LEN];
    const int64_t shape[] = {rows, cols};
    const float spread = cols > 0 ? 1.2f / sqrtf((float)cols) : 0.2f;
    RF_TRY(rf_format(full, sizeof full, "%s.%s.weight", prefix, name));
    RF_TRY(add(m, full, cols > 0 ? 2 : 1, shape, cols > 0 ? 0 : 1, spread));
    RF_TRY(rf_format(full, sizeof full, "%s.%s.bias", prefix, name));
    RF_TRY(add(m, full, 1, shape, 0, 0.1f));
fail:
    return status;
}

static rf_status add_layer(model *m, int64_t layer)
{
    static const char *const products[] = {"q_proj", "k_proj", "v_proj", "out_proj"};
    rf_status status = RF_OK;
    char prefix[RF_NAME_LEN], name[RF_NAME_LEN];
    RF_TRY(rf_format(prefix, sizeof prefix, "vision_model.encoder.layers.%" PRId64, layer));
    RF_TRY(add_pair(m, prefix, "layer_norm1", WIDTH, 0));
    for (int i = 0; i < 4; i++) {
        RF_TRY(rf_format(name, sizeof name, "self_attn.%s", products[i]));
        RF_TRY(add_pair(m, prefix, name, WIDTH, WIDTH));
    }
    RF_TRY(add_pair(m, prefix, "layer_norm2", WIDTH, 0));
    RF_TRY(add_pair(m, prefix, "mlp.fc1", MLP, WIDTH));
    RF_TRY(add_pair(m, prefix, "mlp.fc2", WIDTH, MLP));
fail:
    return status;
}

static rf_status add_all(model *m)
{
    rf_status status = RF_OK;
    const int64_t cls[] = {WIDTH}, position[] = {TOKENS, WIDTH}, patch[] = {WIDTH, 3, PATCH, PATCH},
                  projection[] = {OUT, WIDTH};
    RF_TRY(add(m, "vision_model.embeddings.class_embedding", 1, cls, 0, 1));
    RF_TRY(add(m, "vision_model.embeddings.position_embedding.weight", 2, position, 0, 0.5f));
    RF_TRY(add(m, "vision_model.embeddings.patch_embedding.weight", 4, patch, 0,
               1.2f / sqrtf(3 * PATCH * PATCH)));
    RF_TRY(add_pair(m, "vision_model", "pre_layrnorm", WIDTH, 0));
    for (int64_t l = 0; l < LAYERS; l++) {
        RF_TRY(add_layer(m, l));
    }
    RF_TRY(add_pair(m, "vision_model", "post_layernorm", WIDTH, 0));
    RF_TRY(add(m, "visual_projection.weight", 2, projection, 0, 0.25f));
fail:
    return status;
}

static rf_status write_text(const char *folder, const char *name, const char *text)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    RF_TRY(rf_path_join(path, folder, name));
    RF_TRY(rf_file_write_atomic(path, text, (int64_t)strlen(text)));
fail:
    return status;
}

static rf_status write_configs(const char *folder)
{
    rf_status status = RF_OK;
    rf_str text = {0};
    RF_TRY(rf_str_append(
        &text,
        "{\"model_type\": \"clip_vision_model\", \"architectures\": "
        "[\"CLIPVisionModelWithProjection\"], \"hidden_size\": %d, \"num_hidden_layers\": %d, "
        "\"num_attention_heads\": %d, \"intermediate_size\": %d, \"image_size\": %d, "
        "\"patch_size\": %d, \"num_channels\": 3, \"hidden_act\": \"quick_gelu\", "
        "\"layer_norm_eps\": 1e-05, \"projection_dim\": %d}\n",
        WIDTH, LAYERS, HEADS, MLP, SIDE, PATCH, OUT));
    RF_TRY(write_text(folder, "config.json", text.data));
    text.len = 0;
    RF_TRY(rf_str_append(
        &text,
        "{\"image_processor_type\": \"CLIPImageProcessor\", \"do_resize\": true, \"size\": "
        "{\"shortest_edge\": %d}, \"resample\": 3, \"do_center_crop\": true, \"crop_size\": "
        "{\"height\": %d, \"width\": %d}, \"do_rescale\": true, \"rescale_factor\": "
        "0.00392156862745098, \"do_normalize\": true, \"image_mean\": [0.48145466, 0.4578275, "
        "0.40821073], \"image_std\": [0.26862954, 0.26130258, 0.27577711]}\n",
        SIDE, SIDE, SIDE));
    RF_TRY(write_text(folder, "preprocessor_config.json", text.data));
fail:
    rf_str_fini(&text);
    return status;
}

int main(int argc, char **argv)
{
    rf_status status = RF_OK;
    model *m = NULL;
    char path[RF_PATH_LEN];
    RF_REQUIRE(argc == 2, "usage: make_clip FOLDER");
    RF_ALLOC(m, 1);
    RF_TRY(rf_file_make_dirs(argv[1]));
    RF_TRY(write_configs(argv[1]));
    RF_TRY(add_all(m));
    RF_TRY(rf_path_join(path, argv[1], "model.safetensors"));
    RF_TRY(rf_safetensors_write(path, m->tensors, m->n, NULL, 0));
fail:
    if (status != RF_OK) {
        fprintf(stderr, "make_clip: %s\n", rf_error_text());
    }
    for (int64_t i = 0; m != NULL && i < m->n; i++) {
        rf_free((void *)(uintptr_t)m->tensors[i].bytes);
    }
    rf_free(m);
    return status == RF_OK ? 0 : 1;
}
