/* Weights by name: what is read, what writing changes, and circuits against what the model does. */
#include "../../src/vit/vit_impl.h"
#include "every_model.h"

static rf_weight *list_weights(const model *m, int64_t *n)
{
    rf_weight *list = NULL;
    assert_ok(rf_vit_weight_list(m->vit, &list, n));
    assert_true(*n > 0);
    return list;
}

static float *read_weight(const model *m, const rf_weight *w)
{
    float *x = rf_calloc(rf_view_n_elems(&w->view), sizeof *x);
    assert_non_null(x);
    assert_ok(rf_vit_weight_read(m->vit, m->s, w->name, x));
    return x;
}

/* ---- for every model ------------------------------------------------------------------------ */

static void test_every_array_has_one_name(void **state)
{
    model m = open_reference(state);
    const rf_vit_weights *w = &m.vit->weights;
    int64_t n = 0;
    rf_weight *list = list_weights(&m, &n);
    uint8_t *taken = rf_calloc(w->n_floats, 1);
    for (int64_t i = 0; i < n; i++) {
        rf_weight found;
        assert_ok(rf_vit_weight_find(m.vit, list[i].name, &found));
        assert_ptr_equal(found.view.data, list[i].view.data);
        const int64_t first = (const float *)found.view.data - w->arena;
        assert_true(i == 0 || first > (const float *)list[i - 1].view.data - w->arena);
        for (int64_t j = first; j < first + rf_view_n_elems(&found.view); j++) {
            assert_true(j < w->n_floats && taken[j]++ == 0);
        }
    }
    for (int64_t j = 0; j < w->n_floats; j++) { /* what has no name is padding */
        assert_true(taken[j] == 1 || w->arena[j] == 0.0f);
    }
    rf_free(taken);
    rf_free(list);
    close_model(&m);
}

static void test_what_is_written_is_read_and_undone(void **state)
{
    model m = open_reference(state);
    int64_t n = 0;
    rf_weight *list = list_weights(&m, &n);
    rf_vit_output out = forward(&m, NULL, 0);
    const int64_t n_out = rf_view_n_elems(&out.embedding);
    float *embedding = rf_calloc(n_out, sizeof *embedding);
    memcpy(embedding, out.embedding.data, (size_t)n_out * sizeof *embedding);
    for (int64_t i = 0; i < n; i++) {
        const int64_t size = rf_view_n_elems(&list[i].view);
        float *before = read_weight(&m, &list[i]), *other = rf_calloc(size, sizeof *other);
        for (int64_t j = 0; j < size; j++) {
            other[j] = (float)j;
        }
        assert_ok(rf_vit_weight_write(m.vit, m.s, list[i].name, other));
        float *again = read_weight(&m, &list[i]);
        assert_memory_equal(again, other, (size_t)size * sizeof *again);
        assert_ok(rf_vit_weight_write(m.vit, m.s, list[i].name, before));
        rf_free(again);
        rf_free(other);
        rf_free(before);
    }
    out = forward(&m, NULL, 0);
    assert_memory_equal(out.embedding.data, embedding, (size_t)n_out * sizeof *embedding);
    rf_free(embedding);
    rf_free(list);
    close_model(&m);
}

/* Writing any weight changes what the model gives, or the array would be another one's copy. */
static void test_every_weight_has_an_effect(void **state)
{
    model m = open_reference(state);
    int64_t n = 0;
    rf_weight *list = list_weights(&m, &n);
    rf_vit_output out = forward(&m, NULL, 0);
    const int64_t n_out[2] = {rf_view_n_elems(&out.embedding),
                              out.logits.data != NULL ? rf_view_n_elems(&out.logits) : 0};
    float *want = rf_calloc(n_out[0] + n_out[1], sizeof *want);
    memcpy(want, out.embedding.data, (size_t)n_out[0] * sizeof *want);
    if (n_out[1] > 0) {
        memcpy(want + n_out[0], out.logits.data, (size_t)n_out[1] * sizeof *want);
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t size = rf_view_n_elems(&list[i].view);
        float *x = read_weight(&m, &list[i]), *other = rf_calloc(size, sizeof *other);
        for (int64_t j = 0; j < size; j++) { /* uneven, as norms and softmax undo even changes */
            other[j] = 1.5f * x[j] + 0.3f * (float)(j % 7);
        }
        assert_ok(rf_vit_weight_write(m.vit, m.s, list[i].name, other));
        out = forward(&m, NULL, 0);
        double change = largest_change(want, out.embedding.data, n_out[0]);
        if (n_out[1] > 0) {
            change = fmax(change, largest_change(want + n_out[0], out.logits.data, n_out[1]));
        }
        const bool is_key_bias = strstr(list[i].name, ".b_K") != NULL;
        if (!(change > 0.0) && !is_key_bias) { /* softmax undoes what all keys have in common */
            fail_msg("writing %s changed nothing", list[i].name);
        }
        assert_ok(rf_vit_weight_write(m.vit, m.s, list[i].name, x));
        rf_free(other);
        rf_free(x);
    }
    rf_free(want);
    rf_free(list);
    close_model(&m);
}

