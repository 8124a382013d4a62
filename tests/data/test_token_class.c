/* Token classes: their names and their rows at each kind of hook point. */
#include "refract/data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const rf_vit_config with_registers = {.name = "tiny-registers",
                                             .n_patches = 9,
                                             .n_prefix = 5,
                                             .n_registers = 4,
                                             .n_tokens = 14,
                                             .has_cls = true};
static const rf_vit_config bare = {.name = "bare", .n_patches = 9, .n_tokens = 9};

static rf_hook_point point(const char *name, rf_hook_shape shape)
{
    rf_hook_point p = {.shape = shape, .width = 8};
    assert_int_equal(rf_format(p.name, sizeof p.name, "%s", name), RF_OK);
    return p;
}

static void assert_rows(const rf_vit_config *config, rf_hook_shape shape, rf_token_class tokens,
                        int64_t first, int64_t n_rows)
{
    rf_hook_point p = point("hook_x", shape);
    int64_t got_first = -1, got_n = -1;
    assert_int_equal(rf_token_class_rows(config, &p, tokens, &got_first, &got_n), RF_OK);
    assert_int_equal(got_first, first);
    assert_int_equal(got_n, n_rows);
}

static void rows_know_their_class(void **state)
{
    (void)state;
    const rf_vit_config distilled = {.name = "distilled",
                                     .n_patches = 4,
                                     .n_prefix = 2,
                                     .n_tokens = 6,
                                     .has_cls = true,
                                     .has_distilled = true};
    const rf_hook_point tokens = point("t", RF_HOOK_TOKENS), heads = point("z", RF_HOOK_HEADS);
    const rf_hook_point patches = point("e", RF_HOOK_PATCHES), pooled = point("p", RF_HOOK_POOLED);
    for (int64_t t = 0; t < 14; t++) {
        rf_token_class expected = t == 0  ? RF_TOKENS_CLS
                                  : t < 5 ? RF_TOKENS_REGISTER
                                          : RF_TOKENS_PATCH;
        assert_int_equal(rf_token_class_of_row(&with_registers, &tokens, t), expected);
        assert_int_equal(rf_token_class_of_row(&with_registers, &heads, t), expected);
    }
    assert_int_equal(rf_token_class_of_row(&with_registers, &patches, 0), RF_TOKENS_PATCH);
    assert_int_equal(rf_token_class_of_row(&with_registers, &pooled, 0), RF_TOKENS_CLS);
    assert_int_equal(rf_token_class_of_row(&bare, &tokens, 0), RF_TOKENS_PATCH);
    assert_int_equal(rf_token_class_of_row(&distilled, &tokens, 1), RF_TOKENS_CLS);
    assert_int_equal(rf_token_class_of_row(&distilled, &tokens, 2), RF_TOKENS_PATCH);
}

static void assert_refused(const rf_vit_config *config, const char *name, rf_hook_shape shape,
                           rf_token_class tokens, const char *said)
{
    rf_hook_point p = point(name, shape);
    int64_t first, n_rows;
    assert_int_equal(rf_token_class_rows(config, &p, tokens, &first, &n_rows), RF_ERR_SETTING);
    assert_non_null(strstr(rf_error_text(), said));
    assert_int_equal(n_rows, 0);
}

static void names_are_read_and_spatial_means_patch(void **state)
{
    (void)state;
    rf_token_class c = RF_TOKENS_ALL;
    for (int i = 0; rf_token_class_names[i] != NULL; i++) {
        assert_int_equal(rf_token_class_parse(rf_token_class_names[i], &c), RF_OK);
        assert_int_equal(c, i);
    }
    assert_int_equal(c, RF_TOKENS_POOLED);
    assert_int_equal(rf_token_class_parse("spatial", &c), RF_OK);
    assert_int_equal(c, RF_TOKENS_PATCH);
    assert_int_equal(rf_token_class_parse("CLS", &c), RF_ERR_SETTING);
    assert_non_null(strstr(rf_error_text(), "register"));
    assert_int_equal(rf_token_class_parse("", &c), RF_ERR_SETTING);
}

static void classes_partition_the_tokens(void **state)
{
    (void)state;
    const rf_hook_shape shapes[] = {RF_HOOK_TOKENS, RF_HOOK_HEADS};
    for (int i = 0; i < 2; i++) {
        assert_rows(&with_registers, shapes[i], RF_TOKENS_ALL, 0, 14);
        assert_rows(&with_registers, shapes[i], RF_TOKENS_CLS, 0, 1);
        assert_rows(&with_registers, shapes[i], RF_TOKENS_REGISTER, 1, 4);
        assert_rows(&with_registers, shapes[i], RF_TOKENS_PATCH, 5, 9);
        assert_rows(&bare, shapes[i], RF_TOKENS_ALL, 0, 9);
        assert_rows(&bare, shapes[i], RF_TOKENS_PATCH, 0, 9);
    }
}

