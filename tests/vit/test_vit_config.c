/* Configs and weights that must be refused, and the names of hook points. */
#include "refract/vit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void assert_ok(rf_status status)
{
    if (status != RF_OK) {
        fail_msg("%s: %s", rf_error_place(), rf_error_text());
    }
}

static void golden_path(char out[RF_PATH_LEN], const char *name)
{
    assert_ok(rf_format(out, RF_PATH_LEN, "%s/vit/%s", RF_GOLDEN_DIR, name));
}

/* A folder under $TMPDIR with this config.json; `weights_of` names a golden model or is NULL. */
static void make_folder(char out[RF_PATH_LEN], const char *config, const char *weights_of)
{
    const char *tmp = getenv("TMPDIR");
    char path[RF_PATH_LEN], from[RF_PATH_LEN], *bytes = NULL;
    int64_t n_bytes = 0;
    assert_ok(rf_format(out, RF_PATH_LEN, "%s/refract-vit-XXXXXX", tmp != NULL ? tmp : "/tmp"));
    assert_non_null(mkdtemp(out));
    assert_ok(rf_path_join(path, out, "config.json"));
    assert_ok(rf_file_write_atomic(path, config, (int64_t)strlen(config)));
    if (weights_of != NULL) {
        assert_ok(
            rf_format(from, sizeof from, "%s/vit/%s/model.safetensors", RF_GOLDEN_DIR, weights_of));
        assert_ok(rf_file_read(from, 1 << 20, &bytes, &n_bytes));
        assert_ok(rf_path_join(path, out, "model.safetensors"));
        assert_ok(rf_file_write_atomic(path, bytes, n_bytes));
        rf_free(bytes);
    }
}

static void remove_folder(const char *folder)
{
    char **names = NULL, path[RF_PATH_LEN];
    int64_t n = 0;
    assert_ok(rf_file_list(folder, &names, &n));
    for (int64_t i = 0; i < n; i++) {
        assert_ok(rf_path_join(path, folder, names[i]));
        unlink(path);
    }
    rf_file_list_free(names, n);
    rmdir(folder);
}

static void assert_refused(const char *config, rf_status expected, const char *word)
{
    char folder[RF_PATH_LEN];
    rf_vit_config c;
    int64_t live = rf_alloc_live();
    make_folder(folder, config, NULL);
    rf_status got = rf_vit_read_config(folder, NULL, &c);
    if (got != expected || strstr(rf_error_text(), word) == NULL) {
        fail_msg("%s: status %d, text '%s', expected status %d and '%s'", config, (int)got,
                 rf_error_text(), (int)expected, word);
    }
    assert_int_equal(rf_alloc_live(), live);
    remove_folder(folder);
}

static void test_hostile_configs_are_refused_by_the_key_at_fault(void **state)
{
    (void)state;
    assert_refused("", RF_ERR_FORMAT, "config.json");
    assert_refused("{\"model_type\": \"vit\"", RF_ERR_FORMAT, "config.json");
    assert_refused("[]", RF_ERR_NOT_FOUND, "model_type");
    assert_refused("{}", RF_ERR_NOT_FOUND, "model_type");
    assert_refused("{\"model_type\": 3}", RF_ERR_FORMAT, "model_type");
    assert_refused("{\"model_type\": \"siglip\"}", RF_ERR_UNSUPPORTED,
                   "clip, clip_vision_model, vit, dinov2");
    assert_refused("{\"model_type\": \"clip\"}", RF_ERR_FORMAT, "vision_config");
    assert_refused("{\"model_type\": \"vit\", \"hidden_size\": -768}", RF_ERR_FORMAT,
                   "hidden_size");
    assert_refused("{\"model_type\": \"vit\", \"hidden_size\": 0}", RF_ERR_FORMAT, "hidden_size");
    assert_refused("{\"model_type\": \"vit\", \"hidden_size\": 9223372036854775807}", RF_ERR_FORMAT,
                   "hidden_size");
    assert_refused("{\"model_type\": \"vit\", \"hidden_size\": 1e30}", RF_ERR_FORMAT,
                   "hidden_size");
    assert_refused("{\"model_type\": \"vit\", \"hidden_size\": \"768\"}", RF_ERR_FORMAT,
                   "hidden_size");
    assert_refused("{\"model_type\": \"vit\", \"num_attention_heads\": 7}", RF_ERR_FORMAT,
                   "num_attention_heads 7");
    assert_refused("{\"model_type\": \"vit\", \"num_hidden_layers\": 100000}", RF_ERR_FORMAT,
                   "num_hidden_layers");
    assert_refused("{\"model_type\": \"vit\", \"image_size\": [224, 224]}", RF_ERR_FORMAT,
                   "image_size");
    assert_refused("{\"model_type\": \"vit\", \"image_size\": 8}", RF_ERR_FORMAT, "image_size 8");
    assert_refused("{\"model_type\": \"vit\", \"image_size\": 16384, \"patch_size\": 1}",
                   RF_ERR_FORMAT, "patches");
    assert_refused("{\"model_type\": \"vit\", \"patch_size\": 0}", RF_ERR_FORMAT, "patch_size");
    assert_refused("{\"model_type\": \"vit\", \"layer_norm_eps\": -1e-6}", RF_ERR_FORMAT,
                   "layer_norm_eps");
    assert_refused("{\"model_type\": \"vit\", \"layer_norm_eps\": true}", RF_ERR_FORMAT,
                   "layer_norm_eps");
    assert_refused("{\"model_type\": \"vit\", \"hidden_act\": \"gelu_10\"}", RF_ERR_UNSUPPORTED,
                   "gelu_10");
    assert_refused("{\"model_type\": \"vit\", \"hidden_act\": 1}", RF_ERR_FORMAT, "hidden_act");
    assert_refused("{\"model_type\": \"vit\", \"qkv_bias\": \"no\"}", RF_ERR_FORMAT, "qkv_bias");
    assert_refused("{\"model_type\": \"dinov2\", \"use_swiglu_ffn\": true}", RF_ERR_UNSUPPORTED,
                   "SwiGLU");
    assert_refused("{\"model_type\": \"dinov2\", \"mlp_ratio\": -4}", RF_ERR_FORMAT, "mlp_ratio");
    assert_refused("{\"model_type\": \"dinov2\", \"mlp_ratio\": 1e300}", RF_ERR_FORMAT,
                   "mlp_ratio");
}

