/* make_tiny FOLDER: a model and pictures small enough to be made on the spot, for tests of the
 * program. FOLDER/model      a random DINOv2 (width 32, 3 layers, 28 x 28 pictures, patches of 7)
 *   FOLDER/classifier a random ViT with a head whose labels are the class folders
 *   FOLDER/pictures   60 PNGs in 4 class folders: gradients, stripes, blobs, checkers, by class */
#include "refract/io.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    WIDTH = 32,
    LAYERS = 3,
    HEADS = 2,
    MLP = 64,
    SIDE = 28,
    PATCH = 7,
    TOKENS = 17,
    CLASSES = 4
};
enum { N_PICTURES = 60, MAX_TENSORS = 128 };

static const char *const class_names[CLASSES] = {"blobs", "checkers", "gradients", "stripes"};

typedef struct model {
    rf_named_tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][RF_NAME_LEN];
    int64_t n;
} model;

/* Normal numbers around `centre`; norms and scales stay away from 0. */
static rf_status add(model *m, const char *name, int64_t rows, int64_t cols, float centre,
                     float spread)
{
    rf_status status = RF_OK;
    float *values = NULL;
    const int64_t n = rows * cols;
    RF_BUG(m->n < MAX_TENSORS, "too many tensors");
    RF_ALLOC(values, n + 4);
    for (int64_t i = 0; i < n; i += 4) {
        rf_random_normal4(1, RF_RANDOM_TEST, (uint64_t)m->n, (uint64_t)i, values + i);
    }
    for (int64_t i = 0; i < n; i++) {
        values[i] = centre + spread * values[i];
    }
    rf_named_tensor *t = &m->tensors[m->n];
    RF_TRY(rf_format(m->names[m->n], RF_NAME_LEN, "%s", name));
    *t = (rf_named_tensor){.name = m->names[m->n],
                           .dtype = RF_FILE_F32,
                           .n_dims = cols == 1 ? 1 : 2,
                           .shape = {rows, cols},
                           .n_elems = n,
                           .bytes = (const unsigned char *)values,
                           .n_bytes = n * (int64_t)sizeof(float)};
    m->n++;
    return RF_OK;
fail:
    rf_free(values);
    return status;
}

static void set_shape(model *m, int n_dims, const int64_t *shape)
{
    m->tensors[m->n - 1].n_dims = n_dims;
    memcpy(m->tensors[m->n - 1].shape, shape, (size_t)n_dims * sizeof *shape);
}

static rf_status add_linear(model *m, const char *prefix, const char *name, int64_t rows,
                            int64_t cols)
{
    rf_status status = RF_OK;
    char full[RF_NAME_LEN];
    RF_TRY(rf_format(full, sizeof full, "%s%s.weight", prefix, name));
    RF_TRY(add(m, full, rows, cols, 0, 1.2f / sqrtf((float)cols)));
    RF_TRY(rf_format(full, sizeof full, "%s%s.bias", prefix, name));
    RF_TRY(add(m, full, rows, 1, 0, 0.1f));
fail:
    return status;
}

static rf_status add_norm(model *m, const char *prefix, const char *name)
{
    rf_status status = RF_OK;
    char full[RF_NAME_LEN];
    RF_TRY(rf_format(full, sizeof full, "%s%s.weight", prefix, name));
    RF_TRY(add(m, full, WIDTH, 1, 1, 0.2f));
    RF_TRY(rf_format(full, sizeof full, "%s%s.bias", prefix, name));
    RF_TRY(add(m, full, WIDTH, 1, 0, 0.1f));
fail:
    return status;
}

static rf_status add_embeddings(model *m, const char *root)
{
    rf_status status = RF_OK;
    const int64_t cls[] = {1, 1, WIDTH}, position[] = {1, TOKENS, WIDTH},
                  patch[] = {WIDTH, 3, PATCH, PATCH};
    char full[RF_NAME_LEN];
    RF_TRY(rf_format(full, sizeof full, "%sembeddings.cls_token", root));
    RF_TRY(add(m, full, WIDTH, 1, 0, 1));
    set_shape(m, 3, cls);
    RF_TRY(rf_format(full, sizeof full, "%sembeddings.position_embeddings", root));
    RF_TRY(add(m, full, TOKENS * WIDTH, 1, 0, 0.5f));
    set_shape(m, 3, position);
    RF_TRY(rf_format(full, sizeof full, "%sembeddings.patch_embeddings.projection.weight", root));
    RF_TRY(add(m, full, WIDTH, 3 * PATCH * PATCH, 0, 1.2f / sqrtf(3 * PATCH * PATCH)));
    set_shape(m, 4, patch);
    RF_TRY(rf_format(full, sizeof full, "%sembeddings.patch_embeddings.projection.bias", root));
    RF_TRY(add(m, full, WIDTH, 1, 0, 0.1f));
fail:
    return status;
}

