/* Gradients of every switch against finite differences; backward hooks; seeds at activations; bits;
 * what is refused. */
#include "made.h"
#include "vit_difference.h"

/* ---- every switch --------------------------------------------------------------------------- */

static const char *const names[MADE_N_SMALL] = {
    [MADE_SMALL_CLIP] = "clip",
    [MADE_SMALL_NORMS_BEHIND] = "norms behind",
    [MADE_SMALL_SUB_NORMS] = "sub-norms",
    [MADE_SMALL_REGISTERS_AND_MEAN] = "registers and mean",
    [MADE_SMALL_POOL_WITH_MLP] = "pool with mlp",
    [MADE_SMALL_POOL_OF_ANOTHER_WIDTH] = "pool of another width",
    [MADE_SMALL_TEXT_TO_ITS_END] = "text to its end",
    [MADE_SMALL_TEXT_TO_THE_LAST_TOKEN] = "text to the last token",
    [MADE_SMALL_DISTILLED] = "distilled",
    [MADE_SMALL_HEAD_ON_TWO] = "head on two",
    [MADE_SMALL_CLIPS] = "clips",
    [MADE_SMALL_MEAN_BEHIND_NORM] = "mean behind norm",
};

static model make_model(made_small which, int64_t n_images, int n_threads)
{
    const rf_vit_config c = made_small_variant(which);
    model m = {.n_images = n_images, .input = made_input(&c, n_images)};
    assert_ok(rf_backend_cpu_create(n_threads, &m.be));
    assert_ok(rf_stream_create(m.be, &m.s));
    m.vit = made_vit(m.be, m.s, &c, RF_PRODUCTS_F32, MADE_NO_KEY_BIAS);
    add_seeds(&m);
    return m;
}

static void test_gradients_of_every_switch_equal_finite_differences(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_N_SMALL; i++) {
        model m = make_model((made_small)i, 2, 1);
        points *all = new_points(&m);
        check_all_slopes(names[i], &m, all, SITE_BY_SITE);
        free_points(all);
        close_model(&m);
    }
}

static void add_offsets_and_seeds(points *all, double offset, double seed)
{
    for (int64_t i = 0; i < all->n; i++) {
        point_state *p = &all->at[i];
        const double size = spread(p->value, p->n);
        p->offset = offset == 0.0 ? NULL : zeros(p->n);
        p->seed = seed == 0.0 ? NULL : zeros(p->n);
        for (int64_t j = 0; j < p->n; j++) {
            if (p->offset != NULL) {
                p->offset[j] = (float)(offset * size * (double)direction(500 + i, j));
            }
            if (p->seed != NULL && isfinite(p->value[j])) {
                p->seed[j] = (float)(seed / size * (double)direction(700 + i, j));
            }
        }
    }
}

static void test_a_replaced_value_counts_as_its_value_plus_a_constant(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_N_SMALL; i++) {
        model m = make_model((made_small)i, 2, 1);
        points *all = new_points(&m);
        add_offsets_and_seeds(all, 0.2, 0.0);
        check_all_slopes(names[i], &m, all, SITE_BY_SITE);
        free_points(all);
        close_model(&m);
    }
}

static void test_seeds_at_activations_make_the_scalar_depend_on_them(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_N_SMALL; i++) {
        model m = make_model((made_small)i, 2, 1);
        points *all = new_points(&m);
        add_offsets_and_seeds(all, 0.0, 0.3);
        check_all_slopes(names[i], &m, all, SITE_BY_SITE);
        free_points(all);
        close_model(&m);
    }
}

/* ---- hooks ---------------------------------------------------------------------------------- */

static rf_status set_zero(void *user, const rf_hook_point *point, const rf_view *act, rf_stream *s)
{
    (void)user;
    (void)point;
    return rf_fill_bytes(s, act->data, 0, (size_t)rf_view_n_elems(act) * sizeof(float));
}

static rf_status set_kept(void *user, const rf_hook_point *point, const rf_view *act, rf_stream *s)
{
    const point_state *p = user;
    (void)point;
    return rf_copy_within(s, act->data, p->value, (size_t)p->n * sizeof(float));
}

typedef struct frozen {
    const model *m;
    rf_hook hook;
    const float *from, *u;
} frozen;

static double scalar_of_frozen(void *user, double step)
{
    frozen *f = user;
    float *x = f->m->input.data;
    for (int64_t i = 0; i < rf_view_n_elems(&f->m->input); i++) {
        x[i] = (float)((double)f->from[i] + step * (double)f->u[i]);
    }
    return run_model(f->m, &f->hook, 1, NULL);
}

