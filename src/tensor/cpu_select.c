/* The k largest of one row, found from bounds first and decided by canonical dots. */
#include "coder_ops_impl.h"

#include <string.h>

int64_t rf_candidates_soft_limit(int64_t k)
{
    return k + k / 2 + 32;
}

int64_t rf_candidates_room(int64_t k, int64_t tile)
{
    return rf_candidates_soft_limit(k) + tile;
}

enum { COUNT_AT_ONCE = 1 << 20 }; /* a count of 32 bits fills a vector better */

static int64_t count_from(const float *a, int64_t n, float t)
{
    int64_t total = 0;
    for (int64_t first = 0; first < n; first += COUNT_AT_ONCE) {
        int64_t last = rf_min_i64(first + COUNT_AT_ONCE, n);
        int32_t count = 0;
        for (int64_t i = first; i < last; i++) {
            count += a[i] >= t;
        }
        total += count;
    }
    return total;
}

/* Halves the interval of bit patterns, which order as positive floats do: passes without branches
 * beat a partial sort of so few numbers. */
float rf_threshold_of(const float *a, int64_t n, int64_t k, int64_t slack, float from)
{
    uint32_t low, high;
    float most = from;
    int64_t count = count_from(a, n, from);
    if (count < k) {
        return from;
    }
    for (int64_t i = 0; i < n; i++) {
        most = a[i] > most ? a[i] : most;
    }
    memcpy(&low, &from, sizeof low);
    memcpy(&high, &most, sizeof high);
    high++;
    while (count > k + slack && high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        float t;
        memcpy(&t, &middle, sizeof t);
        int64_t reach = count_from(a, n, t);
        if (reach >= k) {
            low = middle;
            count = reach;
        } else {
            high = middle;
        }
    }
    memcpy(&from, &low, sizeof from);
    return from;
}

void rf_candidates_prune(rf_candidates *c, int64_t k, int64_t slack)
{
    if (c->n <= k) {
        return;
    }
    c->threshold = rf_threshold_of(c->lo, c->n, k, slack, c->threshold);
    int64_t kept = 0, known = 0;
    for (int64_t i = 0; i < c->n; i++) { /* no branches: half of them would be guessed wrong */
        float lo = c->lo[i], hi = c->hi[i];
        int is_kept = hi >= c->threshold;
        c->lo[kept] = lo;
        c->hi[kept] = hi;
        c->latent[kept] = c->latent[i];
        kept += is_kept;
        known += is_kept & (i < c->n_known);
    }
    c->n = kept;
    c->n_known = known;
}

/* Of the candidates, whose values are known, the k largest > 0: those above the least value that k
 * reach, and of those equal to it the first (latents rise, so ties go to the smaller). */
void rf_candidates_keep(rf_candidates *c, int64_t k)
{
    float least = rf_threshold_of(c->lo, c->n, k, 0, rf_least_positive);
    int64_t n_above = 0, kept = 0;
    for (int64_t i = 0; i < c->n; i++) {
        n_above += c->lo[i] > least;
    }
    int64_t n_equal = k - n_above;
    for (int64_t i = 0; i < c->n; i++) {
        float v = c->lo[i];
        bool is_equal = v == least && n_equal > 0;
        n_equal -= is_equal;
        if (v > least || is_equal) {
            c->lo[kept] = c->hi[kept] = v;
            c->latent[kept++] = c->latent[i];
        }
    }
    c->n = c->n_known = kept;
    if (kept == k && least > c->threshold) {
        c->threshold = least;
    }
}

void rf_candidates_measure(rf_candidates *c, int64_t count, const rf_exact *exact)
{
    int64_t first = c->n_known, n = rf_min_i64(count, c->n - first);
    rf_dot_rows(exact->x, exact->w, exact->w_stride, c->latent + first, n, exact->width,
                exact->work);
    for (int64_t i = 0; i < n; i++) {
        float v = exact->work[i] + exact->bias[c->latent[first + i]];
        c->lo[first + i] = c->hi[first + i] = v;
    }
    c->n_known += n;
}