static void test_a_folder_without_its_files_is_not_found(void **state)
{
    (void)state;
    char folder[RF_PATH_LEN];
    rf_backend *be = NULL;
    rf_vit *vit = NULL;
    rf_vit_config c;
    assert_ok(rf_backend_cpu_create(1, &be));
    assert_int_equal(rf_vit_read_config("/nowhere/at/all", NULL, &c), RF_ERR_NOT_FOUND);
    make_folder(folder, "{\"model_type\": \"vit\"}", NULL);
    assert_int_equal(rf_vit_open(be, folder, NULL, &vit), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "model.safetensors"));
    assert_null(vit);
    remove_folder(folder);
    rf_backend_destroy(be);
}

static void test_missing_keys_take_the_defaults_of_transformers(void **state)
{
    (void)state;
    char folder[RF_PATH_LEN];
    rf_vit_config c;
    make_folder(folder, "{\"model_type\": \"clip\", \"vision_config\": {}}", NULL);
    assert_ok(rf_vit_read_config(folder, NULL, &c));
    assert_string_equal(c.family, "clip");
    assert_int_equal(c.d_model, 768);
    assert_int_equal(c.d_mlp, 3072);
    assert_int_equal(c.n_tokens, 50);
    assert_int_equal(c.act, RF_ACT_QUICK_GELU);
    assert_true(c.eps == 1e-5f && c.has_ln_pre && !c.has_layer_scale);
    remove_folder(folder);
    make_folder(folder, "{\"model_type\": \"dinov2\", \"_name_or_path\": \"a/b\"}", NULL);
    assert_ok(rf_vit_read_config(folder, NULL, &c));
    assert_int_equal(c.d_mlp, 3072);
    assert_int_equal(c.n_tokens, 257);
    assert_string_equal(c.name, "a/b");
    assert_true(c.eps == 1e-6f && c.has_layer_scale && !c.has_ln_pre);
    remove_folder(folder);
    make_folder(folder,
                "{\"model_type\": \"clip\", \"vision_config\": {\"hidden_size\": 64},"
                "\"vision_config_dict\": {\"hidden_size\": 96}}",
                NULL);
    assert_ok(rf_vit_read_config(folder, NULL, &c)); /* what old files call it wins, as there */
    assert_int_equal(c.d_model, 96);
    remove_folder(folder);
}

static void assert_misfit(const char *config, const char *weights_of, const char *word)
{
    char folder[RF_PATH_LEN];
    rf_backend *be = NULL;
    rf_vit *vit = NULL;
    int64_t live = rf_alloc_live();
    make_folder(folder, config, weights_of);
    assert_ok(rf_backend_cpu_create(1, &be));
    rf_status got = rf_vit_open(be, folder, NULL, &vit);
    if (got != RF_ERR_FORMAT || strstr(rf_error_text(), word) == NULL) {
        fail_msg("%s: status %d, text '%s', expected '%s'", config, (int)got, rf_error_text(),
                 word);
    }
    assert_null(vit);
    rf_backend_destroy(be);
    assert_int_equal(rf_alloc_live(), live);
    remove_folder(folder);
}