static rf_status add_layer(model *m, const char *root, int64_t layer, bool is_dinov2)
{
    rf_status status = RF_OK;
    char p[RF_NAME_LEN], full[RF_NAME_LEN + 32];
    RF_TRY(rf_format(p, sizeof p, "%sencoder.layer.%" PRId64 ".", root, layer));
    RF_TRY(add_norm(m, p, is_dinov2 ? "norm1" : "layernorm_before"));
    RF_TRY(add_linear(m, p, "attention.attention.query", WIDTH, WIDTH));
    RF_TRY(add_linear(m, p, "attention.attention.key", WIDTH, WIDTH));
    RF_TRY(add_linear(m, p, "attention.attention.value", WIDTH, WIDTH));
    RF_TRY(add_linear(m, p, "attention.output.dense", WIDTH, WIDTH));
    RF_TRY(add_norm(m, p, is_dinov2 ? "norm2" : "layernorm_after"));
    RF_TRY(add_linear(m, p, is_dinov2 ? "mlp.fc1" : "intermediate.dense", MLP, WIDTH));
    RF_TRY(add_linear(m, p, is_dinov2 ? "mlp.fc2" : "output.dense", WIDTH, MLP));
    for (int i = 1; is_dinov2 && i <= 2; i++) {
        RF_TRY(rf_format(full, sizeof full, "%slayer_scale%d.lambda1", p, i));
        RF_TRY(add(m, full, WIDTH, 1, 0.7f, 0.1f));
    }
fail:
    return status;
}

static const char processor[] =
    "{\"image_processor_type\": \"BitImageProcessor\", \"do_resize\": true, \"size\": "
    "{\"shortest_edge\": 32}, "
    "\"resample\": 3, \"do_center_crop\": true, \"crop_size\": {\"height\": 28, \"width\": 28}, "
    "\"do_rescale\": true, \"rescale_factor\": 0.00392156862745098, \"do_normalize\": true, "
    "\"image_mean\": [0.485, 0.456, 0.406], \"image_std\": [0.229, 0.224, 0.225]}\n";

static rf_status write_text(const char *folder, const char *name, const char *text)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    RF_TRY(rf_path_join(path, folder, name));
    RF_TRY(rf_file_write_atomic(path, text, (int64_t)strlen(text)));
fail:
    return status;
}

static rf_status write_config(const char *folder, bool is_dinov2)
{
    rf_status status = RF_OK;
    rf_str text = {0};
    RF_TRY(rf_str_append(
        &text,
        "{\"model_type\": \"%s\", \"architectures\": [\"%s\"], \"hidden_size\": %d, "
        "\"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"image_size\": %d, "
        "\"patch_size\": %d, \"num_channels\": 3, \"hidden_act\": \"gelu\", "
        "\"layer_norm_eps\": %s, \"qkv_bias\": true, ",
        is_dinov2 ? "dinov2" : "vit", is_dinov2 ? "Dinov2Model" : "ViTForImageClassification",
        WIDTH, LAYERS, HEADS, SIDE, PATCH, is_dinov2 ? "1e-06" : "1e-12"));
    if (is_dinov2) {
        RF_TRY(rf_str_append(&text, "\"mlp_ratio\": %d, \"use_swiglu_ffn\": false, ", MLP / WIDTH));
    } else {
        RF_TRY(rf_str_append(&text, "\"intermediate_size\": %d, \"id2label\": {", MLP));
        for (int i = 0; i < CLASSES; i++) {
            RF_TRY(rf_str_append(&text, "%s\"%d\": \"%s\"", i == 0 ? "" : ", ", i, class_names[i]));
        }
        RF_TRY(rf_str_append(&text, "}, "));
    }
    RF_TRY(rf_str_append(&text, "\"_name_or_path\": \"tiny-%s\"}\n", is_dinov2 ? "dinov2" : "vit"));
    RF_TRY(write_text(folder, "config.json", text.data));
    RF_TRY(write_text(folder, "preprocessor_config.json", processor));
fail:
    rf_str_fini(&text);
    return status;
}

