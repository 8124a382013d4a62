/* Configs and weights: what they mean, and what must be refused. */
#include "refract/vit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
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

static void put_file(const char *folder, const char *name, const char *text)
{
    char path[RF_PATH_LEN];
    assert_ok(rf_path_join(path, folder, name));
    assert_ok(rf_file_write_atomic(path, text, (int64_t)strlen(text)));
}

/* A folder under $TMPDIR with this config; `weights_of` names a golden model or is NULL. */
static void make_folder_of(char out[RF_PATH_LEN], const char *config_name, const char *config,
                           const char *weights_of)
{
    const char *tmp = getenv("TMPDIR");
    char path[RF_PATH_LEN], from[RF_PATH_LEN], *bytes = NULL;
    int64_t n_bytes = 0;
    assert_ok(rf_format(out, RF_PATH_LEN, "%s/refract-vit-XXXXXX", tmp != NULL ? tmp : "/tmp"));
    assert_non_null(mkdtemp(out));
    put_file(out, config_name, config);
    if (weights_of != NULL) {
        assert_ok(
            rf_format(from, sizeof from, "%s/vit/%s/model.safetensors", RF_GOLDEN_DIR, weights_of));
        assert_ok(rf_file_read(from, 1 << 20, &bytes, &n_bytes));
        assert_ok(rf_path_join(path, out, "model.safetensors"));
        assert_ok(rf_file_write_atomic(path, bytes, n_bytes));
        rf_free(bytes);
    }
}