#define VIT_KEYS                                                                                   \
    "\"model_type\": \"vit\", \"num_attention_heads\": 3, \"patch_size\": 8, "                     \
    "\"intermediate_size\": 52, "

static void test_a_config_that_does_not_fit_names_tensor_and_shapes(void **state)
{
    (void)state;
    assert_misfit("{" VIT_KEYS "\"hidden_size\": 48, \"image_size\": 26, \"num_hidden_layers\": 3}",
                  "vit",
                  "tensor 'embeddings.patch_embeddings.projection.weight' has shape [36, 3, 8, 8], "
                  "but config.json means [48, 3, 8, 8]");
    assert_misfit("{" VIT_KEYS "\"hidden_size\": 36, \"image_size\": 32, \"num_hidden_layers\": 3}",
                  "vit",
                  "tensor 'embeddings.position_embeddings' has shape [1, 10, 36], but config.json "
                  "means [17, 36]");
    assert_misfit("{" VIT_KEYS "\"hidden_size\": 36, \"image_size\": 26, \"num_hidden_layers\": 4}",
                  "vit", "tensor 'encoder.layer.3.layernorm_before.weight' is missing");
    assert_misfit("{\"model_type\": \"vit\"}", "clip_projection",
                  "tensor 'vit.embeddings.patch_embeddings.projection.weight' is missing");
    /* without its keys in the config, a bias-free checkpoint lacks what the default asks for */
    assert_misfit("{" VIT_KEYS "\"hidden_size\": 36, \"image_size\": 26, \"num_hidden_layers\": 2}",
                  "vit_classifier",
                  "tensor 'vit.encoder.layer.0.attention.attention.query.bias' is missing");
}

static void test_only_families_that_can_run_at_another_size(void **state)
{
    (void)state;
    char path[RF_PATH_LEN];
    rf_backend *be = NULL;
    rf_vit *vit = NULL;
    assert_ok(rf_backend_cpu_create(1, &be));
    golden_path(path, "vit");
    assert_int_equal(
        rf_vit_open(be, path, &(rf_vit_opts){.image_height = 32, .image_width = 32}, &vit),
        RF_ERR_UNSUPPORTED);
    assert_non_null(strstr(rf_error_text(), "image size 26"));
    assert_int_equal(
        rf_vit_open(be, path, &(rf_vit_opts){.image_height = -1, .image_width = -1}, &vit),
        RF_ERR_INVALID_ARG);
    golden_path(path, "dinov2");
    assert_int_equal(
        rf_vit_open(be, path, &(rf_vit_opts){.image_height = 3, .image_width = 3}, &vit),
        RF_ERR_FORMAT); /* less than a patch */
    assert_ok(rf_vit_open(be, path, &(rf_vit_opts){.image_height = 24, .image_width = 24},
                          &vit)); /* the same grid: a border is left out */
    assert_int_equal(rf_vit_get_config(vit)->n_tokens, 10);
    rf_vit_close(vit);
    rf_backend_destroy(be);
}

static void test_what_a_model_is_comes_from_its_files(void **state)
{
    (void)state;
    char path[RF_PATH_LEN];
    rf_backend *be = NULL;
    rf_vit *vit = NULL, *other = NULL;
    rf_vit_config read;
    assert_ok(rf_backend_cpu_create(1, &be));
    golden_path(path, "vit_classifier");
    assert_ok(rf_vit_open(be, path, NULL, &vit));
    const rf_vit_config *c = rf_vit_get_config(vit);
    assert_int_equal(c->n_classes, 3);
    assert_string_equal(rf_vit_class_name(vit, 1), "dog");
    assert_null(rf_vit_class_name(vit, 3));
    assert_null(rf_vit_class_name(vit, -1));
    assert_string_equal(c->name, "vit_classifier");
    assert_int_equal(c->act, RF_ACT_GELU_TANH);
    assert_ok(rf_vit_read_config(path, NULL, &read));
    assert_int_equal(read.n_classes, 3);
    golden_path(path, "clip_projection");
    assert_ok(rf_vit_open(be, path, NULL, &other));
    assert_true(rf_vit_get_config(other)->has_projection);
    assert_int_equal(rf_vit_get_config(other)->d_out, 20);
    assert_int_equal(rf_vit_get_config(other)->n_classes, 0);
    assert_true(rf_vit_hash(vit) != rf_vit_hash(other));
    rf_vit_close(other);
    rf_vit_close(vit);
    rf_vit_close(NULL);
    rf_backend_destroy(be);
}

