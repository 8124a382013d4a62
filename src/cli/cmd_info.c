/* refract info: what a model is, and where it can be hooked; which models have names; what a run's
 * coders are made of. */
#include "cli_impl.h"
#include "refract/io.h"
#include "refract/train.h"
#include "refract/vit.h"

#include <string.h>

/* ---- the registry -----------------------------------------------------------------------------
 */

static void print_model_line(const rf_cli *cli, const rf_model *m)
{
    rf_vit_config c;
    char what[160] = "";
    if (rf_registry_config(m, &c) == RF_OK) {
        rf_format(what, sizeof what,
                  "%-21s %5" PRId64 " x %2" PRId64 " layers, %2" PRId64 " heads, T = %5" PRId64,
                  c.family, c.d_model, c.n_layers, c.n_heads, c.n_tokens);
    }
    rf_cli_print(cli, "  %-68s %s%s%s\n", m->name, what,
                 m->note[0] != '\0' && what[0] != '\0' ? "  " : "", m->note);
}

static void print_models(const rf_cli *cli, const char *part)
{
    static const char *const libraries[] = {"transformers", "open_clip", "timm", "meta"};
    int64_t n_shown = 0;
    for (size_t l = 0; l < sizeof libraries / sizeof *libraries; l++) {
        bool has_title = false;
        for (int64_t i = 0; i < rf_registry_count(); i++) {
            const rf_model *m = rf_registry_at(i);
            if (strcmp(m->library, libraries[l]) != 0 ||
                (part != NULL && strstr(m->name, part) == NULL)) {
                continue;
            }
            if (!has_title) {
                rf_cli_print(cli, "%sfiles of %s:\n", n_shown > 0 ? "\n" : "", libraries[l]);
                has_title = true;
            }
            print_model_line(cli, m);
            n_shown++;
        }
    }
    rf_cli_print(cli,
                 "\n%" PRId64 " models. launch/fetch-model NAME DIR fetches one; refract info NAME "
                 "shows one; any other model of these families opens from its folder too.\n",
                 n_shown);
}

/* ---- one model --------------------------------------------------------------------------------
 */

/* Where a config came from. */
typedef struct subject {
    rf_vit_config config;
    const rf_model *model; /* of the registry, or NULL */
} subject;

static rf_status find_subject(const rf_cli *cli, const char *name, subject *out)
{
    rf_status status = RF_OK;
    rf_vit_opts opts = {0};
    const char *tower = rf_cli_value(cli, 1, "tower", "vision");
    char near_model[256];
    *out = (subject){0};
    opts.row = rf_cli_value(cli, 1, "row", NULL);
    if (strcmp(tower, "text") == 0) {
        opts.tower = RF_TOWER_TEXT;
    } else if (strcmp(tower, "vision") != 0) {
        RF_FAIL(RF_ERR_USAGE, "tower=%s: expected vision or text", tower);
    }
    if (rf_file_is_dir(name)) {
        return rf_vit_read_config(name, &opts, &out->config);
    }
    if (opts.row != NULL || opts.tower != RF_TOWER_VISION) {
        RF_FAIL(RF_ERR_NOT_FOUND, "'%s' is no folder: tower=text and row= are for a model's folder",
                name);
    }
    if (rf_registry_find(name, &out->model) == RF_OK) {
        return rf_registry_config(out->model, &out->config);
    }
    RF_TRY(rf_format(near_model, sizeof near_model, "%.200s", rf_error_text()));
    if (rf_registry_arch_config(name, &out->config) != RF_OK) {
        RF_FAIL(RF_ERR_NOT_FOUND, "'%s' is no folder; %s; %.300s", name, near_model,
                rf_error_text());
    }
fail:
    return status;
}

