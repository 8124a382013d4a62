/* How a run begins, at the start or at a checkpoint, and how it is saved. Rank 0 looks at the
 * folder; the others do as it says. */
#include "run_impl.h"

#include <string.h>

/* ---- the folder --------------------------------------------------------------------------------
 */

static rf_status enter_on_rank_0(rf_training *t, bool *is_used)
{
    rf_status status = RF_OK;
    const char *dir = t->settings->output.dir;
    const int resume = t->settings->train.resume;
    char checkpoints[RF_PATH_LEN];

    RF_TRY_DOING(rf_file_make_dirs(dir), "output.dir");
    RF_TRY(rf_folder_lock_take(dir, &t->lock));
    RF_TRY(rf_run_folder_is_used(dir, is_used));
    if (*is_used && resume == RF_RESUME_NEVER) {
        RF_FAIL(RF_ERR_SETTING,
                "'%s' holds a run already: train.resume=auto goes on with it; for a new one choose "
                "another output.dir",
                dir);
    }
    RF_TRY(rf_path_join(checkpoints, dir, "checkpoints"));
    RF_TRY(rf_file_make_dirs(checkpoints));
fail:
    return status;
}

rf_status rf_training_enter_folder(rf_training *t)
{
    rf_status status = RF_OK;
    bool is_used = false;
    if (rf_comm_rank(t->comm) == 0) {
        status = enter_on_rank_0(t, &is_used);
    }
    return rf_comm_agree(t->comm, status);
}

/* What is written before the first step: settings, and the logs to append to. */
static rf_status open_logs(rf_training *t)
{
    rf_status status = RF_OK;
    const char *dir = t->settings->output.dir;
    char path[RF_PATH_LEN];

    RF_TRY(rf_run_folder_config(dir, path));
    RF_TRY(rf_file_write_atomic(path, t->settings_yaml.data, t->settings_yaml.len));
    RF_TRY(rf_run_folder_metrics(dir, path));
    RF_TRY(rf_metrics_cut(path, t->tick));
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        rf_trained *c = &t->coders[i];
        bool has = false;
        RF_TRY(rf_metrics_find_last(path, c->spec->coder.name, c->n_whole, &c->whole, &has));
        if (!has) {
            c->whole = (rf_metrics_line){.coder = ""};
        }
        c->last = c->whole;
    }
    RF_TRY(rf_metrics_log_open(path, &t->metrics));
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        const char *name = t->settings->coders[i].coder.name;
        RF_TRY(rf_run_folder_coder(dir, name, path));
        RF_TRY(rf_file_make_dirs(path));
        RF_TRY(rf_tfevents_open(path, "train", &t->coders[i].events));
    }
fail:
    return status;
}

/* ---- checkpoints -------------------------------------------------------------------------------
 */

static rf_status describe(const rf_training *t, rf_checkpoint *out)
{
    rf_status status = RF_OK;
    const int64_t n = t->settings->n_coders;

    *out = (rf_checkpoint){.tick = t->tick,
                           .picture_hash = t->picture_hash,
                           .model_hash = t->model_hash,
                           .settings = t->settings_yaml.data,
                           .backend = rf_backend_describe(t->be),
                           .n_coders = n};
    RF_TRY(rf_summary_processing(t->vits, t->n_vits, out->weight_processing));
    RF_ALLOC(out->coders, n);
    for (int64_t i = 0; i < n; i++) {
        const rf_trained *c = &t->coders[i];
        out->coders[i] = (rf_checkpoint_coder){.name = c->spec->coder.name,
                                               .coder = c->coder,
                                               .opt = c->opt,
                                               .batches_done = c->batches_done,
                                               .failed = c->failed,
                                               .stopping = c->stopping};
    }
fail:
    return status;
}

static rf_status save_on_rank_0(const rf_training *t)
{
    rf_status status = RF_OK;
    const rf_run_settings *s = t->settings;
    rf_checkpoint checkpoint = {0};
    char path[RF_PATH_LEN];

    RF_TRY(describe(t, &checkpoint));
    RF_TRY(rf_run_folder_checkpoint(s->output.dir, t->tick, path));
    RF_TRY(rf_checkpoint_write(path, t->stream, &checkpoint));
    RF_TRY(rf_run_folder_prune(s->output.dir, t->tick, s->train.keep_checkpoints));
fail:
    rf_free(checkpoint.coders);
    return status;
}

