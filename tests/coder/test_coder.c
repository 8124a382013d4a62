/* Coders: table, settings, state. */
#include "coder/coder_fixture.h"

static rf_backend *be;
static rf_stream *s;

static rf_coder *make(const char *architecture, int64_t width, int64_t latents, int64_t k)
{
    rf_coder_settings settings = fixture_settings(architecture, latents, k);
    rf_coder_shape shape = rf_coder_shape_of(width);
    rf_coder *coder = NULL;
    OK(rf_coder_create(be, &settings, &shape, &coder));
    return coder;
}

/* ---- settings ---------------------------------------------------------------------------------
 */

static void every_architecture_can_be_chosen_by_its_name(void **state)
{
    (void)state;
    const rf_settings_table *t = &rf_coder_settings_table;
    const char *const *choices = NULL;
    int n = 0;
    for (int64_t i = 0; i < t->n_rows; i++) {
        if (strcmp(t->rows[i].key, "architecture") == 0) {
            choices = t->rows[i].choices;
        }
    }
    assert_non_null(choices);
    while (choices[n] != NULL) {
        assert_ptr_equal(rf_architecture_find(choices[n]), rf_architecture_at(n));
        assert_string_equal(rf_architecture_at(n)->name, choices[n]);
        n++;
    }
    assert_int_equal(n, rf_architecture_count());
    assert_null(rf_architecture_at(n));
    assert_null(rf_architecture_at(-1));
    assert_null(rf_architecture_find("mlp"));
}

static rf_status read_map(const char *text, rf_coder_settings *settings)
{
    rf_yaml *map = NULL;
    OK(rf_yaml_parse(text, (int64_t)strlen(text), "test", &map));
    OK(rf_settings_defaults(&rf_coder_settings_table, settings));
    rf_status status =
        rf_settings_read(&rf_coder_settings_table, map, "coders", NULL, settings, NULL);
    rf_yaml_free(map);
    return status;
}

static void settings_read_as_people_write_them(void **state)
{
    (void)state;
    rf_coder_settings settings;
    OK(rf_settings_defaults(&rf_coder_settings_table, &settings));
    assert_int_equal(rf_coder_token_class(&settings), RF_TOKENS_ALL);
    OK(read_map("name: a\ninput: [blocks.8.hook_resid_post, 'other:blocks.2.hook_mlp_out']\n"
                "target: blocks.9.hook_resid_post\ntokens: spatial\n"
                "architecture: jumprelu\nexpansion: 64\nl1: 0.01\nk: {cls: 256, spatial: 64}\n"
                "dead_after_tokens: 1.5e6\nb_dec: mean\nsubtract: no\nnormalise: layer\n"
                "penalty: target_l0\ndecoder: archetypal\nghost: original\nresample: data\n"
                "products: bf16\nselection: topk\nw_enc: independent\n",
                &settings));
    assert_string_equal(settings.input, "blocks.8.hook_resid_post, other:blocks.2.hook_mlp_out");
    assert_string_equal(settings.target, "blocks.9.hook_resid_post");
    assert_int_equal(rf_coder_token_class(&settings), RF_TOKENS_PATCH);
    assert_string_equal(rf_architecture_at(settings.architecture)->name, "jumprelu");
    assert_int_equal(rf_coder_settings_latents(&settings, 384), 64 * 384);
    assert_int_equal(settings.dead_after_tokens, 1500000);
    assert_int_equal(settings.b_dec, RF_B_DEC_MEAN);
    assert_int_equal(settings.subtract, RF_SUBTRACT_NO);
    assert_int_equal(settings.normalise, RF_NORM_LAYER);
    assert_int_equal(settings.penalty, RF_PENALTY_CHOICE_TARGET_L0);
    assert_int_equal(settings.decoder, RF_DECODER_ARCHETYPAL);
    assert_int_equal(settings.ghost, RF_GHOST_ORIGINAL);
    assert_int_equal(settings.resample, RF_RESAMPLE_DATA);
    assert_int_equal(settings.selection, RF_SELECTION_TOPK);
    assert_int_equal(settings.w_enc, RF_W_ENC_INDEPENDENT);
    assert_int_equal(settings.products, 1);
    assert_int_equal(settings.k.of[0], 256);
    assert_int_equal(settings.k.of[1], 0);
    assert_int_equal(settings.k.of[2], 64);
    settings.latents = 100;
    assert_int_equal(rf_coder_settings_latents(&settings, 384), 100);
}

