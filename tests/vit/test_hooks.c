/* Hook points: which a model has, their order, shapes and names. */
#include "made.h"

static rf_hook_point find(const rf_vit_config *c, const char *name)
{
    rf_hook_point p;
    assert_ok(rf_vit_hook_find(c, name, &p));
    return p;
}

/* ---- the list ------------------------------------------------------------------------------- */

static void assert_list(const rf_vit_config *c, const char *const *names, int64_t n_names)
{
    rf_hook_point *points = NULL;
    int64_t n = 0;
    assert_ok(rf_vit_hook_list(c, &points, &n));
    for (int64_t i = 0; i < n && i < n_names; i++) {
        assert_string_equal(points[i].name, names[i]);
    }
    assert_int_equal(n, n_names);
    rf_free(points);
}

static void test_a_plain_model_has_the_plain_points(void **state)
{
    (void)state;
    rf_vit_config c = made_config();
    c.n_layers = 1;
    static const char *const names[] = {"hook_embed",
                                        "hook_pos_embed",
                                        "hook_full_embed",
                                        "blocks.0.hook_resid_pre",
                                        "blocks.0.hook_attn_in",
                                        "blocks.0.hook_q_input",
                                        "blocks.0.hook_k_input",
                                        "blocks.0.hook_v_input",
                                        "blocks.0.ln1.hook_scale",
                                        "blocks.0.ln1.hook_normalized",
                                        "blocks.0.attn.hook_q",
                                        "blocks.0.attn.hook_k",
                                        "blocks.0.attn.hook_v",
                                        "blocks.0.attn.hook_attn_scores",
                                        "blocks.0.attn.hook_pattern",
                                        "blocks.0.attn.hook_z",
                                        "blocks.0.attn.hook_result",
                                        "blocks.0.hook_attn_out",
                                        "blocks.0.hook_resid_mid",
                                        "blocks.0.hook_mlp_in",
                                        "blocks.0.ln2.hook_scale",
                                        "blocks.0.ln2.hook_normalized",
                                        "blocks.0.mlp.hook_pre",
                                        "blocks.0.mlp.hook_post",
                                        "blocks.0.hook_mlp_out",
                                        "blocks.0.hook_resid_post",
                                        "ln_final.hook_scale",
                                        "ln_final.hook_normalized",
                                        "hook_ln_final",
                                        "hook_pooled",
                                        "hook_post_head_pre_normalize"};
    assert_list(&c, names, (int64_t)(sizeof names / sizeof *names));
}

static void test_norms_behind_the_branches_fire_behind_them(void **state)
{
    (void)state;
    rf_vit_config c = made_norm_behind();
    c.n_layers = 1;
    static const char *const names[] = {"hook_embed",
                                        "hook_pos_embed",
                                        "hook_full_embed",
                                        "ln_pre.hook_scale",
                                        "ln_pre.hook_normalized",
                                        "hook_ln_pre",
                                        "blocks.0.hook_resid_pre",
                                        "blocks.0.hook_attn_in",
                                        "blocks.0.hook_q_input",
                                        "blocks.0.hook_k_input",
                                        "blocks.0.hook_v_input",
                                        "blocks.0.attn.hook_q",
                                        "blocks.0.attn.hook_k",
                                        "blocks.0.attn.hook_v",
                                        "blocks.0.attn.hook_rot_q",
                                        "blocks.0.attn.hook_rot_k",
                                        "blocks.0.attn.hook_attn_scores",
                                        "blocks.0.attn.hook_pattern",
                                        "blocks.0.attn.hook_z",
                                        "blocks.0.attn.ln.hook_scale",
                                        "blocks.0.attn.ln.hook_normalized",
                                        "blocks.0.attn.hook_result",
                                        "blocks.0.ln1.hook_scale",
                                        "blocks.0.ln1.hook_normalized",
                                        "blocks.0.hook_attn_out",
                                        "blocks.0.hook_resid_mid",
                                        "blocks.0.hook_mlp_in",
                                        "blocks.0.mlp.hook_pre",
                                        "blocks.0.mlp.hook_pre_linear",
                                        "blocks.0.mlp.hook_post",
                                        "blocks.0.mlp.ln.hook_scale",
                                        "blocks.0.mlp.ln.hook_normalized",
                                        "blocks.0.ln2.hook_scale",
                                        "blocks.0.ln2.hook_normalized",
                                        "blocks.0.hook_mlp_out",
                                        "blocks.0.hook_resid_post",
                                        "ln_final.hook_scale",
                                        "ln_final.hook_normalized",
                                        "hook_ln_final",
                                        "hook_pooled",
                                        "hook_post_head_pre_normalize"};
    assert_list(&c, names, (int64_t)(sizeof names / sizeof *names));
}

