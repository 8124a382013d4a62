/* Coders that mean nothing are refused with the reason. */
#include "coder/coder_fixture.h"

typedef struct refusal {
    const char *architecture, *settings; /* YAML over 20 latents and k = 3 */
    rf_coder_shape shape;
    const char *reason; /* NULL: it is a coder */
} refusal;

#define ONE                                                                                        \
    {                                                                                              \
        .n_in = 1, .in = { 8 }                                                                     \
    }
#define SITES                                                                                      \
    {                                                                                              \
        .n_in = 2, .in = { 8, 4 }                                                                  \
    }
#define ACROSS                                                                                     \
    {                                                                                              \
        .n_in = 1, .in = {8}, .n_out = 1, .out = { 6 }                                             \
    }
#define BESIDE                                                                                     \
    {                                                                                              \
        .n_in = 1, .in = {8}, .n_out = 1, .out = { 8 }                                             \
    }

static rf_status check(const refusal *r)
{
    rf_coder_settings settings = fixture_settings(r->architecture, 20, 3);
    rf_yaml *map = NULL;
    OK(rf_yaml_parse(r->settings, (int64_t)strlen(r->settings), "test", &map));
    OK(rf_settings_read(&rf_coder_settings_table, map, "coder", NULL, &settings, NULL));
    rf_yaml_free(map);
    return rf_coder_check(&settings, &r->shape);
}

static void assert_all(const refusal *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        rf_status status = check(&cases[i]);
        if (cases[i].reason == NULL) {
            OK(status);
        } else if (status != RF_ERR_INVALID_ARG ||
                   strstr(rf_error_text(), cases[i].reason) == NULL) {
            fail_msg("%s {%s}: \"%s\", expected \"%s\"", cases[i].architecture, cases[i].settings,
                     status == RF_OK ? "" : rf_error_text(), cases[i].reason);
        }
    }
}
#define ASSERT_ALL(cases) assert_all(cases, sizeof cases / sizeof cases[0])

static void k_and_sizes_must_fit(void **state)
{
    (void)state;
    static const refusal cases[] = {
        {"topk", "k: 20", ONE, NULL},
        {"topk", "k: 21", ONE, "topk: k is 21 but the coder has only 20 latents"},
        {"batch_topk", "k: 21", ONE, "k is 21 but the coder has only 20 latents"},
        {"matryoshka", "k: 21", ONE, "k is 21 but"},
        {"multi_topk", "k: {cls: 21, patch: 1}", ONE, "k is 21 but"},
        {"relu", "k: 21", ONE, NULL}, /* has no k */
        {"topk", "{k: 10, k_start: 2, k_steps: 5}", ONE, NULL},
        {"topk", "{k: 10, k_start: 2.5, k_steps: 5}", ONE,
         "k_start: 2.5 times k = 10 is more than the 20 latents"},
        {"topk", "{k: 10, k_start: 2.5}", ONE, "k_start is 2.5: say over how many steps"},
        {"batch_topk", "k: {cls: 3, patch: 5}", ONE, NULL},
        {"batch_topk", "k: {cls: 21, patch: 5}", ONE, "k is 21 but"},
        {"batch_topk", "{tokens: pooled, k: {cls: 3}}", ONE, "k by class, but pooled tokens"},
        {"batch_topk", "{tokens: patch, k: {cls: 3, patch: 5}}", ONE, NULL},
        {"matryoshka", "{k: {cls: 3}, n_prefixes: 2}", ONE, NULL},
        {"matryoshka", "{k: {cls: 3}, n_prefixes: 2, selection: topk}", ONE, NULL},
        {"p_anneal", "p: 3", ONE, "p is 3: a p_anneal coder goes from 1"},
        {"topk", "resample_until: 5", ONE, "resample_until is 5 but resample is none"},
        {"jumprelu", "{decoder: free, penalty_by_norm: true}", ONE, "has no values to weigh"},
        {"jumprelu", "{decoder: free, penalty_by_norm: true, penalty: target_l0}", ONE,
         "has no values to weigh"},
        {"jumprelu", "{decoder: free, penalty_by_norm: true, penalty: tanh}", ONE, NULL},
        {"relu", "k_steps: 5", ONE, "k_steps: a relu coder has no k that could fall"},
        {"topk", "latents: 1000000000", ONE, NULL},
        {"topk", "tokens: pooled", ONE, NULL},
        {"topk", "{tokens: pooled, k: {cls: 3}}", ONE, "k by class, but pooled tokens have none"},
        {"topk", "{}", {.n_in = 0}, "input: 0 sites, expected 1 to 32"},
        {"topk", "{}", {.n_in = RF_MAX_SITES + 1}, "input: 33 sites"},
        {"topk", "{}", {.n_in = 1, .in = {0}}, "input: width 0, expected >= 1"},
        {"topk", "{}", {.n_in = 1, .in = {8}, .n_out = 33}, "target: 33 sites, expected 0 to 32"},
        {"topk", "{}", {.n_in = 1, .in = {8}, .n_out = 1, .out = {-1}}, "target: width -1"},
        {"topk",
         "{latents: 0, expansion: 65536}",
         {.n_in = 1, .in = {100000}},
         "6553600000 latents, expected 1 to 2^31 - 1"},
    };
    ASSERT_ALL(cases);
}