/* The defaults that runs of earlier versions were made with. */
static void the_defaults_are_a_topk_coder(void **state)
{
    (void)state;
    rf_coder_settings t;
    OK(read_map("input: a\n", &t));
    assert_string_equal(rf_architecture_at(t.architecture)->name, "topk");
    assert_true(t.expansion == 16 && t.latents == 0 && rf_k_max(&t.k) == 32 && t.k.any == 32);
    assert_true(t.l1 == 1e-3 && t.aux_alpha == 0.03125 && t.aux_k == 0);
    assert_true(t.dead_after_tokens == 10000000 && t.seed == 0 && t.k_start == 1.0);
    assert_true(t.decoder == RF_DECODER_UNIT && t.w_enc == RF_W_ENC_TIED && t.normalise == 0);
    assert_true(t.penalty == RF_PENALTY_CHOICE_AUTO && t.subtract == RF_SUBTRACT_AUTO);
    assert_true(t.ghost == RF_GHOST_NONE && t.resample == RF_RESAMPLE_NONE);
    assert_true(t.products == 0 && !t.skip && !t.prisma_compat && t.data_blend == 0.0);
    assert_string_equal(t.target, "");
}

static void every_setting_survives_a_round_trip(void **state)
{
    (void)state;
    const rf_settings_table *t = &rf_coder_settings_table;
    rf_coder_settings a, b;
    rf_str text = {0}, again = {0};
    OK(read_map("name: 'x y'\ninput: [a, 'm:b']\nk: {any: 3, register: 9}\np_end: 0.3\n", &a));
    a.decoder = RF_DECODER_FREE;
    a.random_prefixes = true;
    a.bandwidth = 1.0 / 3.0;
    OK(rf_settings_write_yaml(t, &a, 0, &text));
    OK(read_map(text.data, &b));
    OK(rf_settings_write_yaml(t, &b, 0, &again));
    assert_string_equal(text.data, again.data);
    assert_true(b.bandwidth == a.bandwidth && b.random_prefixes && b.k.of[1] == 9 && b.k.any == 3);
    assert_string_equal(b.input, "a, m:b");
    rf_str_fini(&again);
    rf_str_fini(&text);
}

static void every_setting_teaches_what_it_is(void **state)
{
    (void)state;
    const rf_settings_table *t = &rf_coder_settings_table;
    for (int64_t i = 0; i < t->n_rows; i++) {
        const rf_setting *row = &t->rows[i];
        assert_true(strlen(row->help) > 20 && row->help[strlen(row->help) - 1] == '.');
        assert_non_null(row->unit);
        for (int64_t j = 0; j < i; j++) {
            assert_string_not_equal(t->rows[j].key, row->key);
            assert_int_not_equal(t->rows[j].offset, row->offset);
        }
    }
}

static void token_classes_have_the_numbers_of_the_stream(void **state)
{
    (void)state;
    const rf_settings_table *t = &rf_coder_settings_table;
    for (int64_t i = 0; i < t->n_rows; i++) {
        for (int c = 0; strcmp(t->rows[i].key, "tokens") == 0 && t->rows[i].choices[c] != NULL;
             c++) {
            rf_token_class want;
            rf_coder_settings settings = {.tokens = c};
            OK(rf_token_class_parse(t->rows[i].choices[c], &want));
            assert_int_equal(rf_coder_token_class(&settings), want);
        }
    }
}

static void sites_are_read_from_their_list(void **state)
{
    (void)state;
    char out[RF_MAX_SITES][RF_NAME_LEN], many[RF_SITES_LEN] = "", wide[300];
    assert_int_equal(rf_coder_sites("", out), 0);
    assert_int_equal(rf_coder_sites("blocks.1.hook_resid_post", out), 1);
    assert_string_equal(out[0], "blocks.1.hook_resid_post");
    assert_int_equal(rf_coder_sites("a, m:b, c", out), 3);
    assert_string_equal(out[1], "m:b");
    assert_string_equal(out[2], "c");
    for (int i = 0; i < RF_MAX_SITES + 3; i++) {
        size_t used = strlen(many);
        snprintf(many + used, sizeof many - used, "%s", i == 0 ? "s" : ", s");
    }
    assert_int_equal(rf_coder_sites(many, out), RF_MAX_SITES); /* never past the end */
    memset(wide, 'w', sizeof wide);
    wide[sizeof wide - 1] = '\0';
    assert_int_equal(rf_coder_sites(wide, out), 1);
    assert_int_equal(strlen(out[0]), RF_NAME_LEN - 1);
}

