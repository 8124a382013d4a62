/* refract check: a model against what its own library computed, hook point by hook point. */
#include "cli_impl.h"
#include "refract/io.h"
#include "refract/vit.h"

#include <string.h>

enum { MAX_LISTED = 12 };
static const char default_tolerance[] = "2e-5";

static rf_status layer_label(int64_t layer, int64_t n_layers, char *out, size_t n_bytes)
{
    if (layer < 0) {
        return rf_format(out, n_bytes, "embeddings");
    }
    if (layer == n_layers) {
        return rf_format(out, n_bytes, "end");
    }
    return rf_format(out, n_bytes, "layer %" PRId64, layer);
}

static rf_status print_layers(const rf_cli *cli, const rf_comparison *c, int64_t n_layers,
                              double tolerance)
{
    rf_status status = RF_OK;
    char label[32];
    rf_cli_print(cli, "%-11s %13s  %s\n", "", "largest error", "at");
    for (int64_t layer = -1; layer <= n_layers; layer++) {
        const int64_t at = rf_comparison_worst(c, layer);
        if (at < 0) {
            continue;
        }
        const rf_compared *p = &c->points[at];
        RF_TRY(layer_label(layer, n_layers, label, sizeof label));
        rf_cli_print(cli, "%-11s %13.1e  %s", label, p->error, p->name);
        if (p->allowed > tolerance) {
            rf_cli_print(cli, " (the library's own rounding: %.1e)", p->allowed / 2.0);
        }
        rf_cli_print(cli, "%s\n", rf_compared_is_close(p) ? "" : "  TOO LARGE");
    }
fail:
    return status;
}

static void print_names(const rf_cli *cli, const char *what, char (*names)[RF_NAME_LEN], int64_t n)
{
    if (n > 0) {
        rf_cli_print(cli, "%s (%" PRId64 "):", what, n);
        for (int64_t i = 0; i < rf_min_i64(n, MAX_LISTED); i++) {
            rf_cli_print(cli, " %s", names[i]);
        }
        rf_cli_print(cli, "%s\n", n > MAX_LISTED ? " ..." : "");
    }
}

/* A row of a table: family, model, input, number of points, compared with, largest error. */
static rf_status print_row(const rf_cli *cli, const rf_vit_config *config,
                           const rf_tensor_file *reference, const rf_comparison *c)
{
    rf_status status = RF_OK;
    rf_str input = {0};
    const rf_named_tensor *t = rf_tensor_file_find(reference, "input");
    const char *library = rf_tensor_file_metadata(reference, "library");
    const char *version = library == NULL ? NULL : rf_tensor_file_metadata(reference, library);
    const int64_t at = rf_comparison_worst(c, RF_ANY_LAYER);
    for (int i = 0; i < t->n_dims; i++) {
        RF_TRY(rf_str_append(&input, "%s%" PRId64, i == 0 ? "" : " x ", t->shape[i]));
    }
    rf_cli_print(cli, "| %s | %s | %s | %" PRId64 " | %s%s%s | %.1e |\n", config->family,
                 config->name, input.data, c->n_points, library == NULL ? "?" : library,
                 version == NULL ? "" : " ", version == NULL ? "" : version,
                 at < 0 ? 0.0 : c->points[at].error);
fail:
    rf_str_fini(&input);
    return status;
}

static rf_status judge(const rf_cli *cli, const rf_comparison *c, int64_t n_layers,
                       double tolerance)
{
    rf_status status = RF_OK;
    const int64_t at = rf_comparison_worst(c, RF_ANY_LAYER);
    if (at < 0) {
        RF_FAIL(RF_ERR_FORMAT, "the reference holds no point of this model");
    }
    const rf_compared *p = &c->points[at];
    RF_TRY(print_layers(cli, c, n_layers, tolerance));
    print_names(cli, "in the reference alone", c->missing, c->n_missing);
    print_names(cli, "in the model alone", c->extra, c->n_extra);
    rf_cli_print(cli, "%" PRId64 " points, largest error %.1e at %s\n", c->n_points, p->error,
                 p->name);
    if (!rf_compared_is_close(p)) {
        int64_t first = 0; /* errors grow on the way: the first place is where to look */
        while (rf_compared_is_close(&c->points[first])) {
            first++;
        }
        RF_FAIL(RF_ERR_NUMERIC,
                "%s differs from the reference by %.1e of its norm, allowed is %.1e; the first "
                "point that differs is %s",
                p->name, p->error, p->allowed, c->points[first].name);
    }
fail:
    return status;
}