static void classes_that_a_model_lacks_are_refused(void **state)
{
    (void)state;
    assert_refused(&bare, "hook_x", RF_HOOK_TOKENS, RF_TOKENS_CLS, "'bare' has no CLS");
    assert_refused(&bare, "hook_x", RF_HOOK_TOKENS, RF_TOKENS_REGISTER, "no registers");
}

static void the_patch_embedding_has_patches_only(void **state)
{
    (void)state;
    assert_rows(&with_registers, RF_HOOK_PATCHES, RF_TOKENS_ALL, 0, 9);
    assert_rows(&with_registers, RF_HOOK_PATCHES, RF_TOKENS_PATCH, 0, 9);
    assert_refused(&with_registers, "hook_embed", RF_HOOK_PATCHES, RF_TOKENS_CLS,
                   "'hook_embed' has patches only");
    assert_refused(&with_registers, "hook_embed", RF_HOOK_PATCHES, RF_TOKENS_POOLED, "patch");
}

static void pooled_is_the_one_row_of_its_point(void **state)
{
    (void)state;
    assert_rows(&with_registers, RF_HOOK_POOLED, RF_TOKENS_POOLED, 0, 1);
    assert_rows(&with_registers, RF_HOOK_POOLED, RF_TOKENS_ALL, 0, 1);
    assert_refused(&with_registers, "hook_pooled", RF_HOOK_POOLED, RF_TOKENS_PATCH,
                   "use tokens pooled");
    assert_refused(&with_registers, "blocks.0.hook_resid_post", RF_HOOK_TOKENS, RF_TOKENS_POOLED,
                   "use input hook_pooled");
}

static void patterns_are_refused(void **state)
{
    (void)state;
    for (int c = RF_TOKENS_ALL; c <= RF_TOKENS_POOLED; c++) {
        assert_refused(&with_registers, "blocks.0.attn.hook_pattern", RF_HOOK_PATTERN,
                       (rf_token_class)c, "patterns");
    }
}

static void a_patch_knows_its_place_in_the_grid(void **state)
{
    (void)state;
    const rf_vit_config video = {.name = "video",
                                 .grid = {2, 2, 3},
                                 .n_patches = 12,
                                 .n_prefix = 3,
                                 .n_registers = 2,
                                 .n_tokens = 15,
                                 .has_cls = true};
    const rf_hook_point resid = {.shape = RF_HOOK_TOKENS}, embed = {.shape = RF_HOOK_PATCHES};
    const struct {
        const rf_hook_point *point;
        int64_t row;
        int32_t at[3];
    } rows[] = {{&resid, 0, {-1, -1, -1}}, {&resid, 2, {-1, -1, -1}}, {&resid, 3, {0, 0, 0}},
                {&resid, 5, {0, 0, 2}},    {&resid, 6, {0, 1, 0}},    {&resid, 9, {1, 0, 0}},
                {&resid, 14, {1, 1, 2}},   {&embed, 0, {0, 0, 0}},    {&embed, 11, {1, 1, 2}}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int32_t at[3];
        rf_token_position_of_row(&video, rows[i].point, rows[i].row, at);
        assert_memory_equal(at, rows[i].at, sizeof at);
    }
}

static void tokens_of_a_store_need_hooks(void **state)
{
    (void)state;
    rf_activations_settings settings;
    assert_int_equal(rf_settings_defaults(&rf_activations_settings_table, &settings), RF_OK);
    assert_int_equal(settings.source, RF_ACTIVATIONS_LIVE);
    assert_int_equal(settings.group_pictures, 16);
    assert_int_equal(settings.pool_groups, 16);
    assert_int_equal(rf_activations_settings_check(&settings), RF_OK);
    settings.tokens = RF_TOKENS_CLS;
    assert_int_equal(rf_activations_settings_check(&settings), RF_ERR_SETTING);
    assert_int_equal(rf_format(settings.hooks, sizeof settings.hooks, "ln_final"), RF_OK);
    assert_int_equal(rf_activations_settings_check(&settings), RF_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_read_and_spatial_means_patch),
        cmocka_unit_test(rows_know_their_class),
        cmocka_unit_test(classes_partition_the_tokens),
        cmocka_unit_test(classes_that_a_model_lacks_are_refused),
        cmocka_unit_test(the_patch_embedding_has_patches_only),
        cmocka_unit_test(pooled_is_the_one_row_of_its_point),
        cmocka_unit_test(patterns_are_refused),
        cmocka_unit_test(a_patch_knows_its_place_in_the_grid),
        cmocka_unit_test(tokens_of_a_store_need_hooks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
