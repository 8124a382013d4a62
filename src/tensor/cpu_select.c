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

/* The k-th largest of a [n], 1 <= k <= n; a is reordered. */
static float kth_largest(float *a, int64_t n, int64_t k)
{
    int64_t l = 0, r = n - 1;
    while (l < r) {
        float pivot = a[(l + r) / 2];
        int64_t i = l, j = r;
        while (i <= j) {
            while (a[i] > pivot) {
                i++;
            }
            while (a[j] < pivot) {
                j--;
            }
            if (i <= j) {
                float t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        if (k - 1 <= j) {
            r = j;
        } else if (k - 1 >= i) {
            l = i;
        } else {
            break;
        }
    }
    return a[k - 1];
}

void rf_candidates_prune(rf_candidates *c, int64_t k, float *work)
{
    if (c->n <= k) {
        return;
    }
    memcpy(work, c->lo, sizeof(float) * (size_t)c->n);
    float kth = kth_largest(work, c->n, k);
    if (kth > c->threshold) {
        c->threshold = kth;
    }
    int64_t kept = 0, known = 0;
    for (int64_t i = 0; i < c->n; i++) {
        if (c->hi[i] >= c->threshold) {
            known += i < c->n_known;
            c->lo[kept] = c->lo[i];
            c->hi[kept] = c->hi[i];
            c->latent[kept++] = c->latent[i];
        }
    }
    c->n = kept;
    c->n_known = known;
}

/* Of the candidates, whose values are known, the k largest: those above the k-th value, and of
 * those equal to it the first (latents rise, so ties go to the smaller). */
static void keep_largest(rf_candidates *c, int64_t k, float *work)
{
    float kth = 0.0f;
    int64_t n_above = 0, n_equal = 0, kept = 0;
    if (c->n > k) {
        memcpy(work, c->lo, sizeof(float) * (size_t)c->n);
        kth = kth_largest(work, c->n, k);
        for (int64_t i = 0; i < c->n; i++) {
            n_above += c->lo[i] > kth;
        }
        n_equal = k - n_above;
    }
    for (int64_t i = 0; i < c->n; i++) {
        float v = c->lo[i];
        bool is_kept = v > kth;
        if (v == kth && v > 0.0f && n_equal > 0) {
            is_kept = true;
            n_equal--;
        }
        if (is_kept && v > 0.0f) {
            c->lo[kept] = c->hi[kept] = v;
            c->latent[kept++] = c->latent[i];
        }
    }
    c->n = c->n_known = kept;
}

void rf_candidates_settle(rf_candidates *c, int64_t k, const rf_exact *exact)
{
    int64_t first = c->n_known, n = c->n - first;
    rf_dot_rows(exact->x, exact->w, exact->w_stride, c->latent + first, n, exact->width,
                exact->work);
    for (int64_t i = 0; i < n; i++) {
        float v = exact->work[i] + exact->bias[c->latent[first + i]];
        c->lo[first + i] = c->hi[first + i] = v;
    }
    c->n_known = c->n;
    keep_largest(c, k, exact->work);
    if (c->n == k && k > 0) {
        float least = c->lo[0];
        for (int64_t i = 1; i < k; i++) {
            least = c->lo[i] < least ? c->lo[i] : least;
        }
        c->threshold = least > c->threshold ? least : c->threshold;
    }
}
