/* The registry: every name has a config, of the right size. */
#include "refract/vit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

static void assert_ok(rf_status status)
{
    if (status != RF_OK) {
        fail_msg("%s: %s", rf_error_place(), rf_error_text());
    }
}

static rf_vit_config config_of(const char *name)
{
    const rf_model *m = NULL;
    rf_vit_config c = {0};
    assert_ok(rf_registry_find(name, &m));
    assert_ok(rf_registry_config(m, &c));
    return c;
}

static void test_every_name_has_a_config_or_a_reason(void **state)
{
    (void)state;
    assert_true(rf_registry_count() >= 86);
    for (int64_t i = 0; i < rf_registry_count(); i++) {
        const rf_model *m = rf_registry_at(i), *found = NULL;
        rf_vit_config c = {0};
        rf_hook_point *points = NULL;
        int64_t n = 0;
        assert_ok(rf_registry_find(m->name, &found));
        assert_ptr_equal(m, found);
        assert_true(m->repo != NULL || m->note[0] != '\0');
        if (m->arch == NULL) {
            assert_int_equal(rf_registry_config(m, &c), RF_ERR_UNSUPPORTED);
            continue;
        }
        assert_ok(rf_registry_config(m, &c));
        assert_string_equal(c.name, m->name);
        assert_int_equal(c.d_head * c.n_heads, c.d_model);
        assert_true(c.n_layers > 0 && c.d_mlp > 0 && c.n_patches > 0 && c.eps > 0.0f);
        assert_ok(rf_vit_hook_list(&c, &points, &n));
        assert_true(n > c.n_layers);
        rf_free(points);
    }
    assert_null(rf_registry_at(-1));
    assert_null(rf_registry_at(rf_registry_count()));
}

static void test_names_are_found_and_near_misses_named(void **state)
{
    (void)state;
    const rf_model *m = NULL;
    assert_ok(rf_registry_find("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", &m)); /* by repo */
    assert_string_equal(m->name, "open-clip:laion/CLIP-ViT-B-32-laion2B-s34B-b79K");
    assert_int_equal(rf_registry_find("facebook/dinov2-smal", &m), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "facebook/dinov2-small"));
    assert_int_equal(rf_registry_find("", &m), RF_ERR_NOT_FOUND);
}

/* Where ViT-Prisma's own registry has other sizes: the models' files decide. */
static void test_sizes_are_those_of_the_models_and_not_those_of_prisma(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t d_model, n_layers, n_heads, d_mlp, n_tokens, d_out;
        rf_act act;
    } models[] = {
        {"open-clip:timm/vit_medium_patch16_clip_224.tinyclip_yfcc15m", 512, 12, 8, 2048, 197, 512,
         RF_ACT_GELU},
        {"open-clip:timm/vit_betwixt_patch32_clip_224.tinyclip_laion400m", 640, 12, 10, 2560, 50,
         512, RF_ACT_GELU},
        {"open-clip:timm/vit_xsmall_patch16_clip_224.tinyclip_yfcc15m", 256, 10, 4, 1024, 197, 512,
         RF_ACT_GELU},
        {"open-clip:timm/vit_gigantic_patch14_clip_224.metaclip_2pt5b", 1664, 48, 16, 8192, 257,
         1280, RF_ACT_QUICK_GELU},
        {"open-clip:timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k", 1024, 24, 16, 2730, 257,
         768, RF_ACT_SILU},
        {"open-clip:timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k", 768, 12, 12, 2048, 197,
         512, RF_ACT_SILU},
        {"open-clip:timm/eva02_enormous_patch14_clip_224.laion2b_s4b_b115k", 1792, 64, 16, 15360,
         257, 1024, RF_ACT_GELU},
        {"open-clip:timm/eva_giant_patch14_clip_224.laion400m_s11b_b41k", 1408, 40, 16, 6144, 257,
         1024, RF_ACT_GELU},
        {"open-clip:laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 1280, 32, 16, 5120, 257, 1024,
         RF_ACT_GELU},
        {"open-clip:laion/CLIP-ViT-g-14-laion2B-s34B-b88K", 1408, 40, 16, 6144, 257, 1024,
         RF_ACT_GELU},
        {"open-clip:laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", 1664, 48, 16, 8192, 257, 1280,
         RF_ACT_GELU},
        {"open-clip:laion/CoCa-ViT-L-14-laion2B-s13B-b90k", 1024, 24, 16, 4096, 257, 768,
         RF_ACT_GELU},
        {"open-clip:timm/vit_base_patch16_plus_clip_240.laion400m_e32", 896, 12, 14, 3584, 226, 640,
         RF_ACT_GELU},
        {"openai/clip-vit-large-patch14-336", 1024, 24, 16, 4096, 577, 768, RF_ACT_QUICK_GELU},
        {"google/vivit-b-16x2-kinetics400", 768, 12, 12, 3072, 3137, 768, RF_ACT_GELU_TANH},
        {"facebook/dino-vits8", 384, 12, 6, 1536, 785, 384, RF_ACT_GELU},
        {"facebook/dinov2-giant", 1536, 40, 24, 4096, 1370, 1536, RF_ACT_SILU},
        {"facebook/dinov2-with-registers-base", 768, 12, 12, 3072, 1374, 768, RF_ACT_GELU},
        {"facebook/dinov3-vit7b16-pretrain-lvd1689m", 4096, 40, 32, 8192, 201, 4096, RF_ACT_SILU},
        {"google/siglip-so400m-patch14-384", 1152, 27, 16, 4304, 729, 1152, RF_ACT_GELU_TANH},
        {"google/siglip2-so400m-patch16-naflex", 1152, 27, 16, 4304, 256, 1152, RF_ACT_GELU_TANH},
        {"vit_pe_core_large_patch14_336", 1024, 24, 16, 4096, 577, 1024, RF_ACT_GELU},
        {"facebook/vjepa2-vitg-fpc64-384", 1408, 40, 22, 6144, 18432, 1408, RF_ACT_GELU},
        {"vjepa_v1_vit_huge", 1280, 32, 16, 5120, 1568, 1280, RF_ACT_GELU},
        {"MCG-NJU/videomae-base", 768, 12, 12, 3072, 1568, 768, RF_ACT_GELU},
        {"kandinsky", 1024, 24, 16, 4096, 257, 768, RF_ACT_QUICK_GELU},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const rf_vit_config c = config_of(models[i].name);
        if (c.d_model != models[i].d_model || c.n_layers != models[i].n_layers ||
            c.n_heads != models[i].n_heads || c.d_mlp != models[i].d_mlp ||
            c.n_tokens != models[i].n_tokens || c.d_out != models[i].d_out ||
            c.act != models[i].act) {
            fail_msg("%s: %d / %d / %d / %d, %d tokens, %d out, act %d", models[i].name,
                     (int)c.d_model, (int)c.n_layers, (int)c.n_heads, (int)c.d_mlp, (int)c.n_tokens,
                     (int)c.d_out, (int)c.act);
        }
    }
}

