/* The forward pass over models with every switch: hooks, replacements, the same bits however it is
 * asked for, ends of texts, errors, costs. Numbers against the libraries are test_vit_golden's. */
#include "made.h"

/* ---- firing --------------------------------------------------------------------------------- */

static void test_each_point_fires_once_in_order_and_reading_changes_no_bit(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_VARIANTS; i++) {
        const rf_vit_config c = made_variant(i);
        made m = made_open(&c, RF_PRODUCTS_F32);
        made_points p = made_list(&m);
        rf_hook hooks[MADE_POINTS];
        made_firing f = {&c, 0, INT64_MIN};
        int64_t n = 0;
        for (int64_t j = p.n - 1; j >= 0; j--) { /* the order given does not matter */
            if (!p.at[j].is_on_request) {
                hooks[n++] = (rf_hook){p.at[j], made_note, &f};
            }
        }
        rf_vit_output out = made_run(&m, NULL, 0, NULL);
        float *plain = made_copy(&out.embedding);
        float *plain_logits = c.n_classes > 0 ? made_copy(&out.logits) : NULL;
        out = made_run(&m, hooks, n, NULL);
        assert_int_equal(f.n_calls, n);
        assert_memory_equal(plain, out.embedding.data,
                            (size_t)rf_view_n_elems(&out.embedding) * sizeof *plain);
        if (c.n_classes > 0) {
            assert_memory_equal(plain_logits, out.logits.data,
                                (size_t)rf_view_n_elems(&out.logits) * sizeof *plain);
        }
        rf_free(plain);
        rf_free(plain_logits);
        rf_free(p.at);
        made_close(&m);
    }
}

static void test_a_replacement_at_any_point_takes_effect(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_VARIANTS; i++) {
        const rf_vit_config c = made_variant(i);
        made m = made_open(&c, RF_PRODUCTS_F32);
        made_points p = made_list(&m);
        rf_vit_output out = made_run(&m, NULL, 0, NULL);
        float *plain = made_copy(&out.embedding);
        float *logits = c.n_classes > 0 ? made_copy(&out.logits) : NULL;
        for (int64_t j = 0; j < p.n; j++) {
            int64_t n_calls = 0;
            const rf_hook hook = {p.at[j], made_edit, &n_calls};
            out = made_run(&m, &hook, 1, NULL);
            double change = made_change(plain, out.embedding.data, rf_view_n_elems(&out.embedding));
            if (logits != NULL) {
                change = fmax(change,
                              made_change(logits, out.logits.data, rf_view_n_elems(&out.logits)));
            }
            assert_int_equal(n_calls, 1);
            if (!(change > 1e-3)) { /* rounding is 1e-6 */
                fail_msg("variant %d: replacing %s changed nothing", i, p.at[j].name);
            }
        }
        rf_free(plain);
        rf_free(logits);
        rf_free(p.at);
        made_close(&m);
    }
}

static void test_a_point_has_the_same_bits_alone_as_among_all(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_VARIANTS; i++) {
        const rf_vit_config c = made_variant(i);
        made m = made_open(&c, RF_PRODUCTS_F32);
        rf_cache *cache = made_full_cache(&m);
        (void)made_run(&m, NULL, 0, cache);
        for (int64_t j = 0; j < rf_cache_n_points(cache); j++) {
            rf_view alone = {0}, v;
            const rf_hook hook = {*rf_cache_point(cache, j), made_keep, &alone};
            assert_ok(
                rf_vit_forward(m.vit, m.s, &m.input, &hook, 1, RF_VIT_STOP_AFTER_HOOKS, NULL));
            v = made_cached(cache, hook.point.name);
            if (memcmp(alone.data, v.data, (size_t)rf_view_n_elems(&v) * sizeof(float)) != 0) {
                fail_msg("variant %d: %s", i, hook.point.name);
            }
            rf_free(alone.data);
        }
        rf_cache_destroy(cache);
        made_close(&m);
    }
}

