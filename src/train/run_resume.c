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

    RF_TRY(rf_run_folder_remove_summary(dir)); /* that the run has ended is not true any more */
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
fail:
    return status;
}

/* Folders and events of the pass's coders, and a word on who trains what. */
static rf_status open_pass_logs(rf_training *t)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];

    for (int64_t i = t->first; i < t->end; i++) {
        rf_trained *c = &t->coders[i];
        RF_TRY(rf_run_folder_coder(t->settings->output.dir, c->spec->coder.name, path));
        RF_TRY(rf_file_make_dirs(path));
        RF_TRY(rf_tfevents_open(path, "train", &c->events));
    }
    RF_TRY(rf_training_log_pass(t));
fail:
    return status;
}

/* ---- checkpoints -------------------------------------------------------------------------------
 */

static rf_status describe(const rf_training *t, rf_checkpoint *out)
{
    rf_status status = RF_OK;
    const int64_t n = t->end - t->first;

    *out = (rf_checkpoint){.tick = t->tick,
                           .first = t->first,
                           .n_run = t->settings->n_coders,
                           .comm = t->group != NULL ? t->comm : NULL,
                           .picture_hash = t->picture_hash,
                           .model_hash = t->model_hash,
                           .settings = t->settings_yaml.data,
                           .backend = rf_backend_describe(t->be),
                           .n_coders = n};
    RF_TRY(rf_format(out->weight_processing, sizeof out->weight_processing, "%s", t->processing));
    RF_ALLOC(out->coders, n);
    for (int64_t i = 0; i < n; i++) {
        const rf_trained *c = &t->coders[t->first + i];
        out->coders[i] = (rf_checkpoint_coder){.name = c->spec->coder.name,
                                               .coder = c->coder,
                                               .opt = c->opt,
                                               .owner = c->first_rank,
                                               .n_batches = c->n_batches,
                                               .batches_done = c->batches_done,
                                               .failed = c->failed,
                                               .stopping = c->stopping};
    }
fail:
    return status;
}

/* Checkpoints of this pass but for the newest `keep`; those of passes before it stay. */
static rf_status prune(const rf_training *t, int64_t keep)
{
    rf_status status = RF_OK;
    if (rf_comm_rank(t->comm) == 0) {
        status = rf_run_folder_prune_after(t->settings->output.dir, t->pass_tick, t->tick, keep);
    }
    return rf_comm_agree(t->comm, status);
}

rf_status rf_training_save(rf_training *t)
{
    rf_status status = RF_OK;
    rf_checkpoint checkpoint = {0};
    char path[RF_PATH_LEN];

    if (t->saved_tick == t->tick) {
        return RF_OK;
    }
    RF_TRY(rf_comm_agree(t->comm, describe(t, &checkpoint)));
    RF_TRY(rf_run_folder_checkpoint(t->settings->output.dir, t->tick, path));
    if (checkpoint.comm != NULL || rf_comm_rank(t->comm) == 0) {
        status = rf_checkpoint_write(path, t->stream, &checkpoint);
    }
    RF_TRY(rf_comm_agree(t->comm, status));
    RF_TRY(prune(t, t->settings->train.keep_checkpoints));
    t->saved_tick = t->tick;
fail:
    rf_free(checkpoint.coders);
    return status;
}

rf_status rf_training_end_pass(const rf_training *t)
{
    return t->end < t->settings->n_coders ? prune(t, 1) : RF_OK;
}

/* SETTING when going on from `header` would not be the same run. */
static rf_status check_same_run(const rf_training *t, const rf_checkpoint_header *header,
                                const char *path)
{
    rf_status status = RF_OK;
    rf_run_settings *then = NULL;

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
    if (strcmp(header->weight_processing, t->processing) != 0) {
        RF_FAIL(
            RF_ERR_SETTING,
            "the model's weights are processed by '%.200s' and were by '%.200s' in the checkpoint "
            "'%s'",
            t->processing, header->weight_processing, path);
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

/* Rank 0: whether the file is of this run, and which coders it holds. Settings that cannot be
 * parsed are damage too. */
static rf_status check_file(const rf_training *t, const char *path, int64_t tick, int64_t held[2])
{
    rf_status status = RF_OK;
    rf_checkpoint_header header = {0};
    RF_TRY(rf_checkpoint_read_header(path, &header));
    held[0] = header.first;
    held[1] = header.first + header.n_held;
    if (header.tick != tick) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is of step %" PRId64, path, header.tick);
    }
    RF_TRY(check_same_run(t, &header, path));
    if (header.n_coders != t->settings->n_coders) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is of a run of %" PRId64 " coders, its settings have %" PRId64,
                path, header.n_coders, t->settings->n_coders);
    }
fail:
    rf_checkpoint_header_fini(&header);
    return status;
}

static rf_status check_progress(const rf_training *t, const rf_checkpoint *c, const char *path)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < c->n_coders; i++) {
        const int64_t idx = c->first + i;
        RF_TRY(rf_run_progress_check(path, idx, &c->coders[i], t->coders[idx].n_batches));
    }
