/* Counts of codes by value, and codes cut at a value. */
#include "encode_impl.h"

#include <string.h>

static void count_values(const float *values, int64_t n, int32_t upper, int64_t *counts)
{
    for (int64_t e = 0; e < n; e++) {
        uint32_t bits;
        memcpy(&bits, &values[e], sizeof bits);
        if (upper < 0) {
            counts[bits >> 16]++;
        } else if (bits >> 16 == (uint32_t)upper) {
            counts[bits & 0xffff]++;
        }
    }
}

rf_status rf_cpu_codes_histogram(rf_stream *s, const rf_codes *codes, rf_class_rows rows,
                                 int32_t upper, int64_t *counts)
{
    (void)s;
    memset(counts, 0, sizeof *counts << 16);
    for (int64_t b = 0; b < codes->n_rows; b++) {
        int64_t first = codes->row_start[b];
        if (rf_class_has(rows, b)) {
            count_values(codes->value + first, codes->row_start[b + 1] - first, upper, counts);
        }
    }
    return RF_OK;
}

void rf_codes_cut(const rf_codes *from, rf_class_rows rows, float threshold, int64_t n_ties,
                  rf_codes *to)
{
    bool has_gradients = from->d_value != NULL && to->d_value != NULL;
    int64_t n = from->n_rows, first = from->row_start[0], kept = 0;
    to->row_start[0] = 0;
    for (int64_t b = 0; b < n; b++) {
        int64_t last = from->row_start[b + 1]; /* read before it is overwritten */
        bool is_cut = rf_class_has(rows, b);
        for (int64_t e = first; e < last; e++) {
            float v = from->value[e];
            bool is_tie = is_cut && v == threshold && n_ties > 0;
            if (is_cut && !(v > threshold) && !is_tie) {
                continue;
            }
            n_ties -= is_tie;
            to->latent[kept] = from->latent[e];
            to->value[kept] = v;
            if (has_gradients) {
                to->d_value[kept] = from->d_value[e];
            }
            kept++;
        }
        to->row_start[b + 1] = kept;
        first = last;
    }
    to->n_rows = n;
}

rf_status rf_cpu_codes_keep(rf_stream *s, rf_codes *codes, rf_class_rows rows, float threshold,
                            int64_t n_ties)
{
    (void)s;
    rf_codes_cut(codes, rows, threshold, n_ties, codes);
    return RF_OK;
}
