/* Early stopping: a coder whose figure no longer improves is done, one whose figures show a bad run
 * has failed. Looked at when a line of metrics is made, from what stands in it. */
#include "run_impl.h"

#include <math.h>
#include <string.h>

const char *rf_stop_name(rf_stop stop)
{
    static const char *const names[RF_N_STOPS] = {"", "stop_metric", "bad run"};
    return (int)stop >= 0 && stop < RF_N_STOPS ? names[stop] : "?";
}

/* "max explained_variance" to +1 and the figure's name. */
static rf_status split(const char *text, double *sign, const char **figure)
{
    rf_status status = RF_OK;
    const bool is_max = strncmp(text, "max ", 4) == 0, is_min = strncmp(text, "min ", 4) == 0;

    *sign = is_max ? 1 : -1;
    *figure = text + 4;
    if ((!is_max && !is_min) || !rf_metrics_find_figure(NULL, *figure, NULL)) {
        RF_FAIL(RF_ERR_SETTING,
                "train.stop_metric = '%s': expected max or min and a figure of metrics.jsonl: max "
                "explained_variance, min loss, ...",
                text);
    }
    if (strcmp(*figure, "tokens_per_s") == 0) { /* ranks would stop at different lines */
        RF_FAIL(RF_ERR_SETTING,
                "train.stop_metric = '%s': that is of the clock, and of each rank another", text);
    }
fail:
    return status;
}

rf_status rf_stopping_check(const rf_train_settings *settings)
{
    rf_status status = RF_OK;
    double sign = 0;
    const char *figure = NULL;
    if (settings->stop_metric[0] != '\0') {
        RF_TRY(split(settings->stop_metric, &sign, &figure));
    }
fail:
    return status;
}

static bool is_bad(const rf_train_settings *settings, const rf_metrics_line *line)
{
    return settings->bad_l0 > 0 && settings->bad_ev > 0 && line->m.l0 < settings->bad_l0 &&
           line->m.explained_variance < settings->bad_ev;
}

/* A line without the figure (a skipped batch) is one more without improvement, once there was one
 * with it. */
static void look(rf_stopping *stopping, const rf_train_settings *settings, double sign,
                 double value)
{
    const bool is_first = stopping->n_lines == 0;
    if (is_first && !isfinite(value)) {
        return;
    }
    stopping->n_lines++;
    if (is_first || sign * (value - stopping->best) > settings->stop_min_change) {
        stopping->best = value;
        stopping->n_worse = 0;
    } else if (++stopping->n_worse >= settings->stop_patience) {
        stopping->stop = RF_STOP_METRIC;
    }
}

rf_status rf_stopping_update(rf_stopping *stopping, const rf_train_settings *settings,
                             const rf_metrics_line *line, bool is_warm)
{
    rf_status status = RF_OK;
    double sign = 0, value = 0;
    const char *figure = NULL;

    if (stopping->stop != RF_STOP_NONE) {
        return RF_OK;
    }
    if (is_warm && is_bad(settings, line)) {
        stopping->stop = RF_STOP_BAD;
    } else if (settings->stop_metric[0] != '\0') {
        RF_TRY(split(settings->stop_metric, &sign, &figure));
        rf_metrics_find_figure(line, figure, &value);
        look(stopping, settings, sign, value);
    }
fail:
    return status;
}
