/* The parts of a run over several models and sites, on any number of ranks: what is opened, start
 * values, a run to its end, and what is refused with its reason. */
#include "run_case.h"

#include <math.h>

/* ---- settings ---------------------------------------------------------------------------------
 */

#define FOUR                                                                                       \
    "{clip: {path: %F/clip}, vit: {path: %F/vit}, twin: {path: %F/twin}, "                         \
    "registers: {path: %F/registers}}"

/* A coder of each kind: one site with k by class, a crosscoder, a transcoder to two targets, and
 * models of other grids by their CLS tokens. */
static const char *const coders =
    "coders:\n"
    "  - {name: one, input: blocks.1.hook_resid_post, tokens: all, k: {cls: 6, patch: 3}}\n"
    "  - {name: cross, input: [\"vit:blocks.{l}.hook_resid_post\", \"clip:blocks.0.hook_mlp_out\"],"
    " tokens: patch, k: 4, each: {l: [2]}}\n"
    "  - {name: trans, input: \"twin:blocks.0.hook_resid_mid\","
    " target: [\"twin:blocks.0.hook_mlp_out\", \"vit:blocks.0.hook_mlp_out\"],"
    " tokens: patch, k: 4, w_enc: independent}\n"
    "  - {name: classes, input: [\"clip:blocks.1.hook_resid_post\","
    " \"registers:blocks.1.hook_resid_post\"], tokens: cls, k: 3, batch_tokens: 11}\n";

static rf_run_settings *parse(const char *models, const char *text)
{
    rf_str yaml = {0};
    append_yaml(&yaml, "model: ");
    append_yaml(&yaml, models);
    append_yaml(&yaml, "\ndata: {path: " PICTURES "}\n"
                       "activations: {group_pictures: 4, pool_groups: 3}\n"
                       "train: {epochs: 3, batch_tokens: 60, lr: 1e-3, threads: 1, "
                       "sample_tokens: 64}\n"
                       "output: {dir: %F/run}\n");
    append_yaml(&yaml, text);
    rf_run_settings *s = parse_yaml(yaml.data);
    rf_str_fini(&yaml);
    return s;
}

/* All coders in one pass. */
static rf_status open_all(rf_training *t)
{
    rf_status status = rf_training_open(t);
    return status == RF_OK ? rf_training_open_pass(t, 0, t->settings->n_coders) : status;
}

/* ---- what is opened ---------------------------------------------------------------------------
 */

static void coders_have_the_widths_of_their_sites(void **state)
{
    (void)state;
    rf_run_settings *s = parse(FOUR, coders);
    rf_training t = {.comm = world, .settings = s, .saved_tick = -1};
    int64_t live = rf_alloc_live();
    rf_status status = open_all(&t);
    assert_on_all(status == RF_OK);
    static const int64_t in[4] = {24, 60, 24, 48}, out[4] = {24, 60, 60, 48};
    static const int n_in[4] = {1, 2, 1, 2}, n_out[4] = {0, 0, 2, 0};
    bool ok = t.n_vits == 4;
    for (int c = 0; c < 4; c++) {
        const rf_trained *x = &t.coders[c];
        ok = ok && x->n_in == n_in[c] && x->n_out == n_out[c];
        ok = ok && rf_coder_width(x->coder) == in[c] && rf_coder_out_width(x->coder) == out[c];
        ok = ok && rf_coder_is_transcoder(x->coder) == (n_out[c] > 0);
    }
    assert_on_all(ok);
    const rf_trained *cross = &t.coders[1], *trans = &t.coders[2];
    assert_on_all(cross->sites[0].model == 1 && cross->sites[1].model == 0 &&
                  cross->shape.in[0] == 36 && cross->shape.in[1] == 24 &&
                  strcmp(cross->sites[0].point.name, "blocks.2.hook_resid_post") == 0);
    assert_on_all(trans->sites[0].model == 2 && trans->sites[1].model == 2 &&
                  trans->sites[2].model == 1 && trans->shape.out[0] == 24 &&
                  trans->shape.out[1] == 36);
    uint64_t hash = rf_vit_hash(t.vits[0]);
    for (int m = 1; m < 4; m++) {
        uint64_t next = rf_vit_hash(t.vits[m]);
        hash = rf_hash(hash, &next, sizeof next);
    }
    assert_on_all(t.model_hash == hash);
    rf_training_close(&t);
    assert_on_all(rf_alloc_live() == live);
    rf_run_settings_free(s);
}

static void one_models_hash_is_its_own(void **state)
{
    (void)state;
    rf_run_settings *s = parse("{path: %F/clip}", "coder: {input: blocks.0.hook_resid_post}\n");
    rf_training t = {.comm = world, .settings = s, .saved_tick = -1};
    rf_status status = open_all(&t);
    assert_on_all(status == RF_OK && t.n_vits == 1 && t.model_hash == rf_vit_hash(t.vits[0]));
    rf_training_close(&t);
    rf_run_settings_free(s);
}

