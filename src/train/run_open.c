/* A run's folder as others read it: settings, and for each coder the newest whole checkpoint that
 * has it: those of a pass that is over are in another file than those of the next. */
#include "run_impl.h"

#include <string.h>

struct rf_run {
    char checkpoint[RF_PATH_LEN];
    char *weight_processing;
    rf_run_settings *settings;
    int64_t step;
    int64_t *ticks; /* [n_coders] of the checkpoint that has the coder, -1: none */
    int64_t *ends;  /* of passes */
    int64_t end;    /* coders from here on are of passes that have not begun */
};

static rf_status load_coder(rf_backend *be, rf_stream *s, const char *path,
                            const rf_coder_settings *settings, int64_t idx, rf_coder **out)
{
    rf_status status = RF_OK;
    rf_coder *coder = NULL;
    rf_coder_shape shape;

    RF_TRY(rf_checkpoint_read_shape(path, idx, settings, &shape));
    RF_TRY(rf_coder_create(be, settings, &shape, &coder));
    rf_checkpoint_coder c = {.name = settings->name, .coder = coder};
    RF_TRY(rf_checkpoint_read_coder(path, s, idx, &c));
    *out = coder;
    return RF_OK;
fail:
    rf_coder_destroy(coder);
    return status;
}

/* Whether a coder of the file is one that no newer file has. */
static bool has_news(const rf_run *run, const rf_checkpoint_header *header)
{
    bool has = false;
    for (int64_t i = header->first; i < header->first + header->n_held; i++) {
        has = has || run->ticks[i] < 0;
    }
    return has;
}

/* Read every coder of the file once: what was damaged shows in the checksums. */
static rf_status check_coders(const rf_run *run, const char *path,
                              const rf_checkpoint_header *header)
{
    rf_status status = RF_OK;
    rf_backend *be = NULL;
    rf_stream *s = NULL;
    rf_coder *coder = NULL;

    RF_TRY(rf_backend_cpu_create(1, &be));
    RF_TRY(rf_stream_create(be, &s));
    for (int64_t i = header->first; i < header->first + header->n_held; i++) {
        RF_TRY(load_coder(be, s, path, &run->settings->coders[i].coder, i, &coder));
        rf_coder_destroy(coder);
        coder = NULL;
    }
fail:
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    return status;
}

/* Its coders are found where no newer file has them; the newest file is what the run stands for. */
static rf_status take_checkpoint(rf_run *run, const char *path, int64_t tick)
{
    rf_status status = RF_OK;
    rf_checkpoint_header header = {0};
    RF_TRY(rf_checkpoint_read_header(path, &header));
    if (header.tick != tick || header.n_coders != run->settings->n_coders) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s' is of step %" PRId64 " with %" PRId64 " coders, expected step %" PRId64
                " with %" PRId64,
                path, header.tick, header.n_coders, tick, run->settings->n_coders);
    }
    rf_run_passes_note(run->ends, header.first, header.first + header.n_held);
    if (has_news(run, &header)) {
        RF_TRY(check_coders(run, path, &header));
        for (int64_t i = header.first; i < header.first + header.n_held; i++) {
            run->ticks[i] = run->ticks[i] < 0 ? tick : run->ticks[i];
        }
        run->end = rf_max_i64(run->end, header.first + header.n_held);
    }
    if (run->weight_processing == NULL) {
        run->step = tick;
        run->weight_processing = header.weight_processing;
        header.weight_processing = NULL;
        RF_TRY(rf_format(run->checkpoint, sizeof run->checkpoint, "%s", path));
    }
fail:
    rf_checkpoint_header_fini(&header);
    return status;
}

/* Coders of passes that are over, out of a file in which others are damaged. */
static rf_status salvage(rf_run *run, rf_backend *be, rf_stream *s, const char *path, int64_t tick)
{
    rf_status status = RF_OK;
    rf_checkpoint_header header = {0};
    RF_TRY(rf_checkpoint_read_header(path, &header));
    const int64_t end = rf_min_i64(header.first + header.n_held, run->end);
    for (int64_t i = header.first; header.tick == tick && i < end; i++) {
        rf_coder *coder = NULL;
        if (run->ticks[i] < 0 &&
            load_coder(be, s, path, &run->settings->coders[i].coder, i, &coder) == RF_OK) {
            run->ticks[i] = tick;
        }
        rf_coder_destroy(coder);
    }
fail:
    rf_checkpoint_header_fini(&header);
    return status;
}

/* What no file has that is whole. */
static rf_status salvage_all(rf_run *run, const char *dir, const int64_t *ticks, int64_t n)
{
    rf_status status = RF_OK;
    rf_backend *be = NULL;
    rf_stream *s = NULL;
    char path[RF_PATH_LEN];
    bool is_lost = false;

    for (int64_t i = 0; i < run->end; i++) {
        is_lost = is_lost || run->ticks[i] < 0;
    }
    if (is_lost) {
        RF_TRY(rf_backend_cpu_create(1, &be));
        RF_TRY(rf_stream_create(be, &s));
    }
    for (int64_t i = n; is_lost && i-- > 0;) {
        RF_TRY(rf_run_folder_checkpoint(dir, ticks[i], path));
        if (salvage(run, be, s, path, ticks[i]) != RF_OK) {
            continue; /* its damage was told */
        }
    }
fail:
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    return status;
}

