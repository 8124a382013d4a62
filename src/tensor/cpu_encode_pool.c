/* Entries of lists whose size is known only in the end: chunks of a row, one after the other. */
#include "encode_impl.h"

#include <string.h>

/* One more chunk for `row`, or false when none is left. */
static bool take_chunk(rf_encode_pool *pool, int64_t row, bool is_first)
{
    int64_t chunk;
#pragma omp atomic capture
    chunk = pool->n_used++;
    if (chunk >= pool->n_chunks) {
        return false;
    }
    if (is_first) {
        pool->first[row] = (int32_t)chunk;
    } else {
        pool->next[pool->last[row]] = (int32_t)chunk;
    }
    pool->last[row] = (int32_t)chunk;
    return true;
}

bool rf_encode_append(rf_encode_list *list, int64_t row, int32_t latent, float value)
{
    rf_encode_pool *pool = &list->pool;
    int64_t n = list->count[row];
    if (n % ENCODE_CHUNK == 0 && !take_chunk(pool, row, n == 0)) {
        return false;
    }
    int64_t at = (int64_t)pool->last[row] * ENCODE_CHUNK + n % ENCODE_CHUNK;
    pool->latent[at] = latent;
    pool->value[at] = value;
    list->count[row] = n + 1;
    return true;
}

int64_t rf_encode_start_rows(const rf_encode_plan *plan, const rf_encode_list *list)
{
    int64_t *start = list->list->codes->row_start;
    start[0] = 0;
    for (int64_t b = 0; b < plan->n_rows; b++) {
        start[b + 1] = start[b] + list->count[b];
    }
    return start[plan->n_rows];
}

void rf_encode_pack_chunks(const rf_encode_plan *plan, const rf_encode_list *list, int n_threads)
{
    const rf_encode_pool *pool = &list->pool;
    rf_codes *codes = list->list->codes;
    bool fits =
        pool->n_used <= pool->n_chunks && rf_encode_start_rows(plan, list) <= codes->capacity;
    *list->list->overflow = !fits;
    if (!fits) {
        memset(codes->row_start, 0, sizeof(int64_t) * (size_t)(plan->n_rows + 1));
        return;
    }
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t b = 0; b < plan->n_rows; b++) {
        int64_t to = codes->row_start[b], last = codes->row_start[b + 1];
        int64_t chunk = to < last ? pool->first[b] : 0;
        while (to < last) {
            size_t n = (size_t)rf_min_i64(ENCODE_CHUNK, last - to);
            memcpy(codes->latent + to, pool->latent + chunk * ENCODE_CHUNK, sizeof(int32_t) * n);
            memcpy(codes->value + to, pool->value + chunk * ENCODE_CHUNK, sizeof(float) * n);
            to += (int64_t)n;
            chunk = to < last ? pool->next[chunk] : 0;
        }
    }
}
