/* Words to commands: dispatch, help, exit codes. */
#include "refract/cli.h"

#include "cli_impl.h"
#include "refract/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static const rf_command *const commands[] = {
    &rf_command_init,        &rf_command_plan,   &rf_command_train,     &rf_command_cache,
    &rf_command_eval,        &rf_command_report, &rf_command_export,    &rf_command_info,
    &rf_command_activations, &rf_command_check,  &rf_command_zero_shot,
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

void rf_cli_print(const rf_cli *cli, const char *fmt, ...)
{
    if (cli->is_root) {
        va_list args;
        va_start(args, fmt);
        vprintf(fmt, args);
        va_end(args);
        fflush(stdout);
    }
}

bool rf_cli_is_model_path(const char *word)
{
    const char *value = strchr(word, '=');
    const size_t n = value != NULL ? (size_t)(value - word) : 0;
    return strncmp(word, "model.", 6) == 0 && n >= 10 && strncmp(value - 5, ".path", 5) == 0;
}

int rf_cli_n_words(const rf_cli *cli)
{
    int n = 0;
    while (n < cli->n_args && strchr(cli->args[n], '=') == NULL) {
        n++;
    }
    return n;
}

rf_status rf_cli_session(const rf_cli *cli, const char *folder, rf_session *out)
{
    rf_status status = RF_OK;
    const int n_words = rf_cli_n_words(cli);
    int64_t n_wanted = 0;
    int n_threads = 0;
    rf_device device = RF_DEVICE_AUTO;
    RF_TRY(rf_parse_i64(rf_cli_value(cli, n_words, "threads", "0"), &n_wanted));
    RF_TRY(rf_cli_threads(cli, n_wanted, &n_threads));
    RF_TRY(rf_cli_device(cli, n_words, &device));
    const rf_vit_opts opts = {.row = rf_cli_value(cli, n_words, "row", NULL)};
    RF_TRY(rf_session_open(folder, device, n_threads, &opts, out));
fail:
    return status;
}

rf_status rf_cli_device(const rf_cli *cli, int first, rf_device *out)
{
    rf_status status = RF_OK;
    const char *word = rf_cli_value(cli, first, "device", rf_device_names[RF_DEVICE_AUTO]);
    int i = 0;
    while (rf_device_names[i] != NULL && strcmp(rf_device_names[i], word) != 0) {
        i++;
    }
    if (rf_device_names[i] == NULL) {
        RF_FAIL(RF_ERR_USAGE, "device=%s: expected %s, %s or %s", word, rf_device_names[0],
                rf_device_names[1], rf_device_names[2]);
    }
    *out = (rf_device)i;
fail:
    return status;
}

const char *rf_cli_value(const rf_cli *cli, int first, const char *key, const char *fallback)
{
    size_t n = strlen(key);
    for (int i = first; i < cli->n_args; i++) {
        if (strncmp(cli->args[i], key, n) == 0 && cli->args[i][n] == '=') {
            return cli->args[i] + n + 1;
        }
    }
    return fallback;
}

rf_status rf_cli_check_keys(const rf_cli *cli, int first, const char *const *keys)
{
    rf_status status = RF_OK;
    for (int i = first; i < cli->n_args; i++) {
        const char *word = cli->args[i], *equals = strchr(word, '=');
        if (equals == NULL) {
            RF_FAIL(RF_ERR_USAGE, "'%s': expected key=value", word);
        }
        bool is_known = false;
        for (int64_t j = 0; keys[j] != NULL && !is_known; j++) {
            size_t n = strlen(keys[j]);
            is_known = (size_t)(equals - word) == n && strncmp(word, keys[j], n) == 0;
        }
        if (!is_known) {
            RF_FAIL(RF_ERR_USAGE, "'%s': unknown key; --help lists them", word);
        }
    }
fail:
    return status;
}

rf_status rf_cli_need_args(const rf_cli *cli, int n, const char *usage)
{
    rf_status status = RF_OK;
    if (cli->n_args < n) {
        RF_FAIL(RF_ERR_USAGE, "too few words; usage: refract %s", usage);
    }
fail:
    return status;
}

rf_status rf_cli_threads(const rf_cli *cli, int64_t wanted, int *out)
{
    rf_status status = RF_OK;
    rf_comm *host = NULL;
    int n_local = 1;
    if (cli->comm != NULL) {
        RF_TRY(rf_comm_split_host(cli->comm, &host));
        n_local = rf_comm_size(host);
    }
    int64_t n_cores = rf_max_i64(1, sysconf(_SC_NPROCESSORS_ONLN));
    RF_TRY(rf_cast_int(wanted > 0 ? wanted : rf_max_i64(1, n_cores / n_local), "threads", out));
fail:
    rf_comm_destroy(host);
    return status;
}