static void k_of_a_class_is_its_own_or_any_or_the_largest(void **state)
{
    (void)state;
    rf_k_by_class one = {.any = 8}, two = {.of = {16, 0, 4}}, both = {.any = 2, .of = {16, 0, 4}};
    assert_int_equal(rf_k_of(&one, RF_TOKENS_PATCH), 8);
    assert_int_equal(rf_k_of(&one, RF_TOKENS_ALL), 8);
    assert_int_equal(rf_k_of(&one, RF_TOKENS_POOLED), 8);
    assert_int_equal(rf_k_of(&two, RF_TOKENS_CLS), 16);
    assert_int_equal(rf_k_of(&two, RF_TOKENS_PATCH), 4);
    assert_int_equal(rf_k_of(&two, RF_TOKENS_REGISTER), 16);
    assert_int_equal(rf_k_of(&two, RF_TOKENS_ALL), 16);
    assert_int_equal(rf_k_of(&both, RF_TOKENS_REGISTER), 2);
    assert_int_equal(rf_k_of(&both, RF_TOKENS_ALL), 16);
    assert_int_equal(rf_k_max(&two), 16);
}

/* ---- table ------------------------------------------------------------------------------------
 */

enum { D = 6, F = 20 };

static rf_coder *make_of(rf_coder_settings settings, const rf_coder_shape *shape)
{
    rf_coder *coder = NULL;
    OK(rf_coder_create(be, &settings, shape, &coder));
    return coder;
}

/* The coder has just the tensors of `want`, in order, and of these shapes. */
static void assert_tensors(rf_coder *coder, const char *want)
{
    char have[1024] = "";
    size_t used = 0;
    for (int i = 0; i < rf_coder_n_tensors(coder); i++) {
        rf_coder_tensor t = rf_coder_tensor_at(coder, i);
        assert_int_equal(t.view.data != NULL, rf_coder_has(coder, i));
        assert_true((uintptr_t)t.view.data % 64 == 0);
        if (!rf_coder_has(coder, i)) {
            assert_int_equal(rf_view_n_elems(&t.view), 0); /* loops over elements do nothing */
            continue;
        }
        used +=
            (size_t)snprintf(have + used, sizeof have - used, "%s%s", used > 0 ? " " : "", t.name);
        for (int j = 0; j < t.view.n_dims; j++) {
            used += (size_t)snprintf(have + used, sizeof have - used, "%c%d", j == 0 ? ':' : 'x',
                                     (int)t.view.shape[j]);
        }
    }
    assert_string_equal(have, want);
    rf_coder_destroy(coder);
}

#define STATE "tokens_since_fired:20 scalars:8 counters:9"

static void each_architecture_has_its_tensors(void **state)
{
    (void)state;
    static const char plain[] = "W_enc:20x6 b_enc:20 W_dec:20x6 b_dec:6 " STATE;
    static const struct {
        const char *architecture, *want;
    } cases[] = {
        {"topk", plain},
        {"multi_topk", plain},
        {"batch_topk", plain},
        {"matryoshka", plain},
        {"relu", plain},
        {"p_anneal", plain},
        {"jumprelu", "W_enc:20x6 b_enc:20 W_dec:20x6 b_dec:6 log_threshold:20 " STATE},
        {"gated", "W_enc:20x6 b_enc:20 W_dec:20x6 b_dec:6 gain:20 b_mag:20 " STATE},
    };
    assert_int_equal(sizeof cases / sizeof cases[0], rf_architecture_count());
    assert_int_equal(RF_CODER_N_SCALARS, 8);
    assert_int_equal(RF_CODER_N_COUNTERS, 9);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rf_coder *coder = make(cases[i].architecture, D, F, 3);
        assert_string_equal(rf_coder_architecture(coder)->name, cases[i].architecture);
        assert_tensors(coder, cases[i].want);
    }
    rf_coder_destroy(NULL);
}

