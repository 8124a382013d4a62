/* refract eval: how good a run's coders are, on pictures that training never saw. */
#include "cli_impl.h"
#include "refract/eval.h"
#include "refract/report.h"
#include "refract/train.h"

#include <string.h>

/* Of the run's own settings: where model and pictures are now, how a model is opened that the run
 * never had (it was trained from a store), and where to compute. */
static bool is_of_run(const char *word)
{
    return strncmp(word, "model.", 6) == 0 || strncmp(word, "data.path=", 10) == 0 ||
           strncmp(word, "data.root=", 10) == 0 || strncmp(word, "train.device=", 13) == 0;
}

/* The words behind the run: those of the run come first then, *n_paths of them; the others are keys
 * of section `eval`. */
static rf_status read_settings(const rf_cli *cli, int *n_paths, rf_eval_settings *out)
{
    rf_status status = RF_OK;
    rf_yaml *words = NULL;
    *n_paths = 0;
    RF_TRY(rf_cli_need_args(cli, 1, "eval RUN [key=value ...]"));
    RF_TRY(rf_settings_defaults(&rf_eval_settings_table, out));
    RF_TRY(rf_yaml_parse("{}", 2, "command line", &words));
    for (int i = 1; i < cli->n_args; i++) {
        char *word = cli->args[i];
        if (is_of_run(word)) {
            cli->args[i] = cli->args[1 + *n_paths];
            cli->args[1 + (*n_paths)++] = word;
        } else {
            RF_TRY(rf_yaml_override(words, word));
        }
    }
    RF_TRY(rf_settings_read(&rf_eval_settings_table, words, "eval", NULL, out, NULL));
    RF_TRY(rf_eval_settings_check(out));
fail:
    rf_yaml_free(words);
    return status;
}

static rf_status run(rf_cli *cli)
{
    rf_status status = RF_OK;
    rf_eval_settings settings;
    rf_eval_report report = {0};
    rf_run *opened = NULL;
    rf_backend *be = NULL;
    rf_str text = {0};
    int n_threads = 0, n_paths = 0;
    status = read_settings(cli, &n_paths, &settings);
    if (status == RF_OK) {
        status = rf_run_open(cli->args[0], (const char *const *)cli->args + 1, n_paths, &opened);
    }
    RF_TRY(rf_comm_agree(cli->comm, status));
    RF_TRY(rf_cli_threads(cli, rf_run_get_settings(opened)->train.threads, &n_threads));
    RF_TRY(rf_backend_create((rf_device)rf_run_get_settings(opened)->train.device, cli->comm,
                             n_threads, &be));
    RF_TRY(rf_eval_run(cli->comm, be, opened, &settings, &report));
    RF_TRY(rf_report_eval(&report, &text));
    rf_cli_print(cli, "%s\nwrote %s\n", text.data, report.json_path);
fail:
    rf_str_fini(&text);
    rf_eval_report_fini(&report);
    rf_backend_destroy(be);
    rf_run_close(opened);
    return status;
}

static rf_status more_help(rf_str *out)
{
    return rf_settings_write_help(&rf_eval_settings_table, false, out);
}

const rf_command rf_command_eval = {
    .name = "eval",
    .usage = "RUN [key=value ...]",
    .summary = "measure a run's coders on held-out pictures, and beside it on trained-on ones",
    .help =
        "Loads the newest checkpoint of the run folder RUN, measures every coder, prints a "
        "table and\n"
        "writes RUN/eval.json, where each figure stands with its formula.\n\n"
        "examples:\n"
        "  refract eval runs/first\n"
        "  mpirun -n 4 --bind-to none refract eval runs/first max_trained_on=1000\n"
        "  refract eval runs/clip classifier=imagenet.safetensors pictures=/data/imagenet "
        "part=val\n"
        "\n"
        "model.path= (model.NAME.path=), data.path= and data.root= say where model and pictures\n"
        "are now, if they were moved or the run was trained from a store; train.device= where to\n"
        "compute, if not where it was trained. classifier= is a file "
        "of\n"
        "refract zero-shot, for the cross entropy of a model without a head (CLIP).\n"
        "keys:",
    .uses_ranks = true,
    .run = run,
    .more_help = more_help,
};