typedef struct copy {
    float *x; /* of the point */
} copy;

static rf_status keep(void *user, const rf_hook_point *point, const rf_view *act, rf_stream *s)
{
    copy *c = user;
    (void)point;
    (void)s;
    rf_free(c->x);
    c->x = rf_calloc(rf_view_n_elems(act), sizeof *c->x);
    memcpy(c->x, act->data, (size_t)rf_view_n_elems(act) * sizeof *c->x);
    return RF_OK;
}

/* W_Q of one head, doubled: hook_q [B, T, H, dh] of that head changes, the others' bits do not. */
static void test_writing_one_head_changes_that_head(void **state)
{
    model m = open_reference(state);
    const rf_vit_config *c = rf_vit_get_config(m.vit);
    const int64_t head = c->n_heads - 1, size = c->n_heads * c->d_model * c->d_head;
    copy before = {0}, after = {0};
    rf_hook hook = {.fn = keep, .user = &before};
    rf_weight w;
    assert_ok(rf_vit_hook_find(c, "blocks.-1.attn.hook_q", &hook.point));
    assert_ok(rf_vit_weight_find(m.vit, "blocks.-1.attn.W_Q", &w));
    assert_int_equal(w.view.n_dims, 3);
    assert_int_equal(w.view.shape[0], c->n_heads);
    assert_int_equal(w.view.shape[1], c->d_model);
    assert_int_equal(w.view.shape[2], c->d_head);
    forward(&m, &hook, 1);
    float *x = read_weight(&m, &w);
    for (int64_t i = head * c->d_model * c->d_head; i < size; i++) {
        x[i] *= 2.0f;
    }
    assert_ok(rf_vit_weight_write(m.vit, m.s, w.name, x));
    hook.user = &after;
    forward(&m, &hook, 1);
    const int64_t n = m.input.shape[0] * c->n_tokens * c->n_heads;
    for (int64_t i = 0; i < n; i++) {
        const float *a = before.x + i * c->d_head, *b = after.x + i * c->d_head;
        const bool is_same = memcmp(a, b, (size_t)c->d_head * sizeof *a) == 0;
        assert_true(is_same == (i % c->n_heads != head));
    }
    rf_free(before.x);
    rf_free(after.x);
    rf_free(x);
    close_model(&m);
}

static void test_gradients_lie_where_weights_do(void **state)
{
    model m = open_reference(state);
    int64_t n = 0;
    rf_weight *list = list_weights(&m, &n);
    float *d_weights = rf_calloc(rf_vit_n_weight_floats(m.vit), sizeof *d_weights);
    for (int64_t i = 0; i < n; i++) {
        rf_weight w;
        assert_ok(rf_vit_gradient_find(m.vit, d_weights, list[i].name, &w));
        assert_int_equal((float *)w.view.data - d_weights,
                         (float *)list[i].view.data - m.vit->weights.arena);
        w.view.data = list[i].view.data;
        assert_memory_equal(&w.view, &list[i].view, sizeof w.view);
    }
    rf_free(d_weights);
    rf_free(list);
    close_model(&m);
}

/* ---- circuits ------------------------------------------------------------------------------- */

static double at(const rf_view *v, int64_t i, int64_t j)
{
    return (double)((const float *)v->data)[i * v->stride[0] + j * v->stride[1]];
}

/* x . a . b . y of rows x and y with d entries each. */
static double through(const rf_factored *f, const float *x, const float *y)
{
    double sum = 0.0;
    for (int64_t k = 0; k < f->a.shape[1]; k++) {
        double left = 0.0, right = 0.0;
        for (int64_t i = 0; i < f->a.shape[0]; i++) {
            left += (double)x[i] * at(&f->a, i, k);
        }
        for (int64_t j = 0; j < f->b.shape[1]; j++) {
            right += at(&f->b, k, j) * (double)y[j];
        }
        sum += left * right;
    }
    return sum;
}

