/* Points on request: inputs split by heads, results by heads, the MLP's input. */
#include "made.h"

/* Behind split inputs and results sums are taken in another order: fp32 sums of 12 terms. */
static const double split_tolerance = 1e-5;

static void test_reading_points_on_request_changes_nothing_beyond_rounding(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) { /* norms before and behind */
        const rf_vit_config c = made_variant(i);
        made m = made_open(&c, RF_PRODUCTS_F32);
        made_points p = made_list(&m);
        rf_hook hooks[MADE_POINTS];
        made_firing f = {&c, 0, INT64_MIN};
        int64_t n = 0;
        rf_vit_output out = made_run(&m, NULL, 0, NULL);
        float *plain = made_copy(&out.embedding);
        for (int64_t j = 0; j < p.n; j++) {
            const bool is_ln1 =
                p.at[j].site == RF_SITE_LN1_SCALE || p.at[j].site == RF_SITE_LN1_NORMALIZED;
            if (!is_ln1 || c.norm_place == RF_NORM_BEHIND) {
                hooks[n++] = (rf_hook){p.at[j], made_note, &f};
            }
        }
        out = made_run(&m, hooks, n, NULL);
        assert_int_equal(f.n_calls, n);
        assert_true(made_change(plain, out.embedding.data, rf_view_n_elems(&out.embedding)) <=
                    split_tolerance);
        rf_free(plain);
        rf_free(p.at);
        made_close(&m);
    }
}

static rf_status check_copies(void *user, const rf_hook_point *point, const rf_view *act,
                              rf_stream *s)
{
    const float *resid = user, *x = act->data;
    const int64_t d = act->shape[3], n_heads = act->shape[2];
    (void)point;
    (void)s;
    for (int64_t i = 0; i < rf_view_n_elems(act); i++) {
        assert_true(x[i] == resid[i / (n_heads * d) * d + i % d]);
    }
    return RF_OK;
}

static void test_split_inputs_are_copies_of_the_stream(void **state)
{
    (void)state;
    static const char *const names[] = {"blocks.1.hook_attn_in", "q_input1", "k_input1",
                                        "v_input1"};
    const rf_vit_config c = made_gated();
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_cache *cache = NULL;
    static const char *const filter[] = {"resid_pre1"};
    assert_ok(rf_cache_create(m.vit, filter, 1, &cache));
    (void)made_run(&m, NULL, 0, cache);
    const rf_view resid = made_cached(cache, "resid_pre1");
    for (int i = 0; i < 4; i++) {
        const rf_hook hook = {made_find(&m, names[i]), check_copies, resid.data};
        (void)made_run(&m, &hook, 1, NULL);
    }
    rf_cache_destroy(cache);
    made_close(&m);
}

/* Head 1 of [B, T, H, d] becomes uneven. */
static rf_status edit_head_1(void *user, const rf_hook_point *point, const rf_view *act,
                             rf_stream *s)
{
    float *x = act->data;
    (void)user;
    (void)point;
    (void)s;
    for (int64_t i = 0; i < rf_view_n_elems(act); i++) {
        if (i / act->shape[3] % act->shape[2] == 1) {
            x[i] += (float)(i % 7);
        }
    }
    return RF_OK;
}

/* Largest change of head `head` of values [.., H, dh]. */
static double head_change(const rf_view *a, const float *b, int64_t head)
{
    double change = 0.0;
    const float *x = a->data;
    for (int64_t i = 0; i < rf_view_n_elems(a); i++) {
        if (i / a->shape[3] % a->shape[2] == head) {
            change = fmax(change, fabs((double)x[i] - (double)b[i]));
        }
    }
    return change;
}