static rf_status find_checkpoints(rf_run *run, const char *dir)
{
    rf_status status = RF_OK;
    int64_t *ticks = NULL, n = 0;
    char path[RF_PATH_LEN];

    RF_TRY(rf_run_folder_list(dir, &ticks, &n));
    if (n == 0) {
        RF_FAIL(RF_ERR_NOT_FOUND, "'%s' has no checkpoint yet", dir);
    }
    for (int64_t i = n; i-- > 0;) {
        RF_TRY(rf_run_folder_checkpoint(dir, ticks[i], path));
        status = take_checkpoint(run, path, ticks[i]);
        if (status != RF_OK && (i > 0 || run->weight_processing != NULL)) {
            rf_log(RF_LOG_WARN, "checkpoint of step %" PRId64 " cannot be used: %s", ticks[i],
                   rf_error_text());
        }
    }
    if (run->weight_processing != NULL) {
        status = salvage_all(run, dir, ticks, n); /* one is enough */
    }
fail:
    rf_free(ticks);
    return status;
}

rf_status rf_run_open(const char *dir, const char *const *overrides, int64_t n_overrides,
                      rf_run **out)
{
    rf_status status = RF_OK;
    rf_run *run = NULL;
    char config[RF_PATH_LEN];

    *out = NULL;
    RF_ALLOC(run, 1);
    RF_TRY(rf_run_folder_config(dir, config));
    if (!rf_file_exists(config)) {
        RF_FAIL(RF_ERR_NOT_FOUND, "'%s' is no run folder: it has no config.yaml", dir);
    }
    RF_TRY(rf_run_settings_load(config, overrides, n_overrides, &run->settings));
    RF_TRY(rf_format(run->settings->output.dir, sizeof run->settings->output.dir, "%s", dir));
    RF_ALLOC(run->ticks, run->settings->n_coders);
    RF_ALLOC(run->ends, run->settings->n_coders);
    for (int64_t i = 0; i < run->settings->n_coders; i++) {
        run->ticks[i] = -1;
    }
    RF_TRY(find_checkpoints(run, dir));
    *out = run;
    return RF_OK;
fail:
    rf_run_close(run);
    return status;
}

void rf_run_close(rf_run *run)
{
    if (run != NULL) {
        rf_run_settings_free(run->settings);
        rf_free(run->weight_processing);
        rf_free(run->ends);
        rf_free(run->ticks);
        rf_free(run);
    }
}

const rf_run_settings *rf_run_get_settings(const rf_run *run)
{
    return run->settings;
}

int64_t rf_run_step(const rf_run *run)
{
    return run->step;
}

const char *rf_run_weight_processing(const rf_run *run)
{
    return run->weight_processing;
}

const char *rf_run_checkpoint_path(const rf_run *run)
{
    return run->checkpoint;
}

bool rf_run_has_coder(const rf_run *run, int64_t idx)
{
    return run->ticks[idx] >= 0;
}

bool rf_run_coder_waits(const rf_run *run, int64_t idx, int64_t *pass, int64_t *n_passes)
{
    const int64_t most = run->settings->train.coders_at_once;
    const int64_t n_before = rf_run_passes_count(run->ends, run->end, most);
    *pass = n_before + rf_run_passes_left(idx + 1 - run->end, most);
    *n_passes = n_before + rf_run_passes_left(run->settings->n_coders - run->end, most);
    return idx >= run->end;
}

/* Why no file has it. */
static rf_status raise_absent(const rf_run *run, int64_t idx)
{
    int64_t pass = 0, n_passes = 0;
    const char *name = run->settings->coders[idx].coder.name, *dir = run->settings->output.dir;
    if (rf_run_coder_waits(run, idx, &pass, &n_passes)) {
        return rf_error_raise(RF_ERR_NOT_FOUND, __FILE__, __LINE__,
                              "coder '%s' is in no checkpoint of '%s': it waits for pass %" PRId64
                              " of %" PRId64 "; train.resume=auto goes on with it",
                              name, dir, pass, n_passes);
    }
    return rf_error_raise(RF_ERR_NOT_FOUND, __FILE__, __LINE__,
                          "coder '%s' is in no checkpoint of '%s' that can be read: its pass is "
                          "over and the checkpoint of that is damaged or gone; put a whole copy "
                          "back, or use '%s/%s/coder.safetensors'",
                          name, dir, dir, name);
}

rf_status rf_run_load_coder(rf_backend *be, rf_stream *s, const rf_run *run, int64_t idx,
                            rf_coder **out)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];

    *out = NULL;
    RF_REQUIRE(idx >= 0 && idx < run->settings->n_coders, "coder %" PRId64 " of a run of %" PRId64,
               idx, run->settings->n_coders);
    const rf_coder_settings *coder = &run->settings->coders[idx].coder;
    if (run->ticks[idx] < 0) {
        return raise_absent(run, idx);
    }
    RF_TRY(rf_run_folder_checkpoint(run->settings->output.dir, run->ticks[idx], path));
    RF_TRY(load_coder(be, s, path, coder, idx, out));
fail:
    return status;
}
