/* The comparison with a reference: what it must see, and what it must not. */
#include "golden.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_TENSORS = 128 };
static const double tolerance = 2e-5;

/* The tensors of a golden reference, to be changed and written to a file of the test's own. */
typedef struct forgery {
    model m;
    rf_named_tensor tensors[MAX_TENSORS];
    int64_t n;
    char dir[64], path[128];
} forgery;

static forgery begin(void)
{
    forgery f = {.m = open_model("vit", "reference", 1), .dir = "/tmp/refract-compare-XXXXXX"};
    assert_non_null(mkdtemp(f.dir));
    assert_ok(rf_format(f.path, sizeof f.path, "%s/reference.safetensors", f.dir));
    for (int64_t i = 0; i < rf_tensor_file_count(f.m.golden); i++) {
        const rf_named_tensor *t = rf_tensor_file_at(f.m.golden, i);
        if (strchr(t->name, '/') == NULL) {
            assert_true(f.n < MAX_TENSORS - 1);
            f.tensors[f.n++] = *t;
        }
    }
    return f;
}

static rf_named_tensor *tensor_of(forgery *f, const char *name)
{
    for (int64_t i = 0; i < f->n; i++) {
        if (strcmp(f->tensors[i].name, name) == 0) {
            return &f->tensors[i];
        }
    }
    fail_msg("no tensor %s", name);
    return NULL;
}

static rf_status compare(forgery *f, rf_comparison *out)
{
    rf_tensor_file *file = NULL;
    assert_ok(rf_safetensors_write(f->path, f->tensors, f->n, NULL, 0));
    assert_ok(rf_tensor_file_open(f->path, &file));
    rf_status status = rf_vit_compare(f->m.vit, f->m.s, file, tolerance, out);
    rf_tensor_file_close(file);
    return status;
}

static void end(forgery *f)
{
    close_model(&f->m);
    remove(f->path);
    remove(f->dir);
}

/* The values of `name`, to be changed. */
static float *open_values(forgery *f, const char *name)
{
    rf_named_tensor *t = tensor_of(f, name);
    float *x = read_tensor(t);
    t->bytes = (const unsigned char *)x;
    t->dtype = RF_FILE_F32;
    return x;
}

static const rf_compared *point_of(const rf_comparison *c, const char *name)
{
    for (int64_t i = 0; i < c->n_points; i++) {
        if (strcmp(c->points[i].name, name) == 0) {
            return &c->points[i];
        }
    }
    fail_msg("%s was not compared", name);
    return NULL;
}

static void test_one_wrong_token_is_found_and_measured(void **state)
{
    (void)state;
    static const char *const names[] = {"hook_embed",
                                        "blocks.1.attn.hook_q",
                                        "blocks.2.attn.hook_pattern",
                                        "blocks.0.ln1.hook_scale",
                                        "hook_pooled",
                                        "embedding"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        forgery f = begin();
        rf_comparison c = {0};
        const rf_named_tensor *t = tensor_of(&f, names[i]);
        const bool in_heads = t->n_dims == 4 && strstr(names[i], "hook_q") != NULL;
        const int64_t last = t->shape[t->n_dims - 1];
        const int64_t row = in_heads ? last * t->shape[2] : last, n = t->n_elems;
        float *x = open_values(&f, names[i]);
        for (int64_t j = n - row; j < n; j++) { /* the last token, 1e-3 of its norm */
            x[j] *= 1.001f;
        }
        assert_ok(compare(&f, &c));
        const int64_t worst = rf_comparison_worst(&c, RF_ANY_LAYER);
        assert_string_equal(c.points[worst].name, names[i]);
        /* 0.001 / 1.001, and the model's own error of at most 1e-5 */
        assert_true(fabs(c.points[worst].error - 1e-3 / 1.001) <= 1e-5);
        assert_false(rf_compared_is_close(&c.points[worst]));
        rf_comparison_fini(&c);
        rf_free(x);
        end(&f);
    }
}

static void test_what_is_not_a_number_is_never_close(void **state)
{
    (void)state;
    const float odd[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        forgery f = begin();
        rf_comparison c = {0};
        float *x = open_values(&f, "blocks.1.hook_mlp_out");
        x[7] = odd[i];
        assert_ok(compare(&f, &c));
        const rf_compared *p = point_of(&c, "blocks.1.hook_mlp_out");
        assert_true(isinf(p->error));
        assert_false(rf_compared_is_close(p));
        assert_ptr_equal(p, &c.points[rf_comparison_worst(&c, RF_ANY_LAYER)]);
        rf_comparison_fini(&c);
        rf_free(x);
        end(&f);
    }
}

static void test_names_of_one_side_are_listed(void **state)
{
    (void)state;
    forgery f = begin();
    rf_comparison c = {0};
    tensor_of(&f, "blocks.1.hook_resid_mid")->name = "blocks.1.hook_resid_middle";
    tensor_of(&f, "hook_pooled")->name = "logits"; /* this model has none */
    assert_ok(compare(&f, &c));
    assert_int_equal(c.n_missing, 2);
    assert_string_equal(c.missing[0], "blocks.1.hook_resid_middle");
    assert_string_equal(c.missing[1], "logits");
    assert_int_equal(c.n_extra, 2);
    assert_string_equal(c.extra[0], "blocks.1.hook_resid_mid");
    assert_string_equal(c.extra[1], "hook_pooled");
    assert_true(rf_compared_is_close(&c.points[rf_comparison_worst(&c, RF_ANY_LAYER)]));
    rf_comparison_fini(&c);
    end(&f);
}