static bool is_zero(const rf_view *v)
{
    const float *x = v->data;
    for (int64_t i = 0; i < rf_view_n_elems(v); i++) {
        if (x[i] != 0.0f) {
            return false;
        }
    }
    return true;
}

static void test_a_zeroed_gradient_takes_its_path_away(void **state)
{
    (void)state;
    model m = make_model(MADE_SMALL_CLIP, 2, 2);
    points *all = new_points(&m);
    const int64_t n = rf_view_n_elems(&m.input);
    rf_hook hook = {.fn = set_zero};
    frozen f = {.m = &m};
    assert_ok(rf_vit_hook_find(&m.vit->config, "blocks.0.hook_mlp_out", &hook.point));
    for (int64_t i = 0; i < all->n; i++) {
        if (all->at[i].point.site == hook.point.site && all->at[i].point.layer == 0) {
            f.hook = (rf_hook){hook.point, set_kept, &all->at[i]};
        }
    }
    float *d_weights = zeros(rf_vit_n_weight_floats(m.vit)), *d_input = zeros(n);
    assert_ok(backward(&m, &hook, 1, d_weights, d_input));
    const rf_block_weights *w = &m.vit->weights.blocks[0];
    const rf_view *const gone[] = {&w->fc2.weight, &w->fc2.bias, &w->fc1.weight, &w->ln2.weight};
    for (int i = 0; i < 4; i++) {
        rf_view d = *gone[i];
        d.data = d_weights + ((float *)d.data - m.vit->weights.arena);
        assert_true(is_zero(&d));
    }
    float *from = zeros(n);
    memcpy(from, m.input.data, (size_t)n * sizeof *from);
    float *u = new_probe(from, d_input, n, KEY_TEST, 1.0);
    f.from = from;
    f.u = u;
    assert_slope("input with a frozen MLP", scalar_of_frozen, &f, dot(d_input, u, n),
                 size_of_scalar(&m, all));
    rf_free(u);
    rf_free(from);
    rf_free(d_weights);
    rf_free(d_input);
    free_points(all);
    close_model(&m);
}

typedef struct order {
    int64_t last, n_calls;
    const rf_vit_config *c;
} order;

static rf_status note_order(void *user, const rf_hook_point *point, const rf_view *act,
                            rf_stream *s)
{
    order *o = user;
    (void)s;
    assert_true(rf_view_is_contiguous(act));
    assert_true(rf_hook_order(o->c, point) < o->last);
    o->last = rf_hook_order(o->c, point);
    o->n_calls++;
    return RF_OK;
}

static void test_hooks_are_called_once_each_and_last_point_first(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_N_SMALL; i++) {
        model m = make_model((made_small)i, 1, 1);
        points *all = new_points(&m);
        order o = {.last = INT64_MAX, .c = &m.vit->config};
        for (int64_t j = 0; j < all->n; j++) {
            all->backward[j].fn = note_order;
            all->backward[j].user = &o;
        }
        assert_ok(backward(&m, all->backward, all->n, NULL, NULL));
        assert_int_equal(o.n_calls, all->n);
        free_points(all);
        close_model(&m);
    }
}

static rf_status fail_here(void *user, const rf_hook_point *point, const rf_view *act, rf_stream *s)
{
    (void)user;
    (void)point;
    (void)act;
    (void)s;
    return rf_error_raise(RF_ERR_NUMERIC, __FILE__, __LINE__, "told to fail");
}

static void test_errors_of_hooks_pass_through_with_the_point_s_name(void **state)
{
    (void)state;
    model m = make_model(MADE_SMALL_CLIP, 1, 1);
    rf_hook hook = {.fn = fail_here};
    assert_ok(rf_vit_hook_find(&m.vit->config, "blocks.1.attn.hook_z", &hook.point));
    assert_int_equal(backward(&m, &hook, 1, NULL, NULL), RF_ERR_NUMERIC);
    assert_non_null(strstr(rf_error_text(), "backward hook at blocks.1.attn.hook_z: told to fail"));
    close_model(&m);
}

/* ---- bits ----------------------------------------------------------------------------------- */

static void test_one_and_three_threads_give_the_same_bits(void **state)
{
    (void)state;
    for (int i = 0; i < MADE_N_SMALL; i++) {
        float *first = NULL;
        for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
            model m = make_model((made_small)i, 5, n_threads);
            const bool has_pixels = m.input.dtype != RF_I64;
            const int64_t n = rf_vit_n_weight_floats(m.vit);
            const int64_t n_input = has_pixels ? rf_view_n_elems(&m.input) : 0;
            float *d = zeros(n + n_input);
            assert_ok(backward(&m, NULL, 0, d, has_pixels ? d + n : NULL));
            if (first != NULL) {
                assert_memory_equal(first, d, (size_t)(n + n_input) * sizeof *d);
                rf_free(d);
            } else {
                first = d;
            }
            close_model(&m);
        }
        rf_free(first);
    }
}