static void unknown_architectures_and_huge_dictionaries_are_refused(void **state)
{
    (void)state;
    rf_backend *be = NULL;
    rf_coder *coder = NULL;
    rf_coder_shape shape = rf_coder_shape_of(4);
    rf_coder_settings settings = fixture_settings("topk", 10, 3);
    OK(rf_backend_cpu_create(1, &be));
    settings.architecture = 77;
    assert_int_equal(rf_coder_create(be, &settings, &shape, &coder), RF_ERR_INVALID_ARG);
    settings.architecture = 0;
    settings.latents = INT64_C(1) << 31;
    assert_int_equal(rf_coder_create(be, &settings, &shape, &coder), RF_ERR_INVALID_ARG);
    assert_null(coder);
    rf_backend_destroy(be);
    assert_int_equal(rf_alloc_live(), 0);
}

static void penalties_are_of_those_who_have_them(void **state)
{
    (void)state;
    static const refusal cases[] = {
        {"topk", "penalty: l1", ONE,
         "penalty: l1 of a topk coder: its k says how sparse codes are"},
        {"matryoshka", "penalty: target_l0", ONE, "penalty: target_l0 of a matryoshka coder"},
        {"batch_topk", "penalty_by_norm: true", ONE,
         "penalty_by_norm: a batch_topk coder has no penalty"},
        {"relu", "penalty: l1", ONE, NULL},
        {"relu", "{penalty: lp, p: 0.5}", ONE, NULL},
        {"relu", "{penalty: lp, p: 0}", ONE, "p is 0, expected above 0"},
        {"relu", "penalty: tanh", ONE, NULL},
        {"relu", "{penalty: tanh, tanh_scale: 0}", ONE, "tanh_scale is 0, expected above 0"},
        {"relu", "penalty: l0", ONE,
         "penalty: l0 has no gradient without a threshold: use architecture: jumprelu"},
        {"gated", "penalty: target_l0", ONE, "penalty: target_l0 has no gradient"},
        {"gated", "penalty: tanh", ONE, "penalty: tanh is of relu and jumprelu, not of gated"},
        {"gated", "penalty: l1", ONE, NULL},
        {"p_anneal", "penalty: lp", ONE, "penalty: lp is of relu and jumprelu, not of p_anneal"},
        {"p_anneal", "penalty: l1", ONE, "use architecture: relu"},
        {"jumprelu", "penalty: l0", ONE, NULL},
        {"jumprelu", "penalty: tanh", ONE, NULL},
        {"jumprelu", "penalty: lp", ONE, NULL},
        {"jumprelu", "{penalty: target_l0, target_l0: 5}", ONE, NULL},
        {"jumprelu", "{penalty: target_l0, target_l0: 0}", ONE, "target_l0 is 0, expected > 0"},
        {"relu", "penalty_by_norm: true", ONE,
         "penalty_by_norm: decoder is unit, and norms weigh a penalty only where they are free"},
        {"relu", "{penalty_by_norm: true, decoder: archetypal}", ONE, "decoder is archetypal"},
        {"relu", "{penalty_by_norm: true, decoder: free}", ONE, NULL},
        {"relu", "{penalty_by_norm: true, decoder: free}", SITES, NULL},
    };
    ASSERT_ALL(cases);
}

