/* One pass: what replacing does, the same bits however it is asked for, where it stops, and its
 * errors. */
#include "../../src/vit/vit_impl.h"

#include "golden.h"

enum { MAX_POINTS = 128 };

/* Each row in L2, relative to its norm; a norm below 1 counts as 1, as rows of patterns and rows
 * that nearly cancel are sums of terms of order 1. 2e-5 is what two orders of fp32 sums leave. */
static void assert_rows_close(const char *what, const float *got, const rf_named_tensor *t)
{
    float *want = read_tensor(t);
    const int64_t d = t->shape[t->n_dims - 1];
    for (int64_t i = 0; i < t->n_elems / d; i++) {
        double error = 0.0, norm = 0.0;
        for (int64_t j = 0; j < d; j++) {
            double e = (double)got[i * d + j] - (double)want[i * d + j];
            error += e * e;
            norm += (double)want[i * d + j] * (double)want[i * d + j];
        }
        if (!(sqrt(error) <= 2e-5 * fmax(1.0, sqrt(norm)))) {
            fail_msg("%s, row %d: error %g of norm %g", what, (int)i, sqrt(error), sqrt(norm));
        }
    }
    rf_free(want);
}

static rf_status edit_affine(void *user, const rf_hook_point *point, const rf_view *act,
                             rf_stream *s)
{
    const float *ab = user; /* x = a x + b */
    (void)point;
    (void)s;
    float *x = act->data;
    for (int64_t i = 0; i < rf_view_n_elems(act); i++) {
        x[i] = ab[0] * x[i] + ab[1];
    }
    return RF_OK;
}

static void check_edit(model *m, const char *label, const char *point, float a, float b)
{
    char name[RF_NAME_LEN];
    float ab[2] = {a, b};
    rf_hook hook = {.fn = edit_affine, .user = ab};
    rf_vit_output out;
    assert_ok(rf_vit_hook_find(rf_vit_get_config(m->vit), point, &hook.point));
    assert_ok(rf_vit_forward(m->vit, m->s, &m->input, &hook, 1, RF_VIT_RUN_ALL, &out));
    assert_ok(rf_format(name, sizeof name, "edited/%s", label));
    assert_rows_close(name, out.embedding.data, rf_tensor_file_find(m->golden, name));
}

static void test_replacements_have_the_effect_that_torch_gives_them(void **state)
{
    (void)state;
    static const char *const names[] = {"clip_projection", "vit", "dinov2"};
    for (int i = 0; i < 3; i++) {
        model m = open_model(names[i], "reference", 2);
        const float uniform = 1.0f / (float)rf_vit_get_config(m.vit)->n_tokens;
        check_edit(&m, "zero_resid_post_1", "blocks.-2.hook_resid_post", 0.0f, 0.0f);
        check_edit(&m, "uniform_pattern_0", "blocks.0.attn.hook_pattern", 0.0f, uniform);
        check_edit(&m, "double_z_2", "blocks.2.attn.hook_z", 2.0f, 0.0f);
        check_edit(&m, "negative_q_1", "blocks.1.attn.hook_q", -1.0f, 0.0f);
        check_edit(&m, "half_mlp_out_0", "blocks.0.hook_mlp_out", 0.5f, 0.0f);
        check_edit(&m, "shifted_mlp_pre_1", "blocks.1.mlp.hook_pre", 1.0f, 1.0f);
        close_model(&m);
    }
}

/* ---- bits, order, stopping ------------------------------------------------------------------ */

static rf_status count_calls(void *user, const rf_hook_point *point, const rf_view *act,
                             rf_stream *s)
{
    (void)point;
    (void)act;
    (void)s;
    ++*(int64_t *)user;
    return RF_OK;
}