static void test_weights_are_added_to_and_the_input_is_overwritten(void **state)
{
    (void)state;
    model m = make_model(MADE_SMALL_REGISTERS_AND_MEAN, 2, 2);
    const int64_t n = rf_vit_n_weight_floats(m.vit), n_input = rf_view_n_elems(&m.input);
    float *once = zeros(n), *twice = zeros(n), *d_input = zeros(n_input), *again = zeros(n_input);
    assert_ok(backward(&m, NULL, 0, once, d_input));
    assert_ok(backward(&m, NULL, 0, twice, again));
    assert_memory_equal(once, twice, (size_t)n * sizeof *once); /* nothing is left of a pass */
    const int64_t n_live = rf_alloc_live();
    assert_ok(backward(&m, NULL, 0, twice, again));
    assert_int_equal(rf_alloc_live(), n_live);
    for (int64_t i = 0; i < n; i++) { /* sums in blocks: rounding of an fp32 */
        assert_true(fabsf(twice[i] - 2.0f * once[i]) <= 1e-5f * fmaxf(1.0f, fabsf(once[i])));
    }
    assert_memory_equal(d_input, again, (size_t)n_input * sizeof *again);
    rf_free(once);
    rf_free(twice);
    rf_free(d_input);
    rf_free(again);
    close_model(&m);
}

static void test_a_smaller_batch_after_a_larger_one_has_its_own_gradients(void **state)
{
    (void)state;
    model m = make_model(MADE_SMALL_POOL_OF_ANOTHER_WIDTH, 3, 2);
    const int64_t n = rf_view_n_elems(&m.input), n_one = n / 3;
    float *d_all = zeros(n), *d_one = zeros(n);
    assert_ok(backward(&m, NULL, 0, NULL, d_all));
    m.n_images = m.input.shape[0] = m.d_embedding.shape[0] = 1;
    run_model(&m, NULL, 0, m.cache);
    assert_ok(backward(&m, NULL, 0, NULL, d_one));
    assert_true(relative(d_one, d_all, n_one) <= 1e-5); /* rounding */
    rf_free(d_all);
    rf_free(d_one);
    close_model(&m);
}

static void test_no_pictures_have_no_gradient(void **state)
{
    (void)state;
    model m = make_model(MADE_SMALL_CLIP, 2, 1);
    const int64_t n = rf_vit_n_weight_floats(m.vit);
    float *d_weights = zeros(n);
    m.n_images = m.input.shape[0] = m.d_embedding.shape[0] = 0;
    rf_vit_output out;
    assert_ok(rf_vit_run(m.vit, m.s, &(rf_vit_run_args){.input = m.input, .cache = m.cache}, &out));
    assert_ok(backward(&m, NULL, 0, d_weights, NULL));
    assert_true(is_zero(&(rf_view){.data = d_weights, .n_dims = 1, .shape = {n}, .stride = {1}}));
    rf_free(d_weights);
    close_model(&m);
}

/* ---- what is refused ------------------------------------------------------------------------ */

static void expect_refusal(const model *m, const rf_vit_backward_args *args, rf_status expected,
                           const char *why)
{
    assert_int_equal(rf_vit_backward(m->vit, m->s, args), expected);
    if (strstr(rf_error_text(), why) == NULL) {
        fail_msg("'%s' does not say '%s'", rf_error_text(), why);
    }
}

