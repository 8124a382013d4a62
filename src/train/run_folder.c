/* A run's folder: config.yaml, metrics.jsonl, summary.csv, checkpoints/, one folder per coder. */
#include "run_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECKPOINTS "checkpoints"
static const char prefix[] = "step-", suffix[] = ".h5";

rf_status rf_run_folder_config(const char *dir, char out[RF_PATH_LEN])
{
    return rf_path_join(out, dir, "config.yaml");
}

rf_status rf_run_folder_metrics(const char *dir, char out[RF_PATH_LEN])
{
    return rf_path_join(out, dir, "metrics.jsonl");
}

rf_status rf_run_folder_coder(const char *dir, const char *name, char out[RF_PATH_LEN])
{
    return rf_path_join(out, dir, name);
}

rf_status rf_run_folder_checkpoint(const char *dir, int64_t tick, char out[RF_PATH_LEN])
{
    rf_status status = RF_OK;
    char name[64];
    RF_TRY(rf_format(name, sizeof name, CHECKPOINTS "/%s%08" PRId64 "%s", prefix, tick, suffix));
    RF_TRY(rf_path_join(out, dir, name));
fail:
    return status;
}

/* The number in "step-00000123.h5". */
static bool parse_name(const char *name, int64_t *tick)
{
    char digits[24];
    size_t n = strlen(name), n_prefix = sizeof prefix - 1, n_suffix = sizeof suffix - 1;
    if (n <= n_prefix + n_suffix || n - n_prefix - n_suffix >= sizeof digits ||
        strncmp(name, prefix, n_prefix) != 0 || strcmp(name + n - n_suffix, suffix) != 0) {
        return false;
    }
    memcpy(digits, name + n_prefix, n - n_prefix - n_suffix);
    digits[n - n_prefix - n_suffix] = '\0';
    return digits[strspn(digits, "0123456789")] == '\0' && rf_parse_i64(digits, tick) == RF_OK;
}

static int compare_i64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static rf_status list_names(const char *dir, char folder[RF_PATH_LEN], char ***names, int64_t *n)
{
    rf_status status = RF_OK;
    *names = NULL;
    *n = 0;
    RF_TRY(rf_path_join(folder, dir, CHECKPOINTS));
    if (rf_file_is_dir(folder)) {
        RF_TRY(rf_file_list(folder, names, n));
    }
fail:
    return status;
}

rf_status rf_run_folder_list(const char *dir, int64_t **out, int64_t *n_out)
{
    rf_status status = RF_OK;
    char folder[RF_PATH_LEN], **names = NULL;
    int64_t n_names = 0, n = 0, *ticks = NULL;

    *out = NULL;
    *n_out = 0;
    RF_TRY(list_names(dir, folder, &names, &n_names));
    RF_ALLOC(ticks, n_names);
    for (int64_t i = 0; i < n_names; i++) {
        if (parse_name(names[i], &ticks[n])) {
            n++;
        }
    }
    qsort(ticks, (size_t)n, sizeof *ticks, compare_i64);
    *out = ticks;
    *n_out = n;
fail:
    rf_file_list_free(names, n_names);
    return status;
}

rf_status rf_run_folder_is_used(const char *dir, bool *out)
{
    rf_status status = RF_OK;
    char config[RF_PATH_LEN], metrics[RF_PATH_LEN];
    int64_t *ticks = NULL, n = 0;

    RF_TRY(rf_run_folder_config(dir, config));
    RF_TRY(rf_run_folder_metrics(dir, metrics));
    RF_TRY(rf_run_folder_list(dir, &ticks, &n));
    *out = n > 0 || rf_file_exists(config) || rf_file_exists(metrics);
fail:
    rf_free(ticks);
    return status;
}

static rf_status remove_file(const char *path)
{
    rf_status status = RF_OK;
    if (unlink(path) != 0 && errno != ENOENT) {
        char reason[128];
        RF_FAIL(RF_ERR_IO, "cannot remove '%s': %s", path,
                strerror_r(errno, reason, sizeof reason));
    }
fail:
    return status;
}

static bool is_half_written(const char *name)
{
    size_t n = strlen(name);
    return strncmp(name, prefix, sizeof prefix - 1) == 0 && n > 4 &&
           strcmp(name + n - 4, ".tmp") == 0;
}

rf_status rf_run_folder_prune(const char *dir, int64_t tick, int64_t keep)
{
    return rf_run_folder_prune_after(dir, -1, tick, keep);
}

rf_status rf_run_folder_prune_after(const char *dir, int64_t after, int64_t tick, int64_t keep)
{
    rf_status status = RF_OK;
    char folder[RF_PATH_LEN], path[RF_PATH_LEN], **names = NULL;
    int64_t n_names = 0, n = 0, n_upto = 0, *ticks = NULL;

    RF_TRY(list_names(dir, folder, &names, &n_names));
    for (int64_t i = 0; i < n_names; i++) {
        if (is_half_written(names[i])) {
            RF_TRY(rf_path_join(path, folder, names[i]));
            RF_TRY(remove_file(path));
        }
    }
    RF_TRY(rf_run_folder_list(dir, &ticks, &n));
    while (n_upto < n && ticks[n_upto] <= tick) {
        n_upto++;
    }
    for (int64_t i = 0; i < n_upto - keep; i++) {
        if (ticks[i] > after) {
            RF_TRY(rf_run_folder_checkpoint(dir, ticks[i], path));
            RF_TRY(remove_file(path));
        }
    }
fail:
    rf_free(ticks);
    rf_file_list_free(names, n_names);
    return status;
}

rf_status rf_run_folder_remove_summary(const char *dir)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    RF_TRY(rf_path_join(path, dir, "summary.csv"));
    RF_TRY(remove_file(path));
fail:
    return status;
}

rf_status rf_run_folder_set_aside(const char *dir, int64_t tick)
{
    rf_status status = RF_OK;
    char from[RF_PATH_LEN], to[RF_PATH_LEN];
    RF_TRY(rf_run_folder_checkpoint(dir, tick, from));
    RF_TRY(rf_format(to, sizeof to, "%s.bad", from));
    if (rename(from, to) != 0) {
        char reason[128];
        RF_FAIL(RF_ERR_IO, "cannot rename '%s' to '%s': %s", from, to,
                strerror_r(errno, reason, sizeof reason));
    }
fail:
    return status;
}
