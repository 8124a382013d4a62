/* BatchTopK with k by class of token: each class shares out its own k and follows a threshold of
 * its own, which is what its tokens are held against in use. */
#include "step/small_coder.h"

/* Latents of `small_coder.h` have the values of a token's numbers: what is kept can be read off. */
static fixture make_by_class(const char *architecture)
{
    rf_coder_settings s = settings_of(architecture);
    s.k = (rf_k_by_class){.any = 2, .of = {1, 0, 3}};
    s.n_prefixes = 2;
    s.k_start = 2.0;
    s.k_steps = 5;
    return make_autoencoder(&s);
}

static const uint8_t classes[B] = {RF_TOKENS_PATCH, RF_TOKENS_CLS,   RF_TOKENS_PATCH,
                                   RF_TOKENS_PATCH, RF_TOKENS_PATCH, RF_TOKENS_CLS};

/* CLS tokens share two values, of 10 and above: 40 and 30 stay. Four patches share twelve of their
 * fourteen positive values: all but 0.5 and 0.25 stay. */
static const float tokens[B * D] = {
    4.0f,  3.0f,  0.75f, 0.5f,  /* patch */
    40.0f, 30.0f, 20.0f, 10.0f, /* cls */
    5.0f,  2.0f,  0.25f, 1.5f,  /* patch */
    6.0f,  7.0f,  8.0f,  -9.0f, /* patch: its fourth is latent 7's, 9 */
    1.0f,  0.0f,  2.5f,  0.0f,  /* patch */
    11.0f, 12.0f, 13.0f, 14.0f, /* cls */
};

static rf_step_metrics look_at(const fixture *f, const float *x, const uint8_t *class_of, int64_t n,
                               const uint8_t *valid, double k_scale)
{
    float rows[B * D];
    rf_step_rates rates = fixture_gradient_rates();
    rf_step_metrics metrics;
    memcpy(rows, x, sizeof(float) * (size_t)(n * D));
    rates.k_scale = k_scale;
    rf_token_batch batch = fixture_batch(comm, rows, n, D, valid);
    batch.classes = class_of;
    OK(rf_step_run(f->step, f->coder, f->opt, &batch, &rates, &metrics));
    assert_false(metrics.skipped);
    return metrics;
}

static float floor_of(const fixture *f, rf_token_class token_class)
{
    rf_coder_state state;
    OK(rf_coder_get_state(f->coder, f->s, &state));
    return rf_coder_floor(&state, token_class);
}

static void each_class_shares_its_own_k(void **state)
{
    (void)state;
    static const char *const architectures[] = {"batch_topk", "matryoshka"};
    for (int a = 0; a < 2; a++) {
        fixture f = make_by_class(architectures[a]);
        rf_step_metrics m = look_at(&f, tokens, classes, B, NULL, 1.0);
        assert_close(m.l0, (2 + 12) / 6.0);
        assert_close((double)floor_of(&f, RF_TOKENS_CLS), 30.0);
        assert_close((double)floor_of(&f, RF_TOKENS_PATCH), 0.75);
        assert_close((double)floor_of(&f, RF_TOKENS_ALL), 0.75); /* the least of all */
        assert_close((double)floor_of(&f, RF_TOKENS_REGISTER), 0.75);
        fixture_destroy(&f);
    }
}

/* k is that of the valid tokens of a class, and follows its schedule. */
static void the_share_of_a_class_counts_its_valid_tokens(void **state)
{
    (void)state;
    const uint8_t valid[B] = {1, 0, 1, 0, 1, 1};
    fixture f = make_by_class("batch_topk");
    rf_step_metrics m = look_at(&f, tokens, classes, B, valid, 1.0);
    assert_close(m.l0, (1 + 9) / 4.0); /* all but 0.25 of the patches' ten */
    assert_close((double)floor_of(&f, RF_TOKENS_CLS), 14.0);
    assert_close((double)floor_of(&f, RF_TOKENS_PATCH), 0.5);
    fixture_destroy(&f);
    f = make_by_class("batch_topk");
    m = look_at(&f, tokens, classes, B, NULL, 2.0);
    assert_close(m.l0, (4 + 14) / 6.0);
    assert_close((double)floor_of(&f, RF_TOKENS_CLS), 14.0);
    assert_close((double)floor_of(&f, RF_TOKENS_PATCH), 0.25);
    fixture_destroy(&f);
}

/* A batch without a class leaves its mean as it was; means are of what was measured, not pulled
 * towards 0. */
static void a_threshold_follows_its_own_class(void **state)
{
    (void)state;
    const uint8_t all_cls[B] = {1, 1, 1, 1, 1, 1}, valid[B] = {0, 1, 0, 0, 0, 0};
    fixture f = make_by_class("batch_topk");
    look_at(&f, tokens, classes, B, NULL, 1.0);
    const float first = floor_of(&f, RF_TOKENS_CLS), patch = floor_of(&f, RF_TOKENS_PATCH);
    look_at(&f, tokens, all_cls, B, valid, 1.0); /* 40 is the least */
    assert_true(floor_of(&f, RF_TOKENS_PATCH) <= patch && floor_of(&f, RF_TOKENS_PATCH) >= patch);
    assert_true(floor_of(&f, RF_TOKENS_CLS) > first && floor_of(&f, RF_TOKENS_CLS) < 40.0f);
    assert_true(floor_of(&f, RF_TOKENS_ALL) > 0.75f);
    fixture_destroy(&f);
}

