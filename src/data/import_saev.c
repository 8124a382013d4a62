/* saev's activation shards: a folder with metadata.json, shards.json (not in the oldest) and
 * actsNNNNNN.bin, each [pictures, layers, tokens, width] of fp32, the last as long as the others
 * whatever it holds. Protocols 1.0 and 2.1 call the same things by different names. */
#include "import_impl.h"

#include <jansson.h>
#include <string.h>

enum { MAX_LAYERS = 4096 };

typedef struct metadata {
    const char *path; /* for messages */
    int64_t n_pictures, n_tokens, n_layers, width;
    int64_t pictures_per_shard;
} metadata;

/* A count under the newer or the older of its names. */
static rf_status get_count(const rf_json *json, const char *path, const char *newer,
                           const char *older, int64_t *out)
{
    rf_status status = RF_OK;
    const char *key = rf_json_find(json, newer) != NULL ? newer : older;
    RF_TRY_DOING(rf_json_get_i64(json, key, NULL, out), "'%s'", path);
    if (*out < 1 || *out > INT64_C(1) << 48) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': %s is %" PRId64 ", expected 1 or more", path, key, *out);
    }
fail:
    return status;
}

static rf_status read_layers(const rf_json *json, const char *path, rf_import *out)
{
    rf_status status = RF_OK;
    const rf_json *layers = rf_json_find(json, "layers");
    const size_t n = layers != NULL && json_is_array(layers) ? json_array_size(layers) : 0;

    if (n < 1 || n > MAX_LAYERS) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': layers is no list of 1 to %d numbers", path, (int)MAX_LAYERS);
    }
    RF_ALLOC(out->layer_numbers, (int64_t)n);
    for (size_t i = 0; i < n; i++) {
        const rf_json *layer = json_array_get(layers, i);
        const json_int_t number = json_is_integer(layer) ? json_integer_value(layer) : -1;
        if (number < 0 || number > INT32_MAX) {
            RF_FAIL(RF_ERR_FORMAT, "'%s': layers[%zu] is no number of a layer", path, i);
        }
        out->layer_numbers[i] = number;
    }
    out->layout.n_layers = (int64_t)n;
fail:
    return status;
}

/* Files have at least a picture; products are in range once a file of the size is there. */
static rf_status read_metadata(const rf_json *json, metadata *m, rf_import *out)
{
    rf_status status = RF_OK;
    const bool no = false;
    const char *text = NULL;
    bool has_cls = false;
    int64_t per_picture = 0, most = 0;

    RF_TRY_DOING(rf_json_get_str(json, "dtype", "float32", &text), "'%s'", m->path);
    if (strcmp(text, "float32") != 0) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "'%s': dtype is '%.40s', expected float32", m->path, text);
    }
    text = rf_json_find(json, "ckpt") != NULL ? "ckpt" : "vit_ckpt";
    RF_TRY_DOING(rf_json_get_str(json, text, "saev", &text), "'%s'", m->path);
    RF_TRY_DOING(rf_format(out->model, sizeof out->model, "%s", text), "'%s'", m->path);
    RF_TRY_DOING(rf_json_get_bool(json, "cls_token", &no, &has_cls), "'%s'", m->path);
    RF_TRY(
        get_count(json, m->path, "content_tokens_per_example", "n_patches_per_img", &m->n_tokens));
    RF_TRY(get_count(json, m->path, "d_model", "d_vit", &m->width));
    RF_TRY(get_count(json, m->path, "n_examples", "n_imgs", &m->n_pictures));
    RF_TRY(get_count(json, m->path, "max_tokens_per_shard", "max_patches_per_shard", &most));
    RF_TRY(read_layers(json, m->path, out));
    m->n_layers = out->layout.n_layers;
    m->n_tokens += has_cls ? 1 : 0;
    out->n_cls = has_cls ? 1 : 0;
    RF_TRY_DOING(rf_mul_i64(m->n_tokens, m->n_layers, "tokens of a picture", &per_picture), "'%s'",
                 m->path);
    m->pictures_per_shard = most / per_picture;
    if (m->pictures_per_shard < 1) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': a shard of %" PRId64 " tokens holds no picture of %" PRId64,
                m->path, most, per_picture);
    }
