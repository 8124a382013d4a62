/* Caches: which points they keep, and of which pass. */
#include "../../src/vit/vit_impl.h"
#include "golden.h"

/* A whole pass of the model over its input, everything kept. */
static rf_cache *fill(model *m, rf_vit_output *out)
{
    rf_cache *cache = NULL;
    assert_ok(rf_cache_create(m->vit, NULL, 0, &cache));
    const rf_vit_run_args args = {.input = m->input, .cache = cache};
    assert_ok(rf_vit_run(m->vit, m->s, &args, out));
    return cache;
}

static void test_an_empty_cache_has_no_stacks(void **state)
{
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    rf_cache *cache = NULL;
    rf_resid_stack stack;
    rf_view view;
    assert_ok(rf_cache_create(m.vit, NULL, 0, &cache));
    for (int i = 0; i < 2; i++) { /* before any pass, and behind one over no pictures */
        assert_int_equal(rf_cache_n_images(cache), 0);
        assert_int_equal(rf_cache_head_results(cache, m.s, 0, &stack), RF_ERR_NOT_FOUND);
        assert_int_equal(rf_cache_get(cache, "hook_embed", &view), RF_ERR_NOT_FOUND);
        rf_vit_run_args args = {.input = m.input, .cache = cache};
        args.input.shape[0] = 0;
        assert_ok(rf_vit_run(m.vit, m.s, &args, NULL));
    }
    rf_cache_destroy(cache);
    close_model(&m);
}

static void test_filters_name_points_once_and_in_firing_order(void **state)
{
    static const char *const filters[] = {"blocks.[12].hook_resid_post",
                                          "blocks.2.attn.hook_result", "blocks.-1.hook_resid_post",
                                          "hook_embed"};
    static const char *const want[] = {"hook_embed", "blocks.1.hook_resid_post",
                                       "blocks.2.attn.hook_result", "blocks.2.hook_resid_post"};
    static const char *const wrong[] = {"blocks.*.hook_nothing", "hook_nothing", "blocks.3.*"};
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    rf_cache *cache = NULL;
    assert_ok(rf_cache_create(m.vit, filters, 4, &cache));
    assert_int_equal(rf_cache_n_points(cache), 4);
    for (int64_t i = 0; i < 4; i++) {
        assert_string_equal(rf_cache_point(cache, i)->name, want[i]);
    }
    assert_null(rf_cache_point(cache, 4));
    assert_null(rf_cache_point(cache, -1));
    rf_cache_destroy(cache);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(rf_cache_create(m.vit, &wrong[i], 1, &cache), RF_ERR_NOT_FOUND);
    }
    close_model(&m);
}

static void test_a_pattern_leaves_out_points_on_request(void **state)
{
    static const char *const star = "blocks.0.*";
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    rf_cache *cache = NULL;
    assert_ok(rf_cache_create(m.vit, &star, 1, &cache));
    assert_true(rf_cache_n_points(cache) > 10);
    for (int64_t i = 0; i < rf_cache_n_points(cache); i++) {
        assert_false(rf_cache_point(cache, i)->is_on_request);
        assert_int_equal(rf_cache_point(cache, i)->layer, 0);
    }
    rf_cache_destroy(cache);
    close_model(&m);
}

static rf_status set_to_seven(void *user, const rf_hook_point *point, const rf_view *act,
                              rf_stream *s)
{
    float *x = act->data;
    (void)user;
    (void)point;
    (void)s;
    for (int64_t i = 0; i < rf_view_n_elems(act); i++) {
        x[i] = 7.0f;
    }
    return RF_OK;
}