static void test_the_librarys_own_rounding_is_allowed_twice(void **state)
{
    (void)state;
    forgery f = begin();
    rf_comparison c = {0};
    const float rounding = 6e-4f;
    float *x = open_values(&f, "blocks.0.hook_attn_out");
    float *y = open_values(&f, "blocks.1.hook_attn_out");
    for (int64_t j = 0; j < tensor_of(&f, "blocks.0.hook_attn_out")->n_elems; j++) {
        x[j] *= 1.001f;
        y[j] *= 1.001f;
    }
    f.tensors[f.n++] = (rf_named_tensor){.name = "rounding/blocks.0.hook_attn_out",
                                         .dtype = RF_FILE_F32,
                                         .n_dims = 1,
                                         .shape = {1},
                                         .n_elems = 1,
                                         .bytes = (const unsigned char *)&rounding,
                                         .n_bytes = sizeof rounding};
    assert_ok(compare(&f, &c));
    assert_true(rf_compared_is_close(point_of(&c, "blocks.0.hook_attn_out")));
    assert_false(rf_compared_is_close(point_of(&c, "blocks.1.hook_attn_out")));
    assert_ptr_equal(point_of(&c, "blocks.1.hook_attn_out"),
                     &c.points[rf_comparison_worst(&c, RF_ANY_LAYER)]);
    assert_int_equal(c.n_missing, 0);
    rf_comparison_fini(&c);
    rf_free(x);
    rf_free(y);
    end(&f);
}

static void test_another_shape_is_refused_with_both(void **state)
{
    (void)state;
    forgery f = begin();
    rf_comparison c = {0};
    rf_named_tensor *t = tensor_of(&f, "blocks.0.hook_resid_pre");
    const int64_t n_tokens = t->shape[1];
    t->shape[1] = t->shape[0];
    t->shape[0] = n_tokens;
    assert_int_equal(compare(&f, &c), RF_ERR_FORMAT);
    assert_non_null(strstr(rf_error_text(), "blocks.0.hook_resid_pre is [2, 10, 36] in the model "
                                            "and [10, 2, 36] in the reference"));
    assert_null(c.points);
    end(&f);
}

static void test_a_reference_without_input_or_with_an_odd_one_is_refused(void **state)
{
    (void)state;
    forgery f = begin();
    rf_comparison c = {0};
    rf_vit_opts opts = {0};
    rf_tensor_file *file = NULL;
    rf_named_tensor *t = tensor_of(&f, "input");
    t->n_dims = 3;
    t->shape[0] *= t->shape[1];
    t->shape[1] = t->shape[2];
    t->shape[2] = t->shape[3];
    assert_int_equal(compare(&f, &c), RF_ERR_FORMAT);
    assert_non_null(strstr(rf_error_text(), "'input' has 3 dimensions"));
    t->name = "output";
    assert_int_equal(compare(&f, &c), RF_ERR_FORMAT);
    assert_non_null(strstr(rf_error_text(), "holds no 'input'"));
    assert_ok(rf_tensor_file_open(f.path, &file));
    assert_int_equal(rf_vit_reference_opts(file, &opts), RF_ERR_FORMAT);
    rf_tensor_file_close(file);
    end(&f);
}

static void test_the_input_tells_tower_and_size(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *file;
        rf_vit_tower tower;
        int64_t height, width;
    } wanted[] = {{"vit_oblong", "reference", RF_TOWER_VISION, 16, 32},
                  {"vivit", "reference", RF_TOWER_VISION, 16, 16},
                  {"clip_whole", "reference_text", RF_TOWER_TEXT, 0, 0}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        char path[RF_PATH_LEN];
        rf_tensor_file *file = NULL;
        rf_vit_opts opts = {.row = "kept"};
        assert_ok(rf_format(path, sizeof path, "%s/vit/%s/%s.safetensors", RF_GOLDEN_DIR,
                            wanted[i].folder, wanted[i].file));
        assert_ok(rf_tensor_file_open(path, &file));
        assert_ok(rf_vit_reference_opts(file, &opts));
        assert_int_equal(opts.tower, wanted[i].tower);
        assert_int_equal(opts.image_height, wanted[i].height);
        assert_int_equal(opts.image_width, wanted[i].width);
        assert_string_equal(opts.row, "kept");
        rf_tensor_file_close(file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_wrong_token_is_found_and_measured),
        cmocka_unit_test(test_what_is_not_a_number_is_never_close),
        cmocka_unit_test(test_names_of_one_side_are_listed),
        cmocka_unit_test(test_the_librarys_own_rounding_is_allowed_twice),
        cmocka_unit_test(test_another_shape_is_refused_with_both),
        cmocka_unit_test(test_a_reference_without_input_or_with_an_odd_one_is_refused),
        cmocka_unit_test(test_the_input_tells_tower_and_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