static void print_input(const rf_cli *cli, const rf_vit_config *c)
{
    if (c->input == RF_VIT_TEXT) {
        rf_cli_print(cli, "  texts of T = %" PRId64 " tokens out of %" PRId64 " ids\n", c->n_tokens,
                     c->n_vocab);
        return;
    }
    if (c->input == RF_VIT_CLIPS) {
        rf_cli_print(cli,
                     "  clips of %" PRId64 " frames of %" PRId64 " x %" PRId64
                     ", tubelets of %" PRId64 " x %" PRId64 " x %" PRId64 ": T = %" PRId64,
                     c->n_frames, c->image_height, c->image_width, c->tubelet, c->patch_size,
                     c->patch_size, c->n_tokens);
    } else {
        rf_cli_print(
            cli, "  pictures of %" PRId64 " x %" PRId64 ", patches of %" PRId64 ": T = %" PRId64,
            c->image_height, c->image_width, c->patch_size, c->n_tokens);
    }
    rf_cli_print(cli, " tokens (%s%s", c->has_cls ? "1 CLS, " : "",
                 c->has_distilled ? "1 distilled, " : "");
    if (c->n_registers > 0) {
        rf_cli_print(cli, "%" PRId64 " registers, ", c->n_registers);
    }
    rf_cli_print(cli, "N = %" PRId64 " patches)\n", c->n_patches);
}

/* The switches that are not the plain ViT's. */
static void print_switches(const rf_cli *cli, const rf_vit_config *c)
{
    static const char *const ropes[] = {"", "rotary positions over the pixel grid",
                                        "rotary positions of patch centres",
                                        "rotary positions along t, y and x"};
    const struct {
        bool is_on;
        const char *what;
    } switches[] = {
        {!c->has_position && c->rope == RF_ROPE_NONE, "no added positions"},
        {c->rope != RF_ROPE_NONE, ropes[c->rope]},
        {c->score_bias == RF_SCORES_RELATIVE, "relative position biases"},
        {c->score_bias == RF_SCORES_CAUSAL, "causal attention"},
        {c->has_ln_pre, "a norm before the blocks"},
        {c->norm_place == RF_NORM_BEHIND, "norms behind the branches"},
        {c->has_attn_norm, "a norm before W_O"},
        {c->is_gated, "a gated MLP"},
        {c->has_mlp_norm, "a norm inside the MLP"},
        {c->has_layer_scale, "LayerScale"},
        {c->norm_is_behind_pool, "the final norm behind the pool"},
    };
    int n = 0;
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++) {
        if (switches[i].is_on) {
            rf_cli_print(cli, "%s%s", n++ == 0 ? "  with " : ", ", switches[i].what);
        }
    }
    rf_cli_print(cli, "%s", n > 0 ? "\n" : "");
}

static void print_end(const rf_cli *cli, const rf_vit_config *c)
{
    static const char *const pools[] = {
        "the class token",   "the mean of the patches",      "the mean of all tokens",
        "an attention pool", "the token that ends the text", "the last token"};
    rf_cli_print(cli, "  pooled: %s, %" PRId64, pools[c->pool], c->d_pool);
    if (c->has_projection) {
        rf_cli_print(cli, "; projected to %" PRId64, c->d_out);
    }
    if (c->n_classes > 0) {
        rf_cli_print(cli, "; a head of %" PRId64 " classes", c->n_classes);
    }
    rf_cli_print(cli, "\n");
}

static void print_sizes(const rf_cli *cli, const subject *of)
{
    static const char *const acts[] = {"no activation", "ReLU",         "GELU",
                                       "quick GELU",    "GELU by tanh", "SiLU"};
    const rf_vit_config *c = &of->config;
    char weights[32], workspace[32];
    rf_format_bytes((double)rf_vit_weight_bytes(c), weights);
    rf_format_bytes((double)rf_vit_workspace_bytes(c, 16), workspace);
    rf_cli_print(cli, "%s (family %s)\n", c->name, c->family);
    if (of->model != NULL) {
        rf_cli_print(cli, "  files of %s%s%s\n", of->model->library,
                     of->model->repo != NULL ? ", on the Hub as " : "",
                     of->model->repo != NULL ? of->model->repo : "");
    }
    if (of->model != NULL && of->model->note[0] != '\0') {
        rf_cli_print(cli, "  note: %s\n", of->model->note);
    }
    rf_cli_print(cli,
                 "  width %" PRId64 ", %" PRId64 " layers, %" PRId64 " heads of %" PRId64
                 ", MLP %" PRId64 " with %s, eps %g\n",
                 c->d_model, c->n_layers, c->n_heads, c->d_head, c->d_mlp, acts[c->act],
                 (double)c->eps);
    print_input(cli, c);
    print_switches(cli, c);
    print_end(cli, c);
    rf_cli_print(cli, "  %.2f GFLOP each; weights %s, workspace %s for 16\n",
                 1e-9 * rf_vit_flop(c, c->n_layers), weights, workspace);
}

