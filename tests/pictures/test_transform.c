/* Resizes against Pillow, and whole transforms against transformers' image processors. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "refract/pictures.h"

#define PICTURES RF_GOLDEN_DIR "/pictures"

static rf_tensor_file *golden;

static int open_golden(void **state)
{
    (void)state;
    return rf_tensor_file_open(PICTURES "/pictures.safetensors", &golden) != RF_OK;
}

static int close_golden(void **state)
{
    (void)state;
    rf_tensor_file_close(golden);
    return 0;
}

static void load(const char *name, rf_picture *p)
{
    char path[RF_PATH_LEN];
    assert_int_equal(rf_format(path, sizeof path, PICTURES "/%s.png", name), RF_OK);
    assert_int_equal(rf_picture_load(path, p), RF_OK);
}

static void resizes_equal_pillow_bit_for_bit(void **state)
{
    int n_compared = 0;
    rf_picture in;
    (void)state;
    load("wide", &in);
    for (int64_t i = 0; i < rf_tensor_file_count(golden); i++) {
        const rf_named_tensor *t = rf_tensor_file_at(golden, i);
        int height = 0, width = 0, filter = 0;
        rf_picture out;
        if (sscanf(t->name, "resize/%dx%d/%d", &height, &width, &filter) != 3) {
            continue;
        }
        rf_region all = {0, 0, height, width};
        assert_int_equal(
            rf_resize_picture(&in, height, width, (rf_resize_filter)filter, &all, &out), RF_OK);
        assert_int_equal(t->n_bytes, 3 * (int64_t)height * width);
        if (memcmp(out.rgb, t->bytes, (size_t)t->n_bytes) != 0) {
            fail_msg("%s differs from Pillow", t->name);
        }
        rf_picture_fini(&out);
        n_compared++;
    }
    assert_int_equal(n_compared, 13);
    rf_picture_fini(&in);
}

static void a_region_is_the_whole_resize_cropped(void **state)
{
    static const rf_region regions[] = {{0, 0, 1, 1}, {40, 52, 1, 1}, {0, 0, 41, 53},
                                        {7, 9, 8, 8}, {3, 5, 9, 33},  {40, 0, 1, 53}};
    rf_picture in, whole, part;
    const rf_region all = {0, 0, 41, 53};
    (void)state;
    load("wide", &in);
    assert_int_equal(rf_resize_picture(&in, 41, 53, RF_RESIZE_BICUBIC, &all, &whole), RF_OK);
    for (size_t i = 0; i < sizeof regions / sizeof regions[0]; i++) {
        const rf_region *r = &regions[i];
        assert_int_equal(rf_resize_picture(&in, 41, 53, RF_RESIZE_BICUBIC, r, &part), RF_OK);
        for (int64_t y = 0; y < r->height; y++) {
            assert_memory_equal(part.rgb + 3 * r->width * y,
                                whole.rgb + 3 * (53 * (r->top + y) + r->left),
                                (size_t)(3 * r->width));
        }
        rf_picture_fini(&part);
    }
    rf_picture_fini(&whole);
    rf_picture_fini(&in);
}

static void wrong_resizes_are_refused(void **state)
{
    static const rf_region outside[] = {{0, 0, 9, 8}, {0, 1, 8, 8}, {-1, 0, 2, 2}, {0, 0, 0, 4}};
    const rf_region all = {0, 0, 8, 8};
    rf_picture in, out, none = {0};
    (void)state;
    load("small", &in);
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        assert_int_equal(rf_resize_picture(&in, 8, 8, RF_RESIZE_BICUBIC, &outside[i], &out),
                         RF_ERR_INVALID_ARG);
        assert_null(out.rgb);
    }
    assert_int_equal(rf_resize_picture(&in, 8, 8, (rf_resize_filter)0, &all, &out),
                     RF_ERR_INVALID_ARG);
    assert_int_equal(rf_resize_picture(&none, 8, 8, RF_RESIZE_BICUBIC, &all, &out),
                     RF_ERR_INVALID_ARG);
    rf_picture_fini(&in);
}

static void parse(const char *json, rf_transform *out)
{
    if (rf_transform_parse(json, (int64_t)strlen(json), "test.json", out) != RF_OK) {
        fail_msg("%s: %s", json, rf_error_text());
    }
}

static void load_processor(const char *name, rf_transform *out)
{
    char path[RF_PATH_LEN];
    char *text = NULL;
    int64_t n_bytes = 0;
    assert_int_equal(rf_format(path, sizeof path, PICTURES "/processors/%s.json", name), RF_OK);
    assert_int_equal(rf_file_read(path, 1 << 20, &text, &n_bytes), RF_OK);
    parse(text, out);
    rf_free(text);
}

static void transforms_equal_the_image_processors_of_transformers(void **state)
{
    int n_compared = 0;
    (void)state;
    for (int64_t i = 0; i < rf_tensor_file_count(golden); i++) {
        const rf_named_tensor *want = rf_tensor_file_at(golden, i);
        char name[64], source[64];
        rf_transform t;
        rf_picture p;
        if (sscanf(want->name, "processor/%63[^/]/%63s", name, source) != 2) {
            continue;
        }
        load_processor(name, &t);
        load(source, &p);
        assert_int_equal(want->shape[1], rf_transform_height(&t));
        assert_int_equal(want->shape[2], rf_transform_width(&t));
        float *out = rf_calloc(want->n_elems, sizeof *out);
        assert_int_equal(rf_transform_apply(&t, &p, out), RF_OK);
        /* the same pixels through the same float operations: the same bits */
        if (memcmp(out, want->bytes, (size_t)want->n_bytes) != 0) {
            fail_msg("%s differs", want->name);
        }
        rf_free(out);
        rf_picture_fini(&p);
        n_compared++;
    }
    assert_int_equal(n_compared, 18);
}