static void test_every_listed_point_is_found_by_its_name_and_order_rises(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_VARIANTS; i++) {
        const rf_vit_config c = made_variant(i);
        rf_hook_point *points = NULL;
        int64_t n = 0, last = INT64_MIN;
        assert_ok(rf_vit_hook_list(&c, &points, &n));
        for (int64_t j = 0; j < n; j++) {
            const rf_hook_point p = find(&c, points[j].name);
            rf_hook_point same;
            assert_int_equal(p.site, points[j].site);
            assert_int_equal(p.layer, points[j].layer);
            assert_int_equal(p.width, points[j].width);
            assert_int_equal(p.shape, points[j].shape);
            assert_int_equal(p.is_on_request, points[j].is_on_request);
            assert_true(rf_hook_point_at(&c, (rf_site)p.site, p.layer, &same));
            assert_string_equal(same.name, p.name);
            assert_true(rf_hook_order(&c, &p) > last);
            last = rf_hook_order(&c, &p);
        }
        rf_free(points);
    }
}

static int64_t count(const rf_vit_config *c)
{
    rf_hook_point *points = NULL;
    int64_t n = 0;
    assert_ok(rf_vit_hook_list(c, &points, &n));
    rf_free(points);
    return n;
}

static void test_each_switch_brings_its_points(void **state)
{
    (void)state;
    const rf_vit_config plain = made_config();
    const int64_t n = count(&plain), layers = plain.n_layers;
    rf_vit_config c = plain;
    c.has_ln_pre = true;
    assert_int_equal(count(&c), n + 3);
    c = plain;
    c.has_position = false;
    assert_int_equal(count(&c), n - 1);
    c = plain;
    c.has_ln_final = false;
    assert_int_equal(count(&c), n - 3);
    c = plain;
    c.rope = RF_ROPE_AXES;
    assert_int_equal(count(&c), n + 2 * layers);
    c = plain;
    c.is_gated = true;
    assert_int_equal(count(&c), n + layers);
    c = plain;
    c.has_attn_norm = true;
    assert_int_equal(count(&c), n + 2 * layers);
    c = plain;
    c.has_mlp_norm = true;
    assert_int_equal(count(&c), n + 2 * layers);
}

/* ---- shapes --------------------------------------------------------------------------------- */

static void assert_view(const rf_vit_config *c, const char *name, int n_dims, const int64_t *shape)
{
    const rf_hook_point p = find(c, name);
    const rf_view v = rf_hook_view(c, &p, shape[0], NULL);
    assert_int_equal(v.n_dims, n_dims);
    for (int i = 0; i < n_dims; i++) {
        assert_int_equal(v.shape[i], shape[i]);
    }
}

static void test_points_have_the_shapes_of_the_contract(void **state)
{
    (void)state;
    const rf_vit_config c = made_gated();
    assert_view(&c, "hook_embed", 3, (int64_t[]){4, 6, 12});
    assert_view(&c, "hook_pos_embed", 3, (int64_t[]){4, 9, 12});
    assert_view(&c, "ln_pre.hook_scale", 3, (int64_t[]){4, 9, 1});
    assert_view(&c, "blocks.1.hook_q_input", 4, (int64_t[]){4, 9, 3, 12});
    assert_view(&c, "blocks.1.attn.hook_rot_k", 4, (int64_t[]){4, 9, 3, 4});
    assert_view(&c, "blocks.1.attn.hook_pattern", 4, (int64_t[]){4, 3, 9, 9});
    assert_view(&c, "blocks.1.attn.hook_result", 4, (int64_t[]){4, 9, 3, 12});
    assert_view(&c, "blocks.1.mlp.hook_pre_linear", 3, (int64_t[]){4, 9, 20});
    assert_view(&c, "blocks.1.mlp.ln.hook_normalized", 3, (int64_t[]){4, 9, 20});
    assert_view(&c, "blocks.1.mlp.ln.hook_scale", 3, (int64_t[]){4, 9, 1});
    assert_view(&c, "hook_ln_final", 3, (int64_t[]){4, 9, 12});
    assert_view(&c, "hook_pooled", 2, (int64_t[]){4, 12});
    assert_view(&c, "hook_post_head_pre_normalize", 2, (int64_t[]){4, 5});
    const rf_vit_config wide = made_wide_pool();
    assert_view(&wide, "ln_final.hook_scale", 2, (int64_t[]){4, 1});
    assert_view(&wide, "ln_final.hook_normalized", 2, (int64_t[]){4, 16});
    assert_view(&wide, "hook_pooled", 2, (int64_t[]){4, 16});
    assert_view(&wide, "hook_post_head_pre_normalize", 2, (int64_t[]){4, 10});
    const rf_vit_config text = made_text(RF_POOL_END, -1);
    assert_view(&text, "hook_embed", 3, (int64_t[]){4, 5, 12});
}