rf_status rf_training_save(rf_training *t)
{
    rf_status status = RF_OK;
    if (t->saved_tick == t->tick) {
        return RF_OK;
    }
    if (rf_comm_rank(t->comm) == 0) {
        status = save_on_rank_0(t);
    }
    RF_TRY(rf_comm_agree(t->comm, status));
    t->saved_tick = t->tick;
fail:
    return status;
}

/* SETTING when going on from `header` would not be the same run. */
static rf_status check_same_run(const rf_training *t, const rf_checkpoint_header *header,
                                const char *path)
{
    rf_status status = RF_OK;
    rf_run_settings *then = NULL;
    char processing[RF_PROCESSING_LEN];

    if (rf_run_settings_parse(header->settings, path, NULL, 0, &then) != RF_OK) {
        RF_FAIL(RF_ERR_FORMAT, "the settings in the checkpoint cannot be read: %s",
                rf_error_text());
    }
    RF_TRY(rf_run_settings_compare(then, t->settings));
    if (header->picture_hash != t->picture_hash) {
        RF_FAIL(RF_ERR_SETTING,
                "data.path '%s' lists other pictures than the checkpoint '%s' was trained on",
                t->settings->data.path, path);
    }
    if (header->model_hash != t->model_hash) {
        RF_FAIL(RF_ERR_SETTING, "%s '%s' has other weights than the checkpoint '%s' was trained on",
                t->n_vits > 1 ? "one of the models, the first of which is" : "model.path",
                t->settings->models[0].settings.path, path);
    }
    RF_TRY(rf_summary_processing(t->vits, t->n_vits, processing));
    if (strcmp(header->weight_processing, processing) != 0) {
        RF_FAIL(
            RF_ERR_SETTING,
            "the model's weights are processed by '%.200s' and were by '%.200s' in the checkpoint "
            "'%s'",
            processing, header->weight_processing, path);
    }
    if (strcmp(header->backend, rf_backend_describe(t->be)) != 0) {
        rf_log(RF_LOG_WARN, "the checkpoint was written by '%s', this is '%s': bits may differ",
               header->backend, rf_backend_describe(t->be));
    }
fail:
    rf_run_settings_free(then);
    return status;
}

static bool is_damage(rf_status status)
{
    return status == RF_ERR_FORMAT || status == RF_ERR_IO || status == RF_ERR_NOT_FOUND;
}

/* Rank 0: whether the file is of this run. Settings that cannot be parsed are damage too. */
static rf_status check_file(const rf_training *t, const char *path, int64_t tick)
{
    rf_status status = RF_OK;
    rf_checkpoint_header header = {0};
    RF_TRY(rf_checkpoint_read_header(path, &header));
    if (header.tick != tick) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is of step %" PRId64, path, header.tick);
    }
    RF_TRY(check_same_run(t, &header, path));
fail:
    rf_checkpoint_header_fini(&header);
    return status;
}

static rf_status check_progress(const rf_training *t, const rf_checkpoint *c, const char *path)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < c->n_coders; i++) {
        if (c->coders[i].batches_done > t->coders[i].n_batches) {
            RF_FAIL(RF_ERR_FORMAT,
                    "'%s': coder %" PRId64 " took %" PRId64 " of %" PRId64 " batches", path, i,
                    c->coders[i].batches_done, t->coders[i].n_batches);
        }
    }
fail:
    return status;
}

/* Into the run what is not in the coders themselves. */
static rf_status take_progress(rf_training *t, const rf_checkpoint *c)
{
    rf_status status = RF_OK;
    rf_coder_state state;
    for (int64_t i = 0; i < c->n_coders; i++) {
        t->coders[i].batches_done = c->coders[i].batches_done;
        t->coders[i].failed = c->coders[i].failed;
        t->coders[i].stopping = c->coders[i].stopping;
        RF_TRY(rf_coder_get_state(t->coders[i].coder, t->stream, &state));
        t->coders[i].n_skipped = state.counters[RF_COUNTER_SKIPPED];
    }
fail:
    return status;
}

/* All of one checkpoint, to all ranks. Collective. */
static rf_status load(rf_training *t, int64_t tick)
{
    rf_status status = RF_OK;
    rf_checkpoint checkpoint = {0};
    char path[RF_PATH_LEN];

    RF_TRY(rf_run_folder_checkpoint(t->settings->output.dir, tick, path));
    if (rf_comm_rank(t->comm) == 0) {
        status = check_file(t, path, tick);
    }
    RF_TRY(rf_comm_agree(t->comm, status));
    RF_TRY(rf_comm_agree(t->comm, describe(t, &checkpoint)));
    RF_TRY(rf_checkpoint_read(t->comm, path, t->stream, &checkpoint));
    RF_TRY(check_progress(t, &checkpoint, path)); /* the same on all: they have the same numbers */
    RF_TRY(rf_comm_agree(t->comm, take_progress(t, &checkpoint)));
    t->tick = t->saved_tick = tick;
fail:
    rf_free(checkpoint.coders);
    return status;
}