fail:
    return status;
}

/* Into the run what is not in the coder itself. */
static void take_progress(rf_trained *to, const rf_checkpoint_coder *from)
{
    to->batches_done = from->batches_done;
    to->failed = from->failed;
    to->stopping = from->stopping;
    to->n_skipped = from->n_skipped;
    to->n_outliers = from->n_outliers;
    to->n_tried = from->n_tried;
}

/* All of one checkpoint and the pass it is of, to all ranks. Collective. */
static rf_status load(rf_training *t, int64_t tick)
{
    rf_status status = RF_OK;
    rf_checkpoint checkpoint = {0};
    int64_t held[2] = {0};
    char path[RF_PATH_LEN];

    RF_TRY(rf_run_folder_checkpoint(t->settings->output.dir, tick, path));
    if (rf_comm_rank(t->comm) == 0) {
        status = check_file(t, path, tick, held);
    }
    RF_TRY(rf_comm_agree(t->comm, status));
    RF_TRY(rf_comm_bcast(t->comm, held, (int64_t)sizeof held, 0));
    if (t->first != held[0] || t->end != held[1]) {
        RF_TRY(rf_training_open_pass(t, held[0], held[1]));
    }
    RF_TRY(rf_comm_agree(t->comm, describe(t, &checkpoint)));
    RF_TRY(rf_checkpoint_read(t->comm, path, t->stream, &checkpoint));
    RF_TRY(check_progress(t, &checkpoint, path)); /* the same on all: they have the same numbers */
    for (int64_t i = 0; i < checkpoint.n_coders; i++) {
        take_progress(&t->coders[t->first + i], &checkpoint.coders[i]);
    }
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

/* ---- passes before -----------------------------------------------------------------------------
 */

/* Rank 0: coders from number held[0] up to held[1] are in the file, none where it cannot be read.
 */
static rf_status find_held(const rf_training *t, int64_t tick, int64_t held[2])
{
    rf_status status = RF_OK;
    rf_checkpoint_header header = {0};
    char path[RF_PATH_LEN];
    held[0] = held[1] = 0;
    RF_TRY(rf_run_folder_checkpoint(t->settings->output.dir, tick, path));
    RF_TRY(rf_checkpoint_read_header(path, &header));
    if (header.n_coders != t->settings->n_coders) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is of a run of %" PRId64 " coders, this one has %" PRId64,
                path, header.n_coders, t->settings->n_coders);
    }
    held[0] = header.first;
    held[1] = header.first + header.n_held;
fail:
    rf_checkpoint_header_fini(&header);
    return status;
}

/* How far the coders of a checkpoint came that are none of this pass's: of all or of none.
 * Collective. */
static rf_status load_progress(rf_training *t, int64_t tick, const int64_t held[2], bool *has)
{
    rf_status status = RF_OK;
    const int64_t first = held[0], n = rf_min_i64(held[1], t->first) - first;
    rf_checkpoint_coder *from = rf_calloc(rf_max_i64(n, 1), sizeof *from);
    char path[RF_PATH_LEN];

    RF_TRY(rf_comm_agree(t->comm, from == NULL ? RF_ERR_NO_MEMORY : RF_OK));
    RF_TRY(rf_run_folder_checkpoint(t->settings->output.dir, tick, path));
    for (int64_t i = 0; i < n; i++) {
        from[i].name = t->coders[first + i].spec->coder.name;
    }
    RF_TRY(rf_checkpoint_read_progress(t->comm, path, first, n, from));
    for (int64_t i = 0; i < n; i++) { /* the same on all: they have the same numbers */
        RF_TRY(rf_run_progress_check(path, first + i, &from[i], t->coders[first + i].n_batches));
    }
    for (int64_t i = 0; i < n; i++) {
        rf_trained *c = &t->coders[first + i];
        if (!has[first + i]) {
            take_progress(c, &from[i]);
            c->n_batches = from[i].n_batches;
            has[first + i] = true;
        }
    }
fail:
    rf_free(from);
    return status;
}

/* Where a checkpoint of a pass before is lost, its coders count as done. */
static void assume_done(rf_training *t, const bool *has)
{
    const char *first = NULL;
    int64_t n = 0;
    for (int64_t i = 0; i < t->first; i++) {
        if (!has[i]) {
            t->coders[i].batches_done = t->coders[i].n_tried = t->coders[i].n_batches;
            first = n++ == 0 ? t->coders[i].spec->coder.name : first;
        }
    }
    if (n > 0 && rf_comm_rank(t->comm) == 0) {
        rf_log(RF_LOG_WARN,
               "%" PRId64 " of the coders of passes before, the first of which is '%s', %s in no "
               "checkpoint that can be read, and count%s as done and well: this pass goes on "
               "without them. coder.safetensors in their folders of '%s' is what they came to; for "
               "refract eval and export put a whole copy of the checkpoint back",
               n, first, n == 1 ? "is" : "are", n == 1 ? "s" : "", t->settings->output.dir);
    }
}