fail:
    return status;
}

static rf_status add_shard(rf_import *out, const char *folder, const metadata *m, const char *name,
                           int64_t n)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    int64_t n_tokens = 0;

    if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': '%.200s' is no name of a shard", folder, name);
    }
    if (n < 1 || n > m->pictures_per_shard) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s': shard '%.200s' has %" PRId64 " pictures, expected 1 to %" PRId64, folder,
                name, n, m->pictures_per_shard);
    }
    RF_TRY(rf_path_join(path, folder, name));
    RF_TRY(rf_mul_i64(n, m->n_tokens, "tokens of a shard", &n_tokens));
    RF_TRY(rf_import_add_file(out, path, n_tokens));
fail:
    return status;
}

/* shards.json: [{"name": ..., "n_examples": ...}], n_imgs in the older. */
static rf_status read_shards(rf_import *out, const char *folder, const char *path,
                             const metadata *m)
{
    rf_status status = RF_OK;
    rf_json *json = NULL;
    const char *name = NULL;
    int64_t n = 0, n_all = 0;

    RF_TRY(rf_json_load(path, &json));
    if (!json_is_array(json)) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is no list of shards", path);
    }
    for (size_t i = 0; i < json_array_size(json); i++) {
        const rf_json *shard = json_array_get(json, i);
        RF_TRY_DOING(rf_json_get_str(shard, "name", NULL, &name), "'%s'", path);
        RF_TRY(get_count(shard, path, "n_examples", "n_imgs", &n));
        RF_TRY(add_shard(out, folder, m, name, n));
        n_all += n;
        if (n_all > m->n_pictures) {
            break;
        }
    }
    if (n_all != m->n_pictures) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': its shards do not have the %" PRId64 " pictures of '%s'",
                path, m->n_pictures, m->path);
    }
fail:
    rf_json_free(json);
    return status;
}

static rf_status number_shards(rf_import *out, const char *folder, const metadata *m)
{
    rf_status status = RF_OK;
    char name[32];
    for (int64_t first = 0, i = 0; first < m->n_pictures; first += m->pictures_per_shard, i++) {
        RF_TRY(rf_format(name, sizeof name, "acts%06" PRId64 ".bin", i));
        RF_TRY(add_shard(out, folder, m, name,
                         rf_min_i64(m->pictures_per_shard, m->n_pictures - first)));
        if (!rf_file_exists(out->files[i].path)) {
            RF_FAIL(RF_ERR_NOT_FOUND, "'%s' is missing: '%s' speaks of %" PRId64 " pictures",
                    out->files[i].path, m->path, m->n_pictures);
        }
    }
fail:
    return status;
}

rf_status rf_import_open_saev(const char *folder, rf_import *out)
{
    rf_status status = RF_OK;
    rf_json *json = NULL;
    char path[RF_PATH_LEN], shards[RF_PATH_LEN];
    metadata m = {.path = path};
    rf_import_layout *layout = &out->layout;

    out->kind = "saev";
    out->default_point = "blocks.{layer}.hook_resid_post";
    RF_TRY(rf_path_join(path, folder, "metadata.json"));
    RF_TRY(rf_path_join(shards, folder, "shards.json"));
    RF_TRY(rf_json_load(path, &json));
    RF_TRY(read_metadata(json, &m, out));
    layout->dtype = RF_FILE_F32;
    layout->width = m.width;
    layout->item_rows = m.n_tokens;
    RF_TRY(rf_mul_i64(m.n_tokens, m.width, path, &layout->layer_stride));
    RF_TRY(rf_mul_i64(layout->layer_stride, m.n_layers, path, &layout->item_stride));
    if (rf_file_exists(shards)) {
        RF_TRY(read_shards(out, folder, shards, &m));
    } else {
        RF_TRY(number_shards(out, folder, &m));
    }
fail:
    rf_json_free(json);
    return status;
}