static rf_status check(const rf_cli *cli, rf_vit *vit, rf_stream *s,
                       const rf_tensor_file *reference, double tolerance, bool as_row)
{
    rf_status status = RF_OK;
    rf_comparison c = {0};
    const rf_vit_config *config = rf_vit_get_config(vit);
    RF_TRY(rf_vit_compare(vit, s, reference, tolerance, &c));
    if (as_row) {
        RF_TRY(print_row(cli, config, reference, &c));
    } else {
        RF_TRY(judge(cli, &c, config->n_layers, tolerance));
    }
fail:
    rf_comparison_fini(&c);
    return status;
}

static rf_status run(rf_cli *cli)
{
    static const char *const keys[] = {"against", "row",    "tol", "device",
                                       "threads", "format", NULL};
    rf_status status = RF_OK;
    rf_backend *be = NULL;
    rf_stream *s = NULL;
    rf_vit *vit = NULL;
    rf_tensor_file *reference = NULL;
    double tolerance = 0.0;
    int64_t n_threads_wanted = 0;
    int n_threads = 0;
    rf_device device = RF_DEVICE_AUTO;

    RF_TRY(rf_cli_need_args(cli, 1, "check MODEL against=FILE"));
    RF_TRY(rf_cli_check_keys(cli, 1, keys));
    const char *against = rf_cli_value(cli, 1, "against", NULL);
    const char *format = rf_cli_value(cli, 1, "format", "text");
    if (against == NULL) {
        RF_FAIL(RF_ERR_USAGE, "against=FILE is missing; usage: refract check %s",
                rf_command_check.usage);
    }
    if (strcmp(format, "text") != 0 && strcmp(format, "markdown") != 0) {
        RF_FAIL(RF_ERR_USAGE, "format=%s: expected text or markdown", format);
    }
    RF_TRY(rf_parse_f64(rf_cli_value(cli, 1, "tol", default_tolerance), &tolerance));
    if (!(tolerance > 0.0)) {
        RF_FAIL(RF_ERR_USAGE, "tol=%g: expected more than 0", tolerance);
    }
    RF_TRY(rf_parse_i64(rf_cli_value(cli, 1, "threads", "0"), &n_threads_wanted));
    RF_TRY(rf_cli_threads(cli, n_threads_wanted, &n_threads));
    RF_TRY(rf_cli_device(cli, 1, &device));
    RF_TRY(rf_tensor_file_open(against, &reference));
    rf_vit_opts opts = {.row = rf_cli_value(cli, 1, "row", NULL)};
    RF_TRY_DOING(rf_vit_reference_opts(reference, &opts), "%s", against);
    RF_TRY(rf_backend_create(device, NULL, n_threads, &be));
    RF_TRY(rf_stream_create(be, &s));
    RF_TRY(rf_vit_open(be, cli->args[0], &opts, &vit));
    RF_TRY_DOING(check(cli, vit, s, reference, tolerance, strcmp(format, "markdown") == 0), "%s",
                 against);
fail:
    rf_vit_close(vit);
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    rf_tensor_file_close(reference);
    return status;
}

const rf_command rf_command_check = {
    .name = "check",
    .usage =
        "MODEL against=REFERENCE.safetensors [tol=2e-5] [row=FILE.yaml] [device=NAME] [threads=N]",
    .summary = "compare a model with what its own library computes, at every hook point",
    .help =
        "Runs MODEL (a folder) over the pictures, clip or text in REFERENCE and compares the\n"
        "activations at every hook point with those in it. REFERENCE is made on a machine that "
        "has\n"
        "transformers, timm or open_clip by\n"
        "  launch/dump-reference MODEL PICTURE... out=REFERENCE.safetensors\n\n"
        "Prints for each layer the largest error of a token (L2, relative to its norm) and where "
        "it\n"
        "is. Exit code 0: every error is within tol, or within twice what the library's own fp32\n"
        "differs from its double precision; 1: not.\n\n"
        "example:\n"
        "  refract check models/dinov2-small against=dinov2-small.reference.safetensors\n\n"
        "keys:\n"
        "  against=FILE     the reference\n"
        "  tol=NUMBER       largest error allowed; default 2e-5\n"
        "  row=FILE.yaml    a row of the architecture table, for a model that Refract does not "
        "know\n"
        "  device=NAME      as train.device; default auto, a GPU where there is one\n"
        "  format=markdown  one row of a table, whatever the errors are\n"
        "  threads=N        default: all cores",
    .uses_ranks = false,
    .run = run,
};