static float *run_embedding(model *m, const rf_hook *hooks, int64_t n_hooks, int64_t *n)
{
    rf_vit_output out;
    assert_ok(rf_vit_forward(m->vit, m->s, &m->input, hooks, n_hooks, RF_VIT_RUN_ALL, &out));
    *n = rf_view_n_elems(&out.embedding);
    float *copy = rf_calloc(*n, sizeof *copy);
    assert_ok(rf_copy_out(m->s, copy, out.embedding.data, (size_t)*n * sizeof *copy));
    return copy;
}

/* Hook `n` points, see that each is called and that the embedding changes by `tolerance` at most
 * (0: not a bit). */
static void read_points(model *m, const rf_hook_point *points, int64_t n, const float *plain,
                        double tolerance)
{
    rf_hook hooks[MAX_POINTS];
    int64_t n_calls = 0, n_floats = 0;
    for (int64_t i = 0; i < n; i++) {
        hooks[i] = (rf_hook){points[i], count_calls, &n_calls};
    }
    float *read = run_embedding(m, hooks, n, &n_floats);
    assert_true(largest_change(plain, read, n_floats) <= tolerance);
    assert_int_equal(n_calls, n);
    rf_free(read);
}

static void test_reading_any_point_changes_no_bit(void **state)
{
    (void)state;
    static const char *const names[] = {"clip_projection", "vit", "dinov2"};
    for (int i = 0; i < 3; i++) {
        model m = open_model(names[i], "reference", 2);
        rf_hook_point *points = NULL, usual[MAX_POINTS];
        int64_t n_points = 0, n_usual = 0, n_floats = 0;
        float *plain = run_embedding(&m, NULL, 0, &n_floats);
        assert_ok(rf_vit_hook_list(rf_vit_get_config(m.vit), &points, &n_points));
        for (int64_t j = 0; j < n_points; j++) {
            if (points[j].is_on_request) {
                /* Each alone, as some exclude others; products a head round otherwise, by 1e-6. */
                read_points(&m, &points[j], 1, plain, 2e-5);
            } else {
                usual[n_usual++] = points[j];
            }
        }
        read_points(&m, usual, n_usual, plain, 0.0);
        rf_free(plain);
        rf_free(points);
        close_model(&m);
    }
}

static void test_one_to_four_threads_give_the_same_bits(void **state)
{
    (void)state;
    float *first = NULL;
    for (int n_threads = 1; n_threads <= 4; n_threads++) {
        model m = open_model("dinov2", "reference", n_threads);
        int64_t n = 0;
        float *embedding = run_embedding(&m, NULL, 0, &n);
        if (first == NULL) {
            first = embedding;
        } else {
            assert_memory_equal(first, embedding, (size_t)n * sizeof *first);
            rf_free(embedding);
        }
        close_model(&m);
    }
    rf_free(first);
}

static void test_a_picture_has_the_same_bits_alone_and_in_a_batch(void **state)
{
    (void)state;
    model m = open_model("vit", "reference", 2);
    int64_t n = 0, n_alone = 0;
    float *both = run_embedding(&m, NULL, 0, &n);
    m.input.data = (float *)m.input.data + m.input.stride[0];
    m.input.shape[0] = 1;
    float *alone = run_embedding(&m, NULL, 0, &n_alone);
    assert_memory_equal(both + n_alone, alone, (size_t)n_alone * sizeof *alone);
    m.input.data = (float *)m.input.data - m.input.stride[0];
    rf_free(both);
    rf_free(alone);
    close_model(&m);
}

static rf_status keep_copy(void *user, const rf_hook_point *point, const rf_view *act, rf_stream *s)
{
    rf_view *kept = user;
    (void)point;
    *kept = *act;
    kept->data = rf_calloc(rf_view_n_elems(act), sizeof(float));
    assert_non_null(kept->data);
    return rf_copy_out(s, kept->data, act->data, (size_t)rf_view_n_elems(act) * sizeof(float));
}

