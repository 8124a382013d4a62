/* refract cache: an activation store, from a run's model and pictures or from what another tool
 * wrote. */
#include "cli_impl.h"
#include "refract/train.h"

#include <string.h>

/* ---- what both do -----------------------------------------------------------------------------
 */

/* `repair=true` among the words is this command's own; it is taken out. */
static rf_status take_repair(rf_cli *cli, bool *is_asked)
{
    rf_status status = RF_OK;
    int n = 1;

    *is_asked = false;
    for (int i = 1; i < cli->n_args; i++) {
        const char *word = cli->args[i];
        if (strncmp(word, "repair=", 7) != 0) {
            cli->args[n++] = cli->args[i];
        } else if (strcmp(word, "repair=true") == 0 || strcmp(word, "repair=false") == 0) {
            *is_asked = word[7] == 't';
        } else {
            RF_FAIL(RF_ERR_USAGE, "%s: expected repair=true or repair=false", word);
        }
    }
    cli->n_args = n;
fail:
    return status;
}

/* Collective. */
static rf_status repair(const rf_cli *cli, const char *store)
{
    rf_status status = RF_OK;
    int64_t n_checked = 0, n_damaged = 0;

    status = rf_store_repair(cli->comm, store, &n_checked, &n_damaged);
    if (status == RF_ERR_INTERRUPTED) {
        rf_cli_print(cli, "stopped; the same command begins again to check %s\n", store);
    }
    RF_TRY(status);
    rf_cli_print(cli, "%s: %" PRId64 " groups checked, %" PRId64 " damaged%s\n", store, n_checked,
                 n_damaged, n_damaged > 0 ? ", now to be written again" : "");
fail:
    return status;
}

/* ---- of a run file -----------------------------------------------------------------------------
 */

static rf_status run_stopped(const rf_cli *cli, rf_status status, const char *store)
{
    if (status == RF_ERR_INTERRUPTED) {
        rf_cli_print(cli, "stopped; what is written stays in %s, and the same command goes on\n",
                     store);
    }
    return status;
}

static void print_done(const rf_cli *cli, const char *path, int64_t n_written, int64_t n_groups,
                       double n_bytes, double seconds)
{
    char size[32], duration[32];
    const double share = n_groups > 0 ? (double)n_written / (double)n_groups : 0;

    rf_format_bytes(n_bytes, size);
    rf_format_duration(seconds, duration);
    if (n_written == 0) {
        rf_cli_print(cli, "%s is finished already (%s); nothing was written\n", path, size);
        return;
    }
    rf_cli_print(cli, "wrote %" PRId64 " of %" PRId64 " groups in %s", n_written, n_groups,
                 duration);
    if (seconds > 0) {
        rf_cli_print(cli, ", %.1f MB/s", n_bytes * share / seconds / 1e6);
    }
    rf_cli_print(cli, "; %s has %s of values\n", path, size);
}

static rf_status load_settings(const rf_cli *cli, rf_run_settings **out)
{
    return rf_run_settings_load(cli->args[0], (const char *const *)cli->args + 1, cli->n_args - 1,
                                out);
}

static rf_status cache_run(const rf_cli *cli, bool is_repair)
{
    rf_status status = RF_OK;
    rf_run_settings *settings = NULL;
    rf_cache_report report = {0};
    char path[RF_PATH_LEN];

    RF_TRY(rf_comm_agree(cli->comm, load_settings(cli, &settings)));
    if (is_repair) {
        RF_TRY(rf_run_store_path(settings, path));
        RF_TRY(repair(cli, path));
    }
    status = rf_cache_run(cli->comm, settings, &report);
    RF_TRY(run_stopped(cli, status, report.path[0] != '\0' ? report.path : "the store"));
    rf_cli_print(cli, "%" PRId64 " hook points of %" PRId64 " pictures\n", report.n_sites,
                 report.n_pictures);
    print_done(cli, report.path, report.n_written, report.n_groups, report.n_bytes, report.seconds);
fail:
    rf_run_settings_free(settings);
    return status;
}

/* ---- of other tools' files ---------------------------------------------------------------------
 */

