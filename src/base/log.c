/* Where lines and progress go, the clock, and the flag that a signal sets. */
#include "refract/base.h"

#include <signal.h>
#include <stdio.h>
#include <time.h>

static rf_log_sink log_sink;
static void *log_user;
static rf_progress_sink progress_sink;
static void *progress_user;
static volatile sig_atomic_t pending_signal;

void rf_log_set_sink(rf_log_sink sink, void *user)
{
    log_sink = sink;
    log_user = user;
}

void rf_log(rf_log_level level, const char *fmt, ...)
{
    if (log_sink != NULL) {
        char line[2048];
        va_list args;
        va_start(args, fmt);
        vsnprintf(line, sizeof line, fmt, args);
        va_end(args);
        log_sink(log_user, level, line);
    }
}

void rf_progress_set_sink(rf_progress_sink sink, void *user)
{
    progress_sink = sink;
    progress_user = user;
}

void rf_progress(const char *label, int64_t done, int64_t total, const char *detail)
{
    if (progress_sink != NULL) {
        enum { BAR = 20 };
        char line[512], bar[BAR + 1];
        int64_t filled = total > 0 ? rf_min_i64(BAR, BAR * done / total) : 0;
        for (int i = 0; i < BAR; i++) {
            bar[i] = i < filled ? '#' : '.';
        }
        bar[BAR] = '\0';
        snprintf(line, sizeof line, "%s [%s] %" PRId64 "/%" PRId64 "  %s", label, bar, done, total,
                 detail != NULL ? detail : "");
        progress_sink(progress_user, line, done >= total);
    }
}

double rf_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void rf_interrupt_raise(int signal_number)
{
    pending_signal = signal_number;
}

int rf_interrupt_pending(void)
{
    return pending_signal;
}

void rf_interrupt_clear(void)
{
    pending_signal = 0;
}