/* Without biases, scores are the form that QK's factors make of the normed stream. */
static void test_qk_factors_give_the_scores(void **state)
{
    static const char *const no_bias[] = {"blocks.1.attn.b_Q", "blocks.1.attn.b_K"};
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    const rf_vit_config *c = rf_vit_get_config(m.vit);
    float *zeros = rf_calloc(c->d_model, sizeof *zeros);
    copy normed = {0}, scores = {0};
    rf_hook hooks[2] = {{.fn = keep, .user = &normed}, {.fn = keep, .user = &scores}};
    assert_ok(rf_vit_hook_find(c, "blocks.1.ln1.hook_normalized", &hooks[0].point));
    assert_ok(rf_vit_hook_find(c, "blocks.1.attn.hook_attn_scores", &hooks[1].point));
    assert_ok(rf_vit_weight_write(m.vit, m.s, no_bias[0], zeros));
    assert_ok(rf_vit_weight_write(m.vit, m.s, no_bias[1], zeros));
    forward(&m, hooks, 2);
    for (int64_t h = 0; h < c->n_heads; h++) {
        rf_factored f;
        assert_ok(rf_vit_circuit(m.vit, RF_CIRCUIT_QK, 1 - c->n_layers, h, &f));
        assert_int_equal(f.b.shape[0], c->d_head);
        assert_int_equal(f.b.shape[1], c->d_model);
        for (int64_t i = 0; i < c->n_tokens * c->n_tokens; i++) {
            const float *x = normed.x + i / c->n_tokens * c->d_model;
            const float *y = normed.x + i % c->n_tokens * c->d_model;
            const double want = (double)scores.x[h * c->n_tokens * c->n_tokens + i];
            const double got = through(&f, x, y) / sqrt((double)c->d_head);
            assert_true(fabs(got - want) <= 1e-5 * fmax(1.0, fabs(want))); /* fp32 sums */
        }
    }
    rf_free(normed.x);
    rf_free(scores.x);
    rf_free(zeros);
    close_model(&m);
}

/* A head that looks at one token alone adds x W_V W_O of that token, biases apart. */
static void test_ov_factors_give_what_a_head_adds(void **state)
{
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    const rf_vit_config *c = rf_vit_get_config(m.vit);
    static const char *const filters[] = {"blocks.0.ln1.hook_normalized",
                                          "blocks.0.attn.hook_pattern", "blocks.0.attn.hook_z"};
    rf_cache *cache = NULL;
    rf_resid_stack heads;
    rf_view normed, pattern;
    float *zeros = rf_calloc(c->d_model, sizeof *zeros);
    assert_ok(rf_vit_weight_write(m.vit, m.s, "blocks.0.attn.b_V", zeros));
    assert_ok(rf_cache_create(m.vit, filters, 3, &cache));
    const rf_vit_run_args args = {.input = m.input, .cache = cache};
    assert_ok(rf_vit_run(m.vit, m.s, &args, NULL));
    assert_ok(rf_cache_get(cache, filters[0], &normed));
    assert_ok(rf_cache_get(cache, filters[1], &pattern));
    assert_ok(rf_cache_head_results(cache, m.s, 1, &heads));
    for (int64_t h = 0; h < c->n_heads; h++) {
        rf_factored f;
        assert_ok(rf_vit_circuit(m.vit, RF_CIRCUIT_OV, 0, h, &f));
        const float *result = rf_stack_at(&heads, h).data; /* of picture 0, token 0 */
        for (int64_t j = 0; j < c->d_model; j++) {
            float *unit = rf_calloc(c->d_model, sizeof *unit);
            double got = 0.0;
            unit[j] = 1.0f;
            for (int64_t t = 0; t < c->n_tokens; t++) {
                const float *row = (const float *)normed.data + t * c->d_model;
                const int64_t p = h * c->n_tokens * c->n_tokens + t;
                got += (double)((const float *)pattern.data)[p] * through(&f, row, unit);
            }
            assert_true(fabs(got - (double)result[j]) <= 1e-5); /* fp32 sums of values below 1 */
            rf_free(unit);
        }
    }
    rf_resid_stack_fini(&heads);
    rf_cache_destroy(cache);
    rf_free(zeros);
    close_model(&m);
}

static void test_circuits_out_of_range_are_refused(void **state)
{
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    const rf_vit_config *c = rf_vit_get_config(m.vit);
    rf_factored f;
    assert_int_equal(rf_vit_circuit(m.vit, RF_CIRCUIT_QK, c->n_layers, 0, &f), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_vit_circuit(m.vit, RF_CIRCUIT_QK, -1 - c->n_layers, 0, &f),
                     RF_ERR_INVALID_ARG);
    assert_int_equal(rf_vit_circuit(m.vit, RF_CIRCUIT_OV, 0, c->n_heads, &f), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_vit_circuit(m.vit, RF_CIRCUIT_OV, 0, -1, &f), RF_ERR_INVALID_ARG);
    close_model(&m);
}