/* Bits of every parameter, and whether all are finite. */
static bool hash_parameters(const rf_training *t, uint64_t *hash)
{
    bool finite = true;
    *hash = RF_HASH_START;
    for (int64_t c = 0; c < t->settings->n_coders; c++) {
        for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
            const rf_view view = rf_coder_view(t->coders[c].coder, i);
            const float *x = view.data; /* the CPU backend: device memory is ours to read */
            const int64_t n = x != NULL ? rf_view_n_elems(&view) : 0;
            for (int64_t k = 0; k < n; k++) {
                finite = finite && isfinite(x[k]);
            }
            *hash = rf_hash(*hash, x, (size_t)n * sizeof *x);
        }
    }
    return finite;
}

static void start_values_are_the_same_on_every_rank(void **state)
{
    (void)state;
    rf_run_settings *s = parse(FOUR, coders);
    rf_training t = {.comm = world, .settings = s, .saved_tick = -1};
    uint64_t mine = 0, theirs = 0;
    rf_status status = open_all(&t);
    assert_on_all(status == RF_OK);
    status = rf_training_init_coders(&t);
    assert_on_all(status == RF_OK);
    bool finite = hash_parameters(&t, &mine);
    theirs = mine;
    assert_int_equal(rf_comm_bcast(world, &theirs, sizeof theirs, 0), RF_OK);
    assert_on_all(finite && mine == theirs);
    /* each target has moved its part of b_dec */
    const rf_view b_dec = rf_coder_view(t.coders[2].coder, RF_CODER_B_DEC);
    const float *b = b_dec.data;
    float left = 0, right = 0;
    for (int64_t i = 0; i < 60; i++) {
        *(i < 24 ? &left : &right) += fabsf(b[i]);
    }
    assert_on_all(left > 0 && right > 0);
    rf_training_close(&t);
    rf_run_settings_free(s);
}

static void a_run_over_several_models_comes_to_its_end(void **state)
{
    (void)state;
    rf_run_settings *s = parse(FOUR, coders);
    rf_train_report report = {0};
    rf_status status = rf_train_run(world, s, &report);
    assert_on_all(status == RF_OK);
    const int64_t n = 35 - report.n_bad_pictures; /* of PICTURES; all can be read */
    assert_on_all(!report.interrupted && report.n_failed == 0 && n == 35 && report.steps > 0);
    if (rf_comm_rank(world) == 0) {
        char dir[RF_PATH_LEN];
        assert_int_equal(rf_path_join(dir, folder, "run"), RF_OK);
        remove_below(dir);
    }
    assert_int_equal(rf_comm_barrier(world), RF_OK);
    rf_run_settings_free(s);
}

/* ---- what is refused --------------------------------------------------------------------------
 */

static void assert_refused(const char *models, const char *text, const char *const *words)
{
    rf_run_settings *s = parse(models, text);
    rf_training t = {.comm = world, .settings = s, .saved_tick = -1};
    int64_t live = rf_alloc_live();
    rf_status status = open_all(&t);
    bool ok = status == RF_ERR_SETTING || status == RF_ERR_NOT_FOUND;
    for (int i = 0; words[i] != NULL; i++) {
        ok = ok && strstr(rf_error_text(), words[i]) != NULL;
    }
    rf_training_close(&t);
    assert_on_all(ok && rf_alloc_live() == live);
    rf_run_settings_free(s);
}
#define REFUSED(models, text, ...)                                                                 \
    assert_refused(models, text, (const char *const[]){__VA_ARGS__, NULL})

static void what_does_not_fit_is_refused_by_coder_model_and_number(void **state)
{
    (void)state;
    REFUSED(FOUR, "coder: {name: c, input: [blocks.0.hook_resid_pre, \"vit:blocks.7.hook_z\"]}\n",
            "coder 'c': input", "vit:blocks.7.hook_z");
    REFUSED(FOUR, "coder: {name: c, input: blocks.0.hook_resid_pre, target: \"vit:nothing\"}\n",
            "coder 'c': target", "nothing");
    REFUSED(FOUR,
            "coder: {input: [blocks.0.hook_resid_pre, \"registers:blocks.0.hook_resid_pre\"],"
            " tokens: patch}\n",
            "equally many", "has 9", "has 16");
    REFUSED("{clip: {path: %F/clip}, gone: {path: %F/gone}}", "coder: {input: hook_embed}\n",
            "model 'gone'", "gone");
}

static void quiet(void *user, rf_log_level level, const char *line)
{
    (void)user;
    (void)level;
    (void)line;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coders_have_the_widths_of_their_sites),
        cmocka_unit_test(one_models_hash_is_its_own),
        cmocka_unit_test(start_values_are_the_same_on_every_rank),
        cmocka_unit_test(a_run_over_several_models_comes_to_its_end),
        cmocka_unit_test(what_does_not_fit_is_refused_by_coder_model_and_number),
    };
    int n_failed = 1;
    rf_log_set_sink(quiet, NULL);
    if (rf_comm_start(&argc, &argv, &world) == RF_OK && make_folder() == RF_OK) {
        n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    }
    if (world != NULL && rf_comm_rank(world) == 0 && folder[0] != '\0') {
        remove_below(folder);
    }
    rf_comm_finish(world);
    return n_failed;
}