static void test_a_cache_keeps_what_the_model_goes_on_with(void **state)
{
    (void)state;
    const rf_vit_config c = made_gated();
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_cache *cache = made_full_cache(&m);
    int64_t n_calls = 0;
    rf_view kept = {0};
    const rf_hook_point z = made_find(&m, "z1");
    const rf_hook hooks[2] = {{z, made_edit, &n_calls}, {z, made_keep, &kept}};
    (void)made_run(&m, hooks, 2, cache);
    const rf_view v = made_cached(cache, "z1");
    assert_memory_equal(kept.data, v.data, (size_t)rf_view_n_elems(&v) * sizeof(float));
    rf_free(kept.data);
    rf_cache_destroy(cache);
    made_close(&m);
}

/* ---- what points hold ----------------------------------------------------------------------- */

static void test_branches_add_up_to_the_stream(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_VARIANTS; i++) {
        const rf_vit_config c = made_variant(i);
        made m = made_open(&c, RF_PRODUCTS_F32);
        rf_cache *cache = made_full_cache(&m);
        (void)made_run(&m, NULL, 0, cache);
        made_assert_sum(cache, "resid_mid0", "resid_pre0", "attn_out0");
        made_assert_sum(cache, "resid_post1", "resid_mid1", "mlp_out1");
        rf_cache_destroy(cache);
        made_close(&m);
    }
}

static void test_a_gated_mlp_multiplies_what_its_points_show(void **state)
{
    (void)state;
    const rf_vit_config c = made_gated();
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_cache *cache = made_full_cache(&m);
    (void)made_run(&m, NULL, 0, cache);
    const rf_view pre = made_cached(cache, "pre0"), post = made_cached(cache, "mlp_post0");
    const rf_view linear = made_cached(cache, "pre_linear0");
    for (int64_t i = 0; i < rf_view_n_elems(&pre); i++) {
        const double x = (double)((float *)pre.data)[i];
        const double want = x / (1.0 + exp(-x)) * (double)((float *)linear.data)[i];
        /* an fp32 exponential and two products */
        assert_true(fabs((double)((float *)post.data)[i] - want) <= 2e-6 * fmax(1.0, fabs(want)));
    }
    rf_cache_destroy(cache);
    made_close(&m);
}

static void test_rotation_keeps_lengths_and_leaves_prefix_tokens_alone(void **state)
{
    (void)state;
    const rf_vit_config c = made_gated();
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_cache *cache = made_full_cache(&m);
    (void)made_run(&m, NULL, 0, cache);
    const rf_view before = made_cached(cache, "k1"), after = made_cached(cache, "rot_k1");
    const float *x = before.data, *y = after.data;
    const int64_t row = c.n_heads * c.d_head;
    bool turned = false;
    for (int64_t i = 0; i < MADE_PICTURES * c.n_tokens * c.n_heads; i++) {
        double norms[2] = {0.0, 0.0};
        for (int64_t j = 0; j < c.d_head; j++) {
            const int64_t at = i * c.d_head + j;
            norms[0] += (double)x[at] * (double)x[at];
            norms[1] += (double)y[at] * (double)y[at];
            turned = turned || x[at] != y[at];
            assert_true(at / row % c.n_tokens >= c.n_prefix || x[at] == y[at]);
        }
        assert_true(fabs(norms[0] - norms[1]) <= 1e-5 * fmax(1.0, norms[0])); /* fp32 cosines */
    }
    assert_true(turned);
    rf_cache_destroy(cache);
    made_close(&m);
}

static void test_causal_scores_hide_what_comes_later(void **state)
{
    (void)state;
    const rf_vit_config c = made_text(RF_POOL_LAST, -1);
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_cache *cache = made_full_cache(&m);
    (void)made_run(&m, NULL, 0, cache);
    const rf_view pattern = made_cached(cache, "pattern1"),
                  post = made_cached(cache, "resid_post1");
    const int64_t t = c.n_tokens, n = t * c.d_model;
    for (int64_t i = 0; i < rf_view_n_elems(&pattern); i++) {
        assert_true(i % t <= i / t % t || ((float *)pattern.data)[i] == 0.0f);
    }
    float *before = made_copy(&post);
    ((int64_t *)m.input.data)[t - 1] = 8; /* the last token of the first text */
    (void)made_run(&m, NULL, 0, cache);
    const float *after = made_cached(cache, "resid_post1").data;
    assert_memory_equal(before, after, (size_t)(n - c.d_model) * sizeof *before);
    assert_true(made_change(before + n - c.d_model, after + n - c.d_model, c.d_model) > 1e-3);
    rf_free(before);
    rf_cache_destroy(cache);
    made_close(&m);
}

