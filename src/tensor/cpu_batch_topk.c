/* The k largest of all rows, or of all rows of each class. A thread keeps what its blocks hold
 * within bounds of the k largest; what is left of all threads in the end is measured by canonical
 * dots and cut exactly. The k-th largest lower bound that any thread knows of is below the value of
 * the last that is selected, so what threads tell each other, and when, changes their work but not
 * the result. */
#include "encode_impl.h"

#include <math.h>
#include <string.h>

/* So many candidates, besides a share of k, that pruning is rare. */
enum { SPARE = 4096 };

static int64_t soft_limit(int64_t k)
{
    return 3 * k + SPARE;
}

int64_t rf_batch_room(int64_t k, int64_t n_values, int64_t tile)
{
    return rf_min_i64(soft_limit(k), n_values) + tile;
}

/* ---- one thread ---------------------------------------------------------------------------- */

/* The largest bound of all threads. */
static float exchange_bound(rf_encode_class *class, float mine)
{
    float most;
#pragma omp critical(rf_batch_topk_bound)
    {
        most = mine > class->bound ? mine : class->bound;
#pragma omp atomic write
        class->bound = most;
    }
    return most;
}

static void drop_below(rf_batch_candidates *c, float threshold)
{
    int64_t kept = 0, known = 0;
    c->threshold = threshold;
    for (int64_t i = 0; i < c->n; i++) {
        float lo = c->lo[i], hi = c->hi[i];
        int is_kept = hi >= threshold;
        c->lo[kept] = lo;
        c->hi[kept] = hi;
        c->row[kept] = c->row[i];
        c->latent[kept] = c->latent[i];
        kept += is_kept;
        known += is_kept & (i < c->n_known);
    }
    c->n = kept;
    c->n_known = known;
}

/* Canonical values of all; candidates of one row stand together, as they came. */
static void measure(const rf_encode_plan *plan, const rf_encode_work *work, rf_batch_candidates *c)
{
    for (int64_t i = c->n_known, n; i < c->n; i += n) {
        rf_exact exact = rf_encode_exact(plan, work, c->row[i]);
        n = 1;
        while (n < SETTLE_CANDIDATES && i + n < c->n && c->row[i + n] == c->row[i]) {
            n++;
        }
        rf_dot_rows(exact.x, exact.w, exact.w_stride, c->latent + i, n, exact.width, exact.work);
        for (int64_t j = 0; j < n; j++) {
            c->lo[i + j] = c->hi[i + j] = exact.work[j] + exact.bias[c->latent[i + j]];
        }
    }
    c->n_known = c->n;
}

static int64_t key_of(const rf_batch_candidates *c, int64_t i, int64_t n_latents)
{
    return c->row[i] * n_latents + c->latent[i];
}

/* Such a key that `n_ties` of the values that equal `least` have smaller ones. */
static int64_t tie_bound(const rf_batch_candidates *c, float least, int64_t n_ties, int64_t n_rows,
                         int64_t n_latents)
{
    int64_t low = 0,
            high = n_rows * n_latents; /* fewer are below low, as many or more below high */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2, n = 0;
        for (int64_t i = 0; i < c->n; i++) {
            n += c->lo[i] == least && key_of(c, i, n_latents) < middle;
        }
        if (n >= n_ties) {
            high = middle;
        } else {
            low = middle;
        }
    }
    return high;
}

/* All values are known: exactly the k largest > 0 stay. */
static void keep(const rf_encode_plan *plan, int64_t k, rf_batch_candidates *c)
{
    float least = rf_threshold_of(c->lo, c->n, k, 0, rf_least_positive);
    int64_t n_above = 0, n_equal = 0, kept = 0, bound = INT64_MAX;
    for (int64_t i = 0; i < c->n; i++) {
        n_above += c->lo[i] > least;
        n_equal += c->lo[i] == least;
    }
    if (n_above + n_equal > k) {
        bound = tie_bound(c, least, k - n_above, plan->n_rows, plan->n_latents);
    }
    for (int64_t i = 0; i < c->n; i++) {
        float v = c->lo[i];
        if (v > least || (v == least && key_of(c, i, plan->n_latents) < bound)) {
            c->lo[kept] = c->hi[kept] = v;
            c->row[kept] = c->row[i];
            c->latent[kept++] = c->latent[i];
        }
    }
    c->n = c->n_known = kept;
    c->threshold = kept == k && least > c->threshold ? least : c->threshold;
}

