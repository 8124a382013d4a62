/* metrics.jsonl: a line of JSON for each coder and every log_every steps, appended whole, and cut
 * back to the checkpoint when a run goes on. */
#include "run_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct rf_metrics_log {
    int fd;
    char path[RF_PATH_LEN];
};

/* The figures of a line: their names in JSON, and where they are. */
typedef struct figure {
    const char *name;
    size_t offset;
    enum { REAL, WHOLE } type;
} figure;

#define LINE(field) offsetof(rf_metrics_line, field)
static const figure figures[] = {
    {"tokens", LINE(tokens), WHOLE},
    {"epoch", LINE(epoch), REAL},
    {"lr", LINE(lr), REAL},
    {"loss", LINE(m.loss), REAL},
    {"mse", LINE(m.mse), REAL},
    {"sparsity", LINE(m.sparsity), REAL},
    {"aux", LINE(m.aux), REAL},
    {"extra", LINE(m.extra), REAL},
    {"l0", LINE(m.l0), REAL},
    {"explained_variance", LINE(m.explained_variance), REAL},
    {"dead", LINE(m.n_dead), WHOLE},
    {"fired", LINE(m.n_fired), WHOLE},
    {"resampled", LINE(n_resampled), WHOLE},
    {"grad_norm", LINE(m.grad_norm), REAL},
    {"k", LINE(k), REAL},
    {"p", LINE(p), REAL},
    {"threshold", LINE(threshold), REAL},
    {"skipped", LINE(n_skipped), WHOLE},
    {"outliers", LINE(n_outliers), WHOLE},
    {"stopped", LINE(stopped), WHOLE},
    {"tokens_per_s", LINE(tokens_per_s), REAL},
};
enum { N_FIGURES = sizeof figures / sizeof figures[0] };

const char *rf_metrics_figure(const rf_metrics_line *line, int idx, double *value)
{
    if (idx < 0 || idx >= N_FIGURES) {
        return NULL;
    }
    const char *field = (const char *)line + figures[idx].offset;
    if (figures[idx].type == REAL) {
        memcpy(value, field, sizeof *value);
    } else {
        int64_t whole = 0;
        memcpy(&whole, field, sizeof whole);
        *value = (double)whole;
    }
    return figures[idx].name;
}

bool rf_metrics_find_figure(const rf_metrics_line *line, const char *name, double *value)
{
    const rf_metrics_line empty = {0};
    const char *known = NULL;
    double at = 0;
    name = strcmp(name, "ev") == 0 ? "explained_variance" : name;
    for (int i = 0; (known = rf_metrics_figure(line != NULL ? line : &empty, i, &at)) != NULL;
         i++) {
        if (strcmp(known, name) == 0) {
            if (value != NULL) {
                *value = at;
            }
            return true;
        }
    }
    return false;
}

rf_status rf_metrics_append_json(const rf_metrics_line *line, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "{\"tick\": %" PRId64 ", \"coder\": ", line->tick));
    RF_TRY(rf_json_append_str(out, line->coder));
    RF_TRY(rf_str_append(out, ", \"step\": %" PRId64, line->step));
    for (int i = 0; i < N_FIGURES; i++) {
        double value = 0;
        RF_TRY(rf_str_append(out, ", \"%s\": ", rf_metrics_figure(line, i, &value)));
        if (figures[i].type == REAL) {
            RF_TRY(rf_json_append_f64(out, value));
        } else {
            RF_TRY(rf_str_append(out, "%.0f", value));
        }
    }
    RF_TRY(rf_str_append(out, "}\n"));
fail:
    return status;
}

rf_status rf_metrics_parse_json(const char *text, int64_t n_bytes, rf_metrics_line *out)
{
    rf_status status = RF_OK;
    rf_json *root = NULL;
    const char *coder = NULL;
    const double nan_value = NAN; /* is written as null */

    memset(out, 0, sizeof *out);
    RF_TRY(rf_json_parse(text, n_bytes, "a line of metrics", &root));
    RF_TRY(rf_json_get_i64(root, "tick", NULL, &out->tick));
    RF_TRY(rf_json_get_i64(root, "step", NULL, &out->step));
    RF_TRY(rf_json_get_str(root, "coder", NULL, &coder));
    RF_TRY(rf_format(out->coder, sizeof out->coder, "%s", coder));
    for (int i = 0; i < N_FIGURES; i++) {
        char *field = (char *)out + figures[i].offset;
        if (figures[i].type == REAL) {
            double value = 0;
            RF_TRY(rf_json_get_f64(root, figures[i].name, &nan_value, &value));
            memcpy(field, &value, sizeof value);
        } else {
            int64_t value = 0;
            RF_TRY(rf_json_get_i64(root, figures[i].name, NULL, &value));
            memcpy(field, &value, sizeof value);
        }
    }
fail:
    rf_json_free(root);
    return status;
}