static void test_a_head_of_two_tokens_is_the_mean_of_two_heads(void **state)
{
    (void)state;
    const rf_vit_config c = made_distilled();
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_cache *cache = made_full_cache(&m);
    rf_vit_output out = made_run(&m, NULL, 0, cache);
    const rf_vit_weights *w = &m.vit->weights;
    const rf_linear *const heads[2] = {&w->head, &w->head_distilled};
    const float *tokens = made_cached(cache, "ln_final").data;
    for (int64_t b = 0; b < MADE_PICTURES; b++) {
        for (int64_t k = 0; k < c.n_classes; k++) {
            double sum = 0.0;
            for (int h = 0; h < 2; h++) {
                sum += (double)((float *)heads[h]->bias.data)[k];
                for (int64_t j = 0; j < c.d_model; j++) {
                    sum += (double)tokens[(b * c.n_tokens + h) * c.d_model + j] *
                           (double)((float *)heads[h]->weight.data)[j * c.n_classes + k];
                }
            }
            /* sums of 12 fp32 products of order 1 */
            const double got = (double)((float *)out.logits.data)[b * c.n_classes + k];
            assert_true(fabs(got - 0.5 * sum) <= 1e-5);
        }
    }
    rf_cache_destroy(cache);
    made_close(&m);
}

/* ---- where a pass begins and stops ----------------------------------------------------------- */

static void test_a_pass_from_a_block_on_has_the_bits_of_the_whole_pass(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_VARIANTS; i++) {
        const rf_vit_config c = made_variant(i);
        made m = made_open(&c, RF_PRODUCTS_F32);
        rf_view resid = {0}, later = {0};
        const rf_hook hook = {made_find(&m, "resid_pre1"), made_keep, &resid};
        rf_vit_output out = made_run(&m, &hook, 1, NULL);
        const int64_t n = rf_view_n_elems(&out.embedding);
        float *whole = made_copy(&out.embedding);
        const rf_hook from = {made_find(&m, "resid_pre1"), made_keep, &later};
        rf_vit_run_args args = {.resid = resid, .first_layer = 1, .hooks = &from, .n_hooks = 1};
        args.input = c.pool == RF_POOL_END ? m.input : (rf_view){0};
        out = made_pass(&m, args);
        assert_memory_equal(out.embedding.data, whole, (size_t)n * sizeof *whole);
        assert_memory_equal(later.data, resid.data,
                            (size_t)rf_view_n_elems(&resid) * sizeof(float));
        rf_free(resid.data);
        rf_free(later.data);
        rf_free(whole);
        made_close(&m);
    }
}

static void test_a_pass_stops_before_a_layer_with_its_stream(void **state)
{
    (void)state;
    static const char *const names[] = {"resid_pre0", "resid_pre1", "resid_post1"};
    const rf_vit_config c = made_gated();
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_cache *cache = made_full_cache(&m);
    (void)made_run(&m, NULL, 0, cache);
    for (int64_t layer = 0; layer <= 2; layer++) {
        const rf_view want = made_cached(cache, names[layer]);
        for (int64_t stop = layer; stop >= layer - 2; stop -= 2) { /* and from the end */
            if (stop < 0 && layer == 2) {
                continue;
            }
            const rf_vit_output out =
                made_pass(&m, (rf_vit_run_args){.input = m.input,
                                                .stop = RF_VIT_STOP_AT_LAYER,
                                                .stop_layer = layer == 2 ? 2 : stop});
            assert_null(out.embedding.data);
            assert_memory_equal(out.resid.data, want.data,
                                (size_t)rf_view_n_elems(&want) * sizeof(float));
        }
    }
    rf_cache_destroy(cache);
    made_close(&m);
}

