/* refract export: a run's coders as files that other tools load. */
#include "cli_impl.h"
#include "refract/exchange.h"
#include "refract/io.h"
#include "refract/train.h"
#include "refract/vit.h"

#include <string.h>

static rf_status export_coder(rf_backend *be, rf_stream *s, const rf_run *opened,
                              const rf_vit_config *model, int64_t image_size, int64_t idx,
                              const char *folder)
{
    rf_status status = RF_OK;
    rf_coder *coder = NULL;
    const rf_run_settings *settings = rf_run_get_settings(opened);
    const int64_t grid = image_size / model->patch_size;
    const rf_exchange_origin origin = {
        .model_name = model->name,
        .hook_name = settings->coders[idx].coder.input,
        .pictures_path = settings->data.path,
        .weight_processing = rf_run_weight_processing(opened),
        .n_positions = model->n_prefix + grid * grid,
        .image_size = image_size,
        .step = rf_run_step(opened),
    };
    RF_TRY(rf_run_load_coder(be, s, opened, idx, &coder));
    RF_TRY(rf_saelens_write(coder, s, &origin, folder));
fail:
    rf_coder_destroy(coder);
    return status;
}

static rf_status run(rf_cli *cli)
{
    static const char *const keys[] = {"format", "model.path", NULL};
    rf_status status = RF_OK;
    rf_run *opened = NULL;
    rf_backend *be = NULL;
    rf_stream *s = NULL;
    rf_vit_config model;
    rf_transform transform;
    char folder[RF_PATH_LEN];
    RF_TRY(rf_cli_need_args(cli, 2, "export RUN OUTDIR [format=saelens]"));
    RF_TRY(rf_cli_check_keys(cli, 2, keys));
    const char *format = rf_cli_value(cli, 2, "format", "saelens");
    if (strcmp(format, "saelens") != 0) {
        RF_FAIL(RF_ERR_USAGE, "format=%s: expected saelens", format);
    }
    const char *moved = NULL; /* the word model.path=..., if it is there */
    for (int i = 2; i < cli->n_args; i++) {
        moved = strncmp(cli->args[i], "model.path=", 11) == 0 ? cli->args[i] : moved;
    }
    RF_TRY(rf_run_open(cli->args[0], &moved, moved != NULL, &opened));
    const rf_run_settings *settings = rf_run_get_settings(opened);
    RF_TRY(rf_vit_read_config(settings->model.path, NULL, &model));
    RF_TRY(rf_model_settings_transform(&settings->model, &transform));
    RF_TRY(rf_backend_cpu_create(0, &be));
    RF_TRY(rf_stream_create(be, &s));
    for (int64_t i = 0; i < settings->n_coders; i++) {
        RF_TRY(rf_path_join(folder, cli->args[1], settings->coders[i].coder.name));
        RF_TRY(export_coder(be, s, opened, &model, rf_transform_height(&transform), i, folder));
        rf_cli_print(cli, "wrote %s\n", folder);
    }
fail:
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    rf_run_close(opened);
    return status;
}

const rf_command rf_command_export = {
    .name = "export",
    .usage = "RUN OUTDIR [format=saelens] [model.path=FOLDER]",
    .summary = "write a run's coders as files that other tools load",
    .help = "Writes each coder of the run folder RUN (its newest checkpoint) to OUTDIR/NAME.\n"
            "saelens: cfg.json and sae_weights.safetensors; in Python,\n"
            "  from sae_lens import SAE; SAE.load_from_disk(\"OUTDIR/NAME\")\n\n"
            "example:\n"
            "  refract export runs/first exported format=saelens",
    .uses_ranks = false,
    .run = run,
};