static void test_six_points_a_layer_are_on_request(void **state)
{
    (void)state;
    static const char *const names[] = {"hook_attn_in", "hook_q_input",     "hook_k_input",
                                        "hook_v_input", "attn.hook_result", "hook_mlp_in"};
    const rf_vit_config c = made_gated();
    rf_hook_point *points = NULL;
    int64_t n = 0, n_on_request = 0;
    assert_ok(rf_vit_hook_list(&c, &points, &n));
    for (int64_t i = 0; i < n; i++) {
        n_on_request += points[i].is_on_request ? 1 : 0;
    }
    rf_free(points);
    assert_int_equal(n_on_request, 6 * c.n_layers);
    for (int i = 0; i < 6; i++) {
        char name[RF_NAME_LEN];
        assert_ok(rf_format(name, sizeof name, "blocks.1.%s", names[i]));
        assert_true(find(&c, name).is_on_request);
    }
}

/* ---- names ---------------------------------------------------------------------------------- */

static void test_short_forms_mean_what_their_long_forms_say(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"k1", "blocks.1.attn.hook_k"},
        {"key1", "blocks.1.attn.hook_k"},
        {"query0", "blocks.0.attn.hook_q"},
        {"value1a", "blocks.1.attn.hook_v"},
        {"q1attn", "blocks.1.attn.hook_q"},
        {"rot_q1", "blocks.1.attn.hook_rot_q"},
        {"resid_pre1", "blocks.1.hook_resid_pre"},
        {"resid_post1b", "blocks.1.hook_resid_post"},
        {"resid_mid0blocks", "blocks.0.hook_resid_mid"},
        {"pattern-1", "blocks.1.attn.hook_pattern"},
        {"attn-2", "blocks.0.attn.hook_pattern"},
        {"attn_scores0", "blocks.0.attn.hook_attn_scores"},
        {"attn_logits0", "blocks.0.attn.hook_attn_scores"},
        {"z1", "blocks.1.attn.hook_z"},
        {"attn_out1", "blocks.1.hook_attn_out"},
        {"result0", "blocks.0.attn.hook_result"},
        {"q_input0", "blocks.0.hook_q_input"},
        {"mlp_in1", "blocks.1.hook_mlp_in"},
        {"pre1", "blocks.1.mlp.hook_pre"},
        {"mlp_pre1", "blocks.1.mlp.hook_pre"},
        {"pre1m", "blocks.1.mlp.hook_pre"},
        {"pre_linear0", "blocks.0.mlp.hook_pre_linear"},
        {"mlp_post1", "blocks.1.mlp.hook_post"},
        {"mlp_out-1", "blocks.1.hook_mlp_out"},
        {"scale1ln1", "blocks.1.ln1.hook_scale"},
        {"normalized0ln2", "blocks.0.ln2.hook_normalized"},
        {"scale1attn.ln", "blocks.1.attn.ln.hook_scale"},
        {"normalized-1mlp.ln", "blocks.1.mlp.ln.hook_normalized"},
        {"scale", "ln_final.hook_scale"},
        {"normalized", "ln_final.hook_normalized"},
        {"embed", "hook_embed"},
        {"pos_embed", "hook_pos_embed"},
        {"full_embed", "hook_full_embed"},
        {"ln_pre", "hook_ln_pre"},
        {"ln_final", "hook_ln_final"},
        {"pooled", "hook_pooled"},
        {"blocks.-1.attn.hook_k", "blocks.1.attn.hook_k"},
        {"blocks.-2.hook_resid_pre", "blocks.0.hook_resid_pre"}};
    const rf_vit_config c = made_gated();
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        assert_string_equal(find(&c, pairs[i][0]).name, pairs[i][1]);
    }
}