static void what_is_of_one_architecture_is_refused_elsewhere(void **state)
{
    (void)state;
    static const refusal cases[] = {
        {"jumprelu", "{pre_activation: 3e-6, ste_to_input: true}", ONE, NULL},
        {"relu", "pre_activation: 3e-6", ONE, "pre_activation is of jumprelu, not of relu"},
        {"topk", "ste_to_input: true", ONE, "ste_to_input is of jumprelu, not of topk"},
        {"jumprelu", "threshold_start: 0", ONE, "threshold_start is 0, expected > 0"},
        {"jumprelu", "bandwidth: 0", ONE, "bandwidth is 0, expected > 0"},
        {"topk", "{threshold_start: 0, bandwidth: 0}", ONE, NULL},
        {"topk", "random_prefixes: true", ONE, "random_prefixes is of matryoshka, not of topk"},
        {"matryoshka", "random_prefixes: true", ONE, NULL},
        {"matryoshka", "n_prefixes: 5", ONE, NULL}, /* 1, 2, 5, 10, 20 */
        {"matryoshka", "n_prefixes: 6", ONE, "n_prefixes: 20 latents cannot be halved 5 times"},
        {"matryoshka", "{n_prefixes: 6, random_prefixes: true}", ONE, NULL},
        {"matryoshka", "{latents: 4, n_prefixes: 5, random_prefixes: true}", ONE,
         "n_prefixes is 5, expected 1 to 4"},
        {"p_anneal", "p_end: 0", ONE, "p_end is 0, expected above 0 and at most 1"},
        {"p_anneal", "p_anneal_from: 1", ONE, "p_anneal_from is 1, expected a share"},
        {"relu", "{p_end: 0, p_anneal_from: 1}", ONE, NULL},
        {"topk", "decoder: free", ONE,
         "decoder: free of a topk coder: it selects by values, so decoder rows must have one norm"},
        {"multi_topk", "decoder: free", ONE, "decoder: free of a multi_topk coder"},
        {"batch_topk", "decoder: free", SITES, "decoder: free of a batch_topk coder"},
        {"matryoshka", "decoder: free", ONE, "decoder: free of a matryoshka coder"},
        {"gated", "decoder: free", ONE, NULL},
        {"topk", "decoder: archetypal", ONE, NULL},
    };
    ASSERT_ALL(cases);
}

static void one_remedy_for_dead_latents_is_enough(void **state)
{
    (void)state;
    static const refusal cases[] = {
        {"topk", "ghost: original", ONE,
         "two remedies of the same ill: with ghost: original add aux_alpha: 0"},
        {"topk", "{ghost: original, aux_alpha: 0}", ONE, NULL},
        {"matryoshka", "{ghost: original, aux_alpha: 0}", ONE, NULL},
        {"relu", "ghost: original", ONE, NULL}, /* has no auxiliary term unless aux_k is said */
        {"relu", "{ghost: original, aux_k: 9}", ONE, "two remedies"},
        {"relu", "ghost: prisma", ONE, "needs prisma_compat: true"},
        {"relu", "{ghost: prisma, prisma_compat: true}", ONE, NULL},
        {"topk", "resample: loss", ONE, "resample: loss needs resample_every, in steps"},
        {"topk", "resample_every: 100", ONE, "resample_every is 100 but resample is none"},
        {"topk", "{resample: data, resample_every: 100}", ONE, NULL},
        {"topk", "{resample: loss, resample_every: 9, decoder: archetypal}", ONE, NULL},
    };
    ASSERT_ALL(cases);
}

static void transcoders_have_rules_of_their_own(void **state)
{
    (void)state;
    static const refusal cases[] = {
        {"topk", "skip: true", ONE, "would learn the identity"},
        {"topk", "skip: true", SITES, "would learn the identity"},
        {"topk", "{skip: true, w_enc: independent}", ACROSS,
         "skip: the input is 8 wide and the target 6, and only equal widths can be skipped"},
        {"topk", "skip: true", BESIDE, NULL},
        {"topk", "subtract: yes", BESIDE, "subtract: the decoder's bias of a transcoder"},
        {"topk", "subtract: no", BESIDE, NULL},
        {"topk", "subtract: yes", SITES, NULL},
        {"topk", "{}", ACROSS,
         "w_enc: tied, but the input is 8 wide and the target 6: add w_enc: independent"},
        {"topk", "w_enc: independent", ACROSS, NULL},
        {"topk", "{}", BESIDE, NULL},
        {"relu", "{w_enc: independent, decoder: archetypal}", ACROSS, NULL},
    };
    ASSERT_ALL(cases);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(k_and_sizes_must_fit),
        cmocka_unit_test(unknown_architectures_and_huge_dictionaries_are_refused),
        cmocka_unit_test(penalties_are_of_those_who_have_them),
        cmocka_unit_test(what_is_of_one_architecture_is_refused_elsewhere),
        cmocka_unit_test(one_remedy_for_dead_latents_is_enough),
        cmocka_unit_test(transcoders_have_rules_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
