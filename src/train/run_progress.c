/* How far a run's coders came, as its checkpoints say: what can be, in which pass each is, and the
 * newest of each for those who tell of a run. */
#include "run_impl.h"

#include <string.h>

rf_status rf_run_progress_check(const char *path, int64_t idx, const rf_checkpoint_coder *c,
                                int64_t n_batches)
{
    rf_status status = RF_OK;
    if (n_batches > 0 && (c->n_batches > n_batches || c->batches_done > n_batches)) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s': coder %" PRId64 " took %" PRId64 " of %" PRId64
                " batches, and there are %" PRId64,
                path, idx, c->batches_done, c->n_batches, n_batches);
    }
    if ((c->n_batches > 0 && c->batches_done > c->n_batches) || c->n_skipped > c->batches_done ||
        c->n_outliers > c->n_skipped) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s': coder %" PRId64 " took %" PRId64 " of %" PRId64 " batches, skipped %" PRId64
                " of these, and %" PRId64 " of these as outliers: expected no more than before",
                path, idx, c->batches_done, c->n_batches, c->n_skipped, c->n_outliers);
    }
fail:
    return status;
}

/* ---- passes ------------------------------------------------------------------------------------
 */

void rf_run_passes_note(int64_t *ends, int64_t first, int64_t end)
{
    if (end > first) {
        ends[first] = end;
    }
}

int64_t rf_run_passes_left(int64_t n, int64_t most)
{
    return most > 0 ? rf_ceil_div(n, most) : n > 0;
}

/* train.coders_at_once may be another now than it was then: what passes took counts. */
int64_t rf_run_passes_count(const int64_t *ends, int64_t upto, int64_t most)
{
    int64_t n = 0;
    for (int64_t i = 0; i < upto;) {
        int64_t next = ends[i];
        if (next <= i) { /* its checkpoint is lost: as many as it takes now */
            for (next = i + 1; next < upto && ends[next] <= next; next++) {
            }
            n += rf_run_passes_left(next - i, most);
        } else {
            n++;
        }
        i = next;
    }
    return n;
}

/* ---- the newest of each coder ------------------------------------------------------------------
 */

typedef struct progress_reader {
    const char *dir;
    const rf_run_settings *settings;
    int64_t *ends;               /* of passes */
    rf_checkpoint_coder *coders; /* [n_coders], for one file */
    rf_coder_progress *out;
} progress_reader;

static void take(rf_coder_progress *to, const rf_checkpoint_coder *from)
{
    *to = (rf_coder_progress){.is_known = true,
                              .n_batches = from->n_batches,
                              .batches_done = from->batches_done,
                              .n_tried = from->n_tried,
                              .n_skipped = from->n_skipped,
                              .n_outliers = from->n_outliers,
                              .failed = from->failed,
                              .stopped = rf_stop_name((rf_stop)from->stopping.stop)};
}

/* Of coders that no newer file has. */
static rf_status read_file(progress_reader *r, int64_t tick)
{
    rf_status status = RF_OK;
    rf_checkpoint_header header = {0};
    char path[RF_PATH_LEN];

    RF_TRY(rf_run_folder_checkpoint(r->dir, tick, path));
    RF_TRY(rf_checkpoint_read_header(path, &header));
    if (header.n_coders != r->settings->n_coders) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is of a run of %" PRId64 " coders", path, header.n_coders);
    }
    rf_run_passes_note(r->ends, header.first, header.first + header.n_held);
    for (int64_t i = 0; i < header.n_held; i++) {
        const rf_coder_spec *spec = &r->settings->coders[header.first + i];
        r->coders[i] = (rf_checkpoint_coder){.name = spec->coder.name};
    }
    RF_TRY(rf_checkpoint_read_progress(NULL, path, header.first, header.n_held, r->coders));
    for (int64_t i = 0; i < header.n_held; i++) {
        RF_TRY(rf_run_progress_check(path, header.first + i, &r->coders[i], 0));
    }
    for (int64_t i = 0; i < header.n_held; i++) {
        if (!r->out[header.first + i].is_known) {
            take(&r->out[header.first + i], &r->coders[i]);
        }
    }
fail:
    rf_checkpoint_header_fini(&header);
    return status;
}

/* Coders behind the last that is known wait. */
static void find_waiting(const progress_reader *r)
{
    const int64_t n = r->settings->n_coders, most = r->settings->train.coders_at_once;
    int64_t end = n;
    while (end > 0 && !r->out[end - 1].is_known) {
        end--;
    }
    const int64_t n_before = rf_run_passes_count(r->ends, end, most);
    for (int64_t i = end; end > 0 && i < n; i++) {
        r->out[i].waits_for = n_before + rf_run_passes_left(i + 1 - end, most);
        r->out[i].n_passes = n_before + rf_run_passes_left(n - end, most);
    }
}

rf_status rf_run_read_progress(const char *dir, const rf_run_settings *settings,
                               rf_coder_progress *out)
{
    rf_status status = RF_OK;
    int64_t *ticks = NULL, n = 0;
    progress_reader r = {.dir = dir, .settings = settings, .out = out};

    for (int64_t i = 0; i < settings->n_coders; i++) {
        out[i] = (rf_coder_progress){.stopped = ""};
    }
    RF_ALLOC(r.ends, settings->n_coders);
    RF_ALLOC(r.coders, settings->n_coders);
    RF_TRY(rf_run_folder_list(dir, &ticks, &n));
    for (int64_t i = n; i-- > 0;) {
        status = read_file(&r, ticks[i]);
        if (status == RF_ERR_NO_MEMORY) {
            goto fail;
        }
        status = RF_OK; /* one that cannot be read tells nothing */
    }
    find_waiting(&r);
fail:
    rf_free(ticks);
    rf_free(r.coders);
    rf_free(r.ends);
    return status;
}