static void older_forms_of_the_file_mean_what_they_meant(void **state)
{
    rf_transform t;
    (void)state;
    parse(
        "{\"feature_extractor_type\": \"CLIPFeatureExtractor\", \"size\": 240, \"crop_size\": 230,"
        " \"resample\": 3, \"image_mean\": [0.1, 0.2, 0.3], \"image_std\": 0.5}",
        &t);
    assert_int_equal(t.shortest_edge, 240);
    assert_int_equal(t.resize_height, 0);
    assert_int_equal(t.crop_height, 230);
    assert_int_equal(t.crop_width, 230);
    assert_true(t.mean[1] == 0.2F && t.std[2] == 0.5F && t.scale == 1.0 / 255.0);

    parse("{\"feature_extractor_type\": \"ViTFeatureExtractor\", \"size\": 384, \"resample\": 2}",
          &t);
    assert_int_equal(t.shortest_edge, 0);
    assert_int_equal(t.resize_height, 384);
    assert_int_equal(t.resize_width, 384);
    assert_int_equal(t.crop_height, 0);
    assert_int_equal(t.filter, RF_RESIZE_BILINEAR);
    assert_true(t.normalise && t.mean[0] == 0.5F);

    parse(
        "{\"feature_extractor_type\": \"DeiTFeatureExtractor\", \"size\": 256, \"crop_size\": 224}",
        &t);
    assert_int_equal(t.resize_height, 256);
    assert_int_equal(t.crop_height, 224);
}

static void keys_that_are_absent_or_null_have_the_defaults_of_their_processor(void **state)
{
    rf_transform t;
    (void)state;
    parse("{\"image_processor_type\": \"CLIPImageProcessor\"}", &t);
    assert_int_equal(t.shortest_edge, 224);
    assert_int_equal(t.crop_width, 224);
    assert_int_equal(t.filter, RF_RESIZE_BICUBIC);
    assert_true(t.mean[0] == 0.48145466F && t.std[2] == 0.27577711F);
    parse(
        "{\"image_processor_type\": \"ViTImageProcessorFast\", \"crop_size\": null, \"size\": null,"
        " \"do_center_crop\": null, \"do_pad\": null, \"image_mean\": null}",
        &t);
    assert_int_equal(t.resize_width, 224);
    assert_int_equal(t.crop_width, 0);
    assert_true(t.mean[0] == 0.5F);
    parse("{\"image_processor\": {\"image_processor_type\": \"CLIPImageProcessor\"}, \"x\": 1}",
          &t);
    assert_int_equal(t.crop_height, 224);
    parse("{\"do_resize\": true, \"size\": {\"shortest_edge\": 256}, \"resample\": 3, "
          "\"do_center_crop\": true, \"crop_size\": 224, \"image_mean\": [0.4, 0.4, 0.4], "
          "\"image_std\": [0.2, 0.2, 0.2]}",
          &t);
    assert_int_equal(t.shortest_edge, 256);
    assert_int_equal(t.crop_height, 224);
}