/* Rank 0: the file is left where it is. */
static void say_damaged(const rf_training *t, int64_t tick)
{
    char path[RF_PATH_LEN];
    if (rf_comm_rank(t->comm) == 0 &&
        rf_run_folder_checkpoint(t->settings->output.dir, tick, path) == RF_OK) {
        const bool is_named = strstr(rf_error_text(), path) != NULL;
        rf_log(RF_LOG_WARN, "an older checkpoint cannot be used: %s%s%s", is_named ? "" : path,
               is_named ? "" : ": ", rf_error_text());
    }
}

/* Of a file of which not all can be read, what can. Collective. */
static rf_status load_one_by_one(rf_training *t, int64_t tick, const int64_t held[2], bool *has)
{
    rf_status status = RF_OK;
    for (int64_t i = held[0]; i < rf_min_i64(held[1], t->first); i++) {
        const int64_t one[2] = {i, i + 1};
        status = load_progress(t, tick, one, has);
        RF_TRY(is_damage(status) ? RF_OK : status);
    }
    status = RF_OK;
fail:
    return status;
}

/* One of the files of load_passes_before. Collective. */
static rf_status load_pass_before(rf_training *t, int64_t tick, int64_t *ends, bool *has)
{
    rf_status status = RF_OK, found = RF_OK;
    int64_t held[2] = {0};

    if (rf_comm_rank(t->comm) == 0) {
        found = find_held(t, tick, held);
    }
    RF_TRY(rf_comm_bcast(t->comm, held, (int64_t)sizeof held, 0));
    if (held[0] != t->first && t->pass_tick < 0) {
        t->pass_tick = tick;
    }
    if (held[1] == 0) { /* the text is rank 0's */
        if (found != RF_OK) {
            say_damaged(t, tick);
        }
        return RF_OK;
    }
    rf_run_passes_note(ends, held[0], held[1]);
    status = held[0] < t->first ? load_progress(t, tick, held, has) : RF_OK;
    if (is_damage(status)) {
        say_damaged(t, tick);
        status = load_one_by_one(t, tick, held, has); /* an older one may have the others */
    }
fail:
    return status;
}

/* Progress of the coders of passes before this one, by the newest of the `n` checkpoints that have
 * them, how many passes these were, and where this one began. Collective. */
static rf_status load_passes_before(rf_training *t, const int64_t *ticks, int64_t n)
{
    rf_status status = RF_OK;
    bool *has = rf_calloc(t->first + 1, sizeof *has);
    int64_t *ends = rf_calloc(t->settings->n_coders, sizeof *ends);

    RF_TRY(rf_comm_agree(t->comm, has == NULL || ends == NULL ? RF_ERR_NO_MEMORY : RF_OK));
    t->pass_tick = -1;
    for (int64_t i = n; t->first > 0 && i-- > 0;) {
        RF_TRY(load_pass_before(t, ticks[i], ends, has));
    }
    t->passes_before = rf_run_passes_count(ends, t->first, t->settings->train.coders_at_once);
    assume_done(t, has);
fail:
    rf_free(ends);
    rf_free(has);
    return status;
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
    RF_TRY(load_passes_before(t, ticks, i));
fail:
    rf_free(ticks);
    return status;
}

static rf_status seek(rf_training *t)
{
    rf_status status = RF_OK;
    const int64_t n = t->end - t->first;
    int64_t *done = rf_calloc(n, sizeof *done);

    RF_TRY(rf_comm_agree(t->comm, done == NULL ? RF_ERR_NO_MEMORY : RF_OK));
    for (int64_t i = 0; i < n; i++) {
        done[i] = t->coders[t->first + i].batches_done;
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

    t->saved_tick = t->pass_tick = -1;
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
        RF_TRY(rf_training_open_pass(t, 0, rf_training_pass_end(t, 0)));
        RF_TRY(rf_training_init_coders(t));
    }
    if (rf_comm_rank(t->comm) == 0) {
        status = open_logs(t);
        status = status == RF_OK ? open_pass_logs(t) : status;
        rf_log(RF_LOG_INFO,
               found ? "going on from the checkpoint of step %" PRId64
                     : "beginning at step %" PRId64,
               t->tick);
    }
    RF_TRY(rf_comm_agree(t->comm, status));
fail:
    return status;
}

rf_status rf_training_begin_next(rf_training *t)
{
    rf_status status = RF_OK;
    t->pass_tick = t->tick;
    t->passes_before++;
    RF_TRY(rf_training_open_pass(t, t->end, rf_training_pass_end(t, t->end)));
    RF_TRY(rf_training_init_coders(t));
    if (rf_comm_rank(t->comm) == 0) {
        status = open_pass_logs(t);
    }
    RF_TRY(rf_comm_agree(t->comm, status));
fail:
    return status;
}