static void test_switches_are_those_of_the_models(void **state)
{
    (void)state;
    rf_vit_config c = config_of("open-clip:timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k");
    assert_true(c.is_gated && c.has_attn_norm && c.has_mlp_norm && c.rope == RF_ROPE_GRID);
    assert_int_equal(c.rope_ref_side, 16);
    c = config_of("open-clip:timm/eva02_enormous_patch14_clip_224.laion2b_s4b_b115k");
    assert_true(c.norm_place == RF_NORM_BEHIND && c.rope == RF_ROPE_NONE && !c.is_gated);
    c = config_of("open-clip:laion/CoCa-ViT-B-32-laion2B-s13B-b90k");
    assert_true(c.pool == RF_POOL_ATTENTION && c.norm_is_behind_pool && c.d_pool == 512);
    assert_int_equal(c.n_pool_heads, 8);
    c = config_of("vit_pe_core_base_patch16_224");
    assert_true(c.pool == RF_POOL_ATTENTION && c.rope_is_xy && c.has_ln_pre && c.d_pool_mlp > 0);
    c = config_of("facebook/deit-base-distilled-patch16-224");
    assert_true(c.has_distilled && c.head_input == RF_HEAD_CLS_AND_DISTILLED && c.n_prefix == 2);
    c = config_of("microsoft/beit-base-patch16-224");
    assert_true(c.score_bias == RF_SCORES_RELATIVE && !c.has_position && c.norm_is_behind_pool);
    c = config_of("vit_base_patch16_224");
    assert_true(c.n_classes == 1000 && c.pool == RF_POOL_CLS && c.eps == 1e-6f);
}

static void test_architectures_have_configs_by_name(void **state)
{
    (void)state;
    rf_vit_config c;
    assert_ok(rf_registry_arch_config("ViT-L-14-quickgelu", &c));
    assert_int_equal(c.act, RF_ACT_QUICK_GELU);
    assert_ok(rf_registry_arch_config("dinov2", &c)); /* a family: its library's defaults */
    assert_int_equal(c.d_model, 768);
    assert_int_equal(rf_registry_arch_config("vit_base_patch16_225", &c), RF_ERR_UNSUPPORTED);
    assert_non_null(strstr(rf_error_text(), "vit_base_patch16_224"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_name_has_a_config_or_a_reason),
        cmocka_unit_test(test_names_are_found_and_near_misses_named),
        cmocka_unit_test(test_sizes_are_those_of_the_models_and_not_those_of_prisma),
        cmocka_unit_test(test_switches_are_those_of_the_models),
        cmocka_unit_test(test_architectures_have_configs_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
