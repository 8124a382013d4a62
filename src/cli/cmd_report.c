/* refract report: the page and the table of a sweep. */
#include "cli_impl.h"
#include "refract/report.h"

/* Figures that were asked for by a word must be there; those that the settings name are left out
 * where their file is not at hand any more. */
static rf_status read_published(rf_sweep_report *report, const char *published)
{
    rf_status status = rf_published_read(report, published);
    if (status != RF_OK && published == NULL) {
        rf_log(RF_LOG_WARN, "output.published is left out: %s", rf_error_text());
        return RF_OK;
    }
    return status;
}

static rf_status print_published(const rf_cli *cli, const rf_sweep_report *report)
{
    rf_status status = RF_OK;
    rf_str text = {0};
    char path[RF_PATH_LEN];
    RF_TRY(rf_published_table(report, &text));
    RF_TRY(rf_published_write(report, path));
    if (path[0] != '\0') {
        rf_cli_print(cli, "\n%swrote %s\n", text.data, path);
    }
fail:
    rf_str_fini(&text);
    return status;
}

rf_status rf_cli_report_sweep(const rf_cli *cli, const char *dir, const char *published)
{
    rf_status status = RF_OK;
    rf_sweep_report *report = NULL;
    rf_str text = {0};
    char path[RF_PATH_LEN];
    RF_TRY(rf_sweep_report_open(dir, &report));
    RF_TRY(read_published(report, published));
    RF_TRY(rf_sweep_report_write(report, path));
    if (rf_sweep_report_n_coders(report) > 1) {
        RF_TRY(rf_sweep_report_table(report, &text));
        rf_cli_print(cli, "\n%s", text.data);
    }
    rf_cli_print(cli, "wrote %s\n", path);
    RF_TRY(print_published(cli, report));
fail:
    rf_str_fini(&text);
    rf_sweep_report_close(report);
    return status;
}

static rf_status run(rf_cli *cli)
{
    static const char *const keys[] = {"published", NULL};
    rf_status status = RF_OK;
    RF_TRY(rf_cli_need_args(cli, 1, "report RUN [published=FILE.csv]"));
    RF_TRY(rf_cli_check_keys(cli, 1, keys));
    RF_TRY(rf_cli_report_sweep(cli, cli->args[0], rf_cli_value(cli, 1, "published", NULL)));
fail:
    return status;
}

const rf_command rf_command_report = {
    .name = "report",
    .usage = "RUN [published=FILE.csv]",
    .summary = "a run's coders side by side: one page that needs no network",
    .help =
        "Reads the run folder RUN and writes RUN/sweep.html: explained variance against L0 with "
        "the front\n"
        "and the best coder by output.select, curves side by side, and a table of every coder. "
        "'refract train'\n"
        "writes it at the end of a run of several coders; this writes it anew, of a run that "
        "goes on too,\n"
        "and with held-out figures once 'refract eval RUN' has measured them.\n\n"
        "published=FILE.csv sets figures that others published for coders of the same names beside "
        "ours, in the\n"
        "terminal, on the page and in RUN/published.csv; without it output.published of the run "
        "says which.\n\n"
        "examples:\n"
        "  refract report runs/first\n"
        "  refract report runs/prisma published=configs/published/prisma.csv",
    .uses_ranks = false,
    .run = run,
};