static void test_a_cache_does_not_hold_what_a_pass_left_out(void **state)
{
    (void)state;
    const rf_vit_config c = made_gated();
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_cache *cache = made_full_cache(&m);
    rf_view v;
    assert_int_equal(rf_cache_get(cache, "k0", &v), RF_ERR_NOT_FOUND);
    (void)made_run(&m, NULL, 0, cache);
    assert_ok(rf_vit_run(
        m.vit, m.s,
        &(rf_vit_run_args){
            .input = m.input, .cache = cache, .stop = RF_VIT_STOP_AT_LAYER, .stop_layer = 1},
        NULL));
    assert_ok(rf_cache_get(cache, "k0", &v));
    assert_int_equal(rf_cache_get(cache, "k1", &v), RF_ERR_NOT_FOUND);
    rf_cache_destroy(cache);
    made_close(&m);
}

static void test_a_pass_with_a_cache_stops_behind_its_deepest_point(void **state)
{
    (void)state;
    static const char *const filters[] = {"q0", "embed"};
    const rf_vit_config c = made_gated();
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_cache *cache = NULL;
    assert_ok(rf_cache_create(m.vit, filters, 2, &cache));
    const rf_vit_output out = made_pass(
        &m, (rf_vit_run_args){.input = m.input, .cache = cache, .stop = RF_VIT_STOP_AFTER_HOOKS});
    assert_null(out.embedding.data);
    (void)made_cached(cache, "embed");
    const rf_view q = made_cached(cache, "q0");
    assert_true(made_change(q.data, m.vit->ws.buf[RF_BUF_K], 12) > 1e-3); /* k is not made */
    assert_true(m.vit->ws.buf[RF_BUF_K][0] == 0.0f);
    rf_cache_destroy(cache);
    made_close(&m);
}

static void test_no_pictures_call_no_hook(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_VARIANTS; i++) {
        const rf_vit_config c = made_variant(i);
        made m = made_open(&c, RF_PRODUCTS_F32);
        int64_t n_calls = 0;
        const rf_hook hook = {made_find(&m, "pooled"), made_edit, &n_calls};
        rf_vit_output out;
        rf_view none = m.input;
        none.shape[0] = 0;
        assert_ok(rf_vit_forward(m.vit, m.s, &none, &hook, 1, RF_VIT_RUN_ALL, &out));
        assert_null(out.embedding.data);
        assert_int_equal(n_calls, 0);
        made_close(&m);
    }
}

static void test_a_picture_has_the_same_bits_alone_and_in_a_batch(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_VARIANTS; i++) {
        const rf_vit_config c = made_variant(i);
        made m = made_open(&c, RF_PRODUCTS_F32);
        rf_vit_output out = made_run(&m, NULL, 0, NULL);
        float *both = made_copy(&out.embedding);
        rf_view second = rf_view_rows(m.input, 1, 1);
        assert_ok(rf_vit_forward(m.vit, m.s, &second, NULL, 0, RF_VIT_RUN_ALL, &out));
        const int64_t n = rf_view_n_elems(&out.embedding);
        assert_memory_equal(both + n, out.embedding.data, (size_t)n * sizeof *both);
        rf_free(both);
        made_close(&m);
    }
}

/* ---- texts ---------------------------------------------------------------------------------- */

static void assert_pools_token(made *m, rf_cache *cache, int64_t picture, int64_t token)
{
    const int64_t d = m->c.d_model;
    (void)made_run(m, NULL, 0, cache);
    const float *tokens = made_cached(cache, "ln_final").data,
                *pooled = made_cached(cache, "pooled").data;
    assert_memory_equal(pooled + picture * d, tokens + (picture * m->c.n_tokens + token) * d,
                        (size_t)d * sizeof *pooled);
}

static void set_ids(made *m, int64_t picture, const int64_t *ids)
{
    memcpy((int64_t *)m->input.data + picture * m->c.n_tokens, ids,
           (size_t)m->c.n_tokens * sizeof *ids);
}