static rf_status write_model(const char *folder, bool is_dinov2)
{
    rf_status status = RF_OK;
    model *m = NULL;
    char path[RF_PATH_LEN];
    const char *root = is_dinov2 ? "" : "vit.";
    RF_ALLOC(m, 1);
    RF_TRY(rf_file_make_dirs(folder));
    RF_TRY(write_config(folder, is_dinov2));
    RF_TRY(add_embeddings(m, root));
    for (int64_t l = 0; l < LAYERS; l++) {
        RF_TRY(add_layer(m, root, l, is_dinov2));
    }
    RF_TRY(add_norm(m, root, "layernorm"));
    if (!is_dinov2) {
        RF_TRY(add_linear(m, "", "classifier", CLASSES, WIDTH));
    }
    RF_TRY(rf_path_join(path, folder, "model.safetensors"));
    RF_TRY(rf_safetensors_write(path, m->tensors, m->n, NULL, 0));
fail:
    for (int64_t i = 0; m != NULL && i < m->n; i++) {
        rf_free((void *)(uintptr_t)m->tensors[i].bytes);
    }
    rf_free(m);
    return status;
}

/* The value of channel `c` at (y, x) of picture `i`: its class decides the kind, `u` the rest. */
static double pixel(int kind, const uint32_t u[4], int64_t c, int64_t y, int64_t x)
{
    const double a = (double)u[0] * 0x1p-32, b = (double)u[1] * 0x1p-32,
                 tint = (double)((u[2] >> (8 * c)) & 255) / 255;
    const double fy = (double)y / 36, fx = (double)x / 44;
    switch (kind) {
    case 0: {
        const double r = hypot(fy - a, fx - b);
        return exp(-18 * r * r) * (0.4 + 0.6 * tint);
    }
    case 1:
        return ((y / (3 + (int64_t)(6 * a)) + x / (3 + (int64_t)(6 * b))) & 1) != 0 ? tint
                                                                                    : 1 - tint;
    case 2:
        return fabs(a * fy + b * fx - 0.3) * tint + 0.2;
    default:
        return 0.5 + 0.5 * sin(6.283185307179586 * (3 + 9 * a) * (b > 0.5 ? fy : fx) + 3 * tint);
    }
}

static rf_status write_pictures(const char *folder)
{
    rf_status status = RF_OK;
    rf_picture p = {.height = 36, .width = 44};
    char path[RF_PATH_LEN];
    RF_ALLOC(p.rgb, 3 * p.height * p.width);
    for (int i = 0; i < N_PICTURES; i++) {
        uint32_t u[4];
        rf_random_u32x4(2, RF_RANDOM_TEST, (uint64_t)i, 0, u);
        for (int64_t j = 0; j < 3 * p.height * p.width; j++) {
            const double v = pixel(i % CLASSES, u, j % 3, j / 3 / p.width, j / 3 % p.width);
            p.rgb[j] = (uint8_t)(255 * fmin(1, fmax(0, v)));
        }
        RF_TRY(rf_format(path, sizeof path, "%s/%s", folder, class_names[i % CLASSES]));
        RF_TRY(rf_file_make_dirs(path));
        RF_TRY(rf_format(path, sizeof path, "%s/%s/%02d.png", folder, class_names[i % CLASSES], i));
        RF_TRY(rf_picture_write_png(path, &p));
    }
fail:
    rf_picture_fini(&p);
    return status;
}

int main(int argc, char **argv)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    RF_REQUIRE(argc == 2, "usage: make_tiny FOLDER");
    RF_TRY(rf_path_join(path, argv[1], "model"));
    RF_TRY(write_model(path, true));
    RF_TRY(rf_path_join(path, argv[1], "classifier"));
    RF_TRY(write_model(path, false));
    RF_TRY(rf_path_join(path, argv[1], "pictures"));
    RF_TRY(write_pictures(path));
fail:
    if (status != RF_OK) {
        fprintf(stderr, "make_tiny: %s\n", rf_error_text());
    }
    return status == RF_OK ? 0 : 1;
}
