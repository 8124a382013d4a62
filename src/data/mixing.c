/* How well batches are mixed: the entropy of the pictures that a batch's tokens are of. */
#include "refract/data.h"

#include <math.h>

/* E[k ln k] of the tokens that a batch of `n` has of one picture with `rows` tokens, when drawn
 * without replacement from those of `n_pictures`: k is hypergeometric. */
static double expected_k_ln_k(int64_t n_pictures, int64_t rows, int64_t n)
{
    const double all = (double)n_pictures * (double)rows, r = (double)rows, b = (double)n;
    const double ways = lgamma(all + 1) - lgamma(b + 1) - lgamma(all - b + 1);
    double sum = 0;
    for (int64_t i = 2; i <= rows && i <= n; i++) {
        const double k = (double)i;
        if (b - k > all - r) {
            continue; /* the other pictures have not so many tokens */
        }
        const double ln_p = lgamma(r + 1) - lgamma(k + 1) - lgamma(r - k + 1) +
                            lgamma(all - r + 1) - lgamma(b - k + 1) - lgamma(all - r - b + k + 1) -
                            ways;
        sum += exp(ln_p) * k * log(k);
    }
    return sum;
}

/* In nats: ln n less what equal pictures take away. */
static double batch_entropy(int64_t n_pictures, int64_t rows, int64_t n)
{
    return log((double)n) - (double)n_pictures / (double)n * expected_k_ln_k(n_pictures, rows, n);
}

double rf_batch_entropy_share(int64_t n_pictures, int64_t pool_pictures, int64_t rows,
                              int64_t batch_tokens)
{
    const int64_t n = rf_min_i64(batch_tokens, n_pictures * rows);
    /* A batch larger than a pool takes all of several. */
    const int64_t pool = rf_min_i64(n_pictures, rf_max_i64(pool_pictures, rf_ceil_div(n, rows)));
    const double ideal = batch_entropy(n_pictures, rows, n);
    return n < 2 || !(ideal > 0) ? 1.0 : batch_entropy(pool, rows, n) / ideal;
}