static void test_a_text_ends_at_its_largest_id_or_first_eos(void **state)
{
    (void)state;
    rf_vit_config c = made_text(RF_POOL_END, -1);
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_cache *cache = made_full_cache(&m);
    set_ids(&m, 0, (int64_t[]){1, 10, 3, 10, 0}); /* the first of two */
    set_ids(&m, 1, (int64_t[]){2, 2, 2, 2, 10});
    assert_pools_token(&m, cache, 0, 1);
    assert_pools_token(&m, cache, 1, 4);
    rf_cache_destroy(cache);
    made_close(&m);
    c.eos_id = 3;
    m = made_open(&c, RF_PRODUCTS_F32);
    cache = made_full_cache(&m);
    set_ids(&m, 0, (int64_t[]){1, 10, 3, 3, 0});
    set_ids(&m, 1, (int64_t[]){2, 2, 2, 2, 10}); /* none: the first token */
    assert_pools_token(&m, cache, 0, 2);
    assert_pools_token(&m, cache, 1, 0);
    rf_cache_destroy(cache);
    made_close(&m);
}

static void test_ids_out_of_range_and_other_lengths_are_refused(void **state)
{
    (void)state;
    const rf_vit_config c = made_text(RF_POOL_END, -1);
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_vit_output out;
    int64_t *ids = m.input.data;
    ids[7] = c.n_vocab;
    assert_int_equal(rf_vit_forward(m.vit, m.s, &m.input, NULL, 0, RF_VIT_RUN_ALL, &out),
                     RF_ERR_INVALID_ARG);
    assert_string_equal(rf_error_text(), "token 2 of text 1 is 11, expected 0 to 10");
    ids[7] = -1;
    assert_int_equal(rf_vit_forward(m.vit, m.s, &m.input, NULL, 0, RF_VIT_RUN_ALL, &out),
                     RF_ERR_INVALID_ARG);
    ids[7] = 0;
    rf_view shorter = rf_view_nd(ids, RF_I64, 2, (int64_t[]){2, c.n_tokens - 1});
    assert_int_equal(rf_vit_forward(m.vit, m.s, &shorter, NULL, 0, RF_VIT_RUN_ALL, &out),
                     RF_ERR_INVALID_ARG);
    made_close(&m);
}

static void test_the_end_of_a_text_needs_its_ids_beside_the_stream(void **state)
{
    (void)state;
    const rf_vit_config c = made_text(RF_POOL_END, -1);
    made m = made_open(&c, RF_PRODUCTS_F32);
    rf_vit_output out;
    rf_view resid = {0};
    const rf_hook hook = {made_find(&m, "resid_pre1"), made_keep, &resid};
    (void)made_run(&m, &hook, 1, NULL);
    rf_vit_run_args args = {.resid = resid, .first_layer = 1};
    assert_int_equal(rf_vit_run(m.vit, m.s, &args, &out), RF_ERR_INVALID_ARG);
    args.stop = RF_VIT_STOP_AT_LAYER; /* nobody asks for the pool */
    args.stop_layer = 2;
    assert_ok(rf_vit_run(m.vit, m.s, &args, &out));
    args.stop = RF_VIT_RUN_ALL;
    args.input = rf_view_rows(m.input, 0, 1); /* one text, two streams */
    assert_int_equal(rf_vit_run(m.vit, m.s, &args, &out), RF_ERR_INVALID_ARG);
    rf_free(resid.data);
    made_close(&m);
}

/* ---- errors --------------------------------------------------------------------------------- */

static void assert_refused(made *m, rf_vit_run_args args)
{
    rf_vit_output out;
    assert_int_equal(rf_vit_run(m->vit, m->s, &args, &out), RF_ERR_INVALID_ARG);
    assert_null(out.embedding.data);
}