static void test_hook_names_resolve_and_near_misses_are_named(void **state)
{
    (void)state;
    rf_vit_config c = {.n_layers = 12, .d_model = 384, .d_mlp = 1536, .n_heads = 6, .d_head = 64};
    rf_hook_point p;
    assert_ok(rf_vit_hook_find(&c, "blocks.-1.mlp.hook_post", &p));
    assert_string_equal(p.name, "blocks.11.mlp.hook_post");
    assert_int_equal(p.layer, 11);
    assert_int_equal(p.width, 1536);
    assert_int_equal(p.shape, RF_HOOK_TOKENS);
    assert_ok(rf_vit_hook_find(&c, "blocks.0.attn.hook_pattern", &p));
    assert_int_equal(p.shape, RF_HOOK_PATTERN);
    assert_int_equal(p.width, 0);
    assert_ok(rf_vit_hook_find(&c, "hook_pooled", &p));
    assert_int_equal(p.layer, 12);
    static const char *const wrong[][2] = {
        {"blocks.8.hook_resid_pots", "did you mean 'blocks.8.hook_resid_post'"},
        {"blocks.12.hook_resid_post", "layers 0 to 11"},
        {"blocks.-13.hook_resid_post", "layers 0 to 11"},
        {"blocks.x.hook_resid_post", "did you mean"},
        {"blocks.1", "did you mean"},
        {"blocks..hook_resid_post", "did you mean"},
        {"hook_embedd", "did you mean 'hook_embed'"},
        {"hook_ln_pre", "did you mean"}, /* this model has no such norm */
        {"hook_resid_post", "did you mean"},
        {"", "did you mean"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(rf_vit_hook_find(&c, wrong[i][0], &p), RF_ERR_NOT_FOUND);
        if (strstr(rf_error_text(), wrong[i][1]) == NULL) {
            fail_msg("%s: '%s'", wrong[i][0], rf_error_text());
        }
    }
    c.has_ln_pre = true;
    assert_ok(rf_vit_hook_find(&c, "hook_ln_pre", &p));
    assert_int_equal(p.layer, -1);
}

static void test_listed_names_find_themselves(void **state)
{
    (void)state;
    rf_vit_config c = {.n_layers = 3, .d_model = 8, .d_mlp = 16, .n_heads = 2, .has_ln_pre = true};
    rf_hook_point *points = NULL, p;
    int64_t n = 0;
    assert_ok(rf_vit_hook_list(&c, &points, &n));
    assert_int_equal(n, 6 + 3 * 17 + 4);
    for (int64_t i = 0; i < n; i++) {
        assert_ok(rf_vit_hook_find(&c, points[i].name, &p));
        assert_memory_equal(&p, &points[i], sizeof p);
    }
    rf_free(points);
}

static void test_costs_of_a_small_vit_follow_from_its_sizes(void **state)
{
    (void)state;
    rf_vit_config c = {.n_layers = 12,
                       .d_model = 384,
                       .d_mlp = 1536,
                       .n_heads = 6,
                       .d_head = 64,
                       .n_patches = 256,
                       .n_tokens = 257,
                       .patch_size = 14,
                       .n_channels = 3,
                       .n_prefix = 1,
                       .d_out = 384,
                       .has_layer_scale = true};
    /* ViT-S/14 at 224: 21.6 M parameters; 12 x (2 T d (4 d + 2 m) + 4 T^2 d) and the patches */
    assert_true(fabs((double)rf_vit_weight_bytes(&c) / 4e6 - 21.7) <= 0.2);
    assert_true(fabs(rf_vit_flop(&c, 12) / 1e9 - 12.25) <= 0.1);
    assert_true(rf_vit_flop(&c, -1) < rf_vit_flop(&c, 0));
    assert_true(rf_vit_flop(&c, 5) < rf_vit_flop(&c, 11));
    assert_true(rf_vit_workspace_bytes(&c, 2) == 2 * rf_vit_workspace_bytes(&c, 1));
    assert_true(rf_vit_workspace_bytes(&c, 1) >= 4 * 257 * (7 * 384 + 1536));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile_configs_are_refused_by_the_key_at_fault),
        cmocka_unit_test(test_a_folder_without_its_files_is_not_found),
        cmocka_unit_test(test_missing_keys_take_the_defaults_of_transformers),
        cmocka_unit_test(test_a_config_that_does_not_fit_names_tensor_and_shapes),
        cmocka_unit_test(test_only_families_that_can_run_at_another_size),
        cmocka_unit_test(test_what_a_model_is_comes_from_its_files),
        cmocka_unit_test(test_hook_names_resolve_and_near_misses_are_named),
        cmocka_unit_test(test_listed_names_find_themselves),
        cmocka_unit_test(test_costs_of_a_small_vit_follow_from_its_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
