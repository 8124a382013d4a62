/* Every golden model (golden/make_vit.py) against what transformers, timm or open_clip computed:
 * a test of its own for each reference in golden/vit, and for each that replacing works. */
#include "golden_tests.h"

/* fp32 sums in another order, at two layers: measured up to 5e-6. */
static const double tolerance = 2e-5;

static model_tests all;

static void test_every_point_equals_the_library(void **state)
{
    const reference *r = *state;
    model m = open_model(r->folder, r->file, 2);
    rf_comparison c = {0};
    assert_ok(rf_vit_compare(m.vit, m.s, m.golden, tolerance, &c));
    const int64_t worst = rf_comparison_worst(&c, RF_ANY_LAYER);
    assert_true(worst >= 0);
    printf("           %s: %d points, largest error %.1e at %s\n", rf_vit_get_config(m.vit)->family,
           (int)c.n_points, c.points[worst].error, c.points[worst].name);
    for (int64_t i = 0; i < c.n_points; i++) {
        if (!(c.points[i].error <= tolerance)) {
            fail_msg("%s differs by %g", c.points[i].name, c.points[i].error);
        }
    }
    if (c.n_missing > 0) {
        fail_msg("the model lacks %s (%d points of the reference)", c.missing[0], (int)c.n_missing);
    }
    /* A whole reference has every point; a short one has few, but always the embedding. */
    if (rf_tensor_file_find(m.golden, "blocks.0.attn.hook_q") != NULL && c.n_extra > 0) {
        fail_msg("the reference lacks %s (%d points of the model)", c.extra[0], (int)c.n_extra);
    }
    assert_non_null(rf_tensor_file_find(m.golden, "embedding"));
    rf_comparison_fini(&c);
    close_model(&m);
}

/* ---- replacing ------------------------------------------------------------------------------ */

typedef struct editing {
    int64_t n_calls;
} editing;

static rf_status edit_unevenly(void *user, const rf_hook_point *point, const rf_view *act,
                               rf_stream *s)
{
    editing *e = user;
    float *x = act->data;
    (void)point;
    (void)s;
    for (int64_t i = 0; i < rf_view_n_elems(act); i++) { /* no norm or softmax undoes this */
        x[i] = 1.5f * x[i] + 0.3f * (float)(i % 5);
    }
    e->n_calls++;
    return RF_OK;
}

static float *copy_output(const rf_view *v)
{
    float *copy = rf_calloc(v->data == NULL ? 0 : rf_view_n_elems(v), sizeof *copy);
    assert_non_null(copy);
    if (v->data != NULL) {
        memcpy(copy, v->data, (size_t)rf_view_n_elems(v) * sizeof *copy);
    }
    return copy;
}

static void test_every_point_fires_once_and_a_replacement_takes_effect(void **state)
{
    const reference *r = *state;
    model m = open_model(r->folder, r->file, 2);
    rf_hook_point *points = NULL;
    int64_t n = 0;
    rf_vit_output out = forward(&m, NULL, 0);
    float *embedding = copy_output(&out.embedding), *logits = copy_output(&out.logits);
    assert_ok(rf_vit_hook_list(rf_vit_get_config(m.vit), &points, &n));
    for (int64_t i = 0; i < n; i++) {
        editing e = {0};
        const rf_hook hook = {points[i], edit_unevenly, &e};
        out = forward(&m, &hook, 1);
        double change =
            largest_change(embedding, out.embedding.data, rf_view_n_elems(&out.embedding));
        if (out.logits.data != NULL) {
            change =
                fmax(change, largest_change(logits, out.logits.data, rf_view_n_elems(&out.logits)));
        }
        if (!(change > 1e-4)) { /* far above rounding, far below what the edit does */
            fail_msg("replacing %s changed nothing", points[i].name);
        }
        if (e.n_calls != 1) {
            fail_msg("%s fired %d times", points[i].name, (int)e.n_calls);
        }
    }
    rf_free(logits);
    rf_free(embedding);
    rf_free(points);
    close_model(&m);
}

/* ---- which references there are -------------------------------------------------------------- */

static bool has_folder(const char *name)
{
    for (int i = 0; i < all.n_references; i++) {
        if (strcmp(all.references[i].folder, name) == 0) {
            return true;
        }
    }
    return false;
}

static void test_every_family_has_a_golden_model(void **state)
{
    static const char *const folders[] = {"clip_projection",
                                          "clip_whole",
                                          "metaclip2",
                                          "kandinsky",
                                          "siglip",
                                          "siglip2",
                                          "vit",
                                          "dino",
                                          "deit",
                                          "dinov2",
                                          "dinov2_swiglu",
                                          "dinov3",
                                          "dinov3_gated",
                                          "ijepa",
                                          "mae",
                                          "beit",
                                          "vivit",
                                          "vjepa1",
                                          "vjepa2",
                                          "videomae",
                                          "timm_vit",
                                          "timm_eva",
                                          "timm_eva02",
                                          "timm_pe",
                                          "timm_siglip",
                                          "open_clip_gelu",
                                          "timm_clip",
                                          "open_clip_coca",
                                          "open_clip_trunk",
                                          "dinov2_registers"};
    (void)state;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        if (!has_folder(folders[i])) {
            fail_msg("golden/vit/%s is missing; golden/make_vit.py makes it", folders[i]);
        }
    }
}

int main(void)
{
    static const struct CMUnitTest families =
        cmocka_unit_test(test_every_family_has_a_golden_model);
    find_references(&all);
    add_test(&all, &families);
    add_tests_of_references(&all, "every point equals the library",
                            test_every_point_equals_the_library);
    add_tests_of_references(&all, "every point fires once and a replacement takes effect",
                            test_every_point_fires_once_and_a_replacement_takes_effect);
    return run_model_tests("golden models", &all);
}
