/* The pool in memory: which rank has which of its groups, running the model on this rank's, and
 * telling all ranks which pictures could be read. */
#include "data_impl.h"

#include <string.h>

static int64_t site_row_bytes(const rf_site *site)
{
    return site->point.width * (int64_t)sizeof(float);
}

rf_status rf_pool_init(rf_activation_stream *st)
{
    rf_status status = RF_OK;
    rf_pool *pool = &st->pool;
    int64_t n_groups = st->order.pool_groups, n_pictures = 0;

    pool->ordinal = -1;
    pool->queued_slot = -1;
    RF_TRY(rf_mul_i64(n_groups, st->order.group_pictures, "pictures of a pool", &n_pictures));
    RF_ALLOC(pool->slots, n_groups);
    RF_ALLOC(pool->n_local, st->size);
    RF_ALLOC(pool->valid_bytes, st->size);
    RF_ALLOC(pool->valid, n_pictures);
    RF_ALLOC(pool->local_valid, n_pictures);
    RF_ALLOC(pool->gathered, n_pictures);
    RF_ALLOC(pool->rows, st->n_sites);
    RF_ALLOC(pool->group_rows, st->n_sites);
fail:
    return status;
}

void rf_pool_fini(rf_activation_stream *st)
{
    rf_pool *pool = &st->pool;

    for (int64_t s = 0; pool->rows != NULL && s < st->n_sites; s++) {
        rf_memory_free(rf_stream_backend(st->stream), RF_MEMORY_DEVICE, pool->rows[s]);
    }
    rf_free(pool->group_rows);
    rf_free(pool->rows);
    rf_free(pool->gathered);
    rf_free(pool->local_valid);
    rf_free(pool->valid);
    rf_free(pool->valid_bytes);
    rf_free(pool->n_local);
    rf_free(pool->slots);
    *pool = (rf_pool){.ordinal = -1};
}

/* Groups are dealt by their place in the epoch's order; where later epochs have them from memory or
 * from a store that is written, by that in epoch 0's: a group comes back to the rank that has it.
 */
static int64_t owner_of(const rf_activation_stream *st, int64_t slot, int64_t group)
{
    return (st->keep.first_slot != NULL ? st->keep.first_slot[group] : slot) % st->size;
}

static void place_groups(rf_activation_stream *st, int64_t ordinal)
{
    rf_pool *pool = &st->pool;
    const rf_order *order = &st->order;
    int64_t epoch = ordinal / order->n_pools;

    pool->epoch = epoch == st->at_epoch.epoch ? st->at_epoch : rf_order_find_epoch(order, epoch);
    pool->idx = ordinal % order->n_pools;
    pool->first_slot = pool->idx * order->pool_groups;
    pool->n_slots = rf_min_i64(order->pool_groups, order->n_groups - pool->first_slot);
    memset(pool->n_local, 0, (size_t)st->size * sizeof *pool->n_local);
    for (int64_t i = 0; i < pool->n_slots; i++) {
        int64_t slot = pool->first_slot + i;
        int64_t group = rf_order_group(order, epoch, slot);
        int64_t owner = owner_of(st, slot, group);
        pool->slots[i] = (rf_pool_slot){group, owner, pool->n_local[owner]++};
    }
}

static rf_status reserve_rows(rf_activation_stream *st)
{
    rf_status status = RF_OK;
    rf_pool *pool = &st->pool;
    rf_backend *be = rf_stream_backend(st->stream);
    int64_t n_groups = pool->n_local[st->rank];

    if (n_groups <= pool->capacity) {
        return RF_OK;
    }
    pool->capacity = 0;
    for (int64_t s = 0; s < st->n_sites; s++) {
        const rf_site *site = &st->sites[s];
        int64_t n_rows = 0, n_bytes = 0;
        rf_memory_free(be, RF_MEMORY_DEVICE, pool->rows[s]);
        pool->rows[s] = NULL;
        RF_TRY(rf_mul_i64(n_groups * st->order.group_pictures, site->n_rows, "rows of a pool",
                          &n_rows));
        RF_TRY(rf_mul_i64(n_rows, site_row_bytes(site), "bytes of a pool", &n_bytes));
        RF_TRY_DOING(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)n_bytes, &pool->rows[s]),
                     "%s of %" PRId64
                     " groups (fewer activations.pool_groups or group_pictures need less)",
                     site->point.name, n_groups);
    }
    pool->capacity = n_groups;