/* So few candidates that those of one more row of a tile fit. Where bounds cannot tell k of them
 * from so many others, or all are equal, they are measured: then no more than k are left. */
static void make_room(const rf_encode_plan *plan, const rf_encode_work *work,
                      rf_encode_class *class, rf_batch_candidates *c)
{
    if (c->n <= class->room - plan->tile) {
        return;
    }
    float least = rf_threshold_of(c->lo, c->n, class->k, class->k / 8, c->threshold);
    drop_below(c, exchange_bound(class, least));
    if (c->n > 2 * class->k + SPARE / 2) {
        measure(plan, work, c);
        keep(plan, class->k, c);
        c->threshold = exchange_bound(class, c->threshold);
    }
}

void rf_batch_add(const rf_encode_plan *plan, rf_encode_work *work, int l, const rf_tile_latents *t,
                  const float *p, int64_t row)
{
    rf_encode_list *list = &plan->lists[l];
    const int of = rf_class_of(list->list->row_class, row);
    rf_encode_class *class = &list->classes[of];
    rf_batch_candidates *c = &work->lists[l].batch[of];
    float scale = plan->row_scale[row], bound;
    if (class->k == 0) {
        return;
    }
    make_room(plan, work, class, c);
#pragma omp atomic read
    bound = class->bound;
    c->threshold = bound > c->threshold ? bound : c->threshold;
    int64_t n =
        rf_cpu_nominate(p, t->norm, t->offset_hi, t->n, scale, c->threshold, work->nominated);
    for (int64_t i = 0; i < n; i++) {
        int32_t j = work->nominated[i];
        c->lo[c->n] = fmaf(-scale, t->norm[j], p[j]) + t->offset_lo[j];
        c->hi[c->n] = fmaf(scale, t->norm[j], p[j]) + t->offset_hi[j];
        c->row[c->n] = (int32_t)row;
        c->latent[c->n++] = rf_tile_latent(t, j);
    }
}

/* ---- all threads --------------------------------------------------------------------------- */

/* Drops what is below the k-th largest lower bound of all of class `of`; *n_left += how many are
 * left. */
static rf_status prune_class(const rf_encode_plan *plan, const rf_encode_work *works, int n_threads,
                             int l, int of, int64_t *n_left)
{
    rf_status status = RF_OK;
    const rf_encode_class *class = &plan->lists[l].classes[of];
    float *lo = NULL, threshold;
    int64_t total = 0, at = 0;
    for (int t = 0; t < n_threads; t++) {
        rf_batch_candidates *c = &works[t].lists[l].batch[of];
        drop_below(c, class->bound);
        total += c->n;
    }
    RF_ALLOC(lo, total);
    for (int t = 0; t < n_threads; t++) {
        const rf_batch_candidates *c = &works[t].lists[l].batch[of];
        memcpy(lo + at, c->lo, sizeof(float) * (size_t)c->n);
        at += c->n;
    }
    threshold = class->k > 0 ? rf_threshold_of(lo, total, class->k, 0, class->bound) : INFINITY;
    for (int t = 0; t < n_threads; t++) {
        drop_below(&works[t].lists[l].batch[of], threshold);
        *n_left += works[t].lists[l].batch[of].n;
    }
fail:
    rf_free(lo);
    return status;
}

/* Candidates as compressed rows. A row is of one thread, which met its latents rising. */
static void merge(const rf_encode_plan *plan, const rf_encode_work *works, int n_threads, int l,
                  rf_codes *merged)
{
    const int n_classes = plan->lists[l].n_classes;
    int64_t *count = plan->lists[l].count;
    memset(count, 0, sizeof(int64_t) * (size_t)plan->n_rows);
    for (int t = 0; t < n_threads * n_classes; t++) {
        const rf_batch_candidates *c = &works[t / n_classes].lists[l].batch[t % n_classes];
        for (int64_t i = 0; i < c->n; i++) {
            count[c->row[i]]++;
        }
    }
    rf_encode_start_rows(plan, &plan->lists[l]);
    memcpy(count, merged->row_start, sizeof(int64_t) * (size_t)plan->n_rows);
    for (int t = 0; t < n_threads * n_classes; t++) {
        const rf_batch_candidates *c = &works[t / n_classes].lists[l].batch[t % n_classes];
        for (int64_t i = 0; i < c->n; i++) {
            merged->latent[count[c->row[i]]++] = c->latent[i];
        }
    }
}