static void options_and_shapes_bring_their_tensors(void **state)
{
    (void)state;
    rf_coder_shape one = rf_coder_shape_of(D);
    rf_coder_shape across = {.n_in = 1, .in = {D}, .n_out = 2, .out = {3, 5}};
    rf_coder_shape beside = {.n_in = 1, .in = {D}, .n_out = 1, .out = {D}};
    rf_coder_shape sites = {.n_in = 3, .in = {2, 3, 4}};
    rf_coder_settings t = fixture_settings("topk", F, 3);
    t.normalise = RF_NORM_AVERAGE;
    assert_tensors(make_of(t, &one),
                   "W_enc:20x6 b_enc:20 W_dec:20x6 b_dec:6 " STATE " in_shift:6 in_scale:6");
    t.w_enc = RF_W_ENC_INDEPENDENT;
    assert_tensors(make_of(t, &across), "W_enc:20x6 b_enc:20 W_dec:20x8 b_dec:8 " STATE
                                        " in_shift:6 in_scale:6 out_shift:8 out_scale:8");
    t.normalise = RF_NORM_LAYER;
    t.skip = true;
    assert_tensors(make_of(t, &beside), "W_enc:20x6 b_enc:20 W_dec:20x6 b_dec:6 W_skip:6x6 " STATE);
    t.skip = false;
    assert_tensors(make_of(t, &sites), "W_enc:20x9 b_enc:20 W_dec:20x9 b_dec:9 " STATE);
    t.decoder = RF_DECODER_ARCHETYPAL;
    t.archetypal_points = 7;
    assert_tensors(make_of(t, &across),
                   "W_enc:20x6 b_enc:20 W_dec:20x8 b_dec:8 archetypes:20x7 archetype_offsets:20x8 "
                   "archetype_scale:1 " STATE " points:7x8");
}

static void kinds_and_rules_follow_the_decoder(void **state)
{
    (void)state;
    rf_coder_shape shape = rf_coder_shape_of(D);
    rf_coder_settings t = fixture_settings("relu", F, 3);
    rf_coder *unit = make_of(t, &shape);
    t.decoder = RF_DECODER_FREE;
    rf_coder *with_free = make_of(t, &shape);
    t.decoder = RF_DECODER_ARCHETYPAL;
    t.archetypal_delta = 0.25;
    rf_coder *archetypal = make_of(t, &shape);
    for (int i = 0; i < RF_CODER_N_TENSORS; i++) {
        assert_int_equal(rf_coder_tensor_at(unit, i).kind == RF_TENSOR_PARAMETER,
                         i < RF_CODER_N_PARAMETERS);
        bool decays = i == RF_CODER_W_ENC || i == RF_CODER_W_DEC || i == RF_CODER_W_SKIP;
        assert_int_equal(rf_coder_tensor_at(unit, i).decay, decays);
    }
    assert_int_equal(rf_coder_tensor_at(unit, RF_CODER_W_DEC).rule, RF_ROW_UNIT_NORM);
    assert_int_equal(rf_coder_tensor_at(with_free, RF_CODER_W_DEC).rule, RF_ROW_FREE);
    rf_coder_tensor w_dec = rf_coder_tensor_at(archetypal, RF_CODER_W_DEC);
    assert_true(w_dec.kind == RF_TENSOR_STATE && w_dec.rule == RF_ROW_FREE && !w_dec.decay);
    rf_coder_tensor offsets = rf_coder_tensor_at(archetypal, RF_CODER_ARCHETYPE_OFFSETS);
    assert_true(offsets.rule == RF_ROW_BALL && offsets.radius == 0.25f);
    assert_int_equal(rf_coder_tensor_at(archetypal, RF_CODER_ARCHETYPES).rule, RF_ROW_SIMPLEX);
    rf_coder_destroy(archetypal);
    rf_coder_destroy(with_free);
    rf_coder_destroy(unit);
}