static void shape_text(const rf_vit_config *c, const rf_hook_point *p, char out[64])
{
    const int64_t t = c->n_tokens, h = c->n_heads;
    switch (p->shape) {
    case RF_HOOK_TOKENS:
        rf_format(out, 64, "[B, %" PRId64 ", %" PRId64 "]", t, p->width);
        return;
    case RF_HOOK_PATCHES:
        rf_format(out, 64, "[B, %" PRId64 ", %" PRId64 "]", c->n_patches, p->width);
        return;
    case RF_HOOK_HEADS:
    case RF_HOOK_HEAD_RESID:
        rf_format(out, 64, "[B, %" PRId64 ", %" PRId64 ", %" PRId64 "]", t, h, p->width / h);
        return;
    case RF_HOOK_PATTERN:
        rf_format(out, 64, "[B, %" PRId64 ", %" PRId64 ", %" PRId64 "]", h, t, t);
        return;
    case RF_HOOK_POOLED:
        rf_format(out, 64, "[B, %" PRId64 "]", p->width);
        return;
    }
}

static rf_status print_points(const rf_cli *cli, const rf_vit_config *c)
{
    rf_status status = RF_OK;
    rf_hook_point *points = NULL;
    int64_t n = 0;
    char shape[64] = "";
    RF_TRY(rf_vit_hook_list(c, &points, &n));
    rf_cli_print(cli, "\nhook points, in firing order (layers 0 to %" PRId64 " alike):\n",
                 c->n_layers - 1);
    for (int64_t i = 0; i < n; i++) {
        if (points[i].layer > 0 && points[i].layer < c->n_layers) {
            continue; /* as layer 0 */
        }
        shape_text(c, &points[i], shape);
        rf_cli_print(cli, points[i].is_on_request ? "  %-32s %-24s on request\n" : "  %-32s %s\n",
                     points[i].name, shape);
    }
fail:
    rf_free(points);
    return status;
}

/* ---- a run ------------------------------------------------------------------------------------
 */

/* One line a tensor: "W_dec  [6144, 384]  parameter". */
static rf_status print_tensors(const rf_cli *cli, const rf_coder *coder)
{
    rf_status status = RF_OK;
    char shape[64];
    for (int i = 0; i < rf_coder_n_tensors(coder); i++) {
        const rf_coder_tensor t = rf_coder_tensor_at(coder, i);
        if (t.view.data == NULL) {
            continue;
        }
        if (t.view.n_dims == 2) {
            RF_TRY(rf_format(shape, sizeof shape, "[%" PRId64 ", %" PRId64 "]", t.view.shape[0],
                             t.view.shape[1]));
        } else {
            RF_TRY(rf_format(shape, sizeof shape, "[%" PRId64 "]", t.view.shape[0]));
        }
        rf_cli_print(cli, "    %-18s %-18s %s\n", t.name, shape,
                     t.kind == RF_TENSOR_PARAMETER ? "parameter" : "state");
    }
fail:
    return status;
}

static rf_status print_coder(const rf_cli *cli, const rf_run *opened, int64_t idx, rf_backend *be,
                             rf_stream *s)
{
    rf_status status = RF_OK;
    rf_coder *coder = NULL;
    rf_coder_state state;
    const rf_coder_settings *c = &rf_run_get_settings(opened)->coders[idx].coder;

    RF_TRY(rf_run_load_coder(be, s, opened, idx, &coder));
    RF_TRY(rf_coder_get_state(coder, s, &state));
    rf_cli_print(cli, "  %s: %s, %" PRId64 " latents of %s%s%s, tokens: %s\n", c->name,
                 rf_coder_architecture(coder)->name, rf_coder_n_latents(coder), c->input,
                 c->target[0] != '\0' ? " to " : "", c->target,
                 rf_token_class_names[rf_coder_token_class(c)]);
    rf_cli_print(cli, "    %" PRId64 " updates on %" PRId64 " tokens, %" PRId64 " skipped\n",
                 state.counters[RF_COUNTER_STEPS], state.counters[RF_COUNTER_TOKENS],
                 state.counters[RF_COUNTER_SKIPPED]);
    RF_TRY(print_tensors(cli, coder));
fail:
    rf_coder_destroy(coder);
    return status;
}

