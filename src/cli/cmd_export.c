/* refract export: a run's coders as files that other tools load. */
#include "cli_impl.h"
#include "refract/exchange.h"
#include "refract/io.h"
#include "refract/train.h"
#include "refract/vit.h"

#include <string.h>

/* What exporting a run needs. */
typedef struct export
{
    rf_run *opened;
    rf_backend *be;
    rf_stream *s;
}
export;

/* The first of `sites`, as its model names it; NULL where there is none. */
static rf_status find_hook(const rf_run_settings *settings, const char *sites, int *model,
                           char name[RF_NAME_LEN], const char **hook)
{
    rf_status status = RF_OK;
    char names[RF_MAX_SITES][RF_NAME_LEN];

    *hook = NULL;
    if (rf_coder_sites(sites, names) > 0) {
        RF_TRY(rf_format(name, RF_NAME_LEN, "%s", names[0]));
        RF_TRY(rf_run_settings_site(settings, name, model, hook));
    }
fail:
    return status;
}

static rf_status export_coder(const export *e, int64_t idx, const char *folder)
{
    rf_status status = RF_OK;
    rf_coder *coder = NULL;
    const rf_run_settings *settings = rf_run_get_settings(e->opened);
    const rf_coder_settings *spec = &settings->coders[idx].coder;
    char input[RF_NAME_LEN], target[RF_NAME_LEN];
    const char *hook = NULL, *target_hook = NULL;
    int model = 0, target_model = 0;
    rf_vit_config config;
    rf_transform transform;

    RF_TRY(find_hook(settings, spec->input, &model, input, &hook));
    RF_TRY(find_hook(settings, spec->target, &target_model, target, &target_hook));
    const rf_model_settings *of = &settings->models[model].settings;
    RF_TRY(rf_vit_read_config(of->path, NULL, &config));
    RF_TRY(rf_model_settings_transform(of, &transform));
    const int64_t image_size = rf_transform_height(&transform);
    const int64_t grid = image_size / config.patch_size;
    const rf_exchange_origin origin = {
        .model_name = config.name,
        .hook_name = hook,
        .target_name = target_hook,
        .pictures_path = settings->data.path,
        .weight_processing = rf_run_weight_processing(e->opened),
        .n_positions = config.n_prefix + grid * grid,
        .image_size = image_size,
        .step = rf_run_step(e->opened),
    };
    RF_TRY(rf_run_load_coder(e->be, e->s, e->opened, idx, &coder));
    RF_TRY(rf_saelens_write(coder, e->s, &origin, folder));
fail:
    rf_coder_destroy(coder);
    return status;
}

/* Every coder that is there and has a form there; those that have none, and those whose checkpoint
 * is lost, are named with the reason and make it fail at the end. */
static rf_status export_all(const rf_cli *cli, const export *e)
{
    rf_status status = RF_OK, refused = RF_OK;
    const rf_run_settings *settings = rf_run_get_settings(e->opened);
    char folder[RF_PATH_LEN];
    int64_t n_refused = 0, pass = 0, n_passes = 0;

    for (int64_t i = 0; i < settings->n_coders; i++) {
        const char *name = settings->coders[i].coder.name;
        if (rf_run_coder_waits(e->opened, i, &pass, &n_passes)) {
            rf_cli_print(cli, "left out %s: it waits for pass %" PRId64 " of %" PRId64 "\n", name,
                         pass, n_passes);
            continue;
        }
        RF_TRY(rf_path_join(folder, cli->args[1], name));
        status = export_coder(e, i, folder);
        if (status == RF_ERR_UNSUPPORTED || !rf_run_has_coder(e->opened, i)) {
            rf_log(RF_LOG_WARN, "%s", rf_error_text());
            refused = status;
            n_refused++;
            status = RF_OK;
            continue;
        }
        RF_TRY(status);
        rf_cli_print(cli, "wrote %s\n", folder);
    }
    if (refused != RF_OK) {
        RF_FAIL(refused, "%" PRId64 " of %" PRId64 " coders were not written, see above", n_refused,
                settings->n_coders);
    }
fail:
    return status;
}

/* The words model.path=..., model.NAME.path=... from `first` on come before the others; how many
 * they are. */
static int sort_words(const rf_cli *cli, int first)
{
    int n = 0;
    for (int i = first; i < cli->n_args; i++) {
        char *word = cli->args[i];
        if (rf_cli_is_model_path(word)) {
            cli->args[i] = cli->args[first + n];
            cli->args[first + n++] = word;
        }
    }
    return n;
}

static rf_status run(rf_cli *cli)
{
    static const char *const keys[] = {"format", NULL};
    rf_status status = RF_OK;
    export e = {.opened = NULL};
    RF_TRY(rf_cli_need_args(cli, 2, "export RUN OUTDIR [format=saelens]"));
    const int n_moved = sort_words(cli, 2);
    RF_TRY(rf_cli_check_keys(cli, 2 + n_moved, keys));
    const char *format = rf_cli_value(cli, 2, "format", "saelens");
    if (strcmp(format, "saelens") != 0) {
        RF_FAIL(RF_ERR_USAGE, "format=%s: expected saelens", format);
    }
    RF_TRY(rf_run_open(cli->args[0], (const char *const *)cli->args + 2, n_moved, &e.opened));
    RF_TRY(rf_backend_cpu_create(0, &e.be));
    RF_TRY(rf_stream_create(e.be, &e.s));
    RF_TRY(export_all(cli, &e));
fail:
    rf_stream_destroy(e.s);
    rf_backend_destroy(e.be);
    rf_run_close(e.opened);
    return status;
}

const rf_command rf_command_export = {
    .name = "export",
    .usage = "RUN OUTDIR [format=saelens] [model.path=FOLDER]",
    .summary = "write a run's coders as files that other tools load",
    .help =
        "Writes each coder of the run folder RUN (its newest checkpoint) to OUTDIR/NAME.\n"
        "saelens: cfg.json and sae_weights.safetensors; in Python,\n"
        "  from sae_lens import SAE; SAE.load_from_disk(\"OUTDIR/NAME\")\n"
        "Normalisation is folded in where that is exact. Coders that SAELens cannot say\n"
        "(crosscoders, k by token class, TopK and gated transcoders) are named with the reason\n"
        "and left out; the exit code is 1 then. Coders whose pass has not begun\n"
        "(train.coders_at_once) are left out with a line that says so.\n\n"
        "example:\n"
        "  refract export runs/first exported format=saelens",
    .uses_ranks = false,
    .run = run,
};