static void segments_are_the_sites(void **state)
{
    (void)state;
    rf_coder_shape sites = {.n_in = 3, .in = {2, 3, 4}};
    rf_coder_shape across = {.n_in = 1, .in = {D}, .n_out = 2, .out = {3, 5}};
    rf_coder_settings t = fixture_settings("topk", F, 3);
    rf_coder *cross = make_of(t, &sites);
    t.w_enc = RF_W_ENC_INDEPENDENT;
    rf_coder *trans = make_of(t, &across);
    rf_segments in = rf_coder_in_segments(cross), out = rf_coder_out_segments(cross);
    assert_true(in.n == 3 && in.end[0] == 2 && in.end[1] == 5 && in.end[2] == 9);
    assert_memory_equal(&in, &out, sizeof in);
    in = rf_coder_in_segments(trans);
    out = rf_coder_out_segments(trans);
    assert_true(in.n == 1 && in.end[0] == D && out.n == 2 && out.end[0] == 3 && out.end[1] == 8);
    assert_true(rf_coder_width(cross) == 9 && rf_coder_out_width(cross) == 9);
    assert_true(rf_coder_width(trans) == D && rf_coder_out_width(trans) == 8);
    assert_true(!rf_coder_is_transcoder(cross) && rf_coder_is_transcoder(trans));
    assert_memory_equal(rf_coder_get_shape(trans), &across, sizeof across);
    rf_coder_destroy(trans);
    rf_coder_destroy(cross);
}

static void only_one_site_that_reconstructs_itself_subtracts_b_dec(void **state)
{
    (void)state;
    rf_coder_shape shapes[] = {rf_coder_shape_of(D),
                               {.n_in = 2, .in = {3, 3}},
                               {.n_in = 1, .in = {D}, .n_out = 1, .out = {D}}};
    for (int i = 0; i < 3; i++) {
        for (int subtract = 0; subtract < 3; subtract++) {
            rf_coder_settings t = fixture_settings("topk", F, 3);
            t.subtract = subtract;
            if (i == 2 && subtract == RF_SUBTRACT_YES) {
                continue; /* refused */
            }
            rf_coder *coder = make_of(t, &shapes[i]);
            bool want = subtract == RF_SUBTRACT_YES || (subtract == RF_SUBTRACT_AUTO && i == 0);
            assert_int_equal(rf_coder_subtracts(coder), want);
            rf_coder_destroy(coder);
        }
    }
}

static void the_penalty_is_the_settings_or_the_architectures(void **state)
{
    (void)state;
    static const struct {
        const char *architecture;
        int choice, want;
    } cases[] = {
        {"topk", RF_PENALTY_CHOICE_AUTO, RF_PENALTY_NONE},
        {"matryoshka", RF_PENALTY_CHOICE_AUTO, RF_PENALTY_NONE},
        {"relu", RF_PENALTY_CHOICE_AUTO, RF_PENALTY_L1},
        {"relu", RF_PENALTY_CHOICE_LP, RF_PENALTY_NORM},
        {"relu", RF_PENALTY_CHOICE_TANH, RF_PENALTY_TANH},
        {"gated", RF_PENALTY_CHOICE_AUTO, RF_PENALTY_L1},
        {"p_anneal", RF_PENALTY_CHOICE_AUTO, RF_PENALTY_POWER},
        {"jumprelu", RF_PENALTY_CHOICE_AUTO, RF_PENALTY_L0},
        {"jumprelu", RF_PENALTY_CHOICE_TARGET_L0, RF_PENALTY_L0},
        {"jumprelu", RF_PENALTY_CHOICE_L1, RF_PENALTY_L1},
    };
    rf_coder_shape shape = rf_coder_shape_of(D);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rf_coder_settings t = fixture_settings(cases[i].architecture, F, 3);
        t.penalty = cases[i].choice;
        rf_coder *coder = make_of(t, &shape);
        assert_int_equal(rf_coder_penalty(coder), cases[i].want);
        rf_coder_destroy(coder);
    }
}

static void aux_k_is_near_half_the_target_and_of_topk_unless_said(void **state)
{
    (void)state;
    rf_coder_shape shape = rf_coder_shape_of(768);
    rf_coder_settings t = fixture_settings("topk", 1000, 3);
    rf_coder *topk = make_of(t, &shape);
    assert_int_equal(rf_coder_aux_k(topk, 1000), 512); /* log2(384) = 8.58 */
    assert_int_equal(rf_coder_aux_k(topk, 7), 7);
    assert_int_equal(rf_coder_aux_k(topk, 0), 0);
    rf_coder_destroy(topk);
    t.aux_alpha = 0.0;
    topk = make_of(t, &shape);
    assert_int_equal(rf_coder_aux_k(topk, 1000), 0);
    rf_coder_destroy(topk);
    t = fixture_settings("relu", 1000, 3);
    rf_coder *relu = make_of(t, &shape);
    assert_int_equal(rf_coder_aux_k(relu, 1000), 0);
    rf_coder_destroy(relu);
    t.aux_k = 9;
    relu = make_of(t, &shape);
    assert_int_equal(rf_coder_aux_k(relu, 1000), 9);
    rf_coder_destroy(relu);
}