static void configs_that_cannot_be_followed_are_refused_with_a_reason(void **state)
{
    static const struct {
        const char *json, *word;
        rf_status status;
    } cases[] = {
        {"", "test.json", RF_ERR_FORMAT},
        {"[]", "object", RF_ERR_FORMAT},
        {"{}", "image_processor_type", RF_ERR_FORMAT},
        {"{\"size\": 224}", "image_mean", RF_ERR_FORMAT},
        {"{\"image_processor_type\": \"FlavaImageProcessor\"}", "Flava", RF_ERR_UNSUPPORTED},
        {"{\"image_processor_type\": \"Siglip2ImageProcessor\", \"max_num_patches\": 0}",
         "max_num_patches", RF_ERR_FORMAT},
        {"{\"image_processor_type\": 3}", "image_processor_type", RF_ERR_FORMAT},
        {"{\"image_processor_type\": \"CLIPImageProcessor\", \"size\": \"big\"}", "size",
         RF_ERR_FORMAT},
        {"{\"image_processor_type\": \"CLIPImageProcessor\", \"size\": {\"width\": 3}}", "size",
         RF_ERR_NOT_FOUND},
        {"{\"image_processor_type\": \"CLIPImageProcessor\", \"size\": {\"height\": 3}}", "size",
         RF_ERR_NOT_FOUND},
        {"{\"image_processor_type\": \"CLIPImageProcessor\", \"size\": 0}", "size", RF_ERR_FORMAT},
        {"{\"image_processor_type\": \"CLIPImageProcessor\", \"size\": 9223372036854775807}",
         "size", RF_ERR_FORMAT},
        {"{\"image_processor_type\": \"CLIPImageProcessor\", \"size\": {\"shortest_edge\": 9, "
         "\"longest_edge\": 10}}",
         "longer", RF_ERR_UNSUPPORTED},
        {"{\"image_processor_type\": \"CLIPImageProcessor\", \"crop_size\": -1}", "crop_size",
         RF_ERR_FORMAT},
        {"{\"image_processor_type\": \"CLIPImageProcessor\", \"do_center_crop\": false}", "differ",
         RF_ERR_UNSUPPORTED},
        {"{\"image_processor_type\": \"ViTImageProcessor\", \"do_resize\": false}", "differ",
         RF_ERR_UNSUPPORTED},
        {"{\"image_processor_type\": \"ViTImageProcessor\", \"resample\": 0}", "resample",
         RF_ERR_UNSUPPORTED},
        {"{\"image_processor_type\": \"ViTImageProcessor\", \"do_pad\": true}", "do_pad",
         RF_ERR_UNSUPPORTED},
        {"{\"image_processor_type\": \"ViTImageProcessor\", \"image_std\": [1, 0, 1]}", "channel 1",
         RF_ERR_INVALID_ARG},
        {"{\"image_processor_type\": \"ViTImageProcessor\", \"image_mean\": [1, 2]}", "image_mean",
         RF_ERR_FORMAT},
        {"{\"image_processor_type\": \"ViTImageProcessor\", \"image_mean\": [1, 2, \"x\"]}",
         "image_mean", RF_ERR_FORMAT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rf_transform t;
        rf_status status =
            rf_transform_parse(cases[i].json, (int64_t)strlen(cases[i].json), "test.json", &t);
        if (status != cases[i].status || strstr(rf_error_text(), cases[i].word) == NULL ||
            strstr(rf_error_text(), "test.json") == NULL) {
            fail_msg("%s: status %d, '%s'", cases[i].json, (int)status, rf_error_text());
        }
    }
}

typedef rf_status (*parse_fn)(const char *, int64_t, const char *, rf_transform *);

/* The transform of libraries/`name`.json, by the library that the name begins with. */
static void load_library(const char *name, rf_transform *out)
{
    char path[RF_PATH_LEN];
    char *text = NULL;
    int64_t n_bytes = 0;
    const parse_fn parse_text =
        strncmp(name, "timm", 4) == 0 ? rf_transform_parse_timm : rf_transform_parse_open_clip;
    assert_int_equal(rf_format(path, sizeof path, PICTURES "/libraries/%s.json", name), RF_OK);
    assert_int_equal(rf_file_read(path, 1 << 20, &text, &n_bytes), RF_OK);
    if (parse_text(text, n_bytes, path, out) != RF_OK) {
        fail_msg("%s", rf_error_text());
    }
    rf_free(text);
}

static void transforms_equal_those_of_open_clip_and_timm(void **state)
{
    int n_compared = 0;
    rf_tensor_file *file = NULL;
    (void)state;
    assert_int_equal(rf_tensor_file_open(PICTURES "/libraries.safetensors", &file), RF_OK);
    for (int64_t i = 0; i < rf_tensor_file_count(file); i++) {
        const rf_named_tensor *want = rf_tensor_file_at(file, i);
        char name[64], source[64];
        rf_transform t;
        rf_picture p;
        assert_int_equal(sscanf(want->name, "%63[^/]/%63s", name, source), 2);
        load_library(name, &t);
        load(source, &p);
        assert_int_equal(want->shape[1], rf_transform_height(&t));
        assert_int_equal(want->shape[2], rf_transform_width(&t));
        float *out = rf_calloc(want->n_elems, sizeof *out);
        float *values = rf_calloc(want->n_elems, sizeof *values);
        assert_int_equal(rf_named_tensor_read_f32(want, values), RF_OK);
        assert_int_equal(rf_transform_apply(&t, &p, out), RF_OK);
        for (int64_t j = 0; j < want->n_elems; j++) {
            /* the same pixels; they divide by 255 where this multiplies, and round once more */
            if (!(fabsf(out[j] - values[j]) <= 1e-6F)) {
                fail_msg("%s: value %d is %g, expected %g", want->name, (int)j, (double)out[j],
                         (double)values[j]);
            }
        }
        rf_free(values);
        rf_free(out);
        rf_picture_fini(&p);
        n_compared++;
    }
    assert_int_equal(n_compared, 27);
    rf_tensor_file_close(file);
}

static void other_configs_of_these_libraries_are_refused_with_a_reason(void **state)
{
    static const struct {
        parse_fn parse;
        const char *json, *word;
        rf_status status;
    } cases[] = {
        {rf_transform_parse_timm, "{\"architecture\": \"vit\"}", "pretrained_cfg",
         RF_ERR_NOT_FOUND},
        {rf_transform_parse_timm, "{\"pretrained_cfg\": {\"crop_pct\": 0}}", "crop_pct",
         RF_ERR_FORMAT},
        {rf_transform_parse_timm, "{\"pretrained_cfg\": {\"crop_pct\": 1e-9}}", "crop_pct",
         RF_ERR_FORMAT},
        {rf_transform_parse_timm, "{\"pretrained_cfg\": {\"crop_mode\": \"border\"}}", "crop_mode",
         RF_ERR_UNSUPPORTED},
        {rf_transform_parse_timm, "{\"pretrained_cfg\": {\"interpolation\": \"random\"}}",
         "interpolation", RF_ERR_UNSUPPORTED},
        {rf_transform_parse_timm, "{\"pretrained_cfg\": {\"input_size\": [3, 224]}}", "",
         RF_ERR_UNSUPPORTED},
        {rf_transform_parse_timm, "{\"pretrained_cfg\": {\"input_size\": [3]}}", "input_size",
         RF_ERR_FORMAT},
        {rf_transform_parse_timm, "{\"pretrained_cfg\": {\"input_size\": [3, 1, 99999]}}",
         "input_size", RF_ERR_FORMAT},
        {rf_transform_parse_open_clip, "{\"model_cfg\": {}}", "image_size", RF_ERR_NOT_FOUND},
        {rf_transform_parse_open_clip,
         "{\"preprocess_cfg\": {\"size\": 224, \"resize_mode\": \"longest\"}}", "resize_mode",
         RF_ERR_UNSUPPORTED},
        {rf_transform_parse_open_clip, "{\"preprocess_cfg\": {\"size\": [20, 30]}}", "square",
         RF_ERR_UNSUPPORTED},
        {rf_transform_parse_open_clip, "{\"preprocess_cfg\": {\"size\": -3}}", "size",
         RF_ERR_FORMAT},
        {rf_transform_parse_open_clip, "{\"preprocess_cfg\": {\"size\": 8, \"std\": [0, 1, 1]}}",
         "channel 0", RF_ERR_INVALID_ARG},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rf_transform t;
        const rf_status status =
            cases[i].parse(cases[i].json, (int64_t)strlen(cases[i].json), "test.json", &t);
        if (status != cases[i].status || strstr(rf_error_text(), cases[i].word) == NULL ||
            strstr(rf_error_text(), "test.json") == NULL) {
            fail_msg("%s: status %d, '%s'", cases[i].json, (int)status, rf_error_text());
        }
    }
}

static void a_model_without_the_file_is_not_found(void **state)
{
    rf_transform t;
    (void)state;
    assert_int_equal(rf_transform_load(PICTURES, &t), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "preprocessor_config.json"));
    assert_int_equal(rf_transform_load("", &t), RF_ERR_SETTING); /* a run out of a store has none */
    assert_non_null(strstr(rf_error_text(), "add model.path=FOLDER"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resizes_equal_pillow_bit_for_bit),
        cmocka_unit_test(a_region_is_the_whole_resize_cropped),
        cmocka_unit_test(wrong_resizes_are_refused),
        cmocka_unit_test(transforms_equal_the_image_processors_of_transformers),
        cmocka_unit_test(older_forms_of_the_file_mean_what_they_meant),
        cmocka_unit_test(keys_that_are_absent_or_null_have_the_defaults_of_their_processor),
        cmocka_unit_test(configs_that_cannot_be_followed_are_refused_with_a_reason),
        cmocka_unit_test(transforms_equal_those_of_open_clip_and_timm),
        cmocka_unit_test(other_configs_of_these_libraries_are_refused_with_a_reason),
        cmocka_unit_test(a_model_without_the_file_is_not_found),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