static void make_folder(char out[RF_PATH_LEN], const char *config, const char *weights_of)
{
    make_folder_of(out, "config.json", config, weights_of);
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

static void assert_refused_by(const char *config_name, const rf_vit_opts *opts, const char *config,
                              rf_status expected, const char *word)
{
    char folder[RF_PATH_LEN];
    rf_vit_config c;
    int64_t live = rf_alloc_live();
    make_folder_of(folder, config_name, config, NULL);
    rf_status got = rf_vit_read_config(folder, opts, &c);
    if (got != expected || strstr(rf_error_text(), word) == NULL) {
        fail_msg("%s: status %d, text '%s', expected status %d and '%s'", config, (int)got,
                 rf_error_text(), (int)expected, word);
    }
    assert_int_equal(rf_alloc_live(), live);
    remove_folder(folder);
}

static void assert_refused(const char *config, rf_status expected, const char *word)
{
    assert_refused_by("config.json", NULL, config, expected, word);
}

static void test_hostile_configs_are_refused_by_the_key_at_fault(void **state)
{
    (void)state;
    assert_refused("", RF_ERR_FORMAT, "config.json");
    assert_refused("{\"model_type\": \"vit\"", RF_ERR_FORMAT, "config.json");
    assert_refused("[]", RF_ERR_NOT_FOUND, "model_type");
    assert_refused("{}", RF_ERR_NOT_FOUND, "model_type");
    assert_refused("{\"model_type\": 3}", RF_ERR_FORMAT, "model_type");
    assert_refused("{\"model_type\": \"swin\"}", RF_ERR_UNSUPPORTED, "clip, clip_vision_model");
    assert_refused("{\"model_type\": \"siglip\"}", RF_ERR_FORMAT, "vision_config");
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
    assert_refused("{\"model_type\": \"vit\", \"image_size\": [224, \"x\"]}", RF_ERR_FORMAT,
                   "image_size");
    assert_refused("{\"model_type\": \"vit\", \"image_size\": []}", RF_ERR_FORMAT, "image_size");
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
    assert_refused("{\"model_type\": \"dinov2\", \"mlp_ratio\": -4}", RF_ERR_FORMAT, "mlp_ratio");
    assert_refused("{\"model_type\": \"dinov2\", \"mlp_ratio\": 1e300}", RF_ERR_FORMAT,
                   "mlp_ratio");
}

static void test_hostile_configs_of_other_families_too(void **state)
{
    (void)state;
    assert_refused("{\"model_type\": \"siglip\", \"vision_config\": {\"vision_use_head\": false}}",
                   RF_ERR_UNSUPPORTED, "pooling head");
    assert_refused("{\"model_type\": \"siglip2_vision_model\", \"num_patches\": 250}",
                   RF_ERR_FORMAT, "square");
    assert_refused("{\"model_type\": \"dinov3_vit\", \"num_register_tokens\": -1}", RF_ERR_FORMAT,
                   "num_register_tokens");
    assert_refused("{\"model_type\": \"dinov3_vit\", \"num_attention_heads\": 64}", RF_ERR_FORMAT,
                   "rotary");
    assert_refused("{\"model_type\": \"vivit\", \"tubelet_size\": [2, 16, 8]}", RF_ERR_UNSUPPORTED,
                   "not square");
    assert_refused("{\"model_type\": \"vivit\", \"tubelet_size\": [2, 16, 16, 16]}", RF_ERR_FORMAT,
                   "tubelet_size");
    assert_refused("{\"model_type\": \"videomae\", \"num_frames\": 1}", RF_ERR_FORMAT, "patches");
    assert_refused("{\"model_type\": \"videomae\", \"num_frames\": 4096, \"image_size\": 4096}",
                   RF_ERR_FORMAT, "patches");
    assert_refused("{\"model_type\": \"vjepa2\", \"mlp_ratio\": 1e9}", RF_ERR_FORMAT, "mlp_ratio");
    assert_refused("{\"model_type\": \"beit\", \"image_size\": 1600, "
                   "\"use_relative_position_bias\": true}",
                   RF_ERR_UNSUPPORTED, "relative position");
    assert_refused("{\"architecture\": \"vit_base_patch16_223\"}", RF_ERR_UNSUPPORTED,
                   "'vit_base_patch16_224'");
    assert_refused("{\"architecture\": \"resnet50\"}", RF_ERR_UNSUPPORTED, "resnet50");
    assert_refused("{\"architecture\": 3}", RF_ERR_FORMAT, "architecture");
    assert_refused(
        "{\"architecture\": \"vit_base_patch16_224\", \"model_args\": {\"qk_norm\": true}}",
        RF_ERR_UNSUPPORTED, "a norm of q and k");
    assert_refused(
        "{\"architecture\": \"vit_base_patch16_224\", \"model_args\": {\"block_fn\": \"x\"}}",
        RF_ERR_UNSUPPORTED, "block_fn");
    assert_refused(
        "{\"architecture\": \"vit_base_patch16_224\", \"model_args\": {\"global_pool\": \"max\"}}",
        RF_ERR_UNSUPPORTED, "global_pool");
    assert_refused("{\"architecture\": \"vit_base_patch16_224\", \"model_args\": {\"depth\": 0}}",
                   RF_ERR_FORMAT, "depth");
}

#define VISION(keys) "{\"model_cfg\": {\"embed_dim\": 512, \"vision_cfg\": {" keys "}}}"
#define TEXT(keys) "{\"model_cfg\": {\"embed_dim\": 512, \"text_cfg\": {" keys "}}}"

static void test_switches_of_open_clip_that_are_not_there_are_refused(void **state)
{
    (void)state;
    static const struct {
        rf_vit_tower tower;
        const char *config, *word;
        rf_status status;
    } cases[] = {
        {RF_TOWER_VISION, VISION("\"qk_norm\": true"), "qk_norm", RF_ERR_UNSUPPORTED},
        {RF_TOWER_VISION, VISION("\"scaled_cosine_attn\": true"), "cosine", RF_ERR_UNSUPPORTED},
        {RF_TOWER_VISION, VISION("\"scale_heads\": true"), "scale_heads", RF_ERR_UNSUPPORTED},
        {RF_TOWER_VISION, VISION("\"layers\": [3, 4, 6, 3]"), "ResNet", RF_ERR_UNSUPPORTED},
        {RF_TOWER_VISION, VISION("\"attentional_pool\": \"parallel\""), "attentional_pool",
         RF_ERR_FORMAT},
        {RF_TOWER_VISION, VISION("\"attentional_pool\": true, \"pool_type\": \"avg\""),
         "attentional_pool", RF_ERR_UNSUPPORTED},
        {RF_TOWER_VISION, VISION("\"pool_type\": \"none\""), "pool_type", RF_ERR_UNSUPPORTED},
        {RF_TOWER_VISION, VISION("\"width\": 768, \"head_width\": 1000"), "heads", RF_ERR_FORMAT},
        {RF_TOWER_VISION, VISION("\"timm_model_name\": \"convnext_base\""), "convnext_base",
         RF_ERR_UNSUPPORTED},
        {RF_TOWER_VISION,
         VISION("\"timm_model_name\": \"vit_base_patch16_224\", \"timm_proj\": \"mlp\""),
         "timm_proj", RF_ERR_UNSUPPORTED},
        {RF_TOWER_VISION, "{\"model_cfg\": {\"embed_dim\": 512}}", "vision_cfg", RF_ERR_FORMAT},
        {RF_TOWER_VISION, "{}", "vision_cfg", RF_ERR_FORMAT},
        {RF_TOWER_TEXT, TEXT("\"hf_model_name\": \"roberta-base\""), "vision only",
         RF_ERR_UNSUPPORTED},
        {RF_TOWER_TEXT, TEXT("\"embed_cls\": true"), "embed_cls", RF_ERR_UNSUPPORTED},
        {RF_TOWER_TEXT, TEXT("\"context_length\": 100000"), "context_length", RF_ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_refused_by("open_clip_config.json", &(rf_vit_opts){.tower = cases[i].tower},
                          cases[i].config, cases[i].status, cases[i].word);
    }
    /* a text tower that is not there */
    assert_refused_by("config.json", &(rf_vit_opts){.tower = RF_TOWER_TEXT},
                      "{\"model_type\": \"dinov2\"}", RF_ERR_UNSUPPORTED, "no text tower");
    assert_refused_by("config.json", &(rf_vit_opts){.tower = RF_TOWER_TEXT},
                      "{\"architecture\": \"vit_base_patch16_224\"}", RF_ERR_UNSUPPORTED,
                      "no text tower");
}

static rf_vit_config config_of(const char *config_name, const char *config, rf_vit_tower tower)
{
    char folder[RF_PATH_LEN];
    rf_vit_config c = {0};
    make_folder_of(folder, config_name, config, NULL);
    assert_ok(rf_vit_read_config(folder, &(rf_vit_opts){.tower = tower}, &c));
    remove_folder(folder);
    return c;
}

static void test_switches_that_are_there_come_from_the_config(void **state)
{
    (void)state;
    rf_vit_config c = config_of(
        "open_clip_config.json",
        VISION("\"width\": 1664, \"layers\": 48, \"head_width\": 104, \"mlp_ratio\": 4.9231, "
               "\"patch_size\": 14, \"image_size\": [224, 448], \"no_ln_pre\": true, "
               "\"norm_kwargs\": {\"eps\": 1e-6}, \"act_kwargs\": {\"approximate\": \"tanh\"}"),
        RF_TOWER_VISION);
    assert_int_equal(c.n_heads, 16);
    assert_int_equal(c.d_mlp, 8192);
    assert_int_equal(c.n_tokens, 1 + 16 * 32);
    assert_true(!c.has_ln_pre && c.eps == 1e-6f && c.act == RF_ACT_GELU_TANH);
    c = config_of("open_clip_config.json",
                  TEXT("\"no_causal_mask\": true, \"pool_type\": \"last\""), RF_TOWER_TEXT);
    assert_true(c.input == RF_VIT_TEXT && c.score_bias == RF_SCORES_PLAIN);
    assert_true(c.pool == RF_POOL_LAST && c.n_tokens == 77 && c.n_prefix == 0);
    c = config_of("open_clip_config.json", TEXT("\"width\": 512"), RF_TOWER_TEXT);
    assert_true(c.score_bias == RF_SCORES_CAUSAL && c.pool == RF_POOL_END && c.eos_id == -1);
    c = config_of("config.json", "{\"model_type\": \"clip_text_model\", \"eos_token_id\": 49407}",
                  RF_TOWER_TEXT);
    assert_int_equal(c.eos_id, 49407);
    c = config_of("config.json", "{\"model_type\": \"videomae\"}", RF_TOWER_VISION);
    assert_true(c.eps == 1e-12f && c.eps_final == 1e-5f && c.norm_is_behind_pool);
    assert_true(c.pool == RF_POOL_TOKEN_MEAN && c.n_patches == 8 * 14 * 14);
    c = config_of("config.json", "{\"model_type\": \"videomae\", \"use_mean_pooling\": false}",
                  RF_TOWER_VISION);
    assert_true(c.eps_final == 1e-12f && !c.norm_is_behind_pool && c.pool == RF_POOL_CLS);
    c = config_of("config.json",
                  "{\"architecture\": \"vit_base_patch16_224\", \"model_args\": {\"global_pool\": "
                  "\"avg\", \"reg_tokens\": 4, \"no_embed_class\": true, \"init_values\": 1e-5}}",
                  RF_TOWER_VISION);
    assert_true(c.norm_is_behind_pool && c.n_registers == 4 && c.has_layer_scale);
    c = config_of(
        "config.json",
        "{\"architecture\": \"vit_base_patch16_224\", \"pretrained_cfg\": {\"input_size\": "
        "[3, 384, 384]}, \"model_args\": {\"global_pool\": \"avg\", \"fc_norm\": false}}",
        RF_TOWER_VISION);
    assert_true(!c.norm_is_behind_pool && c.image_height == 384);
    c = config_of("config.json",
                  "{\"model_type\": \"vivit\", \"tubelet_size\": [4, 8, 8], \"num_frames\": 8}",
                  RF_TOWER_VISION);
    assert_true(c.tubelet == 4 && c.patch_size == 8 && c.n_patches == 2 * 28 * 28);
    c = config_of("config.json", "{\"model_type\": \"siglip2_vision_model\", \"num_patches\": 100}",
                  RF_TOWER_VISION);
    assert_true(c.image_height == 160 && c.n_patches == 100);
}

static void test_classes_of_timm_have_names_too(void **state)
{
    (void)state;
    char folder[RF_PATH_LEN], path[RF_PATH_LEN], *config = NULL;
    int64_t n_bytes = 0;
    rf_str labelled = {0};
    rf_backend *be = NULL;
    rf_vit *vit = NULL;
    assert_ok(rf_backend_cpu_create(1, &be));
    golden_path(folder, "timm_vit");
    assert_ok(rf_path_join(path, folder, "config.json"));
    assert_ok(rf_file_read(path, 1 << 20, &config, &n_bytes));
    assert_ok(rf_str_append(&labelled,
                            "{\"label_names\": [\"n1\", \"n2\"], \"label_descriptions\": "
                            "{\"n2\": \"tench, Tinca tinca\"}, %s",
                            strchr(config, '{') + 1));
    make_folder(folder, labelled.data, "timm_vit");
    assert_ok(rf_vit_open(be, folder, NULL, &vit));
    assert_string_equal(rf_vit_class_name(vit, 0), "n1");
    assert_string_equal(rf_vit_class_name(vit, 1), "tench, Tinca tinca");
    assert_null(rf_vit_class_name(vit, 2));
    rf_vit_close(vit);
    remove_folder(folder);
    rf_str_fini(&labelled);
    rf_free(config);
    rf_backend_destroy(be);
}

/* Every file of a folder beside this test, as the config that its name says. */
static void try_folder(const char *name, bool is_accepted)
{
    char folder[RF_PATH_LEN], path[RF_PATH_LEN], own[RF_PATH_LEN], *text = NULL, **names = NULL;
    int64_t n = 0, n_bytes = 0;
    assert_ok(rf_format(folder, sizeof folder, "%s/tests/vit/%s", RF_SOURCE_DIR, name));
    assert_ok(rf_file_list(folder, &names, &n));
    assert_true(n >= 15);
    for (int64_t i = 0; i < n; i++) {
        rf_vit_config c;
        assert_ok(rf_path_join(path, folder, names[i]));
        assert_ok(rf_file_read(path, 1 << 20, &text, &n_bytes));
        make_folder_of(
            own, strncmp(names[i], "open_clip", 9) == 0 ? "open_clip_config.json" : "config.json",
            text, NULL);
        if ((rf_vit_read_config(own, NULL, &c) == RF_OK) != is_accepted) {
            fail_msg("%s: %s", names[i], is_accepted ? rf_error_text() : "was accepted");
        }
        remove_folder(own);
        rf_free(text);
    }
    rf_file_list_free(names, n);
}

static void test_what_must_be_read_is_read_and_what_must_not_is_not(void **state)
{
    (void)state;
    try_folder("accept", true);
    try_folder("refuse", false);
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
    /* a layer more than the config has would change the numbers */
    assert_misfit("{" VIT_KEYS "\"hidden_size\": 36, \"image_size\": 26, \"num_hidden_layers\": 2}",
                  "vit", "tensor 'encoder.layer.2.");
    /* without its keys in the config, a bias-free checkpoint lacks what the default asks for */
    assert_misfit("{" VIT_KEYS "\"hidden_size\": 36, \"image_size\": 26, \"num_hidden_layers\": 2}",
                  "vit_classifier",
                  "tensor 'vit.encoder.layer.0.attention.attention.query.bias' is missing");
}

static void assert_size(const char *golden, int64_t height, int64_t width, rf_status expected,
                        int64_t n_tokens)
{
    char path[RF_PATH_LEN];
    rf_backend *be = NULL;
    rf_vit *vit = NULL;
    assert_ok(rf_backend_cpu_create(1, &be));
    golden_path(path, golden);
    const rf_vit_opts opts = {.image_height = height, .image_width = width};
    const rf_status got = rf_vit_open(be, path, &opts, &vit);
    if (got != expected) {
        fail_msg("%s at %d x %d: %d, '%s'", golden, (int)height, (int)width, (int)got,
                 rf_error_text());
    }
    if (got == RF_OK) {
        assert_int_equal(rf_vit_get_config(vit)->n_tokens, n_tokens);
    }
    rf_vit_close(vit);
    rf_backend_destroy(be);
}

static void test_families_run_at_another_size_where_their_library_can(void **state)
{
    (void)state;
    assert_size("vit", 32, 48, RF_OK, 1 + 4 * 6);
    assert_size("vit", -1, -1, RF_ERR_INVALID_ARG, 0);
    assert_size("dinov2", 3, 3, RF_ERR_FORMAT, 0);   /* less than a patch */
    assert_size("dinov2", 24, 24, RF_OK, 10);        /* the same grid: a border is left out */
    assert_size("dinov3", 16, 40, RF_OK, 3 + 2 * 5); /* no stored positions */
    assert_size("open_clip_gelu", 32, 24, RF_OK, 1 + 4 * 3);
    assert_size("siglip2", 40, 24, RF_OK, 15);
    assert_size("timm_eva02", 32, 32, RF_OK, 1 + 16);
    assert_size("beit", 32, 32, RF_ERR_UNSUPPORTED, 0);
    assert_non_null(strstr(rf_error_text(), "image size 24"));
    assert_size("vivit", 32, 32, RF_ERR_UNSUPPORTED, 0);
}

static void test_weights_are_found_by_name_or_alone(void **state)
{
    (void)state;
    char folder[RF_PATH_LEN], from[RF_PATH_LEN], to[RF_PATH_LEN];
    rf_vit_config c;
    make_folder(folder,
                "{\"model_type\": \"vit\", \"hidden_size\": 36, \"num_hidden_layers\": 3, "
                "\"num_attention_heads\": 3, \"intermediate_size\": 52, \"image_size\": 26, "
                "\"patch_size\": 8}",
                "vit");
    assert_ok(rf_path_join(from, folder, "model.safetensors"));
    assert_ok(rf_path_join(to, folder, "epoch_7.safetensors"));
    assert_int_equal(rename(from, to), 0);
    put_file(folder, "reference.safetensors", "not looked at");
    put_file(folder, "optimizer.pt", "not looked at");
    assert_ok(rf_vit_read_config(folder, NULL, &c));
    put_file(folder, "epoch_8.pt", "which one?");
    assert_int_equal(rf_vit_read_config(folder, NULL, &c), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "epoch_7.safetensors"));
    assert_non_null(strstr(rf_error_text(), "epoch_8.pt"));
    remove_folder(folder);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile_configs_are_refused_by_the_key_at_fault),
        cmocka_unit_test(test_hostile_configs_of_other_families_too),
        cmocka_unit_test(test_switches_of_open_clip_that_are_not_there_are_refused),
        cmocka_unit_test(test_switches_that_are_there_come_from_the_config),
        cmocka_unit_test(test_classes_of_timm_have_names_too),
        cmocka_unit_test(test_what_must_be_read_is_read_and_what_must_not_is_not),
        cmocka_unit_test(test_a_folder_without_its_files_is_not_found),
        cmocka_unit_test(test_missing_keys_take_the_defaults_of_transformers),
        cmocka_unit_test(test_a_config_that_does_not_fit_names_tensor_and_shapes),
        cmocka_unit_test(test_families_run_at_another_size_where_their_library_can),
        cmocka_unit_test(test_weights_are_found_by_name_or_alone),
        cmocka_unit_test(test_what_a_model_is_comes_from_its_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
