/* What each rule of selection keeps while tiles of products pass, and how its codes come of it. */
#include "cuda_encode_impl.h"

/* Tiles whose products may all become candidates of a BATCH_TOPK list before it must be pruned:
 * there is room for so many. */
enum { TILES_A_PRUNE = 4 };
/* Candidates of a BATCH_TOPK class besides 3/2 k that may stay unmeasured. */
enum { SPARE = 4096 };

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static bool is_of_values(const rf_cuda_list *list)
{
    return !rf_select_is_exact(list->list->rule);
}

/* k by class, none above `most`. */
static rf_k_classes classes_of(const rf_select_list *list, int64_t most)
{
    rf_k_classes classes = {.row_class = list->row_class};
    for (int c = 0; c < RF_MAX_ROW_CLASSES; c++) {
        classes.k[c] = min_of(list->row_class != NULL ? list->class_k[c] : list->k, most);
    }
    return classes;
}

/* ---- memory --------------------------------------------------------------------------------- */

static void carve_bounds(rf_carver *c, const rf_cuda_encode_plan *plan, rf_k_bounds *bounds)
{
    bounds->norm = plan->norm;
    bounds->row_scale = plan->row_scale;
    bounds->row_on = plan->row_on;
    bounds->hi = rf_carve(c, plan->n_latents, sizeof(float));
    bounds->lo = rf_carve(c, plan->n_latents, sizeof(float));
    bounds->peak_norm = rf_carve(c, plan->n_steps, sizeof(float));
    bounds->peak_hi = rf_carve(c, plan->n_steps, sizeof(float));
}

/* Room for k, and for a step after the k that are left when all else fails; twice k, so that
 * pruning is rare. */
static void carve_topk(rf_carver *c, const rf_cuda_encode_plan *plan, rf_cuda_list *list)
{
    rf_k_topk *t = &list->topk;
    const int64_t k = min_of(list->list->k, plan->n_latents);
    const int64_t room = min_of(plan->n_latents, max_of(2 * k, k + RF_ENCODE_STEP));
    t->classes = classes_of(list->list, plan->n_latents);
    t->room = (room + 31) / 32 * 32;
    t->lo = rf_carve(c, plan->n_rows * t->room, sizeof(float));
    t->hi = rf_carve(c, plan->n_rows * t->room, sizeof(float));
    t->latent = rf_carve(c, plan->n_rows * t->room, sizeof(int32_t));
    t->n = rf_carve(c, plan->n_rows, sizeof(int32_t));
    t->n_known = rf_carve(c, plan->n_rows, sizeof(int32_t));
    t->bound = rf_carve(c, plan->n_rows, sizeof(float));
}

/* Chunks for `n` entries: each row wastes less than one. */
static void carve_pool(rf_carver *c, const rf_cuda_encode_plan *plan, int64_t n, rf_k_pool *pool)
{
    pool->n_chunks = n / RF_POOL_CHUNK + plan->n_rows + 1;
    pool->latent = rf_carve(c, pool->n_chunks * RF_POOL_CHUNK, sizeof(int32_t));
    pool->value = rf_carve(c, pool->n_chunks * RF_POOL_CHUNK, sizeof(float));
    pool->next = rf_carve(c, pool->n_chunks, sizeof(int32_t));
    pool->first = rf_carve(c, plan->n_rows, sizeof(int32_t));
    pool->last = rf_carve(c, plan->n_rows, sizeof(int32_t));
    pool->n = rf_carve(c, plan->n_rows, sizeof(int32_t));
}

static void carve_counters(rf_carver *c, rf_cuda_list *list, rf_k_pool *pool)
{
    const size_t begin = c->used;
    list->zeroed = rf_carve(c, 0, 1);
    pool->n_used = rf_carve(c, 1, sizeof(int32_t));
    pool->n_free = rf_carve(c, 1, sizeof(int32_t));
    if (list->list->rule == RF_SELECT_BATCH_TOPK) {
        rf_k_batch *b = &list->batch;
        b->state = rf_carve(c, b->n_classes, sizeof *b->state);
        b->counts = rf_carve(c, (int64_t)b->n_classes * RF_BATCH_BINS, sizeof *b->counts);
    }
    list->zeroed_bytes = c->used - begin;
}

/* Room for what may stay after a prune and for all of the tiles until the next. */
static void carve_batch(rf_carver *c, const rf_cuda_encode_plan *plan, rf_cuda_list *list)
{
    rf_k_batch *b = &list->batch;
    const int64_t n_values = plan->n_rows * plan->n_latents;
    int64_t room = min_of(TILES_A_PRUNE * plan->block_rows * plan->tile, n_values);
    b->n_classes = list->list->row_class != NULL ? RF_MAX_ROW_CLASSES : 1;
    b->classes = classes_of(list->list, n_values);
    b->limits.row_class = NULL;
    for (int i = 0; i < RF_MAX_ROW_CLASSES; i++) {
        const int64_t k = b->classes.k[i];
        b->limits.k[i] = k == 0 ? 0 : min_of(k + k / 2 + SPARE, n_values);
        room += i < b->n_classes ? b->limits.k[i] : 0;
    }
    carve_pool(c, plan, min_of(room, n_values), &b->pool);
    b->pool.free = rf_carve(c, b->pool.n_chunks, sizeof(int32_t));
    b->n_known = rf_carve(c, plan->n_rows, sizeof(int32_t));
    b->n_tied = rf_carve(c, plan->n_rows, sizeof(int32_t));
    b->tie_start = rf_carve(c, plan->n_rows, sizeof(int64_t));
    carve_counters(c, list, &b->pool);
}