static rf_status print_run(const rf_cli *cli, const char *dir)
{
    rf_status status = RF_OK;
    rf_run *opened = NULL;
    rf_backend *be = NULL;
    rf_stream *s = NULL;
    int64_t pass = 0, n_passes = 0, n_lost = 0;

    RF_TRY(rf_run_open(dir, NULL, 0, &opened));
    const rf_run_settings *settings = rf_run_get_settings(opened);
    RF_TRY(rf_backend_cpu_create(1, &be));
    RF_TRY(rf_stream_create(be, &s));
    rf_cli_print(cli, "%s: a run, %s\n", dir, rf_run_checkpoint_path(opened));
    for (int m = 0; m < settings->n_models; m++) {
        rf_cli_print(cli, "  model %s%s%s\n", settings->models[m].name,
                     settings->models[m].name[0] != '\0' ? ": " : "",
                     settings->models[m].settings.path);
    }
    for (int64_t i = 0; i < settings->n_coders; i++) {
        if (rf_run_coder_waits(opened, i, &pass, &n_passes)) {
            rf_cli_print(cli, "  %s: waits for pass %" PRId64 " of %" PRId64 "\n",
                         settings->coders[i].coder.name, pass, n_passes);
            continue;
        }
        status = print_coder(cli, opened, i, be, s);
        if (!rf_run_has_coder(opened, i)) { /* its checkpoint is lost: the others are not */
            rf_cli_print(cli, "  %s: lost\n", settings->coders[i].coder.name);
            rf_log(RF_LOG_WARN, "%s", rf_error_text());
            n_lost++;
            status = RF_OK;
        }
        RF_TRY(status);
    }
    if (n_lost > 0) {
        RF_FAIL(RF_ERR_NOT_FOUND, "%" PRId64 " of %" PRId64 " coders cannot be read, see above",
                n_lost, settings->n_coders);
    }
fail:
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    rf_run_close(opened);
    return status;
}

/* A folder with a run's settings in it, and no model's. */
static bool is_run(const char *dir)
{
    char run[RF_PATH_LEN], model[RF_PATH_LEN];
    return rf_file_is_dir(dir) && rf_path_join(run, dir, "config.yaml") == RF_OK &&
           rf_path_join(model, dir, "config.json") == RF_OK && rf_file_exists(run) &&
           !rf_file_exists(model);
}

static rf_status run(rf_cli *cli)
{
    static const char *const keys[] = {"tower", "row", NULL}, *const no_keys[] = {NULL};
    rf_status status = RF_OK;
    subject of;
    const int n_words = rf_cli_n_words(cli);
    if (n_words == 0 || strcmp(cli->args[0], "models") == 0) {
        RF_TRY(rf_cli_check_keys(cli, n_words > 1 ? 2 : n_words, no_keys));
        print_models(cli, n_words > 1 ? cli->args[1] : NULL);
        goto fail;
    }
    if (is_run(cli->args[0])) {
        RF_TRY(rf_cli_check_keys(cli, 1, no_keys));
        RF_TRY(print_run(cli, cli->args[0]));
        goto fail;
    }
    RF_TRY(rf_cli_check_keys(cli, 1, keys));
    RF_TRY(find_subject(cli, cli->args[0], &of));
    print_sizes(cli, &of);
    RF_TRY(print_points(cli, &of.config));
fail:
    return status;
}

const rf_command rf_command_info = {
    .name = "info",
    .usage = "[MODEL|RUN]",
    .summary = "sizes, tokens, and hook points with their shapes; which models there are",
    .help = "MODEL is a model's folder (Hugging Face, OpenCLIP or timm; its weights need not be "
            "there),\n"
            "a name of the registry, or an architecture's name. Prints what the model is, what it "
            "needs,\n"
            "what of it is not supported, and the hook points that coders, hooks and 'refract\n"
            "activations' can name. Without MODEL, or with 'models [PART OF A NAME]', lists the "
            "registry.\n"
            "Of a run's folder RUN it prints the coders, each of its newest checkpoint, and their "
            "tensors;\ncoders whose pass has not begun (train.coders_at_once) are named with the "
            "pass they wait for.\n\n"
            "keys:\n"
            "  tower=text     the text tower of a folder (vision)\n"
            "  row=FILE.yaml  a row of the architecture table of one's own, see docs/models.md\n\n"
            "examples:\n"
            "  refract info models/dinov2-small\n"
            "  refract info openai/clip-vit-large-patch14\n"
            "  refract info models siglip",
    .uses_ranks = false,
    .run = run,
};