static void test_what_has_no_gradient_is_refused_with_what_to_do(void **state)
{
    (void)state;
    model m = make_model(MADE_SMALL_CLIP, 2, 1), other = make_model(MADE_SMALL_CLIP, 2, 1);
    rf_hook on_request = {.fn = set_zero};
    rf_cache *part = NULL;
    const char *filter = "blocks.*";
    float *d_weights = zeros(rf_vit_n_weight_floats(m.vit));
    rf_vit_backward_args args = {.cache = m.cache, .d_embedding = m.d_embedding};
    assert_ok(rf_vit_backward(m.vit, m.s, &args));

    expect_refusal(&m, &(rf_vit_backward_args){0}, RF_ERR_INVALID_ARG, "need the cache");
    expect_refusal(&m, &(rf_vit_backward_args){.cache = other.cache}, RF_ERR_INVALID_ARG,
                   "another model");
    assert_ok(rf_cache_create(m.vit, &filter, 1, &part));
    run_model(&m, NULL, 0, part);
    expect_refusal(&m, &(rf_vit_backward_args){.cache = part}, RF_ERR_INVALID_ARG,
                   "without filters");
    args.d_weights = d_weights;
    expect_refusal(&m, &args, RF_ERR_INVALID_ARG, "needs the input");
    args.d_weights = NULL;
    args.d_logits = m.d_embedding;
    expect_refusal(&m, &args, RF_ERR_INVALID_ARG, "no such output");
    args.d_logits = (rf_view){0};
    args.d_input = rf_view_2d(d_weights, 2, 2);
    expect_refusal(&m, &args, RF_ERR_INVALID_ARG, "d_input must be");
    args.d_input = (rf_view){0};
    assert_ok(rf_vit_hook_find(&m.vit->config, "blocks.0.attn.hook_result", &on_request.point));
    args.hooks = &on_request;
    args.n_hooks = 1;
    expect_refusal(&m, &args, RF_ERR_UNSUPPORTED, "points on request have no gradient");
    args.n_hooks = 0;
    run_model(&m, &on_request, 1, m.cache);
    expect_refusal(&m, &args, RF_ERR_UNSUPPORTED, "hooks at points on request");
    run_model(&m, NULL, 0, m.cache);
    assert_ok(rf_vit_backward(m.vit, m.s, &args));
    m.vit->products = RF_PRODUCTS_BF16;
    expect_refusal(&m, &args, RF_ERR_UNSUPPORTED, "bf16");
    m.vit->products = RF_PRODUCTS_F32;
    rf_free(d_weights);
    rf_cache_destroy(part);
    close_model(&m);
    close_model(&other);
}

static void test_a_cache_of_part_of_a_pass_is_refused(void **state)
{
    (void)state;
    model m = make_model(MADE_SMALL_CLIP, 2, 1);
    rf_vit_backward_args args = {.cache = m.cache};
    assert_ok(rf_vit_run(
        m.vit, m.s,
        &(rf_vit_run_args){
            .input = m.input, .cache = m.cache, .stop = RF_VIT_STOP_AT_LAYER, .stop_layer = 1},
        NULL));
    expect_refusal(&m, &args, RF_ERR_INVALID_ARG, "no whole pass");
    rf_view resid = rf_view_nd(zeros(2 * 7 * 12), RF_F32, 3, (int64_t[]){2, 7, 12});
    assert_ok(rf_vit_run(
        m.vit, m.s, &(rf_vit_run_args){.resid = resid, .first_layer = 1, .cache = m.cache}, NULL));
    expect_refusal(&m, &args, RF_ERR_INVALID_ARG, "no whole pass");
    rf_free(resid.data);
    close_model(&m);
}

static void test_token_ids_have_no_gradient_and_their_ends_are_needed(void **state)
{
    (void)state;
    model m = make_model(MADE_SMALL_TEXT_TO_ITS_END, 2, 1);
    float buf[16] = {0};
    rf_vit_backward_args args = {.cache = m.cache, .input = m.input};
    assert_ok(rf_vit_backward(m.vit, m.s, &args));
    args.d_input = rf_view_2d(buf, 2, 6);
    expect_refusal(&m, &args, RF_ERR_INVALID_ARG, "token ids have no gradient");
    args.d_input = args.input = (rf_view){0};
    expect_refusal(&m, &args, RF_ERR_INVALID_ARG, "where a text ends");
    close_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_of_every_switch_equal_finite_differences),
        cmocka_unit_test(test_a_replaced_value_counts_as_its_value_plus_a_constant),
        cmocka_unit_test(test_seeds_at_activations_make_the_scalar_depend_on_them),
        cmocka_unit_test(test_a_zeroed_gradient_takes_its_path_away),
        cmocka_unit_test(test_hooks_are_called_once_each_and_last_point_first),
        cmocka_unit_test(test_errors_of_hooks_pass_through_with_the_point_s_name),
        cmocka_unit_test(test_one_and_three_threads_give_the_same_bits),
        cmocka_unit_test(test_weights_are_added_to_and_the_input_is_overwritten),
        cmocka_unit_test(test_a_smaller_batch_after_a_larger_one_has_its_own_gradients),
        cmocka_unit_test(test_no_pictures_have_no_gradient),
        cmocka_unit_test(test_what_has_no_gradient_is_refused_with_what_to_do),
        cmocka_unit_test(test_a_cache_of_part_of_a_pass_is_refused),
        cmocka_unit_test(test_token_ids_have_no_gradient_and_their_ends_are_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