/* ---- appending ---------------------------------------------------------------------------------
 */

static rf_status raise_errno(const char *doing, const char *path)
{
    char reason[128];
    return rf_error_raise(RF_ERR_IO, __FILE__, __LINE__, "cannot %s '%s': %s", doing, path,
                          strerror_r(errno, reason, sizeof reason));
}

rf_status rf_metrics_log_open(const char *path, rf_metrics_log **out)
{
    rf_status status = RF_OK;
    rf_metrics_log *log = NULL;

    *out = NULL;
    RF_ALLOC(log, 1);
    RF_TRY(rf_format(log->path, sizeof log->path, "%s", path));
    log->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (log->fd < 0) {
        status = raise_errno("open", path);
        goto fail;
    }
    *out = log;
    return RF_OK;
fail:
    rf_free(log);
    return status;
}

rf_status rf_metrics_log_write(rf_metrics_log *log, const rf_metrics_line *line)
{
    rf_status status = RF_OK;
    rf_str text = {0};

    RF_TRY(rf_metrics_append_json(line, &text));
    for (int64_t done = 0; done < text.len;) {
        ssize_t n = write(log->fd, text.data + done, (size_t)(text.len - done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            errno = n == 0 ? ENOSPC : errno;
            status = raise_errno("write", log->path);
            goto fail;
        }
        done += n;
    }
fail:
    rf_str_fini(&text);
    return status;
}

rf_status rf_metrics_log_close(rf_metrics_log *log)
{
    rf_status status = RF_OK;
    if (log != NULL) {
        if (close(log->fd) != 0) {
            status = raise_errno("write", log->path);
        }
        rf_free(log);
    }
    return status;
}

/* ---- reading back ------------------------------------------------------------------------------
 */

/* The line that starts at `at`, without its end; false for a torn one or at the end of the file. */
static bool next_line(const rf_file_map *map, int64_t at, int64_t *n_bytes)
{
    const unsigned char *end = NULL;
    if (at < map->n_bytes) {
        end = memchr(map->bytes + at, '\n', (size_t)(map->n_bytes - at));
    }
    *n_bytes = end != NULL ? (int64_t)(end - (map->bytes + at)) : 0;
    return end != NULL;
}

/* Bytes of the whole lines of ticks up to `tick`. Ticks only rise. */
static int64_t count_bytes(const rf_file_map *map, int64_t tick)
{
    int64_t at = 0, n = 0;
    rf_metrics_line line;
    while (next_line(map, at, &n)) {
        if (rf_metrics_parse_json((const char *)map->bytes + at, n, &line) != RF_OK ||
            line.tick > tick) {
            break;
        }
        at += n + 1;
    }
    return at;
}

static rf_status shorten(const char *path, int64_t n_bytes)
{
    rf_status status = RF_OK;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return raise_errno("open", path);
    }
    if (ftruncate(fd, (off_t)n_bytes) != 0 || fsync(fd) != 0) {
        status = raise_errno("shorten", path);
    }
    close(fd);
    return status;
}

rf_status rf_metrics_cut(const char *path, int64_t tick)
{
    rf_status status = RF_OK;
    rf_file_map map = {0};
    int64_t n_bytes = 0, n_kept = 0;

    if (!rf_file_exists(path)) {
        return RF_OK;
    }
    RF_TRY(rf_file_map_open(path, &map));
    n_bytes = map.n_bytes;
    n_kept = count_bytes(&map, tick);
    rf_file_map_close(&map); /* a mapped file must not shrink */
    if (n_kept < n_bytes) {
        RF_TRY(shorten(path, n_kept));
    }
fail:
    return status;
}

rf_status rf_metrics_find_last(const char *path, const char *coder, int64_t max_step,
                               rf_metrics_line *out, bool *has)
{
    rf_status status = RF_OK;
    rf_file_map map = {0};
    rf_metrics_line line;
    int64_t n = 0;

    *has = false;
    if (!rf_file_exists(path)) {
        return RF_OK;
    }
    RF_TRY(rf_file_map_open(path, &map));
    for (int64_t at = 0; next_line(&map, at, &n); at += n + 1) {
        RF_TRY(rf_metrics_parse_json((const char *)map.bytes + at, n, &line));
        if (strcmp(line.coder, coder) == 0 && line.step <= max_step) {
            *out = line;
            *has = true;
        }
    }
fail:
    rf_file_map_close(&map);
    return status;
}
