/* What a person sees while a command runs: lines, a progress bar, and signals that become a flag.
 */
#include "cli_impl.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct {
    bool is_root, has_bar, bar_is_open;
    int rank, size;
    double last_plain_line;
} terminal;

enum { SECONDS_BETWEEN_PLAIN_LINES = 5 };

static void close_bar(void)
{
    if (terminal.bar_is_open) {
        fputc('\n', stderr);
        terminal.bar_is_open = false;
    }
}

static void print_line(void *user, rf_log_level level, const char *line)
{
    (void)user;
    if (level == RF_LOG_DEBUG || (level == RF_LOG_INFO && !terminal.is_root)) {
        return;
    }
    close_bar();
    const char *word = level == RF_LOG_WARN ? "warning: " : level == RF_LOG_ERROR ? "error: " : "";
    if (level >= RF_LOG_WARN && terminal.size > 1) {
        fprintf(stderr, "rank %d: %s%s\n", terminal.rank, word, line);
    } else {
        fprintf(stderr, "%s%s\n", word, line);
    }
}

static void print_progress(void *user, const char *line, bool is_last)
{
    (void)user;
    if (!terminal.is_root) {
        return;
    }
    if (terminal.has_bar) {
        fprintf(stderr, "\r\033[K%s", line);
        fflush(stderr);
        terminal.bar_is_open = true;
        if (is_last) {
            close_bar();
        }
        return;
    }
    double now = rf_now();
    if (is_last || now - terminal.last_plain_line >= SECONDS_BETWEEN_PLAIN_LINES) {
        terminal.last_plain_line = now;
        fprintf(stderr, "%s\n", line);
    }
}

static void on_signal(int signal_number)
{
    rf_interrupt_raise(signal_number);
}

void rf_terminal_init(bool is_root, int rank, int size)
{
    terminal.is_root = is_root;
    terminal.rank = rank;
    terminal.size = size;
    terminal.has_bar = isatty(STDERR_FILENO) == 1;
    terminal.last_plain_line = rf_now() - SECONDS_BETWEEN_PLAIN_LINES;
    rf_log_set_sink(print_line, NULL);
    rf_progress_set_sink(print_progress, NULL);

    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file limit becomes an error of write(), which is reported */
    signal(SIGPIPE, SIG_DFL);
}