fail:
    return status;
}

/* Start the source with what this rank will need from here to the epoch's end, so that pictures of
 * the next pools are decoded while coders train on this one. */
static rf_status queue_groups(rf_activation_stream *st)
{
    rf_status status = RF_OK;
    rf_pool *pool = &st->pool;
    const rf_order *order = &st->order;
    int64_t epoch = pool->epoch.epoch, n = 0;
    int64_t *pictures = NULL, *first = NULL;
    int64_t n_slots = order->n_groups - pool->first_slot;

    if (pool->queued_slot == pool->first_slot && pool->queued_epoch == epoch) {
        return RF_OK;
    }
    int64_t n_most = st->keep.first_slot != NULL ? n_slots : rf_ceil_div(n_slots, st->size);
    RF_ALLOC(first, n_most + 1);
    RF_ALLOC(pictures, n_most * order->group_pictures);
    for (int64_t slot = pool->first_slot; slot < order->n_groups; slot++) {
        int64_t group = rf_order_group(order, epoch, slot);
        if (owner_of(st, slot, group) != st->rank || rf_keep_has(st, group)) {
            continue;
        }
        int64_t n_pictures = rf_order_group_size(order, group);
        for (int64_t i = 0; i < n_pictures; i++) {
            pictures[first[n] + i] = rf_order_first_picture(order, group) + i;
        }
        first[n + 1] = first[n] + n_pictures;
        n++;
    }
    RF_TRY(st->source.start(st->source.self, pictures, first, n));
fail:
    rf_free(pictures);
    rf_free(first);
    return status;
}

rf_status rf_pool_clear_bad_rows(rf_stream *s, const rf_site *sites, int64_t n_sites,
                                 int64_t n_pictures, void *const *rows, const uint8_t *valid)
{
    rf_status status = RF_OK;

    for (int64_t i = 0; i < n_pictures; i++) {
        for (int64_t site = 0; !valid[i] && site < n_sites; site++) {
            size_t n_bytes = (size_t)(sites[site].n_rows * site_row_bytes(&sites[site]));
            RF_TRY(rf_fill_bytes(s, (char *)rows[site] + (size_t)i * n_bytes, 0, n_bytes));
        }
    }
fail:
    return status;
}

static rf_status make_group(rf_activation_stream *st, const rf_pool_slot *slot)
{
    rf_status status = RF_OK;
    rf_pool *pool = &st->pool;
    int64_t n_pictures = rf_order_group_size(&st->order, slot->group);
    int64_t first = slot->local * st->order.group_pictures;
    uint8_t *valid = pool->local_valid + first;

    for (int64_t s = 0; s < st->n_sites; s++) {
        pool->group_rows[s] =
            (char *)pool->rows[s] + first * st->sites[s].n_rows * site_row_bytes(&st->sites[s]);
    }
    if (rf_keep_has(st, slot->group)) {
        return rf_keep_load(st, slot->group, pool->group_rows, valid);
    }
    memset(valid, 0, (size_t)st->order.group_pictures);
    RF_TRY(st->source.next(st->source.self, st->sites, st->n_sites, n_pictures, pool->group_rows,
                           valid));
    RF_TRY(rf_pool_clear_bad_rows(st->stream, st->sites, st->n_sites, n_pictures, pool->group_rows,
                                  valid));
    RF_TRY(rf_keep_store(st, slot->group, pool->group_rows, valid));
fail:
    return status;
}

/* The groups of this rank, in rounds: after each, ranks agree on going on, so that a signal or a
 * failure on one of them stops all of them soon. Collective. */