/* ---- state ------------------------------------------------------------------------------------
 */

static void state_survives_a_round_trip(void **state)
{
    (void)state;
    rf_coder *coder = make("relu", D, F, 3);
    rf_coder_state a, b;
    OK(rf_coder_get_state(coder, s, &a));
    assert_int_equal(a.counters[RF_COUNTER_DENSE], 1);
    assert_true(a.scalars[RF_SCALAR_VARIANCE] == 1.0f);
    for (int i = 0; i < RF_CODER_N_SCALARS; i++) {
        a.scalars[i] = 0.5f + (float)i;
    }
    for (int i = 0; i < RF_CODER_N_COUNTERS; i++) {
        a.counters[i] = 100 + i;
    }
    OK(rf_coder_set_state(coder, s, &a));
    OK(rf_coder_get_state(coder, s, &b));
    assert_memory_equal(a.scalars, b.scalars, sizeof a.scalars);
    assert_memory_equal(a.counters, b.counters, sizeof a.counters);
    rf_coder_destroy(coder);
}

static void thresholds_are_exponentials(void **state)
{
    (void)state;
    rf_coder *coder = make("jumprelu", D, F, 3), *other = make("relu", D, F, 3);
    float theta[F], *log_theta = rf_coder_view(coder, RF_CODER_LOG_THRESHOLD).data;
    rf_view out = rf_view_1d(theta, F);
    rf_coder_state st = {.scalars = {[RF_SCALAR_RMS] = 8.0f}};
    for (int i = 0; i < F; i++) {
        log_theta[i] = 0.1f * (float)i - 1.0f;
    }
    OK(rf_coder_thresholds(coder, s, &out));
    for (int i = 0; i < F; i++) {
        assert_true(theta[i] == expf(log_theta[i]));
    }
    assert_true(rf_coder_bandwidth(coder, &st) == 0.05 * 8.0);
    assert_int_equal(rf_coder_thresholds(other, s, &out), RF_ERR_INVALID_ARG);
    out = rf_view_1d(theta, F - 1);
    assert_int_equal(rf_coder_thresholds(coder, s, &out), RF_ERR_INVALID_ARG);
    rf_coder_destroy(other);
    rf_coder_destroy(coder);
}

static int start(void **state)
{
    (void)state;
    return rf_backend_cpu_create(2, &be) == RF_OK && rf_stream_create(be, &s) == RF_OK ? 0 : -1;
}

static int finish(void **state)
{
    (void)state;
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    return rf_alloc_live() == 0 ? 0 : -1; /* nothing is left behind, also after errors */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_can_be_chosen_by_its_name),
        cmocka_unit_test(settings_read_as_people_write_them),
        cmocka_unit_test(the_defaults_are_a_topk_coder),
        cmocka_unit_test(every_setting_survives_a_round_trip),
        cmocka_unit_test(every_setting_teaches_what_it_is),
        cmocka_unit_test(token_classes_have_the_numbers_of_the_stream),
        cmocka_unit_test(sites_are_read_from_their_list),
        cmocka_unit_test(k_of_a_class_is_its_own_or_any_or_the_largest),
        cmocka_unit_test(each_architecture_has_its_tensors),
        cmocka_unit_test(options_and_shapes_bring_their_tensors),
        cmocka_unit_test(kinds_and_rules_follow_the_decoder),
        cmocka_unit_test(segments_are_the_sites),
        cmocka_unit_test(only_one_site_that_reconstructs_itself_subtracts_b_dec),
        cmocka_unit_test(the_penalty_is_the_settings_or_the_architectures),
        cmocka_unit_test(aux_k_is_near_half_the_target_and_of_topk_unless_said),
        cmocka_unit_test(state_survives_a_round_trip),
        cmocka_unit_test(thresholds_are_exponentials),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