static void a_class_without_positive_values_is_an_ordinary_one(void **state)
{
    (void)state;
    float x[B * D];
    fixture f = make_by_class("batch_topk");
    for (int i = 0; i < B * D; i++) {
        x[i] = classes[i / D] == RF_TOKENS_CLS ? 0.0f : 1.0f;
    }
    rf_step_metrics m = look_at(&f, x, classes, B, NULL, 1.0);
    assert_close(m.l0, 12 / 6.0);
    assert_close((double)floor_of(&f, RF_TOKENS_CLS), 1.0); /* none of its own: that of all */
    set_all(&f, RF_CODER_B_ENC, -100.0f);
    m = look_at(&f, x, classes, B, NULL, 1.0);
    assert_close(m.l0, 0.0);
    assert_close((double)floor_of(&f, RF_TOKENS_ALL), 1.0);
    fixture_destroy(&f);
}

/* Tokens whose class is not known share the largest k, and move the threshold of all alone. */
static void tokens_of_no_class_share_the_largest_k(void **state)
{
    (void)state;
    fixture f = make_by_class("batch_topk");
    rf_step_metrics m = look_at(&f, tokens, NULL, 3, NULL, 1.0);
    assert_close(m.l0, 9 / 3.0);
    assert_close((double)floor_of(&f, RF_TOKENS_ALL), 1.5);
    assert_close((double)floor_of(&f, RF_TOKENS_CLS), 1.5);
    look_at(&f, tokens, classes, B, NULL, 1.0);
    assert_close((double)floor_of(&f, RF_TOKENS_CLS), 30.0); /* measured since */
    fixture_destroy(&f);
}

static void in_use_a_token_is_held_against_the_threshold_of_its_class(void **state)
{
    (void)state;
    int64_t n_active[B];
    float rows[B * D], y_hat[B * D];
    rf_view x = rf_view_2d(rows, B, D), out = rf_view_2d(y_hat, B, D);
    rf_coder_state st;
    fixture f = make_by_class("batch_topk");
    OK(rf_coder_get_state(f.coder, f.s, &st));
    st.scalars[RF_SCALAR_THRESHOLD] = 1.5f; /* a mean of 3 */
    st.scalars[RF_SCALAR_THRESHOLD_MASS] = 0.5f;
    st.class_thresholds[0][0] = 10.0f; /* cls 20, patch 1, no register yet */
    st.class_thresholds[0][1] = 0.5f;
    st.class_thresholds[2][0] = 0.5f;
    st.class_thresholds[2][1] = 0.5f;
    OK(rf_coder_set_state(f.coder, f.s, &st));
    memcpy(rows, tokens, sizeof rows);
    OK(rf_coder_reconstruct(f.coder, f.s, &x, NULL, classes, &out, n_active));
    static const int64_t by_class[B] = {2, 2, 3, 4, 1, 0}, by_all[B] = {1, 4, 1, 4, 0, 4};
    assert_memory_equal(n_active, by_class, sizeof by_class);
    OK(rf_coder_reconstruct(f.coder, f.s, &x, NULL, NULL, &out, n_active));
    assert_memory_equal(n_active, by_all, sizeof by_all);
    const uint8_t registers[B] = {2, 2, 2, 2, 2, 2};
    OK(rf_coder_reconstruct(f.coder, f.s, &x, NULL, registers, &out, n_active));
    assert_memory_equal(n_active, by_all, sizeof by_all);
    fixture_destroy(&f);
}

/* Who has one k, or one class of tokens, has one threshold: nothing else stands in its files. */
static void only_coders_of_several_classes_have_their_thresholds(void **state)
{
    (void)state;
    rf_coder_settings s = settings_of("batch_topk");
    fixture f = make_autoencoder(&s);
    assert_false(rf_coder_has(f.coder, RF_CODER_CLASS_THRESHOLDS));
    fixture_destroy(&f);
    s.k = (rf_k_by_class){.of = {1, 0, 3}};
    s.tokens = RF_TOKENS_PATCH;
    f = make_autoencoder(&s);
    assert_false(rf_coder_has(f.coder, RF_CODER_CLASS_THRESHOLDS));
    assert_int_equal(rf_coder_k(f.coder), 3);
    fixture_destroy(&f);
    s = settings_of("topk");
    s.k = (rf_k_by_class){.of = {1, 0, 3}};
    f = make_autoencoder(&s);
    assert_false(rf_coder_has(f.coder, RF_CODER_CLASS_THRESHOLDS));
    fixture_destroy(&f);
    f = make_by_class("batch_topk");
    const rf_coder_tensor t = rf_coder_tensor_at(f.coder, RF_CODER_CLASS_THRESHOLDS);
    assert_string_equal(t.name, "class_thresholds"); /* checkpoints hold all tensors */
    assert_true(t.kind == RF_TENSOR_STATE && t.view.shape[0] == 3 && t.view.shape[1] == 2);
    fixture_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_class_shares_its_own_k),
        cmocka_unit_test(the_share_of_a_class_counts_its_valid_tokens),
        cmocka_unit_test(a_threshold_follows_its_own_class),
        cmocka_unit_test(a_class_without_positive_values_is_an_ordinary_one),
        cmocka_unit_test(tokens_of_no_class_share_the_largest_k),
        cmocka_unit_test(in_use_a_token_is_held_against_the_threshold_of_its_class),
        cmocka_unit_test(only_coders_of_several_classes_have_their_thresholds),
    };
    return cmocka_run_group_tests(tests, small_start, small_finish);
}