static void test_a_pass_that_cannot_be_is_refused(void **state)
{
    (void)state;
    const rf_vit_config c = made_gated(), other = made_clips();
    made m = made_open(&c, RF_PRODUCTS_F32), n = made_open(&other, RF_PRODUCTS_F32);
    int64_t n_calls = 0;
    const rf_hook late = {made_find(&m, "k1"), made_edit, &n_calls};
    const rf_hook clip = {made_find(&n, "k1"), made_edit, &n_calls};
    rf_view resid = rf_view_nd(NULL, RF_F32, 3, (int64_t[]){1, c.n_tokens, c.d_model});
    resid.data = rf_calloc(rf_view_n_elems(&resid), sizeof(float));
    rf_cache *cache = made_full_cache(&n);

    assert_refused(&m, (rf_vit_run_args){.input = n.input});
    assert_refused(&n, (rf_vit_run_args){.input = m.input});
    assert_refused(&m, (rf_vit_run_args){.input = m.input, .hooks = &clip, .n_hooks = 1});
    assert_refused(&m, (rf_vit_run_args){.input = m.input, .cache = cache});
    /* hooks that the pass does not come to */
    rf_vit_run_args args = {.input = m.input, .hooks = &late, .n_hooks = 1};
    args.stop = RF_VIT_STOP_AT_LAYER;
    args.stop_layer = 1;
    assert_refused(&m, args);
    args.stop_layer = 3;
    assert_refused(&m, args);
    args.stop_layer = -3;
    assert_refused(&m, args);
    assert_refused(&m, (rf_vit_run_args){.resid = resid, .first_layer = 2});
    assert_refused(&m, (rf_vit_run_args){.resid = resid, .first_layer = -1});
    assert_refused(
        &m, (rf_vit_run_args){
                .resid = resid, .first_layer = 1, .stop = RF_VIT_STOP_AT_LAYER, .stop_layer = 0});
    resid.shape[1]--;
    assert_refused(&m, (rf_vit_run_args){.resid = resid, .first_layer = 1});
    assert_int_equal(n_calls, 0);
    rf_free(resid.data);
    rf_cache_destroy(cache);
    made_close(&m);
    made_close(&n);
}

/* ---- bf16, memory, cost --------------------------------------------------------------------- */

static void test_bf16_products_differ_by_their_rounding_alone(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_VARIANTS; i++) {
        const rf_vit_config c = made_variant(i);
        made m = made_open(&c, RF_PRODUCTS_F32), half = made_open(&c, RF_PRODUCTS_BF16);
        rf_vit_output out = made_run(&m, NULL, 0, NULL);
        const rf_vit_output low = made_run(&half, NULL, 0, NULL);
        const double change =
            made_change(out.embedding.data, low.embedding.data, rf_view_n_elems(&out.embedding));
        /* 8 bits of mantissa, some twenty products deep, values of order 1 */
        if (!(change > 1e-5 && change <= 0.15)) {
            fail_msg("variant %d: bf16 differs by %g", i, change);
        }
        made_close(&m);
        made_close(&half);
    }
}

static void test_a_second_pass_allocates_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_VARIANTS; i++) {
        const rf_vit_config c = made_variant(i);
        made m = made_open(&c, RF_PRODUCTS_F32);
        float *before[RF_N_BUFS];
        (void)made_run(&m, NULL, 0, NULL);
        memcpy(before, m.vit->ws.buf, sizeof before);
        const int64_t live = rf_alloc_live();
        (void)made_run(&m, NULL, 0, NULL);
        assert_int_equal(rf_alloc_live(), live);
        assert_memory_equal(before, m.vit->ws.buf, sizeof before);
        assert_null(before[RF_BUF_PATTERN]); /* nobody asked for what is on request */
        assert_null(before[RF_BUF_SPLIT]);
        assert_null(before[RF_BUF_SPLIT_COPY]);
        made_close(&m);
    }
}

static void test_weight_bytes_are_those_of_a_model_with_every_bias(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_VARIANTS; i++) {
        const rf_vit_config c = made_variant(i);
        made m = made_open(&c, RF_PRODUCTS_F32);
        const double got = (double)rf_vit_weight_bytes(&c) / sizeof(float);
        const double want = (double)m.vit->weights.n_floats; /* aligned, without what is derived */
        if (!(fabs(got - want) <= 0.06 * want)) {
            fail_msg("variant %d: %g floats, the arena has %g", i, got, want);
        }
        assert_true(rf_vit_flop(&c, -1) <= rf_vit_flop(&c, 0));
        assert_true(rf_vit_flop(&c, 1) <= rf_vit_flop(&c, c.n_layers));
        made_close(&m);
    }
}