static void test_a_head_reads_its_own_split_input(void **state)
{
    (void)state;
    static const char *const filters[] = {"q1", "k1", "v1"};
    static const char *const inputs[] = {"q_input1", "k_input1", "v_input1",
                                         "blocks.1.hook_attn_in"};
    const rf_vit_config c = made_gated();
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_cache *plain = NULL, *edited = NULL;
    assert_ok(rf_cache_create(m.vit, filters, 3, &plain));
    assert_ok(rf_cache_create(m.vit, filters, 3, &edited));
    (void)made_run(&m, NULL, 0, plain);
    for (int i = 0; i < 4; i++) {
        const rf_hook hook = {made_find(&m, inputs[i]), edit_head_1, NULL};
        (void)made_run(&m, &hook, 1, edited);
        for (int j = 0; j < 3; j++) {
            const rf_view v = made_cached(plain, filters[j]);
            const float *got = made_cached(edited, filters[j]).data;
            for (int64_t h = 0; h < c.n_heads; h++) {
                const double change = head_change(&v, got, h);
                if (h == 1 && (i == j || i == 3)) {
                    assert_true(change > 1e-2);
                } else if (i == j || i == 3) {
                    assert_true(change <= split_tolerance);
                } else {
                    assert_true(change == 0.0); /* not split: the same bits */
                }
            }
        }
    }
    rf_cache_destroy(plain);
    rf_cache_destroy(edited);
    made_close(&m);
}

static void test_split_inputs_begin_with_what_attn_in_was_replaced_by(void **state)
{
    (void)state;
    const rf_vit_config c = made_gated();
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_view attn_in = {0}, q_input = {0}, v_input = {0};
    const rf_hook hooks[5] = {{made_find(&m, "blocks.0.hook_attn_in"), edit_head_1, NULL},
                              {made_find(&m, "blocks.0.hook_attn_in"), made_keep, &attn_in},
                              {made_find(&m, "q_input0"), made_keep, &q_input},
                              {made_find(&m, "q_input0"), edit_head_1, NULL},
                              {made_find(&m, "v_input0"), made_keep, &v_input}};
    (void)made_run(&m, hooks, 5, NULL);
    const size_t n_bytes = (size_t)rf_view_n_elems(&attn_in) * sizeof(float);
    assert_memory_equal(attn_in.data, q_input.data, n_bytes);
    assert_memory_equal(attn_in.data, v_input.data, n_bytes);
    rf_free(attn_in.data);
    rf_free(q_input.data);
    rf_free(v_input.data);
    made_close(&m);
}

static void test_results_and_bias_add_up_to_what_attention_adds(void **state)
{
    (void)state;
    static const char *const filters[] = {"result0", "attn_out0"};
    rf_vit_config c = made_gated(); /* with LayerScale, a norm before W_O, b_O */
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_cache *cache = NULL;
    assert_ok(rf_cache_create(m.vit, filters, 2, &cache));
    (void)made_run(&m, NULL, 0, cache);
    const float *result = made_cached(cache, "result0").data,
                *out = made_cached(cache, "attn_out0").data;
    const rf_block_weights *w = &m.vit->weights.blocks[0];
    for (int64_t i = 0; i < MADE_PICTURES * c.n_tokens; i++) {
        for (int64_t j = 0; j < c.d_model; j++) {
            double sum = (double)((float *)w->o.bias.data)[j];
            for (int64_t h = 0; h < c.n_heads; h++) {
                sum += (double)result[(i * c.n_heads + h) * c.d_model + j];
            }
            sum *= (double)((float *)w->scale1.data)[j];
            assert_true(fabs(sum - (double)out[i * c.d_model + j]) <= split_tolerance);
        }
    }
    rf_cache_destroy(cache);
    made_close(&m);
}

static void test_results_without_a_bias_add_up_too(void **state)
{
    (void)state;
    const rf_vit_config c = made_config();
    made m = made_open(&c, RF_PRODUCTS_F32);
    made_firing f = {&c, 0, INT64_MIN};
    m.vit->weights.blocks[1].o.bias.data = NULL;
    rf_vit_output out = made_run(&m, NULL, 0, NULL);
    float *plain = made_copy(&out.embedding);
    const rf_hook hook = {made_find(&m, "result1"), made_note, &f};
    out = made_run(&m, &hook, 1, NULL);
    assert_true(made_change(plain, out.embedding.data, rf_view_n_elems(&out.embedding)) <=
                split_tolerance);
    rf_free(plain);
    made_close(&m);
}

static rf_status zero_head_1(void *user, const rf_hook_point *point, const rf_view *act,
                             rf_stream *s)
{
    float *x = act->data;
    (void)user;
    (void)point;
    (void)s;
    for (int64_t i = 0; i < rf_view_n_elems(act); i++) {
        x[i] = i / act->shape[3] % act->shape[2] == 1 ? 0.0f : x[i];
    }
    return RF_OK;
}