static rf_status make_local(rf_activation_stream *st)
{
    rf_status status = RF_OK;
    rf_pool *pool = &st->pool;
    int64_t n_rounds = 0, slot = 0;

    for (int64_t r = 0; r < st->size; r++) {
        n_rounds = rf_max_i64(n_rounds, pool->n_local[r]);
    }
    status = reserve_rows(st);
    if (status == RF_OK) {
        status = queue_groups(st);
    }
    pool->queued_slot = -1; /* until all went well */
    for (int64_t round = 0; round < n_rounds; round++) {
        while (slot < pool->n_slots && pool->slots[slot].owner != st->rank) {
            slot++;
        }
        if (status == RF_OK && slot < pool->n_slots) {
            status = make_group(st, &pool->slots[slot++]);
        }
        if (status == RF_OK && rf_interrupt_pending() != 0) {
            status = rf_error_raise(RF_ERR_INTERRUPTED, __FILE__, __LINE__, "stopped by signal %d",
                                    rf_interrupt_pending());
        }
        RF_TRY(rf_comm_agree(st->comm, status));
    }
    status = rf_stream_synchronise(st->stream);
    pool->queued_epoch = pool->epoch.epoch;
    pool->queued_slot = pool->first_slot + pool->n_slots;
    status = rf_comm_agree(st->comm, status);
fail:
    return status;
}

/* Collective. */
static rf_status share_valid(rf_activation_stream *st)
{
    rf_status status = RF_OK;
    rf_pool *pool = &st->pool;
    int64_t n_pictures = st->order.group_pictures, first = 0;

    for (int64_t r = 0; r < st->size; r++) {
        pool->valid_bytes[r] = pool->n_local[r] * n_pictures;
    }
    RF_TRY(rf_comm_allgatherv(st->comm, pool->local_valid, pool->gathered, pool->valid_bytes));
    for (int64_t r = 0; r < st->size; r++) {
        for (int64_t i = 0; i < pool->n_slots; i++) {
            if (pool->slots[i].owner == r) {
                memcpy(pool->valid + i * n_pictures,
                       pool->gathered + first + pool->slots[i].local * n_pictures,
                       (size_t)n_pictures);
            }
        }
        first += pool->valid_bytes[r];
    }
fail:
    return status;
}

rf_status rf_pool_require(rf_activation_stream *st, int64_t ordinal)
{
    rf_status status = RF_OK;

    if (st->pool.ordinal == ordinal) {
        return RF_OK;
    }
    st->pool.ordinal = -1;
    place_groups(st, ordinal);
    RF_TRY(make_local(st));
    RF_TRY(share_valid(st));
    RF_TRY(rf_bad_pictures_update(st));
    st->pool.ordinal = ordinal;
fail:
    return status;
}

rf_token_source rf_pool_find(const rf_activation_stream *st, const rf_reader *rd, int64_t position)
{
    const rf_pool *pool = &st->pool;
    int64_t begin = 0, end = 0;

    rf_order_pool_span(&st->order, pool->epoch, pool->idx, rd->n_rows, &begin, &end);
    rf_order_token t =
        rf_order_token_at(&st->order, pool->epoch, pool->idx, rd->n_rows, position - begin);
    int64_t slot_idx = t.slot - pool->first_slot;
    const rf_pool_slot *slot = &pool->slots[slot_idx];
    return (rf_token_source){
        .owner = slot->owner,
        .local_picture = slot->local * st->order.group_pictures + t.picture,
        .row = t.row,
        .picture = rf_order_first_picture(&st->order, slot->group) + t.picture,
        .is_valid = pool->valid[slot_idx * st->order.group_pictures + t.picture] != 0,
    };
}

int64_t rf_pool_row(const rf_activation_stream *st, const rf_reader_part *part,
                    const rf_token_source *source)
{
    const rf_site *site = &st->sites[part->site];
    return source->local_picture * site->n_rows + part->first_row - site->first_row + source->row;
}