static void test_wrong_names_are_refused_with_the_nearest_right_one(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {{"hook_embd", "hook_embed"},
                                           {"blocks.0.hook_resid_pst", "blocks.0.hook_resid_post"},
                                           {"blocks.1.attn.hook_keys", "blocks.1.attn.hook_k"},
                                           {"patern1", "blocks.1.attn.hook_pattern"},
                                           {"resid_pree1", "blocks.1.hook_resid_pre"},
                                           {"scale1ln3", "blocks.1.ln1.hook_scale"},
                                           {"normalizd", "ln_final.hook_normalized"},
                                           {"pooledd", "hook_pooled"},
                                           {"k2", "layers 0 to 1"},
                                           {"k-3", "layers 0 to 1"},
                                           {"blocks.2.attn.hook_k", "layers 0 to 1"},
                                           {"blocks.-3.attn.hook_k", "layers 0 to 1"}};
    const rf_vit_config c = made_gated();
    rf_hook_point p;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(rf_vit_hook_find(&c, wrong[i][0], &p), RF_ERR_NOT_FOUND);
        if (strstr(rf_error_text(), wrong[i][1]) == NULL) {
            fail_msg("'%s': %s", wrong[i][0], rf_error_text());
        }
    }
}

static void test_what_is_no_name_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",
                                        "-",
                                        "k",
                                        "k-",
                                        "k1-",
                                        "k1 ",
                                        " k1",
                                        "k--1",
                                        "k1mlp",
                                        "scale1",
                                        "resid_pre1a",
                                        "embed0",
                                        "pooled-",
                                        "1",
                                        "k99999999999999999999",
                                        "blocks.",
                                        "blocks..hook_k",
                                        "blocks.0",
                                        "blocks.0.",
                                        "blocks.0.hook_embed",
                                        "blocks.x.hook_resid_pre",
                                        "blocks.99999999999999999999999999999999999.hook_k",
                                        "hook_resid_pre",
                                        "attn.hook_k"};
    const rf_vit_config c = made_gated();
    char name[3 * RF_NAME_LEN];
    rf_hook_point p;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        if (rf_vit_hook_find(&c, wrong[i], &p) != RF_ERR_NOT_FOUND) {
            fail_msg("'%s' was taken for %s", wrong[i], p.name);
        }
    }
    memset(name, 'k', sizeof name - 1); /* longer than any name */
    name[sizeof name - 1] = '\0';
    assert_int_equal(rf_vit_hook_find(&c, name, &p), RF_ERR_NOT_FOUND);
    name[1] = '1';
    assert_int_equal(rf_vit_hook_find(&c, name, &p), RF_ERR_NOT_FOUND);
}

static void test_a_point_that_a_model_lacks_is_not_found(void **state)
{
    (void)state;
    static const char *const names[] = {"rot_q0", "pre_linear0", "ln_pre",
                                        "blocks.0.attn.ln.hook_scale",
                                        "blocks.0.mlp.ln.hook_scale"};
    const rf_vit_config c = made_config();
    rf_hook_point p;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(rf_vit_hook_find(&c, names[i], &p), RF_ERR_NOT_FOUND);
    }
    const rf_vit_config clips = made_clips();
    assert_int_equal(rf_vit_hook_find(&clips, "pos_embed", &p), RF_ERR_NOT_FOUND);
    assert_int_equal(rf_vit_hook_find(&clips, "scale", &p), RF_ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_plain_model_has_the_plain_points),
        cmocka_unit_test(test_norms_behind_the_branches_fire_behind_them),
        cmocka_unit_test(test_every_listed_point_is_found_by_its_name_and_order_rises),
        cmocka_unit_test(test_each_switch_brings_its_points),
        cmocka_unit_test(test_points_have_the_shapes_of_the_contract),
        cmocka_unit_test(test_six_points_a_layer_are_on_request),
        cmocka_unit_test(test_short_forms_mean_what_their_long_forms_say),
        cmocka_unit_test(test_wrong_names_are_refused_with_the_nearest_right_one),
        cmocka_unit_test(test_what_is_no_name_is_refused),
        cmocka_unit_test(test_a_point_that_a_model_lacks_is_not_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