static void test_a_pass_from_a_block_on_has_the_bits_of_the_whole_pass(void **state)
{
    (void)state;
    model m = open_model("clip_projection", "reference", 2);
    rf_view resid = {0};
    rf_hook hook = {.fn = keep_copy, .user = &resid};
    rf_vit_output out;
    int64_t n = 0;
    assert_ok(rf_vit_hook_find(rf_vit_get_config(m.vit), "blocks.2.hook_resid_pre", &hook.point));
    float *whole = run_embedding(&m, &hook, 1, &n);
    assert_ok(rf_vit_run(
        m.vit, m.s,
        &(rf_vit_run_args){.resid = resid, .first_layer = 2, .hooks = NULL, .n_hooks = 0}, &out));
    assert_memory_equal(out.embedding.data, whole, (size_t)n * sizeof *whole);
    /* a point before the block, and blocks that are none */
    hook.point.name[7] = '1';
    hook.point.layer = 1;
    assert_int_equal(rf_vit_run(m.vit, m.s,
                                &(rf_vit_run_args){
                                    .resid = resid, .first_layer = 2, .hooks = &hook, .n_hooks = 1},
                                &out),
                     RF_ERR_INVALID_ARG);
    assert_int_equal(rf_vit_run(m.vit, m.s,
                                &(rf_vit_run_args){
                                    .resid = resid, .first_layer = 3, .hooks = NULL, .n_hooks = 0},
                                &out),
                     RF_ERR_INVALID_ARG);
    rf_free(resid.data);
    rf_free(whole);
    close_model(&m);
}

static bool is_zero(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (x[i] != 0.0f) {
            return false;
        }
    }
    return true;
}

static void test_a_pass_stops_behind_the_deepest_hook(void **state)
{
    (void)state;
    model m = open_model("vit", "reference", 2);
    const rf_vit_config *c = rf_vit_get_config(m.vit);
    const int64_t n_floats = 2 * c->n_tokens * c->d_model;
    int64_t n_calls = 0;
    rf_vit_output out;
    rf_hook hooks[2] = {{.fn = count_calls, .user = &n_calls},
                        {.fn = count_calls, .user = &n_calls}};
    assert_ok(rf_vit_hook_find(c, "blocks.0.attn.hook_k", &hooks[0].point));
    assert_ok(rf_vit_hook_find(c, "hook_embed", &hooks[1].point));
    assert_ok(rf_vit_forward(m.vit, m.s, &m.input, hooks, 2, RF_VIT_STOP_AFTER_HOOKS, &out));
    assert_int_equal(n_calls, 2);
    assert_null(out.embedding.data);
    assert_false(is_zero(m.vit->ws.buf[RF_BUF_K], n_floats)); /* k was computed, v was not */
    assert_true(is_zero(m.vit->ws.buf[RF_BUF_V], n_floats));
    assert_null(m.vit->ws.buf[RF_BUF_PATTERN]); /* nobody asked for it */
    assert_ok(rf_vit_forward(m.vit, m.s, &m.input, NULL, 0, RF_VIT_STOP_AFTER_HOOKS, &out));
    assert_true(is_zero(m.vit->ws.buf[RF_BUF_V], n_floats));
    assert_ok(rf_vit_forward(m.vit, m.s, &m.input, hooks, 2, RF_VIT_RUN_ALL, &out));
    assert_non_null(out.embedding.data);
    assert_int_equal(n_calls, 4);
    close_model(&m);
}

static rf_status append_name(void *user, const rf_hook_point *point, const rf_view *act,
                             rf_stream *s)
{
    (void)act;
    (void)s;
    return rf_str_append(user, "%s ", point->name);
}

static rf_status append_second(void *user, const rf_hook_point *point, const rf_view *act,
                               rf_stream *s)
{
    (void)point;
    (void)act;
    (void)s;
    return rf_str_append(user, "second ");
}

