/* Activations that are kept from one epoch for the later ones. A group is kept by the rank that was
 * dealt it in epoch 0, which gets it in every epoch, so that nothing moves; a rank keeps its first
 * ones, as many as fit. */
#include "data_impl.h"

#include <string.h>

static size_t picture_bytes(const rf_site *site)
{
    return (size_t)(site->n_rows * site->point.width) * sizeof(float);
}

static rf_status find_first_slots(rf_activation_stream *st)
{
    rf_status status = RF_OK;
    const rf_order *order = &st->order;

    RF_ALLOC(st->keep.first_slot, order->n_groups);
    for (int64_t slot = 0; slot < order->n_groups; slot++) {
        st->keep.first_slot[rf_order_group(order, 0, slot)] = slot;
    }
fail:
    return status;
}

rf_status rf_keep_init(rf_activation_stream *st, int64_t keep_bytes, int64_t n_epochs,
                       bool deals_as_first)
{
    rf_status status = RF_OK;
    rf_keep *keep = &st->keep;
    const rf_order *order = &st->order;

    RF_REQUIRE(keep_bytes >= 0, "keep_bytes=%" PRId64 ", expected >= 0", keep_bytes);
    for (int64_t s = 0; s < st->n_sites; s++) {
        keep->block_bytes += order->group_pictures * (int64_t)picture_bytes(&st->sites[s]);
    }
    keep->is_on = n_epochs > 1 && keep_bytes >= keep->block_bytes;
    if (keep->is_on || deals_as_first) {
        RF_TRY(find_first_slots(st));
    }
    if (!keep->is_on) {
        return RF_OK;
    }
    int64_t n_local = rf_max_i64(0, rf_ceil_div(order->n_groups - st->rank, st->size));
    keep->n_max = rf_min_i64(keep_bytes / keep->block_bytes, n_local);
    RF_ALLOC(keep->blocks, keep->n_max);
    RF_ALLOC(keep->valid, keep->n_max * order->group_pictures);
    RF_TRY(rf_stream_create(rf_stream_backend(st->stream), &keep->copies));
    RF_TRY(rf_event_create(rf_stream_backend(st->stream), &keep->turn));
fail:
    return status;
}

void rf_keep_fini(rf_activation_stream *st)
{
    rf_keep *keep = &st->keep;

    rf_upload_settle(st->stream); /* copies in and out of blocks */
    rf_upload_settle(keep->copies);
    for (int64_t i = 0; keep->blocks != NULL && i < keep->n_max; i++) {
        rf_memory_free(rf_stream_backend(st->stream), RF_MEMORY_PINNED, keep->blocks[i]);
    }
    rf_free(keep->valid);
    rf_free(keep->blocks);
    rf_free(keep->first_slot);
    rf_event_destroy(keep->turn);
    rf_stream_destroy(keep->copies);
    *keep = (rf_keep){0};
}

/* Where this rank keeps its group, or -1. */
static int64_t block_of(const rf_activation_stream *st, int64_t group)
{
    if (!st->keep.is_on) {
        return -1;
    }
    int64_t block = st->keep.first_slot[group] / st->size;
    return block < st->keep.n_max ? block : -1;
}

bool rf_keep_has(const rf_activation_stream *st, int64_t group)
{
    int64_t block = block_of(st, group);
    return block >= 0 && st->keep.blocks[block] != NULL;
}

rf_status rf_keep_load(rf_activation_stream *st, int64_t group, void *const *rows, uint8_t *valid)
{
    rf_status status = RF_OK;
    int64_t block = block_of(st, group);
    int64_t n_pictures = st->order.group_pictures;
    const char *from = st->keep.blocks[block];

    for (int64_t s = 0; s < st->n_sites; s++) {
        size_t n_bytes = (size_t)n_pictures * picture_bytes(&st->sites[s]);
        RF_TRY(rf_copy_in(st->stream, rows[s], from, n_bytes));
        from += n_bytes;
    }
    memcpy(valid, st->keep.valid + block * n_pictures, (size_t)n_pictures);
fail:
    return status;
}

rf_status rf_keep_store(rf_activation_stream *st, int64_t group, void *const *rows,
                        const uint8_t *valid)
{
    rf_status status = RF_OK;
    int64_t block = block_of(st, group);
    int64_t n_pictures = st->order.group_pictures;
    rf_backend *be = rf_stream_backend(st->stream);
    void *to = NULL;

    if (block < 0) {
        return RF_OK;
    }
    RF_TRY_DOING(rf_memory_alloc(be, RF_MEMORY_PINNED, (size_t)st->keep.block_bytes, &to),
                 "activations.keep_bytes is larger than the memory that this rank has");
    char *at = to;
    RF_TRY(rf_event_record(st->keep.turn, st->stream));
    RF_TRY(rf_event_wait(st->keep.turn, st->keep.copies));
    for (int64_t s = 0; s < st->n_sites; s++) {
        size_t n_bytes = (size_t)n_pictures * picture_bytes(&st->sites[s]);
        RF_TRY(rf_copy_out(st->keep.copies, at, rows[s], n_bytes));
        at += n_bytes;
    }
    memcpy(st->keep.valid + block * n_pictures, valid, (size_t)n_pictures);
    st->keep.blocks[block] = to;
    return RF_OK;
fail:
    rf_upload_settle(st->keep.copies);
    rf_memory_free(be, RF_MEMORY_PINNED, to);
    return status;
}

rf_status rf_keep_let_go(rf_activation_stream *st)
{
    rf_status status = RF_OK;

    if (st->keep.is_on) {
        RF_TRY(rf_event_record(st->keep.turn, st->keep.copies));
        RF_TRY(rf_event_wait(st->keep.turn, st->stream));
    }
fail:
    return status;
}
