/* refract info: what a model is, and where it can be hooked. */
#include "cli_impl.h"
#include "refract/vit.h"

static const char *shape_text(rf_hook_shape shape)
{
    switch (shape) {
    case RF_HOOK_TOKENS:
        return "[B, T, width]";
    case RF_HOOK_PATCHES:
        return "[B, N, width]";
    case RF_HOOK_HEADS:
        return "[B, T, H, width / H]";
    case RF_HOOK_HEAD_RESID:
        return "[B, T, H, width / H]";
    case RF_HOOK_PATTERN:
        return "[B, H, T, T]";
    case RF_HOOK_POOLED:
        return "[B, width]";
    }
    return "";
}

static void print_sizes(const rf_cli *cli, const rf_vit_config *c)
{
    char weights[32], workspace[32];
    rf_format_bytes((double)rf_vit_weight_bytes(c), weights);
    rf_format_bytes((double)rf_vit_workspace_bytes(c, 16), workspace);
    rf_cli_print(cli, "%s (family %s)\n", c->name, c->family);
    rf_cli_print(cli,
                 "  width %" PRId64 ", %" PRId64 " layers, %" PRId64 " heads of %" PRId64
                 ", MLP %" PRId64 "\n",
                 c->d_model, c->n_layers, c->n_heads, c->d_head, c->d_mlp);
    rf_cli_print(cli,
                 "  pictures %" PRId64 " x %" PRId64 ", patches of %" PRId64 ": T = %" PRId64
                 " tokens (%s%" PRId64 " registers, N = %" PRId64 " patches)\n",
                 c->image_height, c->image_width, c->patch_size, c->n_tokens,
                 c->has_cls ? "1 CLS, " : "", c->n_registers, c->n_patches);
    rf_cli_print(cli, "  embedding %" PRId64, c->d_out);
    if (c->n_classes > 0) {
        rf_cli_print(cli, ", classification head of %" PRId64, c->n_classes);
    }
    rf_cli_print(cli, "\n  %.2f GFLOP a picture; weights %s, workspace %s for 16 pictures\n",
                 1e-9 * rf_vit_flop(c, c->n_layers), weights, workspace);
}

static rf_status run(rf_cli *cli)
{
    static const char *const keys[] = {NULL};
    rf_status status = RF_OK;
    rf_vit_config config;
    rf_hook_point *points = NULL;
    int64_t n_points = 0;
    RF_TRY(rf_cli_need_args(cli, 1, "info MODEL"));
    RF_TRY(rf_cli_check_keys(cli, 1, keys));
    RF_TRY(rf_vit_read_config(cli->args[0], NULL, &config));
    RF_TRY(rf_vit_hook_list(&config, &points, &n_points));
    print_sizes(cli, &config);
    rf_cli_print(cli, "\nhook points, in firing order (layers 0 to %" PRId64 " alike):\n",
                 config.n_layers - 1);
    for (int64_t i = 0; i < n_points; i++) {
        if (points[i].layer > 0 && points[i].layer < config.n_layers) {
            continue; /* as layer 0 */
        }
        rf_cli_print(cli, "  %-32s %-20s width %" PRId64 "\n", points[i].name,
                     shape_text(points[i].shape), points[i].width);
    }
fail:
    rf_free(points);
    return status;
}

const rf_command rf_command_info = {
    .name = "info",
    .usage = "MODEL",
    .summary = "sizes, tokens, and hook points with their shapes",
    .help =
        "Reads config.json of MODEL (a Hugging Face folder) and prints what the model is and the\n"
        "hook points that coders and 'refract activations' can name.\n\n"
        "example:\n"
        "  refract info models/dinov2-small",
    .uses_ranks = false,
    .run = run,
};
