/* Gradients of one latent at a time, from the tokens that used it, in token order: no atomics, and
 * no trace of how the work was divided. */
#include "coder_ops_impl.h"

#include <string.h>

enum { GROUP = 256 }; /* entries whose weights are gathered at once */

/* Entries of latent `i` in list `l` into its three gradients. */
static void add_list(const rf_by_latent_args *args, int l, int64_t i, float *d_enc, float *d_bias,
                     float *d_dec)
{
    const rf_codes *codes = args->codes[l];
    const rf_latent_index *index = args->index[l];
    int64_t last = index->latent_start[i + 1];
    float value[GROUP], d_value[GROUP];
    for (int64_t first = index->latent_start[i]; first < last; first += GROUP) {
        int64_t n = rf_min_i64(GROUP, last - first);
        for (int64_t j = 0; j < n; j++) {
            value[j] = codes->value[index->entry[first + j]];
            d_value[j] = codes->d_value[index->entry[first + j]];
            *d_bias += d_value[j];
        }
        rf_cpu_add_rows(d_dec, args->d_w_dec.shape[1], args->g[l].data, args->g[l].stride[0],
                        index->row + first, value, n);
        rf_cpu_add_rows(d_enc, args->d_w_enc.shape[1], args->x.data, args->x.stride[0],
                        index->row + first, d_value, n);
    }
}

static double one_latent(const rf_by_latent_args *args, int64_t i)
{
    int64_t n_entries = 0, d_in = args->d_w_enc.shape[1], d_out = args->d_w_dec.shape[1];
    float *d_enc = rf_row_mut(&args->d_w_enc, i), *d_dec = rf_row_mut(&args->d_w_dec, i);
    float d_bias = 0.0f;
    double squares = 0.0;
    for (int l = 0; l < args->n_lists; l++) {
        n_entries += args->index[l]->latent_start[i + 1] - args->index[l]->latent_start[i];
    }
    if (n_entries > 0) {
        memset(d_enc, 0, sizeof(float) * (size_t)d_in);
        memset(d_dec, 0, sizeof(float) * (size_t)d_out);
        for (int l = 0; l < args->n_lists; l++) {
            add_list(args, l, i, d_enc, &d_bias, d_dec);
        }
        squares = (double)rf_dot(d_enc, d_enc, d_in) + (double)rf_dot(d_dec, d_dec, d_out) +
                  (double)d_bias * (double)d_bias;
    }
    ((float *)args->d_b_enc.data)[i] = d_bias;
    args->touched[i] = n_entries > 0;
    return squares;
}

rf_status rf_cpu_accumulate_by_latent(rf_stream *s, const rf_by_latent_args *args)
{
    rf_status status = RF_OK;
    int64_t n_latents = args->d_w_enc.shape[0];
    void *scratch;

    RF_TRY(rf_cpu_scratch(s, sizeof(double) * (size_t)n_latents, &scratch));
    double *squares = scratch;
#pragma omp parallel for schedule(dynamic, 64) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n_latents; i++) {
        squares[i] = one_latent(args, i);
    }
    *args->squares = 0.0;
    for (int64_t i = 0; i < n_latents; i++) {
        *args->squares += squares[i];
    }
fail:
    return status;
}