/* ---- names ---------------------------------------------------------------------------------- */

static void test_unknown_names_are_refused_with_the_nearest(void **state)
{
    char longest[400];
    rf_weight w;
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    assert_int_equal(rf_vit_weight_find(m.vit, "blocks.0.attn.W_q", &w), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "did you mean 'blocks.0.attn.W_Q'"));
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    memcpy(longest, "blocks.-", 8);
    const char *const wrong[] = {"",          "blocks.-9.attn.W_Q",
                                 "blocks.-1", "blocks.-",
                                 "blocks",    "blocks.-99999999999999999999.attn.W_Q",
                                 longest};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(rf_vit_weight_find(m.vit, wrong[i], &w), RF_ERR_NOT_FOUND);
    }
    close_model(&m);
}

static void test_what_is_derived_follows_a_weight(void **state)
{
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    const rf_vit_config *c = rf_vit_get_config(m.vit);
    copy before = {0}, after = {0};
    rf_hook hook = {.fn = keep, .user = &before};
    float *cls = rf_calloc(c->d_model, sizeof *cls);
    assert_ok(rf_vit_hook_find(c, "hook_full_embed", &hook.point));
    forward(&m, &hook, 1);
    assert_ok(rf_vit_weight_read(m.vit, m.s, "cls_token", cls));
    for (int64_t j = 0; j < c->d_model; j++) {
        cls[j] += 1.0f;
    }
    assert_ok(rf_vit_weight_write(m.vit, m.s, "cls_token", cls));
    hook.user = &after;
    forward(&m, &hook, 1);
    for (int64_t i = 0; i < m.input.shape[0] * c->n_tokens * c->d_model; i++) {
        const bool is_cls = i / c->d_model % c->n_tokens == 0;
        const double change = (double)after.x[i] - (double)before.x[i];
        assert_true(is_cls ? fabs(change - 1.0) <= 1e-5 : change == 0.0); /* rounding of the sums */
    }
    rf_free(cls);
    rf_free(before.x);
    rf_free(after.x);
    close_model(&m);
}

static void test_a_logit_direction_is_a_column(void **state)
{
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    const rf_vit_config *c = rf_vit_get_config(m.vit);
    rf_weight w;
    assert_ok(rf_vit_weight_find(m.vit, "proj.W", &w));
    float *x = read_weight(&m, &w), *direction = rf_calloc(c->d_pool, sizeof *direction);
    assert_ok(rf_vit_logit_direction(m.vit, m.s, c->d_out - 1, direction));
    for (int64_t i = 0; i < c->d_pool; i++) {
        assert_true(direction[i] == x[i * c->d_out + c->d_out - 1]);
    }
    assert_int_equal(rf_vit_logit_direction(m.vit, m.s, c->d_out, direction), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_vit_logit_direction(m.vit, m.s, -1, direction), RF_ERR_INVALID_ARG);
    rf_free(x);
    close_model(&m);
    m = open_model("vit", "reference", 1); /* gives the pooled vector itself */
    assert_int_equal(rf_vit_logit_direction(m.vit, m.s, 0, direction), RF_ERR_UNSUPPORTED);
    rf_free(direction);
    close_model(&m);
}

int main(void)
{
    static const struct CMUnitTest single[] = {
        cmocka_unit_test(test_qk_factors_give_the_scores),
        cmocka_unit_test(test_ov_factors_give_what_a_head_adds),
        cmocka_unit_test(test_circuits_out_of_range_are_refused),
        cmocka_unit_test(test_unknown_names_are_refused_with_the_nearest),
        cmocka_unit_test(test_what_is_derived_follows_a_weight),
        cmocka_unit_test(test_a_logit_direction_is_a_column),
    };
    static model_tests t;
    for (size_t i = 0; i < sizeof single / sizeof single[0]; i++) {
        add_test(&t, &single[i]);
    }
    add_tests_of_every_model(&t, "every array has one name", test_every_array_has_one_name);
    add_tests_of_every_model(&t, "what is written is read and undone",
                             test_what_is_written_is_read_and_undone);
    add_tests_of_every_model(&t, "every weight has an effect", test_every_weight_has_an_effect);
    add_tests_of_every_model(&t, "writing one head changes that head",
                             test_writing_one_head_changes_that_head);
    add_tests_of_every_model(&t, "gradients lie where weights do",
                             test_gradients_lie_where_weights_do);
    return run_model_tests("weights by name", &t);
}