static void test_a_head_removed_at_result_is_one_removed_at_z(void **state)
{
    (void)state;
    rf_vit_config c = made_gated();
    c.has_attn_norm = false; /* it would see z */
    made m = made_open(&c, RF_PRODUCTS_F32);
    const rf_hook at_z = {made_find(&m, "z1"), zero_head_1, NULL};
    const rf_hook at_result = {made_find(&m, "result1"), zero_head_1, NULL};
    rf_vit_output out = made_run(&m, &at_z, 1, NULL);
    float *want = made_copy(&out.embedding);
    out = made_run(&m, &at_result, 1, NULL);
    assert_true(made_change(want, out.embedding.data, rf_view_n_elems(&out.embedding)) <=
                split_tolerance);
    rf_free(want);
    made_close(&m);
}

static void test_mlp_in_changes_the_mlp_alone(void **state)
{
    (void)state;
    static const char *const filters[] = {"resid_mid1", "mlp_out1", "resid_post1"};
    for (int i = 0; i < 2; i++) { /* norms before and behind */
        const rf_vit_config c = made_variant(i);
        made m = made_open(&c, RF_PRODUCTS_F32);
        rf_cache *plain = NULL, *edited = NULL;
        int64_t n_calls = 0;
        const rf_hook hook = {made_find(&m, "mlp_in1"), made_edit, &n_calls};
        assert_ok(rf_cache_create(m.vit, filters, 3, &plain));
        assert_ok(rf_cache_create(m.vit, filters, 3, &edited));
        (void)made_run(&m, NULL, 0, plain);
        (void)made_run(&m, &hook, 1, edited);
        const rf_view mid = made_cached(plain, "resid_mid1");
        const int64_t n = rf_view_n_elems(&mid);
        assert_memory_equal(mid.data, made_cached(edited, "resid_mid1").data,
                            (size_t)n * sizeof(float));
        assert_true(made_change(made_cached(plain, "mlp_out1").data,
                                made_cached(edited, "mlp_out1").data, n) > 1e-2);
        made_assert_sum(edited, "resid_post1", "resid_mid1", "mlp_out1");
        rf_cache_destroy(plain);
        rf_cache_destroy(edited);
        made_close(&m);
    }
}

static void test_split_inputs_and_ln1_exclude_each_other(void **state)
{
    (void)state;
    const rf_vit_config c = made_gated();
    made m = made_open(&c, RF_PRODUCTS_F32);
    int64_t n_calls = 0;
    rf_hook hooks[2] = {{made_find(&m, "k_input0"), made_edit, &n_calls},
                        {made_find(&m, "normalized0ln1"), made_edit, &n_calls}};
    rf_vit_output out;
    assert_int_equal(rf_vit_forward(m.vit, m.s, &m.input, hooks, 2, RF_VIT_RUN_ALL, &out),
                     RF_ERR_INVALID_ARG);
    assert_non_null(strstr(rf_error_text(), "blocks.0.ln1"));
    assert_int_equal(n_calls, 0);
    rf_cache *cache = made_full_cache(&m); /* it asks for ln1 too */
    assert_int_equal(rf_vit_run(m.vit, m.s,
                                &(rf_vit_run_args){
                                    .input = m.input, .hooks = hooks, .n_hooks = 1, .cache = cache},
                                &out),
                     RF_ERR_INVALID_ARG);
    rf_cache_destroy(cache);
    hooks[1].point = made_find(&m, "normalized1ln1"); /* another layer's */
    assert_ok(rf_vit_forward(m.vit, m.s, &m.input, hooks, 2, RF_VIT_RUN_ALL, &out));
    made_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reading_points_on_request_changes_nothing_beyond_rounding),
        cmocka_unit_test(test_split_inputs_are_copies_of_the_stream),
        cmocka_unit_test(test_a_head_reads_its_own_split_input),
        cmocka_unit_test(test_split_inputs_begin_with_what_attn_in_was_replaced_by),
        cmocka_unit_test(test_results_and_bias_add_up_to_what_attention_adds),
        cmocka_unit_test(test_results_without_a_bias_add_up_too),
        cmocka_unit_test(test_a_head_removed_at_result_is_one_removed_at_z),
        cmocka_unit_test(test_mlp_in_changes_the_mlp_alone),
        cmocka_unit_test(test_split_inputs_and_ln1_exclude_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
