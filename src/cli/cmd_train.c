/* refract train: the main job. */
#include "cli_impl.h"
#include "refract/train.h"

rf_status rf_cli_run_settings(const rf_cli *cli, const char *usage, rf_run_settings **out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_cli_need_args(cli, 1, usage));
    RF_TRY(rf_run_settings_load(cli->args[0], (const char *const *)cli->args + 1, cli->n_args - 1,
                                out));
    if ((*out)->output.published[0] != '\0' && !rf_file_exists((*out)->output.published)) {
        RF_FAIL(RF_ERR_NOT_FOUND, "output.published: there is no file '%s'; \"\" asks for none",
                (*out)->output.published);
    }
fail:
    return status;
}

static void print_report(const rf_cli *cli, const rf_run_settings *settings,
                         const rf_train_report *report)
{
    char duration[32];
    rf_format_duration(report->seconds, duration);
    if (report->interrupted) {
        rf_cli_print(cli,
                     "stopped by signal %d and saved at step %" PRId64
                     "; train.resume=auto goes on from there\n",
                     report->signal, report->steps);
        return;
    }
    rf_cli_print(cli, "%" PRId64 " steps in %s; the run is in %s\n",
                 report->steps - report->first_step, duration, settings->output.dir);
    if (report->n_failed > 0) {
        rf_cli_print(cli, "%" PRId64 " of %" PRId64 " coders failed; summary.csv says which\n",
                     report->n_failed, settings->n_coders);
    }
    if (report->n_stopped > 0) {
        rf_cli_print(cli, "%" PRId64 " of %" PRId64 " coders stopped early\n", report->n_stopped,
                     settings->n_coders);
    }
    if (report->n_skipped > 0) {
        rf_cli_print(cli,
                     "%" PRId64 " steps were skipped, %" PRId64
                     " of them outliers; the others were not finite, or no token could be read\n",
                     report->n_skipped, report->n_outliers);
    }
}

/* Several coders beside each other. The run is whole without it, so a failure is a warning. */
static void report_sweep(const rf_cli *cli, const rf_run_settings *settings)
{
    const bool is_wanted = settings->n_coders > 1 || settings->output.published[0] != '\0';
    if (cli->is_root && is_wanted &&
        rf_cli_report_sweep(cli, settings->output.dir, NULL) != RF_OK) {
        rf_log(RF_LOG_WARN, "no page of the sweep was written: %s; 'refract report' tries again",
               rf_error_text());
    }
}

static rf_status run(rf_cli *cli)
{
    rf_status status = RF_OK;
    rf_run_settings *settings = NULL;
    rf_train_report report;
    RF_TRY(rf_comm_agree(
        cli->comm, rf_cli_run_settings(cli, "train FILE.yaml [key.path=value ...]", &settings)));
    RF_TRY(rf_train_run(cli->comm, settings, &report));
    print_report(cli, settings, &report);
    report_sweep(cli, settings);
fail:
    rf_run_settings_free(settings);
    return status;
}

static rf_status more_help(rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "Settings of section train (all: refract help settings):\n\n"));
    RF_TRY(rf_settings_write_help(&rf_train_settings_table, false, out));
fail:
    return status;
}

const rf_command rf_command_train = {
    .name = "train",
    .usage = "FILE.yaml [key.path=value ...]",
    .summary = "train every coder of a run file from one reading of the pictures",
    .help = "Runs the pictures through the model and trains all coders of FILE.yaml on its "
            "activations.\n"
            "Words behind the file override its settings. SIGTERM or SIGUSR1 saves and leaves;\n"
            "train.resume=auto goes on from the last checkpoint, or starts where there is none.\n\n"
            "examples:\n"
            "  refract train run.yaml\n"
            "  mpirun -n 4 --bind-to none refract train run.yaml train.lr=4e-4 train.resume=auto",
    .uses_ranks = true,
    .run = run,
    .more_help = more_help,
};
