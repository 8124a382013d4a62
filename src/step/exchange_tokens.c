/* What data-parallel ranks tell each other: rows and codes of their tokens, in the order of the
 * batch. A sparse step's gradient is a function of these, and they are far smaller than it. They go
 * on a stream of their own while the step's goes on; the two wait for each other by events. */
#include "step_impl.h"

rf_status rf_exchange_begin(rf_step *step)
{
    return rf_step_take_turns(step, step->s, step->exchange);
}

rf_status rf_exchange_end(rf_step *step)
{
    return rf_step_take_turns(step, step->exchange, step->s);
}

/* Rows of rank `rank`. */
static int64_t share_of(const rf_step_job *job, int rank)
{
    int64_t first, count;
    rf_comm_share(job->n_rows, RF_TOKEN_TILE, rank, rf_comm_size(job->step->comm), &first, &count);
    return count;
}

/* ---- rows --------------------------------------------------------------------------------------
 */

rf_status rf_exchange_queue_rows(const rf_step_job *job, const void *local, void *global,
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
    return rf_all_gather(step->exchange, step->comm, local, global, step->counts);
}

rf_status rf_exchange_rows(const rf_step_job *job, const void *local, void *global,
                           size_t row_bytes)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    if (rf_comm_size(step->comm) == 1) {
        return RF_OK;
    }
    RF_TRY(rf_comm_agree(step->comm, rf_exchange_begin(step)));
    status = rf_exchange_queue_rows(job, local, global, row_bytes);
    RF_TRY(rf_comm_agree(step->comm, status != RF_OK ? status : rf_exchange_end(step)));
fail:
    return status;
}

/* ---- codes -------------------------------------------------------------------------------------
 */

/* This rank's starts, which end with the number of its entries, among those of all ranks. The
 * host's wait is for the lists alone: what the step does meanwhile is on the other stream. */
static rf_status fetch_starts(const rf_step_job *job, const bool lists[RF_STEP_N_LISTS], int64_t at)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        if (lists[l]) {
            RF_TRY(rf_copy_out(step->exchange, step->starts[l] + at, step->local.codes[l].row_start,
                               sizeof(int64_t) * (size_t)(job->n_local + 1)));
        }
    }
    RF_TRY(rf_stream_synchronise(step->exchange));
fail:
    return status;
}

/* Each rank's starts are moved by the entries of the ranks before; its last goes. */
static void join_starts(const rf_step_job *job, int64_t *starts, int64_t *n_entries)
{
    const int64_t *from = starts;
    int64_t *to = starts, before = 0;
    for (int r = 0; r < rf_comm_size(job->step->comm); r++) {
        const int64_t n = share_of(job, r);
        n_entries[r] = from[n];
        for (int64_t i = 0; i < n; i++) {
            *to++ = before + from[i];
        }
        from += n + 1;
        before += n_entries[r];
    }
    *to = before;
}

/* Values of four bytes beside the entries of a list. */
static rf_status queue_entries(const rf_step_job *job, int list, const void *local, void *global)
{
    rf_step *step = job->step;
    const int size = rf_comm_size(step->comm);
    for (int r = 0; r < size; r++) {
        step->counts[r] = step->n_entries[list * size + r] * (int64_t)sizeof(float);
    }
    return rf_all_gather(step->exchange, step->comm, local, global, step->counts);
}

static rf_status queue_codes(const rf_step_job *job, int list)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_codes *local = &step->local.codes[list];
    rf_codes *global = &step->global.codes[list];
    global->n_rows = job->n_rows;
    RF_TRY(queue_entries(job, list, local->latent, global->latent));
    RF_TRY(queue_entries(job, list, local->value, global->value));
    RF_TRY(rf_copy_in(step->exchange, global->row_start, step->starts[list],
                      sizeof(int64_t) * (size_t)(job->n_rows + 1)));
fail:
    return status;
}

rf_status rf_exchange_codes(const rf_step_job *job, const bool lists[RF_STEP_N_LISTS])
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const int rank = rf_comm_rank(step->comm), size = rf_comm_size(step->comm);
    int64_t first, count;

    if (size == 1) {
        return RF_OK;
    }
    rf_comm_share(job->n_rows, RF_TOKEN_TILE, rank, size, &first, &count);
    const int64_t at = first + rank;
    RF_TRY(rf_comm_agree(step->comm, fetch_starts(job, lists, at)));
    for (int r = 0; r < size; r++) {
        step->offsets[r] = (share_of(job, r) + 1) * (int64_t)sizeof(int64_t);
    }
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        if (lists[l]) {
            int64_t *starts = step->starts[l];
            RF_TRY(rf_comm_allgatherv(step->comm, starts + at, starts, step->offsets));
            join_starts(job, starts, step->n_entries + (int64_t)l * size);
            RF_TRY(queue_codes(job, l));
        }
    }
fail:
    return status;
}

rf_status rf_exchange_d_values(const rf_step_job *job, const bool lists[RF_STEP_N_LISTS])
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        const rf_codes *local = &step->local.codes[l];
        rf_codes *global = &step->global.codes[l];
        if (lists[l] && rf_comm_size(step->comm) == 1) {
            *global = *local; /* acts exchange its arrays for others */
        } else if (lists[l]) {
            RF_TRY(queue_entries(job, l, local->d_value, global->d_value));
        }
    }
fail:
    return status;
}
