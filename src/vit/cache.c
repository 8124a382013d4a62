/* A cache: which points it keeps, its memory, and finding an activation in it. The forward pass
 * fills it (rf_pass_fire). */
#include "vit_impl.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

static rf_status add_entry(rf_cache *cache, const rf_hook_point *point)
{
    for (int64_t i = 0; i < cache->n_entries; i++) {
        if (cache->entries[i].point.site == point->site &&
            cache->entries[i].point.layer == point->layer) {
            return RF_OK;
        }
    }
    rf_cache_entry *grown =
        rf_realloc(cache->entries, cache->n_entries, cache->n_entries + 1, sizeof *grown);
    if (grown == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    cache->entries = grown;
    cache->entries[cache->n_entries++] = (rf_cache_entry){.point = *point};
    return RF_OK;
}

/* What `filter` names; NULL: every point. */
static rf_status add_filter(rf_cache *cache, const char *filter)
{
    rf_status status = RF_OK;
    rf_hook_point *points = NULL, point;
    int64_t n = 0, n_before = cache->n_entries;
    if (filter != NULL && strpbrk(filter, "*?[") == NULL) {
        RF_TRY(rf_vit_hook_find(&cache->vit->config, filter, &point));
        RF_TRY(add_entry(cache, &point));
        return RF_OK;
    }
    RF_TRY(rf_vit_hook_list(&cache->vit->config, &points, &n));
    for (int64_t i = 0; i < n; i++) {
        if (!points[i].is_on_request &&
            (filter == NULL || fnmatch(filter, points[i].name, 0) == 0)) {
            RF_TRY(add_entry(cache, &points[i]));
        }
    }
    if (cache->n_entries == n_before && filter != NULL) {
        RF_FAIL(RF_ERR_NOT_FOUND, "no hook point of this model matches '%.128s'", filter);
    }
fail:
    rf_free(points);
    return status;
}

/* Insertion sort by firing order: filters are few, and points of one filter come sorted. */
static void sort_entries(rf_cache *cache)
{
    const rf_vit_config *c = &cache->vit->config;
    for (int64_t i = 1; i < cache->n_entries; i++) {
        const rf_cache_entry entry = cache->entries[i];
        int64_t j = i;
        while (j > 0 &&
               rf_hook_order(c, &cache->entries[j - 1].point) > rf_hook_order(c, &entry.point)) {
            cache->entries[j] = cache->entries[j - 1];
            j--;
        }
        cache->entries[j] = entry;
    }
}

rf_status rf_cache_create(rf_vit *vit, const char *const *filters, int64_t n_filters,
                          rf_cache **out)
{
    rf_status status = RF_OK;
    rf_cache *cache = NULL;
    RF_REQUIRE(n_filters >= 0, "n_filters=%" PRId64 ", expected >= 0", n_filters);
    RF_ALLOC(cache, 1);
    cache->vit = vit;
    cache->is_full = n_filters == 0;
    if (n_filters == 0) {
        RF_TRY(add_filter(cache, NULL));
    }
    for (int64_t i = 0; i < n_filters; i++) {
        RF_TRY(add_filter(cache, filters[i]));
    }
    sort_entries(cache);
    *out = cache;
    cache = NULL;
fail:
    rf_cache_destroy(cache);
    return status;
}

static void free_data(rf_cache *cache)
{
    for (int64_t i = 0; i < cache->n_entries; i++) {
        rf_memory_free(cache->vit->be, RF_MEMORY_DEVICE, cache->entries[i].data);
        cache->entries[i].data = NULL;
    }
    cache->capacity = 0;
}

void rf_cache_destroy(rf_cache *cache)
{
    if (cache != NULL) {
        free_data(cache);
        rf_free(cache->entries);
        rf_free(cache);
    }
}

rf_status rf_cache_begin(rf_cache *cache, rf_stream *s, int64_t n_images)
{
    rf_status status = RF_OK;
    cache->n_images = 0;
    cache->is_complete = false;
    cache->processing = cache->vit->processing;
    for (int64_t i = 0; i < cache->n_entries; i++) {
        cache->entries[i].is_filled = false;
    }
    for (int64_t i = 0; i < cache->n_entries; i++) {
        cache->entries[i].is_filled = false;
    }
    if (n_images > cache->capacity) {
        RF_TRY(rf_stream_synchronise(s)); /* nothing may still read what is given back */
        free_data(cache);
        for (int64_t i = 0; i < cache->n_entries; i++) {
            const rf_view view =
                rf_hook_view(&cache->vit->config, &cache->entries[i].point, n_images, NULL);
            RF_TRY_DOING(rf_memory_alloc(cache->vit->be, RF_MEMORY_DEVICE,
                                         (size_t)rf_view_n_elems(&view) * sizeof(float),
                                         (void **)&cache->entries[i].data),
                         "a cache of %" PRId64 " hook points for %" PRId64 " pictures",
                         cache->n_entries, n_images);
        }
        cache->capacity = n_images;
    }
    cache->n_images = n_images;
fail:
    return status;
}

const rf_cache_entry *rf_cache_entry_at(const rf_cache *cache, rf_site site, int64_t layer)
{
    if (cache == NULL) {
        return NULL;
    }
    const rf_hook_point here = {.site = (int)site, .layer = layer};
    const rf_vit_config *c = &cache->vit->config;
    const int64_t order = rf_hook_order(c, &here);
    int64_t low = 0, high = cache->n_entries;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (rf_hook_order(c, &cache->entries[middle].point) < order) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const bool found =
        low < cache->n_entries && rf_hook_order(c, &cache->entries[low].point) == order;
    return found ? &cache->entries[low] : NULL;
}

rf_status rf_cache_need(const rf_cache *cache, rf_site site, int64_t layer, rf_view *out)
{
    rf_status status = RF_OK;
    rf_hook_point point;
    const rf_cache_entry *entry = rf_cache_entry_at(cache, site, layer);
    if (entry == NULL || !entry->is_filled) {
        RF_BUG(rf_hook_point_at(&cache->vit->config, site, layer, &point),
               "a model without site %d in layer %" PRId64, (int)site, layer);
        RF_FAIL(RF_ERR_NOT_FOUND, "the cache does not hold '%s'", point.name);
    }
    *out = rf_hook_view(&cache->vit->config, &entry->point, cache->n_images, entry->data);
fail:
    return status;
}

rf_status rf_cache_get(const rf_cache *cache, const char *name, rf_view *out)
{
    rf_status status = RF_OK;
    rf_hook_point point;
    RF_TRY(rf_vit_hook_find(&cache->vit->config, name, &point));
    RF_TRY(rf_cache_need(cache, (rf_site)point.site, point.layer, out));
fail:
    return status;
}

rf_status rf_cache_read(const rf_cache *cache, rf_stream *s, const char *name, float *host)
{
    rf_status status = RF_OK;
    rf_view view;
    RF_TRY(rf_cache_get(cache, name, &view));
    RF_TRY(rf_copy_out(s, host, view.data, (size_t)rf_view_n_elems(&view) * sizeof(float)));
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}

int64_t rf_cache_n_images(const rf_cache *cache)
{
    return cache->n_images;
}

int64_t rf_cache_n_points(const rf_cache *cache)
{
    return cache->n_entries;
}

const rf_hook_point *rf_cache_point(const rf_cache *cache, int64_t idx)
{
    return idx >= 0 && idx < cache->n_entries ? &cache->entries[idx].point : NULL;
}

unsigned rf_cache_processing(const rf_cache *cache)
{
    return cache->processing;
}