static void test_costs_of_a_small_vit_follow_from_its_sizes(void **state)
{
    (void)state;
    rf_vit_config c = made_config(); /* ViT-S/14 at 224 */
    c.d_model = c.d_pool = c.d_out = 384;
    c.n_layers = 12;
    c.n_heads = 6;
    c.d_head = 64;
    c.d_mlp = 1536;
    c.patch_size = 14;
    c.n_patches = 256;
    c.n_tokens = 257;
    c.has_layer_scale = true;
    /* 21.6 M parameters; 12 x (2 T d (4 d + 2 m) + 4 T^2 d) and the patches */
    assert_true(fabs((double)rf_vit_weight_bytes(&c) / 4e6 - 21.63) <= 0.02);
    assert_true(fabs(rf_vit_flop(&c, 12) / 1e9 - 12.247) <= 0.01);
    assert_true(rf_vit_flop(&c, -1) < rf_vit_flop(&c, 0));
    assert_true(rf_vit_flop(&c, 5) < rf_vit_flop(&c, 11));
    assert_true(rf_vit_workspace_bytes(&c, 2) == 2 * rf_vit_workspace_bytes(&c, 1));
    assert_true(rf_vit_workspace_bytes(&c, 1) >= 4 * 257 * (7 * 384 + 1536));
    c.is_gated = true; /* a third map of the same size, and a buffer for its output */
    assert_true(fabs((double)rf_vit_weight_bytes(&c) / 4e6 - 21.63 - 12 * 1537 * 384e-6) <= 0.02);
    assert_true(fabs(rf_vit_flop(&c, 12) / 1e9 - 12.247 - 12 * 2 * 257e-9 * 384 * 1536) <= 0.01);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_point_fires_once_in_order_and_reading_changes_no_bit),
        cmocka_unit_test(test_a_replacement_at_any_point_takes_effect),
        cmocka_unit_test(test_a_point_has_the_same_bits_alone_as_among_all),
        cmocka_unit_test(test_a_cache_keeps_what_the_model_goes_on_with),
        cmocka_unit_test(test_branches_add_up_to_the_stream),
        cmocka_unit_test(test_a_gated_mlp_multiplies_what_its_points_show),
        cmocka_unit_test(test_rotation_keeps_lengths_and_leaves_prefix_tokens_alone),
        cmocka_unit_test(test_causal_scores_hide_what_comes_later),
        cmocka_unit_test(test_a_head_of_two_tokens_is_the_mean_of_two_heads),
        cmocka_unit_test(test_a_pass_from_a_block_on_has_the_bits_of_the_whole_pass),
        cmocka_unit_test(test_a_pass_stops_before_a_layer_with_its_stream),
        cmocka_unit_test(test_a_cache_does_not_hold_what_a_pass_left_out),
        cmocka_unit_test(test_a_pass_with_a_cache_stops_behind_its_deepest_point),
        cmocka_unit_test(test_no_pictures_call_no_hook),
        cmocka_unit_test(test_a_picture_has_the_same_bits_alone_and_in_a_batch),
        cmocka_unit_test(test_a_text_ends_at_its_largest_id_or_first_eos),
        cmocka_unit_test(test_ids_out_of_range_and_other_lengths_are_refused),
        cmocka_unit_test(test_the_end_of_a_text_needs_its_ids_beside_the_stream),
        cmocka_unit_test(test_a_pass_that_cannot_be_is_refused),
        cmocka_unit_test(test_bf16_products_differ_by_their_rounding_alone),
        cmocka_unit_test(test_a_second_pass_allocates_nothing),
        cmocka_unit_test(test_weight_bytes_are_those_of_a_model_with_every_bias),
        cmocka_unit_test(test_costs_of_a_small_vit_follow_from_its_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
