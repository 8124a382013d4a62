/* refract plan: what a run will take, before anything starts. */
#include "cli_impl.h"
#include "refract/train.h"

#include <math.h>
#include <string.h>

enum { MAX_RANKS = 1 << 20 };

/* "80GB", "64GiB", "8e10": bytes, more than 0. */
static rf_status parse_bytes(const char *text, double *out)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"GiB", 0x1p30}, {"MiB", 0x1p20}, {"GB", 1e9}, {"MB", 1e6}};
    rf_status status = RF_OK;
    char digits[32];
    double scale = 1;
    size_t n = strlen(text);

    for (size_t i = 0; i < sizeof units / sizeof *units && scale == 1; i++) {
        const size_t n_unit = strlen(units[i].name);
        if (n > n_unit && strcmp(text + n - n_unit, units[i].name) == 0) {
            scale = units[i].bytes;
            n -= n_unit;
        }
    }
    if (n >= sizeof digits || rf_format(digits, sizeof digits, "%.*s", (int)n, text) != RF_OK ||
        rf_parse_f64(digits, out) != RF_OK || !(*out > 0) || !isfinite(*out * scale)) {
        RF_FAIL(RF_ERR_USAGE, "device_memory=%s: expected bytes, as in 80GB, 64GiB or 8e10", text);
    }
    *out *= scale;
fail:
    return status;
}

/* `ranks=` and `device_memory=` are plan's own words; the others, which are settings, stay. */
static rf_status take_words(rf_cli *cli, int64_t *n_ranks, double *device_bytes)
{
    rf_status status = RF_OK;
    int n = 0;

    for (int i = 0; i < cli->n_args; i++) {
        if (strncmp(cli->args[i], "ranks=", 6) == 0) {
            RF_TRY(rf_parse_i64(cli->args[i] + 6, n_ranks));
        } else if (strncmp(cli->args[i], "device_memory=", 14) == 0) {
            RF_TRY(parse_bytes(cli->args[i] + 14, device_bytes));
        } else {
            cli->args[n++] = cli->args[i];
        }
    }
    cli->n_args = n;
    if (*n_ranks < 1 || *n_ranks > MAX_RANKS) {
        RF_FAIL(RF_ERR_USAGE, "ranks=%" PRId64 ": expected 1 or more", *n_ranks);
    }
fail:
    return status;
}

static rf_status run(rf_cli *cli)
{
    rf_status status = RF_OK;
    rf_run_settings *settings = NULL;
    rf_str text = {0};
    int64_t n_ranks = 1;
    double device_bytes = 0;

    RF_TRY(take_words(cli, &n_ranks, &device_bytes));
    RF_TRY(rf_cli_run_settings(
        cli, "plan FILE.yaml [ranks=N] [device_memory=BYTES] [key.path=value ...]", &settings));
    RF_TRY(rf_train_plan(settings, (int)n_ranks, device_bytes, &text));
    rf_cli_print(cli, "%s", text.data);
fail:
    rf_str_fini(&text);
    rf_run_settings_free(settings);
    return status;
}

const rf_command rf_command_plan = {
    .name = "plan",
    .usage = "FILE.yaml [ranks=N] [device_memory=BYTES] [key.path=value ...]",
    .summary = "what a run will take: memory, bytes, arithmetic, hours",
    .help =
        "Reads FILE.yaml, the model's configuration and the list of pictures, and prints what\n"
        "'refract train' would take on N ranks (1 by default), before anything starts. Hours are\n"
        "an estimate from one matrix product that is timed for it.\n\n"
        "Where train.device is a GPU, memory is that of each rank's GPU, with what stays on the\n"
        "host beside it, whether it fits, and which settings would make it. What a GPU has is "
        "asked\n"
        "of the one that is here, or said: device_memory=80GB.\n\n"
        "examples:\n"
        "  refract plan run.yaml ranks=8\n"
        "  refract plan run.yaml ranks=8 device_memory=80GB\n\n"
        "keys:\n"
        "  ranks=N               ranks that the run will have, default 1\n"
        "  device_memory=BYTES   of each rank's GPU: 80GB, 64GiB or a number",
    .uses_ranks = false,
    .run = run,
};
