/* Sums over the activations of a hook point, and the variance that comes of them. */
#include "refract/eval.h"

int64_t rf_site_sums_len(int64_t n_positions, int64_t width)
{
    return n_positions * (2 + width);
}

rf_site_sums rf_site_sums_bind(double *arena, int64_t n_positions, int64_t width)
{
    return (rf_site_sums){.n_positions = n_positions,
                          .width = width,
                          .count = arena,
                          .square = arena + n_positions,
                          .sum = arena + 2 * n_positions};
}

/* The sum of squares of x - shift, whose elements are added to `sum`. */
static double add_shifted(const float *x, const float *shift, int64_t width, double *sum)
{
    double square = 0;
    for (int64_t i = 0; i < width; i++) {
        const double d = (double)x[i] - (double)shift[i];
        sum[i] += d;
        square += d * d;
    }
    return square;
}

void rf_site_sums_add(const rf_site_sums *sums, const float *x, const float *shift,
                      const uint8_t *valid, int64_t n_pictures)
{
    for (int64_t b = 0; b < n_pictures; b++) {
        for (int64_t t = 0; valid[b] != 0 && t < sums->n_positions; t++) {
            const float *row = x + (b * sums->n_positions + t) * sums->width;
            sums->square[t] += add_shifted(row, shift, sums->width, sums->sum + t * sums->width);
            sums->count[t] += 1;
        }
    }
}

/* a - b of sums of squares; 0 when all that is left of it is rounding. */
static double difference(double a, double b)
{
    return a - b > 1e-13 * a ? a - b : 0;
}

void rf_site_sums_variance(const rf_site_sums *sums, rf_token_span span, double *about_mean,
                           double *about_position)
{
    const int64_t end = span.first + span.count;
    double n = 0, square = 0, mean_square = 0, positions_square = 0;

    for (int64_t t = span.first; t < end; t++) {
        n += sums->count[t];
        square += sums->square[t];
    }
    for (int64_t i = 0; i < sums->width; i++) {
        double total = 0;
        for (int64_t t = span.first; t < end; t++) {
            const double sum = sums->sum[t * sums->width + i];
            total += sum;
            positions_square += sums->count[t] > 0 ? sum * sum / sums->count[t] : 0;
        }
        mean_square += n > 0 ? total * total / n : 0;
    }
    *about_mean = difference(square, mean_square);
    *about_position = difference(square, positions_square);
}

void rf_site_sums_mean(const rf_site_sums *sums, rf_token_span span, const float *shift,
                       float *mean)
{
    for (int64_t i = 0; i < sums->width; i++) {
        double n = 0, total = 0;
        for (int64_t t = span.first; t < span.first + span.count; t++) {
            n += sums->count[t];
            total += sums->sum[t * sums->width + i];
        }
        mean[i] = n > 0 ? (float)((double)shift[i] + total / n) : 0.0F;
    }
}