static void test_hooks_on_one_point_run_in_the_order_given(void **state)
{
    (void)state;
    model m = open_model("vit", "reference", 1);
    rf_str text = {0};
    rf_hook hooks[3] = {{.fn = append_name, .user = &text},
                        {.fn = append_name, .user = &text},
                        {.fn = append_second, .user = &text}};
    const rf_vit_config *c = rf_vit_get_config(m.vit);
    assert_ok(rf_vit_hook_find(c, "blocks.1.hook_resid_post", &hooks[0].point));
    assert_ok(rf_vit_hook_find(c, "blocks.0.hook_mlp_out", &hooks[1].point));
    hooks[2].point = hooks[1].point;
    assert_ok(rf_vit_forward(m.vit, m.s, &m.input, hooks, 3, RF_VIT_STOP_AFTER_HOOKS, NULL));
    assert_string_equal(text.data, "blocks.0.hook_mlp_out second blocks.1.hook_resid_post ");
    rf_str_fini(&text);
    close_model(&m);
}

static rf_status refuse(void *user, const rf_hook_point *point, const rf_view *act, rf_stream *s)
{
    (void)user;
    (void)point;
    (void)act;
    (void)s;
    return rf_error_raise(RF_ERR_NUMERIC, __FILE__, __LINE__, "seven");
}

static void test_errors_of_hooks_and_arguments_come_back(void **state)
{
    (void)state;
    model m = open_model("vit", "reference", 1),
          other = open_model("clip_projection", "reference", 1);
    rf_hook hook = {.fn = refuse};
    const rf_vit_config *c = rf_vit_get_config(m.vit);
    rf_vit_output out;
    assert_ok(rf_vit_hook_find(c, "blocks.0.hook_resid_mid", &hook.point));
    assert_int_equal(rf_vit_forward(m.vit, m.s, &m.input, &hook, 1, RF_VIT_RUN_ALL, &out),
                     RF_ERR_NUMERIC);
    assert_string_equal(rf_error_text(), "hook at blocks.0.hook_resid_mid: seven");
    assert_null(out.embedding.data);
    /* 32 wide there, 36 here */
    assert_int_equal(
        rf_vit_forward(other.vit, other.s, &other.input, &hook, 1, RF_VIT_RUN_ALL, &out),
        RF_ERR_INVALID_ARG);
    assert_int_equal(rf_vit_forward(m.vit, m.s, &other.input, NULL, 0, RF_VIT_RUN_ALL, &out),
                     RF_ERR_INVALID_ARG);
    hook.fn = NULL;
    assert_int_equal(rf_vit_forward(m.vit, m.s, &m.input, &hook, 1, RF_VIT_RUN_ALL, &out),
                     RF_ERR_INVALID_ARG);
    rf_view none = m.input;
    none.shape[0] = 0;
    assert_ok(rf_vit_forward(m.vit, m.s, &none, NULL, 0, RF_VIT_RUN_ALL, &out));
    assert_null(out.embedding.data);
    close_model(&m);
    close_model(&other);
}

static void test_closing_a_model_gives_all_memory_back(void **state)
{
    (void)state;
    int64_t live = rf_alloc_live();
    model m = open_model("dinov2_classifier", "reference", 2);
    (void)forward(&m, NULL, 0);
    close_model(&m);
    assert_int_equal(rf_alloc_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replacements_have_the_effect_that_torch_gives_them),
        cmocka_unit_test(test_reading_any_point_changes_no_bit),
        cmocka_unit_test(test_one_to_four_threads_give_the_same_bits),
        cmocka_unit_test(test_a_picture_has_the_same_bits_alone_and_in_a_batch),
        cmocka_unit_test(test_a_pass_from_a_block_on_has_the_bits_of_the_whole_pass),
        cmocka_unit_test(test_a_pass_stops_behind_the_deepest_hook),
        cmocka_unit_test(test_hooks_on_one_point_run_in_the_order_given),
        cmocka_unit_test(test_errors_of_hooks_and_arguments_come_back),
        cmocka_unit_test(test_closing_a_model_gives_all_memory_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
