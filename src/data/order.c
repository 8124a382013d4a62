/* The order of everything that a stream delivers, as pure functions of the settings. */
#include "data_impl.h"

#include <math.h>
#include <stdlib.h>

rf_status rf_order_init(rf_order *order, uint64_t seed, int64_t n_pictures, int64_t group_pictures,
                        int64_t pool_groups)
{
    rf_status status = RF_OK;

    RF_REQUIRE(n_pictures >= 1, "there are no pictures in this split (%" PRId64 ")", n_pictures);
    RF_REQUIRE(group_pictures >= 1, "group_pictures=%" PRId64 ", expected >= 1", group_pictures);
    RF_REQUIRE(pool_groups >= 1, "pool_groups=%" PRId64 ", expected >= 1", pool_groups);
    *order = (rf_order){
        .seed = seed,
        .n_pictures = n_pictures,
        .group_pictures = group_pictures,
        .pool_groups = pool_groups,
        .n_groups = rf_ceil_div(n_pictures, group_pictures),
        .n_listed = n_pictures,
    };
    order->n_pools = rf_ceil_div(order->n_groups, pool_groups);
fail:
    return status;
}

static int compare_i64(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

rf_status rf_order_use_share(rf_order *order, double share)
{
    rf_status status = RF_OK;
    const int64_t n = rf_min_i64(order->n_groups, (int64_t)ceil(share * (double)order->n_groups));

    RF_REQUIRE(share > 0 && share <= 1 && order->kept == NULL, "share=%g, expected above 0 to 1",
               share);
    if (n == order->n_groups) {
        return RF_OK;
    }
    RF_ALLOC(order->kept, n);
    for (int64_t i = 0; i < n; i++) {
        order->kept[i] = rf_permute(order->seed, RF_RANDOM_SHARE, 0, 0, order->n_groups, i);
    }
    qsort(order->kept, (size_t)n, sizeof *order->kept, compare_i64);
    /* Rising, so that the one group that may be short stays the last, if it is among them. */
    const int64_t last = order->n_listed - order->kept[n - 1] * order->group_pictures;
    order->n_groups = n;
    order->n_pictures = (n - 1) * order->group_pictures + rf_min_i64(order->group_pictures, last);
    order->n_pools = rf_ceil_div(n, order->pool_groups);
fail:
    return status;
}

void rf_order_fini(rf_order *order)
{
    rf_free(order->kept);
    order->kept = NULL;
}

int64_t rf_order_first_picture(const rf_order *order, int64_t group)
{
    return (order->kept != NULL ? order->kept[group] : group) * order->group_pictures;
}

int64_t rf_order_group(const rf_order *order, int64_t epoch, int64_t slot)
{
    return rf_permute(order->seed, RF_RANDOM_GROUP_ORDER, (uint64_t)epoch, 0, order->n_groups,
                      slot);
}

int64_t rf_order_group_size(const rf_order *order, int64_t group)
{
    return rf_min_i64(order->group_pictures, order->n_pictures - group * order->group_pictures);
}

/* How many pictures the last group lacks. */
static int64_t shortage(const rf_order *order)
{
    return order->n_groups * order->group_pictures - order->n_pictures;
}

rf_order_epoch rf_order_find_epoch(const rf_order *order, int64_t epoch)
{
    rf_order_epoch e = {.epoch = epoch, .short_slot = order->n_groups};

    if (shortage(order) > 0) {
        e.short_slot = 0;
        while (rf_order_group(order, epoch, e.short_slot) != order->n_groups - 1) {
            e.short_slot++;
        }
    }
    return e;
}

int64_t rf_order_pool_first(const rf_order *order, rf_order_epoch epoch, int64_t pool)
{
    int64_t slot = rf_min_i64(pool * order->pool_groups, order->n_groups);
    return slot * order->group_pictures - (slot > epoch.short_slot ? shortage(order) : 0);
}

void rf_order_pool_span(const rf_order *order, rf_order_epoch epoch, int64_t pool, int64_t n_rows,
                        int64_t *begin, int64_t *end)
{
    int64_t epoch_begin = epoch.epoch * order->n_pictures;
    *begin = (epoch_begin + rf_order_pool_first(order, epoch, pool)) * n_rows;
    *end = (epoch_begin + rf_order_pool_first(order, epoch, pool + 1)) * n_rows;
}

int64_t rf_order_pool_at(const rf_order *order, int64_t n_rows, int64_t position)
{
    int64_t picture = position / n_rows;
    rf_order_epoch epoch = rf_order_find_epoch(order, picture / order->n_pictures);
    /* Only one group may be short, so this is the pool or the one before it. */
    int64_t place = picture % order->n_pictures;
    int64_t pool = place / (order->pool_groups * order->group_pictures);

    while (place >= rf_order_pool_first(order, epoch, pool + 1)) {
        pool++;
    }
    return epoch.epoch * order->n_pools + pool;
}

rf_order_token rf_order_token_at(const rf_order *order, rf_order_epoch epoch, int64_t pool,
                                 int64_t n_rows, int64_t i)
{
    int64_t first = rf_order_pool_first(order, epoch, pool);
    int64_t n_tokens = (rf_order_pool_first(order, epoch, pool + 1) - first) * n_rows;
    int64_t token = rf_permute(order->seed, RF_RANDOM_POOL_ORDER, (uint64_t)epoch.epoch,
                               (uint64_t)pool, n_tokens, i);
    int64_t place = first + token / n_rows; /* of its picture in the epoch */

    if (place >= (epoch.short_slot + 1) * order->group_pictures - shortage(order)) {
        place += shortage(order); /* as if the short group were whole */
    }
    return (rf_order_token){
        .slot = place / order->group_pictures,
        .picture = place % order->group_pictures,
        .row = token % n_rows,
    };
}
