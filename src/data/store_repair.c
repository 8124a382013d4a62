/* A damaged store made ready to be filled again: every block is compared with its checksum, and
 * groups that do not match, or cannot be read, lose their mark. Nothing else is changed: whoever
 * fills the store writes these groups, with the bytes that they had. */
#include "store_impl.h"

enum { MOST_NAMED = 20 };

typedef struct repairer {
    rf_store *store;
    uint8_t *room;     /* of any block of a group */
    int64_t counts[2]; /* groups that were looked at, and that were damaged */
} repairer;

static rf_status reserve(repairer *r)
{
    rf_status status = RF_OK;
    const rf_store_head *head = rf_store_get_head(r->store);
    int64_t most = head->group_pictures;

    for (int64_t s = 0; s < head->n_sites; s++) {
        most = rf_max_i64(most, rf_store_block_bytes(r->store, 0, s));
    }
    RF_ALLOC(r->room, most);
fail:
    return status;
}

/* Why the group is damaged, or OK. */
static rf_status look_at(const repairer *r, int64_t group)
{
    rf_status status = RF_OK;
    const rf_store *store = r->store;

    if (store->done[group] > 1) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': groups/done[%" PRId64 "] is %d, expected 0 or 1", store->path,
                group, store->done[group]);
    }
    for (int64_t s = 0; s < rf_store_get_head(store)->n_sites; s++) {
        RF_TRY(rf_store_read(store, group, s, r->room));
    }
    RF_TRY(rf_store_read_valid(store, group, r->room));
fail:
    return status;
}

/* A block that the disk does not give back any more (IO) is damaged too. */
static rf_status check_one(repairer *r, int64_t group)
{
    if (r->store->done[group] == 0) {
        return RF_OK;
    }
    r->counts[0]++;
    if (look_at(r, group) == RF_OK) {
        return RF_OK;
    }
    if (r->counts[1]++ < MOST_NAMED) {
        rf_log(RF_LOG_WARN, "%s", rf_error_text());
    }
    return rf_store_unmark(r->store, group);
}

/* Groups in rounds; ranks agree after each, so that none goes on alone. Collective. */
static rf_status check_groups(const rf_comm *comm, repairer *r)
{
    rf_status status = RF_OK;
    const int64_t n = rf_store_n_groups(r->store), size = rf_comm_size(comm);

    for (int64_t first = 0; first < n && status == RF_OK; first += size) {
        const int64_t group = first + rf_comm_rank(comm);
        status = group < n ? check_one(r, group) : RF_OK;
        if (status == RF_OK && rf_interrupt_pending() != 0) {
            status = rf_error_raise(RF_ERR_INTERRUPTED, __FILE__, __LINE__, "stopped by signal %d",
                                    rf_interrupt_pending());
        }
        status = rf_comm_agree(comm, status);
        if (status == RF_OK && rf_comm_rank(comm) == 0) {
            rf_progress("check", rf_min_i64(n, first + size), n, "groups");
        }
    }
    return status;
}

static rf_status open_damaged(const char *path, repairer *r)
{
    rf_status status = RF_OK;
    status = rf_store_open_for(path, RF_STORE_REPAIR, &r->store);
    if (status == RF_ERR_FORMAT) {
        rf_error_context("it cannot be repaired, only removed and written anew");
    }
    RF_TRY(status);
    RF_TRY(reserve(r));
fail:
    return status;
}

/* Of rank 0. */
static rf_status lock_damaged(const char *path, rf_folder_lock **lock)
{
    rf_status status = RF_OK;
    if (!rf_file_exists(path)) {
        RF_FAIL(RF_ERR_NOT_FOUND, "there is no store '%s' to repair", path);
    }
    RF_TRY(rf_store_lock(path, lock));
fail:
    return status;
}

rf_status rf_store_repair(const rf_comm *comm, const char *path, int64_t *n_checked,
                          int64_t *n_damaged)
{
    rf_status status = RF_OK;
    repairer r = {0};
    rf_folder_lock *lock = NULL;

    *n_checked = 0;
    *n_damaged = 0;
    RF_TRY(rf_comm_agree(comm, rf_comm_rank(comm) == 0 ? lock_damaged(path, &lock) : RF_OK));
    RF_TRY(rf_comm_agree(comm, open_damaged(path, &r)));
    RF_TRY(check_groups(comm, &r));
    RF_TRY(rf_comm_sum_i64(comm, r.counts, 2));
    *n_checked = r.counts[0];
    *n_damaged = r.counts[1];
fail:
    rf_free(r.room);
    rf_store_close(r.store);
    rf_folder_lock_release(lock);
    return status;
}