/* Ticks of the files, from rank 0; to be freed. Collective. */
static rf_status list_ticks(const rf_training *t, int64_t **ticks, int64_t *n)
{
    rf_status status = RF_OK;
    const bool looks = rf_comm_rank(t->comm) == 0;

    *ticks = NULL;
    *n = 0;
    if (looks) {
        status = rf_run_folder_list(t->settings->output.dir, ticks, n);
    }
    RF_TRY(rf_comm_agree(t->comm, status));
    RF_TRY(rf_comm_bcast(t->comm, n, (int64_t)sizeof *n, 0));
    if (!looks) {
        *ticks = rf_calloc(*n, sizeof **ticks);
        status = *ticks == NULL ? RF_ERR_NO_MEMORY : RF_OK;
    }
    RF_TRY(rf_comm_agree(t->comm, status));
    RF_TRY(rf_comm_bcast(t->comm, *ticks, *n * (int64_t)sizeof **ticks, 0));
fail:
    return status;
}

/* Damaged ones go out of the way once a whole one was found. Collective. */
static rf_status set_aside_behind(const rf_training *t, const int64_t *ticks, int64_t first,
                                  int64_t n)
{
    rf_status status = RF_OK;
    for (int64_t i = first; rf_comm_rank(t->comm) == 0 && i < n; i++) {
        RF_TRY(rf_run_folder_set_aside(t->settings->output.dir, ticks[i]));
    }
fail:
    return rf_comm_agree(t->comm, status);
}

/* The newest whole checkpoint; *found is false where there is no checkpoint at all. */
static rf_status load_newest(rf_training *t, bool *found)
{
    rf_status status = RF_OK;
    int64_t *ticks = NULL, n = 0, i = 0;

    *found = false;
    RF_TRY(list_ticks(t, &ticks, &n));
    for (i = n - 1; i >= 0; i--) {
        status = load(t, ticks[i]);
        if (status == RF_OK) {
            break;
        }
        if (!is_damage(status) || i == 0) { /* nothing before it: say why */
            goto fail;
        }
        if (rf_comm_rank(t->comm) == 0) {
            rf_log(RF_LOG_WARN,
                   "checkpoint of step %" PRId64 " cannot be used, going back to step %" PRId64
                   ": %s",
                   ticks[i], ticks[i - 1], rf_error_text());
        }
    }
    *found = n > 0;
    RF_TRY(set_aside_behind(t, ticks, i + 1, n));
fail:
    rf_free(ticks);
    return status;
}

static rf_status seek(rf_training *t)
{
    rf_status status = RF_OK;
    const int64_t n = t->settings->n_coders;
    int64_t *done = rf_calloc(n, sizeof *done);

    RF_TRY(rf_comm_agree(t->comm, done == NULL ? RF_ERR_NO_MEMORY : RF_OK));
    for (int64_t i = 0; i < n; i++) {
        done[i] = t->coders[i].batches_done;
    }
    RF_TRY(rf_activation_stream_seek(t->acts, done));
fail:
    rf_free(done);
    return status;
}

rf_status rf_training_begin(rf_training *t)
{
    rf_status status = RF_OK;
    const int resume = t->settings->train.resume;
    bool found = false;

    t->saved_tick = -1;
    if (resume != RF_RESUME_NEVER) {
        RF_TRY(load_newest(t, &found));
    }
    if (!found && resume == RF_RESUME_MUST) {
        RF_FAIL(RF_ERR_NOT_FOUND, "'%s' has no checkpoint, and train.resume is must",
                t->settings->output.dir);
    }
    if (found) {
        RF_TRY(seek(t));
    } else {
        RF_TRY(rf_training_init_coders(t));
    }
    if (rf_comm_rank(t->comm) == 0) {
        status = open_logs(t);
        rf_log(RF_LOG_INFO,
               found ? "going on from the checkpoint of step %" PRId64
                     : "beginning at step %" PRId64,
               t->tick);
    }
    RF_TRY(rf_comm_agree(t->comm, status));
fail:
    return status;
}