static rf_status read_import(const rf_cli *cli, rf_import_settings *out)
{
    rf_status status = RF_OK;
    rf_yaml *words = NULL;

    RF_TRY(rf_settings_defaults(&rf_import_settings_table, out));
    RF_TRY(rf_yaml_parse("{}", 2, "command line", &words));
    for (int i = 1; i < cli->n_args; i++) {
        RF_TRY(rf_yaml_override(words, cli->args[i]));
    }
    RF_TRY(rf_settings_read(&rf_import_settings_table, words, "import", NULL, out, NULL));
fail:
    rf_yaml_free(words);
    return status;
}

static rf_status cache_import(const rf_cli *cli, bool is_repair)
{
    rf_status status = RF_OK;
    rf_import_settings settings;
    rf_import_report report = {0};

    RF_TRY(rf_comm_agree(cli->comm, read_import(cli, &settings)));
    if (is_repair && settings.out[0] != '\0') {
        RF_TRY(repair(cli, settings.out));
    }
    status = rf_import_run(cli->comm, cli->args[0], &settings, &report);
    RF_TRY(run_stopped(cli, status, settings.out));
    rf_cli_print(cli, "%s: %" PRId64 " hook points of %" PRId64 " pictures\n", report.kind,
                 report.n_sites, report.n_pictures);
    print_done(cli, settings.out, report.n_written, report.n_groups, report.n_bytes,
               report.seconds);
    if (report.n_not_finite > 0) {
        rf_cli_print(cli, "%" PRId64 " values are NaN or infinite; they were kept\n",
                     report.n_not_finite);
    }
    if (report.n_too_large > 0) {
        rf_cli_print(cli,
                     "%" PRId64 " values are too large for the store's type and became infinite; "
                     "dtype=fp32 holds them\n",
                     report.n_too_large);
    }
fail:
    return status;
}

/* ---- the command -------------------------------------------------------------------------------
 */

static bool is_run_file(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot != NULL && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0);
}

static rf_status run(rf_cli *cli)
{
    rf_status status = RF_OK;
    bool is_repair = false;

    RF_TRY(rf_cli_need_args(cli, 1, "cache FILE.yaml|PATH [repair=true] [key=value ...]"));
    RF_TRY(take_repair(cli, &is_repair));
    status = is_run_file(cli->args[0]) || !rf_import_is_source(cli->args[0])
                 ? cache_run(cli, is_repair)
                 : cache_import(cli, is_repair);
fail:
    return status;
}

static rf_status more_help(rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "Settings of section activations (all: refract help settings):\n\n"));
    RF_TRY(rf_settings_write_help(&rf_activations_settings_table, false, out));
    RF_TRY(rf_str_append(out, "\nKeys of an import:\n\n"));
    RF_TRY(rf_settings_write_help(&rf_import_settings_table, false, out));
fail:
    return status;
}

const rf_command rf_command_cache = {
    .name = "cache",
    .usage = "FILE.yaml [repair=true] [key.path=value ...] | PATH out=STORE.h5 [key=value ...]",
    .summary = "write activations to a store, or import those of other tools",
    .help =
        "Of a run file: runs its pictures through the model once and writes the activations that\n"
        "its coders read, or those of activations.hooks, to activations.store. Training with\n"
        "activations.source=store then needs neither pictures nor model. A run that was killed,\n"
        "stopped or out of disk goes on with the same command, on any number of ranks; the bytes\n"
        "of the store do not depend on that. The model runs on train.device.\n\n"
        "Of other tools' activations (npy, safetensors, PyTorch's .pt as Prisma writes them, a\n"
        "folder of such files, saev's shards): makes the same store of them. What PATH is, its\n"
        "content says.\n\n"
        "repair=true, of both: first compares all of a store that is there with its checksums, "
        "and\n"
        "writes the groups that are damaged again.\n\n"
        "examples:\n"
        "  refract cache run.yaml activations.dtype=bf16\n"
        "  mpirun -n 4 --bind-to none refract cache run.yaml 'activations.hooks=[\"blocks.{0..11}"
        ".hook_resid_post\"]'\n"
        "  refract cache saev/shards/1a2b3c4d out=activations.h5 layers=6,11\n"
        "  refract cache acts.npy out=activations.h5 point=blocks.9.hook_resid_post cls=first",
    .uses_ranks = true,
    .run = run,
    .more_help = more_help,
};
