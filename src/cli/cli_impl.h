/* Private to cli: the table of commands and what they share. */
#ifndef REFRACT_CLI_IMPL_H
#define REFRACT_CLI_IMPL_H

#include "refract/base.h"
#include "refract/comm.h"
#include "refract/data.h"
#include "refract/tensor.h"
#include "refract/train.h"
#include "refract/vit.h"

/* What a command gets. `args` are the words behind its name; nothing is owned. */
typedef struct rf_cli {
    rf_comm *comm; /* the world; NULL for commands that start no MPI */
    int n_args;
    char **args;
    bool is_root; /* rank 0, or no ranks at all: it alone prints */
} rf_cli;

typedef struct rf_command {
    const char *name;
    const char *usage;   /* behind "refract NAME " */
    const char *summary; /* one line */
    const char *help;    /* what it does, an example, its keys */
    bool uses_ranks;     /* starts MPI */
    rf_status (*run)(rf_cli *cli);
    /* Text made from settings tables and put behind `help`; NULL: none. */
    rf_status (*more_help)(rf_str *out);
} rf_command;

extern const rf_command rf_command_activations, rf_command_cache, rf_command_check, rf_command_eval,
    rf_command_export, rf_command_info, rf_command_init, rf_command_plan, rf_command_report,
    rf_command_train, rf_command_zero_shot;

/* The value of the word "key=..." among the arguments from `first` on, or `fallback`. */
const char *rf_cli_value(const rf_cli *cli, int first, const char *key, const char *fallback);
/* Refuse words that are not key=value with a key among `keys` (ends in NULL). */
rf_status rf_cli_check_keys(const rf_cli *cli, int first, const char *const *keys);
/* USAGE unless there are at least `n` words. */
rf_status rf_cli_need_args(const rf_cli *cli, int n, const char *usage);
/* Threads of this rank: `wanted`, or the host's cores over its ranks. Collective over cli->comm. */
rf_status rf_cli_threads(const rf_cli *cli, int64_t wanted, int *out);
/* The run file that is the first word, with the settings behind it over its own; `usage` where
 * there is none. Also refuses published figures that are not there. Local. */
rf_status rf_cli_run_settings(const rf_cli *cli, const char *usage, rf_run_settings **out);
/* The value of device=NAME from word `first` on, as train.device; auto where there is none. */
rf_status rf_cli_device(const rf_cli *cli, int first, rf_device *out);
/* "model.path=..." or "model.NAME.path=...": where a model is now. */
bool rf_cli_is_model_path(const char *word);
/* Read the run folder `dir`, write its page and say where it is; of several coders print their
 * table too, and the figures of `published` (NULL: what output.published says) beside ours. Of the
 * root rank alone. */
rf_status rf_cli_report_sweep(const rf_cli *cli, const char *dir, const char *published);
/* How many arguments stand before the first key=value. */
int rf_cli_n_words(const rf_cli *cli);
/* Print to standard output on the root rank. */
void rf_cli_print(const rf_cli *cli, const char *fmt, ...) RF_PRINTF(2, 3);

/* The model of `folder` with pictures, on device=NAME, threads=N, as row=FILE says. */
rf_status rf_cli_session(const rf_cli *cli, const char *folder, rf_session *out);
/* Install the sinks of log and progress, and the handlers of SIGTERM, SIGINT and SIGUSR1. */
void rf_terminal_init(bool is_root, int rank, int size);

#endif