/* Values of rows first .. first + n - 1, side by side. */
static void settle(const rf_encode_plan *plan, const rf_encode_work *work, const rf_codes *merged,
                   int64_t first, int64_t n)
{
    int64_t at[SETTLE_ROWS];
    bool is_done = false;
    memcpy(at, merged->row_start + first, sizeof(int64_t) * (size_t)n);
    while (!is_done) {
        is_done = true;
        for (int64_t r = 0; r < n; r++) {
            int64_t count = rf_min_i64(SETTLE_CANDIDATES, merged->row_start[first + r + 1] - at[r]);
            if (count == 0) {
                continue;
            }
            rf_exact exact = rf_encode_exact(plan, work, first + r);
            const int32_t *latent = merged->latent + at[r];
            float *value = merged->value + at[r];
            rf_dot_rows(exact.x, exact.w, exact.w_stride, latent, count, exact.width, value);
            for (int64_t j = 0; j < count; j++) {
                value[j] += exact.bias[latent[j]];
            }
            at[r] += count;
            is_done = false;
        }
    }
}

static void settle_all(const rf_encode_plan *plan, const rf_encode_work *works, int n_threads,
                       const rf_codes *merged)
{
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads)
    for (int64_t b = 0; b < plan->n_rows; b += SETTLE_ROWS) {
        settle(plan, &works[rf_cpu_thread()], merged, b, rf_min_i64(SETTLE_ROWS, plan->n_rows - b));
    }
}

/* `to` = what `from` (which it may be) holds, the `k` largest of `rows`; `space` [entries]. */
static void cut_rows(const rf_codes *from, rf_class_rows rows, int64_t k, float *space,
                     rf_codes *to)
{
    int64_t n = 0, n_above = 0;
    for (int64_t b = 0; b < from->n_rows; b++) {
        const int64_t first = from->row_start[b], count = from->row_start[b + 1] - first;
        if (count > 0 && rf_class_has(rows, b)) {
            memcpy(space + n, from->value + first, sizeof(float) * (size_t)count);
            n += count;
        }
    }
    const float least = rf_threshold_of(space, n, k, 0, rf_least_positive);
    for (int64_t e = 0; e < n; e++) {
        n_above += space[e] > least;
    }
    rf_codes_cut(from, rows, least, k - n_above, to);
}

rf_status rf_batch_finish(const rf_encode_plan *plan, const rf_encode_work *works, int n_threads,
                          int l)
{
    rf_status status = RF_OK;
    const rf_encode_list *list = &plan->lists[l];
    rf_codes *codes = list->list->codes;
    rf_codes merged = {.n_rows = plan->n_rows, .row_start = codes->row_start};
    rf_class_rows rows = {.row_class = list->list->row_class};
    float *space = NULL;
    for (int i = 0; i < list->n_classes; i++) {
        RF_TRY(prune_class(plan, works, n_threads, l, i, &merged.capacity));
    }
    RF_ALLOC(merged.latent, merged.capacity);
    RF_ALLOC(merged.value, merged.capacity);
    RF_ALLOC(space, merged.capacity);
    merge(plan, works, n_threads, l, &merged);
    settle_all(plan, works, n_threads, &merged);
    for (; rows.which < list->n_classes; rows.which++) { /* the last cut is into the codes */
        const int64_t k = list->classes[rows.which].k;
        const bool is_last = rows.which == list->n_classes - 1;
        if (k > 0 || is_last) {
            cut_rows(&merged, rows, k, space, is_last ? codes : &merged);
        }
    }
fail:
    rf_free(space);
    rf_free(merged.value);
    rf_free(merged.latent);
    return status;
}
