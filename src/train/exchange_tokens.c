/* What data-parallel ranks tell each other: rows and codes of their tokens, in the order of the
 * batch. A sparse step's gradient is a function of these, and they are far smaller than it. */
#include "step_impl.h"

/* Rows of rank `rank`. */
static int64_t share_of(const rf_step_job *job, int rank)
{
    int64_t first, count;
    rf_comm_share(job->n_rows, RF_TOKEN_TILE, rank, rf_comm_size(job->step->comm), &first, &count);
    return count;
}

rf_status rf_exchange_rows(const rf_step_job *job, const void *local, void *global,
                           size_t row_bytes)
{
    rf_step *step = job->step;
    int size = rf_comm_size(step->comm);
    if (size == 1) {
        return RF_OK;
    }
    for (int r = 0; r < size; r++) {
        step->counts[r] = share_of(job, r) * (int64_t)row_bytes;
    }
    return rf_all_gather(step->s, step->comm, local, global, step->counts);
}

/* Entries of every rank into step->counts. */
static rf_status exchange_counts(const rf_step_job *job, const rf_codes *local)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    int size = rf_comm_size(step->comm);
    int64_t n_entries = 0;
    status = rf_comm_agree(step->comm, rf_codes_count(step->s, local, &n_entries));
    if (status != RF_OK) {
        goto fail;
    }
    for (int r = 0; r < size; r++) {
        step->offsets[r] = sizeof(int64_t);
    }
    RF_TRY(rf_comm_allgatherv(step->comm, &n_entries, step->counts, step->offsets));
fail:
    return status;
}

/* Where rows start in the whole batch: each rank's starts, moved by the entries of the ranks
 * before. */
static rf_status exchange_starts(const rf_step_job *job, const rf_codes *local, rf_codes *global)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    int size = rf_comm_size(step->comm);
    int64_t *starts = step->host_starts, at = 0, row = 0;

    for (int r = 0; r < size; r++) {
        step->offsets[r] = share_of(job, r) * (int64_t)sizeof(int64_t);
    }
    RF_TRY(rf_all_gather(step->s, step->comm, local->row_start, global->row_start, step->offsets));
    RF_TRY(rf_copy_out(step->s, starts, global->row_start, sizeof(int64_t) * (size_t)job->n_rows));
    RF_TRY(rf_stream_synchronise(step->s));
    for (int r = 0; r < size; r++) {
        for (int64_t end = row + share_of(job, r); row < end; row++) {
            starts[row] += at;
        }
        at += step->counts[r];
    }
    starts[job->n_rows] = at;
    RF_TRY(rf_copy_in(step->s, global->row_start, starts,
                      sizeof(int64_t) * (size_t)(job->n_rows + 1)));
    RF_TRY(rf_stream_synchronise(step->s)); /* `starts` is used again */
fail:
    return status;
}

rf_status rf_exchange_codes(const rf_step_job *job, rf_codes *local, rf_codes *global)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    int size = rf_comm_size(step->comm);

    if (size == 1) {
        *global = *local;
        return RF_OK;
    }
    global->n_rows = job->n_rows;
    RF_TRY(exchange_counts(job, local));
    RF_TRY(exchange_starts(job, local, global));
    for (int r = 0; r < size; r++) {
        step->offsets[r] = step->counts[r] * (int64_t)sizeof(float);
    }
    RF_TRY(rf_all_gather(step->s, step->comm, local->latent, global->latent, step->offsets));
    RF_TRY(rf_all_gather(step->s, step->comm, local->value, global->value, step->offsets));
    RF_TRY(rf_all_gather(step->s, step->comm, local->d_value, global->d_value, step->offsets));
fail:
    return status;
}