static void test_a_cache_keeps_what_the_model_goes_on_with(void **state)
{
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    rf_hook hook = {.fn = set_to_seven};
    rf_cache *cache = NULL;
    assert_ok(rf_vit_hook_find(&m.vit->config, "blocks.0.hook_mlp_out", &hook.point));
    assert_ok(rf_cache_create(m.vit, NULL, 0, &cache));
    const rf_vit_run_args args = {.input = m.input, .cache = cache, .hooks = &hook, .n_hooks = 1};
    assert_ok(rf_vit_run(m.vit, m.s, &args, NULL));
    rf_view view;
    assert_ok(rf_cache_get(cache, "blocks.0.hook_mlp_out", &view));
    float *host = rf_calloc(rf_view_n_elems(&view), sizeof *host);
    assert_ok(rf_cache_read(cache, m.s, "blocks.-3.hook_mlp_out", host));
    for (int64_t i = 0; i < rf_view_n_elems(&view); i++) {
        assert_true(host[i] == 7.0f);
    }
    rf_free(host);
    rf_cache_destroy(cache);
    close_model(&m);
}

static void test_a_pass_that_stops_early_leaves_the_rest_unheld(void **state)
{
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    rf_vit_output out;
    rf_view view;
    rf_cache *cache = fill(&m, &out);
    assert_true(cache->is_complete);
    rf_vit_run_args args = {
        .input = m.input, .cache = cache, .stop = RF_VIT_STOP_AT_LAYER, .stop_layer = 1};
    assert_ok(rf_vit_run(m.vit, m.s, &args, NULL));
    assert_false(cache->is_complete);
    assert_ok(rf_cache_get(cache, "blocks.0.hook_resid_post", &view));
    assert_int_equal(rf_cache_get(cache, "blocks.1.hook_resid_pre", &view), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "blocks.1.hook_resid_pre"));
    rf_cache_destroy(cache);
    close_model(&m);
}

/* A second, smaller pass has the values and shapes of a cache of its own. */
static void test_a_cache_is_filled_again(void **state)
{
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    rf_vit_output out;
    rf_cache *again = fill(&m, &out);
    assert_true(m.input.shape[0] > 1);
    m.input.shape[0] = 1;
    const rf_vit_run_args args = {.input = m.input, .cache = again};
    assert_ok(rf_vit_run(m.vit, m.s, &args, NULL));
    rf_cache *fresh = fill(&m, &out);
    assert_int_equal(rf_cache_n_images(again), 1);
    for (int64_t i = 0; i < rf_cache_n_points(fresh); i++) {
        rf_view a, b;
        assert_ok(rf_cache_get(again, rf_cache_point(fresh, i)->name, &a));
        assert_ok(rf_cache_get(fresh, rf_cache_point(fresh, i)->name, &b));
        assert_int_equal(rf_view_n_elems(&a), rf_view_n_elems(&b));
        assert_memory_equal(a.data, b.data, (size_t)rf_view_n_elems(&a) * sizeof(float));
    }
    rf_cache_destroy(again);
    rf_cache_destroy(fresh);
    close_model(&m);
}

static void test_a_cache_says_which_processing_it_saw(void **state)
{
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    rf_vit_output out;
    rf_cache *cache = fill(&m, &out);
    assert_int_equal(rf_cache_processing(cache), 0);
    assert_ok(rf_vit_process_weights(m.vit, m.s, RF_FOLD_LN));
    assert_int_equal(rf_cache_processing(cache), 0); /* of the pass, not of the model */
    const rf_vit_run_args args = {.input = m.input, .cache = cache};
    assert_ok(rf_vit_run(m.vit, m.s, &args, NULL));
    assert_int_equal(rf_cache_processing(cache), RF_FOLD_LN);
    rf_cache_destroy(cache);
    close_model(&m);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_empty_cache_has_no_stacks),
        cmocka_unit_test(test_filters_name_points_once_and_in_firing_order),
        cmocka_unit_test(test_a_pattern_leaves_out_points_on_request),
        cmocka_unit_test(test_a_cache_keeps_what_the_model_goes_on_with),
        cmocka_unit_test(test_a_pass_that_stops_early_leaves_the_rest_unheld),
        cmocka_unit_test(test_a_cache_is_filled_again),
        cmocka_unit_test(test_a_cache_says_which_processing_it_saw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