static void print_usage(FILE *to)
{
    fprintf(
        to,
        "refract %s: sparse coders on vision transformers\n\n"
        "usage: refract COMMAND ...   (train, cache and eval also on several ranks: mpirun -n N "
        "refract ...)\n\n",
        RF_VERSION);
    for (int i = 0; i < N_COMMANDS; i++) {
        fprintf(to, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
    }
    fprintf(to, "\n  refract COMMAND --help      what it does, with an example\n"
                "  refract help settings       every setting of a run file\n"
                "\nFirst: refract init MODEL PICTURES out=run.yaml\n");
}

static int print_command_help(const rf_command *command)
{
    rf_str more = {0};
    printf("usage: refract %s %s\n\n%s\n", command->name, command->usage, command->help);
    rf_status status = command->more_help != NULL ? command->more_help(&more) : RF_OK;
    if (status == RF_OK && more.data != NULL) {
        printf("\n%s", more.data);
    }
    rf_str_fini(&more);
    return status == RF_OK ? EXIT_DONE : EXIT_FAILED;
}

static const char settings_page_head[] = "# Settings\n\nEvery key of a run file; `refract help "
                                         "settings format=markdown` prints this page.\n\n";

static int help(int n_words, char **words)
{
    if (n_words > 0 && strcmp(words[0], "settings") == 0) {
        rf_str text = {0};
        bool markdown = n_words > 1 && strcmp(words[1], "format=markdown") == 0;
        rf_status status = rf_run_settings_write_help(markdown, &text);
        if (status == RF_OK) {
            printf("%s%s", markdown ? settings_page_head : "", text.data);
        }
        rf_str_fini(&text);
        return status == RF_OK ? EXIT_DONE : EXIT_FAILED;
    }
    for (int i = 0; n_words > 0 && i < N_COMMANDS; i++) {
        if (strcmp(words[0], commands[i]->name) == 0) {
            return print_command_help(commands[i]);
        }
    }
    print_usage(stdout);
    return EXIT_DONE;
}

static bool wants_help(int n_words, char **words)
{
    for (int i = 0; i < n_words; i++) {
        if (strcmp(words[i], "--help") == 0 || strcmp(words[i], "-h") == 0) {
            return true;
        }
    }
    return false;
}

/* Every rank ends with the same code: a failure was agreed on before it came here, or is agreed on
 * now; only the root tells of it. */
static int run(const rf_command *command, int argc, char **argv)
{
    rf_cli cli = {.n_args = argc - 2, .args = argv + 2, .is_root = true};
    rf_status status = RF_OK;
    const char *n_started = getenv("OMPI_COMM_WORLD_SIZE");
    if (!command->uses_ranks && n_started != NULL && strcmp(n_started, "1") != 0) {
        fprintf(stderr, "refract %s runs on one rank: start it without mpirun\n", command->name);
        return EXIT_USAGE;
    }
    if (command->uses_ranks) {
        status = rf_comm_start(&argc, &argv, &cli.comm);
        if (status != RF_OK) {
            fprintf(stderr, "refract: %s\n", rf_error_text());
            return EXIT_FAILED;
        }
        cli.is_root = rf_comm_rank(cli.comm) == 0;
    }
    rf_terminal_init(cli.is_root, cli.comm != NULL ? rf_comm_rank(cli.comm) : 0,
                     cli.comm != NULL ? rf_comm_size(cli.comm) : 1);
    status = command->run(&cli);
    if (cli.comm != NULL) {
        status = rf_comm_agree(cli.comm, status);
    }
    if (status != RF_OK && cli.is_root) {
        fprintf(stderr, "refract %s: %s\n", command->name, rf_error_text());
    }
    rf_comm_finish(cli.comm);
    return status == RF_OK ? EXIT_DONE : status == RF_ERR_USAGE ? EXIT_USAGE : EXIT_FAILED;
}

int rf_cli_run(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("refract %s\n", RF_VERSION);
        return EXIT_DONE;
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 ||
        strcmp(argv[1], "-h") == 0) {
        return help(argc - 2, argv + 2);
    }
    const char *nearest = commands[0]->name;
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i]->name) == 0) {
            return wants_help(argc - 2, argv + 2) ? print_command_help(commands[i])
                                                  : run(commands[i], argc, argv);
        }
        if (rf_str_distance(argv[1], commands[i]->name) < rf_str_distance(argv[1], nearest)) {
            nearest = commands[i]->name;
        }
    }
    fprintf(stderr,
            "refract: there is no command '%s'; did you mean '%s'? 'refract help' lists them\n",
            argv[1], nearest);
    return EXIT_USAGE;
}