void rf_cuda_list_carve(rf_carver *carver, const rf_cuda_encode_plan *plan, rf_cuda_list *list)
{
    if (!is_of_values(list)) {
        carve_bounds(carver, plan, &list->bounds);
    }
    if (list->list->rule == RF_SELECT_TOPK) {
        carve_topk(carver, plan, list);
    } else if (list->list->rule == RF_SELECT_BATCH_TOPK) {
        carve_batch(carver, plan, list);
    } else {
        carve_pool(carver, plan, list->list->codes->capacity, &list->pool);
        carve_counters(carver, list, &list->pool);
    }
    list->start = rf_carve(carver, plan->n_rows + 1, sizeof(int64_t));
}

/* ---- tiles ---------------------------------------------------------------------------------- */

rf_status rf_cuda_list_begin(const rf_cuda_encode_plan *plan, rf_cuda_list *list)
{
    rf_status status = RF_OK;
    const rf_k_bounds *b = &list->bounds;
    const bool is_batch = list->list->rule == RF_SELECT_BATCH_TOPK;
    if (!is_of_values(list)) {
        rf_k_encode_offsets(plan->stream, plan->norm, plan->exact.bias, list->list->eligible,
                            plan->n_latents, plan->width, plan->extremes, b->hi, b->lo,
                            b->peak_norm, b->peak_hi);
    }
    if (list->list->rule != RF_SELECT_TOPK) {
        RF_CUDA_TRY(cudaMemsetAsync(list->zeroed, 0, list->zeroed_bytes, plan->stream));
        rf_k_pool_empty(plan->stream, is_batch ? list->batch.pool : list->pool, plan->n_rows);
    }
fail:
    return status;
}

static void take_values(const rf_cuda_encode_plan *plan, const rf_cuda_list *list, rf_k_tile tile)
{
    const rf_k_wanted wanted = {.bias = plan->exact.bias,
                                .threshold = list->list->threshold.data,
                                .eligible = list->list->eligible,
                                .row_on = plan->row_on,
                                .window = list->list->rule == RF_SELECT_WINDOW ? list->list->window
                                                                               : 0.0f};
    rf_k_pool_take_values(plan->stream, tile, wanted, list->pool);
}

/* Pruned after the first tile, which sets a bound for all that follow, and whenever the next tile
 * might not fit. */
static void take_batch(const rf_cuda_encode_plan *plan, rf_cuda_list *list, rf_k_tile tile)
{
    const bool is_first = tile.first_row == 0 && tile.first_latent == 0;
    rf_k_batch_take(plan->stream, tile, list->bounds, list->batch);
    list->n_unpruned++;
    if (is_first || list->n_unpruned == TILES_A_PRUNE) {
        rf_k_batch_prune(plan->stream, list->bounds, list->batch, plan->n_rows);
        rf_k_batch_settle(plan->stream, list->bounds, plan->exact, list->batch, plan->n_rows,
                          false);
        list->n_unpruned = 0;
    }
}

void rf_cuda_list_take(const rf_cuda_encode_plan *plan, rf_cuda_list *list, rf_k_tile tile)
{
    switch (list->list->rule) {
    case RF_SELECT_TOPK:
        rf_k_topk_take(plan->stream, tile, list->bounds, plan->exact, list->topk);
        break;
    case RF_SELECT_BATCH_TOPK:
        take_batch(plan, list, tile);
        break;
    case RF_SELECT_ABOVE:
        rf_k_pool_take_above(plan->stream, tile, list->bounds, plan->exact, list->list->floor,
                             list->list->row_class, list->pool);
        break;
    case RF_SELECT_POSITIVE:
    case RF_SELECT_WINDOW:
        take_values(plan, list, tile);
        break;
    }
}

void rf_cuda_list_finish(const rf_cuda_encode_plan *plan, rf_cuda_list *list)
{
    const rf_select_list *of = list->list;
    rf_codes *codes = of->codes;
    const rf_k_pool *pool = &list->pool;
    if (of->rule == RF_SELECT_TOPK) {
        rf_k_topk_finish(plan->stream, plan->exact, list->topk, plan->n_rows);
        rf_k_encode_start_rows(plan->stream, list->topk.n, plan->n_rows, list->start);
        rf_k_topk_pack(plan->stream, list->topk, list->start, plan->n_rows, codes->row_start,
                       codes->latent, codes->value, of->overflow);
    } else {
        if (of->rule == RF_SELECT_BATCH_TOPK) {
            pool = &list->batch.pool;
            rf_k_batch_prune(plan->stream, list->bounds, list->batch, plan->n_rows);
            rf_k_batch_settle(plan->stream, list->bounds, plan->exact, list->batch, plan->n_rows,
                              true);
        }
        rf_k_encode_start_rows(plan->stream, pool->n, plan->n_rows, list->start);
        rf_k_pool_pack(plan->stream, *pool, list->start, plan->n_rows, codes->capacity,
                       codes->row_start, codes->latent, codes->value, of->overflow);
    }
    codes->n_rows = plan->n_rows;
}
